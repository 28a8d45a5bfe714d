"""The square a tower sees: cut from an image, standardised, moved at random, and laid back onto the image."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class CropFrame:
    """Where a model's square crop lies in the original image (BioViL: short side resized, centre cut out)."""

    height: int
    """height of the original, in pixels"""
    width: int
    """width of the original, in pixels"""
    size: int
    """side of the crop as the model sees it, in pixels"""

    @property
    def side(self) -> int:
        """Side of the crop in original pixels: the short side."""
        return min(self.height, self.width)

    @property
    def top(self) -> int:
        """First original row inside the crop."""
        return (self.height - self.side) // 2

    @property
    def left(self) -> int:
        """First original column inside the crop."""
        return (self.width - self.side) // 2

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the original inside the crop."""
        return slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)


def crop_frame(height: int, width: int, size: int) -> CropFrame:
    """The crop of an image of `height` x `width` pixels that a tower of input side `size` sees.

    Raises:
        ValueError: a side is not positive.
    """
    if min(height, width, size) < 1:
        raise ValueError(f"height, width and size must be positive, got {height}, {width} and {size}")
    return CropFrame(height=height, width=width, size=size)


def crop_image(image: Float[np.ndarray, "height width"], size: int) -> UInt8[np.ndarray, "{size} {size}"]:
    """Central square of an image, resampled to `size` with an antialiasing filter, as 8 bits.

    Cutting the square out first equals resizing the short side first, without the rounding of the long side.

    Args:
        image: grey in [0, 1].
        size: side of the result, in pixels.
    """
    frame = crop_frame(*image.shape, size)
    square = np.ascontiguousarray(image[frame.window], dtype=np.float32)
    resized = np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BILINEAR))
    return np.rint(np.clip(resized, 0, 1) * 255).astype(np.uint8)


def crop_to_original(
    crop_map: Float[np.ndarray, "rows cols"],
    frame: CropFrame,
    interpolation: Literal["bilinear", "nearest"] = "bilinear",
) -> Float[np.ndarray, "{frame.height} {frame.width}"]:
    """A map over the crop (a patch grid or its pixels) laid back onto the original; NaN where the crop never looked.

    Args:
        crop_map: values on an even grid over the whole crop, of any resolution.
        frame: where the crop lies.
        interpolation: "bilinear" is smooth; "nearest" is that of torch's `interpolate`, which BioViL's code uses: pixel
            y takes cell `floor(y * rows / side)`.
    """
    original = np.full((frame.height, frame.width), np.nan, dtype=np.float32)
    if interpolation == "nearest":
        rows, columns = (np.arange(frame.side) * count // frame.side for count in crop_map.shape)
        original[frame.window] = crop_map[np.ix_(rows, columns)]
    else:
        grid = Image.fromarray(np.ascontiguousarray(crop_map, dtype=np.float32))
        original[frame.window] = np.asarray(grid.resize((frame.side, frame.side), Image.Resampling.BILINEAR))
    return original


def boxes_to_frame(boxes: pd.DataFrame, height: int, width: int) -> Float[np.ndarray, "boxes 4"]:
    """Boxes of a corpus scaled from the frame they were drawn in to an image of `height` x `width` pixels.

    Args:
        boxes: rows of `Corpus.boxes`.
        height: of the image the result counts in.
        width: likewise.

    Returns:
        `boxes_xyxy`: x_min, y_min, x_max, y_max; the order of the rows is kept.
    """
    corners = boxes[["x_min", "y_min", "x_max", "y_max"]].to_numpy(dtype=np.float64)
    drawn = boxes[["frame_width", "frame_height"] * 2].to_numpy(dtype=np.float64)
    return corners * np.array([width, height, width, height], dtype=np.float64) / drawn


def boxes_to_crop(boxes_xyxy: Float[np.ndarray, "boxes 4"], frame: CropFrame) -> Float[np.ndarray, "boxes 4"]:
    """Boxes in original pixels as `boxes_xyxy_crop`: in the crop's pixels, cut at its border (maybe to nothing)."""
    offset = np.array([frame.left, frame.top] * 2, dtype=np.float64)
    return np.clip((boxes_xyxy - offset) * frame.size / frame.side, 0, frame.size)


def boxes_mask(boxes_xyxy: Float[np.ndarray, "boxes 4"], height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """True inside the union of the boxes: every pixel whose centre lies in one.

    Parts outside the image are cut off. A box too thin to hold a pixel's centre marks the pixel it lies in.
    """
    mask = np.zeros((height, width), dtype=bool)
    for x_min, y_min, x_max, y_max in boxes_xyxy:
        mask[_covered(y_min, y_max, height), _covered(x_min, x_max, width)] = True
    return mask


def _covered(low: float, high: float, length: int) -> slice:
    start, stop = int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5))
    if stop <= start:
        start = int(np.floor((low + high) / 2))
        stop = start + 1
    return slice(max(start, 0), max(min(stop, length), 0))


@dataclass(frozen=True, kw_only=True, eq=False)
class CropPool:
    """The crops of some images, where they lie: only what is asked for is read, so a pool may outgrow memory."""

    stored: UInt8[np.ndarray, "stored height width"]
    """memory-mapped where it comes from a cache"""
    rows: Int[np.ndarray, "images"]
    """row of `stored` that each image of the pool lies in"""
    digests: Sequence[str] | None = None
    """`crop_digest` of each stored crop, as noted when it was written; None where it has to be computed"""

    @classmethod
    def of(cls, crops: UInt8[Tensor, "images height width"]) -> "CropPool":
        """A pool of crops that are in memory."""
        return cls(stored=crops.numpy(), rows=np.arange(len(crops)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, images: Sequence[int] | Int[np.ndarray, "n"] | slice) -> UInt8[Tensor, "n height width"]:
        """Crops of some images, read now."""
        return torch.from_numpy(self.stored[self.rows[images]])

    def digest(self) -> str:
        """Hash of all crops in their order; those that a cache notes are not read for it."""
        noted, digest = self.digests, hashlib.sha256()
        for row in self.rows:
            digest.update((crop_digest(self.stored[row]) if noted is None else noted[row]).encode())
        return digest.hexdigest()[:16]


def crop_digest(crop: UInt8[np.ndarray, "height width"]) -> str:
    """Hash of one crop's shape and pixels."""
    return hashlib.sha256(repr(crop.shape).encode() + crop.tobytes()).hexdigest()[:32]


def pixel_values(crops: UInt8[Tensor, "images height width"]) -> Float[Tensor, "images 1 height width"]:
    """Crops as grey levels in [0, 1], which towers take; see `encoders.Pixels`."""
    return crops.unsqueeze(1).float() / 255


def standardise(pixels: Float[Tensor, "images 1 height width"]) -> Float[Tensor, "images 1 height width"]:
    """Mean 0 and standard deviation 1 in each image, so that exposure does not matter; a constant image becomes 0."""
    centred = pixels - pixels.mean(dim=(1, 2, 3), keepdim=True)
    return centred / centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1e-4)


class Augmentation(NamedTuple):
    """What was drawn for each image of a batch: enough to make the same pixels again, on any device of one kind."""

    motion: Float[Tensor, "images 2 3"]
    """affine maps from places of moved films to places of films"""
    gamma: Float[Tensor, "images"]
    """contrast: grey levels are raised to it"""
    noise_seeds: Int[np.ndarray, "images"]
    """each image's noise comes from a generator of its own, so it depends on no other image of the batch"""

    def share(self, first: int, processes: int) -> "Augmentation":
        """Those of every `processes`-th image."""
        return Augmentation(*(part[first::processes] for part in self))


def draw_augmentation(images: int, generator: torch.Generator) -> Augmentation:
    """Small rotation, shift, zoom and change of contrast for each image, and a seed for its noise.

    No flip: left and right mean something.
    """

    def uniform(low: float, high: float) -> Float[Tensor, "images"]:
        return torch.rand(images, generator=generator) * (high - low) + low

    angle, zoom = uniform(-0.12, 0.12), uniform(0.9, 1.1)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    shift = torch.stack([uniform(-0.1, 0.1), uniform(-0.1, 0.1)], dim=1).unsqueeze(2)
    motion = torch.cat([rotation * zoom.view(-1, 1, 1), shift], dim=2)
    gamma = uniform(0.8, 1.25)
    return Augmentation(motion, gamma, torch.randint(2**62, (images,), generator=generator).numpy())


NOISE = 0.02
"""Standard deviation of the noise that training adds to grey levels."""
AUGMENTED_AT_ONCE = 16
"""Images that are augmented together: more would leave a CPU's cache between two operations."""


@torch.no_grad()
def augment(crops: UInt8[Tensor, "images height width"], drawn: Augmentation) -> Float[Tensor, "images 1 height width"]:
    """Crops moved, with a little other contrast and noise, in grey levels, on the device where they lie."""
    augmented = torch.empty(len(crops), 1, *crops.shape[1:], device=crops.device)
    generator = torch.Generator(crops.device)
    for start in range(0, len(crops), AUGMENTED_AT_ONCE):
        part = slice(start, start + AUGMENTED_AT_ONCE)
        moved = F.grid_sample(
            pixel_values(crops[part]), places(drawn.motion[part], *crops.shape[1:]),
            padding_mode="border", align_corners=False,
        )  # fmt: skip
        noise = torch.empty_like(moved)
        for image, seed in zip(noise, drawn.noise_seeds[part].tolist(), strict=True):
            image.normal_(std=NOISE, generator=generator.manual_seed(seed))
        # x ** gamma, three times as fast on a CPU
        augmented[part] = moved.clamp_(min=1e-3).log_().mul_(drawn.gamma[part].view(-1, 1, 1, 1)).exp_().add_(noise)
    return augmented


def places(motion: Float[Tensor, "images 2 3"], height: int, width: int) -> Float[Tensor, "images {height} {width} 2"]:
    """`F.affine_grid(motion, ..., align_corners=False)`, ten times as fast on a CPU: a sum of a row and a column."""
    across, down = ((torch.arange(length, device=motion.device) * 2 + 1) / length - 1 for length in (width, height))
    columns = motion[:, None, :, 0] * across.view(1, -1, 1)
    rows = motion[:, None, :, 1] * down.view(1, -1, 1) + motion[:, None, :, 2]
    return rows.unsqueeze(2) + columns.unsqueeze(1)


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
