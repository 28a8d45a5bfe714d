"""Batches: the same for the same step, true to the pairing, and never more than the pools hold."""

import numpy as np
import pytest
import torch
from planted import PlantedWorld, config

from lgdea_core.data import batches
from lgdea_core.data.batches import Batch, TrainingData, sample_batch


@pytest.fixture(scope="module")
def data() -> TrainingData:
    world = PlantedWorld(40, seed=0)
    _, processor = world.model(config())
    return world.training(24, processor.tokenizer)


def test_a_step_draws_the_same_batch_again_and_another_step_another(data: TrainingData) -> None:
    first, again, other = (sample_batch(data, config(), step, "pairs") for step in (7, 7, 8))
    assert torch.equal(first.pixel_values, again.pixel_values)
    assert torch.equal(first.report_tokens, again.report_tokens)
    assert not torch.equal(first.pixel_values, other.pixel_values)


def test_processes_draw_different_shares_of_a_batch(data: TrainingData) -> None:
    first, second = (sample_batch(data, config(), 3, "pairs", process=(rank, 2)) for rank in (0, 1))
    assert first.pairs == second.pairs == 8
    assert not torch.equal(first.pixel_values, second.pixel_values)


def test_text_phase_has_no_images_and_pair_phase_has_at_most_the_known_pairs(data: TrainingData) -> None:
    text = sample_batch(data, config(), 0, "text")
    assert (text.pairs, len(text.pixel_values), len(text.report_tokens)) == (0, 0, 16)
    many = sample_batch(data, config(batch_size=64), 0, "pairs")
    assert many.pairs == 24


def test_a_pairs_report_holds_the_statement_its_image_shows(data: TrainingData) -> None:
    batch = sample_batch(data, config(), 5, "pairs")
    for row in range(batch.pairs):
        own = batch.holds_statement[row].bool()
        drawn = batch.membership[row].bool()
        assert drawn.any()
        assert own[drawn].all()


def test_same_statement_is_an_equivalence_over_the_batchs_phrases(data: TrainingData) -> None:
    same = sample_batch(data, config(), 1, "pairs").same_statement
    assert torch.equal(same, same.T)
    assert (same.diagonal() == 1).all()
    assert torch.equal((same @ same > 0).float(), same)


def test_word_dropping_keeps_cls_and_hides_only_real_tokens() -> None:
    mask = torch.tensor([[True] * 6 + [False] * 2, [True] * 3 + [False] * 5])
    generator = torch.Generator().manual_seed(0)
    kept = torch.stack([batches.drop_words(mask, 0.5, generator) for _ in range(200)])
    assert (kept & ~mask).sum() == 0
    assert kept[:, :, 0].all()
    share = kept[:, 0, 1:6].float().mean().item()
    assert share == pytest.approx(0.5, abs=0.06)


def test_augmentation_moves_little_never_mirrors_and_leaves_no_batch_empty() -> None:
    image = torch.zeros(64, 1, 32, 32)
    image[:, :, 14:18, 24:30] = 1.0  # on the right
    moved = batches.augment(image, torch.Generator().manual_seed(0))
    columns = moved.mean(dim=(1, 2)).argmax(dim=1)
    assert (columns > 16).all()
    assert len(columns.unique()) > 1
    assert batches.augment(torch.zeros(0, 1, 32, 32), torch.Generator()).shape == (0, 1, 32, 32)


def test_standardised_images_do_not_depend_on_exposure() -> None:
    image = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(batches.standardise(image), batches.standardise(0.3 * image + 0.2), atol=1e-4, rtol=1e-4)


def test_report_sentences_reads_impression_and_findings_only() -> None:
    report = "INDICATION: Cough. Fever.\nFINDINGS: No edema. Small nodule.\nIMPRESSION: Nodule."
    assert batches.report_sentences(report) == ["Nodule.", "No edema.", "Small nodule."]


def test_pad_tokens_marks_real_tokens() -> None:
    ids, mask = batches.pad_tokens([[5, 6], [7]], padding=0)
    assert ids.tolist() == [[5, 6], [7, 0]]
    assert mask.tolist() == [[True, True], [True, False]]


def test_unpaired_rows_are_those_without_a_seed(data: TrainingData) -> None:
    assert data.unpaired_images.tolist() == list(range(24, 40))
    assert not set(data.unpaired_reports) & set(data.seed_pairs[:, 1])


def test_moving_a_batch_keeps_what_is_no_tensor(data: TrainingData) -> None:
    batch = sample_batch(data, config(), 0, "pairs")
    moved = batch.to(torch.device("cpu"))
    assert isinstance(moved, Batch)
    assert moved.pairs == batch.pairs
    assert np.array_equal(moved.phrases, batch.phrases)
