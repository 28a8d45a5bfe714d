"""Open-i (Indiana University): 3,955 reports with MeSH codes, 7,470 films; in three layouts.

    ecgen-radiology/*.xml                  the publisher's: a file a report; its films in NLMCXR_png/<parentImage>.png
    indiana_reports.csv                    Kaggle's copy: uid, MeSH, indication, comparison, findings, impression
    indiana_projections.csv                uid, filename, projection (Frontal or Lateral); also beside the publisher's
    images/images_normalized/<filename>    films of Kaggle's copy
    annotation.json, images/               R2Gen's, which brings its own split

Where the projections are known, column view says "frontal" or "lateral" and a study's frontal films come first. Each
report is one patient's. The manual MeSH codes of the same file say what the report states, so they must not feed an
extractor: they stay in column `mesh`, outside the report. Labels: `openi_gld_std14.csv` gives NIH's 14 findings for
most reports, derived from that MeSH coding; 1 is coded, 0 is not coded (not necessarily denied). "XXXX" is the
publisher's de-identification.

Licence: CC BY-NC-ND 4.0. Cite Demner-Fushman et al., "Preparing a collection of radiology examinations for distribution
and retrieval", JAMIA 2016. Labels: NCBI NegBio (Peng et al., 2018), US Government work.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from lgdea_core.data.corpora.tables import (
    Exclusions,
    Layout,
    film_table,
    first_file,
    is_name,
    join_sections,
    json_rows,
    make_table,
    one_of,
    plain_name,
    read_json,
)
from lgdea_core.data.corpus import Corpus, empty_table, quoted
from lgdea_core.data.pairing import split_by_patient
from lgdea_core.vocabulary import NIH_FINDINGS, NO_FINDING

LABEL_FILE = "openi_gld_std14.csv"
FINDINGS = {**NIH_FINDINGS, "normal": NO_FINDING}
"""column of the label table -> our name"""
LABELS = Layout(
    columns=("filename", *FINDINGS),
    key="filename",
    noun="report",
    cells=tuple(one_of(column, ("0", "1"), "0 or 1") for column in FINDINGS),
)
KAGGLE_REPORTS = Layout(
    columns=("uid", "MeSH", "indication", "comparison", "findings", "impression"),
    key="uid",
    noun="report",
    cells=(plain_name("uid"),),
)
PROJECTIONS_FILE = "indiana_projections.csv"
PROJECTIONS = Layout(
    columns=("uid", "filename", "projection"),
    key="filename",
    cells=(plain_name("uid"), plain_name("filename"), one_of("projection", ("Frontal", "Lateral"))),
)
PLACES = ("images/images_normalized", "images_normalized", "images")
"""where Kaggle's films may lie, the first that has it counts"""
FRACTIONS = (0.7, 0.1, 0.2)
"""shares of train, val and test: the publisher has no split, R2Gen's and ours share these"""
FILM_COLUMNS = ("image_id", "study_id", "file", "view", "where")


def load(root: Path, fractions: tuple[float, float, float] = FRACTIONS, seed: int = 0) -> Corpus:
    """Load R2Gen's `annotation.json` if it is there, else Kaggle's `indiana_reports.csv`, else `ecgen-radiology/*.xml`.

    A report with neither findings nor impression has nothing to extract: its study stays, with report None, and is
    counted in `exclusions`. Without a folder of films the corpus has reports only.

    Args:
        root: holds one of the layouts, and maybe `openi_gld_std14.csv`.
        fractions: of the patients, for train, val and test.
        seed: of that split.

    Raises:
        FileNotFoundError: no layout is there.
        ValueError: a file is not XML, not JSON or holds no study, or a table is not in its layout.
    """
    exclusions = Exclusions()
    if (root / "annotation.json").is_file():
        return _load_r2gen(root, exclusions)
    kaggle = (root / "indiana_reports.csv").is_file()
    studies, films = _read_kaggle(root, exclusions) if kaggle else _read_xml(root, exclusions)
    labels = _labels(root, {study["study_id"] for study in studies}, exclusions)
    return _corpus(root, split_by_patient(pd.DataFrame(studies), fractions, seed), films, labels, exclusions)


def _corpus(
    root: Path, studies: pd.DataFrame, films: list[dict[str, str]], labels: pd.DataFrame, exclusions: Exclusions
) -> Corpus:
    rank = {study_id: number for number, study_id in enumerate(studies["study_id"])}
    films = sorted(films, key=lambda film: (rank[film["study_id"]], film["view"] == "lateral"))  # else as published
    images = film_table(pd.DataFrame(films, columns=FILM_COLUMNS), root, exclusions, absent="film without a file")[1]
    return Corpus(name="openi", root=root, studies=studies, images=images, labels=labels, exclusions=exclusions)


def _read_xml(root: Path, exclusions: Exclusions) -> tuple[list[dict[str, str | None]], list[dict[str, str]]]:
    paths = sorted((root / "ecgen-radiology").glob("*.xml"), key=lambda path: (len(path.stem), path.stem))
    if not paths:
        raise FileNotFoundError(
            f"no report at {root}/ecgen-radiology/*.xml; unpack NLMCXR_reports.tgz there, or put Kaggle's "
            "indiana_reports.csv or R2Gen's annotation.json in its place"
        )
    views = {}
    if (root / PROJECTIONS_FILE).is_file():
        table = PROJECTIONS.read(root / PROJECTIONS_FILE)
        views = dict(zip(table["filename"].map(_bare), table["projection"].str.lower(), strict=True))
    studies, films = [], []
    for path in paths:
        study, names = _report(path, exclusions)
        studies.append(study)
        for name in names if (root / "NLMCXR_png").is_dir() else ():
            where = f"{path.name}, film {quoted(name)}"
            if is_name(name):
                # report 1 says its number twice, CXR1_1_IM-0001-3001, where the projections say it once
                view = views.get(re.sub(r"^CXR(?:(\d+)_(?=\1_))?", "", name), "unknown")
                films.append(_film(name, study["study_id"], f"NLMCXR_png/{name}.png", view, where))
            else:
                exclusions.add("film whose id is no name", where, defect=True)
    return studies, films


def _bare(filename: str) -> str:
    return filename.removesuffix(".png").removesuffix(".dcm")


def _report(path: Path, exclusions: Exclusions) -> tuple[dict[str, str | None], list[str]]:
    """The study of one file, and the names of its films."""
    try:
        tree = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path.name}, line {error.position[0]}: not XML; fetch the file again") from error
    except (ValueError, LookupError) as error:  # an encoding that Python or expat does not know
        raise ValueError(f"{path.name}, line 1: its encoding cannot be read; save it as UTF-8") from error
    identity = tree.find("uId")
    study_id = identity.get("id") if identity is not None else None
    if not study_id:
        raise ValueError(f"{path.name}: no uId with an id; it is not an Open-i report")
    parts = [(part.get("Label", "").upper(), "".join(part.itertext())) for part in tree.iter("AbstractText")]
    where = f"{path.name}, study {quoted(study_id)}"
    if any(number > 1 for number in Counter(label for label, _ in parts).values()):
        exclusions.add("report with two sections of one name, left out", where, defect=True)
        parts = []
    report = join_sections(dict(parts))
    if report is None and parts:
        exclusions.add("report without findings and impression", where)
    mesh = ";".join(code.text.strip() for code in tree.iterfind("MeSH/major") if code.text)
    films = [parent.get("id", "") for parent in tree.iter("parentImage")]
    return _study(study_id, study_id, report) | {"mesh": mesh}, films


def _read_kaggle(root: Path, exclusions: Exclusions) -> tuple[list[dict[str, str | None]], list[dict[str, str]]]:
    studies, films = [], []
    for row in KAGGLE_REPORTS.read(root / "indiana_reports.csv").to_dict("records"):
        sections = {name.upper(): row[name] for name in ("indication", "comparison", "findings", "impression")}
        report = join_sections(sections)
        if report is None:
            exclusions.add("report without findings and impression", row["where"])
        study_id = f"CXR{row['uid']}"
        studies.append(_study(study_id, study_id, report) | {"mesh": row["MeSH"]})
    if not studies:
        raise ValueError("indiana_reports.csv: no rows; fetch the table again")
    if not any((root / place).is_dir() for place in PLACES):
        return studies, films
    table = PROJECTIONS.read(root / PROJECTIONS_FILE)
    unknown = ~("CXR" + table["uid"]).isin({study["study_id"] for study in studies})
    for row in exclusions.drop(table, unknown, "film of a report that is not here", defect=True).to_dict("records"):
        file = first_file(*(root / place / row["filename"] for place in PLACES)).relative_to(root).as_posix()
        names = (f"CXR{_bare(row['filename'])}", f"CXR{row['uid']}")
        films.append(_film(*names, file, row["projection"].lower(), row["where"]))
    return studies, films


def _study(study_id: str, patient_id: str, report: str | None) -> dict[str, str | None]:
    source = None if report is None else "report"
    return {"study_id": study_id, "patient_id": patient_id, "report": report, "report_source": source}


def _film(*cells: str) -> dict[str, str]:
    return dict(zip(FILM_COLUMNS, cells, strict=True))


def _labels(root: Path, known: set[str], exclusions: Exclusions) -> pd.DataFrame:
    if not (root / LABEL_FILE).is_file():
        exclusions.add(f"no {LABEL_FILE}, so no labels", LABEL_FILE)
        return empty_table("labels")
    rows = LABELS.read(root / LABEL_FILE)
    rows = exclusions.drop(rows, rows.duplicated("filename"), "labels listed again", defect=True)
    exclusions.count("report without labels", len(known - set(rows["filename"])))
    rows = exclusions.drop(rows, ~rows["filename"].isin(known), "labels of a report that is not here")
    labels = [
        {"study_id": row["filename"], "finding": finding, "value": float(row[column])}
        for row in rows.to_dict("records")
        for column, finding in FINDINGS.items()
    ]
    return make_table("labels", labels)


def _load_r2gen(root: Path, exclusions: Exclusions) -> Corpus:
    """`{split: [{id, image_path: [...], report}]}`; entries of one CXR number are one patient."""
    path = root / "annotation.json"
    content = read_json(path)
    if not isinstance(content, dict) or not any(content.values()):
        raise ValueError(f"{path.name}: expected entries under train, val and test, found none; fetch the file again")
    studies, films = [], []
    for split, rows in content.items():
        for number, row in enumerate(_entries(f"{path.name}, split {quoted(split)}", rows)):
            where = f"{path.name}, split {quoted(split)}, entry {number}, study {quoted(row['id'])}"
            text = " ".join(row["report"].split())
            if not text:
                exclusions.add("report without findings and impression", where)
            studies.append(_study(row["id"], row["id"].split("_")[0], text or None) | {"split": split})
            films += [
                _film(f"{row['id']}_{place}", row["id"], f"images/{name}", "unknown", f"{where}, film {quoted(name)}")
                for place, name in enumerate(row["image_path"])
            ]
    return _corpus(root, pd.DataFrame(studies), films, empty_table("labels"), exclusions)


def _entries(where: str, rows: Any) -> list[dict[str, Any]]:
    for number, row in enumerate(json_rows(where, rows, id=str, image_path=list, report=str)):
        if not all(isinstance(name, str) for name in row["image_path"]):
            raise ValueError(f"{where}, entry {number}: image_path must be a list of paths; fetch the file again")
    return rows
