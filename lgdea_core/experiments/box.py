"""The model in the box: how it is trained and measured, and what is written into the package beside its weights."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lgdea_core.config import RunConfig, replace_fields
from lgdea_core.evaluation.harness import evaluate
from lgdea_core.experiments.cells import INTERVAL_RESAMPLES, Cell, evidence_of, headline_measures
from lgdea_core.experiments.hospitals import HOSPITALS, WORLD, hospital_inputs
from lgdea_core.experiments.plans import config_of
from lgdea_core.grounding import BOX, load
from lgdea_core.model import LGDEAModel
from lgdea_core.paths import DATA_VARIABLE, checksum, project_root, read_json, replacing, write_text
from lgdea_core.runs.inputs import Inputs
from lgdea_core.runs.variants import save_trained
from lgdea_core.training.checkpoint import CHECKPOINT, CIRCUMSTANCES_FILE
from lgdea_core.vocabulary import PHANTOM_FINDINGS

SEED = 21
"""No table's seed and no notebook's: their films are new to it."""
COMMAND = "python -m lgdea_core.experiments box"
PROVENANCE_FILE = "provenance.json"
MEASURED = {
    "auc": ("zero-shot", "auc"),
    "cnr": ("grounding", "cnr_signed"),
    "cnr_swapped": ("grounding", "cnr_signed_swapped"),
    "pointing": ("grounding", "pointing"),
    "pointing_swapped": ("grounding", "pointing_swapped"),
}
"""Column of the card -> (task, metric) of the harness."""
CARD = """---
library_name: lgdea
license: mit
tags:
- chest-x-ray
- vision-language
- not-for-clinical-use
---

# The model in the box

**It has seen no patient.** Every image and every report that it learnt from was made up by a program, the phantom of
this package. **Not for clinical use:** nothing that it draws or scores is a diagnosis.

It is a small model of method `{method}`: {weights} weights in float32, images of {size} by {size} pixels, a joint space
of {dim} dimensions. It was trained for {steps} steps on {pairs} made-up pairs of image and report. Every pair was
known, so it says nothing about learning from few pairs.

## What it can and what it cannot do

- It shows within seconds, and without a training, what this package does: a map of a phrase over an image.
- It finds made-up findings in made-up images: {findings}.
- It is no tool for real radiographs. The rows of real images below say what came out there. A map of a patient's image
  may point at a place, and does so for any image and any phrase; that it does means nothing.
- It reads the words of the phantom's reports. It was never taught any other word, abbreviation or language.
- It has seen frontal views of a chest, and no other view or part of the body.

## What was measured

{table}

Means over findings, with 95 % intervals over patients. Chance is 0.5 for AUC and 0 for CNR. *Another's image* is the
control: the map of the same phrase on another patient's image. What is not above it was not read from the image. The
phantom's row is on its test split, which has the same kinds of images and reports as the training split.

## What made it

`{command}` trains it, measures it and writes this folder, this card with its numbers included. `{provenance}` names the
commit and the packages, and has the hashes of the training data and of the files beside it. `run_config.json` has every
setting. `training_patients.json` has hashes of the phantom's training patients, so that no evaluation asks about them.
"""


def box_config() -> RunConfig:
    """`lgdea` on all pairs of a phantom of twice the films of preset demo, at 128 pixels and for twice the steps."""
    config = config_of("phantom", "demo", "lgdea", 1.0, SEED)
    return replace_fields(config, studies=4000, image_size=128, text_steps=160, pair_steps=840)


def write_box() -> list[str]:
    """Train the model in the box, or go on where a killed run stopped, measure it and write its folder.

    Real images are measured where the environment names them. The checkpoint stays: a second call trains nothing.

    Returns:
        What to say of it.
    """
    cell = Cell(config=box_config(), variant="box")
    inputs = cell.inputs()
    trained = cell.train(inputs, evidence_of(inputs, cell.config))
    target = project_root() / "lgdea_core" / BOX.name
    target.parent.mkdir(exist_ok=True)
    with replacing(target) as folder:
        folder.mkdir()
        save_trained(trained, folder)
        rows = measure(folder, inputs, cell.config)
        write_text(folder / "README.md", card(trained.state.model, cell.config, len(trained.data.seed_pairs), rows))
        origin = provenance(folder, cell.folder / "training" / CHECKPOINT)
        write_text(folder / PROVENANCE_FILE, json.dumps(origin, indent=2) + "\n")
    return [table_of(rows), f"{target}: {sum(path.stat().st_size for path in target.iterdir()) / 1e6:.1f} MB"]


def measure(folder: Path, inputs: Inputs, config: RunConfig) -> dict[str, dict[str, Any]]:
    """What is measured of a saved model, by the images it is asked about; none where a corpus is not at hand.

    Args:
        folder: of the model.
        inputs: the phantom's, with its test split.
        config: of its training.
    """
    model, processor = load(folder)
    options = {"resamples": INTERVAL_RESAMPLES, "progress": False}
    rows = {"phantom, test split": headline_measures(evaluate(model, processor, inputs, **options), True, MEASURED)}
    for corpus in HOSPITALS:
        if os.environ.get(DATA_VARIABLE):
            films = hospital_inputs(corpus, WORLD, config)
            found = headline_measures(evaluate(model, processor, films, **options), True, MEASURED)
        else:
            found = {}
        rows[f"real: {corpus}"] = found
    return rows


def table_of(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The card's table, in Markdown; a measure whose truth a corpus lacks has a dash."""
    titles = [
        "images",
        "number",
        "zero-shot AUC",
        "CNR",
        "CNR, another's image",
        "pointing",
        "pointing, another's image",
    ]
    lines = [titles, ["---"] * len(titles)]
    for name, found in rows.items():
        shown = [_interval(found, column) if found else "not measured" for column in MEASURED]
        lines.append([name, str(found.get("auc_n", "-")), *shown])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interval(found: Mapping[str, Any], column: str) -> str:
    if column not in found:
        return "-"
    return f"{found[column]:.2f} ({found[f'{column}_low']:.2f} to {found[f'{column}_high']:.2f})"


def card(model: LGDEAModel, config: RunConfig, pairs: int, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The model card.

    Args:
        model: as trained.
        config: of the training.
        pairs: of image and report that were known.
        rows: of `measure`.
    """
    return CARD.format(
        method=config.method,
        weights=f"{sum(weight.numel() for weight in model.parameters()):,}",
        size=config.data.image_size,
        dim=config.model.dim,
        steps=f"{config.train.total_steps:,}",
        pairs=f"{pairs:,}",
        findings=", ".join(PHANTOM_FINDINGS),
        table=table_of(rows),
        command=COMMAND,
        provenance=PROVENANCE_FILE,
    )


def provenance(folder: Path, checkpoint: Path) -> dict[str, Any]:
    """What made the files of a folder, and their sha256.

    Args:
        folder: of the model.
        checkpoint: of its training, which knows code, packages and data.
    """
    return {
        "command": COMMAND,
        "training": read_json(checkpoint / CIRCUMSTANCES_FILE),
        "data": read_json(checkpoint / "origin.json")["data"],
        "files": {path.name: checksum(path) for path in sorted(folder.iterdir())},
    }
