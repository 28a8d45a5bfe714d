"""The three tasks of the papers on one split: zero-shot classification, phrase grounding, retrieval."""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from tqdm.auto import tqdm

from lgdea_core.crops import boxes_mask, boxes_to_frame, crop_frame, crop_to_original
from lgdea_core.data.corpus import Corpus, label_table, patients_of
from lgdea_core.evaluation.bootstrap import Bootstrap
from lgdea_core.evaluation.classification import (
    MIN_POSITIVES,
    ORACLE_METRICS,
    VALIDATION_METRICS,
    abnormal_rows,
    classification_table,
    validation_thresholds,
    whole_set_rows,
)
from lgdea_core.evaluation.controls import BoxPriors, box_priors, location_prior_map, other_images
from lgdea_core.evaluation.grounding import grounding_table, score_maps
from lgdea_core.evaluation.one_pass import Task, phrase_grids, run_task, together
from lgdea_core.evaluation.prompts import DEFAULT_PROMPTS, PromptSet, load_prompt_set
from lgdea_core.evaluation.retrieval import retrieval_table
from lgdea_core.evaluation.zero_shot import channel_scores, combine_channels
from lgdea_core.grounding import MAP_PROTOCOLS
from lgdea_core.inference import ImageTextModel, ImageTextProcessor
from lgdea_core.runs.inputs import Inputs
from lgdea_core.runs.leaks import refuse_training_patients
from lgdea_core.vocabulary import LABEL_SETS, NO_FINDING

logger = logging.getLogger("lgdea")

GROUNDING_METRICS = ("cnr_signed", "miou_biovil_t", "pointing")
"""The headlines among `grounding.METRICS`, and those that have the controls of module `controls`."""
SAMPLES_AT_ONCE = 64
"""Samples whose maps, in pixels of the image, are held at once."""
RANKED = 5
RECALLED = 10
DEFAULT_MAPS = "smooth"
HEADLINES = {
    ("zero-shot", "auc"): "zero-shot AUC",
    ("zero-shot", "auc_global"): "AUC, global score",
    ("grounding", "cnr_signed"): "CNR (signed)",
    ("grounding", "miou_biovil_t"): "mIoU (BioViL-T)",
    ("grounding", "pointing"): "pointing game",
    ("retrieval", f"precision_at_{RANKED}"): f"precision@{RANKED}",
    ("retrieval", f"recall_at_{RECALLED}"): f"recall@{RECALLED}",
}
"""(task, metric) -> name in a comparison"""
METRIC_COLUMNS = (
    "corpus", "task", "metric", "finding", "estimate", "low", "high", "n", "positives", "excluded", "degenerate",
    "threshold", "pool", "warning",
)  # fmt: skip
"""`excluded` counts samples without a value, `degenerate` bootstrap draws in which the metric does not exist, `pool`
the distinct candidates each query of retrieval was ranked against, `warning` why an interval is none, or is empty."""


def evaluate(
    model: ImageTextModel,
    processor: ImageTextProcessor,
    inputs: Inputs,
    *,
    split: str = "test",
    prompts: str = DEFAULT_PROMPTS,
    labels: str | None = None,
    maps: str = DEFAULT_MAPS,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Every task the split has truth for, with 95 % intervals over resampled patients.

    Every image of the split, and of the validation split, is encoded once, in float32 whatever precision the training
    used, so that a model measured right after training has the numbers of the one that is saved and loaded.

    Args:
        model: any.
        processor: its own.
        inputs: corpus and crops; split "val" gives the thresholds of `f1_validation` and `accuracy_validation`.
        split: which studies.
        prompts: name of the prompt set of zero-shot classification and class retrieval.
        labels: name of a published label set, to which zero-shot classification is held; all labels where None.
        maps: how patches become maps, one of `grounding.MAP_PROTOCOLS`.
        resamples: bootstrap draws.
        seed: fixes the draws, and which image stands in for which.
        progress: show bars.

    Returns:
        Columns `METRIC_COLUMNS`; finding "macro" is the mean over findings, "all" has no findings. A task without
        truth has no rows, which the log says.

    Raises:
        ValueError: the split has no image, a patient whom the model was trained on is in it or among those who choose
            thresholds, or the corpus lacks a finding of the label set.
    """
    part = evaluation_part(inputs.corpus, split)
    refuse_training_patients(model, part)
    bootstrap = Bootstrap(resamples=resamples, seed=seed)
    validation = validation_part(inputs.corpus, part, split)
    if validation is not None:
        refuse_training_patients(model, validation)
    tasks = [
        zero_shot_table(model, processor, part, validation, bootstrap, prompts=prompts, label_set=labels),
        phrase_grounding_table(model, processor, part, bootstrap, maps=maps, progress=progress),
        retrieval_table(model, processor, part, bootstrap, prompts=prompts),
    ]
    return metric_table(run_task(model, inputs.crops, together(tasks), progress=progress), part.name)


def metric_table(tables: Sequence[pd.DataFrame], corpus: str) -> pd.DataFrame:
    """Tables of several tasks as one, with `METRIC_COLUMNS`."""
    joined = pd.concat(tables, ignore_index=True).assign(corpus=corpus)
    return joined.reindex(columns=list(METRIC_COLUMNS)).fillna({"warning": ""})


def evaluation_part(corpus: Corpus, split: str) -> Corpus:
    """A split's studies; of a combined corpus only those of the corpus with most images in the split.

    Pooled over sources, a score that only tells the sources apart would look like skill.

    Raises:
        ValueError: the split has no image.
    """
    part = corpus.split(split)
    if part.images.empty:
        raise ValueError(f"corpus {part.name!r} has no image in split {split!r} to evaluate on")
    if "corpus" not in part.studies:
        return part
    source_of = part.studies.set_index("study_id")["corpus"]
    source = source_of.loc[part.images["study_id"]].value_counts().index[0]
    return replace(part.subset(source_of.index[source_of == source]), name=source)


def validation_part(corpus: Corpus, part: Corpus, split: str) -> Corpus | None:
    """The studies of split "val" that thresholds for `part` are chosen on: of the same source; None without an image.

    None also where `part` is that split itself: its own labels would choose the thresholds it is judged by.
    """
    if split == "val":
        return None
    validation = corpus.split("val")
    if "corpus" in validation.studies:
        own = validation.studies["corpus"] == part.name
        validation = validation.subset(validation.studies.loc[own, "study_id"])
    return None if validation.images.empty else validation


def zero_shot_table(
    model: ImageTextModel,
    processor: ImageTextProcessor,
    part: Corpus,
    validation: Corpus | None,
    bootstrap: Bootstrap,
    *,
    prompts: str = DEFAULT_PROMPTS,
    label_set: str | None = None,
) -> Task[pd.DataFrame]:
    """Zero-shot AUC, AP, F1 and accuracy per finding with enough positives, and their means.

    `whole_set_rows` and `abnormal_rows` speak of all findings at once.

    `auc`, `ap` and the oracle metrics rank by the sum of the method's channels, each z-scored over the images (so it
    ranks a set and has no meaning for one image); `auc_global`, the mean alone, by the global channel, which a method
    with a decoder lacks, as does a prompt set that averages channels prompt by prompt where the method has two. A macro
    mean is over the findings that have the metric: without a threshold from validation one has no `f1_validation`.

    For `f1_validation` and `accuracy_validation` both sets of images are z-scored by the means and spreads of the
    *validation* images, finding by finding: threshold and scores share one scale, no test image tells about another,
    and a shift between the two sets counts as what it is, an error. The scores of a prompt set with `normalise` none
    are taken as they are. Without labelled validation images these two have no rows.
    """
    chosen = load_prompt_set(prompts)
    findings = asked_findings(part, label_set, chosen)
    if missing := sorted(set(LABEL_SETS.get(label_set, ())) - set(findings)):
        raise ValueError(f"prompt set {prompts} has no prompts for {', '.join(missing)} of label set {label_set}")
    image_ids, truth, patients = labelled_images(part, findings)
    if not findings or not image_ids:
        logger.info("corpus %s: no labels with prompts, so no zero-shot classification", part.name)
        return pd.DataFrame(columns=list(METRIC_COLUMNS))
    held_out, known, _ = labelled_images(validation, findings) if validation else ((), None, None)
    both = yield from channel_scores(model, processor, (*image_ids, *held_out), findings, prompts)
    scores = {channel: rows[: len(image_ids)] for channel, rows in both.items()}
    options = {"bootstrap": bootstrap, "min_positives": MIN_POSITIVES}
    fused = combine_channels(scores, chosen)
    tables = [classification_table(fused, truth, findings, patients, **options)]
    if "global" in scores:
        alone = classification_table(scores["global"], truth, findings, patients, **options)
        tables.append(alone[alone["finding"] == "macro"].assign(metric="auc_global"))
    tables.append(classification_table(fused, truth, findings, patients, metrics=ORACLE_METRICS, **options))
    tables.append(whole_set_rows(fused, truth, findings, patients, bootstrap))
    tables.append(abnormal_rows(fused, labelled_images(part, [NO_FINDING])[1][:, 0], patients, bootstrap))
    if held_out:
        other = {channel: rows[len(image_ids) :] for channel, rows in both.items()}
        thresholds = validation_thresholds(combine_channels(other, chosen), known, findings)
        carried = {"metrics": VALIDATION_METRICS, "thresholds": thresholds, **options}
        carried_scores = combine_channels(scores, chosen, reference=other)
        tables.append(classification_table(carried_scores, truth, findings, patients, **carried))
    else:
        logger.info("corpus %s: no labelled validation images, so no thresholds from them", part.name)
    return pd.concat(tables).assign(task="zero-shot")


def asked_findings(part: Corpus, label_set: str | None, prompts: PromptSet) -> list[str]:
    """The findings that zero-shot classification asks about: a corpus's labels, or those of a published set.

    The log says which of them have no prompts. They are left out; of a label set `zero_shot_table` refuses that.

    Raises:
        ValueError: no such set, or the corpus has no labels for one of its findings.
    """
    asked = there = sorted(part.labels["finding"].unique())
    if label_set is not None:
        if label_set not in LABEL_SETS:
            raise ValueError(f"no label set {label_set!r}; there are {', '.join(LABEL_SETS)}")
        asked = LABEL_SETS[label_set]
        if absent := [finding for finding in asked if finding not in there]:
            raise ValueError(f"corpus {part.name}: no labels for {', '.join(absent)} of label set {label_set}")
    if missing := sorted(finding for finding in asked if not prompts.covers(finding)):
        logger.info("corpus %s: prompt set %s has no prompts for %s", part.name, prompts.name, ", ".join(missing))
    return [finding for finding in asked if prompts.covers(finding)]


def labelled_images(
    part: Corpus, findings: Sequence[str]
) -> tuple[tuple[str, ...], Float[np.ndarray, "images findings"], list[str]]:
    """Images of labelled studies, their labels of some findings, and their patients."""
    labels = label_table(part)
    images = part.images[part.images["study_id"].isin(labels.index)]
    truth = labels.reindex(columns=list(findings)).loc[images["study_id"]].to_numpy(dtype=float)
    return tuple(images["image_id"]), truth, patients_of(part, images["study_id"])


def phrase_grounding_table(
    model: ImageTextModel,
    processor: ImageTextProcessor,
    part: Corpus,
    bootstrap: Bootstrap,
    *,
    maps: str = DEFAULT_MAPS,
    progress: bool = True,
) -> Task[pd.DataFrame]:
    """All of `grounding.METRICS` for every (image, phrase) with boxes; boxes of one phrase are one.

    `<metric>_blind` and `<metric>_swapped`, of each of `GROUNDING_METRICS`, are the location-prior control and the
    cross-patient control on the same samples (see module `controls`): a map of other patients' boxes, and the model's
    map of the phrase on another patient's image. One that the patients do not allow has no rows, which the log says.
    `<metric>_own = <metric> - <metric>_swapped`, sample by sample: what the image itself adds, in units of the metric.

    "macro" is the mean over findings with at least `MIN_POSITIVES` phrases, "all" that over all phrases. Under another
    map protocol than the default a metric is named after it, too: "cnr_signed, biovil maps".
    """
    if maps not in MAP_PROTOCOLS:
        raise ValueError(f"no map protocol {maps!r}; there are {', '.join(MAP_PROTOCOLS)}")
    if part.boxes.empty:
        logger.info("corpus %s: no boxes in this split, so no phrase grounding", part.name)
        return pd.DataFrame(columns=list(METRIC_COLUMNS))
    priors, others = box_priors(part), other_images(part, bootstrap.seed)
    if priors is None:
        logger.info("corpus %s: boxes of one patient only, so no location-prior control of grounding", part.name)
    if not others:
        logger.info("corpus %s: one patient has most images with boxes, so no cross-patient control", part.name)
    samples = yield from grounding_samples(model, processor, part, maps=maps, others=others)
    scores = _scores(iter(tqdm(samples, unit="phrase", desc="grounding", disable=not progress)), priors)
    findings, patients = scores.pop("finding"), pd.Series(patients_of(part, scores.pop("study_id")))
    if maps != DEFAULT_MAPS:
        scores = scores.add_suffix(f", {maps} maps")
    table = grounding_table(scores, findings.tolist(), patients.tolist(), bootstrap)
    every = grounding_table(scores, ["all"] * len(scores), patients.tolist(), bootstrap)
    tables = [table[table["category"] != "macro"], every[every["category"] == "all"]]
    common = findings.map(findings.value_counts()).ge(MIN_POSITIVES).to_numpy()
    if common.any():
        macro = grounding_table(scores[common], findings[common].tolist(), patients[common].tolist(), bootstrap)
        tables.append(macro[macro["category"] == "macro"])
    joined = pd.concat(tables)
    return joined.rename(columns={"category": "finding"}).assign(task="grounding", positives=joined["n"])


class BoxedPhrase(NamedTuple):
    """One distinct (image, phrase) with boxes."""

    image_id: str
    study_id: str
    finding: str
    phrase: str
    mask: Bool[np.ndarray, "height width"]
    """union of the phrase's boxes, in pixels of the image"""


def boxed_phrases(part: Corpus) -> Iterator[BoxedPhrase]:
    """Every distinct (image, phrase) with boxes, image by image; masks are made one by one."""
    sizes = part.images.set_index("image_id")[["height", "width"]]
    for image_id, boxes in part.boxes.groupby("image_id", sort=False):
        height, width = (int(value) for value in sizes.loc[image_id])
        for phrase in boxes["phrase"].drop_duplicates():
            own = boxes[boxes["phrase"] == phrase]
            mask = boxes_mask(boxes_to_frame(own, height, width), height, width)
            yield BoxedPhrase(image_id, own["study_id"].iloc[0], own["finding"].iloc[0], phrase, mask)


class PhraseSample(NamedTuple):
    """One distinct (image, phrase) with boxes, and what was made of it."""

    study_id: str
    finding: str
    mask: Bool[np.ndarray, "height width"]
    """union of the phrase's boxes"""
    similarity_map: Float[np.ndarray, "height width"]
    """original pixels"""
    swapped_map: Float[np.ndarray, "height width"] | None = None
    """the phrase's map of another image, laid onto this one"""


def phrase_samples(
    model: ImageTextModel, processor: ImageTextProcessor, inputs: Inputs, part: Corpus, *, progress: bool = True
) -> Iterator[PhraseSample]:
    """`grounding_samples` under the default protocol, in a pass of their own."""
    return run_task(model, inputs.crops, grounding_samples(model, processor, part), progress=progress)


def grounding_samples(
    model: ImageTextModel,
    processor: ImageTextProcessor,
    part: Corpus,
    *,
    maps: str = DEFAULT_MAPS,
    others: Mapping[str, str] | None = None,
) -> Task[Iterator[PhraseSample]]:
    """Similarity map, by a protocol of `MAP_PROTOCOLS`, and box mask of every distinct (image, phrase).

    `others`, from `controls.other_images`, names the image of each `swapped_map`; without it there is none. Maps in
    pixels of the image are made one by one, from the grids that the pass has kept.
    """
    protocol = MAP_PROTOCOLS[maps]
    pairs = part.boxes.drop_duplicates(["image_id", "phrase"])
    phrases = pairs.groupby("image_id", sort=False)["phrase"].agg(list).to_dict()
    asked = {image_id: dict.fromkeys(own) for image_id, own in phrases.items()}
    for image_id, other in (others or {}).items():
        asked[other].update(dict.fromkeys(phrases[image_id]))
    grids = yield from phrase_grids(model, processor, asked, scaled=protocol.scaled)

    def samples() -> Iterator[PhraseSample]:
        for one in boxed_phrases(part):
            frame = crop_frame(*one.mask.shape, processor.image_size)
            shown = (one.image_id, others[one.image_id]) if others else (one.image_id,)
            laid = [crop_to_original(grids[image][one.phrase], frame, protocol.interpolation) for image in shown]
            yield PhraseSample(one.study_id, one.finding, one.mask, *laid)

    return samples()


def _scores(samples: Iterator[PhraseSample], priors: BoxPriors | None) -> pd.DataFrame:
    """Columns study_id, finding, `grounding.METRICS`; `<metric>_<control>` and `_own` where there is a control."""
    blocks = []
    while block := list(itertools.islice(samples, SAMPLES_AT_ONCE)):
        masks, names = [sample.mask for sample in block], [sample.study_id for sample in block]
        tables = [score_maps([sample.similarity_map for sample in block], masks, names=names)]
        if priors is not None:
            prior = [location_prior_map(priors, one.study_id, one.finding, one.similarity_map) for one in block]
            tables.append(score_maps(prior, masks, GROUNDING_METRICS, names).add_suffix("_blind"))
        if block[0].swapped_map is not None:
            swapped = [sample.swapped_map for sample in block]
            others = score_maps(swapped, masks, GROUNDING_METRICS, names)
            own = tables[0][list(GROUNDING_METRICS)] - others
            tables += [others.add_suffix("_swapped"), own.add_suffix("_own")]
        blocks.append(pd.concat(tables, axis=1).assign(finding=[sample.finding for sample in block]))
    return pd.concat(blocks).rename_axis("study_id").reset_index()


def headlines(metrics: pd.DataFrame) -> pd.DataFrame:
    """The macro rows of `HEADLINES`, ready for `figures.figure_metric_comparison`.

    Args:
        metrics: `METRIC_COLUMNS` and a column variant.

    Returns:
        Columns method, metric, estimate, low, high, n, chance. Chance is 0.5 for AUC, 0 for CNR, the measured one for
        precision, 10 / (distinct texts) for recall, and NaN for mIoU and pointing: the controls show it.
    """
    overall = metrics[(metrics["finding"] == "macro") | (metrics["task"] == "retrieval")]
    chances = overall[overall["metric"].str.endswith("_chance")].groupby("metric")["estimate"].first()
    fixed = {"auc": 0.5, "auc_global": 0.5, "cnr_signed": 0.0}
    rows = []
    for (task, metric), name in HEADLINES.items():
        for row in overall[(overall["task"] == task) & (overall["metric"] == metric)].to_dict("records"):
            chance = fixed.get(metric, chances.get(f"{metric}_chance", np.nan))
            values = {column: row[column] for column in ("estimate", "low", "high", "n")}
            rows.append({"method": row["variant"], "metric": name, **values, "chance": chance})
    return pd.DataFrame(rows, columns=["method", "metric", "estimate", "low", "high", "n", "chance"])
