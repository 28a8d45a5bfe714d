"""Reports with their evidence: text on a grid of characters, phrases highlighted by status."""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from lgdea_core.figures.style import CAPTION, FULL, HALF, MM, Figure, captioned, journal, listed, sheet, single, wrap
from lgdea_core.vocabulary import STATUSES

STATUS_COLOURS = {"present": "#D55E00", "absent": "#0072B2", "uncertain": "#E69F00"}
STATUS_LINES = {"present": "-", "absent": "--", "uncertain": ":"}
MONOSPACE_WIDTH = 0.602
"""width of a character of DejaVu Sans Mono in units of its size"""
LINE_HEIGHT = 1.6
"""height of a line in units of its size"""
SIZES = (7.0, 9.0)
"""points of a report's text"""
GAP = 5.0
"""mm around a text"""


def fitting(columns: int, width: float) -> tuple[int, float]:
    """How many characters a line has in `width` mm, at most `columns`, and their size in points."""
    points = width * MM * 72 / MONOSPACE_WIDTH
    columns = min(columns, int(points / SIZES[0]))
    return columns, min(points / columns, SIZES[1])


@journal
def figure_report_evidence(report: str, evidence: pd.DataFrame, columns: int = 88, caption: str = "") -> Figure:
    """A report with its evidence (start, end, status) highlighted by status (LGDEA eq. 1).

    A line has at most `columns` characters, and as many as the width leaves room for.
    """
    return _side_by_side(report, {"": evidence}, columns, caption)


@journal
def figure_extractors(
    report: str, readings: Mapping[str, pd.DataFrame], columns: int = 60, caption: str = ""
) -> Figure:
    """A report once for each extractor, side by side, with what each found highlighted by status (LGDEA eq. 1).

    Args:
        report: a text.
        readings: name of an extractor -> its evidence of this report (start, end, status).
        columns: characters a line at most, and as many as the width leaves room for.
        caption: the study.

    Raises:
        ValueError: there is no extractor.
    """
    if not readings:
        raise ValueError("figure_extractors: expected the evidence of at least one extractor, got none")
    titled = {f"{name}: {len(evidence)} statements": evidence for name, evidence in readings.items()}
    return _side_by_side(report, titled, columns, caption)


def _side_by_side(report: str, readings: Mapping[str, pd.DataFrame], columns: int, caption: str) -> Figure:
    """The report once under each title; the figure is as high as the text."""
    columns, size = fitting(columns, (FULL - GAP) / len(readings) - GAP)
    lines = len(wrap(report, columns))
    text_width, text_height = columns * MONOSPACE_WIDTH * size / 72 / MM, lines * size * LINE_HEIGHT / 72 / MM
    height = text_height + 21
    figure = sheet(FULL, height, layout="none")
    for number, (title, evidence) in enumerate(readings.items()):
        left = GAP + number * ((FULL - GAP) / len(readings))
        axis = figure.add_axes((left / FULL, 7 / height, text_width / FULL, text_height / height))
        if lines:
            draw_report(axis, report, evidence, columns, size)
        axis.set_axis_off()
        axis.set_title(title, loc="left")
    figure.legend(handles=status_handles(), loc="upper right", ncols=3)
    found = [f"{(title or 'evidence').partition(':')[0]}, {_counted(part)}" for title, part in readings.items()]
    figure.alt = f"A report with its statements highlighted: {'; '.join(found)}. {caption}".strip()
    figure.text(GAP / FULL, 2 / height, caption, **CAPTION)
    return figure


def _counted(evidence: pd.DataFrame) -> str:
    counts = evidence["status"].value_counts()
    return listed([f"{counts.get(status, 0)} {status}" for status in STATUSES])


def draw_report(
    axis: Axes, report: str, evidence: pd.DataFrame, columns: int, size: float, lines: int | None = None
) -> None:
    """Text on a grid of characters, so that a phrase's offsets say where its highlight goes; centred in `lines`.

    A highlight stops before the punctuation that ends its phrase.
    """
    wrapped = wrap(report, columns)[:lines]
    margin = ((lines or len(wrapped)) - len(wrapped)) / 2
    axis.set(xlim=(0, columns), ylim=(len(wrapped) + margin, -margin))
    axis.set_axis_off()
    for number, (offset, text) in enumerate(wrapped):
        for start, end, status in evidence[["start", "end", "status"]].itertuples(index=False):
            end = start + len(report[start:end].rstrip(" .,;:\n"))
            first, last = max(start - offset, 0), min(end - offset, len(text.rstrip()))
            if first < last:
                face, line = STATUS_COLOURS[status], STATUS_LINES[status]
                place = ((first - 0.15, number + 0.06), last - first + 0.2, 0.88)
                style = {"facecolor": (face, 0.3), "edgecolor": face, "linestyle": line, "linewidth": 0.7}
                axis.add_patch(Rectangle(*place, **style, clip_on=False))
        for word in re.finditer(r"\S+", text):  # one by one: pixel rounding would add up over a line
            axis.text(word.start(), number + 0.5, word.group(), family="monospace", fontsize=size,
                      va="center_baseline")  # fmt: skip


def status_handles() -> list[Patch]:
    """What the legend of a highlighted report shows."""
    return [
        Patch(facecolor=(colour, 0.3), edgecolor=colour, linestyle=STATUS_LINES[status], label=status)
        for status, colour in STATUS_COLOURS.items()
    ]


@journal
def figure_evidence_counts(evidence: pd.DataFrame, caption: str = "") -> Figure:
    """How often each observation is stated, by status; columns observation and status."""
    counts = pd.crosstab(evidence["observation"], evidence["status"]).reindex(columns=list(STATUSES), fill_value=0)
    counts = counts.loc[counts.sum(axis=1).sort_values(kind="stable").index]
    figure, axis = single(HALF, 3.6 * max(7, len(counts)) + 24)
    left = np.zeros(len(counts))
    for status in STATUSES:
        axis.barh(list(counts.index), counts[status], left=left, color=STATUS_COLOURS[status], label=status)
        left += counts[status].to_numpy()
    axis.set(xlabel="statements in reports", ylim=(-0.6, len(counts) - 0.4))
    figure.legend(loc="outside upper center", ncols=3)
    most = ", ".join(f"{name} {total}" for name, total in counts.sum(axis=1)[::-1][:3].items())
    return captioned(figure, caption, alt=f"Statements by observation and status; most often {most}.")
