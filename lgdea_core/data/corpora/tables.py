"""What the loaders share: tables that know their lines, counted exclusions, films, labels and checked boxes."""

import csv
import json
import logging
import math
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lgdea_core.data.corpus import COLUMNS, empty_table
from lgdea_core.data.images import read_image_size
from lgdea_core.vocabulary import CHEXPERT_FINDINGS

logger = logging.getLogger("lgdea")

BOX_TOLERANCE = 1.0
"""pixels of its frame by which a box may stick out and is cut off; beyond that it is left out"""
SECTIONS = ("INDICATION", "COMPARISON", "FINDINGS", "IMPRESSION")
"""sections of a report, in the order they get in `studies.report`"""
LABEL_VALUES = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": -1.0, "-1.0": -1.0, "": math.nan}
"""cell of a label table -> present, absent, uncertain, not mentioned"""
CHEXPERT_LABELS = {finding.title(): finding for finding in CHEXPERT_FINDINGS}
"""column of CheXpert's labeller -> our name of the finding"""


class Exclusions(dict[str, int]):
    """How often a loader left something out, by reason, and where.

    A defect is something a complete download does not have (a missing file, a box outside its image); anything else is
    a property of the published data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.defects: list[str] = []
        """one line per defect: where, and what"""

    def add(self, reason: str, where: str, *, defect: bool = False) -> None:
        """Count one case; `where` names file and line."""
        self.count(reason, 1)
        if defect:
            self.defects.append(f"{where}: {reason}")

    def count(self, reason: str, number: int) -> None:
        """Count several cases that are no defect; none leave no trace."""
        if number:
            self[reason] = self.get(reason, 0) + number

    def log(self, corpus: str) -> None:
        """One line per reason."""
        for reason, count in sorted(self.items()):
            logger.info("corpus %s: %s, %d times", corpus, reason, count)


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV as text, stripped, with the line they start on as `line`; an empty cell is "".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, a row has too many cells, the file is empty or not UTF-8.
    """
    _check_there(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            return _rows(reader, _check_columns(path, next(reader, []), columns), path)
    except UnicodeDecodeError as error:
        raise _foreign(path, error) from None


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no table at {path}; the layout needs {path.name}, see data/README.md")


def _check_columns(path: Path, header: Iterable[str], columns: Sequence[str]) -> list[str]:
    """The header without white space (a published column may begin with a blank).

    The error does not quote the first line: without a header it is a row, and may be a report.
    """
    names = [name.strip() for name in header]
    missing = [column for column in columns if column not in names]
    if missing:
        there = [column for column in columns if column in names]
        raise ValueError(
            f"{path.name}: missing column(s) {missing}; its first line must name the columns, of its "
            f"{len(names)} cells {there} do"
        )
    return names


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """`read_rows` for tables of a hundred thousand rows: as one frame of text, the file may be gzipped.

    Column `line` is where a row starts; blank rows are dropped, columns beside the wanted ones are kept.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, a row has too many cells, the file is empty, truncated or not UTF-8.
    """
    _check_there(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a cell too many in every row
            table = pd.read_csv(
                path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False, skip_blank_lines=False
            )
    except UnicodeDecodeError as error:
        raise _foreign(path, error) from None
    except (ValueError, pd.errors.ParserWarning, OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path.name} cannot be read as a table, fetch it again: {reason}") from error
    table.columns = _check_columns(path, table.columns, columns)
    table = table.fillna("")
    breaks = sum(table[column].str.count("\n") for column in table)  # inside quoted cells
    lines = 2 + np.arange(len(table)) + (np.cumsum(breaks) - breaks).to_numpy(dtype=int)
    table = table.apply(lambda cells: cells.str.strip())
    filled = (table != "").any(axis=1)
    return table.assign(line=lines)[filled].reset_index(drop=True)


def refuse_cells(
    table: pd.DataFrame, wrong: pd.Series, column: str, expected: str, name: str, whose: tuple[str, str]
) -> None:
    """Nothing where no cell of a column is wrong.

    Args:
        table: of `read_table`.
        wrong: True where the cell is.
        column: whose cells.
        expected: what they must be.
        name: of the file.
        whose: what a row is about, and the column that names it: ("film", "dicom_id").

    Raises:
        ValueError: naming file, line and film of the first wrong cell, and what it holds (see `quoted`).
    """
    if wrong.any():
        row = table[wrong].iloc[0]
        where = f"{name}, line {row['line']}, {whose[0]} {quoted(row[whose[1]])}"
        raise ValueError(f"{where}: {column} must be {expected}, got {quoted(row[column])}")


def quoted(cell: object) -> str:
    """A cell as an error may show it: a single word; of more their number, for in a shifted row they are a report's."""
    words = len(str(cell).split())
    return repr(cell) if words <= 1 else f"{words} words"


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or not UTF-8; the message names file and line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name}, line {error.lineno}: not JSON; fetch the file again") from error


def read_text(path: Path) -> str:
    """What a text file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8; the message names the file and none of its bytes.
    """
    _check_there(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _foreign(path, error) from None  # the error holds all bytes of the file


def _foreign(path: Path, error: UnicodeDecodeError) -> ValueError:
    return ValueError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8")


def _rows(reader: Iterator[list[str]], names: list[str], path: Path) -> list[dict[str, str]]:
    rows, line = [], reader.line_num + 1
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if any(cells[len(names) :]):  # the cells behind an unquoted comma would stand in the wrong columns
            raise ValueError(
                f"{path.name}, line {line}: more cells than the first line names ({len(names)}); put a cell that holds "
                "a comma in double quotes"
            )
        if any(cells):
            rows.append({**dict.fromkeys(names, ""), **dict(zip(names, cells, strict=False)), "line": str(line)})
        line = reader.line_num + 1
    return rows


def make_table(name: str, rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A table of a corpus from its rows; without rows it still has its columns."""
    rows = list(rows)
    return pd.DataFrame(rows) if rows else empty_table(name)


def image_row(image_id: str, study_id: str, root: Path, path: Path, view: str) -> dict[str, Any]:
    """A row of table images; the file's header gives its size.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read as an image.
    """
    height, width = read_image_size(path)
    relative = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    return dict(zip(COLUMNS["images"], (image_id, study_id, relative, view, width, height), strict=True))


def film_row(
    image_id: str, study_id: str, root: Path, path: Path, view: str, where: str, exclusions: Exclusions
) -> dict[str, Any] | None:
    """`image_row`, or None where the film is missing or unreadable, which is then counted as a defect of `where`."""
    try:
        return image_row(image_id, study_id, root, path, view)
    except FileNotFoundError:
        exclusions.add("row without a film", where, defect=True)
    except ValueError as error:
        exclusions.add("unreadable film", f"{where}: {error}", defect=True)
    return None


def melt_labels(table: pd.DataFrame, findings: Mapping[str, str], name: str, source: str) -> pd.DataFrame:
    """Table labels from a published one with a column for each finding; a blank cell is NaN, "not mentioned".

    Args:
        table: of `read_table`, with a column study_id.
        findings: its column -> our name of the finding.
        name: of the file, for errors.
        source: what the column of that name says.

    Raises:
        ValueError: a cell is none of 1, 0, -1 and blank.
    """
    for column in findings:
        wrong = ~table[column].isin(LABEL_VALUES)
        refuse_cells(table, wrong, column, "1, 0, -1 or blank", name, ("study", "study_id"))
    long = table.melt("study_id", list(findings), var_name="finding", value_name="value")
    return long.assign(finding=long["finding"].map(findings), value=long["value"].map(LABEL_VALUES), source=source)


def join_sections(texts: dict[str, str]) -> str | None:
    """Sections as one text, each introduced by its upper-case name; None without findings and impression."""
    clean = {name: " ".join(text.split()) for name, text in texts.items()}
    if not clean.get("FINDINGS") and not clean.get("IMPRESSION"):
        return None
    return "\n".join(f"{name}: {clean[name]}" for name in SECTIONS if clean.get(name))


def parse_box(
    corners: Sequence[Any],
    frame: tuple[float, float],
    *,
    as_xywh: bool = False,
    tolerance: float = BOX_TOLERANCE,
) -> tuple[float, float, float, float]:
    """`x_min, y_min, x_max, y_max` of one row, cut at its frame where it sticks out by `tolerance` or less.

    Args:
        corners: four cells, x_min y_min x_max y_max or x y width height.
        frame: width and height the box counts in.
        as_xywh: the cells are x y width height.
        tolerance: in pixels of the frame.

    Raises:
        ValueError: a cell is no finite number, the box has no area, or it reaches outside its frame.
    """
    try:
        x_min, y_min, x_max, y_max = (float(cell) for cell in corners)
    except (TypeError, ValueError):  # JSON may say null
        raise ValueError(f"box coordinates must be four numbers, got {', '.join(map(quoted, corners))}") from None
    if as_xywh:
        x_max, y_max = x_min + x_max, y_min + y_max
    box = f"({x_min:g}, {y_min:g}, {x_max:g}, {y_max:g})"
    if not (x_max > x_min and y_max > y_min):  # also catches NaN
        raise ValueError(f"box {box} must have positive width and height")
    width, height = frame
    if min(x_min, y_min) < -tolerance or x_max > width + tolerance or y_max > height + tolerance:
        raise ValueError(f"box {box} reaches outside its {width:g} x {height:g} frame")
    x_min, y_min, x_max, y_max = max(x_min, 0.0), max(y_min, 0.0), min(x_max, width), min(y_max, height)
    if x_min >= x_max or y_min >= y_max:
        raise ValueError(f"box {box} lies outside its {width:g} x {height:g} frame")
    return x_min, y_min, x_max, y_max


def box_row(
    image_id: str,
    study_id: str,
    phrase: str,
    finding: str,
    corners: tuple[float, float, float, float],
    frame: tuple[float, float],
    source: str,
) -> dict[str, Any]:
    """A row of table boxes."""
    values = (image_id, study_id, phrase, finding, *corners, *frame, source)
    return dict(zip(COLUMNS["boxes"], values, strict=True))
