"""Compressed DICOM films read as raw ones do, and what cannot be read says which package could."""

import io
from pathlib import Path

import numpy as np
import pytest
from layouts import lossless_jpeg, make_dicom, write_dicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from lgdea_core.data.images import read_image, read_image_size


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


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLosslessSV1], ids=lambda syntax: syntax.name)
def test_a_missing_decoder_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: UID
) -> None:
    pixels = film(255, np.uint8)
    dicom = wrapped(make_dicom(pixels), syntax, lossless_jpeg(pixels, 8))
    monkeypatch.setattr(get_decoder(syntax), "_available", {})
    with pytest.raises(ValueError, match=rf"{syntax.name[:9]}.* \({syntax}\) needs a decoder: pip install python-gdcm"):
        read_image(saved(dicom, tmp_path / "film.dcm"))


def test_a_syntax_that_is_never_decoded_is_named_and_not_called_broken(tmp_path: Path) -> None:
    pixels = film(255, np.uint8)
    path = saved(wrapped(make_dicom(pixels), MPEG2MPML, b"video"), tmp_path / "film.dcm")
    with pytest.raises(ValueError, match=r"film\.dcm cannot be read as an image: transfer syntax MPEG2") as caught:
        read_image(path)
    assert "fetch it again" not in str(caught.value)


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
