"""Triplets: the rules one by one on hand-made findings, the tables against the vocabulary, and real reports."""

from pathlib import Path

import pandas as pd
import pytest

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


BASES = ["right lower lung zone", "left lower lung zone"]
LUNGS = ["right lung", "left lung"]


@pytest.mark.parametrize(
    ("rule", "finding", "expected"),
    [
        # the region field comes first, and bilateral gives both sides of it
        ("stated", ("lung opacity", "present", BASES[1], "left", "opacity in the right apex"), BASES[1:]),
        ("stated", ("lung opacity", "present", BASES[1], "bilateral"), BASES),
        # words of the phrase come second; several places keep their own sides
        ("words", ("atelectasis", "present", None, "bilateral", "bibasilar atelectasis"), BASES),
        ("words", ("lung opacity", "present", None, "bilateral", "right upper and left lower lobe opacities"),
         ["right upper lung zone", "left lower lung zone"]),
        ("words", ("lung opacity", "present", None, "left", "left upper and lower lobes"),
         ["left upper lung zone", "left lower lung zone"]),
        # defaults come third
        ("default", ("pleural effusion", "present", None, "left"), ["left costophrenic angle"]),
        ("default", ("pleural effusion", "present", None, "bilateral"),
         ["right costophrenic angle", "left costophrenic angle"]),
        ("default", ("pneumothorax", "present", None, "right"), ["right lung"]),
        ("default", ("cardiomegaly",), ["cardiac silhouette"]),
        ("default", ("cardiomegaly", "present", None, "left"), ["cardiac silhouette"]),
        ("default", ("edema",), LUNGS),
        ("default", ("edema", "present", None, "left"), ["left lung"]),
        ("default", ("engorgement",), ["right hilar structures", "left hilar structures"]),
        ("default", ("hernia",), ["mediastinum"]),
        # no side is guessed
        ("unspecified", ("pleural effusion", "present", None, None, "small effusion"), [None]),
        ("unspecified", ("nodule", "uncertain", None, None, "lower lobe nodule"), [None]),
        # a denial without a side denies both, and with one only that
        ("default", ("pneumothorax", "absent"), LUNGS),
        ("default", ("pneumothorax", "absent", None, "left"), ["left lung"]),
        ("words", ("nodule", "absent", None, None, "apical nodule"), ["right apical zone", "left apical zone"]),
        # "no finding" has the region it names; a normal chest is more than its lungs
        ("words", (NO_FINDING, "present", None, None, "lungs are clear"), LUNGS),
        ("words", (NO_FINDING, "present", None, None, "no acute pulmonary disease"), LUNGS),
        ("unspecified", (NO_FINDING, "present", None, None, "no acute cardiopulmonary abnormality"), [None]),
        ("unspecified", (NO_FINDING, "present", None, None, "normal chest"), [None]),
        # places where an observation cannot lie are passed over
        ("words", ("cardiomegaly", "absent", None, None, "heart size, mediastinum and lungs are normal"),
         ["cardiac silhouette"]),
        ("words", ("enlarged cardiomediastinum", "absent", "cardiac silhouette", None, "heart and mediastinum"),
         ["mediastinum"]),
        # bones and lines have no default; an observation of neither table lies where the report says
        *(("unspecified", (observation, "absent"), [None]) for observation in sorted(NOT_OF_LUNGS)),
        ("words", ("pericardial calcium", "present", None, None, "calcium over the heart"), ["cardiac silhouette"]),
        ("unspecified", ("pericardial calcium", "present", None, "left"), [None]),
    ],
)  # fmt: skip
def test_the_first_rule_that_names_a_region_counts(rule: str, finding: tuple, expected: list[str | None]) -> None:
    observation, status, region, laterality, phrase = (*finding, *(None,) * 5)[:5]
    found = regions_of(observation, status or "present", region, laterality, phrase or "it")
    assert found == tuple((name, rule) for name in expected)


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


def test_a_region_is_its_name_and_its_side() -> None:
    assert all(sided(*region_and_side(region)) == (region,) for region in REGIONS)


def table(*rows: tuple[object, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(EVIDENCE_COLUMNS))


def test_a_table_of_evidence_becomes_a_table_of_triplets(tmp_path: Path) -> None:
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
    evidence.to_parquet(tmp_path / "evidence.parquet")  # a table read back from a file gives the same
    pd.testing.assert_frame_equal(triplets(pd.read_parquet(tmp_path / "evidence.parquet")), found)


def test_no_evidence_gives_no_triplet_and_a_missing_column_is_named() -> None:
    found = triplets(table())
    assert found.empty
    assert tuple(found.columns) == TRIPLET_COLUMNS
    with pytest.raises(ValueError, match=r"lacks column\(s\) \['laterality'\]"):
        triplets(table().drop(columns="laterality"))


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
    names = ("cardiac silhouette", "right costophrenic angle", "left costophrenic angle", "left lower lung zone")
    heart, right, left, base = map(REGIONS.index, names)
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
