"""What relations know after the warm-up: curves over alpha, neighbours, sharpness and start, no further training."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse
from tqdm.auto import tqdm

from lgdea_core.artifacts import git_commit, project_root, runs_folder
from lgdea_core.config import GraphConfig, RunConfig, replace_fields
from lgdea_core.data.batches import TrainingData
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.experiments.cells import RELATION_MEASURES
from lgdea_core.experiments.tables import add_row, read_table, table_path
from lgdea_core.experiments.worlds import build_world
from lgdea_core.refresh import EvidenceView, build_graphs, cross_affinity, spread_seeds, view_evidence
from lgdea_core.relations import GraphRelations, Relations, combine_relations, relation_quality
from lgdea_core.stages import fresh_model, hidden_truth, inputs_of, prepare_training
from lgdea_core.training import train

logger = logging.getLogger("lgdea")

KEY = ("world", "paired_ratio", "seed", "preset", "pair_steps", "relations", "alpha", "neighbours", "self_loop",
       "graph_exponent", "affinity_sharpness", "sinkhorn_steps")  # fmt: skip
"""What tells two rows apart: `relations` is the mode, or "random" for the control."""
QUALITY = (*RELATION_MEASURES, "precision_at_10", "pair_recall_at_10", "effective_reports")
STARTS = (60, 120, 360)
"""Pair steps before relations are built, beside the preset's own."""
SWEEPS: tuple[dict[str, Any], ...] = (
    {},
    *({"mode": "graph", "alpha": alpha} for alpha in (0.5, 0.8, 0.95, 0.99)),
    *({"mode": "graph", "neighbours": neighbours} for neighbours in (5, 25)),
    {"mode": "graph", "self_loop": 0.0},
    *({"mode": "affinity", "affinity_sharpness": sharpness} for sharpness in (1.0, 2.0, 3.0, 4.0)),
    {"mode": "affinity", "sinkhorn_steps": 20},
    *({"graph_exponent": exponent} for exponent in (0.25, 1.0)),
    {"sinkhorn_steps": 20},
)
"""Graph settings tried on one warm model, each as changes to the preset's."""


def measure_relations(config: RunConfig, world: str) -> None:
    """Add a row for every setting to relations.csv; rows that are there are not made again."""
    path = table_path("relations")
    own = config.train.pair_steps
    plans = [(own, SWEEPS), *((start, ({},)) for start in STARTS)]
    for start, sweeps in tqdm(plans, unit="start", desc=f"relations, seed {config.seed}"):
        started = replace_fields(config, pair_steps=start)
        done = set(read_table(path, KEY)[list(KEY)].itertuples(index=False, name=None))
        wanted = _settings(started.graph, sweeps, start == own)
        missing = [(name, graph) for name, graph in wanted if _key(started, world, name, graph) not in done]
        for row in _rows(started, world, missing) if missing else ():
            add_row(path, row, KEY)


def _settings(graph: GraphConfig, sweeps: Sequence[dict[str, Any]], control: bool) -> Iterator[tuple[str, GraphConfig]]:
    for changes in sweeps:
        changed = replace(graph, **changes)
        yield changed.mode, changed
    if control:
        yield "random", graph


def _key(config: RunConfig, world: str, name: str, graph: GraphConfig) -> tuple[Any, ...]:
    run = (world, config.data.paired_ratio, config.seed, config.preset, config.train.pair_steps, name)
    return (*run, *(getattr(graph, field) for field in KEY[len(run) :]))


def _rows(config: RunConfig, world: str, settings: Sequence[tuple[str, GraphConfig]]) -> Iterator[dict[str, Any]]:
    inputs = inputs_of(build_world(world, config), config, progress=False)
    evidence, _ = extract_evidence(inputs.corpus.studies, config.data.extractor, progress=False)
    model, processor = fresh_model(config, inputs)
    data = prepare_training(config, inputs, evidence, processor)
    folder = runs_folder() / "experiments" / f"relations-{world}-{config.seed}-{config.train.pair_steps}"
    state, _ = train(config, data, model, folder, until="pairs", progress=False)
    view, truth = view_evidence(state.teacher, data), hidden_truth(inputs, data)
    for name, graph in settings:
        quality = relation_quality(_relations(name, graph, view, data, config.seed), *truth)
        measured = {measure: round(quality[measure], 4) for measure in QUALITY}
        commit = {"commit": git_commit(project_root())}
        yield dict(zip(KEY, _key(config, world, name, graph), strict=True)) | measured | commit
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
