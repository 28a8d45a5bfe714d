"""Small worlds as pictures: matrices whose every entry can be read, and graphs of a few nodes with their relations."""

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes

from lgdea_core.figures.style import COLOURS, FULL, GREY, HALF, Figure, captioned, folded, journal, sheet


@journal
def figure_entries(
    matrices: Mapping[str, Float[np.ndarray, "_ _"]],
    rows: Sequence[str],
    columns: Sequence[str],
    caption: str = "",
    largest: float | None = None,
) -> Figure:
    """Matrices side by side with their entries written into them; zeros are left empty.

    Args:
        matrices: title -> matrix of `rows` by `columns`.
        rows: names.
        columns: names; written under each matrix.
        caption: what the entries are.
        largest: value of the darkest colour; None takes that of all entries.
    """
    letters = max(map(len, columns)) + 1
    upright = len(matrices) * len(columns) * letters > 80
    width = FULL if len(matrices) * len(columns) > 6 else HALF
    figure = sheet(width, max(48.0, 28 + 6.1 * len(rows) + 1.9 * letters * upright))
    largest = largest or max(float(np.abs(matrix).max()) for matrix in matrices.values()) or 1.0
    axes = figure.subplots(1, len(matrices), squeeze=False, sharey=True)[0]
    for axis, (title, matrix) in zip(axes, matrices.items(), strict=True):
        written = [[f"{value:.2f}".replace("0.", ".", 1) if value else "" for value in row] for row in matrix]
        colours = {"cmap": "Blues", "vmin": 0, "vmax": 2.5 * largest, "cbar": False}  # light enough for dark numbers
        numbers = {"annot": np.array(written), "fmt": "", "annot_kws": {"fontsize": 7}}
        sns.heatmap(np.abs(matrix), ax=axis, xticklabels=columns, yticklabels=rows, **colours, **numbers)
        axis.set_title(folded(title, int(0.4 * width) // len(matrices)), fontsize=8)
        axis.tick_params(axis="x", rotation=90 if upright else 0, labelsize=7)
        axis.tick_params(axis="y", rotation=0, labelsize=7)
    return captioned(figure, caption, alt=f"Matrices with every entry written into its place: {', '.join(matrices)}.")


@journal
def figure_small_graphs(
    image_affinity: Float[np.ndarray, "images images"],
    report_affinity: Float[np.ndarray, "reports reports"],
    relations: Mapping[str, Float[np.ndarray, "images reports"]],
    images: Sequence[str],
    reports: Sequence[str],
    caption: str = "",
) -> Figure:
    """Two graphs of a few nodes, images left and reports right, and the relations between them.

    Args:
        image_affinity: edges of the image graph, arcs on the left; their width is their weight.
        report_affinity: the same of the reports, on the right.
        relations: title of a panel -> relations; the width of a line is its share of the panel's largest.
        images: names.
        reports: names.
        caption: n and constants.
    """
    tall = max(len(images), len(reports))
    figure = sheet(FULL, 28 + 10.7 * tall)
    heights = [np.linspace(0, tall - 1, count) if count > 1 else np.array([(tall - 1) / 2]) for count in
               (len(images), len(reports))]  # fmt: skip
    axes = figure.subplots(1, len(relations), squeeze=False)[0]
    for axis, (title, matrix) in zip(axes, relations.items(), strict=True):
        for (row, column), value in np.ndenumerate(matrix / (matrix.max() or 1)):
            ends = (heights[0][row], heights[1][column])
            axis.plot((0, 1), ends, color=COLOURS[1], linewidth=4 * value, alpha=min(1.0, 0.25 + value), zorder=1)
        for place, affinity, names in ((0, image_affinity, images), (1, report_affinity, reports)):
            _draw_side(axis, place, affinity, names, heights[place])
        axis.set_title(folded(title, 60 // len(relations)), fontsize=8)
        axis.set(xlim=(-0.75, 1.75), ylim=(tall - 0.5, -0.5))
        axis.set_axis_off()
    return captioned(figure, caption, alt=f"Two small graphs and relations between them: {', '.join(relations)}.")


def _draw_side(
    axis: Axes, place: int, affinity: np.ndarray, names: Sequence[str], heights: Float[np.ndarray, "nodes"]
) -> None:
    outwards = 2 * place - 1
    for row, column in np.argwhere(np.triu(affinity, 1) > 0):
        ends = heights[[row, column]]
        turn = np.linspace(0, np.pi, 30)
        width = 0.12 + 0.05 * abs(ends[1] - ends[0])
        across = place + outwards * width * np.sin(turn)
        style = {"color": COLOURS[0], "linewidth": 2 * affinity[row, column] / affinity.max(), "zorder": 2}
        axis.plot(across, ends.mean() + np.cos(turn) * np.ptp(ends) / 2, **style)
    axis.scatter(np.full(len(names), place), heights, s=45, color="white", edgecolors=GREY, zorder=3)
    for name, height in zip(names, heights, strict=True):
        where = {"ha": "left" if place else "right", "va": "center"}
        axis.text(place + 0.45 * outwards, height, name, fontsize=7, **where)
