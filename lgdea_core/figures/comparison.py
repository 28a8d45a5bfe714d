"""Measures of the models of one run against each other, with their intervals."""

import numpy as np
import pandas as pd
import seaborn as sns

from lgdea_core.figures.style import COLOURS, GREY, Figure, captioned, single


def figure_metric_comparison(table: pd.DataFrame, caption: str = "") -> Figure:
    """Methods against each other, one panel a metric, with intervals and the chance level.

    Columns metric, method, estimate, low, high; optionally chance (a number per metric, or NaN) and published (True:
    taken from a paper and not rerun; drawn hollow).
    """
    metrics, methods = list(dict.fromkeys(table["metric"])), list(dict.fromkeys(table["method"]))
    figure = Figure(figsize=(2.4 * len(metrics) + 1.2, 0.3 * len(methods) + 1.1), layout="constrained")
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=True):
        rows = table[table["metric"] == metric]
        for row in rows.to_dict("records"):
            place, hollow = methods.index(row["method"]), bool(row.get("published", False))
            colour = COLOURS[place % len(COLOURS)]
            axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
            axis.plot(row["estimate"], place, "o", color=colour, markerfacecolor="white" if hollow else colour)
        if "chance" in rows and rows["chance"].notna().any():
            axis.axvline(rows["chance"].dropna().iloc[0], color=GREY, linestyle=":", label="chance")
            axis.legend(frameon=False, fontsize=7, loc="best")
        axis.set_xlabel(metric)
        axis.grid(axis="x", color="#DDDDDD", linewidth=0.6)
        sns.despine(ax=axis)
    published = set(table.loc[table["published"].astype(bool), "method"]) if "published" in table else set()
    names = [f"{name} (published, not rerun)" if name in published else name for name in methods]
    axes[0].set_yticks(range(len(methods)), names)
    axes[0].set(ylim=(len(methods) - 0.5, -0.5), ylabel="method")
    return captioned(figure, caption)


def figure_finding_auc(table: pd.DataFrame, caption: str = "") -> Figure:
    """Zero-shot AUC of every finding, one mark with its interval per variant.

    Args:
        table: columns finding, variant, estimate, low, high; a finding without an AUC has NaN and keeps its line.
        caption: n and seeds, and what the intervals are.
    """
    findings, variants = list(dict.fromkeys(table["finding"])), list(dict.fromkeys(table["variant"]))
    figure, axis = single(6.6, 0.9 + 0.34 * len(findings), caption)
    for number, (colour, variant) in enumerate(zip(COLOURS, variants, strict=False)):
        rows = table[table["variant"] == variant].set_index("finding").reindex(findings)
        place = np.arange(len(findings)) + 0.7 * ((number + 0.5) / len(variants) - 0.5)
        axis.hlines(place, rows["low"], rows["high"], color=colour, linewidth=1.5)
        axis.plot(rows["estimate"], place, "o", color=colour, markersize=4, label=variant)
    axis.axvline(0.5, color=GREY, linestyle=":", label="chance")
    axis.set_yticks(range(len(findings)), findings)
    axis.set(xlabel="zero-shot AUC", xlim=(0, 1), ylim=(len(findings) - 0.5, -0.5), ylabel="finding")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    sns.despine(ax=axis)
    return figure
