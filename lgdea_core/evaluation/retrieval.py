"""Image-text retrieval on one split: pairs of image and report, and sets of images of one class each (5x200, 8x200).

Pairs. Instance recall is CXR-CLIP's: image to text over de-duplicated texts, and here the other way as well. Precision
of an image over the reports of labelled studies is GLoRIA's "image-text retrieval" on 5x200, where an image asks for
reports of its class. Its released code has no retrieval and its file of reports ("Report Impression") was not released;
where a 5x200 file has them, these rows are that protocol, by the global similarity. Others put reports of MIMIC-CXR in
their place (PRIOR, issue 10), which no file fixes: we do not.

Classes, where `studies` has a role. ConVIRT's tasks (github.com/yuhaozhang/convirt): a query image or a text asks for
the candidates of its class, and precision is the mean over queries. `_image_to_image` ranks by the cosine of image
embeddings, candidates never among the queries nor queries among the candidates; `_text_to_image` takes the sentences of
ConVIRT's text file; `_prompt_to_image`, ours, for sets without them such as 5x200, takes every positive prompt of a
class as a query and averages within classes first, as prompt sets have 15 texts of one class and 210 of another. All
rank by the model's own score of a whole text, without the local channel that GLoRIA adds.

Ranking works through blocks of queries, so memory is a block of queries times the candidates, never the whole score
matrix.
"""

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import hypergeom

from lgdea_core.data.corpus import QUERY, TEXT_QUERY, Corpus, label_table, patients_of
from lgdea_core.evaluation.bootstrap import Bootstrap, Interval, Keys
from lgdea_core.evaluation.one_pass import Task, score_rows, together
from lgdea_core.evaluation.prompts import load_prompt_set
from lgdea_core.evidence.sections import report_sentences
from lgdea_core.inference import ImageTextModel, ImageTextProcessor, finite

logger = logging.getLogger("lgdea")

RECALLS, PRECISIONS = (1, 5, 10), (5, 10, 100)
LEAST_PAIRS = 20
"""Fewest studies with image and report (for precision: and labels) that are ranked at all."""
QUERIES_AT_ONCE = 512
Rows = list[dict[str, Any]]


def retrieval_table(
    model: ImageTextModel,
    processor: ImageTextProcessor,
    part: Corpus,
    bootstrap: Bootstrap,
    *,
    prompts: str,
) -> Task[pd.DataFrame]:
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
    whole = {"task": "retrieval", "finding": "all"}
    if "role" not in part.studies or part.studies["role"].isna().any():
        rows = yield from pair_rows(model, processor, part, bootstrap)
        return pd.DataFrame(rows).assign(**whole)
    candidates = part.subset(part.studies.loc[~part.studies["role"].isin([QUERY, TEXT_QUERY]), "study_id"])
    tasks = [
        pair_rows(model, processor, candidates, bootstrap),
        class_rows(model, processor, part, prompts, bootstrap),
    ]
    pairs, classes = yield from together(tasks)
    return pd.DataFrame(pairs + classes).assign(**whole)


def pair_rows(model: ImageTextModel, processor: ImageTextProcessor, part: Corpus, bootstrap: Bootstrap) -> Task[Rows]:
    """Recall, median rank and precision of studies with image and report; of each study the first image."""
    images, texts = paired_studies(part)
    if len(images) < LEAST_PAIRS:
        logger.info("corpus %s: %d studies with image and report, so no retrieval of pairs", part.name, len(images))
        return []
    embeds, reports = yield from score_rows(model, images["image_id"].tolist(), *processor.tokens(texts))
    patients = np.array(patients_of(part, images["study_id"]), dtype=object)
    rows = recall_rows(embeds, reports, texts, patients, bootstrap)
    labels = label_table(part)
    labelled = images["study_id"].isin(labels.index).to_numpy()
    if labelled.sum() >= LEAST_PAIRS:
        sets = finding_sets(labels.loc[images["study_id"][labelled]].to_numpy(dtype=float))
        rows += precision_rows("", embeds[labelled], reports[labelled], sets, sets, patients[labelled], bootstrap)
        rows += commonest_rows(sets, patients[labelled], bootstrap)
    return rows


def paired_studies(part: Corpus) -> tuple[pd.DataFrame, list[str]]:
    """The first image of every study with a report, and the report's text as it is ranked."""
    studies = part.studies[part.studies["report"].notna()]
    images = part.images[part.images["study_id"].isin(studies["study_id"])].drop_duplicates("study_id")
    reports = studies.set_index("study_id").loc[images["study_id"], "report"]
    return images, [" ".join(report_sentences(report)) for report in reports]


def recall_rows(
    image_embeds: Float[np.ndarray, "images dim"],
    report_embeds: Float[np.ndarray, "images dim"],
    texts: Sequence[str],
    patients: np.ndarray,
    bootstrap: Bootstrap,
) -> Rows:
    """Recall at `RECALLS` and median rank in both directions; row i of all arguments is of one study."""
    ranks = retrieval_ranks(image_embeds, report_embeds, texts, texts)
    copies = pd.Series(texts).value_counts().loc[[texts[row] for row in ranks.text_rows]].to_numpy()
    one = np.ones(ranks.images, dtype=np.int64)
    rows = []
    for suffix, found, partners, pool, groups in (
        ("", ranks.image_to_text, one, ranks.texts, patients),
        ("_text_to_image", ranks.text_to_image, copies, ranks.images, patients[ranks.text_rows]),
    ):
        for k in RECALLS:
            chance = bootstrap.mean(chance_recall(partners, pool, k), groups)
            interval = bootstrap.mean(recall_at_k(found, k), groups)
            rows += _beside_chance(f"recall_at_{k}{suffix}", interval, chance, pool)
        chance = bootstrap.mean(np.full(len(found), chance_median_rank(partners, pool)), groups)
        rows += _beside_chance(f"median_rank{suffix}", bootstrap.median(found, groups), chance, pool)
    return rows


def precision_rows(
    suffix: str,
    queries: Float[np.ndarray, "queries dim"],
    candidates: Float[np.ndarray, "candidates dim"],
    query_classes: Sequence[Hashable],
    candidate_classes: Sequence[Hashable],
    patients: np.ndarray,
    bootstrap: Bootstrap,
) -> Rows:
    """Mean precision over queries at those of `PRECISIONS` that the pool allows; `patients` are the queries'."""
    usable, pool = _usable(len(candidates)), len(candidates)
    if not usable:
        return []
    ranking = nearest(queries, candidates, max(usable))
    chance = bootstrap.mean(chance_precision(query_classes, candidate_classes), patients)
    rows = []
    for k in usable:
        values = precision_at_k(ranking, query_classes, candidate_classes, k)
        rows += _beside_chance(f"precision_at_{k}{suffix}", bootstrap.mean(values, patients), chance, pool)
    return rows


def commonest_rows(classes: Sequence[Hashable], patients: np.ndarray, bootstrap: Bootstrap) -> Rows:
    """Mean of `commonest_precision` where queries and candidates are the same studies, at the K of `precision_rows`."""
    rows, pool = [], len(classes)
    for k in _usable(pool):
        values = commonest_precision(classes, classes, k)
        rows.append(_row(f"precision_at_{k}_commonest", bootstrap.mean(values, patients), pool))
    return rows


def class_rows(
    model: ImageTextModel, processor: ImageTextProcessor, part: Corpus, prompts: str, bootstrap: Bootstrap
) -> Task[Rows]:
    """Precision of texts and of query images over the candidate images of a set with roles."""
    shown = part.labels.loc[part.labels["value"] == 1, ["study_id", "finding"]].astype(str)
    studies = part.studies[["study_id", "patient_id", "role", "report"]].merge(shown, validate="1:1")
    images = part.images[["image_id", "study_id"]].merge(studies)
    texts = class_texts(part.name, studies, prompts)
    if not len(texts) or images.empty:
        logger.info("corpus %s: no text of a class, so no retrieval by class", part.name)
        return []
    tokens = processor.tokens(texts["text"].tolist())
    embeds, text_embeds = yield from score_rows(model, images["image_id"].tolist(), *tokens)
    asking = (images["role"] == QUERY).to_numpy()
    candidates, pool = embeds[~asking], images[~asking]
    rows = []
    for suffix, own in texts.groupby("suffix"):
        classes = own["finding"].tolist()
        rows += text_rows(suffix, text_embeds[own.index], candidates, classes, pool, bootstrap)
    if asking.any() and not model.method.decodes:
        classes, patients = images["finding"].to_numpy(), images["patient_id"].to_numpy()
        sides = embeds[asking], candidates, classes[asking].tolist(), classes[~asking].tolist()
        rows += precision_rows("_image_to_image", *sides, patients[asking], bootstrap)
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
    images: pd.DataFrame,
    bootstrap: Bootstrap,
) -> Rows:
    """Precision of texts over images: the mean of the classes' means, with the patients of the images resampled.

    Args:
        suffix: of the metrics' names.
        queries: rows of the texts.
        candidates: rows of the images.
        classes: of each text.
        images: columns finding and patient_id of each candidate.
    """
    patients = images["patient_id"].tolist()
    usable = _usable(len(images))
    if not usable:
        return []
    asked = pd.Series(classes)
    weights = (1 / (asked.map(asked.value_counts()) * asked.nunique())).to_numpy()
    ranking = nearest(queries, candidates, len(images))
    hits = (images["finding"].to_numpy()[ranking] == np.array(classes)[:, None]).astype(float)
    chance = bootstrap.mean(images["finding"].isin(classes) / asked.nunique(), patients)
    rows = []
    for k in usable:
        interval = bootstrap.pool_precision(hits, ranking, weights, patients, k)
        rows += _beside_chance(f"precision_at_{k}{suffix}", interval, chance, len(images))
    return rows


class RetrievalRanks(NamedTuple):
    """Where the right answer stood in both directions; rank 1 is the top."""

    image_to_text: Int[np.ndarray, " images"]
    """rank of each image's text among the distinct texts"""
    text_to_image: Int[np.ndarray, " texts"]
    """rank of the best image of each distinct text that has an image, among all images"""
    text_rows: Int[np.ndarray, " texts"]
    """first row of the reports that holds the text: look its patient up there"""
    texts: int
    """pool size of image_to_text"""
    images: int
    """pool size of text_to_image"""


def nearest(
    queries: Float[np.ndarray, "queries dim"], candidates: Float[np.ndarray, "candidates dim"], k: int
) -> Int[np.ndarray, "queries ranks"]:
    """The `k` candidates of largest inner product for each query, best first; of equal ones the first in the pool.

    Args:
        queries: L2-normalised, or any rows whose inner products are scores.
        candidates: likewise.
        k: how many; at most the pool size.

    Raises:
        ValueError: `k` exceeds the pool.
    """
    pool = len(candidates)
    if not 1 <= k <= pool:
        raise ValueError(f"nearest: k must lie between 1 and the pool size {pool}, got {k}")
    blocks = [np.empty((0, k), dtype=np.int64)]
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        similarity = finite(queries[start : start + QUERIES_AT_ONCE] @ candidates.T, "nearest", "similarities")
        least = np.partition(similarity, pool - k, axis=1)[:, pool - k, None]
        rows, columns = np.nonzero(similarity >= least)  # k per row, more where the last place is shared
        order = np.lexsort((columns, -similarity[rows, columns], rows))
        starts = np.searchsorted(rows, np.arange(len(similarity)))
        blocks.append(columns[order][starts[:, None] + np.arange(k)])
    return np.concatenate(blocks)


def precision_at_k(
    ranking: Int[np.ndarray, "queries ranks"],
    query_classes: Sequence[Hashable],
    candidate_classes: Sequence[Hashable],
    k: int,
) -> Float[np.ndarray, " queries"]:
    """Share of the `k` first candidates that have exactly the query's class (GLoRIA, ConVIRT).

    On CheXpert 5x200 a class is one finding. On studies with any number of findings it is the set of those present, as
    a frozenset or a bitmask, and only the very same set is a hit; the empty set is a class too. A query whose class
    no candidate has scores 0. Precision depends on the prevalence of the classes: read it beside `chance_precision`.

    Args:
        ranking: candidate numbers from `nearest`, best first.
        query_classes: of each query.
        candidate_classes: of each candidate.
        k: at most the columns of `ranking`.

    Raises:
        ValueError: `k` exceeds the ranking, or lengths differ.
    """
    if not 1 <= k <= ranking.shape[1]:
        raise ValueError(f"precision_at_k: k must lie between 1 and the {ranking.shape[1]} ranked ones, got {k}")
    if len(query_classes) != len(ranking):
        raise ValueError(f"precision_at_k: {len(ranking)} ranked queries, but {len(query_classes)} query classes")
    query_codes, candidate_codes = _codes(query_classes, candidate_classes)
    return (candidate_codes[ranking[:, :k]] == query_codes[:, None]).mean(axis=1)


def chance_precision(
    query_classes: Sequence[Hashable], candidate_classes: Sequence[Hashable]
) -> Float[np.ndarray, " queries"]:
    """Precision that a random order of the candidates has on average, for each query and any k."""
    query_codes, candidate_codes = _codes(query_classes, candidate_classes)
    shares = np.bincount(candidate_codes, minlength=query_codes.max(initial=0) + 1) / max(1, len(candidate_codes))
    return shares[query_codes]


def commonest_precision(
    query_classes: Sequence[Hashable], candidate_classes: Sequence[Hashable], k: int
) -> Float[np.ndarray, " queries"]:
    """Precision at `k` of answering every query with candidates of the pool's commonest class, for each query.

        [class of the query = c] * min(n_c, k) / k,   n_c candidates of the commonest class c

    What one gets without looking at the query; a random order gets less as soon as one class is common. Of classes
    equally common the first in the pool counts.

    Args:
        query_classes: of each query.
        candidate_classes: of each candidate; at least one.
        k: answers to a query.
    """
    [(commonest, count)] = Counter(candidate_classes).most_common(1)
    return np.array([query == commonest for query in query_classes], dtype=float) * min(count, k) / k


def retrieval_ranks(
    image_embeds: Float[np.ndarray, "images dim"],
    report_embeds: Float[np.ndarray, "reports dim"],
    image_texts: Sequence[Hashable],
    report_texts: Sequence[Hashable],
) -> RetrievalRanks:
    """Ranks of true partners in both directions over de-duplicated texts (CXR-CLIP's protocol).

        image to text: 1 + other distinct texts with similarity >= that of the image's own text
        text to image: 1 + images of other texts with similarity >= the best one of the text's own images

    Reports with the same text are one candidate, the first of them, and any image with that text is a right answer.
    A tie counts against the model, so a collapsed model has the worst rank and not the best.

    Args:
        image_embeds: L2-normalised.
        report_embeds: L2-normalised.
        image_texts: the text, or any key of it, of each image's own report; each must occur among `report_texts`.
        report_texts: the text of each report.

    Raises:
        ValueError: lengths differ, or an image's text is not in the pool.
    """
    if len(image_texts) != len(image_embeds) or len(report_texts) != len(report_embeds):
        raise ValueError(
            f"retrieval_ranks: {len(image_embeds)} images with {len(image_texts)} texts and {len(report_embeds)} "
            f"reports with {len(report_texts)} texts; expected one text each"
        )
    rows: dict[Hashable, int] = {}
    for row, text in enumerate(report_texts):
        rows.setdefault(text, row)
    position = {text: number for number, text in enumerate(rows)}
    missing = sum(text not in position for text in image_texts)
    if missing:
        raise ValueError(f"retrieval_ranks: the text of {missing} image(s) is not among the reports")
    own = np.array([position[text] for text in image_texts], dtype=np.int64)
    text_rows = np.fromiter(rows.values(), dtype=np.int64)
    text_embeds = report_embeds[text_rows]
    with_image = np.unique(own)
    return RetrievalRanks(
        _ranks(image_embeds, text_embeds, own, np.arange(len(text_rows))),
        _ranks(text_embeds[with_image], image_embeds, with_image, own),
        text_rows[with_image],
        len(text_rows),
        len(image_embeds),
    )


def recall_at_k(ranks: Int[np.ndarray, " queries"], k: int) -> Float[np.ndarray, " queries"]:
    """1 where the right answer is among the first `k`, else 0.

    Means little without the pool size: `RetrievalRanks` has it, and the median of `ranks` says what k hides.
    """
    if k < 1:
        raise ValueError(f"recall_at_k: k must be at least 1, got {k}")
    return (ranks <= k).astype(float)


def chance_recall(partners: Int[np.ndarray, " queries"], pool: int, k: int) -> Float[np.ndarray, " queries"]:
    """Recall at `k` that a random order has on average, for each query.

        1 - C(pool - m, k) / C(pool, k),   m right answers in the pool; k / pool for one

    Args:
        partners: right answers to each query, at least 1.
        pool: number of candidates.
        k: from `pool` on it is 1.
    """
    return 1 - hypergeom.pmf(0, pool, partners, min(k, pool))


def chance_median_rank(partners: Int[np.ndarray, " queries"], pool: int) -> int:
    """The rank by which a random order finds an answer to half of the queries; arguments as of `chance_recall`."""
    ranks = range(1, pool + 1)
    return 1 + bisect_left(ranks, 0.5 - 1e-9, key=lambda k: chance_recall(partners, pool, k).mean())


def finding_sets(labels: Float[np.ndarray, "studies findings"]) -> list[int]:
    """Each study's set of present findings as a bitmask: bit j is set where label j is 1 (not -1, 0 or NaN)."""
    return [sum(1 << int(column) for column in np.flatnonzero(row)) for row in labels == 1]


def _usable(pool: int) -> list[int]:
    return [k for k in PRECISIONS if 2 * k <= pool]


def _beside_chance(metric: str, interval: Interval, chance: Interval, pool: int) -> Rows:
    """The row of a metric, and that of a random order for as many queries."""
    return [_row(metric, interval, pool), _row(f"{metric}_chance", replace(chance, n=interval.n), pool)]


def _row(metric: str, interval: Interval, pool: int) -> dict[str, Any]:
    """A line of `retrieval_table`; `n` counts queries."""
    bounds = {name: getattr(interval, name) for name in ("estimate", "low", "high", "degenerate", "warning")}
    return {"metric": metric, **bounds, "n": interval.n, "positives": interval.n, "pool": pool}


def _ranks(
    queries: np.ndarray, candidates: np.ndarray, query_keys: np.ndarray, candidate_keys: np.ndarray
) -> np.ndarray:
    """1 + candidates of another key that are at least as similar as the best candidate of the query's key."""
    blocks = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        similarity = finite(queries[rows] @ candidates.T, "retrieval_ranks", "similarities")
        own = query_keys[rows][:, None] == candidate_keys[None, :]
        best = np.where(own, similarity, -np.inf).max(axis=1, keepdims=True)
        blocks.append(1 + ((similarity >= best) & ~own).sum(axis=1))
    return np.concatenate(blocks).astype(np.int64)


def _codes(query_classes: Keys, candidate_classes: Keys) -> tuple[np.ndarray, np.ndarray]:
    """Classes as integers, equal where the classes are."""
    numbers: dict[Hashable, int] = {}
    codes = [numbers.setdefault(each, len(numbers)) for each in (*query_classes, *candidate_classes)]
    return np.array(codes[: len(query_classes)], dtype=np.int64), np.array(codes[len(query_classes) :], dtype=np.int64)
