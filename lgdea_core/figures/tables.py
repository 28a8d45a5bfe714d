"""Figures of the committed tables; rules as in `figures`: arrays in, a Figure out.

A mark is the mean over seeds and its bar the standard deviation (of the sample, n - 1); one seed has no bar. Rows that
a table lacks are not drawn, and the caption names them. Axes run over `RANGES`, farther only where a value lies beyond.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lgdea_core.figures import COLOURS, GREY, MARKERS

MEASURE_NAMES = {
    "auc": "zero-shot AUC",
    "cnr": "CNR (signed)",
    "miou": "mIoU (BioViL-T)",
    "pointing": "pointing game",
    "precision_at_5": "precision@5",
    "recall_at_10": "recall@10",
}
"""column of an experiment's table -> name of the measure; one panel each, in this order"""
PROTOCOLS = {"cnr_signed": "cnr", "miou_biovil_t": "miou"}
"""protocol, by which hard_set.csv calls a measure -> column of the other tables"""
RANGES = {
    "zero-shot AUC": (0.4, 1.0),
    "AUC, global score": (0.4, 1.0),
    "linear-probe AUC": (0.4, 1.0),
    "linear-probe accuracy": (0.4, 1.0),
    "CNR (signed)": (-0.5, 2.5),
    "CNR (absolute)": (-0.5, 2.5),
    "CNR (signed), films swapped": (-0.5, 2.5),
    "CNR (signed), image-blind": (-0.5, 2.5),
    "mIoU (BioViL-T)": (0.0, 0.4),
    "mIoU (BioViL-T), films swapped": (0.0, 0.4),
    "mIoU (BioViL-T), image-blind": (0.0, 0.4),
    "CNR (signed), beyond films swapped": (-0.5, 1.0),
    "mIoU (BioViL-T), beyond films swapped": (-0.1, 0.3),
    "pointing game, beyond films swapped": (-0.2, 0.5),
    "precision@5": (0.0, 0.7),
    "precision@5, commonest findings": (0.0, 0.7),
    "recall@10": (0.0, 0.7),
    "recall@10, text to image": (0.0, 0.7),
    "precision@1": (0.0, 0.6),
    "label AUC": (0.4, 1.0),
}
"""Axis of a measure; [0, 1] for every other one."""
CHANCE = {"zero-shot AUC": 0.5, "CNR (signed)": 0.0}
"""Levels that hold whatever the pool; where others lie, the shuffled control shows."""
SWEPT = {"alpha": "graph", "neighbours": "graph", "affinity_sharpness": "affinity", "pair_steps": None}
"""swept setting -> mode of the relations it was swept in; None: the mode of the base settings"""
QUALITIES = {"precision_at_1": ("precision@1", "commonest_rate"), "label_auc": ("label AUC", None)}
"""column -> name, and the column of what relating every image to the commonest set of findings would get"""
PUBLISHED = "published, not rerun"
"""Origin of rows taken from a paper; they are drawn hollow."""


def figure_pairing_curve(
    table: pd.DataFrame, methods: Sequence[str] = (), ratios: Sequence[float] = (), caption: str = ""
) -> Figure:
    """Every method over the share of known pairs, one panel a measure.

    Args:
        table: columns method, paired_ratio, seed and those of `MEASURE_NAMES`; rows of one world, preset and variant.
        methods: all there should be, in the order of the legend; ones that lack rows are named in the caption.
        ratios: the same of paired ratios.
        caption: world and preset.

    Raises:
        ValueError: rows of several worlds, presets or variants.
    """
    _refuse_mixed(table, ("world", "preset", "variant"), "figure_pairing_curve")
    methods = list(dict.fromkeys((*methods, *table["method"])))
    ratios = sorted({*ratios, *table["paired_ratio"]})
    figure = Figure(figsize=(9.6, 5.4), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for axis, (column, name) in zip(axes, MEASURE_NAMES.items(), strict=True):
        for number, method in enumerate(methods):
            own = mean_and_sd(table[table["method"] == method], ["paired_ratio"], column)
            places = own["paired_ratio"] * 1.04 ** (number - (len(methods) - 1) / 2)  # no bar hides another
            axis.errorbar(places, own["mean"], own["sd"], label=method, **_style(number))
        axis.set(ylabel=name, ylim=_range(name, table, column), xscale="log", xlim=(0.007, 1.4))
        axis.set_xticks(ratios, [f"{100 * ratio:g} %" for ratio in ratios], fontsize=8)
        axis.minorticks_off()
        if name in CHANCE:
            axis.axhline(CHANCE[name], color=GREY, linestyle=":")
    for axis in axes[3:]:
        axis.set_xlabel("known pairs (log scale)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=8, frameon=False)
    lacking = _lacking(table, methods, ratios)
    return _captioned(figure, caption, _seeds_note(table, ["method", "paired_ratio"]), _no_rows(lacking))


def figure_ablation(
    table: pd.DataFrame,
    whole: pd.DataFrame,
    variants: Sequence[str] = (),
    controls: Sequence[str] = (),
    caption: str = "",
) -> Figure:
    """Every variant as a point with its bar, the method as it is as a line with its band; controls are hollow.

    Args:
        table: columns method, variant, seed and those of `MEASURE_NAMES`; rows of one world, preset and paired ratio.
            Variants of any method: where a variant has several, each has its own line and name.
        whole: the same columns, rows of the one method as it is.
        variants: all there should be, top to bottom; ones that lack rows are named in the caption.
        controls: the variants that must fail.
        caption: world, preset and paired ratio.

    Raises:
        ValueError: rows of several worlds, presets or paired ratios, or of several methods as they are.
    """
    both = pd.concat([part for part in (table, whole) if len(part)] or [table])
    _refuse_mixed(both, ("world", "preset", "paired_ratio"), "figure_ablation")
    _refuse_mixed(whole, ("method",), "figure_ablation")
    order = list(dict.fromkeys((*variants, *table["variant"])))
    lines = sorted(set(table[["variant", "method"]].itertuples(index=False, name=None)),
                   key=lambda line: (order.index(line[0]), line[1]))  # fmt: skip
    figure = Figure(figsize=(12.4, 0.3 * max(2, len(lines)) + 1.7), layout="constrained")
    axes = figure.subplots(1, len(MEASURE_NAMES), sharey=True)
    for axis, (column, name) in zip(axes, MEASURE_NAMES.items(), strict=True):
        _level(axis.axvline, axis.axvspan, whole, column, "the method as it is", colour=COLOURS[1])
        for place, (variant, method) in enumerate(lines):
            rows = table[(table["variant"] == variant) & (table["method"] == method)]
            own, style = mean_and_sd(rows, ["variant"], column), _style(0) | {"linestyle": ""}
            style["markerfacecolor"] = "white" if variant in controls else COLOURS[0]
            axis.errorbar(own["mean"], [place] * len(own), xerr=own["sd"], **style)
        axis.set(xlabel=name, xlim=_range(name, both, column))
        axis.grid(axis="x", color="#DDDDDD", linewidth=0.6)
        if name in CHANCE:
            axis.axvline(CHANCE[name], color=GREY, linestyle=":", label="chance")
    shared = table.groupby("variant")["method"].nunique()
    labels = [f"{variant}: {method}" if shared[variant] > 1 else variant for variant, method in lines]
    axes[0].set_yticks(range(len(lines)), labels)
    axes[0].set(ylim=(max(2, len(lines)) - 0.5, -0.5), ylabel="variant (hollow: must fail)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    lacking = [name for name in variants if name not in set(table["variant"])]
    lacking += [] if len(whole) else ["the method as it is"]
    return _captioned(figure, caption, _seeds_note(both, ["variant", "method"]), _no_rows(lacking))


def figure_relation_curves(table: pd.DataFrame, base: Mapping[str, object], caption: str = "") -> Figure:
    """Quality of the relations over one setting at a time, the others at their base; the controls as lines.

    They are random relations, and in a mode with a graph the same graphs from shuffled pairs at the base settings.

    Args:
        table: of `relations.csv`; rows of one world, preset and paired ratio.
        base: settings of the preset by column, and their mode under "relations".
        caption: world, preset and paired ratio.

    Raises:
        ValueError: rows of several worlds, presets or paired ratios.
    """
    _refuse_mixed(table, ("world", "preset", "paired_ratio"), "figure_relation_curves")
    figure = Figure(figsize=(11.0, 5.0), layout="constrained")
    axes = figure.subplots(len(QUALITIES), len(SWEPT), sharex="col", squeeze=False)
    random = table[table["relations"] == "random"]
    lacking = [] if len(random) else ["random relations"]
    for column, (setting, mode) in zip(axes.T, SWEPT.items(), strict=True):
        others = {**base, "relations": mode or base["relations"]}
        rows = _sweep(table, others, setting)
        shuffled = table[table["relations"] == f"{others['relations']}, shuffled pairs"]
        lacking += [setting] if rows[setting].nunique() < 2 else []
        for axis, (quality, (name, reference)) in zip(column, QUALITIES.items(), strict=True):
            _level(axis.axhline, axis.axhspan, random, quality, "random relations", colour=GREY)
            _level(axis.axhline, axis.axhspan, shuffled, quality, "shuffled pairs", colour=COLOURS[2])
            if reference:
                _level(axis.axhline, axis.axhspan, table, reference, "commonest findings for all", colour=COLOURS[1])
            own = mean_and_sd(rows, [setting], quality)
            axis.errorbar(own[setting], own["mean"], own["sd"], **_style(0))
            axis.set(ylabel=name, ylim=_range(name, table, quality))
        column[-1].set_xlabel(f"{setting} (mode {others['relations']})", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    settings = [column for column in table.columns if column in base]
    return _captioned(figure, caption, _seeds_note(table, settings), _no_rows(lacking))


def figure_hard_set(table: pd.DataFrame, measure: str, caption: str = "") -> Figure:
    """One measure on the hard test set within every group, one panel a kind of group (size, side, finding).

    Args:
        table: columns method, paired_ratio, seed, by (kind of group), group, measure, estimate, n (samples).
        measure: a value of the column measure.
        caption: world and preset.

    Raises:
        ValueError: no row has the measure, or rows of several worlds or presets.
    """
    _refuse_mixed(table, ("world", "preset"), "figure_hard_set")
    rows = table[table["measure"] == measure]
    if rows.empty:
        known = ", ".join(sorted(set(table["measure"])))
        raise ValueError(f"figure_hard_set: no row has measure {measure!r}; there are: {known or 'no rows'}")
    panels = {kind: list(dict.fromkeys(part["group"])) for kind, part in rows.groupby("by", sort=False)}
    lines = [len(groups) for groups in panels.values()]
    each = 0.2 + 0.08 * len(rows[["method", "paired_ratio"]].drop_duplicates())
    figure = Figure(figsize=(7.4, each * sum(lines) + 0.4 * len(lines) + 1.3), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=lines)[:, 0]
    name = MEASURE_NAMES.get(PROTOCOLS.get(measure, measure), measure)
    for axis, (kind, groups) in zip(axes, panels.items(), strict=True):
        _draw_groups(axis, rows[rows["by"] == kind], groups)
        axis.set(ylabel=kind, xlim=_range(name, rows, "estimate"))
    axes[-1].set_xlabel(name)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    series, cells = ["method", "paired_ratio"], ["by", "group"]
    lacking = [
        f"{method} {100 * ratio:g} % on {group}"
        for method, ratio in rows[series].drop_duplicates().itertuples(index=False)
        for kind, group in rows[cells].drop_duplicates().itertuples(index=False)
        if not (rows[[*series, *cells]] == (method, ratio, kind, group)).all(axis=1).any()
    ]
    return _captioned(figure, caption, _seeds_note(rows, [*series, *cells]), _no_rows(lacking))


def figure_paper_table(rows: pd.DataFrame, caption: str = "") -> Figure:
    """Systems against each other, one panel for each corpus and measure; published numbers are hollow.

    Args:
        rows: columns system, backbone, corpus, setting, measure, value, sd, origin.
        caption: what the table is of.

    Raises:
        ValueError: there are no rows.
    """
    if rows.empty:
        raise ValueError("figure_paper_table: expected at least one row, got none")
    panels = list(rows.groupby(["corpus", "measure"], sort=False))
    names = rows["system"] + rows["backbone"].where(rows["backbone"] == "", ", " + rows["backbone"])
    settings = list(dict.fromkeys(rows["setting"]))
    across = 2 if len(panels) in (2, 4) else min(3, len(panels))
    counts = [names[part.index].nunique() for _, part in panels]
    tallest = [max(counts[first : first + across]) for first in range(0, len(panels), across)]
    labels = {name: textwrap.fill(name, 26) for name in names}
    high = 0.11 + 0.13 * max(label.count("\n") + 1 for label in labels.values())  # inches of the longest label
    heights = [high * count + 0.9 for count in tallest]
    figure = Figure(figsize=(4.2 * across, sum(heights) + 0.8), layout="constrained")
    axes = figure.subplots(len(heights), across, squeeze=False, height_ratios=heights).ravel()
    for axis, ((corpus, measure), part) in zip(axes, panels, strict=False):
        systems = list(dict.fromkeys(names[part.index]))
        for row, name in zip(part.to_dict("records"), names[part.index], strict=True):
            style = _style(settings.index(row["setting"])) | {"linestyle": ""}
            if row["origin"] == PUBLISHED:
                style["markerfacecolor"] = "none"
            axis.errorbar(row["value"], systems.index(name), xerr=row["sd"], **style)
        axis.set_yticks(range(len(systems)), [labels[name] for name in systems], fontsize=7)
        axis.set(xlabel=measure, xlim=_range(measure, part, "value"), ylim=(len(systems) - 0.5, -0.5))
        axis.set_title(f"{corpus}: {', '.join(dict.fromkeys(part['origin']))}", fontsize=8)
        axis.grid(color="#EEEEEE", linewidth=0.6)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    looks = {setting: {key: _style(n)[key] for key in ("color", "marker")} for n, setting in enumerate(settings)}
    if rows["origin"].eq(PUBLISHED).any():
        looks[PUBLISHED] = {"color": GREY, "marker": "o", "markerfacecolor": "white"}
    handles = [Line2D([], [], linestyle="", label=label, **look) for label, look in looks.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return _captioned(figure, caption)


def mean_and_sd(table: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    """Mean, sd and seeds of a column for every group; no rows where the table lacks the column."""
    if column not in table:
        return pd.DataFrame(columns=[*by, "mean", "sd", "seeds"], dtype=float)
    known = table.dropna(subset=[column])
    return known.groupby(by, sort=True)[column].agg(mean="mean", sd="std", seeds="count").reset_index()


def _draw_groups(axis: Axes, rows: pd.DataFrame, groups: Sequence[str]) -> None:
    series = list(rows[["method", "paired_ratio"]].drop_duplicates().itertuples(index=False, name=None))
    for number, (method, ratio) in enumerate(series):
        own = rows[(rows["method"] == method) & (rows["paired_ratio"] == ratio)]
        spread = mean_and_sd(own, ["group"], "estimate").set_index("group").reindex(groups)
        places = np.arange(len(groups)) + 0.6 * ((number + 0.5) / len(series) - 0.5)
        style = _style(number) | {"linestyle": "", "label": f"{method}, {100 * ratio:g} % of pairs"}
        axis.errorbar(spread["mean"], places, xerr=spread["sd"], **style)
    sizes = rows.groupby("group")["n"].agg(["min", "max"]).loc[list(groups)]
    counts = [f"{low}" if low == high else f"{low} to {high}" for low, high in sizes.itertuples(index=False)]
    axis.set_yticks(range(len(groups)), [f"{group} (n = {n})" for group, n in zip(groups, counts, strict=True)])
    axis.set_ylim(len(groups) - 0.5, -0.5)
    axis.grid(axis="x", color="#DDDDDD", linewidth=0.6)


def _sweep(table: pd.DataFrame, base: Mapping[str, object], setting: str) -> pd.DataFrame:
    """Rows that differ from the base in one setting at most."""
    others = [name for name in base if name != setting and name in table]
    return table[np.logical_and.reduce([table[name] == base[name] for name in others])]


def _level(
    line: Callable[..., object], band: Callable[..., object], rows: pd.DataFrame, column: str, label: str, colour: Any
) -> None:
    """Mean of a column as a line through the panel, its sd as a band; nothing where there are no rows."""
    values = rows[column].dropna() if column in rows else pd.Series(dtype=float)
    if len(values):
        line(values.mean(), color=colour, linestyle="--", linewidth=1, label=label)
    if len(values) > 1:
        band(values.mean() - values.std(), values.mean() + values.std(), color=colour, alpha=0.15, linewidth=0)


def _style(number: int) -> dict[str, Any]:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    return {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.2, "elinewidth": 1.2, "capsize": 2}


def _range(name: str, table: pd.DataFrame, column: str) -> tuple[float, float]:
    low, high = RANGES.get(name, (0.0, 1.0))
    values = table[column].dropna() if column in table else []
    return (min(low, *values), max(high, *values)) if len(values) else (low, high)


def _refuse_mixed(table: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    for column in columns:
        values = sorted(map(str, table[column].unique())) if column in table else []
        if len(values) > 1:
            raise ValueError(f"{where}: expected rows of one {column}, got {', '.join(values)}; choose one")


def _seeds_note(table: pd.DataFrame, by: list[str]) -> str:
    """How many seeds a mark stands for."""
    if table.empty:
        return ""
    counts = table.groupby(by)["seed"].nunique()
    few, many = counts.min(), counts.max()
    note = f"mean ± sd over {many} seeds" if few == many else f"mean ± sd over {few} to {many} seeds"
    return "one seed, so no sd" if many == 1 else note + (" (one: no sd)" if few == 1 else "")


def _lacking(table: pd.DataFrame, methods: Sequence[str], ratios: Sequence[float]) -> list[str]:
    """ "clip, gloria at 1 %, 5 %": methods that lack the same ratios, together."""
    there = set(table[["method", "paired_ratio"]].itertuples(index=False, name=None))
    groups: dict[str, list[str]] = {}
    for method in methods:
        absent = ", ".join(f"{100 * ratio:g} %" for ratio in ratios if (method, ratio) not in there)
        groups.setdefault(absent, []).append(method)
    return [f"{', '.join(names)} at {absent}" for absent, names in groups.items() if absent]


def _no_rows(lacking: Sequence[str]) -> str:
    return f"no rows: {'; '.join(lacking)}" if lacking else ""


def _captioned(figure: Figure, *parts: str) -> Figure:
    text = "; ".join(part for part in parts if part)
    columns = int(18 * figure.get_figwidth())
    figure.supxlabel(textwrap.fill(text, columns), fontsize=7, color=GREY, x=0.99, ha="right")
    return figure
