"""Retrieval: metrics against a full sort, by hand and torchmetrics; rows of a split; CheXpert's sets, file to table."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import write
from PIL import Image
from planted import PlantedWorld, config, score_rows
from torchmetrics.functional.retrieval import retrieval_hit_rate

from lgdea_core.data.corpora import load_corpus
from lgdea_core.data.corpora.chexpert_retrieval import CLASSES
from lgdea_core.data.corpora.tables import CHEXPERT_LABELS
from lgdea_core.evaluation import retrieval
from lgdea_core.evaluation.bootstrap import Bootstrap
from lgdea_core.evaluation.harness import evaluate
from lgdea_core.evaluation.one_pass import run_task
from lgdea_core.evaluation.prompts import load_prompt_set
from lgdea_core.evaluation.retrieval import (
    chance_median_rank,
    chance_precision,
    chance_recall,
    commonest_precision,
    commonest_rows,
    finding_sets,
    nearest,
    precision_at_k,
    precision_rows,
    recall_at_k,
    recall_rows,
    retrieval_ranks,
    retrieval_table,
    text_rows,
)
from lgdea_core.inference import encode_image_pool, encode_tokens
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.runs import inputs as stages

FEW = Bootstrap(resamples=30)


def estimates(rows: list[dict]) -> dict[str, float]:
    return {row["metric"]: row["estimate"] for row in rows}


def unit(seed: int, rows: int, dim: int = 8) -> np.ndarray:
    embeds = np.random.default_rng(seed).normal(size=(rows, dim))
    return embeds / np.linalg.norm(embeds, axis=1, keepdims=True)


# ---- metrics


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(1, 9), k=st.integers(1, 12))
def test_nearest_equals_a_stable_sort(seed: int, levels: int, k: int) -> None:
    similarity = np.random.default_rng(seed).integers(0, levels, (7, 12)) / 9  # ties, up to all equal
    np.testing.assert_array_equal(
        nearest(similarity, np.eye(12), k), np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    )


@pytest.mark.parametrize("block", [1, 7, 100])
def test_search_in_blocks_equals_the_whole_matrix(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "QUERIES_AT_ONCE", block)
    images, reports = unit(0, 23), unit(1, 31)
    whole = np.argsort(-(images @ reports.T), axis=1)[:, :10]
    np.testing.assert_array_equal(nearest(images, reports, 10), whole)


def test_precision_by_hand() -> None:
    ranking = np.array([[0, 1, 2], [2, 1, 0]])
    queries = [frozenset({"edema"}), frozenset()]
    candidates = [frozenset({"edema"}), frozenset({"edema", "nodule"}), frozenset()]  # a superset is no hit
    assert precision_at_k(ranking, queries, candidates, 1).tolist() == [1, 1]
    assert precision_at_k(ranking, queries, candidates, 3) == pytest.approx([1 / 3, 1 / 3])
    assert chance_precision(queries, candidates) == pytest.approx([1 / 3, 1 / 3])
    assert chance_precision([frozenset({"mass"})], candidates).tolist() == [0]


def test_random_ranking_has_chance_precision() -> None:
    generator = np.random.default_rng(0)
    classes = generator.choice([0, 1, 2], size=300, p=[0.7, 0.2, 0.1]).tolist()
    ranking = np.stack([generator.permutation(300)[:10] for _ in range(300)])
    expected = chance_precision(classes, classes).mean()
    assert precision_at_k(ranking, classes, classes, 10).mean() == pytest.approx(expected, abs=0.03)


def test_precision_of_the_commonest_class_by_hand() -> None:
    pool = [0b01, 0b10, 0b10, 0, 0b10, 0b01]  # the commonest is 0b10, which three candidates have
    assert commonest_precision(pool, pool, 1).tolist() == [0, 1, 1, 0, 1, 0]
    assert commonest_precision(pool, pool, 3).mean() == pytest.approx(1 / 2)
    assert commonest_precision(pool, pool, 5).tolist() == pytest.approx([0, 3 / 5, 3 / 5, 0, 3 / 5, 0])
    assert commonest_precision([0b01, 0b11], pool, 5).tolist() == [0, 0]
    assert commonest_precision([0b01, 0], [0, 0b01, 0b01, 0], 2).tolist() == [0, 1]  # equally common: the first


def test_ranks_equal_a_slow_search_and_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "QUERIES_AT_ONCE", 7)
    images, reports = unit(0, 30), unit(1, 30)
    texts = [f"text {number % 11}" for number in range(30)]
    reports = reports[[number % 11 for number in range(30)]]  # the same text has the same embedding
    ranks = retrieval_ranks(images, reports, texts, texts)
    assert (ranks.texts, ranks.images) == (11, 30)
    assert ranks.text_rows.tolist() == list(range(11))
    similarity = images @ reports[:11].T
    for image in range(30):
        own = similarity[image, image % 11]
        assert ranks.image_to_text[image] == 1 + (similarity[image] > own).sum()
    for k in (1, 5):
        hits = recall_at_k(ranks.text_to_image, k)
        for text in range(11):
            partners = torch.arange(30) % 11 == text
            expected = retrieval_hit_rate(torch.tensor(similarity[:, text]), partners, top_k=k).item()
            assert hits[text] == expected


def test_identical_texts_are_one_candidate() -> None:
    images = np.eye(3)
    reports = np.eye(3)[[0, 0, 0, 1, 2]]
    texts = ["a", "a", "a", "b", "c"]
    ranks = retrieval_ranks(images[[0, 1, 2]], reports, ["a", "b", "c"], texts)
    assert ranks.image_to_text.tolist() == [1, 1, 1]
    assert ranks.texts == 3
    noisy = np.array([[0.9, 0.1, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    # image 1 prefers text a: rank 2 of 3, and not 4 of 5, because the three copies of a are one candidate
    assert retrieval_ranks(noisy, reports, ["a", "b", "c"], texts).image_to_text.tolist() == [1, 2, 1]


def test_collapsed_model_has_the_worst_rank() -> None:
    same = np.ones((6, 4)) / 2
    texts = list("abcdef")
    ranks = retrieval_ranks(same, same, texts, texts)
    assert ranks.image_to_text.tolist() == [6] * 6
    assert ranks.text_to_image.tolist() == [6] * 6
    assert recall_at_k(ranks.image_to_text, 5).sum() == 0


def test_reports_without_image_are_distractors_only() -> None:
    ranks = retrieval_ranks(np.eye(3)[:1], np.eye(3), ["b"], ["a", "b", "c"])
    assert ranks.image_to_text.tolist() == [3]  # orthogonal to its own text: both others tie or win
    assert ranks.text_to_image.tolist() == [1]
    assert ranks.text_rows.tolist() == [1]


def test_permuting_the_pool_changes_no_rank() -> None:
    images, reports = unit(0, 20), unit(1, 20)
    texts = list(range(20))
    order = np.random.default_rng(0).permutation(20)
    ranks = retrieval_ranks(images, reports, texts, texts)
    permuted = retrieval_ranks(images, reports[order], texts, order.tolist())
    np.testing.assert_array_equal(permuted.image_to_text, ranks.image_to_text)


def test_finding_sets_take_present_only() -> None:
    labels = np.array([[1, 0, 1], [-1, np.nan, 0], [0, 1, -1]], dtype=float)
    assert finding_sets(labels) == [0b101, 0, 0b010]
    assert finding_sets(np.ones((1, 70)))[0] == 2**70 - 1  # more findings than bits of an integer


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"nearest: k must lie between 1 and the pool size 3, got 4"):
        nearest(np.eye(3), np.eye(3), 4)
    with pytest.raises(ValueError, match=r"precision_at_k: k must lie between 1 and the 2 ranked ones, got 5"):
        precision_at_k(np.zeros((1, 2), dtype=int), [1], [1], 5)
    with pytest.raises(ValueError, match=r"1 ranked queries, but 2 query classes"):
        precision_at_k(np.zeros((1, 2), dtype=int), [1, 1], [1], 1)
    with pytest.raises(ValueError, match=r"the text of 1 image\(s\) is not among the reports"):
        retrieval_ranks(np.eye(2), np.eye(2), ["a", "secret"], ["a", "b"])
    with pytest.raises(ValueError, match=r"2 images with 1 texts and 2 reports with 2 texts"):
        retrieval_ranks(np.eye(2), np.eye(2), ["a"], ["a", "b"])
    with pytest.raises(ValueError, match=r"recall_at_k: k must be at least 1, got 0"):
        recall_at_k(np.array([1]), 0)


# ---- pairs


def test_recall_and_median_rank_by_hand() -> None:
    # texts a, a, b, c: rows 0 and 1 share one candidate; image 2 prefers c to its own b
    images = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0.6, 0.8], [0, 0, 1]])
    reports = np.eye(3)[[0, 0, 1, 2]]
    rows = recall_rows(images, reports, list("aabc"), np.array(list("pqrs"), dtype=object), FEW)
    found = estimates(rows)
    # image to text: ranks 1, 1, 2, 1 of 3; text to image: a 1, b: image 1 ties with its own image 2, so 2; c 1
    assert found["recall_at_1"] == 3 / 4
    assert found["recall_at_5"] == 1
    assert found["recall_at_1_chance"] == pytest.approx(1 / 3)
    assert found["median_rank"] == 1
    assert found["median_rank_chance"] == 2
    assert found["recall_at_1_text_to_image"] == pytest.approx(2 / 3)
    assert found["recall_at_1_text_to_image_chance"] == pytest.approx((2 / 4 + 1 / 4 + 1 / 4) / 3)
    assert found["median_rank_text_to_image"] == 1
    pools = {row["metric"]: (row["n"], row["pool"]) for row in rows}
    assert pools["recall_at_10"] == (4, 3)
    assert pools["recall_at_10_text_to_image"] == pools["median_rank_text_to_image_chance"] == (3, 4)


def test_chance_recall_counts_the_orders() -> None:
    for partners, pool, k in ((1, 6, 2), (2, 6, 3), (3, 5, 4), (5, 5, 1), (1, 3, 10)):
        draws = list(combinations(range(pool), min(k, pool)))
        expected = np.mean([min(draw) < partners for draw in draws])
        assert chance_recall(np.array([partners]), pool, k)[0] == pytest.approx(expected)


def test_chance_median_rank_is_that_of_shuffled_orders() -> None:
    assert [chance_median_rank(np.ones(3, dtype=int), pool) for pool in (1, 2, 5, 100)] == [1, 1, 3, 50]
    partners, rng = np.array([1, 1, 4, 9]), np.random.default_rng(0)
    ranks = [1 + np.flatnonzero(rng.permutation(200) < each)[0] for _ in range(4000) for each in partners]
    assert chance_median_rank(partners, 200) == pytest.approx(np.median(ranks), abs=2)


def test_a_precision_needs_a_pool_of_twice_its_k() -> None:
    classes = [number % 3 for number in range(20)]
    sides = unit(0, 20), unit(1, 20), classes, classes, np.arange(20)
    assert set(estimates(precision_rows("", *sides, FEW))) == {
        "precision_at_5", "precision_at_5_chance", "precision_at_10", "precision_at_10_chance",
    }  # fmt: skip
    fewer = unit(0, 9), unit(1, 9), classes[:9], classes[:9], np.arange(9)
    assert precision_rows("", *fewer, FEW) == []
    many = unit(0, 200), unit(1, 200), classes * 10, classes * 10, np.arange(200)
    assert "precision_at_100" in estimates(precision_rows("", *many, FEW))


def test_the_commonest_findings_stand_beside_the_precision_at_the_same_k() -> None:
    classes = ["edema"] * 8 + ["mass"] * 7 + ["nodule"] * 5
    rows = commonest_rows(classes, np.arange(20), FEW)
    assert estimates(rows) == pytest.approx(
        {"precision_at_5_commonest": 8 / 20, "precision_at_10_commonest": 8 / 20 * 8 / 10}
    )
    assert {(row["n"], row["pool"]) for row in rows} == {(20, 20)}
    assert all(row["low"] < row["estimate"] < row["high"] for row in rows)
    assert commonest_rows(classes[:9], np.arange(9), FEW) == []


# ---- texts that are nobody's


def test_classes_count_alike_however_many_prompts_they_have() -> None:
    films = pd.DataFrame({"finding": ["edema"] * 6 + ["mass"] * 6, "patient_id": range(12)})
    candidates = np.repeat(np.eye(2), 6, axis=0)
    right, wrong = np.array([1.0, 0.1]), np.array([0.1, 1.0])
    rows = text_rows("_x", np.array([right, right, right, right]), candidates, ["edema"] * 3 + ["mass"], films, FEW)
    assert estimates(rows) == {"precision_at_5_x": 0.5, "precision_at_5_x_chance": 0.5}
    rows = text_rows("_x", np.array([right, right, wrong]), candidates, ["edema"] * 2 + ["mass"], films, FEW)
    assert estimates(rows)["precision_at_5_x"] == 1
    assert {(row["n"], row["pool"]) for row in rows} == {(3, 12)}


# ---- CheXpert's sets


def write_set(
    root: Path, name: str, stem: str, each: int, first: int = 0, report: str = "", patients: int = 10**6
) -> None:
    """`each` noisy films a class, every one a study; optionally with reports, of which two are the same."""
    rng, lines = np.random.default_rng(first), []
    for number, column in enumerate(np.repeat(CLASSES[name], each), start=first):
        path = f"train/patient{number % patients:05}/study{number}/view1_frontal.jpg"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(root / path)
        cells = ["1.0" if label == column else "" for label in CHEXPERT_LABELS]
        text = [report and f"{report} {column} {max(number, 1)}."] if report else []
        lines.append(",".join([f"CheXpert-v1.0-small/{path}", *cells, *text]))
    header = ["Path", *CHEXPERT_LABELS, *(["Report Impression"] if report else [])]
    write(root / f"{stem}.csv", ",".join(header), *lines)


class Evaluated(NamedTuple):
    """An untrained model on a set, and what `evaluate` says of its retrieval, by metric."""

    inputs: stages.Inputs
    model: LGDEAModel
    processor: LGDEAProcessor
    table: pd.DataFrame


Evaluate = Callable[..., Evaluated]


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Evaluates the set that lies in the test's folder."""
    monkeypatch.setattr(stages, "project_root", lambda: tmp_path / "project")
    model, processor = PlantedWorld(6, seed=0).model(config("clip"))

    def run(name: str, prompts: str = "compositional") -> Evaluated:
        inputs = stages.evaluation_inputs(load_corpus(name, tmp_path), config("clip"), progress=False)
        table = evaluate(model, processor, inputs, prompts=prompts, resamples=20, progress=False)
        return Evaluated(inputs, model, processor, table[table["task"] == "retrieval"].set_index("metric"))

    return run


def cosines(found: Evaluated, texts: list[str]) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Films with class and role, their embeddings and those of texts."""
    inputs, model, processor, _ = found
    films = inputs.corpus.images.merge(inputs.corpus.labels[["study_id", "finding"]]).merge(inputs.corpus.studies)
    embeds = encode_image_pool(model, inputs.crops(tuple(films["image_id"]))).image_embeds
    return films, embeds, encode_tokens(model, *processor.tokens(texts)).numpy()


def slow_precision(query: np.ndarray, wanted: str, films: pd.DataFrame, embeds: np.ndarray, k: int) -> float:
    """Sort the films that may be found; count those of the class among the first k."""
    pool = [row for row in range(len(films)) if films["role"].iloc[row] not in ("query", "text_query")]
    best = sorted(pool, key=lambda row: -float(embeds[row] @ query))[:k]
    return sum(films["finding"].iloc[row] == wanted for row in best) / k


def test_5x200_without_reports_is_searched_by_prompts(tmp_path: Path, evaluated: Evaluate) -> None:
    write_set(tmp_path, "5x200", "chexpert_5x200", each=4, patients=13)
    found = evaluated("chexpert_5x200")
    inputs, table = found.inputs, found.table
    assert set(table.index) == {f"precision_at_{k}_prompt_to_image{end}" for k in (5, 10) for end in ("", "_chance")}
    assert set(table["pool"]) == {20}
    assert table.loc["precision_at_5_prompt_to_image_chance", "estimate"] == pytest.approx(0.2)
    findings = sorted(set(inputs.corpus.labels["finding"]))
    prompts = {finding: list(load_prompt_set().texts(finding).positive) for finding in findings}
    assert set(table["n"]) == {sum(map(len, prompts.values()))}
    asked = {finding: cosines(found, texts) for finding, texts in prompts.items()}
    for k in (5, 10):
        means = []
        for finding, (films, embeds, queries) in asked.items():
            means.append(np.mean([slow_precision(query, finding, films, embeds, k) for query in queries]))
        row = table.loc[f"precision_at_{k}_prompt_to_image"]
        assert row["estimate"] == pytest.approx(np.mean(means), abs=0.02)  # float32 ties may swap
        assert row["low"] <= row["estimate"] <= row["high"]


def test_5x200_with_reports_is_glorias_task_too(tmp_path: Path, evaluated: Evaluate) -> None:
    write_set(tmp_path, "5x200", "chexpert_5x200", each=4, report="There is")
    table = evaluated("chexpert_5x200", prompts="chexzero").table
    assert {"precision_at_10", "recall_at_1", "recall_at_10_text_to_image", "median_rank"} <= set(table.index)
    assert table.loc["precision_at_5_chance", "estimate"] == pytest.approx(0.2)
    assert table.loc["precision_at_5_commonest", "estimate"] == pytest.approx(1 / 5 * 4 / 5)  # four reports a class
    assert table.loc["recall_at_1", ["n", "pool"]].tolist() == [20, 19]  # of two films one report
    assert table.loc["recall_at_1_text_to_image", ["n", "pool"]].tolist() == [19, 20]
    assert table.loc["precision_at_5_prompt_to_image", ["n", "pool"]].tolist() == [5, 20]


TEXTS = ["Variable,Text", "Edema,Mild edema is seen.", "No Finding,The chest is normal.", "Edema,There is fluid."]


def test_8x200_is_searched_by_films_and_by_texts(tmp_path: Path, evaluated: Evaluate) -> None:
    write_set(tmp_path, "8x200", "chexpert_8x200_candidates", each=3)
    write_set(tmp_path, "8x200", "chexpert_8x200_query", each=2, first=100, patients=9)
    write(tmp_path / "chexpert_8x200_text_query.csv", *TEXTS)
    found = evaluated("chexpert_8x200", prompts="chexzero")
    table = found.table
    kinds = ("prompt_to_image", "text_to_image", "image_to_image")
    assert set(table.index) == {
        f"precision_at_{k}_{kind}{end}" for k in (5, 10) for kind in kinds for end in ("", "_chance")
    }
    assert set(table["pool"]) == {24}
    counts = {kind: int(table.loc[f"precision_at_5_{kind}", "n"]) for kind in kinds}
    assert counts == {"prompt_to_image": 7, "text_to_image": 3, "image_to_image": 16}  # no prompt for the normal class
    films, embeds, texts = cosines(found, [line.split(",")[1] for line in TEXTS[1:]])
    asking = np.flatnonzero(films["role"] == "query")
    for k in (5, 10):
        expected = np.mean([slow_precision(embeds[row], films["finding"][row], films, embeds, k) for row in asking])
        assert table.loc[f"precision_at_{k}_image_to_image", "estimate"] == pytest.approx(expected, abs=0.02)
        precisions = [
            slow_precision(text, wanted, films, embeds, k)
            for text, wanted in zip(texts, ("edema", "no finding", "edema"), strict=True)
        ]
        expected = ((precisions[0] + precisions[2]) / 2 + precisions[1]) / 2
        assert table.loc[f"precision_at_{k}_text_to_image", "estimate"] == pytest.approx(expected, abs=0.05)


def test_roles_are_not_mixed(tmp_path: Path, evaluated: Evaluate) -> None:
    write_set(tmp_path, "8x200", "chexpert_8x200_candidates", each=3, report="There is")
    write_set(tmp_path, "8x200", "chexpert_8x200_query", each=2, first=100, report="Seen is")
    inputs, model, processor, table = evaluated("chexpert_8x200", prompts="chexzero")
    assert table.loc["recall_at_1", "n"] == 24  # pairs of candidates only
    corpus, options = inputs.corpus, {"prompts": "chexzero", "bootstrap": FEW}
    asking = corpus.studies["role"] == "query"
    alone = corpus.subset(corpus.studies.loc[~asking, "study_id"])
    without = run_task(model, inputs.crops, retrieval_table(model, processor, alone, **options)).set_index("metric")[
        "estimate"
    ]
    assert not [metric for metric in without.index if "image_to_image" in metric]
    assert without.to_dict() == table.loc[without.index, "estimate"].to_dict()  # queries change nobody else's search
    # every query a second time, as a study of another patient: its copy is nowhere found
    copies = {
        name: getattr(corpus, name).merge(corpus.studies.loc[asking, ["study_id"]]) for name in ("studies", "labels")
    }
    renamed = {name: rows.assign(study_id="copy " + rows["study_id"]) for name, rows in copies.items()}
    renamed["studies"]["patient_id"] = "copy " + renamed["studies"]["patient_id"]
    images = corpus.images.merge(corpus.studies.loc[asking, ["study_id"]])
    renamed["images"] = images.assign(study_id="copy " + images["study_id"], image_id="copy " + images["image_id"])
    joined = {name: pd.concat([getattr(corpus, name), rows]) for name, rows in renamed.items()}
    pixels = np.concatenate([inputs.store.pixels, inputs.crops(tuple(images["image_id"])).numpy()])
    store = replace(inputs.store, pixels=pixels, image_ids=(*inputs.store.image_ids, *renamed["images"]["image_id"]))
    doubled = replace(corpus, **joined)
    task = retrieval_table(model, processor, doubled, **options)
    again = run_task(model, replace(inputs, store=store).crops, task).set_index("metric")
    for k in (5, 10):
        metric = f"precision_at_{k}_image_to_image"
        assert again.loc[metric, "n"] == 2 * table.loc[metric, "n"]
        assert again.loc[metric, "estimate"] == pytest.approx(table.loc[metric, "estimate"])


def test_a_decoder_ranks_films_by_its_logit_and_has_no_rows_between_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "project_root", lambda: tmp_path / "project")
    write_set(tmp_path, "8x200", "chexpert_8x200_candidates", each=2)
    write_set(tmp_path, "8x200", "chexpert_8x200_query", each=1, first=100)
    settings = config("carzero")
    model, processor = PlantedWorld(6, seed=0).model(settings)
    inputs = stages.evaluation_inputs(load_corpus("chexpert_8x200", tmp_path), settings, progress=False)
    task = retrieval_table(model, processor, inputs.corpus, FEW, prompts="carzero")
    table = run_task(model, inputs.crops, task).set_index("metric")
    assert list(table.index) == ["precision_at_5_prompt_to_image", "precision_at_5_prompt_to_image_chance"]
    films = inputs.corpus.images.merge(inputs.corpus.studies).merge(inputs.corpus.labels[["study_id", "finding"]])
    films = films[films["role"] != "query"]
    findings = [name for name in sorted(set(films["finding"])) if name != "no finding"]  # carzero has no prompt for it
    tokens = processor.tokens([load_prompt_set("carzero").texts(name).positive[0] for name in findings])
    logits = score_rows(model, inputs.crops(tuple(films["image_id"])), *tokens)[0]
    best = np.argsort(-logits, axis=0)[:5]
    expected = np.mean([(films["finding"].to_numpy()[best[:, at]] == name).mean() for at, name in enumerate(findings)])
    assert table["estimate"].iloc[0] == pytest.approx(expected)


def test_text_queries_are_studies_without_films_and_train_nobody(tmp_path: Path) -> None:
    write_set(tmp_path, "8x200", "chexpert_8x200_candidates", each=1)
    write_set(tmp_path, "8x200", "chexpert_8x200_query", each=1, first=50)
    path = tmp_path / "chexpert_8x200_text_query.csv"
    write(path, *TEXTS)
    corpus = load_corpus("chexpert_8x200", tmp_path)
    texts = corpus.studies[corpus.studies["role"] == "text_query"]
    assert texts["report"].tolist() == [line.split(",")[1] for line in TEXTS[1:]]
    assert not set(texts["study_id"]) & set(corpus.images["study_id"])
    write(path, *TEXTS, "Hernia,A hernia.")
    with pytest.raises(ValueError, match=r"query\.csv, line 5, query of 6 characters, letters: Variable must be one"):
        load_corpus("chexpert_8x200", tmp_path)
    write(path, TEXTS[0], "Edema,")
    with pytest.raises(ValueError, match=r"line 2, query of 5 characters, letters: Text must be a sentence"):
        load_corpus("chexpert_8x200", tmp_path)


def test_classes_without_a_prompt_are_said_and_a_set_without_any_has_no_rows(
    tmp_path: Path, evaluated: Evaluate, caplog: pytest.LogCaptureFixture
) -> None:
    write_set(tmp_path, "5x200", "chexpert_5x200", each=4)
    with caplog.at_level("INFO", logger="lgdea"):
        table = evaluated("chexpert_5x200", prompts="biovil").table
    assert table.empty
    assert "prompt set biovil has no queries for atelectasis, cardiomegaly" in caplog.text
    assert "no text of a class, so no retrieval by class" in caplog.text
