"""The loss of a training while it runs."""

import json
import logging
import time
from types import TracebackType

import pandas as pd
from IPython.display import display

from lgdea_core.figures.training import figure_history

REDRAWN_EVERY = 4.0
"""seconds"""
MOST_SHARE = 0.05
"""of the time of a training that its drawing may take"""


class LiveHistory(logging.Handler):
    """Context in which a column of every row that a training logs is drawn: one curve a training, named by `begin`."""

    def __init__(self, column: str = "loss") -> None:
        super().__init__(logging.INFO)
        self.column, self.rows, self.name_now = column, [], ""
        self.shown, self.next_at = None, 0.0

    def begin(self, name: str) -> None:
        """Rows from here on are of the training of that name."""
        self.name_now = name

    def emit(self, record: logging.LogRecord) -> None:
        """Take the row in a message, if it is one, and draw it when the last drawing is old enough."""
        message = record.getMessage()
        if not message.startswith('{"step"'):
            return
        row = json.loads(message)
        if self.column in row:
            self.rows.append({"variant": self.name_now, "step": row["step"], self.column: row[self.column]})
            if time.monotonic() > self.next_at:
                self.draw()

    def draw(self) -> None:
        began = time.monotonic()
        figure = figure_history(pd.DataFrame(self.rows), [self.column])
        if self.shown is None:
            self.shown = display(figure, display_id=True)
        else:
            self.shown.update(figure)
        drawn = time.monotonic()
        self.next_at = drawn + max(REDRAWN_EVERY, (drawn - began) / MOST_SHARE)

    def __enter__(self) -> "LiveHistory":
        self.logger = logging.getLogger("lgdea")
        self.level_before = self.logger.level
        self.logger.setLevel(logging.INFO)
        self.logger.addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.logger.removeHandler(self)
        self.logger.setLevel(self.level_before)
        if self.rows:
            self.draw()
