"""Every image is encoded once, in float32, and the tasks get what they would get alone."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from planted import PlantedWorld, config, planted_inputs

from lgdea_core import inference
from lgdea_core.evaluation import harness
from lgdea_core.evaluation.bootstrap import Bootstrap
from lgdea_core.evaluation.harness import evaluate
from lgdea_core.evaluation.one_pass import Task, run_task, together
from lgdea_core.grounding import load
from lgdea_core.inference import Question, ask_images, encode_image_pool, full_precision
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.runs.inputs import Inputs

TEST, VAL = 40, 20
OPTIONS = {"resamples": 20, "progress": False}


class Setting(NamedTuple):
    """An untrained model, and test and validation images with labels, reports and boxes."""

    model: LGDEAModel
    processor: LGDEAProcessor
    inputs: Inputs


def setting(method: str) -> Setting:
    world = PlantedWorld(TEST + VAL, seed=3)
    return Setting(*world.model(config(method)), planted_inputs(world, ["test"] * TEST + ["val"] * VAL))


@pytest.mark.parametrize(
    "method", ["lgdea", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gloria", "carzero"))]
)
def test_every_image_is_encoded_once_whatever_asks(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor, inputs = setting(method)
    monkeypatch.setattr(harness, "MIN_POSITIVES", 2)
    monkeypatch.setattr(inference, "IMAGES_AT_ONCE", 16)
    seen: Counter[bytes] = Counter()

    def counting(crops: torch.Tensor) -> inference.ImageEmbeddings:
        seen.update(crop.numpy().tobytes() for crop in crops)
        return LGDEAModel.encode_crops(model, crops)

    monkeypatch.setattr(model, "encode_crops", Mock(side_effect=counting))
    table = evaluate(model, processor, inputs, **OPTIONS)
    assert {"auc", "f1_validation", "cnr_signed", "cnr_signed_swapped", "recall_at_1"} <= set(table["metric"])
    assert set(seen.values()) == {1}
    assert set(seen) == {image.tobytes() for image in inputs.store.pixels}
    assert model.encode_crops.call_count == 4  # blocks of 60 images


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lgdea", "medklip"])
def test_together_and_in_other_blocks_the_tasks_find_what_they_find_alone(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor, inputs = setting(method)
    whole = evaluate(model, processor, inputs, **OPTIONS)
    monkeypatch.setattr(inference, "IMAGES_AT_ONCE", 7)
    pd.testing.assert_frame_equal(evaluate(model, processor, inputs, **OPTIONS), whole, rtol=1e-3, atol=1e-4)
    part, draw = inputs.corpus.split("test"), Bootstrap(resamples=20)
    alone = run_task(model, inputs.crops, harness.phrase_grounding_table(model, processor, part, draw, progress=False))
    together = whole.loc[whole["task"] == "grounding", "estimate"]
    np.testing.assert_allclose(together, alone["estimate"], rtol=1e-3, atol=1e-4)


def test_answers_come_in_the_order_of_the_question_and_tasks_without_questions_in_their_place() -> None:
    model, _, inputs = setting("clip")

    def asking(names: list[str]) -> Task[list[str]]:
        [answers] = yield [Question(names, lambda asked, block: [f"{name}!" for name in asked])]
        return answers

    def silent() -> Task[str]:
        yield from ()
        return "nothing to ask"

    backwards = [f"s{i}" for i in reversed(range(30))]
    tasks = [asking(backwards), silent(), asking(["s31", "s3"])]
    found = run_task(model, inputs.crops, together(tasks))
    assert found == [[f"{name}!" for name in backwards], "nothing to ask", ["s31!", "s3!"]]
    assert run_task(model, inputs.crops, together([silent()])) == ["nothing to ask"]


def test_a_question_sees_its_own_images_only() -> None:
    model, _, inputs = setting("clip")
    embeds = encode_image_pool(model, inputs.crops([f"s{i}" for i in range(60)])).image_embeds

    def answer(_: list[str], block: inference.ImageEmbeddings) -> np.ndarray:
        return block.image_embeds.numpy()

    questions = [Question([f"s{i}" for i in rows], answer) for rows in ([5, 2, 9], range(60))]
    few, every = ask_images(model, inputs.crops, questions)
    np.testing.assert_allclose(np.stack(few), embeds[[5, 2, 9]], atol=1e-6)
    np.testing.assert_allclose(np.stack(every), embeds, atol=1e-6)


@pytest.fixture
def half() -> Iterator[Setting]:
    """As right after a training in bfloat16."""
    found = setting("lgdea")
    found.model.image_tower.autocast_dtype = torch.bfloat16
    return found


@pytest.mark.slow
def test_a_model_is_measured_in_float32_right_after_a_training_in_bfloat16(half: Setting, tmp_path: Path) -> None:
    model, processor, inputs = half
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    after = evaluate(model, processor, inputs, **OPTIONS)
    pd.testing.assert_frame_equal(after, evaluate(*load(tmp_path), inputs, **OPTIONS), check_exact=True)
    assert model.image_tower.autocast_dtype == torch.bfloat16, "the training goes on as before"


def test_training_keeps_its_precision_where_it_encodes_pools(half: Setting) -> None:
    crops = half.inputs.crops(["s0", "s1"])
    low = encode_image_pool(half.model, crops).image_embeds
    with full_precision(half.model):
        high = encode_image_pool(half.model, crops).image_embeds
    assert 0 < np.abs(low - high).max() < 0.1
    np.testing.assert_array_equal(encode_image_pool(half.model, crops).image_embeds, low)
