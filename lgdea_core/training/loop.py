"""One training loop for every method (Algorithm 1, reconstruction), with exact resume."""

import copy
import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Literal

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast
from torch import Tensor, nn
from tqdm.auto import tqdm

from lgdea_core.batch import Batch, RelationTargets, TrainingData
from lgdea_core.config import RunConfig, find_method
from lgdea_core.inference import encode_phrases
from lgdea_core.method import Terms, total_loss
from lgdea_core.model import LGDEAModel
from lgdea_core.paths import holding
from lgdea_core.prototypes import initial_prototypes
from lgdea_core.relations import Relations
from lgdea_core.training.checkpoint import (
    CHECKPOINT,
    TrainState,
    resume,
    save_checkpoint,
    say_differences,
    training_circumstances,
    training_origin,
)
from lgdea_core.training.encoding import encoding
from lgdea_core.training.monitors import evidence_space, warn_of_collapse, warn_of_relations
from lgdea_core.training.refresh import RelationState, refresh_relations
from lgdea_core.training.sampling import sample_batch
from lgdea_core.training.schedule import (
    checkpoint_due,
    last_step,
    learning_rate_at,
    phase_at,
    placed_at,
    ramp_at,
    refresh_due,
)

logger = logging.getLogger("lgdea")

PLACED_ON = 5000
"""Most frequent phrases that the prototypes are placed on."""


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Torch's global generators seeded for a block, and afterwards as they were: the caller's numbers do not change.

    The one place that seeds them: initial weights and dropout depend on them.

    Args:
        seed: of the block.
        device: an accelerator whose generator is meant, beside the CPU's.
    """
    accelerator = torch.get_device_module(device) if device is not None and device.type != "cpu" else None
    there = accelerator.get_rng_state() if accelerator else None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if accelerator:
            accelerator.manual_seed(seed)
        try:
            yield
        finally:
            if accelerator:
                accelerator.set_rng_state(there)


def step_seed(seed: int, step: int, process: int) -> int:
    """What dropout of one step depends on, so that a resumed run drops the same."""
    return int(np.random.default_rng([seed, step, process]).integers(2**31))


class TermModule(nn.Module):
    """A model and its method's terms as one forward pass, which is what accelerate wraps and distributes."""

    def __init__(self, model: LGDEAModel, config: RunConfig, process: tuple[int, int] = (0, 1)) -> None:
        super().__init__()
        self.model, self.weights = model, config.weights
        self.how = process, config.train.encode_at_once

    def forward(self, batch: Batch, teacher: LGDEAModel) -> Terms:
        with encoding(self.model, *self.how), encoding(teacher, *self.how):
            return self.model.method.terms(self.model, batch, teacher, self.weights)


class BatchesAhead:
    """Batches of the coming steps, drawn by a thread while a step runs: the same ones as drawn when they are needed."""

    AHEAD = 2
    """Batches that wait, at most, beside the one in use."""

    def __init__(self, draw: Callable[[int, str, RelationTargets | None], Batch]) -> None:
        self.draw, self.thread = draw, ThreadPoolExecutor(1, thread_name_prefix="batches")
        self.drawn: dict[int, Future[Batch]] = {}

    def take(self, step: int, last: int, config: RunConfig, relations: RelationTargets | None) -> Batch:
        """The batch of a step; those of the next are drawn meanwhile, up to the next phase or refresh of relations."""
        phase = phase_at(step, config.method, config.train)
        for coming in range(step, min(step + self.AHEAD + 1, last)):
            other = phase_at(coming, config.method, config.train) != phase
            if coming > step and (other or (phase == "relations" and refresh_due(coming, config.train))):
                break
            if coming not in self.drawn:
                self.drawn[coming] = self.thread.submit(self.draw, coming, phase, relations)
        return self.drawn.pop(step).result()

    def __enter__(self) -> "BatchesAhead":
        return self

    def __exit__(self, *failure: object) -> None:
        self.thread.shutdown(cancel_futures=True)


def start_state(model: LGDEAModel, config: RunConfig) -> TrainState:
    """State before the first step; the teacher starts as a copy."""
    model.log_logit_scale.requires_grad_(config.loss.learned_temperature)
    published, groups = {id(weight) for weight in model.published_weights()}, []
    for old, factor in ((False, 1.0), (True, config.train.published_factor)):
        named = [(name, weight) for name, weight in model.named_parameters() if (id(weight) in published) is old]
        decayed = [weight for name, weight in named if weight.ndim >= 2 and name != "prototypes"]
        plain = [weight for _, weight in named if weight.ndim < 2] + ([] if old else [model.prototypes])
        groups.append({"params": decayed, "weight_decay": config.train.weight_decay, "factor": factor})
        groups.append({"params": plain, "weight_decay": 0.0, "factor": factor})
    groups = [group for group in groups if group["params"]]
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(groups, lr=config.train.learning_rate, fused=True)  # one pass over the weights
    return TrainState(model, teacher, optimizer, 0, [])


def train(
    config: RunConfig,
    data: TrainingData,
    model: LGDEAModel,
    folder: Path,
    *,
    until: Literal["text", "pairs", "end"] = "end",
    first_graph: Relations | None = None,
    fixed_graph: Relations | None = None,
    resume_only: bool = False,
    progress: bool = True,
    after_step: Callable[[int], None] | None = None,
    after_refresh: Callable[[Relations], Mapping[str, float]] | None = None,
) -> tuple[TrainState, pd.DataFrame]:
    """Train, or go on from the folder's checkpoint, until the end of a phase.

    A killed run loses at most `checkpoint_every` steps (`refresh_every`, if that is more); an interrupted one none, or
    those since the last refresh of relations. Both end with the same weights as one that was never stopped: batches and
    dropout depend on (seed, step) alone, and while relations are in use a checkpoint is only taken where they are about
    to be rebuilt. What is resumed under other circumstances (`checkpoint.training_circumstances`) is said in the log.

    Args:
        config: method, schedule, weights and seed.
        data: pools, evidence and known pairs.
        model: fresh weights; replaced by the checkpoint's where there is one.
        folder: where the checkpoint lives.
        until: phase after which to stop; "end" trains all steps.
        first_graph: propagated relations (unpaired block) of the teacher at the end of phase "pairs", if already there.
        fixed_graph: relations (unpaired block) to use instead of any propagation: an experiment's oracle.
        resume_only: refuse to train: the folder must hold the checkpoint of the phase's end.
        progress: show a bar.
        after_step: called with the number of steps done; an exception from it ends training like a kill.
        after_refresh: called with the new relations; the numbers it returns go into the history and nowhere else, so it
            may know the hidden truth (`monitors.truth_monitor`).

    Returns:
        The state, and the history: one row per logged step with every term by name.

    Raises:
        ValueError: no known pairs; a process would get one image a step; or relations are due and there is no unpaired
            image or report.
        RuntimeError: the loss is not finite (names the step and the terms); the folder holds another training, or
            another process trains in it; or, with `resume_only`, it does not hold the end of the phase.
    """
    _check_data(config, data)
    accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    check_batch(config, accelerator.num_processes)
    set_precision(model, config, accelerator.device)
    model.to(accelerator.device)
    state = start_state(model, config)
    origin = training_origin(config, data)
    fixed = fixed_graph is not None
    circumstances = training_circumstances(config, accelerator.num_processes, accelerator.device, fixed)
    alone = accelerator.num_processes == 1
    writes = accelerator.is_main_process and not resume_only
    process = (accelerator.process_index, accelerator.num_processes)
    drawing = BatchesAhead(lambda step, *rest: sample_batch(data, config, step, *rest, process))
    interrupt = deferred_interrupt() if alone else nullcontext([])
    with holding(folder) if writes else nullcontext(), drawing as batches, interrupt as asked:
        resume(state, folder / CHECKPOINT, origin)
        say_differences(folder / CHECKPOINT, circumstances)
        module, state.optimizer = accelerator.prepare(TermModule(model, config, process), state.optimizer)
        last = last_step(until, config.train)
        if resume_only and state.step != last:
            raise RuntimeError(f"{folder}: expected the checkpoint of step {last}, got step {state.step}; train first")
        relations = None
        bar = tqdm(total=last, initial=min(state.step, last), unit="step", desc=config.method, disable=not progress)
        while state.step < last:
            phase = phase_at(state.step, config.method, config.train)
            if phase == "relations" and (relations is None or refresh_due(state.step, config.train)):
                first = state.step == config.train.text_steps + config.train.pair_steps
                graph = first_graph if first and fixed_graph is None else fixed_graph
                relations = refresh_relations(state.teacher, data, config, graph=graph)
                warn_of_relations(relations.report_mass, relations.stats["effective_reports"], state.step)
                if after_refresh is not None:
                    relations.stats.update(after_refresh(relations.relations))
            if find_method(config.method).relations and state.step == placed_at(config.train):
                place_prototypes(state, data, config.seed, accelerator)
            batch = batches.take(state.step, last, config, relations).to(accelerator.device)
            with seeded(step_seed(config.seed, state.step, accelerator.process_index), accelerator.device):
                loss = take_step(state, module, batch, config, accelerator, relations)
            bar.update()
            if checkpoint_due(state.step, last, config, stopping=bool(asked)):
                _check_finite(accelerator, state.step, loss, {})
                if accelerator.is_main_process:
                    save_checkpoint(state, folder / CHECKPOINT, origin, circumstances)
            if asked:
                break
            if after_step is not None:
                after_step(state.step)
        bar.close()
    return state, pd.DataFrame(state.history)


@contextmanager
def deferred_interrupt() -> Iterator[list[int]]:
    """An interrupt (SIGINT) only fills the list and is raised when the block ends; a second one is raised at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt("training was interrupted; the same command goes on where it stood")


def set_precision(model: LGDEAModel, config: RunConfig, device: torch.device) -> None:
    """Let the image tower run in the run's precision, which is not saved with a model.

    A CPU without bfloat16 units emulates it, five times slower than float32: there the tower stays float32, which the
    log says.
    """
    wanted = config.train.mixed_precision == "bf16"
    if wanted and device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported():
        logger.info("this CPU has no bfloat16 units: the image tower trains in float32")
        wanted = False
    model.image_tower.autocast_dtype = torch.bfloat16 if wanted else None


def check_batch(config: RunConfig, processes: int) -> None:
    """Refuse a batch that leaves a process with one image: batch norm has no variance then, and contrast no negative.

    Raises:
        ValueError: it does.
    """
    if config.train.batch_size // processes < 2:
        raise ValueError(
            f"batch_size {config.train.batch_size} over {processes} processes: each needs at least two images a step; "
            "raise batch_size or take fewer processes"
        )


def _check_data(config: RunConfig, data: TrainingData) -> None:
    if not len(data.seed_pairs):
        raise ValueError("training needs at least one known pair, got none; raise paired_ratio or add paired studies")
    method = find_method(config.method)
    method.check_data(config, data)
    if method.evidence and not data.evidence.phrases:
        raise ValueError(f"method {config.method!r} needs evidence, but no report has any; look at evidence.parquet")
    if method.relations and config.train.relation_steps:
        for name, pool in (("image", data.unpaired_images), ("report", data.unpaired_reports)):
            if not len(pool):
                raise ValueError(
                    f"method {config.method!r} spreads relations to unpaired studies, but there is no unpaired {name}; "
                    "lower paired_ratio, add unpaired studies, or set relation_steps=0"
                )


def take_step(
    state: TrainState,
    module: nn.Module,
    batch: Batch,
    config: RunConfig,
    accelerator: Accelerator,
    relations: RelationState | None,
) -> Tensor:
    """One optimiser update and one update of the teacher; returns the loss."""
    schedule = config.train
    rate, ramp = learning_rate_at(state.step, config.method, schedule), ramp_at(state.step, schedule)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    module.train()
    terms = module(batch, state.teacher)
    if not terms:
        phase = phase_at(state.step, config.method, schedule)
        raise ValueError(
            f"step {state.step}, phase {phase!r}: no term of method {config.method!r} has a weight above 0 there, so "
            f"nothing is trained; give one a weight, or set {phase.removesuffix('s')}_steps=0"
        )
    loss = total_loss(terms, config.weights, ramp, find_method(config.method).ramped)
    accelerator.backward(loss)
    if schedule.clip_norm:
        accelerator.clip_grad_norm_(module.parameters(), schedule.clip_norm)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    share_buffers(state.model, accelerator)
    update_teacher(state.teacher, state.model, schedule.teacher_decay)
    state.step += 1
    if state.step % schedule.log_every == 0 or state.step in (1, schedule.total_steps):
        _log(state, batch, terms, loss, rate, ramp, config, relations, accelerator)
    return loss.detach()


@torch.no_grad()
def share_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """Average batch norm statistics over the processes, so that all build the same relations; gradients already are."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(accelerator.reduce(buffer, reduction="mean"))


@torch.no_grad()
def update_teacher(teacher: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average: `teacher = decay * teacher + (1 - decay) * model`, batch norm too (E)."""
    torch._foreach_lerp_(list(teacher.parameters()), list(model.parameters()), 1 - decay)
    for ours, theirs in zip(teacher.buffers(), model.buffers(), strict=True):
        ours.lerp_(theirs, 1 - decay) if ours.is_floating_point() else ours.copy_(theirs)


@torch.no_grad()
def place_prototypes(state: TrainState, data: TrainingData, seed: int, accelerator: Accelerator) -> None:
    """Start the prototypes at k-means centres of the phrases, once the text tower tells phrases apart (R).

    AdamW's moments of the random ones go with them. Several processes take the centres of the first: k-means may end
    elsewhere on another machine.
    """
    counts = np.asarray(data.evidence.report_phrases.sum(axis=0)).ravel()
    common = np.sort(np.argsort(-counts, kind="stable")[:PLACED_ON])
    phrases = encode_phrases(state.model, data, common)
    centres = initial_prototypes(phrases, len(state.model.prototypes), seed).to(state.model.prototypes.device)
    centres = broadcast(centres, from_process=0)
    state.model.prototypes.copy_(centres)
    state.teacher.prototypes.copy_(centres)
    state.optimizer.state.pop(state.model.prototypes, None)


def _log(
    state: TrainState,
    batch: Batch,
    terms: Terms,
    loss: Tensor,
    rate: float,
    ramp: float,
    config: RunConfig,
    relations: RelationState | None,
    accelerator: Accelerator,
) -> None:
    values = {name: term.item() for name, term in terms.items()}
    _check_finite(accelerator, state.step, loss, values)
    phase = phase_at(state.step - 1, config.method, config.train)
    row = {"step": state.step, "phase": phase, "learning_rate": rate, "ramp": ramp, "loss": loss.item(), **values}
    if find_method(config.method).relations:
        space = evidence_space(state.model, batch)
        row |= {name: value for name, value in space.items() if name != "reconstruction"}  # a term, where it is trained
        taught = config.weights["evidence_paired"] > 0 or config.weights["evidence_unpaired"] > 0
        if taught and state.step > placed_at(config.train):  # before, prototypes are random, and about to be replaced
            warn_of_collapse(space | row, state.model.config)
    if phase == "relations" and relations is not None:
        row |= {name: value for name, value in relations.stats.items() if isinstance(value, float | int)}
    state.history.append(row)
    logger.info("%s", json.dumps(row))


def _check_finite(accelerator: Accelerator, step: int, loss: Tensor, terms: dict[str, float]) -> None:
    """Asked where a row is logged or a checkpoint written, by all processes: each asking waits for the device.

    Raises:
        RuntimeError: in every process, where the loss of any is not finite.
    """
    finite = accelerator.reduce(torch.isfinite(loss.detach()).float(), reduction="sum").item()
    if finite < accelerator.num_processes:
        where = "" if accelerator.num_processes == 1 else f" in some process; here it is {loss.item()}"
        said = f"; terms {terms}" if terms else ""
        raise RuntimeError(f"step {step}: the loss is not finite{where}{said}; lower learning_rate")
