"""How well an extractor reads real reports: against Open-i's 14 labels and MeSH codes, and against another extractor.

    python -m lgdea_core.evidence.evaluate --extractor lexicon --root OPENI_FOLDER --json OUT
        [--agreement keywords+negspacy] [--disagreements PAGE.md]

OUT holds micro, macro and per_finding (protocol: `labels`), attributes (anatomy, side and severity; protocol: `mesh`),
agreement (definitions: `agreement`), reports and reports_per_second. An extractor is handed FINDINGS and IMPRESSION and
nothing else of a report. Reports without labels, or without either section, are left out and counted.
"""

import argparse
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lgdea_core.evaluation.extraction.agreement import differing, score_agreement, status_table
from lgdea_core.evaluation.extraction.counts import ratio
from lgdea_core.evaluation.extraction.labels import LABEL_OBSERVATIONS, score_labels, stated_labels
from lgdea_core.evaluation.extraction.mesh import ATTRIBUTES, score_attributes, stated_attributes
from lgdea_core.evaluation.extraction.reference import Reference, openi_reference
from lgdea_core.evidence.extract import EvidenceExtractor, accept_findings, make_extractor
from lgdea_core.evidence.llm import LanguageModelExtractor
from lgdea_core.finding import Finding

WORST_REPORTS = 50
"""Lines of each table of the page of disagreements."""

_logger = logging.getLogger("lgdea")


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
    lines += _label_table(reference, mine)
    if other is not None:
        lines += _observation_table(reference, readings, extractor, other)
    return "\n".join(lines) + "\n"


def _label_table(reference: Reference, mine: pd.DataFrame) -> list[str]:
    wrong = []
    for report_id, said, true in zip(
        reference.report_ids, mine.to_dict("records"), (reference.labels == 1).to_dict("records"), strict=True
    ):
        missed = [label for label in LABEL_OBSERVATIONS if true[label] and not said[label]]
        alarms = [label for label in LABEL_OBSERVATIONS if said[label] and not true[label]]
        if missed or alarms:
            wrong.append((report_id, ", ".join(missed), ", ".join(alarms), len(missed) + len(alarms)))
    worst = sorted(wrong, key=lambda row: -row[-1])[:WORST_REPORTS]
    return [
        f"## Against the labels: {len(wrong)} reports differ, the {len(worst)} worst",
        "",
        "| report | label missed | stated without the label |",
        "|---|---|---|",
        *(f"| {report_id} | {missed} | {alarms} |" for report_id, missed, alarms, _ in worst),
        "",
    ]


def _observation_table(reference: Reference, readings: Mapping[str, Reading], extractor: str, other: str) -> list[str]:
    tables = (status_table(readings[name].findings) for name in (extractor, other))
    pairs = zip(reference.report_ids, differing(*tables), strict=True)
    wrong = [(report_id, differences) for report_id, differences in pairs if differences]
    worst = sorted(wrong, key=lambda row: -len(row[1]))[:WORST_REPORTS]
    return [
        f"## Against `{other}`: {len(wrong)} reports differ, the {len(worst)} worst",
        "",
        f"| report | observation: `{extractor}` / `{other}` |",
        "|---|---|",
        *(
            f"| {report_id} | {', '.join(f'{name}: {one} / {two}' for name, (one, two) in differences.items())} |"
            for report_id, differences in worst
        ),
        "",
    ]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate an extractor on Open-i and write the result as JSON."""
    parser = argparse.ArgumentParser(prog="python -m lgdea_core.evidence.evaluate", description=main.__doc__)
    parser.add_argument("--extractor", default="lexicon", help="see lgdea_core.evidence.extract.make_extractor")
    parser.add_argument("--root", type=Path, required=True, help="folder with ecgen-radiology/ and the label table")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--agreement", metavar="OTHER", help="another extractor, to compare with")
    parser.add_argument("--disagreements", type=Path, metavar="PAGE", help="Markdown file to write: the worst reports")
    options = parser.parse_args(arguments)
    reference = openi_reference(options.root)
    names = [options.extractor, *([options.agreement] if options.agreement else [])]
    readings = {name: read_texts(make_extractor(name), reference.texts) for name in names}
    result = {"extractor": options.extractor, **evaluate_reading(readings[options.extractor], reference)}
    if options.agreement:
        tables = (status_table(readings[name].findings) for name in names)
        result["agreement"] = {"other": options.agreement, **score_agreement(*tables)}
    _write(options.json, json.dumps(result, indent=2) + "\n")
    if options.disagreements:
        _write(options.disagreements, disagreement_page(reference, readings, *names))
    _logger.info(
        "evaluate: micro F1 %.3f of %d reports, written to %s", result["micro"]["f1"], result["reports"], options.json
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
