"""Figures of README.md and docs/ that are drawn from the committed tables: python -m lgdea_core.experiments figures."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from lgdea_core.experiments.downstream import label_curves
from lgdea_core.experiments.paper_tables import as_it_is, relation_base
from lgdea_core.experiments.plans import ABLATIONS, BY_NAME, COMPARED, CONTROL, CONTROLS, DOSES
from lgdea_core.experiments.tables import TABLES, chosen, of_common_seeds
from lgdea_core.experiments.worlds import world_of
from lgdea_core.figures import (
    figure_ablation,
    figure_abundance,
    figure_dose_response,
    figure_hard_set,
    figure_label_curve,
    figure_metric_comparison,
    figure_pairing_curve,
    figure_relation_curves,
    save_figure,
)
from lgdea_core.figures.names import name_of
from lgdea_core.figures.style import Figure
from lgdea_core.figures.tables import CHANCE, MEASURE_NAMES
from lgdea_core.paths import git_commit, project_root


def write_figures() -> list[str]:
    """Write every figure to `figures/readme/` as PNG; a line for each, and for those whose table has no rows yet."""
    folder, lines = project_root() / "figures" / "readme", []
    origin = {"run": "tables", "commit": git_commit(project_root()), "seed": "several"}
    for name, draw in DRAWN.items():
        figure = draw()
        if figure is not None:
            save_figure(figure, folder / name, origin, formats=("png",))
        lines.append(f"figures/readme/{name}.png: {'no rows yet' if figure is None else 'written'}")
    return lines


def _rows(name: str, **where: Any) -> pd.DataFrame:
    """Rows of a committed table with these values, of preset demo."""
    return chosen(TABLES[name].read(), where | {"preset": "demo"})


def _pairing(world: str) -> Figure | None:
    rows = _rows("limited_pairing", world=world, method=COMPARED)
    return figure_pairing_curve(rows, COMPARED, world_of(world).ratios) if len(rows) else None


def _ablation() -> Figure | None:
    rows = _rows("ablation", world="phantom", paired_ratio=0.1)
    whole = as_it_is(_rows("limited_pairing", world="phantom", method="lgdea"), rows)
    wanted = [name for name in ABLATIONS if name not in BY_NAME]
    return figure_ablation(rows, whole, wanted, CONTROLS) if len(rows) else None


def _dose_response() -> Figure | None:
    """What relations of a given label AUC are worth: those of the true pairs alone, which is 1, come last."""
    rows = _rows("ablation", world="phantom", paired_ratio=0.1, method="lgdea")
    rows = of_common_seeds(rows, DOSES)
    if rows.empty:
        return None
    perfect = rows["relation_label_auc"].mask(rows["variant"] == DOSES[-1], 1.0)
    whole = as_it_is(_rows("limited_pairing", world="phantom", method="lgdea"), rows)
    whole = whole[whole["seed"].isin(rows["seed"])]
    return figure_dose_response(rows.assign(relation_label_auc=perfect), whole)


def _abundance() -> Figure | None:
    """The sizes of the first seed, over the seeds that have all of them."""
    rows = TABLES["abundance"].read()
    rows = rows.assign(point=list(zip(rows["variant"], rows["unpaired"], strict=True)))
    rows = of_common_seeds(rows, set(rows.loc[rows["seed"] == rows["seed"].min(), "point"]), "point")
    caption = "the same known pairs at every size, four times the preset's steps"
    return figure_abundance(rows, caption) if len(rows) else None


def _comparison() -> Figure | None:
    """Methods and their controls at a tenth of the pairs: mean over seeds, and the deviation as interval."""
    whole, shuffled = (_rows(name, world="phantom", paired_ratio=0.1) for name in ("limited_pairing", "ablation"))
    rows = pd.concat([whole, shuffled[shuffled["variant"] == CONTROL]])
    rows = rows[rows["method"].isin(COMPARED)].assign(variant=lambda table: table["variant"].fillna(""))
    if rows.empty:
        return None
    order = [(method, variant) for variant in ("", CONTROL) for method in COMPARED]
    long = rows.melt(["method", "variant"], list(MEASURE_NAMES), "measure").groupby(["method", "variant", "measure"])
    means = long["value"].agg(["mean", "std"])
    table = [
        {"metric": name, "method": name_of(*pair), "estimate": mean, "low": mean - sd, "high": mean + sd}
        | {"chance": CHANCE.get(name)}
        for measure, name in MEASURE_NAMES.items()
        for pair in order
        for mean, sd in means[means.index.isin([(*pair, measure)])].itertuples(index=False)
    ]
    return figure_metric_comparison(pd.DataFrame(table), "phantom, 10 % of pairs known; mean ± sd over seeds")


def _relations() -> Figure | None:
    rows = _rows("relations", world="phantom", paired_ratio=0.1)
    return figure_relation_curves(rows, relation_base("demo")) if len(rows) else None


def _hard_set() -> Figure | None:
    rows = _rows("hard_set", paired_ratio=0.1)
    return figure_hard_set(rows, "cnr_signed") if len(rows) else None


def _labels() -> Figure | None:
    panels = label_curves()
    return figure_label_curve(panels, "frozen towers") if panels else None


DRAWN: Mapping[str, Callable[[], Figure | None]] = {
    "pairing_curve_real": lambda: _pairing("openi"),
    "pairing_curve": lambda: _pairing("phantom"),
    "comparison": _comparison,
    "ablation": _ablation,
    "dose_response": _dose_response,
    "abundance": _abundance,
    "relations": _relations,
    "hard_set": _hard_set,
    "label_curves": _labels,
}
"""Name of a file -> what is drawn; None while its table has no rows."""
