"""Split a report into its sections, with offsets into the whole text."""

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
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
"""Header -> kind of what an extractor reads."""

ADDENDUM = ("ADDENDUM", "ADDENDA")
"""Read beside findings and impression, not instead of them."""

UNREAD = (
    "MESH", "MESH TERMS", "MESH CODES", "KEYWORDS",
    "INDICATION", "INDICATIONS", "CLINICAL INDICATION", "CLINICAL INDICATIONS", "HISTORY", "CLINICAL HISTORY", "HX",
    "CLINICAL HX", "FAMILY HISTORY", "MEDICAL HISTORY", "PATIENT HISTORY", "CLINICAL INFORMATION", "CLINICAL DATA",
    "CLINICAL STATEMENT", "CLINICAL QUESTION", "REASON FOR EXAM", "REASON FOR EXAMINATION", "REASON FOR STUDY",
    "REASON FOR THE EXAM", "REASON FOR THIS EXAMINATION", "REASON", "COMPARISON", "COMPARISONS", "COMPARISON STUDY",
    "TECHNIQUE", "EXAM", "EXAMINATION", "PROCEDURE", "PROCEDURES", "VIEWS", "RECOMMENDATION", "RECOMMENDATIONS",
    "NOTIFICATION", "SIGNS AND SYMPTOMS", "SYMPTOMS",
)  # fmt: skip
"""Headers of what was asked, known or done: no statement about this image, and never read."""

DRAFTS = ("WET READ", "WET READING", "PRELIMINARY REPORT", "PRELIMINARY READ", "PRELIMINARY", "PRELIM", "PRELIM REPORT")
"""Headers of a first reading, which counts as long as there is no other."""

TITLES = ("FINAL REPORT", "FINAL READ", "FINAL")
"""Headers of a whole report. As any header in capitals that is not listed, and as text before the first header, they
open findings where the report has neither findings nor impression by name."""

SUBHEADERS = frozenset(
    {
        "ABDOMEN", "AIRWAYS", "AORTA", "BONE", "BONES", "CARDIAC", "CARDIOVASCULAR", "CHEST", "DEVICES", "DIAPHRAGM",
        "HEART", "HILA", "LINES", "LUNG", "LUNGS", "MEDIASTINUM", "OSSEOUS", "OTHER", "PLEURA", "PLEURAL", "SKELETON",
        "SPINE", "THORAX", "TRACHEA", "TUBES", "VASCULATURE",
    }
)  # fmt: skip
"""First words of headings that structure the findings ("LUNGS: clear.") and therefore do not end them."""

_KNOWN = (*SECTION_KINDS, *ADDENDUM, *UNREAD, *DRAFTS, *TITLES)
_WORDS = re.compile(r"[A-Za-z][A-Za-z ()/,&-]*$")
_LINE = re.compile(r"(?m)^[ \t]*([A-Za-z][A-Za-z /&]{1,30}?)[ \t]*$")
_BLANK_LINE = re.compile(r"\n[ \t]*\n\s*")
LONGEST_HEADER = 80
"""Characters before a colon in which a header is looked for."""
NEAR_HEADER = 0.85
"""How alike, by `difflib`, a misspelt header is to the one it means."""

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

    A header ends in a colon, or is alone on its line. A known one may be in any case, misspelt by a letter or two, and
    inside a line where it begins a sentence or is in capitals. Other headers are a line's beginning in capitals up to a
    colon. Headings of organs ("LUNGS:") inside the findings belong to them. Bodies may be empty.
    """
    headers = sorted({header[1]: header for header in (*_alone_on_a_line(report), *_before_colons(report))}.values(),
                     key=lambda header: header[1])  # fmt: skip
    if not headers or report[: headers[0][1]].strip():
        headers.insert(0, ("", 0, 0))
    sections = []
    for (name, _, start), end in zip(headers, [start for _, start, _ in headers[1:]] + [len(report)], strict=True):
        body = report[start:end]
        stripped = body.strip()
        start += len(body) - len(body.lstrip()) if stripped else 0
        kind = "findings" if name in ADDENDUM else SECTION_KINDS.get(name, "other")
        end = start + len(stripped)
        paragraph = _BLANK_LINE.search(report, start, end) if name in UNREAD else None
        sections.append(Section(name=name, kind=kind, start=start, end=paragraph.start() if paragraph else end))
        if paragraph:  # what follows an indication without a header of its own
            sections.append(Section(name="", kind="other", start=paragraph.end(), end=end))
    # Where no section by name says anything, what else there is: the report itself, or a first reading of it.
    for passed_over in ((*UNREAD, *DRAFTS), UNREAD):
        if any(section.kind != "other" and section.end > section.start and section.name not in ADDENDUM
               for section in sections):  # fmt: skip
            break
        sections = [
            replace(section, kind="findings")
            if section.kind == "other" and section.name not in passed_over
            else section
            for section in sections
        ]
    return sections


def _alone_on_a_line(report: str) -> list[tuple[str, int, int]]:
    """Known headers that have a line for themselves: name, start and end."""
    found = []
    for match in _LINE.finditer(report):
        name = _known(match[1].upper(), misspelt=match[1].isupper())
        if name:
            found.append((name, match.start(), match.end()))
    return found


def _before_colons(report: str) -> list[tuple[str, int, int]]:
    """Headers that end in a colon: name, start, and end behind the colon."""
    found, colon = [], report.find(":")
    while colon >= 0:
        line = report.rfind("\n", 0, colon) + 1
        words = _WORDS.search(report, max(line, colon - LONGEST_HEADER), colon)
        if words:
            written, start = words[0].rstrip(), words.start()
            name = " ".join(written.upper().split())
            begins = not report[line:start].strip()
            known = _known(name, misspelt=True) if begins or written[0].isupper() else None
            # "CHEST, SINGLE VIEW HISTORY:" ends in one
            cut = 0
            while known is None and (cut := written.find(" ", cut) + 1):
                known = _known(name[cut:], misspelt=False) if written[cut:].isupper() else None
            if known:
                found.append((known, start + cut, colon + 1))
            elif begins and len(written) > 1 and written.isupper() and re.split(r"\W+", name)[0] not in SUBHEADERS:
                found.append((name, start, colon + 1))
        colon = report.find(":", colon + 1)
    return found


@lru_cache(maxsize=4096)
def _known(name: str, misspelt: bool) -> str | None:
    """The known header of this name, or the one it is a slip of the keyboard away from."""
    if name in _KNOWN:
        return name
    near = get_close_matches(name, _KNOWN, 1, NEAR_HEADER) if misspelt and len(name) > 5 else []
    return near[0] if near else None


def readable_sections(report: str) -> list[Section]:
    """The non-empty sections an extractor may read: findings, impression, addendum, or what stands in their place.

    Of several sections of one kind the last one counts, as in the MIT-LCP code for MIMIC-CXR: a corrected report
    repeats the header.
    """
    last = {
        section.kind if section.name in SECTION_KINDS else section.name: section
        for section in split_sections(report)
        if section.kind != "other"
    }
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
