"""ASG: its losses by hand, its terms on batches, and training on a world of regions with a control that must fail."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import reference
import torch
from planted import FINDINGS, PlantedWorld, config, picture
from torch.nn import functional as F

from lgdea_core import losses
from lgdea_core.batch import Batch, RegionData, TrainingData
from lgdea_core.config import LossConfig, RunConfig
from lgdea_core.data.pairing import Pools
from lgdea_core.data.regions import shuffle_regions
from lgdea_core.evaluation.regions import region_hits
from lgdea_core.evidence.index import index_evidence
from lgdea_core.evidence.sections import report_sentences
from lgdea_core.grounding import patch_maps
from lgdea_core.methods.asg import RegionBatch, pool_regions, tag_relations
from lgdea_core.methods.lgdea import METHOD_TERMS, asg_terms, clip_terms, lgdea_terms, total_loss
from lgdea_core.model import LGDEAModel, LGDEAProcessor, build_model
from lgdea_core.runs.inputs import region_data
from lgdea_core.training import loop as training
from lgdea_core.training.sampling import sample_batch, training_data
from lgdea_core.vocabulary import ASG_TAGS

CELLS = [(kind, side) for kind in range(len(FINDINGS)) for side in ("left", "right")]
ZONES = ("apical zone", "upper lung zone", "mid lung zone", "lower lung zone")
"""Zone of each finding's row, so that every cell of the picture is a region."""


class RegionWorld:
    """Films with two squares in two of eight regions, and a report with a sentence about each."""

    def __init__(self, studies: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        chosen = [sorted(rng.choice(len(CELLS), size=2, replace=False).tolist()) for _ in range(studies)]
        films, self.reports, rows, regions = [], {}, [], []
        for number, cells in enumerate(chosen):
            name = f"s{number}"
            pictures = [picture(CELLS[cell][0], int(CELLS[cell][1] == "right"), rng) for cell in cells]
            films.append(np.maximum(*pictures))
            places = [f"{CELLS[cell][1]} {ZONES[CELLS[cell][0]]}" for cell in cells]
            self.reports[name] = "FINDINGS: " + " ".join(f"Opacity of the {place}." for place in places)
            for place in places:
                start = self.reports[name].index(place)
                rows.append(
                    (name, "lung opacity", place, place.split()[0], "present", place, start, start + 5, "findings")
                )
            for kind, side in CELLS:
                left = 0 if side == "right" else 16
                regions.append((name, f"{side} {ZONES[kind]}", left, 8 * kind, left + 16, 8 * kind + 8, 32, 32))
        self.crops = torch.from_numpy(np.stack(films))
        columns = ["report_id", "observation", "region", "laterality", "status", "phrase", "start", "end", "section"]
        self.evidence = pd.DataFrame(rows, columns=columns)
        columns = ["image_id", "region", "x_min", "y_min", "x_max", "y_max", "frame_width", "frame_height"]
        self.regions = pd.DataFrame(regions, columns=columns)
        self.films = pd.DataFrame({"image_id": list(self.reports), "width": 32, "height": 32})

    def data(self, regions: pd.DataFrame) -> RegionData:
        return region_data(regions, self.films, self.evidence, self.reports)

    def training(self, processor: LGDEAProcessor, regions: pd.DataFrame) -> TrainingData:
        ids = tuple(self.reports)
        pairs = pd.DataFrame({"image_id": ids, "report_id": ids})
        pools = Pools(image_ids=ids, report_ids=ids, seed_pairs=pairs, hidden_pairs=pairs.iloc[:0])
        texts, index = list(self.reports.values()), index_evidence(self.evidence, ids)
        data = training_data(self.crops, texts, pools, index, processor.tokenizer, 48)
        return replace(data, regions=self.data(regions))


def random(rows: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(rows: int, dim: int, seed: int) -> torch.Tensor:
    return F.normalize(random(rows, dim, seed), dim=-1)


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
    regions, sentences = random(6, 5, 0), random(7, 5, 1)
    parts = regions.split([count for count, _ in COUNTS]), sentences.split([count for _, count in COUNTS])
    slow = reference.region_sentence_loss(*parts, [link.double() for link in links()], 0.2)
    torch.testing.assert_close(arsa(regions, sentences), slow, rtol=0, atol=1e-10)


def test_one_region_a_sentence_is_half_of_what_asg_sums() -> None:
    regions, sentences = unit(4, 5, 0), unit(4, 5, 1)
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
    same = unit(1, 4, 0)
    block = torch.ones(5, 5)
    named, within = torch.eye(10, dtype=torch.float64), torch.block_diag(block, block).bool()
    loss = losses.region_sentence_loss(same.expand(10, 4), same.expand(10, 4), named, within, 0.07)
    assert loss.item() == pytest.approx(math.log(5), abs=1e-12)


def test_regions_of_other_images_never_compete() -> None:
    regions, sentences = random(6, 5, 0).requires_grad_(), random(7, 5, 1).requires_grad_()
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
    regions, sentences = random(6, 5, 0).requires_grad_(), random(7, 5, 1).requires_grad_()
    assert torch.autograd.gradcheck(arsa, (regions, sentences))
    same = unit(1, 5, 0).repeat(6, 1).requires_grad_()
    (slope,) = torch.autograd.grad(arsa(same, unit(7, 5, 1)), same)
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
    weights = LossConfig(erl_identity=0.7, erl_similarity=0.3, erl_floor=0.01)
    found = tag_relations(tags(), torch.eye(4), weights)
    shared = 0.3 / math.sqrt(2)
    expected = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.7])) + 0.01
    expected[0, 1] = expected[1, 0] = shared + 0.01
    torch.testing.assert_close(found, expected)
    paired = torch.eye(4)
    paired[2, 3] = paired[3, 2] = 1.0
    torch.testing.assert_close(tag_relations(tags(), paired, weights)[2, 3].item(), 0.71)


def test_the_constants_are_those_of_the_code() -> None:
    weights = LossConfig()
    assert (weights.erl_identity, weights.erl_similarity, weights.erl_floor) == (0.8, 0.2, 1e-6)
    assert [weight / weights.ita for weight in (weights.arsa, weights.irl, weights.erl)] == [1, 5 / 2, 1 / 2]


def test_the_divergence_follows_the_equation_entry_by_entry() -> None:
    logits = random(4, 4, 0)
    relations = tag_relations(tags(), torch.eye(4), LossConfig()).double()

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
    assert losses.soft_relation_divergence(random(3, 3, 0), relations).item() > 0.01


def test_the_divergence_passes_gradcheck_and_its_targets_are_not_taught() -> None:
    logits = random(3, 3, 0).requires_grad_()
    relations = tag_relations(tags()[:3], torch.eye(3), LossConfig()).double().requires_grad_()
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


def setting(method: str = "asg", phase: str = "pairs", **changes: object) -> tuple[LGDEAModel, Batch]:
    world, run = RegionWorld(40, seed=0), config(method, **changes)
    training.seed_everything(0)
    model, processor = build_model(run, list(world.reports.values()))
    return model.eval(), sample_batch(world.training(processor, world.regions), run, 3, phase)


def sentence_by_hand(model: LGDEAModel, regions: RegionBatch, row: int) -> torch.Tensor:
    """Mean over the real tokens of a sentence, encoded without its padding, token by token."""
    ids = regions.sentence_tokens[row][regions.sentence_mask[row]].unsqueeze(0)
    states = model.text_tower.token_features(ids, torch.ones_like(ids, dtype=torch.bool))[0]
    return sum(F.normalize(model.sentence_head(state), dim=0) for state in states) / len(states)


def test_the_terms_are_the_losses_of_the_models_outputs() -> None:
    model, batch = setting(local_temperature=0.3)
    terms, regions = asg_terms(model, batch, model), batch.regions
    images = model.encode_images(batch.pixel_values)
    reports = model.encode_texts(batch.report_tokens[: batch.pairs], batch.report_mask[: batch.pairs])
    torch.testing.assert_close(terms["ita"], clip_terms(model, batch, model)["ita"])
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
    terms, tower = asg_terms(model, batch, model), model.image_tower
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


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_both_kinds_of_tower_are_trained(tower: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import ViTConfig

    if tower == "vit":
        tiny = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
        monkeypatch.setattr("lgdea_core.model.image_tower_config", lambda name, size: tiny)
    world, run = PlantedWorld(24, seed=0), config("asg", text_steps=0, pair_steps=2, relation_steps=0)
    model, processor = world.model(run)
    before = model.image_tower.local_head.weight.clone()
    state, history = training.train(run, world.training(20, processor.tokenizer), model, tmp_path, progress=False)
    assert state.model.image_tower.grid == {"vit": 4, "resnet": 8}[tower]
    assert not torch.equal(before, state.model.image_tower.local_head.weight)
    assert {"ita", "arsa", "erl", "irl"} <= set(history.columns)


@pytest.mark.parametrize("off", ["arsa", "irl", "erl"])
def test_a_weight_of_zero_leaves_a_term_without_effect(off: str) -> None:
    (model, batch), (full, _) = setting(**{off: 0.0}), setting()
    model.load_state_dict(full.state_dict(), strict=False)  # without what only the full one has
    assert (model.tag_decoder is None) == (off == "irl")
    weights = config("asg", **{off: 0.0}).loss
    terms, whole = asg_terms(model, batch, model), asg_terms(full, batch, full)
    ours = total_loss(terms, weights, 1.0)
    rest = sum(getattr(LossConfig(), name) * value for name, value in whole.items() if name != off)
    torch.testing.assert_close(ours, rest)


def test_combined_with_lgdea_every_term_is_there_once() -> None:
    (model, batch), (alone, same) = setting("lgdea+asg"), setting("lgdea")
    terms, lgdea = lgdea_terms(model, batch, model), lgdea_terms(alone, same, alone)
    assert set(terms) == set(lgdea) | {"arsa", "erl", "irl"}
    for name, value in lgdea.items():
        torch.testing.assert_close(terms[name], value)
    _, drawn = setting("asg")
    asg = asg_terms(model, drawn, model)
    for name in ("arsa", "erl", "irl"):
        torch.testing.assert_close(terms[name], asg[name], rtol=1e-4, atol=1e-5)
    assert METHOD_TERMS["lgdea+asg"] is lgdea_terms


def test_a_text_phase_has_no_regions() -> None:
    _, batch = setting("lgdea+asg", "text")
    assert batch.regions is None


def test_a_batch_whose_sentences_name_nothing_in_view_still_trains() -> None:
    world, run = PlantedWorld(40, seed=0), config("asg")
    model, processor = world.model(run)
    data = world.training(24, processor.tokenizer)
    nowhere = replace(data.regions, boxes=np.full_like(data.regions.boxes, np.nan))
    terms = asg_terms(model, sample_batch(replace(data, regions=nowhere), run, 0, "pairs"), model)
    assert terms["arsa"].item() == 0
    total_loss(terms, run.loss, 1.0).backward()
    assert model.image_tower.global_head.weight.grad.isfinite().all()


# ---- what is refused


@pytest.mark.parametrize("method", ["asg", "lgdea+asg"])
def test_missing_boxes_or_links_are_refused_unless_arsa_is_off(method: str, tmp_path: Path) -> None:
    world, run = PlantedWorld(24, seed=0), config(method, text_steps=0, pair_steps=1, relation_steps=0)
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
            training.train(run, replace(data, regions=regions), model, tmp_path, progress=False)
    off = config(method, text_steps=0, pair_steps=1, relation_steps=0, arsa=0.0)
    state, _ = training.train(off, replace(data, regions=boxless), model, tmp_path, progress=False)
    assert state.step == 1


def test_regions_belong_to_the_origin_of_a_checkpoint() -> None:
    world, run = PlantedWorld(24, seed=0), config("asg")
    data = world.training(20, world.model(run)[1].tokenizer)
    moved = replace(data.regions, boxes=data.regions.boxes / 2)
    assert training.training_origin(run, data) == training.training_origin(run, data)
    assert training.training_origin(run, data) != training.training_origin(run, replace(data, regions=moved))
    links = (data.regions.links[0][:0], np.concatenate(data.regions.links[:2]), *data.regions.links[2:])
    other = replace(data.regions, links=links)  # the same links, but of another report
    assert training.training_origin(run, data) != training.training_origin(run, replace(data, regions=other))


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


@pytest.mark.parametrize("learned", [True, False])
def test_the_temperature_stays_where_it_is_not_learned_and_no_clipping_is_no_zero(
    learned: bool, tmp_path: Path
) -> None:
    steps = {"text_steps": 0, "pair_steps": 2, "relation_steps": 0}
    world, run = PlantedWorld(24, seed=0), config("asg", **steps, clip_norm=0.0, learned_temperature=learned)
    model, processor = world.model(run)
    before, start = model.image_tower.global_head.bias.clone(), model.log_logit_scale.clone()
    state, _ = training.train(run, world.training(20, processor.tokenizer), model, tmp_path, progress=False)
    assert not torch.equal(state.model.image_tower.global_head.bias, before)
    assert torch.equal(state.model.log_logit_scale, start) != learned


def test_tag_names_are_encoded_once_and_kept_with_the_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world, run = PlantedWorld(24, seed=0), config("asg", text_steps=0, pair_steps=2, relation_steps=0)
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
    state, _ = training.train(run, world.training(20, processor.tokenizer), model, tmp_path / "run", progress=False)
    assert torch.equal(state.model.tag_decoder.tag_embeds, names)
    state.model.save_pretrained(tmp_path / "model")
    again = LGDEAModel.from_pretrained(tmp_path / "model").eval()
    features = torch.randn(2, 64, model.image_tower.width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.tag_decoder(features), state.model.eval().tag_decoder(features))


@pytest.mark.parametrize(
    ("method", "changes", "head"),
    [
        ("asg", {}, "grounding"),
        ("asg", {"arsa": 0.0}, ""),
        ("lgdea", {}, ""),
        ("lgdea+asg", {}, "regions"),
        ("lgdea+asg", {"mode": "graph", "local": 0.0}, "grounding"),
    ],
)
def test_phrases_meet_patches_through_the_head_that_was_trained_on_them(
    method: str, changes: dict[str, float | str], head: str
) -> None:
    model, processor = build_model(config(method, **changes), ["a left nodule", "no edema"])
    assert model.config.sentence_head == head
    tokens = processor.tokens(["left nodule", "edema"])
    phrases, sentences = model.phrase_embeds(*tokens), F.normalize(model.sentence_embeds(*tokens), dim=-1)
    assert torch.equal(phrases, sentences if head == "grounding" else model.encode_texts(*tokens))
    crops = torch.randint(0, 255, (1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    patches = model.eval().grounding_patches(model.encode_images(processor.pixel_values(crops)))
    expected = (model.phrase_embeds(*tokens) @ patches[0].T).unflatten(1, (8, 8))
    maps = patch_maps(model, processor, crops, ["left nodule", "edema"], smoothing=0.0)
    torch.testing.assert_close(torch.from_numpy(maps[0]), expected.detach(), rtol=0, atol=1e-5)


def test_a_model_of_another_method_has_the_same_weights_and_no_decoder() -> None:
    world = PlantedWorld(10, seed=0)
    (clip, _), (asg, _) = world.model(config("clip")), world.model(config("asg"))
    assert clip.tag_decoder is None
    for name, weight in clip.state_dict().items():
        assert torch.equal(weight, asg.state_dict()[name]), name


# ---- training


@pytest.mark.slow
def test_regions_are_found_on_unseen_films_and_not_where_their_names_were_shuffled(tmp_path: Path) -> None:
    world, unseen = RegionWorld(96, seed=0), RegionWorld(48, seed=1)
    found = {}
    for shuffled in (False, True):
        run = config("asg", text_steps=0, pair_steps=60, relation_steps=0, batch_size=24, checkpoint_every=1000)
        training.seed_everything(0)
        model, processor = build_model(run, list(world.reports.values()))
        regions = shuffle_regions(world.regions, 0) if shuffled else world.regions
        state, _ = training.train(
            run, world.training(processor, regions), model, tmp_path / str(shuffled), progress=False
        )
        sentences = [report_sentences(text) for text in unseen.reports.values()]
        order = np.arange(len(unseen.crops))
        found[shuffled] = region_hits(
            state.model, processor, unseen.crops, unseen.data(unseen.regions), order, sentences
        )
    assert found[False]["region_at_1_chance"].mean() == pytest.approx(1 / 8)
    assert found[False]["named_region_at_1_chance"].mean() == pytest.approx(1 / 2)
    assert found[False]["region_at_1"].mean() > 0.9
    assert found[False]["named_region_at_1"].mean() > 0.9
    assert found[True]["region_at_1"].mean() < 0.3
    assert 0.3 < found[True]["named_region_at_1"].mean() < 0.7
