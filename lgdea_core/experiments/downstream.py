"""Linear probe and segmentation on pretrained towers: planned, resumable, one row for each share of the labels."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from lgdea_core.config import METHODS, RunConfig
from lgdea_core.data.corpora import FOLDERS, load_corpus
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.images import load_images
from lgdea_core.encoders import ImageTower, image_tower_config
from lgdea_core.evaluation.downstream import (
    PROBE_TASKS,
    SEGMENTATION_TASKS,
    Films,
    probe_scores,
    segmentation_scores,
)
from lgdea_core.evaluation.linear_probe import ProbeScore
from lgdea_core.evaluation.segmentation import SegmentationScore
from lgdea_core.evaluation.supervised import FROZEN
from lgdea_core.experiments.cells import Cell
from lgdea_core.experiments.tables import add_rows, guessed_seconds, over_seeds, read_table, side_by_side, table_path
from lgdea_core.experiments.worlds import build_world
from lgdea_core.grounding import load
from lgdea_core.paths import DATA_VARIABLE, git_commit, project_root
from lgdea_core.runs.leaks import refuse_training_patients
from lgdea_core.training.loop import seeded

RANDOM = "random"
"""Name of a tower with the initial weights of its seed."""
KEY = ("corpus", "method", "protocol", "label_ratio", "seed", "preset")
"""What tells two rows of a table apart."""
TABLES = {"linear_probe": "asg_linear_probe", "segmentation": "segmentation"}
"""experiment -> name of its table"""
TASKS = {"linear_probe": PROBE_TASKS, "segmentation": SEGMENTATION_TASKS}
"""experiment -> corpus -> task"""
PROTOCOLS = {"linear_probe": (FROZEN, "fine-tuned"), "segmentation": (FROZEN, "tuned")}
"""experiment -> what happens to the tower; the first is the default"""
MEASURES = ("auc", "accuracy", "dice", "dice_batches", "dice_positive", "dice_empty")
"""Columns of which a summary has mean and deviation."""
SECONDS = {"linear_probe": 5.0, "segmentation": 70.0}
"""A row of preset demo, two at a time on two CPU cores: what a plan assumes before a table has rows."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A tower and where it comes from."""

    method: str
    """`RANDOM`, or the method of its training with the name of its variant"""
    config: RunConfig
    folder: Path | None
    """of the saved model; None: random weights"""

    @property
    def ready(self) -> bool:
        """Whether there is a model to load, or none is needed."""
        return self.folder is None or (self.folder / "config.json").is_file()

    @property
    def origin(self) -> str:
        """What the tower learnt from: the folder of its training, or nothing."""
        return self.folder.parent.name if self.folder is not None else ""

    def tower(self, corpus: Corpus) -> ImageTower:
        """The tower, in evaluation mode, on the GPU where there is one.

        Args:
            corpus: whose split test it will be judged on.

        Raises:
            ValueError: the tower was trained on a patient of that split.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.folder is not None:
            model, _ = load(self.folder)
            refuse_training_patients(model, corpus.split("test"))
            return model.image_tower.to(device)
        config, size = self.config.model, self.config.data.image_size
        with seeded(self.config.seed):
            tower = ImageTower(image_tower_config(config.image_tower, size), config.dim, size, config.neck_width)
        return tower.eval().to(device)


def pretrained(cells: Sequence[Cell]) -> list[Pretrained]:
    """The random tower of every seed, and the towers that the cells train."""
    seeds = dict.fromkeys(cell.config.seed for cell in cells)
    first = [next(cell.config for cell in cells if cell.config.seed == seed) for seed in seeds]
    untrained = [Pretrained(method=RANDOM, config=config, folder=None) for config in first]
    trained = [
        Pretrained(
            method=f"{cell.config.method} {cell.variant}".strip(), config=cell.config, folder=cell.folder / "model"
        )
        for cell in cells
    ]
    return [*untrained, *trained]


def load_films(corpus: str, config: RunConfig) -> Films:
    """The phantom of the run's seed, or a corpus under `LGDEA_DATA` with its own split.

    Raises:
        ValueError: a real corpus, but `LGDEA_DATA` is not set.
    """
    if corpus == "phantom":
        loaded = build_world(corpus, config)
    elif root := os.environ.get(DATA_VARIABLE):
        options = PROBE_TASKS[corpus].options if corpus in PROBE_TASKS else {}
        loaded = load_corpus(corpus, Path(root) / FOLDERS[corpus], **options)
    else:
        raise ValueError(f"corpus {corpus!r} needs the folder that holds its data; set {DATA_VARIABLE}")
    cache = project_root() / "data" / "cache"
    return Films(corpus=loaded, store=load_images(loaded, config.data.image_size, cache, progress=False))


@dataclass(frozen=True, kw_only=True)
class Job:
    """One tower on one corpus: some rows of a table."""

    experiment: Literal["linear_probe", "segmentation"]
    model: Pretrained
    corpus: str
    protocol: str
    """one of `PROTOCOLS`"""
    ratios: tuple[float, ...]
    """shares of the labels, each one row"""

    def __str__(self) -> str:
        shares = " ".join(f"{ratio:.0%}" for ratio in self.ratios)
        config = self.model.config
        return f"{self.corpus}  {self.model.method}  {self.protocol}  {shares}  {config.seed}  {config.preset}"

    def key(self, ratio: float) -> tuple[Any, ...]:
        """Values of `KEY`."""
        config = self.model.config
        return (self.corpus, self.model.method, self.protocol, ratio, config.seed, config.preset)

    def run(self) -> list[dict[str, Any]]:
        """Its rows."""
        began = time.perf_counter()
        probing, seed = self.experiment == "linear_probe", self.model.config.seed
        films = load_films(self.corpus, self.model.config)
        tower = self.model.tower(films.corpus)
        measure, task = probe_scores if probing else segmentation_scores, TASKS[self.experiment][self.corpus]
        scores = measure(films, task, tower, self.protocol, self.ratios, seed)
        seconds = (time.perf_counter() - began) / len(scores)
        common = {"pretrained": self.model.origin, "seconds": round(seconds, 1), "commit": git_commit(project_root())}
        columns = probe_columns if probing else dice_columns
        return [
            dict(zip(KEY, self.key(ratio), strict=True)) | columns(score) | common
            for ratio, score in zip(self.ratios, scores, strict=True)
        ]


def probe_columns(score: ProbeScore) -> dict[str, Any]:
    """Macro AUC or accuracy with its 95 % interval over patients, and what it is of."""
    interval = score.interval
    return {
        score.metric: round(interval.estimate, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "n": interval.n,
        "findings": len(score.findings),
        "left_out": "; ".join(score.left_out),
        "best_epoch": score.fit.best_epoch + 1,
        "steps": score.fit.steps,
    }


def dice_columns(score: SegmentationScore) -> dict[str, Any]:
    """The variants of Dice; the interval is that of the mean over images."""
    interval = score.image
    return {
        "dice": round(interval.estimate, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "n": interval.n,
        "dice_batches": round(score.batches, 4),
        "dice_positive": round(score.positive, 4),
        "dice_empty": round(score.empty, 4),
        "best_epoch": score.fit.best_epoch + 1,
        "steps": score.fit.steps,
    }


def missing_jobs(
    experiment: str, models: Sequence[Pretrained], corpora: Sequence[str], protocol: str, ratios: Sequence[float] | None
) -> tuple[list[Job], list[Pretrained]]:
    """What has no row yet and can be made, and the models without which the rest cannot.

    Args:
        experiment: one of `TABLES`.
        models: trained or not.
        corpora: keys of `TASKS`.
        protocol: one of the experiment's `PROTOCOLS`.
        ratios: shares of the labels; None takes each task's own.
    """
    table = downstream_table(experiment)
    done = set(table[list(KEY)].itertuples(index=False, name=None))
    jobs = []
    for corpus in corpora:
        for model in models:
            options = {"experiment": experiment, "model": model, "corpus": corpus, "protocol": protocol}
            job = Job(ratios=tuple(ratios or TASKS[experiment][corpus].ratios), **options)
            todo = tuple(ratio for ratio in job.ratios if job.key(ratio) not in done)
            alone = [(ratio,) for ratio in todo] if experiment == "segmentation" else [todo]
            jobs += [Job(ratios=part, **options) for part in alone if part]
    untrained = [model for model in models if not model.ready and any(job.model == model for job in jobs)]
    return [job for job in jobs if job.model.ready], untrained


def minutes_of(jobs: Sequence[Job]) -> list[float | None]:
    """Minutes each job should take: the median of the rows of its corpus, share and preset, else `SECONDS` or None."""
    if not jobs:
        return []
    table = downstream_table(jobs[0].experiment)
    measured = table.groupby(["corpus", "label_ratio", "preset"])["seconds"].median() if "seconds" in table else {}
    minutes = []
    for job in jobs:
        preset = job.model.config.preset
        guess = guessed_seconds(preset, SECONDS[job.experiment])
        seconds = [measured.get((job.corpus, ratio, preset), guess) for ratio in job.ratios]
        minutes.append(None if None in seconds else float(sum(seconds)) / 60)
    return minutes


def run_jobs(jobs: Sequence[Job], workers: int) -> None:
    """Make the rows, `workers` jobs at a time, each with its share of the CPU's threads; rows are never lost."""
    path = table_path(TABLES[jobs[0].experiment])
    wanted = {(job.corpus, job.model.config.seed): job.model.config for job in jobs}
    for (corpus, _), config in wanted.items():
        load_films(corpus, config)  # what is built on first use is built once
    for rows in side_by_side(Job.run, jobs, workers, path.stem):
        add_rows(path, rows, KEY)


def downstream_table(experiment: str) -> pd.DataFrame:
    """Rows so far of an experiment of `TABLES`."""
    return read_table(table_path(TABLES[experiment]), KEY)


def label_curves() -> dict[tuple[str, str], pd.DataFrame]:
    """Rows of frozen towers by (measure, corpus), variants left out: what `figures_asg.figure_label_curve` draws."""
    curves = {}
    for experiment, measures in {"linear_probe": ("auc", "accuracy"), "segmentation": ("dice",)}.items():
        table = downstream_table(experiment)
        frozen = table[(table["protocol"] == FROZEN) & table["method"].isin((RANDOM, *METHODS))]
        for measure in (name for name in measures if name in table):
            known = frozen.dropna(subset=[measure])
            curves |= {(measure, corpus): rows for corpus, rows in known.groupby("corpus")}
    return curves


def probe_intervals(corpus: str) -> pd.DataFrame:
    """Every row of the frozen towers of a corpus, variants left out: AUC, its 95 % interval, and how much it is of.

    Columns `low` and `high` are over the test patients of that row, `findings` is how many the AUC is the mean of.
    """
    rows = label_curves().get(("auc", corpus), downstream_table("linear_probe").iloc[:0])
    ordered = rows.reindex(columns=["label_ratio", "method", "seed", "auc", "low", "high", "n", "findings"])
    return ordered.sort_values(["label_ratio", "method", "seed"]).set_index(["label_ratio", "method", "seed"])


def downstream_summary(experiment: str) -> pd.DataFrame:
    """`tables.over_seeds` of every measure."""
    return over_seeds(downstream_table(experiment), KEY, MEASURES)
