"""The embedded phantom: a generated chest radiograph world with known truth, deterministic by (seed, index).

`generate_study` makes one study, `build_phantom` and `load_phantom` a corpus on disk, `paint_lesion` puts the same
lesions into real normal films (`Geometry.from_lung_boxes`).
"""

from lgdea_core.data.phantom.build import (
    build_phantom,
    load_phantom,
    load_phantom_config,
    load_phantom_table,
)
from lgdea_core.data.phantom.config import DEFAULT_PREVALENCE, EASY, PhantomConfig
from lgdea_core.data.phantom.geometry import Geometry
from lgdea_core.data.phantom.lesions import Lesion
from lgdea_core.data.phantom.study import PhantomStudy, generate_study, paint_lesion, render_study

__all__ = [
    "DEFAULT_PREVALENCE",
    "EASY",
    "Geometry",
    "Lesion",
    "PhantomConfig",
    "PhantomStudy",
    "build_phantom",
    "generate_study",
    "load_phantom",
    "load_phantom_config",
    "load_phantom_table",
    "paint_lesion",
    "render_study",
]
