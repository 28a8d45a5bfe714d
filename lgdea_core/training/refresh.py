"""Refresh of evidence distributions, graphs and relations (Algorithm 1, reconstruction), step by step."""

import logging
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse

from lgdea_core.batch import TrainingData
from lgdea_core.config import GraphConfig, RunConfig
from lgdea_core.graph import (
    Propagation,
    evidence_descriptor,
    knn_affinity,
    propagate,
    seed_matrix,
    symmetric_normalize,
)
from lgdea_core.inference import encode_image_pool, encode_phrases, observation_embeddings, report_evidence
from lgdea_core.model import LGDEAModel
from lgdea_core.relations import AffinityRelations, CrossAffinity, Relations, combine_relations, graph_relations
from lgdea_core.training.monitors import graph_stats, hubness

logger = logging.getLogger("lgdea")

LARGEST_CONFIDENCE = 2.0
"""Bound on the weight of one unpaired image; the mean weight is 1."""


class EvidenceView(NamedTuple):
    """What the teacher sees of both pools."""

    image_evidence: Float[np.ndarray, "images prototypes"]
    image_embeds: Float[np.ndarray, "images dim"]
    report_evidence: Float[np.ndarray, "reports prototypes"]
    responses: Float[np.ndarray, "images observations"]
    """local response of each image to each observation (E); no columns where they were not asked for"""


class Graphs(NamedTuple):
    """Affinities within each modality."""

    image_affinity: sparse.csr_array
    report_affinity: sparse.csr_array


def view_evidence(
    teacher: LGDEAModel, data: TrainingData, *, responses: bool = True, progress: bool = False
) -> EvidenceView:
    """Evidence distributions of all images (eq. 7) and reports (eq. 8), embeddings and, for the affinity, responses."""
    phrases = encode_phrases(teacher, data)
    observations = observation_embeddings(data.evidence, phrases) if responses else None
    images = encode_image_pool(teacher, data.images, observations, progress=progress)
    reports = report_evidence(teacher, data.evidence, phrases)
    return EvidenceView(images.evidence, images.image_embeds, reports, images.responses)


def build_graphs(view: EvidenceView, config: GraphConfig) -> Graphs:
    """kNN graphs of the evidence distributions; of images also of their centred embeddings (eq. 11, 12)."""
    return Graphs(
        knn_affinity(evidence_descriptor(view.image_evidence, view.image_embeds), config.neighbours),
        knn_affinity(evidence_descriptor(view.report_evidence), config.neighbours),
    )


def spread_seeds(graphs: Graphs, data: TrainingData, config: GraphConfig) -> Propagation:
    """Propagated relations (eq. 10, 13, 14), as the parts they are made of."""
    return propagate(
        seed_matrix(data.seed_pairs, len(data.images), len(data.sentences)),
        symmetric_normalize(graphs.image_affinity, config.self_loop),
        symmetric_normalize(graphs.report_affinity, config.self_loop),
        alpha=config.alpha,
        tolerance=config.tolerance,
        max_steps=config.max_steps,
    )


def cross_affinity(view: EvidenceView, data: TrainingData, sharpness: float) -> CrossAffinity:
    """Affinity of unpaired images with unpaired reports from the local responses (E)."""
    places = data.evidence.localised > 0  # "no finding" has no place in the image, hence no local response
    held = data.evidence.report_observations[data.unpaired_reports]
    return CrossAffinity(
        torch.from_numpy(view.responses[data.unpaired_images][:, places]),
        held[:, places],
        np.diff(held.indptr) > 0,
        sharpness,
    )


@dataclass(frozen=True, kw_only=True)
class RelationState:
    """Relations between two refreshes, addressed by rows of the whole pools."""

    relations: Relations
    unpaired_images: Int[np.ndarray, "unpaired"]
    unpaired_reports: Int[np.ndarray, "unpaired_reports"]
    evidence: Float[np.ndarray, "unpaired prototypes"]
    weights: Float[np.ndarray, "unpaired"]
    posterior: Float[np.ndarray, "unpaired statements"] | None
    """None where each report is a statement of its own: it would be images x reports"""
    made: sparse.csr_array
    """(unpaired reports, statements), 1 where the report makes the statement"""
    report_mass: Float[np.ndarray, "unpaired_reports"]
    """column sums of the relations: how many images each report stands for"""
    stats: dict[str, Any]

    def _rows(self, images: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        return np.searchsorted(self.unpaired_images, images)

    def sample_reports(self, images: Int[np.ndarray, "n"], rng: np.random.Generator) -> Int[np.ndarray, "n"]:
        """A report for each image, drawn by the relations; any report for an image without relations."""
        drawn = self.relations.sample_reports(self._rows(images), rng)
        anyone = rng.integers(len(self.unpaired_reports), size=len(drawn))
        return self.unpaired_reports[np.where(drawn < 0, anyone, drawn)]

    def block(
        self, images: Int[np.ndarray, "n"], reports: Int[np.ndarray, "m"], rng: np.random.Generator
    ) -> Float[np.ndarray, "n m"]:
        """Relations of some unpaired images with some unpaired reports."""
        columns = np.searchsorted(self.unpaired_reports, reports)
        block = self.relations.block(self._rows(images), columns, rng)
        return block.cpu().numpy().astype(np.float32)

    def expected_evidence(self, images: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n prototypes"]:
        """Relation-weighted mean evidence of the reports (eq. 15); zeros where nothing is related."""
        return self.evidence[self._rows(images)]

    def confidence(self, images: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Weight of each image in eq. 15: agreement of its related reports, mean 1."""
        return self.weights[self._rows(images)]

    def statement_posterior(
        self, images: Int[np.ndarray, "n"], statements: Int[np.ndarray, "m"], rng: np.random.Generator
    ) -> Float[np.ndarray, "n m"]:
        """Share of an image's relations that go to reports making a statement, or nearly so (E)."""
        if self.posterior is not None:
            return self.posterior[np.ix_(self._rows(images), statements)]
        made = self.made[:, statements]
        reports = np.flatnonzero(np.diff(made.indptr))
        block = self.relations.block(self._rows(images), reports, rng).cpu().numpy()
        return (block @ made[reports]).astype(np.float32)


def refresh_relations(
    teacher: LGDEAModel, data: TrainingData, config: RunConfig, *, graph: Relations | None = None
) -> RelationState:
    """One refresh: evidence, graphs, propagation, affinity, relations, and what they say of unpaired images.

    Args:
        teacher: EMA teacher (E); its evidence distributions build the graphs.
        data: pools, evidence and known pairs.
        config: graph mode and constants.
        graph: of the unpaired block, by this teacher's propagation or from elsewhere, if it is already there.
    """
    graph_config, stats = config.graph, {}
    view = view_evidence(teacher, data, responses="affinity" in graph_config.mode)
    if graph is None and "graph" in graph_config.mode:
        graphs = build_graphs(view, graph_config)
        for name, affinity in graphs._asdict().items():  # image_affinity, report_affinity
            stats[name.replace("affinity", "hubness")] = hubness(affinity)["skewness"]
        propagation = spread_seeds(graphs, data, graph_config)
        graph = graph_relations(propagation)
        stats |= {"propagation_steps": propagation.steps, "propagation_converged": int(propagation.converged)}
    affinity = cross_affinity(view, data, graph_config.affinity_sharpness) if "affinity" in graph_config.mode else None
    relations = combine_relations(graph_config, graph, affinity)
    if isinstance(relations, AffinityRelations) and relations.marginal_errors:
        stats["marginal_error"] = relations.marginal_errors[-1]
    choice = relations.expected_evidence(view.report_evidence[data.unpaired_reports])
    agreement = choice.agreement
    reached = agreement > 0
    mean = agreement[reached].mean() if reached.any() else 1.0
    if graph is not None:
        stats["graph_reached_images"] = float((graph.times(np.ones((graph.reports, 1))) > 0).mean())
    report_mass = relations.report_mass()
    stats |= {
        "reached_images": float(reached.mean()),
        "max_column_mass": float(report_mass.max() / report_mass.mean()) if report_mass.any() else 0.0,
        "effective_reports": relations.effective_reports(),
        "agreement": float(agreement.mean()),
    }
    return RelationState(
        relations=relations,
        unpaired_images=data.unpaired_images,
        unpaired_reports=data.unpaired_reports,
        evidence=choice.evidence_distribution.astype(np.float32),
        weights=np.clip(agreement / mean, 0, LARGEST_CONFIDENCE).astype(np.float32),
        posterior=statement_posterior(relations, data, config.objective.same_observation),
        made=sparse.csr_array(data.evidence.report_statements)[data.unpaired_reports],
        report_mass=report_mass,
        stats=stats,
    )


def statement_posterior(
    relations: Relations, data: TrainingData, same_observation: float
) -> Float[np.ndarray, "unpaired statements"] | None:
    """What relations say of each statement: exact products with what the reports state (E).

        posterior[u, t] = max(sum_r P[u, r] [r makes t], s sum_r P[u, r] [r states t's observation]),
            s = `same_observation`

    None where each report is a statement of its own: a batch then takes what it needs of the relations themselves.
    """
    if data.phrase_report is not None:
        return None
    evidence = data.evidence
    made, stated = (
        sparse.csr_array(part)[data.unpaired_reports].astype(np.float32)
        for part in (evidence.report_statements, evidence.report_observations)
    )
    posterior, observed = (relations.times(part).astype(np.float32, copy=False) for part in (made, stated))
    for kind in range(observed.shape[1]):  # in place: with many images this is the largest table of a refresh
        own = evidence.statement_observation == kind
        posterior[:, own] = np.maximum(posterior[:, own], same_observation * observed[:, kind, None])
    return posterior


def describe(graphs: Graphs, propagation: Propagation) -> dict[str, Any]:
    """Counts and monitors of both graphs and of the propagation, for graph_stats.json."""
    return {
        "image_graph": graph_stats(graphs.image_affinity),
        "report_graph": graph_stats(graphs.report_affinity),
        "propagation": propagation.stats(),
    }
