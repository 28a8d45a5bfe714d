"""Tables of experiments: cells are trained side by side, and each row is written as soon as it is there."""

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from filelock import FileLock
from tqdm.auto import tqdm

from lgdea_core.experiments.cells import KEY, MEASURES, REGION_MEASURES, Cell, run_cell
from lgdea_core.experiments.worlds import build_world
from lgdea_core.paths import project_root

logger = logging.getLogger("lgdea")

Work = TypeVar("Work")
Made = TypeVar("Made")

SECONDS_A_STEP = {
    "clip": 0.28, "gloria": 0.45, "mgca": 0.53, "medclip": 0.35, "biovil": 0.59, "prior": 0.5, "medklip": 0.75,
    "carzero": 0.56, "asg": 0.8, "lgdea": 0.5, "lgdea+asg": 0.9,
}  # fmt: skip
"""Of preset demo, two trainings side by side on two CPU cores: what a plan assumes before a table has rows."""
GUESSED_ON = "demo"
"""Preset of every such guess: what another costs is unknown before it has rows."""
GROUNDED = ("cnr", "miou", "pointing")
"""Measures of grounding that have controls (`evaluation.controls`)."""
OWN = tuple(f"{name}_own" for name in GROUNDED)
"""`<measure>_own = <measure> - <measure>_swapped`: what the film itself adds, in units of the measure."""


def table_path(name: str) -> Path:
    """`figures/tables/<name>.csv`."""
    return project_root() / "figures" / "tables" / f"{name}.csv"


def read_table(path: Path, key: Sequence[str] = KEY) -> pd.DataFrame:
    """Rows so far; empty where there is no table yet. An empty variant is "", not missing."""
    if not path.is_file():
        return pd.DataFrame(columns=list(key))
    return pd.read_csv(path).fillna({"variant": ""})


def add_row(path: Path, row: dict[str, Any], key: Sequence[str] = KEY) -> None:
    """Add a row and keep the table sorted by its key; the file is replaced as a whole."""
    add_rows(path, [row], key)


def add_rows(path: Path, rows: Sequence[dict[str, Any]], key: Sequence[str] = KEY) -> None:
    """Add several rows at once, as `add_row` does: all of them or none.

    Several processes may add to one table: each waits for its turn to read, add and replace.
    """
    with _alone_with(path):
        _write(path, read_table(path, key), rows, key)


def replace_values(path: Path, values: dict[str, Any], key: Sequence[str] = KEY) -> None:
    """Change some values of a row, or add some; the others stay.

    Args:
        path: of the table.
        values: by column, those of the key among them, which say which row.
        key: columns that tell two rows apart.

    Raises:
        ValueError: the table has no such row.
    """
    with _alone_with(path):
        table = read_table(path, key)
        own = (table[list(key)] == [values[name] for name in key]).all(axis=1)
        if not own.any():
            raise ValueError(f"{path}: no row {', '.join(str(values[name]) for name in key)}; it is gone")
        _write(path, table[~own], [table[own].iloc[0].to_dict() | values], key)


def _alone_with(path: Path) -> FileLock:
    """What a process holds while it changes a table; the empty file beside it stays, for others may wait on it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))


def _write(path: Path, old: pd.DataFrame, rows: Sequence[dict[str, Any]], key: Sequence[str]) -> None:
    new = pd.DataFrame(rows)
    table = pd.concat([old, new], ignore_index=True) if len(old) else new
    part = path.with_name(path.name + ".part")
    table.sort_values(list(key), ignore_index=True).to_csv(part, index=False)
    part.rename(path)


def with_own(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `OWN`, run by run, so that its deviation is that of the differences; none without the control."""
    known = [name for name in GROUNDED if {name, f"{name}_swapped"} <= set(table)]
    own = {f"{name}_own": table[name] - table[f"{name}_swapped"] for name in known}
    return pd.concat([table, pd.DataFrame(own, index=table.index)], axis=1)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """`over_seeds` of every measure of the trainings."""
    measures = {*MEASURES, *OWN, *REGION_MEASURES}
    table = with_own(table)
    return over_seeds(table, KEY, [name for name in table if name in measures or name.startswith("relation_")])


def over_seeds(table: pd.DataFrame, key: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """`mean_and_sd` of columns over rows that differ in their seed alone, and how many seeds; empty without rows.

    A measure that some of the seeds lack is over the others.

    Args:
        table: has the columns.
        key: what tells two rows apart.
        columns: which; ones that the table lacks are left out.
    """
    if table.empty:
        return table
    groups = table.groupby([name for name in key if name != "seed"], sort=True)
    measured = groups[[name for name in columns if name in table]].agg(mean_and_sd)
    return pd.concat([groups["seed"].nunique().rename("seeds"), measured], axis=1).reset_index()


def beyond(rows: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """Differences in `MEASURES` and `OWN` of rows to those of a base of the same world, method, ratio, seed and preset.

    Args:
        rows: of variants; ones without such a row in `base` are left out, as are measures that a table lacks.
        base: rows of one variant, or of the methods as they are.
    """
    same = [name for name in KEY if name != "variant"]
    measured = [name for name in (*MEASURES, *OWN) if name in rows and name in base]
    pairs = rows.merge(base[[*same, *measured]], on=same, suffixes=("", "_base"), validate="many_to_one")
    return pairs[list(KEY)].assign(**{name: pairs[name] - pairs[f"{name}_base"] for name in measured})


def mean_and_sd(values: pd.Series) -> str:
    """ "mean ± sd", the deviation that of the sample (n - 1); one value has none, and no value is ""."""
    known = values.dropna()
    if known.empty:
        return ""
    return f"{known.mean():.3f}" + (f" ± {known.std():.3f}" if len(known) > 1 else "")


def missing_cells(cells: Sequence[Cell], path: Path) -> list[Cell]:
    """The cells that have no row yet."""
    done = set(read_table(path)[list(KEY)].itertuples(index=False, name=None))
    return [cell for cell in cells if cell.key not in done]


def guessed_seconds(preset: str, seconds: float) -> float | None:
    """A guess, or None where it was not taken on this preset."""
    return seconds if preset == GUESSED_ON else None


def estimated_minutes(cells: Sequence[Cell], path: Path) -> list[float | None]:
    """Minutes each cell should take: the median of its method's rows, else `SECONDS_A_STEP` where it holds, or None."""
    table = read_table(path)
    timed = table.dropna(subset=["seconds"]) if "seconds" in table else table
    measured = timed.groupby(["method", "preset"])["seconds"].median() if len(timed) else {}
    minutes = []
    for cell in cells:
        config = cell.config
        guess = guessed_seconds(config.preset, SECONDS_A_STEP[config.method] * config.train.total_steps)
        seconds = measured.get((config.method, config.preset), guess)
        minutes.append(None if seconds is None else float(seconds) / 60)
    return minutes


def run_cells(cells: Sequence[Cell], path: Path, workers: int) -> None:
    """Train the cells without a row, `workers` at a time, each with its share of the CPU's threads.

    A killed run loses what was training (and goes on from its checkpoint); rows are never lost.
    """
    todo = missing_cells(cells, path)
    build_worlds(todo)
    for row in side_by_side(run_cell, todo, workers, path.stem):
        add_row(path, row)
        logger.info("%s", row)


def build_worlds(cells: Sequence[Cell]) -> None:
    """Make what is made on first use once, before several processes want it."""
    for world, config in {(cell.world, cell.config.seed): (cell.world, cell.config) for cell in cells}.values():
        build_world(world, config)


def side_by_side(make: Callable[[Work], Made], todo: Sequence[Work], workers: int, name: str) -> Iterator[Made]:
    """What `make` makes of each, in the order of completion: `workers` processes, which share the CPU's threads.

    They end with this process, even where it is killed: else they would train on beside the run that resumes them.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(threads,)) as pool:
        futures = [pool.submit(make, work) for work in todo]
        for future in tqdm(as_completed(futures), total=len(futures), unit="model", desc=name):
            yield future.result()


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
