"""The rule extractor: a radiology lexicon, spaCy's tokeniser and phrase matcher, and the rules of `clauses`."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language
from spacy.matcher import PhraseMatcher
from spacy.tokens import Doc

from lgdea_core.evidence.clauses import Item, Place, read_sentence
from lgdea_core.evidence.sections import readable_sections
from lgdea_core.finding import Finding

LEXICON_FILE = Path(__file__).with_name("lexicon.json")

STRONG_CUES = {
    "pseudo": "pseudo",
    "negation_after": "negation after",
    "uncertainty_after": "uncertainty after",
    "negation": "negation",
    "uncertainty": "uncertainty",
}
WEAK_CUES = {
    "skip": "skip",
    "end": "end",
    "with": "with",
    "linking": "linking",
    "verbs": "verb",
    "prepositions": "preposition",
    "determiners": "determiner",
    "changes": "change",
    "descriptors": "descriptor",
}
"""Lists of cue words in the lexicon -> kind of item; states, places, sides and grades stand between the two. Where a
term stands in two lists the first one counts."""

MARKS = {
    "comma": (",", "(", ")", ":"),
    "and": ("and", "&", "plus"),
    "or": ("or", "and/or"),
    "nor": ("nor",),
    "slash": ("/",),
    "versus": ("versus", "vs", "vs."),
}
SHORTEST_SWAP = 5
SHORTEST_SLIP = 7
"""Shorter words are not corrected for two swapped letters, or for a letter added, lost or changed."""

STOP_TOKENS = frozenset({".", "..", "...", ";", "!", "?", ".,"})
_BLOCK_END = re.compile(r"\n[ \t]*\n|\n(?=[ \t]*(?:\d+[.)]|[-*•])[ \t])|\n(?=[ \t]*[A-Z][A-Z ]+:)")


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """The parsed lexicon file: every term with its kind and meaning."""

    terms: dict[str, tuple[str, str | Place | None]]
    """lower-case term -> (kind of item, value)"""
    ordinary: frozenset[str]
    """words that look like a misspelt term and are none"""
    asg_tags: dict[str, str]
    """observation -> ASG tag where the names differ"""


def expand_term(term: str) -> list[str]:
    """All spellings of a term in the lexicon's notation: "(s)" is optional, "(y|ies)" a choice."""
    choices = [  # every second part stands in brackets
        [part] if position % 2 == 0 else (part.split("|") if "|" in part else [part, ""])
        for position, part in enumerate(re.split(r"\(([^()]*)\)", term))
    ]
    return list(dict.fromkeys(" ".join("".join(words).split()) for words in product(*choices)))


def load_lexicon(path: Path = LEXICON_FILE) -> Lexicon:
    """Read a lexicon file; where one term stands in several lists, the first list counts.

    Raises:
        ValueError: the file is no JSON or lacks a list.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}); check commas and quotes"
        ) from None
    try:
        terms: dict[str, tuple[str, str | Place | None]] = {}
        for kind, value, term in _entries(raw):
            for spelling in expand_term(term):
                terms.setdefault(spelling, (kind, value))
        return Lexicon(
            terms=terms,
            ordinary=frozenset(raw["ordinary"]["terms"]),
            asg_tags=_without_about(raw["asg_tags"]),
        )
    except KeyError as error:
        raise ValueError(
            f"{path}: the list {error} is missing; take it from the lexicon that came with lgdea"
        ) from None


def _without_about(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "about"}


def _entries(raw: dict[str, Any]) -> Iterator[tuple[str, str | Place | None, str]]:
    """(kind, value, term) of every line of the lexicon, in the order that settles conflicts."""
    for kind in ("observations", "normal", "generic"):
        for name, terms in _without_about(raw[kind]).items():
            yield from (("observation" if kind == "observations" else kind, name, term) for term in terms)
    yield from (("ignored", None, term) for term in raw["ignored"]["terms"])
    for kind, marks in MARKS.items():
        yield from ((kind, None, mark) for mark in marks)
    for list_name, kind in STRONG_CUES.items():
        yield from ((kind, None, term) for term in raw[list_name]["terms"])
    for name, terms in _without_about(raw["states"]).items():
        yield from (("state", name, term) for term in terms)
    for entry in _without_about(raw["places"]).values():
        place = Place(
            region=entry["region"],
            lateral=entry.get("lateral", False),
            side=entry.get("side"),
            states={state: tuple(meaning.items()) for state, meaning in entry.get("states", {}).items()},
        )
        yield from (("location", place, term) for term in entry["terms"])
    for kind, lists in (("location", raw["sides"]), ("severity", raw["severities"])):
        for name, terms in _without_about(lists).items():
            yield from ((kind, name, term) for term in terms)
    yield from (("descriptor", "companion", term) for term in raw["companions"]["terms"])
    for list_name, kind in WEAK_CUES.items():
        yield from ((kind, None, term) for term in raw[list_name]["terms"])


class Lexer:
    """Cuts text into lexicon items by spaCy's tokeniser and phrase matcher (case ignored, longest term first)."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.nlp: Language = spacy.blank("en")
        self._matcher = PhraseMatcher(self.nlp.vocab, attr="LOWER")
        self._meaning: dict[int, tuple[str, str | Place | None]] = {}
        self._words: set[str] = set(lexicon.ordinary)
        self._sound: set[int] = set()
        self._corrections: dict[str, str | None] = {}
        for number, (term, meaning) in enumerate(lexicon.terms.items()):
            if term:
                pattern = self.nlp.make_doc(term)
                self._matcher.add(str(number), [pattern])
                self._words.update(token.lower_ for token in pattern)
                self._meaning[self.nlp.vocab.strings[str(number)]] = meaning

        self._slips: dict[str, set[str]] = {}
        for word in self._words:
            if len(word) >= SHORTEST_SWAP and word.isalpha() and word not in lexicon.ordinary:
                for slip in _slips(word):
                    self._slips.setdefault(slip, set()).add(word)

    def sentences(self, doc: Doc) -> list[list[Item]]:
        """Items of one sentence after the other; unknown words become items too, stops end a sentence."""
        doc = self._spelled(doc)
        matches = sorted(self._matcher(doc), key=lambda match: (match[1], -match[2]))
        sentences: list[list[Item]] = [[]]
        position = 0
        for key, start, end in [*matches, (0, len(doc), len(doc))]:
            if start < position:
                continue
            for index in range(position, start):
                text = doc[index].text
                if text in STOP_TOKENS:
                    sentences.append([])
                else:
                    kind = "measure" if text[0].isdigit() else "word"
                    sentences[-1].append(Item(kind, None, index, index + 1))
            if start < end:
                sentences[-1].append(Item(*self._meaning[key], start, end))
            position = end
        return sentences

    def _spelled(self, doc: Doc) -> Doc:
        """The document with its misspelt words corrected, token by token; the same object where there is none."""
        unknown = set(doc.to_array("LOWER").tolist()) - self._sound
        if not unknown:
            return doc
        corrections = {word: self._correction(word) for word in map(self.nlp.vocab.strings.__getitem__, unknown)}
        self._sound.update(self.nlp.vocab.strings[word] for word, known in corrections.items() if known is None)
        if not any(corrections.values()):
            return doc
        words = [token.lower_ for token in doc]
        return Doc(self.nlp.vocab, words=[corrections.get(word) or word for word in words])

    def _correction(self, word: str) -> str | None:
        """The lexicon's word that is one slip away (a letter added, lost, changed, or two swapped), if only one is."""
        if len(word) < SHORTEST_SWAP or word in self._words:
            return None
        if word not in self._corrections:
            found = {known for key in _slips(word) for known in self._slips.get(key, ()) if known[0] == word[0]}
            near = {known for known in found if _one_edit_apart(word, known)}
            self._corrections[word] = next(iter(near)) if len(near) == 1 else None
        return self._corrections[word]


class LexiconExtractor:
    """Findings of reports by rules: fast, deterministic, offline, and open to correction in `lexicon.json`."""

    name = "lexicon"

    def __init__(self, lexicon: Lexicon | None = None) -> None:
        self._lexer = Lexer(lexicon or load_lexicon())

    def extract(self, reports: Sequence[str]) -> list[list[Finding]]:
        """Findings of each report, in the order of its text."""
        return [
            [
                finding
                for section in readable_sections(report)
                for start, end in _blocks(report, section.start, section.end)
                for finding in self._read_block(report, start, end, section.kind)
            ]
            for report in reports
        ]

    def _read_block(self, report: str, block_start: int, block_end: int, kind: str) -> Iterator[Finding]:
        text, offsets = _collapse_spaces(report[block_start:block_end])
        doc = self._lexer.nlp.make_doc(text)
        for sentence in self._lexer.sentences(doc):
            for draft in read_sentence(sentence):
                first, last = doc[draft.start].idx, doc[draft.end - 1].idx + len(doc[draft.end - 1]) - 1
                if offsets is not None:
                    first, last = offsets[first], offsets[last]
                start, end = block_start + first, block_start + last + 1
                yield Finding(
                    observation=draft.observation,
                    region=draft.region,
                    laterality=draft.side,
                    severity=draft.severity,
                    status=draft.status,
                    phrase=report[start:end],
                    start=start,
                    end=end,
                    section=kind,
                )


def _blocks(report: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Paragraphs and list entries: no sentence runs over their borders, but over a wrapped line it does."""
    for match in _BLOCK_END.finditer(report, start, end):
        if match.start() > start:
            yield start, match.start()
        start = match.end()
    if end > start:
        yield start, end


def _collapse_spaces(text: str) -> tuple[str, list[int] | None]:
    """The text with single blanks for white space, and for each character its old offset (None: unchanged)."""
    if "  " not in text and not re.search(r"[^\S ]", text):
        return text, None
    offsets = [i for i, char in enumerate(text) if not char.isspace() or (i and not text[i - 1].isspace())]
    return "".join(" " if text[i].isspace() else text[i] for i in offsets), offsets


def _slips(word: str) -> set[str]:
    """The word and all it leaves when one letter is lost: words one slip apart share one of them."""
    return {word, *(word[:i] + word[i + 1 :] for i in range(len(word)))}


def _one_edit_apart(word: str, other: str) -> bool:
    """One letter added, lost or changed, or two neighbours swapped."""
    short, long = sorted((word, other), key=len)
    if len(short) < len(long):
        return (
            len(long) - len(short) == 1
            and len(short) >= SHORTEST_SLIP
            and short in _slips(long)
            and long != short + "s"
        )
    differing = [i for i, (a, b) in enumerate(zip(word, other, strict=True)) if a != b]
    if len(differing) == 2:
        i, j = differing
        return j == i + 1 and word[i] == other[j] and word[j] == other[i]
    return len(differing) == 1 and len(word) >= SHORTEST_SLIP


@cache
def default_lexicon() -> Lexicon:
    """The lexicon that came with the package, read once."""
    return load_lexicon()


def asg_tag(observation: str) -> str:
    """ASG's name of an observation; its own name where ASG has no other."""
    return default_lexicon().asg_tags.get(observation, observation)
