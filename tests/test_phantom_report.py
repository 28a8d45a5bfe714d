"""The phantom's reports: every claim is verbatim, tells the truth as configured, and gives nothing else away."""

import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from lgdea_core.data.phantom import EASY, PhantomConfig
from lgdea_core.data.phantom.report import LENGTH_RANGE, lesion_phrases
from lgdea_core.data.phantom.study import StudyPlan, plan_study
from lgdea_core.data.phantom.truth import HEDGE_TRUTH
from lgdea_core.vocabulary import NO_FINDING

CONFIG = PhantomConfig()
MODIFIERS = (
    "small", "subtle", "mild", "minimal", "moderate", "moderate-sized", "large", "severe", "extensive", "patchy",
    "left", "right", "bilateral", "apical", "apex", "upper", "mid", "lower", "basilar", "perihilar", "lobe",
)  # fmt: skip


@pytest.fixture(scope="module")
def plans() -> list[StudyPlan]:
    return [plan_study(CONFIG, index) for index in range(600)]


def test_every_phrase_is_verbatim_in_its_section(plans: list[StudyPlan]) -> None:
    for plan in plans:
        starts = {header: plan.report.find(f"{header}:") for header in ("FINDINGS", "IMPRESSION")}
        assert starts["FINDINGS"] >= 0
        for claim in plan.evidence:
            assert plan.report[claim.start : claim.end] == claim.phrase
            after_impression = 0 <= starts["IMPRESSION"] < claim.start
            assert claim.section == ("impression" if after_impression else "findings")
            assert claim.start > starts["FINDINGS"]


def test_reports_without_noise_never_contradict_the_picture() -> None:
    config = replace(CONFIG, unreported_ratio=0.0, uncertain_ratio=0.0)
    for index in range(200):
        plan = plan_study(config, index)
        said = {at: {c.observation for c in plan.evidence if c.status == at} for at in ("present", "absent")}
        assert said["present"] - {NO_FINDING} == set(plan.truth.findings)
        assert not said["absent"] & set(plan.truth.findings)
        assert (NO_FINDING in said["present"]) <= (not plan.truth.findings)


def test_claims_state_only_what_is_true_of_a_lesion_and_nothing_of_what_is_unreported(plans: list[StudyPlan]) -> None:
    hidden = 0
    for plan in plans:
        unreported = {mention.finding for mention in plan.truth.mentions if mention.status == "unreported"}
        hidden += len(unreported)
        assert not unreported & {claim.observation for claim in plan.evidence}  # neither stated nor denied
        for claim in plan.evidence:
            if claim.status == "absent" or claim.observation == NO_FINDING:
                continue
            assert any(
                claim.status == mention.status
                and claim.laterality in (None, mention.laterality)
                and claim.severity in (None, mention.severity)
                for mention in plan.truth.mentions
                if mention.finding == claim.observation
            )
    assert 0.06 < hidden / sum(len(plan.truth.findings) for plan in plans) < 0.14


def test_hedges_are_right_as_often_as_they_say(plans: list[StudyPlan]) -> None:
    hedged = [bool(m.lesions) for plan in plans for m in plan.truth.mentions if m.status == "uncertain"]
    assert len(hedged) > 70
    assert abs(np.mean(hedged) - HEDGE_TRUTH) < 0.12


def test_resolved_findings_are_absent(plans: list[StudyPlan]) -> None:
    resolved = [plan for plan in plans if plan.truth.resolved]
    assert 0.1 < len(resolved) / len(plans) < 0.2
    for plan in resolved:
        finding = plan.truth.resolved.finding
        assert finding not in plan.truth.findings
        assert {claim.status for claim in plan.evidence if claim.observation == finding} == {"absent"}


def test_no_modifier_gives_a_finding_away(plans: list[StudyPlan]) -> None:
    heard = defaultdict(Counter)
    for plan in plans:
        for claim in plan.evidence:
            if claim.status != "absent":
                for word in set(re.findall("[a-z-]+", claim.phrase.lower())):
                    heard[word][claim.observation] += 1
    for modifier in MODIFIERS:
        counts = heard[modifier]
        assert counts.total() > 15, modifier
        assert counts.most_common(1)[0][1] / counts.total() < 0.6, modifier
        assert len(counts) >= 4, modifier
    assert len(heard["effusion"]) == 1  # the control: nouns do


def test_findings_are_mildly_correlated(plans: list[StudyPlan]) -> None:
    truth = {f: np.array([f in plan.truth.findings for plan in plans], float) for f in CONFIG.findings}
    for a, b in (("edema", "pleural effusion"), ("edema", "cardiomegaly"), ("pleural effusion", "cardiomegaly")):
        assert 0.05 < np.corrcoef(truth[a], truth[b])[0, 1] < 0.4
    assert abs(np.corrcoef(truth["nodule"], truth["hernia"])[0, 1]) < 0.1


def test_some_lesions_are_bilateral_or_repeated_and_length_follows_the_drawn_target(plans: list[StudyPlan]) -> None:
    assert any(mention.laterality == "bilateral" for plan in plans for mention in plan.truth.mentions)
    repeats = [Counter(mention.finding for mention in plan.truth.mentions) for plan in plans]
    assert 5 < sum(count["nodule"] > 1 for count in repeats) < 50
    body = [len(plan.report) - plan.report.index("FINDINGS:") for plan in plans]
    low, high = LENGTH_RANGE
    assert np.mean([low - 40 < length < high + 60 for length in body]) > 0.97


def test_typos_keep_offsets() -> None:
    config = replace(CONFIG, typo_rate=0.3)
    for index in range(20):
        clean, dirty = plan_study(replace(config, typo_rate=0.0), index), plan_study(config, index)
        assert len(clean.report) == len(dirty.report)
        assert clean.report != dirty.report
        assert [c.start for c in clean.evidence] == [c.start for c in dirty.evidence]
        assert all(dirty.report[c.start : c.end] == c.phrase for c in dirty.evidence)


def test_plain_wording_has_few_phrases_and_varied_wording_many(plans: list[StudyPlan]) -> None:
    easy = [plan_study(EASY, index) for index in range(400)]
    counts = [
        len({claim.phrase.lower() for plan in some for claim in plan.evidence if claim.status == "present"})
        for some in (easy, plans[:400])
    ]
    assert 50 < counts[0] < 140
    assert counts[1] > 4 * counts[0]


def test_lesions_carry_the_reports_words_or_canonical_ones(plans: list[StudyPlan]) -> None:
    canonical = 0
    for plan in plans:
        phrases = lesion_phrases(plan.truth, plan.evidence)
        for number, (lesion, phrase) in enumerate(zip(plan.truth.lesions, phrases, strict=True)):
            mention = next(mention for mention in plan.truth.mentions if number in mention.lesions)
            if mention.status == "unreported":
                canonical += 1
                assert phrase.startswith(mention.laterality or "")
            else:
                assert phrase in plan.report
                side = {"left": "right", "right": "left"}.get(lesion.side or "", "neither")
                same = sum(other.finding == lesion.finding for other in plan.truth.mentions)
                assert same > 1 or side not in phrase.lower().split()
    assert canonical > 30
