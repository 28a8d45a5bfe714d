"""Confidence intervals that resample patients, so that two films of one patient never count as two opinions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Integer
from sklearn.metrics import roc_auc_score

from lgdea_core.evaluation.resamples import (
    auc_resamples,
    median_resamples,
    per_resample,
    pool_precision_resamples,
    ratio,
    resample_counts,
)

Values = np.ndarray | pd.Series | Sequence[float | int]
Keys = np.ndarray | pd.Series | Sequence[Any]
"""one label per row, such as a patient id or a category"""

Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""labels, scores and columns of `counts` of the images, and counts -> value of every resample; see `auc_resamples`"""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A point estimate on all patients with its percentile bootstrap interval."""

    estimate: float
    low: float
    high: float
    n: int
    """values that took part; NaN did not"""
    groups: int
    """patients they came from"""
    degenerate: int = 0
    """resamples in which the statistic was undefined; left out of the percentiles"""

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n}, patients={self.groups})"


def bootstrap_mean(values: Values, groups: Keys, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Mean of the values that are not NaN, with an interval over resampled patients.

        mean* = sum_g count*_g sum_g(values) / sum_g count*_g n_g,   count* ~ Multinomial(patients, 1 / patients)

    A patient is drawn with all its values, so repeating every row of a patient changes no width. A patient who has
    only NaN is not drawn at all. A difference of two methods on the same samples is the mean of its differences.

    Args:
        values: one per sample; NaN is left out.
        groups: the patient of each sample.
        resamples: bootstrap draws.
        seed: fixes the draws.
        level: share of the draws inside the interval, in (0, 1).

    Raises:
        ValueError: lengths differ, a patient is missing, or every value is NaN.
    """
    values, codes = _matched(values, groups, "bootstrap_mean")
    kept, codes, patients = _keep(np.isfinite(values), codes, "bootstrap_mean")
    counts = resample_counts(patients, resamples, seed)
    means = ratio(per_resample(values[kept], codes, counts), per_resample(np.ones(kept.sum()), codes, counts))
    return interval_from_resamples(float(values[kept].mean()), means, int(kept.sum()), patients, level)


def bootstrap_macro_mean(
    values: Values, categories: Keys, groups: Keys, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean over categories of the mean within each (macro), with an interval over resampled patients.

    A category whose values are all NaN takes no part. A resample that misses a category has no macro mean: it is
    left out and counted in `degenerate`.

    Args:
        values: one per sample; NaN is left out.
        categories: the category of each sample.
        groups: the patient of each sample; one patient may be in several categories.
        resamples: bootstrap draws.
        seed: fixes the draws.
        level: share of the draws inside the interval, in (0, 1).

    Raises:
        ValueError: lengths differ, a patient or category is missing, or every value is NaN.
    """
    values, codes = _matched(values, groups, "bootstrap_macro_mean")
    _, category_codes = _matched(values, categories, "bootstrap_macro_mean (categories)")
    kept, codes, patients = _keep(np.isfinite(values), codes, "bootstrap_macro_mean")
    values, category_codes = values[kept], category_codes[kept]
    counts = resample_counts(patients, resamples, seed)
    estimates, means = [], []
    for category in np.unique(category_codes):
        inside = (category_codes == category).astype(float)
        estimates.append(values[inside > 0].mean())
        means.append(ratio(per_resample(values * inside, codes, counts), per_resample(inside, codes, counts)))
    return interval_from_resamples(float(np.mean(estimates)), np.mean(means, axis=0), int(kept.sum()), patients, level)


def bootstrap_median(
    values: Values, groups: Keys, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Median of the values that are not NaN, with an interval over resampled patients; see `bootstrap_mean`."""
    values, codes = _matched(values, groups, "bootstrap_median")
    kept, codes, patients = _keep(np.isfinite(values), codes, "bootstrap_median")
    draws = median_resamples(values[kept], codes, resample_counts(patients, resamples, seed))
    return interval_from_resamples(float(np.median(values[kept])), draws, int(kept.sum()), patients, level)


def bootstrap_pool_precision(
    hits: Float[np.ndarray, "queries candidates"],
    ranking: Int[np.ndarray, "queries candidates"],
    weights: Float[np.ndarray, " queries"],
    groups: Keys,
    k: int,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Weighted sum of the queries' precision at `k`, with an interval over resampled patients of the candidates.

    For queries that are nobody's, such as prompts: they are fixed, and what varies is whose films are searched.

    Args:
        hits: 1 where a ranked candidate is right, else 0.
        ranking: candidate numbers, best first, of the whole pool.
        weights: of the queries, sum 1.
        groups: the patient of each candidate.
        k: at most the pool.
        resamples: bootstrap draws.
        seed: fixes the draws.
        level: share of the draws inside the interval, in (0, 1).

    Raises:
        ValueError: a patient is missing, or the ranking is not of the whole pool.
    """
    if ranking.shape[1] != len(groups):
        raise ValueError(f"bootstrap_pool_precision: {ranking.shape[1]} ranked, but {len(groups)} candidates")
    _, codes = _matched(np.zeros(len(groups)), groups, "bootstrap_pool_precision")
    patients = int(codes.max()) + 1
    draws = pool_precision_resamples(hits, codes[ranking], weights, resample_counts(patients, resamples, seed), k)
    estimate = float(weights @ hits[:, :k].mean(axis=1))
    return interval_from_resamples(estimate, draws, len(hits), patients, level)


def bootstrap_auc(
    labels: Values, scores: Values, groups: Keys, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Area under the ROC curve (scikit-learn's), with an interval over resampled patients.

    A resample without a positive or without a negative has no AUC: it is left out and counted in `degenerate`.

    Args:
        labels: 1 or 0; NaN is left out.
        scores: larger means more likely positive; finite where the label is.
        groups: the patient of each row.
        resamples: bootstrap draws.
        seed: fixes the draws.
        level: share of the draws inside the interval, in (0, 1).

    Raises:
        ValueError: lengths differ, a label is none of 0, 1, NaN, or only one class is there.
    """
    labels, codes = _matched(labels, groups, "bootstrap_auc")
    kept, codes, patients = _keep(np.isfinite(labels), codes, "bootstrap_auc")
    labels, scores = _checked_binary(labels[kept], np.asarray(scores, dtype=float)[kept], "bootstrap_auc")
    draws = auc_resamples(labels, scores, codes, resample_counts(patients, resamples, seed))
    return interval_from_resamples(float(roc_auc_score(labels, scores)), draws, len(labels), patients, level)


def bootstrap_macro_auc(
    labels: Float[np.ndarray, "images findings"],
    scores: Float[np.ndarray, "images findings"],
    groups: Keys,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean AUC over findings, with an interval over patients resampled once for all findings.

    A resample in which one finding lacks a class is left out and counted in `degenerate`.

    Args:
        labels: 1, 0 or NaN; a row may have labels for some findings only.
        scores: as `labels`; finite where the label is.
        groups: the patient of each row.
        resamples: bootstrap draws.
        seed: fixes the draws.
        level: share of the draws inside the interval, in (0, 1).
    """
    _, codes = _matched(labels[:, 0], groups, "bootstrap_macro_auc")
    kept, codes, patients = _keep(np.isfinite(labels).any(axis=1), codes, "bootstrap_macro_auc")
    labels, scores = labels[kept], scores[kept]
    draws = macro_auc_resamples(labels, scores, codes, resample_counts(patients, resamples, seed))
    columns = [_labelled(labels[:, column], scores[:, column]) for column in range(labels.shape[1])]
    estimate = float(np.mean([roc_auc_score(column_labels, column_scores) for column_labels, column_scores in columns]))
    return interval_from_resamples(estimate, draws, int(kept.sum()), patients, level)


def bootstrap_columns(
    statistics: Sequence[Statistic],
    labels: Float[np.ndarray, "images findings"],
    scores: Float[np.ndarray, "images findings"],
    groups: Keys,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[list[Interval], Interval]:
    """A statistic of every finding, and its mean over findings, with intervals over resampled patients.

    As `bootstrap_auc` and `bootstrap_macro_auc`, with the same draws: a finding's interval is over the patients with a
    label for it, that of the mean over patients with any, drawn once for all findings. The estimate is the statistic
    with every patient drawn once.

    Args:
        statistics: one per finding; NaN is a resample in which it does not exist, left out and counted.
        labels: 1, 0 or NaN.
        scores: as `labels`; finite where the label is.
        groups: the patient of each row.
        resamples: bootstrap draws.
        seed: fixes the draws.
        level: share of the draws inside the interval, in (0, 1).

    Raises:
        ValueError: lengths differ, a patient is missing, or a finding lacks a class.
    """
    _, codes = _matched(labels[:, 0], groups, "bootstrap_columns")
    kept, codes, patients = _keep(np.isfinite(labels).any(axis=1), codes, "bootstrap_columns")
    labels, scores, counts = labels[kept], scores[kept], resample_counts(patients, resamples, seed)
    intervals, shared = [], []
    for column, statistic in enumerate(statistics):
        known, own, own_patients = _keep(np.isfinite(labels[:, column]), codes, "bootstrap_columns")
        pair = _checked_binary(labels[known, column], scores[known, column], f"bootstrap_columns, finding {column}")
        shared.append(statistic(*pair, codes[known], counts))
        draws = shared[-1] if known.all() else statistic(*pair, own, resample_counts(own_patients, resamples, seed))
        estimate = float(statistic(*pair, own, np.ones((1, own_patients), dtype=np.uint16))[0])
        intervals.append(interval_from_resamples(estimate, draws, int(known.sum()), own_patients, level))
    mean = float(np.mean([interval.estimate for interval in intervals]))
    return intervals, interval_from_resamples(mean, np.mean(shared, axis=0), len(labels), patients, level)


def bootstrap_macro_auc_difference(
    labels: Float[np.ndarray, "images findings"],
    scores: Float[np.ndarray, "images findings"],
    other_scores: Float[np.ndarray, "images findings"],
    groups: Keys,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Macro AUC of `scores` minus that of `other_scores`, both on the same resampled patients.

    Args:
        labels: 1, 0 or NaN.
        scores: of the first method.
        other_scores: of the second method, on the same rows.
        groups: the patient of each row.
        resamples: bootstrap draws.
        seed: fixes the draws.
        level: share of the draws inside the interval, in (0, 1).
    """
    first = bootstrap_macro_auc(labels, scores, groups, resamples=1, seed=seed)
    second = bootstrap_macro_auc(labels, other_scores, groups, resamples=1, seed=seed)
    _, codes = _matched(labels[:, 0], groups, "bootstrap_macro_auc_difference")
    kept, codes, patients = _keep(np.isfinite(labels).any(axis=1), codes, "bootstrap_macro_auc_difference")
    counts = resample_counts(patients, resamples, seed)
    draws = macro_auc_resamples(labels[kept], scores[kept], codes, counts)
    other_draws = macro_auc_resamples(labels[kept], other_scores[kept], codes, counts)
    return interval_from_resamples(first.estimate - second.estimate, draws - other_draws, first.n, patients, level)


def macro_auc_resamples(
    labels: Float[np.ndarray, "images findings"],
    scores: Float[np.ndarray, "images findings"],
    codes: Int[np.ndarray, " images"],
    counts: Integer[np.ndarray, "resamples patients"],
) -> Float[np.ndarray, " resamples"]:
    """Mean over findings of `auc_resamples`; NaN where a finding lacks a class."""
    columns = []
    for column in range(labels.shape[1]):
        known = np.isfinite(labels[:, column])
        pair = _checked_binary(labels[known, column], scores[known, column], f"macro AUC, finding {column}")
        columns.append(auc_resamples(*pair, codes[known], counts))
    return np.mean(columns, axis=0)


def interval_from_resamples(
    estimate: float, draws: Float[np.ndarray, " resamples"], n: int, groups: int, level: float
) -> Interval:
    """Percentile interval of the draws that are not NaN; NaN bounds where there is none."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
    valid = draws[np.isfinite(draws)]
    low, high = np.quantile(valid, [(1 - level) / 2, (1 + level) / 2]) if len(valid) else (np.nan, np.nan)
    return Interval(
        estimate=estimate, low=float(low), high=float(high), n=n, groups=groups, degenerate=len(draws) - len(valid)
    )


def _matched(values: Values, groups: Keys, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Values as float and groups as integer codes of the same length."""
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) != len(groups):
        raise ValueError(f"{where}: expected one group per value, got {values.shape} values and {len(groups)} groups")
    codes, _ = pd.factorize(np.asarray(groups, dtype=object))
    if (codes < 0).any():
        raise ValueError(f"{where}: {int((codes < 0).sum())} of {len(codes)} group labels are missing; fill them in")
    return values, codes


def _keep(kept: np.ndarray, codes: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Codes of the kept rows renumbered without gaps, and how many patients they are."""
    if not kept.any():
        raise ValueError(f"{where}: all {len(kept)} values are NaN, nothing to average")
    uniques, renumbered = np.unique(codes[kept], return_inverse=True)
    return kept, renumbered, len(uniques)


def _labelled(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(labels)
    return labels[known], scores[known]


def _checked_binary(labels: np.ndarray, scores: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    values = set(np.unique(labels).tolist())
    if values != {0.0, 1.0}:
        raise ValueError(
            f"{where}: labels must be 0, 1 or NaN with both classes there, got the values {sorted(values)}; "
            "decide first what an uncertain label (-1) means"
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"{where}: {int((~np.isfinite(scores)).sum())} scores of labelled rows are not finite")
    return labels, scores
