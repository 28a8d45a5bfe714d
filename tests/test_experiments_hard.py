"""The hard set as an experiment: which models are asked, what is said of the others, and the rows that are left."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from planted import PlantedWorld, config

from lgdea_core.config import replace_fields
from lgdea_core.experiments import __main__ as command
from lgdea_core.experiments import hard, relations, tables, worlds
from lgdea_core.experiments.cells import KEY, Cell
from lgdea_core.experiments.plans import COMPARED, SEEDS, limited_pairing
from lgdea_core.experiments.tables import add_row, read_table
from lgdea_core.runs import inputs as stages


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGDEA_RUNS", str(tmp_path / "runs"))
    for module in (tables, hard):
        monkeypatch.setattr(module, "project_root", lambda: tmp_path)


def cells() -> list[Cell]:
    plan = limited_pairing(seeds=(1, 2), ratios=(0.1,), methods=("clip",), preset="ci")
    return [replace(cell, config=replace_fields(cell.config, image_size=32)) for cell in plan]


def keep_model(cell: Cell) -> None:
    for part in PlantedWorld(20, seed=0).model(config()):
        part.save_pretrained(cell.folder / "model")


def test_models_that_are_there_are_asked_and_the_others_named() -> None:
    first, second = cells()
    keep_model(first)
    assert hard.missing_measures([first, second]) == ([first], [second])
    order = "python -m lgdea_core.experiments limited_pairing --seeds 2 --ratios 0.1 --methods clip --preset ci"
    assert hard.how_to_train(second) == order
    add_row(tables.table_path("limited_pairing"), dict(zip(KEY, second.key, strict=True)) | {"auc": 0.5})
    assert hard.how_to_train(second).startswith(f"{order}  (after deleting its row from limited_pairing.csv")


def test_a_model_leaves_its_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    small = hard.hard_inputs
    monkeypatch.setattr(hard, "hard_inputs", lambda config: small(config, per_stratum=2))
    cell = cells()[0]
    keep_model(cell)
    hard.measure_hard_set([cell])
    table = read_table(tables.table_path("hard_set"), hard.KEY)
    assert table.columns.tolist() == [*hard.KEY, "estimate", "n"]
    assert not table.duplicated(list(hard.KEY)).any()
    found = set(table[["by", "measure"]].itertuples(index=False, name=None))
    grounding = {(by, measure) for by in ("finding", "size", "side", "stratum") for measure in hard.GROUNDING_METRICS}
    swaps = {("side swap", measure) for measure in ("peak", "mass", "stated over wrong")}
    negations = {("negation", measure) for measure in ("difference", "stated higher")}
    assert found - {("size", "auc")} == grounding | swaps | negations
    assert set(table.loc[table["by"] == "negation", "group"]) == {"denied", "contradicted"}
    assert hard.missing_measures([cell]) == ([], [])


def test_the_summary_has_a_column_for_every_model() -> None:
    row = {"preset": "ci", "by": "size", "group": "small", "measure": "auc", "n": 40}
    rows = [
        row | {"method": method, "paired_ratio": 0.1, "seed": seed, "estimate": base + 0.1 * seed}
        for method, base in (("clip", 0.3), ("lgdea", 0.5))
        for seed in SEEDS
    ]
    found = hard.hard_summary(pd.DataFrame(rows)).to_dict("records")
    expected = {"clip 10%": "0.500 ± 0.100 (3)", "lgdea 10%": "0.700 ± 0.100 (3)"}
    assert found == [{"preset": "ci", "by": "size", "group": "small", "measure": "auc"} | expected]


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
    for name in ("limited_pairing", "ablation", "real", "relations", "hard", "label_draws"):
        at = next(number for number, line in enumerate(lines) if line.split()[:1] == [name])
        assert len(f"{lines[at]} {lines[at + 1]}".split()) > 4


@pytest.mark.parametrize(
    ("words", "models"),
    [
        (("limited_pairing", "--ratios", "0.1", "0.05"), 2 * len(COMPARED)),
        (("limited_pairing", "--world", "mismatched"), 4 * len(COMPARED)),
        (("ablation", "--variants", "shuffled pairs", "whole reports"), len(COMPARED) + 1),
        (("ablation", "--variants", "shuffled pairs", "--methods", "mgca", "prior"), 2),
        (("real",), 4 * len(COMPARED)),
        (("relations",), 4),
    ],
)
def test_a_plan_has_minutes_and_trains_nothing(
    words: tuple[str, ...], models: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    lines = run(capsys, monkeypatch, *words, "--seeds", "1", "--plan").splitlines()
    assert lines[-1].startswith(f"{models} models to do, about ")
    assert len(lines) == models + 1
    assert all(float(line.split(" min")[0]) > 0 for line in lines[:-1])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("limited_pairing", "--ratios", "0.1"), ("relations",), ("label_draws",), ("hard",)])
def test_a_plan_of_a_preset_that_nobody_has_timed_says_so(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if words == ("hard",):
        keep_model(cells()[0])
    lines = run(capsys, monkeypatch, *words, "--seeds", "1", "--preset", "ci", "--plan").splitlines()
    planned = [line for line in lines if line.startswith("no estimate  ")]
    [total] = [line for line in lines if "models to do" in line]
    assert total.startswith(f"{len(planned)} models to do, no estimate, ")
    assert planned
    assert not any(" min" in line for line in lines)


def test_a_plan_with_a_method_that_was_timed_says_how_many_were_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = dict(zip(KEY, cells()[1].key, strict=True)) | {"seconds": 90}
    add_row(tables.table_path("limited_pairing"), timed)
    words = ("limited_pairing", "--ratios", "0.1", "--seeds", "1", "--preset", "ci", "--plan", "--workers", "1")
    lines = run(capsys, monkeypatch, *words).splitlines()
    assert [line.strip().split("  ")[0] for line in lines[:-1]] == ["1.5 min", "no estimate", "no estimate"]
    assert lines[-1].startswith("3 models to do, about 2 min and 2 without an estimate, 1 at a time")


def test_the_plan_of_the_hard_set_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_model(cells()[0])
    out = run(capsys, monkeypatch, "hard", "--seeds", "1", "--preset", "ci", "--plan")
    assert "1 models to do" in out
    assert out.count("no model in") == 2 * len(COMPARED) - 1
    assert out.count("make it with\n    python -m lgdea_core.experiments limited_pairing --seeds 1") == 5


def test_relations_are_planned_until_their_rows_are_there() -> None:
    config = limited_pairing(seeds=(1,), ratios=(0.1,), methods=("lgdea",), preset="ci")[0].config
    models = relations.missing_relations(config, "phantom")
    starts = [model.config.train.pair_steps for model in models]
    assert starts == [config.train.pair_steps, *relations.STARTS]
    assert [len(model.settings) for model in models] == [len(relations.SWEEPS) + 3, 1, 1, 1]
    assert [name for name, _ in models[0].settings[-3:]] == [
        "random", "graph, shuffled pairs", "graph*affinity, shuffled pairs",
    ]  # fmt: skip
    name, graph = models[0].settings[2]
    key = relations._key(config, "phantom", name, graph)
    add_row(tables.table_path("relations"), dict(zip(relations.KEY, key, strict=True)), relations.KEY)
    assert (name, graph) not in relations.missing_relations(config, "phantom")[0].settings
    assert len(relations.missing_relations(config, "phantom")[0].settings) == len(relations.SWEEPS) + 2


def test_relations_of_shuffled_pairs_spread_wrong_pairs_over_the_same_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = limited_pairing(seeds=(1,), ratios=(0.2,), methods=("lgdea",), preset="ci")[0].config
    config = replace_fields(config, studies=60, image_size=32, text_steps=1, pair_steps=1)
    graph = replace(config.graph, mode="graph")
    spread = Mock(wraps=relations.spread_seeds)
    monkeypatch.setattr(relations, "spread_seeds", spread)
    for module in (worlds, stages):
        monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    names = ("graph", "graph, shuffled pairs", "random", "graph*affinity, shuffled pairs")
    settings = [(name, replace(graph, mode=relations.SHUFFLED.get(name, "graph"))) for name in names]
    rows = list(relations._rows(config, "phantom", settings))
    assert [row["relations"] for row in rows] == list(names)
    own, wrong, third = (call.args for call in spread.call_args_list)
    np.testing.assert_array_equal(wrong[1].seed_pairs, third[1].seed_pairs)
    true, shuffled = own[1].seed_pairs, wrong[1].seed_pairs
    np.testing.assert_array_equal(true[:, 0], shuffled[:, 0])  # the same images,
    assert sorted(true[:, 1]) == sorted(shuffled[:, 1])  # the same reports,
    assert (true[:, 1] != shuffled[:, 1]).all()  # and no image with its own
    for graphs in zip(own[0], wrong[0], strict=True):
        assert (graphs[0] != graphs[1]).nnz == 0
    assert rows[0]["label_auc"] != rows[1]["label_auc"]


def test_the_summary_of_relations_is_over_seeds_setting_by_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no rows yet in" in run(capsys, monkeypatch, "relations", "--summary")
    config = limited_pairing(seeds=(1,), ratios=(0.1,), methods=("lgdea",), preset="ci")[0].config
    for name, first in (("random", 0.5), ("graph, shuffled pairs", 0.6)):
        for seed, auc in zip(SEEDS, (first, first + 0.1, first + 0.2), strict=True):
            key = relations._key(replace(config, seed=seed), "phantom", name, config.graph)
            row = dict(zip(relations.KEY, key, strict=True)) | {"label_auc": auc, "auc_by_finding": "left out"}
            add_row(tables.table_path("relations"), row, relations.KEY)
    found = relations.relations_summary(read_table(tables.table_path("relations"), relations.KEY))
    assert found[["relations", "seeds", "label_auc"]].values.tolist() == [
        ["graph, shuffled pairs", 3, "0.700 ± 0.100"], ["random", 3, "0.600 ± 0.100"],
    ]  # fmt: skip
    assert "auc_by_finding" not in found
    assert "0.700 ± 0.100" in run(capsys, monkeypatch, "relations", "--summary")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("limited_pairing", "--world", "mismatched", "--ratios", "1"),
            "limited_pairing: world 'mismatched' .* below 1",
        ),
        (("ablation", "--ratios", "2"), "ablation: paired_ratio must lie between 0 and 1, got 2.0"),
        (("hard", "--ratios", "3"), "limited_pairing: paired_ratio must lie between 0 and 1, got 3.0"),
    ],
)
def test_a_request_that_no_plan_takes_ends_in_its_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        run(capsys, monkeypatch, *words, "--plan")
