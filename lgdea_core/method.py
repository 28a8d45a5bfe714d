"""What a method is: one object, in one file of `methods/`, that holds everything in which it differs.

Loop, evaluation and grounding ask the object and do not know which one it is. `METHODS` in `config.py` is their table.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lgdea_core.batch import Batch, RelationTargets, TrainingData
from lgdea_core.config import Objective, RunConfig
from lgdea_core.encoders import ImageEmbeddings
from lgdea_core.losses import phrase_patch_scores, relation_contrastive_loss
from lgdea_core.model import LGDEAConfig, LGDEAModel, LGDEAProcessor

Terms = dict[str, Float[Tensor, ""]]
Weights = Mapping[str, float]


class Drawn(NamedTuple):
    """What was drawn for one step, from which a method makes its own part of the batch."""

    data: TrainingData
    config: RunConfig
    batch: Batch
    """what all methods share"""
    pairs: Int[np.ndarray, "pairs 2"]
    """rows of images and of reports"""
    unpaired: Int[np.ndarray, "unpaired"]
    """rows of images; none but under relations"""
    reports: Int[np.ndarray, "reports"]
    """rows of reports: those of the pairs first"""
    motion: Float[Tensor, "images 2 3"]
    """how the images are moved, see `crops.Augmentation`"""
    relations: RelationTargets | None
    rng: np.random.Generator
    """of this step: draw from it and from nothing else"""


class Method:
    """CLIP's behaviour: contrast of known pairs, cosines of global embeddings. A method overrides only what differs."""

    Config: type[Objective] = Objective
    """weight of each term, by the term's name, and constants"""
    presets: Mapping[str, Mapping[str, Any]] = {}
    """preset -> parts of `RunConfig` that differ from the preset's"""
    text_phase = False
    """has a text warm-up of its own; the others spend those steps on pairs"""
    relations = False
    """trains the evidence space, and unpaired data under the relations: LGDEA and what derives from it"""
    evidence = False
    """reads the findings of reports, so training needs some"""
    regions = False
    """trains on regions and tags of the images"""
    ramped: tuple[str, ...] = ()
    """terms that use the relations: their weight grows from 0, for early relations are noise"""
    decodes = False
    """a decoder says how well a text fits an image, in place of a cosine; see `decoders.DecoderMethod`"""

    def modules(self, config: LGDEAConfig, objective: Any, image_width: int, text_width: int) -> dict[str, nn.Module]:
        """Modules that the method adds to towers, lesion queries and prototypes, by their name in the model.

        Args:
            config: of the model.
            objective: the method's own configuration.
            image_width: of the fused patch features.
            text_width: of the text tower's states.
        """
        return {}

    def prepare(self, model: LGDEAModel, processor: LGDEAProcessor) -> None:
        """Last touch to a fresh model, whose towers have their first weights."""

    def check(self, config: RunConfig) -> None:
        """Refuse a configuration that contradicts itself.

        Raises:
            ValueError: it does.
        """

    def check_data(self, config: RunConfig, data: TrainingData) -> None:
        """Refuse data that the method cannot learn from, beyond the checks of all methods.

        Raises:
            ValueError: what is missing, and what to do.
        """

    def draw(self, drawn: Drawn) -> Any:
        """The method's own part of a batch, `Batch.own`: a NamedTuple of tensors, or None."""
        return None

    def terms(self, model: LGDEAModel, batch: Batch, teacher: LGDEAModel, weights: Weights) -> Terms:
        """Named terms of the loss; one of weight 0 is left out and not computed.

        Args:
            model: in training mode.
            batch: of one step.
            teacher: its moving average, frozen.
            weights: by name, see `RunConfig.weights`.
        """
        pairs = batch.pairs
        images = model.encode_images(batch.pixel_values[:pairs])
        reports = model.encode_texts(batch.report_tokens[:pairs], batch.report_mask[:pairs])
        return pair_term(weights, images.image_embeds, reports, batch, model.logit_scale)

    def trains_local(self, objective: Any) -> bool:
        """Whether the local head was trained; if not, phrases are compared with the global head's patch map."""
        return False

    def tells_whether(self, objective: Any) -> bool:
        """Whether the local response tells if a phrase is true of an image, or only where it fits best.

        A loss that compares patches of one image alone (ASG, MGCA, PRIOR) trains the latter: then zero-shot
        classification leaves the response out.
        """
        return self.trains_local(objective)

    def trains_evidence(self, objective: Any) -> bool:
        """Whether lesion queries and prototypes were trained."""
        return False

    def respond(
        self, texts: Float[Tensor, "texts dim"], patches: Float[Tensor, "images patches dim"], temperature: float
    ) -> Float[Tensor, "images texts"]:
        """Local response of each image to each text: the similarity that the method trains."""
        return phrase_patch_scores(texts, patches, temperature)

    def patches(self, model: Any, images: ImageEmbeddings) -> Float[Tensor, "images patches dim"]:
        """The patch embeddings a phrase is compared with."""
        return images.patch_embeds if self.trains_local(model.objective) else images.global_patch_embeds

    def phrase_embeds(
        self, model: Any, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts dim"]:
        """Phrases as patches meet them, L2-normalised: through the head whose loss trains the local head of images."""
        return model.encode_texts(input_ids, token_mask)

    def channels(self, objective: Any) -> list[str]:
        """Names of the zero-shot scores that the method trains to tell whether a phrase is true."""
        local = ["local"] if self.tells_whether(objective) else []
        return ["global", *local, *(["evidence"] if self.trains_evidence(objective) else [])]

    def maps(
        self, model: Any, images: ImageEmbeddings, texts: Float[Tensor, "texts dim"]
    ) -> Float[Tensor, "images texts patches"]:
        """Where each text fits each image: cosine of the text with every patch."""
        return torch.einsum("nd,ipd->inp", texts, self.patches(model, images))


def pair_term(
    weights: Weights,
    image_embeds: Float[Tensor, "pairs dim"],
    report_embeds: Float[Tensor, "pairs dim"],
    batch: Batch,
    logit_scale: Float[Tensor, ""],
) -> Terms:
    """`ita`, L_ita of eq. 17, unless its weight is 0: `R = I`, but images of one study share their report."""
    if not weights["ita"]:
        return {}
    return {"ita": relation_contrastive_loss(image_embeds, report_embeds, batch.same_report, logit_scale)}


def total_loss(terms: Terms, weights: Weights, ramp: float, ramped: tuple[str, ...]) -> Float[Tensor, ""]:
    """Eq. 18: the weighted sum; terms that use the relations are also multiplied by `ramp`."""
    return sum(weights[name] * (ramp if name in ramped else 1.0) * value for name, value in terms.items())


def word_dropped_contrast(model: LGDEAModel, batch: Batch, phrases: Float[Tensor, "phrases dim"]) -> Float[Tensor, ""]:
    """E: phrases against word-dropped phrases of the same statement."""
    dropped = model.encode_texts(batch.phrase_tokens, batch.dropped_mask)
    return relation_contrastive_loss(phrases, dropped, batch.same_statement, model.logit_scale)


def mean_phrases(
    membership: Float[Tensor, "reports phrases"], phrases: Float[Tensor, "phrases dim"]
) -> Float[Tensor, "reports dim"]:
    """Mean phrase of each report, L2-normalised; 0 for a report without phrases."""
    return F.normalize(membership @ phrases, dim=-1)
