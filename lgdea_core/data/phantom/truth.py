"""What is in a chest and what its report will say of it: lesions, and mentions with their status."""

from collections import Counter
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from lgdea_core.data.phantom.config import PhantomConfig
from lgdea_core.data.phantom.lesions import Lesion
from lgdea_core.vocabulary import PHANTOM_FINDINGS, SEVERITIES

HEDGE_TRUTH = 0.6
"""Probability that a hedged finding is there."""

MIDLINE = ("cardiomegaly", "hernia")
SEVERITY_SHARES = (0.4, 0.35, 0.25)
_ZONES = {
    "parenchyma": {"apical": 0.17, "upper": 0.18, "mid": 0.15, "perihilar": 0.15, "lower": 0.35},
    "edema": {"perihilar": 0.6, "lower": 0.25, "upper": 0.15},
    "pleural effusion": {"lower": 0.84, "mid": 0.1, "apical": 0.06},
    "pneumothorax": {"apical": 0.44, "mid": 0.28, "lower": 0.28},
}
_BILATERAL = {"edema": 0.75, "pleural effusion": 0.3, "pneumothorax": 0.06}
_BILATERAL_OTHERS = 0.15
_SECOND_LESION = {"nodule": 0.2, "lung opacity": 0.1, "pneumonia": 0.1}
"""Share of studies with a second, separate lesion of the same kind."""

_FLUID_LOADING = {"edema": 0.65, "pleural effusion": 0.6, "cardiomegaly": 0.6}
"""Correlation with a hidden fluid overload; findings that share it come together."""
_INFECTION_LOADING = {"pneumonia": 0.45, "consolidation": 0.45, "pleural effusion": 0.2, "atelectasis": 0.2}


@dataclass(frozen=True, kw_only=True)
class Mention:
    """One finding as the report may state it; a bilateral finding is one mention of two lesions."""

    finding: str
    laterality: str | None
    zone: str | None
    severity: str
    status: str
    """present, uncertain or unreported"""
    lesions: tuple[int, ...]
    """indices of its lesions; empty for a hedge about nothing"""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Everything that is in one chest, and all that may be said of it."""

    lesions: tuple[Lesion, ...]
    mentions: tuple[Mention, ...]
    resolved: Mention | None
    """a finding of an earlier film that is gone"""

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings in the picture, in the order of the vocabulary."""
        present = {lesion.finding for lesion in self.lesions}
        return tuple(finding for finding in PHANTOM_FINDINGS if finding in present)


def sample_truth(config: PhantomConfig, rng: np.random.Generator) -> Truth:
    """Draw a chest: correlated findings, their lesions, and how the report treats each."""
    present = _sample_findings(config, rng)
    lesions: list[Lesion] = []
    mentions: list[Mention] = []
    taken: Counter[tuple[str, str]] = Counter()
    for finding in present:
        repeats = 1 + int(rng.random() < _SECOND_LESION.get(finding, 0))
        if rng.random() < config.unreported_ratio:
            status = "unreported"
        else:
            status = "uncertain" if rng.random() < config.uncertain_ratio else "present"
        for _ in range(repeats):
            mention = _sample_mention(config, finding, status, taken, rng)
            first, contrast = len(lesions), float(rng.uniform(*config.contrast))
            for side in sides_of(mention.laterality):
                lesions.append(
                    Lesion(
                        finding=finding,
                        side=side,
                        zone=mention.zone,
                        severity=mention.severity,
                        contrast=contrast,
                        key=int(rng.integers(2**63)),
                    )
                )
            mentions.append(replace(mention, lesions=tuple(range(first, len(lesions)))))
    absent = [finding for finding in config.findings if finding not in present]
    for finding in absent:
        # So many hedges about nothing that HEDGE_TRUTH of all hedges are right.
        share = config.prevalence_of(finding) / (1 - config.prevalence_of(finding)) * (1 - HEDGE_TRUTH) / HEDGE_TRUTH
        if rng.random() < config.uncertain_ratio * (1 - config.unreported_ratio) * share:
            mentions.append(_sample_mention(config, finding, "uncertain", taken, rng))
    resolved = None
    candidates = [finding for finding in absent if finding not in {mention.finding for mention in mentions}]
    if candidates and rng.random() < config.resolved_ratio:
        resolved = _sample_mention(config, str(rng.choice(candidates)), "absent", Counter(), rng)
    return Truth(lesions=tuple(lesions), mentions=tuple(mentions), resolved=resolved)


def sample_lesion(finding: str, rng: np.random.Generator, severity: str | None = None, contrast: float = 1.0) -> Lesion:
    """One lesion of a kind on a random side.

    Args:
        finding: one of `vocabulary.PHANTOM_FINDINGS`.
        rng: draws side, zone, shape and, where it is None, the severity.
        severity: mild, moderate or severe.
        contrast: in (0, 1].

    Raises:
        ValueError: unknown finding or severity.
    """
    if finding not in PHANTOM_FINDINGS:
        raise ValueError(f"sample_lesion: finding must be one of {PHANTOM_FINDINGS}, got {finding!r}")
    if severity is not None and severity not in SEVERITIES:
        raise ValueError(f"sample_lesion: severity must be one of {SEVERITIES} or None, got {severity!r}")
    return Lesion(
        finding=finding,
        side=None if finding in MIDLINE else str(rng.choice(["left", "right"])),
        zone=_sample_zone(finding, rng),
        severity=severity or str(rng.choice(SEVERITIES, p=SEVERITY_SHARES)),
        contrast=contrast,
        key=int(rng.integers(2**63)),
    )


def _sample_findings(config: PhantomConfig, rng: np.random.Generator) -> list[str]:
    """A Gaussian copula: each finding keeps its own prevalence whatever it is correlated with."""
    fluid, infection = rng.standard_normal(2)
    noise = dict(zip(PHANTOM_FINDINGS, rng.standard_normal(len(PHANTOM_FINDINGS)), strict=True))
    present = []
    for finding in config.findings:
        a, b = _FLUID_LOADING.get(finding, 0.0), _INFECTION_LOADING.get(finding, 0.0)
        score = a * fluid + b * infection + np.sqrt(1 - a * a - b * b) * noise[finding]
        prevalence = config.prevalence_of(finding)
        if NormalDist().cdf(float(score)) < prevalence:
            present.append(finding)
    return present


def _sample_mention(
    config: PhantomConfig, finding: str, status: str, taken: Counter[tuple[str, str]], rng: np.random.Generator
) -> Mention:
    """Side, zone and severity; lung zones already taken are avoided, so that lesions seldom hide each other."""
    severity = str(rng.choice(SEVERITIES, p=SEVERITY_SHARES))
    laterality, zone = None, None
    if finding not in MIDLINE:
        for _ in range(6):
            zone = _sample_zone(finding, rng)
            both = rng.random() < _BILATERAL.get(finding, _BILATERAL_OTHERS)
            laterality = "bilateral" if both else str(rng.choice(["left", "right"]))
            if finding == "edema" or not any(taken[side, zone] for side in sides_of(laterality)):
                break
        if finding != "edema":
            taken.update((side, zone) for side in sides_of(laterality))
    return Mention(finding=finding, laterality=laterality, zone=zone, severity=severity, status=status, lesions=())


def sides_of(laterality: str | None) -> tuple[str | None, ...]:
    """The sides of a laterality: two for bilateral, (None,) on the midline."""
    return ("right", "left") if laterality == "bilateral" else (laterality,)


def _sample_zone(finding: str, rng: np.random.Generator) -> str | None:
    if finding in MIDLINE:
        return None
    zones = _ZONES.get(finding, _ZONES["parenchyma"])
    return str(rng.choice(list(zones), p=list(zones.values())))
