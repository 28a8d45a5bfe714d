"""Pools that do not match: unpaired images of one phantom world, unpaired reports of another."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from lgdea_core.data.corpus import COLUMNS, Corpus, empty_table
from lgdea_core.data.pairing import combine, stable_hash
from lgdea_core.data.phantom.config import PhantomConfig
from lgdea_core.data.phantom.files import build_phantom
from lgdea_core.data.phantom.study import plan_study

NAME = "phantom_mismatched"
SHIFTED_PREVALENCE = {
    "atelectasis": 0.10,
    "cardiomegaly": 0.10,
    "consolidation": 0.26,
    "edema": 0.07,
    "lung opacity": 0.07,
    "pleural effusion": 0.11,
    "pneumonia": 0.28,
    "pneumothorax": 0.26,
    "nodule": 0.26,
    "hernia": 0.05,
}
"""Every finding at about half or about twice its `DEFAULT_PREVALENCE`: a pool of reports from another clinic."""


def mismatched_pools(
    images: PhantomConfig, reports: PhantomConfig, root: Path, paired_ratio: float, progress: bool = True
) -> Corpus:
    """Known pairs and unpaired images of one world with unpaired reports of another.

    The first world is built as usual. Of its training studies a share keeps image and report, by whole patients; the
    others keep the image only, and one report of the second world takes the place of each of theirs. The reports come
    from indices behind those of the first world, so no patient is in both. Studies of val and test keep both sides.

    Train on it with `paired_ratio=1`: what is pairable is what is to be known, and no hidden pair is left, for no
    unpaired image has its report in the pool. The pools are then as large as those of the first world alone at
    `paired_ratio`; for one seed the pairs of a smaller ratio are among those of a larger one.

    Args:
        images: the world of pairs, unpaired images, val and test.
        reports: the world of unpaired reports, such as `replace(images, prevalence=SHIFTED_PREVALENCE)`; its `studies`
            is not looked at.
        root: folder of the first world, new or built before.
        paired_ratio: share of the first world's training studies whose pair is known, strictly between 0 and 1.
        progress: show a bar.

    Returns:
        Ids begin with `phantom/`, `phantom_images/` or `phantom_reports/`; labels of a study are what its picture
        shows, whether or not the picture is there.

    Raises:
        ValueError: the ratio is out of range, or seeds or findings of the worlds differ.
    """
    if not 0 < paired_ratio < 1:
        raise ValueError(f"mismatched_pools: paired_ratio must lie strictly between 0 and 1, got {paired_ratio}")
    if (images.seed, images.findings) != (reports.seed, reports.findings):
        raise ValueError("mismatched_pools: both worlds need one seed and the same findings")
    world = build_phantom(images, root, progress)
    # Training studies beyond the share that is paired; patients in a seeded order, and never parted.
    training = world.studies[world.studies["split"] == "train"]
    order = training["patient_id"].map(lambda patient: stable_hash(images.seed, patient))
    ranked = training.loc[order.sort_values(kind="stable").index]
    kept = ranked["patient_id"].iloc[: max(1, round(paired_ratio * len(ranked)))]
    unpaired = set(training.loc[~training["patient_id"].isin(set(kept)), "study_id"])
    paired = world.subset(set(world.studies["study_id"]) - unpaired)
    return combine(
        pairs=paired,
        images=replace(world.subset(unpaired), name="phantom_images"),
        reports=_report_pool(reports, start=images.studies + images.studies % 2, count=len(unpaired), root=root),
        name=NAME,
        withhold_boxed=False,
    )


def _report_pool(config: PhantomConfig, start: int, count: int, root: Path) -> Corpus:
    """Reports without films: nothing is painted."""
    plans = [plan_study(config, start + number) for number in range(count)]
    studies = [(plan.study_id, plan.patient_id, "train", plan.report) for plan in plans]
    labels = [
        (plan.study_id, finding, float(finding in plan.truth.findings)) for plan in plans for finding in config.findings
    ]
    return Corpus(
        name="phantom_reports",
        root=root,
        studies=pd.DataFrame(studies, columns=list(COLUMNS["studies"])),
        images=empty_table("images"),
        labels=pd.DataFrame(labels, columns=list(COLUMNS["labels"])),
    )
