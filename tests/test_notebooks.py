"""The notebooks as committed: parameters that papermill reads, cells without plumbing, answers, and safe saving."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from docutils.utils.math.latex2mathml import tex2mathml
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from papermill.translators import PythonTranslator
from tornado.web import HTTPError

from lgdea_core.runs.notebook import INJECTED, check_parameters

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))

import lab  # noqa: E402  (notebooks/lab.py)

NOTEBOOKS = {path: nbformat.read(path, as_version=4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
LARGEST_CELL, LARGEST_IMPORTS, EXERCISES = 18, 5, 3


def cells(path: Path, tag: str | None = None) -> list[nbformat.NotebookNode]:
    """Code cells, or those with a tag."""
    code = [cell for cell in NOTEBOOKS[path].cells if cell.cell_type == "code"]
    return [cell for cell in code if tag is None or tag in cell.metadata.get("tags", [])]


def tree(cell: nbformat.NotebookNode) -> ast.Module:
    return ast.parse(cell.source.replace("%matplotlib inline\n", ""))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_reads_every_parameter_and_an_unknown_one_is_refused_in_the_first_cell(path: Path) -> None:
    [dials] = cells(path, "parameters")
    found = papermill.inspect_notebook(path)
    assert list(found) == [line.target.id for line in tree(dials).body if isinstance(line, ast.AnnAssign)]
    assert all(parameter["help"] and parameter["inferred_type_name"] != "None" for parameter in found.values())
    injected = PythonTranslator.codify({next(iter(found)): None, "sead": 3}, comment="Parameters")
    assert injected.startswith(INJECTED)
    with pytest.raises(ValueError, match=rf"no parameter is called sead; there are: {next(iter(found))}"):
        check_parameters(["", dials.source, injected, "sead = 4"])
    check_parameters(["", dials.source, injected.replace("sead = 3\n", ""), "sead = 4"])
    first = cells(path)[1].source
    assert "check_parameters()" in first or "begin(" in first


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_short_and_without_plumbing(path: Path) -> None:
    trees = [tree(cell) for cell in cells(path)[1:]]
    statements = [line for cell in trees for line in cell.body]
    hidden = [line.value for line in statements if isinstance(line, ast.Expr)]
    assert [ast.unparse(value) for value in hidden if isinstance(value, ast.BoolOp | ast.IfExp)] == []
    own = [line for cell in cells(path)[1:] for line in cell.source.splitlines() if line.startswith("from lgdea_core")]
    assert 0 < len(own) <= LARGEST_IMPORTS
    assert [line for line in own if line.endswith("(")] == []
    assert [cell.source for cell in cells(path) if cell.source.count("\n") >= LARGEST_CELL] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_equations_are_latex_that_the_book_can_set(path: Path) -> None:
    text = "\n".join(cell.source for cell in NOTEBOOKS[path].cells if cell.cell_type == "markdown")
    text = re.sub(r"`[^`]*`", "", text)
    blocks = re.findall(r"\$\$(.+?)\$\$", text, re.DOTALL)
    inline = re.findall(r"\$([^$\n]+(?:\n[^$\n]+)?)\$", re.sub(r"\$\$.+?\$\$", "", text, flags=re.DOTALL))
    assert blocks
    for equation in (*blocks, *inline):
        assert tex2mathml(equation.strip()).startswith("<math"), equation


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_ends_in_three_exercises_with_hints_and_collapsed_answers_that_check_themselves(path: Path) -> None:
    answers = cells(path, "answer")
    text = "".join(cell.source for cell in NOTEBOOKS[path].cells if cell.cell_type == "markdown")
    asked = text.partition("## Exercises")[2]
    assert len(answers) == EXERCISES
    assert [asked.count(f"**{number}.**") for number in range(1, EXERCISES + 1)] == [1] * EXERCISES
    assert asked.count("<details><summary>Hint</summary>") == EXERCISES
    for cell in answers:
        assert cell.metadata.jupyter == {"source_hidden": True, "outputs_hidden": True}
        assert any(isinstance(line, ast.Assert) for line in ast.walk(tree(cell)))


def test_what_jupyterlab_saves_changes_nothing_that_git_tracks(tmp_path: Path) -> None:
    """Run All and autosave by the server's own contents manager, on the folder that `make lab` gives it."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    source = tmp_path / "notebooks/01_first.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(report)")]), source)
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)

    lab.refresh_copies(tmp_path / "notebooks", tmp_path / "data/lab")
    root = next(option.partition("=")[2] for option in lab.server_options(tmp_path / "data") if "root_dir" in option)
    server = LargeFileManager(root_dir=root)
    opened = server.get("lab/01_first.ipynb")
    output = nbformat.v4.new_output("stream", text="a report of a real patient")
    opened["content"]["cells"][0]["outputs"] = [output]
    server.save(opened, "lab/01_first.ipynb")
    assert "a real patient" in (tmp_path / "data/lab/01_first.ipynb").read_text()
    with pytest.raises(HTTPError):  # nothing above is in its reach
        server.save(opened, "../notebooks/01_first.ipynb")
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    assert changed.stdout == ""


def test_working_copies_follow_the_repository_and_nobodys_changes_are_lost(tmp_path: Path) -> None:
    def write(path: Path, source: str, **metadata: str) -> None:
        cell = nbformat.v4.new_code_cell(source, outputs=[nbformat.v4.new_output("stream", text="seen")])
        nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=metadata), path)

    source, copies = tmp_path / "notebooks", tmp_path / "lab"
    source.mkdir()
    write(source / "01_a.ipynb", "first")
    assert lab.refresh_copies(source, copies) == []
    copy = nbformat.read(copies / "01_a.ipynb", as_version=4)
    write(source / "01_a.ipynb", "second")  # the copy was only run, so it follows
    assert lab.refresh_copies(source, copies) == []
    assert nbformat.read(copies / "01_a.ipynb", as_version=4).cells[0].source == "second"

    copy = nbformat.read(copies / "01_a.ipynb", as_version=4)
    write(copies / "01_a.ipynb", "mine", **copy.metadata)
    assert lab.refresh_copies(source, copies) == []  # as long as the repository's is the same
    write(source / "01_a.ipynb", "third")
    [line] = lab.refresh_copies(source, copies)
    assert "yours, with its changes, is 01_a-mine-1.ipynb now" in line
    assert nbformat.read(copies / "01_a-mine-1.ipynb", as_version=4).cells[0].source == "mine"
    assert nbformat.read(copies / "01_a.ipynb", as_version=4).cells[0].source == "third"


def test_figures_of_a_run_are_nothing_that_git_tracks() -> None:
    """`make figures` leaves `git status` as it was: names of figures are plain, and git ignores such files."""
    named = [
        node.args[2]
        for path in NOTEBOOKS
        for cell in cells(path)
        for node in ast.walk(tree(cell))
        if isinstance(node, ast.Call) and "keep_figure" in ast.unparse(node.func) and len(node.args) > 2
    ]
    assert len(named) > 15
    assert [ast.unparse(name) for name in named if "/" in ast.unparse(name)] == []
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/figures/*.png", "/figures/*.pdf"} <= set(ignored)
