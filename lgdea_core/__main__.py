"""Console command `lgdea`: every command of the package by a short name; `lgdea COMMAND --help` says more."""

import runpy
import sys
from importlib import metadata

from lgdea_core.command import Command

COMMANDS = {
    "ground": ("lgdea_core.figures.overlay", "where a phrase is in an image: its map, and the overlay"),
    "extract": ("lgdea_core.evidence.extract", "evidence of a corpus's reports (extra: evidence)"),
    "check": ("lgdea_core.data.check", "whether a downloaded corpus is whole"),
    "evaluate": ("lgdea_core.evaluation.checkpoint", "a published or own model through the three tasks (extra: train)"),
    "score-extractor": (
        "lgdea_core.evaluation.extraction.evaluate",
        "an extractor on Open-i (extra: evidence, train)",
    ),
    "draw-chexpert": ("lgdea_core.data.corpora.chexpert_retrieval", "the retrieval sets of CheXpert"),
    "experiments": ("lgdea_core.experiments", "the trainings behind the tables (extra: train, evidence)"),
}
"""name -> module, which also runs as `python -m MODULE`, and what it does"""


def main() -> None:
    """Hand the rest of the line to a command."""
    lines = "\n".join(f"  {name:16} {line}" for name, (_, line) in COMMANDS.items())
    parser = Command(prog="lgdea", usage=f"lgdea COMMAND ...\n\n{__doc__}\n\n{lines}", add_help=False)
    asked, rest = sys.argv[1:2], sys.argv[2:]
    if asked in ([], ["--help"], ["-h"]):
        parser.print_usage(sys.stdout)
    elif asked == ["--version"]:
        sys.stdout.write(f"lgdea {metadata.version('lgdea')}\n")
    elif asked[0] not in COMMANDS:
        parser.error(f"no command {asked[0]!r}; there are {', '.join(COMMANDS)}")
    else:
        sys.argv = [f"lgdea {asked[0]}", *rest]
        runpy.run_module(COMMANDS[asked[0]][0], run_name="__main__")


if __name__ == "__main__":
    main()
