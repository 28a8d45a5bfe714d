"""Grounding of MS-CXR's size and 5x200 retrieval from cached maps and embeddings, against a per-sample loop.

The maps are noise of the right shape: smoothed 14x14 patch grids, bilinear on the inner 7/8 of the film, NaN outside.
Times are the fastest of the repeats, and the time that all cores worked beside it, which a busy machine changes less.
The loop runs once, on one core, as the peers' does; it computes two of the six metrics and has no bootstrap.
"""

import argparse
import json
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgdea_core.crops import boxes_mask, crop_frame, crop_to_original
from lgdea_core.evaluation.bootstrap import Bootstrap
from lgdea_core.evaluation.grounding import METRICS, THRESHOLDS, grounding_table, score_maps
from lgdea_core.evaluation.retrieval import nearest, precision_at_k, recall_at_k, retrieval_ranks

PHRASES = {
    "atelectasis": 61,
    "cardiomegaly": 333,
    "consolidation": 117,
    "edema": 46,
    "lung opacity": 82,
    "pleural effusion": 96,
    "pneumonia": 182,
    "pneumothorax": 245,
}
"""Phrase-image pairs of MS-CXR (BioViL, ECCV 2022): 1,162 of about 850 patients."""
PATIENTS = 850 / 1162
"""patients for each pair"""
LOOPED = ("cnr_signed", "miou_afloc")
"""what the per-sample loop computes"""
PRECISIONS, RECALLS = (5, 10, 50, 100), (1, 5, 10)
TOLERANCE = 1e-6


class Timed(NamedTuple):
    """Result of a function with the fastest of several runs: seconds passed, and seconds of all cores in that run."""

    result: Any
    seconds: float
    core_seconds: float


def main() -> None:
    """Print what each part takes, and how often faster the whole is than the loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--pairs", type=int, default=sum(PHRASES.values()), help="phrase-image pairs")
    parser.add_argument("--size", type=int, default=512, help="side of a map in pixels")
    parser.add_argument("--images", type=int, default=1000, help="of retrieval, and as many reports; 5 classes")
    parser.add_argument("--dim", type=int, default=512, help="of the embeddings")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="read the maps from the disk, not the page cache (Linux)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table, difference = benchmark(Path(folder), arguments)
    print(table.to_string(index=False, float_format="{:.2f}".format))
    parts = table.set_index("part")
    reading = parts.loc[parts.index.str.startswith("read"), "seconds"].sum() / parts.loc["all of it", "seconds"]
    print(f"reading is {reading:.0%} of all of it; loop and package differ by at most {difference:.0e}")
    for part in ("all of it", "the two alone"):
        ratios = parts.loc["loop"] / parts.loc[part]
        print(f"loop / {part}: {ratios['seconds']:.1f} in time, {ratios['core seconds']:.1f} in work")
    if arguments.json:
        rows = table.assign(loop_seconds=parts.loc["loop", "seconds"]).to_dict("records")
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def benchmark(folder: Path, arguments: argparse.Namespace) -> tuple[pd.DataFrame, float]:
    """Seconds of every part, and the largest difference between loop and package.

    Raises:
        RuntimeError: they differ by more than `TOLERANCE`.
    """
    rng = np.random.default_rng(arguments.seed)
    write_maps(folder, arguments.pairs, arguments.size, rng)
    write_embeddings(folder, arguments.images, arguments.dim, rng)
    findings = rng.choice(list(PHRASES), arguments.pairs, p=np.array(list(PHRASES.values())) / sum(PHRASES.values()))
    patients = rng.integers(max(2, round(PATIENTS * arguments.pairs)), size=arguments.pairs)
    bootstrap, repeats = Bootstrap(resamples=arguments.resamples, seed=arguments.seed), arguments.repeats

    files = [folder / "maps.npy", folder / "masks.npy"]
    if arguments.cold:
        evict(files)
    read = timed(lambda: [read_mapped(file) for file in files], 1 if arguments.cold else repeats)
    maps, masks = read.result
    scored = timed(lambda: score_maps(maps, masks), repeats)
    tabled = timed(lambda: grounding_table(scored.result, findings, patients, bootstrap), repeats)
    embedded = timed(lambda: (np.load(folder / "images.npy"), np.load(folder / "reports.npy")), repeats)
    retrieved = timed(lambda: retrieval(*embedded.result, bootstrap), repeats)
    parts = {
        "read maps and masks": read,
        f"{len(METRICS)} grounding metrics": scored,
        "grounding bootstraps": tabled,
        "read embeddings": embedded,
        "retrieval with bootstraps": retrieved,
    }
    whole = Timed(None, sum(part.seconds for part in parts.values()), sum(part.core_seconds for part in parts.values()))
    alone = timed(lambda: score_maps(maps, masks, metrics=LOOPED), repeats)
    looped = timed(lambda: per_sample_loop(maps, masks), 1)
    difference = float(np.nanmax(np.abs(scored.result[list(LOOPED)].to_numpy() - looped.result)))
    if difference > TOLERANCE or (np.isnan(looped.result) != scored.result[list(LOOPED)].isna().to_numpy()).any():
        raise RuntimeError(f"{', '.join(LOOPED)}: the loop and score_maps differ by {difference:.1e}")
    parts |= {"all of it": whole, "the two alone": alone, "loop": looped}
    rows = [{"part": name, "seconds": part.seconds, "core seconds": part.core_seconds} for name, part in parts.items()]
    return pd.DataFrame(rows), difference


def timed(function: Callable[[], Any], repeats: int) -> Timed:
    """Run a function several times and keep the fastest."""
    runs = []
    for _ in range(repeats):
        start, worked = time.perf_counter(), time.process_time()
        result = function()
        runs.append(Timed(result, time.perf_counter() - start, time.process_time() - worked))
    return min(runs, key=lambda run: run.seconds)


def evict(files: list[Path]) -> None:
    """Drop files from the page cache."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_mapped(path: Path) -> np.ndarray:
    """An array in a file, mapped into memory, with every page brought in."""
    array = np.asarray(np.load(path, mmap_mode="r"))
    array.reshape(-1).view(np.uint8)[:: mmap.PAGESIZE].max()
    return array


def write_maps(folder: Path, pairs: int, size: int, rng: np.random.Generator) -> None:
    """`maps.npy`, as BioViL-T leaves them, and `masks.npy`: the union of one to three boxes inside the crop."""
    margin = size // 16
    side = size - 2 * margin
    inner, frame = slice(margin, margin + side), crop_frame(side, side, side)
    maps = np.lib.format.open_memmap(folder / "maps.npy", "w+", np.float32, (pairs, size, size))
    masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.bool_, (pairs, size, size))
    for similarity_map, mask in zip(maps, masks, strict=True):
        grid = gaussian_filter(rng.normal(0.1, 1.0, (14, 14)), sigma=1.5)
        similarity_map[:] = np.nan
        similarity_map[inner, inner] = crop_to_original(np.clip(grid, -1, 1), frame)
        corners = margin + side * rng.uniform(0, 0.7, (rng.integers(1, 4), 2))
        boxes = np.concatenate([corners, corners + side * rng.uniform(0.1, 0.3, corners.shape)], axis=1)
        mask[:] = boxes_mask(boxes, size, size)


def write_embeddings(folder: Path, images: int, dim: int, rng: np.random.Generator) -> None:
    """`images.npy` and `reports.npy`, row i of both of one study; neighbours of a class are a little alike."""
    classes, studies = rng.normal(size=(5, dim)), rng.normal(size=(images, dim))
    for name in ("images", "reports"):
        embeds = 0.3 * classes[np.arange(images) % 5] + 0.3 * studies + rng.normal(size=(images, dim))
        np.save(folder / f"{name}.npy", (embeds / np.linalg.norm(embeds, axis=1, keepdims=True)).astype(np.float32))


def retrieval(
    image_embeds: Float[np.ndarray, "images dim"],
    report_embeds: Float[np.ndarray, "reports dim"],
    bootstrap: Bootstrap,
) -> dict[str, float]:
    """Precision by class and recall both ways over distinct texts, each with its bootstrap; one report in five is
    another's copy."""
    count = len(image_embeds)
    classes, patients = (np.arange(count) % 5).tolist(), np.arange(count) * 9 // 10
    texts = np.where(np.arange(count) % 5 == 0, 0, np.arange(count)).tolist()
    ranking = nearest(image_embeds, report_embeds, min(max(PRECISIONS), count))
    ranks = retrieval_ranks(image_embeds, report_embeds, texts, texts)
    values = {f"P@{k}": precision_at_k(ranking, classes, classes, k) for k in PRECISIONS if k <= count}
    groups = dict.fromkeys(values, patients)
    for name, direction, rows in (
        ("image to text", ranks.image_to_text, np.arange(count)),
        ("text to image", ranks.text_to_image, ranks.text_rows),
    ):
        values |= {f"{name} R@{k}": recall_at_k(direction, k) for k in RECALLS}
        groups |= {f"{name} R@{k}": patients[rows] for k in RECALLS}
    return {name: bootstrap.mean(value, groups[name]).estimate for name, value in values.items()}


def per_sample_loop(
    maps: Float[np.ndarray, "samples height width"], masks: Bool[np.ndarray, "samples height width"]
) -> Float[np.ndarray, "samples 2"]:
    """CNR (signed) and mIoU, one map after the other, in the manner of `eval/metric.py` of MaCo and AFLoc.

    Every threshold stretches the map anew and makes a whole binary map, its intersection and its union. The peers
    compute CNR again at every threshold, and drop pixels of two boxes from it: neither is copied. In float64, for in
    float32 some pixels beside a threshold change sides.
    """
    rows = []
    for similarity_map, mask in zip(maps, masks, strict=True):
        unseen = np.isnan(similarity_map)
        seen, truth = stretched(similarity_map)[~unseen], mask[~unseen]
        inside, outside = seen[truth], seen[~truth]
        noise = np.sqrt(inside.var() + outside.var())
        contrast = (inside.mean() - outside.mean()) / noise if noise > 0 else 0.0
        ious = [loop_iou(stretched(similarity_map) > threshold, mask, unseen) for threshold in THRESHOLDS]
        rows.append((contrast, np.nanmean(ious)))
    return np.array(rows)


def stretched(similarity_map: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """A map in [-1, 1] by its own minimum and maximum."""
    values = similarity_map.astype(np.float64)
    low, high = np.nanmin(values), np.nanmax(values)
    return (values - low) / (high - low) * 2 - 1


def loop_iou(
    predicted: Bool[np.ndarray, "height width"],
    mask: Bool[np.ndarray, "height width"],
    unseen: Bool[np.ndarray, "height width"],
) -> float:
    """Intersection over union of the seen pixels; NaN where one side is empty."""
    predicted, truth = predicted[~unseen], mask[~unseen]
    if not predicted.sum() or not truth.sum():
        return float("nan")
    return float(np.logical_and(predicted, truth).sum() / np.logical_or(predicted, truth).sum())


if __name__ == "__main__":
    main()
