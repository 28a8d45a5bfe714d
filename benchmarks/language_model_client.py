"""The client of `openai:` against a server on this machine that answers at once: is the server the limit?

Every sentence is different, so every one is asked, answered, judged and stored. Printed: answers a second, and the
share of the time of all requests in flight that they wait on the server; the rest is what the client needs between a
reply and its next request. The server is a process of its own; with `--delay` it takes its time like a model.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgdea_core.evidence import openai_backend
from lgdea_core.evidence.llm import LanguageModelExtractor

WORDS = '{"statements":[["effusion","pleural effusion","present"]]}'
COMPLETION = json.dumps(
    {
        "choices": [{"message": {"content": WORDS}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
)
HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(COMPLETION)}\r\n\r\n"


class Measured(NamedTuple):
    """What a run of the client took."""

    answers: int
    seconds: float
    waiting: float
    """share of the time of all requests in flight"""


def main() -> None:
    """Print a line for each delay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--sentences", type=int, default=3000)
    parser.add_argument("--in-flight", type=int, default=openai_backend.IN_FLIGHT)
    parser.add_argument("--delay", type=float, nargs="+", default=[0.0, 0.5], help="seconds the server takes")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    options = parser.parse_args()
    rows = []
    for delay in options.delay:
        found = measure(options.sentences, options.in_flight, delay)
        rows.append({"delay": delay, **found._asdict()})
        sys.stdout.write(
            f"{options.in_flight} in flight, server takes {delay} s: {found.answers / found.seconds:.0f} answers/s, "
            f"{found.waiting:.1%} of the time in flight waiting on the server\n"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def measure(sentences: int, in_flight: int, delay: float) -> Measured:
    """Ask about so many sentences."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs, delay), daemon=True)
    server.start()
    os.environ[openai_backend.BASE_URL_VARIABLE] = f"http://127.0.0.1:{mine.recv()}/v1"
    os.environ[openai_backend.IN_FLIGHT_VARIABLE] = str(in_flight)
    try:
        with tempfile.TemporaryDirectory() as folder:
            backend = openai_backend.OpenAIBackend("instant")
            extractor = LanguageModelExtractor(backend, store=Path(folder) / "answers.sqlite")
            extractor.ask(["FINDINGS: An effusion."])  # imports, greeting and first connection
            reports = [f"FINDINGS: Small effusion of {number} ml." for number in range(sentences)]
            asking = LanguageModelExtractor(backend, store=Path(folder) / "answers.sqlite")
            began = time.perf_counter()
            asking.ask(reports)
            seconds = time.perf_counter() - began
            stats = asking.statistics()
    finally:
        server.terminate()
        server.join()
    return Measured(stats.answers, seconds, stats.seconds / (in_flight * seconds))


def _serve(port: Connection, delay: float) -> None:
    """Answer every request with the same words, `delay` seconds after it came."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            length = 0
            while head.strip():
                name, _, value = head.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
                head = await reader.readline()
            await reader.readexactly(length)
            await asyncio.sleep(delay)
            writer.write(f"{HEAD}{COMPLETION}".encode())
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0, backlog=512)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


if __name__ == "__main__":
    main()
