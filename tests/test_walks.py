"""Thin products are the dense relations'; draws and blocks by walks are so within their error, on random graphs."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse
from test_graph_properties import random_weights, whole

from lgdea_core import relations as relations_module
from lgdea_core.graph import Propagation, propagate, seed_matrix, symmetric_normalize
from lgdea_core.relations import GraphRelations, PropagatedRelations, graph_relations
from lgdea_core.walks import WALKS, Walks


def case(chance: int, alpha: float, self_loop: float = 1.0) -> Propagation:
    """Two islands on each side, a hub, a node without neighbours, and seeds on the first island and between both."""
    rng = np.random.default_rng(chance)
    graphs, sizes = [], rng.integers(5, 12, size=2)
    for size in sizes:
        weights = sparse.block_diag([random_weights(size, rng), random_weights(5, rng)]).toarray()
        weights[0, 1:size] = weights[1:size, 0] = 1.0
        weights[-1] = weights[:, -1] = 0.0
        graphs.append(symmetric_normalize(sparse.csr_array(weights), self_loop))
    pairs = np.array([[0, 2], [3, 0], [3, 1], [1, len(weights) - 2]])
    seeds = seed_matrix(pairs, *(graph.shape[0] for graph in graphs), np.float64)
    return propagate(seeds, *graphs, alpha=alpha, tolerance=1e-3, max_steps=40)


def dense_relations(propagation: Propagation) -> np.ndarray:
    """Eq. 14 as it stands, with dense matrices, and its unpaired block with rows of sum 1 or 0."""
    parts = propagation.seeds, propagation.image_propagator, propagation.report_propagator
    seeds, images, reports = (part.toarray().astype(np.float64) for part in parts)
    full = seeds
    for _ in range(propagation.steps):
        full = propagation.alpha * images @ full @ reports + (1 - propagation.alpha) * seeds
    np.testing.assert_allclose(whole(propagation), full, rtol=1e-9, atol=1e-15)
    block = full[~propagation.paired_images][:, ~propagation.paired_reports]
    mass = block.sum(axis=1, keepdims=True)
    return np.divide(block, mass, out=np.zeros_like(block), where=mass > 0)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


@given(st.integers(0, 10_000), st.floats(0.5, 0.95), st.sampled_from([0.0, 1.0]))
@example(0, 0.95, 0.0)
@settings(max_examples=15, deadline=None)
def test_what_is_read_of_relations_is_what_the_dense_ones_say(chance: int, alpha: float, self_loop: float) -> None:
    propagation, rng = case(chance, alpha, self_loop), np.random.default_rng(chance)
    expected, thin = dense_relations(propagation), PropagatedRelations(propagation)
    held, values = GraphRelations(sparse.csr_array(expected)), rng.random((expected.shape[1], 19))
    assert not expected[-1].any()  # an image without neighbours: no walk reaches it
    close(thin.times(values), expected @ values)
    statements = sparse.csr_array((values > 0.7).astype(np.float32))
    close(thin.times(statements), expected @ statements.toarray())
    close(thin.report_mass(), expected.sum(axis=0))
    close(thin.rows(np.array([3, 0, 3])).numpy(), expected[[3, 0, 3]])
    evidence = values / values.sum(axis=1, keepdims=True)
    evidence[2] = np.nan
    for found, wanted in zip(thin.expected_evidence(evidence), held.expected_evidence(evidence), strict=True):
        close(found, wanted)
    assert thin.effective_reports() == pytest.approx(held.effective_reports())


@pytest.fixture(scope="module", params=[(1, 0.5), (5, 0.8), (9, 0.95)], ids=lambda part: f"alpha {part[1]}")
def both(request: pytest.FixtureRequest) -> tuple[PropagatedRelations, np.ndarray]:
    propagation = case(*request.param)
    return PropagatedRelations(propagation), dense_relations(propagation)


def test_reports_are_drawn_by_the_rows_that_are_never_computed(both: tuple[PropagatedRelations, np.ndarray]) -> None:
    thin, expected = both
    draws, images = 4000, np.arange(thin.images)
    drawn = thin.sample_reports(np.repeat(images, draws), np.random.default_rng(0)).reshape(-1, draws)
    off = []
    for image in images:
        if not expected[image].any():
            assert (drawn[image] == -1).all()
            continue
        shares = np.bincount(drawn[image], minlength=thin.reports) / draws
        assert not shares[expected[image] == 0].any()
        some = expected[image] * draws > 20
        error = np.sqrt(expected[image] * (1 - expected[image]) / draws)
        off.append(((shares - expected[image])[some & (error > 0)]) / error[some & (error > 0)])
    off = np.concatenate(off)
    assert np.mean(np.abs(off) < 3) > 0.97
    assert abs(off).max() < 5
    again = thin.sample_reports(np.repeat(images, draws), np.random.default_rng(0)).reshape(-1, draws)
    np.testing.assert_array_equal(drawn, again)


def test_a_block_of_walks_has_no_bias_and_repeats(both: tuple[PropagatedRelations, np.ndarray]) -> None:
    thin, expected = both
    images, reports = np.arange(thin.images), np.arange(thin.reports)[::-1]
    times = 120
    blocks = np.stack([thin.block(images, reports, np.random.default_rng([7, t])).numpy() for t in range(times)])
    wanted = expected[:, reports]
    error = blocks.std(axis=0, ddof=1) / np.sqrt(times)
    np.testing.assert_array_equal(blocks[:, wanted == 0], 0)
    varies = error > 1e-3 * wanted.max()
    off = (blocks.mean(axis=0) - wanted)[varies] / error[varies]
    assert np.mean(np.abs(off) < 3) > 0.97
    assert abs(off).max() < 5
    assert abs(off.mean()) < 0.5
    # the exact last steps lower the variance: the share of walks that end there has p (1 - p) / WALKS
    assert np.mean(blocks.var(axis=0)[wanted > 0] <= 1.3 * (wanted * (1 - wanted) / WALKS)[wanted > 0]) > 0.9
    np.testing.assert_array_equal(thin.block(images, reports, np.random.default_rng([7, 0])).numpy(), blocks[0])


def test_an_allowed_report_is_the_only_one_drawn() -> None:
    propagation = case(4, 0.8)
    allowed = np.zeros(propagation.seeds.shape[1], dtype=bool)
    allowed[[1, 4]] = True
    walks, full = Walks(propagation, allowed), whole(propagation)
    np.testing.assert_allclose(walks.mass, full[:, [1, 4]].sum(axis=1), rtol=1e-9)
    drawn = walks.draw(np.repeat(np.flatnonzero(walks.mass > 0), 50), np.random.default_rng(0))
    assert set(drawn.tolist()) == {1, 4}


def test_pools_choose_their_form_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    propagation = case(2, 0.8)
    held = graph_relations(propagation)
    assert isinstance(held, GraphRelations)
    monkeypatch.setattr(relations_module, "EXACT_ENTRIES", held.images * held.reports - 1)
    thin = graph_relations(propagation)
    assert isinstance(thin, PropagatedRelations)
    np.testing.assert_allclose(thin.rows(np.arange(thin.images)), held.rows(np.arange(held.images)), atol=1e-12)
