"""Sparse propagation against the dense one of the tests, in the same run: time, error, memory of the relations."""

import argparse
import logging
import sys
import time
from pathlib import Path

import numpy as np
from scipy import sparse

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgdea_core.graph import (
    Propagation,
    evidence_descriptor,
    knn_affinity,
    propagate,
    seed_matrix,
    symmetric_normalize,
)


def main() -> None:
    """Print one row for each size and each number of kept entries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[500, 1500], help="images, and as many reports")
    parser.add_argument("--keep", type=int, nargs="+", default=[0, 200, 50], help="entries kept in a row; 0 keeps all")
    parser.add_argument("--neighbours", type=int, default=10)
    parser.add_argument("--alpha", type=float, default=0.8)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--max-steps", type=int, default=60)
    parser.add_argument("--paired-ratio", type=float, default=0.1)
    parser.add_argument("--dense-limit", type=int, default=4000, help="nodes up to which the dense one runs too")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    print("error: of the unpaired block against as many dense steps; evidence: of the evidence it expects (eq. 15)")
    print("  nodes   keep  kNN s  steps  sparse s  dense s  dense/sparse  entries MB  dense MB  error  evidence  cut")
    for nodes in arguments.nodes:
        for keep in arguments.keep:
            print(benchmark(nodes, keep or None, arguments), flush=True)


def benchmark(nodes: int, keep: int | None, arguments: argparse.Namespace) -> str:
    """One row of the table."""
    rng = np.random.default_rng(arguments.seed)
    evidence = [random_evidence(nodes, rng) for _ in range(2)]
    start = time.perf_counter()
    graphs = [knn_affinity(evidence_descriptor(part), arguments.neighbours) for part in evidence]
    knn_seconds = time.perf_counter() - start
    pairs = np.stack([np.arange(max(1, round(arguments.paired_ratio * nodes)))] * 2, axis=1)
    walk = seed_matrix(pairs, nodes, nodes), *(symmetric_normalize(graph, 1.0) for graph in graphs)

    start = time.perf_counter()
    options = {"tolerance": arguments.tolerance, "max_steps": arguments.max_steps, "keep": keep}
    result = propagate(*walk, alpha=arguments.alpha, **options)
    seconds = time.perf_counter() - start
    size = sum(part.nbytes for part in (result.relations.data, result.relations.indices, result.relations.indptr))
    evidence_error = error_of_evidence(result, walk, evidence[1], arguments.alpha)
    row = f"{nodes:7}{keep or 'all':>7}{knn_seconds:7.2f}{result.steps:7}{seconds:10.2f}"
    if nodes > arguments.dense_limit:
        return row + f"{'-':>9}{'-':>14}{size / 2**20:12.1f}{'-':>10}{'-':>7}{evidence_error:10.1e}" + cut(result)
    start = time.perf_counter()
    relations = propagate_densely(walk, arguments.alpha, result.steps)
    dense_seconds = time.perf_counter() - start
    block, expected = (part[len(pairs) :, len(pairs) :] for part in (result.relations.toarray(), relations))
    error = np.linalg.norm(block - expected) / np.linalg.norm(expected)
    row += f"{dense_seconds:9.2f}{dense_seconds / seconds:14.1f}{size / 2**20:12.1f}{relations.nbytes / 2**20:10.1f}"
    return row + f"{error:7.0e}{evidence_error:10.1e}" + cut(result)


def cut(result: Propagation) -> str:
    """Share of the unpaired block's mass that was cut."""
    return f"{result.pruned_unpaired_mass:5.2f}"


def random_evidence(nodes: int, rng: np.random.Generator) -> np.ndarray:
    """Evidence distributions of nodes with one to three of 40 findings; one in five is a copy of another."""
    findings = rng.dirichlet(np.full(32, 0.1), size=40)
    held = (rng.random((nodes, 40)) < 0.05) + 1e-3 * rng.random((nodes, 40))
    evidence = held / held.sum(axis=1, keepdims=True) @ findings + 0.1 * rng.dirichlet(np.full(32, 0.3), size=nodes)
    copies = rng.random(nodes) < 0.2
    evidence[copies] = evidence[rng.integers(0, nodes, copies.sum())]
    return (evidence / evidence.sum(axis=1, keepdims=True)).astype(np.float32)


def propagate_densely(walk: tuple[sparse.csr_array, ...], alpha: float, steps: int) -> np.ndarray:
    """As many steps of eq. 14 with dense matrices."""
    seeds, images, reports = (matrix.toarray() for matrix in walk)
    relations = seeds
    for _ in range(steps):
        relations = alpha * images @ relations @ reports + (1 - alpha) * seeds
    return relations


def error_of_evidence(
    result: Propagation, walk: tuple[sparse.csr_array, ...], evidence: np.ndarray, alpha: float
) -> float:
    """Mean total variation between the expected evidence of the relations and the exact one.

    The exact one needs no relations at any size: P V is a sum of S_I^t Y S_R^t V, by Horner's scheme.
    """
    values = np.concatenate([evidence, np.ones((len(evidence), 1))], axis=1) * ~result.paired_reports[:, None]
    seeds, images, reports = walk
    spread = [values]
    for _ in range(result.steps):
        spread.append(reports @ spread[-1])
    exact = seeds @ spread[-1]
    for later in reversed(spread[:-1]):
        exact = alpha * (images @ exact) + (1 - alpha) * (seeds @ later)
    unpaired = ~result.paired_images & (exact[:, -1] > 0)
    found = (result.relations @ values)[unpaired]
    difference = found[:, :-1] / np.maximum(found[:, -1:], 1e-30) - exact[unpaired, :-1] / exact[unpaired, -1:]
    return float(np.abs(difference).sum(axis=1).mean() / 2)


if __name__ == "__main__":
    main()
