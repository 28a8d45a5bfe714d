"""An extractor of one's own: cardiomegaly by a measured cardiothoracic ratio, which no word list sees."""

import re
from collections.abc import Sequence

from lgdea_core.evidence.sections import readable_sections
from lgdea_core.finding import Finding

RATIO = re.compile(r"(?:CTR|cardiothoracic ratio)\D{0,12}(0?\.\d+)", re.IGNORECASE)
LIMIT = 0.5


class RatioExtractor:
    """Reads FINDINGS and IMPRESSION; a phrase is quoted with its place, or it would be refused."""

    def extract(self, reports: Sequence[str]) -> list[list[Finding]]:
        """Findings of each report, in order."""
        return [[self._finding(report, match, kind) for match, kind in self._matches(report)] for report in reports]

    def _matches(self, report: str) -> list[tuple[re.Match[str], str]]:
        sections = readable_sections(report)
        return [(match, part.kind) for part in sections for match in RATIO.finditer(report, part.start, part.end)]

    def _finding(self, report: str, match: re.Match[str], kind: str) -> Finding:
        return Finding(
            observation="cardiomegaly",
            status="present" if float(match[1]) > LIMIT else "absent",
            phrase=match[0],
            start=match.start(),
            end=match.end(),
            section=kind,
        )
