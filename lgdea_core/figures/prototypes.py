"""The evidence space: prototypes, and the phrases and lesion tokens around them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float

from lgdea_core.figures.style import COLOURS, GREY, MARKERS, Figure, Image, captioned, single

ATTENTION_RANGE = (1.0, 8.0)
"""attention in units of an even look: clear below, opaque above"""
TEXT_WIDTH = 44


def figure_prototype_space(
    phrase_points: Float[np.ndarray, "phrases 2"],
    observations: Sequence[str],
    prototype_points: Float[np.ndarray, "prototypes 2"],
    lesion_points: Float[np.ndarray, "lesions 2"] | None = None,
    caption: str = "",
) -> Figure:
    """The evidence space in one 2-D projection (LGDEA Fig. 3); observations beyond the nine commonest are grey."""
    figure, axis = single(6.6, 4.6, caption)
    if lesion_points is not None:
        axis.scatter(*lesion_points.T, s=8, marker="x", color="#BBBBBB", linewidths=0.6, label="lesion token")
    names = pd.Series(observations, dtype=object)
    shown = list(names.value_counts().index[: len(MARKERS)])
    for name, colour, marker in (*zip(shown, COLOURS, MARKERS, strict=False), ("other", GREY, ".")):
        inside = ((names == name) if name in shown else ~names.isin(shown)).to_numpy()
        if inside.any():
            style = {"s": 18, "alpha": 0.8, "linewidths": 0.2, "edgecolors": "#444444"}
            axis.scatter(*phrase_points[inside].T, color=colour, marker=marker, label=name, **style)
    axis.scatter(*prototype_points.T, s=90, marker="*", color="black", edgecolors="white", label="prototype")
    axis.set(xlabel="projection 1 (no unit)", ylabel="projection 2 (no unit)", xticks=[], yticks=[])
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    return figure


def figure_prototype_usage(
    usage: Mapping[str, Float[np.ndarray, " prototypes"]], names: Sequence[str] | None = None, caption: str = ""
) -> Figure:
    """Mean assignment (sums to 1) of each group to every prototype; the effective number is exp(entropy)."""
    first = next(iter(usage.values()))
    order, width = np.argsort(-first, kind="stable"), 0.8 / len(usage)
    figure, axis = single(max(5.0, 0.2 * len(first) + 1), 3.6, caption)
    for number, (group, shares) in enumerate(usage.items()):
        effective = np.exp(-np.sum(shares * np.log(np.clip(shares, 1e-12, None))))
        label = f"{group}: {effective:.1f} of {len(shares)} effective"
        places = np.arange(len(first)) + (number + 0.5) * width - 0.4
        axis.bar(places, shares[order], width, color=COLOURS[number], label=label)
    axis.axhline(1 / len(first), color="black", linestyle=":", label="uniform")
    axis.set(xlabel="prototype", ylabel="mean share of assignments", xlim=(-1, len(first)))
    if names is not None:
        axis.set_xticks(np.arange(len(first)), [names[number] for number in order], rotation=90, fontsize=7)
    axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=8)  # above the bars
    sns.despine(ax=axis)
    return figure


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
    axis.set(xlim=(-1, 1), xticks=[-1, -0.5, 0, 0.5, 1], ylim=(len(names) - 0.5, -0.5))
    axis.set(xlabel="cosine similarity to the prototype", title=title)
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
    return captioned(figure, caption)
