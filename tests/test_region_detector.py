"""The region detector: loss and measure by hand, tables that agree with crops, training that beats a constant."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import config

from lgdea_core import region_detector
from lgdea_core.data.phantom import PhantomConfig, build_phantom
from lgdea_core.data.regions import crop_boxes
from lgdea_core.encoders import ImageTower, image_tower_config
from lgdea_core.region_detector import (
    RegionDetector,
    detect_regions,
    detection_loss,
    detection_quality,
    mean_iou,
    train_detector,
)
from lgdea_core.stages import Inputs, inputs_of
from lgdea_core.vocabulary import REGIONS


def test_the_loss_by_hand() -> None:
    boxes = torch.tensor([[[0.25, 0, 0.5, 1], [0, 0, 1, 1]]], dtype=torch.float64, requires_grad=True)
    truth = torch.tensor([[[0.0, 0, 1, 1], [torch.nan] * 4]], dtype=torch.float64)
    visibility = torch.zeros(1, 2, dtype=torch.float64)
    loss = detection_loss(boxes, visibility, truth)  # L1 0.75, GIoU 0.25
    assert loss.item() == pytest.approx(5 * 0.75 + 2 * 0.75 + np.log(2), abs=1e-6)
    loss.backward()
    assert boxes.grad[0, 1].abs().max() == 0  # out of view
    nothing = detection_loss(boxes.detach(), visibility, torch.full_like(truth, torch.nan))
    assert nothing.item() == pytest.approx(np.log(2))


def test_iou_by_hand() -> None:
    truth = torch.tensor([[[0.0, 0, 1, 1], [0, 0, 1, 1]], [[0, 0, 1, 1], [torch.nan] * 4]])
    found = torch.tensor([[[0.0, 0, 0.5, 1], [0, 0, 1, 1]], [[torch.nan] * 4, [0, 0, 1, 1]]])
    assert mean_iou(found, truth, truth.isfinite().all(dim=2)).tolist() == pytest.approx([0.25, 1.0])


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    corpus = build_phantom(PhantomConfig(studies=60, image_size=64), tmp_path_factory.mktemp("p") / "p", progress=False)
    return inputs_of(corpus, config("asg", image_size=64, paired_ratio=1.0), progress=False)


def test_a_table_of_detected_boxes_says_what_the_detector_saw(phantom: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = replace(phantom, corpus=replace(phantom.corpus, images=phantom.corpus.images.assign(width=96, height=64)))
    seen = torch.rand(60, len(REGIONS), 2, generator=torch.Generator().manual_seed(0)) / 2
    boxes = torch.cat([seen, seen + 0.25], dim=2)
    boxes[3, 5] = torch.nan
    monkeypatch.setattr(region_detector, "predict_boxes", lambda detector, crops: boxes)
    detector = RegionDetector(ImageTower(image_tower_config(None, 64), 32, 64))
    table = detect_regions(detector, wide)
    assert len(table) == 60 * len(REGIONS) - 1
    corpus = replace(wide.corpus, regions=table)
    np.testing.assert_allclose(crop_boxes(corpus.regions, corpus.images), boxes, atol=1e-6)


def test_a_corpus_without_boxes_cannot_train_a_detector(phantom: Inputs) -> None:
    bare = replace(phantom, corpus=replace(phantom.corpus, regions=phantom.corpus.regions.iloc[:0]))
    with pytest.raises(ValueError, match="no region boxes in split train"):
        train_detector(config("asg", image_size=64), bare, steps=1, progress=False)


def test_the_same_seed_trains_the_same_detector(phantom: Inputs) -> None:
    run = config("asg", image_size=64)
    first, again = (train_detector(run, phantom, steps=2, batch_size=8, progress=False) for _ in range(2))
    assert isinstance(first, RegionDetector)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.slow
def test_a_trained_detector_beats_one_box_for_all_films(phantom: Inputs) -> None:
    detector = train_detector(config("asg", image_size=64), phantom, steps=100, batch_size=32, progress=False)
    quality = detection_quality(detector, phantom).set_index("region")
    assert quality.loc["mean", "iou"] > quality.loc["mean", "iou_constant"]
    assert quality.loc["right lung", "iou"] > 0.7


def test_the_command_says_how_good_a_detector_is(
    phantom: Inputs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(region_detector, "load_inputs", lambda config: phantom)
    region_detector.main(["--preset", "ci", "--steps", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["region", "iou", "iou_constant", "n"]
    assert len(lines) == 1 + len(REGIONS) + 1
    assert 0 < float(lines[-1].split()[2]) < 1  # the mean box, whatever two steps have learnt
