"""Prompts, their scores, and the AUC table."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from planted import PlantedWorld, config
from sklearn.metrics import roc_auc_score

from lgdea_core.data.batches import pixel_values
from lgdea_core.evaluation.harness import zero_shot_scores
from lgdea_core.evaluation.zero_shot import (
    auc_table,
    bare_prompts,
    fuse_scores,
    load_prompts,
    negative_prompts,
    positive_prompts,
)
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.vocabulary import CHEXPERT_FINDINGS, MS_CXR_FINDINGS, NIH_FINDINGS, NO_FINDING, PHANTOM_FINDINGS

FINDINGS = sorted({*MS_CXR_FINDINGS, *NIH_FINDINGS.values(), *PHANTOM_FINDINGS, *CHEXPERT_FINDINGS} - {NO_FINDING})


@pytest.mark.parametrize("finding", FINDINGS)
def test_prompts_state_and_deny_every_finding(finding: str) -> None:
    positive, negative, parts = positive_prompts(finding), negative_prompts(finding), load_prompts()[finding]
    assert len(set(positive)) == len(positive)
    for prompt in positive:
        assert prompt.endswith(f" {parts.synonyms[0]}")  # the plain name, in no frame sentence, never a bare word
        modifiers = prompt.removesuffix(parts.synonyms[0]).strip()
        assert any(modifier in modifiers for modifier in (*parts.severities, *parts.sides, *parts.zones))
        assert not set(prompt.split()) & {"no", "without", "not", "there", "is", "seen"}
        assert "  " not in prompt
    assert all("no " in prompt for prompt in negative)
    assert {f"no {name}" for name in parts.negated} <= set(negative)
    assert {f"no evidence of {name}" for name in parts.negated} <= set(negative)


@pytest.mark.parametrize("finding", FINDINGS)
def test_prompts_are_all_there_are_up_to_the_limit(finding: str) -> None:
    parts, prompts = load_prompts()[finding], positive_prompts(finding)
    combinations = np.prod([len(axis) + 1 for axis in (parts.severities, parts.sides, parts.zones)]) - 1
    assert len(prompts) == min(48, combinations)
    assert positive_prompts(finding, limit=2) == prompts[:2]
    assert set(prompts) <= set(positive_prompts(finding, limit=1000))
    assert len(positive_prompts(finding, limit=1000)) == combinations


@pytest.mark.parametrize("finding", FINDINGS)
def test_prompts_are_spread_over_severities_sides_and_zones(finding: str) -> None:
    parts, prompts = load_prompts()[finding], positive_prompts(finding)
    modifiers = [prompt.removesuffix(parts.synonyms[0]) for prompt in prompts]
    for options in (parts.severities, parts.sides, parts.zones):
        uses = [sum(option in words for words in modifiers) for option in options]
        assert all(uses), f"{options} used {uses} times"
        assert max(uses, default=0) - min(uses, default=0) <= 1, f"{options} used {uses} times"


@pytest.mark.parametrize("finding", ["pleural effusion", "atelectasis", "nodule", "fibrosis"])
def test_no_modifier_gives_another_away(finding: str) -> None:
    parts, prompts = load_prompts()[finding], positive_prompts(finding)
    for one, other in itertools.combinations((parts.severities, parts.sides, parts.zones), 2):
        for pair in itertools.product(one, other):
            assert any(all(word in prompt for word in pair) for prompt in prompts), f"{pair} never together"


def test_bare_prompts_are_the_control() -> None:
    assert bare_prompts("edema") == ("edema", "no edema")


# ---- channels of a model


def tiny(method: str) -> tuple[LGDEAModel, LGDEAProcessor, torch.Tensor]:
    world = PlantedWorld(6, seed=0)
    model, processor = world.model(config(method))
    return model.eval().requires_grad_(False), processor, world.images


@pytest.mark.parametrize(
    ("method", "channels"),
    [
        ("clip", {"global"}),
        ("gloria", {"global", "local"}),
        ("asg", {"global"}),  # its local head tells where, not whether
        ("mgca", {"global"}),  # likewise
        ("medclip", {"global"}),
        ("biovil", {"global", "local"}),
        ("prior", {"global"}),
        ("medklip", {"decoder"}),
        ("carzero", {"decoder"}),
        ("lgdea", {"global", "local", "evidence"}),
        ("lgdea+asg", {"global", "local", "evidence"}),
    ],
)
def test_a_method_is_scored_by_the_channels_it_trains(method: str, channels: set[str]) -> None:
    model, processor, images = tiny(method)
    scores = zero_shot_scores(model, processor, images, ["nodule", "edema", "cardiomegaly"])
    assert set(scores) == channels
    assert all(score.shape == (6, 3) and np.isfinite(score).all() for score in scores.values())


def test_every_channel_is_the_mean_over_its_prompts_image_by_image() -> None:
    model, processor, images = tiny("lgdea")
    findings = ["edema", "hernia", "pleural effusion"]
    scores = zero_shot_scores(model, processor, images, findings)
    seen = model.encode_images(pixel_values(images))
    evidence = model.image_evidence(model.lesion_tokens(seen.patch_features))
    temperature = model.config.local_temperature
    for (image, whole), (column, finding) in itertools.product(enumerate(seen.image_embeds), enumerate(findings)):
        found = {"global": [], "local": [], "evidence": []}
        for prompt in positive_prompts(finding):
            text = model.encode_texts(*processor.tokens([prompt]))
            found["global"].append(float(whole @ text[0]))
            patches = (seen.patch_embeds[image] @ text[0] / temperature).exp().mean()
            found["local"].append(temperature * math.log(patches))
            found["evidence"].append(float((evidence[image] * model.assign_phrases(text)[0]).sqrt().sum()))
        denied = [float(whole @ model.encode_texts(*processor.tokens([text]))[0]) for text in negative_prompts(finding)]
        expected = {channel: np.mean(values) for channel, values in found.items()}
        expected["global"] -= np.mean(denied)
        for channel, value in expected.items():
            assert scores[channel][image, column] == pytest.approx(value, abs=1e-5), channel


def test_a_findings_score_does_not_depend_on_the_other_findings() -> None:
    model, processor, images = tiny("lgdea")
    several = zero_shot_scores(model, processor, images, ["mass", "hernia", "edema"])
    for channel, scores in zero_shot_scores(model, processor, images, ["hernia"]).items():
        np.testing.assert_allclose(scores[:, 0], several[channel][:, 1], atol=1e-6)


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
    with pytest.raises(ValueError, match=r"score 1 has 1 values not finite"):
        fuse_scores([np.zeros((2, 1)), np.array([[np.nan], [0.0]])])
    with pytest.raises(ValueError, match=r"expected at least one score"):
        fuse_scores([])
    with pytest.raises(ValueError, match=r"got labels of shape \(3, 1\)"):
        auc_table(np.zeros((3, 2)), np.zeros((3, 1)), ["a", "b"], list("pqr"))
