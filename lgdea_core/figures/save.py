"""Figures as files: PNG and PDF with their origin, the same bytes for the same figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from lgdea_core.figures.style import DPI
from lgdea_core.paths import git_commit, project_root, replacing
from lgdea_core.runs.artifacts import Run


def save_figure(
    figure: Figure, path_stem: Path, metadata: Mapping[str, str], formats: Sequence[str] = ("png", "pdf")
) -> list[Path]:
    """Write PNG and PDF, each replaced whole, the same bytes for the same figure: no date.

    The figure's description (`alt`) is the PNG's text chunk Description and the PDF's subject. Fonts of the PDF are
    TrueType (type 42), as journals ask.

    Args:
        figure: what to save.
        path_stem: path without suffix, dots in its name are kept; its folder is made.
        metadata: at least run, commit and seed; text chunks of the PNG, keywords of the PDF.
        formats: "png", "pdf" or both.

    Raises:
        ValueError: run, commit or seed is missing.
    """
    missing = [key for key in ("run", "commit", "seed") if key not in metadata]
    if missing:
        raise ValueError(f"save_figure {path_stem.name}: metadata must say run, commit and seed; {missing} missing")
    path_stem.parent.mkdir(parents=True, exist_ok=True)
    alt = getattr(figure, "alt", "")
    keywords = "; ".join(f"{key}={value}" for key, value in metadata.items())
    entries = {
        "png": {**metadata, "Description": alt},
        "pdf": {"Keywords": keywords, "Subject": alt, "CreationDate": None},
    }
    written = []
    for suffix in formats:
        path = path_stem.with_name(f"{path_stem.name}.{suffix}")
        with replacing(path) as part, rc_context({"pdf.fonttype": 42}):
            figure.savefig(part, format=suffix, dpi=DPI, metadata=entries[suffix])
        written.append(path)
    if "png" in formats:
        figure.png = written[formats.index("png")].read_bytes()  # so that a notebook need not draw it again
    return written


def keep_figure(run: Run, figure: Figure, name: str, *, patients: bool = False) -> Figure:
    """Save a figure with its origin where the run's figures lie, and hand it back to be shown.

    Args:
        run: says where, and what goes into the metadata.
        figure: what to save.
        name: file name without suffix.
        patients: it shows a report or a film; those of a real corpus stay in the run's folder, which git ignores.
    """
    private = patients and run.config.data.corpus != "phantom"
    folder = run.folder / "figures" if private else run.figures
    origin = {"run": run.name, "commit": git_commit(project_root()), "seed": str(run.config.seed)}
    save_figure(figure, folder / name, origin)
    return figure
