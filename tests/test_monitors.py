"""Monitors: each way to collapse is named in a training that does collapse, and in none that does not."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import PlantedWorld, config
from scipy import sparse

from lgdea_core.inference import encode_tokens
from lgdea_core.model import LGDEAConfig
from lgdea_core.prototypes import assignment_sharpness
from lgdea_core.relations import AffinityRelations, GraphRelations, Relations, relation_quality
from lgdea_core.training import monitors
from lgdea_core.training.sampling import sample_batch

TEXT_ALONE = {"text_steps": 40, "pair_steps": 0, "relation_steps": 0}
NOTHING_KEEPS_PHRASES_APART = TEXT_ALONE | {"text": 0.0, "usage": 0.0}
FREE = TEXT_ALONE | {"text_steps": 80, "prototype_norm": "free"}
ALL_PHASES = {"text_steps": 20, "pair_steps": 20, "relation_steps": 8}
NAMES = ("prototype collapse", "uniform collapse", "norm collapse", "phrase collapse", "flat relations", "hub")


def named(caplog: pytest.LogCaptureFixture) -> set[str]:
    """Which of `NAMES` the log has, and anything else it warns of."""
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return {next((name for name in NAMES if f": {name}: " in message), message) for message in messages}


def train(world: PlantedWorld, folder: Path, **changes: object) -> pd.DataFrame:
    return world.train(config(**changes), len(world.reports) // 2, folder)[2]


# ---- trainings that collapse, and one that does not


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (NOTHING_KEEPS_PHRASES_APART, {"uniform collapse", "phrase collapse"}),
        # steps so long that one prototype takes all before the phrases are one point
        (NOTHING_KEEPS_PHRASES_APART | {"text_learning_rate": 0.1}, {"prototype collapse", "phrase collapse"}),
        # usage alone: every phrase spreads over all prototypes
        (TEXT_ALONE | {"text": 0.0, "usage": 20.0, "reconstruction": 0.0}, {"uniform collapse"}),
        (FREE | {"prototype_penalty": 5.0, "text_learning_rate": 0.05}, {"norm collapse", "uniform collapse"}),
        (ALL_PHASES | {"mode": "graph", "alpha": 0.99, "neighbours": 40}, {"flat relations"}),
    ],
)  # fmt: skip
def test_a_training_that_collapses_says_how(
    changes: dict[str, object], expected: set[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="lgdea"):
        train(PlantedWorld(48), tmp_path, **changes)
    assert expected <= named(caplog)  # on the way there it may look like another, too


@pytest.mark.slow
def test_a_report_that_alone_has_evidence_is_named_a_hub(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = PlantedWorld(48)
    world.evidence.loc[world.evidence.index[25:], "status"] = "uncertain"  # of 24 unpaired reports one is left
    with caplog.at_level(logging.WARNING, logger="lgdea"):
        history = train(world, tmp_path, **ALL_PHASES)
    assert named(caplog) == {"hub"}
    assert "one report stands for 24 images, the mean one for 1.0" in caplog.text
    assert history["max_column_mass"].iloc[-1] == pytest.approx(24)


@pytest.mark.slow
def test_a_healthy_training_warns_of_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="lgdea"):
        history = train(PlantedWorld(48), tmp_path, **ALL_PHASES)
    assert named(caplog) == set()
    assert set(history["phase"]) == {"text", "pairs", "relations"}


# ---- where the lines lie

HEALTHY = {
    "step": 7, "usage_entropy": np.log(7.5), "assignment_sharpness": 0.6, "prototype_norm": 1.0, "statements": 8,
    "reconstruction": 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "model", "expected"),
    [
        ({}, {}, set()),
        ({"usage_entropy": np.log(3.9)}, {}, {"prototype collapse"}),
        ({"usage_entropy": np.log(4.1)}, {}, set()),
        ({"usage_entropy": np.log(7.9), "statements": 90}, {}, {"prototype collapse"}),
        ({"usage_entropy": np.log(7.9), "statements": 90}, {"prototypes": 8}, set()),
        ({"usage_entropy": np.log(16), "assignment_sharpness": 1.4 / 16}, {}, {"uniform collapse"}),
        ({"usage_entropy": np.log(16), "assignment_sharpness": 1.6 / 16}, {}, set()),
        ({"usage_entropy": np.log(8), "assignment_sharpness": 1.4 / 8}, {}, {"uniform collapse"}),
        ({"usage_entropy": 0.0, "assignment_sharpness": 1.0, "statements": 1}, {}, set()),
        ({"usage_entropy": 0.0, "assignment_sharpness": 1.0, "statements": 3}, {}, {"prototype collapse"}),
        ({"prototype_norm": 0.09}, {"prototype_norm": "free"}, {"norm collapse"}),
        ({"prototype_norm": 0.09}, {"prototype_norm": "unit"}, set()),
        ({"prototype_norm": 0.11}, {"prototype_norm": "free"}, set()),
        ({"reconstruction": 9e-4}, {}, {"phrase collapse"}),
    ],
)
def test_where_a_collapse_begins(
    changes: dict[str, float], model: dict[str, object], expected: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="lgdea"):
        monitors.warn_of_collapse(HEALTHY | changes, LGDEAConfig(**{"prototypes": 16} | model))
    assert named(caplog) == expected
    assert all(record.getMessage().startswith("step 7: ") for record in caplog.records)


@pytest.mark.parametrize(
    ("mass", "effective", "expected"),
    [
        (np.ones(100), 79.0, set()),
        (np.ones(100), 81.0, {"flat relations"}),
        (np.repeat([1.0, 0.0], [60, 40]), 49.0, {"flat relations"}),  # of the 60 that are related at all
        (np.repeat([10.5, 0.9], [1, 99]), 20.0, {"hub"}),
        (np.repeat([9.5, 0.9], [1, 99]), 20.0, set()),
        (np.repeat([3.0, 0.05], [1, 999]), 20.0, set()),  # 38 times the mean, but of 53 images no hub
        (np.zeros(100), 1.0, set()),
    ],
)
def test_where_relations_begin_to_be_flat_or_to_have_a_hub(
    mass: np.ndarray, effective: float, expected: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="lgdea"):
        monitors.warn_of_relations(mass, effective, step=7)
    assert named(caplog) == expected


def test_rows_of_uniform_noise_have_as_many_effective_reports_as_their_threshold_says() -> None:
    rows = np.random.default_rng(0).random((200, 2000))
    truth = np.empty((0, 2), int), np.zeros((200, 1), bool), np.zeros((2000, 1), bool)
    quality = relation_quality(GraphRelations(sparse.csr_array(rows)), *truth)
    assert quality["effective_reports"] / 2000 == pytest.approx(np.exp(0.5) / 2, abs=0.003)
    assert quality["effective_reports"] / 2000 > monitors.FLAT_RELATIONS


def test_the_evidence_space_is_measured_on_the_batch_without_dropout() -> None:
    world, run = PlantedWorld(40), config()
    model, processor = world.model(run)
    data = world.training(24, processor.tokenizer)
    batch = sample_batch(data, run, 0, "text")
    with torch.no_grad():
        model.prototypes *= 0.5
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    found = monitors.evidence_space(model.train(), batch)
    assert model.training
    sharpness = assignment_sharpness(model.assign_phrases(encode_tokens(model, batch.phrase_tokens, batch.phrase_mask)))
    assert found["assignment_sharpness"] == pytest.approx(sharpness.item())
    assert found["prototype_norm"] == pytest.approx(0.5)
    assert found["statements"] == len({data.evidence.phrase_statement[phrase] for phrase in batch.phrases})


# ---- the history


def truth_of(world: PlantedWorld, known: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs and one-hot findings of the unpaired pools of `PlantedWorld.training`."""
    unpaired = len(world.labels) - known
    findings = np.eye(8, dtype=bool)[world.labels[known:]]
    return np.stack([np.arange(unpaired), np.arange(unpaired)[::-1]], axis=1), findings, findings[::-1]


def test_every_refresh_leaves_its_monitors_in_the_history(tmp_path: Path) -> None:
    world, run = PlantedWorld(40), config(text_steps=1, pair_steps=1, relation_steps=3, refresh_every=1)
    truth = truth_of(world, 24)
    seen: list[Relations] = []

    def measure(relations: Relations) -> dict[str, float]:
        seen.append(relations)
        return monitors.truth_monitor(*truth)(relations)

    given = GraphRelations(sparse.csr_array(np.eye(16)))
    _, _, history = world.train(run, 24, tmp_path, first_graph=given, after_refresh=measure)
    assert len(seen) == 3
    refreshed = history[history["phase"] == "relations"]
    assert history[history["phase"] != "relations"].filter(regex="relation_|hubness|max_column").isna().all(axis=None)
    for relations, (_, row) in zip(seen, refreshed.iterrows(), strict=True):
        quality = relation_quality(relations, *truth)
        for name in ("precision_at_1", "label_auc", "pair_lift"):
            assert row[f"relation_{name}"] == pytest.approx(quality[name])
        assert row["max_column_mass"] == pytest.approx(quality["max_column_mass"])
        assert isinstance(relations, AffinityRelations)
        assert row["marginal_error"] == relations.marginal_errors[-1]
    given_first = [True, False, False]  # no graph was built
    for name in ("propagation_steps", "image_hubness", "report_hubness"):
        assert refreshed[name].isna().tolist() == given_first
    assert refreshed["image_hubness"].nunique() == 2
    json.dumps(history.to_dict("records"))


def test_steps_are_in_the_history_and_marginals_only_where_there_are_any(tmp_path: Path) -> None:
    schedule = {"text_steps": 1, "pair_steps": 1, "relation_steps": 1}
    history = train(PlantedWorld(48), tmp_path, **schedule, mode="graph")
    assert history["propagation_steps"].iloc[-1] > 1
    assert "marginal_error" not in history
    alone = train(PlantedWorld(48), tmp_path / "alone", **schedule, mode="affinity")
    assert alone["marginal_error"].iloc[-1] > 0
    assert not {"image_hubness", "report_hubness", "propagation_steps"} & set(alone)
    free = train(PlantedWorld(48), tmp_path / "free", **schedule, mode="affinity", report_marginal=0.0)
    assert "marginal_error" not in free


def test_a_truth_without_findings_measures_nothing() -> None:
    pairs, findings = np.empty((0, 2), int), np.ones((3, 2), bool)
    assert monitors.truth_monitor(pairs, findings & False, findings) is None
    assert monitors.truth_monitor(pairs, np.zeros((3, 0), bool), np.zeros((3, 0), bool)) is None
    measure = monitors.truth_monitor(pairs, findings, findings)
    found = measure(GraphRelations(sparse.csr_array(np.eye(3))))
    assert found == {"relation_precision_at_1": 1.0}  # no hidden pair, and each finding has one value only
