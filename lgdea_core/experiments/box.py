"""The model in the box: how it is trained, and what is written beside it into the package."""

from lgdea_core.config import RunConfig, replace_fields
from lgdea_core.experiments.cells import Cell, evidence_of
from lgdea_core.experiments.plans import config_of

SEED = 21
"""No table's seed and no notebook's: their films are new to it."""


def box_config() -> RunConfig:
    """`lgdea` on all pairs of a phantom of twice the films of preset demo, at 128 pixels and for twice the steps."""
    config = config_of("phantom", "demo", "lgdea", 1.0, SEED)
    return replace_fields(config, studies=4000, image_size=128, text_steps=160, pair_steps=840)


def write_box() -> list[str]:
    """Train, or go on where a killed run stopped."""
    cell = Cell(config=box_config(), variant="box")
    inputs = cell.inputs()
    trained = cell.train(inputs, evidence_of(inputs, cell.config))
    return [f"{trained.state.step} steps"]
