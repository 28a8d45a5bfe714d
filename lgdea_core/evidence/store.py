"""Every answer of a language model in one SQLite file, committed when it arrives.

A question is a report's sentence (by its sha256), the prompt's digest, the model's name and the schema version; asked
once, it is never asked again: accepted and rejected answers stay. Who asks it claims it first, so that of several
extractors on one file only one asks; the claims of a process end with it. To ask rejected ones anew, change the prompt,
or delete them (`sqlite3 evidence.sqlite "DELETE FROM answers WHERE status = 'rejected'"`). What is no answer of the
model, such as a timeout or a refusal by the server, is not stored and asked again in the next run. The name is the
model's identity: give changed weights another name.

Raw answers quote reports. Keep the file where the reports may be kept; git ignores it in `data/`. It must lie on a
local disk, for SQLite's write-ahead log does not work over a network.
"""

import hashlib
import json
import os
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import psutil

from lgdea_core.evidence.answers import HALLUCINATED, AnswerStatus, Passage, Statement, Verdict, locate_statements
from lgdea_core.finding import SCHEMA_VERSION
from lgdea_core.paths import project_root

STORE_VARIABLE = "LGDEA_EVIDENCE_STORE"

LAYOUT = 1
"""Of the table below; SQLite's user_version."""

BUSY_SECONDS = 60.0
"""How long a process waits for another one's write."""

_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    report TEXT NOT NULL,             -- sha256 of the sentence that was sent
    prompt TEXT NOT NULL,             -- Prompt.digest
    model TEXT NOT NULL,              -- name of the extractor, such as openai:m
    schema_version TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('accepted', 'repaired', 'rejected')),
    reason TEXT NOT NULL,             -- why it was rejected, or empty
    raw TEXT NOT NULL,                -- JSON list of the model's replies: one, or two where a repair was asked for
    parsed TEXT NOT NULL,             -- JSON list of statements, each [phrase, observation, status]
    hallucinated INTEGER NOT NULL,    -- statements whose phrase is not in the passage
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (report, prompt, model, schema_version)
) WITHOUT ROWID
"""

_CLAIMS = """
CREATE TABLE IF NOT EXISTS claims (
    report TEXT NOT NULL,
    prompt TEXT NOT NULL,
    model TEXT NOT NULL,
    schema_version TEXT NOT NULL,
    owner TEXT NOT NULL,              -- of the open store that asks
    process TEXT NOT NULL,            -- its process: number and start, for numbers come again
    PRIMARY KEY (report, prompt, model, schema_version)
) WITHOUT ROWID
"""

_KEY = "report = ? AND prompt = ? AND model = ? AND schema_version = ?"


class Question(NamedTuple):
    """What all questions of one extractor share: with a report's hash, the key of an answer."""

    prompt: str
    """`Prompt.digest`"""
    model: str
    """name of the extractor"""
    schema_version: str = SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True)
class StoredAnswer:
    """One answer as it is read back."""

    status: AnswerStatus
    reason: str
    statements: tuple[Statement, ...]


@dataclass(frozen=True, kw_only=True)
class AnswerStats:
    """Sums over stored answers; a passage that several reports share counts once."""

    answers: int
    accepted: int
    repaired: int
    """accepted after one repair request"""
    rejected: dict[str, int]
    """by reason"""
    statements: int
    """in accepted and repaired answers, the hallucinated ones too"""
    hallucinated: int
    """statements whose phrase is not in the passage"""
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    """sum over answers; many are asked at once, so it exceeds the wall time"""


def store_path() -> Path:
    """The environment's LGDEA_EVIDENCE_STORE, else `data/evidence.sqlite`; a relative one starts at the repository."""
    return project_root() / os.environ.get(STORE_VARIABLE, "data/evidence.sqlite")


def passage_hash(passage: Passage) -> str:
    """The sentence's part of the key: what differs only in what is not sent is one question."""
    return hashlib.sha256(passage.text.encode()).hexdigest()


class AnswerStore:
    """The file, open; a context manager. Several processes may use one file at the same time.

    Raises:
        RuntimeError: the file cannot be opened, is no SQLite file, or was laid out by another version of this code.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._owner = path, uuid.uuid4().hex
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # used by one thread at a time: that of the backend while it asks, else the caller's
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            layout = self._db.execute("PRAGMA user_version").fetchone()[0]
            if layout in (0, LAYOUT):
                self._db.execute("PRAGMA journal_mode = WAL")
                # a killed process loses nothing; a power cut the last answers
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.execute(_CLAIMS)
            if layout == 0:
                self._db.execute(_TABLE)
                self._db.execute(f"PRAGMA user_version = {LAYOUT}")
        except (OSError, sqlite3.Error) as error:
            raise RuntimeError(
                f"answer store {path}: {error}; name a file on a local disk by {STORE_VARIABLE}, or move this one away"
            ) from error
        if layout not in (0, LAYOUT):
            raise RuntimeError(
                f"answer store {path}: expected layout {LAYOUT}, got {layout}; name another file by {STORE_VARIABLE}"
            )

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._db.execute("DELETE FROM claims WHERE owner = ?", (self._owner,))
        except sqlite3.Error:  # the claims end with this process at the latest; another error may be under way
            pass
        finally:
            self._db.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of the file with its name."""
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            raise RuntimeError(
                f"answer store {self._path}: {error}; look after the disk and who may write there, or move it away"
            ) from error

    def claim(self, question: Question, report: str) -> bool:
        """Whether this store may ask: there is no answer yet, and nobody else who is alive is asking."""
        key = (report, *question)
        with self._named(), self._db:  # one transaction
            self._db.execute("BEGIN IMMEDIATE")
            if self.has(question, report):
                return False
            found = self._db.execute(f"SELECT owner, process FROM claims WHERE {_KEY}", key).fetchone()
            if found is not None and found[0] != self._owner and _alive(found[1]):
                return False
            self._db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?, ?)", (*key, self._owner, _process()))
            return True

    def release(self, question: Question, report: str) -> None:
        """Let others ask: there was no answer."""
        with self._named():
            self._db.execute(f"DELETE FROM claims WHERE {_KEY} AND owner = ?", (report, *question, self._owner))

    def put(self, question: Question, passage: Passage, verdict: Verdict) -> None:
        """Store an answer and commit. Where another process was faster, the first answer stays."""
        refused: dict[str, int] = {}
        locate_statements(verdict.statements, passage, refused)
        key = (passage_hash(passage), *question)
        row = (
            *key,
            verdict.status,
            verdict.reason,
            json.dumps([reply.text for reply in verdict.replies]),
            json.dumps(verdict.statements),
            refused.get(HALLUCINATED, 0),
            sum(reply.prompt_tokens for reply in verdict.replies),
            sum(reply.completion_tokens for reply in verdict.replies),
            sum(reply.seconds for reply in verdict.replies),
        )
        with self._named(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(f"INSERT INTO answers VALUES ({', '.join('?' * len(row))}) ON CONFLICT DO NOTHING", row)
            self._db.execute(f"DELETE FROM claims WHERE {_KEY}", key)

    def get(self, question: Question, report: str) -> StoredAnswer | None:
        """The answer for a passage's hash, None where there is none yet."""
        with self._named():
            found = self._db.execute(f"SELECT status, reason, parsed FROM answers WHERE {_KEY}", (report, *question))
            if (row := found.fetchone()) is None:
                return None
            status, reason, parsed = row
            statements = tuple(Statement(*statement) for statement in json.loads(parsed))
        return StoredAnswer(status=status, reason=reason, statements=statements)

    def has(self, question: Question, report: str) -> bool:
        """Whether `get` finds an answer."""
        with self._named():
            found = self._db.execute(f"SELECT 1 FROM answers WHERE {_KEY}", (report, *question))
            return found.fetchone() is not None

    def statistics(self, question: Question, reports: Iterable[str]) -> AnswerStats:
        """What is stored for these passages.

        Args:
            question: whose answers.
            reports: hashes of passages, each once; those without an answer count nowhere.
        """
        with self._named():
            self._db.execute("CREATE TEMP TABLE asked (report TEXT PRIMARY KEY)")
            self._db.executemany("INSERT INTO asked VALUES (?)", ((report,) for report in reports))
            rows = self._db.execute(
                "SELECT status, reason, count(*), sum(json_array_length(parsed)), sum(hallucinated), "
                "sum(prompt_tokens), sum(completion_tokens), sum(seconds) FROM asked JOIN answers USING (report) "
                "WHERE prompt = ? AND model = ? AND schema_version = ? GROUP BY status, reason ORDER BY status, reason",
                question,
            ).fetchall()
            self._db.execute("DROP TABLE asked")
        count, statements, hallucinated, prompt_tokens, completion_tokens = (
            sum(row[column] for row in rows) for column in range(2, 7)
        )
        return AnswerStats(
            answers=count,
            accepted=sum(row[2] for row in rows if row[0] == "accepted"),
            repaired=sum(row[2] for row in rows if row[0] == "repaired"),
            rejected={row[1]: row[2] for row in rows if row[0] == "rejected"},
            statements=statements,
            hallucinated=hallucinated,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            seconds=float(sum(row[7] for row in rows)),
        )


@cache
def _process() -> str:
    """This process: its number and when it began."""
    return f"{os.getpid()} {psutil.Process().create_time()}"


def _alive(process: str) -> bool:
    """Whether a process of `_process` still runs."""
    number, began = process.split()
    try:
        return abs(psutil.Process(int(number)).create_time() - float(began)) < 5  # clocks are set
    except psutil.Error:
        return False
