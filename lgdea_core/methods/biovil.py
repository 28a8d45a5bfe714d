"""BioViL (Boecking et al., ECCV 2022; microsoft/hi-ml), its variant with a local term: text semantics first.

section contrasts the findings section of every report, paired or not, with its impression (radiology section
matching); ita is CLIP's contrast, local is GLoRIA's, which BioViL-L adds. The text warm-up has section alone.

Simplified: no masked language modelling, for which the towers have no head; sections go through the projection that
images meet, where BioViL trains its text model before any image; equal impressions are one.
"""

import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lgdea_core.batch import Batch, SentencePart, TrainingData, distinct_texts, one_text, pad_tokens
from lgdea_core.config import RunConfig
from lgdea_core.losses import relation_contrastive_loss, sentence_contrast
from lgdea_core.method import Drawn, Terms, Weights, pair_term
from lgdea_core.methods.gloria import GLoRIA, GLoRIAConfig
from lgdea_core.model import LGDEAModel

logger = logging.getLogger("lgdea")


@dataclass(frozen=True, kw_only=True)
class BioViLConfig(GLoRIAConfig):
    """BioViL's own weights."""

    section: float = 1.0
    """contrast of the two sections of a report"""


class SectionPart(NamedTuple):
    """What BioViL reads of a batch beside images and reports."""

    sentences: SentencePart
    findings_tokens: Int[Tensor, "sections tokens"]
    """findings sections of the batch's reports with both sections"""
    findings_mask: Bool[Tensor, "sections tokens"]
    impression_tokens: Int[Tensor, "impressions tokens2"]
    """their distinct impressions"""
    impression_mask: Bool[Tensor, "impressions tokens2"]
    same_impression: Float[Tensor, "sections impressions"]
    """1 where section and impression are of one report"""


class BioViL(GLoRIA):
    """Text semantics first; then GLoRIA's local contrast beside the global one."""

    Config = BioViLConfig
    text_phase = True

    def check_data(self, config: RunConfig, data: TrainingData) -> None:
        lengths = np.array([len(report) for report in data.sentences])
        if not ((data.impressions > 0) & (data.impressions < lengths)).any():
            logger.warning("method %s matches the two sections of a report, but no report has both", config.method)

    def draw(self, drawn: Drawn) -> SectionPart:
        """Sentences of the pairs' reports, and the sections of all."""
        sentences = super().draw(drawn)
        data, rows = drawn.data, np.unique(drawn.reports)
        both = [
            (one_text(report[count:], data), tuple(one_text(report[:count], data)))
            for report, count in ((data.sentences[row], data.impressions[row]) for row in rows)
            if 0 < count < len(report)
        ]
        impressions, same = distinct_texts([(row, text) for row, (_, text) in enumerate(both)], len(both))
        findings = pad_tokens([text for text, _ in both], data.special_ids[2])
        return SectionPart(sentences, *findings, *pad_tokens(impressions, data.special_ids[2]), same)

    def terms(self, model: LGDEAModel, batch: Batch, teacher: LGDEAModel, weights: Weights) -> Terms:
        terms, part, pairs = {}, batch.own, batch.pairs
        if weights["section"]:
            findings = model.encode_texts(part.findings_tokens, part.findings_mask)
            impressions = model.encode_texts(part.impression_tokens, part.impression_mask)
            same = part.same_impression
            terms["section"] = relation_contrastive_loss(findings, impressions, same, model.logit_scale)
        if not pairs:
            return terms
        images = model.encode_images(batch.pixel_values[:pairs])
        reports = model.encode_texts(batch.report_tokens[:pairs], batch.report_mask[:pairs])
        said, patches = part.sentences, images.patch_embeds
        sentences = model.encode_texts(said.tokens, said.mask) if weights["local"] else None
        terms |= pair_term(weights, images.image_embeds, reports, batch, model.logit_scale)
        if weights["local"]:
            temperature, same = model.config.local_temperature, batch.same_report
            terms["local"] = sentence_contrast(sentences, patches, said.membership, same, temperature)
        return terms


METHOD = BioViL()
