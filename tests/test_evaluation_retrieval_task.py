"""Retrieval rows of a split: by hand, against slow transcriptions, and on CheXpert's sets from file to table."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from layouts import write
from PIL import Image
from planted import PlantedWorld, config

from lgdea_core.data.corpora import load_corpus
from lgdea_core.data.corpora.chexpert_retrieval import CLASSES
from lgdea_core.data.corpora.tables import CHEXPERT_LABELS
from lgdea_core.evaluation.bootstrap import bootstrap_median, bootstrap_pool_precision
from lgdea_core.evaluation.harness import evaluate
from lgdea_core.evaluation.prompts import load_prompt_set
from lgdea_core.evaluation.resamples import median_resamples, pool_precision_resamples, resample_counts
from lgdea_core.evaluation.retrieval import chance_median_rank, chance_recall
from lgdea_core.evaluation.retrieval_task import commonest_rows, precision_rows, recall_rows, retrieval_table, text_rows
from lgdea_core.inference import decoder_scores, encode_image_pool, encode_tokens
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.runs import inputs as stages

OPTIONS = {"resamples": 30, "seed": 0}


def estimates(rows: list[dict]) -> dict[str, float]:
    return {row["metric"]: row["estimate"] for row in rows}


def unit(seed: int, rows: int, dim: int = 8) -> np.ndarray:
    embeds = np.random.default_rng(seed).normal(size=(rows, dim))
    return embeds / np.linalg.norm(embeds, axis=1, keepdims=True)


# ---- pairs


def test_recall_and_median_rank_by_hand() -> None:
    # texts a, a, b, c: rows 0 and 1 share one candidate; image 2 prefers c to its own b
    images = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0.6, 0.8], [0, 0, 1]])
    reports = np.eye(3)[[0, 0, 1, 2]]
    rows = recall_rows(images, reports, list("aabc"), np.array(list("pqrs"), dtype=object), **OPTIONS)
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


def test_median_interval_equals_medians_of_repeated_values() -> None:
    rng = np.random.default_rng(0)
    values, patients = rng.integers(1, 9, 23).astype(float), rng.integers(0, 7, 23)
    patients[:7] = range(7)
    counts = resample_counts(7, 40, 3)
    codes, _ = pd.factorize(patients)
    draws = [np.median(np.repeat(values, count[codes])) for count in counts]
    np.testing.assert_allclose(median_resamples(values, codes, counts), draws)
    interval = bootstrap_median(values, patients, resamples=40, seed=3)
    assert interval.estimate == np.median(values)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))


def test_a_precision_needs_a_pool_of_twice_its_k() -> None:
    classes = [number % 3 for number in range(20)]
    sides = unit(0, 20), unit(1, 20), classes, classes, np.arange(20)
    assert set(estimates(precision_rows("", *sides, **OPTIONS))) == {
        "precision_at_5", "precision_at_5_chance", "precision_at_10", "precision_at_10_chance",
    }  # fmt: skip
    fewer = unit(0, 9), unit(1, 9), classes[:9], classes[:9], np.arange(9)
    assert precision_rows("", *fewer, **OPTIONS) == []
    many = unit(0, 200), unit(1, 200), classes * 10, classes * 10, np.arange(200)
    assert "precision_at_100" in estimates(precision_rows("", *many, **OPTIONS))


def test_the_commonest_findings_stand_beside_the_precision_at_the_same_k() -> None:
    classes = ["edema"] * 8 + ["mass"] * 7 + ["nodule"] * 5
    rows = commonest_rows(classes, np.arange(20), **OPTIONS)
    assert estimates(rows) == pytest.approx(
        {"precision_at_5_commonest": 8 / 20, "precision_at_10_commonest": 8 / 20 * 8 / 10}
    )
    assert {(row["n"], row["pool"]) for row in rows} == {(20, 20)}
    assert all(row["low"] < row["estimate"] < row["high"] for row in rows)
    assert commonest_rows(classes[:9], np.arange(9), **OPTIONS) == []


# ---- texts that are nobody's


@pytest.mark.parametrize("patients", [60, 4])
def test_pool_precision_equals_ranking_each_resampled_pool_anew(patients: int) -> None:
    rng = np.random.default_rng(1)
    groups, classes, asked = rng.integers(0, patients, 120), rng.integers(0, 3, 120), np.array([0, 2, 2])
    groups[:patients] = range(patients)
    scores, weights = rng.normal(size=(3, 120)), np.array([0.5, 0.25, 0.25])
    ranking = np.argsort(-scores, axis=1)
    if patients == 4:
        groups[ranking[0, :70]] = 0  # whom every third resample lacks, and with them all that rank first
    hits = (classes[ranking] == asked[:, None]).astype(float)
    codes, _ = pd.factorize(groups)
    counts, draws = resample_counts(patients, 50, 2), []
    for count in counts:
        pool = np.repeat(np.arange(120), count[codes])
        best = [pool[np.argsort(-scores[query, pool], kind="stable")][:5] for query in range(3)]
        draws.append(sum(weights[query] * (classes[best[query]] == asked[query]).mean() for query in range(3)))
    np.testing.assert_allclose(pool_precision_resamples(hits, codes[ranking], weights, counts, 5), draws)
    interval = bootstrap_pool_precision(hits, ranking, weights, groups, 5, resamples=50, seed=2)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    assert interval.estimate == pytest.approx(weights @ hits[:, :5].mean(axis=1))
    with pytest.raises(ValueError, match="5 ranked, but 120 candidates"):
        bootstrap_pool_precision(hits[:, :5], ranking[:, :5], weights, groups, 5)


def test_classes_count_alike_however_many_prompts_they_have() -> None:
    films = pd.DataFrame({"finding": ["edema"] * 6 + ["mass"] * 6, "patient_id": range(12)})
    candidates = np.repeat(np.eye(2), 6, axis=0)
    right, wrong = np.array([1.0, 0.1]), np.array([0.1, 1.0])
    rows = text_rows(
        "_x", np.array([right, right, right, right]), candidates, ["edema"] * 3 + ["mass"], films, **OPTIONS
    )
    assert estimates(rows) == {"precision_at_5_x": 0.5, "precision_at_5_x_chance": 0.5}
    rows = text_rows("_x", np.array([right, right, wrong]), candidates, ["edema"] * 2 + ["mass"], films, **OPTIONS)
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
    for k in (5, 10):
        means = []
        for finding, texts in prompts.items():
            films, embeds, queries = cosines(found, texts)
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
    corpus, options = inputs.corpus, {"prompts": "chexzero", **OPTIONS}
    asking = corpus.studies["role"] == "query"
    alone = corpus.subset(corpus.studies.loc[~asking, "study_id"])
    without = retrieval_table(model, processor, inputs, alone, **options).set_index("metric")["estimate"]
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
    again = retrieval_table(model, processor, replace(inputs, store=store), doubled, **options).set_index("metric")
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
    table = retrieval_table(model, processor, inputs, inputs.corpus, prompts="carzero", **OPTIONS).set_index("metric")
    assert list(table.index) == ["precision_at_5_prompt_to_image", "precision_at_5_prompt_to_image_chance"]
    films = inputs.corpus.images.merge(inputs.corpus.studies).merge(inputs.corpus.labels[["study_id", "finding"]])
    films = films[films["role"] != "query"]
    findings = [name for name in sorted(set(films["finding"])) if name != "no finding"]  # carzero has no prompt for it
    tokens = processor.tokens([load_prompt_set("carzero").texts(name).positive[0] for name in findings])
    logits = decoder_scores(model, inputs.crops(tuple(films["image_id"])), *tokens)
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
    with pytest.raises(ValueError, match=r"text_query\.csv, line 5, study 'text-query-4': Variable must be one class"):
        load_corpus("chexpert_8x200", tmp_path)
    write(path, TEXTS[0], "Edema,")
    with pytest.raises(ValueError, match=r"line 2, study 'text-query-1': Text must be a sentence"):
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
