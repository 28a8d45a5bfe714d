"""Methods as terms of a batch: limits that are known losses, transcriptions, and which weights a term moves."""

import math
from dataclasses import fields, replace

import pytest
import torch
from planted import PlantedWorld, config
from torch import nn
from torch.nn import functional as F

from lgdea_core.batch import Batch
from lgdea_core.config import METHODS, LossConfig
from lgdea_core.encoders import ImageEmbeddings
from lgdea_core.experiments.plans import PAIRED_PHRASES, PHRASES, PHRASES_CONTROL, ablation
from lgdea_core.losses import phrase_patch_scores, relation_contrastive_loss
from lgdea_core.methods.lgdea import METHOD_TERMS, RELATION_TERMS, clip_terms, gloria_terms, lgdea_terms
from lgdea_core.model import LGDEAModel
from lgdea_core.training.sampling import sample_batch


def setting(method: str, phase: str = "pairs", **changes: object) -> tuple[LGDEAModel, Batch]:
    world, run = PlantedWorld(40, seed=0), config(method, **changes)
    model, processor = world.model(run)
    return model, sample_batch(world.training(24, processor.tokenizer), run, 3, phase)


def reads_one_patch(model: LGDEAModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the image as a whole be its only patch."""
    encode = model.encode_images

    def whole(pixel_values: torch.Tensor) -> ImageEmbeddings:
        images = encode(pixel_values)
        return images._replace(patch_embeds=images.image_embeds.unsqueeze(1))

    monkeypatch.setattr(model, "encode_images", whole)


def gradient(term: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
    return torch.autograd.grad(term, weight, retain_graph=True, allow_unused=True)[0]


def test_every_method_is_listed_everywhere_and_every_term_has_a_weight() -> None:
    assert list(METHODS) == list(METHOD_TERMS)
    weights = {entry.name for entry in fields(LossConfig)}
    for method in METHODS:
        model, batch = setting(method)
        assert set(METHOD_TERMS[method](model, batch, model)) <= weights
    assert set(RELATION_TERMS) <= weights


def test_phrases_and_patches_alone_are_two_of_lgdeas_terms() -> None:
    model, batch = setting("lgdea")
    for cell in ablation(seeds=(1,), variants=(PHRASES, PAIRED_PHRASES, PHRASES_CONTROL)):
        weights = vars(cell.config.loss)
        assert {term for term in lgdea_terms(model, batch, model) if weights[term]} == {"ita", "local"}


# ---- gloria


def test_one_sentence_a_report_and_one_patch_an_image_is_clips_contrast_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batch = setting("gloria", temperature=0.2, local_temperature=0.2)
    reads_one_patch(model, monkeypatch)
    pairs = batch.pairs
    tokens, mask = batch.report_tokens[:pairs], batch.report_mask[:pairs]
    whole = replace(batch, sentence_tokens=tokens, sentence_mask=mask, sentence_membership=torch.eye(pairs))
    terms = gloria_terms(model, whole, model)
    torch.testing.assert_close(terms["ita"], clip_terms(model, batch, model)["ita"])
    torch.testing.assert_close(terms["local"], terms["ita"])  # both temperatures start alike


def test_the_local_term_follows_the_equation_loop_by_loop() -> None:
    model, batch = setting("gloria", local_temperature=0.3)
    found = gloria_terms(model, batch, model)["local"].item()
    patches = model.encode_images(batch.pixel_values[: batch.pairs]).patch_embeds
    sentences = model.encode_texts(batch.sentence_tokens, batch.sentence_mask)
    logits = torch.zeros(batch.pairs, batch.pairs)
    for image in range(batch.pairs):
        for report in range(batch.pairs):
            total = 0.0
            for sentence in batch.sentence_membership[report].nonzero().flatten():
                attention = (patches[image] @ sentences[sentence] / 0.3).softmax(dim=0)
                attended = F.cosine_similarity(attention @ patches[image], sentences[sentence], dim=0)
                total += math.exp(attended.item() / 0.3)
            logits[image, report] = math.log(total)
    own = torch.arange(batch.pairs)
    assert torch.equal(batch.same_report, torch.eye(batch.pairs))
    expected = 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))
    assert found == pytest.approx(expected.item(), abs=1e-4)


def test_films_of_one_study_are_no_negatives_of_each_other() -> None:
    model, batch = setting("gloria")
    shared = torch.eye(batch.pairs)
    shared[0, 1] = shared[1, 0] = 1.0
    apart = gloria_terms(model, batch, model)["local"]
    assert not torch.isclose(gloria_terms(model, replace(batch, same_report=shared), model)["local"], apart)


def test_the_order_of_sentences_does_not_matter() -> None:
    model, batch = setting("gloria")
    turned = replace(
        batch,
        sentence_tokens=batch.sentence_tokens.flip(0),
        sentence_mask=batch.sentence_mask.flip(0),
        sentence_membership=batch.sentence_membership.flip(1),
    )
    terms, again = gloria_terms(model, batch, model), gloria_terms(model, turned, model)
    torch.testing.assert_close(again["local"], terms["local"])


def test_the_local_term_trains_the_local_head_and_the_global_term_the_global_head() -> None:
    model, batch = setting("gloria")
    terms, tower = gloria_terms(model, batch, model), model.image_tower
    moved: dict[str, set[str]] = {"ita": set(), "local": set()}
    parts: dict[str, nn.Module] = {
        "local head": tower.local_head,
        "global head": tower.global_head,
        "first lateral": tower.laterals[0],
        "last lateral": tower.laterals[-1],
        "text head": model.text_tower.head,
    }
    for name, term in terms.items():
        for part, module in parts.items():
            slope = gradient(term, module.weight)
            if slope is not None and slope.abs().max() > 0:
                assert slope.isfinite().all()
                moved[name].add(part)
    assert moved["local"] == {"local head", "first lateral", "text head"}
    assert moved["ita"] == {"global head", "first lateral", "last lateral", "text head"}


def test_a_report_without_sentences_adds_no_local_term_of_its_own() -> None:
    model, batch = setting("gloria")
    held = batch.sentence_membership.clone()
    held[0] = 0
    silent = gloria_terms(model, replace(batch, sentence_membership=held), model)["local"]
    assert silent.item() < 3 * math.log(batch.pairs)


def test_nothing_of_gloria_reads_evidence() -> None:
    model, batch = setting("gloria")
    nowhere = {"membership", "holds_statement", "phrase_targets", "same_statement"}
    blank = replace(batch, **{name: torch.full_like(getattr(batch, name), torch.nan) for name in nowhere})
    for name, term in gloria_terms(model, blank, model).items():
        torch.testing.assert_close(term, gloria_terms(model, batch, model)[name])


# ---- lgdea's local terms


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
    model, batch = setting("lgdea", presence_threshold=threshold, local_temperature=0.2, same_observation=0.5)
    found = lgdea_terms(model, batch, model)["local"].item()
    phrases = model.encode_texts(batch.phrase_tokens, batch.phrase_mask)
    patches = model.encode_images(batch.pixel_values).patch_embeds
    scores = phrase_patch_scores(phrases, patches, 0.2)
    targets = batch.phrase_targets[: batch.pairs]
    assert set(targets.unique().tolist()) == {0.0, 0.5, 1.0}
    assert found == pytest.approx(local_by_hand(scores, targets, 0.2, threshold), abs=1e-4)


def test_what_has_no_place_takes_no_part_in_the_local_term() -> None:
    model, batch = setting("lgdea")
    placeless = torch.ones_like(batch.localised)
    placeless[0] = 0
    loss = lgdea_terms(model, replace(batch, localised=placeless), model)["local"]
    others = batch.phrase_targets.clone()
    others[:, 0] = 1 - others[:, 0]
    changed = lgdea_terms(model, replace(batch, localised=placeless, phrase_targets=others), model)["local"]
    torch.testing.assert_close(changed, loss)
    everywhere = lgdea_terms(model, replace(batch, phrase_targets=others), model)["local"]
    assert not torch.isclose(everywhere, loss)


def test_all_methods_contrast_the_pairs_alike() -> None:
    model, batch = setting("clip")
    pairs = batch.pairs
    images = model.encode_images(batch.pixel_values[:pairs]).image_embeds
    reports = model.encode_texts(batch.report_tokens[:pairs], batch.report_mask[:pairs])
    expected = relation_contrastive_loss(images, reports, torch.eye(pairs), model.logit_scale)
    for method in sorted(set(METHOD_TERMS) - {"medclip", "medklip"}):  # these have other terms for pairs
        model, drawn = setting(method)
        terms = METHOD_TERMS[method]
        torch.testing.assert_close(terms(model, drawn, model)["ita"], expected, rtol=1e-4, atol=1e-5)
