"""The hard set, asked of models that `limited_pairing` has trained and kept: nothing is trained here."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lgdea_core.config import RunConfig
from lgdea_core.data.corpus import label_table
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
from lgdea_core.experiments.cells import RESAMPLES, Asked
from lgdea_core.experiments.plans import COMPARED, SEEDS, limited_pairing
from lgdea_core.grounding import load
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.paths import project_root
from lgdea_core.runs.inputs import Inputs, evaluation_inputs
from lgdea_core.runs.leaks import refuse_training_patients

RATIOS = (0.1, 1.0)
SET_SEED = 0
"""Of the hard set: one set for all training seeds, whose patients are in no training phantom."""
PER_STRATUM = 60
"""Studies of each kind of hardness."""


@dataclass(frozen=True, kw_only=True)
class HardSet(Asked):
    """All questions of the hard set, asked of the model that a cell of `limited_pairing` has left."""

    @property
    def key(self) -> dict[str, Any]:
        return {name: self.cell.key[name] for name in ("method", "paired_ratio", "seed", "preset")}

    @property
    def place(self) -> Hashable:
        return self.cell.config.data.image_size

    def prepare(self) -> None:
        hard_inputs(self.cell.config)

    def run(self) -> list[dict[str, Any]]:
        model, processor = load(self.cell.folder / "model", self.device)
        inputs = hard_inputs(self.cell.config)
        return [self.key | row for row in hard_rows(model, processor, inputs)]


def hard(
    seeds: Sequence[int] = SEEDS,
    ratios: Sequence[float] = RATIOS,
    methods: Sequence[str] = COMPARED,
    preset: str = "demo",
    device: str | None = None,
) -> list[HardSet]:
    """The hard set, asked of the models that limited_pairing left."""
    return [HardSet(cell=cell, device=device) for cell in limited_pairing(seeds, ratios, methods, preset=preset)]


def hard_inputs(config: RunConfig) -> Inputs:
    """The hard set of the phantom for evaluation: no pools."""
    size = config.data.image_size
    folder = project_root() / "data" / f"hard-{PER_STRATUM}x{size}-seed{SET_SEED}"
    corpus = build_hard_set(PhantomConfig(image_size=size, seed=SET_SEED), folder, PER_STRATUM, progress=False)
    return evaluation_inputs(corpus, config, progress=False)


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
