"""The corpora experiments run on, by name, and what their films and reports are: every row says it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from lgdea_core.config import RunConfig, replace_fields
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import combine, split_by_patient, stable_hash
from lgdea_core.data.phantom import EASY, SHIFTED_PREVALENCE, PhantomConfig, build_phantom, mismatched_pools
from lgdea_core.paths import project_root
from lgdea_core.runs.inputs import Inputs, inputs_of, load_corpus_of

PAIRED_RATIOS = (0.1, 1.0, 0.05, 0.25, 0.01)
"""In the order in which they are trained."""
OPENI_SPLIT = Path(__file__).parent / "openi_split.csv"
"""Study and split of world "openi", by patient: one for all seeds, so that rows differ by their training alone. Made by
`openi_split`."""
OPENI_FRACTIONS, OPENI_SEED = (0.5, 0.1, 0.4), 28
"""Shares of train, val and test, and the lowest seed at which eight findings are positive in ten or more test patients
with a frontal image. Only labels were counted; no model was asked."""
UNREPORTED = 0.2
"""Share of findings that the unpaired reports of world "mismatched" leave out."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A corpus for experiments, made anew for the seed of each run."""

    build: Callable[[RunConfig], Corpus]
    films: str
    """what they are, in the words of the tables"""
    reports: str
    """likewise"""
    corpus: str = "phantom"
    """`DataConfig.corpus` of its runs"""
    ratios: tuple[float, ...] = PAIRED_RATIOS
    """paired ratios of its curve"""
    own_pools: bool = False
    """unpaired images and reports come from elsewhere than the pairs: all pairs of the corpus are known"""


def build_world(name: str, config: RunConfig) -> Corpus:
    """The corpus of a run, made under data/ where it is missing.

    Raises:
        ValueError: unknown name, or a world of real films without LGDEA_DATA.
    """
    return world_of(name).build(config)


def world_of(name: str) -> World:
    """A world by name.

    Raises:
        ValueError: unknown name.
    """
    if name not in WORLDS:
        raise ValueError(f"unknown world {name!r}; known: {', '.join(WORLDS)}")
    return WORLDS[name]


def world_inputs(name: str, config: RunConfig) -> Inputs:
    """Crops and pools of a run in a world."""
    known = replace_fields(config, paired_ratio=1.0) if world_of(name).own_pools else config
    return inputs_of(build_world(name, config), known, progress=False)


def phantom_of(config: RunConfig, phantom: PhantomConfig) -> PhantomConfig:
    """A phantom in the size, number and seed of a run."""
    return replace(phantom, studies=config.data.studies, image_size=config.data.image_size, seed=config.seed)


def phantom_folder(name: str, config: RunConfig) -> Path:
    """Where a phantom lies in the size, number and seed of a run."""
    return project_root() / "data" / f"{name}-{config.data.studies}x{config.data.image_size}-seed{config.seed}"


def _phantom(name: str, phantom: PhantomConfig, config: RunConfig) -> Corpus:
    return build_phantom(phantom_of(config, phantom), phantom_folder(name, config))


def _mismatched(config: RunConfig) -> Corpus:
    """Pairs and images of world "phantom", from its very folder; the reports are not written to disk."""
    images = phantom_of(config, PhantomConfig())
    reports = replace(images, prevalence=SHIFTED_PREVALENCE, unreported_ratio=UNREPORTED)
    return mismatched_pools(images, reports, phantom_folder("phantom", config), config.data.paired_ratio)


def _named(config: RunConfig) -> Corpus:
    return load_corpus_of(config.data, config.seed)


def openi_split(studies: pd.DataFrame) -> pd.DataFrame:
    """The split of world "openi": columns study_id, split.

    Args:
        studies: of corpus "openi".
    """
    split = split_by_patient(studies, OPENI_FRACTIONS, OPENI_SEED)
    return split[["study_id", "split"]].sort_values("study_id", ignore_index=True)


def _openi(config: RunConfig) -> Corpus:
    """The studies of the committed split, and no others.

    Raises:
        ValueError: one of them is missing, and rows would not compare.
    """
    corpus = load_corpus_of(config.data, config.seed)
    split = pd.read_csv(OPENI_SPLIT, dtype=str).set_index("study_id")["split"]
    missing = set(split.index) - set(corpus.studies["study_id"])
    if missing:
        raise ValueError(
            f"{OPENI_SPLIT.name}: {len(missing)} of its {len(split)} studies, {min(missing)!r} first, are not in "
            f"corpus 'openi' at {corpus.root}; fetch the reports again"
        )
    corpus = corpus.subset(split.index)
    return replace(corpus, studies=corpus.studies.assign(split=corpus.studies["study_id"].map(split)))


def _openi_and_nih(config: RunConfig) -> Corpus:
    """Pairs of one half of Open-i's training studies, reports alone of the other half, and NIH's training images.

    No unpaired image has its report among the unpaired ones: what separate archives are like.

    Raises:
        ValueError: more than half of the pairs are asked for.
    """
    ratio = config.data.paired_ratio
    if ratio > 0.5:
        raise ValueError("world 'openi+nih' has its unpaired reports from half of the studies: take ratios up to 0.5")
    whole = _openi(replace_fields(config, corpus="openi"))
    train = sorted(whole.split("train").studies["study_id"], key=lambda name: stable_hash(config.seed, f"half:{name}"))
    held_out = whole.studies.loc[whole.studies["split"] != "train", "study_id"]
    reports = replace(whole.subset(train[len(train) // 2 :]), name="openi_reports")
    images = load_corpus_of(replace_fields(config, corpus="nih").data, config.seed)
    return combine(pairs=whole.subset([*train[: round(ratio * len(train))], *held_out]), images=images, reports=reports)


WORLDS = {
    "phantom": World(build=partial(_phantom, "phantom", PhantomConfig()), films="generated", reports="generated"),
    "easy": World(build=partial(_phantom, "easy", EASY), films="generated", reports="generated"),
    "mismatched": World(
        build=_mismatched,
        films="generated",
        reports="generated; unpaired ones of other prevalence, a fifth of their findings unreported",
        ratios=tuple(ratio for ratio in PAIRED_RATIOS if ratio < 1),
        own_pools=True,
    ),
    "painted": World(
        build=_named, films="lesions painted into real normal films", reports="generated", corpus="painted_nih"
    ),
    "openi": World(build=_openi, films="real", reports="real", corpus="openi"),
    "openi+nih": World(
        build=_openi_and_nih,
        films="real",
        reports="real; unpaired images and reports of two hospitals",
        corpus="openi+nih",
        ratios=(0.1, 0.05),
        own_pools=True,
    ),
    "covid_chestxray+nih+openi": World(
        build=_named,
        films="real",
        reports="real; of the pairs clinical notes",
        corpus="covid_chestxray+nih+openi",
        ratios=(1.0,),
        own_pools=True,
    ),
    "nih": World(build=_named, films="real", reports="sentences written from labels", corpus="nih", ratios=(0.25,)),
}
"""phantom: what every default is; easy: that of the quick study (eight findings, clear contrast, plain wording);
mismatched: the phantom with unpaired reports from another clinic; painted: phantom lesions in real anatomy; openi: real
pairs, on one split; openi+nih: its pairs and reports beside NIH's images; the others are corpora as `DataConfig.corpus`
names them, of real films."""
GENERATED = ("phantom", "easy", "mismatched", "painted")
"""Worlds whose truth is known."""
REAL = ("openi", "openi+nih", "covid_chestxray+nih+openi", "nih")
