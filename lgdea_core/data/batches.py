"""What a training step sees, drawn by (seed, step) alone, so that a resumed run draws the same."""

import logging
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from lgdea_core.config import METHODS, RunConfig
from lgdea_core.data.pairing import Pools
from lgdea_core.data.regions import RegionBatch, RegionData, region_batch
from lgdea_core.data.texts import drop_words, one_text, pad_tokens, section_part, sentence_part, trimmed
from lgdea_core.evidence.index import EvidenceIndex
from lgdea_core.evidence.sections import readable_sections, sentence_spans

logger = logging.getLogger("lgdea")

PHRASES_PER_REPORT = 3
"""Phrases of one report in a batch, at most; drawn anew each step."""
SENTENCES_KEPT = 0.6
"""Least share of a report's sentences in a batch: single sentences come into distribution, as prompts are."""
WORDS_DROPPED = 0.3
"""Share of a phrase's tokens hidden in its word-dropped copy."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Everything training may look at. The true pairing of unpaired images and reports is not here."""

    images: UInt8[Tensor, "images height width"]
    """in the order of `Pools.image_ids`"""
    sentences: list[list[list[int]]]
    """report -> sentence -> token ids; reports in the order of `Pools.report_ids`"""
    impressions: Int[np.ndarray, "reports"]
    """how many of a report's sentences, the first, are its impression's"""
    evidence: EvidenceIndex
    phrase_tokens: Int[Tensor, "phrases tokens"]
    phrase_mask: Bool[Tensor, "phrases tokens"]
    seed_pairs: Int[np.ndarray, "pairs 2"]
    """rows of `images` and of `sentences`: the known pairs"""
    special_ids: tuple[int, int, int]
    """ids of [CLS], [SEP] and [PAD], or what the tokenizer has in their place"""
    max_tokens: int
    regions: RegionData | None = None
    """only for a method that reads regions and tags"""
    phrase_report: Int[np.ndarray, "phrases"] | None = None
    """only where a phrase is a whole report: which; a batch then holds a random part of it, as it does of reports"""

    @property
    def unpaired_images(self) -> Int[np.ndarray, "_"]:
        """Rows of images without a known pair."""
        return np.setdiff1d(np.arange(len(self.images)), self.seed_pairs[:, 0])

    @property
    def unpaired_reports(self) -> Int[np.ndarray, "_"]:
        """Rows of reports without a known pair."""
        return np.setdiff1d(np.arange(len(self.sentences)), self.seed_pairs[:, 1])


@runtime_checkable
class RelationTargets(Protocol):
    """What the relations say of unpaired images; see `refresh.RelationState`."""

    def sample_reports(self, images: Int[np.ndarray, "n"], rng: np.random.Generator) -> Int[np.ndarray, "n"]: ...

    def block(self, images: Int[np.ndarray, "n"], reports: Int[np.ndarray, "m"]) -> Float[np.ndarray, "n m"]: ...

    def expected_evidence(self, images: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n prototypes"]: ...

    def confidence(self, images: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]: ...

    def statement_posterior(
        self, images: Int[np.ndarray, "n"], statements: Int[np.ndarray, "m"]
    ) -> Float[np.ndarray, "n m"]: ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's tensors. The first `pairs` images and reports are known pairs, row by row."""

    pairs: int
    phrases: Int[np.ndarray, "phrases"]
    """rows of the evidence index"""
    pixel_values: Float[Tensor, "images 1 height width"]
    report_tokens: Int[Tensor, "reports tokens"]
    report_mask: Bool[Tensor, "reports tokens"]
    phrase_tokens: Int[Tensor, "phrases tokens2"]
    phrase_mask: Bool[Tensor, "phrases tokens2"]
    dropped_mask: Bool[Tensor, "phrases tokens2"]
    """mask of the word-dropped copy"""
    membership: Float[Tensor, "reports phrases"]
    """1 where the batch's phrase was drawn from this report"""
    same_report: Float[Tensor, "pairs pairs"]
    """1 where two pairs share a report: films of one study, which are no negatives of each other"""
    same_statement: Float[Tensor, "phrases phrases"]
    """1 where two phrases say the same"""
    holds_statement: Float[Tensor, "reports phrases"]
    """1 where the report makes the phrase's statement in whatever words"""
    phrase_targets: Float[Tensor, "reports phrases"]
    """1 there too, and `LossConfig.same_observation` where the report states the phrase's observation elsewhere"""
    localised: Float[Tensor, "phrases"]
    """0 for "no finding", which has no place in the image"""
    sentence_tokens: Int[Tensor, "sentences tokens3"] | None = None
    """distinct sentences of the pairs' reports; only for a method that reads them"""
    sentence_mask: Bool[Tensor, "sentences tokens3"] | None = None
    sentence_membership: Float[Tensor, "pairs sentences"] | None = None
    """1 where the sentence was drawn from the pair's report"""
    regions: RegionBatch | None = None
    """regions, their sentences and the tags of the pairs; only for a method that reads them"""
    findings_tokens: Int[Tensor, "sections tokens4"] | None = None
    """findings sections of the batch's reports with both sections; only for a method that reads them"""
    findings_mask: Bool[Tensor, "sections tokens4"] | None = None
    impression_tokens: Int[Tensor, "impressions tokens5"] | None = None
    """their distinct impressions"""
    impression_mask: Bool[Tensor, "impressions tokens5"] | None = None
    same_impression: Float[Tensor, "sections impressions"] | None = None
    """1 where section and impression are of one report"""
    finding_labels: Float[Tensor, "reports findings"] | None = None
    """1 where a report states one of `DIAGNOSTIC_FINDINGS`, -1 where it denies it, 0 where it does neither"""
    existence: Float[Tensor, "pairs phrases"] | None = None
    """1 where the pair's report makes the phrase's statement, 0 where it rules it out, -1 where it is silent"""
    clean_pixel_values: Float[Tensor, "unpaired 1 height width"] | None = None
    """unpaired images without augmentation, for the teacher"""
    relations: Float[Tensor, "unpaired unpaired_reports"] | None = None
    """block of the relations: the batch's unpaired images against its reports beyond the pairs"""
    expected_evidence: Float[Tensor, "unpaired prototypes"] | None = None
    confidence: Float[Tensor, "unpaired"] | None = None
    statement_posterior: Float[Tensor, "unpaired phrases"] | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        moved = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor | RegionBatch)
        }
        return replace(self, **moved)


def report_sentences(report: str) -> list[str]:
    """Sentences of the impression, then of the findings; see `sections.sentence_spans`."""
    return [report[start:end] for start, end in sentence_spans(report)]


def _impression_sentences(report: str) -> int:
    """How many of a report's sentences are its impression's."""
    impressions = [section for section in readable_sections(report) if section.kind == "impression"]
    starts = [start for start, _ in sentence_spans(report)]
    return sum(section.start <= start < section.end for section in impressions for start in starts)


def training_data(
    images: UInt8[Tensor, "images height width"],
    reports: list[str],
    pools: Pools,
    evidence: EvidenceIndex,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
) -> TrainingData:
    """Tokenise once.

    Args:
        images: crops in the order of `pools.image_ids`.
        reports: texts in the order of `pools.report_ids`.
        pools: who may be used, and the known pairs.
        evidence: of the same reports in the same order.
        tokenizer: the model's.
        max_tokens: where texts are cut.
    """
    sentences = [report_sentences(report) for report in reports]
    flat = [sentence for report in sentences for sentence in report]
    ids = iter(tokenizer(flat, add_special_tokens=False)["input_ids"] if flat else [])
    sentences = [[next(ids) for _ in report] for report in sentences]
    cut = sum(sum(map(len, report)) > max_tokens - 2 for report in sentences)
    logger.info("%d of %d reports are longer than %d tokens: a batch holds random parts", cut, len(reports), max_tokens)
    image_row = {image_id: row for row, image_id in enumerate(pools.image_ids)}
    report_row = {report_id: row for row, report_id in enumerate(pools.report_ids)}
    pairs = np.stack(
        [pools.seed_pairs["image_id"].map(image_row), pools.seed_pairs["report_id"].map(report_row)], axis=1
    )
    texts = list(evidence.phrases)
    phrases = tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"] if texts else []
    phrase_tokens, phrase_mask = pad_tokens(phrases, tokenizer.pad_token_id)
    return TrainingData(
        images=images,
        sentences=sentences,
        impressions=np.array([_impression_sentences(report) for report in reports], dtype=np.int64),
        evidence=evidence,
        phrase_tokens=phrase_tokens,
        phrase_mask=phrase_mask,
        seed_pairs=pairs.astype(np.int64),
        special_ids=(tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id),
        max_tokens=max_tokens,
    )


def sample_batch(
    data: TrainingData,
    config: RunConfig,
    step: int,
    phase: str,
    relations: RelationTargets | None = None,
    process: tuple[int, int] = (0, 1),
) -> Batch:
    """The batch of one step, a function of (seed, step, process), the data and the relations alone.

    Phase "text" draws reports only; "pairs" draws known pairs and, for the text terms, further reports; "relations"
    draws pairs, unpaired images, and for each of these a report by the relations.

    Args:
        data: pools, evidence and known pairs.
        config: seed, batch size and the share of unpaired images.
        step: optimiser updates so far.
        phase: one of "text", "pairs", "relations".
        relations: what they say of unpaired images; needed in phase "relations".
        process: rank and number of processes; each draws its own share of the batch.
    """
    rank, processes = process
    rng = np.random.default_rng([config.seed, step, rank])
    size, share = config.train.batch_size // processes, config.train.unpaired_share
    unpaired_size = round(size * share)
    wanted = {"text": 0, "pairs": size, "relations": size - unpaired_size}[phase]
    pairs = data.seed_pairs[_draw(rng, len(data.seed_pairs), wanted)]
    if phase == "relations":
        unpaired = data.unpaired_images[_draw(rng, len(data.unpaired_images), unpaired_size)]
        extra = relations.sample_reports(unpaired, rng)
    else:
        unpaired = np.empty(0, dtype=np.int64)
        extra = _draw(rng, len(data.sentences), size if phase == "text" else unpaired_size)
    reports = np.concatenate([pairs[:, 1], extra])
    phrases, drawn = _draw_phrases(data.evidence, reports, rng)
    report_tokens, report_mask = _report_tokens(data, reports, rng)
    if data.phrase_report is None:
        phrase_tokens, phrase_mask = trimmed(data.phrase_tokens[phrases], data.phrase_mask[phrases])
    else:
        phrase_tokens, phrase_mask = _report_tokens(data, data.phrase_report[phrases], rng)
    statements = data.evidence.phrase_statement[phrases]
    kinds = data.evidence.statement_observation[statements]
    holds_statement = _dense(data.evidence.report_statements[reports][:, statements])
    holds_observation = _dense(data.evidence.report_observations[reports][:, kinds])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    crops = data.images[torch.from_numpy(np.concatenate([pairs[:, 0], unpaired]))]
    pixels = grey_levels(crops)
    motion = random_motion(len(pixels), generator)
    batch = Batch(
        pairs=len(pairs),
        phrases=phrases,
        pixel_values=standardise(augment(pixels, motion, generator)),
        report_tokens=report_tokens,
        report_mask=report_mask,
        phrase_tokens=phrase_tokens,
        phrase_mask=phrase_mask,
        dropped_mask=drop_words(phrase_mask, WORDS_DROPPED, generator),
        membership=drawn,
        same_report=torch.from_numpy(pairs[:, 1, None] == pairs[None, :, 1]).float(),
        same_statement=torch.from_numpy(statements[:, None] == statements[None, :]).float(),
        holds_statement=holds_statement,
        phrase_targets=torch.maximum(holds_statement, config.loss.same_observation * holds_observation),
        localised=torch.from_numpy(data.evidence.localised[kinds]),
    )
    if config.reads_regions and len(pairs):
        batch = replace(batch, regions=_regions(data, pairs, motion[: len(pairs)], config))
    batch = replace(batch, **_method_parts(data, METHODS[config.method].parts, batch, reports, rng))
    if phase != "relations":
        return batch
    return replace(
        batch,
        clean_pixel_values=standardise(pixels[len(pairs) :]),
        relations=torch.from_numpy(relations.block(unpaired, extra)),
        expected_evidence=torch.from_numpy(relations.expected_evidence(unpaired)),
        confidence=torch.from_numpy(relations.confidence(unpaired)),
        statement_posterior=torch.from_numpy(relations.statement_posterior(unpaired, statements)),
    )


def _draw(rng: np.random.Generator, pool: int, wanted: int) -> Int[np.ndarray, "n"]:
    """Distinct rows of a pool, as many as wanted and there are."""
    return rng.permutation(pool)[:wanted]


def _dense(matrix: sparse.csr_matrix | sparse.csr_array) -> Float[Tensor, "rows cols"]:
    return torch.from_numpy(matrix.toarray())


def _draw_phrases(
    evidence: EvidenceIndex, reports: Int[np.ndarray, "reports"], rng: np.random.Generator
) -> tuple[Int[np.ndarray, "phrases"], Float[Tensor, "reports phrases"]]:
    """At most `PHRASES_PER_REPORT` phrases of each report: the distinct ones, and which report each came from."""
    owners, drawn = [], []
    matrix = evidence.report_phrases
    for row, report in enumerate(reports):
        held = matrix.indices[matrix.indptr[report] : matrix.indptr[report + 1]]
        chosen = rng.permutation(held)[:PHRASES_PER_REPORT]
        owners.append(np.full(len(chosen), row))
        drawn.append(chosen)
    phrases, columns = np.unique(np.concatenate(drawn), return_inverse=True)
    membership = torch.zeros(len(reports), len(phrases))
    membership[torch.from_numpy(np.concatenate(owners)), torch.from_numpy(columns)] = 1.0
    return phrases.astype(np.int64), membership


def _method_parts(
    data: TrainingData,
    parts: tuple[str, ...],
    batch: Batch,
    reports: Int[np.ndarray, "reports"],
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """What only some methods read, see `registry.Method.parts`."""
    found: dict[str, Tensor] = {}
    own = reports[: batch.pairs]
    if "sentences" in parts:
        found |= sentence_part([data.sentences[report] for report in own], data.special_ids, data.max_tokens, rng)
    if "sections" in parts:
        distinct = np.unique(reports)
        sentences = [data.sentences[report] for report in distinct]
        found |= section_part(sentences, data.impressions[distinct], data.special_ids, data.max_tokens)
    if "finding_labels" in parts:
        found["finding_labels"] = _dense(data.evidence.report_findings[reports])
    if "existence" in parts:
        found["existence"] = torch.from_numpy(data.evidence.existence(own, batch.phrases))
    return found


def _regions(
    data: TrainingData, pairs: Int[np.ndarray, "pairs 2"], motion: Float[Tensor, "pairs 2 3"], config: RunConfig
) -> RegionBatch:
    return region_batch(data.regions, data.sentences, pairs, motion, data.special_ids, data.max_tokens, config.loss)


def _report_tokens(
    data: TrainingData, reports: Int[np.ndarray, "reports"], rng: np.random.Generator
) -> tuple[Int[Tensor, "reports tokens"], Bool[Tensor, "reports tokens"]]:
    """A random subset of each report's sentences in random order, as one sequence of tokens."""
    sequences = []
    for report in reports:
        sentences = data.sentences[report]
        kept = round(len(sentences) * rng.uniform(SENTENCES_KEPT, 1)) or 1
        order = rng.permutation(len(sentences))[:kept]
        sequences.append(one_text([sentences[index] for index in order], data.special_ids, data.max_tokens))
    return pad_tokens(sequences, data.special_ids[2])


def grey_levels(crops: UInt8[Tensor, "images height width"]) -> Float[Tensor, "images 1 height width"]:
    """Crops in [0, 1]."""
    return crops.unsqueeze(1).float() / 255


def pixel_values(crops: UInt8[Tensor, "images height width"]) -> Float[Tensor, "images 1 height width"]:
    """Crops as the towers read them."""
    return standardise(grey_levels(crops))


def standardise(pixels: Float[Tensor, "images 1 height width"]) -> Float[Tensor, "images 1 height width"]:
    """Mean 0 and standard deviation 1 in each image, so that exposure does not matter; a constant image becomes 0."""
    centred = pixels - pixels.mean(dim=(1, 2, 3), keepdim=True)
    return centred / centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1e-4)


def random_motion(images: int, generator: torch.Generator) -> Float[Tensor, "images 2 3"]:
    """Small rotation, shift and zoom of each image: the affine maps from places of moved films to places of films.

    No flip: left and right mean something.
    """

    def uniform(low: float, high: float) -> Float[Tensor, "images"]:
        return torch.rand(images, generator=generator) * (high - low) + low

    angle, zoom = uniform(-0.12, 0.12), uniform(0.9, 1.1)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    shift = torch.stack([uniform(-0.1, 0.1), uniform(-0.1, 0.1)], dim=1).unsqueeze(2)
    return torch.cat([rotation * zoom.view(-1, 1, 1), shift], dim=2)


def augment(
    pixels: Float[Tensor, "images 1 height width"], motion: Float[Tensor, "images 2 3"], generator: torch.Generator
) -> Float[Tensor, "images 1 height width"]:
    """Films moved by `motion`, with a small random contrast and noise."""
    if not len(pixels):
        return pixels
    grid = F.affine_grid(motion, list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    gamma = torch.rand(len(pixels), generator=generator).view(-1, 1, 1, 1) * (1.25 - 0.8) + 0.8
    noise = torch.randn(pixels.shape, generator=generator) * 0.02
    return moved.clamp(min=1e-3) ** gamma + noise
