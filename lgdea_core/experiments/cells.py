"""One training of an experiment (a cell), and the row it leaves in a table."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from lgdea_core.batch import TrainingData, one_text, pad_tokens
from lgdea_core.config import RunConfig, find_method, replace_fields
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import Pools
from lgdea_core.evaluation.harness import evaluate
from lgdea_core.evaluation.regions import evaluate_regions
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.evidence.index import index_reports
from lgdea_core.evidence.sections import report_sentences
from lgdea_core.experiments.worlds import REAL, WORLDS, world_inputs
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.paths import git_commit, project_root, runs_folder
from lgdea_core.relations import relation_quality
from lgdea_core.runs.inputs import Inputs, fresh_model, hidden_truth, inputs_of, prepare_training
from lgdea_core.runs.variants import Trained, save_trained, with_shuffled_regions
from lgdea_core.training.loop import train
from lgdea_core.training.refresh import refresh_relations
from lgdea_core.training.schedule import phase_at

KEY = ("world", "method", "variant", "paired_ratio", "seed", "preset")
"""What tells two rows of a table apart."""
MEASURES = {
    "cnr": ("grounding", "cnr_signed"),
    "miou": ("grounding", "miou_biovil_t"),
    "pointing": ("grounding", "pointing"),
    "auc": ("zero-shot", "auc"),
    "auc_global": ("zero-shot", "auc_global"),
    "precision_at_5": ("retrieval", "precision_at_5"),
    "recall_at_10": ("retrieval", "recall_at_10"),
}
"""column -> (task, metric) of the harness; see the docstrings there for the protocols"""
FURTHER_MEASURES = {
    "cnr_absolute": ("grounding", "cnr_absolute"),
    "miou_afloc": ("grounding", "miou_afloc"),
    "pixel_auc": ("grounding", "pixel_auc"),
    "cnr_blind": ("grounding", "cnr_signed_blind"),
    "miou_blind": ("grounding", "miou_biovil_t_blind"),
    "pointing_blind": ("grounding", "pointing_blind"),
    "cnr_swapped": ("grounding", "cnr_signed_swapped"),
    "miou_swapped": ("grounding", "miou_biovil_t_swapped"),
    "pointing_swapped": ("grounding", "pointing_swapped"),
    "ap": ("zero-shot", "ap"),
    "f1_oracle": ("zero-shot", "f1_oracle"),
    "accuracy_oracle": ("zero-shot", "accuracy_oracle"),
    "f1_validation": ("zero-shot", "f1_validation"),
    "accuracy_validation": ("zero-shot", "accuracy_validation"),
    "precision_at_5_commonest": ("retrieval", "precision_at_5_commonest"),
    "recall_at_1": ("retrieval", "recall_at_1"),
    "recall_at_10_text_to_image": ("retrieval", "recall_at_10_text_to_image"),
}
"""The same of what only the papers' tables show; rows of older code lack them."""
REGION_MEASURES = {
    "region_at_1": ("regions", "region_at_1"),
    "region_at_1_chance": ("regions", "region_at_1_chance"),
    "named_region_at_1": ("regions", "named_region_at_1"),
    "named_region_at_1_chance": ("regions", "named_region_at_1_chance"),
    "tag_auc": ("tags", "auc"),
}
"""The same of `evaluation.regions`, in rows of experiment `asg`; a method without a tag decoder has no `tag_auc`."""
RELATION_MEASURES = (
    "precision_at_1",
    "base_rate",
    "commonest_rate",
    "label_auc",
    "pair_lift",
    "coverage",
    "max_column_mass",
    "effective_reports",
)
"""Columns `relation_<name>`: quality of the last relations against the hidden truth, where the method has any."""
RESAMPLES, INTERVAL_RESAMPLES = 200, 1000
"""Bootstrap draws of an evaluation: most tables hold estimates and their spread over seeds, few hold intervals."""
TRAINED_BY = "trained_by.txt"
"""File beside a kept model: the commit of its training. Cells of two tables that are the same share their folder."""
COPY = "-copy"
"""Ends the study_id of a known report that stands in for unpaired ones."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one training is, beyond its configuration."""

    config: RunConfig
    world: str = "phantom"
    """one of `worlds.WORLDS`"""
    variant: str = ""
    """name of the ablation; "" is the method as it is"""
    shuffled: bool = False
    """every known pair joins its image to a wrong report"""
    oracle: bool = False
    """relations are the true pairs, which no method may know: an upper bound"""
    whole_reports: bool = False
    """a report is one phrase, without evidence extraction; relations by the graph alone"""
    known_reports: bool = False
    """copies of the paired reports take the place of the unpaired ones"""
    shuffled_regions: bool = False
    """within each training film the region boxes change names"""
    regions: bool = False
    """the row has ASG's own measures, too"""
    intervals: bool = False
    """the row has the 95 % interval and the number of samples of every measure"""

    def __post_init__(self) -> None:
        if self.whole_reports and self.config.graph.mode != "graph":
            raise ValueError(
                f"whole reports: mode {self.config.graph.mode!r} would ask every report of every image; take mode graph"
            )

    @property
    def key(self) -> tuple[Any, ...]:
        """Values of `KEY`."""
        config = self.config
        return (self.world, config.method, self.variant, config.data.paired_ratio, config.seed, config.preset)

    @property
    def folder(self) -> Path:
        """Where its checkpoint lies while it trains, and its model afterwards."""
        name = "-".join(str(part) for part in self.key if part != "")
        return runs_folder() / "experiments" / name


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train, evaluate, keep the model, and return the row."""
    began = time.perf_counter()
    inputs, trained = train_cell(cell)
    seconds = time.perf_counter() - began
    save_trained(trained, cell.folder / "model")
    (cell.folder / TRAINED_BY).write_text(git_commit(project_root()) + "\n")
    row = dict(zip(KEY, cell.key, strict=True)) | measure(cell, trained.state.model, trained.processor, inputs)
    if find_method(cell.config.method).relations and cell.config.train.relation_steps:
        row |= _relation_measures(cell, inputs, trained)
    shutil.rmtree(cell.folder / "training")
    world = WORLDS[cell.world]
    return row | {
        "films": world.films,
        "reports": world.reports,
        "steps": cell.config.train.total_steps,
        "images_seen": images_seen(cell.config),
        "seconds": round(seconds),
        "commit": git_commit(project_root()),
    }


def cell_inputs(cell: Cell) -> Inputs:
    """Corpus, crops and pools of a cell; the films that judge it are among them."""
    inputs = world_inputs(cell.world, cell.config)
    if not cell.known_reports:
        return inputs
    corpus = known_reports_only(inputs.corpus, inputs.pools)
    return inputs_of(corpus, replace_fields(cell.config, paired_ratio=1.0), progress=False)


def measure(cell: Cell, model: LGDEAModel, processor: LGDEAProcessor, inputs: Inputs) -> dict[str, float]:
    """What evaluation says of a cell's model, by column: some or all of `measured_columns`."""
    resamples = INTERVAL_RESAMPLES if cell.intervals else RESAMPLES
    metrics = evaluate(model, processor, inputs, resamples=resamples, progress=False)
    row = headline_measures(metrics, cell.intervals, MEASURES | FURTHER_MEASURES)
    if cell.regions:  # on boxes with their true names, whatever training saw
        test = inputs.corpus.split("test").studies
        evidence, _ = extract_evidence(test, cell.config.data.extractor, progress=False)
        found = evaluate_regions(model, processor, inputs, evidence, resamples=RESAMPLES)
        row |= headline_measures(found, measures=REGION_MEASURES)
    return row


def measured_columns(cell: Cell) -> list[str]:
    """The columns that `measure` fills; without truth, or without the part of the model, one has no value."""
    columns = [*MEASURES, *FURTHER_MEASURES]
    columns += [f"{name}_{end}" for name in columns for end in ("low", "high", "n")] if cell.intervals else []
    return columns + (list(REGION_MEASURES) if cell.regions else [])


def train_cell(cell: Cell) -> tuple[Inputs, Trained]:
    """Train a cell, or go on where a killed run of it stopped."""
    config, inputs = cell.config, cell_inputs(cell)
    evidence, _ = extract_evidence(inputs.corpus.studies, config.data.extractor, progress=False)
    model, processor = fresh_model(config, inputs)
    shown = with_shuffled_regions(inputs, config.seed) if cell.shuffled_regions else inputs
    data = prepare_training(config, shown, evidence, processor, shuffled=cell.shuffled)
    if cell.whole_reports:
        data = with_whole_reports(data, inputs.reports(inputs.pools.report_ids))
    oracle = oracle_relations(inputs, data) if cell.oracle else None
    folder = cell.folder / "training"
    state, history = train(config, data, model, folder, fixed_graph=oracle, progress=False)
    return inputs, Trained(state=state, history=history, processor=processor, data=data, config=config)


def headline_measures(
    metrics: pd.DataFrame, intervals: bool = False, measures: Mapping[str, tuple[str, str]] = MEASURES
) -> dict[str, float]:
    """The columns of `measures` from an evaluation: macro means over findings, retrieval over all studies.

    Args:
        metrics: from `harness.evaluate` or `evaluate_regions`; a measure that it lacks is left out.
        intervals: add `<measure>_low` and `<measure>_high`, the 95 % interval, and `<measure>_n`, the samples.
        measures: column -> (task, metric).
    """
    whole = metrics["finding"].eq("macro") | metrics["task"].isin(["retrieval", "regions"])
    overall = metrics[whole].set_index(["task", "metric"])
    row = {}
    for column, place in measures.items():
        if place not in overall.index:
            continue
        found = overall.loc[place]
        row[column] = round(float(found["estimate"]), 4)
        if intervals:
            bounds = {f"{column}_{bound}": round(float(found[bound]), 4) for bound in ("low", "high")}
            row |= bounds | {f"{column}_n": int(found["n"])}
    return row


def images_seen(config: RunConfig) -> int:
    """Images that all steps together looked at, repeats counted."""
    images = {"text": 0, "pairs": config.train.batch_size, "relations": config.train.batch_size}
    return sum(images[phase_at(step, config.method, config.train)] for step in range(config.train.total_steps))


def known_reports_only(corpus: Corpus, pools: Pools) -> Corpus:
    """The corpus without unpaired reports: images without a known pair relate to copies of the paired reports.

    All pairs that are left are known, so the pools of the result are those at `paired_ratio=1`.
    """
    known = set(pools.seed_pairs["report_id"])
    studies = corpus.studies
    silent = studies["split"].eq("train") & ~studies["study_id"].isin(known)
    copies = studies[studies["study_id"].isin(known)]
    copies = copies.assign(study_id=copies["study_id"] + COPY)
    without = studies.assign(report=studies["report"].mask(silent, None))
    return replace(corpus, studies=pd.concat([without, copies], ignore_index=True))


def oracle_relations(inputs: Inputs, data: TrainingData) -> sparse.csr_array:
    """1 for every hidden true pair, within the unpaired block: what no method may know."""
    pairs, _, _ = hidden_truth(inputs, data)
    shape = (len(data.unpaired_images), len(data.unpaired_reports))
    return sparse.csr_array((np.ones(len(pairs)), tuple(pairs.T)), shape=shape)


def with_whole_reports(data: TrainingData, reports: list[str]) -> TrainingData:
    """The training data with each report as its only phrase, which makes a statement of its own.

    A refresh reads it whole, up to `max_tokens`; in a batch a random part of its sentences stands for it, as for every
    report, so that single sentences come into distribution, as the prompts are that the local terms are judged by.

    Args:
        data: of any evidence.
        reports: texts in the order of its reports.
    """
    index = index_reports([" ".join(report_sentences(report)) for report in reports], data.evidence.report_ids)
    held_by = index.report_phrases.tocsc()
    first = held_by.indices[held_by.indptr[:-1]]  # reports of the same words share their phrase
    whole = [one_text(data.sentences[report], data) for report in first]
    tokens, mask = pad_tokens(whole, data.special_ids[2])
    return replace(data, evidence=index, phrase_tokens=tokens, phrase_mask=mask, phrase_report=first)


def _relation_measures(cell: Cell, inputs: Inputs, trained: Trained) -> dict[str, float | None]:
    """Quality of the relations that the finished teacher infers; what has no case to count is None.

    Nothing where that says nothing: an oracle's are perfect by construction, copies of known reports are nobody's own,
    and real pools from several sources are labelled by several rules.
    """
    several = cell.world in REAL and not len(inputs.pools.hidden_pairs)
    if cell.oracle or cell.known_reports or several:
        return {}
    relations = refresh_relations(trained.state.teacher, trained.data, cell.config).relations
    quality = rounded(relation_quality(relations, *hidden_truth(inputs, trained.data)), RELATION_MEASURES)
    return {f"relation_{name}": value for name, value in quality.items()}


def rounded(quality: dict[str, Any], names: Sequence[str]) -> dict[str, float | None]:
    """Some values of `relation_quality` for a table."""
    return {name: None if quality[name] is None else round(quality[name], 4) for name in names}
