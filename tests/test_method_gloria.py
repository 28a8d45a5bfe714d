"""GLoRIA: its local term loop by loop, its limit CLIP, and the sentences it draws."""

import math
from dataclasses import replace

import pytest
import torch
from planted import PlantedWorld, config, setting, terms_of
from torch.nn import functional as F

from lgdea_core.batch import SENTENCES_PER_REPORT, Batch, SentencePart, TrainingData
from lgdea_core.encoders import ImageEmbeddings
from lgdea_core.model import LGDEAModel
from lgdea_core.training.sampling import sample_batch


@pytest.fixture(scope="module")
def data() -> TrainingData:
    world = PlantedWorld(40)
    return world.training(24, world.model(config())[1].tokenizer)


def reads_one_patch(model: LGDEAModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the image as a whole be its only patch."""
    encode = model.encode_images

    def whole(pixel_values: torch.Tensor) -> ImageEmbeddings:
        images = encode(pixel_values)
        return images._replace(patch_embeds=images.image_embeds.unsqueeze(1))

    monkeypatch.setattr(model, "encode_images", whole)


# ---- terms


def test_one_sentence_a_report_and_one_patch_an_image_is_clips_contrast_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, _, batch = setting("gloria", temperature=0.2, local_temperature=0.2)
    reads_one_patch(model, monkeypatch)
    pairs = batch.pairs
    said = SentencePart(batch.report_tokens[:pairs], batch.report_mask[:pairs], torch.eye(pairs))
    terms = terms_of(model, replace(batch, own=said))
    torch.testing.assert_close(terms["ita"], terms_of(model, batch, "clip")["ita"])
    torch.testing.assert_close(terms["local"], terms["ita"])  # both temperatures start alike


def test_the_local_term_follows_the_equation_loop_by_loop() -> None:
    model, _, batch = setting("gloria", local_temperature=0.3)
    found = terms_of(model, batch)["local"].item()
    patches = model.encode_images(batch.pixel_values[: batch.pairs]).patch_embeds
    sentences = model.encode_texts(batch.own.tokens, batch.own.mask)
    logits = torch.zeros(batch.pairs, batch.pairs)
    for image in range(batch.pairs):
        for report in range(batch.pairs):
            total = 0.0
            for sentence in batch.own.membership[report].nonzero().flatten():
                attention = (patches[image] @ sentences[sentence] / 0.3).softmax(dim=0)
                attended = F.cosine_similarity(attention @ patches[image], sentences[sentence], dim=0)
                total += math.exp(attended.item() / 0.3)
            logits[image, report] = math.log(total)
    own = torch.arange(batch.pairs)
    assert torch.equal(batch.same_report, torch.eye(batch.pairs))
    expected = 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))
    assert found == pytest.approx(expected.item(), abs=1e-4)


def test_films_of_one_study_are_no_negatives_and_the_order_of_sentences_does_not_matter() -> None:
    model, _, batch = setting("gloria")
    local = terms_of(model, batch)["local"]
    shared = torch.eye(batch.pairs)
    shared[0, 1] = shared[1, 0] = 1.0
    assert not torch.isclose(terms_of(model, replace(batch, same_report=shared))["local"], local)
    said = batch.own
    turned = SentencePart(said.tokens.flip(0), said.mask.flip(0), said.membership.flip(1))
    torch.testing.assert_close(terms_of(model, replace(batch, own=turned))["local"], local)


def test_the_local_term_trains_the_local_head_and_the_global_term_the_global_head() -> None:
    model, _, batch = setting("gloria")
    tower = model.image_tower
    parts = {
        "local head": tower.local_head.weight,
        "global head": tower.global_head.weight,
        "first lateral": tower.laterals[0].weight,
        "last lateral": tower.laterals[-1].weight,
        "text head": model.text_tower.head.weight,
    }
    moved = {}
    for name, term in terms_of(model, batch).items():
        slopes = torch.autograd.grad(term, list(parts.values()), retain_graph=True, allow_unused=True)
        moved[name] = {part for part, slope in zip(parts, slopes, strict=True) if slope is not None and slope.any()}
    assert moved["local"] == {"local head", "first lateral", "text head"}
    assert moved["ita"] == {"global head", "first lateral", "last lateral", "text head"}


def test_a_report_without_sentences_adds_no_local_term_of_its_own() -> None:
    model, _, batch = setting("gloria")
    held = batch.own.membership.clone()
    held[0] = 0
    silent = terms_of(model, replace(batch, own=batch.own._replace(membership=held)))["local"]
    assert silent.item() < 3 * math.log(batch.pairs)


def test_nothing_of_gloria_reads_evidence() -> None:
    model, _, batch = setting("gloria")
    nowhere = {name: torch.full_like(getattr(batch, name), torch.nan) for name in ("membership", "same_statement")}
    torch.testing.assert_close(terms_of(model, replace(batch, **nowhere)), terms_of(model, batch))


# ---- sentences of a batch


def sentences_of(batch: Batch) -> list[tuple[int, ...]]:
    return [tuple(ids[mask].tolist()) for ids, mask in zip(batch.own.tokens, batch.own.mask, strict=True)]


def test_sentences_are_distinct_and_belong_to_the_reports_that_say_them(data: TrainingData) -> None:
    batch = sample_batch(data, config("gloria"), 3, "pairs")
    texts = sentences_of(batch)
    assert len(set(texts)) == len(texts)
    assert batch.own.membership.shape == (batch.pairs, len(texts))
    first, last, padding = data.special_ids
    assert set(texts) <= {(first, *sentence, last) for report in data.sentences for sentence in report}
    intact = [column for column in range(len(texts)) if batch.own.membership[:, column].all()]
    assert len(intact) == 1  # "The bones are intact." is one sentence of all reports, not one negative of each other
    for row in range(batch.pairs):
        phrase = batch.phrases[batch.membership[row].argmax()]
        tokens = data.phrase_tokens[phrase]
        said = {token for column in batch.own.membership[row].nonzero() for token in texts[column]}
        assert set(tokens[tokens != padding].tolist()) <= said, data.evidence.phrases[phrase]


def test_sentences_are_drawn_anew_each_step_and_at_most_so_many(data: TrainingData) -> None:
    long = replace(data, sentences=[[[7, report, number] for number in range(8)] for report in range(40)])
    drawn = [sample_batch(long, config("gloria"), step, "pairs") for step in (0, 0, 1)]
    for batch in drawn:
        assert (batch.own.membership.sum(dim=1) == SENTENCES_PER_REPORT).all()
    assert sentences_of(drawn[0]) == sentences_of(drawn[1]) != sentences_of(drawn[2])


def test_a_long_sentence_is_cut_and_a_report_without_sentences_has_none(data: TrainingData) -> None:
    odd = replace(data, sentences=[[] if report % 2 else [[7] * 100] for report in range(40)])
    batch = sample_batch(odd, config("gloria"), 0, "pairs")
    assert sentences_of(batch) == [(data.special_ids[0], *[7] * (data.max_tokens - 2), data.special_ids[1])]
    assert set(batch.own.membership.sum(dim=1).tolist()) == {0.0, 1.0}
