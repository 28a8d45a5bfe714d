"""What of a report is sent to a language model, and the way back from its words to the report's characters."""

from dataclasses import dataclass

from lgdea_core.evidence.sections import SectionKind, readable_sections

_OPENING = ("<", "[")
"""What every chat template's marks begin with: `<|im_end|>`, `</s>`, `[INST]`, and our own `</report>`."""


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
    nothing. A blank follows every "<" and "[": no text of a report can be read as a mark of the prompt or of a chat
    template.
    """
    return Passage(
        report=report,
        bodies=tuple(
            _read_body(report, section.kind, section.start, section.end) for section in readable_sections(report)
        ),
    )


def _read_body(report: str, kind: SectionKind, start: int, end: int) -> Body:
    chars: list[str] = []
    offsets: list[int] = []
    for at in range(start, end):
        char = report[at] if report[at].isprintable() else " "  # the no-break space does not print either
        before = chars[-1] if chars else " "
        if char == " " == before:
            continue
        if before in _OPENING and char != " ":
            chars.append(" ")
            offsets.append(at)
        chars.append(char)
        offsets.append(at)
    text = "".join(chars).rstrip(" ")
    return Body(kind=kind, text=text, offsets=tuple(offsets[: len(text)]))
