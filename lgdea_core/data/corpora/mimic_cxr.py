"""MIMIC-CXR-JPG 2.0.0 and 2.1.0 with the reports of MIMIC-CXR: 377,110 films, 227,835 studies, 65,379 patients.

    mimic-cxr-2.0.0-metadata.csv.gz, -split.csv.gz, -chexpert.csv.gz   (also unzipped; 2.1.0 keeps these names)
    mimic-cxr-2.1.0-test-set-labeled.csv                               (2.1.0; its labels replace the others')
    files/p10/p10000032/s50414267/<dicom_id>.jpg
    files/p10/p10000032/s50414267.txt                                  (mimic-cxr-reports.zip, unpacked here)
    mimic_cxr_sectioned.csv                                            (optional: MIT-LCP's create_section_files.py)

A report is its findings and impression: from `mimic_cxr_sectioned.csv` where it lies there, else cut by
`mimic_reports`, which follows the same rules. A study without either section keeps its films and has report None.
Labels were mined from the reports by CheXpert's labeller: 1 present, 0 denied, -1 uncertain, NaN not mentioned; the
687 studies of the 2.1.0 test file were labelled by a radiologist, "Airspace Opacity" being its "lung opacity".

MS-CXR's boxes are drawn on these films, most of them of the training split. Its patients (851 in v1.1.0) are therefore
left out of train and val, and its table must be there; those of the official test split stay.

Where Chest ImaGenome lies in a folder `chest-imagenome` in or next to this one, its region boxes come with the films
(`scene_graphs`), which method `asg` needs. The split stays MIMIC's, and patients of its gold set are trained on.

Licence: PhysioNet Credentialed Health Data License 1.5.0; reports must not be passed on. Cite Johnson et al.,
"MIMIC-CXR-JPG, a large publicly available database of labeled chest radiographs", arXiv:1901.07042, and Johnson et al.,
"MIMIC-CXR, a de-identified publicly available database of chest radiographs with free-text reports", Scientific Data
2019.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lgdea_core.data.corpora.mimic_reports import report_sections
from lgdea_core.data.corpora.ms_cxr import folders_beside, withhold_patients
from lgdea_core.data.corpora.scene_graphs import FOLDER as SCENE_GRAPHS
from lgdea_core.data.corpora.scene_graphs import read_regions
from lgdea_core.data.corpora.tables import (
    CHEXPERT_LABELS,
    Exclusions,
    film_row,
    join_sections,
    make_table,
    melt_labels,
    read_table,
    refuse_cells,
)
from lgdea_core.data.corpus import Corpus, empty_table

logger = logging.getLogger("lgdea")

STEM = "mimic-cxr-2.0.0-"
RADIOLOGIST_LABELS = "mimic-cxr-2.1.0-test-set-labeled.csv"
SECTIONED = "mimic_cxr_sectioned.csv"
FRONTAL = ("PA", "AP")
RENAMED = {"Lung Opacity": "Airspace Opacity"}
"""CheXpert's column -> that table's"""
SPLITS = {"train": "train", "validate": "val", "test": "test"}


def load(
    root: Path, views: tuple[str, ...] = FRONTAL, ms_cxr_table: Path | Literal["beside"] | None = "beside"
) -> Corpus:
    """Load the published layout with its official split.

    Films of other views, studies without any film of these views, and training and validation studies of MS-CXR's
    patients are left out and counted; a row without a file (a partial download) is counted as a defect.

    Args:
        root: holds the tables and `files/`.
        views: of `ViewPosition` that are kept.
        ms_cxr_table: MS-CXR's csv or json, whose patients must not be trained on. "beside" takes the one in `root` or
            in a folder `ms-cxr` in it, next to it or next to its parent; None keeps these patients.

    Raises:
        FileNotFoundError: a table is missing, MS-CXR's too, or no film is there.
        ValueError: a table lacks a column, or a row has an unknown split or label; named by file and line.
    """
    exclusions = Exclusions()
    films = _films(root, views, exclusions)
    films = withhold_patients(films, root, ms_cxr_table, exclusions)
    images = [image for film in films.itertuples() if (image := _image(film, root, exclusions))]
    if not images:
        raise FileNotFoundError(f"no film of {STEM}metadata.csv under {root / 'files'}; unpack the images there")
    studies = _studies(films, {image["study_id"] for image in images}, root, exclusions)
    corpus = Corpus(
        name="mimic_cxr",
        root=root,
        studies=studies,
        images=make_table("images", images),
        labels=_labels(root, set(studies["study_id"])),
        regions=_regions(films[films["dicom_id"].isin({image["image_id"] for image in images})], root, exclusions),
        exclusions=exclusions,
    )
    exclusions.log("mimic_cxr")
    return corpus


def read_metadata(root: Path) -> pd.DataFrame:
    """All films as text: dicom_id, patient_id ("p10000032"), study_id ("s50414267"), view, width, height and line."""
    columns = ("dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns")
    table = _read(root, "metadata", columns)
    names = {"ViewPosition": "view", "Columns": "width", "Rows": "height"}
    table = table[[*columns, "line"]].rename(columns=names)
    return table.assign(patient_id="p" + table["subject_id"], study_id="s" + table["study_id"])


def film_path(root: Path, patient_id: str, study_id: str, dicom_id: str) -> Path:
    """Where the layout has a film."""
    return root / "files" / patient_id[:3] / patient_id / study_id / f"{dicom_id}.jpg"


def _read(root: Path, part: str, columns: tuple[str, ...]) -> pd.DataFrame:
    zipped = root / f"{STEM}{part}.csv.gz"
    return read_table(zipped if zipped.is_file() else zipped.with_suffix(""), columns)


def _films(root: Path, views: tuple[str, ...], exclusions: Exclusions) -> pd.DataFrame:
    """Films of these views, with their split."""
    metadata = read_metadata(root)
    wanted = metadata["view"].isin(views)
    exclusions.count(f"film of a view other than {', '.join(views)}", int((~wanted).sum()))
    table = _read(root, "split", ("dicom_id", "split"))
    expected = f"one of {sorted(SPLITS)}"
    refuse_cells(table, ~table["split"].isin(SPLITS), "split", expected, f"{STEM}split.csv", ("film", "dicom_id"))
    split_of = dict(zip(table["dicom_id"], table["split"].map(SPLITS), strict=True))
    films = metadata[wanted]
    films = films.assign(split=films["dicom_id"].map(split_of))
    for film in films[films["split"].isna()].itertuples():
        exclusions.add("film in no split", f"{STEM}metadata.csv, line {film.line}, film {film.dicom_id!r}", defect=True)
    return films[films["split"].notna()]


def _image(film: Any, root: Path, exclusions: Exclusions) -> dict[str, Any] | None:
    path = film_path(root, film.patient_id, film.study_id, film.dicom_id)
    where = f"{STEM}metadata.csv, line {film.line}, film {film.dicom_id!r}"
    return film_row(film.dicom_id, film.study_id, root, path, film.view, where, exclusions)


def _studies(films: pd.DataFrame, present: set[str], root: Path, exclusions: Exclusions) -> pd.DataFrame:
    studies = films.loc[films["study_id"].isin(present), ["study_id", "patient_id", "split"]]
    studies = studies.drop_duplicates("study_id", ignore_index=True)
    sectioned = root / SECTIONED
    texts = _sectioned(sectioned) if sectioned.is_file() else dict(_cut_reports(root, studies, exclusions))
    sections = [texts.get(study_id) for study_id in studies["study_id"]]
    exclusions.count("study without a report", sections.count(None))
    reports = [join_sections(each) if each is not None else None for each in sections]
    exclusions.count("report without findings and impression", reports.count(None) - sections.count(None))
    sources = [None if report is None else "report" for report in reports]
    return studies.assign(report=pd.Series(reports, dtype=object), report_source=pd.Series(sources, dtype=object))


def _sectioned(path: Path) -> dict[str, dict[str, str]]:
    table = read_table(path, ("study", "findings", "impression"))
    return {
        row.study: {"FINDINGS": row.findings, "IMPRESSION": row.impression} for row in table.itertuples(index=False)
    }


def _cut_reports(root: Path, studies: pd.DataFrame, exclusions: Exclusions) -> Iterator[tuple[str, dict[str, str]]]:
    for study in studies.itertuples():
        path = root / "files" / study.patient_id[:3] / study.patient_id / f"{study.study_id}.txt"
        try:
            yield study.study_id, report_sections(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except UnicodeDecodeError:
            exclusions.add("report that is not UTF-8", f"{path.name}, study {study.study_id!r}", defect=True)


def _regions(films: pd.DataFrame, root: Path, exclusions: Exclusions) -> pd.DataFrame:
    """Boxes of Chest ImaGenome, where it lies beside, as MS-CXR may."""
    there = [folder for folder in folders_beside(root, SCENE_GRAPHS) if folder.is_dir()]
    for folder in there:
        if (folder / "silver_dataset" / "scene_graph").is_dir():
            return read_regions(films, folder, exclusions)
    if there:
        raise FileNotFoundError(
            f"{there[0]}: no silver_dataset/scene_graph; unpack scene_graph.zip there, or move the folder elsewhere"
        )
    return empty_table("regions")


def _labels(root: Path, known: set[str]) -> pd.DataFrame:
    """CheXpert's labels, with a radiologist's in place of them where 2.1.0 has any."""
    table = _read(root, "chexpert", ("study_id", *CHEXPERT_LABELS))
    mined = melt_labels(_known(table, known), CHEXPERT_LABELS, f"{STEM}chexpert.csv", "chexpert")
    path = root / RADIOLOGIST_LABELS
    if not path.is_file():
        return mined
    columns = {RENAMED.get(column, column): finding for column, finding in CHEXPERT_LABELS.items()}
    table = _known(read_table(path, ("study_id", *columns)), known)
    read = melt_labels(table, columns, path.name, "radiologist")
    return pd.concat([mined[~mined["study_id"].isin(set(read["study_id"]))], read], ignore_index=True)


def _known(table: pd.DataFrame, known: set[str]) -> pd.DataFrame:
    table = table.assign(study_id="s" + table["study_id"])
    return table[table["study_id"].isin(known)]
