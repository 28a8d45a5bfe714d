"""Draws from rows of the propagated relations, and entries of them, by walks that compute no row (LGDEA eq. 14)."""

from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from lgdea_core.graph import Csr, Propagation

WALKS = 64
"""walks of each image from which a block is estimated"""
CLOSING = 4
"""last steps of a walk that a block follows exactly, from its reports backwards"""


class Walks:
    """Walks image graph -> seed -> report graph, whose ends are distributed as the rows of `P` are.

        P[i, r] = sum_u w_u sum over seeds (x, y) of S_I^u[i, x] S_R^u[y, r]      (`Propagation`)

    A walk of u steps from image i to a seed's image x, then u steps from its report y to report r, has the weight
    `w_u S_I[i, .] ... S_I[., x] S_R[y, .] ... S_R[., r]`, and P[i, r] is the sum over the walks from i to r. So a walk
    drawn by its weight ends in r with chance P[i, r] / sum P[i, .]. It is drawn step by step, each step by the weight
    of all that can follow it (Doob's h-transform), which two tables hold:

        Q[0] = 1 at reports that may be drawn,     Q[u] = S_R Q[u-1]                 (walks x reports)
        H[T] = w_T Y Q[T],                         H[d] = w_d Y Q[d] + S_I H[d+1]    (walks x images)

    H[d][x] weighs all that can follow once a walk stands at image x after d steps, and H[0] is the sum of a row of P.
    There a walk leaves for the report side with chance (w_d Y Q[d])[x] / H[d][x], and else goes to image y with chance
    S_I[x, y] H[d+1][y] / (S_I H[d+1])[x]. On the report side, with j steps left, it goes from r to r' with chance
    S_R[r, r'] Q[j-1][r'] / Q[j][r]. A draw costs at most 2 T steps, each as much as a node has neighbours, whatever the
    size of the pools; the tables cost 2 T products with one column. Draws are exact: nothing is cut or reweighed.
    """

    def __init__(self, propagation: Propagation, allowed: Bool[np.ndarray, "reports"]) -> None:
        """Make the tables.

        Args:
            propagation: the parts of `P`.
            allowed: reports that may be drawn.
        """
        part, self._weights = propagation.arranged, propagation.weights
        self._images, self._reports, self._seeds, self._steps = part.images, part.reports, part.seeds, propagation.steps
        self._image_place, self._report_place = np.argsort(part.image_order), np.argsort(part.report_order)
        self._report_order = part.report_order
        self._seed_row = np.full(len(part.image_order), -1)
        self._seed_row[part.seed_images] = np.arange(len(part.seed_images))
        to_end = [allowed[part.report_order].astype(np.float64)]
        for _ in range(self._steps):
            to_end.append(self._reports @ to_end[-1])
        self._to_end = np.stack(to_end)
        self._leaving = np.zeros((self._steps + 1, len(part.image_order)))
        for steps, weight in enumerate(self._weights):
            self._leaving[steps, part.seed_images] = weight * (self._seeds @ self._to_end[steps])
        self._ahead = self._leaving.copy()
        for steps in reversed(range(self._steps)):
            self._ahead[steps] += self._images @ self._ahead[steps + 1]

    @cached_property
    def mass(self) -> Float[np.ndarray, "images"]:
        """Sum of each row of `P` over the allowed reports."""
        return self._ahead[0, self._image_place]

    def draw(self, images: Int[np.ndarray, "walks"], rng: np.random.Generator) -> Int[np.ndarray, "walks"]:
        """A report for each image, drawn exactly by its row of `P`; -1 where the row is 0."""
        reports = np.full(len(images), -1)
        started, node, left = self._to_reports(images, rng)
        while (going := left > 0).any():
            node[going] = self._step(node[going], left[going], rng)
            left = left - going
        reports[started] = self._report_order[node]
        return reports

    def block(
        self, images: Int[np.ndarray, "rows"], reports: Int[np.ndarray, "cols"], rng: np.random.Generator
    ) -> Float[np.ndarray, "rows cols"]:
        """Unbiased estimate of some entries of `P`, each row over its sum.

            R[i, r] = mean over `WALKS` walks of i of S_R^c[x, r] / Q[c][x]

        where x is the report a walk stands at with c steps left, c at most `CLOSING`: the chance that its last steps
        end in r takes the place of the end itself. The variance is a mean's over independent walks: it falls as
        1 / `WALKS`. Reports that were drawn for the block must have been drawn with other random numbers.

        Args:
            images: rows of the whole pool, as `reports` are.
            reports: allowed ones.
            rng: of this block.
        """
        started, node, left = self._to_reports(np.repeat(images, WALKS), rng)
        while (going := left > CLOSING).any():
            node[going] = self._step(node[going], left[going], rng)
            left = left - going
        row, nodes = np.repeat(np.arange(len(images)), WALKS)[started], len(self._report_order)

        def standing(steps: int) -> Csr:
            own = left == steps
            value = 1 / (WALKS * self._to_end[steps, node[own]])
            return sparse.csr_array((value, (row[own], node[own])), shape=(len(images), nodes))

        # sum over c of D[c] S^c E: the last two steps are taken from the reports, those before from where walks stand
        far = standing(CLOSING)
        for steps in range(CLOSING - 1, 1, -1):
            far = far @ self._reports + standing(steps)
        chosen = np.arange(len(reports)), self._report_place[reports]
        near = sparse.csr_array((np.ones(len(reports)), chosen), shape=(len(reports), nodes))
        block = np.zeros((len(images), len(reports)))
        for part in (standing(0), standing(1), far):
            block += (part @ near.T.tocsr()).toarray()
            near = near @ self._reports
        return block

    def _to_reports(
        self, images: Int[np.ndarray, "walks"], rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "started"], Int[np.ndarray, "started"], Int[np.ndarray, "started"]]:
        """Walk to a seed's report: which walks have one to go to, that report, and the steps left from there."""
        node = self._image_place[images]
        started = np.flatnonzero(self._ahead[0, node] > 0)
        node, length = node[started], np.full(len(started), -1)
        for steps in range(self._steps + 1):
            going = np.flatnonzero(length < 0)
            leaves = rng.random(len(going)) * self._ahead[steps, node[going]] < self._leaving[steps, node[going]]
            if steps == self._steps:
                leaves[:] = True
            length[going[leaves]] = steps
            going = going[~leaves]
            if not len(going):
                break
            node[going] = choose(self._images, node[going], self._ahead, np.full(len(going), steps + 1), rng)
        return started, choose(self._seeds, self._seed_row[node], self._to_end, length, rng), length

    def _step(
        self, node: Int[np.ndarray, "walks"], left: Int[np.ndarray, "walks"], rng: np.random.Generator
    ) -> Int[np.ndarray, "walks"]:
        return choose(self._reports, node, self._to_end, left - 1, rng)


def choose(
    matrix: Csr,
    rows: Int[np.ndarray, "walks"],
    table: Float[np.ndarray, "levels cols"],
    levels: Int[np.ndarray, "walks"],
    rng: np.random.Generator,
) -> Int[np.ndarray, "walks"]:
    """A column of each row, drawn with chance proportional to `matrix[row, column] * table[level, column]`.

    Args:
        matrix: `>= 0`.
        rows: each with an entry whose product is positive.
        table: `>= 0`.
        levels: row of the table for each draw.
        rng: one uniform number is taken for each row.
    """
    first = matrix.indptr[rows].astype(np.int64)
    count = matrix.indptr[rows + 1] - first
    begins = np.cumsum(count) - count
    owner = np.repeat(np.arange(len(rows)), count)
    entry = np.arange(len(owner)) + np.repeat(first - begins, count)
    column = matrix.indices[entry]
    weight = matrix.data[entry] * table[levels[owner], column]
    weight = weight / np.add.reduceat(weight, begins)[owner]  # each row sums to 1: no sum is lost in a larger one
    heights = np.cumsum(weight)
    wanted = heights[begins] - weight[begins] + rng.random(len(rows)) * (1 - 1e-9)
    return column[np.clip(np.searchsorted(heights, wanted, side="right"), begins, begins + count - 1)]
