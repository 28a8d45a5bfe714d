"""Image-text retrieval: precision at k by finding set, recall at k by text identity; never the whole score matrix.

All functions take embeddings and work through blocks of queries, so memory is a block of queries times the candidates.
They return one value per query, which `bootstrap.bootstrap_mean` turns into an interval by patient.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import hypergeom

from lgdea_core.evaluation.bootstrap import Keys


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
    queries: Float[np.ndarray, "queries dim"],
    candidates: Float[np.ndarray, "candidates dim"],
    k: int,
    chunk: int = 512,
) -> Int[np.ndarray, "queries ranks"]:
    """The `k` candidates of largest similarity for each query, best first; of equal ones the first in the pool.

    Args:
        queries: L2-normalised.
        candidates: L2-normalised.
        k: how many; at most the pool size.
        chunk: queries at a time.

    Raises:
        ValueError: `k` exceeds the pool.
    """
    if not 1 <= k <= len(candidates):
        raise ValueError(f"nearest: k must lie between 1 and the pool size {len(candidates)}, got {k}")
    blocks = [nearest_in(queries[rows] @ candidates.T, k) for rows in _chunks(len(queries), chunk)]
    return np.concatenate(blocks) if blocks else np.empty((0, k), dtype=np.int64)


def nearest_in(similarity: Float[np.ndarray, "queries candidates"], k: int) -> Int[np.ndarray, "queries ranks"]:
    """As `nearest`, for a block of similarities that is already there (such as a sum of several scores)."""
    queries, candidates = similarity.shape
    if not 1 <= k <= candidates:
        raise ValueError(f"nearest_in: k must lie between 1 and the pool size {candidates}, got {k}")
    least = np.partition(similarity, candidates - k, axis=1)[:, candidates - k, None]
    rows, columns = np.nonzero(similarity >= least)  # k per row, more where the last place is shared
    order = np.lexsort((columns, -similarity[rows, columns], rows))
    starts = np.searchsorted(rows, np.arange(queries))
    return columns[order][starts[:, None] + np.arange(k)]


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
    chunk: int = 512,
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
        chunk: queries at a time.

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
        _ranks(image_embeds, text_embeds, own, np.arange(len(text_rows)), chunk),
        _ranks(text_embeds[with_image], image_embeds, with_image, own, chunk),
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


def finding_sets(
    labels: Float[np.ndarray, "studies findings"],
) -> list[int]:
    """Each study's set of present findings as a bitmask: bit j is set where label j is 1 (not -1, 0 or NaN)."""
    present: Bool[np.ndarray, "studies findings"] = labels == 1
    return [sum(1 << int(column) for column in np.flatnonzero(row)) for row in present]


def _ranks(
    queries: np.ndarray, candidates: np.ndarray, query_keys: np.ndarray, candidate_keys: np.ndarray, chunk: int
) -> np.ndarray:
    """1 + candidates of another key that are at least as similar as the best candidate of the query's key."""
    blocks = []
    for rows in _chunks(len(queries), chunk):
        similarity = queries[rows] @ candidates.T
        own = query_keys[rows][:, None] == candidate_keys[None, :]
        best = np.where(own, similarity, -np.inf).max(axis=1, keepdims=True)
        blocks.append(1 + ((similarity >= best) & ~own).sum(axis=1))
    return np.concatenate(blocks).astype(np.int64)


def _codes(query_classes: Keys, candidate_classes: Keys) -> tuple[np.ndarray, np.ndarray]:
    """Classes as integers, equal where the classes are."""
    numbers: dict[Hashable, int] = {}
    codes = [numbers.setdefault(each, len(numbers)) for each in (*query_classes, *candidate_classes)]
    return np.array(codes[: len(query_classes)], dtype=np.int64), np.array(codes[len(query_classes) :], dtype=np.int64)


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]
