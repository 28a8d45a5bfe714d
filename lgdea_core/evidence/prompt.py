"""The prompt: a Markdown page that a radiologist can read and change, and the messages made of it."""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from lgdea_core.evidence.answers import (
    ANSWER_SCHEMA,
    OBSERVATIONS,
    PHRASE_LENGTH,
    SEPARATORS,
    Reply,
    UnusableReplyError,
    locate_statements,
    parse_reply,
    read_passages,
)

PROMPT_FILE = Path(__file__).with_name("prompts") / "evidence.md"

PLACEHOLDERS = {
    "{observations}": ", ".join(f'"{name}"' for name in OBSERVATIONS),
    "{characters}": str(PHRASE_LENGTH),
}
COMPLAINT = "{complaint}"

_SECTION = re.compile(r"^## (.+)\n((?:(?!## ).*\n?)*)", re.MULTILINE)
_EXAMPLES = re.compile(r"^```examples\n((?:.*\n)*?)```$", re.MULTILINE)

Message = dict[str, str]
"""role and content, as chat templates and servers take them"""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """All that is sent besides the sentence."""

    opening: tuple[Message, ...]
    """instructions, then each example as a question and its answer: what every question begins with, so that a server
    with a prefix cache reads it once"""
    repair: str
    """what is said of an unusable answer, with `{complaint}`"""

    @property
    def digest(self) -> str:
        """sha256 of what is sent and of the answer's schema: another one makes another question."""
        sent = json.dumps([self.opening, report_message(""), self.repair, ANSWER_SCHEMA], sort_keys=True)
        return hashlib.sha256(sent.encode()).hexdigest()

    def messages(self, passage: str) -> list[Message]:
        """The question about one sentence.

        Args:
            passage: `Passage.text`.
        """
        return [*self.opening, report_message(passage)]

    def reversed(self) -> "Prompt":
        """The same examples in reverse order."""
        instructions, *said = self.opening
        examples = [*zip(said[::2], said[1::2], strict=True)][::-1]
        return replace(self, opening=(instructions, *chain.from_iterable(examples)))

    def repair_messages(self, passage: str, refused: UnusableReplyError, reply: Reply) -> list[Message]:
        """The question again, the reply to it, and what was wrong with that, in the schema's words."""
        return [
            *self.messages(passage),
            {"role": "assistant", "content": reply.text},
            {"role": "user", "content": self.repair.replace(COMPLAINT, refused.complaint)},
        ]


def report_message(passage: str) -> Message:
    """A sentence as a message of its own; `read_passages` leaves it no line break and no mark of a template."""
    return {"role": "user", "content": f"Report: {passage}"}


def load_prompt(path: Path = PROMPT_FILE) -> Prompt:
    """Read the page, and check its examples as if a model had answered them.

    Raises:
        ValueError: a part of the page is missing, or an example's answer would be refused.
    """
    parts = {name.strip(): text for name, text in _SECTION.findall(path.read_text(encoding="utf-8"))}
    missing = [name for name in ("Instructions", "Examples", "Repair") if not parts.get(name, "").strip()]
    if missing:
        raise ValueError(f"{path}: no text under the heading(s) {missing}, each written as '## {missing[0]}'")
    if COMPLAINT not in parts["Repair"]:
        raise ValueError(f"{path}: the text under '## Repair' must hold {COMPLAINT}, which says what was wrong")
    lines = [line for block in _EXAMPLES.findall(parts["Examples"]) for line in block.splitlines() if line.strip()]
    if not lines or len(lines) % 2:
        raise ValueError(
            f"{path}: examples stand in a block ```examples, a line of report and a line of statements each"
        )
    instructions = parts["Instructions"].strip()
    for mark, value in PLACEHOLDERS.items():
        instructions = instructions.replace(mark, value)
    opening = [{"role": "system", "content": instructions}]
    for sentence, statements in zip(lines[::2], lines[1::2], strict=True):
        where, passages, refused = f"{path}, example '{sentence}'", read_passages(sentence), {}
        if len(passages) != 1:
            raise ValueError(f"{where}: expected one sentence, got {len(passages)}")
        answer = f'{{"statements": {statements}}}'
        try:
            stated = parse_reply(Reply(text=answer, finish="stop", prompt_tokens=0, completion_tokens=0, seconds=0.0))
        except UnusableReplyError as error:
            raise ValueError(f"{where}: its answer would be refused: {error.complaint}") from None
        locate_statements(stated, passages[0], refused)
        if refused:
            raise ValueError(f"{where}: its answer has statements that would be refused: {refused}")
        # written as the grammar writes: an example must not teach other white space
        content = json.dumps(json.loads(answer), ensure_ascii=False, separators=SEPARATORS)
        opening += [report_message(passages[0].text), {"role": "assistant", "content": content}]
    return Prompt(opening=tuple(opening), repair=parts["Repair"].strip())
