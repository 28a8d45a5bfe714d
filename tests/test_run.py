import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from PIL import Image

from lgdea_core.experiments import tables

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))

import run  # noqa: E402  (notebooks/run.py)

COMMON = """from typing import Optional

preset: Optional[str] = None  # None: LGDEA_PRESET or demo
run: Optional[str] = None
corpus: Optional[str] = None
data: Optional[str] = None
method: str = "lgdea"
seed: int = 0
paired_ratio: Optional[float] = None"""


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LGDEA_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LGDEA_PRESET", "ci")
    monkeypatch.delenv("LGDEA_DATA", raising=False)
    return tmp_path / "runs"


def write_notebook(path: Path, *cells: str, parameters: str = COMMON) -> None:
    dials = nbformat.v4.new_code_cell(parameters)
    dials.metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(
        cells=[dials, *(nbformat.v4.new_code_cell(cell) for cell in cells)], metadata={"kernelspec": kernel}
    )
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)


def noting(file: Path, expression: str) -> str:
    """A cell that appends an expression's value to a file: proof of what ran, in which order, with which values."""
    return f"with open({str(file)!r}, 'a') as file:\n    print({expression}, file=file)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    note = tmp_path / "note.txt"
    folder = tmp_path / "notebooks"
    steps = f"{COMMON}\nsteps: Optional[int] = None"
    second = f"{steps}\nscale: float = 1.0"
    write_notebook(folder / "02_second.ipynb", noting(note, "'second', preset, run, seed, steps"), parameters=second)
    write_notebook(folder / "01_first.ipynb", noting(note, "'first', preset, run, seed"))
    return folder


def test_notebooks_run_in_order_with_the_same_parameters_and_leave_copies(
    folder: Path, runs: Path, tmp_path: Path
) -> None:
    assert run.main(["-p", "seed", "3", "-p", "steps", "7"], folder) == 0
    lines = (tmp_path / "note.txt").read_text().splitlines()
    assert lines == ["first ci lgdea-ci-3 3", "second ci lgdea-ci-3 3 7"]
    copy = nbformat.read(runs / "lgdea-ci-3/notebooks/01_first.ipynb", as_version=4)
    [injected] = [cell.source for cell in copy.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert "seed = 3" in injected
    assert "steps" not in injected, "01 has no such parameter"
    timing = json.loads((runs / "lgdea-ci-3/timing.json").read_text())
    assert list(timing) == ["01_first", "02_second"]
    assert all(entry["peak_mb"] > 10 and entry["seconds"] > 0 and entry["error"] is None for entry in timing.values())


def test_a_failing_notebook_stops_the_run_names_the_cell_and_leaves_its_copy(
    folder: Path, runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_notebook(folder / "01_first.ipynb", "import lgdea_core", "raise KeyError('no such study')")
    assert run.main(["--run", "broken"], folder) == 1
    assert not (tmp_path / "note.txt").exists(), "the notebook after the failing one must not run"
    message = capfd.readouterr().err
    assert "01_first.ipynb: cell 4: KeyError: 'no such study'" in message
    copy = nbformat.read(runs / "broken/notebooks/01_first.ipynb", as_version=4)
    assert any(output.output_type == "error" for cell in copy.cells for output in cell.get("outputs", []))
    assert "KeyError" in json.loads((runs / "broken/timing.json").read_text())["01_first"]["error"]


def test_a_dying_kernel_is_an_error_not_a_hang(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_notebook(folder / "01_first.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert run.main(["--notebooks", "01"], folder) == 1
    assert "DeadKernelError" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "sead", "1"], "no parameter is called 'sead'; the chosen notebooks have: corpus, data, method, pai"),
        (["--run", "../up"], "run name: expected letters"),
        (["--preset", "dmeo"], "preset must be one of ci, demo, small, paper, got 'dmeo'"),
        (["-p", "seed", "one"], "parameter seed: expected int, got 'one'"),
        (["-p", "paired_ratio", "2"], "paired_ratio must lie between 0 and 1, got 2"),
        (["-p", "method", "clipp"], "method must be one of"),
        (["--notebooks", "01,09"], "no notebook has the number 09; there are 01, 02"),
        (["--data", "/no/such/folder"], "no folder at /no/such/folder"),
        (["--corpus", "nih"], "'nih' needs the folder that has one sub-folder per corpus: --data, or LGDEA_DATA"),
        (["--preset", "paper"], "corpus 'mimic_cxr' needs the folder"),
        (["--sweep", "seed"], "--sweep: expected NAME=V1,V2, got 'seed'"),
        (["--sweep", "sead=1,2"], "no parameter is called 'sead'"),
        (["--jobs", "2"], "--jobs: expected 1 or more runs of a --sweep side by side, got 2"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(
    arguments: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run.main(arguments, folder)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notebooks"], "nothing is made"


def test_a_notebook_without_a_parameters_cell_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("seed = 0")]), folder / "03_bare.ipynb")
    with pytest.raises(SystemExit):
        run.main([], folder)
    assert "03_bare.ipynb: expected a cell tagged `parameters`, got none" in capsys.readouterr().err


def planned(folder: Path, *arguments: str) -> list[tuple[str, dict[str, object]]]:
    declared = {path: run.declared_parameters(path) for path in run.select_notebooks(folder)}
    return [(job.name, job.parameters) for job in run.plan(run.command_line().parse_args(arguments), declared)]


def test_a_sweep_is_one_run_per_combination_each_with_its_own_name(folder: Path) -> None:
    runs = planned(folder, "--sweep", "method=lgdea,clip", "--sweep", "scale=0.05,0.1")
    assert [(name, values["method"], values["scale"]) for name, values in runs] == [
        ("lgdea-ci-0-method-lgdea-scale-0.05", "lgdea", 0.05),
        ("lgdea-ci-0-method-lgdea-scale-0.1", "lgdea", 0.1),
        ("clip-ci-0-method-clip-scale-0.05", "clip", 0.05),
        ("clip-ci-0-method-clip-scale-0.1", "clip", 0.1),
    ]
    assert all(name == values["run"] for name, values in runs)
    # names that differ by themselves get no suffix
    ratios = planned(folder, "--sweep", "paired_ratio=0.05,0.1", "--sweep", "seed=0,1")
    assert [name for name, _ in ratios] == [
        "lgdea-ci-0-paired_ratio-0.05",
        "lgdea-ci-1-paired_ratio-0.05",
        "lgdea-ci-0",
        "lgdea-ci-1",
    ]
    named = planned(folder, "--run", "mine", "--sweep", "seed=0,1")
    assert [name for name, _ in named] == ["mine-seed-0", "mine-seed-1"]


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_run_that_fails_and_ends_with_one_table(
    folder: Path, runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [{"task": "zero-shot", "metric": "auc", "finding": "macro", "estimate": 0.75, "low": 0.7, "high": 0.8,
             "n": 9}]  # fmt: skip
    cell = [
        "import json, os",
        f"with open(f'{runs}/{{run}}/metrics.json', 'w') as file:",
        f"    json.dump({{'model': {rows}}}, file)",
        "assert os.environ['LGDEA_OWN_FIGURES'] and os.environ['OMP_NUM_THREADS']",
        "assert seed != 1, 'no luck'",
    ]
    write_notebook(folder / "01_first.ipynb", "\n".join(cell))
    assert run.main(["--sweep", "seed=0,1,2", "--jobs", "2", "--notebooks", "01"], folder) == 1
    table = pd.read_csv(runs / "sweep-seed.csv", keep_default_na=False)
    assert table["run"].tolist() == ["lgdea-ci-0", "lgdea-ci-1", "lgdea-ci-2"]
    assert table["zero-shot AUC"].tolist() == ["0.75", "", "0.75"]
    assert table["variant"].tolist() == ["model", "", "model"]
    assert "01_first.ipynb: cell 3: AssertionError: no luck" in table["error"][1]
    assert table["error"].tolist()[::2] == ["", ""]
    assert "lgdea-ci-2 [1/1] 01_first.ipynb" in capfd.readouterr().out


def test_a_sweep_that_is_given_again_leaves_out_what_is_done(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = {path: run.declared_parameters(path) for path in run.select_notebooks(folder, "01")}
    [job] = run.plan(run.command_line().parse_args(["-p", "seed", "5"]), declared)
    lines = lambda: (tmp_path / "note.txt").read_text().splitlines()  # noqa: E731
    monkeypatch.setattr(run, "git_commit", lambda root: "abc")
    for _ in range(2):
        assert run.run_all(job, declared, [], resume=True) is None
    assert lines() == ["first ci lgdea-ci-5 5"]
    monkeypatch.setattr(run, "execute", lambda *_: run.Outcome(seconds=1, peak_mb=1, error="ran again"))
    assert run.run_all(job, declared, []) == "01_first.ipynb: ran again", "a run by itself begins anew"
    assert run.run_all(job, declared, [], resume=True) is not None, "what failed is not done"
    monkeypatch.setattr(run, "git_commit", lambda root: "abc-dirty")
    assert run.run_all(job, declared, [], resume=True) is not None, "of changed code nobody knows what it did"


def test_values_take_the_declared_type() -> None:
    annotations = {"run": "Optional[str]", "seed": "int", "share": "float", "flag": "bool", "free": "None"}
    assert run.parse_value("run", "2024", annotations) == "2024"
    assert run.parse_value("run", "None", annotations) is None
    assert run.parse_value("share", "1", annotations) == 1.0
    assert run.parse_value("flag", "False", annotations) is False
    assert [run.parse_value("free", text, annotations) for text in ("3", "0.5", "x")] == [3, 0.5, "x"]
    for name, text in (("seed", "0.5"), ("flag", "yes"), ("share", "None")):
        with pytest.raises(ValueError, match=f"parameter {name}: expected"):
            run.parse_value(name, text, annotations)


def test_a_real_corpus_lies_in_the_data_folder_or_where_the_environment_says(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "films").mkdir()
    monkeypatch.chdir(tmp_path)
    [(name, values)] = planned(folder, "--data", "films", "--corpus", "nih")
    assert (name, values["data"]) == ("lgdea-ci-0-nih", str(tmp_path / "films")), "relative: notebooks run elsewhere"
    monkeypatch.setenv("LGDEA_DATA", str(tmp_path / "films"))
    assert planned(folder, "--corpus", "nih") == [(name, values)]
    [(_, values)] = planned(folder)
    assert "data" not in values, "the phantom needs none"


def test_a_published_start_is_found_where_the_command_is_given_and_is_part_of_the_runs_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "notebooks"
    write_notebook(folder / "01_first.ipynb", "pass", parameters=f"{COMMON}\nmodel_start: Optional[str] = None")
    (tmp_path / "some-clip").mkdir()
    monkeypatch.chdir(tmp_path)
    [(name, values)] = planned(folder, "-p", "model_start", "some-clip")
    assert (name, values["model_start"]) == ("lgdea-ci-0-some-clip", str(tmp_path / "some-clip"))
    [(name, values)] = planned(folder, "-p", "model_start", "openai/some-clip")
    assert (name, values["model_start"]) == ("lgdea-ci-0-some-clip", "openai/some-clip"), "of the hub"


def test_the_preset_names_the_corpus_unless_one_is_given(folder: Path, tmp_path: Path) -> None:
    [(name, values)] = planned(folder, "--preset", "paper", "--data", str(tmp_path))
    assert name == "lgdea-paper-0-mimic_cxr"
    assert values["data"] == str(tmp_path)
    assert values.get("corpus") is None, "the notebooks resolve it as the run's name did"
    [(name, values)] = planned(folder, "--preset", "paper", "--corpus", "phantom")
    assert (name, values["corpus"]) == ("lgdea-paper-0", "phantom")
    assert "data" not in values


def write_bare_corpus(root: Path, held_out: int) -> None:
    """Layout `folder` without boxes: 45 training studies, `held_out` ones in split test, three labels in all."""
    films = root / "folder" / "images"
    films.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    said = ("Small left pleural effusion.", "Right upper lobe nodule.", "No pneumothorax.", "Possible edema.")
    studies = []
    for number in range(45 + held_out):
        film = films / f"s{number}.png"
        Image.fromarray(rng.integers(0, 256, size=(64, 64), dtype=np.uint8)).save(film)
        os.utime(film, (0, 0))  # so that every run of this test finds the same cached crops
        report = f"FINDINGS: {said[number % 4]} {said[number % 3]}"
        studies.append((f"s{number}", f"p{number}", "train" if number < 45 else "test", report, f"images/{film.name}"))
    columns = ["study_id", "patient_id", "split", "report", "image"]
    pd.DataFrame(studies, columns=columns).to_csv(root / "folder/studies.csv", index=False)
    labels = [("s0", "nodule", 1), ("s45", "nodule", 1), ("s46", "nodule", 0)]
    pd.DataFrame(labels, columns=["study_id", "finding", "value"]).to_csv(root / "folder/labels.csv", index=False)


class Shell(InteractiveShell):
    """IPython without a terminal or a kernel: the cells of all notebooks in this process, which imports but once."""

    def enable_gui(self, gui: str | None = None) -> None:
        """Nothing: figures are only saved."""


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # whose place the shell's names take
    yield Shell.instance()
    Shell.clear_instance()


@pytest.mark.slow
def test_a_corpus_without_boxes_and_with_few_labels_gets_through_all_notebooks(
    runs: Path, tmp_path: Path, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a copy of the project without any committed row."""
    root, bare = tmp_path / "corpora", runs / "bare"
    write_bare_corpus(root, held_out=15)
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.setattr(tables, "project_root", lambda: tmp_path)
    given, said = {"corpus": "folder", "data": str(root), "run": "bare"}, {}
    given |= {"scored_reports": 60, "both_ways": 8, "asg_steps": 8}
    for notebook in sorted(Path.cwd().glob("[0-9]*.ipynb")):
        shell.reset()
        with capture_output() as captured:
            for cell in nbformat.read(notebook, as_version=4).cells:
                if cell.cell_type == "code":
                    shell.run_cell(cell.source).raise_error()
                if "parameters" in cell.metadata.get("tags", []):
                    shell.push(given)
        said[notebook.name[:2]] = captured.stdout
    assert list(said) == ["00", "01", "02", "03", "04", "05", "06", "07", "08"]
    assert (bare / "figures/01_example_films.png").is_file(), "films without boxes"
    # too few positives for AUC, too few studies for retrieval; the tail's AUC has no least number
    assert scored_metrics(bare) == {"auc_tail"}
    assert not (bare / "figures/05_comparison.png").exists()
    assert "0 rows in figures/tables/limited_pairing.csv; missing ones come from" in said["06"]
    assert set(pd.read_csv(bare / "asg_regions.csv")["task"]) == {"tags"}, "no region boxes"


def scored_metrics(folder: Path) -> set[str]:
    """Metrics that have a number for any of the four models."""
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == ["model", "baseline", "model_shuffled", "baseline_shuffled"]
    names = {row["metric"] for rows in metrics.values() for row in rows if row["estimate"] is not None}
    return {name for name in names if not name.endswith("_chance")}
