"""Jobs make rows of tables: what is missing runs side by side, and each job's rows are written as they come."""

import logging
import multiprocessing
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from tqdm.auto import tqdm

from lgdea_core.experiments.tables import Table

logger = logging.getLogger("lgdea")


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """What makes one or several rows of a table."""

    parts: tuple[Mapping[str, Any], ...] = ({},)
    """the rows: columns of the table's key, each with its value, beyond `key`"""

    @property
    @abstractmethod
    def key(self) -> dict[str, Any]:
        """Columns of the table's key with the values that all its rows share."""

    @abstractmethod
    def run(self) -> list[dict[str, Any]]:
        """The rows of `parts`."""

    @property
    def needs(self) -> str:
        """What has to be there first, and how to make it; empty where nothing is missing."""
        return ""

    @property
    @abstractmethod
    def place(self) -> Hashable:
        """Jobs of one place share what `prepare` makes."""

    @abstractmethod
    def prepare(self) -> None:
        """Make what is made on first use, before several processes want it at once."""

    def __str__(self) -> str:
        own = [f"{len(self.parts)} rows"] if len(self.parts) > 1 else self.parts[0].values()
        return "  ".join(str(value) for value in (*self.key.values(), *own) if value != "")


def make_rows(table: Table, jobs: Sequence[Job], workers: int) -> None:
    """Run jobs, `workers` at a time, and add the rows of each as soon as they are there.

    A killed run loses what was under way (a training goes on from its checkpoint). A job that fails does not end the
    others: their rows are added, and then the failures are named.

    Raises:
        RuntimeError: a job failed.
    """
    for job in {job.place: job for job in jobs}.values():
        job.prepare()
    for rows in side_by_side(jobs, workers, table.name):
        table.add(rows)
        logger.info("%s", rows)


def side_by_side(jobs: Sequence[Job], workers: int, name: str) -> Iterator[list[dict[str, Any]]]:
    """The rows of each job, in the order of completion: `workers` processes, which share the CPU's threads.

    They end with this process, even where it is killed: else they would train on beside the run that resumes them.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(threads,)) as pool:
        futures = {pool.submit(job.run): job for job in jobs}
        failed = []
        for future in tqdm(as_completed(futures), total=len(futures), unit="job", desc=name):
            if error := future.exception():
                logger.error("%s failed: %s: %s", futures[future], type(error).__name__, error)
                failed.append(error)
            else:
                yield future.result()
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(futures)} jobs failed; first: {failed[0]}") from failed[0]


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
