"""How well an extractor reads real reports: findings of Open-i against the labels made from its manual MeSH coding.

    python -m lgdea_core.evidence.evaluate --extractor lexicon --root OPENI_FOLDER --json OUT

Counting rules (protocol "open-i 14, uncertain as absent"):

- A report is positive for a label if a finding of the row in `LABEL_OBSERVATIONS` has status present. Uncertain counts
  as not positive: the coders indexed what a report asserts ("scarring or atelectasis" too) and left out what it only
  considers ("may represent atelectasis"). A label 0 means not coded, so mentioned-as-absent and unmentioned are one.
- The extractor is handed FINDINGS and IMPRESSION and nothing else of a report.
- Micro pools all (report, label) decisions; macro is the mean over labels with at least `MACRO_POSITIVES` positives.
- Reports without labels, or without either section, are left out and counted.
"""

import argparse
import importlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lgdea_core.evidence.extract import EvidenceExtractor, accept_findings, make_extractor
from lgdea_core.evidence.schema import Finding
from lgdea_core.evidence.sections import readable_sections
from lgdea_core.vocabulary import NIH_FINDINGS

LABEL_OBSERVATIONS: dict[str, tuple[str, ...]] = {
    "atelectasis": ("atelectasis", "collapse"),
    "cardiomegaly": ("cardiomegaly",),
    "consolidation": ("consolidation",),
    "edema": ("edema",),
    "pleural effusion": ("pleural effusion",),
    "emphysema": ("emphysema",),
    "fibrosis": ("fibrosis",),
    "hernia": ("hernia",),
    "infiltration": ("infiltration",),
    "mass": ("mass",),
    "nodule": ("nodule",),
    "pleural thickening": ("pleural thickening",),
    "pneumonia": ("pneumonia",),
    "pneumothorax": ("pneumothorax",),
}
"""Label -> observations that count for it. Not counted although near, because the coders have codes of their own for
them: lung opacity, marking, scar and calcification (granulomas) for infiltration, fibrosis and nodule; blunt for
pleural effusion; hyperinflate for emphysema; engorgement for edema."""

UNCOUNTED_WORDS: dict[str, tuple[str, ...]] = {"hernia": ("hiatal", "hiatus", "hital")}
"""Label -> words of a phrase that keep it from counting. The publisher's column Hernia is 0 in every report, even those
coded "Hernia, Hiatal": hiatal hernias are not what it means."""

MACRO_POSITIVES = 5

_logger = logging.getLogger("lgdea")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Decisions on one label, or on all."""

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def scores(self) -> dict[str, float]:
        """Precision, recall and F1, each 0 where it has no denominator."""
        hits = self.true_positives
        return {
            "precision": _ratio(hits, hits + self.false_positives),
            "recall": _ratio(hits, hits + self.false_negatives),
            "f1": _ratio(2 * hits, 2 * hits + self.false_positives + self.false_negatives),
        }


def readable_text(report: str) -> str:
    """FINDINGS and IMPRESSION of a report under their headers, and nothing else of it."""
    sections = readable_sections(report)
    return "\n".join(f"{section.kind.upper()}: {report[section.start : section.end]}" for section in sections)


def evaluate_extractor(extractor: EvidenceExtractor, reports: Sequence[str], labels: pd.DataFrame) -> dict[str, Any]:
    """Precision, recall and F1 of an extractor (protocol: see the module).

    Args:
        extractor: asked once, for all reports.
        reports: full texts, in the order of `labels`.
        labels: one row a report, one 0/1 column for each of `LABEL_OBSERVATIONS`.

    Raises:
        ValueError: reports and labels differ in number, or a label column is missing.
    """
    missing = [label for label in LABEL_OBSERVATIONS if label not in labels.columns]
    if missing or len(labels) != len(reports):
        raise ValueError(
            f"evaluate_extractor: expected one row a report ({len(reports)}) and a column for each label, got "
            f"{len(labels)} rows and no column {missing}"
        )
    texts = [readable_text(report) for report in reports]
    began = time.perf_counter()
    answers = extractor.extract(texts)
    seconds = time.perf_counter() - began
    rejected: dict[str, int] = {}
    accepted = [accept_findings(text, findings, rejected) for text, findings in zip(texts, answers, strict=True)]
    counts = {label: _count(label, accepted, labels[label] == 1) for label in LABEL_OBSERVATIONS}
    return _summary(counts, len(reports), seconds, rejected)


def _count(label: str, answers: Sequence[Sequence[Finding]], truth: pd.Series) -> Counts:
    stated = pd.Series([any(_counts_for(label, finding) for finding in findings) for findings in answers], dtype=bool)
    truth = truth.reset_index(drop=True)
    return Counts(
        true_positives=int((stated & truth).sum()),
        false_positives=int((stated & ~truth).sum()),
        false_negatives=int((~stated & truth).sum()),
    )


def _counts_for(label: str, finding: Finding) -> bool:
    words = finding.phrase.lower()
    return (
        finding.status == "present"
        and finding.observation in LABEL_OBSERVATIONS[label]
        and not any(word in words for word in UNCOUNTED_WORDS.get(label, ()))
    )


def _summary(counts: dict[str, Counts], reports: int, seconds: float, rejected: dict[str, int]) -> dict[str, Any]:
    pooled = Counts(
        true_positives=sum(count.true_positives for count in counts.values()),
        false_positives=sum(count.false_positives for count in counts.values()),
        false_negatives=sum(count.false_negatives for count in counts.values()),
    )
    positives = {label: count.true_positives + count.false_negatives for label, count in counts.items()}
    frequent = [counts[label].scores for label in counts if positives[label] >= MACRO_POSITIVES]
    return {
        "protocol": "open-i 14, uncertain as absent",
        "micro": pooled.scores,
        "macro": {
            name: _ratio(sum(scores[name] for scores in frequent), len(frequent))
            for name in ("precision", "recall", "f1")
        },
        "macro_findings": len(frequent),
        "per_finding": {label: {**counts[label].scores, "positives": positives[label]} for label in counts},
        "rejected": rejected,
        "reports": reports,
        "reports_per_second": _ratio(reports, seconds),
    }


def evaluate_openi(extractor: str, root: Path) -> dict[str, Any]:
    """`evaluate_extractor` on the labelled reports of an Open-i folder.

    Raises:
        FileNotFoundError: the folder holds no reports.
        ValueError: no such extractor, or none of the reports has labels.
    """
    model = make_extractor(extractor)
    load_corpus = importlib.import_module("lgdea_core.data.corpora").load_corpus  # evidence needs no corpus otherwise
    corpus = load_corpus("openi", root)
    table = corpus.labels[corpus.labels["finding"].isin(NIH_FINDINGS.values())]
    if table.empty:
        raise ValueError(f"{root}: no labels; openi_gld_std14.csv must lie beside ecgen-radiology/")
    labels = table.pivot(index="study_id", columns="finding", values="value")
    studies = corpus.studies[corpus.studies["report"].notna()].set_index("study_id")
    ids = [study_id for study_id in studies.index if study_id in labels.index]
    result = evaluate_extractor(model, list(studies.loc[ids, "report"]), labels.loc[ids])
    return {"extractor": extractor, **result, "left_out": len(corpus.studies) - len(ids)}


def _ratio(part: int | float, whole: int | float) -> float:
    return part / whole if whole else 0.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate an extractor on Open-i and write the result as JSON."""
    parser = argparse.ArgumentParser(prog="python -m lgdea_core.evidence.evaluate", description=main.__doc__)
    parser.add_argument("--extractor", default="lexicon", help="see lgdea_core.evidence.extract.EXTRACTORS")
    parser.add_argument("--root", type=Path, required=True, help="folder with ecgen-radiology/ and the label table")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    result = evaluate_openi(options.extractor, options.root)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _logger.info(
        "evaluate: micro F1 %.3f of %d reports, written to %s", result["micro"]["f1"], result["reports"], options.json
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
