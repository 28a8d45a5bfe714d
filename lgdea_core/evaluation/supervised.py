"""How a task is learnt from a share of the labels: AdamW, early stopping, best checkpoint (MGCA's protocol)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from lgdea_core.data.pairing import stable_hash
from lgdea_core.inference import IMAGES_AT_ONCE

FROZEN = "frozen"
"""Name of the protocol of MGCA and ASG: the tower does not learn from the labels."""
AUGMENTED = "fine-tuned, augmented"
"""Name of the protocol under which the tower learns from the labels as methods learn from pairs: on moved images."""
LABEL_RATIOS = (0.01, 0.1, 1.0)
"""Shares of the labelled training studies in the papers' tables."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast a labelled task is learnt."""

    learning_rate: float
    weight_decay: float
    batch_size: int
    max_epochs: int = 50
    """MGCA, ASG"""
    patience: int = 10
    """epochs without a lower validation loss after which training stops (MGCA, ASG)"""
    min_steps: int = 1
    """updates an epoch has at least: a small share is gone through again and again within it"""


class Examples(NamedTuple):
    """Inputs and what is to be learnt of each."""

    inputs: Num[Tensor, "images ..."]
    targets: Float[Tensor, "images ..."]


class Fit(NamedTuple):
    """How a training went."""

    losses: list[float]
    """validation loss after each epoch"""
    steps: int
    """optimiser updates, those after the best epoch among them"""

    @property
    def best_epoch(self) -> int:
        """Epoch, from 0, whose weights were kept: the first with the lowest validation loss."""
        return self.losses.index(min(self.losses))


def label_share(study_ids: Sequence[str], ratio: float, seed: int) -> list[str]:
    """The studies whose labels may be seen: `ratio` of them, rounded, at least one.

    For one seed a smaller share lies inside a larger one, and no study's place depends on the others.

    Args:
        study_ids: labelled training studies.
        ratio: in (0, 1].
        seed: another seed, another share.

    Raises:
        ValueError: no study, or a ratio outside (0, 1].
    """
    if not 0 < ratio <= 1 or not len(study_ids):
        raise ValueError(f"label_share: expected studies and a ratio in (0, 1], got {len(study_ids)} and {ratio}")
    order = sorted(set(study_ids), key=lambda study_id: stable_hash(seed, f"labels:{study_id}"))
    return order[: max(1, round(ratio * len(order)))]


def fit(
    module: nn.Module,
    train: Examples,
    val: Examples,
    loss: Callable[[Tensor, Tensor], Float[Tensor, ""]],
    schedule: Schedule,
    seed: int,
) -> Fit:
    """Train what of the module requires a gradient, until the validation loss stops falling; the best weights stay.

    Args:
        module: changed in place, and in evaluation mode afterwards.
        train: the labelled share.
        val: decides when to stop and which weights stay.
        loss: of outputs and targets; validation images count as one batch, whose loss need not be their mean.
        schedule: of the training.
        seed: of the order of the images.

    Raises:
        ValueError: there is nothing to train or to validate on, or a batch is one image, too few for batch norm.
        RuntimeError: a validation loss is not finite.
    """
    if not len(train.inputs) or not len(val.inputs):
        raise ValueError(f"fit: expected training and validation images, got {len(train.inputs)}, {len(val.inputs)}")
    generator, device = torch.Generator().manual_seed(seed), next(module.parameters()).device
    learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    best, losses, steps = {}, [], 0
    for epoch in range(schedule.max_epochs):
        module.train()
        for rows in epoch_rows(len(train.inputs), schedule, generator):
            optimizer.zero_grad()
            try:
                found = module(train.inputs[rows].to(device))
            except ValueError as error:  # of batch norm, of small images
                if len(rows) > 1:
                    raise
                raise ValueError(
                    f"fit: batch norm cannot learn from a batch of one image ({len(train.inputs)} images in batches of "
                    f"{schedule.batch_size}); take a larger share of the labels or another batch size"
                ) from error
            loss(found, train.targets[rows].to(device)).backward()
            optimizer.step()
            steps += 1
        found = float(loss(outputs(module, val.inputs), val.targets))
        if not math.isfinite(found):
            raise RuntimeError(
                f"the validation loss of epoch {epoch} is {found}; lower the learning rate or mend the labels"
            )
        if not losses or found < min(losses):
            best = {name: value.clone() for name, value in module.state_dict().items()}
        losses.append(found)
        if epoch - losses.index(min(losses)) >= schedule.patience:
            break
    module.load_state_dict(best)
    module.eval()
    return Fit(losses, steps)


def epoch_rows(images: int, schedule: Schedule, generator: torch.Generator) -> Iterator[Int[Tensor, "batch"]]:
    """Rows of every batch of an epoch; the last one is smaller where the batch size does not divide the images."""
    steps = math.ceil(images / schedule.batch_size)
    rounds = max(1, math.ceil(schedule.min_steps / steps))
    for _ in range(rounds):
        yield from torch.randperm(images, generator=generator).split(schedule.batch_size)


@torch.no_grad()
def outputs(module: nn.Module, inputs: Num[Tensor, "images ..."]) -> Float[Tensor, "images ..."]:
    """What a module says of all inputs, in evaluation mode and in blocks; on the CPU."""
    module.eval()
    device = next(module.parameters()).device
    return torch.cat([module(block.to(device)).cpu() for block in inputs.split(IMAGES_AT_ONCE)])
