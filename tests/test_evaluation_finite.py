"""Scores that are no numbers: every metric refuses them, for every order of them is as good as any."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import PlantedWorld, config
from torch import nn

from lgdea_core.evaluation.bootstrap import Bootstrap
from lgdea_core.evaluation.classification import (
    best_f1_threshold,
    classification_table,
    validation_thresholds,
    whole_set_rows,
)
from lgdea_core.evaluation.grounding import score_maps
from lgdea_core.evaluation.prompts import load_prompt_set
from lgdea_core.evaluation.regions import retrieval_hits
from lgdea_core.evaluation.retrieval import nearest, retrieval_ranks
from lgdea_core.evaluation.supervised import Examples, Schedule, fit
from lgdea_core.evaluation.zero_shot import combine_channels, prompt_scores
from lgdea_core.grounding import ground
from lgdea_core.training.loop import check_batch, train

ROWS = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
LABELS = (np.random.default_rng(1).random((40, 6)) < 0.5).astype(float)
ONE_EACH = np.eye(6)[np.arange(40) % 6]
NAMES, PATIENTS = [f"f{place}" for place in range(6)], [f"p{row}" for row in range(40)]
DRAWS = Bootstrap(resamples=20)
MEASURES: dict[str, Callable[[np.ndarray], object]] = {
    "nearest, queries": lambda rows: nearest(rows, ROWS, 3),
    "nearest, candidates": lambda rows: nearest(ROWS, rows, 3),
    "ranks, images": lambda rows: retrieval_ranks(rows, ROWS, PATIENTS, PATIENTS),
    "ranks, reports": lambda rows: retrieval_ranks(ROWS, rows, PATIENTS, PATIENTS),
    "classification": lambda rows: classification_table(rows, LABELS, NAMES, PATIENTS, DRAWS, min_positives=2),
    "few positives": lambda rows: classification_table(rows, LABELS, NAMES, PATIENTS, DRAWS, min_positives=39),
    "thresholds": lambda rows: validation_thresholds(rows, LABELS, NAMES),
    "threshold": lambda rows: best_f1_threshold(LABELS[:, 2], rows[:, 2]),
    "argmax": lambda rows: whole_set_rows(rows, ONE_EACH, NAMES, PATIENTS, DRAWS),
    "prompts": lambda rows: prompt_scores(rows, [slice(0, 3)], [slice(3, 6)], "max_score", "difference"),
    "channels": lambda rows: combine_channels({"global": rows, "local": ROWS}, load_prompt_set()),
    "regions": lambda rows: retrieval_hits(rows, ONE_EACH.astype(bool)),
    "maps": lambda rows: score_maps([np.where(np.isfinite(rows), rows, rows.max()) * np.nan], [ONE_EACH > 0]),
    "mean": lambda rows: DRAWS.mean(np.where(np.isnan(rows[:, 2]), np.inf, rows[:, 2]), PATIENTS),
    "median": lambda rows: DRAWS.median(np.where(np.isnan(rows[:, 2]), np.inf, rows[:, 2]), PATIENTS),
}
"""name -> a metric of scores"""


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_no_metric_takes_a_score_that_is_not_finite(name: str, wrong: float) -> None:
    if name not in ("maps", "mean", "median"):
        MEASURES[name](ROWS)
    rows = ROWS.copy()
    rows[7, 2] = wrong
    with pytest.raises(ValueError, match=r"not finite|NaN everywhere"):
        MEASURES[name](rows)


def test_a_map_of_weights_that_are_no_numbers_is_refused() -> None:
    model, processor = PlantedWorld(8).model(config("clip"))
    with torch.no_grad():
        model.text_tower.head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="similarities of phrases and patches are not finite"):
        ground(model, processor, np.zeros((32, 32), dtype=np.float32), "edema")


def test_an_interval_that_is_none_says_so() -> None:
    several = DRAWS.mean([0.0, 1.0, 1.0], ["a", "b", "c"])
    assert several.warning == ""
    assert "one patient" in DRAWS.mean([0.0, 1.0, 1.0], ["a", "a", "a"]).warning
    assert "one patient" in DRAWS.median([0.0, 1.0, np.nan], ["a", "a", "b"]).warning
    rare = DRAWS.macro_mean([0.0, 1.0, 1.0, 1.0], ["x", "y", "y", "y"], list("abcd"))
    assert rare.degenerate > 2
    assert rare.warning == f"undefined in {rare.degenerate} of 20 resamples"
    labels = np.zeros((40, 1))
    labels[3] = 1
    table = classification_table(ROWS[:, :1], labels, ["rare"], PATIENTS, DRAWS, min_positives=1)
    assert table["warning"].str.startswith("undefined in").all()


def test_one_known_pair_is_enough_to_train_on(tmp_path: Path) -> None:
    world, run = PlantedWorld(6), config("clip", text_steps=0, pair_steps=2, relation_steps=0)
    model, processor = world.model(run)
    state, _ = train(run, world.training(1, processor.tokenizer), model, tmp_path, progress=False)
    assert state.step == 2


def test_batches_of_one_image_end_in_our_own_words() -> None:
    with pytest.raises(ValueError, match="batch_size 16 over 9 processes: each needs at least two images"):
        check_batch(config("clip"), 9)
    check_batch(config("clip"), 8)
    images = Examples(torch.zeros(5, 3), torch.zeros(5, 1))
    with pytest.raises(ValueError, match=r"a batch of one image \(5 images in batches of 4\)"):
        fit(
            nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)), images, images, nn.functional.mse_loss,
            Schedule(learning_rate=0.1, weight_decay=0.0, batch_size=4), seed=0,
        )  # fmt: skip
