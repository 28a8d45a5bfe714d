"""What is trained when (Algorithm 1, reconstruction): phases, learning rate, ramp, refreshes and checkpoints."""

import math
from typing import Literal

from lgdea_core.config import RunConfig, TrainConfig, find_method

Phase = Literal["text", "pairs", "relations"]


def phase_at(step: int, method: str, schedule: TrainConfig) -> Phase:
    """What is trained at a step.

    Text warm-up, pairs only, then relations. A method without text terms or relations spends those steps on pairs, so
    that every method takes `total_steps` steps of `batch_size` images or reports.
    """
    if step < schedule.text_steps:
        return "text" if find_method(method).text_phase else "pairs"
    if step < schedule.text_steps + schedule.pair_steps:
        return "pairs"
    return "relations" if find_method(method).relations else "pairs"


def learning_rate_at(step: int, method: str, schedule: TrainConfig) -> float:
    """Text warm-up at its own constant rate; then a linear rise and a cosine fall to zero over the remaining steps."""
    first = schedule.text_steps if find_method(method).text_phase else 0
    if step < first:
        return schedule.text_learning_rate
    done = (step - first + 1) / max(1, schedule.total_steps - first)
    if done < schedule.warmup_share:
        return schedule.learning_rate * done / schedule.warmup_share
    fallen = (done - schedule.warmup_share) / (1 - schedule.warmup_share)
    return schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, fallen)))


def ramp_at(step: int, schedule: TrainConfig) -> float:
    """Factor on the relation terms: 0 before they start, then linearly to 1 over `ramp_steps`."""
    since = step - schedule.text_steps - schedule.pair_steps + 1
    return min(1.0, max(0.0, since / max(1, schedule.ramp_steps)))


def last_step(until: str, schedule: TrainConfig) -> int:
    """Steps done at the end of a phase."""
    pairs = schedule.text_steps + schedule.pair_steps
    return {"text": schedule.text_steps, "pairs": pairs, "end": schedule.total_steps}[until]


def placed_at(schedule: TrainConfig) -> int:
    """The step before which prototypes are placed on the phrases: half of the text warm-up is done."""
    return schedule.text_steps // 2


def refresh_due(step: int, schedule: TrainConfig) -> bool:
    """Every `refresh_every` steps from the first one with relations on."""
    return (step - schedule.text_steps - schedule.pair_steps) % schedule.refresh_every == 0


def checkpoint_due(step: int, last: int, config: RunConfig, *, stopping: bool = False) -> bool:
    """At the end, and every `checkpoint_every` steps, or at the first refresh after that.

    A training that is `stopping` takes one wherever it can go on from: always but between two refreshes.
    """
    if step == last:
        return True
    schedule = config.train
    steps = 1 if stopping else schedule.checkpoint_every
    if phase_at(step, config.method, schedule) != "relations":
        return step % steps == 0
    every = max(1, steps // schedule.refresh_every) * schedule.refresh_every
    return (step - schedule.text_steps - schedule.pair_steps) % every == 0
