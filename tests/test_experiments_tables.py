"""Tables of experiments: several processes write one."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from lgdea_core.experiments.tables import add_row, read_table

ROWS = 40


def write_rows(path: Path, writer: int, both: Any) -> None:
    """Add many rows one by one, from the moment on at which every writer is there."""
    both.wait(timeout=300)
    for number in range(ROWS):
        add_row(path, {"writer": writer, "number": number}, key=("writer", "number"))


@pytest.mark.slow
def test_two_processes_that_write_one_table_at_once_lose_no_row(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both, path = context.Barrier(2), tmp_path / "tables" / "t.csv"
    writers = [context.Process(target=write_rows, args=(path, writer, both), daemon=True) for writer in (1, 2)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(timeout=300)
    assert [process.exitcode for process in writers] == [0, 0]
    found = read_table(path, ("writer", "number"))
    expected = [(writer, number) for writer in (1, 2) for number in range(ROWS)]
    assert list(found.itertuples(index=False, name=None)) == expected
    assert not list(path.parent.glob("*.part"))
