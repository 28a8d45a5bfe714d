"""Triplets: the rules one by one on hand-made findings, the tables against the vocabulary, and real reports."""

import os
from pathlib import Path

import pandas as pd
import pytest

from lgdea_core.data.corpora import load_corpus
from lgdea_core.evidence.answers import OBSERVATIONS
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.evidence.lexicon import default_lexicon
from lgdea_core.evidence.triplets import (
    DIFFUSE,
    HOMELESS,
    HOMES,
    IMPLIED_PLACES,
    NOT_OF_LUNGS,
    TRIPLET_COLUMNS,
    image_tags,
    places_in,
    region_and_side,
    regions_of,
    sentence_regions,
    sided,
    triplets,
)
from lgdea_core.finding import EVIDENCE_COLUMNS
from lgdea_core.vocabulary import ASG_TAGS, NO_FINDING, REGIONS


def regions(
    observation: str,
    status: str = "present",
    region: str | None = None,
    laterality: str | None = None,
    phrase: str = "it",
) -> list[str | None]:
    return [name for name, _ in regions_of(observation, status, region, laterality, phrase)]


def rule(*finding: str | None) -> str:
    return regions_of(*finding)[0][1]


def test_the_region_field_comes_first_and_bilateral_gives_both_sides_of_it() -> None:
    finding = ("lung opacity", "present", "left lower lung zone", "left", "opacity in the right apex")
    assert regions_of(*finding) == (("left lower lung zone", "stated"),)
    both = regions("lung opacity", region="left lower lung zone", laterality="bilateral")
    assert both == ["right lower lung zone", "left lower lung zone"]


def test_words_of_the_phrase_come_second() -> None:
    assert rule("atelectasis", "present", None, "bilateral", "bibasilar atelectasis") == "words"
    found = regions("atelectasis", laterality="bilateral", phrase="bibasilar atelectasis")
    assert found == ["right lower lung zone", "left lower lung zone"]


def test_several_places_of_a_phrase_keep_their_own_sides() -> None:
    found = regions("lung opacity", laterality="bilateral", phrase="right upper and left lower lobe opacities")
    assert found == ["right upper lung zone", "left lower lung zone"]
    plural = regions("lung opacity", laterality="left", phrase="left upper and lower lobes")
    assert plural == ["left upper lung zone", "left lower lung zone"]


@pytest.mark.parametrize(
    ("observation", "laterality", "expected"),
    [
        ("pleural effusion", "left", ["left costophrenic angle"]),
        ("pleural effusion", "bilateral", ["right costophrenic angle", "left costophrenic angle"]),
        ("pneumothorax", "right", ["right lung"]),
        ("cardiomegaly", None, ["cardiac silhouette"]),
        ("cardiomegaly", "left", ["cardiac silhouette"]),
        ("edema", None, ["right lung", "left lung"]),
        ("edema", "left", ["left lung"]),
        ("engorgement", None, ["right hilar structures", "left hilar structures"]),
        ("hernia", None, ["mediastinum"]),
    ],
)
def test_defaults_come_third(observation: str, laterality: str | None, expected: list[str]) -> None:
    assert regions(observation, laterality=laterality) == expected
    assert rule(observation, "present", None, laterality, "it") == "default"


@pytest.mark.parametrize("status", ["present", "uncertain"])
def test_no_side_is_guessed(status: str) -> None:
    assert regions_of("pleural effusion", status, None, None, "small effusion") == ((None, "unspecified"),)
    assert regions_of("nodule", status, None, None, "lower lobe nodule") == ((None, "unspecified"),)


def test_a_denial_without_a_side_denies_both_and_with_one_only_that() -> None:
    assert regions("pneumothorax", "absent") == ["right lung", "left lung"]
    assert regions("pneumothorax", "absent", laterality="left") == ["left lung"]
    assert regions("nodule", "absent", phrase="apical nodule") == ["right apical zone", "left apical zone"]


def test_no_finding_has_the_region_it_names() -> None:
    assert regions(NO_FINDING, phrase="lungs are clear") == ["right lung", "left lung"]
    assert regions(NO_FINDING, phrase="no acute pulmonary disease") == ["right lung", "left lung"]
    assert regions(NO_FINDING, phrase="no acute cardiopulmonary abnormality") == [None]
    assert regions(NO_FINDING, phrase="normal chest") == [None]  # more than its lungs


def test_places_where_an_observation_cannot_lie_are_passed_over() -> None:
    shared = "heart size, mediastinum and lungs are normal"
    assert regions("cardiomegaly", "absent", phrase=shared) == ["cardiac silhouette"]
    assert regions("enlarged cardiomediastinum", "absent", "cardiac silhouette", None, shared) == ["mediastinum"]


@pytest.mark.parametrize(
    ("report", "observation", "expected"),
    [
        ("There is a mid right clavicle fracture.", "fracture", "right clavicle"),
        ("Fracture of the base of the right scapula.", "fracture", "-"),
        ("A right upper extremity PICC terminates in the SVC.", "line", "-"),
        ("Right chest port with catheter tip at the low SVC.", "tip", "svc"),
        ("Catheter over the left upper lung.", "line", "left upper lung zone"),
        ("The osseous structures and upper abdomen are normal.", "fracture", "-"),
        ("Right upper abdominal clips.", "hardware", "abdomen"),
    ],
)
def test_bones_and_lines_are_no_part_of_a_lung_unless_the_report_says_so(
    report: str, observation: str, expected: str
) -> None:
    evidence, _ = extract_evidence(pd.DataFrame({"study_id": ["s"], "report": [report]}), progress=False)
    found = triplets(evidence)
    assert found.loc[found["observation"] == observation, "region"].fillna("-").tolist() == [expected]


def test_bones_and_lines_have_no_default() -> None:
    for observation in NOT_OF_LUNGS:
        assert regions(observation, "absent") == [None]


def test_an_observation_of_neither_table_lies_where_the_report_says() -> None:
    assert regions("pericardial calcium", phrase="calcium over the heart") == ["cardiac silhouette"]
    assert regions("pericardial calcium", laterality="left") == [None]


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("lingula", (("mid lung zone", "left"),)),
        ("Right  LOWER\nlobe", (("lower lung zone", "right"),)),
        ("lung nodule in the left apex", (("apical zone", "left"),)),  # the lung is left out beside its part
        ("lungs and heart", (("lung", "bilateral"), ("cardiac silhouette", None))),
        ("aortic knob", (("aortic arch", None),)),
        ("aortic valve replacement", (("cardiac silhouette", None),)),
        ("levoscoliosis", (("spine", None),)),
        ("left chest", (("lung", "left"),)),
        ("chest", ()),
        ("forebasement", ()),
    ],
)
def test_places_in_words(phrase: str, expected: tuple[tuple[str, str | None], ...]) -> None:
    assert places_in(phrase) == expected


def test_every_region_has_a_synonym_and_every_synonym_a_region() -> None:
    named = {region for region in REGIONS if regions("x", phrase=f"the {region}") == [region]}
    assert named == set(REGIONS)
    places = [value for kind, value in default_lexicon().terms.values() if kind == "location"]
    of_lexicon = {place.region for place in places if not isinstance(place, str) and place.region}
    for region in (*of_lexicon, *IMPLIED_PLACES.values()):
        assert set(sided(region, "bilateral")) <= set(REGIONS), region


def test_every_observation_of_the_lexicon_is_decided_once() -> None:
    assert set(HOMES) | HOMELESS == set(OBSERVATIONS)
    assert not set(HOMES) & HOMELESS
    assert set(HOMES) >= DIFFUSE | NOT_OF_LUNGS
    for homes in HOMES.values():
        assert all(set(sided(home, "bilateral")) <= set(REGIONS) and sided(home, "bilateral") for home in homes)


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_is_its_name_and_its_side(region: str) -> None:
    assert sided(*region_and_side(region)) == (region,)


def table(*rows: tuple[object, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(EVIDENCE_COLUMNS))


def test_a_table_of_evidence_becomes_a_table_of_triplets() -> None:
    evidence = table(
        ("r1", "pleural effusion", None, "bilateral", "mild", "present", "small effusions", 10, 25, "findings"),
        ("r1", "nodule", None, None, None, "uncertain", "nodule", 30, 36, "findings"),
        ("r2", "cardiomegaly", "cardiac silhouette", None, None, "absent", "normal heart", 5, 17, "impression"),
    )
    found = triplets(evidence)
    assert tuple(found.columns) == TRIPLET_COLUMNS
    assert list(found["finding"]) == [0, 0, 1, 2]
    assert list(found["existence"]) == [1, 1, -1, 0]
    assert list(found["region"].fillna("-")) == [
        "right costophrenic angle", "left costophrenic angle", "-", "cardiac silhouette",
    ]  # fmt: skip
    assert list(found["rule"]) == ["default", "default", "unspecified", "stated"]
    for column in ("report_id", "observation", "phrase", "start", "end", "section"):
        assert list(found[column]) == list(evidence[column].iloc[found["finding"]])


def test_a_table_read_back_from_a_file_gives_the_same(tmp_path: Path) -> None:
    studies = pd.DataFrame({"study_id": ["s"], "report": ["Bibasilar atelectasis. No effusion. Left nodule. Clear."]})
    evidence, _ = extract_evidence(studies, progress=False)
    evidence.to_parquet(tmp_path / "evidence.parquet")
    pd.testing.assert_frame_equal(triplets(pd.read_parquet(tmp_path / "evidence.parquet")), triplets(evidence))


def test_no_evidence_gives_no_triplet() -> None:
    found = triplets(table())
    assert found.empty
    assert tuple(found.columns) == TRIPLET_COLUMNS


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match=r"lacks column\(s\) \['laterality'\]"):
        triplets(table().drop(columns="laterality"))


@pytest.mark.slow
def test_real_reports_have_regions_for_most_findings() -> None:
    if "LGDEA_DATA" not in os.environ:
        pytest.skip("LGDEA_DATA is not set: the real Open-i reports are not here")
    root = Path(os.environ["LGDEA_DATA"]) / "openi"
    if not root.is_dir():
        pytest.skip("LGDEA_DATA has no folder openi")
    evidence, _ = extract_evidence(load_corpus("openi", root).studies, progress=False)
    found = triplets(evidence)
    by_finding = found.drop_duplicates("finding")
    assert list(by_finding["finding"]) == list(range(len(evidence)))  # every finding is there
    assert by_finding.loc[by_finding["observation"] != NO_FINDING, "region"].notna().mean() > 0.8
    assert set(found["region"].dropna()) <= set(REGIONS)
    assert found.duplicated(["finding", "region"]).sum() == 0


# ---- views for training


def stated(rows: list[tuple[str, str, str, str | None, str, int]]) -> pd.DataFrame:
    """Evidence of (report, observation, status, region, phrase, start)."""
    table = pd.DataFrame(rows, columns=["report_id", "observation", "status", "region", "phrase", "start"])
    return table.assign(laterality=None, end=table["start"] + table["phrase"].str.len(), section="findings")


def test_a_sentence_names_the_regions_of_the_triplets_that_begin_in_it() -> None:
    reports = {
        "b": "FINDINGS: Heart size is normal. No effusion or pneumothorax. Bones intact.\nIMPRESSION: Normal heart.",
        "a": "Left base opacity.",
    }
    rows = [
        ("b", "cardiomegaly", "absent", "cardiac silhouette", "Heart size is normal", reports["b"].index("Heart")),
        ("b", "pleural effusion", "absent", None, "effusion", reports["b"].index("effusion")),
        ("b", "cardiomegaly", "absent", "cardiac silhouette", "Normal heart", reports["b"].index("Normal")),
        ("b", "cardiomegaly", "absent", None, "heart", reports["b"].index("Normal heart")),  # the same link again
        ("b", "calcification", "present", None, "it", reports["b"].index("Bones")),  # without a region
        ("c", "cardiomegaly", "absent", "cardiac silhouette", "heart", 0),  # of another pool
        ("a", "lung opacity", "uncertain", "left lower lung zone", "base opacity", 5),
    ]
    found = sentence_regions(triplets(stated(rows)), reports)
    heart, right, left, base = (
        REGIONS.index(name)
        for name in (
            "cardiac silhouette",
            "right costophrenic angle",
            "left costophrenic angle",
            "left lower lung zone",
        )
    )
    assert [link.tolist() for link in found] == [[[0, heart], [1, heart], [2, right], [2, left]], [[0, base]]]


def test_tags_hold_what_is_present_under_asgs_names() -> None:
    rows = [
        ("a", "lung opacity", "present", None, "opacity", 0),
        ("a", "pneumothorax", "absent", None, "no pneumothorax", 0),
        ("a", "edema", "uncertain", None, "maybe edema", 0),
        ("b", "pleural thickening", "present", None, "thick pleura", 0),
        ("b", "no finding", "present", None, "normal", 0),
        ("c", "edema", "present", None, "edema", 0),
    ]
    tags = image_tags(stated(rows), ("b", "a", "none"))
    held = [[ASG_TAGS[column] for column in row.nonzero()[0]] for row in tags]
    assert held == [["pleural thicken"], ["opacity"], []]
