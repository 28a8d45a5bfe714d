import dataclasses
import json
import logging
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from published_folders import save_tiny
from scipy import sparse

from lgdea_core.config import MOVABLE, RunConfig
from lgdea_core.finding import EVIDENCE_COLUMNS
from lgdea_core.graph import Propagation, propagate, seed_matrix, symmetric_normalize
from lgdea_core.paths import checksum
from lgdea_core.runs import artifacts
from lgdea_core.runs.artifacts import ARTIFACTS, Run, default_run_name, start_run
from lgdea_core.runs.notebook import begin


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return start_run(RunConfig.from_preset("ci"), root=tmp_path)


def evidence(rows: int = 2) -> pd.DataFrame:
    values = {column: [f"{column}-{row}" for row in range(rows)] for column in EVIDENCE_COLUMNS}
    return pd.DataFrame(values | {"region": [None] * rows, "start": range(rows), "end": range(1, rows + 1)})


def relations() -> Propagation:
    graphs = (symmetric_normalize(sparse.csr_array(np.ones((size, size)) - np.eye(size)), 1.0) for size in (2, 3))
    return propagate(seed_matrix(np.array([[0, 1]]), 2, 3), *graphs, alpha=0.8, tolerance=1e-3, max_steps=50)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_default_names_say_method_preset_seed_a_real_corpus_and_what_is_unusual() -> None:
    assert default_run_name(RunConfig.from_preset("ci", seed=3)) == "lgdea-ci-3"
    real = RunConfig.from_preset("demo", method="clip", corpus="covid_chestxray+nih+openi")
    assert default_run_name(real) == "clip-demo-0-covid_chestxray+nih+openi"
    assert default_run_name(RunConfig.from_preset("ci", paired_ratio=0.25)) == "lgdea-ci-0-paired_ratio-0.25"
    started = RunConfig.from_preset("ci", model_start="/there/some-clip", tuning="locked image")
    assert default_run_name(started) == "lgdea-ci-0-some-clip-locked-image"


def test_a_notebook_begins_with_what_a_published_start_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGDEA_RUNS", str(tmp_path / "runs"))
    start = save_tiny("clip", tmp_path / "some-clip")
    run = begin(None, "ci", model_start=str(start), tuning="lora")
    assert run.name == "lgdea-ci-0-some-clip-lora"
    config = run.config
    assert (config.data.image_size, config.model.dim, config.model.max_tokens) == (32, 12, 24)
    assert begin(None, "ci", model_start=None, tuning="full").config == RunConfig.from_preset("ci")


def test_a_run_reopens_with_the_same_configuration(run: Run, tmp_path: Path) -> None:
    assert run.folder == tmp_path / "lgdea-ci-0"
    assert start_run(run.config, root=tmp_path) == run


def test_another_configuration_is_refused_with_every_difference_named(run: Run, tmp_path: Path) -> None:
    other = RunConfig.from_preset("ci", paired_ratio=0.5, alpha=0.9)
    with pytest.raises(
        ValueError, match=r"data\.paired_ratio is 0\.1 there, 0\.5 here; graph\.alpha is 0\.8 there, 0\.9"
    ) as e:
        start_run(other, run.name, root=tmp_path)
    assert 'parameter run = "lgdea-ci-0-2"' in str(e.value)
    assert start_run(run.config, root=tmp_path) == run, "a refused run must leave the old one as it was"


def test_a_field_that_is_new_in_the_code_is_a_difference_too(run: Run, tmp_path: Path) -> None:
    old = json.loads((run.folder / "config.json").read_text())
    del old["graph"]["alpha"]
    (run.folder / "config.json").write_text(json.dumps(old))
    with pytest.raises(ValueError, match=r"graph\.alpha is 'not set' there, 0\.8 here"):
        start_run(run.config, root=tmp_path)


def test_moving_the_data_folder_is_no_other_configuration(run: Run, tmp_path: Path) -> None:
    run.save_json("metrics.json", {"auc": 0.5})
    moved = start_run(RunConfig.from_preset("ci", root="/elsewhere"), root=tmp_path)
    assert moved.load_json("metrics.json") == {"auc": 0.5}


@pytest.mark.parametrize("name", ["", "../up", "a/b", "/tmp/x", ".", ".hidden", "two words", "x" * 300, "a\n"])
def test_run_names_stay_inside_the_runs_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run name: expected letters"):
        start_run(RunConfig.from_preset("ci"), name, tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


def test_runs_lie_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LGDEA_RUNS", raising=False)
    assert artifacts.runs_folder() == artifacts.project_root() / "data/runs"
    monkeypatch.setenv("LGDEA_RUNS", str(tmp_path))
    assert start_run(RunConfig.from_preset("ci")).folder == tmp_path / "lgdea-ci-0"


def test_figures_of_preset_ci_and_of_a_sweep_go_to_the_runs_own_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.figures == run.folder / "figures"
    demo = start_run(RunConfig.from_preset("demo"), root=tmp_path)
    assert demo.figures == artifacts.project_root() / "figures"
    monkeypatch.setenv(artifacts.FIGURES_VARIABLE, "1")
    assert demo.figures == demo.folder / "figures"


def test_tables_come_back_as_they_were(run: Run) -> None:
    run.save_table("evidence.parquet", evidence())
    pd.testing.assert_frame_equal(run.load_table("evidence.parquet"), evidence())
    history = pd.DataFrame({"step": [0, 10], "ita": [1 / 3, np.nan], "phase": ["text", "pairs"]})
    run.save_table("history.csv", history)
    pd.testing.assert_frame_equal(run.load_table("history.csv"), history, check_exact=True)


def test_relations_and_json_come_back_as_they_were(run: Run) -> None:
    run.save_relations(relations())
    loaded = run.load_relations()
    values = np.random.default_rng(0).random((3, 2))
    np.testing.assert_array_equal(loaded.times(values), relations().times(values))
    assert loaded.stats() == relations().stats()
    run.save_json("metrics.json", {"auc": np.float32(0.5), "curve": np.arange(2), "n": 3})
    assert run.load_json("metrics.json") == {"auc": 0.5, "curve": [0, 1], "n": 3}
    with pytest.raises(TypeError, match=r"JSON takes plain values.*, got set"):
        run.save_json("metrics.json", {"auc": {1}})


def test_a_file_with_pickled_objects_is_refused(run: Run) -> None:
    with run.writing("relations.npz") as path, path.open("wb") as file:
        np.savez(file, seeds_data=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        run.load_relations()


def test_a_folder_artifact_replaces_the_one_before(run: Run) -> None:
    for names in (("weights", "old"), ("weights", "new/deep")):
        with run.writing("model") as folder:
            for name in names:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(name)
    assert files_in(run.checked("model")) == {"weights", "new", "new/deep"}


def test_one_changed_byte_is_noticed(run: Run) -> None:
    run.save_relations(relations())
    path = run.checked("relations.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"relations\.npz was changed after it was written.*run notebook 03 again"):
        run.load_relations()


@pytest.mark.parametrize("change", ["edit", "add", "remove", "rename"])
def test_any_change_in_a_folder_artifact_is_noticed(change: str, run: Run) -> None:
    with run.writing("model") as folder:
        (folder / "a").write_text("a")
        (folder / "b").write_text("b")
    model = run.checked("model")
    if change == "edit":
        (model / "a").write_text("A")
    elif change == "add":
        (model / "c").write_text("")
    elif change == "remove":
        (model / "b").unlink()
    else:
        (model / "b").rename(model / "c")
    with pytest.raises(RuntimeError, match="model was changed after it was written"):
        run.checked("model")


def test_a_missing_artifact_says_which_notebook_writes_it(run: Run) -> None:
    with pytest.raises(FileNotFoundError, match=r"no relations\.npz at .*; run notebook 03 first"):
        run.load_relations()
    with pytest.raises(FileNotFoundError, match="run notebook 01 first"):
        run.load_table("evidence.parquet")


def test_an_artifact_of_unknown_origin_or_another_configuration_is_refused(run: Run, tmp_path: Path) -> None:
    run.path("metrics.json").write_text("{}")
    with pytest.raises(RuntimeError, match=r"metrics\.json has no entry in provenance\.json; run notebook 05 again"):
        run.load_json("metrics.json")
    run.save_json("metrics.json", {})
    other = start_run(RunConfig.from_preset("ci", seed=1), root=tmp_path)
    for name in ("metrics.json", "provenance.json"):  # copied by hand from a run with another seed
        (other.folder / name).write_bytes((run.folder / name).read_bytes())
    with pytest.raises(RuntimeError, match="written under another configuration"):
        other.load_json("metrics.json")


def test_undeclared_names_and_missing_columns_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match=r"no artifact is called 'evidenze\.parquet'; declare it"):
        run.save_table("evidenze.parquet", evidence())
    with pytest.raises(ValueError, match=r"evidence\.parquet needs column\(s\) \['phrase'\]"):
        run.save_table("evidence.parquet", evidence().drop(columns="phrase"))
    assert files_in(run.folder) == {"config.json"}


def test_a_table_that_lost_a_column_is_refused_on_loading_too(run: Run) -> None:
    with run.writing("evidence.parquet") as path:
        evidence().drop(columns="status").to_parquet(path)
    with pytest.raises(ValueError, match=r"needs column\(s\) \['status'\]"):
        run.load_table("evidence.parquet")


@pytest.mark.parametrize("artifact", ["metrics.json", "model"])
def test_a_crash_while_writing_leaves_the_old_artifact_and_no_rest(artifact: str, run: Run) -> None:
    def write(text: str, crash: bool) -> None:
        with run.writing(artifact) as path:
            (path / "weights" if path.is_dir() else path).write_text(text)
            if crash:
                raise KeyboardInterrupt

    write("old", crash=False)
    before = checksum(run.path(artifact))
    with pytest.raises(KeyboardInterrupt):
        write("half of the n", crash=True)
    assert checksum(run.checked(artifact)) == before
    assert not [name for name in files_in(run.folder) if name.endswith(".part")]


def test_the_same_content_written_twice_is_the_same_run_byte_for_byte(tmp_path: Path) -> None:
    config = RunConfig.from_preset("ci")
    for name in ("a", "b"):
        run = start_run(config, root=tmp_path / name)
        run.save_table("evidence.parquet", evidence(), exclusions={"empty report": 2})
        run.save_relations(relations())
    assert checksum(tmp_path / "a") == checksum(tmp_path / "b")


def test_provenance_tells_code_packages_exclusions_and_inputs(run: Run) -> None:
    run.save_table("evidence.parquet", evidence(), exclusions={"empty report": 2})
    run.load_table("evidence.parquet")
    run.save_relations(relations())
    first, second = run.provenance["evidence.parquet"], run.provenance["relations.npz"]
    assert first["sha256"] == checksum(run.path("evidence.parquet"))
    assert (first["notebook"], first["exclusions"], first["inputs"]) == ("01", {"empty report": 2}, {})
    assert first["packages"]["numpy"] == np.__version__
    assert second["inputs"] == {"evidence.parquet": first["sha256"]}


def test_an_artifact_made_from_an_older_input_is_reported(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.save_table("evidence.parquet", evidence(2))
    run.load_table("evidence.parquet")
    run.save_relations(relations())
    with caplog.at_level(logging.WARNING, "lgdea"):
        run.load_relations()
        assert not caplog.records
        run.save_table("evidence.parquet", evidence(3))
        run.load_relations()
    assert "relations.npz was made from another evidence.parquet" in caplog.text
    assert "run notebook 03 again" in caplog.text


def test_the_commit_is_unknown_outside_a_checkout_and_marked_where_code_differs(tmp_path: Path) -> None:
    commit = artifacts.git_commit.__wrapped__
    assert commit(tmp_path) == "unknown"

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "lgdea_core").mkdir()
    (tmp_path / "lgdea_core/code.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    clean = commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "results.txt").write_text("not code")
    assert commit(tmp_path) == clean
    (tmp_path / "lgdea_core/code.py").write_text("2")
    assert commit(tmp_path) == f"{clean}-dirty"
    (tmp_path / "inner").mkdir()
    assert commit(tmp_path / "inner") == "unknown", "some other repository around us is not our code"


def test_every_declared_artifact_names_a_notebook_of_this_repository() -> None:
    numbers = {path.name[:2] for path in (artifacts.project_root() / "notebooks").glob("*.ipynb")}
    assert {entry.notebook for entry in ARTIFACTS.values()} <= numbers


def test_movable_fields_exist() -> None:
    values = dataclasses.asdict(RunConfig.from_preset("ci"))
    for name in MOVABLE:
        part, entry = name.split(".")
        assert entry in values[part]
