"""The hard test set as a corpus on disk."""

import logging
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from lgdea_core.data.corpus import Corpus
from lgdea_core.data.phantom.config import PhantomConfig
from lgdea_core.data.phantom.files import (
    build_folder,
    read_corpus_tables,
    read_table,
    write_pictures,
    write_tables,
)
from lgdea_core.data.phantom.hard import STRATA, HardStudy, plain_truth, plan_hard_study
from lgdea_core.data.phantom.study import develop

PROBE_COLUMNS = ("study_id", "image_id", "pair_id", "stratum", "variant", "kind", "finding", "side", "phrase")
VERSION = 1
"""Raise it when the same configuration gives other studies than before."""

_LOG = logging.getLogger("lgdea")


def build_hard_set(config: PhantomConfig, root: Path, per_stratum: int = 60, progress: bool = True) -> Corpus:
    """The hard test set of a world, generated where the folder does not hold it already.

    One set serves every training seed: take a fixed `config.seed`, so that runs are compared on the same studies.

    Args:
        config: the training world; `studies`, `split_shares` and `second_study_ratio` are not looked at.
        root: the corpus folder; new, or built from an equal configuration.
        per_stratum: studies of each stratum; even, since twins come in pairs.
        progress: show a bar.

    Raises:
        ValueError: `per_stratum` is odd or below 2, or `root` holds another set.
        FileExistsError: `root` holds something else.
    """
    if per_stratum < 2 or per_stratum % 2:
        raise ValueError(f"build_hard_set: per_stratum must be even and at least 2, got {per_stratum}")
    stamp = {"version": VERSION, "kind": "hard set", "per_stratum": per_stratum, "config": _relevant(config)}

    def write(folder: Path) -> None:
        places = [(stratum, number) for stratum in STRATA for number in range(per_stratum)]
        bar = tqdm(places, desc="hard set", unit="study", disable=not progress)
        planned = [plan_hard_study(config, stratum, number) for stratum, number in places]
        films = (develop(hard.plan, config.image_size) for hard, _ in zip(planned, bar, strict=True))
        tables = write_pictures(films, config.findings, folder, source="phantom")
        tables["studies"] = _placed(tables["studies"], planned)
        tables["probes"] = _probe_table(planned)
        write_tables(tables, folder)

    if build_folder(root, stamp, write, "build_hard_set"):
        _LOG.info("hard set of %d studies written to %s", len(STRATA) * per_stratum, root)
    return load_hard_set(root)


def load_hard_set(root: Path) -> Corpus:
    """Read what `build_hard_set` wrote; `studies` has columns stratum, variant and pair_id besides its own.

    Raises:
        FileNotFoundError: the folder holds no complete hard set.
    """
    if not (root / "probes.csv").is_file():
        raise FileNotFoundError(f"no hard set in {root}: probes.csv is missing; make one with build_hard_set")
    return Corpus(name="phantom_hard", root=root, **read_corpus_tables(root))


def load_probes(root: Path) -> pd.DataFrame:
    """The phrases to look for in the films of a hard set: `PROBE_COLUMNS`, kinds as in `hard.Probe`."""
    return read_table(root, "probes")


def _relevant(config: PhantomConfig) -> dict[str, object]:
    unused = ("studies", "split_shares", "second_study_ratio")
    return {name: value for name, value in plain_truth(config).to_json().items() if name not in unused}


def _placed(studies: pd.DataFrame, planned: list[HardStudy]) -> pd.DataFrame:
    return studies.assign(
        split="test",
        stratum=[hard.stratum for hard in planned],
        variant=[hard.variant for hard in planned],
        pair_id=[hard.pair_id for hard in planned],
    )


def _probe_table(planned: list[HardStudy]) -> pd.DataFrame:
    rows = [
        (
            hard.plan.study_id,
            f"{hard.plan.study_id}_0",
            hard.pair_id,
            hard.stratum,
            hard.variant,
            probe.kind,
            probe.finding,
            probe.side,
            probe.phrase,
        )
        for hard in planned
        for probe in hard.probes
    ]
    return pd.DataFrame(rows, columns=list(PROBE_COLUMNS))
