"""Scores of what an extractor read: labels, attributes of MeSH codes, and agreement of two extractors, by hand."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd
import pytest

from lgdea_core.evaluation.extraction.agreement import differing, score_agreement, status_table
from lgdea_core.evaluation.extraction.scores import (
    FAMILIES,
    IGNORED_QUALIFIERS,
    LABEL_OBSERVATIONS,
    SEVERITIES,
    SIDES,
    ZONES,
    Attributes,
    coded_attributes,
    score_attributes,
    score_labels,
    stated_attributes,
    stated_labels,
)
from lgdea_core.evidence.answers import OBSERVATIONS
from lgdea_core.evidence.extract import make_extractor
from lgdea_core.evidence.triplets import sided
from lgdea_core.finding import Finding
from lgdea_core.vocabulary import NIH_FINDINGS, REGIONS


def finding(observation: str, status: str = "present", phrase: str = "it", **fields: str | None) -> Finding:
    return Finding(observation=observation, status=status, phrase=phrase, start=0, end=len(phrase), **fields)


# ---- the 14 labels


def labels(*positive: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame([{label: float(label in row) for label in LABEL_OBSERVATIONS} for row in positive])


def scored(reports: Sequence[str], truth: pd.DataFrame) -> dict:
    return score_labels(stated_labels(make_extractor("lexicon").extract(reports)), truth)


def test_labels_by_hand() -> None:
    assert set(LABEL_OBSERVATIONS) == set(NIH_FINDINGS.values())
    # effusion: 1 hit, 1 miss; edema: 1 false alarm; the uncertain nodule counts as not stated and is a miss
    truth = labels(("pleural effusion",), ("pleural effusion",), ("nodule",))
    result = scored(["Effusion. Edema.", "Clear lungs.", "Possible nodule."], truth)
    assert result["micro"] == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5})
    effusion = {"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "positives": 2}
    assert result["per_finding"]["pleural effusion"] == pytest.approx(effusion)
    assert result["per_finding"]["edema"]["precision"] == 0


def test_macro_takes_findings_with_five_positives_only_and_hiatal_hernias_do_not_count() -> None:
    truth = labels(*[("pleural effusion",)] * 5, *[("edema",)] * 4)
    result = scored(["Effusion."] * 5 + ["Clear lungs."] * 4, truth)
    assert (result["macro_findings"], result["macro"]["f1"]) == (1, 1)
    assert result["micro"]["recall"] == pytest.approx(5 / 9)
    hernias = scored(["Large hiatal hernia.", "Diaphragmatic hernia."], labels((), ("hernia",)))
    assert hernias["per_finding"]["hernia"]["f1"] == 1
    nothing = scored(["Clear lungs."], labels(()))
    assert nothing["micro"] == nothing["macro"] == {"precision": 0, "recall": 0, "f1": 0}


# ---- anatomy, side and severity by MeSH codes


def told(anatomy: str = "", side: str = "", severity: str = "") -> Attributes:
    return Attributes(
        anatomy=frozenset(filter(None, anatomy.split(", "))),
        side=frozenset(side.split()),
        severity=frozenset(severity.split()),
    )


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
        # codes of one family are one set
        ("Opacity/lung/base/left/mild;Infiltrate/lung/upper lobe/right;Cardiomegaly/large",
         {"opacity": told("lower lung zone, upper lung zone", "left right", "mild"),
          "cardiomegaly": told("", "", "severe")}),
    ],
)  # fmt: skip
def test_a_code_is_read(codes: str, expected: dict[str, Attributes]) -> None:
    assert coded(codes) == expected


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
    # no default place is stated
    assert stated_attributes([finding("pneumothorax", laterality="left")]) == {"pneumothorax": told("", "left")}
    assert stated_attributes([finding("atelectasis")]) == {"atelectasis": told()}


def test_attributes_by_hand() -> None:
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
    with pytest.raises(ValueError, match="argument 2 is longer"):
        score_attributes([{}], [{}, {}])


# ---- agreement of two extractors


def read(*reports: Sequence[tuple[str, str]]) -> pd.DataFrame:
    return status_table([[finding(*one) for one in report] for report in reports])


def test_the_strongest_status_of_an_observation_counts() -> None:
    table = read(
        [("edema", "absent"), ("edema", "present"), ("edema", "uncertain")],
        [("edema", "uncertain"), ("edema", "absent"), ("mass", "absent")],
        [],
    )
    assert table.to_dict("list") == {
        "edema": ["present", "uncertain", "unmentioned"],
        "mass": ["unmentioned", "absent", "unmentioned"],
    }


def test_f1_by_hand() -> None:
    first = read([("edema", "present")], [("edema", "present")], [("edema", "absent")], [])
    second = read([("edema", "present")], [("edema", "uncertain")], [("edema", "absent")], [("edema", "absent")])
    scores = score_agreement(first, second)["per_observation"]["edema"]
    assert scores["present"] == pytest.approx(2 * 1 / (2 + 1))
    assert scores["absent"] == pytest.approx(2 * 1 / (1 + 2))
    assert scores["uncertain"] == 0
    assert scores["reports"] == 4


def test_kappa_is_agreement_beyond_chance() -> None:
    first = read(*[[("edema", status)] for status in ("present", "present", "absent", "absent", "uncertain")])
    second = read(*[[("edema", status)] for status in ("present", "absent", "absent", "absent", "uncertain")])
    observed, chance = 4 / 5, (2 * 1 + 2 * 3 + 1 * 1) / 25
    expected = (observed - chance) / (1 - chance)
    scores = score_agreement(first, second)
    assert scores["per_observation"]["edema"]["kappa"] == pytest.approx(expected)
    assert scores["micro"]["kappa"] == pytest.approx(expected)  # of one observation it is the same


def test_an_observation_only_one_states_is_unmentioned_by_the_other() -> None:
    first, second = read([("edema", "present")], []), read([("mass", "absent")], [("mass", "absent")])
    scores = score_agreement(first, second)
    assert scores["per_observation"]["edema"]["present"] == 0
    assert scores["per_observation"]["mass"]["kappa"] == 0
    assert scores["micro"]["present"] == 0
    assert scores["per_observation"]["mass"]["uncertain"] is None


def test_agreement_is_symmetric_and_of_oneself_complete() -> None:
    reports = ["Small effusion. No edema.", "Possible nodule.", "Clear lungs."]
    readings = [status_table(make_extractor(name).extract(reports)) for name in ("lexicon", "keywords")]
    there, back = score_agreement(*readings), score_agreement(*reversed(readings))
    assert there == back
    assert there["micro"]["kappa"] < 0.7
    assert score_agreement(readings[0], readings[0])["micro"]["kappa"] == 1


@pytest.mark.filterwarnings("error")
def test_what_is_undefined_is_none() -> None:
    same = read([("edema", "present")], [("edema", "present")])
    assert score_agreement(same, same)["per_observation"]["edema"]["kappa"] is None  # no variety to agree on
    empty = read([], [])
    assert score_agreement(empty, empty) == {
        "micro": {"kappa": None, "present": None, "uncertain": None, "absent": None},
        "per_observation": {},
    }


def test_differing_names_what_and_how_of_the_same_reports_and_never_an_invented_observation() -> None:
    first = read([("edema", "present"), ("mass", "absent")], [("edema", "absent")])
    second = read([("edema", "uncertain"), ("mass", "absent")], [("edema", "absent")])
    assert differing(first, second) == [{"edema": ("present", "uncertain")}, {}]
    assert list(read([("mrs smith has a cough", "present")]).columns) == ["other"]  # it may be text of a report
    with pytest.raises(ValueError, match="got 1 and 2"):
        score_agreement(read([]), read([], []))
