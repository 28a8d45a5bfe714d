"""Phantoms as corpus folders: built once, complete or absent, checked when they are reused, and read back."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lgdea_core.data.corpus import COLUMNS, Corpus
from lgdea_core.data.phantom.config import PhantomConfig
from lgdea_core.data.phantom.study import PhantomStudy, generate_study
from lgdea_core.finding import EVIDENCE_COLUMNS
from lgdea_core.vocabulary import SPLITS

VERSION = 1
"""Raise it when the same configuration gives other studies than before: old folders are then refused."""

CONFIG_FILE = "config.json"
"""Written last, so a folder that has it is complete."""
REGION_COLUMNS = ("image_id", "region", "x_min", "y_min", "x_max", "y_max")
LESION_COLUMNS = ("study_id", "finding", "side", "zone", "severity", "contrast", "x_min", "y_min", "x_max", "y_max")
EXTRA_COLUMNS = {"regions": REGION_COLUMNS, "evidence_truth": EVIDENCE_COLUMNS, "lesions": LESION_COLUMNS}
"""Tables beside those of a corpus: region boxes, what reports say, what pictures show."""
_TEXT_COLUMNS = ("study_id", "patient_id", "report", "phrase", "stratum", "variant", "pair_id", "side", "film")

_LOG = logging.getLogger("lgdea")


def build_phantom(config: PhantomConfig, root: Path, progress: bool = True) -> Corpus:
    """The corpus of a configuration, generated where the folder does not hold it already.

    A killed build leaves no half corpus behind, and several processes may ask for the same folder at once: see
    `build_folder`.

    Args:
        config: the world.
        root: the corpus folder; new, or built from an equal configuration.
        progress: show a bar.

    Raises:
        ValueError: `root` holds a phantom of another configuration.
        FileExistsError: `root` holds something else.
    """

    def write(folder: Path) -> None:
        indices = tqdm(range(config.studies), desc="phantom", unit="study", disable=not progress)
        tables = write_pictures(
            (generate_study(config, index) for index in indices), config.findings, folder, source="phantom"
        )
        tables["studies"]["split"] = split_patients(tables["studies"]["patient_id"].tolist(), config)
        write_tables(tables, folder)

    if build_folder(root, {"version": VERSION, "config": config.to_json()}, write, "build_phantom"):
        _LOG.info("phantom of %d studies written to %s", config.studies, root)
    return load_phantom(root)


def load_phantom(root: Path) -> Corpus:
    """Read what `build_phantom` wrote.

    Raises:
        FileNotFoundError: the folder holds no complete phantom.
    """
    if not (root / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"no complete phantom in {root}: {CONFIG_FILE} is missing; make one with build_phantom")
    return Corpus(name="phantom", root=root, **read_corpus_tables(root))


def load_phantom_table(root: Path, name: str) -> pd.DataFrame:
    """One of the phantom's further tables.

    Args:
        root: of the phantom.
        name: a key of `EXTRA_COLUMNS`.

    Raises:
        ValueError: there is no such table.
    """
    if name not in EXTRA_COLUMNS:
        raise ValueError(f"load_phantom_table: name must be one of {sorted(EXTRA_COLUMNS)}, got {name!r}")
    return read_table(root, name)


def split_patients(patient_ids: list[str], config: PhantomConfig) -> list[str]:
    """The split of every study: patients in a seeded order, cut where the shares of studies are reached.

    A patient goes where the middle of its studies falls, so each share is met to within one patient.
    """
    patients = sorted(set(patient_ids))
    order = np.random.default_rng([config.seed, 3]).permutation(len(patients))
    sizes = pd.Series(patient_ids).value_counts()
    counts = np.array([sizes[patients[number]] for number in order])
    middles = np.cumsum(counts) - counts / 2
    cuts = np.cumsum(config.split_shares)[:2] * len(patient_ids)
    chosen = np.searchsorted(cuts, middles, side="right")
    split_of = {patients[number]: SPLITS[split] for number, split in zip(order, chosen, strict=True)}
    return [split_of[patient] for patient in patient_ids]


def build_folder(root: Path, stamp: dict[str, Any], write: Callable[[Path], None], maker: str) -> bool:
    """Fill a folder where it does not hold what the stamp describes already.

    Everything goes to a temporary folder beside `root`, which is renamed at the end: a killed build leaves nothing
    behind. Of several processes that build the same folder at once the first to finish gives it its content; the
    others throw theirs away and take that one.

    Args:
        root: new, empty, or built from an equal stamp.
        stamp: JSON values that decide the content, with a key `config`.
        write: fills an empty folder.
        maker: name of the function for errors.

    Returns:
        Whether this call filled it.

    Raises:
        ValueError: `root` was built from another stamp.
        FileExistsError: `root` holds something else.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        _check_same(root, stamp, maker)
        return False
    root.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        write(work)
        (work / CONFIG_FILE).write_text(json.dumps(stamp, indent=2) + "\n")
        os.chmod(work, 0o755)
        return _install(work, root, stamp, maker)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _install(work: Path, root: Path, stamp: dict[str, Any], maker: str) -> bool:
    with suppress(OSError):
        root.rmdir()  # it is empty, or another process has filled it
    try:
        work.rename(root)
    except OSError:
        if not (root / CONFIG_FILE).is_file():
            raise
        _check_same(root, stamp, maker)
        return False
    return True


def _check_same(root: Path, stamp: dict[str, Any], maker: str) -> None:
    if not (root / CONFIG_FILE).is_file():
        raise FileExistsError(
            f"{maker}: {root} is not empty and holds no phantom ({CONFIG_FILE} is missing); "
            "choose a new folder or delete this one"
        )
    found = json.loads((root / CONFIG_FILE).read_text())
    known = found.get("config", {})
    keys = [key for key in stamp["config"] if known.get(key) != stamp["config"][key]]
    keys += [key for key in {**stamp, **found} if key != "config" and found.get(key) != stamp.get(key)]
    if keys:
        raise ValueError(
            f"{maker}: {root} was built from another configuration, which differs in {', '.join(keys)}; "
            "choose another folder or delete this one"
        )


def write_pictures(
    studies: Iterable[PhantomStudy], findings: tuple[str, ...], root: Path, source: str
) -> dict[str, pd.DataFrame]:
    """Write films and masks, and return the tables of a corpus with those of `EXTRA_COLUMNS`.

    Args:
        studies: looked at once, in order.
        findings: that every study gets a label of, 1 where the picture shows it and 0 elsewhere.
        root: an empty folder.
        source: what the boxes' column of that name says.

    Returns:
        Tables by name; `split` is still empty.
    """
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    columns = {**COLUMNS, **EXTRA_COLUMNS}
    rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in columns}
    for study in studies:
        image_id, (height, width) = f"{study.study_id}_0", study.image.shape
        pictures = {f"images/{image_id}.png": study.image}
        rows["studies"].append((study.study_id, study.patient_id, "", study.report))
        rows["images"].append((image_id, study.study_id, f"images/{image_id}.png", study.view, width, height))
        rows["labels"] += [(study.study_id, finding, float(finding in study.findings)) for finding in findings]
        for finding in study.findings:
            path = f"masks/{study.study_id}_{finding.replace(' ', '_')}.png"
            pictures[path] = study.mask_of(finding).astype(np.uint8) * 255
            rows["masks"].append((image_id, study.study_id, finding, path))
        rows["regions"] += [(image_id, region, *box) for region, box in study.regions.items()]
        for lesion, box, phrase in zip(study.lesions, study.boxes_xyxy.tolist(), study.phrases, strict=True):
            rows["boxes"].append((image_id, study.study_id, phrase, lesion.finding, *box, width, height, source))
            rows["lesions"].append(
                (study.study_id, lesion.finding, lesion.side, lesion.zone, lesion.severity, lesion.contrast, *box)
            )
        for claim in study.evidence:
            values = claim.model_dump()
            rows["evidence_truth"].append((study.study_id, *(values[column] for column in EVIDENCE_COLUMNS[1:])))
        for path, picture in pictures.items():
            if not cv2.imwrite(str(root / path), picture):
                raise RuntimeError(f"phantom: could not write {root / path}; is the disk full?")
    return {name: pd.DataFrame(rows[name], columns=list(columns[name])) for name in columns}


def write_tables(tables: dict[str, pd.DataFrame], root: Path) -> None:
    """Write every table as `<name>.csv`."""
    for name, table in tables.items():
        table.to_csv(root / f"{name}.csv", index=False)


def read_table(root: Path, name: str) -> pd.DataFrame:
    """A table that `write_tables` wrote."""
    text = dict.fromkeys(_TEXT_COLUMNS, str)
    return pd.read_csv(root / f"{name}.csv", dtype=text, keep_default_na=False, na_values=[""])


def read_corpus_tables(root: Path) -> dict[str, pd.DataFrame]:
    """The tables of a corpus; the file of regions leaves out what the images' table says: study and frame."""
    tables = {name: read_table(root, name) for name in COLUMNS}
    frames = tables["images"].rename(columns={"width": "frame_width", "height": "frame_height"})
    frames = frames[["image_id", "study_id", "frame_width", "frame_height"]]
    regions = tables["regions"].merge(frames, on="image_id", how="left")
    return tables | {"regions": regions[list(COLUMNS["regions"])]}
