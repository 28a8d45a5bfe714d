"""Experiments: what is planned, that rows are made once and kept, and what the switches of an ablation do."""

import dataclasses
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from planted import PlantedWorld
from planted import config as planted_config
from scipy import sparse

from lgdea_core.batch import TrainingData
from lgdea_core.config import RunConfig, replace_fields
from lgdea_core.data.phantom import PhantomConfig, build_phantom
from lgdea_core.data.regions import crop_boxes
from lgdea_core.experiments import __main__ as experiments
from lgdea_core.experiments.cells import (
    FURTHER_MEASURES,
    KEY,
    MEASURES,
    REGION_MEASURES,
    Cell,
    headline_measures,
    images_seen,
    known_reports_only,
    run_cell,
    train_cell,
    with_whole_reports,
)
from lgdea_core.experiments.paper_tables import WHOLE, differences
from lgdea_core.experiments.plans import (
    ABLATIONS,
    COMPARED,
    CONTROL,
    CONTROLS,
    PAIRED_PHRASES,
    PAIRS_CONTROL,
    PAPER_TERMS,
    PHRASES,
    PHRASES_CONTROL,
    SEEDS,
    ablation,
    asg,
    limited_pairing,
    real,
)
from lgdea_core.experiments.tables import (
    add_row,
    add_rows,
    beyond,
    estimated_minutes,
    missing_cells,
    read_table,
    run_cells,
    summary,
)
from lgdea_core.experiments.worlds import REAL
from lgdea_core.model import LGDEAModel
from lgdea_core.runs.inputs import inputs_of
from lgdea_core.training import refresh
from lgdea_core.training.sampling import sample_batch
from lgdea_core.training.schedule import phase_at


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGDEA_RUNS", str(tmp_path / "runs"))  # workers inherit it


def row_of(cell: Cell, **values: object) -> dict[str, object]:
    return dict(zip(KEY, cell.key, strict=True)) | {"auc": 0.5, "seconds": 60} | values


# ---- plans


def test_the_curve_has_every_method_ratio_and_seed_on_one_budget() -> None:
    plan = limited_pairing()
    assert len(plan) == len({cell.key for cell in plan}) == 5 * len(SEEDS) * len(COMPARED)
    assert len({cell.config.train.total_steps for cell in plan}) == 1
    assert len({(cell.config.data.image_size, cell.config.train.batch_size) for cell in plan}) == 1
    assert len({repr(dataclasses.replace(cell.config.model)) for cell in plan}) == 1


def test_with_all_pairs_known_nothing_is_left_to_relate() -> None:
    for cell in limited_pairing(seeds=(1,)):
        assert (cell.config.train.relation_steps == 0) == (cell.config.data.paired_ratio == 1)


def test_ablations_take_as_many_steps_as_the_method_and_differ_from_it() -> None:
    whole = limited_pairing(seeds=(1,), ratios=(0.1,), methods=("lgdea",))[0]
    plan = [cell for cell in ablation(seeds=(1,)) if cell.config.method == "lgdea"]
    assert {cell.config.train.total_steps for cell in plan} == {whole.config.train.total_steps}
    fields = ("config", "shuffled", "oracle", "whole_reports", "known_reports")
    assert len({tuple(repr(getattr(cell, name)) for name in fields) for cell in [whole, *plan]}) == len(ABLATIONS) + 1


def test_the_papers_terms_are_all_that_is_left_of_them() -> None:
    cell = next(cell for cell in ablation(seeds=(1,)) if cell.variant == "paper's terms")
    assert all(getattr(cell.config.loss, term) == 0 for term in PAPER_TERMS)
    assert cell.config.graph.mode == "graph"


@pytest.mark.parametrize(
    ("variant", "differs"),
    [
        ("without local losses", {"loss.local": 0, "loss.local_unpaired": 0, "graph.mode": "graph"}),
        ("without lesion contrast", {"loss.lesion": 0}),
        ("without text phase", {"loss.text": 0, "train.text_steps": 0, "train.pair_steps": 260}),
        ("without consistency", {"loss.consistency": 0}),
        ("without same observation", {"loss.same_observation": 0}),
        ("whole reports", {"graph.mode": "graph"}),
    ],
)
def test_a_variant_lacks_its_part_and_nothing_else(variant: str, differs: dict[str, object]) -> None:
    whole = limited_pairing(seeds=(1,), ratios=(0.1,), methods=("lgdea",))[0].config
    [cell] = ablation(seeds=(1,), variants=(variant,))
    parts = [
        (f"{part}.{field.name}", getattr(getattr(config, part), field.name))
        for config in (whole, cell.config)
        for part in ("data", "model", "graph", "loss", "train")
        for field in dataclasses.fields(getattr(config, part))
    ]
    before, after = dict(parts[: len(parts) // 2]), dict(parts[len(parts) // 2 :])
    assert {name: after[name] for name in after if after[name] != before[name]} == differs
    assert "relations" in {phase_at(step, "lgdea", cell.config.train) for step in range(500)}


def test_the_extensions_are_left_out_one_by_one() -> None:
    """Every term that the paper's terms lack has a variant of its own that lacks it, too."""
    plan = [cell for cell in ablation(seeds=(1,)) if cell.variant != "paper's terms" and PHRASES not in cell.variant]
    for term in PAPER_TERMS:
        assert sum(getattr(cell.config.loss, term) == 0 for cell in plan) == 1, term


def test_phrases_and_patches_alone_take_every_step_on_pairs() -> None:
    plain, paired, control = ablation(seeds=(1,), variants=(PHRASES, PAIRED_PHRASES, PHRASES_CONTROL))
    assert plain.config == paired.config == control.config
    assert (paired.known_reports, paired.shuffled) == (True, False)
    assert (control.known_reports, control.shuffled) == (False, True)
    schedule = plain.config.train
    assert {phase_at(step, "lgdea", schedule) for step in range(schedule.total_steps)} == {"pairs"}


def test_the_control_on_pairs_alone_relates_nothing_and_is_of_lgdea() -> None:
    plan = ablation(seeds=(1,), variants=CONTROLS)
    assert [cell.variant for cell in plan] == [CONTROL] * len(COMPARED) + [PAIRS_CONTROL, PHRASES_CONTROL]
    [alone] = [cell for cell in plan if cell.variant == PAIRS_CONTROL]
    [without] = ablation(seeds=(1,), variants=("without unpaired images",))
    assert alone.shuffled
    assert alone.config == without.config
    assert alone.config.train.relation_steps == 0
    assert list(ABLATIONS)[-3:] == list(CONTROLS)


def test_every_method_has_its_control_and_nothing_else_among_the_ablations() -> None:
    plan = ablation(seeds=(1, 2))
    assert len({cell.key for cell in plan}) == len(plan)
    controls = {(cell.config.method, cell.config.seed) for cell in plan if cell.variant == CONTROL}
    assert {cell.variant for cell in plan if cell.shuffled} == set(CONTROLS)
    assert controls == {(method, seed) for method in COMPARED for seed in (1, 2)}
    assert {cell.variant for cell in plan if cell.config.method != "lgdea"} == {CONTROL}
    whole = {cell.config.method: cell.config for cell in limited_pairing(seeds=(1,), ratios=(0.1,))}
    for cell in ablation(seeds=(1,), variants=(CONTROL,)):
        assert cell.config == whole[cell.config.method]


def test_real_films_are_read_by_every_method_and_its_control_with_intervals() -> None:
    plan = real()
    assert len(plan) == len({cell.key for cell in plan}) == len(REAL) * len(SEEDS) * len(COMPARED) * 2
    assert {(cell.world, cell.config.data.corpus, cell.config.data.paired_ratio) for cell in plan} == {
        ("covid_chestxray+nih+openi", "covid_chestxray+nih+openi", 1.0),
        ("nih", "nih", 0.25),
    }
    assert all(cell.intervals for cell in plan)
    assert all(cell.shuffled == (cell.variant == CONTROL) for cell in plan)
    assert all(cell.config.train.relation_steps for cell in plan)  # all pairs known, and still images unpaired
    assert len({cell.config.train.total_steps for cell in plan}) == 1


def test_an_unknown_ablation_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown variants \['no such'\]; known: without unpaired images"):
        ablation(variants=("no such",))


# ---- tables


def test_a_row_that_is_there_is_not_planned_again(tmp_path: Path) -> None:
    path, plan = tmp_path / "tables" / "t.csv", limited_pairing(seeds=(1,))
    add_row(path, row_of(plan[3]))
    add_row(path, row_of(plan[0]))
    assert {cell.key for cell in missing_cells(plan, path)} == {cell.key for cell in plan} - {plan[0].key, plan[3].key}
    assert not list(path.parent.glob("*.part"))
    table = read_table(path)
    assert table[list(KEY)].equals(table.sort_values(list(KEY), ignore_index=True)[list(KEY)])


def test_rows_of_one_model_come_together_or_not_at_all(tmp_path: Path) -> None:
    path, plan = tmp_path / "t.csv", limited_pairing(seeds=(1,))
    add_rows(path, [row_of(plan[3]), row_of(plan[0])])
    with pytest.raises(KeyError):
        add_rows(path, [row_of(plan[1]), {"auc": 0.5}], key=("no such column",))
    assert len(read_table(path)) == 2
    assert not list(path.parent.glob("*.part"))


def test_a_plan_costs_what_earlier_rows_took(tmp_path: Path) -> None:
    methods = ("clip", "gloria", "lgdea")
    path, plan = tmp_path / "t.csv", limited_pairing(seeds=(1, 2), ratios=(0.1,), methods=methods)
    for cell, seconds in zip(plan[:3], (60, 120, 180), strict=True):
        add_row(path, row_of(cell, seconds=seconds))
    minutes = dict(zip((cell.config.method for cell in plan[3:]), estimated_minutes(plan[3:], path), strict=True))
    assert minutes == {"clip": 1.0, "gloria": 2.0, "lgdea": 3.0}


def test_the_summary_is_mean_and_sample_deviation_over_seeds() -> None:
    plan = limited_pairing(seeds=(1, 2, 3), ratios=(0.1,), methods=("clip",))
    rows = [row_of(cell, auc=value) for cell, value in zip(plan, (0.5, 0.6, 0.7), strict=True)]
    found = summary(pd.DataFrame(rows))
    assert found[["seeds", "auc"]].to_dict("records") == [{"seeds": 3, "auc": "0.600 ± 0.100"}]


def test_what_a_variant_has_beyond_the_method_is_taken_seed_by_seed() -> None:
    plan = limited_pairing(seeds=(1, 2), ratios=(0.1, 0.05), methods=("clip", "lgdea"))
    base = pd.DataFrame([row_of(cell, auc=0.1 * cell.config.seed + cell.config.data.paired_ratio) for cell in plan])
    variants = ablation(seeds=(1, 2, 3), variants=("relations: graph",))  # seed 3 has no row of the method
    rows = pd.DataFrame([row_of(cell, auc=value, cnr=1.0) for cell, value in zip(variants, (0.3, 0.5, 9), strict=True)])
    found = beyond(rows, base)
    assert found["seed"].tolist() == [1, 2]
    assert found["auc"].tolist() == pytest.approx([0.3 - 0.2, 0.5 - 0.3])
    assert "cnr" not in found, "the method's rows have none"
    assert summary(found)["auc"].tolist() == ["0.150 ± 0.071"]
    assert beyond(rows, base.iloc[:0]).empty
    with pytest.raises(pd.errors.MergeError):
        beyond(rows, pd.concat([base, base]))


def test_what_the_film_adds_is_taken_run_by_run_and_compared_like_a_measure() -> None:
    first, second = limited_pairing(seeds=(1, 2), ratios=(0.1,), methods=("lgdea",))
    variants = ablation(seeds=(1, 2), variants=("relations: graph",))
    whole = pd.DataFrame([row_of(first, cnr=0.9, cnr_swapped=0.6), row_of(second, cnr=1.2, cnr_swapped=0.4)])
    graph = pd.DataFrame([row_of(cell, cnr=1.0, cnr_swapped=0.8) for cell in variants])
    assert summary(whole)["cnr_own"].tolist() == ["0.550 ± 0.354"]
    assert differences(whole, graph, WHOLE)["cnr_own"].tolist() == ["-0.350 ± 0.354"]
    assert "cnr_own" not in summary(whole.drop(columns="cnr_swapped"))


def test_the_summary_of_ablations_has_the_differences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiments, "table_path", lambda name: tmp_path / f"{name}.csv")
    graph, alone = ablation(seeds=(1,), variants=("relations: graph", "without unpaired images"))
    [whole] = limited_pairing(seeds=(1,), ratios=(0.1,), methods=("lgdea",))
    monkeypatch.setattr(sys, "argv", ["experiments", "ablation", "--summary"])
    experiments.main()
    assert capsys.readouterr().out.count("no rows to compare yet") == 3
    add_row(tmp_path / "ablation.csv", row_of(graph, auc=0.7))
    add_row(tmp_path / "limited_pairing.csv", row_of(whole, auc=0.75))
    experiments.main()
    assert capsys.readouterr().out.count("no rows to compare yet") == 2, "only the method as it is has rows"
    add_row(tmp_path / "ablation.csv", row_of(alone, auc=0.71))
    experiments.main()
    table, beyond_whole, beyond_pairs, beyond_phrases = capsys.readouterr().out.split("beyond ")
    assert "0.700" in table
    assert all(said in beyond_whole for said in ("the method as it is, seed by seed", "-0.050"))
    assert all(said in beyond_pairs for said in ("'without unpaired images'", "0.040", "-0.010"))
    assert "no rows to compare yet" in beyond_phrases


def test_one_seed_has_no_deviation_and_a_measure_without_values_no_text() -> None:
    [cell] = limited_pairing(seeds=(1,), ratios=(0.1,), methods=("clip",))
    found = summary(pd.DataFrame([row_of(cell, auc=0.5, relation_coverage=None)]))
    assert found[["seeds", "auc", "relation_coverage"]].to_dict("records") == [
        {"seeds": 1, "auc": "0.500", "relation_coverage": ""}
    ]
    assert summary(read_table(Path("no such table"))).empty


# ---- cells


def test_measures_are_the_macro_means_of_the_harness() -> None:
    rows = [{"task": task, "metric": metric, "finding": "macro", "estimate": at} for at, (task, metric) in
            enumerate(MEASURES.values())]  # fmt: skip
    rows = [row | ({"finding": "all"} if row["task"] == "retrieval" else {}) for row in rows]
    distractor = {"task": "grounding", "metric": "cnr_signed", "finding": "edema", "estimate": 99.0}
    assert headline_measures(pd.DataFrame([distractor, *rows])) == dict(
        zip(MEASURES, range(len(MEASURES)), strict=True)
    )


def test_intervals_stand_beside_their_measure() -> None:
    rows = [
        {
            "task": "zero-shot",
            "metric": "auc",
            "finding": "macro",
            "estimate": 0.6,
            "low": 0.51,
            "high": 0.72,
            "n": 224,
        },
        {"task": "zero-shot", "metric": "auc", "finding": "edema", "estimate": 0.1, "low": 0.0, "high": 0.2, "n": 9},
    ]
    metrics = pd.DataFrame(rows)
    assert headline_measures(metrics) == {"auc": 0.6}  # a measure without truth has no column
    assert headline_measures(metrics, intervals=True) == {"auc": 0.6, "auc_low": 0.51, "auc_high": 0.72, "auc_n": 224}


def test_without_unpaired_reports_images_relate_to_copies_of_the_known_ones(tmp_path: Path) -> None:
    config = limited_pairing(seeds=(0,), ratios=(0.2,), methods=("lgdea",), preset="ci")[0].config
    corpus = build_phantom(PhantomConfig(studies=60), tmp_path / "world")
    pools = inputs_of(corpus, config, progress=False).pools
    known = set(pools.seed_pairs["report_id"])
    changed = known_reports_only(corpus, pools)
    train = changed.studies[changed.studies["split"] == "train"].set_index("study_id")
    written = set(train.index[train["report"].notna()])
    assert written == known | {f"{report_id}-copy" for report_id in known}
    for report_id in known:
        assert train.loc[f"{report_id}-copy", "report"] == train.loc[report_id, "report"]
    assert set(changed.split("test").studies["study_id"]) == set(corpus.split("test").studies["study_id"])


def planted_whole_reports() -> tuple[TrainingData, RunConfig, LGDEAModel]:
    """Sixty studies whose reports all differ, each report its only phrase."""
    world, run = PlantedWorld(60, seed=0), planted_config(mode="graph")
    world.reports = [f"{report} Comparison to film {number}." for number, report in enumerate(world.reports)]
    model, processor = world.model(run)
    data = world.training(24, processor.tokenizer)
    order = [int(report_id[1:]) for report_id in data.evidence.report_ids]
    return with_whole_reports(data, [world.reports[number] for number in order]), run, model.requires_grad_(False)


def test_a_refresh_reads_whole_reports_and_a_batch_random_parts_of_them() -> None:
    data, run, _ = planted_whole_reports()
    assert len(data.evidence.phrases) == len(data.sentences) == 60
    special, seen = set(data.special_ids), {}
    for step in range(6):
        batch = sample_batch(data, run, step, "text")
        for phrase, tokens in zip(batch.phrases, batch.phrase_tokens.tolist(), strict=True):
            report = data.sentences[data.phrase_report[phrase]]
            whole = [token for sentence in report for token in sentence]
            kept = data.phrase_tokens[phrase][data.phrase_mask[phrase]].tolist()
            assert [token for token in kept if token not in special] == whole
            part = [token for token in tokens if token not in special]
            assert Counter(part) <= Counter(whole)
            assert len(part) >= min(map(len, report))
            seen.setdefault(phrase, set()).add(tuple(part))
    assert max(map(len, seen.values())) > 2  # not always the same part


def test_whole_reports_are_related_without_a_table_of_images_by_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    data, run, model = planted_whole_reports()
    asked = Mock(wraps=refresh.encode_image_pool)
    monkeypatch.setattr(refresh, "encode_image_pool", asked)
    monkeypatch.setattr(refresh, "cross_affinity", Mock(side_effect=AssertionError("the affinity was asked")))
    state = refresh.refresh_relations(model, data, replace_fields(run, keep=2))
    assert asked.call_args.args[2] is None  # no responses of every image to every report
    images, reports = len(data.unpaired_images), len(data.unpaired_reports)
    assert state.relations.relations.nnz <= 2 * images  # else there would be nothing to lose
    assert state.posterior.nnz <= state.relations.relations.nnz
    tables = [value for part in (state, state.relations) for value in vars(part).values() if hasattr(value, "shape")]
    held = [np.lib.array_utils.byte_bounds(table) for table in tables if not sparse.issparse(table)]
    assert max(end - start for start, end in held) < 4 * images * reports  # a float32 each
    statements = data.evidence.phrase_statement[data.evidence.report_phrases[data.unpaired_reports].indices]
    found = state.statement_posterior(data.unpaired_images[:5], statements)
    np.testing.assert_allclose(found, state.block(data.unpaired_images[:5], data.unpaired_reports), atol=1e-7)
    assert found.any()


def test_whole_reports_refuse_the_affinity() -> None:
    [cell] = limited_pairing(seeds=(1,), ratios=(0.1,), methods=("lgdea",))
    with pytest.raises(ValueError, match=r"mode 'graph\*affinity' would ask every report of every image"):
        dataclasses.replace(cell, whole_reports=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ABLATIONS))
def test_every_ablation_trains_and_leaves_a_row(name: str) -> None:
    cell = ablation(seeds=(5,), variants=(name,), preset="ci")[0]
    row = run_cell(cell)
    assert row["variant"] == name
    assert (row["films"], row["reports"]) == ("generated", "generated")
    assert row["steps"] == 30
    assert all(np.isfinite(row[measure]) for measure in MEASURES | FURTHER_MEASURES)
    assert (cell.folder / "model" / "model.safetensors").is_file()
    assert not (cell.folder / "training").exists()


@pytest.mark.slow
def test_rows_of_asg_have_its_own_measures_on_boxes_with_their_true_names() -> None:
    baseline, control = asg(seeds=(5,), methods=("clip",), variants=("shuffled regions",), preset="ci")
    row = run_cell(baseline)
    assert set(REGION_MEASURES) - set(row) == {"tag_auc"}  # clip has no tag decoder
    inputs, trained = train_cell(control)
    images = inputs.corpus.images.set_index("image_id").loc[list(inputs.pools.image_ids)].reset_index()
    true, learnt = crop_boxes(inputs.corpus.regions, images), trained.data.regions.boxes
    assert learnt.shape == true.shape
    assert not np.array_equal(learnt, true, equal_nan=True)
    row = run_cell(control)
    assert all(0 < row[measure] < 1 for measure in REGION_MEASURES)
    assert row["named_region_at_1_chance"] > row["region_at_1_chance"]


@pytest.mark.slow
def test_the_oracle_relates_every_image_to_its_own_report() -> None:
    cell = ablation(seeds=(5,), variants=("relations: oracle",), preset="ci")[0]
    _, trained = train_cell(cell)
    assert trained.history["effective_reports"].dropna().iloc[-1] == pytest.approx(1)
    assert trained.history["reached_images"].dropna().iloc[-1] > 0.9  # the others' own reports hold no evidence


@pytest.mark.slow
def test_images_seen_counts_what_the_batches_hold() -> None:
    for cell in limited_pairing(seeds=(5,), ratios=(0.02,), methods=("clip", "lgdea"), preset="ci"):
        _, trained = train_cell(cell)
        pairs = len(trained.data.seed_pairs)
        schedule = cell.config.train
        later = {"clip": pairs, "lgdea": min(8, pairs) + 8}[cell.config.method]
        first = {"clip": pairs, "lgdea": 0}[cell.config.method]
        expected = schedule.text_steps * first + schedule.pair_steps * pairs + schedule.relation_steps * later
        assert images_seen(cell.config, trained.data) == expected


@pytest.mark.slow
def test_rows_are_made_once_by_two_workers(tmp_path: Path) -> None:
    path, plan = tmp_path / "t.csv", limited_pairing(seeds=(5,), ratios=(0.1,), preset="ci")
    run_cells(plan[:1], path, workers=2)
    kept = read_table(path)
    run_cells(plan, path, workers=2)
    table = read_table(path)
    assert sorted(table["method"]) == sorted(COMPARED)
    assert table[table["method"] == plan[0].config.method]["seconds"].tolist() == kept["seconds"].tolist()
    again = path.read_bytes()
    run_cells(plan, path, workers=2)
    assert path.read_bytes() == again


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("orphans.py")), str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL) as parent:
        deadline = time.monotonic() + 120
        while not all((tmp_path / name).exists() for name in "ab"):
            assert time.monotonic() < deadline, "the workers never started"
            time.sleep(0.1)
        parent.kill()
    time.sleep(2)
    beats = {path.name: path.read_text() for path in tmp_path.iterdir()}
    time.sleep(1)
    assert beats == {path.name: path.read_text() for path in tmp_path.iterdir()}, "a worker goes on alone"
