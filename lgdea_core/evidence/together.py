"""Two readings together: a language model's and the rules', or the model's own twice."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from lgdea_core.evidence.answers import Passage, locate_statements, read_passages
from lgdea_core.evidence.lexicon import LexiconExtractor
from lgdea_core.evidence.llm import Backend, LanguageModelExtractor
from lgdea_core.evidence.prompt import Prompt
from lgdea_core.evidence.store import AnswerStats, AnswerStore
from lgdea_core.finding import Finding

Side = Literal["model", "rules", "neither"]


class Policy(NamedTuple):
    """Whom to believe of an observation in a sentence when model and rules disagree."""

    status: Side
    """both state it, with different statuses"""
    model_alone: Side
    rules_alone: Side


POLICY = Policy(status="rules", model_alone="neither", rules_alone="rules")
"""Chosen on the 40 reports of the development sample (docs/language_models.md), for a small model: whatever it states
against the rules, or beyond them, cost precision there, and leaving out what both state differently cost recall."""

DROPPED = "model and rules disagree"
"""Reason under which findings that a policy leaves out are counted, of either side."""
NOT_ALIKE = "not stated alike in both orders of the examples"
"""The same of what a model states in one order alone, or with another status in the other."""
ONE_ANSWER = "no usable answer in the other order of the examples"


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


class InBothOrders(LanguageModelExtractor):
    """A language model asked about each sentence twice, with the prompt's examples in their order and in reverse.

    Small models imitate the last example most. Kept is what both answers state, with the same status, in the words of
    the second.
    """

    def __init__(self, backend: Backend, prompt: Prompt | None = None, store: Path | None = None) -> None:
        """See `LanguageModelExtractor`."""
        super().__init__(backend, prompt, store)
        self._reversed = LanguageModelExtractor(backend, self._prompt.reversed(), store)
        self._reversed.rejected = self.rejected

    def ask(self, reports: Sequence[str], progress: bool = False) -> None:
        """As `LanguageModelExtractor.ask`, one order after the other."""
        super().ask(reports, progress)
        self._reversed.ask(reports, progress)

    def _read_one(self, store: AnswerStore, passage: Passage) -> list[Finding]:
        answers = self._accepted(store, passage), self._reversed._accepted(store, passage)
        first, second = (
            locate_statements(answer.statements, passage, self.rejected) if answer else [] for answer in answers
        )
        stated = {(finding.observation, finding.status) for finding in first}
        stated ^= {(finding.observation, finding.status) for finding in second}  # in one of them alone
        unlike = {observation for observation, _ in stated}
        if dropped := sum(finding.observation in unlike for finding in (*first, *second)):
            reason = NOT_ALIKE if all(answers) else ONE_ANSWER
            self.rejected[reason] = self.rejected.get(reason, 0) + dropped
        return [finding for finding in second if finding.observation not in unlike]

    def statistics(self) -> AnswerStats:
        """Sums over the answers of both orders: two of each sentence."""
        first, second = vars(super().statistics()), vars(self._reversed.statistics())
        added = {name: value + second[name] for name, value in first.items() if name != "rejected"}
        return AnswerStats(**added, rejected=dict(Counter(first["rejected"]) + Counter(second["rejected"])))
