"""One refresh of relations at several sizes: seconds and peak memory, beside scipy's products with a cut in each step.

Graphs are given. A refresh has 10,000 seeds (or a tenth of the nodes), k = 10, 8 steps, 64 prototypes and 2,000
statements. It makes the expected evidence, the confidence, the column sums and the posterior of all statements, and for
each of 100 batches of 32 images a report for each image and a block. The plain way cuts each row to 64 entries after
each product, without which it would not end. Each size runs in processes of its own, so that its peak is its own.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgdea_core.graph import evidence_descriptor, knn_affinity, propagate, seed_matrix, symmetric_normalize
from lgdea_core.relations import GraphRelations, PropagatedRelations, Relations

SEEDS, NEIGHBOURS, STEPS, PROTOTYPES, STATEMENTS = 10_000, 10, 8, 64, 2000
BATCHES, IMAGES, KEPT, ALPHA, SEED = 100, 32, 64, 0.8, 0
PLAIN_LIMIT = 50_000
"""nodes up to which the plain way runs, too"""


def main() -> None:
    """Print a row for each size, and write all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2000, 10_000], help="images, and as many reports")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--graphs", type=Path, help="folder to keep the graphs in, and to take them from")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    print(f"{'nodes':>9}{'seconds':>10}{'peak GiB':>10}{'plain s':>10}")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.graphs or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for nodes in arguments.nodes:
            alone(make_graphs, nodes, folder)
            seconds, peak = alone(refresh, nodes, folder)
            plain = alone(refresh_plainly, nodes, folder)[0] if nodes <= PLAIN_LIMIT else None
            row = {"nodes": nodes, "seconds": seconds, "peak_gib": peak, "plain_seconds": plain}
            rows.append(row)
            print(f"{nodes:9}{seconds:10.2f}{peak:10.2f}{'-' if plain is None else f'{plain:.2f}':>10}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def make_graphs(nodes: int, folder: Path) -> None:
    """Write evidence and propagators of both sides, unless they are there."""
    rng = np.random.default_rng(SEED)
    for side in ("images", "reports"):
        evidence, path = random_evidence(nodes, rng), folder / f"{side}-{nodes}.npz"
        if not path.is_file():
            graph = symmetric_normalize(knn_affinity(evidence_descriptor(evidence), NEIGHBOURS), 1.0)
            np.save(path.with_suffix(".npy"), evidence)
            sparse.save_npz(path, graph, compressed=False)


def random_evidence(nodes: int, rng: np.random.Generator) -> np.ndarray:
    """Evidence distributions of nodes with one to three of 40 findings; one in five is a copy of another."""
    findings = rng.dirichlet(np.full(PROTOTYPES, 0.1), size=40)
    held = (rng.random((nodes, 40)) < 0.05) + 1e-3 * rng.random((nodes, 40))
    noise = rng.dirichlet(np.full(PROTOTYPES, 0.3), size=nodes)
    evidence = held / held.sum(axis=1, keepdims=True) @ findings + 0.1 * noise
    copies = rng.random(nodes) < 0.2
    evidence[copies] = evidence[rng.integers(0, nodes, copies.sum())]
    return (evidence / evidence.sum(axis=1, keepdims=True)).astype(np.float32)


def given(nodes: int, folder: Path) -> tuple[list[sparse.csr_array], np.ndarray, sparse.csr_array]:
    """Seeds and both propagators; evidence and statements of the reports."""
    graphs = [sparse.csr_array(sparse.load_npz(folder / f"{side}-{nodes}.npz")) for side in ("images", "reports")]
    rng = np.random.default_rng(SEED)
    seeds = min(SEEDS, nodes // 10)
    pairs = np.stack([rng.permutation(nodes)[:seeds] for _ in range(2)], axis=1)
    made = np.floor(STATEMENTS * rng.random((nodes, 3)) ** 2).astype(np.int64)  # some far more often than others
    ones = np.ones(made.size, dtype=np.float32)
    statements = sparse.csr_array((ones, (np.repeat(np.arange(nodes), 3), made.ravel())), shape=(nodes, STATEMENTS))
    statements.data[:] = 1.0
    return [seed_matrix(pairs, nodes, nodes), *graphs], np.load(folder / f"reports-{nodes}.npy"), statements


def read_everything(relations: Relations, evidence: np.ndarray, statements: sparse.csr_array) -> None:
    """What a training reads of relations between two refreshes."""
    relations.expected_evidence(evidence)
    relations.report_mass()
    relations.times(statements)
    for step in range(BATCHES):
        rng = np.random.default_rng([SEED, step])
        images = rng.integers(relations.images, size=IMAGES)
        reports = relations.sample_reports(images, rng)
        relations.block(images, np.where(reports < 0, 0, reports), rng)


def refresh(nodes: int, folder: Path) -> tuple[float, float]:
    """Seconds of one refresh, and the peak memory of its process in GiB."""
    walk, evidence, statements = given(nodes, folder)
    start = time.perf_counter()
    relations = PropagatedRelations(propagate(*walk, alpha=ALPHA, tolerance=1e-12, max_steps=STEPS))
    unpaired = ~relations.propagation.paired_reports
    read_everything(relations, evidence[unpaired], statements[np.flatnonzero(unpaired)])
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def refresh_plainly(nodes: int, folder: Path) -> tuple[float, float]:
    """The same by scipy's sparse products: eq. 14 as it stands, each row cut to its `KEPT` largest by each product."""
    (seeds, images, reports), evidence, statements = given(nodes, folder)
    start = time.perf_counter()
    relations = seeds
    for _ in range(STEPS):
        relations = ALPHA * product(product(images, relations), reports) + (1 - ALPHA) * seeds
    unpaired = [np.flatnonzero(seeds.sum(axis=axis) == 0) for axis in (1, 0)]
    found = GraphRelations(relations[unpaired[0]][:, unpaired[1]])
    read_everything(found, evidence[unpaired[1]], statements[unpaired[1]])
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def product(left: sparse.csr_array, right: sparse.csr_array, size: int = 4096) -> sparse.csr_array:
    """A sparse product, some rows at a time, of which each row's `KEPT` largest entries stay."""
    parts = []
    for start in range(0, left.shape[0], size):
        part = left[start : start + size] @ right
        count = np.diff(part.indptr)
        if count.max(initial=0) > KEPT:
            row = np.repeat(np.arange(len(count)), count)
            padded = np.zeros((len(count), count.max()), dtype=part.dtype)
            padded[row, np.arange(part.nnz) - part.indptr[row]] = part.data
            part.data[part.data < np.partition(padded, -KEPT, axis=1)[row, -KEPT]] = 0
            part.eliminate_zeros()
        parts.append(part)
    return sparse.vstack(parts, format="csr")


if __name__ == "__main__":
    main()
