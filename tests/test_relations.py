"""Cross-modal affinity, Sinkhorn in a stream, what training reads from relations, and their quality."""

import itertools
import json
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import reference
import torch
from planted import PlantedWorld, config
from scipy import sparse
from torch import Tensor

from lgdea_core.batch import TrainingData
from lgdea_core.config import GraphConfig
from lgdea_core.crops import CropPool
from lgdea_core.evidence.index import index_evidence
from lgdea_core.relations import (
    FLOOR,
    AffinityRelations,
    CrossAffinity,
    GraphRelations,
    Relations,
    calibrated_log_odds,
    combine_relations,
    relation_quality,
)
from lgdea_core.runs.inputs import Inputs, top_relations
from lgdea_core.training.refresh import EvidenceView, cross_affinity, refresh_relations

STATED = [[0], [1, 2], [2, 3, 4], None, [4], [0, 5], []]
"""observations of seven reports; the fourth has no evidence, the last says that all is normal"""
KNOWN = [0, 1, 2, 4, 5, 6]


def random_responses(images: int = 11, observations: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, observations, generator=generator, dtype=torch.float64)


def membership(stated: list[list[int] | None] = STATED, observations: int = 6) -> sparse.csr_array:
    matrix = np.zeros((len(stated), observations))
    for report, held in enumerate(stated):
        matrix[report, held or []] = 1
    return sparse.csr_array(matrix)


def make_affinity(
    responses: Tensor | None = None,
    sharpness: float = 2.0,
    stated: list[list[int] | None] = STATED,
) -> CrossAffinity:
    responses = random_responses() if responses is None else responses
    has_evidence = np.array([held is not None for held in stated])
    return CrossAffinity(responses, membership(stated, responses.shape[1]), has_evidence, sharpness)


def whole(affinity: CrossAffinity) -> Tensor:
    return affinity.block(slice(None))


def random_graph(images: int = 11, reports: int = 7, seed: int = 3) -> sparse.csr_array:
    rng = np.random.default_rng(seed)
    graph = rng.random((images, reports)) * (rng.random((images, reports)) < 0.4)
    graph[2] = 0  # an image no walk reaches
    mass = graph.sum(axis=1, keepdims=True)
    return sparse.csr_array(np.divide(graph, mass, out=np.zeros_like(graph), where=mass > 0))


def every_row(relations: Relations) -> Tensor:
    return relations.rows(np.arange(relations.images))


# ---- affinity


def test_the_affinity_is_that_of_the_reference() -> None:
    responses = random_responses()
    affinity, expected = make_affinity(responses, 3.0), reference.cross_affinity(responses, STATED, 3.0)
    torch.testing.assert_close(whole(affinity), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(affinity.block(np.array([9, 2]), np.array([4, 0])), expected[[9, 2]][:, [4, 0]])


def test_reports_of_one_set_of_observations_are_one_column() -> None:
    stated: list[list[int] | None] = [[0, 1], None, [], [1, 0], [1], [], [0, 1], None]
    np.testing.assert_array_equal(make_affinity(stated=stated).sets(), [0, 1, 2, 0, 3, 2, 0, 1])
    relations = AffinityRelations(affinity=make_affinity(stated=stated), report_marginal=0.7)
    assert relations._of(np.arange(11)).shape == (11, 4)
    responses = random_responses()
    expected = reference.sinkhorn(reference.cross_affinity(responses, stated, 2.0), 20, 0.7)
    torch.testing.assert_close(every_row(relations), expected, rtol=0, atol=1e-8)


def test_the_affinity_by_hand() -> None:
    # two images one standard deviation either side, half of the reports state it: l = -s and s
    responses = torch.tensor([[4.0], [6.0]], dtype=torch.float64)
    affinity = make_affinity(responses, 1.5, stated=[[0], [], None])
    expected = torch.tensor([[-1.5, 0.0, -torch.inf], [1.5, 0.0, -torch.inf]], dtype=torch.float64)
    torch.testing.assert_close(whole(affinity), expected, rtol=0, atol=1e-9)
    rows = every_row(AffinityRelations(affinity=affinity))
    torch.testing.assert_close(rows[1, 0], torch.tensor(1.5, dtype=torch.float64).sigmoid(), rtol=0, atol=1e-9)


def test_relations_weigh_reports_as_naive_bayes_does() -> None:
    # one report of each set of three observations: the row is the product of the observations' odds, stated or not
    sets = [list(held) for size in range(4) for held in itertools.combinations(range(3), size)]
    affinity = make_affinity(random_responses(9, 3), stated=sets)
    rows, present = every_row(AffinityRelations(affinity=affinity)), affinity.log_odds.sigmoid()
    for image, (report, held) in itertools.product(range(9), enumerate(sets)):
        factors = [present[image, o] if o in held else 1 - present[image, o] for o in range(3)]
        assert float(rows[image, report]) == pytest.approx(float(torch.stack(factors).prod()), abs=1e-9)


@pytest.mark.parametrize("sharpness", [0.5, 2.0, 50.0])
def test_as_many_images_show_an_observation_as_reports_state_it(sharpness: float) -> None:
    affinity = make_affinity(random_responses(40), sharpness)
    shares = membership().toarray()[KNOWN].mean(axis=0)
    shown = affinity.log_odds.sigmoid().mean(dim=0)
    torch.testing.assert_close(shown, torch.from_numpy(shares).double(), rtol=0, atol=1e-6)


def test_shares_of_none_and_all_are_kept_off_the_ends() -> None:
    responses, shares = random_responses(30, 2).numpy(), np.array([0.0, 1.0])
    odds = calibrated_log_odds(responses, shares, 2.0)
    assert np.isfinite(odds).all()
    np.testing.assert_allclose((1 / (1 + np.exp(-odds))).mean(axis=0), [0.001, 0.999], atol=1e-9)


def test_the_affinity_ignores_scale_and_offset_of_a_response() -> None:
    responses = random_responses()
    changed = responses * torch.tensor([1.0, 2.0, 3.0, 0.5, 10.0, 1.0]) + torch.tensor([1e3, 0, -5.0, 2.0, 0, 1.0])
    torch.testing.assert_close(whole(make_affinity(changed)), whole(make_affinity(responses)), rtol=0, atol=1e-8)
    turned = responses * torch.tensor([-1.0, 1, 1, 1, 1, 1])
    assert not torch.allclose(whole(make_affinity(turned))[:, 0], whole(make_affinity(responses))[:, 0])


def test_the_affinity_follows_the_order_of_images_and_reports() -> None:
    responses, generator = random_responses(), torch.Generator().manual_seed(1)
    images, reports = torch.randperm(11, generator=generator), torch.randperm(7, generator=generator).tolist()
    found = whole(make_affinity(responses[images], stated=[STATED[report] for report in reports]))
    torch.testing.assert_close(found, whole(make_affinity(responses))[images][:, reports], rtol=0, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 7.3, -1e4])
def test_an_observation_all_images_answer_alike_says_nothing(value: float) -> None:
    responses = random_responses()
    responses[:, 2] = value
    silent = [None if held is None else [o for o in held if o != 2] for held in STATED]
    torch.testing.assert_close(
        whole(make_affinity(responses)), whole(make_affinity(responses, stated=silent)), rtol=0, atol=1e-9
    )
    flat = whole(make_affinity(torch.full((11, 6), value, dtype=torch.float64)))
    assert bool((flat[:, KNOWN] == 0).all())


def test_a_normal_report_has_affinity_zero_and_one_without_evidence_is_never_chosen() -> None:
    affinity = make_affinity()
    found = whole(affinity)
    assert bool((found[:, 6] == 0).all())
    assert bool((found[:, 3] == -torch.inf).all())
    assert bool(found[:, [0, 1, 2, 4, 5]].isfinite().all())
    relations = AffinityRelations(affinity=affinity, report_marginal=1.0, sinkhorn_steps=5)
    assert float(every_row(relations)[:, 3].max()) == 0
    assert not (relations.sample_reports(np.repeat(np.arange(11), 200), np.random.default_rng(0)) == 3).any()


def test_without_any_localised_observation_all_reports_with_evidence_are_alike() -> None:
    stated: list[list[int] | None] = [[], None, []]
    rows = every_row(AffinityRelations(affinity=make_affinity(random_responses(5, 0), stated=stated)))
    torch.testing.assert_close(rows, torch.tensor([[0.5, 0, 0.5]], dtype=torch.float64).expand(5, 3))


def test_no_gradient_reaches_the_responses() -> None:
    assert not whole(make_affinity(random_responses().requires_grad_())).requires_grad


def test_the_affinity_refuses_what_does_not_fit() -> None:
    responses, known = random_responses(), np.array([held is not None for held in STATED])
    broken = responses.clone()
    broken[5, 2] = torch.nan
    with pytest.raises(ValueError, match=r"expected finite responses to 6 observations.*1 responses not finite"):
        make_affinity(broken)
    with pytest.raises(ValueError, match=r"to 6 observations .* for 7 reports, got shapes \(11, 5\) and \(7,\)"):
        CrossAffinity(random_responses(observations=5), membership(), known, 2.0)
    with pytest.raises(ValueError, match=r"for 7 reports, got shapes \(11, 6\) and \(6,\), 0 responses not finite"):
        CrossAffinity(responses, membership(), known[:6], 2.0)
    with pytest.raises(ValueError, match=r"got 11 images, 0 reports with evidence"):
        CrossAffinity(responses, membership(), np.zeros(7, dtype=bool), 2.0)
    with pytest.raises(ValueError, match=r"needs images and reports with evidence; got 0 images"):
        make_affinity(responses[:0])


# ---- combination and Sinkhorn


def dense_logits(graph: sparse.csr_array | None, sharpness: float, exponent: float) -> Tensor:
    logits = reference.cross_affinity(random_responses(), STATED, sharpness)
    if graph is not None:
        logits = logits + exponent * (reference.dense(graph) + 1e-4 / graph.shape[1]).log()
    return logits


@pytest.mark.parametrize("with_graph", [True, False])
@pytest.mark.parametrize(("steps", "report_marginal"), [(0, 1.0), (1, 1.0), (20, 1.0), (20, 0.6), (20, 0.0)])
@pytest.mark.parametrize("block_size", [1, 4, 100])
def test_streaming_sinkhorn_is_the_dense_one(
    with_graph: bool, steps: int, report_marginal: float, block_size: int
) -> None:
    graph = random_graph() if with_graph else None
    relations = AffinityRelations(
        affinity=make_affinity(sharpness=3.0),
        graph=GraphRelations(graph) if with_graph else None,
        graph_exponent=0.5,
        sinkhorn_steps=steps,
        report_marginal=report_marginal,
        block_size=block_size,
    )
    expected = reference.sinkhorn(dense_logits(graph, 3.0, 0.5), steps, report_marginal)
    torch.testing.assert_close(every_row(relations), expected, rtol=0, atol=1e-8)
    streamed = torch.cat([rows for _, rows in relations.blocks(10**6)])
    torch.testing.assert_close(streamed, expected, rtol=0, atol=1e-8)


def test_a_hint_raises_the_odds_of_the_true_report_by_a_known_factor_and_no_other() -> None:
    """The dose-response of the experiments: the true pairs in place of the graph, under a small exponent."""
    affinity, exponent = make_affinity(), 0.2
    images, reports = affinity.images, affinity.reports
    true = np.arange(images) % reports
    oracle = GraphRelations(sparse.csr_array((np.ones(images), (np.arange(images), true)), shape=(images, reports)))
    hinted = combine_relations(GraphConfig(graph_exponent=exponent, report_marginal=0.0), oracle, affinity)
    plain = combine_relations(GraphConfig(mode="affinity", report_marginal=0.0), None, affinity)
    ratio = every_row(hinted) / every_row(plain)
    told = affinity.has_evidence[true]
    own, rows = np.eye(reports, dtype=bool)[true], ratio.numpy()
    other = np.where(own | np.isnan(rows), -np.inf, rows).max(axis=1)
    np.testing.assert_allclose(rows[own][told] / other[told], (1 + reports / FLOOR) ** exponent)


def test_sinkhorn_evens_out_the_columns_and_says_how_far_it_is() -> None:
    # with a report that every image prefers, rows alone give it most of the mass
    affinity = make_affinity(random_responses(40), 4.0)
    free = AffinityRelations(affinity=affinity)
    even = AffinityRelations(affinity=affinity, report_marginal=1.0, sinkhorn_steps=400)
    wanted = 40 / len(KNOWN)
    assert float(every_row(free).sum(dim=0).max()) > 1.3 * wanted
    torch.testing.assert_close(
        every_row(even).sum(dim=0)[KNOWN], torch.full((6,), wanted, dtype=torch.float64), rtol=1e-3, atol=0
    )
    assert even.marginal_errors[0] == pytest.approx(float(every_row(free).sum(dim=0).max()) / wanted - 1)
    assert even.marginal_errors[-1] < 1e-3 < even.marginal_errors[0]
    assert free.marginal_errors == []


@pytest.mark.parametrize("marginal", [0.3, 0.8])
def test_a_partial_marginal_settles_where_its_formula_says(marginal: float) -> None:
    affinity = make_affinity(random_responses(40), 4.0)
    relations = {
        steps: AffinityRelations(affinity=affinity, report_marginal=marginal, sinkhorn_steps=steps)
        for steps in (0, 1, 5, 200)
    }
    settled, rows = relations[200].report_scaling, every_row(relations[200])
    wanted = 40 / len(KNOWN) * torch.exp(-settled * (1 - marginal) / marginal)
    torch.testing.assert_close(rows.sum(dim=0)[KNOWN], wanted[KNOWN], rtol=1e-9, atol=0)
    left = {steps: float((part.report_scaling - settled).abs().max()) for steps, part in relations.items()}
    assert left[1] <= marginal * left[0]
    assert left[5] <= marginal**5 * left[0]
    largest = [
        float(every_row(AffinityRelations(affinity=affinity, report_marginal=m)).sum(dim=0).max())
        for m in (0.0, marginal, 1.0)
    ]
    assert largest[0] > largest[1] > largest[2]


def test_rows_sum_to_one_and_an_unreached_image_is_related_by_its_affinity_alone() -> None:
    affinity = make_affinity(sharpness=8.0)
    rows = every_row(AffinityRelations(affinity=affinity, graph=GraphRelations(random_graph())))
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(11, dtype=torch.float64))
    assert bool((rows[:, 3] == 0).all())
    alone = every_row(AffinityRelations(affinity=affinity))
    torch.testing.assert_close(rows[2], alone[2], rtol=0, atol=1e-9)
    assert not torch.allclose(rows[0], alone[0])


def test_sinkhorn_survives_reports_out_of_reach_of_float32() -> None:
    affinity = make_affinity(random_responses(30).float(), 200.0)
    rows = every_row(AffinityRelations(affinity=affinity, report_marginal=1.0, sinkhorn_steps=30))
    assert bool(rows.isfinite().all())
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(30))


def test_float32_follows_float64() -> None:
    graph = random_graph()
    affinities = make_affinity(), make_affinity(random_responses().float())
    double, single = (
        AffinityRelations(affinity=part, graph=GraphRelations(graph), report_marginal=1.0) for part in affinities
    )
    assert every_row(single).dtype == torch.float32
    torch.testing.assert_close(every_row(single).double(), every_row(double), rtol=1e-3, atol=1e-5)


def test_modes_take_their_parts() -> None:
    graph, affinity = random_graph(), make_affinity(sharpness=3.0)
    given = GraphRelations(graph)
    only_graph = combine_relations(GraphConfig(mode="graph"), given, affinity)
    assert only_graph is given
    torch.testing.assert_close(every_row(only_graph), reference.dense(graph))
    only_affinity = combine_relations(GraphConfig(mode="affinity", report_marginal=0.0), given, affinity)
    torch.testing.assert_close(every_row(only_affinity), dense_logits(None, 3.0, 0).softmax(dim=1), rtol=0, atol=1e-8)
    both = combine_relations(GraphConfig(graph_exponent=0.7, report_marginal=0.5), given, affinity)
    expected = reference.sinkhorn(dense_logits(graph, 3.0, 0.7), 20, 0.5)
    torch.testing.assert_close(every_row(both), expected, rtol=0, atol=1e-8)


def test_modes_refuse_missing_or_foreign_parts() -> None:
    with pytest.raises(ValueError, match=r"mode 'graph\*affinity' needs each of its parts; graph given, affinity mis"):
        combine_relations(GraphConfig(), graph=GraphRelations(random_graph()))
    with pytest.raises(ValueError, match=r"mode 'graph' needs each of its parts; graph missing"):
        combine_relations(GraphConfig(mode="graph"), affinity=make_affinity())
    with pytest.raises(ValueError, match=r"graph must be 11 images x 7 reports like the affinity, got \(11, 6\)"):
        AffinityRelations(affinity=make_affinity(), graph=GraphRelations(random_graph(reports=6)))
    with pytest.raises(ValueError, match=r"report_marginal in \[0, 1\], .* got 20, 1.5 and 512"):
        AffinityRelations(affinity=make_affinity(), report_marginal=1.5)
    with pytest.raises(ValueError, match=r"sinkhorn_steps must be >= 0, .* got -1, 0.0 and 512"):
        AffinityRelations(affinity=make_affinity(), sinkhorn_steps=-1)


# ---- from what the teacher sees


def pools(seed: int = 0) -> tuple[EvidenceView, TrainingData]:
    """Seven images and six reports, the first of each a pair; the last report is without evidence."""
    columns = ["report_id", "phrase", "observation", "laterality", "region", "status"]
    rows = [
        ("a", "left nodule", "nodule", "left", None, "present"),
        ("b", "left nodule", "nodule", "left", None, "present"),
        ("c", "right nodule", "nodule", "right", None, "present"),
        ("c", "mass", "mass", None, None, "present"),
        ("d", "no edema", "edema", None, None, "absent"),
        ("e", "edema", "edema", None, None, "present"),
    ]
    evidence = index_evidence(pd.DataFrame(rows, columns=columns), tuple("abcdef"))
    none = torch.zeros(len(evidence.phrases), 1, dtype=torch.long)
    data = TrainingData(
        images=CropPool.of(torch.zeros(7, 4, 4, dtype=torch.uint8)),
        sentences=[[[1]]] * 6,
        impressions=np.ones(6, dtype=np.int64),
        evidence=evidence,
        phrase_tokens=none,
        phrase_mask=none.bool(),
        seed_pairs=np.array([[0, 0]]),
        special_ids=(0, 1, 2),
        max_tokens=8,
    )
    rng = np.random.default_rng(seed)
    responses = rng.normal(size=(7, len(evidence.observation_names)))
    return EvidenceView(np.ones((7, 2)), np.ones((7, 3)), np.ones((6, 2)), responses), data


def test_the_affinity_reads_the_unpaired_pools_and_the_observations_that_have_a_place() -> None:
    view, data = pools()
    assert data.evidence.observation_names == ("edema", "mass", "no finding", "nodule")
    affinity = cross_affinity(view, data, 3.0)
    stated = [[2], [1, 2], [], [0], None]  # of edema, mass, nodule; b to f
    expected = reference.cross_affinity(torch.from_numpy(view.responses[1:][:, [0, 1, 3]]), stated, 3.0)
    torch.testing.assert_close(whole(affinity), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("same_observation", [0.0, 0.3, 1.0])
def test_the_posterior_is_the_exact_statements_share_or_part_of_the_observations(same_observation: float) -> None:
    world, run = PlantedWorld(40, seed=0), config(same_observation=same_observation)
    model, processor = world.model(run)
    data = world.training(24, processor.tokenizer)
    state = refresh_relations(model.requires_grad_(False), data, run)
    statements, held = data.evidence.statements, data.evidence.report_statements.toarray() > 0
    rows, asked = np.array([3, 0, 7]), np.array([5, 0, 1, 4])
    found = state.statement_posterior(data.unpaired_images[rows], asked, np.random.default_rng(0))
    elsewhere = 0
    for image, statement in itertools.product(range(3), range(4)):
        wanted, exact, near = statements[asked[statement]], 0.0, 0.0
        for weight, report in zip(state.relations.rows(rows)[image].tolist(), data.unpaired_reports, strict=True):
            made = [statements[number] for number in np.flatnonzero(held[report])]
            exact += weight * (wanted in made)
            near += weight * (wanted[0] in [observation for observation, _, _ in made])
        assert found[image, statement] == pytest.approx(max(exact, same_observation * near), abs=1e-5)
        elsewhere += near > exact
    assert elsewhere  # else the second share was never asked


# ---- what training reads


@pytest.fixture(params=["graph", "affinity", "both"])
def relations(request: pytest.FixtureRequest) -> Relations:
    graph = GraphRelations(random_graph())
    if request.param == "graph":
        return graph
    return AffinityRelations(affinity=make_affinity(), graph=graph if request.param == "both" else None)


def test_any_rows_are_those_of_the_whole(relations: Relations) -> None:
    whole, some = every_row(relations), np.array([7, 0, 10, 7])
    torch.testing.assert_close(relations.rows(some), whole[some], rtol=0, atol=1e-12)
    block = relations.block(some, np.array([6, 1]), np.random.default_rng(0))
    torch.testing.assert_close(block, whole[some][:, [6, 1]], rtol=0, atol=1e-12)
    streamed = torch.cat([rows for _, rows in relations.blocks(10**6)])
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
    choice = relations.expected_evidence(evidence.numpy())
    spread = []
    rows = every_row(relations).double()
    for image in range(11):
        weights = rows[image].clone()
        entropy = -sum(float(p) * np.log(float(p)) for p in weights if p > 0)
        spread += [np.exp(entropy)] if float(weights.sum()) else []
        weights[1] = 0
        if weights.sum() == 0:
            assert float(choice.evidence_distribution[image].sum()) == 0
            assert float(choice.agreement[image]) == 0
            continue
        weights = weights / weights.sum()
        mean = sum(weights[report] * evidence[report] for report in range(7) if report != 1)
        root = sum(weights[report] * evidence[report].sqrt() for report in range(7) if report != 1)
        np.testing.assert_allclose(choice.evidence_distribution[image], mean, rtol=0, atol=1e-9)
        assert float(choice.agreement[image]) == pytest.approx(float(root.square().sum()), abs=1e-9)
    reached = rows.sum(dim=1) > 0
    np.testing.assert_allclose(choice.evidence_distribution.sum(axis=1)[reached], 1)
    assert relations.effective_reports() == pytest.approx(np.mean(spread))


def test_agreement_is_one_where_all_related_reports_say_the_same() -> None:
    evidence = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    choice = GraphRelations(sparse.csr_array([[0.3, 0.7, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 0.0]])).expected_evidence(
        evidence
    )
    np.testing.assert_allclose(choice.agreement, [1.0, 0.5, 0.0])


def test_an_unreached_image_has_a_zero_row() -> None:
    relations = GraphRelations(random_graph() * 5.0)
    rows = every_row(relations)
    assert float(rows[2].sum()) == 0
    torch.testing.assert_close(rows.sum(dim=1)[torch.arange(11) != 2], torch.ones(10, dtype=torch.float64))
    assert not every_row(GraphRelations(sparse.csr_array((3, 4)))).any()
    with pytest.raises(ValueError, match="must be finite and >= 0"):
        GraphRelations(sparse.csr_array([[-1.0, 1.0]]))


def test_the_best_reports_are_named_and_none_is_invented() -> None:
    _, data = pools()
    inputs, graph = Mock(spec=Inputs), random_graph(6, 5)
    inputs.pools = Mock(image_ids=tuple("ABCDEFG"), report_ids=tuple("abcdef"))
    table = top_relations(inputs, data, GraphRelations(graph))
    assert len(table) == graph.nnz  # five reports at most, and none of relation 0
    for image, report, rank, relation in table.itertuples(index=False):
        row = graph[["BCDEFG".index(image)]].toarray()[0]
        assert row["bcdef".index(report)] == pytest.approx(relation)
        assert rank == 1 + (row > relation + 1e-12).sum()


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
    assert quality["commonest_rate"] == pytest.approx(1 / 4)  # half of the reports are normal, image 3 alone is
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
    assert bad["commonest_rate"] > bad["base_rate"] + 0.05  # what the commonest set alone reaches is more than chance
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
