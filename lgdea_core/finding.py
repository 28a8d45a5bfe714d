"""One statement of a report, as every extractor must return it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy import sparse

from lgdea_core.vocabulary import DIAGNOSTIC_FINDINGS, NO_FINDING, REGIONS

SCHEMA_VERSION = "1"
"""Part of every cache key: raise it when the meaning of a field changes."""

EVIDENCE_COLUMNS = (
    "report_id",
    "observation",
    "region",
    "laterality",
    "severity",
    "status",
    "phrase",
    "start",
    "end",
    "section",
)
"""Columns of `evidence.parquet`: the study whose report it is, then the fields of `Finding`."""


class Finding(BaseModel):
    """One finding of a report: what, where, how much and whether, with the words that say so (LGDEA eq. 1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    observation: str = Field(min_length=1, max_length=60)
    """canonical lower-case name, such as "pleural effusion"; "no finding" for a statement that all is normal"""
    region: Literal[REGIONS] | None = None
    """one of Chest ImaGenome's 29 regions, or None where the report does not say"""
    laterality: Literal["left", "right", "bilateral"] | None = None
    severity: Literal["mild", "moderate", "severe"] | None = None
    status: Literal["present", "absent", "uncertain"]
    phrase: str = Field(min_length=1)
    """verbatim words of the report: `report[start:end] == phrase`"""
    start: int = Field(ge=0)
    end: int = Field(gt=0)
    section: Literal["findings", "impression", "other"] = "findings"

    @model_validator(mode="after")
    def _offsets_fit_phrase(self) -> "Finding":
        if self.end - self.start != len(self.phrase):
            raise ValueError(
                f"end - start is {self.end - self.start}, but the phrase has {len(self.phrase)} characters"
            )
        return self


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


_POSITION = {finding: index for index, finding in enumerate(DIAGNOSTIC_FINDINGS)}


def _one_hot(columns: Int[np.ndarray, "rows"], width: int) -> sparse.csr_array:
    ones = np.ones(len(columns), dtype=np.float32)
    return sparse.csr_array((ones, (np.arange(len(columns)), columns)), shape=(len(columns), width))
