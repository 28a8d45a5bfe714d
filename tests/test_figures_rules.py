"""What an art editor asks of every figure: its size, its type, nothing that overlaps, no panel without data."""

import itertools
import re
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from test_figures import COMPARED, EVERY, grounding_rows, made

from lgdea_core.config import METHODS
from lgdea_core.experiments.plans import ABLATIONS
from lgdea_core.figures import figure_finding_auc, figure_grounding_grid, figure_metric_comparison
from lgdea_core.figures.names import _LOOKS, METHOD_NAMES, QUESTIONS, label_of, looks, name_of
from lgdea_core.figures.style import FULL, HALF, TALLEST, Figure

POINTS = (7.0, 9.0)
IDENTIFIERS = re.compile(r"[a-z]_[a-z]|lgdea|\bclip\b|gloria|phantom-demo")


def shown(figure: Figure) -> Iterator[Text]:
    """Texts that a reader sees."""
    labels: set[int] = set()
    for axis in (axis for panel in panels(figure) for axis in (panel.xaxis, panel.yaxis)):
        labels |= set(map(id, axis.get_ticklabels(which="both")))
        yield from (text for text in ticked(axis) if text.get_text())
    hidden = {id(text) for panel in figure.axes if not panel.axison for text in panel_furniture(panel)}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and id(text) not in labels | hidden:
            yield text


def ticked(axis: Axis) -> list[Text]:
    """Labels of the ticks within the axis' view."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low - 1e-9 <= tick.get_loc() <= high + 1e-9]
    return [tick.label1 for tick in ticks if tick.label1.get_visible()]


def panel_furniture(panel: Axes) -> list[Text]:
    """What an axis that is switched off does not draw."""
    return [panel.xaxis.label, panel.yaxis.label, *panel.get_xticklabels(), *panel.get_yticklabels()]


def panels(figure: Figure) -> list[Axes]:
    return [panel for panel in figure.axes if panel.axison]


def millimetres(figure: Figure, panel: Axes) -> tuple[float, float]:
    box = panel.get_window_extent()
    return box.width / figure.dpi * 25.4, box.height / figure.dpi * 25.4


@pytest.mark.parametrize("name", EVERY)
def test_a_figure_fits_the_page_and_its_type_can_be_read(name: str) -> None:
    figure = made(name)
    assert isinstance(figure, Figure), "one that reads no mathematics"
    width, height = figure.get_size_inches() * 25.4
    assert min(abs(width - HALF), abs(width - FULL)) < 0.01
    assert 20 < height <= TALLEST
    sizes = {round(text.get_fontsize(), 1) for text in shown(figure)}
    assert min(sizes) >= POINTS[0]
    assert max(sizes) <= POINTS[1]
    assert len(figure.alt) > 40
    found = [text.get_text() for text in shown(figure) if IDENTIFIERS.search(text.get_text())]
    assert found == []
    assert not IDENTIFIERS.search(figure.alt)


@pytest.mark.parametrize("name", EVERY)
def test_no_text_overlaps_another_or_leaves_the_figure(name: str) -> None:
    figure = made(name)
    renderer = figure.canvas.get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown(figure)]
    overlaps = [
        (one, other)
        for (one, box), (other, beside) in itertools.combinations(boxes, 2)
        if min(box.x1, beside.x1) - max(box.x0, beside.x0) > 2 and min(box.y1, beside.y1) - max(box.y0, beside.y0) > 3
    ]
    assert overlaps == []
    width, height = figure.get_size_inches() * figure.dpi
    outside = [text for text, box in boxes if min(box.x0, box.y0) < -1 or box.x1 > width + 1 or box.y1 > height + 1]
    assert outside == []


@pytest.mark.parametrize("name", EVERY)
def test_panels_are_no_strips_and_none_is_dead(name: str) -> None:
    figure = made(name)
    for panel in panels(figure):
        if panel.get_label() == "<colorbar>" or not panel.get_frame_on():  # a scale; names of lines
            continue
        width, height = millimetres(figure, panel)
        assert 1 / 3.05 < width / height < 3.05, (panel.get_xlabel(), width, height)
        assert panel.lines or panel.images or panel.collections or panel.patches
        named = panel.get_xlabel() or panel.get_ylabel() or panel.get_title()
        assert panel.images or named or len(panel.get_shared_x_axes().get_siblings(panel)) > 1


@pytest.mark.parametrize("name", EVERY)
def test_text_on_white_can_be_told_from_it(name: str) -> None:
    for text in shown(made(name)):
        assert contrast(text.get_color()) >= 4.5, text.get_text()


def contrast(colour: str) -> float:
    """WCAG contrast of a colour to white."""
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in to_rgb(colour)]
    return 1.05 / (np.dot(linear, (0.2126, 0.7152, 0.0722)) + 0.05)


def test_every_method_has_one_name_colour_and_marker_wherever_it_stands() -> None:
    assert set(METHODS) <= set(METHOD_NAMES)
    assert len(set(METHOD_NAMES.values())) == len(METHOD_NAMES)
    own = {name: look for name, look in _LOOKS.items() if name in METHOD_NAMES.values()}
    assert own.keys() == set(METHOD_NAMES.values())
    assert len(set(own.values())) == len(own)
    alone = looks(["LGDEA"])["LGDEA"]
    assert looks(["CLIP", "a user's", "LGDEA"])["LGDEA"] == alone
    assert looks([label_of("model", "lgdea")]) == {"LGDEA": alone}
    assert looks([name_of("lgdea", "shuffled pairs")])["LGDEA, shuffled pairs"] == alone | {"markerfacecolor": "white"}


@pytest.mark.parametrize(
    ("key", "method", "label"),
    [
        ("model", "lgdea", "LGDEA"),
        ("model_shuffled", "asg", "ASG, shuffled pairs"),
        ("baseline", "lgdea", "CLIP"),
        ("baseline_shuffled", "lgdea", "CLIP, shuffled pairs"),
        ("baseline", "clip", "CLIP, baseline"),
        ("asg ita + arsa", "lgdea", "ASG, ita + arsa"),
        ("graph*affinity", "lgdea", "graph × affinity"),
        ("my_method", "lgdea", "my_method"),
    ],
)
def test_models_of_a_run_have_names_of_methods(key: str, method: str, label: str) -> None:
    assert label_of(key, method) == label


def test_the_same_method_looks_alike_in_a_comparison_by_findings_and_over_pairs() -> None:
    rows = pd.DataFrame({"metric": "AUC", "method": ["model", "baseline_shuffled"], "estimate": 0.7, "low": 0.6,
                         "high": 0.8, "finding": "edema", "variant": ["model", "baseline_shuffled"]})  # fmt: skip
    compared, findings = figure_metric_comparison(rows).axes[0], figure_finding_auc(rows).axes[0]
    marks = [
        [
            (line.get_color(), line.get_marker(), line.get_markerfacecolor())
            for line in axis.lines
            if len(line.get_xdata()) == 1
        ]
        for axis in (compared, findings)
    ]
    pairing = {line.get_label(): line.get_color() for line in made("pairing_curve").legends[0].get_lines()}
    assert marks[0] == marks[1]
    assert marks[0][0] == (pairing["LGDEA"], "o", pairing["LGDEA"])
    assert marks[0][1] == (pairing["CLIP"], "s", "white")
    assert [label.get_text() for label in compared.get_yticklabels()] == ["LGDEA", "CLIP, shuffled pairs"]


def test_every_variant_of_the_ablation_answers_a_question() -> None:
    assert sorted(itertools.chain(*QUESTIONS.values())) == sorted(ABLATIONS)


def test_seven_metrics_stand_in_two_rows() -> None:
    rows = pd.concat(COMPARED.assign(metric=f"metric {number}") for number in range(7))
    axes = figure_metric_comparison(rows).axes
    assert [axis.axison for axis in axes] == [True] * 7 + [False]
    assert len({round(axis.get_position().y0, 3) for axis in axes}) == 2


def test_a_larger_film_is_shown_in_the_frame_of_its_map() -> None:
    row = grounding_rows()[0]
    axis = figure_grounding_grid([row._replace(image=np.kron(row.image, np.ones((4, 4))))]).axes[0]
    assert axis.images[0].get_array().shape == (48, 40)
    assert axis.images[0].get_extent() == [-0.5, 9.5, 11.5, -0.5]  # boxes stay in pixels of the map
