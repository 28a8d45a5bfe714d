"""Reading films, cropping them, and the way back to original pixels."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from layouts import write_dicom
from PIL import Image

from lgdea_core.crops import (
    CropPool,
    boxes_mask,
    boxes_to_crop,
    boxes_to_frame,
    crop_frame,
    crop_image,
    crop_to_original,
)
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.images import load_images, read_image, read_image_size, read_mask
from lgdea_core.data.pairing import Pools
from lgdea_core.runs.inputs import Inputs


def ramp(height: int = 40, width: int = 48, top: int = 255) -> np.ndarray:
    """Grey values rising evenly from 0 to `top`, row by row."""
    return np.linspace(0, top, height * width).round().reshape(height, width)


def save(path: Path, values: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_eight_bits_are_divided_by_255(tmp_path: Path, suffix: str) -> None:
    values = ramp().astype(np.uint8)
    image = read_image(save(tmp_path / f"film.{suffix}", values))
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, values / 255, rtol=0, atol=1e-6 if suffix == "png" else 0.03)


@pytest.mark.parametrize(("top", "divisor"), [(65535, 65535), (4096, 65535), (4095, 4095), (900, 4095)])
def test_sixteen_bits_are_scaled_by_their_depth_and_never_by_their_maximum(
    tmp_path: Path, top: int, divisor: int
) -> None:
    values = ramp(top=top).astype(np.uint16)
    np.testing.assert_allclose(read_image(save(tmp_path / "film.png", values)), values / divisor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_colour_and_palette_files_become_the_same_grey(tmp_path: Path, mode: str) -> None:
    values = np.where(ramp() > 127, 255, 0).astype(np.uint8)
    image = read_image(save(tmp_path / "film.png", values, mode))
    np.testing.assert_allclose(image, values / 255, rtol=0, atol=1 / 255)


def test_a_coloured_palette_is_read_as_luminance(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((40, 40), 3, dtype=np.uint8), mode="P")
    image.putpalette([0, 0, 0] * 3 + [255, 0, 0] + [0, 0, 0] * 252)
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "film.png")
    np.testing.assert_allclose(read_image(tmp_path / "film.png")[1:], 0.299, rtol=0, atol=2 / 255)


def test_alpha_is_dropped_so_transparent_pixels_keep_their_grey(tmp_path: Path) -> None:
    values = ramp().astype(np.uint8)
    rgba = np.dstack([values, values, values, np.zeros_like(values)])
    np.testing.assert_allclose(read_image(save(tmp_path / "film.png", rgba)), values / 255, rtol=0, atol=1 / 255)


def test_missing_file_is_named(tmp_path: Path) -> None:
    for reader in (read_image, read_image_size, read_mask):
        with pytest.raises(FileNotFoundError, match=r"no image at .*gone\.png"):
            reader(tmp_path / "gone.png")


def _truncated(path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    whole = save(path, noise).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def _text(path: Path) -> Path:
    path.write_text("this is a login page, not an image")
    return path


def _float(path: Path) -> Path:
    return save(path.with_suffix(".tif"), ramp().astype(np.float32))


@pytest.mark.parametrize("make", [_truncated, _text, _float])
def test_truncated_and_foreign_files_are_errors_that_name_the_file(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path / "film.png")
    with pytest.raises(ValueError, match=rf"{path.name} cannot be read as an image"):
        read_image(path)


def test_truncated_jpeg_and_dicom_are_errors_too(tmp_path: Path) -> None:
    dicom = write_dicom(tmp_path / "film.dcm", ramp().astype(np.uint8))
    dicom.write_bytes(dicom.read_bytes()[:-500])
    for path in (_truncated(tmp_path / "film.jpg"), dicom):
        with pytest.raises(ValueError, match=rf"{path.name} cannot be read as an image"):
            read_image(path)


def test_tiny_images_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "film.png", ramp(31, 200).astype(np.uint8))
    for reader in (read_image, read_image_size):
        with pytest.raises(ValueError, match=r"at least 32 pixels, got 31 x 200"):
            reader(path)


def test_size_is_read_from_the_header(tmp_path: Path) -> None:
    assert read_image_size(save(tmp_path / "film.png", ramp(40, 50).astype(np.uint8))) == (40, 50)
    assert read_image_size(write_dicom(tmp_path / "film.dcm", ramp(40, 50).astype(np.uint8))) == (40, 50)


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    values = ramp().astype(np.uint8)
    plain = read_image(write_dicom(tmp_path / "a.dcm", values))
    inverted = read_image(write_dicom(tmp_path / "b.dcm", values, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_allclose(plain, values / 255, rtol=0, atol=1e-6)
    np.testing.assert_allclose(inverted, 1 - values / 255, rtol=0, atol=1e-6)


def test_dicom_is_known_by_its_preamble_too(tmp_path: Path) -> None:
    values = ramp().astype(np.uint8)
    path = write_dicom(tmp_path / "film.dcm", values).rename(tmp_path / "film")
    np.testing.assert_allclose(read_image(path), values / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize("slope", [1.0, 0.5])
@pytest.mark.parametrize("signed", [False, True])
def test_window_is_applied_after_the_rescale_slope(tmp_path: Path, slope: float, signed: bool) -> None:
    values = ramp(top=4095)
    stored = (values - 2048).astype(np.int16) if signed else values.astype(np.uint16)
    path = write_dicom(
        tmp_path / "film.dcm", stored, BitsStored=12, RescaleSlope=slope, RescaleIntercept=100,
        WindowCenter=600, WindowWidth=401, VOILUTFunction="LINEAR",
    )  # fmt: skip
    expected = np.clip((stored * slope + 100 - 599.5) / 400 + 0.5, 0, 1)  # PS3.3 C.11.2.1.2.1
    np.testing.assert_allclose(read_image(path), expected, rtol=0, atol=1e-3)
    assert read_image(path).min() == 0
    assert read_image(path).max() == 1


def test_deep_pixels_without_a_window_span_their_own_range(tmp_path: Path) -> None:
    values = (1000 + ramp(top=500)).astype(np.uint16)
    image = read_image(write_dicom(tmp_path / "a.dcm", values, BitsStored=14))
    np.testing.assert_allclose(image, (values - 1000) / 500, rtol=0, atol=1e-6)


def test_negative_slope_turns_black_and_white_around(tmp_path: Path) -> None:
    values = ramp(top=500).astype(np.uint16)
    image = read_image(write_dicom(tmp_path / "film.dcm", values, BitsStored=14, RescaleSlope=-1, RescaleIntercept=500))
    np.testing.assert_allclose(image, 1 - values / 500, rtol=0, atol=1e-6)


def test_crop_is_the_central_square() -> None:
    image = np.zeros((64, 128), dtype=np.float32)
    image[:, 32:96] = 1.0
    assert (crop_image(image, 32) == 255).all()
    assert crop_image(image.T, 32).all()
    frame = crop_frame(64, 128, 32)
    assert (frame.top, frame.left, frame.side) == (0, 32, 64)


def test_shrinking_averages_instead_of_picking_pixels() -> None:
    checkerboard = (np.indices((256, 256)).sum(axis=0) % 2).astype(np.float32)
    inner = crop_image(checkerboard, 32)[2:-2, 2:-2]
    np.testing.assert_allclose(inner, 127.5, rtol=0, atol=2)


def test_crop_is_laid_back_where_it_came_from_and_unseen_pixels_are_nan() -> None:
    frame = crop_frame(60, 100, 30)
    grid = np.arange(9, dtype=np.float32).reshape(3, 3)
    original = crop_to_original(grid, frame, "nearest")
    assert original.shape == (60, 100)
    assert np.isnan(original[:, :20]).all()
    assert np.isnan(original[:, 80:]).all()
    np.testing.assert_array_equal(original[:, 20:80], np.kron(grid, np.ones((20, 20))))


def test_nearest_is_that_of_torch() -> None:
    grid = np.random.default_rng(0).random((14, 14)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(grid)[None, None], size=(447, 447), mode="nearest")
    np.testing.assert_array_equal(crop_to_original(grid, crop_frame(447, 447, 224), "nearest"), expected[0, 0])


def test_a_spot_keeps_its_place_from_image_to_crop_and_back() -> None:
    image = np.zeros((210, 150), dtype=np.float32)
    image[60:70, 100:110] = 1.0
    crop = crop_image(image, 50).astype(np.float32)
    back = crop_to_original(crop, crop_frame(210, 150, 50))
    row, column = np.unravel_index(np.nanargmax(back), back.shape)
    assert 60 <= row < 70
    assert 100 <= column < 110


def test_bilinear_keeps_a_linear_map_linear() -> None:
    columns = np.arange(16, dtype=np.float32)[None].repeat(16, axis=0)
    original = crop_to_original(columns, crop_frame(64, 64, 16))
    centres = (np.arange(64) + 0.5) / 4 - 0.5  # original pixel centres in units of the grid
    np.testing.assert_allclose(original[5, 4:-4], centres[4:-4], rtol=0, atol=1e-3)


def boxes_table(*corners: tuple[float, ...], frame: tuple[float, float] = (1024, 1024)) -> pd.DataFrame:
    table = pd.DataFrame(corners, columns=["x_min", "y_min", "x_max", "y_max"])
    return table.assign(frame_width=frame[0], frame_height=frame[1])


def test_boxes_scale_from_the_frame_they_were_drawn_in() -> None:
    scaled = boxes_to_frame(boxes_table((0, 512, 256, 1024), frame=(512, 1024)), height=128, width=256)
    np.testing.assert_allclose(scaled, [[0, 64, 128, 128]])
    assert boxes_to_frame(boxes_table(), 10, 10).shape == (0, 4)


def test_boxes_in_crop_pixels_are_cut_at_the_crop() -> None:
    boxes = np.array([[0.0, 0.0, 60.0, 30.0], [0.0, 0.0, 10.0, 10.0]])
    np.testing.assert_allclose(boxes_to_crop(boxes, crop_frame(60, 100, 30)), [[0, 0, 20, 15], [0, 0, 0, 5]])


def test_mask_is_the_union_of_boxes_by_pixel_centres() -> None:
    boxes = np.array([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.4, 3.6]])
    expected = np.zeros((5, 5), dtype=bool)
    expected[0:2, 0:2] = True
    expected[1:4, 1:3] = True
    np.testing.assert_array_equal(boxes_mask(boxes, 5, 5), expected)


def test_mask_survives_thin_boxes_and_boxes_that_stick_out() -> None:
    assert boxes_mask(np.array([[1.1, 1.1, 1.3, 1.3]]), 4, 4).sum() == 1
    assert boxes_mask(np.array([[1.1, 1.1, 1.3, 1.3]]), 4, 4)[1, 1]
    assert boxes_mask(np.array([[-5.0, -5.0, 2.0, 99.0]]), 4, 4).sum() == 8
    assert not boxes_mask(np.array([[-5.0, -5.0, -2.0, -1.0]]), 4, 4).any()
    assert not boxes_mask(np.zeros((0, 4)), 4, 4).any()


def striped(level: int) -> np.ndarray:
    """One grey, and a black line at the lower end."""
    values = np.full((40, 48), level, dtype=np.uint8)
    values[-1] = 0
    return values


@pytest.fixture
def films(tmp_path: Path) -> Corpus:
    """Three films with distinct grey levels in one corpus."""
    root = tmp_path / "corpus"
    root.mkdir()
    names = ["a", "b", "c"]
    for level, name in enumerate(names, start=1):
        save(root / f"{name}.png", striped(60 * level))
    images = pd.DataFrame({"image_id": names, "study_id": names, "path": [f"{name}.png" for name in names]})
    studies = pd.DataFrame({"study_id": names, "patient_id": names, "split": "train", "report": None})
    return Corpus(name="films", root=root, studies=studies, images=images.assign(view="PA", width=48, height=40))


def test_images_are_stacked_in_the_order_of_the_table(films: Corpus) -> None:
    store = load_images(films, 32, progress=False)
    assert store.image_ids == ("a", "b", "c")
    assert store.pixels[:, 9, 9].tolist() == [60, 120, 180]
    assert store.rows == {"a": 0, "b": 1, "c": 2}
    assert not store.excluded


def test_a_pool_of_crops_copies_none_and_its_hash_reads_none_that_a_cache_has_noted(
    films: Corpus, tmp_path: Path
) -> None:
    load_images(films, 32, tmp_path / "cache", progress=False)
    store = load_images(films, 32, tmp_path / "cache", progress=False)
    none = pd.DataFrame(columns=["image_id", "report_id"])
    inputs = Inputs(
        corpus=films, store=store, pools=Pools(image_ids=(), report_ids=(), seed_pairs=none, hidden_pairs=none)
    )
    pool = inputs.pool(["c", "a"])
    assert np.shares_memory(pool.stored, store.pixels)
    assert isinstance(pool.stored, np.memmap)
    assert pool[:].equal(pool[[0, 1]])
    assert pool[np.array([1, 1, 0])][:, 9, 9].tolist() == [60, 60, 180]
    unread = replace(pool, stored=np.zeros_like(store.pixels))
    assert unread.digest() == pool.digest() == CropPool.of(pool[:]).digest()
    assert len({pool.digest(), inputs.pool(["a", "c"]).digest(), inputs.pool(["c"]).digest()}) == 3


@pytest.mark.parametrize("cached", [False, True])
def test_bad_images_are_left_out_with_a_reason(
    films: Corpus, tmp_path: Path, cached: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (films.root / "b.png").write_bytes((films.root / "b.png").read_bytes()[:60])
    (films.root / "c.png").unlink()
    cache = tmp_path / "cache" if cached else None
    with caplog.at_level("WARNING", logger="lgdea"):
        store = load_images(films, 32, cache, progress=False)
    assert store.image_ids == ("a",)
    assert store.pixels.shape == (1, 32, 32)
    assert store.pixels[0, 9, 9] == 60
    assert set(store.excluded) == {"b", "c"}
    assert "cannot be read" in store.excluded["b"]
    assert "no image at" in store.excluded["c"]
    assert "2 images left out" in caplog.text


def test_a_corpus_without_any_readable_image_is_an_error(films: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no images"):
        load_images(films.subset([]), 32, progress=False)
    for name in "abc":
        (films.root / f"{name}.png").write_text("broken")
    with pytest.raises(ValueError, match="none of its 3 images can be read"):
        load_images(films, 32, tmp_path / "cache", progress=False)
    assert not list((tmp_path / "cache").iterdir())


def test_cache_is_reused_until_a_file_or_the_size_changes(films: Corpus, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = load_images(films, 32, cache, progress=False)
    np.testing.assert_array_equal(first.pixels, load_images(films, 32, progress=False).pixels)
    files = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(files) == 2  # nothing temporary is left behind
    again = load_images(films, 32, cache, progress=False)
    assert isinstance(again.pixels, np.memmap)
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == files
    save(films.root / "a.png", striped(250))
    assert load_images(films, 32, cache, progress=False).pixels[0, 9, 9] == 250
    assert load_images(films, 40, cache, progress=False).pixels.shape == (3, 40, 40)


def test_half_a_cache_is_made_again(films: Corpus, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load_images(films, 32, cache, progress=False)
    next(cache.glob("*.json")).unlink()  # the listing is written last: without it the crops may be partial
    assert load_images(films, 32, cache, progress=False).image_ids == ("a", "b", "c")


def test_mask_files_are_true_where_non_zero(tmp_path: Path) -> None:
    values = np.zeros((40, 40), dtype=np.uint8)
    values[3, 5] = 1
    mask = read_mask(save(tmp_path / "mask.png", values))
    assert mask.sum() == 1
    assert mask[3, 5]
