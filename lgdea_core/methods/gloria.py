"""GLoRIA (Huang et al., ICCV 2021): global and local contrast on the known pairs, without evidence.

    m[i, r] = tau * log sum_{s in r} exp(attended_similarity[i, s] / tau)

Simplified: sentences where GLoRIA has words, and one temperature for all methods where it has three.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from lgdea_core.batch import Batch, SentencePart, sentence_part
from lgdea_core.config import Objective
from lgdea_core.losses import attended_similarity, sentence_contrast
from lgdea_core.method import Drawn, Method, Terms, Weights, pair_term
from lgdea_core.model import LGDEAModel


@dataclass(frozen=True, kw_only=True)
class GLoRIAConfig(Objective):
    """GLoRIA's own weight."""

    local: float = 1.0
    """sentences with what they attend to"""


class GLoRIA(Method):
    """Reports are matched by their sentences, images by what these attend to."""

    Config = GLoRIAConfig

    def draw(self, drawn: Drawn) -> SentencePart:
        """Sentences of the pairs' reports."""
        return sentence_part(drawn.data, drawn.pairs[:, 1], drawn.rng)

    def terms(self, model: LGDEAModel, batch: Batch, teacher: LGDEAModel, weights: Weights) -> Terms:
        pairs = batch.pairs
        images = model.encode_images(batch.pixel_values[:pairs])
        reports = model.encode_texts(batch.report_tokens[:pairs], batch.report_mask[:pairs])
        terms = {}
        if weights["local"]:
            said = batch.own
            sentences = model.encode_texts(said.tokens, said.mask)
            patches, temperature = images.patch_embeds, model.config.local_temperature
            terms["local"] = sentence_contrast(sentences, patches, said.membership, batch.same_report, temperature)
        return pair_term(weights, images.image_embeds, reports, batch, model.logit_scale) | terms

    def trains_local(self, objective: GLoRIAConfig) -> bool:
        return objective.local > 0

    def respond(
        self, texts: Float[Tensor, "texts dim"], patches: Float[Tensor, "images patches dim"], temperature: float
    ) -> Float[Tensor, "images texts"]:
        """Cosine of a text with what it attends to, which the local loss contrasts."""
        return attended_similarity(texts, patches, temperature)


METHOD = GLoRIA()
