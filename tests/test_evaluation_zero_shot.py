"""Scores of prompts: of every channel, of every prompt set, fused."""

import itertools
import math

import numpy as np
import pytest
import torch
from planted import PlantedWorld, config, score_rows

from lgdea_core.crops import pixel_values
from lgdea_core.evaluation.prompts import load_prompt_set
from lgdea_core.evaluation.zero_shot import combine_channels, prompt_scores, zero_shot_scores
from lgdea_core.inference import encode_image_pool, encode_tokens
from lgdea_core.model import LGDEAModel, LGDEAProcessor

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


@pytest.mark.slow
def test_every_channel_is_the_mean_over_its_prompts_image_by_image() -> None:
    model, processor, images = tiny("lgdea")
    findings = ["edema", "hernia", "pleural effusion"]
    scores = zero_shot_scores(model, processor, images, findings)
    seen = model.encode_images(pixel_values(images))
    evidence = model.image_evidence(model.lesion_tokens(seen.patch_features))
    temperature = model.config.local_temperature
    for (image, whole), (column, finding) in itertools.product(enumerate(seen.image_embeds), enumerate(findings)):
        found = {"global": [], "local": [], "evidence": []}
        for prompt in load_prompt_set().texts(finding).positive:
            text = model.encode_texts(*processor.tokens([prompt]))
            found["global"].append(float(whole @ text[0]))
            patches = (seen.patch_embeds[image] @ text[0] / temperature).exp().mean()
            found["local"].append(temperature * math.log(patches))
            found["evidence"].append(float((evidence[image] * model.assign_phrases(text)[0]).sqrt().sum()))
        negative = load_prompt_set().texts(finding).negative
        denied = [float(whole @ model.encode_texts(*processor.tokens([text]))[0]) for text in negative]
        expected = {channel: np.mean(values) for channel, values in found.items()}
        expected["global"] -= np.mean(denied)
        for channel, value in expected.items():
            assert scores[channel][image, column] == pytest.approx(value, abs=1e-5), channel


@pytest.mark.parametrize("method", ["gloria", "biovil"])
def test_a_local_head_that_learnt_by_attention_is_asked_by_attention(method: str) -> None:
    model, processor, images = tiny(method)
    scores = zero_shot_scores(model, processor, images, ["edema"])["local"]
    patches = model.encode_images(pixel_values(images)).patch_embeds
    texts = [model.encode_texts(*processor.tokens([one]))[0] for one in load_prompt_set().texts("edema").positive]
    for image, own in enumerate(patches):
        found = []
        for text in texts:
            weights = (own @ text / model.config.local_temperature).softmax(dim=0)
            found.append(float(torch.nn.functional.cosine_similarity(text, weights @ own, dim=0)))
        assert scores[image, 0] == pytest.approx(np.mean(found), abs=1e-5)


def test_a_findings_score_does_not_depend_on_the_other_findings() -> None:
    model, processor, images = tiny("lgdea")
    several = zero_shot_scores(model, processor, images, ["mass", "hernia", "edema"])
    for channel, scores in zero_shot_scores(model, processor, images, ["hernia"]).items():
        np.testing.assert_allclose(scores[:, 0], several[channel][:, 1], atol=1e-6)


def fused(scores: list[np.ndarray], reference: list[np.ndarray] | None = None) -> np.ndarray:
    """Channels combined by the default set."""
    named = [group and {str(row): score for row, score in enumerate(group)} for group in (scores, reference)]
    return combine_channels(named[0], load_prompt_set(), named[1])


def test_fused_scores_weigh_every_channel_alike() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(50, 3)), generator.normal(size=(50, 3))
    np.testing.assert_allclose(fused([100 * first + 7, second]), fused([first, second]), atol=1e-9)
    np.testing.assert_allclose(fused([first])[:, 0].std(), 1, atol=1e-12)
    constant = np.full((50, 3), 0.1)  # mean of 50 x 0.1 is not exactly 0.1
    np.testing.assert_array_equal(fused([first, constant]), fused([first]))


def test_a_reference_carries_its_scale_to_other_images() -> None:
    generator = np.random.default_rng(0)
    own = [generator.normal(size=(40, 2)), generator.normal(3, 5, size=(40, 2))]
    other = [generator.normal(1, 2, size=(60, 2)), generator.normal(size=(60, 2))]
    expected = sum((one - two.mean(axis=0)) / two.std(axis=0) for one, two in zip(own, other, strict=True))
    np.testing.assert_allclose(fused(own, other), expected, atol=1e-12)
    alone = np.concatenate([fused([score[row : row + 1] for score in own], other) for row in range(40)])
    np.testing.assert_allclose(alone, expected, atol=1e-12)  # no image tells about another
    np.testing.assert_array_equal(fused(own, own), fused(own))
    constant = np.full((60, 2), 0.3)
    np.testing.assert_array_equal(fused(own, [other[0], constant]), fused(own[:1], other[:1]))
    for wrong in ((own, [other[0], other[1] * np.nan]), ([own[0], own[1] * np.inf], other)):
        with pytest.raises(ValueError, match="values of channel 1 are not finite"):
            fused(*wrong)


def test_the_set_says_whether_channels_are_standardised() -> None:
    scores, other = {"global": np.array([[0.2], [0.4]])}, {"global": np.array([[0.0], [1.0]])}
    assert combine_channels(scores, load_prompt_set("chexzero")).tolist() == [[0.2], [0.4]]
    assert combine_channels(scores, load_prompt_set("chexzero"), other).tolist() == [[0.2], [0.4]]
    assert combine_channels(scores, load_prompt_set()).tolist() == [[pytest.approx(-1)], [pytest.approx(1)]]
    assert combine_channels(scores, load_prompt_set("gloria"), other).tolist() == [
        [pytest.approx(-0.6)], [pytest.approx(-0.2)],
    ]  # fmt: skip


# ---- other prompt sets


def test_prompt_scores_by_hand() -> None:
    similarity = np.array([[0.1, 0.5, 0.2, 0.9], [0.3, 0.1, 0.4, 0.8]])
    positive, negative = [slice(0, 2), slice(2, 3)], [slice(2, 4), slice(3, 4)]
    cases = {
        ("mean_score", "none"): [[0.3, 0.2], [0.2, 0.4]],
        ("max_score", "none"): [[0.5, 0.2], [0.3, 0.4]],
        ("mean_score", "difference"): [[0.3 - 0.55, -0.7], [0.2 - 0.6, -0.4]],
        ("max_score", "difference"): [[0.5 - 0.9, -0.7], [0.3 - 0.8, -0.4]],
    }
    for (ensemble, contrast), expected in cases.items():
        np.testing.assert_allclose(prompt_scores(similarity, positive, negative, ensemble, contrast), expected)
    pair = prompt_scores(similarity, positive, negative, "mean_embedding", "pair_softmax")
    assert pair[0, 1] == pytest.approx(math.exp(0.2) / (math.exp(0.2) + math.exp(0.9)))


def embeddings(texts: list[str], model: LGDEAModel, processor: LGDEAProcessor) -> torch.Tensor:
    """Projections before normalisation."""
    return model.text_tower.head(model.text_tower.features(*processor.tokens(texts)))


def test_chexzero_is_a_softmax_over_a_name_and_its_denial() -> None:
    model, processor, images = tiny("lgdea")
    scores = zero_shot_scores(model, processor, images, ["edema", "aortic elongation"], "chexzero")
    assert set(scores) == {"global"}
    seen = model.encode_images(pixel_values(images)).image_embeds
    for column, finding in enumerate(("edema", "aortic elongation")):
        texts = torch.nn.functional.normalize(embeddings([finding, f"no {finding}"], model, processor), dim=-1)
        expected = (seen @ texts.T).softmax(dim=1)[:, 0]
        np.testing.assert_allclose(scores["global"][:, column], expected, atol=1e-5)


def test_biovil_averages_projections_before_it_normalises() -> None:
    model, processor, images = tiny("lgdea")
    model.text_tower.head.weight.mul_(torch.linspace(0.1, 5, model.config.dim)[:, None])  # norms now differ
    scores = zero_shot_scores(model, processor, images, ["pneumonia"], "biovil")["global"][:, 0]
    seen, texts = model.encode_images(pixel_values(images)).image_embeds, load_prompt_set("biovil").texts("pneumonia")
    raw = [embeddings(list(part), model, processor) for part in texts]
    means = [torch.nn.functional.normalize(part.mean(dim=0), dim=0) for part in raw]
    np.testing.assert_allclose(scores, seen @ means[0] - seen @ means[1], atol=1e-5)
    unit = [torch.nn.functional.normalize(part, dim=1).mean(dim=0) for part in raw]
    other = [torch.nn.functional.normalize(part, dim=0) for part in unit]
    assert not np.allclose(scores, seen @ other[0] - seen @ other[1], atol=1e-5)


@pytest.mark.parametrize("method", ["gloria", "clip"])
def test_gloria_averages_global_and_local_before_the_maximum(method: str) -> None:
    model, processor, images = tiny(method)
    scores = zero_shot_scores(model, processor, images, ["edema", "cardiomegaly"], "gloria")
    assert set(scores) == {"global+local" if method == "gloria" else "global"}
    for column, finding in enumerate(("edema", "cardiomegaly")):
        prompts = list(load_prompt_set("gloria").texts(finding).positive)
        pool = encode_image_pool(model, images, encode_tokens(model, *processor.tokens(prompts)))
        whole = pool.image_embeds @ encode_tokens(model, *processor.tokens(prompts)).numpy().T
        expected = (whole + pool.responses) / 2 if method == "gloria" else whole
        np.testing.assert_allclose(next(iter(scores.values()))[:, column], expected.max(axis=1), atol=1e-5)


@pytest.mark.parametrize("name", ["medklip", "carzero"])
def test_sets_of_decoders_take_one_positive_prompt(name: str) -> None:
    findings = ["edema", "nodule"]
    texts = [load_prompt_set(name).texts(finding).positive[0] for finding in findings]
    model, processor, images = tiny(name)
    expected = score_rows(model, images, *processor.tokens(texts))[0]
    np.testing.assert_allclose(
        zero_shot_scores(model, processor, images, findings, name)["decoder"], expected, atol=1e-5
    )
    model, processor, images = tiny("lgdea")
    expected = encode_image_pool(model, images).image_embeds @ encode_tokens(model, *processor.tokens(texts)).numpy().T
    np.testing.assert_allclose(
        zero_shot_scores(model, processor, images, findings, name)["global"], expected, atol=1e-5
    )


def test_a_set_without_the_models_channel_or_the_finding_is_refused() -> None:
    model, processor, images = tiny("medklip")
    with pytest.raises(ValueError, match=r"'biovil' scores by global, but this model has decoder only"):
        zero_shot_scores(model, processor, images, ["pneumonia"], "biovil")
    with pytest.raises(ValueError, match=r"'biovil': no prompts for finding 'edema'; it has lung opacity, pneumonia"):
        zero_shot_scores(*tiny("clip"), ["pneumonia", "edema"], "biovil")
