"""Graphs and propagation: hand-computed cases, agreement with the dense references, errors."""

import itertools
import json
import logging

import numpy as np
import pytest
import torch
from reference import dense, propagate_relations, propagation_limit
from reference import symmetric_normalize as dense_normalize
from scipy import sparse

from lgdea_core import graph
from lgdea_core.graph import (
    Propagation,
    evidence_descriptor,
    knn_affinity,
    propagate,
    propagation_trace,
    seed_matrix,
    symmetric_normalize,
)
from lgdea_core.training.monitors import graph_stats, hubness


def csr(rows: list[list[float]] | np.ndarray) -> sparse.csr_array:
    return sparse.csr_array(np.array(rows, dtype=np.float64))


def random_descriptors(nodes: int, seed: int, dim: int = 6) -> np.ndarray:
    return evidence_descriptor(np.random.default_rng(seed).dirichlet(np.full(dim, 0.5), size=nodes))


def random_affinity(nodes: int, seed: int, neighbours: int = 3) -> sparse.csr_array:
    return knn_affinity(random_descriptors(nodes, seed), neighbours)


def whole(propagation: Propagation) -> torch.Tensor:
    """All of `P`, which nothing but a test may ask for."""
    return torch.from_numpy(propagation.rows(np.arange(propagation.seeds.shape[0])).astype(np.float64))


def diagonal_pairs(count: int) -> np.ndarray:
    return np.stack([np.arange(count)] * 2, axis=1)


def world(images: int, reports: int, pairs: int, self_loop: float = 1.0) -> tuple[sparse.csr_array, ...]:
    """Seeds and both propagators of a random world."""
    return (
        seed_matrix(diagonal_pairs(pairs), images, reports, np.float64),
        symmetric_normalize(random_affinity(images, seed=1), self_loop),
        symmetric_normalize(random_affinity(reports, seed=2), self_loop),
    )


def slow_knn(descriptors: np.ndarray, neighbours: int) -> np.ndarray:
    similarity = descriptors @ descriptors.T
    affinity = np.zeros_like(similarity)
    for i in range(len(descriptors)):
        others = [j for j in np.argsort(-similarity[i]) if j != i][:neighbours]
        affinity[i, others] = similarity[i, others].clip(min=0)
    return np.maximum(affinity, affinity.T)


# ---- descriptors and nearest neighbours


def test_the_inner_product_of_descriptors_is_the_bhattacharyya_coefficient() -> None:
    descriptors = evidence_descriptor(np.array([[0.5, 0.5, 0.0], [0.125, 0.5, 0.375], [0.0, 0.0, 1.0]]))
    product = descriptors @ descriptors.T
    np.testing.assert_allclose(product[0, 1], 0.25 + 0.5, atol=1e-12)  # sqrt(.5 * .125) + sqrt(.5 * .5)
    np.testing.assert_allclose(np.diag(product), 1, atol=1e-12)
    assert product[0, 2] == 0


def test_embeddings_add_the_cosine_about_their_mean() -> None:
    evidence = np.array([[1.0, 0.0], [1.0, 0.0]])
    descriptors = evidence_descriptor(evidence, np.array([[5.0, 1.0], [5.0, 3.0]]))  # opposite about the mean
    np.testing.assert_allclose(descriptors @ descriptors.T, [[1, 0], [0, 1]], atol=1e-12)  # (1 + 1) / 2, (1 - 1) / 2


def test_a_node_without_evidence_has_no_descriptor_and_no_neighbours() -> None:
    evidence = np.array([[0.5, 0.5], [np.nan, np.nan], [0.0, 0.0], [0.4, 0.6]])
    embeddings = np.array([[1.0, 0.0], [np.nan, 1.0], [0.5, 0.5], [0.9, 0.2]])
    for descriptors in (evidence_descriptor(evidence), evidence_descriptor(evidence, embeddings)):
        np.testing.assert_array_equal(descriptors[1:3], 0)
    affinity = knn_affinity(evidence_descriptor(evidence), 3)
    assert affinity[[1, 2]].nnz == 0
    assert affinity[0, 3] > 0.9
    assert graph_stats(affinity)["isolated"] == 2


@pytest.mark.parametrize(("nodes", "neighbours"), [(40, 5), (40, 1), (6, 10), (2, 1)])
def test_nearest_neighbours_are_those_of_a_full_search(nodes: int, neighbours: int) -> None:
    descriptors = random_descriptors(nodes, seed=nodes)
    affinity = knn_affinity(descriptors, neighbours)
    np.testing.assert_allclose(affinity.toarray(), slow_knn(descriptors, neighbours), atol=1e-6)
    assert affinity.diagonal().max() == 0


def test_negative_cosines_are_no_edges() -> None:
    points = np.array([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]])
    affinity = knn_affinity(points, 2)
    np.testing.assert_allclose(affinity.toarray(), [[0, 0, 0.6], [0, 0, 0], [0.6, 0, 0]], atol=1e-6)
    assert affinity.nnz == 2


def test_an_approximate_search_finds_most_edges() -> None:
    descriptors = random_descriptors(2000, seed=3)
    exact, approximate = knn_affinity(descriptors, 5), knn_affinity(descriptors, 5, flat_limit=500)
    shared = (exact > 0).multiply(approximate > 0).nnz
    assert shared / exact.nnz > 0.9


@pytest.mark.parametrize("copies", [3, 4, 12, 200])
def test_nodes_with_one_descriptor_choose_each_other_evenly_and_stay_connected(copies: int) -> None:
    point = random_descriptors(1, seed=0)
    affinity = knn_affinity(np.repeat(point, copies, axis=0), 4)
    degrees = np.diff(affinity.indptr)
    assert affinity.diagonal().max() == 0
    assert degrees.min() >= min(4, copies - 1)
    assert degrees.max() <= 8  # a search that breaks ties by index gives copies - 1
    assert graph_stats(affinity)["components"] == 1
    far = sparse.csgraph.shortest_path(affinity, unweighted=True).max()
    assert far <= 2 * np.log2(copies)


def test_copies_beside_other_nodes_keep_their_nearest() -> None:
    others = random_descriptors(30, seed=4)
    descriptors = np.concatenate([others, others[:3], others[:3]])  # three nodes in three copies
    affinity = knn_affinity(descriptors, 5)
    similarity = descriptors @ descriptors.T
    for node in range(3):
        copies = [30 + node, 33 + node]
        assert affinity[[node], :][:, copies].nnz == 2
        chosen = affinity[[node], :].indices
        nearest = np.sort(np.delete(similarity[node], node))[-5:]
        assert len(chosen) >= 5
        assert np.sort(similarity[node, chosen])[-5:] == pytest.approx(nearest, abs=1e-6)


def test_many_nodes_spread_over_the_copies_of_their_nearest_point() -> None:
    # fifty nodes, each of its own direction, all nearest to one point that sixty nodes share
    alone = np.concatenate([np.full((50, 1), 0.8), 0.6 * np.eye(50)], axis=1)
    copies = np.repeat(np.eye(1, 51), 60, axis=0)
    affinity = knn_affinity(np.concatenate([alone, copies]), 4)
    chosen = (affinity[:50][:, 50:] > 0).sum(axis=0)
    assert chosen.sum() == 50 * 4
    assert chosen.max() <= 8  # the first four would be chosen by all fifty


def test_graphs_repeat_bitwise() -> None:
    first, again = random_affinity(300, seed=5), random_affinity(300, seed=5)
    assert (first != again).nnz == 0


def test_nearest_neighbours_refuse_what_is_not_normalised() -> None:
    with pytest.raises(ValueError, match=r"L2-normalised, or zero; got norms from 1 to 2"):
        knn_affinity(np.array([[1.0, 0.0], [0.0, 2.0]]), 1)
    with pytest.raises(ValueError, match=r"neighbours must be at least 1, got 0"):
        knn_affinity(np.eye(2), 0)
    with pytest.raises(ValueError, match=r"must be >= 0; got a negative entry"):
        evidence_descriptor(np.array([[1.5, -0.5]]))
    with pytest.raises(ValueError, match=r"embeddings of nodes with evidence must be finite"):
        evidence_descriptor(np.array([[0.5, 0.5]]), np.array([[np.nan]]))


# ---- propagators and seeds


def test_the_propagator_of_a_path_by_hand() -> None:
    path = csr([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(symmetric_normalize(path, 0.0).toarray(), [[0, half, 0], [half, 0, half], [0, half, 0]])
    looped = symmetric_normalize(path, 1.0).toarray()  # degrees 2, 3, 2
    np.testing.assert_allclose(looped[0], [1 / 2, 1 / np.sqrt(6), 0])
    np.testing.assert_allclose(looped[1], [1 / np.sqrt(6), 1 / 3, 1 / np.sqrt(6)])


@pytest.mark.parametrize("self_loop", [0.0, 0.3, 2.0])
def test_the_propagator_is_that_of_the_reference(self_loop: float) -> None:
    affinity = random_affinity(20, seed=6)
    expected = dense_normalize(dense(affinity), self_loop)
    torch.testing.assert_close(dense(symmetric_normalize(affinity, self_loop)), expected, rtol=0, atol=1e-12)


def test_an_isolated_node_has_a_zero_row_or_keeps_to_itself() -> None:
    affinity = csr([[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert symmetric_normalize(affinity, 0.0)[[2]].nnz == 0
    np.testing.assert_allclose(symmetric_normalize(affinity, 0.5).toarray()[2], [0, 0, 1])
    nothing = sparse.csr_array((3, 3), dtype=np.float64)
    np.testing.assert_allclose(symmetric_normalize(nothing, 1.0).toarray(), np.eye(3))
    assert symmetric_normalize(nothing, 0.0).sum() == 0


@pytest.mark.parametrize(
    ("affinity", "self_loop", "message"),
    [
        (csr([[0, 1, 0], [1, 0, 0]]), 1.0, r"must be square, finite and >= 0, got \(2, 3\)"),
        (csr([[0, 1], [0.5, 0]]), 1.0, r"must be symmetric, got entries 5.0e-01 apart"),
        (csr([[0, -1], [-1, 0]]), 1.0, r"must be square, finite and >= 0"),
        (csr([[0, np.nan], [np.nan, 0]]), 1.0, r"must be square, finite and >= 0"),
        (csr([[0, 1], [1, 0]]), -0.1, r"self_loop must be >= 0, got -0.1"),
    ],
)
def test_a_propagator_refuses_what_is_no_affinity(affinity: sparse.csr_array, self_loop: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        symmetric_normalize(affinity, self_loop)


def test_seeds_are_one_at_known_pairs() -> None:
    seeds = seed_matrix(np.array([[0, 2], [3, 2]]), images=4, reports=3)
    np.testing.assert_array_equal(seeds.toarray(), [[0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 1]])
    assert seeds.dtype == np.float32
    assert seed_matrix(np.empty((0, 2), dtype=np.int64), 4, 3).nnz == 0


def test_seeds_refuse_foreign_and_repeated_pairs() -> None:
    with pytest.raises(ValueError, match=r"report positions must lie in \[0, 3\), got 0 to 3"):
        seed_matrix(np.array([[0, 0], [1, 3]]), 4, 3)
    with pytest.raises(ValueError, match=r"image positions must lie in \[0, 4\), got -1 to 0"):
        seed_matrix(np.array([[0, 0], [-1, 1]]), 4, 3)
    with pytest.raises(ValueError, match=r"1 pair\(s\) occur more than once"):
        seed_matrix(np.array([[0, 0], [0, 0]]), 4, 3)


# ---- propagation


@pytest.mark.parametrize("alpha", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("self_loop", [0.0, 1.0])
def test_propagation_matches_its_closed_form(alpha: float, self_loop: float) -> None:
    seeds, images, reports = world(18, 15, pairs=5, self_loop=self_loop)
    limit = propagation_limit(dense(seeds), dense(images), dense(reports), alpha)
    result = propagate(seeds, images, reports, alpha=alpha, tolerance=1e-9, max_steps=2000)
    found = whole(result)
    torch.testing.assert_close(found, limit, rtol=0, atol=1e-9)
    block = found[5:, 5:] - limit[5:, 5:]
    assert block.norm() / limit[5:, 5:].norm() < 1e-6
    assert result.converged


@pytest.mark.parametrize("alpha", [0.5, 0.95])
def test_float32_comes_close_to_the_closed_form_too(alpha: float) -> None:
    seeds, images, reports = (matrix.astype(np.float32) for matrix in world(18, 15, pairs=5))
    limit = propagation_limit(dense(seeds), dense(images), dense(reports), alpha)[5:, 5:]
    result = propagate(seeds, images, reports, alpha=alpha, tolerance=1e-7, max_steps=500)
    assert result.rows(np.array([0])).dtype == np.float32
    assert (whole(result)[5:, 5:] - limit).norm() / limit.norm() < 5e-6


def test_a_star_shows_a_hub_above_every_seed() -> None:
    # hub 0 with four leaves on both sides, seeds at the leaves: S[0, leaf] = 1/2, so P[0, 0] sums over the leaves
    star = np.zeros((5, 5))
    star[0, 1:] = star[1:, 0] = 1
    propagator = symmetric_normalize(sparse.csr_array(star), 0.0)
    seeds = seed_matrix(diagonal_pairs(5)[1:], 5, 5, np.float64)
    first = list(propagation_trace(seeds, propagator, propagator, alpha=0.5, steps=1))[1]
    np.testing.assert_allclose(first[0, 0], 0.5 * 4 * 0.25)
    result = propagate(seeds, propagator, propagator, alpha=0.9, tolerance=1e-10, max_steps=500)
    relations = whole(result).numpy()
    hub, seed = relations[0, 0], relations[1, 1]
    assert hub > seed
    assert np.linalg.norm(relations) <= np.linalg.norm(seeds.data)
    assert hubness(sparse.csr_array(star))["max"] == 4


@pytest.mark.parametrize(("columns", "threads"), [(1, 1), (4, 2), (100, 2)])
def test_how_columns_are_shared_out_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, columns: int, threads: int
) -> None:
    walk, values = world(30, 25, pairs=6), np.random.default_rng(0).random((25, 9))
    expected = propagate(*walk, alpha=0.8, tolerance=1e-8, max_steps=200).times(values)
    monkeypatch.setattr(graph, "COLUMNS", columns)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = propagate(*walk, alpha=0.8, tolerance=1e-8, max_steps=200)
    np.testing.assert_allclose(found.times(values), expected, rtol=1e-12)
    np.testing.assert_array_equal(found.times(sparse.csr_array(values), np.array([7, 0])), found.times(values)[[7, 0]])


def test_rows_alone_are_the_iteration_of_the_equation() -> None:
    pairs = np.array([[4, 9], [0, 3], [11, 0], [7, 5], [8, 5]])  # seeds anywhere, one report with two images
    walk = seed_matrix(pairs, 20, 16, np.float64), *world(20, 16, pairs=1)[1:]
    for steps in (1, 2, 7):
        result = propagate(*walk, alpha=0.7, tolerance=1e-12, max_steps=steps)
        trace = list(propagation_trace(*walk, alpha=0.7, steps=steps))
        assert (trace[0] != walk[0]).nnz == 0
        np.testing.assert_allclose(whole(result).numpy(), trace[-1].toarray(), rtol=0, atol=1e-12)


def test_the_estimated_change_is_about_the_true_one() -> None:
    walk = world(200, 150, pairs=20)
    result = propagate(*walk, alpha=0.8, tolerance=1e-9, max_steps=12)
    blocks = [part.toarray()[20:, 20:] for part in propagation_trace(*walk, alpha=0.8, steps=12)]
    true = [np.linalg.norm(new - old) / np.linalg.norm(new) for old, new in itertools.pairwise(blocks)]
    np.testing.assert_allclose(result.moved, true, rtol=0.35)
    np.testing.assert_allclose(np.log(result.moved[4:]), np.log(true[4:]), atol=0.3)


def test_what_no_walk_reaches_is_zero_and_says_so() -> None:
    two_islands = symmetric_normalize(csr([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]), 1.0)
    seeds = seed_matrix(np.array([[0, 0]]), 4, 4, np.float64)
    result = propagate(seeds, two_islands, two_islands, alpha=0.8, tolerance=1e-6, max_steps=200)
    np.testing.assert_array_equal(result.reached()[0], [True, True, False, False])
    np.testing.assert_array_equal(result.reached()[1], [True, True, False, False])
    block = result.unpaired_block().toarray()
    np.testing.assert_allclose(block, [[1, 0, 0], [0, 0, 0], [0, 0, 0]])  # images 1 to 3 x reports 1 to 3
    stats = result.stats()
    assert (stats["unreached_images"], stats["unreached_reports"], stats["paired_images"]) == (2, 2, 1)


@pytest.mark.parametrize("long", ["images", "reports", "both"])
def test_a_long_path_is_walked_to_its_end_before_standing_still(long: str) -> None:
    # far nodes get almost nothing, so the relative change alone would stop long before they are reached
    path = symmetric_normalize(csr(np.diag(np.ones(29), 1) + np.diag(np.ones(29), -1)), 1.0)
    edge = symmetric_normalize(csr([[0, 1], [1, 0]]), 1.0)
    images, reports = edge if long == "reports" else path, edge if long == "images" else path
    seeds = seed_matrix(np.array([[0, 0]]), images.shape[0], reports.shape[0], np.float64)
    result = propagate(seeds, images, reports, alpha=0.3, tolerance=0.1, max_steps=100)
    assert result.reached()[0].all()
    assert result.reached()[1].all()
    assert result.converged
    assert result.steps == 30  # 29 to the end, and one that reaches nothing further


def test_a_path_longer_than_the_steps_is_not_standing_still(caplog: pytest.LogCaptureFixture) -> None:
    path = symmetric_normalize(csr(np.diag(np.ones(29), 1) + np.diag(np.ones(29), -1)), 1.0)
    edge = symmetric_normalize(csr([[0, 1], [1, 0]]), 1.0)
    seeds = seed_matrix(np.array([[0, 0]]), 2, 30, np.float64)
    with caplog.at_level(logging.WARNING, logger="lgdea"):
        result = propagate(seeds, edge, path, alpha=0.3, tolerance=0.1, max_steps=20)
    assert not result.converged
    assert result.stats()["unreached_reports"] == 9
    assert "and reach further nodes after 20 steps" in caplog.text


def test_islands_do_not_keep_the_walk_going() -> None:
    # neither a node nobody reaches nor a seed whose report has no neighbour counts as still to be reached
    islands = symmetric_normalize(csr(np.kron(np.eye(3), [[0, 1], [1, 0]])), 0.0)
    alone = symmetric_normalize(csr([[0, 1, 0], [1, 0, 0], [0, 0, 0]]), 0.0)
    seeds = seed_matrix(np.array([[0, 0], [2, 2]]), 6, 3, np.float64)
    result = propagate(seeds, islands, alone, alpha=0.3, tolerance=0.1, max_steps=100)
    assert result.converged
    np.testing.assert_array_equal(result.reached()[0], [True, True, True, False, False, False])
    np.testing.assert_array_equal(result.reached()[1], [True, True, True])
    assert result.steps <= 5


def test_without_seeds_nothing_is_related() -> None:
    _, images, reports = world(8, 6, pairs=1)
    seeds = seed_matrix(np.empty((0, 2), dtype=np.int64), 8, 6, np.float64)
    result = propagate(seeds, images, reports, alpha=0.8, tolerance=1e-3, max_steps=10)
    assert not whole(result).any()
    assert result.converged
    assert not result.reached()[0].any()


def test_not_standing_still_is_a_warning_and_a_flag(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="lgdea"):
        result = propagate(*world(12, 10, pairs=3), alpha=0.9, tolerance=1e-6, max_steps=4)
    assert not result.converged
    assert result.steps == 4
    assert "still move by" in caplog.text
    assert "raise max_steps or lower alpha" in caplog.text


def test_a_smaller_tolerance_takes_more_steps_and_comes_nearer() -> None:
    seeds, images, reports = world(18, 15, pairs=5)
    limit = propagate_relations(dense(seeds), dense(images), dense(reports), 0.9)[5:, 5:]
    errors, steps = [], []
    for tolerance in (1e-2, 1e-4, 1e-6):
        result = propagate(seeds, images, reports, alpha=0.9, tolerance=tolerance, max_steps=1000)
        errors.append(float((whole(result)[5:, 5:] - limit).norm() / limit.norm()))
        steps.append(result.steps)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5
    assert steps == sorted(steps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.0}, r"alpha must lie strictly between 0 and 1, got 0.0"),
        ({"alpha": 1.0}, r"alpha must lie strictly between 0 and 1, got 1.0"),
        ({"tolerance": 0.0}, r"tolerance=0.0 and max_steps=5 must be positive"),
        ({"max_steps": 0}, r"max_steps=0 must be positive"),
    ],
)
def test_propagation_refuses_numbers_out_of_range(change: dict[str, float], message: str) -> None:
    arguments = {"alpha": 0.8, "tolerance": 0.1, "max_steps": 5} | change
    with pytest.raises(ValueError, match=message):
        propagate(*world(6, 5, pairs=2), **arguments)


def test_propagation_refuses_graphs_of_other_pools() -> None:
    seeds, images, reports = world(6, 5, pairs=2)
    with pytest.raises(ValueError, match=r"image propagator must be 6 x 6 like the seeds, got \(5, 5\)"):
        propagate(seeds, reports, images, alpha=0.8, tolerance=0.1, max_steps=5)


# ---- statistics


def test_graph_statistics_by_hand() -> None:
    affinity = csr([[0, 0.5, 0, 0], [0.5, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    stats = graph_stats(affinity)
    assert stats["nodes"] == 4
    assert stats["edges"] == 2
    assert stats["isolated"] == 1
    assert stats["components"] == 2
    assert stats["largest_component"] == 3
    assert stats["weight_mean"] == pytest.approx(0.75)
    assert stats["hubness"] == {"skewness": pytest.approx(0.0), "max": 2.0, "mean": 1.0}
    json.dumps(stats)


def test_hubness_sees_a_star() -> None:
    star = np.zeros((50, 50))
    star[0, 1:] = star[1:, 0] = 1
    assert hubness(sparse.csr_array(star))["skewness"] > 6
    assert hubness(random_affinity(50, seed=7))["skewness"] < 3
    assert hubness(sparse.csr_array((0, 0)))["max"] == 0


def test_propagation_statistics_are_plain_numbers() -> None:
    stats = propagate(*world(12, 10, pairs=3), alpha=0.7, tolerance=1e-3, max_steps=50).stats()
    assert json.loads(json.dumps(stats)) == stats


def test_a_block_that_is_too_large_is_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    result = propagate(*world(12, 10, pairs=3), alpha=0.8, tolerance=0.1, max_steps=50)
    assert result.unpaired_block().shape == (9, 7)
    monkeypatch.setattr(graph, "EXACT_ENTRIES", 62)
    with pytest.raises(ValueError, match=r"9 x 7 entries are more than are ever held \(62\); use relations"):
        result.unpaired_block()
