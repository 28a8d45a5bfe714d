"""What grounding owes to where findings usually lie: controls whose maps do not see the image they are judged on.

Findings have their places, and a map that knows them scores well on any image. Two controls of a metric, over the same
samples, masks and seen pixels, say how much of it that is:

    location-prior control (`_blind`):  the mean box mask of the sample's finding over images of other patients
    cross-patient control (`_swapped`): the model's own map of the phrase on an image of another patient

The first uses true boxes, which no method here trains on: a strong reference, neither chance nor a bound. The second is
what the model's own prior of a phrase's place gets. A map that does not depend on the image scores the same there (on
images of one shape), so only the difference to the plain metric is what the model saw. It is what it saw at least:
images with boxes stand in for each other, and some show the same finding at the same place.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from lgdea_core.crops import boxes_mask, boxes_to_frame
from lgdea_core.data.corpus import Corpus, patients_of
from lgdea_core.data.pairing import stable_hash

GRID = 128
"""Side of the square grid over the whole image that box masks are averaged on."""

Grid = Float[np.ndarray, "rows cols"]


class BoxPriors(NamedTuple):
    """Mean box masks of both halves of the patients."""

    halves: dict[str, int]
    """study -> half of its patient, 0 or 1"""
    means: dict[tuple[int, str | None], Grid]
    """(half, finding) -> share of the images with boxes of the finding that are covered there; None: any finding"""


def box_priors(part: Corpus) -> BoxPriors | None:
    """Where the boxes of every finding lie, for each half of the patients with boxes.

        mean[half, finding] = 1/n sum over the half's images with boxes of the finding of (union of these boxes)
        mean[half, None]    = the same over all pairs of image and finding

    A hash of the patient orders the patients and is cut in the middle, so halves do not depend on a seed. None where
    boxes are of one patient only.
    """
    studies = part.boxes["study_id"].drop_duplicates()
    owners = dict(zip(studies, patients_of(part, studies), strict=True))
    patients = sorted(set(owners.values()), key=lambda patient: stable_hash(0, str(patient)))
    if len(patients) < 2:
        return None
    first = set(patients[: len(patients) // 2])
    halves = {study: int(patient not in first) for study, patient in owners.items()}
    sums, counts = defaultdict(lambda: np.zeros((GRID, GRID), dtype=np.float32)), Counter()
    for (_, finding), boxes in part.boxes.groupby(["image_id", "finding"], sort=False, observed=True):
        mask = boxes_mask(boxes_to_frame(boxes, GRID, GRID), GRID, GRID)
        half = halves[boxes["study_id"].iloc[0]]
        for key in ((half, finding), (half, None)):
            sums[key] += mask
            counts[key] += 1
    return BoxPriors(halves, {key: total / counts[key] for key, total in sums.items()})


def location_prior_map(
    priors: BoxPriors, study_id: str, finding: str, similarity_map: Float[np.ndarray, "height width"]
) -> Float[np.ndarray, "height width"]:
    """Mean box mask of a finding over the half of the patients that the study's is not in, laid over the whole image.

    That of any finding where the other half has no box of this one. Thresholds of mIoU then meet shares of images in
    place of cosines: a scattered finding may reach none. Where few images are averaged the maximum is a plateau, and
    `pointing` counts a hit if any of it is annotated.

    Args:
        priors: from `box_priors`.
        study_id: with boxes.
        finding: any.
        similarity_map: the model's map, whose size and unseen pixels (NaN) the result shares, and nothing else.
    """
    other = 1 - priors.halves[study_id]
    grid = priors.means.get((other, finding), priors.means[other, None])
    height, width = similarity_map.shape
    laid = np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR))
    return np.where(np.isnan(similarity_map), np.float32(np.nan), laid)


def other_images(part: Corpus, seed: int) -> dict[str, str]:
    """For every image with boxes another one of another patient, see `strangers`."""
    boxes = part.boxes.drop_duplicates("image_id")
    return strangers(dict(zip(boxes["image_id"], patients_of(part, boxes["study_id"]), strict=True)), seed)


def strangers(owners: Mapping[str, str], seed: int) -> dict[str, str]:
    """For every image another one of another patient; a permutation, fixed by the seed.

        image i -> image (i + m) mod n,   patients in the order of a hash, m the images of the patient with most

    A patient's images stand together, so `m` places on there is none of them while `2 m <= n`. Empty where one patient
    has more than half of the images: then no permutation will do.

    Args:
        owners: image -> patient.
        seed: of the hash.
    """
    shift = max(Counter(owners.values()).values(), default=0)
    if 2 * shift > len(owners):
        return {}
    order = sorted(owners, key=lambda image: (stable_hash(seed, str(owners[image])), stable_hash(seed, image)))
    return dict(zip(order, order[shift:] + order[:shift], strict=True))
