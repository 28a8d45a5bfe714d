"""Corpora by name: one module per layout, one function to load any of them."""

import importlib
import logging
from pathlib import Path
from typing import Any

from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import combine, withhold_boxed_patients

logger = logging.getLogger("lgdea")

_LOADERS = {
    "phantom": ("lgdea_core.data.phantom", "load_phantom", ""),
    "nih": ("nih", "load", "nih-chestxray14"),
    "openi": ("openi", "load", "openi"),
    "covid_chestxray": ("covid_chestxray", "load", "covid-chestxray-dataset"),
    "mimic_cxr": ("mimic_cxr", "load", "mimic-cxr-jpg"),
    "ms_cxr": ("ms_cxr", "load", "ms-cxr"),
    "chest_imagenome": ("chest_imagenome", "load", "chest-imagenome"),
    "rsna": ("rsna", "load", "rsna-pneumonia"),
    "siim": ("siim", "load", "siim-acr-pneumothorax"),
    "chexpert": ("chexpert", "load", "chexpert"),
    "chexpert_5x200": ("chexpert_retrieval", "load_5x200", "chexpert"),
    "chexpert_8x200": ("chexpert_retrieval", "load_8x200", "chexpert"),
    "covidx": ("covidx", "load", "covidx"),
    "vindr": ("vindr", "load", "vindr-cxr"),
    "padchest": ("padchest", "load", "padchest"),
    "folder": ("folder", "load", "folder"),
    "painted_nih": ("painted_nih", "load", "nih-chestxray14"),
}
"""name -> module (of this package) and function that loads it, imported when asked for; folder"""
CORPORA = tuple(_LOADERS)
"""all names"""
FOLDERS = {name: folder for name, (_, _, folder) in _LOADERS.items() if folder}
"""name -> sub-folder of the data root (LGDEA_DATA) that `assemble` looks in"""

OWN_SPLITS = ("phantom", "folder", "painted_nih", "rsna", "vindr")
"""corpora with boxes on (nearly) all films that show something, in every split: `assemble` leaves the split alone, for
without them training would see normal films only, and test would not be the published one"""

OFFICIAL_SPLITS = ("folder", "mimic_cxr", "ms_cxr", "chest_imagenome", "chexpert_5x200", "chexpert_8x200")
"""corpora whose whole split is the publisher's or the user's: their loaders take no seed"""

RELATIVES = (
    {"mimic_cxr", "ms_cxr", "chest_imagenome"},
    {"nih", "painted_nih", "rsna", "siim", "covidx"},
    {"covid_chestxray", "covidx"},
    {"chexpert", "chexpert_5x200", "chexpert_8x200"},
)
"""corpora with patients in common, which their ids do not tell: a combination of two of them could leak"""


def load_corpus(name: str, root: Path, **options: Any) -> Corpus:
    """Load the corpus `name` from its folder.

    Args:
        name: one of `CORPORA`.
        root: that corpus's own folder.
        **options: of its loader, such as `label_reports=True` for nih.

    Raises:
        ValueError: unknown name; or whatever the loader finds wrong.
        FileNotFoundError: no such folder, or a file the layout needs is missing.
    """
    if name not in CORPORA:
        raise ValueError(f"unknown corpus {name!r}; known: {', '.join(sorted(CORPORA))}")
    if not root.is_dir():
        raise FileNotFoundError(f"corpus {name!r}: no folder at {root}; data/README.md says what belongs there")
    module, function, _ = _LOADERS[name]
    module = module if "." in module else f"{__name__}.{module}"
    corpus = getattr(importlib.import_module(module), function)(root, **options)
    for reason, count in sorted(corpus.exclusions.items()):
        logger.info("corpus %s: %s, %d times", name, reason, count)
    return corpus


def assemble(
    spec: str,
    root: Path,
    *,
    studies: int = 2000,
    image_size: int = 64,
    seed: int = 0,
    withhold_boxed: bool = True,
) -> Corpus:
    """The corpus a run names: one corpus, or `PAIRS+IMAGES+REPORTS` from three (see `combine`).

    `nih` has no reports of its own; as the source of pairs it gets sentences written from its labels (column
    report_source says "labels"). The phantom is built where it is missing.

    Args:
        spec: "phantom", "nih", "covid_chestxray+nih+openi", ...
        root: holds one sub-folder per corpus (`FOLDERS`), and one per configuration of the phantom.
        studies: size of the phantom.
        image_size: side of the phantom's images, in pixels.
        seed: of the phantom, and of splits that are not official.
        withhold_boxed: take patients with boxes out of training, in the corpus the images come from, so that all its
            boxes serve evaluation; corpora of `OWN_SPLITS` keep their split.

    Raises:
        ValueError: an unknown name, neither one nor three of them, or two with patients in common.
    """
    names = spec.split("+")
    unknown = [name for name in names if name not in CORPORA]
    if unknown or len(names) not in (1, 3):
        raise ValueError(
            f"corpus must be one name or PAIRS+IMAGES+REPORTS out of {', '.join(sorted(CORPORA))}, got {spec!r}"
        )
    for relatives in RELATIVES:
        shared = [name for name in names if name in relatives]
        if len(shared) > 1:
            raise ValueError(
                f"corpora {shared} have patients in common under ids that do not tell, so patients of one's test split "
                "could be in the other's train; name only one of them"
            )
    phantom = {"studies": studies, "image_size": image_size, "seed": seed}
    corpora = [
        _load_part(name, root, role, seed, phantom)
        for name, role in zip(names, ("pairs", "images", "reports"), strict=False)
    ]
    withhold = withhold_boxed and names[min(1, len(names) - 1)] not in OWN_SPLITS
    if len(corpora) == 1:
        return withhold_boxed_patients(corpora[0]) if withhold else corpora[0]
    return combine(pairs=corpora[0], images=corpora[1], reports=corpora[2], withhold_boxed=withhold)


def _load_part(name: str, root: Path, role: str, seed: int, phantom: dict[str, int]) -> Corpus:
    if name == "phantom":
        from lgdea_core.data.phantom import PhantomConfig, build_phantom

        folder = root / f"phantom-{phantom['studies']}x{phantom['image_size']}-seed{phantom['seed']}"
        return build_phantom(PhantomConfig(**phantom), folder)
    options: dict[str, Any] = {} if name in OFFICIAL_SPLITS else {"seed": seed}
    if name == "nih" and role == "pairs":
        options["label_reports"] = True
    return load_corpus(name, root / FOLDERS[name], **options)
