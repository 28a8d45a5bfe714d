"""What notebooks 03 and 04 take apart: kinds of relations, one step of LGDEA, two short trainings."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from lgdea_core.batch import Batch
from lgdea_core.config import GraphConfig, RunConfig, replace_fields
from lgdea_core.model import LGDEAModel
from lgdea_core.relations import (
    CrossAffinity,
    GraphRelations,
    Relations,
    combine_relations,
    relation_quality,
)
from lgdea_core.runs.artifacts import Run
from lgdea_core.runs.inputs import Inputs, fresh_model, prepare_training
from lgdea_core.runs.variants import load_warm
from lgdea_core.training.loop import train
from lgdea_core.training.refresh import refresh_relations
from lgdea_core.training.sampling import sample_batch

KINDS = ("graph", "affinity", "graph*affinity")
"""Of relations, see `GraphConfig.mode`."""


def kinds_of_relations(
    config: GraphConfig, graph: Relations, affinity: CrossAffinity, seed: int
) -> dict[str, Relations]:
    """Relations of each kind, and as their control random ones: of all pairs, or of as many as are no burden."""
    relations = {kind: combine_relations(replace(config, mode=kind), graph, affinity) for kind in KINDS}
    shape = graph.images, graph.reports
    density = min(1.0, 4e6 / max(1, np.prod(shape)))
    chance = sparse.random_array(shape, density=density, format="csr", rng=seed, dtype=np.float32)
    return relations | {"random": GraphRelations(chance)}


def quality_table(relations: Mapping[str, Relations], truth: tuple[np.ndarray, np.ndarray, np.ndarray]) -> dict:
    """`relation_quality` of each kind of relations; empty where the corpus hides no truth.

    Args:
        relations: by name.
        truth: of `hidden_truth`.
    """
    if not (truth[1].any() and truth[2].any()):
        return {}
    return {name: relation_quality(found, *truth) for name, found in relations.items()}


class Step(NamedTuple):
    """All that one step depends on."""

    model: LGDEAModel
    teacher: LGDEAModel
    batch: Batch
    config: RunConfig


def first_step(run: Run, inputs: Inputs, evidence: pd.DataFrame) -> Step:
    """The first step of LGDEA under relations: from the run's stage 1, or where it trains another method, untrained.

    Model and teacher are in evaluation mode and on the CPU, so that the step has the same terms whenever it is asked.
    """
    config = replace_fields(run.config, method="lgdea")
    if config == run.config:
        warm = load_warm(run, inputs, evidence)
        model, teacher, data = warm.state.model, warm.state.teacher, warm.data
    else:
        model, processor = fresh_model(config, inputs)
        teacher, data = copy.deepcopy(model), prepare_training(config, inputs, evidence, processor)
    model, teacher = model.to("cpu").eval(), teacher.to("cpu").eval()
    relations = refresh_relations(teacher, data, config)
    first = config.train.text_steps + config.train.pair_steps
    return Step(model, teacher, sample_batch(data, config, first, "relations", relations), config)


def train_both_ways(
    run: Run, inputs: Inputs, evidence: pd.DataFrame, steps: int, changes: Mapping[str, Any]
) -> pd.DataFrame:
    """Histories of two short trainings of LGDEA on the known pairs, from the same weights, on the same batches.

    Args:
        run: corpus, towers and seed.
        inputs: its corpus and pools.
        evidence: rows of `evidence.parquet`.
        steps: optimiser updates of each, at most those of the run.
        changes: fields of the configuration in which the second one differs.

    Returns:
        The history of both, column variant: "as it is", and what was changed.
    """
    schedule = {"text_steps": 0, "pair_steps": min(steps, run.config.train.total_steps), "relation_steps": 0}
    config, histories = replace_fields(run.config, method="lgdea", log_every=2, **schedule), {}
    name = ", ".join(f"{field} {value:g}" for field, value in changes.items())
    for variant, used in {"as it is": config, name: replace_fields(config, **changes)}.items():
        model, processor = fresh_model(used, inputs)
        data = prepare_training(used, inputs, evidence, processor)
        with TemporaryDirectory() as folder:
            _, histories[variant] = train(used, data, model, Path(folder), progress=False)
    return pd.concat(histories, names=["variant"]).reset_index("variant").reset_index(drop=True)
