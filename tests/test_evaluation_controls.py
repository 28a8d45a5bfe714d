"""Controls of grounding: planted maps of which it is known what they saw."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from planted import PlantedWorld, config

from lgdea_core.crops import boxes_mask
from lgdea_core.data.corpus import Corpus, empty_table
from lgdea_core.evaluation import harness
from lgdea_core.evaluation.bootstrap import Bootstrap
from lgdea_core.evaluation.controls import GRID, box_priors, location_prior_map, other_images
from lgdea_core.evaluation.grounding import METRICS, score_maps
from lgdea_core.evaluation.one_pass import run_task

Corners = tuple[float, float, float, float]
SIDE = 32
CONTROLS = {f"{metric}_{control}" for metric in harness.GROUNDING_METRICS for control in ("blind", "swapped", "own")}
FEW = Bootstrap(resamples=20)


def corpus_of(boxes: Sequence[tuple[str, str, Corners]], films_a_patient: int = 1, side: int = SIDE) -> Corpus:
    """Study i with one box (phrase, finding, corners) on a film of its own; patients have so many films each."""
    ids = [f"s{number:02}" for number in range(len(boxes))]
    patients = [f"p{number // films_a_patient:02}" for number in range(len(boxes))]
    rows = [(i, i, *box[:2], *box[2], side, side, "test") for i, box in zip(ids, boxes, strict=True)]
    films = [(i, i, f"{i}.png", "PA", side, side) for i in ids]
    return Corpus(
        name="toy",
        root=Path(),
        studies=pd.DataFrame({"study_id": ids, "patient_id": patients, "split": "test", "report": "Text."}),
        images=pd.DataFrame(films, columns=list(empty_table("images").columns)),
        boxes=pd.DataFrame(rows, columns=list(empty_table("boxes").columns)),
    )


def scattered(films: int, seed: int = 0) -> list[tuple[str, str, Corners]]:
    """Boxes of two findings: one always at its place, give or take a pixel, the other anywhere."""
    rng, boxes = np.random.default_rng(seed), []
    for number in range(films):
        heart = number % 2 == 0
        left, top = (10 + rng.integers(2), 16 + rng.integers(2)) if heart else rng.integers(0, SIDE - 6, 2)
        width = 12 if heart else 6
        corners = tuple(map(float, (left, top, left + width, top + width)))
        boxes.append(("big heart", "cardiomegaly", corners) if heart else ("a nodule", "nodule", corners))
    return boxes


Planted = Callable[[int, str], np.ndarray]
Table = Callable[[Corpus, Planted], pd.DataFrame]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    """`phrase_grounding_table` by (metric, finding) of maps that are planted: a function of film number and phrase."""
    model, processor = PlantedWorld(6, seed=0).model(config("clip"))
    monkeypatch.setattr(harness, "MIN_POSITIVES", 2)

    def run(corpus: Corpus, planted: Planted) -> pd.DataFrame:
        numbers = {image: number for number, image in enumerate(corpus.images["image_id"])}

        def grids(_: object, __: object, asked: dict[str, list[str]], **___: object) -> Iterator[list]:
            yield from ()
            return {image: {phrase: planted(numbers[image], phrase) for phrase in asked[image]} for image in asked}

        monkeypatch.setattr(harness, "phrase_grids", grids)
        task = harness.phrase_grounding_table(model, processor, corpus, FEW, progress=False)
        return run_task(model, Mock(), task).set_index(["metric", "finding"])

    return run


def masks_of(corpus: Corpus, side: int = SIDE) -> list[np.ndarray]:
    corners = corpus.boxes[["x_min", "y_min", "x_max", "y_max"]].to_numpy(dtype=float)
    return [boxes_mask(box[None], side, side) for box in corners]


# ---- films swapped


@pytest.mark.parametrize(("films", "films_a_patient"), [(2, 1), (9, 1), (12, 3), (13, 6), (12, 6)])
def test_every_film_stands_in_for_one_of_another_patient(films: int, films_a_patient: int) -> None:
    corpus = corpus_of(scattered(films), films_a_patient)
    owner = corpus.studies.set_index("study_id")["patient_id"]
    found = [other_images(corpus, seed) for seed in range(5)]
    for others in found:
        assert set(others) == set(others.values()) == set(corpus.images["image_id"])
        assert all(owner[film] != owner[other] for film, other in others.items())
    if films > 2:
        assert any(others != found[0] for others in found)
    assert other_images(corpus, 0) == found[0]
    shuffled = replace(corpus, boxes=corpus.boxes.iloc[::-1])
    assert other_images(shuffled, 0) == found[0], "whatever the order of the rows"


def test_where_one_patient_has_most_films_none_stands_in() -> None:
    assert other_images(corpus_of(scattered(7), 4), 0) == {}
    assert other_images(corpus_of(scattered(3), 3), 0) == {}


def test_a_map_that_sees_no_film_scores_the_same_swapped(table: Table) -> None:
    rng = np.random.default_rng(0)
    of_phrase = {phrase: rng.normal(size=(8, 8)).astype(np.float32) for phrase in ("big heart", "a nodule")}
    found = table(corpus_of(scattered(30)), lambda _, phrase: of_phrase[phrase])
    assert set(found.index.get_level_values("finding")) == {"cardiomegaly", "nodule", "all", "macro"}
    values = ["estimate", "low", "high", "n", "patients", "positives"]
    for metric in harness.GROUNDING_METRICS:
        for finding in ("cardiomegaly", "nodule", "all", "macro"):
            assert found.loc[(f"{metric}_swapped", finding), values].equals(found.loc[(metric, finding), values])
    assert not found.loc["cnr_signed", "estimate"].equals(found.loc["cnr_signed_blind", "estimate"])


def test_a_map_that_sees_its_film_loses_what_it_saw_when_films_are_swapped(table: Table) -> None:
    corpus = corpus_of(scattered(30))
    masks, ramp = masks_of(corpus), np.linspace(0, 0.05, SIDE, dtype=np.float32)  # for CNR: a mask alone has no noise
    maps = [mask.astype(np.float32) + ramp for mask in masks]
    found = table(corpus, lambda film, _: maps[film])["estimate"]
    others = other_images(corpus, FEW.seed)
    numbers = {film: number for number, film in enumerate(corpus.images["image_id"])}
    slow = score_maps([maps[numbers[others[film]]] for film in numbers], masks, harness.GROUNDING_METRICS).mean()
    assert found["pointing", "all"] == 1
    assert found["miou_biovil_t", "all"] == pytest.approx(1)
    for metric in harness.GROUNDING_METRICS:
        assert found[f"{metric}_swapped", "all"] == pytest.approx(slow[metric])
        assert found[f"{metric}_swapped", "all"] < 0.5 * found[metric, "all"]


def test_the_other_films_map_is_laid_onto_the_own_film(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = corpus_of(scattered(6))
    wide = corpus.images["image_id"].isin(["s00", "s03"])
    shapes = corpus.images.assign(width=corpus.images["width"].mask(wide, 3 * SIDE))
    samples = []
    scores = harness._scores
    monkeypatch.setattr(
        harness, "_scores", lambda found, priors: scores((samples.append(s) or s for s in found), priors)
    )
    table(replace(corpus, images=shapes), lambda film, _: np.full((4, 4), film / 10, dtype=np.float32))
    others = other_images(corpus, FEW.seed)
    for number, sample in enumerate(samples):
        assert sample.swapped_map.shape == sample.mask.shape
        assert (np.isnan(sample.swapped_map) == np.isnan(sample.similarity_map)).all()
        assert np.nanmax(sample.similarity_map) == pytest.approx(number / 10)
        assert np.nanmax(sample.swapped_map) == pytest.approx(int(others[sample.study_id][1:]) / 10)
    assert {sample.mask.shape for sample in samples} == {(SIDE, SIDE), (SIDE, 3 * SIDE)}


# ---- image-blind


def test_a_blind_map_is_the_mean_mask_of_the_finding_over_the_other_half() -> None:
    corpus = corpus_of(scattered(20), side=GRID)
    priors, masks = box_priors(corpus), masks_of(corpus, GRID)
    assert sorted(pd.Series(priors.halves).value_counts()) == [10, 10]
    unseen = np.zeros((GRID, GRID), dtype=np.float32)
    unseen[:, :5] = np.nan
    for study, finding in zip(corpus.boxes["study_id"], corpus.boxes["finding"], strict=True):
        others = [
            mask
            for mask, other, what in zip(masks, corpus.boxes["study_id"], corpus.boxes["finding"], strict=True)
            if priors.halves[other] != priors.halves[study] and what == finding
        ]
        expected = np.where(np.isnan(unseen), np.nan, np.mean(others, axis=0))
        np.testing.assert_allclose(location_prior_map(priors, study, finding, unseen), expected, atol=1e-6)


def test_a_patients_own_boxes_do_not_reach_its_location_prior_map() -> None:
    corpus = corpus_of(scattered(20), films_a_patient=2)
    like = np.zeros((SIDE, SIDE), dtype=np.float32)
    before = box_priors(corpus)
    corners = ["x_min", "y_min", "x_max", "y_max"]
    moved = corpus.boxes.copy()
    wild = moved["study_id"].isin(["s00", "s01"])  # one patient: both of its films are covered by one box now
    moved.loc[wild, corners] = (0.0, 0.0, float(SIDE), float(SIDE))
    after = box_priors(replace(corpus, boxes=moved))
    assert before.halves == after.halves
    half, changed = before.halves["s00"], 0
    assert before.halves["s01"] == half, "a patient is in one half"
    for study, finding in zip(corpus.boxes["study_id"], corpus.boxes["finding"], strict=True):
        pair = [location_prior_map(priors, study, finding, like) for priors in (before, after)]
        if before.halves[study] == half:
            np.testing.assert_array_equal(*pair)
        else:
            assert (pair[1] > 0).all(), "the other half's maps have the wild box"
            changed += not np.array_equal(*pair)
    assert changed == sum(value != half for value in before.halves.values())


def test_a_finding_that_the_other_half_lacks_takes_the_mean_of_all_its_findings() -> None:
    boxes = scattered(12)
    boxes[3] = ("a mass", "mass", (0.0, 0.0, 9.0, 9.0))
    priors, like = box_priors(corpus_of(boxes, side=GRID)), np.zeros((GRID, GRID), dtype=np.float32)
    other = 1 - priors.halves["s03"]
    masks = [
        mask
        for number, mask in enumerate(masks_of(corpus_of(boxes, side=GRID), GRID))
        if priors.halves[f"s{number:02}"] == other
    ]
    np.testing.assert_allclose(location_prior_map(priors, "s03", "mass", like), np.mean(masks, axis=0), atol=1e-6)


def test_phrases_of_one_finding_on_a_film_are_one_mask() -> None:
    corpus = corpus_of([("left nodule", "nodule", (0.0, 0.0, 8.0, 8.0)), ("a nodule", "nodule", (0.0, 0.0, 8.0, 8.0))])
    second = corpus.boxes.assign(phrase="right nodule", x_min=24.0, x_max=32.0)
    priors = box_priors(replace(corpus, boxes=pd.concat([corpus.boxes, second])))
    found = location_prior_map(priors, "s00", "nodule", np.zeros((SIDE, SIDE), dtype=np.float32))
    assert (found[2, [2, 29]] == 1).all()
    assert found[2, 16] == 0


def test_the_places_of_a_finding_that_has_one_ground_it_blindly(table: Table) -> None:
    corpus = corpus_of(scattered(40))
    found = table(corpus, lambda *_: np.zeros((4, 4), dtype=np.float32))["estimate"]
    assert found["cnr_signed", "all"] == found["pointing", "all"] == 0
    assert found["pointing_blind", "cardiomegaly"] == 1
    assert found["miou_biovil_t_blind", "cardiomegaly"] > 0.7
    assert found["cnr_signed_blind", "nodule"] < 0.5 < found["cnr_signed_blind", "cardiomegaly"]


# ---- corpora that do not allow them


def test_a_corpus_of_one_finding_has_both_controls(table: Table) -> None:
    corpus = corpus_of(scattered(20)[::2])
    found = table(corpus, lambda film, _: np.eye(4, dtype=np.float32) * film)
    assert set(found.index.get_level_values("metric")) == {*METRICS, *CONTROLS}
    assert np.isfinite(found["estimate"]).all()


@pytest.mark.parametrize(
    ("films_a_patient", "there", "said"),
    [
        (6, set(), ("boxes of one patient only", "one patient has most images")),
        (4, {name for name in CONTROLS if name.endswith("_blind")}, ("one patient has most images",)),
        (3, CONTROLS, ()),
    ],
)
def test_a_control_the_patients_do_not_allow_has_no_rows_and_the_log_says_so(
    table: Table, caplog: pytest.LogCaptureFixture, films_a_patient: int, there: set[str], said: tuple[str, ...]
) -> None:
    with caplog.at_level("INFO", logger="lgdea"):
        found = table(corpus_of(scattered(6), films_a_patient), lambda film, _: np.eye(4, dtype=np.float32) * film)
    assert set(found.index.get_level_values("metric")) == {*METRICS, *there}
    assert len(caplog.records) == len(said)
    assert all(words in caplog.text for words in said)
