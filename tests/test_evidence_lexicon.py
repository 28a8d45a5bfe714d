"""The rule extractor: what it reads out of sentences, and that every phrase is verbatim."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lgdea_core.evidence.items import Place, resolve_location
from lgdea_core.evidence.lexicon import (
    LEXICON_FILE,
    LexiconExtractor,
    asg_tag,
    default_lexicon,
    expand_term,
    load_lexicon,
    parent_observation,
)
from lgdea_core.finding import Finding
from lgdea_core.vocabulary import (
    ASG_TAGS,
    CHEXPERT_FINDINGS,
    MS_CXR_FINDINGS,
    NIH_FINDINGS,
    NO_FINDING,
    PHANTOM_FINDINGS,
)

EXTRACTOR = LexiconExtractor()
Statement = tuple[str, str]


def read(report: str) -> list[Finding]:
    return EXTRACTOR.extract([report])[0]


def statuses(report: str) -> list[Statement]:
    return [(finding.observation, finding.status) for finding in read(report)]


def only(report: str, observation: str) -> Finding:
    found = [finding for finding in read(report) if finding.observation == observation]
    assert len(found) == 1, f"{len(found)} findings of {observation}"
    return found[0]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("No pleural effusion or pneumothorax.", [("pleural effusion", "absent"), ("pneumothorax", "absent")]),
        (
            "No focal consolidation, pleural effusion, or pneumothorax identified.",
            [("consolidation", "absent"), ("pleural effusion", "absent"), ("pneumothorax", "absent")],
        ),
        ("No effusion but atelectasis.", [("pleural effusion", "absent"), ("atelectasis", "present")]),
        ("No effusion, however there is edema.", [("pleural effusion", "absent"), ("edema", "present")]),
        ("No pneumothorax. Effusion.", [("pneumothorax", "absent"), ("pleural effusion", "present")]),
        ("No pneumothorax; effusion.", [("pneumothorax", "absent"), ("pleural effusion", "present")]),
        ("No pneumothorax, stable cardiomegaly.", [("pneumothorax", "absent"), ("cardiomegaly", "present")]),
        ("No pneumothorax and mild edema.", [("pneumothorax", "absent"), ("edema", "present")]),
        ("No nodule, large mass or edema.", [("nodule", "absent"), ("mass", "absent"), ("edema", "absent")]),
        ("Edema without effusion.", [("edema", "present"), ("pleural effusion", "absent")]),
        ("Neither effusion nor pneumothorax is seen.", [("pleural effusion", "absent"), ("pneumothorax", "absent")]),
        ("Pneumothorax is not seen.", [("pneumothorax", "absent")]),
        ("Effusion and pneumothorax are not identified.", [("pleural effusion", "absent"), ("pneumothorax", "absent")]),
        ("Edema is stable and pneumothorax is not seen.", [("edema", "present"), ("pneumothorax", "absent")]),
        ("Negative for pneumonia.", [("pneumonia", "absent")]),
        ("Lungs are free of edema.", [("edema", "absent")]),
        ("Effusion is unlikely.", [("pleural effusion", "absent")]),
        ("No change in the left effusion.", [("pleural effusion", "present")]),
        ("No significant interval change in edema.", [("edema", "present")]),
        ("No increase in the effusion.", [("pleural effusion", "present")]),
    ],
)  # fmt: skip
def test_denials_reach_as_far_as_their_clause(report: str, expected: list[Statement]) -> None:
    assert statuses(report) == expected


@pytest.mark.parametrize(
    "report",
    [
        "Previously seen effusion has resolved.",
        "Interval resolution of the effusion.",
        "The previously noted effusion is no longer seen.",
        "There is no longer any effusion.",
        "Resolved effusion.",
    ],
)
def test_what_has_resolved_is_absent(report: str) -> None:
    assert statuses(report) == [("pleural effusion", "absent")]


@pytest.mark.parametrize("change", ["decreased", "improved", "improving", "unchanged", "resolving"])
def test_what_has_merely_changed_is_present(change: str) -> None:
    assert statuses(f"The effusion is {change}.") == [("pleural effusion", "present")]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("Possible pneumonia.", [("pneumonia", "uncertain")]),
        ("Possible area of pneumonia.", [("pneumonia", "uncertain")]),
        ("Opacity may represent atelectasis or pneumonia.",
         [("lung opacity", "present"), ("atelectasis", "uncertain"), ("pneumonia", "uncertain")]),
        ("Opacity suspicious for pneumonia.", [("lung opacity", "present"), ("pneumonia", "uncertain")]),
        ("Pneumothorax cannot be excluded.", [("pneumothorax", "uncertain")]),
        ("Cannot rule out a pneumothorax.", [("pneumothorax", "uncertain")]),
        ("Pneumonia is suspected.", [("pneumonia", "uncertain")]),
        ("Infiltrate versus atelectasis.", [("infiltration", "uncertain"), ("atelectasis", "uncertain")]),
        ("Opacity, atelectasis vs. pneumonia.",
         [("lung opacity", "present"), ("atelectasis", "uncertain"), ("pneumonia", "uncertain")]),
        ("Scarring or atelectasis.", [("scar", "present"), ("atelectasis", "present")]),
        ("Possible effusion, no pneumothorax.", [("pleural effusion", "uncertain"), ("pneumothorax", "absent")]),
        ("Possible pneumonia, left effusion.", [("pneumonia", "uncertain"), ("pleural effusion", "present")]),
        ("Possible pneumonia, edema, or mass.",
         [("pneumonia", "uncertain"), ("edema", "uncertain"), ("mass", "uncertain")]),
        ("Pneumonia possible.", [("pneumonia", "uncertain")]),
        ("Nodule of uncertain origin.", [("nodule", "present")]),
        ("Possible pneumonia with effusion.", [("pneumonia", "uncertain"), ("pleural effusion", "present")]),
        ("No pneumothorax, possible effusion.", [("pneumothorax", "absent"), ("pleural effusion", "uncertain")]),
        ("Opacity consistent with pneumonia.", [("lung opacity", "present"), ("pneumonia", "present")]),
        ("No opacity to suggest pneumonia.", [("lung opacity", "absent"), ("pneumonia", "absent")]),
        ("Possibly the heart is enlarged.", [("cardiomegaly", "uncertain")]),
    ],
)  # fmt: skip
def test_doubt(report: str, expected: list[Statement]) -> None:
    assert statuses(report) == expected


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("No acute cardiopulmonary abnormality.", [(NO_FINDING, "present")]),
        ("Normal chest radiograph.", [(NO_FINDING, "present")]),
        ("Lungs are clear.", [(NO_FINDING, "present")]),
        ("Clear lungs.", [(NO_FINDING, "present")]),
        ("Lungs are not clear.", []),
        ("There is an acute abnormality.", []),
        ("Heart size is normal.", [("cardiomegaly", "absent")]),
        ("Normal heart size.", [("cardiomegaly", "absent")]),
        ("The heart is not enlarged.", [("cardiomegaly", "absent")]),
        ("Heart size upper limits of normal.", [("cardiomegaly", "absent")]),
        ("The heart is enlarged.", [("cardiomegaly", "present")]),
        ("Enlarged heart.", [("cardiomegaly", "present")]),
        ("No enlargement of the heart.", [("cardiomegaly", "absent")]),
        ("The enlargement of the heart has resolved.", [("cardiomegaly", "absent")]),
        ("Heart and mediastinum are normal.", [("cardiomegaly", "absent"), ("enlarged cardiomediastinum", "absent")]),
        ("The heart and great vessels are normal.", [("cardiomegaly", "absent")]),
        ("Heart film compared elsewhere by somebody normal.", []),
        ("Heart size is normal and lungs are clear.", [("cardiomegaly", "absent"), (NO_FINDING, "present")]),
        ("Pleural spaces are clear.", [("pleural effusion", "absent")]),
        ("No acute osseous abnormality.", [("fracture", "absent")]),
    ],
)
def test_normal_statements_and_states_of_places(report: str, expected: list[Statement]) -> None:
    assert statuses(report) == expected


@pytest.mark.parametrize(
    ("report", "observation"),
    [
        ("Right infiltrate.", "infiltration"),
        ("Pleural fluid.", "pleural effusion"),
        ("Airspace disease.", "lung opacity"),
        ("Nodular opacity.", "lung opacity"),
        ("Emphysematous changes.", "emphysema"),
        ("Blunting of the costophrenic angle.", "blunt"),
        ("Calcified granuloma.", "calcification"),
        ("Hiatus hernia.", "hernia"),
        ("Apical capping.", "pleural thickening"),
        ("Collapse of the right lung.", "collapse"),
    ],
)
def test_synonyms_get_the_canonical_name(report: str, observation: str) -> None:
    assert [finding.observation for finding in read(report)] == [observation]


@pytest.mark.parametrize(
    "report", ["Pericardial effusion.", "Cystic fibrosis.", "Ankle edema.", "History of pneumonia."]
)
def test_other_things_with_a_findings_name_are_left_alone(report: str) -> None:
    assert read(report) == []


@pytest.mark.parametrize(
    ("report", "observation", "laterality", "region"),
    [
        ("Left pleural effusion.", "pleural effusion", "left", None),
        ("Right-sided effusion.", "pleural effusion", "right", None),
        ("Bilateral effusions.", "pleural effusion", "bilateral", None),
        ("Left and right effusions.", "pleural effusion", "bilateral", None),
        ("Effusions, left greater than right.", "pleural effusion", "bilateral", None),
        ("Effusion on the left.", "pleural effusion", "left", None),
        ("Opacity in the right lower lobe.", "lung opacity", "right", "right lower lung zone"),
        ("Opacity is seen at the left base.", "lung opacity", "left", "left lower lung zone"),
        ("Left basilar atelectasis.", "atelectasis", "left", "left lower lung zone"),
        ("Retrocardiac opacity.", "lung opacity", "left", "left lower lung zone"),
        ("Right middle lobe consolidation.", "consolidation", "right", "right mid lung zone"),
        ("Lingular atelectasis.", "atelectasis", "left", "left mid lung zone"),
        ("Nodule in the left upper lung.", "nodule", "left", "left upper lung zone"),
        ("Right apical pneumothorax.", "pneumothorax", "right", "right apical zone"),
        ("Left perihilar opacity.", "lung opacity", "left", "left hilar structures"),
        ("Bibasilar atelectasis.", "atelectasis", "bilateral", None),
        ("Atelectasis at both lung bases.", "atelectasis", "bilateral", None),
        ("Opacity in the lower lobe.", "lung opacity", None, None),
        ("Dense opacification of the entire left hemithorax.", "lung opacity", "left", "left lung"),
        ("Blunting of the right costophrenic XXXX.", "blunt", "right", "right costophrenic angle"),
        ("In the right upper lobe there is a nodule.", "nodule", "right", "right upper lung zone"),
        ("Left lung shows consolidation.", "consolidation", "left", "left lung"),
        ("The heart is enlarged.", "cardiomegaly", None, "cardiac silhouette"),
        ("The cardiomediastinal silhouette is enlarged.", "cardiomegaly", None, "cardiac silhouette"),
        ("The cardiomediastinal silhouette is enlarged.", "enlarged cardiomediastinum", None, "mediastinum"),
        ("Compression fracture of the thoracic spine.", "fracture", None, "spine"),
        ("Right and left lower lobe opacities.", "lung opacity", "bilateral", None),
        ("Clear lungs and left effusion.", "pleural effusion", "left", None),
        ("Right lung is clear. Effusion.", "pleural effusion", None, None),
    ],
)
def test_side_and_region(report: str, observation: str, laterality: str | None, region: str | None) -> None:
    finding = only(report, observation)
    assert (finding.laterality, finding.region) == (laterality, region)


@pytest.mark.parametrize(
    ("report", "severity"),
    [
        ("Small effusion.", "mild"),
        ("Tiny left effusion.", "mild"),
        ("Moderate effusion.", "moderate"),
        ("Mild to moderate effusion.", "moderate"),
        ("Large right effusion.", "severe"),
        ("Moderate-to-large effusion.", "severe"),
        ("The effusion is small.", "mild"),
        ("Effusion.", None),
        ("No large effusion.", None),
        ("No edema or large effusion.", None),
    ],
)
def test_severity(report: str, severity: str | None) -> None:
    assert only(report, "pleural effusion").severity == severity


def test_severity_of_a_state() -> None:
    assert only("The heart is mildly enlarged.", "cardiomegaly").severity == "mild"


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("Effusion and atelectasis at the left base.",
         [("pleural effusion", "left", None), ("atelectasis", "left", None)]),
        ("Right upper lobe consolidation and left lower lobe atelectasis.",
         [("consolidation", "right", None), ("atelectasis", "left", None)]),
        ("Small right effusion with adjacent atelectasis.",
         [("pleural effusion", "right", "mild"), ("atelectasis", "right", None)]),
        ("Left effusion is small and right effusion is large.",
         [("pleural effusion", "left", "mild"), ("pleural effusion", "right", "severe")]),
        ("Left effusion and cardiomegaly.",
         [("pleural effusion", "left", None), ("cardiomegaly", None, None)]),
    ],
)  # fmt: skip
def test_conjunctions_split_and_share_what_they_should(report: str, expected: list[tuple]) -> None:
    assert [(finding.observation, finding.laterality, finding.severity) for finding in read(report)] == expected


@pytest.mark.parametrize(
    ("report", "phrase"),
    [
        ("There is a small left pleural effusion.", "small left pleural effusion"),
        ("Hazy opacity in the right lower lung zone, possibly old.", "Hazy opacity in the right lower lung zone"),
        ("Bilateral effusions, right greater than left, are seen.", "Bilateral effusions, right greater than left"),
        ("There is no focal consolidation.", "focal consolidation"),
        ("No acute cardiopulmonary abnormality.", "No acute cardiopulmonary abnormality"),
        ("The cardiac silhouette is mildly enlarged today.", "cardiac silhouette is mildly enlarged"),
    ],
)
def test_phrase_is_the_noun_phrase_with_its_modifiers(report: str, phrase: str) -> None:
    assert [finding.phrase for finding in read(report)] == [phrase]


def test_phrase_of_a_wrapped_line_is_verbatim() -> None:
    report = "FINDINGS:  There is a small left\n  pleural   effusion.\n\nNo edema.\nIMPRESSION: 1. Effusion\n2. Edema"
    assert [(f.phrase, f.section, f.status) for f in read(report)] == [
        ("small left\n  pleural   effusion", "findings", "present"),
        ("edema", "findings", "absent"),
        ("Effusion", "impression", "present"),
        ("Edema", "impression", "present"),
    ]


def test_list_entries_end_a_denial_although_no_full_stop_does() -> None:
    assert statuses("IMPRESSION:\n1. No pneumothorax\n2. Effusion") == [
        ("pneumothorax", "absent"),
        ("pleural effusion", "present"),
    ]


def test_deidentified_words_do_no_harm() -> None:
    report = "XXXX opacities in the XXXX left base XXXX. XXXX and XXXX are normal. No XXXX pneumothorax. XXXX."
    assert statuses(report) == [("lung opacity", "present"), ("pneumothorax", "absent")]
    assert only(report, "lung opacity").laterality == "left"


@pytest.mark.parametrize("word", ["pnuemothorax", "pneumothrax", "pneumothoraxx", "PNEUMOTHOARX"])
def test_a_slip_of_the_keyboard_is_read(word: str) -> None:
    finding = only(f"There is a small right {word}.", "pneumothorax")
    assert finding.phrase == f"small right {word}"


@pytest.mark.parametrize("word", ["three", "making", "thoracotomy", "massive", "modular"])
def test_ordinary_words_are_no_misspellings(word: str) -> None:
    assert read(f"A {word} follows.") == []


@pytest.mark.parametrize("report", ["", " \n ", "INDICATION: pneumonia.", "....", "\x00", "No", "or or or", "left"])
def test_nothing_to_report(report: str) -> None:
    assert read(report) == []


WORDS = sorted({word for term in default_lexicon().terms for word in term.split()} | {"XXXX", ".", "\n\n", "1."})


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join)))
@example("FINDINGS:\u00a0small\u2003effusion\r\n at\tthe left base\u0085 IMPRESSION: Ⅷ effusions")
@example("İ left effusion ß")
def test_any_text_gives_verbatim_phrases(text: str) -> None:
    for finding in read(text):
        assert text[finding.start : finding.end] == finding.phrase
        assert finding.phrase == finding.phrase.strip()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["Small effusion.", "No edema.", "Lungs are clear.", "Heart is big."]), max_size=8))
def test_sentences_are_read_independently(sentences: list[str]) -> None:
    alone = [statement for sentence in sentences for statement in statuses(sentence)]
    assert statuses(" ".join(sentences)) == alone


@pytest.mark.parametrize(
    ("term", "spellings"),
    [
        ("effusion(s)", ["effusion", "effusions"]),
        ("opacit(y|ies)", ["opacity", "opacities"]),
        ("(is|are|) not seen", ["is not seen", "are not seen", "not seen"]),
        ("plain", ["plain"]),
    ],
)
def test_notation_of_the_lexicon(term: str, spellings: list[str]) -> None:
    assert sorted(expand_term(term)) == sorted(spellings)


def test_the_lexicon_covers_the_vocabulary_and_nothing_else() -> None:
    observations = set(json.loads(LEXICON_FILE.read_text())["observations"]) - {"about"}
    named = {*CHEXPERT_FINDINGS, *MS_CXR_FINDINGS, *NIH_FINDINGS.values(), *PHANTOM_FINDINGS} - {NO_FINDING}
    assert named <= observations
    assert {asg_tag(observation) for observation in observations} >= set(ASG_TAGS)
    assert observations <= named | set(ASG_TAGS)


def test_parents_are_names_of_a_label_list() -> None:
    assert parent_observation("tube") == "support devices"
    assert parent_observation("edema") is None
    assert set(default_lexicon().parents.values()) <= {*CHEXPERT_FINDINGS, *NIH_FINDINGS.values()}


def test_no_term_of_the_lexicon_has_unread_notation() -> None:
    assert [term for term in default_lexicon().terms if set("()|") & set(term) and len(term) > 1] == []


def edited_lexicon(tmp_path: Path, edit: Callable[[dict], None]) -> Path:
    raw = json.loads(LEXICON_FILE.read_text())
    edit(raw)
    path = tmp_path / "lexicon.json"
    path.write_text(json.dumps(raw))
    return path


def test_a_radiologist_can_add_a_synonym(tmp_path: Path) -> None:
    path = edited_lexicon(tmp_path, lambda raw: raw["observations"]["edema"].append("wet lung"))
    changed = LexiconExtractor(load_lexicon(path)).extract(["Wet lung."])[0]
    assert [finding.observation for finding in changed] == ["edema"]
    assert read("Wet lung.") == []


def test_a_broken_lexicon_says_where(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.json"
    path.write_text('{"observations": {\n"edema": ["edema",]}}')
    with pytest.raises(ValueError, match=r"lexicon\.json, line 2: not valid JSON"):
        load_lexicon(path)
    with pytest.raises(ValueError, match="the list 'negation' is missing"):
        load_lexicon(edited_lexicon(tmp_path, lambda raw: raw.pop("negation")))


def test_a_region_needs_one_side() -> None:
    base = Place(region="lower lung zone", lateral=True, side=None, states={})
    lung = Place(region="lung", lateral=True, side=None, states={})
    spine = Place(region="spine", lateral=False, side=None, states={})
    assert resolve_location([base]) == (None, None)
    assert resolve_location(["left", base]) == ("left", "left lower lung zone")
    assert resolve_location(["left", "right", base]) == ("bilateral", None)
    assert resolve_location(["left", lung, base]) == ("left", "left lower lung zone")
    assert resolve_location([spine]) == (None, "spine")
    assert resolve_location([]) == (None, None)
