"""Statistics of every bootstrap resample at once, from how often each patient is drawn."""

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

_CHUNK_ENTRIES = 8_000_000


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
