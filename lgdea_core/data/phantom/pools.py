"""Other unpaired pools than a phantom's own: reports of another world, or more of both."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from lgdea_core.data.corpus import COLUMNS, Corpus, empty_table
from lgdea_core.data.pairing import combine, stable_hash
from lgdea_core.data.phantom.config import PhantomConfig
from lgdea_core.data.phantom.files import (
    VERSION,
    build_folder,
    build_phantom,
    read_corpus_tables,
    write_pictures,
    write_tables,
)
from lgdea_core.data.phantom.study import generate_study, plan_study

NAME = "phantom_mismatched"
ABUNDANT = "phantom_abundant"
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
        reports=_report_pool(reports, start=_behind(images), count=len(unpaired), root=root),
        name=NAME,
        withhold_boxed=False,
    )


def abundant_pools(config: PhantomConfig, root: Path, further: int, folder: Path, progress: bool = True) -> Corpus:
    """A phantom with further unpaired images, and as many further unpaired reports.

    They are of the studies behind its own, so no patient is in both. Val, test, and what is pairable stay as they are:
    for one seed and `paired_ratio` the known pairs are those of the phantom alone.

    Args:
        config: the world.
        root: folder of the phantom, new or built before.
        further: studies beyond its own; each gives its image and its report, without saying that they belong together.
        folder: of their images, new or built before.
        progress: show a bar.

    Returns:
        Ids begin with `phantom/`, `phantom_images/` or `phantom_reports/`; see `mismatched_pools` for labels.

    Raises:
        ValueError: there is no further study, or `folder` holds others.
    """
    if further < 1:
        raise ValueError(f"abundant_pools: expected at least one further study, got {further}")
    world, start = build_phantom(config, root, progress), _behind(config)

    def write(part: Path) -> None:
        indices = tqdm(range(start, start + further), desc="phantom", unit="study", disable=not progress)
        studies = (generate_study(config, index) for index in indices)
        tables = write_pictures(studies, config.findings, part, source="phantom")
        write_tables(tables | {"studies": tables["studies"].assign(split="train")}, part)

    build_folder(folder, {"version": VERSION, "config": config.to_json(), "further": further}, write, "abundant_pools")
    more = Corpus(name="phantom_images", root=folder, **read_corpus_tables(folder))
    reports = replace(more, name="phantom_reports")
    return combine(pairs=world, images=more, reports=reports, name=ABUNDANT, withhold_boxed=False)


def _behind(config: PhantomConfig) -> int:
    """The first index whose patient has no study in the phantom: a patient's two studies are 2n and 2n + 1."""
    return config.studies + config.studies % 2


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
