"""Evidence graphs within a modality, and the relations that spread over them (LGDEA eqs. 10-14), never written down.

A propagation keeps its graphs and seeds. What is read of its relations `P` is a product with something thin, or some
rows; `walks.py` draws from its rows.
"""

import itertools
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

logger = logging.getLogger("lgdea")
Csr = sparse.csr_array

FLAT_LIMIT = 100_000
"""distinct descriptors up to which the search for neighbours is exact"""
SAME_DESCRIPTOR = 1e-5
"""descriptors equal after rounding to this are one point, see `knn_affinity`"""
COLUMNS = 32
"""columns of a thin matrix that walk together: enough to read a graph seldom, few enough for the cache"""
EXACT_ENTRIES = 2**24
"""images x reports up to which all rows of relations are computed and held; above, only thin products and walks"""
PROBES = 32
"""random projections that estimate how much relations move"""


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
    if not np.isfinite(known := np.where(present, embeddings, 0)).all():
        raise ValueError("evidence_descriptor: embeddings of nodes with evidence must be finite; look at the tower")
    centred = np.where(present, known - known.sum(axis=0) / max(1, present.sum()), 0)
    return _unit_rows(np.concatenate([evidence, _unit_rows(centred, order=2)], axis=1), order=2)


def knn_affinity(descriptors: Float[np.ndarray, "nodes dim"], neighbours: int, *, flat_limit: int = FLAT_LIMIT) -> Csr:
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
    shape = (len(descriptors), len(descriptors))
    if len(nodes) < 2:
        return sparse.csr_array(shape, dtype=descriptors.dtype)
    grid = np.ascontiguousarray(np.round(points / SAME_DESCRIPTOR).astype(np.int32))
    keys = grid.view(np.dtype((np.void, grid.itemsize * grid.shape[1]))).ravel()  # compared as bytes: fast
    _, first, groups = np.unique(keys, return_index=True, return_inverse=True)
    nearest, similarity = nearest_points(points[first], neighbours, flat_limit)
    rows, cols, source = _balanced_neighbours(groups, nearest, neighbours)
    values = np.clip(similarity[groups[rows], source], 0, 1).astype(descriptors.dtype)
    positive = values > 0
    directed = sparse.csr_array((values[positive], (nodes[rows[positive]], nodes[cols[positive]])), shape=shape)
    return directed.maximum(directed.T).tocsr()


def _present(descriptors: Float[np.ndarray, "rows cols"]) -> Bool[np.ndarray, "rows"]:
    return np.isfinite(descriptors).all(axis=1) & (descriptors != 0).any(axis=1)


def _unit_rows(values: Float[np.ndarray, "rows cols"], order: int) -> Float[np.ndarray, "rows cols"]:
    norms = np.linalg.norm(values, ord=order, axis=1, keepdims=True)
    return np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)


def nearest_points(
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
    """Edges node -> neighbour, and the column of `nearest` each comes from; points may hold several nodes.

    A node has `neighbours` slots. They are filled point by point, nearest first: its own point's other nodes, then all
    nodes of the next point, and so on. Where a point holds more nodes than there are slots left, which of them are
    taken must differ from node to node, or all would choose the same ones.
    """
    # nodes sorted by point: point p holds members[starts[p] : starts[p] + sizes[p]]; position is a node's place there
    sizes = np.bincount(groups)
    members = np.argsort(groups, kind="stable")
    starts = np.cumsum(sizes) - sizes
    position = np.empty_like(members)
    position[members] = np.arange(len(groups)) - starts[groups[members]]

    # room: nodes that each near point offers; its running sum says in which point's nodes a slot falls
    room = np.where(nearest >= 0, sizes[nearest], 0)
    room[:, 0] -= 1  # a node is not its own neighbour
    ends = np.cumsum(room, axis=1)
    slots = np.arange(neighbours)
    column = (ends[:, None, :] <= slots[:, None]).sum(axis=2)[groups]  # (nodes, neighbours)
    rows, slot = np.nonzero(column < nearest.shape[1])  # slots beyond all points stay empty: a small pool
    column = column[rows, slot]
    own = column == 0
    point = nearest[groups[rows], column]
    offset = slot - (ends - room)[groups[rows], column]  # 0, 1, ... among the slots that fall into this point
    # own point: the ring of its nodes, each choosing at the same distances, so that all are chosen equally often.
    # Distances are distinct and grow geometrically up to half the ring (1, 2, ... in a small one): a few steps from any
    # node to any other. Another point: a start that depends on who chooses.
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
    """Relations after the last step, held as the parts they are made of, and how the steps went.

        P = sum_u w_u S_I^u Y S_R^u,   w_u = (1-alpha) alpha^u for u < T, w_T = alpha^T,   T = `steps`

    This is P[T] of eq. 14 (see `propagate`), for eq. 14 only ever appends one more factor on both sides. `P` itself is
    nearly full. Its product with a thin matrix is not: `times`.
    """

    seeds: Csr
    """`Y`, images x reports"""
    image_propagator: Csr
    """`S_I`"""
    report_propagator: Csr
    """`S_R`"""
    alpha: float
    steps: int
    converged: bool
    moved: list[float] = field(default_factory=list)
    """change of the unpaired block in each step, relative to that block; estimated"""

    @property
    def paired_images(self) -> Bool[np.ndarray, "images"]:
        """Images with a seed; the others are the rows of the unpaired block."""
        return self.seeds.sum(axis=1) > 0

    @property
    def paired_reports(self) -> Bool[np.ndarray, "reports"]:
        """Reports with a seed."""
        return self.seeds.sum(axis=0) > 0

    @property
    def weights(self) -> Float[np.ndarray, "walks"]:
        """`w_u`: share of the walks of u steps on both sides, u = 0, ..., T; they sum to 1."""
        weights = (1 - self.alpha) * self.alpha ** np.arange(self.steps + 1)
        weights[-1] = self.alpha**self.steps
        return weights

    @cached_property
    def transposed(self) -> "Propagation":
        """The same with images and reports exchanged: `P` transposed, for the propagators are symmetric."""
        parts = {"image_propagator": self.report_propagator, "report_propagator": self.image_propagator}
        values = {"alpha": self.alpha, "steps": self.steps, "converged": self.converged, "moved": self.moved}
        return Propagation(seeds=self.seeds.T.tocsr(), **parts, **values)

    @cached_property
    def arranged(self) -> "Arranged":
        """The parts with nodes renumbered, as all products and walks take them."""
        return arrange(self.seeds, self.image_propagator, self.report_propagator)

    def times(
        self, values: Csr | Float[np.ndarray, "reports cols"], wanted: Int[np.ndarray, "images"] | None = None
    ) -> Float[np.ndarray, "images cols"]:
        """Exact product `P V` by Horner's scheme, in O(edges x steps x columns).

            X[0] = V,               X[u] = S_R X[u-1],                  u = 1, ..., T    (reports x columns)
            H[T] = w_T Y X[T],      H[u] = w_u Y X[u] + S_I H[u+1],     P V = H[0]       (images x columns)

        Of each X only the rows at seeds are kept. `COLUMNS` columns walk at a time; threads share these groups, and
        the result is the same for any number of threads.

        Args:
            values: `V`, dense or sparse; zeros at the reports that shall not count.
            wanted: the images, in which order; None takes all.
        """
        part, weights, dtype = self.arranged, self.weights, self.seeds.dtype
        columns = values[part.report_order].tocsc() if sparse.issparse(values) else values
        place = np.argsort(part.image_order)[slice(None) if wanted is None else wanted]
        result = np.empty((len(place), values.shape[1]), dtype=dtype)
        last = (part.seeds @ part.reports).tocsr()  # the last step on this side is needed at the seeds alone
        first = part.images[:, part.seed_images].tocsr()  # and the first on the other starts from them

        def walk(start: int) -> None:
            own = slice(start, min(start + COLUMNS, values.shape[1]))
            if sparse.issparse(values):
                spread = np.ascontiguousarray(columns[:, own].toarray(), dtype=dtype)
            else:
                spread = np.ascontiguousarray(columns[part.report_order, own], dtype=dtype)
            at_seeds = [part.seeds @ spread]
            for _ in range(self.steps - 1):
                spread = part.reports @ spread
                at_seeds.append(part.seeds @ spread)
            walked = first @ (dtype.type(weights[-1]) * (last @ spread))
            walked[part.seed_images] += dtype.type(weights[-2]) * at_seeds.pop()
            for weight in weights[-3::-1]:
                walked = part.images @ walked
                walked[part.seed_images] += dtype.type(weight) * at_seeds.pop()
            result[:, own] = walked[place]

        starts = range(0, values.shape[1], COLUMNS)
        if len(starts) < 2:
            for start in starts:
                walk(start)
        else:
            with ThreadPoolExecutor(torch.get_num_threads()) as threads:
                list(threads.map(walk, starts))
        return result

    def rows(self, images: Int[np.ndarray, "rows"]) -> Float[np.ndarray, "rows reports"]:
        """Exact rows of `P`: the product of its transpose with as many columns."""
        ones = np.ones(len(images), dtype=self.seeds.dtype)
        chosen = sparse.csr_array((ones, (images, np.arange(len(images)))), shape=(self.seeds.shape[0], len(images)))
        return np.ascontiguousarray(self.transposed.times(chosen).T)

    def reached(self) -> tuple[Bool[np.ndarray, "images"], Bool[np.ndarray, "reports"]]:
        """Images and reports which some walk from a seed reaches; the others have a row or a column of zeros."""
        images, reports = self.seeds.shape
        return self.times(np.ones((reports, 1)))[:, 0] > 0, self.transposed.times(np.ones((images, 1)))[:, 0] > 0

    def unpaired_block(self) -> Csr:
        """All relations of unpaired images with unpaired reports: rows sum to 1, or to 0 where no walk reaches.

        Raises:
            ValueError: it has more than `EXACT_ENTRIES` entries; `relations.PropagatedRelations` needs none of them.
        """
        images, reports = np.flatnonzero(~self.paired_images), np.flatnonzero(~self.paired_reports)
        if len(images) * len(reports) > EXACT_ENTRIES:
            raise ValueError(
                f"unpaired_block: {len(images)} x {len(reports)} entries are more than are ever held "
                f"({EXACT_ENTRIES}); use relations.graph_relations"
            )
        block = sparse.csr_array(self.rows(images)[:, reports])
        mass = block.sum(axis=1)
        return (sparse.diags_array(np.divide(1, mass, out=np.zeros_like(mass), where=mass > 0)) @ block).tocsr()

    def stats(self) -> dict[str, Any]:
        """Counts and monitors, as plain numbers for graph_stats.json."""
        images, reports = self.reached()
        return {name: getattr(self, name) for name in ("steps", "converged", "moved")} | {
            "paired_images": int(self.paired_images.sum()),
            "paired_reports": int(self.paired_reports.sum()),
            "unreached_images": int((~images).sum()),
            "unreached_reports": int((~reports).sum()),
        }

    def save(self, path: Path) -> None:
        """Write the parts as one npz; `load` reads them."""
        parts = {"alpha": self.alpha, "steps": self.steps, "converged": self.converged, "moved": self.moved}
        for name in _MATRICES:
            matrix = getattr(self, name)
            parts |= {f"{name}_{part}": getattr(matrix, part) for part in ("data", "indices", "indptr", "shape")}
        with path.open("wb") as file:
            np.savez(file, **parts)

    @classmethod
    def load(cls, path: Path) -> "Propagation":
        """What `save` wrote.

        Raises:
            ValueError: the file holds something else.
        """
        with np.load(path) as parts:
            if "seeds_data" not in parts:
                raise ValueError(f"{path}: expected the parts of a propagation, got {sorted(parts)}; run notebook 03")
            matrices = {
                name: sparse.csr_array(
                    tuple(parts[f"{name}_{part}"] for part in ("data", "indices", "indptr")),
                    shape=tuple(parts[f"{name}_shape"]),
                )
                for name in _MATRICES
            }
            return cls(
                **matrices, alpha=float(parts["alpha"]), steps=int(parts["steps"]),
                converged=bool(parts["converged"]), moved=parts["moved"].tolist(),
            )  # fmt: skip


_MATRICES = ("seeds", "image_propagator", "report_propagator")


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """Seeds and propagators with nodes renumbered, so that neighbours lie near each other in memory.

    A sparse product gathers the rows of a node's neighbours. In the order of a pool these lie anywhere; in the reverse
    Cuthill-McKee order most are in the cache already. At 200,000 nodes that is two to eight times as fast.
    """

    image_order: Int[np.ndarray, "images"]
    """which image is the first, second, ... here"""
    report_order: Int[np.ndarray, "reports"]
    images: Csr
    reports: Csr
    seed_images: Int[np.ndarray, "seeds"]
    """images with a seed, in this order's numbers"""
    seeds: Csr
    """rows of `Y` at `seed_images` alone"""


def arrange(seeds: Csr, image_propagator: Csr, report_propagator: Csr) -> Arranged:
    """The parts of a propagation in reverse Cuthill-McKee order, with indices of 32 bits."""
    orders, graphs = [], []
    for propagator in (image_propagator, report_propagator):
        order = reverse_cuthill_mckee(sparse.csr_matrix(propagator), symmetric_mode=True)
        renumbered = propagator[order][:, order].tocsr()
        renumbered.sort_indices()
        renumbered.indices, renumbered.indptr = (
            part.astype(np.int32) for part in (renumbered.indices, renumbered.indptr)
        )
        orders.append(order)
        graphs.append(renumbered)
    moved = seeds[orders[0]][:, orders[1]].tocsr()
    seed_images = np.flatnonzero(np.diff(moved.indptr))
    return Arranged(
        image_order=orders[0], report_order=orders[1], images=graphs[0], reports=graphs[1],
        seed_images=seed_images, seeds=moved[seed_images],
    )  # fmt: skip


def propagate(
    seeds: Csr,
    image_propagator: Csr,
    report_propagator: Csr,
    *,
    alpha: float,
    tolerance: float,
    max_steps: int,
) -> Propagation:
    """Spread seed relations over both graphs until the unpaired block stands still (LGDEA eq. 14, reconstruction).

        P[t+1] = alpha S_I P[t] S_R + (1-alpha) Y,   P[0] = Y
               = (1-alpha) sum_{u<=t} alpha^u G[u] + alpha^(t+1) G[t+1],   G[u] = S_I^u Y S_R^u

    Nothing is multiplied out here: the second form gives any product or row of `P` later, without the rest. Only how
    many steps it takes is found out, from `PROBES` random projections of each side.

    The unpaired block (images without a seed x reports without a seed) stands still when a step changes it by less than
    `tolerance` times its own Frobenius norm and reaches no further image or report; where it has no mass, all of `P`
    takes its place. Not standing still after `max_steps` is a logged warning and `converged=False`: training goes on.

    Args:
        seeds: `Y`; its dtype is that of the result.
        image_propagator: `S_I` of `symmetric_normalize`; the other is `S_R`.
        alpha: share taken from neighbours, in (0, 1).
        tolerance: largest relative change that counts as standing still, within `max_steps`.

    Raises:
        ValueError: sizes that do not fit, or a number out of its range.
    """
    _check_walk(seeds, image_propagator, report_propagator, alpha)
    if not (tolerance > 0 and max_steps >= 1):
        raise ValueError(f"propagate: {tolerance=} and {max_steps=} must be positive")
    arranged, moved, converged = arrange(seeds, image_propagator, report_propagator), [], False
    for change, reaching in itertools.islice(_changes(arranged, alpha), max_steps):
        moved.append(change)
        if converged := change < tolerance and not reaching:
            break
    if not converged:
        further = " and reach further nodes" if reaching else ""
        message = "relations still move by %.0e%s after %d steps; raise max_steps or lower alpha"
        logger.warning(message, change, further, max_steps)
    found = Propagation(
        seeds=seeds, image_propagator=image_propagator, report_propagator=report_propagator, alpha=alpha,
        steps=len(moved), converged=converged, moved=moved,
    )  # fmt: skip
    vars(found)["arranged"] = arranged  # the cached property: it is there already
    return found


def propagation_trace(
    seeds: Csr, image_propagator: Csr, report_propagator: Csr, *, alpha: float, steps: int
) -> Iterator[Csr]:
    """Relations P[0] = Y, P[1], ..., P[steps] as eq. 14 says, one at a time, uncut: to look at a small world."""
    _check_walk(seeds, image_propagator, report_propagator, alpha)
    relations = seeds
    yield relations
    for _ in range(steps):
        relations = alpha * (image_propagator @ relations @ report_propagator) + (1 - alpha) * seeds
        yield relations


def _check_walk(seeds: Csr, images: Csr, reports: Csr, alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"propagate: alpha must lie strictly between 0 and 1, got {alpha}")
    for name, propagator, size in (("image", images, seeds.shape[0]), ("report", reports, seeds.shape[1])):
        if (got := propagator.shape) != (size, size):
            raise ValueError(f"propagate: the {name} propagator must be {size} x {size} like the seeds, got {got}")


def _changes(part: Arranged, alpha: float) -> Iterator[tuple[float, bool]]:
    """Relative change of each step, and whether it reaches further images or reports.

    P is never formed: E (x . M v)^2 = |M|_F^2 for Gaussian x and v, so norms are estimated from X^T P V for `PROBES`
    columns each. The first projections see the unpaired block, the second everything. X^T G[u] V with
    G[u] = S_I^u Y S_R^u is (S_I^u X)^T Y (S_R^u V): a step multiplies the probes, not P.
    """
    rng = np.random.default_rng(0)
    images, reports, seeds, paired_reports = part.images, part.reports, part.seeds, part.seeds.sum(axis=0) > 0
    rows, cols = (
        rng.standard_normal((2, len(order), PROBES))[:, order] for order in (part.image_order, part.report_order)
    )
    rows[0, part.seed_images] = cols[0, paired_reports] = 0
    rows, cols = (_few_columns(probes, seeds.dtype) for probes in (rows, cols))
    # a seed starts walks only where both its image and its report have somewhere to go
    reached_images = np.zeros(len(part.image_order), dtype=bool)
    reached_images[part.seed_images] = (seeds @ (reports.sum(axis=0) > 0).astype(float)) > 0
    reached_reports = (seeds.T @ (images.sum(axis=0) > 0)[part.seed_images].astype(float)) > 0

    def project() -> Float[np.ndarray, "2 probes probes"]:
        left = np.concatenate([row[part.seed_images] for row in rows], axis=1, dtype=np.float64)
        right = np.concatenate([seeds @ col for col in cols], axis=1, dtype=np.float64)
        return np.stack([left[:, :PROBES].T @ right[:, :PROBES], left[:, PROBES:].T @ right[:, PROBES:]])

    walked, total, weight = project(), 0, 1
    while True:
        total, weight = total + (1 - alpha) * weight * walked, weight * alpha
        rows, cols = [images @ row for row in rows], [reports @ col for col in cols]
        previous, walked = walked, project()
        # P[t+1] - P[t] = alpha^(t+1) (G[t+1] - G[t]): the last term of the sum replaces its own share of the one before
        change = np.linalg.norm(weight * (walked - previous), axis=(1, 2))
        norm = np.linalg.norm(total + weight * walked, axis=(1, 2))
        where = 0 if norm[0] > 0 else 1
        before = reached_images.sum() + reached_reports.sum()
        reached_images = reached_images | ((images @ reached_images.astype(float)) > 0)
        reached_reports = reached_reports | ((reports @ reached_reports.astype(float)) > 0)
        reaching = bool(reached_images.sum() + reached_reports.sum() > before)
        yield float(change[where] / norm[where]) if norm[where] > 0 else 0.0, reaching


def _few_columns(probes: Float[np.ndarray, "2 nodes probes"], dtype: np.dtype) -> list[np.ndarray]:
    """Both sets of probes, `COLUMNS` columns at a time."""
    return [
        np.ascontiguousarray(part[:, at : at + COLUMNS], dtype=dtype)
        for part in probes
        for at in range(0, PROBES, COLUMNS)
    ]
