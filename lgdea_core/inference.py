"""Embeddings and evidence distributions of whole pools, without gradient and in blocks.

The image tower runs in the precision it is set to, which training needs; evaluation wraps its pass in `full_precision`,
so that whatever a model was trained in, it is measured in float32.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from lgdea_core.batch import TrainingData
from lgdea_core.config import Objective
from lgdea_core.crops import CropPool
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
    """How evaluation turns images and texts into what a model reads."""

    image_size: int

    def tokens(self, texts: list[str]) -> tuple[Int[Tensor, "texts tokens"], Bool[Tensor, "texts tokens"]]: ...


def finite(scores: np.ndarray, where: str, what: str = "scores") -> np.ndarray:
    """The scores, all of which are numbers: of others every order is as good as any, so none may be measured.

    Raises:
        ValueError: some are NaN or infinite.
    """
    if wrong := int((~np.isfinite(scores)).sum()):
        raise ValueError(f"{where}: {wrong} {what} are not finite; the training went wrong, repeat it")
    return scores


class ImagePool(NamedTuple):
    """What a pool of images yields, row by row."""

    image_embeds: Float[np.ndarray, "images dim"]
    evidence: Float[np.ndarray, "images prototypes"]
    """evidence distribution (eq. 7)"""
    responses: Float[np.ndarray, "images queries"]
    """local response to each query text, by the similarity that the method trains"""


class Question(NamedTuple):
    """What somebody wants to know of some images, asked while they are encoded."""

    images: Sequence[Hashable]
    """names, or rows of a tensor"""
    answer: Callable[[Sequence[Hashable], ImageEmbeddings], Iterable[Any]]
    """some of the images and what they were encoded to -> one answer for each"""


@torch.no_grad()
def ask_images(
    model: ImageTextModel,
    crops_of: Callable[[Sequence[Hashable]], UInt8[Tensor, "images height width"]],
    questions: Sequence[Question],
    *,
    progress: bool = False,
) -> list[list[Any]]:
    """Encode every image once, in blocks of `IMAGES_AT_ONCE`, and put all questions to it.

    Only the answers are kept: the patch embeddings of a whole pool would not fit into memory.

    Args:
        model: used in evaluation mode, whatever mode it is in.
        crops_of: crops of some images, in the order asked for.
        questions: each about some images; the images of all are encoded in the order of their first mention.
        progress: show a bar.

    Returns:
        The answers to each question, in the order of its images.
    """
    device = next(model.parameters()).device
    names = list(dict.fromkeys(name for question in questions for name in question.images))
    wanted = [set(question.images) for question in questions]
    found: list[dict[Hashable, Any]] = [{} for _ in questions]
    with evaluating(model):
        for start in tqdm(range(0, len(names), IMAGES_AT_ONCE), unit="block", disable=not progress):
            block = names[start : start + IMAGES_AT_ONCE]
            encoded = model.encode_crops(crops_of(block).to(device))
            for question, images, answers in zip(questions, wanted, found, strict=True):
                rows = [row for row, name in enumerate(block) if name in images]
                if not rows:
                    continue
                own = encoded if len(rows) == len(block) else ImageEmbeddings(*(part[rows] for part in encoded))
                asked = [block[row] for row in rows]
                answers.update(zip(asked, question.answer(asked, own), strict=True))
    return [[answers[name] for name in question.images] for question, answers in zip(questions, found, strict=True)]


def pool_question(
    model: ImageTextModel, images: Sequence[Hashable], queries: Float[Tensor, "queries dim"] | None = None
) -> Question:
    """A row of each array of `ImagePool` for each image.

    Args:
        model: any.
        images: names.
        queries: text embeddings whose local response is wanted in each image.
    """
    queries = torch.zeros(0, model.config.dim) if queries is None else queries
    queries = queries.to(next(model.parameters()).device)

    def answer(_: Sequence[Hashable], block: ImageEmbeddings) -> Iterable[tuple[np.ndarray, ...]]:
        patches = model.method.patches(model, block)
        responses = model.method.respond(queries, patches, model.config.local_temperature)
        parts = block.image_embeds, model.pooled_evidence(block), responses
        return zip(*(part.cpu().numpy() for part in parts), strict=True)

    return Question(images, answer)


def logits_question(
    model: LGDEAModel,
    images: Sequence[Hashable],
    input_ids: Int[Tensor, "texts tokens"],
    token_mask: Bool[Tensor, "texts tokens"],
) -> Question:
    """The query decoder's logit of each image with every text, see `decoders.DecoderMethod.logits`.

    No score depends on which other images and texts are asked about.
    """
    device = next(model.parameters()).device
    token_mask = token_mask.to(device)
    with torch.no_grad(), evaluating(model):
        texts = model.text_tower.with_tokens(input_ids.to(device), token_mask)

    def answer(_: Sequence[Hashable], block: ImageEmbeddings) -> Iterable[np.ndarray]:
        for rows in torch.arange(len(block.image_embeds)).split(PAIRED_AT_ONCE):
            few = ImageEmbeddings(*(part[rows] for part in block))
            yield from model.method.logits(model, few, texts, token_mask).cpu().numpy()

    return Question(images, answer)


def encode_image_pool(
    model: ImageTextModel,
    images: CropPool | UInt8[Tensor, "images height width"],
    queries: Float[Tensor, "queries dim"] | None = None,
    *,
    progress: bool = False,
) -> ImagePool:
    """Encode a pool of crops by `pool_question` alone; the image tower keeps the precision it is set to."""
    question = pool_question(model, range(len(images)), queries)
    [answers] = ask_images(model, images.__getitem__, [question], progress=progress)
    return ImagePool(*map(np.stack, zip(*answers, strict=True)))


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


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Context in which a module is in evaluation mode; the mode before is restored."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@contextmanager
def full_precision(module: torch.nn.Module) -> Iterator[None]:
    """Context in which image towers run in float32, even right after a training in bfloat16.

    Args:
        module: a model or a tower.
    """
    towers = [part for part in module.modules() if hasattr(part, "autocast_dtype")]
    before = [tower.autocast_dtype for tower in towers]
    for tower in towers:
        tower.autocast_dtype = None
    try:
        yield
    finally:
        for tower, dtype in zip(towers, before, strict=True):
            tower.autocast_dtype = dtype


def best_device() -> torch.device:
    """The accelerator at hand (CUDA, MPS and their like), else the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None else torch.device("cpu")
