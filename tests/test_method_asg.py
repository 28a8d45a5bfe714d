"""ASG: boxes on their way to a batch, losses by hand, terms, and training on a world of regions with a control."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import reference
import torch
from planted import PlantedWorld, RegionWorld, config, terms_of
from reference import normal, unit
from torch.nn import functional as F
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from lgdea_core import losses
from lgdea_core.batch import Batch, TrainingData
from lgdea_core.config import RunConfig
from lgdea_core.crops import augment, draw_augmentation, moved_boxes, standardise
from lgdea_core.data.regions import crop_boxes, shuffle_regions
from lgdea_core.encoders import train_tokenizer
from lgdea_core.grounding import patch_maps
from lgdea_core.method import total_loss
from lgdea_core.methods.asg import ASGConfig, RegionPart, TagDecoder, pool_regions, sentence_embeds, tag_relations
from lgdea_core.model import LGDEAModel, build_model
from lgdea_core.training.loop import seeded, train
from lgdea_core.training.sampling import sample_batch
from lgdea_core.vocabulary import ASG_TAGS, REGIONS


@pytest.fixture(scope="module")
def world() -> PlantedWorld:
    return PlantedWorld(40)


@pytest.fixture(scope="module")
def data(world: PlantedWorld) -> TrainingData:
    return world.training(24, world.model(config())[1].tokenizer)


# ---- boxes


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
    films = torch.zeros(16, 128, 128, dtype=torch.uint8)
    films[:, 40:72, 56:104] = 255
    drawn = draw_augmentation(16, generator)
    moved = augment(films, drawn)[:, 0] > 0.5
    boxes = torch.tensor([56, 40, 104, 72]) / 128
    found = moved_boxes(boxes.expand(16, 1, 4), drawn.motion)[:, 0] * 128
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


def test_regions_sentences_and_tags_belong_to_their_pair(data: TrainingData) -> None:
    batch = sample_batch(data, config("asg"), 3, "pairs")
    regions, first, last = batch.own, *data.special_ids[:2]
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
    batch = sample_batch(twice, config("asg", batch_size=3), 0, "pairs")
    torch.testing.assert_close((batch.own.tag_relations > 0.75).float(), batch.same_report)
    assert len(batch.own.sentence_text) == 3
    assert len(batch.own.sentence_tokens) == len(batch.own.sentence_text.unique()) <= 2


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
    bright = (standardise(batch.pixel_values) > 2).float().flatten(1)
    quarters = F.one_hot(torch.arange(32 * 32) // (8 * 32))  # a finding's row in the picture
    regions, patches = batch.own, bright.unsqueeze(2) * quarters
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


@pytest.mark.slow
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


# ---- ARSA

COUNTS = ((3, 2), (1, 1), (2, 4))
"""Regions and sentences of three images."""


def links() -> list[torch.Tensor]:
    """Of each image: which sentence names which region; some name two."""
    return [
        torch.tensor([[1.0, 0], [0, 1], [1, 0]]),
        torch.tensor([[1.0]]),
        torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, 1]]),
    ]


def arsa(regions: torch.Tensor, sentences: torch.Tensor, temperature: float = 0.2) -> torch.Tensor:
    region_image = torch.repeat_interleave(torch.tensor([count for count, _ in COUNTS]))
    sentence_image = torch.repeat_interleave(torch.tensor([count for _, count in COUNTS]))
    named = torch.block_diag(*links()).to(regions.dtype)
    same_image = region_image.unsqueeze(1) == sentence_image
    return losses.region_sentence_loss(regions, sentences, named, same_image, temperature)


def test_regions_and_sentences_follow_the_equation_row_by_row() -> None:
    regions, sentences = normal(6, 5, seed=0), normal(7, 5, seed=1)
    parts = regions.split([count for count, _ in COUNTS]), sentences.split([count for _, count in COUNTS])
    slow = reference.region_sentence_loss(*parts, [link.double() for link in links()], 0.2)
    torch.testing.assert_close(arsa(regions, sentences), slow, rtol=0, atol=1e-10)


def test_one_region_a_sentence_is_half_of_what_asg_sums() -> None:
    regions, sentences = unit(4, 5, seed=0), unit(4, 5, seed=1)
    same = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool()
    ours = losses.region_sentence_loss(regions, sentences, torch.eye(4, dtype=torch.float64), same, 0.07)
    masked = (regions @ sentences.T / 0.07).masked_fill(~same, -torch.inf)
    labels = torch.arange(4)
    asg = F.cross_entropy(masked, labels, ignore_index=-100) + F.cross_entropy(masked.T, labels, ignore_index=-100)
    torch.testing.assert_close(2 * ours, asg, rtol=0, atol=1e-10)


def test_a_hand_computed_pair_of_regions() -> None:
    regions = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    sentences = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    # logits / 0.5: [[2, 1], [0, 1]]; rows: log(1 + e^-1) twice; columns: log(1 + e^-2), log 2
    rows, columns = math.log(1 + math.exp(-1)), (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    one = torch.ones(2, 2, dtype=torch.bool)
    found = losses.region_sentence_loss(regions, sentences, torch.eye(2, dtype=torch.float64), one, 0.5)
    assert found.item() == pytest.approx((rows + columns) / 2, abs=1e-12)


def test_identical_regions_cost_log_n_of_their_own_image() -> None:
    same = unit(1, 4, seed=0)
    block = torch.ones(5, 5)
    named, within = torch.eye(10, dtype=torch.float64), torch.block_diag(block, block).bool()
    loss = losses.region_sentence_loss(same.expand(10, 4), same.expand(10, 4), named, within, 0.07)
    assert loss.item() == pytest.approx(math.log(5), abs=1e-12)


def test_regions_of_other_images_never_compete() -> None:
    regions, sentences = normal(6, 5, seed=0).requires_grad_(), normal(7, 5, seed=1).requires_grad_()
    one, other = regions[:3], regions[3:]
    turned = torch.cat([one, other[[2, 0, 1]] * 3 + 1])
    region_image = torch.tensor([0, 0, 0, 1, 2, 2])
    named = torch.block_diag(*links()).double()
    same_image = region_image.unsqueeze(1) == torch.tensor([0, 0, 1, 2, 2, 2, 2])
    slopes = [
        torch.autograd.grad(losses.region_sentence_loss(of, sentences, named, same_image, 0.2), (regions, sentences))
        for of in (regions, turned)
    ]
    for first, second, own in zip(*slopes, (3, 2), strict=True):
        torch.testing.assert_close(first[:own], second[:own], rtol=0, atol=1e-14)
        assert first[:own].abs().max() > 1e-3


def test_region_contrast_passes_gradcheck_and_keeps_a_gradient_where_all_regions_are_equal() -> None:
    regions, sentences = normal(6, 5, seed=0).requires_grad_(), normal(7, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(arsa, (regions, sentences))
    same = unit(1, 5, seed=0).repeat(6, 1).requires_grad_()
    (slope,) = torch.autograd.grad(arsa(same, unit(7, 5, seed=1)), same)
    assert slope.isfinite().all()
    assert slope.abs().max() > 1e-3


def test_no_region_at_all_costs_nothing() -> None:
    nothing = torch.zeros(0, 5, requires_grad=True)
    loss = losses.region_sentence_loss(nothing, nothing, torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.bool), 0.1)
    loss.backward()
    assert loss.item() == 0


# ---- ERL


def tags() -> torch.Tensor:
    """Four pairs of three tags; the last has none."""
    return torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]])


def test_soft_relations_by_hand() -> None:
    weights = ASGConfig(erl_identity=0.7, erl_similarity=0.3, erl_floor=0.01)
    found = tag_relations(tags(), torch.eye(4), weights)
    shared = 0.3 / math.sqrt(2)
    expected = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.7])) + 0.01
    expected[0, 1] = expected[1, 0] = shared + 0.01
    torch.testing.assert_close(found, expected)
    paired = torch.eye(4)
    paired[2, 3] = paired[3, 2] = 1.0
    torch.testing.assert_close(tag_relations(tags(), paired, weights)[2, 3].item(), 0.71)


def test_the_constants_are_those_of_the_code() -> None:
    own, run = ASGConfig(), config("asg")
    assert (own.erl_identity, own.erl_similarity, own.erl_floor) == (0.8, 0.2, 1e-6)
    assert [weight / run.loss.ita for weight in (own.arsa, own.irl, own.erl)] == [1, 5 / 2, 1 / 2]


def test_the_divergence_follows_the_equation_entry_by_entry() -> None:
    logits = normal(4, 4, seed=0)
    relations = tag_relations(tags(), torch.eye(4), ASGConfig()).double()

    def kl(first: torch.Tensor, second: torch.Tensor) -> float:
        return sum(p * math.log(p / q) for p, q in zip(first.tolist(), second.tolist(), strict=True))

    total = 0.0
    for scores, wanted in ((logits, relations), (logits.T, relations.T)):
        for row in range(4):
            target, found = wanted[row] / wanted[row].sum(), scores[row].softmax(dim=0)
            total += 0.5 * (kl(target, found) + kl(found, target)) / 4 / 2
    assert losses.soft_relation_divergence(logits, relations).item() == pytest.approx(total, abs=1e-10)


def test_the_divergence_is_zero_at_its_targets_and_positive_elsewhere() -> None:
    relations = torch.full((3, 3), 0.1, dtype=torch.float64) + torch.eye(3, dtype=torch.float64)
    assert losses.soft_relation_divergence(relations.log(), relations).item() == pytest.approx(0, abs=1e-15)
    assert losses.soft_relation_divergence(normal(3, 3, seed=0), relations).item() > 0.01


def test_the_divergence_passes_gradcheck_and_its_targets_are_not_taught() -> None:
    logits = normal(3, 3, seed=0).requires_grad_()
    relations = tag_relations(tags()[:3], torch.eye(3), ASGConfig()).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda scores: losses.soft_relation_divergence(scores, relations), logits)
    flat = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)  # all embeddings equal
    losses.soft_relation_divergence(flat, relations).backward()
    assert relations.grad is None
    assert flat.grad.isfinite().all()
    assert flat.grad.abs().max() > 0.01


# ---- IRL


def test_tag_recognition_is_the_mean_over_images_and_tags() -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    by_hand = (math.log(2) + math.log(1 + math.exp(2)) + math.log(1 + math.exp(-1)) + math.log(2)) / 4
    assert losses.tag_recognition_loss(logits, wanted).item() == pytest.approx(by_hand, abs=1e-12)
    assert torch.autograd.gradcheck(lambda scores: losses.tag_recognition_loss(scores, wanted), logits)


# ---- terms


def setting(**changes: object) -> tuple[LGDEAModel, Batch]:
    world, run = RegionWorld(40, seed=0), config("asg", **changes)
    with seeded(0):
        model, processor = build_model(run, list(world.reports.values()))
    return model.eval(), sample_batch(world.training(processor, world.regions), run, 3, "pairs")


def sentence_by_hand(model: LGDEAModel, regions: RegionPart, row: int) -> torch.Tensor:
    """Mean over the real tokens of a sentence, encoded without its padding, token by token."""
    ids = regions.sentence_tokens[row][regions.sentence_mask[row]].unsqueeze(0)
    states = model.text_tower.token_features(ids, torch.ones_like(ids, dtype=torch.bool))[0]
    return sum(F.normalize(model.sentence_head(state), dim=0) for state in states) / len(states)


def test_the_terms_are_the_losses_of_the_models_outputs() -> None:
    model, batch = setting(local_temperature=0.3)
    terms, regions = terms_of(model, batch), batch.own
    images = model.encode_images(batch.pixel_values)
    reports = model.encode_texts(batch.report_tokens[: batch.pairs], batch.report_mask[: batch.pairs])
    torch.testing.assert_close(terms["ita"], terms_of(model, batch, "clip")["ita"])
    pooled = pool_regions(images.patch_embeds, regions.boxes, regions.region_image)
    costs = []
    for pair in range(batch.pairs):
        own, spoken = regions.region_image == pair, (regions.sentence_image == pair).nonzero().flatten()
        texts = [sentence_by_hand(model, regions, row) for row in regions.sentence_text[spoken].tolist()]
        costs.append((pooled[own], torch.stack(texts), regions.named[own][:, spoken]))
    slow = reference.region_sentence_loss(*(list(part) for part in zip(*costs, strict=True)), 0.3)
    torch.testing.assert_close(terms["arsa"], slow, rtol=0, atol=1e-5)
    logits = model.logit_scale * images.image_embeds @ reports.T
    torch.testing.assert_close(terms["erl"], losses.soft_relation_divergence(logits, regions.tag_relations))
    decoded = model.tag_decoder(images.patch_features)
    torch.testing.assert_close(terms["irl"], F.binary_cross_entropy(decoded.sigmoid(), regions.tags))


def test_each_term_moves_the_weights_it_should() -> None:
    model, batch = setting()
    terms, tower = terms_of(model, batch), model.image_tower
    parts = {
        "local head": tower.local_head.weight,
        "global head": tower.global_head.weight,
        "tower": tower.laterals[0].weight,
        "text": model.text_tower.backbone.embeddings.word_embeddings.weight,
        "reports": model.text_tower.head.weight,
        "sentences": model.sentence_head.weight,
        "decoder": model.tag_decoder.head.weight,
        "scale": model.log_logit_scale,
    }
    wanted = {
        "ita": {"global head", "tower", "text", "reports", "scale"},
        "arsa": {"local head", "tower", "text", "sentences"},
        "erl": {"global head", "tower", "text", "reports", "scale"},
        "irl": {"tower", "decoder"},
    }
    assert set(terms) == set(wanted)
    for name, term in terms.items():
        slopes = torch.autograd.grad(term, list(parts.values()), retain_graph=True, allow_unused=True)
        moved = {part for part, slope in zip(parts, slopes, strict=True) if slope is not None and slope.abs().max() > 0}
        assert moved == wanted[name], name
        assert all(slope.isfinite().all() for slope in slopes if slope is not None)


@pytest.mark.parametrize("off", ["arsa", "irl", "erl"])
def test_a_model_that_never_had_a_term_trains_the_others_alike(off: str) -> None:
    (model, batch), (full, _) = setting(**{off: 0.0}), setting()
    model.load_state_dict(full.state_dict(), strict=False)  # without what only the full one has
    assert hasattr(model, "tag_decoder") == (off != "irl")
    assert hasattr(model, "sentence_head") == (off != "arsa")
    whole = terms_of(full, batch)
    torch.testing.assert_close(terms_of(model, batch), {name: term for name, term in whole.items() if name != off})


def test_a_batch_whose_sentences_name_nothing_in_view_still_trains() -> None:
    world, run = PlantedWorld(40), config("asg")
    model, processor = world.model(run)
    data = world.training(24, processor.tokenizer)
    nowhere = replace(data.regions, boxes=np.full_like(data.regions.boxes, np.nan))
    terms = terms_of(model, sample_batch(replace(data, regions=nowhere), run, 0, "pairs"))
    assert terms["arsa"].item() == 0
    total_loss(terms, run.weights, 1.0, ()).backward()
    assert model.image_tower.global_head.weight.grad.isfinite().all()


# ---- what is refused


@pytest.mark.parametrize("method", ["asg", "lgdea+asg"])
def test_missing_boxes_or_links_are_refused_unless_arsa_is_off(method: str, tmp_path: Path) -> None:
    world, run = PlantedWorld(24), config(method, text_steps=0, pair_steps=1, relation_steps=0)
    model, processor = world.model(run)
    data = world.training(20, processor.tokenizer)
    boxless = replace(data.regions, boxes=np.full_like(data.regions.boxes, np.nan))
    silent = replace(data.regions, links=tuple(link[:0] for link in data.regions.links))
    for regions, message in (
        (None, "needs `TrainingData.regions`"),
        (boxless, "no paired image has a region box"),
        (silent, "no paired report names one"),
    ):
        with pytest.raises(ValueError, match=message):
            train(run, replace(data, regions=regions), model, tmp_path, progress=False)
    off = config(method, text_steps=0, pair_steps=1, relation_steps=0, arsa=0.0)
    model, _ = world.model(off)
    state, _ = train(off, replace(data, regions=boxless), model, tmp_path, progress=False)
    assert state.step == 1


# ---- configuration and the saved model


def test_the_paper_preset_of_asg_is_its_released_schedule() -> None:
    run = RunConfig.from_preset("paper", method="asg")
    schedule, steps = run.train, 50 * 217_000 / 288
    assert schedule.total_steps == schedule.pair_steps == pytest.approx(steps, rel=1e-3)
    assert (schedule.learning_rate, schedule.weight_decay, schedule.warmup_share) == (4e-5, 0.05, 0.4)
    assert (schedule.mixed_precision, schedule.clip_norm) == ("no", 0)
    assert (run.loss.temperature, run.loss.local_temperature, run.model.dim) == (0.07, 0.07, 128)
    assert (run.loss.learned_temperature, run.model.text_layers, run.model.neck_width) == (False, 6, 768)
    assert run.data.paired_ratio == 1
    assert RunConfig.from_preset("paper", method="asg", paired_ratio=0.2).data.paired_ratio == 0.2
    assert RunConfig.from_preset("paper", method="lgdea").train.batch_size == 144


def test_tag_names_are_encoded_once_and_kept_with_the_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world, run = PlantedWorld(24), config("asg", text_steps=0, pair_steps=2, relation_steps=0)
    world.model(run)
    assert "cannot tell" in caplog.text  # its reports have few letters
    caplog.clear()
    world.reports += list(ASG_TAGS)
    model, processor = world.model(run)
    assert not caplog.records
    world.reports = world.reports[:24]
    names = model.tag_decoder.tag_embeds.clone()
    assert names.shape == (len(ASG_TAGS), 96)
    directions = F.normalize(names, dim=1)
    assert (directions @ directions.T - torch.eye(len(names))).max() < 0.9  # no two names are nearly one query
    state, _ = train(run, world.training(20, processor.tokenizer), model, tmp_path / "run", progress=False)
    assert torch.equal(state.model.tag_decoder.tag_embeds, names)
    state.model.save_pretrained(tmp_path / "model")
    again = LGDEAModel.from_pretrained(tmp_path / "model").eval()
    features = torch.randn(2, 64, model.image_tower.width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.tag_decoder(features), state.model.eval().tag_decoder(features))


@pytest.mark.parametrize(
    ("method", "changes", "by_sentence_head"),
    [
        ("asg", {}, True),
        ("asg", {"arsa": 0.0}, False),
        ("lgdea", {}, False),
        ("lgdea+asg", {}, False),
        ("lgdea+asg", {"mode": "graph", "local": 0.0}, True),
    ],
)
def test_phrases_meet_patches_through_the_head_that_was_trained_on_them(
    method: str, changes: dict[str, float | str], by_sentence_head: bool
) -> None:
    model, processor = build_model(config(method, **changes), ["a left nodule", "no edema"])
    model.eval()
    tokens = processor.tokens(["left nodule", "edema"])
    phrases, sentences = (
        model.method.phrase_embeds(model, *tokens),
        F.normalize(sentence_embeds(model, *tokens), dim=-1),
    )
    assert torch.equal(phrases, sentences if by_sentence_head else model.encode_texts(*tokens))
    crops = torch.randint(0, 255, (1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    patches = model.method.patches(model, model.encode_images(processor.pixel_values(crops)))
    expected = (phrases @ patches[0].T).unflatten(1, (8, 8))
    maps = patch_maps(model, processor, crops, ["left nodule", "edema"], smoothing=0.0)
    torch.testing.assert_close(torch.from_numpy(maps[0]), expected.detach(), rtol=0, atol=1e-5)
