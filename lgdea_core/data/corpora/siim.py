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
import os
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool
from PIL import Image

from lgdea_core.data.corpora.tables import (
    Cells,
    Exclusions,
    Layout,
    film_table,
    first_file,
    label_table,
    make_table,
    plain_name,
)
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import split_by_patient

TABLES = ("stage_2_train.csv", "train-rle.csv")
FOLDER = "dicom-images-train"
SIDE = 1024
"""pixels of a film's side, in which the runs count"""
FINDING = "pneumothorax"
NEGATIVE = "-1"
RUNS = Layout(
    columns=("ImageId", "EncodedPixels"),
    key="ImageId",
    cells=(
        plain_name("ImageId"),
        Cells(
            "EncodedPixels",
            "runs, as in another row of the film",
            lambda rows: (
                (rows["EncodedPixels"] != NEGATIVE)
                | (rows["EncodedPixels"] == NEGATIVE).groupby(rows["ImageId"]).transform("all")
            ),
        ),
    ),
)
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
    exclusions, table = Exclusions(), first_file(*(root / name for name in TABLES))
    rows = RUNS.read(table)
    paths = {path.stem: path.relative_to(root) for path in root.glob(f"{FOLDER}/*/*/*.dcm")}
    films = rows.drop_duplicates("ImageId")
    names = films["ImageId"]
    films, images = film_table(
        films.assign(
            image_id=names,
            study_id=names,
            view="unknown",
            file=[str(paths.get(name, f"{FOLDER}/*/*/{name}.dcm")) for name in names],
        ),
        root,
        exclusions,
        missing=f"no film of {table.name} under {root / FOLDER}; unpack the images there",
    )
    films = films.reset_index(drop=True)
    positive = films["EncodedPixels"] != NEGATIVE
    studies = pd.DataFrame({"study_id": films["study_id"], "patient_id": films["study_id"], "report": None})
    folder = (mask_root or root) / f"masks-{table.stem}-{hashlib.sha256(table.read_bytes()).hexdigest()[:8]}"
    masked = rows[rows["ImageId"].isin(set(films.loc[positive, "image_id"]))]
    return Corpus(
        name="siim",
        root=root,
        studies=split_by_patient(studies, fractions, seed),
        images=images,
        labels=label_table(films["study_id"], FINDING, positive.astype(float), "siim"),
        masks=make_table("masks", _masks(masked, root, folder)),
        exclusions=exclusions,
    )


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
        counts = [int(count) for count in runs.split()]  # of any size: numpy's would overflow
    except ValueError:
        raise ValueError("run lengths must be integers") from None
    if not counts or len(counts) % 2 or min(counts) < 0:
        raise ValueError(f"run lengths must be pairs of non-negative integers, got {len(counts)} numbers")
    rest = SIDE * SIDE - sum(counts)
    if rest < 0:
        raise ValueError(f"run lengths end {-rest} pixels behind the {SIDE} x {SIDE} film")
    return np.array([*counts, rest])


def _masks(rows: pd.DataFrame, root: Path, folder: Path) -> list[dict[str, str]]:
    """One row per film with a mask, the union of its rows; all are checked, those not there yet are written."""
    for where, runs in zip(rows["where"], rows["EncodedPixels"], strict=True):
        try:
            _counts(runs)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    masks = []
    folder.mkdir(parents=True, exist_ok=True)
    for film, own in rows.groupby("ImageId", sort=False):
        path = folder / f"{film}.png"
        if not path.is_file():
            part = path.with_suffix(f".{os.getpid()}.part")
            mask = np.logical_or.reduce([decode_runs(runs) for runs in own["EncodedPixels"]])
            Image.fromarray(mask).save(part, format="PNG")
            part.replace(path)
        shown = path.relative_to(root) if path.is_relative_to(root) else path.resolve()
        masks.append({"image_id": film, "study_id": film, "finding": FINDING, "path": shown.as_posix()})
    return masks
