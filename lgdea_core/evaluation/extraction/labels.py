"""NIH's 14 labels from findings (protocol "open-i 14, uncertain as absent").

A report is positive for a label if a finding of the row in `LABEL_OBSERVATIONS` has status present. Uncertain counts as
not positive: Open-i's coders indexed what a report asserts ("scarring or atelectasis" too) and left out what it only
considers ("may represent atelectasis"). A label 0 means not coded, so mentioned-as-absent and unmentioned are one.
Micro pools all (report, label) decisions; macro is the mean over labels with at least `MACRO_POSITIVES` positives.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lgdea_core.evaluation.extraction.counts import Counts, ratio
from lgdea_core.finding import Finding

PROTOCOL = "open-i 14, uncertain as absent"

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


def stated_labels(answers: Sequence[Sequence[Finding]]) -> pd.DataFrame:
    """Whether the findings of each report make it positive: one row a report, one column a label."""
    rows = [
        {label: any(_counts_for(label, finding) for finding in findings) for label in LABEL_OBSERVATIONS}
        for findings in answers
    ]
    return pd.DataFrame(rows, columns=list(LABEL_OBSERVATIONS), dtype=bool)


def _counts_for(label: str, finding: Finding) -> bool:
    words = finding.phrase.lower()
    return (
        finding.status == "present"
        and finding.observation in LABEL_OBSERVATIONS[label]
        and not any(word in words for word in UNCOUNTED_WORDS.get(label, ()))
    )


def score_labels(stated: pd.DataFrame, true: pd.DataFrame) -> dict[str, Any]:
    """Precision, recall and F1 of each label, micro and macro.

    Args:
        stated: `stated_labels` of what an extractor found.
        true: the same columns, 1 or True for positive, of the same reports in the same order.
    """
    of_rows = {label: (_rows(stated[label]), _rows(true[label] == 1)) for label in LABEL_OBSERVATIONS}
    counts = {label: Counts.of_sets(*rows) for label, rows in of_rows.items()}
    frequent = [count.scores for count in counts.values() if count.positives >= MACRO_POSITIVES]
    return {
        "protocol": PROTOCOL,
        "micro": sum(counts.values(), Counts()).scores,
        "macro": {
            name: ratio(sum(scores[name] for scores in frequent), len(frequent))
            for name in ("precision", "recall", "f1")
        },
        "macro_findings": len(frequent),
        "per_finding": {label: {**count.scores, "positives": count.positives} for label, count in counts.items()},
    }


def _rows(positive: pd.Series) -> frozenset[int]:
    return frozenset(positive.to_numpy().nonzero()[0].tolist())
