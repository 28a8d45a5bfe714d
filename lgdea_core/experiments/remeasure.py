"""Rows measured anew: what the present evaluation says of the models that a table's trainings left; none is trained."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lgdea_core.config import RunConfig, config_differences
from lgdea_core.experiments.cells import KEY, TRAINED_BY, Cell, cell_inputs, measure, measured_columns
from lgdea_core.experiments.tables import build_worlds, read_table, replace_values, side_by_side
from lgdea_core.grounding import load
from lgdea_core.model import LGDEAConfig, model_config
from lgdea_core.paths import git_commit, project_root
from lgdea_core.training.loop import set_precision

MEASURED = "measured_commit"
"""Column: the code that measured a row anew; empty where `commit`, which trained it, has measured it too."""


class KeptModels(NamedTuple):
    """Cells with a row of older code, by what can be done about it."""

    ready: list[Cell]
    gone: list[Cell]
    """no model was kept"""
    foreign: list[tuple[Cell, list[str]]]
    """the model there is not this cell's, and how one can tell"""


def older_rows(cells: Sequence[Cell], path: Path) -> list[Cell]:
    """The cells whose row was measured by other code than the present commit.

    Those are all rows where the present code has no commit of its own, as in a checkout with changes.
    """
    present = git_commit(project_root())
    clean = None if present == "unknown" or present.endswith("-dirty") else present
    table = read_table(path).reindex(columns=[*KEY, "commit", MEASURED]).astype({"commit": object, MEASURED: object})
    measured_by = table[MEASURED].fillna(table["commit"])
    older = set(table.loc[measured_by.ne(clean), list(KEY)].itertuples(index=False, name=None))
    return [cell for cell in cells if cell.key in older]


def kept_models(cells: Sequence[Cell], path: Path) -> KeptModels:
    """Which rows can be measured anew."""
    kept = KeptModels([], [], [])
    commits = read_table(path).reindex(columns=[*KEY, "commit"]).set_index(list(KEY))["commit"].to_dict()
    for cell in older_rows(cells, path):
        if not (cell.folder / "model" / "config.json").is_file():
            kept.gone.append(cell)
        elif differing := model_differences(cell, commits[cell.key]):
            kept.foreign.append((cell, differing))
        else:
            kept.ready.append(cell)
    return kept


def model_differences(cell: Cell, commit: str) -> list[str]:
    """In what the kept model is another than the row's, by what is stored beside it: its configurations and its commit.

    A field that the model's code did not have yet counts as having its default; a commit was not always stored.

    Args:
        cell: whose row and model.
        commit: that trained the row.
    """
    folder, origin = cell.folder / "model", cell.folder / TRAINED_BY
    if origin.is_file() and origin.read_text().strip() != commit:
        return [f"trained by {origin.read_text().strip()} there, {commit} in the row"]
    try:
        trained = RunConfig.load(folder / "run_config.json")
        own = LGDEAConfig(**json.loads((folder / "config.json").read_text()))
    except (OSError, TypeError, ValueError) as error:
        return [str(error)]
    expected = model_config(cell.config, own.image, own.text)
    return config_differences(asdict(trained), asdict(cell.config)) + config_differences(asdict(own), asdict(expected))


def remeasure(cells: Sequence[Cell], path: Path, workers: int) -> None:
    """Measure kept models, `workers` at a time; each row is replaced as soon as it is there.

    Args:
        cells: `KeptModels.ready`.
        path: of their table.
        workers: processes, each with its share of the CPU's threads.
    """
    build_worlds(cells)
    for row in side_by_side(measured_anew, cells, workers, path.stem):
        replace_values(path, row)


def measured_anew(cell: Cell) -> dict[str, Any]:
    """The columns of a cell's row that evaluation fills, a measure that it has no longer as None, and `MEASURED`."""
    model, processor = load(cell.folder / "model")
    set_precision(model, cell.config)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    found = measure(cell, model, processor, cell_inputs(cell))
    key = dict(zip(KEY, cell.key, strict=True))
    return key | dict.fromkeys(measured_columns(cell)) | found | {MEASURED: git_commit(project_root())}
