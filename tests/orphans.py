"""Jobs for workers in processes of their own, and a parent that is to be killed: `python orphans.py FOLDER`."""

import sys
import time
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgdea_core.experiments.jobs import Job, side_by_side


@dataclass(frozen=True, kw_only=True)
class Number(Job):
    """Multiplies its parts."""

    writer: int

    @property
    def key(self) -> dict[str, Any]:
        return {"writer": self.writer}

    @property
    def place(self) -> Hashable:
        return self.writer

    def prepare(self) -> None:
        """Nothing to make."""

    def run(self) -> list[dict[str, Any]]:
        return [self.key | part | {"square": self.writer * part["number"]} for part in self.parts]


@dataclass(frozen=True, kw_only=True)
class Beat(Number):
    """Writes the time, for a minute at most."""

    path: Path

    def run(self) -> list[dict[str, Any]]:
        for _ in range(600):
            self.path.write_text(str(time.time()))
            time.sleep(0.1)
        return []


if __name__ == "__main__":
    list(side_by_side([Beat(writer=0, path=Path(sys.argv[1]) / name) for name in "abc"], 2, "beats"))
