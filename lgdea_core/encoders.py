"""Image and text towers (transformers) and the heads that map both into the joint space; shared by all methods."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ViTConfig,
)

from lgdea_core.crops import standardise

FINEST_GRID = 28
"""Finest patch grid used, a side: the finest stage of a tower that is not finer than this."""
NECK_WIDTH = 256
"""Widest fused patch feature unless told otherwise (the usual width of a feature pyramid)."""
POOL_SHARPNESS = 4.0
"""Sharpness of the smooth maximum over patches: 0 is the mean, infinity the maximum."""
MOST, MOST_LAYERS, LARGEST_IMAGE = 2_000_000, 256, 4096
"""Largest number of a model folder's configuration, such as its vocabulary; of what is built one by one; of pixels."""
COUNTED = ("layer", "depth", "block", "stage", "repeat", "expert")
"""Words in the names of fields that say how many modules there are."""


class ImageEmbeddings(NamedTuple):
    """What the image side yields; patches run row by row over a square grid."""

    patch_features: Float[Tensor, "images patches channels"]
    """before any projection: what lesion queries attend to"""
    image_embeds: Float[Tensor, "images dim"]
    """L2-normalised, joint space"""
    patch_embeds: Float[Tensor, "images patches dim"]
    """L2-normalised, by the local head"""
    global_patch_embeds: Float[Tensor, "images patches dim"]
    """L2-normalised, by the global head applied to each patch: the grounding map of a method without local loss"""


class TextEmbeddings(NamedTuple):
    """What the text side yields."""

    text_embeds: Float[Tensor, "texts dim"]
    """L2-normalised, joint space"""
    token_embeds: Float[Tensor, "texts tokens dim"]
    """L2-normalised, by the same head applied to each token; means nothing where the mask is False"""


class Pixels(nn.Module):
    """Grey levels in [0, 1] as a backbone reads them: its channels, all alike.

        (grey - mean) / deviation    of each channel, as published; without these each image is standardised by itself

    Raises:
        ValueError: neither one channel nor three, or another number of means or deviations.
    """

    def __init__(self, channels: int, mean: Sequence[float] = (), deviation: Sequence[float] = ()) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"the image tower reads {channels} channels; grey images can be given 1 or 3")
        if {len(mean), len(deviation)} - {channels} and (len(mean) or len(deviation)):
            raise ValueError(
                f"the image tower reads {channels} channels, its preprocessing has {len(mean)} means and "
                f"{len(deviation)} deviations; they are not of one model"
            )
        self.channels, self.published = channels, bool(len(mean))
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, grey: Float[Tensor, "images 1 height width"]) -> Float[Tensor, "images channels height width"]:
        if self.published:
            return (grey - self.mean) / self.deviation
        return standardise(grey).contiguous(memory_format=torch.channels_last).expand(-1, self.channels, -1, -1)


class Tower(nn.Module):
    """A backbone of transformers, and heads."""

    backbone: nn.Module
    published = False
    """the backbone has published weights"""
    locked = False
    """the backbone does not learn, and stays in evaluation mode: neither dropout nor the statistics of batch norm"""

    def train(self, mode: bool = True) -> "Tower":
        super().train(mode)
        if self.locked:
            self.backbone.eval()
        return self


class ImageTower(Tower):
    """A transformers vision model, its stages fused into one patch grid, and the global and local heads.

    A CNN's stages are fused by lateral 1x1 convolutions at the finest grid not above `FINEST_GRID` (as in a feature
    pyramid); a ViT's last layer is one stage. Fixed 2-D sine positions are added, for findings have a side and a zone.
    The local head leaves out a CNN's last stage, each cell of which sees most of the image: with it patch maps are
    diffuse (GLoRIA takes its local features before the last stage too).
    """

    def __init__(self, config: PreTrainedConfig, dim: int, image_size: int, neck_width: int = NECK_WIDTH) -> None:
        super().__init__()
        self.backbone = AutoModel.from_config(config).float()
        self.autocast_dtype: torch.dtype | None = None  # set by training; losses always see float32
        self.pixels = Pixels(getattr(config, "num_channels", 3))
        shapes = self._stage_shapes(image_size)
        self.grid = shapes[0][-1]
        self.width = width = min(shapes[-1][1], neck_width)
        self.laterals = nn.ModuleList(nn.Conv2d(shape[1], width, kernel_size=1) for shape in shapes)
        self.fuse = nn.Sequential(
            nn.GroupNorm(1, width),
            nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width),
            nn.Conv2d(width, width, kernel_size=1),
            nn.GELU(),
            nn.GroupNorm(1, width),
        )
        self.register_buffer("positions", sine_positions(self.grid, width), persistent=False)
        self.global_head = nn.Linear(width, dim)
        self.local_head = nn.Linear(width, dim)
        self.to(memory_format=torch.channels_last)  # convolutions and pooling are faster on a CPU

    @torch.no_grad()
    def _stage_shapes(self, image_size: int) -> list[torch.Size]:
        self.backbone.eval()  # batch norm must not learn from the zeros
        stages = self._stages(torch.zeros(1, self.pixels.channels, image_size, image_size))
        self.backbone.train()
        return [stage.shape for stage in stages]

    def _stages(
        self, pixel_values: Float[Tensor, "images channels height width"]
    ) -> list[Float[Tensor, "images _ _ _"]]:
        """Feature maps, finest first, none finer than `FINEST_GRID`."""
        seen = self.backbone(pixel_values=pixel_values, output_hidden_states=True)
        states = seen.hidden_states
        if states[-1].ndim == 3:  # a ViT, behind its last LayerNorm
            return [token_grid(seen.last_hidden_state)]
        maps = list({state.shape[-1]: state for state in states if state.shape[-1] <= FINEST_GRID}.values())
        return maps or [states[-1]]

    def _fused(self, levels: list[Float[Tensor, "images channels _ _"]]) -> Float[Tensor, "images patches channels"]:
        """Lateral outputs, finest first, added up coarse to fine."""
        fused = levels[-1]
        for level in reversed(levels[:-1]):
            fused = level + F.interpolate(fused, size=level.shape[-2:], mode="bilinear")
        return self.fuse(fused + self.positions).flatten(2).transpose(1, 2)

    def forward(self, pixel_values: Float[Tensor, "images 1 height width"]) -> ImageEmbeddings:
        """Embeddings of grey images, levels in [0, 1]; float32 whatever precision the tower ran in."""
        pixels, enabled = self.pixels(pixel_values), self.autocast_dtype is not None
        with torch.autocast(pixels.device.type, dtype=self.autocast_dtype or torch.bfloat16, enabled=enabled):
            stages = self._stages(pixels)
            levels = [lateral(stage) for lateral, stage in zip(self.laterals, stages, strict=True)]
            features = self._fused(levels)
            near = self._fused(levels[:-1]) if len(levels) > 1 else features
            global_patches, local_patches = self.global_head(features).float(), self.local_head(near).float()
        return ImageEmbeddings(
            patch_features=features.float(),
            image_embeds=F.normalize(smooth_maximum(global_patches, POOL_SHARPNESS), dim=-1),
            patch_embeds=F.normalize(local_patches, dim=-1),
            global_patch_embeds=F.normalize(global_patches, dim=-1),
        )

    @property
    def seen(self) -> nn.Module:
        """The module whose output, a map, Grad-CAM weighs."""
        return self.fuse


def token_grid(tokens: Float[Tensor, "images tokens channels"]) -> Float[Tensor, "images channels grid grid"]:
    """A ViT's patch tokens as a map; CLS and register tokens, which come first, are left out."""
    side = math.isqrt(tokens.shape[1])
    return tokens[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))


class TextTower(Tower):
    """A transformers text model; a text is the mean of its real tokens, projected."""

    def __init__(self, config: PreTrainedConfig, dim: int) -> None:
        super().__init__()
        extra = {"add_pooling_layer": False} if config.model_type in ("bert", "roberta") else {}
        self.backbone = AutoModel.from_config(config, **extra).float()
        self.head = nn.Linear(config.hidden_size, dim)

    def forward(
        self, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"], normalised: bool = True
    ) -> Float[Tensor, "texts dim"]:
        """Embeddings of tokenised texts, L2-normalised or as projected; the content of padding does not matter."""
        embeds = self.head(self.features(input_ids, token_mask)).float()
        return F.normalize(embeds, dim=-1) if normalised else embeds

    def with_tokens(
        self, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"]
    ) -> TextEmbeddings:
        """The same embeddings with those of the single tokens, from one pass."""
        parts = self.states(input_ids, token_mask)
        return TextEmbeddings(*(F.normalize(self.head(part).float(), dim=-1) for part in parts))

    def features(
        self, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts channels"]:
        """State of each text, before the head."""
        return self.states(input_ids, token_mask)[0]

    def token_features(
        self, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts tokens channels"]:
        """State of every token in its text, padding included."""
        return self.states(input_ids, token_mask)[1]

    def states(
        self, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"]
    ) -> tuple[Float[Tensor, "texts channels"], Float[Tensor, "texts tokens channels"]]:
        """State of each text, and of every token in it."""
        if not len(input_ids):  # transformers' attention cannot reshape an empty batch
            states = torch.zeros(*input_ids.shape, self.head.in_features, device=input_ids.device)
            return states.sum(dim=1), states
        return self._read(input_ids, token_mask)

    def _read(
        self, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"]
    ) -> tuple[Float[Tensor, "texts channels"], Float[Tensor, "texts tokens channels"]]:
        states = self.backbone(input_ids=input_ids, attention_mask=token_mask.long()).last_hidden_state
        return mean_token(states, token_mask), states


def mean_token(
    tokens: Float[Tensor, "texts tokens dim"], token_mask: Bool[Tensor, "texts tokens"]
) -> Float[Tensor, "texts dim"]:
    """Mean over a text's real tokens; 0 for a text without any."""
    weight = token_mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def smooth_maximum(values: Float[Tensor, "images patches dim"], sharpness: float) -> Float[Tensor, "images dim"]:
    """Smooth maximum over patches, channel by channel: `log(mean_p exp(s x_p)) / s`."""
    return (torch.logsumexp(sharpness * values, dim=1) - math.log(values.shape[1])) / sharpness


def sine_positions(grid: int, width: int) -> Float[Tensor, "1 width grid grid"]:
    """Fixed 2-D sine and cosine positions (as in ViT and MoCo v3): half the channels for rows, half for columns."""
    quarter = width // 4
    frequency = 1.0 / (100.0 ** (torch.arange(quarter) / max(quarter, 1)))
    angle = torch.arange(grid).unsqueeze(1) * frequency * (16.0 / grid)  # (grid, quarter), same for any grid size
    waves = torch.cat([angle.sin(), angle.cos()], dim=1).T  # (2 * quarter, grid)
    rows = waves.unsqueeze(2).expand(-1, -1, grid)
    columns = waves.unsqueeze(1).expand(-1, grid, -1)
    positions = torch.cat([rows, columns])
    return F.pad(positions, (0, 0, 0, 0, 0, width - positions.shape[0])).unsqueeze(0)


def image_tower_config(name: str | None, image_size: int) -> PreTrainedConfig:
    """Configuration of an image tower.

    Args:
        name: None for a ResNet of 0.3 million parameters that suits 64 to 128 px; "resnet-50" or "vit-small" for one
            with random weights; else a hub id or a folder.
        image_size: what a ViT built on the spot expects, in pixels.
    """
    if name is None:
        sizes = [32, 48, 64, 96]
        return ResNetConfig(
            num_channels=1, embedding_size=32, hidden_sizes=sizes, depths=[1, 1, 1, 1], layer_type="basic"
        )
    if name == "resnet-50":
        return ResNetConfig()
    if name == "vit-small":
        return ViTConfig(
            hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, image_size=image_size
        )
    return check_named(name)


def check_named(name: str, **changes: Any) -> PreTrainedConfig:
    """Configuration of a published model that asks for no code and is no larger than any here.

    Args:
        name: hub id or folder.
        **changes: of its fields.

    Raises:
        ValueError: it does, or is.
        OSError: nothing to load there, from transformers.
    """
    values = PreTrainedConfig.get_config_dict(name)[0]
    check_sizes(f"{name}: config.json", "", values)
    if asked := values.get("auto_map"):
        raise ValueError(
            f"{name}: config.json asks for code of its own (auto_map: {', '.join(sorted(asked))}), which is never run; "
            "save the weights by a class of transformers, such as CLIPModel, or remove auto_map if one fits them as is"
        )
    return AutoConfig.from_pretrained(name, trust_remote_code=False, **changes)


def check_sizes(path: Path | str, name: str, value: Any) -> None:
    """Refuse a number that would make a model which no machine here can hold, or build in its lifetime.

    Args:
        path: of a configuration, for the message.
        name: of the field; empty for the whole.
        value: of the field, with all below.

    Raises:
        ValueError: a number is too large, or none.
    """
    if isinstance(value, dict):
        for key, entry in value.items():
            check_sizes(path, f"{name}.{key}".lstrip("."), entry)
    elif isinstance(value, list):
        if len(value) > MOST_LAYERS:
            raise ValueError(f"{path}: {name} lists {len(value)} values, {MOST_LAYERS} at most are read here")
        for entry in value:
            check_sizes(path, name, entry)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        last = name.rpartition(".")[2]
        most = LARGEST_IMAGE if last.endswith("image_size") else MOST
        most = MOST_LAYERS if any(word in last for word in COUNTED) else most
        if not -most <= value <= most:  # which no NaN is
            raise ValueError(f"{path}: {name} is {value}, at most {most} is read here; train the model again")


def text_tower_config(name: str, layers: int) -> PreTrainedConfig:
    """Configuration of a text tower by hub id or folder, with its first `layers` layers; 0 keeps all."""
    config = check_named(name, **({"num_hidden_layers": layers} if layers else {}))
    if config.is_encoder_decoder or not hasattr(config, "vocab_size"):
        raise ValueError(f"text tower {name}: {config.model_type!r} is no encoder of texts; give one such as BERT")
    return config


def small_bert_config(vocabulary: int, max_tokens: int) -> PreTrainedConfig:
    """A two-layer BERT for a vocabulary trained on the corpus."""
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=192,
        max_position_embeddings=max_tokens,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, int | None, int]:
    """Ids that a tokenizer puts before and behind every text, such as [CLS] and [SEP], None for none; and of padding.

    Raises:
        ValueError: it has no padding, or puts more around a text.
    """
    around = tokenizer("")["input_ids"]
    if tokenizer.pad_token_id is None or len(around) > 2:
        raise ValueError(
            f"{tokenizer.name_or_path}: its tokenizer has padding {tokenizer.pad_token!r} and {len(around)} tokens "
            "around a text; expected a padding token and at most 2: take a text tower that encodes texts"
        )
    first = around[0] if len(around) == 2 else None
    return first, around[-1] if around else None, tokenizer.pad_token_id


SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokenizer(texts: list[str], vocabulary: int = 4000) -> PreTrainedTokenizerFast:
    """A lower-case WordPiece tokenizer learnt from these texts, with BERT's special tokens.

    The same texts give the same tokens in every process: the trainer numbers inner letters in the order of a hash map,
    and ties between merges follow these numbers, so the letters are numbered here.
    """
    tokenizer = _wordpiece(models.WordPiece(unk_token="[UNK]"))
    split, normalise = tokenizer.pre_tokenizer.pre_tokenize_str, tokenizer.normalizer.normalize_str
    words = {word for text in texts for word, _ in split(normalise(text))}
    inner = [f"##{letter}" for letter in sorted({letter for word in words for letter in word[1:]})]
    special = [*SPECIAL_TOKENS, *inner]
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    learnt = models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]", continuing_subword_prefix="##")
    tokenizer = _wordpiece(learnt)  # a new one: there inner letters are no special tokens
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _wordpiece(model: models.WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
