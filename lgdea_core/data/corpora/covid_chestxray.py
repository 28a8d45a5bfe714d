"""COVID-19 Image Data Collection: films from publications with the text of their case.

The `report` is `clinical_notes`: a case history or a figure's caption, seldom a radiologist's report (column
report_source says "clinical notes"). It may tell of a CT or of other days, so a finding it names need not show on the
film. Films of one patient with the same text are one study. Labels come from `finding`, a diagnosis: "pneumonia" is 1
for every infection or lipoid pneumonia and 0 for "No Finding"; "covid-19" likewise 1 or 0. Boxes and masks
(`annotations/`) are drawn by General Blockchain, V7 Labs (human) or lungVAE (a model; column source says which).

Licence: per film in column `license` of metadata.csv, or CC BY / CC BY-NC-SA; annotations CC BY 4.0. Cite Cohen et al.,
"COVID-19 Image Data Collection: Prospective Predictions Are the Future", MELBA 2020.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from lgdea_core.data.corpora.tables import (
    CORNERS,
    Exclusions,
    Layout,
    box_table,
    film_table,
    is_name,
    make_table,
)
from lgdea_core.data.corpus import Corpus, quoted
from lgdea_core.data.pairing import split_by_patient
from lgdea_core.vocabulary import NO_FINDING

METADATA = Layout(
    columns=("patientid", "finding", "view", "modality", "folder", "filename", "clinical_notes"), key="filename"
)
ANNOTATIONS = Layout(columns=("filename", "phrase", "kind", *CORNERS, "mask", "origin"), key="filename")
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
    films, images = _films(root, exclusions)
    images = images.assign(study_id=films["study_id"].to_numpy())
    studies = films.drop_duplicates("study_id").rename(columns={"clinical_notes": "report"})
    studies = studies.assign(report_source=["clinical notes" if text else None for text in studies["report"]])
    studies = studies.assign(report=[text or None for text in studies["report"]], license=studies.get("license"))
    columns = ["study_id", "patient_id", "report", "report_source", "license"]
    rows = _annotations(root, films, images)
    return Corpus(
        name="covid_chestxray",
        root=root,
        studies=split_by_patient(studies[columns].reset_index(drop=True), fractions, seed),
        images=images,
        labels=make_table("labels", _labels(films, exclusions)),
        boxes=_boxes(rows, exclusions),
        masks=make_table("masks", _masks(rows, root, exclusions)),
        exclusions=exclusions,
    )


def _films(root: Path, exclusions: Exclusions) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first row of each film, with the longest text of its rows, its study and patient; and table images.

    Films of one patient with the same text are one study, named after the first of them; a film without text is one.
    """
    rows = exclusions.drop_nobody(METADATA.read(root / "metadata.csv"), "patientid")
    frontal = (rows["modality"] == "X-ray") & rows["view"].isin(FRONTAL)
    rows = exclusions.drop(rows, ~frontal, "no frontal radiograph")
    rows = rows.assign(image_id=[Path(name).stem for name in rows["filename"]])
    groups = rows.groupby("image_id", sort=False)
    texts = groups["clinical_notes"].agg(lambda notes: max(notes, key=len))
    films = exclusions.drop(rows, rows.duplicated("image_id"), "further row of the same film")
    films = films.assign(
        clinical_notes=films["image_id"].map(texts),
        study_id=films["image_id"],
        file=films["folder"] + "/" + films["filename"],
    )
    missing = f"no frontal film of metadata.csv under {root / 'images'}; unpack the images there"
    films, images = film_table(films, root, exclusions, missing=missing)
    patients = groups["patientid"].agg(set)[films["image_id"]]
    films = films.assign(patient_id=films["patientid"].map(merge_patients(patients)))
    text = films["clinical_notes"].where(films["clinical_notes"] != "", films["image_id"])
    return films.assign(study_id=films["image_id"].groupby([films["patient_id"], text]).transform("first")), images


def merge_patients(groups: Iterable[set[str]]) -> dict[str, str]:
    """One name for all patient numbers that share a film, directly or through others: the first of them in order."""
    merged: list[set[str]] = []
    for group in groups:
        touched = [other for other in merged if other & group]
        merged = [other for other in merged if not other & group] + [set(group).union(*touched)]
    return {patient: min(group) for group in merged for patient in group}


def _labels(films: pd.DataFrame, exclusions: Exclusions) -> list[dict[str, object]]:
    labels: dict[tuple[str, str], float] = {}
    for study_id, diagnosis, where in zip(films["study_id"], films["finding"], films["where"], strict=True):
        values = _finding_values(diagnosis)
        if not values:
            exclusions.add("diagnosis without a label of ours", where)
        for finding, value in values.items():
            labels[study_id, finding] = max(labels.get((study_id, finding), value), value)
    return [{"study_id": study, "finding": finding, "value": value} for (study, finding), value in labels.items()]


def _finding_values(finding: str) -> dict[str, float]:
    """Label values of a diagnosis such as "COVID-19, ARDS" or "Pneumonia/Viral/COVID-19"; empty if it decides none."""
    words = {word for part in re.split(r"[/,]", finding.lower()) for word in (part.strip(), *part.split())}
    if finding.lower() == NO_FINDING:
        return {NO_FINDING: 1.0, "pneumonia": 0.0, "covid-19": 0.0}
    if words & {"pneumonia", *PNEUMONIAS}:
        return {NO_FINDING: 0.0, "pneumonia": 1.0, "covid-19": float("covid-19" in words)}
    return {NO_FINDING: 0.0} if "ards" in words else {}


def _annotations(root: Path, films: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Rows of `annotations/boxes.csv` whose film is here, with study and frame; none without the table."""
    if not (root / "annotations" / "boxes.csv").is_file():
        return pd.DataFrame(columns=[*ANNOTATIONS.columns, "image_id", "study_id", "finding", "where"])
    rows = ANNOTATIONS.read(root / "annotations" / "boxes.csv")
    rows = rows.assign(image_id=[Path(name).stem for name in rows["filename"]], phrase=rows["phrase"].str.lower())
    rows = rows.assign(finding=[PATHOLOGIES.get(phrase, phrase) for phrase in rows["phrase"]], source=rows["origin"])
    sizes = images[["image_id", "study_id", "width", "height"]]
    return rows.merge(sizes.rename(columns={"width": "frame_width", "height": "frame_height"}), on="image_id")


def _boxes(rows: pd.DataFrame, exclusions: Exclusions) -> pd.DataFrame:
    rows = rows[rows["x_min"] != ""]  # the others are masks without a box
    for kind in ("anatomy", "device"):
        exclusions.count(f"box of {kind}", int((rows["kind"] == kind).sum()))
    other = ~rows["kind"].isin(("pathology", "anatomy", "device"))
    rows = exclusions.drop(rows, other, "box that is none of pathology, anatomy and device", defect=True)
    return box_table(rows[rows["kind"] == "pathology"], exclusions)


def _masks(rows: pd.DataFrame, root: Path, exclusions: Exclusions) -> list[dict[str, str]]:
    """One row per mask file; `kind` tells pathology from anatomy and device, `finding` of the latter is their name."""
    masks: dict[str, dict[str, str]] = {}
    for row in rows[rows["mask"] != ""].to_dict("records"):
        path = root / "annotations" / "masks" / row["mask"]
        if row["mask"] in masks:
            continue
        if not is_name(row["mask"]) or not os.path.isfile(path):
            exclusions.add("mask without a file", f"{row['where']}, mask {quoted(row['mask'])}", defect=True)
            continue
        masks[row["mask"]] = {
            "image_id": row["image_id"],
            "study_id": row["study_id"],
            "finding": row["finding"],
            "path": path.relative_to(root).as_posix(),
            "kind": "pathology" if row["phrase"] in PATHOLOGIES else row["kind"],
            "source": row["origin"],
        }
    return list(masks.values())
