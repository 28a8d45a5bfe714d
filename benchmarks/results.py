"""Run the benchmarks one after the other and keep what they measured in `results.csv` beside this file.

A row is replaced when its benchmark, size and machine are measured again; the others stay.

    python benchmarks/results.py                      all of them
    python benchmarks/results.py evaluation           one
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
ARGUMENTS = {
    "neighbours": ("--nodes", "100000", "1000000"),
    "propagation": ("--nodes", "10000", "50000", "200000"),
    "size": ("--studies", "10000", "25000", "50000"),
}
"""Beside the defaults."""
COMPARED = ("all of it", "the two alone")
"""Parts of an evaluation that do at least what the loop does."""
KEY = ["benchmark", "size", "machine"]


def of_evaluation(row: dict[str, Any]) -> dict[str, Any]:
    """A part of an evaluation of MS-CXR's size."""
    faster = row["loop_seconds"] / row["seconds"] if row["part"] in COMPARED else None
    return {"size": row["part"], **columns(row, faster, "per-sample loop / this")}


def of_propagation(row: dict[str, Any]) -> dict[str, Any]:
    """A refresh of relations of so many images and reports."""
    plain = row["plain_seconds"]
    faster = plain and plain / row["seconds"]
    return {"size": f"{row['nodes']} nodes", **columns(row, faster, "scipy with a cut to 64 entries / this")}


def of_neighbours(row: dict[str, Any]) -> dict[str, Any]:
    """A search for the neighbours of so many nodes."""
    size = f"{row['nodes']} nodes, {row['way']}"
    return {"size": size, **columns(row, row["recall"], "share of the true nearest that is found")}


def of_rules(row: dict[str, Any]) -> dict[str, Any]:
    """An extractor that reads reports by rules."""
    size = f"{row['extractor']}, {row['reports']} reports of {row['corpus']}"
    return {"size": size, **columns(row, row["ratio"], "keywords+negspacy / this")}


def of_size(row: dict[str, Any]) -> dict[str, Any]:
    """A part of preset `paper` with so many studies."""
    size = f"{row['studies']} studies, {row['part']}"
    return {"size": size, **columns(row, row.get("exponent"), "power of the size that the seconds grow with; fitted")}


def of_training_step(row: dict[str, Any]) -> dict[str, Any]:
    """A step of a method in a phase."""
    size = f"{row['method']}, {row['phase']}, batch {row['images']}"
    alone = row | {"peak_gib": None}  # one process built all models
    return {"size": size, **columns(alone, row["ratio"], row["against"] and f"this / {row['against']}")}


def of_language_model_client(row: dict[str, Any]) -> dict[str, Any]:
    """Answers of a server that takes so long."""
    size = f"{row['answers']} answers of {row['delay']} s"
    return {"size": size, **columns(row, row["waiting"], "time in flight spent waiting on the server / all")}


def columns(row: dict[str, Any], value: float | None, meaning: str) -> dict[str, Any]:
    """The columns that all rows share."""
    measured = {"seconds": row["seconds"], "peak_gib": row.get("peak_gib"), "ratio": value}
    return {**measured, "ratio_is": meaning if value is not None else None}


ROWS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "evaluation": of_evaluation,
    "language_model_client": of_language_model_client,
    "neighbours": of_neighbours,
    "propagation": of_propagation,
    "rules": of_rules,
    "size": of_size,
    "training_step": of_training_step,
}


def main() -> None:
    """Run those asked for; their own output goes through."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=f"{', '.join(ROWS)} (default: all)")
    asked = parser.parse_args().benchmarks or list(ROWS)
    if unknown := set(asked) - set(ROWS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    for name in asked:
        print(f"== {name}", flush=True)
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            found = Path(folder) / "found.json"
            subprocess.run([sys.executable, HERE / f"{name}.py", *ARGUMENTS.get(name, ()), "--json", found], check=True)
            keep(name, json.loads(found.read_text()), load)


def keep(name: str, found: list[dict[str, Any]], load: float) -> None:
    """Put a benchmark's rows into `results.csv`.

    Args:
        name: script without its ending.
        found: what it wrote as JSON.
        load: of the machine before it began: others' work slows it.
    """
    rows = pd.DataFrame([{"benchmark": name, **ROWS[name](row)} for row in found])
    rows = rows.assign(machine=machine(found[0].get("device", "cpu")), load=round(load, 1))
    old = [pd.read_csv(RESULTS)] if RESULTS.is_file() else []
    table = pd.concat([*old, rows]).drop_duplicates(KEY, keep="last").sort_values("benchmark", kind="stable")
    part = RESULTS.with_suffix(f".{os.getpid()}.part")
    table.to_csv(part, index=False, float_format="%.4g", lineterminator="\n")
    part.replace(RESULTS)


def machine(device: str) -> str:
    """Name of the device that computed. On a CPU with bfloat16 units image towers train in bfloat16."""
    if device != "cpu":
        return torch.cuda.get_device_name() if device == "cuda" else device
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    units = " with bfloat16 units" if torch.cpu._is_avx512_bf16_supported() else ""
    return f"{names[0] if names else platform.machine()}{units}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
