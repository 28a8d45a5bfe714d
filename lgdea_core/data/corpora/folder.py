"""Your own films and reports: a folder with `studies.csv`, and maybe `labels.csv` and `boxes.csv`.

    studies.csv   study_id, patient_id, split (train, val or test); report and/or image; view
    labels.csv    study_id, finding, value (1, 0, -1 for uncertain, empty for not mentioned)
    boxes.csv     study_id, finding, x_min, y_min, x_max, y_max; phrase; frame_width, frame_height (default: the image)

A study has at most one film, whose path counts from the folder. A study without report or without film says so by the
word `none` in that cell; an empty cell is taken for an accident. Everything here is the user's own, so whatever is
wrong is an error with file and line, and nothing is left out.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lgdea_core.data.corpora.tables import LABEL_VALUES, box_row, image_row, make_table, parse_box, quoted, read_rows
from lgdea_core.data.corpus import Corpus
from lgdea_core.vocabulary import SPLITS

NONE = "none"
"""cell of a study that has no report, or no film"""

Tables = dict[str, list[dict[str, Any]]]


def load(root: Path) -> Corpus:
    """Load the folder, or refuse it.

    Raises:
        FileNotFoundError: `studies.csv` or a film is missing.
        ValueError: a row is wrong; the message names file, line and study.
    """
    tables, problems = read_folder(root)
    for problem in problems:
        raise problem
    return Corpus(name="folder", root=root, **{name: make_table(name, rows) for name, rows in tables.items()})


def read_folder(root: Path) -> tuple[Tables, list[Exception]]:
    """All good rows of the folder, and an error for each bad one.

    Raises:
        FileNotFoundError: `studies.csv` is missing.
        ValueError: a table lacks a column.
    """
    tables: Tables = {"studies": [], "images": [], "labels": [], "boxes": []}
    problems = [*_read_studies(root, tables)]
    if (root / "labels.csv").is_file():
        problems += _read_labels(root, tables)
    if (root / "boxes.csv").is_file():
        problems += _read_boxes(root, tables)
    return tables, problems


def _read_studies(root: Path, tables: Tables) -> Iterator[Exception]:
    table = root / "studies.csv"
    rows = read_rows(table, ("study_id", "patient_id", "split"))
    if not rows:
        yield ValueError(f"{table.name}: no rows; it needs one line per study")
    elif not {"report", "image"} & set(rows[0]):
        yield ValueError(f"{table.name}: missing column(s) report or image; a study needs at least one of them")
        return
    split_of: dict[str, tuple[str, str]] = {}
    seen: dict[str, str] = {}
    for row in rows:
        where = f"{table.name}, line {row['line']}, study {row['study_id']!r}"
        try:
            _check_study(row, where, seen, split_of)
            image = _image(row, root, where)
        except (ValueError, FileNotFoundError) as error:
            yield error
            continue
        report = row.get("report", NONE)
        text = None if report.lower() == NONE else report
        source = None if text is None else "report"
        tables["studies"].append(
            {key: row[key] for key in ("study_id", "patient_id", "split")} | {"report": text, "report_source": source}
        )
        tables["images"] += image


def _check_study(row: dict[str, str], where: str, seen: dict[str, str], split_of: dict[str, tuple[str, str]]) -> None:
    """Refuse a row by itself, or because of an earlier one."""
    for column in ("study_id", "patient_id"):
        if not row[column]:
            raise ValueError(f"{where}: {column} is empty; every study needs one")
    if row["study_id"] in seen:
        raise ValueError(f"{where}: the study is already in line {seen[row['study_id']]}; each study_id must be unique")
    seen[row["study_id"]] = row["line"]
    if row["split"] not in SPLITS:
        raise ValueError(f"{where}: split must be one of {sorted(SPLITS)}, got {quoted(row['split'])}")
    split, line = split_of.setdefault(row["patient_id"], (row["split"], row["line"]))
    if split != row["split"]:
        raise ValueError(
            f"{where}: patient {row['patient_id']!r} is in split {split!r} by line {line}, in {row['split']!r} here; "
            "split by patient"
        )
    _check_content(row, where)


def _check_content(row: dict[str, str], where: str) -> None:
    if "report" in row and not row["report"]:  # never quote a report: it may be a patient's
        raise ValueError(
            f"{where}: the report is empty; write {NONE} for a study without report, drop the row or leave the report "
            "column out"
        )
    if "image" in row and not row["image"]:
        raise ValueError(f"{where}: the image is empty; write {NONE} for a study without film, or drop the row")
    if row.get("report", NONE).lower() == NONE and row.get("image", NONE).lower() == NONE:
        raise ValueError(f"{where}: neither report nor image; drop the row")


def _image(row: dict[str, str], root: Path, where: str) -> list[dict[str, Any]]:
    if row.get("image", NONE).lower() == NONE:
        return []
    path = root / row["image"]
    if not path.is_file():
        raise FileNotFoundError(f"{where}: no image at {path}")
    try:
        return [image_row(row["study_id"], row["study_id"], root, path, row.get("view") or "unknown")]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _read_labels(root: Path, tables: Tables) -> Iterator[Exception]:
    known = {study["study_id"] for study in tables["studies"]}
    for row in read_rows(root / "labels.csv", ("study_id", "finding", "value")):
        where = f"labels.csv, line {row['line']}, study {row['study_id']!r}"
        if row["study_id"] not in known:
            yield ValueError(f"{where}: the study is not in studies.csv; add it there or drop the row")
        elif not row["finding"]:
            yield ValueError(f"{where}: finding is empty; name one or drop the row")
        elif row["value"] not in LABEL_VALUES:
            yield ValueError(f"{where}: value must be 1, 0, -1 or empty, got {quoted(row['value'])}")
        else:
            value = LABEL_VALUES[row["value"]]
            tables["labels"].append({"study_id": row["study_id"], "finding": row["finding"].lower(), "value": value})


def _read_boxes(root: Path, tables: Tables) -> Iterator[Exception]:
    sizes = {image["study_id"]: (float(image["width"]), float(image["height"])) for image in tables["images"]}
    for row in read_rows(root / "boxes.csv", ("study_id", "finding", "x_min", "y_min", "x_max", "y_max")):
        where = f"boxes.csv, line {row['line']}, study {row['study_id']!r}"
        if row["study_id"] not in sizes:
            yield ValueError(f"{where}: the study has no image in studies.csv; add it there or drop the row")
            continue
        try:
            frame = _frame(row, sizes[row["study_id"]])
            corners = parse_box([row[name] for name in ("x_min", "y_min", "x_max", "y_max")], frame)
        except ValueError as error:
            yield ValueError(f"{where}: {error}")
            continue
        phrase, finding = row.get("phrase") or row["finding"], row["finding"].lower()
        tables["boxes"].append(box_row(row["study_id"], row["study_id"], phrase, finding, corners, frame, "folder"))


def _frame(row: dict[str, str], size: tuple[float, float]) -> tuple[float, float]:
    cells = row.get("frame_width", ""), row.get("frame_height", "")
    if not any(cells):
        return size
    try:
        width, height = float(cells[0]), float(cells[1])
    except ValueError:
        width = height = math.nan
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ValueError(f"frame_width and frame_height must be positive numbers or both empty, got {cells}")
    return width, height
