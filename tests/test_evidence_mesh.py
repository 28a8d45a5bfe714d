"""MeSH codes: the tables against the vocabulary, codes and findings read by hand, and the counting rule."""

import os
from collections import Counter
from pathlib import Path

import pytest

from lgdea_core.data.corpora import load_corpus
from lgdea_core.evaluation.extraction.mesh import (
    FAMILIES,
    IGNORED_QUALIFIERS,
    SEVERITIES,
    SIDES,
    ZONES,
    Attributes,
    coded_attributes,
    score_attributes,
    stated_attributes,
)
from lgdea_core.evidence.answers import OBSERVATIONS
from lgdea_core.evidence.triplets import sided
from lgdea_core.finding import Finding
from lgdea_core.vocabulary import REGIONS


def told(anatomy: str = "", side: str = "", severity: str = "") -> Attributes:
    return Attributes(
        anatomy=frozenset(filter(None, anatomy.split(", "))),
        side=frozenset(side.split()),
        severity=frozenset(severity.split()),
    )


def finding(observation: str, phrase: str = "it", status: str = "present", **fields: str | None) -> Finding:
    return Finding(observation=observation, status=status, phrase=phrase, start=0, end=len(phrase), **fields)


def coded(codes: str) -> dict[str, Attributes]:
    return coded_attributes(codes, Counter())


def test_the_tables_use_the_vocabulary_and_decide_each_qualifier_once() -> None:
    assert all(set(sided(zone, "bilateral")) <= set(REGIONS) for zone, _ in ZONES.values())
    assert {side for _, side in ZONES.values()} <= {"left", "right", None}
    for family in FAMILIES.values():
        assert set(family.observations) <= set(OBSERVATIONS)
        assert all(heading == heading.lower() for heading in family.headings)
    headings = [heading for family in FAMILIES.values() for heading in family.headings]
    assert len(headings) == len(set(headings))
    tables = [*ZONES, *SIDES, *SEVERITIES, *IGNORED_QUALIFIERS]
    assert len(tables) == len(set(tables))


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ("Opacity/lung/base/left/mild", {"opacity": told("lower lung zone", "left", "mild")}),
        ("Pulmonary Atelectasis/lingula", {"atelectasis": told("mid lung zone", "left")}),  # the zone has a side
        ("Opacity/lung/middle lobe/bilateral", {"opacity": told("mid lung zone", "left right")}),
        ("Pleural Effusion/bilateral/small", {"effusion": told("", "left right", "mild")}),
        ("Costophrenic Angle/right/blunted", {"blunting": told("", "right")}),
        ("Costophrenic Angle/right", {}),  # only the blunted one is a finding
        ("Cardiac Shadow/enlarged/moderate", {"cardiomegaly": told("", "", "moderate")}),
        ("Lung/hypoinflation", {"hypoinflation": told()}),
        ("Pulmonary Edema/bilateral", {"edema": told()}),  # edema is of both lungs anyhow
        ("Pulmonary Edema/right", {"edema": told("", "right")}),
        ("Calcinosis/lung/hilum/lymph nodes/left", {"calcification": told("hilar structures", "left")}),
        ("Fractures,  Bone/ribs/left/healed", {"fracture": told("", "left")}),
        ("Thoracic Vertebrae/degenerative/mild", {}),
        ("normal", {}),
        ("", {}),
    ],
)
def test_a_code_is_read(codes: str, expected: dict[str, Attributes]) -> None:
    assert coded(codes) == expected


def test_codes_of_one_family_are_one_set() -> None:
    found = coded("Opacity/lung/base/left/mild;Infiltrate/lung/upper lobe/right;Cardiomegaly/large")
    assert found == {
        "opacity": told("lower lung zone, upper lung zone", "left right", "mild"),
        "cardiomegaly": told("", "", "severe"),
    }


def test_an_unknown_qualifier_is_counted() -> None:
    unknown: Counter[str] = Counter()
    coded_attributes("Opacity/lung/somewhere/left;Nodule/somewhere", unknown)
    assert unknown == {"somewhere": 2}


def test_findings_are_read_into_the_same_families() -> None:
    found = stated_attributes(
        [
            finding("consolidation", region="left lower lung zone", laterality="left", severity="mild"),
            finding("pneumonia", phrase="bibasilar pneumonia", laterality="bilateral"),
            finding("nodule", status="uncertain", laterality="left"),
            finding("mass", status="absent", laterality="right"),
            finding("cardiomegaly", region="cardiac silhouette", severity="severe"),
            finding("atelectasis", phrase="lingular atelectasis"),
            finding("edema", phrase="pulmonary edema", laterality="bilateral"),
        ]
    )
    assert found == {
        "opacity": told("lower lung zone", "left right", "mild"),
        "cardiomegaly": told("", "", "severe"),  # where else would it be
        "atelectasis": told("mid lung zone", "left"),  # by the words alone
        "edema": told(),
    }


def test_no_default_place_is_stated() -> None:
    assert stated_attributes([finding("pneumothorax", laterality="left")]) == {"pneumothorax": told("", "left")}
    assert stated_attributes([finding("atelectasis")]) == {"atelectasis": told()}


def test_scores_by_hand() -> None:
    # opacity: the zone is right, one side of two is missed, the severity is a false alarm
    # atelectasis: not read at all, so its zone and side are misses; nodule: not coded, so not judged
    true = [{"opacity": told("lower lung zone", "left right"), "atelectasis": told("mid lung zone", "left")}, {}]
    stated = [{"opacity": told("lower lung zone", "left", "mild"), "nodule": told("apical zone", "left")}, {}]
    scores = score_attributes(stated, true)
    assert scores["anatomy"] == pytest.approx({"precision": 1, "recall": 1 / 2, "f1": 2 / 3, "values": 2})
    assert scores["side"] == pytest.approx({"precision": 1, "recall": 1 / 3, "f1": 1 / 2, "values": 3})
    assert scores["severity"] == {"precision": 0, "recall": 0, "f1": 0, "values": 0}
    assert (scores["families"], scores["found"]) == (2, 0.5)


def test_a_reader_of_the_truth_is_perfect_and_one_of_nothing_scores_nothing() -> None:
    true = [coded("Opacity/lung/base/left/mild"), coded("Pleural Effusion/bilateral/small;Mass/lung/apex/right")]
    perfect, nothing = score_attributes(true, true), score_attributes([{}, {}], true)
    for attribute in ("anatomy", "side", "severity"):
        assert perfect[attribute]["f1"] == 1
        assert nothing[attribute]["f1"] == 0
    assert (perfect["found"], nothing["found"]) == (1, 0)


def test_as_many_reports_must_be_stated_as_true() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        score_attributes([{}], [{}, {}])


def test_every_qualifier_of_the_real_codes_is_in_a_table() -> None:
    if "LGDEA_DATA" not in os.environ:
        pytest.skip("LGDEA_DATA is not set: the real Open-i reports are not here")
    root = Path(os.environ["LGDEA_DATA"]) / "openi"
    if not root.is_dir():
        pytest.skip("LGDEA_DATA has no folder openi")
    unknown: Counter[str] = Counter()
    codes = load_corpus("openi", root).studies["mesh"]
    judged = [coded_attributes(code, unknown) for code in codes]
    assert not unknown
    assert sum(map(len, judged)) > 2000
