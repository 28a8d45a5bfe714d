"""MGCA (Wang et al., NeurIPS 2022; HKU-MedAI/MGCA): instances, tokens with patches, and prototypes.

ita is CLIP's contrast; token is `token_alignment_loss`; swap predicts one side's prototype code from the other:

    swap = 1/2 CE(sinkhorn(v . mu), softmax(t . mu / tau)) + 1/2 CE(sinkhorn(t . mu), softmax(v . mu / tau))

Simplified: tokens are word pieces and weigh alike, as do patches, where MGCA joins them to words and weighs these
and a ViT's patches by the last layer's attention; tokens share the head of whole texts, where MGCA has one for
each; as many prototypes as the model has, where MGCA has 500, not frozen in the first epoch.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from lgdea_core.batch import Batch
from lgdea_core.config import Objective
from lgdea_core.losses import OUT_OF_REACH, own_place_loss
from lgdea_core.method import Method, Terms, Weights, pair_term
from lgdea_core.model import LGDEAModel

SINKHORN_EPSILON = 0.05
"""Entropy of MGCA's prototype codes."""
SINKHORN_STEPS = 3
"""Scaling steps of MGCA's prototype codes."""
SWAP_TEMPERATURE = 0.2
"""Temperature of MGCA's prototype predictions."""


@dataclass(frozen=True, kw_only=True)
class MGCAConfig(Objective):
    """MGCA's own weights."""

    token: float = 0.35
    """token-wise alignment; MGCA's 0.7 beside an instance term that sums what we average, hence half of it"""
    swap: float = 0.25
    """prototype alignment; half of MGCA's 0.5 for the same reason"""


class MGCA(Method):
    """Instances, tokens with patches, and prototypes."""

    Config = MGCAConfig

    def terms(self, model: LGDEAModel, batch: Batch, teacher: LGDEAModel, weights: Weights) -> Terms:
        pairs = batch.pairs
        images = model.encode_images(batch.pixel_values[:pairs])
        mask = batch.report_mask[:pairs]
        reports = model.text_tower.with_tokens(batch.report_tokens[:pairs], mask)
        points = model.prototype_points
        terms = pair_term(weights, images.image_embeds, reports.text_embeds, batch, model.logit_scale)
        if weights["token"]:
            patches, temperature = images.patch_embeds, model.config.local_temperature
            terms["token"] = token_alignment_loss(reports.token_embeds, mask, patches, temperature)
        if weights["swap"]:
            terms["swap"] = swapped_prediction_loss(images.image_embeds @ points.T, reports.text_embeds @ points.T)
        return terms

    def trains_local(self, objective: MGCAConfig) -> bool:
        return objective.token > 0

    def tells_whether(self, objective: MGCAConfig) -> bool:
        return False


METHOD = MGCA()


def token_alignment_loss(
    token_embeds: Float[Tensor, "pairs tokens dim"],
    token_mask: Bool[Tensor, "pairs tokens"],
    patch_embeds: Float[Tensor, "pairs patches dim"],
    temperature: float,
) -> Float[Tensor, ""]:
    """MGCA's token-wise alignment: tokens with what they attend to in their own image, and patches the same.

        o_t = normalize(sum_p softmax_p(t . f_p / tau) f_p),  o_p = normalize(sum_t softmax_t(f_p . t / tau) t)
        loss = own_place_loss(t . o_t / tau) + own_place_loss(f_p . o_p / tau)

    Only tokens, and only patches, of one pair compete.
    """
    similarity = torch.einsum("itd,ipd->itp", token_embeds, patch_embeds) / temperature
    of_tokens = F.normalize(similarity.softmax(dim=2) @ patch_embeds, dim=-1)
    hidden = torch.where(token_mask, 0.0, OUT_OF_REACH).unsqueeze(2)
    of_patches = F.normalize((similarity + hidden).softmax(dim=1).transpose(1, 2) @ token_embeds, dim=-1)
    tokens = token_embeds @ of_tokens.transpose(1, 2) / temperature
    patches = patch_embeds @ of_patches.transpose(1, 2) / temperature
    every = torch.ones_like(patches[:, :, 0], dtype=torch.bool)
    return own_place_loss(tokens, token_mask) + own_place_loss(patches, every)


@torch.no_grad()
def sinkhorn(similarity: Float[Tensor, "n prototypes"]) -> Float[Tensor, "n prototypes"]:
    """Codes that use all prototypes alike (SwAV, Caron et al. 2020): rows sum to 1, columns nearly to n / K."""
    if not len(similarity):
        return similarity
    codes = ((similarity - similarity.max()) / SINKHORN_EPSILON).exp()
    for _ in range(SINKHORN_STEPS):
        codes = codes / codes.sum(dim=0, keepdim=True).clamp(min=torch.finfo(codes.dtype).tiny)
        codes = codes / codes.sum(dim=1, keepdim=True).clamp(min=torch.finfo(codes.dtype).tiny)
    return codes


def swapped_prediction_loss(
    images: Float[Tensor, "pairs prototypes"], reports: Float[Tensor, "pairs prototypes"]
) -> Float[Tensor, ""]:
    """MGCA's prototype alignment from cosines with the prototypes: each side predicts the other's `sinkhorn` code."""
    of_images = (sinkhorn(images) * (reports / SWAP_TEMPERATURE).log_softmax(dim=1)).sum()
    of_reports = (sinkhorn(reports) * (images / SWAP_TEMPERATURE).log_softmax(dim=1)).sum()
    return -0.5 * (of_images + of_reports) / max(1, len(images))
