"""How well findings agree with what Open-i's coders noted: NIH's 14 labels, and the attributes of MeSH codes.

**Labels** (protocol "open-i 14, uncertain as absent"). A report is positive for a label if a finding of the row in
`LABEL_OBSERVATIONS` has status present. Uncertain counts as not positive: the coders indexed what a report asserts
("scarring or atelectasis" too) and left out what it only considers ("may represent atelectasis"). A label 0 means not
coded, so mentioned-as-absent and unmentioned are one. Micro pools all (report, label) decisions; macro is the mean over
labels with at least `MACRO_POSITIVES` positives.

**Attributes** (protocol "open-i MeSH qualifiers, per report and family"): anatomy, side and severity. A code is a
heading and its qualifiers, in any order ("Opacity/lung/base/left/mild"). Four tables read it: `FAMILIES` (heading ->
observations), `ZONES` (qualifier -> region, maybe with a side), `SIDES` and `SEVERITIES`.

- Headings and observations that coders and readers exchange freely (opacity, infiltrate, consolidation, pneumonia) are
  one family. Of a report that is coded in a family, the values of all its codes there form one set for each attribute:
  zones, sides (bilateral is both), severities. The findings of that family with status present form another.
- A value in both sets is a hit, one only stated a false alarm, one only coded a miss. So a finding that was not read at
  all is a miss of its values; `found` says how many families were read. Families that are not coded are not judged.
- Zones are regions without their side. What the heading says already is dropped from both sets: "lung" (coders add it
  to every code of a lung), the zones a family implies (the heart of a cardiomegaly), both sides of a diffuse finding.
- What a finding states: its region field, else places in its phrase; its laterality, else the side of those places.
  Never a default of `triplets`.

Coders leave qualifiers out, so precision is a lower bound.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from lgdea_core.evidence.triplets import DIFFUSE, places_in, region_and_side
from lgdea_core.finding import Finding
from lgdea_core.vocabulary import REGIONS

LABEL_PROTOCOL = "open-i 14, uncertain as absent"

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

ATTRIBUTE_PROTOCOL = "open-i MeSH qualifiers, per report and family"
ATTRIBUTES = ("anatomy", "side", "severity")


class Family(NamedTuple):
    """Headings that one kind of finding is coded by, and the observations it is read as."""

    headings: tuple[str, ...]
    """MeSH heading in lower case; with "/qualifier" only codes that have it"""
    observations: tuple[str, ...]
    implied: tuple[str, ...] = ()
    """zones that the heading says already, or that its coders leave out"""

    @property
    def diffuse(self) -> bool:
        """Whether it is of both lungs unless a side is named."""
        return DIFFUSE.issuperset(self.observations)


HEART = ("cardiac silhouette", "mediastinum")
ANYWHERE = tuple(sorted({region_and_side(region)[0] for region in REGIONS}))
"""Coders note the side of a line, not its place; a tube's code names its tip."""

FAMILIES: dict[str, Family] = {
    "opacity": Family(
        ("opacity", "airspace disease", "density", "infiltrate", "consolidation", "pneumonia"),
        ("lung opacity", "infiltration", "consolidation", "pneumonia"),
    ),
    "atelectasis": Family(("pulmonary atelectasis", "volume loss"), ("atelectasis", "collapse")),
    "nodule": Family(("nodule", "mass"), ("nodule", "mass", "lung lesion")),
    "calcification": Family(
        ("calcinosis", "calcified granuloma", "granuloma", "granulomatous disease", "atherosclerosis"),
        ("calcification",),
    ),
    "scar": Family(("cicatrix", "fibrosis", "pulmonary fibrosis"), ("scar", "fibrosis")),
    "marking": Family(("markings", "lung diseases, interstitial"), ("marking",)),
    "effusion": Family(("pleural effusion", "hemothorax"), ("pleural effusion",), ("costophrenic angle",)),
    "blunting": Family(("costophrenic angle/blunted", "sulcus/blunted"), ("blunt",), ("costophrenic angle",)),
    "pneumothorax": Family(("pneumothorax", "hydropneumothorax", "hemopneumothorax"), ("pneumothorax",)),
    "thickening": Family(("thickening/pleura",), ("pleural thickening",)),
    "cardiomegaly": Family(("cardiomegaly", "cardiac shadow/enlarged"), ("cardiomegaly",), HEART),
    "mediastinum": Family(("mediastinum/prominent", "mediastinum/enlarged"), ("enlarged cardiomediastinum",), HEART),
    "edema": Family(("pulmonary edema",), ("edema",)),
    "congestion": Family(("pulmonary congestion",), ("engorgement",), ("hilar structures",)),
    "emphysema": Family(("emphysema", "pulmonary emphysema", "bullous emphysema"), ("emphysema",)),
    "hyperinflation": Family(("lung/hyperdistention", "lung, hyperlucent"), ("hyperinflate",)),
    "hypoinflation": Family(("lung/hypoinflation",), ("aerate",)),
    "aorta": Family(
        ("aorta/tortuous", "aorta, thoracic/tortuous", "aorta/enlarged", "aortic aneurysm"),
        ("dilation",),
        ("aortic arch",),
    ),
    "hernia": Family(("hernia, hiatal", "hernia, diaphragmatic"), ("hernia",), ("mediastinum",)),
    "deformity": Family(("deformity", "scoliosis", "kyphosis"), ("deformity",), ("spine",)),
    "fracture": Family(("fractures, bone",), ("fracture",)),
    "line": Family(("catheters, indwelling",), ("line", "tip"), ANYWHERE),
    "tube": Family(("tube, inserted",), ("tube",), ANYWHERE),
    "hardware": Family(("surgical instruments",), ("hardware",)),
}
"""Family -> headings and observations. Headings without an observation of ours (degenerative spine, elevated diaphragm,
devices by place, "normal") are not judged."""

ZONES: dict[str, tuple[str, str | None]] = {
    "base": ("lower lung zone", None),
    "lower lobe": ("lower lung zone", None),
    "retrocardiac": ("lower lung zone", None),
    "middle lobe": ("mid lung zone", "right"),
    "lingula": ("mid lung zone", "left"),
    "upper lobe": ("upper lung zone", None),
    "azygos lobe": ("upper lung zone", "right"),
    "apex": ("apical zone", None),
    "hilum": ("hilar structures", None),
    "costophrenic angle": ("costophrenic angle", None),
    "sulcus": ("costophrenic angle", None),
    "diaphragm": ("hemidiaphragm", None),
    "clavicle": ("clavicle", None),
    "heart": ("cardiac silhouette", None),
    "mediastinum": ("mediastinum", None),
    "paratracheal": ("upper mediastinum", None),
    "trachea": ("trachea", None),
    "trachea, carina": ("carina", None),
    "aorta": ("aortic arch", None),
    "aorta, thoracic": ("aortic arch", None),
    "spine": ("spine", None),
    "thoracic vertebrae": ("spine", None),
    "lumbar vertebrae": ("spine", None),
    "cervical vertebrae": ("spine", None),
    "abdomen": ("abdomen", None),
}
"""Qualifier -> region without its side, and a side it implies."""

SIDES: dict[str, tuple[str, ...]] = {"left": ("left",), "right": ("right",), "bilateral": ("left", "right")}

SEVERITIES = {
    "mild": "mild",
    "small": "mild",
    "borderline": "mild",
    "moderate": "moderate",
    "severe": "severe",
    "large": "severe",
}

IGNORED_QUALIFIERS = frozenset(
    {
        "abnormal", "acute", "anterior", "aortic valve", "blood vessels", "blunted", "breast", "breast implants",
        "bronchi", "bronchovascular", "cardiophrenic angle", "chronic", "coronary vessels", "degenerative", "diffuse",
        "elevated", "enlarged", "flattened", "focal", "healed", "heart atria", "heart ventricles", "humerus",
        "hyperdistention", "hypoinflation", "interstitial", "irregular", "lung", "lymph nodes", "mitral valve",
        "multiple", "neck", "obscured", "patchy", "pleura", "posterior", "prominent", "pulmonary alveoli",
        "pulmonary artery", "reticular", "ribs", "round", "scattered", "shoulder", "sternum", "streaky",
        "supracardiac", "thorax", "tortuous",
    }
)  # fmt: skip
"""Qualifiers that are no side, no severity and none of the 29 regions. One in no table at all is counted as unknown."""


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """Where and how much, of one family in one report."""

    anatomy: frozenset[str] = frozenset()
    side: frozenset[str] = frozenset()
    severity: frozenset[str] = frozenset()

    def __or__(self, other: "Attributes") -> "Attributes":
        return Attributes(**{name: getattr(self, name) | getattr(other, name) for name in ATTRIBUTES})


def ratio(part: int | float, whole: int | float) -> float:
    """`part / whole`, 0 for nothing of nothing."""
    return part / whole if whole else 0.0


def pooled_scores(questions: Iterable[tuple[frozenset[Any], frozenset[Any]]]) -> dict[str, float]:
    """Precision, recall and F1 over several questions whose answers are sets, each 0 where it has no denominator.

    Args:
        questions: what was stated, and what is true.
    """
    hits = stated = true = 0
    for said, right in questions:
        hits, stated, true = hits + len(said & right), stated + len(said), true + len(right)
    return {"precision": ratio(hits, stated), "recall": ratio(hits, true), "f1": ratio(2 * hits, stated + true)}


def stated_labels(answers: Sequence[Sequence[Finding]]) -> pd.DataFrame:
    """Whether the findings of each report make it positive: one row a report, one column a label."""

    def counts(finding: Finding, label: str) -> bool:
        uncounted = any(word in finding.phrase.lower() for word in UNCOUNTED_WORDS.get(label, ()))
        return finding.status == "present" and finding.observation in LABEL_OBSERVATIONS[label] and not uncounted

    rows = [
        {label: any(counts(finding, label) for finding in findings) for label in LABEL_OBSERVATIONS}
        for findings in answers
    ]
    return pd.DataFrame(rows, columns=list(LABEL_OBSERVATIONS), dtype=bool)


def score_labels(stated: pd.DataFrame, true: pd.DataFrame) -> dict[str, Any]:
    """Precision, recall and F1 of each label, micro and macro.

    Args:
        stated: `stated_labels` of what an extractor found.
        true: the same columns, 1 or True for positive, of the same reports in the same order.
    """

    def rows(positive: pd.Series) -> frozenset[int]:
        return frozenset(positive.to_numpy().nonzero()[0].tolist())

    of_label = {label: (rows(stated[label]), rows(true[label] == 1)) for label in LABEL_OBSERVATIONS}
    per_finding = {
        label: {**pooled_scores([reports]), "positives": len(reports[1])} for label, reports in of_label.items()
    }
    frequent = [scores for scores in per_finding.values() if scores["positives"] >= MACRO_POSITIVES]
    return {
        "protocol": LABEL_PROTOCOL,
        "micro": pooled_scores(of_label.values()),
        "macro": {
            name: ratio(sum(scores[name] for scores in frequent), len(frequent))
            for name in ("precision", "recall", "f1")
        },
        "macro_findings": len(frequent),
        "per_finding": per_finding,
    }


def coded_attributes(codes: str, unknown: Counter[str]) -> dict[str, Attributes]:
    """Family -> attributes of one report's codes, which ";" separates.

    Args:
        codes: as the corpus holds them in column mesh.
        unknown: qualifiers in no table are counted here.
    """
    coded: dict[str, Attributes] = {}
    for code in codes.lower().split(";"):
        heading, *qualifiers = (" ".join(part.split()) for part in code.split("/"))
        unknown.update(set(qualifiers) - ZONES.keys() - SIDES.keys() - SEVERITIES.keys() - IGNORED_QUALIFIERS)
        places = [ZONES[qualifier] for qualifier in qualifiers if qualifier in ZONES]
        sides = [qualifier for qualifier in qualifiers if qualifier in SIDES]
        severities = [SEVERITIES[qualifier] for qualifier in qualifiers if qualifier in SEVERITIES]
        for name, family in FAMILIES.items():
            if {heading, *(f"{heading}/{qualifier}" for qualifier in qualifiers)} & set(family.headings):
                coded[name] = coded.get(name, Attributes()) | _attributes(family, places, sides, severities)
    return coded


def stated_attributes(findings: Sequence[Finding]) -> dict[str, Attributes]:
    """Family -> attributes of one report's present findings."""
    stated: dict[str, Attributes] = {}
    for finding in findings:
        for name, family in FAMILIES.items():
            if finding.status == "present" and finding.observation in family.observations:
                places = [region_and_side(finding.region)] if finding.region else places_in(finding.phrase)
                sides = [finding.laterality] if finding.laterality else []
                severities = [finding.severity] if finding.severity else []
                stated[name] = stated.get(name, Attributes()) | _attributes(family, places, sides, severities)
    return stated


def _attributes(
    family: Family, places: Sequence[tuple[str, str | None]], sides: Sequence[str], severities: Sequence[str]
) -> Attributes:
    """What is told beyond the family itself; a place's own side counts where no other side is named."""
    named = {one for side in sides or [side for _, side in places if side] for one in SIDES[side]}
    return Attributes(
        anatomy=frozenset(zone for zone, _ in places) - {"lung", *family.implied},
        side=frozenset() if family.diffuse and len(named) > 1 else frozenset(named),
        severity=frozenset(severities),
    )


def score_attributes(
    stated: Sequence[Mapping[str, Attributes]], true: Sequence[Mapping[str, Attributes]]
) -> dict[str, Any]:
    """Precision, recall and F1 of each attribute, pooled over reports and families (counting rule: see the module).

    Args:
        stated: of each report, `stated_attributes` of what an extractor found.
        true: of the same reports, `coded_attributes`, or `stated_attributes` of a truth that is known as findings.
    """
    pairs = [(found.get(name), coded[name]) for found, coded in zip(stated, true, strict=True) for name in coded]
    read = [found for found, _ in pairs if found is not None]
    scores: dict[str, Any] = {
        "protocol": ATTRIBUTE_PROTOCOL,
        "families": len(pairs),
        "found": ratio(len(read), len(pairs)),
    }
    for attribute in ATTRIBUTES:
        sets = [(getattr(found or Attributes(), attribute), getattr(coded, attribute)) for found, coded in pairs]
        scores[attribute] = {**pooled_scores(sets), "values": sum(len(true) for _, true in sets)}
    return scores
