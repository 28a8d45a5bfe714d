"""LGDEAModel, its configuration and its processor: what every method trains and what a user loads."""

import json
import logging
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Bool, Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from lgdea_core.config import Objective, RunConfig, find_method
from lgdea_core.crops import pixel_values
from lgdea_core.encoders import (
    BUILT_IMAGE_TOWERS,
    ImageEmbeddings,
    ImageTower,
    TextTower,
    image_tower_config,
    small_bert_config,
    text_tower_config,
    train_tokenizer,
)
from lgdea_core.paths import read_json
from lgdea_core.prototypes import (
    LesionQueries,
    assign,
    image_evidence_distribution,
    log_image_evidence_distribution,
    prototype_points,
)

logger = logging.getLogger("lgdea")

MAX_LOGIT_SCALE = 100.0
"""CLIP's bound on the learned factor."""
PROCESSOR_FILE = "processor_config.json"
MOST, MOST_LAYERS, LARGEST_IMAGE = 2_000_000, 256, 4096
"""Largest number of a model folder's configuration, such as its vocabulary; of what is built one by one; of pixels."""
COUNTED = ("layer", "depth", "block", "stage", "repeat", "expert")
"""Words in the names of fields that say how many modules there are."""
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
"""


@dataclass(frozen=True, kw_only=True)
class LGDEAConfig:
    """Architecture of an `LGDEAModel`; `image` and `text` are transformers configurations as dictionaries."""

    image: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
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
        """Embeddings of standardised grey images."""
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
    values = read_fields(path, {entry.name for entry in fields(LGDEAConfig)})
    check_sizes(path, "", values)
    for entry in fields(LGDEAConfig):
        kind = (int, float) if entry.type is float else get_origin(entry.type) or entry.type
        if not isinstance(values[entry.name], kind) or isinstance(values[entry.name], bool):
            raise ValueError(f"{path}: {entry.name} is {values[entry.name]!r}; train the model again")
    for tower in ("image", "text"):
        if values[tower].get("model_type") not in CONFIG_MAPPING:
            raise ValueError(f"{path}: {tower} is no configuration of a transformers model; train the model again")
        known = set(CONFIG_MAPPING[values[tower]["model_type"]]().to_dict()) | COMMON_FIELDS
        if unknown := sorted(set(values[tower]) - known):
            raise ValueError(f"{path}: unknown fields of {tower}: {', '.join(unknown)}; remove them")
    known = {entry.name for entry in fields(find_method(values["method"]).Config)}
    if unknown := sorted(set(values["objective"]) - known):
        raise ValueError(
            f"{path}: unknown fields of objective: {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )
    return LGDEAConfig(**values)


def read_fields(path: Path, known: set[str]) -> dict[str, Any]:
    """The fields of a JSON file, all of them and no others.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON object of these fields.
    """
    values = read_json(path)
    if not isinstance(values, dict) or set(values) != known:
        found = set(values) if isinstance(values, dict) else set()
        raise ValueError(
            f"{path}: written by another version; fields too many: {sorted(found - known)}, fields it lacks: "
            f"{sorted(known - found)}. Train the model again"
        )
    return values


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
    """Turns grey images into standardised crops and texts into tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_size: int, max_tokens: int) -> None:
        self.tokenizer, self.image_size, self.max_tokens = tokenizer, image_size, max_tokens

    def pixel_values(self, crops: UInt8[Tensor, "images height width"]) -> Float[Tensor, "images 1 height width"]:
        """Crops as the towers read them; see `crops.pixel_values`."""
        return pixel_values(crops)

    def tokens(self, texts: list[str]) -> tuple[Int[Tensor, "texts tokens"], Bool[Tensor, "texts tokens"]]:
        """Token ids, padded to the longest text, and the mask of real tokens; texts are cut at `max_tokens`."""
        encoded = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        return encoded["input_ids"], encoded["attention_mask"].bool()

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

    Named towers are loaded by hub id or folder with their weights; where none is named they are built on the spot, and
    the tokenizer is trained on `texts` (the training reports).
    """
    size, parts = config.data.image_size, config.model
    image_config = image_tower_config(parts.image_tower, size)
    if parts.text_tower is None:
        tokenizer = train_tokenizer(texts)
        text_config = small_bert_config(len(tokenizer), parts.max_tokens)
    else:
        tokenizer = AutoTokenizer.from_pretrained(parts.text_tower, trust_remote_code=False)
        text_config = text_tower_config(parts.text_tower, parts.text_layers)
    towers = (_known_fields(tower) for tower in (image_config, text_config))
    model = LGDEAModel(model_config(config, *towers))
    if parts.image_tower not in BUILT_IMAGE_TOWERS:
        _load_backbone(model.image_tower.backbone, parts.image_tower)
    if parts.text_tower is not None:
        _load_backbone(model.text_tower.backbone, parts.text_tower)
    processor = LGDEAProcessor(tokenizer, size, parts.max_tokens)
    model.method.prepare(model, processor)
    return model, processor


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
    known = set(type(tower)().to_dict()) | COMMON_FIELDS
    return {name: value for name, value in json.loads(tower.to_json_string()).items() if name in known}


def _load_backbone(backbone: nn.Module, name: str) -> None:
    weights = AutoModel.from_pretrained(name, trust_remote_code=False).state_dict()
    backbone.load_state_dict({key: weights[key] for key in backbone.state_dict()})
