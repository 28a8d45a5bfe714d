"""Zero-shot scores: what a model says of each prompt becomes one score a finding, by the rule of the prompt set."""

import itertools
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lgdea_core.evaluation.one_pass import Task, pool_rows, run_task
from lgdea_core.evaluation.prompts import (
    AVERAGED_EMBEDDINGS,
    DEFAULT_PROMPTS,
    Contrast,
    Ensemble,
    PromptSet,
    load_prompt_set,
    mean_embeddings,
)
from lgdea_core.inference import (
    ImageTextModel,
    ImageTextProcessor,
    encode_tokens,
    finite,
    logits_question,
    pool_question,
)


def zero_shot_scores(
    model: ImageTextModel,
    processor: ImageTextProcessor,
    crops: UInt8[Tensor, "images height width"],
    findings: Sequence[str],
    prompts: str = DEFAULT_PROMPTS,
) -> dict[str, Float[np.ndarray, "images findings"]]:
    """`channel_scores` of crops, in a pass of their own."""
    return run_task(model, crops.__getitem__, channel_scores(model, processor, range(len(crops)), findings, prompts))


def channel_scores(
    model: ImageTextModel,
    processor: ImageTextProcessor,
    images: Sequence[Hashable],
    findings: Sequence[str],
    prompts: str | PromptSet = DEFAULT_PROMPTS,
) -> Task[dict[str, Float[np.ndarray, "images findings"]]]:
    """How much each image shows each finding, by prompts alone, one score a channel that both model and set have.

    global: cosine. local, where the method trains a local head to tell whether a phrase is true (ASG's, MGCA's and
    PRIOR's tell where it fits best): the similarity it trains, with what the phrase attends to (GLoRIA, BioViL) or with
    the best patches (LGDEA). evidence, where it trains prototypes: Bhattacharyya coefficient of the image's evidence
    with the assignments of the prompts. A method with a query decoder has no other score than that of the decoder:
    decoder, its logit (MedKLIP: existence, CARZero: similarity). What the scores of a finding's prompts become is the
    set's to say: by default their mean, of the global channel less that of the negative prompts. A set that averages
    channels prompt by prompt gives one, named after them ("global+local").

    Args:
        model: used in evaluation mode.
        processor: its own.
        images: names.
        findings: each covered by the set.
        prompts: a prompt set, or the name of one.

    Raises:
        ValueError: no such set, one that does not cover a finding, or one that has no channel of the model's.
    """
    chosen = load_prompt_set(prompts) if isinstance(prompts, str) else prompts
    pairs = [chosen.texts(finding) for finding in findings]
    tokens = processor.tokens([text for pair in pairs for part in pair for text in part])
    ends = np.cumsum([0] + [len(part) for pair in pairs for part in pair])
    spans = [slice(start, end) for start, end in itertools.pairwise(ends.tolist())]
    own = model.method.channels(model.objective)
    channels = [channel for channel in own if channel in chosen.channels]
    if not channels:
        raise ValueError(
            f"prompt set {chosen.name!r} scores by {', '.join(chosen.channels)}, "
            f"but this model has {', '.join(own)} only"
        )
    if channels == ["decoder"]:
        [answers] = yield [logits_question(model, images, *tokens)]
        similarity = {"decoder": np.stack(answers)}
    else:
        embeds = encode_tokens(model, *tokens, normalised=chosen.ensemble != "mean_raw_embedding")
        if chosen.ensemble in AVERAGED_EMBEDDINGS:
            embeds, spans = mean_embeddings(embeds, spans)
        [answers] = yield [pool_question(model, images, embeds)]
        pool = pool_rows(answers)
        similarity = {"global": pool.image_embeds @ embeds.numpy().T, "local": pool.responses}
        if "evidence" in channels:
            with torch.no_grad():
                assignments = model.assign_phrases(embeds.to(model.prototypes.device)).cpu().numpy()
            similarity["evidence"] = np.sqrt(pool.evidence) @ np.sqrt(assignments).T
    contrasts = {channel: chosen.channels[channel] for channel in channels}
    if chosen.join == "prompt_mean" and len(channels) > 1:
        joined = "+".join(channels)
        similarity = {joined: np.mean([similarity[channel] for channel in channels], axis=0)}
        contrasts = {joined: contrasts[channels[0]]}
    return {
        channel: prompt_scores(similarity[channel], spans[::2], spans[1::2], chosen.ensemble, contrast)
        for channel, contrast in contrasts.items()
    }


def prompt_scores(
    similarity: Float[np.ndarray, "images prompts"],
    positive: Sequence[slice],
    negative: Sequence[slice],
    ensemble: Ensemble,
    contrast: Contrast,
) -> Float[np.ndarray, "images findings"]:
    """One score a finding from those of its prompts.

        p, n = mean (or, for max_score, maximum) over the positive, the negative prompts
        score = p - n (difference), exp(p) / (exp(p) + exp(n)) (pair_softmax) or p (none)

    Args:
        similarity: of every image with every prompt, or with every finding's mean embedding.
        positive: columns of each finding's positive prompts.
        negative: likewise; not read where `contrast` is none.
        ensemble: see `prompts.Ensemble`.
        contrast: see `prompts.Contrast`.
    """
    finite(similarity, "prompt_scores", "similarities of images and prompts")
    reduce = np.max if ensemble == "max_score" else np.mean

    def reduced(parts: Sequence[slice]) -> np.ndarray:
        return np.stack([reduce(similarity[:, part], axis=1) for part in parts], axis=1)

    if contrast == "none":
        return reduced(positive)
    difference = reduced(positive) - reduced(negative)
    return difference if contrast == "difference" else 1 / (1 + np.exp(-difference))


def combine_channels(
    scores: dict[str, Float[np.ndarray, "images findings"]],
    prompts: PromptSet,
    reference: dict[str, Float[np.ndarray, "others findings"]] | None = None,
) -> Float[np.ndarray, "images findings"]:
    """The score that ranks, as the set says: the only channel as it is, or the sum of all, each z-scored (GLoRIA).

    Z-scores are over the images, finding by finding; a channel that is the same for all images adds 0. The sum depends
    on the set of images: it ranks them and has no meaning for a single one. With a reference it depends on that set
    alone: a threshold chosen on the reference's own sum then means the same for other images.

    Args:
        scores: of `channel_scores`; finite.
        prompts: the set they come from.
        reference: the same channels of the images whose means and standard deviations are taken; the images themselves
            where None.

    Raises:
        ValueError: a value that is not finite.
    """
    if prompts.normalise == "none":
        (only,) = scores.values()
        return only
    parts = []
    for channel, score in scores.items():
        other = score if reference is None else reference[channel]
        finite(np.concatenate([score, other]), "combine_channels", f"values of channel {channel}")
        varies = np.ptp(other, axis=0) > 0
        centred = score - other.mean(axis=0)
        parts.append(np.where(varies, centred / np.where(varies, other.std(axis=0), 1.0), 0.0))
    return np.sum(parts, axis=0)
