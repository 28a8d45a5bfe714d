"""The prompt: a Markdown page that a radiologist can read and change, and the messages made of it."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from lgdea_core.evidence.answers import (
    ANSWER_SCHEMA,
    MAX_STATEMENTS,
    OBSERVATIONS,
    PHRASE_LENGTH,
    Reply,
    UnusableReplyError,
    locate_statements,
    parse_reply,
    read_passage,
)
from lgdea_core.vocabulary import REGIONS

PROMPT_FILE = Path(__file__).with_name("prompts") / "evidence.md"

PLACEHOLDERS = {
    "{observations}": ", ".join(f'"{name}"' for name in OBSERVATIONS),
    "{regions}": ", ".join(f'"{name}"' for name in REGIONS),
    "{statements}": str(MAX_STATEMENTS),
    "{characters}": str(PHRASE_LENGTH),
}
COMPLAINT = "{complaint}"

_SECTION = re.compile(r"^## (.+)\n((?:(?!## ).*\n?)*)", re.MULTILINE)
_EXAMPLE = re.compile(r"^### (.+)\n+```report\n((?:.*\n)*?)```\n+```json\n((?:.*\n)*?)```$", re.MULTILINE)

Message = dict[str, str]
"""role and content, as chat templates and servers take them"""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """All that is sent besides the report."""

    opening: tuple[Message, ...]
    """instructions, then each example as a question and its answer"""
    repair: str
    """what is said of an unusable answer, with `{complaint}`"""

    @property
    def digest(self) -> str:
        """sha256 of what is sent and of the answer's schema: another one makes another question."""
        sent = json.dumps([self.opening, report_message(""), self.repair, ANSWER_SCHEMA], sort_keys=True)
        return hashlib.sha256(sent.encode()).hexdigest()

    def messages(self, passage: str) -> list[Message]:
        """The question about one report.

        Args:
            passage: `Passage.text`.
        """
        return [*self.opening, report_message(passage)]

    def repair_messages(self, passage: str, refused: UnusableReplyError, reply: Reply) -> list[Message]:
        """The question again, the reply to it, and what was wrong with that, in the schema's words."""
        return [
            *self.messages(passage),
            {"role": "assistant", "content": reply.text},
            {"role": "user", "content": self.repair.replace(COMPLAINT, refused.complaint)},
        ]


def report_message(passage: str) -> Message:
    """A report between marks that it cannot hold itself: `read_passage` puts a blank behind every "<"."""
    return {"role": "user", "content": f"<report>\n{passage}\n</report>"}


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
    examples = _EXAMPLE.findall(parts["Examples"])
    if len(examples) != parts["Examples"].count("### ") or not examples:
        raise ValueError(f"{path}: each example needs a heading '### ...', a block ```report and a block ```json")
    instructions = parts["Instructions"].strip()
    for mark, value in PLACEHOLDERS.items():
        instructions = instructions.replace(mark, value)
    opening = [{"role": "system", "content": instructions}]
    for name, report, answer in examples:
        where, passage, refused = f"{path}, example '{name}'", read_passage(report), {}
        try:
            parsed = parse_reply(Reply(text=answer, finish="stop", prompt_tokens=0, completion_tokens=0, seconds=0.0))
        except UnusableReplyError as error:
            raise ValueError(f"{where}: its answer would be refused: {error.complaint}") from None
        locate_statements(parsed.statements, passage, refused)
        if refused:
            raise ValueError(f"{where}: its answer has statements that would be refused: {refused}")
        # written as the grammar writes: an example must not teach other white space
        content = json.dumps(json.loads(answer), ensure_ascii=False)
        opening += [report_message(passage.text), {"role": "assistant", "content": content}]
    return Prompt(opening=tuple(opening), repair=parts["Repair"].strip())
