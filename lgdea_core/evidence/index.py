"""The evidence of all reports as arrays: distinct phrases, the statements they make, and who holds them."""

import numpy as np
import pandas as pd
from jaxtyping import Int
from scipy import sparse

from lgdea_core.finding import _POSITION, EvidenceIndex, _one_hot
from lgdea_core.vocabulary import DIAGNOSTIC_FINDINGS, NO_FINDING

NORMAL_PHRASE = "no acute cardiopulmonary abnormality"
"""Stands in for a report that reports nothing as present but denies findings; how often is counted."""


def index_evidence(evidence: pd.DataFrame, report_ids: tuple[str, ...]) -> EvidenceIndex:
    """Index the present diagnostic findings of these reports.

    Absent and uncertain findings are not lesions and stay out, as does what is not among `DIAGNOSTIC_FINDINGS`; a
    report with only absent ones counts as normal.

    Args:
        evidence: rows of `evidence.parquet`; rows of other reports are left out.
        report_ids: order of the rows of the membership matrices.
    """
    row_of = {report_id: row for row, report_id in enumerate(report_ids)}
    known = evidence[evidence["report_id"].isin(row_of)]
    incidental = ~known["observation"].isin(DIAGNOSTIC_FINDINGS)
    incidentals = int((incidental & (known["status"] == "present")).sum())
    known = known[~incidental]
    present = known[known["status"] == "present"]
    claimed = set(known.loc[known["status"] != "absent", "report_id"])
    denied = sorted(set(known["report_id"]) - claimed, key=row_of.__getitem__)
    implied = pd.DataFrame({"report_id": denied, "phrase": NORMAL_PHRASE, "observation": NO_FINDING})
    rows = pd.concat([present[["report_id", "phrase", "observation", "laterality", "region"]], implied])

    texts = rows["phrase"].str.lower().str.split().str.join(" ")
    keys = list(
        zip(rows["observation"], rows["laterality"].fillna(""), rows["region"].fillna(""), strict=True)
    )  # a wording that makes two statements is two phrases
    statements, statement_of_row = _distinct(keys)
    phrases, phrase_of_row = _distinct(list(zip(texts, statement_of_row, strict=True)))
    report_of_row = rows["report_id"].map(row_of).to_numpy(dtype=np.int64)

    def membership(columns: Int[np.ndarray, "_"], width: int) -> sparse.csr_matrix:
        ones = np.ones(len(rows), dtype=np.float32)
        return sparse.csr_matrix((ones, (report_of_row, columns)), shape=(len(report_ids), width))

    # What a report both states and denies counts as stated, and one that states any finding denies that there is none.
    status = np.zeros((len(report_ids), len(DIAGNOSTIC_FINDINGS)), dtype=np.float32)
    for said, value in ((known[known["status"] == "absent"], -1.0), (rows, 1.0)):
        status[said["report_id"].map(row_of).to_numpy(int), said["observation"].map(_POSITION).to_numpy(int)] = value
    normal = _POSITION[NO_FINDING]
    status[(np.delete(status, normal, axis=1) > 0).any(axis=1), normal] = -1.0

    report_statements = membership(statement_of_row, len(statements))
    report_statements.data[:] = 1.0
    return EvidenceIndex(
        report_ids=report_ids,
        phrases=tuple(text for text, _ in phrases),
        statements=tuple(statements),
        phrase_statement=np.array([statement for _, statement in phrases], dtype=np.int64),
        report_phrases=membership(phrase_of_row, len(phrases)),
        report_statements=report_statements,
        report_findings=sparse.csr_matrix(status),
        incidental=incidentals,
        implied_normal=len(denied),
        without_evidence=len(report_ids) - len(set(rows["report_id"])),
    )


def index_reports(reports: list[str], report_ids: tuple[str, ...]) -> EvidenceIndex:
    """Every report as one phrase that makes a statement of its own: the control without evidence extraction.

    Reports of the same words share it.
    """
    texts, text_of = _distinct([" ".join(report.lower().split()) for report in reports])
    membership = _one_hot(text_of, len(texts))
    return EvidenceIndex(
        report_ids=report_ids,
        phrases=tuple(texts),
        statements=tuple((text, "", "") for text in texts),
        phrase_statement=np.arange(len(texts)),
        report_phrases=sparse.csr_matrix(membership),
        report_statements=sparse.csr_matrix(membership),
        report_findings=sparse.csr_matrix((len(reports), len(DIAGNOSTIC_FINDINGS)), dtype=np.float32),
        incidental=0,
        implied_normal=0,
        without_evidence=0,
    )


def _distinct(values: list) -> tuple[list, Int[np.ndarray, "_"]]:
    """The distinct values in sorted order, and the index of each value among them."""
    distinct = sorted(set(values))
    index_of = {value: index for index, value in enumerate(distinct)}
    return distinct, np.array([index_of[value] for value in values], dtype=np.int64)
