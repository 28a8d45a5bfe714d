"""Lesion tokens: learned queries that look for lesions among the patches (LGDEA eq. 3, reconstruction)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

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
