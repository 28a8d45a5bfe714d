"""One function per figure, arrays in and a matplotlib Figure out: no file, no model, no pyplot state.

Colours are colour-blind safe (Okabe-Ito) and their scales fixed, so that two figures can be compared by eye: image grey
levels run over [0, 1], cosine similarity over [-1, 1] with NaN where unseen. A `caption` carries n and seeds.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from lgdea_core.vocabulary import STATUSES

STATUS_COLOURS = {"present": "#D55E00", "absent": "#0072B2", "uncertain": "#E69F00"}
STATUS_LINES = {"present": "-", "absent": "--", "uncertain": ":"}
COLOURS = [colour for number, colour in enumerate(sns.color_palette("colorblind")) if number != 7]  # 7 is a grey
MARKERS = "os^DvPXph"
GREY = "#666666"
BOX_COLOUR = "#F0E442"
RELATION_RANGE = (1e-4, 1.0)
MONOSPACE_WIDTH = 0.602
"""width of a character of DejaVu Sans Mono in units of its size"""

Box = Sequence[float | int]
Image = Float[np.ndarray, "height width"]
Phases = Mapping[str, tuple[int, int]]  # name of a training phase -> first and last step


class GroundingRow(NamedTuple):
    """One phrase on one image with the maps of several methods."""

    image: Image
    maps: Mapping[str, Image]
    boxes_xywh: Sequence[Box]
    phrase: str


def figure_report_evidence(report: str, evidence: pd.DataFrame, columns: int = 88, caption: str = "") -> Figure:
    """A report, `columns` characters a line, its evidence (start, end, status) highlighted by status (LGDEA eq. 1)."""
    lines = len(wrap(report, columns))
    width, height = columns * MONOSPACE_WIDTH * 9 / 72 + 0.4, lines * 0.2 + 0.7
    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((0.2 / width, 0.3 / height, 1 - 0.4 / width, lines * 0.2 / height))
    draw_report(axis, report, evidence, columns, size=9.0)
    figure.legend(handles=status_handles(), loc="upper right", ncols=3, frameon=False, fontsize=8)
    figure.text(0.2 / width, 0.08 / height, caption, fontsize=7, color=GREY)
    return figure


def figure_evidence_counts(evidence: pd.DataFrame, caption: str = "") -> Figure:
    """How often each observation is stated, by status; columns observation and status."""
    counts = pd.crosstab(evidence["observation"], evidence["status"]).reindex(columns=list(STATUSES), fill_value=0)
    counts = counts.loc[counts.sum(axis=1).sort_values(kind="stable").index]
    figure, axis = _figure(5.6, max(2.4, 0.9 + 0.24 * len(counts)), caption)
    left = np.zeros(len(counts))
    for status in STATUSES:
        axis.barh(list(counts.index), counts[status], left=left, color=STATUS_COLOURS[status], label=status)
        left += counts[status].to_numpy()
    axis.set(xlabel="statements in reports", ylabel="observation")
    axis.legend(title="status", frameon=False, loc="lower right")
    sns.despine(ax=axis)
    return figure


def figure_prototype_space(
    phrase_points: Float[np.ndarray, "phrases 2"],
    observations: Sequence[str],
    prototype_points: Float[np.ndarray, "prototypes 2"],
    lesion_points: Float[np.ndarray, "lesions 2"] | None = None,
    caption: str = "",
) -> Figure:
    """The evidence space in one 2-D projection (LGDEA Fig. 3); observations beyond the nine commonest are grey."""
    figure, axis = _figure(6.6, 4.6, caption)
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
    figure, axis = _figure(max(5.0, 0.2 * len(first) + 1), 3.6, caption)
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


def figure_propagation_steps(
    relations: Sequence[Float[np.ndarray, "images reports"]], steps: Sequence[int], caption: str = ""
) -> Figure:
    """Relations after each of `steps` (0: seeds; never reached: white) and the share reached (LGDEA eq. 14)."""
    figure = Figure(figsize=(1.6 * len(relations) + 2.2, 3.3), layout="compressed")
    *axes, last = figure.subplots(1, len(relations) + 1)
    for axis, step, matrix in zip(axes, steps, relations, strict=True):
        shown = np.ma.masked_less_equal(matrix, 0)
        drawn = axis.imshow(shown, cmap="cividis_r", norm=LogNorm(*RELATION_RANGE, clip=True), interpolation="nearest")
        axis.set(title="seeds" if step == 0 else f"step {step}", xlabel="reports", xticks=[], yticks=[])
    axes[0].set_ylabel("images")
    figure.colorbar(drawn, ax=axes, location="bottom", aspect=50, label="relation (log scale)")
    reached = [float((matrix > 0).mean()) for matrix in relations]
    last.plot(list(steps), reached, marker="o", color=COLOURS[0], clip_on=False)
    last.set(xlabel="propagation step", ylabel="share of pairs reached", ylim=(0, 1.02), box_aspect=1)
    last.xaxis.set_major_locator(MaxNLocator(integer=True))
    sns.despine(ax=last)
    return _captioned(figure, caption)


def figure_relation_quality(table: pd.DataFrame, caption: str = "") -> Figure:
    """Quality against the hidden truth: columns relations (name), measure, value, if known low, high, chance."""
    table = table.rename(columns={"relations": "method", "measure": "metric", "value": "estimate"})
    for bound in ("low", "high"):
        table[bound] = table.get(bound, table["estimate"])
    figure = figure_metric_comparison(table, caption)
    figure.axes[0].set_ylabel("relations")
    for axis in figure.axes:
        axis.set_xlim(0, 1.05 * axis.get_xlim()[1])
    return figure


def figure_graph_degrees(degrees: Mapping[str, np.ndarray], caption: str = "") -> Figure:
    """Distribution of node degrees of each affinity graph; a long tail on the right is hubs."""
    figure = Figure(figsize=(3.2 * len(degrees), 2.9), layout="constrained")
    axes = figure.subplots(1, len(degrees), squeeze=False)[0]
    for axis, (name, values) in zip(axes, degrees.items(), strict=True):
        width = 1 + int(np.ptp(values)) // 40  # whole numbers: other bins would hold now one degree, now two
        bins = np.arange(values.min(), values.max() + 2 * width, width) - 0.5
        axis.hist(values, bins=bins, color=COLOURS[0], edgecolor="white", linewidth=0.3)
        axis.set(title=f"{name} (largest {int(values.max())})", xlabel="neighbours of a node", ylabel="nodes")
        axis.set_yscale("symlog", linthresh=1)
        sns.despine(ax=axis)
    return _captioned(figure, caption)


def figure_loss_terms(
    history: pd.DataFrame, terms: Sequence[str] | None = None, phases: Phases | None = None, caption: str = ""
) -> Figure:
    """Every loss term (by default the columns that start with "loss") over column `step`, phases shaded and named."""
    return _small_multiples(history, terms, "loss", phases, caption)


def figure_monitors(
    history: pd.DataFrame, monitors: Sequence[str] | None = None, phases: Phases | None = None, caption: str = ""
) -> Figure:
    """As `figure_loss_terms`, for what must not go wrong unseen; by default columns that start with "monitor"."""
    return _small_multiples(history, monitors, "monitor", phases, caption)


def figure_phrase_grounding(
    image: Image, similarity_map: Image, boxes_xywh: Sequence[Box], phrase: str, caption: str = ""
) -> Figure:
    """Lay one phrase's similarity map and its annotated boxes over the image (LGDEA Fig. 5)."""
    figure, axis = _figure(3.8, 3.4, caption)
    overlay = _overlay(axis, image, similarity_map, boxes_xywh)
    axis.set_title(_folded(phrase, 42), fontsize=9)
    figure.colorbar(overlay, ax=axis, label="cosine similarity")
    return figure


def figure_grounding_grid(
    rows: Sequence[GroundingRow], nonnegative: Collection[str] = ("Grad-CAM",), caption: str = ""
) -> Figure:
    """Phrases down, methods across; maps of `nonnegative` methods are no cosines and run over [0, 1]."""
    methods = list(rows[0].maps)
    figure = Figure(figsize=(1.75 * (len(methods) + 1) + 1.2, 1.6 * len(rows) + 0.7), layout="compressed")
    axes = figure.subplots(len(rows), len(methods) + 1, squeeze=False)
    drawn: dict[str, AxesImage] = {}
    for line, row in zip(axes, rows, strict=True):
        _overlay(line[0], row.image, None, row.boxes_xywh)
        line[0].set_ylabel(_folded(row.phrase, 20), fontsize=8)
        for axis, method in zip(line[1:], methods, strict=True):
            label = "no cosine, in [0, 1]" if method in nonnegative else "cosine similarity"
            drawn[label] = _overlay(axis, row.image, row.maps[method], row.boxes_xywh, method in nonnegative)
    for axis, title in zip(axes[0], ["image and boxes", *methods], strict=True):
        axis.set_title(title, fontsize=9)
    for label, overlay in drawn.items():
        figure.colorbar(overlay, ax=axes, label=label, shrink=0.9, aspect=30, pad=0.01)
    return _captioned(figure, caption)


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
    return _captioned(figure, caption)


def figure_phantom_examples(
    images: Sequence[Image], titles: Sequence[str], boxes_xywh: Sequence[Sequence[Box]], caption: str = ""
) -> Figure:
    """Images in rows of at most four, with their true boxes and a title each."""
    columns = min(4, len(images))
    height = -(-len(images) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.45 * height), layout="compressed")
    axes = figure.subplots(height, columns, squeeze=False).ravel()
    for axis, image, title, boxes in zip(axes, images, titles, boxes_xywh, strict=False):
        _overlay(axis, image, None, boxes)
        axis.set_title(_folded(title, 30), fontsize=8)
    for axis in axes[len(images) :]:
        axis.set_axis_off()
    return _captioned(figure, caption)


def figure_hero(
    report: str, evidence: pd.DataFrame, panels: Sequence[GroundingRow], method: str, caption: str = ""
) -> Figure:
    """The whole way in one banner: a report, its evidence (start, end, status), where `method` sees each phrase."""
    figure, columns = Figure(figsize=(11.0, 3.0)), 56
    axis = figure.add_axes((0.015, 0.08, 0.37, 0.78))
    draw_report(axis, report, evidence, columns, size=0.37 * 11 * 72 / columns / MONOSPACE_WIDTH, lines=12)
    figure.legend(handles=status_handles(), loc="upper left", ncols=3, frameon=False, fontsize=8)
    arrow = {"arrowstyle": "simple,head_width=12,head_length=10,tail_width=4", "color": GREY}
    figure.add_artist(FancyArrowPatch((0.395, 0.47), (0.455, 0.47), transform=figure.transFigure, **arrow))
    figure.text(0.425, 0.56, "evidence\nphrases", ha="center", fontsize=8, color=GREY)
    figure.text(0.425, 0.32, "shared\nevidence\nspace", ha="center", va="center", fontsize=8, color=GREY)
    width = 0.45 / len(panels)
    for number, row in enumerate(panels):
        panel = figure.add_axes((0.465 + width * number, 0.08, width - 0.008, 0.78))
        overlay = _overlay(panel, row.image, row.maps[method], row.boxes_xywh)
        panel.set_title(_folded(row.phrase, 24), fontsize=9)
    figure.colorbar(overlay, cax=figure.add_axes((0.922, 0.2, 0.009, 0.54)), label="cosine similarity")
    figure.text(0.985, 0.02, caption, fontsize=7, color=GREY, ha="right")
    return figure


def save_figure(figure: Figure, path_stem: Path, metadata: Mapping[str, str]) -> tuple[Path, Path]:
    """Write PNG and PDF, the same bytes for the same figure: no date, and first under another name, then renamed.

    Args:
        path_stem: path without suffix; its folder is made.
        metadata: at least run, commit and seed; text chunks of the PNG, keywords of the PDF.

    Raises:
        ValueError: run, commit or seed is missing.
    """
    missing = [key for key in ("run", "commit", "seed") if key not in metadata]
    if missing:
        raise ValueError(f"save_figure {path_stem.name}: metadata must say run, commit and seed; {missing} missing")
    path_stem.parent.mkdir(parents=True, exist_ok=True)
    keywords = "; ".join(f"{key}={value}" for key, value in metadata.items())
    written = []
    for suffix, entries in (("png", dict(metadata)), ("pdf", {"Keywords": keywords, "CreationDate": None})):
        path = path_stem.with_name(f"{path_stem.name}.{suffix}")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        figure.savefig(temporary, format=suffix, dpi=200, metadata=entries)
        temporary.replace(path)
        written.append(path)
    return written[0], written[1]


def _figure(width: float, height: float, caption: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return _captioned(figure, caption), figure.subplots()


def _captioned(figure: Figure, caption: str) -> Figure:
    figure.supxlabel(caption, fontsize=7, color=GREY, x=0.99, ha="right")
    return figure


def _folded(text: str, columns: int) -> str:
    return "\n".join(line for _, line in wrap(text, columns))


def wrap(text: str, columns: int) -> list[tuple[int, str]]:
    """Lines of at most `columns` characters with the offset at which each starts; longer words are broken."""
    pattern = re.compile(rf"[^\n]{{1,{columns}}}(?=\s|$)|[^\n]{{{columns}}}|[^\n]+|\n\n")
    lines = []
    for match in pattern.finditer(text):
        stripped = match.group().lstrip()
        lines.append((match.end() - len(stripped), stripped))
    return lines


def draw_report(
    axis: Axes, report: str, evidence: pd.DataFrame, columns: int, size: float, lines: int | None = None
) -> None:
    """Text on a grid of characters, so that a phrase's offsets say where its highlight goes; centred in `lines`."""
    wrapped = wrap(report, columns)[:lines]
    margin = ((lines or len(wrapped)) - len(wrapped)) / 2
    axis.set(xlim=(0, columns), ylim=(len(wrapped) + margin, -margin))
    axis.set_axis_off()
    for number, (offset, text) in enumerate(wrapped):
        for start, end, status in evidence[["start", "end", "status"]].itertuples(index=False):
            first, last = max(start - offset, 0), min(end - offset, len(text.rstrip()))
            if first < last:
                face, line = STATUS_COLOURS[status], STATUS_LINES[status]
                place = ((first - 0.2, number + 0.06), last - first + 0.4, 0.88)
                style = {"facecolor": (face, 0.3), "edgecolor": face, "linestyle": line, "linewidth": 0.9}
                axis.add_patch(Rectangle(*place, **style, clip_on=False))
        for word in re.finditer(r"\S+", text):  # one by one: pixel rounding would add up over a line
            axis.text(word.start(), number + 0.5, word.group(), family="monospace", fontsize=size,
                      va="center_baseline", parse_math=False)  # fmt: skip


def status_handles() -> list[Patch]:
    return [
        Patch(facecolor=(colour, 0.3), edgecolor=colour, linestyle=STATUS_LINES[status], label=status)
        for status, colour in STATUS_COLOURS.items()
    ]


def _overlay(
    axis: Axes, image: Image, similarity_map: Image | None, boxes_xywh: Sequence[Box], nonnegative: bool = False
) -> AxesImage:
    """Image, map on it at half opacity on a fixed scale (a flat map looks flat), boxes on top."""
    drawn = axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    if similarity_map is not None:
        low, colours = (0, "viridis") if nonnegative else (-1, "RdBu_r")
        drawn = axis.imshow(similarity_map, cmap=colours, vmin=low, vmax=1, alpha=0.5)
    for x, y, width, height in boxes_xywh:
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor="black", linewidth=2.2))
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=BOX_COLOUR, linewidth=1.1))
    axis.set(xticks=[], yticks=[])
    return drawn


def _small_multiples(
    history: pd.DataFrame, chosen: Sequence[str] | None, prefix: str, phases: Phases | None, caption: str
) -> Figure:
    columns = [name for name in history if name.startswith(prefix)] if chosen is None else list(chosen)
    if not columns or not set(columns) <= set(history):
        wanted = f"column that starts with {prefix!r}" if chosen is None else f"column(s) {columns}"
        raise ValueError(f"history has no {wanted}; it has {', '.join(history)}")
    across = min(3, len(columns))
    down = -(-len(columns) // across)
    figure = Figure(figsize=(3.0 * across, 1.9 * down + 0.4), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    for axis, column in zip(axes, columns, strict=False):
        known = history[["step", column]].dropna()
        axis.plot(known["step"], known[column], color=COLOURS[0], linewidth=1.2)
        axis.set_title(column, fontsize=9)
        axis.margins(y=0.16)
        axis.tick_params(labelbottom=axis in axes[len(columns) - across : len(columns)])
        for number, (name, (first, last)) in enumerate((phases or {}).items()):
            axis.axvspan(first, last, color=GREY, alpha=0.08 + 0.1 * (number % 2), linewidth=0)
            axis.text((first + last) / 2, 0.98, name, transform=axis.get_xaxis_transform(), ha="center", va="top",
                      fontsize=6, color=GREY)  # fmt: skip
        sns.despine(ax=axis)
    for axis in axes[len(columns) :]:
        axis.set_axis_off()
    figure.supxlabel("optimiser step" + (f"   ({caption})" if caption else ""), fontsize=8)
    figure.supylabel("value", fontsize=8)
    return figure
