"""The model in the box: what made it, that it grounds, and that nothing takes it in place of another without a word."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgdea_core import load
from lgdea_core.config import RunConfig
from lgdea_core.crops import boxes_mask
from lgdea_core.data.images import read_image
from lgdea_core.data.phantom import PhantomConfig, generate_study
from lgdea_core.evaluation.grounding import cnr_signed, split_pixels
from lgdea_core.experiments.box import PROVENANCE_FILE, SEED, box_config
from lgdea_core.figures import overlay
from lgdea_core.grounding import BOX, BOX_SAYS, ground
from lgdea_core.paths import checksum, read_json
from lgdea_core.runs import notebook
from lgdea_core.runs.artifacts import start_run

LARGEST = 8_000_000
"""Bytes of the whole folder."""


def test_the_folder_is_small_and_what_its_command_made() -> None:
    made = read_json(BOX / PROVENANCE_FILE)
    files = [path for path in BOX.iterdir() if path.name != PROVENANCE_FILE]
    assert made["files"] == {path.name: checksum(path) for path in files}
    assert sum(path.stat().st_size for path in BOX.iterdir()) <= LARGEST
    assert RunConfig.load(BOX / "run_config.json") == box_config()
    assert len(made["training"]["code"]) == 40, "made by committed code"


def test_it_looks_at_images_that_it_has_not_seen() -> None:
    """The true phrase of an image beside the same phrase on the next image: only what lies between was read from it."""
    model, processor = load(device="cpu")
    assert (model.config.method, model.config.image_size) == ("lgdea", box_config().data.image_size)
    world = PhantomConfig(seed=SEED + 1, image_size=model.config.image_size, findings=("pneumothorax", "nodule"))
    studies = [generate_study(world, number) for number in range(30)]
    films = [study.image.astype(np.float32) / 255 for study in studies]
    own, another = [], []
    for number, study in enumerate(studies):
        if not len(study.phrases):
            continue
        mask = boxes_mask(study.boxes_xyxy[:1], *study.image.shape)
        for scores, film in ((own, films[number]), (another, films[number - 1])):
            scores.append(cnr_signed(*split_pixels(ground(model, processor, film, study.phrases[0]), mask)))
    assert len(own) > 5
    assert np.mean(own) > 0.5
    assert np.mean(own) > np.mean(another) + 0.3


def test_the_command_without_a_model_takes_it_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    film = tmp_path / "film.png"
    Image.fromarray(generate_study(PhantomConfig(), 3).image).save(film)
    with caplog.at_level(logging.INFO, logger="lgdea"):
        overlay.main([str(film), "small left pleural effusion", "--output", str(tmp_path), "--device", "cpu"])
    assert BOX_SAYS in caplog.text
    written = np.load(tmp_path / "film_small_left_pleural_effusion.npy")
    np.testing.assert_allclose(written, ground(*load(device="cpu"), read_image(film), "small left pleural effusion"))
    with Image.open(tmp_path / "film_small_left_pleural_effusion.png") as picture:
        assert picture.text["run"] == "box"


def test_a_notebook_takes_it_where_a_run_has_no_model_in_a_run_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LGDEA_RUNS", str(tmp_path))
    asked = start_run(RunConfig.from_preset("ci", seed=3))
    run, models, sentence = notebook.load_models(asked)
    assert list(models) == ["model"]
    assert run.name == f"box-{asked.name}"
    assert asked.name in sentence
    assert BOX_SAYS in sentence
    assert (run.config.preset, run.config.seed, run.config.data.image_size) == ("ci", 3, box_config().data.image_size)
    assert run.config.data.studies <= notebook.FEW_STUDIES
    with pytest.raises(ValueError, match=f"seed {SEED} made the images"):
        notebook.load_models(start_run(RunConfig.from_preset("ci", seed=SEED)))
    asked.path("baseline").mkdir()  # a run that is not finished is no reason to take another model
    with pytest.raises(FileNotFoundError, match=r"no model at .*; run notebook 04 first"):
        notebook.load_models(asked)
