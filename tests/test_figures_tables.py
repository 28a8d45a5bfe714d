"""Figures of tables by content: means, deviations and controls where they belong, and what a table lacks named."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from lgdea_core.evaluation.harness import HEADLINES
from lgdea_core.experiments.cells import MEASURES
from lgdea_core.experiments.paper_tables import relation_base
from lgdea_core.experiments.plans import ABLATIONS, CONTROLS
from lgdea_core.experiments.relations import SHUFFLED
from lgdea_core.figures.tables import (
    MEASURE_NAMES,
    PUBLISHED,
    figure_ablation,
    figure_hard_set,
    figure_label_curve,
    figure_pairing_curve,
    figure_paper_table,
    figure_relation_curves,
)

METHODS = ("clip", "gloria", "lgdea")
RATIOS = (0.01, 0.1, 1.0)
VARIANTS = ("without prototypes", "whole reports", "shuffled pairs")
MARKERS = ("o", "s", "^", "D", "v")
SHARED = {"world": "phantom", "preset": "demo"}


def made_up(method: str, ratio: float, seed: int, variant: str = "", **values: float) -> dict[str, object]:
    """A row as an experiment leaves it; `auc` is 0.6 + seed / 100 unless said."""
    own = {"cnr": 0.5, "miou": 0.1, "pointing": 0.3, "precision_at_5": 0.2, "recall_at_10": 0.1}
    key = {"method": method, "variant": variant, "paired_ratio": ratio, "seed": seed}
    return SHARED | key | {"auc": 0.6 + seed / 100} | own | values


def pairing(seeds: tuple[int, ...] = (1, 2, 3)) -> pd.DataFrame:
    return pd.DataFrame([made_up(m, r, s) for m in METHODS for r in RATIOS for s in seeds])


def ablations(seeds: tuple[int, ...] = (1, 2, 3)) -> pd.DataFrame:
    return pd.DataFrame([made_up("lgdea", 0.1, seed, name) for name in VARIANTS for seed in seeds])


WHOLE = pd.DataFrame([made_up("lgdea", 0.1, seed, auc=0.8) for seed in (1, 2, 3)])
NOTHING = pairing().iloc[:0]


def relations(seeds: tuple[int, ...] = (1, 2)) -> pd.DataFrame:
    base = relation_base("demo")
    graph, affinity = base | {"relations": "graph"}, base | {"relations": "affinity"}
    settings = [base, graph, affinity, base | {"relations": "random"}]
    settings += [graph | {"alpha": alpha} for alpha in (0.5, 0.95)] + [graph | {"neighbours": 5}]
    settings += [affinity | {"affinity_sharpness": 4.0}, base | {"pair_steps": 60}, graph | {"self_loop": 0.0}]
    rows = []
    for seed in seeds:
        for number, setting in enumerate(settings):
            quality = {"precision_at_1": 0.05 if setting["relations"] == "random" else 0.1 + number / 100}
            shared = {"paired_ratio": 0.1, "seed": seed, "commonest_rate": 0.19}
            rows.append(setting | SHARED | shared | quality | {"label_auc": 0.7})
    return pd.DataFrame(rows)


def hard_set(seeds: tuple[int, ...] = (1, 2)) -> pd.DataFrame:
    groups = [("size", "small"), ("size", "large"), ("side", "left"), ("side", "right"), ("finding", "nodule")]
    return pd.DataFrame(
        {"method": method, "paired_ratio": 0.1, "seed": seed, "by": by, "group": group, "measure": "cnr_signed",
         "estimate": 0.5 + seed / 10, "n": 40 + seed}
        for method in ("clip", "lgdea") for seed in seeds for by, group in groups
    )  # fmt: skip


def paper_rows() -> pd.DataFrame:
    columns = ("system", "backbone", "corpus", "setting", "measure", "value", "sd", "origin")
    ours = ("lgdea", "small ResNet", "phantom", "10 % of pairs", "CNR (signed)", 1.1, 0.1, "ours, phantom")
    theirs = [("BioViL-T", "", "MS-CXR", "2023", "CNR (absolute)", 1.33, 0.04, PUBLISHED),
              ("GLoRIA", "", "MS-CXR", "2022", "CNR (absolute)", 0.93, np.nan, PUBLISHED)]  # fmt: skip
    return pd.DataFrame([ours, *theirs], columns=columns)


def labels() -> dict[tuple[str, str], pd.DataFrame]:
    """Two panels of label curves; the first method has one seed."""
    columns = ["method", "label_ratio", "seed"]
    probe = [("random", 0.01, 1, 0.5), ("asg", 0.01, 1, 0.6), ("asg", 0.01, 2, 0.8), ("asg", 1.0, 1, 0.9)]
    dice = [("asg", 0.1, 1, 0.3), ("asg", 0.1, 2, 0.4)]
    return {
        ("auc", "phantom"): pd.DataFrame(probe, columns=[*columns, "auc"]),
        ("dice", "nih"): pd.DataFrame(dice, columns=[*columns, "dice"]),
    }


BUILDERS: dict[str, Callable[[], Figure]] = {
    "pairing_curve": lambda: figure_pairing_curve(pairing(), METHODS, RATIOS),
    "label_curve": lambda: figure_label_curve(labels(), "frozen"),
    "ablation": lambda: figure_ablation(ablations(), WHOLE, VARIANTS, VARIANTS[-1:]),
    "relation_curves": lambda: figure_relation_curves(relations(), relation_base("demo")),
    "hard_set": lambda: figure_hard_set(hard_set(), "cnr_signed"),
    "paper_table": lambda: figure_paper_table(paper_rows()),
}


def points(axis: Axes) -> list[tuple[list[float], list[float]]]:
    """Places of the marks of each series that has any."""
    drawn = [line.get_xydata() for line in axis.lines if line.get_marker() in MARKERS]
    seen = [places[np.isfinite(places).all(axis=1)] for places in drawn]
    return [(places[:, 0].tolist(), places[:, 1].tolist()) for places in seen if len(places)]


def bars(axis: Axes, along: int = 1) -> list[tuple[float, float]]:
    """Ends of every bar of `errorbar`, along y or x."""
    containers = [part for part in axis.containers if isinstance(part, ErrorbarContainer)]
    segments = [segment for part in containers for line in part.lines[2] for segment in line.get_segments()]
    ends = [np.reshape(segment, (-1, 2))[:, along] for segment in segments]
    return [tuple(end) for end in ends if len(end) and np.isfinite(end).all()]


def lying_bars(axis: Axes) -> list[tuple[float, float]]:
    """Ends of every bar of seaborn's `pointplot`, a line with gaps between bar and caps; NaN where there is no bar."""
    lines = [line.get_xdata() for line in axis.lines if line.get_marker() == "None" and line.get_linestyle() == "-"]
    return [(np.nanmin(ends), np.nanmax(ends)) for ends in lines if np.isfinite(ends).any()]


def names(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.get_yticklabels()]


def hollow(axis: Axes) -> list[str]:
    """Names of the lines whose marks are hollow."""
    lines = [line for line in axis.lines if line.get_marker() in MARKERS and line.get_markerfacecolor() == "white"]
    return [names(axis)[int(y)] for line in lines for x, y in line.get_xydata() if np.isfinite(x)]


def levels(axis: Axes) -> dict[str, float]:
    """Height of every named level."""
    return {line.get_label(): line.get_ydata()[0] for line in axis.lines if not line.get_label().startswith("_")}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def caption(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


# ---- pairing and label curves


def test_names_of_measures_are_those_of_the_harness() -> None:
    assert {column: HEADLINES[MEASURES[column]] for column in MEASURE_NAMES} == MEASURE_NAMES


def test_the_curve_shows_mean_and_sample_deviation_of_every_method() -> None:
    figure = BUILDERS["pairing_curve"]()
    axis = figure.axes[0]
    assert (axis.get_ylabel(), axis.get_ylim()) == ("zero-shot AUC", (0.4, 1.0))
    assert legend(figure) == list(METHODS)
    assert [means for _, means in points(axis)] == [pytest.approx([0.62] * 3)] * 3
    assert points(axis)[1][0] == pytest.approx(list(RATIOS))  # the middle one of three is not shifted
    assert bars(axis) == [pytest.approx((0.61, 0.63))] * 9


def test_one_seed_has_no_bar_and_the_caption_says_so() -> None:
    figure = figure_pairing_curve(pairing(seeds=(1,)), METHODS, RATIOS, "phantom")
    assert bars(figure.axes[0]) == []
    assert len(points(figure.axes[0])) == 3
    assert caption(figure) == "phantom; one seed, so no sd"


def test_cells_without_rows_are_absent_and_named() -> None:
    table = pairing()
    table = table[(table["method"] != "gloria") & ~((table["method"] == "clip") & (table["paired_ratio"] == 0.01))]
    figure = figure_pairing_curve(table, METHODS, RATIOS)
    assert [len(places) for places, _ in points(figure.axes[0])] == [2, 3]
    text = caption(figure)
    assert text == "mean ± sd over 3 seeds; no rows: clip at 1 %; gloria at 1 %, 10 %, 100 %"


def test_a_value_beyond_the_fixed_range_widens_it_and_nothing_else_does() -> None:
    table = pairing()
    table.loc[0, "cnr"] = 3.5
    axes = figure_pairing_curve(table).axes
    assert axes[1].get_ylim() == (-0.5, 3.5)
    assert axes[2].get_ylim() == (0.0, 0.4)


def test_a_label_curve_has_means_and_deviations_of_each_panel() -> None:
    figure = BUILDERS["label_curve"]()
    left, right = figure.axes
    assert [means for _, means in points(left)] == [[0.5], pytest.approx([0.7, 0.9])]
    deviation = np.std([0.6, 0.8], ddof=1)
    assert bars(left) == [pytest.approx((0.7 - deviation, 0.7 + deviation))]
    assert [means for _, means in points(right)] == [pytest.approx([0.35])]
    assert [(axis.get_ylabel(), axis.get_title()) for axis in figure.axes] == [("auc", "phantom"), ("dice", "nih")]
    assert left.get_ylim() == (0.4, 1.0)
    assert legend(figure) == ["random", "asg"]
    assert caption(figure).startswith("frozen; mean ± sd over 1 to 2 seeds (one: no sd); share of")


# ---- ablation


def test_ablation_has_the_method_as_a_line_and_a_hollow_control() -> None:
    axis = BUILDERS["ablation"]().axes[0]
    assert names(axis) == list(VARIANTS)
    assert points(axis) == [(pytest.approx([0.62] * 2), [0, 1]), (pytest.approx([0.62]), [2])]
    assert lying_bars(axis) == [pytest.approx((0.61, 0.63))] * 3
    assert hollow(axis) == [VARIANTS[-1]]
    [line] = [line for line in axis.lines if line.get_label() == "the method as it is"]
    assert set(np.round(line.get_xdata(), 9)) == {0.8}


def test_every_control_of_the_ablation_is_hollow_and_nothing_else() -> None:
    table = pd.DataFrame([made_up("lgdea", 0.1, 1, variant, auc=0.5) for variant in ABLATIONS])
    axis = figure_ablation(table, NOTHING, list(ABLATIONS), CONTROLS).axes[0]
    assert hollow(axis) == [
        "shuffled pairs", "shuffled pairs, without unpaired images", "shuffled pairs, phrases and patches alone",
    ]  # fmt: skip
    assert names(axis) == list(ABLATIONS)


def test_controls_of_several_methods_have_a_line_each() -> None:
    table = pd.concat([ablations(), pd.DataFrame([made_up("clip", 0.1, 1, "shuffled pairs", auc=0.5)])])
    axis = figure_ablation(table, NOTHING, VARIANTS).axes[0]
    assert names(axis) == [*VARIANTS[:2], "shuffled pairs: clip", "shuffled pairs: lgdea"]
    assert points(axis) == [(pytest.approx([0.62, 0.62, 0.5, 0.62]), [0, 1, 2, 3])]


def test_ablation_names_the_variants_and_the_reference_it_lacks() -> None:
    figure = figure_ablation(ablations((1,)), NOTHING, (*VARIANTS, "paper's terms"))
    assert "no rows: paper's terms; the method as it is" in caption(figure)
    assert lying_bars(figure.axes[0]) == []


# ---- relations


def test_relation_curves_move_one_setting_and_hold_the_others() -> None:
    figure = BUILDERS["relation_curves"]()
    top = figure.axes[:4]
    assert points(top[0]) == [([0.5, 0.8, 0.95], pytest.approx([0.14, 0.11, 0.15]))]  # not the one without loops
    assert [points(axis)[0][0] for axis in top[1:]] == [[5, 10], [2.0, 4.0], [60, 180]]
    for axis in top:
        expected = {"random relations": pytest.approx(0.05), "commonest findings for all": pytest.approx(0.19)}
        assert levels(axis) == expected
    assert [axis.get_xlabel() for axis in figure.axes[4:]] == [
        "alpha (mode graph)", "neighbours (mode graph)", "affinity_sharpness (mode affinity)",
        "pair_steps (mode graph*affinity)",
    ]  # fmt: skip


def test_relations_of_shuffled_pairs_are_a_line_where_their_mode_was_swept() -> None:
    wrong = relation_base("demo") | SHARED | {"paired_ratio": 0.1, "seed": 1, "label_auc": 0.5}
    precision = {"graph": 0.06, "graph*affinity": 0.08}
    rows = [wrong | {"relations": name, "precision_at_1": precision[mode]} for name, mode in SHUFFLED.items()]
    figure = figure_relation_curves(pd.concat([relations(), pd.DataFrame(rows)]), relation_base("demo"))
    found = [levels(axis).get("shuffled pairs") for axis in figure.axes[:4]]
    assert found == [0.06, 0.06, None, 0.08]  # the third sweeps the affinity, which has no seeds


def test_relation_curves_name_sweeps_and_controls_that_are_missing() -> None:
    table = relations((1,))
    table = table[(table["relations"] != "random") & (table["pair_steps"] != 60)]
    figure = figure_relation_curves(table, relation_base("demo"))
    assert caption(figure) == "one seed, so no sd; no rows: random relations; pair_steps"


# ---- hard set


def test_hard_set_has_a_panel_a_kind_and_says_how_many_samples() -> None:
    figure = BUILDERS["hard_set"]()
    assert [axis.get_ylabel() for axis in figure.axes] == ["size", "side", "finding"]
    axis = figure.axes[0]
    assert names(axis) == ["small (n = 41 to 42)", "large (n = 41 to 42)"]
    assert points(axis)[1] == (pytest.approx([0.65] * 2), pytest.approx([0.15, 1.15]))
    assert lying_bars(axis) == [pytest.approx((0.65 - 0.1 / np.sqrt(2), 0.65 + 0.1 / np.sqrt(2)))] * 4
    assert legend(figure)[1] == "lgdea, 10 % of pairs"
    assert figure.axes[-1].get_xlabel() == "CNR (signed)"


def test_hard_set_names_groups_a_method_lacks_and_draws_one_method_alone() -> None:
    table = hard_set((1,))
    table = table[~((table["method"] == "clip") & (table["group"] == "nodule"))]
    assert caption(figure_hard_set(table, "cnr_signed")) == "one seed, so no sd; no rows: clip, 10 % on nodule"
    axis = figure_hard_set(table[table["method"] == "lgdea"], "cnr_signed").axes[0]
    assert points(axis) == [(pytest.approx([0.6] * 2), pytest.approx([0, 1]))]


# ---- paper tables


def test_published_numbers_are_hollow_and_say_so() -> None:
    figure = BUILDERS["paper_table"]()
    ours, theirs = figure.axes
    assert ours.get_title() == "phantom: ours, phantom"
    assert theirs.get_title() == "MS-CXR: published, not rerun"
    assert [c.lines[0].get_markerfacecolor() for c in theirs.containers] == ["none", "none"]
    assert ours.containers[0].lines[0].get_markerfacecolor() != "none"
    assert points(theirs) == [([1.33], [0]), ([0.93], [1])]
    assert bars(theirs, along=0) == [pytest.approx((1.29, 1.37))]  # the number without a deviation has no bar
    assert legend(figure) == ["10 % of pairs", "2023", "2022", PUBLISHED]


# ---- what is refused, and tables without rows


def test_tables_without_rows_are_drawn_empty_and_say_so() -> None:
    figures = [figure_pairing_curve(NOTHING, METHODS, RATIOS), figure_ablation(NOTHING, NOTHING)]
    for figure in figures:
        figure.draw_without_rendering()
    lacking = ["clip, gloria, lgdea at 1 %, 10 %, 100 %", "the method as it is"]
    assert [caption(figure) for figure in figures] == [f"no rows: {text}" for text in lacking]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: figure_pairing_curve(pd.concat([pairing(), pairing().assign(world="easy")])),
            "figure_pairing_curve: expected rows of one world, got easy, phantom",
        ),
        (
            lambda: figure_ablation(ablations(), pd.DataFrame([made_up("lgdea", 0.05, 1)])),
            r"expected rows of one paired_ratio, got 0\.05, 0\.1",
        ),
        (lambda: figure_hard_set(hard_set(), "dice"), "no row has measure 'dice'; there are: cnr_signed"),
        (lambda: figure_paper_table(paper_rows().iloc[:0]), "expected at least one row"),
        (lambda: figure_label_curve({}), "expected rows for every panel, got none for any"),
        (lambda: figure_label_curve({("dice", "nih"): NOTHING}), "got none for .*dice"),
    ],
)
def test_mixed_and_missing_rows_are_refused(draw: Callable[[], Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()
