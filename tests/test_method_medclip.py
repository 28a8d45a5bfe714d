"""MedCLIP: targets by findings, reports of no image, and labels true to the reports."""

import math
from dataclasses import replace

import pytest
import torch
from planted import FINDINGS, setting, terms_of
from torch.nn import functional as F

from lgdea_core.methods.medclip import FindingPart, semantic_relations
from lgdea_core.vocabulary import DIAGNOSTIC_FINDINGS, NO_FINDING


def test_targets_are_the_softmax_of_the_findings_cosine() -> None:
    images = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    texts = torch.tensor([[1.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    expected = torch.tensor([[math.e, math.exp(math.sqrt(0.5)), 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    torch.testing.assert_close(semantic_relations(images, texts), expected)


def test_medclip_meets_reports_of_no_image_and_follows_the_equation() -> None:
    model, _, batch = setting("medclip", denials=True)
    assert len(batch.own.labels) == len(batch.report_tokens) > batch.pairs
    images = model.encode_images(batch.pixel_values[: batch.pairs]).image_embeds
    logits = model.logit_scale * images @ model.encode_texts(batch.report_tokens, batch.report_mask).T
    total = 0.0
    for rows, columns, scores in (
        (batch.own.labels[: batch.pairs], batch.own.labels, logits),
        (batch.own.labels, batch.own.labels[: batch.pairs], logits.T),
    ):
        cosine = torch.stack([F.cosine_similarity(row, columns, dim=1) for row in rows])
        total += 0.5 * F.cross_entropy(scores, cosine.softmax(dim=1)).item()
    assert terms_of(model, batch)["semantic"].item() == pytest.approx(total, abs=1e-4)


def test_labels_are_what_the_report_states_and_denies() -> None:
    _, _, batch = setting("medclip", denials=True)
    known = [DIAGNOSTIC_FINDINGS.index(name) for name in FINDINGS]
    assert (batch.own.labels[:, known] == 1).sum(dim=1).tolist() == [1] * len(batch.own.labels)
    assert (batch.own.labels[:, known] == -1).sum(dim=1).tolist() == [3] * len(batch.own.labels)
    assert (batch.own.labels[:, DIAGNOSTIC_FINDINGS.index(NO_FINDING)] == -1).all()


def test_reports_without_findings_cost_nothing_and_still_have_a_gradient() -> None:
    model, _, batch = setting("medclip")
    terms = terms_of(model, replace(batch, own=FindingPart(torch.zeros_like(batch.own.labels))))
    assert terms["semantic"].item() == 0
    terms["semantic"].backward()
    assert model.image_tower.global_head.weight.grad.isfinite().all()
