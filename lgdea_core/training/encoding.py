"""How a step encodes its batch: by several processes together, and a part at a time where memory is short."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lgdea_core.encoders import ImageEmbeddings
from lgdea_core.model import LGDEAModel

Encoded = TypeVar("Encoded", Tensor, ImageEmbeddings)


@contextmanager
def encoding(model: LGDEAModel, process: tuple[int, int] = (0, 1), at_once: int = 0) -> Iterator[None]:
    """Context in which a model's towers encode a share in each process, in parts, and return what all have encoded.

    Images come as this process's share already (`Batch`), and as many in each; texts come whole. A method's terms see
    the same tensors as in one process that encodes all at once, and need not know how it is done.

    Args:
        model: whose towers are wrapped until the end of the context.
        process: rank and number of processes.
        at_once: images, or texts, that a process encodes at a time; 0 takes all. See `in_parts`.
    """
    rank, processes = process
    if processes == 1 and not at_once:
        yield
        return
    images, texts = model.image_tower, model.text_tower
    encode_images, encode_texts, encode_tokens = images.forward, texts.forward, texts.token_features
    inside = False

    def all_images(pixel_values: Float[Tensor, "own 1 height width"]) -> ImageEmbeddings:
        found = in_parts(images, encode_images, [pixel_values], at_once)
        if processes == 1:
            return found
        return ImageEmbeddings(*(gathered(part, processes * len(pixel_values)) for part in found))

    def all_texts(
        encode: Callable[..., Tensor], ids: Int[Tensor, "texts tokens"], mask: Bool[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts ..."]:
        nonlocal inside
        if inside or not len(ids):  # the states of a tower's own pass
            return encode(ids, mask)
        inside = True
        try:
            if processes == 1:
                return in_parts(texts, encode, [ids, mask], at_once)
            most = -(-len(ids) // processes)  # of the last ones some are encoded twice, and left out again
            rows = torch.arange(rank, processes * most, processes, device=ids.device).clamp(max=len(ids) - 1)
            return gathered(in_parts(texts, encode, [ids[rows], mask[rows]], at_once), len(ids))
        finally:
            inside = False

    images.forward = all_images
    texts.forward = lambda ids, mask, normalised=True: all_texts(
        lambda own, real: encode_texts(own, real, normalised), ids, mask
    )
    texts.token_features = lambda ids, mask: all_texts(encode_tokens, ids, mask)
    try:
        yield
    finally:
        del images.forward, texts.forward, texts.token_features  # the classes' own again


def gathered(own: Float[Tensor, "own *shape"], rows: int) -> Float[Tensor, "{rows} *shape"]:
    """Rows of all processes, where row i was made by process `i % processes`; gradient flows back to who made it.

    Every process computes the same loss of all rows, so each gets the sum of as many equal gradients as there are
    processes, of which the mean that follows (DistributedDataParallel) is that of one process.
    """
    return torch.stack(all_gather(own.contiguous()), dim=1).flatten(0, 1)[:rows]


def in_parts(tower: nn.Module, encode: Callable[..., Encoded], inputs: Sequence[Tensor], at_once: int) -> Encoded:
    """What a tower makes of its inputs, `at_once` rows at a time; the backward pass encodes each part again.

    Only embeddings are kept meanwhile, as in GradCache (Gao et al., RepL4NLP 2021): the loss is of the whole batch, the
    memory that of a part and the time a third more. Dropout is repeated; batch norm norms each part by itself.
    """
    if not at_once or len(inputs[0]) <= at_once:
        return encode(*inputs)
    parts = [
        checkpoint(encode, *part, use_reentrant=False, context_fn=lambda: (nullcontext(), norms_at_rest(tower)))
        for part in zip(*(rows.split(at_once) for rows in inputs), strict=True)
    ]
    if isinstance(parts[0], ImageEmbeddings):
        return ImageEmbeddings(*map(torch.cat, zip(*parts, strict=True)))
    return torch.cat(parts)


@contextmanager
def norms_at_rest(tower: nn.Module) -> Iterator[None]:
    """Context in which batch norms do not learn: they have, when the part was encoded first."""
    norms = [module for module in tower.modules() if isinstance(module, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
