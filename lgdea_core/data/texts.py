"""Token sequences of a batch: padding, hidden words, and the sentences and sections of its reports."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

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


def one_text(sentences: Sequences, special_ids: tuple[int, int, int], max_tokens: int) -> list[int]:
    """Sentences as one sequence between [CLS] and [SEP], cut at `max_tokens`."""
    first, last, _ = special_ids
    return [first, *[token for sentence in sentences for token in sentence][: max_tokens - 2], last]


def sentence_part(
    reports: Sequence[Sequences], special_ids: tuple[int, int, int], max_tokens: int, rng: np.random.Generator
) -> dict[str, Tensor]:
    """At most `SENTENCES_PER_REPORT` sentences of each report: the distinct ones, and which report each came from."""
    drawn = [
        (row, tuple(report[sentence]))
        for row, report in enumerate(reports)
        for sentence in rng.permutation(len(report))[:SENTENCES_PER_REPORT]
    ]
    distinct, membership = _distinct(drawn, len(reports))
    tokens, mask = pad_tokens([one_text([sentence], special_ids, max_tokens) for sentence in distinct], special_ids[2])
    return {"sentence_tokens": tokens, "sentence_mask": mask, "sentence_membership": membership}


def section_part(
    reports: Sequence[Sequences],
    impressions: Int[np.ndarray, "reports"],
    special_ids: tuple[int, int, int],
    max_tokens: int,
) -> dict[str, Tensor]:
    """Findings sections of the reports that have both sections, their distinct impressions, and which belong together.

    Args:
        reports: sentences, those of the impression first.
        impressions: how many of each report's sentences are its impression's.
        special_ids: ids of [CLS], [SEP] and [PAD].
        max_tokens: where texts are cut.
    """
    both = [
        (one_text(report[count:], special_ids, max_tokens), tuple(one_text(report[:count], special_ids, max_tokens)))
        for report, count in zip(reports, impressions.tolist(), strict=True)
        if 0 < count < len(report)
    ]
    distinct, membership = _distinct([(row, impression) for row, (_, impression) in enumerate(both)], len(both))
    findings_tokens, findings_mask = pad_tokens([findings for findings, _ in both], special_ids[2])
    impression_tokens, impression_mask = pad_tokens(distinct, special_ids[2])
    return {
        "findings_tokens": findings_tokens,
        "findings_mask": findings_mask,
        "impression_tokens": impression_tokens,
        "impression_mask": impression_mask,
        "same_impression": membership,
    }


def _distinct(
    drawn: list[tuple[int, tuple[int, ...]]], rows: int
) -> tuple[list[tuple[int, ...]], Float[Tensor, "rows texts"]]:
    """The distinct texts of (row, text), in order of appearance, and 1 where a row has one."""
    column_of = {text: column for column, text in enumerate(dict.fromkeys(text for _, text in drawn))}
    membership = torch.zeros(rows, len(column_of))
    for row, text in drawn:
        membership[row, column_of[text]] = 1.0
    return list(column_of), membership
