"""What a language model is sent of a report, what it may answer, and how an answer becomes findings."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lgdea_core.evidence.clauses import CENTRAL, resolve_location
from lgdea_core.evidence.lexicon import default_lexer, default_lexicon
from lgdea_core.evidence.sections import SectionKind, readable_sections
from lgdea_core.finding import Finding
from lgdea_core.vocabulary import NO_FINDING, STATUSES

OBSERVATIONS = (
    NO_FINDING,
    *sorted({value for kind, value in default_lexicon().terms.values() if kind == "observation"}),
)
"""The lexicon's observations. The list is closed: prototypes, label tables and figures group by these names, and a free
one would let a report's text in as a name. What has no name here is left out."""

MAX_STATEMENTS = 15
"""Most statements of an answer. By the lexicon, 12,700 sentences of Open-i hold 1 on average and 8 at most."""

PHRASE_LENGTH = 120
"""Most characters of a phrase (Open-i by the lexicon: at most 101). xgrammar 0.2.8 fails on repetitions beyond 128."""

PHRASE_PATTERN = f"^[ !#-\\[\\]-~\u00a0-\ud7ff]{{1,{PHRASE_LENGTH}}}$"
"""Printing characters but quote and backslash, so an answer needs no escapes. The ranges are spelled out because
xgrammar 0.2.8 lets control characters pass `maxLength`, and broken UTF-8 pass an excluding class."""

REPEATED = "repeated"
HALLUCINATED = "phrase not in report"
"""Why a statement of an accepted answer is refused; `extract.accept_findings` counts under the same names."""

CUT_OFF = "cut off"
"""Reason of an answer that ended at the limit of its length."""

SEPARATORS = (",", ":")
"""Of an answer's JSON, as examples and grammar write it: `","` is one token, `", "` are two."""

AnswerStatus = Literal["accepted", "repaired", "rejected"]

_SENTENCE_END = re.compile(r"(?<!\bvs\.)(?<!\bDr\.)(?<=[.!?;])\s+|\n\s*\n|\n(?=[ \t]*(?:\d+[.)]|[-*•])[ \t])")
_WORD = re.compile(r"[^\W\d_]{2}")


@dataclass(frozen=True, kw_only=True)
class Passage:
    """What a model is asked about: one sentence of a report, on one line."""

    report: str
    section: SectionKind
    text: str
    offsets: tuple[int, ...]
    """where each character of `text` stands in the report"""


def read_passages(report: str) -> list[Passage]:
    """The sentences of FINDINGS and IMPRESSION, and nothing else of a report; empty without either.

    One sentence is a short question, which a small model answers best, and reports share many sentences: of 250 of
    Open-i, 4 in 10 need no question of their own. A sentence ends behind a stop, at an empty line or before an entry of
    a list, not where a line is wrapped; one without a word is left out.

    White space and characters that do not print become single blanks, so a wrapped line or an invisible mark changes
    nothing. A blank follows every "<" and "[": every chat template's marks (`<|im_end|>`, `</s>`, `[INST]`) begin with
    one, so no text of a report can be read as a mark.
    """
    passages = []
    for section in readable_sections(report):
        start = section.start
        ends = [(gap.start(), gap.end()) for gap in _SENTENCE_END.finditer(report, section.start, section.end)]
        for end, following in [*ends, (section.end, section.end)]:
            passage = _on_one_line(report, section.kind, start, end)
            if _WORD.search(passage.text):
                passages.append(passage)
            start = following
    return passages


def _on_one_line(report: str, section: SectionKind, start: int, end: int) -> Passage:
    chars: list[str] = []
    offsets: list[int] = []
    for at in range(start, end):
        char = report[at] if report[at].isprintable() else " "  # the no-break space does not print either
        before = chars[-1] if chars else " "
        if char == " " == before:
            continue
        if before in ("<", "[") and char != " ":
            chars.append(" ")
            offsets.append(at)
        chars.append(char)
        offsets.append(at)
    text = "".join(chars).rstrip(" ")
    return Passage(report=report, section=section, text=text, offsets=tuple(offsets[: len(text)]))


class Statement(NamedTuple):
    """One statement as a model makes it. The phrase comes first, so that the model quotes before it judges.

    There are no offsets: models cannot count, so `locate_statements` finds the phrase. Nor are there side, place and
    severity: they are words of the phrase, which rules read.
    """

    phrase: str
    observation: str
    status: str


class Answer(BaseModel):
    """All statements of one sentence; none where it says nothing of the chest.

    A statement is a list of three and no object: names of fields would be half of what a model writes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    statements: list[tuple[Annotated[str, Field(pattern=PHRASE_PATTERN)], Literal[OBSERVATIONS], Literal[STATUSES]]] = (
        Field(max_length=MAX_STATEMENTS)
    )


ANSWER_SCHEMA: dict[str, Any] = Answer.model_json_schema()
"""What the grammar in process and `response_format` on a server are made of."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model returned to one request."""

    text: str
    finish: str
    """why it ended: "stop", or "length" where it was cut off"""
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    """from the first sending on, waits and repetitions included"""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was made of the replies about one sentence."""

    status: AnswerStatus
    reason: str
    """why it was rejected; empty otherwise"""
    statements: tuple[Statement, ...]
    replies: tuple[Reply, ...]
    """one, or two where the first was of no use"""


class UnusableReplyError(ValueError):
    """A reply that is no `Answer`."""

    def __init__(self, reason: str, complaint: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """one of few, to count by"""
        self.complaint = complaint
        """for the model that gave it; holds no word of report or reply"""


def parse_reply(reply: Reply) -> list[Statement]:
    """The statements of a reply.

    Raises:
        UnusableReplyError: it is empty, cut off, no JSON or against the schema.
    """
    try:
        answer = Answer.model_validate_json(reply.text.encode("utf-8", "replace"))
        return [Statement(*statement) for statement in answer.statements]
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
    if not reply.text.strip():
        raise UnusableReplyError("empty", "it was empty")
    if reply.finish == "length":
        raise UnusableReplyError(CUT_OFF, f"it was too long; give at most {MAX_STATEMENTS} statements")
    # Where in the answer, and what; a name that is not the schema's came from the model and is not repeated.
    places = [[_place(problem["loc"], depth) for depth in range(len(problem["loc"]))] for problem in problems[:3]]
    complaint = "; ".join(
        f"{'.'.join(place) or 'answer'}: {problem['msg']}" for place, problem in zip(places, problems, strict=False)
    )
    if problems[0]["type"] == "json_invalid":
        raise UnusableReplyError("not JSON", complaint)
    field = places[0][2] if len(places[0]) > 2 else "answer"
    raise UnusableReplyError(f"schema: {field} {problems[0]['type']}", complaint)


def _place(location: Sequence[int | str], depth: int) -> str:
    """A step on the way into an answer: of a statement, the field's name."""
    step = location[depth]
    if isinstance(step, int):
        return Statement._fields[step] if depth == 2 and step < len(Statement._fields) else str(step)
    return "statements" if step == "statements" else "?"


def judge(replies: Sequence[Reply]) -> Verdict:
    """The verdict on a sentence's replies: the last one counts."""
    try:
        statements = tuple(parse_reply(replies[-1]))
    except UnusableReplyError as error:
        return Verdict(status="rejected", reason=error.reason, statements=(), replies=tuple(replies))
    status = "accepted" if len(replies) == 1 else "repaired"
    return Verdict(status=status, reason="", statements=statements, replies=tuple(replies))


def locate_statements(statements: Sequence[Statement], passage: Passage, rejected: dict[str, int]) -> list[Finding]:
    """Findings of the statements whose phrase stands in the passage; the others are counted in `rejected`.

    A phrase counts where it stands as whole words, in the model's own characters but for white space and for capitals,
    which small models lose at a sentence's beginning. The finding's phrase is the report's own, wrapped lines and all.
    A phrase that stands there more than once: different statements all get its first place; the same statement made
    again gets the next one, and is a repetition when there is none. Side, region and severity are what the lexicon
    reads in the phrase; of a sentence's only statement, in the sentence.
    """
    findings = []
    times: dict[Statement, int] = {}
    for statement in statements:
        places = _places(passage.text, statement.phrase)
        number = times[statement] = times.get(statement, -1) + 1
        if number >= len(places):
            reason = REPEATED if places else HALLUCINATED
            rejected[reason] = rejected.get(reason, 0) + 1
            continue
        first, behind = places[number]
        start, end = passage.offsets[first], passage.offsets[behind - 1] + 1
        side, region, severity = _read_attributes(passage.text if len(statements) == 1 else statement.phrase)
        sided = statement.observation not in CENTRAL or (region or "").startswith(side or " ")
        findings.append(
            Finding(
                observation=statement.observation,
                status=statement.status,
                region=region,
                laterality=side if sided else None,
                severity=None if statement.status == "absent" else severity,
                phrase=passage.report[start:end],
                start=start,
                end=end,
                section=passage.section,
            )
        )
    return findings


def _read_attributes(words: str) -> tuple[str | None, str | None, str | None]:
    """Side, region and severity that the lexicon's words name."""
    lexer = default_lexer()
    items = [item for sentence in lexer.sentences(lexer.nlp.make_doc(words)) for item in sentence]
    side, region = resolve_location([item.value for item in items if item.kind == "location"])
    return side, region, next((item.value for item in items if item.kind == "severity"), None)


def _places(text: str, phrase: str) -> list[tuple[int, int]]:
    """Where the words of a phrase stand: first character, and one behind the last."""
    words, places = re.escape(" ".join(phrase.split())), []
    for match in re.finditer(f"(?=({words}))", text, re.IGNORECASE) if words else ():  # ahead: they may overlap
        start, end = match.span(1)
        cuts = (at for at in (start, end) if 0 < at < len(text))
        if not any(text[at - 1].isalnum() and text[at].isalnum() for at in cuts):  # no word is split
            places.append((start, end))
    return places


def _longest_answer() -> str:
    """The longest answer the schema allows, in bytes, with the grammar's separators."""
    statement = ["\ud7ff" * PHRASE_LENGTH, max(OBSERVATIONS, key=len), max(STATUSES, key=len)]
    return json.dumps({"statements": [statement] * MAX_STATEMENTS}, ensure_ascii=False, separators=SEPARATORS)


ANSWER_BYTES = len(_longest_answer().encode())
"""No answer is longer, and no token shorter than a byte: with so many tokens even a random model ends its answer."""
