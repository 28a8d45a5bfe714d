"""What notebooks ask of measurements of several models: together, as headlines, as differences, by finding."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lgdea_core.evaluation.downstream import PROBE_TASKS, Films, probe_scores
from lgdea_core.evaluation.grounding import pointing_game, split_pixels
from lgdea_core.evaluation.harness import (
    GROUNDING_METRICS,
    HEADLINES,
    METRIC_COLUMNS,
    evaluate,
    evaluation_part,
    headlines,
)
from lgdea_core.evaluation.regions import evaluate_regions
from lgdea_core.evaluation.supervised import FROZEN
from lgdea_core.inference import ImageTextModel, ImageTextProcessor
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.paths import read_json, runs_folder
from lgdea_core.runs.inputs import Inputs

MAPS = {"the film": "", "another patient's film": "_swapped", "no film, boxes of others": "_blind"}
"""What a map was made of -> ending of the metric's name, see `controls`."""


def evaluate_each(
    models: Mapping[str, tuple[ImageTextModel, ImageTextProcessor]], inputs: Inputs, resamples: int, seed: int
) -> dict[str, pd.DataFrame]:
    """`harness.evaluate` of each model, by its name."""
    options = {"resamples": resamples, "seed": seed, "progress": False}
    return {name: evaluate(*loaded, inputs, **options) for name, loaded in models.items()}


def joined(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One table of several, column variant first."""
    return pd.concat(tables, names=["variant"]).reset_index("variant").reset_index(drop=True)


def plain_rows(tables: Mapping[str, pd.DataFrame]) -> dict[str, list[dict[str, Any]]]:
    """The same as JSON takes it; what has no value is None."""
    plain = {name: table.astype(object).where(table.notna(), None) for name, table in tables.items()}
    return {name: table.to_dict("records") for name, table in plain.items()}


def scored_headlines(metrics: pd.DataFrame) -> pd.DataFrame:
    """`harness.headlines` that have a value."""
    return headlines(metrics).dropna(subset=["estimate"]).astype({"estimate": float})


def side_by_side(metrics: pd.DataFrame, variants: Sequence[str]) -> pd.DataFrame:
    """One row a variant, one column a headline; a column of NaN where the split has no truth for it."""
    wide = scored_headlines(metrics).pivot_table("estimate", "method", "metric", sort=False)
    return wide.reindex(index=list(variants), columns=list(HEADLINES.values())).rename_axis(None, axis=1)


def gains(wide: pd.DataFrame, of: str, over: Sequence[str]) -> pd.DataFrame:
    """What one row of `side_by_side` has beyond others; measures without a value, and rows not there, are left out."""
    beyond = {f"{of} minus {name}": wide.loc[of] - wide.loc[name] for name in over if name in wide.index}
    return pd.DataFrame(beyond).T.dropna(axis=1)


def beside_controls(metrics: pd.DataFrame, variants: Sequence[str]) -> pd.DataFrame:
    """Grounding of each variant's maps of the film, of another patient's film, and of the mean boxes of others."""
    macro = metrics[metrics["finding"] == "macro"].astype({"estimate": float})
    wide = macro.pivot_table("estimate", "variant", "metric")
    names = [HEADLINES["grounding", metric] for metric in GROUNDING_METRICS]
    parts = {
        made_of: wide.reindex(list(variants), columns=[f"{metric}{end}" for metric in GROUNDING_METRICS])
        for made_of, end in MAPS.items()
    }
    return pd.concat([part.set_axis(names, axis=1) for part in parts.values()], keys=parts, names=["map of", "method"])


def of_findings(metrics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of one metric for single findings, with a value or without."""
    return metrics[(metrics["metric"] == metric) & ~metrics["finding"].isin(["macro", "all"])]


def finding_table(rows: pd.DataFrame, variants: Sequence[str]) -> pd.DataFrame:
    """One row a finding, one column a variant, of `of_findings`; those without a value are left out."""
    known = rows.dropna(subset=["estimate"]).astype({"estimate": float})
    return known.pivot_table("estimate", "finding", "variant").reindex(columns=list(variants))


def ahead(scores: pd.DataFrame, of: str, over: str) -> str:
    """In how many findings one column of `finding_table` is above another, in words."""
    if over not in scores:
        return f"no {over} here to compare {of} with"
    return (
        f"{of} ahead of {over} in {(scores[of] > scores[over]).sum()} of {len(scores)} findings with enough positives"
    )


def pointing_shares(rows: Sequence[Any], masks: Sequence[np.ndarray]) -> pd.Series:
    """Share of films whose map has its maximum inside a box, by map.

    Args:
        rows: each with `maps`, by name.
        masks: of the same films.
    """
    pairs = zip(rows, masks, strict=True)
    hits = [
        {name: pointing_game(*split_pixels(found, mask)) for name, found in row.maps.items()} for row, mask in pairs
    ]
    return pd.DataFrame(hits).mean()


def own_runs() -> pd.DataFrame:
    """Headlines of each run in `data/runs` that notebook 05 has measured, with its method, preset, corpus and seed."""
    rows = []
    for path in sorted(runs_folder().glob("*/metrics.json")):
        config, tables = read_json(path.with_name("config.json")), read_json(path)
        measured = {name: pd.DataFrame(values) for name, values in tables.items() if values}
        if "model" not in measured:
            continue
        dials = {name: config[name] for name in ("method", "preset", "seed")}
        data = {name: config["data"][name] for name in ("corpus", "paired_ratio")}
        start = {name: config["model"].get(name) for name in ("model_start", "tuning")}
        numbers = side_by_side(joined({"model": measured["model"]}), ["model"]).loc["model"]
        rows.append({"run": path.parent.name} | dials | data | start | dict(numbers))
    return pd.DataFrame(rows).dropna(axis=1, how="all")


def regions_of_each(
    models: Mapping[str, tuple[LGDEAModel, LGDEAProcessor]],
    inputs: Inputs,
    evidence: pd.DataFrame,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """`regions.evaluate_regions` of each model, column variant first; no rows where no test film has a report."""
    test = evaluation_part(inputs.corpus, "test")
    reported = test.studies.loc[test.studies["report"].notna(), "study_id"]
    if not test.images["study_id"].isin(reported).any():
        return pd.DataFrame(columns=["variant", *METRIC_COLUMNS])
    options = {"resamples": resamples, "seed": seed}
    return joined({name: evaluate_regions(*loaded, inputs, evidence, **options) for name, loaded in models.items()})


def region_headlines(measured: pd.DataFrame) -> pd.DataFrame:
    """Of `regions_of_each` what a comparison draws: columns method, metric, estimate, low, high, n, chance."""
    overall = measured[measured["finding"].isin(["all", "macro"])].dropna(subset=["estimate"])
    overall = overall.astype({"estimate": float})
    is_chance = overall["metric"].str.endswith("_chance").astype(bool)
    of = overall.loc[is_chance, "metric"].str.removesuffix("_chance")
    chances = overall.loc[is_chance, "estimate"].groupby(of).first().to_dict() | {"auc": 0.5}
    names = {"auc": "tag AUC", "region_at_1": "region@1", "named_region_at_1": "named region@1"}
    shown = overall[~is_chance]
    shown = shown.assign(chance=shown["metric"].map(chances))
    return shown.replace({"metric": names}).rename(columns={"variant": "method"})


def probe_lines(
    models: Mapping[str, tuple[LGDEAModel, LGDEAProcessor]], inputs: Inputs, corpus: str, ratio: float, seed: int
) -> str:
    """A linear probe on each model's frozen tower at one share of the labels, a line each."""
    task = PROBE_TASKS.get(corpus)
    if task is None:
        return f"no labelled task is named for corpus {corpus}"
    films, lines = Films(corpus=inputs.corpus, store=inputs.store), []
    for name, (model, _) in models.items():
        [score] = probe_scores(films, task, model.image_tower, FROZEN, (ratio,), seed)
        lines.append(f"{name}: {score.metric} {score.interval}, {len(score.findings)} findings")
    return "\n".join(lines)
