"""Retrieval against a full sort, hand-computed ranks and torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.retrieval import retrieval_hit_rate, retrieval_precision

from lgdea_core.evaluation.retrieval import (
    chance_precision,
    commonest_precision,
    finding_sets,
    nearest,
    nearest_in,
    precision_at_k,
    recall_at_k,
    retrieval_ranks,
)


def unit(seed: int, rows: int, dim: int = 8) -> np.ndarray:
    embeds = np.random.default_rng(seed).normal(size=(rows, dim))
    return embeds / np.linalg.norm(embeds, axis=1, keepdims=True)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(1, 9), k=st.integers(1, 12))
def test_nearest_equals_a_stable_sort(seed: int, levels: int, k: int) -> None:
    similarity = np.random.default_rng(seed).integers(0, levels, (7, 12)) / 9  # ties, up to all equal
    np.testing.assert_array_equal(nearest_in(similarity, k), np.argsort(-similarity, axis=1, kind="stable")[:, :k])


def test_chunked_search_equals_the_whole_matrix() -> None:
    images, reports = unit(0, 23), unit(1, 31)
    whole = np.argsort(-(images @ reports.T), axis=1)[:, :10]
    for chunk in (1, 7, 100):
        np.testing.assert_array_equal(nearest(images, reports, 10, chunk=chunk), whole)


def test_precision_by_hand() -> None:
    ranking = np.array([[0, 1, 2], [2, 1, 0]])
    queries = [frozenset({"edema"}), frozenset()]
    candidates = [frozenset({"edema"}), frozenset({"edema", "nodule"}), frozenset()]  # a superset is no hit
    assert precision_at_k(ranking, queries, candidates, 1).tolist() == [1, 1]
    assert precision_at_k(ranking, queries, candidates, 3) == pytest.approx([1 / 3, 1 / 3])
    assert chance_precision(queries, candidates) == pytest.approx([1 / 3, 1 / 3])
    assert chance_precision([frozenset({"mass"})], candidates).tolist() == [0]


def test_precision_equals_torchmetrics() -> None:
    images, reports = unit(0, 9), unit(1, 40)
    generator = np.random.default_rng(2)
    query_classes, candidate_classes = generator.integers(0, 3, 9).tolist(), generator.integers(0, 3, 40).tolist()
    values = precision_at_k(nearest(images, reports, 10), query_classes, candidate_classes, 5)
    for row, value in enumerate(values):
        hits = torch.tensor([each == query_classes[row] for each in candidate_classes])
        assert value == pytest.approx(retrieval_precision(torch.tensor(images[row] @ reports.T), hits, top_k=5).item())


def test_random_ranking_has_chance_precision() -> None:
    generator = np.random.default_rng(0)
    classes = generator.choice([0, 1, 2], size=300, p=[0.7, 0.2, 0.1]).tolist()
    ranking = np.stack([generator.permutation(300)[:10] for _ in range(300)])
    expected = chance_precision(classes, classes).mean()
    assert precision_at_k(ranking, classes, classes, 10).mean() == pytest.approx(expected, abs=0.03)


def test_precision_of_the_commonest_class_by_hand() -> None:
    pool = [0b01, 0b10, 0b10, 0, 0b10, 0b01]  # the commonest is 0b10, which three candidates have
    assert commonest_precision(pool, pool, 1).tolist() == [0, 1, 1, 0, 1, 0]
    assert commonest_precision(pool, pool, 3).mean() == pytest.approx(1 / 2)
    assert commonest_precision(pool, pool, 5).tolist() == pytest.approx([0, 3 / 5, 3 / 5, 0, 3 / 5, 0])
    assert commonest_precision([0b01, 0b11], pool, 5).tolist() == [0, 0]
    assert commonest_precision([0b01, 0], [0, 0b01, 0b01, 0], 2).tolist() == [0, 1]  # equally common: the first


def test_what_ranks_the_commonest_class_first_has_its_precision() -> None:
    classes = np.random.default_rng(0).choice([0, 1, 2], size=60, p=[0.5, 0.3, 0.2])
    commonest = np.bincount(classes).argmax()
    ranking = np.tile(np.argsort(classes != commonest, kind="stable")[:10], (60, 1))
    classes = classes.tolist()
    expected = commonest_precision(classes, classes, 10)
    assert precision_at_k(ranking, classes, classes, 10).tolist() == expected.tolist()
    assert expected.mean() > chance_precision(classes, classes).mean()


def test_ranks_equal_a_slow_search_and_torchmetrics() -> None:
    images, reports = unit(0, 30), unit(1, 30)
    texts = [f"text {number % 11}" for number in range(30)]
    reports = reports[[number % 11 for number in range(30)]]  # the same text has the same embedding
    ranks = retrieval_ranks(images, reports, texts, texts, chunk=7)
    assert (ranks.texts, ranks.images) == (11, 30)
    assert ranks.text_rows.tolist() == list(range(11))
    similarity = images @ reports[:11].T
    for image in range(30):
        own = similarity[image, image % 11]
        assert ranks.image_to_text[image] == 1 + (similarity[image] > own).sum()
    for k in (1, 5):
        hits = recall_at_k(ranks.text_to_image, k)
        for text in range(11):
            partners = torch.arange(30) % 11 == text
            expected = retrieval_hit_rate(torch.tensor(similarity[:, text]), partners, top_k=k).item()
            assert hits[text] == expected


def test_identical_texts_are_one_candidate() -> None:
    images = np.eye(3)
    reports = np.eye(3)[[0, 0, 0, 1, 2]]
    texts = ["a", "a", "a", "b", "c"]
    ranks = retrieval_ranks(images[[0, 1, 2]], reports, ["a", "b", "c"], texts)
    assert ranks.image_to_text.tolist() == [1, 1, 1]
    assert ranks.texts == 3
    noisy = np.array([[0.9, 0.1, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    # image 1 prefers text a: rank 2 of 3, and not 4 of 5, because the three copies of a are one candidate
    assert retrieval_ranks(noisy, reports, ["a", "b", "c"], texts).image_to_text.tolist() == [1, 2, 1]


def test_collapsed_model_has_the_worst_rank() -> None:
    same = np.ones((6, 4)) / 2
    texts = list("abcdef")
    ranks = retrieval_ranks(same, same, texts, texts)
    assert ranks.image_to_text.tolist() == [6] * 6
    assert ranks.text_to_image.tolist() == [6] * 6
    assert recall_at_k(ranks.image_to_text, 5).sum() == 0


def test_reports_without_image_are_distractors_only() -> None:
    ranks = retrieval_ranks(np.eye(3)[:1], np.eye(3), ["b"], ["a", "b", "c"])
    assert ranks.image_to_text.tolist() == [3]  # orthogonal to its own text: both others tie or win
    assert ranks.text_to_image.tolist() == [1]
    assert ranks.text_rows.tolist() == [1]


def test_permuting_the_pool_changes_no_rank() -> None:
    images, reports = unit(0, 20), unit(1, 20)
    texts = list(range(20))
    order = np.random.default_rng(0).permutation(20)
    ranks = retrieval_ranks(images, reports, texts, texts)
    permuted = retrieval_ranks(images, reports[order], texts, order.tolist())
    np.testing.assert_array_equal(permuted.image_to_text, ranks.image_to_text)


def test_finding_sets_take_present_only() -> None:
    labels = np.array([[1, 0, 1], [-1, np.nan, 0], [0, 1, -1]], dtype=float)
    assert finding_sets(labels) == [0b101, 0, 0b010]
    assert finding_sets(np.ones((1, 70)))[0] == 2**70 - 1  # more findings than bits of an integer


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"nearest: k must lie between 1 and the pool size 3, got 4"):
        nearest(np.eye(3), np.eye(3), 4)
    with pytest.raises(ValueError, match=r"precision_at_k: k must lie between 1 and the 2 ranked ones, got 5"):
        precision_at_k(np.zeros((1, 2), dtype=int), [1], [1], 5)
    with pytest.raises(ValueError, match=r"1 ranked queries, but 2 query classes"):
        precision_at_k(np.zeros((1, 2), dtype=int), [1, 1], [1], 1)
    with pytest.raises(ValueError, match=r"the text of 1 image\(s\) is not among the reports"):
        retrieval_ranks(np.eye(2), np.eye(2), ["a", "secret"], ["a", "b"])
    with pytest.raises(ValueError, match=r"2 images with 1 texts and 2 reports with 2 texts"):
        retrieval_ranks(np.eye(2), np.eye(2), ["a"], ["a", "b"])
    with pytest.raises(ValueError, match=r"recall_at_k: k must be at least 1, got 0"):
        recall_at_k(np.array([1]), 0)
