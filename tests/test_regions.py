"""Region boxes on their way from the table to a batch, pooling at the right image, and the measures of retrieval."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import reference
import torch
from planted import PlantedWorld, config
from torch.nn import functional as F
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from lgdea_core.batch import Batch, TrainingData
from lgdea_core.config import RunConfig
from lgdea_core.crops import augment, moved_boxes, random_motion
from lgdea_core.data.phantom import PhantomConfig, build_phantom
from lgdea_core.data.regions import crop_boxes, shuffle_regions
from lgdea_core.encoders import train_tokenizer
from lgdea_core.evaluation.regions import evaluate_regions, retrieval_hits, tag_logits
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.methods.asg import TagDecoder, pool_regions
from lgdea_core.model import build_model
from lgdea_core.runs.inputs import Inputs, fresh_model, inputs_of, prepare_training
from lgdea_core.training.sampling import sample_batch
from lgdea_core.vocabulary import ASG_TAGS, REGIONS


@pytest.fixture(scope="module")
def world() -> PlantedWorld:
    return PlantedWorld(40, seed=0)


@pytest.fixture(scope="module")
def data(world: PlantedWorld) -> TrainingData:
    return world.training(24, world.model(config())[1].tokenizer)


def table(rows: list[tuple], frame: tuple[int, int]) -> pd.DataFrame:
    regions = pd.DataFrame(rows, columns=["image_id", "region", "x_min", "y_min", "x_max", "y_max"])
    return regions.assign(frame_width=frame[0], frame_height=frame[1])


# ---- boxes


def test_boxes_count_in_shares_of_the_crop_whatever_the_frame() -> None:
    images = pd.DataFrame({"image_id": ["b", "a"], "width": [300, 100], "height": [100, 100]})
    rows = [("a", "spine", 20, 0, 40, 100), ("b", "carina", 180, 20, 240, 40), ("b", "svc", 0, 0, 100, 100)]
    boxes = crop_boxes(table(rows, (600, 200)), images)
    places = zip(*np.isfinite(boxes[..., 0]).nonzero(), strict=True)
    found = {(row, REGIONS[column]): boxes[row, column].tolist() for row, column in places}
    # film b is 300 x 100 in a frame of 600 x 200: its crop begins at x = 100, and the svc lies left of it
    assert found[(0, "carina")] == pytest.approx([0.0, 0.1, 0.2, 0.2])
    assert found[(1, "spine")] == pytest.approx([20 / 600, 0, 40 / 600, 0.5])
    assert len(found) == 2


def test_a_box_moves_with_what_it_holds() -> None:
    generator = torch.Generator().manual_seed(0)
    films = torch.zeros(16, 1, 128, 128)
    films[:, :, 40:72, 56:104] = 1.0
    motion = random_motion(16, generator)
    moved = augment(films, motion, generator)[:, 0] > 0.5
    boxes = torch.tensor([56, 40, 104, 72]) / 128
    found = moved_boxes(boxes.expand(16, 1, 4), motion)[:, 0] * 128
    for film, box in zip(moved, found.tolist(), strict=True):
        ys, xs = film.any(dim=1).nonzero(), film.any(dim=0).nonzero()
        seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert [int(value) for value in seen] == pytest.approx(box, abs=2.0)
    assert len(found[:, 0].unique()) == 16


def test_a_film_that_stands_still_keeps_its_boxes_and_what_leaves_the_view_has_none() -> None:
    still = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    boxes = torch.tensor([[[0.0, 0.25, 0.5, 1.0], [0.75, 0.0, 1.0, 0.25], [torch.nan] * 4]])
    torch.testing.assert_close(moved_boxes(boxes, still), boxes, equal_nan=True)
    right = torch.tensor([[[1.0, 0, -1.0], [0, 1, 0]]])  # half a side to the right
    found = moved_boxes(boxes, right)
    assert found[0, 0].tolist() == pytest.approx([0.5, 0.25, 1.0, 1.0])
    assert found[0, 1:].isnan().all()


def test_augmentation_of_other_methods_has_not_changed(data: TrainingData) -> None:
    crops = data.images[:4].unsqueeze(1).float() / 255
    generator = torch.Generator().manual_seed(0)
    moved = augment(crops, random_motion(4, generator), generator)
    assert moved.double().sum().item() == pytest.approx(1461.4405608326197, abs=1e-3)  # when one function drew it all


def test_shuffled_names_stay_with_their_image_and_leave_the_boxes_alone() -> None:
    rows = [(image, region, *range(number, number + 4)) for image in "ab" for number, region in enumerate(REGIONS)]
    regions = table(rows, (100, 100))
    shuffled = shuffle_regions(regions, 0)
    assert shuffled.drop(columns="region").equals(regions.drop(columns="region"))
    assert (shuffled.groupby("image_id")["region"].agg(set) == set(REGIONS)).all()
    assert (shuffled["region"] == regions["region"]).mean() < 0.2
    assert shuffled.loc[:28, "region"].tolist() != shuffled.loc[29:, "region"].tolist()
    assert shuffle_regions(regions, 0).equals(shuffled)


# ---- batches


def test_asg_sees_the_batch_of_clip_and_regions_besides(data: TrainingData) -> None:
    clip, asg = (sample_batch(data, config(method), 3, "pairs") for method in ("clip", "asg"))
    assert clip.regions is None
    for entry in fields(Batch):
        if isinstance(getattr(clip, entry.name), torch.Tensor):
            assert torch.equal(getattr(asg, entry.name), getattr(clip, entry.name)), entry.name


def test_a_step_draws_the_same_regions_again(data: TrainingData) -> None:
    first, again, other = (sample_batch(data, config("asg"), step, "pairs").regions for step in (7, 7, 8))
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(again, name)), name
    assert not torch.equal(first.boxes, other.boxes)


def test_regions_sentences_and_tags_belong_to_their_pair(data: TrainingData) -> None:
    batch = sample_batch(data, config("asg"), 3, "pairs")
    regions, first, last = batch.regions, *data.special_ids[:2]
    assert regions.named.sum() == batch.pairs == len(regions.region_image)  # one sentence, one lung
    texts = [
        tuple(ids[mask].tolist()) for ids, mask in zip(regions.sentence_tokens, regions.sentence_mask, strict=True)
    ]
    assert len(set(texts)) == len(texts) <= 8
    for row, column in regions.named.nonzero().tolist():
        pair = int(regions.region_image[row])
        assert regions.sentence_image[column] == pair
        words = texts[int(regions.sentence_text[column])]
        assert (words[0], words[-1]) == (first, last)
        report = next(r for r in range(40) if list(words[1:-1]) == data.sentences[r][0])
        ((_, lung),) = data.regions.links[report]
        assert REGIONS[lung] == ("left lung" if regions.boxes[row, 0] > 0.3 else "right lung")
        stated = data.regions.tags[report].nonzero()[0].tolist()
        assert regions.tags[pair].nonzero().flatten().tolist() == stated


def test_films_of_one_study_share_sentences_and_relations(data: TrainingData) -> None:
    twice = replace(data, seed_pairs=np.array([[0, 0], [1, 0], [2, 2]]))
    batch = sample_batch(twice, config("asg"), 0, "pairs")
    torch.testing.assert_close((batch.regions.tag_relations > 0.75).float(), batch.same_report)
    assert len(batch.regions.sentence_text) == 3
    assert len(batch.regions.sentence_tokens) == len(batch.regions.sentence_text.unique()) <= 2


def test_the_released_collate_pools_regions_of_another_image() -> None:
    """Each film is one value all over, so a pooled region tells which film it was read from."""
    own = torch.tensor([[0.0, 0, 0.5, 0.5]])
    order, rois = reference.released_rois([own] * 4, lengths=[9, 3, 7, 5])
    films = torch.arange(4.0)[order].view(4, 1, 1).expand(4, 16, 1)  # images move with their boxes
    released = pool_regions(films, rois[:, 1:], rois[:, 0].long()).flatten()
    assert order == [0, 2, 3, 1]
    assert released.tolist() == [0, 3, 1, 2]  # 3 of 4 are another film's


def test_our_batch_pools_regions_of_the_film_whose_report_names_them(world: PlantedWorld, data: TrainingData) -> None:
    """A region read from the batch's own pixels shows the bright square at the height that its report's finding has."""
    seen = replace(data, sentences=[[[100 + row] for _ in sentences] for row, sentences in enumerate(data.sentences)])
    batch = sample_batch(seen, config("asg", batch_size=24), 0, "pairs")
    bright = (batch.pixel_values > 2).float().flatten(1)
    quarters = F.one_hot(torch.arange(32 * 32) // (8 * 32))  # a finding's row in the picture
    regions, patches = batch.regions, bright.unsqueeze(2) * quarters
    pooled = pool_regions(patches, regions.boxes, regions.region_image)
    reports = []
    for row, column in regions.named.nonzero().tolist():
        reports.append(int(regions.sentence_tokens[regions.sentence_text[column], 1]) - 100)
        assert pooled[row].max() > 0
        assert pooled[row].argmax() == world.labels[reports[-1]] // 2
    assert sorted(reports) == list(range(24)) != reports


# ---- pooling and the decoder


def test_a_box_of_whole_cells_is_their_mean_and_no_cell_is_half_off() -> None:
    patches = torch.arange(16.0).view(1, 16, 1)
    boxes = torch.tensor([[0, 0, 1, 1.0], [0.25, 0.25, 0.5, 0.5], [0, 0.5, 0.5, 1]])
    found = pool_regions(patches, boxes, torch.zeros(3, dtype=torch.long)).flatten()
    assert found.tolist() == pytest.approx([7.5, 5.0, (8 + 9 + 12 + 13) / 4])


def test_pooling_passes_gradcheck_and_reads_no_other_image() -> None:
    patches = torch.rand(2, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    boxes = torch.tensor([[0.1, 0.2, 0.8, 0.9], [0.0, 0.0, 0.05, 0.05]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: pool_regions(p, boxes, torch.tensor([1, 1])), patches)
    (slope,) = torch.autograd.grad(pool_regions(patches, boxes, torch.tensor([1, 1])).sum(), patches)
    assert slope[0].abs().max() == 0
    assert slope[1].abs().max() > 0


def test_the_paper_preset_builds_asgs_decoder_on_all_channels_of_its_tower(tmp_path: Path) -> None:
    """Stand-ins as wide as DeiT-B and Bio_ClinicalBERT, with fewer layers; the preset sets the rest."""
    small = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 8}
    ViTModel(ViTConfig(num_hidden_layers=1, patch_size=112, **small)).save_pretrained(tmp_path / "image")
    BertModel(BertConfig(vocab_size=60, num_hidden_layers=7, **small)).save_pretrained(tmp_path / "text")
    train_tokenizer(["The heart is normal."], vocabulary=60).save_pretrained(tmp_path / "text")
    towers = {"image_tower": str(tmp_path / "image"), "text_tower": str(tmp_path / "text")}
    model, _ = build_model(RunConfig.from_preset("paper", method="asg", **towers), [])
    decoder, layer = model.tag_decoder, model.tag_decoder.decoder.layers[0]
    assert (model.image_tower.width, decoder.query.out_features, decoder.tag_embeds.shape) == (768, 768, (40, 768))
    assert len(decoder.decoder.layers) == 4
    assert layer.self_attn.num_heads == 4
    assert (layer.linear1.out_features, layer.dropout.p, layer.norm_first) == (1024, 0.1, True)
    assert "tag_embeds" not in dict(decoder.named_parameters())
    assert model.text_tower.backbone.config.num_hidden_layers == len(model.text_tower.backbone.encoder.layer) == 6
    other, _ = build_model(RunConfig.from_preset("paper", method="clip", **towers), [])
    assert (other.image_tower.width, len(other.text_tower.backbone.encoder.layer)) == (256, 7)


def test_a_tag_is_judged_by_its_own_query() -> None:
    torch.manual_seed(0)
    decoder = TagDecoder(text_width=12, width=16, layers=2, heads=4, widening=2.0, dropout=0.1).eval()
    decoder.tag_embeds.copy_(torch.randn(len(ASG_TAGS), 12))
    features = torch.randn(3, 64, 16)
    logits = decoder(features)
    assert logits.shape == (3, len(ASG_TAGS))
    turned = torch.randperm(len(ASG_TAGS))
    decoder.tag_embeds.copy_(decoder.tag_embeds[turned])
    torch.testing.assert_close(decoder(features), logits[:, turned], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoder(features.flip(0)), logits[:, turned].flip(0), rtol=1e-4, atol=1e-5)


# ---- measures


def test_hits_and_chance_by_hand() -> None:
    similarity = np.array([[0.9, 0.1], [0.5, 0.2], [1.0, 0.9]])
    named = np.array([[True, False], [False, True], [False, False]])
    found = retrieval_hits(similarity, named)  # the third region is named by none
    assert found["region_at_1"].tolist() == [0, 0]
    assert found["region_at_1_chance"].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert found["named_region_at_1"].tolist() == [1, 1]
    assert found["named_region_at_1_chance"].tolist() == pytest.approx([1 / 2, 1 / 2])


def test_random_similarities_hit_at_chance() -> None:
    rng = np.random.default_rng(0)
    named = rng.random((29, 4000)) < 0.1
    named[0, ~named.any(axis=0)] = True
    found = retrieval_hits(rng.random(named.shape), named)
    assert found["region_at_1"].mean() == pytest.approx(found["region_at_1_chance"].mean(), abs=0.02)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inputs, pd.DataFrame]:
    corpus = build_phantom(PhantomConfig(studies=60, image_size=64), tmp_path_factory.mktemp("p") / "p", progress=False)
    inputs = inputs_of(corpus, config("asg", image_size=64, paired_ratio=1.0), progress=False)
    return inputs, extract_evidence(corpus.studies, "lexicon", progress=False)[0]


def test_the_phantom_brings_its_regions(phantom: tuple[Inputs, pd.DataFrame]) -> None:
    inputs, evidence = phantom
    run = config("asg", image_size=64, paired_ratio=1.0)
    model, processor = fresh_model(run, inputs)
    data = prepare_training(run, inputs, evidence, processor)
    assert np.isfinite(data.regions.boxes).mean() > 0.95
    assert np.mean([len(link) > 0 for link in data.regions.links]) > 0.9
    left, right = REGIONS.index("left lung"), REGIONS.index("right lung")
    assert (
        data.regions.boxes[:, right, 2] < data.regions.boxes[:, left, 2]
    ).all()  # the patient's right is on the left
    assert 1 < data.regions.tags.sum(axis=1).mean() < 8
    table = evaluate_regions(model, processor, inputs, evidence, resamples=20)
    values = table.set_index(["task", "metric", "finding"])
    for metric in ("region_at_1", "named_region_at_1"):
        chance = values.loc[("regions", f"{metric}_chance", "all"), "estimate"]
        assert values.loc[("regions", metric, "all"), "estimate"] < 3 * chance  # it is untrained
    assert values.loc[("regions", "region_at_1_chance", "all"), "estimate"] == pytest.approx(0.06, abs=0.03)
    assert len(values.loc["tags"]) == len(ASG_TAGS) + 1


def test_a_model_without_decoder_has_no_tags(phantom: tuple[Inputs, pd.DataFrame]) -> None:
    inputs, evidence = phantom
    model, processor = fresh_model(config("clip", image_size=64, paired_ratio=1.0), inputs)
    table = evaluate_regions(model, processor, inputs, evidence, resamples=20)
    assert set(table["task"]) == {"regions"}
    with pytest.raises(ValueError, match="no tag decoder"):
        tag_logits(model, inputs.crops(inputs.store.image_ids[:1]))
    silent = replace(inputs, corpus=replace(inputs.corpus, studies=inputs.corpus.studies.assign(report=None)))
    with pytest.raises(ValueError, match="no image with a report"):
        evaluate_regions(model, processor, silent, evidence)
