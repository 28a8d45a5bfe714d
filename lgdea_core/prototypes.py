"""The shared evidence space: learnable prototypes, soft assignments to them, their start, balance and names."""

import math

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


def prototype_points(prototypes: Float[Tensor, "prototypes dim"], norm: str) -> Float[Tensor, "prototypes dim"]:
    """The points that assignments use: `mu / |mu|` for norm "unit" (deviation), `mu` itself for "free" (eq. 5)."""
    return F.normalize(prototypes, dim=-1) if norm == "unit" else prototypes


def assign(
    embeds: Float[Tensor, "*n dim"], points: Float[Tensor, "prototypes dim"], temperature: float
) -> Float[Tensor, "*n prototypes"]:
    """Soft membership in the prototypes (LGDEA eq. 4 for phrases, eq. 6 for lesion tokens).

        p(k|z) = softmax_k(z . mu_k / tau)

    Args:
        embeds: phrases `z` or lesion tokens `v`, L2-normalised.
        points: `mu`, from `prototype_points`.
        temperature: `tau > 0`; smaller is sharper.

    Returns:
        Rows that sum to 1.
    """
    return (embeds @ points.T / temperature).softmax(dim=-1)


def image_evidence_distribution(
    assignments: Float[Tensor, "images lesions prototypes"],
) -> Float[Tensor, "images prototypes"]:
    """Mean assignment over an image's lesion tokens (LGDEA eq. 7)."""
    return assignments.mean(dim=1)


def log_image_evidence_distribution(
    lesion_embeds: Float[Tensor, "images lesions dim"], points: Float[Tensor, "prototypes dim"], temperature: float
) -> Float[Tensor, "images prototypes"]:
    """Logarithm of eq. 7 over eq. 6, `log mean_l softmax_k(v_l . mu_k / tau)`: exact where the mean itself is tiny."""
    logs = (lesion_embeds @ points.T / temperature).log_softmax(dim=-1)
    return logs.logsumexp(dim=1) - math.log(lesion_embeds.shape[1])


def report_evidence_distribution(
    assignments: Float[Tensor, "phrases prototypes"], membership: Float[Tensor, "reports phrases"]
) -> Float[Tensor, "reports prototypes"]:
    """Mean assignment over a report's phrases (LGDEA eq. 8).

    Args:
        assignments: of each phrase.
        membership: how often a report holds a phrase, >= 0.

    Returns:
        Rows sum to 1, or to 0 for a report without phrases: it has no evidence, and none is invented.
    """
    counts = membership.sum(dim=1, keepdim=True)
    return membership @ assignments / counts.clamp(min=1)


def usage_entropy(assignments: Float[Tensor, "n prototypes"]) -> Float[Tensor, ""]:
    """Entropy of the mean assignment in nats; `log K` when all prototypes are used alike, 0 when one takes all."""
    usage = assignments.mean(dim=0)
    return torch.special.entr(usage).sum()


def assignment_sharpness(assignments: Float[Tensor, "n prototypes"]) -> Float[Tensor, ""]:
    """Mean largest membership: `1/K` for uniform assignments, 1 for hard ones."""
    return assignments.amax(dim=-1).mean()


def initial_prototypes(
    phrase_embeds: Float[Tensor, "phrases dim"], prototypes: int, seed: int
) -> Float[Tensor, "prototypes dim"]:
    """k-means centres of the phrases, L2-normalised; with fewer distinct phrases than K, random directions fill up."""
    points = np.unique(phrase_embeds.detach().cpu().numpy().round(6), axis=0)
    known = min(prototypes, len(points))
    from sklearn.cluster import KMeans  # only training needs it

    centres = KMeans(known, n_init=1, random_state=seed).fit(points).cluster_centers_
    filler = torch.randn(prototypes - known, phrase_embeds.shape[1], generator=torch.Generator().manual_seed(seed))
    return F.normalize(torch.cat([torch.from_numpy(centres).float(), filler]), dim=-1)


def name_prototypes(
    assignments: Float[np.ndarray, "phrases prototypes"],
    phrases: list[str],
    counts: Int[np.ndarray, "phrases"],
    observations: list[str],
) -> pd.DataFrame:
    """One row per prototype: its usage, nearest phrases and the observation that most of its mass speaks of.

    Args:
        assignments: of each distinct phrase.
        phrases: texts, in that order.
        counts: how often the corpus says each phrase.
        observations: of each phrase.

    Returns:
        Columns prototype, usage (share of all phrase mass), observation, purity (that observation's share of the
        prototype's mass) and phrases (the three with the largest membership).
    """
    mass = assignments * counts[:, None]
    total = mass.sum(axis=0)
    by_observation = pd.DataFrame(mass).groupby(pd.Series(observations)).sum()
    nearest = np.argsort(-assignments, axis=0)[:3]
    return pd.DataFrame(
        {
            "prototype": np.arange(assignments.shape[1]),
            "usage": total / total.sum(),
            "observation": by_observation.idxmax(axis=0).to_numpy(),
            "purity": by_observation.max(axis=0).to_numpy() / np.maximum(total, np.finfo(float).tiny),
            "phrases": [" | ".join(phrases[row] for row in column) for column in nearest.T],
        }
    )


COARSE_GRID = 14
"""Finest grid the queries see, a side; finer ones are averaged two by two."""


def pool_patches(patch_features: Float[Tensor, "images patches channels"]) -> Float[Tensor, "images pooled channels"]:
    """Average a square grid two by two until its side is at most `COARSE_GRID`."""
    side = math.isqrt(patch_features.shape[1])
    grid = patch_features.transpose(1, 2).unflatten(2, (side, side))
    while grid.shape[-1] > COARSE_GRID:
        grid = F.avg_pool2d(grid, 2)
    return grid.flatten(2).transpose(1, 2)


class LesionQueries(nn.Module):
    """`L` learned lesion queries cross-attend the patch features; each answer is one lesion token.

        v = normalize(W (q + softmax(q K^T / sqrt(width)) V)),  K, V from the patch features

    The paper speaks of "lesion-level visual cues"; queries are our reconstruction.
    """

    def __init__(self, lesions: int, width: int, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(lesions, width) * width**-0.5)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))

    def forward(
        self, patch_features: Float[Tensor, "images patches channels"]
    ) -> tuple[Float[Tensor, "images lesions dim"], Float[Tensor, "images lesions pooled"]]:
        """Lesion tokens, L2-normalised, and where each looked (attention over patches, rows sum to 1)."""
        patch_features = pool_patches(patch_features)
        queries = self.queries.expand(len(patch_features), -1, -1)
        answers, attention = self.attention(queries, patch_features, patch_features, need_weights=True)
        return F.normalize(self.head(queries + answers).float(), dim=-1), attention
