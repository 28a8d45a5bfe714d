"""A language model and the rules together: who is believed where they disagree."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Parrot, answer, statement

from lgdea_core.evidence import together
from lgdea_core.evidence.answers import Passage, Reply
from lgdea_core.evidence.extract import make_extractor
from lgdea_core.evidence.lexicon import LexiconExtractor
from lgdea_core.evidence.llm import LanguageModelExtractor, NoAnswerError, Settle
from lgdea_core.evidence.prompt import Prompt, load_prompt
from lgdea_core.evidence.together import DROPPED, NOT_ALIKE, ONE_ANSWER, InBothOrders, Policy, WithRules, reconcile
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
    assert type(make_extractor("openai:a+b+reversed")) is InBothOrders
    assert both.question == alone.question
    assert both.question.model == "openai:a+b"
    with pytest.raises(ValueError, match=r"no evidence extractor 'openai:\+lexicon'"):
        make_extractor("openai:+lexicon")
    with pytest.raises(ValueError, match="either with one of"):
        make_extractor("openai:a+lexicon+reversed")


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


class Imitator:
    """A model that sees an effusion in every sentence that has one, and a mass wherever the last example has a word."""

    name = "openai:imitator"

    def __init__(self, word: str) -> None:
        self.word = word

    def run(self, passages: Iterator[Passage], prompt: Prompt, settle: Settle) -> None:
        imitated = self.word in prompt.opening[-2]["content"]
        for passage in passages:
            stated = [statement("effusion", "pleural effusion", "present")] * ("effusion" in passage.text)
            stated += [statement("mass", "mass", "present")] * (imitated and "mass" in passage.text)
            text = answer(*stated)
            settle(passage, [Reply(text=text, finish="stop", prompt_tokens=3, completion_tokens=2, seconds=1.0)])


def test_the_examples_reversed_are_the_same_pairs_and_another_question() -> None:
    prompt = load_prompt()
    turned = prompt.reversed()
    assert turned.opening[0] == prompt.opening[0]
    assert [turned.opening[1:3], turned.opening[-2:]] == [prompt.opening[-2:], prompt.opening[1:3]]
    assert turned.digest != prompt.digest
    assert turned.reversed() == prompt


def test_what_a_model_states_in_one_order_of_the_examples_alone_is_left_out(tmp_path: Path) -> None:
    first = load_prompt().opening[1]["content"]  # the last one, once they are reversed
    extractor = InBothOrders(Imitator(first), store=tmp_path / "answers.sqlite")
    [found] = extractor.extract([REPORT])
    assert [one.observation for one in found] == ["pleural effusion", "pleural effusion"]
    assert extractor.rejected == {NOT_ALIKE: 1}
    stats = extractor.statistics()
    assert (stats.answers, stats.statements, stats.prompt_tokens, stats.seconds) == (4, 3, 12, 4.0)
    again = LanguageModelExtractor(Imitator(first), store=tmp_path / "answers.sqlite")
    assert again.extract([REPORT]) == [found]  # the first order's answers are those it has alone


@pytest.mark.parametrize(("second", "says"), [("no JSON", "answer: "), (None, "no answer (")])
def test_what_lacks_a_usable_second_answer_is_left_out_under_that_name(
    tmp_path: Path, second: str | None, says: str
) -> None:
    class Failing(Parrot):
        def run(self, passages: Iterator[Passage], prompt: Prompt, settle: Settle) -> None:
            turned = prompt == load_prompt().reversed()
            for passage in passages:
                reply = Reply(text=second or "", finish="stop", prompt_tokens=1, completion_tokens=1, seconds=0.0)
                failed = NoAnswerError("the server refused") if second is None else [reply, reply]
                settle(passage, failed if turned and "mass" in passage.text else [self.reply])

    both = answer(statement("effusion", "pleural effusion"), statement("mass", "mass"))
    extractor = InBothOrders(Failing(both), store=tmp_path / "answers.sqlite")
    [found] = extractor.extract([REPORT])
    assert {one.observation for one in found} == {"pleural effusion"}
    assert extractor.rejected[ONE_ANSWER] == 1
    assert any(reason.startswith(says) for reason in extractor.rejected)
    assert NOT_ALIKE not in extractor.rejected
