"""Promises that the repository as a whole keeps: notebooks, words that must not occur, files that are named."""

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

NOTEBOOKS = {path: nbformat.read(path, as_version=4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
COMMON_PARAMETERS = {
    "preset": "Optional[str]",
    "run": "Optional[str]",
    "corpus": "Optional[str]",
    "data": "Optional[str]",
    "method": "str",
    "seed": "int",
    "paired_ratio": "Optional[float]",
}
"""of every notebook that has a run"""
FOLDERS = ("lgdea_core", "notebooks", "benchmarks")
PYTHON_FILES = sorted(path for name in FOLDERS for path in (ROOT / name).rglob("*.py"))
SOURCES = {path: path.read_text() for path in PYTHON_FILES}
FORBIDDEN = [
    r"\bexec\(",
    r"(?<!\.)\beval\(",  # model.eval() is another word
    r"literal_eval\(",
    r"pickle\.loads?\(",
    r"allow_pickle=True",
    r"weights_only=False",
    r"trust_remote_code=True",
    r"yaml\.load\(",
    r"shell=True",
]
"""What would execute what it reads."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs_and_has_the_common_parameters(path: Path) -> None:
    cells = [cell for cell in NOTEBOOKS[path].cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in cells] == [[]] * len(cells)
    assert {cell.execution_count for cell in cells} == {None}
    declared = declared_parameters(path)
    if path.stem != "00_idea":
        assert {key: declared.get(key) for key in COMMON_PARAMETERS} == COMMON_PARAMETERS
    assert NOTEBOOKS[path].metadata.kernelspec.name == "python3"  # the one that runs it


def test_nothing_executes_what_it_reads_and_the_package_never_prints() -> None:
    cells = {path: "\n".join(cell.source for cell in notebook.cells) for path, notebook in NOTEBOOKS.items()}
    found = [
        (path.relative_to(ROOT).as_posix(), pattern)
        for path, source in (SOURCES | cells).items()
        for pattern in FORBIDDEN
        if re.search(pattern, source)
    ]
    found += [
        (path.relative_to(ROOT).as_posix(), "print")
        for path, source in SOURCES.items()
        if path.is_relative_to(ROOT / "lgdea_core") and re.search(r"^\s*print\(", source, re.MULTILINE)
    ]
    assert len(SOURCES) > 50
    assert found == []


def test_what_is_private_or_large_is_not_tracked() -> None:
    """Reports, runs and corpora live in data/, which git must not see; figures/ holds committed ones by name only.

    The model in the box has a limit of its own, see test_box.py.
    """
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing is tracked")
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    assert [path for path in tracked if path.startswith("data/") and path != "data/README.md"] == []
    files = [ROOT / path for path in tracked if not path.startswith("lgdea_core/box/")]
    assert [path for path in files if path.is_file() and path.stat().st_size > 2_000_000] == []


def requirements(file: str) -> set[str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return {re.split(r"[<>=\[ ]", line)[0].lower().replace("_", "-") for line in lines if line}


def imports(source: str) -> set[str]:
    """Top-level names of the absolute imports anywhere in a file."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in names}


def test_every_import_is_a_requirement_and_every_requirement_is_pinned() -> None:
    packages = {
        "PIL": "pillow",
        "cv2": "opencv-python-headless",
        "open_clip": "open-clip-torch",
        "sklearn": "scikit-learn",
        "faiss": "faiss-cpu",
        "pytorch_grad_cam": "grad-cam",
        "IPython": "ipython",
    }
    optional = {"openai", "outlines", "vllm", "xgrammar"}  # engines of extractors, imported where they are used
    own = {"lgdea_core", *(path.stem for path in (*PYTHON_FILES, *(ROOT / "tests").glob("*.py")))}
    third_party = set().union(*map(imports, SOURCES.values())) - set(sys.stdlib_module_names) - own - optional
    stated = requirements("requirements.txt") | requirements("benchmarks/requirements.txt")
    assert {packages.get(name, name.replace("_", "-")).lower() for name in third_party} - stated == set()
    assert stated - requirements("constraints.txt") == set()


def test_ci_and_make_agree_on_their_targets() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"figures", "test", "lab", "bench", "clean"} <= targets
    ci = ROOT / ".ci/run"
    assert ci.stat().st_mode & 0o111, "make it executable"
    assert {"test", "figures"} <= set(re.findall(r"make (\w+)", ci.read_text())) <= targets


def test_json_data_files_of_the_package_parse() -> None:
    files = list((ROOT / "lgdea_core").rglob("*.json"))
    assert {path.name for path in files} >= {"lexicon.json", "compositional.json", "gloria.json"}
    assert all(json.loads(path.read_text()) for path in files)
