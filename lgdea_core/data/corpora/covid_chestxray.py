"""COVID-19 Image Data Collection: films from publications with the text of their case.

The `report` is `clinical_notes`: a case history or a figure's caption, seldom a radiologist's report (column
report_source says "clinical notes"). It may tell of a CT or of other days, so a finding it names need not show on the
film. Films of one patient with the same text are one study. Labels come from `finding`, a diagnosis: "pneumonia" is 1
for every infection or lipoid pneumonia and 0 for "No Finding"; "covid-19" likewise 1 or 0. Boxes and masks
(`annotations/`) are drawn by General Blockchain, V7 Labs (human) or lungVAE (a model; column source says which).

Licence: per film in column `license` of metadata.csv, or CC BY / CC BY-NC-SA; annotations CC BY 4.0. Cite Cohen et al.,
"COVID-19 Image Data Collection: Prospective Predictions Are the Future", MELBA 2020.
"""

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lgdea_core.data.corpora.tables import Exclusions, box_row, film_row, make_table, parse_box, read_rows
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import split_by_patient
from lgdea_core.vocabulary import NO_FINDING

logger = logging.getLogger("lgdea")

FRACTIONS = (0.7, 0.1, 0.2)
"""shares of train, val and test patients: the publisher has no split"""
FRONTAL = ("PA", "AP", "AP Supine", "AP Erect")
PNEUMONIAS = (
    "aspiration", "aspergillosis", "bacterial", "chlamydophila", "covid-19", "e.coli", "fungal", "h1n1", "herpes",
    "influenza", "klebsiella", "legionella", "lipoid", "mers-cov", "mrsa", "mycoplasma", "nocardia", "pneumocystis",
    "sars", "staphylococcus", "streptococcus", "varicella", "viral",
)  # fmt: skip
"""words of `finding` that the collection files under pneumonia"""
PATHOLOGIES = {"ground glass opacity": "lung opacity", "consolidation": "consolidation"}
"""annotated pathology -> our observation name; `phrase` keeps the annotators' word"""


def load(root: Path, fractions: tuple[float, float, float] = FRACTIONS, seed: int = 0) -> Corpus:
    """Load `metadata.csv`, `images/` and, where present, `annotations/`.

    Rows of one film are merged, and so are patients who share a film (the collection holds some cases twice, under
    different numbers): otherwise they could fall into two splits. CT slices and lateral films are left out and counted,
    and so are boxes of anatomy and devices (not findings) and boxes without coordinates.

    Args:
        root: the collection's folder.
        fractions: of the patients, for train, val and test.
        seed: of that split.

    Raises:
        FileNotFoundError: `metadata.csv` is missing, or no film is there.
        ValueError: a table lacks a column.
    """
    exclusions = Exclusions()
    films = _films(root, exclusions)
    studies, study_of = _studies(films)
    sizes = {image_id: (film["image"]["width"], film["image"]["height"]) for image_id, film in films.items()}
    images = [{**film["image"], "study_id": study_of[image_id]} for image_id, film in films.items()]
    annotations = [row for row in _annotations(root) if Path(row["filename"]).stem in sizes]
    corpus = Corpus(
        name="covid_chestxray",
        root=root,
        studies=split_by_patient(make_table("studies", studies), fractions, seed),
        images=make_table("images", images),
        labels=make_table("labels", _labels(films, study_of, exclusions)),
        boxes=make_table("boxes", _boxes(annotations, study_of, sizes, exclusions)),
        masks=make_table("masks", _masks(annotations, study_of, root, exclusions)),
        exclusions=exclusions,
    )
    exclusions.log("covid_chestxray")
    return corpus


def _films(root: Path, exclusions: Exclusions) -> dict[str, dict[str, Any]]:
    """Rows of metadata.csv by film: the first row of each, with all its patients and its longest text."""
    table = root / "metadata.csv"
    films: dict[str, dict[str, Any]] = {}
    for row in read_rows(table, ("patientid", "finding", "view", "modality", "folder", "filename", "clinical_notes")):
        where = f"{table.name}, line {row['line']}, film {row['filename']!r}"
        if row["modality"] != "X-ray" or row["view"] not in FRONTAL:
            exclusions.add("no frontal radiograph", where)
            continue
        image_id = Path(row["filename"]).stem
        if image_id in films:
            exclusions.add("further row of the same film", where)
            _merge(films[image_id], row)
            continue
        path = root / row["folder"] / row["filename"]
        image = film_row(image_id, image_id, root, path, row["view"], where, exclusions)
        if image is not None:
            films[image_id] = {**row, "image": image, "patients": {row["patientid"]}}
    if not films:
        raise FileNotFoundError(f"no frontal film of {table.name} under {root / 'images'}; unpack the images there")
    return films


def _merge(film: dict[str, Any], row: dict[str, str]) -> None:
    film["patients"].add(row["patientid"])
    film["clinical_notes"] = max(film["clinical_notes"], row["clinical_notes"], key=len)


def _studies(films: dict[str, dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Studies, and the study of each film: films of one patient with the same text, named after the first of them."""
    patient_of = merge_patients(film["patients"] for film in films.values())
    studies: dict[tuple[str, str], dict[str, Any]] = {}
    study_of = {}
    for image_id, film in films.items():
        patient, text = patient_of[film["patientid"]], film["clinical_notes"]
        key = (patient, text or image_id)
        study = {
            "study_id": image_id,
            "patient_id": patient,
            "report": text or None,
            "report_source": "clinical notes" if text else None,
            "license": film.get("license"),
        }
        study_of[image_id] = studies.setdefault(key, study)["study_id"]
    return list(studies.values()), study_of


def merge_patients(groups: Iterable[set[str]]) -> dict[str, str]:
    """One name for all patient numbers that share a film, directly or through others: the first of them in order."""
    merged: list[set[str]] = []
    for group in groups:
        touched = [other for other in merged if other & group]
        merged = [other for other in merged if not other & group] + [set(group).union(*touched)]
    return {patient: min(group) for group in merged for patient in group}


def _labels(films: dict[str, dict[str, Any]], study_of: dict[str, str], exclusions: Exclusions) -> list[dict[str, Any]]:
    labels: dict[tuple[str, str], float] = {}
    for image_id, film in films.items():
        values = _finding_values(film["finding"])
        if not values:
            where = f"metadata.csv, line {film['line']}, film {film['filename']!r}"
            exclusions.add("diagnosis without a label of ours", where)
        for finding, value in values.items():
            key = (study_of[image_id], finding)
            labels[key] = max(labels.get(key, value), value)
    return [{"study_id": study, "finding": finding, "value": value} for (study, finding), value in labels.items()]


def _finding_values(finding: str) -> dict[str, float]:
    """Label values of a diagnosis such as "COVID-19, ARDS" or "Pneumonia/Viral/COVID-19"; empty if it decides none."""
    words = {word for part in re.split(r"[/,]", finding.lower()) for word in (part.strip(), *part.split())}
    if finding.lower() == NO_FINDING:
        return {NO_FINDING: 1.0, "pneumonia": 0.0, "covid-19": 0.0}
    if words & {"pneumonia", *PNEUMONIAS}:
        return {NO_FINDING: 0.0, "pneumonia": 1.0, "covid-19": float("covid-19" in words)}
    return {NO_FINDING: 0.0} if "ards" in words else {}


def _annotations(root: Path) -> list[dict[str, str]]:
    table = root / "annotations" / "boxes.csv"
    columns = ("filename", "phrase", "kind", "x_min", "y_min", "x_max", "y_max", "mask", "origin")
    return read_rows(table, columns) if table.is_file() else []


def _boxes(
    annotations: list[dict[str, str]],
    study_of: dict[str, str],
    sizes: dict[str, tuple[int, int]],
    exclusions: Exclusions,
) -> list[dict[str, Any]]:
    boxes = []
    for row in annotations:
        where = f"boxes.csv, line {row['line']}, film {row['filename']!r}"
        image_id, phrase = Path(row["filename"]).stem, row["phrase"].lower()
        if not row["x_min"]:
            continue  # a mask without a box
        if row["kind"] != "pathology":
            exclusions.add(f"box of {row['kind']}", where)
            continue
        frame = (float(sizes[image_id][0]), float(sizes[image_id][1]))
        try:
            corners = parse_box([row[name] for name in ("x_min", "y_min", "x_max", "y_max")], frame)
        except ValueError as error:
            exclusions.add("bad box", f"{where}: {error}", defect=True)
            continue
        finding = PATHOLOGIES.get(phrase, phrase)
        boxes.append(box_row(image_id, study_of[image_id], phrase, finding, corners, frame, row["origin"]))
    return boxes


def _masks(
    annotations: list[dict[str, str]], study_of: dict[str, str], root: Path, exclusions: Exclusions
) -> list[dict[str, Any]]:
    """One row per mask file; `kind` tells pathology from anatomy and device, `finding` of the latter is their name."""
    masks: dict[str, dict[str, Any]] = {}
    for row in annotations:
        if not row["mask"] or row["mask"] in masks:
            continue
        path = root / "annotations" / "masks" / row["mask"]
        if not path.is_file():
            exclusions.add("mask without a file", f"boxes.csv, line {row['line']}: {row['mask']}", defect=True)
            continue
        image_id, phrase = Path(row["filename"]).stem, row["phrase"].lower()
        masks[row["mask"]] = {
            "image_id": image_id,
            "study_id": study_of[image_id],
            "finding": PATHOLOGIES.get(phrase, phrase),
            "path": path.relative_to(root).as_posix(),
            "kind": "pathology" if phrase in PATHOLOGIES else row["kind"],
            "source": row["origin"],
        }
    return list(masks.values())
