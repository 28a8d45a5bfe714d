"""CARZero: a decoder that is asked both ways, about wholes and parts."""

import math
from dataclasses import replace

import pytest
import torch
from planted import setting, terms_of
from torch.nn import functional as F

from lgdea_core.methods.carzero import METHOD

ask_images, ask_texts = METHOD.ask_images, METHOD.ask_texts


def test_carzero_contrasts_both_ways_of_asking() -> None:
    model, _, batch = setting("carzero")
    images = model.encode_images(batch.pixel_values[: batch.pairs])
    mask = batch.report_mask[: batch.pairs]
    reports = model.text_tower.with_tokens(batch.report_tokens[: batch.pairs], mask)
    own, total = torch.arange(batch.pairs), 0.0
    for logits in (ask_images(model, reports.text_embeds, images)[0], ask_texts(model, images, reports, mask)):
        total += 0.25 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)).item()
    assert terms_of(model, batch)["cross"].item() == pytest.approx(total, abs=1e-4)


def test_a_text_is_asked_as_a_whole_and_by_its_tokens_and_an_image_by_its_patches_too() -> None:
    model, processor, batch = setting("carzero")
    model.eval()
    images, (ids, mask) = model.encode_images(batch.pixel_values[:2]), processor.tokens(["left mass", "right edema"])
    texts = model.text_tower.with_tokens(ids, mask)
    asked, answered = ask_texts(model, images, texts, mask), ask_images(model, texts.text_embeds, images)[0]
    for part in ("text_embeds", "token_embeds"):
        other = texts._replace(**{part: getattr(texts, part).flip(-1)})
        assert not torch.allclose(ask_texts(model, images, other, mask), asked, atol=1e-6), part
    for part in ("image_embeds", "patch_embeds"):
        other = images._replace(**{part: getattr(images, part).flip(-1)})
        assert not torch.allclose(ask_images(model, texts.text_embeds, other)[0], answered, atol=1e-6), part


def test_films_of_one_study_are_no_negatives_of_each_other() -> None:
    model, _, batch = setting("carzero")
    model.eval()
    shared = torch.ones_like(batch.same_report)
    constant = replace(batch, same_report=shared)
    model.decoder.head[-1].weight.data.zero_()
    model.decoder.head[-1].bias.data.zero_()
    assert terms_of(model, constant)["cross"].item() == pytest.approx(math.log(batch.pairs), abs=1e-5)
