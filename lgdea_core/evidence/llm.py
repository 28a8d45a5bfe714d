"""The extractor that asks a language model: it asks what is missing, stores every answer, and reads findings back."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import chain
from pathlib import Path
from typing import Protocol, runtime_checkable

from tqdm.auto import tqdm

from lgdea_core.evidence.answers import Passage, Reply, judge, locate_statements, read_passages
from lgdea_core.evidence.prompt import Prompt, load_prompt
from lgdea_core.evidence.store import AnswerStats, AnswerStore, Question, StoredAnswer, passage_hash, store_path
from lgdea_core.finding import Finding

FAILURES_IN_A_ROW = 100
"""So many sentences without an answer between two answers: the server is gone, it is not the sentences."""

OTHERS_SECONDS = 0.5
"""Between two looks at what other processes ask."""

log = logging.getLogger("lgdea")


class NoAnswerError(Exception):
    """The model said nothing about a sentence: transport failed, or the server refused. Its text is the reason."""


Outcome = Sequence[Reply] | NoAnswerError
Settle = Callable[[Passage, Outcome], None]


@runtime_checkable
class Backend(Protocol):
    """Where a model runs."""

    name: str
    """the extractor's name, which is the model's identity in the store"""

    def run(self, passages: Iterator[Passage], prompt: Prompt, settle: Settle) -> None:
        """Ask about each passage, and hand every outcome to `settle` as soon as it is there.

        A passage is taken only when it can be asked about. When there are no more, those in flight are finished.

        Raises:
            RuntimeError: the model cannot be asked at all; raised before a passage is taken, if it shows by then.
        """
        ...


class LanguageModelExtractor:
    """Findings of reports by a language model, sentence by sentence, through the store.

    A sentence is asked about once, however many reports share it. One that stayed without an answer has no findings, is
    counted in `rejected` as "no answer (reason)", and is asked about again in the next run.
    """

    def __init__(self, backend: Backend, prompt: Prompt | None = None, store: Path | None = None) -> None:
        """
        Args:
            backend: where the model runs.
            prompt: None loads the page that came with the package.
            store: file of answers; None takes `store_path`.
        """
        self._backend = backend
        self._prompt = prompt or load_prompt()
        self._store = store or store_path()
        self.question = Question(prompt=self._prompt.digest, model=backend.name)
        """what all its questions share"""
        self._asked: set[str] = set()
        self._unanswered: dict[str, str] = {}
        self.rejected: dict[str, int] = {}
        """answers and statements refused among the reports read so far, by reason"""

    def extract(self, reports: Sequence[str]) -> list[list[Finding]]:
        """Findings of each report, in the order the model stated them. Errors as `ask`."""
        self.ask(reports)
        return self.read(reports)

    def ask(self, reports: Sequence[str], progress: bool = False) -> None:
        """Ask about every sentence that has no answer in the store; the model is not needed where all have one.

        On Ctrl-C nothing new is asked, what is in flight is finished and stored, and KeyboardInterrupt is raised; on a
        second Ctrl-C it is raised at once. Works inside a running event loop, such as a notebook's.

        Args:
            reports: any text; what is sent of it are the texts of `read_passages`.
            progress: show a bar, with rate and remaining time.

        Raises:
            RuntimeError: the model cannot be asked or stopped answering; what was answered is stored.
        """
        with AnswerStore(self._store) as store:
            # Of 400,000 reports only the hashes are kept; each is read again when its turn comes.
            position_of = {
                passage_hash(passage): position
                for position, report in enumerate(reports)
                for passage in read_passages(report)
            }
            self._asked |= position_of.keys()
            missing = {key: position for key, position in position_of.items() if not store.has(self.question, key)}
            known = len(position_of) - len(missing)
            if not missing:
                return
            with tqdm(
                total=len(position_of), initial=known, disable=not progress, desc="asking", unit="sentence"
            ) as bar:
                run = _Run(store, self.question, bar, reports, missing)
                _interruptible(
                    lambda: run.until_answered(lambda passages: self._backend.run(passages, self._prompt, run.settle)),
                    run.stop,
                )
        self._unanswered = run.unanswered
        log.info("evidence: %s answered %d sentences, %d were known", self._backend.name, run.answered, known)
        if run.unanswered:
            run.report_unanswered(known)

    def read(self, reports: Sequence[str]) -> list[list[Finding]]:
        """Findings of reports that were asked about; refused answers and statements are counted in `rejected`."""
        with AnswerStore(self._store) as store:
            return [
                [finding for passage in read_passages(report) for finding in self._read_one(store, passage)]
                for report in reports
            ]

    def _read_one(self, store: AnswerStore, passage: Passage) -> list[Finding]:
        answer = self._accepted(store, passage)
        return locate_statements(answer.statements, passage, self.rejected) if answer else []

    def _accepted(self, store: AnswerStore, passage: Passage) -> StoredAnswer | None:
        """The answer about a sentence; where there is none, or it was refused, that is counted in `rejected`."""
        key = passage_hash(passage)
        answer = store.get(self.question, key)
        if answer is not None and answer.status != "rejected":
            return answer
        reason = f"answer: {answer.reason}" if answer else f"no answer ({self._unanswered.get(key, 'not asked')})"
        self.rejected[reason] = self.rejected.get(reason, 0) + 1
        return None

    def statistics(self) -> AnswerStats:
        """What the store holds about the reports that were asked about, in this run or an earlier one."""
        with AnswerStore(self._store) as store:
            return store.statistics(self.question, self._asked)


class _Run:
    """One call of a backend: what it has to ask, and what becomes of the outcomes."""

    def __init__(
        self, store: AnswerStore, question: Question, bar: tqdm, reports: Sequence[str], missing: dict[str, int]
    ) -> None:
        self._store, self._question, self._bar = store, question, bar
        self._reports = reports
        self._missing = missing
        """hash of a passage -> position of a report that holds it"""
        self._failed_in_a_row = 0
        self.stop = threading.Event()
        """once it is set, nothing new is asked"""
        self.answered = 0
        self.unanswered: dict[str, str] = {}
        """hash of a passage -> why it has no answer"""

    def until_answered(self, ask: Callable[[Iterator[Passage]], None]) -> None:
        """Ask what is missing, until `stop` is set; then wait for what other processes ask, and ask what they left."""
        ask(self._claimed(self._missing, elsewhere := []))
        while elsewhere and not self.stop.is_set():
            waiting = [key for key in elsewhere if not self._store.has(self._question, key)]
            self._bar.update(len(elsewhere) - len(waiting))
            claimed = self._claimed(waiting, elsewhere := [])
            if (first := next(claimed, None)) is not None:
                ask(chain([first], claimed))
            elif elsewhere:
                self.stop.wait(OTHERS_SECONDS)

    def _claimed(self, keys: Iterable[str], elsewhere: list[str]) -> Iterator[Passage]:
        """Passages still without an answer that nobody else asks about, until `stop` is set.

        Args:
            keys: hashes of passages.
            elsewhere: takes the hashes of what another process asks.
        """
        for key in keys:
            if self.stop.is_set():
                return
            if self._store.claim(self._question, key):
                passages = read_passages(self._reports[self._missing[key]])
                yield next(passage for passage in passages if passage_hash(passage) == key)
            elif self._store.has(self._question, key):  # another process was faster
                self._bar.update()
            else:
                elsewhere.append(key)

    def settle(self, passage: Passage, outcome: Outcome) -> None:
        """Store an answer, or note why there is none."""
        self._bar.update()
        if not isinstance(outcome, NoAnswerError):
            self._store.put(self._question, passage, judge(outcome))
            self.answered, self._failed_in_a_row = self.answered + 1, 0
            return
        self.unanswered[passage_hash(passage)] = str(outcome)
        self._store.release(self._question, passage_hash(passage))
        self._failed_in_a_row += 1
        if self._failed_in_a_row == FAILURES_IN_A_ROW:
            self._give_up(f"{FAILURES_IN_A_ROW} sentences in a row")

    def report_unanswered(self, known: int) -> None:
        """Warn of sentences without an answer; an error where none has one."""
        if not self.answered + known:
            self._give_up("any sentence")
        log.warning("evidence: no answer to %d sentences (%s); run again", len(self.unanswered), self._reasons)

    @property
    def _reasons(self) -> str:
        return ", ".join(f"{reason}: {count}" for reason, count in sorted(Counter(self.unanswered.values()).items()))

    def _give_up(self, what: str) -> None:
        raise RuntimeError(
            f"{self._question.model}: no answer to {what} ({self._reasons}); {self.answered} others are answered and "
            "stored. Look after the server, then run again"
        )


def _interruptible(work: Callable[[], None], stop: threading.Event) -> None:
    """Run in another thread, where no event loop runs yet; on Ctrl-C ask it to stop, and wait until it has."""
    done = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="evidence", daemon=True).start()
    try:
        done.result()
    except KeyboardInterrupt:
        stop.set()
        log.warning("evidence: stopping; what is in flight is finished and stored")
        done.result()
        raise
