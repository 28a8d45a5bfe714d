"""Films with boxes, and with the similarity maps of phrases laid over them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import FancyArrowPatch, Rectangle

from lgdea_core.figures.evidence import draw_report, fitting, status_handles
from lgdea_core.figures.names import GREY, label_of
from lgdea_core.figures.style import (
    CAPTION,
    FULL,
    HALF,
    Box,
    Figure,
    Image,
    captioned,
    folded,
    journal,
    listed,
    sheet,
    single,
)

Map = Float[np.ndarray, "rows cols"]
BOX_COLOUR = "#F0E442"
NONNEGATIVE = ("prototypes", "Grad-CAM")
"""Maps that are no cosines: they run over [0, 1]."""


class GroundingRow(NamedTuple):
    """One phrase on one image with the maps of several methods; boxes are in pixels of the maps."""

    image: Image
    """of the maps' size, or the same film at a larger one"""
    maps: Mapping[str, Map]
    boxes_xywh: Sequence[Box]
    phrase: str


def draw_film(
    axis: Axes,
    image: Image,
    similarity_map: Map | None = None,
    boxes_xywh: Sequence[Box] = (),
    nonnegative: bool = False,
    frame: tuple[int, ...] | None = None,
) -> AxesImage:
    """Image, map on it at half opacity on a fixed scale (a flat map looks flat), boxes on top.

    Boxes are in pixels of the map; of `frame`, its height and width, where there is none; and else of the image.
    """
    height, width = frame or (image if similarity_map is None else similarity_map).shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    drawn = axis.imshow(image, cmap="gray", vmin=0, vmax=1, extent=extent)
    if similarity_map is not None:
        low, colours = (0, "viridis") if nonnegative else (-1, "RdBu_r")
        drawn = axis.imshow(similarity_map, cmap=colours, vmin=low, vmax=1, alpha=0.5, extent=extent)
    for x, y, width, height in boxes_xywh:
        for colour, line in (("black", 1.8), (BOX_COLOUR, 0.9)):
            box = Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=colour, linewidth=line)
            axis.add_patch(box)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(True)
    return drawn


@journal
def figure_phantom_examples(
    images: Sequence[Image], titles: Sequence[str], boxes_xywh: Sequence[Sequence[Box]], caption: str = ""
) -> Figure:
    """Images in rows of at most four, with their true boxes and a title each."""
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure = sheet(FULL if columns > 2 else HALF, 55 * rows + 8 if columns > 2 else 0.95 * HALF / columns * rows + 14)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, image, title, boxes in zip(axes, images, titles, boxes_xywh, strict=False):
        draw_film(axis, image, boxes_xywh=boxes)
        axis.set_title(folded(title, 27), fontsize=7)
    for axis in axes[len(images) :]:
        axis.set_axis_off()
    return captioned(figure, caption, alt=f"Chest radiographs with the boxes of what is named: {listed(list(titles))}.")


@journal
def figure_phrase_grounding(
    image: Image, similarity_map: Map, boxes_xywh: Sequence[Box], phrase: str, caption: str = ""
) -> Figure:
    """Lay one phrase's similarity map and its annotated boxes over the image."""
    figure, axis = single(HALF, 82)
    overlay = draw_film(axis, image, similarity_map, boxes_xywh)
    axis.set_title(folded(phrase, 42))
    figure.colorbar(overlay, ax=axis, label="cosine similarity")
    low, high = np.nanmin(similarity_map), np.nanmax(similarity_map)
    alt = f"A chest radiograph and over it the similarity with {phrase!r}, from {low:.2f} to {high:.2f}"
    return captioned(figure, caption, alt=f"{alt}; {len(boxes_xywh)} boxes.")


@journal
def figure_grounding_grid(rows: Sequence[GroundingRow], caption: str = "", method: str = "lgdea") -> Figure:
    """Phrases down, methods across; maps of `NONNEGATIVE` methods are no cosines and run over [0, 1].

    Args:
        rows: all with maps of the same methods, or variants of a run.
        caption: n and seeds.
        method: the run's, which its variant "model" is.
    """
    methods = list(rows[0].maps)
    titles = [label_of(name, method) for name in methods]
    bars = len({name in NONNEGATIVE for name in methods})
    width = FULL if len(methods) > 1 else HALF
    cell = min(42.0, (width - 16 - 16 * bars) / (len(methods) + 1))
    figure = sheet(width, (cell + 2) * len(rows) + 18, layout="compressed")
    axes = figure.subplots(len(rows), len(methods) + 1, squeeze=False)
    drawn: dict[str, AxesImage] = {}
    for line, row in zip(axes, rows, strict=True):
        draw_film(line[0], row.image, boxes_xywh=row.boxes_xywh, frame=row.maps[methods[0]].shape)
        line[0].set_ylabel(folded(row.phrase, 20), fontsize=7)
        for axis, name in zip(line[1:], methods, strict=True):
            label = "no cosine, in [0, 1]" if name in NONNEGATIVE else "cosine similarity"
            drawn[label] = draw_film(axis, row.image, row.maps[name], row.boxes_xywh, name in NONNEGATIVE)
    for axis, title in zip(axes[0], ["image and boxes", *titles], strict=True):
        axis.set_title(folded(title, max(12, int(cell / 1.6))))
    for label, overlay in drawn.items():
        figure.colorbar(overlay, ax=axes, label=label, shrink=0.9, aspect=25, pad=0.01)
    phrases = listed([f"{row.phrase!r}" for row in rows])
    return captioned(figure, caption, alt=f"Maps of {phrases} over chest radiographs, by {listed(titles)}.")


@journal
def figure_hero(
    report: str, evidence: pd.DataFrame, panels: Sequence[GroundingRow], method: str, caption: str = ""
) -> Figure:
    """The whole way in one banner: a report, its evidence (start, end, status), where `method` sees each phrase."""
    height, text, left, bar = 58.0, 72.0, 91.0, 14.0
    figure = sheet(FULL, height, layout="none")
    columns, size = fitting(60, text)
    axis = figure.add_axes((3 / FULL, 5 / height, text / FULL, (height - 13) / height))
    draw_report(axis, report, evidence, columns, size, lines=int((height - 13) / 3.6))
    figure.legend(handles=status_handles(), loc="upper left", ncols=3)
    arrow = {"arrowstyle": "simple,head_width=8,head_length=6,tail_width=3", "color": GREY}
    ends = ((text + 4) / FULL, 0.5), ((left - 2) / FULL, 0.5)
    figure.add_artist(FancyArrowPatch(*ends, transform=figure.transFigure, **arrow))
    middle = {"x": (text + left + 2) / 2 / FULL, "ha": "center", "fontsize": 7, "color": GREY}
    figure.text(y=0.56, s="evidence\nphrases", va="bottom", **middle)
    figure.text(y=0.44, s="shared\nspace", va="top", **middle)
    width = (FULL - left - bar) / len(panels)
    for number, row in enumerate(panels):
        place = (left + number * width) / FULL, 5 / height, (width - 1.5) / FULL, (height - 18) / height
        panel = figure.add_axes(place)
        overlay = draw_film(panel, row.image, row.maps[method], row.boxes_xywh)
        panel.set_title(folded(row.phrase, max(12, int(width / 1.5))), fontsize=7)
    figure.colorbar(overlay, cax=figure.add_axes(((FULL - bar + 1) / FULL, 0.22, 2.2 / FULL, 0.48), label="<colorbar>"))
    figure.axes[-1].set_ylabel("cosine similarity", fontsize=7)
    figure.text(0.99, 0.02, caption, ha="right", **CAPTION)
    phrases = listed([f"{row.phrase!r}" for row in panels])
    figure.alt = f"A radiology report with its statements highlighted, and chest radiographs that show where {phrases} "
    figure.alt += f"is found, beside the true boxes. {caption}"
    return figure
