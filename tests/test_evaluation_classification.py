"""AUC, AP, F1 and accuracy of findings, against scikit-learn and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from lgdea_core.evaluation.bootstrap import Bootstrap
from lgdea_core.evaluation.classification import (
    ORACLE_METRICS,
    VALIDATION_METRICS,
    abnormal_rows,
    best_f1_threshold,
    classification_table,
    validation_thresholds,
    whole_set_rows,
)

FEW = Bootstrap(resamples=30)
EVERY = ("auc", *ORACLE_METRICS)


def test_a_table_lists_what_it_left_out_and_leaves_unknown_and_uncertain_labels_out() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((120, 3)) < [0.5, 0.3, 0.02]).astype(float)
    labels[:10, 1], labels[10:21, 1] = np.nan, -1
    known = labels[:, 1] >= 0
    scores = generator.normal(size=(120, 3)) + np.nan_to_num(labels)
    table = classification_table(scores, labels, ["a", "b", "rare"], np.arange(120) // 3, FEW).set_index("finding")
    expected = [roc_auc_score(labels[:, 0], scores[:, 0]), roc_auc_score(labels[known, 1], scores[known, 1])]
    assert table.loc[["a", "b"], "estimate"].tolist() == pytest.approx(expected, abs=1e-12)
    assert table.loc["macro", "estimate"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert table.loc["b", "n"] == 99
    assert math.isnan(table.loc["rare", "estimate"])
    assert table.loc["rare", "positives"] == (labels[:, 2] == 1).sum()
    assert (table.loc[["a", "b", "macro"], "low"] < table.loc[["a", "b", "macro"], "estimate"]).all()
    assert list(table.index) == ["a", "b", "rare", "macro"]


def test_table_without_any_scored_finding() -> None:
    table = classification_table(np.zeros((4, 1)), np.array([[1.0], [0.0], [0.0], [0.0]]), ["a"], list("pqrs"), FEW)
    assert table["estimate"].isna().all()
    assert table["positives"].tolist() == [1, 0]


def test_abnormal_images_rank_above_normal_ones_by_all_findings_on_one_scale() -> None:
    generator = np.random.default_rng(0)
    normal, patients = np.repeat([1.0, 0.0, np.nan, -1.0], [30, 30, 5, 5]), np.arange(70)
    scores = np.stack([generator.normal(size=70), 1000 * generator.normal(size=70), np.full(70, 7.0)], axis=1)
    scores[normal == 0, 0] += 3
    [row] = abnormal_rows(scores, normal, patients, FEW).to_dict("records")
    standard = sum((scores[:, at] - scores[:, at].mean()) / scores[:, at].std() for at in (0, 1))  # the third is silent
    assert row["estimate"] == pytest.approx(roc_auc_score(normal[:60] == 0, standard[:60]), abs=1e-12)
    assert (row["metric"], row["finding"], row["n"], row["positives"]) == ("auc_abnormal", "all", 60, 30)
    assert abnormal_rows(scores[:39], normal[:39], patients[:39], FEW).empty, "nine abnormal images are too few"


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(1, 8))
def test_the_best_threshold_is_the_lowest_of_the_largest_f1(seed: int, levels: int) -> None:
    generator = np.random.default_rng(seed)
    labels, scores = (generator.random(25) < 0.3).astype(float), generator.integers(0, levels, 25).astype(float)
    labels[0] = 1
    f1 = {threshold: f1_score(labels, scores >= threshold) for threshold in np.unique(scores)}
    threshold = best_f1_threshold(labels, scores)
    assert f1[threshold] == pytest.approx(max(f1.values()), abs=1e-12)
    assert threshold == min(value for value, found in f1.items() if found > max(f1.values()) - 1e-12)
    precision, recall, _ = precision_recall_curve(labels, scores)  # as MedKLIP finds it
    assert f1[threshold] == pytest.approx(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


def test_best_threshold_by_hand() -> None:
    assert best_f1_threshold(np.array([0.0, 1, 0, 1, 1]), np.array([0.1, 0.35, 0.4, 0.8, 0.9])) == 0.35  # 6/7
    assert best_f1_threshold(np.array([1.0, 0, 0]), np.array([0.5, 0.5, 0.1])) == 0.5
    assert best_f1_threshold(np.array([1.0, 1.0]), np.array([0.2, 0.7])) == 0.2
    assert math.isnan(best_f1_threshold(np.array([0.0, 0.0]), np.array([0.2, 0.7])))


def world(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of three findings, the third with unknown ones, and scores with ties."""
    generator = np.random.default_rng(seed)
    labels = (generator.random((images, 3)) < [0.5, 0.2, 0.3]).astype(float)
    scores = np.round(generator.normal(size=(images, 3)) + labels, 1)
    labels[: images // 5, 2] = np.nan
    return labels, scores


NAMES = ["a", "b", "c"]


def test_every_metric_equals_scikit_learn_per_finding_and_macro() -> None:
    labels, scores = world(200, seed=0)
    thresholds = np.array([0.5, 0.8, 0.2])
    table = classification_table(
        scores, labels, NAMES, np.arange(200) // 2, Bootstrap(resamples=50), thresholds=thresholds,
        metrics=(*EVERY, *VALIDATION_METRICS),
    ).set_index(["metric", "finding"])  # fmt: skip
    expected: dict[str, list[float]] = {}
    for column in range(3):
        known = np.isfinite(labels[:, column])
        truth, score = labels[known, column], scores[known, column]
        best = max(np.unique(score), key=lambda threshold: (f1_score(truth, score >= threshold), -threshold))
        assert table.loc[("f1_oracle", NAMES[column]), "threshold"] == best
        assert table.loc[("accuracy_validation", NAMES[column]), "threshold"] == thresholds[column]
        assert table.loc[("ap", NAMES[column]), "n"] == known.sum()
        for metric, value in {
            "auc": roc_auc_score(truth, score),
            "ap": average_precision_score(truth, score),
            "f1_oracle": f1_score(truth, score >= best),
            "accuracy_oracle": accuracy_score(truth, score >= best),
            "f1_validation": f1_score(truth, score >= thresholds[column]),
            "accuracy_validation": accuracy_score(truth, score >= thresholds[column]),
        }.items():
            expected.setdefault(metric, []).append(value)
            assert table.loc[(metric, NAMES[column]), "estimate"] == pytest.approx(value, abs=1e-6), metric
    for metric, values in expected.items():
        row = table.loc[(metric, "macro")]
        assert row["estimate"] == pytest.approx(np.mean(values), abs=1e-6)
        assert row["low"] < row["estimate"] < row["high"]
        assert row["n"] == 200
    assert table["threshold"].loc[["auc", "ap"]].isna().all()
    assert table["threshold"].xs("macro", level="finding").isna().all()


def test_the_threshold_is_held_in_every_resample() -> None:
    labels, scores = world(60, seed=2)
    labels, scores, patients = labels[:, :1], scores[:, :1], np.arange(60) // 3
    draw = Bootstrap(resamples=300, seed=5)
    table = classification_table(scores, labels, ["a"], patients, draw, metrics=("f1_oracle",))
    threshold, generator = table["threshold"][0], np.random.default_rng(5)
    draws = []
    for drawn in generator.integers(20, size=(300, 20)):
        rows = np.concatenate([np.flatnonzero(patients == patient) for patient in drawn])
        draws.append(f1_score(labels[rows, 0], scores[rows, 0] >= threshold))
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=1e-9)


def test_thresholds_of_other_images_are_worse_than_the_oracle_and_say_so() -> None:
    labels, scores = world(300, seed=0)
    other_labels, other_scores = world(300, seed=1)
    other_scores[:, 1] += 3  # b was scored on another scale
    thresholds = validation_thresholds(other_scores, other_labels, NAMES)
    metrics = (*EVERY, *VALIDATION_METRICS)
    table = classification_table(scores, labels, NAMES, np.arange(300), FEW, metrics=metrics, thresholds=thresholds)
    carried = best = table.set_index(["metric", "finding"])["estimate"]
    assert all(carried["f1_validation", name] <= best["f1_oracle", name] + 1e-12 for name in NAMES)
    assert carried["f1_validation", "a"] > best["f1_oracle", "a"] - 0.05
    assert carried["f1_validation", "b"] < best["f1_oracle", "b"] - 0.05


def test_findings_without_a_class_or_a_threshold_keep_their_rows(caplog: pytest.LogCaptureFixture) -> None:
    labels, scores = world(80, seed=0)
    labels[:, 1], names = 0.0, ["fine", "no positive", "all positive"]
    labels[:, 2] = 1.0
    table = classification_table(scores, labels, names, np.arange(80), FEW, metrics=EVERY)
    table = table.set_index(["metric", "finding"])
    for metric in ("auc", "ap", "f1_oracle", "accuracy_oracle"):
        assert table["estimate"].loc[metric].isna().tolist() == [False, True, True, False]
        assert table.loc[(metric, "macro"), "estimate"] == table.loc[(metric, "fine"), "estimate"]
        assert table.loc[(metric, "all positive"), ["positives", "n"]].tolist() == [80, 80]
    validation = labels.copy()
    validation[:, 0] = 0
    with caplog.at_level("INFO", logger="lgdea"):
        thresholds = validation_thresholds(scores, validation, names)
    assert np.isnan(thresholds).all()
    assert "finding fine: 0 positives and 80 negatives among validation images, so no threshold" in caplog.text
    carried = classification_table(
        scores, labels, names, np.arange(80), FEW, metrics=("f1_validation",), thresholds=thresholds
    )
    assert carried["estimate"].isna().all()
    assert carried["finding"].tolist() == [*names, "macro"]


def test_scores_that_are_all_the_same_call_everything_positive() -> None:
    labels = np.array([[1.0], [0.0], [1.0], [0.0], [0.0]])
    table = classification_table(np.zeros((5, 1)), labels, ["a"], list("pqrst"), FEW, metrics=EVERY, min_positives=1)
    found = table[table["finding"] == "a"].set_index("metric")["estimate"]
    assert found.to_dict() == {
        "auc": 0.5, "ap": pytest.approx(0.4), "f1_oracle": pytest.approx(4 / 7), "accuracy_oracle": pytest.approx(0.4),
    }  # fmt: skip


def test_thresholds_leave_uncertain_labels_out() -> None:
    assert validation_thresholds(np.array([[3.0], [2.0], [1.0]]), np.array([[1.0], [0.0], [-1.0]]), ["a"]) == [3]


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"classification_table: .* got labels of shape \(3, 1\)"):
        classification_table(np.zeros((3, 2)), np.zeros((3, 1)), ["a", "b"], list("pqr"), FEW)
    with pytest.raises(ValueError, match=r"\['f1_validation'\] need a threshold for each of 1 findings"):
        classification_table(np.zeros((3, 1)), np.zeros((3, 1)), ["a"], list("pqr"), FEW, metrics=("f1_validation",))


def test_rare_findings_have_a_macro_mean_of_their_own() -> None:
    generator = np.random.default_rng(0)
    labels = np.zeros((60, 4))
    for column, positives in enumerate((1, 10, 11, 0)):
        labels[:positives, column] = 1
    scores, patients = generator.normal(size=labels.shape), np.arange(60)
    table = whole_set_rows(scores, labels, list("abcd"), patients, FEW).set_index("metric")
    expected = np.mean([roc_auc_score(labels[:, column], scores[:, column]) for column in (0, 1)])
    assert list(table.index) == ["auc_tail"], "an image shows several findings or none, so none is the largest"
    assert table.loc["auc_tail", "estimate"] == pytest.approx(expected, abs=1e-9)
    assert table.loc["auc_tail", ["finding", "positives"]].tolist() == ["macro", 11]
    common = np.ones((60, 2)) * (np.arange(60) < 30)[:, None]
    assert whole_set_rows(scores[:, :2], common, ["a", "b"], patients, FEW).empty


def test_where_every_image_shows_one_finding_the_largest_score_is_right_or_wrong() -> None:
    labels = np.full((40, 3), np.nan)
    labels[np.arange(40), np.arange(40) % 3] = 1
    scores = np.where(labels == 1, 1.0, 0.0)
    scores[:10] = [[9.0, 0.0, 0.0]]  # right for every third of these
    table = whole_set_rows(scores, labels, list("abc"), np.arange(40), FEW).set_index("metric")
    assert table.loc["accuracy_argmax", ["finding", "estimate", "n"]].tolist() == ["all", (30 + 4) / 40, 40]
    labels[0, 1] = 1
    rows = whole_set_rows(scores, labels, list("abc"), np.arange(40), FEW)
    assert "accuracy_argmax" not in set(rows["metric"])
