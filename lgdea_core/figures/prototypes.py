"""The evidence space: prototypes, and the phrases and lesion tokens around them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from lgdea_core.figures.names import GREY, LGDEA
from lgdea_core.figures.style import (
    COLOURS,
    FULL,
    MARKERS,
    Figure,
    Image,
    captioned,
    folded,
    journal,
    listed,
    sheet,
    single,
)

ATTENTION_RANGE = (1.0, 8.0)
"""attention in units of an even look: clear below, opaque above"""
TEXT_WIDTH, NAME_WIDTH = 44, 26
"""characters of a phrase, and of a prototype's name under its bars"""
MOST_NAMES = 64
"""prototypes whose names fit under a figure"""


def shortened(text: str, columns: int) -> str:
    """The text, cut where it is longer than `columns`."""
    return text if len(text) <= columns else text[: columns - 1] + "…"


@journal
def figure_prototype_space(
    phrase_points: Float[np.ndarray, "phrases 2"],
    observations: Sequence[str],
    prototype_points: Float[np.ndarray, "prototypes 2"],
    lesion_points: Float[np.ndarray, "lesions 2"] | None = None,
    caption: str = "",
) -> Figure:
    """The evidence space in one 2-D projection; observations beyond the nine commonest are grey."""
    figure, axis = single(FULL, 98)
    if lesion_points is not None:
        axis.scatter(*lesion_points.T, s=8, marker="x", color="#BBBBBB", linewidths=0.6, label="lesion token")
    names = pd.Series(observations, dtype=object)
    shown = list(names.value_counts().index[: len(MARKERS)])
    for name, colour, marker in (*zip(shown, COLOURS, MARKERS, strict=False), ("other", GREY, ".")):
        inside = ((names == name) if name in shown else ~names.isin(shown)).to_numpy()
        if inside.any():
            style = {"s": 16, "alpha": 0.8, "linewidths": 0.2, "edgecolors": "#444444"}
            axis.scatter(*phrase_points[inside].T, color=colour, marker=marker, label=name, **style)
    axis.scatter(*prototype_points.T, s=70, marker="*", color="black", edgecolors="white", label="prototype")
    axis.set(xlabel="projection 1 (no unit)", ylabel="projection 2 (no unit)", xticks=[], yticks=[])
    figure.legend(loc="outside right center")
    alt = f"{len(names)} phrases, of {listed(shown)}, around {len(prototype_points)} prototypes as points of a plane."
    return captioned(figure, caption, alt=alt)


@journal
def figure_prototype_usage(
    usage: Mapping[str, Float[np.ndarray, " prototypes"]], names: Sequence[str] | None = None, caption: str = ""
) -> Figure:
    """Mean assignment (sums to 1) of each group to every prototype; the effective number is exp(entropy)."""
    first = next(iter(usage.values()))
    order, width = np.argsort(-first, kind="stable"), 0.8 / len(usage)
    below = [shortened(name, NAME_WIDTH) for name in names or () if len(names or ()) <= MOST_NAMES]
    figure, axis = single(FULL, 78 + 1.3 * max(map(len, below), default=0))
    labels = []
    for number, (group, shares) in enumerate(usage.items()):
        effective = np.exp(-np.sum(shares * np.log(np.clip(shares, 1e-12, None))))
        labels.append(f"{group}: {effective:.1f} of {len(shares)} effective")
        places = np.arange(len(first)) + (number + 0.5) * width - 0.4
        axis.bar(places, shares[order], width, color=COLOURS[number], label=labels[-1])
    axis.axhline(1 / len(first), color="black", linestyle=":", linewidth=1, label="uniform")
    axis.set(xlabel="prototype", ylabel="mean share of assignments", xlim=(-0.6, len(first) - 0.4))
    if below:
        axis.set_xticks(np.arange(len(first)), [below[number] for number in order], rotation=90)
    figure.legend(loc="outside upper center", ncols=3)
    return captioned(figure, caption, alt=f"Share of every prototype as bars; {'; '.join(labels)}.")


@journal
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
    figure = sheet(FULL, 76)
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    axis = left.subplots()
    names = [shortened(text, TEXT_WIDTH) for text in phrases]
    axis.barh(range(len(names)), phrase_similarity, color=LGDEA)
    axis.set_yticks(range(len(names)), [folded(name, 26) for name in names])
    axis.set(xlim=(min(0.0, float(np.min(phrase_similarity))), 1), ylim=(len(names) - 0.5, -0.5))
    axis.set(xlabel="cosine similarity", title=folded(title, 40))
    axis.axvline(0, color=GREY, linewidth=0.6)
    axes = right.subplots(2, 3).ravel()
    for place, crop, looked, similarity in zip(axes, crops, attention, lesion_similarity, strict=False):
        extent = (-0.5, crop.shape[1] - 0.5, crop.shape[0] - 0.5, -0.5)
        place.imshow(crop, cmap="gray", vmin=0, vmax=1)
        times_even = looked * looked.size
        strength = np.clip((times_even - ATTENTION_RANGE[0]) / np.diff(ATTENTION_RANGE), 0, 1)
        place.imshow(np.ones_like(looked), cmap="autumn", alpha=0.7 * strength, extent=extent, interpolation="bilinear")
        place.set_title(f"cosine {similarity:.2f}", fontsize=7)
    for place in axes:
        place.set_axis_off()
    right.suptitle("nearest lesion tokens,\nwhere they looked more than evenly", fontsize=8)
    alt = f"{title or 'A prototype'}: nearest are the phrases {listed([f'{text!r}' for text in names[:3]])}; beside "
    return captioned(figure, caption, alt=f"{alt}them the images of its nearest lesion tokens.")
