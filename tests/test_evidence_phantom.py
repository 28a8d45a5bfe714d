"""The rule extractor against the phantom's reports, whose evidence is known exactly."""

from collections import Counter

from lgdea_core.data.phantom import PhantomConfig, generate_study
from lgdea_core.evidence.extract import make_extractor
from lgdea_core.finding import Finding
from lgdea_core.vocabulary import NO_FINDING, PHANTOM_FINDINGS

STUDIES = 150
AGREEMENT = 0.97


def overlaps(found: Finding, true: Finding) -> bool:
    same = (found.observation, found.status) == (true.observation, true.status)
    return same and found.start < true.end and true.start < found.end


def agreement(extractor: str) -> dict[str, float]:
    """Recall and precision of (observation, status) at the place of the truth; shares of right attributes there."""
    config = PhantomConfig(studies=STUDIES, seed=11)
    studies = [generate_study(config, index) for index in range(STUDIES)]
    counts: Counter[str] = Counter()
    for study, findings in zip(studies, make_extractor(extractor).extract([s.report for s in studies]), strict=True):
        findings = [finding for finding in findings if finding.observation in {NO_FINDING, *PHANTOM_FINDINGS}]
        counts["found"] += len(findings)
        counts["right"] += sum(any(overlaps(finding, true) for true in study.evidence) for finding in findings)
        counts["true"] += len(study.evidence)
        for true in study.evidence:
            matches = [finding for finding in findings if overlaps(finding, true)]
            counts["recalled"] += bool(matches)
            if matches and true.status != "absent":
                counts["stated"] += 1
                for attribute in ("laterality", "severity", "region"):
                    counts[attribute] += any(getattr(one, attribute) == getattr(true, attribute) for one in matches)
    shares = {name: counts[name] / counts["stated"] for name in ("laterality", "severity", "region")}
    return {"precision": counts["right"] / counts["found"], "recall": counts["recalled"] / counts["true"], **shares}


def test_the_rules_agree_with_the_phantoms_truth() -> None:
    measured = agreement("lexicon")
    assert min(measured.values()) > AGREEMENT, measured


def test_bare_keywords_do_not() -> None:
    measured = agreement("keywords")
    assert measured["precision"] < 0.6
    assert measured["laterality"] < 0.6
