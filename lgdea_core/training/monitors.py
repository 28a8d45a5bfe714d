"""What must not go wrong unseen: hubs, collapse of the evidence space, relations that say nothing or are wrong."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.sparse import csgraph

from lgdea_core.batch import Batch
from lgdea_core.inference import evaluating
from lgdea_core.losses import reconstruction_loss
from lgdea_core.model import LGDEAConfig, LGDEAModel
from lgdea_core.prototypes import assignment_sharpness, usage_entropy
from lgdea_core.relations import Relations, relation_quality

logger = logging.getLogger("lgdea")

FEWEST_PROTOTYPES = 0.5
"""Effective prototypes, exp(usage entropy), that a batch needs for each it could use: one for every statement it makes,
K at most. Trainings on the phantom use 0.9."""
FLAT_ASSIGNMENTS = 1.5
"""Sharpness times effective prototypes below which assignments count as uniform. Uniform ones over all prototypes, or
over some that lie on one point, have 1; a text tower and prototypes of random weights 2.5 to 3, trained ones 4 to 20.
Not asked of a batch with one or two statements, which can hardly have more than 1."""
SMALLEST_RECONSTRUCTION = 1e-3
"""Reconstruction loss below which phrases count as collapsed; trained ones have 0.02 and more."""
FLAT_RELATIONS = 0.8
"""Share of the related reports in play in a mean row above which relations count as flat: rows of independent uniform
noise have exp(1/2) / 2 = 0.82, those of the phantom's trainings 0.2 to 0.4."""
HUB_MASS = 10.0
"""Times the mean column, and images at least, from which the largest column counts as a hub; the phantom's trainings
have 1.8 to 3.4 times the mean. Where reports outnumber images the mean is below 1, and one image is no hub."""
TRUTH = ("precision_at_1", "label_auc", "pair_lift")
"""Values of `relation_quality` that are followed over training where the truth is known."""


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


@torch.no_grad()
def evidence_space(model: LGDEAModel, batch: Batch) -> dict[str, float]:
    """How the batch's phrases lie in the evidence space, as columns of the history; no gradient, no dropout.

    Returns:
        usage_entropy and reconstruction: as the terms of these names, trained or not. assignment_sharpness: mean
        largest membership of a phrase. prototype_norm: mean norm of the prototypes as they are. statements: how many
        different statements the phrases make.
    """
    with evaluating(model):
        phrases = model.encode_texts(batch.phrase_tokens, batch.phrase_mask)
        assignments = model.assign_phrases(phrases)
    return {
        "usage_entropy": usage_entropy(assignments).item(),
        "reconstruction": reconstruction_loss(phrases, assignments, model.prototype_points).item(),
        "assignment_sharpness": assignment_sharpness(assignments).item(),
        "prototype_norm": model.prototypes.norm(dim=1).mean().item(),
        "statements": round((1 / batch.same_statement.sum(dim=1)).sum().item()),
    }


def warn_of_collapse(row: Mapping[str, Any], config: LGDEAConfig) -> None:
    """Name each way in which the evidence space has collapsed, and what to change.

    Args:
        row: of the history: step, usage_entropy, reconstruction, and what `evidence_space` returns.
        config: of the model.
    """
    effective, sharpness, norm = math.exp(row["usage_entropy"]), row["assignment_sharpness"], row["prototype_norm"]
    found = []
    if effective < FEWEST_PROTOTYPES * min(config.prototypes, row["statements"]):
        found.append(
            f"prototype collapse: {effective:.1f} of {config.prototypes} prototypes take all phrases, of "
            f"{row['statements']} statements; raise LGDEAObjective.usage or text, or lower ModelConfig.text_temperature"
        )
    elif row["statements"] > 2 and sharpness * effective < FLAT_ASSIGNMENTS:
        found.append(
            f"uniform collapse: a phrase's largest membership is {sharpness:.3f}, hardly above 1 / {effective:.1f}, so "
            "evidence distributions agree (eq. 9) and say nothing; raise LGDEAObjective.text or reconstruction, or "
            "lower usage or ModelConfig.text_temperature"
        )
    if config.prototype_norm == "free" and norm < config.text_temperature:
        found.append(
            f"norm collapse: prototypes have a mean norm of {norm:.1e}, below the text temperature, so no phrase can "
            "tell them apart; lower LGDEAObjective.prototype_penalty, or set prototype_norm='unit'"
        )
    if row["reconstruction"] < SMALLEST_RECONSTRUCTION:
        found.append(
            f"phrase collapse: reconstruction loss {row['reconstruction']:.1e}, so all phrases lie on their prototypes "
            "and perhaps on one point; raise LGDEAObjective.text or freeze the text tower"
        )
    for message in found:
        logger.warning("step %d: %s", row["step"], message)


def warn_of_relations(report_mass: Float[np.ndarray, "reports"], effective_reports: float, step: int) -> None:
    """Name relations that say nothing, and hubs among the reports, and what to change.

    Args:
        report_mass: column sums of the relations; rows sum to 1, or to 0 where nothing is known.
        effective_reports: mean of exp(entropy) of the rows with mass.
        step: of the refresh.
    """
    reports, mean = int((report_mass > 0).sum()), float(report_mass.mean())
    if reports > 1 and effective_reports > FLAT_RELATIONS * reports:
        logger.warning(
            "step %d: flat relations: an image relates to %.0f of %d reports alike, so their mean says nothing of it; "
            "lower GraphConfig.alpha or neighbours, raise graph_exponent or affinity_sharpness, or add pair_steps",
            step, effective_reports, reports,
        )  # fmt: skip
    if report_mass.max() > HUB_MASS * max(1.0, mean):
        logger.warning(
            "step %d: hub: one report stands for %.0f images, the mean one for %.1f; raise GraphConfig.report_marginal "
            "(modes with an affinity), lower alpha, or look at the hubness of the graphs",
            step, report_mass.max(), mean,
        )  # fmt: skip


def truth_monitor(
    hidden_pairs: Int[np.ndarray, "pairs 2"],
    image_findings: Bool[np.ndarray, "images findings"],
    report_findings: Bool[np.ndarray, "reports findings"],
) -> Callable[[Relations], dict[str, float]] | None:
    """A measure of relations against the hidden truth for `loop.train(after_refresh=...)`.

    Args:
        hidden_pairs: as `relation_quality`, like the others; see `inputs.hidden_truth`.
        image_findings: truth of the images.
        report_findings: truth of the reports.

    Returns:
        From relations to columns `relation_<name>` of the history, for the names in `TRUTH` that have a case to count;
        None where no image or no report has a finding, for then there is nothing to measure against.
    """
    if not (image_findings.any() and report_findings.any()):
        return None

    def measure(relations: Relations) -> dict[str, float]:
        quality = relation_quality(relations, hidden_pairs, image_findings, report_findings)
        return {f"relation_{name}": quality[name] for name in TRUTH if quality[name] is not None}

    return measure
