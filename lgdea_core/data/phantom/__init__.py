"""The embedded phantom: a generated chest radiograph world with known truth, deterministic by (seed, index).

`generate_study` makes one study, `build_phantom` and `load_phantom` a corpus on disk, `paint_lesions` puts the same
lesions into real normal films (`Geometry.from_lung_boxes`, `fit_lungs`). `build_hard_set` makes a test set that asks
what ordinary studies seldom ask, `mismatched_pools` a training set whose reports come from another world,
`abundant_pools` one with more unpaired images and reports.
"""

from lgdea_core.data.phantom.config import DEFAULT_PREVALENCE, EASY, PhantomConfig
from lgdea_core.data.phantom.files import build_phantom, load_phantom, load_phantom_table
from lgdea_core.data.phantom.geometry import Geometry
from lgdea_core.data.phantom.hard import STRATA, build_hard_set, load_hard_set, load_probes
from lgdea_core.data.phantom.lesions import Lesion
from lgdea_core.data.phantom.lungs import fit_lungs
from lgdea_core.data.phantom.pools import SHIFTED_PREVALENCE, abundant_pools, mismatched_pools
from lgdea_core.data.phantom.study import (
    PhantomStudy,
    generate_study,
    paint_lesions,
    plan_study,
    render_study,
)

__all__ = [
    "DEFAULT_PREVALENCE",
    "EASY",
    "SHIFTED_PREVALENCE",
    "STRATA",
    "Geometry",
    "Lesion",
    "PhantomConfig",
    "PhantomStudy",
    "abundant_pools",
    "build_hard_set",
    "build_phantom",
    "fit_lungs",
    "generate_study",
    "load_hard_set",
    "load_phantom",
    "load_phantom_table",
    "load_probes",
    "mismatched_pools",
    "paint_lesions",
    "plan_study",
    "render_study",
]
