"""A language model and the rules together: what both state, and by a policy what only one of them does."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, NamedTuple

from lgdea_core.evidence.answers import read_passages
from lgdea_core.evidence.lexicon import LexiconExtractor
from lgdea_core.evidence.llm import LanguageModelExtractor
from lgdea_core.finding import Finding

Side = Literal["model", "rules", "neither"]


class Policy(NamedTuple):
    """Whom to believe of an observation in a sentence when model and rules disagree."""

    status: Side
    """both state it, with different statuses"""
    model_alone: Side
    rules_alone: Side


POLICY = Policy(status="neither", model_alone="neither", rules_alone="rules")
"""Chosen on 11 reports of the development sample (docs/language_models.md): findings of the model alone cost precision;
the other two choices changed no label there, and what is stated both ways is worth less than silence."""

DROPPED = "model and rules disagree"
"""Reason under which findings that a policy leaves out are counted, of either side."""


def reconcile(
    report: str, model: Sequence[Finding], rules: Sequence[Finding], policy: Policy, rejected: dict[str, int]
) -> list[Finding]:
    """Findings of both, in the order of the report, with those left out counted in `rejected`.

    The question is an observation in a sentence. Where both state it with the same status, the rules' findings count:
    their phrases and places are the ones every other evidence table has. Else the policy says whose do.
    """
    starts = [passage.offsets[0] for passage in read_passages(report)]
    stated: dict[tuple[int, str], dict[str, list[Finding]]] = {}
    for side, findings in (("model", model), ("rules", rules)):
        for finding in findings:
            question = (bisect_right(starts, finding.start), finding.observation)
            stated.setdefault(question, {"model": [], "rules": [], "neither": []})[side].append(finding)
    kept: list[Finding] = []
    for found in stated.values():
        statuses = [{finding.status for finding in found[side]} for side in ("model", "rules")]
        if statuses[0] == statuses[1]:
            chosen: Side = "rules"
        elif all(statuses):
            chosen = policy.status
        else:
            chosen = policy.model_alone if statuses[0] else policy.rules_alone
        kept += found[chosen]
        if chosen == "neither":
            rejected[DROPPED] = rejected.get(DROPPED, 0) + len(found["model"]) + len(found["rules"])
    return sorted(kept, key=lambda finding: (finding.start, finding.end))


class WithRules(LanguageModelExtractor):
    """A language model's findings, reconciled with those of the rules."""

    def read(self, reports: Sequence[str]) -> list[list[Finding]]:
        """As `LanguageModelExtractor.read`, by `POLICY`."""
        by_rules = LexiconExtractor().extract(reports)
        return [
            reconcile(report, model, rules, POLICY, self.rejected)
            for report, model, rules in zip(reports, super().read(reports), by_rules, strict=True)
        ]
