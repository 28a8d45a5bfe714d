"""Every method as one short function from a batch to named terms; the training loop weighs and adds them."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from lgdea_core import baselines
from lgdea_core.baselines import Terms
from lgdea_core.config import LossConfig
from lgdea_core.data.batches import Batch
from lgdea_core.encoders import ImageEmbeddings
from lgdea_core.losses import (
    consistency_loss,
    contrastive_loss,
    evidence_divergence,
    phrase_patch_scores,
    presence_loss,
    prototype_penalty,
    reconstruction_loss,
    region_sentence_loss,
    relation_contrastive_loss,
    sentence_contrast,
    soft_relation_divergence,
    tag_recognition_loss,
)
from lgdea_core.model import LGDEAModel
from lgdea_core.prototypes import report_evidence_distribution, usage_entropy
from lgdea_core.regions import pool_regions

RELATION_TERMS = ("evidence_unpaired", "evidence_alignment", "local_unpaired", "consistency")
"""Terms that use the relations: ramped in, for early relations are noise."""


def clip_terms(model: LGDEAModel, batch: Batch, teacher: LGDEAModel) -> Terms:
    """ConVIRT / CLIP: symmetric InfoNCE on the known pairs alone (Zhang et al. 2020; Radford et al. 2021)."""
    pairs = batch.pairs
    images = model.encode_images(batch.pixel_values[:pairs])
    reports = model.encode_texts(batch.report_tokens[:pairs], batch.report_mask[:pairs])
    return {"ita": _pair_loss(images.image_embeds, reports, batch, model.logit_scale)}


def gloria_terms(model: LGDEAModel, batch: Batch, teacher: LGDEAModel) -> Terms:
    """GLoRIA (Huang et al., ICCV 2021): global and local contrast on the known pairs, without evidence.

        m[i, r] = tau * log sum_{s in r} exp(attended_similarity[i, s] / tau)

    Simplified: sentences where GLoRIA has words, and one temperature for all methods where it has three.
    """
    pairs, temperature = batch.pairs, model.config.local_temperature
    images = model.encode_images(batch.pixel_values[:pairs])
    reports = model.encode_texts(batch.report_tokens[:pairs], batch.report_mask[:pairs])
    sentences = model.encode_texts(batch.sentence_tokens, batch.sentence_mask)
    local = sentence_contrast(sentences, images.patch_embeds, batch.sentence_membership, batch.same_report, temperature)
    return {"ita": _pair_loss(images.image_embeds, reports, batch, model.logit_scale), "local": local}


def asg_terms(model: LGDEAModel, batch: Batch, teacher: LGDEAModel) -> Terms:
    """ASG (Li et al., MICCAI 2024) on the known pairs: `ita` is its IRA, and the rest is `anatomy_terms`."""
    pairs = batch.pairs
    images = model.encode_images(batch.pixel_values[:pairs])
    reports = model.encode_texts(batch.report_tokens[:pairs], batch.report_mask[:pairs])
    ita = _pair_loss(images.image_embeds, reports, batch, model.logit_scale)
    return {"ita": ita} | anatomy_terms(model, images, reports, batch)


def anatomy_terms(model: LGDEAModel, images: ImageEmbeddings, reports: Float[Tensor, "_ dim"], batch: Batch) -> Terms:
    """What ASG adds to the contrast of pairs: regions with sentences, soft relations by tags, tags of the image.

    Sentences are encoded alone, as they are in evaluation; ASG pools the words of each from the encoded report.

    Args:
        model: whose tag decoder is there unless its term has weight 0.
        images: their first rows are the pairs'.
        reports: embeddings, likewise.
        batch: of a method that reads regions.
    """
    pairs, regions = batch.pairs, batch.regions
    pooled = pool_regions(images.patch_embeds, regions.boxes, regions.region_image)
    sentences = model.sentence_embeds(regions.sentence_tokens, regions.sentence_mask)[regions.sentence_text]
    same_image = regions.region_image.unsqueeze(1) == regions.sentence_image.unsqueeze(0)
    logits = model.logit_scale * images.image_embeds[:pairs] @ reports[:pairs].T
    terms = {
        "arsa": region_sentence_loss(pooled, sentences, regions.named, same_image, model.config.local_temperature),
        "erl": soft_relation_divergence(logits, regions.tag_relations),
    }
    if model.tag_decoder is not None:
        terms["irl"] = tag_recognition_loss(model.tag_decoder(images.patch_features[:pairs]), regions.tags)
    return terms


def lgdea_terms(model: LGDEAModel, batch: Batch, teacher: LGDEAModel) -> Terms:
    """LGDEA, every term of DESIGN's eq. 5, 9 and 15-18 that the batch has data for, and the extensions."""
    phrases = model.encode_texts(batch.phrase_tokens, batch.phrase_mask)
    reports = model.encode_texts(batch.report_tokens, batch.report_mask)
    assignments = model.assign_phrases(phrases)
    terms = {
        "reconstruction": reconstruction_loss(phrases, assignments, model.prototype_points),
        "prototype_penalty": prototype_penalty(model.prototypes, model.config.prototype_norm),
        "usage": -usage_entropy(assignments),
        "text": _text_loss(model, batch, phrases, reports),
    }
    if not len(batch.pixel_values):
        return terms
    images = model.encode_images(batch.pixel_values)
    lesions = model.lesion_tokens(images.patch_features)
    image_evidence = model.image_evidence(lesions)
    report_evidence = report_evidence_distribution(assignments, batch.membership)
    scores = phrase_patch_scores(phrases, images.patch_embeds, model.config.local_temperature)
    pairs = batch.pairs
    if pairs:
        terms["ita"] = _pair_loss(images.image_embeds[:pairs], reports[:pairs], batch, model.logit_scale)
        terms["evidence_paired"] = evidence_divergence(
            report_evidence[:pairs], image_evidence[:pairs], torch.ones_like(image_evidence[:pairs, 0])
        )
        terms["lesion"] = _lesion_loss(model, lesions[:pairs], phrases, batch)
        terms["local"] = _local_loss(model, scores[:pairs], batch.phrase_targets[:pairs], batch.localised)
        if batch.regions is not None:  # method "lgdea+asg"
            terms |= anatomy_terms(model, images, reports, batch)
    if batch.relations is not None:
        terms["evidence_unpaired"] = evidence_divergence(
            batch.expected_evidence, image_evidence[pairs:], batch.confidence
        )
        terms["evidence_alignment"] = relation_contrastive_loss(
            images.image_embeds[pairs:], reports[pairs:], batch.relations, model.logit_scale
        )
        terms["local_unpaired"] = _local_loss(model, scores[pairs:], batch.statement_posterior, batch.localised)
        terms["consistency"] = _teacher_loss(model, teacher, scores[pairs:], batch)
    return terms


METHOD_TERMS: dict[str, Callable[[LGDEAModel, Batch, LGDEAModel], Terms]] = {
    "clip": clip_terms,
    "gloria": gloria_terms,
    "mgca": baselines.mgca_terms,
    "medclip": baselines.medclip_terms,
    "biovil": baselines.biovil_terms,
    "prior": baselines.prior_terms,
    "medklip": baselines.medklip_terms,
    "carzero": baselines.carzero_terms,
    "asg": asg_terms,
    "lgdea": lgdea_terms,
    "lgdea+asg": lgdea_terms,
}


def total_loss(terms: Terms, weights: LossConfig, ramp: float) -> Float[Tensor, ""]:
    """Eq. 18: the weighted sum; terms that use the relations are also multiplied by `ramp`."""
    return sum(
        getattr(weights, name) * (ramp if name in RELATION_TERMS else 1.0) * value for name, value in terms.items()
    )


def _pair_loss(
    image_embeds: Float[Tensor, "pairs dim"],
    report_embeds: Float[Tensor, "pairs dim"],
    batch: Batch,
    logit_scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """L_ita (eq. 17): `R = I`, but for films of one study, which share their report."""
    return relation_contrastive_loss(image_embeds, report_embeds, batch.same_report, logit_scale)


def _text_loss(
    model: LGDEAModel, batch: Batch, phrases: Float[Tensor, "phrases dim"], reports: Float[Tensor, "reports dim"]
) -> Float[Tensor, ""]:
    """E: phrases against word-dropped phrases of the same statement, and reports against the mean of their phrases."""
    dropped = model.encode_texts(batch.phrase_tokens, batch.dropped_mask)
    between = relation_contrastive_loss(phrases, dropped, batch.same_statement, model.logit_scale)
    means = F.normalize(batch.membership @ phrases, dim=-1)
    return between + relation_contrastive_loss(reports, means, _same_evidence(batch.holds_statement), model.logit_scale)


def _same_evidence(holds: Float[Tensor, "reports phrases"]) -> Float[Tensor, "reports reports"]:
    """1 where two reports make the same of the batch's statements, and make any."""
    shared, counts = holds @ holds.T, holds.sum(dim=1)
    return ((shared == counts.unsqueeze(0)) & (shared == counts.unsqueeze(1)) & (counts > 0)).float()


def _lesion_loss(
    model: LGDEAModel, lesions: Float[Tensor, "pairs lesions dim"], phrases: Float[Tensor, "phrases dim"], batch: Batch
) -> Float[Tensor, ""]:
    """E: pooled lesion tokens against the pooled phrases of the pair's report, where it has phrases."""
    held = batch.membership[: batch.pairs]
    pooled_lesions = F.normalize(lesions.mean(dim=1), dim=-1)
    pooled_phrases = F.normalize(held @ phrases, dim=-1)
    relations = torch.diag_embed((held.sum(dim=1) > 0).float())
    return relation_contrastive_loss(pooled_lesions, pooled_phrases, relations, model.logit_scale)


def _local_loss(
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
    logits = (scores - model.config.presence_threshold) / temperature
    return 0.5 * (contrast + presence_loss(logits, relations, localised))


def _teacher_loss(
    model: LGDEAModel, teacher: LGDEAModel, scores: Float[Tensor, "unpaired phrases"], batch: Batch
) -> Float[Tensor, ""]:
    """E: phrase responses of the augmented unpaired images against the teacher's on the clean ones."""
    temperature = model.config.local_temperature
    with torch.no_grad():
        patches = teacher.encode_images(batch.clean_pixel_values).patch_embeds
        phrases = teacher.encode_texts(batch.phrase_tokens, batch.phrase_mask)
        target = phrase_patch_scores(phrases, patches, temperature)
    hidden = (batch.localised - 1) * 1e4  # "no finding" has no place in the image
    return consistency_loss(scores / temperature + hidden, target / temperature + hidden)
