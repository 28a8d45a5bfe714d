"""Agreement of two extractors: hand-made readings, kappa by its definition, and no word of a report anywhere."""

from collections.abc import Sequence

import pandas as pd
import pytest

from lgdea_core.evaluation.extraction.agreement import differing, score_agreement, status_table
from lgdea_core.evidence.extract import make_extractor
from lgdea_core.finding import Finding


def finding(observation: str, status: str) -> Finding:
    return Finding(observation=observation, status=status, phrase="x", start=0, end=1)


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


def test_differing_names_what_and_how() -> None:
    first = read([("edema", "present"), ("mass", "absent")], [("edema", "absent")])
    second = read([("edema", "uncertain"), ("mass", "absent")], [("edema", "absent")])
    assert differing(first, second) == [{"edema": ("present", "uncertain")}, {}]


def test_an_invented_observation_may_be_report_text_and_is_not_named() -> None:
    table = read([("mrs smith has a cough", "present")])
    assert list(table.columns) == ["other"]


def test_both_must_have_read_the_same_reports() -> None:
    with pytest.raises(ValueError, match="got 1 and 2"):
        score_agreement(read([]), read([], []))
