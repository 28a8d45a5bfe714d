"""Published checkpoints: tiny models of the same classes, saved as folders, through the three tasks."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import FINDINGS, SIDES, PlantedWorld, score_rows
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from lgdea_core.config import RunConfig
from lgdea_core.encoders import train_tokenizer
from lgdea_core.evaluation import checkpoint
from lgdea_core.evaluation.checkpoint import load_published
from lgdea_core.evaluation.zero_shot import zero_shot_scores
from lgdea_core.grounding import patch_maps
from lgdea_core.inference import ImageTextModel, encode_tokens
from lgdea_core.model import LGDEAModel
from lgdea_core.runs import inputs as stages

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


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_tiny(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_the_checkpoint_gives_itself(kind: str, folders: dict[str, Path]) -> None:
    model, processor = load_published(str(folders[kind]))
    assert isinstance(model, ImageTextModel)
    crops = PlantedWorld(3, seed=1).images
    colour = crops.unsqueeze(1).repeat(1, 3, 1, 1)
    pixels = model.image_processor(images=list(colour), return_tensors="pt")["pixel_values"]
    images = model.encode_crops(crops)
    output = model.model.get_image_features(pixel_values=pixels)
    expected = output.pooler_output
    torch.testing.assert_close(images.image_embeds, F.normalize(expected, dim=-1))
    patches = output.last_hidden_state[:, 0 if kind == "siglip" else 1 :]  # without CLS, where there is one
    torch.testing.assert_close(images.patch_embeds, F.normalize(model.project_tokens(patches), dim=-1))
    assert images.patch_embeds.shape == (3, 16, expected.shape[1])
    texts = ["left mass", "there is a right nodule"]
    padding = "max_length" if kind == "siglip" else True  # SigLIP reads its padding
    tokens = processor.tokenizer(texts, padding=padding, truncation=True, max_length=24, return_tensors="pt")
    mask = None if kind == "siglip" else tokens["attention_mask"]
    expected = model.model.get_text_features(input_ids=tokens["input_ids"], attention_mask=mask).pooler_output
    torch.testing.assert_close(encode_tokens(model, *processor.tokens(texts)), F.normalize(expected, dim=-1))


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_sets_may_ask_for_projections_before_normalisation(kind: str, folders: dict[str, Path]) -> None:
    model, processor = load_published(str(folders[kind]))
    tokens = processor.tokens(["left mass", "there is a right nodule"])
    raw = encode_tokens(model, *tokens, normalised=False)
    torch.testing.assert_close(F.normalize(raw, dim=-1), encode_tokens(model, *tokens))
    assert (raw.norm(dim=-1) - 1).abs().max() > 0.01
    assert set(zero_shot_scores(model, processor, PlantedWorld(3, seed=1).images, ["edema"], "gloria")) == {"global"}


@pytest.mark.parametrize("kind", ["clip", "dual"])
def test_a_patch_is_projected_as_the_cls_token_is(kind: str, folders: dict[str, Path]) -> None:
    model, _ = load_published(str(folders[kind]))
    output = model.model.get_image_features(pixel_values=torch.randn(2, 3, 32, 32))
    projected = model.project_tokens(output.last_hidden_state[:, :1])
    torch.testing.assert_close(projected[:, 0], output.pooler_output)


def test_the_only_patch_of_an_image_is_the_image_to_siglips_pooling() -> None:
    torch.manual_seed(0)
    one = SiglipModel(SiglipConfig(text_config=TEXT, vision_config=TEXT | {"image_size": 8, "patch_size": 8})).eval()
    model = checkpoint.PublishedModel(one, SiglipImageProcessor(size={"height": 8, "width": 8})).eval()
    images = model.encode_crops(torch.randint(256, (2, 8, 8), dtype=torch.uint8))
    torch.testing.assert_close(images.patch_embeds[:, 0], images.image_embeds)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_cosines_prompt_by_prompt_and_maps_are_cosines_patch_by_patch(
    kind: str, folders: dict[str, Path]
) -> None:
    model, processor = load_published(str(folders[kind]))
    crops = PlantedWorld(4, seed=1).images
    scores = zero_shot_scores(model, processor, crops, ["mass", "edema"])
    assert set(scores) == {"global"}
    images, texts = score_rows(model, crops, *processor.tokens(["left mass", "right mass"]))
    maps = patch_maps(model, processor, crops, ["left mass", "right mass"], smoothing=0.0)
    assert maps.shape == (4, 2, 4, 4)
    expected = np.einsum("nd,ipd->inp", texts, model.encode_crops(crops).patch_embeds.numpy())
    np.testing.assert_allclose(maps.reshape(4, 2, 16), expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)


def test_texts_are_cut_where_the_text_tower_ends_and_counted(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    _, processor = load_published(str(folders["clip"]))
    with caplog.at_level("INFO", logger="lgdea"):
        ids, mask = processor.tokens(["left mass", "right nodule " * 30])
    assert ids.shape == mask.shape == (2, 24)
    assert "1 of 2 texts fill all 24 tokens" in caplog.text


def test_what_cannot_be_laid_onto_the_film_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"resizes to \{40\} and crops \{32\}: maps would not fit the image"):
        load_published(str(save_tiny("clip", tmp_path / "cut", side=40)))
    resnet = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))
    resnet.save_pretrained(tmp_path / "resnet")
    with pytest.raises(ValueError, match="ResNetModel has no get_image_features; give a dual encoder"):
        load_published(str(tmp_path / "resnet"))


# ---- code and weights of a folder


def copied(folder: Path, to: Path, weights: dict[str, torch.Tensor] | None = None) -> Path:
    """A copy of a checkpoint, with other weights where they are given."""
    shutil.copytree(folder, to)
    if weights is not None:
        save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return to


def with_own_code(folder: Path, file: str, **entries: object) -> tuple[Path, Path]:
    """Python code in the folder, named in one of its configurations; and the mark that it leaves when it is run."""
    mark = folder / "mark"
    code = folder / "own.py"
    code.write_text(f"open({str(mark)!r}, 'w').close()\nclass Own: pass\n")
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | entries))
    return code, mark


@pytest.mark.parametrize("model_type", ["clip", "unheard_of"])
def test_a_model_that_brings_code_is_refused_and_the_code_not_run(
    model_type: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["clip"], tmp_path / "own")
    auto_map = {"AutoConfig": "own.Own", "AutoModel": "own.Own"}
    code, mark = with_own_code(folder, "config.json", model_type=model_type, auto_map=auto_map)
    message = r"own: config.json asks for code of its own \(auto_map: AutoConfig, AutoModel\), which is never run; save"
    with pytest.raises(ValueError, match=message):
        load_published(str(folder))
    assert not mark.exists()
    runpy.run_path(str(code))
    assert mark.exists(), "the code leaves its mark, were it run"


@pytest.mark.parametrize(
    ("file", "auto_map"),
    [
        ("tokenizer_config.json", {"AutoTokenizer": ["own.Own", None]}),
        ("preprocessor_config.json", {"AutoImageProcessor": "own.Own"}),
    ],
)
def test_code_of_tokenizer_and_image_processor_is_not_run(
    file: str, auto_map: dict, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["clip"], tmp_path / "own")
    _, mark = with_own_code(folder, file, auto_map=auto_map)
    model, processor = load_published(str(folder))
    assert not mark.exists()
    for part in (model.image_processor, processor.tokenizer):
        assert type(part).__module__.startswith("transformers.")


def test_position_ids_of_older_versions_of_transformers_change_nothing(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    weights = load_file(folders["clip"] / "model.safetensors")
    buffers = {"text_model.embeddings.position_ids": 24, "vision_model.embeddings.position_ids": 17}
    assert not set(buffers) & set(weights)
    old = weights | {name: torch.arange(length).unsqueeze(0) for name, length in buffers.items()}
    crops, read, embeds = PlantedWorld(3, seed=1).images, [], []
    for folder in (folders["clip"], copied(folders["clip"], tmp_path / "old", old)):
        model, processor = load_published(str(folder))
        # clones: where a weight lies in the file, hence in memory, changes the rounding
        model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
        read.append([*model.state_dict().values(), *model.buffers()])
        embeds.append((model.encode_crops(crops).image_embeds, encode_tokens(model, *processor.tokens(["left mass"]))))
    assert len(read[0]) == len(weights) + len(buffers)
    for pair in (*zip(*read, strict=True), *zip(*embeds, strict=True)):
        assert torch.equal(*pair)


def test_weights_in_half_precision_are_measured_in_float32(folders: dict[str, Path], tmp_path: Path) -> None:
    weights = {name: tensor.bfloat16() for name, tensor in load_file(folders["clip"] / "model.safetensors").items()}
    folder = copied(folders["clip"], tmp_path / "half", weights)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"dtype": "bfloat16"}))
    model, _ = load_published(str(folder))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (["visual_projection.weight"], r"of CLIPModel are missing \(1, such as visual_projection.weight\) and would"),
        (["text_model.final_layer_norm.bias", "logit_scale"], r"of CLIPModel are missing \(2, such as logit_scale\)"),
    ],
)
def test_a_checkpoint_without_all_its_weights_is_refused(
    lost: list[str], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    weights = load_file(folders["clip"] / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if name not in lost}
    assert len(kept) == len(weights) - len(lost)
    with pytest.raises(ValueError, match=message):
        load_published(str(copied(folders["clip"], tmp_path / "part", kept)))


def test_a_checkpoint_that_is_cut_or_too_large_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["clip"], tmp_path / "cut")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{folder}: weights that are cut"):
        load_published(str(folder))
    (folder / "model.safetensors").write_bytes(whole)
    settings = json.loads((folder / "config.json").read_text())
    settings["text_config"]["num_hidden_layers"] = 10**9
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"text_config\.num_hidden_layers is 1000000000, at most 256"):
        load_published(str(folder))


@pytest.mark.slow
def test_the_command_writes_the_table_of_all_three_tasks(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(stages, "project_root", lambda: tmp_path)
    monkeypatch.setattr(checkpoint, "load_corpus_of", lambda data, seed: planted_corpus(tmp_path, data.image_size))
    options = ["--preset", "ci", "--prompts", "chexzero", "--device", "cpu", "--json", str(tmp_path / "out.json")]
    checkpoint.main([str(folders["clip"]), *options])
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["model"], found["prompts"]) == (str(folders["clip"]), "chexzero")
    assert {row["task"] for row in found["metrics"]} == {"zero-shot", "grounding", "retrieval"}
    pools = {row["metric"]: row["pool"] for row in found["metrics"]}
    assert (pools["auc"], pools["recall_at_5_text_to_image"], pools["precision_at_10"]) == (None, 84, 84)
    assert pools["recall_at_10"] < 84  # distinct texts
    estimates = [row["estimate"] for row in found["metrics"] if row["metric"] == "auc" and row["finding"] == "macro"]
    assert 0 < estimates[0] < 1
    metrics = {row["metric"] for row in found["metrics"] if row["task"] == "zero-shot"}
    # no thresholds of validation, all studies being test studies; each shows one finding, hence the argmax
    assert metrics == {"auc", "auc_global", "ap", "f1_oracle", "accuracy_oracle", "accuracy_argmax"}
    with pytest.raises(ValueError, match="no prompt set 'clip'"):
        checkpoint.evaluate_checkpoint("nowhere", RunConfig.from_preset("ci"), prompts="clip")
    with pytest.raises(SystemExit):
        checkpoint.main(["--help"])
    assert "hub id, or a folder" in capsys.readouterr().out


def planted_corpus(root: Path, side: int) -> object:
    """A folder corpus of the planted world, all of it test studies."""
    import pandas as pd
    from PIL import Image

    from lgdea_core.data.corpora import load_corpus

    assert side == 32  # the checkpoint's, not the preset's
    world = PlantedWorld(84, seed=2)
    (root / "images").mkdir(exist_ok=True)
    studies, labels, boxes = [], [], []
    for i, (image, label) in enumerate(zip(world.images.numpy(), world.labels.tolist(), strict=True)):
        kind, place = divmod(label, len(SIDES))
        Image.fromarray(image).save(root / "images" / f"s{i}.png")
        studies.append((f"s{i}", f"p{i}", "test", world.reports[i], f"images/s{i}.png"))
        labels += [(f"s{i}", name, int(name == FINDINGS[kind])) for name in FINDINGS]
        left, top = (18, 2)[place], 1 + 8 * kind
        phrase = f"{SIDES[place]} {FINDINGS[kind]}"
        boxes.append((f"s{i}", phrase, FINDINGS[kind], left, top, left + 12, top + 6))
    columns = ["study_id", "patient_id", "split", "report", "image"]
    pd.DataFrame(studies, columns=columns).to_csv(root / "studies.csv", index=False)
    pd.DataFrame(labels, columns=["study_id", "finding", "value"]).to_csv(root / "labels.csv", index=False)
    columns = ["study_id", "phrase", "finding", "x_min", "y_min", "x_max", "y_max"]
    pd.DataFrame(boxes, columns=columns).to_csv(root / "boxes.csv", index=False)
    return load_corpus("folder", root)


def test_our_own_model_is_such_a_model_too() -> None:
    from planted import config

    model, _ = PlantedWorld(6, seed=0).model(config("clip"))
    assert isinstance(model, LGDEAModel)
    assert isinstance(model, ImageTextModel)
