"""PRIOR: cross alignment loop by loop, what the memory recalls, and phrases as patches meet them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import PlantedWorld, setting, terms_of
from reference import unit
from torch import nn
from torch.nn import functional as F

from lgdea_core.grounding import patch_maps
from lgdea_core.methods.prior import cross_alignment_losses, recalled


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
    torch.testing.assert_close(recalled(sharp, model.prototypes), model.prototypes, atol=1e-4, rtol=0)
    assert not torch.allclose(recalled(model, -model.prototypes), model.prototypes, atol=0.1)


def test_patches_meet_the_recalled_phrase() -> None:
    model, processor, _ = setting("prior")
    crops = PlantedWorld(3, seed=1).images
    maps = patch_maps(model, processor, crops, ["left mass"], smoothing=0.0)
    model.eval()
    phrases = recalled(model, model.encode_texts(*processor.tokens(["left mass"])))
    expected = torch.einsum("nd,ipd->inp", phrases, model.encode_crops(crops).patch_embeds)
    np.testing.assert_allclose(maps.reshape(3, 1, -1), expected.detach().numpy(), atol=1e-5)


def test_reports_without_sentences_cost_nothing_and_still_have_a_gradient() -> None:
    model, _, batch = setting("prior")
    said = batch.own
    none = said._replace(tokens=said.tokens[:0], mask=said.mask[:0], membership=said.membership[:, :0])
    terms = terms_of(model, replace(batch, own=none))
    assert {name for name, term in terms.items() if term.item() == 0} == {"local", "siam", "memory"}
    sum(terms.values()).backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)
