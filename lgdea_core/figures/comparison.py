"""Measures of the models of one run against each other, with their intervals."""

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from lgdea_core.figures.names import GREY, LOOK_NAMES, TERM_NAMES, label_of, looks
from lgdea_core.figures.style import FULL, HALF, Figure, captioned, journal, listed, sheet, single

PUBLISHED = "published, not rerun"
"""Origin of rows taken from a paper; they are drawn hollow."""


@journal
def figure_metric_comparison(table: pd.DataFrame, caption: str = "", method: str = "lgdea") -> Figure:
    """Models against each other, one panel a metric in two rows, with intervals and the chance level.

    Hollow marks are controls, which must fail, and published numbers.

    Args:
        table: columns metric, method (a run's variant, or a name), estimate, low, high; optionally chance (a number per
            metric, or NaN) and published (True: taken from a paper and not rerun).
        caption: n and seeds, and what the intervals are.
        method: the run's, which its variant "model" is.
    """
    return _compared(table, caption, method)


def _compared(table: pd.DataFrame, caption: str, method: str) -> Figure:
    metrics, keys = list(dict.fromkeys(table["metric"])), list(dict.fromkeys(table["method"]))
    places = {key: place for place, key in enumerate(keys)}
    labels = [label_of(key, method) for key in keys]
    published = set(table.loc[table["published"].astype(bool), "method"]) if "published" in table else set()
    faces = list(looks(labels).values())
    down = 1 if len(metrics) < 4 else 2
    across = -(-len(metrics) // down)
    figure = sheet(FULL if across > 1 else HALF, down * (max(4.4 * len(keys), 46 / across) + 13) + 11)
    axes = figure.subplots(down, across, sharey=True, squeeze=False)
    for axis, metric in zip(axes.flat, metrics, strict=False):
        for row in table[table["metric"] == metric].to_dict("records"):
            place, look = places[row["method"]], faces[places[row["method"]]]
            face = {"markerfacecolor": "white"} if row.get("published", False) else {}
            axis.plot([row["low"], row["high"]], [place, place], color=look["color"])
            axis.plot(row["estimate"], place, **look | face)
        level = table.loc[table["metric"] == metric, "chance"].dropna() if "chance" in table else pd.Series()
        if len(level):
            axis.axvline(level.iloc[0], color=GREY, linestyle=":", linewidth=1, label="chance")
        axis.set_xlabel(metric)
        axis.grid(axis="x")
        axis.locator_params(axis="x", nbins=4)
    for axis in axes.flat[len(metrics) :]:
        axis.set_axis_off()
    names = [f"{label} ({PUBLISHED})" if key in published else label for key, label in zip(keys, labels, strict=True)]
    axes[0, 0].set_yticks(range(len(keys)), names)
    axes[0, 0].set_ylim(len(keys) - 0.5, -0.5)
    if "chance" in table and table["chance"].notna().any():
        dots = Line2D([], [], color=GREY, linestyle=":", linewidth=1, label="chance")
        figure.legend(handles=[dots], loc="outside upper right")
    return captioned(figure, caption, alt=f"{listed(metrics)} of {listed(names)}, with intervals.")


@journal
def figure_looks(table: pd.DataFrame, caption: str = "") -> Figure:
    """What a model scores on the images, and where image or words say nothing: one panel a metric, chance dotted.

    Args:
        table: columns metric, shown (what the model was given), kind (of `LOOK_NAMES`), estimate, low, high, chance.
        caption: model and corpus, and what the intervals are.
    """
    metrics, shown = list(dict.fromkeys(table["metric"])), list(dict.fromkeys(table["shown"]))
    figure = sheet(FULL if len(metrics) > 1 else HALF, max(5 * len(shown), 46) + 26)
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=True):
        rows = table[table["metric"] == metric]
        for row in rows.to_dict("records"):
            place, (colour, marker) = shown.index(row["shown"]), LOOK_NAMES[row["kind"]][1:]
            axis.plot([row["low"], row["high"]], [place, place], color=colour)
            axis.plot(row["estimate"], place, color=colour, marker=marker)
        axis.axvline(rows["chance"].iloc[0], color=GREY, linestyle=":", linewidth=1)
        axis.set_xlabel(metric)
        axis.grid(axis="x")
        axis.locator_params(axis="x", nbins=4)
    axes[0].set_yticks(range(len(shown)), shown)
    axes[0].set_ylim(len(shown) - 0.5, -0.5)
    kinds = [LOOK_NAMES[kind] for kind in dict.fromkeys(table["kind"])]
    handles = [Line2D([], [], linestyle="", label=name, color=colour, marker=mark) for name, colour, mark in kinds]
    handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1, label="chance"))
    figure.legend(handles=handles, loc="outside upper center", ncols=5 if len(metrics) > 1 else 2)
    return captioned(figure, caption, alt=f"{listed(metrics)} of one model given {listed(shown)}, with intervals.")


@journal
def figure_relation_quality(table: pd.DataFrame, caption: str = "") -> Figure:
    """Quality against the hidden truth: columns relations (name), measure, value, if known low, high, chance."""
    table = table.rename(columns={"relations": "method", "measure": "metric", "value": "estimate"})
    for bound in ("low", "high"):
        table[bound] = table.get(bound, table["estimate"])
    figure = _compared(table.replace({"metric": TERM_NAMES}), caption, "")
    for axis in figure.axes:
        axis.set_xlim(0, 1.05 * axis.get_xlim()[1])
    return figure


@journal
def figure_finding_auc(table: pd.DataFrame, caption: str = "", method: str = "lgdea") -> Figure:
    """Zero-shot AUC of every finding, one mark with its interval per variant.

    Args:
        table: columns finding, variant, estimate, low, high; a finding without an AUC has NaN and keeps its line.
        caption: n and seeds, and what the intervals are.
        method: the run's, which its variant "model" is.
    """
    findings, variants = list(dict.fromkeys(table["finding"])), list(dict.fromkeys(table["variant"]))
    labels = [label_of(variant, method) for variant in variants]
    figure, axis = single(HALF, max(max(4 + 2 * len(variants), 7) * len(findings), 28) + 26)
    for number, (variant, (label, look)) in enumerate(zip(variants, looks(labels).items(), strict=True)):
        rows = table[table["variant"] == variant].set_index("finding").reindex(findings)
        place = np.arange(len(findings)) + 0.7 * ((number + 0.5) / len(variants) - 0.5)
        axis.hlines(place, rows["low"], rows["high"], color=look["color"], linewidth=1)
        axis.plot(rows["estimate"], place, linestyle="", label=label, **look)
    axis.axvline(0.5, color=GREY, linestyle=":", linewidth=1, label="chance")
    axis.set_yticks(range(len(findings)), findings)
    axis.set(xlabel="zero-shot AUC", ylim=(len(findings) - 0.5, -0.5))
    axis.set_xlim(np.floor(10 * np.nanmin([0.45, *table["low"].astype(float)])) / 10, 1)
    figure.legend(loc="outside upper center", ncols=2)
    return captioned(figure, caption, alt=f"Zero-shot AUC of {listed(findings)}, for {listed(labels)}.")
