"""Region boxes for films that have none: a light detector on our image tower, trained where boxes are known.

`python -m lgdea_core.region_detector --output FOLDER` trains one on the phantom, prints how good it is and saves it;
notebook 07 takes the folder as its parameter `region_detector`:

    films = with_detected_regions(films, "FOLDER")                   # inputs of a corpus without boxes

What it learns on the phantom's drawn anatomy it has not been measured to find on real films: look at its boxes first.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt8
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert, box_iou, generalized_box_iou_loss
from tqdm.auto import tqdm
from transformers import AutoConfig

from lgdea_core.artifacts import project_root
from lgdea_core.config import PRESETS, RunConfig
from lgdea_core.data.batches import augment, grey_levels, pixel_values, random_motion, standardise
from lgdea_core.data.corpus import COLUMNS
from lgdea_core.data.images import crop_frame
from lgdea_core.data.regions import crop_boxes, moved_boxes
from lgdea_core.encoders import ImageTower, image_tower_config
from lgdea_core.inference import IMAGES_AT_ONCE, evaluating
from lgdea_core.stages import Inputs, load_inputs
from lgdea_core.training import seed_everything
from lgdea_core.vocabulary import REGIONS

logger = logging.getLogger("lgdea")

L1_WEIGHT, GIOU_WEIGHT = 5.0, 2.0
"""Weights of the two box losses (DETR, Carion et al., ECCV 2020)."""
VISIBLE = 0.5
"""Probability from which a region counts as in view."""
DETECTED = "region_detector"
"""`source` of a detected box, a column beyond those of `Corpus.regions`."""
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Architecture of a `RegionDetector`."""

    image: dict[str, Any] = field(default_factory=dict)
    """transformers configuration of the image tower as a dictionary"""
    dim: int = 128
    image_size: int = 64


class RegionDetector(nn.Module):
    """One box and one visibility for each of `REGIONS`: each region pools the patches by its own attention.

    a_r = softmax_p(w_r . f_p),   (box, visibility)_r = W_r sum_p a_rp f_p + b_r
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = ImageTower(AutoConfig.for_model(**config.image), config.dim, config.image_size)
        width = self.tower.width
        self.attention = nn.Linear(width, len(REGIONS))
        self.weight = nn.Parameter(torch.randn(len(REGIONS), width, 5) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(len(REGIONS), 5))

    @classmethod
    def of(cls, config: RunConfig) -> "RegionDetector":
        """One with random weights on a run's image tower."""
        size = config.data.image_size
        image = json.loads(image_tower_config(config.model.image_tower, size).to_json_string())
        return cls(DetectorConfig(image=image, dim=config.model.dim, image_size=size))

    def save_pretrained(self, folder: Path | str) -> None:
        """Write configuration and weights (safetensors) into a folder, which is made."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self, str(folder / WEIGHTS_FILE))
        (folder / CONFIG_FILE).write_text(
            json.dumps(asdict(self.config), indent=2) + "\n"
        )  # last: it marks a whole one

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "RegionDetector":
        """Read what `save_pretrained` wrote.

        Raises:
            FileNotFoundError: the folder holds no detector.
        """
        folder = Path(folder)
        if not (folder / CONFIG_FILE).is_file():
            raise FileNotFoundError(
                f"{folder}: no region detector there; make one: python -m lgdea_core.region_detector --output {folder}"
            )
        detector = cls(DetectorConfig(**json.loads((folder / CONFIG_FILE).read_text())))
        load_model(detector, str(folder / WEIGHTS_FILE))
        return detector.eval()

    def forward(
        self, pixel_values: Float[Tensor, "images 1 height width"]
    ) -> tuple[Float[Tensor, "images regions 4"], Float[Tensor, "images regions"]]:
        """Boxes x_min, y_min, x_max, y_max as shares of the crop's side, and logits of "the region is in view"."""
        patches = self.tower(pixel_values).patch_features
        pooled = self.attention(patches).softmax(dim=1).transpose(1, 2) @ patches
        answers = torch.einsum("irc,rca->ira", pooled, self.weight) + self.bias
        return box_convert(answers[..., :4].sigmoid(), "cxcywh", "xyxy"), answers[..., 4]


def train_detector(
    config: RunConfig,
    inputs: Inputs,
    *,
    steps: int = 300,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    progress: bool = True,
) -> RegionDetector:
    """Train a detector on the region boxes of the training split.

    Args:
        config: gives image tower, image size and seed.
        inputs: a corpus with region boxes.
        steps: optimiser updates.
        batch_size: films a step.
        learning_rate: its largest value; it rises and falls once.
        progress: show a bar.

    Raises:
        ValueError: the training split has no region boxes.
    """
    crops, boxes = _split(inputs, "train")
    if not boxes.isfinite().any():
        raise ValueError(
            f"corpus {inputs.corpus.name!r}: no region boxes in split train, so no detector can be trained"
        )
    seed_everything(config.seed)
    detector = RegionDetector.of(config)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    generator = torch.Generator().manual_seed(config.seed)
    for _ in tqdm(range(steps), unit="step", desc="detector", disable=not progress):
        rows = torch.randperm(len(crops), generator=generator)[:batch_size]
        motion = random_motion(len(rows), generator)
        films = standardise(augment(grey_levels(crops[rows]), motion, generator))
        loss = detection_loss(*detector(films), moved_boxes(boxes[rows], motion))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return detector.eval()


def detection_loss(
    boxes: Float[Tensor, "images regions 4"],
    visibility: Float[Tensor, "images regions"],
    truth: Float[Tensor, "images regions 4"],
) -> Float[Tensor, ""]:
    """DETR's box losses on regions in view, and binary cross entropy of being in view.

        5 |b - b*|_1 + 2 (1 - GIoU(b, b*)), mean over regions in view, + BCE(v, b* exists), mean over all

    Args:
        boxes: `b`, as shares of the side.
        visibility: `v`, logits.
        truth: `b*`; NaN where the region is out of view.
    """
    seen = truth.isfinite().all(dim=2)
    found, wanted = boxes[seen], truth[seen]
    distance = (found - wanted).abs().sum(dim=1).sum() / seen.sum().clamp(min=1)
    overlap = generalized_box_iou_loss(found, wanted, reduction="sum") / seen.sum().clamp(min=1)
    existence = F.binary_cross_entropy_with_logits(visibility, seen.to(visibility.dtype))
    return L1_WEIGHT * distance + GIOU_WEIGHT * overlap + existence


@torch.no_grad()
def predict_boxes(
    detector: RegionDetector, crops: UInt8[Tensor, "images height width"]
) -> Float[Tensor, "images regions 4"]:
    """Boxes as shares of the crop's side, cut at its border; NaN where a region seems out of view."""
    device, parts = next(detector.parameters()).device, []
    with evaluating(detector):
        for block in crops.split(IMAGES_AT_ONCE):
            boxes, visibility = detector(pixel_values(block.to(device)))
            boxes = boxes.clamp(0, 1).masked_fill((visibility.sigmoid() < VISIBLE).unsqueeze(2), torch.nan)
            parts.append(boxes.cpu())
    return torch.cat(parts)


def detect_regions(detector: RegionDetector, inputs: Inputs) -> pd.DataFrame:
    """Table `Corpus.regions` of all films, by the detector, and `source`; boxes count in pixels of the film.

    Raises:
        ValueError: the crops have not the size that the detector learnt from.
    """
    size = inputs.store.pixels.shape[1]
    if size != detector.config.image_size:
        raise ValueError(
            f"region detector: it learnt from crops of {detector.config.image_size} px, these have {size}; "
            "train one with the preset of this run"
        )
    images = inputs.corpus.images
    boxes = predict_boxes(detector, inputs.crops(tuple(images["image_id"]))).numpy()
    rows = []
    for image, own in zip(images.itertuples(), boxes, strict=True):
        frame = crop_frame(image.height, image.width, size)
        offset = np.array([frame.left, frame.top] * 2)
        for number in np.isfinite(own).all(axis=1).nonzero()[0]:
            corners = own[number] * frame.side + offset
            rows.append((image.image_id, image.study_id, REGIONS[number], *corners.tolist(), image.width, image.height))
    return pd.DataFrame(rows, columns=list(COLUMNS["regions"])).assign(source=DETECTED)


def with_detected_regions(inputs: Inputs, folder: Path | str) -> Inputs:
    """The inputs with a saved detector's boxes for the films that have no region box; `source` tells which these are.

    Args:
        inputs: films with boxes of the corpus keep them.
        folder: of the detector; a relative one starts at the repository.

    Raises:
        FileNotFoundError: the folder holds no detector.
        ValueError: every film has region boxes, or the crops have not the detector's size.
    """
    corpus, known = inputs.corpus, inputs.corpus.regions
    bare = ~corpus.images["image_id"].isin(known["image_id"])
    if not bare.any():
        raise ValueError(f"corpus {corpus.name!r}: every film has region boxes; leave the region detector out")
    detector = RegionDetector.from_pretrained(project_root() / folder)
    detector.to("cuda" if torch.cuda.is_available() else "cpu")
    found = detect_regions(detector, replace(inputs, corpus=replace(corpus, images=corpus.images[bare])))
    logger.info("regions: %d boxes by the detector in %d films that had none", len(found), bare.sum())
    regions = pd.concat([known.assign(source=corpus.name), found], ignore_index=True) if len(known) else found
    return replace(inputs, corpus=replace(corpus, regions=regions))


def detection_quality(detector: RegionDetector, inputs: Inputs, split: str = "test") -> pd.DataFrame:
    """Mean IoU of each region on a split, beside that of one box for all films: the mean box of the training split.

    A region that the detector takes to be out of view, although it is in view, counts with IoU 0.

    Returns:
        Columns region, iou, iou_constant, n (films that show it); the last row is their mean over regions.
    """
    crops, truth = _split(inputs, split)
    constant = _split(inputs, "train")[1].nanmean(dim=0).expand_as(truth)
    found = predict_boxes(detector, crops)
    seen = truth.isfinite().all(dim=2)
    table = pd.DataFrame(
        {
            "region": REGIONS,
            "iou": mean_iou(found, truth, seen),
            "iou_constant": mean_iou(constant, truth, seen),
            "n": seen.sum(dim=0).numpy(),
        }
    )
    means = table[["iou", "iou_constant"]].mean()
    return pd.concat([table, pd.DataFrame([{"region": "mean", **means, "n": len(crops)}])], ignore_index=True)


def mean_iou(
    found: Float[Tensor, "images regions 4"],
    truth: Float[Tensor, "images regions 4"],
    seen: Bool[Tensor, "images regions"],
) -> Float[np.ndarray, "regions"]:
    """Mean over the films that show it of each region's IoU, NaN where none does; NaN boxes overlap nothing."""
    pairs = zip(found.nan_to_num(0.0), truth.nan_to_num(0.0), strict=True)
    overlap = torch.stack([box_iou(own, wanted).diagonal() for own, wanted in pairs]).nan_to_num(0.0)
    return ((overlap * seen).sum(dim=0) / seen.sum(dim=0)).numpy()


def _split(
    inputs: Inputs, split: str
) -> tuple[UInt8[Tensor, "images height width"], Float[Tensor, "images regions 4"]]:
    """Crops and region boxes of a split."""
    part = inputs.corpus.split(split)
    images = part.images
    return inputs.crops(tuple(images["image_id"])), torch.from_numpy(crop_boxes(part.regions, images))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a detector on the phantom of a seed, print its IoU on held-out studies region by region, and save it."""
    parser = argparse.ArgumentParser(prog="python -m lgdea_core.region_detector", description=main.__doc__)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="demo", help="gives image tower and phantom")
    parser.add_argument("--seed", type=int, default=0, help="of phantom, weights and batches")
    parser.add_argument("--steps", type=int, default=300, help="optimiser updates")
    parser.add_argument("--output", type=Path, help="folder for the detector (default: it is not kept)")
    options = parser.parse_args(arguments)
    config = RunConfig.from_preset(options.preset, seed=options.seed, corpus="phantom")
    inputs = load_inputs(config)
    detector = train_detector(config, inputs, steps=options.steps)
    if options.output:
        detector.save_pretrained(options.output)
        config.save(options.output / "run_config.json")
    quality = detection_quality(detector, inputs)
    sys.stdout.write(quality.round(3).to_string(index=False) + "\n")


if __name__ == "__main__":
    main()
