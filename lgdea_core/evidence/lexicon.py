"""The rule extractor: a radiology lexicon, spaCy's tokeniser and phrase matcher, and the rules of `clauses`."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language
from spacy.matcher import PhraseMatcher
from spacy.symbols import NORM, ORTH
from spacy.tokens import Doc

from lgdea_core.evidence.clauses import FINDING_KINDS, Draft, Item, Place, read_sentence
from lgdea_core.evidence.cues import settle_cues
from lgdea_core.evidence.sections import readable_sections
from lgdea_core.finding import Finding

LEXICON_FILE = Path(__file__).with_name("lexicon.json")

STRONG_CUES = {
    "pseudo": "pseudo",
    "negation_after": "negation after",
    "unconfirmed": "unconfirmed",
    "uncertainty_after": "uncertainty after",
    "unsure": "unsure",
    "negation": "negation",
    "free": "free",
    "uncertainty": "uncertainty",
    "instead": "instead",
    "answers": "answer",
    "departed": "departed",
    "departure": "departure",
    "purpose": "purpose",
    "partly": "partly",
    "trend": "trend",
    "prior": "prior",
}
WEAK_CUES = {
    "companions": "descriptor",
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

LESS_LIKELY = tuple(f"{verb} less likely than" for verb in ("is", "are", "seems", "seem", "appears"))
MARKS = {
    "comma": (",", "(", ")"),
    "colon": (":",),
    "and": ("and", "&", "plus", "+"),
    "or": ("or", "and/or"),
    "nor": ("nor",),
    "slash": ("/",),
    "versus": ("versus", "vs", "vs.", "less likely than", "more likely than", *LESS_LIKELY),
    "rule": ("rule", "rules", "ruled"),
    "out": ("out",),
}
SIGNS = {"(-)": "absent", "(+)": "present"}
SHORTEST_SWAP = 5
SHORTEST_SLIP = 7
"""Shorter words are not corrected for two swapped letters, or for a letter added, lost or changed."""

PIECES_KEPT = 2**14
"""Pieces of text whose findings are remembered, some ten megabytes."""

STOP_TOKENS = frozenset({".", "..", "...", ";", "!", ".,"})
_GLUED = re.compile(
    r"\.(?=[A-Za-z0-9])(?<=[A-Za-z]{2}.)|[,;:?](?=[A-Za-z])(?<=[A-Za-z].)|[.)](?=[A-Za-z])(?<=\d.)"
    r"|\.(?=$|\s+[A-Z])(?<=\b[LR].)|\([+-]\)|(?<=[a-z])\d\)(?=[A-Z])"
)
"""Stops without a blank behind them, stops behind "L" and "R", and signs: "1.No effusion.2.Mild edema", "Edema(-)"."""

_UNEVEN = re.compile(rf"(?=[\s.,;:?()\d])(?:\s\s|[^\S ]|{_GLUED.pattern})")
"""What `_even_text` changes. The look ahead rules most characters out at once."""

_RUN = re.compile(r"(\S+)|\s+")
_ABBREVIATION = re.compile(r"[A-Za-z]{2,}\.(?!\S)")
_LINE_START = re.compile(r"\n\s*(?=[A-Z(+?-])")

ENDS_LINE = frozenset({"observation", "ignored", "generic", "normal", "state", "negation after", "answer", "departed"})
"""Kinds behind which a line may end its statement without a full stop."""
GOES_ON = frozenset(
    {"and", "or", "nor", "slash", "versus", "comma", "negation", "uncertainty", "instead", "unsure", "with", "linking"}
    | {"preposition", "determiner", "descriptor", "severity", "trend", "partly", "departure", "purpose", "free", "skip"}
)
"""Kinds behind which a statement goes on in the next line, even where that begins with a capital."""
_BLOCK_END = re.compile(r"\n[ \t]*\n|\n(?=[ \t]*(?:\d+[.)](?!\d)|[-*•][ \t]))|\n(?=[ \t]*[A-Z][A-Z ]+:)")


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """The parsed lexicon file: every term with its kind and meaning."""

    terms: dict[str, tuple[str, str | Place | None]]
    """term -> (kind of item, value); one in capitals counts only where the report has capitals too"""
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
        terms: dict[str, tuple[str, str | Place | None]] = {sign: ("sign", value) for sign, value in SIGNS.items()}
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
        yield from (("comma", "colon", mark) if kind == "colon" else (kind, None, mark) for mark in marks)
    yield from _cues(raw, STRONG_CUES)
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
    yield from _cues(raw, WEAK_CUES)


def _cues(raw: dict[str, Any], kinds: dict[str, str]) -> Iterator[tuple[str, str | None, str]]:
    for list_name, kind in kinds.items():
        for rule in raw[list_name]["rules"]:
            yield from ((kind, rule.get("name"), term) for term in rule["terms"])


class Lexer:
    """Cuts text into lexicon items by spaCy's tokeniser and phrase matcher (longest term first).

    Terms match by spaCy's norms: case is ignored, and its exceptions write "doesn't" and "can’t" out.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self.nlp: Language = spacy.blank("en")
        norm = self.nlp.vocab.lex_attr_getters[NORM]
        self.nlp.vocab.lex_attr_getters = {NORM: norm}  # nothing else of a new word is read, such as its shape
        for text, parts in list(self.nlp.tokenizer.rules.items()):
            if any(part.get(NORM) == "not" for part in parts):  # spaCy has no contractions in capitals
                self.nlp.tokenizer.add_special_case(text.upper(), [part | {ORTH: part[ORTH].upper()} for part in parts])
        # A stop behind a word ends a sentence, if that is no abbreviation of spaCy's or the lexicon's ("vs.").
        abbreviations = {re.escape(term) for term in self.nlp.tokenizer.rules if _ABBREVIATION.fullmatch(term)}
        abbreviations |= {f"(?i:{re.escape(word)})" for term in lexicon.terms for word in _ABBREVIATION.findall(term)}
        behind_none = "".join(rf"(?<!\b{word} )" for word in sorted(abbreviations))
        self._stop = re.compile(rf"\. (?=\w)(?<=[a-z]{{2}}\. |[A-Z]{{2}}\. ){behind_none}")
        self._matcher = PhraseMatcher(self.nlp.vocab, attr="NORM")
        self._meaning: dict[int, tuple[str, str | Place | None]] = {}
        self._capitals: set[int] = set()
        self._words: set[str] = set(lexicon.ordinary)
        self._sound: set[int] = set()
        self._corrections: dict[str, str | None] = {}
        for number, (term, meaning) in enumerate(lexicon.terms.items()):
            if term:
                pattern = self.nlp.make_doc(term)
                self._matcher.add(str(number), [pattern])
                self._words.update(token.norm_ for token in pattern)
                key = self.nlp.vocab.strings[str(number)]
                self._meaning[key] = meaning
                if term.isupper():
                    self._capitals.add(key)

        self._slips: dict[str, set[str]] = {}
        for word in self._words:
            if len(word) >= SHORTEST_SWAP and word.isalpha() and word not in lexicon.ordinary:
                for slip in _slips(word):
                    self._slips.setdefault(slip, set()).add(word)

    def pieces(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of parts that can be read alone: cut where a sentence surely ends, so some hold several."""
        begin = 0
        for stop in self._stop.finditer(text):
            yield begin, stop.end() - 1
            begin = stop.end()
        yield begin, len(text)

    def sentences(self, doc: Doc, line_starts: frozenset[int] = frozenset()) -> list[Sequence[Item]]:
        """Items of one sentence after the other; unknown words become items too.

        Stops end a sentence, and so does a question, or a line that says enough.

        Args:
            doc: the text's tokens.
            line_starts: tokens that begin a line of the report with a capital or a sign.
        """
        longest: dict[int, tuple[int, bool, int]] = {}
        for key, start, end in self._matcher(self._spelled(doc)):
            capital = key in self._capitals
            if capital and not _is_abbreviation(doc, start):
                continue
            match = (-end, not capital, key)  # "CM" before "cm", which is found with it
            if start not in longest or match < longest[start]:
                longest[start] = match
        sentences: list[list[Item]] = [[]]
        position, count, asks = 0, len(doc), False
        while position < count:
            if position in longest:
                minus_end, _, key = longest[position]
                sentences[-1].append(Item(*self._meaning[key], position, -minus_end))
                position = -minus_end
                continue
            text = doc[position].text
            if text in STOP_TOKENS:
                sentences.append([])
            else:
                sentences[-1].append(Item(*_unknown(doc, position, text), position, position + 1))
                asks = asks or text == "?"
            position += 1
        if line_starts:
            sentences = [part for sentence in sentences for part in _split_lines(sentence, line_starts, doc)]
        if asks:
            sentences = [part for sentence in sentences for part in _split_questions(sentence)]
        return [settle_cues(sentence) for sentence in sentences if sentence]

    def _spelled(self, doc: Doc) -> Doc:
        """The document with its misspelt words corrected, token by token; the same object where there is none."""
        unknown = {token.norm for token in doc} - self._sound
        if not unknown:
            return doc
        corrections = {word: self._correction(word) for word in map(self.nlp.vocab.strings.__getitem__, unknown)}
        self._sound.update(self.nlp.vocab.strings[word] for word, known in corrections.items() if known is None)
        if not any(corrections.values()):
            return doc
        words = [token.norm_ for token in doc]
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


def _unknown(doc: Doc, index: int, text: str) -> tuple[str, str | None]:
    """Kind and value of a token that no term of the lexicon holds."""
    if text == "?":
        glued = not doc[index].whitespace_ and index + 1 < len(doc)
        return "question", "before" if glued else None
    if text == "-":  # "Edema - none", but "right-sided"
        return ("comma" if index and doc[index - 1].whitespace_ and doc[index].whitespace_ else "descriptor"), None
    return ("measure" if text[0].isdigit() else "word"), None


def _is_abbreviation(doc: Doc, index: int) -> bool:
    """Whether a token is in capitals and no unit: "CM" behind a number is none."""
    before = doc[index - 1].text if index else ""
    return doc[index].text.isupper() and not (before[:1].isdigit() or before in ("XXXX", "___"))


def _split_lines(sentence: list[Item], line_starts: frozenset[int], doc: Doc) -> Iterator[list[Item]]:
    """Cut where a line says enough and the next one begins anew ("No edema / Small effusion")."""
    begin = 0
    for index, item in enumerate(sentence):
        if index > begin and item.start in line_starts:
            last, before = sentence[index - 1], sentence[index - 2].kind if index > begin + 1 else ""
            capitals = doc[last.start].text.isupper() and doc[item.start].text.isupper()
            answered = last.kind in ("negation", "answer") and before in ("comma", "question")
            if answered or (last.kind in ENDS_LINE if capitals else last.kind not in GOES_ON):
                yield sentence[begin:index]
                begin = index
    yield sentence[begin:]


def _split_questions(sentence: list[Item]) -> Iterator[list[Item]]:
    """A question that is answered is a heading; another one doubts: "Edema? None.", "?pneumonia", "Pneumonia?"."""
    part: list[Item] = []
    for index, item in enumerate(sentence):
        if item.kind != "question":
            part.append(item)
            continue
        following = sentence[index + 1] if index + 1 < len(sentence) else None
        if item.value == "before":
            part.append(item._replace(kind="uncertainty", value=None))
        elif following and (
            following.kind in ("answer", "negation after")
            or (
                following.kind in ("severity", "location")
                and FINDING_KINDS.isdisjoint(each.kind for each in sentence[index:])
            )
            or (following.value == "no" and (index + 2 == len(sentence) or sentence[index + 2].kind == "comma"))
        ):
            part.append(item._replace(kind="comma"))
        else:
            yield [*part, item._replace(kind="unconfirmed")]
            part = []
    yield part


class LexiconExtractor:
    """Findings of reports by rules: fast, deterministic, offline, and open to correction in `lexicon.json`."""

    def __init__(self, lexicon: Lexicon | None = None) -> None:
        self._lexer = Lexer(lexicon) if lexicon else default_lexer()

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
        raw = report[block_start:block_end]
        text, offsets = _even_text(raw)
        lines: list[int] = []
        if offsets is not None and "\n" in raw:
            starts = {match.end() for match in _LINE_START.finditer(raw)}
            lines = [index for index, offset in enumerate(offsets) if offset in starts]
        for begin, end in self._lexer.pieces(text):
            inner = tuple(line - begin for line in lines if begin < line < end) if lines else ()
            for draft in read_piece(self._lexer, text[begin:end], inner):
                first, last = begin + draft.start, begin + draft.end - 1
                if offsets is not None:
                    first, last = offsets[first], offsets[last]
                start, stop = block_start + first, block_start + last + 1
                yield Finding(
                    observation=draft.observation,
                    region=draft.region,
                    laterality=draft.side,
                    severity=draft.severity,
                    status=draft.status,
                    phrase=report[start:stop],
                    start=start,
                    end=stop,
                    section=kind,
                )


@lru_cache(maxsize=PIECES_KEPT)  # radiologists repeat themselves
def read_piece(lexer: Lexer, text: str, lines: tuple[int, ...]) -> tuple[Draft, ...]:
    """Findings of one of a lexer's `pieces`, in its characters.

    Args:
        lexer: whose words are read.
        text: the piece.
        lines: characters at which a line of the report begins with a capital or a sign.
    """
    doc = lexer.nlp.make_doc(text)
    starts = frozenset(token.i for token in doc if token.idx in lines) if lines else frozenset()
    return tuple(
        draft._replace(start=doc[draft.start].idx, end=doc[draft.end - 1].idx + len(doc[draft.end - 1]))
        for sentence in lexer.sentences(doc, starts)
        for draft in read_sentence(sentence)
    )


def _blocks(report: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Paragraphs and list entries: no sentence runs over their borders, but over a wrapped line it does."""
    for match in _BLOCK_END.finditer(report, start, end):
        if match.start() > start:
            yield start, match.start()
        start = match.end()
    if end > start:
        yield start, end


def _even_text(text: str) -> tuple[str, list[int] | None]:
    """The text with single blanks for white space and behind stops; each character's old offset (None: unchanged)."""
    if not _UNEVEN.search(text):
        return text, None
    parts, offsets = [], []
    places = {0, len(text), *(place for match in _GLUED.finditer(text) for place in match.span())}
    for begin, end in pairwise(sorted(places)):
        if parts and parts[-1] != " ":
            parts.append(" ")
            offsets.append(begin - 1)
        for run in _RUN.finditer(text, begin, end):
            if run[1]:
                parts.append(run[1])
                offsets.extend(range(*run.span()))
            elif not parts or parts[-1] != " ":
                parts.append(" ")
                offsets.append(run.start())
    return "".join(parts), offsets


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


@cache
def default_lexer() -> Lexer:
    """Of that lexicon, made once: its thousands of terms take longer to compile than a hundred reports to read."""
    return Lexer(default_lexicon())


def asg_tag(observation: str) -> str:
    """ASG's name of an observation; its own name where ASG has no other."""
    return default_lexicon().asg_tags.get(observation, observation)
