"""python -m lgdea_core.experiments EXPERIMENT [--plan]: make the rows of a table in figures/tables that are missing."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from lgdea_core.config import METHODS, PRESETS, RunConfig
from lgdea_core.experiments import downstream, hard, label_draws
from lgdea_core.experiments.cells import Cell
from lgdea_core.experiments.paper_tables import WHOLE, differences, write_paper_tables
from lgdea_core.experiments.plans import (
    ABLATIONS,
    ASG_ABLATIONS,
    COMPARED,
    CONTROL,
    PHRASES,
    SEEDS,
    TOWERS,
    WITHOUT_IMAGES,
    ablation,
    asg,
    limited_pairing,
    real,
)
from lgdea_core.experiments.relations import KEY as RELATION_KEY
from lgdea_core.experiments.relations import measure_relations, missing_relations, relations_summary
from lgdea_core.experiments.remeasure import kept_models, older_rows, remeasure
from lgdea_core.experiments.tables import (
    estimated_minutes,
    guessed_seconds,
    missing_cells,
    read_table,
    run_cells,
    summary,
    table_path,
)
from lgdea_core.experiments.worlds import GENERATED, REAL

Run = Callable[[argparse.Namespace], None]


def main() -> None:
    """Parse, print the costed plan, make the rows."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    arguments.run(arguments)


def run_limited_pairing(arguments: argparse.Namespace) -> None:
    """Train what the curve lacks."""
    common = {"seeds": arguments.seeds, "world": arguments.world, "preset": arguments.preset}
    cells = _planned(limited_pairing, ratios=arguments.ratios, methods=arguments.methods, **common)
    _train(cells, "limited_pairing", arguments)


def run_ablation(arguments: argparse.Namespace) -> None:
    """Train what the ablations lack."""
    common = {"seeds": arguments.seeds, "world": arguments.world, "preset": arguments.preset}
    cells = _planned(
        ablation, ratios=arguments.ratios, variants=arguments.variants, methods=arguments.methods, **common
    )
    _train(cells, "ablation", arguments)
    if arguments.summary:
        _say_differences(read_table(table_path("limited_pairing")), read_table(table_path("ablation")))


def run_real(arguments: argparse.Namespace) -> None:
    """Train what the table of real films lacks."""
    common = {"seeds": arguments.seeds, "worlds": arguments.worlds, "preset": arguments.preset}
    _train(real(methods=arguments.methods, **common), "real_films", arguments)


def run_relations(arguments: argparse.Namespace) -> None:
    """Train the warm models that the table of relations lacks, and measure them."""
    if arguments.summary:
        _say_summary(relations_summary(read_table(table_path("relations"), RELATION_KEY)), "relations")
        return
    configs = [
        RunConfig.from_preset(arguments.preset, paired_ratio=ratio, seed=seed)
        for ratio in arguments.ratios
        for seed in arguments.seeds
    ]
    models = [model for config in configs for model in missing_relations(config, arguments.world)]
    _say_plan([(model.minutes, str(model)) for model in models], 1, "relations")
    if not arguments.plan:
        measure_relations(models)


def run_hard(arguments: argparse.Namespace) -> None:
    """Measure the models that are there, and say which are not."""
    if arguments.summary:
        _say_summary(hard.hard_summary(read_table(table_path("hard_set"), hard.KEY)), "hard_set")
        return
    common = {"seeds": arguments.seeds, "preset": arguments.preset}
    cells = _planned(limited_pairing, ratios=arguments.ratios, methods=arguments.methods, **common)
    todo, untrained = hard.missing_measures(cells)
    _say_plan([(_guess(hard.SECONDS_A_MODEL, arguments), _named(cell)) for cell in todo], 1, "hard_set")
    for cell in untrained:
        _say(f"no model in {cell.folder / 'model'}; make it with\n    {hard.how_to_train(cell)}")
    if not arguments.plan:
        hard.measure_hard_set(todo)


def run_asg(arguments: argparse.Namespace) -> None:
    """Train what the table of `asg`, its ablation and `clip` lacks."""
    cells = asg(arguments.seeds, arguments.methods, arguments.variants, arguments.preset)
    _train(cells, "asg", arguments)


def run_downstream(experiment: str, arguments: argparse.Namespace) -> None:
    """Probe, or segment with, the towers that are there, and say which are not."""
    table = downstream.TABLES[experiment]
    if arguments.summary:
        _say_summary(downstream.downstream_summary(experiment), table)
        return
    models = downstream.pretrained(asg(arguments.seeds, arguments.methods, arguments.variants, arguments.preset))
    todo, untrained = downstream.missing_jobs(
        experiment, models, arguments.corpora, arguments.protocol, arguments.label_ratios
    )
    lines = zip(downstream.minutes_of(todo), map(str, todo), strict=True)
    _say_plan(lines, arguments.workers, table)
    _say_untrained(untrained)
    if todo and not arguments.plan:
        downstream.run_jobs(todo, arguments.workers)


def run_label_draws(arguments: argparse.Namespace) -> None:
    """Probe the towers that are there on many draws of a share of the labels, and say which are not."""
    if arguments.summary:
        _say_summary(label_draws.draws_summary(label_draws.draws_table()), label_draws.TABLE)
        return
    models = downstream.pretrained(asg(arguments.seeds, arguments.methods, arguments.variants, arguments.preset))
    todo, untrained = label_draws.missing_draws(models, arguments.label_ratio, arguments.draws)
    minutes = _guess(label_draws.SECONDS_A_TOWER * arguments.draws / 12, arguments)
    _say_plan([(minutes, str(work)) for work in todo], arguments.workers, label_draws.TABLE)
    _say_untrained(untrained)
    if todo and not arguments.plan:
        label_draws.run_draws(todo, arguments.workers)


def run_tables(_: argparse.Namespace) -> None:
    """Write the papers' tables and say what they hold."""
    _say("\n".join(write_paper_tables()))


def _planned(plan: Callable[..., list[Cell]], **options: object) -> list[Cell]:
    """A plan's cells; what it refuses ends the command with its message."""
    try:
        return plan(**options)
    except ValueError as error:
        raise SystemExit(f"{plan.__name__}: {error}") from None


def _train(cells: Sequence[Cell], table: str, arguments: argparse.Namespace) -> None:
    path = table_path(table)
    if arguments.summary:
        _say_summary(summary(read_table(path)), table)
        return
    if arguments.remeasure:
        _remeasure(cells, path, arguments)
        return
    todo = missing_cells(cells, path)
    lines = zip(estimated_minutes(todo, path), map(_named, todo), strict=True)
    _say_plan(lines, arguments.workers, table)
    if older := len(older_rows(cells, path)):
        _say(f"{older} rows that are there were measured by other code than this; see --remeasure")
    if not arguments.plan:
        run_cells(todo, path, arguments.workers)


def _say_differences(pairing: pd.DataFrame, variants: pd.DataFrame) -> None:
    """What the variants have beyond each of three of them."""
    for base in (WHOLE, WITHOUT_IMAGES, PHRASES):
        _say(f"\nbeyond {'the method as it is' if base == WHOLE else repr(base)}, seed by seed:")
        rows = differences(pairing, variants, base)
        _say(rows.to_string(index=False) if len(rows) else "no rows to compare yet")


def _remeasure(cells: Sequence[Cell], path: Path, arguments: argparse.Namespace) -> None:
    kept = kept_models(cells, path)
    for cell in kept.ready:
        _say(f"to measure  {_named(cell)}")
    for cell in kept.gone:
        _say(f"no model in {cell.folder / 'model'}: its row stays as it is")
    for cell, differing in kept.foreign:
        _say(f"another model in {cell.folder / 'model'}: its row stays as it is; {'; '.join(differing)}")
    _say(f"{len(kept.ready)} rows to measure anew, {arguments.workers} at a time -> {path}")
    if not arguments.plan:
        remeasure(kept.ready, path, arguments.workers)


def _say_untrained(models: Iterable[downstream.Pretrained]) -> None:
    for model in models:
        _say(f"no model in {model.folder}; make it with `asg` (where asg.csv has its row, remove that first)")


def _named(cell: Cell) -> str:
    return "  ".join(str(part) for part in cell.key if part != "")


def _guess(seconds: float, arguments: argparse.Namespace) -> float | None:
    """Minutes, or None where the guess was not taken on the preset."""
    guess = guessed_seconds(arguments.preset, seconds)
    return None if guess is None else guess / 60


def _say_plan(lines: Iterable[tuple[float | None, str]], workers: int, table: str) -> None:
    """One line for each model with its minutes, then their sum; None has no estimate, and the sum says how many."""
    lines = list(lines)
    for minutes, name in lines:
        _say(f"{'no estimate' if minutes is None else f'{minutes:7.1f} min'}  {name}")
    known = [minutes for minutes, _ in lines if minutes is not None]
    total = f"about {sum(known) / workers:.0f} min" if known or not lines else "no estimate"
    if known and len(known) < len(lines):
        total += f" and {len(lines) - len(known)} without an estimate"
    _say(f"{len(lines)} models to do, {total}, {workers} at a time -> {table_path(table)}")


def _say_summary(rows: pd.DataFrame, table: str) -> None:
    _say(rows.to_string(index=False) if len(rows) else f"no rows yet in {table_path(table)}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lgdea_core.experiments", description=__doc__)
    experiments = parser.add_subparsers(metavar="EXPERIMENT", required=True)

    curve = _command(experiments, "limited_pairing", run_limited_pairing, "methods x paired ratios, on one budget")
    _methods(curve)
    curve.add_argument("--ratios", type=float, nargs="+", help="paired ratios; the world's own by default")
    _world(curve)
    _training(curve)
    _remeasuring(curve)

    parts = _command(experiments, "ablation", run_ablation, "lgdea with a part left out or replaced; shuffled pairs")
    _choices(parts, "--variants", tuple(ABLATIONS))
    _methods(parts, f" (only of {CONTROL!r}: the other variants are of lgdea)")
    _ratios(parts, (0.1,))
    _world(parts)
    _training(parts)
    _remeasuring(parts)

    films = _command(experiments, "real", run_real, "methods and their controls on real films, with intervals")
    _methods(films)
    _choices(films, "--worlds", REAL)
    _training(films)
    _remeasuring(films)

    relations = _command(experiments, "relations", run_relations, "what relations know after the warm-up, by setting")
    _ratios(relations, (0.1,))
    _world(relations)
    _summary(relations)

    asked = _command(experiments, "hard", run_hard, "the hard set, asked of the models that limited_pairing left")
    _methods(asked)
    _ratios(asked, hard.RATIOS)
    _summary(asked)

    towers = _command(
        experiments, "asg", run_asg, "towers for the downstream tasks, trained on all pairs; ASG's own measures"
    )
    _towers(towers)
    _training(towers)
    _remeasuring(towers)

    _downstream(experiments)

    drawn = _command(
        experiments, "label_draws", run_label_draws, "the linear probe on many draws of a small share of the labels"
    )
    _towers(drawn)
    drawn.add_argument("--label-ratio", type=float, default=0.01, help="share of the labels; default: 0.01")
    drawn.add_argument("--draws", type=int, default=12, help="of the share, each anew; default: 12")
    _training(drawn)

    line = "our rows beside published numbers, as the papers print them: figures/tables/paper"
    experiments.add_parser("tables", help=line, description=line).set_defaults(run=run_tables)
    return parser


def _downstream(experiments: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    lines = {
        "linear_probe": "what the towers that `asg` left show of a corpus's findings, at shares of the labels",
        "segmentation": "how well a decoder on these towers finds lesions, at shares of the masks",
    }
    for name, line in lines.items():
        judged = _command(experiments, name, partial(run_downstream, name), line)
        _towers(judged)
        _corpora(judged, name)
        _training(judged)


def _towers(command: argparse.ArgumentParser) -> None:
    names = ", ".join(TOWERS)
    command.add_argument(
        "--methods", nargs="*", choices=METHODS, default=list(TOWERS), help=f"trained as they are; default: {names}"
    )
    line = "terms of asg that are left, and its control; none without names; all by default"
    command.add_argument("--variants", nargs="*", choices=tuple(ASG_ABLATIONS), default=list(ASG_ABLATIONS), help=line)


def _corpora(command: argparse.ArgumentParser, experiment: str) -> None:
    known = downstream.TASKS[experiment]
    command.add_argument("--corpora", nargs="+", choices=tuple(known), default=["phantom"], help="default: phantom")
    command.add_argument(
        "--label-ratios", type=float, nargs="+", help="shares of the labels; the corpus's own by default"
    )
    protocols = downstream.PROTOCOLS[experiment]
    line = f"whether the tower learns from the labels, too; default: {protocols[0]}"
    command.add_argument("--protocol", choices=protocols, default=protocols[0], help=line)


def _command(
    experiments: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, run: Run, line: str
) -> argparse.ArgumentParser:
    command = experiments.add_parser(name, help=line, description=line)
    command.set_defaults(run=run)
    command.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="each its own phantom and weights")
    command.add_argument("--preset", choices=tuple(PRESETS), default="demo", help="size and steps; default: demo")
    command.add_argument("--plan", action="store_true", help="print what would be done, with minutes, and stop")
    return command


def _training(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", type=int, default=2, help="trainings side by side; they share the CPU's threads")
    _summary(command)


def _remeasuring(command: argparse.ArgumentParser) -> None:
    line = "train nothing: where other code measured a row, ask the model that was kept again and replace it"
    command.add_argument("--remeasure", action="store_true", help=line)


def _summary(command: argparse.ArgumentParser) -> None:
    command.add_argument("--summary", action="store_true", help="print mean ± sd over the seeds of the table and stop")


def _world(command: argparse.ArgumentParser) -> None:
    command.add_argument("--world", choices=GENERATED, default="phantom", help="default: phantom")


def _ratios(command: argparse.ArgumentParser, default: Sequence[float]) -> None:
    command.add_argument("--ratios", type=float, nargs="+", default=list(default), help="paired ratios")


def _methods(command: argparse.ArgumentParser, note: str = "") -> None:
    line = f"default: {', '.join(COMPARED)}{note}"
    command.add_argument("--methods", nargs="+", choices=METHODS, default=list(COMPARED), help=line)


def _choices(command: argparse.ArgumentParser, name: str, choices: Sequence[str]) -> None:
    command.add_argument(name, nargs="+", choices=choices, default=list(choices), help="all by default")


if __name__ == "__main__":
    main()
