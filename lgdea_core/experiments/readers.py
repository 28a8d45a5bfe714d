"""Extractors read the same labelled reports of Open-i: the rules, a language model, and both together.

The reports are a seeded order of all labelled ones, by id. `test` is its beginning, as many as asked for. `development`
lies behind the first `MOST_TESTED` of it: there prompts and policies were chosen, so it holds as many reports with a
label as without, in turns, and its F1 is no estimate for reports at large.

A language model's answers come from its store, and only what is missing is asked: the same command goes on where it was
stopped, and a row of fewer reports can be made from what is there.
"""

import os
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lgdea_core.evaluation.bootstrap import resample_counts
from lgdea_core.evaluation.extraction.agreement import STRENGTH, UNMENTIONED, differing, score_agreement, status_table
from lgdea_core.evaluation.extraction.evaluate import Reference, evaluate_reading, openi_reference, read_texts
from lgdea_core.evaluation.extraction.scores import ATTRIBUTES, LABEL_OBSERVATIONS, MACRO_POSITIVES, stated_labels
from lgdea_core.evidence.answers import HALLUCINATED
from lgdea_core.evidence.extract import make_extractor
from lgdea_core.evidence.llm import LanguageModelExtractor
from lgdea_core.experiments.cells import rounded
from lgdea_core.experiments.jobs import Job
from lgdea_core.paths import git_commit, project_root

SAMPLES = ("test", "development")
SAMPLE_SEED = 0
MOST_TESTED = 400
RULES = "lexicon"
"""What the others are compared with."""
NO_PROMPT = "none"
"""Of the rules; the others have the first digits of the prompt's hash."""
RESAMPLES = 2000
SHOWN_DISAGREEMENTS = 10
"""Reports that a row names, those on which a language model and the rules differ most."""


@cache
def labelled_reports(root: Path) -> Reference:
    """All labelled reports of an Open-i folder, read once."""
    return openi_reference(root)


def sample_of(reference: Reference, sample: str, reports: int) -> Reference:
    """So many reports of a sample (which: see the module).

    Raises:
        ValueError: it has not so many.
    """
    order = random.Random(SAMPLE_SEED).sample(sorted(reference.report_ids), len(reference.report_ids))
    if sample == "test":
        ids = order[:MOST_TESTED]
    else:
        positive = dict(zip(reference.report_ids, (reference.labels == 1).any(axis=1), strict=True))
        rest = order[MOST_TESTED:]
        with_label, without = ([name for name in rest if positive[name] == wanted] for wanted in (True, False))
        ids = list(chain.from_iterable(zip(with_label, without, strict=False)))
    if not 0 < reports <= len(ids):
        raise ValueError(f"sample {sample}: expected 1 to {len(ids)} reports, got {reports}")
    row_of = {name: row for row, name in enumerate(reference.report_ids)}
    rows = [row_of[name] for name in ids[:reports]]
    return replace(
        reference,
        report_ids=tuple(ids[:reports]),
        texts=tuple(reference.texts[row] for row in rows),
        labels=reference.labels.iloc[rows],
        attributes=tuple(reference.attributes[row] for row in rows),
        left_out=reference.left_out + len(reference.report_ids) - reports,
    )


@dataclass(frozen=True, kw_only=True)
class Reader(Job):
    """What one extractor makes of one sample."""

    extractor: str
    sample: str
    reports: int

    @property
    def key(self) -> dict[str, Any]:
        model = make_extractor(self.extractor) if self.extractor != RULES else None
        prompt = model.question.prompt[:8] if isinstance(model, LanguageModelExtractor) else NO_PROMPT
        return {"sample": self.sample, "reports": self.reports, "extractor": self.extractor, "prompt": prompt}

    @property
    def needs(self) -> str:
        root = os.environ.get("LGDEA_DATA")
        if root and (Path(root) / "openi" / "ecgen-radiology").is_dir():
            return ""
        return "no Open-i reports: set LGDEA_DATA to the folder that holds openi/ecgen-radiology"

    @property
    def place(self) -> Hashable:
        return self.sample

    def prepare(self) -> None:
        """Nothing is made on first use."""

    def run(self) -> list[dict[str, Any]]:
        reference = sample_of(labelled_reports(Path(os.environ["LGDEA_DATA"]) / "openi"), self.sample, self.reports)
        extractor = make_extractor(self.extractor)
        reading = read_texts(extractor, reference.texts)
        rules = reading if self.extractor == RULES else read_texts(make_extractor(RULES), reference.texts)
        result, stated = evaluate_reading(reading, reference), stated_labels(reading.findings)
        statuses = status_table(reading.findings), status_table(rules.findings)
        agreement = score_agreement(*statuses)["micro"]
        row = self.key | {
            **f1_columns(stated, reference.labels),
            **wrong_labels(stated, reference.labels),
            "positives": int((reference.labels[list(LABEL_OBSERVATIONS)] == 1).to_numpy().sum()),
            "found": rounded(result["attributes"]["found"]),
            **{f"{name}_f1": rounded(result["attributes"][name]["f1"]) for name in ATTRIBUTES},
            "kappa_with_rules": rounded(agreement["kappa"]),
            **{f"{status}_f1_with_rules": rounded(agreement[status]) for status in ("present", "uncertain", "absent")},
            "findings": sum(map(len, reading.findings)),
        }
        if isinstance(extractor, LanguageModelExtractor):
            row |= answer_columns(extractor, reading.rejected, self.reports)
            row["disagreements"] = worst_disagreements(reference.report_ids, differing(*statuses))
        return [row | {"commit": git_commit(project_root())}]


def wrong_labels(stated: pd.DataFrame, true: pd.DataFrame) -> dict[str, str]:
    """How often each label was stated without being true, and missed, the most frequent first: "mass: 3; edema: 1"."""
    said, right = (table[list(LABEL_OBSERVATIONS)].to_numpy() == 1 for table in (stated, true))
    columns = {}
    for name, wrong in (("stated_wrongly", said & ~right), ("missed", right & ~said)):
        counts = pd.Series(wrong.sum(axis=0), LABEL_OBSERVATIONS).sort_values(ascending=False, kind="stable")
        columns[name] = "; ".join(f"{label}: {count}" for label, count in counts.items() if count)
    return columns


def worst_disagreements(report_ids: Sequence[str], differences: Sequence[dict[str, tuple[str, str]]]) -> str:
    """The reports on which model and rules differ most, without a word of them: "CXR1: mass present / -; CXR2: ..."."""
    order = sorted(range(len(report_ids)), key=lambda row: -len(differences[row]))[:SHOWN_DISAGREEMENTS]
    said = {status: status for status in STRENGTH} | {UNMENTIONED: "-"}
    named = (
        ", ".join(f"{name} {said[one]} / {said[two]}" for name, (one, two) in differences[row].items()) for row in order
    )
    return "; ".join(f"{report_ids[row]}: {each}" for row, each in zip(order, named, strict=True) if each)


def answer_columns(extractor: LanguageModelExtractor, rejected: dict[str, int], reports: int) -> dict[str, Any]:
    """What the model answered about a sample, and what it cost: sums over its distinct sentences, by report.

    A model that is asked in both orders answers each of them twice.
    """
    stats = extractor.statistics()
    refused = {**stats.rejected, **{reason: count for reason, count in rejected.items() if reason != HALLUCINATED}}
    return {
        "answers": stats.answers,
        "repaired": stats.repaired,
        "rejected_answers": sum(stats.rejected.values()),
        "statements": stats.statements,
        "hallucinated": stats.hallucinated,
        "refused": "; ".join(f"{reason}: {count}" for reason, count in sorted(refused.items())),
        "prompt_tokens_per_report": rounded(stats.prompt_tokens / reports),
        "completion_tokens_per_report": rounded(stats.completion_tokens / reports),
        "seconds_per_report": rounded(stats.seconds / reports),
    }


def f1_columns(stated: pd.DataFrame, true: pd.DataFrame) -> dict[str, Any]:
    """Micro and macro precision, recall and F1 over the 14 labels, the F1 with percentile intervals by report.

    Macro is over the labels with at least `MACRO_POSITIVES` positives, in resamples over the same ones.
    """
    said = stated[list(LABEL_OBSERVATIONS)].to_numpy(dtype=float)
    right = (true[list(LABEL_OBSERVATIONS)] == 1).to_numpy(dtype=float)
    frequent = right.sum(axis=0) >= MACRO_POSITIVES
    draws = np.concatenate([np.ones((1, len(said))), resample_counts(len(said), RESAMPLES, SAMPLE_SEED)])
    hits, called, positive = (draws @ values for values in (said * right, said, right))
    with np.errstate(invalid="ignore"):
        micro = 2 * hits.sum(axis=1) / (called + positive).sum(axis=1)
        of_label = np.nan_to_num(2 * hits / (called + positive))[:, frequent]
    macro = of_label.mean(axis=1) if frequent.any() else np.full(len(draws), np.nan)
    columns: dict[str, Any] = {}
    for name, values in (("micro_f1", micro), ("macro_f1", macro)):
        low, high = np.nanpercentile(values[1:], [2.5, 97.5]) if np.isfinite(values[1:]).any() else (np.nan, np.nan)
        columns |= {name: rounded(values[0]), f"{name}_low": rounded(low), f"{name}_high": rounded(high)}
    return columns | {
        "macro_findings": int(frequent.sum()),
        "micro_precision": rounded(hits[0].sum() / max(1.0, called[0].sum())),
        "micro_recall": rounded(hits[0].sum() / max(1.0, positive[0].sum())),
    }


def readers(
    extractors: Sequence[str] = (RULES,), samples: Sequence[str] = ("test",), reports: int = 250
) -> list[Reader]:
    """Each extractor on each sample; the table compares with `RULES`, so they always read, too."""
    names = dict.fromkeys((RULES, *extractors))
    return [Reader(extractor=name, sample=sample, reports=reports) for sample in samples for name in names]
