"""The corpora experiments run on, by name; a world depends on the seed of its run."""

from dataclasses import replace

from lgdea_core.artifacts import project_root
from lgdea_core.config import RunConfig
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.phantom import EASY, PhantomConfig, build_phantom

WORLDS = {"phantom": PhantomConfig(), "easy": EASY}
"""phantom: what every default is; easy: that of the quick study (eight findings, clear contrast, plain wording)."""


def build_world(name: str, config: RunConfig) -> Corpus:
    """The corpus of a run, made under data/ where it is missing.

    Raises:
        ValueError: unknown name.
    """
    if name not in WORLDS:
        raise ValueError(f"unknown world {name!r}; known: {', '.join(WORLDS)}")
    data = config.data
    phantom = replace(WORLDS[name], studies=data.studies, image_size=data.image_size, seed=config.seed)
    folder = f"{name}-{data.studies}x{data.image_size}-seed{config.seed}"
    return build_phantom(phantom, project_root() / "data" / folder)
