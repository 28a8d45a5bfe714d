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
    loss = losses.evidence_divergence(teacher, student.log(), ones)
    assert loss.item() == pytest.approx((first + math.log(2)) / 2, abs=1e-12)
    loss.backward()
    assert student.grad[1].abs().max() == 0
    weighted = losses.evidence_divergence(teacher, student.log(), torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64))
    assert weighted.item() == pytest.approx(2 * first, abs=1e-12)
    uniform = torch.full((4, 8), 1 / 8)  # two of them cost nothing, which is why usage is watched
    assert losses.evidence_divergence(uniform, uniform.log(), torch.ones(4)).item() == pytest.approx(0, abs=1e-6)


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


# ---- presence


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_presence_by_hand() -> None:
    logits, targets = torch.tensor([[0.0, 2.0], [0.0, -1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.5]])
    first = 2 * math.log(2)
    second = math.log1p(math.exp(2)) + 0.5 * (math.log1p(math.exp(-1)) + math.log1p(math.exp(1)))
    both = losses.presence_loss(logits, targets, torch.ones(2))
    assert both.item() == pytest.approx((first + second) / 2.5, abs=1e-6)
    one = losses.presence_loss(logits, targets, torch.tensor([1.0, 0.0]))
    assert one.item() == pytest.approx(first / 2, abs=1e-6)


def test_presence_follows_the_equation_entry_by_entry() -> None:
    logits, targets = 3 * normal(4, 5, seed=0), uniform(4, 5, seed=1)
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    cost = positives = 0.0
    for i in range(4):
        for n in range(5):
            probability, target = 1 / (1 + math.exp(-logits[i, n])), float(targets[i, n])
            entropy = -target * math.log(probability) - (1 - target) * math.log(1 - probability)
            cost += float(weights[n]) * entropy
            positives += float(weights[n]) * target
    assert losses.presence_loss(logits, targets, weights).item() == pytest.approx(cost / positives, abs=1e-12)


def test_presence_is_least_where_the_odds_are_the_targets() -> None:
    targets, weights = uniform(3, 4, seed=0), torch.ones(4, dtype=torch.float64)
    best = losses.presence_loss(targets.logit(), targets, weights)
    for shift in (0.2, -0.2):
        assert losses.presence_loss(targets.logit() + shift, targets, weights) > best


def test_presence_does_not_depend_on_the_order_or_on_phrases_without_a_place() -> None:
    logits, targets = normal(4, 5, seed=0), uniform(4, 5, seed=1)
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    loss = losses.presence_loss(logits, targets, weights)
    rows, columns = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 2, 0, 1, 3])
    turned = losses.presence_loss(logits[rows][:, columns], targets[rows][:, columns], weights[columns])
    torch.testing.assert_close(turned, loss, rtol=0, atol=1e-12)
    kept = weights > 0
    torch.testing.assert_close(losses.presence_loss(logits[:, kept], targets[:, kept], weights[kept]), loss)


def test_presence_where_little_or_nothing_is_expected() -> None:
    logits, ones = torch.zeros(2, 3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for target in (0.0, 0.1):  # fewer than one: the sum itself, never divided by next to nothing
        loss = losses.presence_loss(logits, torch.full_like(logits, target), ones)
        assert loss.item() == pytest.approx(6 * math.log(2), abs=1e-12)
    assert losses.presence_loss(logits, torch.ones_like(logits), 0 * ones).item() == 0
    assert losses.presence_loss(logits[:, :0], logits[:, :0], ones[:0]).item() == 0


def test_presence_gradient_reaches_logits_but_not_targets() -> None:
    logits, targets = normal(3, 4, seed=0).requires_grad_(), uniform(3, 4, seed=1).requires_grad_()
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    torch.autograd.gradcheck(lambda x: losses.presence_loss(x, targets.detach(), weights), (logits,))
    losses.presence_loss(logits, targets, weights).backward()
    assert targets.grad is None
    assert logits.grad[:, 1].abs().max() == 0
    far = torch.tensor([[1e4, -1e4]], dtype=torch.float64).requires_grad_()
    losses.presence_loss(far, torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.ones(2).double()).backward()
    assert far.grad.isfinite().all()


# ---- what a sentence attends to


def patches(images: int, count: int, dim: int, seed: int) -> torch.Tensor:
    return unit(images * count, dim, seed).view(images, count, dim)


def test_attended_similarity_by_hand() -> None:
    sentence, corners = torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    near = math.exp(2) / (math.exp(2) + 1)  # attention at temperature 0.5 on the patch that fits
    expected = near / math.hypot(near, 1 - near)
    assert losses.attended_similarity(sentence, corners, 0.5).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.7])
def test_attended_similarity_follows_the_equation_loop_by_loop(temperature: float) -> None:
    texts, grid = unit(3, 6, 0), patches(2, 5, 6, 1)
    found = losses.attended_similarity(texts, grid, temperature)
    for i in range(2):
        for s in range(3):
            weights = [math.exp(float(texts[s] @ grid[i, p]) / temperature) for p in range(5)]
            attended = sum(weight / sum(weights) * grid[i, p] for p, weight in enumerate(weights))
            expected = float(texts[s] @ attended / attended.norm())
            assert found[i, s].item() == pytest.approx(expected, abs=1e-12)


def test_attended_similarity_goes_from_the_mean_patch_to_the_best_one() -> None:
    texts, grid = unit(3, 6, 0), patches(4, 5, 6, 1)
    sharp, flat = (losses.attended_similarity(texts, grid, temperature) for temperature in (1e-4, 1e6))
    torch.testing.assert_close(sharp, torch.einsum("nd,ipd->inp", texts, grid).amax(dim=2), rtol=0, atol=1e-6)
    torch.testing.assert_close(flat, F.normalize(grid.mean(dim=1), dim=-1) @ texts.T, rtol=0, atol=1e-5)
    one = losses.attended_similarity(texts, grid[:, :1], 0.3)  # one patch: its plain cosine
    torch.testing.assert_close(one, grid[:, 0] @ texts.T, rtol=0, atol=1e-12)


def test_attended_similarity_is_a_cosine_whatever_the_order_of_patches() -> None:
    texts, grid = unit(7, 6, 0), patches(4, 5, 6, 1)
    found = losses.attended_similarity(texts, grid, 0.1)
    assert found.abs().max() <= 1 + 1e-12
    moved = losses.attended_similarity(texts.flip(0), grid[:, torch.tensor([3, 0, 4, 1, 2])], 0.1)
    torch.testing.assert_close(moved.flip(1), found, rtol=0, atol=1e-12)


def test_attended_similarity_has_a_gradient_even_where_patches_cancel() -> None:
    texts, grid = unit(2, 3, 0).requires_grad_(), patches(2, 4, 3, 1).requires_grad_()
    torch.autograd.gradcheck(lambda z, f: losses.attended_similarity(z, f, 0.5), (texts, grid))
    text = torch.tensor([[0.0, 1.0]], dtype=torch.float64).requires_grad_()
    opposite = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]], dtype=torch.float64).requires_grad_()
    similarity = losses.attended_similarity(text, opposite, 0.1)
    similarity.sum().backward()
    assert similarity.item() == 0
    assert text.grad.isfinite().all()
    assert opposite.grad.isfinite().all()


# ---- sentences of a report


def test_pooled_logits_follow_the_equation_loop_by_loop() -> None:
    logits = 3 * normal(4, 5, seed=0)
    members = torch.tensor([[1.0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 1, 1]], dtype=torch.float64)
    found = losses.pooled_logits(logits, members)
    for i in range(4):
        for r in range(3):
            expected = math.log(sum(math.exp(logits[i, s]) for s in range(5) if members[r, s]))
            assert found[i, r].item() == pytest.approx(expected, abs=1e-12)


def test_pooled_logits_by_hand_and_whatever_the_order() -> None:
    logits = torch.tensor([[1.0, 1.0, -2.0]])
    members = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    expected = torch.tensor([[1 + math.log(2), -2.0]])
    torch.testing.assert_close(losses.pooled_logits(logits, members), expected)
    turned = losses.pooled_logits(logits.flip(1), members.flip(1).flip(0))
    torch.testing.assert_close(turned.flip(1), expected)
    each = losses.pooled_logits(logits, torch.eye(3))  # one sentence a report: nothing to pool
    torch.testing.assert_close(each, logits)


def test_a_report_without_sentences_lies_far_below_all_others() -> None:
    logits = 10 * normal(3, 4, seed=0)
    members = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]], dtype=torch.float64)
    found = losses.pooled_logits(logits, members)
    assert found.isfinite().all()
    assert (found.softmax(dim=1)[:, 1] == 0).all()


def test_pooled_logits_send_gradient_to_a_reports_own_sentences_alone() -> None:
    logits = normal(3, 4, seed=0).requires_grad_()
    members = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0]], dtype=torch.float64)
    torch.autograd.gradcheck(lambda x: losses.pooled_logits(x, members), (logits,))
    losses.pooled_logits(logits, members)[:, 0].sum().backward()
    assert ((logits.grad != 0) == (members[0] > 0)).all()
