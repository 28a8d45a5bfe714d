"""LGDEAModel, its configuration and its processor: what every method trains and what a user loads."""

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from lgdea_core.config import METHODS, RunConfig
from lgdea_core.data.batches import pixel_values
from lgdea_core.data.leaks import TrainingPatients
from lgdea_core.decoder import QueryDecoder
from lgdea_core.encoders import (
    BUILT_IMAGE_TOWERS,
    ImageEmbeddings,
    ImageTower,
    TextEmbeddings,
    TextTower,
    image_tower_config,
    mean_token,
    small_bert_config,
    text_tower_config,
)
from lgdea_core.lesions import LesionQueries
from lgdea_core.prototypes import assign, image_evidence_distribution, prototype_points
from lgdea_core.regions import TagDecoder
from lgdea_core.tokenizer import train_tokenizer
from lgdea_core.vocabulary import ASG_TAGS

logger = logging.getLogger("lgdea")

MAX_LOGIT_SCALE = 100.0
"""CLIP's bound on the learned factor."""
PROCESSOR_FILE = "processor_config.json"

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
    presence_threshold: float = 0.6
    """phrase-to-patch score at which a phrase is as likely true of an image as not"""
    local: bool = True
    """whether the local head was trained: if not, grounding reads the global head's patch map"""
    evidence: bool = True
    """whether lesion queries and prototypes were trained"""
    tags: bool = False
    """whether there is an image-tag decoder (ASG); the next four are its shape, see `config.ModelConfig`"""
    sentence_head: Literal["", "regions", "grounding"] = ""
    """"regions": sentences meet regions through a head of their own (ASG has one beside that for reports); "grounding":
    phrases meet patches through it as well, for nothing else trains the local head"""
    tag_layers: int = 4
    tag_heads: int = 4
    tag_widening: float = 4 / 3
    tag_dropout: float = 0.1
    within_pairs: bool = False
    """whether the local head's loss compares patches of one image alone (ASG, MGCA, PRIOR): then its response says
    where a phrase fits best, not whether it is true, and zero-shot classification leaves it out"""
    attended: bool = False
    """whether the local head's loss compares texts with what they attend to (GLoRIA, BioViL): then its response is that
    similarity, `losses.attended_similarity`, and else `losses.phrase_patch_scores`"""
    decoder: Literal["", "existence", "similarity"] = ""
    """what a query decoder says of an image and a text, in place of a cosine: that the text is true of it (MedKLIP), or
    how well they match, asked both ways (CARZero); "" has no decoder"""
    decoder_layers: int = 2
    sentence_memory: bool = False
    """whether sentences are recalled from the prototypes before they meet patches (PRIOR)"""


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

    What only some methods have comes after them: ASG's tag decoder and sentence head, a query decoder (MedKLIP,
    CARZero), a predictor (PRIOR).
    """

    def __init__(self, config: LGDEAConfig) -> None:
        super().__init__()
        self.config = config
        self.training_patients: TrainingPatients | None = None
        self.image_tower = ImageTower(_tower_config(config.image), config.dim, config.image_size, config.neck_width)
        self.text_tower = TextTower(_tower_config(config.text), config.dim)
        self.lesion_queries = LesionQueries(config.lesions, self.image_tower.width, config.dim)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(config.prototypes, config.dim), dim=-1))
        self.log_logit_scale = nn.Parameter(torch.tensor(-np.log(config.temperature), dtype=torch.float32))
        self.tag_decoder = self._tag_decoder() if config.tags else None
        self.sentence_head = nn.Linear(self.text_tower.head.in_features, config.dim) if config.sentence_head else None
        self.decoder = QueryDecoder(config.dim, config.decoder_layers) if config.decoder else None
        self.predictor = _predictor(config.dim) if config.sentence_memory else None

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **kwargs: Any) -> "LGDEAModel":
        return super()._from_pretrained(strict=strict, **kwargs)

    def _tag_decoder(self) -> TagDecoder:
        config, text_width = self.config, self.text_tower.head.in_features
        shape = config.tag_layers, config.tag_heads, config.tag_widening, config.tag_dropout
        return TagDecoder(text_width, self.image_tower.width, *shape)

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

    def sentence_embeds(
        self, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts dim"]:
        """Sentences as regions meet them: mean of the L2-normalised embeddings of their tokens (ASG, ARSA).

        By the sentence head, or by that of whole texts in a model without one. Not normalised again.
        """
        head = self.text_tower.head if self.sentence_head is None else self.sentence_head
        tokens = F.normalize(head(self.text_tower.token_features(input_ids, token_mask)).float(), dim=-1)
        return mean_token(tokens, token_mask)

    def phrase_embeds(
        self, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts dim"]:
        """Phrases as patches meet them, L2-normalised: through the head whose loss trains the local head of images."""
        if self.config.sentence_head == "grounding":
            return F.normalize(self.sentence_embeds(input_ids, token_mask), dim=-1)
        return self.recalled(self.encode_texts(input_ids, token_mask))

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

    def encode_crops(self, crops: UInt8[Tensor, "images height width"]) -> ImageEmbeddings:
        """Embeddings of uint8 crops."""
        return self.encode_images(pixel_values(crops))

    def recalled(self, sentence_embeds: Float[Tensor, "sentences dim"]) -> Float[Tensor, "sentences dim"]:
        """Sentences as patches meet them: `normalize(sum_k p(k|s) mu_k)` where the model has a sentence memory."""
        if not self.config.sentence_memory:
            return sentence_embeds
        return F.normalize(self.assign_phrases(sentence_embeds) @ self.prototype_points, dim=-1)

    def ask_images(
        self, text_embeds: Float[Tensor, "texts dim"], images: ImageEmbeddings
    ) -> tuple[Float[Tensor, "images texts"], Float[Tensor, "images texts patches"]]:
        """The decoder's answers of every image, as a whole and its patches, to every text, and where it looked.

        The map leaves out what the image as a whole drew.
        """
        memory = torch.cat([images.image_embeds.unsqueeze(1), images.patch_embeds], dim=1)
        logits, attention = self.decoder(text_embeds, memory)
        return logits, attention[:, :, 1:]

    def ask_texts(
        self, images: ImageEmbeddings, texts: TextEmbeddings, token_mask: Bool[Tensor, "texts tokens"]
    ) -> Float[Tensor, "images texts"]:
        """The decoder's answers of every text, as a whole and its tokens, to every image."""
        memory = torch.cat([texts.text_embeds.unsqueeze(1), texts.token_embeds], dim=1)
        logits, _ = self.decoder(images.image_embeds, memory, F.pad(token_mask, (1, 0), value=True))
        return logits.T

    def pooled_evidence(self, images: ImageEmbeddings) -> Float[Tensor, "images prototypes"]:
        """Eq. 3, 6 and 7 of encoded images."""
        return self.image_evidence(self.lesion_tokens(images.patch_features))

    def grounding_patches(self, images: ImageEmbeddings) -> Float[Tensor, "images patches dim"]:
        """The patch embeddings a phrase is compared with: the local head's where the method trains it."""
        return images.patch_embeds if self.config.local else images.global_patch_embeds


def _predictor(dim: int) -> nn.Module:
    """The bottleneck that keeps SimSiam (Chen & He, CVPR 2021) from collapsing."""
    return nn.Sequential(nn.Linear(dim, dim // 2), nn.ReLU(), nn.Linear(dim // 2, dim))


def _tower_config(values: dict[str, Any]) -> Any:
    values = dict(values)
    return AutoConfig.for_model(values.pop("model_type"), **values)


class LGDEAProcessor:
    """Turns grey images into standardised crops and texts into tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_size: int, max_tokens: int) -> None:
        self.tokenizer, self.image_size, self.max_tokens = tokenizer, image_size, max_tokens

    def pixel_values(self, crops: UInt8[Tensor, "images height width"]) -> Float[Tensor, "images 1 height width"]:
        """Crops as the towers read them; see `batches.pixel_values`."""
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
        """
        path = Path(folder) / PROCESSOR_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no processor there; give a folder written by `save_pretrained`")
        return cls(AutoTokenizer.from_pretrained(folder, trust_remote_code=False), **json.loads(path.read_text()))


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
    towers = (json.loads(tower.to_json_string()) for tower in (image_config, text_config))
    model = LGDEAModel(model_config(config, *towers))
    if parts.image_tower not in BUILT_IMAGE_TOWERS:
        _load_backbone(model.image_tower.backbone, parts.image_tower)
    if parts.text_tower is not None:
        _load_backbone(model.text_tower.backbone, parts.text_tower)
    processor = LGDEAProcessor(tokenizer, size, parts.max_tokens)
    if model.tag_decoder is not None:
        _name_tags(model, processor)
    return model, processor


def model_config(config: RunConfig, image: dict[str, Any], text: dict[str, Any]) -> LGDEAConfig:
    """What a run's model is, around its towers.

    Args:
        config: of the run.
        image: configuration of the image tower, as `LGDEAConfig.image`.
        text: of the text tower.
    """
    parts, method = config.model, METHODS[config.method]
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
        presence_threshold=config.loss.presence_threshold,
        local=_trains_local_head(config),
        evidence=config.reads_relations and config.loss.evidence_paired > 0,
        sentence_head=_sentence_head(config),
        tags=config.reads_regions and config.loss.irl > 0,
        tag_layers=parts.tag_layers,
        tag_heads=parts.tag_heads,
        tag_widening=parts.tag_widening,
        tag_dropout=parts.tag_dropout,
        within_pairs=method.within_pairs,
        attended=method.attended,
        decoder=method.decoder,
        decoder_layers=parts.decoder_layers,
        sentence_memory=method.sentence_memory,
    )


def _trains_local_head(config: RunConfig) -> bool:
    by_regions, local = config.reads_regions and config.loss.arsa > 0, METHODS[config.method].local
    return by_regions or bool(local and getattr(config.loss, local))


def _sentence_head(config: RunConfig) -> Literal["", "regions", "grounding"]:
    if not config.reads_regions or not config.loss.arsa:
        return ""
    return "regions" if config.reads_relations and config.loss.local else "grounding"


@torch.no_grad()
def _name_tags(model: LGDEAModel, processor: LGDEAProcessor) -> None:
    """Set the decoder's queries: what the text tower makes of the tags' names before any training.

    All names have most of it in common (mean cosine 0.9 from a fresh tower), so each channel is standardised. Names
    that the tokenizer reads as the same unknown word stay the same query, which the log says.
    """
    tokens, mask = processor.tokens(list(ASG_TAGS))
    alike = len(tokens) - len(tokens.unique(dim=0))
    if alike:
        logger.warning(
            "the tokenizer cannot tell %d of %d tag names from others; name a text tower", alike, len(tokens)
        )
    model.text_tower.eval()  # without dropout
    features = model.text_tower.features(tokens, mask)
    model.tag_decoder.tag_embeds.copy_((features - features.mean(dim=0)) / features.std(dim=0).clamp(min=1e-6))
    model.text_tower.train()


def _load_backbone(backbone: nn.Module, name: str) -> None:
    weights = AutoModel.from_pretrained(name, trust_remote_code=False).state_dict()
    backbone.load_state_dict({key: weights[key] for key in backbone.state_dict()})
