"""Promises that the repository as a whole keeps: notebooks, sizes, words that must not occur, README."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))

from run import declared_parameters  # noqa: E402  (notebooks/run.py)

ARROWS = ("01_evidence_extraction", "02_prototype_space", "03_graph_propagation", "04_training", "05_attention_maps")
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
COMMON_PARAMETERS = {
    "preset": "str | None",
    "run": "str | None",
    "corpus": "str | None",
    "data": "str | None",
    "method": "str",
    "seed": "int",
    "paired_ratio": "float | None",
}
PYTHON_FILES = sorted(
    path for folder in ("lgdea_core", "notebooks", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
README = (ROOT / "README.md").read_text()


def notebook(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def test_every_arrow_has_its_notebook_and_numbers_have_no_gap() -> None:
    assert set(ARROWS) <= set(NOTEBOOKS)
    assert [name[:3] for name in NOTEBOOKS] == [f"{number:02}_" for number in range(1, len(NOTEBOOKS) + 1)]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_without_outputs(name: str) -> None:
    for cell in notebook(name).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_has_the_common_parameters(name: str) -> None:
    declared = declared_parameters(ROOT / "notebooks" / f"{name}.ipynb")
    assert {key: declared.get(key) for key in COMMON_PARAMETERS} == COMMON_PARAMETERS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_reads_well(name: str) -> None:
    cells = notebook(name).cells
    assert cells[0].cell_type == "markdown"
    for number, cell in enumerate(cells):
        if cell.cell_type == "code":
            lines = cell.source.splitlines()
            assert len(lines) <= 15, f"cell {number} has {len(lines)} lines"
            assert not re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE), f"cell {number} defines something"
    assert all(cell.source.strip() for cell in cells)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_asks_for_the_kernel_that_runs_it(name: str) -> None:
    assert notebook(name).metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_stays_under_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 400


@pytest.mark.parametrize(
    "pattern",
    [
        r"\bexec\(",
        r"(?<!\.)\beval\(",  # model.eval() is another word
        r"literal_eval\(",
        r"pickle\.loads?\(",
        r"allow_pickle=True",
        r"weights_only=False",
        r"trust_remote_code=True",
        r"yaml\.load\(",
        r"shell=True",
    ],
)
def test_nothing_executes_what_it_reads(pattern: str) -> None:
    sources = {path: path.read_text() for path in PYTHON_FILES}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        sources[path] = "\n".join(cell.source for cell in notebook(path.stem).cells)
    assert len(sources) > 10
    found = [path.relative_to(ROOT).as_posix() for path, source in sources.items() if re.search(pattern, source)]
    assert found == []


def test_the_package_logs_and_never_prints() -> None:
    printing = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "lgdea_core").rglob("*.py"))
        if re.search(r"^\s*print\(", path.read_text(), re.MULTILINE)
    ]
    assert printing == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_readme_mentions_every_notebook(name: str) -> None:
    assert f"notebooks/{name}.ipynb" in README


def test_every_file_the_readmes_link_to_exists() -> None:
    for readme in (ROOT / "README.md", ROOT / "data/README.md", ROOT / "figures/README.md"):
        targets = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", readme.read_text())
        for target in (first or second for first, second in targets):
            if "://" not in target:
                assert (readme.parent / target).exists(), f"{readme.relative_to(ROOT)} links to {target}"


def test_every_module_in_the_readmes_tree_exists_and_none_is_left_out() -> None:
    tree = re.search(r"## Files\n.*?```\n(.*?)```", README, re.DOTALL).group(1)
    named = set(re.findall(r"\b(\w+\.py)\b", tree))
    modules = {path.name for path in (ROOT / "lgdea_core").glob("*.py")} - {"__init__.py"}
    assert modules - named == set()
    everywhere = {path.name for path in PYTHON_FILES}
    assert named - everywhere == set()


def test_the_readme_names_code_that_exists() -> None:
    """`module.py:name` in the table of equations, where the module is one of the package and defines the name."""
    places = re.findall(r"`([\w/]+\.py):([\w.]+)`", README)
    assert len(places) > 10
    for module, name in places:
        source = (ROOT / "lgdea_core" / module).read_text()
        for part in name.split("."):
            assert re.search(rf"\b(def|class) {part}\b", source), f"README names {module}:{name}"


def test_the_readme_warns_against_clinical_use() -> None:
    assert "not for clinical use" in README.lower()


def test_what_is_private_or_large_is_not_tracked() -> None:
    """Reports, runs and corpora live in data/, which git must not see; figures/ holds committed ones by name only."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing is tracked")
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    assert [path for path in tracked if path.startswith("data/") and path != "data/README.md"] == []
    assert [path for path in tracked if (ROOT / path).is_file() and (ROOT / path).stat().st_size > 2_000_000] == []


def imports(path: Path) -> set[str]:
    """Top-level names of the absolute imports anywhere in a file."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in names}


def test_every_import_of_the_package_is_a_requirement() -> None:
    stated = {re.split(r"[<>=\[ ]", line)[0].lower() for line in (ROOT / "requirements.txt").read_text().splitlines()}
    names = {
        "PIL": "pillow",
        "cv2": "opencv-python-headless",
        "sklearn": "scikit-learn",
        "faiss": "faiss-cpu",
        "pytorch_grad_cam": "grad-cam",
    }
    optional = {"openai", "outlines", "vllm", "xgrammar"}  # engines of extractors, imported where they are used
    imported = {name for path in PYTHON_FILES for name in imports(path)}
    own = {"lgdea_core", *(path.stem for path in PYTHON_FILES)}
    third_party = imported - set(sys.stdlib_module_names) - own - optional
    assert {names.get(name, name.replace("_", "-")).lower() for name in third_party} - stated == set()


def test_constraints_pin_every_requirement() -> None:
    def names(file: str) -> set[str]:
        lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
        return {re.split(r"[<>=\[]", line)[0].strip().lower().replace("_", "-") for line in lines if line}

    assert names("requirements.txt") - names("constraints.txt") == set()


def test_ci_and_make_agree_on_their_targets() -> None:
    make = (ROOT / "Makefile").read_text()
    for target in ("figures", "test", "lab", "bench", "clean"):
        assert re.search(rf"^{target}:", make, re.MULTILINE)
    ci = ROOT / ".ci/run"
    assert ci.stat().st_mode & 0o111, "make it executable"
    assert {"make test", "make figures"} <= set(re.findall(r"make \w+", ci.read_text()))


def test_json_data_files_of_the_package_parse() -> None:
    files = list((ROOT / "lgdea_core").rglob("*.json"))
    assert {path.name for path in files} >= {"lexicon.json", "compositional.json", "gloria.json"}
    assert all(json.loads(path.read_text()) for path in files)
