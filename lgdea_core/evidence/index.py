"""The evidence of all reports as arrays: distinct phrases, the statements they make, and who holds them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import sparse

from lgdea_core.vocabulary import DIAGNOSTIC_FINDINGS, NO_FINDING

NORMAL_PHRASE = "no acute cardiopulmonary abnormality"
"""Stands in for a report that reports nothing as present but denies findings; how often is counted."""
_POSITION = {finding: index for index, finding in enumerate(DIAGNOSTIC_FINDINGS)}


@dataclass(frozen=True, kw_only=True)
class EvidenceIndex:
    """Present findings of a list of reports.

    A *phrase* is a distinct wording; a *statement* is what it says: (observation, laterality, region). Paraphrases
    share a statement.
    """

    report_ids: tuple[str, ...]
    phrases: tuple[str, ...]
    statements: tuple[tuple[str, str, str], ...]
    """observation, laterality or "", region or "" """
    phrase_statement: Int[np.ndarray, "phrases"]
    report_phrases: sparse.csr_matrix
    """(reports, phrases), how often"""
    report_statements: sparse.csr_matrix
    """(reports, statements), 0 or 1"""
    report_findings: sparse.csr_matrix
    """(reports, `DIAGNOSTIC_FINDINGS`), 1 where a report states the finding, -1 where it denies it (one that states any
    denies that there is none)"""
    incidental: int
    """present findings left out: no `DIAGNOSTIC_FINDINGS` (devices, old fractures, a tortuous aorta)"""
    implied_normal: int
    """reports that deny findings and claim none, given `NORMAL_PHRASE`"""
    without_evidence: int
    """reports the extractor found nothing in: isolated, never given an invented relation"""

    @property
    def observations(self) -> list[str]:
        """Observation of each phrase."""
        return [self.statements[index][0] for index in self.phrase_statement]

    @cached_property
    def observation_names(self) -> tuple[str, ...]:
        """The distinct observations, in sorted order."""
        return tuple(sorted({observation for observation, _, _ in self.statements}))

    @cached_property
    def statement_observation(self) -> Int[np.ndarray, "statements"]:
        """Position in `observation_names` of what each statement is about."""
        position = {observation: index for index, observation in enumerate(self.observation_names)}
        return np.array([position[observation] for observation, _, _ in self.statements], dtype=np.int64)

    @cached_property
    def localised(self) -> Float[np.ndarray, "observations"]:
        """1 for each of `observation_names` that has a place in the image, 0 for "no finding"."""
        return np.array([name != NO_FINDING for name in self.observation_names], dtype=np.float32)

    @cached_property
    def report_observations(self) -> sparse.csr_array:
        """(reports, observations), 1 where the report states the observation of whatever place."""
        counts = sparse.csr_array(self.report_statements) @ _one_hot(
            self.statement_observation, len(self.observation_names)
        )
        counts.data[:] = 1.0
        return counts

    def _same_side(self, wanted: Int[np.ndarray, "n"]) -> Float[np.ndarray, "statements n"]:
        """1 where a statement and a wanted one are of one observation and do not name opposite sides."""
        kinds, sides = self.statement_observation, np.array([side for _, side, _ in self.statements])
        other = np.array([{"left": "right", "right": "left"}.get(self.statements[row][1], "-") for row in wanted])
        return ((kinds[:, None] == kinds[wanted]) & (sides[:, None] != other)).astype(np.float32)

    def existence(
        self, reports: Int[np.ndarray, "n"], phrases: Int[np.ndarray, "phrases"]
    ) -> Float[np.ndarray, "n phrases"]:
        """1 where a report makes a phrase's statement, 0 where it rules it out, -1 where it says nothing of it.

        It rules out what it denies, and what it states on the other side only. Denials are read without their side.

        Args:
            reports: rows of the membership matrices.
            phrases: rows of `phrases`.
        """
        statements = self.phrase_statement[phrases]
        findings = np.array([_POSITION[self.statements[index][0]] for index in statements], dtype=np.int64)
        status = self.report_findings[reports].toarray()[:, findings]
        made = sparse.csr_array(self.report_statements)[reports]
        holds = made[:, statements].toarray() > 0
        elsewhere = (status > 0) & (made @ self._same_side(statements) == 0)
        return np.where(holds, 1.0, np.where((status < 0) | elsewhere, 0.0, -1.0)).astype(np.float32)


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

    report_statements = membership(statement_of_row, len(statements))
    report_statements.data[:] = 1.0
    return EvidenceIndex(
        report_ids=report_ids,
        phrases=tuple(text for text, _ in phrases),
        statements=tuple(statements),
        phrase_statement=np.array([statement for _, statement in phrases], dtype=np.int64),
        report_phrases=membership(phrase_of_row, len(phrases)),
        report_statements=report_statements,
        report_findings=_report_findings(known, rows, row_of),
        incidental=incidentals,
        implied_normal=len(denied),
        without_evidence=len(report_ids) - len(set(rows["report_id"])),
    )


def _report_findings(known: pd.DataFrame, stated: pd.DataFrame, row_of: dict[str, int]) -> sparse.csr_matrix:
    """What `EvidenceIndex.report_findings` holds; what a report both states and denies counts as stated."""
    status = np.zeros((len(row_of), len(DIAGNOSTIC_FINDINGS)), dtype=np.float32)
    for rows, value in ((known[known["status"] == "absent"], -1.0), (stated, 1.0)):
        status[rows["report_id"].map(row_of).to_numpy(int), rows["observation"].map(_POSITION).to_numpy(int)] = value
    normal = _POSITION[NO_FINDING]
    abnormal = (np.delete(status, normal, axis=1) > 0).any(axis=1)
    status[abnormal, normal] = -1.0
    return sparse.csr_matrix(status)


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


def _one_hot(columns: Int[np.ndarray, "rows"], width: int) -> sparse.csr_array:
    ones = np.ones(len(columns), dtype=np.float32)
    return sparse.csr_array((ones, (np.arange(len(columns)), columns)), shape=(len(columns), width))


def _distinct(values: list) -> tuple[list, Int[np.ndarray, "_"]]:
    """The distinct values in sorted order, and the index of each value among them."""
    distinct = sorted(set(values))
    index_of = {value: index for index, value in enumerate(distinct)}
    return distinct, np.array([index_of[value] for value in values], dtype=np.int64)
