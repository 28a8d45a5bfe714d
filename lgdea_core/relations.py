"""Relations of unpaired images with unpaired reports: the propagated graph, the cross-modal affinity, or both (E).

Never images x reports at once: the affinity comes in blocks of images against all reports, and Sinkhorn needs only its
scaling vector of the reports. All positions count within the unpaired block.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.optimize import brentq
from scipy.special import expit
from torch import Tensor

from lgdea_core.config import GraphConfig

FLOOR = 1e-4
"""share of a row that the graph spreads evenly over all reports before it is multiplied with the affinity"""
SHARE_BOUNDS = (1e-3, 1 - 1e-3)
"""bounds on the share of images that are taken to show an observation"""


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
        block_size: int = 512,
    ) -> None:
        """Calibrate the responses.

        Args:
            responses: `s`, finite; a target, so no gradient flows into them. Their device is that of all that follows.
            membership: reports x observations, 1 where the report states the observation.
            has_evidence: False for a report without evidence; one that all is normal has evidence, but no observation.
            sharpness: log odds for each standard deviation of a response.
            block_size: images of a block; results do not depend on it.

        Raises:
            ValueError: nothing to relate, tables that do not fit, or responses that are not finite.
        """
        if not len(responses) or block_size < 1 or not has_evidence.any():
            found = f"{len(responses)} images, block size {block_size}, {int(has_evidence.sum())} reports with evidence"
            raise ValueError(f"CrossAffinity: needs images, a block size and reports with evidence; got {found}")
        if membership.shape != (len(has_evidence), responses.shape[1]) or not responses.isfinite().all():
            raise ValueError(
                f"CrossAffinity: expected finite responses to {membership.shape[1]} observations and an entry of "
                f"has_evidence for {membership.shape[0]} reports, got shapes {tuple(responses.shape)} and "
                f"{has_evidence.shape}, {int((~responses.isfinite()).sum())} responses not finite"
            )
        self.images, self.reports, self.block_size = len(responses), len(has_evidence), block_size
        shares = membership[has_evidence].mean(axis=0)
        odds = calibrated_log_odds(responses.detach().double().cpu().numpy(), shares, sharpness)
        self.log_odds = torch.from_numpy(odds).to(responses)
        coo = membership.astype(np.float32).tocoo()
        stated = torch.sparse_coo_tensor(np.stack([coo.row, coo.col]), coo.data, coo.shape, check_invariants=True)
        self._membership = stated.to(responses)
        self.has_evidence = torch.from_numpy(has_evidence).to(responses.device)

    def slices(self) -> Iterator[slice]:
        """The blocks, in order."""
        return (slice(at, min(at + self.block_size, self.images)) for at in range(0, self.images, self.block_size))

    def block(self, rows: slice) -> Float[Tensor, "images reports"]:
        """Affinity of some images with all reports."""
        sums = torch.sparse.mm(self._membership, self.log_odds[rows].T).T
        return sums.masked_fill(~self.has_evidence, -torch.inf)


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

    evidence_distribution: Float[Tensor, "images prototypes"]
    """relation-weighted mean of the reports' distributions (eq. 15); rows sum to 1 or 0"""
    entropy: Float[Tensor, "images"]
    """of the relations, in nats; exp of it is the number of reports in play"""
    agreement: Float[Tensor, "images"]
    """|sum_r P[i, r] sqrt(q_r)|^2, in [0, 1]: 1 where all related reports hold the same evidence"""


class Relations(ABC):
    """Relations `R` of unpaired images with unpaired reports; a row sums to 1, or to 0 where nothing is known."""

    images: int
    reports: int
    block_size: int = 512

    @abstractmethod
    def rows(self, image_indices: Int[np.ndarray, "images"]) -> Float[Tensor, "images reports"]:
        """Row targets of some images."""

    def block(
        self, image_indices: Int[np.ndarray, "images"], report_indices: Int[np.ndarray, "reports"]
    ) -> Float[Tensor, "images reports"]:
        """Relations of some images with some reports, not normalised among these."""
        return self.rows(image_indices)[:, torch.from_numpy(report_indices)]

    def sample_reports(
        self, image_indices: Int[np.ndarray, "images"], rng: np.random.Generator
    ) -> Int[np.ndarray, "images"]:
        """One report for each image, drawn by its row; -1 for an image without relations."""
        heights = self.rows(image_indices).double().cumsum(dim=1).cpu()
        mass = heights[:, -1:]
        drawn = torch.from_numpy(rng.random(mass.shape)) * mass  # below the mass, so a report of positive weight
        chosen = torch.searchsorted(heights, drawn, right=True)
        return torch.where(mass > 0, chosen.clamp(max=self.reports - 1), -1).squeeze(1).numpy()

    def blocks(self) -> Iterator[tuple[slice, Float[Tensor, "images reports"]]]:
        """All rows, a block at a time."""
        for start in range(0, self.images, self.block_size):
            images = np.arange(start, min(start + self.block_size, self.images))
            yield slice(start, start + len(images)), self.rows(images)

    def expected_evidence(self, evidence_distribution: Float[Tensor, "reports prototypes"]) -> ReportChoice:
        """Evidence an image's related reports hold, and how sure the choice is (LGDEA eq. 15, reconstruction).

            Qbar[i] = sum_r P[i, r] Qbar_R[r]   over the reports r with evidence, brought to sum 1

        Args:
            evidence_distribution: `Qbar_R`, rows sum to 1; a row of NaN or zeros is a report without evidence.
        """
        known = (evidence_distribution > 0).any(dim=1) & evidence_distribution.isfinite().all(dim=1)
        evidence = torch.where(known[:, None], evidence_distribution, 0)
        parts = []
        for _, rows in self.blocks():
            rows = rows.to(evidence)
            entropy = -torch.special.xlogy(rows, rows).sum(dim=1)
            weights = rows * known
            weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
            agreement = (weights @ evidence.sqrt()).square().sum(dim=1)
            parts.append((weights @ evidence, entropy, agreement))
        return ReportChoice(*(torch.cat(part) for part in zip(*parts, strict=True)))


class GraphRelations(Relations):
    """Relations held as CSR: the propagated graph (the paper's form), or saved ones."""

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
        """Row targets; all 0 for an image no walk reaches."""
        return torch.from_numpy(self.relations[image_indices].toarray())


@dataclass
class AffinityRelations(Relations):
    """Relations from the cross-modal affinity, alone or times the propagated graph (E).

        log P = graph_exponent * log(P_graph + floor / reports) + A + v,   rows brought to sum 1

    `v` evens out how often a report is chosen, lest a few draw most images, by scaling towards equal column sums:

        v <- m * (v + log w - log c),   `sinkhorn_steps` times from v = 0

    with column sums `c` of P, their mean `w` over the reports with evidence, and `m` the `report_marginal`. 1 forces
    equal sums, which is right only where both pools have the same findings equally often; 0 leaves them free; between
    them this is unbalanced transport, which pulls without forcing: in the limit c = w exp(-v (1 - m) / m). A step is
    one pass over all blocks and leaves at most `m` of the distance to that limit (largest entry). An image the graph
    does not reach is related by its affinity alone; a report without evidence is never chosen.
    """

    affinity: CrossAffinity
    graph: sparse.csr_array | None = None
    """unpaired block, rows sum to 1 or 0; None: affinity alone"""
    graph_exponent: float = 0.5
    report_marginal: float = 0.0
    """1 forces equal column sums, 0 ignores them"""
    sinkhorn_steps: int = 20
    """scaling steps; none are taken where `report_marginal` is 0"""
    cache_bytes: int = 2**30
    """memory for log P; blocks beyond it are computed anew each time"""
    marginal_errors: list[float] = field(default_factory=list, init=False)
    """largest column sum over the wanted one, less 1, before each scaling step"""

    def __post_init__(self) -> None:
        self.images, self.reports = self.affinity.images, self.affinity.reports
        self.block_size = self.affinity.block_size
        if self.graph is not None and self.graph.shape != (self.images, self.reports):
            wanted = f"{self.images} images x {self.reports} reports like the affinity"
            raise ValueError(f"AffinityRelations: graph must be {wanted}, got {self.graph.shape}; take unpaired_block")
        if self.sinkhorn_steps < 0 or not 0 <= self.report_marginal <= 1:
            found = f"{self.sinkhorn_steps} and {self.report_marginal}"
            raise ValueError(f"AffinityRelations: sinkhorn_steps must be >= 0, report_marginal in [0, 1], got {found}")
        self._cache: dict[int, Tensor] = {}
        self._cached_bytes = 0
        self.report_scaling = self._sinkhorn()

    def _logits(self, rows: slice) -> Float[Tensor, "images reports"]:
        """log P without the scaling."""
        logits = self.affinity.block(rows)
        if self.graph is not None:
            graph = torch.from_numpy(self.graph[rows].toarray()).to(logits)
            logits = logits + self.graph_exponent * torch.log(graph + FLOOR / self.reports)
        return logits

    def _cached_logits(self, rows: slice) -> Float[Tensor, "images reports"]:
        """A whole block, from memory where it fits."""
        if rows.start in self._cache:
            return self._cache[rows.start]
        logits = self._logits(rows)
        if self._cached_bytes + logits.nbytes <= self.cache_bytes:
            self._cache[rows.start] = logits
            self._cached_bytes += logits.nbytes
        return logits

    def _sinkhorn(self) -> Float[Tensor, "reports"]:
        known = self.affinity.has_evidence
        wanted = np.log(self.images / int(known.sum()))
        scaling = torch.zeros(self.reports, dtype=torch.float64, device=known.device)
        for _ in range(self.sinkhorn_steps if self.report_marginal else 0):
            mass = torch.zeros_like(scaling)
            for rows in self.affinity.slices():
                logits = self._cached_logits(rows)
                mass += (logits + scaling.to(logits)).softmax(dim=1).sum(dim=0, dtype=torch.float64)
            log_mass = mass.clamp(min=1e-30).log()  # a report out of reach of float32 comes nearer step by step
            self.marginal_errors.append(float((log_mass[known] - wanted).exp().max()) - 1)
            scaling = torch.where(known, self.report_marginal * (scaling + wanted - log_mass), 0)
        return scaling

    def rows(self, image_indices: Int[np.ndarray, "images"]) -> Float[Tensor, "images reports"]:
        """Row targets, which sum to 1."""
        images, lines = np.unique(image_indices, return_inverse=True)
        logits = []
        for image in images.tolist():
            start = image - image % self.block_size
            cached = self._cache.get(start)
            logits.append(self._logits(slice(image, image + 1))[0] if cached is None else cached[image - start])
        return self._scaled(torch.stack(logits))[torch.from_numpy(lines)]

    def blocks(self) -> Iterator[tuple[slice, Float[Tensor, "images reports"]]]:
        """All rows, a block at a time."""
        for rows in self.affinity.slices():
            yield rows, self._scaled(self._cached_logits(rows))

    def _scaled(self, logits: Float[Tensor, "images reports"]) -> Float[Tensor, "images reports"]:
        return (logits + self.report_scaling.to(logits)).softmax(dim=1)


def combine_relations(
    config: GraphConfig, graph: sparse.csr_array | None = None, affinity: CrossAffinity | None = None
) -> Relations:
    """Relations of `config.mode`.

    Args:
        config: mode, exponent, sharpness and report marginal.
        graph: unpaired block of the propagation (`Propagation.unpaired_block`); needed by both modes with a graph.
        affinity: needed by both modes with an affinity.

    Raises:
        ValueError: the mode needs what is not given.
    """
    if (graph is None and "graph" in config.mode) or (affinity is None and "affinity" in config.mode):
        found = f"graph {'given' if graph is not None else 'missing'}, affinity {'given' if affinity else 'missing'}"
        raise ValueError(f"combine_relations: mode {config.mode!r} needs each of its parts; {found}")
    if affinity is None or config.mode == "graph":
        return GraphRelations(graph)
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
    columns, reached, scores, same, effective, found, weight = np.zeros(relations.reports), [], [], [], [], [], []
    for rows, block in relations.blocks():
        block = block.cpu().float()
        has = block.sum(dim=1) > 0
        value, best = block.topk(min(10, relations.reports), dim=1)
        columns += block.sum(dim=0, dtype=torch.float64).numpy()
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
