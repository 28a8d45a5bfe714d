"""Figures of tables by content: means, deviations and controls where they belong, and what a table lacks named."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
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
    figure_pairing_curve,
    figure_paper_table,
    figure_relation_curves,
    mean_and_sd,
)

METHODS = ("clip", "gloria", "lgdea")
RATIOS = (0.01, 0.1, 1.0)
VARIANTS = ("without prototypes", "whole reports", "shuffled pairs")


def made_up(method: str, ratio: float, seed: int, variant: str = "", **values: float) -> dict[str, object]:
    """A row as an experiment leaves it; `auc` is 0.6 + seed / 100 unless said."""
    own = {
        "auc": 0.6 + seed / 100,
        "cnr": 0.5,
        "miou": 0.1,
        "pointing": 0.3,
        "precision_at_5": 0.2,
        "recall_at_10": 0.1,
    }
    key = {"world": "phantom", "method": method, "variant": variant, "paired_ratio": ratio, "seed": seed}
    return key | {"preset": "demo"} | own | values


def pairing(seeds: tuple[int, ...] = (1, 2, 3)) -> pd.DataFrame:
    return pd.DataFrame([made_up(m, r, s) for m in METHODS for r in RATIOS for s in seeds])


def ablations(seeds: tuple[int, ...] = (1, 2, 3)) -> pd.DataFrame:
    return pd.DataFrame([made_up("lgdea", 0.1, seed, name) for name in VARIANTS for seed in seeds])


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
            shared = {"world": "phantom", "paired_ratio": 0.1, "seed": seed, "preset": "demo", "commonest_rate": 0.19}
            rows.append(setting | shared | quality | {"label_auc": 0.7})
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


def points(axis: Axes, label: str | None = None) -> list[tuple[list[float], list[float]]]:
    """Places of the marks of each series, or of the one with a label."""
    chosen = [c for c in axis.containers if label is None or c.get_label() == label]
    return [(list(c.lines[0].get_xdata()), list(c.lines[0].get_ydata())) for c in chosen]


def bars(axis: Axes) -> list[np.ndarray]:
    """Ends of every drawn bar."""
    return [s for c in axis.containers for line in c.lines[2] for s in line.get_segments() if len(s)]


def drawn(figure: Figure) -> Figure:
    figure.draw_without_rendering()
    return figure


# ---- pairing curve


def test_names_of_measures_are_those_of_the_harness() -> None:
    assert {column: HEADLINES[MEASURES[column]] for column in MEASURE_NAMES} == MEASURE_NAMES


def test_the_curve_shows_mean_and_sample_deviation_of_every_method() -> None:
    axis = figure_pairing_curve(pairing(), METHODS, RATIOS).axes[0]
    assert axis.get_ylabel() == "zero-shot AUC"
    assert [c.get_label() for c in axis.containers] == list(METHODS)
    [(places, means)] = points(axis, METHODS[1])
    assert means == pytest.approx([0.62] * 3)
    assert places == pytest.approx(list(RATIOS))  # the middle one of three is not shifted
    assert [end[:, 1].tolist() for end in bars(axis)] == [pytest.approx([0.61, 0.63])] * 9
    assert axis.get_ylim() == (0.4, 1.0)


def test_one_seed_has_no_bar_and_the_caption_says_so() -> None:
    figure = figure_pairing_curve(pairing(seeds=(1,)), METHODS, RATIOS, "phantom")
    assert bars(figure.axes[0]) == []
    assert figure.get_supxlabel() == "phantom; one seed, so no sd"


def test_cells_without_rows_are_absent_and_named() -> None:
    table = pairing()
    table = table[(table["method"] != "gloria") & ~((table["method"] == "clip") & (table["paired_ratio"] == 0.01))]
    figure = drawn(figure_pairing_curve(table, METHODS, RATIOS))
    assert points(figure.axes[0], "gloria") == [([], [])]
    assert len(points(figure.axes[0], "clip")[0][0]) == 2
    assert "no rows: clip at 1 %; gloria at 1 %, 10 %, 100 %" in figure.get_supxlabel()
    assert "mean ± sd over 3 seeds" in figure.get_supxlabel()


def test_a_value_beyond_the_fixed_range_widens_it_and_nothing_else_does() -> None:
    table = pairing()
    table.loc[0, "cnr"] = 3.5
    axes = figure_pairing_curve(table).axes
    assert axes[1].get_ylim() == (-0.5, 3.5)
    assert axes[2].get_ylim() == (0.0, 0.4)


def test_an_empty_table_is_drawn_empty() -> None:
    figure = drawn(figure_pairing_curve(pairing().iloc[:0], METHODS, RATIOS))
    assert figure.get_supxlabel().startswith("no rows: clip, gloria, lgdea at 1 %, 10 %, 100 %")


def test_rows_of_two_worlds_are_refused() -> None:
    other = pairing().assign(world="easy")
    with pytest.raises(ValueError, match="figure_pairing_curve: expected rows of one world, got easy, phantom"):
        figure_pairing_curve(pd.concat([pairing(), other]))


# ---- ablation


def test_ablation_has_the_method_as_a_line_and_a_hollow_control() -> None:
    whole = pd.DataFrame([made_up("lgdea", 0.1, seed, auc=0.8) for seed in (1, 2, 3)])
    figure = figure_ablation(ablations(), whole, VARIANTS, VARIANTS[-1:])
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == list(VARIANTS)
    assert points(axis) == [([pytest.approx(0.62)], [place]) for place in range(3)]
    assert [c.lines[0].get_markerfacecolor() == "white" for c in axis.containers] == [False, False, True]
    [line] = [line for line in axis.lines if line.get_label() == "the method as it is"]
    assert set(np.round(line.get_xdata(), 9)) == {0.8}


def test_every_control_of_the_ablation_is_hollow_and_nothing_else() -> None:
    table = pd.DataFrame([made_up("lgdea", 0.1, 1, variant, auc=0.5) for variant in ABLATIONS])
    axis = figure_ablation(table, pairing().iloc[:0], list(ABLATIONS), CONTROLS).axes[0]
    hollow = [container.lines[0].get_markerfacecolor() == "white" for container in axis.containers]
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert [name for name, drawn in zip(names, hollow, strict=True) if drawn] == [
        "shuffled pairs", "shuffled pairs, without unpaired images", "shuffled pairs, phrases and patches alone",
    ]  # fmt: skip
    assert names == list(ABLATIONS)


def test_controls_of_several_methods_have_a_line_each() -> None:
    table = pd.concat([ablations(), pd.DataFrame([made_up("clip", 0.1, 1, "shuffled pairs", auc=0.5)])])
    axis = figure_ablation(table, pairing().iloc[:0], VARIANTS).axes[0]
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names == [*VARIANTS[:2], "shuffled pairs: clip", "shuffled pairs: lgdea"]
    assert points(axis)[2] == ([0.5], [2])


def test_ablation_names_the_variants_and_the_reference_it_lacks() -> None:
    figure = drawn(figure_ablation(ablations((1,)), pairing().iloc[:0], (*VARIANTS, "paper's terms")))
    assert "no rows: paper's terms; the method as it is" in figure.get_supxlabel()
    assert bars(figure.axes[0]) == []


def test_ablation_refuses_a_reference_at_another_ratio() -> None:
    whole = pd.DataFrame([made_up("lgdea", 0.05, 1)])
    with pytest.raises(ValueError, match=r"expected rows of one paired_ratio, got 0\.05, 0\.1"):
        figure_ablation(ablations(), whole)


# ---- relations


def test_relation_curves_move_one_setting_and_hold_the_others() -> None:
    figure = figure_relation_curves(relations(), relation_base("demo"))
    top = figure.axes[:4]
    [(alphas, precision)] = points(top[0])
    assert (alphas, precision) == ([0.5, 0.8, 0.95], pytest.approx([0.14, 0.11, 0.15]))  # not the one without loops
    assert [points(axis)[0][0] for axis in top[1:]] == [[5, 10], [2.0, 4.0], [60, 180]]
    for axis in top:
        heights = {line.get_label(): line.get_ydata()[0] for line in axis.lines if not line.get_label().startswith("_")}
        assert heights == {"random relations": pytest.approx(0.05), "commonest findings for all": pytest.approx(0.19)}
    assert [axis.get_xlabel() for axis in figure.axes[4:]] == [
        "alpha (mode graph)", "neighbours (mode graph)", "affinity_sharpness (mode affinity)",
        "pair_steps (mode graph*affinity)",
    ]  # fmt: skip


def test_relations_of_shuffled_pairs_are_a_line_where_their_mode_was_swept() -> None:
    wrong = relation_base("demo") | {"world": "phantom", "paired_ratio": 0.1, "seed": 1, "preset": "demo"}
    rows = [
        wrong | {"relations": name, "precision_at_1": {"graph": 0.06, "graph*affinity": 0.08}[mode], "label_auc": 0.5}
        for name, mode in SHUFFLED.items()
    ]
    figure = figure_relation_curves(pd.concat([relations(), pd.DataFrame(rows)]), relation_base("demo"))
    found = [
        [line.get_ydata()[0] for line in axis.lines if line.get_label() == "shuffled pairs"] for axis in figure.axes[:4]
    ]
    assert found == [[0.06], [0.06], [], [0.08]]  # the third sweeps the affinity, which has no seeds


def test_relation_curves_name_sweeps_and_controls_that_are_missing() -> None:
    table = relations((1,))
    table = table[(table["relations"] != "random") & (table["pair_steps"] != 60)]
    caption = drawn(figure_relation_curves(table, relation_base("demo"))).get_supxlabel()
    assert caption == "one seed, so no sd; no rows: random relations; pair_steps"


# ---- hard set


def test_hard_set_has_a_panel_a_kind_and_says_how_many_samples() -> None:
    figure = drawn(figure_hard_set(hard_set(), "cnr_signed"))
    assert [axis.get_ylabel() for axis in figure.axes] == ["size", "side", "finding"]
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["small (n = 41 to 42)", "large (n = 41 to 42)"]
    assert points(axis, "lgdea, 10 % of pairs") == [(pytest.approx([0.65] * 2), pytest.approx([0.15, 1.15]))]
    assert figure.axes[-1].get_xlabel() == "CNR (signed)"


def test_hard_set_names_groups_a_method_lacks_and_refuses_an_unknown_measure() -> None:
    table = hard_set((1,))
    table = table[~((table["method"] == "clip") & (table["group"] == "nodule"))]
    caption = figure_hard_set(table, "cnr_signed").get_supxlabel()
    assert caption == "one seed, so no sd; no rows: clip 10 % on nodule"
    with pytest.raises(ValueError, match="no row has measure 'dice'; there are: cnr_signed"):
        figure_hard_set(table, "dice")


# ---- paper tables


def test_published_numbers_are_hollow_and_say_so() -> None:
    figure = figure_paper_table(paper_rows())
    ours, theirs = figure.axes
    assert ours.get_title() == "phantom: ours, phantom"
    assert theirs.get_title() == "MS-CXR: published, not rerun"
    assert [c.lines[0].get_markerfacecolor() for c in theirs.containers] == ["none", "none"]
    assert ours.containers[0].lines[0].get_markerfacecolor() != "none"
    assert points(theirs) == [([1.33], [0]), ([0.93], [1])]
    assert len(bars(theirs)) == 1  # the number without a deviation has no bar
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["10 % of pairs", "2023", "2022", PUBLISHED]


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one row"):
        figure_paper_table(paper_rows().iloc[:0])


def test_mean_and_sd_of_a_column_that_is_absent_has_no_rows() -> None:
    assert mean_and_sd(pairing(), ["method"], "no such").empty
    spread = mean_and_sd(pairing((1, 2)), ["method", "paired_ratio"], "auc")
    assert spread["sd"].tolist() == pytest.approx([0.01 / np.sqrt(2)] * 9)
