"""The phantom as a corpus on disk: built once into a folder, checked and read back afterwards."""

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lgdea_core.data.corpus import COLUMNS, Corpus
from lgdea_core.data.phantom.config import PhantomConfig
from lgdea_core.data.phantom.study import PhantomStudy, generate_study
from lgdea_core.evidence.schema import EVIDENCE_COLUMNS
from lgdea_core.vocabulary import SPLITS

CONFIG_FILE = "config.json"
"""Written last, so a folder that has it is complete."""
VERSION = 1
"""Raise it when the same configuration gives other studies than before: old folders are then refused."""
REGION_COLUMNS = ("image_id", "region", "x_min", "y_min", "x_max", "y_max")
LESION_COLUMNS = ("study_id", "finding", "side", "zone", "severity", "contrast", "x_min", "y_min", "x_max", "y_max")
EXTRA_COLUMNS = {"regions": REGION_COLUMNS, "evidence_truth": EVIDENCE_COLUMNS, "lesions": LESION_COLUMNS}
"""Tables beside those of a corpus: region boxes, what reports say, what pictures show."""

_LOG = logging.getLogger("lgdea")


def build_phantom(config: PhantomConfig, root: Path, progress: bool = True) -> Corpus:
    """The corpus of a configuration, generated where the folder does not hold it already.

    Everything goes to a temporary folder beside `root`, which is renamed at the end: a killed build leaves no half
    corpus behind.

    Args:
        config: the world.
        root: the corpus folder; new, or built from an equal configuration.
        progress: show a bar.

    Raises:
        ValueError: `root` holds a phantom of another configuration.
        FileExistsError: `root` holds something else.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        _check_same(config, root)
        return load_phantom(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        _write(config, work, progress)
        if root.is_dir():
            root.rmdir()  # it is empty
        os.chmod(work, 0o755)
        work.rename(root)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _LOG.info("phantom of %d studies written to %s", config.studies, root)
    return load_phantom(root)


def load_phantom(root: Path) -> Corpus:
    """Read what `build_phantom` wrote.

    Raises:
        FileNotFoundError: the folder holds no complete phantom.
    """
    if not (root / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"no complete phantom in {root}: {CONFIG_FILE} is missing; make one with build_phantom")
    tables = {name: _read_table(root, name) for name in COLUMNS}
    return Corpus(name="phantom", root=root, **tables)


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
    return _read_table(root, name)


def load_phantom_config(root: Path) -> PhantomConfig:
    """The configuration a folder was built from."""
    values = json.loads((root / CONFIG_FILE).read_text())["config"]
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return PhantomConfig(**{**values, **lists})


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


def _read_table(root: Path, name: str) -> pd.DataFrame:
    text = {"study_id": str, "patient_id": str, "report": str, "phrase": str}
    return pd.read_csv(root / f"{name}.csv", dtype=text, keep_default_na=False, na_values=[""])


def _check_same(config: PhantomConfig, root: Path) -> None:
    if not (root / CONFIG_FILE).is_file():
        raise FileExistsError(
            f"build_phantom: {root} is not empty and holds no phantom ({CONFIG_FILE} is missing); "
            "choose a new folder or delete this one"
        )
    found = json.loads((root / CONFIG_FILE).read_text())
    wanted = _stamp(config)
    keys = [key for key in wanted["config"] if found.get("config", {}).get(key) != wanted["config"][key]]
    if found.get("version") != VERSION:
        keys.append("version")
    if keys:
        raise ValueError(
            f"build_phantom: {root} was built from another configuration, which differs in {', '.join(keys)}; "
            "choose another folder or delete this one"
        )


def _stamp(config: PhantomConfig) -> dict[str, Any]:
    return {"version": VERSION, "config": config.to_json()}


def _write(config: PhantomConfig, root: Path, progress: bool) -> None:
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in (*COLUMNS, *EXTRA_COLUMNS)}
    for index in tqdm(range(config.studies), desc="phantom", unit="study", disable=not progress):
        study = generate_study(config, index)
        _write_pictures(study, root)
        _add_rows(study, config, rows)
    columns = {**COLUMNS, **EXTRA_COLUMNS}
    tables = {name: pd.DataFrame(rows[name], columns=list(columns[name])) for name in rows}
    tables["studies"]["split"] = split_patients([row[1] for row in rows["studies"]], config)
    for name, table in tables.items():
        table.to_csv(root / f"{name}.csv", index=False)
    (root / CONFIG_FILE).write_text(json.dumps(_stamp(config), indent=2) + "\n")


def _write_pictures(study: PhantomStudy, root: Path) -> None:
    pictures = {f"images/{study.study_id}_0.png": study.image}
    for finding in study.findings:
        pictures[_mask_path(study, finding)] = study.mask_of(finding).astype(np.uint8) * 255
    for path, picture in pictures.items():
        if not cv2.imwrite(str(root / path), picture):
            raise RuntimeError(f"build_phantom: could not write {root / path}; is the disk full?")


def _mask_path(study: PhantomStudy, finding: str) -> str:
    return f"masks/{study.study_id}_{finding.replace(' ', '_')}.png"


def _add_rows(study: PhantomStudy, config: PhantomConfig, rows: dict[str, list[tuple[Any, ...]]]) -> None:
    image_id, side = f"{study.study_id}_0", config.image_size
    rows["studies"].append((study.study_id, study.patient_id, "", study.report))
    rows["images"].append((image_id, study.study_id, f"images/{image_id}.png", study.view, side, side))
    rows["labels"] += [(study.study_id, finding, float(finding in study.findings)) for finding in config.findings]
    rows["masks"] += [(image_id, study.study_id, finding, _mask_path(study, finding)) for finding in study.findings]
    rows["regions"] += [(image_id, region, *box) for region, box in study.regions.items()]
    for lesion, box, phrase in zip(study.lesions, study.boxes_xyxy.tolist(), study.phrases, strict=True):
        rows["boxes"].append((image_id, study.study_id, phrase, lesion.finding, *box, side, side, "phantom"))
        rows["lesions"].append(
            (study.study_id, lesion.finding, lesion.side, lesion.zone, lesion.severity, lesion.contrast, *box)
        )
    for claim in study.evidence:
        values = claim.model_dump()
        rows["evidence_truth"].append((study.study_id, *(values[column] for column in EVIDENCE_COLUMNS[1:])))
