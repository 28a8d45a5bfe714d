"""Many draws of a small share: rows made once, and a comparison draw by draw."""

from pathlib import Path

import pandas as pd
import pytest

from lgdea_core.experiments import label_draws, tables
from lgdea_core.experiments.downstream import pretrained
from lgdea_core.experiments.label_draws import KEY, TABLE, draws_summary, draws_table, missing_draws, run_draws
from lgdea_core.experiments.plans import asg


@pytest.fixture
def table_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tables, "project_root", lambda: tmp_path)
    monkeypatch.setenv("LGDEA_RUNS", str(tmp_path / "runs"))
    return tmp_path / "figures" / "tables"


def rows_of(method: str, seed: int, aucs: list[float]) -> list[dict[str, object]]:
    shared = {"corpus": "phantom", "method": method, "label_ratio": 0.01, "seed": seed, "preset": "demo"}
    return [shared | {"draw": draw, "auc": auc} for draw, auc in enumerate(aucs)]


def test_the_summary_compares_with_clip_draw_by_draw_and_counts_the_seeds_not_the_draws() -> None:
    rows = rows_of("clip", 1, [0.6, 0.8]) + rows_of("clip", 2, [0.5, 0.7])
    rows += rows_of("asg", 1, [0.7, 0.8]) + rows_of("asg", 2, [0.6, 0.8, 0.2])  # the last draw has no partner
    found = draws_summary(pd.DataFrame(rows)).set_index("method")
    assert found.loc["clip", ["seeds", "draws", "auc", "less_reference", "won"]].tolist() == [
        2, 4, "0.650 ± 0.071", "0.000 ± 0.000", "",
    ]  # fmt: skip
    assert found.loc["asg", ["draws", "less_reference", "won"]].tolist() == [5, "0.075 ± 0.035", "0.75"]
    alone = draws_summary(pd.DataFrame(rows_of("asg", 1, [0.7])))
    assert alone[["less_reference", "won"]].to_numpy().tolist() == [["", ""]]


def test_a_tower_without_a_model_is_named_and_a_tower_with_all_its_draws_is_done(table_folder: Path) -> None:
    models = pretrained(asg(seeds=(1,), methods=("clip",), variants=()))
    todo, untrained = missing_draws(models, 0.01, 2)
    assert [str(work) for work in todo] == ["random  1% x 2  1  demo"]
    assert [model.method for model in untrained] == ["clip"]
    tables.add_rows(table_folder / f"{TABLE}.csv", rows_of("random", 1, [0.5, 0.6]), KEY)
    assert missing_draws(models[:1], 0.01, 2) == ([], [])
    assert len(missing_draws(models[:1], 0.01, 3)[0]) == 1


@pytest.mark.slow
def test_more_draws_add_rows_and_the_first_is_that_of_a_single_draw(table_folder: Path) -> None:
    models = pretrained(asg(seeds=(5,), methods=("clip",), variants=(), preset="ci"))[:1]
    run_draws(missing_draws(models, 0.2, 1)[0], workers=1)
    first = draws_table()
    assert first["auc"].between(0, 1).all()
    run_draws(missing_draws(models, 0.2, 3)[0], workers=1)
    table = draws_table()
    assert table["draw"].tolist() == [0, 1, 2]
    assert table["auc"].nunique() > 1, "another draw, another share"
    assert first["auc"].tolist() == table["auc"].tolist()[:1]
    assert missing_draws(models, 0.2, 3) == ([], [])
    assert label_draws.draws_summary(table)["draws"].tolist() == [3]
