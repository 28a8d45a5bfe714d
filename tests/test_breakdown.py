"""Breakdowns: classes by hand, means as plain loops give them, swaps and negations at their limits."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import PlantedWorld, config

from lgdea_core.data.corpus import Corpus, empty_table
from lgdea_core.data.images import load_images, read_image
from lgdea_core.data.pairing import Pools
from lgdea_core.data.phantom import STRATA, PhantomConfig, build_hard_set, load_probes
from lgdea_core.evaluation.bootstrap import Bootstrap
from lgdea_core.evaluation.breakdown import (
    SIZES,
    auc_by_size,
    describe_maps,
    grounding_breakdown,
    negation_table,
    phrase_table,
    probe_maps,
    side_of,
    size_of,
    swap_table,
)
from lgdea_core.evaluation.harness import phrase_samples
from lgdea_core.grounding import ground
from lgdea_core.runs.inputs import Inputs

Corners = tuple[float, float, float, float]
FEW = Bootstrap(resamples=50)


def boxes_table(rows: Sequence[tuple[str, str, str, Corners]], frame: float = 100.0) -> pd.DataFrame:
    """Boxes of (study, phrase, finding, corners) in a square frame."""
    return pd.DataFrame(
        [
            (f"{study}_0", study, phrase, finding, *corners, frame, frame, "test")
            for study, phrase, finding, corners in rows
        ],
        columns=list(empty_table("boxes").columns),
    )


def corpus_of(boxes: pd.DataFrame, labels: pd.DataFrame | None = None, studies: Sequence[str] = ()) -> Corpus:
    ids = sorted(set(boxes["study_id"]) | set(studies))
    table = pd.DataFrame(
        {"study_id": ids, "patient_id": [f"of {study}" for study in ids], "split": "test", "report": "Text."}
    )
    images = pd.DataFrame(
        [(f"{study}_0", study, f"{study}.png", "PA", 100, 100) for study in ids],
        columns=list(empty_table("images").columns),
    )
    return Corpus(
        name="toy",
        root=Path(),
        studies=table.assign(stratum=["ordinary" if study < "c" else "negated" for study in ids]),
        images=images,
        boxes=boxes,
        labels=empty_table("labels") if labels is None else labels,
    )


def test_sizes_are_classes_that_cover_every_share() -> None:
    assert [size_of(share) for share in (0.001, 0.03, 0.0301, 0.1, 0.11, 1.0)] == [
        "small", "small", "medium", "medium", "large", "large",
    ]  # fmt: skip
    bounds = [*SIZES.values()]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == 1
    assert all(upper == lower for (_, upper), (lower, _) in itertools.pairwise(bounds))
    for share in (0.0, 1.01, float("nan")):
        with pytest.raises(ValueError, match="above 0 and at most at 1"):
            size_of(share)


@pytest.mark.parametrize(
    ("corners", "side"),
    [
        ([(10, 10, 30, 30)], "right"),  # the patient's right is at the image's left
        ([(60, 10, 80, 30)], "left"),
        ([(10, 10, 30, 30), (60, 10, 80, 30)], "bilateral"),
        ([(35, 10, 65, 30)], "midline"),
        ([(30, 10, 66, 30)], "midline"),  # 16 of 36 beyond the middle
        ([(44, 10, 64, 30)], "left"),  # 14 of 20
        ([(35, 10, 65, 30), (60, 10, 80, 30)], "left"),
    ],
)
def test_side_of_boxes(corners: list[Corners], side: str) -> None:
    table = boxes_table([("a", "phrase", "nodule", tuple(map(float, box))) for box in corners])
    assert side_of(table) == side
    doubled = table.assign(**{column: 2 * table[column] for column in table.columns[4:10]})
    assert side_of(doubled) == side  # any frame will do


def test_phrases_are_listed_in_the_order_of_the_boxes_with_what_is_known() -> None:
    boxes = boxes_table(
        [
            ("b", "left nodule", "nodule", (60.0, 10.0, 70.0, 20.0)),
            ("b", "effusions", "pleural effusion", (10.0, 60.0, 40.0, 90.0)),
            ("b", "effusions", "pleural effusion", (60.0, 60.0, 90.0, 90.0)),
            ("a", "left nodule", "nodule", (60.0, 10.0, 80.0, 30.0)),
            ("c", "big heart", "cardiomegaly", (30.0, 30.0, 70.0, 80.0)),
        ]
    )
    table = phrase_table(corpus_of(boxes))
    assert table["study_id"].tolist() == ["b", "b", "a", "c"]
    assert table["phrase"].tolist() == ["left nodule", "effusions", "left nodule", "big heart"]
    assert table["patient_id"].tolist() == ["of b", "of b", "of a", "of c"]
    np.testing.assert_allclose(table["share"], [0.01, 0.18, 0.04, 0.2], atol=0.005)
    assert table["size"].tolist() == ["small", "large", "medium", "large"]
    assert table["side"].tolist() == ["left", "bilateral", "left", "midline"]
    assert table["stratum"].tolist() == ["ordinary", "ordinary", "ordinary", "negated"]


def test_a_breakdown_is_the_mean_of_each_group_with_its_patients() -> None:
    rng = np.random.default_rng(0)
    samples = pd.DataFrame(
        {
            "patient_id": rng.integers(0, 12, 40).astype(str),
            "finding": rng.choice(["nodule", "edema"], 40),
            "side": rng.choice(["left", None], 40),
        }
    )
    scores = pd.DataFrame({"cnr_signed": rng.normal(size=40), "pointing": rng.integers(0, 2, 40).astype(float)})
    scores.loc[3, "cnr_signed"] = np.nan
    table = grounding_breakdown(scores, samples, FEW, by=("finding", "side"))
    assert len(table) == 2 * 3
    assert not (table["value"] == "macro").any()
    for row in table.itertuples():
        inside = samples[row.by] == row.value
        values, patients = scores.loc[inside, row.metric], samples.loc[inside, "patient_id"]
        expected = FEW.mean(values, patients)
        assert (row.estimate, row.low, row.high) == (expected.estimate, expected.low, expected.high)
        assert (row.n, row.patients) == (values.notna().sum(), patients[values.notna()].nunique())
        assert row.excluded == values.isna().sum()
    with pytest.raises(ValueError, match="each of 40 samples, got 39"):
        grounding_breakdown(scores.iloc[1:], samples, FEW)


def test_a_map_is_described_by_peak_and_sides() -> None:
    peak_right = np.zeros((4, 5), np.float32)
    peak_right[1, 0] = 0.9  # one high pixel at the image's left, which is the patient's right
    peak_right[:, 3:] = 0.3
    unseen = np.full((2, 4), np.nan, np.float32)
    unseen[:, 1:3] = [[0.1, 0.2], [0.1, 0.2]]
    table = describe_maps([peak_right, np.zeros((2, 3), np.float32), unseen])
    np.testing.assert_allclose(table["peak"], [0.9, 0.0, 0.2], rtol=1e-6)
    assert table["peak_side"].tolist()[0] == "right"
    assert table["mass_side"].tolist()[0] == "left"
    assert table[["peak_side", "mass_side"]].iloc[1].isna().all()
    assert table[["peak_side", "mass_side"]].iloc[2].tolist() == ["left", "left"]


def swap_probes(pairs: int) -> pd.DataFrame:
    other = {"left": "right", "right": "left"}
    return pd.DataFrame(
        [
            (f"s{pair}{side}", f"p{pair}", "side swap", kind, side if kind == "stated" else other[side], "x")
            for pair in range(pairs)
            for side in ("left", "right")
            for kind in ("stated", "wrong side")
        ],
        columns=["study_id", "pair_id", "stratum", "kind", "side", "phrase"],
    )


def test_swaps_at_their_limits() -> None:
    probes = swap_probes(6)
    stated = probes["kind"] == "stated"
    follows = pd.DataFrame({"peak": np.where(stated, 0.8, 0.2), "peak_side": probes["side"], "mass_side": "left"})
    table = swap_table(probes, follows, FEW).set_index("measure")
    assert table.loc["peak", "estimate"] == 1
    assert table.loc["mass", "estimate"] == 0  # the same on both films: right on one of them never counts
    assert table.loc["stated over wrong", "estimate"] == 1
    assert table["n"].tolist() == [6, 6, 12]
    assert table["patients"].tolist() == [6, 6, 6]
    flat = follows.assign(peak=0.5)
    assert swap_table(probes, flat, FEW).set_index("measure").loc["stated over wrong", "estimate"] == 0.5
    undecided = follows.assign(peak_side=None)
    assert swap_table(probes, undecided, FEW).set_index("measure").loc["peak", "estimate"] == 0


def test_random_sides_are_right_on_both_films_of_a_quarter_of_the_pairs() -> None:
    probes = swap_probes(2000)
    rng = np.random.default_rng(0)
    maps = pd.DataFrame({"peak": rng.random(len(probes)), "mass_side": "left"})
    maps["peak_side"] = rng.choice(["left", "right"], len(probes))
    table = swap_table(probes, maps, FEW).set_index("measure")
    assert abs(table.loc["peak", "estimate"] - table.loc["peak", "chance"]) < 0.03
    assert abs(table.loc["stated over wrong", "estimate"] - table.loc["stated over wrong", "chance"]) < 0.03


def test_negations_are_compared_with_what_the_same_film_states() -> None:
    rows = [
        ("a", "stated", "effusion", 0.8),
        ("a", "denied", "no nodule or hernia", 0.2),
        ("a", "denied", "no nodule or hernia", 0.2),  # one phrase that denies two findings counts once
        ("a", "denied", "no edema", 0.9),
        ("a", "contradicted", "no effusion", 0.7),
        ("b", "stated", "nodule", 0.5),
        ("b", "denied", "no edema", 0.1),
        ("b", "contradicted", "no nodule", 0.5),
    ]
    probes = pd.DataFrame(rows, columns=["study_id", "kind", "phrase", "peak"]).assign(stratum="negated")
    table = negation_table(probes.drop(columns="peak"), probes[["peak"]], FEW).set_index(["kind", "measure"])
    expected = {
        ("denied", "difference"): np.mean([(0.6 - 0.1) / 2, 0.4]),
        ("denied", "stated higher"): np.mean([0.5, 1.0]),
        ("contradicted", "difference"): np.mean([0.1, 0.0]),
        ("contradicted", "stated higher"): np.mean([1.0, 0.5]),
    }
    for place, value in expected.items():
        assert table.loc[place, "estimate"] == pytest.approx(value)
        assert table.loc[place, "n"] == 2
    with pytest.raises(ValueError, match="no probe is of stratum 'side swap'"):
        swap_table(probes.drop(columns="peak"), probes[["peak"]], FEW)
    with pytest.raises(ValueError, match="each of 8 probes, got 7"):
        negation_table(probes.drop(columns="peak"), probes[["peak"]].iloc[1:], FEW)


def test_auc_by_size_takes_positives_of_one_size_and_all_negatives() -> None:
    corners = {"small": (10.0, 10.0, 20.0, 20.0), "large": (10.0, 10.0, 60.0, 60.0)}
    sizes = ["small"] * 12 + ["large"] * 12
    studies = [f"s{number:02d}" for number in range(40)]
    boxes = boxes_table([(study, "it", "nodule", corners[size]) for study, size in zip(studies, sizes, strict=False)])
    values = [1.0] * 25 + [0.0] * 15  # study 24 is positive without a box: it belongs to no size
    labels = pd.DataFrame({"study_id": studies, "finding": "nodule", "value": values})
    part = corpus_of(boxes, labels, studies)
    # Large lesions score above every negative, small ones below: AUC 1 and 0.
    scores = np.array([[-1.0]] * 12 + [[1.0]] * 12 + [[5.0]] + [[0.0]] * 15)
    table = auc_by_size(scores, part, studies, ["nodule"], FEW)
    table = table[table["finding"] == "nodule"].set_index("size")
    assert table.loc["small", ["estimate", "positives", "n"]].tolist() == [0.0, 12, 27]
    assert table.loc["large", ["estimate", "positives", "n"]].tolist() == [1.0, 12, 27]
    assert table.loc["medium", "positives"] == 0
    assert np.isnan(table.loc["medium", "estimate"])
    with pytest.raises(ValueError, match="has no boxes"):
        auc_by_size(scores, corpus_of(empty_table("boxes"), labels, studies), studies, ["nodule"], FEW)


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A tiny hard set, for evaluation only: no pools."""
    root = tmp_path_factory.mktemp("hard") / "set"
    corpus = build_hard_set(PhantomConfig(image_size=40), root, per_stratum=2, progress=False)
    pools = Pools(image_ids=(), report_ids=(), seed_pairs=pd.DataFrame(), hidden_pairs=pd.DataFrame())
    return Inputs(corpus=corpus, store=load_images(corpus, 32, progress=False), pools=pools)


def test_phrases_and_probes_of_a_hard_set_meet_their_maps(hard: Inputs) -> None:
    model, processor = PlantedWorld(20, seed=0).model(config())
    samples = list(phrase_samples(model, processor, hard, hard.corpus, progress=False))
    table = phrase_table(hard.corpus)
    assert table["study_id"].tolist() == [sample.study_id for sample in samples]
    assert table["finding"].tolist() == [sample.finding for sample in samples]
    np.testing.assert_allclose(table["share"], [sample.mask.mean() for sample in samples], atol=0.03)
    assert set(table["stratum"]) == set(STRATA)

    probes = load_probes(hard.corpus.root)
    maps = list(probe_maps(model, processor, hard, probes))
    assert len(maps) == len(probes)
    for row in (0, len(probes) // 2, len(probes) - 1):
        image = read_image(hard.corpus.image_path(probes["image_id"][row]))
        alone = ground(model, processor, image, probes["phrase"][row])
        np.testing.assert_allclose(maps[row], alone, atol=1e-5)
    swaps, negations = (table(probes, describe_maps(maps), FEW) for table in (swap_table, negation_table))
    assert swaps["n"].tolist() == [1, 1, 2]
    assert negations["n"].tolist() == [2, 2, 2, 2]
    assert np.isfinite(negations["estimate"]).all()
