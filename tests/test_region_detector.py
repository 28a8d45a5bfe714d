"""The region detector: loss and measure by hand, tables that agree with crops, training that beats a constant."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import config

from lgdea_core import region_detector
from lgdea_core.artifacts import start_run
from lgdea_core.data.phantom import PhantomConfig, build_phantom
from lgdea_core.data.regions import crop_boxes
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.region_detector import (
    DETECTED,
    RegionDetector,
    detect_regions,
    detection_loss,
    detection_quality,
    mean_iou,
    predict_boxes,
    train_detector,
    with_detected_regions,
)
from lgdea_core.stages import Inputs, inputs_of, train_asg
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


def without_regions(phantom: Inputs, first: int) -> Inputs:
    """The phantom with region boxes of its first films only."""
    corpus = phantom.corpus
    kept = corpus.regions["image_id"].isin(corpus.images["image_id"].iloc[:first])
    return replace(phantom, corpus=replace(corpus, regions=corpus.regions[kept]))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with random weights, but for a bias by which every region is in view."""
    torch.manual_seed(0)
    detector = RegionDetector.of(config("asg", image_size=64))
    torch.nn.init.constant_(detector.bias[:, 4], 10.0)
    folder = tmp_path_factory.mktemp("detectors") / "untrained"
    detector.save_pretrained(folder)
    return folder


def test_a_table_of_detected_boxes_says_what_the_detector_saw(phantom: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = replace(phantom, corpus=replace(phantom.corpus, images=phantom.corpus.images.assign(width=96, height=64)))
    seen = torch.rand(60, len(REGIONS), 2, generator=torch.Generator().manual_seed(0)) / 2
    boxes = torch.cat([seen, seen + 0.25], dim=2)
    boxes[3, 5] = torch.nan
    monkeypatch.setattr(region_detector, "predict_boxes", lambda detector, crops: boxes)
    table = detect_regions(RegionDetector.of(config("asg", image_size=64)), wide)
    assert len(table) == 60 * len(REGIONS) - 1
    assert set(table["source"]) == {DETECTED}
    corpus = replace(wide.corpus, regions=table)
    np.testing.assert_allclose(crop_boxes(corpus.regions, corpus.images), boxes, atol=1e-6)


def test_a_corpus_without_boxes_cannot_train_a_detector(phantom: Inputs) -> None:
    with pytest.raises(ValueError, match="no region boxes in split train"):
        train_detector(config("asg", image_size=64), without_regions(phantom, 0), steps=1, progress=False)


def test_the_same_seed_trains_the_same_detector(phantom: Inputs) -> None:
    run = config("asg", image_size=64)
    first, again = (train_detector(run, phantom, steps=2, batch_size=8, progress=False) for _ in range(2))
    assert isinstance(first, RegionDetector)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_a_saved_detector_finds_the_same(phantom: Inputs, saved: Path, tmp_path: Path) -> None:
    crops = phantom.crops(phantom.store.image_ids[:4])
    detector = RegionDetector.from_pretrained(saved)
    detector.save_pretrained(tmp_path)
    first, again = (predict_boxes(RegionDetector.from_pretrained(folder), crops) for folder in (saved, tmp_path))
    assert first.isfinite().all()
    assert torch.equal(first, again)
    assert not detector.training
    with pytest.raises(FileNotFoundError, match="no region detector there; make one: python -m lgdea_core"):
        RegionDetector.from_pretrained(tmp_path / "none")


def test_films_go_where_the_detector_is(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def places(block: torch.Tensor) -> torch.Tensor:
        raise LookupError(block.device.type)

    monkeypatch.setattr(region_detector, "pixel_values", places)
    detector = RegionDetector.from_pretrained(saved).to("meta")
    with pytest.raises(LookupError, match="meta"):
        predict_boxes(detector, torch.zeros(1, 64, 64, dtype=torch.uint8))


def test_films_without_boxes_get_the_detectors_and_the_others_keep_theirs(phantom: Inputs, saved: Path) -> None:
    partly = without_regions(phantom, 20)
    found = with_detected_regions(partly, saved).corpus.regions
    own = found["source"] == phantom.corpus.name
    assert own.sum() == len(partly.corpus.regions)
    assert set(found.loc[~own, "source"]) == {DETECTED}
    assert set(found.loc[~own, "image_id"]) == set(phantom.corpus.images["image_id"].iloc[20:])
    assert (~own).sum() == 40 * len(REGIONS)
    with pytest.raises(ValueError, match="every film has region boxes; leave the region detector out"):
        with_detected_regions(phantom, saved)
    small = replace(partly, store=replace(phantom.store, pixels=phantom.store.pixels[:, ::2, ::2]))
    with pytest.raises(ValueError, match="it learnt from crops of 64 px, these have 32"):
        with_detected_regions(small, saved)


def test_a_corpus_without_regions_trains_asg_through_detected_ones(
    phantom: Inputs, saved: Path, tmp_path: Path
) -> None:
    bare = without_regions(phantom, 0)
    evidence, _ = extract_evidence(bare.corpus.studies, progress=False)
    steps = {"text_steps": 0, "pair_steps": 2, "relation_steps": 0, "log_every": 1}
    run = start_run(config("asg", image_size=64, paired_ratio=1.0, **steps), "detected", root=tmp_path)
    with pytest.raises(ValueError, match="no paired image has a region box"):
        train_asg(run, bare, evidence, progress=False)
    trained = train_asg(run, with_detected_regions(bare, saved), evidence, progress=False)
    assert np.isfinite(trained.data.regions.boxes).all()
    assert (trained.history["arsa"] > 0).all()


@pytest.mark.slow
def test_a_trained_detector_beats_one_box_for_all_films(phantom: Inputs) -> None:
    detector = train_detector(config("asg", image_size=64), phantom, steps=100, batch_size=32, progress=False)
    quality = detection_quality(detector, phantom).set_index("region")
    assert quality.loc["mean", "iou"] > quality.loc["mean", "iou_constant"]
    assert quality.loc["right lung", "iou"] > 0.7


def test_the_command_says_how_good_a_detector_is_and_keeps_it(
    phantom: Inputs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(region_detector, "load_inputs", lambda config: phantom)
    region_detector.main(["--preset", "ci", "--steps", "2", "--output", str(tmp_path / "new" / "detector")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["region", "iou", "iou_constant", "n"]
    assert len(lines) == 1 + len(REGIONS) + 1
    assert 0 < float(lines[-1].split()[2]) < 1  # the mean box, whatever two steps have learnt
    assert RegionDetector.from_pretrained(tmp_path / "new" / "detector").config.image_size == 64
