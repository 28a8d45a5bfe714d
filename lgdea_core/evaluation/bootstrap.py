"""Confidence intervals that resample patients, so that two films of one patient never count as two opinions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Integer
from sklearn.metrics import roc_auc_score

Values = np.ndarray | pd.Series | Sequence[float | int]
Keys = np.ndarray | pd.Series | Sequence[Any]
"""one label per row, such as a patient id or a category"""

_CHUNK_ENTRIES = 8_000_000


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
    means = _ratio(_per_resample(values[kept], codes, counts), _per_resample(np.ones(kept.sum()), codes, counts))
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
        means.append(_ratio(_per_resample(values * inside, codes, counts), _per_resample(inside, codes, counts)))
    return interval_from_resamples(float(np.mean(estimates)), np.mean(means, axis=0), int(kept.sum()), patients, level)


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


def resample_counts(patients: int, resamples: int, seed: int) -> Integer[np.ndarray, "resamples patients"]:
    """How often each patient is drawn in each resample; rows sum to `patients`."""
    if patients < 1 or resamples < 1:
        raise ValueError(f"resample_counts needs at least 1 patient and 1 resample, got {patients} and {resamples}")
    generator = np.random.default_rng(seed)
    counts = np.empty((resamples, patients), dtype=np.uint16)
    for rows in _chunks(resamples, patients):
        draws = generator.integers(patients, size=(len(rows), patients))
        draws += np.arange(len(rows))[:, None] * patients
        counts[rows] = np.bincount(draws.ravel(), minlength=draws.size).reshape(draws.shape)
    return counts


def auc_resamples(
    labels: Float[np.ndarray, " images"],
    scores: Float[np.ndarray, " images"],
    codes: Int[np.ndarray, " images"],
    counts: Integer[np.ndarray, "resamples patients"],
) -> Float[np.ndarray, " resamples"]:
    """AUC of every resample; NaN where one lacks a class.

        AUC = sum_i w_i (N<(i) + N=(i) / 2) / (sum_i w_i  N),   i over positives, N = weight of negatives

    which is `roc_auc_score(labels, scores, sample_weight=counts[resample, codes])`, from one sort for all resamples.

    Args:
        labels: 1 or 0, without NaN.
        scores: larger means more likely positive.
        codes: column of `counts` for each row.
        counts: from `resample_counts`.
    """
    order = np.argsort(scores, kind="stable")
    ranked, codes, positive = scores[order], codes[order], labels[order] == 1
    negative_scores = ranked[~positive]
    below = np.searchsorted(negative_scores, ranked[positive], side="left")
    upto = np.searchsorted(negative_scores, ranked[positive], side="right")
    draws = np.full(len(counts), np.nan)
    for rows in _chunks(len(counts), len(labels)):
        weights = counts[rows].astype(np.float64)
        mass = np.zeros((len(rows), len(negative_scores) + 1))
        np.cumsum(weights[:, codes[~positive]], axis=1, out=mass[:, 1:])
        positive_weights = weights[:, codes[positive]]
        won = (positive_weights * (mass[:, below] + mass[:, upto])).sum(axis=1) / 2
        draws[rows] = _ratio(won, positive_weights.sum(axis=1) * mass[:, -1])
    return draws


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


def _per_resample(values: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sum of the values of every resample."""
    return counts @ np.bincount(codes, weights=values, minlength=counts.shape[1])


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


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


def _chunks(resamples: int, width: int) -> list[np.ndarray]:
    """Resample numbers in blocks whose arrays stay near 64 MB."""
    rows = max(1, _CHUNK_ENTRIES // max(1, width))
    return [np.arange(start, min(start + rows, resamples)) for start in range(0, resamples, rows)]
