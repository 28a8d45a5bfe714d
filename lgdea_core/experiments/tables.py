"""Tables of the experiments, one file each in figures/tables: which rows are there, and what they say over seeds."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from filelock import FileLock

from lgdea_core.paths import project_root, replacing

AnyJob = TypeVar("AnyJob")
"""a `jobs.Job`"""

MEASURES = {
    "cnr": ("grounding", "cnr_signed"),
    "miou": ("grounding", "miou_biovil_t"),
    "pointing": ("grounding", "pointing"),
    "auc": ("zero-shot", "auc"),
    "auc_global": ("zero-shot", "auc_global"),
    "precision_at_5": ("retrieval", "precision_at_5"),
    "recall_at_10": ("retrieval", "recall_at_10"),
}
"""column -> (task, metric) of the harness; see the docstrings there for the protocols"""
FURTHER_MEASURES = {
    "cnr_absolute": ("grounding", "cnr_absolute"),
    "miou_afloc": ("grounding", "miou_afloc"),
    "pixel_auc": ("grounding", "pixel_auc"),
    "cnr_blind": ("grounding", "cnr_signed_blind"),
    "miou_blind": ("grounding", "miou_biovil_t_blind"),
    "pointing_blind": ("grounding", "pointing_blind"),
    "cnr_swapped": ("grounding", "cnr_signed_swapped"),
    "miou_swapped": ("grounding", "miou_biovil_t_swapped"),
    "pointing_swapped": ("grounding", "pointing_swapped"),
    "ap": ("zero-shot", "ap"),
    "f1_oracle": ("zero-shot", "f1_oracle"),
    "accuracy_oracle": ("zero-shot", "accuracy_oracle"),
    "f1_validation": ("zero-shot", "f1_validation"),
    "accuracy_validation": ("zero-shot", "accuracy_validation"),
    "precision_at_5_commonest": ("retrieval", "precision_at_5_commonest"),
    "recall_at_1": ("retrieval", "recall_at_1"),
    "recall_at_10_text_to_image": ("retrieval", "recall_at_10_text_to_image"),
}
"""The same of what only the papers' tables show; rows of older code lack them."""
REGION_MEASURES = {
    "region_at_1": ("regions", "region_at_1"),
    "region_at_1_chance": ("regions", "region_at_1_chance"),
    "named_region_at_1": ("regions", "named_region_at_1"),
    "named_region_at_1_chance": ("regions", "named_region_at_1_chance"),
    "tag_auc": ("tags", "auc"),
}
"""The same of `evaluation.regions`, in rows of experiment `asg`; a method without a tag decoder has no `tag_auc`."""
RELATION_MEASURES = (
    "precision_at_1",
    "base_rate",
    "commonest_rate",
    "label_auc",
    "pair_lift",
    "coverage",
    "max_column_mass",
    "effective_reports",
)
"""Quality of relations against the hidden truth (`relations.relation_quality`); `relation_<name>` in rows of trainings
whose method has any: that of the last relations."""
GROUNDED = ("cnr", "miou", "pointing")
"""Measures of grounding that have controls (`evaluation.controls`)."""
OWN = tuple(f"{name}_own" for name in GROUNDED)
"""`<measure>_own = <measure> - <measure>_swapped`: what the film itself adds, in units of the measure."""
MEASURED = "measured_commit"
"""Column: the code that measured a row again after its training; empty where `commit` has done both."""
REFERENCE = "clip"
"""The method that the others are compared with in label_draws.csv, draw by draw."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file of rows, whose columns `key` tell two rows apart."""

    name: str
    """of the file"""
    experiment: str
    """whose jobs make its rows"""
    key: tuple[str, ...]
    measures: tuple[str, ...] = ()
    """columns that a summary shows where the table has them"""
    summarise: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    """what a summary shows instead"""

    @property
    def path(self) -> Path:
        """`figures/tables/<name>.csv`."""
        return project_root() / "figures" / "tables" / f"{self.name}.csv"

    @property
    def command(self) -> str:
        """What makes the rows that are missing."""
        return f"python -m lgdea_core.experiments {self.experiment}"

    def __str__(self) -> str:
        return f"{len(self.read())} rows in figures/tables/{self.name}.csv; missing ones come from: {self.command}"

    def read(self) -> pd.DataFrame:
        """Rows so far; only the key's columns where there is no table yet. An empty variant is "", not missing."""
        if not self.path.is_file():
            return pd.DataFrame(columns=list(self.key))
        rows = pd.read_csv(self.path, dtype={"seeds": str} if "seeds" in self.key else None)
        return rows.fillna({name: "" for name in ("variant", "against_variant") if name in rows})

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows, all of them or none, and keep the table sorted by its key; a row that is there stays as it is.

        Several processes may add to one table: each waits for its turn to read, add and replace the file as a whole.
        The empty lock beside it stays, for others may wait on it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            old = self.read()
            there = _values(old, self.key)
            new = pd.DataFrame([row for row in rows if tuple(row[name] for name in self.key) not in there])
            if new.empty:
                return
            new = new[[*self.key, *(name for name in new if name not in self.key)]]
            table = pd.concat([old, new], ignore_index=True) if len(old) else new
            with replacing(self.path) as part:
                table.sort_values(list(self.key), ignore_index=True).to_csv(part, index=False)

    def missing(self, jobs: Iterable[AnyJob]) -> list[AnyJob]:
        """The jobs with a row that is not there yet, each with these parts alone."""
        rows, there, todo = self.read(), {}, []
        for job in jobs:
            left = []
            for part in job.parts:
                wanted = {**job.key, **part}
                columns = tuple(wanted)
                if columns not in there:
                    there[columns] = _values(rows, columns)
                if tuple(wanted.values()) not in there[columns]:
                    left.append(part)
            if left:
                todo.append(replace(job, parts=tuple(left)))
        return todo

    def summary(self, rows: pd.DataFrame | None = None) -> pd.DataFrame:
        """`mean_and_sd` of every measure over rows that differ in their seed alone, and how many seeds.

        A measure that some of the seeds lack is over the others; without rows the summary is empty.

        Args:
            rows: None takes those of the table.
        """
        rows = self.read() if rows is None else rows
        if rows.empty:
            return rows
        if self.summarise is not None:
            return self.summarise(rows)
        rows = with_own(rows)
        groups = rows.groupby([name for name in self.key if name != "seed"], sort=True)
        measured = groups[[name for name in rows if name in self.measures]].agg(mean_and_sd)
        return pd.concat([groups["seed"].nunique().rename("seeds"), measured], axis=1).reset_index()


def _values(rows: pd.DataFrame, columns: Sequence[str]) -> set[tuple[Any, ...]]:
    return set(rows[list(columns)].itertuples(index=False, name=None))


def mean_and_sd(values: pd.Series) -> str:
    """ "mean ± sd", the deviation that of the sample (n - 1); one value has none, and no value is ""."""
    known = values.dropna()
    if known.empty:
        return ""
    return f"{known.mean():.3f}" + (f" ± {known.std():.3f}" if len(known) > 1 else "")


def with_own(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with `OWN`, run by run, so that its deviation is that of the differences; none without the control."""
    known = [name for name in GROUNDED if {name, f"{name}_swapped"} <= set(rows)]
    own = {f"{name}_own": rows[name] - rows[f"{name}_swapped"] for name in known}
    return pd.concat([rows, pd.DataFrame(own, index=rows.index)], axis=1)


def beyond(rows: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """Differences in `MEASURES` and `OWN` of rows to those of a base of the same world, method, ratio, seed and preset.

    Args:
        rows: of variants; ones without such a row in `base` are left out, as are measures that a table lacks.
        base: rows of one variant, or of the methods as they are.
    """
    same = [name for name in TRAINING if name != "variant"]
    measured = [name for name in (*MEASURES, *OWN) if name in rows and name in base]
    pairs = rows.merge(base[[*same, *measured]], on=same, suffixes=("", "_base"), validate="many_to_one")
    return pairs[list(TRAINING)].assign(**{name: pairs[name] - pairs[f"{name}_base"] for name in measured})


def chosen(rows: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """The rows with these values, by column; a value may be a tuple: any of its members."""
    for column, value in where.items():
        rows = rows[rows[column].isin(value if isinstance(value, tuple) else (value,))]
    return rows


def of_common_seeds(rows: pd.DataFrame, wanted: Collection[Any], column: str = "variant") -> pd.DataFrame:
    """Rows of the wanted kinds, of the seeds that have all of them: else means would differ by their seeds, too."""
    rows = rows[rows[column].isin(wanted)]
    counts = rows.groupby("seed")[column].nunique()
    return rows[rows["seed"].isin(counts.index[counts == len(wanted)])]


def hard_summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean ± sd over seeds (their number): a row for every group and measure, a column for every method and ratio."""
    names = [f"{row.method} {row.paired_ratio:.0%}" for row in rows.itertuples()]
    groups = rows.assign(model=names).groupby(["preset", "by", "group", "measure", "model"])["estimate"]
    return groups.agg(lambda values: f"{mean_and_sd(values)} ({len(values)})").unstack("model").reset_index()


def every_row(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as they are, without the commit: each stands for its seeds already, or has none."""
    return rows.drop(columns="commit", errors="ignore")


def draws_summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over draws, then mean and deviation over seeds; likewise of the difference to `REFERENCE`, draw by draw.

    Returns:
        Columns method, label_ratio, preset, seeds, draws (of all seeds), auc, less_reference and won: the share of the
        draws in which the method is above the reference; the last two over the draws that both have.
    """
    draw = ["corpus", "label_ratio", "preset", "seed", "draw"]
    reference = rows[rows["method"] == REFERENCE].set_index(draw)["auc"].rename("reference")
    paired = rows.join(reference, on=draw)
    paired = paired.assign(less_reference=paired["auc"] - paired["reference"])
    lines = []
    for (method, ratio, preset), group in paired.groupby(["method", "label_ratio", "preset"]):
        of_seed = group.groupby("seed")[["auc", "less_reference"]].mean()
        known = group["less_reference"].dropna()
        lines.append(
            {"method": method, "label_ratio": ratio, "preset": preset, "seeds": len(of_seed), "draws": len(group)}
            | {name: mean_and_sd(of_seed[name]) for name in of_seed}
            | {"won": f"{(known > 0).mean():.2f}" if len(known) and method != REFERENCE else ""}
        )
    return pd.DataFrame(lines)


TRAINING = ("world", "method", "variant", "paired_ratio", "seed", "preset")
"""Key of the tables whose rows are trainings."""
SETTINGS = ("alpha", "neighbours", "self_loop", "graph_exponent", "affinity_sharpness", "report_marginal")
"""Fields of `GraphConfig` that are columns of relations.csv, beside its mode."""
_OF_TRAININGS = (*MEASURES, *OWN, *REGION_MEASURES, *(f"relation_{name}" for name in RELATION_MEASURES))
_WARM = ("world", "paired_ratio", "seed", "preset", "pair_steps")
_COMPARED = (
    *("world", "paired_ratio", "preset", "corpus", "against", "against_variant", "against_ratio", "seeds"),
    *("metric", "finding"),
)
_TOWER = ("corpus", "method", "protocol", "label_ratio", "seed", "preset")

TABLES = {
    table.name: table
    for table in (
        Table(name="limited_pairing", experiment="limited_pairing", key=TRAINING, measures=_OF_TRAININGS),
        Table(name="ablation", experiment="ablation", key=TRAINING, measures=_OF_TRAININGS),
        Table(name="abundance", experiment="abundance", key=(*TRAINING, "unpaired"), measures=_OF_TRAININGS),
        Table(name="real_films", experiment="real", key=TRAINING, measures=_OF_TRAININGS),
        Table(name="asg", experiment="asg", key=TRAINING, measures=_OF_TRAININGS),
        Table(
            name="relations",
            experiment="relations",
            key=(*_WARM, "relations", *SETTINGS),
            measures=(*RELATION_MEASURES, "precision_at_10", "pair_recall_at_10"),
        ),
        Table(
            name="hard_set",
            experiment="hard",
            key=("method", "paired_ratio", "seed", "preset", "by", "group", "measure"),
            summarise=hard_summary,
        ),
        Table(
            name="looks",
            experiment="looks",
            key=("world", "model", "paired_ratio", "seed", "preset", "task", "metric", "control"),
            measures=("estimate", "beyond", "share"),
        ),
        Table(
            name="hospitals",
            experiment="hospitals",
            key=(*TRAINING, "corpus", "task", "metric", "finding"),
            measures=("estimate",),
        ),
        Table(name="paired", experiment="paired", key=_COMPARED, summarise=every_row),
        Table(name="asg_linear_probe", experiment="linear_probe", key=_TOWER, measures=("auc", "accuracy")),
        Table(
            name="segmentation",
            experiment="segmentation",
            key=_TOWER,
            measures=("dice", "dice_batches", "dice_positive", "dice_empty"),
        ),
        Table(
            name="label_draws",
            experiment="label_draws",
            key=("corpus", "method", "label_ratio", "seed", "preset", "draw"),
            summarise=draws_summary,
        ),
        Table(
            name="llm_evidence",
            experiment="readers",
            key=("sample", "reports", "extractor", "prompt"),
            summarise=every_row,
        ),
    )
}
"""Name of the file -> table. In relations.csv `relations` is the mode of the relations or the name of a control
(`relations.SHUFFLED`, or "random"); in hard_set.csv `by` is finding, size, side or stratum of the grounded phrases (or
of the zero-shot AUC: size), side swap, or negation: see `evaluation.breakdown`."""
