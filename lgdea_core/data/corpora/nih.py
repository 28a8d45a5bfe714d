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
from typing import Any

import pandas as pd

from lgdea_core.data.corpora import rsna
from lgdea_core.data.corpora.tables import Exclusions, box_row, film_row, make_table, parse_box, read_rows, read_text
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import split_by_patient
from lgdea_core.vocabulary import NIH_FINDINGS, NO_FINDING

logger = logging.getLogger("lgdea")

ENTRY_FILES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOX_FILE = "BBox_List_2017.csv"
FRAME = (1024.0, 1024.0)
"""width and height in which NIH's and RSNA's boxes count, whatever the size of the file at hand"""
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
    entries = _entries(root, exclusions)
    split_of = _splits(root, entries, val_fraction, seed, exclusions)
    entries = [entry for entry in entries if entry["Image Index"] in split_of]
    studies = [_study(entry, split_of[entry["Image Index"]], label_reports) for entry in entries]
    known = {entry["image_id"] for entry in entries}
    labels = [row for entry in entries for row in _labels(entry, exclusions)]
    challenge = _rsna_rows(root, known, exclusions)
    opacities = rsna.read_boxes(challenge, exclusions)
    corpus = Corpus(
        name="nih",
        root=root,
        studies=make_table("studies", studies),
        images=make_table("images", [entry["image"] for entry in entries]),
        labels=make_table("labels", [*labels, *_rsna_labels(challenge)]),
        boxes=make_table("boxes", [*_boxes(root, known, exclusions), *opacities]),
        exclusions=exclusions,
    )
    exclusions.log("nih")
    if label_reports:
        logger.warning("corpus nih: reports are sentences written from labels, not reports (report_source: labels)")
    return corpus


def _entries(root: Path, exclusions: Exclusions) -> list[dict[str, Any]]:
    """Rows of the entry table that have a readable film, with `image_id` and the images row added."""
    table = next((root / name for name in ENTRY_FILES if (root / name).is_file()), root / ENTRY_FILES[0])
    rows = read_rows(table, ("Image Index", "Finding Labels", "Patient ID", "View Position"))
    files = {path.name: path for pattern in ("images*/*.png", "images*/images/*.png") for path in root.glob(pattern)}
    entries = []
    for row in rows:
        where = f"{table.name}, line {row['line']}, film {row['Image Index']!r}"
        path = files.pop(row["Image Index"], None)
        if path is None:
            exclusions.add("row without a film", where, defect=True)
            continue
        image_id = Path(row["Image Index"]).stem
        image = film_row(image_id, image_id, root, path, row["View Position"], where, exclusions)
        if image is not None:
            entries.append({**row, "image_id": image_id, "image": image, "where": where})
    for name in files:
        exclusions.add("film without a row", f"{table.name}: film {name!r}", defect=True)
    if not entries:
        raise FileNotFoundError(f"no film of {table.name} under {root / 'images'}; unpack the images there")
    return entries


def _splits(
    root: Path, entries: list[dict[str, Any]], val_fraction: float, seed: int, exclusions: Exclusions
) -> dict[str, str]:
    """Split of every listed film."""
    train_val, test = (_read_list(root / name) for name in ("train_val_list.txt", "test_list.txt"))
    either = train_val | test
    patient_of = {entry["Image Index"]: entry["Patient ID"] for entry in entries if entry["Image Index"] in either}
    listed = pd.DataFrame(patient_of.items(), columns=["Image Index", "patient_id"])
    if listed.empty:
        raise ValueError(f"no film under {root} is in train_val_list.txt or test_list.txt")
    for entry in entries:
        if entry["Image Index"] not in either:
            exclusions.add("film in neither list", f"train_val_list.txt: film {entry['Image Index']!r}", defect=True)
    in_test = listed["Image Index"].isin(test)
    both = set(listed.loc[in_test, "patient_id"]) & set(listed.loc[~in_test, "patient_id"])
    if both or train_val & test:
        raise ValueError(
            f"train_val_list.txt and test_list.txt share {len(both)} patients and {len(train_val & test)} films; "
            "fetch the official lists again"
        )
    train = listed.loc[~in_test]
    if len(train):
        train = split_by_patient(train, (1 - val_fraction, val_fraction, 0.0), seed)
    return {**dict.fromkeys(listed.loc[in_test, "Image Index"], "test"), **_column_pairs(train, "Image Index", "split")}


def _column_pairs(table: pd.DataFrame, key: str, value: str) -> dict[str, str]:
    return dict(zip(table[key], table[value], strict=True)) if len(table) else {}


def _read_list(path: Path) -> set[str]:
    if not path.is_file():
        raise FileNotFoundError(f"no list at {path}; the official split is part of the download")
    return set(read_text(path).split())


def _study(entry: dict[str, Any], split: str, label_reports: bool) -> dict[str, Any]:
    return {
        "study_id": entry["image_id"],
        "patient_id": entry["Patient ID"],
        "split": split,
        "report": label_sentences(entry["Finding Labels"]) if label_reports else None,
        "report_source": "labels" if label_reports else None,
        "age": entry.get("Patient Age"),
        "sex": entry.get("Patient Gender") or entry.get("Patient Sex"),
    }


def label_sentences(finding_labels: str) -> str:
    """`Effusion|Mass` as "There is pleural effusion. There is mass."; "No Finding" as a normal sentence."""
    findings = [NIH_FINDINGS[label] for label in finding_labels.split("|") if label in NIH_FINDINGS]
    return " ".join(f"There is {finding}." for finding in findings) or NORMAL_SENTENCE


def _labels(entry: dict[str, Any], exclusions: Exclusions) -> list[dict[str, Any]]:
    named = set(entry["Finding Labels"].split("|"))
    for label in sorted(named - set(NIH_FINDINGS) - {"No Finding"}):
        exclusions.add(f"unknown label {label!r}", entry["where"], defect=True)
    normal = "No Finding" in named
    if normal and len(named) > 1:
        exclusions.add("No Finding beside other labels, which count", entry["where"], defect=True)
    values = {finding: int(label in named) for label, finding in NIH_FINDINGS.items()}
    values[NO_FINDING] = int(normal and len(named) == 1)
    return [
        {"study_id": entry["image_id"], "finding": finding, "value": float(value), "source": "nih"}
        for finding, value in values.items()
    ]


def _boxes(root: Path, known: set[str], exclusions: Exclusions) -> list[dict[str, Any]]:
    """Boxes of `BBox_List_2017.csv`; its label "Infiltrate" is "Infiltration" elsewhere."""
    if not (root / BOX_FILE).is_file():
        exclusions.add(f"no {BOX_FILE}, so no boxes", BOX_FILE, defect=True)
        return []
    columns = ("Bbox [x", "y", "w", "h]")
    boxes = []
    for row in read_rows(root / BOX_FILE, ("Image Index", "Finding Label", *columns)):
        where = f"{BOX_FILE}, line {row['line']}, film {row['Image Index']!r}"
        image_id = Path(row["Image Index"]).stem
        finding = {"Infiltrate": "infiltration", **NIH_FINDINGS}.get(row["Finding Label"])
        if image_id not in known:
            exclusions.add("box of a film that is not here", where)
        elif finding is None:
            exclusions.add("box with an unknown finding", where, defect=True)
        else:
            cells = [row[column] for column in columns]
            try:
                corners = parse_box(cells, FRAME, as_xywh=True)
            except ValueError as error:
                exclusions.add("bad box", f"{where}: {error}", defect=True)
            else:
                boxes.append(box_row(image_id, image_id, finding, finding, corners, FRAME, "nih"))
    return boxes


def _rsna_rows(root: Path, known: set[str], exclusions: Exclusions) -> pd.DataFrame:
    """Rows of the challenge's labels whose film is here, with its `image_id`."""
    folder = root / "rsna"
    if not (folder / rsna.LABEL_FILE).is_file():
        return pd.DataFrame(columns=["patientId", "Target", "image_id"])
    index = read_rows(folder / "image_index.csv", ("patientId", "Image Index"))
    image_of = {row["patientId"]: Path(row["Image Index"]).stem for row in index}
    rows = rsna.read_labels(folder / rsna.LABEL_FILE)
    rows = rows.assign(image_id=rows["patientId"].map(image_of))
    here = rows["image_id"].isin(known)
    exclusions.count(f"row of {rsna.LABEL_FILE} whose film is not here", int((~here).sum()))
    return rows[here]


def _rsna_labels(rows: pd.DataFrame) -> list[dict[str, Any]]:
    targets = dict(zip(rows["image_id"], rows["Target"].astype(float), strict=True))
    return [
        {"study_id": image_id, "finding": rsna.FINDING, "value": target, "source": "rsna"}
        for image_id, target in targets.items()
    ]
