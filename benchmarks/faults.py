"""Faults on purpose, on this machine alone: notebooks killed at random moments, and a chat server that misbehaves.

Kills. For each method a reference run on preset ci goes through the notebooks undisturbed; its folder is kept as it was
before each of them. From there `run.py` is started on that notebook and ended at a random moment by a signal, to
`run.py` alone or to its group; the same command is given again, ended again, and so on; the last one ends in peace.
Counted are the processes that are still there five seconds after a signal (orphans), whether the last command needs a
repair by hand (it does not end with 0), and the files of the run that differ by a bit from the reference's.
`timing.json` and the executed copies hold times and are left out.

Servers. Reports are extracted by `openai:m` from a server on this machine that answers every third question wrongly in
one of the ways of `tests/servers.py`; the extracting process is killed twice on the way. Counted are reports lost,
wrongly accepted, and asked again although they were answered before, but for those in flight at a kill.

Rows are appended to `faults_kills.csv` and `faults_servers.csv` beside this file as they come; the same command goes on
with those that are missing.

    python benchmarks/faults.py --kills 63 --reports 2000
    python -m lgdea_core.experiments docs                  brings the tables of docs/faults.md up to date
"""

import argparse
import csv
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from lgdea_core.paths import checksum  # noqa: E402

ROWS = {name: Path(__file__).with_name(f"faults_{name}.csv") for name in ("kills", "servers")}
METHODS = ("lgdea", "asg", "gloria")
NOTEBOOKS = ("01", "02", "03", "04", "05", "06", "07")
CHAIN = 3
"""Kills of one notebook, one after the other."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ORPHAN_AFTER = 5.0
"""Seconds that all processes of a run have to end after the signal."""
PASSING = ("429", "500", "503", "half a JSON", "half a body", "closed", "a web page")
"""What the server does instead of answering, once for a report."""


def main() -> None:
    """Run what is asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, help="63: three of each notebook of three methods")
    parser.add_argument("--reports", type=int, default=0, help="how many go to the server that misbehaves")
    parser.add_argument("--minutes", type=float, default=90, help="no notebook is begun later than that (default: 90)")
    parser.add_argument("--work", type=Path, help="folder of the runs, kept (default: a temporary one)")
    options = parser.parse_args()
    # Started in the background, a process ignores SIGINT, and its children with it. Those here are to be ended by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        if options.reports:
            note("servers", disturbed_extraction(work, options.reports))
        end = time.monotonic() + 60 * options.minutes
        there = set(pd.read_csv(ROWS["kills"])["kill"]) if ROWS["kills"].is_file() else set()
        for number in range(min(options.kills // CHAIN, len(METHODS) * len(NOTEBOOKS))):
            if number * CHAIN not in there and time.monotonic() < end:
                for row in chain(work, number):
                    note("kills", row)


def note(name: str, row: dict[str, Any]) -> None:
    """Append a row to one of the tables."""
    new = not ROWS[name].is_file()
    with ROWS[name].open("a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    sys.stderr.write(f"{row}\n")


# ---- kills


def chain(work: Path, number: int) -> list[dict[str, Any]]:
    """`CHAIN` kills of one notebook, each of the command that goes on from the one before; the last then ends in peace.

    All is chosen by the number alone: every notebook of a method, then those of the next.
    """
    rng = random.Random(number)
    method, notebook = METHODS[number // len(NOTEBOOKS)], NOTEBOOKS[number % len(NOTEBOOKS)]
    code, before, after, seconds = reference(work, method, notebook)
    runs = work / "killed"
    shutil.rmtree(runs, ignore_errors=True)
    shutil.copytree(before, runs)
    found = []
    for place in range(CHAIN):
        how, group, moment = rng.choice(SIGNALS), rng.random() < 0.5, rng.uniform(0, seconds)
        process = begin(code, runs, method, notebook)
        time.sleep(moment)
        running, asked = process.poll() is None, time.monotonic()
        if running:
            (os.killpg if group else os.kill)(process.pid, how)
        while (left := processes_of(runs, but=process.pid)) and time.monotonic() < asked + ORPHAN_AFTER:
            time.sleep(0.05)
        ended = time.monotonic() - asked
        for orphan in left:
            orphan.kill()
        process.wait(timeout=60)
        found.append(
            {
                "kill": number * CHAIN + place,
                "method": method,
                "notebook": notebook,
                "signal": how.name,
                "to": "group" if group else "run.py alone",
                "after_seconds": round(moment, 1),
                "still_running": int(running),
                "orphans": len(left),
                "seconds_to_end": round(ended, 1),
            }
        )
    again = begin(code, runs, method, notebook).wait(timeout=1200)
    mine, theirs = files_of(runs), files_of(after)
    differing = sum(mine.get(name) != theirs.get(name) for name in mine.keys() | theirs.keys())
    ends = {"repairs": int(again != 0), "files": len(theirs), "differing": differing}
    return [row | (ends if row is found[-1] else dict.fromkeys(ends, 0)) for row in found]


def reference(work: Path, method: str, notebook: str) -> tuple[Path, Path, Path, float]:
    """Code, the runs before and after a notebook of a method that nobody disturbed, and the seconds it took."""
    code = work / "code"
    if not code.exists():
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in listed.splitlines():
            if name.split("/")[0] in ("lgdea_core", "notebooks", "figures", "pyproject.toml"):
                (code / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, code / name)
    states = work / "reference" / method
    (states / NOTEBOOKS[0]).mkdir(parents=True, exist_ok=True)
    for place, following in itertools.pairwise((*NOTEBOOKS, "end")):
        took = states / f"{place}.seconds"
        if not took.is_file():
            shutil.rmtree(states / following, ignore_errors=True)
            shutil.copytree(states / place, states / following)
            began = time.monotonic()
            if begin(code, states / following, method, place).wait():
                raise RuntimeError(f"notebook {place} of {method} fails undisturbed; look into {states / following}")
            took.write_text(f"{time.monotonic() - began}")
        if place == notebook:
            return code, states / place, states / following, float(took.read_text())
    raise ValueError(f"no notebook {notebook!r}; there are {', '.join(NOTEBOOKS)}")


def begin(code: Path, runs: Path, method: str, notebook: str) -> subprocess.Popen:
    """Start the command of one notebook in a process group of its own."""
    command = [sys.executable, "notebooks/run.py", "--preset", "ci", "--run", method, "-p", "method", method]
    environment = {**os.environ, "LGDEA_RUNS": str(runs), "PYTHONPATH": str(code)}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(
        [*command, "--notebooks", notebook], cwd=code, env=environment, start_new_session=True, **silent
    )


def processes_of(runs: Path, but: int) -> list[psutil.Process]:
    """The processes, wherever they come from, that write into this folder of runs, but for `run.py` itself."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.pid != but
                and process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get("LGDEA_RUNS") == str(runs)
            ):
                found.append(process)
        except psutil.Error:
            pass
    return found


def files_of(runs: Path) -> dict[str, str]:
    """Checksum of every file of the runs but those that hold times."""
    paths = (path for path in runs.rglob("*") if path.is_file() and not path.name.endswith((".ipynb", "timing.json")))
    return {path.relative_to(runs).as_posix(): checksum(path) for path in paths}


# ---- servers


def disturbed_extraction(work: Path, reports: int) -> dict[str, Any]:
    """Extract reports from a server that misbehaves, killed twice on the way, and compare with the rules' answers."""
    from servers import ModelServer, sound_answer, write_studies

    from lgdea_core.evidence.openai_backend import IN_FLIGHT

    folder = Path(tempfile.mkdtemp(dir=work)) / "corpus"
    write_studies(folder, reports)
    module = [sys.executable, "-m", "lgdea_core.evidence.extract", "--corpus", "folder", "--root", str(folder)]
    plain, disturbed = folder.with_name("plain.parquet"), folder.with_name("disturbed.parquet")
    subprocess.run([*module, "--extractor", "lexicon", "--out", str(plain)], cwd=ROOT, check=True)
    victims: list[subprocess.Popen] = []
    kills = iter((reports // 3, 2 * reports // 3))
    due, faults, again = next(kills), Counter(), Counter()

    def fault(passage: str, times: int) -> str | None:
        number = int("".join(filter(str.isdigit, passage)) or 1)
        if number % 3 or times or not passage:
            return None
        faults[PASSING[number // 3 % len(PASSING)]] += 1
        return PASSING[number // 3 % len(PASSING)]

    def on_answer(answered: int) -> None:
        nonlocal due
        if answered >= due:
            due = next(kills, reports + 1)
            victims[-1].kill()

    with ModelServer(reply=sound_answer, fault=fault, on_answer=on_answer) as server:
        store = folder.with_name("store.sqlite")
        environment = {**os.environ, "OPENAI_BASE_URL": server.url, "LGDEA_EVIDENCE_STORE": str(store)}
        command = [*module, "--extractor", "openai:m", "--out", str(disturbed)]
        began = time.monotonic()
        while not victims or victims[-1].wait() == -signal.SIGKILL:
            time.sleep(1.0 if victims else 0.0)  # threads of the server that still talk to the dead
            victims.append(subprocess.Popen(command, cwd=ROOT, env=environment))
        again.update({passage: count - 1 for passage, count in server.answered.items() if count > 1})
    if victims[-1].returncode:
        raise RuntimeError(f"the last extraction ended with {victims[-1].returncode}; look at what it says above")
    expected, found = (set(map(str, rows(path))) for path in (plain, disturbed))
    killed = len(victims) - 1
    return {
        "reports": reports,
        "faults": sum(faults.values()),
        "kinds_of_fault": len(faults),
        "kills": killed,
        "statements_lost": len(expected - found),
        "statements_wrongly_accepted": len(found - expected),
        "asked_again_beyond_those_in_flight": max(0, sum(again.values()) - killed * 2 * IN_FLIGHT),
        "asked_again": sum(again.values()),
        "seconds": round(time.monotonic() - began),
    }


def rows(path: Path) -> Iterator[tuple[Any, ...]]:
    """Rows of an evidence table."""
    return pd.read_parquet(path).itertuples(index=False, name=None)


if __name__ == "__main__":
    main()
