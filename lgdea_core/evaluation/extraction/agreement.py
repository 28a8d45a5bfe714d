"""Whether two extractors read the same reports the same way, whoever is right.

Each report gives each observation one status: the strongest of its findings (present, then uncertain, then absent), or
"unmentioned". Agreement of an observation is Cohen's kappa over the reports in these four categories, and for each
status the F1 of one extractor against the other, `2 both / (first + second)`, the same whichever counts as the truth.
Micro pools all (report, observation) pairs of observations that at least one of the two ever states.

An observation that the lexicon does not know is counted under "other": what an extractor invents may hold words of a
report, and no report text leaves this module.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from sklearn.metrics import cohen_kappa_score

from lgdea_core.evidence.answers import OBSERVATIONS
from lgdea_core.finding import Finding

STRENGTH = ("unmentioned", "absent", "uncertain", "present")
"""Statuses of an observation in a report; a later one wins."""
UNMENTIONED = STRENGTH[0]
OTHER = "other"


def status_table(answers: Sequence[Sequence[Finding]]) -> pd.DataFrame:
    """One row a report, one column an observation that any report states, entries of `STRENGTH`."""
    rows: list[dict[str, str]] = []
    for findings in answers:
        row: dict[str, str] = {}
        for finding in findings:
            name = finding.observation if finding.observation in OBSERVATIONS else OTHER
            row[name] = max(row.get(name, UNMENTIONED), finding.status, key=STRENGTH.index)
        rows.append(row)
    columns = sorted({name for row in rows for name in row})
    return pd.DataFrame(rows, columns=columns, index=range(len(rows)), dtype=object).fillna(UNMENTIONED)


def score_agreement(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Any]:
    """Kappa and F1 by status, pooled (`micro`) and of each observation (definitions: see the module).

    Args:
        first: `status_table` of one extractor.
        second: of another, on the same reports in the same order.

    Returns:
        Kappa is None where both give every report the same one category, F1 where neither states that status.

    Raises:
        ValueError: the tables differ in their number of reports.
    """
    if len(first) != len(second):
        raise ValueError(f"score_agreement: both must have read the same reports, got {len(first)} and {len(second)}")
    first, second = _aligned(first, second)
    return {
        "micro": _agreement(first.stack(), second.stack()),
        "per_observation": {
            name: {
                **_agreement(first[name], second[name]),
                "reports": int(((first[name] != UNMENTIONED) | (second[name] != UNMENTIONED)).sum()),
            }
            for name in first.columns
        },
    }


def differing(first: pd.DataFrame, second: pd.DataFrame) -> list[dict[str, tuple[str, str]]]:
    """Of each report, the observations to which two extractors give different statuses, with both."""
    first, second = _aligned(first, second)
    pairs = zip(first.to_dict("records"), second.to_dict("records"), strict=True)
    return [{str(name): (row[name], other[name]) for name in row if row[name] != other[name]} for row, other in pairs]


def _aligned(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    columns = sorted({*first.columns, *second.columns})
    return tuple(table.reindex(columns=columns, fill_value=UNMENTIONED) for table in (first, second))


def _agreement(first: pd.Series, second: pd.Series) -> dict[str, float | None]:
    undefined = pd.concat([first, second]).nunique() < 2
    scores: dict[str, float | None] = {
        "kappa": None if undefined else float(cohen_kappa_score(first, second, labels=list(STRENGTH)))
    }
    for status in reversed(STRENGTH[1:]):
        stated = int((first == status).sum() + (second == status).sum())
        both = int(((first == status) & (second == status)).sum())
        scores[status] = 2 * both / stated if stated else None
    return scores
