"""Figures by content: what is drawn where, on which fixed scale, and that files are the same bytes twice."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from lgdea_core import figures
from lgdea_core.figures import STATUS_COLOURS, GroundingRow, save_figure

REPORT = "FINDINGS: There is a small left apical pneumothorax, new since the prior exam. No pulmonary edema is seen.\n"
REPORT += "IMPRESSION: Small pneumothorax. Possible effusion."
METADATA = {"run": "phantom-lgdea-0", "commit": "abc123", "seed": "0"}
NAN = float("nan")


def evidence_rows() -> pd.DataFrame:
    phrases = {
        "small left apical pneumothorax": "present",
        "No pulmonary edema": "absent",
        "Possible effusion": "uncertain",
    }
    starts = [REPORT.index(phrase) for phrase in phrases]
    ends = [start + len(phrase) for start, phrase in zip(starts, phrases, strict=True)]
    return pd.DataFrame(
        {
            "start": starts,
            "end": ends,
            "status": list(phrases.values()),
            "observation": ["pneumothorax", "edema", "edema"],
        }
    )


def film() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.2, 0.8, (12, 10))


def similarity() -> np.ndarray:
    values = np.random.default_rng(1).uniform(-0.2, 0.3, (12, 10))
    values[:2] = NAN
    return values


def grounding_rows() -> list[GroundingRow]:
    maps = {"CLIP": similarity(), "LGDEA": similarity(), "Grad-CAM": np.clip(similarity(), 0, 1)}
    return [GroundingRow(film(), maps, [(1, 2, 3, 4)], phrase) for phrase in ("left nodule", "right effusion")]


def history() -> pd.DataFrame:
    losses = {"loss_ita": [2.0, 1.0, 0.5], "loss_local": [NAN, 0.7, 0.4], "monitor_usage": [3.0, 9.0, 12.0]}
    return pd.DataFrame({"step": [10, 20, 30], **losses})


def comparison() -> pd.DataFrame:
    rows = [("AUC", "CLIP", 0.7, 0.65, 0.75), ("AUC", "LGDEA", 0.9, 0.88, 0.92), ("CNR", "LGDEA", 1.8, 1.6, 2.0)]
    table = pd.DataFrame(
        [*rows, ("CNR", "BioViL", 1.03, 1.03, 1.03)], columns=["metric", "method", "estimate", "low", "high"]
    )
    return table.assign(chance=[0.5, 0.5, 0.0, 0.0], published=[False, False, False, True])


def quality() -> pd.DataFrame:
    return pd.DataFrame(
        {"relations": ["graph", "affinity"], "measure": ["p@1"] * 2, "value": [0.4, 0.6], "chance": [0.1, 0.1]}
    )


RELATIONS = [np.eye(4), np.eye(4) * 0.5 + np.eye(4, k=1) * 0.01]
BUILDERS: dict[str, Callable[[], Figure]] = {
    "report_evidence": lambda: figures.figure_report_evidence(REPORT, evidence_rows(), caption="study s1"),
    "evidence_counts": lambda: figures.figure_evidence_counts(evidence_rows(), caption="n=3"),
    "prototype_space": lambda: figures.figure_prototype_space(
        np.arange(8.0).reshape(4, 2), ["edema", "edema", "mass", "nodule"], np.ones((2, 2)), np.zeros((3, 2)), "n=4"
    ),
    "prototype_usage": lambda: figures.figure_prototype_usage(
        {"reports": np.array([0.1, 0.7, 0.2]), "images": np.array([0.3, 0.3, 0.4])}, ["a", "b", "c"], "n=9"
    ),
    "propagation_steps": lambda: figures.figure_propagation_steps(RELATIONS, [0, 1], "4 of 100"),
    "relation_quality": lambda: figures.figure_relation_quality(quality(), "n=2"),
    "graph_degrees": lambda: figures.figure_graph_degrees(
        {"images": np.array([3, 3, 9]), "reports": np.array([4, 4, 4])}
    ),
    "loss_terms": lambda: figures.figure_loss_terms(history(), phases={"pairs": (0, 15), "relations": (15, 30)}),
    "monitors": lambda: figures.figure_monitors(history()),
    "phrase_grounding": lambda: figures.figure_phrase_grounding(film(), similarity(), [(1, 2, 3, 4)], "left nodule"),
    "grounding_grid": lambda: figures.figure_grounding_grid(grounding_rows(), caption="seed 0"),
    "metric_comparison": lambda: figures.figure_metric_comparison(comparison(), "n=400"),
    "phantom_examples": lambda: figures.figure_phantom_examples(
        [film()] * 5, list("abcde"), [[(1, 1, 2, 2)]] + [[]] * 4
    ),
    "hero": lambda: figures.figure_hero(REPORT, evidence_rows(), grounding_rows(), "LGDEA", "seed 0"),
}


def labels(figure: Figure) -> list[tuple[str, str]]:
    return [(axis.get_xlabel(), axis.get_ylabel()) for axis in figure.axes]


QUICK = ("evidence_counts", "report_evidence", "phrase_grounding", "prototype_space")
"""One of each kind: bars, text, images, points; the rest takes a while."""


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BUILDERS]
)
def test_figure_is_deterministic_and_uses_no_pyplot_state(name: str, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        save_figure(BUILDERS[name](), tmp_path / folder / name, METADATA)
    for suffix in ("png", "pdf"):
        first = (tmp_path / "first" / f"{name}.{suffix}").read_bytes()
        assert first == (tmp_path / "second" / f"{name}.{suffix}").read_bytes()
        assert len(first) > 3000
    assert matplotlib._pylab_helpers.Gcf.get_all_fig_managers() == []  # a pyplot figure would show twice


def test_every_figure_function_is_tested() -> None:
    functions = {name.removeprefix("figure_") for name in vars(figures) if name.startswith("figure_")}
    assert functions == set(BUILDERS)


def highlighted(figure: Figure) -> dict[str, list[str]]:
    """Words that stand on a highlight, by the status whose colour it has."""
    axis = figure.axes[0]
    found: dict[str, list[str]] = {status: [] for status in STATUS_COLOURS}
    colours = {to_hex(colour).lower(): status for status, colour in STATUS_COLOURS.items()}
    for patch in (patch for patch in axis.patches if isinstance(patch, Rectangle)):
        left, line, right = patch.get_x(), int(patch.get_y()), patch.get_x() + patch.get_width()
        status = colours[to_hex(patch.get_edgecolor())]
        found[status] += [
            text.get_text()
            for text in axis.texts
            if int(text.get_position()[1]) == line and left <= text.get_position()[0] < right
        ]
    return found


@pytest.mark.parametrize("columns", [24, 40, 88, 500])
def test_highlights_cover_exactly_the_phrases_whatever_the_line_breaks(columns: int) -> None:
    figure = figures.figure_report_evidence(REPORT, evidence_rows(), columns=columns)
    words = highlighted(figure)
    assert [word.strip(",.") for word in words["present"]] == ["small", "left", "apical", "pneumothorax"]
    assert words["absent"] == ["No", "pulmonary", "edema"]
    assert [word.strip(".") for word in words["uncertain"]] == ["Possible", "effusion"]
    assert " ".join(text.get_text() for text in figure.axes[0].texts).split() == REPORT.split()


@settings(deadline=None)
@given(text=st.text(alphabet="ab .\n", max_size=60), columns=st.integers(3, 20))
def test_wrapping_loses_no_character_and_keeps_offsets(text: str, columns: int) -> None:
    lines = figures.wrap(text, columns)
    assert all(len(line) <= columns for _, line in lines)
    assert all(text[offset : offset + len(line)] == line for offset, line in lines)
    assert "".join(line for _, line in lines).replace(" ", "").replace("\n", "") == "".join(text.split())


def test_evidence_counts_are_stacked_by_status() -> None:
    axis = BUILDERS["evidence_counts"]().axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    widths = {container.get_label(): [bar.get_width() for bar in container] for container in axis.containers}
    assert names == ["pneumothorax", "edema"]
    assert widths == {"present": [1, 0], "absent": [0, 1], "uncertain": [0, 1]}
    assert axis.get_xlabel() == "statements in reports"


def test_prototype_space_marks_kinds_and_pools_rare_observations() -> None:
    axis = BUILDERS["prototype_space"]().axes[0]
    sizes = {collection.get_label(): len(collection.get_offsets()) for collection in axis.collections}
    assert sizes == {"lesion token": 3, "edema": 2, "mass": 1, "nodule": 1, "prototype": 2}
    many = figures.figure_prototype_space(np.zeros((12, 2)), [f"o{n}" for n in range(12)], np.zeros((1, 2)))
    assert {c.get_label(): len(c.get_offsets()) for c in many.axes[0].collections}["other"] == 3


def test_prototype_usage_is_sorted_and_names_the_effective_number() -> None:
    axis = BUILDERS["prototype_usage"]().axes[0]
    assert [bar.get_height() for bar in axis.containers[0]] == [0.7, 0.2, 0.1]
    assert [bar.get_height() for bar in axis.containers[1]] == [0.3, 0.4, 0.3]  # in the order of the first group
    assert [label.get_text() for label in axis.get_xticklabels()] == ["b", "c", "a"]
    assert axis.containers[0].get_label() == "reports: 2.2 of 3 effective"  # exp of the entropy 0.802
    uniform = figures.figure_prototype_usage({"reports": np.full(4, 0.25)}).axes[0]
    assert uniform.containers[0].get_label() == "reports: 4.0 of 4 effective"


def test_propagation_steps_share_one_scale_and_count_what_was_reached() -> None:
    figure = BUILDERS["propagation_steps"]()
    heatmaps = [axis.images[0] for axis in figure.axes if axis.images]
    assert [image.get_clim() for image in heatmaps] == [(1e-4, 1.0)] * 2
    assert heatmaps[0].get_array().mask.sum() == 12  # never reached stays white
    line = next(axis for axis in figure.axes if axis.get_xlabel() == "propagation step").lines[0]
    assert line.get_ydata() == pytest.approx([4 / 16, 7 / 16])
    assert [axis.get_title() for axis in figure.axes[:2]] == ["seeds", "step 1"]


def test_relation_quality_starts_at_0_and_shows_chance() -> None:
    axis = BUILDERS["relation_quality"]().axes[0]
    assert axis.get_xlim()[0] == 0
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("p@1", "relations")
    assert [line.get_xdata()[0] for line in axis.lines if line.get_label() == "chance"] == [0.1]


def test_graph_degrees_name_the_largest_hub() -> None:
    figure = BUILDERS["graph_degrees"]()
    assert [axis.get_title() for axis in figure.axes] == ["images (largest 9)", "reports (largest 4)"]
    assert [sum(bar.get_height() for bar in axis.patches) for axis in figure.axes] == [3, 3]


def test_history_panels_follow_the_columns() -> None:
    figure = BUILDERS["loss_terms"]()
    drawn = {axis.get_title(): axis.lines[0].get_xydata().tolist() for axis in figure.axes if axis.lines}
    assert drawn == {"loss_ita": [[10, 2], [20, 1], [30, 0.5]], "loss_local": [[20, 0.7], [30, 0.4]]}
    assert [text.get_text() for text in figure.axes[0].texts] == ["pairs", "relations"]
    assert [axis.get_title() for axis in BUILDERS["monitors"]().axes] == ["monitor_usage"]
    assert figure.get_supxlabel() == "optimiser step"
    with pytest.raises(ValueError, match=r"history has no column that starts with 'monitor'; it has step, loss_ita"):
        figures.figure_monitors(history().drop(columns="monitor_usage"))
    with pytest.raises(ValueError, match=r"history has no column\(s\) \['loss_missing'\]"):
        figures.figure_loss_terms(history(), terms=["loss_missing"])


def test_phrase_grounding_has_fixed_scales_and_the_box_in_its_place() -> None:
    figure = BUILDERS["phrase_grounding"]()
    image, overlay = figure.axes[0].images
    assert image.get_clim() == (0, 1)
    assert overlay.get_clim() == (-1, 1)  # although the map stays within [-0.2, 0.3]
    np.testing.assert_array_equal(overlay.get_array().mask[:2], True)  # unseen is not coloured
    box = figure.axes[0].patches[0]
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (0.5, 1.5, 3, 4)  # pixel edges
    assert figure.axes[0].get_title() == "left nodule"
    assert labels(figure)[1] == ("", "cosine similarity")


def test_grounding_grid_gives_grad_cam_its_own_scale() -> None:
    figure = BUILDERS["grounding_grid"]()
    grid = figure.axes[:8]
    assert [axis.get_title() for axis in grid[:4]] == ["image and boxes", "CLIP", "LGDEA", "Grad-CAM"]
    assert [axis.images[-1].get_clim() for axis in grid[4:]] == [(0, 1), (-1, 1), (-1, 1), (0, 1)]
    assert [len(axis.patches) for axis in grid] == [2] * 8  # one box, drawn with an outline, in every panel
    assert {label for _, label in labels(figure)[8:]} == {"cosine similarity", "no cosine, in [0, 1]"}
    assert grid[4].get_ylabel() == "right effusion"


def test_metric_comparison_draws_intervals_chance_and_marks_published_numbers() -> None:
    auc, contrast = BUILDERS["metric_comparison"]().axes
    assert (auc.get_xlabel(), contrast.get_xlabel()) == ("AUC", "CNR")
    spans = [
        tuple(line.get_xdata()) for line in auc.lines if len(line.get_xdata()) == 2 and line.get_label() != "chance"
    ]
    assert spans == [(0.65, 0.75), (0.88, 0.92)]
    assert [line.get_xdata()[0] for line in auc.lines if line.get_label() == "chance"] == [0.5]
    names = [label.get_text() for label in auc.get_yticklabels()]
    assert names == ["CLIP", "LGDEA", "BioViL (published, not rerun)"]
    hollow = [line.get_xdata()[0] for line in contrast.lines if line.get_markerfacecolor() == "white"]
    assert hollow == [1.03]


def test_phantom_examples_hide_empty_panels() -> None:
    axes = BUILDERS["phantom_examples"]().axes
    assert [axis.get_title() for axis in axes] == [*"abcde", "", "", ""]
    assert [axis.axison for axis in axes] == [True] * 5 + [False] * 3
    assert {axis.images[0].get_clim() for axis in axes[:5]} == {(0, 1)}


def test_hero_shows_the_report_and_one_map_a_phrase() -> None:
    figure = BUILDERS["hero"]()
    assert highlighted(figure)["absent"] == ["No", "pulmonary", "edema"]
    assert [axis.get_title() for axis in figure.axes[1:3]] == ["left nodule", "right effusion"]
    assert [axis.images[-1].get_clim() for axis in figure.axes[1:3]] == [(-1, 1)] * 2
    assert figure.axes[3].get_ylabel() == "cosine similarity"


def test_caption_is_drawn() -> None:
    assert BUILDERS["metric_comparison"]().get_supxlabel() == "n=400"
    assert "study s1" in [text.get_text() for text in BUILDERS["report_evidence"]().texts]


def test_saved_files_carry_provenance_and_no_date(tmp_path: Path) -> None:
    png, pdf = save_figure(BUILDERS["phrase_grounding"](), tmp_path / "new" / "fig.v1", METADATA)
    assert (png.name, pdf.name) == ("fig.v1.png", "fig.v1.pdf")
    with Image.open(png) as image:
        assert METADATA.items() <= image.text.items()
        assert not any("time" in key.lower() or "date" in key.lower() for key in image.text)
    content = pdf.read_bytes()
    assert b"run=phantom-lgdea-0; commit=abc123; seed=0" in content
    assert b"CreationDate" not in content
    assert sorted(path.name for path in png.parent.iterdir()) == ["fig.v1.pdf", "fig.v1.png"]  # nothing temporary


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
    with pytest.raises(
        ValueError, match=r"save_figure fig: metadata must say run, commit and seed; \['seed'\] missing"
    ):
        save_figure(Figure(), tmp_path / "fig", {"run": "r", "commit": "c"})
