"""DICOM films as grey arrays: rescale slope, VOI window, MONOCHROME1; raw or compressed."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Float
from pydicom.pixels import apply_modality_lut, apply_voi_lut, get_decoder

DICOM_SUFFIXES = (".dcm", ".dicom")
LUMA = np.array([0.299, 0.587, 0.114])
"""Grey of red, green and blue (ITU-R BT.601)."""


class MissingDecoderError(RuntimeError):
    """A sound file whose compression nothing installed here can undo."""


def is_dicom(path: Path) -> bool:
    """Whether a file calls itself DICOM, by its suffix or by its preamble."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels, from the header; raises what pydicom raises."""
    header = pydicom.dcmread(path, stop_before_pixels=True)
    return int(header.Rows), int(header.Columns)


def read_dicom(path: Path) -> Float[np.ndarray, "height width"]:
    """Grey image in [0, 1] as `lgdea_core.data.images.read_image` describes it; raises what pydicom raises.

    Raises:
        MissingDecoderError: the pixels are compressed in a way no installed package knows.
    """
    dicom = pydicom.dcmread(path)
    _check_decoder(dicom)
    pixels = dicom.pixel_array
    colour = dicom.get("SamplesPerPixel", 1) == 3
    if pixels.ndim != 2 + colour:
        raise ValueError(f"expected one frame of pixels, got an array of shape {pixels.shape}")
    if colour:
        return (pixels @ LUMA / (2.0 ** int(dicom.BitsStored) - 1)).astype(np.float32)
    values = apply_modality_lut(pixels, dicom)
    shown = np.asarray(apply_voi_lut(values, dicom), dtype=np.float64)
    low, high = _shown_range(dicom, shown)
    grey = np.zeros_like(shown) if high == low else np.clip((shown - low) / (high - low), 0, 1)
    if dicom.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    return grey.astype(np.float32)


def _check_decoder(dicom: Any) -> None:
    syntax = dicom.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        return
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        raise MissingDecoderError(
            f"transfer syntax {syntax.name} ({syntax}) is none that pydicom decodes; convert the file, for instance by "
            "`gdcmconv --raw`"
        ) from None
    if not available:
        raise MissingDecoderError(f"transfer syntax {syntax.name} ({syntax}) needs a decoder: pip install python-gdcm")


def _shown_range(dicom: Any, shown: np.ndarray) -> tuple[float, float]:
    """Values that mean black and white after `apply_voi_lut`, in the order of the stored values."""
    bits, signed = int(dicom.BitsStored), int(dicom.PixelRepresentation) == 1
    if dicom.get("VOILUTSequence"):
        return 0.0, 2.0 ** dicom.VOILUTSequence[0].LUTDescriptor[2] - 1
    if dicom.get("WindowCenter") is None or dicom.get("WindowWidth") is None:
        plain = bits <= 8 and not signed and "RescaleSlope" not in dicom and "ModalityLUTSequence" not in dicom
        return (0.0, 2.0**bits - 1) if plain else (float(shown.min()), float(shown.max()))
    if dicom.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** dicom.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    slope, intercept = float(dicom.get("RescaleSlope", 1)), float(dicom.get("RescaleIntercept", 0))
    return low * slope + intercept, high * slope + intercept
