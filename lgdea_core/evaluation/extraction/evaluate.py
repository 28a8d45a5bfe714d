"""How well an extractor reads reports whose findings are known: Open-i by its coders, the phantom by what was written.

    python -m lgdea_core.evaluation.extraction.evaluate --extractor lexicon --root OPENI_FOLDER --json OUT
        [--agreement keywords+negspacy] [--disagreements PAGE.md]

OUT holds micro, macro and per_finding (protocol of labels: `scores`), attributes (anatomy, side and severity; protocol
of attributes: `scores`), agreement (definitions: `agreement`), reports and reports_per_second. An extractor is handed
FINDINGS and IMPRESSION and nothing else of a report. Reports without labels, or without either section, are left out
and counted.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lgdea_core.command import Command, check_target, ending_mistakes
from lgdea_core.data.corpora import load_corpus
from lgdea_core.data.phantom import PhantomConfig, plan_study
from lgdea_core.evaluation.extraction.agreement import differing, score_agreement, status_table
from lgdea_core.evaluation.extraction.scores import (
    ATTRIBUTES,
    LABEL_OBSERVATIONS,
    Attributes,
    coded_attributes,
    ratio,
    score_attributes,
    score_labels,
    stated_attributes,
    stated_labels,
)
from lgdea_core.evidence.extract import EvidenceExtractor, accept_findings, make_extractor
from lgdea_core.evidence.llm import LanguageModelExtractor
from lgdea_core.evidence.sections import readable_sections
from lgdea_core.finding import Finding
from lgdea_core.paths import write_text
from lgdea_core.vocabulary import NIH_FINDINGS

WORST_REPORTS = 50
"""Lines of each table of the page of disagreements."""

_logger = logging.getLogger("lgdea")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Reports with their truth; the three tables have one entry a report, in the same order."""

    name: str
    """what the truth is"""
    report_ids: tuple[str, ...]
    texts: tuple[str, ...]
    """what an extractor is handed: FINDINGS and IMPRESSION, and nothing else of a report"""
    labels: pd.DataFrame
    """one 0/1 column for each of `LABEL_OBSERVATIONS`"""
    attributes: tuple[Mapping[str, Attributes], ...]
    """of each report, family -> attributes, as `scores` defines them"""
    left_out: int = 0
    """reports without labels, or without either section"""

    def __post_init__(self) -> None:
        missing = [label for label in LABEL_OBSERVATIONS if label not in self.labels.columns]
        counts = {len(self.report_ids), len(self.texts), len(self.labels), len(self.attributes)}
        if missing or len(counts) > 1:
            raise ValueError(
                f"Reference {self.name}: expected one text, one row of labels and one set of attributes a report, and "
                f"a column for each label; got {len(self.report_ids)} ids, {len(self.texts)} texts, "
                f"{len(self.labels)} rows, {len(self.attributes)} sets and no column {missing}"
            )

    def first(self, reports: int) -> "Reference":
        """The same with its first reports only, for an extractor that is slow."""
        return replace(
            self,
            report_ids=self.report_ids[:reports],
            texts=self.texts[:reports],
            labels=self.labels.iloc[:reports],
            attributes=self.attributes[:reports],
            left_out=self.left_out + max(0, len(self.report_ids) - reports),
        )


def readable_text(report: str) -> str:
    """FINDINGS and IMPRESSION of a report under their headers, and nothing else of it."""
    sections = readable_sections(report)
    return "\n".join(f"{section.kind.upper()}: {report[section.start : section.end]}" for section in sections)


def openi_reference(root: Path) -> Reference:
    """The labelled reports of an Open-i folder.

    Labels and MeSH codes are of one origin, the coders, so neither may reach an extractor.

    Raises:
        FileNotFoundError: the folder holds no reports.
        ValueError: none of the reports has labels.
    """
    corpus = load_corpus("openi", root)
    table = corpus.labels[corpus.labels["finding"].isin(NIH_FINDINGS.values())]
    if table.empty:
        raise ValueError(f"{root}: no labels; openi_gld_std14.csv must lie beside ecgen-radiology/")
    labels = table.pivot(index="study_id", columns="finding", values="value")
    studies = corpus.studies[corpus.studies["report"].notna()].set_index("study_id")
    ids = [study_id for study_id in studies.index if study_id in labels.index]
    unknown: Counter[str] = Counter()
    attributes = tuple(coded_attributes(codes, unknown) for codes in studies.loc[ids, "mesh"])
    if unknown:
        _logger.warning("MeSH qualifiers in no table of extraction/scores.py, not judged: %s", dict(unknown))
    return Reference(
        name="Open-i, labels and MeSH codes",
        report_ids=tuple(ids),
        texts=tuple(readable_text(report) for report in studies.loc[ids, "report"]),
        labels=labels.loc[ids],
        attributes=attributes,
        left_out=len(corpus.studies) - len(ids),
    )


def phantom_reference(reports: int, seed: int = 0) -> Reference:
    """Reports of the phantom, judged by the evidence they were written from, in the same form as Open-i's truth.

    Args:
        reports: how many to write; no film is painted.
        seed: of the phantom.
    """
    config = PhantomConfig(studies=reports, seed=seed)
    plans = [plan_study(config, index) for index in range(reports)]
    return Reference(
        name="phantom, evidence as written",
        report_ids=tuple(plan.study_id for plan in plans),
        texts=tuple(readable_text(plan.report) for plan in plans),
        labels=stated_labels([plan.evidence for plan in plans]),
        attributes=tuple(stated_attributes(plan.evidence) for plan in plans),
    )


def find_reference(data: Path | None, reports: int, seed: int = 0) -> Reference:
    """At most so many reports of Open-i where the data folder holds it, else of the phantom.

    Args:
        data: folder with one sub-folder per corpus, or None.
        reports: how many at most.
        seed: of the phantom.
    """
    if data is not None and (data / "openi" / "ecgen-radiology").is_dir():
        return openi_reference(data / "openi").first(reports)
    return phantom_reference(reports, seed)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What an extractor made of some texts."""

    findings: tuple[list[Finding], ...]
    """accepted ones, one list a text"""
    rejected: dict[str, int]
    """findings refused, and a language model's answers, by reason"""
    seconds: float
    """wall time of the extraction alone"""


def read_texts(extractor: EvidenceExtractor, texts: Sequence[str]) -> Reading:
    """Ask an extractor once, for all texts; findings whose phrase is not verbatim are refused.

    What a language model answered before comes from its store, so its seconds are those of what was missing.
    """
    began = time.perf_counter()
    answers = extractor.extract(texts)
    seconds = time.perf_counter() - began
    rejected = dict(extractor.rejected) if isinstance(extractor, LanguageModelExtractor) else {}
    accepted = [accept_findings(text, findings, rejected) for text, findings in zip(texts, answers, strict=True)]
    return Reading(findings=tuple(accepted), rejected=rejected, seconds=seconds)


def evaluate_reading(reading: Reading, reference: Reference) -> dict[str, Any]:
    """Scores of a reading of a reference's texts, by label and by attribute."""
    stated = [stated_attributes(findings) for findings in reading.findings]
    return {
        "truth": reference.name,
        **score_labels(stated_labels(reading.findings), reference.labels),
        "attributes": score_attributes(stated, reference.attributes),
        "rejected": reading.rejected,
        "reports": len(reference.report_ids),
        "reports_per_second": ratio(len(reference.report_ids), reading.seconds),
        "left_out": reference.left_out,
    }


def evaluation_table(results: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Results of several extractors side by side: a row each for micro, macro, every label with a positive, attributes.

    Args:
        results: `evaluate_reading` by name of the extractor, all on one reference.
    """
    columns = {}
    for name, result in results.items():
        rows = {("14 labels", which): result[which] for which in ("micro", "macro")}
        rows |= {("label", label): scores for label, scores in result["per_finding"].items() if scores["positives"]}
        rows |= {("attribute", attribute): result["attributes"][attribute] for attribute in ATTRIBUTES}
        columns |= {
            (name, score): {row: values[score] for row, values in rows.items()}
            for score in ("precision", "recall", "f1")
        }
    return pd.DataFrame(columns)


def disagreement_page(
    reference: Reference, readings: Mapping[str, Reading], extractor: str, other: str | None = None
) -> str:
    """Markdown: the reports on which an extractor and the labels differ most, then those where two extractors do.

    Report ids, labels and observations only, never a word of a report.
    """
    mine = stated_labels(readings[extractor].findings)
    lines = [f"# Where `{extractor}` disagrees", "", f"Truth: {reference.name}. {len(mine)} reports.", ""]
    wrong = []
    for report_id, said, true in zip(
        reference.report_ids, mine.to_dict("records"), (reference.labels == 1).to_dict("records"), strict=True
    ):
        missed = [label for label in LABEL_OBSERVATIONS if true[label] and not said[label]]
        alarms = [label for label in LABEL_OBSERVATIONS if said[label] and not true[label]]
        wrong.append((len(missed) + len(alarms), f"| {report_id} | {', '.join(missed)} | {', '.join(alarms)} |"))
    lines += _worst("the labels", ["| report | label missed | stated without the label |", "|---|---|---|"], wrong)
    if other is not None:
        tables = (status_table(readings[name].findings) for name in (extractor, other))
        wrong = []
        for report_id, differences in zip(reference.report_ids, differing(*tables), strict=True):
            listed = ", ".join(f"{name}: {one} / {two}" for name, (one, two) in differences.items())
            wrong.append((len(differences), f"| {report_id} | {listed} |"))
        lines += _worst(f"`{other}`", [f"| report | observation: `{extractor}` / `{other}` |", "|---|---|"], wrong)
    return "\n".join(lines) + "\n"


def _worst(against: str, header: list[str], reports: list[tuple[int, str]]) -> list[str]:
    """A table of the reports that differ in most ways, the worst first."""
    wrong = sorted((report for report in reports if report[0]), key=lambda report: -report[0])
    worst = [line for _, line in wrong[:WORST_REPORTS]]
    return [f"## Against {against}: {len(wrong)} reports differ, the {len(worst)} worst", "", *header, *worst, ""]


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate an extractor on Open-i and write the result as JSON."""
    parser = Command(prog="python -m lgdea_core.evaluation.extraction.evaluate", description=main.__doc__)
    parser.add_argument("--extractor", default="lexicon", help="see lgdea_core.evidence.extract.make_extractor")
    parser.add_argument("--root", type=Path, required=True, help="folder with ecgen-radiology/ and the label table")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--agreement", metavar="OTHER", help="another extractor, to compare with")
    parser.add_argument("--disagreements", type=Path, metavar="PAGE", help="Markdown file to write: the worst reports")
    options = parser.parse_args(arguments)
    with ending_mistakes(parser):
        for path in filter(None, (options.json, options.disagreements)):
            path.parent.mkdir(parents=True, exist_ok=True)
            check_target(path)
        reference = openi_reference(options.root)
        names = [options.extractor, *([options.agreement] if options.agreement else [])]
        readings = {name: read_texts(make_extractor(name), reference.texts) for name in names}
        result = {"extractor": options.extractor, **evaluate_reading(readings[options.extractor], reference)}
        if options.agreement:
            tables = (status_table(readings[name].findings) for name in names)
            result["agreement"] = {"other": options.agreement, **score_agreement(*tables)}
        write_text(options.json, json.dumps(result, indent=2) + "\n")
        if options.disagreements:
            write_text(options.disagreements, disagreement_page(reference, readings, *names))
    _logger.info(
        "evaluate: micro F1 %.3f of %d reports, written to %s", result["micro"]["f1"], result["reports"], options.json
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
