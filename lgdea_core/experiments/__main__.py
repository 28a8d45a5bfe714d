"""python -m lgdea_core.experiments limited_pairing | ablation | relations [--plan]: make the rows that are missing."""

import argparse
import logging
import sys

from lgdea_core.config import METHODS, PRESETS, RunConfig
from lgdea_core.experiments.cells import Cell
from lgdea_core.experiments.plans import ABLATIONS, PAIRED_RATIOS, SEEDS, ablation, limited_pairing
from lgdea_core.experiments.relations import measure_relations
from lgdea_core.experiments.tables import estimated_minutes, missing_cells, read_table, run_cells, summary, table_path
from lgdea_core.experiments.worlds import WORLDS


def main() -> None:
    """Parse, print the costed plan, train."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    if arguments.experiment == "relations":
        for config in relation_configs(arguments):
            measure_relations(config, arguments.world)
        return
    cells, path = planned(arguments), table_path(arguments.experiment)
    if arguments.summary:
        _say(summary(read_table(path)).to_string(index=False))
        return
    todo = missing_cells(cells, path)
    minutes = estimated_minutes(todo, path)
    for cell, cost in zip(todo, minutes, strict=True):
        _say(f"{cost:6.1f} min  " + "  ".join(str(part) for part in cell.key if part != ""))
    total = sum(minutes) / arguments.workers
    _say(f"{len(todo)} of {len(cells)} trainings to do, about {total:.0f} min, {arguments.workers} at a time -> {path}")
    if not arguments.plan:
        run_cells(todo, path, arguments.workers)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def planned(arguments: argparse.Namespace) -> list[Cell]:
    """The cells the command line asks for."""
    common = {"seeds": arguments.seeds, "world": arguments.world, "preset": arguments.preset}
    if arguments.experiment == "ablation":
        return ablation(ratios=arguments.ratios or (0.1,), variants=arguments.variants, **common)
    return limited_pairing(ratios=arguments.ratios or PAIRED_RATIOS, methods=arguments.methods, **common)


def relation_configs(arguments: argparse.Namespace) -> list[RunConfig]:
    """The warm models whose relations are measured."""
    return [
        RunConfig.from_preset(arguments.preset, paired_ratio=ratio, seed=seed)
        for ratio in arguments.ratios or (0.1,)
        for seed in arguments.seeds
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lgdea_core.experiments", description=__doc__)
    parser.add_argument("experiment", choices=("limited_pairing", "ablation", "relations"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--ratios", type=float, nargs="+", help="paired ratios")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="of limited_pairing")
    parser.add_argument("--variants", nargs="+", choices=tuple(ABLATIONS), default=list(ABLATIONS), help="of ablation")
    parser.add_argument("--world", choices=tuple(WORLDS), default="phantom")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="demo")
    parser.add_argument("--workers", type=int, default=2, help="trainings side by side; they share the CPU's threads")
    parser.add_argument("--summary", action="store_true", help="print mean ± sd over the seeds of the table and stop")
    parser.add_argument("--plan", action="store_true", help="print what would be trained, with minutes, and stop")
    return parser


if __name__ == "__main__":
    main()
