"""The page of controls ("does it look?") of models that `limited_pairing` left, of the model in the box, and of random
weights: nothing is trained here."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from lgdea_core.config import RunConfig, replace_fields
from lgdea_core.evaluation.exam import exam_of
from lgdea_core.evaluation.looks import does_it_look
from lgdea_core.experiments.cells import INTERVAL_RESAMPLES, Asked, Cell
from lgdea_core.experiments.plans import COMPARED, SEEDS, config_of, limited_pairing
from lgdea_core.experiments.worlds import build_world, world_inputs
from lgdea_core.grounding import BOX, load
from lgdea_core.inference import best_device
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.paths import git_commit, project_root
from lgdea_core.runs.inputs import Inputs, fresh_model

WORLDS = ("phantom", "openi")
RATIOS = (0.1,)
BOXED, RANDOM = "box", "random weights"
"""Models that learnt from no pair of the world: the one in the box, and `lgdea` before its first step. That one is the
floor that trained models are compared with: a fixed function of the image, which may rank patients somehow."""


@dataclass(frozen=True, kw_only=True)
class Looked(Asked):
    """The page of one model on the test patients of a world."""

    other: str = ""
    """`BOXED` or `RANDOM` in place of the cell's model: of the cell only world and seed count"""

    @property
    def config(self) -> RunConfig:
        """The cell's, in the image size of the model that is asked."""
        if self.other != BOXED:
            return self.cell.config
        return replace_fields(self.cell.config, image_size=LGDEAProcessor.from_pretrained(BOX).image_size)

    @property
    def key(self) -> dict[str, Any]:
        own = self.cell.key
        asked = {"model": self.other, "paired_ratio": 0.0} if self.other else {"model": own["method"]}
        return {name: (own | asked)[name] for name in ("world", "model", "paired_ratio", "seed", "preset")}

    @property
    def needs(self) -> str:
        return "" if self.other else super().needs

    @property
    def place(self) -> Hashable:
        return self.cell.place, self.config.data.image_size

    def prepare(self) -> None:
        build_world(self.cell.world, self.config)

    def run(self) -> list[dict[str, Any]]:
        inputs = world_inputs(self.cell.world, self.config)
        exam = exam_of(inputs, seed=self.cell.config.seed)
        page = does_it_look(self._model(inputs), exam, resamples=INTERVAL_RESAMPLES)
        page = page.drop(columns="corpus").round(4).assign(commit=git_commit(project_root()))
        return [self.key | row for row in page.to_dict("records")]

    def _model(self, inputs: Inputs) -> tuple[LGDEAModel, LGDEAProcessor]:
        if self.other == RANDOM:
            model, processor = fresh_model(self.cell.config, inputs)
            return model.eval().requires_grad_(False).to(self.device or best_device()), processor
        return load(BOX if self.other else self.cell.folder / "model", self.device)


def looks(
    seeds: Sequence[int] = SEEDS,
    ratios: Sequence[float] = RATIOS,
    methods: Sequence[str] = COMPARED,
    worlds: Sequence[str] = WORLDS,
    preset: str = "demo",
    device: str | None = None,
) -> list[Looked]:
    """The page of every model, of the model in the box and of random weights, on each world's test patients."""
    jobs = []
    for world in worlds:
        cells = limited_pairing(seeds, ratios, methods, world, preset)
        jobs += [Looked(cell=cell, device=device) for cell in cells]
        own = [Cell(world=world, config=config_of(world, preset, "lgdea", ratios[0], seed)) for seed in seeds]
        asked_once = own[:1] if world == "openi" else own  # one split for all seeds
        jobs += [Looked(cell=cell, other=BOXED, device=device) for cell in asked_once]
        jobs += [Looked(cell=cell, other=RANDOM, device=device) for cell in own]
    return jobs
