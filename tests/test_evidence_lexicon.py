"""The rule extractor: what it reads out of sentences, and that every phrase is verbatim."""

import json
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lgdea_core.data.phantom import PhantomConfig, plan_study
from lgdea_core.data.phantom.study import StudyPlan
from lgdea_core.evidence.clauses import Place, resolve_location
from lgdea_core.evidence.cues import PAIRS
from lgdea_core.evidence.extract import make_extractor
from lgdea_core.evidence.lexicon import (
    LEXICON_FILE,
    Lexer,
    LexiconExtractor,
    asg_tag,
    default_lexer,
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


SIGNS = {"present": "+", "absent": "-", "uncertain": "?"}
SENTENCES = [
    json.loads(line)
    for line in Path(__file__).with_name("report_sentences.jsonl").read_text(encoding="utf-8").splitlines()
]
RULES = [
    rule
    for rules in json.loads(LEXICON_FILE.read_text()).values()
    if isinstance(rules, dict)
    for rule in rules.get("rules", [])
]


def said(report: str) -> str:
    """The findings in their order: + present, - absent, ? uncertain; side, severity and observation."""
    return ", ".join(
        SIGNS[finding.status] + " ".join(filter(None, (finding.laterality, finding.severity, finding.observation)))
        for finding in read(report)
    )


EXAMPLES = {
    "sentences": [(case["text"], case["reads"]) for case in SENTENCES],
    "rules of the lexicon": [(rule["example"], rule["reads"]) for rule in RULES],
    "cues that change each other": [(pair.example, pair.reads) for pair in PAIRS],
}


def test_a_sentence_reads_alone_as_it_does_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [sentence["text"] for sentence in SENTENCES]
    reports = [" ".join(texts[first : first + 9]) for first in range(0, len(texts), 90)]
    reports += ["Mild edema vs. left effusion.", "Messrs. Edema and Effusion of Calif. No mass."]
    reports += ["Heart is big. No edema\nSmall effusion."]
    reports += ["The heart is big. No edema\nSmall effusion. No edema\nor mass."]
    alone = EXTRACTOR.extract(reports)
    read_before = EXTRACTOR.extract(reports)
    pieces = default_lexer().pieces
    assert sum(len(list(pieces(report))) for report in reports) > 4 * len(reports)
    monkeypatch.setattr(Lexer, "pieces", lambda _, text: [(0, len(text))])
    assert alone == read_before == LexiconExtractor().extract(reports)


def test_an_extractor_goes_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(EXTRACTOR)).extract(["No edema."]) == EXTRACTOR.extract(["No edema."])


def test_a_term_with_a_stop_is_no_end_of_a_sentence() -> None:
    lexicon = default_lexicon()
    own = replace(lexicon, terms=lexicon.terms | {"pulm. edema": ("observation", "edema")})
    [finding] = LexiconExtractor(own).extract(["Mild pulm. edema."])[0]
    assert (finding.phrase, finding.severity) == ("Mild pulm. edema", "mild")
    longer = replace(lexicon, terms=lexicon.terms | {"moderate pulm. water": ("observation", "edema")})
    [finding] = LexiconExtractor(longer).extract(["Modreate pulm. water."])[0]
    assert finding.phrase == "Modreate pulm. water"


@pytest.mark.parametrize("examples", EXAMPLES.values(), ids=EXAMPLES)
def test_what_a_sentence_states_denies_and_doubts(examples: list[tuple[str, str]]) -> None:
    assert {text: said(text) for text, _ in examples} == dict(examples)


def test_every_kind_of_sentence_has_five_examples() -> None:
    kinds = Counter(case["kind"] for case in SENTENCES)
    assert len(kinds) > 20
    assert {kind: number for kind, number in kinds.items() if number < 5} == {}


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


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join)))
@example("FINDINGS:\u00a0small\u2003effusion\r\n at\tthe left base\u0085 IMPRESSION: Ⅷ effusions")
@example("İ left effusion ß")
def test_any_text_gives_verbatim_phrases(text: str) -> None:
    for finding in read(text):
        assert text[finding.start : finding.end] == finding.phrase
        assert finding.phrase == finding.phrase.strip()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["Small effusion.", "No edema.", "Lungs are clear.", "Heart is big."]), max_size=8))
def test_sentences_are_read_independently(sentences: list[str]) -> None:
    def phrases(report: str) -> list[tuple[str, str, str]]:
        return [(finding.observation, finding.status, finding.phrase) for finding in read(report)]

    assert phrases(" ".join(sentences)) == [one for sentence in sentences for one in phrases(sentence)]


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
    notation = [term for term in default_lexicon().terms if set("()|") & set(term) and len(term) > 1]
    assert set(notation) == {"(-)", "(+)"}


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


def phantom_agreement(extractor: str, plans: list[StudyPlan]) -> dict[str, float]:
    """Recall and precision of (observation, status) at the place of the phantom's truth; shares of right attributes."""

    def overlaps(found: Finding, true: Finding) -> bool:
        same = (found.observation, found.status) == (true.observation, true.status)
        return same and found.start < true.end and true.start < found.end

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
    plans = [plan_study(PhantomConfig(seed=11), index) for index in range(100)]
    measured, control = (phantom_agreement(name, plans) for name in ("lexicon", "keywords"))
    assert min(measured.values()) > 0.97, measured
    assert max(control["precision"], control["laterality"]) < 0.6, control
