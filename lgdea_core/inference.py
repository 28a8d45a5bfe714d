"""Embeddings and evidence distributions of whole pools, without gradient and in blocks."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from lgdea_core.data.batches import TrainingData, pixel_values
from lgdea_core.evidence.index import EvidenceIndex
from lgdea_core.losses import phrase_patch_scores
from lgdea_core.model import LGDEAModel

IMAGES_AT_ONCE = 128
TEXTS_AT_ONCE = 512


class ImagePool(NamedTuple):
    """What a pool of images yields, row by row."""

    image_embeds: Float[np.ndarray, "images dim"]
    evidence: Float[np.ndarray, "images prototypes"]
    """evidence distribution (eq. 7)"""
    responses: Float[np.ndarray, "images queries"]
    """phrase-to-patch score of each query text (E)"""


@torch.no_grad()
def encode_image_pool(
    model: LGDEAModel,
    images: UInt8[Tensor, "images height width"],
    queries: Float[Tensor, "queries dim"] | None = None,
    *,
    progress: bool = False,
) -> ImagePool:
    """Encode all images once.

    Args:
        model: used in evaluation mode, whatever mode it is in.
        images: crops.
        queries: text embeddings whose local response is wanted in each image.
        progress: show a bar.
    """
    device = next(model.parameters()).device
    if queries is None:
        queries = torch.zeros(0, model.config.dim)
    queries = queries.to(device)
    embeds, evidence, responses = [], [], []
    with evaluating(model):
        for start in tqdm(range(0, len(images), IMAGES_AT_ONCE), unit="block", disable=not progress):
            crops = images[start : start + IMAGES_AT_ONCE].to(device)
            block = model.encode_images(pixel_values(crops))
            embeds.append(block.image_embeds.cpu())
            evidence.append(model.image_evidence(model.lesion_tokens(block.patch_features)).cpu())
            patches = model.grounding_patches(block)
            responses.append(phrase_patch_scores(queries, patches, model.config.local_temperature).cpu())
    return ImagePool(*(torch.cat(parts).numpy() for parts in (embeds, evidence, responses)))


@torch.no_grad()
def encode_tokens(
    model: LGDEAModel, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"]
) -> Float[Tensor, "texts dim"]:
    """Text embeddings of tokenised texts, on the CPU."""
    device = next(model.parameters()).device
    blocks = [torch.zeros(0, model.config.dim)]
    with evaluating(model):
        for start in range(0, len(input_ids), TEXTS_AT_ONCE):
            part = slice(start, start + TEXTS_AT_ONCE)
            longest = int(token_mask[part].sum(dim=1).max())
            ids, mask = input_ids[part, :longest].to(device), token_mask[part, :longest].to(device)
            blocks.append(model.encode_texts(ids, mask).cpu())
    return torch.cat(blocks)


def encode_phrases(
    model: LGDEAModel, data: TrainingData, phrases: Int[np.ndarray, "phrases"] | None = None
) -> Float[Tensor, "phrases dim"]:
    """Embeddings of the evidence index's phrases, or of some rows of it."""
    rows = slice(None) if phrases is None else torch.from_numpy(phrases)
    return encode_tokens(model, data.phrase_tokens[rows], data.phrase_mask[rows])


def report_evidence(
    model: LGDEAModel, evidence: EvidenceIndex, phrase_embeds: Float[Tensor, "phrases dim"]
) -> Float[np.ndarray, "reports prototypes"]:
    """Evidence distribution of every report (eq. 8); rows of zeros where a report has no evidence."""
    with torch.no_grad():
        assignments = model.assign_phrases(phrase_embeds.to(model.prototypes.device)).cpu().numpy()
    counts = np.asarray(evidence.report_phrases.sum(axis=1))
    return (evidence.report_phrases @ assignments / np.maximum(counts, 1)).astype(np.float32)


def observation_embeddings(
    evidence: EvidenceIndex, phrase_embeds: Float[Tensor, "phrases dim"]
) -> Float[Tensor, "observations dim"]:
    """Mean embedding of the phrases of each of `evidence.observation_names`, L2-normalised."""
    sums = torch.zeros(len(evidence.observation_names), phrase_embeds.shape[1])
    sums.index_add_(0, torch.from_numpy(evidence.statement_observation[evidence.phrase_statement]), phrase_embeds)
    return F.normalize(sums, dim=-1)


class evaluating:
    """Context in which a module is in evaluation mode; the mode before is restored."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.training = module, module.training

    def __enter__(self) -> None:
        self.module.eval()

    def __exit__(self, *error: object) -> None:
        self.module.train(self.training)
