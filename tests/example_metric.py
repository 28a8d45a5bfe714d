"""A metric of one's own: the energy-based pointing game (Wang et al., Score-CAM, CVPR Workshops 2020)."""

import numpy as np
from jaxtyping import Float


def energy(inside: Float[np.ndarray, "pixels"], outside: Float[np.ndarray, "others"]) -> float:
    """Share of all positive similarity that lies in the boxes, in [0, 1]; 0 for a map without any.

    Args:
        inside: values of the map on the annotated pixels that the model saw.
        outside: values on all others that it saw.
    """
    found, elsewhere = np.maximum(inside, 0).sum(), np.maximum(outside, 0).sum()
    return float(found / (found + elsewhere)) if found > 0 else 0.0
