"""Grounding metrics against hand-computed values and slow transcriptions of their definitions."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import jaccard_score, roc_auc_score

from lgdea_core.crops import boxes_mask
from lgdea_core.evaluation.bootstrap import Bootstrap
from lgdea_core.evaluation.grounding import METRICS, grounding_table, score_maps, split_pixels

NAN = float("nan")


def score(metric: str, similarity_map: np.ndarray, mask: np.ndarray) -> float:
    return METRICS[metric](*split_pixels(similarity_map, mask))


def box_mask(boxes_xyxy: list[tuple[int, int, int, int]], height: int, width: int) -> np.ndarray:
    return boxes_mask(np.array(boxes_xyxy, dtype=np.float64), height, width)


def slow_cnr(similarity_map: np.ndarray, mask: np.ndarray) -> float:
    """The definition, pixel by pixel."""
    inside = [v for v, m in zip(similarity_map.ravel(), mask.ravel(), strict=True) if m and not math.isnan(v)]
    outside = [v for v, m in zip(similarity_map.ravel(), mask.ravel(), strict=True) if not m and not math.isnan(v)]
    if not inside or not outside:
        return NAN
    means = [math.fsum(values) / len(values) for values in (inside, outside)]
    variances = [
        0.0 if min(values) == max(values) else math.fsum((v - mean) ** 2 for v in values) / len(values)
        for values, mean in zip((inside, outside), means, strict=True)
    ]
    return (means[0] - means[1]) / math.sqrt(sum(variances)) if sum(variances) > 0 else 0.0


def slow_miou(similarity_map: np.ndarray, mask: np.ndarray) -> float:
    """BioViL-T on the seen pixels, through scikit-learn."""
    seen = ~np.isnan(similarity_map)
    clamped, truth = np.clip(similarity_map[seen], 0, None), mask[seen]
    if not truth.any():
        return NAN
    return float(np.mean([jaccard_score(truth, clamped > t, zero_division=0) for t in (0.1, 0.2, 0.3, 0.4, 0.5)]))


def slow_miou_afloc(similarity_map: np.ndarray, mask: np.ndarray) -> float:
    """MaCo and AFLoc: stretched to [-1, 1]; an empty prediction is skipped."""
    seen = ~np.isnan(similarity_map)
    values, truth = similarity_map[seen], mask[seen]
    if not truth.any() or values.max() == values.min():
        return NAN
    values = (values - values.min()) / (values.max() - values.min()) * 2 - 1
    ious = []
    for threshold in np.arange(0.1, 0.6, 0.1):
        predicted = values > threshold
        empty = predicted.sum() == 0 or truth.sum() == 0
        ious.append(NAN if empty else (predicted & truth).sum() / (predicted | truth).sum())
    return float(np.nanmean(ious))


def slow_pointing(similarity_map: np.ndarray, mask: np.ndarray) -> float:
    seen = ~np.isnan(similarity_map)
    if not (mask & seen).any():
        return NAN
    peaks = similarity_map == np.nanmax(similarity_map)
    return 0.0 if peaks.sum() == seen.sum() else float((peaks & mask).any())


def slow_auc(similarity_map: np.ndarray, mask: np.ndarray) -> float:
    seen = ~np.isnan(similarity_map)
    if mask[seen].all() or not mask[seen].any():
        return NAN
    return float(roc_auc_score(mask[seen], similarity_map[seen]))


COARSE = st.sampled_from([-0.7, -0.1, 0.0, 0.1, 0.2, 0.3, 0.35, 0.5, 0.9, NAN])
"""Few values: ties, thresholds hit exactly, and unseen pixels."""
MAPS = st.one_of(
    hnp.arrays(np.float64, (5, 6), elements=COARSE),
    hnp.arrays(np.float64, (5, 6), elements=st.floats(-1, 1, allow_subnormal=False, width=16)),
).filter(lambda similarity_map: not np.isnan(similarity_map).all())
MASKS = hnp.arrays(np.bool_, (5, 6)).filter(lambda mask: mask.any())


@settings(max_examples=60, deadline=None)
@given(similarity_map=MAPS, mask=MASKS)
def test_metrics_equal_slow_transcriptions(similarity_map: np.ndarray, mask: np.ndarray) -> None:
    close = {"abs": 1e-9, "rel": 1e-9, "nan_ok": True}
    assert score("cnr_signed", similarity_map, mask) == pytest.approx(slow_cnr(similarity_map, mask), **close)
    assert score("cnr_absolute", similarity_map, mask) == pytest.approx(abs(slow_cnr(similarity_map, mask)), **close)
    assert score("miou_biovil_t", similarity_map, mask) == pytest.approx(slow_miou(similarity_map, mask), **close)
    assert score("miou_afloc", similarity_map, mask) == pytest.approx(slow_miou_afloc(similarity_map, mask), **close)
    assert score("pointing", similarity_map, mask) == pytest.approx(slow_pointing(similarity_map, mask), **close)
    assert score("pixel_auc", similarity_map, mask) == pytest.approx(slow_auc(similarity_map, mask), **close)


def test_values_worked_out_by_hand() -> None:
    similarity_map = np.array([[0.6, 0.2], [0.0, -0.2]])
    mask = np.array([[True, True], [False, False]])
    # inside: mean .4, variance .04; outside: mean -.1, variance .01
    assert score("cnr_signed", similarity_map, mask) == pytest.approx(0.5 / math.sqrt(0.05))
    assert score("cnr_signed", similarity_map, ~mask) == pytest.approx(-0.5 / math.sqrt(0.05))
    assert score("cnr_absolute", similarity_map, ~mask) == pytest.approx(0.5 / math.sqrt(0.05))
    # IoU is 1 at .1 (both), and 1/2 at .2 (not >), .3, .4 and .5
    assert score("miou_biovil_t", similarity_map, mask) == pytest.approx((1 + 4 * 0.5) / 5)
    # stretched: 1, 0, -.5, -1, so one of two annotated pixels exceeds every threshold
    assert score("miou_afloc", similarity_map, mask) == pytest.approx(0.5)
    assert score("pointing", similarity_map, mask) == 1
    assert score("pointing", similarity_map, ~mask) == 0
    assert score("pixel_auc", similarity_map, mask) == 1
    assert score("pixel_auc", similarity_map, ~mask) == 0


@given(
    similarity_map=hnp.arrays(np.float64, (4, 4), elements=st.floats(-1, 1, width=16)),
    scale=st.floats(0.1, 10),
    shift=st.floats(-5, 5),
)
@settings(deadline=None)
def test_cnr_ignores_positive_affine_changes_and_flips_with_the_sign(
    similarity_map: np.ndarray, scale: float, shift: float
) -> None:
    mask = box_mask([(0, 0, 2, 3)], 4, 4)
    inside = similarity_map[mask]
    if np.ptp(inside) < 1e-2 and np.ptp(similarity_map[~mask]) < 1e-2:
        return  # near-constant: the ratio is one of rounding errors
    contrast = score("cnr_signed", similarity_map, mask)
    assert score("cnr_signed", scale * similarity_map + shift, mask) == pytest.approx(contrast, rel=1e-6, abs=1e-9)
    assert score("cnr_signed", -similarity_map, mask) == pytest.approx(-contrast, rel=1e-6, abs=1e-9)
    assert score("cnr_signed", similarity_map, ~mask) == pytest.approx(-contrast, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("value", [0.3, 0.1 + 0.2, -1e-3, 1 / 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_map_earns_nothing(value: float, dtype: type) -> None:
    similarity_map, mask = np.full((7, 9), value, dtype=dtype), box_mask([(1, 1, 4, 5)], 7, 9)
    assert score("cnr_signed", similarity_map, mask) == 0  # not a ratio of rounding errors
    assert score("pointing", similarity_map, mask) == 0
    assert score("pixel_auc", similarity_map, mask) == 0.5
    assert math.isnan(score("miou_afloc", similarity_map, mask))


def test_faint_map_keeps_its_contrast() -> None:
    similarity_map, mask = np.random.default_rng(0).normal(0, 0.4, (7, 9)), box_mask([(1, 1, 4, 5)], 7, 9)
    assert score("cnr_signed", 1e-6 * similarity_map, mask) == pytest.approx(
        score("cnr_signed", similarity_map, mask), rel=1e-9
    )


def test_perfect_two_level_map_has_no_noise_hence_cnr_0() -> None:
    mask = box_mask([(1, 1, 3, 3)], 5, 5)
    assert score("cnr_signed", np.where(mask, 0.9, 0.1), mask) == 0
    assert score("miou_biovil_t", np.where(mask, 0.9, 0.1), mask) == 1


def test_empty_prediction_scores_0_and_is_not_skipped() -> None:
    mask = box_mask([(0, 0, 2, 2)], 4, 4)
    assert score("miou_biovil_t", np.full((4, 4), -0.5), mask) == 0
    assert score("miou_biovil_t", np.full((4, 4), 0.1), mask) == 0  # strictly greater


def test_pixels_outside_the_crop_count_nowhere() -> None:
    generator = np.random.default_rng(0)
    crop, mask = generator.normal(0, 0.4, (6, 4)), box_mask([(1, 2, 3, 5)], 6, 4)
    padded, padded_mask = np.full((6, 8), NAN), np.zeros((6, 8), dtype=bool)
    padded[:, 2:6], padded_mask[:, 2:6] = crop, mask
    padded_mask[0, 0] = True  # annotated where the crop never looked
    for metric in METRICS:
        assert score(metric, padded, padded_mask) == score(metric, crop, mask)


def test_mask_outside_the_crop_is_excluded_and_counted() -> None:
    generator = np.random.default_rng(0)
    maps = generator.normal(0, 0.4, (4, 6, 6))
    maps[0, :, :3] = NAN
    masks = np.stack([box_mask([(0, 0, 2, 2)], 6, 6)] * 4)
    scores = score_maps(maps, masks)
    assert scores.iloc[0].isna().all()
    assert scores.iloc[1:].notna().all(axis=None)
    table = grounding_table(scores, ["a", "a", "b", "b"], ["p0", "p1", "p2", "p3"], Bootstrap(resamples=20))
    macro = table[(table["metric"] == "cnr_signed") & (table["category"] == "macro")].iloc[0]
    assert (macro["n"], macro["excluded"], macro["patients"]) == (3, 1, 3)


def test_overlapping_boxes_are_a_union() -> None:
    mask = box_mask([(0, 0, 3, 3), (2, 2, 5, 5)], 6, 6)
    assert mask.sum() == 9 + 9 - 1
    assert mask[2, 2]
    similarity_map = np.random.default_rng(1).normal(0, 0.4, (6, 6))
    changed = similarity_map.copy()
    changed[2, 2] += 1  # the pixel in both boxes takes part (MaCo drops it)
    assert score("cnr_signed", changed, mask) > score("cnr_signed", similarity_map, mask)


def test_pointing_ties() -> None:
    similarity_map = np.zeros((4, 4))
    similarity_map[:2, :2] = 0.5  # one upsampled patch
    mask = box_mask([(1, 1, 4, 4)], 4, 4)
    assert score("pointing", similarity_map, mask) == 1
    assert score("pointing", similarity_map, box_mask([(2, 2, 4, 4)], 4, 4)) == 0


def test_score_maps_takes_generators_and_mixed_sizes() -> None:
    generator = np.random.default_rng(0)
    sizes = [(4 + number % 3, 5) for number in range(150)]  # more than two blocks
    maps = [generator.normal(0, 0.4, size).astype(np.float32) for size in sizes]
    masks = [box_mask([(0, 0, 2, 2)], *size) for size in sizes]
    scores = score_maps(iter(maps), (mask for mask in masks), names=[f"s{number}" for number in range(150)])
    assert list(scores.columns) == list(METRICS)
    assert scores.index[149] == "s149"
    for number in (0, 63, 64, 149):
        expected = [score("cnr_signed", maps[number], masks[number]), score("miou_afloc", maps[number], masks[number])]
        assert scores.loc[f"s{number}", ["cnr_signed", "miou_afloc"]].tolist() == expected


def test_errors_name_the_sample() -> None:
    maps, masks = np.zeros((2, 3, 3)), np.ones((2, 3, 3), dtype=bool)
    masks[1] = False
    with pytest.raises(ValueError, match=r"mask of sample 's1' is empty"):
        score_maps(maps, masks, names=["s0", "s1"])
    with pytest.raises(ValueError, match=r"mask is empty: no pixel is annotated"):
        score("cnr_signed", maps[0], masks[1])
    with pytest.raises(ValueError, match=r"unknown metric\(s\) \['dice'\]; choose among cnr_signed"):
        score_maps(maps, masks, metrics=["dice"])
    with pytest.raises(ValueError, match=r"shorter"):
        score_maps(maps, masks[:1])
    with pytest.raises(ValueError, match=r"mask of sample 0: expected one map .* got \(3, 3\) and \(3, 4\)"):
        score_maps(maps[:1], np.ones((1, 3, 4), dtype=bool))


def test_table_is_macro_over_categories() -> None:
    scores = score_maps(np.zeros((5, 3, 3)), np.stack([box_mask([(0, 0, 1, 1)], 3, 3)] * 5), metrics=["cnr_signed"])
    scores["cnr_signed"] = [1.0, 3.0, 5.0, 10.0, NAN]
    table = grounding_table(scores, ["a", "a", "a", "b", "c"], ["p", "q", "r", "s", "t"], Bootstrap(resamples=200))
    estimates = table.set_index("category")["estimate"]
    assert estimates["a"] == 3
    assert estimates["b"] == 10
    assert math.isnan(estimates["c"])
    assert estimates["macro"] == 6.5  # (3 + 10) / 2, not the mean 4.75 over samples
    assert table.set_index("category")["excluded"].to_dict() == {"a": 0, "b": 0, "c": 1, "macro": 1}
    assert table.set_index("category").loc["macro", "degenerate"] > 0  # some resamples miss "b"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, k: split_pixels(m[None], k[None]), r"expected one map .* got \(1, 2, 2\)"),
        (lambda m, k: split_pixels(m, k[:1]), r"mask like it, got \(2, 2\) and \(1, 2\)"),
        (lambda m, k: split_pixels(m, k.astype(np.uint8)), "expected booleans, got uint8; mask > 0"),
        (lambda m, k: split_pixels(np.where(k, np.inf, m), k), "infinite somewhere"),
    ],
)
def test_what_would_be_a_silent_wrong_number_is_refused(call: Callable[..., object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(np.array([[0.1, 0.2], [0.3, 0.4]]), np.eye(2, dtype=bool))
