"""What training promises whoever runs it: nothing replaced in silence, budgets kept, no stray effects."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from planted import PlantedWorld, config
from safetensors.torch import load_file
from torch.nn import functional as F

from lgdea_core import losses
from lgdea_core.config import RunConfig
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.runs import inputs as runs
from lgdea_core.runs.artifacts import start_run
from lgdea_core.runs.variants import load_warm, save_warm, train_variant
from lgdea_core.training import loop
from lgdea_core.training.checkpoint import CHECKPOINT
from lgdea_core.training.loop import place_prototypes, start_state, train
from lgdea_core.training.sampling import sample_batch


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_of_another_training_is_refused_with_both_values_and_stays_as_it_is(tmp_path: Path) -> None:
    world, run = PlantedWorld(24, seed=0), config("clip", text_steps=2, pair_steps=2, relation_steps=0)
    model, processor = world.model(run)
    data = world.training(12, processor.tokenizer)
    train(run, data, model, tmp_path, progress=False)
    before = files(tmp_path)
    other = config("clip", text_steps=2, pair_steps=2, relation_steps=0, learning_rate=1e-4)
    changed = replace(data, seed_pairs=data.seed_pairs[:10])
    for case, pattern in (
        ((other, data), r"configuration.train.learning_rate is 0.002 there, 0.0001 here.*delete that folder"),
        ((run, changed), r"data.pairs is '\w+' there, '\w+' here"),
    ):
        with pytest.raises(RuntimeError, match=pattern):
            train(*case, world.model(run)[0], tmp_path, progress=False)
        assert files(tmp_path) == before


def test_a_checkpoint_does_not_depend_on_code_that_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, run = PlantedWorld(24, seed=0), config("clip", text_steps=2, pair_steps=2, relation_steps=0)
    model, processor = world.model(run)
    data = world.training(12, processor.tokenizer)
    train(run, data, model, tmp_path, progress=False)
    origin = json.loads((tmp_path / CHECKPOINT / "origin.json").read_text())
    assert set(origin) == {"format", "configuration", "data"}
    state, _ = train(replace(run, preset="demo"), data, world.model(run)[0], tmp_path, progress=False)
    assert state.step == 4  # gone on from, not begun again
    (tmp_path / CHECKPOINT / "origin.json").write_text(json.dumps(origin | {"format": {"checkpoint": 1, "draws": 1}}))
    with pytest.raises(RuntimeError, match=r"format.checkpoint is 1 there, \d+ here"):
        train(run, data, world.model(run)[0], tmp_path, progress=False)


def test_training_leaves_the_users_random_numbers_alone(tmp_path: Path) -> None:
    world, run = PlantedWorld(24, seed=0), config("lgdea", text_steps=2, pair_steps=2, relation_steps=2)
    model, processor = world.model(run)
    data = world.training(12, processor.tokenizer)
    torch.manual_seed(11)
    np.random.seed(11)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(11)
    np.random.seed(11)
    train(run, data, model, tmp_path, progress=False)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


def test_placed_prototypes_start_without_the_moments_of_the_random_ones() -> None:
    world, run = PlantedWorld(24, seed=0), config("lgdea")
    model, processor = world.model(run)
    data, state = world.training(12, processor.tokenizer), start_state(model, run)
    batch = sample_batch(data, run, 0, "text")
    sum(model.method.terms(model, batch, state.teacher, run.weights).values()).backward()
    state.optimizer.step()
    assert state.optimizer.state[model.prototypes]["exp_avg"].abs().max() > 0
    place_prototypes(state, data, run.seed, Accelerator(cpu=True))
    assert model.prototypes not in state.optimizer.state
    assert model.log_logit_scale in state.optimizer.state or len(state.optimizer.state)  # the others keep theirs


def test_evidence_loss_pulls_however_small_the_student() -> None:
    """The gradient of `-t log p` by `log p` is the teacher's share, at 1e-11 and below 1e-12 as elsewhere."""
    teacher = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    for small in (1e-3, 1e-11, 1e-13, 1e-30):
        logits = torch.tensor([[0.0, np.log(small)]], dtype=torch.float64, requires_grad=True)
        losses.evidence_divergence(teacher, logits.log_softmax(dim=1), torch.ones(1).double()).backward()
        torch.testing.assert_close(logits.grad, torch.tensor([[1.0, -1.0]], dtype=torch.float64), atol=2e-3, rtol=0)


def test_images_of_one_study_are_no_negatives_in_the_lesion_contrast() -> None:
    world, run = PlantedWorld(24, seed=0), config("lgdea", batch_size=4)
    model, processor = world.model(run)
    data = world.training(12, processor.tokenizer)
    two_images = replace(data, seed_pairs=np.array([[0, 0], [1, 0], [2, 2], [3, 3]]))  # images 0 and 1 are one study's
    batch = sample_batch(two_images, run, 0, "pairs")
    assert batch.same_report.sum() == 6
    row, other = (batch.same_report.sum(dim=1) > 1).nonzero().squeeze(1).tolist()
    drawn = batch.membership.clone()
    drawn[other] = drawn[next(k for k in range(4) if k not in (row, other))]  # as if drawn from a report with many
    batch = replace(batch, membership=drawn)
    model.eval()
    with torch.no_grad():
        lesions = F.normalize(
            model.lesion_tokens(model.encode_images(batch.pixel_values).patch_features).mean(1), dim=-1
        )
        held = batch.membership[: batch.pairs]
        phrases = F.normalize(held @ model.encode_texts(batch.phrase_tokens, batch.phrase_mask), dim=-1)
        weights = dict.fromkeys(run.weights, 0.0) | {"lesion": 1.0}
        cost = model.method.terms(model, batch, model, weights)["lesion"]
        expected = losses.relation_contrastive_loss(lesions, phrases, batch.same_report, model.logit_scale)
        torch.testing.assert_close(cost, expected)
        apart = losses.relation_contrastive_loss(lesions, phrases, torch.eye(4), model.logit_scale)
    assert abs(cost - apart) > 1e-3


def test_a_batch_is_as_large_as_it_says_and_a_pair_that_comes_twice_is_moved_twice() -> None:
    world, run = PlantedWorld(24, seed=0), config("clip", batch_size=64)
    _, processor = world.model(run)
    data = world.training(15, processor.tokenizer)
    batch = sample_batch(data, run, 0, "pairs")
    assert batch.pairs == len(batch.pixel_values) == 64
    counts = batch.same_report.sum(dim=1)
    assert set(counts.tolist()) == {4.0, 5.0}  # 64 draws of 15 pairs: each four times, four of them once more
    first = batch.same_report[0].nonzero().squeeze(1)
    assert not torch.equal(batch.pixel_values[first[0]], batch.pixel_values[first[1]])


def test_a_batch_of_a_large_pool_holds_nothing_twice() -> None:
    world, run = PlantedWorld(40, seed=0), config("clip", batch_size=16)
    _, processor = world.model(run)
    batch = sample_batch(world.training(24, processor.tokenizer), run, 0, "pairs")
    assert torch.equal(batch.same_report, torch.eye(16))


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_keep_the_same_weights_and_end_together(tmp_path: Path) -> None:
    """Also where k-means ends elsewhere on one of them, and where the weights of one alone are not finite."""
    tests = Path(__file__).parent
    environment = os.environ | {
        "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}", "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(tests / "two_processes.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    assert "prototypes" in first
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    losses = [pd.read_csv(tmp_path / f"rank{rank}.csv")["loss"].tolist() for rank in (0, 1)]
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # of one batch, with all embeddings
    for rank in (0, 1):
        errors = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert len(errors) == 10
        assert max(errors.values()) < 1e-5, errors
    said = [(tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1)]
    assert all("the loss is not finite in some process" in one for one in said)


def test_a_phase_whose_terms_all_have_weight_0_is_refused(tmp_path: Path) -> None:
    world, run = PlantedWorld(24, seed=0), config("clip", ita=0.0)
    model, processor = world.model(run)
    with pytest.raises(ValueError, match="no term of method 'clip' has a weight above 0"):
        train(run, world.training(12, processor.tokenizer), model, tmp_path, progress=False)


def test_stage_2_goes_on_from_the_artifact_of_stage_1_and_from_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notebooks 03 and 04: with `training/` gone the artifact is enough; without the artifact nothing is trained."""
    monkeypatch.setattr(runs, "project_root", lambda: tmp_path)
    steps = {"text_steps": 2, "pair_steps": 2, "relation_steps": 2, "refresh_every": 1, "ramp_steps": 1, "log_every": 1}
    ours = RunConfig.from_preset("ci", studies=60, image_size=32, paired_ratio=0.3, batch_size=8, **steps)
    inputs = runs.load_inputs(ours, progress=False)
    evidence, _ = extract_evidence(inputs.corpus.studies, progress=False)
    run = start_run(ours, "one", tmp_path)
    with pytest.raises(FileNotFoundError, match="run notebook 02 first"):
        load_warm(run, inputs, evidence)
    warm = train_variant(run, inputs, evidence, "model", until="pairs", progress=False)
    save_warm(run, warm)
    shutil.rmtree(run.folder / "training")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", None)  # whoever trains now fails
        again = load_warm(run, inputs, evidence)
    assert equal_weights(again.state.teacher, warm.state.teacher)
    whole = train_variant(run, inputs, evidence, "model", warm=run.checked("warm"), progress=False)
    alone = train_variant(start_run(ours, "two", tmp_path), inputs, evidence, "model", progress=False)
    assert equal_weights(whole.state.model, alone.state.model)


def equal_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("units", [True, False])
def test_a_cpu_without_bfloat16_units_trains_in_float32(units: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: units)
    run = config("clip", mixed_precision="bf16")
    model, _ = PlantedWorld(24, seed=0).model(run)
    loop.set_precision(model, run, torch.device("cpu"))
    assert model.image_tower.autocast_dtype == (torch.bfloat16 if units else None)
    loop.set_precision(model, run, torch.device("cuda"))
    assert model.image_tower.autocast_dtype == torch.bfloat16
