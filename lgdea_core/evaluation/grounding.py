"""Phrase grounding: how well a similarity map agrees with the annotated pixels, as named protocols.

A sample is one phrase on one image with the union of its boxes. Pixels that the crop never showed are NaN and count
nowhere, neither inside nor outside nor in a union. With the seen values split into `inside` and `outside` the mask,
every metric here is a function of these two sets alone. They are sorted once: counts above a threshold, extremes and
the AUC are then look-ups.

Smoothing (a Gaussian of sigma 1.5 on the patch grid in BioViL's protocol) and upsampling are done by whoever makes the
map; all metrics but the AUC and pointing change with them.
"""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from lgdea_core.evaluation.bootstrap import Interval, Keys, bootstrap_macro_mean, bootstrap_mean

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Cosine thresholds of mIoU (BioViL-T, section 4; the same five in MaCo and AFLoc)."""

METRICS = ("cnr_signed", "cnr_absolute", "miou_biovil_t", "miou_afloc", "pointing", "pixel_auc")
"""Named variants that `score_maps` computes."""

_BLOCK = 64

Map = Float[np.ndarray, "height width"]
Mask = Bool[np.ndarray, "height width"]


def cnr(similarity_map: Map, mask: Mask, variant: Literal["signed", "absolute"] = "signed") -> float:
    """Contrast-to-noise ratio between the annotated pixels and the rest (BioViL, ECCV 2022, section 4.3).

        signed   = (mean(inside) - mean(outside)) / sqrt(var(inside) + var(outside)),   population variances
        absolute = |signed|

    BioViL prints the absolute form, in which a map that looks everywhere but at the lesion scores well; the code of
    MaCo and AFLoc is signed, and so is the default. MaCo and AFLoc drop pixels where two boxes overlap (their mask is
    a sum), others average over boxes; here a sample is the union. Positive affine changes of the map do not matter.
    0 where both variances are 0, as in MaCo. NaN, to be excluded, where no pixel inside or none outside was seen.

    Args:
        similarity_map: any scale; NaN where unseen.
        mask: True on the annotated pixels, the union of a phrase's boxes.

    Raises:
        ValueError: the mask is empty or not boolean, it is no single map, the map is infinite somewhere, or an unknown
            variant.
    """
    _check_name("cnr", variant, ("signed", "absolute"))
    contrast = _contrast(*_split(similarity_map, mask, "mask"))
    return abs(contrast) if variant == "absolute" else contrast


def miou(similarity_map: Map, mask: Mask, protocol: Literal["biovil_t", "afloc"] = "biovil_t") -> float:
    """Intersection over union of the thresholded map with the mask, averaged over `THRESHOLDS`.

        IoU(t) = |inside > t| / (|inside| + |outside > t|)

    `biovil_t` (BioViL-T, CVPR 2023): raw cosine, clamped at 0 (which no threshold notices), strict `>`; an empty
    prediction scores 0. The denominator counts seen pixels only, where BioViL-T's re-implementations also count
    annotated pixels outside the crop. `afloc` (MaCo and AFLoc): the map is first stretched to [-1, 1] by its own
    minimum and maximum, so that something always exceeds every threshold; a constant map, which predicts nothing, is
    skipped (NaN) instead of scoring 0. The two protocols are not comparable.

    Args:
        similarity_map: cosine in [-1, 1]; NaN where unseen.
        mask: True on the annotated pixels, the union of a phrase's boxes.

    Returns:
        In [0, 1]; NaN, to be excluded, where no annotated pixel was seen.

    Raises:
        ValueError: the mask is empty.
    """
    _check_name("miou", protocol, ("biovil_t", "afloc"))
    inside, outside = _split(similarity_map, mask, "mask")
    return _iou_afloc(inside, outside) if protocol == "afloc" else _iou(inside, outside)


def pointing(similarity_map: Map, mask: Mask, ties: Literal["any", "share"] = "any") -> float:
    """Pointing game: whether the map's maximum lies on an annotated pixel (MaCo, AFLoc).

    Upsampled maps reach their maximum on a whole patch. `any` counts a hit if one such pixel is annotated; `share` is
    the annotated share of them, the chance of a hit if one is drawn. A constant map points nowhere and scores 0 under
    `any` (MaCo's code would count a hit); under `share` it scores the mask's share of the seen pixels.

    Args:
        similarity_map: any scale; NaN where unseen.
        mask: True on the annotated pixels.

    Returns:
        0 or 1 (`any`), in [0, 1] (`share`); NaN, to be excluded, where no annotated pixel was seen.

    Raises:
        ValueError: the mask is empty.
    """
    _check_name("pointing", ties, ("any", "share"))
    return _pointing(*_split(similarity_map, mask, "mask"), ties=ties)


def pixel_auc(similarity_map: Map, mask: Mask) -> float:
    """Area under the ROC curve of pixels: how often an annotated pixel exceeds another one, a tie counting half.

        AUC = mean over inside x outside of [inside > outside] + [inside = outside] / 2

    It equals `sklearn.metrics.roc_auc_score` on the seen pixels (tested), from two plain sorts, hence faster.
    NaN, to be excluded, where no pixel inside or none outside was seen.

    Args:
        similarity_map: any scale; NaN where unseen.
        mask: True on the annotated pixels.

    Raises:
        ValueError: the mask is empty.
    """
    return _auc(*_split(similarity_map, mask, "mask"))


def score_maps(
    maps: Iterable[Float[np.ndarray, "_ _"]],
    masks: Iterable[Bool[np.ndarray, "_ _"]],
    metrics: Sequence[str] = METRICS,
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Every metric of every sample, one row each; maps may differ in size and come from a generator.

    Args:
        maps: similarity maps, NaN where unseen; an array (batch, height, width) will do.
        masks: as many masks.
        metrics: some of `METRICS`.
        names: what to call the samples in an error and in the index; their number by default.

    Returns:
        One column per metric; NaN where a sample has to be excluded.

    Raises:
        ValueError: unknown metric, an empty mask, or not as many masks, or names, as maps.
    """
    unknown = set(metrics) - set(METRICS)
    if unknown:
        raise ValueError(f"score_maps: unknown metric(s) {sorted(unknown)}; choose among {', '.join(METRICS)}")
    samples = _named(zip(maps, masks, strict=True), names)
    functions = [_METRICS[metric] for metric in metrics]

    def score(name: object, similarity_map: np.ndarray, mask: np.ndarray) -> tuple[object, list[float]]:
        inside, outside = _split(similarity_map, mask, f"mask of sample {name!r}")
        return name, [function(inside, outside) for function in functions]

    scored = []
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # sorting and searching release the GIL
        while block := list(itertools.islice(samples, _BLOCK)):  # a block at a time: a generator stays lazy
            scored += pool.map(score, *zip(*block, strict=True))
    index = [name for name, _ in scored]
    return pd.DataFrame([row for _, row in scored], columns=list(metrics), index=index, dtype=float)


def grounding_table(
    scores: pd.DataFrame, categories: Keys, groups: Keys, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """Metrics per category and as macro mean over categories, with intervals over resampled patients.

    Args:
        scores: from `score_maps`, one row per sample.
        categories: the finding of each sample.
        groups: the patient of each sample.
        resamples: bootstrap draws.
        seed: fixes the draws.
        level: share of the draws inside the interval, in (0, 1).

    Returns:
        Columns metric, category, estimate, low, high, n, patients, excluded, degenerate; category "macro" is the mean
        over categories. `excluded` counts samples without a value: what was annotated lies outside the crop (or, for
        CNR and AUC, nothing else was seen; for `miou_afloc`, the map is constant).
    """
    categories, groups = np.asarray(categories, dtype=object), np.asarray(groups, dtype=object)
    rows = []
    for metric in scores.columns:
        values = scores[metric].to_numpy(dtype=float)
        for category in sorted(set(categories)):
            inside = categories == category
            interval = _interval_or_none(values[inside], groups[inside], resamples, seed, level)
            rows.append(_row(metric, category, interval, values[inside]))
        macro = None
        if np.isfinite(values).any():
            macro = bootstrap_macro_mean(values, categories, groups, resamples=resamples, seed=seed, level=level)
        rows.append(_row(metric, "macro", macro, values))
    return pd.DataFrame(rows)


def _named(
    samples: Iterable[tuple[np.ndarray, np.ndarray]], names: Sequence[str] | None
) -> Iterator[tuple[object, np.ndarray, np.ndarray]]:
    if names is None:
        yield from ((number, *sample) for number, sample in enumerate(samples))
    else:
        yield from ((name, *sample) for name, sample in zip(names, samples, strict=True))


def _split(similarity_map: np.ndarray, mask: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Seen values inside and outside the mask, each in ascending order."""
    if similarity_map.ndim != 2 or similarity_map.shape != mask.shape:
        raise ValueError(
            f"{name}: expected one map (height, width) and a mask like it, got {similarity_map.shape} and "
            f"{mask.shape}; several maps go to score_maps"
        )
    if mask.dtype != bool:
        raise ValueError(f"{name}: expected booleans, got {mask.dtype}; mask > 0 is the union of its boxes")
    if not mask.any():
        raise ValueError(f"{name} is empty: no pixel is annotated; leave samples without a box out")
    seen = ~np.isnan(similarity_map)
    parts = np.sort(similarity_map[seen & mask]), np.sort(similarity_map[seen & ~mask])
    if any(np.isinf(part[[0, -1]]).any() for part in parts if part.size):
        raise ValueError(f"{name}: its map is infinite somewhere; only NaN stands for an unseen pixel")
    return parts


def _check_name(metric: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f"{metric}: no variant {name!r}; there are {', '.join(known)}")


def _contrast(inside: np.ndarray, outside: np.ndarray) -> float:
    if not (inside.size and outside.size):
        return float("nan")
    (mean_in, var_in), (mean_out, var_out) = _moments(inside), _moments(outside)
    noise = np.sqrt(var_in + var_out)
    return float((mean_in - mean_out) / noise) if noise > 0 else 0.0


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and population variance.

    Counted from the median, which is within a standard deviation of the mean: the difference of squares loses a bit at
    most, and a constant's variance is exactly 0.
    """
    median = np.float64(values[values.size // 2])
    centred = values - median
    mean = centred.mean()
    return float(median + mean), float(max(0.0, centred @ centred / values.size - mean * mean))


def _iou(inside: np.ndarray, outside: np.ndarray, scale: Callable[[np.floating], np.floating] | None = None) -> float:
    """Mean over the thresholds; `scale`, which keeps the order, is applied to the few values a search looks at."""
    if not inside.size:
        return float("nan")
    above = [[part.size - bisect_right(part, t, key=scale) for part in (inside, outside)] for t in THRESHOLDS]
    return float(np.mean([hits / (inside.size + misses) for hits, misses in above]))


def _iou_afloc(inside: np.ndarray, outside: np.ndarray) -> float:
    if not inside.size:
        return float("nan")
    low, high = _ends(inside, outside)
    if low == high:
        return float("nan")
    return _iou(inside, outside, lambda value: (value - low) / (high - low) * 2 - 1)


def _ends(inside: np.ndarray, outside: np.ndarray) -> tuple[np.float64, np.float64]:
    """Smallest and largest value."""
    parts = [part for part in (inside, outside) if part.size]
    return np.float64(min(part[0] for part in parts)), np.float64(max(part[-1] for part in parts))


def _pointing(inside: np.ndarray, outside: np.ndarray, ties: str = "any") -> float:
    if not inside.size:
        return float("nan")
    low, peak = _ends(inside, outside)
    hits, misses = (part.size - bisect_left(part, peak) for part in (inside, outside))
    if ties == "share":
        return hits / (hits + misses)
    return float(hits > 0 and low < peak)


def _auc(inside: np.ndarray, outside: np.ndarray) -> float:
    if not (inside.size and outside.size):
        return float("nan")
    below = np.searchsorted(outside, inside, side="left").sum(dtype=np.float64)
    upto = np.searchsorted(outside, inside, side="right").sum(dtype=np.float64)
    return float((below + upto) / 2 / inside.size / outside.size)


_METRICS = {
    "cnr_signed": _contrast,
    "cnr_absolute": lambda inside, outside: abs(_contrast(inside, outside)),
    "miou_biovil_t": _iou,
    "miou_afloc": _iou_afloc,
    "pointing": _pointing,
    "pixel_auc": _auc,
}


def _interval_or_none(
    values: np.ndarray, groups: np.ndarray, resamples: int, seed: int, level: float
) -> Interval | None:
    if not np.isfinite(values).any():
        return None
    return bootstrap_mean(values, groups, resamples=resamples, seed=seed, level=level)


def _row(metric: str, category: str, interval: Interval | None, values: np.ndarray) -> dict[str, object]:
    """One line of `grounding_table`; a category without any value keeps its line."""
    missing = float("nan")
    return {
        "metric": metric,
        "category": category,
        "estimate": interval.estimate if interval else missing,
        "low": interval.low if interval else missing,
        "high": interval.high if interval else missing,
        "n": interval.n if interval else 0,
        "patients": interval.groups if interval else 0,
        "excluded": int(np.isnan(values).sum()),
        "degenerate": interval.degenerate if interval else 0,
    }
