"""Damaged DICOM, PNG and JPEG files: does any of them end a corpus? `python benchmarks/fuzz_images.py --files 10000`.

Each file is a sound one with bytes flipped, cut off, doubled, zeroed, or swapped with another file's; in DICOM an
element that readers trust may get a foolish value. It is read as the loaders read films: its size, then its pixels. It
must come out as a finite image of several values, or as a `ValueError` that names the file. Everything else is an
escape: another error, an array that no film has, a crash of the process, a file that takes more than a minute.

Prints one line of counts; `--json` writes it as a row of the table of faults.
"""

import argparse
import io
import json
import multiprocessing
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image

from lgdea_core.data.images import read_image, read_image_size

TRUSTED = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "RescaleSlope", "RescaleIntercept",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "PixelPaddingValue", "PixelPaddingRangeLimit",
)  # fmt: skip
"""elements that decide how pixels are read"""
FOOLISH = (
    b"", b"0", b"-1", b"auto", b"2,0", b"nan", b"inf", b"-1e308\\1e308", b"MONOCHROME1\\MONOCHROME2", b"65535",
    b"1e400", b"\xff\xff", b"\x00\x00\x00\x00", b"9" * 16,
)  # fmt: skip
BATCH, PATIENCE = 100, 60
"""files a process reads in one go; seconds one of them may take"""


def sound_files() -> dict[str, bytes]:
    """Names and bytes of good files: pydicom's own test films, and PNG and JPEG of every mode."""
    folder = Path(pydicom.__file__).parent / "data/test_files"
    files = {path.name: path.read_bytes() for path in sorted(folder.glob("*.dcm")) if path.stat().st_size < 200_000}
    ramp = np.add.outer(np.arange(48), np.arange(40))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"):
        grey = Image.fromarray((ramp * 700).astype(np.uint16) if mode == "I;16" else (ramp * 2).astype(np.uint8))
        for kind in ("png", "jpg"):
            if (kind == "jpg") == (mode in ("LA", "P", "RGBA", "I;16", "1")) or (kind, mode) == ("png", "CMYK"):
                continue
            buffer = io.BytesIO()
            (grey if mode == "I;16" else grey.convert(mode)).save(buffer, format={"jpg": "JPEG"}.get(kind, kind))
            files[f"{mode.replace(';', '')}.{kind}"] = buffer.getvalue()
    return files


def damage(name: str, files: dict[str, bytes], rng: np.random.Generator) -> bytes:
    """The bytes of a file, damaged in one way or several."""
    data = files[name]
    if name.endswith("dcm") and rng.random() < 0.5:
        data = _foolish(data, rng)
    for _ in range(rng.integers(0 if data is not files[name] else 1, 4)):
        data = DAMAGES[rng.integers(len(DAMAGES))](data, files, rng)
    return data


def _foolish(data: bytes, rng: np.random.Generator) -> bytes:
    """An element gets a value that no film has, where its length says so too (explicit VR of two length bytes)."""
    name = TRUSTED[rng.integers(len(TRUSTED))]
    tag = pydicom.tag.Tag(name)
    head = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")
    value = FOOLISH[rng.integers(len(FOOLISH))]
    value += b" " * (len(value) % 2)
    kind = pydicom.datadict.dictionary_VR(tag)[:2].encode()
    element = head + kind + len(value).to_bytes(2, "little") + value
    at = data.find(head)
    if at < 0:  # put in front of the pixels
        at = data.rfind(b"\xe0\x7f\x10\x00")
        return data[:at] + element + data[at:] if at > 0 else data
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    return data[:at] + element + data[at + 8 + length :]


def _flipped(data: bytes, files: dict[str, bytes], rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    reach = len(out) if rng.random() < 0.5 else min(len(out), 1500)  # headers are a small part, and matter most
    for place in rng.integers(0, max(reach, 1), rng.integers(1, 9)) if out else ():
        out[place] = int(rng.integers(256))
    return bytes(out)


def _cut(data: bytes, files: dict[str, bytes], rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data) + 1)]


def _doubled(data: bytes, files: dict[str, bytes], rng: np.random.Generator) -> bytes:
    low, high = np.sort(rng.integers(0, len(data) + 1, 2))
    return data[:high] + data[low : min(high, low + 4096)] + data[high:]


def _without(data: bytes, files: dict[str, bytes], rng: np.random.Generator) -> bytes:
    low = int(rng.integers(len(data) + 1))
    return data[:low] + data[low + int(rng.integers(1, 200)) :]


def _spliced(data: bytes, files: dict[str, bytes], rng: np.random.Generator) -> bytes:
    other = files[sorted(files)[rng.integers(len(files))]]
    at = int(rng.integers(min(len(data), len(other)) + 1))
    return data[:at] + other[at:]


def _zeroed(data: bytes, files: dict[str, bytes], rng: np.random.Generator) -> bytes:
    low, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 2000))
    return data[:low] + b"\x00" * len(data[low : low + length]) + data[low + length :]


DAMAGES: tuple[Callable[[bytes, dict[str, bytes], np.random.Generator], bytes], ...] = (
    _flipped, _cut, _doubled, _without, _spliced, _zeroed,
)  # fmt: skip


def read(path: Path) -> str:
    """What became of a file: "read", "refused", or an escape in words."""
    outcomes = []
    for reader in (read_image_size, read_image):
        try:
            result = reader(path)
        except ValueError as error:
            outcomes.append("refused" if path.name in str(error) else "an error without the file's name")
        except Exception as error:
            return f"{type(error).__name__} from {reader.__name__}"
        else:
            sound = reader is read_image_size or (np.isfinite(result).all() and 0 <= result.min() < result.max() <= 1)
            outcomes.append("read" if sound else "no film's array")
    return outcomes[1] if outcomes[0] in ("read", "refused") else outcomes[0]


def read_batch(seed: int, first: int, count: int) -> list[tuple[str, str]]:
    """Kind and outcome of files number `first` and on; each is a function of seed and number."""
    warnings.simplefilter("ignore")
    pydicom.config.logger.disabled = True
    files, found = sound_files(), []
    names = sorted(files)
    kinds = {kind: [name for name in names if name.endswith(kind)] for kind in ("dcm", "png", "jpg")}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            rng = np.random.default_rng([seed, number])
            kind = ("dcm", "dcm", "png", "jpg")[number % 4]
            name = kinds[kind][rng.integers(len(kinds[kind]))]
            path = Path(folder) / f"{number}.{kind}"
            path.write_bytes(damage(name, files, rng))
            found.append((kind, read(path)))
            path.unlink()
    return found


def fuzz(files: int, seed: int) -> dict[str, object]:
    """Counts of what became of so many damaged files; a process that dies or hangs is an escape of each file in it."""
    began, outcomes = time.monotonic(), Counter()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context)
    pending = [(first, min(BATCH, files - first)) for first in range(0, files, BATCH)][::-1]
    while pending:
        first, count = pending.pop()
        try:
            outcomes.update(pool.submit(read_batch, seed, first, count).result(PATIENCE + count))
        except (BrokenProcessPool, TimeoutError) as error:
            for process in list(pool._processes.values()):
                process.kill()
            pool.shutdown(wait=False)
            pool = ProcessPoolExecutor(1, mp_context=context)
            if count == 1:  # found: it alone counts
                reason = "hang" if isinstance(error, TimeoutError) else "crash"
                outcomes["dcm" if first % 4 < 2 else ("png", "jpg")[first % 4 - 2], f"{reason} at number {first}"] += 1
            else:  # halves, until it is found
                pending += [(first + count // 2, count - count // 2), (first, count // 2)]
    pool.shutdown()
    escaped = {f"{kind}: {outcome}": n for (kind, outcome), n in outcomes.items() if outcome not in ("read", "refused")}
    row: dict[str, object] = {"kind": "damaged DICOM, PNG and JPEG files", "files": files, "seed": seed}
    for outcome in ("read", "refused"):
        row[outcome] = sum(n for (_, each), n in outcomes.items() if each == outcome)
    return row | {"escaped": sum(escaped.values()), "escapes": escaped, "seconds": round(time.monotonic() - began)}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status is 1 where a file escaped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the row")
    options = parser.parse_args(arguments)
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"no folder {options.json.absolute().parent} for --json")
    row = fuzz(options.files, options.seed)
    text = json.dumps(row, indent=1) + "\n"
    if options.json:
        options.json.write_text(text)
    sys.stdout.write(text)
    return 1 if row["escaped"] else 0


if __name__ == "__main__":
    sys.exit(main())
