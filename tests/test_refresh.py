"""Relations made from the true evidence: right seeds carry findings to unpaired images, shuffled ones carry none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import PlantedWorld, config

from lgdea_core.batch import TrainingData
from lgdea_core.data.images import load_images
from lgdea_core.data.pairing import Pools, limit_pairs, shuffle_pairs
from lgdea_core.data.phantom import PhantomConfig, build_phantom
from lgdea_core.evidence.index import index_reports
from lgdea_core.runs import inputs as stages
from lgdea_core.training import refresh
from lgdea_core.training.monitors import truth_monitor
from lgdea_core.training.refresh import EvidenceView, refresh_relations

SHUFFLES = 12


def seed_rows(pools: Pools) -> np.ndarray:
    rows = [
        pools.seed_pairs[column].map({name: row for row, name in enumerate(ids)})
        for column, ids in (("image_id", pools.image_ids), ("report_id", pools.report_ids))
    ]
    return np.stack(rows, axis=1).astype(np.int64)


def training_data(inputs: stages.Inputs, pools: Pools) -> TrainingData:
    """Pools and pairs; of texts no more than that there are some."""
    reports, none = len(pools.report_ids), torch.zeros(1, 1, dtype=torch.long)
    return TrainingData(
        images=inputs.pool(pools.image_ids),
        sentences=[[[1]]] * reports,
        impressions=np.ones(reports, dtype=np.int64),
        evidence=index_reports(inputs.reports(pools.report_ids), pools.report_ids),
        phrase_tokens=none,
        phrase_mask=none.bool(),
        seed_pairs=seed_rows(pools),
        special_ids=(0, 1, 2),
        max_tokens=8,
    )


def oracle_evidence(labels: pd.DataFrame, study_ids: list[str], rng: np.random.Generator) -> np.ndarray:
    """Evidence distributions by the true findings, "none" among them, and a tenth of noise."""
    found = labels.pivot_table("value", "study_id", "finding").loc[study_ids].to_numpy() == 1
    truth = np.concatenate([found, ~found.any(axis=1, keepdims=True)], axis=1)
    noise = rng.dirichlet(np.full(truth.shape[1], 0.5), size=len(truth))
    return (0.9 * truth / truth.sum(axis=1, keepdims=True) + 0.1 * noise).astype(np.float32)


@pytest.mark.slow
def test_shuffled_seeds_carry_no_finding_over_graphs_that_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 400 studies: 60 seeds, 240 unpaired images and reports. Both graphs know every finding, so only the seeds can err.
    corpus = build_phantom(PhantomConfig(studies=400, image_size=32), tmp_path / "phantom", progress=False)
    pools = limit_pairs(corpus, 0.2, seed=0)
    inputs = stages.Inputs(corpus=corpus, store=load_images(corpus, 32, progress=False), pools=pools)
    rng, study_of = np.random.default_rng(0), corpus.images.set_index("image_id")["study_id"]
    images = oracle_evidence(corpus.labels, study_of.loc[list(pools.image_ids)].tolist(), rng)
    reports = oracle_evidence(corpus.labels, list(pools.report_ids), rng)
    view = EvidenceView(images, images, reports, np.zeros((len(images), 1), dtype=np.float32))
    monkeypatch.setattr(refresh, "view_evidence", lambda teacher, data, **_: view)

    run = config(mode="graph")
    teacher, _ = PlantedWorld(10, seed=0).model(run)  # never asked: the view is the oracle's
    true, measured = training_data(inputs, pools), []
    for seeds in (pools, *(shuffle_pairs(pools, seed) for seed in range(SHUFFLES))):
        data = replace(true, seed_pairs=seed_rows(seeds))
        relations = refresh_relations(teacher, data, run).relations
        measured.append(truth_monitor(*stages.hidden_truth(inputs, data))(relations))
    right, shuffled = measured[0], pd.DataFrame(measured[1:])

    assert right["relation_label_auc"] > 0.9
    assert right["relation_label_auc"] > shuffled["relation_label_auc"].max() + 0.2
    assert right["relation_pair_lift"] > 3 * shuffled["relation_pair_lift"].max()
    # Over 40 shuffles the AUC had a standard deviation of 0.07, the lift of 0.18: the mean of 12 of 0.02 and 0.05. It
    # lies a little below chance (0.48, 0.89): a wrong partner is never the right one, who may alone share a finding.
    assert shuffled["relation_label_auc"].mean() == pytest.approx(0.5, abs=0.07)
    assert shuffled["relation_pair_lift"].mean() == pytest.approx(1.0, abs=0.25)
