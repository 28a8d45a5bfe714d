"""Tables a reader of both papers expects: our rows, mean and sd over seeds, and published numbers that were not rerun.

The LGDEA paper's own numbers are not public to us: no published row is LGDEA's. Published values (`published.csv`) are
fractions where papers print percent, and as printed otherwise; `sd` is what the paper gives after ±.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from lgdea_core.config import METHODS, RunConfig
from lgdea_core.data.corpora import CORPORA
from lgdea_core.evaluation.supervised import FROZEN
from lgdea_core.experiments.downstream import RANDOM
from lgdea_core.experiments.plans import CONTROLS, SHUFFLED_REGIONS, TOWERS
from lgdea_core.experiments.tables import GROUNDED, MEASURED, OWN, SETTINGS, TABLES, TRAINING, beyond, with_own
from lgdea_core.experiments.worlds import WORLDS, world_of
from lgdea_core.figures import figure_paper_table, save_figure
from lgdea_core.figures.comparison import PUBLISHED
from lgdea_core.figures.names import WHOLE
from lgdea_core.figures.tables import MEASURE_NAMES
from lgdea_core.paths import git_commit, project_root, write_text

COLUMNS = ("system", "backbone", "corpus", "reports", "setting", "measure", "value", "sd", "seeds", "origin", "source")
"""`seeds` and `sd` are empty where a paper gives none; one seed has no sd. `reports` says what ours learnt from."""
NAMES = MEASURE_NAMES | {"auc_global": "AUC, global score"}
FURTHER_NAMES = {
    "cnr_absolute": "CNR (absolute)",
    "miou_afloc": "mIoU (AFLoc)",
    "pixel_auc": "pixel AUC",
    "cnr_swapped": "CNR (signed), films swapped",
    "cnr_blind": "CNR (signed), image-blind",
    "miou_swapped": "mIoU (BioViL-T), films swapped",
    "miou_blind": "mIoU (BioViL-T), image-blind",
    "pointing_swapped": "pointing game, films swapped",
    "pointing_blind": "pointing game, image-blind",
    "ap": "zero-shot AP",
    "f1_oracle": "F1 (oracle threshold)",
    "accuracy_oracle": "accuracy (oracle threshold)",
    "f1_validation": "F1 (validation threshold)",
    "accuracy_validation": "accuracy (validation threshold)",
    "precision_at_5_commonest": "precision@5, commonest findings",
    "recall_at_1": "recall@1",
    "recall_at_10_text_to_image": "recall@10, text to image",
}
"""The same of `tables.FURTHER_MEASURES`."""
HEADLINE_RATIOS = (0.1, 1.0)
"""Paired ratios of the three tasks' tables; `pairing_ratios` has all."""
TASKS = {
    "grounding": ("cnr", "cnr_absolute", "miou", "miou_afloc", "pointing", "pixel_auc"),
    "retrieval": (
        "precision_at_5",
        "precision_at_5_commonest",
        "recall_at_1",
        "recall_at_10",
        "recall_at_10_text_to_image",
    ),
    "zero_shot": (
        "auc",
        "auc_global",
        "ap",
        "f1_oracle",
        "accuracy_oracle",
        "f1_validation",
        "accuracy_validation",
    ),
}
"""table -> columns of limited_pairing.csv"""
CONTROLLED = tuple(f"{name}{control}" for name in GROUNDED for control in ("", "_swapped", "_blind"))
"""Columns of table `grounding_controls`: measures of grounding, each with its controls (`evaluation.controls`)."""
OWN_NAMES = {
    own: f"{(NAMES | FURTHER_NAMES)[name]}, beyond films swapped" for own, name in zip(OWN, GROUNDED, strict=True)
}
"""Names of `tables.OWN`, further columns of that table."""
PROBES = {
    "classification": ("asg_linear_probe", {"auc": "linear-probe AUC", "accuracy": "linear-probe accuracy"}),
    "segmentation": ("segmentation", {"dice": "Dice"}),
}
"""table -> file of ours, and its columns with the measures' names"""
ASG_PARTS = {
    "clip": "ASG: IRA",
    "asg ita + arsa": "ASG: IRA + ARSA",
    "asg ita + irl": "ASG: IRA + IRL",
    "asg ita + irl + erl": "ASG: IRA + IRL + ERL",
    "asg": "ASG: IRA + ARSA + IRL + ERL",
    f"asg {SHUFFLED_REGIONS}": f"ASG: all, {SHUFFLED_REGIONS}",
}
"""method of a probe -> row of ASG's ablation; IRA alone is what `clip` trains"""
ORIGINS = {
    "generated": "ours, phantom",
    "lesions painted into real normal films": "ours, painted on real films",
    "real": "ours, real films",
}
"""films of a world, in its words -> origin of its rows"""


def write_paper_tables() -> list[str]:
    """Write every table to `figures/tables/paper/` and its figure to `figures/`; a line for each says what it holds."""
    folder, lines = project_root() / "figures", []
    for name, rows in paper_tables().items():
        path = folder / "tables" / "paper" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, rows.to_csv(index=False, lineterminator="\n"))
        if len(rows):
            origin = {"run": "tables", "commit": git_commit(project_root()), "seed": "several"}
            save_figure(figure_paper_table(rows, caption_of(name)), folder / f"table_{name}", origin)
        own = int(rows["origin"].ne(PUBLISHED).sum())
        lines.append(f"{name}: {own} rows of ours, {len(rows) - own} published -> figures/tables/paper/{path.name}")
        lines += [f"  {need}" for need in missing_rows(name)]
    return [*lines, "LGDEA's own published numbers are not public to us: no row is the paper's"]


def paper_tables() -> dict[str, pd.DataFrame]:
    """Every table by name, columns `COLUMNS`, ours first."""
    pairing = TABLES["limited_pairing"].read()
    towers = TABLES["asg"].read()
    several = {
        "limited_pairing": pairing[pairing["paired_ratio"].isin(HEADLINE_RATIOS)],
        "asg": without_rows_of(pairing, towers[towers["variant"] == ""]),
        "real_films": TABLES["real_films"].read(),
    }
    ours = {
        name: joined(experiment_rows(several[file], file, measures) for file in several)
        for name, measures in TASKS.items()
    }
    variants = TABLES["ablation"].read()
    controlled = several | {"ablation": variants[variants["variant"].isin(CONTROLS)]}
    ours["grounding_controls"] = joined(_control_rows(table, file) for file, table in controlled.items())
    ours["pairing_ratios"] = experiment_rows(pairing, "limited_pairing", tuple(NAMES))
    ours["ablation"] = _ablation_rows(pairing)
    methods = {name: name for name in (RANDOM, *METHODS)}
    ours |= {name: probe_rows(*source, methods) for name, source in PROBES.items()}
    ours["asg_ablation"] = joined(probe_rows(*source, ASG_PARTS) for source in PROBES.values())
    published = read_published()
    tables = {}
    for name, rows in ours.items():
        both = joined((rows, published[published["table"] == name]))
        tables[name] = both.reindex(columns=list(COLUMNS)).astype({"seeds": "Int64"})
    return tables


def caption_of(name: str) -> str:
    """What the figure of a table shows."""
    compare = "each measure with its controls" if name == "grounding_controls" else "within a panel only"
    note = f"ours: mean ± sd over seeds; compare {compare}; LGDEA's own numbers are not public to us"
    return f"{name.replace('_', ' ')}; {note}"


def missing_rows(name: str) -> list[str]:
    """What to run for rows of ours that a table cannot have yet, or towers that it lacks."""
    needed = {"ablation": ("limited_pairing", "ablation"), "pairing_ratios": ("limited_pairing",)}
    needed |= {table: (source[0],) for table, source in PROBES.items()}
    needed["grounding_controls"] = ("limited_pairing", "asg", "real_films", "ablation")
    needed["asg_ablation"] = tuple(source[0] for source in PROBES.values())
    files = needed.get(name, ("limited_pairing", "asg", "real_films"))
    systems = dict.fromkeys(PROBES, (RANDOM, *TOWERS)) | {"asg_ablation": tuple(ASG_PARTS)}
    lines = []
    for file in files:
        table, command = TABLES[file].read(), TABLES[file].command
        if table.empty:
            lines.append(f"no figures/tables/{file}.csv; it comes from: {command}")
        elif name == "grounding_controls":
            table = table.reindex(columns=[*TRAINING, CONTROLLED[1]])
            without = table[table[CONTROLLED[1]].isna()].groupby("method")["seed"].count()
            counts = ", ".join(f"{method} ({count})" for method, count in without.items())
            if counts:
                lines.append(f"figures/tables/{file}.csv: rows of older code, without controls of grounding: {counts}")
        elif absent := set(systems.get(name, ())) - set(table["method"]):
            names, first = ", ".join(sorted(absent)), TABLES["asg"].command
            lines.append(f"figures/tables/{file}.csv lacks {names}; first {first}, then {command}")
    return lines


def read_published() -> pd.DataFrame:
    """`published.csv`: table, system, backbone, corpus, setting, measure, value, sd, source; with their origin."""
    rows = pd.read_csv(Path(__file__).with_name("published.csv"))
    return rows.fillna({"backbone": ""}).assign(origin=PUBLISHED, reports="")


def experiment_rows(table: pd.DataFrame, file: str, measures: Sequence[str]) -> pd.DataFrame:
    """Mean and sd over seeds of an experiment's rows, one row for each measure.

    Args:
        table: of limited_pairing.csv, ablation.csv, asg.csv or real_films.csv.
        file: its name, for the column source.
        measures: its columns; ones it lacks, and empty ones, have no rows.
    """
    names = NAMES | FURTHER_NAMES | OWN_NAMES
    rows = []
    for values, group in table.groupby([name for name in TRAINING if name != "seed"], sort=True):
        world, method, variant, ratio, preset = values
        shared = {
            "system": f"{method}: {variant}" if variant else method,
            "backbone": _backbone(preset),
            "corpus": world,
            "reports": world_of(world).reports,
            "setting": f"{100 * ratio:g} % of pairs, preset {preset}",
            "origin": origin_of(world),
            "source": _source(file, group),
        }
        measured = [name for name in measures if name in group and group[name].notna().any()]
        rows += [shared | {"measure": names[name]} | _spread(group[name]) for name in measured]
    return pd.DataFrame(rows)


def probe_rows(file: str, measures: Mapping[str, str], systems: Mapping[str, str]) -> pd.DataFrame:
    """Mean and sd over seeds of a downstream task on frozen towers, the protocol of the published rows.

    Args:
        file: of `PROBES`.
        measures: its columns with their names.
        systems: its methods, in the order of the rows, with their names; others are left out.
    """
    rows, table = [], TABLES[file].read()
    table = table[table["protocol"].eq(FROZEN) & table["method"].isin(systems)]
    table = table.assign(method=pd.Categorical(table["method"], list(systems)))
    keys = ["corpus", "method", "label_ratio", "preset"]
    for (corpus, method, ratio, preset), group in table.groupby(keys, observed=True):
        shared = {"system": systems[method], "backbone": f"{_backbone(preset)}, preset {preset}", "corpus": corpus}
        shared |= {"setting": f"{100 * ratio:g} % of labels"}
        origin = {"reports": "", "origin": origin_of(corpus), "source": _source(file, group)}
        measured = [name for name in measures if name in group and group[name].notna().any()]
        rows += [shared | origin | {"measure": measures[name]} | _spread(group[name]) for name in measured]
    return pd.DataFrame(rows)


def origin_of(place: str) -> str:
    """Where rows of a world, or of a corpus, come from: generated films, real ones with painted lesions, or real ones.

    Raises:
        ValueError: the name is unknown here.
    """
    films = {world.corpus: world.films for world in WORLDS.values()}
    films |= {name: world.films for name, world in WORLDS.items()}
    if place not in films and place not in CORPORA:
        raise ValueError(f"origin_of: expected a world of experiments or a corpus, got {place!r}")
    return ORIGINS[films.get(place, "real")]


def as_it_is(pairing: pd.DataFrame, variants: pd.DataFrame) -> pd.DataFrame:
    """Rows of limited_pairing.csv for the methods, ratios, presets and worlds that have variants."""
    shared = ["world", "method", "paired_ratio", "preset"]
    return pairing.merge(variants[shared].drop_duplicates(), on=shared)


def differences(pairing: pd.DataFrame, variants: pd.DataFrame, base: str) -> pd.DataFrame:
    """Mean ± sd over seeds of what each variant has beyond one of them, measures and `OWN`, taken seed by seed.

    Args:
        pairing: rows of limited_pairing.csv, among them the methods as they are.
        variants: rows of ablation.csv.
        base: a variant, or `WHOLE`; rows without one of it at their world, method, ratio, seed and preset are left out.
    """
    rows = with_own(pd.concat([as_it_is(pairing, variants).assign(variant=WHOLE), variants]))
    chosen = rows["variant"] == base
    return TABLES["ablation"].summary(beyond(rows[~chosen], rows[chosen]))


def without_rows_of(table: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Rows of `others` whose world, method, ratio and preset the table has not: the same training stands there once."""
    shared = ["world", "method", "paired_ratio", "preset"]
    there = others.merge(table[shared].drop_duplicates(), on=shared, how="left", indicator="found")["found"]
    return others[(there == "left_only").to_numpy()]


def joined(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Tables one below the other; one without rows may have other columns and is left out."""
    known = [table for table in tables if len(table)]
    return pd.concat(known, ignore_index=True) if known else pd.DataFrame()


def parted(table: pd.DataFrame, *columns: str) -> dict[str, pd.DataFrame]:
    """The rows that share the values of some columns, by those values joined with "-": what one figure shows."""
    return {"-".join(map(str, values)): rows for values, rows in table.groupby(list(columns), sort=True)}


def relation_base(preset: str) -> dict[str, object]:
    """Settings that the sweeps of relations.csv start from, by column."""
    config = RunConfig.from_preset(preset)
    settings = {name: getattr(config.graph, name) for name in SETTINGS}
    return settings | {"relations": config.graph.mode, "pair_steps": config.train.pair_steps}


def _control_rows(table: pd.DataFrame, file: str) -> pd.DataFrame:
    """Grounding with its controls, of those rows alone that have them: older code had none."""
    known = table.reindex(columns=[*TRAINING, "commit", MEASURED, *CONTROLLED]).dropna(subset=list(CONTROLLED))
    return experiment_rows(with_own(known), file, (*CONTROLLED, *OWN_NAMES))


def _ablation_rows(pairing: pd.DataFrame) -> pd.DataFrame:
    """Variants, and the method as it is at the same ratio, preset and world."""
    variants = TABLES["ablation"].read()
    if variants.empty:
        return pd.DataFrame()
    measures, whole = tuple(NAMES), as_it_is(pairing, variants).assign(variant=WHOLE)
    return joined(
        (experiment_rows(whole, "limited_pairing", measures), experiment_rows(variants, "ablation", measures))
    )


def _backbone(preset: str) -> str:
    return (RunConfig.from_preset(preset).model.image_tower or "small ResNet").split("/")[-1]


def _spread(values: pd.Series) -> dict[str, float]:
    known = values.dropna()
    return {"value": round(known.mean(), 4), "sd": round(known.std(), 4), "seeds": len(known)}


def _source(file: str, group: pd.DataFrame) -> str:
    source = f"figures/tables/{file}.csv"
    for column, words in (("commit", "code of"), (MEASURED, "measured anew by")):
        commits = sorted({commit[:7] for commit in group[column].dropna().astype(str)}) if column in group else []
        source += f", {words} {', '.join(commits)}" if commits else ""
    return source
