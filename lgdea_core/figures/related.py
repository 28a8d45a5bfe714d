"""One image beside the reports it is most related to, and the truth where it is known."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from lgdea_core.figures.evidence import GAP, LINE_HEIGHT, MONOSPACE_WIDTH, draw_report, fitting, status_handles
from lgdea_core.figures.grounding import draw_film
from lgdea_core.figures.style import CAPTION, FULL, MM, Figure, Image, journal, listed, sheet, wrap

LEFT = 56.0
"""mm for the image, and the report below it"""
ROOM = 7.0
"""mm above a report: its title"""


class Related(NamedTuple):
    """A report, what it states (start, end, status), and how it stands to an image."""

    report: str
    evidence: pd.DataFrame
    title: str
    """such as its relation, and whether its findings are the image's"""


@journal
def figure_related_reports(
    film: Image, related: Sequence[Related], own: Related | None = None, caption: str = ""
) -> Figure:
    """An image, beside it the reports related to it with their evidence, below it its own report where that is known.

    Args:
        film: grey levels in [0, 1].
        related: the most related first.
        own: the report that was written of it, which training does not see.
        caption: which image, and what the relations are.
    """
    width = FULL - LEFT - 3 * GAP
    sides = [(LEFT, [own] if own else [], LEFT + 2 * GAP), (width, list(related), GAP + 6.0)]
    blocks, lows = [], []
    for left, (room, reports, top) in zip((GAP, LEFT + 2 * GAP), sides, strict=True):
        columns, size = fitting(200, room)
        for each in reports:
            high = len(wrap(each.report, columns)) * size * LINE_HEIGHT / 72 / MM
            blocks.append((each, left, top + ROOM, columns * size * MONOSPACE_WIDTH / 72 / MM, high, columns, size))
            top += ROOM + high
        lows.append(top)
    height = max(lows) + 8.0
    figure = sheet(FULL, height, layout="none")
    picture = figure.add_axes((GAP / FULL, 1 - (LEFT + 6.0) / height, LEFT / FULL, LEFT / height))
    draw_film(picture, film)
    for each, left, top, wide, high, columns, size in blocks:
        axis = figure.add_axes((left / FULL, 1 - (top + high) / height, wide / FULL, high / height))
        draw_report(axis, each.report, each.evidence, columns, size)
        axis.set_title(each.title, loc="left", fontsize=8)
    figure.legend(handles=status_handles(), loc="upper right", ncols=3)
    figure.text(GAP / FULL, 2 / height, caption, **CAPTION)
    figure.alt = f"A chest radiograph beside the {len(related)} reports most related to it: "
    figure.alt += f"{listed([each.title for each in related])}. {caption}"
    return figure
