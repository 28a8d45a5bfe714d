"""Reports with their evidence: text on a grid of characters, phrases highlighted by status."""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from lgdea_core.figures.style import CAPTION, Figure, single, wrap
from lgdea_core.vocabulary import STATUSES

STATUS_COLOURS = {"present": "#D55E00", "absent": "#0072B2", "uncertain": "#E69F00"}
STATUS_LINES = {"present": "-", "absent": "--", "uncertain": ":"}
MONOSPACE_WIDTH = 0.602
"""width of a character of DejaVu Sans Mono in units of its size"""
GAP = 0.25
"""inches around a text"""


def figure_report_evidence(report: str, evidence: pd.DataFrame, columns: int = 88, caption: str = "") -> Figure:
    """A report, `columns` characters a line, its evidence (start, end, status) highlighted by status (LGDEA eq. 1)."""
    return _side_by_side(report, {"": evidence}, columns, size=9.0, caption=caption)


def figure_extractors(
    report: str, readings: Mapping[str, pd.DataFrame], columns: int = 60, caption: str = ""
) -> Figure:
    """A report once for each extractor, side by side, with what each found highlighted by status (LGDEA eq. 1).

    Args:
        report: a text.
        readings: name of an extractor -> its evidence of this report (start, end, status).
        columns: characters a line.
        caption: the study.

    Raises:
        ValueError: there is no extractor.
    """
    if not readings:
        raise ValueError("figure_extractors: expected the evidence of at least one extractor, got none")
    titled = {f"{name}: {len(evidence)} statements": evidence for name, evidence in readings.items()}
    return _side_by_side(report, titled, columns, size=8.0, caption=caption)


def _side_by_side(report: str, readings: Mapping[str, pd.DataFrame], columns: int, size: float, caption: str) -> Figure:
    """The report once under each title; the figure is as large as the text."""
    lines = len(wrap(report, columns))
    text_width, text_height = columns * MONOSPACE_WIDTH * size / 72, lines * size / 45
    width, height = len(readings) * (text_width + GAP) + GAP, text_height + 0.95
    figure = Figure(figsize=(width, height))
    for number, (title, evidence) in enumerate(readings.items()):
        left = GAP + number * (text_width + GAP)
        axis = figure.add_axes((left / width, 0.3 / height, text_width / width, text_height / height))
        if lines:
            draw_report(axis, report, evidence, columns, size)
        axis.set_axis_off()
        axis.set_title(title, fontsize=9, loc="left")
    figure.legend(handles=status_handles(), loc="upper right", ncols=3, frameon=False, fontsize=8)
    figure.text(GAP / width, 0.08 / height, caption, **CAPTION)
    return figure


def draw_report(
    axis: Axes, report: str, evidence: pd.DataFrame, columns: int, size: float, lines: int | None = None
) -> None:
    """Text on a grid of characters, so that a phrase's offsets say where its highlight goes; centred in `lines`."""
    wrapped = wrap(report, columns)[:lines]
    margin = ((lines or len(wrapped)) - len(wrapped)) / 2
    axis.set(xlim=(0, columns), ylim=(len(wrapped) + margin, -margin))
    axis.set_axis_off()
    for number, (offset, text) in enumerate(wrapped):
        for start, end, status in evidence[["start", "end", "status"]].itertuples(index=False):
            first, last = max(start - offset, 0), min(end - offset, len(text.rstrip()))
            if first < last:
                face, line = STATUS_COLOURS[status], STATUS_LINES[status]
                place = ((first - 0.2, number + 0.06), last - first + 0.4, 0.88)
                style = {"facecolor": (face, 0.3), "edgecolor": face, "linestyle": line, "linewidth": 0.9}
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


def figure_evidence_counts(evidence: pd.DataFrame, caption: str = "") -> Figure:
    """How often each observation is stated, by status; columns observation and status."""
    counts = pd.crosstab(evidence["observation"], evidence["status"]).reindex(columns=list(STATUSES), fill_value=0)
    counts = counts.loc[counts.sum(axis=1).sort_values(kind="stable").index]
    figure, axis = single(5.6, max(2.4, 0.9 + 0.24 * len(counts)), caption)
    left = np.zeros(len(counts))
    for status in STATUSES:
        axis.barh(list(counts.index), counts[status], left=left, color=STATUS_COLOURS[status], label=status)
        left += counts[status].to_numpy()
    axis.set(xlabel="statements in reports", ylabel="observation")
    axis.legend(title="status", frameon=False, loc="lower right")
    sns.despine(ax=axis)
    return figure
