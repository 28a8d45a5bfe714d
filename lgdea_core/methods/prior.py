"""PRIOR (Cheng et al., ICCV 2023; QtacierP/PRIOR): sentences recalled from a memory, aligned with patches.

    memory = mean |s - s'|,  s' = `recalled` of s
    ita, local, siam: CLIP's contrast, and `cross_alignment_losses` of patches and recalled sentences

Simplified: no reconstruction of masked images and of sentence prototypes (PRIOR's third stage), and all terms from
the start where it adds the memory in a second stage; the memory is the model's prototypes, recalled by softmax
without Gumbel noise; gates are sigmoids of cosines without projections of their own; a report's embedding is the
text tower's where PRIOR pools its recalled sentences; zero-shot classification is by the global score alone, where
PRIOR adds half of the mean gate.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lgdea_core.batch import Batch, SentencePart, sentence_part
from lgdea_core.config import Objective
from lgdea_core.losses import own_place_loss
from lgdea_core.method import Drawn, Method, Terms, Weights, pair_term
from lgdea_core.model import LGDEAConfig, LGDEAModel


@dataclass(frozen=True, kw_only=True)
class PRIORConfig(Objective):
    """PRIOR's own weights."""

    local: float = 1.0
    """sentences with what they attend to"""
    memory: float = 1.0
    """L1 distance of a sentence from what the memory recalls; PRIOR's 10, which it adds in a second stage, draws all
    sentences of an untrained text tower onto one point"""
    siam: float = 1.0
    """patches with what they attend to"""


class PRIOR(Method):
    """Sentences recalled from a memory, aligned with patches."""

    Config = PRIORConfig

    def modules(
        self, config: LGDEAConfig, objective: PRIORConfig, image_width: int, text_width: int
    ) -> dict[str, nn.Module]:
        """The bottleneck that keeps SimSiam (Chen & He, CVPR 2021) from collapsing."""
        dim = config.dim
        return {"predictor": nn.Sequential(nn.Linear(dim, dim // 2), nn.ReLU(), nn.Linear(dim // 2, dim))}

    def draw(self, drawn: Drawn) -> SentencePart:
        """Sentences of the pairs' reports."""
        return sentence_part(drawn.data, drawn.pairs[:, 1], drawn.rng)

    def terms(self, model: LGDEAModel, batch: Batch, teacher: LGDEAModel, weights: Weights) -> Terms:
        pairs, said = batch.pairs, batch.own
        images = model.encode_images(batch.pixel_values[:pairs])
        reports = model.encode_texts(batch.report_tokens[:pairs], batch.report_mask[:pairs])
        if not (weights["memory"] or weights["local"] or weights["siam"]):
            return pair_term(weights, images.image_embeds, reports, batch, model.logit_scale)
        sentences = model.encode_texts(said.tokens, said.mask)
        memory, aligned = recalled(model, sentences), {}
        if weights["local"] or weights["siam"]:
            temperature = model.config.local_temperature
            both = cross_alignment_losses(images.patch_embeds, memory, said.membership, model.predictor, temperature)
            aligned = {name: loss for name, loss in zip(("local", "siam"), both, strict=True) if weights[name]}
        terms = pair_term(weights, images.image_embeds, reports, batch, model.logit_scale)
        if weights["memory"]:
            terms["memory"] = (sentences - memory).abs().sum() / max(1, sentences.numel())
        return terms | aligned

    def trains_local(self, objective: PRIORConfig) -> bool:
        return objective.local > 0

    def tells_whether(self, objective: PRIORConfig) -> bool:
        return False

    def phrase_embeds(
        self, model: LGDEAModel, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts dim"]:
        """Phrases as the memory recalls them."""
        return recalled(model, model.encode_texts(input_ids, token_mask))


METHOD = PRIOR()


def recalled(model: LGDEAModel, sentence_embeds: Float[Tensor, "sentences dim"]) -> Float[Tensor, "sentences dim"]:
    """Sentences as patches meet them: `normalize(sum_k p(k|s) mu_k)`."""
    return F.normalize(model.assign_phrases(sentence_embeds) @ model.prototype_points, dim=-1)


def cross_alignment_losses(
    patch_embeds: Float[Tensor, "pairs patches dim"],
    sentence_embeds: Float[Tensor, "sentences dim"],
    membership: Float[Tensor, "pairs sentences"],
    predictor: torch.nn.Module,
    temperature: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """PRIOR's local alignment: sentences with what they attend to by contrast, patches by SimSiam, within a pair.

        g[s, p] = sigmoid(s . f_p / tau),  c_s = normalize(sum_p g f_p),  c_p = normalize(sum_{s of the pair} g s)
        local   = own_place_loss(c_s . s / tau) over the pair's sentences
        siam    = mean_p -1/2 (cos(h(f_p), c_p) + cos(h(c_p), f_p)), no gradient into the second of each

    A pair without sentences adds nothing to either.
    """
    gates = (torch.einsum("nd,ipd->inp", sentence_embeds, patch_embeds) / temperature).sigmoid()
    of_sentences = F.normalize(gates @ patch_embeds, dim=-1)
    local = own_place_loss(of_sentences @ sentence_embeds.T / temperature, membership > 0)
    own = (gates * membership.unsqueeze(2)).transpose(1, 2)
    of_patches = F.normalize(own @ sentence_embeds, dim=-1)
    forward = F.cosine_similarity(predictor(patch_embeds), of_patches.detach(), dim=2)  # SimSiam stops the gradient
    backward = F.cosine_similarity(predictor(of_patches), patch_embeds.detach(), dim=2)
    speaks = membership.sum(dim=1) > 0
    costs = torch.where(speaks, -0.5 * (forward + backward).mean(dim=1), 0.0)
    return local, costs.sum() / speaks.sum().clamp(min=1)
