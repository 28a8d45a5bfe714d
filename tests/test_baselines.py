"""Baselines: losses by hand and loop by loop, limits, padding, missing data, and short trainings with a control."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import FINDINGS, SIDES, PlantedWorld, config
from torch import Tensor, nn
from torch.nn import functional as F

from lgdea_core.batch import Batch
from lgdea_core.config import METHODS
from lgdea_core.decoders import QueryDecoder
from lgdea_core.evaluation.zero_shot import zero_shot_scores
from lgdea_core.grounding import gradcam, patch_maps
from lgdea_core.inference import decoder_scores, score_rows
from lgdea_core.losses import relation_contrastive_loss
from lgdea_core.methods import baselines
from lgdea_core.methods.baselines import (
    cross_alignment_losses,
    existence_loss,
    own_place_loss,
    semantic_relations,
    sinkhorn,
    swapped_prediction_loss,
    token_alignment_loss,
)
from lgdea_core.methods.lgdea import METHOD_TERMS, clip_terms, gloria_terms
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.training import loop as training
from lgdea_core.training.sampling import sample_batch
from lgdea_core.vocabulary import DIAGNOSTIC_FINDINGS, NO_FINDING

BASELINES = ("mgca", "medclip", "biovil", "prior", "medklip", "carzero")
DECODERS = ("medklip", "carzero")


def with_denials(world: PlantedWorld) -> PlantedWorld:
    """The world with what its reports would deny: every finding but their own."""
    rows = [
        {"report_id": f"s{study}", "phrase": f"no {name}", "observation": name, "status": "absent"}
        for study, label in enumerate(world.labels)
        for name in FINDINGS
        if name != FINDINGS[label // len(SIDES)]
    ]
    world.evidence = pd.concat([world.evidence, pd.DataFrame(rows)], ignore_index=True)
    return world


def setting(method: str, phase: str = "pairs", **changes: object) -> tuple[LGDEAModel, LGDEAProcessor, Batch]:
    world, run = with_denials(PlantedWorld(20, seed=0)), config(method, batch_size=8, **changes)
    model, processor = world.model(run)
    return model, processor, sample_batch(world.training(12, processor.tokenizer), run, 3, phase)


def terms_of(method: str, model: LGDEAModel, batch: Batch) -> dict[str, Tensor]:
    return METHOD_TERMS[method](model, batch, model)


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)


# ---- all of them


@pytest.mark.parametrize("method", BASELINES)
def test_every_term_is_finite_and_so_is_its_gradient(method: str) -> None:
    model, _, batch = setting(method)
    terms = terms_of(method, model, batch)
    sum(terms.values()).backward()
    moved = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)
    assert "image_tower.laterals.0.weight" in moved
    assert ("text_tower.head.weight" in moved) == (method != "medklip")  # its text tower is frozen on pairs
    assert ("prototypes" in moved) == (method in ("mgca", "prior"))
    assert any(name.startswith("decoder") for name in moved) == (method in DECODERS)
    assert any(name.startswith("predictor") for name in moved) == (method == "prior")


@pytest.mark.parametrize("method", BASELINES)
def test_content_and_width_of_padding_do_not_matter(method: str) -> None:
    model, _, batch = setting(method)
    model.eval()
    longer = {}
    for name in ("report", "phrase", "sentence", "findings", "impression"):
        tokens, mask = getattr(batch, f"{name}_tokens"), getattr(batch, f"{name}_mask")
        if tokens is not None:
            longer[f"{name}_tokens"] = F.pad(torch.where(mask, tokens, torch.full_like(tokens, 7)), (0, 3), value=5)
            longer[f"{name}_mask"] = F.pad(mask, (0, 3))
    longer["dropped_mask"] = F.pad(batch.dropped_mask, (0, 3))
    terms = terms_of(method, model, batch)
    for name, value in terms_of(method, model, replace(batch, **longer)).items():
        torch.testing.assert_close(value, terms[name], atol=1e-5, rtol=1e-4, msg=name)


def without_texts(batch: Batch) -> dict[str, Tensor]:
    """Parts of a batch whose reports hold no sentence, no section and no finding."""
    empty = {
        "sentence_tokens": torch.zeros(0, 1, dtype=torch.long),
        "sentence_mask": torch.zeros(0, 1, dtype=torch.bool),
        "sentence_membership": torch.zeros(batch.pairs, 0),
        "finding_labels": torch.zeros(len(batch.report_tokens), len(DIAGNOSTIC_FINDINGS)),
        "existence": -torch.ones(batch.pairs, len(batch.phrases)),
    }
    return {name: value for name, value in empty.items() if getattr(batch, name) is not None}


@pytest.mark.parametrize(
    ("method", "silent"),
    [("biovil", {"local", "section"}), ("prior", {"local", "siam", "memory"}), ("medclip", {"semantic"}),
     ("medklip", {"existence"})],
)  # fmt: skip
def test_a_batch_without_what_a_term_reads_costs_nothing_and_still_has_a_gradient(method: str, silent: set) -> None:
    model, _, batch = setting(method)
    terms = terms_of(method, model, replace(batch, **without_texts(batch)))
    assert {name for name, term in terms.items() if term.item() == 0} == silent
    sum(terms.values()).backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


@pytest.mark.parametrize("method", BASELINES)
def test_a_batch_without_pairs_is_finite(method: str) -> None:
    text_phase = METHODS[method].text_phase
    model, _, batch = setting(method, "text" if text_phase else "pairs")
    if not text_phase:
        none = {"pairs": 0, "pixel_values": batch.pixel_values[:0], "same_report": batch.same_report[:0, :0]}
        held = batch.sentence_membership
        batch = replace(batch, **none, sentence_membership=None if held is None else held[:0])
    terms = terms_of(method, model, batch)
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    if text_phase:
        assert set(terms) == {"biovil": {"section"}, "medklip": {"text"}}[method]


# ---- weights


@pytest.mark.parametrize("method", METHODS)
def test_what_one_method_has_alone_leaves_the_weights_of_all_as_they_are(method: str) -> None:
    world = PlantedWorld(6, seed=0)
    shared, _ = world.model(config("clip"))
    model, _ = world.model(config(method))
    own = model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in shared.state_dict().items())
    extra = {name.split(".")[0] for name in own.keys() - shared.state_dict().keys()}
    expected = {"decoder": method in DECODERS, "predictor": method == "prior"}
    expected |= dict.fromkeys(("tag_decoder", "sentence_head"), METHODS[method].regions)
    assert extra == {name for name, there in expected.items() if there}


@pytest.mark.parametrize("method", ["medklip", "prior"])
def test_what_one_method_has_alone_is_saved_and_loaded(method: str, tmp_path: Path) -> None:
    model, _, batch = setting(method)
    model.eval().save_pretrained(tmp_path)
    again = LGDEAModel.from_pretrained(tmp_path).eval()
    assert again.config == model.config
    for name, value in terms_of(method, again, batch).items():
        assert torch.equal(value, terms_of(method, model, batch)[name])


# ---- mgca


def test_two_places_of_equal_logits_cost_log_two_and_certain_ones_nothing() -> None:
    every = torch.ones(3, 2, dtype=torch.bool)
    assert own_place_loss(torch.zeros(3, 2, 2), every).item() == pytest.approx(math.log(2))
    assert own_place_loss(50 * torch.eye(2).expand(3, 2, 2), every).item() == pytest.approx(0, abs=1e-6)
    partly = torch.tensor([[True, False], [False, False], [True, True]])
    assert own_place_loss(torch.zeros(3, 2, 2), partly).item() == pytest.approx(0.5 * math.log(2))


def test_token_alignment_follows_the_equation_loop_by_loop() -> None:
    tokens, patches, temperature = unit(2, 4, 3), unit(2, 5, 3, seed=1), 0.3
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    total = 0.0
    for item in range(2):
        words, places = tokens[item][mask[item]], patches[item]
        for mine, theirs in ((words, places), (places, words)):
            attended = torch.stack([(theirs @ x / temperature).softmax(dim=0) @ theirs for x in mine])
            logits = mine @ F.normalize(attended, dim=1).T / temperature
            own = torch.arange(len(mine))
            total += 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)).item() / 2
    assert token_alignment_loss(tokens, mask, patches, temperature).item() == pytest.approx(total, abs=1e-9)


def test_codes_use_all_prototypes_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity = unit(40, 8) @ unit(6, 8, seed=1).T
    codes = sinkhorn(similarity)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(sinkhorn(similarity + 3), codes)
    assert sinkhorn(1000 * similarity).isfinite().all()
    monkeypatch.setattr(baselines, "SINKHORN_STEPS", 500)
    even = torch.full((6,), 40 / 6, dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(similarity).sum(dim=0), even, atol=1e-3, rtol=0)


def test_with_one_prototype_nothing_is_to_be_predicted() -> None:
    assert swapped_prediction_loss(torch.randn(5, 1), torch.randn(5, 1)).item() == pytest.approx(0)


def test_each_side_predicts_the_code_of_the_other() -> None:
    images, reports = unit(5, 8) @ unit(6, 8, seed=1).T, unit(5, 8, seed=2) @ unit(6, 8, seed=1).T
    total = 0.0
    for codes, guesses in ((sinkhorn(images), reports), (sinkhorn(reports), images)):
        for code, guess in zip(codes, guesses, strict=True):
            total += 0.5 * F.cross_entropy(guess / baselines.SWAP_TEMPERATURE, code, reduction="sum").item() / 5
    assert swapped_prediction_loss(images, reports).item() == pytest.approx(total, abs=1e-9)
    certain = torch.eye(3) * 5
    assert swapped_prediction_loss(certain, certain[[1, 2, 0]]) > swapped_prediction_loss(certain, certain) + 10


def test_without_tokens_and_prototypes_mgca_is_clip() -> None:
    model, _, batch = setting("mgca")
    torch.testing.assert_close(terms_of("mgca", model, batch)["ita"], clip_terms(model, batch, model)["ita"])


# ---- medclip


def test_targets_are_the_softmax_of_the_findings_cosine() -> None:
    images = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    texts = torch.tensor([[1.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    expected = torch.tensor([[math.e, math.exp(math.sqrt(0.5)), 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    torch.testing.assert_close(semantic_relations(images, texts), expected)


def test_medclip_meets_reports_of_no_image_and_follows_the_equation() -> None:
    model, _, batch = setting("medclip")
    assert len(batch.finding_labels) == len(batch.report_tokens) > batch.pairs
    images = model.encode_images(batch.pixel_values[: batch.pairs]).image_embeds
    logits = model.logit_scale * images @ model.encode_texts(batch.report_tokens, batch.report_mask).T
    total = 0.0
    for rows, columns, scores in (
        (batch.finding_labels[: batch.pairs], batch.finding_labels, logits),
        (batch.finding_labels, batch.finding_labels[: batch.pairs], logits.T),
    ):
        cosine = torch.stack([F.cosine_similarity(row, columns, dim=1) for row in rows])
        total += 0.5 * F.cross_entropy(scores, cosine.softmax(dim=1)).item()
    assert terms_of("medclip", model, batch)["semantic"].item() == pytest.approx(total, abs=1e-4)


def test_labels_are_what_the_report_states_and_denies() -> None:
    _, _, batch = setting("medclip")
    known = [DIAGNOSTIC_FINDINGS.index(name) for name in FINDINGS]
    assert (batch.finding_labels[:, known] == 1).sum(dim=1).tolist() == [1] * len(batch.finding_labels)
    assert (batch.finding_labels[:, known] == -1).sum(dim=1).tolist() == [3] * len(batch.finding_labels)
    assert (batch.finding_labels[:, DIAGNOSTIC_FINDINGS.index(NO_FINDING)] == -1).all()


# ---- biovil


def test_sections_of_one_report_belong_together_and_equal_impressions_are_one() -> None:
    world, run = PlantedWorld(20, seed=0), config("biovil", batch_size=8)
    said = [f"There is a {SIDES[label % 2]} {FINDINGS[label // 2]}." for label in world.labels]
    world.reports = [f"FINDINGS: The bones are intact. {text} \nIMPRESSION: {text}" for text in said]
    world.reports[0] = "FINDINGS: There is a left mass."
    model, processor = world.model(run)
    data = world.training(12, processor.tokenizer)
    assert data.impressions.tolist().count(0) == 1
    batch = sample_batch(data, run, 0, "text")
    texts = processor.tokenizer.batch_decode(batch.impression_tokens, skip_special_tokens=True)
    assert len(set(texts)) == len(texts)
    for row, mine in enumerate(processor.tokenizer.batch_decode(batch.findings_tokens, skip_special_tokens=True)):
        own = texts[batch.same_impression[row].argmax()]
        assert batch.same_impression[row].sum() == 1
        assert own.removesuffix(".").strip() in mine
    findings = model.encode_texts(batch.findings_tokens, batch.findings_mask)
    impressions = model.encode_texts(batch.impression_tokens, batch.impression_mask)
    expected = relation_contrastive_loss(findings, impressions, batch.same_impression, model.logit_scale)
    torch.testing.assert_close(terms_of("biovil", model, batch)["section"], expected)


def test_a_corpus_without_sections_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world, run = PlantedWorld(20, seed=0), config("biovil", text_steps=1, pair_steps=1, relation_steps=0)
    model, processor = world.model(run)
    data = world.training(16, processor.tokenizer)
    with caplog.at_level("WARNING", logger="lgdea"):
        training.train(run, data, model, tmp_path / "without", progress=False)
        assert "method biovil matches the two sections of a report, but no report has both" in caplog.text
        caplog.clear()
        model, _ = world.model(run)
        both = replace(data, impressions=np.ones_like(data.impressions))
        training.train(run, both, model, tmp_path / "with", progress=False)
    assert caplog.text == ""


def test_without_sections_biovil_is_gloria() -> None:
    model, _, batch = setting("biovil")  # planted reports have findings alone
    terms = terms_of("biovil", model, batch)
    assert terms.pop("section").item() == 0
    torch.testing.assert_close(terms, gloria_terms(model, batch, model))


# ---- prior


def test_cross_alignment_follows_the_equations_loop_by_loop() -> None:
    patches, sentences, temperature = unit(2, 5, 3), unit(3, 3, seed=1), 0.4
    membership = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    predictor = nn.Linear(3, 3, dtype=torch.float64)
    local, siam = 0.0, 0.0
    for item in range(2):
        own = sentences[membership[item] > 0]
        gates = (own @ patches[item].T / temperature).sigmoid()
        contexts = F.normalize(gates @ patches[item], dim=1)
        logits, place = contexts @ own.T / temperature, torch.arange(len(own))
        local += 0.5 * (F.cross_entropy(logits, place) + F.cross_entropy(logits.T, place)).item() / 2
        for patch, attended in zip(patches[item], F.normalize(gates.T @ own, dim=1), strict=True):
            there = F.cosine_similarity(predictor(patch), attended, dim=0)
            back = F.cosine_similarity(predictor(attended), patch, dim=0)
            siam -= 0.5 * (there + back).item() / 5 / 2
    found = cross_alignment_losses(patches, sentences, membership, predictor, temperature)
    assert [loss.item() for loss in found] == pytest.approx([local, siam], abs=1e-9)


def test_a_sentence_that_is_a_prototype_is_recalled_as_itself() -> None:
    model, _, _ = setting("prior")
    model.prototypes.data = F.normalize(torch.randn(16, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    sharp, _, _ = setting("prior", text_temperature=0.01)
    sharp.prototypes.data = model.prototypes.data
    torch.testing.assert_close(sharp.recalled(model.prototypes), model.prototypes, atol=1e-4, rtol=0)
    assert not torch.allclose(model.recalled(-model.prototypes), model.prototypes, atol=0.1)


def test_patches_meet_the_recalled_phrase() -> None:
    model, processor, _ = setting("prior")
    crops = PlantedWorld(3, seed=1).images
    maps = patch_maps(model, processor, crops, ["left mass"], smoothing=0.0)
    model.eval()
    recalled = model.recalled(model.encode_texts(*processor.tokens(["left mass"])))
    expected = torch.einsum("nd,ipd->inp", recalled, model.encode_crops(crops).patch_embeds)
    np.testing.assert_allclose(maps.reshape(3, 1, -1), expected.detach().numpy(), atol=1e-5)


# ---- medklip and carzero


def test_existence_counts_known_ones_alone() -> None:
    logits = torch.tensor([[0.0, 100.0], [math.log(3), -100.0]])
    existence = torch.tensor([[1.0, -1.0], [0.0, -1.0]])
    assert existence_loss(logits, existence).item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert existence_loss(logits, -torch.ones(2, 2)).item() == 0


def test_statements_of_the_other_side_and_denied_findings_do_not_exist() -> None:
    world = with_denials(PlantedWorld(20, seed=0))
    world.evidence = world.evidence.drop(world.evidence.index[-3:])  # the last report denies nothing
    data = world.training(12, world.model(config("medklip"))[1].tokenizer)
    evidence, phrases = data.evidence, np.arange(len(data.evidence.phrases))
    found = evidence.existence(np.arange(20), phrases)
    for row, report_id in enumerate(evidence.report_ids):
        label = world.labels[int(report_id[1:])]
        for phrase in phrases:
            observation, side, _ = evidence.statements[evidence.phrase_statement[phrase]]
            same = observation == FINDINGS[label // 2]
            wanted = 1.0 if same and side == SIDES[label % 2] else 0.0 if same or report_id != "s19" else -1.0
            assert found[row, phrase] == wanted


def test_a_statement_without_a_side_is_not_ruled_out_by_one_with_a_side() -> None:
    world = PlantedWorld(6, seed=0)
    world.evidence.loc[0, ["observation", "laterality", "phrase"]] = ["mass", None, "mass"]
    world.evidence.loc[1, ["observation", "laterality", "phrase"]] = ["mass", "left", "left mass"]
    world.evidence.loc[2, ["observation", "laterality", "phrase"]] = ["mass", "bilateral", "masses"]
    evidence = world.training(6, world.model(config("medklip"))[1].tokenizer).evidence
    rows = [evidence.phrases.index(phrase) for phrase in ("mass", "left mass", "masses")]
    assert evidence.existence(np.arange(3), np.array(rows)).tolist() == [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]]


def test_no_answer_depends_on_other_queries_or_items_and_masked_places_are_not_seen() -> None:
    torch.manual_seed(0)
    decoder = QueryDecoder(dim=8, layers=2).eval()
    queries, memory = torch.randn(4, 8), torch.randn(3, 6, 8)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[:, 4:] = False
    logits, attention = decoder(queries, memory, mask)
    torch.testing.assert_close(decoder(queries[1:2], memory[2:], mask[2:])[0], logits[2:, 1:2])
    other = torch.where(mask.unsqueeze(2), memory, 99.0)
    torch.testing.assert_close(decoder(queries, other, mask)[0], logits)
    torch.testing.assert_close(decoder(queries, memory[:, :4])[0], logits)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(3, 4))
    assert (attention[:, :, 4:] == 0).all()
    order = torch.tensor([3, 1, 0, 2, 5, 4])
    torch.testing.assert_close(decoder(queries, memory[:, order], mask[:, order])[0], logits)


def test_carzero_contrasts_both_ways_of_asking() -> None:
    model, _, batch = setting("carzero")
    images = model.encode_images(batch.pixel_values[: batch.pairs])
    mask = batch.report_mask[: batch.pairs]
    reports = model.text_tower.with_tokens(batch.report_tokens[: batch.pairs], mask)
    own, total = torch.arange(batch.pairs), 0.0
    for logits in (model.ask_images(reports.text_embeds, images)[0], model.ask_texts(images, reports, mask)):
        total += 0.25 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)).item()
    assert terms_of("carzero", model, batch)["cross"].item() == pytest.approx(total, abs=1e-4)


def test_a_text_is_asked_as_a_whole_and_by_its_tokens_and_an_image_by_its_patches_too() -> None:
    model, processor, batch = setting("carzero")
    model.eval()
    images, (ids, mask) = model.encode_images(batch.pixel_values[:2]), processor.tokens(["left mass", "right edema"])
    texts = model.text_tower.with_tokens(ids, mask)
    asked, answered = model.ask_texts(images, texts, mask), model.ask_images(texts.text_embeds, images)[0]
    for part in ("text_embeds", "token_embeds"):
        other = texts._replace(**{part: getattr(texts, part).flip(-1)})
        assert not torch.allclose(model.ask_texts(images, other, mask), asked, atol=1e-6), part
    for part in ("image_embeds", "patch_embeds"):
        other = images._replace(**{part: getattr(images, part).flip(-1)})
        assert not torch.allclose(model.ask_images(texts.text_embeds, other)[0], answered, atol=1e-6), part


def test_films_of_one_study_are_no_negatives_of_each_other() -> None:
    model, _, batch = setting("carzero")
    model.eval()
    shared = torch.ones_like(batch.same_report)
    constant = replace(batch, same_report=shared)
    model.decoder.head[-1].weight.data.zero_()
    model.decoder.head[-1].bias.data.zero_()
    assert terms_of("carzero", model, constant)["cross"].item() == pytest.approx(math.log(batch.pairs), abs=1e-5)


@pytest.mark.parametrize("method", DECODERS)
def test_a_decoder_is_the_only_score_of_its_method(method: str) -> None:
    model, processor, _ = setting(method)
    crops, texts = PlantedWorld(3, seed=1).images, processor.tokens(["left mass", "right edema of the lung"])
    scores = decoder_scores(model, crops, *texts)
    model.eval()
    images, embeds = model.encode_crops(crops), model.text_tower.with_tokens(*texts)
    expected = model.ask_images(embeds.text_embeds, images)[0]
    if method == "carzero":
        expected = 0.5 * (expected + model.ask_texts(images, embeds, texts[1]))
    np.testing.assert_allclose(scores, expected.detach().numpy(), atol=1e-5)
    rows, columns = score_rows(model, crops, *texts)
    np.testing.assert_allclose(rows @ columns.T, scores, atol=1e-6)
    assert set(zero_shot_scores(model, processor, crops, ["mass"])) == {"decoder"}
    with pytest.raises(ValueError, match="decoder takes the place of a cosine; use `ground`"):
        gradcam(model, processor, np.zeros((32, 32), dtype=np.float32), "left mass")


@pytest.mark.parametrize("method", DECODERS)
def test_a_map_is_attention_against_an_even_one(method: str) -> None:
    model, processor, _ = setting(method)
    crops = PlantedWorld(2, seed=1).images
    maps = patch_maps(model, processor, crops, ["left mass"], smoothing=0.0).reshape(2, -1)
    model.eval()
    _, attention = model.ask_images(model.encode_texts(*processor.tokens(["left mass"])), model.encode_crops(crops))
    share = (attention[:, 0] / attention[:, 0].mean(dim=1, keepdim=True)).detach().numpy()
    np.testing.assert_allclose((1 + maps) / (1 - maps), share, rtol=1e-4)
    assert ((maps > -1) & (maps < 1)).all()


# ---- short trainings

TRAINED = {"text_steps": 20, "relation_steps": 0, "batch_size": 32, "checkpoint_every": 1000}


def told_apart(model: LGDEAModel, processor: LGDEAProcessor) -> tuple[float, float]:
    """Share of unseen images whose best phrase names their finding, and that names finding and side."""
    unseen = PlantedWorld(64, seed=1)
    texts = [f"{side} {finding}" for finding in FINDINGS for side in SIDES]
    images, columns = score_rows(model, unseen.images, *processor.tokens(texts))
    best = (images @ columns.T).argmax(axis=1)
    return float((best // 2 == unseen.labels // 2).mean()), float((best == unseen.labels).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("method", "steps", "bar"), [("medclip", 50, 0.5), ("medklip", 120, 0.5)])
def test_findings_are_learnt_from_true_pairs_and_not_from_shuffled_ones(
    method: str, steps: int, bar: float, tmp_path: Path
) -> None:
    right = {}
    for shuffled in (False, True):
        world, run = with_denials(PlantedWorld(160, seed=0)), config(method, pair_steps=steps, **TRAINED)
        model, processor = world.model(run)
        data = world.training(160, processor.tokenizer, shuffled=shuffled)
        state, _ = training.train(run, data, model, tmp_path / str(shuffled), progress=False)
        right[shuffled], _ = told_apart(state.model, processor)
    assert right[False] > bar  # four findings: chance is 0.25
    assert right[True] < 0.4
