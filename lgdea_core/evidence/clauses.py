"""Read one sentence of a report that was cut into lexicon items: who is where, how much, and whether."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from lgdea_core.vocabulary import LATERALITIES, NO_FINDING, REGIONS

PHRASE_KINDS = frozenset({"severity", "descriptor", "change", "location", "measure"})
"""Kinds of items that may stand before a finding inside its noun phrase."""

FINDING_KINDS = frozenset({"observation", "generic", "normal", "state"})
"""Kinds that can make a finding; a sentence without them says nothing."""

TRAILING = frozenset({"negation after", "uncertainty after", "unconfirmed", "uncertainty"})
"""Kinds that may speak of the findings before them."""

LINKS = frozenset({"and", "or", "slash", "comma"})
FINDING_LINKS = LINKS | {"versus", "nor"}
PASSED_FORWARDS = PHRASE_KINDS | {"verb", "and", "comma", "determiner", "uncertainty", "preposition"}
PASSED_BACKWARDS = PASSED_FORWARDS | {"negation", "or", "slash"}
"""Kinds of items between a state and its place: "clear [and well expanded] lungs", "heart size [is not] enlarged"."""
MOST_UNKNOWN_WORDS = 3
"""A place and its state ("the heart and XXXX are normal") may stand this many unknown words apart."""

CENTRAL = frozenset({"cardiomegaly", "enlarged cardiomediastinum", NO_FINDING, "hernia", "shift", "aerate"})
"""Observations that never inherit a side from their neighbour."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One entry of the lexicon's places."""

    region: str | None
    """Chest ImaGenome name; without its side where `lateral`"""
    lateral: bool
    """the region exists on both sides, so a side completes or doubles it"""
    side: str | None
    """side the term itself implies: "lingula" is left"""
    states: dict[str, tuple[tuple[str, str], ...]]
    """state word -> observations and their status"""


class Item(NamedTuple):
    """A run of tokens and what the lexicon calls it."""

    kind: str
    value: str | Place | None
    start: int
    end: int


class Draft(NamedTuple):
    """A finding in tokens; the extractor turns it into characters of the report."""

    observation: str
    status: str
    start: int
    end: int
    side: str | None
    region: str | None
    severity: str | None


@dataclass
class _Head:
    """A finding while the sentence is being read; its phrase is `items[first : last + 1]`."""

    observation: str
    status: str
    index: int
    first: int
    last: int
    unsure: bool = False
    """the sentence leaves it open, whatever else it says"""
    own_place: bool = False
    side: str | None = None
    region: str | None = None
    severity: str | None = None


def resolve_location(locations: Sequence[str | Place]) -> tuple[str | None, str | None]:
    """Side and Chest ImaGenome region of a phrase's place words.

    A region with two sides needs one: "lower lobe" alone, or on both sides, has no region. Of several places the
    first one finer than the whole lung counts.
    """
    if not locations:
        return None, None
    sides = {value if isinstance(value, str) else value.side for value in locations} - {None}
    places = [value for value in locations if isinstance(value, Place) and value.region]
    lateral = [place for place in places if place.lateral]
    if places and not lateral:
        return None, places[0].region
    side = "bilateral" if len(sides) > 1 else next(iter(sides), None)
    fine = [place for place in lateral if place.region != "lung"] or lateral
    region = f"{side} {fine[0].region}" if fine and side in ("left", "right") else None
    return side, region if region in REGIONS else None


def read_sentence(items: Sequence[Item]) -> list[Draft]:
    """All findings of one sentence in the order of the text."""
    present = {item.kind for item in items}
    if FINDING_KINDS.isdisjoint(present):
        return []
    claimed, states = _read_states(items)
    heads = _read_heads(items)
    floor = 0
    for head in heads:
        # A phrase begins behind the one before it, and behind any place and state before it.
        floor = max(floor, *(position + 1 for position in claimed if position < head.index), 0)
        if items[head.index].kind not in ("generic", "normal"):
            _extend(items, head, floor, claimed)
        floor = head.last + 1
    if not TRAILING.isdisjoint(present):
        _apply_trailing_cues(items, sorted((*heads, *states), key=lambda head: head.index))
    for head, following in pairwise(heads) if "versus" in present else ():
        # "Infiltrate versus atelectasis" doubts both; "scarring or atelectasis" asserts it and offers two names.
        kinds = {item.kind for item in items[head.index + 1 : following.index]}
        if "versus" in kinds and kinds <= PHRASE_KINDS | FINDING_LINKS | {"preposition", "determiner", "verb"}:
            for one in (head, following):
                one.status = "uncertain" if one.status == "present" else one.status
    for head, following in pairwise(heads) if "unsure" in present else ():
        # "It is unclear whether the opacity is pneumonia": the opacity is there.
        between = {item.kind for item in items[head.last + 1 : following.first]}
        named = head.first and items[head.first - 1].value == "the"
        if head.unsure and named and between & {"verb", "linking"} and between <= {"verb", "linking", "determiner"}:
            head.status = "present"
    for head in heads:
        _place(items, head)
    _share_places(items, heads, claimed)

    drafts = []
    for head in (*heads, *states):
        if head.status == "skip" or not head.observation:
            continue
        # A central finding has a side only with a region of that side ("the left lung is poorly aerated").
        sided = head.observation not in CENTRAL or (head.region or "").startswith(head.side or " ")
        side, severity = head.side if sided else None, None if head.status == "absent" else head.severity
        start, end = items[head.first].start, items[head.last].end
        drafts.append(Draft(head.observation, head.status, start, end, side, head.region, severity))
    return sorted(drafts, key=lambda draft: (draft.start, draft.end))


class _Scope:
    """Reach of the denial and the doubt that precede a finding, while a sentence is read from left to right."""

    def __init__(self) -> None:
        self.denied = self.doubted = self.skipped = self.used = self.near = self.unsure = self.relative = False
        self.denied_at = 0

    def status(self) -> str:
        if self.skipped or self.relative:
            return "skip"
        return "uncertain" if self.unsure else "absent" if self.denied else "uncertain" if self.doubted else "present"

    def read(self, items: Sequence[Item], index: int) -> None:
        kind, value = items[index][:2]
        if kind in ("negation", "instead", "nor"):
            if self.used or (index and items[index - 1].kind == "comma"):
                self.skipped = False  # "status post line placement without pneumothorax", "history of cancer, no edema"
            self.denied, self.doubted, self.used, self.denied_at = True, False, False, index
            self.near = value == "near"
        elif kind == "uncertainty":
            # "no opacity to suggest pneumonia" stays a denial; "no pneumothorax, possible effusion" does not
            if not self.denied or (index and items[index - 1].kind in LINKS):
                self.denied, self.doubted, self.used, self.near = False, True, False, value == "near"
        elif kind == "unsure":
            self.unsure = True
        elif kind == "skip":
            self.skipped, self.relative = True, self.relative or value == "relative"
        elif kind in ("end", "pseudo") or (kind == "with" and (self.used or not self.denied)):
            # "the film does not show an effusion" has not denied anything before "show"
            self.denied = self.doubted = self.skipped = False
            if kind == "end" and value != "there":
                self.unsure = self.relative = False
        elif kind in ("verb", "preposition") and self.near and not self.used:
            self.denied = self.doubted = self.near = False  # "CT rather than a film is advised for the nodule"
        elif value == "colon" and index and items[index - 1].kind not in ("negation", "uncertainty"):
            self.denied = self.doubted = False  # "the lung will not expand: large pneumothorax"
        elif kind in ("comma", "and") and self.used and index + 1 < len(items):
            # A link behind a finding that was denied or doubted: does the next one still belong to the list?
            following, rest = items[index + 1].kind, {item.kind for item in items[index + 1 :]}
            anew = following in ("severity", "change", "determiner") or (
                kind == "comma" and _has_side(items[index + 1])
            )
            if anew and not (self.denied and rest & {"or", "slash", "nor"}):
                # "no pneumothorax, stable edema" starts anew; "no nodule, large mass or edema" goes on to its "or"
                self.denied = self.doubted = False
            elif kind == "comma" and items[index - 1].kind in ("verb", "word") and not rest & {"or", "nor", "slash"}:
                self.denied = False  # "the absence of edema is reassuring, effusions persist"
            if kind == "comma" and not rest & {"or", "versus"}:
                self.doubted = False  # "possible pneumonia, left effusion": doubt needs an "or" to pass a comma
            if kind == "comma":
                self.skipped = False


def _has_side(item: Item) -> bool:
    """Whether an item says left, right or both: behind a comma it begins a new statement."""
    return item.kind == "location" and (isinstance(item.value, str) or item.value.side is not None)


def _read_heads(items: Sequence[Item]) -> list[_Head]:
    """Findings with the status that the words before them give (forward scope)."""
    heads, scope = [], _Scope()
    for index, item in enumerate(items):
        if item.kind in ("observation", "ignored"):
            heads.append(_Head(item.value or "", scope.status(), index, first=index, last=index, unsure=scope.unsure))
            scope.used = True
        elif item.kind in ("generic", "normal"):
            # "No acute abnormality" and "normal chest" say that all is well; an abnormality nobody denies says nothing.
            denied, generic = scope.status() == "absent", item.kind == "generic"
            if denied and generic and item.value == "bone":
                heads.append(_Head("fracture", "absent", index, first=index, last=index))
            elif denied == generic:
                first = scope.denied_at if denied else index
                heads.append(_Head(NO_FINDING, "present", index, first=first, last=index))
            scope.used = True
        elif item.kind not in PHRASE_KINDS:
            scope.read(items, index)
    return heads


def _apply_trailing_cues(items: Sequence[Item], heads: Sequence[_Head]) -> None:
    """Give "... is not seen", "... has resolved", "... is possible" to the findings they close.

    That is the finding before the cue, with any word and verb between, and those coordinated with it.
    """
    coordinating = PHRASE_KINDS | FINDING_LINKS | {"preposition", "determiner", "linking"}
    for index, item in enumerate(items):
        # a hedge ends its sentence ("pneumonia possible"); behind a verb it is a statement of its own
        hedge = item.kind == "uncertainty" and index + 1 == len(items) and index and items[index - 1].kind != "verb"
        if item.kind not in TRAILING or (item.kind == "uncertainty" and not hedge):
            continue
        passed, end = coordinating | {"verb", "word"}, index
        for head in reversed([head for head in heads if head.index < index]):
            if any(between.kind not in passed for between in items[head.index + 1 : end]):
                break
            if item.kind == "negation after":
                head.status = "uncertain" if head.unsure else "absent"
            elif head.status == "present" or item.kind == "unconfirmed":
                head.status = "uncertain"
            passed, end = coordinating, head.index


def _read_states(items: Sequence[Item]) -> tuple[set[int], list[_Head]]:
    """Findings that a place and its state make ("heart size is normal"); and the items they use up."""
    claimed: set[int] = set()
    heads: list[_Head] = []
    named: Place | None = None
    for index, item in enumerate(items):
        if item.kind != "state":
            continue
        # The places it speaks of stand before it ("lungs are clear"), else after it ("clear lungs").
        follows = index + 1 < len(items) and items[index + 1].kind in ("location", "descriptor", "preposition")
        leads = index and items[index - 1].kind in ("determiner", "negation", "with", "comma", "and", "change")
        first, second = (+1, -1) if (follows and leads) or index == 0 else (-1, +1)
        places = _places_of_state(items, index, first) or _places_of_state(items, index, second)
        behind = index - 2 if index > 1 and items[index - 1].kind == "verb" else index - 1
        side = items[behind].value if behind >= 0 else None
        if not places and named is not None and side in LATERALITIES:
            # "the left costophrenic angle is sharp, the right blunted"
            for observation, status in named.states.get(item.value, ()):
                heads.append(_Head(observation, status, index, first=behind, last=index))
                heads[-1].side, heads[-1].region = resolve_location([side, named])
            claimed.update(range(behind, index + 1))
        for place in places:
            named = items[place].value
            for observation, status in items[place].value.states.get(item.value, ()):
                heads.append(_state_head(items, observation, status, place, index))
                claimed.update(range(min(place, index), max(place, index) + 1))
    return claimed, heads


def _places_of_state(items: Sequence[Item], index: int, step: int) -> list[int]:
    """Indices of the places with states on one side of a state word, as far as passable items reach."""
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


def _state_head(items: Sequence[Item], observation: str, status: str, place: int, state: int) -> _Head:
    """The finding of a place and its state; what denies or doubts them stands between or right before them."""
    first, last = min(place, state), max(place, state)
    inner = {item.kind for item in items[first : last + 1]}
    if "negation" in inner or (first and items[first - 1].kind == "negation"):
        status = "skip" if observation == NO_FINDING else status
        status = "absent" if status == "present" else "skip"  # "not clear" is no finding
    elif status == "present":
        before = first
        while before and items[before - 1].kind in ("determiner", "change", "descriptor", "location", "severity"):
            before -= 1
        if "uncertainty" in inner or (before and items[before - 1].kind == "uncertainty"):
            status = "uncertain"
    if any(item.kind == "unsure" for item in items[:first]):
        status = "uncertain"
    elif any(item.value == "relative" for item in items[:first]):
        status = "skip"
    while first and items[first - 1].kind in ("location", "severity"):
        first -= 1
    head = _Head(observation, status, state, first=first, last=last)
    _place(items, head)
    head.region = "cardiac silhouette" if observation == "cardiomegaly" else head.region
    return head


def _extend(items: Sequence[Item], head: _Head, floor: int, claimed: set[int]) -> None:
    """Grow a head to its noun phrase: modifiers before it, places and a grade after it."""
    while head.first - 1 >= floor:
        before, behind = items[head.first - 1], items[head.first]
        if before.kind in PHRASE_KINDS:
            head.first -= 1
            continue
        if head.first - 2 < floor or before.kind not in LINKS:
            break
        # Two modifiers of one noun: "right and left", "small, loculated". Places join places only, and one that is
        # of both sides already ("bibasilar and left") ends the phrase.
        left = items[head.first - 2]
        if "location" in (left.kind, behind.kind):
            both = isinstance(left.value, Place) and left.value.side == "bilateral"
            joins = left.kind == behind.kind and not both
        else:
            joins = left.kind in PHRASE_KINDS and behind.kind in PHRASE_KINDS
        if not joins:
            break
        head.first -= 2

    while head.last + 1 < len(items):
        end = _location_after(items, head.last + 1, claimed)
        if end is None:
            break
        head.last = end

    # What is added behind a verb or a comma ("is small", ", small, on the left"), if no further noun follows it.
    position, begun = head.last + 1, False
    while position < len(items):
        kind = items[position].kind
        if kind in ("verb", "change", "comma", "answered", "preposition", "determiner", "measure", "descriptor"):
            begun = begun or kind in ("verb", "change", "comma", "answered")
            position += 1
            continue
        if not begun or not (kind == "severity" or _has_side(items[position])):
            break
        end = position
        while end < len(items) and items[end].kind in PHRASE_KINDS:
            end += 1
        after = items[end].kind if end < len(items) else "end"
        if any(item.kind == "change" for item in items[position:end]):
            break  # "have slightly improved"
        if end < len(items) and items[end].value == "there":
            break  # "at the left base there is"
        if after not in (*LINKS, "end", "with", "preposition", "negation"):
            break
        head.last = position = end - 1
        position += 1


def _location_after(items: Sequence[Item], position: int, claimed: set[int]) -> int | None:
    """Index of the last item of the place that begins here ("in the right lower lobe"), or None."""
    # Linked: behind a verb or a comma; prepared: behind a preposition ("is seen in the"). A place that is linked only
    # belongs to what follows ("effusion, left opacity"), unless it says no more than "bilateral".
    linked = prepared = False
    count = len(items)
    while position < count and items[position].kind in ("verb", "comma", "and", "slash", "change", "negation after"):
        linked, position = True, position + 1
    while position < count and (
        items[position].kind in ("preposition", "determiner", "answered") or items[position].value == "companion"
    ):
        prepared, position = prepared or items[position].kind != "determiner", position + 1
    found = None
    while position < count and position not in claimed and items[position].kind in PHRASE_KINDS:
        found = position if items[position].kind == "location" else found
        position += 1
    if found is None or (linked and not prepared and items[found][:2] != ("location", "bilateral")):
        return None
    # A place before another noun is that noun's ("effusion and right lower lobe opacity").
    leads_on = position < count and (
        items[position].kind in ("observation", "state", "generic") or (linked and items[position].value == "there")
    )
    return None if leads_on and not (prepared and not linked) else found


def _place(items: Sequence[Item], head: _Head) -> None:
    """Side, region and severity from the items of the phrase."""
    inside = items[head.first : head.last + 1]
    locations = [item.value for item in inside if item.kind == "location"]
    head.own_place = bool(locations)
    head.side, head.region = resolve_location(locations)
    severities = [item.value for item in inside if item.kind == "severity"]
    head.severity = severities[-1] if severities else None


def _share_places(items: Sequence[Item], heads: Sequence[_Head], claimed: set[int]) -> None:
    """Hand a place to coordinated findings that have none, then a clause's place to its findings."""

    def coordinated(head: _Head, following: _Head) -> bool:
        kinds = [item.kind for item in items[head.last + 1 : following.first]]
        passed = FINDING_LINKS | {"with", "determiner"} | ({"verb"} if "versus" in kinds else set())
        return bool(kinds) and passed.issuperset(kinds)

    def inherit(head: _Head, source: _Head) -> None:
        if head.observation not in CENTRAL and source.observation not in CENTRAL:
            head.side, head.region, head.own_place = source.side, source.region, True

    # Backwards, from a place that stands behind its noun: "effusion and atelectasis at the left base".
    for head, following in reversed(list(pairwise(heads))):
        behind = following.own_place and following.last > following.index
        if behind and not head.own_place and coordinated(head, following):
            inherit(head, following)
    # Forwards, to a bare noun: "right effusion with [adjacent] atelectasis".
    for head, following in pairwise(heads):
        bare = following.first == following.index or items[following.first].value == "companion"
        if bare and head.own_place and not following.own_place and coordinated(head, following):
            inherit(following, head)
    # The place before the finding in its clause: "in the right lower lobe there is an opacity".
    without = [head for head in heads if not head.own_place and head.observation not in CENTRAL]
    used = claimed.union(*(range(head.first, head.last + 1) for head in heads)) if without else claimed
    for head in without:
        locations = []
        for position in range(head.first - 1, -1, -1):
            kind = items[position].kind
            if kind in ("state", "semicolon") or position in used or (locations and kind in ("observation", "comma")):
                break
            if kind == "location":
                locations.insert(0, items[position].value)
        # "The lungs are free of edema" names no side, "the lungs show opacities" both.
        whole = head.status == "absent" and all(
            isinstance(value, Place) and value.region == "lung" for value in locations
        )
        if not whole and any(isinstance(value, str) or value.lateral for value in locations):
            head.side, head.region = resolve_location(locations)
