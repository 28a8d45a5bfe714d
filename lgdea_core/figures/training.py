"""What a training logged, over its steps."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.patches import Patch

from lgdea_core.figures.names import TERM_NAMES, label_of, line_of, looks
from lgdea_core.figures.style import COLOURS, FULL, HALF, PALE, Figure, captioned, folded, journal, listed, sheet


@journal
def figure_history(
    history: pd.DataFrame,
    columns: Sequence[str],
    phases: Mapping[str, tuple[int, int]] | None = None,
    caption: str = "",
    method: str = "lgdea",
) -> Figure:
    """Loss terms or monitors over the optimiser steps, one panel each.

    Where several columns are asked for, one that never changes has no panel: the caption says its value.

    Args:
        history: columns step and those to draw; with a column variant one line per variant, dashed where its pairs were
            shuffled. A variant that never logs a column has no line there.
        columns: what to draw; losses are in nats.
        phases: name of a training phase -> first and last step, a ground each.
        caption: n and seeds.
        method: the run's, which its variant "model" is.

    Raises:
        ValueError: the history lacks a column, or none was asked for.
    """
    unknown = [name for name in columns if name not in history]
    if unknown or not columns:
        wanted = f"no column(s) {unknown}" if unknown else "columns, but none was asked for"
        raise ValueError(f"figure_history: history has {wanted}; it has {', '.join(history)}")
    names = {column: TERM_NAMES.get(column, column.replace("_", " ")) for column in columns}
    still = [column for column in columns if history[column].nunique() <= 1]
    shown = [column for column in columns if column not in still] or list(columns[:1])
    values = {column: history[column].dropna() for column in still if column not in shown}
    constant = [f"{names[column]} {part.iloc[0]:.3g}" if len(part) else f"{names[column]} never logged"
                for column, part in values.items()]  # fmt: skip
    lines = dict(tuple(history.groupby("variant", sort=False))) if "variant" in history else {}
    labels = [label_of(name, method) for name in lines]
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    figure = sheet(HALF if across == 1 else FULL, 38 * down + 20 if across > 1 else 64)
    axes = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    for axis, column in zip(axes, shown, strict=False):
        for (first, last), ground in zip((phases or {}).values(), PALE, strict=False):
            axis.axvspan(first, last, color=ground, linewidth=0)
        if not lines:
            known = history[["step", column]].dropna()
            axis.plot(known["step"], known[column], color=COLOURS[0])
        for rows, (label, look) in zip(lines.values(), looks(labels).items(), strict=True):
            known = rows[["step", column]].dropna()
            axis.plot(known["step"], known[column], line_of(label), color=look["color"], label=label)
        axis.set_title(folded(names[column], 40))
        axis.margins(x=0.02, y=0.1)
        if axis in axes[len(shown) - across :]:  # nothing below it
            axis.set_xlabel("optimiser step")
            axis.tick_params(labelbottom=True)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    handles = axes[0].get_legend_handles_labels()[0]
    handles += [Patch(color=ground, label=name) for name, ground in zip(phases or {}, PALE, strict=False)]
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=4 if across > 1 else 2)
    alt = f"{listed([names[column] for column in shown])} over the optimiser steps"
    alt += f" of {listed(labels)}." if labels else "."
    return captioned(figure, caption, f"never changes: {'; '.join(constant)}" if constant else "", alt=alt)
