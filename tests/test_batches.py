"""Batches: the same for the same step, true to the pairing, and never more than the pools hold."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from planted import PlantedWorld, config

from lgdea_core import batch as texts
from lgdea_core.batch import Batch, TrainingData
from lgdea_core.training import sampling as batches
from lgdea_core.training.sampling import sample_batch


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


@pytest.mark.parametrize("same_observation", [0.0, 0.3, 1.0])
def test_a_phrase_is_wanted_in_full_where_it_is_stated_and_in_part_where_its_observation_is(
    data: TrainingData, same_observation: float
) -> None:
    run = config(same_observation=same_observation, batch_size=24, pair_steps=1)
    batch = sample_batch(data, run, 0, "pairs")
    evidence, seen = data.evidence, set()
    for row in range(batch.pairs):  # all pairs; which report that is follows from what it holds
        own = [
            evidence.statements[evidence.phrase_statement[batch.phrases[n]]] for n in batch.membership[row].nonzero()
        ]
        for column, phrase in enumerate(batch.phrases):
            statement = evidence.statements[evidence.phrase_statement[phrase]]
            exact, near = statement in own, statement[0] in [observation for observation, _, _ in own]
            wanted = 1.0 if exact else same_observation if near else 0.0
            assert batch.phrase_targets[row, column].item() == pytest.approx(wanted)
            assert batch.holds_statement[row, column].item() == exact
            seen.add((exact, near))
    assert seen == {(True, True), (False, True), (False, False)}


def test_only_no_finding_has_no_place_in_the_image() -> None:
    world = PlantedWorld(40, seed=0)
    world.evidence.loc[::2, "status"] = "absent"
    data = world.training(24, world.model(config())[1].tokenizer)
    batch = sample_batch(data, config(), 0, "pairs")
    observations = [data.evidence.observations[phrase] for phrase in batch.phrases]
    assert batch.localised.tolist() == [float(name != "no finding") for name in observations]
    assert set(batch.localised.tolist()) == {0.0, 1.0}


# ---- sentences of `gloria`


def sentences_of(batch: Batch) -> list[tuple[int, ...]]:
    return [tuple(ids[mask].tolist()) for ids, mask in zip(batch.sentence_tokens, batch.sentence_mask, strict=True)]


def test_gloria_sees_the_batch_of_clip_and_sentences_besides(data: TrainingData) -> None:
    clip, lgdea, gloria = (sample_batch(data, config(method), 3, "pairs") for method in ("clip", "lgdea", "gloria"))
    assert lgdea.sentence_tokens is clip.sentence_tokens is None
    for entry in fields(Batch):
        ours, theirs = getattr(gloria, entry.name), getattr(clip, entry.name)
        if entry.name.startswith("sentence"):
            assert ours is not None, entry.name
        elif isinstance(ours, torch.Tensor):
            assert torch.equal(ours, theirs), entry.name


def test_sentences_are_distinct_and_belong_to_the_reports_that_say_them(data: TrainingData) -> None:
    batch = sample_batch(data, config("gloria"), 3, "pairs")
    texts = sentences_of(batch)
    assert len(set(texts)) == len(texts)
    assert batch.sentence_membership.shape == (batch.pairs, len(texts))
    first, last, _ = data.special_ids
    everything = {(first, *sentence, last) for report in data.sentences for sentence in report}
    assert set(texts) <= everything
    intact = [column for column in range(len(texts)) if batch.sentence_membership[:, column].all()]
    assert len(intact) == 1  # "The bones are intact." is one sentence of all reports, not one negative of each other
    for row in range(batch.pairs):
        statement = data.evidence.phrases[batch.phrases[batch.membership[row].argmax()]]
        tokens = data.phrase_tokens[batch.phrases[batch.membership[row].argmax()]]
        said = {token for column in batch.sentence_membership[row].nonzero() for token in texts[column]}
        assert set(tokens[tokens != data.special_ids[2]].tolist()) <= said, statement


def test_sentences_are_drawn_anew_each_step_and_at_most_so_many(data: TrainingData) -> None:
    long = replace(data, sentences=[[[7, report, number] for number in range(8)] for report in range(40)])
    drawn = [sample_batch(long, config("gloria"), step, "pairs") for step in (0, 0, 1)]
    for batch in drawn:
        assert (batch.sentence_membership.sum(dim=1) == texts.SENTENCES_PER_REPORT).all()
    assert sentences_of(drawn[0]) == sentences_of(drawn[1]) != sentences_of(drawn[2])


def test_a_long_sentence_is_cut_and_a_report_without_sentences_has_none(data: TrainingData) -> None:
    odd = replace(data, sentences=[[] if report % 2 else [[7] * 100] for report in range(40)])
    batch = sample_batch(odd, config("gloria"), 0, "pairs")
    assert sentences_of(batch) == [(data.special_ids[0], *[7] * (data.max_tokens - 2), data.special_ids[1])]
    assert set(batch.sentence_membership.sum(dim=1).tolist()) == {0.0, 1.0}


def test_a_batch_does_not_need_evidence() -> None:
    world = PlantedWorld(40, seed=0)
    world.evidence = world.evidence.iloc[:0]
    data = world.training(24, world.model(config())[1].tokenizer)
    for method in ("clip", "gloria"):
        batch = sample_batch(data, config(method), 0, "pairs")
        assert batch.pairs == 16
        assert batch.phrase_targets.shape == (len(batch.report_tokens), 0)


def test_word_dropping_keeps_cls_and_hides_only_real_tokens() -> None:
    mask = torch.tensor([[True] * 6 + [False] * 2, [True] * 3 + [False] * 5])
    generator = torch.Generator().manual_seed(0)
    kept = torch.stack([texts.drop_words(mask, 0.5, generator) for _ in range(200)])
    assert (kept & ~mask).sum() == 0
    assert kept[:, :, 0].all()
    share = kept[:, 0, 1:6].float().mean().item()
    assert share == pytest.approx(0.5, abs=0.06)


def test_augmentation_moves_little_never_mirrors_and_leaves_no_batch_empty() -> None:
    image = torch.zeros(64, 1, 32, 32)
    image[:, :, 14:18, 24:30] = 1.0  # on the right
    generator = torch.Generator().manual_seed(0)
    moved = batches.augment(image, batches.random_motion(64, generator), generator)
    columns = moved.mean(dim=(1, 2)).argmax(dim=1)
    assert (columns > 16).all()
    assert len(columns.unique()) > 1
    none = torch.zeros(0, 1, 32, 32)
    assert batches.augment(none, batches.random_motion(0, generator), generator).shape == none.shape


def test_standardised_images_do_not_depend_on_exposure() -> None:
    image = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(batches.standardise(image), batches.standardise(0.3 * image + 0.2), atol=1e-4, rtol=1e-4)


def test_report_sentences_reads_impression_and_findings_only() -> None:
    report = "INDICATION: Cough. Fever.\nFINDINGS: No edema. Small nodule.\nIMPRESSION: Nodule."
    assert batches.report_sentences(report) == ["Nodule.", "No edema.", "Small nodule."]


def test_pad_tokens_marks_real_tokens() -> None:
    ids, mask = texts.pad_tokens([[5, 6], [7]], padding=0)
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


def test_moving_a_batch_moves_all_its_tensors(data: TrainingData) -> None:
    moved = sample_batch(data, config("gloria"), 0, "pairs").to(torch.device("meta"))
    tensors = {entry.name: getattr(moved, entry.name) for entry in fields(Batch)}
    tensors |= vars(sample_batch(data, config("asg"), 0, "pairs").to(torch.device("meta")).regions)
    devices = {name: value.device.type for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    assert {"pixel_values", "phrase_targets", "sentence_tokens", "sentence_membership", "named", "boxes"} <= set(
        devices
    )
    assert set(devices.values()) == {"meta"}
