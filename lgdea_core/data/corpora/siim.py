"""SIIM-ACR Pneumothorax Segmentation 2019: 12,047 labelled films of NIH ChestX-ray14, 3,576 masks on 2,669 of them.

    train-rle.csv      ImageId, " EncodedPixels" (with a leading space); a row for each mask, "-1" or " -1" without one
    stage_2_train.csv  the later release, without that space
    dicom-images-train/<study>/<series>/<ImageId>.dcm, 1024 x 1024 pixels, 8 bit, JPEG

The run lengths are relative: each start counts from the end of the run before, column by column from the top left. 1
means that radiologists drew a pneumothorax, 0 that they drew none. 12,954 rows are 12,047 films: the split goes by
film, 70/15/15 (by row, as released code does it, the same film gets into train and test). Masks are written once as
PNG, into the folder `masks-<table>-<start of its SHA-256>`: another table's are never taken for its own. Patients are
not published: one may have several films.

Licence: the challenge's terms (academic research and education). Cite the challenge, https://www.kaggle.com/c/
siim-acr-pneumothorax-segmentation, and Filice et al., "Crowdsourcing pneumothorax annotations using machine learning
annotations on the NIH chest X-ray dataset", Journal of Digital Imaging 2020.
"""

import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from PIL import Image

from lgdea_core.data.corpora.tables import Exclusions, film_row, make_table, read_table
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import split_by_patient

logger = logging.getLogger("lgdea")

TABLES = ("stage_2_train.csv", "train-rle.csv")
SIDE = 1024
"""pixels of a film's side, in which the runs count"""
FINDING = "pneumothorax"
NEGATIVE = "-1"
FRACTIONS = (0.7, 0.15, 0.15)
"""shares of train, val and test (GLoRIA, MGCA)"""


def load(
    root: Path, fractions: tuple[float, float, float] = FRACTIONS, seed: int = 0, mask_root: Path | None = None
) -> Corpus:
    """Load films, labels and masks; of two tables the later release counts.

    Args:
        root: holds a table and `dicom-images-train/`.
        fractions: of the films, for train, val and test.
        seed: of that split.
        mask_root: folder in which the PNG masks' folder is made; None takes `root`, which must then be writable.

    Raises:
        FileNotFoundError: no table, or no film is there.
        OSError: the masks' folder cannot be written; name another by `mask_root`.
        ValueError: runs that are no runs, leave the film, or contradict a negative row; named by file and line.
    """
    exclusions = Exclusions()
    table = next((root / name for name in TABLES if (root / name).is_file()), root / TABLES[-1])
    rows = read_runs(table)
    files = {path.stem: path for path in root.glob("dicom-images-train/*/*/*.dcm")}
    films = [_film(row, table.name, files, root, exclusions) for row in rows.drop_duplicates("ImageId").itertuples()]
    images = [film for film in films if film is not None]
    if not images:
        raise FileNotFoundError(f"no film of {table.name} under {root / 'dicom-images-train'}; unpack the images there")
    rows = rows[rows["ImageId"].isin({image["image_id"] for image in images})]
    studies = [{"study_id": film, "patient_id": film, "report": None} for film in rows["ImageId"].unique()]
    corpus = Corpus(
        name="siim",
        root=root,
        studies=split_by_patient(make_table("studies", studies), fractions, seed),
        images=make_table("images", images),
        labels=make_table("labels", _labels(rows)),
        masks=make_table("masks", _masks(rows, root, (mask_root or root) / _mask_folder(table), table.name)),
        exclusions=exclusions,
    )
    exclusions.log("siim")
    return corpus


def read_runs(path: Path) -> pd.DataFrame:
    """Rows of a table: ImageId, EncodedPixels and line.

    Raises:
        ValueError: a film has both a mask and a negative row; named by file and line.
    """
    rows = read_table(path, ("ImageId", "EncodedPixels"))
    negative = rows["EncodedPixels"] == NEGATIVE
    mixed = rows[negative & rows["ImageId"].isin(set(rows.loc[~negative, "ImageId"]))]
    if len(mixed):
        row = mixed.iloc[0]
        raise ValueError(f"{path.name}, line {row['line']}, film {row['ImageId']!r}: -1 for a film with a mask")
    return rows


def decode_runs(runs: str) -> Bool[np.ndarray, "1024 1024"]:
    """True inside the relative runs "offset length offset length ..." of one row.

    Offsets and lengths are the alternating counts of background and mask, column by column, that COCO calls
    uncompressed run lengths, without the last stretch of background.

    Raises:
        ValueError: not an even number of non-negative integers, or the runs leave the film.
    """
    counts = _counts(runs)
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(SIDE, SIDE).T


def _counts(runs: str) -> np.ndarray:
    """Lengths of background and mask in turn, which fill the film."""
    try:
        counts = np.array(runs.split(), dtype=np.int64)
    except ValueError:
        raise ValueError("run lengths must be integers") from None
    if len(counts) == 0 or len(counts) % 2 or counts.min() < 0:
        raise ValueError(f"run lengths must be pairs of non-negative integers, got {len(counts)} numbers")
    rest = SIDE * SIDE - int(counts.sum())
    if rest < 0:
        raise ValueError(f"run lengths end {-rest} pixels behind the {SIDE} x {SIDE} film")
    return np.append(counts, rest)


def _film(row: Any, table: str, files: dict[str, Path], root: Path, exclusions: Exclusions) -> dict[str, Any] | None:
    path = files.get(row.ImageId, root / "dicom-images-train" / f"{row.ImageId}.dcm")
    where = f"{table}, line {row.line}, film {row.ImageId!r}"
    return film_row(row.ImageId, row.ImageId, root, path, "unknown", where, exclusions)


def _labels(rows: pd.DataFrame) -> list[dict[str, Any]]:
    films = rows.drop_duplicates("ImageId")
    return [
        {"study_id": row.ImageId, "finding": FINDING, "value": float(row.EncodedPixels != NEGATIVE), "source": "siim"}
        for row in films.itertuples()
    ]


def _mask_folder(table: Path) -> str:
    return f"masks-{table.stem}-{hashlib.sha256(table.read_bytes()).hexdigest()[:8]}"


def _masks(rows: pd.DataFrame, root: Path, folder: Path, table: str) -> list[dict[str, Any]]:
    """One row per film with a mask, the union of its rows; all are checked, those not there yet are written."""
    positive = rows[rows["EncodedPixels"] != NEGATIVE]
    for row in positive.itertuples():
        try:
            _counts(row.EncodedPixels)
        except ValueError as error:
            raise ValueError(f"{table}, line {row.line}, film {row.ImageId!r}: {error}") from error
    masks = []
    folder.mkdir(parents=True, exist_ok=True)
    for film, own in positive.groupby("ImageId", sort=False):
        path = folder / f"{film}.png"
        if not path.is_file():
            _write_mask(own["EncodedPixels"], path)
        shown = path.relative_to(root) if path.is_relative_to(root) else path.resolve()
        masks.append({"image_id": film, "study_id": film, "finding": FINDING, "path": shown.as_posix()})
    return masks


def _write_mask(runs: Iterable[str], path: Path) -> None:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    for each in runs:
        mask |= decode_runs(each)
    part = path.with_suffix(f".{os.getpid()}.part")
    Image.fromarray(mask).save(part, format="PNG")
    part.replace(path)
