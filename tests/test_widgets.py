import html
import re
from collections.abc import Callable
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
from test_figures import BUILDERS

from lgdea_core.config import RunConfig, replace_fields
from lgdea_core.figures import widgets
from lgdea_core.figures.style import Figure
from lgdea_core.figures.views import GroundingSample
from lgdea_core.figures.widgets import EvidenceSpace, SeedSpread
from lgdea_core.finding import Finding
from lgdea_core.graph import knn_affinity, propagation_trace, seed_matrix, symmetric_normalize
from lgdea_core.model import LGDEAModel, LGDEAProcessor, build_model

REPORTS = {"s1": "FINDINGS: Small left pleural effusion.", "s2": "FINDINGS: No pneumothorax."}


def parts(explorer: ipywidgets.VBox) -> tuple[list[ipywidgets.Widget], ipywidgets.Image]:
    """Controls and picture."""
    controls, _, picture = explorer.children
    return list(controls.children), picture


def changes(explorer: ipywidgets.VBox, control: int, value: object) -> bool:
    """Whether setting a control draws another picture; setting it back must draw the first again."""
    controls, picture = parts(explorer)
    before, first = controls[control].value, bytes(picture.value)
    assert first.startswith(b"\x89PNG")
    controls[control].value = value
    other = bytes(picture.value)
    controls[control].value = before
    assert bytes(picture.value) == first
    return other != first


@pytest.fixture(scope="module")
def space() -> EvidenceSpace:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(4, 2, 3))
    return EvidenceSpace(
        phrases=[f"phrase {number}" for number in range(5)],
        phrase_embeds=np.eye(3)[[0, 0, 1, 1, 2]],
        prototype_points=2 * np.eye(3),
        lesion_tokens=tokens / np.linalg.norm(tokens, axis=-1, keepdims=True),
        attention=np.full((4, 2, 2, 2), 0.25),
        crops=rng.random((4, 32, 32)),
    )


@pytest.fixture(scope="module")
def spread() -> SeedSpread:
    rng = np.random.default_rng(0)
    points = [rng.normal(size=(count, 6)) for count in (9, 8)]
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in points]
    image_propagator, report_propagator = (symmetric_normalize(knn_affinity(part, 2), 1.0) for part in unit)
    return SeedSpread(
        image_points=points[0][:, :2],
        report_points=points[1][:, :2],
        seed_pairs=np.array([[0, 0], [4, 5]]),
        image_propagator=image_propagator,
        report_propagator=report_propagator,
        alpha=0.7,
    )


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[LGDEAModel, LGDEAProcessor]]:
    config = RunConfig.from_preset("ci")
    torch.manual_seed(0)
    built = build_model(config, list(REPORTS.values()))
    return {"model": built, "baseline": build_model(replace_fields(config, method="clip"), list(REPORTS.values()))}


STUDIES = pd.DataFrame({"study_id": list(REPORTS), "report": list(REPORTS.values())})
ROWS = [("s1", 10, 38, "present"), ("s2", 10, 25, "absent")]
EVIDENCE = pd.DataFrame(ROWS, columns=["report_id", "start", "end", "status"])
HISTORY = pd.DataFrame(
    {"variant": ["model"] * 2 + ["baseline"] * 2, "step": [1, 2, 1, 2], "ita": [3.0, 2.0, 3.0, 2.5],
     "usage": [1.0, 1.5, np.nan, np.nan]}
)  # fmt: skip
NODULE = GroundingSample("s1", "nodule", np.zeros((64, 64), dtype=np.float32), [(4.0, 4.0, 9.0, 9.0)])


@pytest.mark.parametrize(
    ("make", "control", "value"),
    [
        (lambda space, spread: widgets.evidence_explorer(STUDIES, EVIDENCE, ["s1", "s2"]), 0, "s2"),
        (lambda space, spread: widgets.prototype_explorer(space, ["one", "two", "three"]), 0, 1),
        (lambda space, spread: widgets.propagation_explorer(spread), 0, 1),
        (lambda space, spread: widgets.propagation_explorer(spread), 1, 3),
        (lambda space, spread: widgets.history_explorer(HISTORY, ["ita", "usage"]), 0, "usage"),
        (lambda space, spread: widgets.history_explorer(HISTORY, ["ita", "usage"]), 1, ("baseline",)),
        (lambda space, spread: widgets.history_explorer(HISTORY, ["ita", "usage"]), 1, ()),  # drawn empty
    ],
    ids=["report", "prototype", "seed", "step", "term", "fewer variants", "no variant"],
)
def test_every_control_changes_the_picture(
    make: Callable[..., ipywidgets.VBox], control: int, value: object, space: EvidenceSpace, spread: SeedSpread
) -> None:
    assert changes(make(space, spread), control, value)


def form_parts(form: ipywidgets.VBox) -> tuple[ipywidgets.Textarea, ipywidgets.Button, bytes, str]:
    text, button, _, picture, table = form.children
    return text, button, bytes(picture.value), table.value


def test_a_pasted_report_shows_its_evidence_when_the_button_is_pressed() -> None:
    form = widgets.evidence_form()
    text, button, first, table = form_parts(form)
    assert first.startswith(b"\x89PNG")
    assert "cardiomegaly" in table  # the invented report it begins with
    text.value = REPORTS["s1"]
    assert form_parts(form)[2:] == (first, table)  # not before the button
    button.click()
    *_, picture, table = form_parts(form)
    assert picture != first
    for word in ("pleural effusion", "left", "mild", "present", "Small left pleural effusion"):
        assert f"<td>{word}</td>" in table
    assert "cardiomegaly" not in table
    assert not {"None", "NaN"} & set(re.findall(r"\w+", table))
    text.value = ""
    button.click()
    assert "<td>" not in form_parts(form)[3]


def test_the_form_reads_with_the_extractor_it_was_given() -> None:
    form = widgets.evidence_form("keywords", REPORTS["s2"])
    assert "<td>present</td>" in form_parts(form)[3]  # no sense of denial


LONG = f"<script>x</script> {'very ' * 30}small effusion"


@pytest.mark.parametrize(
    ("report", "phrase", "shown"),
    [(LONG, LONG, f"<td>{html.escape(LONG)}</td>"), ("Clear.", "mass", "")],
    ids=["whole and escaped", "dropped, for it is not in the text"],
)
def test_the_form_shows_only_what_was_pasted_and_runs_nothing_of_it(
    report: str, phrase: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Finding(observation="pleural effusion", status="present", phrase=phrase, start=0, end=len(phrase))
    reader = SimpleNamespace(extract=lambda reports: [[found] for _ in reports])
    monkeypatch.setattr(widgets, "make_extractor", lambda name: reader)
    table = form_parts(widgets.evidence_form("any", report))[3]
    assert shown in table
    assert ("<td>" in table) == bool(shown)
    assert "<script>" not in table


def test_two_extractors_of_one_report_stand_side_by_side() -> None:
    figure = widgets.draw_extractors(STUDIES, {"lexicon": EVIDENCE, "none": EVIDENCE.iloc[:0]}, "s2")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["lexicon: 1 statements", "none: 0 statements"]
    assert "pneumothorax." in [text.get_text() for text in figure.axes[0].texts]  # s2's own report
    assert "study s2" in [text.get_text() for text in figure.texts]


def test_a_prototypes_nearest_phrases_come_first(space: EvidenceSpace) -> None:
    controls, _ = parts(widgets.prototype_explorer(space, ["one", "two", "three"]))
    assert [label for label, _ in controls[0].options] == ["0: one", "1: two", "2: three"]
    figure = widgets.draw_prototype(space, 1)
    axis = figure.subfigs[0].axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names[:2] == ["phrase 2", "phrase 3"]
    assert [bar.get_width() for bar in axis.patches[:2]] == pytest.approx([1.0, 1.0])  # cosine: a prototype's norm is 2


def test_a_block_of_the_walk_is_the_same_as_the_whole_one(spread: SeedSpread) -> None:
    seeds = seed_matrix(spread.seed_pairs, 9, 8, np.float64)
    trace = propagation_trace(
        seeds, spread.image_propagator, spread.report_propagator, alpha=spread.alpha, steps=widgets.LONGEST_WALK
    )
    images, reports = np.array([0, 3, 8]), np.array([5, 1])
    for block, whole in zip(spread.block(images, reports), trace, strict=True):
        np.testing.assert_allclose(block, whole.toarray()[np.ix_(images, reports)], rtol=0, atol=1e-12)


def test_one_seeds_shares_are_the_margins_of_its_own_propagation(spread: SeedSpread) -> None:
    seed = seed_matrix(spread.seed_pairs[[1]], 9, 8, np.float64)
    trace = propagation_trace(
        seed, spread.image_propagator, spread.report_propagator, alpha=spread.alpha, steps=widgets.LONGEST_WALK
    )
    for (images, reports), whole in zip(spread.walk(1), trace, strict=True):
        np.testing.assert_allclose(images, whole.sum(axis=1) / whole.sum(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(reports, whole.sum(axis=0) / whole.sum(), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_study_phrase_and_overlay_change_the_map(models: dict[str, tuple[LGDEAModel, LGDEAProcessor]]) -> None:
    film = np.random.default_rng(0).random((64, 80)).astype(np.float32)
    samples = [NODULE._replace(film=film), GroundingSample("s2", "pneumothorax", film[:, :64], [])]
    explorer = widgets.grounding_explorer(models, samples)
    controls, _ = parts(explorer)
    overlays = {"LGDEA": "model", "CLIP": "baseline", "through the prototypes": "prototypes", "Grad-CAM": "Grad-CAM"}
    assert dict(controls[2].options) == overlays
    assert changes(explorer, 0, 1)
    assert changes(explorer, 1, "small left pneumothorax")
    assert changes(explorer, 2, "prototypes")
    controls[0].value = 1
    assert controls[1].value == "pneumothorax"  # the study brings its own phrase
    controls, _ = parts(widgets.grounding_explorer({"model": models["model"]}, samples))
    assert "baseline" not in dict(controls[2].options).values()


def test_boxes_are_drawn_for_the_annotated_phrase_only(models: dict[str, tuple[LGDEAModel, LGDEAProcessor]]) -> None:
    own = NODULE._replace(phrase="effusion")
    drawn = [widgets.draw_overlay(models, own, phrase, "model") for phrase in ("effusion", "pneumothorax")]
    assert [len(figure.axes[1].patches) > 0 for figure in drawn] == [True, False]


def test_a_phrase_that_means_nothing_to_the_model_is_said_to_and_keeps_the_last_map(
    models: dict[str, tuple[LGDEAModel, LGDEAProcessor]],
) -> None:
    explorer = widgets.grounding_explorer(models, [NODULE._replace(phrase="pneumothorax")])
    controls, picture = parts(explorer)
    before = bytes(picture.value)
    for phrase, said in (
        ("  ", "The phrase is empty: write what to look for."),
        ("zzz <qqq>", "The model has never read 'zzz' and 'qqq': a map would mean nothing."),
    ):
        controls[1].value = phrase
        assert explorer.children[1].value == said
        assert isinstance(explorer.children[1], ipywidgets.Label)  # text, whatever was typed
        assert bytes(picture.value) == before
    controls[1].value = "pneumothorax, zzz"
    assert explorer.children[1].value == ""
    assert bytes(picture.value) != before
    figure = widgets.draw_overlay(models, NODULE, "pneumothorax, zzz", "model")
    assert figure.get_supxlabel() == "study s1; never read by the model: zzz"


def test_an_explorer_says_when_it_is_busy_and_outlives_a_failure() -> None:
    seen = []

    def draw(number: int) -> Figure:
        seen.append(explorer.children[1].value if number else "")
        if number == 2:
            raise KeyError("no such thing")
        return BUILDERS["phrase_grounding"]()

    explorer = widgets._explorer(draw, number=ipywidgets.IntSlider(value=0, max=3))
    controls, picture = parts(explorer)
    first = bytes(picture.value)
    for value, said in ((2, "KeyError: 'no such thing'"), (1, "")):
        controls[0].value = value
        assert explorer.children[1].value == said
        assert bytes(picture.value) == first
    assert seen == ["", "computing …", "computing …"]
    assert (picture.layout.width, picture.layout.align_self) == ("336px", "flex-start")  # 89 mm, and never stretched
