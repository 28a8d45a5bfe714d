"""Published dual encoders as a run's start: what they give by themselves, what training makes of them, the way back."""

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import PlantedWorld, config, score_rows
from published_folders import KINDS, TEXT, VISION, changed, copied, save_tiny
from safetensors.torch import load_file
from tokenizers import processors
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipModel,
    T5Config,
    T5Model,
    ViTConfig,
    ViTModel,
)

from lgdea_core.batch import one_text
from lgdea_core.config import ModelConfig, RunConfig
from lgdea_core.encoders import Pixels, special_ids, train_tokenizer
from lgdea_core.evaluation.checkpoint import load_published
from lgdea_core.evaluation.zero_shot import zero_shot_scores
from lgdea_core.grounding import gradcam, load, patch_maps
from lgdea_core.inference import ImageTextModel, encode_tokens
from lgdea_core.model import LGDEAModel, LGDEAProcessor, build_model
from lgdea_core.published import PublishedImageTower, fitted
from lgdea_core.training.loop import start_state

TEXTS = ["left mass", "there is a right nodule"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_tiny(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, tuple[LGDEAModel, LGDEAProcessor]]:
    return {kind: load_published(str(folder)) for kind, folder in folders.items()}


def by_transformers(folder: Path, kind: str, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of crops and of `TEXTS` by the classes that transformers reads a folder with."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=list(crops.unsqueeze(1).repeat(1, 3, 1, 1)), return_tensors="pt")["pixel_values"]
    padding = "max_length" if kind == "siglip" else True  # SigLIP reads its padding
    tokens = tokenizer(TEXTS, padding=padding, truncation=True, max_length=24, return_tensors="pt")
    mask = None if kind == "siglip" else tokens["attention_mask"]
    with torch.no_grad():
        images = model.get_image_features(pixel_values=pixels).pooler_output
        texts = model.get_text_features(input_ids=tokens["input_ids"], attention_mask=mask).pooler_output
    return F.normalize(images, dim=-1), F.normalize(texts, dim=-1)


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_the_checkpoint_gives_itself(kind: str, folders: dict, loaded: dict) -> None:
    model, processor = loaded[kind]
    assert isinstance(model, ImageTextModel)
    crops = PlantedWorld(3, seed=1).images
    images, texts = by_transformers(folders[kind], kind, crops)
    seen = model.encode_crops(crops)
    torch.testing.assert_close(seen.image_embeds, images, atol=1e-6, rtol=0)
    assert seen.global_patch_embeds.shape == (3, 16, images.shape[1])
    torch.testing.assert_close(encode_tokens(model, *processor.tokens(TEXTS)), texts, atol=1e-6, rtol=0)
    raw = encode_tokens(model, *processor.tokens(TEXTS), normalised=False)  # as some prompt sets ask
    torch.testing.assert_close(F.normalize(raw, dim=-1), texts, atol=1e-6, rtol=0)
    assert (raw.norm(dim=-1) - 1).abs().max() > 0.01
    tokens = model.text_tower.with_tokens(*processor.tokens(TEXTS))
    assert tokens.token_embeds.shape[:2] == processor.tokens(TEXTS)[0].shape
    assert gradcam(model, processor, crops[0].numpy() / np.float32(255), "left mass").max() > 0


@pytest.mark.parametrize("kind", ["clip", "dual"])
def test_a_patch_is_projected_as_the_cls_token_is(kind: str, loaded: dict) -> None:
    tower = loaded[kind][0].image_tower
    output = tower.backbone(pixel_values=torch.randn(2, 3, 32, 32))
    alone = tower._alone(output.last_hidden_state[:, :1])
    torch.testing.assert_close(alone[:, 0], tower.projection(output.pooler_output))


def test_the_only_patch_of_an_image_is_the_image_to_siglips_pooling() -> None:
    torch.manual_seed(0)
    one = SiglipModel(SiglipConfig(text_config=TEXT, vision_config=TEXT | {"image_size": 8, "patch_size": 8})).eval()
    images = PublishedImageTower(one, Pixels(3, [0.5] * 3, [0.5] * 3)).eval()(torch.rand(2, 1, 8, 8))
    torch.testing.assert_close(images.global_patch_embeds[:, 0], images.image_embeds)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_cosines_prompt_by_prompt_and_maps_are_cosines_patch_by_patch(kind: str, loaded: dict) -> None:
    model, processor = loaded[kind]
    crops = PlantedWorld(4, seed=1).images
    for prompts in ({}, {"prompts": "gloria"}):
        assert set(zero_shot_scores(model, processor, crops, ["edema"], **prompts)) == {"global"}
    images, texts = score_rows(model, crops, *processor.tokens(["left mass", "right mass"]))
    maps = patch_maps(model, processor, crops, ["left mass", "right mass"], smoothing=0.0)
    assert maps.shape == (4, 2, 4, 4)
    patches = model.encode_crops(crops).global_patch_embeds.detach().numpy()
    np.testing.assert_allclose(maps.reshape(4, 2, 16), np.einsum("nd,ipd->inp", texts, patches), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)


def test_texts_are_cut_where_the_text_tower_ends_and_counted(
    folders: dict, loaded: dict, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="lgdea"):
        ids, mask = loaded["clip"][1].tokens(["left mass", "right nodule " * 30])
        assert ids.shape == mask.shape == (2, 24)
        assert "1 of 2 texts fill all 24 tokens" in caplog.text
        run = started(folders["clip"])
        _, processor = build_model(RunConfig.from_preset("ci", method="clip", **run | {"max_tokens": 64}), [])
    assert "the text tower ends at 24 tokens: longer texts are cut there, not at 64" in caplog.text
    assert processor.max_tokens == 24


def started(folder: Path) -> dict[str, object]:
    """What a run from one of these folders sets."""
    dim = 16 if "siglip" in str(folder) else 512 if "dual" in str(folder) else 12
    return {"model_start": str(folder), "dim": dim, "image_size": 32, "max_tokens": 24}


def test_a_mean_and_deviation_of_each_channel_or_each_image_by_itself() -> None:
    grey = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(Pixels(3, [0.5, 0.4, 0.1], [0.2, 0.3, 1.0])(grey)[:, 1:2], (grey - 0.4) / 0.3)
    alone = Pixels(3)(grey)
    assert alone.shape == (2, 3, 4, 4)
    torch.testing.assert_close(alone[1].mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="reads 4 channels; grey images can be given 1 or 3"):
        Pixels(4)


# ---- training from there, and the way back


@pytest.fixture(scope="module")
def world() -> PlantedWorld:
    return PlantedWorld(32)


def trained(world: PlantedWorld, folder: Path, to: Path, method: str, **changes: object) -> tuple:
    """Run, model and processor after 20 steps from a folder, or as many as the changes say."""
    run = fitted(config(method, model_start=str(folder), batch_size=8, learning_rate=1e-3, **changes))
    model, processor, _ = world.train(run, 16, to)
    return run, model.eval(), processor


@pytest.mark.parametrize(
    ("kind", "method", "tuning"),
    [
        ("clip", "lgdea", "lora"),
        ("siglip", "gloria", "full"),
        ("dual", "clip", "full"),
        pytest.param("clip", "gloria", "full", marks=pytest.mark.slow),
        pytest.param("siglip", "clip", "lora", marks=pytest.mark.slow),
    ],
)
def test_what_was_trained_is_read_again_by_us_and_by_transformers(
    kind: str, method: str, tuning: str, folders: dict, world: PlantedWorld, tmp_path: Path
) -> None:
    _, model, processor = trained(world, folders[kind], tmp_path / "run", method, tuning=tuning)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    again, read = load(tmp_path / "model", device="cpu")
    assert not any("lora" in name for name in again.state_dict()), "adapters are added to what they adapt"
    model.export(tmp_path / "export", processor)
    images, texts = by_transformers(tmp_path / "export", kind, world.images[:3])
    with torch.no_grad():
        for ours in (model, again):
            seen = ours.encode_crops(world.images[:3]).image_embeds
            torch.testing.assert_close(seen, images, atol=1e-6, rtol=0)
            torch.testing.assert_close(ours.encode_texts(*read.tokens(TEXTS)), texts, atol=1e-6, rtol=0)
    before = by_transformers(folders[kind], kind, world.images[:3])
    assert all((one - other).abs().max() > 1e-3 for one, other in zip(before, (images, texts), strict=True))
    dual = AutoModel.from_pretrained(tmp_path / "export")
    assert type(dual) is type(AutoModel.from_pretrained(folders[kind]))
    torch.testing.assert_close(dual.logit_scale.reshape(()), again.log_logit_scale, atol=1e-6, rtol=0)
    card = (tmp_path / "export" / "README.md").read_text()
    assert "Not for clinical use" in card
    assert "license: other" in card, "published weights keep their own"
    exported, _ = load_published(str(tmp_path / "export"))  # and a run may start from it once more
    torch.testing.assert_close(exported.encode_crops(world.images[:3]).image_embeds, images, atol=1e-6, rtol=0)


def moved(model: LGDEAModel, before: dict[str, torch.Tensor]) -> set[str]:
    """Parts of a model with a weight that is another than before."""
    state = {name.replace("base_layer.", ""): value for name, value in model.state_dict().items()}
    return {".".join(name.split(".")[:2]) for name, value in before.items() if not torch.equal(value, state[name])} & {
        "image_tower.backbone",
        "text_tower.backbone",
        "image_tower.projection",
        "text_tower.head",
    }


@pytest.mark.parametrize(
    ("tuning", "still"),
    [
        ("locked image", {"image_tower.backbone"}),
        ("locked text", {"text_tower.backbone"}),
        ("locked", {"image_tower.backbone", "text_tower.backbone"}),
        ("lora", {"image_tower.backbone", "text_tower.backbone"}),
        ("full", set()),
    ],
)
def test_what_is_locked_stays_and_heads_always_learn(
    tuning: str, still: set[str], folders: dict, loaded: dict, world: PlantedWorld, tmp_path: Path
) -> None:
    steps = {"text_steps": 0, "pair_steps": 2, "relation_steps": 0, "tuning": tuning}
    _, model, _ = trained(world, folders["clip"], tmp_path, "clip", **steps)
    parts = {"image_tower.backbone", "text_tower.backbone", "image_tower.projection", "text_tower.head"}
    assert moved(model, loaded["clip"][0].state_dict()) == parts - still
    model.train()
    for tower in (model.image_tower, model.text_tower):
        assert tower.backbone.training == (not tower.locked)
    assert model.image_tower.locked == (tuning in ("locked", "locked image"))
    adapters = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    assert all(weight.abs().max() > 0 for weight in adapters)
    assert bool(adapters) == (tuning == "lora")


def test_published_weights_may_learn_more_slowly(folders: dict, world: PlantedWorld) -> None:
    run = config("clip", **started(folders["clip"]), published_factor=0.25)
    state = start_state(world.model(run)[0], run)
    rates = {id(weight): group["factor"] for group in state.optimizer.param_groups for weight in group["params"]}
    factors = {name: rates[id(weight)] for name, weight in state.model.named_parameters()}
    assert len(factors) == len(rates), "every weight in one group"
    slow = {name for name, factor in factors.items() if factor == 0.25}
    heads = {"image_tower.projection.weight", "text_tower.head.weight"}
    assert slow == {name for name in factors if ".backbone." in name} | heads


@pytest.mark.parametrize("tuning", ["locked image", "lora"])
def test_tuning_is_about_published_weights(tuning: str) -> None:
    with pytest.raises(ValueError, match=rf"tuning '{tuning}' is about published weights: name model_start"):
        ModelConfig(tuning=tuning)
    with pytest.raises(ValueError, match="model_start brings both towers"):
        ModelConfig(model_start="a", text_tower="b")
    assert RunConfig.from_preset("paper", model_start="a", tuning=tuning).model.image_tower is None


def test_a_run_that_does_not_fit_its_start_is_told_what_to_set(folders: dict) -> None:
    with pytest.raises(ValueError, match=r"by image_size=32, dim=12, the run has image_size=64, dim=32; set"):
        build_model(RunConfig.from_preset("ci", method="clip", model_start=str(folders["clip"])), [])


# ---- what is refused


def breakings(folders: dict[str, Path], to: Path) -> Iterator[tuple[str, Path]]:
    """Folders with one fault each, and what is said of it."""

    def clip(name: str, kind: str = "clip") -> Path:
        return copied(folders[kind], to / name)

    (folder := clip("processor")).joinpath("preprocessor_config.json").unlink()
    yield "no image processor can be read there", folder
    folder = clip("tokenizer")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    yield "no tokenizer can be read there|its tokenizer has", folder
    train_tokenizer(["many other words " + " ".join(map(str, range(500)))]).save_pretrained(folder := clip("words"))
    yield "files are missing or of another model", folder
    changed(folder := clip("plain"), "preprocessor_config.json", do_normalize=False)
    yield "its image processor does not normalise", folder
    changed(folder := clip("size"), "preprocessor_config.json", **dict.fromkeys(("size", "crop_size"), SQUARE))
    yield "makes images of 40 pixels, its image tower reads 32", folder
    yield "resizes to {40} and crops {32}: maps would not fit the image", save_tiny("clip", to / "cut", side=40)
    changed(folder := clip("channels"), "config.json", vision_config__num_channels=4)
    yield "the image tower reads 4 channels; grey images can be given 1 or 3", folder
    changed(folder := clip("oblong"), "config.json", vision_config__image_size=[32, 16])
    yield "no model can be built from it|has no square patches of a square image", folder
    changed(folder := clip("means"), "preprocessor_config.json", image_mean=[0.5], image_std=[0.5])
    yield "reads 3 channels, its preprocessing has 1 means", folder
    changed(folder := clip("wide"), "config.json", projection_dim=13)
    yield "weights that are cut or do not fit config.json", folder
    changed(folder := clip("apart", "siglip"), "config.json", text_config__projection_size=8)
    yield "projects images to width 16 and texts to 8; expected linear projections", folder
    changed(folder := clip("layers"), "config.json", text_config__num_hidden_layers=10**9)
    yield "text_config.num_hidden_layers is 1000000000, at most 256", folder
    whole = (folder := clip("half")).joinpath("model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    yield f"{folder}: weights that are cut", folder
    weights = load_file(folders["clip"] / "model.safetensors")
    for lost, said in (
        (["visual_projection.weight"], "of CLIPModel are missing (1, such as visual_projection.weight) and would"),
        (["text_model.final_layer_norm.bias", "logit_scale"], "of CLIPModel are missing (2, such as logit_scale)"),
    ):
        kept = {name: tensor for name, tensor in weights.items() if name not in lost}
        yield said, copied(folders["clip"], to / f"lost{len(lost)}", kept)
    resnet = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))
    resnet.save_pretrained(to / "resnet")
    yield "ResNetModel has no get_image_features; give a dual encoder", to / "resnet"


SQUARE = {"height": 40, "width": 40}


def test_a_folder_with_a_fault_is_refused_and_told_what_to_do(folders: dict, tmp_path: Path) -> None:
    for message, folder in breakings(folders, tmp_path):
        with pytest.raises(ValueError) as refused:  # noqa: PT011
            load_published(str(folder))
        assert any(part in str(refused.value) for part in message.split("|")), refused.value
        assert str(folder) in str(refused.value)


def test_a_class_that_pools_in_another_way_is_refused(folders: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = CLIPModel.get_text_features

    def last(self: CLIPModel, **inputs: torch.Tensor) -> object:
        output = theirs(self, **inputs)
        output.pooler_output = self.text_projection(output.last_hidden_state[:, 0])
        return output

    monkeypatch.setattr(CLIPModel, "get_text_features", last)
    with pytest.raises(ValueError, match="CLIPModel pools texts in a way that is not read here"):
        load_published(str(folders["clip"]))


def with_own_code(folder: Path, file: str, **entries: object) -> tuple[Path, Path]:
    """Python code in the folder, named in one of its configurations; and the mark that it leaves when it is run."""
    mark = folder / "mark"
    code = folder / "own.py"
    code.write_text(f"open({str(mark)!r}, 'w').close()\nclass Own: pass\n")
    changed(folder, file, **entries)
    return code, mark


@pytest.mark.parametrize("model_type", ["clip", "unheard_of"])
def test_a_model_that_brings_code_is_refused_and_the_code_not_run(
    model_type: str, folders: dict, tmp_path: Path
) -> None:
    folder = copied(folders["clip"], tmp_path / "own")
    auto_map = {"AutoConfig": "own.Own", "AutoModel": "own.Own"}
    code, mark = with_own_code(folder, "config.json", model_type=model_type, auto_map=auto_map)
    message = r"own: config.json asks for code of its own \(auto_map: AutoConfig, AutoModel\), which is never run; save"
    for changes in ({"model_start": str(folder)}, {"text_tower": str(folder)}, {"image_tower": str(folder)}):
        with pytest.raises(ValueError, match=message):
            fitted_or_built(changes)
    assert not mark.exists()
    runpy.run_path(str(code))
    assert mark.exists(), "the code leaves its mark, were it run"


def fitted_or_built(changes: dict[str, str]) -> None:
    run = RunConfig.from_preset("ci", method="clip", **changes)
    build_model(fitted(run) if "model_start" in changes else run, TEXTS)


@pytest.mark.parametrize(
    ("file", "auto_map"),
    [
        ("tokenizer_config.json", {"AutoTokenizer": ["own.Own", None]}),
        ("preprocessor_config.json", {"AutoImageProcessor": "own.Own"}),
    ],
)
def test_code_of_tokenizer_and_image_processor_is_not_run(
    file: str, auto_map: dict, folders: dict, tmp_path: Path
) -> None:
    folder = copied(folders["clip"], tmp_path / "own")
    _, mark = with_own_code(folder, file, auto_map=auto_map)
    _, processor = load_published(str(folder))
    assert not mark.exists()
    assert type(processor.tokenizer).__module__.startswith("transformers.")


def test_position_ids_of_older_versions_and_half_precision_change_little(folders: dict, tmp_path: Path) -> None:
    weights = load_file(folders["clip"] / "model.safetensors")
    buffers = {"text_model.embeddings.position_ids": 24, "vision_model.embeddings.position_ids": 17}
    assert not set(buffers) & set(weights)
    old = weights | {name: torch.arange(length).unsqueeze(0) for name, length in buffers.items()}
    half = copied(folders["clip"], tmp_path / "half", {name: value.bfloat16() for name, value in weights.items()})
    changed(half, "config.json", dtype="bfloat16")
    crops = PlantedWorld(3, seed=1).images
    expected, _ = by_transformers(folders["clip"], "clip", crops)
    for folder, near in ((copied(folders["clip"], tmp_path / "old", old), 1e-6), (half, 0.05)):
        model, _ = load_published(str(folder))
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        torch.testing.assert_close(model.encode_crops(crops).image_embeds, expected, atol=near, rtol=0)


def test_a_saved_folder_with_a_field_that_nobody_knows_is_refused(loaded: dict, tmp_path: Path) -> None:
    for part in loaded["clip"]:
        part.save_pretrained(tmp_path)
    changed(tmp_path, "config.json", dual__text_config__evil=1)
    with pytest.raises(ValueError, match=r"unknown fields of dual.text_config: evil"):
        load(tmp_path, device="cpu")
    model, processor = build_model(RunConfig.from_preset("ci", method="clip"), TEXTS)
    with pytest.raises(ValueError, match="did not start from a published dual encoder; use save_pretrained"):
        model.export(tmp_path, processor)


# ---- towers by themselves


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of single towers."""
    root, tokenizer = tmp_path_factory.mktemp("towers"), train_tokenizer(PlantedWorld(30).reports, vocabulary=120)
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 24}
    clip = CLIPModel(CLIPConfig(text_config=TEXT | words, vision_config=VISION, projection_dim=12))
    t5 = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    parts = {
        "bert": BertModel(BertConfig(**TEXT, **words)),
        "clip_text": clip.text_model,
        "t5": T5Model(t5),
        "vit": ViTModel(ViTConfig(**VISION)),
        "clip_image": clip.vision_model,
        "four": ViTModel(ViTConfig(**VISION, num_channels=4)),
    }
    for name, part in parts.items():
        part.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return {name: str(root / name) for name in parts}


@pytest.mark.parametrize("text", ["bert", "clip_text", None])
@pytest.mark.parametrize("image", ["vit", "clip_image", None])
def test_any_image_tower_goes_with_any_text_tower(image: str | None, text: str | None, towers: dict) -> None:
    run = config("clip", image_tower=towers.get(image), text_tower=towers.get(text))
    model, processor = build_model(run, PlantedWorld(20).reports)
    assert (model.image_tower.published, model.text_tower.published) == (image is not None, text is not None)
    assert processor.max_tokens == (64 if text is None else 24)
    images = model.encode_crops(PlantedWorld(2).images)
    assert images.image_embeds.shape == model.encode_texts(*processor.tokens(TEXTS)).shape == (2, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_tower": "t5"}, "text tower .*: 't5' is no encoder of texts"),
        ({"text_tower": "vit"}, "text tower .*: 'vit' is no encoder of texts"),
        ({"image_tower": "bert"}, "no model can be built of them"),
        ({"image_tower": "four"}, "reads 4 channels; grey images can be given 1 or 3"),
        ({"image_tower": "vit", "image_size": 64}, "with images of 64 pixels: no model can be built of them"),
        ({"text_tower": "bert", "tuning": "locked image"}, "tuning 'locked image' is about published weights"),
    ],
)
def test_towers_that_do_not_fit_are_refused(changes: dict, message: str, towers: dict) -> None:
    named = {name: towers.get(value, value) for name, value in changes.items()}
    with pytest.raises(ValueError, match=message):
        build_model(config("clip", **named), TEXTS)


def test_a_tower_with_a_missing_weight_and_one_without_linear_layers_are_refused(towers: dict, tmp_path: Path) -> None:
    weights = load_file(Path(towers["bert"]) / "model.safetensors")
    lost = "encoder.layer.0.output.dense.weight"
    folder = copied(Path(towers["bert"]), tmp_path / "bert", {n: w for n, w in weights.items() if n != lost})
    with pytest.raises(ValueError, match=rf"tensors of BertModel are missing \(1, such as {lost}\)"):
        build_model(config("clip", text_tower=str(folder)), TEXTS)
    resnet = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))
    resnet.save_pretrained(tmp_path / "resnet")
    with pytest.raises(ValueError, match=r"the image tower \(ResNetModel\) has none; take 'full', or 'locked'"):
        build_model(config("clip", image_tower=str(tmp_path / "resnet"), tuning="lora"), TEXTS)


def test_what_stands_around_a_text_is_the_tokenizers_own() -> None:
    tokenizer = train_tokenizer(TEXTS)
    assert special_ids(tokenizer) == (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    end = [("[SEP]", tokenizer.sep_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=end)
    data = PlantedWorld(8).training(4, tokenizer)
    assert data.special_ids == (None, tokenizer.sep_token_id, tokenizer.pad_token_id)
    assert one_text([[7, 8], [9]], data) == [7, 8, 9, tokenizer.sep_token_id]
    without = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="its tokenizer has padding None and 1 tokens around a text"):
        special_ids(without)


def test_the_configuration_of_a_saved_model_is_json_of_plain_values(loaded: dict, tmp_path: Path) -> None:
    loaded["siglip"][0].save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert (values["pixel_mean"], values["pad_to"], values["dual"]["model_type"]) == ([0.5] * 3, 24, "siglip")
