"""python -m lgdea_core.experiments EXPERIMENT [--plan]: make the rows of a table in figures/tables that are missing."""

import argparse
import inspect
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from lgdea_core.command import Command, ending_mistakes
from lgdea_core.config import METHODS, PRESETS
from lgdea_core.evaluation.downstream import PROBE_TASKS, SEGMENTATION_TASKS
from lgdea_core.experiments import abundance, downstream, hard, hospitals, looks, paired, plans, readers, relations
from lgdea_core.experiments.box import write_box
from lgdea_core.experiments.docs import write_pages
from lgdea_core.experiments.jobs import Job, make_rows
from lgdea_core.experiments.paper_tables import WHOLE, differences, write_paper_tables
from lgdea_core.experiments.pictures import write_figures
from lgdea_core.experiments.tables import TABLES, Table
from lgdea_core.experiments.worlds import GENERATED, REAL

TOWER_CHOICES = {"variants": tuple(plans.ASG_ABLATIONS)}
HOSPITAL_CHOICES = {"variants": tuple(plans.ABLATIONS), "corpora": hospitals.HOSPITALS}
PROBE_CHOICES = {"corpora": tuple(PROBE_TASKS), "protocol": downstream.PROTOCOLS["linear_probe"]}
SEGMENTATION_CHOICES = {"corpora": tuple(SEGMENTATION_TASKS), "protocol": downstream.PROTOCOLS["segmentation"]}


class Experiment(NamedTuple):
    """What a command of this name offers."""

    line: str
    plan: Callable[..., Sequence[Job]]
    """its parameters are the command's options, see `OPTIONS`"""
    choices: Mapping[str, Sequence[str]] = MappingProxyType({})
    """of these options"""


EXPERIMENTS = {
    "limited_pairing": Experiment("methods x paired ratios, on one budget", plans.limited_pairing),
    "ablation": Experiment(
        "lgdea with a part left out or replaced; shuffled pairs of every method",
        plans.ablation,
        {"variants": tuple(plans.ABLATIONS)},
    ),
    "abundance": Experiment("lgdea beside ever more unpaired images and reports", abundance.abundance),
    "real": Experiment("methods and their controls on real films, with intervals", plans.real),
    "hospitals": Experiment(
        "the models of world openi on its test patients and at another hospital, finding by finding",
        hospitals.hospitals,
        HOSPITAL_CHOICES,
    ),
    "paired": Experiment(
        "lgdea less each other model of world openi on the same patients, with intervals",
        paired.paired,
        HOSPITAL_CHOICES,
    ),
    "relations": Experiment("what relations know after the warm-up, by setting", relations.relations),
    "hard": Experiment("the hard set, asked of the models that limited_pairing left", hard.hard),
    "looks": Experiment(
        "the page of controls of these models, of the model in the box and of random weights",
        looks.looks,
        {"worlds": (*GENERATED, *REAL)},
    ),
    "asg": Experiment(
        "towers for the downstream tasks, trained on all pairs; ASG's own measures", plans.asg, TOWER_CHOICES
    ),
    "linear_probe": Experiment(
        "what the towers that asg left show of a corpus's findings, at shares of the labels",
        partial(downstream.judged, downstream.Probe),
        TOWER_CHOICES | PROBE_CHOICES,
    ),
    "segmentation": Experiment(
        "how well a decoder on these towers finds lesions, at shares of the masks",
        partial(downstream.judged, downstream.Segmentation),
        TOWER_CHOICES | SEGMENTATION_CHOICES,
    ),
    "label_draws": Experiment(
        "the linear probe on many draws of a small share of the labels", downstream.label_draws, TOWER_CHOICES
    ),
    "readers": Experiment(
        "how well a language model reads labelled reports of Open-i, beside the rules",
        readers.readers,
        {"samples": readers.SAMPLES},
    ),
}
WRITERS: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "tables": ("our rows beside published numbers, as the papers print them: figures/tables/paper", write_paper_tables),
    "figures": ("figures of README.md and docs/, from the committed tables: figures/readme", write_figures),
    "docs": ("the tables of README.md and docs/, from the committed ones", write_pages),
    "box": ("the model in the box, trained and measured: lgdea_core/box", write_box),
}
"""What makes files, not rows: a line each, and what writes."""
OPTIONS: dict[str, dict[str, Any]] = {
    "seeds": {"type": int, "nargs": "+", "help": "each its own phantom and weights"},
    "preset": {"choices": tuple(PRESETS), "help": "size and steps"},
    "ratios": {"type": float, "nargs": "+", "help": "paired ratios; None takes the world's own"},
    "methods": {"choices": METHODS, "nargs": "*", "help": "trained as they are; of ablation: whose control"},
    "variants": {"nargs": "*", "help": "parts left out or replaced, and controls"},
    "world": {"choices": (*GENERATED, *REAL), "help": "where films and reports come from"},
    "worlds": {"choices": REAL, "nargs": "+", "help": "where films come from"},
    "corpora": {"nargs": "+", "help": "whose labels are learnt"},
    "label_ratios": {"type": float, "nargs": "+", "help": "shares of the labels; None takes the corpus's own"},
    "protocol": {"help": "whether the tower learns from the labels, too"},
    "label_ratio": {"type": float, "help": "share of the labels"},
    "unpaired": {"type": int, "nargs": "+", "help": "images, and as many reports, without a known pair"},
    "ratio": {"type": float, "help": "share of the pairs that is known"},
    "draws": {"type": int, "help": "of the share, each anew"},
    "extractors": {"nargs": "+", "help": "beside the rules, such as openai:MODEL or openai:MODEL+lexicon"},
    "samples": {"nargs": "+", "help": "of labelled reports"},
    "reports": {"type": int, "help": "of each sample, its first ones"},
    "device": {"help": "such as cpu or cuda:1; None takes the best there is"},
}


def main() -> None:
    """Parse, plan, say what is missing, make it."""
    parser = _parser()
    options = vars(parser.parse_args())
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    name = options.pop("experiment")
    if name in WRITERS:
        with ending_mistakes(parser):
            _say(*WRITERS[name][1]())
        return
    table = next(table for table in TABLES.values() if table.experiment == name)
    workers, only_plan, summary = (options.pop(option) for option in ("workers", "plan", "summary"))
    if summary:
        _say_summary(table)
        return
    with ending_mistakes(parser):
        if workers < 1:
            raise ValueError(f"--workers must be at least 1, got {workers}")
        try:
            jobs = EXPERIMENTS[name].plan(**options)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        missing = table.missing(jobs)
    todo = [job for job in missing if not job.needs]
    _say(*todo, *dict.fromkeys(job.needs for job in missing if job.needs))
    _say(f"{len(todo)} jobs to do, {workers} at a time -> {table.path}")
    if not only_plan:
        try:
            make_rows(table, todo, workers)
        except RuntimeError as error:  # each failure is in the log; the rows of the others are written
            raise SystemExit(f"{name}: {error}") from None


def _say_summary(table: Table) -> None:
    rows = table.summary()
    _say(rows.to_string(index=False) if len(rows) else f"no rows yet in {table.path}")
    if table.name != "ablation":
        return
    for base in (WHOLE, plans.WITHOUT_IMAGES, plans.PHRASES):
        rows = differences(TABLES["limited_pairing"].read(), table.read(), base)
        _say(f"\nbeyond {'the method as it is' if base == WHOLE else repr(base)}, seed by seed:")
        _say(rows.to_string(index=False) if len(rows) else "no rows to compare yet")


def _say(*lines: object) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _parser() -> Command:
    parser = Command(prog="python -m lgdea_core.experiments", description=__doc__)
    experiments = parser.add_subparsers(dest="experiment", metavar="EXPERIMENT", required=True)
    shown = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    for name, (line, plan, choices) in EXPERIMENTS.items():
        command = experiments.add_parser(name, help=line, description=line, **shown)
        for option, parameter in inspect.signature(plan).parameters.items():
            own = {"choices": choices[option]} if option in choices else {}
            command.add_argument(f"--{option.replace('_', '-')}", default=parameter.default, **OPTIONS[option] | own)
        command.add_argument("--workers", type=int, default=2, help="jobs side by side; they share the CPU's threads")
        command.add_argument("--plan", action="store_true", help="print what would be done, and stop")
        command.add_argument("--summary", action="store_true", help="print mean ± sd over the seeds, and stop")
    for name, (line, _) in WRITERS.items():
        experiments.add_parser(name, help=line, description=line)
    return parser


if __name__ == "__main__":
    main()
