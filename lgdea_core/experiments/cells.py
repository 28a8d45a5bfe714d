"""A training of an experiment (a cell), and the row it leaves in a table."""

import shutil
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

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
from lgdea_core.experiments.jobs import Job
from lgdea_core.experiments.tables import FURTHER_MEASURES, MEASURES, REGION_MEASURES, RELATION_MEASURES, TABLES
from lgdea_core.experiments.worlds import REAL, WORLDS, build_world, world_inputs
from lgdea_core.paths import git_commit, project_root, replacing, runs_folder
from lgdea_core.relations import GraphRelations, relation_quality
from lgdea_core.runs.inputs import Inputs, fresh_model, hidden_truth, inputs_of, prepare_training
from lgdea_core.runs.variants import Trained, save_trained, with_shuffled_regions
from lgdea_core.training.loop import train
from lgdea_core.training.refresh import refresh_relations
from lgdea_core.training.schedule import phase_at

RESAMPLES, INTERVAL_RESAMPLES = 200, 1000
"""Bootstrap draws of an evaluation: most tables hold estimates and their spread over seeds, few hold intervals."""
COPY = "-copy"
"""Ends the study_id of a known report that stands in for unpaired ones."""


@dataclass(frozen=True, kw_only=True)
class Cell(Job):
    """What one training is, beyond its configuration."""

    config: RunConfig
    world: str = "phantom"
    """one of `worlds.WORLDS`"""
    variant: str = ""
    """name of the ablation; "" is the method as it is"""
    shuffled: bool = False
    """every known pair joins its image to a wrong report"""
    oracle: bool = False
    """the true pairs, which no method may know, take the place of the propagated graph: alone an upper bound, times the
    affinity a hint"""
    whole_reports: bool = False
    """a report is one phrase, without evidence extraction; relations by the graph alone"""
    known_reports: bool = False
    """copies of the paired reports take the place of the unpaired ones"""
    shuffled_regions: bool = False
    """within each training film the region boxes change names"""
    regions: bool = False
    """the row has ASG's own measures, too"""

    def __post_init__(self) -> None:
        if self.whole_reports and self.config.graph.mode != "graph":
            raise ValueError(
                f"whole reports: mode {self.config.graph.mode!r} would ask every report of every image; take mode graph"
            )

    @property
    def intervals(self) -> bool:
        """Its row has the 95 % interval and the number of samples of every measure: real test sets are small."""
        return self.world in REAL

    @property
    def key(self) -> dict[str, Any]:
        config = self.config
        return {
            "world": self.world,
            "method": config.method,
            "variant": self.variant,
            "paired_ratio": config.data.paired_ratio,
            "seed": config.seed,
            "preset": config.preset,
        }

    @property
    def folder(self) -> Path:
        """Where its checkpoint lies while it trains, and its model afterwards."""
        name = "-".join(str(part) for part in self.key.values() if part != "")
        return runs_folder() / "experiments" / name

    @property
    def missing_model(self) -> str:
        """Where its model should lie, and what makes it; empty where it is there. For jobs that ask trained models."""
        if (self.folder / "model" / "config.json").is_file():
            return ""
        table = TABLES["ablation" if self.variant else "limited_pairing"]
        options = {"--world": self.world, "--ratios": self.config.data.paired_ratio, "--seeds": self.config.seed}
        options |= {"--methods": self.config.method, "--preset": self.config.preset}
        options |= {"--variants": f'"{self.variant}"'} if self.variant else {}
        command = " ".join([table.command, *(f"{name} {value}" for name, value in options.items())])
        trained = not table.missing([self])
        first = f"  (after deleting its row from {table.path.name}, else nothing is trained)" if trained else ""
        return f"no model in {self.folder / 'model'}; make it with\n    {command}{first}"

    @property
    def place(self) -> Hashable:
        return self.world, self.config.seed

    def prepare(self) -> None:
        build_world(self.world, self.config)

    def inputs(self) -> Inputs:
        """Corpus, crops and pools; the films that judge the model are among them."""
        inputs = world_inputs(self.world, self.config)
        if not self.known_reports:
            return inputs
        corpus = known_reports_only(inputs.corpus, inputs.pools)
        return inputs_of(corpus, replace_fields(self.config, paired_ratio=1.0), progress=False)

    def train(self, inputs: Inputs, evidence: pd.DataFrame, until: Literal["pairs", "end"] = "end") -> Trained:
        """Train, or go on where a killed run stopped.

        Args:
            inputs: the cell's.
            evidence: of all their reports.
            until: phase after which to stop.
        """
        config = self.config
        model, processor = fresh_model(config, inputs)
        shown = with_shuffled_regions(inputs, config.seed) if self.shuffled_regions else inputs
        data = prepare_training(config, shown, evidence, processor, shuffled=self.shuffled)
        if self.whole_reports:
            data = with_whole_reports(data, inputs.reports(inputs.pools.report_ids))
        folder, given = self.folder / "training", self.given_graph(inputs, data)
        state, history = train(config, data, model, folder, until=until, fixed_graph=given, progress=False)
        return Trained(state=state, history=history, processor=processor, data=data, config=config)

    def given_graph(self, inputs: Inputs, data: TrainingData) -> GraphRelations | None:
        """What relations are made of in place of the propagated graph."""
        return oracle_relations(inputs, data) if self.oracle else None

    def measure(self, trained: Trained, inputs: Inputs, evidence: pd.DataFrame) -> dict[str, float | None]:
        """What evaluation says of the trained model, by column; without truth, or a part of the model, one is left out.

        Relations are those that the finished teacher infers; what has no case to count is None. They are left out where
        they say nothing: the true pairs alone are perfect by construction, copies of known reports are nobody's own,
        and real pools from several sources are labelled by several rules.
        """
        loaded = trained.state.model, trained.processor
        resamples = INTERVAL_RESAMPLES if self.intervals else RESAMPLES
        metrics = evaluate(*loaded, inputs, resamples=resamples, progress=False)
        row = headline_measures(metrics, self.intervals, MEASURES | FURTHER_MEASURES)
        if self.regions:  # on boxes with their true names, whatever training saw
            found = evaluate_regions(*loaded, inputs, evidence, resamples=RESAMPLES)
            row |= headline_measures(found, measures=REGION_MEASURES)
        several = self.world in REAL and not len(inputs.pools.hidden_pairs)
        relates = find_method(self.config.method).relations and self.config.train.relation_steps
        perfect = self.oracle and self.config.graph.mode == "graph"
        if relates and not (perfect or self.known_reports or several):
            given = self.given_graph(inputs, trained.data)
            relations = refresh_relations(trained.state.teacher, trained.data, self.config, graph=given).relations
            quality = relation_quality(relations, *hidden_truth(inputs, trained.data))
            row |= {f"relation_{name}": rounded(quality[name]) for name in RELATION_MEASURES}
        return row

    def run(self) -> list[dict[str, Any]]:
        """Train, evaluate, keep the model, and return the row."""
        began, inputs = time.perf_counter(), self.inputs()
        evidence = evidence_of(inputs, self.config)
        trained = self.train(inputs, evidence)
        seconds = time.perf_counter() - began
        with replacing(self.folder / "model") as folder:
            save_trained(trained, folder)
        row = self.key | self.measure(trained, inputs, evidence)
        shutil.rmtree(self.folder / "training")
        row |= {
            "films": WORLDS[self.world].films,
            "reports": WORLDS[self.world].reports,
            "steps": self.config.train.total_steps,
            "images_seen": images_seen(self.config),
            "seconds": round(seconds),
            "commit": git_commit(project_root()),
        }
        return [row]


@dataclass(frozen=True, kw_only=True)
class Asked(Job):
    """Questions to the model that a training has left: nothing is trained."""

    cell: Cell
    device: str | None = None
    """None takes the best there is"""

    @property
    def needs(self) -> str:
        return self.cell.missing_model


def evidence_of(inputs: Inputs, config: RunConfig) -> pd.DataFrame:
    """Rows of `evidence.parquet` for every report of the corpus."""
    return extract_evidence(inputs.corpus.studies, config.data.extractor, progress=False)[0]


def headline_measures(
    metrics: pd.DataFrame, intervals: bool = False, measures: Mapping[str, tuple[str, str]] = MEASURES
) -> dict[str, Any]:
    """The columns of `measures` from an evaluation: macro means over findings, retrieval over all studies.

    Args:
        metrics: from `harness.evaluate` or `evaluate_regions`; a measure that it lacks is left out.
        intervals: add `<measure>_low` and `<measure>_high`, the 95 % interval, `<measure>_n`, the samples, and
            `<measure>_warning` where the interval is none.
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
            if isinstance(found.get("warning"), str) and found["warning"]:
                row[f"{column}_warning"] = found["warning"]
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


def oracle_relations(inputs: Inputs, data: TrainingData) -> GraphRelations:
    """1 for every hidden true pair, within the unpaired block: what no method may know."""
    pairs, _, _ = hidden_truth(inputs, data)
    shape = (len(data.unpaired_images), len(data.unpaired_reports))
    return GraphRelations(sparse.csr_array((np.ones(len(pairs)), tuple(pairs.T)), shape=shape))


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


def rounded(value: float | None) -> float | None:
    """A measure as tables hold it; None has no value."""
    return None if value is None else round(value, 4)
