"""MedKLIP (Wu et al., ICCV 2023; MediaBrain-SJTU/MedKLIP): statements as queries over patches, do they exist?

    existence = mean over (i, n) with y != -1 of BCE(sigmoid(decoder(phrase_n, [image_i, patches_i])), y[i, n])

y is 1 where the pair's report makes the statement, 0 where it denies the finding or sees it on the other side, and
-1 where it is silent.

Simplified: a query is a phrase of the batch, finding and place together, where MedKLIP asks for each of 75 entities
by a fixed description and contrasts the answer with names of places in a second term; its frozen ClinicalBERT is
the text tower after a warm-up of its own, phrases against their word-dropped copies (`text`, as in `lgdea`); the
image as a whole is one more place, without which the decoder starts slowly.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from lgdea_core.batch import Batch
from lgdea_core.config import Objective
from lgdea_core.decoders import DecoderMethod
from lgdea_core.method import Drawn, Terms, Weights, word_dropped_contrast
from lgdea_core.model import LGDEAModel


@dataclass(frozen=True, kw_only=True)
class MedKLIPConfig(Objective):
    """MedKLIP's own weights and the size of its decoder."""

    existence: float = 1.0
    """its only term on pairs"""
    text: float = 0.25
    """phrase against its word-dropped self, in the text warm-up"""
    decoder_layers: int = 2
    """layers of the query decoder (MedKLIP: 4 of 256 channels)"""


class ExistencePart(NamedTuple):
    """What MedKLIP reads of a batch beside images and phrases."""

    existence: Float[Tensor, "pairs phrases"]
    """1 where the pair's report makes the phrase's statement, 0 where it rules it out, -1 where it is silent"""


class MedKLIP(DecoderMethod):
    """Statements as queries over patches: do they exist?"""

    Config = MedKLIPConfig
    text_phase = True
    evidence = True

    def draw(self, drawn: Drawn) -> ExistencePart:
        """What the pairs' reports say of the batch's phrases."""
        return ExistencePart(torch.from_numpy(drawn.data.evidence.existence(drawn.pairs[:, 1], drawn.batch.phrases)))

    def terms(self, model: LGDEAModel, batch: Batch, teacher: LGDEAModel, weights: Weights) -> Terms:
        name = "existence" if batch.pairs else "text"
        if not weights[name]:
            return {}
        phrases = model.encode_texts(batch.phrase_tokens, batch.phrase_mask)
        if not batch.pairs:
            return {"text": word_dropped_contrast(model, batch, phrases)}
        images = model.encode_images(batch.pixel_values[: batch.pairs])
        # trained by this term, the text tower draws all phrases of no use yet to one point
        logits, _ = self.ask_images(model, phrases.detach(), images)
        return {"existence": existence_loss(logits, batch.own.existence)}


METHOD = MedKLIP()


def existence_loss(
    logits: Float[Tensor, "images phrases"], existence: Float[Tensor, "images phrases"]
) -> Float[Tensor, ""]:
    """Mean binary cross entropy over the known ones: `existence` is 1, 0, or -1 for unknown; 0 where none is known."""
    known = (existence >= 0).float()
    costs = F.binary_cross_entropy_with_logits(logits, existence.clamp(min=0), reduction="none")
    return (known * costs).sum() / known.sum().clamp(min=1)
