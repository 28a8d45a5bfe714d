"""A hard test set: studies of the phantom's world, each stratum of which asks one thing ordinary ones seldom ask.

Films, reports, boxes, masks and labels are made as the phantom's are. All studies are in split test and their patients
come from a seed stream of their own, so they are no training phantom's patients whatever its seed. Nothing is hedged,
left out or misspelt: a stratum differs from `ordinary` in what it asks and in nothing else.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lgdea_core.data.corpus import Corpus
from lgdea_core.data.phantom import wording as words
from lgdea_core.data.phantom.anatomy import Habitus
from lgdea_core.data.phantom.config import PhantomConfig
from lgdea_core.data.phantom.files import (
    build_folder,
    read_corpus_tables,
    read_table,
    write_pictures,
    write_tables,
)
from lgdea_core.data.phantom.lesions import Lesion
from lgdea_core.data.phantom.nuisance import Nuisance
from lgdea_core.data.phantom.report import lesion_phrases, write_report
from lgdea_core.data.phantom.study import StudyPlan, develop
from lgdea_core.data.phantom.truth import MIDLINE, Mention, Truth, sample_lesion, sample_truth
from lgdea_core.data.phantom.unseen import OTHER_FORMS, OTHER_NOUNS, is_unseen
from lgdea_core.data.phantom.wording import TRAINING
from lgdea_core.finding import Finding
from lgdea_core.vocabulary import PHANTOM_FINDINGS

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
PROBE_COLUMNS = ("study_id", "image_id", "pair_id", "stratum", "variant", "kind", "finding", "side", "phrase")
VERSION = 1
"""Raise it when the same configuration gives other studies than before."""

_LOG = logging.getLogger("lgdea")
_STREAM = 7919
"""First word of the seed stream's key; streams of studies have shorter keys, so none is shared (tested)."""
_TRIES = 400
_OTHER_SIDE = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
_FITTING = {
    "small and subtle": tuple(finding for finding in PHANTOM_FINDINGS if finding not in ("cardiomegaly", "edema")),
    "side swap": tuple(finding for finding in PHANTOM_FINDINGS if finding not in MIDLINE),
    "negated": PHANTOM_FINDINGS,
    "two of a kind": ("atelectasis", "consolidation", "lung opacity", "pneumonia", "nodule"),
}
"""Findings that a stratum of few lesions can have; cardiomegaly and edema have no small form."""


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
    """A study with its report, before it is known to fit its stratum."""

    truth: Truth
    variant: str
    report: str
    evidence: tuple[Finding, ...]
    write: Callable[[Truth], str]
    """the report of another truth from the same random choices"""

    @property
    def phrases(self) -> tuple[str, ...]:
        """Of every lesion."""
        return lesion_phrases(self.truth, self.evidence)


def build_hard_set(config: PhantomConfig, root: Path, per_stratum: int = 60, progress: bool = True) -> Corpus:
    """The hard test set of a world, generated where the folder does not hold it already.

    One set serves every training seed: take a fixed `config.seed`, so that runs are compared on the same studies.

    Args:
        config: the training world; `studies`, `split_shares` and `second_study_ratio` are not looked at.
        root: the corpus folder; new, or built from an equal configuration.
        per_stratum: studies of each stratum; even, since twins come in pairs.
        progress: show a bar.

    Raises:
        ValueError: `per_stratum` is odd or below 2, or `root` holds another set.
        FileExistsError: `root` holds something else.
    """
    if per_stratum < 2 or per_stratum % 2:
        raise ValueError(f"build_hard_set: per_stratum must be even and at least 2, got {per_stratum}")
    unused = ("studies", "split_shares", "second_study_ratio")
    relevant = {name: value for name, value in plain_truth(config).to_json().items() if name not in unused}
    stamp = {"version": VERSION, "kind": "hard set", "per_stratum": per_stratum, "config": relevant}

    def write(folder: Path) -> None:
        places = [(stratum, number) for stratum in STRATA for number in range(per_stratum)]
        bar = tqdm(places, desc="hard set", unit="study", disable=not progress)
        planned = [plan_hard_study(config, stratum, number) for stratum, number in places]
        films = (develop(hard.plan, config.image_size) for hard, _ in zip(planned, bar, strict=True))
        tables = write_pictures(films, config.findings, folder, source="phantom")
        tables["studies"] = tables["studies"].assign(
            split="test",
            stratum=[hard.stratum for hard in planned],
            variant=[hard.variant for hard in planned],
            pair_id=[hard.pair_id for hard in planned],
        )
        rows = [
            (hard.plan.study_id, f"{hard.plan.study_id}_0", hard.pair_id, hard.stratum, hard.variant, probe.kind,
             probe.finding, probe.side, probe.phrase)
            for hard in planned
            for probe in hard.probes
        ]  # fmt: skip
        tables["probes"] = pd.DataFrame(rows, columns=list(PROBE_COLUMNS))
        write_tables(tables, folder)

    if build_folder(root, stamp, write, "build_hard_set"):
        _LOG.info("hard set of %d studies written to %s", len(STRATA) * per_stratum, root)
    return load_hard_set(root)


def load_hard_set(root: Path) -> Corpus:
    """Read what `build_hard_set` wrote; `studies` has columns stratum, variant and pair_id besides its own.

    Raises:
        FileNotFoundError: the folder holds no complete hard set.
    """
    if not (root / "probes.csv").is_file():
        raise FileNotFoundError(f"no hard set in {root}: probes.csv is missing; make one with build_hard_set")
    return Corpus(name="phantom_hard", root=root, **read_corpus_tables(root))


def load_probes(root: Path) -> pd.DataFrame:
    """The phrases to look for in the films of a hard set: `PROBE_COLUMNS`, kinds as in `Probe`."""
    return read_table(root, "probes")


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
    world, place = plain_truth(config), [*STRATA].index(stratum)
    source = number // 2 if stratum == "side swap" else number

    def stream(draw: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(config.seed, spawn_key=(_STREAM, place, source, draw))

    habitus = Habitus.sample(np.random.default_rng(stream(0)), config.nuisance)
    nuisance = Nuisance.sample(np.random.default_rng(stream(1)), config.nuisance)
    drafts = (_draft(world, stratum, number, nuisance, stream(draw)) for draw in range(2, 2 + _TRIES))
    draft = next((draft for draft in drafts if _fits(stratum, draft)), None)
    if draft is None:
        raise RuntimeError(f"plan_hard_study: no draft of {_TRIES} fits stratum {stratum!r}, number {number}")
    plan = StudyPlan(
        study_id=f"h{place}n{number:05d}",
        patient_id=f"h{place}pt{source:05d}",
        habitus=habitus,
        nuisance=nuisance,
        truth=draft.truth,
        report=draft.report,
        evidence=draft.evidence,
    )
    return HardStudy(
        plan=plan,
        stratum=stratum,
        variant=draft.variant,
        pair_id=f"h{place}pair{source:05d}",
        probes=_probes(stratum, draft),
    )


def plain_truth(config: PhantomConfig) -> PhantomConfig:
    """The same world with reports that say all there is and nothing else, without a typo."""
    return replace(config, unreported_ratio=0.0, uncertain_ratio=0.0, resolved_ratio=0.0, typo_rate=0.0)


def swap_sides(text: str) -> str:
    """The text with left for right and right for left; other words, such as "upright", stay."""
    return re.sub(r"\b(?:left|right|Left|Right)\b", lambda side: _OTHER_SIDE[side[0]], text)


def _draft(
    world: PhantomConfig, stratum: str, number: int, nuisance: Nuisance, stream: np.random.SeedSequence
) -> _Draft:
    truth_seed, report_seed = (int(seed) for seed in stream.generate_state(2, np.uint64))
    rng, wording, variant = np.random.default_rng(truth_seed), TRAINING, ""
    if stratum in _FITTING:
        truth, variant = _few_lesions(world, stratum, number, rng)
    else:
        truth = sample_truth(world, rng)
    if stratum == "unseen wording":
        wording, variant = ((OTHER_NOUNS, "other names"), (OTHER_FORMS, "other forms"))[number % 2]
        world = replace(world, wording="varied")

    def write(truth: Truth) -> tuple[str, tuple[Finding, ...]]:
        rng = np.random.default_rng(report_seed)
        return write_report(world, truth, nuisance.view, nuisance.devices, rng, wording)

    report, evidence = write(truth)
    return _Draft(truth=truth, variant=variant, report=report, evidence=evidence, write=lambda truth: write(truth)[0])


def _few_lesions(world: PhantomConfig, stratum: str, number: int, rng: np.random.Generator) -> tuple[Truth, str]:
    """One lesion, or two of one finding, under one mention; and the variant."""
    findings = [finding for finding in world.findings if finding in _FITTING[stratum]]
    if not findings:
        raise ValueError(f"hard set: none of the findings {world.findings} fits stratum {stratum!r}; add another")
    finding = str(rng.choice(findings))
    if stratum != "two of a kind":
        subtle = stratum == "small and subtle"
        contrast = float(rng.uniform(*(SUBTLE_CONTRAST if subtle else world.contrast)))
        lesion = sample_lesion(finding, rng, severity="mild" if subtle else None, contrast=contrast)
        variant = ("left", "right")[number % 2] if stratum == "side swap" else ""
        lesion = replace(lesion, side=variant or lesion.side)
        return _under_one_mention((lesion,), lesion.side, lesion.zone), variant

    # On one side far apart, one above the other; else on both sides, not at one height as bilateral findings are.
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
    return _under_one_mention(lesions, laterality, zone=None), variant


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


def _fits(stratum: str, draft: _Draft) -> bool:
    """Whether a draft asks what its stratum asks."""
    match stratum:
        case "unseen wording":
            return bool(draft.phrases) and all(is_unseen(phrase) for phrase in draft.phrases)
        case "side swap":
            # Its phrase names the side, and the twin's report is the same but for left and right.
            lesion = draft.truth.lesions[0]
            other = replace(lesion, side=swap_sides(str(lesion.side)))
            twin = draft.write(_under_one_mention((other,), other.side, other.zone))
            return swap_sides(draft.phrases[0]) != draft.phrases[0] and twin == swap_sides(draft.report)
        case "negated":
            return len({claim.observation for claim in draft.evidence if claim.status == "absent"}) >= MIN_DENIED
        case "two of a kind":
            first = next(claim for claim in draft.evidence if claim.phrase == draft.phrases[0])
            return draft.variant == "one side" or first.laterality == "bilateral"
    return True


def _probes(stratum: str, draft: _Draft) -> tuple[Probe, ...]:
    """What is stated, each phrase once, and what else a stratum asks for."""
    of_lesion = {number: mention for mention in draft.truth.mentions for number in mention.lesions}
    probes = [
        Probe(kind="stated", finding=of_lesion[number].finding, side=of_lesion[number].laterality, phrase=phrase)
        for number, phrase in enumerate(draft.phrases)
    ]
    if stratum == "side swap":
        side, phrase = swap_sides(str(probes[0].side)), swap_sides(probes[0].phrase)
        probes.append(replace(probes[0], kind="wrong side", side=side, phrase=phrase))
    if stratum == "negated":
        denied = [claim for claim in draft.evidence if claim.status == "absent"]
        probes += [Probe(kind="denied", finding=one.observation, side=None, phrase=one.phrase) for one in denied]
        for finding in draft.truth.findings:
            phrase = words.ABSENT_FORMS[0].format(np=words.ABSENT_NOUNS[finding][0]).rstrip(".")
            probes.append(Probe(kind="contradicted", finding=finding, side=None, phrase=phrase))
    return tuple(dict.fromkeys(probes))
