"""Graphs, and what propagates over them."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator

from lgdea_core.figures.names import CLIP, LGDEA
from lgdea_core.figures.style import FULL, Figure, captioned, journal, listed, sheet

LEAST = 1e-9
"""Shares and relations below it are drawn as it is."""


def _scale(*arrays: np.ndarray) -> LogNorm:
    """From the decade of the smallest positive value to 1, so that nothing that was reached is clipped."""
    smallest = min([part[part > 0].min() for part in arrays if (part > 0).any()], default=0.1)
    return LogNorm(10.0 ** np.floor(np.log10(max(LEAST, min(smallest, 0.1)))), 1.0, clip=True)


@journal
def figure_graph_degrees(degrees: Mapping[str, np.ndarray], caption: str = "") -> Figure:
    """Distribution of node degrees of each affinity graph; a long tail on the right is hubs."""
    figure = sheet(FULL, 58)
    axes = figure.subplots(1, len(degrees), squeeze=False)[0]
    for axis, (name, values) in zip(axes, degrees.items(), strict=True):
        width = 1 + int(np.ptp(values)) // 40  # whole numbers: other bins would hold now one degree, now two
        bins = np.arange(values.min(), values.max() + 2 * width, width) - 0.5
        axis.hist(values, bins=bins, color=LGDEA, edgecolor="white", linewidth=0.3)
        axis.set(title=f"{name} (largest {int(values.max())})", xlabel="neighbours of a node", ylabel="nodes")
        axis.set_yscale("symlog", linthresh=1)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    largest = listed([f"{int(values.max())} in the {name}" for name, values in degrees.items()])
    return captioned(figure, caption, alt=f"Histograms of the neighbours of a node; the largest number is {largest}.")


@journal
def figure_propagation_steps(
    relations: Sequence[Float[np.ndarray, "images reports"]], steps: Sequence[int], caption: str = ""
) -> Figure:
    """Relations after each of `steps` (0: seeds; never reached: white) and the share reached (LGDEA eq. 14).

    All panels have one colour scale, down to the smallest relation.
    """
    figure = sheet(FULL, 62, layout="compressed")
    *axes, last = figure.subplots(1, len(relations) + 1)
    norm = _scale(*relations)
    for axis, step, matrix in zip(axes, steps, relations, strict=True):
        shown = np.ma.masked_less_equal(matrix, 0)
        drawn = axis.imshow(shown, cmap="viridis_r", norm=norm, interpolation="nearest")
        axis.set(title="seeds" if step == 0 else f"step {step}", xlabel="reports", xticks=[], yticks=[])
    axes[0].set_ylabel("images")
    figure.colorbar(drawn, ax=axes, location="bottom", aspect=50, label="relation (log scale; white: never reached)")
    reached = [float((matrix > 0).mean()) for matrix in relations]
    last.plot(list(steps), reached, marker="o", color=LGDEA, clip_on=False)
    last.set(xlabel="step", title="share of pairs reached", ylim=(0, 1.02), box_aspect=1)
    last.xaxis.set_major_locator(MaxNLocator(integer=True))
    shares = listed([f"{share:.0%} after step {step}" for step, share in zip(steps, reached, strict=True)])
    return captioned(
        figure, caption, alt=f"Relations of images with reports as matrices; of all pairs are reached {shares}."
    )


@journal
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

    Unreached points are small grey crosses, reached ones discs coloured by their share, the seed is a star.

    Args:
        image_points: any 2-D projection of the images' evidence; axes have no unit.
        report_points: as `image_points`, of the reports.
        image_mass: share of the seed's relations on each image; 0 is not reached.
        report_mass: the same of each report.
        seed: rows of the pair the walk starts from.
        step: propagation steps taken.
        caption: n and seeds.
    """
    figure = sheet(FULL, 82)
    axes, norm = figure.subplots(1, 2), _scale(image_mass, report_mass)
    star = {"s": 90, "marker": "*", "color": CLIP, "edgecolors": "black", "linewidths": 0.6, "label": "seed"}
    sides, counts = (("images", image_points, image_mass), ("reports", report_points, report_mass)), []
    for axis, start, (name, points, mass) in zip(axes, seed, sides, strict=True):
        grey = {"s": 9, "marker": "x", "color": "#AAAAAA", "linewidths": 0.5, "label": "not reached"}
        axis.scatter(*points[mass <= 0].T, **grey)
        reached = np.argsort(mass)[int((mass <= 0).sum()) :]  # the heaviest on top
        disc = {"s": 16, "cmap": "viridis_r", "norm": norm, "edgecolors": "black", "linewidths": 0.3}
        drawn = axis.scatter(*points[reached].T, c=mass[reached], label="reached", **disc)
        axis.scatter(*points[start], **star)
        axis.set(xlabel="projection 1 (no unit)", ylabel="projection 2 (no unit)", xticks=[], yticks=[])
        counts.append(f"{len(reached)} of {len(mass)}")
        axis.set_title(f"{name}: {counts[-1]} reached")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    figure.colorbar(drawn, ax=axes, label="share of the seed's relations (log scale)")
    when = "the seed alone" if step == 0 else f"after step {step}"
    alt = f"Images and reports as points; {when}, one seed has reached {counts[0]} images and {counts[1]} reports."
    return captioned(figure, when, caption, alt=alt)
