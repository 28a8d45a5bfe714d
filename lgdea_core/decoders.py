"""A transformer decoder that asks an image about texts, or a text about images; only for methods without a cosine."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from lgdea_core.encoders import ImageEmbeddings, TextEmbeddings
from lgdea_core.method import Method
from lgdea_core.model import LGDEAConfig, LGDEAModel


class _Layer(nn.Module):
    """Pre-norm cross attention and feed-forward; queries do not see each other, so no score depends on the others."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query_norm, self.feed_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))

    def forward(
        self,
        answers: Float[Tensor, "items queries dim"],
        memory: Float[Tensor, "items places dim"],
        padding: Bool[Tensor, "items places"] | None,
    ) -> tuple[Float[Tensor, "items queries dim"], Float[Tensor, "items queries places"]]:
        found, attention = self.attention(self.query_norm(answers), memory, memory, key_padding_mask=padding)
        answers = answers + found
        return answers + self.feed(self.feed_norm(answers)), attention


class QueryDecoder(nn.Module):
    """Asks every item, a set of places, every query, and answers with one logit each.

        a_0     = norm(q)
        a_{l+1} = a_l + attention_l(norm(a_l), norm(m), norm(m)), then feed-forward
        logit   = mlp(norm(a_L))

    MedKLIP's and CARZero's fusion module, without self-attention as in the latter's released code.
    """

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.input_norm, self.output_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.layers = nn.ModuleList(_Layer(dim, heads=math.gcd(dim, 4)) for _ in range(layers))
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(
        self,
        queries: Float[Tensor, "queries dim"],
        memory: Float[Tensor, "items places dim"],
        mask: Bool[Tensor, "items places"] | None = None,
    ) -> tuple[Float[Tensor, "items queries"], Float[Tensor, "items queries places"]]:
        """Logits, and where each query looked: attention over the places, mean of heads and layers, rows sum to 1.

        Args:
            queries: texts for images, or images for texts.
            memory: patches of each image, or tokens of each text.
            mask: True for real places; None where all are. An item needs one at least.
        """
        answers = self.input_norm(queries).expand(len(memory), -1, -1)
        memory, padding = self.input_norm(memory), None if mask is None else ~mask
        seen = []
        for layer in self.layers:
            answers, attention = layer(answers, memory, padding)
            seen.append(attention)
        return self.head(self.output_norm(answers)).squeeze(-1), torch.stack(seen).mean(dim=0)


class DecoderMethod(Method):
    """A method whose score of an image and a text is a decoder's logit; a query's map is where the decoder looked."""

    decodes = True
    both_ways = False
    """whether texts are asked about images, too"""

    def modules(self, config: LGDEAConfig, objective: Any, image_width: int, text_width: int) -> dict[str, nn.Module]:
        return {"decoder": QueryDecoder(config.dim, objective.decoder_layers)}

    def ask_images(
        self, model: LGDEAModel, text_embeds: Float[Tensor, "texts dim"], images: ImageEmbeddings
    ) -> tuple[Float[Tensor, "images texts"], Float[Tensor, "images texts patches"]]:
        """The decoder's answers of every image, as a whole and its patches, to every text, and where it looked.

        The map leaves out what the image as a whole drew.
        """
        memory = torch.cat([images.image_embeds.unsqueeze(1), images.patch_embeds], dim=1)
        logits, attention = model.decoder(text_embeds, memory)
        return logits, attention[:, :, 1:]

    def ask_texts(
        self,
        model: LGDEAModel,
        images: ImageEmbeddings,
        texts: TextEmbeddings,
        token_mask: Bool[Tensor, "texts tokens"],
    ) -> Float[Tensor, "images texts"]:
        """The decoder's answers of every text, as a whole and its tokens, to every image."""
        memory = torch.cat([texts.text_embeds.unsqueeze(1), texts.token_embeds], dim=1)
        logits, _ = model.decoder(images.image_embeds, memory, F.pad(token_mask, (1, 0), value=True))
        return logits.T

    def logits(
        self,
        model: LGDEAModel,
        images: ImageEmbeddings,
        texts: TextEmbeddings,
        token_mask: Bool[Tensor, "texts tokens"],
    ) -> Float[Tensor, "images texts"]:
        """Score of every image with every text; of a method that asks both ways, the mean of both."""
        asked, _ = self.ask_images(model, texts.text_embeds, images)
        return 0.5 * (asked + self.ask_texts(model, images, texts, token_mask)) if self.both_ways else asked

    def channels(self, objective: Any) -> list[str]:
        return ["decoder"]

    def maps(
        self, model: LGDEAModel, images: ImageEmbeddings, texts: Float[Tensor, "texts dim"]
    ) -> Float[Tensor, "images texts patches"]:
        """Attention `a`, as `(a - mean a) / (a + mean a)`: 0 is an average patch."""
        _, attention = self.ask_images(model, texts, images)
        even = attention.mean(dim=2, keepdim=True)
        return (attention - even) / (attention + even)
