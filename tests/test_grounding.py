"""Similarity maps in original pixels: where the square is, NaN where the crop never looked, and the command."""

import runpy
from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from PIL import Image
from planted import PlantedWorld, config
from scipy.ndimage import gaussian_filter

from lgdea_core import grounding
from lgdea_core.data.images import read_image
from lgdea_core.figures import overlay
from lgdea_core.inference import evaluating
from lgdea_core.model import LGDEAModel, LGDEAProcessor


@pytest.fixture(scope="module")
def fresh() -> tuple[LGDEAModel, LGDEAProcessor]:
    return PlantedWorld(20, seed=0).model(config())


def film(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).random((height, width)).astype(np.float32)


@pytest.mark.parametrize("space", ["joint", "prototypes"])
def test_map_has_the_films_pixels_and_is_nan_only_outside_the_crop(fresh: tuple, space: str) -> None:
    similarity_map = grounding.ground(*fresh, film(60, 100), "left nodule", space=space)
    assert similarity_map.shape == (60, 100)
    seen = np.isfinite(similarity_map)
    assert seen[:, 20:80].all()
    assert not seen[:, :20].any()
    assert not seen[:, 80:].any()
    assert np.nanmax(np.abs(similarity_map)) <= 1 + 1e-6


def test_phrase_maps_do_not_depend_on_their_neighbours_in_a_batch(fresh: tuple) -> None:
    model, processor = fresh
    crops = torch.randint(0, 255, (2, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together = grounding.patch_maps(model, processor, crops, ["left nodule", "right mass and edema"])
    alone = grounding.patch_maps(model, processor, crops[1:], ["left nodule"])
    np.testing.assert_allclose(together[1, 0], alone[0, 0], atol=1e-5)


@pytest.mark.parametrize("scaled", [True, False])
def test_maps_are_smoothed_on_their_grid_as_scipy_does(fresh: tuple, scaled: bool) -> None:
    model, processor = fresh
    crops = torch.randint(0, 255, (1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    raw = grounding.patch_maps(model, processor, crops, ["edema"], smoothing=0.0)[0, 0]
    sigma = 1.5 * len(raw) / 14 if scaled else 1.5
    smooth = grounding.patch_maps(model, processor, crops, ["edema"], scaled=scaled)[0, 0]
    np.testing.assert_allclose(smooth, gaussian_filter(raw, sigma), atol=1e-6)


def test_prototype_map_is_one_where_patch_and_phrase_are_assigned_alike(fresh: tuple) -> None:
    model, processor = fresh
    crops = torch.zeros(1, 32, 32, dtype=torch.uint8)
    with torch.no_grad(), evaluating(model):
        patches = model.method.patches(model, model.encode_crops(crops))
        like = patches[0, :1]
    with patch.object(model.method, "phrase_embeds", lambda *_: like):  # a phrase that lies where the first patch does
        maps = grounding.patch_maps(model, processor, crops, ["edema"], space="prototypes", smoothing=0.0)
    text, image = (torch.softmax(patches[0] @ model.prototype_points.T / tau, dim=1).detach().numpy()
                   for tau in (model.config.text_temperature, model.config.image_temperature))  # fmt: skip
    np.testing.assert_allclose(maps[0, 0].ravel(), np.sqrt(image) @ np.sqrt(text[0]), atol=1e-5)
    assert model.config.text_temperature == model.config.image_temperature
    assert maps[0, 0, 0, 0] == pytest.approx(1, abs=1e-5)


def test_gradcam_lies_in_the_unit_interval_and_follows_the_phrase(fresh: tuple) -> None:
    image = film(40, 40)
    maps = [grounding.gradcam(*fresh, image, phrase) for phrase in ("left nodule", "right edema")]
    for heat in maps:
        assert heat.shape == (40, 40)
        assert 0 <= np.nanmin(heat) <= np.nanmax(heat) <= 1 + 1e-6
    assert not np.allclose(*maps)


def test_grounding_leaves_the_model_in_the_mode_it_was_in(fresh: tuple) -> None:
    model, processor = fresh
    model.train()
    grounding.ground(model, processor, film(40, 40), "edema")
    assert model.training
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grounding.gradcam(model, processor, film(40, 40), "edema")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_empty_phrase_is_refused(fresh: tuple) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        grounding.ground(*fresh, film(40, 40), "  ")


@pytest.fixture(scope="module")
def folder(fresh: tuple, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    for part in fresh:
        part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "stem"),
    [("film.png", "film"), ("1.2.826.0.1.png", "1.2.826.0.1"), ("1.2.826.0.1", "1.2.826.0.1")],
)
def test_command_writes_map_and_overlay_of_a_film_whatever_dots_its_name_has(
    name: str, stem: str, fresh: tuple, folder: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / name, tmp_path / "out"
    Image.fromarray((film(50, 70) * 255).astype(np.uint8)).save(path, format="png")
    overlay.main([str(path), "left nodule, 1.5 cm", "--model", str(folder), "--output", str(out), "--device", "cpu"])
    assert {file.name for file in out.iterdir()} == {
        f"{stem}_left_nodule_1_5_cm.{kind}" for kind in ("npy", "png", "pdf")
    }
    written = np.load(out / f"{stem}_left_nodule_1_5_cm.npy")
    fresh[0].eval()
    np.testing.assert_allclose(written, grounding.ground(*fresh, read_image(path), "left nodule, 1.5 cm"))


@pytest.mark.parametrize(("options", "device"), [([], None), (["--device", "cuda:1"], "cuda:1")])
def test_command_loads_the_model_on_the_device_asked_for(
    options: list[str], device: str | None, fresh: tuple, tmp_path: Path
) -> None:
    Image.fromarray((film(50, 70) * 255).astype(np.uint8)).save(tmp_path / "film.png")
    with patch.object(overlay, "load", Mock(return_value=fresh)) as load:
        overlay.main([str(tmp_path / "film.png"), "edema", "--model", "m", "--output", str(tmp_path / "out"), *options])
    load.assert_called_once_with(Path("m"), device=device)


def test_command_is_that_of_the_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["grounding", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("lgdea_core.grounding", run_name="__main__")
    assert "--device" in capsys.readouterr().out
