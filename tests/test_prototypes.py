"""The evidence space: rows that sum to 1, known values, limits, and prototypes that name what they hold."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lgdea_core import prototypes


def test_assignments_sum_to_one_and_sharpen_to_the_nearest_point() -> None:
    embeds = F.normalize(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    points = F.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    soft = prototypes.assign(embeds, points, 0.1)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(20))
    sharp = prototypes.assign(embeds, points, 1e-4)
    assert (sharp.argmax(dim=1) == (embeds @ points.T).argmax(dim=1)).all()
    assert sharp.amax(dim=1).min() > 0.99


def test_assignment_by_hand() -> None:
    p = prototypes.assign(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 0.5)
    e = math.exp(2.0)
    torch.testing.assert_close(p, torch.tensor([[e / (e + 1), 1 / (e + 1)]]))


def test_unit_norm_ignores_the_length_of_a_prototype_and_free_does_not() -> None:
    mu = torch.tensor([[3.0, 4.0]])
    assert prototypes.prototype_points(mu, "unit").norm().item() == pytest.approx(1)
    assert prototypes.prototype_points(mu, "free").norm().item() == pytest.approx(5)


def test_report_without_phrases_has_no_evidence_and_others_average_theirs() -> None:
    assignments = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    membership = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 2.0, 2.0]])
    distribution = prototypes.report_evidence_distribution(assignments, membership)
    torch.testing.assert_close(distribution, torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.25, 0.75]]))


def test_image_evidence_is_the_mean_over_lesions_in_any_order() -> None:
    assignments = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0))
    shuffled = assignments[:, [2, 0, 3, 1]]
    torch.testing.assert_close(
        prototypes.image_evidence_distribution(assignments), prototypes.image_evidence_distribution(shuffled)
    )


def test_usage_entropy_and_sharpness_at_their_ends() -> None:
    uniform, one = torch.full((6, 4), 0.25), torch.eye(4)[[0, 0, 0]]
    assert prototypes.usage_entropy(uniform).item() == pytest.approx(math.log(4))
    assert prototypes.usage_entropy(one).item() == pytest.approx(0)
    assert prototypes.usage_entropy(torch.eye(4)).item() == pytest.approx(math.log(4))
    assert prototypes.assignment_sharpness(uniform).item() == pytest.approx(0.25)
    assert prototypes.assignment_sharpness(one).item() == pytest.approx(1)


def test_initial_prototypes_find_planted_clusters_and_fill_up_when_phrases_are_few() -> None:
    centres = torch.eye(4)
    embeds = F.normalize(centres.repeat(10, 1) + 0.01 * torch.randn(40, 4), dim=-1)
    found = prototypes.initial_prototypes(embeds, 4, seed=0)
    assert (found @ centres.T).amax(dim=0).min() > 0.99
    more = prototypes.initial_prototypes(centres[:2], 5, seed=0)
    assert more.shape == (5, 4)
    torch.testing.assert_close(more.norm(dim=1), torch.ones(5))
    assert torch.equal(more, prototypes.initial_prototypes(centres[:2], 5, seed=0))


def test_names_say_what_most_of_a_prototypes_mass_speaks_of() -> None:
    assignments = np.array([[0.9, 0.1], [0.8, 0.2], [0.0, 1.0]])
    table = prototypes.name_prototypes(
        assignments, ["edema", "mild edema", "nodule"], np.array([1, 1, 2]), ["edema", "edema", "nodule"]
    )
    assert table["observation"].tolist() == ["edema", "nodule"]
    assert table["usage"].to_numpy() == pytest.approx([1.7 / 4, 2.3 / 4])
    assert table["purity"].to_numpy() == pytest.approx([1.0, 2 / 2.3])
    assert table["phrases"][1].startswith("nodule")
