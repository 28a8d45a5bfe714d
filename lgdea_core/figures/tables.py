"""Figures of the committed tables.

A mark is the mean over seeds and its bar the standard deviation (of the sample, n - 1); one seed has no bar. Rows that
a table lacks are not drawn, and the caption names them. Axes run over `RANGES`, farther only where a value lies beyond.
"""

import itertools
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lgdea_core.figures.style import COLOURS, GREY, MARKERS, Figure, captioned

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
MARK = {"markersize": 5, "linewidth": 1.2}
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
        _draw_shares(axis, table, "paired_ratio", column, methods, ratios)
        axis.set(ylabel=name, ylim=_range(name, table[column]), xlim=(0.007, 1.4))
        if name in CHANCE:
            axis.axhline(CHANCE[name], color=GREY, linestyle=":")
    for axis in axes[3:]:
        axis.set_xlabel("known pairs (log scale)")
    figure.legend(handles=_handles(methods, "-"), loc="outside upper center", ncols=8, frameon=False)
    there = set(table[["method", "paired_ratio"]].itertuples(index=False, name=None))
    groups: dict[str, list[str]] = {}  # methods that lack the same ratios, together
    for method in methods:
        absent = ", ".join(f"{100 * ratio:g} %" for ratio in ratios if (method, ratio) not in there)
        groups.setdefault(absent, []).append(method)
    lacking = [f"{', '.join(names)} at {absent}" for absent, names in groups.items() if absent]
    return captioned(figure, caption, _seeds_note(table, ["method", "paired_ratio"]), _no_rows(lacking))


def figure_label_curve(panels: Mapping[tuple[str, str], pd.DataFrame], caption: str = "") -> Figure:
    """Methods over the share of the labels, a panel for each (measure, corpus).

    Args:
        panels: rows with columns method, label_ratio, seed and the measure's; one protocol each.
        caption: what is the same in all panels.

    Raises:
        ValueError: there is no panel, or one has no row.
    """
    if not panels or any(table.empty for table in panels.values()):
        raise ValueError(f"figure_label_curve: expected rows for every panel, got none for {list(panels) or 'any'}")
    rows = pd.concat([table.assign(panel=str(key)) for key, table in panels.items()])
    methods = list(dict.fromkeys(rows["method"]))
    figure = Figure(figsize=(3.1 * len(panels) + 0.4, 3.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, ((measure, corpus), table) in zip(axes, panels.items(), strict=True):
        _draw_shares(axis, table, "label_ratio", measure, methods, sorted(table["label_ratio"].unique()))
        axis.set(ylabel=measure, title=corpus, ylim=(0.4, 1.0) if measure == "auc" else (0.0, 1.0))
        if measure == "auc":
            axis.axhline(0.5, color=GREY, linestyle=":")
    figure.legend(handles=_handles(methods, "-"), loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    note = "share of labelled training studies, log scale"
    return captioned(figure, caption, _seeds_note(rows, ["panel", "method", "label_ratio"]), note)


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
    table = table.sort_values("method").sort_values("variant", key=lambda part: part.map(order.index), kind="stable")
    shared = table.groupby("variant")["method"].transform("nunique") > 1
    table["line"] = table["variant"].where(~shared, table["variant"] + ": " + table["method"])
    lines, hollow = list(dict.fromkeys(table["line"])), table["variant"].isin(controls)
    figure = Figure(figsize=(12.4, 0.3 * max(2, len(lines)) + 1.7), layout="constrained")
    axes = figure.subplots(1, len(MEASURE_NAMES), sharey=True)
    for axis, (column, name) in zip(axes, MEASURE_NAMES.items(), strict=True):
        _level(axis.axvline, axis.axvspan, whole, column, "the method as it is", colour=COLOURS[1])
        _draw_points(axis, table[~hollow], column, "line", lines, color=COLOURS[0])
        _draw_points(axis, table[hollow], column, "line", lines, color=COLOURS[0], markerfacecolor="white")
        axis.set(xlabel=name, ylabel="", xlim=_range(name, both[column]))
        axis.grid(axis="x", color="#DDDDDD", linewidth=0.6)
        if name in CHANCE:
            axis.axvline(CHANCE[name], color=GREY, linestyle=":", label="chance")
    axes[0].set_yticks(range(len(lines)), lines)
    axes[0].set(ylim=(max(2, len(lines)) - 0.5, -0.5), ylabel="variant (hollow: must fail)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    lacking = [name for name in variants if name not in set(table["variant"])]
    lacking += [] if len(whole) else ["the method as it is"]
    return captioned(figure, caption, _seeds_note(both, ["variant", "method"]), _no_rows(lacking))


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
    settings = [column for column in table.columns if column in base]
    for column, (setting, mode) in zip(axes.T, SWEPT.items(), strict=True):
        others = {**base, "relations": mode or base["relations"]}
        held = [name for name in settings if name != setting]
        rows = table[(table[held] == pd.Series(others)[held]).all(axis=1)]  # which differ in one setting at most
        shuffled = table[table["relations"] == f"{others['relations']}, shuffled pairs"]
        lacking += [setting] if rows[setting].nunique() < 2 else []
        for axis, (quality, (name, reference)) in zip(column, QUALITIES.items(), strict=True):
            _level(axis.axhline, axis.axhspan, random, quality, "random relations", colour=GREY)
            _level(axis.axhline, axis.axhspan, shuffled, quality, "shuffled pairs", colour=COLOURS[2])
            if reference:
                _level(axis.axhline, axis.axhspan, table, reference, "commonest findings for all", colour=COLOURS[1])
            _draw_means(axis, rows, setting, quality, color=COLOURS[0], marker=MARKERS[0])
            axis.set(ylabel=name, xlabel="", ylim=_range(name, table[quality]))
        column[-1].set_xlabel(f"{setting} (mode {others['relations']})", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return captioned(figure, caption, _seeds_note(table, settings), _no_rows(lacking))


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
    share = (100 * rows["paired_ratio"]).map("{:g} %".format)
    rows = rows.assign(series=rows["method"] + ", " + share)
    series = list(dict.fromkeys(rows["series"]))
    panels = {kind: list(dict.fromkeys(part["group"])) for kind, part in rows.groupby("by", sort=False)}
    lines = [len(groups) for groups in panels.values()]
    height = (0.2 + 0.08 * len(series)) * sum(lines) + 0.4 * len(lines) + 1.3
    figure = Figure(figsize=(7.4, height), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=lines)[:, 0]
    name = MEASURE_NAMES.get(PROTOCOLS.get(measure, measure), measure)
    looks, apart, lacking = _looks(series).values(), 0.6 * (1 - 1 / len(series)), []
    styles = {"palette": [look["color"] for look in looks], "markers": [look["marker"] for look in looks]}
    for axis, (kind, groups) in zip(axes, panels.items(), strict=True):
        part = rows[rows["by"] == kind]
        _draw_points(axis, part, "estimate", "group", groups, hue="series", hue_order=series, dodge=apart, **styles)
        sizes = part.groupby("group")["n"].agg(["min", "max"]).loc[groups].itertuples()
        counts = [f"{group} (n = {low}" + (")" if low == high else f" to {high})") for group, low, high in sizes]
        axis.set_yticks(range(len(groups)), counts)
        axis.set(ylabel=kind, xlabel="", xlim=_range(name, rows["estimate"]), ylim=(len(groups) - 0.5, -0.5))
        axis.grid(axis="x", color="#DDDDDD", linewidth=0.6)
        there = set(part[["series", "group"]].itertuples(index=False, name=None))
        lacking += [f"{one} on {group}" for one in series for group in groups if (one, group) not in there]
    axes[-1].set_xlabel(name)
    handles = _handles([f"{one} of pairs" for one in series])
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return captioned(figure, caption, _seeds_note(rows, ["series", "by", "group"]), _no_rows(lacking))


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
    looks = _looks(settings)
    for axis, ((corpus, measure), part) in zip(axes, panels, strict=False):
        systems = list(dict.fromkeys(names[part.index]))
        for row, name in zip(part.to_dict("records"), names[part.index], strict=True):
            face = {"markerfacecolor": "none"} if row["origin"] == PUBLISHED else {}
            axis.errorbar(row["value"], systems.index(name), xerr=row["sd"], linestyle="", markersize=5, capsize=2,
                          **looks[row["setting"]], **face)  # fmt: skip
        axis.set_yticks(range(len(systems)), [labels[name] for name in systems], fontsize=7)
        axis.set(xlabel=measure, xlim=_range(measure, part["value"]), ylim=(len(systems) - 0.5, -0.5))
        axis.set_title(f"{corpus}: {', '.join(dict.fromkeys(part['origin']))}", fontsize=8)
        axis.grid(color="#EEEEEE", linewidth=0.6)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    handles = _handles(settings)
    if rows["origin"].eq(PUBLISHED).any():
        handles.append(Line2D([], [], linestyle="", label=PUBLISHED, color=GREY, marker="o", markerfacecolor="white"))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return captioned(figure, caption)


def _looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each name, by its place."""
    looks = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=True)
    return {name: {"color": colour, "marker": marker} for name, (colour, marker) in zip(names, looks, strict=False)}


def _handles(names: Sequence[str], linestyle: str = "") -> list[Line2D]:
    return [Line2D([], [], linestyle=linestyle, label=name, **look) for name, look in _looks(names).items()]


def _draw_means(axis: Axes, rows: pd.DataFrame, x: str, y: str, **look: Any) -> None:
    """Mean over the seeds at every place, joined by a line; the bar is their deviation."""
    if rows[y].notna().any():  # seaborn draws no empty table
        bars = {"errorbar": "sd", "err_style": "bars", "err_kws": {"capsize": 2, "elinewidth": 1.2}}
        sns.lineplot(rows, x=x, y=y, ax=axis, legend=False, markeredgewidth=0, **MARK, **bars, **look)


def _draw_points(axis: Axes, rows: pd.DataFrame, x: str, y: str, lines: Sequence[str], **look: Any) -> None:
    """The same on one line for each name in column `y`, one below the other and not joined."""
    if rows[x].notna().any():
        bars = {"errorbar": "sd", "capsize": 0.1, "err_kws": {"zorder": 1}, "orient": "y", "linestyle": "none"}
        sns.pointplot(rows, x=x, y=y, order=lines, ax=axis, legend=False, markeredgewidth=1, **MARK, **bars, **look)


def _draw_shares(
    axis: Axes, table: pd.DataFrame, x: str, y: str, methods: Sequence[str], ratios: Sequence[float]
) -> None:
    """Every method over a share, on a log scale, a little apart so that no bar hides another."""
    for number, (method, look) in enumerate(_looks(methods).items()):
        own = table[table["method"] == method]
        _draw_means(axis, own.assign(**{x: own[x] * 1.04 ** (number - (len(methods) - 1) / 2)}), x, y, **look)
    axis.set(xscale="log", xlabel="")
    axis.set_xticks(ratios, [f"{100 * ratio:g} %" for ratio in ratios], fontsize=8)
    axis.minorticks_off()


def _level(
    line: Callable[..., object], band: Callable[..., object], rows: pd.DataFrame, column: str, label: str, colour: Any
) -> None:
    """Mean of a column as a line through the panel, its sd as a band; nothing where there are no rows."""
    values = rows[column].dropna()
    if len(values):
        line(values.mean(), color=colour, linestyle="--", linewidth=1, label=label)
    if len(values) > 1:
        band(values.mean() - values.std(), values.mean() + values.std(), color=colour, alpha=0.15, linewidth=0)


def _range(name: str, values: pd.Series) -> tuple[float, float]:
    low, high = RANGES.get(name, (0.0, 1.0))
    return min([low, *values.dropna()]), max([high, *values.dropna()])


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


def _no_rows(lacking: Sequence[str]) -> str:
    return f"no rows: {'; '.join(lacking)}" if lacking else ""
