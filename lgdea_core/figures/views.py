"""What figures and explorers look at: films with their phrases, regions and maps, in original pixels."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt8

from lgdea_core.crops import boxes_mask, boxes_to_frame
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.images import read_image
from lgdea_core.data.phantom import PhantomConfig, generate_study
from lgdea_core.data.phantom.files import CONFIG_FILE
from lgdea_core.evidence.sections import sentence_spans
from lgdea_core.evidence.triplets import sentence_regions, triplets
from lgdea_core.figures.style import Image
from lgdea_core.grounding import gradcam, ground
from lgdea_core.inference import IMAGES_AT_ONCE, evaluating, full_precision
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.runs.inputs import Inputs
from lgdea_core.vocabulary import REGIONS

OVERLAYS = ("model", "baseline", "prototypes", "Grad-CAM")
"""Maps of a phrase: cosine in the joint space of the run's method and of `clip`; of the method, the Bhattacharyya
coefficient of assignments, and Grad-CAM."""
LARGEST_OWN_VOCABULARY = 5000
"""Tokens of a tokenizer that was trained on a run's reports; published ones have more."""
SHOWN_SIZE = 224
"""Pixels a side of a phantom's film as it is shown; 64 are for training."""


def phrase_map(
    models: Mapping[str, tuple[LGDEAModel, LGDEAProcessor]], film: Image, phrase: str, overlay: str
) -> Image:
    """One of `OVERLAYS` in the film's pixels; `models` needs "model", and "baseline" for the overlay of that name."""
    if overlay == "Grad-CAM":
        return gradcam(*models["model"], film, phrase)
    if overlay == "prototypes":
        return ground(*models["model"], film, phrase, space="prototypes")
    return ground(*models[overlay], film, phrase)


def unread_words(processor: LGDEAProcessor, phrase: str) -> list[str]:
    """Words of a phrase that the text tower has never read.

    A tokenizer trained on a run's reports has a token for each of their words, but for rare ones of a large corpus:
    what it cuts into pieces is new to it. Of a published tokenizer only unknown characters can be told.
    """
    tokenizer = processor.tokenizer
    own = len(tokenizer) <= LARGEST_OWN_VOCABULARY
    pieces = {word: tokenizer.tokenize(word) for word in re.findall(r"\w+", phrase)}
    return [word for word, part in pieces.items() if tokenizer.unk_token in part or (own and len(part) > 1)]


class LesionViews(NamedTuple):
    """What the lesion queries answer, and where each looked."""

    tokens: Float[np.ndarray, "images lesions dim"]
    attention: Float[np.ndarray, "images lesions grid grid"]


@torch.no_grad()
def lesion_views(model: LGDEAModel, crops: UInt8[torch.Tensor, "images height width"]) -> LesionViews:
    """Lesion tokens (eq. 3) of some crops with their attention over the patches, which sums to 1 per token."""
    device, parts = next(model.parameters()).device, []
    with full_precision(model), evaluating(model):
        for block in crops.split(IMAGES_AT_ONCE):
            images = model.encode_crops(block.to(device))
            parts.append([part.float().cpu() for part in model.lesion_queries(images.patch_features)])
    tokens, attention = (torch.cat(part) for part in zip(*parts, strict=True))
    side = math.isqrt(attention.shape[2])
    return LesionViews(tokens.numpy(), attention.unflatten(2, (side, side)).numpy())


class GroundingSample(NamedTuple):
    """A film, a phrase that is true of it, and where."""

    study_id: str
    phrase: str
    film: Image
    boxes_xywh: list[tuple[float, ...]]
    """in pixels of `film`"""
    large: Image | None = None

    @property
    def shown(self) -> Image:
        """The same film to be looked at: of a phantom, with more pixels than the model sees."""
        return self.film if self.large is None else self.large

    @property
    def mask(self) -> Bool[np.ndarray, "height width"]:
        """The boxes as one mask of the film."""
        corners = np.array([(x, y, x + width, y + height) for x, y, width, height in self.boxes_xywh])
        return boxes_mask(corners, *self.film.shape)


def grounding_samples(inputs: Inputs, study_ids: Iterable[str], limit: int) -> list[GroundingSample]:
    """Phrases with boxes of some studies, as many different findings as there are first; films in original pixels."""
    boxes = inputs.corpus.boxes
    boxes = boxes[boxes["study_id"].isin(set(study_ids))]
    chosen = boxes.drop_duplicates(["image_id", "phrase"])
    turn = chosen.groupby("finding", dropna=False).cumcount()
    chosen = chosen.loc[turn.sort_values(kind="stable").index[:limit]]
    samples, phantom = [], _phantom_config(inputs.corpus)
    for image_id, study_id, phrase in chosen[["image_id", "study_id", "phrase"]].itertuples(index=False):
        film = read_image(inputs.corpus.image_path(image_id))
        own = boxes[(boxes["image_id"] == image_id) & (boxes["phrase"] == phrase)]
        large = None
        if phantom is not None and max(film.shape) < SHOWN_SIZE:
            large = generate_study(phantom, int(study_id.removeprefix("p"))).image / np.float32(255)
        samples.append(GroundingSample(study_id, phrase, film, _boxes_xywh(own, film), large))
    return samples


def _phantom_config(corpus: Corpus) -> PhantomConfig | None:
    """What a phantom was made from, with larger films; None of any other corpus."""
    path = corpus.root / CONFIG_FILE
    if corpus.name != "phantom" or not path.is_file():
        return None
    known = json.loads(path.read_text())["config"]
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    return PhantomConfig(**known | {"image_size": SHOWN_SIZE})


class RegionView(NamedTuple):
    """A film with its regions, and its report's sentences with the regions they name."""

    film: Image
    boxes_xywh: dict[str, tuple[float, ...]]
    sentences: list[tuple[str, list[str]]]


def region_view(corpus: Corpus, evidence: pd.DataFrame, study_id: str) -> RegionView:
    """What ASG aligns in one study, in pixels of its first film."""
    image_id = corpus.images.loc[corpus.images["study_id"] == study_id, "image_id"].iloc[0]
    film, regions = read_image(corpus.image_path(image_id)), corpus.regions
    regions = regions[regions["image_id"] == image_id]
    boxes = dict(zip(regions["region"], _boxes_xywh(regions, film), strict=True))
    report = corpus.studies.set_index("study_id").loc[study_id, "report"]
    [links] = sentence_regions(triplets(evidence[evidence["report_id"] == study_id]), {study_id: report})
    sentences: list[tuple[str, list[str]]] = [(report[start:end], []) for start, end in sentence_spans(report)]
    for sentence, region in links.tolist():
        sentences[sentence][1].append(REGIONS[region])
    return RegionView(film, boxes, sentences)


def _boxes_xywh(rows: pd.DataFrame, film: Image) -> list[tuple[float, ...]]:
    """Rows with boxes of annotated frames, in the film's own pixels."""
    return [
        (left, top, right - left, bottom - top)
        for left, top, right, bottom in boxes_to_frame(rows, *film.shape).tolist()
    ]
