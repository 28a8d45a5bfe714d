"""Open working copies of the notebooks in JupyterLab: python notebooks/lab.py [options of jupyter lab].

What JupyterLab saves, outputs with reports and films among it, then lies in data/lab/, which git ignores. The server
sees data/ alone, so no tracked file can be saved from it.
"""

import hashlib
import itertools
import json
import os
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
SOURCE, DATA = ROOT / "notebooks", ROOT / "data"


def refresh_copies(source: Path = SOURCE, folder: Path = DATA / "lab") -> list[str]:
    """Copy each notebook that the folder lacks, or that was changed in the repository since.

    A copy whose cells its reader changed is kept under another name then.

    Returns:
        A line for each that was kept so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    said = []
    for path in sorted(source.glob("*.ipynb")):
        notebook, copy = nbformat.read(path, as_version=4), folder / path.name
        origin = cells_checksum(notebook)
        if copy.is_file():
            there = nbformat.read(copy, as_version=4)
            copied_from = there.metadata.get("copied_from")
            if copied_from == origin:
                continue
            if cells_checksum(there) != copied_from:
                names = (f"{copy.stem}-mine-{number}.ipynb" for number in itertools.count(1))
                kept = next(folder / name for name in names if not (folder / name).exists())
                copy.rename(kept)
                said.append(f"{copy.name} was changed in the repository; yours, with its changes, is {kept.name} now")
        notebook.metadata["copied_from"] = origin
        nbformat.write(notebook, copy)
    return said


def cells_checksum(notebook: nbformat.NotebookNode) -> str:
    """sha256 of what a notebook's cells say, whatever their outputs."""
    cells = [(cell.cell_type, cell.source) for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def server_options(data: Path = DATA) -> list[str]:
    """Options of jupyter lab: it sees one folder and what is below, and saves widgets with their pictures.

    The settings are defaults: what a user chose in JupyterLab goes before.
    """
    settings = SOURCE / "lab_settings"
    return [
        f"--ServerApp.root_dir={data}", "--LabApp.default_url=/lab/tree/lab", f"--LabApp.app_settings_dir={settings}"
    ]  # fmt: skip


if __name__ == "__main__":
    print("\n".join(refresh_copies()), end="", flush=True)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin slow down all others on a busy machine
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *server_options(), *sys.argv[1:]])
