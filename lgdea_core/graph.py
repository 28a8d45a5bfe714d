"""Evidence graphs within a modality, and the relations that spread over them (LGDEA eqs. 10-14), all sparse.

Nothing here allocates images x reports; only a block of rows is dense for a moment.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.sparse import csgraph

logger = logging.getLogger("lgdea")
Csr = sparse.csr_array

SAME_DESCRIPTOR = 1e-5
"""descriptors equal after rounding to this are one point, see `knn_affinity`"""
BLOCK_ENTRIES = 2**23
"""entries of a dense row block, about 100 MB with its copies"""
DENSE_FROM = 0.1
"""share of non-zeros from which a row block is multiplied densely, which is then faster"""


def evidence_descriptor(
    evidence_distribution: Float[np.ndarray, "nodes prototypes"],
    embeddings: Float[np.ndarray, "nodes dim"] | None = None,
) -> Float[np.ndarray, "nodes descriptor"]:
    """Points whose inner product is the similarity of two nodes (LGDEA eqs. 11-12, reconstruction).

        x = sqrt(q)                                       so x . y is the Bhattacharyya coefficient of p and q
        x = [sqrt(q), normalize(g - mean g)] / sqrt(2)    with embeddings: the mean of both cosines

    A node without evidence (a row that is all zero or not finite) gets a row of zeros, whatever its embedding.

    Raises:
        ValueError: a negative entry, or embeddings that are not finite where there is evidence.
    """
    if np.nanmin(evidence_distribution, initial=0.0) < 0:
        raise ValueError("evidence_descriptor: evidence distributions must be >= 0; got a negative entry")
    present = _present(evidence_distribution)[:, None]
    evidence = np.sqrt(_unit_rows(np.where(present, evidence_distribution, 0), order=1))
    if embeddings is None:
        return evidence
    known = np.where(present, embeddings, 0)
    if not np.isfinite(known).all():
        raise ValueError("evidence_descriptor: embeddings of nodes with evidence must be finite; look at the tower")
    centred = np.where(present, known - known.sum(axis=0) / max(1, present.sum()), 0)
    return _unit_rows(np.concatenate([evidence, _unit_rows(centred, order=2)], axis=1), order=2)


def knn_affinity(descriptors: Float[np.ndarray, "nodes dim"], neighbours: int, *, flat_limit: int = 100_000) -> Csr:
    """Symmetric k-nearest-neighbour graph `W >= 0`, weighted by cosine (LGDEA eqs. 11-12, reconstruction).

        W[i, j] = max(0, x_i . x_j)   if j is among the k nearest of i, or i among those of j

    Nodes with the same descriptor (reports that say the same) are all at similarity 1. A plain search breaks such ties
    by index, so that all choose the same k first ones: k hubs. Here they choose each other by fixed offsets around a
    ring: all have about as many neighbours, a few steps apart. No node is its own neighbour. A row of zeros or with a
    NaN (no evidence) is a node without neighbours. Two graphs over the same nodes may be added (`W_a + W_b`).

    Args:
        descriptors: L2-normalised rows, or zeros.
        neighbours: `k`; all others where there are no more than that.
        flat_limit: distinct descriptors up to which the search is exact; above, FAISS's inverted file approximates it.

    Raises:
        ValueError: fewer than one neighbour, or rows that are neither unit nor zero.
    """
    if neighbours < 1:
        raise ValueError(f"knn_affinity: neighbours must be at least 1, got {neighbours}")
    nodes = np.flatnonzero(_present(descriptors))
    points = descriptors[nodes]
    norms = np.linalg.norm(points, axis=1)
    if len(norms) and np.abs(norms - 1).max() > 1e-3:
        found = f"norms from {norms.min():.3g} to {norms.max():.3g}; use evidence_descriptor"
        raise ValueError(f"knn_affinity: descriptors must be L2-normalised, or zero; got {found}")
    if len(nodes) < 2:
        return sparse.csr_array((len(descriptors),) * 2, dtype=descriptors.dtype)
    grid = np.ascontiguousarray(np.round(points / SAME_DESCRIPTOR).astype(np.int32))
    keys = grid.view(np.dtype((np.void, grid.itemsize * grid.shape[1]))).ravel()  # compared as bytes: fast
    _, first, groups = np.unique(keys, return_index=True, return_inverse=True)
    nearest, similarity = _nearest(points[first], neighbours, flat_limit)
    rows, cols, source = _balanced_neighbours(groups, nearest, neighbours)
    values = np.clip(similarity[groups[rows], source], 0, 1).astype(descriptors.dtype)
    positive = values > 0
    directed = sparse.csr_array(
        (values[positive], (nodes[rows[positive]], nodes[cols[positive]])), shape=(len(descriptors),) * 2
    )
    return directed.maximum(directed.T).tocsr()


def _present(descriptors: Float[np.ndarray, "rows cols"]) -> Bool[np.ndarray, "rows"]:
    return np.isfinite(descriptors).all(axis=1) & (descriptors != 0).any(axis=1)


def _unit_rows(values: Float[np.ndarray, "rows cols"], order: int) -> Float[np.ndarray, "rows cols"]:
    norms = np.linalg.norm(values, ord=order, axis=1, keepdims=True)
    return np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)


def _nearest(
    points: Float[np.ndarray, "points dim"], neighbours: int, flat_limit: int
) -> tuple[Int[np.ndarray, "points cols"], Float[np.ndarray, "points cols"]]:
    """Nearest distinct points of each and their similarity, itself first; -1 where a search found too few."""
    import faiss

    count, dim = points.shape
    queries = np.ascontiguousarray(points, dtype=np.float32)
    index = faiss.IndexFlatIP(dim)
    if count > flat_limit:
        lists = int(4 * np.sqrt(count))
        index = faiss.IndexIVFFlat(index, dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = min(lists, 32)
        index.train(queries)
    index.add(queries)
    similarity, nearest = index.search(queries, min(neighbours + 1, count))
    itself = nearest == np.arange(count)[:, None]
    itself[~itself.any(axis=1), -1] = True  # not found among others as near: the last one goes
    order = np.argsort(~itself, axis=1, kind="stable")
    nearest, similarity = np.take_along_axis(nearest, order, 1), np.take_along_axis(similarity, order, 1)
    nearest[:, 0], similarity[:, 0] = np.arange(count), 1.0
    return nearest, similarity


def _balanced_neighbours(
    groups: Int[np.ndarray, "nodes"], nearest: Int[np.ndarray, "points cols"], neighbours: int
) -> tuple[Int[np.ndarray, "edges"], Int[np.ndarray, "edges"], Int[np.ndarray, "edges"]]:
    """Edges node -> neighbour, and the column of `nearest` each comes from; points may hold several nodes."""
    sizes = np.bincount(groups)
    members = np.argsort(groups, kind="stable")
    starts = np.cumsum(sizes) - sizes
    position = np.empty_like(members)
    position[members] = np.arange(len(groups)) - starts[groups[members]]

    room = np.where(nearest >= 0, sizes[nearest], 0)
    room[:, 0] -= 1  # a node is not its own neighbour
    ends = np.cumsum(room, axis=1)
    slots = np.arange(neighbours)
    column = (ends[:, None, :] <= slots[:, None]).sum(axis=2)[groups]  # (nodes, neighbours)
    rows, slot = np.nonzero(column < nearest.shape[1])
    column = column[rows, slot]
    own = column == 0
    point = nearest[groups[rows], column]
    offset = slot - (ends - room)[groups[rows], column]
    # offsets around a point's own nodes: distinct, spaced geometrically up to half the ring; 1, 2, ... in a small one
    ring = np.floor(np.geomspace(1, np.maximum(1, sizes // 2), neighbours, axis=1)).astype(np.int64) - slots
    ring = (np.maximum.accumulate(ring, axis=1) + slots)[groups[rows], slot]
    start = np.where(own, position[rows] + ring, rows * 7919 + offset)  # a prime spreads who chooses whom
    return rows, members[starts[point] + start % sizes[point]], column


def symmetric_normalize(affinity: Csr, self_loop: float) -> Csr:
    """Propagator of a graph (LGDEA eq. 13, reconstruction).

        S = D^-1/2 (W + s w I) D^-1/2,   D = row sums of W + s w I,   w = mean weight of an edge of W

    Eigenvalues lie in [-1, 1]. The unit `w` makes `S` independent of the scale of `W`: `s = 1` is one more neighbour
    of average weight, the node itself. A node without neighbours keeps to itself, or has a row of zeros if `s = 0`.

    Raises:
        ValueError: not square, not symmetric, a negative or not finite weight, or `self_loop < 0`.
    """
    if not (np.isfinite(self_loop) and self_loop >= 0):
        raise ValueError(f"symmetric_normalize: self_loop must be >= 0, got {self_loop}")
    if affinity.shape[0] != affinity.shape[1] or not (np.isfinite(affinity.data) & (affinity.data >= 0)).all():
        raise ValueError(f"symmetric_normalize: an affinity must be square, finite and >= 0, got {affinity.shape}")
    skew = abs(affinity - affinity.T).max() if affinity.nnz else 0.0
    if skew > 1e-6 * affinity.data.max(initial=0):
        raise ValueError(f"symmetric_normalize: an affinity must be symmetric, got entries {skew:.1e} apart")
    loop = self_loop * (affinity.data[affinity.data > 0].mean() if affinity.nnz else 1.0)
    looped = affinity + loop * sparse.eye_array(affinity.shape[0], dtype=affinity.dtype, format="csr")
    degree = looped.sum(axis=1)
    scale = sparse.diags_array(np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0))
    return (scale @ looped @ scale).astype(affinity.dtype).tocsr()


def seed_matrix(
    pairs: Int[np.ndarray, "pairs 2"], images: int, reports: int, dtype: type[np.floating] = np.float32
) -> Csr:
    """Seed relations `Y`: 1 for a known pair, else 0 (LGDEA eq. 10).

    Args:
        pairs: rows (image, report), positions in the two pools; an image or a report may be in several pairs.
        images: size of the image pool; `reports` of the other.
        dtype: precision of all that is propagated from these seeds.

    Raises:
        ValueError: a position outside its pool, or the same pair twice.
    """
    for name, column, size in (("image", pairs[:, 0], images), ("report", pairs[:, 1], reports)):
        if len(column) and not (column.min() >= 0 and column.max() < size):
            found = f"{column.min()} to {column.max()}; are the pairs from another pool?"
            raise ValueError(f"seed_matrix: {name} positions must lie in [0, {size}), got {found}")
    repeated = len(pairs) - len(np.unique(pairs, axis=0))
    if repeated:
        raise ValueError(f"seed_matrix: {repeated} pair(s) occur more than once; drop the duplicates")
    return sparse.csr_array((np.ones(len(pairs), dtype), (pairs[:, 0], pairs[:, 1])), shape=(images, reports))


@dataclass(frozen=True, kw_only=True)
class Propagation:
    """Relations after the last step, and how the steps went."""

    relations: Csr
    """`P`, images x reports, not normalised"""
    steps: int
    converged: bool
    moved: list[float]
    """change of the unpaired block in each step, relative to that block"""
    pruned_mass: list[float]
    """share of all mass that each step cut off"""
    pruned_unpaired_mass: list[float]
    """the same of the unpaired block alone"""
    paired_images: Bool[np.ndarray, "images"]
    """images with a seed; the others are the rows of the unpaired block"""
    paired_reports: Bool[np.ndarray, "reports"]

    @property
    def reached_images(self) -> Bool[np.ndarray, "images"]:
        """Images some walk from a seed reaches; the others have a row of zeros."""
        return self.relations.sum(axis=1) > 0

    @property
    def reached_reports(self) -> Bool[np.ndarray, "reports"]:
        """Reports some walk from a seed reaches, and pruning left."""
        return self.relations.sum(axis=0) > 0

    def unpaired_block(self) -> Csr:
        """Relations of unpaired images with unpaired reports: rows sum to 1, or to 0 where no walk reaches."""
        block = self.relations[np.flatnonzero(~self.paired_images)][:, np.flatnonzero(~self.paired_reports)]
        mass = block.sum(axis=1)
        return (sparse.diags_array(np.divide(1, mass, out=np.zeros_like(mass), where=mass > 0)) @ block).tocsr()

    def stats(self) -> dict[str, Any]:
        """Counts and monitors, as plain numbers for graph_stats.json."""
        numbers = ("steps", "converged", "moved", "pruned_mass", "pruned_unpaired_mass")
        return {name: getattr(self, name) for name in numbers} | {
            "entries": int(self.relations.nnz),
            "paired_images": int(self.paired_images.sum()),
            "paired_reports": int(self.paired_reports.sum()),
            "unreached_images": int((~self.reached_images).sum()),
            "unreached_reports": int((~self.reached_reports).sum()),
        }


class _Walk:
    """The step of eq. 14; inside, reports with a seed come first."""

    def __init__(self, seeds: Csr, images: Csr, reports: Csr, alpha: float, keep: int | None) -> None:
        if not 0 < alpha < 1 or (keep is not None and keep < 1):
            raise ValueError(f"propagate: alpha must lie in (0, 1), keep be None or at least 1; got {alpha} and {keep}")
        for name, propagator, size in (("image", images, seeds.shape[0]), ("report", reports, seeds.shape[1])):
            if (got := propagator.shape) != (size, size):
                raise ValueError(f"propagate: the {name} propagator must be {size} x {size} like the seeds, got {got}")
        self.paired_images, self.paired_reports = seeds.sum(axis=1) > 0, seeds.sum(axis=0) > 0
        self.order = np.argsort(~self.paired_reports, kind="stable")
        self.border = int(self.paired_reports.sum())
        self.seeds, self.reports = seeds[:, self.order].tocsr(), reports[self.order][:, self.order].tocsr()
        self.images, self.alpha, self.keep = images, alpha, keep

    def step(self, relations: Csr) -> tuple[Csr, Float[np.ndarray, "2 2"]]:
        """Next relations; and [mass before the cut, mass after] x [all, unpaired block]."""
        size, parts, mass = max(1, BLOCK_ENTRIES // max(1, relations.shape[1])), [], np.zeros((2, 2))
        for start in range(0, relations.shape[0], size):
            rows = slice(start, start + size)
            table = self._spread(self.images[rows] @ relations)
            table += ((1 - self.alpha) * self.seeds[rows]).toarray()
            mass[0] += self._mass(table, rows)
            self._cut(table)
            mass[1] += self._mass(table, rows)
            kept = np.flatnonzero(table > 0)
            ends = np.concatenate([[0], np.cumsum((table > 0).sum(axis=1))])
            parts.append(sparse.csr_array((table.ravel()[kept], kept % table.shape[1], ends), shape=table.shape))
        return sparse.vstack(parts, format="csr"), mass

    def _spread(self, block: Csr) -> Float[np.ndarray, "rows reports"]:
        """alpha * block @ S_R, where S_R is symmetric."""
        if block.nnz > DENSE_FROM * block.shape[0] * block.shape[1]:
            return np.ascontiguousarray((self.reports @ block.toarray().T).T) * block.dtype.type(self.alpha)
        return (self.alpha * (block @ self.reports)).toarray()

    def _mass(self, table: Float[np.ndarray, "rows reports"], rows: slice) -> Float[np.ndarray, "2"]:
        unpaired = table[:, self.border :].sum(axis=1, dtype=float)[~self.paired_images[rows]].sum()
        return np.array([table.sum(dtype=float), unpaired])

    def _cut(self, table: Float[np.ndarray, "rows reports"]) -> None:
        """Zero what is smaller than the `keep`-th largest of its row, among reports with and without a seed."""
        for part in (table[:, : self.border], table[:, self.border :]):
            if self.keep is not None and part.shape[1] > self.keep:
                part[part < np.partition(part, -self.keep, axis=1)[:, -self.keep, None]] = 0

    def moved(self, relations: Csr, previous: Csr) -> float:
        """Change relative to the relations, in the unpaired block, or everywhere while that is empty."""
        change, size = self._norms(relations - previous), self._norms(relations)
        where = 0 if size[0] > 0 else 1
        return change[where] / size[where] if size[where] > 0 else 0.0

    def _norms(self, matrix: Csr) -> tuple[float, float]:
        unpaired = np.repeat(~self.paired_images, np.diff(matrix.indptr)) & (matrix.indices >= self.border)
        values = matrix.data.astype(float)
        return float(np.linalg.norm(values[unpaired])), float(np.linalg.norm(values))

    def restore(self, relations: Csr) -> Csr:
        return relations[:, np.argsort(self.order)].tocsr()  # the caller's order


def propagate(
    seeds: Csr,
    image_propagator: Csr,
    report_propagator: Csr,
    *,
    alpha: float,
    tolerance: float,
    max_steps: int,
    keep: int | None,
) -> Propagation:
    """Spread seed relations over both graphs until the unpaired block stands still (LGDEA eq. 14, reconstruction).

        P[t+1] = alpha S_I P[t] S_R + (1-alpha) Y,   P[0] = Y

    The unpaired block (images without a seed x reports without a seed) stands still when a step changes it by less
    than `tolerance` times its own Frobenius norm and reaches no further image. Where it has no mass yet, or there is no
    such block, all of `P` takes its place. Not standing still after `max_steps` is a logged warning and
    `converged=False`: training goes on with what there is.

    A step cuts a row to its `keep` largest entries among reports with a seed, and its `keep` largest among those
    without: entries at seeds are so much larger that a common cut would leave little of the unpaired block. All entries
    equal to the last one kept stay too, since any choice between them would favour the same reports in every row.

    Args:
        seeds: `Y`; its dtype is that of the result.
        image_propagator: `S_I`, of `symmetric_normalize`.
        report_propagator: `S_R`.
        alpha: share taken from neighbours, in (0, 1).
        tolerance: largest relative change that counts as standing still.
        max_steps: steps at most.
        keep: entries kept; None cuts nothing, and then `P` fills up: for small pools only.

    Raises:
        ValueError: sizes that do not fit, or a number out of its range.
    """
    walk = _Walk(seeds, image_propagator, report_propagator, alpha, keep)
    if not (tolerance > 0 and max_steps >= 1):
        raise ValueError(f"propagate: tolerance must be > 0 and max_steps >= 1, got {tolerance} and {max_steps}")
    relations, moved, masses, converged = walk.seeds, [], [], False
    while len(moved) < max_steps and not converged:
        previous, (relations, mass) = relations, walk.step(relations)
        moved.append(walk.moved(relations, previous))
        masses.append(mass)
        before, after = (np.count_nonzero(np.diff(matrix.indptr)) for matrix in (previous, relations))
        converged = bool(moved[-1] < tolerance and before == after)
    if not converged:
        advice = "raise max_steps or lower alpha"
        logger.warning("relations still move by %.1e after %d steps, alpha %g; %s", moved[-1], max_steps, alpha, advice)
    before, after = np.stack(masses, axis=1)  # each (steps, [all, unpaired block])
    lost = np.divide(before - after, before, out=np.zeros_like(before), where=before > 0)
    return Propagation(
        relations=walk.restore(relations), steps=len(moved), converged=converged, moved=moved,
        pruned_mass=lost[:, 0].tolist(), pruned_unpaired_mass=lost[:, 1].tolist(),
        paired_images=walk.paired_images, paired_reports=walk.paired_reports,
    )  # fmt: skip


def propagation_trace(
    seeds: Csr, image_propagator: Csr, report_propagator: Csr, *, alpha: float, steps: int, keep: int | None = None
) -> Iterator[Csr]:
    """Relations P[0] = Y, P[1], ..., P[steps] of `propagate`, one at a time, to look at."""
    walk = _Walk(seeds, image_propagator, report_propagator, alpha, keep)
    relations = walk.seeds
    yield walk.restore(relations)
    for _ in range(steps):
        relations, _ = walk.step(relations)
        yield walk.restore(relations)


def hubness(affinity: Csr) -> dict[str, float]:
    """Skewness, largest and mean of the neighbour counts: without hubs a skewness near 0, with hubs 3 and more."""
    counts = np.diff(affinity.indptr).astype(float)
    mean, deviation = (counts.mean(), counts.std()) if len(counts) else (0.0, 0.0)
    skewness = float((((counts - mean) / deviation) ** 3).mean()) if deviation > 0 else 0.0
    return {"skewness": skewness, "max": float(counts.max(initial=0)), "mean": float(mean)}


def graph_stats(affinity: Csr) -> dict[str, Any]:
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
