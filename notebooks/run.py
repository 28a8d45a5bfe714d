"""Run the notebooks headless and in order: python notebooks/run.py --preset demo [--corpus openi] [-p seed 1]."""

import argparse
import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

# Notebooks need no check of internationalised links, whose grammar takes jsonschema seconds to build at import.
sys.modules.setdefault("rfc3987_syntax", None)

import pandas as pd  # noqa: E402
import papermill  # noqa: E402
import psutil  # noqa: E402
from papermill.exceptions import PapermillExecutionError  # noqa: E402
from papermill.iorw import LocalHandler, papermill_io  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lgdea_core.command import Command, ending_mistakes  # noqa: E402
from lgdea_core.config import PRESETS, RunConfig  # noqa: E402
from lgdea_core.paths import (  # noqa: E402
    HOLDER_VARIABLE,
    LOCK_FILE,
    FolderHeld,
    git_commit,
    holding,
    read_json,
    runs_folder,
    sweep,
    write_text,
)
from lgdea_core.runs.artifacts import FIGURES_VARIABLE, check_run_name, default_run_name, plain_name  # noqa: E402

CONFIG_FIELDS = {"corpus": "corpus", "data": "root"} | {
    name: name for name in ("method", "model_start", "tuning", "seed", "paired_ratio")
}
"""notebook parameter -> field of the configuration: the ones every notebook has, besides `preset` and `run`"""

STOPS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
"""Signals that ask to end: from the keyboard, `timeout` or a scheduler, and a terminal that is closed."""
GRACE, SAVING = 3.0, 30.0
"""Seconds that a kernel has to end after them, and one that trains: it ends its step and saves its checkpoint."""
END_WITH_PARENT = "__import__('ctypes').CDLL(None).prctl(1, 9)" if sys.platform == "linux" else ""
"""What a kernel begins with: PR_SET_PDEATHSIG, SIGKILL. Elsewhere its own poll ends it, within a second."""

SPAWN = multiprocessing.get_context("spawn")

Parameters = dict[str, Any]
Declared = dict[Path, dict[str, str]]
"""notebook -> name and annotation of each of its parameters"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run that the command line asks for."""

    name: str
    parameters: Parameters
    swept: Parameters
    """those that differ from run to run"""


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
    process writes into, exits with 2. A sweep goes on after a run that fails, and ends with the table of all.
    """
    parser = command_line()
    options = parser.parse_args(arguments)
    with ending_mistakes(parser):
        declared = {path: declared_parameters(path) for path in select_notebooks(folder, options.notebooks)}
        jobs = plan(options, declared)
        with noting_signals() as stops:
            if options.sweep:
                errors = run_sweep(jobs, declared, options.jobs, stops)
                names = "-".join(name for name in jobs[0].swept)
                path = runs_folder() / f"{plain_name(options.run or 'sweep')}-{names}.csv"
                table = joined_table(jobs, errors)
                write_text(path, table.to_csv(index=False, lineterminator="\n"))
                print(f"{table.to_string(index=False)}\n{path}", flush=True)
                done = not any(errors.values()) and len(errors) == len(jobs)
            else:
                done = run_all(jobs[0], declared, stops) is None
    return 128 + stops[0] if stops else 0 if done else 1


def command_line() -> Command:
    parser = Command(prog="run.py", description="Run the notebooks headless and in order.")
    parser.add_argument("--preset", help=f"{', '.join(PRESETS)}; default: LGDEA_PRESET, else demo")
    line = "name of the folder in data/runs; default: <method>-<preset>-<seed>, and what else is unusual"
    parser.add_argument("--run", help=line)
    parser.add_argument("--corpus", help="corpus, or PAIRS+IMAGES+REPORTS; default: the preset's")
    parser.add_argument("--data", help="folder with one sub-folder per corpus; default: LGDEA_DATA")
    parser.add_argument("--notebooks", help="numbers to run, such as 01,02; default: all")
    parser.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="set a parameter of the notebooks that have it; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="NAME=V1,V2",
        help="one run per value; repeated: one run per combination. Figures go to each run's own folder",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="runs of a sweep side by side; they share the cores")
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
    """Name and annotation ("None" without one) of each parameter that papermill finds in a notebook.

    Raises:
        ValueError: it finds none.
    """
    found = papermill.inspect_notebook(str(path))
    if not found:
        raise ValueError(f"{path.name}: expected a cell tagged `parameters`, got none; tag the cell of dials")
    return {name: parameter["inferred_type_name"] for name, parameter in found.items()}


def plan(options: argparse.Namespace, declared: Declared) -> list[Job]:
    """Every run that the command line asks for.

    Raises:
        ValueError: an unknown parameter, preset or value, or a name that is not a plain one.
    """
    if options.jobs < 1 or (options.jobs > 1 and not options.sweep):
        raise ValueError(f"--jobs: expected 1 or more runs of a --sweep side by side, got {options.jobs}")
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
        if os.path.isdir(start := parameters.get("model_start") or ""):
            parameters["model_start"] = str(Path(start).resolve())  # notebooks run in another folder
        changes = {field: parameters[name] for name, field in CONFIG_FIELDS.items() if name in parameters}
        config = RunConfig.from_preset(parameters.get("preset"), **changes)
        parameters |= data_folder(config.data.corpus, parameters.get("data")) | {"preset": config.preset}
        suffix = plain_name("".join(f"-{name}-{value}" for name, value in swept))
        runs.append((parameters.get("run") or default_run_name(config), suffix, parameters, dict(swept)))
    distinct = len({name for name, *_ in runs}) == len(runs)
    names = [check_run_name(name if distinct else name + suffix) for name, suffix, _, _ in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"--sweep: two runs would be called {names[0]!r}; give values that differ in their letters")
    return [
        Job(name=name, parameters=parameters | {"run": name}, swept=swept)
        for name, (_, _, parameters, swept) in zip(names, runs, strict=True)
    ]


def parse_value(name: str, text: str, annotations: dict[str, str]) -> Any:
    """A command line's text as the type that the parameters cell declares.

    Raises:
        ValueError: no chosen notebook has such a parameter, or the text is no such value.
    """
    if name not in annotations:
        known = ", ".join(sorted(annotations))
        raise ValueError(f"no parameter is called {name!r}; the chosen notebooks have: {known}")
    free = annotations[name] == "None"
    kinds = ["int", "float", "str"] if free else re.findall(r"\w+", annotations[name])
    if text in ("None", "True", "False") and {"None": "Optional"}.get(text, "bool") in kinds:
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


def run_sweep(jobs: Sequence[Job], declared: Declared, at_once: int, stops: list[int]) -> dict[str, str | None]:
    """Every job in a process of its own, some at once; what went wrong by the name of each run that was begun.

    Signals go on to those that run, which save what they can resume from; no further one is begun.
    """
    waiting, running, errors, told = list(jobs), {}, {}, 0
    threads = max(1, (os.cpu_count() or 1) // at_once)
    while running or (waiting and not stops):
        while waiting and len(running) < at_once and not stops:
            job = waiting.pop(0)
            receiver, sender = SPAWN.Pipe(duplex=False)
            process = SPAWN.Process(target=work, args=(job, declared, threads, sender))
            process.start()
            sender.close()  # so that it ends with the process
            running[receiver] = (job.name, process)
        for receiver in wait(list(running), timeout=0.2):
            name, process = running.pop(receiver)
            try:
                errors[name] = receiver.recv()
            except EOFError:
                process.join()
                errors[name] = f"its process ended with status {process.exitcode}"
            print(f"{name}: {errors[name] or 'done'}; {len(errors)} of {len(jobs)} runs", flush=True)
        for number in stops[told:]:
            for _, process in running.values():
                os.kill(process.pid, number)
        told = len(stops)
    return errors


def work(job: Job, declared: Declared, threads: int, sender: Connection) -> None:
    """One run of a sweep, in its process: what went wrong goes to the parent, with which it ends."""
    os.setsid()  # an interrupt from the keyboard reaches the parent alone, which passes it on
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ[FIGURES_VARIABLE] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with noting_signals() as stops:
        try:
            sender.send(run_all(job, declared, stops, resume=True))
        except (ValueError, OSError, FolderHeld) as error:
            sender.send(str(error))
    os._exit(0)  # at once: the thread of a kernel that was killed may wait yet


def end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def joined_table(jobs: Sequence[Job], errors: dict[str, str | None]) -> pd.DataFrame:
    """One row a run and variant: what was swept, what went wrong, and the headlines of notebook 05 where it ran."""
    from lgdea_core.evaluation.harness import headlines

    rows = []
    for job in jobs:
        row = {"run": job.name} | job.swept | {"error": errors.get(job.name, "not begun") or ""}
        path = runs_folder() / job.name / "metrics.json"
        metrics = read_json(path) if path.is_file() and not row["error"] else {}
        tables = {name: pd.DataFrame(values) for name, values in metrics.items() if values}
        if not tables:
            rows.append(row)
            continue
        scored = headlines(pd.concat(tables, names=["variant"]).reset_index("variant")).dropna(subset=["estimate"])
        wide = scored.astype({"estimate": float}).pivot_table("estimate", "method", "metric", sort=False).round(4)
        rows += [row | {"variant": name} | dict(values) for name, values in wide.iterrows()]
    return pd.DataFrame(rows)


def run_all(job: Job, declared: Declared, stops: list[int], resume: bool = False) -> str | None:
    """Execute notebooks one after the other until one fails; copies and `timing.json` go into the run's folder.

    Args:
        job: name and parameters.
        declared: the notebooks, in order.
        stops: signals that came.
        resume: leave out what this same notebook, with these parameters and by this code, has done there before.

    Returns:
        What went wrong, or None.

    Raises:
        FolderHeld: another process writes into the run.
    """
    run = (runs_folder() / job.name).resolve()
    copies, timing = run / "notebooks", run / "timing.json"
    with holding(run), contextlib.ExitStack() as after:
        sweep(run)
        copies.mkdir(exist_ok=True)
        os.environ[HOLDER_VARIABLE] = str(run)  # the kernels write for this process
        after.callback(os.environ.pop, HOLDER_VARIABLE)
        outcomes = read_json(timing) if timing.is_file() else {}
        for place, (path, known) in enumerate(declared.items(), start=1):
            if stops:
                return stopped_by(stops)
            own = {key: value for key, value in job.parameters.items() if key in known}
            says, made_by = f"{job.name} [{place}/{len(declared)}] {path.name}", origin_of(path, own)
            before = outcomes.get(path.stem, {})
            if resume and before.get("made_by") == made_by and not before["error"] and "-dirty" not in made_by:
                print(f"{says}: done before", flush=True)
                continue
            print(says, flush=True)
            outcome = execute(path, copies / path.name, own, stops)
            outcomes[path.stem] = asdict(outcome) | {"made_by": made_by}
            write_text(timing, json.dumps(dict(sorted(outcomes.items())), indent=2) + "\n")
            if outcome.error:
                error = f"{path.name}: {outcome.error}"
                print(f"{error}\nexecuted copy: {copies / path.name}", file=sys.stderr, flush=True)
                return error
            print(f"{says}: {outcome.seconds:.0f} s, peak {outcome.peak_mb:.0f} MB", flush=True)
        print(f"run {job.name}: executed copies in {copies}, seconds and memory in {timing}", flush=True)
    return None


def origin_of(path: Path, parameters: Parameters) -> str:
    """Checksum of a notebook with its parameters, and the code's commit ("-dirty" where it was changed since)."""
    text = path.read_text(encoding="utf-8") + json.dumps(parameters, sort_keys=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()} {git_commit(ROOT)}"


def stopped_by(stops: list[int]) -> str:
    return f"stopped by {signal.Signals(stops[0]).name}; the same command goes on where it stood"


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
    papermill_io.register(str(copy), WholeFiles())
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin slow down all others on a busy machine
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
        error = stopped_by(stops)
    return Outcome(seconds=round(time.monotonic() - start, 1), peak_mb=round(peak), error=error)


def trains(run: Path) -> bool:
    """Whether a training of the run holds its folder."""
    return any((run / "training").glob(f"*/{LOCK_FILE}"))


def run_notebook(source: Path, copy: Path, parameters: Parameters, errors: list[str]) -> None:
    """Execute one notebook by papermill, and note the error if there is one."""
    try:
        papermill.execute_notebook(
            source, copy, parameters, kernel_name="python3", cwd=ROOT,
            progress_bar=sys.stderr.isatty() and multiprocessing.parent_process() is None,
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
