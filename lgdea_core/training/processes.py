"""Several processes as one: each encodes its share of a batch, and every one sees all embeddings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from lgdea_core.encoders import ImageEmbeddings
from lgdea_core.model import LGDEAModel


def gathered(own: Float[Tensor, "own *shape"], rows: int) -> Float[Tensor, "{rows} *shape"]:
    """Rows of all processes, where row i was made by process `i % processes`; gradient flows back to who made it.

    Every process computes the same loss of all rows, so each gets the sum of as many equal gradients as there are
    processes, of which the mean that follows (DistributedDataParallel) is that of one process.
    """
    return torch.stack(all_gather(own.contiguous()), dim=1).flatten(0, 1)[:rows]


@contextmanager
def encoding_together(model: LGDEAModel, process: tuple[int, int]) -> Iterator[None]:
    """Context in which a model's towers encode a share in each process and return what all have encoded.

    Images come as this process's share already (`Batch`), and as many in each; texts come whole. A method's terms see
    the same tensors as in one process, and need not know how many there are. What they encode past the towers' own
    calls (`TextTower.features`) each process encodes whole: slower, and as right.

    Args:
        model: whose towers are wrapped until the end of the context.
        process: rank and number of processes.
    """
    rank, processes = process
    if processes == 1:
        yield
        return
    images, texts = model.image_tower, model.text_tower
    encode_images, encode_texts, encode_tokens = images.forward, texts.forward, texts.token_features
    inside = False

    def shared_images(pixel_values: Float[Tensor, "own 1 height width"]) -> ImageEmbeddings:
        found = encode_images(pixel_values)
        return ImageEmbeddings(*(gathered(part, processes * len(pixel_values)) for part in found))

    def shared(
        encode: Callable[..., Tensor], ids: Int[Tensor, "texts tokens"], mask: Bool[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts ..."]:
        nonlocal inside
        if inside or not len(ids):
            return encode(ids, mask)
        most = -(-len(ids) // processes)
        rows = torch.arange(rank, processes * most, processes, device=ids.device).clamp(max=len(ids) - 1)
        inside = True
        try:
            return gathered(encode(ids[rows], mask[rows]), len(ids))
        finally:
            inside = False

    images.forward = shared_images
    texts.forward = lambda ids, mask, normalised=True: shared(
        lambda own, real: encode_texts(own, real, normalised), ids, mask
    )
    texts.token_features = lambda ids, mask: shared(encode_tokens, ids, mask)
    try:
        yield
    finally:
        del images.forward, texts.forward, texts.token_features  # the classes' own again
