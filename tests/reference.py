"""Slow, dense versions of what the package computes sparsely or in a stream; only for small inputs."""

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal float64 numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape: int, seed: int = 0) -> Tensor:
    """The same, L2-normalised along the last axis."""
    return F.normalize(normal(*shape, seed=seed), dim=-1)


def dense(matrix: sparse.csr_array) -> Float[Tensor, "rows cols"]:
    """As a float64 tensor."""
    return torch.from_numpy(matrix.toarray().astype(np.float64))


def symmetric_normalize(affinity: Float[Tensor, "nodes nodes"], self_loop: float = 0.0) -> Float[Tensor, "nodes nodes"]:
    """S = D^-1/2 (W + s w I) D^-1/2 (LGDEA eq. 13), entry by entry; `w` is the mean of the positive weights."""
    nodes = len(affinity)
    positive = affinity[affinity > 0]
    unit = positive.mean() if len(positive) else torch.tensor(1.0, dtype=affinity.dtype)
    looped = affinity + self_loop * unit * torch.eye(nodes, dtype=affinity.dtype)
    degree = looped.sum(dim=1)
    propagator = torch.zeros_like(affinity)
    for i in range(nodes):
        for j in range(nodes):
            if looped[i, j] > 0:
                propagator[i, j] = looped[i, j] / (degree[i] * degree[j]).sqrt()
    return propagator


def propagate_relations(
    seed_relations: Float[Tensor, "images reports"],
    image_propagator: Float[Tensor, "images images"],
    report_propagator: Float[Tensor, "reports reports"],
    alpha: float,
    tol: float = 1e-12,
    max_steps: int = 5000,
) -> Float[Tensor, "images reports"]:
    """Spread seed relations over both graphs until they stand still (LGDEA eq. 14, reconstruction).

        R[k+1] = alpha * S_image @ R[k] @ S_report + (1 - alpha) * R[0]

    `S = D^-1/2 W D^-1/2` has eigenvalues in [-1, 1], so a step multiplies the error by at most `alpha`. A pair no walk
    reaches stays exactly 0. A single entry may exceed every seed (the hub of a star); the Frobenius norm of `R` cannot
    exceed that of the seeds.

    Args:
        seed_relations: `R[0] >= 0`; 1 for a known pair, 0 otherwise.
        image_propagator: `S_image`, of `symmetric_normalize`.
        report_propagator: `S_report`.
        alpha: share taken from neighbours, in (0, 1); the rest stays with the seeds.
        tol: largest change of one entry that counts as standing still (the sparse one uses a tolerance relative to
            the unpaired block).
        max_steps: steps at most.

    Raises:
        ValueError: `alpha` is not inside (0, 1).
        RuntimeError: `tol` is not reached within `max_steps`.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie strictly between 0 and 1, got {alpha}")
    relations = seed_relations
    for _ in range(max_steps):
        previous = relations
        relations = alpha * image_propagator @ previous @ report_propagator + (1 - alpha) * seed_relations
        moved = (relations - previous).abs().max()
        if moved <= tol:
            return relations
    raise RuntimeError(f"relations still move by {moved:.1e} (tol {tol:.1e}) after {max_steps} steps at alpha={alpha}")


def released_rois(
    boxes: list[Float[Tensor, "_ 4"]], lengths: list[int]
) -> tuple[list[int], Float[Tensor, "regions 5"]]:
    """ASG's released `multimodal_collate_fn`: the order of its batch, and the boxes with the row each is pooled from.

    The row is written down before the batch is sorted by caption length and is never renewed.
    """
    rois = [torch.cat([torch.full((len(own), 1), float(row)), own], dim=1) for row, own in enumerate(boxes)]
    order = sorted(range(len(boxes)), key=lambda row: -lengths[row])
    return order, torch.cat([rois[row] for row in order])


def region_sentence_loss(
    regions: list[Float[Tensor, "_ dim"]],
    sentences: list[Float[Tensor, "_ dim"]],
    named: list[Float[Tensor, "_ _"]],
    temperature: float,
) -> Float[Tensor, ""]:
    """ARSA image by image and row by row; half the sum of both directions, as we average them."""
    directions = []
    for turned in (False, True):
        costs = []
        for own, spoken, links in zip(regions, sentences, named, strict=True):
            logits, links = (
                (own @ spoken.T / temperature, links) if not turned else (spoken @ own.T / temperature, links.T)
            )
            for row in range(len(logits)):
                targets = links[row] / links[row].sum()
                costs.append(-(targets * logits[row].log_softmax(dim=0)).sum())
        directions.append(torch.stack(costs).mean())
    return 0.5 * (directions[0] + directions[1])


def propagation_limit(
    seed_relations: Float[Tensor, "images reports"],
    image_propagator: Float[Tensor, "images images"],
    report_propagator: Float[Tensor, "reports reports"],
    alpha: float,
) -> Float[Tensor, "images reports"]:
    """Fixed point of eq. 14: vec(R) = (1 - alpha) (I - alpha * S_image (x) S_report)^-1 vec(R[0]), row-major vec."""
    both = torch.kron(image_propagator, report_propagator)
    system = torch.eye(len(both), dtype=both.dtype) - alpha * both
    return ((1 - alpha) * torch.linalg.solve(system, seed_relations.flatten())).view_as(seed_relations)


def cross_affinity(
    responses: Float[Tensor, "images observations"], stated: list[list[int] | None], sharpness: float
) -> Float[Tensor, "images reports"]:
    """Sum of the calibrated log odds of what a report states, loop by loop; -inf for a report without evidence (None).

    The offset is found by halving an interval 200 times.
    """
    known = [report for report, observations in enumerate(stated) if observations is not None]
    affinity = torch.full((len(responses), len(stated)), -torch.inf, dtype=responses.dtype)
    affinity[:, known] = 0
    for observation in range(responses.shape[1]):
        column = responses[:, observation]
        deviation = column.std(correction=0)
        if deviation <= 1e-9:
            continue
        share = sum(observation in stated[report] for report in known) / len(known)
        share = min(max(share, 1e-3), 1 - 1e-3)
        scaled = sharpness * (column - column.mean()) / deviation
        low, high = float(scaled.min()) - 50, float(scaled.max()) + 50
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if float((scaled - middle).sigmoid().mean()) > share else (low, middle)
        for report in known:
            if observation in stated[report]:
                affinity[:, report] += scaled - middle
    return affinity


def sinkhorn(
    logits: Float[Tensor, "images reports"], steps: int, report_marginal: float = 1.0
) -> Float[Tensor, "images reports"]:
    """Row softmax of scaled logits: `steps` times rows to 1, then columns to images / (columns with any finite logit).

    log-domain, with both scaling vectors. `report_marginal` < 1 is the damped update of unbalanced transport.
    """
    images = len(logits)
    known = logits.isfinite().any(dim=0)
    target = np.log(images / int(known.sum()))
    report_scaling = torch.zeros(logits.shape[1], dtype=logits.dtype)
    for _ in range(steps):
        image_scaling = -(logits + report_scaling).logsumexp(dim=1, keepdim=True)
        column = (logits + image_scaling).logsumexp(dim=0)
        report_scaling = torch.where(known, report_marginal * (target - column), 0)
    return (logits + report_scaling).softmax(dim=1)
