"""What a language model is sent of a report, what it may answer, and how an answer becomes findings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lgdea_core.evidence.lexicon import default_lexicon
from lgdea_core.evidence.sections import SectionKind, readable_sections
from lgdea_core.finding import Finding
from lgdea_core.vocabulary import LATERALITIES, NO_FINDING, REGIONS, SEVERITIES, STATUSES

OBSERVATIONS = (
    NO_FINDING,
    *sorted({value for kind, value in default_lexicon().terms.values() if kind == "observation"}),
)
"""The lexicon's observations. The list is closed: prototypes, label tables and figures group by these names, and a free
one would let a report's text in as a name. What has no name here is left out."""

MAX_STATEMENTS = 30
"""Most statements of an answer. By the lexicon, 1,965 reports of Open-i hold 7 on average and 19 at most."""

PHRASE_LENGTH = 120
"""Most characters of a phrase (Open-i by the lexicon: at most 101). xgrammar 0.2.8 fails on repetitions beyond 128."""

PHRASE_PATTERN = f"^[ !#-\\[\\]-~\u00a0-\ud7ff]{{1,{PHRASE_LENGTH}}}$"
"""Printing characters but quote and backslash, so an answer needs no escapes. The ranges are spelled out because
xgrammar 0.2.8 lets control characters pass `maxLength`, and broken UTF-8 pass an excluding class."""

REPEATED = "repeated"
HALLUCINATED = "phrase not in report"
"""Why a statement of an accepted answer is refused; `extract.accept_findings` counts under the same names."""

AnswerStatus = Literal["accepted", "repaired", "rejected"]


@dataclass(frozen=True, kw_only=True)
class Body:
    """The words of one section."""

    kind: SectionKind
    text: str
    """the section on one line"""
    offsets: tuple[int, ...]
    """where each character of `text` stands in the report"""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """The readable sections of one report, as a model sees them."""

    report: str
    bodies: tuple[Body, ...]

    @property
    def text(self) -> str:
        """One line a section, its kind in front; empty for a report without readable sections."""
        return "\n".join(f"{body.kind.upper()}: {body.text}" for body in self.bodies)


def read_passage(report: str) -> Passage:
    """FINDINGS and IMPRESSION of a report, each on one line, and nothing else of it.

    White space and characters that do not print become single blanks, so a wrapped line or an invisible mark changes
    nothing. A blank follows every "<" and "[": every chat template's marks (`<|im_end|>`, `</s>`, `[INST]`) and our own
    `</report>` begin with one, so no text of a report can be read as a mark.
    """
    bodies = []
    for section in readable_sections(report):
        chars: list[str] = []
        offsets: list[int] = []
        for at in range(section.start, section.end):
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
        bodies.append(Body(kind=section.kind, text=text, offsets=tuple(offsets[: len(text)])))
    return Passage(report=report, bodies=tuple(bodies))


class Statement(BaseModel):
    """One statement as a model makes it. The phrase comes first, so that the model quotes before it judges.

    There are no offsets: models cannot count, so `locate_statements` finds the phrase.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    phrase: str = Field(pattern=PHRASE_PATTERN)
    observation: Literal[OBSERVATIONS]
    status: Literal[STATUSES]
    region: Literal[REGIONS] | None
    laterality: Literal[LATERALITIES] | None
    severity: Literal[SEVERITIES] | None


class Answer(BaseModel):
    """All statements of one report; none where the report says nothing of the chest."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    statements: list[Statement] = Field(max_length=MAX_STATEMENTS)


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
    """What was made of the replies about one report."""

    status: AnswerStatus
    reason: str
    """why it was rejected; empty otherwise"""
    answer: Answer | None
    replies: tuple[Reply, ...]
    """one, or two where a repair was asked for"""


class UnusableReplyError(ValueError):
    """A reply that is no `Answer`."""

    def __init__(self, reason: str, complaint: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """one of few, to count by"""
        self.complaint = complaint
        """for the model that gave it; holds no word of report or reply"""


def parse_reply(reply: Reply) -> Answer:
    """The answer that a reply is.

    Raises:
        UnusableReplyError: it is empty, cut off, no JSON or against the schema.
    """
    try:
        return Answer.model_validate_json(reply.text.encode("utf-8", "replace"))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
    if not reply.text.strip():
        raise UnusableReplyError("empty", "it was empty")
    if reply.finish == "length":
        raise UnusableReplyError("cut off", f"it was too long; give at most {MAX_STATEMENTS} statements")
    # Where in the answer, and what; a name that is not the schema's came from the model and is not repeated.
    known = {"statements", *Statement.model_fields}
    places = [
        ".".join(str(name) if isinstance(name, int) or name in known else "?" for name in problem["loc"]) or "answer"
        for problem in problems[:3]
    ]
    complaint = "; ".join(f"{place}: {problem['msg']}" for place, problem in zip(places, problems, strict=False))
    if problems[0]["type"] == "json_invalid":
        raise UnusableReplyError("not JSON", complaint)
    fields = [name for name in problems[0]["loc"] if name in Statement.model_fields] or ["answer"]
    raise UnusableReplyError(f"schema: {fields[-1]} {problems[0]['type']}", complaint)


def judge(replies: Sequence[Reply]) -> Verdict:
    """The verdict on a report's replies: the last one counts."""
    try:
        answer = parse_reply(replies[-1])
    except UnusableReplyError as error:
        return Verdict(status="rejected", reason=error.reason, answer=None, replies=tuple(replies))
    status = "accepted" if len(replies) == 1 else "repaired"
    return Verdict(status=status, reason="", answer=answer, replies=tuple(replies))


def locate_statements(statements: Sequence[Statement], passage: Passage, rejected: dict[str, int]) -> list[Finding]:
    """Findings of the statements whose phrase stands in the passage; the others are counted in `rejected`.

    A phrase counts where it stands as whole words, in the model's own characters but for white space. The finding's
    phrase is the report's own, wrapped lines and all. A phrase that stands there more than once: different statements
    all get its first place; the same statement made again gets the next one, and is a repetition when there is none.
    """
    findings = []
    times: dict[Statement, int] = {}
    for statement in statements:
        places = _places(passage, statement.phrase)
        number = times[statement] = times.get(statement, -1) + 1
        if number >= len(places):
            reason = REPEATED if places else HALLUCINATED
            rejected[reason] = rejected.get(reason, 0) + 1
            continue
        body, first, behind = places[number]
        start, end = body.offsets[first], body.offsets[behind - 1] + 1
        phrase, fields = passage.report[start:end], statement.model_dump(exclude={"phrase"})
        findings.append(Finding(**fields, phrase=phrase, start=start, end=end, section=body.kind))
    return findings


def _places(passage: Passage, phrase: str) -> list[tuple[Body, int, int]]:
    """Where the words of a phrase stand, in the order of the report: section, first character, one behind the last."""
    words, places = " ".join(phrase.split()), []
    for body in passage.bodies if words else ():
        text, start = body.text, body.text.find(words)
        while start >= 0:
            end = start + len(words)
            cuts = (at for at in (start, end) if 0 < at < len(text))
            if not any(text[at - 1].isalnum() and text[at].isalnum() for at in cuts):  # no word is split
                places.append((body, start, end))
            start = text.find(words, start + 1)
    return places


def _longest_answer() -> str:
    """The longest answer the schema allows, in bytes, with the grammar's separators."""
    names = {"observation": OBSERVATIONS, "status": STATUSES, "region": REGIONS}
    names |= {"laterality": LATERALITIES, "severity": SEVERITIES}
    statement = {"phrase": "\ud7ff" * PHRASE_LENGTH, **{field: max(values, key=len) for field, values in names.items()}}
    return json.dumps({"statements": [statement] * MAX_STATEMENTS}, ensure_ascii=False)


ANSWER_BYTES = len(_longest_answer().encode())
"""No answer is longer, and no token shorter than a byte: with so many tokens even a random model ends its answer."""
