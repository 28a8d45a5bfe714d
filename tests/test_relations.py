"""Cross-modal affinity, Sinkhorn in a stream, what training reads from relations, and their quality."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from scipy import sparse
from torch import Tensor

from lgdea_core.config import GraphConfig
from lgdea_core.relations import (
    AffinityRelations,
    CrossAffinity,
    GraphRelations,
    Relations,
    combine_relations,
    relation_quality,
)

PHRASES_OF = [[0], [1, 2], [2, 3, 4], [], [4], [0, 5], [5]]
"""phrases of seven reports; the fourth has none"""


def random_scores(images: int = 11, phrases: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(images, phrases, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def membership(phrases_of: list[list[int]] = PHRASES_OF, phrases: int = 6) -> sparse.csr_array:
    matrix = np.zeros((len(phrases_of), phrases))
    for report, held in enumerate(phrases_of):
        matrix[report, held] = 1 / max(1, len(held))
    return sparse.csr_array(matrix)


def make_affinity(scores: Tensor | None = None, block_size: int = 4) -> CrossAffinity:
    scores = random_scores() if scores is None else scores
    return CrossAffinity(lambda rows: scores[rows], membership(), len(scores), block_size)


def random_graph(images: int = 11, reports: int = 7, seed: int = 3) -> sparse.csr_array:
    rng = np.random.default_rng(seed)
    graph = rng.random((images, reports)) * (rng.random((images, reports)) < 0.4)
    graph[2] = 0  # an image no walk reaches
    mass = graph.sum(axis=1, keepdims=True)
    return sparse.csr_array(np.divide(graph, mass, out=np.zeros_like(graph), where=mass > 0))


def every_row(relations: Relations) -> Tensor:
    return relations.rows(np.arange(relations.images))


def count_calls(function: Callable[[slice], Tensor]) -> tuple[Callable[[slice], Tensor], list[slice]]:
    calls: list[slice] = []

    def counted(rows: slice) -> Tensor:
        calls.append(rows)
        return function(rows)

    return counted, calls


# ---- affinity


@pytest.mark.parametrize("block_size", [1, 4, 11, 100])
def test_the_affinity_is_that_of_the_reference_whatever_the_blocks(block_size: int) -> None:
    scores = random_scores()
    affinity = make_affinity(scores, block_size)
    found = torch.cat([affinity.block(rows) for rows in affinity.slices()])
    torch.testing.assert_close(found, reference.cross_affinity(scores, PHRASES_OF), rtol=0, atol=1e-10)
    known = found[:, affinity.has_phrases]
    torch.testing.assert_close(known.mean(dim=1), torch.zeros(11, dtype=torch.float64), rtol=0, atol=1e-10)
    assert bool((found[:, 3] == -torch.inf).all())


def test_the_affinity_ignores_scale_and_offset_of_a_phrase() -> None:
    scores = random_scores()
    changed = scores * torch.tensor([1.0, 2.0, 3.0, 0.5, 10.0, 1.0]) + torch.tensor([1e3, 0.0, -5.0, 2.0, 0.0, 1.0])
    expected, found = make_affinity(scores).block(slice(0, 11)), make_affinity(changed).block(slice(0, 11))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def test_a_phrase_that_answers_alike_everywhere_says_nothing() -> None:
    scores = random_scores()
    scores[:, 1] = 7.3
    found = make_affinity(scores).block(slice(0, 11))
    torch.testing.assert_close(found, reference.cross_affinity(scores, PHRASES_OF), rtol=0, atol=1e-10)
    flat = make_affinity(torch.full((11, 6), 0.1, dtype=torch.float64)).block(slice(0, 11))
    assert bool((flat[:, [0, 1, 2, 4, 5, 6]] == 0).all())


def test_no_gradient_reaches_the_scores() -> None:
    scores = random_scores().requires_grad_()
    assert not make_affinity(scores).block(slice(0, 11)).requires_grad


def test_the_affinity_refuses_broken_scores_and_membership() -> None:
    scores = random_scores()
    scores[5, 2] = torch.nan
    with pytest.raises(ValueError, match=r"images 4 to 8 must have finite responses to 6 phrases.*1 not finite"):
        make_affinity(scores)
    with pytest.raises(ValueError, match=r"responses to 6 phrases, got shape \(4, 5\)"):
        make_affinity(random_scores(phrases=5))
    with pytest.raises(ValueError, match=r"rows of membership must sum to 1, or 0"):
        CrossAffinity(lambda rows: scores[rows], membership() * 2, 11)
    with pytest.raises(ValueError, match=r"needs images, a block size and reports with phrases; got 11 images"):
        CrossAffinity(lambda rows: scores[rows], membership([[], []]), 11)


# ---- combination and Sinkhorn


def dense_logits(graph: sparse.csr_array | None, sharpness: float, exponent: float) -> Tensor:
    logits = sharpness * reference.cross_affinity(random_scores(), PHRASES_OF)
    if graph is not None:
        logits = logits + exponent * (reference.dense(graph) + 1e-4 / graph.shape[1]).log()
    return logits


@pytest.mark.parametrize("with_graph", [True, False])
@pytest.mark.parametrize(("steps", "report_marginal"), [(0, 1.0), (1, 1.0), (20, 1.0), (20, 0.6), (20, 0.0)])
@pytest.mark.parametrize("cache_bytes", [0, 500, 2**30])
def test_streaming_sinkhorn_is_the_dense_one(
    with_graph: bool, steps: int, report_marginal: float, cache_bytes: int
) -> None:
    graph = random_graph() if with_graph else None
    relations = AffinityRelations(
        affinity=make_affinity(),
        sharpness=3.0,
        graph=graph,
        graph_exponent=0.5,
        sinkhorn_steps=steps,
        report_marginal=report_marginal,
        cache_bytes=cache_bytes,
    )
    expected = reference.sinkhorn(dense_logits(graph, 3.0, 0.5), steps, report_marginal)
    torch.testing.assert_close(every_row(relations), expected, rtol=0, atol=1e-8)
    streamed = torch.cat([rows for _, rows in relations.blocks()])
    torch.testing.assert_close(streamed, expected, rtol=0, atol=1e-8)


def test_sinkhorn_evens_out_the_columns_and_says_how_far_it_is() -> None:
    # with a report that every image prefers, rows alone give it most of the mass
    scores = random_scores(40)
    free = AffinityRelations(affinity=make_affinity(scores), sharpness=4.0, sinkhorn_steps=0)
    even = AffinityRelations(affinity=make_affinity(scores), sharpness=4.0, sinkhorn_steps=200)
    known = even.affinity.has_phrases
    wanted = 40 / int(known.sum())
    assert float(every_row(free).sum(dim=0).max()) > 1.3 * wanted
    torch.testing.assert_close(
        every_row(even).sum(dim=0)[known], torch.full((6,), wanted, dtype=torch.float64), rtol=1e-3, atol=0
    )
    assert even.marginal_errors[0] == pytest.approx(float(every_row(free).sum(dim=0).max()) / wanted - 1)
    assert even.marginal_errors[-1] < 1e-3 < even.marginal_errors[0]
    assert free.marginal_errors == []


def test_rows_sum_to_one_and_a_report_without_phrases_is_never_chosen() -> None:
    relations = AffinityRelations(affinity=make_affinity(), sharpness=8.0, graph=random_graph())
    rows = every_row(relations)
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(11, dtype=torch.float64))
    assert bool((rows[:, 3] == 0).all())
    assert float(rows[2].max()) > 0  # not reached by the graph, related by its affinity


def test_sinkhorn_survives_reports_out_of_reach_of_float32() -> None:
    scores = random_scores(30).float()
    relations = AffinityRelations(affinity=make_affinity(scores), sharpness=200.0, sinkhorn_steps=30)
    rows = every_row(relations)
    assert bool(rows.isfinite().all())
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(30))


def test_float32_follows_float64() -> None:
    graph = random_graph()
    double = AffinityRelations(affinity=make_affinity(), sharpness=8.0, graph=graph)
    single = AffinityRelations(affinity=make_affinity(random_scores().float()), sharpness=8.0, graph=graph)
    assert every_row(single).dtype == torch.float32
    torch.testing.assert_close(every_row(single).double(), every_row(double), rtol=1e-3, atol=1e-5)


def test_the_cache_spares_scores_within_its_budget() -> None:
    scores = random_scores()
    per_block = 4 * 7 * 8
    calls_of = {}
    for cache_bytes in (0, per_block, 2**30):
        score_block, calls = count_calls(lambda rows: scores[rows])
        affinity = CrossAffinity(score_block, membership(), 11, block_size=4)
        calls.clear()
        AffinityRelations(affinity=affinity, sharpness=2.0, sinkhorn_steps=5, cache_bytes=cache_bytes)
        calls_of[cache_bytes] = len(calls)
    assert calls_of == {0: 15, per_block: 11, 2**30: 3}  # three blocks, five steps


def test_modes_take_their_parts() -> None:
    graph, affinity = random_graph(), make_affinity()
    only_graph = combine_relations(GraphConfig(mode="graph"), graph, affinity)
    assert isinstance(only_graph, GraphRelations)
    torch.testing.assert_close(every_row(only_graph), reference.dense(graph))
    only_affinity = combine_relations(GraphConfig(mode="affinity", affinity_sharpness=2.0), graph, affinity)
    expected = reference.sinkhorn(dense_logits(None, 2.0, 0.5), 20)
    torch.testing.assert_close(every_row(only_affinity), expected, rtol=0, atol=1e-8)
    both = combine_relations(GraphConfig(mode="graph*affinity", graph_exponent=0.7, sinkhorn_steps=3), graph, affinity)
    expected = reference.sinkhorn(dense_logits(graph, 8.0, 0.7), 3)
    torch.testing.assert_close(every_row(both), expected, rtol=0, atol=1e-8)


def test_modes_refuse_missing_or_foreign_parts() -> None:
    with pytest.raises(ValueError, match=r"mode 'graph\*affinity' needs each of its parts; graph given, affinity mis"):
        combine_relations(GraphConfig(), graph=random_graph())
    with pytest.raises(ValueError, match=r"mode 'graph' needs each of its parts; graph missing"):
        combine_relations(GraphConfig(mode="graph"), affinity=make_affinity())
    with pytest.raises(ValueError, match=r"graph must be 11 images x 7 reports like the affinity, got \(11, 6\)"):
        AffinityRelations(affinity=make_affinity(), sharpness=1.0, graph=random_graph(reports=6))
    with pytest.raises(ValueError, match=r"report_marginal in \[0, 1\], got 20 and 1.5"):
        AffinityRelations(affinity=make_affinity(), sharpness=1.0, report_marginal=1.5)


# ---- what training reads


@pytest.fixture(params=["graph", "affinity", "no cache"])
def relations(request: pytest.FixtureRequest) -> Relations:
    if request.param == "graph":
        return GraphRelations(random_graph())
    cache_bytes = 0 if request.param == "no cache" else 2**20
    return AffinityRelations(affinity=make_affinity(), sharpness=2.0, graph=random_graph(), cache_bytes=cache_bytes)


def test_any_rows_are_those_of_the_whole(relations: Relations) -> None:
    whole, some = every_row(relations), np.array([7, 0, 10, 7])
    torch.testing.assert_close(relations.rows(some), whole[some], rtol=0, atol=1e-12)
    block = relations.block(some, np.array([6, 1]))
    torch.testing.assert_close(block, whole[some][:, [6, 1]], rtol=0, atol=1e-12)
    streamed = torch.cat([rows for _, rows in relations.blocks()])
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-12)


def test_reports_are_drawn_by_their_relation(relations: Relations) -> None:
    images = np.repeat(np.arange(11), 4000)
    drawn = relations.sample_reports(images, np.random.default_rng(0)).reshape(11, 4000)
    rows = every_row(relations)
    for image in range(11):
        if rows[image].sum() == 0:
            assert (drawn[image] == -1).all()
            continue
        shares = np.bincount(drawn[image], minlength=7) / 4000
        np.testing.assert_allclose(shares, rows[image], atol=0.04)
        assert (shares[rows[image].numpy() == 0] == 0).all()
    again = relations.sample_reports(images, np.random.default_rng(0)).reshape(11, 4000)
    np.testing.assert_array_equal(drawn, again)


def test_expected_evidence_is_the_weighted_mean_of_reports_that_have_any(relations: Relations) -> None:
    evidence = torch.rand(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    evidence = evidence / evidence.sum(dim=1, keepdim=True)
    evidence[1] = torch.nan  # a report without evidence
    choice = relations.expected_evidence(evidence)
    rows = every_row(relations).double()
    for image in range(11):
        weights = rows[image].clone()
        entropy = -sum(float(p) * np.log(float(p)) for p in weights if p > 0)
        assert float(choice.entropy[image]) == pytest.approx(entropy, abs=1e-9)
        weights[1] = 0
        if weights.sum() == 0:
            assert float(choice.evidence_distribution[image].sum()) == 0
            assert float(choice.agreement[image]) == 0
            continue
        weights = weights / weights.sum()
        mean = sum(weights[report] * evidence[report] for report in range(7) if report != 1)
        root = sum(weights[report] * evidence[report].sqrt() for report in range(7) if report != 1)
        torch.testing.assert_close(choice.evidence_distribution[image], mean, rtol=0, atol=1e-9)
        assert float(choice.agreement[image]) == pytest.approx(float(root.square().sum()), abs=1e-9)
    reached = rows.sum(dim=1) > 0
    torch.testing.assert_close(
        choice.evidence_distribution.sum(dim=1)[reached], torch.ones(int(reached.sum()), dtype=torch.float64)
    )


def test_agreement_is_one_where_all_related_reports_say_the_same() -> None:
    evidence = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    choice = GraphRelations(sparse.csr_array([[0.3, 0.7, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 0.0]])).expected_evidence(
        evidence
    )
    torch.testing.assert_close(choice.agreement, torch.tensor([1.0, 0.5, 0.0]))


def test_the_largest_relations_and_the_mass_they_lose(relations: Relations) -> None:
    rows = every_row(relations).double()
    kept, lost = relations.top_k(2)
    expected = torch.zeros_like(rows)
    for image in range(11):
        best = rows[image].topk(2).indices
        expected[image, best] = rows[image, best]
    torch.testing.assert_close(reference.dense(kept), expected, rtol=0, atol=1e-12)
    assert lost == pytest.approx(1 - float(expected.sum() / rows.sum()), abs=1e-6)
    assert relations.top_k(100)[1] == pytest.approx(0, abs=1e-6)
    again = GraphRelations(kept)  # saved relations are read back as relations
    torch.testing.assert_close(every_row(again).sum(dim=1) > 0, rows.sum(dim=1) > 0)


def test_an_unreached_image_has_a_zero_row() -> None:
    relations = GraphRelations(random_graph() * 5.0)
    rows = every_row(relations)
    assert float(rows[2].sum()) == 0
    torch.testing.assert_close(rows.sum(dim=1)[torch.arange(11) != 2], torch.ones(10, dtype=torch.float64))
    nothing = GraphRelations(sparse.csr_array((3, 4)))
    assert nothing.top_k(2)[1] == 0
    with pytest.raises(ValueError, match="must be finite and >= 0"):
        GraphRelations(sparse.csr_array([[-1.0, 1.0]]))


# ---- quality


def findings(rows: list[list[int]]) -> np.ndarray:
    return np.array(rows, dtype=bool)


def test_quality_by_hand() -> None:
    relations = GraphRelations(
        sparse.csr_array([[0.6, 0.4, 0.0, 0.0], [0.0, 0.1, 0.9, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.2, 0.0, 0.8]])
    )
    images = findings([[1, 0], [0, 1], [1, 1], [0, 0]])
    reports = findings([[1, 0], [0, 1], [0, 0], [0, 0]])
    quality = relation_quality(relations, np.array([[0, 1], [1, 2], [2, 0]]), images, reports)
    assert quality["coverage"] == 0.75
    assert quality["precision_at_1"] == pytest.approx(2 / 3)  # images 0 and 3; image 1 prefers a normal report
    assert quality["precision_at_10"] == pytest.approx(3 / 6)  # of the six relations there are
    assert quality["base_rate"] == pytest.approx(4 / 16)
    # finding 0: scores .6, 0, 0 of images 0, 1, 3; finding 1: .4, .1, .2, true for image 1 alone
    assert quality["auc_by_finding"] == [1.0, 0.0]
    assert quality["label_auc"] == 0.5
    assert quality["pair_lift"] == pytest.approx((0.4 + 0.9 + 0) / 3 * 4)
    assert quality["pair_recall_at_10"] == pytest.approx(2 / 3)
    assert quality["max_column_mass"] == pytest.approx(0.9 / (3 / 4))
    entropies = [-(p * np.log(p)).sum() for p in (np.array([0.6, 0.4]), np.array([0.1, 0.9]), np.array([0.2, 0.8]))]
    assert quality["effective_reports"] == pytest.approx(np.exp(entropies).mean())
    json.dumps(quality)


def test_quality_tells_true_relations_from_shuffled_ones() -> None:
    rng = np.random.default_rng(0)
    images = rng.random((300, 4)) < 0.3
    reports = images[rng.permutation(300)]
    truth = (images[:, None, :] == reports[None, :, :]).all(axis=2) + 0.05 * rng.random((300, 300))
    good = relation_quality(GraphRelations(sparse.csr_array(truth)), np.empty((0, 2), int), images, reports)
    control = GraphRelations(sparse.csr_array(truth[rng.permutation(300)]))
    bad = relation_quality(control, np.empty((0, 2), int), images, reports)
    assert good["precision_at_1"] == 1
    assert good["label_auc"] > 0.95
    assert abs(bad["precision_at_1"] - bad["base_rate"]) < 0.1
    assert abs(bad["label_auc"] - 0.5) < 0.1
    assert good["pair_lift"] is None


def test_quality_without_any_relation_has_nothing_to_count() -> None:
    quality = relation_quality(
        GraphRelations(sparse.csr_array((2, 2))), np.empty((0, 2), int), findings([[1], [0]]), findings([[1], [0]])
    )
    assert quality["coverage"] == 0
    assert quality["precision_at_1"] is None
    assert quality["label_auc"] is None
    assert quality["max_column_mass"] is None


def test_quality_refuses_tables_of_other_pools() -> None:
    with pytest.raises(ValueError, match=r"findings of 11 images and 7 reports expected, got 7 and 11"):
        relation_quality(
            GraphRelations(random_graph()), np.empty((0, 2), int), np.zeros((7, 1), bool), np.zeros((11, 1), bool)
        )
