"""What a training step sees, drawn by (seed, step) alone, so that a resumed run draws the same."""

import logging
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lgdea_core.batch import (
    Batch,
    RelationTargets,
    TrainingData,
    drop_words,
    one_text,
    pad_tokens,
    trimmed,
)
from lgdea_core.config import RunConfig, find_method
from lgdea_core.crops import augment, grey_levels, random_motion, standardise
from lgdea_core.data.pairing import Pools
from lgdea_core.evidence.sections import readable_sections, report_sentences, sentence_spans
from lgdea_core.finding import EvidenceIndex
from lgdea_core.method import Drawn

logger = logging.getLogger("lgdea")

DRAW_VERSION = 3
"""Raise it when a step draws other things from the same seed: older checkpoints can no longer be resumed."""
PHRASES_PER_REPORT = 3
"""Phrases of one report in a batch, at most; drawn anew each step."""
SENTENCES_KEPT = 0.6
"""Least share of a report's sentences in a batch: single sentences come into distribution, as prompts are."""
WORDS_DROPPED = 0.3
"""Share of a phrase's tokens hidden in its word-dropped copy."""


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
    draws pairs, unpaired images, and for each of these a report by the relations. A pool smaller than its share of the
    batch is drawn from again: with 15 known pairs a batch of 64 holds each about four times.

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
    phrases, membership = _draw_phrases(data.evidence, reports, rng)
    report_tokens, report_mask = _report_tokens(data, reports, rng)
    if data.phrase_report is None:
        phrase_tokens, phrase_mask = trimmed(data.phrase_tokens[phrases], data.phrase_mask[phrases])
    else:
        phrase_tokens, phrase_mask = _report_tokens(data, data.phrase_report[phrases], rng)
    statements = data.evidence.phrase_statement[phrases]
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
        membership=membership,
        same_report=torch.from_numpy(pairs[:, 1, None] == pairs[None, :, 1]).float(),
        same_statement=torch.from_numpy(statements[:, None] == statements[None, :]).float(),
    )
    told = relations if phase == "relations" else None
    drawn = Drawn(data, config, batch, pairs, unpaired, reports, pixels, motion, told, rng)
    return replace(batch, own=find_method(config.method).draw(drawn))


def _draw(rng: np.random.Generator, pool: int, wanted: int) -> Int[np.ndarray, "n"]:
    """Rows of a pool: distinct ones while there are, then all over again, so that every budget is what it says.

    A row that comes twice is moved, and its report shortened, differently each time.
    """
    if not pool:
        return np.empty(0, dtype=np.int64)
    return np.concatenate([rng.permutation(pool) for _ in range(0, max(1, wanted), pool)])[:wanted]


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


def _report_tokens(
    data: TrainingData, reports: Int[np.ndarray, "reports"], rng: np.random.Generator
) -> tuple[Int[Tensor, "reports tokens"], Bool[Tensor, "reports tokens"]]:
    """A random subset of each report's sentences in random order, as one sequence of tokens."""
    sequences = []
    for report in reports:
        sentences = data.sentences[report]
        kept = round(len(sentences) * rng.uniform(SENTENCES_KEPT, 1)) or 1
        order = rng.permutation(len(sentences))[:kept]
        sequences.append(one_text([sentences[index] for index in order], data))
    return pad_tokens(sequences, data.special_ids[2])
