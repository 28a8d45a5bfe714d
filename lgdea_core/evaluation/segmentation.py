"""Segmentation on a pretrained tower: U-Net on a ResNet, SETR on a ViT, and Dice by named protocols (MGCA's, ASG's)."""

import copy
import itertools
import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import segmentation_models_pytorch as smp
import torch
from jaxtyping import Bool, Float, Int, UInt8
from segmentation_models_pytorch.base import SegmentationHead, SegmentationModel
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn
from transformers import PreTrainedModel

from lgdea_core.crops import boxes_mask, boxes_to_frame, crop_image, pixel_values
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.images import read_mask
from lgdea_core.encoders import ImageTower, token_grid
from lgdea_core.evaluation.bootstrap import Bootstrap, Interval
from lgdea_core.evaluation.supervised import Examples, Fit, Schedule, fit, outputs
from lgdea_core.inference import finite
from lgdea_core.training.loop import seeded

logger = logging.getLogger("lgdea")

SIIM = Schedule(learning_rate=2e-4, weight_decay=0.05, batch_size=8)
"""MGCA on SIIM pneumothorax."""
RSNA = Schedule(learning_rate=5e-4, weight_decay=0.05, batch_size=16)
"""MGCA on RSNA pneumonia."""
FOCAL_WEIGHT = 10.0
"""MGCA's `MixedLoss(alpha=10)`: the weight of the focal term, not its class balance."""
FOCAL_GAMMA = 2.0
DICE_SMOOTHING = 1.0
UNET_CHANNELS = (256, 128, 64, 32, 16)
"""Widest decoder blocks, coarse to fine: those of segmentation-models-pytorch, which MGCA takes."""
SETR_CHANNELS = (512, 256, 128, 64)
"""Decoder blocks of MGCA's SETR, each of which doubles the grid."""


class ResNetStages(nn.Module):
    """What a transformers ResNet sees, as a decoder reads it: the film, the stem at half its size, every stage."""

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__()
        self.backbone, config = backbone, backbone.config
        self.out_channels = (config.num_channels, config.embedding_size, *config.hidden_sizes)
        self.output_stride = 2 ** (len(self.out_channels) - 1)

    def forward(self, pixel_values: Float[Tensor, "images channels height width"]) -> list[Float[Tensor, "images ..."]]:
        """Feature maps, fine to coarse."""
        stem = self.backbone.embedder.embedder(pixel_values)
        pooled = self.backbone.embedder.pooler(stem)
        states = self.backbone.encoder(pooled, output_hidden_states=True).hidden_states
        return [pixel_values, stem, *states[1:]]


class ViTGrid(nn.Module):
    """What a transformers ViT sees: the film and the last layer's patches."""

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__()
        self.backbone, config = backbone, backbone.config
        self.out_channels = (config.num_channels, config.hidden_size)
        self.output_stride = config.patch_size

    def forward(self, pixel_values: Float[Tensor, "images channels height width"]) -> list[Float[Tensor, "images ..."]]:
        """Film and grid."""
        return [pixel_values, token_grid(self.backbone(pixel_values=pixel_values).last_hidden_state)]


class SetrDecoder(nn.Sequential):
    """Progressive upsampling (SETR-PUP): convolution, batch norm, ReLU and a doubling of the grid, block by block."""

    def __init__(self, in_channels: int, channels: tuple[int, ...]) -> None:
        super().__init__(
            *(
                nn.Sequential(
                    nn.Conv2d(wide, narrow, kernel_size=3, padding=1, bias=False),
                    nn.BatchNorm2d(narrow),
                    nn.ReLU(inplace=True),
                    nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                )
                for wide, narrow in itertools.pairwise((in_channels, *channels))
            )
        )

    def forward(self, features: list[Float[Tensor, "images ..."]]) -> Float[Tensor, "images channels height width"]:
        """The last feature map at the film's size."""
        return super().forward(features[-1])


class Segmenter(SegmentationModel):
    """A copy of a tower's backbone with a fresh decoder: crops to logits of "this pixel is inside a lesion".

    A ResNet gets the U-Net of segmentation-models-pytorch, each block as wide as the stage it joins and at most as wide
    as `UNET_CHANNELS`; a ViT gets `SetrDecoder`. Frozen, the encoder stays in evaluation mode, batch norm included.

    Args:
        tower: whose backbone; neck and heads are left out.
        tuned: train the encoder too.

    Raises:
        ValueError: a ViT whose patch side is no power of two up to 16.
    """

    def __init__(self, tower: ImageTower, *, tuned: bool = False) -> None:
        super().__init__()
        backbone = copy.deepcopy(tower.backbone)
        self.name = f"{backbone.config.model_type}-segmenter"
        self.classification_head = None
        self.pixels = tower.pixels
        if backbone.config.model_type == "resnet":
            self.encoder = ResNetStages(backbone)
            skips = self.encoder.out_channels[-2:0:-1]
            channels = tuple(map(min, UNET_CHANNELS, (*skips, UNET_CHANNELS[-1])))
            self.decoder = UnetDecoder(self.encoder.out_channels, channels, n_blocks=len(channels))
        else:
            self.encoder = ViTGrid(backbone)
            channels = _setr_channels(self.encoder.output_stride)
            self.decoder = SetrDecoder(self.encoder.out_channels[-1], channels)
        self.segmentation_head = SegmentationHead(channels[-1], 1, kernel_size=3)
        self.initialize()
        if not tuned:
            self.freeze_encoder()
            self.encoder.eval()
        self.to(memory_format=torch.channels_last)  # a third faster on a CPU

    def forward(self, crops: UInt8[Tensor, "images height width"]) -> Float[Tensor, "images height width"]:
        """Logits."""
        return super().forward(self.pixels(pixel_values(crops))).squeeze(1)


def _setr_channels(patch: int) -> tuple[int, ...]:
    blocks = patch.bit_length() - 1
    if patch != 2**blocks or not 1 <= blocks <= len(SETR_CHANNELS):
        raise ValueError(f"SETR doubles the grid block by block: the patch side must be 2, 4, 8 or 16, got {patch}")
    return SETR_CHANNELS[-blocks:]


def mixed_loss(
    logits: Float[Tensor, "images height width"], masks: Float[Tensor, "images height width"]
) -> Float[Tensor, ""]:
    """`10 focal(gamma 2) - log dice`, dice over the whole batch with 1 added above and below (MGCA's `MixedLoss`).

    Without class balance in the focal term. Where no image of the batch has a lesion the second term is 0
    (segmentation-models-pytorch; MGCA's is not).
    """
    focal = smp.losses.FocalLoss("binary", alpha=None, gamma=FOCAL_GAMMA)(logits, masks)
    smooth = DICE_SMOOTHING / 2  # that package adds it to half the sums
    dice = smp.losses.DiceLoss("binary", log_loss=True, smooth=smooth)(logits.unsqueeze(1), masks.unsqueeze(1))
    return FOCAL_WEIGHT * focal + dice


def image_dice(
    predicted: Bool[np.ndarray, "images height width"], truth: Bool[np.ndarray, "images height width"]
) -> Float[np.ndarray, " images"]:
    """Dice of every image, `2 |P and T| / (|P| + |T|)`.

    Where the truth is empty it is 1 if the prediction is empty too, and 0 otherwise (MGCA).
    """
    sizes = predicted.sum(axis=(1, 2)) + truth.sum(axis=(1, 2))
    shared = (predicted & truth).sum(axis=(1, 2))
    return np.where(sizes > 0, 2 * shared / np.maximum(sizes, 1), 1.0)


def batch_mean_dice(scores: Float[np.ndarray, " images"], batch_size: int) -> float:
    """Mean over batches of the mean within each (MGCA): images of a short last batch count for more."""
    return float(np.mean([scores[start : start + batch_size].mean() for start in range(0, len(scores), batch_size)]))


def lesion_masks(
    corpus: Corpus, image_ids: Sequence[str], size: int, truth: Literal["masks", "boxes"], finding: str | None
) -> Bool[np.ndarray, "images {size} {size}"]:
    """Where each image shows a lesion, in the pixels of its crop; empty where the corpus has nothing of it.

    A pixel of the crop is inside where at least half of it is. An image all of whose lesions lie outside the crop, or
    are smaller than that, counts as one without a lesion; the log says how many do.

    Args:
        corpus: holds masks or boxes.
        image_ids: of the images, in the order wanted.
        size: side of the crops, in pixels.
        truth: the union of the image's masks, or its boxes filled (RSNA).
        finding: whose; None takes all lesions together.
    """
    table = corpus.masks if truth == "masks" else corpus.boxes
    own = table[table["image_id"].isin(set(image_ids)) & (table["finding"].eq(finding) | (finding is None))]
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    shapes = corpus.images.set_index("image_id")[["height", "width"]]
    masks, vanished = np.zeros((len(image_ids), size, size), dtype=bool), 0
    for image_id, rows in own.groupby("image_id"):
        height, width = (int(side) for side in shapes.loc[image_id])
        if truth == "masks":
            full = np.any([read_mask(corpus.root / path) for path in rows["path"]], axis=0)
        else:
            full = boxes_mask(boxes_to_frame(rows, height, width), height, width)
        masks[row_of[image_id]] = mask = crop_image(full.astype(np.float32), size) > 127
        vanished += full.any() and not mask.any()
    if vanished:
        logger.warning("corpus %s: the crops of %d images show nothing of their lesions", corpus.name, vanished)
    return masks


def balanced_rows(positive: Bool[np.ndarray, " images"], seed: int) -> Int[np.ndarray, "rows"]:
    """Rows of all images with a lesion and of as many without, drawn at random (SIIM's training set in MGCA).

    Raises:
        ValueError: no image has a lesion.
    """
    rows, others = np.flatnonzero(positive), np.flatnonzero(~positive)
    if not len(rows):
        raise ValueError(f"balanced_rows: none of {len(positive)} images has a lesion; take a larger share")
    drawn = np.random.default_rng([seed, *b"balance"]).permutation(others)[: len(rows)]
    return np.sort(np.concatenate([rows, drawn]))


class SegmentedImages(NamedTuple):
    """Images of one split with the truth of their pixels."""

    crops: UInt8[Tensor, "images height width"]
    masks: Bool[np.ndarray, "images height width"]
    patients: list[str]
    """of each image"""


class SegmentationScore(NamedTuple):
    """Dice on the scored images; all variants at p > 0.5, in the pixels of the crop."""

    image: Interval
    """mean over images of `image_dice`, with a 95 % interval over patients"""
    batches: float
    """MGCA's mean over batches, see `batch_mean_dice`"""
    positive: float
    """mean over the images with a lesion alone"""
    empty: float
    """what the empty prediction reaches: the share of images without a lesion"""
    fit: Fit


def segment(
    tower: ImageTower,
    train: SegmentedImages,
    val: SegmentedImages,
    test: SegmentedImages,
    schedule: Schedule,
    *,
    seed: int,
    tuned: bool = False,
) -> SegmentationScore:
    """Train a decoder on a tower and score it.

    Args:
        tower: copied, not changed.
        train: the labelled share.
        val: stops the training.
        test: is scored.
        schedule: `SIIM`, `RSNA`, or one's own.
        seed: of the decoder's initial weights and the order of the images.
        tuned: train the encoder too.

    Raises:
        ValueError: no test image has a lesion.
    """
    if not test.masks.any():
        raise ValueError(f"segmentation: none of the {len(test.masks)} test images has a lesion, so there is no score")
    device = next(tower.parameters()).device
    with seeded(seed, device):
        segmenter = Segmenter(tower, tuned=tuned).to(device)
        fitted = fit(segmenter, _examples(train), _examples(val), mixed_loss, schedule, seed)
    logits = finite(outputs(segmenter, test.crops).numpy(), "segmentation", "logits")
    scores = image_dice(logits > 0, test.masks)  # logit 0 is p = 0.5
    positive = test.masks.any(axis=(1, 2))
    return SegmentationScore(
        image=Bootstrap().mean(scores, test.patients),
        batches=batch_mean_dice(scores, schedule.batch_size),
        positive=float(scores[positive].mean()),
        empty=float(1 - positive.mean()),
        fit=fitted,
    )


def _examples(images: SegmentedImages) -> Examples:
    return Examples(images.crops, torch.from_numpy(images.masks.astype(np.float32)))
