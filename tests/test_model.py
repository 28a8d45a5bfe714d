"""Towers, lesion tokens and the model's folder: padding, position, precision, and loading what was saved."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from planted import setting
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel, ViTConfig, ViTModel

from lgdea_core.config import RunConfig
from lgdea_core.crops import crop_image
from lgdea_core.encoders import ImageEmbeddings, ImageTower, sine_positions, smooth_maximum, train_tokenizer
from lgdea_core.model import LGDEAModel, LGDEAProcessor, build_model
from lgdea_core.prototypes import LesionQueries

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ["There is a small left pleural effusion.", "No edema. Heart size is normal.", "Right upper lobe opacity."]


@pytest.fixture
def tiny() -> tuple[LGDEAModel, LGDEAProcessor]:
    torch.manual_seed(0)
    return build_model(RunConfig.from_preset("ci"), REPORTS)


def test_embeddings_are_unit_length_and_patches_form_a_square_grid(tiny: tuple) -> None:
    model, _ = tiny
    images = model.encode_images(torch.randn(3, 1, 64, 64))
    grid = model.image_tower.grid
    assert images.patch_embeds.shape == (3, grid * grid, 32)
    for embeds in (images.image_embeds, images.patch_embeds, images.global_patch_embeds):
        torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(embeds.shape[:-1]))


def test_content_of_padding_does_not_matter(tiny: tuple) -> None:
    model, processor = tiny
    model.eval()
    ids, mask = processor.tokens(REPORTS)
    other = torch.where(mask, ids, torch.full_like(ids, 7))
    torch.testing.assert_close(model.encode_texts(ids, mask), model.encode_texts(other, mask))
    longer = torch.nn.functional.pad(ids, (0, 5), value=3)
    padded = model.encode_texts(longer, torch.nn.functional.pad(mask, (0, 5)))
    torch.testing.assert_close(padded, model.encode_texts(ids, mask), atol=1e-5, rtol=0)


def test_a_lesion_moved_to_the_other_side_changes_where_its_patch_lies(tiny: tuple) -> None:
    model, _ = tiny
    model.eval()
    left, right = torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    left[..., 24:40, 8:24] = 1.0
    right[..., 24:40, 40:56] = 1.0
    blank = model.encode_images(torch.zeros(1, 1, 64, 64)).patch_features
    side = model.image_tower.grid

    def column(image: torch.Tensor) -> int:
        change = (model.encode_images(image).patch_features - blank).norm(dim=-1).view(side, side)
        return int(change.sum(dim=0).argmax())

    assert column(left) < side / 2 <= column(right)


def test_positions_tell_left_from_right_and_top_from_bottom() -> None:
    positions = sine_positions(8, 32)[0]
    flat = positions.flatten(1).T
    assert torch.cdist(flat, flat).add(10 * torch.eye(64)).min() > 0.1


def test_smooth_maximum_lies_between_mean_and_maximum() -> None:
    values = torch.randn(2, 9, 5)
    for sharpness, target in ((1e-3, values.mean(dim=1)), (1e3, values.amax(dim=1))):
        torch.testing.assert_close(smooth_maximum(values, sharpness), target, atol=1e-2, rtol=0)


def test_lesion_tokens_do_not_depend_on_the_order_of_patches() -> None:
    queries = LesionQueries(4, 16, 8)
    patches = torch.randn(2, 9, 16)
    order = torch.randperm(9)
    tokens, attention = queries(patches)
    shuffled, moved = queries(patches[:, order])
    torch.testing.assert_close(tokens, shuffled, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(attention[:, :, order], moved, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(2, 4))


# ---- what the local head sees


VIT = ViTConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=64, patch_size=8
)
STAGES = (8, 16, 24)


def tower(kind: str) -> ImageTower:
    torch.manual_seed(0)
    sizes = list(STAGES if kind == "cnn" else STAGES[:1])
    cnn = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=sizes, depths=[1] * len(sizes), layer_type="basic"
    )
    return ImageTower(VIT if kind == "vit" else cnn, dim=12, image_size=64).eval()


def moved_by(kind: str, part: Callable[[ImageTower], nn.Module]) -> set[str]:
    """Names of the embeddings of fixed images that change with a part's weights."""
    module = tower(kind)
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = module(images)
        for weight in part(module).parameters():
            weight += 0.1
        after = module(images)
    return {name for name in ImageEmbeddings._fields if not torch.equal(getattr(before, name), getattr(after, name))}


WHOLE = {"patch_features", "image_embeds", "global_patch_embeds"}


def test_the_local_head_does_not_see_the_last_stage_of_a_cnn() -> None:
    assert len(tower("cnn").laterals) == len(STAGES)
    assert moved_by("cnn", lambda tower: tower.laterals[-1]) == WHOLE
    assert moved_by("cnn", lambda tower: tower.backbone.encoder.stages[-1]) == WHOLE
    assert moved_by("cnn", lambda tower: tower.laterals[:-1]) == {*WHOLE, "patch_embeds"}
    assert moved_by("cnn", lambda tower: tower.laterals[-2]) == {*WHOLE, "patch_embeds"}
    assert moved_by("cnn", lambda tower: tower.fuse) == {*WHOLE, "patch_embeds"}
    assert moved_by("cnn", lambda tower: tower.local_head) == {"patch_embeds"}
    assert moved_by("cnn", lambda tower: tower.global_head) == WHOLE - {"patch_features"}


@pytest.mark.parametrize("kind", ["vit", "one stage"])
def test_where_there_is_one_stage_both_heads_see_it(kind: str) -> None:
    module = tower(kind)
    assert len(module.laterals) == 1
    seen = module(torch.randn(2, 1, 64, 64))
    for embeds, head in ((seen.patch_embeds, module.local_head), (seen.global_patch_embeds, module.global_head)):
        torch.testing.assert_close(embeds, F.normalize(head(seen.patch_features), dim=-1))
    assert moved_by(kind, lambda tower: tower.laterals[-1]) == {*WHOLE, "patch_embeds"}


def test_gradcam_reads_the_features_of_the_image_embedding(tiny: tuple) -> None:
    # the fusing layer runs twice, for both heads: the map must be that of the global head's run
    pytest.importorskip("pytorch_grad_cam")
    from lgdea_core.grounding import gradcam

    model, processor = tiny
    film = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    runs: list[Tensor] = []
    hook = model.image_tower.fuse.register_forward_hook(lambda module, inputs, output: runs.append(output))
    model.eval()
    crops = torch.from_numpy(crop_image(film.numpy(), 64)).unsqueeze(0)
    text = model.encode_texts(*processor.tokens(["left effusion"]))[0]
    cosine = model.encode_images(processor.pixel_values(crops)).image_embeds[0] @ text
    hook.remove()
    (slope,) = torch.autograd.grad(cosine, runs[0])
    heat = (slope.mean(dim=(2, 3), keepdim=True) * runs[0]).sum(dim=1).relu()[0].detach()
    found = torch.from_numpy(gradcam(model, processor, film.numpy(), "left effusion"))
    coarse = F.adaptive_avg_pool2d(found[None], heat.shape[-1])[0]
    assert torch.corrcoef(torch.stack([coarse.flatten(), heat.flatten()]))[0, 1] > 0.95


# ---- folders


def test_a_saved_model_has_weights_without_code_and_a_card_that_warns(tiny: tuple, tmp_path: Path) -> None:
    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".safetensors"}
    assert "Not for clinical use" in (tmp_path / "README.md").read_text()
    again = LGDEAProcessor.from_pretrained(tmp_path)
    assert torch.equal(processor.tokens(REPORTS)[0], again.tokens(REPORTS)[0])
    loaded = LGDEAModel.from_pretrained(tmp_path).image_tower.parameters()
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in loaded if weight.ndim == 4)


def test_a_checkpoint_that_lacks_a_weight_is_refused(tiny: tuple, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model, _ = tiny
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("prototypes")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="prototypes has shape none"):
        LGDEAModel.from_pretrained(tmp_path)


def test_a_folder_without_a_processor_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="processor_config"):
        LGDEAProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_named_towers_bring_their_weights_from_a_folder(kind: str, tmp_path: Path) -> None:
    if kind == "resnet":
        tower = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))
    else:
        config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        config.image_size, config.patch_size = 64, 8
        tower = ViTModel(config)
    tower.save_pretrained(tmp_path / "image")
    text = BertModel(
        BertConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    text.save_pretrained(tmp_path / "text")
    train_tokenizer(REPORTS, vocabulary=60).save_pretrained(tmp_path / "text")
    changes = {"image_tower": str(tmp_path / "image"), "text_tower": str(tmp_path / "text")}
    model, processor = build_model(RunConfig.from_preset("ci", **changes), REPORTS)
    expected = tower.state_dict()
    loaded = model.image_tower.backbone.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.items())
    assert torch.equal(
        model.text_tower.backbone.embeddings.word_embeddings.weight, text.embeddings.word_embeddings.weight
    )
    assert model.encode_images(torch.randn(2, 1, 64, 64)).image_embeds.shape == (2, 32)
    assert model.encode_texts(*processor.tokens(REPORTS)).shape == (3, 32)


@pytest.mark.slow
def test_the_same_texts_give_the_same_tokens_in_every_process() -> None:
    # hash maps are seeded by process: a checkpoint resumed with another vocabulary would read other words
    texts = ["small left pleural effusion", "no pneumothorax or effusion", "mild enlargement of the cardiac silhouette"]
    show = f"print(sorted(train_tokenizer({texts!r}).get_vocab().items()))"
    command = [sys.executable, "-c", f"from lgdea_core.encoders import train_tokenizer\n{show}"]
    there = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert there == f"{sorted(train_tokenizer(texts).get_vocab().items())}\n"
    assert "'##e'" in there


def test_a_learnt_tokenizer_splits_unknown_words_and_marks_only_berts_tokens_special() -> None:
    tokenizer = train_tokenizer(["small left pleural effusion", "no effusion"])
    assert set(tokenizer.all_special_tokens) == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    assert tokenizer.tokenize("Effusion no") == ["effusion", "no"]
    assert tokenizer.tokenize("##e") != ["##e"]  # what looks like a piece in a text is text
    pieces = tokenizer.tokenize("fusion")
    assert "[UNK]" not in pieces
    assert "".join(piece.removeprefix("##") for piece in pieces) == "fusion"


def test_a_model_of_another_version_is_refused_and_not_read_as_another_method(tmp_path: Path) -> None:
    model, processor, _ = setting("gloria")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    old = json.loads(path.read_text()) | {"attended": True}
    del old["method"], old["objective"]
    path.write_text(json.dumps(old))
    with pytest.raises(ValueError, match=r"fields too many: \['attended'\].*\['method', 'objective'\]"):
        LGDEAModel.from_pretrained(tmp_path)
