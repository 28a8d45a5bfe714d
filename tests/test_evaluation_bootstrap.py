"""The patient bootstrap against scikit-learn, slow loops and known distributions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

from lgdea_core.evaluation import resamples
from lgdea_core.evaluation.bootstrap import (
    bootstrap_auc,
    bootstrap_columns,
    bootstrap_macro_auc,
    bootstrap_macro_auc_difference,
    bootstrap_macro_mean,
    bootstrap_mean,
)
from lgdea_core.evaluation.resamples import (
    accuracy_resamples,
    auc_resamples,
    average_precision_resamples,
    f1_resamples,
    resample_counts,
)


@settings(max_examples=60, deadline=None)
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
    means, macros, aucs = [], [], []
    for count in counts:
        rows = np.concatenate([np.repeat(np.flatnonzero(groups == g), c) for g, c in zip(order, count, strict=True)])
        means.append(np.nanmean(values[rows]))
        macros.append(np.mean([np.nanmean(values[rows][categories[rows] == c]) for c in "abcd"]))
        aucs.append(roc_auc_score(labels[rows], scores[rows]))
    for interval, draws in (
        (bootstrap_mean(values, groups, resamples=50, seed=7), means),
        (bootstrap_macro_mean(values, categories, groups, resamples=50, seed=7), macros),
        (bootstrap_auc(labels, scores, groups, resamples=50, seed=7), aucs),
    ):
        assert (interval.low, interval.high) == pytest.approx(tuple(np.nanquantile(draws, [0.025, 0.975])), abs=1e-12)
        assert interval.groups == 11
    assert bootstrap_mean(values, groups, resamples=1).n == 39


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        interval = bootstrap_mean(generator.exponential(1.0, 60), np.arange(60), resamples=300, seed=trial, level=0.9)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.83 < hits / 300 < 0.94  # the percentile interval is a little short on a skewed distribution


def test_repeating_the_rows_of_patients_does_not_narrow_the_interval() -> None:
    generator = np.random.default_rng(1)
    values, labels, groups = generator.normal(size=50), (np.arange(50) % 2).astype(float), np.arange(50)
    repeat = lambda array: np.tile(array, 8)  # noqa: E731
    once = bootstrap_mean(values, groups)
    many = bootstrap_mean(repeat(values), repeat(groups))
    assert (many.low, many.high) == pytest.approx((once.low, once.high), abs=1e-12)
    assert (many.n, many.groups) == (400, 50)
    auc, auc_many = bootstrap_auc(labels, values, groups), bootstrap_auc(repeat(labels), repeat(values), repeat(groups))
    assert (auc_many.low, auc_many.high) == pytest.approx((auc.low, auc.high), abs=1e-12)
    rows = bootstrap_mean(repeat(values), np.arange(400))  # the control: rows as patients would look 2.8 x surer
    assert rows.high - rows.low < 0.5 * (many.high - many.low)


def test_same_seed_same_interval_and_another_seed_another() -> None:
    values, groups = np.random.default_rng(0).normal(size=30), np.arange(30)
    assert bootstrap_mean(values, groups, seed=1) == bootstrap_mean(values, groups, seed=1)
    assert bootstrap_mean(values, groups, seed=1).low != bootstrap_mean(values, groups, seed=2).low


def test_counts_are_multinomial_and_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = resample_counts(20, 4000, seed=0)
    assert (counts.sum(axis=1) == 20).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(20), abs=0.08)
    assert counts.var() == pytest.approx(1 - 1 / 20, abs=0.03)
    monkeypatch.setattr(resamples, "_CHUNK_ENTRIES", 130)
    np.testing.assert_array_equal(resample_counts(20, 4000, seed=0), counts)
    labels, scores = (np.arange(20) % 2).astype(float), np.random.default_rng(0).normal(size=20)
    blocks = auc_resamples(labels, scores, np.arange(20), counts)
    monkeypatch.undo()
    np.testing.assert_array_equal(auc_resamples(labels, scores, np.arange(20), counts), blocks)


@settings(max_examples=60, deadline=None)
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


@pytest.mark.parametrize("unknown", [0, 7])
def test_columns_have_the_intervals_of_the_auc_functions(unknown: int) -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((60, 2)) < 0.5).astype(float)
    labels[:unknown, 1] = np.nan
    scores, groups = generator.normal(size=(60, 2)) + np.nan_to_num(labels), np.arange(60) // 2
    columns, macro = bootstrap_columns([auc_resamples] * 2, labels, scores, groups, seed=4)
    expected = [bootstrap_auc(labels[:, column], scores[:, column], groups, seed=4) for column in range(2)]
    expected.append(bootstrap_macro_auc(labels, scores, groups, seed=4))
    for found, wanted in zip([*columns, macro], expected, strict=True):
        assert (found.n, found.groups, found.degenerate) == (wanted.n, wanted.groups, wanted.degenerate)
        ends = (wanted.estimate, wanted.low, wanted.high)
        assert (found.estimate, found.low, found.high) == pytest.approx(ends, abs=1e-12)


def test_columns_keep_their_own_statistics() -> None:
    labels = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    fixed = [lambda *arguments: np.full(len(arguments[-1]), 0.25), lambda *arguments: np.full(len(arguments[-1]), 0.75)]
    columns, macro = bootstrap_columns(fixed, labels, labels, list("pqrs"), resamples=10)
    assert [(column.estimate, column.low) for column in columns] == [(0.25, 0.25), (0.75, 0.75)]
    assert (macro.estimate, macro.high, macro.n) == (0.5, 0.5, 4)


def test_degenerate_resamples_are_counted() -> None:
    interval = bootstrap_auc([1, 0, 0, 0], [0.9, 0.1, 0.2, 0.3], ["p", "q", "r", "s"], resamples=2000)
    assert interval.estimate == 1
    # without a positive (3/4)^4 = .316, without a negative (1/4)^4 = .004
    assert interval.degenerate / 2000 == pytest.approx(0.32, abs=0.04)
    macro = bootstrap_macro_mean([1.0, 2.0, 3.0, 4.0], ["a", "b", "b", "b"], list("pqrs"), resamples=2000)
    assert macro.estimate == 2
    assert macro.degenerate / 2000 == pytest.approx(0.32, abs=0.04)


def test_macro_auc_averages_findings_and_skips_unknown_labels() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((60, 2)) < 0.5).astype(float)
    labels[::3, 1] = np.nan
    scores = generator.normal(size=(60, 2)) + np.nan_to_num(labels)
    interval = bootstrap_macro_auc(labels, scores, np.arange(60) // 2)
    known = np.isfinite(labels[:, 1])
    expected = (roc_auc_score(labels[:, 0], scores[:, 0]) + roc_auc_score(labels[known, 1], scores[known, 1])) / 2
    assert interval.estimate == pytest.approx(expected, abs=1e-12)
    assert interval.low < expected < interval.high
    assert interval.groups == 30


def test_difference_is_paired() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((80, 2)) < 0.5).astype(float)
    scores = generator.normal(size=(80, 2)) + labels
    same = bootstrap_macro_auc_difference(labels, scores, 2 * scores + 1, np.arange(80))
    assert (same.estimate, same.low, same.high) == (0, 0, 0)
    better = bootstrap_macro_auc_difference(labels, scores + labels, scores, np.arange(80))
    alone = bootstrap_macro_auc(labels, scores, np.arange(80))
    assert better.low > 0
    assert better.high - better.low < alone.high - alone.low


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean([1.0], ["a", "b"]), r"bootstrap_mean: expected one group per value, got \(1,\) values"),
        (lambda: bootstrap_mean([np.nan], ["a"]), r"bootstrap_mean: all 1 values are NaN"),
        (lambda: bootstrap_mean([1.0, 2.0], ["a", None]), r"1 of 2 group labels are missing"),
        (lambda: bootstrap_mean([1.0], ["a"], level=1.0), r"level must lie strictly between 0 and 1, got 1.0"),
        (lambda: bootstrap_mean([1.0], ["a"], resamples=0), r"at least 1 patient and 1 resample, got 1 and 0"),
        (lambda: bootstrap_auc([1, 1], [0.1, 0.2], ["a", "b"]), r"both classes there, got the values \[1.0\]"),
        (lambda: bootstrap_auc([1, 0, -1], [1, 2, 3], list("abc")), r"decide first what an uncertain label"),
        (lambda: bootstrap_auc([1, 0], [np.nan, 2], list("ab")), r"1 scores of labelled rows are not finite"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
