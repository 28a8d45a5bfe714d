"""LGDEA (Yan et al., arXiv 2602.07540): evidence phrases, lesion cues, prototypes, and relations of unpaired data.

Every term of eq. 5, 9 and 15-18 that a batch has data for, and our extensions (E), each with a weight of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from lgdea_core.batch import Batch, dense
from lgdea_core.config import PRESETS as SIZES
from lgdea_core.config import Objective, RunConfig
from lgdea_core.encoders import ImageEmbeddings
from lgdea_core.losses import (
    consistency_loss,
    contrastive_loss,
    evidence_divergence,
    phrase_patch_scores,
    presence_loss,
    prototype_penalty,
    reconstruction_loss,
    relation_contrastive_loss,
)
from lgdea_core.method import Drawn, Method, Terms, Weights, mean_phrases, pair_term, word_dropped_contrast
from lgdea_core.model import LGDEAModel
from lgdea_core.prototypes import report_evidence_distribution, usage_entropy


@dataclass(frozen=True, kw_only=True)
class LGDEAObjective(Objective):
    """Weights and constants of LGDEA; 0 leaves a term out."""

    reconstruction: float = 1.0
    """L_rec (eq. 5)"""
    prototype_penalty: float = 0.01
    """lambda_mu of eq. 5"""
    usage: float = 0.2
    """weight of the usage entropy that keeps all prototypes in use (R)"""
    evidence_paired: float = 1.0
    """L_evid_p (eq. 9)"""
    evidence_unpaired: float = 2.0
    """L_evid_u (eq. 15)"""
    evidence_alignment: float = 2.0
    """L_evi_align (eq. 16)"""
    local: float = 1.0
    """E: phrases with patches, on pairs"""
    local_unpaired: float = 2.0
    """E: the same on unpaired images, targets from the relations"""
    same_observation: float = 0.3
    """E: target of a phrase for an image whose report states the same observation elsewhere (the exact one has 1)"""
    lesion: float = 0.5
    """E: contrast of pooled lesion tokens with pooled phrases of a pair"""
    text: float = 0.25
    """E: phrase against its word-dropped self, and report against its phrases, on all reports"""
    consistency: float = 1.0
    """E: unpaired image's phrase responses against the EMA teacher's"""
    presence_threshold: float = 0.6
    """E: phrase-to-patch score at which a phrase is as likely true of an image as not"""


WITHOUT_EXTENSIONS = {"local": 0.0, "local_unpaired": 0.0, "lesion": 0.0, "text": 0.0, "consistency": 0.0}
"""Weights that leave the terms which the paper names."""


def presets_of(objective: type[LGDEAObjective]) -> Mapping[str, Mapping[str, Any]]:
    """What replaces parts of presets. `paper` has no text phase: the paper's terms hold no contrast of texts, and
    reconstruction and usage alone would draw phrases to one point."""
    train = replace(SIZES["paper"]["train"], text_steps=0, pair_steps=22_000)
    return {"paper": {"objective": objective(**WITHOUT_EXTENSIONS), "train": train}}


class EvidencePart(NamedTuple):
    """What LGDEA reads of a batch beside images, reports and phrases."""

    holds_statement: Float[Tensor, "reports phrases"]
    """1 where the report makes the phrase's statement in whatever words"""
    phrase_targets: Float[Tensor, "reports phrases"]
    """1 there too, and `same_observation` where the report states the phrase's observation elsewhere"""
    localised: Float[Tensor, "phrases"]
    """0 for "no finding", which has no place in the image"""
    unpaired: "UnpairedPart | None"
    """only under relations"""


class UnpairedPart(NamedTuple):
    """What the relations say of the batch's unpaired images."""

    relations: Float[Tensor, "unpaired unpaired_reports"]
    """block of the relations: the unpaired images against the batch's reports beyond the pairs; estimated in large
    pools under mode "graph" (`walks.Walks`)"""
    expected_evidence: Float[Tensor, "unpaired prototypes"]
    confidence: Float[Tensor, "unpaired"]
    statement_posterior: Float[Tensor, "unpaired phrases"]


class LGDEA(Method):
    """Stage 1: text warm-up on all reports, then pairs. Stage 2: all terms, under relations that are remade."""

    Config = LGDEAObjective
    presets = presets_of(LGDEAObjective)
    text_phase = True
    relations = True
    evidence = True
    ramped = ("evidence_unpaired", "evidence_alignment", "local_unpaired", "consistency")

    def check(self, config: RunConfig) -> None:
        if "affinity" in config.graph.mode and not config.objective.local:
            raise ValueError(
                f"mode {config.graph.mode!r} reads the local head, which local=0 does not train; use graph"
            )

    def draw(self, drawn: Drawn) -> EvidencePart:
        """Targets of phrases, and under relations what these say of the unpaired images."""
        evidence, relations = drawn.data.evidence, drawn.relations
        statements = evidence.phrase_statement[drawn.batch.phrases]
        kinds = evidence.statement_observation[statements]
        holds = dense(evidence.report_statements[drawn.reports][:, statements])
        elsewhere = dense(evidence.report_observations[drawn.reports][:, kinds])
        targets = torch.maximum(holds, drawn.config.objective.same_observation * elsewhere)
        unpaired = None
        if relations is not None:
            images = drawn.unpaired
            unpaired = UnpairedPart(
                relations=torch.from_numpy(relations.block(images, drawn.reports[len(drawn.pairs) :], drawn.rng)),
                expected_evidence=torch.from_numpy(relations.expected_evidence(images)),
                confidence=torch.from_numpy(relations.confidence(images)),
                statement_posterior=torch.from_numpy(relations.statement_posterior(images, statements, drawn.rng)),
            )
        return EvidencePart(holds, targets, torch.from_numpy(evidence.localised[kinds]), unpaired)

    def terms(self, model: LGDEAModel, batch: Batch, teacher: LGDEAModel, weights: Weights) -> Terms:
        phrases = model.encode_texts(batch.phrase_tokens, batch.phrase_mask)
        reports = model.encode_texts(batch.report_tokens, batch.report_mask)
        assignments, terms, part = model.assign_phrases(phrases), {}, self.evidence_part(batch)
        if weights["reconstruction"]:
            terms["reconstruction"] = reconstruction_loss(phrases, assignments, model.prototype_points)
        if weights["prototype_penalty"]:
            terms["prototype_penalty"] = prototype_penalty(model.prototypes, model.config.prototype_norm)
        if weights["usage"]:
            terms["usage"] = -usage_entropy(assignments)
        if weights["text"]:
            terms["text"] = text_loss(model, batch, part, phrases, reports)
        if not len(batch.pixel_values):
            return terms
        images, pairs, unpaired = model.encode_images(batch.pixel_values), batch.pairs, part.unpaired
        if weights["evidence_paired"] or weights["evidence_unpaired"] or weights["lesion"]:
            lesions = model.lesion_tokens(images.patch_features)
            image_evidence = model.log_image_evidence(lesions)
            report_evidence = report_evidence_distribution(assignments, batch.membership)
        if weights["local"] or weights["local_unpaired"] or weights["consistency"]:
            scores = phrase_patch_scores(phrases, images.patch_embeds, model.config.local_temperature)
        if pairs:
            terms |= pair_term(weights, images.image_embeds[:pairs], reports[:pairs], batch, model.logit_scale)
            if weights["evidence_paired"]:
                every = torch.ones_like(image_evidence[:pairs, 0])
                terms["evidence_paired"] = evidence_divergence(report_evidence[:pairs], image_evidence[:pairs], every)
            if weights["lesion"]:
                terms["lesion"] = lesion_loss(model, lesions[:pairs], phrases, batch)
            if weights["local"]:
                terms["local"] = local_loss(model, scores[:pairs], part.phrase_targets[:pairs], part.localised)
            terms |= self.beside(model, images, reports, batch, weights)
        if unpaired is not None:
            if weights["evidence_unpaired"]:
                terms["evidence_unpaired"] = evidence_divergence(
                    unpaired.expected_evidence, image_evidence[pairs:], unpaired.confidence
                )
            if weights["evidence_alignment"]:
                terms["evidence_alignment"] = relation_contrastive_loss(
                    images.image_embeds[pairs:], reports[pairs:], unpaired.relations, model.logit_scale
                )
            if weights["local_unpaired"]:
                posterior = unpaired.statement_posterior
                terms["local_unpaired"] = local_loss(model, scores[pairs:], posterior, part.localised)
            if weights["consistency"]:
                terms["consistency"] = teacher_loss(model, teacher, scores[pairs:], batch, part)
        return terms

    def evidence_part(self, batch: Batch) -> EvidencePart:
        """LGDEA's part of a batch."""
        return batch.own

    def beside(
        self,
        model: LGDEAModel,
        images: ImageEmbeddings,
        reports: Float[Tensor, "reports dim"],
        batch: Batch,
        weights: Weights,
    ) -> Terms:
        """Terms on pairs of a method that is combined with this one."""
        return {}

    def trains_local(self, objective: Any) -> bool:
        return objective.local > 0

    def trains_evidence(self, objective: Any) -> bool:
        return objective.evidence_paired > 0


METHOD = LGDEA()


def text_loss(
    model: LGDEAModel,
    batch: Batch,
    part: EvidencePart,
    phrases: Float[Tensor, "phrases dim"],
    reports: Float[Tensor, "reports dim"],
) -> Float[Tensor, ""]:
    """E: phrases against word-dropped phrases of the same statement, and reports against the mean of their phrases."""
    between = word_dropped_contrast(model, batch, phrases)
    means = mean_phrases(batch.membership, phrases)
    return between + relation_contrastive_loss(reports, means, same_evidence(part.holds_statement), model.logit_scale)


def same_evidence(holds: Float[Tensor, "reports phrases"]) -> Float[Tensor, "reports reports"]:
    """1 where two reports make the same of the batch's statements, and make any."""
    shared, counts = holds @ holds.T, holds.sum(dim=1)
    return ((shared == counts.unsqueeze(0)) & (shared == counts.unsqueeze(1)) & (counts > 0)).float()


def lesion_loss(
    model: LGDEAModel, lesions: Float[Tensor, "pairs lesions dim"], phrases: Float[Tensor, "phrases dim"], batch: Batch
) -> Float[Tensor, ""]:
    """E: pooled lesion tokens against the pooled phrases of the pair's report, where it has phrases.

    Images of one study share their report and are no negatives of each other, as in `ita`.
    """
    held = batch.membership[: batch.pairs]
    pooled_lesions = F.normalize(lesions.mean(dim=1), dim=-1)
    pooled_phrases = mean_phrases(held, phrases)
    relations = batch.same_report * (held.sum(dim=1) > 0).float()
    return relation_contrastive_loss(pooled_lesions, pooled_phrases, relations, model.logit_scale)


def local_loss(
    model: LGDEAModel,
    scores: Float[Tensor, "images phrases"],
    relations: Float[Tensor, "images phrases"],
    localised: Float[Tensor, "phrases"],
) -> Float[Tensor, ""]:
    """E: half phrase-to-patch contrast, multi-positive: every image of which the phrase is true; half presence.

    The contrast ranks, the presence says where 0 lies, which a similarity map needs.
    """
    temperature = model.config.local_temperature
    contrast = contrastive_loss(scores / temperature, relations * localised)
    logits = (scores - model.objective.presence_threshold) / temperature
    return 0.5 * (contrast + presence_loss(logits, relations, localised))


def teacher_loss(
    model: LGDEAModel, teacher: LGDEAModel, scores: Float[Tensor, "unpaired phrases"], batch: Batch, part: EvidencePart
) -> Float[Tensor, ""]:
    """E: phrase responses of the augmented unpaired images against the teacher's on the clean ones."""
    temperature = model.config.local_temperature
    with torch.no_grad():
        patches = teacher.encode_crops(batch.unpaired_crops).patch_embeds
        phrases = teacher.encode_texts(batch.phrase_tokens, batch.phrase_mask)
        target = phrase_patch_scores(phrases, patches, temperature)
    hidden = (part.localised - 1) * 1e4  # "no finding" has no place in the image
    return consistency_loss(scores / temperature + hidden, target / temperature + hidden)
