"""Image files as grey arrays, the crop a tower sees, and the way back to original pixels."""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from tqdm.auto import tqdm

from lgdea_core.crops import crop_digest, crop_image
from lgdea_core.data.corpus import Corpus, quoted
from lgdea_core.data.dicom import UnfitFilmError, decoders, is_dicom, read_dicom, read_dicom_size

logger = logging.getLogger("lgdea")

MIN_SIDE = 32
"""shortest side, in pixels, that is still taken for a radiograph"""
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
"""what is opened besides DICOM; Pillow knows more, some of which run programs (EPS)"""
RASTERS = (".png", ".jpg", ".jpeg")
"""names of files that no DICOM has"""
CACHE_VERSION = 3
"""part of a cache's name; raise it when reading, cropping or the listing changes (3: hashes of the crops)"""


def read_image(path: Path) -> Float[np.ndarray, "height width"]:
    """Grey image in [0, 1] as float32, from PNG, JPEG or DICOM.

    Colour and palette images become luminance; an alpha channel is dropped, not blended. A 16-bit file is divided by
    4095 where no value exceeds that (12 bits in a 16-bit container: detectors deliver 12) and by 65535 otherwise; never
    by its own maximum, so that exposure stays what it was. DICOM: rescale slope or modality LUT, then the VOI LUT or
    window, scaled by its own range; a window of width 0 is none. Without any, 8-bit pixels keep their range and deeper
    ones run from their minimum to their maximum. MONOCHROME1 is inverted; padding (PixelPaddingValue) does not count
    and is black. Compressed DICOM needs a decoder, which the error names.

    Args:
        path: the file; `.dcm`, `.dicom`, a `DICM` preamble or a first element of group 0002 or 0008 make it DICOM.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: whatever a decoder finds wrong; a value is not finite; all pixels have the same value; or a side is
            under `MIN_SIDE`.
    """
    with _named_errors(path):
        image = read_dicom(path) if is_dicom(path) else _read_raster(path)
        if image.min() == image.max() or not np.isfinite(image).all():
            raise UnfitFilmError("all its pixels have the same value, or one is not finite")
    _check_sides(path, *image.shape)
    return image


def read_image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels, from the file's header alone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the header cannot be read, or a side is under `MIN_SIDE`.
    """
    with _named_errors(path):
        if is_dicom(path):
            height, width = read_dicom_size(path)
        else:
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
    _check_sides(path, height, width)
    return height, width


def read_mask(path: Path) -> Bool[np.ndarray, "height width"]:
    """True where a mask file is non-zero.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or no image.
    """
    with _named_errors(path), Image.open(path, formats=FORMATS) as image:
        return np.asarray(image if image.mode in ("1", "L", "I;16", "I", "F") else image.convert("L")) != 0


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into an error that names the file: one bad file never ends a corpus."""
    if not os.path.isfile(path):  # unlike Path.is_file, also False for a name that no file can have
        raise FileNotFoundError(f"no image at {path}")
    try:
        yield
    except MemoryError:  # of the machine, not of the file
        raise
    except UnfitFilmError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split()).replace(str(path), path.name)}"[:300]
        raise ValueError(f"{path} cannot be read as an image, fetch it again: {reason}") from error


def _check_sides(path: Path, height: int, width: int) -> None:
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"{path}: sides must be at least {MIN_SIDE} pixels, got {height} x {width} (height x width)")


def _read_raster(path: Path) -> Float[np.ndarray, "height width"]:
    with Image.open(path, formats=FORMATS) as image:
        if image.mode in ("I;16", "I;16B", "I;16L", "I"):
            values = np.asarray(image).astype(np.int64)
            low, high = int(values.min()), int(values.max())
            if low < 0 or high > 65535:
                raise UnfitFilmError(f"values must fit 16 bits without sign, got {low} to {high}")
            return (values / (4095 if high <= 4095 else 65535)).astype(np.float32)
        if image.mode == "F":
            raise UnfitFilmError("pixel format F (32-bit float) has no agreed range; store 8 or 16 bits")
        if image.mode in ("RGBA", "PA", "RGBa"):
            image = image.convert("RGBA").convert("RGB")  # RGB as stored: transparent pixels keep their grey
        elif image.mode == "P":
            image = image.convert("RGB")
        return np.asarray(image.convert("L"), dtype=np.float32) / 255


@dataclass(frozen=True, kw_only=True)
class ImageStore:
    """The crops of a corpus's readable images, and why the others are missing."""

    pixels: UInt8[np.ndarray, "images height width"]
    """one row per readable image; read-only and memory-mapped where it comes from a cache"""
    image_ids: tuple[str, ...]
    """image of each row"""
    excluded: dict[str, str]
    """image -> why it could not be read"""
    digests: tuple[str, ...] | None = None
    """`crop_digest` of each row, noted when it was decoded: nobody reads a whole cache to know whose it is"""

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row of each image."""
        return {image_id: row for row, image_id in enumerate(self.image_ids)}


def load_images(
    corpus: Corpus, size: int, cache_dir: Path | None = None, progress: bool = True, workers: int | None = None
) -> ImageStore:
    """Read, crop and stack every image of a corpus, in the order of its table.

    An unreadable or missing image is left out, logged and listed in `excluded`. With a cache folder the crops are
    written once (to a temporary name, then renamed) and reused while image ids, files' sizes and times, and `size` stay
    the same; an unreadable file stays excluded until it changes, or, of DICOM, another decoder is installed.

    Args:
        corpus: whose images.
        size: side of the crops, in pixels.
        cache_dir: made if need be; None keeps the crops in memory.
        progress: show a bar.
        workers: threads that decode files; None takes up to 8 of the machine's cores.

    Raises:
        ValueError: the corpus has no image, or none of its images can be read.
    """
    if corpus.images.empty:
        raise ValueError(f"corpus {corpus.name!r} has no images, so there is nothing to load")
    image_ids = corpus.images["image_id"].tolist()
    paths = [corpus.root / path for path in corpus.images["path"]]
    if cache_dir is None:
        pixels = np.zeros((len(paths), size, size), dtype=np.uint8)
        return _checked(corpus, _decode(image_ids, paths, pixels, progress, workers))
    cache_dir.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(f"{CACHE_VERSION} {size}".encode())
    for image_id, path in zip(image_ids, paths, strict=True):
        stat = path.stat() if os.path.isfile(path) else None
        digest.update(repr((image_id, stat and (stat.st_size, stat.st_mtime_ns))).encode())
    if not all(path.suffix.lower() in RASTERS for path in paths):
        digest.update(repr(decoders()).encode())
    crops = cache_dir / f"images-{digest.hexdigest()[:24]}.npy"
    listing, part = crops.with_suffix(".json"), crops.with_name(f"{crops.stem}-{uuid.uuid4().hex}.part")
    fresh = not (listing.is_file() and crops.is_file())
    if fresh:
        try:
            pixels = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(paths), size, size))
            store = _checked(corpus, _decode(image_ids, paths, pixels, progress, workers))
            if store.excluded:  # the file was sized for all images: write a shorter copy
                np.save(part.with_suffix(".npy"), store.pixels)
                part.with_suffix(".npy").replace(crops)
            else:
                part.replace(crops)
            listed = {"image_ids": store.image_ids, "digests": store.digests, "excluded": store.excluded}
            part.write_text(json.dumps(listed))
            part.replace(listing)  # comes last: its presence says that the cache is whole
        finally:
            part.unlink(missing_ok=True)
    values = json.loads(listing.read_text())
    pixels = np.load(crops, mmap_mode="r")
    names, digests = tuple(values["image_ids"]), tuple(values["digests"])
    store = ImageStore(pixels=pixels, image_ids=names, excluded=values["excluded"], digests=digests)
    return store if fresh else _checked(corpus, store)


def _decode(
    image_ids: list[str],
    paths: list[Path],
    pixels: UInt8[np.ndarray, "images height width"],
    progress: bool,
    workers: int | None,
) -> ImageStore:
    """Fill `pixels` from the front with the crops of the readable images."""
    kept: dict[str, str] = {}
    excluded: dict[str, str] = {}

    def crop(path: Path) -> tuple[np.ndarray, str] | str:
        try:
            made = crop_image(read_image(path), pixels.shape[1])
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        return made, crop_digest(made)

    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        crops = tqdm(pool.map(crop, paths), total=len(paths), unit="image", desc="images", disable=not progress)
        for image_id, result in zip(image_ids, crops, strict=True):
            if isinstance(result, str):
                excluded[image_id] = result
            else:
                pixels[len(kept)], kept[image_id] = result
    return ImageStore(
        pixels=pixels[: len(kept)], image_ids=tuple(kept), excluded=excluded, digests=tuple(kept.values())
    )


def _checked(corpus: Corpus, store: ImageStore) -> ImageStore:
    if not store.image_ids:
        first = next(iter(store.excluded.values()))
        raise ValueError(f"corpus {corpus.name!r}: none of its {len(store.excluded)} images can be read; one: {first}")
    if store.excluded:
        logger.warning("corpus %s: %d images left out as unreadable", corpus.name, len(store.excluded))
        for image_id, reason in list(store.excluded.items())[:5]:
            logger.warning("image %s: %s", quoted(image_id), reason)
    return store
