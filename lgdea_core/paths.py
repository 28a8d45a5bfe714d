"""Where runs and data lie, and how files are written whole: every room writes by these."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

RUNS_VARIABLE = "LGDEA_RUNS"


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
    """Commit of the code, with "-dirty" where package or notebooks differ from it; "unknown" outside a checkout."""

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
    """A temporary path beside the target that takes its place on leaving, or is removed after an error."""
    part = target.with_name(f".{target.name}.part")
    remove(part)  # left behind by a killed process
    try:
        yield part
        if target.is_dir():
            remove(target)  # a folder cannot be renamed onto a full one
        part.replace(target)
    finally:
        remove(part)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


DATA_VARIABLE = "LGDEA_DATA"
"""Environment variable that names the folder with one sub-folder per corpus."""
