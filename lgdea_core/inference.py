"""Embeddings and evidence distributions of whole pools, without gradient and in blocks."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from lgdea_core.batch import TrainingData
from lgdea_core.config import Objective
from lgdea_core.encoders import ImageEmbeddings
from lgdea_core.finding import EvidenceIndex
from lgdea_core.method import Method
from lgdea_core.model import LGDEAConfig, LGDEAModel

IMAGES_AT_ONCE = 128
TEXTS_AT_ONCE = 512
PAIRED_AT_ONCE = 16
"""Images a query decoder is asked about at once: each of them with every text."""


@runtime_checkable
class ImageTextModel(Protocol):
    """What evaluation asks of a model: an `LGDEAModel`, or a published checkpoint."""

    config: LGDEAConfig
    method: Method
    objective: Objective

    def encode_crops(self, crops: UInt8[Tensor, "images height width"]) -> ImageEmbeddings: ...

    def encode_texts(
        self, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"], normalised: bool = True
    ) -> Float[Tensor, "texts dim"]: ...

    def pooled_evidence(self, images: ImageEmbeddings) -> Float[Tensor, "images prototypes"]: ...

    def parameters(self) -> Iterator[Tensor]: ...


@runtime_checkable
class ImageTextProcessor(Protocol):
    """How evaluation turns films and texts into what a model reads."""

    image_size: int

    def tokens(self, texts: list[str]) -> tuple[Int[Tensor, "texts tokens"], Bool[Tensor, "texts tokens"]]: ...


class ImagePool(NamedTuple):
    """What a pool of images yields, row by row."""

    image_embeds: Float[np.ndarray, "images dim"]
    evidence: Float[np.ndarray, "images prototypes"]
    """evidence distribution (eq. 7)"""
    responses: Float[np.ndarray, "images queries"]
    """local response to each query text, by the similarity that the method trains"""


@torch.no_grad()
def encode_image_pool(
    model: ImageTextModel,
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
            block = model.encode_crops(images[start : start + IMAGES_AT_ONCE].to(device))
            embeds.append(block.image_embeds.cpu())
            evidence.append(model.pooled_evidence(block).cpu())
            patches, temperature = model.method.patches(model, block), model.config.local_temperature
            responses.append(model.method.respond(queries, patches, temperature).cpu())
    return ImagePool(*(torch.cat(parts).numpy() for parts in (embeds, evidence, responses)))


@torch.no_grad()
def decoder_scores(
    model: LGDEAModel,
    images: UInt8[Tensor, "images height width"],
    input_ids: Int[Tensor, "texts tokens"],
    token_mask: Bool[Tensor, "texts tokens"],
) -> Float[np.ndarray, "images texts"]:
    """The query decoder's logit of every image with every text, see `decoders.DecoderMethod.logits`.

    No score depends on which other images and texts are asked about.
    """
    device = next(model.parameters()).device
    blocks = []
    with evaluating(model):
        texts = model.text_tower.with_tokens(input_ids.to(device), token_mask.to(device))
        for crops in images.split(PAIRED_AT_ONCE):
            seen = model.encode_crops(crops.to(device))
            blocks.append(model.method.logits(model, seen, texts, token_mask.to(device)).cpu())
    return torch.cat(blocks).numpy()


@torch.no_grad()
def score_rows(
    model: ImageTextModel,
    images: UInt8[Tensor, "images height width"],
    input_ids: Int[Tensor, "texts tokens"],
    token_mask: Bool[Tensor, "texts tokens"],
) -> tuple[Float[np.ndarray, "images k"], Float[np.ndarray, "texts k"]]:
    """Rows whose inner products are the method's scores: embeddings, or a decoder's scores against the identity."""
    if model.method.decodes:
        scores = decoder_scores(model, images, input_ids, token_mask)
        return scores, np.eye(len(input_ids), dtype=scores.dtype)
    return encode_image_pool(model, images).image_embeds, encode_tokens(model, input_ids, token_mask).numpy()


@torch.no_grad()
def encode_tokens(
    model: ImageTextModel,
    input_ids: Int[Tensor, "texts tokens"],
    token_mask: Bool[Tensor, "texts tokens"],
    normalised: bool = True,
) -> Float[Tensor, "texts dim"]:
    """Text embeddings of tokenised texts, on the CPU; L2-normalised or as projected."""
    device = next(model.parameters()).device
    blocks = [torch.zeros(0, model.config.dim)]
    with evaluating(model):
        for start in range(0, len(input_ids), TEXTS_AT_ONCE):
            part = slice(start, start + TEXTS_AT_ONCE)
            longest = int(token_mask[part].sum(dim=1).max())
            ids, mask = input_ids[part, :longest].to(device), token_mask[part, :longest].to(device)
            blocks.append(model.encode_texts(ids, mask, normalised).cpu())
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


def best_device() -> torch.device:
    """The accelerator at hand (CUDA, MPS and their like), else the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None else torch.device("cpu")
