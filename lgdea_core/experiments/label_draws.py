"""Many draws of a small share of the labels: what one draw of some fifteen films cannot tell about two towers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lgdea_core.evaluation.downstream import PROBE_TASKS, probe_scores
from lgdea_core.evaluation.supervised import FROZEN
from lgdea_core.experiments.downstream import Pretrained, load_films
from lgdea_core.experiments.tables import add_rows, mean_and_sd, read_table, side_by_side, table_path
from lgdea_core.paths import git_commit, project_root

TABLE = "label_draws"
KEY = ("corpus", "method", "label_ratio", "seed", "preset", "draw")
"""What tells two rows of the table apart."""
CORPUS = "phantom"
REFERENCE = "clip"
"""The method that the others are compared with, draw by draw."""
SECONDS_A_TOWER = 40.0
"""Of preset demo and twelve draws, on one core."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """One tower, and the draws of a share of the labels that a probe on it learns from."""

    model: Pretrained
    ratio: float
    draws: int

    def __str__(self) -> str:
        config = self.model.config
        return f"{self.model.method}  {self.ratio:.0%} x {self.draws}  {config.seed}  {config.preset}"

    @property
    def keys(self) -> list[tuple[Any, ...]]:
        """Values of `KEY` for every draw."""
        config = self.model.config
        return [(CORPUS, self.model.method, self.ratio, config.seed, config.preset, draw) for draw in range(self.draws)]

    def run(self) -> list[dict[str, Any]]:
        """A row for every draw: macro AUC on the test films."""
        began = time.perf_counter()
        films = load_films(CORPUS, self.model.config)
        tower, seed = self.model.tower(films.corpus), self.model.config.seed
        scores = probe_scores(films, PROBE_TASKS[CORPUS], tower, FROZEN, (self.ratio,), seed, self.draws)
        seconds = round((time.perf_counter() - began) / self.draws, 1)
        common = {"pretrained": self.model.origin, "seconds": seconds, "commit": git_commit(project_root())}
        return [
            dict(zip(KEY, key, strict=True))
            | {"auc": round(score.interval.estimate, 4), "findings": len(score.findings)}
            | common
            for key, score in zip(self.keys, scores, strict=True)
        ]


def missing_draws(models: Sequence[Pretrained], ratio: float, draws: int) -> tuple[list[Draws], list[Pretrained]]:
    """The towers that lack a draw, and those that lack one and have no model."""
    done = set(draws_table()[list(KEY)].itertuples(index=False, name=None))
    todo = [Draws(model=model, ratio=ratio, draws=draws) for model in models]
    todo = [work for work in todo if not done.issuperset(work.keys)]
    return [work for work in todo if work.model.ready], [work.model for work in todo if not work.model.ready]


def run_draws(todo: Sequence[Draws], workers: int) -> None:
    """Make the rows, `workers` towers at a time; a tower's rows are written together."""
    for config in {work.model.config.seed: work.model.config for work in todo}.values():
        load_films(CORPUS, config)  # what is built on first use is built once
    path = table_path(TABLE)
    for rows in side_by_side(Draws.run, todo, workers, TABLE):
        done = set(draws_table()[list(KEY)].itertuples(index=False, name=None))
        add_rows(path, [row for row in rows if tuple(row[name] for name in KEY) not in done], KEY)


def draws_table() -> pd.DataFrame:
    """Rows so far."""
    return read_table(table_path(TABLE), KEY)


def draws_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over draws, then mean and deviation over seeds; likewise of the difference to `REFERENCE`, draw by draw.

    Args:
        table: columns `KEY` and auc.

    Returns:
        Columns method, label_ratio, preset, seeds, draws (of all seeds), auc, less_reference and won: the share of the
        draws in which the method is above the reference; the last two over the draws that both have.
    """
    cell = ["corpus", "label_ratio", "preset", "seed", "draw"]
    reference = table[table["method"] == REFERENCE].set_index(cell)["auc"].rename("reference")
    paired = table.join(reference, on=cell)
    paired = paired.assign(less_reference=paired["auc"] - paired["reference"])
    rows = []
    for (method, ratio, preset), group in paired.groupby(["method", "label_ratio", "preset"]):
        of_seed = group.groupby("seed")[["auc", "less_reference"]].mean()
        known = group["less_reference"].dropna()
        rows.append(
            {"method": method, "label_ratio": ratio, "preset": preset, "seeds": len(of_seed), "draws": len(group)}
            | {name: mean_and_sd(of_seed[name]) for name in of_seed}
            | {"won": f"{(known > 0).mean():.2f}" if len(known) and method != REFERENCE else ""}
        )
    return pd.DataFrame(rows)
