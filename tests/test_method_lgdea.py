"""LGDEA: its terms by hand, what each moves, what it reads of a batch, and the combination with ASG."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted import PlantedWorld, config, setting, terms_of
from torch.nn import functional as F

from lgdea_core.batch import TrainingData
from lgdea_core.experiments.plans import PAIRED_PHRASES, PHRASES, PHRASES_CONTROL, ablation
from lgdea_core.inference import encode_tokens
from lgdea_core.losses import phrase_patch_scores
from lgdea_core.training.sampling import sample_batch


@pytest.fixture(scope="module")
def data() -> TrainingData:
    world = PlantedWorld(40)
    return world.training(24, world.model(config())[1].tokenizer)


# ---- terms


def test_every_term_sends_gradient_to_what_it_should_move() -> None:
    model, _, batch = setting("lgdea", "relations")
    terms = terms_of(model, batch)
    lesions, tower = model.lesion_queries.queries, model.image_tower
    moves = {
        **dict.fromkeys(("reconstruction", "prototype_penalty", "usage"), model.prototypes),
        **dict.fromkeys(("evidence_paired", "evidence_unpaired", "lesion"), lesions),
        **dict.fromkeys(("local", "local_unpaired", "consistency"), tower.local_head.weight),
        **dict.fromkeys(("ita", "evidence_alignment"), tower.global_head.weight),
        "text": model.text_tower.head.weight,
    }
    assert set(terms) == set(moves)
    for name, weight in moves.items():
        (gradient,) = torch.autograd.grad(terms[name], weight, retain_graph=True)
        assert torch.isfinite(gradient).all(), name
        if name != "prototype_penalty":  # starts at its optimum
            assert gradient.abs().max() > 0, name
    (gradient,) = torch.autograd.grad(terms["evidence_paired"], model.text_tower.head.weight, allow_unused=True)
    assert gradient is None  # the report teaches and is not taught


def test_phrases_and_patches_alone_are_two_of_lgdeas_terms() -> None:
    model, _, batch = setting("lgdea")
    for cell in ablation(seeds=(1,), variants=(PHRASES, PAIRED_PHRASES, PHRASES_CONTROL)):
        assert set(model.method.terms(model, batch, model, cell.config.weights)) == {"ita", "local"}


def local_by_hand(scores: torch.Tensor, targets: torch.Tensor, temperature: float, threshold: float) -> float:
    def one_way(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        rows = wanted.sum(dim=1) > 0
        return F.cross_entropy(logits[rows], wanted[rows] / wanted[rows].sum(dim=1, keepdim=True))

    ranked = 0.5 * (one_way(scores / temperature, targets) + one_way(scores.T / temperature, targets.T))
    present = ((scores - threshold) / temperature).sigmoid()
    costs = -(targets * present.log() + (1 - targets) * (1 - present).log())
    return (0.5 * (ranked + costs.sum() / targets.sum())).item()


@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_the_local_term_is_half_contrast_and_half_presence(threshold: float) -> None:
    model, _, batch = setting("lgdea", presence_threshold=threshold, local_temperature=0.2, same_observation=0.5)
    found = terms_of(model, batch)["local"].item()
    phrases = model.encode_texts(batch.phrase_tokens, batch.phrase_mask)
    patches = model.encode_images(batch.pixel_values).patch_embeds
    scores = phrase_patch_scores(phrases, patches, 0.2)
    targets = batch.own.phrase_targets[: batch.pairs]
    assert set(targets.unique().tolist()) == {0.0, 0.5, 1.0}
    assert found == pytest.approx(local_by_hand(scores, targets, 0.2, threshold), abs=1e-4)


def test_what_has_no_place_takes_no_part_in_the_local_term() -> None:
    model, _, batch = setting("lgdea")
    placeless, others = torch.ones_like(batch.own.localised), batch.own.phrase_targets.clone()
    placeless[0] = 0
    others[:, 0] = 1 - others[:, 0]

    def local(**part: torch.Tensor) -> torch.Tensor:
        return terms_of(model, replace(batch, own=batch.own._replace(**part)))["local"]

    loss = local(localised=placeless)
    torch.testing.assert_close(local(localised=placeless, phrase_targets=others), loss)
    assert not torch.isclose(local(phrase_targets=others), loss)


@pytest.mark.slow
def test_reconstruction_alone_draws_all_phrases_to_one_point_and_the_text_term_keeps_them_apart(tmp_path: Path) -> None:
    cosine = {}
    for text in (0.0, 1.0):
        run = config(text=text, usage=0.0, text_steps=60, pair_steps=0, relation_steps=0, reconstruction=5.0)
        model, processor, _ = PlantedWorld(60).train(run, 10, tmp_path / str(text))
        phrases = PlantedWorld(60).training(10, processor.tokenizer)
        embeds = encode_tokens(model, phrases.phrase_tokens, phrases.phrase_mask)
        cosine[text] = (embeds @ embeds.T).mean().item()
    assert cosine[0.0] > 0.9
    assert cosine[1.0] < cosine[0.0] - 0.2


# ---- what it reads of a batch


def test_a_pairs_report_holds_the_statement_its_image_shows(data: TrainingData) -> None:
    batch = sample_batch(data, config(), 5, "pairs")
    for row in range(batch.pairs):
        drawn = batch.membership[row].bool()
        assert drawn.any()
        assert batch.own.holds_statement[row].bool()[drawn].all()


@pytest.mark.parametrize("same_observation", [0.0, 0.3, 1.0])
def test_a_phrase_is_wanted_in_full_where_it_is_stated_and_in_part_where_its_observation_is(
    data: TrainingData, same_observation: float
) -> None:
    run = config(same_observation=same_observation, batch_size=24, pair_steps=1)
    batch = sample_batch(data, run, 0, "pairs")
    evidence, seen = data.evidence, set()
    for row in range(batch.pairs):  # all pairs; which report that is follows from what it holds
        own = [
            evidence.statements[evidence.phrase_statement[batch.phrases[n]]] for n in batch.membership[row].nonzero()
        ]
        for column, phrase in enumerate(batch.phrases):
            statement = evidence.statements[evidence.phrase_statement[phrase]]
            exact, near = statement in own, statement[0] in [observation for observation, _, _ in own]
            wanted = 1.0 if exact else same_observation if near else 0.0
            assert batch.own.phrase_targets[row, column].item() == pytest.approx(wanted)
            assert batch.own.holds_statement[row, column].item() == exact
            seen.add((exact, near))
    assert seen == {(True, True), (False, True), (False, False)}


def test_only_no_finding_has_no_place_in_the_image() -> None:
    world = PlantedWorld(40)
    world.evidence.loc[::2, "status"] = "absent"
    data = world.training(24, world.model(config())[1].tokenizer)
    batch = sample_batch(data, config(), 0, "pairs")
    observations = [data.evidence.observations[phrase] for phrase in batch.phrases]
    assert batch.own.localised.tolist() == [float(name != "no finding") for name in observations]
    assert set(batch.own.localised.tolist()) == {0.0, 1.0}


def test_what_the_relations_say_comes_with_the_unpaired_images_alone() -> None:
    _, _, batch = setting("lgdea", "relations")
    unpaired = len(batch.pixel_values) - batch.pairs
    assert [setting("lgdea", phase)[2].own.unpaired for phase in ("text", "pairs")] == [None, None]
    assert {len(part) for part in batch.own.unpaired} == {unpaired} == {8}
    assert batch.own.unpaired.relations.shape == (8, len(batch.report_tokens) - batch.pairs)
    assert len(batch.unpaired_crops) == unpaired


# ---- with ASG


def test_combined_with_asg_every_term_is_there_once() -> None:
    (model, _, batch), (alone, _, same), (other, _, drawn) = map(setting, ("lgdea+asg", "lgdea", "asg"))
    lgdea, asg = terms_of(alone.eval(), same), terms_of(other.eval(), drawn)
    terms = terms_of(model.eval(), batch)
    assert set(terms) == set(lgdea) | {"arsa", "erl", "irl"}
    torch.testing.assert_close({name: terms[name] for name in lgdea}, lgdea)
    for name in ("arsa", "erl", "irl"):
        torch.testing.assert_close(terms[name], asg[name], rtol=1e-4, atol=1e-5)


def test_a_text_phase_has_no_regions() -> None:
    _, _, batch = setting("lgdea+asg", "text")
    assert batch.own.regions is None
    assert len(batch.own.evidence.localised)
