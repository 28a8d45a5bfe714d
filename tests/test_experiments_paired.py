"""Differences of two models on the same patients: their values, their intervals, and which are made."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lgdea_core.evaluation.bootstrap import Bootstrap
from lgdea_core.experiments.paired import Answers, difference_rows, paired
from lgdea_core.experiments.plans import CONTROL, WITHOUT_IMAGES

STUDIES = 120
PATIENTS = [f"p{study // 2}" for study in range(STUDIES)]
FEW = Bootstrap(resamples=200)


def answers(seed: int, skill: float) -> Answers:
    """Of a model whose scores follow the labels by `skill`; labels and half of the noise are those of every model."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    labels = (shared.random((STUDIES, 2)) < 0.3).astype(float)
    noise = shared.normal(size=(STUDIES, 2)) + 0.3 * own.normal(size=(STUDIES, 2))
    abnormal = labels.max(axis=1)
    abnormal[:7] = np.nan
    return Answers(
        findings=("edema", "nodule"),
        labels=np.where(np.arange(STUDIES)[:, None] < [0, 9], np.nan, labels),
        scores=noise + skill * labels,
        abnormal=abnormal,
        abnormal_scores=(noise + skill * labels).mean(axis=1),
        patients=PATIENTS,
        hits={"recall_at_10": (own.random(STUDIES) < skill / 4).astype(float)},
        study_patients=PATIENTS,
    )


def test_a_difference_is_that_of_the_means_over_seeds_and_its_interval_is_narrower_than_each_model_s() -> None:
    ours, others = [answers(seed, 2.0) for seed in (1, 2, 3)], [answers(seed, 1.0) for seed in (4, 5)]
    found = {(metric, finding): interval for metric, finding, interval in difference_rows(ours, others, FEW)}
    assert list(found) == [
        ("auc", "macro"), ("auc", "edema"), ("auc", "nodule"), ("auc_abnormal", "all"), ("recall_at_10", "all"),
    ]  # fmt: skip

    def auc(side: list[Answers], column: int) -> float:
        known = np.isfinite(side[0].labels[:, column])
        return np.mean([roc_auc_score(one.labels[known, column], one.scores[known, column]) for one in side])

    by_hand = [auc(ours, column) - auc(others, column) for column in (0, 1)]
    assert found["auc", "edema"].estimate == pytest.approx(by_hand[0], abs=1e-12)
    assert found["auc", "macro"].estimate == pytest.approx(np.mean(by_hand), abs=1e-12)
    known = np.isfinite(ours[0].abnormal)
    abnormal = [
        np.mean([roc_auc_score(one.abnormal[known], one.abnormal_scores[known]) for one in side])
        for side in (ours, others)
    ]
    assert found["auc_abnormal", "all"].estimate == pytest.approx(abnormal[0] - abnormal[1], abs=1e-12)
    assert found["recall_at_10", "all"].n == STUDIES
    interval = found["auc", "macro"]
    assert 0 < interval.low < interval.estimate < interval.high
    _, alone = FEW.columns([auc_of] * 2, ours[0].labels, ours[0].scores, PATIENTS)
    assert interval.high - interval.low < alone.high - alone.low


def auc_of(labels: np.ndarray, scores: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AUC of every resample, by scikit-learn."""
    return np.array([roc_auc_score(labels, scores, sample_weight=row[codes]) for row in counts])


def test_a_model_has_no_lead_over_itself() -> None:
    same = [answers(1, 1.0)]
    assert all((found.estimate, found.low, found.high) == (0, 0, 0) for _, _, found in difference_rows(same, same, FEW))


def test_lgdea_is_compared_at_its_ratio_with_all_pairs_and_with_its_own_variants() -> None:
    plan = paired(seeds=(1, 2), ratios=(0.1,), methods=("clip", "lgdea"), corpora=("nih",))
    against = {tuple(job.key[f"against{part}"] for part in ("", "_variant", "_ratio")) for job in plan}
    assert against == {
        ("clip", "", 0.1), ("clip", "", 1.0), ("lgdea", "", 1.0),
        ("lgdea", CONTROL, 0.1), ("lgdea", WITHOUT_IMAGES, 0.1),
    }  # fmt: skip
    assert {(job.key["seeds"], job.key["paired_ratio"], job.key["corpus"]) for job in plan} == {("1 2", 0.1, "nih")}
    assert all("make it with\n    python -m lgdea_core.experiments" in job.needs for job in plan)
