"""One report as several extractors read it; rules as in `figures`: arrays in, a Figure out."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from lgdea_core.figures import GREY, MONOSPACE_WIDTH, draw_report, status_handles, wrap

TEXT_SIZE = 8.0
LINE_HEIGHT = 0.18
"""inches"""
GAP = 0.25
"""inches around a text"""


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
    lines = len(wrap(report, columns))
    text_width, text_height = columns * MONOSPACE_WIDTH * TEXT_SIZE / 72, lines * LINE_HEIGHT
    width, height = len(readings) * (text_width + GAP) + GAP, text_height + 0.95
    figure = Figure(figsize=(width, height))
    for number, (name, evidence) in enumerate(readings.items()):
        left = GAP + number * (text_width + GAP)
        axis = figure.add_axes((left / width, 0.3 / height, text_width / width, text_height / height))
        if lines:
            draw_report(axis, report, evidence, columns, size=TEXT_SIZE)
        axis.set_axis_off()
        axis.set_title(f"{name}: {len(evidence)} statements", fontsize=9, loc="left")
    figure.legend(handles=status_handles(), loc="upper right", ncols=3, frameon=False, fontsize=8)
    figure.text(GAP / width, 0.08 / height, caption, fontsize=7, color=GREY)
    return figure
