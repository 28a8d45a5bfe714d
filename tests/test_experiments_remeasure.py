"""Rows measured anew: which models may be asked, what is replaced in their row, and what stays."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lgdea_core.config import replace_fields
from lgdea_core.experiments import __main__ as command
from lgdea_core.experiments import cells as training
from lgdea_core.experiments import remeasure, tables
from lgdea_core.experiments.cells import KEY, REGION_MEASURES, TRAINED_BY, Cell, measured_columns, run_cell
from lgdea_core.experiments.plans import CONTROL, ablation, asg, limited_pairing
from lgdea_core.experiments.remeasure import MEASURED, kept_models, older_rows
from lgdea_core.experiments.tables import add_rows, read_table, replace_values
from lgdea_core.model import build_model

OLD, PRESENT = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGDEA_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(tables, "project_root", lambda: tmp_path)


@pytest.fixture
def clean_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remeasure, "git_commit", lambda root: PRESENT)


def plan(method: str = "gloria") -> list[Cell]:
    cells = limited_pairing(seeds=(1, 2, 3, 4, 5), ratios=(0.1,), methods=(method,), preset="ci")
    return [replace(cell, config=replace_fields(cell.config, image_size=32)) for cell in cells]


def row_of(cell: Cell, **values: object) -> dict[str, object]:
    return dict(zip(KEY, cell.key, strict=True)) | {"auc": 0.5, "seconds": 60, "commit": OLD} | values


def keep_model(cell: Cell) -> Path:
    """What `save_trained` leaves of a training, with initial weights."""
    folder = cell.folder / "model"
    for part in build_model(cell.config, ["There is a nodule."]):
        part.save_pretrained(folder)
    cell.config.save(folder / "run_config.json")
    return folder


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# ---- which rows


@pytest.mark.usefixtures("clean_commit")
def test_rows_are_measured_anew_where_their_own_model_is_there(tmp_path: Path) -> None:
    path, (own, gone, other, without_row, done) = tmp_path / "t.csv", plan()
    add_rows(path, [row_of(own), row_of(gone), row_of(other), row_of(done, **{MEASURED: PRESENT})])
    for cell in (own, without_row, done):
        keep_model(cell)
    shutil.copytree(own.folder, other.folder)
    kept = kept_models(plan(), path)
    assert (kept.ready, kept.gone) == ([own], [gone])
    assert kept.foreign == [(other, ["seed is 1 there, 3 here"])]


@pytest.mark.usefixtures("clean_commit")
def test_models_of_another_method_kind_or_training_are_refused(tmp_path: Path) -> None:
    path, (method, kind, unreadable, training, older) = tmp_path / "t.csv", plan()
    add_rows(path, [row_of(cell) for cell in plan()])
    for cell in plan():
        folder = keep_model(cell)
        (cell.folder / TRAINED_BY).write_text(OLD + "\n")
    values = json.loads((folder / "run_config.json").read_text())
    del values["loss"]["token"], values["model"]["decoder_layers"]  # as code of a time before these fields
    (folder / "run_config.json").write_text(json.dumps(values))
    change(method.folder / "model" / "run_config.json", method="clip")
    change(kind.folder / "model" / "config.json", attended=False)  # a GLoRIA whose local score was another
    change(unreadable.folder / "model" / "config.json", no_such_field=1)
    (training.folder / TRAINED_BY).write_text(PRESENT + "\n")  # trained again since the row was made
    kept = kept_models(plan(), path)
    assert kept.ready == [older]
    assert [cell for cell, _ in kept.foreign] == [method, kind, unreadable, training]
    reasons = [why for _, why in kept.foreign]
    assert reasons[0] == ["method is 'clip' there, 'gloria' here"]
    assert reasons[1] == ["attended is False there, True here"]
    assert "no_such_field" in reasons[2][0]
    assert reasons[3] == [f"trained by {PRESENT} there, {OLD} in the row"]


def test_a_checkout_with_changes_has_measured_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cells = tmp_path / "t.csv", plan()
    commits = (OLD, PRESENT, f"{PRESENT}-dirty", "unknown")
    add_rows(path, [row_of(cell, commit=commit) for cell, commit in zip(cells, commits, strict=False)])
    for present, older in ((PRESENT, [0, 2, 3]), (f"{PRESENT}-dirty", [0, 1, 2, 3]), ("unknown", [0, 1, 2, 3])):
        monkeypatch.setattr(remeasure, "git_commit", lambda root, present=present: present)
        assert older_rows(cells, path) == [cells[number] for number in older]


# ---- what is replaced


def test_values_of_one_row_change_and_the_rest_of_the_table_stays(tmp_path: Path) -> None:
    path, cells = tmp_path / "t.csv", plan()
    control = replace(cells[1], variant=CONTROL)
    rows = [row_of(cell, ap=0.25, relation_coverage=1.0) for cell in (cells[0], cells[1], control)]
    add_rows(path, rows)
    values = dict(zip(KEY, cells[1].key, strict=True)) | {"auc": 0.75, "ap": None, MEASURED: PRESENT}
    replace_values(path, values)
    found = read_table(path).set_index(["variant", "seed"])
    assert found["auc"].to_dict() == {("", 1): 0.5, ("", 2): 0.75, (CONTROL, 2): 0.5}
    assert found["ap"].isna().to_dict() == {("", 1): False, ("", 2): True, (CONTROL, 2): False}
    assert found[MEASURED].dropna().to_dict() == {("", 2): PRESENT}
    assert (found[["seconds", "commit", "relation_coverage"]] == (60, OLD, 1.0)).all(axis=None)
    assert list(path.parent.glob("*.part")) == []
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"t\.csv: no row phantom, gloria, , 0\.1, 3, ci; it is gone"):
        replace_values(path, row_of(cells[2]))
    assert path.read_bytes() == before


def test_only_columns_of_the_evaluation_are_filled() -> None:
    cell = plan()[0]
    assert "auc" in measured_columns(cell)
    assert "ap" in measured_columns(cell)
    assert not set(REGION_MEASURES) & set(measured_columns(cell))
    wide = measured_columns(replace(cell, intervals=True, regions=True))
    assert {"ap_low", "ap_high", "ap_n", *REGION_MEASURES} <= set(wide)
    assert not {"seconds", "commit", "steps", "images_seen", "films"} & set(wide)


@pytest.mark.slow
def test_a_kept_model_gives_the_very_measures_of_its_training_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [cell] = asg(seeds=(5,), methods=("clip",), variants=(), preset="ci")
    cell, path = replace(cell, intervals=True), tmp_path / "t.csv"
    monkeypatch.setattr(training, "INTERVAL_RESAMPLES", 20)
    row = run_cell(cell)
    wrong = dict.fromkeys(measured_columns(cell), 0.123) | {"commit": OLD, "seconds": 60, "relation_coverage": 0.9}
    without = {name: value for name, value in (row | wrong).items() if name not in ("ap", "ap_low")}  # as of older code
    add_rows(path, [without])
    (cell.folder / TRAINED_BY).unlink()  # likewise
    weights = (cell.folder / "model" / "model.safetensors").stat().st_mtime_ns
    kept = kept_models([cell], path)
    assert kept.ready == [cell]
    monkeypatch.setattr(remeasure, "side_by_side", lambda make, todo, workers, name: map(make, todo))
    monkeypatch.setattr(training, "train", None)
    remeasure.remeasure(kept.ready, path, workers=1)
    [found] = read_table(path).to_dict("records")
    assert "tag_auc" not in row  # clip has no tag decoder:
    assert pd.isna(found["tag_auc"])  # what the row said of it is gone
    measured = [name for name in measured_columns(cell) if name != "tag_auc"]
    assert {name: found[name] for name in measured} == {name: row[name] for name in measured}
    assert (found["commit"], found["seconds"], found["relation_coverage"]) == (OLD, 60, 0.9)
    assert found[MEASURED] == row["commit"]
    assert (cell.folder / "model" / "model.safetensors").stat().st_mtime_ns == weights
    assert not (cell.folder / "training").exists()


# ---- the command line


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    monkeypatch.setattr("sys.argv", ["experiments", *words, "--seeds", "1", "2", "3", "--preset", "ci"])
    command.main()
    return capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("clean_commit")
def test_the_command_says_what_it_measures_and_what_it_cannot(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = ablation(seeds=(1, 2, 3), variants=(CONTROL,), methods=("clip",), preset="ci")
    add_rows(tables.table_path("ablation"), [row_of(cell) for cell in (first, second, third)])
    keep_model(first)
    shutil.copytree(first.folder, third.folder)
    words = ("ablation", "--variants", CONTROL, "--methods", "clip", "--remeasure")
    asked = []
    monkeypatch.setattr(command, "remeasure", lambda cells, path, workers: asked.append((cells, path, workers)))
    lines = run(capsys, monkeypatch, *words, "--plan")
    assert lines[0] == "to measure  phantom  clip  shuffled pairs  0.1  1  ci"
    assert lines[1] == f"no model in {second.folder / 'model'}: its row stays as it is"
    assert lines[2].startswith(f"another model in {third.folder / 'model'}: its row stays as it is; seed is 1 there")
    assert lines[3].startswith("1 rows to measure anew, 2 at a time -> ")
    assert asked == []
    assert run(capsys, monkeypatch, *words) == lines
    assert asked == [([first], tables.table_path("ablation"), 2)]


@pytest.mark.usefixtures("clean_commit")
def test_a_plan_says_how_many_rows_are_of_other_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = ablation(seeds=(1, 2, 3), variants=(CONTROL,), methods=("clip",), preset="ci")
    words = ("ablation", "--variants", CONTROL, "--methods", "clip", "--plan")
    assert "other code" not in "".join(run(capsys, monkeypatch, *words))
    add_rows(tables.table_path("ablation"), [row_of(first), row_of(second, commit=PRESENT)])
    assert run(capsys, monkeypatch, *words)[-1].startswith("1 rows that are there were measured by other code")
