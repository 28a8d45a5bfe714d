"""Relations of unpaired images with unpaired reports: the propagated graph, the cross-modal affinity, or both (E).

What training reads of them is a product with something thin (`times`, `report_mass`), some rows, or a draw. All
positions count within the unpaired block.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.optimize import brentq
from scipy.special import expit
from torch import Tensor

from lgdea_core.config import GraphConfig
from lgdea_core.graph import EXACT_ENTRIES, Csr, Propagation
from lgdea_core.walks import Walks

FLOOR = 1e-4
"""share of a row that the graph spreads evenly over all reports before it is multiplied with the affinity"""
SHARE_BOUNDS = (1e-3, 1 - 1e-3)
"""bounds on the share of images that are taken to show an observation"""
MEASURED_ENTRIES = 2**27
"""images x reports up to which the quality of relations is measured on all images; above, on as many as come to that"""


class CrossAffinity:
    """Cross-modal evidence affinity `A`: log likelihood ratio of a report's observations in an image (E).

        A[i, r] = sum over the observations o of report r of l[i, o]
        l[i, o] = sharpness * (s[i, o] - mean_o) / sd_o - b_o,   b_o such that mean_i sigmoid(l[i, o]) = share_o

    `s` are the images' responses to the observations, mean and sd go over the images, and share_o is the share of
    reports (of those with evidence) that state o. So `exp(A)` weighs reports as naive Bayes does: an observation the
    image shows speaks for a report, one it does not show against, and a report that all is normal has A = 0. That both
    pools hold an observation equally often is an assumption. An observation all images answer alike says nothing
    (l = 0). A report without evidence is -inf: it can never be chosen.
    """

    def __init__(
        self,
        responses: Float[Tensor, "images observations"],
        membership: sparse.csr_array,
        has_evidence: Bool[np.ndarray, "reports"],
        sharpness: float,
    ) -> None:
        """Calibrate the responses.

        Args:
            responses: `s`, finite; a target, so no gradient flows into them. Their device is that of all that follows.
            membership: reports x observations, 1 where the report states the observation.
            has_evidence: False for a report without evidence; one that all is normal has evidence, but no observation.
            sharpness: log odds for each standard deviation of a response.

        Raises:
            ValueError: nothing to relate, tables that do not fit, or responses that are not finite.
        """
        if not len(responses) or not has_evidence.any():
            found = f"{len(responses)} images, {int(has_evidence.sum())} reports with evidence"
            raise ValueError(f"CrossAffinity: needs images and reports with evidence; got {found}")
        if membership.shape != (len(has_evidence), responses.shape[1]) or not responses.isfinite().all():
            raise ValueError(
                f"CrossAffinity: expected finite responses to {membership.shape[1]} observations and an entry of "
                f"has_evidence for {membership.shape[0]} reports, got shapes {tuple(responses.shape)} and "
                f"{has_evidence.shape}, {int((~responses.isfinite()).sum())} responses not finite"
            )
        self.images, self.reports = len(responses), len(has_evidence)
        shares = membership[has_evidence].mean(axis=0)
        odds = calibrated_log_odds(responses.detach().double().cpu().numpy(), shares, sharpness)
        self.log_odds = torch.from_numpy(odds).to(responses)
        self.membership = sparse.csr_array(membership).astype(np.float32)
        self.has_evidence = has_evidence

    def sets(self) -> Int[np.ndarray, "reports"]:
        """Which set of observations each report states, numbered from 0; those without evidence are one more.

        Reports of one set have the same affinity with every image: they are one column.
        """
        self.membership.sort_indices()
        bounds = zip(self.membership.indptr[:-1], self.membership.indptr[1:], strict=True)
        stated = [self.membership.indices[first:last].tobytes() for first, last in bounds]
        number: dict[tuple[bytes, bool], int] = {}
        found = [number.setdefault(key, len(number)) for key in zip(stated, self.has_evidence.tolist(), strict=True)]
        return np.array(found, dtype=np.int64)

    def columns(self, reports: Int[np.ndarray, "columns"]) -> Float[Tensor, "observations columns"]:
        """What `block` needs of some reports, in the type and on the device of the responses."""
        return torch.from_numpy(self.membership[reports].toarray().T.copy()).to(self.log_odds)

    def block(
        self, images: slice | Int[np.ndarray, "images"], reports: Int[np.ndarray, "columns"] | None = None
    ) -> Float[Tensor, "images columns"]:
        """Affinity of some images with some reports, or with all."""
        reports = np.arange(self.reports) if reports is None else reports
        chosen = images if isinstance(images, slice) else torch.from_numpy(images)
        silent = torch.from_numpy(~self.has_evidence[reports]).to(self.log_odds.device)
        return (self.log_odds[chosen] @ self.columns(reports)).masked_fill(silent, -torch.inf)


def calibrated_log_odds(
    responses: Float[np.ndarray, "images observations"], shares: Float[np.ndarray, "observations"], sharpness: float
) -> Float[np.ndarray, "images observations"]:
    """`l = sharpness * z - b`: standardised responses, shifted so that the mean of `sigmoid(l)` is the wanted share.

    Shares are kept within `SHARE_BOUNDS`. A response that is the same for all images gives 0.
    """
    log_odds = np.zeros_like(responses)
    for column, share in enumerate(np.clip(shares, *SHARE_BOUNDS)):
        centred = responses[:, column] - responses[:, column].mean()
        spread = centred.std()
        if spread <= 1e-6 * max(1e-6, np.abs(responses[:, column]).max()):
            continue
        scaled = sharpness * centred / spread
        bound = np.abs(scaled).max() + 10  # there the mean lies beyond both SHARE_BOUNDS
        offset = brentq(lambda b, scaled=scaled, share=share: expit(scaled - b).mean() - share, -bound, bound)
        log_odds[:, column] = scaled - offset
    return log_odds


class ReportChoice(NamedTuple):
    """What `expected_evidence` returns, one entry an image; 0 where no report is related."""

    evidence_distribution: Float[np.ndarray, "images prototypes"]
    """relation-weighted mean of the reports' distributions (eq. 15); rows sum to 1 or 0"""
    agreement: Float[np.ndarray, "images"]
    """|sum_r P[i, r] sqrt(q_r)|^2, in [0, 1]: 1 where all related reports hold the same evidence"""


Thin = Csr | np.ndarray
"""reports x a few columns"""


class Relations(ABC):
    """Relations `R` of unpaired images with unpaired reports; a row sums to 1, or to 0 where nothing is known."""

    images: int
    reports: int

    @abstractmethod
    def rows(self, image_indices: Int[np.ndarray, "images"]) -> Float[Tensor, "images reports"]:
        """Exact rows of some images."""

    @abstractmethod
    def times(self, values: Thin) -> Float[np.ndarray, "images cols"]:
        """Exact product `R V` with a thin matrix of the reports."""

    @abstractmethod
    def report_mass(self) -> Float[np.ndarray, "reports"]:
        """Exact column sums: how many images each report stands for."""

    def block(
        self,
        image_indices: Int[np.ndarray, "images"],
        report_indices: Int[np.ndarray, "reports"],
        rng: np.random.Generator,
    ) -> Float[Tensor, "images reports"]:
        """Relations of some images with some reports, not normalised among these; `rng` where they are estimated."""
        return self.rows(image_indices)[:, torch.from_numpy(report_indices)]

    def sample_reports(
        self, image_indices: Int[np.ndarray, "images"], rng: np.random.Generator
    ) -> Int[np.ndarray, "images"]:
        """One report for each image, drawn by its row; -1 for an image without relations."""
        return _draw_columns(self.rows(image_indices), rng)[0]

    def measured(self, entries: int) -> Int[np.ndarray, "measured"]:
        """Images for what needs whole rows: all, or as many evenly spaced ones as have about so many entries."""
        wanted = min(self.images, max(64, entries // max(1, self.reports)))
        return np.linspace(0, self.images - 1, wanted).astype(np.int64) if self.images else np.empty(0, np.int64)

    def blocks(self, entries: int) -> Iterator[tuple[Int[np.ndarray, "images"], Float[Tensor, "images reports"]]]:
        """Rows of the `measured` images, some at a time."""
        images = self.measured(entries)
        for start in range(0, len(images), size := max(1, min(512, EXACT_ENTRIES // max(1, self.reports)))):
            chosen = images[start : start + size]
            yield chosen, self.rows(chosen)

    def effective_reports(self) -> float:
        """Mean of exp(entropy) of the rows with mass: how many reports are in play; 0 where no row has any.

        Over all images, or in large pools over some (`measured`): an entropy is no product with anything thin.
        """
        found = []
        for _, rows in self.blocks(EXACT_ENTRIES):
            entropy = -torch.special.xlogy(rows, rows).sum(dim=1)
            found.append(entropy.exp()[rows.sum(dim=1) > 0].double().cpu().numpy())
        found = np.concatenate(found) if found else np.empty(0)
        return float(found.mean()) if len(found) else 0.0

    def expected_evidence(self, evidence_distribution: Float[np.ndarray, "reports prototypes"]) -> ReportChoice:
        """Evidence an image's related reports hold, and how sure the choice is (LGDEA eq. 15, reconstruction).

            Qbar[i] = sum_r P[i, r] Qbar_R[r]   over the reports r with evidence, brought to sum 1

        Args:
            evidence_distribution: `Qbar_R`, rows sum to 1; a row of NaN or zeros is a report without evidence.
        """
        known = (evidence_distribution > 0).any(axis=1) & np.isfinite(evidence_distribution).all(axis=1)
        evidence = np.where(known[:, None], evidence_distribution, 0)
        found = self.times(np.concatenate([evidence, np.sqrt(evidence), known[:, None].astype(evidence.dtype)], axis=1))
        mean, root, mass = np.split(found, [evidence.shape[1], 2 * evidence.shape[1]], axis=1)
        scale = np.divide(1, mass, out=np.zeros_like(mass), where=mass > 0)
        return ReportChoice(mean * scale, np.square(root * scale).sum(axis=1))


def _draw_columns(
    rows: Float[Tensor, "rows cols"], rng: np.random.Generator
) -> tuple[Int[np.ndarray, "rows"], Float[np.ndarray, "rows"]]:
    """A column of each row, drawn by its weight, -1 where there is none; and where in that column the draw fell."""
    heights = rows.double().cumsum(dim=1).cpu()
    mass = heights[:, -1:]
    drawn = torch.from_numpy(rng.random(mass.shape)) * mass  # below the mass, so a column of positive weight
    chosen = torch.searchsorted(heights, drawn, right=True).clamp(max=rows.shape[1] - 1)
    below = torch.where(chosen > 0, heights.gather(1, (chosen - 1).clamp(min=0)), 0)
    within = (drawn - below) / (heights.gather(1, chosen) - below)
    return torch.where(mass > 0, chosen, -1).squeeze(1).numpy(), within.nan_to_num(0).clamp(0, 1).squeeze(1).numpy()


class GraphRelations(Relations):
    """Relations held as CSR: the propagated graph of small pools, or relations that are given."""

    def __init__(self, relations: sparse.csr_array) -> None:
        """Rows are brought to sum 1; rows without an entry stay 0.

        Raises:
            ValueError: a negative or not finite entry.
        """
        if not np.isfinite(relations.data).all() or relations.data.min(initial=0) < 0:
            raise ValueError("GraphRelations: relations must be finite and >= 0")
        mass = relations.sum(axis=1)
        scale = np.divide(1, mass, out=np.zeros_like(mass), where=mass > 0)
        self.relations = (sparse.diags_array(scale) @ relations).tocsr()
        self.images, self.reports = relations.shape

    def rows(self, image_indices: Int[np.ndarray, "images"]) -> Float[Tensor, "images reports"]:
        """Rows as they are held; all 0 for an image no walk reaches."""
        return torch.from_numpy(self.relations[image_indices].toarray())

    def times(self, values: Thin) -> Float[np.ndarray, "images cols"]:
        """Sparse product."""
        found = self.relations @ values
        return found.toarray() if sparse.issparse(found) else found

    def report_mass(self) -> Float[np.ndarray, "reports"]:
        """Column sums."""
        return self.relations.sum(axis=0)


class PropagatedRelations(Relations):
    """The propagated graph of pools of any size, never written down.

    Products are exact (`Propagation.times`), a report is drawn exactly by a walk, a block is estimated without bias
    from walks (`Walks`). An image no walk reaches has a row of zeros.
    """

    def __init__(self, propagation: Propagation) -> None:
        """Make the tables of the walks."""
        self.propagation = propagation
        self._images = np.flatnonzero(~propagation.paired_images)
        self._reports = np.flatnonzero(~propagation.paired_reports)
        self.images, self.reports = len(self._images), len(self._reports)
        self._walks = Walks(propagation, ~propagation.paired_reports)
        mass = self._walks.mass[self._images]
        self._scale = np.divide(1, mass, out=np.zeros_like(mass), where=mass > 0)
        place = np.full(propagation.seeds.shape[1], -1)
        place[self._reports] = np.arange(self.reports)
        self._place = np.append(place, -1)  # of a draw of -1, too

    def rows(self, image_indices: Int[np.ndarray, "images"]) -> Float[Tensor, "images reports"]:
        """Exact rows, as a product of the transpose with one column for each image."""
        rows = self.propagation.rows(self._images[image_indices])[:, self._reports]
        return torch.from_numpy(rows * self._scale[image_indices, None].astype(rows.dtype))

    def times(self, values: Thin) -> Float[np.ndarray, "images cols"]:
        """Exact product by Horner's scheme."""
        reports = self.propagation.seeds.shape[1]
        if sparse.issparse(values):
            spread = sparse.csr_array((np.ones(self.reports, values.dtype), (self._reports, np.arange(self.reports))))
            spread.resize(reports, self.reports)
            everywhere = spread @ values
        else:
            everywhere = np.zeros((reports, values.shape[1]), dtype=values.dtype)
            everywhere[self._reports] = values
        found = self.propagation.times(everywhere, self._images)
        found *= self._scale[:, None].astype(found.dtype)
        return found

    def report_mass(self) -> Float[np.ndarray, "reports"]:
        """Column sums: one column through the transpose."""
        images = np.zeros((self.propagation.seeds.shape[0], 1))
        images[self._images, 0] = self._scale
        return self.propagation.transposed.times(images, self._reports)[:, 0]

    def sample_reports(
        self, image_indices: Int[np.ndarray, "images"], rng: np.random.Generator
    ) -> Int[np.ndarray, "images"]:
        """One report for each image, drawn exactly by its row; -1 for an image without relations."""
        return self._place[self._walks.draw(self._images[image_indices], rng)]

    def block(
        self,
        image_indices: Int[np.ndarray, "images"],
        report_indices: Int[np.ndarray, "reports"],
        rng: np.random.Generator,
    ) -> Float[Tensor, "images reports"]:
        """Unbiased estimate of some images with some reports."""
        block = self._walks.block(self._images[image_indices], self._reports[report_indices], rng)
        return torch.from_numpy(block)


def graph_relations(propagation: Propagation) -> Relations:
    """The propagated relations of the unpaired block: held where they are at most `EXACT_ENTRIES`, else thin."""
    entries = int((~propagation.paired_images).sum()) * int((~propagation.paired_reports).sum())
    held = entries <= EXACT_ENTRIES
    return GraphRelations(propagation.unpaired_block()) if held else PropagatedRelations(propagation)


@dataclass
class AffinityRelations(Relations):
    """Relations from the cross-modal affinity, alone or times the propagated graph (E).

        log P[i, r] = graph_exponent * log(G[i, c] + floor / reports) + A[i, c] + v[c],   rows brought to sum 1

    `c` is the column of report r. Reports of the same set of observations have the same affinity, so they are one
    column, and `T[i, c]`, the sum over its reports, is all that is computed: images x sets. `G[i, c]` is the mean of
    the graph's relations of i with the reports of c. Of affinity alone this is exact. A product with the graph differs
    from report to report, and a root is no thin product: up to `EXACT_ENTRIES` images x reports each report is a column
    of its own, which is exact; above, the graph speaks for sets and not for single reports (docs/scale.md).

    `v` evens out how often a report is chosen, lest a few draw most images, by scaling towards equal column sums:

        v <- m * (v + log w - log c),   `sinkhorn_steps` times from v = 0

    with column sums `c` of P, their mean `w` over the reports with evidence, and `m` the `report_marginal`. 1 forces
    equal sums, which is right only where both pools have the same findings equally often; 0 leaves them free; between
    them this is unbalanced transport, which pulls without forcing: in the limit c = w exp(-v (1 - m) / m). A step is
    one pass over images x columns and leaves at most `m` of the distance to that limit (largest entry). An image the
    graph does not reach is related by its affinity alone; a report without evidence is never chosen.
    """

    affinity: CrossAffinity
    graph: Relations | None = None
    """of the same images and reports; None: affinity alone"""
    graph_exponent: float = 0.5
    report_marginal: float = 0.0
    """1 forces equal column sums, 0 ignores them"""
    sinkhorn_steps: int = 20
    """scaling steps; none are taken where `report_marginal` is 0"""
    block_size: int = 512
    """images of a block; results do not depend on it"""
    marginal_errors: list[float] = field(default_factory=list, init=False)
    """largest column sum over the wanted one, less 1, before each scaling step"""

    def __post_init__(self) -> None:
        self.images, self.reports = self.affinity.images, self.affinity.reports
        if self.graph is not None and (self.graph.images, self.graph.reports) != (self.images, self.reports):
            wanted = f"{self.images} images x {self.reports} reports like the affinity"
            found = self.graph.images, self.graph.reports
            raise ValueError(f"AffinityRelations: graph must be {wanted}, got {found}; take that of the unpaired block")
        if self.sinkhorn_steps < 0 or not 0 <= self.report_marginal <= 1 or self.block_size < 1:
            found = f"{self.sinkhorn_steps}, {self.report_marginal} and {self.block_size}"
            raise ValueError(
                "AffinityRelations: sinkhorn_steps must be >= 0, report_marginal in [0, 1], block_size >= 1, got "
                f"{found}"
            )
        single = self.graph is not None and self.images * self.reports <= EXACT_ENTRIES
        self.column = np.arange(self.reports) if single else self.affinity.sets()
        _, first, sizes = np.unique(self.column, return_index=True, return_counts=True)
        self._members, self._starts = np.argsort(self.column, kind="stable"), np.cumsum(sizes) - sizes
        self._known = torch.from_numpy(self.affinity.has_evidence[first]).to(self.affinity.log_odds.device)
        self._stated, self._sizes = self.affinity.columns(first), torch.from_numpy(sizes).to(self._known.device)
        self._graph = None
        if self.graph is not None:
            graph = torch.from_numpy(self.graph.times(self._mean_of_columns)).to(self.affinity.log_odds)
            self._graph = graph.add_(FLOOR / self.reports).log_().mul_(self.graph_exponent)
        self._scaling = self._sinkhorn()

    @cached_property
    def _mean_of_columns(self) -> Csr:
        """(reports, columns): 1 / size of the column a report is in."""
        shares = 1 / self._sizes.cpu().numpy()[self.column].astype(np.float32)
        return sparse.csr_array((shares, (np.arange(self.reports), self.column)))

    @property
    def report_scaling(self) -> Float[Tensor, "reports"]:
        """`v` of each report."""
        return self._scaling[torch.from_numpy(self.column)]

    def _slices(self) -> Iterator[slice]:
        return (slice(at, min(at + self.block_size, self.images)) for at in range(0, self.images, self.block_size))

    def _table(
        self, images: slice | Int[Tensor, "images"], scaling: Float[Tensor, "columns"]
    ) -> Float[Tensor, "images columns"]:
        """`T`: relations of some images with columns."""
        logits = self.affinity.log_odds[images] @ self._stated
        if self._graph is not None:
            logits += self._graph[images]
        logits += (scaling + self._sizes.log()).to(logits)
        return logits.masked_fill_(~self._known, -torch.inf).softmax(dim=1)

    def _sinkhorn(self) -> Float[Tensor, "columns"]:
        wanted = np.log(self.images / int(self.affinity.has_evidence.sum()))
        scaling = torch.zeros(len(self._known), dtype=torch.float64, device=self._known.device)
        for _ in range(self.sinkhorn_steps if self.report_marginal else 0):
            mass = torch.zeros_like(scaling)
            for images in self._slices():
                mass += self._table(images, scaling).sum(dim=0, dtype=torch.float64)
            log_mass = (mass / self._sizes).clamp(min=1e-30).log()  # a report out of reach of float32 comes nearer
            self.marginal_errors.append(float((log_mass[self._known] - wanted).exp().max()) - 1)
            scaling = torch.where(self._known, self.report_marginal * (scaling + wanted - log_mass), 0)
        return scaling

    def _of(self, image_indices: Int[np.ndarray, "images"]) -> Float[Tensor, "images columns"]:
        return self._table(torch.from_numpy(image_indices), self._scaling)

    def rows(self, image_indices: Int[np.ndarray, "images"]) -> Float[Tensor, "images reports"]:
        """Exact rows, which sum to 1."""
        return (self._of(image_indices) / self._sizes)[:, torch.from_numpy(self.column)]

    def times(self, values: Thin) -> Float[np.ndarray, "images cols"]:
        """`T` times the mean of `V` over each column, some images at a time."""
        means = self._mean_of_columns.T @ values
        means = torch.from_numpy(means.toarray() if sparse.issparse(means) else means).to(self.affinity.log_odds)
        return torch.cat([self._table(images, self._scaling) @ means for images in self._slices()]).cpu().numpy()

    def report_mass(self) -> Float[np.ndarray, "reports"]:
        """Column sums."""
        mass = sum(self._table(images, self._scaling).sum(dim=0, dtype=torch.float64) for images in self._slices())
        return (mass / self._sizes).cpu().numpy()[self.column]

    def sample_reports(
        self, image_indices: Int[np.ndarray, "images"], rng: np.random.Generator
    ) -> Int[np.ndarray, "images"]:
        """One report for each image: a column by `T`, then any report of that column."""
        column, within = _draw_columns(self._of(image_indices), rng)
        sizes = self._sizes.cpu().numpy()[column]
        return self._members[self._starts[column] + np.minimum((within * sizes).astype(np.int64), sizes - 1)]

    def block(
        self,
        image_indices: Int[np.ndarray, "images"],
        report_indices: Int[np.ndarray, "reports"],
        rng: np.random.Generator,
    ) -> Float[Tensor, "images reports"]:
        """Relations of some images with some reports."""
        return (self._of(image_indices) / self._sizes)[:, torch.from_numpy(self.column[report_indices])]


def combine_relations(
    config: GraphConfig, graph: Relations | None = None, affinity: CrossAffinity | None = None
) -> Relations:
    """Relations of `config.mode`.

    Args:
        config: mode, exponent, sharpness and report marginal.
        graph: propagated relations of the unpaired block (`graph_relations`); needed by both modes with a graph.
        affinity: needed by both modes with an affinity.

    Raises:
        ValueError: the mode needs what is not given.
    """
    if (graph is None and "graph" in config.mode) or (affinity is None and "affinity" in config.mode):
        found = f"graph {'given' if graph is not None else 'missing'}, affinity {'given' if affinity else 'missing'}"
        raise ValueError(f"combine_relations: mode {config.mode!r} needs each of its parts; {found}")
    if config.mode == "graph":
        return graph
    return AffinityRelations(
        affinity=affinity, graph=graph if "graph" in config.mode else None,
        graph_exponent=config.graph_exponent, report_marginal=config.report_marginal,
    )  # fmt: skip


def relation_quality(
    relations: Relations,
    hidden_pairs: Int[np.ndarray, "pairs 2"],
    image_findings: Bool[np.ndarray, "images findings"],
    report_findings: Bool[np.ndarray, "reports findings"],
) -> dict[str, Any]:
    """How good relations are, against a truth that training never sees.

    precision_at_k: share with the image's very set of findings among its k best related reports, over reached
    images; base_rate: that share for a random pair; commonest_rate: that share if every image got the commonest set
    of the reports, which a model that knows nothing can reach. label_auc: ROC AUC of the relation-weighted mean of
    report labels for the image's own label, mean over findings with both values; auc by finding. pair_lift: mean
    relation of a hidden true pair, times the reports (1 is chance); pair_recall_at_10: share of hidden pairs whose
    report is among the image's ten best. coverage: share of images with any relation. max_column_mass: the largest
    column sum over the mean one. effective_reports: mean of exp(entropy). What has no case to count is None.
    Beyond `MEASURED_ENTRIES` all but the column sums is of some images (`Relations.measured`).

    Args:
        relations: of the unpaired block.
        hidden_pairs: true (image, report) positions in that block; may be empty.
        image_findings: truth of the images.
        report_findings: truth of the reports.

    Raises:
        ValueError: tables that do not have a row for each image or report.
    """
    if (len(image_findings), len(report_findings)) != (relations.images, relations.reports):
        raise ValueError(
            f"relation_quality: findings of {relations.images} images and {relations.reports} reports expected, got "
            f"{len(image_findings)} and {len(report_findings)}"
        )
    sets = np.unique(np.concatenate([image_findings, report_findings]), axis=0, return_inverse=True)[1].ravel()
    image_sets, report_sets = torch.from_numpy(sets[: relations.images]), torch.from_numpy(sets[relations.images :])
    labels = torch.from_numpy(report_findings.astype(np.float32))
    true_reports = sparse.csr_array(
        (np.ones(len(hidden_pairs), bool), tuple(hidden_pairs.T)), shape=(relations.images, relations.reports)
    )
    reached, scores, same, effective, found, weight = [], [], [], [], [], []
    columns, measured = relations.report_mass(), relations.measured(MEASURED_ENTRIES)
    image_findings = image_findings[measured]
    for rows, block in relations.blocks(MEASURED_ENTRIES):
        block = block.cpu().float()
        has = block.sum(dim=1) > 0
        value, best = block.topk(min(10, relations.reports), dim=1)
        reached.append(has.numpy())
        scores.append((block @ labels).numpy())
        agrees = (report_sets[best] == image_sets[rows][:, None]).float()
        same.append(agrees.masked_fill(value == 0, torch.nan)[has].numpy())  # NaN: not related at all
        effective.append(torch.special.xlogy(block, block).sum(dim=1).neg().exp()[has].numpy())
        image, report = (torch.from_numpy(index.astype(np.int64)) for index in true_reports[rows].nonzero())
        weight.append(block[image, report].numpy())
        found.append(((best[image] == report[:, None]) & (value[image] > 0)).any(dim=1).float().numpy())
    from sklearn.metrics import roc_auc_score  # only measuring needs it

    covered, same = np.concatenate(reached), np.concatenate(same)
    table = zip(np.concatenate(scores).T, image_findings.T, strict=True)
    auc = [
        float(roc_auc_score(truth[covered], score[covered])) if 0 < truth[covered].sum() < covered.sum() else None
        for score, truth in table
    ]
    kinds = sets.max() + 1
    frequencies = [np.bincount(part, minlength=kinds) / len(part) for part in (image_sets, report_sets)]
    return {
        "precision_at_1": _mean(same[:, :1]),
        "precision_at_10": _mean(same),
        "base_rate": float(frequencies[0] @ frequencies[1]),
        "commonest_rate": float(frequencies[0][frequencies[1].argmax()]),
        "label_auc": _mean(np.array([value for value in auc if value is not None])),
        "auc_by_finding": auc,
        "pair_lift": _mean(np.concatenate(weight) * relations.reports),
        "pair_recall_at_10": _mean(np.concatenate(found)),
        "coverage": float(covered.mean()),
        "max_column_mass": float(columns.max() / columns.mean()) if columns.any() else None,
        "effective_reports": _mean(np.concatenate(effective)),
    }


def _mean(values: np.ndarray) -> float | None:
    return float(np.nanmean(values)) if values.size else None
