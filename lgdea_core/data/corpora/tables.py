"""What the loaders share: CSV rows that know their line, counted exclusions, and checked boxes."""

import csv
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lgdea_core.data.corpus import COLUMNS, empty_table
from lgdea_core.data.images import read_image_size

logger = logging.getLogger("lgdea")

BOX_TOLERANCE = 1.0
"""pixels of its frame by which a box may stick out and is cut off; beyond that it is left out"""


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
        self[reason] = self.get(reason, 0) + 1
        if defect:
            self.defects.append(f"{where}: {reason}")

    def log(self, corpus: str) -> None:
        """One line per reason."""
        for reason, count in sorted(self.items()):
            logger.info("corpus %s: %s, %d times", corpus, reason, count)


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV as text, stripped, with the line they start on as `line`; an empty cell is "".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, the file is empty or not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no table at {path}; the layout needs {path.name}, see data/README.md")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            names = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            missing = [column for column in columns if column not in names]
            if missing:
                raise ValueError(f"{path.name}: missing column(s) {missing}; it has {names}")
            return _rows(reader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error


def _rows(reader: csv.DictReader) -> list[dict[str, str]]:
    rows, line = [], reader.line_num + 1
    for row in reader:
        cells = {key: value.strip() for key, value in row.items() if isinstance(value, str)}  # extra cells: a list
        if any(cells.values()):
            rows.append({**cells, "line": str(line)})
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


def parse_box(
    corners: Sequence[str], frame: tuple[float, float], *, as_xywh: bool = False, tolerance: float = BOX_TOLERANCE
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
    except ValueError:
        raise ValueError(f"box coordinates must be four numbers, got {list(corners)}") from None
    if as_xywh:
        x_max, y_max = x_min + x_max, y_min + y_max
    box = f"({x_min:g}, {y_min:g}, {x_max:g}, {y_max:g})"
    if not (x_max > x_min and y_max > y_min):  # also catches NaN
        raise ValueError(f"box {box} must have positive width and height")
    width, height = frame
    if min(x_min, y_min) < -tolerance or x_max > width + tolerance or y_max > height + tolerance:
        raise ValueError(f"box {box} reaches outside its {width:g} x {height:g} frame")
    return max(x_min, 0.0), max(y_min, 0.0), min(x_max, width), min(y_max, height)


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
