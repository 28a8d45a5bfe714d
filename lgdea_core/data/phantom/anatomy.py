"""A normal frontal chest film, painted in grey levels from 0 (air) to 1 (metal)."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32

from lgdea_core.data.phantom.geometry import HILUM, Geometry, closed_curve, heart_contour, mirror, wide_blur

_SHOULDER = np.array(
    [
        (0.5, -0.3), (0.4, -0.3), (0.4, 0.0), (0.375, 0.055), (0.25, 0.085), (0.11, 0.105), (0.03, 0.15), (-0.06, 0.25),
        (-0.12, 0.5), (-0.09, 0.55), (-0.02, 0.42), (0.035, 0.37), (0.05, 0.5), (0.055, 0.7), (0.04, 0.9), (0.02, 1.3),
        (0.5, 1.3),
    ]
)  # fmt: skip
_TORSO = np.concatenate([_SHOULDER, mirror(_SHOULDER)[::-1]])
_MEDIASTINUM = closed_curve(
    np.array(
        [
            (0.445, 0.0), (0.445, 0.12), (0.435, 0.2), (0.43, 0.3), (0.43, 0.4), (0.43, 0.55), (0.45, 0.72),
            (0.55, 0.74), (0.58, 0.6), (0.58, 0.42), (0.585, 0.36), (0.605, 0.3), (0.59, 0.255), (0.555, 0.2),
            (0.55, 0.12), (0.555, 0.0),
        ]
    )
)  # fmt: skip
_ABDOMEN = np.array([(0.06, 0.76), (0.2, 0.7), (0.5, 0.72), (0.8, 0.72), (0.94, 0.77), (0.97, 1.4), (0.03, 1.4)])
_BREAST = closed_curve(np.array([(0.1, 0.52), (0.12, 0.68), (0.24, 0.755), (0.36, 0.68), (0.35, 0.55), (0.22, 0.47)]))
_SCAPULA = closed_curve(np.array([(0.03, 0.17), (0.15, 0.19), (0.22, 0.24), (0.2, 0.36), (0.16, 0.46), (0.1, 0.33)]))
_GAS = closed_curve(np.array([(0.62, 0.79), (0.66, 0.772), (0.73, 0.78), (0.765, 0.81), (0.72, 0.845), (0.65, 0.835)]))
_AIRWAY = [np.array([(0.497, -0.1), (0.495, 0.1), (0.49, 0.22), (0.492, 0.31)])]
_BRONCHI = [
    np.array([(0.492, 0.31), (0.465, 0.35), (0.435, 0.4), (0.42, 0.43)]),
    np.array([(0.492, 0.31), (0.53, 0.355), (0.575, 0.39)]),
]
_DISCS = [np.array([(0.458, y), (0.542, y)]) for y in np.arange(0.03, 0.95, 0.052)]
_SPINE = np.array([(0.458, -0.2), (0.542, -0.2), (0.545, 1.2), (0.455, 1.2)])
_CLAVICLE = np.array([(0.465, 0.178), (0.41, 0.17), (0.33, 0.148), (0.24, 0.118), (0.16, 0.105), (0.09, 0.12)])
_HILUM_BLOBS = [
    closed_curve(np.array([(0.43, 0.38), (0.395, 0.4), (0.375, 0.46), (0.395, 0.53), (0.43, 0.5)])),
    closed_curve(np.array([(0.575, 0.37), (0.61, 0.385), (0.625, 0.43), (0.61, 0.49), (0.58, 0.47)])),
]

HEART_LEVEL = 0.8
"""Grey level of the heart, normal or enlarged."""
LUNG_LEVEL = 0.24
"""Grey level of aerated lung in the average patient."""


@dataclass(frozen=True, kw_only=True)
class Habitus:
    """What one patient's chest looks like; shared by the patient's studies."""

    heart_width: float
    """width of the normal heart, 1 is usual"""
    bone: float
    """strength of ribs, clavicles and spine"""
    tissue: float
    """grey level of the chest wall: thick patients are whiter"""
    lung_level: float
    """grey level of aerated lung"""
    breast: float
    """strength of breast shadows; 0 without"""
    vessels: float
    """strength of the lung markings"""
    rib_slope: float
    gas: float
    """strength of the gastric bubble"""
    key: int
    """seed of the details: vessel course, texture"""

    @classmethod
    def sample(cls, rng: np.random.Generator, nuisance: float) -> "Habitus":
        """Draw a patient; at `nuisance` 0 all are average."""
        spread = nuisance * rng.uniform(-1, 1, 7)
        return cls(
            heart_width=1 + 0.085 * spread[0],
            bone=0.75 + 0.3 * spread[1],
            tissue=0.62 + 0.09 * spread[2],
            lung_level=LUNG_LEVEL + 0.06 * spread[3],
            breast=max(0.0, 0.5 * nuisance * spread[4]),
            vessels=0.8 + 0.3 * spread[5],
            rib_slope=0.10 + 0.03 * spread[6],
            gas=float(rng.uniform(0, 1)) if rng.random() < 0.7 else 0.0,
            key=int(rng.integers(2**63)),
        )


def paint_anatomy(
    geometry: Geometry, habitus: Habitus, heart_magnification: float, scapulae: float
) -> Float32[np.ndarray, "height width"]:
    """A chest without lesions.

    Args:
        geometry: where the chest lies on the film.
        habitus: whose chest it is.
        heart_magnification: 1 on a PA film, more on an AP film.
        scapulae: how far the scapulae lie over the lungs, in [0, 1]; only AP films show them.
    """
    rng = np.random.default_rng(habitus.key)
    tissue = habitus.tissue
    film = np.full((geometry.height, geometry.width), 0.04, np.float32)
    blend(film, geometry.fill(_TORSO, blur=0.012), tissue)
    blend(film, geometry.fill(_ABDOMEN, blur=0.03), min(0.93, tissue + 0.22))
    blend(film, 0.92 * geometry.lungs, habitus.lung_level)
    # Lungs are whiter at the wall and the base, where more tissue lies in the beam.
    film += 0.28 * geometry.lungs * wide_blur(1 - geometry.lungs, max(0.6, 0.035 * geometry.unit))
    blend(film, geometry.fill_all(_HILUM_BLOBS, blur=0.018), 0.68, 0.5)
    _paint_vessels(film, geometry, habitus.vessels, rng)
    if habitus.breast > 0.05:
        blend(film, geometry.fill_all([_BREAST, mirror(_BREAST)], blur=0.008), 0.8, 0.22 * habitus.breast)
    _paint_bones(film, geometry, habitus, scapulae)
    blend(film, geometry.fill(_MEDIASTINUM, blur=0.007), tissue + 0.12, 0.85)
    blend(film, geometry.fill(heart_contour(habitus.heart_width * heart_magnification), blur=0.006), HEART_LEVEL, 0.9)
    _paint_midline(film, geometry, habitus)
    blend(film, geometry.fill(_GAS, blur=0.007), 0.42, 0.75 * habitus.gas)
    return film


def blend(
    film: Float32[np.ndarray, "height width"],
    plane: Float32[np.ndarray, "height width"],
    level: float,
    strength: float = 1.0,
) -> None:
    """Move the film towards a grey level where the plane is, in place: the film is the painter's own canvas."""
    film += (plane * np.float32(strength)) * (np.float32(level) - film)


def texture(rng: np.random.Generator, geometry: Geometry, cells: int) -> Float32[np.ndarray, "height width"]:
    """Smooth noise of mean 0 and about unit scale, `cells` bumps across; the same at every film size."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    return cv2.resize(coarse, (geometry.width, geometry.height), interpolation=cv2.INTER_CUBIC)


def _paint_vessels(
    film: Float32[np.ndarray, "height width"], geometry: Geometry, strength: float, rng: np.random.Generator
) -> None:
    """Branching lung markings that run from the hila outwards and thin out."""
    count = 15
    step = np.linspace(0, 1, 9)
    angles = np.linspace(-1.45, 1.45, count) + rng.normal(0, 0.12, (2, count))
    lengths, bends = rng.uniform(0.14, 0.34, (2, count, 1)), rng.normal(0, 0.5, (2, count, 1))
    turn = angles[:, :, None] + bends * step + rng.normal(0, 0.05, (2, count, 9))
    along = lengths * step * (1 + 0.35 * np.abs(np.sin(angles))[:, :, None])
    outward, hila = np.array([-1.0, 1.0])[:, None, None], np.array([HILUM["right"], HILUM["left"]])
    x = hila[:, None, None, 0] + 0.85 * outward * along * np.cos(turn)
    courses = np.stack([x, hila[:, None, None, 1] + along * np.sin(turn)], axis=3)
    forks = courses[:, :, 4:] + rng.normal(0, 0.042, (2, count, 1, 2)) * (step[4:, None] - step[4])
    # Trunks are thick near the hilum, twigs fork and reach the periphery.
    plane = 0.65 * geometry.lines([*courses[:, ::2, :4].reshape(-1, 4, 2)], 0.012, blur=0.006)
    twigs = [*courses[:, :, 2:].reshape(-1, 7, 2), *forks.reshape(-1, 5, 2)]
    plane += 0.7 * geometry.lines(twigs, 0.0045, blur=0.002)
    blend(film, plane * geometry.lungs, 0.7, 0.42 * strength)


def _paint_bones(
    film: Float32[np.ndarray, "height width"], geometry: Geometry, habitus: Habitus, scapulae: float
) -> None:
    posterior, anterior = _ribs(habitus.rib_slope)
    blend(film, geometry.lines(posterior, 0.026, blur=0.003), 0.85, 0.2 * habitus.bone)
    blend(film, geometry.lines(posterior, 0.008, blur=0.002), 0.2, 0.06 * habitus.bone)  # marrow is darker than cortex
    blend(film, geometry.lines(anterior, 0.02, blur=0.004), 0.85, 0.12 * habitus.bone)
    clavicles = [_CLAVICLE, mirror(_CLAVICLE)]
    blend(film, geometry.lines(clavicles, 0.027, blur=0.003), 0.9, 0.38 * habitus.bone)
    if scapulae > 0.05:
        shift = np.array([0.05 * scapulae, 0.0])
        blades = geometry.fill_all([_SCAPULA + shift, mirror(_SCAPULA + shift)], blur=0.006)
        blend(film, blades, 0.85, 0.16 * habitus.bone * scapulae)


def _ribs(slope: float) -> tuple[list[Float[np.ndarray, "_ 2"]], list[Float[np.ndarray, "_ 2"]]]:
    """Posterior arcs from the spine outwards, anterior arcs from the wall inwards and down."""
    a, rib = np.linspace(0, 1, 10)[None, :], np.arange(9)[:, None]
    y0, reach = 0.115 + 0.066 * rib, np.minimum(0.39, 0.24 + 0.04 * rib)
    posterior = np.stack([0.46 - reach * np.sin(a * np.pi / 2), y0 - 0.02 * np.sin(a * 2) + slope * a**3], axis=2)
    y = y0 + slope + 0.01 + 0.085 * a + 0.03 * np.sin(a * np.pi)
    anterior = np.stack([0.46 - reach + 0.2 * a**1.3, y], axis=2)[:7]
    flip, back = np.array([-1.0, 1.0]), np.array([1.0, 0.0])
    return [*posterior, *(posterior * flip + back)], [*anterior, *(anterior * flip + back)]


def _paint_midline(film: Float32[np.ndarray, "height width"], geometry: Geometry, habitus: Habitus) -> None:
    blend(film, geometry.fill(_SPINE, blur=0.008), 0.92, 0.28 * habitus.bone)
    blend(film, geometry.lines(_DISCS, 0.01, blur=0.003), 0.5, 0.16 * habitus.bone)
    blend(film, geometry.lines(_AIRWAY, 0.03, blur=0.007), 0.42, 0.45)
    blend(film, geometry.lines(_BRONCHI, 0.018, blur=0.007), 0.42, 0.25)
