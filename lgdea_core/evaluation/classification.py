"""Classification from scores: AUC, AP, F1 and accuracy, at thresholds that say where they were chosen."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from lgdea_core.evaluation.bootstrap import (
    NO_INTERVAL,
    Bootstrap,
    Interval,
    Keys,
    Statistic,
    accuracy_resamples,
    auc_resamples,
    average_precision_resamples,
    f1_resamples,
)
from lgdea_core.inference import finite

logger = logging.getLogger("lgdea")

Metric = Literal["auc", "ap", "f1_oracle", "accuracy_oracle", "f1_validation", "accuracy_validation"]
"""F1 and accuracy say where their threshold was chosen: "oracle", to maximise F1 on the very labels they are measured
on, as MedKLIP, KAD, BenchX and ASG report them, hence optimistic; "validation", likewise on other images"""
ORACLE_METRICS: tuple[Metric, ...] = ("ap", "f1_oracle", "accuracy_oracle")
VALIDATION_METRICS: tuple[Metric, ...] = ("f1_validation", "accuracy_validation")
MIN_POSITIVES = 10
"""Fewest positives of a finding that get a value."""
TAIL_POSITIVES = 10
"""Most positives of a finding of the long tail (KAD's and CARZero's PadChest20)."""


def classification_table(
    scores: Float[np.ndarray, "images findings"],
    labels: np.ndarray,
    findings: Sequence[str],
    patients: Keys,
    bootstrap: Bootstrap,
    *,
    metrics: Sequence[Metric] = ("auc",),
    thresholds: Float[np.ndarray, " findings"] | None = None,
    min_positives: int = MIN_POSITIVES,
) -> pd.DataFrame:
    """AUC, AP, F1 and accuracy of every finding and their macro means, with intervals over resampled patients.

        AP  = sum_k (R_k - R_k-1) P_k over the distinct scores, from the highest down (scikit-learn's)
        F1  = 2 TP / (2 TP + FP + FN),  accuracy = (TP + TN) / n,  positive where score >= threshold

    A threshold is chosen once, on all images, and held in every resample: the interval is that of the operating point,
    not of choosing it. MedKLIP and BenchX count the image at the threshold itself as negative, in accuracy alone; here
    it is positive in both. A finding with fewer than `min_positives` positives, without a negative or, for
    `*_validation`, without a threshold keeps its row, is NaN and does not enter the macro mean: which findings count
    must be read from the table, not guessed.

    Args:
        scores: larger means more likely present; where `thresholds` are given, on their scale.
        labels: 1, 0, -1 (uncertain) or NaN (unknown), in the shape of `scores`; the last two are left out.
        findings: names of the columns.
        patients: the patient of each image.
        bootstrap: draws the intervals.
        metrics: which rows.
        thresholds: of `validation_thresholds`; needed by `*_validation`.
        min_positives: smallest number of positives worth a value.

    Returns:
        Columns metric, finding, estimate, low, high, threshold, positives, n, degenerate, warning; the last row of each
        metric is "macro", whose `n` counts images with any label and whose `positives` are summed over the scored
        findings.

    Raises:
        ValueError: shapes do not fit, or a validation metric is asked for without thresholds.
    """
    values = _known_labels(labels, findings, scores, "classification_table")
    carried = [metric for metric in metrics if metric in VALIDATION_METRICS]
    if carried and (thresholds is None or len(thresholds) != len(findings)):
        raise ValueError(f"classification_table: {carried} need a threshold for each of {len(findings)} findings")
    positives, negatives, countable = _countable(values, min_positives)
    own = _best_thresholds(values, scores)
    rows = []
    for metric in metrics:
        points = thresholds if metric in carried else own
        scored = countable & np.isfinite(points)
        intervals, macro = [], NO_INTERVAL
        if scored.any():
            statistics = [_statistic(metric, points[column]) for column in np.flatnonzero(scored)]
            intervals, macro = bootstrap.columns(statistics, values[:, scored], scores[:, scored], patients)
        found = iter(intervals)
        for column, finding in enumerate(findings):
            known = int(positives[column] + negatives[column])
            interval = next(found) if scored[column] else NO_INTERVAL
            used = points[column] if metric not in ("auc", "ap") and scored[column] else np.nan
            rows.append(_row(metric, finding, interval, int(positives[column]), known, used))
        rows.append(_row(metric, "macro", macro, int(positives[scored].sum()), macro.n))
    return pd.DataFrame(rows)


def whole_set_rows(
    scores: Float[np.ndarray, "images findings"],
    labels: Float[np.ndarray, "images findings"],
    findings: Sequence[str],
    patients: Keys,
    bootstrap: Bootstrap,
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
        bootstrap: draws the intervals.

    Returns:
        Columns of `classification_table`.
    """
    shown, tables = labels == 1, []
    positives = shown.sum(axis=0)
    tail = (positives > 0) & (positives <= TAIL_POSITIVES)
    if tail.any():
        names = [finding for finding, rare in zip(findings, tail, strict=True) if rare]
        table = classification_table(scores[:, tail], labels[:, tail], names, patients, bootstrap, min_positives=1)
        tables.append(table.iloc[[-1]].assign(metric="auc_tail"))
    if len(findings) > 1 and (shown.sum(axis=1) == 1).all():
        finite(scores, "whole_set_rows")
        right = scores.argmax(axis=1) == shown.argmax(axis=1)
        interval = bootstrap.mean(right.astype(float), patients)
        tables.append(pd.DataFrame([_row("accuracy_argmax", "all", interval, len(right), len(right))]))
    return pd.concat(tables) if tables else pd.DataFrame(columns=["metric", "finding"])


def abnormal_rows(
    scores: Float[np.ndarray, "images findings"],
    normal: Float[np.ndarray, " images"],
    patients: Keys,
    bootstrap: Bootstrap,
) -> pd.DataFrame:
    """`auc_abnormal`, finding "all": how well abnormal images rank above normal ones, by `abnormal_scores`.

    Args:
        scores: larger means more likely present.
        normal: label "no finding": 1, 0 or unknown, which is left out.
        patients: the patient of each image.
        bootstrap: draws the interval.

    Returns:
        Columns of `classification_table`; no row where fewer than `MIN_POSITIVES` images are normal, or abnormal.
    """
    abnormal = known_abnormal(normal)
    if min((abnormal == 1).sum(), (abnormal == 0).sum()) < MIN_POSITIVES:
        return pd.DataFrame(columns=["metric", "finding"])
    table = classification_table(abnormal_scores(scores)[:, None], abnormal[:, None], ["all"], patients, bootstrap)
    return table[table["finding"] == "all"].assign(metric="auc_abnormal")


def abnormal_scores(scores: Float[np.ndarray, "images findings"]) -> Float[np.ndarray, " images"]:
    """How far an image shows more of all findings than other images do.

        mean over findings of (score - mean of the finding's scores) / their standard deviation, over the images

    No prompt asks for "abnormal". A finding whose score is the same for all images adds nothing.
    """
    varies = np.ptp(scores, axis=0) > 0
    centred = scores - scores.mean(axis=0)
    return np.where(varies, centred / np.where(varies, scores.std(axis=0), 1.0), 0.0).mean(axis=1)


def known_abnormal(normal: Float[np.ndarray, " images"]) -> Float[np.ndarray, " images"]:
    """1 where label "no finding" is 0, 0 where it is 1, else NaN."""
    return np.where(np.isin(normal, (0, 1)), 1 - normal, np.nan)


def validation_thresholds(
    scores: Float[np.ndarray, "images findings"],
    labels: Float[np.ndarray, "images findings"],
    findings: Sequence[str],
) -> Float[np.ndarray, " findings"]:
    """The threshold of each finding that maximises F1 on validation images; NaN, which the log says, where none can.

    Args:
        scores: of the validation images, on the scale of those the thresholds are for (`combine_channels`).
        labels: as of `classification_table`.
        findings: names of the columns.
    """
    values = _known_labels(labels, findings, scores, "validation_thresholds")
    positives, negatives, usable = _countable(values, 1)
    for column in np.flatnonzero(~usable):
        counts = f"{positives[column]} positives and {negatives[column]} negatives"
        logger.info("finding %s: %s among validation images, so no threshold", findings[column], counts)
    return np.where(usable, _best_thresholds(values, scores), np.nan)


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
    order = np.argsort(-finite(scores, "best_f1_threshold"), kind="stable")
    ranked = scores[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # a threshold lies below all of equal scores or above all
    calls = np.flatnonzero(last) + 1
    f1 = 2 * np.cumsum(labels[order] == 1)[last] / (calls + positives)
    return float(ranked[last][len(f1) - 1 - np.argmax(f1[::-1])])


def _best_thresholds(values: np.ndarray, scores: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    columns = range(values.shape[1])
    return np.array([best_f1_threshold(values[known[:, at], at], scores[known[:, at], at]) for at in columns])


def _statistic(metric: Metric, threshold: float) -> Statistic:
    if metric == "auc":
        return auc_resamples
    if metric == "ap":
        return average_precision_resamples
    of_calls = f1_resamples if metric.startswith("f1") else accuracy_resamples
    return lambda labels, scores, codes, counts: of_calls(labels, scores >= threshold, codes, counts)


def _known_labels(labels: np.ndarray, findings: Sequence[str], scores: np.ndarray, where: str) -> np.ndarray:
    """Labels as 1, 0 or NaN, where the scores of the labelled are finite."""
    if labels.shape != scores.shape or len(findings) != scores.shape[1]:
        raise ValueError(
            f"{where}: expected labels and {len(findings)} findings for scores of shape {scores.shape}, "
            f"got labels of shape {labels.shape}"
        )
    values = np.where(labels == -1, np.nan, labels)
    finite(scores[np.isfinite(values)], where, "scores of labelled rows")
    return values


def _countable(values: np.ndarray, min_positives: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positives and negatives of each finding, and whether they are enough."""
    positives, negatives = (values == 1).sum(axis=0), (values == 0).sum(axis=0)
    return positives, negatives, (positives >= max(1, min_positives)) & (negatives > 0)


def _row(
    metric: str, finding: str, interval: Interval, positives: int, n: int, threshold: float = np.nan
) -> dict[str, Any]:
    row = {"metric": metric, "finding": finding, **asdict(interval), "n": n}
    del row["patients"]
    return row | {"threshold": threshold, "positives": positives}
