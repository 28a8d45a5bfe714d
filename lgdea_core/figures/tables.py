"""Figures of the committed tables.

A mark is the mean over seeds and its bar the standard deviation (of the sample, n - 1); one seed has no bar. Rows that
a table lacks are not drawn, and the caption names them; a measure without any has no panel. Axes begin at chance, or at
0, and farther only where a value lies below.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lgdea_core.figures.comparison import PUBLISHED
from lgdea_core.figures.names import (
    CLIP,
    GLORIA,
    GREY,
    LGDEA,
    METHOD_NAMES,
    QUESTIONS,
    SETTING_NAMES,
    WORLD_NAMES,
    label_of,
    line_of,
    looks,
    name_of,
)
from lgdea_core.figures.style import FULL, HALF, TALLEST, Figure, captioned, folded, journal, listed, sheet

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
LEARNT = {"auc": "AUC of a linear probe", "accuracy": "accuracy of a linear probe", "dice": "Dice of a decoder"}
"""column of a downstream task -> name"""
CHANCE = {"zero-shot AUC": 0.5, "CNR (signed)": 0.0, "AUC of a linear probe": 0.5}
"""Levels that hold whatever the pool; where others lie, the shuffled control shows."""
SWEPT = {"alpha": "graph", "neighbours": "graph", "affinity_sharpness": "affinity", "pair_steps": None}
"""swept setting -> mode of the relations it was swept in; None: the mode of the base settings"""
QUALITIES = {"precision_at_1": ("precision@1", "commonest_rate"), "label_auc": ("label AUC", None)}
"""column -> name, and the column of what relating every image to the commonest set of findings would get"""
BESIDE = {
    "films swapped": ("another patient's image (control)", "x"),
    "image-blind": ("mean boxes (location-prior control)", "|"),
    "commonest findings": ("commonest findings for all", "|"),
    "text to image": ("text to image", "+"),
}
"""What stands behind the comma of a measure's name -> its name in words, and its marks in the panel of the measure."""
CONTROL = "control, must fail"
PITCH = 3.2
"""mm from one line of labels to the next"""
LABEL = 34
"""characters of a line's label before it is folded"""


@journal
def figure_pairing_curve(
    table: pd.DataFrame, methods: Sequence[str] = (), ratios: Sequence[float] = (), caption: str = ""
) -> Figure:
    """Every method over the share of known pairs, one panel a measure.

    Args:
        table: columns method, paired_ratio, seed and those of `MEASURE_NAMES`; rows of one world, preset and variant.
        methods: all there should be, in the order of the legend; ones that lack rows are named in the caption.
        ratios: the same of paired ratios.
        caption: what the table does not say.

    Raises:
        ValueError: rows of several worlds, presets or variants.
    """
    _refuse_mixed(table, ("world", "preset", "variant"), "figure_pairing_curve")
    methods = list(dict.fromkeys((*methods, *table["method"])))
    ratios = sorted({*ratios, *table["paired_ratio"]})
    figure, axes = _panels(_measured(table), "known pairs (log scale)")
    for column, axis in axes.items():
        _draw_shares(axis, table, "paired_ratio", column, methods, ratios)
        _finish(axis, MEASURE_NAMES[column], table[column])
        axis.set_xlim(0.7 * min(ratios), 1.4 * max(ratios))
    figure.legend(handles=_handles(map(name_of, methods)), loc="outside upper center", ncols=6)
    there = set(table[["method", "paired_ratio"]].itertuples(index=False, name=None))
    groups: dict[str, list[str]] = {}  # methods that lack the same ratios, together
    for method in methods:
        absent = ", ".join(f"{100 * ratio:g} %" for ratio in ratios if (method, ratio) not in there)
        groups.setdefault(absent, []).append(name_of(method))
    lacking = [f"{', '.join(names)} at {absent}" for absent, names in groups.items() if absent]
    notes = _place(table), caption, _seeds_note(table, ["method", "paired_ratio"]), _no_rows(lacking)
    return captioned(figure, *notes, alt=_curves_alt(axes, map(name_of, methods), "the share of known pairs"))


@journal
def figure_abundance(table: pd.DataFrame, caption: str = "") -> Figure:
    """Every method and variant over the number of unpaired images and reports beside the same pairs.

    Args:
        table: columns method, variant, unpaired (how many studies of each kind), seed and those of `MEASURE_NAMES`.
        caption: how many pairs, and what else the table does not say.

    Raises:
        ValueError: rows of several worlds or presets, or none.
    """
    _refuse_mixed(table, ("world", "preset"), "figure_abundance")
    _refuse_empty(table, "figure_abundance")
    counts = sorted(table["unpaired"].unique())
    rows = table.assign(
        label=[name_of(*pair) for pair in zip(table["method"], table["variant"].fillna(""), strict=True)],
        place=table["unpaired"].map(counts.index),
    )
    series = _told_apart(dict.fromkeys(rows["label"]))
    figure, axes = _panels(_measured(table), "unpaired images and reports")
    for column, axis in axes.items():
        for label, look in series.items():
            _draw_means(axis, rows[rows["label"] == label], "place", column, _line(label, look), **look)
        _finish(axis, MEASURE_NAMES[column], table[column])
        axis.set_xticks(range(len(counts)), [f"{count:,}" for count in counts])
    figure.legend(handles=_handles(series), loc="outside upper center", ncols=3)
    notes = _place(table), caption, _seeds_note(rows, ["label", "unpaired"])
    return captioned(figure, *notes, alt=_curves_alt(axes, series, "the number of unpaired images and reports"))


@journal
def figure_dose_response(table: pd.DataFrame, whole: pd.DataFrame, caption: str = "") -> Figure:
    """What relations of a given quality are worth: every measure over the label AUC of the relations trained with.

    Args:
        table: columns method, variant (one a dose), relation_label_auc, seed and those of `MEASURE_NAMES`; rows of one
            world, preset and paired ratio.
        whole: the same columns, rows of the one method as it is, drawn as a star.
        caption: what the table does not say.

    Raises:
        ValueError: rows of several worlds, presets, paired ratios or methods, or none.
    """
    both = pd.concat([table, whole])
    _refuse_mixed(both, ("world", "preset", "paired_ratio", "method"), "figure_dose_response")
    _refuse_empty(table, "figure_dose_response")
    figure, axes = _panels(_measured(both), "label AUC of the relations")
    name = name_of(both["method"].iloc[0])
    own = {"color": LGDEA, "marker": "*", "markersize": 9, "markeredgecolor": "black", "markeredgewidth": 0.5}
    for column, axis in axes.items():
        doses = table.assign(dose=table.groupby("variant")["relation_label_auc"].transform("mean"))
        _draw_means(axis, doses, "dose", column, color=LGDEA, marker="o")
        star = whole.assign(dose=whole["relation_label_auc"].mean())
        _draw_means(axis, star, "dose", column, "", **own)
        _finish(axis, MEASURE_NAMES[column], both[column])
    handles = [Line2D([], [], label="relations mixed with true pairs", color=LGDEA, marker="o")]
    handles += [Line2D([], [], linestyle="", label=f"{name} as it is", **own)] if len(whole) else []
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    notes = _place(table), caption, _seeds_note(table, ["variant"])
    return captioned(figure, *notes, alt=_curves_alt(axes, [name], "the label AUC of its relations"))


@journal
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
    figure, axes = _panels(list(panels), "labelled training images (log scale)")
    for (measure, corpus), axis in axes.items():
        table = panels[measure, corpus]
        _draw_shares(axis, table, "label_ratio", measure, methods, sorted(table["label_ratio"].unique()))
        _finish(axis, LEARNT.get(measure, measure), table[measure])
        axis.set_title(WORLD_NAMES.get(corpus, corpus))
    names = [name_of(method) for method in methods]
    figure.legend(handles=_handles(names), loc="outside upper center", ncols=6)
    alt = f"Downstream tasks over the share of the labels, by tower: {listed(names)}."
    return captioned(figure, caption, _seeds_note(rows, ["panel", "method", "label_ratio"]), alt=alt)


@journal
def figure_ablation(
    table: pd.DataFrame,
    whole: pd.DataFrame,
    variants: Sequence[str] = (),
    controls: Sequence[str] = (),
    caption: str = "",
) -> Figure:
    """Variants by the question they answer (rows) and measure (columns); the method as it is is a line with its band.

    Args:
        table: columns method, variant, seed and those of `MEASURE_NAMES`; rows of one world, preset and paired ratio.
            Variants of any method; a control has its method's name before it.
        whole: the same columns, rows of the one method as it is.
        variants: all there should be; ones that lack rows are named in the caption.
        controls: the variants that must fail, drawn hollow.
        caption: what the table does not say.

    Raises:
        ValueError: rows of several worlds, presets or paired ratios, or of several methods as they are.
    """
    both = pd.concat([part for part in (table, whole) if len(part)] or [table])
    _refuse_mixed(both, ("world", "preset", "paired_ratio"), "figure_ablation")
    _refuse_mixed(whole, ("method",), "figure_ablation")
    asked = {variant: question for question, answers in QUESTIONS.items() for variant in answers}
    order = [*asked, *variants, *table["variant"]]
    methods = [*METHOD_NAMES, *table["method"]]
    table = table.assign(
        question=[asked.get(name, "Further variants") for name in table["variant"]],
        label=[
            name_of(method, variant) if variant in controls else variant
            for method, variant in zip(table["method"], table["variant"], strict=True)
        ],
    )
    keys = {"variant": order.index, "method": methods.index}
    table = table.sort_values(["variant", "method"], key=lambda part: part.map(keys[part.name]), kind="stable")
    groups = dict(tuple(table.groupby("question", sort=False))) or {"": table}
    labels = {question: list(dict.fromkeys(part["label"])) for question, part in groups.items()}
    columns = _measured(both)
    heights = [max(2.6, sum(map(_lines, [*names, *filter(None, [question])]))) for question, names in labels.items()]
    figure = sheet(FULL, PITCH * sum(heights) + 4 * len(heights) + 26)
    axes = figure.subplots(len(groups), len(columns), sharex="col", squeeze=False, height_ratios=heights)
    name = f"{name_of(whole['method'].iloc[0])} as it is" if len(whole) else ""
    for line, (question, part), height in zip(axes, groups.items(), heights, strict=True):
        hollow = part["variant"].isin(controls)
        places = _places(labels[question], float(_lines(question)) if question else 0.0)
        for axis, column in zip(line, columns, strict=True):
            _level(axis.axvline, axis.axvspan, whole, column, name, colour=GREY)
            for control, rows in part.groupby(hollow):
                for method, own in rows.groupby("method"):
                    look = looks([name_of(method, "shuffled" if control else "")]).popitem()[1]
                    _draw_points(axis, own.assign(place=own["label"].map(places)), column, "place", **look)
            axis.set(ylim=(height - 0.5, -0.5))
            axis.set_yticks([])
            axis.grid(axis="x")
            if MEASURE_NAMES[column] in CHANCE:
                axis.axvline(CHANCE[MEASURE_NAMES[column]], color=GREY, linestyle=":", linewidth=1, label="chance")
        _name_lines(line[0], places, question)
    for axis, column in zip(axes[-1], columns, strict=True):
        axis.set_xlabel(MEASURE_NAMES[column])
        axis.set_xlim(*_limits(MEASURE_NAMES[column], both[column]))
        axis.locator_params(axis="x", nbins=3)
    handles = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
    if table["variant"].isin(controls).any():
        handles[CONTROL] = Line2D([], [], linestyle="", marker="o", color=LGDEA, markerfacecolor="white")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3)
    lacking = [variant for variant in variants if variant not in set(table["variant"])]
    lacking += [] if len(whole) else ["the method as it is"]
    notes = _place(both), caption, _seeds_note(both, ["variant", "method"]), _no_rows(lacking)
    measures = listed([MEASURE_NAMES[column] for column in columns])
    return captioned(figure, *notes, alt=f"{measures} of {len(table.groupby('label'))} variants, by question.")


@journal
def figure_relation_curves(table: pd.DataFrame, base: Mapping[str, object], caption: str = "") -> Figure:
    """Quality of the relations over one setting at a time, the others at their base; the controls as lines.

    They are random relations, and in a mode with a graph the same graphs from shuffled pairs at the base settings. A
    setting that was not swept has no panel.

    Args:
        table: of `relations.csv`; rows of one world, preset and paired ratio.
        base: settings of the preset by column, and their mode under "relations".
        caption: what the table does not say.

    Raises:
        ValueError: rows of several worlds, presets or paired ratios.
    """
    _refuse_mixed(table, ("world", "preset", "paired_ratio"), "figure_relation_curves")
    random = table[table["relations"] == "random"]
    settings = [column for column in table.columns if column in base]
    sweeps = {}
    for setting, mode in SWEPT.items():
        others = {**base, "relations": mode or base["relations"]}
        held = [name for name in settings if name != setting]
        sweeps[setting] = others["relations"], table[(table[held] == pd.Series(others)[held]).all(axis=1)]
    swept = [setting for setting, (_, rows) in sweeps.items() if rows[setting].nunique() > 1]
    lacking = [] if len(random) else ["random relations"]
    lacking += [SETTING_NAMES[setting] for setting in SWEPT if setting not in swept]
    figure = sheet(FULL, 104)
    axes = figure.subplots(len(QUALITIES), len(swept) or 1, sharex="col", sharey="row", squeeze=False)
    for column, setting in zip(axes.T, swept, strict=False):
        mode, rows = sweeps[setting]  # rows which differ in one setting at most
        shuffled = table[table["relations"] == f"{mode}, shuffled pairs"]
        for axis, (quality, (_, reference)) in zip(column, QUALITIES.items(), strict=True):
            _level(axis.axhline, axis.axhspan, random, quality, "random relations", colour=GREY)
            _level(axis.axhline, axis.axhspan, shuffled, quality, "shuffled pairs", colour=GLORIA)
            if reference:
                _level(axis.axhline, axis.axhspan, table, reference, "commonest findings for all", colour=CLIP)
            _draw_means(axis, rows, setting, quality, color=LGDEA, marker="o")
        column[-1].set_xlabel(f"{folded(SETTING_NAMES[setting], 24)}\n({label_of(mode)})")
    for axis, (quality, (name, _)) in zip(axes[:, 0], QUALITIES.items(), strict=True):
        axis.set(ylabel=name, ylim=_limits(name, table[quality]))
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True)) | handles
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3)
    alt = f"Precision@1 and label AUC of the relations over {listed([SETTING_NAMES[name] for name in swept])}."
    return captioned(figure, _place(table), caption, _seeds_note(table, settings), _no_rows(lacking), alt=alt)


@journal
def figure_hard_set(table: pd.DataFrame, measure: str, caption: str = "") -> Figure:
    """One measure on the hard test set within every group: the kind with most groups beside the other kinds.

    Args:
        table: columns method, paired_ratio, seed, by (kind of group), group, measure, estimate, n (samples).
        measure: a value of the column measure.
        caption: what the table does not say.

    Raises:
        ValueError: no row has the measure, or rows of several worlds or presets.
    """
    _refuse_mixed(table, ("world", "preset"), "figure_hard_set")
    rows = table[table["measure"] == measure]
    if rows.empty:
        known = ", ".join(sorted(set(table["measure"])))
        raise ValueError(f"figure_hard_set: no row has measure {measure!r}; there are: {known or 'no rows'}")
    shares = rows["paired_ratio"].map(lambda ratio: f", {100 * ratio:g} % of pairs")
    several = rows.groupby("method")["paired_ratio"].nunique().max() > 1
    rows = rows.assign(series=rows["method"].map(name_of) + (shares if several else ""))
    series = _told_apart(dict.fromkeys(rows["series"]))
    name = MEASURE_NAMES.get(PROTOCOLS.get(measure, measure), measure.replace("_", " "))
    groups = {kind: list(dict.fromkeys(part["group"])) for kind, part in rows.groupby("by", sort=False)}
    first, *others = sorted(groups, key=lambda kind: -len(groups[kind]))
    high = (2.0 + 1.1 * len(series)) / PITCH  # lines of a group
    heights = {kind: max(len(names) * high, 5.5) for kind, names in groups.items()}
    tall = max(heights[first], sum(heights[kind] + 3 for kind in others))
    figure = sheet(FULL if others else HALF, PITCH * tall + 24)
    grid = figure.add_gridspec(
        max(1, len(others)), 2 if others else 1, height_ratios=[heights[k] for k in others] or [1]
    )
    axes = {first: figure.add_subplot(grid[:, 0])}
    axes |= {kind: figure.add_subplot(grid[place, 1]) for place, kind in enumerate(others)}
    lacking = []
    for kind, axis in axes.items():
        part = rows[rows["by"] == kind]
        for number, (one, look) in enumerate(series.items()):
            own = part[part["series"] == one]
            apart = 0.6 * ((number + 0.5) / len(series) - 0.5)
            places = own["group"].map(groups[kind].index).astype(float) + apart
            _draw_points(axis, own.assign(place=places), "estimate", "place", **look)
        sizes = part.groupby("group")["n"].agg(["min", "max"]).loc[groups[kind]].itertuples()
        counts = [f"{group} (n = {low}" + (")" if low == high else f" to {high})") for group, low, high in sizes]
        axis.set_yticks(range(len(counts)), [folded(count, 28) for count in counts])
        axis.set(title=f"by {kind}", xlim=_limits(name, rows["estimate"]), ylim=(len(counts) - 0.5, -0.5))
        axis.grid(axis="x")
        if name in CHANCE:
            axis.axvline(CHANCE[name], color=GREY, linestyle=":", linewidth=1)
        there = set(part[["series", "group"]].itertuples(index=False, name=None))
        lacking += [f"{one} on {group}" for one in series for group in groups[kind] if (one, group) not in there]
    for axis in {axes[first], axes[[first, *others][-1]]}:
        axis.set_xlabel(name)
    figure.legend(handles=_handles(series, ""), loc="outside upper center", ncols=4)
    notes = _place(table), caption, _seeds_note(rows, ["series", "by", "group"]), _no_rows(lacking)
    alt = f"{name} of {listed(list(series))} on the hard test set, by {listed([first, *others])}."
    return captioned(figure, *notes, alt=alt)


@journal
def figure_paper_table(rows: pd.DataFrame, caption: str = "") -> Figure:
    """Systems against each other: a row of panels for each corpus, a column for each measure.

    A mark is the fuller, the more pairs or labels were used; controls and published numbers are hollow. What stands
    behind the comma of a measure's name has its own marks (`BESIDE`), and differences have none. Datasets beyond a page
    are named in the caption.

    Args:
        rows: columns system, backbone, corpus, setting, measure, value, sd, origin.
        caption: what the table is of.

    Raises:
        ValueError: there are no rows.
    """
    _refuse_empty(rows, "figure_paper_table")
    parts = rows["measure"].str.partition(", ")
    beside = parts[0].isin(set(rows["measure"])) & (parts[2] != "")
    rows = rows.assign(
        base=parts[0].where(beside, rows["measure"]),
        beside=parts[2].where(beside, ""),
        label=[_system(row) for row in rows.to_dict("records")],
    )
    rows = rows[rows["beside"].isin(["", *BESIDE])]
    measures = list(dict.fromkeys(rows["base"]))
    settings = sorted(set(rows.loc[rows["origin"] != PUBLISHED, "setting"]), key=_share)
    stacks, further = _stacked(rows, len(measures))
    figure = sheet(FULL, max(sum(PITCH * lines + 4 for *_, lines in stack) for stack in stacks) + 32)
    for part, stack in zip(np.ravel(figure.subfigures(1, len(stacks))), stacks, strict=True):
        _draw_stack(part, stack, rows, measures, settings)
    line = {"linestyle": "", "color": GREY}
    handles = [
        Line2D([], [], marker="o", markerfacecolor=(GREY, _fill(setting, settings)), label=setting, **line)
        for setting in settings
    ]
    kinds = [kind for kind in BESIDE if kind in set(rows["beside"])]
    handles += [Line2D([], [], marker=BESIDE[kind][1], label=BESIDE[kind][0], **line) for kind in kinds]
    if rows["label"].str.contains("shuffled").any():
        handles.append(Line2D([], [], linestyle="", marker="o", color=LGDEA, markerfacecolor="white", label=CONTROL))
    if rows["origin"].eq(PUBLISHED).any():
        handles.append(Line2D([], [], marker="o", markerfacecolor="white", label=PUBLISHED, **line))
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    cut = f"not drawn, see the table: {', '.join(further)}" if further else ""
    groups = dict.fromkeys(title for stack in stacks for title, *_ in stack)
    alt = f"{listed(measures)} of {rows['label'].nunique()} systems, by dataset: {listed(list(groups))}."
    return captioned(figure, caption, cut, alt=alt)


Group = tuple[str, pd.DataFrame, list[str], float]
"""Title, rows, labels of the lines, and height in lines of one row of panels of a table."""


def _stacked(rows: pd.DataFrame, measures: int) -> tuple[list[list[Group]], list[str]]:
    """Groups of a table, a dataset each, in one stack or, where measures are few, in two; and what has no room."""
    stacks: list[list[Group]] = [[]] if measures > 2 else [[], []]
    free = [TALLEST - 32] * len(stacks)
    width = (FULL / len(stacks) - 48) / measures
    most, least, further = int(3 * width / PITCH), max(3.0, width / 3 / PITCH), []
    for corpus, part in rows.groupby("corpus", sort=False):
        names = list(dict.fromkeys(part["label"]))
        for start in range(0, len(names), most):
            some = names[start : start + most]
            title = WORLD_NAMES.get(corpus, corpus) + (" (continued)" if start else "")
            lines = float(max(_lines(title) + sum(map(_lines, some)), least))
            stack = int(np.argmax(free))
            if free[stack] < PITCH * lines + 4:
                further.append(WORLD_NAMES.get(corpus, corpus))
                break
            stacks[stack].append((title, part[part["label"].isin(some)], some, lines))
            free[stack] -= PITCH * lines + 4
    return [stack for stack in stacks if stack], further


def _draw_stack(
    figure: Any, stack: Sequence[Group], rows: pd.DataFrame, measures: Sequence[str], settings: Sequence[str]
) -> None:
    grid = figure.add_gridspec(len(stack), len(measures), height_ratios=[lines for *_, lines in stack])
    last: dict[str, Axes] = {}
    for line, (title, part, names, high) in enumerate(stack):
        places = _places(names, float(_lines(title)))
        for place, measure in enumerate(measures):
            own = part[part["base"] == measure]
            if own.empty and place:
                continue
            axis = figure.add_subplot(grid[line, place])
            same, sd = rows.loc[rows["base"] == measure, "value"], rows["sd"].fillna(0.0)
            limits = _limits(measure, pd.concat([same - sd, same + sd]))
            axis.set(ylim=(high - 0.5, -0.5), yticks=[], xlim=limits)
            if not place:
                _name_lines(axis, places, title)
            if own.empty:  # only the names of the lines
                axis.set(frame_on=False, xticks=[])
                continue
            axis.grid(axis="x")
            axis.locator_params(axis="x", nbins=3)
            axis.tick_params(labelbottom=False)
            last[measure] = axis
            _draw_table(axis, own, places, settings)
    for measure, axis in last.items():
        axis.set_xlabel(folded(measure, max(12, int(75 / len(measures)))))
        axis.tick_params(labelbottom=True)


def _draw_table(axis: Axes, rows: pd.DataFrame, places: Mapping[str, float], settings: Sequence[str]) -> None:
    """Marks of one corpus and one measure."""
    for row in rows.to_dict("records"):
        [look] = looks([row["label"].partition("\n")[0]]).values()
        if row["origin"] == PUBLISHED:
            look = {"color": GREY, "marker": "o", "markerfacecolor": "white"}
        elif row["beside"]:
            look |= {"marker": BESIDE[row["beside"]][1]}
        elif "shuffled" not in row["label"]:
            look |= {"markerfacecolor": (look["color"], _fill(row["setting"], settings))}
        axis.errorbar(row["value"], places[row["label"]], xerr=row["sd"], linestyle="", elinewidth=0.8, **look)


def _system(row: Mapping[str, Any]) -> str:
    """Name of a line: the system, and of a published one what tells its rows apart."""
    method, _, variant = row["system"].partition(": ")
    if row["origin"] == PUBLISHED:
        return row["system"] + f" ({row['backbone']})" * bool(row["backbone"])
    return name_of(method, variant) if method in METHOD_NAMES else row["system"]


def _share(setting: str) -> float:
    """The share that a setting begins with, in percent; 100 where it says none."""
    number = setting.partition(" ")[0]
    return float(number) if number.replace(".", "", 1).isdigit() else 100.0


def _fill(setting: str, settings: Sequence[str]) -> float:
    return (settings.index(setting) + 1) / len(settings)


def _panels(keys: Sequence[Any], x: str) -> tuple[Figure, dict[Any, Axes]]:
    """A figure with one panel a key, at most three in a row; the last of every column has the x axis' name."""
    across = {1: 1, 2: 2, 4: 2}.get(len(keys), 3)
    down = -(-len(keys) // across)
    figure = sheet(HALF if across == 1 else FULL, (52 if across > 2 else 58) * down + 12)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis in axes[len(keys) :]:
        axis.set_axis_off()
    for axis in axes[: len(keys)][-across:]:
        axis.set_xlabel(x)
    return figure, dict(zip(keys, axes, strict=False))


def _measured(table: pd.DataFrame) -> list[str]:
    """Measures of which there is a row; all, where there is none at all."""
    return [name for name in MEASURE_NAMES if name in table and table[name].notna().any()] or list(MEASURE_NAMES)


def _finish(axis: Axes, name: str, values: pd.Series) -> None:
    axis.set(ylabel=name, ylim=_limits(name, values))
    if name in CHANCE:
        axis.axhline(CHANCE[name], color=GREY, linestyle=":", linewidth=1)


def _limits(name: str, values: pd.Series) -> tuple[float, float]:
    """From chance, or 0, to a little beyond the largest value, and below chance where a value is."""
    known = values.dropna()
    floor = 0.45 if "AUC" in name or "accuracy" in name else 0.0
    low, high = min([floor, *known]), max([floor + 0.1, *known])
    pad = 0.06 * (high - low)
    return low - pad, high + pad


def _handles(names: Iterable[str], linestyle: str | None = None) -> list[Line2D]:
    """Legend of names; with the line that each has, or with the given one."""
    return [
        Line2D([], [], linestyle=_line(name, look) if linestyle is None else linestyle, label=name, **look)
        for name, look in _told_apart(dict.fromkeys(names)).items()
    ]


def _told_apart(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Looks of names; of several with one look, later ones are lighter."""
    found, seen = looks(names), []
    for name, look in found.items():
        times = seen.count((look["color"], look["markerfacecolor"]))
        seen.append((look["color"], look["markerfacecolor"]))
        if times:
            found[name] = look | {"markerfacecolor": (look["color"], 0.5 / times)}
    return found


def _line(name: str, look: Mapping[str, Any]) -> str:
    """Dashes for a control, dots for a variant that looks like its method but for its lighter marks."""
    return ":" if isinstance(look["markerfacecolor"], tuple) else line_of(name)


def _draw_means(axis: Axes, rows: pd.DataFrame, x: str, y: str, linestyle: str = "-", **look: Any) -> None:
    """Mean over the seeds at every place, joined by a line; the bar is their deviation."""
    means = rows.groupby(x)[y].agg(["mean", "std"]).dropna(subset="mean")
    if len(means):
        axis.errorbar(means.index, means["mean"], yerr=means["std"], linestyle=linestyle, elinewidth=1, **look)


def _draw_points(axis: Axes, rows: pd.DataFrame, x: str, y: str, **look: Any) -> None:
    """The same at every height in column `y`, not joined."""
    means = rows.groupby(y)[x].agg(["mean", "std"]).dropna(subset="mean")
    if len(means):
        axis.errorbar(means["mean"], means.index, xerr=means["std"], linestyle="", elinewidth=1, **look)


def _draw_shares(
    axis: Axes, table: pd.DataFrame, x: str, y: str, methods: Sequence[str], ratios: Sequence[float]
) -> None:
    """Every method over a share, on a log scale, a little apart so that no bar hides another."""
    names = [name_of(method) for method in methods]
    for number, (method, (name, look)) in enumerate(zip(methods, looks(names).items(), strict=True)):
        own = table[table["method"] == method]
        moved = own[x] * 1.04 ** (number - (len(methods) - 1) / 2)
        _draw_means(axis, own.assign(**{x: moved}), x, y, line_of(name), **look)
    axis.set(xscale="log")
    axis.set_xticks(ratios, [f"{100 * ratio:g} %" for ratio in ratios])
    axis.minorticks_off()


def _lines(label: str) -> int:
    return folded(label, LABEL).count("\n") + 1


def _places(labels: Sequence[str], first: float) -> dict[str, float]:
    """Height of every label, one below the other, in lines."""
    starts = np.cumsum([first, *map(_lines, labels)])
    return {label: start + (_lines(label) - 1) / 2 for label, start in zip(labels, starts, strict=False)}


def _name_lines(axis: Axes, places: Mapping[str, float], title: str) -> None:
    """Labels of lines at the left of their panel, under a title in bold."""
    names = [folded(label, LABEL) for label in places]
    head = folded(title, LABEL)
    axis.set_yticks([*([(_lines(title) - 1) / 2] if title else []), *places.values()], [*filter(None, [head]), *names])
    axis.tick_params(axis="y", length=0)
    if title:
        axis.get_yticklabels()[0].set_fontweight("bold")


def _level(
    line: Callable[..., object], band: Callable[..., object], rows: pd.DataFrame, column: str, label: str, colour: Any
) -> None:
    """Mean of a column as a line through the panel, its sd as a band; nothing where there are no rows."""
    values = rows[column].dropna()
    if len(values):
        line(values.mean(), color=colour, linestyle="--", linewidth=1, label=label)
    if len(values) > 1:
        band(values.mean() - values.std(), values.mean() + values.std(), color=colour, alpha=0.15, linewidth=0)


def _curves_alt(axes: Iterable[str], names: Iterable[str], over: str) -> str:
    measures = listed([MEASURE_NAMES[column] for column in axes])
    return f"{measures[0].upper()}{measures[1:]} over {over}, for {listed(list(names))}."


def _place(table: pd.DataFrame) -> str:
    """World, preset and paired ratio in words, where all rows share them."""
    named = [WORLD_NAMES.get(world, world) for world in table["world"].unique()] if "world" in table else []
    named += [f"preset {preset}" for preset in table["preset"].unique()] if "preset" in table else []
    ratios = table["paired_ratio"].unique() if "paired_ratio" in table else []
    return ", ".join([*named, *([f"{100 * ratios[0]:g} % of pairs known"] if len(ratios) == 1 else [])])


def _refuse_mixed(table: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    for column in columns:
        values = sorted(map(str, table[column].unique())) if column in table else []
        if len(values) > 1:
            raise ValueError(f"{where}: expected rows of one {column}, got {', '.join(values)}; choose one")


def _refuse_empty(table: pd.DataFrame, where: str) -> None:
    if table.empty:
        raise ValueError(f"{where}: expected at least one row, got none")


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
