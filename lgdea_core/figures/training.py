"""What a training logged, over its steps."""

from collections.abc import Mapping, Sequence

import pandas as pd
import seaborn as sns

from lgdea_core.figures.style import COLOURS, GREY, Figure, captioned


def figure_history(
    history: pd.DataFrame,
    columns: Sequence[str],
    phases: Mapping[str, tuple[int, int]] | None = None,
    caption: str = "",
) -> Figure:
    """Loss terms or monitors over the optimiser steps, one panel each.

    Args:
        history: columns step and those to draw; with a column variant one line per variant, dashed where its pairs were
            shuffled. A variant that never logs a column has no line there.
        columns: what to draw.
        phases: name of a training phase -> first and last step; phases are shaded and named.
        caption: n and seeds.

    Raises:
        ValueError: the history lacks a column, or none was asked for.
    """
    unknown = [name for name in columns if name not in history]
    if unknown or not columns:
        wanted = f"no column(s) {unknown}" if unknown else "columns, but none was asked for"
        raise ValueError(f"figure_history: history has {wanted}; it has {', '.join(history)}")
    lines = dict(tuple(history.groupby("variant", sort=False))) if "variant" in history else {"": history}
    across = min(3, len(columns))
    down = -(-len(columns) // across)
    figure = Figure(figsize=(3.0 * across + 1.8 * ("variant" in history), 1.9 * down + 0.4), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    for axis, column in zip(axes, columns, strict=False):
        for colour, (name, rows) in zip(COLOURS, lines.items(), strict=False):
            known, dashes = rows[["step", column]].dropna(), "--" if name.endswith("shuffled") else "-"
            axis.plot(known["step"], known[column], dashes, color=colour, linewidth=1.2, label=name)
        axis.set_title(column, fontsize=9)
        axis.margins(y=0.16)
        if axis in axes[len(columns) - across :]:  # nothing below it
            axis.set_xlabel("optimiser step", fontsize=8)
            axis.tick_params(labelbottom=True)
        for number, (name, (first, last)) in enumerate((phases or {}).items()):
            axis.axvspan(first, last, color=GREY, alpha=0.08 + 0.1 * (number % 2), linewidth=0)
            axis.text((first + last) / 2, 0.98, name, transform=axis.get_xaxis_transform(), ha="center", va="top",
                      fontsize=6, color=GREY)  # fmt: skip
        sns.despine(ax=axis)
    for axis in axes[len(columns) :]:
        axis.set_axis_off()
    if "variant" in history:
        handles = axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside right center", frameon=False, fontsize=8)
    figure.supylabel("value (nats, or as named)", fontsize=8)
    return captioned(figure, caption)
