"""Imports point one way: the core imports no room, and each room those it stands on, by the import statements alone."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lgdea_core"
CORE = {path.stem for path in PACKAGE.glob("*.py")}
WORDS = {"vocabulary", "finding", "paths", "crops", "command"}
"""The files of the core that say what data and evidence are made of, and how their commands end."""
ALLOWED = {
    "core": CORE,
    "methods": CORE,
    "data": WORDS,
    "evidence": WORDS,
    "training": {*CORE, "methods", "data", "evidence"},
    "runs": {*CORE, "methods", "data", "evidence", "training"},
    "evaluation": {*CORE, "methods", "data", "evidence", "training", "runs"},
    "figures": {*CORE, "methods", "data", "evidence", "training", "runs"},
    "experiments": {*CORE, "methods", "data", "evidence", "training", "runs", "evaluation", "figures"},
}
"""What each room may import beside itself: files of the core, and rooms."""
COMMANDS = {"evidence": {"data"}, "evaluation": {"figures"}}
"""What only a function of the room may import, when it runs: its command reads a corpus, or draws."""
OUTSIDE_OF_CORE = {
    "faiss", "filelock", "huggingface_hub", "jaxtyping", "numpy", "pandas", "peft", "PIL", "pydantic",
    "pytorch_grad_cam", "safetensors", "scipy", "sklearn", "tokenizers", "torch", "torchvision", "tqdm", "transformers",
}  # fmt: skip
"""Packages of others that the core may use; what draws, reads files of hospitals or asks servers is a room's."""


class Import(NamedTuple):
    """One module that a file imports."""

    module: str
    line: int
    at_once: bool
    """when the file is imported, not only when a function runs"""


def imports(tree: ast.AST, package: str, at_once: bool = True) -> Iterator[Import]:
    """Every import statement below a node.

    Args:
        tree: of a file.
        package: dotted name of the file's folder, from which relative imports count.
        at_once: whether the node is outside of all functions.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield Import(module, node.lineno, at_once)
            if module == PACKAGE.name:  # `from lgdea_core import losses`
                yield from (Import(f"{module}.{alias.name}", node.lineno, at_once) for alias in node.names)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(node, package, at_once and not inside)


def faults(root: Path) -> list[str]:
    """Every import of a package that goes where it may not, as "file:line imports module"."""
    found = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        room = place.parts[0] if len(place.parts) > 1 else "core"
        package = ".".join([root.name, *place.parts[:-1]])
        for entry in imports(ast.parse(path.read_text()), package):
            parts = entry.module.split(".")
            if parts[0] != root.name:
                fine = room != "core" or parts[0] in OUTSIDE_OF_CORE | sys.stdlib_module_names
            else:
                allowed = ALLOWED[room] | (set() if entry.at_once else COMMANDS.get(room, set()))
                fine = len(parts) == 1 or parts[1] in {room, *allowed}
            if not fine:
                found.append(f"{place.as_posix()}:{entry.line} imports {entry.module}")
    return found


def test_imports_point_one_way() -> None:
    rooms = {path.parts[-2] for path in PACKAGE.glob("*/*.py")}
    assert rooms == ALLOWED.keys() - {"core"}
    assert not faults(PACKAGE)


@pytest.mark.parametrize(
    ("file", "statement", "fault"),
    [
        ("losses.py", "from lgdea_core.data.corpus import Corpus", "losses.py:2 imports lgdea_core.data.corpus"),
        ("losses.py", "from .methods import clip", "losses.py:2 imports lgdea_core.methods"),
        ("losses.py", "from lgdea_core import training", "losses.py:2 imports lgdea_core.training"),
        (
            "losses.py",
            "def f():\n    import lgdea_core.runs.artifacts",
            "losses.py:3 imports lgdea_core.runs.artifacts",
        ),
        ("losses.py", "if True:\n    import matplotlib.pyplot", "losses.py:3 imports matplotlib.pyplot"),
        ("methods/clip.py", "from lgdea_core.training.loop import train", "imports lgdea_core.training.loop"),
        ("data/corpora/nih.py", "from ...model import LGDEAModel", "data/corpora/nih.py:2 imports lgdea_core.model"),
        ("data/images.py", "from lgdea_core.evidence import index", "imports lgdea_core.evidence"),
        ("evidence/index.py", "from lgdea_core.data.corpus import Corpus", "imports lgdea_core.data.corpus"),
        ("training/loop.py", "from lgdea_core.runs.inputs import Inputs", "imports lgdea_core.runs.inputs"),
        (
            "figures/views.py",
            "class A:\n    from lgdea_core.evaluation import harness",
            "imports lgdea_core.evaluation",
        ),
    ],
)
def test_an_import_that_points_the_other_way_is_found(file: str, statement: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / PACKAGE.name / file
    path.parent.mkdir(parents=True)
    path.write_text(f"import torch\n{statement}\n")
    [found] = faults(tmp_path / PACKAGE.name)
    assert found.endswith(fault)


@pytest.mark.parametrize(
    ("file", "statement"),
    [
        ("losses.py", "import numpy as np, scipy.sparse\nfrom lgdea_core.config import METHODS"),
        ("losses.py", "from lgdea_core import crops"),
        ("data/corpora/nih.py", "from lgdea_core.crops import crop_frame\nfrom ..corpus import Corpus\nimport pydicom"),
        ("evidence/extract.py", "def main() -> None:\n    from lgdea_core.data.corpora import load_corpus"),
        ("experiments/cells.py", "from lgdea_core.figures import tables\nfrom lgdea_core.evaluation import harness"),
    ],
)  # fmt: skip
def test_imports_of_what_lies_below_are_fine(file: str, statement: str, tmp_path: Path) -> None:
    path = tmp_path / PACKAGE.name / file
    path.parent.mkdir(parents=True)
    path.write_text(statement + "\n")
    assert not faults(tmp_path / PACKAGE.name)
