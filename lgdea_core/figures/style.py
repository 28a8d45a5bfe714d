"""What all figures share: arrays in and a matplotlib Figure out; no file, no model, no pyplot state.

Colours are colour-blind safe (Okabe-Ito) and their scales fixed, so that two figures can be compared by eye: image grey
levels run over [0, 1], cosine similarity over [-1, 1] with NaN where unseen. A `caption` carries n and seeds.
"""

import re
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib import figure as drawing
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter

COLOURS = [colour for number, colour in enumerate(sns.color_palette("colorblind")) if number != 7]  # 7 is a grey
MARKERS = "os^DvPXph"
GREY = "#666666"
RELATION_RANGE = (1e-4, 1.0)
"""colour range of relations, and of a node's share of a seed's relations"""
CAPTION = {"fontsize": 7, "color": GREY}

Box = Sequence[float | int]
Image = Float[np.ndarray, "height width"]


class Figure(drawing.Figure):
    """A figure in which `$` is a dollar, whatever a report, a phrase or a name says; powers on log axes are powers."""

    def draw(self, renderer: Any) -> None:
        powers = set()
        for axis in (axis for panel in self.axes for axis in (panel.xaxis, panel.yaxis)):
            labels = axis.get_ticklabels(which="both")  # which also makes those that are still to be made
            if isinstance(axis.get_major_formatter(), LogFormatter):
                powers.update(map(id, labels))
        for text in self.findobj(Text):
            if id(text) not in powers:
                text.set_parse_math(False)
        super().draw(renderer)


def captioned(figure: Figure, *parts: str) -> Figure:
    """The figure with its caption: the parts that are not empty, folded to the figure's width, at the lower right."""
    text = "; ".join(part for part in parts if part)
    figure.supxlabel(textwrap.fill(text, int(18 * figure.get_figwidth())), x=0.99, ha="right", **CAPTION)
    return figure


def single(width: float, height: float, caption: str) -> tuple[Figure, Axes]:
    """A captioned figure of one panel; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return captioned(figure, caption), figure.subplots()


def wrap(text: str, columns: int) -> list[tuple[int, str]]:
    """Lines of at most `columns` characters with the offset at which each starts; longer words are broken."""
    pattern = re.compile(rf"[^\n]{{1,{columns}}}(?=\s|$)|[^\n]{{{columns}}}|[^\n]+|\n\n")
    lines = []
    for match in pattern.finditer(text):
        stripped = match.group().lstrip()
        lines.append((match.end() - len(stripped), stripped))
    return lines


def folded(text: str, columns: int) -> str:
    """A title over several lines."""
    return "\n".join(line for _, line in wrap(text, columns))
