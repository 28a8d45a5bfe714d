"""The exam of "does it look?": what is asked of a model, the pictures and words of every control, and its answers."""

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from lgdea_core.crops import boxes_mask, boxes_to_crop, boxes_to_frame, crop_frame, crop_to_original
from lgdea_core.data.corpus import Corpus, patients_of
from lgdea_core.data.pairing import stable_hash
from lgdea_core.evaluation.controls import strangers
from lgdea_core.evaluation.harness import DEFAULT_MAPS, asked_findings, evaluation_part, labelled_images
from lgdea_core.evaluation.one_pass import Task, phrase_grids, run_task, score_rows, together
from lgdea_core.evaluation.prompts import DEFAULT_PROMPTS, FindingSentences, PromptSet, load_prompt_set
from lgdea_core.evaluation.retrieval import LEAST_PAIRS, paired_studies
from lgdea_core.evaluation.zero_shot import channel_scores, combine_channels
from lgdea_core.grounding import MAP_PROTOCOLS
from lgdea_core.inference import IMAGES_AT_ONCE, ImageTextModel, ImageTextProcessor
from lgdea_core.runs.inputs import Inputs
from lgdea_core.runs.leaks import refuse_training_patients

logger = logging.getLogger("lgdea")

Kind = Literal["image", "blind", "other", "prompt"]
CONTROLS: dict[str, tuple[str, Kind]] = {
    "image": ("the image itself", "image"),
    "cross_patient": ("another patient's image", "blind"),
    "mean_image": ("mean image", "blind"),
    "exposure": ("mean grey level alone", "blind"),
    "spectrum_noise": ("noise of the same spectrum", "blind"),
    "patches_shuffled": ("patches shuffled", "other"),
    "lungs_blanked": ("lungs blanked", "other"),
    "location_prior": ("mean boxes, no image", "blind"),
    "commonest": ("commonest findings, no image", "blind"),
    "reworded": ("prompts reworded", "prompt"),
    "negated": ("prompts negated", "prompt"),
    "finding_swapped": ("another finding's prompts", "prompt"),
}
"""name -> what is shown or asked, and whether nothing of the image's content is left (blind), some is (other), or the
words are changed (prompt)"""
ALTERED = ("mean_image", "exposure", "spectrum_noise", "patches_shuffled", "lungs_blanked")
"""Controls that show an image of their own."""
TILES = 8
"""Tiles along each side of an image whose patches are shuffled."""
LUNG_BOX = (0.05, 0.10, 0.95, 0.85)
"""Left, top, right and bottom, as shares of the crop, of what is blanked where a corpus has no regions of the lungs."""
FRAMES = ("there is {}", "findings of {}", "{} is seen")
DENIALS = ("without {}", "{} is not seen")
NEGATIONS = ("no {}", "no evidence of {}", "there is no {}")
"""What a set without negative prompts is negated by."""
GRAIN = 8
"""Grey levels of the grain on a picture of one grey: a tower that standardises an image sees the same grain in each."""
DECIMALS, STEADY = 6, 0.01
"""Scores are rounded, and those of a control whose deviation is under this share of the images' own are its mean: what
is left is rounding of float32, and must not rank."""
Map = Float[np.ndarray, "height width"]
Key = tuple[str, str]
"""control and image id, of one picture that is shown"""


class Answers(NamedTuple):
    """What a model says under one control, in the order of the exam; None of what it does not say."""

    scores: Float[np.ndarray, "images findings"] | None = None
    """larger: the finding is more likely there; of `Exam.images` and `Exam.findings`"""
    image_rows: Float[np.ndarray, "pairs k"] | None = None
    """of `Exam.paired`; inner products with `report_rows` rank reports"""
    report_rows: Float[np.ndarray, "pairs k"] | None = None
    """of `Exam.reports`"""
    maps: Callable[[str, str], Map] | None = None
    """image id and phrase, of `Exam.phrases` -> map in pixels of the image, NaN where unseen"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Exam:
    """What is asked, of one split: `film` and `said` are what each control shows and says."""

    part: Corpus
    crops_of: Callable[[Sequence[str]], UInt8[Tensor, "images height width"]]
    prompts: PromptSet
    seed: int
    findings: tuple[str, ...]
    images: tuple[str, ...]
    """of labelled studies"""
    truth: Float[np.ndarray, "images findings"]
    patients: list[str]
    """of `images`"""
    paired: tuple[str, ...]
    """first image of each study with a report"""
    reports: list[str]
    """of `paired`"""

    @cached_property
    def phrases(self) -> pd.DataFrame:
        """Distinct (image_id, phrase) with boxes, and their study_id and finding."""
        return self.part.boxes.drop_duplicates(["image_id", "phrase"])[["image_id", "phrase", "study_id", "finding"]]

    @cached_property
    def others(self) -> dict[str, dict[str, str]]:
        """Task -> image -> image of another patient, among those of the task; empty where patients allow none."""
        patient = dict(
            zip(self.part.images["image_id"], patients_of(self.part, self.part.images["study_id"]), strict=True)
        )
        images = {"zero-shot": self.images, "retrieval": self.paired, "grounding": tuple(self.phrases["image_id"])}
        found = {task: strangers({image: patient[image] for image in own}, self.seed) for task, own in images.items()}
        for task in (task for task, own in images.items() if own and not found[task]):
            logger.info(
                "corpus %s: one patient has most images, so no cross-patient control of %s", self.part.name, task
            )
        return found

    @cached_property
    def lungs(self) -> dict[str, Float[np.ndarray, "boxes 4"]]:
        """Image -> boxes of its lungs by the corpus's regions, as shares of the crop; images without are not there."""
        regions = self.part.regions[self.part.regions["region"].isin(("left lung", "right lung"))]
        sizes, found = self.part.images.set_index("image_id")[["height", "width"]], {}
        for image_id, own in regions.groupby("image_id", sort=False):
            height, width = (int(side) for side in sizes.loc[image_id])
            boxes = boxes_to_crop(boxes_to_frame(own, height, width), crop_frame(height, width, 1))
            boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
            if len(boxes):
                found[image_id] = boxes
        return found

    @property
    def blanked(self) -> str:
        """What `lungs_blanked` covers, in words: it differs from corpus to corpus."""
        images = set(self.part.images["image_id"])
        known = len(images & self.lungs.keys())
        left, top, right, bottom = (f"{100 * share:.0f}" for share in LUNG_BOX)
        box = f"no outline of the lungs: a fixed box ({left} to {right} % across, {top} to {bottom} % down the crop)"
        parts = [f"{known} images: the corpus's boxes of the lungs"] * bool(known)
        return "; ".join([*parts, *[f"{len(images) - known} images: {box}"] * (known < len(images))])

    @cached_property
    def mean_image(self) -> UInt8[np.ndarray, "height width"]:
        """Mean over all images of the split, pixel by pixel."""
        names = self.part.images["image_id"].tolist()
        blocks = (names[start : start + IMAGES_AT_ONCE] for start in range(0, len(names), IMAGES_AT_ONCE))
        total = sum(self.crops_of(block).sum(dim=0, dtype=torch.float64) for block in blocks)
        return np.rint(total.numpy() / len(names)).astype(np.uint8)

    def film(self, control: str, image_id: str) -> UInt8[np.ndarray, "height width"]:
        """What a control shows in place of an image: a crop."""
        if control == "mean_image":
            return self.mean_image
        crop = self.crops_of([image_id])[0].numpy()
        rng = np.random.default_rng(int(stable_hash(self.seed, image_id)[:16], 16))
        if control == "exposure":
            grain = np.random.default_rng(self.seed).integers(-GRAIN, GRAIN, crop.shape, endpoint=True)
            return (grain + np.clip(round(float(crop.mean())), GRAIN, 255 - GRAIN)).astype(np.uint8)
        if control == "spectrum_noise":
            return phase_noise(crop, rng)
        if control == "patches_shuffled":
            return shuffled_tiles(crop, rng)
        if control == "lungs_blanked":
            boxes = self.lungs.get(image_id, np.array([LUNG_BOX]))
            return blanked(crop, boxes_mask(boxes * len(crop), *crop.shape))
        return crop

    def said(self, control: str, image_id: str, phrase: str) -> str | None:
        """What a control asks of an image in place of a phrase; None where the corpus has no phrase to swap it for."""
        if control == "reworded":
            return FRAMES[0].format(phrase)
        if control == "negated":
            return NEGATIONS[0].format(phrase)
        return self._swaps.get(image_id) if control == "finding_swapped" else phrase

    def asked(self, control: str) -> PromptSet:
        """The prompts of a control."""
        if control not in ("reworded", "negated"):
            return self.prompts
        texts = {finding: _changed(self.prompts, finding, control) for finding in self.findings}
        changes = {"name": f"{self.prompts.name}, {control}", "templates": None, "any_finding": False, "names": {}}
        if control == "negated":
            changes["channels"] = dict.fromkeys(self.prompts.channels, "none")
        return PromptSet(**{**dict(self.prompts), **changes, "left_out": {}, "findings": texts})

    @cached_property
    def _swaps(self) -> dict[str, str]:
        """Image -> a phrase of the split of a finding that the image has no box of; by a hash."""
        shown = self.phrases.groupby("image_id", sort=False)["finding"].agg(set)
        pool = sorted({*zip(self.phrases["phrase"], self.phrases["finding"], strict=True)})
        pool = {image: [phrase for phrase, finding in pool if finding not in own] for image, own in shown.items()}
        return {
            image: min(own, key=lambda text: stable_hash(self.seed, image + text)) for image, own in pool.items() if own
        }


def exam_of(
    inputs: Inputs, *, split: str = "test", prompts: str = DEFAULT_PROMPTS, labels: str | None = None, seed: int = 0
) -> Exam:
    """The exam of one split.

    Args:
        inputs: corpus and crops.
        split: which studies.
        prompts: name of the prompt set.
        labels: name of a published label set; all labels where None.
        seed: which image stands in for which, and what noise and shuffling draw.

    Raises:
        ValueError: the split has no image, or what `harness.asked_findings` refuses.
    """
    part, chosen = evaluation_part(inputs.corpus, split), load_prompt_set(prompts)
    findings = tuple(asked_findings(part, labels, chosen))
    images, truth, patients = labelled_images(part, findings) if findings else ((), np.zeros((0, 0)), [])
    paired, reports = paired_studies(part)
    if len(paired) < LEAST_PAIRS:
        paired, reports = paired.iloc[:0], []
    return Exam(
        part=part, crops_of=inputs.crops, prompts=chosen, seed=seed, findings=findings, images=images, truth=truth,
        patients=patients, paired=tuple(paired["image_id"]), reports=reports,
    )  # fmt: skip


def asked_of(
    model: ImageTextModel,
    processor: ImageTextProcessor,
    exam: Exam,
    *,
    maps: str = DEFAULT_MAPS,
    progress: bool = False,
) -> dict[str, Answers]:
    """Answers under every control, from one pass over all pictures; see `does_it_look`."""
    refuse_training_patients(model, exam.part)

    def crops(keys: Sequence[Key]) -> UInt8[Tensor, "images height width"]:
        return torch.from_numpy(np.stack([exam.film(*key) for key in keys]))

    return run_task(model, crops, _questions(model, processor, exam, maps), progress=progress)


def _questions(model: ImageTextModel, processor: ImageTextProcessor, exam: Exam, maps: str) -> Task[dict[str, Answers]]:
    shown = ("image", *ALTERED)
    tasks: dict[str, Task[Any]] = {}
    if exam.findings and exam.images:
        labelled = [_key(control, image) for control in shown for image in exam.images]
        tasks["scores"] = channel_scores(model, processor, labelled, exam.findings, exam.prompts)
        for control in ("reworded", "negated"):
            own = labelled[: len(exam.images)], exam.findings, exam.asked(control)
            tasks[control] = channel_scores(model, processor, *own)
    if exam.paired:
        paired = [_key(control, image) for control in shown for image in exam.paired]
        tasks["rows"] = score_rows(model, paired, *processor.tokens(exam.reports))
    pictures = {
        control: [
            _place(exam, control, *pair) for pair in zip(exam.phrases["image_id"], exam.phrases["phrase"], strict=True)
        ]
        for control in ("cross_patient", *shown, "reworded", "negated", "finding_swapped")
    }
    if any(pictures.values()) and getattr(model, "has_patches", True):
        asked: dict[Key, dict[str, None]] = {}
        for place in filter(None, itertools.chain(*pictures.values())):
            asked.setdefault(place[0], {})[place[1]] = None
        tasks["grids"] = phrase_grids(model, processor, asked, scaled=MAP_PROTOCOLS[maps].scaled)
    found = dict(zip(tasks, (yield from together(tasks.values())), strict=True))
    return {
        control: Answers(
            _scores_of(found, exam, control, shown),
            *_rows_of(found, exam, control, shown),
            _maps_of(found.get("grids"), exam, control, processor.image_size, maps),
        )
        for control in CONTROLS
    }


def _key(control: str, image_id: str) -> Key:
    """The picture that a control shows: one for all images where that is their mean."""
    return (control, "") if control == "mean_image" else (control, image_id)


def _place(exam: Exam, control: str, image_id: str, phrase: str) -> tuple[Key, str] | None:
    """The picture and the words from which a control's map of a phrase is made; None where it has none."""
    said = exam.said(control, image_id, phrase)
    if control == "cross_patient":
        other = exam.others["grounding"].get(image_id)
        return None if other is None else (_key("image", other), said)
    key = _key(control if control in ALTERED else "image", image_id)
    return None if said is None else (key, said)


def _scores_of(found: dict[str, Any], exam: Exam, control: str, shown: Sequence[str]) -> np.ndarray | None:
    channels = found.get(control if control in ("reworded", "negated") else "scores")
    if channels is None or control not in (*shown, "reworded", "negated"):
        return None
    start = len(exam.images) * shown.index(control) if control in shown else 0
    own = {name: rows[start : start + len(exam.images)].round(DECIMALS) for name, rows in channels.items()}
    if control in ALTERED:
        for name, rows in own.items():
            steady = rows.std(axis=0) < STEADY * channels[name][: len(rows)].std(axis=0)
            own[name] = np.where(steady, rows.mean(axis=0), rows)
    return combine_channels(own, exam.prompts)


def _rows_of(
    found: dict[str, Any], exam: Exam, control: str, shown: Sequence[str]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    if "rows" not in found or control not in shown:
        return None, None
    images, reports = found["rows"]
    start = len(exam.paired) * shown.index(control)
    return images[start : start + len(exam.paired)], reports


def _maps_of(
    grids: dict[Key, dict[str, np.ndarray]] | None, exam: Exam, control: str, size: int, maps: str
) -> Callable[[str, str], Map] | None:
    pairs = zip(exam.phrases["image_id"], exam.phrases["phrase"], strict=True)
    if grids is None or control in ("location_prior", "commonest") or not all(_place(exam, control, *p) for p in pairs):
        return None
    sizes = exam.part.images.set_index("image_id")[["height", "width"]]

    def laid(image_id: str, phrase: str) -> Map:
        key, said = _place(exam, control, image_id, phrase)
        frame = crop_frame(*map(int, sizes.loc[image_id]), size)
        return crop_to_original(grids[key][said], frame, MAP_PROTOCOLS[maps].interpolation)

    return laid


def phase_noise(crop: UInt8[np.ndarray, "height width"], rng: np.random.Generator) -> UInt8[np.ndarray, "height width"]:
    """Noise with the crop's own amplitude spectrum, hence its mean and contrast, and random phases.

    Grey levels beyond black and white are cut, which changes the spectrum a little.
    """
    amplitudes = np.abs(np.fft.rfft2(crop.astype(float)))
    phases = np.angle(np.fft.rfft2(rng.normal(size=crop.shape)))
    phases[0, 0] = 0.0
    noise = np.fft.irfft2(amplitudes * np.exp(1j * phases), s=crop.shape)
    return np.rint(noise.clip(0, 255)).astype(np.uint8)


def shuffled_tiles(
    crop: UInt8[np.ndarray, "height width"], rng: np.random.Generator
) -> UInt8[np.ndarray, "height width"]:
    """The crop with its `TILES` x `TILES` tiles in random order; what does not fill a tile, at the far edges, stays."""
    side = max(1, min(crop.shape) // TILES)
    rows, columns = (length // side for length in crop.shape)
    result, whole = crop.copy(), (slice(0, rows * side), slice(0, columns * side))
    tiles = crop[whole].reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
    tiles = tiles[rng.permutation(len(tiles))].reshape(rows, columns, side, side).swapaxes(1, 2)
    result[whole] = tiles.reshape(rows * side, columns * side)
    return result


def blanked(
    crop: UInt8[np.ndarray, "height width"], mask: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width"]:
    """The crop with the mean grey of the rest where the mask is True; of what is masked nothing is left."""
    outside = crop[~mask]
    return np.where(mask, np.uint8(round(float(outside.mean())) if outside.size else 128), crop)


def _changed(prompts: PromptSet, finding: str, control: str) -> FindingSentences:
    """Prompts of a finding in other words, at most as many as the set has; or its denials in their place."""
    own, composed = prompts.texts(finding), load_prompt_set(DEFAULT_PROMPTS)
    if control == "negated":
        return FindingSentences(positive=own.negative or tuple(text.format(finding) for text in NEGATIONS))
    phrases = composed.texts(finding).positive if composed.covers(finding) else (finding,)
    name = composed.findings[finding].synonyms[0] if composed.covers(finding) else finding
    positive = [frame.format(phrase) for phrase, frame in zip(phrases, itertools.cycle(FRAMES), strict=False)]
    negative = [frame.format(name) for frame in DENIALS]
    return FindingSentences(
        positive=tuple(positive[: len(own.positive)]), negative=tuple(negative[: len(own.negative)])
    )
