"""The store: what the key is, what is kept, what is summed up, and who may ask."""

import json
import os
import sqlite3
import subprocess
from pathlib import Path

import pytest
from servers import answer, statement

from lgdea_core.evidence.answers import Reply, Statement, Verdict, judge, read_passages
from lgdea_core.evidence.store import AnswerStats, AnswerStore, Question, StoredAnswer, passage_hash, store_path
from lgdea_core.paths import project_root

(PASSAGE,) = read_passages("FINDINGS: Small nodule, mass.")
QUESTION = Question(prompt="p", model="openai:m")
NODULE, MASS, INVENTED = statement("Small nodule"), statement("mass", "mass"), statement("Huge mass", "mass")
NOTHING = AnswerStats(
    answers=0, accepted=0, repaired=0, rejected={}, statements=0, hallucinated=0, prompt_tokens=0,
    completion_tokens=0, seconds=0.0,
)  # fmt: skip


def verdict(*texts: str) -> Verdict:
    return judge(
        [Reply(text=text, finish="stop", prompt_tokens=10, completion_tokens=3, seconds=0.5) for text in texts]
    )


@pytest.fixture
def store(tmp_path: Path) -> AnswerStore:
    with AnswerStore(tmp_path / "new" / "evidence.sqlite") as opened:
        yield opened


def test_an_answer_is_read_back_as_it_was_judged(store: AnswerStore) -> None:
    key = passage_hash(PASSAGE)
    assert store.get(QUESTION, key) is None
    assert not store.has(QUESTION, key)
    store.put(QUESTION, PASSAGE, verdict(answer(NODULE, INVENTED)))
    store.put(QUESTION, PASSAGE, verdict(answer(MASS)))  # the first one stays
    assert store.has(QUESTION, key)
    statements = (Statement(*NODULE), Statement(*INVENTED))
    assert store.get(QUESTION, key) == StoredAnswer(status="accepted", reason="", statements=statements)


def test_every_reply_is_kept_raw_and_every_answer_parsed(store: AnswerStore, tmp_path: Path) -> None:
    store.put(QUESTION, PASSAGE, verdict('Sure \ud800 "ly"', answer(NODULE, INVENTED, INVENTED)))
    # on disk at once: seen by another connection while this one is open
    connection = sqlite3.connect(tmp_path / "new" / "evidence.sqlite")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    (row,) = connection.execute("SELECT * FROM answers").fetchall()
    assert row[:4] == (passage_hash(PASSAGE), "p", "openai:m", QUESTION.schema_version)
    assert row[4:6] == ("repaired", "")
    assert json.loads(row[6]) == ['Sure \ud800 "ly"', answer(NODULE, INVENTED, INVENTED)]
    assert json.loads(row[7]) == [NODULE, INVENTED, INVENTED]
    assert row[8:] == (2, 20, 6, 1.0)  # hallucinated, tokens in and out, seconds


@pytest.mark.parametrize(
    "other",
    [
        Question(prompt="q", model="openai:m"),
        Question(prompt="p", model="openai:n"),
        Question(prompt="p", model="openai:m", schema_version="0"),
    ],
)
def test_prompt_model_and_schema_are_part_of_the_key(store: AnswerStore, other: Question) -> None:
    store.put(QUESTION, PASSAGE, verdict(answer(NODULE)))
    assert store.get(other, passage_hash(PASSAGE)) is None
    assert store.statistics(other, [passage_hash(PASSAGE)]) == NOTHING
    store.put(other, PASSAGE, verdict("no"))
    assert store.get(QUESTION, passage_hash(PASSAGE)).status == "accepted"
    assert store.get(other, passage_hash(PASSAGE)).reason == "not JSON"


def test_of_a_report_what_is_sent_is_the_key() -> None:
    same = ["FINDINGS: Nodule,\nmass.", "INDICATION: cough.\nFINDINGS:  Nodule, mass. ", "IMPRESSION: Nodule, mass."]
    assert len({passage_hash(read_passages(report)[0]) for report in same}) == 1
    other = ["FINDINGS: nodule, mass.", "FINDINGS: Nodule. Mass."]
    assert len({passage_hash(passage) for report in same + other for passage in read_passages(report)}) == 4


def test_statistics_are_sums_over_the_passages_asked_for(store: AnswerStore) -> None:
    reports = [read_passages(f"FINDINGS: Small nodule {number}.")[0] for number in range(7)]
    given = [(answer(NODULE),), ("", answer(NODULE, MASS)), ("no", "no"), ("no", ""), ("", "no"), (answer(),)]
    for passage, texts in zip(reports, given, strict=False):
        store.put(QUESTION, passage, verdict(*texts))
    hashes = [passage_hash(passage) for passage in reports]
    assert store.statistics(QUESTION, hashes[1:]) == AnswerStats(
        answers=5, accepted=1, repaired=1, rejected={"empty": 1, "not JSON": 2}, statements=2, hallucinated=1,
        prompt_tokens=90, completion_tokens=27, seconds=4.5,
    )  # fmt: skip
    assert store.statistics(QUESTION, hashes).accepted == 2
    assert store.statistics(QUESTION, []) == NOTHING


def test_of_several_who_would_ask_one_claims_until_it_has_answered_or_gone(tmp_path: Path) -> None:
    path, key = tmp_path / "evidence.sqlite", passage_hash(PASSAGE)
    with AnswerStore(path) as other:
        with AnswerStore(path) as mine:
            assert mine.claim(QUESTION, key)
            assert mine.claim(QUESTION, key)  # its own claim does not stand in its way
            assert not other.claim(QUESTION, key)
            assert other.claim(Question(prompt="q", model="openai:m"), key)
            mine.release(QUESTION, key)
            other.release(QUESTION, key)  # not its own
            assert other.claim(QUESTION, key)
            assert not mine.claim(QUESTION, key)
            other.release(QUESTION, key)
            assert mine.claim(QUESTION, key)
        assert other.claim(QUESTION, key)  # a store that closes gives up what it has not answered
        other.put(QUESTION, PASSAGE, verdict(answer(NODULE)))
        assert not other.claim(QUESTION, key)
        assert sqlite3.connect(path).execute("SELECT count(*) FROM claims").fetchone() == (1,)  # of prompt q


@pytest.mark.parametrize("process", ["{pid} 1.0", "4194999 1.0"])  # a number that came again, and one that nobody has
def test_the_claims_of_a_dead_process_are_void(store: AnswerStore, tmp_path: Path, process: str) -> None:
    key = passage_hash(PASSAGE)
    row = (key, *QUESTION, "somebody", process.format(pid=os.getpid()))
    with sqlite3.connect(tmp_path / "new" / "evidence.sqlite") as connection:
        connection.execute("INSERT INTO claims VALUES (?, ?, ?, ?, ?, ?)", row)
    assert store.claim(QUESTION, key)


def test_an_error_of_the_file_names_it(store: AnswerStore, tmp_path: Path) -> None:
    path, key = tmp_path / "new" / "evidence.sqlite", passage_hash(PASSAGE)
    store.put(QUESTION, PASSAGE, verdict(answer(NODULE)))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE answers SET parsed = 'half a'")
    with pytest.raises(RuntimeError, match=r"answer store .*evidence\.sqlite: .*; look after the disk"):
        store.get(QUESTION, key)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE answers")
    for failing in (store.get, store.has, store.claim, lambda *given: store.put(QUESTION, PASSAGE, verdict(answer()))):
        with pytest.raises(RuntimeError, match=r"answer store .*evidence\.sqlite: no such table"):
            failing(QUESTION, key)
    with pytest.raises(RuntimeError, match=r"answer store .*evidence\.sqlite: no such table"):
        store.statistics(QUESTION, [key])


def test_the_place_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LGDEA_EVIDENCE_STORE", raising=False)
    assert store_path() == project_root() / "data" / "evidence.sqlite"
    if (project_root() / ".git").exists():  # raw answers quote reports: git must ignore them
        ignored = ["git", "-C", str(project_root()), "check-ignore", "-q", "data/evidence.sqlite-wal"]
        subprocess.run(ignored, check=True)
    monkeypatch.setenv("LGDEA_EVIDENCE_STORE", "elsewhere/e.sqlite")
    assert store_path() == project_root() / "elsewhere" / "e.sqlite"
    monkeypatch.setenv("LGDEA_EVIDENCE_STORE", str(tmp_path / "e.sqlite"))
    assert store_path() == tmp_path / "e.sqlite"


def test_a_file_that_is_no_store_or_one_of_another_layout_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to look for a header in it " * 3)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match=r"store .*notes\.txt: file is not a database; name a file on a local"):
        AnswerStore(path)
    assert path.read_bytes() == before
    with pytest.raises(RuntimeError, match="LGDEA_EVIDENCE_STORE"):
        AnswerStore(tmp_path)
    with sqlite3.connect(tmp_path / "e.sqlite") as connection:
        connection.execute("PRAGMA user_version = 7")
    with pytest.raises(RuntimeError, match="expected layout 1, got 7"):
        AnswerStore(tmp_path / "e.sqlite")
