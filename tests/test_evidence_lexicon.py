"""The rule extractor: what it reads out of sentences, and that every phrase is verbatim."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lgdea_core.data.phantom import PhantomConfig, plan_study
from lgdea_core.evidence.clauses import Place, resolve_location
from lgdea_core.evidence.extract import make_extractor
from lgdea_core.evidence.lexicon import (
    LEXICON_FILE,
    LexiconExtractor,
    asg_tag,
    default_lexicon,
    expand_term,
    load_lexicon,
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


def read(report: str) -> list[Finding]:
    return EXTRACTOR.extract([report])[0]


def only(report: str, observation: str) -> Finding:
    found = [finding for finding in read(report) if finding.observation == observation]
    assert len(found) == 1, f"{len(found)} findings of {observation}"
    return found[0]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        # a denial reaches as far as its clause
        ("No pleural effusion or pneumothorax.", "-pleural effusion, -pneumothorax"),
        (
            "No focal consolidation, pleural effusion, or pneumothorax identified.",
            "-consolidation, -pleural effusion, -pneumothorax",
        ),
        ("No effusion but atelectasis.", "-pleural effusion, +atelectasis"),
        ("No effusion, however there is edema.", "-pleural effusion, +edema"),
        ("No pneumothorax. Effusion.", "-pneumothorax, +pleural effusion"),
        ("No pneumothorax; effusion.", "-pneumothorax, +pleural effusion"),
        ("No pneumothorax, stable cardiomegaly.", "-pneumothorax, +cardiomegaly"),
        ("No pneumothorax and mild edema.", "-pneumothorax, +edema"),
        ("No nodule, large mass or edema.", "-nodule, -mass, -edema"),
        ("Edema without effusion.", "+edema, -pleural effusion"),
        ("Neither effusion nor pneumothorax is seen.", "-pleural effusion, -pneumothorax"),
        ("Pneumothorax is not seen.", "-pneumothorax"),
        ("Effusion and pneumothorax are not identified.", "-pleural effusion, -pneumothorax"),
        ("Edema is stable and pneumothorax is not seen.", "+edema, -pneumothorax"),
        ("Negative for pneumonia.", "-pneumonia"),
        ("Lungs are free of edema.", "-edema"),
        ("Effusion is unlikely.", "-pleural effusion"),
        ("No change in the left effusion.", "+pleural effusion"),
        ("No increase in the effusion.", "+pleural effusion"),
        # what has resolved is absent, what has merely changed is present
        ("Previously seen effusion has resolved.", "-pleural effusion"),
        ("Interval resolution of the effusion.", "-pleural effusion"),
        ("The previously noted effusion is no longer seen.", "-pleural effusion"),
        ("There is no longer any effusion.", "-pleural effusion"),
        ("The effusion is improved.", "+pleural effusion"),
        ("The effusion is unchanged.", "+pleural effusion"),
        ("The effusion is resolving.", "+pleural effusion"),
        # doubt
        ("Possible pneumonia.", "?pneumonia"),
        ("Opacity may represent atelectasis or pneumonia.", "+lung opacity, ?atelectasis, ?pneumonia"),
        ("Opacity suspicious for pneumonia.", "+lung opacity, ?pneumonia"),
        ("Pneumothorax cannot be excluded.", "?pneumothorax"),
        ("Cannot rule out a pneumothorax.", "?pneumothorax"),
        ("Pneumonia is suspected.", "?pneumonia"),
        ("Infiltrate versus atelectasis.", "?infiltration, ?atelectasis"),
        ("Opacity, atelectasis vs. pneumonia.", "+lung opacity, ?atelectasis, ?pneumonia"),
        ("Scarring or atelectasis.", "+scar, +atelectasis"),
        ("Possible effusion, no pneumothorax.", "?pleural effusion, -pneumothorax"),
        ("Possible pneumonia, left effusion.", "?pneumonia, +pleural effusion"),
        ("Possible pneumonia, edema, or mass.", "?pneumonia, ?edema, ?mass"),
        ("Pneumonia possible.", "?pneumonia"),
        ("Nodule of uncertain origin.", "+nodule"),
        ("Possible pneumonia with effusion.", "?pneumonia, +pleural effusion"),
        ("No pneumothorax, possible effusion.", "-pneumothorax, ?pleural effusion"),
        ("Opacity consistent with pneumonia.", "+lung opacity, +pneumonia"),
        ("No opacity to suggest pneumonia.", "-lung opacity, -pneumonia"),
        ("Possibly the heart is enlarged.", "?cardiomegaly"),
        # normal statements, and states of places
        ("No acute cardiopulmonary abnormality.", "+no finding"),
        ("Normal chest radiograph.", "+no finding"),
        ("Lungs are clear.", "+no finding"),
        ("Lungs are not clear.", ""),
        ("There is an acute abnormality.", ""),
        ("Heart size is normal.", "-cardiomegaly"),
        ("The heart is not enlarged.", "-cardiomegaly"),
        ("Heart size upper limits of normal.", "-cardiomegaly"),
        ("Enlarged heart.", "+cardiomegaly"),
        ("No enlargement of the heart.", "-cardiomegaly"),
        ("The enlargement of the heart has resolved.", "-cardiomegaly"),
        ("Heart and mediastinum are normal.", "-cardiomegaly, -enlarged cardiomediastinum"),
        ("The heart and great vessels are normal.", "-cardiomegaly"),
        ("Heart film compared elsewhere by somebody normal.", ""),
        ("Heart size is normal and lungs are clear.", "-cardiomegaly, +no finding"),
        ("Pleural spaces are clear.", "-pleural effusion"),
        ("No acute osseous abnormality.", "-fracture"),
        # synonyms get the canonical name
        ("Right infiltrate.", "+infiltration"),
        ("Pleural fluid.", "+pleural effusion"),
        ("Airspace disease.", "+lung opacity"),
        ("Nodular opacity.", "+lung opacity"),
        ("Emphysematous changes.", "+emphysema"),
        ("Blunting of the costophrenic angle.", "+blunt"),
        ("Calcified granuloma.", "+calcification"),
        ("Hiatus hernia.", "+hernia"),
        ("Apical capping.", "+pleural thickening"),
        ("Collapse of the right lung.", "+collapse"),
        # other things with a finding's name, ordinary words and nothing at all
        ("Pericardial effusion.", ""),
        ("Cystic fibrosis.", ""),
        ("History of pneumonia.", ""),
        ("A three follows.", ""),
        ("A thoracotomy follows.", ""),
        ("A massive follows.", ""),
        ("A modular follows.", ""),
        ("", ""),
        (" \n ", ""),
        ("INDICATION: pneumonia.", ""),
        ("\x00", ""),
        ("No", ""),
        ("left", ""),
        # list entries end a denial although no full stop does
        ("IMPRESSION:\n1. No pneumothorax\n2. Effusion", "-pneumothorax, +pleural effusion"),
        # deidentified words do no harm
        (
            "XXXX opacities in the XXXX left base XXXX. XXXX and XXXX are normal. No XXXX pneumothorax. XXXX.",
            "+lung opacity, -pneumothorax",
        ),
    ],
)
def test_what_a_sentence_states_denies_and_doubts(report: str, expected: str) -> None:
    """Expected are the observations in their order: + present, - absent, ? uncertain."""
    signs = {"present": "+", "absent": "-", "uncertain": "?"}
    assert ", ".join(signs[finding.status] + finding.observation for finding in read(report)) == expected


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
        ("XXXX opacities in the XXXX left base XXXX.", "lung opacity", "left", "left lower lung zone"),
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
        ("The heart is mildly enlarged.", [("cardiomegaly", None, "mild")]),
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


@pytest.mark.parametrize("word", ["pnuemothorax", "pneumothrax", "pneumothoraxx", "PNEUMOTHOARX"])
def test_a_slip_of_the_keyboard_is_read(word: str) -> None:
    finding = only(f"There is a small right {word}.", "pneumothorax")
    assert finding.phrase == f"small right {word}"


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
    def said(report: str) -> list[tuple[str, str, str]]:
        return [(finding.observation, finding.status, finding.phrase) for finding in read(report)]

    assert said(" ".join(sentences)) == [one for sentence in sentences for one in said(sentence)]


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
    assert [term for term in default_lexicon().terms if set("()|") & set(term) and len(term) > 1] == []  # notation


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


def phantom_agreement(extractor: str) -> dict[str, float]:
    """Recall and precision of (observation, status) at the place of the phantom's truth; shares of right attributes."""

    def overlaps(found: Finding, true: Finding) -> bool:
        same = (found.observation, found.status) == (true.observation, true.status)
        return same and found.start < true.end and true.start < found.end

    plans = [plan_study(PhantomConfig(seed=11), index) for index in range(150)]
    counts: Counter[str] = Counter()
    for plan, findings in zip(plans, make_extractor(extractor).extract([p.report for p in plans]), strict=True):
        findings = [finding for finding in findings if finding.observation in {NO_FINDING, *PHANTOM_FINDINGS}]
        counts["found"] += len(findings)
        counts["right"] += sum(any(overlaps(finding, true) for true in plan.evidence) for finding in findings)
        counts["true"] += len(plan.evidence)
        for true in plan.evidence:
            matches = [finding for finding in findings if overlaps(finding, true)]
            counts["recalled"] += bool(matches)
            if matches and true.status != "absent":
                counts["stated"] += 1
                for attribute in ("laterality", "severity", "region"):
                    counts[attribute] += any(getattr(one, attribute) == getattr(true, attribute) for one in matches)
    shares = {name: counts[name] / counts["stated"] for name in ("laterality", "severity", "region")}
    return {"precision": counts["right"] / counts["found"], "recall": counts["recalled"] / counts["true"], **shares}


def test_the_rules_agree_with_the_phantoms_truth_and_bare_keywords_do_not() -> None:
    measured, control = phantom_agreement("lexicon"), phantom_agreement("keywords")
    assert min(measured.values()) > 0.97, measured
    assert max(control["precision"], control["laterality"]) < 0.6, control
