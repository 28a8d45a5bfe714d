"""Figures of tables by content: means, deviations and controls where they belong, and what a table lacks named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from lgdea_core.evaluation.harness import HEADLINES
from lgdea_core.experiments import docs, pictures
from lgdea_core.experiments.cells import MEASURES
from lgdea_core.experiments.paper_tables import relation_base
from lgdea_core.experiments.plans import ABLATIONS, CONTROLS
from lgdea_core.experiments.relations import SHUFFLED
from lgdea_core.figures.comparison import PUBLISHED
from lgdea_core.figures.names import LGDEA, QUESTIONS
from lgdea_core.figures.tables import (
    MEASURE_NAMES,
    figure_ablation,
    figure_abundance,
    figure_dose_response,
    figure_hard_set,
    figure_label_curve,
    figure_pairing_curve,
    figure_paper_table,
    figure_relation_curves,
)

METHODS = ("clip", "gloria", "lgdea")
RATIOS = (0.01, 0.1, 1.0)
VARIANTS = ("without prototypes", "whole reports", "shuffled pairs")
MARKERS = ("o", "s", "^", "D", "v", "d")
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


def abundance() -> pd.DataFrame:
    """Two variants over three numbers of unpaired studies, two seeds."""
    rows = [
        made_up("lgdea", 0.1, seed, variant, auc=0.6 + seed / 100 + count / 1e5) | {"unpaired": count}
        for seed in (1, 2) for variant in ("", "without relations") for count in (0, 1350, 20000)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def doses() -> pd.DataFrame:
    """Relations mixed with true pairs to three label AUCs, two seeds."""
    rows = [
        made_up("lgdea", 0.1, seed, f"relations at {dose}", auc=dose) | {"relation_label_auc": dose + seed / 1000}
        for seed in (1, 2) for dose in (0.8, 0.9, 1.0)
    ]  # fmt: skip
    return pd.DataFrame(rows)


BUILDERS: dict[str, Callable[[], Figure]] = {
    "pairing_curve": lambda: figure_pairing_curve(pairing(), METHODS, RATIOS),
    "label_curve": lambda: figure_label_curve(labels(), "frozen"),
    "ablation": lambda: figure_ablation(ablations(), WHOLE, VARIANTS, VARIANTS[-1:]),
    "relation_curves": lambda: figure_relation_curves(relations(), relation_base("demo")),
    "abundance": lambda: figure_abundance(abundance(), "150 pairs"),
    "dose_response": lambda: figure_dose_response(doses(), WHOLE.assign(relation_label_auc=0.8)),
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


def names(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.get_yticklabels()]


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
    assert axis.get_ylabel() == "zero-shot AUC"
    assert legend(figure) == ["CLIP", "GLoRIA", "LGDEA"]
    assert [means for _, means in points(axis)] == [pytest.approx([0.62] * 3)] * 3
    assert points(axis)[1][0] == pytest.approx(list(RATIOS))  # the middle one of three is not shifted
    assert bars(axis) == [pytest.approx((0.61, 0.63))] * 9


def test_one_seed_has_no_bar_and_the_caption_says_so() -> None:
    figure = figure_pairing_curve(pairing(seeds=(1,)), METHODS, RATIOS, "60 pixels")
    assert bars(figure.axes[0]) == []
    assert len(points(figure.axes[0])) == 3
    assert caption(figure) == "phantom, preset demo; 60 pixels; one seed, so no sd"


def test_cells_without_rows_are_absent_and_named() -> None:
    table = pairing()
    table = table[(table["method"] != "gloria") & ~((table["method"] == "clip") & (table["paired_ratio"] == 0.01))]
    figure = figure_pairing_curve(table, METHODS, RATIOS)
    assert [len(places) for places, _ in points(figure.axes[0])] == [2, 3]
    text = caption(figure)
    assert text.endswith("mean ± sd over 3 seeds; no rows: CLIP at 1 %; GLoRIA at 1 %, 10 %, 100 %")


def test_axes_begin_at_chance_or_0_and_end_where_the_data_do() -> None:
    table = pairing()
    table.loc[0, "cnr"] = -1.0
    limits = {axis.get_ylabel(): axis.get_ylim() for axis in figure_pairing_curve(table).axes}
    assert limits["zero-shot AUC"] == pytest.approx((0.4392, 0.6408))  # 0.45 to 0.63, and 6 % of that
    assert limits["CNR (signed)"] == pytest.approx((-1.09, 0.59))
    assert limits["pointing game"] == pytest.approx((-0.018, 0.318))


@pytest.mark.slow
def test_a_measure_that_a_world_lacks_has_no_panel() -> None:
    table = pairing().assign(world="openi", cnr=np.nan, miou=np.nan, pointing=np.nan)
    figure = figure_pairing_curve(table, METHODS, RATIOS)
    assert [axis.get_ylabel() for axis in figure.axes] == ["zero-shot AUC", "precision@5", "recall@10"]
    assert caption(figure).startswith("real pairs (Open-i), preset demo; mean")


def test_abundance_is_evenly_spaced_and_tells_variants_apart() -> None:
    figure = BUILDERS["abundance"]()
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1,350", "20,000"]
    assert [places for places, _ in points(axis)] == [[0, 1, 2]] * 2
    assert points(axis)[0][1] == pytest.approx([0.615, 0.6285, 0.815])
    assert legend(figure) == ["LGDEA", "LGDEA, without relations"]


def test_a_dose_stands_at_the_label_auc_that_its_relations_reached() -> None:
    axis = BUILDERS["dose_response"]().axes[0]
    assert points(axis)[0] == (pytest.approx([0.8015, 0.9015, 1.0015]), pytest.approx([0.8, 0.9, 1.0]))
    [star] = [line for line in axis.lines if line.get_marker() == "*"]
    assert star.get_xydata().tolist() == [[pytest.approx(0.8), pytest.approx(0.8)]]


def test_a_label_curve_has_means_and_deviations_of_each_panel() -> None:
    figure = BUILDERS["label_curve"]()
    left, right = figure.axes
    assert [means for _, means in points(left)] == [[0.5], pytest.approx([0.7, 0.9])]
    deviation = np.std([0.6, 0.8], ddof=1)
    assert bars(left) == [pytest.approx((0.7 - deviation, 0.7 + deviation))]
    assert [means for _, means in points(right)] == [pytest.approx([0.35])]
    assert [axis.get_title() for axis in figure.axes] == ["phantom", "NIH images"]
    assert [axis.get_ylabel() for axis in figure.axes] == ["AUC of a linear probe", "Dice of a decoder"]
    assert legend(figure) == ["random weights", "ASG"]
    assert caption(figure) == "frozen; mean ± sd over 1 to 2 seeds (one: no sd)"


# ---- ablation


def labelled(figure: Figure) -> dict[str, dict[str, float]]:
    """Question -> its lines and where each stands, of the first measure."""
    found = {}
    for axis in figure.axes[:: len(MEASURE_NAMES)]:
        title, *labels = zip(
            axis.get_yticks().tolist(), [label.replace("\n", " ") for label in names(axis)], strict=True
        )
        found[title[1]] = {label: place for place, label in labels}
    return found


def test_ablation_asks_one_question_a_row_with_the_method_as_a_line_and_a_hollow_control() -> None:
    figure = BUILDERS["ablation"]()
    assert labelled(figure) == {
        "What does the evidence space add?": {"without prototypes": 1, "whole reports": 2},
        "Controls, which must fail": {"LGDEA, shuffled pairs": 1},
    }
    evidence, control = figure.axes[0], figure.axes[len(MEASURE_NAMES)]
    assert points(evidence) == [(pytest.approx([0.62] * 2), [1, 2])]
    assert bars(evidence, along=0) == [pytest.approx((0.61, 0.63))] * 2
    faces = [
        [line.get_markerfacecolor() for line in axis.lines if line.get_marker() == "o"] for axis in (evidence, control)
    ]
    assert faces == [[LGDEA], ["white"]]
    [line] = [line for line in evidence.lines if line.get_label() == "LGDEA as it is"]
    assert set(np.round(line.get_xdata(), 9)) == {0.8}
    assert legend(figure) == ["LGDEA as it is", "chance", "control, must fail"]


@pytest.mark.slow
def test_every_variant_has_its_line_and_every_method_its_control() -> None:
    rows = [made_up("lgdea", 0.1, 1, variant, auc=0.5) for variant in (*ABLATIONS, "of a user")]
    table = pd.DataFrame([*rows, made_up("clip", 0.1, 1, "shuffled pairs", auc=0.5)])
    found = labelled(figure_ablation(table, NOTHING, list(ABLATIONS), CONTROLS))
    assert list(found) == [*QUESTIONS, "Further variants"]
    assert [name.removeprefix("LGDEA, ") for lines in found.values() for name in lines if "CLIP" not in name] == [
        *[variant for variants in QUESTIONS.values() for variant in variants], "of a user",
    ]  # fmt: skip
    assert list(found["Controls, which must fail"])[:2] == ["CLIP, shuffled pairs", "LGDEA, shuffled pairs"]


def test_ablation_names_the_variants_and_the_reference_it_lacks() -> None:
    figure = figure_ablation(ablations((1,)), NOTHING, (*VARIANTS, "paper's terms"))
    assert "no rows: paper's terms; the method as it is" in caption(figure)
    assert bars(figure.axes[0], along=0) == []


# ---- relations


def test_relation_curves_move_one_setting_and_hold_the_others() -> None:
    figure = BUILDERS["relation_curves"]()
    top = figure.axes[:4]
    assert points(top[0]) == [([0.5, 0.8, 0.95], pytest.approx([0.14, 0.11, 0.15]))]  # not the one without loops
    assert [points(axis)[0][0] for axis in top[1:]] == [[5, 10], [2.0, 4.0], [60, 180]]
    for axis in top:
        expected = {"random relations": pytest.approx(0.05), "commonest findings for all": pytest.approx(0.19)}
        assert levels(axis) == expected
    assert [axis.get_xlabel().splitlines()[-1] for axis in figure.axes[4:]] == [
        "(propagated graph)", "(propagated graph)", "(cross-modal affinity)", "(graph × affinity)",
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
    assert caption(figure).endswith("one seed, so no sd; no rows: random relations; steps on pairs before")
    assert len(figure.axes) == 6  # two qualities of three sweeps


# ---- hard set


def test_hard_set_has_a_panel_a_kind_and_says_how_many_samples() -> None:
    figure = BUILDERS["hard_set"]()
    assert [axis.get_title() for axis in figure.axes] == ["by size", "by side", "by finding"]
    axis = figure.axes[0]
    assert names(axis) == ["small (n = 41 to 42)", "large (n = 41 to 42)"]
    assert points(axis)[1] == (pytest.approx([0.65] * 2), pytest.approx([0.15, 1.15]))
    assert bars(axis, along=0) == [pytest.approx((0.65 - 0.1 / np.sqrt(2), 0.65 + 0.1 / np.sqrt(2)))] * 4
    assert legend(figure) == ["CLIP", "LGDEA"]
    assert axis.get_xlabel() == "CNR (signed)"
    assert "10 % of pairs known" in caption(figure)


def test_hard_set_names_groups_a_method_lacks_and_draws_one_method_alone() -> None:
    table = hard_set((1,))
    table = table[~((table["method"] == "clip") & (table["group"] == "nodule"))]
    assert caption(figure_hard_set(table, "cnr_signed")).endswith("one seed, so no sd; no rows: CLIP on nodule")
    axis = figure_hard_set(table[table["method"] == "lgdea"], "cnr_signed").axes[0]
    assert points(axis) == [(pytest.approx([0.6] * 2), pytest.approx([0, 1]))]
    both = pd.concat([table, table.assign(paired_ratio=1.0)])
    assert legend(figure_hard_set(both, "cnr_signed"))[:2] == ["CLIP, 10 % of pairs", "LGDEA, 10 % of pairs"]


# ---- paper tables


def test_published_numbers_are_hollow_and_say_so() -> None:
    figure = BUILDERS["paper_table"]()
    ours, labels, theirs = figure.axes  # the second holds the names of lines alone: their measure is the other
    assert names(ours) == ["phantom", "LGDEA"]
    assert names(labels) == ["MS-CXR", "BioViL-T", "GLoRIA"]
    assert not labels.get_frame_on()
    assert (ours.get_xlabel(), theirs.get_xlabel()) == ("CNR (signed)", "CNR (absolute)")
    assert [part.lines[0].get_markerfacecolor() for part in theirs.containers] == ["white", "white"]
    assert ours.containers[0].lines[0].get_markerfacecolor() == (LGDEA, 1.0)
    assert points(theirs) == [([1.33], [1]), ([0.93], [2])]
    assert bars(theirs, along=0) == [pytest.approx((1.29, 1.37))]  # the number without a deviation has no bar
    assert legend(figure) == ["10 % of pairs", PUBLISHED]


def test_a_table_has_fuller_marks_for_more_pairs_and_controls_in_the_panel_of_their_measure() -> None:
    rows = paper_rows().iloc[:1]
    swapped = rows.assign(measure="CNR (signed), films swapped", value=0.4)
    beyond = rows.assign(measure="CNR (signed), beyond films swapped", value=0.7)
    control = rows.assign(system="lgdea: shuffled pairs")
    figure = figure_paper_table(pd.concat([rows, rows.assign(setting="100 % of pairs"), swapped, beyond, control]))
    [axis] = figure.axes
    marks = [(part.lines[0].get_marker(), part.lines[0].get_markerfacecolor()) for part in axis.containers]
    assert marks == [("o", (LGDEA, 0.5)), ("o", (LGDEA, 1.0)), ("x", LGDEA), ("o", "white")]
    assert legend(figure) == [
        "10 % of pairs", "100 % of pairs", "another patient's image (control)", "control, must fail",
    ]  # fmt: skip


def test_a_long_table_is_cut_into_panels_of_a_page_and_says_what_is_left_out() -> None:
    rows = pd.concat(paper_rows().iloc[:1].assign(system=f"system {number}") for number in range(60))
    figure = figure_paper_table(pd.concat(rows.assign(corpus=corpus) for corpus in ("phantom", "openi", "nih", "easy")))
    assert len(figure.axes) == 2
    assert names(figure.axes[1])[:2] == ["phantom (continued)", "system 40"]
    assert caption(figure) == "not drawn, see the table: real pairs (Open-i), NIH images, easy phantom"


# ---- what is refused, and tables without rows


def test_tables_without_rows_are_drawn_empty_and_say_so() -> None:
    figures = [figure_pairing_curve(NOTHING, METHODS, RATIOS), figure_ablation(NOTHING, NOTHING)]
    for figure in figures:
        figure.draw_without_rendering()
    lacking = ["CLIP, GLoRIA, LGDEA at 1 %, 10 %, 100 %", "the method as it is"]
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
        (lambda: figure_abundance(NOTHING), "figure_abundance: expected at least one row"),
        (lambda: figure_label_curve({}), "expected rows for every panel, got none for any"),
        (lambda: figure_label_curve({("dice", "nih"): NOTHING}), "got none for .*dice"),
    ],
)
def test_mixed_and_missing_rows_are_refused(draw: Callable[[], Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()


# ---- figures of the pages


def test_figures_of_the_pages_are_written_and_shown_with_their_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pictures, docs):
        monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    monkeypatch.setattr(pictures, "git_commit", lambda root: "abc123")
    figure = BUILDERS["hard_set"]()
    monkeypatch.setattr(pictures, "DRAWN", {"hard": lambda: figure, "later": lambda: None})
    assert pictures.write_figures() == [
        "figures/readme/hard.png: written", "figures/readme/later.png: no rows yet",
    ]  # fmt: skip
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("".join(f"<!-- figure: {name} -->\n<!-- end -->\n" for name in ("hard", "later")))
    _, shown, _, _, absent, _ = docs.rendered(page).splitlines()
    assert shown == f"![{figure.alt}](../figures/readme/hard.png)"
    assert absent == "*No figure yet: its table has no rows.*"


@pytest.mark.slow
@pytest.mark.parametrize("name", pictures.DRAWN)
def test_committed_tables_are_drawn(name: str) -> None:
    figure = pictures.DRAWN[name]()
    assert figure is None or (figure.axes and figure.alt)
