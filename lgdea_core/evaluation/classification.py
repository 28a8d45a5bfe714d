"""Classification from scores: AUC, AP, F1 and accuracy, at thresholds that say where they were chosen."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from lgdea_core.evaluation.bootstrap import (
    Interval,
    Keys,
    Statistic,
    bootstrap_columns,
    bootstrap_mean,
)
from lgdea_core.evaluation.resamples import (
    accuracy_resamples,
    auc_resamples,
    average_precision_resamples,
    f1_resamples,
)

logger = logging.getLogger("lgdea")

Uncertain = Literal["exclude", "positive", "negative"]
Metric = Literal["auc", "ap", "f1_oracle", "accuracy_oracle", "f1_validation", "accuracy_validation"]
"""F1 and accuracy say where their threshold was chosen: "oracle", to maximise F1 on the very labels they are measured
on, as MedKLIP, KAD, BenchX and ASG report them, hence optimistic; "validation", likewise on other images"""
ORACLE_METRICS: tuple[Metric, ...] = ("ap", "f1_oracle", "accuracy_oracle")
VALIDATION_METRICS: tuple[Metric, ...] = ("f1_validation", "accuracy_validation")
TAIL_POSITIVES = 10
"""Most positives of a finding of the long tail (KAD's and CARZero's PadChest20)."""


def auc_table(
    scores: Float[np.ndarray, "images findings"],
    labels: pd.DataFrame | np.ndarray,
    findings: Sequence[str],
    patients: Keys,
    min_positives: int = 10,
    uncertain: Uncertain = "exclude",
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """AUC of every finding and their macro mean, with intervals over resampled patients.

    A finding with fewer than `min_positives` positives, or without a negative, keeps its row but has no AUC and does
    not enter the macro mean: which findings count must be read from the table, not guessed.

    Args:
        scores: larger means more likely present.
        labels: 1, 0, -1 (uncertain) or NaN (unknown, left out), in the order of `scores`; a data frame is read by its
            columns `findings`.
        findings: names of the columns of `scores`.
        patients: the patient of each image.
        min_positives: smallest number of positives worth an AUC.
        uncertain: what -1 counts as.
        resamples: bootstrap draws.
        seed: fixes the draws.
        level: share of the draws inside the interval, in (0, 1).

    Returns:
        Columns finding, auc, low, high, positives, n, degenerate; the last row is "macro", whose `n` counts images
        with any label and whose `positives` are summed over the scored findings.

    Raises:
        ValueError: shapes do not fit.
    """
    values = _label_values(labels, findings, scores, uncertain, "auc_table")
    options = {"min_positives": min_positives, "resamples": resamples, "seed": seed, "level": level}
    table = classification_table(scores, values, findings, patients, metrics=("auc",), **options)
    return table.drop(columns=["metric", "threshold"]).rename(columns={"estimate": "auc"})


def classification_table(
    scores: Float[np.ndarray, "images findings"],
    labels: pd.DataFrame | np.ndarray,
    findings: Sequence[str],
    patients: Keys,
    *,
    metrics: Sequence[Metric] = ("auc", *ORACLE_METRICS),
    thresholds: Float[np.ndarray, " findings"] | None = None,
    min_positives: int = 10,
    uncertain: Uncertain = "exclude",
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """AUC, AP, F1 and accuracy of every finding and their macro means, with intervals over resampled patients.

        AP  = sum_k (R_k - R_k-1) P_k over the distinct scores, from the highest down (scikit-learn's)
        F1  = 2 TP / (2 TP + FP + FN),  accuracy = (TP + TN) / n,  positive where score >= threshold

    A threshold is chosen once, on all images, and held in every resample: the interval is that of the operating point,
    not of choosing it. MedKLIP and BenchX count the image at the threshold itself as negative, in accuracy alone; here
    it is positive in both. A finding with fewer than `min_positives` positives, without a negative or, for
    `*_validation`, without a threshold keeps its row, is NaN and does not enter the macro mean.

    Args:
        scores: larger means more likely present; where `thresholds` are given, on their scale.
        labels: 1, 0, -1 (uncertain) or NaN (unknown, left out), in the order of `scores`; a data frame is read by its
            columns `findings`.
        findings: names of the columns of `scores`.
        patients: the patient of each image.
        metrics: which rows.
        thresholds: of `validation_thresholds`; needed by `*_validation`.
        min_positives: smallest number of positives worth a value.
        uncertain: what -1 counts as.
        resamples: bootstrap draws.
        seed: fixes the draws.
        level: share of the draws inside the interval, in (0, 1).

    Returns:
        Columns metric, finding, estimate, low, high, threshold, positives, n, degenerate; the last row of each metric
        is "macro", counted as in `auc_table`.

    Raises:
        ValueError: shapes do not fit, or a validation metric is asked for without thresholds.
    """
    values = _label_values(labels, findings, scores, uncertain, "classification_table")
    carried = [metric for metric in metrics if metric in VALIDATION_METRICS]
    if carried and (thresholds is None or len(thresholds) != len(findings)):
        raise ValueError(f"classification_table: {carried} need a threshold for each of {len(findings)} findings")
    positives, negatives, countable = _countable(values, min_positives)
    own = np.array([best_f1_threshold(*_known(values, scores, column)) for column in range(len(findings))])
    rows = []
    for metric in metrics:
        points = thresholds if metric in carried else own
        scored = countable & np.isfinite(points)
        statistics = [_statistic(metric, points[column]) for column in np.flatnonzero(scored)]
        options = {"resamples": resamples, "seed": seed, "level": level}
        intervals, macro = (
            bootstrap_columns(statistics, values[:, scored], scores[:, scored], patients, **options)
            if statistics
            else ([], None)
        )
        found = iter(intervals)
        for column, finding in enumerate(findings):
            known = int(positives[column] + negatives[column])
            row = _row(finding, next(found) if scored[column] else None, int(positives[column]), known, "estimate")
            used = points[column] if metric not in ("auc", "ap") and scored[column] else np.nan
            rows.append({"metric": metric, **row, "threshold": used})
        summed = _row("macro", macro, int(positives[scored].sum()), macro.n if macro else 0, "estimate")
        rows.append({"metric": metric, **summed, "threshold": np.nan})
    columns = ["metric", "finding", "estimate", "low", "high", "threshold", "positives", "n", "degenerate"]
    return pd.DataFrame(rows)[columns]


def whole_set_rows(
    scores: Float[np.ndarray, "images findings"],
    labels: Float[np.ndarray, "images findings"],
    findings: Sequence[str],
    patients: Keys,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Two metrics that speak of all findings at once, where the labels allow them.

    `auc_tail`, finding "macro": mean AUC of the findings with 1 to `TAIL_POSITIVES` positives, which a macro AUC over
    common findings leaves out. `accuracy_argmax`, finding "all": share of images whose largest score is that of the
    finding they show, where every image shows exactly one (GLoRIA on CheXpert 5x200).

    Args:
        scores: larger means more likely present; for `accuracy_argmax` on one scale, such as z-scores over the images.
        labels: 1, 0 or NaN.
        findings: names of the columns.
        patients: the patient of each image.
        resamples: bootstrap draws.
        seed: fixes the draws.

    Returns:
        Columns metric, finding, estimate, low, high, positives, n, degenerate.
    """
    shown, rows = labels == 1, []
    positives = shown.sum(axis=0)
    tail = (positives > 0) & (positives <= TAIL_POSITIVES)
    if tail.any():
        names = [finding for finding, rare in zip(findings, tail, strict=True) if rare]
        options = {"min_positives": 1, "resamples": resamples, "seed": seed}
        macro = auc_table(scores[:, tail], labels[:, tail], names, patients, **options).iloc[-1].to_dict()
        rows.append({"metric": "auc_tail", "estimate": macro.pop("auc"), **macro})
    if len(findings) > 1 and (shown.sum(axis=1) == 1).all():
        right = scores.argmax(axis=1) == shown.argmax(axis=1)
        interval = bootstrap_mean(right.astype(float), patients, resamples=resamples, seed=seed)
        row = _row("all", interval, len(right), len(right), "estimate")
        rows.append({"metric": "accuracy_argmax", **row})
    columns = ["metric", "finding", "estimate", "low", "high", "positives", "n", "degenerate"]
    return pd.DataFrame(rows, columns=columns)


def validation_thresholds(
    scores: Float[np.ndarray, "images findings"],
    labels: pd.DataFrame | np.ndarray,
    findings: Sequence[str],
    uncertain: Uncertain = "exclude",
) -> Float[np.ndarray, " findings"]:
    """The threshold of each finding that maximises F1 on validation images; NaN, which the log says, where none can.

    Args:
        scores: of the validation images, on the scale of those the thresholds are for (`combine_channels`).
        labels: as of `classification_table`.
        findings: names of the columns of `scores`.
        uncertain: what -1 counts as.
    """
    values = _label_values(labels, findings, scores, uncertain, "validation_thresholds")
    positives, negatives, usable = _countable(values, 1)
    for column in np.flatnonzero(~usable):
        counts = f"{positives[column]} positives and {negatives[column]} negatives"
        logger.info("finding %s: %s among validation images, so no threshold", findings[column], counts)
    chosen = [best_f1_threshold(*_known(values, scores, column)) for column in range(len(findings))]
    return np.where(usable, chosen, np.nan)


def best_f1_threshold(labels: Float[np.ndarray, " images"], scores: Float[np.ndarray, " images"]) -> float:
    """The score from which on calling images positive gives the largest F1; the lowest of several; NaN, if no positive.

        F1(t) = 2 TP / (TP + FP + positives),  positive where score >= t

    Args:
        labels: 1 or 0.
        scores: larger means more likely positive.
    """
    positives = int((labels == 1).sum())
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # a threshold lies below all of equal scores or above all
    calls = np.flatnonzero(last) + 1
    f1 = 2 * np.cumsum(labels[order] == 1)[last] / (calls + positives)
    return float(ranked[last][len(f1) - 1 - np.argmax(f1[::-1])])


def _statistic(metric: Metric, threshold: float) -> Statistic:
    if metric == "auc":
        return auc_resamples
    if metric == "ap":
        return average_precision_resamples
    return partial(_at_threshold, f1_resamples if metric.startswith("f1") else accuracy_resamples, threshold)


def _at_threshold(
    statistic: Statistic,
    threshold: float,
    labels: np.ndarray,
    scores: np.ndarray,
    codes: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    return statistic(labels, scores >= threshold, codes, counts)


def _label_values(
    labels: pd.DataFrame | np.ndarray, findings: Sequence[str], scores: np.ndarray, uncertain: Uncertain, where: str
) -> np.ndarray:
    """Labels as 1, 0 or NaN, in the shape of the scores."""
    values = labels[list(findings)].to_numpy(dtype=float) if isinstance(labels, pd.DataFrame) else labels.astype(float)
    if values.shape != scores.shape or len(findings) != scores.shape[1]:
        raise ValueError(
            f"{where}: expected labels and {len(findings)} findings for scores of shape {scores.shape}, "
            f"got labels of shape {values.shape}"
        )
    return np.where(values == -1, {"exclude": np.nan, "positive": 1.0, "negative": 0.0}[uncertain], values)


def _countable(values: np.ndarray, min_positives: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positives and negatives of each finding, and whether they are enough."""
    positives, negatives = (values == 1).sum(axis=0), (values == 0).sum(axis=0)
    return positives, negatives, (positives >= max(1, min_positives)) & (negatives > 0)


def _known(values: np.ndarray, scores: np.ndarray, column: int) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(values[:, column])
    return values[known, column], scores[known, column]


def _row(finding: str, interval: Interval | None, positives: int, n: int, name: str = "auc") -> dict[str, object]:
    missing = float("nan")
    return {
        "finding": finding,
        name: interval.estimate if interval else missing,
        "low": interval.low if interval else missing,
        "high": interval.high if interval else missing,
        "positives": positives,
        "n": n,
        "degenerate": interval.degenerate if interval else 0,
    }
