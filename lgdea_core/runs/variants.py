"""The trainings of one run: its method, the baseline, and the controls that must fail."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from lgdea_core.batch import TrainingData
from lgdea_core.config import RunConfig, find_method, replace_fields
from lgdea_core.data.regions import shuffle_regions
from lgdea_core.model import LGDEAProcessor
from lgdea_core.paths import recover, replacing
from lgdea_core.relations import Relations
from lgdea_core.runs.artifacts import Run
from lgdea_core.runs.inputs import Inputs, fresh_model, hidden_truth, prepare_training
from lgdea_core.training.checkpoint import CHECKPOINT, TrainState
from lgdea_core.training.loop import train
from lgdea_core.training.monitors import truth_monitor

VARIANTS = ("model", "baseline", "model_shuffled", "baseline_shuffled")
"""What a run trains on one budget: its method and `clip`, and both again on shuffled pairs, which must fail."""
SHUFFLED_REGIONS = "shuffled_regions"
"""A further one, of a method with regions: within each image the region boxes change names, which must fail."""


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
    variant: str,
    *,
    until: Literal["text", "pairs", "end"] = "end",
    warm: Path | None = None,
    first_graph: Relations | None = None,
    progress: bool = True,
) -> Trained:
    """Train one of a run's models, or go on where it stopped.

    Args:
        run: configuration, and the folder that holds the checkpoints: `training/<variant>`, or of phases before the end
            `training/<variant>_warm`, so that a rerun never sees a later stage's weights.
        inputs: corpus and pools.
        evidence: rows of `evidence.parquet`.
        variant: one of `VARIANTS`, or `SHUFFLED_REGIONS`. Where the corpus knows which findings the unpaired studies
            have, the history holds the quality of every variant's relations (`monitors.TRUTH`).
        until: phase after which to stop.
        warm: artifact `warm/` of this variant, from which a training that has not begun goes on.
        first_graph: see `loop.train`.
        progress: show a bar.

    Raises:
        ValueError: no such variant.
    """
    if variant not in (*VARIANTS, SHUFFLED_REGIONS):
        raise ValueError(f"no variant {variant!r}; there are {', '.join(VARIANTS)} and {SHUFFLED_REGIONS}")
    config = replace_fields(run.config, method="clip") if variant.startswith("baseline") else run.config
    if variant == SHUFFLED_REGIONS:
        inputs = with_shuffled_regions(inputs, config.seed)
    model, processor = fresh_model(config, inputs)
    data = prepare_training(config, inputs, evidence, processor, shuffled=variant.endswith("_shuffled"))
    folder = run.folder / "training" / (variant if until == "end" else f"{variant}_warm")
    checkpoint = folder / CHECKPOINT
    recover(checkpoint)
    if warm is not None and not checkpoint.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(checkpoint) as part:
            shutil.copytree(warm / CHECKPOINT, part)
    monitor = truth_monitor(*hidden_truth(inputs, data)) if find_method(config.method).relations else None
    options = {"first_graph": first_graph, "after_refresh": monitor, "progress": progress}
    state, history = train(config, data, model, folder, until=until, **options)
    return Trained(state=state, history=history, processor=processor, data=data, config=config)


def save_warm(run: Run, trained: Trained) -> Path:
    """Write artifact `warm/`: the model after stage 1, and its checkpoint, from which stage 2 goes on.

    Args:
        run: whose `train_variant(..., "model", until="pairs")` it was.
        trained: by that.
    """
    with run.writing("warm") as folder:
        save_trained(trained, folder)
        shutil.copytree(run.folder / "training" / "model_warm" / CHECKPOINT, folder / CHECKPOINT)
    return run.path("warm")


def load_warm(run: Run, inputs: Inputs, evidence: pd.DataFrame) -> Trained:
    """Read artifact `warm/`: model, teacher and training data as they were after stage 1. Nothing is trained.

    Raises:
        FileNotFoundError: it is missing; notebook 02 writes it.
        RuntimeError: it was changed, or is of another configuration, or its training was of other data.
    """
    folder = run.checked("warm")
    model, processor = fresh_model(run.config, inputs)
    data = prepare_training(run.config, inputs, evidence, processor)
    state, history = train(run.config, data, model, folder, until="pairs", resume_only=True, progress=False)
    return Trained(state=state, history=history, processor=processor, data=data, config=run.config)


def short_asg_config(config: RunConfig, steps: int) -> RunConfig:
    """Configuration of a short training of `asg` beside a run: ASG's own of the run's preset, on all pairs.

    Args:
        config: of the run; its preset, corpus and seed count.
        steps: optimiser updates, at most the preset's.
    """
    data = {"corpus": config.data.corpus, "root": config.data.root, "paired_ratio": 1.0}
    own = RunConfig.from_preset(config.preset, method="asg", seed=config.seed, **data)
    return replace_fields(own, text_steps=0, pair_steps=min(steps, own.train.total_steps), relation_steps=0)


def with_shuffled_regions(inputs: Inputs, seed: int) -> Inputs:
    """The inputs with region boxes that changed names within each image."""
    return replace(inputs, corpus=replace(inputs.corpus, regions=shuffle_regions(inputs.corpus.regions, seed)))


def save_trained(trained: Trained, folder: Path) -> None:
    """Write model, processor, model card, `run_config.json` and hashes of the training patients into a folder."""
    model = trained.state.model
    model.save_pretrained(folder)
    if model.training_patients is not None:
        model.training_patients.save(folder)
    trained.processor.save_pretrained(folder)
    trained.config.save(folder / "run_config.json")
