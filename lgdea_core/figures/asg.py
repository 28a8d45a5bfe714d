"""Regions beside the sentences that name them, as ASG aligns them."""

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.patches import Rectangle

from lgdea_core.figures.grounding import draw_film
from lgdea_core.figures.names import GREY
from lgdea_core.figures.style import FULL, TEXT_COLOURS, Box, Figure, Image, captioned, journal, listed, sheet

SENTENCE_WIDTH, BOLD_WIDTH = 66, 60
"""characters a line of a sentence, and of the regions it names"""


@journal
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
    written, looks, named = [], {}, 0
    for sentence, regions in sentences:
        count = len(TEXT_COLOURS)
        colour, dashed = (TEXT_COLOURS[named % count], named >= count) if regions else (GREY, False)
        named += bool(regions)
        looks = dict.fromkeys(regions, (colour, "--" if dashed else "-")) | looks  # the first sentence wins
        names = f"→ {', '.join(regions) or 'no region'}" + (" (dashed)" if dashed else "")
        written += [(line, colour, "normal") for line in textwrap.wrap(sentence, SENTENCE_WIDTH)]
        written += [(line, colour, "bold") for line in textwrap.wrap(names, BOLD_WIDTH)]
    figure = sheet(FULL, max(86, 3.6 * len(written) + 14))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    draw_film(left, film)
    for region, (x, y, width, height) in boxes_xywh.items():
        colour, line = looks.get(region, (GREY, "-"))
        style = {"edgecolor": colour, "linestyle": line, "linewidth": 1.4 if region in looks else 0.4}
        left.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, **style))
    left.set_title("regions")
    right.set_axis_off()
    right.set_title("sentences and the regions they name", loc="left")
    right.set(xlim=(0, 1), ylim=(max(len(written), 20), 0))
    for place, (text, colour, weight) in enumerate(written):
        right.text(0, place + 0.5, text, color=colour, fontsize=7, weight=weight, va="center")
    count = sum(bool(regions) for _, regions in sentences)
    alt = f"A chest radiograph with the boxes of {listed([*looks]) or 'no region'}, and its report: {count} of "
    return captioned(figure, caption, alt=f"{alt}{len(sentences)} sentences name them.")
