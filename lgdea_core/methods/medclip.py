"""MedCLIP (Wang et al., EMNLP 2022; RyanWangZf/MedCLIP): images and texts decoupled, matched by their findings.

    S[i, j]  = cos(l_i, l_j),  l in {1 stated, -1 denied, 0 neither} per finding
    semantic = 1/2 CE(softmax(S), softmax(s V @ T.T)) + 1/2 CE(softmax(S.T), softmax(s T @ V.T))

Texts are the reports of the pairs and further reports without an image. What has no finding has no target.

Simplified: an image's findings are those of its known pair's report, so unpaired images take no part (MedCLIP has
CheXpert's images with their published labels); random parts of whole reports where it draws one sentence with its
own labels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from lgdea_core.batch import Batch
from lgdea_core.config import Objective
from lgdea_core.losses import relation_contrastive_loss
from lgdea_core.method import Drawn, Method, Terms, Weights
from lgdea_core.model import LGDEAModel


@dataclass(frozen=True, kw_only=True)
class MedCLIPConfig(Objective):
    """MedCLIP's own weight."""

    semantic: float = 1.0
    """its only term"""


class FindingPart(NamedTuple):
    """What MedCLIP reads of a batch beside images and reports."""

    labels: Float[Tensor, "reports findings"]
    """1 where a report states one of `DIAGNOSTIC_FINDINGS`, -1 where it denies it, 0 where it does neither"""


class MedCLIP(Method):
    """Images and texts decoupled, matched by their findings."""

    Config = MedCLIPConfig
    evidence = True

    def draw(self, drawn: Drawn) -> FindingPart:
        """Findings of the reports."""
        return FindingPart(torch.from_numpy(drawn.data.evidence.report_findings[drawn.reports].toarray()))

    def terms(self, model: LGDEAModel, batch: Batch, teacher: LGDEAModel, weights: Weights) -> Terms:
        if not weights["semantic"]:
            return {}
        images = model.encode_images(batch.pixel_values[: batch.pairs]).image_embeds
        reports = model.encode_texts(batch.report_tokens, batch.report_mask)
        relations = semantic_relations(batch.own.labels[: batch.pairs], batch.own.labels)
        return {"semantic": relation_contrastive_loss(images, reports, relations, model.logit_scale)}


METHOD = MedCLIP()


def semantic_relations(
    image_labels: Float[Tensor, "images findings"], text_labels: Float[Tensor, "texts findings"]
) -> Float[Tensor, "images texts"]:
    """MedCLIP's targets before their rows are scaled: `exp` of the cosine of findings, 0 where either has none."""
    cosine = F.normalize(image_labels, dim=1) @ F.normalize(text_labels, dim=1).T
    known = (image_labels != 0).any(dim=1).unsqueeze(1) & (text_labels != 0).any(dim=1).unsqueeze(0)
    return cosine.exp() * known
