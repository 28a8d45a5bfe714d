"""Figures that a notebook shows once and its explorer redraws; rules as in `figures`: arrays in, a Figure out."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from lgdea_core.figures import COLOURS, GREY

Image = Float[np.ndarray, "height width"]
REACH_RANGE = (1e-4, 1.0)
"""colour range of a node's share of a seed's relations"""
ATTENTION_RANGE = (1.0, 8.0)
"""attention in units of an even look: clear below, opaque above"""
TEXT_WIDTH = 44


def figure_prototype_neighbours(
    phrases: Sequence[str],
    phrase_similarity: Float[np.ndarray, "phrases"],
    crops: Sequence[Image],
    attention: Sequence[Float[np.ndarray, "grid grid"]],
    lesion_similarity: Float[np.ndarray, "lesions"],
    title: str = "",
    caption: str = "",
) -> Figure:
    """A prototype's nearest phrases, and nearest lesion tokens as the crops they come from (LGDEA eqs. 4, 6).

    Args:
        phrases: nearest first.
        phrase_similarity: cosine of each with the prototype.
        crops: image of each lesion token, nearest first, at most six.
        attention: where that token looked; rows sum to 1. An even look stays clear, `ATTENTION_RANGE` is its scale.
        lesion_similarity: cosine of each token with the prototype.
        title: the prototype.
        caption: n and seeds.
    """
    figure = Figure(figsize=(9.6, 3.7), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1))
    axis = left.subplots()
    names = [text if len(text) <= TEXT_WIDTH else text[: TEXT_WIDTH - 1] + "…" for text in phrases]
    axis.barh(range(len(names)), phrase_similarity, color=COLOURS[0])
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set(
        xlim=(-1, 1),
        xticks=[-1, -0.5, 0, 0.5, 1],
        ylim=(len(names) - 0.5, -0.5),
        xlabel="cosine similarity to the prototype",
        title=title,
    )
    axis.axvline(0, color=GREY, linewidth=0.6)
    axes = right.subplots(2, 3).ravel()
    for place, crop, looked, similarity in zip(axes, crops, attention, lesion_similarity, strict=False):
        extent = (-0.5, crop.shape[1] - 0.5, crop.shape[0] - 0.5, -0.5)
        place.imshow(crop, cmap="gray", vmin=0, vmax=1)
        times_even = looked * looked.size
        strength = np.clip((times_even - ATTENTION_RANGE[0]) / np.diff(ATTENTION_RANGE), 0, 1)
        place.imshow(np.ones_like(looked), cmap="autumn", alpha=0.7 * strength, extent=extent, interpolation="bilinear")
        place.set_title(f"cosine {similarity:.2f}", fontsize=8)
    for place in axes:
        place.set_axis_off()
    right.suptitle("nearest lesion tokens: where they looked more than evenly", fontsize=9)
    return _captioned(figure, caption)


def figure_seed_reach(
    image_points: Float[np.ndarray, "images 2"],
    report_points: Float[np.ndarray, "reports 2"],
    image_mass: Float[np.ndarray, "images"],
    report_mass: Float[np.ndarray, "reports"],
    seed: tuple[int, int],
    step: int,
    caption: str = "",
) -> Figure:
    """Which images and reports one seed's relations have reached after a step (LGDEA eq. 14).

    Args:
        image_points: any 2-D projection of the images' evidence; axes have no unit.
        report_points: as `image_points`, of the reports.
        image_mass: share of the seed's relations on each image; 0 is not reached.
        report_mass: the same of each report.
        seed: rows of the pair the walk starts from.
        step: propagation steps taken.
        caption: n and seeds.
    """
    figure = Figure(figsize=(8.4, 3.5), layout="constrained")
    axes = figure.subplots(1, 2)
    sides = (("images", image_points, image_mass), ("reports", report_points, report_mass))
    for axis, start, (name, points, mass) in zip(axes, seed, sides, strict=True):
        drawn = _draw_reach(axis, points, mass, start)
        axis.set_title(f"{name}: {int((mass > 0).sum())} of {len(mass)} reached", fontsize=9)
    axes[0].legend(loc="best", fontsize=7, frameon=False)
    figure.colorbar(drawn, ax=axes, label="share of the seed's relations (log)")
    figure.suptitle("the seed alone" if step == 0 else f"after step {step}", fontsize=10)
    return _captioned(figure, caption)


def figure_term_by_variant(history: pd.DataFrame, terms: Sequence[str], caption: str = "") -> Figure:
    """Columns of a history over the optimiser steps, one panel each, one line per variant.

    Args:
        history: columns step, variant and the terms; a variant that never logs a term has no line there.
        terms: columns to draw.
        caption: n and seeds.

    Raises:
        ValueError: the history lacks a term.
    """
    unknown = [term for term in terms if term not in history]
    if unknown or not terms:
        raise ValueError(f"figure_term_by_variant: history has no column {unknown}; it has {list(history.columns)}")
    figure = Figure(figsize=(3.4 * len(terms) + 1.6, 2.8), layout="constrained")
    axes = figure.subplots(1, len(terms), squeeze=False)[0]
    variants = list(dict.fromkeys(history["variant"]))
    for axis, term in zip(axes, terms, strict=True):
        for colour, variant in zip(COLOURS, variants, strict=False):
            known = history.loc[history["variant"] == variant, ["step", term]].dropna()
            dashed = "--" if variant.endswith("shuffled") else "-"
            axis.plot(known["step"], known[term], dashed, color=colour, linewidth=1.2, label=variant)
        axis.set(title=term, xlabel="optimiser step")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("value (nats, or as named)")
    if variants:
        axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    return _captioned(figure, caption)


def figure_finding_auc(table: pd.DataFrame, caption: str = "") -> Figure:
    """Zero-shot AUC of every finding, one mark with its interval per variant.

    Args:
        table: columns finding, variant, estimate, low, high; a finding without an AUC has NaN and keeps its line.
        caption: n and seeds, and what the intervals are.
    """
    findings, variants = list(dict.fromkeys(table["finding"])), list(dict.fromkeys(table["variant"]))
    figure = Figure(figsize=(6.6, 0.9 + 0.34 * len(findings)), layout="constrained")
    axis = figure.subplots()
    for number, (colour, variant) in enumerate(zip(COLOURS, variants, strict=False)):
        rows = table[table["variant"] == variant].set_index("finding").reindex(findings)
        place = np.arange(len(findings)) + 0.7 * ((number + 0.5) / len(variants) - 0.5)
        axis.hlines(place, rows["low"], rows["high"], color=colour, linewidth=1.5)
        axis.plot(rows["estimate"], place, "o", color=colour, markersize=4, label=variant)
    axis.axvline(0.5, color=GREY, linestyle=":", label="chance")
    axis.set_yticks(range(len(findings)), findings)
    axis.set(xlabel="zero-shot AUC", xlim=(0, 1), ylim=(len(findings) - 0.5, -0.5), ylabel="finding")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    return _captioned(figure, caption)


def _draw_reach(
    axis: Axes, points: Float[np.ndarray, "points 2"], mass: Float[np.ndarray, "points"], start: int
) -> object:
    """Unreached points in grey, reached ones by mass, the seed as a star; returns what the colour bar belongs to."""
    axis.scatter(*points[mass <= 0].T, s=7, color="#CCCCCC", linewidths=0)
    order = np.argsort(mass)[int((mass <= 0).sum()) :]  # the heaviest on top
    norm = LogNorm(*REACH_RANGE, clip=True)
    drawn = axis.scatter(*points[order].T, s=14, c=mass[order], cmap="cividis_r", norm=norm, linewidths=0)
    axis.scatter(*points[start], s=120, marker="*", color=COLOURS[1], edgecolors="black", linewidths=0.6, label="seed")
    axis.set(xlabel="projection 1 (no unit)", ylabel="projection 2 (no unit)", xticks=[], yticks=[])
    return drawn


def _captioned(figure: Figure, caption: str) -> Figure:
    if caption:
        figure.supxlabel(caption, fontsize=7, color=GREY, x=0.99, ha="right")
    return figure
