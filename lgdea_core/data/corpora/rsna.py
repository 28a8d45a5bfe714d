"""RSNA Pneumonia Detection Challenge 2018: 26,684 labelled films of NIH ChestX-ray14, 9,555 boxes on 6,012 of them.

    stage_2_train_labels.csv         patientId, x, y, width, height, Target; a row for each box
    stage_2_detailed_class_info.csv  patientId, class                      (optional)
    stage_2_train_images/<patientId>.dcm   1024 x 1024 pixels, 8 bit, JPEG (also .png, as mirrors have them)
    pneumonia-challenge-dataset-mappings_2018.json   img_id (NIH's file), subset_img_id (patientId)   (optional)

Radiologists boxed *lung opacities suspicious for pneumonia*: `Target` and the boxes are finding "lung opacity", and
"no finding" is 1 for class Normal and 0 for the two others ("No Lung Opacity / Not Normal" is abnormal without a box).
Split 70/15/15 as GLoRIA and MGCA, but by a hash. A patientId is one film, and one patient may have several: with RSNA's
mapping to NIH the split goes by NIH's patient (and `patient_id` is NIH's), without it by film. The films are NIH's: do
not train on the one and judge by the other.

Licence: the challenge's terms (academic research and education); the NIH's for the films. Cite Shih et al., "Augmenting
the National Institutes of Health Chest Radiograph Dataset with Expert Annotations of Possible Pneumonia", Radiology:
Artificial Intelligence 2019, and Wang et al., CVPR 2017.
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
    read_json,
    read_table,
    refuse_cells,
)
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import split_by_patient
from lgdea_core.vocabulary import NO_FINDING

logger = logging.getLogger("lgdea")

LABEL_FILE, CLASS_FILE = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
MAPPING_FILE = "pneumonia-challenge-dataset-mappings_2018.json"
COLUMNS = ("patientId", "x", "y", "width", "height", "Target")
WHOSE = ("patientId", "patientId")
FRAME = (1024.0, 1024.0)
"""width and height in which the boxes count, whatever the size of the file at hand"""
FINDING = "lung opacity"
OPAQUE = "Lung Opacity"
"""class of the films with a box"""
NORMAL = {"Normal": 1.0, "No Lung Opacity / Not Normal": 0.0, OPAQUE: 0.0}
"""class -> label "no finding\""""
FRACTIONS = (0.7, 0.15, 0.15)
"""shares of train, val and test (GLoRIA, MGCA)"""


def load(root: Path, fractions: tuple[float, float, float] = FRACTIONS, seed: int = 0) -> Corpus:
    """Load the training films of stage 2; those of the test stage have no labels.

    A row without a film and a bad box are left out and counted.

    Args:
        root: holds the tables and `stage_2_train_images/`.
        fractions: of the patients, for train, val and test.
        seed: of that split.

    Raises:
        FileNotFoundError: the label table is missing, or no film is there.
        ValueError: a row has an unknown Target or class, or contradicts another; named by file and line.
    """
    exclusions = Exclusions()
    rows = read_labels(root / LABEL_FILE)
    films = [_film(row, root, exclusions) for row in rows.drop_duplicates("patientId").itertuples()]
    images = [film for film in films if film is not None]
    if not images:
        raise FileNotFoundError(
            f"no film of {LABEL_FILE} under {root / 'stage_2_train_images'}; unpack the images there"
        )
    rows = rows[rows["patientId"].isin({image["image_id"] for image in images})]
    films = [image["study_id"] for image in images]
    patient_of = _patients(root, films, exclusions)
    studies = [{"study_id": film, "patient_id": patient_of.get(film, film), "report": None} for film in films]
    corpus = Corpus(
        name="rsna",
        root=root,
        studies=split_by_patient(make_table("studies", studies), fractions, seed),
        images=make_table("images", images),
        labels=make_table("labels", _labels(rows, _classes(root, rows))),
        boxes=make_table("boxes", read_boxes(rows.assign(image_id=rows["patientId"]), exclusions)),
        exclusions=exclusions,
    )
    exclusions.log("rsna")
    return corpus


def read_labels(path: Path) -> pd.DataFrame:
    """Rows of `stage_2_train_labels.csv`, as text.

    Raises:
        ValueError: `Target` is neither 0 nor 1, a film has both, or 0 stands by a box; named by file and line.
    """
    rows = read_table(path, COLUMNS)
    first = rows["patientId"].map(rows.drop_duplicates("patientId").set_index("patientId")["Target"])
    wrong = ~rows["Target"].isin(("0", "1")) | (rows["Target"] != first)
    refuse_cells(rows, wrong, "Target", "0 or 1 and the same in all rows of a film", path.name, WHOSE)
    boxed = (rows[list(COLUMNS[1:5])] != "").any(axis=1)
    refuse_cells(rows, boxed & (rows["Target"] == "0"), "Target", "1 where the row has a box", path.name, WHOSE)
    return rows


def read_boxes(rows: pd.DataFrame, exclusions: Exclusions) -> list[dict[str, Any]]:
    """Rows of table boxes; a bad box is counted as a defect.

    Args:
        rows: of `read_labels`, with a column image_id.
        exclusions: counted in.
    """
    boxes = []
    for row in rows[rows["Target"] == "1"].itertuples():
        where = f"{LABEL_FILE}, line {row.line}, patientId {row.patientId!r}"
        try:
            corners = parse_box((row.x, row.y, row.width, row.height), FRAME, as_xywh=True)
        except ValueError as error:
            exclusions.add("bad box", f"{where}: {error}", defect=True)
        else:
            boxes.append(box_row(row.image_id, row.image_id, FINDING, FINDING, corners, FRAME, "rsna"))
    return boxes


def _film(row: Any, root: Path, exclusions: Exclusions) -> dict[str, Any] | None:
    dicom = root / "stage_2_train_images" / f"{row.patientId}.dcm"
    path = dicom if dicom.is_file() else dicom.with_suffix(".png")
    where = f"{LABEL_FILE}, line {row.line}, patientId {row.patientId!r}"
    return film_row(row.patientId, row.patientId, root, path, "unknown", where, exclusions)


def _patients(root: Path, films: list[str], exclusions: Exclusions) -> dict[str, str]:
    """NIH's patient of each film, written as `nih` writes it ("1" for 00000001_000.png); empty without the mapping."""
    path = root / MAPPING_FILE
    if not path.is_file():
        exclusions.add("no mapping to NIH, so the split goes by film", MAPPING_FILE)
        return {}
    content = read_json(path)
    try:
        patient_of = {each["subset_img_id"]: str(int(each["img_id"].split("_")[0])) for each in content}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path.name}: not in RSNA's layout, entries of img_id and subset_img_id ({type(error).__name__}); fetch "
            "it again"
        ) from error
    exclusions.count("film not in the mapping to NIH, so it counts as a patient", len(set(films) - set(patient_of)))
    return patient_of


def _classes(root: Path, labels: pd.DataFrame) -> dict[str, float]:
    """Label "no finding" of each film; empty without the table."""
    if not (root / CLASS_FILE).is_file():
        return {}
    rows = read_table(root / CLASS_FILE, ("patientId", "class"))
    refuse_cells(rows, ~rows["class"].isin(NORMAL), "class", f"one of {tuple(NORMAL)}", CLASS_FILE, WHOSE)
    target = rows["patientId"].map(dict(zip(labels["patientId"], labels["Target"], strict=True)))
    wrong = target.notna() & ((rows["class"] == OPAQUE) != (target == "1"))
    refuse_cells(rows, wrong, "class", f"{OPAQUE!r} exactly where Target is 1 in {LABEL_FILE}", CLASS_FILE, WHOSE)
    first = rows["patientId"].map(rows.drop_duplicates("patientId").set_index("patientId")["class"])
    refuse_cells(rows, rows["class"] != first, "class", "the same in all rows of a film", CLASS_FILE, WHOSE)
    return dict(zip(rows["patientId"], rows["class"].map(NORMAL), strict=True))


def _labels(rows: pd.DataFrame, classes: dict[str, float]) -> list[dict[str, Any]]:
    films = rows.drop_duplicates("patientId")
    targets = zip(films["patientId"], films["Target"], strict=True)
    labels = [
        {"study_id": film, "finding": FINDING, "value": float(target), "source": "rsna"} for film, target in targets
    ]
    return labels + [
        {"study_id": film, "finding": NO_FINDING, "value": classes[film], "source": "rsna"}
        for film in films["patientId"]
        if film in classes
    ]
