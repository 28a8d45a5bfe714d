"""Where runs and data lie, and how files are written whole: every room writes by these."""

import errno
import glob
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

logger = logging.getLogger("lgdea")

RUNS_VARIABLE = "LGDEA_RUNS"
DATA_VARIABLE = "LGDEA_DATA"
"""Environment variable that names the folder with one sub-folder per corpus."""
HOLDER_VARIABLE = "LGDEA_HOLDER"
"""Environment variable by which a process lets those it starts write into the one folder it holds."""
LOCK_FILE = ".lock"
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<host>[\w-]+)\.(?P<process>\d+)\.\d+\.part", re.DOTALL)
_KEPT = 40
"""Letters of a file's name that its temporary name begins with: file systems bound names by 255 bytes."""
_numbers = itertools.count()
_held: set[Path] = set()


def project_root() -> Path:
    """The repository, or the working directory where the package was installed without it."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


def runs_folder() -> Path:
    """Where runs lie: the environment's LGDEA_RUNS, else `data/runs`; a relative one starts at the repository."""
    return project_root() / os.environ.get(RUNS_VARIABLE, "data/runs")


def checksum(path: Path) -> str:
    """sha256 of a file's bytes, or of the names and checksums of all files in a folder."""
    if path.is_dir():
        files = sorted(entry for entry in path.rglob("*") if entry.is_file())
        lines = "".join(f"{checksum(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def git_commit(root: Path) -> str:
    """Commit of the code, with "-dirty" where package or notebooks differ from it; "unknown" outside a checkout.

    Of an installed package its version: the working directory may be a checkout of something else.
    """
    if not (Path(__file__).resolve().parents[1] / "pyproject.toml").is_file():
        return f"release {metadata.version('lgdea')}"

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return "unknown"  # an archive unpacked inside some other repository
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--", "lgdea_core", "notebooks") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path beside the target that takes its place on leaving, or is removed after an error.

    The name is this process's own, so that two writers never share a half-written file. Of a folder the old one stands
    beside the new one for a moment: see `recover`.

    Raises:
        OSError: the write failed, as on a full disk; the message names the target, which is as it was.
    """
    begins = f".{target.name[:_KEPT]}."
    for left in target.parent.glob(f"{glob.escape(begins)}*.part"):  # of dead processes, see `sweep`
        if _LEFTOVER.fullmatch(left.name) and not _is_written(left):
            remove(left)
    part = target.with_name(f"{begins}{_host()}.{os.getpid()}.{next(_numbers)}.part")
    try:
        with _naming(target):
            yield part
            recover(target)
            if target.is_dir():  # a folder cannot be renamed onto a full one
                target.rename(_old(target))
            part.replace(target)
    finally:
        recover(target)
        remove(part)


def write_text(target: Path, text: str) -> None:
    """Replace a file whole."""
    with replacing(target) as part:
        part.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: it is no JSON, as where it was cut; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); it was cut or changed, make it again") from error


def recover(target: Path) -> None:
    """Take back a folder whose writer was killed between its two renames, or remove what a later kill left of it."""
    old = _old(target)
    if old.is_dir():
        remove(old) if target.exists() else old.rename(target)


def sweep(folder: Path) -> None:
    """Remove all that was left half-written in a folder and below, by whomever: for its holder, before it writes.

    What a living process of this machine writes stays: a notebook's holder writes beside it. So does what is younger
    than a day and another machine's, whose processes cannot be asked.
    """
    parts = (path for path in folder.rglob("*") if path.name.endswith((".part", ".tmp")))
    left = [path for path in parts if not _is_written(path)]
    for path in left:
        remove(path)
    if left:
        logger.info("%s: removed %d half-written files of processes that are dead", folder, len(left))


class FolderHeld(RuntimeError):
    """Another process writes into a folder."""


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Nobody else writes into the folder meanwhile: a lock of the operating system, which ends with its process.

    A process may ask again for what it holds, and so may those it starts with `HOLDER_VARIABLE` set to the folder.

    Raises:
        FolderHeld: another process holds it; the message names host and process.
    """
    folder = folder.resolve()
    if folder in _held or os.environ.get(HOLDER_VARIABLE) == str(folder):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    lock, holder = FileLock(path, timeout=0.5, thread_local=False), ""
    try:
        lock.acquire()
    except Timeout:
        with suppress(OSError):  # it may just have ended
            holder = path.read_text().strip()
        holder = holder or "a process that has just begun"
        raise FolderHeld(
            f"{folder} is being written by {holder}; wait until that ends, end it, or give this run a name of its own"
        ) from None
    try:
        with _naming(path):
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        _held.add(folder)
        yield
    finally:
        _held.discard(folder)
        path.unlink(missing_ok=True)  # one who got hold of the file that is gone tries again (filelock)
        lock.release()


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname())


def _is_written(path: Path) -> bool:
    """Whether a living process may be writing a temporary file."""
    name = _LEFTOVER.fullmatch(path.name)
    if name is None:
        return False
    if name["host"] != _host():
        return path.exists() and path.stat().st_mtime > time.time() - 86400
    try:
        os.kill(int(name["process"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's, and alive
        return True
    return True


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """A write that a disk refuses names the file that was to be written, which those who raise seldom do."""
    try:
        yield
    except Exception as error:
        if not _write_failed(error):
            raise
        reason = f"{error.strerror if isinstance(error, OSError) else error}; nothing was replaced"
        raise OSError(getattr(error, "errno", None) or errno.EIO, reason, str(target)) from error


def _write_failed(error: Exception) -> bool:
    """Whether a disk refused; those who write by C++ or Rust say so in words alone."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
    return any(words in str(error) for words in ("os error 27", "os error 28", "os error 122", "PytorchStreamWriter"))
