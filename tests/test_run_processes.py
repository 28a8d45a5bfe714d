"""`run.py` and the processes it starts, killed in every way: nobody trains on, and nobody writes beside another."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import psutil
import pytest
from test_run import ROOT, write_notebook

MAIN = (
    "import sys; sys.path.insert(0, 'notebooks'); import run; from pathlib import Path; {first}; "
    "raise SystemExit(run.main"
)
BUSY = """import os, time
from pathlib import Path
beat = Path({beat!r})
note = beat.with_suffix('.stopped')
try:
    while True:
        beat.write_text(f'{{os.getpid()}} {{time.time()}}')
        time.sleep(0.02)
finally:
    note.write_text('saved')"""
DEAF = """import os, signal, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    Path({beat!r}).write_text(f'{{os.getpid()}} {{time.time()}}')
    time.sleep(0.02)"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "notebooks"


@pytest.fixture
def start(tmp_path: Path, folder: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    begun = []

    def run(*arguments: str, first: str = "pass") -> subprocess.Popen:
        environment = os.environ | {"LGDEA_RUNS": str(tmp_path / "runs"), "LGDEA_PRESET": "ci"}
        code = f"{MAIN.format(first=first)}({list(arguments)!r}, Path({str(folder)!r})))"
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        begun.append(
            subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, start_new_session=True, **pipes)
        )
        return begun[-1]

    yield run
    for process in begun:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


def until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def kernel_of(beat: Path) -> psutil.Process:
    until(lambda: beat.is_file() and beat.read_text())
    return psutil.Process(int(beat.read_text().split()[0]))


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_kernel_ends_with_a_killed_run_and_the_same_command_then_goes_on(
    folder: Path, tmp_path: Path, start: Callable[..., subprocess.Popen]
) -> None:
    beat = tmp_path / "beat"
    write_notebook(folder / "01_busy.ipynb", DEAF.format(beat=str(beat)))
    first = start("--run", "mine")
    kernel = kernel_of(beat)
    half = tmp_path / "runs/mine/.timing.json.elsewhere.1.0.part"
    half.write_text("{")
    os.utime(half, (0, 0))  # of another machine, and too old to be in use

    second = start("--run", "mine")
    message = second.communicate(timeout=60)[1]
    assert second.returncode == 2
    assert f"is being written by process {first.pid} on {socket.gethostname()}" in message
    assert message.count("\n") == 1
    assert not gone(kernel)
    assert half.exists(), "a refused writer touches nothing"

    first.kill()
    until(lambda: gone(kernel), seconds=2)
    write_notebook(folder / "01_busy.ipynb", "1 + 1")
    third = start("--run", "mine")
    assert third.wait(timeout=60) == 0
    left = [path.name for path in (tmp_path / "runs").rglob("*") if path.name.endswith((".part", ".tmp", ".lock"))]
    assert left == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "cell", "sweep"),
    [(signal.SIGTERM, BUSY, ["--sweep", "seed=0,1"]), (signal.SIGINT, DEAF, [])],
    ids=["busy, a sweep", "deaf"],
)
def test_a_run_that_is_asked_to_end_does_so_within_five_seconds_and_says_so(
    number: signal.Signals,
    cell: str,
    sweep: list[str],
    folder: Path,
    tmp_path: Path,
    start: Callable[..., subprocess.Popen],
) -> None:
    beat, run = tmp_path / "beat", tmp_path / ("runs/mine-seed-0" if sweep else "runs/mine")
    write_notebook(folder / "01_busy.ipynb", "print('before')", cell.format(beat=str(beat)))
    write_notebook(folder / "02_never.ipynb", f"open({str(tmp_path / 'never')!r}, 'w')")
    process = start("--run", "mine", *sweep)
    kernel = kernel_of(beat)
    asked = time.monotonic()
    process.send_signal(number)
    until(lambda: gone(kernel), seconds=asked + 5 - time.monotonic())
    assert process.wait(timeout=60) == 128 + number
    assert not (tmp_path / "never").exists()
    assert not (tmp_path / "runs/mine-seed-1").exists(), "no further run is begun"
    if cell == BUSY:
        assert beat.with_suffix(".stopped").read_text() == "saved", "the cell was interrupted, not killed"
    assert f"stopped by {number.name}" in json.loads((run / "timing.json").read_text())["01_busy"]["error"]
    copy = nbformat.read(run / "notebooks/01_busy.ipynb", as_version=4)
    assert "before" in str(copy.cells), "what was done is saved"


@pytest.mark.slow
def test_a_kernel_that_trains_has_longer_to_save(
    folder: Path, tmp_path: Path, start: Callable[..., subprocess.Popen]
) -> None:
    beat, lock = tmp_path / "beat", tmp_path / "runs/mine/training/pairs/.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("process 1 on here")
    write_notebook(folder / "01_deaf.ipynb", DEAF.format(beat=str(beat)))
    process = start("--run", "mine", first="run.GRACE, run.SAVING = 0.2, 3.0")
    kernel = kernel_of(beat)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert not gone(kernel)
    until(lambda: gone(kernel), seconds=5)


@pytest.mark.slow
def test_kernels_end_with_a_killed_sweep(folder: Path, tmp_path: Path, start: Callable[..., subprocess.Popen]) -> None:
    beat = tmp_path / "beat"
    write_notebook(folder / "01_busy.ipynb", DEAF.format(beat=str(beat)))
    process = start("--sweep", "seed=0")
    kernel = kernel_of(beat)
    [worker] = kernel.parents()[:1]
    assert worker.pid != process.pid
    process.kill()
    until(lambda: gone(kernel) and gone(worker), seconds=3)
