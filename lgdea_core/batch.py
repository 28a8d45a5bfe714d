"""What training may look at, and what one step sees of it: pools, tokens, and a batch of tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy import sparse
from torch import Tensor

from lgdea_core.crops import Augmentation, CropPool, augment
from lgdea_core.finding import EvidenceIndex


@dataclass(frozen=True, kw_only=True)
class RegionData:
    """Regions, links and tags of a training pool, in the order of its images and reports."""

    boxes: Float[np.ndarray, "images regions 4"]
    """x_min, y_min, x_max, y_max as shares of the crop's side, in the order of `REGIONS`; NaN where there is no box"""
    links: tuple[Int[np.ndarray, "_ 2"], ...]
    """of each report: rows (sentence, region), a sentence that names a region"""
    tags: Float[np.ndarray, "reports tags"]
    """1 where the report states the tag as present, in the order of `ASG_TAGS`"""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Everything training may look at. The true pairing of unpaired images and reports is not here."""

    images: CropPool
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
    special_ids: tuple[int | None, int | None, int]
    """ids of [CLS], [SEP] and [PAD], or what the tokenizer has in their place; None where it has nothing"""
    max_tokens: int
    regions: RegionData | None = None
    """only for a method that reads regions and tags"""
    phrase_report: Int[np.ndarray, "phrases"] | None = None
    """only where a phrase is a whole report: which; a batch then holds a random part of it, as it does of reports"""

    @cached_property
    def unpaired_images(self) -> Int[np.ndarray, "_"]:
        """Rows of images without a known pair."""
        return np.setdiff1d(np.arange(len(self.images)), self.seed_pairs[:, 0])

    @cached_property
    def unpaired_reports(self) -> Int[np.ndarray, "_"]:
        """Rows of reports without a known pair."""
        return np.setdiff1d(np.arange(len(self.sentences)), self.seed_pairs[:, 1])


@runtime_checkable
class RelationTargets(Protocol):
    """What the relations say of unpaired images; see `refresh.RelationState`."""

    def sample_reports(self, images: Int[np.ndarray, "n"], rng: np.random.Generator) -> Int[np.ndarray, "n"]: ...

    def block(
        self, images: Int[np.ndarray, "n"], reports: Int[np.ndarray, "m"], rng: np.random.Generator
    ) -> Float[np.ndarray, "n m"]: ...

    def expected_evidence(self, images: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n prototypes"]: ...

    def confidence(self, images: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]: ...

    def statement_posterior(
        self, images: Int[np.ndarray, "n"], statements: Int[np.ndarray, "m"], rng: np.random.Generator
    ) -> Float[np.ndarray, "n m"]: ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's tensors. The first `pairs` images and reports are known pairs, row by row.

    Of several processes each has the whole batch, and of the crops its share: image i is in process `i % processes`.
    """

    pairs: int
    phrases: Int[np.ndarray, "phrases"]
    """rows of the evidence index"""
    crops: UInt8[Tensor, "own height width"]
    """of this process's images, as they are stored"""
    augmentation: Augmentation
    """of the same images"""
    processes: int = 1
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
    own: Any = None
    """what the method alone reads, a NamedTuple of tensors: see `Method.draw`"""

    @cached_property
    def pixel_values(self) -> Float[Tensor, "own 1 height width"]:
        """Grey levels of this process's images, augmented where they lie when first asked for."""
        return augment(self.crops, self.augmentation)

    @property
    def unpaired_crops(self) -> UInt8[Tensor, "unpaired height width"]:
        """Crops of this process's images beyond the pairs."""
        return self.crops[self.pairs // self.processes :]

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return replace(self, **{part.name: _moved(getattr(self, part.name), device) for part in fields(self)})


def _moved(value: Any, device: torch.device) -> Any:
    """A tensor on a device; of a NamedTuple each part; anything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    return type(value)(*(_moved(part, device) for part in value)) if hasattr(value, "_fields") else value


SENTENCES_PER_REPORT = 3
"""Sentences of one report that are matched with patches in a batch, at most; drawn anew each step."""


Sequences = Sequence[Sequence[int]]


def pad_tokens(sequences: Sequences, padding: int) -> tuple[Int[Tensor, "texts tokens"], Bool[Tensor, "texts tokens"]]:
    """Token ids padded to the longest sequence, and the mask of real tokens."""
    longest = max((len(sequence) for sequence in sequences), default=1)
    ids = torch.full((len(sequences), longest), padding, dtype=torch.long)
    mask = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = True
    return ids, mask


def trimmed(
    ids: Int[Tensor, "texts tokens"], mask: Bool[Tensor, "texts tokens"]
) -> tuple[Int[Tensor, "texts shorter"], Bool[Tensor, "texts shorter"]]:
    """The same texts without the columns in which all are padding."""
    longest = int(mask.sum(dim=1).max()) if len(mask) else 1
    return ids[:, :longest], mask[:, :longest]


def drop_words(
    mask: Bool[Tensor, "texts tokens"], share: float, generator: torch.Generator
) -> Bool[Tensor, "texts tokens"]:
    """The mask with a random share of tokens hidden; [CLS], the first token, always stays."""
    kept = mask & (torch.rand(mask.shape, generator=generator) >= share)
    kept[:, 0] = mask[:, 0]
    return kept


def one_text(sentences: Sequences, data: TrainingData) -> list[int]:
    """Sentences as one sequence between [CLS] and [SEP], cut at `max_tokens`."""
    first, last, _ = data.special_ids
    words = [token for sentence in sentences for token in sentence][: data.max_tokens - 2]
    return [token for token in (first, *words, last) if token is not None]


class SentencePart(NamedTuple):
    """Distinct sentences of some reports."""

    tokens: Int[Tensor, "sentences tokens"]
    mask: Bool[Tensor, "sentences tokens"]
    membership: Float[Tensor, "reports sentences"]
    """1 where the sentence was drawn from the report"""


def sentence_part(data: TrainingData, reports: Int[np.ndarray, "reports"], rng: np.random.Generator) -> SentencePart:
    """At most `SENTENCES_PER_REPORT` sentences of each report: the distinct ones, and which report each came from."""
    drawn = [
        (row, tuple(data.sentences[report][sentence]))
        for row, report in enumerate(reports)
        for sentence in rng.permutation(len(data.sentences[report]))[:SENTENCES_PER_REPORT]
    ]
    distinct, membership = distinct_texts(drawn, len(reports))
    return SentencePart(*pad_tokens([one_text([text], data) for text in distinct], data.special_ids[2]), membership)


def distinct_texts(
    drawn: list[tuple[int, tuple[int, ...]]], rows: int
) -> tuple[list[tuple[int, ...]], Float[Tensor, "rows texts"]]:
    """The distinct texts of (row, text), in order of appearance, and 1 where a row has one."""
    column_of = {text: column for column, text in enumerate(dict.fromkeys(text for _, text in drawn))}
    membership = torch.zeros(rows, len(column_of))
    for row, text in drawn:
        membership[row, column_of[text]] = 1.0
    return list(column_of), membership


def dense(matrix: sparse.csr_matrix | sparse.csr_array) -> Float[Tensor, "rows cols"]:
    """A sparse matrix as a tensor."""
    return torch.from_numpy(matrix.toarray())
