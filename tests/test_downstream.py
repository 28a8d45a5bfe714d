"""Downstream tasks: whose labels a share holds, which rows are missing, what a row says."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from planted import FINDINGS, PlantedWorld, planted_inputs

from lgdea_core.config import RunConfig
from lgdea_core.data.corpora import CORPORA, FOLDERS
from lgdea_core.data.corpus import Corpus
from lgdea_core.encoders import ImageTower, image_tower_config
from lgdea_core.evaluation import downstream as tasks
from lgdea_core.evaluation.bootstrap import Interval
from lgdea_core.evaluation.downstream import Films, ProbeTask, SegmentationTask, probe_scores, segmentation_scores
from lgdea_core.evaluation.linear_probe import ProbeScore
from lgdea_core.evaluation.segmentation import SegmentationScore
from lgdea_core.evaluation.supervised import Fit, Schedule
from lgdea_core.experiments import tables
from lgdea_core.experiments.downstream import (
    PROTOCOLS,
    Pretrained,
    Probe,
    Segmentation,
    judged,
    label_curves,
    label_draws,
    load_films,
    probe_intervals,
    towers,
)
from lgdea_core.experiments.tables import TABLES
from lgdea_core.model import build_model
from lgdea_core.training.loop import seeded

PROBED_TABLE = TABLES["asg_linear_probe"]
STUDIES = 120
SCORE = Interval(estimate=0.5, low=0.4, high=0.6, n=10, patients=10)
PROBED = ProbeScore("auc", SCORE, ("mass",), (), Fit([0.5], 1))
SEGMENTED = SegmentationScore(SCORE, 0.5, 0.5, 0.0, Fit([0.5], 1))


@pytest.fixture
def table_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "project_root", lambda: tmp_path)
    monkeypatch.setenv("LGDEA_RUNS", str(tmp_path / "runs"))


def spy_on(monkeypatch: pytest.MonkeyPatch, name: str, score: object) -> Mock:
    """Put a function that notes its arguments in the place of a training."""
    seen = Mock(return_value=score)
    monkeypatch.setattr(tasks, name, seen)
    return seen


def films() -> Films:
    """One film a study, each with a square that its label and its box say; half of them train."""
    world = PlantedWorld(STUDIES, seed=0)
    planted = planted_inputs(world, ["train", "train", "val", "test"] * 30)
    boxes = planted.corpus.boxes.assign(finding="mass")
    for film, image in enumerate(world.images.numpy()):
        rows, columns = np.nonzero(image > 150)
        square = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        boxes.loc[film, ["x_min", "y_min", "x_max", "y_max"]] = square
    readable = planted.store.image_ids[:-1]  # the last film, of the test split, could not be read
    return Films(corpus=replace(planted.corpus, boxes=boxes), store=replace(planted.store, image_ids=readable))


@pytest.fixture(scope="module")
def tower() -> ImageTower:
    torch.manual_seed(0)
    return ImageTower(image_tower_config(None, 32), 8, 32).eval()


# ---- scores of a tower


def test_probes_learn_from_the_share_and_are_scored_on_readable_test_films(
    tower: ImageTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spy_on(monkeypatch, "linear_probe", PROBED)
    task = ProbeTask(findings=FINDINGS, classes=True)
    assert probe_scores(films(), task, tower, "frozen", (0.1, 1.0), seed=4) == [PROBED, PROBED]
    sizes = [[len(part.labels) for part in call.args[:3]] for call in seen.call_args_list]
    assert sizes == [[6, 30, 29], [60, 30, 29]]
    assert all(call.args[3] == FINDINGS for call in seen.call_args_list)
    assert all(call.kwargs == {"seed": 4, "classes": True} for call in seen.call_args_list)
    seen.reset_mock()
    assert len(probe_scores(films(), task, tower, "frozen", (0.1,), seed=4, draws=3)) == 3
    assert [call.kwargs["seed"] for call in seen.call_args_list] == [4, 1004, 2004]
    drawn = [tuple(call.args[0].patients) for call in seen.call_args_list]
    assert len(set(drawn)) == 3


OF_DECODER = dict(zip(("frozen", "fine-tuned"), PROTOCOLS["segmentation"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS["linear_probe"])
def test_the_protocol_decides_what_learns(tower: ImageTower, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    probe, tuned = spy_on(monkeypatch, "linear_probe", PROBED), spy_on(monkeypatch, "fine_tune", PROBED)
    decoder = spy_on(monkeypatch, "segment", SEGMENTED)
    probe_scores(films(), ProbeTask(findings=FINDINGS), tower, protocol, (0.1,), seed=4)
    schedule = Schedule(learning_rate=1e-3, weight_decay=0.0, batch_size=8)
    task = SegmentationTask(truth="boxes", finding="mass", schedule=schedule)
    segmentation_scores(films(), task, tower, OF_DECODER.get(protocol, "tuned"), (0.1,), seed=4)
    assert decoder.call_args.args[0] is tower
    assert decoder.call_args.kwargs == {"seed": 4, "tuned": protocol != "frozen"}
    if protocol == "frozen":
        tuned.assert_not_called()
        assert probe.call_args.args[0].inputs.shape == (6, tower.width)
        return
    probe.assert_not_called()
    assert tuned.call_args.args[0] is tower
    shares = tuned.call_args.args[1:4]
    assert [part.inputs.shape for part in shares] == [(6, 32, 32), (30, 32, 32), (29, 32, 32)]  # crops, not features
    assert all(part.inputs.dtype == torch.uint8 for part in shares)
    assert tuned.call_args.args[4] == FINDINGS
    assert tuned.call_args.kwargs == {"seed": 4, "classes": False, "augmented": protocol.endswith("augmented")}


def test_a_finding_that_is_not_mentioned_is_absent_where_the_task_says_so(
    tower: ImageTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = films()
    labels = own.corpus.labels
    silent = replace(own, corpus=replace(own.corpus, labels=labels[labels["value"] == 1]))
    seen = spy_on(monkeypatch, "linear_probe", PROBED)
    for blank in (True, False):
        probe_scores(silent, ProbeTask(findings=FINDINGS, blank_is_absent=blank), tower, "frozen", (1.0,), seed=0)
    filled, blank = (call.args[0].labels for call in seen.call_args_list)
    assert (filled.sum(axis=1) == 1).all()
    assert np.isnan(blank).sum() == 3 * len(blank)


@pytest.mark.slow
def test_a_decoder_on_the_tower_finds_the_boxes(tower: ImageTower) -> None:
    schedule = Schedule(learning_rate=5e-3, weight_decay=0.0, batch_size=16, max_epochs=12)
    task = SegmentationTask(truth="boxes", finding="mass", schedule=schedule)
    [score] = segmentation_scores(films(), task, tower, "frozen", (1.0,), seed=0)
    assert score.image.n == 29
    assert score.empty == 0.0
    assert score.image.estimate > 0.6


def test_siims_balance_holds_in_the_share(tower: ImageTower, monkeypatch: pytest.MonkeyPatch) -> None:
    own = films()
    few = set(own.corpus.studies["study_id"].iloc[[0, 1, 4]])  # of the training studies
    corpus = replace(own.corpus, boxes=own.corpus.boxes[own.corpus.boxes["study_id"].isin(few)])
    seen = spy_on(monkeypatch, "segment", SEGMENTED)
    schedule = Schedule(learning_rate=1e-3, weight_decay=0.0, batch_size=8)
    for balanced in (True, False):
        task = SegmentationTask(truth="boxes", finding="mass", schedule=schedule, balanced=balanced)
        segmentation_scores(replace(own, corpus=corpus), task, tower, "frozen", (1.0,), seed=0)
    shown = [call.args[1].masks.any(axis=(1, 2)) for call in seen.call_args_list]
    assert [(len(films), films.sum()) for films in shown] == [(6, 3), (60, 3)]


def test_every_task_names_a_corpus_that_can_be_loaded() -> None:
    for named in (tasks.PROBE_TASKS, tasks.SEGMENTATION_TASKS):
        assert set(named) <= set(CORPORA)
        assert set(named) - {"phantom"} <= set(FOLDERS)


# ---- plans and tables


def plan(kind: type[Probe] = Probe, **options: object) -> list[Probe]:
    """One seed and no variants, unless asked for."""
    return judged(kind, **{"seeds": (1,), "methods": ("clip",), "variants": ()} | options)


def row_of(job: Probe, ratio: float, **values: object) -> dict[str, object]:
    return job.key | {"label_ratio": ratio, "auc": 0.6, "seconds": 30} | values


@pytest.mark.usefixtures("table_folder")
def test_rows_that_are_there_are_not_made_again_and_missing_models_are_named() -> None:
    models = towers((1, 2), ("clip", "asg"), (), "demo")
    assert [(model.method, model.config.seed) for model in models] == [
        ("random", 1), ("random", 2), ("clip", 1), ("asg", 1), ("clip", 2), ("asg", 2),
    ]  # fmt: skip
    jobs = plan(seeds=(1, 2), methods=("clip", "asg"), corpora=("phantom", "nih"))
    assert [job.model for job in jobs] == models * 2
    assert [bool(job.needs) for job in jobs] == [False, False, True, True, True, True] * 2
    assert f"no model in {models[2].folder}; make it with `asg`" in jobs[2].needs
    assert str(jobs[0]) == "phantom  random  1  demo  frozen  3 rows"
    shares = [[part["label_ratio"] for part in job.parts] for job in jobs]
    assert shares == [[0.01, 0.1, 1.0]] * 6 + [[0.1, 1.0]] * 6
    PROBED_TABLE.add([row_of(jobs[0], 0.1)])
    assert [part["label_ratio"] for part in PROBED_TABLE.missing(jobs)[0].parts] == [0.01, 1.0]
    assert PROBED_TABLE.missing(jobs)[1:] == jobs[1:]
    [tuned, _] = plan(protocol="fine-tuned", label_ratios=(0.1,))
    assert PROBED_TABLE.missing([tuned]) == [tuned]  # another protocol
    assert plan(methods=()) == []


@pytest.mark.usefixtures("table_folder")
def test_segmentation_makes_one_row_a_job_and_draws_are_one_job() -> None:
    jobs = plan(Segmentation, methods=(), variants=("ita + irl",))
    assert [job.model.method for job in jobs] == ["random"] * 2 + ["asg ita + irl"] * 2
    assert jobs[2].model.origin == "phantom-asg-ita + irl-1.0-1-demo"
    assert [job.parts for job in jobs[:2]] == [({"label_ratio": 0.01},), ({"label_ratio": 0.1},)]
    random, clip = label_draws((1,), ("clip",), (), draws=2)
    assert (random.needs, clip.needs != "") == ("", True)
    assert str(random) == "phantom  random  1  demo  0.01  2 rows"
    TABLES["label_draws"].add([random.key | {"draw": draw, "auc": 0.5} for draw in (0, 1)])
    assert TABLES["label_draws"].missing([random, clip]) == [clip]
    [more, _] = label_draws((1,), ("clip",), (), draws=3)
    assert TABLES["label_draws"].missing([more])[0].parts == ({"draw": 2},)


@pytest.mark.usefixtures("table_folder")
def test_curves_and_intervals_of_the_rows_so_far() -> None:
    assert label_curves() == {}
    assert probe_intervals("nih").empty
    job, whole = plan(corpora=("nih",))[0], {"low": 0.55, "high": 0.65, "n": 114, "findings": 8}
    rows = [row_of(job, ratio, seed=seed, **whole) for ratio in (1.0, 0.1) for seed in (2, 1)]
    rows.append(row_of(job, 0.1, protocol="fine-tuned", auc=0.9))
    rows.append(row_of(job, 0.1, method="asg ita + irl", auc=0.9))  # a row of the ablation's table
    PROBED_TABLE.add(rows)
    found = PROBED_TABLE.summary().set_index(["method", "protocol", "label_ratio"])
    assert found.loc[("random", "frozen", 0.1), ["seeds", "auc"]].tolist() == [2, "0.600 ± 0.000"]
    assert {place: len(table) for place, table in label_curves().items()} == {("auc", "nih"): 4}
    shown = probe_intervals("nih")
    assert shown.index.tolist() == [(0.1, "random", 1), (0.1, "random", 2), (1.0, "random", 1), (1.0, "random", 2)]
    assert shown.iloc[0].to_dict() == {"auc": 0.6} | whole
    assert probe_intervals("rsna").empty


def test_a_random_tower_has_the_weights_a_training_of_its_seed_starts_from() -> None:
    config = RunConfig.from_preset("ci", method="clip", seed=5)
    with seeded(5):
        started = build_model(config, ["There is a small left pleural effusion."])[0].image_tower
    found = Pretrained(method="random", config=config, folder=None).tower(Mock(spec=Corpus), "cpu")
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in started.state_dict().items())


def test_a_real_corpus_without_a_folder_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LGDEA_DATA", raising=False)
    with pytest.raises(ValueError, match="corpus 'nih' needs the folder that holds its data; set LGDEA_DATA"):
        load_films("nih", RunConfig.from_preset("ci"))
