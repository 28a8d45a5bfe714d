"""Set before any test imports torch: models here are tiny, so one thread is the fastest, and runs repeat bitwise."""

import os
import sys
from collections.abc import Callable
from functools import partial
from inspect import isgeneratorfunction
from pathlib import Path
from typing import Any, get_args

import jaxtyping
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False  # each worker would compile the package anew, with its checks for 14 s
# Of these processes alone: `runpy` stores code with these checks under the name of code without them.
sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")

LONGEST = (
    "test_run.py",
    "test_methods.py",
    "test_experiments_cells.py",
    "test_evidence_llm_slow.py",
    "test_training.py",
    "test_stages.py",
    "test_run_processes.py",
)
"""Files that begin first: each is one worker's, and the last to end would keep the others waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


def names_shapes(annotation: Any) -> bool:
    """Whether an annotation is an array with a shape, or holds one."""
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return isinstance(annotation, str) or any(map(names_shapes, get_args(annotation)))


def quick_jaxtyped(function: Any = None, *, typechecker: Callable, jaxtyped: Callable = jaxtyping.jaxtyped) -> Any:
    """`jaxtyping.jaxtyped` with the same checks in less time.

    It binds the arguments of every call by name, to compare shapes, and checks them twice. Here a function without
    shapes is the type checker's alone, and the others are checked once.
    """
    if function is None:
        return partial(quick_jaxtyped, typechecker=typechecker)
    if isinstance(function, type) or isgeneratorfunction(function):
        return jaxtyped(function, typechecker=typechecker)
    checked = typechecker(function)
    if any(map(names_shapes, function.__annotations__.values())):
        return jaxtyped(checked, typechecker=None)
    return checked


jaxtyping.jaxtyped = quick_jaxtyped  # what the import hook of `--jaxtyping-packages` puts before every function
