"""Figures of ASG and its downstream tasks; rules as in `figures`: arrays in, a Figure out."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lgdea_core.figures import COLOURS, GREY, MARKERS, Box, Image

SENTENCE_WIDTH = 56
"""characters a line"""
CHANCE = {"auc": 0.5}
"""Levels that hold whatever the corpus, by column."""


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
    colours, lines = _sentence_styles(sentences)
    owner = {region: row for row in reversed(range(len(sentences))) for region in sentences[row][1]}
    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    left.imshow(film, cmap="gray", vmin=0, vmax=1)
    for region, (x, y, width, height) in boxes_xywh.items():
        named = region in owner
        style = (
            {"edgecolor": colours[owner[region]], "linestyle": lines[owner[region]]} if named else {"edgecolor": GREY}
        )
        style["linewidth"] = 1.6 if named else 0.4
        left.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, **style))
    left.set(xticks=[], yticks=[], title="regions")
    right.set_axis_off()
    right.set_title("sentences and the regions they name")
    written = [
        (text, colours[row])
        for row, (sentence, regions) in enumerate(sentences)
        for text in (*textwrap.wrap(sentence, SENTENCE_WIDTH), _named(regions, lines[row]))
    ]
    right.set(xlim=(0, 1), ylim=(max(len(written), 12), 0))
    for place, (text, colour) in enumerate(written):
        weight = "bold" if text.startswith("→") else "normal"
        right.text(0, place + 0.5, text, color=colour, fontsize=7.5, weight=weight, va="center", parse_math=False)
    figure.supxlabel(caption, fontsize=7, color=GREY, x=0.99, ha="right")
    return figure


def _sentence_styles(sentences: Sequence[tuple[str, Sequence[str]]]) -> tuple[list[Any], list[str]]:
    """Colour and line style of each sentence."""
    number = np.cumsum([bool(regions) for _, regions in sentences]) - 1
    colours = [
        COLOURS[n % len(COLOURS)] if regions else GREY for n, (_, regions) in zip(number, sentences, strict=True)
    ]
    return colours, ["-" if n < len(COLOURS) else "--" for n in number]


def _named(regions: Sequence[str], line: str) -> str:
    return f"→ {', '.join(regions) or 'no region'}" + (" (dashed)" if regions and line == "--" else "")


def figure_label_curve(panels: Mapping[tuple[str, str], pd.DataFrame], caption: str = "") -> Figure:
    """Methods over the share of the labels, a panel for each (measure, corpus); a bar is the sd over seeds.

    Args:
        panels: rows with columns method, label_ratio, seed and the measure's; one protocol each.
        caption: what is the same in all panels.

    Raises:
        ValueError: there is no panel, or one has no row.
    """
    if not panels or any(table.empty for table in panels.values()):
        raise ValueError(f"figure_label_curve: expected rows for every panel, got none for {list(panels) or 'any'}")
    methods = list(dict.fromkeys(method for table in panels.values() for method in table["method"]))
    figure = Figure(figsize=(3.1 * len(panels) + 0.4, 3.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    drawn = {}
    for axis, ((measure, corpus), table) in zip(axes, panels.items(), strict=True):
        for number, method in enumerate(methods):
            own = table[table["method"] == method].groupby("label_ratio")[measure].agg(["mean", "std"])
            if own.empty:
                continue
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
            places = own.index * 1.04 ** (number - (len(methods) - 1) / 2)  # no bar hides another
            drawn[method] = axis.errorbar(places, own["mean"], own["std"], capsize=2, linewidth=1.2, **style)
        ratios = sorted(table["label_ratio"].unique())
        axis.set(xscale="log", ylabel=measure, title=corpus, ylim=(0.4, 1.0) if measure == "auc" else (0.0, 1.0))
        axis.set_xticks(ratios, [f"{100 * ratio:g} %" for ratio in ratios])
        axis.minorticks_off()
        if measure in CHANCE:
            axis.axhline(CHANCE[measure], color=GREY, linestyle=":")
    figure.legend(drawn.values(), drawn.keys(), loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    seeds = sorted({table.groupby(["method", "label_ratio"])["seed"].nunique().max() for table in panels.values()})
    note = f"mean ± sd over {' to '.join(map(str, seeds))} seeds; share of labelled training studies, log scale"
    figure.supxlabel("; ".join(filter(None, (caption, note))), fontsize=7, color=GREY, x=0.99, ha="right")
    return figure
