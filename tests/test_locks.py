"""One writer a folder, files replaced whole, and a disk that is full."""

import json
import logging
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import PlantedWorld, config
from scipy import sparse

from lgdea_core.config import RunConfig
from lgdea_core.figures.save import save_figure
from lgdea_core.figures.style import single
from lgdea_core.graph import propagate
from lgdea_core.model import LGDEAModel
from lgdea_core.paths import HOLDER_VARIABLE, FolderHeld, checksum, holding, recover, replacing, sweep, write_text
from lgdea_core.runs.artifacts import Run, start_run
from lgdea_core.training.checkpoint import CHECKPOINT, save_checkpoint
from lgdea_core.training.loop import start_state, train

HOLD = """
import sys
from pathlib import Path
from lgdea_core.paths import holding
with holding(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(folder: Path) -> Iterator[subprocess.Popen]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], text=True, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        yield other
        other.kill()


def test_a_folder_has_one_writer_and_the_lock_of_a_dead_one_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run(RunConfig.from_preset("ci"), "mine", root=tmp_path)
    run.save_json("metrics.json", {})
    before = checksum(run.folder)
    with held_by_another(run.folder) as other:
        held = rf"mine is being written by process {other.pid} on {socket.gethostname()}"
        for write in (
            lambda: run.save_json("metrics.json", {}),
            lambda: start_run(RunConfig.from_preset("ci"), "mine", root=tmp_path),
        ):
            with pytest.raises(FolderHeld, match=held):
                write()
        assert run.load_json("metrics.json") == {}, "reading is free"
        monkeypatch.setenv(HOLDER_VARIABLE, str(run.folder))
        run.save_json("metrics.json", {})  # as a notebook does that the holder runs
        monkeypatch.delenv(HOLDER_VARIABLE)
    with holding(run.folder), holding(run.folder):
        assert str(os.getpid()) in (run.folder / ".lock").read_text()
    assert checksum(run.folder) == before, "nothing is left of a lock"


def test_two_trainings_never_share_a_folder(tmp_path: Path) -> None:
    world, run = PlantedWorld(24), config("clip", text_steps=2)
    model, processor = world.model(run)
    data = world.training(12, processor.tokenizer)
    with held_by_another(tmp_path), pytest.raises(FolderHeld):
        train(run, data, model, tmp_path, until="text", progress=False)
    train(run, data, model, tmp_path, until="text", progress=False)


def test_temporary_names_are_a_process_its_own_and_those_of_the_dead_are_swept(tmp_path: Path) -> None:
    target = tmp_path / "timing.json"
    with replacing(target) as one, replacing(target) as two:
        assert one != two
        one.write_text("one")
        two.write_text("two")
    assert target.read_text() == "one", "the outer one ends last"
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    host = socket.gethostname().replace(".", "-")
    own = tmp_path / f".timing.json.{host}.{os.getpid()}.9.part"
    other = tmp_path / ".timing.json.elsewhere.1.0.part"
    left = tmp_path / f".timing.json.{host}.{dead.pid}.0.part"
    for path in (own, other, left):
        path.write_text("half")
    write_text(target, "whole")
    assert (own.exists(), other.exists(), left.exists()) == (True, True, False)
    (tmp_path / "deep/.model.part").mkdir(parents=True)
    (tmp_path / "deep/.x.png.1.tmp").touch()
    sweep(tmp_path)
    there = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert there == sorted([own.name, other.name, "timing.json"]), "we live, and the other machine may"
    os.utime(other, (0, 0))
    sweep(tmp_path)
    assert not other.exists(), "too old to be in use"


def test_a_folder_is_there_whole_whenever_its_writer_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, renames = tmp_path / "model", Path.rename

    def write(text: str) -> None:
        with replacing(folder) as part:
            part.mkdir()
            (part / "weights").write_text(text)

    def killed(self: Path, to: Path) -> Path:
        renames(self, to)
        raise SystemError("killed between the two renames")

    write("old")
    monkeypatch.setattr(Path, "rename", killed)
    monkeypatch.setattr("lgdea_core.paths.recover", lambda target: None)
    with pytest.raises(SystemError):
        write("new")
    monkeypatch.undo()
    assert not folder.exists()
    recover(folder)
    assert (folder / "weights").read_text() == "old"
    write("new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (folder / "weights").read_text() == "new"


# ---- a full disk


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file of this process grows beyond some bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def json_artifact(run: Run, size: int) -> None:
    run.save_json("metrics.json", {"values": list(range(size))})


def table_artifact(run: Run, size: int) -> None:
    run.save_table("history.csv", pd.DataFrame({"step": np.arange(size)}))


def sparse_artifact(run: Run, size: int) -> None:
    edges = sparse.eye_array(size, format="csr")
    run.save_relations(propagate(edges, edges, edges, alpha=0.5, tolerance=0.1, max_steps=9))


@cache
def small_model() -> LGDEAModel:
    return PlantedWorld(8).model(config("clip"))[0]


def model_artifact(run: Run, size: int) -> None:
    with run.writing("model") as folder:
        small_model().save_pretrained(folder)
        (folder / "size").write_text(str(size))


def drawn(run: Run, size: int) -> None:
    figure, axis = single(50.0, 50.0)
    axis.imshow(np.random.default_rng(size).random((50, 50)))
    save_figure(figure, run.folder / "figure", {"run": "r", "commit": "c", "seed": "0"})


def checkpoint(run: Run, size: int) -> None:
    state = start_state(small_model(), config("clip"))
    state.step = size
    save_checkpoint(state, run.folder / CHECKPOINT, {}, {})


@pytest.mark.parametrize("write", [json_artifact, table_artifact, sparse_artifact, model_artifact, drawn, checkpoint])
@pytest.mark.parametrize("room", [0, 100, 3000])
def test_a_full_disk_leaves_the_old_state_and_names_the_file(
    write: Callable[[Run, int], None], room: int, tmp_path: Path
) -> None:
    run = start_run(RunConfig.from_preset("ci"), "mine", root=tmp_path)
    write(run, 1000)
    before = checksum(run.folder)
    with pytest.raises(OSError, match=str(tmp_path)), full_disk(room):
        write(run, 2000)
    assert checksum(run.folder) == before
    write(run, 2000)
    assert checksum(run.folder) != before


# ---- resuming


def test_whatever_differs_when_a_training_goes_on_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world, run = PlantedWorld(24), config("clip", text_steps=2)
    model, processor = world.model(run)
    data = world.training(12, processor.tokenizer)
    train(run, data, model, tmp_path, until="text", progress=False)
    with caplog.at_level(logging.WARNING, logger="lgdea"):
        train(run, data, model, tmp_path, until="text", progress=False)
    assert not caplog.records
    path = tmp_path / CHECKPOINT / "circumstances.json"
    there = json.loads(path.read_text())
    path.write_text(json.dumps(there | {"processes": 4, "device": "cuda"}))
    with caplog.at_level(logging.WARNING, logger="lgdea"):
        train(run, data, model, tmp_path, until="text", progress=False)
    assert "processes is 4 there, 1 here" in caplog.text
    assert "device is 'cuda' there, 'cpu' here" in caplog.text


@pytest.mark.slow
def test_an_interrupted_training_saves_and_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    world, run = PlantedWorld(24), config("clip")
    for folder, stop in ((tmp_path / "whole", None), (tmp_path / "stopped", 3)):
        model, processor = world.model(run)
        data = world.training(12, processor.tokenizer)

        def interrupt(step: int, stop: int | None = stop) -> None:
            if step == stop:
                os.kill(os.getpid(), 2)

        if stop:
            with pytest.raises(KeyboardInterrupt, match="goes on where it stood"):
                train(run, data, model, folder, until="pairs", progress=False, after_step=interrupt)
            saved = folder / CHECKPOINT
            assert saved.is_dir(), "not a step is lost"
            model, _ = world.model(run)
        state, _ = train(run, data, model, folder, until="pairs", progress=False)
        assert state.step == run.train.text_steps + run.train.pair_steps
    assert checksum(tmp_path / "whole") == checksum(tmp_path / "stopped"), "byte by byte, the optimizer's state too"
