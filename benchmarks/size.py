"""Preset `paper` on a made-up MIMIC-CXR of several sizes, all but its steps: seconds and memory, and their growth.

A layout (`mimic_layout.py`) is made where it is missing. Then a process of its own times what comes before the first
step (tables, crops of 224 pixels, evidence, training data), a refresh of relations, of which the encoding of all images
is told apart, and drawing batches under these relations. The towers are the small ones built on the spot, so that a CPU
encodes all images within minutes. The preset's own are a GPU's work, and `training_step.py`'s question. All else is the
preset's. Memory is what the process has allocated, in the last part of a refresh that of the whole refresh: pages of
the file of crops are the system's to take back.

Notebooks 01 to 04 are run on the same layout, with the few steps and small crops of preset `ci`; a run that is there is
not made again. Their memory is all that is resident, mapped pages too.

The last rows say what the sizes give for MIMIC-CXR's 377,000: by a line, or by a power law where that gives more. Crops
are not among them: films are made in 224 pixels, and published ones have some 2,500, which take longer to decode.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mimic_layout import write_layout
from propagation import alone

from lgdea_core.config import RunConfig, replace_fields
from lgdea_core.data.images import load_images
from lgdea_core.data.pairing import limit_pairs
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.paths import project_root
from lgdea_core.runs.inputs import Inputs, fresh_model, load_corpus_of, prepare_training
from lgdea_core.training import refresh
from lgdea_core.training.loop import set_precision
from lgdea_core.training.sampling import sample_batch

WHOLE = 377_000
"""Images of MIMIC-CXR."""
CROPS = "crops"
BATCHES, NOTEBOOKS = 20, ("01", "02", "03", "04")


def main() -> None:
    """Print a row for each part and size, and write all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, nargs="+", default=[1000], help="sizes")
    parser.add_argument("--out", type=Path, default=project_root() / "data" / "made-up", help="where the layouts lie")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    arguments = parser.parse_args()
    rows = []
    for studies in arguments.studies:
        folder = arguments.out / str(studies)
        write_layout(folder, studies, workers=None)
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            rows += alone(measure, folder, studies, Path(cache))
        rows += notebooks(folder, studies)
    table = pd.DataFrame(rows)
    if len(arguments.studies) > 1:
        table = pd.concat([table, extrapolate(table, WHOLE)], ignore_index=True)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    if arguments.json:
        arguments.json.write_text(json.dumps(table.replace({np.nan: None}).to_dict("records"), indent=1) + "\n")


def measure(folder: Path, studies: int, cache: Path) -> list[dict[str, Any]]:
    """The parts of one size, in their order.

    Args:
        folder: the layout.
        studies: its number of studies.
        cache: empty folder for the file of crops.
    """
    config = replace_fields(
        RunConfig.from_preset("paper", paired_ratio=0.1), root=str(folder), image_tower=None, text_tower=None
    )
    rows: list[dict[str, Any]] = []

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        with peak_memory() as peak:
            began = time.perf_counter()
            yield
            seconds = time.perf_counter() - began
        rows.append({"studies": studies, "part": part, "seconds": seconds, "peak_gib": peak[0]})

    with timed("tables"):
        corpus = load_corpus_of(config.data, config.seed)
    with timed(CROPS):
        store = load_images(corpus, config.data.image_size, cache)
    pools = limit_pairs(corpus, config.data.paired_ratio, config.seed)
    inputs = Inputs(corpus=corpus, store=store, pools=pools)
    with timed("evidence"):
        evidence, _ = extract_evidence(inputs.corpus.studies, config.data.extractor)
    with timed("training data"):
        model, processor = fresh_model(config, inputs)
        data = prepare_training(config, inputs, evidence, processor)
    set_precision(model, config, next(model.parameters()).device)
    view_evidence = refresh.view_evidence

    def timed_view(*arguments: Any, **options: Any) -> refresh.EvidenceView:
        with timed("encoding of all images"):
            return view_evidence(*arguments, progress=True, **options)

    with mock.patch.object(refresh, "view_evidence", timed_view), timed("rest of a refresh"):
        relations = refresh.refresh_relations(model, data, config)
    rows[-1]["seconds"] -= rows[-2]["seconds"]
    with timed("a batch"):
        for step in range(BATCHES):
            sample_batch(data, config, step, "relations", relations)
    rows[-1]["seconds"] /= BATCHES
    return rows


def notebooks(folder: Path, studies: int) -> list[dict[str, Any]]:
    """Seconds and memory of each notebook as `run.py` notes them, which runs them where the folder lacks one."""
    timing = folder / "runs" / "size" / "timing.json"
    done = json.loads(timing.read_text()) if timing.is_file() else {}
    if len(done) < len(NOTEBOOKS) or any(one["error"] for one in done.values()):
        command = [sys.executable, project_root() / "notebooks" / "run.py", "--run", timing.parent.name]
        options = ["--notebooks", ",".join(NOTEBOOKS), "--preset", "ci", "--corpus", "mimic_cxr", "--data", folder]
        subprocess.run([*command, *options], env=os.environ | {"LGDEA_RUNS": str(timing.parents[1])}, check=True)
        done = json.loads(timing.read_text())
    rows = [(f"notebook {name[:2]}", one["seconds"], one["peak_mb"] / 1024) for name, one in done.items()]
    return [{"studies": studies, "part": part, "seconds": took, "peak_gib": peak} for part, took, peak in rows]


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """The largest memory, in GiB, that the process has allocated within a block, looked up 50 times a second."""
    found, over = [0.0], threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            kilobytes = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
            found[0] = max(found[0], int(kilobytes[1]) / 2**20)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def extrapolate(table: pd.DataFrame, studies: int) -> pd.DataFrame:
    """What the sizes say of a larger one, a row for each part: the more of a line and a power law.

    Much has a fixed cost, which a power law hides, and some grows faster than a line. `exponent` is of the seconds.
    """
    rows = []
    for part, own in table[table["part"] != CROPS].groupby("part", sort=False):
        row: dict[str, Any] = {"studies": studies, "part": part}
        for column in ("seconds", "peak_gib"):
            sizes, values = own["studies"].astype(float), own[column].astype(float)
            exponent, level = np.polyfit(np.log(sizes), np.log(values), 1)
            power, line = np.exp(level) * studies**exponent, np.polyval(np.polyfit(sizes, values, 1), studies)
            row[column] = float(max(power, line))
            row.setdefault("exponent", float(exponent))
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
