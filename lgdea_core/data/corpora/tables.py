"""What the loaders share: a published table and its declared layout, what is left out, films, labels and boxes."""

import csv
import gzip
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import pandas as pd

from lgdea_core.data.corpus import COLUMNS, NO_PATIENT, empty_table, quoted
from lgdea_core.data.images import read_image_size
from lgdea_core.vocabulary import CHEXPERT_FINDINGS

BOX_TOLERANCE = 1.0
"""pixels of its frame by which a box may stick out and is cut off; beyond that it is left out"""
CORNERS = ("x_min", "y_min", "x_max", "y_max")
SECTIONS = ("INDICATION", "COMPARISON", "FINDINGS", "IMPRESSION")
"""sections of a report, in the order they get in `studies.report`"""
LABEL_VALUES = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": -1.0, "-1.0": -1.0, "": math.nan}
"""cell of a label table -> present, absent, uncertain, not mentioned"""
CHEXPERT_LABELS = {finding.title(): finding for finding in CHEXPERT_FINDINGS}
"""column of CheXpert's labeller -> our name of the finding"""
END = "\x1a end of file"
"""line that `read_table` adds behind a file's last: inside an open quote it does not stand alone"""


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

    def drop(self, rows: pd.DataFrame, out: pd.Series, reason: str, *, defect: bool = False) -> pd.DataFrame:
        """The rows that are not `out`; the others are counted."""
        self.count(reason, int(out.sum()))
        if defect:
            self.defects += [f"{where}: {reason}" for where in rows.loc[out, "where"]]
        return rows[~out]

    def drop_nobody(self, rows: pd.DataFrame, column: str) -> pd.DataFrame:
        """The rows that name a patient: two without are not one."""
        return self.drop(rows, rows[column].str.lower().isin(NO_PATIENT), "row that names no patient", defect=True)


class Cells(NamedTuple):
    """What the cells of a column must be."""

    column: str
    expected: str
    """the same in words, as they follow "must be" in the error"""
    sound: Callable[[pd.DataFrame], pd.Series]
    """rows -> True where the cell is that"""


def one_of(column: str, values: Collection[str], expected: str = "") -> Cells:
    """Cells out of a few values."""
    return Cells(column, expected or f"one of {tuple(values)}", lambda rows: rows[column].isin(values))


def same_within(column: str, group: str, expected: str) -> Cells:
    """Cells that agree in all rows of a group."""
    return Cells(column, expected, lambda rows: rows[column] == rows.groupby(group)[column].transform("first"))


def plain_name(column: str) -> Cells:
    """Cells that become part of a path: one name, and no way out of its folder."""
    return Cells(column, "one name, no path", lambda rows: rows[column].map(is_name).astype(bool))


def is_name(cell: str) -> bool:
    """Whether a cell can name a file of one folder."""
    return stays_inside(cell) and PureWindowsPath(cell).name == cell


def stays_inside(file: str) -> bool:
    """Whether a path from a table stays under the folder it counts from, on any system."""
    path = PureWindowsPath(file)
    return not path.anchor and ".." not in path.parts


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A published table as its loader expects it."""

    columns: tuple[str, ...]
    """those that must be there; others are kept"""
    key: str
    """column that names what a row is about"""
    noun: str = "film"
    """what that is"""
    cells: tuple[Cells, ...] = ()
    """what is refused otherwise, in this order"""

    def read(self, path: Path) -> pd.DataFrame:
        """Rows of a file, see `read_table`, with a column `where` that names file, line and key for errors.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not in the layout; the message names file, line and key.
        """
        rows = read_table(path, self.columns)
        where = [
            f"{path.name}, line {line}, {self.noun} {quoted(key)}"
            for line, key in zip(rows["line"], rows[self.key], strict=True)
        ]
        rows = rows.assign(where=pd.Series(where, dtype=object))
        self.check(rows)
        return rows

    def check(self, rows: pd.DataFrame) -> None:
        """Refuse rows whose cells are not what they must be; they have a column `where`."""
        for column, expected, sound in self.cells:
            refuse(rows, ~sound(rows), column, expected)


def refuse(rows: pd.DataFrame, wrong: pd.Series, column: str, expected: str) -> None:
    """Nothing where no cell of a column is wrong.

    Args:
        rows: have a column `where`.
        wrong: True where the cell is.
        column: whose cells.
        expected: what they must be.

    Raises:
        ValueError: of the first wrong cell.
    """
    if wrong.any():
        row = rows[wrong].iloc[0]
        raise ValueError(f"{row['where']}: {column} must be {expected}, got {quoted(row[column])}")


def first_file(*paths: Path) -> Path:
    """The first of these that is a file; the first at all where none is."""
    return next((path for path in paths if os.path.isfile(path)), paths[0])  # False for a name no file can have


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Rows of a CSV, which may be gzipped, as stripped text; an empty cell is "".

    Column `line` is where a row starts; blank rows are dropped, columns beside the wanted ones are kept.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing or named twice, a row has too many cells, a cell is longer than `csv` reads
            (131,072 characters), a quote stays open, the file is empty, truncated or not UTF-8.
    """
    _check_there(path)
    rows: list[list[str]] = []
    lines: list[int] = []
    line = 1
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(chain(file, [END]))
            names = _check_columns(path, next(reader), columns)
            line, begin, cells = reader.line_num + 1, 1, [""]
            for cells in reader:
                cells = [cell.strip() for cell in cells]
                if any(cells[len(names) :]):  # the cells behind an unquoted comma would stand in the wrong columns
                    raise ValueError(
                        f"{path.name}, line {line}: more cells than the first line names ({len(names)}); put a cell "
                        "that holds a comma in double quotes"
                    )
                if any(cells) and cells != [END]:
                    rows.append((cells + [""] * (len(names) - len(cells)))[: len(names)])
                    lines.append(line)
                begin, line = line, reader.line_num + 1
            if cells != [END]:
                raise ValueError(f"{path.name}, line {begin}: a double quote is never closed; fetch the file again")
    except UnicodeDecodeError as error:
        raise _foreign(path, error) from None
    except csv.Error as error:
        raise ValueError(
            f"{path.name}, line {line}: {error}; a double quote may never be closed, or the cell is no table's"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path.name} cannot be read as a table, fetch it again: {error}") from error
    return pd.DataFrame(rows, columns=names, dtype=str).drop(columns="", errors="ignore").assign(line=lines)


def _check_there(path: Path) -> None:
    if not path.is_file():
        kind = "list" if path.suffix == ".txt" else "table"
        raise FileNotFoundError(f"no {kind} at {path}; the layout needs {path.name}, see data/README.md")


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
    for name in names:
        if name and names.count(name) > 1:
            shown = repr(name) if name in columns else quoted(name)
            raise ValueError(f"{path.name}, line 1: {names.count(name)} columns are named {shown}; keep one of them")
    return names


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


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8, not JSON, nested too deep, or holds half a character (a lone surrogate), which no
            file can hold again; the message names the file and none of its text.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
        if re.search(r"\\u[dD]", text):
            json.dumps(content, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name}, line {error.lineno}: not JSON; fetch the file again") from error
    except UnicodeEncodeError:
        raise ValueError(f"{path.name}: a text holds half a character (a lone surrogate); fetch it again") from None
    except (ValueError, RecursionError) as error:  # a number of 4,300 digits; lists in lists in lists
        raise ValueError(f"{path.name}: no JSON that can be read ({type(error).__name__}); fetch it again") from None
    return content


def json_rows(where: str, rows: Any, **keys: type | tuple[type, ...]) -> list[dict[str, Any]]:
    """Entries of a list in a JSON file, all of them objects with these keys.

    Raises:
        ValueError: it is no list, or an entry lacks a key or has something else there.
    """
    if not isinstance(rows, list):
        raise ValueError(f"{where}: expected a list of entries, got {type(rows).__name__}; fetch the file again")
    for number, row in enumerate(rows):
        for key, kind in keys.items():
            if not isinstance(row, dict) or not isinstance(row.get(key), kind):
                kinds = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
                raise ValueError(f"{where}, entry {number}: no key {key!r} of type {kinds}; fetch the file again")
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


def film_table(
    films: pd.DataFrame, root: Path, exclusions: Exclusions, *, missing: str = "", absent: str = "row without a film"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The films that are there, readable and under `root`, and their table images; the others are counted as defects.

    Args:
        films: columns image_id, study_id, view, where, and file (from `root`; where it should be, if it is not there).
        root: of the corpus.
        exclusions: counted in.
        missing: where not one film is there, this error; "" for a corpus that may be without.
        absent: reason a film without a file is counted under.

    Raises:
        FileNotFoundError: not one film is there.
    """
    columns = ("image_id", "study_id", "file", "view", "where")
    images = []
    for image_id, study_id, file, view, where in zip(*(films[column] for column in columns), strict=True):
        if not stays_inside(str(file)):
            exclusions.add("film outside the corpus's folder", where, defect=True)
            continue
        try:
            images.append(image_row(image_id, study_id, root, root / file, view))
        except FileNotFoundError:
            exclusions.add(absent, where, defect=True)
        except ValueError as error:
            exclusions.add("unreadable film", f"{where}: {error}", defect=True)
    if missing and not images:
        tried = f"; the first path tried is {root}/{quoted(str(films['file'].iloc[0]))}" if len(films) else ""
        raise FileNotFoundError(f"{missing}{tried}")
    table = make_table("images", images)
    return films[films["image_id"].isin(set(table["image_id"]))], table


def label_table(studies: pd.Series, finding: str, values: Any, source: str) -> pd.DataFrame:
    """Table labels of one finding, a value for each study."""
    return pd.DataFrame({"study_id": studies, "finding": finding, "value": values, "source": source})


def melt_labels(rows: pd.DataFrame, findings: Mapping[str, str], source: str) -> pd.DataFrame:
    """Table labels from a published one with a column for each finding; a blank cell is NaN, "not mentioned".

    Args:
        rows: of `Layout.read`, with a column study_id.
        findings: its column -> our name of the finding.
        source: what the column of that name says.

    Raises:
        ValueError: a cell is none of 1, 0, -1 and blank, or a study is listed twice.
    """
    refuse(rows, rows["study_id"].duplicated(), "study_id", "listed once")
    for column in findings:
        refuse(rows, ~rows[column].isin(LABEL_VALUES), column, "1, 0, -1 or blank")
    long = rows.melt("study_id", list(findings), var_name="finding", value_name="value")
    return long.assign(finding=long["finding"].map(findings), value=long["value"].map(LABEL_VALUES), source=source)


def join_sections(texts: dict[str, str]) -> str | None:
    """Sections as one text, each introduced by its upper-case name; None without findings and impression."""
    clean = {name: " ".join(text.split()) for name, text in texts.items()}
    if not clean.get("FINDINGS") and not clean.get("IMPRESSION"):
        return None
    return "\n".join(f"{name}: {clean[name]}" for name in SECTIONS if clean.get(name))


def parse_frame(width: Any, height: Any) -> tuple[float, float]:
    """Width and height of the frame a box counts in, from two cells.

    Raises:
        ValueError: one is no positive number.
    """
    try:
        frame = float(width), float(height)
    except (TypeError, ValueError):  # JSON may say null
        frame = math.nan, math.nan
    if not all(0 < side < math.inf for side in frame):
        came = f"{quoted(width)} and {quoted(height)}"
        raise ValueError(f"width and height of its frame must be positive numbers, got {came}")
    return frame


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


def box_table(rows: pd.DataFrame, exclusions: Exclusions, *extra: str) -> pd.DataFrame:
    """Table boxes; a bad box is counted as a defect.

    Args:
        rows: columns of table boxes, with x, y, w and h in place of the corners where the publisher has these; where.
        exclusions: counted in.
        *extra: columns to keep beside those of table boxes.
    """
    boxes, as_xywh = [], "w" in rows
    for row in rows.to_dict("records"):
        try:
            frame = parse_frame(row["frame_width"], row["frame_height"])
            corners = parse_box([row[side] for side in ("xywh" if as_xywh else CORNERS)], frame, as_xywh=as_xywh)
        except ValueError as error:
            exclusions.add("bad box", f"{row['where']}: {error}", defect=True)
            continue
        row |= dict(zip((*CORNERS, "frame_width", "frame_height"), (*corners, *frame), strict=True))
        boxes.append({column: row[column] for column in (*COLUMNS["boxes"], *extra)})
    return make_table("boxes", boxes)
