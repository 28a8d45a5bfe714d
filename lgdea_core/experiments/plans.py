"""Which trainings an experiment consists of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lgdea_core.config import METHODS, RunConfig, TrainConfig, replace_fields
from lgdea_core.experiments.cells import Cell

SEEDS = (1, 2, 3)
"""Seeds of the tables. Everything was chosen on others: 100 and 101; the notebooks show 0."""
PAIRED_RATIOS = (0.1, 1.0, 0.05, 0.25, 0.01)
"""In the order in which they are trained."""
SILENT = {
    "reconstruction": 0.0,
    "prototype_penalty": 0.0,
    "usage": 0.0,
    "evidence_paired": 0.0,
    "evidence_unpaired": 0.0,
}
"""Loss weights without prototypes: nothing is asked of evidence distributions."""
PAPER_TERMS = {"local": 0.0, "local_unpaired": 0.0, "lesion": 0.0, "text": 0.0, "consistency": 0.0}
"""Loss weights without our extensions: the terms that the paper names."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How an ablation differs from the method as it is, at the same number of steps."""

    changes: dict[str, Any] = field(default_factory=dict)
    """configuration fields"""
    switches: dict[str, bool] = field(default_factory=dict)
    """fields of `Cell`"""
    without_relations: bool = False
    """the steps under relations go to the known pairs"""


ABLATIONS = {
    "without unpaired images": Variant(without_relations=True),
    "without unpaired reports": Variant(switches={"known_reports": True}),
    "without prototypes": Variant(changes=SILENT | {"mode": "affinity"}),
    "whole reports": Variant(switches={"whole_reports": True}),
    "relations: graph": Variant(changes={"mode": "graph"}),
    "relations: affinity": Variant(changes={"mode": "affinity"}),
    "relations: oracle": Variant(changes={"mode": "graph"}, switches={"oracle": True}),
    "paper's terms": Variant(changes={"mode": "graph"} | PAPER_TERMS),
    "shuffled pairs": Variant(switches={"shuffled": True}),
}
"""name -> what is left out or replaced; "relations: graph" is the paper's form of the relations, `without prototypes`
compares with `relations: affinity`, and `shuffled pairs` must fail."""


def limited_pairing(
    seeds: Sequence[int] = SEEDS,
    ratios: Sequence[float] = PAIRED_RATIOS,
    methods: Sequence[str] = METHODS,
    world: str = "phantom",
    preset: str = "demo",
) -> list[Cell]:
    """Methods x paired ratios x seeds on one budget."""
    return [
        Cell(world=world, config=_config(preset, method, ratio, seed))
        for ratio in ratios
        for seed in seeds
        for method in methods
    ]


def ablation(
    seeds: Sequence[int] = SEEDS,
    ratios: Sequence[float] = (0.1,),
    variants: Sequence[str] = tuple(ABLATIONS),
    world: str = "phantom",
    preset: str = "demo",
) -> list[Cell]:
    """Variants of `lgdea`; the method as it is has its rows in the table of `limited_pairing`.

    Raises:
        ValueError: unknown variant.
    """
    unknown = set(variants) - set(ABLATIONS)
    if unknown:
        raise ValueError(f"unknown variants {sorted(unknown)}; known: {', '.join(ABLATIONS)}")
    return [_ablated(name, ratio, seed, world, preset) for ratio in ratios for seed in seeds for name in variants]


def _ablated(name: str, ratio: float, seed: int, world: str, preset: str) -> Cell:
    variant = ABLATIONS[name]
    config = replace_fields(_config(preset, "lgdea", ratio, seed), **variant.changes)
    if variant.without_relations:
        config = _pairs_only(config)
    return Cell(world=world, config=config, variant=name, **variant.switches)


def _config(preset: str, method: str, ratio: float, seed: int) -> RunConfig:
    config = RunConfig.from_preset(preset, method=method, paired_ratio=ratio, seed=seed)
    return _pairs_only(config) if ratio == 1 else config  # nothing is unpaired


def _pairs_only(config: RunConfig) -> RunConfig:
    schedule: TrainConfig = config.train
    return replace_fields(config, pair_steps=schedule.pair_steps + schedule.relation_steps, relation_steps=0)
