"""Open-i (Indiana University): 3,955 reports with MeSH codes, 7,470 films; also as R2Gen's `annotation.json`.

Each report is one patient's. The manual MeSH codes of the same file say what the report states, so they must not feed
an extractor: they stay in column `mesh`, outside the report. Labels: `openi_gld_std14.csv` gives NIH's 14 findings for
most reports, derived from that MeSH coding; 1 is coded, 0 is not coded (not necessarily denied). "XXXX" is the
publisher's de-identification.

Licence: CC BY-NC-ND 4.0. Cite Demner-Fushman et al., "Preparing a collection of radiology examinations for distribution
and retrieval", JAMIA 2016. Labels: NCBI NegBio (Peng et al., 2018), US Government work.
"""

from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from lgdea_core.data.corpora.tables import (
    Exclusions,
    Layout,
    film_table,
    join_sections,
    make_table,
    one_of,
    read_json,
)
from lgdea_core.data.corpus import Corpus, empty_table
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
FRACTIONS = (0.7, 0.1, 0.2)
"""shares of train, val and test: the publisher has no split, R2Gen's and ours share these"""
FILM_COLUMNS = ["image_id", "study_id", "file", "view", "where"]


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
        return _load_r2gen(root, exclusions)
    paths = sorted((root / "ecgen-radiology").glob("*.xml"), key=lambda path: (len(path.stem), path.stem))
    if not paths:
        raise FileNotFoundError(f"no report at {root}/ecgen-radiology/*.xml; unpack NLMCXR_reports.tgz there")
    studies, films = [], []
    for path in paths:
        study, own = _report(path, exclusions)
        studies.append(study)
        films += own
    films = films if (root / "NLMCXR_png").is_dir() else []
    labels = _labels(root, {study["study_id"] for study in studies}, exclusions)
    return _corpus(root, split_by_patient(pd.DataFrame(studies), fractions, seed), films, labels, exclusions)


def _corpus(
    root: Path, studies: pd.DataFrame, films: list[dict[str, str]], labels: pd.DataFrame, exclusions: Exclusions
) -> Corpus:
    table = pd.DataFrame(films, columns=FILM_COLUMNS)
    images = film_table(table, root, exclusions, absent="film without a file")[1]
    return Corpus(name="openi", root=root, studies=studies, images=images, labels=labels, exclusions=exclusions)


def _report(path: Path, exclusions: Exclusions) -> tuple[dict[str, str | None], list[dict[str, str]]]:
    """The study of one file, and its films; whether a film is frontal is not published there."""
    try:
        tree = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path.name}, line {error.position[0]}: not XML; fetch the file again") from error
    identity = tree.find("uId")
    study_id = identity.get("id") if identity is not None else None
    if not study_id:
        raise ValueError(f"{path.name}: no uId with an id; it is not an Open-i report")
    texts = {part.get("Label", "").upper(): "".join(part.itertext()) for part in tree.iter("AbstractText")}
    report = join_sections(texts)
    if report is None:
        exclusions.add("report without findings and impression", f"{path.name}, study {study_id!r}")
    mesh = [code.text.strip() for code in tree.iterfind("MeSH/major") if code.text]
    films = [
        _film(name, study_id, f"NLMCXR_png/{name}.png", f"{path.name}, film {name!r}")
        for name in (parent.get("id", "") for parent in tree.iter("parentImage"))
    ]
    return _study(study_id, study_id, report) | {"mesh": ";".join(mesh)}, films


def _study(study_id: str, patient_id: str, report: str | None) -> dict[str, str | None]:
    source = None if report is None else "report"
    return {"study_id": study_id, "patient_id": patient_id, "report": report, "report_source": source}


def _film(image_id: str, study_id: str, file: str, where: str) -> dict[str, str]:
    return dict(zip(FILM_COLUMNS, (image_id, study_id, file, "unknown", where), strict=True))


def _labels(root: Path, known: set[str], exclusions: Exclusions) -> pd.DataFrame:
    if not (root / LABEL_FILE).is_file():
        exclusions.add(f"no {LABEL_FILE}, so no labels", LABEL_FILE)
        return empty_table("labels")
    rows = LABELS.read(root / LABEL_FILE)
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
    studies, films = [], []
    for split, rows in read_json(path).items():
        for row in rows:
            where = f"{path.name}, study {row['id']!r}"
            text = " ".join(row["report"].split())
            if not text:
                exclusions.add("report without findings and impression", where)
            studies.append(_study(row["id"], row["id"].split("_")[0], text or None) | {"split": split})
            films += [
                _film(f"{row['id']}_{number}", row["id"], f"images/{name}", f"{where}: {name}")
                for number, name in enumerate(row["image_path"])
            ]
    columns = ["study_id", "patient_id", "split", "report", "report_source"]
    return _corpus(root, pd.DataFrame(studies, columns=columns), films, empty_table("labels"), exclusions)
