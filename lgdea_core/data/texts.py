"""Token sequences as tensors: padding and hiding words."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def pad_tokens(
    sequences: list[list[int]], padding: int
) -> tuple[Int[Tensor, "texts tokens"], Bool[Tensor, "texts tokens"]]:
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
    """The same tokens without the columns that are padding in every row."""
    longest = int(mask.sum(dim=1).max()) if len(mask) else 1
    return ids[:, :longest], mask[:, :longest]


def drop_words(
    mask: Bool[Tensor, "texts tokens"], share: float, generator: torch.Generator
) -> Bool[Tensor, "texts tokens"]:
    """The mask with a random share of tokens hidden; [CLS], the first token, always stays."""
    kept = mask & (torch.rand(mask.shape, generator=generator) >= share)
    kept[:, 0] = mask[:, 0]
    return kept
