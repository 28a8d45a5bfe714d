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

import re
from pathlib import Path

import pandas as pd

from lgdea_core.data.corpora.tables import (
    Cells,
    Exclusions,
    Layout,
    box_table,
    film_table,
    first_file,
    json_rows,
    label_table,
    one_of,
    plain_name,
    read_json,
    refuse,
    same_within,
)
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import split_by_patient
from lgdea_core.vocabulary import NO_FINDING

LABEL_FILE, CLASS_FILE = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
MAPPING_FILE = "pneumonia-challenge-dataset-mappings_2018.json"
SIDES = {"x": "x", "y": "y", "width": "w", "height": "h"}
"""column of a box -> what it is"""
LABELS = Layout(
    columns=("patientId", *SIDES, "Target"),
    key="patientId",
    noun="patientId",
    cells=(
        plain_name("patientId"),
        one_of("Target", ("0", "1"), "0 or 1"),
        same_within("Target", "patientId", "the same in all rows of a film"),
        Cells(
            "Target",
            "1 where the row has a box",
            lambda rows: (rows["Target"] == "1") | (rows[list(SIDES)] == "").all(axis=1),
        ),
    ),
)
FRAME = {"frame_width": 1024.0, "frame_height": 1024.0}
"""in which the boxes count, and those of NIH, whatever the size of the file at hand"""
FINDING = "lung opacity"
OPAQUE = "Lung Opacity"
"""class of the films with a box"""
NORMAL = {"Normal": 1.0, "No Lung Opacity / Not Normal": 0.0, OPAQUE: 0.0}
"""class -> label "no finding\""""
CLASSES = Layout(
    columns=("patientId", "class"),
    key="patientId",
    noun="patientId",
    cells=(one_of("class", NORMAL), same_within("class", "patientId", "the same in all rows of a film")),
)
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
    exclusions, folder = Exclusions(), root / "stage_2_train_images"
    rows = LABELS.read(root / LABEL_FILE)
    rows = rows.assign(image_id=rows["patientId"])
    films = rows.drop_duplicates("image_id")
    files = [first_file(folder / f"{name}.dcm", folder / f"{name}.png").relative_to(root) for name in films["image_id"]]
    films, images = film_table(
        films.assign(study_id=films["image_id"], view="unknown", file=files),
        root,
        exclusions,
        missing=f"no film of {LABEL_FILE} under {folder}; unpack the images there",
    )
    labels = [label_table(films["study_id"], FINDING, films["Target"].astype(float), "rsna")]
    if (root / CLASS_FILE).is_file():
        normal = films["study_id"].map(_classes(root, films))
        labels.append(label_table(films["study_id"], NO_FINDING, normal, "rsna")[normal.notna()])
    patient_of = _patients(root, films, exclusions)
    patients = [patient_of.get(film, film) for film in films["study_id"]]
    studies = pd.DataFrame({"study_id": films["study_id"], "patient_id": patients, "report": None})
    return Corpus(
        name="rsna",
        root=root,
        studies=split_by_patient(studies.reset_index(drop=True), fractions, seed),
        images=images,
        labels=pd.concat(labels, ignore_index=True),
        boxes=box_table(boxed(rows[rows["image_id"].isin(set(images["image_id"]))]), exclusions),
        exclusions=exclusions,
    )


def boxed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `LABELS` with a box, as `box_table` takes them; they have a column image_id."""
    rows = rows[rows["Target"] == "1"].rename(columns=SIDES)
    return rows.assign(study_id=rows["image_id"], phrase=FINDING, finding=FINDING, **FRAME, source="rsna")


def _patients(root: Path, films: pd.DataFrame, exclusions: Exclusions) -> dict[str, str]:
    """NIH's patient of each film, written as `nih` writes it ("1" for 00000001_000.png); empty without the mapping."""
    path = root / MAPPING_FILE
    if not path.is_file():
        exclusions.add("no mapping to NIH, so the split goes by film", MAPPING_FILE)
        return {}
    patient_of = {}
    for number, each in enumerate(json_rows(path.name, read_json(path), subset_img_id=str, img_id=str)):
        if not re.fullmatch(r"\d+_.*", each["img_id"]):
            raise ValueError(f"{path.name}, entry {number}: img_id must be a film of NIH, as 00000001_000.png")
        patient_of[each["subset_img_id"]] = str(int(each["img_id"].split("_")[0]))
    unmapped = set(films["image_id"]) - set(patient_of)
    exclusions.count("film not in the mapping to NIH, so it counts as a patient", len(unmapped))
    return patient_of


def _classes(root: Path, films: pd.DataFrame) -> dict[str, float]:
    """Label "no finding" of each film."""
    rows = CLASSES.read(root / CLASS_FILE)
    target = rows["patientId"].map(films.set_index("patientId")["Target"])
    wrong = target.notna() & ((rows["class"] == OPAQUE) != (target == "1"))
    refuse(rows, wrong, "class", f"{OPAQUE!r} exactly where Target is 1 in {LABEL_FILE}")
    return dict(zip(rows["patientId"], rows["class"].map(NORMAL), strict=True))
