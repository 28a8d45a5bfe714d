"""What must not go wrong unseen: hubs of the graphs."""

from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph


def hubness(affinity: sparse.csr_array) -> dict[str, float]:
    """Skewness, largest and mean of the neighbour counts: without hubs a skewness near 0, with hubs 3 and more."""
    counts = np.diff(affinity.indptr).astype(float)
    mean, deviation = (counts.mean(), counts.std()) if len(counts) else (0.0, 0.0)
    skewness = float((((counts - mean) / deviation) ** 3).mean()) if deviation > 0 else 0.0
    return {"skewness": skewness, "max": float(counts.max(initial=0)), "mean": float(mean)}


def graph_stats(affinity: sparse.csr_array) -> dict[str, Any]:
    """Size, neighbour counts, components and hubs of a graph, as plain numbers for graph_stats.json."""
    counts = np.diff(affinity.indptr)
    components, member = csgraph.connected_components(affinity, directed=False)
    return {
        "nodes": len(counts),
        "edges": int(sparse.triu(affinity, k=1).nnz),
        "isolated": int((counts == 0).sum()),
        "weight_mean": float(affinity.data.mean()) if affinity.nnz else 0.0,
        "components": int(components),
        "largest_component": int(np.bincount(member, minlength=1).max()),
        "hubness": hubness(affinity),
    }
