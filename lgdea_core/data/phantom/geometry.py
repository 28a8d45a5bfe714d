"""Where anatomy lies on a film: contours and boxes in a canonical frame, and the map from it to pixels.

The canonical frame has x in [0, 1] from the image's left (the patient's right) and y in [0, 1] from the top. Everything
that is painted is a polygon of that frame, so one map (`Geometry`) moves anatomy, lesions, masks and boxes together.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

from lgdea_core.vocabulary import REGIONS

Box = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max"""

_RIGHT_LUNG = (
    (0.405, 0.15), (0.35, 0.118), (0.285, 0.132), (0.225, 0.19), (0.178, 0.29), (0.145, 0.42), (0.128, 0.56),
    (0.122, 0.68), (0.128, 0.775), (0.165, 0.738), (0.23, 0.7), (0.31, 0.688), (0.385, 0.7), (0.44, 0.735),
    (0.452, 0.65), (0.448, 0.55), (0.436, 0.45), (0.44, 0.36), (0.438, 0.27), (0.428, 0.2),
)  # fmt: skip
_HEART = (
    (0.47, 0.36), (0.438, 0.42), (0.425, 0.5), (0.415, 0.58), (0.42, 0.66), (0.45, 0.735), (0.54, 0.765),
    (0.64, 0.765), (0.71, 0.74), (0.728, 0.685), (0.705, 0.605), (0.655, 0.52), (0.605, 0.44), (0.57, 0.37),
)  # fmt: skip
_HEART_CENTER = np.array([0.5, 0.6])
LUNG_BOXES = {"right": (0.12, 0.118, 0.455, 0.775), "left": (0.545, 0.118, 0.88, 0.79)}
"""Canonical box of each lung: what a real film's lung boxes are matched with."""
HILUM = {"right": (0.405, 0.44), "left": (0.605, 0.425)}

_ONE_SIDE = {
    "lung": LUNG_BOXES["right"],
    "upper lung zone": (0.165, 0.118, 0.44, 0.34),
    "mid lung zone": (0.13, 0.34, 0.445, 0.53),
    "lower lung zone": (0.12, 0.53, 0.455, 0.775),
    "hilar structures": (0.31, 0.36, 0.45, 0.53),
    "apical zone": (0.22, 0.118, 0.43, 0.21),
    "costophrenic angle": (0.11, 0.69, 0.21, 0.79),
    "hemidiaphragm": (0.12, 0.675, 0.455, 0.785),
    "clavicle": (0.12, 0.1, 0.47, 0.2),
}
_MIDLINE = {
    "trachea": (0.465, 0.02, 0.53, 0.32),
    "spine": (0.45, 0.02, 0.55, 0.9),
    "aortic arch": (0.53, 0.25, 0.62, 0.35),
    "mediastinum": (0.41, 0.1, 0.73, 0.77),
    "upper mediastinum": (0.42, 0.1, 0.6, 0.36),
    "svc": (0.42, 0.2, 0.48, 0.4),
    "cardiac silhouette": (0.412, 0.36, 0.732, 0.77),
    "cavoatrial junction": (0.42, 0.4, 0.47, 0.48),
    "right atrium": (0.412, 0.48, 0.5, 0.7),
    "carina": (0.455, 0.3, 0.545, 0.38),
    "abdomen": (0.08, 0.72, 0.92, 1.0),
}


def mirror(points: Float[np.ndarray, "rows 2"]) -> Float[np.ndarray, "rows 2"]:
    """The same points on the other side of the midline."""
    return np.stack([1 - points[:, 0], points[:, 1]], axis=1)


def closed_curve(points: Float[np.ndarray, "rows 2"], steps: int = 5) -> Float[np.ndarray, "cols 2"]:
    """A smooth closed curve through the points (Catmull-Rom), `steps` points from one to the next."""
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (np.roll(points, shift, axis=0)[:, None] for shift in (1, 0, -1, -2))
    curve = p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    return curve.reshape(-1, 2)


RIGHT_LUNG = closed_curve(np.array(_RIGHT_LUNG))
LEFT_LUNG = mirror(RIGHT_LUNG) + np.stack([0 * RIGHT_LUNG[:, 0], 0.02 * (RIGHT_LUNG[:, 1] > 0.6)], axis=1)
LUNGS = {"right": RIGHT_LUNG, "left": LEFT_LUNG}
HEART = closed_curve(np.array(_HEART))


def heart_contour(width: float) -> Float[np.ndarray, "rows 2"]:
    """The heart, `width` times as wide as usual; it grows mostly to its left and a third as much in height."""
    grown = (HEART - _HEART_CENTER) * np.array([width, 1 + (width - 1) / 3])
    right_edge = np.where(grown[:, 0] < 0, 1 - 0.35 * max(width - 1, 0), 1.0)  # the right border moves less
    contour = _HEART_CENTER + grown * np.stack([right_edge, np.ones_like(right_edge)], axis=1)
    contour[:, 1] -= 0.03 * max(width - 1, 0)  # it rests on the diaphragm
    return contour


def region_canonical_boxes() -> dict[str, Box]:
    """Canonical boxes of the 29 regions, in the order of `vocabulary.REGIONS`."""
    boxes = dict(_MIDLINE)
    for name, (x_min, y_min, x_max, y_max) in _ONE_SIDE.items():
        boxes[f"right {name}"] = (x_min, y_min, x_max, y_max)
        boxes[f"left {name}"] = (1 - x_max, y_min, 1 - x_min, y_max)
    return {region: boxes[region] for region in REGIONS}


_REGION_CORNERS = np.array([[(a, b), (c, b), (a, d), (c, d)] for a, b, c, d in region_canonical_boxes().values()])


@dataclass(frozen=True, kw_only=True, eq=False)
class Geometry:
    """The map from the canonical frame to the pixels of one film: piecewise linear on each axis, then affine."""

    height: int
    width: int
    x_knots: tuple[tuple[float, ...], tuple[float, ...]]
    """canonical x -> x; linear between the knots, and beyond them with the slope of the last two"""
    y_knots: tuple[tuple[float, ...], tuple[float, ...]]
    affine: Float[np.ndarray, "2 3"]
    """to pixels, applied after the knots"""

    @classmethod
    def from_lung_boxes(cls, right: Box, left: Box, height: int, width: int) -> "Geometry":
        """The geometry of a real film from the boxes of its lungs, in its pixels.

        Args:
            right: the patient's right lung, which is on the image's left.
            left: the patient's left lung.
            height: of the film, in pixels.
            width: of the film, in pixels.

        Raises:
            ValueError: a box is empty, or the right lung is not left of the left one.
        """
        for name, box in (("right", right), ("left", left)):
            if box[2] <= box[0] or box[3] <= box[1]:
                raise ValueError(f"Geometry.from_lung_boxes: the {name} lung's box {box} is empty; give x_min < x_max")
        if right[0] + right[2] >= left[0] + left[2]:
            raise ValueError(
                f"Geometry.from_lung_boxes: right lung {right} must lie left of left lung {left} in the image"
            )
        canonical_right, canonical_left = LUNG_BOXES["right"], LUNG_BOXES["left"]
        gap = max(left[0], right[2] + 1)  # overlapping boxes must not fold the map
        x_knots = ((*canonical_right[::2], *canonical_left[::2]), (right[0], right[2], gap, max(left[2], gap + 1)))
        top, bottom = (right[1] + left[1]) / 2, (right[3] + left[3]) / 2
        y_knots = ((canonical_right[1], canonical_left[3]), (top, bottom))
        tilt = (left[1] + left[3] - right[1] - right[3]) / (left[0] + left[2] - right[0] - right[2])
        middle = (right[0] + right[2] + left[0] + left[2]) / 4
        affine = np.array([[1.0, 0.0, 0.0], [tilt, 1.0, -tilt * middle]])
        return cls(height=height, width=width, x_knots=x_knots, y_knots=y_knots, affine=affine)

    def pixels(self, points: Float[np.ndarray, "rows 2"]) -> Float[np.ndarray, "rows 2"]:
        """Canonical points in pixels."""
        (x_from, x_to), (y_from, y_to) = self._knots
        bent = np.empty((len(points), 2))
        bent[:, 0], bent[:, 1] = np.interp(points[:, 0], x_from, x_to), np.interp(points[:, 1], y_from, y_to)
        return bent @ self.affine[:, :2].T + self.affine[:, 2]

    @cached_property
    def _knots(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        return _extend(*self.x_knots), _extend(*self.y_knots)

    @cached_property
    def unit(self) -> float:
        """Pixels per canonical unit, the mean of both axes."""
        corners = self.pixels(np.array([[0.3, 0.3], [0.7, 0.3], [0.3, 0.7]]))
        return float(np.linalg.norm(corners[1:] - corners[0], axis=1).mean() / 0.4)

    def fill(self, contour: Float[np.ndarray, "rows 2"], blur: float = 0.0) -> Float32[np.ndarray, "height width"]:
        """A filled canonical contour, 0 to 1, blurred by a Gaussian of `blur` canonical units."""
        return self.fill_all([contour], blur)

    def fill_all(
        self, contours: list[Float[np.ndarray, "_ 2"]], blur: float = 0.0
    ) -> Float32[np.ndarray, "height width"]:
        """Several contours that do not overlap, filled as by `fill`."""
        canvas = np.zeros((self.height, self.width), np.uint8)
        cv2.fillPoly(canvas, self._fixed_points(contours), 255, lineType=cv2.LINE_AA, shift=4)
        return self._soften(canvas, blur)

    def lines(
        self, lines: list[Float[np.ndarray, "_ 2"]], width: float, blur: float = 0.0
    ) -> Float32[np.ndarray, "height width"]:
        """Canonical polylines of a canonical width, 0 to 1; lines thinner than a pixel get fainter instead."""
        canvas = np.zeros((self.height, self.width), np.uint8)
        thickness = max(1, round(width * self.unit))
        value = round(255 * min(1.0, width * self.unit / thickness))
        cv2.polylines(
            canvas, self._fixed_points(lines), False, value, thickness=thickness, lineType=cv2.LINE_AA, shift=4
        )
        return self._soften(canvas, blur)

    def _fixed_points(self, curves: list[Float[np.ndarray, "_ 2"]]) -> list[np.ndarray]:
        joined = np.round(self.pixels(np.concatenate(curves)) * 16).astype(np.int32)
        ends = np.cumsum([len(curve) for curve in curves]).tolist()
        return [joined[end - len(curve) : end] for curve, end in zip(curves, ends, strict=True)]

    def _soften(self, canvas: np.ndarray, blur: float) -> Float32[np.ndarray, "height width"]:
        sigma = blur * self.unit
        if sigma > 0.3:
            canvas = wide_blur(canvas, sigma)
        return canvas.astype(np.float32) * np.float32(1 / 255)

    @cached_property
    def lung_planes(self) -> dict[str, Float32[np.ndarray, "height width"]]:
        """Each lung field as a soft mask."""
        return {side: self.fill(contour, blur=0.004) for side, contour in LUNGS.items()}

    @cached_property
    def lungs(self) -> Float32[np.ndarray, "height width"]:
        """Both lung fields as one soft mask."""
        return np.maximum(self.lung_planes["right"], self.lung_planes["left"])

    def region_boxes(self) -> dict[str, Box]:
        """Boxes of the 29 regions in pixels, clipped to the film."""
        corners = self.pixels(_REGION_CORNERS.reshape(-1, 2)).reshape(-1, 4, 2)
        low = np.clip(corners.min(1), 0, (self.width, self.height)).tolist()
        high = np.clip(corners.max(1), 0, (self.width, self.height)).tolist()
        return {region: (*low[number], *high[number]) for number, region in enumerate(REGIONS)}


def box_of_mask(mask: Bool[np.ndarray, "height width"]) -> Box:
    """The tightest box around a mask; its far edges are exclusive, so one pixel has width 1."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)


def wide_blur(canvas: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur; a wide one is done on a smaller copy, which looks the same and costs less."""
    factor = int(sigma / 1.7)
    if factor < 2:
        return cv2.GaussianBlur(canvas, (0, 0), sigma)
    height, width = canvas.shape
    small = cv2.resize(canvas, (max(1, width // factor), max(1, height // factor)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / factor)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _extend(source: tuple[float, ...], target: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Knots far outside, on the straight lines through the first two and the last two."""
    low = target[0] - (source[0] + 9) * (target[1] - target[0]) / (source[1] - source[0])
    high = target[-1] + (10 - source[-1]) * (target[-1] - target[-2]) / (source[-1] - source[-2])
    return np.array((-9.0, *source, 10.0)), np.array((low, *target, high))
