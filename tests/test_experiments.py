"""Experiments: what is planned, that rows are made once and kept, what a summary says, and the command."""

import dataclasses
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from orphans import Number

from lgdea_core.config import replace_fields
from lgdea_core.data.pairing import limit_pairs
from lgdea_core.experiments import __main__ as command
from lgdea_core.experiments import tables, worlds
from lgdea_core.experiments.abundance import UNPAIRED, abundance
from lgdea_core.experiments.cells import Cell
from lgdea_core.experiments.jobs import make_rows
from lgdea_core.experiments.paper_tables import WHOLE, differences
from lgdea_core.experiments.plans import (
    ABLATIONS,
    ASG_ABLATIONS,
    BY_NAME,
    COMPARED,
    CONTROL,
    CONTROLS,
    LOCKED,
    PAIRED_PHRASES,
    PAIRS_CONTROL,
    PAPER,
    PHRASES,
    PHRASES_CONTROL,
    PRETRAINED,
    SEEDS,
    TOWERS,
    WITHOUT_IMAGES,
    ablation,
    asg,
    limited_pairing,
    real,
)
from lgdea_core.experiments.relations import STARTS, SWEEPS, relations
from lgdea_core.experiments.tables import SETTINGS, TABLES, Table, beyond, draws_summary, of_common_seeds
from lgdea_core.experiments.worlds import (
    GENERATED,
    OPENI_SPLIT,
    PAIRED_RATIOS,
    REAL,
    WORLDS,
    build_world,
    openi_split,
)  # fmt: skip
from lgdea_core.methods.lgdea import WITHOUT_EXTENSIONS
from lgdea_core.training.schedule import phase_at
from lgdea_core.vocabulary import NO_FINDING

PAIRING = TABLES["limited_pairing"]
ON_TOWERS = ("linear_probe", "segmentation", "label_draws")
NUMBERS = Table(name="numbers", experiment="numbers", key=("writer", "number"))


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGDEA_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(tables, "project_root", lambda: tmp_path)


def row_of(cell: Cell, **values: object) -> dict[str, object]:
    return cell.key | {"auc": 0.5, "seconds": 60} | values


def keys_of(plan: list[Cell]) -> list[tuple[Any, ...]]:
    return [tuple(cell.key.values()) for cell in plan]


# ---- plans


def test_the_curve_has_every_method_ratio_and_seed_on_one_budget() -> None:
    plan = limited_pairing()
    assert len(plan) == len(set(keys_of(plan))) == 5 * len(SEEDS) * len(COMPARED)
    assert len({cell.config.train.total_steps for cell in plan}) == 1
    assert len({(cell.config.data.image_size, cell.config.train.batch_size) for cell in plan}) == 1
    assert len({repr(cell.config.model) for cell in plan}) == 1
    for cell in plan:  # with all pairs known nothing is left to relate
        assert (cell.config.train.relation_steps == 0) == (cell.config.data.paired_ratio == 1)


def test_abundance_has_the_same_steps_at_every_size_four_times_the_presets() -> None:
    plan = abundance(seeds=(1,))
    usual = limited_pairing(seeds=(1,), ratios=(0.1,), methods=("lgdea",))[0].config.train
    assert {cell.config.train.total_steps for cell in plan} == {4 * usual.total_steps}
    whole = plan[1].config.train
    for name in ("text_steps", "pair_steps", "relation_steps", "ramp_steps", "refresh_every"):
        assert getattr(whole, name) == 4 * getattr(usual, name)
    with pytest.raises(ValueError, match="--ratio must be below 1, got 1: nothing would be unpaired"):
        abundance(ratio=1.0)
    assert [(cell.unpaired, cell.variant) for cell in plan] == [
        (0, ""), *((count, variant) for count in UNPAIRED[1:] for variant in ("", WITHOUT_IMAGES))
    ]  # fmt: skip
    assert {cell.config.train.relation_steps for cell in plan if cell.variant or not cell.unpaired} == {0}


def test_means_are_of_the_seeds_that_have_everything_wanted() -> None:
    rows = pd.DataFrame({"seed": [1, 1, 1, 2, 3, 3], "variant": ["a", "b", "c", "a", "a", "b"]})
    assert list(of_common_seeds(rows, ("a", "b")).index) == [0, 1, 4, 5]
    assert list(of_common_seeds(rows, {"a"}).index) == [0, 3, 4]
    assert of_common_seeds(rows, ("a", "b", "d")).empty
    assert of_common_seeds(rows[:0], ("a",)).empty


def test_ablations_take_as_many_steps_as_the_method_and_differ_from_it() -> None:
    whole = limited_pairing(seeds=(1,), ratios=(0.1,), methods=("lgdea",))[0]
    plan = [cell for cell in ablation(seeds=(1,)) if cell.config.method == "lgdea"]
    assert {cell.config.train.total_steps for cell in plan} == {whole.config.train.total_steps}
    fields = ("config", "shuffled", "oracle", "whole_reports", "known_reports")
    assert {cell.variant for cell in plan} == set(ABLATIONS) - set(BY_NAME)
    different = {tuple(repr(getattr(cell, name)) for name in fields) for cell in [whole, *plan]}
    assert len(different) == 1 + len(ABLATIONS) - len(BY_NAME)


@pytest.mark.parametrize(
    ("variant", "differs"),
    [
        (PAPER, dict.fromkeys(WITHOUT_EXTENSIONS, 0) | {"mode": "graph", "text_steps": 0, "pair_steps": 260}),
        ("without local losses", {"local": 0, "local_unpaired": 0, "mode": "graph"}),
        ("without lesion contrast", {"lesion": 0}),
        ("without text phase", {"text": 0, "text_steps": 0, "pair_steps": 260}),
        ("without consistency", {"consistency": 0}),
        ("without same observation", {"same_observation": 0}),
        ("whole reports", {"mode": "graph"}),
        (PRETRAINED, {"text_tower": "sentence-transformers/all-MiniLM-L6-v2", "published_factor": 0.02}),
        (LOCKED, {"text_tower": "sentence-transformers/all-MiniLM-L6-v2", "tuning": "locked text"}),
    ],
)
def test_a_variant_lacks_its_part_and_nothing_else(variant: str, differs: dict[str, object]) -> None:
    whole = limited_pairing(seeds=(1,), ratios=(0.1,), methods=("lgdea",))[0].config
    [cell] = ablation(seeds=(1,), variants=(variant,))
    before, after = (dataclasses.asdict(config) for config in (whole, cell.config))
    changed = [
        (name, value)
        for part in ("data", "model", "graph", "loss", "objective", "train")
        for name, value in after[part].items()
        if value != before[part][name]
    ]
    assert dict(changed) == differs
    assert "relations" in {phase_at(step, "lgdea", cell.config.train) for step in range(500)}


def test_the_extensions_are_left_out_one_by_one() -> None:
    """Every term that the paper's terms lack has a variant of its own that lacks it, too."""
    plan = [cell for cell in ablation(seeds=(1,)) if cell.variant != PAPER and PHRASES not in cell.variant]
    for term in WITHOUT_EXTENSIONS:
        assert sum(cell.config.weights.get(term) == 0 for cell in plan) == 1, term


def test_phrases_and_patches_alone_take_every_step_on_pairs() -> None:
    plain, paired, control = ablation(seeds=(1,), variants=(PHRASES, PAIRED_PHRASES, PHRASES_CONTROL))
    assert plain.config == paired.config == control.config
    assert (paired.known_reports, paired.shuffled) == (True, False)
    assert (control.known_reports, control.shuffled) == (False, True)
    schedule = plain.config.train
    assert {phase_at(step, "lgdea", schedule) for step in range(schedule.total_steps)} == {"pairs"}


def test_every_method_has_its_control_and_lgdea_one_on_pairs_alone() -> None:
    plan = ablation(seeds=(1, 2))
    assert len(set(keys_of(plan))) == len(plan)
    controls = [(cell.config.method, cell.config.seed) for cell in plan if cell.variant == CONTROL]
    assert sorted(controls) == sorted((method, seed) for method in COMPARED for seed in (1, 2))
    assert {cell.variant for cell in plan if cell.shuffled} == set(CONTROLS) == set(list(ABLATIONS)[-3:])
    assert {cell.variant for cell in plan if cell.config.method != "lgdea"} == {CONTROL}
    whole = {cell.config.method: cell.config for cell in limited_pairing(seeds=(1,), ratios=(0.1,))}
    for cell in ablation(seeds=(1,), variants=(CONTROL,)):
        assert cell.config == whole[cell.config.method]
    alone, without = ablation(seeds=(1,), variants=(PAIRS_CONTROL, "without unpaired images"))
    assert alone.config == without.config
    assert (alone.config.method, alone.config.train.relation_steps) == ("lgdea", 0)


def test_real_films_are_read_by_every_method_and_its_control_with_intervals() -> None:
    plan = real()
    places = {(cell.world, cell.config.data.corpus, cell.config.data.paired_ratio) for cell in plan}
    assert places == {
        *(("openi", "openi", ratio) for ratio in PAIRED_RATIOS),
        *(("openi+nih", "openi+nih", ratio) for ratio in (0.1, 0.05)),
        ("covid_chestxray+nih+openi", "covid_chestxray+nih+openi", 1.0),
        ("nih", "nih", 0.25),
    }
    assert len(plan) == len(set(keys_of(plan))) == len(places) * len(SEEDS) * len(COMPARED) * 2
    assert all(cell.intervals for cell in plan)
    assert all(cell.shuffled == (cell.variant == CONTROL) for cell in plan)
    # where all are paired no step is under relations; the other worlds have unpaired images and reports
    paired = [cell for cell in plan if cell.world == "openi" and cell.config.data.paired_ratio == 1]
    assert all((cell in paired) == (not cell.config.train.relation_steps) for cell in plan)
    assert len({cell.config.train.total_steps for cell in plan}) == 1


def test_asgs_plan_leaves_out_term_by_term_on_one_budget() -> None:
    plan = asg()
    assert len(set(keys_of(plan))) == len(plan) == (len(TOWERS) + len(ASG_ABLATIONS)) * len(SEEDS)
    assert {cell.config.train.total_steps for cell in plan} == {plan[0].config.train.total_steps}
    assert {cell.config.data.paired_ratio for cell in plan} == {1.0}
    for cell in plan:
        if cell.config.method == "asg":
            left = {name for name in ("arsa", "irl", "erl") if cell.config.weights[name]}
            named = set(cell.variant.split(" + ")) - {"ita"}
            assert left == (named if " + " in cell.variant else {"arsa", "irl", "erl"})
        assert cell.shuffled_regions == (cell.variant == "shuffled regions")


def test_relations_are_planned_setting_by_setting_until_their_rows_are_there() -> None:
    plan, table = relations(seeds=(1,), preset="ci"), TABLES["relations"]
    own = plan[0].cell.config.train.pair_steps
    assert [job.key["pair_steps"] for job in plan] == [own, *STARTS]
    assert [len(job.parts) for job in plan] == [len(SWEEPS) + 3, 1, 1, 1]
    names = [part["relations"] for part in plan[0].parts]
    assert names[-3:] == ["random", "graph, shuffled pairs", "graph*affinity, shuffled pairs"]
    assert (*plan[0].key, "relations", *SETTINGS) == table.key
    table.add([plan[0].key | plan[0].parts[2]])
    assert table.missing(plan)[0].parts == plan[0].parts[:2] + plan[0].parts[3:]
    table.add([job.key | part for job in plan for part in job.parts])
    assert table.missing(plan) == []


def test_every_world_is_generated_or_real_and_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted((*GENERATED, *REAL)) == sorted(WORLDS)
    assert all((WORLDS[name].films == "real") == (name in REAL) for name in WORLDS)
    for name in WORLDS:
        assert {cell.config.data.corpus for cell in limited_pairing(world=name)} == {WORLDS[name].corpus}
    assert 1 not in {cell.config.data.paired_ratio for cell in limited_pairing(world="mismatched")}
    monkeypatch.delenv("LGDEA_DATA", raising=False)
    for name in ("painted", *REAL):
        with pytest.raises(ValueError, match="needs the folder that holds its data; set `data` or LGDEA_DATA"):
            build_world(name, limited_pairing(world=name, preset="ci")[0].config)


@pytest.mark.slow
@pytest.mark.skipif("LGDEA_DATA" not in os.environ, reason="needs LGDEA_DATA with Open-i")
def test_open_is_split_is_the_committed_one_whatever_the_seed_and_has_eight_findings_to_measure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worlds, "load_corpus_of", cache(worlds.load_corpus_of))
    cells = limited_pairing(world="openi", preset="ci", seeds=(1, 2), ratios=(0.1,), methods=("clip",))
    first, second = (build_world("openi", cell.config) for cell in cells)
    assert first.studies["split"].tolist() == second.studies["split"].tolist()
    split = openi_split(first.studies)
    assert split["split"].tolist() == pd.read_csv(OPENI_SPLIT)["split"].tolist()
    test = first.split("test")
    found = test.labels[test.labels["study_id"].isin(test.images["study_id"]) & (test.labels["value"] == 1)]
    counts = found.loc[found["finding"] != NO_FINDING, "finding"].value_counts()
    assert (counts >= 10).sum() == 8
    [apart] = limited_pairing(world="openi+nih", preset="ci", seeds=(1,), ratios=(0.1,), methods=("clip",))
    assert apart.intervals
    pools = limit_pairs(build_world("openi+nih", apart.config), 1.0, seed=1)
    known = {report_id.removeprefix("openi/") for report_id in pools.seed_pairs["report_id"]}
    unpaired = {name.removeprefix("openi_reports/") for name in pools.report_ids if "openi_reports" in name}
    train = set(split.loc[split["split"] == "train", "study_id"])
    assert known | unpaired <= train
    assert not known & unpaired
    assert 0.09 * len(train) < len(known) <= 0.1 * len(train) + 1
    assert 0.45 * len(train) < len(unpaired) <= 0.5 * len(train) + 1
    assert not any("openi" in name for name in set(pools.image_ids) - set(pools.seed_pairs["image_id"]))
    with pytest.raises(ValueError, match=r"take ratios up to 0\.5"):
        build_world("openi+nih", replace_fields(apart.config, paired_ratio=0.6))
    with pytest.MonkeyPatch.context() as patch:
        short = first.subset(first.studies["study_id"][1:])
        patch.setattr(worlds, "load_corpus_of", lambda *_: short)
        with pytest.raises(ValueError, match=r"openi_split.csv: 1 of its 1979 studies, 'CXR\d+' first, are not in"):
            build_world("openi", cells[0].config)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"unknown variants \['no such'\]; known: without unpaired images"):
        ablation(variants=("no such",))
    with pytest.raises(ValueError, match="unknown world 'moon'; known: phantom, easy"):
        limited_pairing(world="moon")
    with pytest.raises(ValueError, match=r"world 'mismatched' differs .* take ratios below 1"):
        limited_pairing(world="mismatched", ratios=(1.0,))
    [cell] = limited_pairing(seeds=(1,), ratios=(0.1,), methods=("lgdea",))
    with pytest.raises(ValueError, match=r"mode 'graph\*affinity' would ask every report of every image"):
        dataclasses.replace(cell, whole_reports=True)


# ---- tables


def test_a_row_that_is_there_is_not_planned_again(tmp_path: Path) -> None:
    plan = limited_pairing(seeds=(1,))
    PAIRING.add([row_of(plan[3])])
    PAIRING.add([row_of(plan[0])])
    assert PAIRING.path == tmp_path / "figures/tables/limited_pairing.csv"
    assert PAIRING.missing(plan) == [cell for cell in plan if cell not in (plan[0], plan[3])]
    keys = PAIRING.read()[list(PAIRING.key)]
    assert keys.equals(keys.sort_values(list(PAIRING.key), ignore_index=True))
    assert str(PAIRING).startswith("2 rows in figures/tables/limited_pairing.csv; missing ones come from: python -m ")


def test_rows_come_together_or_not_at_all_and_what_is_there_stays() -> None:
    first, second, third = limited_pairing(seeds=(1,), ratios=(0.1,))
    PAIRING.add([row_of(first), row_of(second)])
    before = PAIRING.path.read_bytes()
    with pytest.raises(KeyError):
        PAIRING.add([row_of(third), {"auc": 0.5}])
    PAIRING.add([row_of(first, auc=0.9)])
    assert PAIRING.path.read_bytes() == before
    PAIRING.add([row_of(first, auc=0.9), row_of(third, auc=0.9)])
    assert sorted(PAIRING.read()["auc"]) == [0.5, 0.5, 0.9]
    assert not list(PAIRING.path.parent.glob("*.part"))


def test_two_that_write_one_table_at_once_lose_no_row() -> None:
    both = threading.Barrier(2)

    def write(writer: int) -> None:
        both.wait()
        for number in range(25):
            NUMBERS.add([{"number": number, "writer": writer}])

    writers = [threading.Thread(target=write, args=(writer,)) for writer in (1, 2)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    found = list(NUMBERS.read().itertuples(index=False, name=None))
    assert found == [(writer, number) for writer in (1, 2) for number in range(25)]


def test_the_summary_is_mean_and_sample_deviation_over_seeds() -> None:
    plan = limited_pairing(seeds=(1, 2, 3), ratios=(0.1,), methods=("clip",))
    rows = [row_of(cell, auc=value) for cell, value in zip(plan, (0.5, 0.6, 0.7), strict=True)]
    found = PAIRING.summary(pd.DataFrame(rows))
    assert found[["seeds", "auc"]].to_dict("records") == [{"seeds": 3, "auc": "0.600 ± 0.100"}]
    assert "seconds" not in found
    alone = PAIRING.summary(pd.DataFrame([row_of(plan[0], relation_coverage=None)]))
    assert alone[["seeds", "auc", "relation_coverage"]].to_dict("records") == [
        {"seeds": 1, "auc": "0.500", "relation_coverage": ""}
    ]
    assert all(table.summary().empty for table in TABLES.values())


def test_what_a_variant_has_beyond_the_method_is_taken_seed_by_seed() -> None:
    plan = limited_pairing(seeds=(1, 2), ratios=(0.1, 0.05), methods=("clip", "lgdea"))
    base = pd.DataFrame([row_of(cell, auc=0.1 * cell.config.seed + cell.config.data.paired_ratio) for cell in plan])
    variants = ablation(seeds=(1, 2, 3), variants=("relations: graph",))  # seed 3 has no row of the method
    rows = pd.DataFrame([row_of(cell, auc=value, cnr=1.0) for cell, value in zip(variants, (0.3, 0.5, 9), strict=True)])
    found = beyond(rows, base)
    assert found["seed"].tolist() == [1, 2]
    assert found["auc"].tolist() == pytest.approx([0.3 - 0.2, 0.5 - 0.3])
    assert "cnr" not in found, "the method's rows have none"
    assert PAIRING.summary(found)["auc"].tolist() == ["0.150 ± 0.071"]
    assert beyond(rows, base.iloc[:0]).empty
    with pytest.raises(pd.errors.MergeError):
        beyond(rows, pd.concat([base, base]))


def test_what_the_film_adds_is_taken_run_by_run_and_compared_like_a_measure() -> None:
    first, second = limited_pairing(seeds=(1, 2), ratios=(0.1,), methods=("lgdea",))
    variants = ablation(seeds=(1, 2), variants=("relations: graph",))
    whole = pd.DataFrame([row_of(first, cnr=0.9, cnr_swapped=0.6), row_of(second, cnr=1.2, cnr_swapped=0.4)])
    graph = pd.DataFrame([row_of(cell, cnr=1.0, cnr_swapped=0.8) for cell in variants])
    assert PAIRING.summary(whole)["cnr_own"].tolist() == ["0.550 ± 0.354"]
    assert differences(whole, graph, WHOLE)["cnr_own"].tolist() == ["-0.350 ± 0.354"]
    assert "cnr_own" not in PAIRING.summary(whole.drop(columns="cnr_swapped"))


def test_the_hard_sets_summary_has_a_column_for_every_model() -> None:
    row = {"preset": "ci", "by": "size", "group": "small", "measure": "auc", "n": 40}
    rows = [
        row | {"method": method, "paired_ratio": 0.1, "seed": seed, "estimate": base + 0.1 * seed}
        for method, base in (("clip", 0.3), ("lgdea", 0.5))
        for seed in SEEDS
    ]
    found = TABLES["hard_set"].summary(pd.DataFrame(rows)).to_dict("records")
    expected = {"clip 10%": "0.500 ± 0.100 (3)", "lgdea 10%": "0.700 ± 0.100 (3)"}
    assert found == [{"preset": "ci", "by": "size", "group": "small", "measure": "auc"} | expected]


def test_draws_are_compared_with_clip_draw_by_draw_and_seeds_are_counted_not_draws() -> None:
    def rows_of(method: str, seed: int, aucs: list[float]) -> list[dict[str, object]]:
        shared = {"corpus": "phantom", "method": method, "label_ratio": 0.01, "seed": seed, "preset": "demo"}
        return [shared | {"draw": draw, "auc": auc} for draw, auc in enumerate(aucs)]

    rows = rows_of("clip", 1, [0.6, 0.8]) + rows_of("clip", 2, [0.5, 0.7])
    rows += rows_of("asg", 1, [0.7, 0.8]) + rows_of("asg", 2, [0.6, 0.8, 0.2])  # the last draw has no partner
    found = draws_summary(pd.DataFrame(rows)).set_index("method")
    assert found.loc["clip", ["seeds", "draws", "auc", "less_reference", "won"]].tolist() == [
        2, 4, "0.650 ± 0.071", "0.000 ± 0.000", "",
    ]  # fmt: skip
    assert found.loc["asg", ["draws", "less_reference", "won"]].tolist() == [5, "0.075 ± 0.035", "0.75"]
    alone = draws_summary(pd.DataFrame(rows_of("asg", 1, [0.7])))
    assert alone[["less_reference", "won"]].to_numpy().tolist() == [["", ""]]


# ---- jobs


@pytest.mark.slow
def test_rows_are_made_once_by_two_workers() -> None:
    jobs = [Number(writer=writer, parts=({"number": 1}, {"number": 2})) for writer in (1, 2, 3)]
    NUMBERS.add([{"writer": 1, "number": 2, "square": -1}])
    make_rows(NUMBERS, NUMBERS.missing(jobs), workers=2)
    assert NUMBERS.read().values.tolist() == [[1, 1, 1], [1, 2, -1], [2, 1, 2], [2, 2, 4], [3, 1, 3], [3, 2, 6]]
    assert NUMBERS.missing(jobs) == []


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    order = [sys.executable, str(Path(__file__).with_name("orphans.py")), str(tmp_path)]
    with subprocess.Popen(order, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL) as parent:
        deadline = time.monotonic() + 120
        while not all((tmp_path / name).exists() for name in "ab"):
            assert time.monotonic() < deadline, "the workers never started"
            time.sleep(0.1)
        parent.kill()
    time.sleep(1)
    beats = {path.name: path.read_text() for path in tmp_path.iterdir()}
    time.sleep(1)
    assert beats == {path.name: path.read_text() for path in tmp_path.iterdir()}, "a worker goes on alone"


# ---- the command line


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setattr("sys.argv", ["experiments", *words])
    command.main()
    return capsys.readouterr().out


def test_help_lists_every_experiment_with_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        run(capsys, monkeypatch, "--help")
    lines = capsys.readouterr().out.splitlines()
    assert {table.experiment for table in TABLES.values()} == set(command.EXPERIMENTS)
    for name in (*command.EXPERIMENTS, "tables"):
        at = next(number for number, line in enumerate(lines) if line.split()[:1] == [name])
        assert len(f"{lines[at]} {lines[at + 1]}".split()) > 4


@pytest.mark.parametrize(
    ("words", "jobs"),
    [
        (("limited_pairing", "--ratios", "0.1", "0.05"), 2 * len(COMPARED)),
        (("limited_pairing", "--world", "mismatched"), 4 * len(COMPARED)),
        (("ablation", "--variants", "shuffled pairs", "whole reports"), len(COMPARED) + 1),
        (("ablation", "--variants", "shuffled pairs", "--methods", "mgca", "prior"), 2),
        (("real",), 2 * (len(PAIRED_RATIOS) + 4) * len(COMPARED)),
        (("relations",), 4),
        (("asg", "--variants"), len(TOWERS)),
        (("linear_probe", "--corpora", "phantom", "nih", "--device", "cpu"), 2),
        (("segmentation", "--protocol", "tuned", "--label-ratios", "0.5"), 1),
        (("label_draws", "--draws", "3"), 1),
    ],
)
def test_a_plan_names_its_jobs_and_makes_nothing(
    words: tuple[str, ...], jobs: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    *lines, last = run(capsys, monkeypatch, *words, "--seeds", "1", "--plan").splitlines()
    assert last.startswith(f"{jobs} jobs to do, 2 at a time -> {tmp_path}")
    without = [line for line in lines if line.startswith("no model in")]
    assert len(lines) - len(without) == jobs
    assert len(without) == (len(TOWERS) + len(ASG_ABLATIONS) if words[0] in ON_TOWERS else 0)
    assert not list(tmp_path.iterdir())
    options, experiment = vars(command._parser().parse_args([*words, "--seeds", "1"])), command.EXPERIMENTS[words[0]]
    for name in ("experiment", "workers", "plan", "summary"):
        del options[name]
    planned = experiment.plan(**options)
    assert pickle.loads(pickle.dumps(planned)) == planned  # workers get them so


def test_the_command_runs_what_is_missing_and_ready(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(command, "make_rows", lambda table, jobs, workers: asked.append((table, jobs, workers)))
    words = ("limited_pairing", "--ratios", "0.1", "--seeds", "1", "--workers", "3")
    first, *others = limited_pairing(seeds=(1,), ratios=(0.1,))
    PAIRING.add([row_of(first)])
    assert "phantom  gloria  0.1  1  demo\n" in run(capsys, monkeypatch, *words)
    run(capsys, monkeypatch, "hard", "--seeds", "1")
    assert asked == [(PAIRING, others, 3), (TABLES["hard_set"], [], 2)]


def test_the_hard_set_says_which_models_are_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("hard", "--seeds", "1", "--preset", "ci", "--plan")
    order = "limited_pairing --world phantom --ratios 0.1 --seeds 1 --methods clip --preset ci"
    plan = limited_pairing(seeds=(1,), ratios=(0.1, 1.0), preset="ci")
    (plan[0].folder / "model").mkdir(parents=True)
    assert run(capsys, monkeypatch, *words).count("no model in") == len(plan), "the folder is empty"
    (plan[1].folder / "model").mkdir(parents=True)
    (plan[1].folder / "model" / "config.json").touch()
    PAIRING.add([row_of(plan[-1])])
    out = run(capsys, monkeypatch, *words)
    assert "gloria  0.1  1  ci\n" in out
    assert f"make it with\n    python -m lgdea_core.experiments {order}\n" in out
    assert out.count("(after deleting its row from limited_pairing.csv") == 1
    assert "1 jobs to do" in out


def test_the_summary_of_ablations_has_the_differences(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("ablation", "--summary")
    graph, alone = ablation(seeds=(1,), variants=("relations: graph", "without unpaired images"))
    [whole] = limited_pairing(seeds=(1,), ratios=(0.1,), methods=("lgdea",))
    out = run(capsys, monkeypatch, *words)
    assert "no rows yet in" in out
    assert out.count("no rows to compare yet") == 3
    TABLES["ablation"].add([row_of(graph, auc=0.7)])
    PAIRING.add([row_of(whole, auc=0.75)])
    assert run(capsys, monkeypatch, *words).count("no rows to compare yet") == 2, "only the method as it is has rows"
    TABLES["ablation"].add([row_of(alone, auc=0.71)])
    table, beyond_whole, beyond_pairs, beyond_phrases = run(capsys, monkeypatch, *words).split("beyond ")
    assert "0.700" in table
    assert all(said in beyond_whole for said in ("the method as it is, seed by seed", "-0.050"))
    assert all(said in beyond_pairs for said in ("'without unpaired images'", "0.040", "-0.010"))
    assert "no rows to compare yet" in beyond_phrases


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("limited_pairing", "--world", "mismatched", "--ratios", "1"),
            "limited_pairing: world 'mismatched' .* below 1",
        ),
        (("ablation", "--ratios", "2"), "ablation: paired_ratio must lie between 0 and 1, got 2.0"),
        (("hard", "--ratios", "3"), "hard: paired_ratio must lie between 0 and 1, got 3.0"),
    ],
)
def test_a_request_that_no_plan_takes_ends_in_its_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(capsys, monkeypatch, *words, "--plan")
    said = capsys.readouterr().err
    assert re.search(message, said)
    assert said.count("\n") == 1
