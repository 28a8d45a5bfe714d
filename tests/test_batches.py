"""Batches: true to the pairing, and as large as they say, whatever the pools hold."""

import pytest
import torch
from planted import PlantedWorld, config
from torch.nn import functional as F

from lgdea_core.batch import TrainingData, drop_words, pad_tokens
from lgdea_core.crops import augment, draw_augmentation, standardise
from lgdea_core.evidence.sections import report_sentences
from lgdea_core.training.sampling import sample_batch


@pytest.fixture(scope="module")
def data() -> TrainingData:
    world = PlantedWorld(40)
    return world.training(24, world.model(config())[1].tokenizer)


def test_processes_read_shares_of_one_batch(data: TrainingData) -> None:
    """Who draws does not matter: what two processes have together is bitwise what one has."""
    whole = sample_batch(data, config(), 3, "pairs")
    shares = [sample_batch(data, config(), 3, "pairs", process=(rank, 2)) for rank in (0, 1)]
    assert torch.equal(torch.stack([share.pixel_values for share in shares], dim=1).flatten(0, 1), whole.pixel_values)
    for share in shares:
        assert share.pairs == whole.pairs == 16
        assert torch.equal(share.report_tokens, whole.report_tokens)
        assert torch.equal(share.own.phrase_targets, whole.own.phrase_targets)


def test_the_text_phase_has_no_images(data: TrainingData) -> None:
    text = sample_batch(data, config(), 0, "text")
    assert (text.pairs, len(text.pixel_values), len(text.report_tokens)) == (0, 0, 16)


def test_same_statement_is_an_equivalence_over_the_batchs_phrases(data: TrainingData) -> None:
    same = sample_batch(data, config(), 1, "pairs").same_statement
    assert torch.equal(same, same.T)
    assert (same.diagonal() == 1).all()
    assert torch.equal((same @ same > 0).float(), same)


def test_a_batch_does_not_need_evidence() -> None:
    world = PlantedWorld(40)
    world.evidence = world.evidence.iloc[:0]
    data = world.training(24, world.model(config())[1].tokenizer)
    for method in ("clip", "gloria"):
        batch = sample_batch(data, config(method), 0, "pairs")
        assert batch.pairs == 16
        assert batch.membership.shape == (len(batch.report_tokens), 0)


def test_word_dropping_keeps_cls_and_hides_only_real_tokens() -> None:
    mask = torch.tensor([[True] * 6 + [False] * 2, [True] * 3 + [False] * 5])
    generator = torch.Generator().manual_seed(0)
    kept = torch.stack([drop_words(mask, 0.5, generator) for _ in range(200)])
    assert (kept & ~mask).sum() == 0
    assert kept[:, :, 0].all()
    share = kept[:, 0, 1:6].float().mean().item()
    assert share == pytest.approx(0.5, abs=0.06)


def test_augmentation_moves_little_never_mirrors_and_leaves_no_batch_empty() -> None:
    crops = torch.zeros(64, 32, 32, dtype=torch.uint8)
    crops[:, 14:18, 24:30] = 255  # on the right
    generator = torch.Generator().manual_seed(0)
    moved = augment(crops, draw_augmentation(64, generator))
    columns = moved.mean(dim=(1, 2)).argmax(dim=1)
    assert (columns > 16).all()
    assert len(columns.unique()) > 1
    assert augment(crops[:0], draw_augmentation(0, generator)).shape == (0, 1, 32, 32)


def test_augmentation_is_grid_sampling_a_power_and_noise() -> None:
    crops = torch.randint(256, (40, 17, 23), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    drawn = draw_augmentation(40, torch.Generator().manual_seed(0))
    grid = F.affine_grid(drawn.motion, [40, 1, 17, 23], align_corners=False)
    moved = F.grid_sample(crops.unsqueeze(1) / 255, grid, padding_mode="border", align_corners=False)
    noise = augment(crops, drawn) - moved.clamp(min=1e-3) ** drawn.gamma.view(-1, 1, 1, 1)
    assert noise.std().item() == pytest.approx(0.02, rel=0.03)
    assert abs(noise.mean().item()) < 1e-3
    assert abs(torch.corrcoef(noise.flatten(1))[0, 1:].mean().item()) < 0.02  # each image has its own


def test_standardised_images_do_not_depend_on_exposure() -> None:
    image = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(standardise(image), standardise(0.3 * image + 0.2), atol=1e-4, rtol=1e-4)
    assert (standardise(torch.zeros(3, 1, 8, 8)) == 0).all()


def test_report_sentences_reads_impression_and_findings_only() -> None:
    report = "INDICATION: Cough. Fever.\nFINDINGS: No edema. Small nodule.\nIMPRESSION: Nodule."
    assert report_sentences(report) == ["Nodule.", "No edema.", "Small nodule."]


def test_pad_tokens_marks_real_tokens() -> None:
    ids, mask = pad_tokens([[5, 6], [7]], padding=0)
    assert ids.tolist() == [[5, 6], [7, 0]]
    assert mask.tolist() == [[True, True], [True, False]]


def test_unpaired_rows_are_those_without_a_seed(data: TrainingData) -> None:
    assert data.unpaired_images.tolist() == list(range(24, 40))
    assert not set(data.unpaired_reports) & set(data.seed_pairs[:, 1])
