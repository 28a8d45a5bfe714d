"""Regions and their sentences: hits by hand, on the phantom, and after a training with a control that must fail."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import RegionWorld, config

from lgdea_core.data.phantom import PhantomConfig, build_phantom
from lgdea_core.data.regions import shuffle_regions
from lgdea_core.evaluation.one_pass import run_task
from lgdea_core.evaluation.regions import evaluate_regions, region_hits, retrieval_hits
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.evidence.sections import report_sentences
from lgdea_core.model import build_model
from lgdea_core.runs.inputs import Inputs, fresh_model, inputs_of, prepare_training
from lgdea_core.training.loop import seeded, train
from lgdea_core.vocabulary import ASG_TAGS, REGIONS


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_model_without_decoder_has_no_tags(phantom: tuple[Inputs, pd.DataFrame]) -> None:
    inputs, evidence = phantom
    model, processor = fresh_model(config("clip", image_size=64, paired_ratio=1.0), inputs)
    table = evaluate_regions(model, processor, inputs, evidence, resamples=20)
    assert set(table["task"]) == {"regions"}
    silent = replace(inputs, corpus=replace(inputs.corpus, studies=inputs.corpus.studies.assign(report=None)))
    with pytest.raises(ValueError, match="no image with a report"):
        evaluate_regions(model, processor, silent, evidence)


@pytest.mark.slow
def test_regions_are_found_on_unseen_films_and_not_where_their_names_were_shuffled(tmp_path: Path) -> None:
    world, unseen = RegionWorld(96, seed=0), RegionWorld(48, seed=1)
    found = {}
    for shuffled in (False, True):
        run = config("asg", text_steps=0, pair_steps=60, relation_steps=0, batch_size=24, checkpoint_every=1000)
        with seeded(0):
            model, processor = build_model(run, list(world.reports.values()))
        regions = shuffle_regions(world.regions, 0) if shuffled else world.regions
        data = world.training(processor, regions)
        state, _ = train(run, data, model, tmp_path / str(shuffled), progress=False)
        sentences = [report_sentences(text) for text in unseen.reports.values()]
        order = np.arange(len(unseen.crops))
        task = region_hits(state.model, processor, range(len(order)), unseen.data(unseen.regions), order, sentences)
        found[shuffled] = run_task(state.model, unseen.crops.__getitem__, task)
    assert found[False]["region_at_1_chance"].mean() == pytest.approx(1 / 8)
    assert found[False]["named_region_at_1_chance"].mean() == pytest.approx(1 / 2)
    assert found[False]["region_at_1"].mean() > 0.9
    assert found[False]["named_region_at_1"].mean() > 0.9
    assert found[True]["region_at_1"].mean() < 0.3
    assert 0.3 < found[True]["named_region_at_1"].mean() < 0.7
