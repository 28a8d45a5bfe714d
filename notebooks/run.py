"""Run the notebooks headless and in order: python notebooks/run.py --preset demo [--corpus openi] [-p seed 1]."""

import argparse
import ast
import contextlib
import itertools
import json
import logging
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import load_notebook_node

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lgdea_core.config import PRESETS, RunConfig  # noqa: E402
from lgdea_core.paths import runs_folder  # noqa: E402
from lgdea_core.runs.artifacts import default_run_name  # noqa: E402

CONFIG_FIELDS = {"corpus": "corpus", "data": "root"} | {name: name for name in ("method", "seed", "paired_ratio")}
"""notebook parameter -> field of the configuration: the ones every notebook has, besides `preset` and `run`"""

Parameters = dict[str, Any]
Declared = dict[Path, dict[str, str]]
"""notebook -> name and annotation of each of its parameters"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one notebook."""

    seconds: float
    peak_mb: float
    """largest resident memory of the kernel"""
    error: str | None = None
    """cell and error, or None where all went well"""


def main(arguments: Sequence[str] | None = None, folder: Path = ROOT / "notebooks") -> int:
    """Run what the command line asks for; 0 where every notebook went well, 1 otherwise.

    Everything that can be checked is checked before the first notebook starts; a wrong argument exits with 2.
    """
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        declared = {path: declared_parameters(path) for path in select_notebooks(folder, options.notebooks)}
        jobs = plan(options, declared)
    except ValueError as error:
        parser.error(str(error))
    return 0 if all(run_all(name, parameters, declared) for name, parameters in jobs) else 1


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Run the notebooks headless and in order.")
    parser.add_argument("--preset", help=f"{', '.join(PRESETS)}; default: LGDEA_PRESET, else demo")
    parser.add_argument("--run", help="name of the folder in data/runs; default: <method>-<preset>-<seed>[-<corpus>]")
    parser.add_argument("--corpus", help="corpus, or PAIRS+IMAGES+REPORTS; default: the preset's")
    parser.add_argument("--data", help="folder with one sub-folder per corpus; default: LGDEA_DATA")
    parser.add_argument("--notebooks", help="numbers to run, such as 01,02; default: all")
    parser.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="set a parameter of the notebooks that have it; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="NAME=V1,V2",
        help="one run per value; repeated: one run per combination",
    )  # fmt: skip
    return parser


def select_notebooks(folder: Path, numbers: str | None = None) -> list[Path]:
    """The numbered notebooks of a folder in order, or those of them with the given numbers ("01,02")."""
    known = {path.name[:2]: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    if not known:
        raise ValueError(f"no numbered notebooks in {folder}")
    chosen = [number.strip().zfill(2) for number in numbers.split(",")] if numbers else list(known)
    unknown = [number for number in chosen if number not in known]
    if unknown:
        raise ValueError(f"no notebook has the number {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[number] for number in sorted(set(chosen))]


def declared_parameters(path: Path) -> dict[str, str]:
    """Name and annotation ("" without one) of each assignment in a notebook's cell tagged `parameters`.

    `papermill.inspect_notebook` does not see `name: str | None = None`, so the cell is parsed here.

    Raises:
        ValueError: no cell, or more than one, has the tag.
    """
    cells = [c for c in load_notebook_node(str(path)).cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{path.name}: expected one cell tagged `parameters`, got {len(cells)}; tag the cell of dials")
    found = {}
    for line in ast.parse(cells[0].source).body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            found[line.target.id] = ast.unparse(line.annotation)
        elif isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            found[line.targets[0].id] = ""
    return found


def plan(options: argparse.Namespace, declared: Declared) -> list[tuple[str, Parameters]]:
    """Run name and parameters of every run that the command line asks for.

    Raises:
        ValueError: an unknown parameter, preset or value.
    """
    annotations = {name: kind for parameters in declared.values() for name, kind in parameters.items()}
    given = [(name, getattr(options, name)) for name in ("preset", "run", "corpus", "data")]
    texts = [(name, text) for name, text in given if text is not None] + [tuple(pair) for pair in options.parameters]
    fixed = {name: parse_value(name, text, annotations) for name, text in texts}
    sweeps = []
    for text in options.sweep:
        name, _, values = text.partition("=")
        if not values:
            raise ValueError(f"--sweep: expected NAME=V1,V2, got {text!r}")
        sweeps.append([(name, parse_value(name, value, annotations)) for value in dict.fromkeys(values.split(","))])
    runs = []
    for swept in itertools.product(*sweeps):
        parameters = fixed | dict(swept)
        changes = {field: parameters[name] for name, field in CONFIG_FIELDS.items() if name in parameters}
        config = RunConfig.from_preset(parameters.get("preset"), **changes)  # the notebooks make the same one
        parameters |= data_folder(config.data.corpus, parameters.get("data")) | {"preset": config.preset}
        suffix = "".join(f"-{name}-{value}" for name, value in swept)
        runs.append((parameters.get("run") or default_run_name(config), suffix, parameters))
    distinct = len({name for name, _, _ in runs}) == len(runs)
    named = [(name if distinct else name + suffix, parameters) for name, suffix, parameters in runs]
    return [(name, parameters | {"run": name}) for name, parameters in named]


def parse_value(name: str, text: str, annotations: dict[str, str]) -> Any:
    """A command line's text as the type that the parameters cell declares.

    Raises:
        ValueError: no chosen notebook has such a parameter, or the text is no such value.
    """
    if name not in annotations:
        known = ", ".join(sorted(annotations))
        raise ValueError(f"no parameter is called {name!r}; the chosen notebooks have: {known}")
    kinds = annotations[name].replace(" ", "").split("|") if annotations[name] else ["int", "float", "str"]
    if text in ("None", "True", "False") and {"None": "None"}.get(text, "bool") in kinds:
        return {"None": None, "True": True, "False": False}[text]
    for kind in (int, float, str):
        if kind.__name__ in kinds:
            with contextlib.suppress(ValueError):
                return kind(text)
    raise ValueError(f"parameter {name}: expected {annotations[name]}, got {text!r}")


def data_folder(corpus: str, data: str | None) -> Parameters:
    """Parameter `data`, absolute; a real corpus without one takes LGDEA_DATA, the phantom needs none."""
    if corpus == "phantom" and data is None:
        return {}
    data = data or os.environ.get("LGDEA_DATA")
    if not data:
        where = "the folder that has one sub-folder per corpus: --data, or LGDEA_DATA"
        raise ValueError(f"corpus {corpus!r} needs {where}")
    folder = Path(data).expanduser().resolve()  # notebooks run in another folder
    if not folder.is_dir():
        raise ValueError(f"data: no folder at {folder}; give the one that has one sub-folder per corpus")
    return {"data": str(folder)}


def run_all(name: str, parameters: Parameters, declared: Declared) -> bool:
    """Execute notebooks one after the other until one fails; copies and `timing.json` go into the run's folder."""
    run = runs_folder() / name
    copies, timing = run / "notebooks", run / "timing.json"
    copies.mkdir(parents=True, exist_ok=True)
    for place, (path, known) in enumerate(declared.items(), start=1):
        print(f"[{place}/{len(declared)}] {path.name}  run {name}", flush=True)
        own = {key: value for key, value in parameters.items() if key in known}
        outcome = execute_apart(path, copies / path.name, own)
        outcomes = json.loads(timing.read_text()) if timing.is_file() else {}
        outcomes[path.stem] = asdict(outcome)
        timing.write_text(json.dumps(dict(sorted(outcomes.items())), indent=2) + "\n")
        if outcome.error:
            print(f"{path.name}: {outcome.error}\nexecuted copy: {copies / path.name}", file=sys.stderr, flush=True)
            return False
        print(f"      {outcome.seconds:.0f} s, peak {outcome.peak_mb:.0f} MB", flush=True)
    print(f"run {name}: executed copies in {copies}, seconds and memory in {timing}", flush=True)
    return True


def execute_apart(source: Path, copy: Path, parameters: Parameters) -> Outcome:
    """`execute` in a process of its own, whose only child is the kernel: so its peak memory is the kernel's."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(execute, source, copy, parameters).result()
        except BrokenProcessPool:
            return Outcome(seconds=0, peak_mb=0, error="the process that ran it was killed; is there enough memory?")


def execute(source: Path, copy: Path, parameters: Parameters) -> Outcome:
    """Execute one notebook from the repository's root; the copy is written cell by cell, whatever happens."""
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it calls parameters it cannot parse unknown
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    start, error = time.monotonic(), None
    try:
        papermill.execute_notebook(
            source, copy, parameters, kernel_name="python3", cwd=ROOT, progress_bar=sys.stderr.isatty()
        )
    except PapermillExecutionError as failure:
        error = f"cell {failure.exec_count}: {failure.ename}: {failure.evalue}"
    except Exception as failure:  # such as a kernel that dies: the caller reports it and stops
        error = f"{type(failure).__name__}: {failure}"
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    return Outcome(seconds=round(time.monotonic() - start, 1), peak_mb=round(peak), error=error)


if __name__ == "__main__":
    raise SystemExit(main())
