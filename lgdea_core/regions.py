"""ASG's parts on the image side: region pooling and the image-tag decoder (arXiv 2403.09294, by its released code)."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.ops import roi_align

from lgdea_core.lesions import pool_patches
from lgdea_core.vocabulary import ASG_TAGS


def pool_regions(
    patch_embeds: Float[Tensor, "images patches dim"],
    boxes: Float[Tensor, "regions 4"],
    region_image: Int[Tensor, "regions"],
) -> Float[Tensor, "regions dim"]:
    """Mean patch embedding of each box: RoIAlign to 1 x 1 (ASG, ARSA), not normalised again.

    The cell in row i covers i to i + 1 of the grid, hence `aligned=True`: without it a box over the whole of a 4 x 4
    grid is read half a cell to the lower right.

    Args:
        patch_embeds: L2-normalised, row by row over a square grid.
        boxes: x_min, y_min, x_max, y_max as shares of the image's side.
        region_image: row of `patch_embeds` that each box lies in.
    """
    side = math.isqrt(patch_embeds.shape[1])
    grid = patch_embeds.transpose(1, 2).unflatten(2, (side, side))
    rois = torch.cat([region_image.unsqueeze(1), boxes * side], dim=1).to(grid.dtype)
    return roi_align(grid, rois, output_size=1, aligned=True).flatten(1)


class TagDecoder(nn.Module):
    """Which of `ASG_TAGS` an image shows (ASG, IRL): tag names as queries, patches as memory.

    Pre-norm transformer decoder layers, then one linear layer for all tags. `tag_embeds` are frozen: the text tower's
    features of the names before any training, set once by `model.build_model` (ASG encodes them anew in every step).
    """

    def __init__(self, text_width: int, width: int, layers: int, heads: int, widening: float, dropout: float) -> None:
        super().__init__()
        self.register_buffer("tag_embeds", torch.zeros(len(ASG_TAGS), text_width))
        self.query = nn.Linear(text_width, width)
        layer = nn.TransformerDecoderLayer(
            width, heads, round(width * widening), dropout, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, layers, norm=nn.LayerNorm(width))
        self.head = nn.Linear(width, 1)

    def forward(self, patch_features: Float[Tensor, "images patches channels"]) -> Float[Tensor, "images tags"]:
        """Logits of "the image shows the tag"."""
        queries = self.query(self.tag_embeds).expand(len(patch_features), -1, -1)
        return self.head(self.decoder(queries, pool_patches(patch_features))).squeeze(-1)
