"""NIH ChestX-ray14, with the boxes of the RSNA pneumonia challenge where they are joined.

112,120 frontal films of 30,805 patients, 14 findings; boxes: 984 of 8 findings on 880 films. Labels were mined from
reports that are not published (accuracy about 90 %), so 1 means "the report was read as mentioning it" and 0 "it was
not", not "absent on the film".

`rsna/` may hold `stage_2_train_labels.csv` and `image_index.csv` (patientId, Image Index). The challenge's radiologists
boxed *lung opacities suspicious for pneumonia* (26,684 films, 9,555 boxes on 6,012 films); these boxes and the label
`Target` therefore become finding "lung opacity", source "rsna", and never mix with NIH's own "pneumonia" boxes.

Licence: no restrictions on use (NIH Clinical Center); link https://nihcc.app.box.com/v/ChestXray-NIHCC and cite Wang et
al., "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks", CVPR 2017. RSNA boxes: cite Shih et al.,
"Augmenting the National Institutes of Health Chest Radiograph Dataset with Expert Annotations of Possible Pneumonia",
Radiology: Artificial Intelligence 2019.
"""

import logging
from pathlib import Path

import pandas as pd

from lgdea_core.data.corpora import rsna
from lgdea_core.data.corpora.tables import (
    Exclusions,
    Layout,
    box_table,
    film_table,
    first_file,
    label_table,
    make_table,
    read_text,
)
from lgdea_core.data.corpus import Corpus, quoted
from lgdea_core.data.pairing import hold_out
from lgdea_core.vocabulary import NIH_FINDINGS, NO_FINDING

logger = logging.getLogger("lgdea")

ENTRY_FILES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
ENTRIES = Layout(columns=("Image Index", "Finding Labels", "Patient ID", "View Position"), key="Image Index")
BOX_FILE = "BBox_List_2017.csv"
SIDES = {"Bbox [x": "x", "y": "y", "w": "w", "h]": "h"}
"""column -> what it is: the name "Bbox [x,y,w,h]" is cut at its commas"""
BOXES = Layout(columns=("Image Index", "Finding Label", *SIDES), key="Image Index")
RSNA_INDEX = Layout(columns=("patientId", "Image Index"), key="patientId", noun="patientId")
NORMAL_SENTENCE = "No acute cardiopulmonary abnormality."


def load(root: Path, label_reports: bool = False, val_fraction: float = 0.1, seed: int = 0) -> Corpus:
    """Load the official layout: one study per film, split by the official patient-wise lists.

    Patients of `train_val_list.txt` are divided into train and val by a hash. A row without a file (a partial
    download), a file without a row, a film in neither list and a bad box are left out and counted in `exclusions`.

    Args:
        root: holds the entry table (2017 or v2020), `BBox_List_2017.csv`, the two lists and `images*/`.
        label_reports: write the labels out as a `report` ("There is pneumonia."), so that films can play the part of
            pairs; column report_source is then "labels". These sentences are no radiologist's.
        val_fraction: share of the train_val patients that becomes val.
        seed: of that choice.

    Raises:
        FileNotFoundError: a table or list is missing, or no film is there.
        ValueError: a table lacks a column, or a patient is on both lists.
    """
    exclusions = Exclusions()
    table = first_file(*(root / name for name in ENTRY_FILES))
    films, images = _films(table, root, exclusions)
    films = _split(films, root, val_fraction, seed, exclusions)
    known = set(films["image_id"])
    challenge = _rsna_rows(root, known, exclusions)
    opacity = challenge.drop_duplicates("image_id")
    labels = [make_table("labels", _labels(films, exclusions))]
    if len(opacity):
        labels.append(label_table(opacity["image_id"], rsna.FINDING, opacity["Target"].astype(float), "rsna"))
    boxes = pd.concat([_boxes(root, known, exclusions), rsna.boxed(challenge)])
    reports = [label_sentences(cell) for cell in films["Finding Labels"]] if label_reports else None
    if label_reports:
        logger.warning("corpus nih: reports are sentences written from labels, not reports (report_source: labels)")
    studies = {
        "study_id": films["study_id"],
        "patient_id": films["Patient ID"],
        "split": films["split"],
        "report": reports,
        "report_source": "labels" if label_reports else None,
        "age": films.get("Patient Age"),
        "sex": films.get("Patient Gender", films.get("Patient Sex")),
    }
    return Corpus(
        name="nih",
        root=root,
        studies=pd.DataFrame(studies).reset_index(drop=True),
        images=images[images["image_id"].isin(known)].reset_index(drop=True),
        labels=pd.concat(labels, ignore_index=True),
        boxes=box_table(boxes.assign(study_id=boxes["image_id"], phrase=boxes["finding"], **rsna.FRAME), exclusions),
        exclusions=exclusions,
    )


def _films(table: Path, root: Path, exclusions: Exclusions) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the entry table that have a readable film, and table images."""
    films = exclusions.drop_nobody(ENTRIES.read(table), "Patient ID")
    films = exclusions.drop(films, films.duplicated("Image Index"), "film listed again", defect=True)
    files = {
        path.name: path.relative_to(root) for each in ("*.png", "images/*.png") for path in root.glob(f"images*/{each}")
    }
    image_ids = [Path(name).stem for name in films["Image Index"]]
    found = [str(files.pop(name, f"images/{name}")) for name in films["Image Index"]]
    films = films.assign(image_id=image_ids, study_id=image_ids, file=found, view=films["View Position"])
    missing = f"no film of {table.name} under {root / 'images'}; unpack the images there"
    films, images = film_table(films, root, exclusions, missing=missing)
    for name in files:
        exclusions.add("film without a row", f"{table.name}: film {quoted(name)}", defect=True)
    return films, images


def _split(films: pd.DataFrame, root: Path, val_fraction: float, seed: int, exclusions: Exclusions) -> pd.DataFrame:
    """Listed films with their split."""
    train_val, test = (set(read_text(root / name).split()) for name in ("train_val_list.txt", "test_list.txt"))
    unlisted = ~films["Image Index"].isin(train_val | test)
    films = exclusions.drop(films, unlisted, "film in neither list", defect=True)
    if films.empty:
        raise ValueError(f"no film under {root} is in train_val_list.txt or test_list.txt")
    in_test, patients = films["Image Index"].isin(test), films["Patient ID"]
    both = set(patients[in_test]) & set(patients[~in_test])
    if both or train_val & test:
        raise ValueError(
            f"train_val_list.txt and test_list.txt share {len(both)} patients and {len(train_val & test)} films; "
            "fetch the official lists again"
        )
    divided = hold_out(films.assign(patient_id=patients), in_test, val_fraction, seed)
    return films.assign(split=films["image_id"].map(divided.set_index("image_id")["split"]))


def label_sentences(finding_labels: str) -> str:
    """`Effusion|Mass` as "There is pleural effusion. There is mass."; "No Finding" as a normal sentence."""
    findings = [NIH_FINDINGS[label] for label in finding_labels.split("|") if label in NIH_FINDINGS]
    return " ".join(f"There is {finding}." for finding in findings) or NORMAL_SENTENCE


def _labels(films: pd.DataFrame, exclusions: Exclusions) -> list[dict[str, object]]:
    labels: list[dict[str, object]] = []
    for study_id, cell, where in zip(films["study_id"], films["Finding Labels"], films["where"], strict=True):
        named = set(cell.split("|"))
        for label in sorted(named - set(NIH_FINDINGS) - {"No Finding"}):
            exclusions.add("unknown label", f"{where}, label {quoted(label)}", defect=True)
        if "No Finding" in named and len(named) > 1:
            exclusions.add("No Finding beside other labels, which count", where, defect=True)
        values = {finding: label in named for label, finding in NIH_FINDINGS.items()}
        values[NO_FINDING] = named == {"No Finding"}
        for finding, value in values.items():
            labels.append({"study_id": study_id, "finding": finding, "value": float(value), "source": "nih"})
    return labels


def _boxes(root: Path, known: set[str], exclusions: Exclusions) -> pd.DataFrame:
    """Rows of `BBox_List_2017.csv`, whose label "Infiltrate" is "Infiltration" elsewhere."""
    if not (root / BOX_FILE).is_file():
        exclusions.add(f"no {BOX_FILE}, so no boxes", BOX_FILE, defect=True)
        return pd.DataFrame(columns=["image_id", "finding", *SIDES.values()])
    rows = BOXES.read(root / BOX_FILE).rename(columns=SIDES)
    findings = rows["Finding Label"].map({"Infiltrate": "infiltration", **NIH_FINDINGS})
    rows = rows.assign(image_id=[Path(name).stem for name in rows["Image Index"]], finding=findings, source="nih")
    rows = exclusions.drop(rows, ~rows["image_id"].isin(known), "box of a film that is not here")
    return exclusions.drop(rows, rows["finding"].isna(), "box with an unknown finding", defect=True)


def _rsna_rows(root: Path, known: set[str], exclusions: Exclusions) -> pd.DataFrame:
    """Rows of the challenge's labels whose film is here, with its `image_id`."""
    folder = root / "rsna"
    if not (folder / rsna.LABEL_FILE).is_file():
        return pd.DataFrame(columns=[*rsna.LABELS.columns, "image_id", "where"])
    index = RSNA_INDEX.read(folder / "image_index.csv")
    image_of = {
        patient: Path(name).stem for patient, name in zip(index["patientId"], index["Image Index"], strict=True)
    }
    rows = rsna.LABELS.read(folder / rsna.LABEL_FILE)
    rows = rows.assign(image_id=rows["patientId"].map(image_of))
    return exclusions.drop(rows, ~rows["image_id"].isin(known), f"row of {rsna.LABEL_FILE} whose film is not here")
