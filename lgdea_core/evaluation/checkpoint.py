"""Published checkpoints of the CLIP family in Hugging Face format, through the three tasks of `harness`.

`python -m lgdea_core.evaluation.checkpoint MODEL --corpus phantom --json OUT`. What `AutoModel` gives with image and
text features fits: CLIPModel, VisionTextDualEncoderModel, SiglipModel and their like; no remote code, safetensors only.
"""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from lgdea_core.command import Command, check_target, ending_mistakes
from lgdea_core.config import PRESETS, Objective, RunConfig, find_method, replace_fields
from lgdea_core.encoders import ImageEmbeddings
from lgdea_core.evaluation.harness import DEFAULT_MAPS, evaluate
from lgdea_core.evaluation.prompts import DEFAULT_PROMPTS, load_prompt_set, prompt_set_names
from lgdea_core.grounding import MAP_PROTOCOLS
from lgdea_core.inference import best_device
from lgdea_core.model import LGDEAConfig, check_sizes
from lgdea_core.paths import write_text
from lgdea_core.runs.inputs import evaluation_inputs, load_corpus_of
from lgdea_core.vocabulary import LABEL_SETS

logger = logging.getLogger("lgdea")

FIXED_LENGTH = ("siglip", "siglip2")
"""Model types trained on texts padded to one length, whose padding counts as text."""


class PublishedModel(nn.Module):
    """A published dual encoder as evaluation sees a model: global embeddings, and the same head on each patch token."""

    def __init__(self, model: nn.Module, image_processor: BaseImageProcessor) -> None:
        super().__init__()
        self.model, self.image_processor = model, image_processor
        size = _input_side(image_processor)
        with torch.no_grad():
            dim = self.encode_crops(torch.zeros(1, size, size, dtype=torch.uint8)).image_embeds.shape[1]
        self.config = LGDEAConfig(image_size=size, dim=dim)
        self.method, self.objective = find_method("clip"), Objective()

    def encode_crops(self, crops: UInt8[Tensor, "images height width"]) -> ImageEmbeddings:
        """Embeddings of grey crops, repeated to colour and prepared by the checkpoint's own image processor.

        A patch's embedding is what the image's would be if pooling saw this patch alone, by the checkpoint's own
        pooling and projection: no checkpoint of this family was trained to compare texts with patches.
        """
        colour = list(crops.cpu().unsqueeze(1).expand(-1, 3, -1, -1))
        pixels = self.image_processor(images=colour, return_tensors="pt", input_data_format="channels_first")
        output = self.model.get_image_features(pixel_values=pixels["pixel_values"].to(crops.device))
        side = math.isqrt(output.last_hidden_state.shape[1])  # CLS and register tokens come first
        tokens = output.last_hidden_state[:, -side * side :]
        patches = F.normalize(self.project_tokens(tokens), dim=-1)
        return ImageEmbeddings(tokens, F.normalize(output.pooler_output, dim=-1), patches, patches)

    def project_tokens(self, tokens: Float[Tensor, "images patches channels"]) -> Float[Tensor, "images patches dim"]:
        """Each token pooled alone and projected, in the way of the image's CLS token."""
        vision, alone = self.model.vision_model, tokens.flatten(0, 1).unsqueeze(1)
        if isinstance(getattr(vision, "head", None), nn.Module):  # SigLIP: attention over the tokens
            pooled = vision.head(alone)
        elif isinstance(getattr(vision, "pooler", None), nn.Module):  # ViT: dense and tanh
            pooled = vision.pooler(alone)
        else:  # CLIP
            pooled = vision.post_layernorm(alone[:, 0])
        projection = getattr(self.model, "visual_projection", nn.Identity())
        return projection(pooled).unflatten(0, tokens.shape[:2])

    def encode_texts(
        self, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"], normalised: bool = True
    ) -> Float[Tensor, "texts dim"]:
        """Text features, L2-normalised unless told otherwise."""
        features = self.model.get_text_features(input_ids=input_ids, attention_mask=token_mask.long()).pooler_output
        return F.normalize(features, dim=-1) if normalised else features

    def pooled_evidence(self, images: ImageEmbeddings) -> Float[Tensor, "images 0"]:
        """Nothing: there are no prototypes."""
        return images.image_embeds[:, :0]


class PublishedProcessor:
    """The checkpoint's own tokenizer, and the side of the crops it wants."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_size: int, max_tokens: int, fixed: bool) -> None:
        self.tokenizer, self.image_size, self.max_tokens, self.fixed = tokenizer, image_size, max_tokens, fixed

    def tokens(self, texts: list[str]) -> tuple[Int[Tensor, "texts tokens"], Bool[Tensor, "texts tokens"]]:
        """Token ids and the mask of real tokens; texts are cut at `max_tokens`; the log counts those that fill it."""
        encoded = self.tokenizer(
            texts,
            padding="max_length" if self.fixed else True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
            return_attention_mask=True,
        )
        ids, mask = encoded["input_ids"], encoded["attention_mask"].bool()
        full = int((mask.sum(dim=1) == self.max_tokens).sum())
        if full:
            logger.info("%d of %d texts fill all %d tokens; what is longer is cut", full, len(texts), self.max_tokens)
        return ids, torch.ones_like(mask) if self.fixed else mask


def load_published(name: str) -> tuple[PublishedModel, PublishedProcessor]:
    """A published checkpoint, ready for evaluation.

    No code of a checkpoint is run: one whose `config.json` names its own is refused, as transformers would read it by
    another class where it knows the model type; a tokenizer or image processor that does is read by transformers'
    classes. Weights become float32, the precision of every evaluation here. Position ids, which older versions of
    transformers saved among the weights, are not weights.

    Args:
        name: hub id, or a folder with weights (safetensors), configuration, tokenizer and image processor.

    Raises:
        ValueError: the checkpoint asks for code of its own or lacks a weight; or the model has no image and text
            features in one space, or its vision tower or image processor is of a kind whose patches cannot be laid
            onto the image.
        OSError: nothing to load there, from transformers.
    """
    _check_published(name)
    options = {"trust_remote_code": False, "use_safetensors": True, "dtype": torch.float32}
    try:
        model, loading = AutoModel.from_pretrained(name, output_loading_info=True, **options)
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{name}: weights that are cut or do not fit config.json ({error}); copy it again") from error
    model.eval().requires_grad_(False)
    for wanted in ("get_image_features", "get_text_features", "vision_model"):
        if not hasattr(model, wanted):
            raise ValueError(f"{name}: {type(model).__name__} has no {wanted}; give a dual encoder such as CLIPModel")
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(
            f"{name}: tensors of {type(model).__name__} are missing ({len(missing)}, such as {missing[0]}) and would "
            "be random; give a complete checkpoint"
        )
    kind = model.config.vision_config.model_type
    if not any(isinstance(getattr(model.vision_model, part, None), nn.Module) for part in _POOLINGS):
        raise ValueError(f"{name}: vision tower {kind!r} has none of {', '.join(_POOLINGS)}; give a ViT such as CLIP's")
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    published = PublishedModel(model, AutoImageProcessor.from_pretrained(name, trust_remote_code=False)).eval()
    longest = min(tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
    fixed = model.config.model_type in FIXED_LENGTH
    return published, PublishedProcessor(tokenizer, published.config.image_size, longest, fixed)


_POOLINGS = ("head", "pooler", "post_layernorm")


def _check_published(name: str) -> None:
    values = PreTrainedConfig.get_config_dict(name)[0]
    check_sizes(f"{name}: config.json", "", values)
    asked = values.get("auto_map")
    if asked:
        raise ValueError(
            f"{name}: config.json asks for code of its own (auto_map: {', '.join(sorted(asked))}), which is never run; "
            "save the weights by a class of transformers, such as CLIPModel, or remove auto_map if one fits them as is"
        )


def _input_side(image_processor: BaseImageProcessor) -> int:
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


def _sides(image_processor: BaseImageProcessor, name: str) -> set[int]:
    size = getattr(image_processor, name, None) or {}
    return {value for side, value in dict(size).items() if side in ("height", "width", "shortest_edge") and value}


def evaluate_checkpoint(
    name: str,
    config: RunConfig,
    *,
    split: str = "test",
    prompts: str = DEFAULT_PROMPTS,
    labels: str | None = None,
    maps: str = DEFAULT_MAPS,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """The table of `harness.evaluate` for a published checkpoint.

    Args:
        name: see `load_published`.
        config: corpus and seed; its image size is replaced by the checkpoint's.
        split: which studies.
        prompts: name of the prompt set of zero-shot classification.
        labels: name of a published label set; all labels where None.
        maps: how patches become maps.
        device: the best there is where None.
        progress: show bars.

    Raises:
        ValueError: no such prompt set, labels that the corpus lacks, or what `load_published` refuses.
    """
    load_prompt_set(prompts)  # before anything slow
    model, processor = load_published(name)
    model.to(device or best_device())
    config = replace_fields(config, image_size=processor.image_size)
    corpus = load_corpus_of(config.data, config.seed).split(split, "val")  # val: thresholds of zero-shot classification
    inputs = evaluation_inputs(corpus, config, progress=progress)
    options = {"split": split, "prompts": prompts, "labels": labels, "maps": maps}
    return evaluate(model, processor, inputs, **options, seed=config.seed, progress=progress)


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate a published checkpoint of the CLIP family: zero-shot classification, grounding, retrieval.

    Grounding compares phrases with patch tokens, each pooled alone by the checkpoint's own pooling and projection.
    """
    parser = Command(prog="python -m lgdea_core.evaluation.checkpoint", description=main.__doc__)
    parser.add_argument("model", help="hub id, or a folder in Hugging Face format (safetensors)")
    parser.add_argument("--corpus", default="phantom", help="see data/README.md (default: phantom)")
    parser.add_argument("--data", help="folder with one sub-folder per corpus (default: LGDEA_DATA)")
    parser.add_argument("--preset", choices=tuple(PRESETS), help="size of the phantom (default: LGDEA_PRESET, or demo)")
    parser.add_argument("--split", default="test", help="which studies (default: test)")
    sets = prompt_set_names()
    parser.add_argument("--prompts", choices=sets, default=DEFAULT_PROMPTS, help=f"default: {DEFAULT_PROMPTS}")
    line = "findings of zero-shot classification: a published label set (default: all labels of the corpus)"
    parser.add_argument("--labels", choices=tuple(LABEL_SETS), help=line)
    line = f"how patches become maps; biovil: as BioViL and BioViL-T are measured (default: {DEFAULT_MAPS})"
    parser.add_argument("--maps", choices=tuple(MAP_PROTOCOLS), default=DEFAULT_MAPS, help=line)
    parser.add_argument("--seed", type=int, default=0, help="of phantom and bootstrap (default: 0)")
    parser.add_argument("--device", help="such as cuda:1 or cpu (default: cuda or mps where there is one, else cpu)")
    parser.add_argument("--json", type=Path, required=True, help="where the table goes")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    protocol = {name: getattr(options, name) for name in ("split", "prompts", "labels", "maps")}
    with ending_mistakes(parser):
        check_target(options.json)
        config = RunConfig.from_preset(options.preset, corpus=options.corpus, root=options.data, seed=options.seed)
        metrics = evaluate_checkpoint(options.model, config, **protocol, device=options.device)
        origin = {"model": options.model, **protocol, "seed": options.seed, "preset": config.preset}
        rows = metrics.astype(object).where(metrics.notna(), None).to_dict("records")
        write_text(options.json, json.dumps(origin | {"metrics": rows}, indent=2) + "\n")
    overall = metrics[metrics["finding"].isin(("macro", "all"))]
    logger.info(
        "%s", overall[["task", "metric", "estimate", "low", "high", "n", "pool"]].round(3).to_string(index=False)
    )


if __name__ == "__main__":
    main()
