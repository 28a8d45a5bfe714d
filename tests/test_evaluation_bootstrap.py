"""The patient bootstrap against scikit-learn, slow loops and known distributions."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

from lgdea_core.evaluation import bootstrap
from lgdea_core.evaluation.bootstrap import (
    Bootstrap,
    accuracy_resamples,
    auc_resamples,
    average_precision_resamples,
    f1_resamples,
    pool_precision_resamples,
    resample_counts,
)


def auc_interval(labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, draw: Bootstrap) -> bootstrap.Interval:
    """AUC of one finding."""
    columns = np.asarray(labels, dtype=float)[:, None], np.asarray(scores, dtype=float)[:, None]
    [interval], _ = draw.columns([auc_resamples], *columns, patients)
    return interval


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(1, 6))
def test_weighted_auc_equals_scikit_learn(seed: int, levels: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, 30).astype(float)
    scores = generator.integers(0, levels, 30).astype(float)  # many ties; all tied where levels is 1
    codes = generator.integers(0, 9, 30)
    counts = resample_counts(9, 12, seed)
    draws = auc_resamples(labels, scores, codes, counts)
    for draw, count in zip(draws, counts, strict=True):
        weights = count[codes].astype(float)
        if weights[labels == 1].sum() == 0 or weights[labels == 0].sum() == 0:
            assert np.isnan(draw)
        else:
            assert draw == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)


def test_intervals_equal_a_slow_resampling_of_rows() -> None:
    generator = np.random.default_rng(3)
    values, groups = generator.normal(size=40), generator.integers(0, 11, 40)
    values[5] = np.nan
    labels, scores = (generator.random(40) < 0.5).astype(float), generator.normal(size=40)
    categories = np.array(["a", "b", "c", "d"])[generator.integers(0, 4, 40)]
    counts = resample_counts(11, 50, seed=7)
    order = list(dict.fromkeys(groups))  # codes go by first occurrence
    means, macros, medians, aucs = [], [], [], []
    for count in counts:
        rows = np.concatenate([np.repeat(np.flatnonzero(groups == g), c) for g, c in zip(order, count, strict=True)])
        means.append(np.nanmean(values[rows]))
        macros.append(np.mean([np.nanmean(values[rows][categories[rows] == c]) for c in "abcd"]))
        medians.append(np.median(rows % 9))
        aucs.append(roc_auc_score(labels[rows], scores[rows]))
    draw = Bootstrap(resamples=50, seed=7)
    ranks = np.arange(40) % 9
    for interval, draws in (
        (draw.mean(values, groups), means),
        (draw.macro_mean(values, categories, groups), macros),
        (draw.median(ranks, groups), medians),
        (auc_interval(labels, scores, groups, draw), aucs),
    ):
        assert (interval.low, interval.high) == pytest.approx(tuple(np.nanquantile(draws, [0.025, 0.975])), abs=1e-12)
        assert interval.patients == 11
    assert draw.mean(values, groups).n == 39
    assert draw.median(ranks, groups).estimate == np.median(ranks)
    assert auc_interval(labels, scores, groups, draw).estimate == pytest.approx(roc_auc_score(labels, scores))


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        interval = Bootstrap(resamples=300, seed=trial, level=0.9).mean(generator.exponential(1.0, 60), np.arange(60))
        hits += interval.low <= 1.0 <= interval.high
    assert 0.83 < hits / 300 < 0.94  # the percentile interval is a little short on a skewed distribution


def test_repeating_the_rows_of_patients_does_not_narrow_the_interval() -> None:
    generator, draw = np.random.default_rng(1), Bootstrap()
    values, labels, patients = generator.normal(size=50), (np.arange(50) % 2).astype(float), np.arange(50)
    once, many = (draw.mean(np.tile(values, times), np.tile(patients, times)) for times in (1, 8))
    assert (many.low, many.high) == pytest.approx((once.low, once.high), abs=1e-12)
    assert (many.n, many.patients) == (400, 50)
    auc, auc_many = (
        auc_interval(*(np.tile(part, times) for part in (labels, values, patients)), draw) for times in (1, 8)
    )
    assert (auc_many.low, auc_many.high) == pytest.approx((auc.low, auc.high), abs=1e-12)
    rows = draw.mean(np.tile(values, 8), np.arange(400))  # the control: rows as patients would look 2.8 x surer
    assert rows.high - rows.low < 0.5 * (many.high - many.low)


def test_same_seed_same_interval_and_another_seed_another() -> None:
    values, patients = np.random.default_rng(0).normal(size=30), np.arange(30)
    assert Bootstrap(seed=1).mean(values, patients) == Bootstrap(seed=1).mean(values, patients)
    assert Bootstrap(seed=1).mean(values, patients).low != Bootstrap(seed=2).mean(values, patients).low


def test_counts_are_multinomial_and_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = resample_counts(20, 4000, seed=0)
    assert (counts.sum(axis=1) == 20).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(20), abs=0.08)
    assert counts.var() == pytest.approx(1 - 1 / 20, abs=0.03)
    monkeypatch.setattr(bootstrap, "_CHUNK_ENTRIES", 130)
    np.testing.assert_array_equal(resample_counts(20, 4000, seed=0), counts)
    labels, scores = (np.arange(20) % 2).astype(float), np.random.default_rng(0).normal(size=20)
    blocks = auc_resamples(labels, scores, np.arange(20), counts)
    monkeypatch.undo()
    np.testing.assert_array_equal(auc_resamples(labels, scores, np.arange(20), counts), blocks)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(1, 6))
def test_weighted_ap_f1_and_accuracy_equal_scikit_learn(seed: int, levels: int) -> None:
    generator = np.random.default_rng(seed)
    labels = (generator.random(30) < 0.2).astype(float)
    scores = generator.integers(0, levels, 30).astype(float)  # many ties; all tied where levels is 1
    codes, counts = generator.integers(0, 9, 30), resample_counts(9, 12, seed)
    called = scores >= levels / 2
    precision = average_precision_resamples(labels, scores, codes, counts)
    f1, accuracy = (statistic(labels, called, codes, counts) for statistic in (f1_resamples, accuracy_resamples))
    for draw, count in enumerate(counts):
        weights = count[codes].astype(float)
        if (weights * labels).sum() == 0:
            assert np.isnan(precision[draw])
            assert np.isnan(f1[draw])
        else:
            expected = average_precision_score(labels, scores, sample_weight=weights)
            assert precision[draw] == pytest.approx(expected, abs=1e-9)
            assert f1[draw] == pytest.approx(f1_score(labels, called, sample_weight=weights), abs=1e-9)
        if weights.sum():
            assert accuracy[draw] == pytest.approx(accuracy_score(labels, called, sample_weight=weights), abs=1e-9)
        else:
            assert np.isnan(accuracy[draw])


def test_columns_are_each_finding_on_its_own_patients_and_their_mean_on_all() -> None:
    generator, draw = np.random.default_rng(0), Bootstrap(resamples=200, seed=4)
    labels = (generator.random((60, 2)) < 0.5).astype(float)
    labels[::3, 1] = np.nan
    labels[:4] = np.nan  # two patients without any label
    scores, patients = generator.normal(size=(60, 2)) + np.nan_to_num(labels), np.arange(60) // 2
    columns, macro = draw.columns([auc_resamples] * 2, labels, scores, patients)
    alone = []
    for column in range(2):
        known = np.isfinite(labels[:, column])
        alone.append(auc_interval(labels[known, column], scores[known, column], patients[known], draw))
        assert columns[column] == alone[column]
        expected = roc_auc_score(labels[known, column], scores[known, column])
        assert columns[column].estimate == pytest.approx(expected, abs=1e-12)
    assert macro.estimate == pytest.approx(np.mean([one.estimate for one in alone]))
    assert (macro.n, macro.patients) == (56, 28)
    assert macro.low < macro.estimate < macro.high


def test_columns_keep_their_own_statistics() -> None:
    labels = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    fixed = [lambda *arguments: np.full(len(arguments[-1]), 0.25), lambda *arguments: np.full(len(arguments[-1]), 0.75)]
    columns, macro = Bootstrap(resamples=10).columns(fixed, labels, labels, list("pqrs"))
    assert [(column.estimate, column.low) for column in columns] == [(0.25, 0.25), (0.75, 0.75)]
    assert (macro.estimate, macro.high, macro.n) == (0.5, 0.5, 4)


def test_degenerate_resamples_are_counted() -> None:
    draw = Bootstrap(resamples=2000)
    interval = auc_interval([1, 0, 0, 0], [0.9, 0.1, 0.2, 0.3], ["p", "q", "r", "s"], draw)
    assert interval.estimate == 1
    # without a positive (3/4)^4 = .316, without a negative (1/4)^4 = .004
    assert interval.degenerate / 2000 == pytest.approx(0.32, abs=0.04)
    macro = draw.macro_mean([1.0, 2.0, 3.0, 4.0], ["a", "b", "b", "b"], list("pqrs"))
    assert macro.estimate == 2
    assert macro.degenerate / 2000 == pytest.approx(0.32, abs=0.04)


@pytest.mark.parametrize("patients", [60, 4])
def test_pool_precision_equals_ranking_each_resampled_pool_anew(patients: int) -> None:
    rng = np.random.default_rng(1)
    groups, classes, asked = rng.integers(0, patients, 120), rng.integers(0, 3, 120), np.array([0, 2, 2])
    groups[:patients] = range(patients)
    scores, weights = rng.normal(size=(3, 120)), np.array([0.5, 0.25, 0.25])
    ranking = np.argsort(-scores, axis=1)
    if patients == 4:
        groups[ranking[0, :70]] = 0  # whom every third resample lacks, and with them all that rank first
    hits = (classes[ranking] == asked[:, None]).astype(float)
    codes, _ = pd.factorize(groups)
    counts, draws = resample_counts(patients, 50, 2), []
    for count in counts:
        pool = np.repeat(np.arange(120), count[codes])
        best = [pool[np.argsort(-scores[query, pool], kind="stable")][:5] for query in range(3)]
        draws.append(sum(weights[query] * (classes[best[query]] == asked[query]).mean() for query in range(3)))
    np.testing.assert_allclose(pool_precision_resamples(hits, codes[ranking], weights, counts, 5), draws)
    interval = Bootstrap(resamples=50, seed=2).pool_precision(hits, ranking, weights, groups, 5)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    assert interval.estimate == pytest.approx(weights @ hits[:, :5].mean(axis=1))
    with pytest.raises(ValueError, match="5 ranked, but 120 candidates"):
        Bootstrap().pool_precision(hits[:, :5], ranking[:, :5], weights, groups, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Bootstrap().mean([1.0], ["a", "b"]), r"mean: expected one group per value, got \(1,\) values"),
        (lambda: Bootstrap().mean([np.nan], ["a"]), r"mean: all 1 values are NaN"),
        (lambda: Bootstrap().mean([1.0, 2.0], ["a", None]), r"1 of 2 group labels are missing"),
        (lambda: Bootstrap(level=1.0), r"level must lie strictly between 0 and 1, got 1.0"),
        (lambda: Bootstrap(resamples=0), r"resamples must be at least 1, got 0"),
        (lambda: auc_interval([1, 1], [0.1, 0.2], list("ab"), Bootstrap()), r"both classes .* got the values \[1.0\]"),
        (
            lambda: auc_interval([1, 0, -1], [1, 2, 3], list("abc"), Bootstrap()),
            r"decide first what an uncertain label",
        ),
        (lambda: auc_interval([1, 0], [np.nan, 2], list("ab"), Bootstrap()), r"1 scores of labelled rows are not fin"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
