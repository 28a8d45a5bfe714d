"""A model behind any server that speaks OpenAI's chat protocol: vLLM, Ollama, llama.cpp, `transformers serve`, ...

    OPENAI_BASE_URL            where it is, such as http://localhost:8000/v1; must be set: reports go where you say
    OPENAI_API_KEY             only where the server wants one
    LGDEA_EVIDENCE_IN_FLIGHT   requests at a time, see `IN_FLIGHT`

The client repeats what passes: timeouts, closed connections, HTTP 408, 409, 429 and 5xx, with growing, jittered waits,
or as long as Retry-After says, up to two minutes. It does not repeat a response that is no completion, such as half a
JSON; we do. It follows no redirect: reports go to the address that was named. A report's text, a key, or what a server
says about them reaches no log and no exception.
"""

import asyncio
import os
import random
import time
from collections.abc import Generator, Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
from pydantic import BaseModel, Field

from lgdea_core.evidence.answers import ANSWER_SCHEMA, CUT_OFF, Passage, Reply, UnusableReplyError, parse_reply
from lgdea_core.evidence.llm import NoAnswerError, Settle, log
from lgdea_core.evidence.prompt import Message, Prompt

BASE_URL_VARIABLE = "OPENAI_BASE_URL"
KEY_VARIABLE = "OPENAI_API_KEY"
IN_FLIGHT_VARIABLE = "LGDEA_EVIDENCE_IN_FLIGHT"

IN_FLIGHT = 32
"""Requests at a time. A server that queues them, such as llama.cpp with one slot, must get through so many within
`TIMEOUT_SECONDS`; vLLM gains up to some 256."""

TIMEOUT_SECONDS = 600.0
CONNECT_SECONDS = 10.0
"""Until a server takes the connection; a wrong address shows soon, a slow answer may take its time."""
RETRIES = 8
"""Of a request by the client; about 35 seconds of waits altogether."""
READINGS = 4
"""Requests for one reply until the response is a completion, each with its own `RETRIES`."""
MAX_TOKENS, MORE_TOKENS = 400, 2000
"""Of a reply: some 20 a statement. A reply that is cut off is asked for once more, with more room. A question with its
reply needs a context of some 3,000 tokens, or 5,000."""
MOST_COUNTED = 2**31
"""A server that counts more tokens in one reply counts nothing."""

FATAL = {401: f"the key is refused; set {KEY_VARIABLE}", 403: "the key may not do that", 404: "no such model or page"}
"""HTTP codes that every other request would get too."""
REDIRECT = (
    f"it redirects to another address, where no report is sent; if it may go there, name it by {BASE_URL_VARIABLE}"
)
UNKNOWN_FIELD = (400, 422)
"""HTTP codes of a server that does not know response_format."""

_FORMAT = {"type": "json_schema", "json_schema": {"name": "evidence", "schema": ANSWER_SCHEMA, "strict": True}}
_GREETING: list[Message] = [{"role": "user", "content": 'Answer with {"statements": []}'}]


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    """What is read of a response. The client's own classes would check nothing and cost more than the request."""

    choices: list[_Choice] = Field(min_length=1)
    usage: Any = None

    def tokens(self, kind: str) -> int:
        """What the server counted, 0 where that is no sensible number."""
        count = self.usage.get(f"{kind}_tokens") if isinstance(self.usage, dict) else None
        return count if type(count) is int and 0 <= count < MOST_COUNTED else 0


class OpenAIBackend:
    """Keeps a bounded number of requests in flight; the module says what it takes from the environment."""

    def __init__(self, model: str, timeout: float = TIMEOUT_SECONDS, retries: int = RETRIES) -> None:
        """
        Args:
            model: as the server calls it.
            timeout: seconds without a byte from the server.
            retries: of one request, by the client.

        Raises:
            ValueError: OPENAI_BASE_URL is not set, or LGDEA_EVIDENCE_IN_FLIGHT is no whole number above 0.
        """
        self.name = f"openai:{model}"
        self._timeout, self._retries = timeout, retries
        self._base_url = os.environ.get(BASE_URL_VARIABLE, "")
        if not self._base_url:
            raise ValueError(
                f"{self.name}: set {BASE_URL_VARIABLE} to the server that reports may be sent to, such as "
                f"http://localhost:8000/v1, and {KEY_VARIABLE} where it wants a key"
            )
        in_flight = os.environ.get(IN_FLIGHT_VARIABLE, str(IN_FLIGHT))
        if not in_flight.isdecimal() or int(in_flight) == 0:
            raise ValueError(f"{IN_FLIGHT_VARIABLE}: expected a whole number above 0, got {in_flight!r}")
        self._in_flight = int(in_flight)
        self._body: dict[str, Any] = {"model": model, "temperature": 0, "response_format": _FORMAT}

    def run(self, passages: Iterator[Passage], prompt: Prompt, settle: Settle) -> None:
        """See `Backend.run`.

        Raises:
            RuntimeError: the server cannot be reached, refuses the key, or does not know the model.
        """
        asyncio.run(self._run(passages, prompt, settle))

    async def _run(self, passages: Iterator[Passage], prompt: Prompt, settle: Settle) -> None:
        key = os.environ.get(KEY_VARIABLE) or "none"  # the client insists on one, a local server ignores it
        timeout = openai.Timeout(self._timeout, connect=CONNECT_SECONDS)
        client = openai.AsyncOpenAI(
            base_url=self._base_url,
            api_key=key,
            timeout=timeout,
            max_retries=self._retries,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
        )
        async with client:
            await self._greet(client)
            waiting = (passage for passage in passages)  # of this call, so that one worker can close it for all
            workers = [self._work(client, waiting, prompt, settle) for _ in range(self._in_flight)]
            ends = await asyncio.gather(*workers, return_exceptions=True)
        for error in ends:
            if error is not None:
                raise error

    async def _work(
        self,
        client: openai.AsyncOpenAI,
        waiting: Generator[Passage, None, None],
        prompt: Prompt,
        settle: Settle,
    ) -> None:
        """Ask about one passage after the other; on an error that concerns all, nobody takes another one."""
        try:
            for passage in waiting:
                try:
                    outcome = await self._exchange(client, passage.text, prompt)
                except NoAnswerError as error:
                    outcome = error
                settle(passage, outcome)
        finally:
            waiting.close()

    async def _exchange(self, client: openai.AsyncOpenAI, passage: str, prompt: Prompt) -> list[Reply]:
        """The reply; where it is of no use one more, to the same question with more room or to a request to repair."""
        reply = await self._request(client, prompt.messages(passage), MAX_TOKENS)
        try:
            parse_reply(reply)
        except UnusableReplyError as refused:
            if refused.reason == CUT_OFF:
                return [reply, await self._request(client, prompt.messages(passage), MORE_TOKENS)]
            return [reply, await self._request(client, prompt.repair_messages(passage, refused, reply), MAX_TOKENS)]
        return [reply]

    async def _request(self, client: openai.AsyncOpenAI, messages: list[Message], limit: int) -> Reply:
        """One reply of so many tokens.

        Raises:
            NoAnswerError: there is none to this request.
            RuntimeError: there would be none to any request.
        """
        began = time.perf_counter()
        try:
            completion = await self._completion(client, messages, limit)
        except openai.APITimeoutError:
            raise NoAnswerError("timeout") from None
        except openai.APIConnectionError:
            raise NoAnswerError("connection failed") from None
        except openai.APIStatusError as error:
            if error.status_code in FATAL or error.status_code < 400:
                raise RuntimeError(await self._describe(client, error.status_code)) from None
            raise NoAnswerError(f"HTTP {error.status_code}") from None
        choice = completion.choices[0]
        return Reply(
            text=choice.message.content or "",
            finish=choice.finish_reason or "stop",
            prompt_tokens=completion.tokens("prompt"),
            completion_tokens=completion.tokens("completion"),
            seconds=time.perf_counter() - began,
        )

    async def _completion(self, client: openai.AsyncOpenAI, messages: list[Message], limit: int) -> _Completion:
        question = {**self._body, "messages": messages, "max_tokens": limit}
        for reading in range(READINGS):
            await asyncio.sleep(random.uniform(0.3, 0.6) * reading)
            try:
                # `post` and not `chat.completions.create`: that one walks through all messages, 3 ms a request
                body = await client.post("/chat/completions", cast_to=object, body=question)
                # text is what the client makes of a body that calls itself something else than JSON
                read = _Completion.model_validate_json if isinstance(body, str) else _Completion.model_validate
                return read(body)
            except (ValueError, RecursionError):  # no JSON, no completion, or nested without end
                continue
        raise NoAnswerError("response is no completion")

    async def _greet(self, client: openai.AsyncOpenAI) -> None:
        """Ask for an answer about nothing, so that a wrong address, key or name shows before any report is sent."""
        quick = client.with_options(max_retries=2)
        try:
            await self._completion(quick, _GREETING, MAX_TOKENS)
            return
        except NoAnswerError:
            raise RuntimeError(f"{self.name}: what answers at {self._place} speaks no chat protocol") from None
        except openai.APIConnectionError:
            raise RuntimeError(
                f"{self.name}: no answer from {self._place}; start the server, or correct {BASE_URL_VARIABLE}"
            ) from None
        except openai.APIStatusError as error:
            if error.status_code not in UNKNOWN_FIELD or "response_format" not in self._body:
                raise RuntimeError(await self._describe(quick, error.status_code)) from None
        del self._body["response_format"]
        await self._greet(client)
        log.warning("%s refuses response_format: its answers are checked and repaired once, not constrained", self.name)

    async def _describe(self, client: openai.AsyncOpenAI, status: int) -> str:
        """What is wrong with server, key or model, in our words: the server's own could quote a key or a report."""
        try:
            served = ", ".join([model.id async for model in client.models.list()][:10])
        except (openai.OpenAIError, ValueError):
            served = "unknown"
        what = REDIRECT if status < 400 else FATAL.get(status, "error")
        return f"{self.name}: {self._place} answers HTTP {status}: {what}; it serves: {served}"

    @property
    def _place(self) -> str:
        url = urlsplit(self._base_url)  # without user, password and query
        return f"{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}{url.path}"
