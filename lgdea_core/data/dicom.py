"""DICOM films as grey arrays: modality LUT or rescale, VOI LUT or window, padding, palettes, compression."""

import contextlib
import io
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Float
from pydicom.pixels import apply_color_lut, apply_windowing, get_decoder, pixel_array
from pydicom.uid import (
    HTJ2K,
    UID,
    AllTransferSyntaxes,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    RLELossless,
)

DICOM_SUFFIXES = (".dcm", ".dicom")
STARTS = (b"DICM", b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""first bytes of a file without preamble: its mark, or group 0002 or 0008, little or big endian"""
LUMA = np.array([0.299, 0.587, 0.114])
"""Grey of red, green and blue (ITU-R BT.601)."""
GREY, COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PACKAGES = {
    JPEGExtended12Bit: "pylibjpeg pylibjpeg-libjpeg",
    **dict.fromkeys((HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL), "pylibjpeg pylibjpeg-openjpeg"),
}
"""transfer syntax -> what decodes it, where that is not python-gdcm"""
FAR = 1e30
"""beyond any pixel value: what a window makes of it is its black or white"""
PATIENCE = 60
"""seconds that a compressed film may take"""


class UnfitFilmError(ValueError):
    """A file that is read, but holds no film that can be shown here; fetching it again does not help."""


def is_dicom(path: Path) -> bool:
    """Whether a file calls itself DICOM: by its suffix, its preamble, or the group of its first element."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    with path.open("rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or head.startswith(STARTS)


def read_dicom_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels, from the header; raises what pydicom raises."""
    header = _read(path, stop_before_pixels=True)
    return int(header.Rows), int(header.Columns)


def read_dicom(path: Path, *, isolate: bool = True) -> Float[np.ndarray, "height width"]:
    """Grey image in [0, 1] as `lgdea_core.data.images.read_image` describes it; raises what pydicom raises.

    Args:
        path: of the file.
        isolate: decode compressed films in a process of their own, which may crash (see `_read_elsewhere`).

    Raises:
        UnfitFilmError: the pixels are compressed in a way that no installed package knows, they are several frames, or
            they show nothing.
    """
    dicom = _read(path)
    syntax = _transfer_syntax(dicom)
    if isolate and syntax.is_compressed and syntax != RLELossless:
        return _read_elsewhere(path)
    kind = dicom.PhotometricInterpretation
    if kind not in (*GREY, *COLOUR, "PALETTE COLOR"):
        known = ", ".join((*GREY, *COLOUR, "PALETTE COLOR"))
        raise UnfitFilmError(f"PhotometricInterpretation must be one of {known}, got {kind!r}")
    pixels = _decode(dicom, syntax)
    if pixels.ndim != 2 + (kind in COLOUR):
        raise UnfitFilmError(f"expected one frame of pixels, got an array of shape {pixels.shape}")
    if kind in GREY:
        return _shown(dicom, pixels).astype(np.float32)
    bits = int(dicom.BitsStored)
    if kind == "PALETTE COLOR":
        pixels = _palette(dicom, pixels)
        bits = 8 * pixels.itemsize
    return np.clip(pixels @ LUMA / (2.0**bits - 1), 0, 1).astype(np.float32)


def _read(path: Path, *, stop_before_pixels: bool = False) -> Any:
    """A dataset that names its transfer syntax, as PACS exports without preamble or header may not.

    Raises:
        ValueError: it is no film, or its encoding cannot be known.
    """
    with path.open("rb") as file:
        bare = file.read(4) == b"DICM"
        source = io.BytesIO(file.read()) if bare else path
    dicom = pydicom.dcmread(source, force=True, stop_before_pixels=stop_before_pixels)
    needed = ("Rows", "Columns") if stop_before_pixels else ("Rows", "Columns", "BitsStored", "PixelData")
    missing = [name for name in needed if dicom.get(name) is None]
    if missing:
        raise ValueError(f"no DICOM film: it has no {', '.join(missing)}")
    if stop_before_pixels or dicom.file_meta.get("TransferSyntaxUID"):
        return dicom
    if dicom["PixelData"].is_undefined_length:
        raise UnfitFilmError(
            "its header names no transfer syntax (0002,0010), and its pixels are compressed; export it anew"
        )
    implicit, little = dicom.original_encoding
    plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dicom.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain
    return dicom


def _transfer_syntax(dicom: Any) -> UID:
    """How the pixels are written; compressed ones can be read here.

    Raises:
        UnfitFilmError: they cannot; the message says what is missing.
    """
    syntax = UID(dicom.file_meta.TransferSyntaxUID)
    if not syntax.is_transfer_syntax or syntax.is_private:
        raise UnfitFilmError(f"transfer syntax {syntax} is none of the standard's; convert the file")
    if not syntax.is_compressed:
        return syntax
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        raise UnfitFilmError(
            f"transfer syntax {syntax.name} ({syntax}) is none that pydicom decodes; convert the file, for instance by "
            "`gdcmconv --raw`"
        ) from None
    if not available:
        raise UnfitFilmError(_needs(syntax))
    return syntax


def decoders() -> list[str]:
    """What decodes each transfer syntax here: another package installed may read what was unreadable."""
    found = []
    for syntax in AllTransferSyntaxes:
        with contextlib.suppress(NotImplementedError):
            found.append(f"{syntax} {' '.join(get_decoder(syntax).available_plugins)}")
    return found


def _needs(syntax: UID) -> str:
    package = PACKAGES.get(syntax, "python-gdcm")
    return f"transfer syntax {syntax.name} ({syntax}) needs a decoder: pip install {package}"


def _decode(dicom: Any, syntax: UID) -> np.ndarray:
    """The stored pixels, of colour films as red, green and blue."""
    try:
        return pixel_array(dicom)
    except RuntimeError as error:  # every plugin's reason, which may be that it was never made for such pixels
        if syntax.is_compressed and get_decoder(syntax).missing_dependencies and "support" in str(error):
            raise UnfitFilmError(f"{_needs(syntax)} ({' '.join(str(error).split())})") from error
        raise


def _palette(dicom: Any, pixels: np.ndarray) -> np.ndarray:
    """Red, green and blue of indexed pixels, in the palette's depth."""
    entries, _, bits = dicom.RedPaletteColorLookupTableDescriptor
    if bits == 8 and entries > 256:  # apply_color_lut keeps the index in the depth of the colours
        raise UnfitFilmError(f"palettes of {entries} colours in 8 bits are not read; convert the file to RGB")
    return apply_color_lut(pixels, dicom)[..., :3]


def _shown(dicom: Any, pixels: np.ndarray) -> np.ndarray:
    """Grey levels in [0, 1], padding black.

    Raises:
        UnfitFilmError: a value is not finite, or nothing is shown: the film has one value, or its window shows one.
    """
    bits, signed = int(dicom.BitsStored), int(dicom.PixelRepresentation) == 1
    padding = _padding(dicom, pixels)
    film = pixels[~padding]
    if not film.size or film.min() == film.max():
        raise UnfitFilmError("all its pixels have the same value")
    # a detector's 12 bits in a film that says 16
    depth = 12 if bits > 12 and not signed and film.max() < 2**12 else bits
    stored = np.array([-(2.0 ** (depth - 1)), 2.0 ** (depth - 1) - 1] if signed else [0.0, 2.0**depth - 1])
    values, ends = _modality(dicom, pixels), np.sort(_modality(dicom, stored))
    if not (np.isfinite(values).all() and np.isfinite(ends).all()):
        raise UnfitFilmError("its rescaled pixels are not finite")
    if lut := _lut(dicom, "VOILUTSequence"):
        # Black is 0; white is the most that this film's depth can reach, for many a table of 10 or 12 bits says 16.
        first, table = lut
        values, (low, high) = _look_up(table, first, values), (0.0, _reached(table, first, ends))
    elif _has_window(dicom):
        low, high = apply_windowing(np.array([-FAR, FAR]), dicom)
        values = apply_windowing(values, dicom)
    elif depth <= 8:
        low, high = ends
        if lut := _lut(dicom, "ModalityLUTSequence"):
            low, high = 0.0, _reached(*reversed(lut), stored)
    else:
        low, high = values[~padding].min(), values[~padding].max()
    if high == low:
        raise UnfitFilmError(f"its window or table makes all pixels {low:g}")
    grey = np.clip((values - float(low)) / (float(high) - float(low)), 0, 1)
    if grey[~padding].min() == grey[~padding].max():
        raise UnfitFilmError("its window or table makes all pixels the same grey; export it without them")
    if dicom.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    grey[padding] = 0
    return grey


def _padding(dicom: Any, pixels: np.ndarray) -> np.ndarray:
    """True where a pixel is none of the film: PixelPaddingValue, or from there to PixelPaddingRangeLimit."""
    value = dicom.get("PixelPaddingValue")
    if value is None:
        return np.zeros(pixels.shape, dtype=bool)
    limit = dicom.get("PixelPaddingRangeLimit")
    ends = np.array([value, value if limit is None else limit], dtype=np.int64)
    width = 8 * pixels.itemsize
    if (ends < -(2 ** (width - 1))).any() or (ends >= 2**width).any():  # no pixel can be that
        return np.zeros(pixels.shape, dtype=bool)
    ends = ends.astype(pixels.dtype)  # written as signed or not, whatever the pixels are: the same bits count
    return (pixels >= ends.min()) & (pixels <= ends.max())


def _modality(dicom: Any, stored: np.ndarray) -> np.ndarray:
    """Stored values as the modality means them: by its LUT, or by slope and intercept."""
    if lut := _lut(dicom, "ModalityLUTSequence"):
        return _look_up(lut[1], lut[0], stored)
    slope, intercept = (dicom.get(f"Rescale{name}", default) for name, default in (("Slope", 1), ("Intercept", 0)))
    if slope is None or intercept is None:
        raise ValueError("RescaleSlope or RescaleIntercept is empty")
    return stored * float(slope) + float(intercept)


def _lut(dicom: Any, sequence: str) -> tuple[int, np.ndarray] | None:
    """First mapped value and entries of a lookup table; None where there is none or it has no data.

    `pydicom.pixels.apply_voi` counts the entries in the depth of the output, so that 12 bits into 8 wrap around, and
    `apply_modality_lut` knows the depths 8 and 16 only.
    """
    items = dicom.get(sequence)
    if not items or items[0].get("LUTData") is None or items[0].get("LUTDescriptor") is None:
        return None
    entries, first, _ = items[0].LUTDescriptor
    entries, data = int(entries) or 2**16, items[0].LUTData
    if isinstance(data, bytes):
        wide = "<u2" if dicom.original_encoding[1] is not False else ">u2"
        data = np.frombuffer(data, dtype=np.uint8 if len(data) < 2 * entries else wide)
    table = np.atleast_1d(np.asarray(data, dtype=np.float64))[:entries]
    if not len(table):
        raise ValueError(f"{sequence} has no entries")
    return int(first), table


def _look_up(table: np.ndarray, first: int, values: np.ndarray) -> np.ndarray:
    return table[np.clip(np.rint(values) - first, 0, len(table) - 1).astype(np.int64)]


def _reached(table: np.ndarray, first: int, ends: np.ndarray) -> float:
    """The largest entry between what the least and the largest value are mapped to."""
    low, high = np.clip(np.rint(ends) - first, 0, len(table) - 1).astype(np.int64)
    return float(table[low : high + 1].max())


def _has_window(dicom: Any) -> bool:
    """Whether there is a centre and a width wide enough for its function; a width of 0 is how some say "none"."""
    centre, width = dicom.get("WindowCenter"), dicom.get("WindowWidth")
    if centre is None or width is None:
        return False
    if not dicom.get("VOILUTFunction"):
        dicom.VOILUTFunction = "LINEAR"
    width = float(width if dicom["WindowWidth"].VM == 1 else width[0])
    return width >= 1 if dicom.VOILUTFunction.upper() == "LINEAR" else width > 0


_IDLE: list[subprocess.Popen[bytes]] = []
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_IDLE.clear)


def _read_elsewhere(path: Path) -> np.ndarray:
    """`read_dicom` in another process, which is this file run as a script and waits for the next film afterwards.

    Decoders of compressed films are C++, and some damaged ones end the process (gdcm: "terminate called").
    """
    reused = True
    try:
        worker = _IDLE.pop()
    except IndexError:
        reused = False
        command = [sys.executable, "-P", __file__]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(f"{json.dumps([str(path.absolute()), PATIENCE])}\n".encode())
        worker.stdin.flush()
        kind, said = json.loads(worker.stdout.readline())
        if kind == "film":
            film = np.frombuffer(worker.stdout.read(4 * math.prod(said)), dtype=np.float32).reshape(said)
    except (OSError, ValueError):  # the worker has ended, in the middle of its answer or before
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(1)
        ended = worker.poll()
        worker.kill()
        worker.wait()
        if reused:  # it may have died before it was asked
            return _read_elsewhere(path)
        if ended == -9:  # by the system, where memory is short: no fault of the film
            raise MemoryError("the process that decodes compressed films was killed") from None
        raise ValueError(f"its decoder crashes or takes more than {PATIENCE:g} seconds") from None
    except BaseException:  # interrupted: the answer to come is nobody's
        worker.kill()
        raise
    _IDLE.append(worker)
    if kind == "film":
        return film.copy()  # writable
    raise {"unfit": UnfitFilmError, "memory": MemoryError}.get(kind, ValueError)(said)


def _serve() -> None:
    """Answer paths with a line of JSON, and the pixels of a film behind it, until the process that asks has ended."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what decoders print is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    while True:
        asked = sys.stdin.readline()
        if not asked:
            return
        path, patience = json.loads(asked)
        film = b""
        if hasattr(signal, "setitimer"):  # not on Windows; the alarm ends the process, in C++ too
            signal.setitimer(signal.ITIMER_REAL, patience)
        try:
            grey = read_dicom(Path(path), isolate=False)
            answer, film = ("film", grey.shape), grey.tobytes()
        except UnfitFilmError as error:
            answer = ("unfit", str(error))
        except MemoryError as error:
            answer = ("memory", str(error))
        except Exception as error:
            answer = ("broken", f"{type(error).__name__}: {error}")
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(f"{json.dumps(answer)}\n".encode() + film)
        answers.flush()


if __name__ == "__main__":
    _serve()
