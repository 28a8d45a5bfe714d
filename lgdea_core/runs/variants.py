"""The trainings of one run: its method, the baseline, and both again on shuffled pairs."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
from scipy import sparse

from lgdea_core.batch import TrainingData
from lgdea_core.config import RunConfig, find_method, replace_fields
from lgdea_core.data.regions import shuffle_regions
from lgdea_core.model import LGDEAProcessor
from lgdea_core.runs.artifacts import Run
from lgdea_core.runs.inputs import Inputs, fresh_model, hidden_truth, prepare_training
from lgdea_core.training.checkpoint import CHECKPOINT, TrainState
from lgdea_core.training.loop import train
from lgdea_core.training.monitors import truth_monitor

VARIANTS = ("model", "baseline", "model_shuffled", "baseline_shuffled")
"""What a run trains on one budget: its method and `clip`, and both again on shuffled pairs, which must fail."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training and where it stands."""

    state: TrainState
    history: pd.DataFrame
    processor: LGDEAProcessor
    data: TrainingData
    config: RunConfig


def train_variant(
    run: Run,
    inputs: Inputs,
    evidence: pd.DataFrame,
    variant: Literal["model", "baseline", "model_shuffled", "baseline_shuffled"],
    *,
    until: Literal["text", "pairs", "end"] = "end",
    first_graph: sparse.csr_array | None = None,
    progress: bool = True,
) -> Trained:
    """Train one of a run's four models, or go on where it stopped.

    Args:
        run: configuration, and the folder that holds the checkpoints: `training/<variant>_warm` of phases before the
            end, `training/<variant>` of all; the second goes on from the first.
        inputs: corpus and pools.
        evidence: rows of `evidence.parquet`.
        variant: which of `VARIANTS`; where the corpus knows which findings the unpaired studies have, the history
            holds the quality of every variant's relations (`monitors.TRUTH`).
        until: phase after which to stop.
        first_graph: see `loop.train`.
        progress: show a bar.
    """
    baseline, shuffled = variant.startswith("baseline"), variant.endswith("shuffled")
    config = replace_fields(run.config, method="clip") if baseline else run.config
    model, processor = fresh_model(config, inputs)
    data = prepare_training(config, inputs, evidence, processor, shuffled=shuffled)
    folder = run.folder / "training" / variant
    if until == "end":
        _continue_from(folder.with_name(f"{variant}_warm") / CHECKPOINT, folder / CHECKPOINT)
    else:
        folder = folder.with_name(f"{variant}_warm")  # its own, so that a rerun never sees a later stage's weights
    monitor = truth_monitor(*hidden_truth(inputs, data)) if find_method(config.method).relations else None
    options = {"first_graph": first_graph, "after_refresh": monitor, "progress": progress}
    state, history = train(config, data, model, folder, until=until, **options)
    return Trained(state=state, history=history, processor=processor, data=data, config=config)


def short_asg_config(config: RunConfig, steps: int) -> RunConfig:
    """Configuration of a short training of `asg` beside a run: ASG's own of the run's preset, on all pairs.

    Args:
        config: of the run; its preset, corpus and seed count.
        steps: optimiser updates, at most the preset's.
    """
    data = {"corpus": config.data.corpus, "root": config.data.root, "paired_ratio": 1.0}
    own = RunConfig.from_preset(config.preset, method="asg", seed=config.seed, **data)
    steps = min(steps, own.train.total_steps)
    return replace_fields(own, text_steps=0, pair_steps=steps, relation_steps=0)


def train_asg(
    run: Run, inputs: Inputs, evidence: pd.DataFrame, *, shuffled_regions: bool = False, progress: bool = True
) -> Trained:
    """Train a run of method `asg`, or go on where it stopped.

    Args:
        run: of that method; `training/asg` in its folder holds the checkpoints.
        inputs: corpus and pools.
        evidence: rows of `evidence.parquet`.
        shuffled_regions: within each film the region boxes change names, the control that must fail.
        progress: show a bar.
    """
    if shuffled_regions:
        inputs = with_shuffled_regions(inputs, run.config.seed)
    model, processor = fresh_model(run.config, inputs)
    data = prepare_training(run.config, inputs, evidence, processor)
    folder = run.folder / "training" / ("asg_shuffled" if shuffled_regions else "asg")
    state, history = train(run.config, data, model, folder, progress=progress)
    return Trained(state=state, history=history, processor=processor, data=data, config=run.config)


def with_shuffled_regions(inputs: Inputs, seed: int) -> Inputs:
    """The inputs with region boxes that changed names within each film."""
    return replace(inputs, corpus=replace(inputs.corpus, regions=shuffle_regions(inputs.corpus.regions, seed)))


def _continue_from(warm: Path, checkpoint: Path) -> None:
    started = checkpoint.exists() or checkpoint.with_name(checkpoint.name + ".old").exists()
    if warm.exists() and not started:
        part = checkpoint.with_name("copied.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(warm, part)
        part.rename(checkpoint)


def save_trained(trained: Trained, folder: Path) -> None:
    """Write model, processor, model card, `run_config.json` and hashes of the training patients into a folder."""
    model = trained.state.model
    model.save_pretrained(folder)
    if model.training_patients is not None:
        model.training_patients.save(folder)
    trained.processor.save_pretrained(folder)
    trained.config.save(folder / "run_config.json")
