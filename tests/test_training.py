"""The loop: it resumes bitwise, keeps to its schedule, refreshes relations, and says what is wrong."""

import copy
import threading
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from planted import PlantedWorld, config, setting
from scipy import sparse

from lgdea_core.batch import Batch, RelationTargets
from lgdea_core.config import METHODS, RunConfig
from lgdea_core.crops import CropPool
from lgdea_core.method import total_loss
from lgdea_core.model import LGDEAModel
from lgdea_core.relations import GraphRelations, Relations
from lgdea_core.training import loop
from lgdea_core.training.checkpoint import CHECKPOINT, resume, training_origin
from lgdea_core.training.encoding import in_parts
from lgdea_core.training.loop import start_state, train, update_teacher
from lgdea_core.training.refresh import RelationState, refresh_relations
from lgdea_core.training.schedule import learning_rate_at, phase_at, ramp_at

# ---- resuming


class Killed(Exception):
    pass


def train_with_kills(
    world: PlantedWorld, run: RunConfig, folder: Path, kill_at: tuple[int, ...] = (), **options: object
) -> tuple[LGDEAModel, pd.DataFrame]:
    """Train to the end, killed and started again at each of these steps."""
    for step in (*kill_at, None):

        def stop(done: int, step: int | None = step) -> None:
            if done == step:
                raise Killed

        model, processor = world.model(run)
        torch.manual_seed(1234 + (step or 0))  # what a new process would bring must not matter
        data = world.training(24, processor.tokenizer)
        try:
            state, history = train(run, data, model, folder, progress=False, after_step=stop, **options)
        except Killed:
            continue
    return state.model, history


def differing(one: LGDEAModel, other: LGDEAModel) -> list[str]:
    theirs = other.state_dict()
    return [name for name, value in one.state_dict().items() if not torch.equal(value, theirs[name])]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "precision"), [("clip", "no"), ("gloria", "no"), ("lgdea", "bf16"), ("lgdea+asg", "no")]
)
def test_killed_and_resumed_training_ends_with_bitwise_the_same_weights(
    method: str, precision: str, tmp_path: Path
) -> None:
    world = PlantedWorld(40)
    run = config(method, mixed_precision=precision, pair_steps=4, relation_steps=8, batch_size=8)
    whole, _ = train_with_kills(world, run, tmp_path / "whole")
    kills = tuple(sorted(np.random.default_rng().choice(np.arange(1, 16), size=2, replace=False).tolist()))
    broken, _ = train_with_kills(world, run, tmp_path / "broken", kills)
    assert not differing(whole, broken), f"killed at {kills}"


@pytest.mark.slow
def test_the_history_is_resumed_too_and_measuring_relations_leaves_no_trace_in_the_weights(tmp_path: Path) -> None:
    world, run = PlantedWorld(40), config(pair_steps=4, batch_size=8)

    def measured(relations: Relations) -> dict[str, float]:
        return {"relation_truth": float(relations.rows(np.arange(3)).square().sum())}

    whole, history = train_with_kills(world, run, tmp_path / "whole", after_refresh=measured)
    _, resumed = train_with_kills(world, run, tmp_path / "broken", (10, 15), after_refresh=measured)
    unmeasured, alone = train_with_kills(world, run, tmp_path / "unmeasured")
    pd.testing.assert_frame_equal(history, resumed, check_exact=True)
    assert history["relation_truth"].count() == run.train.relation_steps
    assert history["relation_truth"].nunique() == 3  # refreshes
    pd.testing.assert_frame_equal(history.drop(columns="relation_truth"), alone)
    assert not differing(whole, unmeasured)


@pytest.mark.slow
def test_training_in_two_stages_equals_training_in_one(tmp_path: Path) -> None:
    world, run = PlantedWorld(40), config("clip", text_steps=2, pair_steps=2, relation_steps=2, batch_size=8)
    once, _, _ = world.train(run, 24, tmp_path / "once")
    _, _, half = world.train(run, 24, tmp_path / "twice", until="pairs")
    assert half["step"].max() == 4
    twice, _, history = world.train(run, 24, tmp_path / "twice")
    assert not differing(once, twice)
    assert history["step"].tolist() == list(range(1, 7))


def test_a_half_written_checkpoint_is_never_read(tmp_path: Path) -> None:
    world, run = PlantedWorld(24), config("clip", text_steps=2)
    model, processor = world.model(run)
    data = world.training(12, processor.tokenizer)
    state, _ = train(run, data, model, tmp_path, until="text", progress=False)
    (tmp_path / "checkpoint.part").mkdir()
    (tmp_path / "checkpoint.part" / "model.safetensors").write_bytes(b"half")
    (tmp_path / CHECKPOINT).rename(tmp_path / ".checkpoint.old")  # killed between the two renames
    fresh = start_state(world.model(run)[0], run)
    resume(fresh, tmp_path / CHECKPOINT, training_origin(run, data))
    assert fresh.step == state.step == 2


def test_all_data_that_a_method_reads_belongs_to_the_origin_of_a_checkpoint() -> None:
    world, run = PlantedWorld(8), config("asg")
    data = world.training(4, world.model(run)[1].tokenizer)
    own = data.regions
    assert training_origin(run, data) == training_origin(run, replace(data, images=CropPool.of(data.images[:])))
    others = [
        replace(data, evidence=replace(data.evidence, report_findings=-data.evidence.report_findings)),
        replace(data, impressions=data.impressions + 1),
        replace(data, images=CropPool.of(data.images[:] + 1)),
        replace(data, seed_pairs=data.seed_pairs[::-1]),
        replace(data, regions=replace(own, boxes=own.boxes / 2)),
        # the same links, but of another report
        replace(data, regions=replace(own, links=(own.links[0][:0], np.concatenate(own.links[:2]), *own.links[2:]))),
    ]
    origins = [str(training_origin(run, other)["data"]) for other in (data, *others)]
    assert len(set(origins)) == len(origins)


def test_published_weights_in_a_folder_belong_to_the_origin_of_a_checkpoint(tmp_path: Path) -> None:
    world, run = PlantedWorld(8), config("clip")
    data = world.training(4, world.model(run)[1].tokenizer)
    (tmp_path / "model.safetensors").write_bytes(b"some")
    run = replace(run, model=replace(run.model, model_start=str(tmp_path)))
    before = training_origin(run, data)
    assert training_origin(run, data) == before
    (tmp_path / "model.safetensors").write_bytes(b"others")
    after = training_origin(run, data)
    assert {name for name, value in after["data"].items() if value != before["data"][name]} == {"model_start"}


def test_batches_are_drawn_ahead_and_never_past_a_phase_or_a_refresh() -> None:
    run, batch, drawn = config(), setting("lgdea", "text")[2], []  # 4 steps of text, 6 of pairs, 10 under relations

    def draw(*asked: object) -> Batch:
        drawn.append(threading.get_ident())
        return replace(batch, own=asked)

    remade = [Mock(spec=RelationTargets) for _ in range(3)]  # every 4 steps
    with loop.BatchesAhead(draw) as batches:
        for step in range(20):
            phase, relations = phase_at(step, "lgdea", run.train), remade[(step - 10) // 4] if step >= 10 else None
            assert batches.take(step, 20, run, relations).own == (step, phase, relations)
            waiting = {0: [1, 2], 3: [], 8: [9], 9: [], 12: [13], 13: [], 18: [19], 19: []}
            assert list(batches.drawn) == waiting.get(step, list(batches.drawn))
    assert len(drawn) == 20
    assert {*drawn} != {threading.get_ident()}


@pytest.mark.parametrize("training", [False, True])
def test_a_tower_in_parts_has_the_gradient_and_the_statistics_of_the_parts(training: bool) -> None:
    """By hand: the parts one after the other, all kept. Without batch norm in training that is the whole batch."""
    pixels = torch.randn(7, 5, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    tower = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(5), torch.nn.Dropout(0.5)).train(training)
    found = []
    for by_hand in (True, False):
        own = copy.deepcopy(tower)
        torch.manual_seed(1)
        seen = torch.cat([own(part) for part in pixels.split(3)]) if by_hand else in_parts(own, own, [pixels], 3)
        torch.manual_seed(2)  # whatever is drawn in between
        (seen @ seen.flatten(0, 1).T).logsumexp(dim=2).sum().backward()
        found.append([seen, own[1].running_mean, own[1].running_var, *(weight.grad for weight in own.parameters())])
    torch.testing.assert_close(found[0], found[1])
    assert training or torch.equal(found[1][0], tower(pixels))


# ---- schedule


def test_every_method_takes_as_many_steps_and_only_lgdea_has_relations() -> None:
    schedule = config().train
    phases = {method: [phase_at(step, method, schedule) for step in range(20)] for method in METHODS}
    assert schedule.total_steps == 20
    expected = dict.fromkeys(METHODS, ["pairs"] * 20)
    expected |= dict.fromkeys(("biovil", "medklip"), ["text"] * 4 + ["pairs"] * 16)
    expected |= dict.fromkeys(("lgdea", "lgdea+asg"), ["text"] * 4 + ["pairs"] * 6 + ["relations"] * 10)
    assert phases == expected


def test_learning_rate_rises_falls_and_ends_near_zero_and_a_text_warm_up_has_its_own() -> None:
    schedule = config(pair_steps=50, relation_steps=50).train
    lgdea, clip, gloria = (
        [learning_rate_at(step, method, schedule) for step in range(schedule.total_steps)]
        for method in ("lgdea", "clip", "gloria")
    )
    assert lgdea[:4] == [schedule.text_learning_rate] * 4
    for rates in (lgdea[4:], clip):
        assert rates[0] < rates[10]
        assert max(rates) == pytest.approx(schedule.learning_rate, rel=0.02)
        assert rates[-1] < 1e-3 * schedule.learning_rate
    assert clip == gloria


def test_relation_terms_ramp_from_nothing_to_full_weight_and_each_term_has_its_own() -> None:
    assert [ramp_at(step, config().train) for step in (0, 9, 10, 13, 19)] == [0, 0, 0.25, 1, 1]
    run = config(ita=2.0, local=3.0, consistency=5.0)
    terms = {"ita": torch.tensor(1.0), "local": torch.tensor(10.0), "consistency": torch.tensor(100.0)}
    assert total_loss(terms, run.weights, 0.5, ("consistency",)).item() == pytest.approx(2 + 30 + 250)


def test_teacher_is_the_moving_average_of_the_model() -> None:
    run = config()
    model, _ = PlantedWorld(10).model(run)
    state = start_state(model, run)
    before = state.teacher.prototypes.clone()
    with torch.no_grad():
        state.model.prototypes += 1.0
    update_teacher(state.teacher, state.model, 0.9)
    torch.testing.assert_close(state.teacher.prototypes, before + 0.1)
    assert not any(weight.requires_grad for weight in state.teacher.parameters())


@pytest.mark.parametrize("learned", [True, False])
def test_the_temperature_stays_where_it_is_not_learned_and_no_clipping_is_no_zero(
    learned: bool, tmp_path: Path
) -> None:
    steps = {"text_steps": 0, "pair_steps": 2, "relation_steps": 0}
    world, run = PlantedWorld(24), config("clip", **steps, clip_norm=0.0, learned_temperature=learned)
    before, _ = world.model(run)
    after, _, _ = world.train(run, 20, tmp_path)
    assert not torch.equal(after.image_tower.global_head.bias, before.image_tower.global_head.bias)
    assert torch.equal(after.log_logit_scale, before.log_logit_scale) != learned


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first_graph", "fixed_graph"])
def test_given_relations_take_the_place_of_propagation(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, run = PlantedWorld(24), config(text_steps=0, pair_steps=1, relation_steps=3, refresh_every=1, batch_size=8)
    given = GraphRelations(sparse.csr_array(np.eye(12)))
    used: list[Relations | None] = []

    def refresh(*args: object, graph: Relations | None = None) -> RelationState:
        used.append(graph)
        return refresh_relations(*args, graph=graph)

    monkeypatch.setattr(loop, "refresh_relations", refresh)
    world.train(run, 12, tmp_path, **{name: given})
    assert used[0] is given
    assert [graph is given for graph in used[1:]] == [name == "fixed_graph"] * 2


# ---- what is refused, and what is not


def test_zero_pairs_and_no_unpaired_pool_are_refused(tmp_path: Path) -> None:
    world, run = PlantedWorld(12), config(pair_steps=2, relation_steps=2)
    with pytest.raises(ValueError, match="at least one known pair"):
        world.train(run, 0, tmp_path / "0")
    with pytest.raises(ValueError, match="no unpaired image"):
        world.train(run, 12, tmp_path / "12")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lgdea", "asg"])
def test_one_pair_trains(method: str, tmp_path: Path) -> None:
    world, run = PlantedWorld(12), config(method, image_size=64, text_steps=1, pair_steps=2, relation_steps=2)
    world.images = world.images.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)  # one image at 32 px is too
    assert len(world.train(run, 1, tmp_path)[2]) == 5  # small for the batch norm of the deepest stage


def test_a_loss_that_is_not_finite_names_step_and_terms(tmp_path: Path) -> None:
    world, run = PlantedWorld(30), config("clip", text_steps=0, pair_steps=3, relation_steps=0)
    model, processor = world.model(run)
    with torch.no_grad():
        model.log_logit_scale.fill_(float("nan"))
    with pytest.raises(RuntimeError, match=r"step 1: the loss is not finite; terms .*ita"):
        train(run, world.training(20, processor.tokenizer), model, tmp_path, progress=False)
