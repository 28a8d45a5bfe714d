"""Many reports on a bad day: faults, a killed process, two processes at once, a server without a grammar."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import openai._base_client
import pandas as pd
import pytest
import servers
from servers import FAULTS, ModelServer, answer, effusion_studies, sound_answer, statement, write_studies
from tiny_lm import save_tiny_lm

from lgdea_core.evidence import extract, openai_backend
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.evidence.llm import LanguageModelExtractor
from lgdea_core.evidence.openai_backend import OpenAIBackend
from lgdea_core.evidence.prompt import Prompt

pytestmark = pytest.mark.slow

REPORTS = 110
IN_FLIGHT = 8
SHORT = Prompt(opening=({"role": "system", "content": "List."},), repair="No: {complaint}")
ODD_WORDS = ("prose", "prose once", "wrong field", "hallucination")
"""What a model does instead of answering; with `FAULTS`, what happens to every fifth report."""


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
        return answer([*statement("effusion"), 3])
    if happens == "hallucination":
        return answer(statement("left pleural effusion", "pleural effusion"), statement("a large mass", "mass"))
    return sound_answer(passage)


def fault(passage: str, times: int) -> str | None:
    happens = fate(number_of(passage)) if passage else "answer"
    return happens if happens in FAULTS and times == 0 else None


def test_many_reports_with_a_fifth_of_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGDEA_EVIDENCE_STORE", str(tmp_path / "evidence.sqlite"))
    monkeypatch.setattr(servers, "SLOW_SECONDS", 5.0)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.05)
    monkeypatch.setattr(extract, "make_extractor", lambda _: LanguageModelExtractor(OpenAIBackend("m", timeout=2.5)))
    corpus, fates = effusion_studies(REPORTS), Counter(fate(number) for number in range(REPORTS))
    assert sum(fates.values()) - fates["answer"] == REPORTS // 5
    with ModelServer(reply=reply, fault=fault) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        table, stats = extract_evidence(corpus, "openai:m", progress=False)
    monkeypatch.undo()
    assert len(server.answered) == REPORTS
    assert set(server.answered.values()) == set(server.repairs.values()) == {1}
    repaired = Counter(fate(number_of(passage)) for passage in server.repairs)
    assert repaired == {name: fates[name] for name in ("prose", "prose once", "wrong field")}
    assert stats.rejected == {
        "answer: not JSON": fates["prose"],
        "answer: schema: answer too_long": fates["wrong field"],
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


def test_two_share_a_store_and_what_a_killed_one_leaves_is_asked_by_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command in a process of its own, killed in the middle, and in this one beside it."""
    monkeypatch.setenv(openai_backend.IN_FLIGHT_VARIABLE, str(IN_FLIGHT))
    corpus = write_studies(tmp_path / "corpus", REPORTS)
    command = ["--extractor", "openai:m", "--corpus", "folder", "--root", str(corpus), "--out"]
    whole, shared = tmp_path / "whole.parquet", tmp_path / "shared.parquet"
    victims: list[subprocess.Popen] = []
    begun = threading.Event()

    def kill(answered: int) -> None:
        begun.set()
        if answered >= REPORTS // 2 and victims[0].poll() is None:
            os.kill(victims[0].pid, signal.SIGKILL)

    with ModelServer(reply=reply) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("LGDEA_EVIDENCE_STORE", str(tmp_path / "whole.sqlite"))
        extract.main([*command, str(whole)])  # alone and undisturbed
        monkeypatch.setenv("LGDEA_EVIDENCE_STORE", str(tmp_path / "shared.sqlite"))
        server.behave(reply, delay=0.1, on_answer=kill)
        victims.append(
            subprocess.Popen(
                [sys.executable, "-m", "lgdea_core.evidence.extract", *command, str(tmp_path / "no.parquet")]
            )
        )
        assert begun.wait(120)
        extract.main([*command, str(shared)])
        assert victims[0].wait() == -signal.SIGKILL
        assert server.asked[""] >= 2  # both asked
        assert len(server.answered) == REPORTS
        twice = [passage for passage, count in server.answered.items() if count > 1]
        assert len(twice) <= IN_FLIGHT  # what the killed one had in flight
        assert not (tmp_path / "no.parquet").exists()
        assert shared.read_bytes() == whole.read_bytes()
        server.behave(reply)
        extract.main([*command, str(shared)])
        assert server.bodies == []  # all answers are there


@pytest.fixture
def transformers_serve(tmp_path: Path) -> Iterator[str]:
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
    monkeypatch.setattr(openai_backend, "MAX_TOKENS", 24)
    monkeypatch.setattr(openai_backend, "MORE_TOKENS", 48)
    reports = list(effusion_studies(3)["report"])
    extractor = LanguageModelExtractor(OpenAIBackend(str(tmp_path / "model")), prompt=SHORT)
    assert extractor.extract(reports) == [[]] * 3
    stats = extractor.statistics()
    assert (stats.answers, stats.accepted, stats.repaired) == (3, 0, 0)
    assert sum(stats.rejected.values()) == sum(extractor.rejected.values()) == 3
    assert set(stats.rejected) <= {"cut off", "not JSON", "empty"}
    assert stats.completion_tokens > 0
    with pytest.raises(RuntimeError, match="answers HTTP 400"):
        LanguageModelExtractor(OpenAIBackend("another-model")).extract(reports)
