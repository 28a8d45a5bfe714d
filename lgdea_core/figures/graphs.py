"""Graphs, and what propagates over them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator

from lgdea_core.figures.comparison import figure_metric_comparison
from lgdea_core.figures.style import COLOURS, RELATION_RANGE, Figure, captioned


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
    return captioned(figure, caption)


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
    return captioned(figure, caption)


def figure_seed_reach(
    image_points: Float[np.ndarray, "images 2"],
    report_points: Float[np.ndarray, "reports 2"],
    image_mass: Float[np.ndarray, "images"],
    report_mass: Float[np.ndarray, "reports"],
    seed: tuple[int, int],
    step: int,
    caption: str = "",
) -> Figure:
    """Which images and reports one seed's relations have reached after a step (LGDEA eq. 14).

    Unreached points are grey, reached ones coloured by their share, the seed is a star.

    Args:
        image_points: any 2-D projection of the images' evidence; axes have no unit.
        report_points: as `image_points`, of the reports.
        image_mass: share of the seed's relations on each image; 0 is not reached.
        report_mass: the same of each report.
        seed: rows of the pair the walk starts from.
        step: propagation steps taken.
        caption: n and seeds.
    """
    figure = Figure(figsize=(8.4, 3.5), layout="constrained")
    axes, norm = figure.subplots(1, 2), LogNorm(*RELATION_RANGE, clip=True)
    star = {"s": 120, "marker": "*", "color": COLOURS[1], "edgecolors": "black", "linewidths": 0.6, "label": "seed"}
    sides = (("images", image_points, image_mass), ("reports", report_points, report_mass))
    for axis, start, (name, points, mass) in zip(axes, seed, sides, strict=True):
        axis.scatter(*points[mass <= 0].T, s=7, color="#CCCCCC", linewidths=0)
        reached = np.argsort(mass)[int((mass <= 0).sum()) :]  # the heaviest on top
        drawn = axis.scatter(*points[reached].T, s=14, c=mass[reached], cmap="cividis_r", norm=norm, linewidths=0)
        axis.scatter(*points[start], **star)
        axis.set(xlabel="projection 1 (no unit)", ylabel="projection 2 (no unit)", xticks=[], yticks=[])
        axis.set_title(f"{name}: {len(reached)} of {len(mass)} reached", fontsize=9)
    axes[0].legend(loc="best", fontsize=7, frameon=False)
    figure.colorbar(drawn, ax=axes, label="share of the seed's relations (log)")
    figure.suptitle("the seed alone" if step == 0 else f"after step {step}", fontsize=10)
    return captioned(figure, caption)


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
