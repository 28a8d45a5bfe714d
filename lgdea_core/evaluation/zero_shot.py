"""Zero-shot classification: prompts that read like report sentences, scores from similarities, AUC with intervals.

Bare finding words occur in reports mostly inside negations ("no edema"), so a bare prompt reads as negative. Positive
prompts here therefore always carry a severity, a side or a zone, as GLoRIA's do; `bare_prompts` are the control.
"""

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from lgdea_core.evaluation.bootstrap import Interval, Keys, bootstrap_auc, bootstrap_macro_auc


@dataclass(frozen=True, kw_only=True)
class FindingPrompts:
    """What the prompts of one finding are composed of."""

    synonyms: tuple[str, ...]
    """the first is what positive prompts call it"""
    severities: tuple[str, ...]
    sides: tuple[str, ...]
    zones: tuple[str, ...]
    negated: tuple[str, ...]
    """what a negative prompt denies; the synonyms unless the file says otherwise"""


@cache
def load_prompts() -> dict[str, FindingPrompts]:
    """The parts of `prompts.json` by finding."""
    return {
        finding: FindingPrompts(
            **{name: tuple(values) for name, values in {"negated": parts["synonyms"], **parts}.items()}
        )
        for finding, parts in _prompt_file()["findings"].items()
    }


@cache
def positive_prompts(finding: str, limit: int = 48) -> tuple[str, ...]:
    """At most `limit` phrases that state the finding by name, spread evenly over severities, sides and zones.

    The next prompt is always the one whose parts, and pairs of parts, were used least so far (the first in order where
    several are), so the result is the same on every machine and a smaller `limit` gives the beginning of a larger one.

    Args:
        finding: a name of `load_prompts`.
        limit: at least 1.

    Raises:
        ValueError: no prompts for this finding, or `limit` below 1.
    """
    if limit < 1:
        raise ValueError(f"positive_prompts: limit must be at least 1, got {limit}")
    parts = _parts(finding)
    axes = (
        ("", *parts.severities),
        ("", *parts.sides),
        ("", *parts.zones),
        parts.synonyms[:1],
        _templates("templates"),
    )
    candidates = [choice for choice in itertools.product(*axes) if any(choice[:3])]
    used: Counter[tuple] = Counter()
    chosen = []
    while candidates and len(chosen) < limit:
        choice = min(candidates, key=lambda parts: sum(used[part] for part in _parts_and_pairs(parts)))
        candidates.remove(choice)
        used.update(_parts_and_pairs(choice))
        chosen.append(choice[-1].format(" ".join(filter(None, choice[:-1]))))
    return tuple(chosen)


@cache
def negative_prompts(finding: str) -> tuple[str, ...]:
    """Sentences that deny the finding: every negation around every synonym."""
    return tuple(
        template.format(name) for name, template in itertools.product(_parts(finding).negated, _templates("negations"))
    )


def bare_prompts(finding: str) -> tuple[str, str]:
    """The bare pair "{finding}" and "no {finding}" (CheXzero); the control that compositional prompts should beat."""
    bare = _prompt_file()["bare"]
    return bare["positive"].format(finding), bare["negative"].format(finding)


def fuse_scores(scores: Sequence[Float[np.ndarray, "images findings"]]) -> Float[np.ndarray, "images findings"]:
    """Sum of several scores, each z-scored over the images per finding (GLoRIA).

    A score that is the same for all images adds 0. The result depends on the set of images: it ranks them and has no
    meaning for a single film.

    Args:
        scores: at least one; finite.

    Raises:
        ValueError: no score, or a value that is not finite.
    """
    if not len(scores):
        raise ValueError("fuse_scores: expected at least one score, got none")
    for number, score in enumerate(scores):
        if not np.isfinite(score).all():
            raise ValueError(f"fuse_scores: score {number} has {int((~np.isfinite(score)).sum())} values not finite")
    return np.sum([_standardise(score) for score in scores], axis=0)


def auc_table(
    scores: Float[np.ndarray, "images findings"],
    labels: pd.DataFrame | np.ndarray,
    findings: Sequence[str],
    patients: Keys,
    min_positives: int = 10,
    uncertain: Literal["exclude", "positive", "negative"] = "exclude",
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """AUC of every finding and their macro mean, with intervals over resampled patients.

    A finding with fewer than `min_positives` positives, or without a negative, keeps its row but has no AUC and does
    not enter the macro mean: which findings count must be read from the table, not guessed.

    Args:
        scores: larger means more likely present.
        labels: 1, 0, -1 (uncertain) or NaN (unknown, left out), in the order of `scores`; a data frame is read by its
            columns `findings`.
        findings: names of the columns of `scores`.
        patients: the patient of each image.
        min_positives: smallest number of positives worth an AUC.
        uncertain: what -1 counts as.
        resamples: bootstrap draws.
        seed: fixes the draws.
        level: share of the draws inside the interval, in (0, 1).

    Returns:
        Columns finding, auc, low, high, positives, n, degenerate; the last row is "macro", whose `n` counts images
        with any label and whose `positives` are summed over the scored findings.

    Raises:
        ValueError: shapes do not fit.
    """
    values = labels[list(findings)].to_numpy(dtype=float) if isinstance(labels, pd.DataFrame) else labels.astype(float)
    if values.shape != scores.shape or len(findings) != scores.shape[1]:
        raise ValueError(
            f"auc_table: expected labels and {len(findings)} findings for scores of shape {scores.shape}, "
            f"got labels of shape {values.shape}"
        )
    values = np.where(values == -1, {"exclude": np.nan, "positive": 1.0, "negative": 0.0}[uncertain], values)
    positives, negatives = (values == 1).sum(axis=0), (values == 0).sum(axis=0)
    scored = (positives >= max(1, min_positives)) & (negatives > 0)
    options = {"resamples": resamples, "seed": seed, "level": level}
    rows = []
    for column, finding in enumerate(findings):
        known = int(positives[column] + negatives[column])
        interval = bootstrap_auc(values[:, column], scores[:, column], patients, **options) if scored[column] else None
        rows.append(_row(finding, interval, int(positives[column]), known))
    macro = bootstrap_macro_auc(values[:, scored], scores[:, scored], patients, **options) if scored.any() else None
    rows.append(_row("macro", macro, int(positives[scored].sum()), macro.n if macro else 0))
    return pd.DataFrame(rows)


@cache
def _prompt_file() -> dict:
    return json.loads(resources.files("lgdea_core.evaluation").joinpath("prompts.json").read_text())


def _templates(name: str) -> tuple[str, ...]:
    return tuple(_prompt_file()[name])


def _parts(finding: str) -> FindingPrompts:
    prompts = load_prompts()
    if finding not in prompts:
        raise ValueError(f"no prompts for finding {finding!r}; prompts.json has {', '.join(sorted(prompts))}")
    return prompts[finding]


def _parts_and_pairs(choice: tuple[str, ...]) -> list[tuple]:
    parts = list(enumerate(choice))
    return [*parts, *itertools.combinations(parts, 2)]


def _standardise(score: np.ndarray) -> np.ndarray:
    centred = score - score.mean(axis=0)
    spread = np.where(np.ptp(score, axis=0) > 0, score.std(axis=0), 1.0)
    return np.where(np.ptp(score, axis=0) > 0, centred / spread, 0.0)


def _row(finding: str, interval: Interval | None, positives: int, n: int) -> dict[str, object]:
    missing = float("nan")
    return {
        "finding": finding,
        "auc": interval.estimate if interval else missing,
        "low": interval.low if interval else missing,
        "high": interval.high if interval else missing,
        "positives": positives,
        "n": n,
        "degenerate": interval.degenerate if interval else 0,
    }
