"""Evidence of many reports by an exchangeable extractor (LGDEA eq. 1).

python -m lgdea_core.evidence.extract --extractor openai:MODEL --corpus openi --root FOLDER --out evidence.parquet
"""

import importlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import pandas as pd
import spacy
from tqdm.auto import tqdm

from lgdea_core.command import Command, ending_mistakes
from lgdea_core.evidence.answers import HALLUCINATED, REPEATED
from lgdea_core.evidence.lexicon import LexiconExtractor, default_lexicon
from lgdea_core.evidence.llm import LanguageModelExtractor
from lgdea_core.evidence.sections import readable_sections
from lgdea_core.evidence.store import AnswerStats
from lgdea_core.evidence.together import InBothOrders, WithRules
from lgdea_core.finding import EVIDENCE_COLUMNS, Finding
from lgdea_core.paths import replacing, write_text

EXTRACTORS = ("lexicon", "keywords", "keywords+negspacy")
"""Rule extractors by name. The keyword ones are controls: what the rules of `lexicon` are worth."""

BACKENDS = {
    "transformers": ("lgdea_core.evidence.transformers_backend", "TransformersBackend"),
    "openai": ("lgdea_core.evidence.openai_backend", "OpenAIBackend"),
}
"""First part of a language model's name, `transformers:MODEL` or `openai:MODEL` -> class of where that model runs;
imported when asked for"""

READERS = {"+lexicon": WithRules, "+reversed": InBothOrders}
"""End of a language model's name -> how it reads; without one it reads once, alone"""

REPORTS_PER_CALL = 256
"""Reports handed to an extractor at once."""

SUFFIXES = (".parquet", ".jsonl")
"""Of the files evidence is written to."""

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
    """findings refused, and a language model's answers, by reason"""
    answers: AnswerStats | None = None
    """what a language model answered about these reports, in this run or before; None for rules"""
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
        terms = [
            (term, value)
            for term, (kind, value) in default_lexicon().terms.items()
            if kind == "observation" and term.islower()  # "CM" counts in capitals only
        ]
        ruler = self._nlp.add_pipe("entity_ruler", config={"phrase_matcher_attr": "LOWER"})
        ruler.add_patterns([{"label": name, "pattern": term} for term, name in terms])
        if negation:
            importlib.import_module("negspacy.negation")  # registers the pipe "negex"
            self._nlp.add_pipe("negex")

    def extract(self, reports: Sequence[str]) -> list[list[Finding]]:
        """Findings of each report: observation, status and the bare noun."""
        return [
            [
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
            for report in reports
        ]


def make_extractor(name: str) -> EvidenceExtractor:
    """An extractor by its name: one of `EXTRACTORS`, or a language model as `transformers:MODEL` or `openai:MODEL`.

    With `+lexicon` behind it, the model and the rules read together; the model's answers are the same and are stored
    once. With `+reversed` the model is asked twice; see `together`. A language model is loaded, or its server greeted,
    when the first report has to be asked about.

    Raises:
        ValueError: no such extractor; or OPENAI_BASE_URL is not set, see `openai_backend`.
    """
    if name == "lexicon":
        return LexiconExtractor()
    if name in ("keywords", "keywords+negspacy"):
        return KeywordExtractor(negation=name.endswith("negspacy"))
    place, _, model = name.partition(":")
    ending = next((ending for ending in READERS if model.endswith(ending)), "")
    model = model.removesuffix(ending)
    if place in BACKENDS and model and not model.endswith(tuple(READERS)):
        module, backend = BACKENDS[place]
        extractor = READERS.get(ending, LanguageModelExtractor)
        return extractor(getattr(importlib.import_module(module), backend)(model))
    raise ValueError(
        f"no evidence extractor {name!r}; available: {', '.join(EXTRACTORS)}, transformers:MODEL (hub id or folder), "
        f"openai:MODEL (name on the server at OPENAI_BASE_URL), and either with one of {', '.join(READERS)} behind it"
    )


def extract_evidence(
    studies: pd.DataFrame, extractor: str = "lexicon", progress: bool = True
) -> tuple[pd.DataFrame, ExtractionStats]:
    """Findings of all reports of a table of studies, one row each, in the order of the studies.

    A study without a report is skipped and counted. A phrase that is not in the report at its offsets is a
    hallucination: its finding is rejected and counted. A language model is asked only for what its store lacks.

    Args:
        studies: needs the columns study_id and report (text or missing).
        extractor: see `make_extractor`.
        progress: show a bar.

    Returns:
        Table of `EVIDENCE_COLUMNS`, report_id being the study_id; and what was counted.

    Raises:
        ValueError: a column is missing, or the extractor is unknown or did not answer for every report.
        RuntimeError: a language model cannot be asked, or stopped answering.
    """
    missing = [column for column in ("study_id", "report") if column not in studies.columns]
    if missing:
        raise ValueError(f"extract_evidence: table studies lacks column(s) {missing}; it has {list(studies.columns)}")
    model = make_extractor(extractor)
    language_model = model if isinstance(model, LanguageModelExtractor) else None
    written = studies.loc[studies["report"].notna(), ["study_id", "report"]]
    ids, reports = list(written["study_id"]), list(written["report"])
    rows, rejected, without_evidence, began = [], {}, 0, time.perf_counter()
    read = model.extract
    if language_model:
        language_model.ask(reports, progress)  # all at once: batches would wait for their slowest report
        read, rejected = language_model.read, language_model.rejected
    for start in tqdm(range(0, len(reports), REPORTS_PER_CALL), disable=not progress, desc="evidence", unit="batch"):
        batch = reports[start : start + REPORTS_PER_CALL]
        answers = read(batch)
        if len(answers) != len(batch):
            raise ValueError(f"extractor {extractor!r} returned {len(answers)} answers for {len(batch)} reports")
        for study_id, report, findings in zip(ids[start:], batch, answers, strict=False):
            accepted = accept_findings(report, findings, rejected)
            without_evidence += not accepted
            rows += [(study_id, *(getattr(finding, column) for column in EVIDENCE_COLUMNS[1:])) for finding in accepted]
    stats = ExtractionStats(
        extractor=extractor,
        reports=len(reports),
        without_report=len(studies) - len(reports),
        empty_reports=sum(not report.strip() for report in reports),
        findings=len(rows),
        without_evidence=without_evidence,
        rejected=rejected,
        answers=language_model.statistics() if language_model else None,
        seconds=time.perf_counter() - began,
    )
    _logger.info("evidence: %s", stats)
    return pd.DataFrame(rows, columns=list(EVIDENCE_COLUMNS)), stats


def accept_findings(report: str, findings: Sequence[Finding], rejected: dict[str, int]) -> list[Finding]:
    """Findings whose phrase stands in the report at its offsets, each once; the others are counted in `rejected`."""
    accepted: dict[Finding, None] = {}
    for finding in findings:
        if report[finding.start : finding.end] != finding.phrase:
            reason = "wrong offsets" if finding.phrase in report else HALLUCINATED
        elif finding in accepted:
            reason = REPEATED
        else:
            accepted[finding] = None
            continue
        rejected[reason] = rejected.get(reason, 0) + 1
    return list(accepted)


def write_evidence(evidence: pd.DataFrame, path: Path) -> None:
    """Write the table as parquet, or as one JSON object a line, whichever the name ends in.

    Raises:
        ValueError: it ends in neither.
    """
    _check_suffix(path)
    with replacing(path) as part:
        if path.suffix == ".parquet":
            evidence.to_parquet(part, index=False)
        else:
            evidence.to_json(part, orient="records", lines=True, force_ascii=False)


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"evidence file {path}: expected a name that ends in {' or '.join(SUFFIXES)}; rename it")


def main(arguments: Sequence[str] | None = None) -> None:
    """Extract the evidence of a corpus into a table, with what was counted as JSON beside it.

    A language model's answers are kept in the store (LGDEA_EVIDENCE_STORE): killed at any point, the same command asks
    only for what is missing, and one whose answers are all stored exports them without a model.
    """
    parser = Command(prog="python -m lgdea_core.evidence.extract", description=main.__doc__)
    parser.add_argument(
        "--extractor",
        default="lexicon",
        help="lexicon, transformers:MODEL, openai:MODEL, openai:MODEL+lexicon, ...",
    )
    parser.add_argument("--corpus", required=True, help="layout of the folder, such as openi, or folder for your own")
    parser.add_argument("--root", type=Path, required=True, help="the corpus's folder")
    parser.add_argument("--out", type=Path, required=True, help="evidence.parquet or evidence.jsonl to write")
    options = parser.parse_args(arguments)
    load_corpus = importlib.import_module("lgdea_core.data.corpora").load_corpus  # evidence needs no corpus otherwise
    with ending_mistakes(parser):
        _check_suffix(options.out)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        evidence, stats = extract_evidence(load_corpus(options.corpus, options.root).studies, options.extractor)
        write_evidence(evidence, options.out)
        counted = options.out.with_suffix(".stats.json")
        write_text(counted, json.dumps(asdict(stats), indent=2) + "\n")
    _logger.info("evidence: %d findings written to %s, counts to %s", len(evidence), options.out, counted)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    _logger.setLevel(logging.INFO)  # and not the root: the HTTP client has a line for every request
    main()
