"""Losses: hand-computed values, limits, transcriptions of the equations, and gradients at degenerate points."""

import math

import pytest
import torch
from torch.nn import functional as F

from lgdea_core import losses


def unit(rows: int, dim: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=-1)


def scale(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_identity_relations_are_the_clip_loss() -> None:
    images, reports = unit(6, 8, 0), unit(6, 8, 1)
    logits = 5.0 * images @ reports.T
    labels = torch.arange(6)
    clip = 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels))
    ours = losses.relation_contrastive_loss(images, reports, torch.eye(6, dtype=torch.float64), scale(5.0))
    torch.testing.assert_close(ours, clip, rtol=0, atol=1e-12)


def test_identical_embeddings_cost_log_n() -> None:
    same = unit(1, 4, 0).expand(7, 4)
    loss = losses.relation_contrastive_loss(same, same, torch.eye(7, dtype=torch.float64), scale(10.0))
    assert loss.item() == pytest.approx(math.log(7), abs=1e-12)


def test_soft_relations_follow_the_equation_entry_by_entry() -> None:
    images, reports = unit(3, 5, 0), unit(4, 5, 1)
    relations = torch.tensor([[0.2, 0, 0.6, 0], [0, 0, 0, 0], [1.0, 2.0, 0, 1.0]], dtype=torch.float64)
    logits = 3.0 * images @ reports.T

    def one_way(logits: torch.Tensor, relations: torch.Tensor) -> float:
        terms = []
        for row in range(len(logits)):
            mass = relations[row].sum().item()
            if mass == 0:
                continue
            total = sum(math.exp(value) for value in logits[row].tolist())
            targets = (relations[row] / mass).tolist()
            terms.append(
                -sum(t * math.log(math.exp(v) / total) for t, v in zip(targets, logits[row].tolist(), strict=True))
            )
        return sum(terms) / len(terms)

    slow = 0.5 * (one_way(logits, relations) + one_way(logits.T, relations.T))
    fast = losses.relation_contrastive_loss(images, reports, relations, scale(3.0))
    assert fast.item() == pytest.approx(slow, abs=1e-12)


def test_scaling_the_relations_changes_nothing_and_no_relation_costs_nothing() -> None:
    images, reports = unit(3, 5, 0), unit(4, 5, 1)
    relations = torch.rand(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    once = losses.relation_contrastive_loss(images, reports, relations, scale(3.0))
    torch.testing.assert_close(losses.relation_contrastive_loss(images, reports, 7 * relations, scale(3.0)), once)
    images.requires_grad_()
    empty = losses.relation_contrastive_loss(images, reports, torch.zeros(3, 4, dtype=torch.float64), scale(3.0))
    empty.backward()
    assert empty.item() == 0
    assert images.grad.abs().max() == 0


def test_relation_gradient_reaches_embeddings_but_not_targets() -> None:
    images, reports = unit(3, 4, 0).requires_grad_(), unit(3, 4, 1).requires_grad_()
    relations = torch.rand(3, 3, dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(
        lambda i, r: losses.relation_contrastive_loss(i, r, relations.detach(), scale(2.0)), (images, reports)
    )
    losses.relation_contrastive_loss(images, reports, relations, scale(2.0)).backward()
    assert relations.grad is None


def test_reconstruction_by_hand() -> None:
    phrases = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    points = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    assignments = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    # second phrase: mean point (0.5, -0.5), distance^2 = 0.25 + 2.25
    assert losses.reconstruction_loss(phrases, assignments, points).item() == pytest.approx(1.25)


def test_prototype_penalty_by_hand_in_both_forms() -> None:
    prototypes = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert losses.prototype_penalty(prototypes, "free").item() == pytest.approx(26.0)
    assert losses.prototype_penalty(prototypes, "unit").item() == pytest.approx(16.0)


def test_evidence_divergence_is_kl_and_skips_reports_without_evidence() -> None:
    teacher = torch.tensor([[0.5, 0.5], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]], dtype=torch.float64).requires_grad_()
    first = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    ones = torch.ones(3, dtype=torch.float64)
    loss = losses.evidence_divergence(teacher, student, ones)
    assert loss.item() == pytest.approx((first + math.log(2)) / 2, abs=1e-12)
    loss.backward()
    assert student.grad[1].abs().max() == 0
    weighted = losses.evidence_divergence(teacher, student, torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64))
    assert weighted.item() == pytest.approx(2 * first, abs=1e-12)


def test_evidence_divergence_has_a_finite_gradient_where_the_student_is_zero() -> None:
    student = torch.tensor([[1.0, 0.0]], dtype=torch.float64).requires_grad_()
    losses.evidence_divergence(
        torch.tensor([[0.0, 1.0]], dtype=torch.float64), student, torch.ones(1).double()
    ).backward()
    assert torch.isfinite(student.grad).all()


def test_two_uniform_distributions_cost_nothing_which_is_why_usage_is_watched() -> None:
    uniform = torch.full((4, 8), 1 / 8)
    assert losses.evidence_divergence(uniform, uniform, torch.ones(4)).item() == pytest.approx(0, abs=1e-6)


def test_phrase_patch_score_lies_between_mean_and_maximum_and_sharpens_to_the_maximum() -> None:
    phrases, patches = unit(3, 6, 0), unit(10, 6, 1).view(2, 5, 6)
    cosines = torch.einsum("nd,ipd->inp", phrases, patches)
    scores = losses.phrase_patch_scores(phrases, patches, 0.1)
    assert (scores <= cosines.amax(dim=2) + 1e-6).all()
    assert (scores >= cosines.mean(dim=2) - 1e-6).all()
    sharp = losses.phrase_patch_scores(phrases, patches, 1e-4)
    torch.testing.assert_close(sharp, cosines.amax(dim=2), rtol=0, atol=1e-3)


def test_consistency_is_least_where_student_equals_sharpened_teacher() -> None:
    teacher = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    best = losses.consistency_loss(2 * teacher, teacher)
    for shift in (0.3, -0.3):
        moved = 2 * teacher + torch.tensor([[shift, 0.0, 0.0]], dtype=torch.float64)
        assert losses.consistency_loss(moved, teacher) > best
