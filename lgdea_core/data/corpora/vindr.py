"""VinDr-CXR: 18,000 frontal films of two Vietnamese hospitals, boxes and labels by 17 radiologists.

    PhysioNet 1.0.0  annotations/annotations_{train,test}.csv   image_id, rad_id, class_name, x_min, y_min, x_max, y_max
                     annotations/image_labels_{train,test}.csv  image_id, rad_id, and a column for each of 28 labels
                     train/<image_id>.dicom, test/<image_id>.dicom
    Kaggle           train.csv                                  image_id, class_name, class_id, rad_id, x_min, ...
                     train/<image_id>.dicom                     (its test films have no labels)
                     train/<image_id>.png                       (smaller copies; the size of the original stands in
                                                                train.csv, width and height, or in train_meta.csv,
                                                                image_id, dim0 (rows), dim1 (columns))

Each of the 15,000 training films was read by three radiologists on their own, the 3,000 test films by five who agreed
(no rad_id, reader "agreed"). A label is 1 where more than half of a film's readers give it and 0 elsewhere; column
`share` is their share. Boxes are every reader's own (column `reader`): those of one film and finding are one sample.
Kaggle's labels are its boxes' classes. Boxes count in the original film; of a copy whose original's size is
not told, in its own pixels, which is counted. Patients are not published: each film is one.
Splits: PhysioNet's test, and a share of its train as val (BenchX: 12,000/3,000/3,000); of Kaggle's a second share is
test.

Licence: PhysioNet Credentialed Health Data License 1.5.0; Kaggle: the competition's terms. Cite Nguyen et al.,
"VinDr-CXR: An open dataset of chest X-rays with radiologist's annotations", Scientific Data 2022.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from lgdea_core.data.corpora.tables import (
    CORNERS,
    Cells,
    Exclusions,
    Layout,
    box_table,
    film_table,
    first_file,
    plain_name,
    refuse,
)
from lgdea_core.data.corpus import Corpus, quoted
from lgdea_core.data.pairing import hold_out, split_by_patient
from lgdea_core.vocabulary import NO_FINDING

KAGGLE = "train.csv"
AGREED = "agreed"
"""reader of a box that several agreed on"""
NAMES = (
    "aortic enlargement", "atelectasis", "calcification", "cardiomegaly", "clavicle fracture", "consolidation", "edema",
    "emphysema", "enlarged pa", "ild", "infiltration", "lung opacity", "lung cavity", "lung cyst", "mediastinal shift",
    "nodule/mass", "pleural effusion", "pleural thickening", "pneumothorax", "pulmonary fibrosis", "rib fracture",
    "other lesion", "copd", "lung tumor", "pneumonia", "tuberculosis", "other disease", "other diseases", NO_FINDING,
)  # fmt: skip
"""VinDr's 28 labels in lower case, one of them in two spellings; Kaggle's 15 are among them"""
RENAMED = {"pulmonary fibrosis": "fibrosis", "other disease": "other diseases"}
"""VinDr's name in lower case -> ours, where they differ; of "Other disease" the training table has the plural"""
BOXES = Layout(
    columns=("image_id", "class_name", *CORNERS),
    key="image_id",
    noun="image",
    cells=(
        plain_name("image_id"),
        Cells("class_name", "one of VinDr's 28 labels", lambda rows: rows["class_name"].str.lower().isin(NAMES)),
    ),
)
KAGGLE_BOXES = replace(BOXES, columns=("image_id", "class_name", "rad_id", *CORNERS))
LABELS = Layout(columns=("image_id",), key="image_id", noun="image", cells=(plain_name("image_id"),))
SIZES_FILE = "train_meta.csv"
SIZES = Layout(columns=("image_id", "dim0", "dim1"), key="image_id", noun="image")
SUFFIXES = (".dicom", ".dcm", ".png", ".jpg")
"""of films, the first that is there counts"""


def load(root: Path, val_fraction: float = 0.2, seed: int = 0) -> Corpus:
    """Load either layout: Kaggle's where `train.csv` is there, else PhysioNet's.

    Args:
        root: of the download.
        val_fraction: share of the training films that becomes val, and of Kaggle's also test.
        seed: of that choice.

    Raises:
        FileNotFoundError: a table is missing, or no film is there.
        ValueError: a label is neither 0 nor 1, or none of VinDr's; named by file and line.
    """
    exclusions = Exclusions()
    kaggle = (root / KAGGLE).is_file()
    rows, votes = _read_kaggle(root) if kaggle else _read_physionet(root)
    unlisted = ~rows["image_id"].isin(set(votes["image_id"]))
    rows = exclusions.drop(rows, unlisted, "annotation of an image without labels", defect=True)
    films = votes.drop_duplicates("image_id")
    files = [
        first_file(*(root / folder / f"{name}{suffix}" for suffix in SUFFIXES)).relative_to(root).as_posix()
        for folder, name in zip(films["folder"], films["image_id"], strict=True)
    ]
    films = films.assign(study_id=films["image_id"], view="unknown", file=files)
    missing = f"no film of {root.name}'s tables under {root / 'train'}; unpack the images there"
    films, images = film_table(films, root, exclusions, missing=missing)
    studies = pd.DataFrame({"study_id": films["study_id"], "patient_id": films["study_id"], "report": None})
    if kaggle:
        studies = split_by_patient(studies, (1 - 2 * val_fraction, val_fraction, val_fraction), seed)
    else:
        studies = hold_out(studies, films["folder"] == "test", val_fraction, seed)
    known = set(films["image_id"])
    labels = votes.loc[votes["image_id"].isin(known), ["image_id", "finding", "share"]]
    return Corpus(
        name="vindr",
        root=root,
        studies=studies.reset_index(drop=True),
        images=images,
        labels=labels.rename(columns={"image_id": "study_id"})
        .assign(value=(labels["share"] > 0.5).astype(float), source="vindr")
        .reset_index(drop=True),
        boxes=box_table(_boxes(rows, images, root, exclusions), exclusions, "reader"),
        exclusions=exclusions,
    )


def _read_physionet(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the annotation tables, and `votes`: image_id, finding, share, folder and where it is listed."""
    folder = root / "annotations"
    rows = [BOXES.read(folder / f"annotations_{split}.csv") for split in ("train", "test")]
    votes = [_votes_of_columns(folder / f"image_labels_{split}.csv", split) for split in ("train", "test")]
    return pd.concat(rows, ignore_index=True), pd.concat(votes, ignore_index=True)


def _votes_of_columns(path: Path, split: str) -> pd.DataFrame:
    rows = LABELS.read(path)
    names = [column for column in rows.columns if column not in ("image_id", "rad_id", "line", "where")]
    unknown = [name for name in names if name.lower() not in NAMES]
    if unknown:
        named = ", ".join(map(quoted, unknown))
        raise ValueError(f"{path.name}, line 1: column(s) {named} are none of VinDr's 28 labels; fetch it again")
    for name in names:
        refuse(rows, ~rows[name].isin(("0", "1", "0.0", "1.0")), name, "0 or 1")
    shares = rows[names].astype(float).groupby(rows["image_id"], sort=False).mean()
    return _votes(shares, rows, split)


def _read_kaggle(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As `_read_physionet`: a reader votes for a class by any row of it."""
    rows = KAGGLE_BOXES.read(root / KAGGLE)
    readers = rows.groupby("image_id", sort=False)["rad_id"].nunique()
    voted = rows.drop_duplicates(["image_id", "class_name", "rad_id"]).groupby(["image_id", "class_name"]).size()
    shares = voted.unstack(fill_value=0).reindex(readers.index).div(readers, axis=0)
    return rows, _votes(shares, rows, "train")


def _votes(shares: pd.DataFrame, rows: pd.DataFrame, folder: str) -> pd.DataFrame:
    """Shares of the readers, a column for each class, as rows; with the place of an image's first row."""
    first = rows.drop_duplicates("image_id").set_index("image_id")["where"]
    votes = shares.melt(var_name="name", value_name="share", ignore_index=False).reset_index()
    return votes.assign(finding=votes["name"].map(_finding), folder=folder, where=votes["image_id"].map(first))


def _finding(name: str) -> str:
    return RENAMED.get(name.lower(), name.lower())


def _boxes(rows: pd.DataFrame, images: pd.DataFrame, root: Path, exclusions: Exclusions) -> pd.DataFrame:
    """Annotations of a finding on a film that is here, as `box_table` takes them."""
    rows = rows.assign(
        study_id=rows["image_id"],
        phrase=rows["class_name"].str.lower(),
        finding=rows["class_name"].map(_finding),
        source="vindr",
        reader=[reader or AGREED for reader in rows.get("rad_id", pd.Series("", index=rows.index)).fillna("")],
    )
    rows = rows[(rows["finding"] != NO_FINDING) & rows["image_id"].isin(set(images["image_id"]))]
    frames = images[["image_id", "width", "height"]]
    if {"width", "height"} <= set(rows):
        frames = rows[["image_id", "width", "height"]].drop_duplicates("image_id")
    elif (root / SIZES_FILE).is_file():
        frames = SIZES.read(root / SIZES_FILE).rename(columns={"dim1": "width", "dim0": "height"})
    else:
        copies = images.loc[~images["path"].str.endswith((".dicom", ".dcm")), "image_id"]
        reason = "film that is a copy: its boxes are taken in its own pixels"
        exclusions.count(reason, int(copies.isin(set(rows["image_id"])).sum()))
    frames = frames.rename(columns={"width": "frame_width", "height": "frame_height"}).drop_duplicates("image_id")
    frames = frames[["image_id", "frame_width", "frame_height"]]
    return rows.drop(columns=["width", "height"], errors="ignore").merge(frames, on="image_id", how="left")
