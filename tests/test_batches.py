"""Batches: true to the pairing, and as large as they say, whatever the pools hold."""

import pytest
import torch
from planted import PlantedWorld, config

from lgdea_core.batch import TrainingData, drop_words, pad_tokens
from lgdea_core.crops import augment, random_motion, standardise
from lgdea_core.evidence.sections import report_sentences
from lgdea_core.training.sampling import sample_batch


@pytest.fixture(scope="module")
def data() -> TrainingData:
    world = PlantedWorld(40)
    return world.training(24, world.model(config())[1].tokenizer)


def test_processes_draw_different_shares_of_a_batch(data: TrainingData) -> None:
    first, second = (sample_batch(data, config(), 3, "pairs", process=(rank, 2)) for rank in (0, 1))
    assert first.pairs == second.pairs == 8
    assert not torch.equal(first.pixel_values, second.pixel_values)


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
    image = torch.zeros(64, 1, 32, 32)
    image[:, :, 14:18, 24:30] = 1.0  # on the right
    generator = torch.Generator().manual_seed(0)
    moved = augment(image, random_motion(64, generator), generator)
    columns = moved.mean(dim=(1, 2)).argmax(dim=1)
    assert (columns > 16).all()
    assert len(columns.unique()) > 1
    none = torch.zeros(0, 1, 32, 32)
    assert augment(none, random_motion(0, generator), generator).shape == none.shape


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
