"""Every loss as a function of tensors. Temperatures arrive as `logit_scale = 1 / temperature`."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

OUT_OF_REACH = -1e4
"""Logit of what must not compete: its share of a softmax is 0, its logarithm finite."""


def relation_contrastive_loss(
    image_embeds: Float[Tensor, "images dim"],
    report_embeds: Float[Tensor, "reports dim"],
    relations: Float[Tensor, "images reports"],
    logit_scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Contrast two sets of embeddings against soft relations `R` (LGDEA eq. 16, reconstruction; `R = I` is eq. 17).

        logits = s * V @ T.T
        loss   = 1/2 CE(R / rowsum(R), softmax(logits)) + 1/2 CE(R.T / colsum(R), softmax(logits.T))

    `R = I` is the CLIP loss. A row or column without any relation adds no term of its own but stays a negative for the
    others; a batch without any relation costs 0.

    Args:
        image_embeds: `V`, L2-normalised.
        report_embeds: `T`, L2-normalised.
        relations: `R >= 0`, not yet normalised; a target, so no gradient flows into it.
        logit_scale: `s = 1 / temperature`, the positive factor itself and not its log.

    Returns:
        Nats, averaged over the images, then over the reports, that have a relation.
    """
    return contrastive_loss(logit_scale * image_embeds @ report_embeds.T, relations)


def contrastive_loss(logits: Float[Tensor, "rows cols"], relations: Float[Tensor, "rows cols"]) -> Float[Tensor, ""]:
    """Both directions of cross entropy between `softmax(logits)` and the normalised rows and columns of `R`."""
    relations = relations.detach()  # a target
    return 0.5 * (_row_cross_entropy(logits, relations) + _row_cross_entropy(logits.T, relations.T))


def _row_cross_entropy(logits: Float[Tensor, "rows cols"], relations: Float[Tensor, "rows cols"]) -> Float[Tensor, ""]:
    mass = relations.sum(dim=1, keepdim=True)
    targets = relations / mass.clamp(min=torch.finfo(mass.dtype).tiny)  # rows sum to 1, or to 0
    per_row = -(targets * logits.log_softmax(dim=1)).sum(dim=1)
    return per_row.sum() / (mass > 0).sum().clamp(min=1)


def reconstruction_loss(
    phrase_embeds: Float[Tensor, "phrases dim"],
    assignments: Float[Tensor, "phrases prototypes"],
    points: Float[Tensor, "prototypes dim"],
) -> Float[Tensor, ""]:
    """Squared distance of a phrase from its prototypes' mean (LGDEA eq. 5, first term).

        L_rec = mean_n ||z_n - sum_k p(k|z_n) mu_k||^2

    Gradient flows to `z` and to `mu`. Alone it draws every phrase of a trainable tower to one point: it needs a term
    that keeps phrases apart (`LGDEAObjective.text`) or a frozen tower.
    """
    return (phrase_embeds - assignments @ points).square().sum(dim=1).mean()


def prototype_penalty(prototypes: Float[Tensor, "prototypes dim"], norm: str) -> Float[Tensor, ""]:
    """Second term of eq. 5, not yet times lambda_mu: `sum_k |mu_k|^2` ("free"), or `sum_k (|mu_k| - 1)^2` ("unit")."""
    lengths = prototypes.norm(dim=1)
    return (lengths - 1).square().sum() if norm == "unit" else lengths.square().sum()


def evidence_divergence(
    teacher: Float[Tensor, "n prototypes"], log_student: Float[Tensor, "n prototypes"], weights: Float[Tensor, "n"]
) -> Float[Tensor, ""]:
    """Mean weighted `KL(teacher || student)` in nats (LGDEA eq. 9 on pairs, eq. 15 under the relations).

        loss = sum_n w_n KL(teacher_n || student_n) / |{n: w_n > 0, teacher_n has evidence}|

    The weights are not brought to sum 1: twice the weights, twice the loss. The report teaches: no gradient flows into
    `teacher`. Two uniform distributions cost 0, so the sharpness of the assignments must be watched. A teacher row of
    zeros (no evidence) costs 0 and does not count; neither does weight 0.

    Args:
        teacher: evidence distributions; rows sum to 1, or to 0 without evidence.
        log_student: logarithms of the images' evidence distributions, finite. From logarithms the gradient of an entry
            is its teacher's share, however small the student's: of the quotient it would be unbounded.
        weights: `w >= 0`: 1 for pairs, an image's confidence under the relations.
    """
    teacher = teacher.detach()  # the report teaches
    divergence = (torch.xlogy(teacher, teacher) - teacher * log_student).sum(dim=1)
    counted = weights * (teacher.sum(dim=1) > 0)
    return (counted * divergence).sum() / (counted > 0).sum().clamp(min=1)


def phrase_patch_scores(
    phrase_embeds: Float[Tensor, "phrases dim"],
    patch_embeds: Float[Tensor, "images patches dim"],
    temperature: float,
) -> Float[Tensor, "images phrases"]:
    """How well an image's best patches fit a phrase: a smooth maximum of cosines (E).

        s(i, n) = tau log mean_p exp(z_n . f_ip / tau)

    Lies between the mean and the maximum of the cosines, hence in [-1, 1].
    """
    logits = torch.einsum("nd,ipd->inp", phrase_embeds / temperature, patch_embeds)
    return temperature * (logits.logsumexp(dim=2) - math.log(patch_embeds.shape[1]))


def presence_loss(
    logits: Float[Tensor, "images phrases"],
    probabilities: Float[Tensor, "images phrases"],
    weights: Float[Tensor, "phrases"],
) -> Float[Tensor, ""]:
    """Binary cross entropy of every image with every phrase, as in SigLIP (Zhai et al., ICCV 2023), soft targets (E).

        loss = sum_{i, n} w_n BCE(sigmoid(logits[i, n]), R[i, n]) / sum_{i, n} w_n R[i, n]

    Args:
        logits: of "the phrase is true of the image".
        probabilities: `R` in [0, 1]; a target, so no gradient flows into it.
        weights: `w`, 0 or 1; a phrase of weight 0 does not count.

    Returns:
        Nats for each expected positive; the sum itself where less than one is expected.
    """
    probabilities = probabilities.detach()  # a target
    costs = F.binary_cross_entropy_with_logits(logits, probabilities, reduction="none")
    return (weights * costs).sum() / (weights * probabilities).sum().clamp(min=1)


def attended_similarity(
    text_embeds: Float[Tensor, "sentences dim"],
    patch_embeds: Float[Tensor, "images patches dim"],
    temperature: float,
) -> Float[Tensor, "images sentences"]:
    """Cosine of each sentence with what it attends to in each image (GLoRIA, Huang et al. 2021, section 3.2).

        a[i, s, p] = softmax_p(z_s . f_ip / tau)
        m[i, s]    = cos(z_s, sum_p a[i, s, p] f_ip)

    Args:
        text_embeds: `z`, L2-normalised.
        patch_embeds: `f`, L2-normalised.
        temperature: `tau` of the attention.
    """
    similarity = torch.einsum("nd,ipd->inp", text_embeds, patch_embeds)
    attention = (similarity / temperature).softmax(dim=2)
    length = torch.einsum("inp,ipd->ind", attention, patch_embeds).norm(dim=2)
    return (attention * similarity).sum(dim=2) / length.clamp(min=1e-6)


def pooled_logits(
    logits: Float[Tensor, "images sentences"], membership: Float[Tensor, "reports sentences"]
) -> Float[Tensor, "images reports"]:
    """`log sum_{s in r} exp(logits[i, s])`: a report matches by its best sentences; far below all where it has none."""
    if not logits.shape[1]:
        return logits.new_full((len(logits), len(membership)), OUT_OF_REACH)
    inside = torch.where(membership > 0, 0.0, OUT_OF_REACH)
    return (logits.unsqueeze(1) + inside).logsumexp(dim=2)


def region_sentence_loss(
    region_embeds: Float[Tensor, "regions dim"],
    sentence_embeds: Float[Tensor, "sentences dim"],
    named: Float[Tensor, "regions sentences"],
    same_image: Bool[Tensor, "regions sentences"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Contrast regions and sentences within each image (ARSA of ASG's code).

        logits = r @ s.T / tau,  only pairs of one image compete
        loss   = 1/2 CE(N / rowsum(N), softmax(logits)) + 1/2 CE(N.T / colsum(N), softmax(logits.T))

    ASG lists a sentence once for each region it names and lets the copies compete; here it is one column with as many
    targets. With one region a sentence both are the same, up to the factor 1/2, which the weight carries.

    Args:
        region_embeds: `r`, pooled from L2-normalised patches.
        sentence_embeds: `s`, the mean of L2-normalised tokens.
        named: `N`, 1 where the sentence names the region of its own image; every row and column has one.
        same_image: True where both belong to one image.
        temperature: `tau`.
    """
    logits = region_embeds @ sentence_embeds.T / temperature
    return contrastive_loss(logits.masked_fill(~same_image, OUT_OF_REACH), named)


def soft_relation_divergence(
    logits: Float[Tensor, "images reports"], relations: Float[Tensor, "images reports"]
) -> Float[Tensor, ""]:
    """Symmetric divergence of the contrast from soft relations (ERL of ASG's code), in nats.

        T = R / rowsum(R),  P = softmax(logits)
        loss = 1/2 (KL(T || P) + KL(P || T)), mean over rows, then over both directions (columns of R, logits.T)

    Args:
        logits: those of the contrast of images and reports.
        relations: `R > 0`; a target, so no gradient flows into it.
    """
    relations = relations.detach()  # a target
    return 0.5 * (_symmetric_divergence(logits, relations) + _symmetric_divergence(logits.T, relations.T))


def _symmetric_divergence(
    logits: Float[Tensor, "rows cols"], relations: Float[Tensor, "rows cols"]
) -> Float[Tensor, ""]:
    """`KL(T || P) + KL(P || T) = sum (P - T) (log P - log T)`, halved, mean over rows."""
    targets = relations / relations.sum(dim=1, keepdim=True)
    log_found = logits.log_softmax(dim=1)
    return 0.5 * ((log_found.exp() - targets) * (log_found - targets.log())).sum(dim=1).mean()


def tag_recognition_loss(logits: Float[Tensor, "images tags"], tags: Float[Tensor, "images tags"]) -> Float[Tensor, ""]:
    """Binary cross entropy of an image's tags, mean over images and tags (IRL of ASG's code)."""
    return F.binary_cross_entropy_with_logits(logits, tags)


def sentence_contrast(
    sentence_embeds: Float[Tensor, "sentences dim"],
    patch_embeds: Float[Tensor, "pairs patches dim"],
    membership: Float[Tensor, "pairs sentences"],
    same_report: Float[Tensor, "pairs pairs"],
    temperature: float,
) -> Float[Tensor, ""]:
    """GLoRIA's local contrast of images with reports, each matched by its sentences.

        m[i, r] = tau * log sum_{s in r} exp(attended_similarity[i, s] / tau)

    A report without sentences is nobody's partner.
    """
    similarity = attended_similarity(sentence_embeds, patch_embeds, temperature)
    speaks = (membership.sum(dim=1) > 0).float()
    return contrastive_loss(pooled_logits(similarity / temperature, membership), same_report * speaks)


def consistency_loss(
    student_logits: Float[Tensor, "images phrases"],
    teacher_logits: Float[Tensor, "images phrases"],
    sharpening: float = 2.0,
) -> Float[Tensor, ""]:
    """Cross entropy of an image's phrase responses with its EMA teacher's, sharpened (E)."""
    targets = (sharpening * teacher_logits.detach()).softmax(dim=1)  # a target
    return -(targets * student_logits.log_softmax(dim=1)).sum(dim=1).mean()


def own_place_loss(
    logits: Float[Tensor, "items places places"], mask: Bool[Tensor, "items places"]
) -> Float[Tensor, ""]:
    """Both directions of cross entropy between place k and place k of the same item, among its real places.

    Mean over the places of an item, then over the items that have any; 0 where none has.
    """
    hidden = torch.where(mask, 0.0, OUT_OF_REACH)
    rows = (logits + hidden.unsqueeze(1)).log_softmax(dim=2).diagonal(dim1=1, dim2=2)
    columns = (logits + hidden.unsqueeze(2)).log_softmax(dim=1).diagonal(dim1=1, dim2=2)
    counts = mask.sum(dim=1)
    costs = torch.where(mask, -0.5 * (rows + columns), 0.0).sum(dim=1) / counts.clamp(min=1)
    return costs.sum() / (counts > 0).sum().clamp(min=1)
