"""Prompts, their scores, and the AUC table."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from lgdea_core.evaluation.zero_shot import (
    auc_table,
    bare_prompts,
    fuse_scores,
    load_prompts,
    negative_prompts,
    positive_prompts,
    prompt_scores,
)
from lgdea_core.vocabulary import CHEXPERT_FINDINGS, MS_CXR_FINDINGS, NIH_FINDINGS, NO_FINDING, PHANTOM_FINDINGS

FINDINGS = sorted({*MS_CXR_FINDINGS, *NIH_FINDINGS.values(), *PHANTOM_FINDINGS, *CHEXPERT_FINDINGS} - {NO_FINDING})


@pytest.mark.parametrize("finding", FINDINGS)
def test_prompts_state_and_deny_every_finding(finding: str) -> None:
    positive, negative, parts = positive_prompts(finding), negative_prompts(finding), load_prompts()[finding]
    assert 24 <= len(positive) <= 48
    assert len(set(positive)) == len(positive)
    assert any(prompt.startswith("there is ") for prompt in positive)
    assert any(prompt.endswith(" is seen") for prompt in positive)
    modifiers = (*parts.severities, *parts.sides, *parts.zones)
    for prompt in positive:
        assert any(modifier in prompt for modifier in modifiers)  # never a bare word
        assert any(synonym in prompt for synonym in parts.synonyms)
        assert not set(prompt.split()) & {"no", "without", "not"}
        assert "  " not in prompt
    assert all("no " in prompt for prompt in negative)
    assert {f"no {name}" for name in parts.negated} <= set(negative)
    assert {f"no evidence of {name}" for name in parts.negated} <= set(negative)


@pytest.mark.parametrize("finding", FINDINGS)
def test_prompts_are_spread_over_all_parts(finding: str) -> None:
    parts, prompts = load_prompts()[finding], positive_prompts(finding)
    for options in (parts.synonyms, parts.severities, parts.sides, parts.zones):
        uses = [sum(option in prompt for prompt in prompts) for option in options]
        assert all(uses), f"{options} used {uses} times"
    assert positive_prompts(finding, limit=10) == prompts[:10]


@pytest.mark.parametrize("finding", ["pleural effusion", "atelectasis", "nodule", "fibrosis"])
def test_no_modifier_gives_another_away(finding: str) -> None:
    parts, prompts = load_prompts()[finding], positive_prompts(finding)
    for one, other in itertools.combinations((parts.severities, parts.sides, parts.zones), 2):
        for pair in itertools.product(one, other):
            assert any(all(word in prompt for word in pair) for prompt in prompts), f"{pair} never together"


def test_bare_prompts_are_the_control() -> None:
    assert bare_prompts("edema") == ("edema", "no edema")


def test_prompt_scores_by_hand_and_limits() -> None:
    positive, negative = np.array([[0.5, 0.1], [0.2, 0.2]]), np.array([[0.1], [0.3]])
    first = 0.1 * math.log((math.exp(5) + math.exp(1)) / 2) - 0.1
    np.testing.assert_allclose(prompt_scores(positive, negative, 0.1), [first, -0.1], atol=1e-12)
    np.testing.assert_allclose(prompt_scores(positive, negative, 1e-4), [0.4, -0.1], atol=1e-3)  # maximum
    np.testing.assert_allclose(prompt_scores(positive, negative, 1e4), [0.2, -0.1], atol=1e-4)  # mean


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), copies=st.integers(1, 5), temperature=st.floats(0.01, 10))
def test_prompt_scores_do_not_depend_on_repeated_or_reordered_prompts(
    seed: int, copies: int, temperature: float
) -> None:
    generator = np.random.default_rng(seed)
    positive, negative = generator.uniform(-1, 1, (4, 6)), generator.uniform(-1, 1, (4, 3))
    scores = prompt_scores(positive, negative, temperature)
    again = prompt_scores(np.tile(positive[:, ::-1], copies), negative, temperature)
    np.testing.assert_allclose(again, scores, atol=1e-9)
    np.testing.assert_allclose(prompt_scores(negative, positive, temperature), -scores, atol=1e-9)
    assert (np.abs(scores) <= 2).all()


def test_fused_scores_weigh_every_score_alike() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(50, 3)), generator.normal(size=(50, 3))
    fused = fuse_scores([first, second])
    np.testing.assert_allclose(fuse_scores([100 * first + 7, second]), fused, atol=1e-9)
    np.testing.assert_allclose(fuse_scores([first])[:, 0].std(), 1, atol=1e-12)
    constant = np.full((50, 3), 0.1)  # mean of 50 x 0.1 is not exactly 0.1
    np.testing.assert_array_equal(fuse_scores([first, constant]), fuse_scores([first]))


def test_auc_table_equals_scikit_learn_and_lists_what_it_left_out() -> None:
    generator = np.random.default_rng(0)
    labels = pd.DataFrame((generator.random((120, 3)) < [0.5, 0.3, 0.02]).astype(float), columns=["a", "b", "rare"])
    labels.loc[:20, "b"] = np.nan
    scores = generator.normal(size=(120, 3)) + labels.fillna(0).to_numpy()
    table = auc_table(scores, labels, ["a", "b", "rare"], np.arange(120) // 3).set_index("finding")
    known = labels["b"].notna()
    expected = [roc_auc_score(labels["a"], scores[:, 0]), roc_auc_score(labels["b"][known], scores[known, 1])]
    assert table.loc[["a", "b"], "auc"].tolist() == pytest.approx(expected, abs=1e-12)
    assert table.loc["macro", "auc"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert table.loc["b", "n"] == 99
    assert math.isnan(table.loc["rare", "auc"])
    assert table.loc["rare", "positives"] == (labels["rare"] == 1).sum()
    assert (table.loc[["a", "b", "macro"], "low"] < table.loc[["a", "b", "macro"], "auc"]).all()
    assert list(table.index) == ["a", "b", "rare", "macro"]


def test_uncertain_labels_follow_the_stated_policy() -> None:
    labels = np.array([[1.0], [1.0], [0.0], [0.0], [-1.0]])
    scores = np.array([[4.0], [3.0], [2.0], [1.0], [0.0]])
    auc = {
        policy: auc_table(scores, labels, ["a"], list("pqrst"), min_positives=1, uncertain=policy)["auc"][0]
        for policy in ("exclude", "positive", "negative")
    }
    assert auc == {"exclude": 1, "positive": pytest.approx(2 / 3), "negative": 1}


def test_table_without_any_scored_finding() -> None:
    table = auc_table(np.zeros((4, 1)), np.array([[1.0], [0.0], [0.0], [0.0]]), ["a"], list("pqrs"))
    assert table["auc"].isna().all()
    assert table["positives"].tolist() == [1, 0]


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"no prompts for finding 'unicorn'; prompts.json has atelectasis, "):
        positive_prompts("unicorn")
    with pytest.raises(ValueError, match=r"limit must be at least 1, got 0"):
        positive_prompts("edema", limit=0)
    with pytest.raises(ValueError, match=r"temperature must be positive, got 0"):
        prompt_scores(np.zeros((1, 1)), np.zeros((1, 1)), 0.0)
    with pytest.raises(ValueError, match=r"at least one positive and one negative prompt, got 2 and 0"):
        prompt_scores(np.zeros((1, 2)), np.zeros((1, 0)))
    with pytest.raises(ValueError, match=r"score 1 has 1 values not finite"):
        fuse_scores([np.zeros((2, 1)), np.array([[np.nan], [0.0]])])
    with pytest.raises(ValueError, match=r"expected at least one score"):
        fuse_scores([])
    with pytest.raises(ValueError, match=r"got labels of shape \(3, 1\)"):
        auc_table(np.zeros((3, 2)), np.zeros((3, 1)), ["a", "b"], list("pqr"))
