"""What holds for every method: terms and weights, draws, padding, heads, saving, and learning from true pairs alone."""

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import STATEMENTS, PlantedWorld, config, score_rows, setting, tensors_of, terms_of, told_apart
from torch.nn import functional as F

from lgdea_core.batch import Batch
from lgdea_core.config import METHODS, RunConfig, find_method
from lgdea_core.crops import Augmentation
from lgdea_core.grounding import load, patch_maps
from lgdea_core.inference import encode_image_pool, encode_tokens
from lgdea_core.losses import relation_contrastive_loss
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.training.sampling import sample_batch

LGDEA = ("reconstruction", "prototype_penalty", "usage", "text", "ita", "evidence_paired", "lesion", "local")
RELATIONS = ("evidence_unpaired", "evidence_alignment", "local_unpaired", "consistency")
ASG = ("arsa", "erl", "irl")
TERMS = {
    "clip": ("ita",),
    "gloria": ("ita", "local"),
    "mgca": ("ita", "token", "swap"),
    "medclip": ("semantic",),
    "biovil": ("ita", "section", "local"),
    "prior": ("ita", "memory", "local", "siam"),
    "medklip": ("existence",),
    "carzero": ("ita", "cross"),
    "asg": ("ita", *ASG),
    "lgdea": LGDEA,
    "lgdea+asg": (*LGDEA, *ASG),
}
"""Terms of each method on pairs."""
TEXT_TERMS = {"biovil": ("section",), "medklip": ("text",), "lgdea": LGDEA[:4], "lgdea+asg": LGDEA[:4]}
"""Terms of the text warm-up, of the methods that have one."""
OWN_MODULES = {
    "medklip": {"decoder"},
    "carzero": {"decoder"},
    "prior": {"predictor"},
    "asg": {"tag_decoder", "sentence_head"},
    "lgdea+asg": {"tag_decoder", "sentence_head"},
}
LABELLED = ("medclip", "medklip")
"""Methods that read what a report denies."""
QUICK = ("clip", "gloria", "lgdea", "medclip", "carzero")
"""One of each kind of score: global, local, evidence, of findings alone, and a decoder's; the rest takes a while."""
each_method = pytest.mark.parametrize(
    "method", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)


def of(method: str, phase: str = "pairs") -> tuple[LGDEAModel, LGDEAProcessor, Batch]:
    return setting(method, phase, denials=method in LABELLED)


# ---- terms and weights


@each_method
def test_every_term_has_a_weight_and_a_weight_of_zero_leaves_it_out_and_the_others_as_they_are(method: str) -> None:
    phases = {"pairs": {*TERMS[method]}}
    if find_method(method).text_phase:
        phases["text"] = {*TEXT_TERMS[method]}
    if find_method(method).relations:
        phases["relations"] = {*TERMS[method], *RELATIONS}
        assert set(find_method(method).ramped) == set(RELATIONS)
    for phase, names in phases.items():
        model, _, batch = of(method, phase)
        model.eval()
        whole = terms_of(model, batch)
        assert set(whole) == names
        assert all(config(method).weights[name] > 0 for name in names)
        for name in names:
            rest = terms_of(model, batch, **{name: 0.0})
            assert set(rest) == names - {name}
            torch.testing.assert_close(rest, {other: whole[other] for other in rest})


@pytest.mark.parametrize(
    ("method", "terms", "computes"),
    [
        *((method, ["ita"], "method.relation_contrastive_loss") for method in ("clip", "gloria", "asg", "carzero")),
        ("gloria", ["local"], "methods.gloria.sentence_contrast"),
        ("biovil", ["local"], "methods.biovil.sentence_contrast"),
        ("biovil", ["section"], "methods.biovil.relation_contrastive_loss"),
        ("mgca", ["token"], "methods.mgca.token_alignment_loss"),
        ("mgca", ["swap"], "methods.mgca.sinkhorn"),
        ("prior", ["local", "siam"], "methods.prior.cross_alignment_losses"),
        ("prior", ["memory", "local", "siam"], "methods.prior.recalled"),
        ("medclip", ["semantic"], "model.LGDEAModel.encode_images"),
        ("medklip", ["existence"], "decoders.QueryDecoder.forward"),
        ("carzero", ["cross"], "decoders.QueryDecoder.forward"),
        ("asg", ["arsa"], "methods.asg.pool_regions"),
        ("asg", ["irl"], "methods.asg.TagDecoder.forward"),
        ("asg", ["erl"], "methods.asg.soft_relation_divergence"),
        ("lgdea", ["evidence_paired", "evidence_unpaired", "lesion"], "prototypes.LesionQueries.forward"),
        ("lgdea", ["local", "local_unpaired", "consistency"], "methods.lgdea.phrase_patch_scores"),
        ("lgdea", ["consistency"], "methods.lgdea.teacher_loss"),
        ("lgdea", ["text"], "methods.lgdea.word_dropped_contrast"),
        ("lgdea", ["reconstruction"], "methods.lgdea.reconstruction_loss"),
        ("lgdea+asg", ["irl"], "methods.asg.TagDecoder.forward"),
    ],
)
def test_what_has_weight_zero_is_not_computed(
    method: str, terms: list[str], computes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, batch = of(method, "relations" if find_method(method).relations else "pairs")

    def exploding(*args: object, **kwargs: object) -> None:
        raise ArithmeticError("computed")

    monkeypatch.setattr(f"lgdea_core.{computes}", exploding)
    with pytest.raises(ArithmeticError, match="computed"):
        terms_of(model, batch)
    assert not set(terms) & set(terms_of(model, batch, **dict.fromkeys(terms, 0.0)))


@each_method
def test_the_terms_gradients_are_finite_and_reach_what_the_method_trains(method: str) -> None:
    model, _, batch = of(method)
    sum(terms_of(model, batch).values()).backward()
    slopes = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert all(slope.isfinite().all() for slope in slopes.values())
    moved = {name for name, slope in slopes.items() if slope.any()}
    assert "image_tower.laterals.0.weight" in moved
    assert ("text_tower.head.weight" in moved) == (method != "medklip")  # its text tower is frozen on pairs
    assert ("prototypes" in moved) == (method in ("mgca", "prior", "lgdea", "lgdea+asg"))
    own = OWN_MODULES.get(method, set()) - {"sentence_head"}  # one region and one sentence an image compete with none
    assert own <= {name.split(".")[0] for name in moved}


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("asg", "lgdea+asg")])
def test_a_batch_without_pairs_is_finite(method: str) -> None:  # of the two ASG draws no part then, and is not asked
    model, _, batch = setting(method, "text" if find_method(method).text_phase else "pairs")
    if batch.pairs:
        own = batch.own._replace(membership=batch.own.membership[:0]) if hasattr(batch.own, "membership") else batch.own
        nothing = Augmentation(*(part[:0] for part in batch.augmentation))
        none = {"pairs": 0, "crops": batch.crops[:0], "augmentation": nothing, "same_report": batch.same_report[:0, :0]}
        batch = replace(batch, **none, own=own)
    terms = terms_of(model, batch)
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()


def test_all_methods_contrast_the_pairs_alike() -> None:
    model, _, batch = setting("clip")
    pairs = batch.pairs
    images = model.encode_images(batch.pixel_values[:pairs]).image_embeds
    reports = model.encode_texts(batch.report_tokens[:pairs], batch.report_mask[:pairs])
    expected = relation_contrastive_loss(images, reports, torch.eye(pairs), model.logit_scale)
    for method in (method for method in METHODS if "ita" in TERMS[method]):
        model, _, drawn = setting(method)
        torch.testing.assert_close(terms_of(model, drawn)["ita"], expected, rtol=1e-4, atol=1e-5)


def padded(part: object) -> object:
    """A batch whose texts are longer by padding, of other content."""
    values = part._asdict() if hasattr(part, "_asdict") else vars(part)
    longer = {name: padded(value) for name, value in values.items() if hasattr(value, "_asdict")}
    for name in (name for name in values if name.endswith("mask")):
        tokens, real = name.replace("dropped", "phrase").replace("mask", "tokens"), name.replace("dropped", "phrase")
        other = torch.where(values[real], values[tokens], torch.full_like(values[tokens], 7))
        longer |= {name: F.pad(values[name], (0, 3)), tokens: F.pad(other, (0, 3), value=5)}
    return part._replace(**longer) if hasattr(part, "_replace") else replace(part, **longer)


@each_method
def test_content_and_width_of_padding_do_not_matter(method: str) -> None:
    model, _, batch = of(method)
    model.eval()
    longer = padded(batch)
    assert longer.report_tokens.shape[1] == batch.report_tokens.shape[1] + 3
    torch.testing.assert_close(terms_of(model, longer), terms_of(model, batch), atol=1e-5, rtol=1e-4)


# ---- draws


@each_method
def test_draws_depend_on_seed_and_step_alone_and_the_shared_part_not_on_the_method(method: str) -> None:
    world = PlantedWorld(40)
    data = world.training(24, world.model(config())[1].tokenizer)
    first, again, other = (dict(tensors_of(sample_batch(data, config(method), step, "pairs"))) for step in (7, 7, 8))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["batch.crops"], other["batch.crops"])
    seeded = dict(tensors_of(sample_batch(data, config(method, seed=1), 7, "pairs")))
    assert not torch.equal(first["batch.report_tokens"], seeded["batch.report_tokens"])
    clip = sample_batch(data, config("clip"), 7, "pairs")
    assert clip.own is None
    shared = dict(tensors_of(clip))
    assert len(shared) == 1 + sum(entry.name not in ("pairs", "phrases", "own", "processes") for entry in fields(Batch))
    assert all(torch.equal(value, first[name]) for name, value in shared.items())
    assert (len(first) > len(shared)) == (method not in ("clip", "mgca", "carzero"))


@each_method
def test_moving_a_batch_moves_all_its_tensors(method: str) -> None:
    _, _, batch = setting(method)
    moved = batch.to(torch.device("meta"))
    assert [name for name, _ in tensors_of(moved)] == [name for name, _ in tensors_of(batch)]
    assert {value.device.type for _, value in tensors_of(moved)} == {"meta"}
    assert moved.pairs == batch.pairs
    assert np.array_equal(moved.phrases, batch.phrases)


@each_method
def test_a_method_that_reads_evidence_needs_some(method: str, tmp_path: Path) -> None:
    world, run = PlantedWorld(24), config(method, text_steps=0, pair_steps=1, relation_steps=0)
    world.evidence["status"] = "uncertain"
    if find_method(method).evidence:
        with pytest.raises(ValueError, match=rf"method '{re.escape(method)}' needs evidence, but no report has any"):
            world.train(run, 20, tmp_path)
    else:
        assert len(world.train(run, 20, tmp_path)[2]) == 1


# ---- weights, heads and scores


@each_method
def test_what_one_method_has_alone_leaves_the_weights_of_all_as_they_are(method: str) -> None:
    world = PlantedWorld(6)
    shared, own = (world.model(config(name))[0].state_dict() for name in ("clip", method))
    assert all(torch.equal(value, own[name]) for name, value in shared.items())
    assert {name.split(".")[0] for name in own.keys() - shared.keys()} == OWN_MODULES.get(method, set())


@each_method
def test_a_saved_model_loads_to_the_same_scores_maps_and_terms(method: str, tmp_path: Path) -> None:
    model, processor, batch = setting(method)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, its_processor = load(tmp_path)
    assert (again.config, again.objective) == (model.config, model.objective)
    crops, texts = PlantedWorld(3, seed=1).images, processor.tokens(STATEMENTS)
    for ours, theirs in zip(score_rows(model, crops, *texts), score_rows(again, crops, *texts), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    maps = (patch_maps(one, its, crops, ["left mass"]) for one, its in ((model, processor), (again, its_processor)))
    np.testing.assert_array_equal(*maps)
    expected, found = terms_of(model.eval(), batch), terms_of(again.eval(), batch)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


GRAPH_ALONE = {"mode": "graph", "local": 0.0}


@pytest.mark.parametrize(
    ("method", "changes", "local", "channels"),
    [
        ("clip", {}, False, ["global"]),
        ("gloria", {}, True, ["global", "local"]),
        ("gloria", {"local": 0.0}, False, ["global"]),
        ("asg", {}, True, ["global"]),
        ("asg", {"arsa": 0.0}, False, ["global"]),
        ("mgca", {}, True, ["global"]),
        ("mgca", {"token": 0.0}, False, ["global"]),
        ("medclip", {}, False, ["global"]),
        ("biovil", {}, True, ["global", "local"]),
        ("prior", {}, True, ["global"]),
        ("medklip", {}, False, ["decoder"]),
        ("carzero", {}, False, ["decoder"]),
        ("lgdea", {}, True, ["global", "local", "evidence"]),
        ("lgdea+asg", {}, True, ["global", "local", "evidence"]),
        ("lgdea+asg", GRAPH_ALONE, True, ["global", "evidence"]),  # the local head as ASG trains it
        ("lgdea", GRAPH_ALONE, False, ["global", "evidence"]),
        ("lgdea", {"evidence_paired": 0.0}, True, ["global", "local"]),
    ],
)
def test_a_model_knows_which_of_its_heads_are_trained(
    method: str, changes: dict[str, float | str], local: bool, channels: list[str]
) -> None:
    model, _ = PlantedWorld(6).model(config(method, **changes))
    assert model.method.trains_local(model.objective) == local
    assert model.method.channels(model.objective) == channels
    images = model.eval().encode_images(torch.randn(1, 1, 32, 32))
    expected = images.patch_embeds if local else images.global_patch_embeds
    assert torch.equal(model.method.patches(model, images), expected)


@pytest.mark.parametrize("method", METHODS)
def test_the_papers_preset_of_each_method_survives_its_file(method: str, tmp_path: Path) -> None:
    run = RunConfig.from_preset("paper", method=method)
    run.save(tmp_path / "config.json")
    assert RunConfig.load(tmp_path / "config.json") == run
    with pytest.raises(ValueError, match=r"objective of method .* must be \w+, got"):
        replace(run, method="medclip" if method != "medclip" else "clip")


# ---- short trainings

LEARNING = {"text_steps": 10, "pair_steps": 30, "relation_steps": 0, "batch_size": 24, "learning_rate": 4e-3}
LEARNING |= {"checkpoint_every": 1000, "log_every": 1000}
SLOW = {"medklip": {"text_steps": 20, "pair_steps": 120, "batch_size": 32, "learning_rate": 2e-3}}
SLOW |= {"medclip": {"pair_steps": 80}}
SLOW |= {"carzero": {"pair_steps": 50, "learning_rate": 3e-3}}
"""What methods need that learn more slowly: a decoder starts from nothing, findings say less than whole reports."""


def recall(model: LGDEAModel, processor: LGDEAProcessor) -> float:
    best, labels = told_apart(model, processor, [f"There is a {text}. The bones are intact." for text in STATEMENTS])
    return float((best == labels).mean())


def recall_of_findings(model: LGDEAModel, processor: LGDEAProcessor) -> float:
    best, labels = told_apart(model, processor, STATEMENTS)
    return float((best // 2 == labels // 2).mean())


def local_recall(model: LGDEAModel, processor: LGDEAProcessor) -> float:
    """Share of unseen images whose best patches answer the sentence that is true of it more than the others."""
    unseen = PlantedWorld(64, seed=1)
    queries = encode_tokens(model, *processor.tokens([f"There is a {text}." for text in STATEMENTS]))
    return float((encode_image_pool(model, unseen.images, queries).responses.argmax(axis=1) == unseen.labels).mean())


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if "asg" not in name])  # see test_evaluation_regions
def test_training_learns_true_pairs_and_nothing_from_shuffled_ones(method: str, tmp_path: Path) -> None:
    world, run = (
        PlantedWorld(160, denials=method in LABELLED),
        config(method, **LEARNING | SLOW.get(method, {})),
    )
    measures: list[tuple[Callable, float, float]] = [(recall, 0.8, 0.35)]  # 8 distinct reports: chance is 0.125
    if method in LABELLED:  # taught findings, not which report is whose
        measures = [(recall_of_findings, 0.5, 0.4)]  # four findings: chance is 0.25
    elif find_method(method).tells_whether(run.objective):
        measures.append((local_recall, 0.8, 0.35))
    for shuffled in (False, True) if method in QUICK else (False,):
        model, processor, _ = world.train(run, 160, tmp_path / str(shuffled), shuffled=shuffled)
        for measure, learnt, chance in measures:
            found = measure(model, processor)
            assert found < chance if shuffled else found > learnt, measure.__name__
