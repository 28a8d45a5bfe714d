"""DICOM as archives write it: compressed, padded, with tables or without a header; what cannot be shown says why."""

import io
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pydicom
import pytest
from layouts import lossless_jpeg, make_dicom, write_dicom
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    MPEG2MPML,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from lgdea_core.data import dicom
from lgdea_core.data.corpora import load_corpus
from lgdea_core.data.images import load_images, read_image, read_image_size


def film(top: int, dtype: type) -> np.ndarray:
    """A smooth film with a bright square."""
    pixels = np.add.outer(np.arange(40), np.arange(48)) / 86 * top
    pixels[10:20, 10:20] = top
    return pixels.astype(dtype)


def saved(dicom: Dataset, path: Path) -> Path:
    dicom.save_as(path, enforce_file_format=True)
    return path


def wrapped(dicom: Dataset, syntax: UID, frame: bytes) -> Dataset:
    """The film with its pixels replaced by a compressed frame."""
    dicom.file_meta.TransferSyntaxUID = syntax
    dicom.PixelData = encapsulate([frame])
    dicom["PixelData"].VR = "OB"
    return dicom


VARIANTS = {
    "8 bit": (film(255, np.uint8), {}),
    "12 bit, window, inverted": (
        film(4095, np.uint16),
        {"BitsStored": 12, "WindowCenter": 2000, "WindowWidth": 3000, "PhotometricInterpretation": "MONOCHROME1"},
    ),
    "16 bit, rescaled": (film(60_000, np.uint16), {"RescaleSlope": 2, "RescaleIntercept": -100}),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLosslessSV1], ids=lambda syntax: syntax.name)
def test_lossless_films_read_as_raw_ones(tmp_path: Path, syntax: UID, variant: str) -> None:
    pixels, elements = VARIANTS[variant]
    raw, packed = make_dicom(pixels, **elements), make_dicom(pixels, **elements)
    if syntax == JPEGLosslessSV1:
        wrapped(packed, syntax, lossless_jpeg(pixels, packed.BitsStored))
    else:
        packed.compress(syntax)
    expected = read_image(saved(raw, tmp_path / "raw.dcm"))
    path = saved(packed, tmp_path / "packed.dcm")
    np.testing.assert_array_equal(read_image(path), expected)
    assert read_image_size(path) == (40, 48)
    assert expected.std() > 0.1  # a film, not a flat field


def test_lossy_films_read_nearly_as_raw_ones(tmp_path: Path) -> None:
    pixels, buffer = film(255, np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=95)
    baseline = wrapped(make_dicom(pixels), JPEGBaseline8Bit, buffer.getvalue())
    np.testing.assert_allclose(read_image(saved(baseline, tmp_path / "a.dcm")), pixels / 255, rtol=0, atol=0.05)
    wavelet = make_dicom(pixels)
    wavelet.compress(JPEG2000, j2k_psnr=[50])
    np.testing.assert_allclose(read_image(saved(wavelet, tmp_path / "b.dcm")), pixels / 255, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("syntax", "package"),
    [
        (JPEG2000Lossless, "python-gdcm"),
        (JPEGLosslessSV1, "python-gdcm"),
        (HTJ2K, "pylibjpeg pylibjpeg-openjpeg"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_missing_decoder_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: UID, package: str
) -> None:
    pixels = film(255, np.uint8)
    dicom = wrapped(make_dicom(pixels), syntax, lossless_jpeg(pixels, 8))
    monkeypatch.setattr(get_decoder(syntax), "_available", {})
    with pytest.raises(ValueError, match=rf"{syntax.name[:9]}.* \({syntax}\) needs a decoder: pip install {package}$"):
        read_image(saved(dicom, tmp_path / "film.dcm"))


def test_a_film_whose_decoder_comes_later_is_read_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, decoder = film(255, np.uint8), get_decoder(JPEGLosslessSV1)
    saved(wrapped(make_dicom(pixels), JPEGLosslessSV1, lossless_jpeg(pixels, 8)), tmp_path / "late.dcm")
    layouts.film(tmp_path / "now.png")
    table = ("study_id,patient_id,split,image", "s1,p1,train,late.dcm", "s2,p2,train,now.png")
    layouts.write(tmp_path / "studies.csv", *table)
    corpus = load_corpus("folder", tmp_path)
    with monkeypatch.context() as without:
        without.setattr(decoder, "_available", {})
        assert "needs a decoder" in load_images(corpus, 32, tmp_path / "cache", progress=False).excluded["s1"]
    assert load_images(corpus, 32, tmp_path / "cache", progress=False).excluded == {}


def test_pixels_that_no_installed_decoder_is_made_for_are_not_called_broken(tmp_path: Path) -> None:
    extended = Path(get_testdata_file("JPGExtended.dcm"))  # 12 bits, which gdcm and Pillow do not read
    video = saved(wrapped(make_dicom(film(255, np.uint8)), MPEG2MPML, b"video"), tmp_path / "film.dcm")
    private = tmp_path / "private.dcm"
    private.write_bytes(video.read_bytes().replace(MPEG2MPML.encode(), b"1.2.3.4.5.6.7.8.9.10.111"[: len(MPEG2MPML)]))
    for path, reason in (
        (extended, "JPEG Extended .* needs a decoder: pip install pylibjpeg pylibjpeg-libjpeg"),
        (video, "MPEG2.* is none that pydicom decodes; convert the file"),
        (private, "is none of the standard's; convert the file"),
    ):
        with pytest.raises(
            ValueError, match=rf"{path.name} cannot be read as an image: transfer syntax .*{reason}"
        ) as error:
            read_image(path)
        assert "fetch it again" not in str(error.value)


def test_broken_frames_and_files_that_are_no_dicom_are_named(tmp_path: Path) -> None:
    pixels = film(255, np.uint8)
    frame = lossless_jpeg(pixels, 8)
    broken = saved(wrapped(make_dicom(pixels), JPEGLosslessSV1, frame[:40]), tmp_path / "broken.dcm")
    text = tmp_path / "text.dcm"
    text.write_text("no film")
    for path, reader in ((broken, read_image), (text, read_image), (text, read_image_size)):
        with pytest.raises(ValueError, match=rf"{path.name} cannot be read as an image, fetch it again"):
            reader(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colour_of_8_and_of_16_bits_becomes_grey(dtype: type, tmp_path: Path) -> None:
    full = np.iinfo(dtype).max
    row = np.array([[full, 0, 0], [0, full, 0], [0, 0, full], [full, full, full]], dtype=dtype)
    pixels = np.tile(row, (32, 8, 1))
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    path = write_dicom(tmp_path / "colour.dcm", pixels, **colour)
    np.testing.assert_allclose(read_image(path), np.tile([0.299, 0.587, 0.114, 1.0], (32, 8)), atol=1e-6)


def lut(entries: np.ndarray, bits: int, first: int = 0) -> list[Dataset]:
    """The item of a modality or VOI LUT sequence."""
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries), first, bits], entries.tolist()
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return [item]


DEEP, FLAT8 = film(4095, np.uint16), film(200, np.uint8)
INVERTED = {"PhotometricInterpretation": "MONOCHROME1"}
EDGE = np.abs(np.arange(48) - 5) < 2
PADDED = np.where(EDGE, 63_536, 1000 + film(500, np.uint16)).astype(np.uint16)
PLAIN = np.where(EDGE, 0, film(500, np.uint16) / 500)
SHOWN: dict[str, tuple[np.ndarray, dict[str, object], np.ndarray]] = {
    "a LUT of 12 bits that says 16": (
        DEEP, {"BitsStored": 12, "VOILUTSequence": lut(np.arange(4096), 16)}, DEEP / 4095,
    ),
    "a LUT of 16 bits over a detector's 12": (
        DEEP, {"BitsStored": 16, "VOILUTSequence": lut(np.arange(2**16 - 1), 16)}, DEEP / 4095,
    ),
    "a LUT of 12 bits into 8": (
        DEEP, {"BitsStored": 12, "VOILUTSequence": lut(np.arange(4096) // 16, 8)}, DEEP // 16 / 255,
    ),
    "a LUT that begins late": (
        DEEP, {"BitsStored": 12, "VOILUTSequence": lut(np.arange(3000), 12, 1000)}, np.clip((DEEP - 1e3) / 2999, 0, 1),
    ),
    "a modality LUT of 12 bits": (
        DEEP, {"BitsStored": 12, "ModalityLUTSequence": lut(np.arange(4096)[::-1], 12)}, 1 - DEEP / 4095,
    ),
    "padding": (PADDED, {"BitsStored": 16, "PixelPaddingValue": 63_536}, PLAIN),
    "padding, inverted": (
        PADDED, {"BitsStored": 16, "PixelPaddingValue": 63_536, **INVERTED}, np.where(EDGE, 0, 1 - PLAIN),
    ),
    "a range of padding": (
        PADDED, {"BitsStored": 16, "PixelPaddingValue": 60_000, "PixelPaddingRangeLimit": 65_535}, PLAIN,
    ),
    "padding under a window": (
        PADDED,
        {"BitsStored": 16, "PixelPaddingValue": 63_536, "WindowCenter": 1250.5, "WindowWidth": 501, **INVERTED},
        np.where(EDGE, 0, 1 - PLAIN),
    ),
    "signed padding": (
        PADDED.astype(np.int16), {"BitsStored": 16, "PixelPaddingValue": -2000}, PLAIN,
    ),
    "a window of no width": (
        DEEP, {"BitsStored": 12, "WindowCenter": 0, "WindowWidth": 0}, DEEP / 4095,
    ),
    "a window of no width, exact": (
        DEEP, {"BitsStored": 12, "WindowCenter": 0, "WindowWidth": 0, "VOILUTFunction": "LINEAR_EXACT"}, DEEP / 4095,
    ),
    "8 bits with an identity rescale": (FLAT8, {"RescaleSlope": 1, "RescaleIntercept": 0}, FLAT8 / 255),
    "8 bits with another rescale": (FLAT8, {"RescaleSlope": 2, "RescaleIntercept": -128}, FLAT8 / 255),
    "8 of 16 bits with an identity rescale": (
        FLAT8.astype(np.uint16), {"BitsStored": 8, "RescaleSlope": 1, "RescaleIntercept": 0}, FLAT8 / 255,
    ),
    "8 bits with a modality LUT": (FLAT8, {"ModalityLUTSequence": lut(np.arange(256) * 16, 12)}, FLAT8 / 255),
}  # fmt: skip


@pytest.mark.parametrize("case", SHOWN)
def test_grey_films_are_shown_as_their_header_means(tmp_path: Path, case: str) -> None:
    pixels, elements, expected = SHOWN[case]
    np.testing.assert_allclose(read_image(write_dicom(tmp_path / "film.dcm", pixels, **elements)), expected, atol=2e-3)


def raw_value(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Puts a value of the same length where pydicom would not write it."""

    def damage(data: bytes) -> bytes:
        assert data.count(old) == 1
        return data.replace(old, new)

    return damage


REFUSED: dict[str, tuple[np.ndarray, dict[str, object], Callable[[bytes], bytes], str]] = {
    "empty slope": (DEEP, {"RescaleSlope": None, "RescaleIntercept": 0}, bytes, "RescaleSlope or RescaleIntercept is"),
    "two slopes": (DEEP, {"RescaleSlope": [1, 2], "RescaleIntercept": 0}, bytes, "TypeError"),
    "two kinds of grey": (
        DEEP, {"PhotometricInterpretation": ["MONOCHROME1", "MONOCHROME2"]}, bytes, "PhotometricInterpretation must be",
    ),
    "window auto": (DEEP, {"WindowCenter": 9, "WindowWidth": 7777.0}, raw_value(b"7777.0", b"auto  "), "ValueError"),
    "window 2,0": (DEEP, {"WindowCenter": 9, "WindowWidth": 7777.0}, raw_value(b"7777.0", b"2,0   "), "ValueError"),
    "slope nan": (DEEP, {"RescaleSlope": 7777, "RescaleIntercept": 0}, raw_value(b"7777.0", b"nan   "), "not finite"),
    "inf": (DEEP, {"RescaleSlope": 1, "RescaleIntercept": 7777}, raw_value(b"7777.0", b"inf   "), "not finite"),
    "one value": (np.full((40, 40), 7, dtype=np.uint16), {}, bytes, "all its pixels have the same value"),
    "padding only": (np.where(DEEP > 0, 5, 4).astype(np.uint16), {"PixelPaddingValue": 4, "PixelPaddingRangeLimit": 5},
                     bytes, "all its pixels have the same value"),
    "window beside the film": (DEEP, {"WindowCenter": 30_000, "WindowWidth": 100}, bytes, "makes all pixels the same"),
    "slope 0": (DEEP, {"RescaleSlope": 0, "RescaleIntercept": 0}, bytes, "its window or table makes all pixels 0"),
    "two frames": (np.vstack([DEEP, DEEP]), {"Rows": 40, "NumberOfFrames": 2}, bytes, "expected one frame of pixels"),
    "no rows": (DEEP, {"Rows": None}, bytes, "no DICOM film: it has no Rows"),
    "palette without colours": (FLAT8, {"PhotometricInterpretation": "PALETTE COLOR"}, bytes, "Palette"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_film_shows_is_an_error_that_names_the_file(tmp_path: Path, case: str) -> None:
    pixels, elements, damage, reason = REFUSED[case]
    path = write_dicom(tmp_path / "film.dcm", pixels, **elements)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"film\.dcm cannot be read as an image.*{reason}"):
        read_image(path)


def test_palettes_are_applied() -> None:
    path = Path(get_testdata_file("examples_palette.dcm"))
    dicom = pydicom.dcmread(path)
    colours = apply_color_lut(dicom.pixel_array, dicom)
    np.testing.assert_allclose(read_image(path), colours @ [0.299, 0.587, 0.114] / 65535, atol=1e-5)


@pytest.mark.parametrize("name", ["MR_small_implicit.dcm", "MR_small.dcm", "MR_small_bigendian.dcm"])
@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_films_without_preamble_or_header_are_read(tmp_path: Path, name: str, suffix: str) -> None:
    whole = Path(get_testdata_file(name)).read_bytes()
    header = 144 + pydicom.dcmread(get_testdata_file(name)).file_meta.FileMetaInformationGroupLength
    expected = read_image(Path(get_testdata_file(name)))
    for start in (128, 132, header):
        path = tmp_path / f"film{suffix}"
        path.write_bytes(whole[start:])
        np.testing.assert_array_equal(read_image(path), expected)
        assert read_image_size(path) == (64, 64)


def test_compressed_pixels_without_a_header_say_so(tmp_path: Path) -> None:
    whole = Path(get_testdata_file("MR_small_RLE.dcm")).read_bytes()
    path = tmp_path / "film.dcm"
    path.write_bytes(whole[144 + pydicom.dcmread(io.BytesIO(whole)).file_meta.FileMetaInformationGroupLength :])
    with pytest.raises(ValueError, match=r"names no transfer syntax \(0002,0010\), and its pixels are compressed"):
        read_image(path)


@pytest.mark.slow
def test_a_decoder_that_crashes_or_hangs_takes_no_other_film_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, buffer = film(255, np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    frame, half = buffer.getvalue(), buffer.tell() // 2
    frames = {"sound": frame, "crash": frame[:half] + b"\xff\xc0" + frame[half:]}  # a header inside: gdcm aborts
    sound, crash = (
        saved(wrapped(make_dicom(pixels), JPEGBaseline8Bit, frame), tmp_path / f"{name}.dcm")
        for name, frame in frames.items()
    )
    before = read_image(sound)
    with pytest.raises(ValueError, match=r"crash\.dcm cannot be read .* its decoder crashes or takes more than 60 sec"):
        read_image(crash)
    np.testing.assert_array_equal(read_image(sound), before)
    for idle in dicom._IDLE:  # killed while it waits, which is no fault of the next film
        idle.kill()
        idle.wait()
    np.testing.assert_array_equal(read_image(sound), before)
    monkeypatch.setattr("lgdea_core.data.dicom.PATIENCE", 1e-5)
    with pytest.raises(ValueError, match="its decoder crashes or takes more than 1e-05 seconds"):
        read_image(sound)
