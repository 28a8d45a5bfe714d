"""LGDEA with ASG's regions and tags beside it, on the same pairs."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from lgdea_core.batch import Batch
from lgdea_core.encoders import ImageEmbeddings
from lgdea_core.method import Drawn, Terms, Weights
from lgdea_core.methods.asg import ASG, ASGConfig, RegionPart, anatomy_terms
from lgdea_core.methods.lgdea import LGDEA, EvidencePart, LGDEAObjective, presets_of
from lgdea_core.model import LGDEAModel


@dataclass(frozen=True, kw_only=True)
class LGDEAWithASGConfig(LGDEAObjective, ASGConfig):
    """The weights and constants of both."""


class BothParts(NamedTuple):
    """What the two methods read of a batch."""

    evidence: EvidencePart
    regions: RegionPart | None


class LGDEAWithASG(LGDEA):
    """LGDEA's phases; ASG's terms where there are pairs."""

    Config = LGDEAWithASGConfig
    presets = presets_of(LGDEAWithASGConfig)
    regions = True
    modules, prepare, check_data = ASG.modules, ASG.prepare, ASG.check_data

    def draw(self, drawn: Drawn) -> BothParts:
        return BothParts(super().draw(drawn), ASG.draw(self, drawn))

    def evidence_part(self, batch: Batch) -> EvidencePart:
        return batch.own.evidence

    def beside(
        self,
        model: LGDEAModel,
        images: ImageEmbeddings,
        reports: Float[Tensor, "reports dim"],
        batch: Batch,
        weights: Weights,
    ) -> Terms:
        return anatomy_terms(model, images, reports, batch.own.regions, weights)

    def trains_local(self, objective: Any) -> bool:
        return objective.local > 0 or objective.arsa > 0

    def tells_whether(self, objective: Any) -> bool:
        return objective.local > 0

    def phrase_embeds(
        self, model: LGDEAModel, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts dim"]:
        """Phrases as LGDEA's local loss has them; without it as regions meet sentences."""
        if model.objective.local:
            return model.encode_texts(input_ids, token_mask)
        return ASG.phrase_embeds(self, model, input_ids, token_mask)


METHOD = LGDEAWithASG()
