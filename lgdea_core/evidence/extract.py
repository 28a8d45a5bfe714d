"""Evidence of many reports by an exchangeable extractor (LGDEA eq. 1)."""

import importlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import pandas as pd
import spacy
from tqdm.auto import tqdm

from lgdea_core.evidence.lexicon import LexiconExtractor, default_lexicon
from lgdea_core.evidence.schema import EVIDENCE_COLUMNS, Finding
from lgdea_core.evidence.sections import readable_sections

EXTRACTORS = ("lexicon", "keywords", "keywords+negspacy")
"""Names `make_extractor` knows. The keyword ones are controls: what the rules of `lexicon` are worth."""

REPORTS_PER_CALL = 256
"""Reports handed to an extractor at once."""

_logger = logging.getLogger("lgdea")


@runtime_checkable
class EvidenceExtractor(Protocol):
    """Whatever turns reports into findings: rules, a local model, a server."""

    def extract(self, reports: Sequence[str]) -> list[list[Finding]]:
        """The findings of each report, as many lists as reports, in their order."""
        ...


@dataclass(frozen=True, kw_only=True)
class ExtractionStats:
    """What an extraction did; goes into the run's provenance. Holds no report text."""

    extractor: str
    """name it was chosen by"""
    reports: int
    """reports handed to the extractor, the empty ones too"""
    without_report: int
    """studies that are only an image: skipped"""
    empty_reports: int
    """reports of white space only"""
    findings: int
    """rows of the evidence table"""
    without_evidence: int
    """reports, the empty ones too, that gave no accepted finding"""
    rejected: dict[str, int] = field(default_factory=dict)
    """findings refused, by reason"""
    seconds: float
    """wall time of the extraction"""

    @property
    def reports_per_second(self) -> float:
        """Speed, 0 for an extraction of nothing."""
        return self.reports / self.seconds if self.seconds > 0 else 0.0


class KeywordExtractor:
    """Control: the lexicon's nouns wherever they stand, with negspacy's NegEx or without any sense of denial.

    It shows why `lexicon` has scope rules of its own: NegEx knows one yes or no for a finding, no doubt, no place and
    state ("heart size is normal"), and carries a denial over commas to findings that are there.
    """

    def __init__(self, negation: bool) -> None:
        self._nlp = spacy.blank("en")
        self._nlp.add_pipe("sentencizer")
        terms = [(term, value) for term, (kind, value) in default_lexicon().terms.items() if kind == "observation"]
        ruler = self._nlp.add_pipe("entity_ruler", config={"phrase_matcher_attr": "LOWER"})
        ruler.add_patterns([{"label": name, "pattern": term} for term, name in terms])
        if negation:
            importlib.import_module("negspacy.negation")  # registers the pipe "negex"
            self._nlp.add_pipe("negex")

    def extract(self, reports: Sequence[str]) -> list[list[Finding]]:
        """Findings of each report: observation, status and the bare noun."""
        return [self._extract_one(report) for report in reports]

    def _extract_one(self, report: str) -> list[Finding]:
        return [
            Finding(
                observation=entity.label_,
                status="absent" if entity.has_extension("negex") and entity._.negex else "present",
                phrase=entity.text,
                start=section.start + entity.start_char,
                end=section.start + entity.end_char,
                section=section.kind,
            )
            for section in readable_sections(report)
            for entity in self._nlp(report[section.start : section.end]).ents
        ]


def make_extractor(name: str) -> EvidenceExtractor:
    """An extractor by its name.

    Raises:
        ValueError: no such extractor.
    """
    if name == "lexicon":
        return LexiconExtractor()
    if name in ("keywords", "keywords+negspacy"):
        return KeywordExtractor(negation=name.endswith("negspacy"))
    raise ValueError(f"no evidence extractor {name!r}; available: {', '.join(EXTRACTORS)}")


def extract_evidence(
    studies: pd.DataFrame, extractor: str = "lexicon", progress: bool = True
) -> tuple[pd.DataFrame, ExtractionStats]:
    """Findings of all reports of a table of studies, one row each, in the order of the studies.

    A study without a report is skipped and counted. A phrase that is not in the report at its offsets is a
    hallucination: its finding is rejected and counted.

    Args:
        studies: needs the columns study_id and report (text or missing).
        extractor: see `make_extractor`.
        progress: show a bar.

    Returns:
        Table of `EVIDENCE_COLUMNS`, report_id being the study_id; and what was counted.

    Raises:
        ValueError: a column is missing, or the extractor is unknown or did not answer for every report.
    """
    missing = [column for column in ("study_id", "report") if column not in studies.columns]
    if missing:
        raise ValueError(f"extract_evidence: table studies lacks column(s) {missing}; it has {list(studies.columns)}")
    model = make_extractor(extractor)
    written = studies.loc[studies["report"].notna(), ["study_id", "report"]]
    ids, reports = list(written["study_id"]), list(written["report"])
    rows, rejected, without_evidence, began = [], {}, 0, time.perf_counter()
    for start in tqdm(range(0, len(reports), REPORTS_PER_CALL), disable=not progress, desc="evidence", unit="batch"):
        batch = reports[start : start + REPORTS_PER_CALL]
        for study_id, report, findings in zip(ids[start:], batch, _answers(model, batch, extractor), strict=False):
            accepted = accept_findings(report, findings, rejected)
            without_evidence += not accepted
            rows += [_row(study_id, finding) for finding in accepted]
    stats = ExtractionStats(
        extractor=extractor,
        reports=len(reports),
        without_report=len(studies) - len(reports),
        empty_reports=sum(not report.strip() for report in reports),
        findings=len(rows),
        without_evidence=without_evidence,
        rejected=rejected,
        seconds=time.perf_counter() - began,
    )
    _logger.info("evidence: %s", stats)
    return pd.DataFrame(rows, columns=list(EVIDENCE_COLUMNS)), stats


def accept_findings(report: str, findings: Sequence[Finding], rejected: dict[str, int]) -> list[Finding]:
    """Findings whose phrase stands in the report at its offsets, each once; the others are counted in `rejected`."""
    accepted: dict[Finding, None] = {}
    for finding in findings:
        if report[finding.start : finding.end] != finding.phrase:
            reason = "wrong offsets" if finding.phrase in report else "phrase not in report"
        elif finding in accepted:
            reason = "repeated"
        else:
            accepted[finding] = None
            continue
        rejected[reason] = rejected.get(reason, 0) + 1
    return list(accepted)


def _answers(model: EvidenceExtractor, batch: Sequence[str], name: str) -> list[list[Finding]]:
    answers = model.extract(batch)
    if len(answers) != len(batch):
        raise ValueError(f"extractor {name!r} returned {len(answers)} answers for {len(batch)} reports")
    return answers


def _row(study_id: str, finding: Finding) -> tuple:
    return (study_id, *(getattr(finding, column) for column in EVIDENCE_COLUMNS[1:]))
