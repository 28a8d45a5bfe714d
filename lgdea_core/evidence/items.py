"""What the rule extractor reads a sentence as: items of the lexicon, and the places they name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lgdea_core.vocabulary import REGIONS


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


def resolve_location(locations: Sequence[str | Place]) -> tuple[str | None, str | None]:
    """Side and Chest ImaGenome region of a phrase's place words.

    A region with two sides needs one: "lower lobe" alone, or on both sides, has no region. Of several places the
    first one finer than the whole lung counts.
    """
    sides = {value if isinstance(value, str) else value.side for value in locations} - {None}
    places = [value for value in locations if isinstance(value, Place) and value.region]
    lateral = [place for place in places if place.lateral]
    if places and not lateral:
        return None, places[0].region
    side = "bilateral" if len(sides) > 1 else next(iter(sides), None)
    fine = [place for place in lateral if place.region != "lung"] or lateral
    region = f"{side} {fine[0].region}" if fine and side in ("left", "right") else None
    return side, region if region in REGIONS else None
