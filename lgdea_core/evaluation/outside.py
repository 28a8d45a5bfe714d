"""A model from elsewhere, of two functions, as evaluation takes its own."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from lgdea_core.config import find_method
from lgdea_core.encoders import ImageEmbeddings


class Outside(nn.Module):
    """A model and its processor in one, of two functions; cosines of embeddings are its scores, of patches its maps."""

    method = find_method("clip")
    objective = method.Config()

    def __init__(self, images: Callable[[np.ndarray], Any], texts: Callable[[list[str]], Any], image_size: int) -> None:
        super().__init__()
        self.images, self.texts, self.image_size = images, texts, image_size
        self.place = nn.Parameter(torch.zeros(1), requires_grad=False)  # says that all is on the CPU
        self.numbers: dict[str, int] = {}
        probed = self._embedded(torch.zeros(1, image_size, image_size, dtype=torch.uint8))
        width, wanted = probed[0].shape[1], self._said(["no finding"]).shape[1]
        if width != wanted:
            raise ValueError(
                f"outside: images are embedded in {width} dimensions, texts in {wanted}; expected one space"
            )
        self.has_patches = probed[1] is not None
        self.config = SimpleNamespace(dim=width, local_temperature=1.0)

    def encode_crops(self, crops: UInt8[Tensor, "images height width"]) -> ImageEmbeddings:
        """Embeddings of the images, and of their patches where the function gives them."""
        images, patches = self._embedded(crops)
        patches = images[:, None] if patches is None else patches
        return ImageEmbeddings(patches, images, patches, patches)

    def encode_texts(
        self, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"], normalised: bool = True
    ) -> Float[Tensor, "texts dim"]:
        """Embeddings of texts by their numbers."""
        said = list(self.numbers)
        embeds = self._said([said[number] for number in input_ids[:, 0].tolist()])
        return F.normalize(embeds, dim=-1) if normalised else embeds

    def tokens(self, texts: list[str]) -> tuple[Int[Tensor, "texts 1"], Bool[Tensor, "texts 1"]]:
        """A number for each text in place of tokens."""
        ids = [self.numbers.setdefault(text, len(self.numbers)) for text in texts]
        return torch.tensor(ids, dtype=torch.long).view(-1, 1), torch.ones(len(ids), 1, dtype=torch.bool)

    def pooled_evidence(self, images: ImageEmbeddings) -> Float[Tensor, "images 0"]:
        """It has no evidence space."""
        return torch.zeros(len(images.image_embeds), 0)

    def _embedded(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        found = self.images(crops.numpy())
        images, patches = found if isinstance(found, tuple) else (found, None)
        images = torch.as_tensor(images, dtype=torch.float32)
        if images.ndim != 2 or len(images) != len(crops):
            raise ValueError(
                f"outside: expected one embedding of each of {len(crops)} images, got {tuple(images.shape)}"
            )
        if patches is None:
            return F.normalize(images, dim=-1), None
        patches = torch.as_tensor(patches, dtype=torch.float32)
        if patches.ndim != 4 or patches.shape[1] != patches.shape[2] or patches.shape[3] != images.shape[1]:
            raise ValueError(
                f"outside: expected patches (images, grid, grid, {images.shape[1]}), got {tuple(patches.shape)}"
            )
        return F.normalize(images, dim=-1), F.normalize(patches.flatten(1, 2), dim=-1)

    def _said(self, texts: list[str]) -> Tensor:
        embeds = torch.as_tensor(self.texts(texts), dtype=torch.float32)
        if embeds.ndim != 2 or len(embeds) != len(texts):
            raise ValueError(
                f"outside: expected one embedding of each of {len(texts)} texts, got {tuple(embeds.shape)}"
            )
        return embeds


def outside(
    images: Callable[[np.ndarray], Any], texts: Callable[[list[str]], Any], image_size: int
) -> tuple[Outside, Outside]:
    """A model from elsewhere as `does_it_look` takes it.

    Args:
        images: crops (images, size, size), 8 bits -> embeddings (images, dim); or a tuple of these and of patches
            (images, grid, grid, dim), row by row over the crop, without which there is no grounding.
        texts: texts -> embeddings (texts, dim).
        image_size: side of the crops.

    Raises:
        ValueError: the functions give other shapes, or not one space.
    """
    model = Outside(images, texts, image_size)
    return model, model
