"""The same known pairs beside ever more unpaired images and reports, at four times the preset's steps."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lgdea_core.config import RunConfig, replace_fields
from lgdea_core.data.phantom import PhantomConfig, abundant_pools
from lgdea_core.experiments.cells import Cell
from lgdea_core.experiments.plans import SEEDS, WITHOUT_IMAGES, ablated, config_of, pairs_only
from lgdea_core.experiments.worlds import phantom_folder, phantom_of
from lgdea_core.runs.inputs import Inputs, inputs_of

UNPAIRED = (0, 1350, 5000, 20_000)
"""Unpaired images, and as many reports, beside 150 pairs: none, the phantom's own at a tenth of its pairs, and more."""
LONGER = 4
"""Times as many steps as the preset's, of every phase and between two refreshes: enough to see many images."""
SCHEDULE = ("text_steps", "pair_steps", "relation_steps", "ramp_steps", "refresh_every")


@dataclass(frozen=True, kw_only=True)
class Abundant(Cell):
    """A training on the phantom with so many unpaired images and reports; the known pairs are those of its ratio."""

    unpaired: int

    @property
    def key(self) -> dict[str, Any]:
        return super().key | {"unpaired": self.unpaired}

    @property
    def place(self) -> Hashable:
        return super().place, self.unpaired

    def prepare(self) -> None:
        self.inputs()

    def inputs(self) -> Inputs:
        """Crops and pools.

        Raises:
            ValueError: fewer unpaired images than the phantom has at this ratio, but more than none.
        """
        inputs = super().inputs()
        own = len(inputs.pools.hidden_pairs)
        if self.unpaired == own:
            return inputs
        if self.unpaired == 0:
            known, split = inputs.pools.seed_pairs["report_id"], inputs.corpus.studies["split"]
            kept = inputs.corpus.studies["study_id"].isin(known) | split.ne("train")
            corpus = inputs.corpus.subset(inputs.corpus.studies.loc[kept, "study_id"])
            return inputs_of(corpus, replace_fields(self.config, paired_ratio=1.0), progress=False)
        if self.unpaired < own:
            data = self.config.data
            raise ValueError(
                f"unpaired: a phantom of {data.studies} studies has {own} at paired ratio {data.paired_ratio:g}; "
                f"expected 0, or {own} and more, got {self.unpaired}"
            )
        further, root = self.unpaired - own, phantom_folder("phantom", self.config)
        folder = phantom_folder(f"further{further}", self.config)
        phantom = phantom_of(self.config, PhantomConfig())
        return inputs_of(abundant_pools(phantom, root, further, folder), self.config, progress=False)


def abundance(
    seeds: Sequence[int] = SEEDS, unpaired: Sequence[int] = UNPAIRED, ratio: float = 0.1, preset: str = "demo"
) -> list[Abundant]:
    """`lgdea` with and without unpaired images beside the same pairs, on one budget; all see the unpaired reports.

    Args:
        seeds: each its own phantom and weights.
        unpaired: how many images, and how many reports; 0 is the known pairs alone.
        ratio: share of the phantom's training pairs that is known.
        preset: of the configuration.

    Raises:
        ValueError: all pairs are to be known, and no image is left to be unpaired.
    """
    if ratio >= 1:
        raise ValueError(f"--ratio must be below 1, got {ratio:g}: nothing would be unpaired")
    cells = []
    for seed in seeds:
        config = longer(config_of("phantom", preset, "lgdea", ratio, seed))
        for count in unpaired:
            if count == 0:
                cells.append(Abundant(config=pairs_only(config), unpaired=0))
                continue
            cells.append(Abundant(config=config, unpaired=count))
            cell = ablated(WITHOUT_IMAGES, config, "phantom")
            cells.append(Abundant(config=cell.config, variant=cell.variant, unpaired=count))
    return cells


def longer(config: RunConfig) -> RunConfig:
    """The same training in `LONGER` times as many steps."""
    return replace(
        config, train=replace(config.train, **{name: LONGER * getattr(config.train, name) for name in SCHEDULE})
    )
