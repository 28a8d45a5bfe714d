"""The labelled tasks of a corpus, and what a tower is worth on them at each share of the labels."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from lgdea_core.data.corpus import Corpus, label_table
from lgdea_core.data.images import ImageStore
from lgdea_core.encoders import ImageTower
from lgdea_core.evaluation.linear_probe import (
    LabelledImages,
    ProbeScore,
    fine_tune,
    frozen_features,
    linear_probe,
    standardise_features,
)
from lgdea_core.evaluation.segmentation import (
    RSNA,
    SIIM,
    SegmentationScore,
    SegmentedImages,
    balanced_rows,
    lesion_masks,
    segment,
)
from lgdea_core.evaluation.supervised import AUGMENTED, FROZEN, LABEL_RATIOS, Schedule, label_share
from lgdea_core.vocabulary import CHEXPERT_FIVE, NIH_FINDINGS, PHANTOM_FINDINGS

DRAW_STRIDE = 1000
"""Between the seeds of two draws of a share: no draw of one seed is one of another."""


@dataclass(frozen=True, kw_only=True)
class ProbeTask:
    """Which findings of a corpus a probe learns."""

    findings: tuple[str, ...]
    classes: bool = False
    """exactly one is true of a film: scored by accuracy"""
    blank_is_absent: bool = False
    """a finding that is not mentioned counts as absent (MGCA)"""
    options: dict[str, str] = field(default_factory=dict)
    """of the corpus's loader"""
    ratios: tuple[float, ...] = LABEL_RATIOS


@dataclass(frozen=True, kw_only=True)
class SegmentationTask:
    """Which pixels of a corpus a decoder learns."""

    truth: Literal["masks", "boxes"]
    """masks, or boxes filled"""
    finding: str | None
    """whose, on the films labelled for it; None: any lesion, on all films"""
    schedule: Schedule
    balanced: bool = False
    """train on all films of the share with a lesion and on as many without (MGCA on SIIM)"""
    ratios: tuple[float, ...] = LABEL_RATIOS


PROBE_TASKS = {
    "phantom": ProbeTask(findings=PHANTOM_FINDINGS),
    "nih": ProbeTask(findings=tuple(NIH_FINDINGS.values()), ratios=(0.1, 1.0)),
    "openi": ProbeTask(findings=tuple(NIH_FINDINGS.values()), ratios=(0.1, 1.0)),
    "chexpert": ProbeTask(findings=CHEXPERT_FIVE, blank_is_absent=True, options={"uncertain": "mgca"}),
    "rsna": ProbeTask(findings=("lung opacity",)),
    "covidx": ProbeTask(findings=("no finding", "pneumonia", "covid-19"), classes=True, blank_is_absent=True),
}
"""Macro AUC, on COVIDx accuracy. The phantom is that of the run's seed, Open-i has the split of world "openi". Of NIH a
sample of some hundred films is assumed, one percent of which would be a few; whole, it takes `LABEL_RATIOS`."""
SEGMENTATION_TASKS = {
    "phantom": SegmentationTask(truth="masks", finding=None, schedule=replace(RSNA, min_steps=10), ratios=(0.01, 0.1)),
    "nih": SegmentationTask(
        truth="boxes", finding="lung opacity", schedule=replace(RSNA, min_steps=10), ratios=(0.1, 1.0)
    ),
    "rsna": SegmentationTask(truth="boxes", finding="lung opacity", schedule=RSNA),
    "siim": SegmentationTask(truth="masks", finding="pneumothorax", schedule=SIIM, balanced=True),
}
"""Any lesion of the phantom (all its films take a decoder minutes, so they are not among the shares); on films of NIH
the boxes of RSNA, where they are joined. `min_steps`: see `linear_probe.PROBE`."""


@dataclass(frozen=True, kw_only=True)
class Films:
    """A corpus and the crops of its readable films."""

    corpus: Corpus
    store: ImageStore

    @property
    def table(self) -> pd.DataFrame:
        """`Corpus.images` of the readable films, with the split and the patient of each."""
        images = self.corpus.images[self.corpus.images["image_id"].isin(self.store.rows)]
        studies = self.corpus.studies[["study_id", "patient_id", "split"]]
        return images.merge(studies, on="study_id", how="left", validate="many_to_one")

    def crops(self, images: pd.DataFrame) -> UInt8[Tensor, "images height width"]:
        """Crops of some rows of the table."""
        return torch.from_numpy(self.store.pixels[[self.store.rows[image_id] for image_id in images["image_id"]]])


def probe_scores(
    films: Films, task: ProbeTask, tower: ImageTower, protocol: str, ratios: Sequence[float], seed: int, draws: int = 1
) -> list[ProbeScore]:
    """A probe, or a fine-tuned tower, for each share of the labels.

    Args:
        films: of the corpus.
        task: its findings.
        tower: not changed.
        protocol: `FROZEN`, or fine-tuned, `AUGMENTED` or without augmentation.
        ratios: shares of the labels.
        seed: of the share and of the order of the images.
        draws: how often each share is drawn, and learnt from, anew; the first draw is the one of `draws=1`.

    Returns:
        All draws of the first share, then those of the next.
    """
    labels = label_table(films.corpus)[list(task.findings)]
    labels = labels.fillna(0.0) if task.blank_is_absent else labels
    table = films.table
    table = table[table["study_id"].isin(labels.index)].reset_index(drop=True)
    values, inputs = labels.loc[table["study_id"]].to_numpy(dtype=np.float64), films.crops(table)
    if protocol == FROZEN:
        inputs = standardise_features(frozen_features(tower, inputs), table["split"].eq("train").to_numpy())

    def part(chosen: pd.Series) -> LabelledImages:
        rows = np.flatnonzero(chosen)
        return LabelledImages(inputs[rows], values[rows], table["patient_id"].iloc[rows].tolist())

    learn = linear_probe if protocol == FROZEN else partial(fine_tune, tower, augmented=protocol == AUGMENTED)
    held_out = [part(table["split"].eq(split)) for split in ("val", "test")]
    seeds = [seed + DRAW_STRIDE * draw for draw in range(draws)]
    return [
        learn(part(_share(table, ratio, drawn)), *held_out, task.findings, seed=drawn, classes=task.classes)
        for ratio in ratios
        for drawn in seeds
    ]


def segmentation_scores(
    films: Films, task: SegmentationTask, tower: ImageTower, protocol: str, ratios: Sequence[float], seed: int
) -> list[SegmentationScore]:
    """A decoder for each share of the labels."""
    table = films.table
    if task.finding is not None:
        known = label_table(films.corpus)[task.finding].dropna().index
        table = table[table["study_id"].isin(known)].reset_index(drop=True)
    crops = films.crops(table)
    masks = lesion_masks(films.corpus, table["image_id"].tolist(), crops.shape[1], task.truth, task.finding)

    def part(rows: Int[np.ndarray, "rows"]) -> SegmentedImages:
        return SegmentedImages(crops[rows], masks[rows], table["patient_id"].iloc[rows].tolist())

    def share(ratio: float) -> SegmentedImages:
        rows = np.flatnonzero(_share(table, ratio, seed))
        kept = balanced_rows(masks[rows].any(axis=(1, 2)), seed) if task.balanced else np.arange(len(rows))
        return part(rows[kept])

    held_out = [part(np.flatnonzero(table["split"].eq(split))) for split in ("val", "test")]
    tuned = protocol != FROZEN
    return [segment(tower, share(ratio), *held_out, task.schedule, seed=seed, tuned=tuned) for ratio in ratios]


def _share(table: pd.DataFrame, ratio: float, seed: int) -> pd.Series:
    """Whether a film's labels may be seen."""
    return table["study_id"].isin(label_share(table.loc[table["split"] == "train", "study_id"].tolist(), ratio, seed))
