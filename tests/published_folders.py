"""Tiny published checkpoints of random weights, saved as folders of transformers' own classes."""

import json
import shutil
from pathlib import Path

import torch
from planted import PlantedWorld
from safetensors.torch import save_file
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from lgdea_core.encoders import train_tokenizer

TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = TEXT | {"image_size": 32, "patch_size": 8}
KINDS = ("clip", "dual", "siglip")


def save_tiny(kind: str, folder: Path, side: int = 32) -> Path:
    """A checkpoint of random weights with its tokenizer and image processor."""
    tokenizer = train_tokenizer(PlantedWorld(30, seed=0).reports, vocabulary=120)
    words, ends = {"vocab_size": len(tokenizer), "max_position_embeddings": 24}, {"bos_token_id": 2, "eos_token_id": 3}
    torch.manual_seed(0)
    if kind == "clip":
        text = TEXT | words | ends
        model: nn.Module = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=12))
        processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": 32, "width": 32})
    elif kind == "dual":
        vision, text = ViTModel(ViTConfig(**VISION)), BertModel(BertConfig(**TEXT, **words))
        model = VisionTextDualEncoderModel(vision_model=vision, text_model=text)
        processor = ViTImageProcessor(size={"height": 32, "width": 32})
    else:
        model = SiglipModel(SiglipConfig(text_config=TEXT | words | ends, vision_config=VISION))
        processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return folder


def copied(folder: Path, to: Path, weights: dict[str, torch.Tensor] | None = None) -> Path:
    """A copy of a checkpoint, with other weights where they are given."""
    shutil.copytree(folder, to)
    if weights is not None:
        save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return to


def changed(folder: Path, file: str, **entries: object) -> None:
    """Change entries of a JSON file; a name `part__entry` is one of a part."""
    content = json.loads((folder / file).read_text())
    for name, value in entries.items():
        *above, last = name.split("__")
        place = content
        for part in above:
            place = place[part]
        place[last] = value
    (folder / file).write_text(json.dumps(content))
