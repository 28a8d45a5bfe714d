"""Linear probe and segmentation on the towers that `asg` has left: nothing is pretrained here."""

import os
import time
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from lgdea_core.config import METHODS, RunConfig, replace_fields
from lgdea_core.data.corpora import FOLDERS, load_corpus
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.images import load_images
from lgdea_core.encoders import ImageTower, image_tower_config
from lgdea_core.evaluation.bootstrap import Interval
from lgdea_core.evaluation.downstream import (
    PROBE_TASKS,
    SEGMENTATION_TASKS,
    Films,
    probe_scores,
    segmentation_scores,
)
from lgdea_core.evaluation.linear_probe import ProbeScore
from lgdea_core.evaluation.segmentation import SegmentationScore
from lgdea_core.evaluation.supervised import AUGMENTED, FROZEN, Fit
from lgdea_core.experiments.jobs import Job
from lgdea_core.experiments.plans import ASG_ABLATIONS, SEEDS, TOWERS, asg
from lgdea_core.experiments.tables import TABLES
from lgdea_core.experiments.worlds import build_world
from lgdea_core.grounding import load
from lgdea_core.inference import best_device
from lgdea_core.paths import DATA_VARIABLE, git_commit, project_root
from lgdea_core.runs.leaks import refuse_training_patients
from lgdea_core.training.loop import seeded

RANDOM = "random"
"""Name of a tower with the initial weights of its seed."""
PROTOCOLS = {"linear_probe": (FROZEN, "fine-tuned", AUGMENTED), "segmentation": (FROZEN, "tuned")}
"""experiment -> what happens to the tower; the first is the default"""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A tower and where it comes from."""

    method: str
    """`RANDOM`, or the method of its training with the name of its variant"""
    config: RunConfig
    folder: Path | None
    """of the saved model; None: random weights"""

    @property
    def origin(self) -> str:
        """What the tower learnt from: the folder of its training, or nothing."""
        return self.folder.parent.name if self.folder is not None else ""

    def tower(self, corpus: Corpus, device: str | None = None) -> ImageTower:
        """The tower, in evaluation mode.

        Args:
            corpus: whose split test it will be judged on.
            device: None takes the best there is.

        Raises:
            ValueError: the tower was trained on a patient of that split.
        """
        if self.folder is not None:
            model, _ = load(self.folder, device)
            refuse_training_patients(model, corpus.split("test"))
            return model.image_tower
        config, size = self.config.model, self.config.data.image_size
        with seeded(self.config.seed):
            tower = ImageTower(image_tower_config(config.image_tower, size), config.dim, size, config.neck_width)
        return tower.eval().to(device or best_device())


def load_films(corpus: str, config: RunConfig) -> Films:
    """The phantom of the run's seed, world "openi", or a corpus under `LGDEA_DATA` with its own split.

    Raises:
        ValueError: a real corpus, but `LGDEA_DATA` is not set.
    """
    if corpus in ("phantom", "openi"):
        loaded = build_world(corpus, replace_fields(config, corpus=corpus))
    elif root := os.environ.get(DATA_VARIABLE):
        options = PROBE_TASKS[corpus].options if corpus in PROBE_TASKS else {}
        loaded = load_corpus(corpus, Path(root) / FOLDERS[corpus], **options)
    else:
        raise ValueError(f"corpus {corpus!r} needs the folder that holds its data; set {DATA_VARIABLE}")
    cache = project_root() / "data" / "cache"
    return Films(corpus=loaded, store=load_images(loaded, config.data.image_size, cache, progress=False))


def probe_columns(score: ProbeScore) -> dict[str, Any]:
    """Macro AUC or accuracy with its 95 % interval over patients, and what it is of."""
    own = {"findings": len(score.findings), "left_out": "; ".join(score.left_out)}
    return _columns(score.metric, score.interval, own, score.fit)


def dice_columns(score: SegmentationScore) -> dict[str, Any]:
    """The variants of Dice; the interval is that of the mean over images."""
    own = {f"dice_{name}": round(getattr(score, name), 4) for name in ("batches", "positive", "empty")}
    return _columns("dice", score.image, own, score.fit)


def _columns(measure: str, interval: Interval, own: dict[str, Any], fit: Fit) -> dict[str, Any]:
    bounds = {name: round(getattr(interval, name), 4) for name in ("low", "high")}
    warning = {"warning": interval.warning} if interval.warning else {}
    learnt = {"best_epoch": fit.best_epoch + 1, "steps": fit.steps}
    return {measure: round(interval.estimate, 4)} | bounds | {"n": interval.n} | own | learnt | warning


@dataclass(frozen=True, kw_only=True)
class TowerJob(Job):
    """One tower on one corpus."""

    model: Pretrained
    corpus: str
    device: str | None = None
    """None takes the best there is"""

    @property
    def key(self) -> dict[str, Any]:
        config = self.model.config
        return {"corpus": self.corpus, "method": self.model.method, "seed": config.seed, "preset": config.preset}

    @property
    def needs(self) -> str:
        if self.model.folder is None or (self.model.folder / "config.json").is_file():
            return ""
        return f"no model in {self.model.folder}; make it with `asg` (where asg.csv has its row, remove that first)"

    @property
    def place(self) -> Hashable:
        return self.corpus, self.model.config.seed

    def prepare(self) -> None:
        load_films(self.corpus, self.model.config)

    def run(self) -> list[dict[str, Any]]:
        began = time.perf_counter()
        films = load_films(self.corpus, self.model.config)
        found = self.columns(films, self.model.tower(films.corpus, self.device))
        seconds = (time.perf_counter() - began) / len(found)
        common = {"pretrained": self.model.origin, "seconds": round(seconds, 1), "commit": git_commit(project_root())}
        return [self.key | part | columns | common for part, columns in zip(self.parts, found, strict=True)]

    @abstractmethod
    def columns(self, films: Films, tower: ImageTower) -> list[dict[str, Any]]:
        """The measures of every part."""


@dataclass(frozen=True, kw_only=True)
class Probe(TowerJob):
    """Linear probes, or fine-tuned towers; every part is a share of the labels (`label_ratio`)."""

    tasks: ClassVar = PROBE_TASKS
    """corpus -> what is learnt"""
    learn: ClassVar = staticmethod(probe_scores)
    """the score of every share"""
    shown: ClassVar = staticmethod(probe_columns)
    """the columns of a score"""
    protocol: str = FROZEN
    """one of `PROTOCOLS`"""

    @property
    def key(self) -> dict[str, Any]:
        return super().key | {"protocol": self.protocol}

    def columns(self, films: Films, tower: ImageTower) -> list[dict[str, Any]]:
        ratios, seed = [part["label_ratio"] for part in self.parts], self.model.config.seed
        scores = self.learn(films, self.tasks[self.corpus], tower, self.protocol, ratios, seed)
        return [self.shown(score) for score in scores]


class Segmentation(Probe):
    """Decoders on the tower, frozen or tuned; parts as of a probe."""

    tasks: ClassVar = SEGMENTATION_TASKS
    learn: ClassVar = staticmethod(segmentation_scores)
    shown: ClassVar = staticmethod(dice_columns)


@dataclass(frozen=True, kw_only=True)
class Draws(TowerJob):
    """Linear probes on many draws of one share of the labels; every part is a `draw`."""

    label_ratio: float

    @property
    def key(self) -> dict[str, Any]:
        return super().key | {"label_ratio": self.label_ratio}

    def columns(self, films: Films, tower: ImageTower) -> list[dict[str, Any]]:
        task, seed, draws = PROBE_TASKS[self.corpus], self.model.config.seed, [part["draw"] for part in self.parts]
        scores = probe_scores(films, task, tower, FROZEN, (self.label_ratio,), seed, max(draws) + 1)
        columns = [{"auc": round(score.interval.estimate, 4), "findings": len(score.findings)} for score in scores]
        return [columns[draw] for draw in draws]


def judged(
    kind: type[Probe],
    seeds: Sequence[int] = SEEDS,
    methods: Sequence[str] = TOWERS,
    variants: Sequence[str] = tuple(ASG_ABLATIONS),
    preset: str = "demo",
    corpora: Sequence[str] = ("phantom",),
    label_ratios: Sequence[float] | None = None,
    protocol: str = FROZEN,
    device: str | None = None,
) -> list[Probe]:
    """Every tower on every corpus at every share of the labels; None takes each task's own shares.

    Shares of a probe are one job, for they share the features of the films; decoders share nothing.
    """
    jobs = []
    for corpus in corpora:
        parts = tuple({"label_ratio": ratio} for ratio in label_ratios or kind.tasks[corpus].ratios)
        groups = [parts] if kind is Probe else [(part,) for part in parts]
        options = {"corpus": corpus, "device": device, "protocol": protocol}
        models = towers(seeds, methods, variants, preset)
        jobs += [kind(model=model, parts=group, **options) for model in models for group in groups]
    return jobs


def label_draws(
    seeds: Sequence[int] = SEEDS,
    methods: Sequence[str] = TOWERS,
    variants: Sequence[str] = tuple(ASG_ABLATIONS),
    preset: str = "demo",
    label_ratio: float = 0.01,
    draws: int = 12,
    device: str | None = None,
) -> list[Draws]:
    """Every tower on many draws of a small share of the phantom's labels: one draw is some fifteen films."""
    parts = tuple({"draw": draw} for draw in range(draws))
    return [
        Draws(model=model, corpus="phantom", device=device, label_ratio=label_ratio, parts=parts)
        for model in towers(seeds, methods, variants, preset)
    ]


def towers(seeds: Sequence[int], methods: Sequence[str], variants: Sequence[str], preset: str) -> list[Pretrained]:
    """The random tower of every seed, and the towers that `plans.asg` trains."""
    untrained, trained = {}, []
    for cell in asg(seeds, methods, variants, preset):
        config, name = cell.config, f"{cell.config.method} {cell.variant}".strip()
        untrained.setdefault(config.seed, Pretrained(method=RANDOM, config=config, folder=None))
        trained.append(Pretrained(method=name, config=config, folder=cell.folder / "model"))
    return [*untrained.values(), *trained]


def label_curves() -> dict[tuple[str, str], pd.DataFrame]:
    """Rows of frozen towers by (measure, corpus), variants left out: what `figure_label_curve` draws."""
    curves = {}
    for name, measures in {"asg_linear_probe": ("auc", "accuracy"), "segmentation": ("dice",)}.items():
        table = TABLES[name].read()
        frozen = table[(table["protocol"] == FROZEN) & table["method"].isin((RANDOM, *METHODS))]
        for measure in (column for column in measures if column in table):
            known = frozen.dropna(subset=[measure])
            curves |= {(measure, corpus): rows for corpus, rows in known.groupby("corpus")}
    return curves


def probe_intervals(corpus: str) -> pd.DataFrame:
    """Every row of the frozen towers of a corpus, variants left out: AUC, its 95 % interval, and how much it is of.

    Columns `low` and `high` are over the test patients of that row, `findings` is how many the AUC is the mean of.
    """
    rows = label_curves().get(("auc", corpus), TABLES["asg_linear_probe"].read().iloc[:0])
    ordered = rows.reindex(columns=["label_ratio", "method", "seed", "auc", "low", "high", "n", "findings"])
    return ordered.sort_values(["label_ratio", "method", "seed"]).set_index(["label_ratio", "method", "seed"])
