"""Reports a second that the rules read on one core, beside the keyword control with negspacy's NegEx.

Reports are Open-i's where LGDEA_DATA holds them, else the phantom's. The extractors take turns, and the best turn of
each counts. In every turn they read the reports for the first time: nothing is remembered but what the warm-up on other
reports left. The time is that of this process on the processor, so others' work hardly counts.
"""

import argparse
import gc
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgdea_core.data.corpora import load_corpus
from lgdea_core.data.phantom import PhantomConfig, plan_study
from lgdea_core.evidence.extract import make_extractor
from lgdea_core.evidence.lexicon import default_lexer

EXTRACTORS = ("keywords+negspacy", "lexicon")
TURNS = 5
WARM_UP = 50


def main() -> None:
    """Print a line for each extractor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--reports", type=int, default=2000, help="so many at most")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    options = parser.parse_args()
    corpus, reports = find_reports(options.reports)
    rows = benchmark(corpus, reports)
    for row in rows:
        sys.stdout.write(f"{row['extractor']}: {row['reports'] / row['seconds']:.0f} reports/s of {corpus}\n")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def phantom_reports(number: int, seed: int) -> list[str]:
    """Reports of the phantom; no image is painted."""
    config = PhantomConfig(studies=number, seed=seed)
    return [plan_study(config, index).report for index in range(number)]


def find_reports(most: int) -> tuple[str, list[str]]:
    """Name of the corpus, and its first reports."""
    root = Path(os.environ.get("LGDEA_DATA", os.devnull)) / "openi"
    if not (root / "ecgen-radiology").is_dir():
        return "phantom", phantom_reports(most, seed=0)
    return "openi", list(load_corpus("openi", root).studies["report"].dropna()[:most])


def benchmark(corpus: str, reports: Sequence[str]) -> list[dict[str, Any]]:
    """Read the reports with each extractor; the rules come last and are compared with the control."""
    warm_up, taken, found = phantom_reports(WARM_UP, seed=1), dict.fromkeys(EXTRACTORS, math.inf), {}
    for name in EXTRACTORS * TURNS:
        default_lexer.cache_clear()  # with it goes what the rules remember
        extractor = make_extractor(name)
        extractor.extract(warm_up)
        gc.collect()
        gc.freeze()  # a search for garbage in all that was imported would fall on one of the two
        began = time.process_time()
        found[name] = sum(map(len, extractor.extract(reports)))
        taken[name] = min(taken[name], time.process_time() - began)
        gc.unfreeze()
    shared, control = {"corpus": corpus, "reports": len(reports)}, EXTRACTORS[0]
    return [
        {"extractor": name, **shared, "seconds": taken[name], "findings": found[name]}
        | {"ratio": None if name == control else taken[control] / taken[name]}
        for name in EXTRACTORS
    ]


if __name__ == "__main__":
    main()
