"""Splits, pools, the control, combined corpora and the split file."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import (
    Pools,
    check_leaks,
    combine,
    limit_pairs,
    shuffle_pairs,
    split_by_patient,
    withhold_boxed_patients,
    write_split,
)

CORNERS = {"x_min": 1.0, "y_min": 1.0, "x_max": 5.0, "y_max": 5.0, "frame_width": 64.0, "frame_height": 64.0}


def make_corpus(
    paired: int, only_images: int = 0, only_reports: int = 0, *, name: str = "toy", root: Path = Path("/data/toy"),
    views: int = 1, split: str = "train", boxed: tuple[str, ...] = (),
) -> Corpus:  # fmt: skip
    """Studies p0.., i0.. and r0.., one patient each; a paired study has `views` images."""
    kinds = [("p", paired), ("i", only_images), ("r", only_reports)]
    ids = [f"{kind}{number:03d}" for kind, count in kinds for number in range(count)]
    studies = pd.DataFrame({"study_id": ids, "patient_id": [f"patient-{study}" for study in ids], "split": split})
    studies["report"] = [None if study[0] == "i" else f"text of {study}" for study in ids]
    images = [
        {"image_id": f"{study}-{view}", "study_id": study, "path": f"images/{study}-{view}.png"}
        for study in ids if study[0] != "r" for view in range(views if study[0] == "p" else 1)
    ]  # fmt: skip
    table = pd.DataFrame(images, columns=["image_id", "study_id", "path"]).assign(view="PA", width=64, height=64)
    boxes = [
        {"image_id": f"{study}-0", "study_id": study, "phrase": "mass", "finding": "mass", **CORNERS, "source": "toy"}
        for study in boxed
    ]
    labels = pd.DataFrame({"study_id": ids, "finding": "mass", "value": 1.0})
    tables = {"boxes": pd.DataFrame(boxes)} if boxes else {}
    return Corpus(name=name, root=root, studies=studies, images=table, labels=labels, **tables)


def true_pairs(frame: pd.DataFrame) -> bool:
    return all(row.image_id.startswith(f"{row.report_id}-") for row in frame.itertuples())


def test_split_keeps_patients_together_and_meets_the_fractions() -> None:
    studies = pd.DataFrame({"study_id": range(300), "patient_id": [f"p{number // 3}" for number in range(300)]})
    split = split_by_patient(studies, (0.7, 0.1, 0.2), seed=0)
    assert split.groupby("patient_id")["split"].nunique().max() == 1
    assert split.groupby("split")["patient_id"].nunique().to_dict() == {"train": 70, "val": 10, "test": 20}


def test_split_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    studies = pd.DataFrame({"patient_id": [f"p{number}" for number in range(50)]})
    first = split_by_patient(studies, (0.5, 0.2, 0.3), seed=0)
    turned = split_by_patient(studies[::-1], (0.5, 0.2, 0.3), seed=0).sort_index()
    pd.testing.assert_frame_equal(first, turned)
    assert not first.equals(split_by_patient(studies, (0.5, 0.2, 0.3), seed=1))


def test_split_leaves_no_wanted_split_empty() -> None:
    studies = pd.DataFrame({"patient_id": ["a", "b", "c"]})
    assert set(split_by_patient(studies, (0.98, 0.01, 0.01), seed=0)["split"]) == {"train", "val", "test"}
    assert set(split_by_patient(studies, (0.9, 0.1, 0.0), seed=0)["split"]) == {"train", "val"}


def test_split_refuses_fractions_that_are_none() -> None:
    studies = pd.DataFrame({"patient_id": ["a"]})
    for fractions in ((0.5, 0.5, 0.5), (1.2, -0.2, 0.0)):
        with pytest.raises(ValueError, match="sum to 1"):
            split_by_patient(studies, fractions, seed=0)


def test_pools_hold_everything_once_with_known_pairs_first() -> None:
    corpus = make_corpus(20, only_images=7, only_reports=9)
    pools = limit_pairs(corpus, 0.25, seed=0)
    assert len(pools.seed_pairs) == 5
    assert len(pools.hidden_pairs) == 15
    assert true_pairs(pools.seed_pairs)
    assert true_pairs(pools.hidden_pairs)
    assert sorted(pools.image_ids) == sorted(corpus.images["image_id"])
    assert sorted(pools.report_ids) == sorted(corpus.studies.loc[corpus.studies["report"].notna(), "study_id"])
    assert pools.image_ids[:5] == tuple(pools.seed_pairs["image_id"])
    assert pools.report_ids[:5] == tuple(pools.seed_pairs["report_id"])


def test_only_training_studies_enter_the_pools() -> None:
    train, test = make_corpus(6), make_corpus(6, split="test")
    renamed = test.studies.assign(study_id="t" + test.studies["study_id"], patient_id="t" + test.studies["patient_id"])
    images = test.images.assign(study_id="t" + test.images["study_id"], image_id="t" + test.images["image_id"])
    both = Corpus(
        name="both", root=Path("/data"), studies=pd.concat([train.studies, renamed]),
        images=pd.concat([train.images, images]),
    )  # fmt: skip
    pools = limit_pairs(both, 0.5, seed=0)
    assert not any(identity.startswith("t") for identity in (*pools.image_ids, *pools.report_ids))
    assert len(pools.image_ids) == 6


def test_unpaired_pools_say_nothing_of_their_pairing() -> None:
    # With two independent shuffles the rank correlation of true partners has mean 0 and sd 1 / sqrt(n - 1).
    pools = limit_pairs(make_corpus(2000), 0.0005, seed=0)
    image_rank = {image_id: rank for rank, image_id in enumerate(pools.image_ids)}
    report_rank = {report_id: rank for rank, report_id in enumerate(pools.report_ids)}
    ranks = [(image_rank[row.image_id], report_rank[row.report_id]) for row in pools.hidden_pairs.itertuples()]
    assert abs(np.corrcoef(np.array(ranks).T)[0, 1]) < 4 / np.sqrt(len(ranks))
    assert sum(image == report for image, report in ranks) < 8  # 1 expected by chance
    assert list(pools.image_ids[1:]) != sorted(pools.image_ids[1:])


def test_smaller_ratios_are_nested_in_larger_ones() -> None:
    corpus = make_corpus(100)
    kept = [set(limit_pairs(corpus, ratio, seed=3).seed_pairs["report_id"]) for ratio in (0.05, 0.1, 0.5, 1.0)]
    assert [len(ids) for ids in kept] == [5, 10, 50, 100]
    assert kept[0] < kept[1] < kept[2] < kept[3]
    assert kept[0] != set(limit_pairs(corpus, 0.05, seed=4).seed_pairs["report_id"])


def test_pools_are_the_same_for_the_same_seed_whatever_the_order_of_rows() -> None:
    corpus = make_corpus(30, only_images=5, only_reports=5)
    turned = Corpus(name="toy", root=corpus.root, studies=corpus.studies[::-1], images=corpus.images[::-1])
    first, second = limit_pairs(corpus, 0.2, seed=1), limit_pairs(turned, 0.2, seed=1)
    assert (first.image_ids, first.report_ids) == (second.image_ids, second.report_ids)
    pd.testing.assert_frame_equal(first.seed_pairs, second.seed_pairs)


def test_every_image_of_a_chosen_study_is_a_pair() -> None:
    pools = limit_pairs(make_corpus(10, views=2), 0.3, seed=0)
    assert len(pools.seed_pairs) == 6
    assert pools.seed_pairs["report_id"].nunique() == 3
    assert len(set(pools.report_ids)) == len(pools.report_ids) == 10
    assert pools.report_ids[:3] == tuple(dict.fromkeys(pools.seed_pairs["report_id"]))


def test_one_pair_works_and_all_pairs_leave_nothing_hidden() -> None:
    assert len(limit_pairs(make_corpus(10), 0.1, seed=0).seed_pairs) == 1
    everything = limit_pairs(make_corpus(10), 1.0, seed=0)
    assert len(everything.seed_pairs) == 10
    assert list(everything.hidden_pairs.columns) == ["image_id", "report_id"]
    assert everything.hidden_pairs.empty


def test_no_pair_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"paired_ratio 0\.01 of 10 .* set it to 0\.1 or more"):
        limit_pairs(make_corpus(10), 0.01, seed=0)
    with pytest.raises(ValueError, match="no training study has both"):
        limit_pairs(make_corpus(0, only_images=3, only_reports=3), 0.5, seed=0)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 1\.5"):
        limit_pairs(make_corpus(10), 1.5, seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_control_gives_every_image_a_wrong_report_of_the_paired_ones(seed: int) -> None:
    pools = limit_pairs(make_corpus(40, views=2), 0.2, seed=0)
    control = shuffle_pairs(pools, seed)
    truth = dict(zip(pools.seed_pairs["image_id"], pools.seed_pairs["report_id"], strict=True))
    assert all(truth[row.image_id] != row.report_id for row in control.seed_pairs.itertuples())
    assert sorted(control.seed_pairs["report_id"]) == sorted(pools.seed_pairs["report_id"])
    assert (control.image_ids, control.report_ids) == (pools.image_ids, pools.report_ids)
    assert true_pairs(pools.seed_pairs)  # the argument stays as it was


def test_control_of_two_pairs_swaps_them_and_of_one_is_an_error() -> None:
    two = limit_pairs(make_corpus(2), 1.0, seed=0)
    assert list(shuffle_pairs(two, 0).seed_pairs["report_id"]) == list(two.seed_pairs["report_id"])[::-1]
    with pytest.raises(ValueError, match="at least 2 paired reports, got 1"):
        shuffle_pairs(limit_pairs(make_corpus(2), 0.5, seed=0), 0)


def three_corpora() -> tuple[Corpus, Corpus, Corpus]:
    return (
        make_corpus(4, name="a", root=Path("/data/a")),
        make_corpus(6, only_images=2, name="b", root=Path("/data/more/b"), boxed=("p001", "i000")),
        make_corpus(5, only_reports=3, only_images=1, name="c", root=Path("/data/c"), boxed=("p000",)),
    )


def test_combined_corpus_takes_pairs_images_and_reports_from_three() -> None:
    pairs, images, reports = three_corpora()
    corpus = combine(pairs=pairs, images=images, reports=reports)
    assert corpus.name == "a+b+c"
    assert corpus.root == Path("/data")
    by_corpus = corpus.studies.groupby("corpus")["report"].count()
    assert by_corpus.to_dict() == {"a": 4, "b": 0, "c": 8}
    assert corpus.images["image_id"].str[0].value_counts().to_dict() == {"a": 4, "b": 8}
    assert corpus.image_path("b/p001-0") == Path("/data/more/b/images/p001-0.png")
    assert set(corpus.boxes["image_id"]) == {"b/p001-0", "b/i000-0"}
    assert set(corpus.studies["patient_id"].str[0]) == {"a", "b", "c"}
    pools = limit_pairs(corpus, 1.0, seed=0)
    assert set(pools.seed_pairs["image_id"]) == set(corpus.images["image_id"][:4])
    assert pools.hidden_pairs.empty


def test_boxed_films_of_the_image_corpus_leave_training() -> None:
    pairs, images, reports = three_corpora()
    corpus = combine(pairs=pairs, images=images, reports=reports)
    moved = corpus.studies[corpus.studies["split"] != corpus.studies["original_split"]]
    assert set(moved["study_id"]) == {"b/p001", "b/i000"}
    assert set(moved["split"]) == {"test"}
    kept = combine(pairs=pairs, images=images, withhold_boxed=False)
    assert set(kept.studies["split"]) == {"train"}


def test_withholding_moves_all_studies_of_the_patient() -> None:
    corpus = make_corpus(4, boxed=("p000",))
    same = corpus.studies["patient_id"].where(corpus.studies["study_id"] != "p001", "patient-p000")
    corpus = Corpus(
        name="toy", root=corpus.root, studies=corpus.studies.assign(patient_id=same), images=corpus.images,
        boxes=corpus.boxes,
    )  # fmt: skip
    assert list(withhold_boxed_patients(corpus).studies["split"]) == ["test", "test", "train", "train"]
    assert list(withhold_boxed_patients(make_corpus(2)).studies["split"]) == ["train", "train"]  # no boxes at all


def test_one_corpus_in_two_roles_is_refused() -> None:
    corpus = make_corpus(4)
    with pytest.raises(ValueError, match="must differ"):
        combine(pairs=corpus, images=corpus)


def test_only_films_bring_their_regions() -> None:
    corpora = []
    for name in "ab":
        corpus = make_corpus(2, name=name, root=Path(f"/data/{name}"))
        row = {"image_id": "p000-0", "study_id": "p000", "region": "spine", **CORNERS}
        corpora.append(replace(corpus, regions=pd.DataFrame([row])))
    assert set(combine(pairs=corpora[0], images=corpora[1]).regions["image_id"]) == {"a/p000-0", "b/p000-0"}
    assert set(combine(pairs=corpora[0], reports=corpora[1]).regions["image_id"]) == {"a/p000-0"}


def test_combining_without_any_box_leaves_an_empty_table() -> None:
    corpus = combine(pairs=make_corpus(2, name="a"), reports=make_corpus(2, name="b"))
    assert corpus.boxes.empty
    assert "frame_width" in corpus.boxes


def test_leaks_are_named() -> None:
    check_leaks(["a", "b"], ["c"])
    with pytest.raises(ValueError, match=r"^2 patient\(s\) are in training and in evaluation: 'b', 'd'; split"):
        check_leaks(["a", "b", "d"], ["d", "b", "c"])


def test_split_file_names_every_study_and_its_hash_moves_with_the_content(tmp_path: Path) -> None:
    corpus = make_corpus(10)
    digests = []
    for seed in (0, 0, 1):
        pools: Pools = limit_pairs(corpus, 0.3, seed=seed)
        digests.append(write_split(corpus, pools, tmp_path / "split.json", seed=seed))
    content = json.loads((tmp_path / "split.json").read_text())
    assert digests[0] == digests[1] != digests[2] == content.pop("sha256")
    assert hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest() == digests[2]
    assert content["studies"]["train"] == sorted(corpus.studies["study_id"])
    assert content["studies"]["test"] == []
    assert len(content["seed_pairs"]) == 3
    assert content["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]
    assert "text of" not in (tmp_path / "split.json").read_text()  # no report text leaves the corpus
