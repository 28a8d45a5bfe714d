"""What a phantom is made of: every dial of the generated world, with the easy one of the quick study."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lgdea_core.vocabulary import PHANTOM_FINDINGS

DEFAULT_PREVALENCE = {
    "atelectasis": 0.22,
    "cardiomegaly": 0.21,
    "consolidation": 0.14,
    "edema": 0.16,
    "lung opacity": 0.17,
    "pleural effusion": 0.24,
    "pneumonia": 0.15,
    "pneumothorax": 0.14,
    "nodule": 0.14,
    "hernia": 0.12,
}
"""Share of studies that show each finding; about one study in six then shows none."""


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """A generated chest radiograph world. A study depends on the config and its index, never on `studies`."""

    studies: int = 2000
    """number of studies, one film and one report each"""
    image_size: int = 64
    """side of the square film in pixels; truth and report are the same at every size"""
    seed: int = 0
    """fixes everything together with the index of a study"""
    findings: tuple[str, ...] = PHANTOM_FINDINGS
    """what may be painted; a subset of `vocabulary.PHANTOM_FINDINGS`"""
    prevalence: dict[str, float] | None = None
    """share of studies per finding where it differs from `DEFAULT_PREVALENCE` (a prevalence shift)"""
    contrast: tuple[float, float] = (0.5, 1.0)
    """range a lesion's contrast is drawn from; 1 is clear, below 0.3 drowns in the noise"""
    nuisance: float = 1.0
    """strength of rotation, crop, exposure, noise, scatter, lines and tubes, in [0, 1]; 1 is as wide as real films"""
    wording: Literal["varied", "plain"] = "varied"
    """"plain" has one noun, one sentence form and no synonyms for each finding"""
    unreported_ratio: float = 0.1
    """share of visible findings the report leaves out"""
    uncertain_ratio: float = 0.1
    """share of reported findings that are hedged; hedges about nothing come on top, `truth.HEDGE_TRUTH` are right"""
    resolved_ratio: float = 0.15
    """share of reports that mention a finding of an earlier film that has resolved"""
    typo_rate: float = 0.003
    """share of words with two letters swapped"""
    second_study_ratio: float = 0.25
    """share of patients with two studies"""
    split_shares: tuple[float, float, float] = (0.75, 0.05, 0.2)
    """shares of studies in train, val and test; whole patients, so they hold only closely"""

    def __post_init__(self) -> None:
        unknown = set(self.findings) - set(PHANTOM_FINDINGS) | set(self.prevalence or {}) - set(PHANTOM_FINDINGS)
        if unknown or not self.findings:
            raise ValueError(
                f"PhantomConfig: findings and prevalence take some of {PHANTOM_FINDINGS}, got {sorted(unknown)}"
            )
        _check("studies", self.studies, 1, 10_000_000)
        _check("image_size", self.image_size, 32, 4096)
        _check("seed", self.seed, 0, 2**63 - 1)
        for name in ("nuisance", "unreported_ratio", "uncertain_ratio", "resolved_ratio", "typo_rate"):
            _check(name, getattr(self, name), 0, 1)
        _check("second_study_ratio", self.second_study_ratio, 0, 1)
        for share in (*self.contrast, *self.split_shares, *(self.prevalence or {}).values()):
            _check("contrast, split_shares and prevalence", share, 0, 1)
        if self.contrast[0] > self.contrast[1]:
            raise ValueError(f"PhantomConfig: contrast must be (low, high), got {self.contrast}")
        if abs(sum(self.split_shares) - 1) > 1e-6:
            raise ValueError(f"PhantomConfig: split_shares must sum to 1, got {self.split_shares}")
        if self.wording not in ("varied", "plain"):
            raise ValueError(f"PhantomConfig: wording must be varied or plain, got {self.wording!r}")

    def prevalence_of(self, finding: str) -> float:
        """Share of studies that show a finding."""
        return (self.prevalence or {}).get(finding, DEFAULT_PREVALENCE[finding])

    def to_json(self) -> dict[str, Any]:
        """The config as plain JSON values; equal configs give equal values."""
        return json.loads(json.dumps(asdict(self)))


def _check(name: str, value: float | int, low: float | int, high: float | int) -> None:
    if not low <= value <= high:
        raise ValueError(f"PhantomConfig: {name} must lie between {low} and {high}, got {value}")


EASY = PhantomConfig(
    findings=(
        "atelectasis", "cardiomegaly", "consolidation", "edema", "pleural effusion", "pneumonia", "pneumothorax",
        "nodule",
    ),
    contrast=(0.7, 1.0),
    nuisance=0.3,
    wording="plain",
    unreported_ratio=0.0,
    uncertain_ratio=0.0,
    resolved_ratio=0.0,
    typo_rate=0.0,
)  # fmt: skip
"""Eight findings, clear contrast, one wording, about a hundred phrases. Change it with `dataclasses.replace`."""
