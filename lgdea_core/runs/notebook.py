"""What a notebook begins with: parameters that it has, and its run."""

import ast
from collections.abc import Sequence

from IPython import get_ipython

from lgdea_core.config import RunConfig
from lgdea_core.runs.artifacts import Run, start_run

INJECTED = "# Parameters\n"
"""First line of the cell that papermill puts behind the one tagged `parameters`."""


def open_notebook(name: str | None, preset: str | None, **changes: object) -> Run:
    """The run of a notebook, see `artifacts.start_run`, of a preset with some fields changed.

    Args:
        name: folder in `data/runs`; None takes the one that follows from the configuration.
        preset: see `RunConfig.from_preset`, as for `changes`.

    Raises:
        ValueError: papermill set a parameter that the notebook lacks, or a value is refused.
    """
    check_parameters()
    return start_run(RunConfig.from_preset(preset, **changes), name)


def check_parameters(cells: Sequence[str] | None = None) -> None:
    """Refuse what papermill set and the notebook has no parameter for: it would be ignored.

    Args:
        cells: sources of the cells that ran so far; None asks the notebook's kernel.

    Raises:
        ValueError: names the unknown parameters and those there are.
    """
    if cells is None:
        shell = get_ipython()
        cells = shell.user_ns["In"] if shell is not None else []
    for place, cell in enumerate(cells):
        if cell.startswith(INJECTED):
            known = _assigned(cells[place - 1])
            if unknown := [name for name in _assigned(cell) if name not in known]:
                raise ValueError(f"no parameter is called {', '.join(unknown)}; there are: {', '.join(known)}")


def _assigned(cell: str) -> list[str]:
    lines = [line for line in ast.parse(cell).body if isinstance(line, ast.Assign | ast.AnnAssign)]
    targets = [line.target if isinstance(line, ast.AnnAssign) else line.targets[0] for line in lines]
    return [target.id for target in targets if isinstance(target, ast.Name)]
