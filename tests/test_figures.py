"""Figures by content: what is drawn where, on which fixed scale, and that files are the same bytes twice."""

import functools
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import IPython
import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from test_figures_tables import BUILDERS as TABLES

from lgdea_core import figures
from lgdea_core.config import RunConfig
from lgdea_core.figures import GroundingRow, keep_figure, save_figure, style
from lgdea_core.figures.evidence import STATUS_COLOURS
from lgdea_core.figures.names import GREY
from lgdea_core.figures.style import TEXT_COLOURS, wrap
from lgdea_core.runs.artifacts import start_run

REPORT = "FINDINGS: There is a small left apical pneumothorax, new since the prior exam. No pulmonary edema is seen.\n"
REPORT += "IMPRESSION: Small pneumothorax. Possible effusion."
PHRASES = {
    "small left apical pneumothorax": "present",
    "No pulmonary edema": "absent",
    "Possible effusion": "uncertain",
}
PHRASES_PRESENT = ["small", "left", "apical", "pneumothorax"]
METADATA = {"run": "phantom-lgdea-0", "commit": "abc123", "seed": "0"}
NAN = float("nan")


def evidence_rows() -> pd.DataFrame:
    rows = [(REPORT.index(phrase), REPORT.index(phrase) + len(phrase), PHRASES[phrase]) for phrase in PHRASES]
    table = pd.DataFrame(rows, columns=["start", "end", "status"])
    return table.assign(observation=["pneumothorax", "edema", "edema"])


def film() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.2, 0.8, (12, 10))


def similarity() -> np.ndarray:
    values = np.random.default_rng(1).uniform(-0.2, 0.3, (12, 10))
    values[:2] = NAN
    return values


def grounding_rows() -> list[GroundingRow]:
    maps = {"CLIP": similarity(), "LGDEA": similarity(), "Grad-CAM": np.clip(similarity(), 0, 1)}
    return [GroundingRow(film(), maps, [(1, 2, 3, 4)], phrase) for phrase in ("left nodule", "right effusion")]


HISTORY = pd.DataFrame({"step": [10, 20, 30], "ita": [2.0, 1.0, 0.5], "local": [NAN, 0.7, 0.4]})
COMPARED = pd.DataFrame(
    [("AUC", "CLIP", 0.7, 0.65, 0.75, 0.5, False), ("AUC", "LGDEA", 0.9, 0.88, 0.92, 0.5, False),
     ("CNR", "LGDEA", 1.8, 1.6, 2.0, 0.0, False), ("CNR", "BioViL", 1.03, 1.03, 1.03, 0.0, True)],
    columns=["metric", "method", "estimate", "low", "high", "chance", "published"],
)  # fmt: skip
LOOKED = pd.DataFrame(
    [(metric, shown, kind, chance + above, chance + above - 0.05, chance + above + 0.05, chance)
     for metric, chance in (("zero-shot AUC", 0.5), ("recall@10", 0.1), ("CNR of grounding", 0.0))
     for shown, kind, above in (
         ("the image itself", "image", 0.3), ("another patient's image", "blind", 0.0), ("mean image", "blind", 0.0),
         ("mean grey level alone", "blind", 0.01), ("noise of the same spectrum", "blind", 0.02),
         ("patches shuffled", "other", 0.1), ("lungs blanked", "other", 0.15), ("prompts reworded", "prompt", 0.28),
         ("prompts negated", "prompt", -0.2), ("another finding's prompts", "prompt", 0.05))],
    columns=["metric", "shown", "kind", "estimate", "low", "high", "chance"],
)  # fmt: skip
FINDINGS = pd.DataFrame(
    [("edema", "model", 0.7, 0.6, 0.8), ("edema", "baseline", 0.5, 0.4, 0.6), ("mass", "model", NAN, NAN, NAN)],
    columns=["finding", "variant", "estimate", "low", "high"],
)
RELATIONS = [np.eye(4), np.eye(4) * 0.5 + np.eye(4, k=1) * 3e-7]
QUALITY = {
    "relations": ["graph", "affinity"],
    "measure": ["precision_at_10"] * 2,
    "value": [0.4, 0.6],
    "chance": [0.1, 0.1],
}
REGIONS = {"left lung": (5, 2, 3, 8), "right lung": (1, 2, 3, 8), "trachea": (4, 0, 1, 3)}
SENTENCES = [
    ("The film is rotated.", []),
    ("There is a left effusion.", ["left lung"]),
    ("Both lungs are clear.", ["left lung", "right lung"]),
]
BUILDERS: dict[str, Callable[[], Figure]] = {
    "report_evidence": lambda: figures.figure_report_evidence(REPORT, evidence_rows(), caption="study s1"),
    "extractors": lambda: figures.figure_extractors(
        REPORT, {"lexicon": evidence_rows(), "keywords": evidence_rows()[:1]}, caption="study s1"
    ),
    "entries": lambda: figures.figure_entries(
        {name: np.eye(4) / 2 - 0.1 for name in ("by hand", "library")}, list("abcd"), [f"report {j}" for j in range(4)]
    ),
    "small_graphs": lambda: figures.figure_small_graphs(
        np.eye(3)[::-1], np.eye(2)[::-1], {"the seed": np.eye(3)[:, :2]}, ["i0", "i1", "i2"], ["r0", "r1"], "n=3"
    ),
    "evidence_counts": lambda: figures.figure_evidence_counts(evidence_rows(), caption="n=3"),
    "prototype_space": lambda: figures.figure_prototype_space(
        np.arange(8.0).reshape(4, 2), ["edema", "edema", "mass", "nodule"], np.ones((2, 2)), np.zeros((3, 2)), "n=4"
    ),
    "prototype_usage": lambda: figures.figure_prototype_usage(
        {"reports": np.array([0.1, 0.7, 0.2]), "images": np.array([0.3, 0.3, 0.4])}, ["a", "b", "c"], "n=9"
    ),
    "prototype_neighbours": lambda: figures.figure_prototype_neighbours(
        ["edema", "a" * 50], np.array([0.9, -0.2]), [film()] * 2, [np.full((2, 2), 0.25), np.eye(2) / 2],
        np.array([0.5, 0.4]), "prototype 3", "n=2",
    ),
    "graph_degrees": lambda: figures.figure_graph_degrees(
        {"images": np.array([3, 3, 9]), "reports": np.array([4, 4, 4])}
    ),
    "propagation_steps": lambda: figures.figure_propagation_steps(RELATIONS, [0, 1], "4 of 100"),
    "seed_reach": lambda: figures.figure_seed_reach(
        np.eye(3)[:, :2], np.eye(4)[:, :2], np.array([0.7, 0.3, 0]), np.array([0, 0, 0, 1.0]), (0, 3), 2, "seed 0"
    ),
    "relation_quality": lambda: figures.figure_relation_quality(pd.DataFrame(QUALITY), "n=2"),
    "history": lambda: figures.figure_history(HISTORY, ["ita", "local"], {"pairs": (0, 15), "relations": (15, 30)}),
    "looks": lambda: figures.figure_looks(LOOKED, "LGDEA, corpus phantom; 95 % intervals over patients"),
    "metric_comparison": lambda: figures.figure_metric_comparison(COMPARED, "n=400"),
    "finding_auc": lambda: figures.figure_finding_auc(FINDINGS, "n=400"),
    "phrase_grounding": lambda: figures.figure_phrase_grounding(film(), similarity(), [(1, 2, 3, 4)], "left nodule"),
    "grounding_grid": lambda: figures.figure_grounding_grid(grounding_rows(), caption="seed 0"),
    "phantom_examples": lambda: figures.figure_phantom_examples(
        [film()] * 5, list("abcde"), [[(1, 1, 2, 2)]] + [[]] * 4
    ),
    "hero": lambda: figures.figure_hero(REPORT, evidence_rows(), grounding_rows(), "LGDEA", "seed 0"),
    "related_reports": lambda: figures.figure_related_reports(
        film(),
        [figures.Related(REPORT, evidence_rows(), f"relation {share} % of the image's") for share in (4, 2)],
        figures.Related(REPORT, evidence_rows(), "its own, hidden"), "image i1",
    ),
    "region_sentences": lambda: figures.figure_region_sentences(film(), REGIONS, SENTENCES, "study s1"),
}  # fmt: skip


@functools.cache
def made(name: str) -> Figure:
    """A figure, drawn once for all tests that look at it."""
    figure = (BUILDERS | TABLES)[name]()
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    return figure


QUICK = ("evidence_counts", "phrase_grounding", "prototype_space", "report_evidence")
"""One of each kind: bars, images, points, text; the rest takes a while."""


EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in (*BUILDERS, *TABLES)]


@pytest.mark.parametrize("name", EVERY)
def test_a_figure_is_the_same_picture_twice_and_uses_no_pyplot_state(name: str) -> None:
    pictures = []
    for _ in range(2):
        buffer = io.BytesIO()
        (BUILDERS | TABLES)[name]().savefig(buffer, format="png", dpi=40)
        pictures.append(buffer.getvalue())
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) > 2000
    assert matplotlib._pylab_helpers.Gcf.get_all_fig_managers() == []  # a pyplot figure would show twice


def test_every_figure_function_is_tested() -> None:
    functions = {name.removeprefix("figure_") for name in vars(figures) if name.startswith("figure_")}
    assert functions == {*BUILDERS, *TABLES}


def highlighted(axis: Axes) -> dict[str, list[str]]:
    """Words that stand on a highlight, by the status whose colour it has."""
    found: dict[str, list[str]] = {status: [] for status in STATUS_COLOURS}
    colours = {to_hex(colour).lower(): status for status, colour in STATUS_COLOURS.items()}
    for patch in (patch for patch in axis.patches if isinstance(patch, Rectangle)):
        left, line, right = patch.get_x(), int(patch.get_y()), patch.get_x() + patch.get_width()
        found[colours[to_hex(patch.get_edgecolor())]] += [
            text.get_text().strip(",.")
            for text in axis.texts
            if int(text.get_position()[1]) == line and left <= text.get_position()[0] < right
        ]
    return found


def test_a_highlight_stops_before_the_punctuation_that_ends_its_phrase() -> None:
    evidence = evidence_rows()[:1]
    assert REPORT[evidence["end"][0]] == ","
    longer = evidence.assign(end=evidence["end"] + 1)
    [one], [other] = (figures.figure_report_evidence(REPORT, part).axes[0].patches for part in (evidence, longer))
    assert one.get_bbox().bounds == other.get_bbox().bounds


@pytest.mark.parametrize("columns", [24, 40, 88, 500])
def test_highlights_cover_exactly_the_phrases_whatever_the_line_breaks(columns: int) -> None:
    axis = figures.figure_report_evidence(REPORT, evidence_rows(), columns=columns).axes[0]
    assert highlighted(axis) == {status: phrase.split() for phrase, status in PHRASES.items()}
    assert " ".join(text.get_text() for text in axis.texts).split() == REPORT.split()


@settings(deadline=None)
@given(text=st.text(alphabet="ab .\n", max_size=60), columns=st.integers(3, 20))
def test_wrapping_loses_no_character_and_keeps_offsets(text: str, columns: int) -> None:
    lines = wrap(text, columns)
    assert all(len(line) <= columns for _, line in lines)
    assert all(text[offset : offset + len(line)] == line for offset, line in lines)
    assert "".join(line for _, line in lines).replace(" ", "").replace("\n", "") == "".join(text.split())


def test_every_extractor_has_the_whole_text_beside_the_others_with_its_own_highlights() -> None:
    figure = made("extractors")
    left, right = figure.axes
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["lexicon: 3 statements", "keywords: 1 statements"]
    assert [text.get_text() for text in left.texts] == [text.get_text() for text in right.texts]
    assert highlighted(left) == {status: phrase.split() for phrase, status in PHRASES.items()}
    assert [*highlighted(right).values()] == [["small", "left", "apical", "pneumothorax"], [], []]
    one, other = left.get_position(), right.get_position()
    assert 0 < one.x0 < one.x1 < other.x0 < other.x1 < 1
    assert (one.y0, one.y1) == (other.y0, other.y1)


@pytest.mark.filterwarnings("error")
def test_an_empty_report_is_drawn_empty_and_no_extractor_is_refused() -> None:
    figure = figures.figure_extractors("", {"lexicon": evidence_rows()[:0]})
    figure.savefig(io.BytesIO(), format="png")
    assert list(figure.axes[0].texts) == []
    with pytest.raises(ValueError, match="at least one extractor, got none"):
        figures.figure_extractors(REPORT, {})


def test_evidence_counts_are_stacked_by_status() -> None:
    axis = made("evidence_counts").axes[0]
    widths = {container.get_label(): [bar.get_width() for bar in container] for container in axis.containers}
    assert [label.get_text() for label in axis.get_yticklabels()] == ["pneumothorax", "edema"]
    assert widths == {"present": [1, 0], "absent": [0, 1], "uncertain": [0, 1]}
    assert axis.get_xlabel() == "statements in reports"


def test_prototype_space_marks_kinds_and_pools_rare_observations() -> None:
    axis = made("prototype_space").axes[0]
    sizes = {collection.get_label(): len(collection.get_offsets()) for collection in axis.collections}
    assert sizes == {"lesion token": 3, "edema": 2, "mass": 1, "nodule": 1, "prototype": 2}
    many = figures.figure_prototype_space(np.zeros((12, 2)), [f"o{n}" for n in range(12)], np.zeros((1, 2)))
    assert {c.get_label(): len(c.get_offsets()) for c in many.axes[0].collections}["other"] == 3


def test_prototype_usage_is_sorted_and_names_the_effective_number() -> None:
    axis = made("prototype_usage").axes[0]
    assert [bar.get_height() for bar in axis.containers[0]] == [0.7, 0.2, 0.1]
    assert [bar.get_height() for bar in axis.containers[1]] == [0.3, 0.4, 0.3]  # in the order of the first group
    assert [label.get_text() for label in axis.get_xticklabels()] == ["b", "c", "a"]
    assert axis.containers[0].get_label() == "reports: 2.2 of 3 effective"  # exp of the entropy 0.802
    uniform = figures.figure_prototype_usage({"reports": np.full(4, 0.25)}).axes[0]
    assert uniform.containers[0].get_label() == "reports: 4.0 of 4 effective"


def test_propagation_steps_share_one_scale_that_clips_nothing_and_count_what_was_reached() -> None:
    figure = made("propagation_steps")
    heatmaps = [axis.images[0] for axis in figure.axes if axis.images]
    assert [image.get_clim() for image in heatmaps] == [pytest.approx((1e-7, 1.0))] * 2
    assert heatmaps[0].get_array().mask.sum() == 12  # never reached stays white
    line = next(axis for axis in figure.axes if axis.get_xlabel() == "step").lines[0]
    assert line.get_ydata() == pytest.approx([4 / 16, 7 / 16])
    assert [axis.get_title() for axis in figure.axes[:2]] == ["seeds", "step 1"]


def test_relation_quality_starts_at_0_and_shows_chance() -> None:
    axis = made("relation_quality").axes[0]
    assert axis.get_xlim()[0] == 0
    assert axis.get_xlabel() == "precision@10"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["propagated graph", "cross-modal affinity"]
    assert [line.get_xdata()[0] for line in axis.lines if line.get_label() == "chance"] == [0.1]


def test_graph_degrees_name_the_largest_hub() -> None:
    figure = made("graph_degrees")
    assert [axis.get_title() for axis in figure.axes] == ["images (largest 9)", "reports (largest 4)"]
    assert [sum(bar.get_height() for bar in axis.patches) for axis in figure.axes] == [3, 3]


def test_a_seeds_reach_counts_what_it_has_a_share_of() -> None:
    figure = made("seed_reach")
    assert [axis.get_title() for axis in figure.axes[:2]] == ["images: 2 of 3 reached", "reports: 1 of 4 reached"]
    grey, reached, seed = figure.axes[0].collections
    assert [len(part.get_offsets()) for part in (grey, reached, seed)] == [1, 2, 1]
    assert reached.get_array().tolist() == [0.3, 0.7]  # the heaviest on top
    assert seed.get_offsets().tolist() == [[1, 0]]


def test_history_has_a_panel_a_column_and_a_line_a_variant() -> None:
    figure = made("history")
    drawn = {axis.get_title(): axis.lines[0].get_xydata().tolist() for axis in figure.axes}
    assert drawn == {
        "image against report": [[10, 2], [20, 1], [30, 0.5]],
        "phrase against patches": [[20, 0.7], [30, 0.4]],
    }
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["pairs", "relations"]
    grounds = {patch.get_facecolor() for patch in figure.axes[0].patches}
    assert len(grounds) == 2  # a phase each
    assert {axis.get_xlabel() for axis in figure.axes} == {"optimiser step"}
    both = pd.concat([HISTORY.assign(variant="model"), HISTORY.assign(variant="baseline_shuffled", local=NAN)])
    figure = figures.figure_history(both, ["ita", "local"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["LGDEA", "CLIP, shuffled pairs"]
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["-", "--"]
    assert [len(line.get_xdata()) for line in figure.axes[1].lines] == [2, 0]
    still = figures.figure_history(HISTORY.assign(ramp=0.25), ["ita", "ramp"])
    assert [axis.get_title() for axis in still.axes] == ["image against report"]
    assert still.get_supxlabel() == "never changes: weight of unpaired terms 0.25"
    alone = figures.figure_history(HISTORY.assign(ramp=0.25), ["ramp"]).axes  # asked for by itself
    assert [axis.get_title() for axis in alone] == ["weight of unpaired terms"]
    with pytest.raises(ValueError, match=r"history has no column\(s\) \['loss'\]; it has step, ita, local"):
        figures.figure_history(HISTORY, ["ita", "loss"])
    with pytest.raises(ValueError, match="none was asked for"):
        figures.figure_history(HISTORY, [])


def test_phrase_grounding_has_fixed_scales_and_the_box_in_its_place() -> None:
    figure = made("phrase_grounding")
    image, overlay = figure.axes[0].images
    assert image.get_clim() == (0, 1)
    assert overlay.get_clim() == (-1, 1)  # although the map stays within [-0.2, 0.3]
    np.testing.assert_array_equal(overlay.get_array().mask[:2], True)  # unseen is not coloured
    box = figure.axes[0].patches[0]
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (0.5, 1.5, 3, 4)  # pixel edges
    assert figure.axes[0].get_title() == "left nodule"
    assert figure.axes[1].get_ylabel() == "cosine similarity"


def test_grounding_grid_gives_grad_cam_its_own_scale() -> None:
    figure = made("grounding_grid")
    grid = figure.axes[:8]
    assert [axis.get_title() for axis in grid[:4]] == ["image and boxes", "CLIP", "LGDEA", "Grad-CAM"]
    assert [axis.images[-1].get_clim() for axis in grid[4:]] == [(0, 1), (-1, 1), (-1, 1), (0, 1)]
    assert [len(axis.patches) for axis in grid] == [2] * 8  # one box, drawn with an outline, in every panel
    assert {axis.get_ylabel() for axis in figure.axes[8:]} == {"cosine similarity", "no cosine, in [0, 1]"}
    assert grid[4].get_ylabel() == "right effusion"


def test_metric_comparison_draws_intervals_chance_and_marks_published_numbers() -> None:
    auc, contrast = made("metric_comparison").axes
    assert (auc.get_xlabel(), contrast.get_xlabel()) == ("AUC", "CNR")
    ends = [tuple(line.get_xdata()) for line in auc.lines if len(line.get_xdata()) == 2]
    assert ends == [(0.65, 0.75), (0.88, 0.92), (0.5, 0.5)]  # the last is chance
    names = [label.get_text() for label in auc.get_yticklabels()]
    assert names == ["CLIP", "LGDEA", "BioViL (published, not rerun)"]
    hollow = [line.get_xdata()[0] for line in contrast.lines if line.get_markerfacecolor() == "white"]
    assert hollow == [1.03]


def test_a_finding_without_auc_keeps_its_line() -> None:
    axis = made("finding_auc").axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["edema", "mass"]
    assert {line.get_label(): list(line.get_xdata()) for line in axis.lines} == {
        "LGDEA": pytest.approx([0.7, NAN], nan_ok=True), "CLIP": pytest.approx([0.5, NAN], nan_ok=True),
        "chance": [0.5, 0.5],
    }  # fmt: skip


def test_phantom_examples_hide_empty_panels() -> None:
    axes = made("phantom_examples").axes
    assert [axis.get_title() for axis in axes] == [*"abcde", "", "", ""]
    assert [axis.axison for axis in axes] == [True] * 5 + [False] * 3
    assert {axis.images[0].get_clim() for axis in axes[:5]} == {(0, 1)}


def test_hero_shows_the_report_and_one_map_a_phrase() -> None:
    figure = made("hero")
    assert highlighted(figure.axes[0])["absent"] == ["No", "pulmonary", "edema"]
    assert [axis.get_title() for axis in figure.axes[1:3]] == ["left nodule", "right effusion"]
    assert [axis.images[-1].get_clim() for axis in figure.axes[1:3]] == [(-1, 1)] * 2
    assert figure.axes[3].get_ylabel() == "cosine similarity"


def test_an_image_stands_beside_its_reports_and_above_its_own() -> None:
    film_axis, own, first, second = made("related_reports").axes
    titles = [axis.get_title(loc="left") for axis in (own, first, second)]
    assert titles == ["its own, hidden", "relation 4 % of the image's", "relation 2 % of the image's"]
    assert all(highlighted(axis)["present"] == PHRASES_PRESENT for axis in (own, first, second))
    assert own.get_position().x1 < first.get_position().x0
    assert own.get_position().y1 < film_axis.get_position().y0
    assert second.get_position().y1 < first.get_position().y0


def test_a_region_has_the_colour_of_the_first_sentence_that_names_it() -> None:
    figure = made("region_sentences")
    first, second, grey = map(to_hex, (*TEXT_COLOURS[:2], GREY))
    drawn = {patch.get_xy(): to_hex(patch.get_edgecolor()) for patch in figure.axes[0].patches}
    assert drawn == {(4.5, 1.5): first, (0.5, 1.5): second, (3.5, -0.5): grey}
    assert [(text.get_text(), to_hex(text.get_color())) for text in figure.axes[1].texts] == [
        ("The film is rotated.", grey), ("→ no region", grey),
        ("There is a left effusion.", first), ("→ left lung", first),
        ("Both lungs are clear.", second), ("→ left lung, right lung", second),
    ]  # fmt: skip


def test_colours_that_come_again_are_dashed() -> None:
    many = [
        (f"Sentence {number}.", ["trachea"] if number < len(TEXT_COLOURS) else ["left lung"]) for number in range(10)
    ]
    figure = figures.figure_region_sentences(film(), REGIONS, many)
    lines = {patch.get_xy(): patch.get_linestyle() for patch in figure.axes[0].patches}
    assert lines[(4.5, 1.5)] in ("--", "dashed")
    assert lines[(3.5, -0.5)] in ("-", "solid")
    written = [text.get_text() for text in figure.axes[1].texts]
    assert (written[1], written[-1]) == ("→ trachea", "→ left lung (dashed)")


def test_caption_is_drawn() -> None:
    assert made("metric_comparison").get_supxlabel() == "n=400"
    assert "study s1" in [text.get_text() for text in made("extractors").texts]


def test_saved_files_carry_provenance_and_no_date_and_are_the_same_bytes_twice(tmp_path: Path) -> None:
    stem = tmp_path / "new" / "1.2.826.0.1"
    png, pdf = save_figure(BUILDERS["phrase_grounding"](), stem, METADATA)
    assert sorted(path.name for path in stem.parent.iterdir()) == ["1.2.826.0.1.pdf", "1.2.826.0.1.png"]
    with Image.open(png) as image:
        assert (METADATA | {"Description": made("phrase_grounding").alt}).items() <= image.text.items()
        assert not any("time" in key.lower() or "date" in key.lower() for key in image.text)
    content = pdf.read_bytes()
    assert b"run=phantom-lgdea-0; commit=abc123; seed=0" in content
    assert b"CreationDate" not in content
    assert b"/Subtype /Type3" not in content  # journals refuse such fonts
    assert b"/FontFile2" in content  # TrueType
    again = save_figure(BUILDERS["phrase_grounding"](), tmp_path / "again", METADATA)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in (png, pdf)]


def test_a_notebook_shows_what_was_saved_at_its_natural_size_until_it_changes(tmp_path: Path) -> None:
    figure = BUILDERS["phrase_grounding"]()
    [png] = save_figure(figure, tmp_path / "fig", METADATA, formats=("png",))
    content, shown = figure.picture()
    assert content == png.read_bytes()
    assert shown == {"width": 336, "alt": figure.alt}  # 89 mm at 96 pixels an inch
    figure.axes[0].set_title("another")
    assert figure.picture()[0] != content


def test_a_kernel_shows_figures_so(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    style._show_in_notebooks()
    figure = made("phrase_grounding")
    content, how = shell.display_formatter.format(figure)
    assert (content["image/png"], how["image/png"]) == figure.picture()


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = BUILDERS["phrase_grounding"]()
    png, _ = save_figure(figure, tmp_path / "fig", METADATA)
    before = png.read_bytes()

    def broken(path: Path, **_: object) -> None:
        path.write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, tmp_path / "fig", METADATA)
    assert png.read_bytes() == before


def test_saving_without_provenance_is_refused(tmp_path: Path) -> None:
    message = r"save_figure fig: metadata must say run, commit and seed; \['seed'\] missing"
    with pytest.raises(ValueError, match=message):
        save_figure(Figure(), tmp_path / "fig", {"run": "r", "commit": "c"})


def test_what_shows_real_patients_stays_in_the_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lgdea_core.runs.artifacts.project_root", lambda: tmp_path)
    real = start_run(RunConfig.from_preset("demo", corpus="nih"), root=tmp_path / "runs")
    figure = Figure()
    assert keep_figure(real, figure, "curve") is figure
    keep_figure(real, figure, "film", patients=True)
    keep_figure(start_run(RunConfig.from_preset("demo"), root=tmp_path / "runs"), figure, "phantom", patients=True)
    assert {path.name for path in (tmp_path / "figures").glob("*.png")} == {"curve.png", "phantom.png"}
    assert {path.name for path in (real.folder / "figures").iterdir()} == {"film.png", "film.pdf"}
