"""MedKLIP: what exists, what is ruled out, and what nobody knows."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import FINDINGS, SIDES, PlantedWorld, config, setting, terms_of

from lgdea_core.methods.medklip import ExistencePart, existence_loss


def test_existence_counts_known_ones_alone() -> None:
    logits = torch.tensor([[0.0, 100.0], [math.log(3), -100.0]])
    existence = torch.tensor([[1.0, -1.0], [0.0, -1.0]])
    assert existence_loss(logits, existence).item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert existence_loss(logits, -torch.ones(2, 2)).item() == 0


def test_statements_of_the_other_side_and_denied_findings_do_not_exist() -> None:
    world = PlantedWorld(20, denials=True)
    world.evidence = world.evidence.drop(world.evidence.index[-3:])  # the last report denies nothing
    data = world.training(12, world.model(config("medklip"))[1].tokenizer)
    evidence, phrases = data.evidence, np.arange(len(data.evidence.phrases))
    found = evidence.existence(np.arange(20), phrases)
    for row, report_id in enumerate(evidence.report_ids):
        label = world.labels[int(report_id[1:])]
        for phrase in phrases:
            observation, side, _ = evidence.statements[evidence.phrase_statement[phrase]]
            same = observation == FINDINGS[label // 2]
            wanted = 1.0 if same and side == SIDES[label % 2] else 0.0 if same or report_id != "s19" else -1.0
            assert found[row, phrase] == wanted


def test_a_statement_without_a_side_is_not_ruled_out_by_one_with_a_side() -> None:
    world = PlantedWorld(6)
    world.evidence.loc[0, ["observation", "laterality", "phrase"]] = ["mass", None, "mass"]
    world.evidence.loc[1, ["observation", "laterality", "phrase"]] = ["mass", "left", "left mass"]
    world.evidence.loc[2, ["observation", "laterality", "phrase"]] = ["mass", "bilateral", "masses"]
    evidence = world.training(6, world.model(config("medklip"))[1].tokenizer).evidence
    rows = [evidence.phrases.index(phrase) for phrase in ("mass", "left mass", "masses")]
    assert evidence.existence(np.arange(3), np.array(rows)).tolist() == [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]]


def test_a_batch_about_which_nothing_is_known_costs_nothing_and_still_has_a_gradient() -> None:
    model, _, batch = setting("medklip", denials=True)
    assert {-1.0, 0.0, 1.0} >= set(batch.own.existence.unique().tolist()) >= {0.0, 1.0}
    terms = terms_of(model, replace(batch, own=ExistencePart(-torch.ones_like(batch.own.existence))))
    assert terms["existence"].item() == 0
    terms["existence"].backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)
