"""Set before any test imports torch: models here are tiny, so one thread is the fastest, and runs repeat bitwise."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

LONGEST = (
    "test_run.py",
    "test_methods.py",
    "test_experiments_cells.py",
    "test_evidence_llm_slow.py",
    "test_training.py",
)
"""Files that begin first: each is one worker's, and the last to end would keep the others waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)
