"""One statement of a report, as every extractor must return it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lgdea_core.vocabulary import REGIONS

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
