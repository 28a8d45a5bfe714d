"""What all figures share: arrays in and a matplotlib Figure out; no file, no model, no pyplot state.

A figure is 89 or 183 mm wide, one or two columns of a journal, with text of 7 to 9 pt. Colours are colour-blind safe
and their scales fixed, so that two figures can be compared by eye: image grey levels run over [0, 1], cosine similarity
over [-1, 1] with NaN where unseen. A caption carries n and seeds, `alt` says in words what there is to see.
"""

import functools
import io
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import numpy as np
from jaxtyping import Float
from matplotlib import figure as drawing
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter

from lgdea_core.figures.names import ASG, CLIP, GLORIA, GREY, LGDEA

HALF, FULL = 89.0, 183.0
"""Width of a figure in mm: one column of a journal, or two."""
TALLEST = 235.0
"""mm that a page leaves for a figure"""
MM = 1 / 25.4
"""inches"""
DPI = 200
"""Pixels per inch of a PNG."""
SCREEN_DPI = 96
"""Pixels per inch of a browser at its natural size."""
COLOURS = (LGDEA, CLIP, GLORIA, ASG, "#997700", "#332288", "#882255", "#117733", "#44879A", "#7A4B00")
"""For what is no method; each is dark enough to be read as text on white but for the first few on small marks."""
TEXT_COLOURS = (LGDEA, "#A84300", "#00704F", ASG, "#7A5C00", "#332288", "#882255", "#117733", "#2F6673")
"""The same, each with a contrast of 4.5 or more to white."""
MARKERS = "os^DvPXph"
PALE = ("#DCE9F5", "#FCE9D6", "#E0F1E4", "#F1E3F0")
"""Grounds of phases and bands."""
CAPTION = {"fontsize": 7, "color": GREY}
RC = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "figure.titlesize": 9,
    "figure.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "axes.titlepad": 4,
    "axes.labelpad": 2,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "errorbar.capsize": 1.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.4,
    "figure.constrained_layout.w_pad": 0.05,
    "figure.constrained_layout.h_pad": 0.04,
}
"""Journals want sizes that need no scaling."""

P = ParamSpec("P")
Box = Sequence[float | int]
Image = Float[np.ndarray, "height width"]


class Figure(drawing.Figure):
    """A figure in which `$` is a dollar, whatever a report, a phrase or a name says; powers on log axes are powers.

    A notebook shows it at the size it has in print, with its `alt` for those who cannot see it.
    """

    alt: str = ""
    """what there is to see, in words"""
    png: bytes | None = None
    """the picture as it was saved; None after any change"""

    @property
    def stale(self) -> bool:
        return self._stale

    @stale.setter
    def stale(self, value: bool) -> None:
        self._stale = value
        if value:
            self.png = None

    def draw(self, renderer: Any) -> None:
        self.read_no_mathematics()
        super().draw(renderer)

    def read_no_mathematics(self) -> None:
        powers = set()
        for axis in (axis for panel in self.axes for axis in (panel.xaxis, panel.yaxis)):
            if isinstance(axis.get_major_formatter(), LogFormatter):
                powers.update(map(id, axis.get_ticklabels(which="both")))  # also makes those still to be made
        for text in self.findobj(Text):
            if id(text) not in powers:
                text.set_parse_math(False)

    def picture(self, dpi: float = DPI) -> tuple[bytes, dict[str, Any]]:
        """PNG, as it was saved or else anew, and how a notebook shows it."""
        if self.png is None:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=dpi)
            self.png = buffer.getvalue()
        return self.png, {"width": round(SCREEN_DPI * self.get_figwidth()), "alt": self.alt}


def _show_in_notebooks() -> None:
    """Let a kernel show figures at their size, from the picture that was saved, with their description."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        shell.display_formatter.formatters["image/png"].for_type(Figure, Figure.picture)


_show_in_notebooks()


def journal(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A figure function in the journal's sizes; its layout is solved once, not at every drawing."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with rc_context(RC):
            figure = draw(*args, **kwargs)
            if engine := figure.get_layout_engine():
                figure.read_no_mathematics()
                engine.execute(figure)
                figure.set_layout_engine("none")
        return figure

    return drawn


def sheet(width: float, height: float | int, layout: str = "constrained") -> Figure:
    """An empty figure; sizes in mm."""
    return Figure(figsize=(width * MM, min(height, TALLEST) * MM), dpi=DPI, layout=layout)


def captioned(figure: Figure, *parts: str, alt: str = "") -> Figure:
    """The figure with its description and its caption.

    Args:
        figure: to be described.
        parts: of the caption at the lower right, those that are not empty, folded to the figure's width.
        alt: what there is to see; the caption is added.
    """
    text = "; ".join(part for part in parts if part)
    figure.alt = f"{alt} {text}".strip()
    figure.supxlabel(textwrap.fill(text, int(17 * figure.get_figwidth())), x=0.99, ha="right", **CAPTION)
    return figure


def single(width: float, height: float | int) -> tuple[Figure, Axes]:
    """A figure of one panel; sizes in mm."""
    figure = sheet(width, height)
    return figure, figure.subplots()


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


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
