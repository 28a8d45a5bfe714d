"""Reports whose findings are known: Open-i by its labels and MeSH codes, the phantom by what was written."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from lgdea_core.evaluation.extraction.labels import LABEL_OBSERVATIONS, stated_labels
from lgdea_core.evaluation.extraction.mesh import Attributes, coded_attributes, stated_attributes
from lgdea_core.evidence.sections import readable_sections
from lgdea_core.vocabulary import NIH_FINDINGS

OPENI_FOLDER = "openi"

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
    """see `mesh`"""
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
    from lgdea_core.data.corpora import load_corpus  # extracting evidence needs no corpus

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
        _logger.warning("MeSH qualifiers in no table of evidence/mesh.py, not judged: %s", dict(unknown))
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
    from lgdea_core.data.phantom import PhantomConfig
    from lgdea_core.data.phantom.study import plan_study

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
    if data is not None and (data / OPENI_FOLDER / "ecgen-radiology").is_dir():
        return openi_reference(data / OPENI_FOLDER).first(reports)
    return phantom_reference(reports, seed)
