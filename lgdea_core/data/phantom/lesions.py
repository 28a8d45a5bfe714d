"""Lesions: where and how each finding is painted, on a phantom or into a real normal film.

A lesion is one or two layers. A layer is a plane in [0, 1] (how much of the film it replaces) and the grey level it
moves the film to: near 1 for fluid and cells, near 0 for air.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

from lgdea_core.data.phantom.anatomy import HEART_LEVEL, texture
from lgdea_core.data.phantom.geometry import HILUM, LUNGS, Geometry, heart_contour, mirror

MASK_LEVEL = 0.25
"""A pixel belongs to a lesion where a layer has at least this share of its own strongest pixel."""
GRADE = {"mild": 0, "moderate": 1, "severe": 2}
FLUID = 0.92
"""Grey level that opacities tend to."""

Plane = Float32[np.ndarray, "height width"]
Layers = list[tuple[Plane, float]]

_ZONE_Y = {
    "apical": (0.17, 0.2),
    "upper": (0.22, 0.32),
    "mid": (0.38, 0.5),
    "perihilar": (0.38, 0.5),
    "lower": (0.57, 0.67),
}
_WALL_Y = (0.118, 0.19, 0.3, 0.42, 0.56, 0.68, 0.79)
_WALL_X = (0.27, 0.225, 0.172, 0.145, 0.128, 0.122, 0.125)


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """One painted lesion: kind, place, amount. `key` seeds its shape."""

    finding: str
    side: str | None
    """left or right; None on the midline"""
    zone: str | None
    """apical, upper, mid, perihilar or lower; None where the finding has no zone"""
    severity: str
    contrast: float
    """in [0, 1]; scales how far the film is moved (for cardiomegaly: how wide the heart gets)"""
    key: int


@dataclass(frozen=True, kw_only=True)
class PaintedLesion:
    """A lesion's layers on one film and the pixels it covers."""

    layers: Layers
    mask: Bool[np.ndarray, "height width"]

    def onto(self, film: Plane) -> None:
        """Paint it, in place; what is dense only adds to what lies in the same beam."""
        for plane, level in self.layers:
            step = np.float32(level) - film
            film += plane * (np.maximum(step, 0) if level > 0.5 else step)


def draw_lesion(lesion: Lesion, geometry: Geometry, heart_width: float = 1.0) -> PaintedLesion:
    """Lay a lesion out on a film.

    Args:
        lesion: what to draw.
        geometry: of the film.
        heart_width: of the heart before any cardiomegaly, 1 is usual.
    """
    rng = np.random.default_rng(lesion.key)
    if lesion.finding == "cardiomegaly":
        layers = _cardiomegaly(lesion, geometry, heart_width)
    else:
        layers = _PAINTERS[lesion.finding](lesion, geometry, rng)
    return PaintedLesion(layers=layers, mask=mask_of(layers))


def mask_of(layers: Layers) -> Bool[np.ndarray, "height width"]:
    """The pixels that layers cover, see `MASK_LEVEL`."""
    return np.logical_or.reduce([plane > max(MASK_LEVEL * float(plane.max()), 0.02) for plane, _ in layers])


def wall_x(y: float) -> float:
    """Canonical x of the right lung's lateral border at a height."""
    return float(np.interp(y, _WALL_Y, _WALL_X))


def place(side: str, zone: str, rng: np.random.Generator) -> Float[np.ndarray, "1 2"]:
    """A canonical point inside a zone of a lung, clear of the heart."""
    y = rng.uniform(*_ZONE_Y[zone])
    low, high = wall_x(y) + 0.06, 0.40
    if zone == "perihilar":
        low = 0.33
    elif zone == "apical":
        low, high = 0.3, 0.37
    elif zone == "mid":
        high = 0.31
    elif zone == "lower" and side == "left":
        high = 0.29  # the heart hides the rest
    point = np.array([[rng.uniform(low, high), y]])
    return point if side == "right" else mirror(point)


def _blob(
    center: Float[np.ndarray, "1 2"], radius: float, rng: np.random.Generator, irregular: float, aspect: float = 1.0
) -> Float[np.ndarray, "rows 2"]:
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    waves = np.arange(2, 6)[:, None]
    bumps = (rng.normal(0, irregular, (4, 1)) / waves * np.cos(waves * angle + rng.uniform(0, 6.3, (4, 1)))).sum(0)
    ring = radius * (1 + bumps) * np.stack([np.cos(angle) / np.sqrt(aspect), np.sin(angle) * np.sqrt(aspect)])
    return center + ring.T


def _nodule(lesion: Lesion, geometry: Geometry, rng: np.random.Generator) -> Layers:
    radius = (0.04, 0.05, 0.062)[GRADE[lesion.severity]] * rng.uniform(0.95, 1.1)
    center = place(lesion.side, lesion.zone, rng)
    plane = geometry.fill(_blob(center, radius, rng, 0.08), blur=0.004)
    return [((0.15 + 0.65 * lesion.contrast) * plane, FLUID)]


def _lung_opacity(lesion: Lesion, geometry: Geometry, rng: np.random.Generator) -> Layers:
    radius = (0.085, 0.11, 0.14)[GRADE[lesion.severity]] * rng.uniform(0.9, 1.1)
    center = place(lesion.side, lesion.zone, rng)
    plane = geometry.fill(_blob(center, radius, rng, 0.25, rng.uniform(0.7, 1.4)), blur=0.028)
    return [(0.5 * lesion.contrast * plane * geometry.lung_planes[lesion.side], FLUID)]


def _consolidation(lesion: Lesion, geometry: Geometry, rng: np.random.Generator) -> Layers:
    """Dense, sharp at a fissure, with dark branching air bronchograms."""
    radius = (0.085, 0.11, 0.145)[GRADE[lesion.severity]] * rng.uniform(0.9, 1.1)
    center = place(lesion.side, lesion.zone, rng)
    outline = _blob(center, radius, rng, 0.3, rng.uniform(0.7, 1.2))
    fissure = center[0, 1] + radius * rng.uniform(0.25, 0.6) * (1 if lesion.zone in ("apical", "upper") else -1)
    clip = np.minimum if lesion.zone in ("apical", "upper") else np.maximum
    outline[:, 1] = clip(outline[:, 1], fissure)
    plane = geometry.fill(outline, blur=0.01) * (1 - 0.6 * _airways(center, radius, lesion.side, geometry, rng))
    plane *= np.clip(0.93 + 0.1 * texture(rng, geometry, 14), 0, 1)
    return [((0.1 + 0.85 * lesion.contrast) * plane * geometry.lung_planes[lesion.side], FLUID)]


def _airways(
    center: Float[np.ndarray, "1 2"], radius: float, side: str, geometry: Geometry, rng: np.random.Generator
) -> Plane:
    """A bronchus that comes from the hilum and forks twice: what stays dark in consolidated lung."""
    course = center - np.array(HILUM[side])
    heading = np.arctan2(course[0, 1], course[0, 0])
    steps = np.linspace(0, 1, 6)[:, None] * radius
    branches = []
    for turn in (0.0, 0.55, -0.6):
        bend = heading + turn + rng.normal(0, 0.15) + np.linspace(0, rng.normal(0, 0.4), 6)
        start = center - 0.45 * radius * np.array([[np.cos(heading), np.sin(heading)]])
        branches.append(start + 1.2 * steps * np.stack([np.cos(bend), np.sin(bend)], axis=1))
    return geometry.lines(branches, 0.009, blur=0.003)


def _pneumonia(lesion: Lesion, geometry: Geometry, rng: np.random.Generator) -> Layers:
    """Patches of several sizes that run into each other and fade at the rim."""
    radius = (0.095, 0.12, 0.15)[GRADE[lesion.severity]] * rng.uniform(0.9, 1.1)
    center = place(lesion.side, lesion.zone, rng)
    field = geometry.fill(_blob(center, radius, rng, 0.3, rng.uniform(0.9, 1.5)), blur=0.02)
    patches = np.clip(0.42 + 0.75 * texture(rng, geometry, 26), 0, 1)
    middle = geometry.fill(_blob(center, 0.4 * radius, rng, 0.4), blur=0.012)  # one patch is always there
    plane = field * np.maximum(patches, 0.8 * middle)
    return [(0.82 * lesion.contrast * plane * geometry.lung_planes[lesion.side], FLUID)]


def _atelectasis(lesion: Lesion, geometry: Geometry, rng: np.random.Generator) -> Layers:
    """Plates: straight bands, one to three."""
    grade = GRADE[lesion.severity]
    center = place(lesion.side, lesion.zone, rng)
    slope, half = rng.normal(0, 0.3), (0.07, 0.09, 0.11)[grade] * rng.uniform(0.9, 1.15)
    direction = np.array([[np.cos(slope), np.sin(slope)]])
    across = np.array([[-direction[0, 1], direction[0, 0]]])
    reach = np.linspace(-1, 1, 9)[:, None]
    plane = np.zeros((geometry.height, geometry.width), np.float32)
    for band in range(grade + 1):
        middle = center + np.array([[rng.normal(0, 0.02), (band - grade / 2) * rng.uniform(0.035, 0.05)]])
        spine = middle + half * rng.uniform(0.7, 1.0) * reach * direction + 0.02 * rng.normal() * reach**2 * across
        thick = rng.uniform(0.011, 0.016) * (1 - 0.75 * reach**2) * across  # plates taper
        np.maximum(plane, geometry.fill(np.concatenate([spine - thick, (spine + thick)[::-1]]), 0.004), out=plane)
    return [(0.9 * lesion.contrast * plane * geometry.lung_planes[lesion.side], FLUID)]


def _edema(lesion: Lesion, geometry: Geometry, rng: np.random.Generator) -> Layers:
    """A haze that fades from the hilum outwards, grainy with thickened interstitial lines."""
    grade = GRADE[lesion.severity]
    hilum = np.array([HILUM[lesion.side]])
    outward = -1 if lesion.side == "right" else 1
    shift = {"perihilar": (0.04, 0.02), "lower": (0.08, 0.14), "upper": (0.06, -0.12)}[lesion.zone or "perihilar"]
    center = hilum + np.array([[outward * shift[0], shift[1]]])
    haze = geometry.fill(_blob(center, (0.12, 0.15, 0.18)[grade], rng, 0.15, 1.35), blur=0.04)
    starts = center + rng.normal(0, 1, (40, 2)) * np.array([0.06, 0.085]) * (1 + 0.2 * grade)
    turns = rng.uniform(0, np.pi, 40)
    lengths = 0.025 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    streaks = geometry.lines([*np.stack([starts - lengths, starts + lengths], axis=1)], 0.006, blur=0.002)
    plane = np.minimum(0.4 * haze + 0.22 * haze * streaks, 1) * (0.9 + 0.15 * texture(rng, geometry, 24))
    plane = (0.85 + 0.2 * grade) * lesion.contrast * plane * geometry.lung_planes[lesion.side]
    return [(np.clip(plane, 0, 1), FLUID)]


def _pleural_effusion(lesion: Lesion, geometry: Geometry, rng: np.random.Generator) -> Layers:
    """Fluid: at the base with a meniscus, or loculated against the wall or over the apex."""
    grade = GRADE[lesion.severity]
    if lesion.zone in ("apical", "mid"):
        contour = _loculated(lesion.zone, grade, rng)
    else:
        level = (0.64, 0.56, 0.46)[grade] + rng.uniform(-0.015, 0.015)
        rise = (0.13, 0.11, 0.13)[grade]  # the meniscus climbs the wall
        a = np.linspace(0, 1, 14)
        x = 0.09 + a * (0.24, 0.38, 0.4)[grade]
        y = level + rise * a ** (0.7, 0.45, 0.45)[grade]
        contour = np.concatenate([np.stack([x, y], axis=1), [(x[-1], 0.83), (0.09, 0.83)]])
    if lesion.side == "left":
        contour = mirror(contour)
    plane = geometry.fill(contour, blur=0.01) * geometry.lung_planes[lesion.side]
    return [((0.25 + 0.6 * lesion.contrast) * plane, 0.88)]


def _loculated(zone: str, grade: int, rng: np.random.Generator) -> Float[np.ndarray, "rows 2"]:
    if zone == "apical":
        center, radius, aspect = np.array([[0.33, 0.115]]), (0.06, 0.075, 0.095)[grade], 0.65
    else:
        y = rng.uniform(0.4, 0.52)
        center, radius, aspect = np.array([[wall_x(y), y]]), (0.065, 0.085, 0.105)[grade], 2.6
    return _blob(center, radius, rng, 0.06, aspect)


def _pneumothorax(lesion: Lesion, geometry: Geometry, rng: np.random.Generator) -> Layers:
    """Air without markings outside a lung that has shrunk away, and the thin bright pleural line between."""
    grade = GRADE[lesion.severity]
    share = (0.88, 0.79, 0.68)[grade] + rng.uniform(-0.02, 0.02)
    anchor = {"apical": (0.46, 0.74), "mid": (0.46, 0.45), "lower": (0.46, 0.13)}[lesion.zone or "apical"]
    free = {"apical": slice(0, 42), "mid": slice(8, 45), "lower": slice(22, 66)}[lesion.zone or "apical"]
    contour, pivot = LUNGS[lesion.side], np.array([anchor])
    pivot = pivot if lesion.side == "right" else mirror(pivot)
    shrunken = pivot + (contour - pivot) * share
    field = geometry.lung_planes[lesion.side]
    air = field * (1 - geometry.fill(shrunken, blur=0.003))
    edge = geometry.lines([shrunken[free]], 0.007, blur=0.002) * field
    edge *= cv2.GaussianBlur(air, (0, 0), max(0.6, 0.012 * geometry.unit))  # only where air touches it
    amount = 0.12 + 0.5 * lesion.contrast
    return [(amount * air, 0.1), (np.clip(1.7 * amount * edge, 0, 1), 0.7)]


def _cardiomegaly(lesion: Lesion, geometry: Geometry, heart_width: float) -> Layers:
    grade = GRADE[lesion.severity]
    growth = (0.17, 0.3, 0.46)[grade] * (0.65 + 0.35 * lesion.contrast)
    plane = geometry.fill(heart_contour(heart_width * (1 + growth)), blur=0.006)
    return [(0.92 * plane, HEART_LEVEL)]


def _hernia(lesion: Lesion, geometry: Geometry, rng: np.random.Generator) -> Layers:
    """A round pouch behind the heart: a bright wall, often with gas above a level of fluid."""
    radius = (0.06, 0.078, 0.1)[GRADE[lesion.severity]] * rng.uniform(0.95, 1.08)
    center = np.array([[0.54 + rng.uniform(-0.02, 0.03), 0.70 - 0.5 * radius + rng.uniform(-0.02, 0.01)]])
    outline = _blob(center, radius, rng, 0.08, 0.85)
    inside = center + 0.82 * (outline - center)
    inside[:, 1] = np.minimum(inside[:, 1], center[0, 1] + radius * rng.uniform(0.0, 0.3))
    amount = 0.12 + 0.45 * lesion.contrast
    layers = [(amount * geometry.fill(outline, blur=0.006), 0.97)]
    if rng.random() < 0.6:  # the others are filled with fluid
        layers.append((0.8 * amount * geometry.fill(inside, blur=0.005), 0.42))
    return layers


_PAINTERS: dict[str, Callable[[Lesion, Geometry, np.random.Generator], Layers]] = {
    "atelectasis": _atelectasis,
    "consolidation": _consolidation,
    "edema": _edema,
    "hernia": _hernia,
    "lung opacity": _lung_opacity,
    "nodule": _nodule,
    "pleural effusion": _pleural_effusion,
    "pneumonia": _pneumonia,
    "pneumothorax": _pneumothorax,
}
