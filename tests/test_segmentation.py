"""Segmentation: decoders on a tower's own features, Dice by hand, the truth in a crop's pixels."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedConfig, ResNetConfig, ViTConfig

from lgdea_core.data.corpus import Corpus
from lgdea_core.data.phantom import PhantomConfig, generate_study
from lgdea_core.encoders import ImageTower
from lgdea_core.evaluation.segmentation import (
    RSNA,
    SegmentedImages,
    Segmenter,
    balanced_rows,
    batch_mean_dice,
    image_dice,
    lesion_masks,
    mixed_loss,
    segment,
)
from lgdea_core.evaluation.supervised import Examples, Schedule, fit

RESNET = ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 8, 12, 16], depths=[1] * 4, layer_type="basic")
VIT = ViTConfig(
    num_channels=3, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
    image_size=32, patch_size=8,
)  # fmt: skip


def tower(config: PreTrainedConfig) -> ImageTower:
    torch.manual_seed(0)
    return ImageTower(config, 8, 32)


def squares(count: int, seed: int, *, empty: int = 0) -> SegmentedImages:
    """Noise with one bright square; the last `empty` films have none."""
    rng = np.random.default_rng(seed)
    films, masks = rng.normal(80, 10, size=(count, 32, 32)), np.zeros((count, 32, 32), dtype=bool)
    for row in range(count - empty):
        top, left = rng.integers(20, size=2)
        masks[row, top : top + 10, left : left + 10] = True
    crops = torch.from_numpy((films + 120 * masks).clip(0, 255).astype(np.uint8))
    return SegmentedImages(crops, masks, [f"p{row}" for row in range(count)])


# ---- Dice


def test_dice_by_hand() -> None:
    truth, predicted = np.zeros((4, 2, 3), dtype=bool), np.zeros((4, 2, 3), dtype=bool)
    truth[0, 0] = predicted[0, :, 0] = True  # 3 and 2 pixels, 1 shared
    truth[1, 0] = True  # missed
    predicted[2, 1, 1] = True  # one pixel where there is none; the last film has none and none is found
    assert image_dice(predicted, truth).tolist() == [2 * 1 / 5, 0.0, 0.0, 1.0]


def test_the_mean_over_batches_overweights_a_short_last_batch() -> None:
    scores = np.array([1.0, 0.0, 1.0, 0.0, 1.0])
    assert batch_mean_dice(scores, 5) == pytest.approx(0.6)
    assert batch_mean_dice(scores, 2) == pytest.approx((0.5 + 0.5 + 1.0) / 3)


def test_the_loss_is_ten_focal_less_the_logarithm_of_dice() -> None:
    logits = torch.tensor([[[0.3, -1.0], [2.0, 0.0]]])
    masks = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    p = torch.sigmoid(logits)
    focal = -(masks * (1 - p) ** 2 * p.log() + (1 - masks) * p**2 * (1 - p).log()).mean()
    dice = (2 * (p * masks).sum() + 1) / (p.sum() + masks.sum() + 1)
    torch.testing.assert_close(mixed_loss(logits, masks), 10 * focal - dice.log())
    right = mixed_loss(torch.where(masks > 0, 20.0, -20.0), masks)
    assert right.item() == pytest.approx(0, abs=1e-4)


# ---- decoders on the tower's features


@pytest.mark.parametrize("config", [RESNET, VIT], ids=["U-Net", "SETR"])
def test_frozen_leaves_the_encoder_bitwise_and_tuned_changes_it(config: PreTrainedConfig) -> None:
    base, films = tower(config), squares(4, seed=0)
    examples = Examples(films.crops, torch.from_numpy(films.masks).float())
    before = copy.deepcopy(base.state_dict())
    for tuned in (False, True):
        segmenter = Segmenter(base, tuned=tuned)
        fit(segmenter, examples, examples, mixed_loss, replace(RSNA, max_epochs=2), seed=0)
        after = segmenter.encoder.backbone.state_dict()
        own = {name: before[f"backbone.{name}"] for name in after}
        same = [torch.equal(own[name], value) for name, value in after.items()]  # batch norm's means too
        assert all(same) != tuned
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())


@pytest.mark.parametrize("config", [RESNET, VIT], ids=["U-Net", "SETR"])
def test_logits_have_the_films_size_and_depend_on_every_feature_map(config: PreTrainedConfig) -> None:
    segmenter = Segmenter(tower(config), tuned=True).eval()
    crops = squares(2, seed=0).crops
    features: list[torch.Tensor] = []

    def keep(_: nn.Module, __: tuple, output: list[torch.Tensor]) -> None:
        features.extend(output[1:])

    segmenter.encoder.register_forward_hook(keep)
    logits = segmenter(crops)
    assert logits.shape == (2, 32, 32)
    gradients = torch.autograd.grad(logits.sum(), features)
    assert len(features) == (5 if config is RESNET else 1)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("config", [RESNET, VIT], ids=["U-Net", "SETR"])
def test_the_decoder_reads_the_stages_that_the_tower_fuses(config: PreTrainedConfig) -> None:
    base = tower(config).eval()
    segmenter = Segmenter(base).eval()
    pixels = torch.randn(2, config.num_channels, 32, 32)
    with torch.no_grad():
        fused, read = base._stages(pixels), segmenter.encoder(pixels)
    assert torch.equal(read[0], pixels)
    if config is RESNET:
        with torch.no_grad():
            stem = base.backbone.embedder.embedder(pixels)
        assert read[1].shape == (2, 8, 16, 16)
        torch.testing.assert_close(read[1], stem, rtol=0, atol=1e-5)
    first = 2 if config is RESNET else 1
    for theirs, ours in zip(fused, read[first:], strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_a_vit_whose_patches_cannot_be_doubled_to_pixels_is_refused() -> None:
    config = ViTConfig(**{**VIT.to_dict(), "patch_size": 6, "image_size": 30})
    with pytest.raises(ValueError, match="the patch side must be 2, 4, 8 or 16, got 6"):
        Segmenter(ImageTower(config, 8, 30))


@pytest.mark.slow
@pytest.mark.parametrize("config", [RESNET, VIT], ids=["U-Net", "SETR"])
def test_overfits_four_phantom_films(config: PreTrainedConfig) -> None:
    world = PhantomConfig(studies=30, image_size=32, nuisance=0.2)
    crops, masks = [], []
    for index in range(30):
        study = generate_study(world, index)
        mask = np.any(study.masks, axis=0) if study.masks else np.zeros((32, 32), dtype=bool)
        if mask.sum() > 20 and len(crops) < 4:
            crops.append(study.image)
            masks.append(mask)
    films = SegmentedImages(torch.from_numpy(np.stack(crops)), np.stack(masks), list("abcd"))
    schedule = Schedule(learning_rate=1e-2, weight_decay=0.0, batch_size=4, max_epochs=60, patience=60)
    score = segment(tower(config), films, films, films, schedule, seed=0, tuned=True)
    assert score.image.estimate > 0.8


def test_scores_name_their_variant_and_what_an_empty_prediction_reaches() -> None:
    schedule = Schedule(learning_rate=5e-3, weight_decay=0.05, batch_size=8, max_epochs=10)
    train, val, test = squares(24, 0), squares(8, 1), squares(10, 2, empty=4)
    one = tower(RESNET)  # built once, for building it seeds the generators
    score = segment(one, train, val, test, schedule, seed=0)
    assert score.empty == pytest.approx(0.4)
    assert score.positive > 0.5
    assert score.image.n == score.image.patients == 10
    assert score.image.low <= score.image.estimate <= score.image.high
    assert segment(one, train, val, test, schedule, seed=0) == score
    with pytest.raises(ValueError, match="none of the 5 test images has a lesion"):
        segment(tower(RESNET), train, val, squares(5, 3, empty=5), schedule, seed=0)


# ---- truth


def test_siims_training_set_has_all_positives_and_as_many_negatives() -> None:
    positive = np.zeros(50, dtype=bool)
    positive[[3, 17, 40]] = True
    rows = balanced_rows(positive, seed=0)
    assert {3, 17, 40} < set(rows.tolist())
    assert len(set(rows.tolist())) == 6
    assert balanced_rows(positive, seed=0).tolist() == rows.tolist() != balanced_rows(positive, seed=1).tolist()
    assert balanced_rows(~positive, seed=0).tolist() == list(range(50))  # more positives than negatives: all
    with pytest.raises(ValueError, match="none of 4 images has a lesion"):
        balanced_rows(np.zeros(4, dtype=bool), seed=0)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """One film of 80 x 40 pixels with masks of two findings and a box, and a healthy one."""
    for name, rows, columns in (("edema", slice(20, 60), slice(0, 20)), ("nodule", slice(30, 40), slice(30, 40))):
        mask = np.zeros((80, 40), dtype=np.uint8)
        mask[rows, columns] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    names = ["a", "b"]
    box = {"image_id": "a", "study_id": "a", "phrase": "opacity", "finding": "lung opacity", "source": "rsna"}
    box |= {"x_min": 0, "y_min": 512, "x_max": 512, "y_max": 768, "frame_width": 1024, "frame_height": 1024}
    return Corpus(
        name="films",
        root=tmp_path,
        studies=pd.DataFrame({"study_id": names, "patient_id": names, "split": "train", "report": None}),
        images=pd.DataFrame(
            {"image_id": names, "study_id": names, "path": "x.png", "view": "PA", "width": 40, "height": 80}
        ),
        boxes=pd.DataFrame([box]),
        masks=pd.DataFrame(
            {"image_id": "a", "study_id": "a", "finding": ["edema", "nodule"], "path": ["edema.png", "nodule.png"]}
        ),
    )


def test_masks_and_boxes_come_in_the_pixels_of_the_crop(corpus: Corpus) -> None:
    every = lesion_masks(corpus, ["b", "a"], 20, "masks", None)
    assert not every[0].any()  # the healthy film
    expected = np.zeros((20, 20), dtype=bool)  # the crop is rows 20 to 60, at half size
    expected[:, :10] = True
    expected[5:10, 15:] = True
    assert (every[1] == expected).all()
    one = lesion_masks(corpus, ["a"], 20, "masks", "nodule")
    assert one.sum() == 25
    filled = lesion_masks(corpus, ["a", "b"], 20, "boxes", "lung opacity")
    expected = np.zeros((20, 20), dtype=bool)  # rows 40 to 60 of 80, the left half
    expected[10:, :10] = True
    assert (filled[0] == expected).all()
    assert not filled[1].any()


def test_lesions_that_the_crop_does_not_show_are_counted(corpus: Corpus, caplog: pytest.LogCaptureFixture) -> None:
    corpus.boxes.loc[0, ["y_min", "y_max"]] = [0, 256]  # rows 0 to 20 of 80; the crop begins at 20
    assert not lesion_masks(corpus, ["a", "b"], 20, "boxes", None).any()
    assert caplog.messages == ["corpus films: the crops of 1 images show nothing of their lesions"]
    caplog.clear()
    lesion_masks(corpus, ["a", "b"], 20, "masks", None)
    assert not caplog.messages
