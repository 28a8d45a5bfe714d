"""The phantom as a corpus on disk: built once into a folder, checked and read back afterwards."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lgdea_core.data.corpus import Corpus
from lgdea_core.data.phantom.config import PhantomConfig
from lgdea_core.data.phantom.files import (
    CONFIG_FILE,
    EXTRA_COLUMNS,
    build_folder,
    read_corpus_tables,
    read_table,
    write_pictures,
    write_tables,
)
from lgdea_core.data.phantom.study import generate_study
from lgdea_core.vocabulary import SPLITS

VERSION = 1
"""Raise it when the same configuration gives other studies than before: old folders are then refused."""

_LOG = logging.getLogger("lgdea")


def build_phantom(config: PhantomConfig, root: Path, progress: bool = True) -> Corpus:
    """The corpus of a configuration, generated where the folder does not hold it already.

    A killed build leaves no half corpus behind, and several processes may ask for the same folder at once: see
    `files.build_folder`.

    Args:
        config: the world.
        root: the corpus folder; new, or built from an equal configuration.
        progress: show a bar.

    Raises:
        ValueError: `root` holds a phantom of another configuration.
        FileExistsError: `root` holds something else.
    """

    def write(folder: Path) -> None:
        indices = tqdm(range(config.studies), desc="phantom", unit="study", disable=not progress)
        tables = write_pictures(
            (generate_study(config, index) for index in indices), config.findings, folder, source="phantom"
        )
        tables["studies"]["split"] = split_patients(tables["studies"]["patient_id"].tolist(), config)
        write_tables(tables, folder)

    if build_folder(root, {"version": VERSION, "config": config.to_json()}, write, "build_phantom"):
        _LOG.info("phantom of %d studies written to %s", config.studies, root)
    return load_phantom(root)


def load_phantom(root: Path) -> Corpus:
    """Read what `build_phantom` wrote.

    Raises:
        FileNotFoundError: the folder holds no complete phantom.
    """
    if not (root / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"no complete phantom in {root}: {CONFIG_FILE} is missing; make one with build_phantom")
    return Corpus(name="phantom", root=root, **read_corpus_tables(root))


def load_phantom_table(root: Path, name: str) -> pd.DataFrame:
    """One of the phantom's further tables.

    Args:
        root: of the phantom.
        name: a key of `EXTRA_COLUMNS`.

    Raises:
        ValueError: there is no such table.
    """
    if name not in EXTRA_COLUMNS:
        raise ValueError(f"load_phantom_table: name must be one of {sorted(EXTRA_COLUMNS)}, got {name!r}")
    return read_table(root, name)


def load_phantom_config(root: Path) -> PhantomConfig:
    """The configuration a folder was built from."""
    values = json.loads((root / CONFIG_FILE).read_text())["config"]
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return PhantomConfig(**{**values, **lists})


def split_patients(patient_ids: list[str], config: PhantomConfig) -> list[str]:
    """The split of every study: patients in a seeded order, cut where the shares of studies are reached.

    A patient goes where the middle of its studies falls, so each share is met to within one patient.
    """
    patients = sorted(set(patient_ids))
    order = np.random.default_rng([config.seed, 3]).permutation(len(patients))
    sizes = pd.Series(patient_ids).value_counts()
    counts = np.array([sizes[patients[number]] for number in order])
    middles = np.cumsum(counts) - counts / 2
    cuts = np.cumsum(config.split_shares)[:2] * len(patient_ids)
    chosen = np.searchsorted(cuts, middles, side="right")
    split_of = {patients[number]: SPLITS[split] for number, split in zip(order, chosen, strict=True)}
    return [split_of[patient] for patient in patient_ids]
