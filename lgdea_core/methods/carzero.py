"""CARZero (Lai et al., CVPR 2024; laihaoran/CARZero): similarity is a decoder's answer, contrasted both ways.

    a[i, r] = decoder(report_r, [image_i, patches_i]),  b[i, r] = decoder(image_i, [report_r, tokens_r])
    cross   = 1/2 InfoNCE(a) + 1/2 InfoNCE(b),  beside L_ita of the global embeddings

Simplified: reports as they are, where CARZero has a language model rewrite them as prompts; as many layers as
`decoder_layers`, and a head of one hidden layer where it has three. L_ita is ours and stands in for CARZero's
pretrained towers: towers that start from nothing give every query the same answer, which `cross` alone leaves late
or never.
"""

from dataclasses import dataclass

from lgdea_core.batch import Batch
from lgdea_core.config import Objective
from lgdea_core.decoders import DecoderMethod
from lgdea_core.losses import contrastive_loss
from lgdea_core.method import Terms, Weights, pair_term
from lgdea_core.model import LGDEAModel


@dataclass(frozen=True, kw_only=True)
class CARZeroConfig(Objective):
    """CARZero's own weight and the size of its decoder."""

    cross: float = 1.0
    """its only term"""
    decoder_layers: int = 2
    """layers of the query decoder (CARZero: 4 of 768 channels)"""


class CARZero(DecoderMethod):
    """Similarity is a decoder's answer, contrasted both ways."""

    Config = CARZeroConfig
    both_ways = True

    def terms(self, model: LGDEAModel, batch: Batch, teacher: LGDEAModel, weights: Weights) -> Terms:
        pairs, terms = batch.pairs, {}
        images = model.encode_images(batch.pixel_values[:pairs])
        mask = batch.report_mask[:pairs]
        reports = model.text_tower.with_tokens(batch.report_tokens[:pairs], mask)
        if weights["cross"]:
            from_images, _ = self.ask_images(model, reports.text_embeds, images)
            from_texts = self.ask_texts(model, images, reports, mask)
            losses = [contrastive_loss(logits, batch.same_report) for logits in (from_images, from_texts)]
            terms["cross"] = 0.5 * sum(losses)
        return terms | pair_term(weights, images.image_embeds, reports.text_embeds, batch, model.logit_scale)


METHOD = CARZero()
