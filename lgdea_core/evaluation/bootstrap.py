"""Confidence intervals that resample patients, so that two images of one patient never count as two opinions.

`Bootstrap` says how often and with which seed. It is made once and handed down; its methods take values and the patient
of each. The functions below it compute a statistic of every resample at once, from how often each patient was drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Integer

from lgdea_core.inference import finite

Values = np.ndarray | pd.Series | Sequence[float | int]
Keys = np.ndarray | pd.Series | Sequence[Any]
"""one label per row, such as a patient id or a category"""

Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""labels, scores and columns of `counts` of the images, and counts -> value of every resample; see `auc_resamples`"""

_CHUNK_ENTRIES = 8_000_000
MOST_DEGENERATE = 0.1
"""Share of degenerate resamples above which an interval carries a warning."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A point estimate on all patients with its percentile bootstrap interval; `asdict` gives columns of a table."""

    estimate: float
    low: float
    high: float
    n: int
    """values that took part; NaN did not"""
    patients: int
    """they came from"""
    degenerate: int = 0
    """resamples in which the statistic was undefined; left out of the percentiles"""
    warning: str = ""
    """why the interval is no interval: it is of one patient, or too many resamples are degenerate"""


NO_INTERVAL = Interval(estimate=np.nan, low=np.nan, high=np.nan, n=0, patients=0)
"""of what has no value"""


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are drawn: whole patients with replacement, and percentiles of the statistic.

        count* ~ Multinomial(patients, 1 / patients)

    A patient is drawn with all its values, so repeating every row of a patient changes no width.
    """

    resamples: int = 1000
    """draws"""
    seed: int = 0
    """fixes the draws"""
    level: float = 0.95
    """share of the draws inside the interval, in (0, 1)"""

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise ValueError(f"bootstrap: resamples must be at least 1, got {self.resamples}")
        if not 0 < self.level < 1:
            raise ValueError(f"bootstrap: level must lie strictly between 0 and 1, got {self.level}")

    def mean(self, values: Values, patients: Keys) -> Interval:
        """Mean of the values that are not NaN.

            mean* = sum_g count*_g sum_g(values) / sum_g count*_g n_g

        A patient who has only NaN is not drawn at all. A difference of two methods on the same samples is the mean of
        its differences.

        Args:
            values: one per sample; NaN is left out.
            patients: of each sample.

        Raises:
            ValueError: lengths differ, a patient is missing, or every value is NaN.
        """
        values, codes = _matched(values, patients, "mean")
        kept = np.isfinite(values)
        codes, drawn = _renumbered(codes, kept, "mean")
        counts = self.counts(drawn)
        means = ratio(per_resample(values[kept], codes, counts), per_resample(np.ones(kept.sum()), codes, counts))
        return self._interval(values[kept].mean(), means, kept.sum(), drawn)

    def macro_mean(self, values: Values, categories: Keys, patients: Keys) -> Interval:
        """Mean over categories of the mean within each (macro).

        A category whose values are all NaN takes no part. A resample that misses a category has no macro mean: it is
        left out and counted in `degenerate`.

        Args:
            values: one per sample; NaN is left out.
            categories: the category of each sample.
            patients: of each sample; one patient may be in several categories.

        Raises:
            ValueError: lengths differ, a patient or category is missing, or every value is NaN.
        """
        values, codes = _matched(values, patients, "macro_mean")
        _, category_codes = _matched(values, categories, "macro_mean (categories)")
        kept = np.isfinite(values)
        codes, drawn = _renumbered(codes, kept, "macro_mean")
        values, category_codes, counts = values[kept], category_codes[kept], self.counts(drawn)
        estimates, means = [], []
        for category in np.unique(category_codes):
            inside = (category_codes == category).astype(float)
            estimates.append(values[inside > 0].mean())
            means.append(ratio(per_resample(values * inside, codes, counts), per_resample(inside, codes, counts)))
        return self._interval(np.mean(estimates), np.mean(means, axis=0), kept.sum(), drawn)

    def median(self, values: Values, patients: Keys) -> Interval:
        """Median of the values that are not NaN; otherwise as `mean`."""
        values, codes = _matched(values, patients, "median")
        kept = np.isfinite(values)
        codes, drawn = _renumbered(codes, kept, "median")
        draws = median_resamples(values[kept], codes, self.counts(drawn))
        return self._interval(np.median(values[kept]), draws, kept.sum(), drawn)

    def pool_precision(
        self,
        hits: Float[np.ndarray, "queries candidates"],
        ranking: Int[np.ndarray, "queries candidates"],
        weights: Float[np.ndarray, " queries"],
        patients: Keys,
        k: int,
    ) -> Interval:
        """Weighted sum of the queries' precision at `k`, with the patients of the *candidates* resampled.

        For queries that are nobody's, such as prompts: they are fixed, and what varies is whose images are searched.

        Args:
            hits: 1 where a ranked candidate is right, else 0.
            ranking: candidate numbers, best first, of the whole pool.
            weights: of the queries, sum 1.
            patients: of each candidate.
            k: at most the pool.

        Raises:
            ValueError: a patient is missing, or the ranking is not of the whole pool.
        """
        if ranking.shape[1] != len(patients):
            raise ValueError(f"pool_precision: {ranking.shape[1]} ranked, but {len(patients)} candidates")
        _, codes = _matched(np.zeros(len(patients)), patients, "pool_precision")
        drawn = int(codes.max()) + 1
        draws = pool_precision_resamples(hits, codes[ranking], weights, self.counts(drawn), k)
        return self._interval(weights @ hits[:, :k].mean(axis=1), draws, len(hits), drawn)

    def columns(
        self,
        statistics: Sequence[Statistic],
        labels: Float[np.ndarray, "images findings"],
        scores: Float[np.ndarray, "images findings"],
        patients: Keys,
    ) -> tuple[list[Interval], Interval]:
        """A statistic of every finding, and its mean over findings.

        A finding's interval is over the patients with a label for it; that of the mean is over patients with any,
        drawn once for all findings. The estimate is the statistic with every patient drawn once.

        Args:
            statistics: one per finding; NaN is a resample in which it does not exist, left out and counted.
            labels: 1, 0 or NaN.
            scores: as `labels`; finite where the label is.
            patients: of each row.

        Raises:
            ValueError: lengths differ, a patient is missing, or a finding lacks a class.
        """
        _, codes = _matched(labels[:, 0], patients, "columns")
        kept = np.isfinite(labels).any(axis=1)
        codes, drawn = _renumbered(codes, kept, "columns")
        labels, scores, counts = labels[kept], scores[kept], self.counts(drawn)
        intervals, shared = [], []
        for column, statistic in enumerate(statistics):
            known = np.isfinite(labels[:, column])
            own, own_drawn = _renumbered(codes, known, "columns")
            pair = _checked_binary(labels[known, column], scores[known, column], f"columns, finding {column}")
            shared.append(statistic(*pair, codes[known], counts))
            draws = shared[-1] if known.all() else statistic(*pair, own, self.counts(own_drawn))
            estimate = statistic(*pair, own, np.ones((1, own_drawn), dtype=np.uint16))[0]
            intervals.append(self._interval(estimate, draws, known.sum(), own_drawn))
        mean = np.mean([interval.estimate for interval in intervals])
        return intervals, self._interval(mean, np.mean(shared, axis=0), len(labels), drawn)

    def auc_difference(
        self,
        labels: Float[np.ndarray, "images findings"],
        scores: Float[np.ndarray, "runs images findings"],
        others: Float[np.ndarray, "others images findings"],
        patients: Keys,
    ) -> Interval:
        """Macro AUC of some trainings less that of others, on the same patients in every draw.

            mean over runs and findings of AUC(scores) - mean over others and findings of AUC(others)

        Args:
            labels: 1, 0 or NaN (unknown), which is left out.
            scores: of every training, finite.
            others: likewise; as many trainings as there are.
            patients: of each image.

        Raises:
            ValueError: lengths differ, a patient is missing, or a finding lacks a class.
        """
        _, codes = _matched(labels[:, 0], patients, "auc_difference")
        drawn = int(codes.max()) + 1
        every, once = self.counts(drawn), np.ones((1, drawn), dtype=np.uint16)

        def macro(runs: np.ndarray, counts: np.ndarray) -> np.ndarray:
            draws = []
            for run in runs:
                for column, (values, shown) in enumerate(zip(labels.T, run.T, strict=True)):
                    known = np.isfinite(values)
                    pair = _checked_binary(values[known], shown[known], f"auc_difference, finding {column}")
                    draws.append(auc_resamples(*pair, codes[known], counts))
            return np.mean(draws, axis=0)

        estimate = (macro(scores, once) - macro(others, once))[0]
        return self._interval(estimate, macro(scores, every) - macro(others, every), len(labels), drawn)

    def counts(self, patients: int) -> Integer[np.ndarray, "resamples patients"]:
        """How often each patient is drawn in each resample, see `resample_counts`; the last few are remembered."""
        return _remembered_counts(patients, self.resamples, self.seed)

    def _interval(
        self, estimate: float, draws: Float[np.ndarray, " resamples"], n: int | np.integer, patients: int
    ) -> Interval:
        """Percentile interval of the draws that are not NaN; NaN bounds where there is none.

        Raises:
            ValueError: the estimate is not finite.
        """
        finite(np.array(estimate), "bootstrap", "estimates")
        valid = draws[np.isfinite(draws)]
        ends = [(1 - self.level) / 2, (1 + self.level) / 2]
        low, high = np.quantile(valid, ends) if len(valid) else (np.nan, np.nan)
        degenerate, reasons = len(draws) - len(valid), []
        if patients == 1:
            reasons.append("all values are of one patient")
        if degenerate > MOST_DEGENERATE * len(draws):
            reasons.append(f"undefined in {degenerate} of {len(draws)} resamples")
        return Interval(
            estimate=float(estimate),
            low=float(low),
            high=float(high),
            n=int(n),
            patients=patients,
            degenerate=degenerate,
            warning="; ".join(reasons),
        )


def resample_counts(patients: int, resamples: int, seed: int) -> Integer[np.ndarray, "resamples patients"]:
    """How often each patient is drawn in each resample; rows sum to `patients`."""
    generator = np.random.default_rng(seed)
    counts = np.empty((resamples, patients), dtype=np.uint16)
    for rows in _chunks(resamples, patients):
        draws = generator.integers(patients, size=(len(rows), patients))
        draws += np.arange(len(rows))[:, None] * patients
        counts[rows] = np.bincount(draws.ravel(), minlength=draws.size).reshape(draws.shape)
    counts.flags.writeable = False  # shared by all who ask for the same
    return counts


_remembered_counts = lru_cache(maxsize=4)(resample_counts)


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
        draws[rows] = ratio(won, positive_weights.sum(axis=1) * mass[:, -1])
    return draws


def average_precision_resamples(
    labels: Float[np.ndarray, " images"],
    scores: Float[np.ndarray, " images"],
    codes: Int[np.ndarray, " images"],
    counts: Integer[np.ndarray, "resamples patients"],
) -> Float[np.ndarray, " resamples"]:
    """Average precision of every resample; NaN where one lacks a positive.

        AP = sum_i w_i precision(s_i) / sum_i w_i,   i over positives; precision among the images that score s_i or more

    which is `average_precision_score(labels, scores, sample_weight=counts[resample, codes])`: equal scores count as one
    step. Arguments as of `auc_resamples`.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, codes, positive = -scores[order], codes[order], labels[order] == 1
    upto = np.searchsorted(ranked, ranked[positive], side="right") - 1
    draws = np.full(len(counts), np.nan)
    for rows in _chunks(len(counts), len(labels)):
        weights = counts[rows].astype(np.float64)[:, codes]
        every = np.cumsum(weights, axis=1)[:, upto]
        true = np.cumsum(weights * positive, axis=1)[:, upto]
        precision = np.divide(true, every, out=np.zeros_like(true), where=every > 0)  # 0 where none was drawn
        positives = weights[:, positive]
        draws[rows] = ratio((positives * precision).sum(axis=1), positives.sum(axis=1))
    return draws


def f1_resamples(
    labels: Float[np.ndarray, " images"],
    called: Bool[np.ndarray, " images"],
    codes: Int[np.ndarray, " images"],
    counts: Integer[np.ndarray, "resamples patients"],
) -> Float[np.ndarray, " resamples"]:
    """`F1 = 2 TP / (2 TP + FP + FN)` of every resample for calls that were made before; NaN where one lacks a positive.

    Args:
        labels: 1 or 0, without NaN.
        called: which images are called positive.
        codes: column of `counts` for each row.
        counts: from `resample_counts`.
    """
    true = per_resample((labels == 1) & called, codes, counts)
    positives, calls = per_resample(labels == 1, codes, counts), per_resample(called, codes, counts)
    return np.where(positives > 0, ratio(2 * true, positives + calls), np.nan)


def accuracy_resamples(
    labels: Float[np.ndarray, " images"],
    called: Bool[np.ndarray, " images"],
    codes: Int[np.ndarray, " images"],
    counts: Integer[np.ndarray, "resamples patients"],
) -> Float[np.ndarray, " resamples"]:
    """Share of images called right in every resample; NaN for one without images. Arguments as of `f1_resamples`."""
    right = per_resample((labels == 1) == called, codes, counts)
    return ratio(right, per_resample(np.ones(len(labels)), codes, counts))


def median_resamples(
    values: Float[np.ndarray, " samples"],
    codes: Int[np.ndarray, " samples"],
    counts: Integer[np.ndarray, "resamples patients"],
) -> Float[np.ndarray, " resamples"]:
    """Median of every resample, which is `np.median` of the values repeated as often as their patient was drawn.

    Args:
        values: without NaN.
        codes: column of `counts` for each value; every column has one.
        counts: from `resample_counts`.
    """
    order = np.argsort(values, kind="stable")
    ranked, codes = values[order], codes[order]
    draws = np.empty(len(counts))
    for rows in _chunks(len(counts), len(values)):
        upto = np.cumsum(counts[rows][:, codes], axis=1, dtype=np.int64)
        drawn = upto[:, -1:]
        middle = [(upto <= place).sum(axis=1) for place in ((drawn - 1) // 2, drawn // 2)]
        draws[rows] = (ranked[middle[0]] + ranked[middle[1]]) / 2
    return draws


def pool_precision_resamples(
    hits: Float[np.ndarray, "queries candidates"],
    codes: Int[np.ndarray, "queries candidates"],
    weights: Float[np.ndarray, " queries"],
    counts: Integer[np.ndarray, "resamples patients"],
    k: int,
) -> Float[np.ndarray, " resamples"]:
    """Weighted sum over the queries of their precision at `k` in every resample of the *candidates'* patients.

    A candidate stands in a resampled pool as often as its patient was drawn, at its own place in the query's order.

    Args:
        hits: 1 where the candidate is right for the query, else 0; best candidate first.
        codes: column of `counts` for each candidate of `hits`.
        weights: of the queries, sum 1.
        counts: from `resample_counts`.
        k: of a pool with fewer than `k`, all are taken.
    """
    draws, deep = np.zeros(len(counts)), 2 * k + 50
    for right, code, weight in zip(hits, codes, weights, strict=True):
        upto = np.cumsum(counts[:, code[:deep]], axis=1, dtype=np.int64)
        if upto[:, -1].min() < k:  # few were drawn of the first: look at all
            upto = np.cumsum(counts[:, code], axis=1, dtype=np.int64)
        taken = np.diff(np.minimum(upto, k), axis=1, prepend=0)
        draws += weight * ratio(taken @ right[: upto.shape[1]], taken.sum(axis=1))
    return draws


def per_resample(values: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sum of the values of every resample."""
    return counts @ np.bincount(codes, weights=values, minlength=counts.shape[1])


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def _chunks(resamples: int, width: int) -> list[np.ndarray]:
    """Resample numbers in blocks whose arrays stay near 64 MB."""
    rows = max(1, _CHUNK_ENTRIES // max(1, width))
    return [np.arange(start, min(start + rows, resamples)) for start in range(0, resamples, rows)]


def _matched(values: Values, patients: Keys, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Values as float, NaN where a sample has none, and patients as integer codes of the same length."""
    values = np.asarray(values, dtype=float)
    finite(values[~np.isnan(values)], where, "values")
    if values.ndim != 1 or len(values) != len(patients):
        raise ValueError(f"{where}: expected one group per value, got {values.shape} values and {len(patients)} groups")
    codes, _ = pd.factorize(np.asarray(patients, dtype=object))
    if (codes < 0).any():
        raise ValueError(f"{where}: {int((codes < 0).sum())} of {len(codes)} group labels are missing; fill them in")
    return values, codes


def _renumbered(codes: np.ndarray, kept: np.ndarray, where: str) -> tuple[np.ndarray, int]:
    """Codes of the kept rows without gaps, and how many patients they are."""
    if not kept.any():
        raise ValueError(f"{where}: all {len(kept)} values are NaN, nothing to average")
    uniques, renumbered = np.unique(codes[kept], return_inverse=True)
    return renumbered, len(uniques)


def _checked_binary(labels: np.ndarray, scores: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    values = set(np.unique(labels).tolist())
    if values != {0.0, 1.0}:
        raise ValueError(
            f"{where}: labels must be 0, 1 or NaN with both classes there, got the values {sorted(values)}; "
            "decide first what an uncertain label (-1) means"
        )
    return labels, finite(scores, where, "scores of labelled rows")
