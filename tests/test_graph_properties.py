"""What holds for every graph and every seed: properties of the propagation, on random cases."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import dense, propagate_relations
from reference import symmetric_normalize as dense_normalize
from scipy import sparse

from lgdea_core.graph import (
    Propagation,
    evidence_descriptor,
    knn_affinity,
    propagate,
    propagation_trace,
    seed_matrix,
    symmetric_normalize,
)

sizes, seeds_of_chance = st.integers(2, 12), st.integers(0, 10_000)
alphas = st.floats(0.05, 0.95)
self_loops = st.sampled_from([0.0, 0.5, 1.0, 3.0])
modest = settings(max_examples=12, deadline=None)


def random_weights(nodes: int, rng: np.random.Generator, density: float = 0.4) -> sparse.csr_array:
    weights = np.triu(rng.random((nodes, nodes)) * (rng.random((nodes, nodes)) < density), k=1)
    return sparse.csr_array(weights + weights.T)


def random_seeds(images: int, reports: int, rng: np.random.Generator) -> sparse.csr_array:
    count = int(rng.integers(1, min(images, reports) + 1))
    pairs = np.stack([rng.permutation(images)[:count], rng.permutation(reports)[:count]], axis=1)
    return seed_matrix(pairs, images, reports, np.float64)


def spread(
    seeds: sparse.csr_array,
    images: sparse.csr_array,
    reports: sparse.csr_array,
    alpha: float,
    self_loop: float,
) -> Propagation:
    propagators = symmetric_normalize(images, self_loop), symmetric_normalize(reports, self_loop)
    return propagate(seeds, *propagators, alpha=alpha, tolerance=1e-10, max_steps=1000)


def whole(propagation: Propagation) -> np.ndarray:
    return propagation.rows(np.arange(propagation.seeds.shape[0]))


def random_case(
    images: int, reports: int, chance: int
) -> tuple[sparse.csr_array, sparse.csr_array, sparse.csr_array, np.random.Generator]:
    rng = np.random.default_rng(chance)
    return random_seeds(images, reports, rng), random_weights(images, rng), random_weights(reports, rng), rng


@given(sizes, sizes, seeds_of_chance, alphas, self_loops)
@modest
def test_the_sparse_form_is_the_dense_one(
    images: int, reports: int, chance: int, alpha: float, self_loop: float
) -> None:
    seeds, image_weights, report_weights, _ = random_case(images, reports, chance)
    found = torch.from_numpy(whole(spread(seeds, image_weights, report_weights, alpha, self_loop)))
    propagators = [dense_normalize(dense(weights), self_loop) for weights in (image_weights, report_weights)]
    torch.testing.assert_close(found, propagate_relations(dense(seeds), *propagators, alpha), rtol=0, atol=1e-8)


@given(sizes, sizes, seeds_of_chance, alphas, self_loops)
@modest
def test_renumbered_nodes_give_renumbered_relations(
    images: int, reports: int, chance: int, alpha: float, self_loop: float
) -> None:
    seeds, image_weights, report_weights, rng = random_case(images, reports, chance)
    rows, cols = rng.permutation(images), rng.permutation(reports)
    renumbered = seeds[rows][:, cols], image_weights[rows][:, rows], report_weights[cols][:, cols]
    expected = whole(spread(seeds, image_weights, report_weights, alpha, self_loop))[rows][:, cols]
    np.testing.assert_allclose(whole(spread(*renumbered, alpha, self_loop)), expected, rtol=0, atol=1e-8)


@given(sizes, seeds_of_chance, self_loops, st.floats(1e-3, 1e3))
@modest
def test_the_scale_of_an_affinity_does_not_matter(nodes: int, chance: int, self_loop: float, scale: float) -> None:
    weights = random_weights(nodes, np.random.default_rng(chance))
    expected, found = symmetric_normalize(weights, self_loop), symmetric_normalize(weights * scale, self_loop)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-12)


@given(sizes, seeds_of_chance, self_loops)
@modest
def test_a_propagator_is_symmetric_and_no_eigenvalue_exceeds_one(nodes: int, chance: int, self_loop: float) -> None:
    propagator = symmetric_normalize(random_weights(nodes, np.random.default_rng(chance)), self_loop).toarray()
    np.testing.assert_allclose(propagator, propagator.T, atol=1e-12)
    assert np.abs(np.linalg.eigvalsh(propagator)).max() <= 1 + 1e-9


@given(sizes, sizes, seeds_of_chance, self_loops)
@modest
def test_a_small_alpha_leaves_the_seeds(images: int, reports: int, chance: int, self_loop: float) -> None:
    seeds, image_weights, report_weights, _ = random_case(images, reports, chance)
    relations = whole(spread(seeds, image_weights, report_weights, 1e-6, self_loop))
    assert np.abs(relations - seeds.toarray()).max() < 1e-5


@given(sizes, sizes, seeds_of_chance, alphas, self_loops)
@modest
def test_disconnected_worlds_exchange_no_mass(
    images: int, reports: int, chance: int, alpha: float, self_loop: float
) -> None:
    seeds, image_weights, report_weights, rng = random_case(images, reports, chance)
    other_images, other_reports = random_weights(images, rng), random_weights(reports, rng)
    empty = sparse.csr_array((images, reports))
    together = spread(
        sparse.block_array([[seeds, None], [None, empty]], format="csr"),
        sparse.block_diag([image_weights, other_images], format="csr"),
        sparse.block_diag([report_weights, other_reports], format="csr"),
        alpha,
        self_loop,
    )
    relations = whole(together)
    assert np.count_nonzero(relations[images:]) == 0
    assert np.count_nonzero(relations[:, reports:]) == 0
    assert not together.reached()[0][images:].any()


@given(sizes, sizes, seeds_of_chance, alphas, self_loops)
@modest
def test_relations_are_never_negative_nor_larger_than_their_seeds_in_norm(
    images: int, reports: int, chance: int, alpha: float, self_loop: float
) -> None:
    seeds, image_weights, report_weights, _ = random_case(images, reports, chance)
    propagators = symmetric_normalize(image_weights, self_loop), symmetric_normalize(report_weights, self_loop)
    for relations in propagation_trace(seeds, *propagators, alpha=alpha, steps=6):
        assert relations.data.min(initial=0) >= 0
        assert np.linalg.norm(relations.data) <= np.linalg.norm(seeds.data) * (1 + 1e-9)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 6), seeds_of_chance)
@modest
def test_every_neighbour_graph_is_symmetric_without_loops_and_has_its_neighbours(
    nodes: int, neighbours: int, distinct: int, chance: int
) -> None:
    # few distinct points: most nodes are copies of others
    rng = np.random.default_rng(chance)
    points = evidence_descriptor(rng.dirichlet(np.ones(4), size=distinct))[rng.integers(0, distinct, nodes)]
    affinity = knn_affinity(points, neighbours)
    assert (affinity != affinity.T).nnz == 0
    assert affinity.diagonal().max() == 0
    assert np.diff(affinity.indptr).min() >= min(neighbours, nodes - 1)
    assert affinity.data.max(initial=0) <= 1


@given(st.integers(5, 30), st.integers(1, 6), seeds_of_chance)
@modest
def test_renumbered_descriptors_give_the_renumbered_graph(nodes: int, neighbours: int, chance: int) -> None:
    rng = np.random.default_rng(chance)
    points, order = evidence_descriptor(rng.dirichlet(np.ones(5), size=nodes)), rng.permutation(nodes)
    expected = knn_affinity(points, neighbours).toarray()[order][:, order]
    np.testing.assert_allclose(knn_affinity(points[order], neighbours).toarray(), expected, atol=1e-6)
