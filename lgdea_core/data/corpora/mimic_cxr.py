"""MIMIC-CXR-JPG 2.0.0 and 2.1.0 with the reports of MIMIC-CXR: 377,110 films, 227,835 studies, 65,379 patients.

    mimic-cxr-2.0.0-metadata.csv.gz, -split.csv.gz, -chexpert.csv.gz   (also unzipped; 2.1.0 keeps these names)
    mimic-cxr-2.1.0-test-set-labeled.csv                               (2.1.0; its labels replace the others')
    files/p10/p10000032/s50414267/<dicom_id>.jpg
    files/p10/p10000032/s50414267.txt                                  (mimic-cxr-reports.zip, unpacked here)
    mimic_cxr_sectioned.csv                                            (optional: MIT-LCP's create_section_files.py)

A report is its findings and impression: from `mimic_cxr_sectioned.csv` where it lies there, else cut by
`report_sections`, which follows the same rules. A study without either section keeps its films and has report None.
Labels were mined from the reports by CheXpert's labeller: 1 present, 0 denied, -1 uncertain, NaN not mentioned; the
687 studies of the 2.1.0 test file were labelled by a radiologist, "Airspace Opacity" being its "lung opacity".

MS-CXR's boxes are drawn on these films, most of them of the training split. Its patients (851 in v1.1.0) are therefore
left out of train and val, and its table must be there; those of the official test split stay.

Where Chest ImaGenome lies in a folder `chest-imagenome` in or next to this one, its region boxes come with the films
(`chest_imagenome`), which method `asg` needs. The split stays MIMIC's, and patients of its gold set are trained on.

Licence: PhysioNet Credentialed Health Data License 1.5.0; reports must not be passed on. Cite Johnson et al.,
"MIMIC-CXR-JPG, a large publicly available database of labeled chest radiographs", arXiv:1901.07042, and Johnson et al.,
"MIMIC-CXR, a de-identified publicly available database of chest radiographs with free-text reports", Scientific Data
2019.
"""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pandas as pd

from lgdea_core.data.corpora.ms_cxr import folders_beside, withhold_patients
from lgdea_core.data.corpora.tables import (
    CHEXPERT_LABELS,
    Exclusions,
    Layout,
    film_table,
    first_file,
    join_sections,
    melt_labels,
    one_of,
    plain_name,
)
from lgdea_core.data.corpus import Corpus, empty_table, quoted

STEM = "mimic-cxr-2.0.0-"
RADIOLOGIST_LABELS = "mimic-cxr-2.1.0-test-set-labeled.csv"
RENAMED = {"Lung Opacity": "Airspace Opacity"}
"""CheXpert's column -> that table's"""
SECTIONED = "mimic_cxr_sectioned.csv"
FRONTAL = ("PA", "AP")
SPLITS = {"train": "train", "validate": "val", "test": "test"}
METADATA = Layout(
    columns=("dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns"),
    key="dicom_id",
    cells=tuple(plain_name(column) for column in ("dicom_id", "study_id")),
)
SPLIT = Layout(columns=("dicom_id", "split"), key="dicom_id", cells=(one_of("split", sorted(SPLITS)),))
LABELS = Layout(columns=("study_id", *CHEXPERT_LABELS), key="study_id", noun="study")
READ_LABELS = Layout(
    columns=("study_id", *(RENAMED.get(column, column) for column in CHEXPERT_LABELS)), key="study_id", noun="study"
)
SECTIONS = Layout(columns=("study", "findings", "impression"), key="study", noun="study")
_HEADER = re.compile(r"\n ?([A-Z][A-Z ()/,-]*):\s")
_OTHER = ("history", "comparison", "addendum")
"""words of a header that decide before the views do"""
_VIEWS = (
    "chest", "portable", "pa and lat", "lateral and pa", "ap and lat", "lateral and ap", "frontal and", "two views",
    "frontal view", "pa view", "ap view", "one view", "lateral view", "bone window", "frontal upright",
    "frontal semi-upright", "ribs",
)  # fmt: skip
"""words of a header that names the films and is followed by what they show"""


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
    films = exclusions.drop_nobody(read_metadata(root), "subject_id")
    films = exclusions.drop(films, ~films["view"].isin(views), f"film of a view other than {', '.join(views)}")
    split_of = SPLIT.read(_table(root, "split")).set_index("dicom_id")["split"].map(SPLITS)
    films = films.assign(split=films["dicom_id"].map(split_of.to_dict()))
    films = exclusions.drop(films, films["split"].isna(), "film in no split", defect=True)
    films = withhold_patients(films, root, ms_cxr_table, exclusions)
    missing = f"no film of {STEM}metadata.csv under {root / 'files'}; unpack the images there"
    films, images = film_table(films, root, exclusions, missing=missing)
    studies = _studies(films, root, exclusions)
    return Corpus(
        name="mimic_cxr",
        root=root,
        studies=studies,
        images=images,
        labels=_labels(root, set(studies["study_id"])),
        regions=_regions(films, root, exclusions),
        exclusions=exclusions,
    )


def read_metadata(root: Path) -> pd.DataFrame:
    """All films as text: dicom_id and image_id, patient_id ("p10000032"), study_id ("s50414267"), file, view, size."""
    rows = METADATA.read(_table(root, "metadata"))[[*METADATA.columns, "where"]]
    rows = rows.rename(columns={"ViewPosition": "view", "Columns": "width", "Rows": "height"})
    rows = rows.assign(image_id=rows["dicom_id"], patient_id="p" + rows["subject_id"], study_id="s" + rows["study_id"])
    folder = "files/" + rows["patient_id"].str[:3] + "/" + rows["patient_id"] + "/" + rows["study_id"]
    return rows.assign(file=folder + "/" + rows["image_id"] + ".jpg")


def _table(root: Path, part: str) -> Path:
    return first_file(root / f"{STEM}{part}.csv.gz", root / f"{STEM}{part}.csv")


def _studies(films: pd.DataFrame, root: Path, exclusions: Exclusions) -> pd.DataFrame:
    studies = films[["study_id", "patient_id", "split"]].drop_duplicates("study_id", ignore_index=True)
    if (root / SECTIONED).is_file():
        rows = SECTIONS.read(root / SECTIONED)
        cut = [{"FINDINGS": row.findings, "IMPRESSION": row.impression} for row in rows.itertuples()]
        texts = dict(zip(rows["study"], cut, strict=True))
    else:
        texts = dict(_cut_reports(root, studies, exclusions))
    sections = [texts.get(study_id) for study_id in studies["study_id"]]
    exclusions.count("study without a report", sections.count(None))
    reports = [join_sections(each) if each is not None else None for each in sections]
    exclusions.count("report without findings and impression", reports.count(None) - sections.count(None))
    sources = [None if report is None else "report" for report in reports]
    return studies.assign(report=pd.Series(reports, dtype=object), report_source=pd.Series(sources, dtype=object))


def _cut_reports(root: Path, studies: pd.DataFrame, exclusions: Exclusions) -> Iterator[tuple[str, dict[str, str]]]:
    for study in studies.itertuples():
        path = root / "files" / study.patient_id[:3] / study.patient_id / f"{study.study_id}.txt"
        try:
            yield study.study_id, report_sections(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except UnicodeDecodeError:
            exclusions.add("report that is not UTF-8", f"report of study {quoted(study.study_id)}", defect=True)
        except OSError:
            exclusions.add("report that cannot be read", f"report of study {quoted(study.study_id)}", defect=True)


def report_sections(text: str) -> dict[str, str]:
    """The last non-empty sections FINDINGS and IMPRESSION of a report, as far as it has them.

    Follows `txt/section_parser.py` of MIT-LCP/mimic-cxr: a header is a line's beginning in capitals up to a colon; many
    names mean one section (misspellings, "CHEST, TWO VIEWS" for findings); empty sections do not count; of several
    sections of one name the last one does, for an addendum or a corrected report repeats the header. That script's list
    of reports cut by hand (54 study ids) is left out, and so is its "last paragraph" of reports without either section.

    Args:
        text: of `files/p1x/p1xxxxxxx/s5xxxxxxx.txt`.
    """
    found: dict[str, str] = {}
    header = _HEADER.search(text)
    while header:
        line_end = text.find("\n", header.end() - 1)  # a header's own line opens no other section
        next_header = _HEADER.search(text, line_end) if line_end >= 0 else None
        body = text[header.end() : next_header.start() if next_header else len(text)].strip()
        kind = section_kind(header[1])
        if kind and body:
            found[kind] = body
        header = next_header
    return found


def section_kind(name: str) -> str | None:
    """FINDINGS or IMPRESSION for a header that means one of them, else None."""
    name = name.lower().strip()
    if "impression" in name or name == "conclusion":
        return "IMPRESSION"
    if "findings" in name:
        return "FINDINGS"
    if any(word in name for word in _OTHER):
        return None
    misspelt = difflib.get_close_matches(name, ("impression", "findings"), n=1, cutoff=0.8)
    if misspelt:
        return misspelt[0].upper()
    return "FINDINGS" if any(view in name for view in _VIEWS) else None


def _labels(root: Path, known: set[str]) -> pd.DataFrame:
    """CheXpert's labels, with a radiologist's in place of them where 2.1.0 has any."""
    mined = melt_labels(_of_studies(LABELS.read(_table(root, "chexpert")), known), CHEXPERT_LABELS, "chexpert")
    if not (root / RADIOLOGIST_LABELS).is_file():
        return mined
    columns = {RENAMED.get(column, column): finding for column, finding in CHEXPERT_LABELS.items()}
    read = melt_labels(_of_studies(READ_LABELS.read(root / RADIOLOGIST_LABELS), known), columns, "radiologist")
    return pd.concat([mined[~mined["study_id"].isin(set(read["study_id"]))], read], ignore_index=True)


def _of_studies(rows: pd.DataFrame, known: set[str]) -> pd.DataFrame:
    rows = rows.assign(study_id="s" + rows["study_id"])
    return rows[rows["study_id"].isin(known)]


def _regions(films: pd.DataFrame, root: Path, exclusions: Exclusions) -> pd.DataFrame:
    """Boxes of Chest ImaGenome, where it lies beside, as MS-CXR may."""
    from lgdea_core.data.corpora import chest_imagenome  # which reads MIMIC's metadata by this module

    there = [folder for folder in folders_beside(root, chest_imagenome.FOLDER) if folder.is_dir()]
    for folder in there:
        if (folder / "silver_dataset" / "scene_graph").is_dir():
            return chest_imagenome.read_regions(films, folder, exclusions)
    if there:
        raise FileNotFoundError(
            f"{there[0]}: no silver_dataset/scene_graph; unpack scene_graph.zip there, or move the folder elsewhere"
        )
    return empty_table("regions")
