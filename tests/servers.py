"""A chat server on this machine that speaks OpenAI's protocol, answers by rules, and fails where a test wants it to."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from lgdea_core.evidence.answers import SEPARATORS, Passage, Reply
from lgdea_core.evidence.lexicon import LexiconExtractor
from lgdea_core.evidence.llm import Settle
from lgdea_core.evidence.prompt import Prompt

SLOW_SECONDS = 6.0
RETRY_AFTER = "Retry-After-Ms: 20"
LOCATION = "http://127.0.0.1:1/v1"
"""Where a redirect leads."""
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
FAULTS = ("429", "500", "slow", "half a JSON", "half a body", "closed", "a web page")
"""What a server does instead of answering; all of it passes when the request is repeated."""

_LEXICON = LexiconExtractor()
_PASSAGE = re.compile(r"Report: (.*)")


def statement(phrase: str, observation: str = "nodule", status: str = "present") -> list[str]:
    """A statement as a model writes it."""
    return [phrase, observation, status]


def answer(*statements: list[str]) -> str:
    """An answer of these statements."""
    return json.dumps({"statements": statements}, separators=SEPARATORS)


def sound_answer(passage: str, repair: bool = False) -> str:
    """What a perfect model would say: the findings of the rules."""
    findings = _LEXICON.extract([f"FINDINGS: {passage}"])[0]
    return answer(*(statement(finding.phrase, finding.observation, finding.status) for finding in findings))


def effusion_studies(
    count: int, text: str = "FINDINGS: Small left\n pleural effusion, {} ml, and no pneumothorax."
) -> pd.DataFrame:
    """Studies s0, s1, ... whose reports have two findings in one sentence and differ in a number."""
    reports = [f"INDICATION: Study {number}.\n{text.format(number)}" for number in range(count)]
    return pd.DataFrame({"study_id": [f"s{number}" for number in range(count)], "report": reports})


def write_studies(folder: Path, count: int) -> Path:
    """The same as a corpus in our own layout, without films."""
    folder.mkdir()
    table = effusion_studies(count).assign(patient_id=lambda rows: rows["study_id"], split="train", image="none")
    table.to_csv(folder / "studies.csv", index=False)
    return folder


class ModelServer:
    """The server, running while the context is open.

    Attributes:
        asked: how often each passage was asked about, whatever came of it.
        answered: how often a question about a passage got a whole response.
        content_type, usage, finish: what a response says of itself; of `finish`, by the request's body.
        repairs: the same, of requests to repair.
        bodies: every request's JSON.
    """

    def __init__(self, **behaviour: Any) -> None:
        """
        Args:
            behaviour: see `behave`.
        """
        self.lock = threading.Lock()
        self.behave(**behaviour)
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.model = self
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def behave(
        self,
        reply: Callable[[str, bool], str] = sound_answer,
        fault: Callable[[str, int], str | None] = lambda passage, times: None,
        delay: float = 0.0,
        on_answer: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Answer in this way from now on, and forget what was asked.

        Args:
            reply: passage and whether a repair is asked for -> the model's words; a greeting is answered as it should.
            fault: passage and how often it was asked about before -> one of `FAULTS`, an HTTP code, or None.
            delay: seconds before each answer.
            on_answer: called with the number of passages answered so far.
        """
        with self.lock:
            self.reply, self.fault, self.delay, self.on_answer = reply, fault, delay, on_answer
            self.content_type, self.usage, self.finish = "application/json", USAGE, lambda body: "stop"
            self.asked: Counter[str] = Counter()
            self.answered: Counter[str] = Counter()
            self.repairs: Counter[str] = Counter()
            self.bodies: list[dict] = []

    def __enter__(self) -> "ModelServer":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()


class Parrot:
    """A model in this process that says the same of every sentence."""

    name = "openai:parrot"

    def __init__(self, words: str) -> None:
        self.reply = Reply(text=words, finish="stop", prompt_tokens=1, completion_tokens=1, seconds=0.0)

    def run(self, passages: Iterator[Passage], prompt: Prompt, settle: Settle) -> None:
        for passage in passages:
            settle(passage, [self.reply])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    model: ModelServer

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed or lost patience is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send(200, json.dumps({"object": "list", "data": [{"id": "served-model", "object": "model"}]}))

    def do_POST(self) -> None:
        model = self.server.model
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = [match for message in body["messages"] if (match := _PASSAGE.fullmatch(message["content"]))]
        passage = found[-1][1] if len(found) > 1 else ""  # the greeting has none, a question has its examples' too
        repair = bool(found) and not _PASSAGE.fullmatch(body["messages"][-1]["content"])
        with model.lock:
            model.bodies.append({**body, "authorization": self.headers.get("Authorization")})
            fault = model.fault(passage, model.asked[passage])
            model.asked[passage] += 1
        if fault is not None:
            self._fail(fault, body)
            return
        time.sleep(model.delay)
        words = model.reply(passage, repair) if passage else answer()
        self._send(200, completion(words, model.finish(body), model.usage), content_type=model.content_type)
        if passage:
            with model.lock:
                (model.repairs if repair else model.answered)[passage] += 1
                model.on_answer(len(model.answered))

    def _fail(self, fault: str, body: dict) -> None:
        whole = completion("late or broken")
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
            self._send(200, whole)
        elif fault == "half a JSON":
            self._send(200, whole[: len(whole) // 2])
        elif fault == "half a body":
            self._send(200, whole[: len(whole) // 2], length=len(whole))
        elif fault == "closed":
            self.close_connection = True
        elif fault == "a web page":
            self._send(200, "<html>busy</html>", content_type="text/html")
        else:  # what a careless server says quotes all it got
            quoted = json.dumps({"error": {"message": f"{self.headers['Authorization']} {json.dumps(body)}"}})
            self._send(int(fault), quoted, more=f"{RETRY_AFTER}\r\nLocation: {LOCATION}\r\n")

    def _send(
        self,
        status: int,
        text: str,
        length: int | None = None,
        content_type: str = "application/json",
        more: str = "",
    ) -> None:
        content = text.encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\n{more}"
        head += f"Content-Length: {len(content) if length is None else length}\r\n\r\n"
        self.wfile.write(head.encode() + content)  # at once: two writes would wait for each other's receipt
        self.close_connection |= length is not None

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def completion(text: str, finish: str = "stop", usage: object = USAGE) -> str:
    """A response with these words of the model."""
    message = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    return json.dumps({"id": "x", "object": "chat.completion", "model": "m", "choices": [message], "usage": usage})
