"""What varies on films besides disease: pose, view, exposure, noise, scatter, collimation, lines, tubes and markers."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from lgdea_core.data.phantom.anatomy import blend
from lgdea_core.data.phantom.geometry import Geometry, mirror

_DEVICE_SHARES = {
    "endotracheal tube": 0.12,
    "enteric tube": 0.12,
    "central line": 0.16,
    "pacemaker": 0.08,
    "sternal wires": 0.1,
    "ecg leads": 0.2,
    "chest tube": 0.06,
}
Film = Float32[np.ndarray, "height width"]


@dataclass(frozen=True, kw_only=True)
class Nuisance:
    """One film's circumstances. None depends on the findings."""

    view: str
    """AP or PA"""
    rotation: float
    """degrees"""
    scale: float
    shift: tuple[float, float]
    """of the film, in shares of its side"""
    stretch: float
    """width of the chest against its usual width"""
    inspiration: float
    """height of the lungs against a full breath"""
    scapulae: float
    mean: float
    """grey level the exposure control aims at, averaged over the film"""
    gain: float
    """contrast of the detector, around that mean"""
    scatter: float
    noise: float
    collimation: tuple[float, float, float, float]
    """share of the film that is black at left, top, right and bottom"""
    marker: bool
    devices: tuple[str, ...]
    key: int
    """seed of noise and of the courses of lines"""

    @classmethod
    def sample(cls, rng: np.random.Generator, strength: float) -> "Nuisance":
        """Draw a film's circumstances; `strength` in [0, 1] narrows every range around its middle."""
        spread = strength * rng.uniform(-1, 1, 7)
        ap = rng.random() < 0.45
        borders = rng.uniform(0.01, 0.05, 4) * (rng.random(4) < 0.15 * strength)
        shares = strength * rng.random(4)
        return cls(
            view="AP" if ap else "PA",
            rotation=5.0 * spread[0],
            scale=0.98 + 0.08 * spread[1],
            shift=(0.03 * spread[2], 0.03 * spread[3]),
            stretch=1.0 + 0.05 * spread[4],
            inspiration=0.99 - (0.15 if ap else 0.08) * shares[0],
            scapulae=shares[1] if ap else 0.0,
            mean=0.52 + 0.1 * spread[5],
            gain=1.02 + 0.14 * spread[6],
            scatter=0.03 + 0.17 * shares[2],
            noise=0.006 + 0.022 * shares[3],
            collimation=(float(borders[0]), float(borders[1]), float(borders[2]), float(borders[3])),
            marker=bool(rng.random() < 0.6),
            devices=tuple(name for name, share in _DEVICE_SHARES.items() if rng.random() < strength * share),
            key=int(rng.integers(2**63)),
        )

    @property
    def heart_magnification(self) -> float:
        """An AP film shows the heart larger."""
        return 1.07 if self.view == "AP" else 1.0

    def geometry(self, image_size: int) -> Geometry:
        """The map from the canonical frame to this film."""
        turn, zoom = np.deg2rad(self.rotation), self.scale * image_size
        cos, sin = zoom * np.cos(turn), zoom * np.sin(turn)
        center = np.array([0.5, 0.47])  # the chest's middle comes to the film's middle
        linear = np.array([[cos, -sin], [sin, cos]])
        offset = image_size * (np.array([0.5, 0.48]) + self.shift) - linear @ center
        return Geometry(
            height=image_size,
            width=image_size,
            x_knots=((0.0, 1.0), (0.5 - 0.5 * self.stretch, 0.5 + 0.5 * self.stretch)),
            y_knots=((0.0, 0.3, 0.9), (0.0, 0.3, 0.3 + 0.6 * self.inspiration)),
            affine=np.column_stack([linear, offset]),
        )


def expose(film: Film, metered: Film, nuisance: Nuisance) -> Film:
    """The detector's response: offset + gain * film ** gamma.

    Exposure is automatic: the mean of `metered` comes out as drawn, whatever the chest holds, so brightness tells
    nothing.
    """
    small = np.clip(cv2.resize(metered, (32, 32), interpolation=cv2.INTER_AREA), 1e-3, 1)
    gamma = 1.0
    for _ in range(5):  # Newton on the mean of metered ** gamma
        bent = small**gamma
        gamma -= float((bent.mean() - nuisance.mean) / (bent * np.log(small)).mean())
        gamma = min(max(gamma, 0.5), 2.2)
    bent = np.clip(metered, 0, 1) ** np.float32(gamma)
    offset = nuisance.mean - nuisance.gain * float(bent.mean())
    for _ in range(2):  # clipping moves the mean a little
        offset += nuisance.mean - float(np.clip(offset + nuisance.gain * bent, 0, 1).mean())
    return np.float32(offset) + np.float32(nuisance.gain) * np.clip(film, 0, 1) ** np.float32(gamma)


def add_scatter(film: Film, normal: Film, nuisance: Nuisance) -> Film:
    """Scattered radiation: a veil of the normal chest, widely blurred, so that a lesion changes its own place only."""
    height, width = film.shape
    small = cv2.resize(normal, (16, 16), interpolation=cv2.INTER_AREA)
    veil = cv2.resize(cv2.GaussianBlur(small, (0, 0), 2.0), (width, height), interpolation=cv2.INTER_LINEAR)
    return film + np.float32(nuisance.scatter) * (veil - film)


def finish(film: Film, metered: Film, nuisance: Nuisance) -> UInt8[np.ndarray, "height width"]:
    """Exposure (see `expose`), detector noise, collimation and the side marker."""
    height, width = film.shape
    rng = np.random.default_rng([nuisance.key, 1])
    grey = expose(film, metered, nuisance)
    grey += nuisance.noise * rng.standard_normal((height, width), dtype=np.float32)
    image = (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)
    left, top, right, bottom = (round(share * width) for share in nuisance.collimation)
    image[:top], image[height - bottom :] = 8, 8
    image[:, :left], image[:, width - right :] = 8, 8
    if nuisance.marker:  # the letter L beside the patient's left shoulder, which is at the image's right
        size = image.shape[0]
        origin = (round(0.9 * size + 0.01 * nuisance.rotation), round(0.1 * size))
        cv2.putText(image, "L", origin, cv2.FONT_HERSHEY_SIMPLEX, size / 450, 235, max(1, size // 100), cv2.LINE_AA)
    return image


def paint_devices(film: Film, geometry: Geometry, nuisance: Nuisance) -> None:
    """Lines, tubes, wires and leads, in place."""
    rng = np.random.default_rng([nuisance.key, 2])
    for device in nuisance.devices:
        side = 1 if rng.random() < 0.5 else -1
        jitter = rng.normal(0, 0.012, (8, 2))
        lines, width, strength = _course(device, side, jitter)
        blend(film, geometry.lines(lines, width, blur=0.002), 1.0, strength)


def _flip(points: list[tuple[float, float]], side: int, jitter: np.ndarray) -> np.ndarray:
    """A smooth course near the points, mirrored for the other side."""
    course = np.array(points) + jitter[: len(points)]
    knots = np.linspace(0, 1, len(course))
    fine = np.linspace(0, 1, 24)
    smooth = np.stack([np.interp(fine, knots, course[:, axis]) for axis in (0, 1)], axis=1)
    kernel = np.ones(5) / 5
    padded = np.pad(smooth, ((2, 2), (0, 0)), mode="edge")
    smooth = np.stack([np.convolve(padded[:, axis], kernel, mode="valid") for axis in (0, 1)], axis=1)
    return smooth if side > 0 else mirror(smooth)


def _course(device: str, side: int, jitter: np.ndarray) -> tuple[list[np.ndarray], float, float]:
    """Lines of a device, their width in canonical units, and how strongly they show."""
    match device:
        case "endotracheal tube":
            return [_flip([(0.5, -0.1), (0.495, 0.08), (0.493, 0.26)], 1, 0.4 * jitter)], 0.011, 0.55
        case "enteric tube":
            points = [(0.505, -0.1), (0.51, 0.2), (0.515, 0.45), (0.52, 0.7), (0.6, 0.82), (0.68, 0.84)]
            return [_flip(points, 1, 0.4 * jitter)], 0.009, 0.55
        case "central line":
            points = [(0.12, 0.17), (0.25, 0.13), (0.38, 0.16), (0.445, 0.22), (0.45, 0.4)]
            if side < 0:
                points = [(0.88, 0.17), (0.75, 0.13), (0.62, 0.16), (0.5, 0.23), (0.455, 0.3), (0.45, 0.42)]
            return [_flip(points, 1, 0.6 * jitter)], 0.007, 0.6
        case "pacemaker":
            turn = np.linspace(0, 2 * np.pi, 20)
            can = np.stack([0.8 + 0.035 * np.cos(turn), 0.24 + 0.03 * np.sin(turn)], axis=1) + jitter[0]
            core = np.stack([0.8 + 0.018 * np.cos(turn), 0.24 + 0.015 * np.sin(turn)], axis=1) + jitter[0]
            lead = [(0.77, 0.22), (0.66, 0.15), (0.54, 0.19), (0.455, 0.33), (0.46, 0.55), (0.56, 0.7)]
            return [can, core, _flip(lead, 1, 0.5 * jitter)], 0.009, 0.75
        case "sternal wires":
            turn = np.linspace(0, 2 * np.pi, 12)
            ring = np.stack([0.5 + 0.016 * np.cos(turn), 0.009 * np.sin(turn)], axis=1)
            return [ring + np.array([0.0, y]) for y in np.arange(0.24, 0.62, 0.075) + jitter[0, 1]], 0.005, 0.7
        case "ecg leads":
            right = _flip([(0.2, 1.1), (0.25, 0.75), (0.22, 0.45), (0.27, 0.24)], 1, 2 * jitter)
            left = _flip([(0.8, 1.1), (0.74, 0.7), (0.79, 0.45), (0.74, 0.25)], 1, 2 * jitter[::-1])
            return [right, left], 0.005, 0.6
        case "chest tube":
            return [_flip([(-0.02, 0.62), (0.12, 0.58), (0.22, 0.45), (0.29, 0.24)], side, jitter)], 0.011, 0.5
    raise ValueError(f"no device {device!r}; there are: {', '.join(_DEVICE_SHARES)}")
