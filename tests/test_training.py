"""Training: it learns true pairs and nothing from shuffled ones, resumes bitwise, and says what is wrong."""

import logging
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import FINDINGS, SIDES, PlantedWorld, config
from safetensors.torch import load_file
from scipy import sparse
from torch.nn import functional as F

from lgdea_core.config import METHODS, RunConfig
from lgdea_core.crops import standardise
from lgdea_core.evidence.sections import report_sentences
from lgdea_core.inference import encode_image_pool, encode_tokens, score_rows
from lgdea_core.methods.lgdea import METHOD_TERMS, lgdea_terms, total_loss
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.relations import Relations
from lgdea_core.training import loop as training
from lgdea_core.training.refresh import RelationState, refresh_relations
from lgdea_core.training.schedule import learning_rate_at, phase_at, ramp_at

LEARNING = {"text_steps": 10, "pair_steps": 50, "relation_steps": 0, "batch_size": 48, "checkpoint_every": 1000}


def held_out_recall(world: PlantedWorld, model: LGDEAModel, processor: LGDEAProcessor) -> float:
    """Share of held-out images whose nearest of the distinct reports is their own."""
    texts = sorted({" ".join(report_sentences(report)) for report in world.reports})
    own = np.array([texts.index(" ".join(report_sentences(report))) for report in world.reports])
    images, reports = score_rows(model, world.images, *processor.tokens(texts))
    return float(((images @ reports.T).argmax(axis=1) == own).mean())


def held_out_local_recall(world: PlantedWorld, model: LGDEAModel, processor: LGDEAProcessor) -> float:
    """Share of held-out images whose best patches answer the sentence that is true of it more than the others."""
    texts = [f"There is a {side} {finding}." for finding in FINDINGS for side in SIDES]
    queries = encode_tokens(model, *processor.tokens(texts))
    return float((encode_image_pool(model, world.images, queries).responses.argmax(axis=1) == world.labels).mean())


LEARN_FINDINGS = ("medclip", "medklip")
"""Methods that are taught findings and statements, not which report is whose; see test_baselines."""


@pytest.mark.slow
@pytest.mark.parametrize("method", [method for method in METHOD_TERMS if method not in LEARN_FINDINGS])
def test_training_learns_true_pairs_and_nothing_from_shuffled_ones(method: str, tmp_path: Path) -> None:
    world, unseen = PlantedWorld(160, seed=0), PlantedWorld(64, seed=1)
    recall, local = {}, {}
    for shuffled in (False, True):
        run = config(method, **LEARNING)
        model, processor = world.model(run)
        data = world.training(160, processor.tokenizer, shuffled=shuffled)
        state, _ = training.train(run, data, model, tmp_path / str(shuffled), progress=False)
        recall[shuffled] = held_out_recall(unseen, state.model, processor)
        local[shuffled] = held_out_local_recall(unseen, state.model, processor)
    assert recall[False] > 0.8  # 8 distinct reports: chance is 0.125
    assert recall[True] < 0.35
    if model.config.local and not model.config.within_pairs:  # these learn where, not whether
        assert local[False] > 0.8
        assert local[True] < 0.35


class Killed(Exception):
    pass


def weights_after(world: PlantedWorld, run: RunConfig, folder: Path, kill_at: tuple[int, ...] = ()) -> LGDEAModel:
    """Train to the end, killed and started again at each of these steps."""
    for step in (*kill_at, None):

        def stop(done: int, step: int | None = step) -> None:
            if done == step:
                raise Killed

        model, processor = world.model(run)
        torch.manual_seed(1234 + (step or 0))  # what a new process would bring must not matter
        data = world.training(24, processor.tokenizer)
        try:
            state, _ = training.train(run, data, model, folder, progress=False, after_step=stop)
        except Killed:
            continue
    return state.model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "precision"),
    [("clip", "no"), ("gloria", "no"), ("asg", "no"), ("lgdea", "no"), ("lgdea", "bf16"), ("lgdea+asg", "no")],
)
def test_killed_and_resumed_training_ends_with_bitwise_the_same_weights(
    method: str, precision: str, tmp_path: Path
) -> None:
    world, run = PlantedWorld(48, seed=0), config(method, mixed_precision=precision)
    whole = weights_after(world, run, tmp_path / "whole").state_dict()
    kills = tuple(sorted(np.random.default_rng().choice(np.arange(1, 20), size=3, replace=False).tolist()))
    broken = weights_after(world, run, tmp_path / "broken", kill_at=kills).state_dict()
    different = [name for name, value in whole.items() if not torch.equal(value, broken[name])]
    assert not different, f"killed at {kills}"


@pytest.mark.slow
def test_the_history_is_resumed_too_and_measuring_relations_leaves_no_trace_in_the_weights(tmp_path: Path) -> None:
    world, run = PlantedWorld(48, seed=0), config()

    def measured(relations: Relations) -> dict[str, float]:
        return {"relation_truth": float(relations.rows(np.arange(3)).square().sum())}

    histories, weights = {}, {}
    for name, kills in (("whole", ()), ("broken", (12, 17)), ("unmeasured", ())):
        for step in (*kills, None):

            def stop(done: int, step: int | None = step) -> None:
                if done == step:
                    raise Killed

            model, processor = world.model(run)
            data = world.training(24, processor.tokenizer)
            options = {} if name == "unmeasured" else {"after_refresh": measured}
            try:
                state, history = training.train(
                    run, data, model, tmp_path / name, progress=False, after_step=stop, **options
                )
            except Killed:
                continue
        histories[name], weights[name] = history, state.model.state_dict()
    pd.testing.assert_frame_equal(histories["whole"], histories["broken"], check_exact=True)
    assert histories["whole"]["relation_truth"].count() == run.train.relation_steps
    assert histories["whole"]["relation_truth"].nunique() == 3  # refreshes
    pd.testing.assert_frame_equal(histories["whole"].drop(columns="relation_truth"), histories["unmeasured"])
    assert all(torch.equal(value, weights["unmeasured"][name]) for name, value in weights["whole"].items())


@pytest.mark.parametrize("method", ["clip", pytest.param("gloria", marks=pytest.mark.slow)])
def test_training_in_two_stages_equals_training_in_one(method: str, tmp_path: Path) -> None:
    world, run = PlantedWorld(40, seed=0), config(method)
    model, processor = world.model(run)
    data = world.training(24, processor.tokenizer)
    once, _ = training.train(run, data, model, tmp_path / "once", progress=False)
    model, _ = world.model(run)
    half, _ = training.train(run, data, model, tmp_path / "twice", until="pairs", progress=False)
    assert half.step == 10
    model, _ = world.model(run)
    twice, history = training.train(run, data, model, tmp_path / "twice", progress=False)
    assert all(torch.equal(a, b) for a, b in zip(once.model.parameters(), twice.model.parameters(), strict=True))
    assert history["step"].tolist() == list(range(1, 21))


@pytest.mark.slow
def test_two_processes_keep_the_same_weights_and_see_different_batches(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    environment = os.environ | {
        "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}",
        "ACCELERATE_USE_CPU": "1",
        "OMP_NUM_THREADS": "1",
    }
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(tests / "two_processes.py"), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    losses = [pd.read_csv(tmp_path / f"rank{rank}.csv")["loss"].tolist() for rank in (0, 1)]
    assert len(losses[0]) == 6
    assert losses[0] != losses[1]


def test_a_half_written_checkpoint_is_never_read(tmp_path: Path) -> None:
    world, run = PlantedWorld(40, seed=0), config("clip")
    model, processor = world.model(run)
    data = world.training(24, processor.tokenizer)
    state, _ = training.train(run, data, model, tmp_path, until="text", progress=False)
    origin = training.training_origin(run, data)
    checkpoint = tmp_path / training.CHECKPOINT
    (tmp_path / "checkpoint.part").mkdir()
    (tmp_path / "checkpoint.part" / "model.safetensors").write_bytes(b"half")
    checkpoint.rename(tmp_path / "checkpoint.old")  # killed between the two renames
    fresh = training.start_state(world.model(run)[0], run)
    training.resume(fresh, checkpoint, origin)
    assert fresh.step == state.step == 4


def test_denials_and_impressions_belong_to_the_origin_of_a_checkpoint() -> None:
    world, run = PlantedWorld(8, seed=0), config("medclip")
    _, processor = world.model(run)
    data = world.training(4, processor.tokenizer)
    denying = replace(data.evidence, report_findings=-data.evidence.report_findings)
    origins = {
        training.training_origin(run, other)
        for other in (data, replace(data, evidence=denying), replace(data, impressions=data.impressions + 1))
    }
    assert len(origins) == 3


def test_a_checkpoint_of_other_data_is_not_taken_for_this_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world, run = PlantedWorld(40, seed=0), config("clip", text_steps=2, pair_steps=2, relation_steps=0)
    model, processor = world.model(run)
    training.train(run, world.training(24, processor.tokenizer), model, tmp_path, progress=False)
    model, _ = world.model(run)
    fewer = world.training(20, processor.tokenizer)
    with caplog.at_level(logging.WARNING, logger="lgdea"):
        state, _ = training.train(run, fewer, model, tmp_path / "nowhere", until="text", progress=False)
        assert not caplog.records
        model, _ = world.model(run)
        again, _ = training.train(run, fewer, model, tmp_path, until="text", progress=False)
    assert "starts over" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(state.model.parameters(), again.model.parameters(), strict=True))


def test_every_method_takes_as_many_steps_and_only_lgdea_has_relations() -> None:
    schedule = config().train
    phases = {m: [phase_at(step, m, schedule) for step in range(schedule.total_steps)] for m in METHOD_TERMS}
    assert set(phases["clip"]) == {"pairs"}
    for method in ("gloria", "asg", "mgca", "medclip", "prior", "carzero"):
        assert phases[method] == phases["clip"]
    for method in ("biovil", "medklip"):
        assert phases[method] == ["text"] * 4 + ["pairs"] * 16
    assert phases["lgdea+asg"] == phases["lgdea"] == ["text"] * 4 + ["pairs"] * 6 + ["relations"] * 10


def test_clip_and_gloria_train_at_the_same_rate() -> None:
    schedule = config(pair_steps=50, relation_steps=50).train
    clip, gloria = (
        [learning_rate_at(step, method, schedule) for step in range(schedule.total_steps)]
        for method in ("clip", "gloria")
    )
    assert clip == gloria
    assert clip[0] < clip[10]  # no text warm-up: the rate rises from the first step


def test_learning_rate_rises_falls_and_ends_near_zero() -> None:
    schedule = config(pair_steps=50, relation_steps=50).train
    rates = [learning_rate_at(step, "lgdea", schedule) for step in range(schedule.total_steps)]
    assert rates[:4] == [schedule.text_learning_rate] * 4
    assert max(rates[4:]) == pytest.approx(schedule.learning_rate, rel=0.02)
    assert rates[-1] < 1e-3 * schedule.learning_rate


def test_relation_terms_ramp_from_nothing_to_full_weight() -> None:
    schedule = config().train
    assert [ramp_at(step, schedule) for step in (0, 9, 10, 13, 19)] == [0, 0, 0.25, 1, 1]


def test_total_loss_weighs_each_term_by_its_own_field_and_ramps_relation_terms() -> None:
    run = config(ita=2.0, local=3.0, consistency=5.0)
    terms = {"ita": torch.tensor(1.0), "local": torch.tensor(10.0), "consistency": torch.tensor(100.0)}
    assert total_loss(terms, run.loss, 0.5).item() == pytest.approx(2 + 30 + 250)


def test_teacher_is_the_moving_average_of_the_model() -> None:
    run = config()
    model, _ = PlantedWorld(10, seed=0).model(run)
    state = training.start_state(model, run)
    before = state.teacher.prototypes.clone()
    with torch.no_grad():
        state.model.prototypes += 1.0
    training.update_teacher(state.teacher, state.model, 0.9)
    torch.testing.assert_close(state.teacher.prototypes, before + 0.1)
    assert not any(weight.requires_grad for weight in state.teacher.parameters())


def test_every_lgdea_term_with_a_weight_sends_gradient_to_what_it_should_move(tmp_path: Path) -> None:
    world, run = PlantedWorld(48, seed=0), config()
    model, processor = world.model(run)
    data = world.training(24, processor.tokenizer)
    state = training.start_state(model, run)
    relations = training.refresh_relations(state.teacher, data, run)
    batch = training.sample_batch(data, run, 12, "relations", relations)
    terms = lgdea_terms(model, batch, state.teacher)
    moves = {
        "reconstruction": model.prototypes,
        "prototype_penalty": model.prototypes,
        "usage": model.prototypes,
        "text": model.text_tower.head.weight,
        "ita": model.image_tower.global_head.weight,
        "evidence_paired": model.lesion_queries.queries,
        "lesion": model.lesion_queries.queries,
        "local": model.image_tower.local_head.weight,
        "evidence_unpaired": model.lesion_queries.queries,
        "evidence_alignment": model.image_tower.global_head.weight,
        "local_unpaired": model.image_tower.local_head.weight,
        "consistency": model.image_tower.local_head.weight,
    }
    assert set(terms) == set(moves)
    for name, weight in moves.items():
        (gradient,) = torch.autograd.grad(terms[name], weight, retain_graph=True)
        assert torch.isfinite(gradient).all(), name
        if name != "prototype_penalty":  # starts at its optimum
            assert gradient.abs().max() > 0, name


def test_report_evidence_teaches_and_is_not_taught(tmp_path: Path) -> None:
    world, run = PlantedWorld(40, seed=0), config()
    model, processor = world.model(run)
    batch = training.sample_batch(world.training(24, processor.tokenizer), run, 5, "pairs")
    terms = lgdea_terms(model, batch, model)
    (gradient,) = torch.autograd.grad(terms["evidence_paired"], model.text_tower.head.weight, allow_unused=True)
    assert gradient is None


def test_zero_pairs_and_no_unpaired_pool_are_refused(tmp_path: Path) -> None:
    world, run = PlantedWorld(12, seed=0), config(pair_steps=2, relation_steps=2)
    model, processor = world.model(run)
    with pytest.raises(ValueError, match="at least one known pair"):
        training.train(run, world.training(0, processor.tokenizer), model, tmp_path / "0", progress=False)
    with pytest.raises(ValueError, match="no unpaired image"):
        training.train(run, world.training(12, processor.tokenizer), model, tmp_path / "12", progress=False)


@pytest.mark.parametrize("method", METHOD_TERMS)
def test_a_method_that_reads_evidence_needs_some(method: str, tmp_path: Path) -> None:
    world, run = PlantedWorld(24, seed=0), config(method, text_steps=0, pair_steps=2, relation_steps=0)
    world.evidence["status"] = "uncertain"
    model, processor = world.model(run)
    data = world.training(20, processor.tokenizer)
    if METHODS[method].evidence:
        with pytest.raises(ValueError, match=rf"method '{re.escape(method)}' needs evidence, but no report has any"):
            training.train(run, data, model, tmp_path, progress=False)
    else:
        state, _ = training.train(run, data, model, tmp_path, progress=False)
        assert state.step == 2


@pytest.mark.parametrize(
    "name",
    [
        "first_graph",
        "fixed_graph",
    ],
)
def test_given_relations_take_the_place_of_propagation(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, run = PlantedWorld(40, seed=0), config(text_steps=2, pair_steps=2, relation_steps=10)
    model, processor = world.model(run)
    data = world.training(24, processor.tokenizer)
    given = sparse.csr_array(np.eye(16))
    used: list[sparse.csr_array | None] = []

    def refresh(*args: object, graph: sparse.csr_array | None = None) -> RelationState:
        used.append(graph)
        return refresh_relations(*args, graph=graph)

    monkeypatch.setattr(training, "refresh_relations", refresh)
    training.train(run, data, model, tmp_path, progress=False, **{name: given})
    assert used[0] is given
    assert [graph is given for graph in used[1:]] == [name == "fixed_graph"] * 2


@pytest.mark.parametrize("method", ["lgdea", "asg"])
def test_one_pair_trains(method: str, tmp_path: Path) -> None:
    world, run = PlantedWorld(12, seed=0), config(method, image_size=64, pair_steps=2, relation_steps=2)
    world.images = world.images.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)  # one image at 32 px is too
    model, processor = world.model(run)  # small for the batch norm of the deepest stage
    state, _ = training.train(run, world.training(1, processor.tokenizer), model, tmp_path, progress=False)
    assert state.step == 8


def test_a_loss_that_is_not_finite_names_step_and_terms(tmp_path: Path) -> None:
    world, run = PlantedWorld(30, seed=0), config("clip", text_steps=0, pair_steps=3, relation_steps=0)
    model, processor = world.model(run)
    with torch.no_grad():
        model.log_logit_scale.fill_(float("nan"))
    with pytest.raises(RuntimeError, match=r"step 1: the loss is not finite; terms .*ita"):
        training.train(run, world.training(20, processor.tokenizer), model, tmp_path, progress=False)


@pytest.mark.slow
def test_reconstruction_alone_draws_all_phrases_to_one_point_and_the_text_term_keeps_them_apart(tmp_path: Path) -> None:
    world = PlantedWorld(60, seed=0)
    cosine = {}
    for text in (0.0, 1.0):
        run = config(text=text, usage=0.0, text_steps=60, pair_steps=0, relation_steps=0, reconstruction=5.0)
        model, processor = world.model(run)
        data = world.training(10, processor.tokenizer)
        state, _ = training.train(run, data, model, tmp_path / str(text), progress=False)
        embeds = F.normalize(encode_tokens(state.model, data.phrase_tokens, data.phrase_mask), dim=-1)
        cosine[text] = (embeds @ embeds.T).mean().item()
    assert cosine[0.0] > 0.9
    assert cosine[1.0] < cosine[0.0] - 0.2


def test_padding_images_of_one_value_do_not_break_a_step() -> None:
    assert torch.isfinite(standardise(torch.zeros(3, 1, 8, 8))).all()
