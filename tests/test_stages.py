"""From a run's configuration to training data and metrics, on a corpus of folder layout with one broken film."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from planted import FINDINGS, SIDES, PlantedWorld
from scipy import sparse
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from lgdea_core.batch import TrainingData
from lgdea_core.config import RunConfig, replace_fields
from lgdea_core.evaluation import harness
from lgdea_core.evaluation.bootstrap import Bootstrap
from lgdea_core.evaluation.grounding import METRICS
from lgdea_core.evaluation.harness import evaluate, label_table
from lgdea_core.evaluation.one_pass import run_task
from lgdea_core.evaluation.zero_shot import zero_shot_scores
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.figures.widgets import draw_related
from lgdea_core.grounding import load
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.relations import GraphRelations
from lgdea_core.runs import inputs as stages
from lgdea_core.runs.artifacts import start_run
from lgdea_core.runs.leaks import TrainingPatients
from lgdea_core.runs.variants import Trained, save_trained, short_asg_config, train_variant
from lgdea_core.training.loop import start_state
from lgdea_core.training.monitors import TRUTH

Fresh = tuple[LGDEAModel, LGDEAProcessor]
STUDIES = 120
FEW = Bootstrap(resamples=20)


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


@pytest.fixture(scope="module")
def evidence(inputs: stages.Inputs) -> pd.DataFrame:
    return extract_evidence(inputs.corpus.studies, progress=False)[0]


@pytest.fixture(scope="module")
def untrained(run_config: RunConfig, inputs: stages.Inputs) -> Fresh:
    """Model and processor as a training would begin with them; nobody changes them."""
    return stages.fresh_model(run_config, inputs)


@pytest.fixture(scope="module")
def data(run_config: RunConfig, inputs: stages.Inputs, evidence: pd.DataFrame, untrained: Fresh) -> TrainingData:
    return stages.prepare_training(run_config, inputs, evidence, untrained[1])


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


def test_hidden_truth_agrees_with_the_corpus(inputs: stages.Inputs, data: TrainingData) -> None:
    pairs, image_findings, report_findings = stages.hidden_truth(inputs, data)
    assert len(pairs) == len(inputs.pools.hidden_pairs) > 5
    assert (image_findings[pairs[:, 0]] == report_findings[pairs[:, 1]]).all()
    assert image_findings.sum(axis=1).tolist() == [1] * len(image_findings)


def test_the_reports_most_related_to_an_image_are_drawn_beside_its_own(
    inputs: stages.Inputs, data: TrainingData, evidence: pd.DataFrame
) -> None:
    pairs, of_images, of_reports = stages.hidden_truth(inputs, data)
    image, own = pairs[0].tolist()
    other = int((of_reports != of_images[image]).any(axis=1).argmax())
    relations = np.zeros((len(of_images), len(of_reports)))
    relations[image, [other, own]] = 6, 4
    found = draw_related(inputs, data, evidence, GraphRelations(sparse.csr_array(relations)), image)
    _, truth, *nearest = found.axes
    assert truth.get_title(loc="left") == "its own, hidden: 40.00%"
    assert [axis.get_title(loc="left") for axis in nearest] == [
        "relation 60.00% of the image's; other findings",
        "relation 40.00% of the image's; the same findings",
    ]
    assert [text.get_text() for text in truth.texts] == [text.get_text() for text in nearest[1].texts]
    assert len(truth.patches) == 1  # its one statement
    with pytest.raises(ValueError, match="No relation has reached this image"):
        draw_related(inputs, data, evidence, GraphRelations(sparse.csr_array(relations)), int(pairs[1, 0]))


def test_shuffled_training_data_holds_the_same_studies_but_no_true_pair(
    inputs: stages.Inputs, run_config: RunConfig, evidence: pd.DataFrame, untrained: Fresh, data: TrainingData
) -> None:
    wrong = stages.prepare_training(run_config, inputs, evidence, untrained[1], shuffled=True)
    assert set(data.seed_pairs[:, 0]) == set(wrong.seed_pairs[:, 0])
    assert not set(map(tuple, data.seed_pairs)) & set(map(tuple, wrong.seed_pairs))


@pytest.mark.slow
def test_a_run_trains_saves_loads_and_beats_its_shuffled_control(
    inputs: stages.Inputs, run_config: RunConfig, evidence: pd.DataFrame, tmp_path: Path
) -> None:
    run = start_run(run_config, "planted", root=tmp_path)
    precision, relations = {}, {}
    for variant in ("model", "model_shuffled"):
        trained = train_variant(run, inputs, evidence, variant, progress=False)
        relations[variant] = trained.history.filter(like="relation_").iloc[-1]
        save_trained(trained, run.folder / variant)
        table = evaluate(*load(run.folder / variant), inputs, resamples=50, progress=False)
        precision[variant] = table.query("metric == 'precision_at_5'")["estimate"].item()
        if variant == "model":
            assert set(table["task"]) == {"zero-shot", "grounding", "retrieval"}
    chance = table.query("metric == 'precision_at_5_chance'")["estimate"].item()
    assert precision["model"] > 0.8
    assert precision["model_shuffled"] < chance + 0.2
    assert list(relations["model"].index) == [f"relation_{name}" for name in TRUTH]
    assert relations["model"]["relation_label_auc"] > 0.9
    # twenty pairs: how far from one half wrong ones end is chance, and rounding decides it
    assert relations["model_shuffled"]["relation_label_auc"] < relations["model"]["relation_label_auc"] - 0.2


def test_evaluation_refuses_patients_of_the_saved_training(
    inputs: stages.Inputs, run_config: RunConfig, untrained: Fresh, data: TrainingData, tmp_path: Path
) -> None:
    model, processor = untrained
    parts = {"history": pd.DataFrame(), "processor": processor, "data": data, "config": run_config}
    trained = Trained(state=start_state(model, run_config), **parts)
    save_trained(trained, tmp_path)
    loaded = load(tmp_path)
    assert TrainingPatients.load(tmp_path) == model.training_patients
    assert len(model.training_patients.hashes) == 2 * STUDIES // 3
    assert len(evaluate(*loaded, inputs, resamples=20, progress=False))
    studies = inputs.corpus.studies
    moved = studies["split"].mask(studies["study_id"].isin(["s0", "s4"]), "test")  # from train, by hand
    planted = replace(inputs, corpus=replace(inputs.corpus, studies=studies.assign(split=moved)))
    expected = r"^2 patient\(s\) are in training and in the evaluation on 'folder': 'folder/p0', 'folder/p4'; judge"
    for models in (loaded, (model, processor)):  # loaded, and fresh from training
        with pytest.raises(ValueError, match=expected):
            evaluate(*models, planted, progress=False)


def test_thresholds_are_not_chosen_on_patients_of_the_training(
    inputs: stages.Inputs, with_validation: stages.Inputs, untrained: Fresh
) -> None:
    model, processor = untrained
    assert len(evaluate(model, processor, inputs, resamples=20, progress=False))
    with pytest.raises(ValueError, match="are in training and in the evaluation on 'folder'"):
        evaluate(model, processor, with_validation, resamples=20, progress=False)


def test_zero_shot_is_held_to_a_published_label_set(
    inputs: stages.Inputs, untrained: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = untrained
    monkeypatch.setattr(harness, "MIN_POSITIVES", 2)
    monkeypatch.setattr(harness, "LABEL_SETS", {"two": FINDINGS[:2], "other": (*FINDINGS[:1], "hernia")})
    part = inputs.corpus.split("test")
    every, two = (
        run_task(model, inputs.crops, harness.zero_shot_table(model, processor, part, None, FEW, label_set=labels))
        for labels in (None, "two")
    )
    aucs = [table[table["metric"] == "auc"].set_index("finding")["estimate"] for table in (every, two)]
    assert set(aucs[0].index) - set(aucs[1].index) == set(FINDINGS[2:])
    assert aucs[1]["macro"] == pytest.approx(aucs[0][list(FINDINGS[:2])].mean())
    with pytest.raises(ValueError, match=r"corpus folder: no labels for hernia of label set other"):
        evaluate(model, processor, inputs, labels="other", progress=False)
    with pytest.raises(ValueError, match="no label set 'nih15'; there are two, other"):
        evaluate(model, processor, inputs, labels="nih15", progress=False)


@pytest.mark.slow
def test_a_map_protocol_is_named_in_its_metrics_and_changes_the_maps(inputs: stages.Inputs, untrained: Fresh) -> None:
    model, processor = untrained
    part = inputs.corpus.split("test")
    options = {"bootstrap": FEW, "progress": False}
    tables = {
        maps: run_task(
            model, inputs.crops, harness.phrase_grounding_table(model, processor, part, maps=maps, **options)
        )
        for maps in ("smooth", "biovil")
    }
    controlled = {f"{metric}_{name}" for metric in harness.GROUNDING_METRICS for name in ("blind", "swapped", "own")}
    assert set(tables["smooth"]["metric"]) == {*METRICS, *controlled}
    assert set(tables["biovil"]["metric"]) == {f"{metric}, biovil maps" for metric in (*METRICS, *controlled)}
    sample = next(run_task(model, inputs.crops, harness.grounding_samples(model, processor, part, maps="biovil")))
    patches = (processor.image_size // 4) ** 2
    assert len(np.unique(sample.similarity_map[np.isfinite(sample.similarity_map)])) <= patches, "nothing in between"
    assert not tables["smooth"]["estimate"].equals(tables["biovil"]["estimate"])
    with pytest.raises(ValueError, match="no map protocol 'afloc'; there are smooth, biovil"):
        evaluate(model, processor, inputs, maps="afloc", progress=False)


def test_evaluation_without_boxes_or_labels_leaves_those_tasks_out(inputs: stages.Inputs, untrained: Fresh) -> None:
    model, processor = untrained
    bare = replace(inputs.corpus, boxes=inputs.corpus.boxes.iloc[:0], labels=inputs.corpus.labels.iloc[:0])
    table = evaluate(model, processor, replace(inputs, corpus=bare), resamples=20, progress=False)
    assert set(table["task"]) == {"retrieval"}
    with pytest.raises(ValueError, match="no image in split 'val'"):
        evaluate(model, processor, inputs, split="val", progress=False)


@pytest.fixture(scope="module")
def with_validation(inputs: stages.Inputs) -> stages.Inputs:
    """The corpus with half of its training studies as val, of which none shows edema."""
    studies, labels = inputs.corpus.studies.copy(), inputs.corpus.labels.copy()
    studies.loc[studies["study_id"].str[1:].astype(int) % 3 == 1, "split"] = "val"
    held_out = labels["study_id"].isin(studies.loc[studies["split"] == "val", "study_id"])
    labels.loc[held_out & (labels["finding"] == "edema"), "value"] = 0.0
    return replace(inputs, corpus=replace(inputs.corpus, studies=studies, labels=labels))


def test_thresholds_come_from_validation_images_on_their_scale(
    with_validation: stages.Inputs,
    untrained: Fresh,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    inputs, (model, processor) = with_validation, untrained
    monkeypatch.setattr(harness, "MIN_POSITIVES", 2)
    parts = {name: inputs.corpus.split(name) for name in ("test", "val")}
    with caplog.at_level("INFO", logger="lgdea"):
        table = run_task(model, inputs.crops, harness.zero_shot_table(model, processor, *parts.values(), FEW))
    assert "finding edema: 0 positives" in caplog.text
    found = table.set_index(["metric", "finding"])["estimate"]
    assert list(found.index.get_level_values("metric").unique()) == [
        "auc", "auc_global", "ap", "f1_oracle", "accuracy_oracle", "auc_tail", "accuracy_argmax",
        "f1_validation", "accuracy_validation",
    ]  # fmt: skip
    assert np.isnan(found["f1_validation", "edema"])
    assert found["f1_oracle", "edema"] > 0
    labels = {name: label_table(part) for name, part in parts.items()}
    scores = {
        name: zero_shot_scores(model, processor, inputs.crops(tuple(part.images["image_id"])), FINDINGS)
        for name, part in parts.items()
    }
    for column, finding in enumerate(FINDINGS[:2]):
        val, test = (_on_scale(scores[name], scores["val"], column) for name in ("val", "test"))
        known, truth = (labels[name].loc[parts[name].images["study_id"], finding] for name in ("val", "test"))
        threshold = max(np.unique(val), key=lambda value: (f1_score(known, val >= value), -value))
        assert found["f1_validation", finding] == pytest.approx(f1_score(truth, test >= threshold), abs=1e-6)
        assert found["accuracy_validation", finding] == pytest.approx(accuracy_score(truth, test >= threshold))
        own = _on_scale(scores["test"], scores["test"], column)
        assert found["ap", finding] == pytest.approx(average_precision_score(truth, own), abs=1e-6)
        best = max(f1_score(truth, own >= value) for value in np.unique(own))
        assert found["f1_oracle", finding] == pytest.approx(best, abs=1e-6)


def _on_scale(scores: dict[str, np.ndarray], by: dict[str, np.ndarray], column: int) -> np.ndarray:
    """Sum of the channels, z-scored by the means and spreads of other images."""
    return sum((scores[name][:, column] - by[name][:, column].mean()) / by[name][:, column].std() for name in scores)


def test_without_validation_images_there_are_no_thresholds_and_the_rest_is_the_same(
    with_validation: stages.Inputs, inputs: stages.Inputs, untrained: Fresh, caplog: pytest.LogCaptureFixture
) -> None:
    model, processor = untrained
    part = inputs.corpus.split("test")
    with caplog.at_level("INFO", logger="lgdea"):
        alone = run_task(model, inputs.crops, harness.zero_shot_table(model, processor, part, None, FEW))
    assert "no labelled validation images, so no thresholds from them" in caplog.text
    oracle, whole = {"ap", "f1_oracle", "accuracy_oracle"}, {"auc_tail", "accuracy_argmax"}
    assert set(alone["metric"]) == {"auc", "auc_global", *oracle, *whole}
    validation = harness.validation_part(with_validation.corpus, part, "test")
    both = run_task(model, inputs.crops, harness.zero_shot_table(model, processor, part, validation, FEW))
    pd.testing.assert_frame_equal(both.iloc[: len(alone)], alone, atol=1e-5)  # rounded otherwise in other blocks


def test_validation_images_are_of_the_source_that_is_tested(
    with_validation: stages.Inputs, inputs: stages.Inputs
) -> None:
    part, studies = inputs.corpus.split("test"), with_validation.corpus.studies
    assert set(harness.validation_part(with_validation.corpus, part, "test").studies["split"]) == {"val"}
    assert harness.validation_part(with_validation.corpus, part, "val") is None  # it would judge itself
    assert harness.validation_part(inputs.corpus, part, "test") is None
    sources = np.where(studies["study_id"].str[1:].astype(int) % 2, "odd", "even")
    combined = replace(with_validation.corpus, studies=studies.assign(corpus=sources))
    part = harness.evaluation_part(combined, "test")
    validation = harness.validation_part(combined, part, "test")
    assert set(validation.studies["corpus"]) == {part.name}
    assert set(validation.studies["split"]) == {"val"}
    only = combined.subset(studies.loc[(studies["split"] == "test") | (sources != part.name), "study_id"])
    assert harness.validation_part(only, part, "test") is None


def test_evaluation_takes_another_prompt_set_and_says_what_it_leaves_out(
    inputs: stages.Inputs, untrained: Fresh, caplog: pytest.LogCaptureFixture
) -> None:
    model, processor = untrained
    bare = replace(inputs, corpus=replace(inputs.corpus, boxes=inputs.corpus.boxes.iloc[:0]))
    with caplog.at_level("INFO", logger="lgdea"):
        table = evaluate(model, processor, bare, prompts="biovil", resamples=20, progress=False)
    assert "prompt set biovil has no prompts for edema, mass, nodule" in caplog.text
    assert set(table.loc[table["metric"] == "auc", "finding"]) == {"pneumonia", "macro"}
    with pytest.raises(ValueError, match="no prompt set 'clip'"):
        evaluate(model, processor, bare, prompts="clip", progress=False)


def test_labels_are_one_row_a_study(inputs: stages.Inputs) -> None:
    table = label_table(inputs.corpus)
    assert len(table) == STUDIES
    assert (table.sum(axis=1) == 1).all()


def test_a_short_training_of_asg_has_the_papers_constants_at_preset_paper() -> None:
    own = RunConfig.from_preset("paper", method="asg", corpus="openi", root="/films", seed=3)
    run = RunConfig.from_preset("paper", corpus="openi", root="/films", seed=3, paired_ratio=0.1)
    short = short_asg_config(run, 120)
    assert short == replace_fields(own, pair_steps=120)
    assert (short.model.image_tower, short.train.batch_size, short.train.warmup_share) == (
        "facebook/deit-base-patch16-224", 288, 0.4,
    )  # fmt: skip
    run = RunConfig.from_preset("ci", seed=3, paired_ratio=0.1)
    whole = {"method": "asg", "paired_ratio": 1.0, "text_steps": 0, "pair_steps": 30, "relation_steps": 0}
    assert short_asg_config(run, 120) == replace_fields(run, **whole)


def test_a_real_corpus_without_a_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(stages.DATA_VARIABLE, raising=False)
    with pytest.raises(ValueError, match="corpus 'nih' needs the folder"):
        stages.load_inputs(RunConfig.from_preset("ci", corpus="nih"))
