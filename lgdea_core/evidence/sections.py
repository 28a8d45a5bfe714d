"""Split a report into its sections, with offsets into the whole text."""

import re
from dataclasses import dataclass
from typing import Literal

SectionKind = Literal["findings", "impression", "other"]

SECTION_KINDS: dict[str, SectionKind] = {
    "FINDINGS": "findings",
    "FINDING": "findings",
    "FINDINGS AND IMPRESSION": "findings",
    "FINDINGS/IMPRESSION": "findings",
    "REPORT": "findings",
    "IMPRESSION": "impression",
    "IMPRESSIONS": "impression",
    "IMPRESSION AND RECOMMENDATION": "impression",
    "IMPRESSION/RECOMMENDATION": "impression",
    "CONCLUSION": "impression",
    "CONCLUSIONS": "impression",
    "SUMMARY": "impression",
}
"""Header -> kind; every other header opens a section of kind "other", which no extractor reads."""

SUBHEADERS = frozenset(
    {
        "ABDOMEN", "AIRWAYS", "AORTA", "BONE", "BONES", "CARDIAC", "CARDIOVASCULAR", "CHEST", "DEVICES", "DIAPHRAGM",
        "HEART", "HILA", "LINES", "LUNG", "LUNGS", "MEDIASTINUM", "OSSEOUS", "OTHER", "PLEURA", "PLEURAL", "SKELETON",
        "SPINE", "THORAX", "TRACHEA", "TUBES", "VASCULATURE",
    }
)  # fmt: skip
"""First words of headings that structure the findings ("LUNGS: clear.") and therefore do not end them."""

_HEADER = re.compile(
    r"(?m)^[ \t]*(?P<line>[A-Z][A-Z ()/,&-]*[A-Z)])[ \t]*:"
    r"|(?<!\S)(?P<inline>FINDINGS|IMPRESSION|CONCLUSION|INDICATION|COMPARISON|TECHNIQUE|HISTORY)[ \t]*:"
    r"|^[ \t]*(?P<title>Findings|Impression|Conclusion|Indication|Comparison|Technique|History)[ \t]*:"
)

_SENTENCE_GAP = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True, kw_only=True)
class Section:
    """The body of one section: `report[start:end]`, without its header and outer white space."""

    name: str
    """header in upper case; empty for text before the first header"""
    kind: SectionKind
    """"findings" and "impression" are read, "other" is not"""
    start: int
    """offset of the first character of the body in the report"""
    end: int
    """offset behind the last character"""


def split_sections(report: str) -> list[Section]:
    """All sections in the order of the text; text without any header is one section of findings.

    A header is a line's beginning in capitals up to a colon. Headings of organs ("LUNGS:") inside the findings belong
    to them. Text before the first header is "other". Bodies may be empty.
    """
    headers = []
    for match in _HEADER.finditer(report):
        name = match[match.lastgroup].upper()
        if name in SECTION_KINDS or re.split(r"[ ()/,&-]+", name)[0] not in SUBHEADERS:
            headers.append((name, SECTION_KINDS.get(name, "other"), match.start(), match.end()))
    if not headers:
        headers = [("", "findings", 0, 0)]
    elif report[: headers[0][2]].strip():
        headers.insert(0, ("", "other", 0, 0))
    ends = [header_start for _, _, header_start, _ in headers[1:]] + [len(report)]
    sections = []
    for (name, kind, _, start), end in zip(headers, ends, strict=True):
        body = report[start:end]
        stripped = body.strip()
        start += len(body) - len(body.lstrip()) if stripped else 0
        sections.append(Section(name=name, kind=kind, start=start, end=start + len(stripped)))
    return sections


def readable_sections(report: str) -> list[Section]:
    """The non-empty sections an extractor may read: findings and impression, or a text without headers.

    Of several sections of one kind the last one counts, as in the MIT-LCP code for MIMIC-CXR: an addendum or a
    corrected report repeats the header.
    """
    last = {section.kind: section for section in split_sections(report) if section.kind != "other"}
    return [
        section for section in sorted(last.values(), key=lambda section: section.start) if section.end > section.start
    ]


def sentence_spans(report: str) -> list[tuple[int, int]]:
    """Start and end of every sentence: those of the impression, then those of the findings.

    The order is MGCA's: what a cut drops is detail. A sentence ends behind ".", "!" or "?" before white space, or with
    its line.
    """
    spans = []
    for section in sorted(readable_sections(report), key=lambda section: section.kind != "impression"):
        start = section.start
        for gap in _SENTENCE_GAP.finditer(report[section.start : section.end]):
            spans.append((start, section.start + gap.start()))
            start = section.start + gap.end()
        spans.append((start, section.end))
    return [(start, end) for start, end in spans if report[start:end].strip()]


def report_sentences(report: str) -> list[str]:
    """Sentences of the impression, then of the findings; see `sections.sentence_spans`."""
    return [report[start:end] for start, end in sentence_spans(report)]
