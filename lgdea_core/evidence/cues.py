"""Cue words that change each other: "has not resolved", "no change in", "rules it out", "Effusion? None."."""

from collections.abc import Sequence
from typing import NamedTuple

from lgdea_core.evidence.clauses import FINDING_KINDS, PHRASE_KINDS, Item

FILLERS = frozenset({"verb", "severity", "change", "descriptor", "determiner", "with"})
"""Kinds that may stand between a cue and the word that changes it: "has not [yet completely] resolved"."""


class Pair(NamedTuple):
    """Two cues in their order that are one together."""

    first: str
    second: str
    together: str
    """kind of both as one item: "verb" changes nothing, "pseudo" ends what denies or doubts"""
    example: str
    reads: str


PAIRS = (
    Pair("negation", "departed", "verb", "The effusion has not resolved.", "+pleural effusion"),
    Pair("partly", "departed", "verb", "The effusion has almost resolved.", "+pleural effusion"),
    Pair("negation", "excluded", "unconfirmed", "Left pneumothorax was not ruled out.", "?left pneumothorax"),
    Pair("negation", "departure", "pseudo", "No resolution of the edema.", "+edema"),
    Pair("partly", "departure", "pseudo", "Incomplete resolution of the edema.", "+edema"),
    Pair("purpose", "departure", "pseudo", "Repeat films to ensure resolution of the edema.", "+edema"),
    Pair("ask", "departure", "pseudo", "Evaluate for resolution of the edema.", "+edema"),
    Pair("negation", "trend", "pseudo", "No interval improvement or worsening of the edema.", "+edema"),
    Pair("negation", "free", "pseudo", "The lungs are not free of edema.", "+bilateral edema"),
    Pair("negation after", "prior", "verb", "Left effusion not seen on the prior study.", "+left pleural effusion"),
)
_TOGETHER = {(pair.first, pair.second): pair.together for pair in PAIRS}
_UNSETTLED = frozenset(
    {"answer", "sign", "departed", "departure", "partly", "purpose", "trend", "free", "prior", "rule", "out"}
)

_LEFT_OVER = {"noun": "word", "noun or modifier": "change", "verb": "change", "severe": "severity"}
"""Name of a rule in the lexicon -> kind of its words where they change nothing; other names are kinds."""


def settle_cues(items: Sequence[Item]) -> Sequence[Item]:
    """The items with cues that change each other as one, and each answer, sign and departure as what it is here."""
    kinds = {item.kind for item in items}
    if _UNSETTLED.isdisjoint(kinds) and not kinds >= {"comma", "negation"}:  # of "Edema: no"
        return items
    settled: list[Item] = []
    for index, item in enumerate(items):
        following = items[index + 1] if index + 1 < len(items) else None
        kind = item.kind
        if kind in ("departed", "departure", "trend", "free", "prior"):
            if not _join(settled, item, following):
                settled.append(_alone(settled, item, following))
        elif kind == "answer" or (kind == "negation" and item.value == "no" and _is_answer(settled, following)):
            settled.append(_answer(settled, item))
        elif kind == "sign":
            # Right behind a finding it is the finding's, else that of the next one.
            if settled and settled[-1].kind == "comma" and settled[-1].value == "colon":
                settled.pop()
            behind = settled and settled[-1].kind in FINDING_KINDS | {"location"}
            after, before = {"absent": ("negation after", "negation"), "present": ("answered", "end")}[item.value]
            settled.append(item._replace(kind=after if behind else before, value=None))
        elif kind == "out":
            _rule_out(settled)
            settled.append(item._replace(kind="verb"))
        else:
            settled.append(item)
    return [_left_over(item) if item.kind in _UNSETTLED else item for item in settled]


def _left_over(item: Item) -> Item:
    kind = _LEFT_OVER.get(item.value, item.value or "word")
    return item._replace(kind=kind, value="severe" if item.value == "severe" else None)


def _join(settled: list[Item], item: Item, following: Item | None) -> bool:
    """Make one of this cue and the one that changes it, if one stands before it."""
    kind = item.value if item.value == "excluded" else item.kind
    if kind == "trend" and item.value != "noun" and following and following.kind in PHRASE_KINDS | {"observation"}:
        return False  # "no worsening effusion" denies an effusion
    passed = FILLERS | {"trend", "or", "and"} if kind == "trend" else FILLERS
    if kind == "prior":
        passed = frozenset({"preposition", "determiner"})
    for position in range(len(settled) - 1, -1, -1):
        first = settled[position]
        together = _TOGETHER.get((first.value if first.value == "ask" else first.kind, kind))
        if together:
            together = "verb" if kind == "trend" and first.value == "not" else together
            settled[position:] = [Item(together, None, first.start, item.end)]
            return True
        if first.kind not in passed:
            return False
    return False


def _alone(settled: Sequence[Item], item: Item, following: Item | None) -> Item:
    """What a departure denies: the finding before it ("effusion, now resolved"), else the one behind it."""
    if item.kind in ("departure", "free"):
        return item._replace(kind="negation", value=None)
    if item.kind != "departed":
        return item
    if item.value == "moved" and following and following.kind in ("measure", "word", "severity"):
        return item._replace(kind="verb", value=None)  # "withdrawn 2 cm" is still there
    between: set[str] = set()
    for before in reversed(settled):
        if before.kind in ("observation", "state"):
            leads_on = following and following.kind in (PHRASE_KINDS | {"observation"}) - {"change"}
            behind = not (leads_on and "comma" in between)
            return item._replace(kind="negation after", value=None) if behind else item._replace(**_NEAR)
        between.add(before.kind)
        if before.kind not in FILLERS | {"location", "preposition", "comma", "word", "measure", "prior"}:
            break
    return item._replace(**_NEAR)


_NEAR = {"kind": "negation", "value": "near"}


def _is_answer(settled: Sequence[Item], following: Item | None) -> bool:
    """Whether a bare "no" answers ("Edema: no") and does not deny what follows."""
    return bool(settled) and settled[-1].kind == "comma" and (following is None or following.kind == "comma")


def _answer(settled: Sequence[Item], item: Item) -> Item:
    """An answer speaks of the finding before it; without one it says nothing."""
    for before in reversed(settled):
        if before.kind in ("observation", "generic", "state"):
            return item._replace(kind="answered" if item.value == "present" else "negation after", value=None)
        if before.kind not in FILLERS | {"location", "preposition", "comma", "measure"}:
            break
    return item._replace(kind="word", value=None)


def _rule_out(settled: list[Item]) -> None:
    """ "Rules pneumonia out" denies; "does not rule it out" and "to rule it out" leave it open."""
    for position in range(len(settled) - 1, -1, -1):
        if settled[position].kind == "rule":
            before = settled[position - 1].kind if position else "uncertainty"
            kind = "uncertainty" if before in ("negation", "preposition", "uncertainty") else "negation"
            first = position - 1 if before == "negation" else position
            settled[first : position + 1] = [settled[position]._replace(kind=kind, value=None)]
            return
        if settled[position].kind in ("end", "comma", "with"):
            return
