"""Thousands of reports on a bad day: faults, a killed process, two processes at once, a server without a grammar."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import servers
from servers import FAULTS, ModelServer, answer, sound_answer, statement
from tiny_lm import save_tiny_lm

from lgdea_core.evidence import extract, openai_backend
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.evidence.llm import LanguageModelExtractor
from lgdea_core.evidence.openai_backend import OpenAIBackend

pytestmark = pytest.mark.slow

REPORTS = 2000
ODD_WORDS = ("prose", "prose once", "wrong field", "hallucination")
"""What a model does instead of answering; with `FAULTS`, what happens to every fifth report."""


def studies(count: int = REPORTS) -> pd.DataFrame:
    reports = [
        f"INDICATION: Study {number}.\nFINDINGS: Small left\n pleural effusion, {number} ml. No pneumothorax."
        for number in range(count)
    ]
    return pd.DataFrame({"study_id": [f"s{number}" for number in range(count)], "report": reports})


def number_of(passage: str) -> int:
    return int("".join(filter(str.isdigit, passage)))


def fate(number: int) -> str:
    """What happens to a report: for every fifth one something else than an answer."""
    fates = (*FAULTS, *ODD_WORDS)
    return fates[number // 5 % len(fates)] if number % 5 == 0 else "answer"


def reply(passage: str, repair: bool) -> str:
    happens = fate(number_of(passage))
    if happens == "prose" or (happens == "prose once" and not repair):
        return "The film shows an effusion."
    if happens == "wrong field":
        return answer(statement("effusion") | {"start": 3})
    if happens == "hallucination":
        return answer(statement("left pleural effusion", "pleural effusion"), statement("a large mass", "mass"))
    return sound_answer(passage)


def fault(passage: str, times: int) -> str | None:
    happens = fate(number_of(passage)) if passage else "answer"
    return happens if happens in FAULTS and times == 0 else None


def impatient(name: str) -> LanguageModelExtractor:
    return LanguageModelExtractor(OpenAIBackend(name.removeprefix("openai:"), timeout=10.0))


def test_two_thousand_reports_with_a_fifth_of_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGDEA_EVIDENCE_STORE", str(tmp_path / "evidence.sqlite"))
    monkeypatch.setattr(servers, "SLOW_SECONDS", 20.0)
    monkeypatch.setattr(
        extract, "make_extractor", lambda name: LanguageModelExtractor(OpenAIBackend("m", timeout=10.0))
    )
    corpus, fates = studies(), Counter(fate(number) for number in range(REPORTS))
    assert sum(fates.values()) - fates["answer"] == REPORTS // 5
    with ModelServer(reply, fault) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        table, stats = extract_evidence(corpus, "openai:m", progress=False)
    assert len(server.answered) == REPORTS
    assert set(server.answered.values()) == {1}
    repaired = [number_of(passage) for passage in server.repairs]
    assert set(server.repairs.values()) == {1}
    assert Counter(map(fate, repaired)) == {name: fates[name] for name in ("prose", "prose once", "wrong field")}
    assert stats.rejected == {
        "answer: not JSON": fates["prose"],
        "answer: schema: answer extra_forbidden": fates["wrong field"],
        "phrase not in report": fates["hallucination"],
    }
    lost = fates["prose"] + fates["wrong field"]
    assert (stats.answers.answers, stats.answers.repaired) == (REPORTS, fates["prose once"])
    assert (stats.answers.accepted, stats.without_evidence) == (REPORTS - fates["prose once"] - lost, lost)
    expected = extract_evidence(corpus, "lexicon", progress=False)[0]
    kept = expected["report_id"].map(lambda study_id: fate(int(study_id[1:]))).isin({"answer", "prose once", *FAULTS})
    plain = table["report_id"].map(lambda study_id: fate(int(study_id[1:]))) != "hallucination"
    pd.testing.assert_frame_equal(
        table[plain].reset_index(drop=True), expected[kept].reset_index(drop=True), check_dtype=False
    )


def write_corpus(folder: Path) -> Path:
    folder.mkdir()
    table = studies().assign(patient_id=lambda rows: rows["study_id"], split="train", image="none")
    table.to_csv(folder / "studies.csv", index=False)
    return folder


def command(corpus: Path, out: Path) -> list[str]:
    module = [sys.executable, "-m", "lgdea_core.evidence.extract", "--extractor", "openai:m"]
    return [*module, "--corpus", "folder", "--root", str(corpus), "--out", str(out)]


def environment(url: str, store: Path) -> dict[str, str]:
    return {**os.environ, "OPENAI_BASE_URL": url, "LGDEA_EVIDENCE_STORE": str(store)}


def test_killed_in_the_middle_it_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    with ModelServer(reply) as server:
        undisturbed = environment(server.url, tmp_path / "undisturbed.sqlite")
        subprocess.run(command(corpus, tmp_path / "undisturbed.parquet"), env=undisturbed, check=True)
    victims: list[subprocess.Popen] = []

    def kill(answered: int) -> None:
        if answered >= 700 and victims and victims[0].poll() is None:
            os.kill(victims[0].pid, signal.SIGKILL)

    with ModelServer(reply, delay=0.01, on_answer=kill) as server:
        disturbed = environment(server.url, tmp_path / "disturbed.sqlite")
        victims.append(subprocess.Popen(command(corpus, tmp_path / "disturbed.parquet"), env=disturbed))
        assert victims[0].wait() == -signal.SIGKILL
        assert not (tmp_path / "disturbed.parquet").exists()
        time.sleep(0.5)  # threads of the server that still talk to the dead
        before, server.on_answer = set(server.answered), lambda answered: None
        assert 700 <= len(before) < REPORTS
        server.answered.clear()
        server.asked.clear()
        subprocess.run(command(corpus, tmp_path / "disturbed.parquet"), env=disturbed, check=True)
        after = set(server.answered)
    assert len(before | after) == REPORTS
    assert len(before & after) <= 2 * openai_backend.IN_FLIGHT  # sent by the server, not yet read or stored
    whole, resumed = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("undisturbed", "disturbed"))
    pd.testing.assert_frame_equal(resumed, whole)
    assert (tmp_path / "disturbed.parquet").read_bytes() == (tmp_path / "undisturbed.parquet").read_bytes()


def test_two_processes_share_the_work_and_a_store(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    with ModelServer(delay=0.01) as server:
        shared = environment(server.url, tmp_path / "shared.sqlite")
        both = [subprocess.Popen(command(corpus, tmp_path / f"{name}.parquet"), env=shared) for name in "ab"]
        assert [process.wait() for process in both] == [0, 0]
        twice = sum(count - 1 for count in server.answered.values())
    assert len(server.answered) == REPORTS
    assert twice < REPORTS / 5  # what both had in flight at the same time
    pd.testing.assert_frame_equal(*(pd.read_parquet(tmp_path / f"{name}.parquet") for name in "ab"))


@pytest.fixture
def transformers_serve(tmp_path: Path) -> str:
    """URL of `transformers serve` with a random model; the model's folder is its name."""
    folder = save_tiny_lm(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(sys.executable).with_name("transformers")
    if not script.is_file():
        pytest.skip(f"no {script}: install transformers[serving]")
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    process = subprocess.Popen(
        [str(script), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(600):
            assert process.poll() is None, "transformers serve ended"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def test_a_senseless_model_without_a_grammar_gives_counted_rejects_only(
    transformers_serve: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", transformers_serve)
    monkeypatch.setenv("LGDEA_EVIDENCE_STORE", str(tmp_path / "evidence.sqlite"))
    monkeypatch.setenv("LGDEA_EVIDENCE_IN_FLIGHT", "4")
    monkeypatch.setattr(openai_backend, "MAX_TOKENS", 64)
    reports = list(studies(12)["report"])
    extractor = LanguageModelExtractor(OpenAIBackend(str(tmp_path / "model")))
    assert extractor.extract(reports) == [[]] * 12
    stats = extractor.statistics()
    assert (stats.answers, stats.accepted, stats.repaired) == (12, 0, 0)
    assert sum(stats.rejected.values()) == sum(extractor.rejected.values()) == 12
    assert set(stats.rejected) <= {"cut off", "not JSON", "empty"}
    assert stats.completion_tokens > 0
    other = LanguageModelExtractor(OpenAIBackend("another-model"))
    with pytest.raises(RuntimeError, match="answers HTTP 400"):
        other.extract(reports)
