"""Which images and reports training may use, and which pairs it knows."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lgdea_core.data.corpus import COLUMNS, Corpus, empty_table, quoted
from lgdea_core.paths import write_text
from lgdea_core.vocabulary import SPLITS

logger = logging.getLogger("lgdea")

TEXT_SIDE = ("studies", "labels")
"""tables that a source of reports brings; the others are its films'"""


@dataclass(frozen=True, kw_only=True)
class Pools:
    """Training's view of a corpus: two pools and the known pairs between them.

    Unpaired images and reports stand in the pools in an order that says nothing of their true pairing.
    """

    image_ids: tuple[str, ...]
    """all training images, those with a known pair first"""
    report_ids: tuple[str, ...]
    """study ids of all training reports, those with a known pair first"""
    seed_pairs: pd.DataFrame
    """columns image_id, report_id: the known pairs"""
    hidden_pairs: pd.DataFrame
    """columns image_id, report_id: true pairs hidden from training, only to measure relations; may be empty"""


def split_by_patient(studies: pd.DataFrame, fractions: tuple[float, float, float], seed: int) -> pd.DataFrame:
    """The same studies with a column `split`; all studies of a patient fall into one split.

    Patients are ordered by a hash of seed and patient_id and cut by `fractions`, so neither the order of the rows nor
    the platform matters. A split with a fraction above 0 gets at least one patient where there are enough.

    Args:
        studies: has a column patient_id.
        fractions: of the patients, for train, val and test; they sum to 1.
        seed: another seed, another split.

    Raises:
        ValueError: fractions outside [0, 1] or not summing to 1.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions of {SPLITS} must lie in [0, 1] and sum to 1, got {fractions}")
    patients = sorted(set(studies["patient_id"]), key=lambda patient: (stable_hash(seed, patient), patient))
    wanted = sum(fraction > 0 for fraction in fractions)
    counts = [round(fraction * len(patients)) for fraction in fractions]
    if len(patients) >= wanted:
        counts = [max(count, 1) if fraction > 0 else 0 for count, fraction in zip(counts, fractions, strict=True)]
    counts[int(np.argmax(fractions))] += len(patients) - sum(counts)  # rounding goes to the largest split
    order = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    split_of = dict(zip(patients, order, strict=True))
    return studies.assign(split=[split_of[patient] for patient in studies["patient_id"]])


def hold_out(studies: pd.DataFrame, held_out: pd.Series, val_fraction: float, seed: int) -> pd.DataFrame:
    """Studies of a published test split behind the others, which `split_by_patient` divides into train and val.

    Args:
        studies: has a column patient_id; where it has a column split, the held-out ones keep theirs.
        held_out: True for a study that is not divided.
        val_fraction: share of the other patients that becomes val.
        seed: of that choice.
    """
    divided = split_by_patient(studies[~held_out], (1 - val_fraction, val_fraction, 0.0), seed)
    kept = studies[held_out].assign(split=studies.get("split", "test"))
    return pd.concat([divided, kept], ignore_index=True)


def stable_hash(seed: int, key: str) -> str:
    """Hexadecimal hash of a seed and an id, the same on every machine."""
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()


def limit_pairs(corpus: Corpus, paired_ratio: float | int, seed: int) -> Pools:
    """Keep the pairing of a share of the training studies and hide the rest.

    A study of split train with a report and an image is pairable; `paired_ratio` of these studies, rounded, become
    seed pairs (every image of the study with its report). All other training images and reports, those of image-only
    and report-only studies among them, stand in two independently shuffled pools. For one seed the studies of a smaller
    ratio are among those of a larger one.

    Args:
        corpus: only its training split is looked at.
        paired_ratio: share of the pairable studies whose pair is known, in [0, 1].
        seed: of the choice and of both shuffles.

    Raises:
        ValueError: the ratio is outside [0, 1], nothing is pairable, or no pair remains.
    """
    if not 0 <= paired_ratio <= 1:
        raise ValueError(f"paired_ratio must lie in [0, 1], got {paired_ratio}")
    train = corpus.split("train")
    reports = sorted(train.studies.loc[train.studies["report"].notna(), "study_id"])
    pairs = train.images.loc[train.images["study_id"].isin(set(reports)), ["image_id", "study_id"]]
    pairs = pairs.rename(columns={"study_id": "report_id"}).sort_values("image_id", ignore_index=True)
    pairable = _shuffled(sorted(set(pairs["report_id"])), seed, "pairs")
    kept = pairable[: round(paired_ratio * len(pairable))]
    if not pairable:
        raise ValueError(
            f"corpus {corpus.name!r}: no training study has both an image and a report, so no pair can be known; "
            "name a corpus with pairs first, as in PAIRS+IMAGES+REPORTS"
        )
    if not kept:
        raise ValueError(
            f"corpus {corpus.name!r}: paired_ratio {paired_ratio} of {len(pairable)} training studies with image and "
            f"report leaves no pair; set it to {1 / len(pairable):.2g} or more"
        )
    known = pairs["report_id"].isin(set(kept))
    rank = {report_id: position for position, report_id in enumerate(kept)}
    seed_pairs = pairs[known].sort_values("report_id", key=lambda ids: ids.map(rank), kind="stable", ignore_index=True)
    paired_images = list(seed_pairs["image_id"])
    free_images = sorted(set(train.images["image_id"]) - set(paired_images))
    free_reports = sorted(set(reports) - set(kept))
    return Pools(
        image_ids=(*paired_images, *_shuffled(free_images, seed, "images")),
        report_ids=(*kept, *_shuffled(free_reports, seed, "reports")),
        seed_pairs=seed_pairs,
        hidden_pairs=pairs[~known].reset_index(drop=True),
    )


def _shuffled(ids: list[str], seed: int, purpose: str) -> list[str]:
    generator = np.random.default_rng([seed, *purpose.encode()])  # one stream per purpose: independent shuffles
    return [ids[position] for position in generator.permutation(len(ids))]


def shuffle_pairs(pools: Pools, seed: int) -> Pools:
    """The control that must fail: every known pair joins its image to another paired study's report.

    The reports of the seed pairs change place in one random cycle, so none stays; images of one study stay together.

    Raises:
        ValueError: fewer than two reports are paired, so no wrong partner exists.
    """
    reports = list(dict.fromkeys(pools.seed_pairs["report_id"]))
    if len(reports) < 2:
        raise ValueError(f"shuffling pairs needs at least 2 paired reports, got {len(reports)}; raise paired_ratio")
    cycle = _shuffled(reports, seed, "control")
    wrong = dict(zip(cycle, cycle[1:] + cycle[:1], strict=True))
    return replace(pools, seed_pairs=pools.seed_pairs.assign(report_id=pools.seed_pairs["report_id"].map(wrong)))


def combine(
    *,
    pairs: Corpus,
    images: Corpus | None = None,
    reports: Corpus | None = None,
    name: str | None = None,
    withhold_boxed: bool = True,
) -> Corpus:
    """One corpus from a source of pairs, one of unpaired images and one of unpaired reports.

    Every id gets its corpus as prefix (`nih/00000005_002`), so no two corpora share a patient by accident. Reports of
    `images` and images of `reports` (with their boxes and masks) are dropped; labels and splits are kept. The new root
    is the folder that holds all roots.

    Args:
        pairs: keeps images and reports.
        images: gives its images only.
        reports: gives its reports only.
        name: of the result; None joins the names with "+".
        withhold_boxed: apply `withhold_boxed_patients` to `images`, so that its boxes serve evaluation.

    Raises:
        ValueError: one corpus is named twice.
    """
    parts = {"pairs": pairs, "images": images, "reports": reports}
    corpora = {role: corpus for role, corpus in parts.items() if corpus is not None}
    names = [corpus.name for corpus in corpora.values()]
    if len(set(names)) < len(names):
        raise ValueError(
            f"corpora to combine must differ, got {names}; to hide pairings inside one corpus name it alone and set "
            "paired_ratio"
        )
    if images is not None:
        held_out = withhold_boxed_patients(images) if withhold_boxed else images
        corpora["images"] = replace(held_out, studies=held_out.studies.assign(report=None))
    if reports is not None:
        kept = reports.subset(reports.studies.loc[reports.studies["report"].notna(), "study_id"])
        corpora["reports"] = replace(kept, **{table: empty_table(table) for table in COLUMNS if table not in TEXT_SIDE})
    root = Path(os.path.commonpath([corpus.root.resolve() for corpus in corpora.values()]))
    prefixed = [_prefixed(corpus, root) for corpus in corpora.values()]
    tables = {
        table: pd.concat([getattr(corpus, table) for corpus in prefixed], ignore_index=True)
        if any(len(getattr(corpus, table)) for corpus in prefixed)
        else empty_table(table)
        for table in COLUMNS
    }
    exclusions = {f"{corpus.name}: {why}": n for corpus in corpora.values() for why, n in corpus.exclusions.items()}
    return Corpus(name=name or "+".join(names), root=root, exclusions=exclusions, **tables)


def _prefixed(corpus: Corpus, root: Path) -> Corpus:
    """Ids with the corpus name before them, paths relative to `root`."""
    folder = corpus.root.resolve().relative_to(root)
    tables: dict[str, Any] = {}
    for table in COLUMNS:
        rows = getattr(corpus, table).copy()
        for column in {"study_id", "patient_id", "image_id"} & set(rows.columns):
            rows[column] = [f"{corpus.name}/{value}" for value in rows[column]]
        if "path" in rows:
            rows["path"] = [(folder / path).as_posix() for path in rows["path"]]
        if table == "studies":
            own_split = rows.get("original_split", rows["split"])
            rows = rows.assign(corpus=corpus.name, corpus_folder=corpus.root.name, original_split=own_split)
        tables[table] = rows
    return replace(corpus, **tables)


def withhold_boxed_patients(corpus: Corpus) -> Corpus:
    """Move all studies of every patient with a box to split test, so that training never sees a film with a box.

    Few films have boxes, most of them on the training side of the official split; a model that was not trained on
    them may be judged on them. Column `original_split` keeps the publisher's split.
    """
    boxed = set(corpus.boxes["study_id"])
    patients = set(corpus.studies.loc[corpus.studies["study_id"].isin(boxed), "patient_id"])
    move = corpus.studies["patient_id"].isin(patients)
    logger.info(
        "corpus %s: %d studies of %d patients with boxes serve evaluation", corpus.name, move.sum(), len(patients)
    )
    split = corpus.studies["split"].mask(move, "test")
    return replace(corpus, studies=corpus.studies.assign(split=split, original_split=corpus.studies["split"]))


def check_leaks(
    train_patients: Iterable[str],
    test_patients: Iterable[str],
    evaluation: str = "evaluation",
    remedy: str = "split by patient",
) -> None:
    """Refuse a patient on both sides.

    Args:
        train_patients: whose images or reports training sees.
        test_patients: who must not be among them.
        evaluation: what they serve, for the error: "MS-CXR", "CheXpert 5x200".
        remedy: what to do about it, for the error.

    Raises:
        ValueError: naming up to five such patients, and their number.
    """
    shared = sorted(set(train_patients) & set(test_patients))
    if shared:
        named = ", ".join(map(_shown, shared[:5]))
        raise ValueError(f"{len(shared)} patient(s) are in training and in {evaluation}: {named}; {remedy}")


def _shown(patient: str) -> str:
    """A patient as a message may show it; the corpus or folder before the last slash is a name of ours."""
    own = patient.rpartition("/")[2]
    return repr(patient) if quoted(own) == repr(own) else f"{patient.removesuffix(own)}{quoted(own)}"


def write_split(corpus: Corpus, pools: Pools, path: Path, *, seed: int) -> str:
    """Write which study is in which split and which pairs training knows, as JSON with a hash.

    The file is complete or absent: it is written under another name and renamed.

    Args:
        corpus: what the pools were made from.
        pools: training's view.
        path: of the JSON file.
        seed: that made the split and the pools.

    Returns:
        The SHA-256 of the content, which the file holds as `sha256`.
    """
    studies = {split: sorted(corpus.split(split).studies["study_id"]) for split in SPLITS}
    pairs = sorted(zip(pools.seed_pairs["image_id"], pools.seed_pairs["report_id"], strict=True))
    content = {"corpus": corpus.name, "seed": seed, "studies": studies, "seed_pairs": pairs}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    write_text(path, json.dumps({**content, "sha256": digest}, indent=1) + "\n")
    return digest
