"""Films with boxes, and with the similarity maps of phrases laid over them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import FancyArrowPatch, Rectangle

from lgdea_core.figures.evidence import MONOSPACE_WIDTH, draw_report, status_handles
from lgdea_core.figures.style import CAPTION, GREY, Box, Figure, Image, captioned, folded, single

BOX_COLOUR = "#F0E442"
NONNEGATIVE = ("prototypes", "Grad-CAM")
"""Maps that are no cosines: they run over [0, 1]."""


class GroundingRow(NamedTuple):
    """One phrase on one image with the maps of several methods."""

    image: Image
    maps: Mapping[str, Image]
    boxes_xywh: Sequence[Box]
    phrase: str


def draw_film(
    axis: Axes,
    image: Image,
    similarity_map: Image | None = None,
    boxes_xywh: Sequence[Box] = (),
    nonnegative: bool = False,
) -> AxesImage:
    """Image, map on it at half opacity on a fixed scale (a flat map looks flat), boxes on top."""
    drawn = axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    if similarity_map is not None:
        low, colours = (0, "viridis") if nonnegative else (-1, "RdBu_r")
        drawn = axis.imshow(similarity_map, cmap=colours, vmin=low, vmax=1, alpha=0.5)
    for x, y, width, height in boxes_xywh:
        for colour, line in (("black", 2.2), (BOX_COLOUR, 1.1)):
            box = Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=colour, linewidth=line)
            axis.add_patch(box)
    axis.set(xticks=[], yticks=[])
    return drawn


def figure_phantom_examples(
    images: Sequence[Image], titles: Sequence[str], boxes_xywh: Sequence[Sequence[Box]], caption: str = ""
) -> Figure:
    """Images in rows of at most four, with their true boxes and a title each."""
    columns = min(4, len(images))
    height = -(-len(images) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.45 * height), layout="compressed")
    axes = figure.subplots(height, columns, squeeze=False).ravel()
    for axis, image, title, boxes in zip(axes, images, titles, boxes_xywh, strict=False):
        draw_film(axis, image, boxes_xywh=boxes)
        axis.set_title(folded(title, 30), fontsize=8)
    for axis in axes[len(images) :]:
        axis.set_axis_off()
    return captioned(figure, caption)


def figure_phrase_grounding(
    image: Image, similarity_map: Image, boxes_xywh: Sequence[Box], phrase: str, caption: str = ""
) -> Figure:
    """Lay one phrase's similarity map and its annotated boxes over the image (LGDEA Fig. 5)."""
    figure, axis = single(3.8, 3.4, caption)
    overlay = draw_film(axis, image, similarity_map, boxes_xywh)
    axis.set_title(folded(phrase, 42), fontsize=9)
    figure.colorbar(overlay, ax=axis, label="cosine similarity")
    return figure


def figure_grounding_grid(rows: Sequence[GroundingRow], caption: str = "") -> Figure:
    """Phrases down, methods across; maps of `NONNEGATIVE` methods are no cosines and run over [0, 1]."""
    methods = list(rows[0].maps)
    figure = Figure(figsize=(1.75 * (len(methods) + 1) + 1.2, 1.6 * len(rows) + 0.7), layout="compressed")
    axes = figure.subplots(len(rows), len(methods) + 1, squeeze=False)
    drawn: dict[str, AxesImage] = {}
    for line, row in zip(axes, rows, strict=True):
        draw_film(line[0], row.image, boxes_xywh=row.boxes_xywh)
        line[0].set_ylabel(folded(row.phrase, 20), fontsize=8)
        for axis, method in zip(line[1:], methods, strict=True):
            label = "no cosine, in [0, 1]" if method in NONNEGATIVE else "cosine similarity"
            drawn[label] = draw_film(axis, row.image, row.maps[method], row.boxes_xywh, method in NONNEGATIVE)
    for axis, title in zip(axes[0], ["image and boxes", *methods], strict=True):
        axis.set_title(title, fontsize=9)
    for label, overlay in drawn.items():
        figure.colorbar(overlay, ax=axes, label=label, shrink=0.9, aspect=30, pad=0.01)
    return captioned(figure, caption)


def figure_hero(
    report: str, evidence: pd.DataFrame, panels: Sequence[GroundingRow], method: str, caption: str = ""
) -> Figure:
    """The whole way in one banner: a report, its evidence (start, end, status), where `method` sees each phrase."""
    figure, columns = Figure(figsize=(11.0, 3.0)), 56
    axis = figure.add_axes((0.015, 0.08, 0.37, 0.78))
    draw_report(axis, report, evidence, columns, size=0.37 * 11 * 72 / columns / MONOSPACE_WIDTH, lines=12)
    figure.legend(handles=status_handles(), loc="upper left", ncols=3, frameon=False, fontsize=8)
    arrow = {"arrowstyle": "simple,head_width=12,head_length=10,tail_width=4", "color": GREY}
    figure.add_artist(FancyArrowPatch((0.395, 0.47), (0.455, 0.47), transform=figure.transFigure, **arrow))
    figure.text(0.425, 0.56, "evidence\nphrases", ha="center", fontsize=8, color=GREY)
    figure.text(0.425, 0.32, "shared\nevidence\nspace", ha="center", va="center", fontsize=8, color=GREY)
    width = 0.45 / len(panels)
    for number, row in enumerate(panels):
        panel = figure.add_axes((0.465 + width * number, 0.08, width - 0.008, 0.78))
        overlay = draw_film(panel, row.image, row.maps[method], row.boxes_xywh)
        panel.set_title(folded(row.phrase, 24), fontsize=9)
    figure.colorbar(overlay, cax=figure.add_axes((0.922, 0.2, 0.009, 0.54)), label="cosine similarity")
    figure.text(0.985, 0.02, caption, ha="right", **CAPTION)
    return figure
