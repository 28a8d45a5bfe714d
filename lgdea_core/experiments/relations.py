"""What relations know after the warm-up: curves over alpha, neighbours, sharpness and start, no further training."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from tqdm.auto import tqdm

from lgdea_core.batch import TrainingData
from lgdea_core.config import GraphConfig, RunConfig, replace_fields
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.experiments.cells import RELATION_MEASURES, rounded
from lgdea_core.experiments.plans import CONTROL
from lgdea_core.experiments.tables import SECONDS_A_STEP, add_row, guessed_seconds, over_seeds, read_table, table_path
from lgdea_core.experiments.worlds import world_inputs
from lgdea_core.paths import git_commit, project_root, runs_folder
from lgdea_core.relations import GraphRelations, Relations, combine_relations, relation_quality
from lgdea_core.runs.inputs import fresh_model, hidden_truth, prepare_training
from lgdea_core.training.loop import train
from lgdea_core.training.refresh import EvidenceView, build_graphs, cross_affinity, spread_seeds, view_evidence

logger = logging.getLogger("lgdea")

KEY = ("world", "paired_ratio", "seed", "preset", "pair_steps", "relations", "alpha", "neighbours", "self_loop",
       "graph_exponent", "affinity_sharpness", "report_marginal")  # fmt: skip
"""What tells two rows apart: `relations` is the mode, or the name of a control: "random" or one of `SHUFFLED`."""
SHUFFLED = {f"{mode}, {CONTROL}": mode for mode in ("graph", "graph*affinity")}
"""Second control -> its mode: the warm model, its graphs and its affinity as they are, but every known pair joined to a
wrong report before the pairs are spread.

What it has beyond "random" comes without knowing which image belongs to which report: from the shape of the graphs,
whose hubs any walk reaches, and in graph*affinity from the affinity. What the mode has beyond it, the known pairs
brought by way of the graphs. It does not say what a model learns from shuffled pairs, for this one has learnt from the
true ones: `ablation` does.
"""
QUALITY = (*RELATION_MEASURES, "precision_at_10", "pair_recall_at_10")
STARTS = (60, 120, 360)
"""Pair steps before relations are built, beside the preset's own."""
SWEEPS: tuple[dict[str, Any], ...] = (
    {},
    *({"mode": "graph", "alpha": alpha} for alpha in (0.5, 0.8, 0.95, 0.99)),
    *({"mode": "graph", "neighbours": neighbours} for neighbours in (5, 25)),
    {"mode": "graph", "self_loop": 0.0},
    *({"mode": "affinity", "affinity_sharpness": sharpness} for sharpness in (1.0, 2.0, 3.0, 4.0)),
    {"mode": "affinity", "report_marginal": 0.0},
    *({"graph_exponent": exponent} for exponent in (0.25, 1.0)),
    *({"report_marginal": marginal} for marginal in (0.0, 0.5, 1.0)),
)
"""Graph settings tried on one warm model, each as changes to the preset's."""


@dataclass(frozen=True, kw_only=True)
class WarmModel:
    """A model after its warm-up, and the settings whose relations are to be measured on it."""

    config: RunConfig
    world: str
    settings: tuple[tuple[str, GraphConfig], ...]
    """name of the relations, and how they are made"""

    @property
    def minutes(self) -> float | None:
        """What its training should take; None where nobody can say."""
        steps = self.config.train.text_steps + self.config.train.pair_steps
        seconds = guessed_seconds(self.config.preset, SECONDS_A_STEP["lgdea"] * steps)
        return None if seconds is None else seconds / 60

    def __str__(self) -> str:
        data, steps = self.config.data, self.config.train.pair_steps
        return (
            f"{self.world}  {data.paired_ratio}  {self.config.seed}  {steps} pair steps, {len(self.settings)} settings"
        )


def missing_relations(config: RunConfig, world: str) -> list[WarmModel]:
    """The warm models of a run that some row of relations.csv still needs."""
    done = set(read_table(table_path("relations"), KEY)[list(KEY)].itertuples(index=False, name=None))
    own, models = config.train.pair_steps, []
    for start, sweeps in [(own, SWEEPS), *((start, ({},)) for start in STARTS)]:
        started = replace_fields(config, pair_steps=start)
        wanted = _settings(started.graph, sweeps, start == own)
        missing = tuple((name, graph) for name, graph in wanted if _key(started, world, name, graph) not in done)
        if missing:
            models.append(WarmModel(config=started, world=world, settings=missing))
    return models


def measure_relations(models: Sequence[WarmModel]) -> None:
    """Train the warm models and add their rows to relations.csv."""
    for model in tqdm(models, unit="model", desc="relations"):
        for row in _rows(model.config, model.world, model.settings):
            add_row(table_path("relations"), row, KEY)


def relations_summary(table: pd.DataFrame) -> pd.DataFrame:
    """`tables.over_seeds` of every quality."""
    return over_seeds(table, KEY, QUALITY)


def _settings(
    graph: GraphConfig, sweeps: Sequence[dict[str, Any]], controls: bool
) -> Iterator[tuple[str, GraphConfig]]:
    for changes in sweeps:
        changed = replace(graph, **changes)
        yield changed.mode, changed
    if controls:
        yield "random", graph
        for name, mode in SHUFFLED.items():
            yield name, replace(graph, mode=mode)


def _key(config: RunConfig, world: str, name: str, graph: GraphConfig) -> tuple[Any, ...]:
    run = (world, config.data.paired_ratio, config.seed, config.preset, config.train.pair_steps, name)
    return (*run, *(getattr(graph, field) for field in KEY[len(run) :]))


def _rows(config: RunConfig, world: str, settings: Sequence[tuple[str, GraphConfig]]) -> Iterator[dict[str, Any]]:
    inputs = world_inputs(world, config)
    evidence, _ = extract_evidence(inputs.corpus.studies, config.data.extractor, progress=False)
    model, processor = fresh_model(config, inputs)
    data = prepare_training(config, inputs, evidence, processor)
    parts = (world, config.data.paired_ratio, config.seed, config.preset, config.train.pair_steps)
    folder = runs_folder() / "experiments" / "-".join(map(str, ("relations", *parts)))
    state, _ = train(config, data, model, folder, until="pairs", progress=False)
    view, truth = view_evidence(state.teacher, data), hidden_truth(inputs, data)
    shuffled = any(name in SHUFFLED for name, _ in settings)
    wrong = prepare_training(config, inputs, evidence, processor, shuffled=True) if shuffled else None
    for name, graph in settings:
        spread = wrong if name in SHUFFLED else data
        quality = relation_quality(_relations(name, graph, view, spread, config.seed), *truth)
        commit = {"commit": git_commit(project_root())}
        yield dict(zip(KEY, _key(config, world, name, graph), strict=True)) | rounded(quality, QUALITY) | commit
    shutil.rmtree(folder)


def _relations(name: str, config: GraphConfig, view: EvidenceView, data: TrainingData, seed: int) -> Relations:
    if name == "random":
        shape = len(data.unpaired_images), len(data.unpaired_reports)
        return GraphRelations(sparse.csr_array(np.random.default_rng(seed).random(shape)))
    graph = affinity = None
    if "graph" in config.mode:
        graph = spread_seeds(build_graphs(view, config), data, config).unpaired_block()
    if "affinity" in config.mode:
        affinity = cross_affinity(view, data, config.affinity_sharpness)
    return combine_relations(config, graph, affinity)
