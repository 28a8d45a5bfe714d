"""`lgdea` less another model on the same test patients: the difference that a small test set can still tell.

Two models' own intervals are wide because patients differ; a patient who is hard for one is hard for the other. So the
patients are drawn once for both, and the interval is that of the difference.
"""

import functools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from lgdea_core.config import RunConfig
from lgdea_core.data.corpus import label_table, patients_of
from lgdea_core.evaluation.bootstrap import Bootstrap, Interval
from lgdea_core.evaluation.classification import MIN_POSITIVES, abnormal_scores, known_abnormal
from lgdea_core.evaluation.one_pass import run_task, score_rows, together
from lgdea_core.evaluation.prompts import load_prompt_set
from lgdea_core.evaluation.retrieval import (
    finding_sets,
    nearest,
    paired_studies,
    precision_at_k,
    recall_at_k,
    retrieval_ranks,
)
from lgdea_core.evaluation.zero_shot import channel_scores, combine_channels
from lgdea_core.experiments.cells import INTERVAL_RESAMPLES, Cell
from lgdea_core.experiments.hospitals import HOSPITALS, RATIOS, VARIANTS, hospital_inputs, trained_cells
from lgdea_core.experiments.jobs import Job
from lgdea_core.experiments.plans import COMPARED, SEEDS
from lgdea_core.grounding import load
from lgdea_core.paths import git_commit, project_root
from lgdea_core.vocabulary import NO_FINDING

METHOD = "lgdea"
"""Whose lead is measured."""
RANKED, RECALLED = 5, 10


class Answers(NamedTuple):
    """What one model says of the test patients of a hospital."""

    findings: tuple[str, ...]
    """with at least `MIN_POSITIVES` positives and negatives"""
    labels: Float[np.ndarray, "images findings"]
    scores: Float[np.ndarray, "images findings"]
    abnormal: Float[np.ndarray, " images"]
    """1, 0 or NaN"""
    abnormal_scores: Float[np.ndarray, " images"]
    patients: list[str]
    """of each image"""
    hits: dict[str, Float[np.ndarray, " studies"]]
    """retrieval, on the hospital of the pairs alone: metric -> value of each study"""
    study_patients: list[str]
    """of each study"""


@functools.lru_cache(maxsize=64)
def answers_of(folder: Path, corpus: str, world: str, config: RunConfig, device: str | None) -> Answers:
    """One pass of a model over the test images of a hospital."""
    model, processor = load(folder, device)
    inputs, prompts = hospital_inputs(corpus, world, config), load_prompt_set()
    part = inputs.corpus.split("test")
    labels = label_table(part)
    images = part.images[part.images["study_id"].isin(labels.index)]
    of_images = labels.loc[images["study_id"]]
    asked = [finding for finding in sorted(labels.columns) if prompts.covers(finding)]
    tasks = [channel_scores(model, processor, images["image_id"].tolist(), asked)]
    pairs, texts = paired_studies(part) if corpus == world else (part.images.iloc[:0], [])
    if len(pairs):
        tasks.append(score_rows(model, pairs["image_id"].tolist(), *processor.tokens(texts)))
    channels, *retrieved = run_task(model, inputs.crops, together(tasks))
    scores, truth = combine_channels(channels, prompts), of_images[asked].to_numpy(dtype=float)
    kept = np.minimum((truth == 1).sum(axis=0), (truth == 0).sum(axis=0)) >= MIN_POSITIVES
    unknown = pd.Series(np.nan, index=of_images.index)
    hits = {}
    for embeds, reports in retrieved:
        sets = finding_sets(labels.loc[pairs["study_id"]].to_numpy(dtype=float))
        ranks = retrieval_ranks(embeds, reports, texts, texts).image_to_text
        hits = {
            f"precision_at_{RANKED}": precision_at_k(nearest(embeds, reports, RANKED), sets, sets, RANKED),
            f"recall_at_{RECALLED}": recall_at_k(ranks, RECALLED),
        }
    return Answers(
        findings=tuple(np.array(asked)[kept]),
        labels=truth[:, kept],
        scores=scores[:, kept],
        abnormal=known_abnormal(of_images.get(NO_FINDING, unknown).to_numpy(dtype=float)),
        abnormal_scores=abnormal_scores(scores),
        patients=patients_of(part, images["study_id"]),
        hits=hits,
        study_patients=patients_of(part, pairs["study_id"]),
    )


def difference_rows(
    ours: Sequence[Answers], others: Sequence[Answers], bootstrap: Bootstrap
) -> Iterator[tuple[str, str, Interval]]:
    """(metric, finding, interval of the difference) of two models, each the mean of its seeds.

        mean over our seeds of the metric - mean over the other's seeds,  patients drawn once for all of them

    The interval speaks of these trainings on other patients; how trainings of other seeds differ is the tables'
    deviation.

    Args:
        ours: one per seed.
        others: likewise, on the same images.
        bootstrap: draws the patients.
    """
    first = ours[0]
    sides = [np.stack([answers.scores for answers in side]) for side in (ours, others)]
    yield "auc", "macro", bootstrap.auc_difference(first.labels, *sides, first.patients)
    for column, finding in enumerate(first.findings):
        alone = [side[:, :, [column]] for side in sides]
        yield "auc", finding, bootstrap.auc_difference(first.labels[:, [column]], *alone, first.patients)
    known = np.isfinite(first.abnormal)
    if min((first.abnormal == 1).sum(), (first.abnormal == 0).sum()) >= MIN_POSITIVES:
        sides = [np.stack([one.abnormal_scores for one in side])[:, known, None] for side in (ours, others)]
        patients = np.array(first.patients, dtype=object)[known]
        yield "auc_abnormal", "all", bootstrap.auc_difference(first.abnormal[known, None], *sides, patients)
    for metric in first.hits:
        ours_mean, others_mean = (np.mean([one.hits[metric] for one in side], axis=0) for side in (ours, others))
        yield metric, "all", bootstrap.mean(ours_mean - others_mean, first.study_patients)


@dataclass(frozen=True, kw_only=True)
class Comparison(Job):
    """`METHOD` at one ratio less one other model, at one hospital, over seeds that both have."""

    ours: tuple[Cell, ...]
    others: tuple[Cell, ...]
    corpus: str
    device: str | None = None

    @property
    def key(self) -> dict[str, Any]:
        ours, other = self.ours[0].key, self.others[0].key
        return {name: ours[name] for name in ("world", "paired_ratio", "preset")} | {
            "corpus": self.corpus,
            "against": other["method"],
            "against_variant": other["variant"],
            "against_ratio": other["paired_ratio"],
            "seeds": " ".join(str(cell.config.seed) for cell in self.ours),
        }

    @property
    def needs(self) -> str:
        return next((cell.missing_model for cell in (*self.ours, *self.others) if cell.missing_model), "")

    @property
    def place(self) -> Hashable:
        return self.corpus, self.ours[0].config.data.image_size

    def prepare(self) -> None:
        hospital_inputs(self.corpus, self.ours[0].world, self.ours[0].config)

    def run(self) -> list[dict[str, Any]]:
        sides = [
            [answers_of(cell.folder / "model", self.corpus, cell.world, cell.config, self.device) for cell in side]
            for side in (self.ours, self.others)
        ]
        first, commit = sides[0][0], git_commit(project_root())
        return [
            self.key
            | {"metric": metric, "finding": finding}
            | {name: round(getattr(found, name), 4) for name in ("estimate", "low", "high")}
            | {"n": found.n, "findings": len(first.findings) if finding == "macro" else 1, "commit": commit}
            for metric, finding, found in difference_rows(*sides, Bootstrap(resamples=INTERVAL_RESAMPLES))
        ]


def paired(
    seeds: Sequence[int] = SEEDS,
    ratios: Sequence[float] = RATIOS,
    methods: Sequence[str] = COMPARED,
    variants: Sequence[str] = VARIANTS,
    corpora: Sequence[str] = HOSPITALS,
    preset: str = "demo",
    device: str | None = None,
) -> list[Comparison]:
    """`lgdea` at each ratio against every other method there and with all pairs, and against its own variants."""
    groups: dict[tuple[str, str, float], list[Cell]] = {}
    every, compared = tuple(dict.fromkeys((*ratios, 1.0))), tuple(dict.fromkeys((*methods, METHOD)))
    for cell in trained_cells(seeds, every, compared, variants, preset):
        groups.setdefault((cell.config.method, cell.variant, cell.config.data.paired_ratio), []).append(cell)
    jobs = []
    for corpus in corpora:
        for ratio in ratios:
            ours = groups[METHOD, "", ratio]
            for (method, variant, other_ratio), others in groups.items():
                same = others is ours or (variant and method != METHOD)
                full = other_ratio == 1 and not variant
                if not same and (other_ratio == ratio or full):
                    jobs.append(Comparison(ours=tuple(ours), others=tuple(others), corpus=corpus, device=device))
    return jobs
