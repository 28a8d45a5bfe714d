"""LGDEAModel, its configuration and its processor: what every method trains and what a user loads."""

import json
import logging
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_origin

import numpy as np
import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from jaxtyping import Bool, Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lgdea_core.config import BUILT_IMAGE_TOWERS, Objective, RunConfig, find_method
from lgdea_core.crops import pixel_values
from lgdea_core.encoders import (
    ImageEmbeddings,
    ImageTower,
    Pixels,
    TextTower,
    check_sizes,
    image_tower_config,
    small_bert_config,
    text_tower_config,
    train_tokenizer,
)
from lgdea_core.paths import read_json, write_text
from lgdea_core.prototypes import (
    LesionQueries,
    assign,
    image_evidence_distribution,
    log_image_evidence_distribution,
    prototype_points,
)
from lgdea_core.published import (
    PublishedImageTower,
    PublishedTextTower,
    check_fit,
    exported_image_processor,
    joined,
    merged,
    read_start,
    read_tokenizer,
    read_weights,
    start_weights,
    tune,
)

logger = logging.getLogger("lgdea")

MAX_LOGIT_SCALE = 100.0
"""CLIP's bound on the learned factor."""
PROCESSOR_FILE = "processor_config.json"
ADDED = ("dual", "pixel_mean", "pixel_deviation", "pad_to", "pad_id")
"""Fields of `LGDEAConfig` that folders of version 0.1.0 lack, and mean by it what the defaults say."""
COMMON_FIELDS = {"architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path"}
"""What transformers may write into any configuration."""

MODEL_CARD = """---
{{ card_data }}
---

# LGDEA: chest radiographs and reports in one evidence space

Towers, lesion queries and prototypes of `lgdea_core.model.LGDEAModel`. Load with
`LGDEAModel.from_pretrained(folder)` and `LGDEAProcessor.from_pretrained(folder)`; weights are safetensors, no remote
code. `run_config.json` beside this file, where present, says what it was trained on and how.

**Not for clinical use.** A research model: it has not been evaluated for any patient, and what it learnt depends wholly
on the corpus named in `run_config.json` (the default is a generated phantom, not patients).

A model that started from published weights, which `run_config.json` names, is under their licence too.
"""


@dataclass(frozen=True, kw_only=True)
class LGDEAConfig:
    """Architecture of an `LGDEAModel`; `image`, `text`, `dual` are transformers configurations as dictionaries."""

    image: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    dual: dict[str, Any] = field(default_factory=dict)
    """of the published dual encoder that brought both towers; then `image` and `text` are empty"""
    pixel_mean: list[float] = field(default_factory=list)
    """what it subtracts from each channel, grey levels being in [0, 1]"""
    pixel_deviation: list[float] = field(default_factory=list)
    """what it divides each channel by"""
    pad_to: int = 0
    """length to which it pads every text, the padding counting as text; 0 for none"""
    pad_id: int = 0
    """token that it pads texts with"""
    image_size: int = 64
    neck_width: int = 256
    dim: int = 128
    lesions: int = 8
    prototypes: int = 32
    prototype_norm: str = "unit"
    text_temperature: float = 0.1
    image_temperature: float = 0.1
    temperature: float = 0.1
    """of the contrastive terms; where it is learned, its start"""
    local_temperature: float = 0.1
    """temperature of phrase-to-patch scores"""
    method: str = "clip"
    """what trained it, one of `config.METHODS`: which modules it has, and how it scores and maps"""
    objective: dict[str, Any] = field(default_factory=dict)
    """the method's own weights and constants, as of its training"""


class LGDEAModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="lgdea",
    license="mit",
    tags=["chest-x-ray", "vision-language", "not-for-clinical-use"],
    model_card_template=MODEL_CARD,
    coders={LGDEAConfig: (asdict, lambda values: LGDEAConfig(**values))},
):
    """Image and text towers, lesion queries and prototypes: the same modules, and weights, whatever the method trains.

    What only one method has comes after them (`Method.modules`).
    """

    def __init__(self, config: LGDEAConfig) -> None:
        super().__init__()
        self.config = config
        self.training_patients: object | None = None  # `runs.leaks.TrainingPatients`, where somebody knows them
        self.folder: Path | None = None  # where it was loaded from
        if config.dual:
            dual = AutoModel.from_config(_tower_config(config.dual)).float()
            pixels = Pixels(dual.vision_model.config.num_channels, config.pixel_mean, config.pixel_deviation)
            self.image_tower = PublishedImageTower(dual, pixels)
            self.text_tower = PublishedTextTower(dual, config.pad_to, config.pad_id)
        else:
            self.image_tower = ImageTower(_tower_config(config.image), config.dim, config.image_size, config.neck_width)
            self.text_tower = TextTower(_tower_config(config.text), config.dim)
        self.lesion_queries = LesionQueries(config.lesions, self.image_tower.width, config.dim)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(config.prototypes, config.dim), dim=-1))
        self.log_logit_scale = nn.Parameter(torch.tensor(-np.log(config.temperature), dtype=torch.float32))
        self.method = find_method(config.method)
        self.objective: Objective = self.method.Config(**config.objective)
        text_width = self.text_tower.head.in_features
        for name, module in self.method.modules(config, self.objective, self.image_tower.width, text_width).items():
            self.add_module(name, module)

    @classmethod
    def from_pretrained(cls, name: str | Path, **kwargs: Any) -> "LGDEAModel":
        """Read what `save_pretrained` wrote, from a folder or a hub.

        Raises:
            ValueError: the folder's files are cut, do not fit each other, are of another version, or make a model
                larger than any here; the message names the file. Nothing was built.
        """
        folder = Path(name)
        if folder.is_dir():
            _check_weights(folder, _checked_config(folder / "config.json"))
        return super().from_pretrained(name, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the weights; adapters are added to the weights they adapt, so that a folder needs no package for it."""
        super(LGDEAModel, merged(self))._save_pretrained(save_directory)

    def published_weights(self) -> list[nn.Parameter]:
        """Weights that training started from and did not make."""
        parts = [tower.backbone for tower in (self.image_tower, self.text_tower) if tower.published]
        if parts and self.config.dual:
            parts += [self.image_tower.projection, self.text_tower.head]
        return [weight for part in parts for name, weight in part.named_parameters() if "lora_" not in name]

    def export(self, folder: Path | str, processor: "LGDEAProcessor") -> PreTrainedModel:
        """Write the model back as the class of transformers that `model_start` was of, for other tools.

        Towers, projections and temperature; what this project adds, such as the local head, has no place there.

        Args:
            folder: gets weights (safetensors), configuration, tokenizer, image processor and model card.
            processor: the model's.

        Raises:
            ValueError: the model did not start from a published dual encoder.
        """
        if not self.config.dual:
            raise ValueError("export: this model did not start from a published dual encoder; use save_pretrained")
        plain = merged(self)
        dual = joined(_tower_config(self.config.dual), plain.image_tower, plain.text_tower, self.logit_scale.log())
        image_processor = exported_image_processor(self.image_tower, self.config.image_size)
        for part in (dual, processor.tokenizer, image_processor):
            part.save_pretrained(folder)
        write_text(Path(folder) / "README.md", str(self.generate_model_card()))
        return dual

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card of a folder; published weights keep their own licence."""
        card = super().generate_model_card(*args, **kwargs)
        if self.config.dual:
            card.data.license = "other"
        return card

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **kwargs: Any) -> "LGDEAModel":
        return super()._from_pretrained(strict=strict, **kwargs)

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """`1 / temperature` of the contrastive terms, at most `MAX_LOGIT_SCALE`."""
        return self.log_logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)

    @property
    def prototype_points(self) -> Float[Tensor, "prototypes dim"]:
        """The points assignments use; see `prototypes.prototype_points`."""
        return prototype_points(self.prototypes, self.config.prototype_norm)

    def encode_images(self, pixel_values: Float[Tensor, "images 1 height width"]) -> ImageEmbeddings:
        """Embeddings of grey images, levels in [0, 1]."""
        return self.image_tower(pixel_values)

    def encode_texts(
        self, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"], normalised: bool = True
    ) -> Float[Tensor, "texts dim"]:
        """Embeddings of tokenised reports or phrases, L2-normalised unless told otherwise."""
        return self.text_tower(input_ids, token_mask, normalised)

    def lesion_tokens(
        self, patch_features: Float[Tensor, "images patches channels"]
    ) -> Float[Tensor, "images lesions dim"]:
        """Lesion tokens `v` (eq. 3), L2-normalised."""
        return self.lesion_queries(patch_features)[0]

    def assign_phrases(self, phrase_embeds: Float[Tensor, "phrases dim"]) -> Float[Tensor, "phrases prototypes"]:
        """Eq. 4."""
        return assign(phrase_embeds, self.prototype_points, self.config.text_temperature)

    def image_evidence(self, lesion_embeds: Float[Tensor, "images lesions dim"]) -> Float[Tensor, "images prototypes"]:
        """Eq. 6 and 7: an image's evidence distribution."""
        return image_evidence_distribution(assign(lesion_embeds, self.prototype_points, self.config.image_temperature))

    def log_image_evidence(
        self, lesion_embeds: Float[Tensor, "images lesions dim"]
    ) -> Float[Tensor, "images prototypes"]:
        """Logarithm of `image_evidence`, what the evidence loss reads."""
        return log_image_evidence_distribution(lesion_embeds, self.prototype_points, self.config.image_temperature)

    def encode_crops(self, crops: UInt8[Tensor, "images height width"]) -> ImageEmbeddings:
        """Embeddings of uint8 crops."""
        return self.encode_images(pixel_values(crops))

    def pooled_evidence(self, images: ImageEmbeddings) -> Float[Tensor, "images prototypes"]:
        """Eq. 3, 6 and 7 of encoded images."""
        return self.image_evidence(self.lesion_tokens(images.patch_features))


def _tower_config(values: dict[str, Any]) -> Any:
    values = dict(values)
    return AutoConfig.for_model(values.pop("model_type"), **values)


def _checked_config(path: Path) -> LGDEAConfig:
    """What a model folder says its model is, where it is of this version and no larger than any model here.

    Raises:
        ValueError: it is not; the message names file and field.
    """
    defaults = {name: getattr(LGDEAConfig(), name) for name in ADDED}
    values = defaults | read_fields(path, {entry.name for entry in fields(LGDEAConfig)}, set(defaults))
    check_sizes(path, "", values)
    for entry in fields(LGDEAConfig):
        kind = (int, float) if entry.type is float else get_origin(entry.type) or entry.type
        if not isinstance(values[entry.name], kind) or isinstance(values[entry.name], bool):
            raise ValueError(f"{path}: {entry.name} is {values[entry.name]!r}; train the model again")
    for tower in ("dual",) if values["dual"] else ("image", "text"):
        _check_tower(path, tower, values[tower])
    known = {entry.name for entry in fields(find_method(values["method"]).Config)}
    if unknown := sorted(set(values["objective"]) - known):
        raise ValueError(
            f"{path}: unknown fields of objective: {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )
    return LGDEAConfig(**values)


def _check_tower(path: Path, name: str, values: dict[str, Any]) -> None:
    if values.get("model_type") not in CONFIG_MAPPING:
        raise ValueError(f"{path}: {name} is no configuration of a transformers model; train the model again")
    known = set(CONFIG_MAPPING[values["model_type"]]().to_dict()) | COMMON_FIELDS
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{path}: unknown fields of {name}: {', '.join(unknown)}; remove them")
    for part in ("vision_config", "text_config"):
        if part in values:
            _check_tower(path, f"{name}.{part}", values[part])


def read_fields(path: Path, known: set[str], optional: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a JSON file, all of them but the optional ones, and no others.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON object of these fields.
    """
    values = read_json(path)
    if not isinstance(values, dict) or not known - set(optional) <= set(values) <= known:
        found = set(values) if isinstance(values, dict) else set()
        raise ValueError(
            f"{path}: written by another version; fields too many: {sorted(found - known)}, fields it lacks: "
            f"{sorted(known - found - set(optional))}. Train the model again"
        )
    return values


def _check_weights(folder: Path, config: LGDEAConfig) -> None:
    """Compare the weights' names and shapes with those of the model the configuration makes, before it is made.

    Raises:
        ValueError: they are others, or the file is cut; the message names it.
    """
    path = folder / "model.safetensors"
    try:
        with safe_open(path, "pt") as file:
            there = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            shared = set(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: no whole safetensors file ({error}); copy the folder again") from error
    try:
        with torch.device("meta"):
            wanted = {name: list(value.shape) for name, value in LGDEAModel(config).state_dict().items()}
    except Exception as error:  # whatever transformers makes of sizes that contradict each other
        raise ValueError(f"{folder / 'config.json'}: no model can be built from it: {error}") from error
    for name in sorted(wanted.keys() | there.keys()):
        if there.get(name, wanted.get(name) if name in shared else None) != wanted.get(name):
            raise ValueError(
                f"{path}: {name} has shape {there.get(name, 'none')}, config.json makes it {wanted.get(name, 'none')}; "
                "the two files are not of one model"
            )


class LGDEAProcessor:
    """Turns crops into grey levels and texts into tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_size: int, max_tokens: int) -> None:
        self.tokenizer, self.image_size, self.max_tokens = tokenizer, image_size, max_tokens

    def pixel_values(self, crops: UInt8[Tensor, "images height width"]) -> Float[Tensor, "images 1 height width"]:
        """Crops as `encode_images` takes them; a tower's own mean and deviation are part of the model."""
        return pixel_values(crops)

    def tokens(self, texts: list[str]) -> tuple[Int[Tensor, "texts tokens"], Bool[Tensor, "texts tokens"]]:
        """Token ids, padded to the longest text, and the mask of real tokens.

        Texts are cut at `max_tokens`; the log counts those that fill it.
        """
        options = {"padding": True, "truncation": True, "max_length": self.max_tokens, "return_attention_mask": True}
        encoded = self.tokenizer(texts, return_tensors="pt", **options)
        mask = encoded["attention_mask"].bool()
        if full := int((mask.sum(dim=1) == self.max_tokens).sum()):
            logger.info("%d of %d texts fill all %d tokens; what is longer is cut", full, len(texts), self.max_tokens)
        return encoded["input_ids"], mask

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the tokenizer's files and `processor_config.json`."""
        self.tokenizer.save_pretrained(folder)
        values = {"image_size": self.image_size, "max_tokens": self.max_tokens}
        (Path(folder) / PROCESSOR_FILE).write_text(json.dumps(values, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "LGDEAProcessor":
        """Read what `save_pretrained` wrote.

        Raises:
            FileNotFoundError: the folder holds no processor.
            ValueError: its files are cut, or of another version.
        """
        path = Path(folder) / PROCESSOR_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no processor there; give a folder written by `save_pretrained`")
        values = read_fields(path, {"image_size", "max_tokens"})
        check_sizes(path, "", values)
        if not all(type(value) is int and value > 0 for value in values.values()):
            raise ValueError(f"{path}: expected whole numbers above 0, got {values}; train the model again")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # the tokenizers package has no classes of errors
            raise ValueError(f"{folder}: no tokenizer can be read there ({error}); copy the folder again") from error
        return cls(tokenizer, **values)


def build_model(config: RunConfig, texts: list[str]) -> tuple[LGDEAModel, LGDEAProcessor]:
    """A fresh model and processor for a run.

    `model_start`, or named towers, are loaded by hub id or folder with their weights; where none is named towers are
    built on the spot, and the tokenizer is trained on `texts` (the training reports). A published text tower that ends
    before `max_tokens` sets the length of texts, which the log says.

    Raises:
        ValueError: what is named is no such model, lacks a file, asks for code of its own, or does not fit the run.
        OSError: nothing to load there, from transformers.
    """
    build = _start_from if config.model.model_start else _build_towers
    model, tokenizer, longest = build(config, texts)
    wanted = config.model.max_tokens
    if longest < wanted:
        logger.info("the text tower ends at %d tokens: longer texts are cut there, not at %d", longest, wanted)
    tune({"image": model.image_tower, "text": model.text_tower}, config.model.tuning)
    processor = LGDEAProcessor(tokenizer, config.data.image_size, min(wanted, longest))
    model.method.prepare(model, processor)
    return model, processor


def _start_from(config: RunConfig, _: list[str]) -> tuple[LGDEAModel, PreTrainedTokenizerBase, int]:
    """A published dual encoder's towers around a run's prototypes, its tokenizer, and where its texts end."""
    name = config.model.model_start
    start = read_start(name)
    check_fit(start, config)
    values = {
        "dual": _known_fields(start.config),
        "pixel_mean": start.mean,
        "pixel_deviation": start.deviation,
        "pad_to": start.pad_to,
        "pad_id": start.tokenizer.pad_token_id or 0,
    }
    model = LGDEAModel(replace(model_config(config, {}, {}), **values))
    scale = start_weights(name, start, model.image_tower, model.text_tower)
    if config.loss.learned_temperature:
        model.log_logit_scale.data.copy_(scale)
    model.image_tower.published = model.text_tower.published = True
    return model, start.tokenizer, start.max_tokens


def _build_towers(config: RunConfig, texts: list[str]) -> tuple[LGDEAModel, PreTrainedTokenizerBase, int]:
    """Two towers that are built on the spot or published each by itself, a tokenizer, and where texts end."""
    size, parts = config.data.image_size, config.model
    image_config, longest = image_tower_config(parts.image_tower, size), parts.max_tokens
    if parts.text_tower is None:
        tokenizer = train_tokenizer(texts)
        text_config = small_bert_config(len(tokenizer), parts.max_tokens)
    else:
        text_config = text_tower_config(parts.text_tower, parts.text_layers)
        tokenizer = read_tokenizer(parts.text_tower, text_config.vocab_size)
        longest = min(tokenizer.model_max_length, getattr(text_config, "max_position_embeddings", longest))
    try:
        model = LGDEAModel(model_config(config, _known_fields(image_config), _known_fields(text_config)))
    except (ValueError, AttributeError, TypeError) as error:  # whatever a class makes of what it does not read
        raise ValueError(
            f"towers {parts.image_tower} and {parts.text_tower} with images of {size} pixels: no model can be built of "
            f"them ({error}); set image_size to what the image tower reads, and give an image and a text encoder"
        ) from error
    for name, tower in ((parts.image_tower, model.image_tower), (parts.text_tower, model.text_tower)):
        if name not in BUILT_IMAGE_TOWERS:
            weights = read_weights(name).state_dict()
            tower.backbone.load_state_dict({key: weights[key] for key in tower.backbone.state_dict()})
            tower.published = True
    return model, tokenizer, longest


def model_config(config: RunConfig, image: dict[str, Any], text: dict[str, Any]) -> LGDEAConfig:
    """What a run's model is, around its towers.

    Args:
        config: of the run.
        image: configuration of the image tower, as `LGDEAConfig.image`.
        text: of the text tower.
    """
    parts = config.model
    return LGDEAConfig(
        image=image,
        text=text,
        image_size=config.data.image_size,
        neck_width=parts.neck_width,
        dim=parts.dim,
        lesions=parts.lesions,
        prototypes=parts.prototypes,
        prototype_norm=parts.prototype_norm,
        text_temperature=parts.text_temperature,
        image_temperature=parts.image_temperature,
        temperature=config.loss.temperature,
        local_temperature=config.loss.local_temperature,
        method=config.method,
        objective=asdict(config.objective),
    )


def _known_fields(tower: PreTrainedConfig) -> dict[str, Any]:
    """A tower's configuration as plain values, without what its publisher wrote beside it."""

    def known(values: dict[str, Any]) -> dict[str, Any]:
        names = set(CONFIG_MAPPING[values["model_type"]]().to_dict()) | COMMON_FIELDS
        kept = {name: value for name, value in values.items() if name in names}
        parts = {name: known(kept[name]) for name in ("vision_config", "text_config") if name in kept}
        return kept | parts

    return known(json.loads(tower.to_json_string()))
