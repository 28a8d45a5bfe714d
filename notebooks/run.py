"""Run the notebooks headless and in order: python notebooks/run.py --preset demo [--corpus openi] [-p seed 1]."""

import argparse
import ast
import contextlib
import itertools
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Notebooks need no check of internationalised links, whose grammar takes jsonschema seconds to build at import.
sys.modules.setdefault("rfc3987_syntax", None)

import papermill  # noqa: E402
import psutil  # noqa: E402
from papermill.exceptions import PapermillExecutionError  # noqa: E402
from papermill.iorw import LocalHandler, load_notebook_node, papermill_io  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lgdea_core.command import Command, ending_mistakes  # noqa: E402
from lgdea_core.config import PRESETS, RunConfig  # noqa: E402
from lgdea_core.paths import HOLDER_VARIABLE, LOCK_FILE, holding, runs_folder, sweep, write_text  # noqa: E402
from lgdea_core.runs.artifacts import check_run_name, default_run_name, plain_name  # noqa: E402

CONFIG_FIELDS = {"corpus": "corpus", "data": "root"} | {name: name for name in ("method", "seed", "paired_ratio")}
"""notebook parameter -> field of the configuration: the ones every notebook has, besides `preset` and `run`"""

STOPS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
"""Signals that ask to end: from the keyboard, `timeout` or a scheduler, and a terminal that is closed."""
GRACE, SAVING = 3.0, 30.0
"""Seconds that a kernel has to end after them, and one that trains: it ends its step and saves its checkpoint."""
END_WITH_PARENT = "__import__('ctypes').CDLL(None).prctl(1, 9)" if sys.platform == "linux" else ""
"""What a kernel begins with: PR_SET_PDEATHSIG, SIGKILL. Elsewhere its own poll ends it, within a second."""

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
    """Run what the command line asks for; 0 where every notebook went well, 128 + n after signal n, 1 otherwise.

    Everything that can be checked is checked before the first notebook starts; a wrong argument, or a run that another
    process writes into, exits with 2.
    """
    parser = command_line()
    options = parser.parse_args(arguments)
    with ending_mistakes(parser):
        declared = {path: declared_parameters(path) for path in select_notebooks(folder, options.notebooks)}
        jobs = plan(options, declared)
        with noting_signals() as stops:
            done = all(run_all(name, parameters, declared, stops) for name, parameters in jobs)
    return 128 + stops[0] if stops else 0 if done else 1


def command_line() -> Command:
    parser = Command(prog="run.py", description="Run the notebooks headless and in order.")
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
        ValueError: an unknown parameter, preset or value, or a name that is not a plain one.
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
        suffix = plain_name("".join(f"-{name}-{value}" for name, value in swept))
        runs.append((parameters.get("run") or default_run_name(config), suffix, parameters))
    distinct = len({name for name, _, _ in runs}) == len(runs)
    named = [(check_run_name(name if distinct else name + suffix), values) for name, suffix, values in runs]
    if len(dict(named)) < len(named):
        raise ValueError(f"--sweep: two runs would be called {named[0][0]!r}; give values that differ in their letters")
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


def run_all(name: str, parameters: Parameters, declared: Declared, stops: list[int]) -> bool:
    """Execute notebooks one after the other until one fails; copies and `timing.json` go into the run's folder.

    Raises:
        FolderHeld: another process writes into the run.
    """
    run = (runs_folder() / name).resolve()
    copies, timing = run / "notebooks", run / "timing.json"
    with holding(run), contextlib.ExitStack() as after:
        sweep(run)
        copies.mkdir(exist_ok=True)
        os.environ[HOLDER_VARIABLE] = str(run)  # the kernels write for this process
        after.callback(os.environ.pop, HOLDER_VARIABLE)
        for place, (path, known) in enumerate(declared.items(), start=1):
            if stops:
                return False
            print(f"[{place}/{len(declared)}] {path.name}  run {name}", flush=True)
            own = {key: value for key, value in parameters.items() if key in known}
            outcome = execute(path, copies / path.name, own, stops)
            outcomes = json.loads(timing.read_text()) if timing.is_file() else {}
            outcomes[path.stem] = asdict(outcome)
            write_text(timing, json.dumps(dict(sorted(outcomes.items())), indent=2) + "\n")
            if outcome.error:
                print(f"{path.name}: {outcome.error}\nexecuted copy: {copies / path.name}", file=sys.stderr, flush=True)
                return False
            print(f"      {outcome.seconds:.0f} s, peak {outcome.peak_mb:.0f} MB", flush=True)
        print(f"run {name}: executed copies in {copies}, seconds and memory in {timing}", flush=True)
    return True


@contextlib.contextmanager
def noting_signals() -> Iterator[list[int]]:
    """Until the block ends, signals that ask this process to end are noted in the list, in place of ending it.

    A closed terminal is nothing to one that `nohup` started.
    """
    stops: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return
    heard = [number for number in STOPS if number in STOPS[:2] or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: stops.append(number)) for number in heard}
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def execute(source: Path, copy: Path, parameters: Parameters, stops: list[int]) -> Outcome:
    """Execute one notebook from the repository's root; the copy is written cell by cell, whatever happens.

    Papermill works in a thread of its own, so that this one hears signals. One that asks to end interrupts the cell: a
    training saves what it can resume from, and the copy says where it stopped. What is still there after `GRACE`
    seconds (`SAVING` where it trains), or at the second signal, is killed. Where this process is killed itself, its
    kernel ends with it.
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it calls parameters it cannot parse unknown
    papermill_io.register(str(copy), WholeFiles())
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    start, errors = time.monotonic(), []
    thread = threading.Thread(target=run_notebook, args=(source, copy, parameters, errors), daemon=True)
    thread.start()
    peak, asked_at = 0.0, None
    while thread.is_alive():
        thread.join(0.1 if stops else 0.5)
        kernels = psutil.Process().children()
        peak = max([peak, *map(peak_mb, kernels)])
        if not stops:
            continue
        if asked_at is None:
            asked_at = time.monotonic()
            tell(kernels, signal.SIGINT)
        elif len(stops) > 1 or time.monotonic() - asked_at > (SAVING if trains(copy.parents[1]) else GRACE):
            tell(kernels, signal.SIGKILL)
            thread.join(1.5)  # the copy is saved
            break
    error = errors[0] if errors else None
    if stops:
        error = f"stopped by {signal.Signals(stops[0]).name}; the same command goes on where it stood"
    return Outcome(seconds=round(time.monotonic() - start, 1), peak_mb=round(peak), error=error)


def trains(run: Path) -> bool:
    """Whether a training of the run holds its folder."""
    return any((run / "training").glob(f"*/{LOCK_FILE}"))


def run_notebook(source: Path, copy: Path, parameters: Parameters, errors: list[str]) -> None:
    """Execute one notebook by papermill, and note the error if there is one."""
    try:
        papermill.execute_notebook(
            source, copy, parameters, kernel_name="python3", cwd=ROOT, progress_bar=sys.stderr.isatty(),
            extra_arguments=[f"--IPKernelApp.exec_lines={END_WITH_PARENT}"], shutdown_kernel="immediate",
        )  # fmt: skip
    except PapermillExecutionError as failure:
        errors.append(f"cell {failure.exec_count}: {failure.ename}: {failure.evalue}")
    except Exception as failure:  # such as a kernel that dies: the caller reports it and stops
        errors.append(f"{type(failure).__name__}: {failure}")


class WholeFiles(LocalHandler):
    """How papermill writes the executed copy: replaced whole after each cell."""

    def write(self, buf: str, path: str) -> None:
        write_text(Path(path), buf)


def tell(processes: list[psutil.Process], number: int) -> None:
    """Send a signal to processes, each of which leads a session of its own, and to those they started."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def peak_mb(process: psutil.Process) -> float:
    """Largest resident memory of a process so far; where the system does not keep it, the present one."""
    status = Path(f"/proc/{process.pid}/status")
    with contextlib.suppress(psutil.Error, OSError, IndexError):
        if status.is_file():
            return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
        return process.memory_info().rss / 1024**2
    return 0.0


if __name__ == "__main__":
    status = main()
    if status > 128:
        os._exit(status)  # at once: the thread of a kernel that was killed may wait yet
    raise SystemExit(status)
