"""Phrase grounding: how well a similarity map agrees with the annotated pixels, as named protocols (`METRICS`).

A sample is one phrase on one image with the union of its boxes. Pixels that the crop never showed are NaN and count
nowhere, neither inside nor outside nor in a union. With the seen values split into `inside` and `outside` the mask,
every metric is a function of these two sets alone, in any order. A metric is NaN, and the sample is excluded, where no
annotated pixel was seen.

Smoothing (a Gaussian of sigma 1.5 on the patch grid in BioViL's protocol) and upsampling are done by whoever makes the
map; all metrics but the AUC and pointing change with them.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from lgdea_core.evaluation.bootstrap import NO_INTERVAL, Bootstrap, Keys

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Cosine thresholds of mIoU (BioViL-T, section 4; the same five in MaCo and AFLoc)."""
_BLOCK = 64

Values = Float[np.ndarray, "pixels"]


def cnr_signed(inside: Values, outside: Float[np.ndarray, "others"]) -> float:
    """Contrast-to-noise ratio between the annotated pixels and the rest (BioViL, ECCV 2022, section 4.3).

        (mean(inside) - mean(outside)) / sqrt(var(inside) + var(outside)),   population variances

    BioViL prints the absolute form (`cnr_absolute`), in which a map that looks everywhere but at the lesion scores
    well; the code of MaCo and AFLoc is signed. MaCo and AFLoc drop pixels where two boxes overlap (their mask is a
    sum), others average over boxes; here a sample is the union. Positive affine changes of the map do not matter. 0
    where both variances are 0, as in MaCo. NaN also where no pixel outside was seen.
    """
    if not (inside.size and outside.size):
        return float("nan")
    (mean_in, var_in), (mean_out, var_out) = _moments(inside), _moments(outside)
    noise = np.sqrt(var_in + var_out)
    return float((mean_in - mean_out) / noise) if noise > 0 else 0.0


def miou_biovil_t(inside: Values, outside: Float[np.ndarray, "others"]) -> float:
    """Intersection over union of the thresholded map with the mask, averaged over `THRESHOLDS` (BioViL-T, CVPR 2023).

        IoU(t) = |inside > t| / (|inside| + |outside > t|)

    Raw cosine, clamped at 0 (which no threshold notices), strict `>`; an empty prediction scores 0. The denominator
    counts seen pixels only, where BioViL-T's re-implementations also count annotated pixels outside the crop.
    """
    return _mean_iou(inside, outside)


def miou_afloc(inside: Values, outside: Float[np.ndarray, "others"]) -> float:
    """As `miou_biovil_t`, but the map is first stretched to [-1, 1] by its own minimum and maximum (MaCo and AFLoc).

    Something then always exceeds every threshold; a constant map, which predicts nothing, is skipped (NaN) instead of
    scoring 0. The two protocols are not comparable.
    """
    if not inside.size:
        return float("nan")
    low, high = _ends(inside, outside)
    if low == high:
        return float("nan")
    return _mean_iou(*((part - low) / (high - low) * 2 - 1 for part in (inside, outside)))


def pointing_game(inside: Values, outside: Float[np.ndarray, "others"]) -> float:
    """Whether the map's maximum lies on an annotated pixel, 0 or 1 (MaCo, AFLoc).

    Upsampled maps reach their maximum on a whole patch: a hit is one such pixel that is annotated. A constant map
    points nowhere and scores 0 (MaCo's code would count a hit).
    """
    if not inside.size:
        return float("nan")
    low, peak = _ends(inside, outside)
    return float(inside.max() == peak and low < peak)


def pixel_auc(inside: Values, outside: Float[np.ndarray, "others"]) -> float:
    """Area under the ROC curve of pixels: how often an annotated pixel exceeds another one, a tie counting half.

        AUC = mean over inside x outside of [inside > outside] + [inside = outside] / 2

    It equals `sklearn.metrics.roc_auc_score` on the seen pixels (tested), from two plain sorts, hence faster. NaN also
    where no pixel outside was seen.
    """
    if not (inside.size and outside.size):
        return float("nan")
    inside, outside = np.sort(inside), np.sort(outside)
    below = np.searchsorted(outside, inside, side="left")
    tied = inside[outside[np.minimum(below, outside.size - 1)] == inside]
    ties = np.searchsorted(outside, tied, side="right").sum() - np.searchsorted(outside, tied, side="left").sum()
    return float((below.sum(dtype=np.float64) + ties / 2) / inside.size / outside.size)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "cnr_signed": cnr_signed,
    "cnr_absolute": lambda inside, outside: abs(cnr_signed(inside, outside)),
    "miou_biovil_t": miou_biovil_t,
    "miou_afloc": miou_afloc,
    "pointing": pointing_game,
    "pixel_auc": pixel_auc,
}
"""name -> function of the seen values inside and outside the mask"""


def split_pixels(
    similarity_map: Float[np.ndarray, "..."], mask: np.ndarray, name: str = "mask"
) -> tuple[Values, Float[np.ndarray, "others"]]:
    """Seen values inside and outside the mask.

    Args:
        similarity_map: (height, width), any scale; NaN where unseen.
        mask: True on the annotated pixels, the union of a phrase's boxes.
        name: what to call the mask in an error.

    Raises:
        ValueError: the mask is empty or not boolean, it is no single map, or the map is infinite somewhere or nowhere a
            number.
    """
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
    if not seen.any():
        raise ValueError(f"{name}: its map is NaN everywhere, but a crop sees something; are the weights numbers?")
    inside, outside = similarity_map[seen & mask], similarity_map[seen & ~mask]
    if np.isinf(_ends(inside, outside)).any():
        raise ValueError(f"{name}: its map is infinite somewhere; only NaN stands for an unseen pixel")
    return inside, outside


def score_maps(
    maps: Iterable[Float[np.ndarray, "_ _"]],
    masks: Iterable[Bool[np.ndarray, "_ _"]],
    metrics: Iterable[str] = tuple(METRICS),
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
    metrics = list(metrics)
    unknown = set(metrics) - set(METRICS)
    if unknown:
        raise ValueError(f"score_maps: unknown metric(s) {sorted(unknown)}; choose among {', '.join(METRICS)}")
    pairs = zip(maps, masks, strict=True)
    samples = enumerate(pairs) if names is None else zip(names, pairs, strict=True)

    def score(sample: tuple[object, tuple[np.ndarray, np.ndarray]]) -> tuple[object, list[float]]:
        name, (similarity_map, mask) = sample
        inside, outside = split_pixels(similarity_map, mask, f"mask of sample {name!r}")
        return name, [METRICS[metric](inside, outside) for metric in computed]

    computed = list(dict.fromkeys("cnr_signed" if metric == "cnr_absolute" else metric for metric in metrics))
    scored = []
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # sorting and counting release the GIL
        while block := list(itertools.islice(samples, _BLOCK)):  # a block at a time: a generator stays lazy
            scored += pool.map(score, block)
    index = [name for name, _ in scored]
    table = pd.DataFrame([row for _, row in scored], columns=computed, index=index, dtype=float)
    return table.assign(cnr_absolute=table["cnr_signed"].abs())[metrics] if "cnr_absolute" in metrics else table


def grounding_table(scores: pd.DataFrame, categories: Keys, patients: Keys, bootstrap: Bootstrap) -> pd.DataFrame:
    """Metrics per category and as macro mean over categories, with intervals over resampled patients.

    Args:
        scores: from `score_maps`, one row per sample.
        categories: the finding of each sample.
        patients: the patient of each sample.
        bootstrap: draws the intervals.

    Returns:
        Columns metric, category, estimate, low, high, n, patients, excluded, degenerate, warning; category "macro" is
        the mean over categories. `excluded` counts samples without a value: what was annotated lies outside the crop
        (or, for CNR and AUC, nothing else was seen; for `miou_afloc`, the map is constant). A category without any
        value keeps its row.
    """
    categories, patients = np.asarray(categories, dtype=object), np.asarray(patients, dtype=object)
    rows = []
    for metric in scores.columns:
        values = scores[metric].to_numpy(dtype=float)
        there = np.isfinite(values)
        for category in sorted(set(categories)):
            inside = categories == category
            found = bootstrap.mean(values[inside], patients[inside]) if there[inside].any() else NO_INTERVAL
            excluded = int(np.isnan(values[inside]).sum())
            rows.append({"metric": metric, "category": category, **asdict(found), "excluded": excluded})
        macro = bootstrap.macro_mean(values, categories, patients) if there.any() else NO_INTERVAL
        excluded = int(np.isnan(values).sum())
        rows.append({"metric": metric, "category": "macro", **asdict(macro), "excluded": excluded})
    return pd.DataFrame(rows)


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and population variance; a constant's is exactly 0, for all is counted from the first value."""
    centred = values - np.float64(values[0])
    offset = centred.mean()
    centred -= offset
    np.square(centred, out=centred)  # no dot product: BLAS starts threads of its own in each thread of `score_maps`
    return float(values[0] + offset), float(centred.mean())


def _mean_iou(inside: np.ndarray, outside: np.ndarray) -> float:
    """Mean over the thresholds of hits / (annotated + misses)."""
    if not inside.size:
        return float("nan")
    above = [[np.count_nonzero(part > threshold) for part in (inside, outside)] for threshold in THRESHOLDS]
    return float(np.mean([hits / (inside.size + misses) for hits, misses in above]))


def _ends(inside: np.ndarray, outside: np.ndarray) -> tuple[np.float64, np.float64]:
    """Smallest and largest value."""
    parts = [part for part in (inside, outside) if part.size]
    return np.float64(min(part.min() for part in parts)), np.float64(max(part.max() for part in parts))
