"""Which trainings an experiment consists of."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lgdea_core.config import RunConfig, TrainConfig, replace_fields
from lgdea_core.experiments.cells import Cell
from lgdea_core.experiments.worlds import REAL, world_of
from lgdea_core.methods.lgdea import WITHOUT_EXTENSIONS

SEEDS = (1, 2, 3)
"""Seeds of the tables. Everything was chosen on others: 100 and 101; the notebooks show 0."""
COMPARED = ("clip", "gloria", "lgdea")
"""Methods of the pairing curve, of its controls and of real films; any other can be asked for by name."""
CONTROL = "shuffled pairs"
"""The variant that must fail, and the only one that every method has."""
WITHOUT_IMAGES = "without unpaired images"
PAIRS_CONTROL = f"{CONTROL}, {WITHOUT_IMAGES}"
"""The same of `lgdea` on the shuffled pairs alone: what `CONTROL` has beyond it came by the relations."""
PHRASES = "phrases and patches alone"
"""A local baseline on evidence phrases: contrast of pairs and local loss; no prototypes, text phase or relations.

It sees no unpaired image. Phrases of unpaired reports are asked of paired films, as in every batch of `lgdea`
(`sampling.sample_batch`); `PAIRED_PHRASES` has none."""
PAIRED_PHRASES = f"{PHRASES}, known reports"
PHRASES_CONTROL = f"{CONTROL}, {PHRASES}"
CONTROLS = (CONTROL, PAIRS_CONTROL, PHRASES_CONTROL)
PRETRAINED = "pretrained text"
"""A text tower that has read general English in place of the small one. Only by name: its weights must be at hand."""
LOCKED = f"{PRETRAINED}, locked"
"""The same with its own weights left as they are (locked-text tuning); the heads on it are trained."""
PAPER = "paper's terms"
"""The terms that the paper names, alone. They hold no contrast of texts, so there is no text phase either: in it
reconstruction and usage alone would draw phrases to one point."""
PAPER_PRETRAINED = f"{PAPER}, {PRETRAINED}"
BY_NAME = (PRETRAINED, LOCKED, PAPER_PRETRAINED)
"""Variants that are trained only when they are asked for."""
SILENT = {
    "reconstruction": 0.0,
    "prototype_penalty": 0.0,
    "usage": 0.0,
    "evidence_paired": 0.0,
    "evidence_unpaired": 0.0,
}
"""Loss weights without prototypes: nothing is asked of evidence distributions."""
MATCHED_SHARPNESS = 3.0
"""Sharpness at which the affinity alone spreads over as many reports as graph*affinity at its defaults.

By `effective_reports` on seeds 100 and 101 at a tenth of the pairs, preset demo, of 1350 reports: 376 and 391 against
387 and 435 after the pair steps, 334 and 304 against 319 and 317 at the end. A table's column
relation_effective_reports says how well it fits."""

HINTS = (0.2, 0.28, 0.35)
"""Exponents `h` of the variants "relations: hint h", the dose-response: the affinity as it is, but each image's own
report counts `(1 + reports / relations.FLOOR) ** h` times. 0 is "relations: affinity", infinity "relations: oracle"."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How an ablation differs from the method as it is, at the same number of steps."""

    changes: dict[str, Any] = field(default_factory=dict)
    """configuration fields"""
    switches: dict[str, bool] = field(default_factory=dict)
    """fields of `Cell`"""
    without_relations: bool = False
    """the steps under relations go to the known pairs"""
    without_text_phase: bool = False
    """so do the steps of the text warm-up"""


_TWO_TERMS = Variant(changes=SILENT | {"lesion": 0.0, "text": 0.0}, without_relations=True, without_text_phase=True)
_PAPER = Variant(changes={"mode": "graph"} | WITHOUT_EXTENSIONS, without_text_phase=True)
_MINILM = {"text_tower": "sentence-transformers/all-MiniLM-L6-v2"}
_PRETRAINED = Variant(changes=_MINILM | {"published_factor": 0.02})

ABLATIONS = {
    WITHOUT_IMAGES: Variant(without_relations=True),
    "without unpaired reports": Variant(switches={"known_reports": True}),
    "without prototypes": Variant(changes=SILENT | {"mode": "affinity"}),
    "whole reports": Variant(changes={"mode": "graph"}, switches={"whole_reports": True}),
    "relations: graph": Variant(changes={"mode": "graph"}),
    "relations: affinity": Variant(changes={"mode": "affinity"}),
    "relations: affinity, sharpness matched": Variant(
        changes={"mode": "affinity", "affinity_sharpness": MATCHED_SHARPNESS}
    ),
    "relations: oracle": Variant(changes={"mode": "graph"}, switches={"oracle": True}),
    **{
        f"relations: hint {exponent:g}": Variant(
            changes={"mode": "graph*affinity", "graph_exponent": exponent}, switches={"oracle": True}
        )
        for exponent in HINTS
    },
    PAPER: _PAPER,
    PAPER_PRETRAINED: replace(_PAPER, changes=_PAPER.changes | _PRETRAINED.changes),
    PHRASES: _TWO_TERMS,
    PAIRED_PHRASES: replace(_TWO_TERMS, switches={"known_reports": True}),
    "without local losses": Variant(changes={"mode": "graph", "local": 0.0, "local_unpaired": 0.0}),
    "without lesion contrast": Variant(changes={"lesion": 0.0}),
    "without text phase": Variant(changes={"text": 0.0}, without_text_phase=True),
    "without consistency": Variant(changes={"consistency": 0.0}),
    "without same observation": Variant(changes={"same_observation": 0.0}),
    PRETRAINED: _PRETRAINED,
    LOCKED: Variant(changes=_MINILM | {"tuning": "locked text"}),
    CONTROL: Variant(switches={"shuffled": True}),
    PAIRS_CONTROL: Variant(switches={"shuffled": True}, without_relations=True),
    PHRASES_CONTROL: replace(_TWO_TERMS, switches={"shuffled": True}),
}
"""name -> what is left out or replaced; `CONTROLS` must fail.

"relations: graph" is the paper's form of the relations. Two others have it and compare with it: "whole reports", as the
affinity would ask every report of every image, and "without local losses", as it would read the local head that nothing
trains there but "consistency", on itself; maps are then the global head's. "without prototypes" compares with
"relations: affinity". "without text phase" places the prototypes before its first step, when the text tower has
learnt nothing. Where `gloria` contrasts reports by their sentences, `PHRASES` asks every phrase of a batch of every
paired film, and those whose report makes the phrase's statement are its positives."""

DOSES = ("relations: affinity", *(f"relations: hint {exponent:g}" for exponent in HINTS), "relations: oracle")
"""Variants by the quality of their relations, worst first."""

TOWERS = ("clip", "asg", "lgdea", "lgdea+asg")
"""Methods of the downstream tasks."""
SHUFFLED_REGIONS = "shuffled regions"
ASG_ABLATIONS = {
    "ita + arsa": {"irl": 0.0, "erl": 0.0},
    "ita + irl": {"arsa": 0.0, "erl": 0.0},
    "ita + irl + erl": {"arsa": 0.0},
    SHUFFLED_REGIONS: {},
}
"""The rows of ASG's ablation by the terms that are left; `ita` (its IRA) alone is what `clip` trains. The last is the
control that must fail wherever regions matter: all terms, on boxes that changed names within each film."""


def limited_pairing(
    seeds: Sequence[int] = SEEDS,
    ratios: Sequence[float] | None = None,
    methods: Sequence[str] = COMPARED,
    world: str = "phantom",
    preset: str = "demo",
) -> list[Cell]:
    """Methods x paired ratios x seeds on one budget; None takes the ratios of the world."""
    return [
        Cell(world=world, config=config_of(world, preset, method, ratio, seed))
        for ratio in ratios or world_of(world).ratios
        for seed in seeds
        for method in methods
    ]


def ablation(
    seeds: Sequence[int] = SEEDS,
    ratios: Sequence[float] = (0.1,),
    variants: Sequence[str] = tuple(name for name in ABLATIONS if name not in BY_NAME),
    methods: Sequence[str] = COMPARED,
    world: str = "phantom",
    preset: str = "demo",
) -> list[Cell]:
    """Variants of `lgdea`, and `CONTROL` of every method; the methods as they are stand in `limited_pairing`.

    Args:
        seeds: each its own phantom and weights.
        ratios: paired ratios.
        variants: keys of `ABLATIONS`.
        methods: whose control is trained, where `CONTROL` is among the variants.
        world: one of `worlds.WORLDS`.
        preset: of the configuration.

    Raises:
        ValueError: unknown variant.
    """
    unknown = set(variants) - set(ABLATIONS)
    if unknown:
        raise ValueError(f"unknown variants {sorted(unknown)}; known: {', '.join(ABLATIONS)}")
    return [
        ablated(name, config_of(world, preset, method, ratio, seed), world)
        for ratio in ratios
        for seed in seeds
        for name in variants
        for method in (methods if name == CONTROL else ("lgdea",))
    ]


def asg(
    seeds: Sequence[int] = SEEDS,
    methods: Sequence[str] = TOWERS,
    variants: Sequence[str] = tuple(ASG_ABLATIONS),
    preset: str = "demo",
) -> list[Cell]:
    """Towers for the downstream tasks, trained on the phantom with all its pairs: methods, and variants of `asg`."""
    cells = []
    for seed in seeds:
        configs = {name: config_of("phantom", preset, name, 1.0, seed) for name in (*methods, "asg")}
        cells += [Cell(config=configs[name]) for name in methods]
        for name in variants:
            config = replace_fields(configs["asg"], **ASG_ABLATIONS[name])
            cells.append(Cell(config=config, variant=name, shuffled_regions=name == SHUFFLED_REGIONS))
    return [replace(cell, regions=True) for cell in cells]


def real(
    seeds: Sequence[int] = SEEDS,
    worlds: Sequence[str] = REAL,
    methods: Sequence[str] = COMPARED,
    preset: str = "demo",
) -> list[Cell]:
    """Every method on real films, and its control."""
    cells = []
    for world, seed in itertools.product(worlds, seeds):
        options = {"methods": methods, "world": world, "preset": preset}
        cells += limited_pairing((seed,), **options)
        cells += ablation((seed,), world_of(world).ratios, (CONTROL,), **options)
    return cells


def ablated(name: str, config: RunConfig, world: str) -> Cell:
    """The training of a variant; `name` is a key of `ABLATIONS`."""
    variant = ABLATIONS[name]
    config = replace_fields(config, **variant.changes)
    if variant.without_relations:
        config = pairs_only(config)
    if variant.without_text_phase:
        config = replace_fields(config, text_steps=0, pair_steps=config.train.text_steps + config.train.pair_steps)
    return Cell(world=world, config=config, variant=name, **variant.switches)


def config_of(world: str, preset: str, method: str, ratio: float, seed: int) -> RunConfig:
    """Configuration of a method as it is in a world; where nothing is unpaired, all steps are on pairs.

    Raises:
        ValueError: unknown world, or a ratio that it has not.
    """
    place = world_of(world)
    if world == "mismatched" and ratio == 1:
        raise ValueError(f"world {world!r} differs from the phantom in its unpaired reports: take ratios below 1")
    config = RunConfig.from_preset(preset, method=method, corpus=place.corpus, paired_ratio=ratio, seed=seed)
    return config if ratio < 1 or place.own_pools else pairs_only(config)  # else nothing is unpaired


def pairs_only(config: RunConfig) -> RunConfig:
    """The same number of steps, those under relations on the known pairs."""
    schedule: TrainConfig = config.train
    return replace_fields(config, pair_steps=schedule.pair_steps + schedule.relation_steps, relation_steps=0)
