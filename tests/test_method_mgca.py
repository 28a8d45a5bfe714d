"""MGCA: alignment of tokens loop by loop, prototype codes, and its limit CLIP."""

import math

import pytest
import torch
from planted import setting, terms_of
from reference import unit
from torch.nn import functional as F

from lgdea_core.losses import own_place_loss
from lgdea_core.methods import mgca
from lgdea_core.methods.mgca import sinkhorn, swapped_prediction_loss, token_alignment_loss


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
    monkeypatch.setattr(mgca, "SINKHORN_STEPS", 500)
    even = torch.full((6,), 40 / 6, dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(similarity).sum(dim=0), even, atol=1e-3, rtol=0)


def test_with_one_prototype_nothing_is_to_be_predicted() -> None:
    assert swapped_prediction_loss(torch.randn(5, 1), torch.randn(5, 1)).item() == pytest.approx(0)


def test_each_side_predicts_the_code_of_the_other() -> None:
    images, reports = unit(5, 8) @ unit(6, 8, seed=1).T, unit(5, 8, seed=2) @ unit(6, 8, seed=1).T
    total = 0.0
    for codes, guesses in ((sinkhorn(images), reports), (sinkhorn(reports), images)):
        for code, guess in zip(codes, guesses, strict=True):
            total += 0.5 * F.cross_entropy(guess / mgca.SWAP_TEMPERATURE, code, reduction="sum").item() / 5
    assert swapped_prediction_loss(images, reports).item() == pytest.approx(total, abs=1e-9)
    certain = torch.eye(3) * 5
    assert swapped_prediction_loss(certain, certain[[1, 2, 0]]) > swapped_prediction_loss(certain, certain) + 10


def test_without_tokens_and_prototypes_mgca_is_clip() -> None:
    model, _, batch = setting("mgca")
    torch.testing.assert_close(terms_of(model, batch, token=0.0, swap=0.0), terms_of(model, batch, "clip"))
