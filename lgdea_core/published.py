"""Published dual encoders of the CLIP family as towers of a model, and what of published weights is trained.

CLIPModel, SiglipModel, VisionTextDualEncoderModel and what else of transformers has `vision_model` and `text_model`. No
code of a checkpoint is run.
"""

import copy
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lgdea_core.config import RunConfig, replace_fields
from lgdea_core.encoders import ImageEmbeddings, Pixels, TextTower, Tower, check_named

FIXED_LENGTH = ("siglip", "siglip2")
"""Model types trained on texts padded to one length, whose padding counts as text."""
LORA_RANK, LORA_ALPHA = 16, 32
"""Rank of the adapters that tuning "lora" trains beside every linear layer; they are scaled by alpha / rank."""
_POOLINGS = ("head", "pooler", "post_layernorm")


class PublishedImageTower(Tower):
    """The image half of a dual encoder: its own pooling and projection, and a local head for its patches.

    A patch's embedding by the global head is what the image's would be if pooling saw this patch alone: no model of
    this family was trained to compare texts with patches. The local head starts as the projection, where there is one.
    """

    def __init__(self, dual: PreTrainedModel, pixels: Pixels) -> None:
        super().__init__()
        self.backbone, self.pixels = dual.vision_model, pixels
        self.autocast_dtype: torch.dtype | None = None  # set by training; losses always see float32
        self.projection = getattr(dual, "visual_projection", nn.Identity())
        config = self.backbone.config
        self.width, self.grid = config.hidden_size, config.image_size // config.patch_size
        self.dim = getattr(self.projection, "out_features", self.width)
        self.local_head = nn.Linear(self.width, self.dim)

    def forward(self, pixel_values: Float[Tensor, "images 1 height width"]) -> ImageEmbeddings:
        """Embeddings of grey images, levels in [0, 1]; float32 whatever precision the tower ran in."""
        pixels, enabled = self.pixels(pixel_values), self.autocast_dtype is not None
        with torch.autocast(pixels.device.type, dtype=self.autocast_dtype or torch.bfloat16, enabled=enabled):
            output = self.backbone(pixel_values=pixels)
            tokens = output.last_hidden_state[:, -self.grid * self.grid :]  # CLS and register tokens come first
            image, patches = self.projection(output.pooler_output), self._alone(tokens)
            features = self.backbone.post_layernorm(tokens) if self._raw_tokens else tokens
            local = self.local_head(features)
        return ImageEmbeddings(
            patch_features=features.float(),
            image_embeds=F.normalize(image.float(), dim=-1),
            patch_embeds=F.normalize(local.float(), dim=-1),
            global_patch_embeds=F.normalize(patches.float(), dim=-1),
        )

    @property
    def _raw_tokens(self) -> bool:
        """CLIP's tokens leave the tower before its last LayerNorm."""
        return not any(isinstance(getattr(self.backbone, part, None), nn.Module) for part in _POOLINGS[:2])

    def _alone(self, tokens: Float[Tensor, "images patches channels"]) -> Float[Tensor, "images patches dim"]:
        vision, alone = self.backbone, tokens.flatten(0, 1).unsqueeze(1)
        if isinstance(getattr(vision, "head", None), nn.Module):  # SigLIP: attention over the tokens
            pooled = vision.head(alone)
        elif isinstance(getattr(vision, "pooler", None), nn.Module):  # ViT: dense and tanh
            pooled = vision.pooler(alone)
        else:
            pooled = vision.post_layernorm(alone[:, 0])
        return self.projection(pooled).unflatten(0, tokens.shape[:2])

    @property
    def seen(self) -> nn.Module:
        """The module whose output, tokens, Grad-CAM weighs: the last block's first LayerNorm, which CLS attends to."""
        blocks = next(part for part in self.backbone.modules() if isinstance(part, nn.ModuleList))
        return next(part for part in blocks[-1].modules() if isinstance(part, nn.LayerNorm))


class PublishedTextTower(TextTower):
    """The text half of a dual encoder: its own pooling and projection.

    Args:
        dual: whose half.
        pad_to: length that every text is padded to, the padding counting as text; 0 for none.
        pad_id: by which.
    """

    def __init__(self, dual: PreTrainedModel, pad_to: int, pad_id: int) -> None:
        Tower.__init__(self)
        self.backbone, self.pad_to, self.pad_id = dual.text_model, pad_to, pad_id
        if hasattr(dual, "text_projection"):
            self.head = dual.text_projection
        else:  # SigLIP's is a part of its text model
            self.head, self.backbone.head = self.backbone.head, nn.Identity()
        bias = getattr(dual, "logit_bias", None)  # for the way back: softmax does not see it
        self.register_buffer("logit_bias", None if bias is None else bias.detach().clone())

    def _read(
        self, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"]
    ) -> tuple[Float[Tensor, "texts channels"], Float[Tensor, "texts tokens channels"]]:
        length, mask = input_ids.shape[1], token_mask.long()
        if self.pad_to:
            ids = torch.where(token_mask, input_ids, self.pad_id)
            input_ids = F.pad(ids, (0, self.pad_to - length), value=self.pad_id)
            mask = torch.ones_like(input_ids)
        output = self.backbone(input_ids=input_ids, attention_mask=mask)
        return output.pooler_output, output.last_hidden_state[:, :length]


class Start(NamedTuple):
    """What a published dual encoder says of itself, before its weights are read."""

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    image_size: int
    dim: int
    """width of its joint space"""
    mean: list[float]
    """of each channel, of grey levels in [0, 1]"""
    deviation: list[float]
    max_tokens: int
    """longest text that it reads"""
    pad_to: int
    """length that it pads every text to; 0 for none"""


def read_tokenizer(name: str, vocabulary: int) -> PreTrainedTokenizerBase:
    """The tokenizer of a published model.

    Args:
        name: hub id or folder.
        vocabulary: how many tokens the text tower knows.

    Raises:
        ValueError: there is none, or it is of another model.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise whatever they meet
        raise ValueError(f"{name}: no tokenizer can be read there ({error}); add the publisher's files") from error
    words = len(tokenizer)
    if not len(set(tokenizer.all_special_ids)) < words <= vocabulary:
        raise ValueError(
            f"{name}: its tokenizer has {words} tokens, its text tower {vocabulary}; files are missing or of another "
            "model: add the publisher's"
        )
    return tokenizer


def read_start(name: str) -> Start:
    """A published dual encoder without its weights.

    Args:
        name: hub id, or a folder with weights (safetensors), configuration, tokenizer and image processor.

    Raises:
        ValueError: it asks for code of its own, lacks a file, or has no image and text features in one space; or its
            vision tower or image processor is of a kind whose patches cannot be laid onto the image.
        OSError: nothing to load there, from transformers.
    """
    config = check_named(name)
    try:
        with torch.device("meta"):
            dual = AutoModel.from_config(config)
    except Exception as error:  # whatever transformers makes of sizes that contradict each other
        raise ValueError(f"{name}: config.json: no model can be built from it: {error}") from error
    kind = type(dual).__name__
    for wanted in ("get_image_features", "get_text_features", "vision_model", "text_model", "logit_scale"):
        if not hasattr(dual, wanted):
            raise ValueError(f"{name}: {kind} has no {wanted}; give a dual encoder such as CLIPModel")
    vision, text = dual.vision_model, dual.text_model.config
    pooled = any(isinstance(getattr(vision, part, None), nn.Module) for part in _POOLINGS)
    square = all(type(getattr(vision.config, side, None)) is int for side in ("image_size", "patch_size"))
    if not pooled or not square:
        raise ValueError(
            f"{name}: vision tower {vision.config.model_type!r} has no square patches of a square image, or none of "
            f"{', '.join(_POOLINGS)}; give a ViT such as CLIP's"
        )
    processor = _read_image_processor(name)
    try:
        mean, deviation = _normalisation(processor)
        size = _input_side(processor)
        with torch.device("meta"):
            pixels = Pixels(getattr(vision.config, "num_channels", 3), mean, deviation)
            width = PublishedImageTower(dual, pixels).dim
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if size != vision.config.image_size:
        raise ValueError(
            f"{name}: its image processor makes images of {size} pixels, its image tower reads "
            f"{vision.config.image_size}; the files are not of one model"
        )
    head = getattr(dual, "text_projection", None) or getattr(dual.text_model, "head", None)
    if not isinstance(head, nn.Linear) or head.out_features != width:
        raise ValueError(
            f"{name}: {kind} projects images to width {width} and texts to {getattr(head, 'out_features', 'none')}; "
            "expected linear projections of texts into one space with images, as of CLIPModel"
        )
    tokenizer = read_tokenizer(name, text.vocab_size)
    longest = min(tokenizer.model_max_length, text.max_position_embeddings)
    pad_to = text.max_position_embeddings if config.model_type in FIXED_LENGTH else 0
    return Start(config, tokenizer, size, width, mean, deviation, longest, pad_to)


def fitted(config: RunConfig) -> RunConfig:
    """The run's configuration with the image size, width and text length of its `model_start`."""
    start = read_start(config.model.model_start)
    return replace_fields(config, image_size=start.image_size, dim=start.dim, max_tokens=start.max_tokens)


def check_fit(start: Start, config: RunConfig) -> None:
    """Refuse a run that its `model_start` does not fit.

    Raises:
        ValueError: another image size or width; the message says what to set.
    """
    wanted = {"image_size": start.image_size, "dim": start.dim}
    there = {"image_size": config.data.image_size, "dim": config.model.dim}
    if wanted != there:
        said = ", ".join(f"{name}={value}" for name, value in wanted.items())
        found = ", ".join(f"{name}={value}" for name, value in there.items())
        raise ValueError(
            f"{config.model.model_start} reads and projects by {said}, the run has {found}; set {said}, or take "
            "`published.fitted(config)`"
        )


def read_weights(name: str, **options: Any) -> PreTrainedModel:
    """A published model with all its weights, in float32.

    Args:
        name: hub id or folder.
        **options: of `AutoModel.from_pretrained`.

    Raises:
        ValueError: weights are cut, do not fit config.json, or are missing and would be random.
    """
    try:
        model, loading = AutoModel.from_pretrained(
            name, trust_remote_code=False, dtype=torch.float32, output_loading_info=True, **options
        )
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{name}: weights that are cut or do not fit config.json ({error}); copy it again") from error
    missing = {key for key in loading["missing_keys"] if not key.startswith("pooler.")}  # not read of a single tower
    if missing := sorted(missing):
        raise ValueError(
            f"{name}: tensors of {type(model).__name__} are missing ({len(missing)}, such as {missing[0]}) and would "
            "be random; give a complete checkpoint"
        )
    return model


def start_weights(name: str, start: Start, image: PublishedImageTower, text: PublishedTextTower) -> Float[Tensor, ""]:
    """Give both towers the published weights.

    Args:
        name: hub id or folder.
        start: of `read_start`.
        image: built from the same configuration.
        text: likewise.

    Returns:
        Logarithm of the published factor on cosines.

    Raises:
        ValueError: weights are cut or missing, or the class pools in a way that is not known here.
    """
    dual = read_weights(name, use_safetensors=True).eval()
    size, tokens = start.image_size, start.tokenizer(["no finding"], return_tensors="pt")["input_ids"]
    grey, mask = torch.linspace(0, 1, size * size).view(1, 1, size, size), torch.ones_like(tokens).bool()
    with torch.no_grad():
        ids = F.pad(tokens, (0, start.pad_to - tokens.shape[1]), value=text.pad_id) if start.pad_to else tokens
        expected = (
            dual.get_image_features(pixel_values=image.pixels(grey)).pooler_output,
            dual.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids)).pooler_output,
        )
        _pour(dual, image, text, back=False)
        for tower in (image, text):
            tower.eval()
        found = image(grey).image_embeds, text(tokens, mask)
        for tower in (image, text):
            tower.train()
    for ours, theirs, side in zip(found, expected, ("images", "texts"), strict=True):
        if not torch.allclose(ours, F.normalize(theirs, dim=-1), atol=1e-4):
            raise ValueError(f"{name}: {type(dual).__name__} pools {side} in a way that is not read here; give a CLIP")
    if isinstance(image.projection, nn.Linear) and image.projection.weight.shape == image.local_head.weight.shape:
        with torch.no_grad():
            image.local_head.weight.copy_(image.projection.weight)
            image.local_head.bias.zero_()
    return dual.logit_scale.detach().reshape(())


def _pour(dual: PreTrainedModel, image: PublishedImageTower, text: PublishedTextTower, *, back: bool) -> None:
    """Copy the weights of a dual encoder into towers, or back."""
    text_head = dual.text_projection if hasattr(dual, "text_projection") else dual.text_model.head
    if not hasattr(dual, "text_projection"):
        dual.text_model.head = nn.Identity()
    parts = [(dual.vision_model, image.backbone), (dual.text_model, text.backbone), (text_head, text.head)]
    if hasattr(dual, "visual_projection"):
        parts.append((dual.visual_projection, image.projection))
    for theirs, ours in parts:
        theirs.load_state_dict(ours.state_dict()) if back else ours.load_state_dict(theirs.state_dict())
    if not hasattr(dual, "text_projection"):
        dual.text_model.head = text_head
    if not back and text.logit_bias is not None:
        text.logit_bias.copy_(dual.logit_bias)


@torch.no_grad()
def joined(
    config: PreTrainedConfig,
    image: PublishedImageTower,
    text: PublishedTextTower,
    log_logit_scale: Float[Tensor, ""],
) -> PreTrainedModel:
    """Both towers as the class of transformers that they were published in.

    Args:
        config: of that class.
        image: without adapters.
        text: likewise.
        log_logit_scale: logarithm of the factor on cosines.
    """
    dual = AutoModel.from_config(config).float().eval()
    _pour(dual, image, text, back=True)
    dual.logit_scale.fill_(log_logit_scale.item())
    if text.logit_bias is not None:
        dual.logit_bias.copy_(text.logit_bias)
    return dual


def exported_image_processor(image: PublishedImageTower, size: int) -> Any:
    """What training made of images, as an image processor of transformers: short side resized, centre cut out."""
    from transformers import CLIPImageProcessor  # it needs torchvision, which no other part of the core does

    mean, deviation = image.pixels.mean.flatten().tolist(), image.pixels.deviation.flatten().tolist()
    return CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        resample=2,  # bilinear, as `crops.crop_image`
        image_mean=mean,
        image_std=deviation,
    )


# ---- what is trained


def tune(towers: dict[str, Tower], tuning: str) -> None:
    """Freeze what of published weights is not trained, and add adapters where tuning is "lora".

    Args:
        towers: "image" and "text"; a tower without published weights is trained as it is.
        tuning: one of `config.TUNINGS`.

    Raises:
        ValueError: a tower has no linear layer for an adapter.
    """
    for name, tower in towers.items():
        if not tower.published or tuning not in ("lora", "locked", f"locked {name}"):
            continue
        tower.backbone.requires_grad_(False)
        if tuning == "lora":
            _add_lora(name, tower.backbone)
        else:
            tower.locked = True


def _add_lora(name: str, backbone: nn.Module) -> None:
    from peft import LoraConfig, inject_adapter_in_model  # optional package, slow to import

    # not the output of torch's own attention, which reads its weight without calling it
    linear = [module for module, part in backbone.named_modules() if type(part) is nn.Linear]
    if not linear:
        raise ValueError(
            f"tuning 'lora' adapts linear layers, and the {name} tower ({type(backbone).__name__}) has none; take "
            "'full', or 'locked'"
        )
    inject_adapter_in_model(
        LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=linear, init_lora_weights=True), backbone
    )


def merged(model: nn.Module) -> nn.Module:
    """The model with its adapters added to the weights they adapt: a copy, or itself where it has none."""
    if not any(hasattr(part, "lora_A") for part in model.modules()):
        return model
    plain = copy.deepcopy(model)
    for name, part in list(plain.named_modules()):
        if hasattr(part, "lora_A"):
            part.merge()
            above, _, last = name.rpartition(".")
            setattr(plain.get_submodule(above), last, part.get_base_layer())
    return plain


def _read_image_processor(name: str) -> Any:
    from transformers import AutoImageProcessor  # it needs torchvision, which no other part of the core does

    try:
        return AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{name}: no image processor can be read there ({error}); add the publisher's preprocessor_config.json, "
            "which says size, mean and deviation"
        ) from error


def _normalisation(processor: Any) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel, of grey levels in [0, 1]."""
    scale = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    if not processor.do_normalize:
        raise ValueError("its image processor does not normalise; expected mean and deviation of each channel")
    return [float(value) / scale for value in processor.image_mean], [float(v) / scale for v in processor.image_std]


def _input_side(image_processor: Any) -> int:
    """Side of the images that the processor makes of squares.

    Raises:
        ValueError: it cuts a part out of a square, or makes no square.
    """
    resized, cut = _sides(image_processor, "size"), _sides(image_processor, "crop_size")
    if getattr(image_processor, "do_center_crop", None) and cut != resized:
        raise ValueError(f"image processor resizes to {resized} and crops {cut}: maps would not fit the image")
    if len(resized) != 1:
        raise ValueError(f"image processor makes images of sides {resized}; expected squares of a fixed side")
    return resized.pop()


def _sides(image_processor: Any, name: str) -> set[int]:
    size = getattr(image_processor, name, None) or {}
    return {value for side, value in dict(size).items() if side in ("height", "width", "shortest_edge") and value}
