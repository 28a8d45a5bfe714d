"""What a notebook begins with: its parameters checked, its run, and by one import what it needs of the rooms below."""

import ast
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from IPython import get_ipython

from lgdea_core.config import RunConfig, replace_fields
from lgdea_core.data.images import read_image
from lgdea_core.data.pairing import shuffle_pairs, write_split
from lgdea_core.evidence.extract import extract_evidence, make_extractor
from lgdea_core.evidence.triplets import triplets
from lgdea_core.grounding import BOX, BOX_SAYS, load
from lgdea_core.method import mean_phrases, total_loss
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.paths import DATA_VARIABLE
from lgdea_core.published import fitted
from lgdea_core.relations import graph_relations
from lgdea_core.runs.artifacts import Run, start_run
from lgdea_core.runs.inputs import fresh_model, hidden_truth, load_inputs, top_relations
from lgdea_core.runs.lesson import first_step, kinds_of_relations, quality_table, train_both_ways
from lgdea_core.runs.variants import (
    SHUFFLED_REGIONS,
    VARIANTS,
    load_warm,
    save_trained,
    save_warm,
    short_asg_config,
    train_variant,
)
from lgdea_core.training import refresh

__all__ = [
    "SHUFFLED_REGIONS",
    "VARIANTS",
    "begin",
    "check_parameters",
    "data_folder",
    "evidence_of",
    "extract_evidence",
    "first_step",
    "fresh_model",
    "graph_relations",
    "hidden_truth",
    "kinds_of_relations",
    "load",
    "load_inputs",
    "load_models",
    "load_warm",
    "make_extractor",
    "mean_phrases",
    "quality_table",
    "read_image",
    "refresh",
    "replace_fields",
    "save_trained",
    "save_warm",
    "short_asg_config",
    "shuffle_pairs",
    "start_run",
    "top_relations",
    "total_loss",
    "train_both_ways",
    "train_variant",
    "triplets",
    "write_split",
]

INJECTED = "# Parameters\n"
"""First line of the cell that papermill puts behind the one tagged `parameters`."""
FEW_STUDIES = 300
"""Studies of the phantom that the model in the box is shown: made within seconds; a fifth are the test split."""


def begin(name: str | None, preset: str | None, **changes: object) -> Run:
    """The run of a notebook, see `artifacts.start_run`, of a preset with some fields changed.

    Args:
        name: folder in `data/runs`; None takes the one that follows from the configuration.
        preset: see `RunConfig.from_preset`, as for `changes`. A `model_start` also sets what it reads (`fitted`).

    Raises:
        ValueError: papermill set a parameter that the notebook lacks, or a value is refused.
    """
    check_parameters()
    config = RunConfig.from_preset(preset, **changes)
    return start_run(fitted(config) if config.model.model_start else config, name)


def check_parameters(cells: Sequence[str] | None = None) -> None:
    """Refuse what papermill set and the notebook has no parameter for: it would be ignored.

    Args:
        cells: sources of the cells that ran so far; None asks the notebook's kernel.

    Raises:
        ValueError: names the unknown parameters and those there are.
    """
    if cells is None:
        shell = get_ipython()
        cells = shell.user_ns["In"] if shell is not None else []
    for place, cell in enumerate(cells):
        if cell.startswith(INJECTED):
            known = _assigned(cells[place - 1])
            if unknown := [name for name in _assigned(cell) if name not in known]:
                raise ValueError(f"no parameter is called {', '.join(unknown)}; there are: {', '.join(known)}")


class Models(NamedTuple):
    """The models that a notebook looks at, and whose they are."""

    run: Run
    """into whose folder goes what is measured of them"""
    loaded: dict[str, tuple[LGDEAModel, LGDEAProcessor]]
    """by the names of `VARIANTS`"""
    sentence: str
    """whose they are, to be shown"""


def load_models(run: Run) -> Models:
    """The four models of a run; where it has none of them yet, the model in the box, in a run of its own.

    That run is called after the other one, so that nothing of the model in the box stands under the other's name. Its
    images are of the other's corpus and seed, in the size that the model reads; of the phantom they are `FEW_STUDIES`.

    Raises:
        FileNotFoundError: the run has some of the models.
        ValueError: the model in the box was trained on the images of this very seed.
    """
    if any(run.path(name).exists() for name in VARIANTS):
        loaded = {name: load(run.checked(name)) for name in VARIANTS}
        return Models(run, loaded, f"The four models of run {run.name}.")
    own, asked = RunConfig.load(BOX / "run_config.json"), run.config
    if asked.data.corpus == own.data.corpus and asked.seed == own.seed:
        raise ValueError(f"seed {own.seed} made the images that the model in the box was trained on; take another seed")
    data = replace(asked.data, image_size=own.data.image_size, studies=min(FEW_STUDIES, asked.data.studies))
    box = start_run(replace(own, preset=asked.preset, seed=asked.seed, data=data), f"{BOX.name}-{run.name}")
    sentence = (
        f"Run {run.name} has no model yet, so this is {BOX_SAYS}. It stands alone: the baseline and the models of "
        f"shuffled pairs come from notebooks 01 to 04. What is measured of it goes to run {box.name}."
    )
    return Models(box, {"model": load()}, sentence)


def evidence_of(run: Run, studies: pd.DataFrame) -> pd.DataFrame:
    """Evidence of some studies' reports: the run's own, or where it has none as its extractor finds it.

    Args:
        run: that notebook 01 has seen, or `load_models` has made.
        studies: rows of `Corpus.studies`.
    """
    if run.path("evidence.parquet").exists():
        return run.load_table("evidence.parquet")
    return extract_evidence(studies, run.config.data.extractor, progress=False)[0]


def _assigned(cell: str) -> list[str]:
    lines = [line for line in ast.parse(cell).body if isinstance(line, ast.Assign | ast.AnnAssign)]
    targets = [line.target if isinstance(line, ast.AnnAssign) else line.targets[0] for line in lines]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def data_folder(config: RunConfig) -> Path | None:
    """The folder with one sub-folder per corpus, where a run or the environment names one."""
    root = config.data.root or os.environ.get(DATA_VARIABLE)
    return Path(root) if root else None
