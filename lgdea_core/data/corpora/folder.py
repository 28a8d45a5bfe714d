"""Your own films and reports: a folder with `studies.csv`, and maybe `labels.csv` and `boxes.csv`.

    studies.csv   study_id, patient_id, split (train, val or test); report and/or image; view
    labels.csv    study_id, finding, value (1, 0, -1 for uncertain, empty for not mentioned)
    boxes.csv     study_id, finding, x_min, y_min, x_max, y_max; phrase; frame_width, frame_height (default: the image)

A study has at most one film, whose path counts from the folder and stays in it (`allow_outside` lifts that). A study
without report or without film says so by the word `none` in that cell; an empty cell is taken for an accident.
Everything here is the user's own, so whatever is wrong is an error with file and line, and nothing is left out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lgdea_core.data.corpora.tables import (
    CORNERS,
    LABEL_VALUES,
    Layout,
    image_row,
    make_table,
    parse_box,
    parse_frame,
    stays_inside,
)
from lgdea_core.data.corpus import COLUMNS, NO_PATIENT, Corpus, quoted
from lgdea_core.vocabulary import SPLITS

NONE = "none"
"""cell of a study that has no report, or no film"""
STUDIES = Layout(columns=("study_id", "patient_id", "split"), key="study_id", noun="study")
LABELS = Layout(columns=("study_id", "finding", "value"), key="study_id", noun="study")
BOXES = Layout(columns=("study_id", "finding", *CORNERS), key="study_id", noun="study")

Tables = dict[str, list[dict[str, Any]]]


def load(root: Path, allow_outside: bool = False) -> Corpus:
    """Load the folder, or refuse it.

    Args:
        root: the folder.
        allow_outside: the table is your own and may name films anywhere.

    Raises:
        FileNotFoundError: `studies.csv` or a film is missing.
        ValueError: a row is wrong; the message names file, line and study.
    """
    corpus, problems = read_folder(root, allow_outside)
    for problem in problems:
        raise problem
    return corpus


def read_folder(root: Path, allow_outside: bool = False) -> tuple[Corpus, list[Exception]]:
    """All good rows of the folder, and an error for each bad one.

    Raises:
        FileNotFoundError: `studies.csv` is missing.
        ValueError: a table lacks a column.
    """
    tables: Tables = {"studies": [], "images": [], "labels": [], "boxes": []}
    problems = [*_read_studies(root, tables, allow_outside)]
    if (root / "labels.csv").is_file():
        problems += _read_labels(root, tables)
    if (root / "boxes.csv").is_file():
        problems += _read_boxes(root, tables)
    return Corpus(name="folder", root=root, **{name: make_table(name, rows) for name, rows in tables.items()}), problems


def _read_studies(root: Path, tables: Tables, allow_outside: bool) -> Iterator[Exception]:
    rows = STUDIES.read(root / "studies.csv")
    if rows.empty:
        yield ValueError("studies.csv: no rows; it needs one line per study")
    elif not {"report", "image"} & set(rows):
        yield ValueError("studies.csv: missing column(s) report or image; a study needs at least one of them")
        return
    split_of: dict[str, tuple[str, int]] = {}
    seen: dict[str, int] = {}
    for row in rows.to_dict("records"):
        try:
            _check_study(row, seen, split_of)
            image = row.get("image", NONE)
            if image.lower() != NONE:
                tables["images"].append(_image(row, root, allow_outside))
        except (ValueError, FileNotFoundError) as error:
            yield error
            continue
        report = row.get("report", NONE)
        text = None if report.lower() == NONE else report
        ids = {key: row[key] for key in ("study_id", "patient_id", "split")}
        tables["studies"].append({**ids, "report": text, "report_source": None if text is None else "report"})


def _check_study(row: dict[str, Any], seen: dict[str, int], split_of: dict[str, tuple[str, int]]) -> None:
    """Refuse a row by itself, or because of an earlier one."""
    where = row["where"]
    if not row["study_id"]:
        raise ValueError(f"{where}: study_id is empty; every study needs one")
    if row["patient_id"].lower() in NO_PATIENT:
        raise ValueError(f"{where}: patient_id names no patient, got {row['patient_id']!r}; every study needs one")
    if row["study_id"] in seen:
        raise ValueError(f"{where}: the study is already in line {seen[row['study_id']]}; each study_id must be unique")
    seen[row["study_id"]] = row["line"]
    if row["split"] not in SPLITS:
        raise ValueError(f"{where}: split must be one of {sorted(SPLITS)}, got {quoted(row['split'])}")
    split, line = split_of.setdefault(row["patient_id"], (row["split"], row["line"]))
    if split != row["split"]:
        raise ValueError(
            f"{where}: patient {quoted(row['patient_id'])} is in split {split!r} by line {line}, in {row['split']!r} "
            "here; split by patient"
        )
    if "report" in row and not row["report"]:  # never quote a report: it may be a patient's
        raise ValueError(
            f"{where}: the report is empty; write {NONE} for a study without report, drop the row or leave the report "
            "column out"
        )
    if "image" in row and not row["image"]:
        raise ValueError(f"{where}: the image is empty; write {NONE} for a study without film, or drop the row")
    if row.get("report", NONE).lower() == NONE and row.get("image", NONE).lower() == NONE:
        raise ValueError(f"{where}: neither report nor image; drop the row")


def _image(row: dict[str, Any], root: Path, allow_outside: bool) -> dict[str, Any]:
    if not (allow_outside or stays_inside(row["image"])):
        raise ValueError(
            f"{row['where']}: the image's path leaves {root}; move the film into the folder, or load it with "
            "allow_outside=True (--allow-outside of the check)"
        )
    try:
        return image_row(row["study_id"], row["study_id"], root, root / row["image"], row.get("view") or "unknown")
    except FileNotFoundError:
        raise FileNotFoundError(f"{row['where']}: no image {quoted(row['image'])} in {root}") from None
    except ValueError as error:
        raise ValueError(f"{row['where']}: {error}") from error


def _read_labels(root: Path, tables: Tables) -> Iterator[Exception]:
    known = {study["study_id"] for study in tables["studies"]}
    labelled: set[tuple[str, str]] = set()
    for row in LABELS.read(root / "labels.csv").to_dict("records"):
        where, value = row["where"], LABEL_VALUES.get(row["value"])
        if row["study_id"] not in known:
            yield ValueError(f"{where}: the study is not in studies.csv; add it there or drop the row")
        elif not row["finding"]:
            yield ValueError(f"{where}: finding is empty; name one or drop the row")
        elif value is None:
            yield ValueError(f"{where}: value must be 1, 0, -1 or empty, got {quoted(row['value'])}")
        elif (row["study_id"], row["finding"].lower()) in labelled:
            yield ValueError(f"{where}: the study has a label of this finding already; keep one of them")
        else:
            labelled.add((row["study_id"], row["finding"].lower()))
            tables["labels"].append({"study_id": row["study_id"], "finding": row["finding"].lower(), "value": value})


def _read_boxes(root: Path, tables: Tables) -> Iterator[Exception]:
    sizes = {image["study_id"]: (image["width"], image["height"]) for image in tables["images"]}
    for row in BOXES.read(root / "boxes.csv").to_dict("records"):
        study_id, cells = row["study_id"], (row.get("frame_width", ""), row.get("frame_height", ""))
        if study_id not in sizes:
            yield ValueError(f"{row['where']}: the study has no image in studies.csv; add it there or drop the row")
            continue
        try:
            frame = parse_frame(*(cells if any(cells) else sizes[study_id]))
            corners = parse_box([row[name] for name in CORNERS], frame)
        except ValueError as error:
            yield ValueError(f"{row['where']}: {error}")
            continue
        phrase, finding = row.get("phrase") or row["finding"], row["finding"].lower()
        values = (study_id, study_id, phrase, finding, *corners, *frame, "folder")
        tables["boxes"].append(dict(zip(COLUMNS["boxes"], values, strict=True)))
