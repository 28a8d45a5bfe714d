"""The benchmarks: evaluation agrees with a per-sample loop, steps take turns, made-up MIMIC is read; and faults."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import evaluation
import faults
import language_model_client
import mimic_layout
import neighbours
import results
import rules
import size
import training_step
from planted import PlantedWorld, config

from lgdea_core.batch import TrainingData
from lgdea_core.config import RunConfig
from lgdea_core.data.corpora import load_corpus
from lgdea_core.data.phantom import PhantomConfig, generate_study
from lgdea_core.evidence.lexicon import LexiconExtractor
from lgdea_core.experiments.docs import fault_kills
from lgdea_core.model import LGDEAModel

TINY = argparse.Namespace(pairs=30, size=48, images=40, dim=16, resamples=20, repeats=1, seed=0, cold=False)


def test_the_loop_and_the_package_agree(tmp_path: Path) -> None:
    table, difference = evaluation.benchmark(tmp_path, TINY)
    assert difference < 1e-9
    assert (table["seconds"] >= 0).all()
    assert table["part"].is_unique
    maps, masks = np.load(tmp_path / "maps.npy"), np.load(tmp_path / "masks.npy")
    seen = ~np.isnan(maps)
    assert 0.7 < seen.mean() < 0.8  # the inner 7/8 of both sides
    assert (masks & seen).any(axis=(1, 2)).all()
    assert (~masks & seen).any(axis=(1, 2)).all()


def test_a_metric_that_is_off_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = evaluation.per_sample_loop
    monkeypatch.setattr(evaluation, "per_sample_loop", lambda maps, masks: loop(maps, masks) + 1e-5)
    with pytest.raises(RuntimeError, match=r"the loop and score_maps differ by 1\.0e-05"):
        evaluation.benchmark(tmp_path, TINY)


def test_an_exact_search_finds_all_neighbours_and_an_inverted_file_most() -> None:
    exact, approximate = (neighbours.search(1500, limit) for limit in (neighbours.FLAT_LIMIT, 0))
    assert (exact["way"], exact["recall"]) == ("exact", 1)
    assert approximate["way"] == "inverted file"
    assert 0.9 < approximate["recall"] < 1


def test_retrieval_of_the_benchmark_is_above_chance() -> None:
    rng = np.random.default_rng(0)
    embeds = rng.normal(size=(50, 16)).astype(np.float32)
    embeds /= np.linalg.norm(embeds, axis=1, keepdims=True)
    values = evaluation.retrieval(embeds, embeds, evaluation.Bootstrap(resamples=10))
    assert values["image to text R@1"] >= 0.8  # one text in five is shared by ten images
    assert values["P@50"] == pytest.approx(0.2)
    assert set(values) == {
        *(f"P@{k}" for k in (5, 10, 50)),
        *(f"{way} R@{k}" for way in ("image to text", "text to image") for k in (1, 5, 10)),
    }


def test_the_campaign_of_faults_finds_the_processes_of_a_run_and_counts_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = os.environ | {"LGDEA_RUNS": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment) as process:
        while not (found := faults.processes_of(tmp_path, but=0)):  # its environment is there after exec
            time.sleep(0.01)
        assert [one.pid for one in found] == [process.pid]
        assert faults.processes_of(tmp_path, but=process.pid) == []
        process.communicate()
    assert faults.processes_of(tmp_path, but=0) == []
    (tmp_path / "timing.json").write_text("1")
    (tmp_path / "metrics.json").write_text("1")
    assert list(faults.files_of(tmp_path)) == ["metrics.json"]
    monkeypatch.setattr(faults, "ROWS", {name: tmp_path / f"{name}.csv" for name in faults.ROWS})
    row = {"kill": 0, "method": "asg", "notebook": "01", "signal": "SIGINT", "to": "group", "still_running": 1}
    counts = {"orphans": 0, "seconds_to_end": 0.5, "repairs": 0, "files": 7, "differing": 2}
    for kill in range(2):
        faults.note("kills", row | counts | {"kill": kill})
    [shown] = fault_kills(tmp_path / "kills.csv").astype(str).to_numpy().tolist()
    assert shown == ["ASG", "01", "2", "SIGINT to group", "2", "0", "0.5", "0", "14", "4"]


@pytest.mark.slow
def test_steps_of_all_methods_and_phases_are_timed_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    world, calls = PlantedWorld(16), []

    def prepare(method: str) -> tuple[RunConfig, LGDEAModel, TrainingData]:
        run = config(method, batch_size=4)
        model, processor = world.model(run)
        return run, model, world.training(8, processor.tokenizer)

    step = training_step.take_step
    monkeypatch.setattr(
        training_step, "take_step", lambda state, *rest: (calls.append(rest[2].method), step(state, *rest))
    )
    rows = training_step.benchmark(prepare, 1, against_open_clip=False).set_index(["method", "phase"])
    kept = [results.of_training_step(row) for row in rows.reset_index().to_dict("records")]
    assert [row["size"] for row in kept][:2] == ["clip, pairs, batch 4", "gloria, pairs, batch 4"]
    assert calls == ["clip", "gloria", "lgdea", "lgdea", "lgdea"] * 2  # once to warm up
    assert list(rows.index) == list(training_step.STEPS)
    assert (rows[["seconds", "draw_seconds", "load"]] > 0).all(axis=None)
    ratio = rows.loc[("lgdea", "pairs"), "core_seconds"] / rows.loc[("clip", "pairs"), "core_seconds"]
    assert rows.loc[("lgdea", "pairs"), "ratio"] == pytest.approx(ratio)
    assert np.isnan(rows.loc[("clip", "pairs"), "ratio"])  # nothing to compare it with
    assert rows.loc[("lgdea", "text"), ["images", "augment_seconds"]].tolist() < [1, 0.05]


def test_a_made_up_mimic_reads_as_mimic_and_goes_on_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SHARD", 4), ("BOXED_EVERY", 3), ("GRAPH_EVERY", 2), ("TEST", 0.3)):
        monkeypatch.setattr(mimic_layout, name, value)
    mimic_layout.write_layout(tmp_path, 4, film_size=32)
    films = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")}
    mimic_layout.write_layout(tmp_path, 7, film_size=32)
    assert {path: path.stat().st_mtime_ns for path in films} == films
    corpus = load_corpus("mimic_cxr", tmp_path / "mimic-cxr-jpg", ms_cxr_table=None)
    assert not corpus.exclusions.defects
    assert len(corpus.images) == len(corpus.studies) == 7
    studies = [generate_study(PhantomConfig(studies=7, image_size=32), index) for index in range(7)]
    said = {" ".join(study.report.partition("FINDINGS:")[2].split()) for study in studies}
    assert {" ".join(report.split()[1:]) for report in corpus.studies["report"]} == said
    assert len(corpus.regions) == 4 * 29
    boxed = load_corpus("ms_cxr", tmp_path / "ms-cxr")
    assert set(boxed.boxes["image_id"]) <= set(corpus.images["image_id"])
    assert len(boxed.boxes) > 0
    assert len(load_corpus("chest_imagenome", tmp_path / "chest-imagenome").regions) > 0
    with pytest.raises(ValueError, match="another film size or seed"):
        mimic_layout.write_layout(tmp_path, 7, film_size=64)


def test_results_keep_what_was_measured_before_and_replace_what_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.csv")
    small = {"nodes": 10, "seconds": 2.0, "peak_gib": 1.0, "plain_seconds": 5.0}
    results.keep("propagation", [small, small | {"nodes": 90, "plain_seconds": None}], load=0.1)
    table, difference = evaluation.benchmark(tmp_path, TINY)
    assert difference < 1e-9
    results.keep("evaluation", table.assign(loop_seconds=2.0).to_dict("records"), load=0.1)
    answers = language_model_client.Measured(answers=12, seconds=3.0, waiting=0.96)
    results.keep("language_model_client", [{"delay": 0.5, **answers._asdict()}], load=0.1)
    results.keep("propagation", [small | {"seconds": 4.0}], load=0.7)
    rows = pd.read_csv(tmp_path / "results.csv").set_index(["benchmark", "size"])
    assert rows.loc[("propagation", "10 nodes"), ["seconds", "ratio", "load"]].tolist() == [4.0, 1.25, 0.7]
    assert rows.loc[("propagation", "90 nodes"), "seconds"] == 2.0
    assert rows.loc[("propagation", "90 nodes"), ["ratio", "ratio_is"]].isna().all()
    assert rows.loc[("language_model_client", "12 answers of 0.5 s"), "ratio"] == 0.96
    assert len(rows.loc["evaluation"]) == len(table)
    assert set(rows.loc["evaluation"].dropna(subset="ratio").index) == set(results.COMPARED)


@pytest.mark.slow
def test_the_rules_are_timed_beside_the_control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGDEA_DATA", str(tmp_path))
    monkeypatch.setattr(rules, "TURNS", 1)
    corpus, reports = rules.find_reports(3)
    control, lexicon = rules.benchmark(corpus, reports)
    assert lexicon["findings"] == sum(map(len, LexiconExtractor().extract(reports)))
    assert lexicon["ratio"] == control["seconds"] / lexicon["seconds"]
    assert [results.of_rules(row)["size"] for row in (control, lexicon)] == [
        f"{name}, 3 reports of phantom" for name in ("keywords+negspacy", "lexicon")
    ]


@pytest.mark.slow
def test_the_client_is_measured_on_answers_that_all_arrive() -> None:
    found = language_model_client.measure(sentences=12, in_flight=4, delay=0.05)
    assert found.answers == 12
    assert 0.1 < found.waiting <= 1
    assert found.seconds > 3 * 0.05


@pytest.mark.slow
def test_every_part_of_preset_paper_is_timed_on_a_made_up_mimic(tmp_path: Path) -> None:
    mimic_layout.write_layout(tmp_path, 60, film_size=32)
    rows = pd.DataFrame(size.measure(tmp_path, 60, tmp_path / "cache"))
    assert rows["part"].tolist()[-3:] == ["encoding of all images", "rest of a refresh", "a batch"]
    assert (rows["seconds"] > 0).all()
    assert rows["peak_gib"].between(0.05, 20).all()
    assert len(list((tmp_path / "cache").iterdir())) > 0


def test_growth_is_the_more_of_a_line_and_a_power_law() -> None:
    sizes, grows = (1000, 2000, 4000), {"steeper": lambda n: 3e-4 * n**1.5, "fixed": lambda n: 2 + 1e-3 * n}
    rows = [
        {"studies": n, "part": part, "seconds": seconds(n), "peak_gib": 0.5 + 1e-5 * n}
        for part, seconds in grows.items()
        for n in sizes
    ]
    table = size.extrapolate(pd.DataFrame(rows), 100_000).set_index("part")
    assert table["exponent"]["steeper"] == pytest.approx(1.5)
    assert table["seconds"].to_dict() == pytest.approx({"steeper": 3e-4 * 1e5**1.5, "fixed": 102.0})
    assert table["peak_gib"].tolist() == pytest.approx([1.5, 1.5])
    kept = results.of_size(table.reset_index().to_dict("records")[0])
    assert (kept["size"], kept["ratio"]) == ("100000 studies, steeper", pytest.approx(1.5))
