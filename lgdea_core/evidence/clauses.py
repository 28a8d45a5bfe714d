"""Read one sentence of a report that was cut into lexicon items: who is where, how much, and whether."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lgdea_core.evidence.items import Draft, Item, Place, resolve_location
from lgdea_core.vocabulary import NO_FINDING

PHRASE_KINDS = frozenset({"severity", "descriptor", "change", "location", "measure"})
"""Kinds of items that may stand before a finding inside its noun phrase."""

FINDING_KINDS = frozenset({"observation", "generic", "normal", "state"})
"""Kinds that can make a finding; a sentence without them says nothing."""

LINKS = frozenset({"and", "or", "slash", "comma"})
FINDING_LINKS = LINKS | {"versus", "nor"}
PASSED_FORWARDS = PHRASE_KINDS | {"verb", "and", "comma", "determiner", "uncertainty", "preposition"}
PASSED_BACKWARDS = PASSED_FORWARDS | {"negation", "or", "slash"}
"""Kinds of items between a state and its place: "clear [and well expanded] lungs", "heart size [is not] enlarged"."""
MOST_UNKNOWN_WORDS = 3
"""A place and its state ("the heart and XXXX are normal") may stand this many unknown words apart."""

CENTRAL = frozenset({"cardiomegaly", "enlarged cardiomediastinum", NO_FINDING, "hernia", "shift", "aerate"})
"""Observations that never inherit a side from their neighbour."""


@dataclass(kw_only=True)
class _Head:
    """A finding while the sentence is being read."""

    observation: str
    index: int
    status: str
    first: int
    last: int
    own_place: bool = False
    side: str | None = None
    region: str | None = None
    severity: str | None = None


def read_sentence(items: Sequence[Item]) -> list[Draft]:
    """All findings of one sentence in the order of the text."""
    if FINDING_KINDS.isdisjoint(item.kind for item in items):
        return []
    claimed, from_states = _read_states(items)
    heads = _read_heads(items)
    floor = 0
    for head in heads:
        _extend(items, head, max(floor, _barrier(claimed, head.index)), claimed)
        floor = head.last + 1
    _apply_trailing_cues(items, sorted((*heads, *from_states), key=lambda head: head.index))
    _open_alternatives(items, heads)
    for head in heads:
        _place(items, head)
    _share_places(items, heads, claimed)
    drafts = [_finish(items, head) for head in (*heads, *from_states) if head.status != "skip" and head.observation]
    return sorted(drafts, key=lambda draft: (draft.start, draft.end))


def _read_heads(items: Sequence[Item]) -> list[_Head]:
    """Findings with the status that the words before them give (forward scope)."""
    heads, scope = [], _Scope()
    for index, item in enumerate(items):
        if item.kind in ("observation", "ignored"):
            head = _Head(observation=item.value or "", index=index, status=scope.status(), first=index, last=index)
            heads.append(head)
            scope.used = True
        elif item.kind in ("generic", "normal"):
            head = _normal_statement(item, index, scope)
            heads += [head] if head else []
            scope.used = True
        else:
            scope.read(items, index)
    return heads


def _normal_statement(item: Item, index: int, scope: "_Scope") -> _Head | None:
    """Make a finding of "no acute abnormality" or "normal chest"; an abnormality nobody denies says nothing."""
    denied = scope.status() == "absent"
    if item.kind == "normal":
        return None if denied else _Head(observation=NO_FINDING, index=index, status="present", first=index, last=index)
    if not denied:
        return None
    if item.value == "bone":
        return _Head(observation="fracture", index=index, status="absent", first=index, last=index)
    return _Head(observation=NO_FINDING, index=index, status="present", first=scope.denied_at, last=index)


class _Scope:
    """Reach of the denial and the doubt that precede a finding, while a sentence is read from left to right."""

    def __init__(self) -> None:
        self.denied = self.doubted = self.skipped = self.used = False
        self.denied_at = 0

    def status(self) -> str:
        if self.skipped:
            return "skip"
        return "absent" if self.denied else "uncertain" if self.doubted else "present"

    def read(self, items: Sequence[Item], index: int) -> None:
        kind = items[index].kind
        if kind in ("negation", "nor"):
            self.denied, self.doubted, self.used, self.denied_at = True, False, False, index
        elif kind == "uncertainty":
            if not self.denied or (index and items[index - 1].kind in LINKS):
                self.denied, self.doubted, self.used = False, True, False
        elif kind == "skip":
            self.skipped = True
        elif kind in ("end", "with", "pseudo"):
            self.denied = self.doubted = self.skipped = False
        elif kind in ("comma", "and") and self.used and index + 1 < len(items):
            self._read_link(items, index)

    def _read_link(self, items: Sequence[Item], index: int) -> None:
        following = items[index + 1].kind
        rest = {item.kind for item in items[index + 1 :]}
        if following in ("severity", "change", "determiner") and not (self.denied and rest & {"or", "slash", "nor"}):
            self.denied = self.doubted = False
        elif items[index].kind == "comma" and not rest & {"or", "versus"}:
            self.doubted = False
        if items[index].kind == "comma":
            self.skipped = False


def _apply_trailing_cues(items: Sequence[Item], heads: list[_Head]) -> None:
    """Give "... is not seen", "... has resolved", "... is possible" to the findings they close."""
    for index, item in enumerate(items):
        hedge = item.kind == "uncertainty" and index + 1 == len(items) and index and items[index - 1].kind != "verb"
        if item.kind not in ("negation after", "uncertainty after") and not hedge:
            continue
        chain = _chain_before(items, heads, index)
        for head in chain:
            if item.kind == "negation after":
                head.status = "absent"
            elif head.status == "present":
                head.status = "uncertain"


def _chain_before(items: Sequence[Item], heads: list[_Head], index: int) -> list[_Head]:
    """The finding before a trailing cue and those coordinated with it."""
    chain: list[_Head] = []
    for head in reversed([head for head in heads if head.index < index]):
        between = items[head.index + 1 : chain[-1].index if chain else index]
        allowed = PHRASE_KINDS | FINDING_LINKS | {"preposition", "determiner", "linking"}
        if any(item.kind not in allowed | (set() if chain else {"verb", "word"}) for item in between):
            break
        chain.append(head)
    return chain


def _open_alternatives(items: Sequence[Item], heads: list[_Head]) -> None:
    """Doubt both of "infiltrate versus atelectasis"; "scarring or atelectasis" asserts it and offers two names."""
    for head, following in pairwise(heads):
        kinds = {item.kind for item in items[head.index + 1 : following.index]}
        if "versus" in kinds and kinds <= PHRASE_KINDS | FINDING_LINKS | {"preposition", "determiner"}:
            for one in (head, following):
                one.status = "uncertain" if one.status == "present" else one.status


def _read_states(items: Sequence[Item]) -> tuple[set[int], list[_Head]]:
    """Findings that a place and its state make ("heart size is normal"); and the items they use up."""
    claimed: set[int] = set()
    heads: list[_Head] = []
    for index, item in enumerate(items):
        if item.kind != "state":
            continue
        subjects = _subjects(items, index)
        for place_index in subjects:
            first, last = min(place_index, index), max(place_index, index)
            for observation, status in items[place_index].value.states.get(item.value, ()):
                heads.append(_state_head(items, observation, status, first, last, index))
                claimed.update(range(first, last + 1))
    return claimed, heads


def _subjects(items: Sequence[Item], index: int) -> list[int]:
    """Indices of the places a state word speaks of: before it ("lungs are clear"), else after it ("clear lungs")."""
    follows = index + 1 < len(items) and items[index + 1].kind in ("location", "descriptor", "preposition")
    leads = index and items[index - 1].kind in ("determiner", "negation", "with", "comma", "and", "change")
    first, second = (+1, -1) if (follows and leads) or index == 0 else (-1, +1)
    return _scan(items, index, first) or _scan(items, index, second)


def _scan(items: Sequence[Item], index: int, step: int) -> list[int]:
    passed = PASSED_BACKWARDS if step < 0 else PASSED_FORWARDS
    found, unknown, position = [], 0, index + step
    while 0 <= position < len(items):
        kind, value = items[position][:2]
        if kind == "location":
            found += [position] if isinstance(value, Place) and value.states else []
        elif kind == "word":
            unknown += 1
            if unknown > MOST_UNKNOWN_WORDS:
                break
        elif kind not in passed:
            break
        position += step
    return found


def _state_head(items: Sequence[Item], observation: str, status: str, first: int, last: int, state: int) -> _Head:
    inner = {item.kind for item in items[first : last + 1]}
    before = items[first - 1].kind if first else None
    denied = "negation" in inner or (state == first and before == "negation")
    if denied:
        status = "absent" if status == "present" else "skip"
    elif status == "present" and ("uncertainty" in inner or _doubted_before(items, first)):
        status = "uncertain"
    while first and items[first - 1].kind in ("location", "severity"):
        first -= 1
    head = _Head(observation=observation, index=state, status=status, first=first, last=last)
    _place(items, head)
    head.region = "cardiac silhouette" if observation == "cardiomegaly" else head.region
    return head


def _doubted_before(items: Sequence[Item], first: int) -> bool:
    while first and items[first - 1].kind in ("determiner", "change", "descriptor", "location", "severity"):
        first -= 1
    return bool(first) and items[first - 1].kind == "uncertainty"


def _barrier(claimed: set[int], index: int) -> int:
    return max((position + 1 for position in claimed if position < index), default=0)


def _extend(items: Sequence[Item], head: _Head, floor: int, claimed: set[int]) -> None:
    """Grow a head to its noun phrase: modifiers before it, place after it."""
    if items[head.index].kind in ("generic", "normal"):
        return
    head.first = _left_end(items, head.index, floor)
    head.last = _grade_after(items, _right_end(items, head.index, claimed))


def _left_end(items: Sequence[Item], index: int, floor: int) -> int:
    first = index
    while first - 1 >= floor:
        before = items[first - 1]
        if before.kind in PHRASE_KINDS:
            first -= 1
        elif first - 2 >= floor and before.kind in LINKS and _joins(items[first - 2], items[first]):
            first -= 2
        else:
            break
    return first


def _joins(left: Item, right: Item) -> bool:
    """Whether "left and right" are two modifiers of one noun: "right and left", "small, loculated"."""
    if "location" in (left.kind, right.kind):
        return left.kind == right.kind and not (isinstance(left.value, Place) and left.value.side == "bilateral")
    return left.kind in PHRASE_KINDS and right.kind in PHRASE_KINDS


def _right_end(items: Sequence[Item], index: int, claimed: set[int]) -> int:
    last, position = index, index + 1
    while position < len(items):
        end = _location_after(items, position, claimed)
        if end is None:
            return last
        last, position = end, end + 1
    return last


def _grade_after(items: Sequence[Item], last: int) -> int:
    """Take in a grade behind the verb ("the effusion is small") if no further noun follows it."""
    position = last + 1
    while position < len(items) and items[position].kind in ("verb", "change"):
        position += 1
    if position == last + 1 or position == len(items) or items[position].kind != "severity":
        return last
    ends = position + 1 == len(items) or items[position + 1].kind in (*LINKS, "end", "with", "preposition")
    return position if ends else last


def _location_after(items: Sequence[Item], position: int, claimed: set[int]) -> int | None:
    """Index of the last item of the place that begins here ("in the right lower lobe"), or None."""
    linked = prepared = False
    count = len(items)
    while position < count and items[position].kind in ("verb", "comma", "and", "slash", "change"):
        linked, position = True, position + 1
    while position < count and (
        items[position].kind in ("preposition", "determiner") or _is_companion(items[position])
    ):
        prepared, position = prepared or items[position].kind != "determiner", position + 1
    found = None
    while position < count and position not in claimed and items[position].kind in PHRASE_KINDS:
        found = position if items[position].kind == "location" else found
        position += 1
    if found is None or (linked and not prepared and not _is_plain_side(items[found])):
        return None
    leads_on = position < count and items[position].kind in ("observation", "state", "generic")
    return None if leads_on and not (prepared and not linked) else found


def _is_companion(item: Item) -> bool:
    return item.value == "companion"


def _is_plain_side(item: Item) -> bool:
    return item.kind == "location" and item.value == "bilateral"


def _place(items: Sequence[Item], head: _Head) -> None:
    """Side, region and severity from the items of the phrase."""
    inside = items[head.first : head.last + 1]
    locations = [item.value for item in inside if item.kind == "location"]
    head.own_place = bool(locations)
    head.side, head.region = resolve_location(locations)
    severities = [item.value for item in inside if item.kind == "severity"]
    head.severity = severities[-1] if severities else None


def _share_places(items: Sequence[Item], heads: list[_Head], claimed: set[int]) -> None:
    """Hand a place to coordinated findings that have none, then a clause's place to its findings."""
    for head, following in reversed(list(pairwise(heads))):
        if not head.own_place and following.own_place and _coordinated(items, head, following):
            tail = following.last > following.index
            _inherit(head, following) if tail else None
    for head, following in pairwise(heads):
        plain = following.first == following.index or _is_companion(items[following.first])
        if not following.own_place and head.own_place and plain and _coordinated(items, head, following):
            _inherit(following, head)
    for head in heads:
        if not head.own_place:
            _take_leading_place(items, heads, head, claimed)


def _inherit(head: _Head, source: _Head) -> None:
    if head.observation in CENTRAL or source.observation in CENTRAL:
        return
    head.side, head.region, head.own_place = source.side, source.region, True


def _coordinated(items: Sequence[Item], head: _Head, following: _Head) -> bool:
    kinds = [item.kind for item in items[head.last + 1 : following.first]]
    return bool(kinds) and all(kind in FINDING_LINKS | {"with", "determiner"} for kind in kinds)


def _take_leading_place(items: Sequence[Item], heads: list[_Head], head: _Head, claimed: set[int]) -> None:
    """Take the place that stands before the finding in its clause: "in the right lower lobe there is an opacity"."""
    if head.observation in CENTRAL:
        return
    used = {position for other in heads for position in range(other.first, other.last + 1)} | claimed
    locations = []
    for position in range(head.first - 1, -1, -1):
        if items[position].kind in ("observation", "state", "comma") and locations:
            break
        if items[position].kind in ("state", "semicolon") or position in used:
            break
        if items[position].kind == "location":
            locations.insert(0, items[position].value)
    if any(isinstance(value, str) or value.lateral for value in locations):
        head.side, head.region = resolve_location(locations)


def _finish(items: Sequence[Item], head: _Head) -> Draft:
    first, last = head.first, head.last
    sided = head.observation not in CENTRAL or (head.region or "").startswith(head.side or " ")
    side = head.side if sided else None
    severity = None if head.status == "absent" else head.severity
    return Draft(head.observation, head.status, items[first].start, items[last].end, side, head.region, severity)
