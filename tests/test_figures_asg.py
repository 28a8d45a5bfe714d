"""Figures of ASG by content: whose colour a region has, where the means of a curve lie."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from lgdea_core.figures import COLOURS, GREY
from lgdea_core.figures.asg import figure_label_curve, figure_region_sentences

FILM = np.full((40, 30), 0.5)
BOXES = {"left lung": (16, 5, 10, 25), "right lung": (4, 5, 10, 25), "trachea": (13, 0, 3, 8)}
SENTENCES = [
    ("The film is rotated.", []),
    ("There is a left effusion.", ["left lung"]),
    ("Both lungs are clear.", ["left lung", "right lung"]),
]


def test_a_region_has_the_colour_of_the_first_sentence_that_names_it() -> None:
    figure = figure_region_sentences(FILM, BOXES, SENTENCES, "study s1")
    first, second, grey = to_hex(COLOURS[0]), to_hex(COLOURS[1]), to_hex(GREY)
    drawn = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert [to_hex(patch.get_edgecolor()) for patch in drawn] == [first, second, grey]
    assert [patch.get_xy() for patch in drawn] == [(15.5, 4.5), (3.5, 4.5), (12.5, -0.5)]
    written = [(text.get_text(), to_hex(text.get_color())) for text in figure.axes[1].texts]
    assert written == [
        ("The film is rotated.", grey),
        ("→ no region", grey),
        ("There is a left effusion.", first),
        ("→ left lung", first),
        ("Both lungs are clear.", second),
        ("→ left lung, right lung", second),
    ]


def test_colours_that_come_again_are_dashed() -> None:
    many = [(f"Sentence {number}.", ["trachea"] if number < len(COLOURS) else ["left lung"]) for number in range(10)]
    figure = figure_region_sentences(FILM, BOXES, many)
    lines = {patch.get_xy(): patch.get_linestyle() for patch in figure.axes[0].patches}
    assert lines[(15.5, 4.5)] in ("--", "dashed")
    assert lines[(12.5, -0.5)] in ("-", "solid")
    written = [text.get_text() for text in figure.axes[1].texts]
    assert written[-1] == "→ left lung (dashed)"
    assert written[1] == "→ trachea"


def rows(measure: str, values: dict[tuple[str, float, int], float]) -> pd.DataFrame:
    table = [(*key, value) for key, value in values.items()]
    return pd.DataFrame(table, columns=["method", "label_ratio", "seed", measure])


def test_a_label_curve_has_means_and_deviations_of_each_panel() -> None:
    probe = {("random", 0.01, 1): 0.5, ("asg", 0.01, 1): 0.6, ("asg", 0.01, 2): 0.8, ("asg", 1.0, 1): 0.9}
    panels = {
        ("auc", "phantom"): rows("auc", probe),
        ("dice", "nih"): rows("dice", {("asg", 0.1, 1): 0.3, ("asg", 0.1, 2): 0.4}),
    }
    figure = figure_label_curve(panels, "frozen")
    left, right = figure.axes
    assert [line.get_ydata().tolist() for line in left.lines if line.get_marker() in "os"] == [[0.5], [0.7, 0.9]]
    segments = [np.asarray(segment) for bar in left.collections for segment in bar.get_segments()]
    bars = [segment for segment in segments if segment.ndim == 2 and not np.isnan(segment).any()]
    assert [np.ptp(bar[:, 1]) for bar in bars] == pytest.approx([2 * np.std([0.6, 0.8], ddof=1)])
    assert right.lines[0].get_ydata().tolist() == pytest.approx([0.35])
    assert (left.get_ylabel(), left.get_title(), right.get_ylabel(), right.get_title()) == (
        "auc", "phantom", "dice", "nih",
    )  # fmt: skip
    assert left.get_ylim() == (0.4, 1.0)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["random", "asg"]
    assert "frozen; mean ± sd over 2 seeds" in figure.get_supxlabel()


def test_a_panel_without_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected rows for every panel, got none for any"):
        figure_label_curve({})
    with pytest.raises(ValueError, match="dice"):
        figure_label_curve({("dice", "nih"): rows("dice", {})})
