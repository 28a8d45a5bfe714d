"""Findings and impression of a MIMIC-CXR report, cut out as the field's common script does.

Follows `txt/section_parser.py` of MIT-LCP/mimic-cxr: a header is a line's beginning in capitals up to a colon; many
names mean one section (misspellings, "CHEST, TWO VIEWS" for findings); empty sections do not count; of several sections
of one name the last one does, for an addendum or a corrected report repeats the header. That script's list of reports
cut by hand (54 study ids) is left out, and so is its "last paragraph" of reports without either section.
"""

import difflib
import re

_HEADER = re.compile(r"\n ?([A-Z][A-Z ()/,-]*):\s")
_OTHER = ("history", "comparison", "addendum")
"""words of a header that decide before the views do"""
_VIEWS = (
    "chest", "portable", "pa and lat", "lateral and pa", "ap and lat", "lateral and ap", "frontal and", "two views",
    "frontal view", "pa view", "ap view", "one view", "lateral view", "bone window", "frontal upright",
    "frontal semi-upright", "ribs",
)  # fmt: skip
"""words of a header that names the films and is followed by what they show"""


def report_sections(text: str) -> dict[str, str]:
    """The last non-empty sections FINDINGS and IMPRESSION, as far as the report has them.

    Args:
        text: of `files/p1x/p1xxxxxxx/s5xxxxxxx.txt`.
    """
    found: dict[str, str] = {}
    header = _HEADER.search(text)
    while header:
        line_end = text.find("\n", header.end() - 1)  # a header's own line opens no other section
        next_header = _HEADER.search(text, line_end) if line_end >= 0 else None
        body = text[header.end() : next_header.start() if next_header else len(text)].strip()
        kind = section_kind(header[1])
        if kind and body:
            found[kind] = body
        header = next_header
    return found


def section_kind(name: str) -> str | None:
    """FINDINGS or IMPRESSION for a header that means one of them, else None."""
    name = name.lower().strip()
    if "impression" in name or name == "conclusion":
        return "IMPRESSION"
    if "findings" in name:
        return "FINDINGS"
    if any(word in name for word in _OTHER):
        return None
    misspelt = difflib.get_close_matches(name, ("impression", "findings"), n=1, cutoff=0.8)
    if misspelt:
        return misspelt[0].upper()
    return "FINDINGS" if any(view in name for view in _VIEWS) else None
