"""Does it look? One page of controls for any model: what its scores are where the image, or the words, say nothing.

    asked = exam.exam_of(inputs)                     # what is asked: images, labels, prompts, reports, phrases
    page = does_it_look((model, processor), asked)   # any model that the package loads, ours or published
    page = does_it_look(outside.outside(embed_images, embed_texts, 224), asked)       # functions from elsewhere
    page = does_it_look({"image": Answers(...), "mean_image": Answers(...)}, asked)   # arrays from elsewhere
    for verdict in verdicts(page): print(verdict.sentence)

Every control is in `CONTROLS`; docs/controls.md defines them and says who else uses them. Of all metrics

    beyond = metric on the image - metric under the control,   sample by sample, patients resampled
    share  = (control - chance) / (image - chance),            of what is above chance: the part that needs no look
"""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from lgdea_core.data.corpus import label_table, patients_of
from lgdea_core.evaluation.bootstrap import NO_INTERVAL, Bootstrap, Interval, auc_resamples
from lgdea_core.evaluation.classification import MIN_POSITIVES
from lgdea_core.evaluation.controls import box_priors, location_prior_map
from lgdea_core.evaluation.exam import CONTROLS, Answers, Exam, asked_of
from lgdea_core.evaluation.grounding import score_maps
from lgdea_core.evaluation.harness import (
    DEFAULT_MAPS,
    GROUNDING_METRICS,
    RANKED,
    RECALLED,
    SAMPLES_AT_ONCE,
    boxed_phrases,
)
from lgdea_core.evaluation.retrieval import (
    LEAST_PAIRS,
    chance_precision,
    chance_recall,
    commonest_precision,
    finding_sets,
    nearest,
    precision_at_k,
    recall_at_k,
    retrieval_ranks,
)
from lgdea_core.inference import ImageTextModel, ImageTextProcessor

logger = logging.getLogger("lgdea")

EXPLAINED, ALIKE = 0.5, 0.8
"""Least share of a score that a control must keep to explain it; from `ALIKE` on, whatever the interval of the rest."""
IGNORED = 1e-8
"""Largest share of the answers' variance between images of a model that ignores them."""
PAGE_COLUMNS = (
    "corpus", "task", "metric", "control", "estimate", "low", "high", "chance", "beyond", "beyond_low", "beyond_high",
    "share", "n", "patients", "note",
)  # fmt: skip


def does_it_look(
    subject: tuple[ImageTextModel, ImageTextProcessor] | Mapping[str, Answers],
    exam: Exam,
    *,
    maps: str = DEFAULT_MAPS,
    resamples: int = 1000,
    progress: bool = False,
) -> pd.DataFrame:
    """The page: every metric on the images and under every control, with 95 % intervals over resampled patients.

    zero-shot: macro AUC (`auc`). retrieval: recall and precision of image to report. grounding: `GROUNDING_METRICS`,
    macro over findings with `MIN_POSITIVES` phrases, over all phrases where there are none. `image_share` of a task is
    the share of the variance of its answers (of grounding: of its maps) that lies between images.

    Args:
        subject: a model and its processor (any of ours, a published one, one of `outside`), or the answers under each
            control; of these `cross_patient` needs maps alone, and what is missing has no rows.
        exam: from `exam_of`.
        maps: how patches become maps, one of `grounding.MAP_PROTOCOLS`.
        resamples: bootstrap draws.
        progress: show a bar.

    Returns:
        Columns `PAGE_COLUMNS`; `share` is NaN where the image itself is not above chance: nothing is to be explained.

    Raises:
        ValueError: answers of a control that is none, without those on the images, or not in the exam's order; or the
            model was trained on a patient of the split.
    """
    answers = subject if isinstance(subject, Mapping) else asked_of(*subject, exam, maps=maps, progress=progress)
    _check(answers, exam)
    bootstrap = Bootstrap(resamples=resamples, seed=exam.seed)
    rows = [
        *_zero_shot(answers, exam, bootstrap),
        *_retrieval(answers, exam, bootstrap),
        *_grounding(answers, exam, bootstrap),
    ]
    page = pd.DataFrame(rows, columns=list(PAGE_COLUMNS)).assign(corpus=exam.part.name)
    return page.assign(note=page["note"].mask(page["control"] == "lungs_blanked", exam.blanked).fillna(""))


def _check(answers: Mapping[str, Answers], exam: Exam) -> None:
    """Refuse answers that are not to this exam.

    Raises:
        ValueError: see `does_it_look`.
    """
    if unknown := sorted(set(answers) - set(CONTROLS)):
        raise ValueError(f"answers to {', '.join(unknown)}, which is no control; there are {', '.join(CONTROLS)}")
    if "image" not in answers:
        raise ValueError("no answers on the images themselves (control 'image'), beside which the controls stand")
    expected = {"scores": len(exam.images), "image_rows": len(exam.paired), "report_rows": len(exam.paired)}
    for control, own in answers.items():
        for name, rows in expected.items():
            values = getattr(own, name)
            if values is not None and (values.ndim != 2 or len(values) != rows):
                raise ValueError(f"control {control!r}: expected {name} of {rows} rows, got shape {values.shape}")
        if own.scores is not None and own.scores.shape[1] != len(exam.findings):
            raise ValueError(
                f"control {control!r}: expected scores of {len(exam.findings)} findings, got {own.scores.shape[1]}"
            )


# ---- what it is worth


def _zero_shot(answers: Mapping[str, Answers], exam: Exam, bootstrap: Bootstrap) -> Iterator[dict[str, Any]]:
    base, truth = answers["image"].scores, np.where(exam.truth == -1, np.nan, exam.truth)
    kept = np.flatnonzero(((truth == 1).sum(axis=0) >= MIN_POSITIVES) & (truth == 0).any(axis=0))
    if base is None or not len(kept):
        logger.info("corpus %s: no scores, or no finding with %d positives", exam.part.name, MIN_POSITIVES)
        return
    scores = {control: own.scores for control, own in answers.items() if own.scores is not None}
    if others := exam.others["zero-shot"]:
        scores["cross_patient"] = base[_rows(exam.images, others)]
    if len(kept) > 1:
        scores["finding_swapped"] = base.copy()
        scores["finding_swapped"][:, kept] = base[:, np.roll(kept, len(kept) // 2)]
    truth, first = truth[:, kept], None
    for control in CONTROLS:
        if control in scores:
            own = scores[control][:, kept]
            _, found = bootstrap.columns([auc_resamples] * len(kept), truth, own, exam.patients)
            first = first or found
            beyond = bootstrap.auc_difference(truth, base[None, :, kept], own[None], exam.patients)
            yield _row("zero-shot", "auc", control, found, 0.5, first, beyond)
    yield _share_row("zero-shot", _image_share(base))


def _retrieval(answers: Mapping[str, Answers], exam: Exam, bootstrap: Bootstrap) -> Iterator[dict[str, Any]]:
    base = answers["image"]
    if base.image_rows is None or base.report_rows is None or not exam.paired:
        logger.info("corpus %s: no retrieval", exam.part.name)
        return
    studies = exam.part.images.set_index("image_id").loc[list(exam.paired), "study_id"]
    patients = np.array(patients_of(exam.part, studies), dtype=object)
    labels = label_table(exam.part)
    labelled = studies.isin(labels.index).to_numpy()
    sets = finding_sets(labels.loc[studies[labelled]].to_numpy(dtype=float))
    asked = {control: own for control, own in answers.items() if own.image_rows is not None}
    if others := exam.others["retrieval"]:
        asked["cross_patient"] = base._replace(image_rows=base.image_rows[_rows(exam.paired, others)])

    def recall(own: Answers) -> np.ndarray:
        ranks = retrieval_ranks(own.image_rows, _reports(own, base), exam.reports, exam.reports)
        return recall_at_k(ranks.image_to_text, RECALLED)

    def precision(own: Answers) -> np.ndarray:
        ranking = nearest(own.image_rows[labelled], _reports(own, base)[labelled], RANKED)
        return precision_at_k(ranking, sets, sets, RANKED)

    chance = float(chance_recall(np.ones(1, dtype=np.int64), len(set(exam.reports)), RECALLED)[0])
    values = {control: recall(asked[control]) for control in CONTROLS if control in asked}
    yield from _mean_rows("retrieval", f"recall_at_{RECALLED}", values, chance, patients, bootstrap)
    if len(sets) >= max(LEAST_PAIRS, 2 * RANKED):
        values = {control: precision(asked[control]) for control in CONTROLS if control in asked}
        values["commonest"] = commonest_precision(sets, sets, RANKED)
        chance = float(chance_precision(sets, sets).mean())
        yield from _mean_rows("retrieval", f"precision_at_{RANKED}", values, chance, patients[labelled], bootstrap)
    yield _share_row("retrieval", _image_share(base.image_rows @ base.report_rows.T))


def _grounding(answers: Mapping[str, Answers], exam: Exam, bootstrap: Bootstrap) -> Iterator[dict[str, Any]]:
    maps = {control: answers[control].maps for control in CONTROLS if control in answers and answers[control].maps}
    if "image" not in maps or exam.phrases.empty:
        logger.info("corpus %s: no maps, or no boxes: no grounding", exam.part.name)
        return
    priors, samples = box_priors(exam.part), boxed_phrases(exam.part)
    tables: dict[str, list[pd.DataFrame]] = {control: [] for control in CONTROLS}
    asked, areas, shares = [], [], []
    while block := list(itertools.islice(samples, SAMPLES_AT_ONCE)):
        masks, names = [one.mask for one in block], [one.study_id for one in block]
        found = {control: [own(one.image_id, one.phrase) for one in block] for control, own in maps.items()}
        if priors is not None:
            pairs = zip(block, found["image"], strict=True)
            found["location_prior"] = [location_prior_map(priors, one.study_id, one.finding, own) for one, own in pairs]
        for control, own in found.items():
            tables[control].append(score_maps(own, masks, GROUNDING_METRICS, names))
        areas += [mask[~np.isnan(own)].mean() for mask, own in zip(masks, found["image"], strict=True)]
        if "cross_patient" in found:
            pairs = zip(found["image"], found["cross_patient"], strict=True)
            shares += [_image_share(np.stack(pair)[:, ~np.isnan(sum(pair))]) for pair in pairs]
        asked += [(one.study_id, one.finding) for one in block]
    studies, findings = (pd.Series(part) for part in zip(*asked, strict=True))
    common = findings.map(findings.value_counts()).ge(MIN_POSITIVES).to_numpy()
    groups = findings[common].to_numpy() if common.any() else None
    common = common if common.any() else np.ones(len(findings), dtype=bool)
    patients = np.array(patients_of(exam.part, studies), dtype=object)[common]
    scores = {control: pd.concat(own)[common] for control, own in tables.items() if own}
    for metric in GROUNDING_METRICS:
        values = {control: own[metric].to_numpy() for control, own in scores.items()}
        chance = np.array(areas)[common] if metric == "pointing" else np.zeros(common.sum())
        chance = chance.mean() if groups is None else pd.Series(chance).groupby(groups).mean().mean()
        yield from _mean_rows("grounding", metric, values, float(chance), patients, bootstrap, groups)
    if shares:
        yield _share_row("grounding", float(np.mean(shares)))


def _reports(own: Answers, base: Answers) -> np.ndarray:
    return base.report_rows if own.report_rows is None else own.report_rows


def _rows(images: Sequence[str], others: Mapping[str, str]) -> list[int]:
    """Row of each image's stand-in."""
    row = {image: number for number, image in enumerate(images)}
    return [row[others[image]] for image in images]


def _mean_rows(
    task: str,
    metric: str,
    values: Mapping[str, np.ndarray],
    chance: float,
    patients: np.ndarray,
    bootstrap: Bootstrap,
    groups: np.ndarray | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of a metric that is a mean over samples, macro over groups where there are some."""

    def mean(samples: np.ndarray) -> Interval:
        if not np.isfinite(samples).any():
            return NO_INTERVAL
        if groups is None:
            return bootstrap.mean(samples, patients)
        return bootstrap.macro_mean(samples, groups, patients)

    base = mean(values["image"])
    for control, own in values.items():
        yield _row(task, metric, control, mean(own), chance, base, mean(values["image"] - own))


def _row(
    task: str, metric: str, control: str, found: Interval, chance: float, base: Interval, beyond: Interval
) -> dict[str, Any]:
    row = {"task": task, "metric": metric, "control": control, "chance": chance, **asdict(found), "note": found.warning}
    if control != "image":
        row |= {"beyond": beyond.estimate, "beyond_low": beyond.low, "beyond_high": beyond.high}
        if base.low > chance and (CONTROLS[control][1] != "prompt" or control == "finding_swapped"):
            row["share"] = (found.estimate - chance) / (base.estimate - chance)
    return row


def _share_row(task: str, share: float) -> dict[str, Any]:
    return {"task": task, "metric": "image_share", "control": "image", "estimate": share}


def _image_share(answers: Float[np.ndarray, "images answers"]) -> float:
    """Share of the variance of answers that lies between images; 0 where all are the same.

    mean over answers of var over images / var over both
    """
    answers = answers.astype(float)
    between, total = answers.var(axis=0).mean(), answers.var()
    return float(between / total) if between > 0 else 0.0


# ---- what to make of it

TASKS = {
    "zero-shot": ("auc", "zero-shot AUC"),
    "retrieval": (f"recall_at_{RECALLED}", f"recall@{RECALLED}"),
    "grounding": ("cnr_signed", "CNR of grounding"),
}
"""Task -> the metric that verdicts are about, and its name."""


class Cheat(NamedTuple):
    """What a score may be made of in place of a look."""

    controls: tuple[str, ...]
    """any of which explains it"""
    tasks: tuple[str, ...]
    words: str
    otherwise: str


CHEATS = {
    "places": Cheat(
        ("cross_patient", "mean_image"), ("grounding",), "Knows places alone", "Places alone do not explain its maps"
    ),
    "exposure": Cheat(("exposure",), tuple(TASKS), "Sees exposure alone", "Exposure does not explain its scores"),
    "texture": Cheat(
        ("spectrum_noise",), tuple(TASKS), "Sees texture without anatomy", "Texture does not explain its scores"
    ),
    "parts": Cheat(
        ("patches_shuffled",),
        tuple(TASKS),
        "Sees parts and not where they lie",
        "Parts in another order do not explain its scores",
    ),
    "outside the lungs": Cheat(
        ("lungs_blanked",), tuple(TASKS), "Needs no lungs", "What lies outside the lungs does not explain its scores"
    ),
    "any finding": Cheat(
        ("finding_swapped",),
        ("zero-shot", "grounding"),
        "Does not tell findings apart",
        "Another finding's prompts do not explain its scores",
    ),
}
"""Name -> what the page looks for, in this order: but for the last, each speaks of what those before leave open."""


def compared(page: pd.DataFrame) -> pd.DataFrame:
    """The rows of `TASKS` that have a value, as `figures.figure_looks` draws them.

    Returns:
        Columns metric and shown (names that a reader knows), kind (see `CONTROLS`), estimate, low, high, chance.
    """
    names = dict(TASKS.values())
    rows = page[page["metric"].isin(names)].dropna(subset=["estimate"]).replace({"metric": names})
    told = [CONTROLS[control] for control in rows["control"]]
    rows = rows.assign(shown=[name for name, _ in told], kind=[kind for _, kind in told])
    return rows[["metric", "shown", "kind", "estimate", "low", "high", "chance"]].reset_index(drop=True)


class Verdict(NamedTuple):
    """One sentence about a model."""

    name: str
    found: bool
    """of a task: it is above the cross-patient control; of a cheat: the page names it"""
    sentence: str


def verdicts(page: pd.DataFrame) -> list[Verdict]:
    """What a page says: a sentence for each task, then one for each cheat, whether it was found or not.

    A control *explains* a score where both lie above chance by their intervals, the control keeps `EXPLAINED` of what
    is above chance, and either the rest cannot be told from 0 or it keeps `ALIKE`. Denials are not understood where the
    AUC of negated prompts lies above 0.5. "Not found" is no proof: a score at chance names nothing, nor does a wide
    interval.
    """
    rows = {(row["task"], row["metric"], row["control"]): row for row in page.to_dict("records")}
    there = [task for task, (metric, _) in TASKS.items() if (task, metric, "image") in rows]
    said = [_task_verdict(task, rows) for task in there]
    shares = {
        task: rows[task, "image_share", "image"]["estimate"] for task in there if (task, "image_share", "image") in rows
    }
    ignored = max(shares.values(), default=1.0) <= IGNORED
    words = (
        "Ignores the image: its answers are the same whatever it is shown"
        if ignored
        else "Its answers change with the image"
    )
    if shares:
        told = ", ".join(f"{task} {share:.2g}" for task, share in shares.items())
        sentence = f"{words} (share of its answers' variance between images: {told})."
        said.append(Verdict("ignores the image", ignored, sentence))
    left = set(there)
    for name, cheat in CHEATS.items():
        if not any((task, TASKS[task][0], control) in rows for task in cheat.tasks for control in cheat.controls):
            continue
        asked = there if name == "any finding" else [task for task in there if task in left]
        found = [_explained(rows, task, cheat.controls) for task in asked if task in cheat.tasks]
        found = [row for row in found if row is not None]
        left -= {row["task"] for row in found}
        kept = [
            f"{CONTROLS[row['control']][0]}: {TASKS[row['task']][1]} {row['estimate']:.2f} "
            f"of {row['estimate'] + row['beyond']:.2f}, {row['share']:.0%} of what is above chance"
            for row in found
        ]
        notes = {row["note"] for row in found if row["control"] == "lungs_blanked"}
        sentence = f"{cheat.words} ({'; '.join([*kept, *notes])})." if found else f"{cheat.otherwise}."
        said.append(Verdict(name, bool(found), sentence))
    return said + _of_words(rows)


def _task_verdict(task: str, rows: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> Verdict:
    metric, name = TASKS[task]
    image, other = rows[task, metric, "image"], rows.get((task, metric, "cross_patient"))
    parts = [f"{name} {_interval(image, '')}, chance {image['chance']:.2f}"]
    if other is not None:
        parts.append(f"{_interval(other, 'beyond')} beyond another patient's image")
    own = [row for (of, what, control), row in rows.items() if (of, what) == (task, metric) and _is_own(control)]
    if not image["low"] > image["chance"]:
        parts.append("not above chance, so there is nothing to explain")
    elif own:
        largest = max(own, key=lambda row: row["share"])
        share = f"{max(0.0, largest['share']):.0%}"
        parts.append(f"{share} of what is above chance needs no look ({CONTROLS[largest['control']][0]})")
    return Verdict(task, other is not None and other["beyond_low"] > 0, "; ".join(parts) + ".")


def _of_words(rows: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> list[Verdict]:
    """Whether zero-shot classification understands a denial, and depends on the wording."""
    said = []
    if denied := rows.get(("zero-shot", "auc", "negated")):
        found = bool(denied["low"] > denied["chance"])
        words = (
            "Reads a denied finding as if it were there"
            if found
            else "A denied finding is not read as if it were there"
        )
        said.append(Verdict("negation", found, f"{words} (AUC of negated prompts {_interval(denied, '')})."))
    if reworded := rows.get(("zero-shot", "auc", "reworded")):
        found = bool(reworded["beyond_low"] > 0)
        words = "Depends on the wording" if found else "It does not depend on the wording"
        told = f"zero-shot AUC {_interval(reworded, '')} with prompts reworded"
        said.append(Verdict("wording", found, f"{words} ({told})."))
    return said


def _explained(
    rows: Mapping[tuple[str, str, str], Mapping[str, Any]], task: str, controls: Sequence[str]
) -> Mapping[str, Any] | None:
    """The row of the first of some controls that explains a task's score, see `verdicts`."""
    for row in filter(None, (rows.get((task, TASKS[task][0], control)) for control in controls)):
        above = row["low"] > row["chance"] and row["share"] >= EXPLAINED
        if above and (row["share"] >= ALIKE or row["beyond_low"] <= 0):
            return row
    return None


def _is_own(control: str) -> bool:
    """Whether a control is the model's own answer to what shows nothing of the image."""
    return CONTROLS[control][1] == "blind" and control not in ("location_prior", "commonest")


def _interval(row: Mapping[str, Any], of: str) -> str:
    middle, low, high = (row[name] for name in ((of, f"{of}_low", f"{of}_high") if of else ("estimate", "low", "high")))
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"
