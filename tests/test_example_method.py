"""The worked example of the documentation: a method in a file of its own trains, saves, loads and evaluates."""

from pathlib import Path

import numpy as np
import pytest
import torch
from example_method import ExampleConfig
from planted import STATEMENTS, PlantedWorld, config, setting, terms_of, told_apart

from lgdea_core.config import METHODS, RunConfig
from lgdea_core.evaluation.zero_shot import zero_shot_scores
from lgdea_core.grounding import ground, load


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "example", "example_method")


def test_its_term_follows_the_equation() -> None:
    model, _, batch = setting("example")
    images = model.encode_images(batch.pixel_values).image_embeds
    reports = model.encode_texts(batch.report_tokens[: batch.pairs], batch.report_mask[: batch.pairs])
    bias = model.bias.weight.item()
    total = 0.0
    for image in range(batch.pairs):
        for report in range(batch.pairs):
            logit = (model.logit_scale * images[image] @ reports[report]).item() + bias
            total += np.log1p(np.exp(-logit if image == report else logit)) / batch.pairs
    assert terms_of(model, batch)["pair"].item() == pytest.approx(total, rel=1e-4)


@pytest.mark.slow
def test_it_trains_saves_loads_and_is_evaluated_like_any_other(tmp_path: Path) -> None:
    steps = {"text_steps": 0, "pair_steps": 100, "relation_steps": 0, "checkpoint_every": 1000, "log_every": 1000}
    run = config("example", **steps, batch_size=32, learning_rate=4e-3)
    run.save(tmp_path / "run_config.json")
    assert RunConfig.load(tmp_path / "run_config.json") == run
    assert isinstance(run.objective, ExampleConfig)
    model, processor, history = PlantedWorld(160).train(run, 160, tmp_path / "training")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    again, its_processor = load(tmp_path / "model")
    best, labels = told_apart(
        again, its_processor, [f"There is a {text}. The bones are intact." for text in STATEMENTS]
    )
    assert (best == labels).mean() > 0.8  # 8 distinct reports: chance is 0.125, as shuffled pairs show in test_methods
    assert history["pair"].iloc[-1] < history["pair"].iloc[0]
    assert torch.equal(again.bias.weight, model.bias.weight)
    images = PlantedWorld(3, seed=1).images
    assert set(zero_shot_scores(again, its_processor, images, ["mass"])) == {"global"}
    assert ground(again, its_processor, images[0].numpy() / np.float32(255), "left mass").shape == (32, 32)
