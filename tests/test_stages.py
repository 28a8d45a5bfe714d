"""From a run's configuration to training data and metrics, on a corpus of folder layout with one broken film."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from planted import FINDINGS, SIDES, PlantedWorld

from lgdea_core import stages
from lgdea_core.artifacts import start_run
from lgdea_core.config import RunConfig
from lgdea_core.evaluation.harness import evaluate, label_table
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.grounding import load
from lgdea_core.training import start_state

STUDIES = 120


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder corpus: 120 studies, boxes of each square, labels, and one truncated film."""
    root = tmp_path_factory.mktemp("corpora")
    folder = root / "folder"
    (folder / "images").mkdir(parents=True)
    world = PlantedWorld(STUDIES, seed=3)
    kinds, sides = np.divmod(world.labels, len(SIDES))
    studies, labels, boxes = [], [], []
    for i, (image, kind, side) in enumerate(zip(world.images.numpy(), kinds, sides, strict=True)):
        Image.fromarray(np.kron(image, np.ones((2, 2), dtype=np.uint8))).save(folder / "images" / f"s{i}.png")
        split = ("train", "train", "test")[i % 3]
        finding = FINDINGS[kind]
        report = f"FINDINGS: There is a {SIDES[side]} {finding}."
        studies.append((f"s{i}", f"p{i}", split, report, f"images/s{i}.png"))
        labels += [(f"s{i}", name, int(name == finding)) for name in FINDINGS]
        top, left = 2 + 16 * kind, 36 if side == 0 else 4
        boxes.append((f"s{i}", f"{SIDES[side]} {finding}", finding, left, top, left + 26, top + 12))
    (folder / "images" / "s1.png").write_bytes((folder / "images" / "s1.png").read_bytes()[:300])
    columns = ["study_id", "patient_id", "split", "report", "image"]
    pd.DataFrame(studies, columns=columns).to_csv(folder / "studies.csv", index=False)
    pd.DataFrame(labels, columns=["study_id", "finding", "value"]).to_csv(folder / "labels.csv", index=False)
    box_columns = ["study_id", "phrase", "finding", "x_min", "y_min", "x_max", "y_max"]
    pd.DataFrame(boxes, columns=box_columns).to_csv(folder / "boxes.csv", index=False)
    return root


@pytest.fixture(scope="module")
def run_config(root: Path) -> RunConfig:
    steps = {"text_steps": 10, "pair_steps": 50, "relation_steps": 6, "ramp_steps": 2, "refresh_every": 3}
    changes = {"corpus": "folder", "root": str(root), "paired_ratio": 0.75, "batch_size": 32, "mixed_precision": "no"}
    return RunConfig.from_preset("ci", **changes, **steps)


@pytest.fixture(scope="module")
def inputs(run_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> stages.Inputs:
    patch = pytest.MonkeyPatch()
    patch.setattr(stages, "project_root", lambda: tmp_path_factory.mktemp("project"))
    yield stages.load_inputs(run_config, progress=False)
    patch.undo()


def test_an_unreadable_film_is_left_out_everywhere_and_counted(inputs: stages.Inputs) -> None:
    assert inputs.corpus.exclusions["unreadable image"] == 1
    assert len(inputs.corpus.images) == STUDIES - 1
    lost = inputs.store.excluded
    assert len(lost) == 1
    assert not set(lost) & set(inputs.pools.image_ids)
    assert not set(lost) & set(inputs.corpus.boxes["image_id"])


def test_crops_and_reports_come_in_the_order_asked_for(inputs: stages.Inputs) -> None:
    ids = inputs.pools.image_ids[:5]
    forward, backward = inputs.crops(ids), inputs.crops(ids[::-1])
    assert (forward.flip(0) == backward).all()
    reports = inputs.pools.report_ids[:3]
    assert inputs.reports(reports) == inputs.reports(reports[::-1])[::-1]


def test_hidden_truth_agrees_with_the_corpus(inputs: stages.Inputs, run_config: RunConfig) -> None:
    evidence, _ = extract_evidence(inputs.corpus.studies, progress=False)
    _, processor = stages.fresh_model(run_config, inputs)
    data = stages.prepare_training(run_config, inputs, evidence, processor)
    pairs, image_findings, report_findings = stages.hidden_truth(inputs, data)
    assert len(pairs) == len(inputs.pools.hidden_pairs) > 5
    assert (image_findings[pairs[:, 0]] == report_findings[pairs[:, 1]]).all()
    assert image_findings.sum(axis=1).tolist() == [1] * len(image_findings)


def test_shuffled_training_data_holds_the_same_studies_but_no_true_pair(
    inputs: stages.Inputs, run_config: RunConfig
) -> None:
    evidence, _ = extract_evidence(inputs.corpus.studies, progress=False)
    _, processor = stages.fresh_model(run_config, inputs)
    true, wrong = (
        stages.prepare_training(run_config, inputs, evidence, processor, shuffled=flag) for flag in (False, True)
    )
    assert set(true.seed_pairs[:, 0]) == set(wrong.seed_pairs[:, 0])
    assert not set(map(tuple, true.seed_pairs)) & set(map(tuple, wrong.seed_pairs))


@pytest.mark.slow
def test_a_run_trains_saves_loads_and_beats_its_shuffled_control(
    inputs: stages.Inputs, run_config: RunConfig, tmp_path: Path
) -> None:
    run = start_run(run_config, "planted", root=tmp_path)
    evidence, _ = extract_evidence(inputs.corpus.studies, progress=False)
    precision = {}
    for variant in ("model", "model_shuffled"):
        trained = stages.train_variant(run, inputs, evidence, variant, progress=False)
        stages.save_trained(trained, run.folder / variant)
        table = evaluate(*load(run.folder / variant), inputs, resamples=50, progress=False)
        precision[variant] = table.query("metric == 'precision_at_5'")["estimate"].item()
        if variant == "model":
            assert set(table["task"]) == {"zero-shot", "grounding", "retrieval"}
    chance = table.query("metric == 'precision_at_5_chance'")["estimate"].item()
    assert precision["model"] > 0.8
    assert precision["model_shuffled"] < chance + 0.2


def test_evaluation_refuses_patients_of_the_saved_training(
    inputs: stages.Inputs, run_config: RunConfig, tmp_path: Path
) -> None:
    model, processor = stages.fresh_model(run_config, inputs)
    evidence, _ = extract_evidence(inputs.corpus.studies, progress=False)
    data = stages.prepare_training(run_config, inputs, evidence, processor)
    parts = {"history": pd.DataFrame(), "processor": processor, "data": data, "config": run_config}
    trained = stages.Trained(state=start_state(model, run_config), **parts)
    stages.save_trained(trained, tmp_path)
    loaded = load(tmp_path)
    assert loaded[0].training_patients == model.training_patients
    assert len(model.training_patients.hashes) == 2 * STUDIES // 3
    assert len(evaluate(*loaded, inputs, resamples=20, progress=False))
    studies = inputs.corpus.studies
    moved = studies["split"].mask(studies["study_id"].isin(["s0", "s4"]), "test")  # from train, by hand
    planted = replace(inputs, corpus=replace(inputs.corpus, studies=studies.assign(split=moved)))
    expected = r"^2 patient\(s\) are in training and in the evaluation on 'folder': 'folder/p0', 'folder/p4'; judge"
    for models in (loaded, (model, processor)):  # loaded, and fresh from training
        with pytest.raises(ValueError, match=expected):
            evaluate(*models, planted, progress=False)


def test_evaluation_without_boxes_or_labels_leaves_those_tasks_out(
    inputs: stages.Inputs, run_config: RunConfig
) -> None:
    model, processor = stages.fresh_model(run_config, inputs)
    bare = replace(inputs.corpus, boxes=inputs.corpus.boxes.iloc[:0], labels=inputs.corpus.labels.iloc[:0])
    table = evaluate(model, processor, replace(inputs, corpus=bare), resamples=20, progress=False)
    assert set(table["task"]) == {"retrieval"}
    with pytest.raises(ValueError, match="no image in split 'val'"):
        evaluate(model, processor, inputs, split="val", progress=False)


def test_labels_are_one_row_a_study(inputs: stages.Inputs) -> None:
    table = label_table(inputs.corpus)
    assert len(table) == STUDIES
    assert (table.sum(axis=1) == 1).all()


def test_a_real_corpus_without_a_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(stages.DATA_VARIABLE, raising=False)
    with pytest.raises(ValueError, match="corpus 'nih' needs the folder"):
        stages.load_inputs(RunConfig.from_preset("ci", corpus="nih"))
