"""Retrieval on one split: pairs of image and report, and sets of films of one class each (CheXpert 5x200, 8x200).

Pairs. Instance recall is CXR-CLIP's: image to text over de-duplicated texts, and here the other way as well. Precision
of an image over the reports of labelled studies is GLoRIA's "image-text retrieval" on 5x200, where an image asks for
reports of its class. Its released code has no retrieval and its file of reports ("Report Impression") was not released;
where a 5x200 file has them, these rows are that protocol, by the global similarity. Others put reports of MIMIC-CXR in
their place (PRIOR, issue 10), which no file fixes: we do not.

Classes, where `studies` has a role. ConVIRT's tasks (github.com/yuhaozhang/convirt): a query film or a text asks for
the candidates of its class, and precision is the mean over queries. `_image_to_image` ranks by the cosine of image
embeddings, candidates never among the queries nor queries among the candidates; `_text_to_image` takes the sentences of
ConVIRT's text file; `_prompt_to_image`, ours, for sets without them such as 5x200, takes every positive prompt of a
class as a query and averages within classes first, as prompt sets have 15 texts of one class and 210 of another. All
rank by the model's own score of a whole text, without the local channel that GLoRIA adds.
"""

import logging
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from lgdea_core.data.corpus import QUERY, TEXT_QUERY, Corpus, label_table, patients_of
from lgdea_core.evaluation.bootstrap import Interval, bootstrap_mean, bootstrap_median, bootstrap_pool_precision
from lgdea_core.evaluation.prompts import load_prompt_set
from lgdea_core.evaluation.retrieval import (
    chance_median_rank,
    chance_precision,
    chance_recall,
    commonest_precision,
    finding_sets,
    nearest,
    precision_at_k,
    recall_at_k,
    retrieval_ranks,
)
from lgdea_core.evidence.sections import report_sentences
from lgdea_core.inference import ImageTextModel, ImageTextProcessor, score_rows
from lgdea_core.runs.inputs import Inputs

logger = logging.getLogger("lgdea")

RECALLS, PRECISIONS = (1, 5, 10), (5, 10, 100)
LEAST_PAIRS = 20
"""Fewest studies with image and report (for precision: and labels) that are ranked at all."""
Rows = list[dict[str, Any]]


def retrieval_table(
    model: ImageTextModel,
    processor: ImageTextProcessor,
    inputs: Inputs,
    part: Corpus,
    *,
    prompts: str,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Recall, median rank and precision of a split, each beside what a random order gives (`_chance`).

    recall_at_K: image to text over de-duplicated texts, `recall_at_K_text_to_image` the other way, and `median_rank`
    likewise. precision_at_K: image to the reports of labelled studies, right where the present findings are the very
    same; `precision_at_K_commonest` is what reports with the pool's commonest findings get, returned to every image.
    With roles, `precision_at_K_image_to_image`, `_text_to_image` and `_prompt_to_image` as the module says; pairs are
    then those of candidates alone. A precision needs a pool of twice its K. `pool` counts the candidates: distinct
    texts, images, or reports of labelled studies.

    Intervals resample the query's patient (of a text, that of its first study). A prompt or a sentence of ConVIRT's is
    nobody's: there the patients of the candidates are resampled.

    A method with a query decoder ranks by its logit of the whole report, which MedKLIP, trained on phrases, never saw;
    it has no image-to-image rows.
    """
    options, whole = {"resamples": resamples, "seed": seed}, {"task": "retrieval", "finding": "all"}
    if "role" not in part.studies or part.studies["role"].isna().any():
        return pd.DataFrame(pair_rows(model, processor, inputs, part, **options)).assign(**whole)
    candidates = part.subset(part.studies.loc[~part.studies["role"].isin([QUERY, TEXT_QUERY]), "study_id"])
    rows = pair_rows(model, processor, inputs, candidates, **options)
    rows += class_rows(model, processor, inputs, part, prompts, **options)
    return pd.DataFrame(rows).assign(**whole)


def pair_rows(
    model: ImageTextModel, processor: ImageTextProcessor, inputs: Inputs, part: Corpus, *, resamples: int, seed: int
) -> Rows:
    """Recall, median rank and precision of studies with image and report; of each study the first image."""
    options = {"resamples": resamples, "seed": seed}
    studies = part.studies[part.studies["report"].notna()]
    images = part.images[part.images["study_id"].isin(studies["study_id"])].drop_duplicates("study_id")
    if len(images) < LEAST_PAIRS:
        logger.info("corpus %s: %d studies with image and report, so no retrieval of pairs", part.name, len(images))
        return []
    texts = studies.set_index("study_id").loc[images["study_id"], "report"].map(_read_text).tolist()
    embeds, reports = score_rows(model, inputs.crops(tuple(images["image_id"])), *processor.tokens(texts))
    patients = np.array(patients_of(part, images["study_id"]), dtype=object)
    rows = recall_rows(embeds, reports, texts, patients, **options)
    labels = label_table(part)
    labelled = images["study_id"].isin(labels.index).to_numpy()
    if labelled.sum() >= LEAST_PAIRS:
        sets = finding_sets(labels.loc[images["study_id"][labelled]].to_numpy(dtype=float))
        rows += precision_rows("", embeds[labelled], reports[labelled], sets, sets, patients[labelled], **options)
        rows += commonest_rows(sets, patients[labelled], **options)
    return rows


def recall_rows(
    image_embeds: Float[np.ndarray, "images dim"],
    report_embeds: Float[np.ndarray, "images dim"],
    texts: Sequence[str],
    patients: np.ndarray,
    *,
    resamples: int,
    seed: int,
) -> Rows:
    """Recall at `RECALLS` and median rank in both directions; row i of all arguments is of one study."""
    options = {"resamples": resamples, "seed": seed}
    ranks = retrieval_ranks(image_embeds, report_embeds, texts, texts)
    copies = pd.Series(texts).value_counts().loc[[texts[row] for row in ranks.text_rows]].to_numpy()
    one = np.ones(ranks.images, dtype=np.int64)
    rows = []
    for suffix, found, partners, pool, groups in (
        ("", ranks.image_to_text, one, ranks.texts, patients),
        ("_text_to_image", ranks.text_to_image, copies, ranks.images, patients[ranks.text_rows]),
    ):
        for k in RECALLS:
            chance = bootstrap_mean(chance_recall(partners, pool, k), groups, **options)
            interval = bootstrap_mean(recall_at_k(found, k), groups, **options)
            rows += _beside_chance(f"recall_at_{k}{suffix}", interval, chance, pool)
        chance = bootstrap_mean(np.full(len(found), chance_median_rank(partners, pool)), groups, **options)
        rows += _beside_chance(f"median_rank{suffix}", bootstrap_median(found, groups, **options), chance, pool)
    return rows


def precision_rows(
    suffix: str,
    queries: Float[np.ndarray, "queries dim"],
    candidates: Float[np.ndarray, "candidates dim"],
    query_classes: Sequence[Hashable],
    candidate_classes: Sequence[Hashable],
    patients: np.ndarray,
    *,
    resamples: int,
    seed: int,
) -> Rows:
    """Mean precision over queries at those of `PRECISIONS` that the pool allows; `patients` are the queries'."""
    options = {"resamples": resamples, "seed": seed}
    usable, pool = _usable(len(candidates)), len(candidates)
    if not usable:
        return []
    ranking = nearest(queries, candidates, max(usable))
    chance = bootstrap_mean(chance_precision(query_classes, candidate_classes), patients, **options)
    rows = []
    for k in usable:
        values = precision_at_k(ranking, query_classes, candidate_classes, k)
        rows += _beside_chance(f"precision_at_{k}{suffix}", bootstrap_mean(values, patients, **options), chance, pool)
    return rows


def commonest_rows(classes: Sequence[Hashable], patients: np.ndarray, *, resamples: int, seed: int) -> Rows:
    """Mean of `commonest_precision` where queries and candidates are the same studies, at the K of `precision_rows`."""
    rows, pool = [], len(classes)
    for k in _usable(pool):
        values = commonest_precision(classes, classes, k)
        rows.append(_row(f"precision_at_{k}_commonest", bootstrap_mean(values, patients, resamples, seed), pool))
    return rows


def class_rows(
    model: ImageTextModel,
    processor: ImageTextProcessor,
    inputs: Inputs,
    part: Corpus,
    prompts: str,
    *,
    resamples: int,
    seed: int,
) -> Rows:
    """Precision of texts and of query films over the candidate films of a set with roles; a film is a candidate."""
    options = {"resamples": resamples, "seed": seed}
    shown = part.labels.loc[part.labels["value"] == 1, ["study_id", "finding"]].astype(str)
    studies = part.studies[["study_id", "patient_id", "role", "report"]].merge(shown, validate="1:1")
    films = part.images[["image_id", "study_id"]].merge(studies)
    texts = class_texts(part.name, studies, prompts)
    if not len(texts) or films.empty:
        logger.info("corpus %s: no text of a class, so no retrieval by class", part.name)
        return []
    tokens = processor.tokens(texts["text"].tolist())
    embeds, text_embeds = score_rows(model, inputs.crops(tuple(films["image_id"])), *tokens)
    asking = (films["role"] == QUERY).to_numpy()
    candidates, pool = embeds[~asking], films[~asking]
    rows = []
    for suffix, own in texts.groupby("suffix"):
        classes = own["finding"].tolist()
        rows += text_rows(suffix, text_embeds[own.index], candidates, classes, pool, **options)
    if asking.any() and not model.method.decodes:
        classes, patients = films["finding"].to_numpy(), films["patient_id"].to_numpy()
        sides = embeds[asking], candidates, classes[asking].tolist(), classes[~asking].tolist()
        rows += precision_rows("_image_to_image", *sides, patients[asking], **options)
    return rows


def class_texts(name: str, studies: pd.DataFrame, prompts: str) -> pd.DataFrame:
    """Texts that ask for a class: the positive prompts of a set, and sentences that a corpus brings along.

    Args:
        name: of the corpus.
        studies: columns role, report and finding, the class.
        prompts: name of the prompt set; the log says which classes it does not cover.

    Returns:
        Columns suffix (of the metric), text, finding.
    """
    chosen, classes = load_prompt_set(prompts), sorted(set(studies["finding"]))
    if missing := [finding for finding in classes if not chosen.covers(finding)]:
        logger.info("corpus %s: prompt set %s has no queries for %s", name, prompts, ", ".join(missing))
    covered = [finding for finding in classes if chosen.covers(finding)]
    rows = [("_prompt_to_image", text, finding) for finding in covered for text in chosen.texts(finding).positive]
    written = studies[studies["role"] == TEXT_QUERY]
    rows += [("_text_to_image", *pair) for pair in zip(written["report"], written["finding"], strict=True)]
    return pd.DataFrame(rows, columns=["suffix", "text", "finding"])


def text_rows(
    suffix: str,
    queries: Float[np.ndarray, "queries dim"],
    candidates: Float[np.ndarray, "candidates dim"],
    classes: Sequence[str],
    films: pd.DataFrame,
    *,
    resamples: int,
    seed: int,
) -> Rows:
    """Precision of texts over films: the mean of the classes' means, with the patients of the films resampled.

    Args:
        suffix: of the metrics' names.
        queries: rows of the texts.
        candidates: rows of the films.
        classes: of each text.
        films: columns finding and patient_id of each candidate.
    """
    options, patients = {"resamples": resamples, "seed": seed}, films["patient_id"].tolist()
    usable = _usable(len(films))
    if not usable:
        return []
    asked = pd.Series(classes)
    weights = (1 / (asked.map(asked.value_counts()) * asked.nunique())).to_numpy()
    ranking = nearest(queries, candidates, len(films))
    hits = (films["finding"].to_numpy()[ranking] == np.array(classes)[:, None]).astype(float)
    chance = bootstrap_mean(films["finding"].isin(classes) / asked.nunique(), patients, **options)
    rows = []
    for k in usable:
        interval = bootstrap_pool_precision(hits, ranking, weights, patients, k, **options)
        rows += _beside_chance(f"precision_at_{k}{suffix}", interval, chance, len(films))
    return rows


def _usable(pool: int) -> list[int]:
    return [k for k in PRECISIONS if 2 * k <= pool]


def _beside_chance(metric: str, interval: Interval, chance: Interval, pool: int) -> Rows:
    """The row of a metric, and that of a random order for as many queries."""
    return [_row(metric, interval, pool), _row(f"{metric}_chance", replace(chance, n=interval.n), pool)]


def _row(metric: str, interval: Interval, pool: int) -> dict[str, Any]:
    """A line of `retrieval_table`; `n` counts queries."""
    bounds = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    return {"metric": metric, **bounds, "n": interval.n, "positives": interval.n, "pool": pool}


def _read_text(report: str) -> str:
    return " ".join(report_sentences(report))
