"""Does it look? Planted cheats are named, an honest model is not accused, and controls are what they say."""

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from planted import FINDINGS, SIDES, PlantedWorld, config, planted_inputs

from lgdea_core.evaluation.exam import ALTERED, CONTROLS, NEGATIONS, Answers, Exam, asked_of, exam_of, shuffled_tiles
from lgdea_core.evaluation.harness import evaluate
from lgdea_core.evaluation.looks import CHEATS, does_it_look, verdicts
from lgdea_core.evaluation.outside import outside
from lgdea_core.evaluation.prompts import load_prompt_set, prompt_set_names
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.runs.inputs import Inputs

STUDIES, SIDE, GRID = 64, 32, 8
BRIGHTER = 12
"""Grey levels by which each finding's images are brighter than those of the one before."""


@cache
def inputs() -> Inputs:
    """Images of one bright square, which says finding and side by its place; findings differ in exposure, too."""
    world = PlantedWorld(STUDIES, seed=5)
    kinds = torch.from_numpy(world.labels // len(SIDES))
    world.images = (world.images.int() + BRIGHTER * kinds[:, None, None]).clamp(0, 255).to(torch.uint8)
    names = [f"s{number:03}" for number in range(STUDIES)]
    world.reports = [f"{report} Study {name}." for name, report in zip(names, world.reports, strict=True)]
    return planted_inputs(world, names=names)


@cache
def exam() -> Exam:
    return exam_of(inputs())


def texts(said: list[str]) -> np.ndarray:
    """Finding and side that a text names, less where it denies them, and a little of its own."""
    found = np.zeros((len(said), 9))
    for row, text in zip(found, said, strict=True):
        sign = -1 if {"no", "not", "without"} & set(text.lower().split()) else 1
        for (kind, name), (side, word) in itertools.product(enumerate(FINDINGS), enumerate(SIDES)):
            row[2 * kind + side] = (
                sign * (name in text) * (1.0 if word in text else 0.5 if SIDES[1 - side] not in text else 0)
            )
        row[8] = 0.05 * np.random.default_rng(list(text.encode())).normal()
    return found


def seen(crops: np.ndarray) -> np.ndarray:
    """What an honest model sees: how far each of the eight cells is brighter than the rest of its image."""
    cells = crops.reshape(-1, 4, 8, 2, 16).astype(float).max(axis=(2, 4))[:, :, ::-1]  # the left side is on the right
    bright = (cells - np.median(crops, axis=(1, 2))[:, None, None] - 60).clip(0).reshape(-1, 8)
    return np.pad(bright, ((0, 0), (0, 1)), constant_values=1e-3)


PLACES = np.zeros((GRID, GRID, 9))
for at, (cell, half) in enumerate(itertools.product(range(4), range(2))):
    PLACES[2 * cell : 2 * cell + 2, (4, 0)[half] : (8, 4)[half], at] = 1


def patches(crops: np.ndarray) -> np.ndarray:
    """Bright patches say what a finding at their place is; others say nothing."""
    tiles = crops.reshape(-1, GRID, SIDE // GRID, GRID, SIDE // GRID).mean(axis=(2, 4))
    bright = tiles > np.median(tiles, axis=(1, 2))[:, None, None] + 40
    return np.where(bright[..., None], PLACES, np.eye(9)[8])


def exposed(crops: np.ndarray) -> np.ndarray:
    """The finding whose images have such a mean grey level, on both sides alike."""
    typical = 93 + BRIGHTER * np.arange(4)
    near = np.exp(-0.02 * np.square(crops.mean(axis=(1, 2))[:, None] - typical))
    return np.pad(np.repeat(near, 2, axis=1), ((0, 0), (0, 1)), constant_values=0.1)


class Random(NamedTuple):
    """A model of random weights, its page, and the answers it is made of."""

    model: LGDEAModel
    processor: LGDEAProcessor
    page: pd.DataFrame
    answers: dict[str, Answers]


@pytest.fixture(scope="module")
def random_weights() -> Random:
    model, processor = PlantedWorld(6, seed=0).model(config("clip"))
    answers = asked_of(model, processor, exam())
    return Random(model, processor, does_it_look(answers, exam(), resamples=50), answers)


PLANTED: dict[str, Callable[[np.ndarray], object]] = {
    "honest": lambda crops: (seen(crops), patches(crops)),
    "ignores the image": lambda crops: (np.ones((len(crops), 9)), np.ones((len(crops), GRID, GRID, 9))),
    "exposure": exposed,
    "places": lambda crops: (seen(crops), np.broadcast_to(PLACES, (len(crops), GRID, GRID, 9)) + 0.1),
}


@cache
def page(planted: str) -> pd.DataFrame:
    return does_it_look(outside(PLANTED[planted], texts, SIDE), exam(), resamples=50)


def cell(table: pd.DataFrame, task: str, metric: str, control: str) -> pd.Series:
    [row] = table[(table["task"] == task) & (table["metric"] == metric) & (table["control"] == control)].to_dict(
        "records"
    )
    return pd.Series(row)


def named(table: pd.DataFrame) -> dict[str, str]:
    """Cheats that a page names, and in which words."""
    tasks = ("zero-shot", "retrieval", "grounding")
    return {
        verdict.name: verdict.sentence for verdict in verdicts(table) if verdict.found and verdict.name not in tasks
    }


# ---- cheats


@pytest.mark.parametrize("cheat", [name for name in PLANTED if name != "honest"])
def test_every_planted_cheat_is_named_and_nothing_else(cheat: str) -> None:
    assert list(named(page(cheat))) == [cheat]


def test_an_honest_model_is_accused_of_nothing_and_said_to_look_in_every_task() -> None:
    assert named(page("honest")) == {}
    said = {verdict.name: verdict for verdict in verdicts(page("honest"))}
    assert list(said) == ["zero-shot", "retrieval", "grounding", "ignores the image", *CHEATS, "negation", "wording"]
    for task in ("zero-shot", "retrieval", "grounding"):
        assert said[task].found
        assert "needs no look" in said[task].sentence
    assert cell(page("honest"), "zero-shot", "auc", "image")["estimate"] > 0.95
    assert cell(page("honest"), "zero-shot", "auc", "negated")["estimate"] < 0.05
    assert cell(page("honest"), "zero-shot", "auc", "reworded")["beyond_high"] < 0.05


# ---- what a page says


def test_the_scores_on_the_images_are_those_of_the_evaluation(random_weights: Random) -> None:
    model, processor, table, _ = random_weights
    measured = evaluate(model, processor, inputs(), resamples=20, progress=False)
    for task, metric, finding in (
        ("zero-shot", "auc", "macro"),
        ("retrieval", "recall_at_10", "all"),
        ("retrieval", "precision_at_5", "all"),
        ("grounding", "cnr_signed", "macro"),
        ("grounding", "pointing", "macro"),
    ):
        rows = measured[(measured["task"] == task) & (measured["finding"] == finding)].set_index("metric")["estimate"]
        assert cell(table, task, metric, "image")["estimate"] == pytest.approx(rows[metric], abs=2e-3)
        if task == "grounding":
            found = cell(table, task, metric, "cross_patient")
            assert found["estimate"] == pytest.approx(rows[f"{metric}_swapped"], abs=2e-3)
            assert found["beyond"] == pytest.approx(rows[f"{metric}_own"], abs=2e-3)
            assert cell(table, task, metric, "location_prior")["estimate"] == pytest.approx(rows[f"{metric}_blind"])


def test_random_weights_are_at_chance_wherever_they_must_be_and_accused_of_nothing(random_weights: Random) -> None:
    table = random_weights.page
    assert set(table["control"]) == set(CONTROLS)
    assert named(table) == {}
    found = cell(table, "zero-shot", "auc", "mean_image")
    assert (found["estimate"], found["low"], found["high"]) == (0.5, 0.5, 0.5)
    found = cell(table, "zero-shot", "auc", "cross_patient")
    assert found["low"] <= 0.5 <= found["high"]
    exposed = cell(table, "zero-shot", "auc", "exposure")  # it standardises each image, so one grey is like another
    assert (exposed["estimate"], exposed["low"], exposed["high"]) == (0.5, 0.5, 0.5)
    assert np.isnan(cell(table, "zero-shot", "auc", "image")["share"])
    for control in ("mean_image", "cross_patient"):
        found = cell(table, "retrieval", "recall_at_10", control)
        assert found["low"] <= found["chance"]  # ties of the texts count against it
    assert 0 < cell(table, "retrieval", "image_share", "image")["estimate"] <= 1


def test_arrays_from_elsewhere_get_the_page_of_the_model_that_made_them(random_weights: Random) -> None:
    *_, table, answers = random_weights
    few = {name: answers[name] for name in ("image", "mean_image")}
    found = does_it_look(few, exam(), resamples=50)
    derived = {"cross_patient", "finding_swapped", "location_prior", "commonest"}
    assert set(found["control"]) == {*few, *derived}
    key = ["task", "metric", "control"]
    pd.testing.assert_frame_equal(found.set_index(key), table.set_index(key).loc[found.set_index(key).index])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"image": Answers(), "flipped": Answers()}, "answers to flipped, which is no control"),
        ({"mean_image": Answers()}, "no answers on the images themselves"),
        ({"image": Answers(scores=np.zeros((3, 4)))}, "expected scores of 64 rows, got shape (3, 4)"),
        ({"image": Answers(scores=np.zeros((STUDIES, 3)))}, "expected scores of 4 findings, got 3"),
        ({"image": Answers(image_rows=np.zeros((2, 3)))}, "expected image_rows of 64 rows, got shape (2, 3)"),
    ],
)
def test_answers_to_another_exam_are_refused(answers: dict[str, Answers], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        does_it_look(answers, exam())


@pytest.mark.parametrize(
    ("images", "said", "message"),
    [
        (seen, lambda t: np.zeros((len(t), 3)), "images are embedded in 9 dimensions, texts in 3"),
        (lambda crops: np.zeros(9), texts, "expected one embedding of each of 1 images, got (9,)"),
        (lambda crops: (seen(crops), np.zeros((1, 4, 9))), texts, "expected patches (images, grid, grid, 9)"),
        (seen, lambda t: np.zeros(9), "expected one embedding of each of 1 texts, got (9,)"),
    ],
)
def test_functions_that_do_not_fit_are_refused(images: Callable, said: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        outside(images, said, SIDE)


# ---- what the controls show and say


def test_each_control_keeps_what_it_says_and_nothing_else() -> None:
    image = exam().film("image", "s000")
    found = {control: exam().film(control, "s000") for control in ALTERED}
    for control, film in found.items():
        assert film.shape == image.shape
        assert not np.array_equal(film, image)
        np.testing.assert_array_equal(film, exam().film(control, "s000"), "the same picture every time")
    assert found["exposure"].mean() == pytest.approx(image.mean(), abs=1)
    another = exam().film("exposure", "s001").astype(int)
    assert np.ptp(another - found["exposure"]) == 0, "the same grain in all"
    assert found["spectrum_noise"].mean() == pytest.approx(image.mean(), abs=1)
    assert found["spectrum_noise"].std() == pytest.approx(image.std(), rel=0.1)
    assert abs(np.corrcoef(found["spectrum_noise"].ravel(), image.ravel())[0, 1]) < 0.3
    np.testing.assert_array_equal(np.sort(found["patches_shuffled"], axis=None), np.sort(image, axis=None))
    np.testing.assert_array_equal(found["mean_image"], exam().film("mean_image", "s001"))
    np.testing.assert_allclose(found["mean_image"], inputs().store.pixels.mean(axis=0), atol=0.51)
    assert not np.array_equal(exam().film("patches_shuffled", "s001"), found["patches_shuffled"])


def test_what_does_not_fill_a_tile_stays_where_it_is() -> None:
    image = np.arange(35 * 35, dtype=np.uint16).reshape(35, 35).astype(np.uint8)
    shuffled = shuffled_tiles(image, np.random.default_rng(0))
    np.testing.assert_array_equal(shuffled[32:], image[32:])
    np.testing.assert_array_equal(shuffled[:, 32:], image[:, 32:])
    tiles = {image[r : r + 4, c : c + 4].tobytes() for r in range(0, 32, 4) for c in range(0, 32, 4)}
    assert tiles == {shuffled[r : r + 4, c : c + 4].tobytes() for r in range(0, 32, 4) for c in range(0, 32, 4)}


def test_lungs_are_those_of_the_corpus_or_a_box_that_the_page_names() -> None:
    corpus = inputs().corpus
    boxes = corpus.regions.assign(x_min=lambda rows: rows["x_min"] + 4.0)
    known = boxes[boxes["image_id"].isin(["s000", "s001"]) & (boxes["region"] == "left lung")]
    some = exam_of(replace(inputs(), corpus=replace(corpus, regions=known)))
    image, film = some.film("image", "s000"), some.film("lungs_blanked", "s000")
    np.testing.assert_array_equal(film[:, :20], image[:, :20])
    assert set(np.unique(film[:, 20:])) == {round(image[:, :20].mean())}
    changed = some.film("lungs_blanked", "s005") != some.film("image", "s005")
    assert changed[4:27, 2:30].mean() > 0.9
    assert not changed[:3].any()
    assert "2 images: the corpus's boxes of the lungs; 62 images: no outline of the lungs: a fixed box" in some.blanked
    assert "fixed box" not in exam().blanked
    assert cell(page("places"), "zero-shot", "auc", "lungs_blanked")["note"] == exam().blanked


@pytest.mark.parametrize("name", prompt_set_names())
def test_every_prompt_set_can_be_reworded_and_negated(name: str) -> None:
    findings = [finding for finding in ("pneumonia", "edema", "nodule") if load_prompt_set(name).covers(finding)]
    asked = replace(exam(), prompts=load_prompt_set(name), findings=tuple(findings))
    for finding in findings:
        own, other = (asked.asked(control).texts(finding) for control in ("image", "reworded"))
        assert not set(own.positive) & set(other.positive)
        assert 0 < len(other.positive) <= len(own.positive)
        assert bool(other.negative) == bool(own.negative)
        denials = asked.asked("negated").texts(finding)
        assert denials.positive == (own.negative or tuple(text.format(finding) for text in NEGATIONS))
    assert set(asked.asked("negated").channels.values()) == {"none"}


def test_a_phrase_is_swapped_for_one_of_a_finding_that_the_image_lacks() -> None:
    finding = exam().phrases.set_index("phrase")["finding"].to_dict()
    for row in exam().phrases.to_dict("records"):
        swapped = exam().said("finding_swapped", row["image_id"], row["phrase"])
        assert finding[swapped] != row["finding"]
    one = replace(inputs(), corpus=replace(inputs().corpus, boxes=inputs().corpus.boxes.iloc[:1]))
    assert exam_of(one).said("finding_swapped", exam().phrases["image_id"].iloc[0], "left mass") is None


def test_the_docs_define_every_control_and_verdict() -> None:
    text = (Path(__file__).parents[1] / "docs/controls.md").read_text()
    assert [name for name in CONTROLS if f"| `{name}` |" not in text] == []
    assert [name for name in (*CHEATS, "negation", "wording", "ignores the image") if f"| {name} |" not in text] == []
