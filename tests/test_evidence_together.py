"""A language model and the rules together: who is believed where they disagree."""

from pathlib import Path

import pytest
from servers import Parrot, answer

from lgdea_core.evidence import together
from lgdea_core.evidence.extract import make_extractor
from lgdea_core.evidence.lexicon import LexiconExtractor
from lgdea_core.evidence.llm import LanguageModelExtractor
from lgdea_core.evidence.together import DROPPED, Policy, WithRules, reconcile
from lgdea_core.finding import Finding

REPORT = "FINDINGS: Small effusion. No mass.\nIMPRESSION: Small effusion."
SIDES = ("model", "rules", "neither")


def finding(observation: str, phrase: str, status: str = "present", after: int = 0) -> Finding:
    start = REPORT.index(phrase, after)
    section = "impression" if start > REPORT.index("IMPRESSION") else "findings"
    return Finding(
        observation=observation, status=status, phrase=phrase, start=start, end=start + len(phrase), section=section
    )


MODEL = [finding("pleural effusion", "effusion"), finding("mass", "mass"), finding("nodule", "mass", "absent")]
RULES = [
    finding("pleural effusion", "Small effusion"),
    finding("mass", "No mass", "absent"),
    finding("pleural effusion", "Small effusion", after=30),
]


@pytest.mark.parametrize("status", SIDES)
@pytest.mark.parametrize("model_alone", SIDES[::2])
@pytest.mark.parametrize("rules_alone", SIDES[1:])
def test_where_both_agree_the_rules_words_count_and_else_the_policy(
    status: str, model_alone: str, rules_alone: str
) -> None:
    rejected: dict[str, int] = {}
    kept = reconcile(REPORT, MODEL, RULES, Policy(status, model_alone, rules_alone), rejected)
    expected = [RULES[0]]
    expected += {"model": MODEL[1:2], "rules": RULES[1:2], "neither": []}[status]
    expected += MODEL[2:] if model_alone == "model" else []
    expected += RULES[2:] if rules_alone == "rules" else []  # the impression's, though the findings have it, too
    assert kept == sorted(expected, key=lambda one: (one.start, one.end))
    dropped = 2 * (status == "neither") + (model_alone == "neither") + (rules_alone == "neither")
    assert rejected == ({DROPPED: dropped} if dropped else {})


def test_the_name_takes_the_rules_along_and_asks_the_same_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    alone, both = make_extractor("openai:a+b"), make_extractor("openai:a+b+lexicon")
    assert type(alone) is LanguageModelExtractor
    assert type(both) is WithRules
    assert both.question == alone.question
    assert both.question.model == "openai:a+b"
    with pytest.raises(ValueError, match=r"no evidence extractor 'openai:\+lexicon'"):
        make_extractor("openai:+lexicon")


@pytest.mark.parametrize("kept", [True, False])
def test_beside_a_silent_model_the_policy_decides_whether_the_rules_are_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    policy = Policy("rules", "neither", "rules" if kept else "neither")
    monkeypatch.setattr(together, "POLICY", policy)
    extractor = WithRules(Parrot(answer()), store=tmp_path / "answers.sqlite")
    rules = LexiconExtractor().extract([REPORT])
    assert extractor.extract([REPORT]) == (rules if kept else [[]])
    assert extractor.rejected == ({} if kept else {DROPPED: len(rules[0])})
