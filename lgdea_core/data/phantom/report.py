"""Writes a report about a chest, and notes for every statement what it says and where it stands."""

import re
from dataclasses import asdict, dataclass, replace

import numpy as np

from lgdea_core.data.phantom import wording as words
from lgdea_core.data.phantom.config import PhantomConfig
from lgdea_core.data.phantom.truth import Mention, Truth, sides_of
from lgdea_core.data.phantom.wording import TRAINING, Wording
from lgdea_core.finding import Finding
from lgdea_core.vocabulary import NO_FINDING

LENGTH_RANGE = (330, 520)
"""Characters of FINDINGS and IMPRESSION together; drawn before, and independent of, what is to be said."""
_STATED = {"severity": 0.65, "laterality": 0.94, "zone": 0.55}
"""How often a varied report states what it could state."""

_GRADED_WHEN_PLAIN = ("cardiomegaly", "edema", "hernia", "pleural effusion", "pneumothorax")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a phrase says of one finding."""

    observation: str
    status: str
    region: str | None = None
    laterality: str | None = None
    severity: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sentence, and the claims its phrase makes."""

    text: str
    phrase: str = ""
    """part of the text; empty in a sentence without a claim"""
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NounPhrase:
    """Words for a mention, and the claim they make."""

    text: str
    claim: Claim
    article: str = ""
    """"a " or "an " where the noun takes one"""
    plural: bool = False
    clause: bool = False
    """it has its own verb"""


class Pen:
    """Random choices of one report, among the words it is written in."""

    def __init__(self, rng: np.random.Generator, wording: Wording, plain: bool) -> None:
        self.rng, self.wording, self.plain = rng, wording, plain

    def pick(self, options: tuple[str, ...]) -> str:
        """One of the options."""
        return options[int(self.rng.integers(len(options)))]

    def favour(self, options: tuple[str, ...]) -> str:
        """The first option in a plain report and every other time, else any: writers have habits, so phrases recur."""
        return options[0] if self.plain or self.chance(0.5) else self.pick(options)

    def chance(self, share: float) -> bool:
        """True in this share of all cases."""
        return bool(self.rng.random() < share)


def write_report(
    config: PhantomConfig,
    truth: Truth,
    view: str,
    devices: tuple[str, ...],
    rng: np.random.Generator,
    wording: Wording = TRAINING,
) -> tuple[str, tuple[Finding, ...]]:
    """A report with its evidence.

    Its length is drawn first and filled with negations and normal statements, so that length tells nothing of the
    findings. What the truth marks unreported is neither stated nor denied.

    Returns:
        The report, and every claim on a configured finding with its words (and `NO_FINDING` for "all is normal").
    """
    pen = Pen(rng, wording, plain=config.wording == "plain")
    target = float(rng.uniform(*LENGTH_RANGE))
    stated = [mention for mention in truth.mentions if mention.status != "unreported"]
    findings = [_state(mention, pen) for mention in stated]
    findings += [Sentence(text=pen.pick(words.DEVICE_FORMS[device])) for device in devices if pen.chance(0.8)]
    if truth.resolved:
        findings.append(_resolve(truth.resolved, pen))
    impression = _impression(stated, pen)
    denied = [
        finding
        for finding in config.findings
        if finding not in {mention.finding for mention in truth.mentions}
        and not (truth.resolved and truth.resolved.finding == finding)
    ]
    length = sum(len(sentence.text) + 1 for sentence in findings + impression)
    findings += _pad(target - length, denied, pen)
    rng.shuffle(findings)
    return _assemble(config, view, findings, impression, pen)


def lesion_phrases(truth: Truth, evidence: tuple[Finding, ...]) -> tuple[str, ...]:
    """For every lesion the report's first words, or canonical ones ("left pleural effusion") where it says nothing."""
    phrases = []
    for number in range(len(truth.lesions)):
        mention = next(mention for mention in truth.mentions if number in mention.lesions)
        stated = [claim for claim in evidence if claim.observation == mention.finding]
        if sum(other.finding == mention.finding for other in truth.mentions) > 1:
            # Of two mentions of a kind the words are those that do not name the other side.
            stated = [claim for claim in stated if claim.laterality in (mention.laterality, None)] or stated
        if mention.status != "unreported" and stated:
            phrases.append(stated[0].phrase)
        else:
            side = "" if mention.laterality is None else f"{mention.laterality} "
            phrases.append(f"{side}{words.NOUNS[mention.finding][0]}")
    return tuple(phrases)


def noun_phrase(mention: Mention, pen: Pen) -> NounPhrase:
    """Words for a mention; a varied report leaves severity, side or zone unsaid now and then."""
    says = {part: pen.plain or pen.chance(share) for part, share in _STATED.items()}
    if pen.plain:  # either how much or where, so that phrases stay few
        graded = mention.finding in _GRADED_WHEN_PLAIN
        says.update(severity=graded, zone=not graded)
    severity = mention.severity if says["severity"] else None
    if mention.finding == "cardiomegaly":
        return _heart_phrase(severity, pen)
    laterality = mention.laterality if says["laterality"] else None
    zone = mention.zone if says["zone"] else None
    noun = pen.favour(pen.wording.nouns[mention.finding])
    several = len(mention.lesions) > len(sides_of(mention.laterality))  # on one side
    plural = (laterality == "bilateral" or several) and mention.finding in words.COUNTABLE
    if plural:
        head, _, last = noun.rpartition(" ")
        noun = f"{head} {pen.wording.plurals[last]}".strip()
    text = _join(_grade(mention.finding, severity, pen), laterality, zone, noun, pen)
    article = ""
    if mention.finding in words.COUNTABLE and not plural:
        article = "an " if text[0] in "aeiou" else "a "
    region = None
    if zone and laterality in ("left", "right"):
        region = f"{laterality} {words.ZONE_REGIONS[zone]}"
    claim = Claim(
        observation=mention.finding, status=mention.status, region=region, laterality=laterality, severity=severity
    )
    return NounPhrase(text=text, claim=claim, article=article, plural=plural)


def _grade(finding: str, severity: str | None, pen: Pen) -> str:
    """An adjective of severity; empty where it is not stated."""
    if severity is None:
        return ""
    if pen.plain:
        return words.PLAIN_GRADE[severity]
    scales = pen.wording.grading[finding]
    return pen.favour(scales[int(pen.rng.integers(len(scales)))][severity])


def _join(grade: str, laterality: str | None, zone: str | None, noun: str, pen: Pen) -> str:
    """Grade, side, zone and noun, with the zone before or after the noun."""
    if zone and not pen.plain and laterality and pen.chance(0.35):
        places = pen.wording.zone_places_both if laterality == "bilateral" else pen.wording.zone_places
        return " ".join(part for part in (grade, noun, pen.favour(places[zone]).format(side=laterality)) if part)
    adjective = pen.favour(pen.wording.zone_adjectives[zone] if zone else ("",))
    side = pen.wording.sides[laterality] if laterality else ""
    return " ".join(part for part in (grade, side, adjective, noun) if part)


def _heart_phrase(severity: str | None, pen: Pen) -> NounPhrase:
    claim = Claim(observation="cardiomegaly", status="present", region=None, severity=severity)
    if not pen.plain and pen.chance(0.5):
        grade = pen.favour(pen.wording.adverbs[severity]) if severity else ""
        text = pen.favour(pen.wording.heart_clauses).format(grade=grade)
        return NounPhrase(text=text, claim=replace(claim, region="cardiac silhouette"), clause=True)
    noun = pen.favour(pen.wording.nouns["cardiomegaly"])
    grade = _grade("cardiomegaly", severity, pen)
    region = "cardiac silhouette" if "silhouette" in noun else None
    return NounPhrase(text=f"{grade} {noun}".strip(), claim=replace(claim, region=region))


def _state(mention: Mention, pen: Pen) -> Sentence:
    """A finding that is there, or may be."""
    words_for = noun_phrase(mention, pen)
    claim = replace(words_for.claim, status=mention.status)
    if words_for.clause:
        hedge = "Possibly " if mention.status == "uncertain" else ""
        text = f"{hedge}{words_for.text}." if hedge else f"{_capital(words_for.text)}."
        return _sentence(text, words_for.text, claim)
    forms = words.UNCERTAIN_FORMS if mention.status == "uncertain" else pen.wording.present_forms
    form = forms[0] if pen.plain else pen.pick(forms)
    text = form.format(a=words_for.article, np=words_for.text, Np=_capital(words_for.text))
    if words_for.plural:
        text = text.replace(" is ", " are ")
    return _sentence(text, words_for.text, claim)


def _resolve(mention: Mention, pen: Pen) -> Sentence:
    words_for = noun_phrase(mention, pen)
    if words_for.clause:
        words_for = replace(words_for, text=words.NOUNS["cardiomegaly"][0], claim=replace(words_for.claim, region=None))
    text = pen.pick(words.RESOLVED_FORMS).format(np=words_for.text)
    if words_for.plural:
        text = text.replace(" has ", " have ").replace(" is ", " are ")
    return _sentence(text, text[:-1], replace(words_for.claim, status="absent", severity=None))


def _deny(findings: list[str], pen: Pen) -> Sentence:
    """One sentence that one or several findings are absent."""
    claims = tuple(Claim(observation=finding, status="absent") for finding in findings)
    if findings == ["cardiomegaly"] and not pen.plain and pen.chance(0.8):
        text = pen.pick(words.NORMAL_HEART)
        region = "cardiac silhouette" if "heart" in text.lower() or "silhouette" in text else None
        return Sentence(text=text, phrase=text[:-1], claims=(replace(claims[0], region=region),))
    if pen.plain:
        nouns = [words.NOUNS[finding][0] for finding in findings]
        text = words.ABSENT_FORMS[0].format(np=" or ".join(nouns))
    else:
        nouns = [pen.pick(words.ABSENT_NOUNS[finding]) for finding in findings]
        listed = " or ".join([", ".join(nouns[:-1]), nouns[-1]] if len(nouns) > 1 else nouns)
        text = pen.pick(words.ABSENT_LISTS if len(nouns) > 1 else words.ABSENT_FORMS).format(np=listed, list=listed)
    return Sentence(text=text, phrase=text[:-1], claims=claims)


def _pad(room: float, denied: list[str], pen: Pen) -> list[Sentence]:
    """Negations and normal statements that fill the room, in a random order, as closely as they can."""
    denied = [denied[number] for number in pen.rng.permutation(len(denied))]
    options: list[Sentence] = [Sentence(text=words.FILLER[number]) for number in pen.rng.permutation(len(words.FILLER))]
    while denied:
        count = 1 if pen.plain else int(pen.rng.integers(1, 4))
        group, denied = denied[:count], denied[count:]
        alone = ["cardiomegaly"] if "cardiomegaly" in group else []
        for part in (alone, [finding for finding in group if finding not in alone]):
            if part:
                options.insert(int(pen.rng.integers(0, 7)), _deny(part, pen))
    chosen = []
    for option in options:
        if len(option.text) + 1 <= room + 12:
            chosen.append(option)
            room -= len(option.text) + 1
        if room < 15:
            break
    return chosen


def _impression(stated: list[Mention], pen: Pen) -> list[Sentence]:
    """The findings again, shortly; or that all is normal, where nothing was stated; none in one report of seven."""
    if not pen.plain and pen.chance(0.15):
        return []
    if not stated:
        text = words.NORMAL_STUDY[0] if pen.plain else pen.pick(words.NORMAL_STUDY)
        return [Sentence(text=f"{text}.", phrase=text, claims=(Claim(observation=NO_FINDING, status="present"),))]
    summary = []
    for number in pen.rng.permutation(len(stated))[:2]:
        words_for = noun_phrase(stated[number], pen)
        text = words_for.text
        if stated[number].status == "uncertain":
            text = f"possible {text}" if not words_for.clause else f"possibly {text}"
        claim = replace(words_for.claim, status=stated[number].status)
        summary.append(_sentence(f"{_capital(text)}.", words_for.text, claim))
    if not pen.plain and pen.chance(0.2):
        summary.append(Sentence(text=pen.pick(words.ADVICE)))
    return summary


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str, phrase: str, claim: Claim) -> Sentence:
    start = text.lower().index(phrase.lower())
    return Sentence(text=text, phrase=text[start : start + len(phrase)], claims=(claim,))


def _assemble(
    config: PhantomConfig, view: str, findings: list[Sentence], impression: list[Sentence], pen: Pen
) -> tuple[str, tuple[Finding, ...]]:
    """Sections under their headers, typos, and the place of every phrase."""
    parts: list[tuple[str, Sentence]] = []
    for header, share, options in (
        ("INDICATION", 0.4, tuple(f"{text}." for text in words.INDICATIONS)),
        ("TECHNIQUE", 0.3, words.TECHNIQUES[view]),
        ("COMPARISON", 0.3, words.COMPARISONS),
    ):
        if not pen.plain and pen.chance(share):
            parts.append((header, Sentence(text=pen.pick(options))))
    parts += [("FINDINGS", sentence) for sentence in findings] + [("IMPRESSION", sentence) for sentence in impression]
    text, places, current = "", [], ""
    for header, sentence in parts:
        text += " " if header == current else f"{'' if not text else chr(10)}{header}: "
        current = header
        start = len(text) + sentence.text.index(sentence.phrase)
        places += [(header.lower(), start, start + len(sentence.phrase), claim) for claim in sentence.claims]
        text += sentence.text
    letters = list(text)
    for word in re.finditer(r"\b[A-Za-z][a-z]{4,}\b", text):
        if pen.chance(config.typo_rate):  # two inner letters of a longer word are swapped: the length stays
            place = int(pen.rng.integers(word.start() + 1, word.end() - 1))
            letters[place], letters[place + 1] = letters[place + 1], letters[place]
    text = "".join(letters)
    return text, tuple(
        Finding(**asdict(claim), phrase=text[start:end], start=start, end=end, section=section)
        for section, start, end, claim in places
    )
