"""How every command ends where its user made a mistake: one line that says what to do, and exit status 2."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lgdea_core.paths import FolderHeld


class Command(argparse.ArgumentParser):
    """A parser whose errors are one line; `--help` shows the rest.

    Args:
        prog: what its user typed, unless that was a command of `lgdea`.
        **options: of any parser.
    """

    def __init__(self, prog: str, **options: Any) -> None:
        typed = sys.argv[0] if sys.argv[0].startswith("lgdea ") and prog.startswith("python -m ") else prog
        super().__init__(prog=typed, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (--help shows all options)\n")


@contextmanager
def ending_mistakes(command: Command) -> Iterator[None]:
    """What is refused inside the block ends the command with one line and exit status 2, not with a traceback.

    Refusals are ValueError, OSError and FolderHeld, whose messages say what was expected and what to do; anything else
    is a fault of the code, and shows where.
    """
    try:
        yield
    except (ValueError, OSError, FolderHeld) as error:
        command.error(str(error))


def check_target(path: Path) -> Path:
    """A file that a command is about to work for, where it can be written.

    Raises:
        ValueError: its folder is missing, or a folder has its name.
    """
    if not path.parent.is_dir():
        raise ValueError(f"{path}: no folder {path.parent}; make it first")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file")
    return path
