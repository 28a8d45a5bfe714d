"""Results broken down: by finding, size, side and stratum; left/right swaps; negations; AUC by size of the lesion.

Sides are the patient's: left is the right half of a frontal image. Every interval resamples patients.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from lgdea_core.crops import boxes_mask, boxes_to_frame, crop_frame, crop_to_original
from lgdea_core.data.corpus import Corpus, label_table, patients_of
from lgdea_core.evaluation.bootstrap import Bootstrap, Keys, Values
from lgdea_core.evaluation.classification import classification_table
from lgdea_core.evaluation.grounding import grounding_table
from lgdea_core.evaluation.one_pass import phrase_grids, run_task
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.runs.inputs import Inputs

SIZES = {"small": (0.0, 0.03), "medium": (0.03, 0.1), "large": (0.1, 1.0)}
"""Share of the image that a phrase's (or finding's) boxes cover together, above the first and up to the second number:
about the thirds of the phantom's phrases. A nodule is small, a pneumothorax large."""
BY = ("finding", "size", "side", "stratum")
"""Columns of `phrase_table` that results are broken down by."""
_GRID = 256
"""Boxes are laid onto a square grid of this side to measure the share they cover."""


def phrase_table(part: Corpus) -> pd.DataFrame:
    """What is known of every distinct (image, phrase) with boxes, in the order of `harness.phrase_samples`.

    Returns:
        Columns image_id, study_id, patient_id, finding, phrase, share, size, side and stratum. `share` is that of the
        image inside the boxes, `size` its class in `SIZES`; `side` is `side_of` the boxes; `stratum` is the studies'
        column of that name, None where they have none.
    """
    strata = part.studies.set_index("study_id").get("stratum", pd.Series(dtype=object))
    rows = []
    for image_id, boxes in part.boxes.groupby("image_id", sort=False):
        for phrase in boxes["phrase"].drop_duplicates():
            own = boxes[boxes["phrase"] == phrase]
            study_id, share = own["study_id"].iloc[0], _share(own)
            known = (image_id, study_id, own["finding"].iloc[0], phrase, share, size_of(share), side_of(own))
            rows.append((*known, strata.get(study_id)))
    columns = ["image_id", "study_id", "finding", "phrase", "share", "size", "side", "stratum"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(2, "patient_id", patients_of(part, table["study_id"]))
    return table


def size_of(share: float) -> str:
    """The class of `SIZES` a share of the image lies in.

    Raises:
        ValueError: the share is not above 0 and at most 1.
    """
    for size, (low, high) in SIZES.items():
        if low < share <= high:
            return size
    raise ValueError(f"size_of: a share of the image lies above 0 and at most at 1, got {share}")


def side_of(boxes: pd.DataFrame) -> Literal["left", "right", "bilateral", "midline"]:
    """Side of the patient that boxes of one phrase lie on.

    A box with more than two thirds of its width on one side of the image's middle lies there, else on the midline.
    Boxes on both sides are bilateral; one side and the midline count as that side.
    """
    middle, width = boxes["frame_width"] / 2, boxes["x_max"] - boxes["x_min"]
    beyond = ((boxes["x_max"] - middle) / width).clip(0, 1)
    left, right = bool((beyond > 2 / 3).any()), bool((beyond < 1 / 3).any())
    if left and right:
        return "bilateral"
    return "left" if left else "right" if right else "midline"


def grounding_breakdown(
    scores: pd.DataFrame, samples: pd.DataFrame, bootstrap: Bootstrap, by: Sequence[str] = BY
) -> pd.DataFrame:
    """Mean of every metric within every value of every column, with intervals over resampled patients.

    Args:
        scores: from `grounding.score_maps`, one row per sample.
        samples: from `phrase_table`, in the same order; a missing value of a column leaves the sample out of it.
        bootstrap: draws the intervals.
        by: columns of `samples`.

    Returns:
        Columns by, value, metric, estimate, low, high, n, patients, excluded, degenerate, warning.

    Raises:
        ValueError: as many scores as samples are expected.
    """
    if len(scores) != len(samples):
        raise ValueError(f"grounding_breakdown: expected a score for each of {len(samples)} samples, got {len(scores)}")
    tables = []
    for column in by:
        known = samples[column].notna().to_numpy()
        if known.any():
            values, patients = samples.loc[known, column], samples.loc[known, "patient_id"]
            table = grounding_table(scores[known], values.tolist(), patients.tolist(), bootstrap)
            tables.append(table[table["category"] != "macro"].rename(columns={"category": "value"}).assign(by=column))
    columns = ["by", "value", "metric", "estimate", "low", "high", "n", "patients", "excluded", "degenerate", "warning"]
    return pd.concat(tables, ignore_index=True)[columns]


def probe_maps(
    model: LGDEAModel, processor: LGDEAProcessor, inputs: Inputs, probes: pd.DataFrame
) -> Iterator[Float[np.ndarray, "_ _"]]:
    """Similarity map of every probe in original pixels, in the order of the rows.

    Args:
        model: any trained model.
        processor: its processor.
        inputs: whose corpus holds the images.
        probes: columns image_id and phrase, as of `load_probes`.
    """
    asked = probes.groupby("image_id", sort=False)["phrase"].agg(lambda phrases: list(dict.fromkeys(phrases))).to_dict()
    grids = run_task(model, inputs.crops, phrase_grids(model, processor, asked))
    sizes = inputs.corpus.images.set_index("image_id")[["height", "width"]]
    for image_id, phrase in zip(probes["image_id"], probes["phrase"], strict=True):
        frame = crop_frame(*(int(side) for side in sizes.loc[image_id]), processor.image_size)
        yield crop_to_original(grids[image_id][phrase], frame)


def describe_maps(maps: Iterable[Float[np.ndarray, "_ _"]]) -> pd.DataFrame:
    """Height of each map's peak, the side it lies on, and the side that is higher on average.

    Returns:
        Columns peak, peak_side, mass_side; a side is "left", "right", or None where both are equal.
    """
    rows = []
    for similarity_map in maps:
        half = similarity_map.shape[1] // 2
        right, left = similarity_map[:, :half], similarity_map[:, -half:]
        peaks, means = (np.nanmax(left), np.nanmax(right)), (np.nanmean(left), np.nanmean(right))
        rows.append((float(np.nanmax(similarity_map)), _higher(*peaks), _higher(*means)))
    return pd.DataFrame(rows, columns=["peak", "peak_side", "mass_side"])


def swap_table(probes: pd.DataFrame, maps: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """Whether maps follow left and right, over pairs of images that differ only in the side of one lesion.

    peak, mass: share of pairs in both of whose images the peak (the higher mean) of the stated phrase's map lies on the
    side it names; 0.25 by chance, and 0 for maps that look the same on both images. stated over wrong: share of images
    in which the stated phrase's peak exceeds that of the phrase with the other side; 0.5 by chance, ties count half.

    Args:
        probes: of the hard set, any strata.
        maps: from `describe_maps`, one row per probe.
        bootstrap: draws the intervals.

    Returns:
        Columns measure, estimate, low, high, n, patients, chance.
    """
    images = _joined(probes, maps, "side swap").set_index("study_id")
    stated, wrong = images[images["kind"] == "stated"], images[images["kind"] == "wrong side"]
    pairs = stated["pair_id"]
    rows = []
    for measure in ("peak", "mass"):
        right = (stated[f"{measure}_side"] == stated["side"]).groupby(pairs).all()
        rows.append(_mean_row(measure, bootstrap, right.astype(float), right.index.tolist()) | {"chance": 0.25})
    higher = _wins(stated["peak"], wrong.loc[stated.index, "peak"])
    rows.append(_mean_row("stated over wrong", bootstrap, higher, pairs) | {"chance": 0.5})
    return pd.DataFrame(rows)


def negation_table(probes: pd.DataFrame, maps: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """Whether an image answers less to what is denied than to what is stated of it.

    For denials of what is not there (`denied`) and of what is (`contradicted`): `difference`, peak of the stated phrase
    less the mean peak of the image's negated ones, in units of the cosine; `stated higher`, share of negated phrases
    whose peak is lower than the stated one's (averaged per image; ties count half; 0.5 where negation is not heard).

    Args:
        probes: of the hard set, any strata.
        maps: from `describe_maps`, one row per probe.
        bootstrap: draws the intervals.

    Returns:
        Columns kind, measure, estimate, low, high, n, patients, chance; `n` counts images.
    """
    images = _joined(probes, maps, "negated").drop_duplicates(["study_id", "kind", "phrase"])
    stated = images[images["kind"] == "stated"].groupby("study_id")["peak"].max()
    rows = []
    for kind in ("denied", "contradicted"):
        negated = images[images["kind"] == kind]
        own = negated["study_id"].map(stated)
        difference = (own - negated["peak"]).groupby(negated["study_id"]).mean()
        higher = _wins(own, negated["peak"]).groupby(negated["study_id"]).mean()
        for measure, values, chance in (("difference", difference, 0.0), ("stated higher", higher, 0.5)):
            row = _mean_row(measure, bootstrap, values, values.index.tolist())
            rows.append({"kind": kind} | row | {"chance": chance})
    return pd.DataFrame(rows)


def auc_by_size(
    scores: Float[np.ndarray, "studies findings"],
    part: Corpus,
    study_ids: Sequence[str],
    findings: Sequence[str],
    bootstrap: Bootstrap,
) -> pd.DataFrame:
    """AUC of every finding for lesions of each size, against all studies without the finding.

    A positive study counts in the one class of `SIZES` that its boxes of the finding, taken together, fall into;
    positives of other sizes, and those without boxes, take no part there.

    Args:
        scores: larger means more likely present; one row a study.
        part: labels and boxes.
        study_ids: of the rows.
        findings: of the columns.
        bootstrap: draws the intervals.

    Returns:
        Columns of `classification_table`, metric "auc", and size; an AUC needs `classification.MIN_POSITIVES`.

    Raises:
        ValueError: the corpus has no boxes.
    """
    if part.boxes.empty:
        raise ValueError(f"auc_by_size: corpus {part.name!r} has no boxes, so no lesion has a size")
    truth = label_table(part).loc[list(study_ids), list(findings)]
    shares = part.boxes.groupby(["study_id", "finding"]).apply(_share).unstack()
    shares = shares.reindex(index=truth.index, columns=truth.columns)
    patients = patients_of(part, pd.Series(list(study_ids)))
    tables = []
    for size, (low, high) in SIZES.items():
        labels = truth.where((truth != 1) | ((shares > low) & (shares <= high)))
        table = classification_table(scores, labels.to_numpy(dtype=float), list(findings), patients, bootstrap)
        tables.append(table.assign(size=size))
    return pd.concat(tables, ignore_index=True)


def _share(boxes: pd.DataFrame) -> float:
    return float(boxes_mask(boxes_to_frame(boxes, _GRID, _GRID), _GRID, _GRID).mean())


def _higher(left: float | np.floating, right: float | np.floating) -> str | None:
    return None if left == right else "left" if left > right else "right"


def _joined(probes: pd.DataFrame, maps: pd.DataFrame, stratum: str) -> pd.DataFrame:
    if len(probes) != len(maps):
        raise ValueError(f"breakdown: expected a map for each of {len(probes)} probes, got {len(maps)}")
    joined = pd.concat([probes.reset_index(drop=True), maps.reset_index(drop=True)], axis=1)
    chosen = joined[joined["stratum"] == stratum]
    if chosen.empty:
        raise ValueError(f"breakdown: no probe is of stratum {stratum!r}; give those of a hard set")
    return chosen


def _wins(first: pd.Series, second: pd.Series) -> pd.Series:
    return (first > second) + 0.5 * (first == second)


def _mean_row(measure: str, bootstrap: Bootstrap, values: Values, patients: Keys) -> dict[str, object]:
    row = {"measure": measure, **asdict(bootstrap.mean(values, patients))}
    del row["degenerate"]
    return row
