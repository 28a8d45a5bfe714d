"""The search for neighbours of a graph's nodes at several sizes: seconds, and how many of the true ones are found.

Nodes are evidence distributions as in `propagation.py`, each distinct one once. The truth is an exact search for a
sample of them, whose time says what an exact search for all would take. Sizes up to which the search is exact by
default are searched by FAISS's inverted file, too.
"""

import argparse
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from propagation import NEIGHBOURS, SEED, alone, random_evidence

from lgdea_core.graph import FLAT_LIMIT, evidence_descriptor, nearest_points

QUERIES = 1000
"""of the sample"""


def main() -> None:
    """Print a row for each size and search, and write all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    rows = []
    for nodes in arguments.nodes:
        for flat_limit in [FLAT_LIMIT, *([0] if nodes <= FLAT_LIMIT else [])]:
            row = alone(search, nodes, flat_limit)
            rows.append(row)
            found = f"{row['seconds']:.1f} s, {row['peak_gib']:.2f} GiB, recall {row['recall']:.4f}"
            print(f"{nodes:9} nodes, {row['way']}: {found}; exact about {row['exact_seconds']:.0f} s", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def search(nodes: int, flat_limit: int) -> dict[str, Any]:
    """The row of one search."""
    import faiss

    evidence = random_evidence(nodes, np.random.default_rng(SEED))
    points = np.unique(evidence_descriptor(evidence), axis=0)
    began = time.perf_counter()
    found, _ = nearest_points(points, NEIGHBOURS, flat_limit)
    seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sample = np.random.default_rng(SEED).permutation(len(points))[:QUERIES]
    exact = faiss.IndexFlatIP(points.shape[1])
    exact.add(points)
    began = time.perf_counter()
    _, truth = exact.search(points[sample], NEIGHBOURS + 1)
    exact_seconds = (time.perf_counter() - began) * len(points) / len(sample)
    hits = [
        len(np.intersect1d(own[1:], best[best != node][:NEIGHBOURS]))
        for node, own, best in zip(sample, found[sample], truth, strict=True)
    ]
    return {
        "nodes": nodes, "way": "exact" if len(points) <= flat_limit else "inverted file", "seconds": seconds,
        "peak_gib": peak, "recall": np.mean(hits) / NEIGHBOURS, "exact_seconds": exact_seconds,
    }  # fmt: skip


if __name__ == "__main__":
    main()
