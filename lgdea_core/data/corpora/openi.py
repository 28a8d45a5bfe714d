"""Open-i (Indiana University): 3,955 reports with MeSH codes, 7,470 films; also as R2Gen's `annotation.json`.

Each report is one patient's. The manual MeSH codes of the same file say what the report states, so they must not feed
an extractor: they stay in column `mesh`, outside the report. Labels: `openi_gld_std14.csv` gives NIH's 14 findings for
most reports, derived from that MeSH coding; 1 is coded, 0 is not coded (not necessarily denied). "XXXX" is the
publisher's de-identification.

Licence: CC BY-NC-ND 4.0. Cite Demner-Fushman et al., "Preparing a collection of radiology examinations for distribution
and retrieval", JAMIA 2016. Labels: NCBI NegBio (Peng et al., 2018), US Government work.
"""

import logging
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lgdea_core.data.corpora.tables import Exclusions, image_row, join_sections, make_table, read_json, read_rows
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import split_by_patient
from lgdea_core.vocabulary import NIH_FINDINGS, NO_FINDING

logger = logging.getLogger("lgdea")

LABEL_FILE = "openi_gld_std14.csv"
FRACTIONS = (0.7, 0.1, 0.2)
"""shares of train, val and test: the publisher has no split, R2Gen's and ours share these"""


def load(root: Path, fractions: tuple[float, float, float] = FRACTIONS, seed: int = 0) -> Corpus:
    """Load `ecgen-radiology/*.xml` with labels and, where present, films; or R2Gen's `annotation.json`.

    A report with neither findings nor impression has nothing to extract: its study stays, with report None, and is
    counted in `exclusions`. Without the folder `NLMCXR_png` the corpus has reports only.

    Args:
        root: holds `ecgen-radiology/`, and maybe `openi_gld_std14.csv` and `NLMCXR_png/`; or `annotation.json` and
            `images/`, which brings its own split.
        fractions: of the patients, for train, val and test.
        seed: of that split.

    Raises:
        FileNotFoundError: neither layout is there.
        ValueError: a file is not XML or not JSON, or the label table lacks a column.
    """
    exclusions = Exclusions()
    if (root / "annotation.json").is_file():
        corpus = _load_r2gen(root, exclusions)
    else:
        corpus = _load_xml(root, fractions, seed, exclusions)
    exclusions.log("openi")
    return corpus


def _load_xml(root: Path, fractions: tuple[float, float, float], seed: int, exclusions: Exclusions) -> Corpus:
    files = sorted((root / "ecgen-radiology").glob("*.xml"), key=lambda path: (len(path.stem), path.stem))
    if not files:
        raise FileNotFoundError(f"no report at {root}/ecgen-radiology/*.xml; unpack NLMCXR_reports.tgz there")
    studies, images = [], []
    for path in files:
        tree = _parse(path)
        study = _study(tree, path, exclusions)
        studies.append(study)
        if (root / "NLMCXR_png").is_dir():
            images += _images(tree, study["study_id"], root, path, exclusions)
    known = {study["study_id"] for study in studies}
    return Corpus(
        name="openi",
        root=root,
        studies=split_by_patient(make_table("studies", studies), fractions, seed),
        images=make_table("images", images),
        labels=make_table("labels", _labels(root, known, exclusions)),
        exclusions=exclusions,
    )


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path.name}, line {error.position[0]}: not XML; fetch the file again") from error


def _study(tree: ElementTree.Element, path: Path, exclusions: Exclusions) -> dict[str, Any]:
    identity = tree.find("uId")
    study_id = identity.get("id") if identity is not None else None
    if not study_id:
        raise ValueError(f"{path.name}: no uId with an id; it is not an Open-i report")
    texts = {part.get("Label", "").upper(): "".join(part.itertext()) for part in tree.iter("AbstractText")}
    report = join_sections(texts)
    if report is None:
        exclusions.add("report without findings and impression", f"{path.name}, study {study_id!r}")
    mesh = [code.text.strip() for code in tree.iterfind("MeSH/major") if code.text]
    return {
        "study_id": study_id,
        "patient_id": study_id,
        "report": report,
        "report_source": None if report is None else "report",
        "mesh": ";".join(mesh),
    }


def _images(
    tree: ElementTree.Element, study_id: str, root: Path, report_file: Path, exclusions: Exclusions
) -> list[dict[str, Any]]:
    """Films of one report; whether a film is frontal is not published."""
    rows = []
    for parent in tree.iter("parentImage"):
        image_id = parent.get("id", "")
        where = f"{report_file.name}, film {image_id!r}"
        try:
            rows.append(image_row(image_id, study_id, root, root / "NLMCXR_png" / f"{image_id}.png", "unknown"))
        except FileNotFoundError:
            exclusions.add("film without a file", where, defect=True)
        except ValueError as error:
            exclusions.add("unreadable film", f"{where}: {error}", defect=True)
    return rows


def _labels(root: Path, known: set[str], exclusions: Exclusions) -> list[dict[str, Any]]:
    if not (root / LABEL_FILE).is_file():
        exclusions.add(f"no {LABEL_FILE}, so no labels", LABEL_FILE)
        return []
    columns = {**NIH_FINDINGS, "normal": NO_FINDING}
    rows, labelled = read_rows(root / LABEL_FILE, ("filename", *columns)), []
    for row in rows:
        where = f"{LABEL_FILE}, line {row['line']}, report {row['filename']!r}"
        if row["filename"] not in known:
            exclusions.add("labels of a report that is not here", where)
            continue
        for column, finding in columns.items():
            if row[column] not in ("0", "1"):
                raise ValueError(f"{where}: {column} must be 0 or 1, got {row[column]!r}")
            labelled.append({"study_id": row["filename"], "finding": finding, "value": float(row[column])})
    for _ in known - {row["filename"] for row in rows}:
        exclusions.add("report without labels", LABEL_FILE)
    return labelled


def _load_r2gen(root: Path, exclusions: Exclusions) -> Corpus:
    """`{split: [{id, image_path: [...], report}]}`; entries of one CXR number are one patient."""
    path = root / "annotation.json"
    entries = read_json(path)
    studies, images = [], []
    for split, rows in entries.items():
        for row in rows:
            where = f"{path.name}, study {row['id']!r}"
            text = " ".join(row["report"].split())
            if not text:
                exclusions.add("report without findings and impression", where)
            studies.append(
                {
                    "study_id": row["id"],
                    "patient_id": row["id"].split("_")[0],
                    "split": split,
                    "report": text or None,
                    "report_source": "report" if text else None,
                }
            )
            images += _r2gen_images(row, root, where, exclusions)
    return Corpus(
        name="openi",
        root=root,
        studies=make_table("studies", studies),
        images=make_table("images", images),
        exclusions=exclusions,
    )


def _r2gen_images(row: dict[str, Any], root: Path, where: str, exclusions: Exclusions) -> list[dict[str, Any]]:
    rows = []
    for number, name in enumerate(row["image_path"]):
        try:
            rows.append(image_row(f"{row['id']}_{number}", row["id"], root, root / "images" / name, "unknown"))
        except FileNotFoundError:
            exclusions.add("film without a file", f"{where}: {name}", defect=True)
        except ValueError as error:
            exclusions.add("unreadable film", f"{where}: {error}", defect=True)
    return rows
