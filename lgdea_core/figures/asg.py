"""Regions beside the sentences that name them, as ASG aligns them."""

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.patches import Rectangle

from lgdea_core.figures.grounding import draw_film
from lgdea_core.figures.style import COLOURS, GREY, Box, Figure, Image, captioned

SENTENCE_WIDTH = 56
"""characters a line"""


def figure_region_sentences(
    film: Image, boxes_xywh: Mapping[str, Box], sentences: Sequence[tuple[str, Sequence[str]]], caption: str = ""
) -> Figure:
    """A film with its region boxes beside the sentences of its report, a colour for each sentence (ASG, Fig. 2).

    A region is drawn in the colour of the first sentence that names it; regions that none names are grey, and so are
    sentences that name none. Where the colours run out they come again with dashed boxes.

    Args:
        film: grey levels in [0, 1].
        boxes_xywh: region -> box in the film's pixels.
        sentences: each with the regions it names.
        caption: the study.
    """
    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    written, looks, named = [], {}, 0
    for sentence, regions in sentences:
        colour, dashed = (COLOURS[named % len(COLOURS)], named >= len(COLOURS)) if regions else (GREY, False)
        named += bool(regions)
        looks = dict.fromkeys(regions, (colour, "--" if dashed else "-")) | looks  # the first sentence wins
        names = f"→ {', '.join(regions) or 'no region'}" + (" (dashed)" if dashed else "")
        written += [(line, colour) for line in (*textwrap.wrap(sentence, SENTENCE_WIDTH), names)]
    draw_film(left, film)
    for region, (x, y, width, height) in boxes_xywh.items():
        colour, line = looks.get(region, (GREY, "-"))
        style = {"edgecolor": colour, "linestyle": line, "linewidth": 1.6 if region in looks else 0.4}
        left.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, **style))
    left.set_title("regions")
    right.set_axis_off()
    right.set(title="sentences and the regions they name", xlim=(0, 1), ylim=(max(len(written), 12), 0))
    for place, (text, colour) in enumerate(written):
        weight = "bold" if text.startswith("→") else "normal"
        right.text(0, place + 0.5, text, color=colour, fontsize=7.5, weight=weight, va="center")
    return captioned(figure, caption)
