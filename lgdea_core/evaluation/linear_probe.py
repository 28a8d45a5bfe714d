"""Linear probe and fine-tuning on 1, 10 and 100 % of the labels (MGCA's protocol, which ASG follows)."""

import copy
import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from lgdea_core.crops import augment, draw_augmentation, pixel_values
from lgdea_core.encoders import ImageTower
from lgdea_core.evaluation.bootstrap import Bootstrap, Interval, auc_resamples
from lgdea_core.evaluation.classification import MIN_POSITIVES
from lgdea_core.evaluation.supervised import Examples, Fit, Schedule, fit, outputs
from lgdea_core.inference import IMAGES_AT_ONCE, evaluating, finite, full_precision

logger = logging.getLogger("lgdea")

PROBE = Schedule(learning_rate=5e-4, weight_decay=1e-6, batch_size=48, min_steps=10)
"""MGCA and ASG but for `min_steps`: their smallest shares give 4 (RSNA) to 46 (CheXpert) updates an epoch."""


class LabelledImages(NamedTuple):
    """Images of one split with their labels."""

    inputs: Tensor
    """features for a probe, crops for fine-tuning"""
    labels: Float[np.ndarray, "images findings"]
    """1, 0 or NaN (unknown)"""
    patients: list[str]
    """of each image"""


class ProbeScore(NamedTuple):
    """What a head learnt from a share of the labels is worth on the scored images."""

    metric: Literal["auc", "accuracy"]
    """macro AUC over `findings`, or accuracy"""
    interval: Interval
    """its value, with a 95 % interval over patients"""
    findings: tuple[str, ...]
    """that were scored"""
    left_out: tuple[str, ...]
    """without a positive (or without a negative) in the share, or with too few among the scored images"""
    fit: Fit


class TowerClassifier(nn.Module):
    """A copy of a tower with one linear layer on `pooled_features`, all of it trainable: fine-tuning.

    With a generator, images are moved and changed in training as they are in pretraining (`crops.augment`).
    """

    def __init__(self, tower: ImageTower, head: nn.Linear, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.tower, self.head = copy.deepcopy(tower), head.to(next(tower.parameters()).device)
        self.generator = generator

    def forward(self, crops: UInt8[Tensor, "images height width"]) -> Float[Tensor, "images findings"]:
        """Logits."""
        if not self.training or self.generator is None:
            return self.head(pooled_features(self.tower, crops))
        drawn = draw_augmentation(len(crops), self.generator)
        on_device = {name: getattr(drawn, name).to(crops.device) for name in ("motion", "gamma")}
        moved = augment(crops, drawn._replace(**on_device))
        return self.head(self.tower(moved).patch_features.mean(dim=1))


def pooled_features(tower: ImageTower, crops: UInt8[Tensor, "images height width"]) -> Float[Tensor, "images channels"]:
    """The tower's fused patch features, before any projection, averaged over the patches.

    MGCA probes a ResNet's last stage, averaged, or a ViT's CLS token; here the neck that fuses the stages belongs to
    the tower, and every method trains it.
    """
    return tower(pixel_values(crops)).patch_features.mean(dim=1)


@torch.no_grad()
def frozen_features(tower: ImageTower, crops: UInt8[Tensor, "images height width"]) -> Float[Tensor, "images channels"]:
    """`pooled_features` in evaluation mode, in float32 and in blocks: all that a probe needs of the images.

    They are computed once, from the centre crop: a deviation from MGCA, which draws random crops in every epoch.
    """
    device = next(tower.parameters()).device
    with evaluating(tower), full_precision(tower):
        return torch.cat([pooled_features(tower, block.to(device)).cpu() for block in crops.split(IMAGES_AT_ONCE)])


def multi_label_loss(
    logits: Float[Tensor, "images findings"], labels: Float[Tensor, "images findings"]
) -> Float[Tensor, ""]:
    """Binary cross entropy, mean over the labels that are known."""
    known = ~labels.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")
    return losses.where(known, 0).sum() / known.sum().clamp(min=1)


def standardise_features(
    features: Float[Tensor, "images channels"], training: Bool[np.ndarray, " images"]
) -> Float[Tensor, "images channels"]:
    """Features with mean 0 and deviation 1 over the training images, labelled or not; a constant channel becomes 0.

    A deviation from MGCA: 50 epochs of a small corpus are too few updates to make up for features of any scale.
    """
    seen = features[np.flatnonzero(training)]
    centred, spread = features - seen.mean(dim=0), seen.std(dim=0)
    return centred / spread.where(spread > 1e-6, torch.inf)


def linear_probe(
    train: LabelledImages,
    val: LabelledImages,
    test: LabelledImages,
    findings: Sequence[str],
    *,
    seed: int,
    classes: bool = False,
    schedule: Schedule = PROBE,
) -> ProbeScore:
    """What one linear layer on frozen features reaches.

    The layer starts at 0 (MGCA: at random): the problem is convex, and after few updates a random start would still
    be most of what is measured.

    Args:
        train: the labelled share; inputs are features.
        val: stops the training.
        test: is scored.
        findings: columns of the labels.
        seed: of the order of the images.
        classes: exactly one finding is true of an image: softmax and accuracy in place of sigmoids and macro AUC.
        schedule: of the training.

    Raises:
        ValueError: a label is none of 0, 1 and NaN, an image has no class or several, or no finding can be learnt and
            scored.
    """
    head = _zero_head(train.inputs.shape[1], len(findings))
    return _learn(head, (train, val, test), findings, seed, classes, schedule)


def fine_tune(
    tower: ImageTower,
    train: LabelledImages,
    val: LabelledImages,
    test: LabelledImages,
    findings: Sequence[str],
    *,
    seed: int,
    classes: bool = False,
    schedule: Schedule = PROBE,
    augmented: bool = False,
) -> ProbeScore:
    """What the whole tower reaches when it is trained on the labels too.

    Args as for `linear_probe`, where inputs are crops. No published protocol: MGCA probes, BenchX fine-tunes
    otherwise (SGD, cosine).

    Args:
        tower: copied, not changed.
        augmented: images are changed in training as in pretraining; a random tower is then a supervised classifier.
    """
    generator = torch.Generator().manual_seed(seed) if augmented else None
    module = TowerClassifier(tower, _zero_head(tower.width, len(findings)), generator)
    return _learn(module, (train, val, test), findings, seed, classes, schedule)


def _zero_head(channels: int, findings: int) -> nn.Linear:
    head = nn.Linear(channels, findings)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _learn(
    module: nn.Module,
    splits: tuple[LabelledImages, LabelledImages, LabelledImages],
    findings: Sequence[str],
    seed: int,
    classes: bool,
    schedule: Schedule,
) -> ProbeScore:
    train, val, test = splits
    _check_labels(splits, findings, classes)
    learnt = (train.labels == 1).any(axis=0) & (classes | (train.labels == 0).any(axis=0))
    if not learnt.any():
        raise ValueError(f"linear probe: none of {', '.join(findings)} has a positive and a negative in the share")
    left_out = tuple(name for name, kept in zip(findings, learnt, strict=True) if not kept)
    if left_out:
        logger.info("linear probe: nothing to learn %s from in %d images", ", ".join(left_out), len(train.labels))
    loss = F.cross_entropy if classes else multi_label_loss  # labels of classes are one-hot
    shown = learnt | classes  # a class without an image stays a wrong answer, a finding without one is not asked for
    fitted = fit(module, _examples(train, shown), _examples(val, shown), loss, schedule, seed)
    scores = finite(outputs(module, test.inputs).numpy(), "linear probe", "logits")
    if classes:
        correct = (scores.argmax(axis=1) == test.labels.argmax(axis=1)).astype(float)
        return ProbeScore("accuracy", Bootstrap().mean(correct, test.patients), tuple(findings), left_out, fitted)
    scored = learnt & ((test.labels == 1).sum(axis=0) >= MIN_POSITIVES) & (test.labels == 0).any(axis=0)
    if not scored.any():
        raise ValueError(f"linear probe: no finding has {MIN_POSITIVES} positives among {len(test.labels)} test images")
    asked = test.labels[:, scored], scores[:, scored], test.patients
    _, interval = Bootstrap().columns([auc_resamples] * int(scored.sum()), *asked)
    return ProbeScore("auc", interval, tuple(np.array(findings)[scored]), left_out, fitted)


def _check_labels(splits: Sequence[LabelledImages], findings: Sequence[str], classes: bool) -> None:
    values = {value for split in splits for value in np.unique(split.labels[~np.isnan(split.labels)]).tolist()}
    if not values <= {0.0, 1.0}:
        raise ValueError(
            f"linear probe: labels of {', '.join(findings)} must be 0, 1 or NaN, got the values {sorted(values)}; "
            "decide first what an uncertain label (-1) means"
        )
    unclear = sum(int(((split.labels == 1).sum(axis=1) != 1).sum()) for split in splits)
    unknown = any(np.isnan(split.labels).any() for split in splits)
    if classes and (unclear or unknown):
        raise ValueError(
            f"linear probe: exactly one of {', '.join(findings)} must be true of an image and the others 0, but "
            f"{unclear} images have none or several, or a label is unknown; take lists that name every class"
        )


def _examples(split: LabelledImages, shown: Bool[np.ndarray, " findings"]) -> Examples:
    """Labels of the other findings become unknown."""
    return Examples(split.inputs, torch.from_numpy(np.where(shown, split.labels, np.nan).astype(np.float32)))
