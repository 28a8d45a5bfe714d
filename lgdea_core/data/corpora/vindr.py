"""VinDr-CXR: 18,000 frontal films of two Vietnamese hospitals, boxes and labels by 17 radiologists.

    PhysioNet 1.0.0  annotations/annotations_{train,test}.csv   image_id, rad_id, class_name, x_min, y_min, x_max, y_max
                     annotations/image_labels_{train,test}.csv  image_id, rad_id, and a column for each of 28 labels
                     train/<image_id>.dicom, test/<image_id>.dicom
    Kaggle           train.csv                                  image_id, class_name, class_id, rad_id, x_min, ...
                     train/<image_id>.dicom                     (its test films have no labels)

Each of the 15,000 training films was read by three radiologists on their own, the 3,000 test films by five who agreed
(no rad_id, reader "agreed"). A label is 1 where more than half of a film's readers give it and 0 elsewhere; column
`share` is their share. Boxes are every reader's own (column `reader`): those of one film and finding are one sample.
Kaggle's labels are its boxes' classes. Boxes count in the original film. Patients are not published: each film is one.
Splits: PhysioNet's test, and a share of its train as val (BenchX: 12,000/3,000/3,000); of Kaggle's a second share is
test.

Licence: PhysioNet Credentialed Health Data License 1.5.0; Kaggle: the competition's terms. Cite Nguyen et al.,
"VinDr-CXR: An open dataset of chest X-rays with radiologist's annotations", Scientific Data 2022.
"""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from lgdea_core.data.corpora.tables import (
    Exclusions,
    box_row,
    film_row,
    make_table,
    parse_box,
    read_table,
    refuse_cells,
)
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import split_by_patient
from lgdea_core.vocabulary import NO_FINDING

logger = logging.getLogger("lgdea")

CORNERS = ("x_min", "y_min", "x_max", "y_max")
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
    listed = votes.drop_duplicates("image_id")
    rows = _listed(rows, set(listed["image_id"]), exclusions)
    images = [image for film in listed.itertuples() if (image := _image(film, root, exclusions))]
    if not images:
        raise FileNotFoundError(f"no film of {root.name}'s tables under {root / 'train'}; unpack the images there")
    sizes = {image["image_id"]: (float(image["width"]), float(image["height"])) for image in images}
    listed, votes = (table[table["image_id"].isin(set(sizes))] for table in (listed, votes))
    corpus = Corpus(
        name="vindr",
        root=root,
        studies=_studies(listed, val_fraction, seed, kaggle),
        images=make_table("images", images),
        labels=_labels(votes),
        boxes=make_table("boxes", _boxes(rows, sizes, exclusions)),
        exclusions=exclusions,
    )
    exclusions.log("vindr")
    return corpus


def _read_physionet(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the annotation tables, and `votes`: image_id, finding, share, folder and where it is listed."""
    folder, rows, votes = root / "annotations", [], []
    for split in ("train", "test"):
        rows.append(_read_annotations(folder / f"annotations_{split}.csv"))
        votes.append(_votes_of_columns(folder / f"image_labels_{split}.csv", split))
    return pd.concat(rows, ignore_index=True), pd.concat(votes, ignore_index=True)


def _listed(rows: pd.DataFrame, image_ids: set[str], exclusions: Exclusions) -> pd.DataFrame:
    """Annotations without those of an image that no label table lists."""
    known = rows["image_id"].isin(image_ids)
    for row in rows[~known].itertuples():
        where = f"{row.table}, line {row.line}, image {row.image_id!r}"
        exclusions.add("annotation of an image without labels", where, defect=True)
    return rows[known]


def _read_annotations(path: Path, *columns: str) -> pd.DataFrame:
    rows = read_table(path, ("image_id", "class_name", *columns, *CORNERS)).assign(table=path.name)
    wrong = ~rows["class_name"].str.lower().isin(NAMES)
    refuse_cells(rows, wrong, "class_name", "one of VinDr's 28 labels", path.name, ("image", "image_id"))
    return rows


def _votes_of_columns(path: Path, split: str) -> pd.DataFrame:
    rows = read_table(path, ("image_id",))
    names = [column for column in rows.columns if column not in ("image_id", "rad_id", "line")]
    unknown = [name for name in names if name.lower() not in NAMES]
    if unknown:
        raise ValueError(f"{path.name}, line 1: column(s) {unknown} are none of VinDr's 28 labels; fetch it again")
    for name in names:
        wrong = ~rows[name].isin(("0", "1", "0.0", "1.0"))
        refuse_cells(rows, wrong, name, "0 or 1", path.name, ("image", "image_id"))
    where = [f"{path.name}, line {line}" for line in rows["line"]]
    first = rows.assign(where=where).drop_duplicates("image_id").set_index("image_id")["where"]
    shares = rows[names].astype(float).groupby(rows["image_id"], sort=False).mean()
    votes = shares.melt(var_name="name", value_name="share", ignore_index=False).reset_index()
    return votes.assign(finding=votes["name"].map(_finding), folder=split, where=votes["image_id"].map(first))


def _read_kaggle(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As `_read_physionet`: a reader votes for a class by any row of it."""
    rows = _read_annotations(root / KAGGLE, "rad_id")
    readers = rows.groupby("image_id", sort=False)["rad_id"].nunique()
    voted = rows.drop_duplicates(["image_id", "class_name", "rad_id"]).groupby(["image_id", "class_name"]).size()
    shares = voted.unstack(fill_value=0).reindex(readers.index).div(readers, axis=0)
    first = rows.drop_duplicates("image_id").set_index("image_id")["line"]
    votes = shares.melt(var_name="name", value_name="share", ignore_index=False).reset_index()
    where = [f"{KAGGLE}, line {first[image_id]}" for image_id in votes["image_id"]]
    return rows, votes.assign(finding=votes["name"].map(_finding), folder="train", where=where)


def _finding(name: str) -> str:
    return RENAMED.get(name.lower(), name.lower())


def _image(film: Any, root: Path, exclusions: Exclusions) -> dict[str, Any] | None:
    path = root / film.folder / f"{film.image_id}.dicom"
    where = f"{film.where}, image {film.image_id!r}"
    return film_row(film.image_id, film.image_id, root, path, "unknown", where, exclusions)


def _studies(films: pd.DataFrame, val_fraction: float, seed: int, kaggle: bool) -> pd.DataFrame:
    studies = pd.DataFrame({"study_id": films["image_id"], "patient_id": films["image_id"], "report": None})
    train = (films["folder"] == "train").to_numpy()
    shares = (1 - 2 * val_fraction, val_fraction, val_fraction) if kaggle else (1 - val_fraction, val_fraction, 0.0)
    return pd.concat(
        [split_by_patient(studies[train], shares, seed), studies[~train].assign(split="test")], ignore_index=True
    )


def _labels(votes: pd.DataFrame) -> pd.DataFrame:
    labels = votes[["image_id", "finding", "share"]].rename(columns={"image_id": "study_id"})
    return labels.assign(value=(labels["share"] > 0.5).astype(float), source="vindr").reset_index(drop=True)


def _boxes(rows: pd.DataFrame, sizes: dict[str, tuple[float, float]], exclusions: Exclusions) -> list[dict[str, Any]]:
    boxes = []
    readers = rows.get("rad_id", pd.Series("", index=rows.index)).fillna("")
    for row, reader in zip(rows.itertuples(), readers, strict=True):
        finding = _finding(row.class_name)
        if finding == NO_FINDING or row.image_id not in sizes:
            continue
        frame = sizes[row.image_id]
        try:
            corners = parse_box([getattr(row, corner) for corner in CORNERS], frame)
        except ValueError as error:
            where = f"{row.table}, line {row.line}, image {row.image_id!r}"
            exclusions.add("bad box", f"{where}: {error}", defect=True)
            continue
        phrase = row.class_name.lower()
        boxes.append(
            {
                **box_row(row.image_id, row.image_id, phrase, finding, corners, frame, "vindr"),
                "reader": reader or AGREED,
            }
        )
    return boxes
