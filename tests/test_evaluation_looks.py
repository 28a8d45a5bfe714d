"""Does it look? Planted cheats are named, an honest model is not accused, and controls are what they say."""

import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import FINDINGS, LUNGS, SIDES, PlantedWorld

from lgdea_core.data.corpus import Corpus, empty_table
from lgdea_core.data.images import ImageStore
from lgdea_core.data.pairing import Pools
from lgdea_core.evaluation.looks import CHEATS, Exam, does_it_look, exam_of, outside, verdicts
from lgdea_core.runs.inputs import Inputs

STUDIES, SIDE, GRID = 120, 32, 8
BRIGHTER = 12
"""Grey levels by which each finding's images are brighter than those of the one before."""


@cache
def inputs() -> Inputs:
    """Images of one bright square, which says finding and side by its place; findings differ in exposure, too."""
    world = PlantedWorld(STUDIES, seed=5)
    kinds, sides = np.divmod(world.labels, len(SIDES))
    pixels = (world.images.numpy().astype(int) + BRIGHTER * kinds[:, None, None]).clip(0, 255).astype(np.uint8)
    ids = [f"s{number:03}" for number in range(STUDIES)]
    labels = [(i, name, float(name == FINDINGS[kind])) for i, kind in zip(ids, kinds, strict=True) for name in FINDINGS]
    boxes = [
        (
            i,
            i,
            f"{SIDES[s]} {FINDINGS[k]}",
            FINDINGS[k],
            18.0 - 16 * s,
            8.0 * k,
            30.0 - 16 * s,
            8.0 * k + 8,
            SIDE,
            SIDE,
            "",
        )
        for i, k, s in zip(ids, kinds, sides, strict=True)
    ]
    lungs = [(i, i, f"{side} lung", *box, SIDE, SIDE) for i in ids for side, box in LUNGS.items()]
    rows = {
        "images": [(i, i, f"{i}.png", "PA", SIDE, SIDE) for i in ids],
        "labels": labels,
        "boxes": boxes,
        "regions": lungs,
    }
    tables = {name: pd.DataFrame(own, columns=list(empty_table(name).columns)) for name, own in rows.items()}
    reports = [f"{report} Study {i}." for i, report in zip(ids, world.reports, strict=True)]
    studies = pd.DataFrame({"study_id": ids, "patient_id": ids, "split": "test", "report": reports})
    none = pd.DataFrame(columns=["image_id", "report_id"])
    return Inputs(
        corpus=Corpus(name="toy", root=Path(), studies=studies, **tables),
        store=ImageStore(pixels=pixels, image_ids=tuple(ids), excluded={}),
        pools=Pools(image_ids=(), report_ids=(), seed_pairs=none, hidden_pairs=none),
    )


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


PLANTED: dict[str, Callable[[np.ndarray], object]] = {
    "honest": lambda crops: (seen(crops), patches(crops)),
    "ignores the image": lambda crops: (np.ones((len(crops), 9)), np.ones((len(crops), GRID, GRID, 9))),
    "exposure": exposed,
    "places": lambda crops: (seen(crops), np.broadcast_to(PLACES, (len(crops), GRID, GRID, 9)) + 0.1),
}


@cache
def page(planted: str) -> pd.DataFrame:
    return does_it_look(outside(PLANTED[planted], texts, SIDE), exam(), resamples=100)


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


