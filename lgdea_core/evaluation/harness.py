"""The three tasks of the papers on one split: zero-shot classification, phrase grounding, retrieval."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from lgdea_core.data.batches import report_sentences
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.images import boxes_mask, boxes_to_frame, crop_frame, crop_to_original
from lgdea_core.evaluation.bootstrap import bootstrap_mean
from lgdea_core.evaluation.grounding import grounding_table, score_maps
from lgdea_core.evaluation.retrieval import (
    chance_precision,
    finding_sets,
    nearest,
    precision_at_k,
    recall_at_k,
    retrieval_ranks,
)
from lgdea_core.evaluation.zero_shot import (
    auc_table,
    fuse_scores,
    load_prompts,
    negative_prompts,
    positive_prompts,
    prompt_scores,
)
from lgdea_core.grounding import patch_maps
from lgdea_core.inference import encode_image_pool, encode_tokens
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.stages import Inputs

logger = logging.getLogger("lgdea")

MIN_POSITIVES = 10
"""Fewest positives of a finding that get an AUC."""
GROUNDING_METRICS = ("cnr_signed", "miou_biovil_t", "pointing")
RANKED = 5
RECALLED = 10
HEADLINES = {
    ("zero-shot", "auc"): "zero-shot AUC",
    ("grounding", "cnr_signed"): "CNR (signed)",
    ("grounding", "miou_biovil_t"): "mIoU (BioViL-T)",
    ("grounding", "pointing"): "pointing game",
    ("retrieval", f"precision_at_{RANKED}"): f"precision@{RANKED}",
    ("retrieval", f"recall_at_{RECALLED}"): f"recall@{RECALLED}",
}
"""(task, metric) -> name in a comparison"""
METRIC_COLUMNS = ("task", "metric", "finding", "estimate", "low", "high", "n", "positives")


def evaluate(
    model: LGDEAModel,
    processor: LGDEAProcessor,
    inputs: Inputs,
    *,
    split: str = "test",
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Every task the split has truth for, with 95 % intervals over resampled patients.

    Returns:
        Columns `METRIC_COLUMNS`; finding "macro" is the mean over findings, "all" has no findings. A task without
        truth has no rows, which the log says.
    """
    part = inputs.corpus.split(split)
    if part.images.empty:
        raise ValueError(f"corpus {part.name!r} has no image in split {split!r} to evaluate on")
    options = {"resamples": resamples, "seed": seed}
    tables = [
        zero_shot_table(model, processor, inputs, part, **options),
        phrase_grounding_table(model, processor, inputs, part, progress=progress, **options),
        retrieval_table(model, processor, inputs, part, **options),
    ]
    return pd.concat(tables, ignore_index=True)[list(METRIC_COLUMNS)]


def zero_shot_scores(
    model: LGDEAModel,
    processor: LGDEAProcessor,
    crops: UInt8[Tensor, "images height width"],
    findings: Sequence[str],
) -> Float[np.ndarray, "images findings"]:
    """How much each image shows each finding, by prompts alone.

    A global method's score compares whole images with positive and negative prompts. A method with local and evidence
    heads sums the z-scores of three: global; the best patches for the positive prompts; and the Bhattacharyya
    coefficient of the image's evidence with the prompts' assignments.
    """
    prompts = [(positive_prompts(finding), negative_prompts(finding)) for finding in findings]
    embeds = encode_tokens(model, *processor.tokens([text for pair in prompts for part in pair for text in part]))
    pool = encode_image_pool(model, crops, embeds)
    channels = {"global": pool.image_embeds @ embeds.numpy().T}
    if model.config.method != "clip":
        with torch.no_grad():
            assignments = model.assign_phrases(embeds.to(model.prototypes.device)).cpu().numpy()
        channels |= {"local": pool.responses, "evidence": np.sqrt(pool.evidence) @ np.sqrt(assignments).T}
    lengths = np.cumsum([0] + [len(part) for pair in prompts for part in pair])
    scores = []
    for name, similarity in channels.items():
        columns = []
        for number in range(len(findings)):
            start, middle, end = lengths[2 * number : 2 * number + 3]
            positive, negative = similarity[:, start:middle], similarity[:, middle:end]
            absent = np.zeros_like(negative) if name == "local" else negative  # a negation has no place in the image
            columns.append(prompt_scores(positive, absent))
        scores.append(np.stack(columns, axis=1))
    return fuse_scores(scores)


def zero_shot_table(
    model: LGDEAModel, processor: LGDEAProcessor, inputs: Inputs, part: Corpus, *, resamples: int, seed: int
) -> pd.DataFrame:
    """Zero-shot AUC per finding with enough positives, and their mean."""
    labels = label_table(part)
    findings = [finding for finding in labels.columns if finding in load_prompts()]
    labelled = part.images[part.images["study_id"].isin(labels.index)]
    if not findings or labelled.empty:
        logger.info("corpus %s: no labels, so no zero-shot classification", part.name)
        return pd.DataFrame(columns=list(METRIC_COLUMNS))
    scores = zero_shot_scores(model, processor, inputs.crops(tuple(labelled["image_id"])), findings)
    table = auc_table(
        scores,
        labels.loc[labelled["study_id"], findings].to_numpy(dtype=float),
        findings,
        patients_of(part, labelled["study_id"]),
        min_positives=MIN_POSITIVES,
        resamples=resamples,
        seed=seed,
    )
    return table.rename(columns={"auc": "estimate"}).assign(task="zero-shot", metric="auc")


def phrase_grounding_table(
    model: LGDEAModel,
    processor: LGDEAProcessor,
    inputs: Inputs,
    part: Corpus,
    *,
    resamples: int,
    seed: int,
    progress: bool = True,
) -> pd.DataFrame:
    """CNR (signed), mIoU (BioViL-T) and pointing of every (image, phrase) with boxes; boxes of one phrase are one."""
    if part.boxes.empty:
        logger.info("corpus %s: no boxes in this split, so no phrase grounding", part.name)
        return pd.DataFrame(columns=list(METRIC_COLUMNS))
    samples = part.boxes.drop_duplicates(["image_id", "phrase"])
    pairs = list(phrase_samples(model, processor, inputs, part, progress=progress))
    scores = score_maps([pair[0] for pair in pairs], [pair[1] for pair in pairs], metrics=GROUNDING_METRICS)
    order = samples.groupby("image_id", sort=False).indices
    rows = samples.iloc[[row for image_rows in order.values() for row in image_rows]]
    table = grounding_table(
        scores,
        rows["finding"].tolist(),
        patients_of(part, rows["study_id"]),
        resamples=resamples,
        seed=seed,
    )
    return table.rename(columns={"category": "finding"}).assign(task="grounding", positives=table["n"])


def phrase_samples(
    model: LGDEAModel, processor: LGDEAProcessor, inputs: Inputs, part: Corpus, *, progress: bool = True
) -> Iterator[tuple[Float[np.ndarray, "height width"], Bool[np.ndarray, "height width"]]]:
    """Similarity map and box mask of every distinct (image, phrase), in original pixels, image by image."""
    sizes = part.images.set_index("image_id")[["height", "width"]]
    groups = part.boxes.groupby("image_id", sort=False)
    for image_id, boxes in tqdm(groups, unit="image", desc="grounding", disable=not progress):
        height, width = (int(value) for value in sizes.loc[image_id])
        phrases = boxes["phrase"].drop_duplicates().tolist()
        grids = patch_maps(model, processor, inputs.crops((image_id,)), phrases)[0]
        frame = crop_frame(height, width, processor.image_size)
        for phrase, grid in zip(phrases, grids, strict=True):
            corners = boxes_to_frame(boxes[boxes["phrase"] == phrase], height, width)
            yield crop_to_original(grid, frame), boxes_mask(corners, height, width)


def retrieval_table(
    model: LGDEAModel, processor: LGDEAProcessor, inputs: Inputs, part: Corpus, *, resamples: int, seed: int
) -> pd.DataFrame:
    """Image-to-report precision@5 (same set of present findings) and recall@10 over de-duplicated texts."""
    studies = part.studies[part.studies["report"].notna()]
    images = part.images[part.images["study_id"].isin(studies["study_id"])].drop_duplicates("study_id")
    if len(images) < 2 * RECALLED:
        logger.info("corpus %s: %d studies with image and report, so no retrieval", part.name, len(images))
        return pd.DataFrame(columns=list(METRIC_COLUMNS))
    texts = studies.set_index("study_id").loc[images["study_id"], "report"].map(_read_text).tolist()
    reports = encode_tokens(model, *processor.tokens(texts)).numpy()
    embeds = encode_image_pool(model, inputs.crops(tuple(images["image_id"]))).image_embeds
    patients = patients_of(part, images["study_id"])
    ranks = retrieval_ranks(embeds, reports, texts, texts)
    values = {f"recall_at_{RECALLED}": recall_at_k(ranks.image_to_text, RECALLED)}
    labels = label_table(part)
    if not labels.empty:
        sets = finding_sets(labels.reindex(images["study_id"]).to_numpy(dtype=float))
        values[f"precision_at_{RANKED}"] = precision_at_k(nearest(embeds, reports, RANKED), sets, sets, RANKED)
        values[f"precision_at_{RANKED}_chance"] = chance_precision(sets, sets)
    rows = []
    for metric, value in values.items():
        interval = bootstrap_mean(value, patients, resamples=resamples, seed=seed)
        rows.append({"metric": metric, "estimate": interval.estimate, "low": interval.low, "high": interval.high})
    return pd.DataFrame(rows).assign(task="retrieval", finding="all", n=len(images), positives=len(images))


def label_table(part: Corpus) -> pd.DataFrame:
    """One row per labelled study, one column per finding; NaN where unknown."""
    return part.labels.pivot_table("value", "study_id", "finding", aggfunc="max", dropna=False)


def patients_of(part: Corpus, study_ids: pd.Series) -> list[str]:
    """The patient of each study."""
    return part.studies.set_index("study_id").loc[study_ids, "patient_id"].tolist()


def _read_text(report: str) -> str:
    return " ".join(report_sentences(report))


def headlines(metrics: pd.DataFrame) -> pd.DataFrame:
    """The macro rows of `HEADLINES`, ready for `figures.figure_metric_comparison`.

    Args:
        metrics: `METRIC_COLUMNS` and a column variant.

    Returns:
        Columns method, metric, estimate, low, high, n, chance. Chance is 0.5 for AUC, 0 for CNR, the measured one for
        precision, 10 / n for recall (less where texts repeat), and NaN for mIoU and pointing: the controls show it.
    """
    overall = metrics[metrics["finding"].isin(["macro", "all"])]
    by_chance = overall[overall["metric"] == f"precision_at_{RANKED}_chance"].groupby("variant")["estimate"].first()
    rows = []
    for (task, metric), name in HEADLINES.items():
        for row in overall[(overall["task"] == task) & (overall["metric"] == metric)].to_dict("records"):
            chance = {"auc": 0.5, "cnr_signed": 0.0, f"recall_at_{RECALLED}": RECALLED / max(RECALLED, row["n"])}
            if metric == f"precision_at_{RANKED}":
                chance[metric] = by_chance[row["variant"]]
            values = {column: row[column] for column in ("estimate", "low", "high", "n")}
            rows.append({"method": row["variant"], "metric": name, **values, "chance": chance.get(metric, np.nan)})
    return pd.DataFrame(rows, columns=["method", "metric", "estimate", "low", "high", "n", "chance"])
