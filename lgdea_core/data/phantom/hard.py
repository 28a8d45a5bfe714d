"""A hard test set: studies of the phantom's world, each stratum of which asks one thing ordinary ones seldom ask.

Films, reports, boxes, masks and labels are made as the phantom's are. All studies are in split test and their patients
come from a seed stream of their own, so they are no training phantom's patients whatever its seed. Nothing is hedged,
left out or misspelt: a stratum differs from `ordinary` in what it asks and in nothing else.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lgdea_core.data.phantom import wording as words
from lgdea_core.data.phantom.anatomy import Habitus
from lgdea_core.data.phantom.config import PhantomConfig
from lgdea_core.data.phantom.lesions import Lesion
from lgdea_core.data.phantom.nuisance import Nuisance
from lgdea_core.data.phantom.report import lesion_phrases, write_report
from lgdea_core.data.phantom.study import StudyPlan
from lgdea_core.data.phantom.truth import MIDLINE, Mention, Truth, sample_lesion, sample_truth
from lgdea_core.data.phantom.unseen import OTHER_FORMS, OTHER_NOUNS, is_unseen
from lgdea_core.data.phantom.wording import TRAINING, Wording
from lgdea_core.finding import Finding

STRATA = {
    "ordinary": "studies of the phantom as they come: what the others compare with",
    "unseen wording": "every lesion's phrase holds a word no training report has; variant: other names | other forms",
    "small and subtle": "one lesion of the smallest size range, fainter than any in training",
    "side swap": "pairs of one patient that differ only in the side of the one lesion; variant: its side",
    "negated": "one lesion, and a report that denies at least `MIN_DENIED` other findings",
    "two of a kind": "two lesions of one finding under one phrase; variant: one side | both sides",
}
"""Name and meaning of every stratum."""
SUBTLE_CONTRAST = (0.3, 0.4)
"""Contrast in `small and subtle`; the phantom's own starts at 0.5, and below 0.3 lesions drown in the noise."""
MIN_DENIED = 5

_STREAM = 7919
"""First word of the seed stream's key; streams of studies have shorter keys, so none is shared (tested)."""
_TRIES = 400
_OTHER_SIDE = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
_WIDESPREAD = ("cardiomegaly", "edema")
"""Findings without a small form."""
_REPEATABLE = ("atelectasis", "consolidation", "lung opacity", "pneumonia", "nodule")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A phrase to be looked for in a film.

    Kinds: `stated` (true, has boxes), `wrong side` (a stated phrase with the other side), `denied` (the report's denial
    of what is not there) and `contradicted` (a denial of what is there).
    """

    kind: str
    finding: str
    side: str | None
    """what the phrase names: left, right, bilateral, or None"""
    phrase: str


@dataclass(frozen=True, kw_only=True)
class HardStudy:
    """The plan of a study, its place in the set and what to look for in it."""

    plan: StudyPlan
    stratum: str
    variant: str
    pair_id: str
    """shared by the twins of `side swap`, a study's own elsewhere"""
    probes: tuple[Probe, ...]


@dataclass(frozen=True, kw_only=True)
class _Draft:
    truth: Truth
    wording: Wording = TRAINING
    variant: str = ""


@dataclass(frozen=True, kw_only=True)
class _Written:
    """A drafted study with its report, before it is known to fit its stratum."""

    draft: _Draft
    report: str
    evidence: tuple[Finding, ...]
    write: Callable[[Truth], str]
    """the report of another truth from the same random choices"""

    @property
    def phrases(self) -> tuple[str, ...]:
        """Of every lesion."""
        return lesion_phrases(self.draft.truth, self.evidence)


def plan_hard_study(config: PhantomConfig, stratum: str, number: int) -> HardStudy:
    """One study, a pure function of its arguments; drafts whose report does not fit the stratum are drawn again.

    Args:
        config: the training world; what hedges, omits or misspells in it is switched off here.
        stratum: a key of `STRATA`.
        number: 0 or more; 2 n and 2 n + 1 are twins in `side swap`.

    Raises:
        ValueError: unknown stratum, or the world has no finding that fits it.
        RuntimeError: no draft fitted.
    """
    if stratum not in STRATA:
        raise ValueError(f"plan_hard_study: stratum must be one of {', '.join(STRATA)}, got {stratum!r}")
    world, recipe, place = plain_truth(config), _RECIPES[stratum], [*STRATA].index(stratum)
    source = number // 2 if stratum == "side swap" else number

    def stream(draw: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(config.seed, spawn_key=(_STREAM, place, source, draw))

    habitus = Habitus.sample(np.random.default_rng(stream(0)), config.nuisance)
    nuisance = Nuisance.sample(np.random.default_rng(stream(1)), config.nuisance)
    drafts = (_write(world, stratum, number, nuisance, stream(draw)) for draw in range(2, 2 + _TRIES))
    written = next(filter(recipe.fits, drafts), None)
    if written is None:
        raise RuntimeError(f"plan_hard_study: no draft of {_TRIES} fits stratum {stratum!r}, number {number}")
    plan = StudyPlan(
        study_id=f"h{place}n{number:05d}",
        patient_id=f"h{place}pt{source:05d}",
        habitus=habitus,
        nuisance=nuisance,
        truth=written.draft.truth,
        report=written.report,
        evidence=written.evidence,
    )
    return HardStudy(
        plan=plan,
        stratum=stratum,
        variant=written.draft.variant,
        pair_id=f"h{place}pair{source:05d}",
        probes=(*_stated(written), *recipe.probes(written)),
    )


def plain_truth(config: PhantomConfig) -> PhantomConfig:
    """The same world with reports that say all there is and nothing else, without a typo."""
    return replace(config, unreported_ratio=0.0, uncertain_ratio=0.0, resolved_ratio=0.0, typo_rate=0.0)


def swap_sides(text: str) -> str:
    """The text with left for right and right for left; other words, such as "upright", stay."""
    return re.sub(r"\b(?:left|right|Left|Right)\b", lambda side: _OTHER_SIDE[side[0]], text)


def _write(
    world: PhantomConfig, stratum: str, number: int, nuisance: Nuisance, stream: np.random.SeedSequence
) -> _Written:
    truth_seed, report_seed = (int(seed) for seed in stream.generate_state(2, np.uint64))
    draft = _RECIPES[stratum].draft(world, number, np.random.default_rng(truth_seed))
    if draft.wording is not TRAINING:
        world = replace(world, wording="varied")

    def write(truth: Truth) -> tuple[str, tuple[Finding, ...]]:
        rng = np.random.default_rng(report_seed)
        return write_report(world, truth, nuisance.view, nuisance.devices, rng, draft.wording)

    report, evidence = write(draft.truth)
    return _Written(draft=draft, report=report, evidence=evidence, write=lambda truth: write(truth)[0])


def _ordinary(world: PhantomConfig, number: int, rng: np.random.Generator) -> _Draft:
    return _Draft(truth=sample_truth(world, rng))


def _unseen_wording(world: PhantomConfig, number: int, rng: np.random.Generator) -> _Draft:
    wording, variant = ((OTHER_NOUNS, "other names"), (OTHER_FORMS, "other forms"))[number % 2]
    return _Draft(truth=sample_truth(world, rng), wording=wording, variant=variant)


def _small_and_subtle(world: PhantomConfig, number: int, rng: np.random.Generator) -> _Draft:
    finding = _one_of(world, "small and subtle", rng, without=_WIDESPREAD)
    contrast = float(rng.uniform(*SUBTLE_CONTRAST))
    return _Draft(truth=_one_lesion(sample_lesion(finding, rng, severity="mild", contrast=contrast)))


def _side_swap(world: PhantomConfig, number: int, rng: np.random.Generator) -> _Draft:
    side = ("left", "right")[number % 2]
    finding = _one_of(world, "side swap", rng, without=MIDLINE)
    lesion = sample_lesion(finding, rng, contrast=float(rng.uniform(*world.contrast)))
    return _Draft(truth=_one_lesion(replace(lesion, side=side)), variant=side)


def _negated(world: PhantomConfig, number: int, rng: np.random.Generator) -> _Draft:
    finding = _one_of(world, "negated", rng)
    return _Draft(truth=_one_lesion(sample_lesion(finding, rng, contrast=float(rng.uniform(*world.contrast)))))


def _two_of_a_kind(world: PhantomConfig, number: int, rng: np.random.Generator) -> _Draft:
    """On one side far apart, one above the other; else on both sides, not at one height as bilateral findings are."""
    without = tuple(finding for finding in world.findings if finding not in _REPEATABLE)
    finding = _one_of(world, "two of a kind", rng, without=without)
    severity, contrast = str(rng.choice(["mild", "moderate"])), float(rng.uniform(*world.contrast))
    zones = (str(rng.choice(["apical", "upper"])), "lower")
    if number % 2:
        variant, laterality, sides = "both sides", "bilateral", rng.permutation(["left", "right"])
    else:
        variant, laterality = "one side", str(rng.choice(["left", "right"]))
        sides, severity = [laterality, laterality], "mild"
    lesions = tuple(
        replace(sample_lesion(finding, rng, severity=severity, contrast=contrast), side=str(side), zone=zone)
        for side, zone in zip(sides, zones, strict=True)
    )
    return _Draft(truth=_under_one_mention(lesions, laterality, zone=None), variant=variant)


def _one_of(world: PhantomConfig, stratum: str, rng: np.random.Generator, without: tuple[str, ...] = ()) -> str:
    findings = [finding for finding in world.findings if finding not in without]
    if not findings:
        raise ValueError(f"hard set: none of the findings {world.findings} fits stratum {stratum!r}; add another")
    return str(rng.choice(findings))


def _one_lesion(lesion: Lesion) -> Truth:
    return _under_one_mention((lesion,), lesion.side, lesion.zone)


def _under_one_mention(lesions: tuple[Lesion, ...], laterality: str | None, zone: str | None) -> Truth:
    mention = Mention(
        finding=lesions[0].finding,
        laterality=laterality,
        zone=zone,
        severity=lesions[0].severity,
        status="present",
        lesions=tuple(range(len(lesions))),
    )
    return Truth(lesions=lesions, mentions=(mention,), resolved=None)


def _is_worded_anew(written: _Written) -> bool:
    return bool(written.phrases) and all(is_unseen(phrase) for phrase in written.phrases)


def _has_a_twin(written: _Written) -> bool:
    """Its phrase names the side, and the twin's report is the same but for left and right."""
    lesion = written.draft.truth.lesions[0]
    other = _one_lesion(replace(lesion, side=swap_sides(str(lesion.side))))
    named = swap_sides(written.phrases[0]) != written.phrases[0]
    return named and written.write(other) == swap_sides(written.report)


def _denies_much(written: _Written) -> bool:
    return len({claim.observation for claim in written.evidence if claim.status == "absent"}) >= MIN_DENIED


def _says_both_sides(written: _Written) -> bool:
    first = next(claim for claim in written.evidence if claim.phrase == written.phrases[0])
    return written.draft.variant == "one side" or first.laterality == "bilateral"


def _stated(written: _Written) -> list[Probe]:
    mentions = written.draft.truth.mentions
    of_lesion = {number: mention for mention in mentions for number in mention.lesions}
    probes = [
        Probe(kind="stated", finding=of_lesion[number].finding, side=of_lesion[number].laterality, phrase=phrase)
        for number, phrase in enumerate(written.phrases)
    ]
    return list(dict.fromkeys(probes))


def _wrong_side(written: _Written) -> list[Probe]:
    stated = _stated(written)[0]
    side, phrase = swap_sides(str(stated.side)), swap_sides(stated.phrase)
    return [replace(stated, kind="wrong side", side=side, phrase=phrase)]


def _denials(written: _Written) -> list[Probe]:
    probes = [
        Probe(kind="denied", finding=claim.observation, side=None, phrase=claim.phrase)
        for claim in written.evidence
        if claim.status == "absent"
    ]
    for finding in written.draft.truth.findings:
        phrase = words.ABSENT_FORMS[0].format(np=words.ABSENT_NOUNS[finding][0]).rstrip(".")
        probes.append(Probe(kind="contradicted", finding=finding, side=None, phrase=phrase))
    return list(dict.fromkeys(probes))


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """How the studies of a stratum are made."""

    draft: Callable[[PhantomConfig, int, np.random.Generator], _Draft]
    fits: Callable[[_Written], bool] = lambda written: True
    probes: Callable[[_Written], list[Probe]] = lambda written: []
    """what to look for besides what is stated"""


_RECIPES = {
    "ordinary": _Recipe(draft=_ordinary),
    "unseen wording": _Recipe(draft=_unseen_wording, fits=_is_worded_anew),
    "small and subtle": _Recipe(draft=_small_and_subtle),
    "side swap": _Recipe(draft=_side_swap, fits=_has_a_twin, probes=_wrong_side),
    "negated": _Recipe(draft=_negated, fits=_denies_much, probes=_denials),
    "two of a kind": _Recipe(draft=_two_of_a_kind, fits=_says_both_sides),
}
