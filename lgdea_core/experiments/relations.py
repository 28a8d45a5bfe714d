"""What relations know after the warm-up: curves over alpha, neighbours, sharpness and start, no further training."""

import shutil
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from lgdea_core.batch import TrainingData
from lgdea_core.config import GraphConfig, replace_fields
from lgdea_core.experiments.cells import Cell, evidence_of, rounded
from lgdea_core.experiments.jobs import Job
from lgdea_core.experiments.plans import CONTROL, SEEDS, config_of
from lgdea_core.experiments.tables import SETTINGS, TABLES
from lgdea_core.paths import git_commit, project_root
from lgdea_core.relations import GraphRelations, Relations, combine_relations, graph_relations, relation_quality
from lgdea_core.runs.inputs import hidden_truth, prepare_training
from lgdea_core.training.refresh import EvidenceView, build_graphs, cross_affinity, spread_seeds, view_evidence

RANDOM = "random"
"""Control: relations drawn at random."""
SHUFFLED = {f"{mode}, {CONTROL}": mode for mode in ("graph", "graph*affinity")}
"""Second control -> its mode: the warm model, its graphs and its affinity as they are, but every known pair joined to a
wrong report before the pairs are spread.

What it has beyond "random" comes without knowing which image belongs to which report: from the shape of the graphs,
whose hubs any walk reaches, and in graph*affinity from the affinity. What the mode has beyond it, the known pairs
brought by way of the graphs. It does not say what a model learns from shuffled pairs, for this one has learnt from the
true ones: `ablation` does.
"""
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
class WarmModel(Job):
    """A model after its warm-up; every part is a way to relate on it, `relations` and `SETTINGS`."""

    cell: Cell

    @property
    def key(self) -> dict[str, Any]:
        config, own = self.cell.config, self.cell.key
        shared = {name: own[name] for name in ("world", "paired_ratio", "seed", "preset")}
        return shared | {"pair_steps": config.train.pair_steps}

    @property
    def place(self) -> Hashable:
        return self.cell.place

    def prepare(self) -> None:
        self.cell.prepare()

    def run(self) -> list[dict[str, Any]]:
        cell, inputs = self.cell, self.cell.inputs()
        evidence = evidence_of(inputs, cell.config)
        trained = cell.train(inputs, evidence, until="pairs")
        true, wrong = trained.data, None
        if any(part["relations"] in SHUFFLED for part in self.parts):
            wrong = prepare_training(cell.config, inputs, evidence, trained.processor, shuffled=True)
        view, truth = view_evidence(trained.state.teacher, true), hidden_truth(inputs, true)
        rows = []
        for part in self.parts:
            data = wrong if part["relations"] in SHUFFLED else true
            quality = relation_quality(_relate(part, cell, view, data), *truth)
            measured = {name: rounded(quality[name]) for name in TABLES["relations"].measures}
            rows.append(self.key | part | measured | {"commit": git_commit(project_root())})
        shutil.rmtree(cell.folder)
        return rows


def relations(
    seeds: Sequence[int] = SEEDS, ratios: Sequence[float] = (0.1,), world: str = "phantom", preset: str = "demo"
) -> list[WarmModel]:
    """Every setting on the preset's own warm-up, and the first of them on shorter and longer ones."""
    jobs = []
    for ratio in ratios:
        for seed in seeds:
            config = config_of(world, preset, "lgdea", ratio, seed)
            own = [replace(config.graph, **changes) for changes in SWEEPS]
            ways = [_part(graph.mode, graph) for graph in own]
            ways += [_part(name, config.graph) for name in (RANDOM, *SHUFFLED)]
            steps = config.train.pair_steps
            starts = [(steps, ways), *((start, ways[:1]) for start in STARTS if start != steps)]
            for steps, parts in starts:
                cell = Cell(world=world, config=replace_fields(config, pair_steps=steps), variant=f"{steps} warm")
                jobs.append(WarmModel(cell=cell, parts=tuple(parts)))
    return jobs


def _part(name: str, graph: GraphConfig) -> dict[str, Any]:
    return {"relations": name} | {setting: getattr(graph, setting) for setting in SETTINGS}


def _relate(part: dict[str, Any], cell: Cell, view: EvidenceView, data: TrainingData) -> Relations:
    name = part["relations"]
    if name == RANDOM:
        shape = len(data.unpaired_images), len(data.unpaired_reports)
        return GraphRelations(sparse.csr_array(np.random.default_rng(cell.config.seed).random(shape)))
    settings = {setting: part[setting] for setting in SETTINGS}
    config = replace(cell.config.graph, mode=SHUFFLED.get(name, name), **settings)
    graph = affinity = None
    if "graph" in config.mode:
        graph = graph_relations(spread_seeds(build_graphs(view, config), data, config))
    if "affinity" in config.mode:
        affinity = cross_affinity(view, data, config.affinity_sharpness)
    return combine_relations(config, graph, affinity)
