"""Run folders: schema, checksum and provenance of every artifact that one notebook hands to the next."""

import hashlib
import itertools
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lgdea_core.config import RunConfig, config_differences, flatten
from lgdea_core.finding import EVIDENCE_COLUMNS
from lgdea_core.graph import Propagation
from lgdea_core.paths import (
    checksum,
    git_commit,
    holding,
    project_root,
    read_json,
    recover,
    replacing,
    runs_folder,
    sweep,
    write_text,
)

log = logging.getLogger("lgdea")

CONFIG_FILE = "config.json"
PROVENANCE_FILE = "provenance.json"
LONGEST_NAME = 150
FIGURES_VARIABLE = "LGDEA_OWN_FIGURES"
"""Environment variable; set where several runs draw: each draws into its own folder, not all into `figures/`."""
PACKAGES = ("numpy", "pandas", "scipy", "torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What one file or folder of a run holds and who writes it."""

    notebook: str
    """number of the notebook that writes it"""
    columns: tuple[str, ...] = ()
    """columns a table must have; it may have more"""


ARTIFACTS = {
    "split.json": Artifact(notebook="01"),
    "evidence.parquet": Artifact(notebook="01", columns=EVIDENCE_COLUMNS),
    "extraction_stats.json": Artifact(notebook="01"),
    "warm": Artifact(notebook="02"),
    "warm_history.csv": Artifact(notebook="02", columns=("step",)),
    "prototypes.parquet": Artifact(notebook="02", columns=("prototype", "usage", "observation", "purity", "phrases")),
    "relations.npz": Artifact(notebook="03"),
    "top_relations.parquet": Artifact(notebook="03", columns=("image_id", "report_id", "rank", "relation")),
    "graph_stats.json": Artifact(notebook="03"),
    "model": Artifact(notebook="04"),
    "baseline": Artifact(notebook="04"),
    "model_shuffled": Artifact(notebook="04"),
    "baseline_shuffled": Artifact(notebook="04"),
    "history.csv": Artifact(notebook="04", columns=("step",)),
    "metrics.json": Artifact(notebook="05"),
    "fresh_metrics.csv": Artifact(notebook="06", columns=("variant", "task", "metric", "finding", "estimate")),
    "asg_regions.csv": Artifact(notebook="07", columns=("variant", "task", "metric", "finding", "estimate")),
}
"""Everything that passes from one notebook to another, by its name in `data/runs/<run>/`; no suffix: a folder."""


def default_run_name(config: RunConfig) -> str:
    """`<method>-<preset>-<seed>`, the corpus unless it is the phantom, and what is not the usual of the paired ratio, a
    published start and its tuning.

    So another choice of these is another run, beside the one before.
    """
    parts, data = [config.method, config.preset, str(config.seed)], config.data
    if data.corpus != "phantom":
        parts.append(data.corpus)
    usual = RunConfig.from_preset(config.preset, method=config.method, corpus=data.corpus)
    if data.paired_ratio != usual.data.paired_ratio:
        parts.append(f"paired_ratio-{data.paired_ratio:g}")
    if config.model.model_start:
        parts.append(Path(config.model.model_start).name)
    if config.model.tuning != usual.model.tuning:
        parts.append(config.model.tuning)
    return plain_name("-".join(parts))


def plain_name(text: str) -> str:
    """A text as a part of a run's name: letters, digits and . _ + = - stay, all else becomes a dash."""
    return re.sub(r"[^\w.+=-]", "-", text)


def check_run_name(name: str) -> str:
    """The name, where it is one plain folder name.

    Raises:
        ValueError: it is not, or is too long for what is made of it.
    """
    if not re.fullmatch(r"[\w+=-][\w.+=-]*", name) or len(name.encode()) > LONGEST_NAME:
        raise ValueError(
            f"run name: expected letters, digits and any of . _ + = - (not first a dot), at most {LONGEST_NAME}, got "
            f"{name!r}; choose another"
        )
    return name


def start_run(config: RunConfig, name: str | None = None, root: Path | None = None) -> "Run":
    """Create a run's folder, or reopen it where it holds the same configuration.

    Args:
        config: everything the run depends on; written to `config.json`.
        name: folder name; None takes `default_run_name`.
        root: folder of all runs; None takes `runs_folder`.

    Raises:
        ValueError: the name is not a plain folder name, or the folder holds another configuration.
        FolderHeld: another process writes into the folder.
    """
    name = check_run_name(default_run_name(config) if name is None else name)
    folder = (root or runs_folder()) / name
    if (folder / CONFIG_FILE).is_file():
        _refuse_other_config(folder, config)
    with holding(folder):
        sweep(folder)
        with replacing(folder / CONFIG_FILE) as path:
            config.save(path)
    log.info("run %s: %s", name, folder)
    return Run(folder=folder, config=config)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run's folder: notebooks write artifacts into it and read those of the notebooks before them.

    Files appear whole or not at all: they are written under a temporary name and then renamed. Every artifact's
    checksum, commit, package versions and inputs go to `provenance.json`, and are checked when it is read.
    """

    folder: Path
    config: RunConfig
    inputs: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    """checksums of what was read through this object so far: the provenance of what it writes next"""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def figures(self) -> Path:
        """Folder for figures: `figures/`; the run's own in a sweep, and for preset `ci`, which learns nothing."""
        own = self.config.preset == "ci" or FIGURES_VARIABLE in os.environ
        folder = self.folder / "figures" if own else project_root() / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def provenance(self) -> dict[str, dict[str, Any]]:
        """Entry of every artifact written so far, by name; holds no date, so that a rerun gives the same bytes."""
        path = self.folder / PROVENANCE_FILE
        return read_json(path) if path.is_file() else {}

    def path(self, artifact: str) -> Path:
        """Where an artifact lies or will lie, unchecked.

        Raises:
            ValueError: `ARTIFACTS` has no such name.
        """
        if artifact not in ARTIFACTS:
            known = ", ".join(ARTIFACTS)
            raise ValueError(f"no artifact is called {artifact!r}; declare it in artifacts.ARTIFACTS (there: {known})")
        return self.folder / artifact

    @contextmanager
    def writing(self, artifact: str, exclusions: Mapping[str, int] | None = None) -> Iterator[Path]:
        """A temporary path to write an artifact to; renamed and recorded on leaving, removed after an error.

        An artifact without suffix is a folder, such as a saved model; it is made before the block starts.

        Args:
            exclusions: what was left out on the way and how often, by reason; goes into the provenance.

        Raises:
            FolderHeld: another process writes into the run.
        """
        target = self.path(artifact)
        with holding(self.folder):
            with replacing(target) as path:
                if not target.suffix:
                    path.mkdir()
                yield path
            self._record(artifact, dict(exclusions or {}))

    def checked(self, artifact: str) -> Path:
        """Path of an artifact that is there and is what was written.

        Raises:
            FileNotFoundError: it is missing; the message says which notebook writes it.
            RuntimeError: its bytes are not those that were recorded, or it belongs to another configuration.
        """
        path = self.path(artifact)
        again = f"run notebook {ARTIFACTS[artifact].notebook} again"
        if not path.exists():
            recover(path)
        if not path.exists():
            first = f"run notebook {ARTIFACTS[artifact].notebook} first"
            raise FileNotFoundError(f"run {self.name}: no {artifact} at {path}; {first}")
        entry = self.provenance.get(artifact)
        if entry is None:
            raise RuntimeError(f"run {self.name}: {artifact} has no entry in {PROVENANCE_FILE}; {again}")
        if entry["config"] != config_hash(self.config):
            raise RuntimeError(f"run {self.name}: {artifact} was written under another configuration; {again}")
        found = checksum(path)
        if found != entry["sha256"]:
            raise RuntimeError(
                f"run {self.name}: {path} was changed after it was written: expected sha256 {entry['sha256'][:12]}, "
                f"got {found[:12]}; {again}"
            )
        self._warn_if_stale(artifact, entry["inputs"])
        self.inputs[artifact] = found
        return path

    def save_table(self, artifact: str, frame: pd.DataFrame, exclusions: Mapping[str, int] | None = None) -> Path:
        """Write a table as parquet or CSV, whichever its name ends in.

        Raises:
            ValueError: a declared column is missing.
        """
        self._check_columns(artifact, frame)
        with self.writing(artifact, exclusions) as path:
            if artifact.endswith(".parquet"):
                frame.to_parquet(path, index=False)
            else:
                frame.to_csv(path, index=False, lineterminator="\n")
        return self.path(artifact)

    def load_table(self, artifact: str) -> pd.DataFrame:
        """Read what `save_table` wrote.

        Raises:
            FileNotFoundError: as `checked`.
            RuntimeError: as `checked`.
            ValueError: a declared column is missing.
        """
        path = self.checked(artifact)
        parquet = artifact.endswith(".parquet")
        frame = pd.read_parquet(path) if parquet else pd.read_csv(path, float_precision="round_trip")
        self._check_columns(artifact, frame)
        return frame

    def save_json(self, artifact: str, values: Mapping[str, Any]) -> Path:
        """Write nested plain values; numpy scalars and arrays become numbers and lists."""
        with self.writing(artifact) as path:
            path.write_text(json.dumps(values, indent=2, default=_plain) + "\n")
        return self.path(artifact)

    def load_json(self, artifact: str) -> dict[str, Any]:
        """Read what `save_json` wrote; errors as `checked`."""
        return read_json(self.checked(artifact))

    def save_relations(self, propagation: Propagation) -> Path:
        """Write `relations.npz`: seeds, both propagators and the number of steps, never images x reports."""
        with self.writing("relations.npz") as path:
            propagation.save(path)
        return self.path("relations.npz")

    def load_relations(self) -> Propagation:
        """Read what `save_relations` wrote; never unpickles. Errors as `checked`."""
        return Propagation.load(self.checked("relations.npz"))

    def _check_columns(self, artifact: str, frame: pd.DataFrame) -> None:
        self.path(artifact)
        missing = [column for column in ARTIFACTS[artifact].columns if column not in frame]
        if missing:
            raise ValueError(
                f"run {self.name}: {artifact} needs column(s) {missing}, got {list(frame.columns)}; "
                "artifacts.ARTIFACTS declares them"
            )

    def _record(self, artifact: str, exclusions: dict[str, int]) -> None:
        entry = {
            "sha256": checksum(self.folder / artifact),
            "notebook": ARTIFACTS[artifact].notebook,
            "config": config_hash(self.config),
            "commit": git_commit(project_root()),
            "packages": {name: metadata.version(name) for name in PACKAGES},
            "exclusions": exclusions,
            "inputs": {name: found for name, found in sorted(self.inputs.items()) if name != artifact},
        }
        entries = dict(sorted({**self.provenance, artifact: entry}.items()))
        write_text(self.folder / PROVENANCE_FILE, json.dumps(entries, indent=2) + "\n")

    def _warn_if_stale(self, artifact: str, inputs: dict[str, str]) -> None:
        entries = self.provenance
        stale = [name for name, found in inputs.items() if entries.get(name, {}).get("sha256") != found]
        if stale:
            log.warning(
                "run %s: %s was made from another %s than the one there now; run notebook %s again",
                self.name, artifact, " and ".join(stale), ARTIFACTS[artifact].notebook,
            )  # fmt: skip


def config_hash(config: RunConfig) -> str:
    """sha256 of a configuration without its `MOVABLE` fields."""
    values = flatten(asdict(config))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _refuse_other_config(folder: Path, config: RunConfig) -> None:
    differing = config_differences(read_json(folder / CONFIG_FILE), asdict(config))
    if differing:
        numbered = (f"{folder.name}-{number}" for number in itertools.count(2))
        free = next(name for name in numbered if not (folder.parent / name).exists())
        raise ValueError(
            f"run folder {folder} was made with another configuration: {'; '.join(differing)}. "
            f'Start a new run by parameter run = "{free}"'
        )


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"JSON takes plain values, lists, dicts and numpy, got {type(value).__name__}; convert it")
