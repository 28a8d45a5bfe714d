"""What ASG sees besides images and reports: region boxes, the sentences that name them, and image tags."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from lgdea_core.config import LossConfig
from lgdea_core.data.images import boxes_to_crop, boxes_to_frame, crop_frame
from lgdea_core.data.texts import pad_tokens
from lgdea_core.vocabulary import REGIONS


@dataclass(frozen=True, kw_only=True)
class RegionData:
    """Regions, links and tags of a training pool, in the order of its images and reports."""

    boxes: Float[np.ndarray, "images regions 4"]
    """x_min, y_min, x_max, y_max as shares of the crop's side, in the order of `REGIONS`; NaN where there is no box"""
    links: tuple[Int[np.ndarray, "_ 2"], ...]
    """of each report: rows (sentence, region), a sentence that names a region"""
    tags: Float[np.ndarray, "reports tags"]
    """1 where the report states the tag as present, in the order of `ASG_TAGS`"""


@dataclass(frozen=True, kw_only=True)
class RegionBatch:
    """One step's regions and sentences: those of its pairs where the sentence names a region that is in view."""

    boxes: Float[Tensor, "regions 4"]
    """x_min, y_min, x_max, y_max in the augmented crop, as shares of its side"""
    region_image: Int[Tensor, "regions"]
    """row of the batch's images that each box lies in"""
    sentence_tokens: Int[Tensor, "texts tokens"]
    """the distinct sentences"""
    sentence_mask: Bool[Tensor, "texts tokens"]
    sentence_text: Int[Tensor, "sentences"]
    """row of `sentence_tokens`: reports may share a sentence"""
    sentence_image: Int[Tensor, "sentences"]
    """row of the batch's images whose report says it"""
    named: Float[Tensor, "regions sentences"]
    """1 where the sentence, of the same pair, names the region"""
    tags: Float[Tensor, "pairs tags"]
    tag_relations: Float[Tensor, "pairs pairs"]
    """soft relations of the pairs, see `tag_relations`"""

    def to(self, device: torch.device) -> "RegionBatch":
        """The same on a device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


def crop_boxes(regions: pd.DataFrame, images: pd.DataFrame) -> Float[np.ndarray, "images regions 4"]:
    """The region boxes of images as shares of the crop's side; NaN where there is none or the crop does not show it."""
    boxes = np.full((len(images), len(REGIONS), 4), np.nan, dtype=np.float32)
    row_of = {image_id: row for row, image_id in enumerate(images["image_id"])}
    column_of = {region: column for column, region in enumerate(REGIONS)}
    table = regions.merge(images[["image_id", "height", "width"]], on="image_id")
    for (height, width), rows in table.groupby(["height", "width"]):
        frame = crop_frame(int(height), int(width), 1)
        cut = boxes_to_crop(boxes_to_frame(rows, int(height), int(width)), frame)
        boxes[rows["image_id"].map(row_of), rows["region"].map(column_of)] = cut
    boxes[~_has_area(boxes)] = np.nan
    return boxes


def _has_area(boxes: Float[np.ndarray, "*shape 4"]) -> Bool[np.ndarray, "*shape"]:
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])  # False for NaN too


def shuffle_regions(regions: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The control that must fail: within each image the boxes keep their places and change their names at random."""
    rng = np.random.default_rng([seed, *b"regions"])
    names = regions.groupby("image_id", sort=False)["region"].transform(lambda column: rng.permutation(column))
    return regions.assign(region=names)


def region_batch(
    data: RegionData,
    sentences: list[list[list[int]]],
    pairs: Int[np.ndarray, "pairs 2"],
    motion: Float[Tensor, "pairs 2 3"],
    special_ids: tuple[int, int, int],
    max_tokens: int,
    weights: LossConfig,
) -> RegionBatch:
    """Regions and sentences of a batch's pairs.

    Args:
        data: of the pools.
        sentences: token ids of each report's sentences.
        pairs: rows of images and reports.
        motion: how the films were moved, see `batches.random_motion`.
        special_ids: ids of [CLS], [SEP] and [PAD].
        max_tokens: where sentences are cut.
        weights: holds the constants of `tag_relations`.
    """
    boxes = moved_boxes(torch.from_numpy(data.boxes[pairs[:, 0]]), motion)
    visible = boxes.isfinite().all(dim=2).numpy()
    regions: dict[tuple[int, int], int] = {}  # (pair, region) -> row
    said: dict[tuple[int, int], int] = {}  # (pair, sentence) -> row
    named = [
        (regions.setdefault((pair, region), len(regions)), said.setdefault((pair, sentence), len(said)))
        for pair, report in enumerate(pairs[:, 1])
        for sentence, region in data.links[report].tolist()
        if visible[pair, region]
    ]
    relations = torch.zeros(len(regions), len(said))
    relations[tuple(torch.tensor(named, dtype=torch.long).view(-1, 2).T)] = 1.0
    places = torch.tensor(list(regions), dtype=torch.long).view(-1, 2)
    words = [tuple(sentences[pairs[pair, 1]][sentence]) for pair, sentence in said]
    distinct = {text: row for row, text in enumerate(dict.fromkeys(words))}
    first, last, padding = special_ids
    tokens, mask = pad_tokens([[first, *text[: max_tokens - 2], last] for text in distinct], padding)
    tags = torch.from_numpy(data.tags[pairs[:, 1]])
    return RegionBatch(
        boxes=boxes[places[:, 0], places[:, 1]],
        region_image=places[:, 0],
        sentence_tokens=tokens,
        sentence_mask=mask,
        sentence_text=torch.tensor([distinct[text] for text in words], dtype=torch.long),
        sentence_image=torch.tensor([pair for pair, _ in said], dtype=torch.long),
        named=relations,
        tags=tags,
        tag_relations=tag_relations(tags, torch.from_numpy(pairs[:, 1, None] == pairs[None, :, 1]).float(), weights),
    )


def moved_boxes(
    boxes: Float[Tensor, "images regions 4"], motion: Float[Tensor, "images 2 3"]
) -> Float[Tensor, "images regions 4"]:
    """Boxes that hold what boxes held before the films were moved; NaN where that is out of view.

        a point p of the film, in [-1, 1]^2, comes to A^-1 (p - t),  motion = (A, t)

    Args:
        boxes: as shares of the side.
        motion: as `F.affine_grid` takes it: from places of the moved film to places of the film.
    """
    corners = boxes[..., [0, 1, 2, 1, 0, 3, 2, 3]].unflatten(2, (4, 2)) * 2 - 1
    back = torch.linalg.inv(motion[:, :, :2])
    moved = torch.einsum("iab,ircb->irca", back, corners - motion[:, None, None, :, 2]) / 2 + 0.5
    cut = torch.cat([moved.amin(dim=2), moved.amax(dim=2)], dim=2).clamp(0, 1)
    outside = (cut[..., 2:] <= cut[..., :2]).any(dim=2, keepdim=True)
    return cut.masked_fill(outside, torch.nan)


def tag_relations(
    tags: Float[Tensor, "pairs tags"], same_report: Float[Tensor, "pairs pairs"], weights: LossConfig
) -> Float[Tensor, "pairs pairs"]:
    """Soft relations of pairs by their tags (ASG's code, ERL): `R = 0.8 I + 0.2 cos(tags_i, tags_j) + 1e-6`.

    Films of one study share their report, so `same_report` takes the place of `I`. A report without tags is like no
    other, not even like another without.

    Args:
        tags: 0 or 1.
        same_report: 1 where two pairs share a report.
        weights: `erl_identity`, `erl_similarity`, `erl_floor`: the three constants.
    """
    directions = F.normalize(tags, dim=1)
    similarity = directions @ directions.T
    return weights.erl_identity * same_report + weights.erl_similarity * similarity + weights.erl_floor
