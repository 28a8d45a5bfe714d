"""What a notebook begins with: its parameters checked, its run, and by one import what it needs of the rooms below."""

import ast
import os
from collections.abc import Sequence
from pathlib import Path

from IPython import get_ipython

from lgdea_core.config import RunConfig, replace_fields
from lgdea_core.data.images import read_image
from lgdea_core.data.pairing import shuffle_pairs, write_split
from lgdea_core.evidence.extract import extract_evidence, make_extractor
from lgdea_core.evidence.triplets import triplets
from lgdea_core.grounding import load
from lgdea_core.method import mean_phrases, total_loss
from lgdea_core.paths import DATA_VARIABLE
from lgdea_core.relations import graph_relations
from lgdea_core.runs.artifacts import Run, start_run
from lgdea_core.runs.inputs import fresh_model, hidden_truth, load_inputs, top_relations
from lgdea_core.runs.lesson import first_step, kinds_of_relations, quality_table, train_both_ways
from lgdea_core.runs.variants import (
    SHUFFLED_REGIONS,
    VARIANTS,
    load_warm,
    save_trained,
    save_warm,
    short_asg_config,
    train_variant,
)
from lgdea_core.training import refresh

__all__ = [
    "SHUFFLED_REGIONS",
    "VARIANTS",
    "begin",
    "check_parameters",
    "data_folder",
    "extract_evidence",
    "first_step",
    "fresh_model",
    "graph_relations",
    "hidden_truth",
    "kinds_of_relations",
    "load",
    "load_inputs",
    "load_warm",
    "make_extractor",
    "mean_phrases",
    "quality_table",
    "read_image",
    "refresh",
    "replace_fields",
    "save_trained",
    "save_warm",
    "short_asg_config",
    "shuffle_pairs",
    "start_run",
    "top_relations",
    "total_loss",
    "train_both_ways",
    "train_variant",
    "triplets",
    "write_split",
]

INJECTED = "# Parameters\n"
"""First line of the cell that papermill puts behind the one tagged `parameters`."""


def begin(name: str | None, preset: str | None, **changes: object) -> Run:
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


def data_folder(config: RunConfig) -> Path | None:
    """The folder with one sub-folder per corpus, where a run or the environment names one."""
    root = config.data.root or os.environ.get(DATA_VARIABLE)
    return Path(root) if root else None
