"""The hard set, asked of models that `limited_pairing` has trained and kept: nothing is trained here."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from lgdea_core.config import RunConfig
from lgdea_core.data.corpus import label_table
from lgdea_core.data.images import load_images
from lgdea_core.data.pairing import Pools
from lgdea_core.data.phantom import PhantomConfig, build_hard_set, load_probes
from lgdea_core.evaluation.bootstrap import Bootstrap
from lgdea_core.evaluation.breakdown import (
    auc_by_size,
    describe_maps,
    grounding_breakdown,
    negation_table,
    phrase_table,
    probe_maps,
    swap_table,
)
from lgdea_core.evaluation.grounding import score_maps
from lgdea_core.evaluation.harness import GROUNDING_METRICS, phrase_samples
from lgdea_core.evaluation.prompts import load_prompt_set
from lgdea_core.evaluation.zero_shot import combine_channels, zero_shot_scores
from lgdea_core.experiments.cells import RESAMPLES, Cell
from lgdea_core.experiments.tables import add_rows, mean_and_sd, missing_cells, read_table, table_path
from lgdea_core.grounding import load
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.paths import project_root
from lgdea_core.runs.inputs import Inputs
from lgdea_core.runs.leaks import refuse_training_patients

logger = logging.getLogger("lgdea")

MODEL = ("method", "paired_ratio", "seed", "preset")
KEY = (*MODEL, "by", "group", "measure")
"""What tells two rows of hard_set.csv apart. `by` is finding, size, side or stratum of the grounded phrases (or of the
zero-shot AUC: size), side swap, or negation; see `evaluation.breakdown` for the measures."""
RATIOS = (0.1, 1.0)
SET_SEED = 0
"""Of the hard set: one set for all training seeds, whose patients are in no training phantom."""
SECONDS_A_MODEL = 18.0
"""Of preset demo, on one CPU core."""


def missing_measures(cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """The cells without rows whose model is there, and those whose model is not."""
    table = read_table(table_path("hard_set"), KEY)
    done = set(table[list(MODEL)].itertuples(index=False, name=None))
    todo = [cell for cell in cells if _model_key(cell) not in done]
    there = {cell.key: (cell.folder / "model" / "config.json").is_file() for cell in todo}
    return [cell for cell in todo if there[cell.key]], [cell for cell in todo if not there[cell.key]]


def how_to_train(cell: Cell) -> str:
    """The command that makes the model of a cell of `limited_pairing`; one line."""
    seed, ratio, method, preset = (
        cell.config.seed,
        cell.config.data.paired_ratio,
        cell.config.method,
        cell.config.preset,
    )
    command = "python -m lgdea_core.experiments limited_pairing "
    command += f"--seeds {seed} --ratios {ratio} --methods {method} --preset {preset}"
    path = table_path("limited_pairing")
    trained = not missing_cells([cell], path)
    return f"{command}  (after deleting its row from {path.name}, else nothing is trained)" if trained else command


def measure_hard_set(cells: Sequence[Cell]) -> None:
    """Ask the models of some cells, one by one; the rows of each are added to hard_set.csv together."""
    for cell in tqdm(cells, unit="model", desc="hard_set"):
        inputs = hard_inputs(cell.config)
        model, processor = load(cell.folder / "model")
        key = dict(zip(MODEL, _model_key(cell), strict=True))
        rows = [key | row for row in hard_rows(model, processor, inputs)]
        add_rows(table_path("hard_set"), rows, KEY)


def hard_inputs(config: RunConfig, per_stratum: int = 60) -> Inputs:
    """The hard set of the phantom for evaluation: no pools."""
    size = config.data.image_size
    folder = project_root() / "data" / f"hard-{per_stratum}x{size}-seed{SET_SEED}"
    corpus = build_hard_set(PhantomConfig(image_size=size, seed=SET_SEED), folder, per_stratum, progress=False)
    store = load_images(corpus, size, project_root() / "data" / "cache", progress=False)
    none = pd.DataFrame(columns=["image_id", "report_id"])
    return Inputs(
        corpus=corpus, store=store, pools=Pools(image_ids=(), report_ids=(), seed_pairs=none, hidden_pairs=none)
    )


def hard_rows(model: LGDEAModel, processor: LGDEAProcessor, inputs: Inputs) -> Iterator[dict[str, Any]]:
    """Columns by, group, measure, estimate, n of one model on a hard set."""
    refuse_training_patients(model, inputs.corpus)
    tables = [*_grounding(model, processor, inputs), _auc(model, processor, inputs)]
    for row in pd.concat(tables).itertuples():
        yield {
            "by": row.by,
            "group": row.group,
            "measure": row.measure,
            "estimate": round(row.estimate, 4),
            "n": int(row.n),
        }


def _grounding(model: LGDEAModel, processor: LGDEAProcessor, inputs: Inputs) -> Iterator[pd.DataFrame]:
    """Breakdowns of phrases with boxes; left/right swaps; negations."""
    samples = list(phrase_samples(model, processor, inputs, inputs.corpus, progress=False))
    maps, masks = [sample.similarity_map for sample in samples], [sample.mask for sample in samples]
    scores = score_maps(maps, masks, metrics=GROUNDING_METRICS)
    table = grounding_breakdown(scores, phrase_table(inputs.corpus), Bootstrap(resamples=RESAMPLES))
    yield table.rename(columns={"value": "group", "metric": "measure"})
    probes = load_probes(inputs.corpus.root)
    described = describe_maps(probe_maps(model, processor, inputs, probes))
    yield swap_table(probes, described, Bootstrap(resamples=RESAMPLES)).assign(by="side swap", group="pairs of twins")
    negations = negation_table(probes, described, Bootstrap(resamples=RESAMPLES))
    yield negations.rename(columns={"kind": "group"}).assign(by="negation")


def _auc(model: LGDEAModel, processor: LGDEAProcessor, inputs: Inputs) -> pd.DataFrame:
    """Macro zero-shot AUC for lesions of each size; which findings have enough of a size differs from size to size."""
    corpus, prompts = inputs.corpus, load_prompt_set()
    findings = [finding for finding in label_table(corpus).columns if prompts.covers(finding)]
    crops = inputs.crops(tuple(corpus.images["image_id"]))
    scores = combine_channels(zero_shot_scores(model, processor, crops, findings), prompts)
    table = auc_by_size(scores, corpus, corpus.images["study_id"].tolist(), findings, Bootstrap(resamples=RESAMPLES))
    macro = table[table["finding"] == "macro"]
    return macro.rename(columns={"size": "group", "metric": "measure"}).assign(by="size")


def hard_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean ± standard deviation over seeds: a row for every group and measure, a column for every method and ratio.

    Empty without rows.
    """
    if table.empty:
        return table
    names = [f"{row.method} {row.paired_ratio:.0%}" for row in table.itertuples()]
    groups = table.assign(model=names).groupby(["preset", "by", "group", "measure", "model"])["estimate"]
    cells = groups.agg(lambda values: f"{mean_and_sd(values)} ({len(values)})")
    return cells.unstack("model").reset_index()


def _model_key(cell: Cell) -> tuple[Any, ...]:
    config = cell.config
    return (config.method, config.data.paired_ratio, config.seed, config.preset)
