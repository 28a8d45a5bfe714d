"""One phantom study: film, truth and report, from a configuration and an index alone."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from lgdea_core.data.phantom.anatomy import HEART_LEVEL, LUNG_LEVEL, Habitus, paint_anatomy
from lgdea_core.data.phantom.config import PhantomConfig
from lgdea_core.data.phantom.geometry import Box, Geometry, box_of_mask, heart_contour
from lgdea_core.data.phantom.lesions import Lesion, PaintedLesion, draw_lesion, mask_of
from lgdea_core.data.phantom.nuisance import Nuisance, add_scatter, finish, paint_devices
from lgdea_core.data.phantom.report import lesion_phrases, write_report
from lgdea_core.data.phantom.truth import Truth, sample_truth
from lgdea_core.finding import Finding

_DETAIL_WIDTH, _DETAIL_LEVEL = 0.03, 0.12
"""Canonical units and grey levels below which a bilateral filter takes a real film's structures for detail."""


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """All that is drawn before the first pixel; the same at every image size."""

    study_id: str
    patient_id: str
    habitus: Habitus
    nuisance: Nuisance
    truth: Truth
    report: str
    evidence: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class PhantomStudy:
    """A film with all that is known of it."""

    study_id: str
    patient_id: str
    image: UInt8[np.ndarray, "height width"]
    view: str
    """AP or PA"""
    has_device: bool
    findings: tuple[str, ...]
    """what the picture shows, reported or not"""
    lesions: tuple[Lesion, ...]
    masks: tuple[Bool[np.ndarray, "height width"], ...]
    """one a lesion"""
    boxes_xyxy: Float[np.ndarray, "lesions 4"]
    """tight around the masks, in pixels; far edges exclusive"""
    phrases: tuple[str, ...]
    """for each lesion the report's words, or canonical ones where the report leaves it out"""
    regions: dict[str, Box]
    """29 region boxes in pixels"""
    report: str
    evidence: tuple[Finding, ...]
    """what the report says of the configured findings, and its statements that all is normal"""

    def mask_of(self, finding: str) -> Bool[np.ndarray, "height width"]:
        """Union of a finding's masks."""
        mask = np.zeros(self.image.shape, bool)
        for lesion, lesion_mask in zip(self.lesions, self.masks, strict=True):
            if lesion.finding == finding:
                mask |= lesion_mask
        return mask


def plan_study(config: PhantomConfig, index: int) -> StudyPlan:
    """Draw patient, circumstances, truth and report of one study."""
    if index < 0:
        raise ValueError(f"plan_study: index must be 0 or more, got {index}")
    # An even index is a patient of its own, an odd one may be that patient's second study.
    second = index % 2 and np.random.default_rng([config.seed, index // 2, 1]).random() < config.second_study_ratio
    patient = index - 1 if second else index
    habitus = Habitus.sample(np.random.default_rng(np.random.SeedSequence([config.seed, patient, 2])), config.nuisance)
    streams = np.random.SeedSequence([config.seed, index]).spawn(3)
    truth_rng, nuisance_rng, report_rng = (np.random.default_rng(stream) for stream in streams)
    truth = sample_truth(config, truth_rng)
    nuisance = Nuisance.sample(nuisance_rng, config.nuisance)
    report, evidence = write_report(config, truth, nuisance.view, nuisance.devices, report_rng)
    return StudyPlan(
        study_id=f"p{index:06d}",
        patient_id=f"pt{patient:05d}",
        habitus=habitus,
        nuisance=nuisance,
        truth=truth,
        report=report,
        evidence=evidence,
    )


def generate_study(config: PhantomConfig, index: int) -> PhantomStudy:
    """One study, a pure function of the configuration and the index.

    Args:
        config: the world; `studies` is not looked at.
        index: 0 or more.
    """
    return develop(plan_study(config, index), config.image_size)


def develop(plan: StudyPlan, image_size: int) -> PhantomStudy:
    """The film of a plan, `image_size` pixels a side, with its truth in pixels."""
    geometry = plan.nuisance.geometry(image_size)
    painted = _draw_lesions(plan, geometry)
    boxes = [box_of_mask(lesion.mask) for lesion in painted]
    return PhantomStudy(
        study_id=plan.study_id,
        patient_id=plan.patient_id,
        image=_render(plan, geometry, painted, omit=()),
        view=plan.nuisance.view,
        has_device=bool(plan.nuisance.devices),
        findings=plan.truth.findings,
        lesions=plan.truth.lesions,
        masks=tuple(lesion.mask for lesion in painted),
        boxes_xyxy=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        phrases=lesion_phrases(plan.truth, plan.evidence),
        regions=geometry.region_boxes(),
        report=plan.report,
        evidence=plan.evidence,
    )


def render_study(config: PhantomConfig, index: int, omit: Collection[int] = ()) -> UInt8[np.ndarray, "height width"]:
    """The film of a study without some of its lesions, all else, exposure and noise included, being equal.

    Args:
        config: the world.
        index: of the study.
        omit: indices of lesions to leave out.
    """
    plan = plan_study(config, index)
    geometry = plan.nuisance.geometry(config.image_size)
    return _render(plan, geometry, _draw_lesions(plan, geometry), omit)


def _draw_lesions(plan: StudyPlan, geometry: Geometry) -> list[PaintedLesion]:
    heart_width = plan.habitus.heart_width * plan.nuisance.heart_magnification
    return [draw_lesion(lesion, geometry, heart_width) for lesion in plan.truth.lesions]


def _render(
    plan: StudyPlan, geometry: Geometry, painted: list[PaintedLesion], omit: Collection[int]
) -> UInt8[np.ndarray, "height width"]:
    nuisance = plan.nuisance
    normal = paint_anatomy(geometry, plan.habitus, nuisance.heart_magnification, nuisance.scapulae)

    def film(without: Collection[int]) -> Float32[np.ndarray, "height width"]:
        canvas = normal.copy()
        for number in _painting_order(plan.truth.lesions):
            if number not in without:
                painted[number].onto(canvas)
        paint_devices(canvas, geometry, nuisance)
        return add_scatter(canvas, normal, nuisance)

    full = film(())
    return finish(film(omit) if omit else full, full, nuisance)


def paint_lesions(
    image: Float[np.ndarray, "height width"], lesions: Sequence[Lesion], geometry: Geometry
) -> tuple[Float32[np.ndarray, "height width"], tuple[Bool[np.ndarray, "height width"], ...]]:
    """Paint given lesions into any normal film.

    Grey levels are stretched to the film's own, from its aerated lung to its heart, which nothing exceeds. What is
    dense lies in the same beam as ribs and vessels, so their detail stays on top of it; air replaces lung.

    Args:
        image: grey levels in [0, 1], dense tissue bright.
        lesions: what to paint, where and how strongly.
        geometry: where the chest lies.

    Returns:
        A new film and the mask of each lesion.

    Raises:
        ValueError: the film is not the geometry's size.
    """
    if image.shape != (geometry.height, geometry.width):
        raise ValueError(
            f"paint_lesions: the film is {image.shape}, but the geometry is made for "
            f"{(geometry.height, geometry.width)}; make them equal"
        )
    film = image.astype(np.float32)
    lung = float(np.percentile(film[geometry.lungs > 0.5], 25))
    heart = max(float(np.median(film[geometry.fill(heart_contour(0.9)) > 0.5])), lung + 0.1)
    aerated = np.clip((heart - film) / (heart - lung), 0, 1)
    painted = []
    for lesion in lesions:
        # Free air takes the place of lung only: a real heart need not lie where the outline has one.
        layers = [
            (plane * aerated if level < LUNG_LEVEL else plane, level)
            for plane, level in draw_lesion(lesion, geometry).layers
        ]
        painted.append(PaintedLesion(layers=layers, mask=mask_of(layers)))
    for number in _painting_order(lesions):
        for plane, level in painted[number].layers:
            share = min((level - LUNG_LEVEL) / (HEART_LEVEL - LUNG_LEVEL), 1.0)
            target = np.float32(max(lung + (heart - lung) * share, 0.0))
            if level > 0.5:
                ground = cv2.bilateralFilter(film, 0, _DETAIL_LEVEL, _DETAIL_WIDTH * geometry.unit)
                film += plane * np.maximum(target - ground, 0)
            else:
                film += plane * (target - film)
    return film, tuple(lesion.mask for lesion in painted)


def _painting_order(lesions: Sequence[Lesion]) -> list[int]:
    """Cardiomegaly first: the heart lies under what else is painted."""
    return sorted(range(len(lesions)), key=lambda number: lesions[number].finding != "cardiomegaly")
