"""Dollars in reports, phrases and names are shown; none is read as mathematics."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text
from test_figures import grounding_rows

from lgdea_core import figures
from lgdea_core.figures.style import Figure, captioned, single

MATHEMATICS = r"cost $5 to $10, $\frac{1$"
"""An even number of dollars and a formula that is broken: where it is parsed, drawing fails."""


def drawn(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_wherever_a_text_stands_in_a_figure_its_dollars_are_dollars() -> None:
    figure, axis = single(100.0, 80)
    captioned(figure, "", MATHEMATICS)
    axis.set(title=MATHEMATICS, xlabel=MATHEMATICS, ylabel=MATHEMATICS)
    axis.set_xticks([0, 1], labels=[MATHEMATICS, MATHEMATICS])
    axis.barh([MATHEMATICS, "other"], [1, 2], label=MATHEMATICS)
    axis.legend(title=MATHEMATICS)
    axis.annotate(MATHEMATICS, (0, 0))
    figure.suptitle(MATHEMATICS)
    assert drawn(figure)
    assert all(not text.get_parse_math() for text in figure.findobj(Text) if text.get_text() == MATHEMATICS)


def test_a_phrase_and_a_report_with_dollars_are_drawn() -> None:
    films = np.zeros((20, 20), dtype=np.float32)
    assert drawn(figures.figure_phrase_grounding(films, films, [(1, 2, 3, 4)], MATHEMATICS))
    rows = [row._replace(phrase=MATHEMATICS) for row in grounding_rows()]
    assert drawn(figures.figure_grounding_grid(rows))


def test_powers_on_a_log_axis_stay_powers() -> None:
    figure, axis = single(80.0, 50)
    axis.plot([1, 1000], [1, 1000])
    axis.set_xscale("log")
    drawn(figure)
    assert powers(axis)


def powers(axis: Axes) -> bool:
    labels = [label for label in axis.get_xticklabels() if "mathdefault" in label.get_text()]
    return bool(labels) and all(label.get_parse_math() for label in labels)
