"""Tables of the README and the book, made from the committed tables: python -m lgdea_core.experiments docs.

A page holds each of them between two comments, `<!-- table: NAME -->` and `<!-- end -->`; what stands between is
replaced, and nothing else is. `file: PATH` in place of `table: NAME` shows a file of the repository, `figure: NAME` one
of `figures/readme`, with the description that is saved in it.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image
from scipy import stats

from lgdea_core.config import PRESETS, RunConfig
from lgdea_core.evaluation.exam import CONTROLS as CONTROLS_SHOWN
from lgdea_core.evaluation.looks import TASKS as LOOKED
from lgdea_core.evaluation.looks import verdicts
from lgdea_core.evaluation.supervised import AUGMENTED
from lgdea_core.experiments.looks import BOXED, RANDOM
from lgdea_core.experiments.paper_tables import WHOLE, as_it_is, differences, joined, read_published
from lgdea_core.experiments.plans import COMPARED, CONTROL, CONTROLS, DOSES, PHRASES, WITHOUT_IMAGES
from lgdea_core.experiments.tables import GROUNDED, SETTINGS, TABLES, chosen, mean_and_sd, of_common_seeds, with_own
from lgdea_core.figures import names
from lgdea_core.paths import project_root, write_text

Where = Mapping[str, Any]
"""column -> the value of the rows that are shown"""
Columns = Mapping[str, str]
"""column of a table -> its heading on a page"""

PAGES = ("README.md", "docs/*.md", "docs/results/*.md")
BLOCK = re.compile(r"(<!-- (table|file|figure): (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
MAIN = {
    "auc": "zero-shot AUC",
    "auc_global": "AUC, global score",
    "cnr": "CNR",
    "cnr_own": "CNR beyond cross-patient",
    "miou": "mIoU",
    "pointing": "pointing",
    "precision_at_5": "P@5",
    "recall_at_10": "R@10",
}
GROUNDING = {
    "cnr": "CNR",
    "cnr_swapped": "CNR, cross-patient",
    "cnr_own": "CNR beyond",
    "miou": "mIoU",
    "miou_own": "mIoU beyond",
    "pointing": "pointing",
    "pointing_own": "pointing beyond",
}
RETRIEVAL = {
    "precision_at_5": "P@5",
    "precision_at_5_commonest": "P@5 of the commonest findings",
    "recall_at_1": "R@1",
    "recall_at_10": "R@10",
    "recall_at_10_text_to_image": "R@10, text to image",
}
RELATIONS = {
    "label_auc": "label AUC",
    "precision_at_1": "precision@1",
    "pair_lift": "lift of the true pair",
    "max_column_mass": "largest column / mean",
    "effective_reports": "effective reports",
}
RELATED = {"relation_label_auc": "label AUC of the relations"} | MAIN
HEADLINE = {name: MAIN[name] for name in ("auc", "cnr", "cnr_own")}
ASG = {
    "region_at_1": "region@1",
    "named_region_at_1": "named region@1",
    "tag_auc": "tag AUC",
} | {name: MAIN[name] for name in ("cnr", "miou", "pointing", "auc", "recall_at_10")}
BASELINES = ("mgca", "medclip", "biovil", "prior", "medklip", "carzero")
RATIOS = (0.01, 0.05, 0.1, 0.25, 1.0)
TENTH = {"world": "phantom", "paired_ratio": 0.1}
PUBLISHED = ("grounding", "zero_shot", "classification", "segmentation")
BENCHMARKS = ("evaluation", "language_model_client", "neighbours", "propagation", "rules", "training_step")
REAL_NAMES = {"covid_chestxray+nih+openi": "three sources", "nih": "NIH"}
"""Worlds of real images without real pairs."""
REAL_PAIRS = {
    "auc": "zero-shot AUC",
    "auc_global": "AUC, global score",
    "precision_at_5": "P@5",
    "precision_at_5_commonest": "P@5 of the commonest findings",
    "recall_at_10": "R@10",
}
DIFFERENCES = {
    ("auc", "macro"): "zero-shot AUC",
    ("auc_abnormal", "all"): "abnormal against normal",
    ("precision_at_5", "all"): "P@5",
    ("recall_at_10", "all"): "R@10",
}
"""metric and finding of paired.csv -> heading"""
TOWERS = ("random", "clip", "asg", "asg ita + arsa", "asg ita + irl", "asg ita + irl + erl", "asg shuffled regions")
OTHER_MODELS = {BOXED: "the model in the box", RANDOM: f"LGDEA, {RANDOM} (floor)"}
READ = {
    "positives": ("positive labels", "{:.0f}"),
    "micro_f1": ("micro F1", "{:.3f}"),
    "macro_f1": ("macro F1", "{:.3f}"),
    **{f"{name}_f1": (f"F1 of {name}", "{:.3f}") for name in ("anatomy", "side", "severity")},
    "kappa_with_rules": ("kappa with the rules", "{:.3f}"),
}
"""column of llm_evidence.csv -> heading and format"""
ASKED = {
    "statements": ("statements", "{:.0f}"),
    "hallucinated": ("not verbatim", "{:.0f}"),
    "rejected_answers": ("answers refused", "{:.0f}"),
    "prompt_tokens_per_report": ("prompt tokens a report", "{:,.0f}"),
    "completion_tokens_per_report": ("answer tokens a report", "{:.0f}"),
    "seconds_per_report": ("seconds a report", "{:.1f}"),
}
"""likewise, what language models answered and what it cost"""
MISREAD = {
    "micro_precision": ("precision", "{:.3f}"),
    "micro_recall": ("recall", "{:.3f}"),
    "stated_wrongly": ("labels stated wrongly", "{}"),
    "missed": ("labels missed", "{}"),
}
"""likewise, what they read wrongly"""
HARD = {
    ("size", "large", "auc"): "zero-shot AUC: large lesions",
    ("size", "medium", "auc"): "zero-shot AUC: medium lesions",
    ("size", "small", "auc"): "zero-shot AUC: small lesions",
    ("stratum", "ordinary", "cnr_signed"): "CNR: ordinary phrases",
    ("stratum", "small and subtle", "cnr_signed"): "CNR: small and subtle lesions",
    ("stratum", "unseen wording", "cnr_signed"): "CNR: unseen wording",
    ("stratum", "two of a kind", "cnr_signed"): "CNR: two lesions of a kind",
    ("side swap", "pairs of twins", "peak"): "twins by side: peak on the right one (chance 0.25)",
    ("negation", "denied", "stated higher"): "stated above denied (chance 0.5)",
    ("side", "left", "pointing"): "pointing: lesions of the left side",
    ("side", "right", "pointing"): "pointing: lesions of the right side",
    ("size", "small", "pointing"): "pointing: small lesions",
}
"""by, group and measure of hard_set.csv -> row of the page"""


def write_pages() -> list[str]:
    """Bring every page up to date; a line for each says what became of it."""
    lines = []
    for path in pages():
        old, new = path.read_text(encoding="utf-8"), rendered(path)
        if new != old:
            write_text(path, new)
        lines.append(f"{path.relative_to(project_root())}: {'written' if new != old else 'current'}")
    return lines


def pages() -> list[Path]:
    """The README and the pages of the book."""
    return sorted(path for pattern in PAGES for path in project_root().glob(pattern))


def rendered(page: Path) -> str:
    """The page's text with every block as the tables say it now.

    Raises:
        ValueError: it asks for a table, or a file, that there is not.
    """

    def block(match: re.Match[str]) -> str:
        opening, kind, name, end = match.groups()
        return f"{opening}{_SHOW[kind](name, page)}\n{end}"

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def _file(name: str, page: Path) -> str:
    path = project_root() / name
    if not path.is_file():
        raise ValueError(f"{page}: no file {name} in the repository")
    return f"```python\n{path.read_text()}```"


def _table(name: str, page: Path) -> str:
    if name not in SHOWN:
        raise ValueError(f"{page}: no table {name!r}; known: {', '.join(SHOWN)}")
    rows = SHOWN[name]()
    if rows.empty:
        return "*No rows yet.*"
    lines = [rows.columns, ["---"] * len(rows.columns), *rows.itertuples(index=False)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _figure(name: str, page: Path) -> str:
    path = project_root() / "figures" / "readme" / f"{name}.png"
    if not path.is_file():
        return "*No figure yet: its table has no rows.*"
    with Image.open(path) as image:
        alt = image.text.get("Description", "")
    return f"![{alt}]({os.path.relpath(path, page.parent)})"


_SHOW = {"file": _file, "table": _table, "figure": _figure}
"""Kind of a block -> what stands in it."""


def name_of(method: str, variant: str = "") -> str:
    """What a reader calls a row: the method's own name, its variant, and whether it is a control that must fail."""
    shown = names.name_of(method, variant)
    return f"{shown} (control)" if "shuffled" in shown else shown


def percent(ratio: float) -> str:
    """A share as a page prints it."""
    return f"{100 * ratio:g} %"


def _summary(name: str, where: Where, columns: Columns, rows: pd.DataFrame | None = None) -> pd.DataFrame:
    """Mean ± deviation over seeds of `chosen` rows, in the order of a tuple; the key's columns, then `columns`.

    Of a column that is absent all values are empty.
    """
    table = chosen(TABLES[name].read() if rows is None else rows, where)
    orders = {column: value for column, value in where.items() if isinstance(value, tuple)}
    summary = replace(TABLES[name], measures=tuple(columns)).summary(table.reset_index(drop=True))
    if summary.empty:
        return summary
    for column, order in reversed(orders.items()):
        places = summary[column].map({value: place for place, value in enumerate(order)})
        summary = summary.loc[places.sort_values(kind="stable").index]
    absent = {column: "" for column in columns if column not in summary}
    return summary.assign(**absent).fillna("")


def _lines(summary: pd.DataFrame, leading: Mapping[str, Callable[[Any], str]], columns: Columns) -> pd.DataFrame:
    """A page's table: leading columns, each from a row of the summary, then the measures by their headings."""
    if summary.empty:
        return summary
    first = {heading: [make(row) for row in summary.itertuples()] for heading, make in leading.items()}
    measured = summary[list(columns)].set_axis(list(columns.values()), axis=1).reset_index(drop=True)
    shown = pd.concat([pd.DataFrame(first), measured], axis=1)
    return shown.loc[:, (shown != "").any().to_numpy()]


METHOD = {"method": lambda row: name_of(row.method, row.variant)}
PAIRS = {"known pairs": lambda row: percent(row.paired_ratio)}
TRAININGS = {"seeds": lambda row: str(row.seeds)}
UNPAIRED = {"unpaired images and reports": lambda row: f"{row.unpaired:,}"} | METHOD | TRAININGS


def trainings(
    name: str, where: Where, columns: Columns = MAIN, leading: Mapping[str, Callable[[Any], str]] = METHOD
) -> pd.DataFrame:
    """Rows of a table of trainings: mean ± standard deviation over the seeds."""
    return _lines(_summary(name, where, columns), leading, columns)


def unpaired_share() -> pd.DataFrame:
    """What unpaired images add to the same steps and reports: means over the seeds, with Student's 95 % interval."""
    rows = with_own(TABLES["abundance"].read())
    of_seed = rows.assign(variant=rows["variant"].fillna("")).pivot(index=["unpaired", "seed"], columns="variant")
    shown = []
    for count, _ in of_seed.groupby(level="unpaired"):
        row = {"unpaired images and reports": f"{count:,}"}
        for name, heading in MAIN.items():
            own = of_seed.loc[count, name]
            gains = (own[""] - own[WITHOUT_IMAGES]).dropna() if WITHOUT_IMAGES in own else own.iloc[:0, 0]
            if len(gains) < 2:
                break
            half = stats.t.ppf(0.975, len(gains) - 1) * gains.std() / len(gains) ** 0.5
            row |= {"seeds": str(len(gains))}
            row[heading] = f"{gains.mean():+.3f} [{gains.mean() - half:+.3f}, {gains.mean() + half:+.3f}]"
        else:
            shown.append(row)
    return pd.DataFrame(shown)


def headline() -> pd.DataFrame:
    """The README's table: real pairs first, then synthetic lesions in real images, then the phantom."""
    tenth = {"method": ("clip", "lgdea"), "variant": "", "paired_ratio": 0.1}
    real = {"world": "openi", "variant": ""}
    parts = [
        ("real: Open-i", "limited_pairing", real | {"method": COMPARED, "paired_ratio": 0.1}),
        ("real: Open-i", "ablation", real | {"method": "lgdea", "variant": CONTROL, "paired_ratio": 0.1}),
        ("real: Open-i", "limited_pairing", real | {"method": ("clip", "lgdea"), "paired_ratio": 1.0}),
    ]
    parts += [("synthetic lesions in real images", "limited_pairing", {"world": "painted"} | tenth)]
    parts += [("phantom", "limited_pairing", {"world": "phantom"} | tenth)]
    tables = [
        trainings(name, where, HEADLINE, {"images": lambda _, images=images: images} | PAIRS | METHOD | TRAININGS)
        for images, name, where in parts
    ]
    return joined(tables).fillna("")


def real_pairs() -> pd.DataFrame:
    """Open-i: methods by the share of known pairs, then `lgdea` without a part and its controls."""
    methods = {"world": "openi", "variant": "", "paired_ratio": RATIOS}
    parts = [("limited_pairing", methods), ("ablation", {"world": "openi", "paired_ratio": RATIOS})]
    tables = [trainings(name, where, REAL_PAIRS, PAIRS | METHOD | TRAININGS) for name, where in parts]
    return joined(tables).fillna("")


def dose_response() -> pd.DataFrame:
    """`DOSES` and LGDEA without unpaired images, of the seeds that all of them have."""
    variants = (WITHOUT_IMAGES, *DOSES)
    rows = of_common_seeds(chosen(TABLES["ablation"].read(), TENTH | {"method": "lgdea"}), variants)
    summary = _summary("ablation", {"variant": variants}, RELATED, rows)
    return _lines(summary, {"variant": lambda row: row.variant} | TRAININGS, RELATED)


def by_finding(corpus: str) -> pd.DataFrame:
    """AUC of every finding at one hospital: mean ± deviation over seeds, a column for each model."""
    rows = chosen(TABLES["hospitals"].read(), {"corpus": corpus, "metric": ("auc", "auc_abnormal")})
    if rows.empty:
        return rows
    label = rows["finding"].replace({"macro": "mean of the findings", "all": "abnormal against normal"})
    models = [f"{name_of(row.method, row.variant)}, {percent(row.paired_ratio)}" for row in rows.itertuples()]
    groups = rows.assign(model=models, label=label).groupby(["label", "model"])
    wide = groups["estimate"].agg(mean_and_sd).unstack("model").fillna("")
    order = sorted(wide.columns, key=lambda name: ("control" in name, "without" in name, name))
    last = ["mean of the findings", "abnormal against normal"]
    findings = [name for name in wide.index if name not in last] + [name for name in last if name in wide.index]
    positives = rows.assign(label=label).groupby("label")["positives"].first().astype(int)
    wide = wide.loc[findings, order]
    wide.insert(0, "positives", [positives[name] for name in findings])
    return wide.rename_axis("finding").rename_axis(None, axis=1).reset_index()


def looked_at() -> pd.DataFrame:
    """CNR in the boxes of another hospital, beside both controls, with intervals of each training."""
    names = {
        "cnr_signed": "CNR",
        "cnr_signed_swapped": "CNR, cross-patient",
        "cnr_signed_own": "CNR beyond cross-patient",
        "cnr_signed_blind": "CNR of mean boxes",
    }
    rows = chosen(TABLES["hospitals"].read(), {"metric": tuple(names), "finding": "macro", "corpus": "nih"})
    if rows.empty:
        return rows
    cells = [f"{row.estimate:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in rows.itertuples()]
    key = ["method", "variant", "paired_ratio", "seed"]
    wide = rows.assign(cell=cells).pivot(index=key, columns="metric", values="cell").reset_index()
    named = [name_of(row.method, row.variant) for row in wide.itertuples()]
    shown = wide[list(names)].set_axis(list(names.values()), axis=1)
    leading = {"method": named, "known pairs": wide["paired_ratio"].map(percent), "seed": wide["seed"]}
    return pd.concat([pd.DataFrame(leading), shown], axis=1)


def led_by(corpus: str) -> pd.DataFrame:
    """`lgdea` less each other model on the same patients of a hospital: difference and 95 % interval."""
    rows = chosen(TABLES["paired"].read(), {"corpus": corpus})
    rows = rows[[pair in DIFFERENCES for pair in zip(rows["metric"], rows["finding"], strict=True)]]
    if rows.empty:
        return rows
    key = ["paired_ratio", "against", "against_variant", "against_ratio", "seeds"]
    cells = [f"{row.estimate:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" for row in rows.itertuples()]
    headings = [DIFFERENCES[pair] for pair in zip(rows["metric"], rows["finding"], strict=True)]
    wide = rows.assign(cell=cells, heading=headings).pivot(index=key, columns="heading", values="cell").fillna("")
    shown = wide.reset_index()
    leading = {
        "LGDEA with": shown["paired_ratio"].map(percent),
        "less": [
            f"{name_of(row.against, row.against_variant)}, {percent(row.against_ratio)}" for row in shown.itertuples()
        ],
        "seeds": shown["seeds"],
    }
    measured = [heading for heading in DIFFERENCES.values() if heading in wide]
    return pd.concat([pd.DataFrame(leading), shown[measured]], axis=1)


def looked(task: str) -> pd.DataFrame:
    """The score of a task on the images and under every control: a row for each model of each world."""
    rows = chosen(TABLES["looks"].read(), {"preset": "demo", "task": task, "metric": LOOKED[task][0]})
    if rows.empty:
        return rows
    shown = rows["control"].map(lambda control: CONTROLS_SHOWN[control][0])
    groups = rows.assign(shown=shown).groupby(["world", "model", "paired_ratio", "shown"])["estimate"]
    wide = groups.agg(mean_and_sd).unstack("shown").fillna("")
    order = [name for name, _ in CONTROLS_SHOWN.values() if name in wide]
    return _of_models(wide[order])


def named_by_the_page() -> pd.DataFrame:
    """What the page of controls says of each model: what it names, and in how many of the seeds."""
    rows = chosen(TABLES["looks"].read(), {"preset": "demo"})
    if rows.empty:
        return rows
    said = [
        {"world": world, "model": model, "paired_ratio": ratio}
        | {verdict.name: int(verdict.found) for verdict in verdicts(page)}
        for (world, model, ratio, _), page in rows.groupby(["world", "model", "paired_ratio", "seed"])
    ]
    table = pd.DataFrame(said).groupby(["world", "model", "paired_ratio"])
    seeds, counts = table.size(), table.sum().astype(int)
    above = [name for name in LOOKED if name in counts]
    cells = pd.DataFrame(
        {
            "seeds": seeds.astype(str),
            "beyond another patient's image": [_counted(row[above]) for _, row in counts.iterrows()],
            "the page names": [_counted(row.drop(above)) for _, row in counts.iterrows()],
        },
        index=counts.index,
    )
    return _of_models(cells)


def _counted(found: pd.Series) -> str:
    return ", ".join(f"{name} ({count})" for name, count in found.items() if count) or "nothing"


def _of_models(cells: pd.DataFrame) -> pd.DataFrame:
    """Rows of world, model and ratio, in words; a world's own models first."""
    ordered = cells.sort_index(key=lambda level: level.isin((BOXED, RANDOM)) if level.name == "model" else level)
    worlds, models, ratios = (ordered.index.get_level_values(name) for name in ordered.index.names)
    leading = {
        "images": [{"openi": "real: Open-i"}.get(world, world) for world in worlds],
        "model": [OTHER_MODELS.get(model) or name_of(model) for model in models],
        "known pairs": [percent(ratio) if ratio else "" for ratio in ratios],
    }
    return pd.concat([pd.DataFrame(leading), ordered.reset_index(drop=True).rename_axis(None, axis=1)], axis=1)


def controlled() -> pd.DataFrame:
    """Grounding beside both controls, of methods and their own controls, at a tenth of the pairs; mean boxes last."""
    whole = trainings("limited_pairing", TENTH | {"method": COMPARED, "variant": ""}, GROUNDING)
    fail = trainings("ablation", TENTH | {"method": COMPARED, "variant": CONTROL}, GROUNDING)
    boxes = {f"{name}_blind": heading for name, heading in GROUNDING.items() if name in GROUNDED}
    prior = {"method": lambda _: "mean boxes (location-prior control)"}
    last = trainings("limited_pairing", TENTH | {"method": "lgdea", "variant": ""}, boxes, prior)
    return joined([whole, fail, last]).fillna("")


def variants(controls: bool) -> pd.DataFrame:
    """LGDEA as it is and with a part left out or replaced, at a tenth of the pairs; or the controls, of any method."""
    table, pairing = TABLES["ablation"].read(), TABLES["limited_pairing"].read()
    is_control = table["variant"].isin(CONTROLS)
    rows = table[is_control if controls else ~is_control]
    whole = as_it_is(pairing, table[table["method"] == "lgdea"]).assign(variant=WHOLE)
    rows = rows if controls else pd.concat([whole, rows])
    summary = _summary("ablation", TENTH, MAIN, rows)
    order = (summary["variant"] != WHOLE).sort_values(kind="stable").index
    named = {"variant": lambda row: row.variant} if not controls else METHOD
    return _lines(summary.loc[order], named, MAIN)


def beyond_base(base: str, ratios: Sequence[float] = (0.1,)) -> pd.DataFrame:
    """What each variant has beyond one of them, seed by seed."""
    pairing, table = TABLES["limited_pairing"].read(), TABLES["ablation"].read()
    found = differences(pairing, table, base)
    if found.empty:
        return found
    found = found[(found["world"] == "phantom") & found["paired_ratio"].isin(ratios) & (found["method"] == "lgdea")]
    if len(ratios) > 1:
        found = found[found["variant"] == WHOLE]
        return _lines(found, PAIRS, MAIN)
    return _lines(found, {"variant": lambda row: "LGDEA as it is" if row.variant == WHOLE else row.variant}, MAIN)


def trained_relations() -> pd.DataFrame:
    """What the last relations of each training of LGDEA know, by the share of known pairs."""
    columns = {f"relation_{name}": heading for name, heading in RELATIONS.items()}
    where = {"method": "lgdea", "variant": "", "world": ("phantom", "mismatched", "painted")}
    rows = TABLES["limited_pairing"].read()
    known = rows[rows.get("relation_label_auc", pd.Series(index=rows.index, dtype=float)).notna()]
    return _lines(_summary("limited_pairing", where, columns, known), {"world": lambda row: row.world} | PAIRS, columns)


def warm_relations() -> pd.DataFrame:
    """What relations know after the warm-up, by setting and by start; only the settings that differ are named."""
    summary = _summary("relations", TENTH, RELATIONS)
    if summary.empty:
        return summary
    usual = {name: summary[name].mode().iloc[0] for name in SETTINGS}

    def named(row: Any) -> str:
        changed = [f"{name} {getattr(row, name):g}" for name in SETTINGS if getattr(row, name) != usual[name]]
        return ", ".join([row.relations, *changed])

    return _lines(summary, {"relations": named, "pair steps before": lambda row: str(row.pair_steps)}, RELATIONS)


def hard() -> pd.DataFrame:
    """The questions of `HARD`, a column a method, at a tenth of the pairs."""
    rows = chosen(TABLES["hard_set"].read(), {"paired_ratio": 0.1})
    if rows.empty:
        return rows
    summary = TABLES["hard_set"].summary(rows).set_index(["by", "group", "measure"])
    models = [name for name in summary.columns if name != "preset"]
    plain = summary[models].map(lambda text: text.partition(" (")[0])  # without the number of seeds
    shown = plain.loc[[key for key in HARD if key in plain.index]]
    shown.columns = [name_of(model.split()[0]) for model in models]
    return shown.set_axis([HARD[key] for key in shown.index]).rename_axis("question").reset_index()


def towers(name: str, measure: str, corpus: str, protocol: str = "frozen") -> pd.DataFrame:
    """A downstream task: a row for each tower, a column for each share of the labels."""
    order = (*TOWERS, "lgdea", "lgdea+asg")
    summary = _summary(name, {"corpus": corpus, "protocol": protocol, "method": order}, {measure: ""})
    if summary.empty:
        return summary
    wide = summary.pivot(index="method", columns="label_ratio", values=measure)
    wide = wide.loc[[method for method in order if method in wide.index]].fillna("")
    wide.columns = [f"{percent(ratio)} of the labels" for ratio in wide.columns]
    return wide.set_axis([name_of(method) for method in wide.index]).rename_axis("tower").reset_index()


def draws() -> pd.DataFrame:
    """Many draws of a small share of the labels."""
    summary = TABLES["label_draws"].summary()
    columns = {"auc": "AUC", "less_reference": "less CLIP, draw by draw", "won": "share of draws above CLIP"}
    return _lines(summary, {"tower": lambda row: name_of(row.method), "draws": lambda row: str(row.draws)}, columns)


def published(table: str) -> pd.DataFrame:
    """Numbers that papers print, which nobody here has run again."""
    rows = read_published()
    rows = rows[rows["table"] == table]
    system = rows["system"] + rows["backbone"].map(lambda name: f" ({name})" if name else "")
    value = rows["value"].map("{:.3f}".format) + rows["sd"].map(lambda sd: f" ± {sd:.3f}" if sd == sd else "")
    cells = pd.DataFrame({"system": system, "column": rows["measure"], "value": value})
    cells["column"] += ", " + rows["corpus"]
    tasks = table in ("classification", "segmentation")
    if tasks:  # three shares of the labels in one cell, as the papers print them
        cells = cells.groupby(["system", "column"], sort=False)["value"].agg(" / ".join).reset_index()
    else:
        cells["system"] += ", " + rows["setting"]
    wide = cells.pivot(index="system", columns="column", values="value").fillna("")
    wide = wide.loc[list(dict.fromkeys(cells["system"]))].rename_axis(None, axis=1).rename_axis("system").reset_index()
    wide.columns = [f"{name} (1 / 10 / 100 %)" if tasks and name != "system" else name for name in wide.columns]
    return wide.assign(origin="published, not rerun")


def language_models(sample: str, columns: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """What extractors make of the reports of a sample, or what it costs; a row for each number of reports.

    Args:
        sample: of `readers.SAMPLES`.
        columns: column of the table -> its heading and format; one with an interval has it behind it.
    """
    rows = TABLES["llm_evidence"].read()
    rows = rows[rows["sample"] == sample].dropna(subset=list(columns), how="all").sort_values("reports", kind="stable")
    shown = {"reports": rows["reports"], "extractor": "`" + rows["extractor"] + "`", "prompt": rows["prompt"]}
    for name, (heading, form) in columns.items():
        shown[heading] = rows[name].map(form.format)
        if f"{name}_low" in rows:
            shown[heading] += [
                f" [{low:.3f}, {high:.3f}]" for low, high in rows[[f"{name}_low", f"{name}_high"]].values
            ]
    return pd.DataFrame(shown).replace(r"nan.*", "", regex=True)


def language_model_disagreements() -> pd.DataFrame:
    """The reports of the largest test sample on which a language model, alone, and the rules differ most."""
    rows = TABLES["llm_evidence"].read()
    if "disagreements" not in rows:
        return pd.DataFrame()
    alone = rows["extractor"].str.startswith("openai:") & ~rows["extractor"].str.contains("+", regex=False)
    rows = rows[alone & rows["sample"].eq("test") & rows["disagreements"].notna()]
    if rows.empty:
        return pd.DataFrame()
    largest = rows.loc[rows["reports"].idxmax()]
    lines = (report.split(": ", 1) for report in largest["disagreements"].split("; "))
    heading = f"`{largest['extractor']}` / rules, {largest['reports']} reports; -: not stated"
    return pd.DataFrame(lines, columns=["report", heading])


def prompt_sets() -> pd.DataFrame:
    """Every prompt set with its source and licence, as its file says."""
    folder = project_root() / "lgdea_core" / "evaluation" / "prompt_sets"
    sets = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    rows = [
        {"set": f"`{name}`", "source": prompts["source"], "score": _score(prompts), "licence": prompts["licence"]}
        for name, prompts in sets.items()
    ]
    return pd.DataFrame(rows)


def _score(prompts: Mapping[str, Any]) -> str:
    channels = ", ".join(prompts["channels"])
    return f"{channels}; {prompts['ensemble'].replace('_', ' ')}, {prompts['join'].replace('_', ' ')}"


def fault_kills(path: Path | None = None) -> pd.DataFrame:
    """What became of runs that were killed at random moments: sums over the kills of each notebook."""
    rows = pd.read_csv(path or project_root() / "benchmarks" / "faults_kills.csv", dtype={"notebook": str})
    counts = {
        "while running": ("still_running", "sum"),
        "orphans": ("orphans", "sum"),
        "seconds to end": ("seconds_to_end", "max"),
        "repairs by hand": ("repairs", "sum"),
        "files compared": ("files", "sum"),
        "files that differ": ("differing", "sum"),
    }
    rows = rows.assign(method=rows["method"].map(name_of), sent=rows["signal"] + " to " + rows["to"])
    groups = rows.groupby(["method", "notebook"], sort=False)
    named = {"kills": ("kill", "size"), "signals": ("sent", lambda own: ", ".join(sorted(set(own))))}
    return groups.agg(**named, **counts).reset_index()


def fault_servers() -> pd.DataFrame:
    """What became of reports that were asked of a server which misbehaves."""
    rows = pd.read_csv(project_root() / "benchmarks" / "faults_servers.csv")
    return rows.set_axis([name.replace("_", " ") for name in rows], axis=1)


def fault_images() -> pd.DataFrame:
    """What became of damaged image files."""
    row = json.loads((project_root() / "benchmarks" / "faults_images.json").read_text())
    return pd.DataFrame([row])[["kind", "files", "read", "refused", "escaped", "seconds"]]


def measured(benchmark: str) -> pd.DataFrame:
    """What a benchmark took, beside its peer or a plain way; the fields that none of its rows has are left out."""
    rows = pd.read_csv(project_root() / "benchmarks" / "results.csv")
    rows = rows[rows["benchmark"] == benchmark].drop(columns="benchmark").dropna(axis=1, how="all")
    shown = {"peak_gib": "peak GiB", "ratio_is": "the ratio is", "load": "load before"}
    for column in {"seconds", "peak_gib", "ratio"} & set(rows):
        rows[column] = [f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in rows[column]]
    rows = rows.replace("nan", "")
    return rows.fillna("").rename(columns=shown)


def at_size() -> pd.DataFrame:
    """Seconds and memory of preset `paper` before its steps, by the number of studies; the largest is fitted.

    Raises:
        ValueError: there are rows of several machines, which do not stand in one table.
    """
    rows = pd.read_csv(project_root() / "benchmarks" / "results.csv")
    rows = rows[rows["benchmark"] == "size"]
    if rows["machine"].nunique() > 1:
        raise ValueError(f"results.csv: benchmark size has rows of {sorted(set(rows['machine']))}; keep one machine's")
    rows[["studies", "part"]] = rows["size"].str.extract(r"(\d+) studies, (.+)")
    shown: dict[str, pd.Series] = {}
    for studies, own in rows.astype({"studies": int}).groupby("studies"):
        own = own.set_index("part")
        fitted = ", fitted" if own["ratio"].notna().any() else ""
        for name, heading in (("seconds", "seconds"), ("peak_gib", "GiB")):
            shown[f"{heading}, {studies:,}{fitted}"] = own[name].map(_short, na_action="ignore")
        if fitted:
            shown["power of the seconds"] = own["ratio"].map("{:.2f}".format, na_action="ignore")
    return pd.DataFrame(shown).reindex(list(dict.fromkeys(rows["part"]))).fillna("").rename_axis("part").reset_index()


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def presets() -> pd.DataFrame:
    """The four sizes of a run."""
    rows = []
    for name in PRESETS:
        config = RunConfig.from_preset(name)
        data, model, steps = config.data, config.model, config.train
        studies = f"{data.studies:,} studies" if data.corpus == "phantom" else "its studies"
        counts = (steps.text_steps, steps.pair_steps, steps.relation_steps)
        rows.append(
            {
                "preset": f"`{name}`",
                "data": f"`{data.corpus}`, {studies}, {data.image_size} pixels",
                "steps: text + pairs + relations": " + ".join(f"{count:,}" for count in counts),
                "batch": steps.batch_size,
                "image tower": model.image_tower or "small ResNet",
                "text tower": model.text_tower or "small BERT",
            }
        )
    return pd.DataFrame(rows)


def committed() -> pd.DataFrame:
    """Every committed table, and the command that makes the rows which it lacks."""
    rows = [
        {"table": f"`figures/tables/{table.name}.csv`", "rows": len(table.read()), "command": f"`{table.command}`"}
        for table in TABLES.values()
    ]
    return pd.DataFrame(rows)


def pairing(world: str, methods: tuple[str, ...] = COMPARED, ratios: tuple[float, ...] = RATIOS) -> pd.DataFrame:
    """Methods by the share of known pairs in one world."""
    where = {"world": world, "variant": "", "paired_ratio": ratios, "method": methods}
    return trainings("limited_pairing", where, MAIN, PAIRS | METHOD)


SHOWN: dict[str, Callable[[], pd.DataFrame]] = {
    "headline": headline,
    **{
        f"real images, {name}": partial(trainings, "real_films", {"world": world, "method": COMPARED})
        for world, name in REAL_NAMES.items()
    },
    "real pairs": real_pairs,
    "real pairs, by finding": partial(by_finding, "openi"),
    "real pairs, differences": partial(led_by, "openi"),
    "another hospital, by finding": partial(by_finding, "nih"),
    "another hospital, differences": partial(led_by, "nih"),
    "another hospital, boxes": looked_at,
    "ceiling, Open-i": partial(towers, "asg_linear_probe", "auc", "openi", AUGMENTED),
    "ceiling, NIH": partial(towers, "asg_linear_probe", "auc", "nih", AUGMENTED),
    "few pairs": partial(pairing, "phantom"),
    "baselines": partial(pairing, "phantom", BASELINES, (0.1, 1.0)),
    "mismatched pools": partial(pairing, "mismatched"),
    "synthetic lesions": partial(pairing, "painted"),
    "easy phantom": partial(pairing, "easy"),
    "easy phantom, local loss alone": partial(trainings, "ablation", {"world": "easy"}),
    "does it look": controlled,
    "does it look, baselines": partial(
        trainings,
        "limited_pairing",
        {"world": "phantom", "paired_ratio": 1.0, "variant": "", "method": (*BASELINES, *COMPARED)},
        GROUNDING,
    ),
    "does it look, page": named_by_the_page,
    **{f"does it look, {task}": partial(looked, task) for task in LOOKED},
    "retrieval": partial(
        trainings,
        "limited_pairing",
        {"world": "phantom", "paired_ratio": (0.1, 1.0), "variant": "", "method": COMPARED},
        RETRIEVAL,
        PAIRS | METHOD,
    ),
    "variants": partial(variants, controls=False),
    "controls": partial(variants, controls=True),
    "beyond the method": partial(beyond_base, WHOLE),
    "beyond without unpaired images": partial(beyond_base, WITHOUT_IMAGES),
    "beyond the local loss": partial(beyond_base, PHRASES),
    "beyond the local loss, by pairs": partial(beyond_base, PHRASES, RATIOS),
    "dose-response": dose_response,
    "abundance": partial(trainings, "abundance", {}, RELATED, UNPAIRED),
    "abundance, differences": unpaired_share,
    "relations after training": trained_relations,
    "relations after the warm-up": warm_relations,
    "hard set": hard,
    "asg": partial(trainings, "asg", {"world": "phantom"}, ASG),
    "linear probe, phantom": partial(towers, "asg_linear_probe", "auc", "phantom"),
    "linear probe, NIH": partial(towers, "asg_linear_probe", "auc", "nih"),
    "fine-tuned, phantom": partial(towers, "asg_linear_probe", "auc", "phantom", "fine-tuned"),
    "label draws": draws,
    "segmentation, phantom": partial(towers, "segmentation", "dice", "phantom"),
    "segmentation, phantom, images with a lesion": partial(towers, "segmentation", "dice_positive", "phantom"),
    "segmentation, NIH": partial(towers, "segmentation", "dice", "nih"),
    "segmentation, NIH, images with a lesion": partial(towers, "segmentation", "dice_positive", "nih"),
    **{f"published {name}": partial(published, name) for name in PUBLISHED},
    "faults, kills": fault_kills,
    "faults, servers": fault_servers,
    "faults, images": fault_images,
    **{f"benchmark, {name}": partial(measured, name) for name in BENCHMARKS},
    "language models, test": partial(language_models, "test", READ),
    "language models, development": partial(language_models, "development", READ),
    "language models, errors": partial(language_models, "test", MISREAD),
    "language models, cost": partial(language_models, "test", ASKED),
    "language models, disagreements": language_model_disagreements,
    "preset paper at size": at_size,
    "prompt sets": prompt_sets,
    "presets": presets,
    "committed tables": committed,
}  # fmt: skip
"""Name in a page's comment -> what is shown there."""
