"""Phantom lesions painted into real normal films of NIH ChestX-ray14: known truth on real anatomy.

Neither the lesions nor the reports are real. Films, patients and views are NIH's, as far as they are labelled "No
Finding" (and not positive in the RSNA challenge); lesions are `phantom.paint_lesions`, placed by the estimate
`phantom.lungs.fit_lungs`; reports are the phantom's. What is painted is smoother than the film around it, so a model
trained on these films may learn the paint.

The first call writes the films (grey, `FILM_SIDE` pixels on the shorter side) and tables to a folder, as for the
phantom. Licence and citation are those of `corpora.nih`.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pandas as pd
from jaxtyping import Float32
from tqdm.auto import tqdm

from lgdea_core.data.corpora import nih, rsna
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.images import read_image
from lgdea_core.data.pairing import stable_hash
from lgdea_core.data.phantom.config import PhantomConfig
from lgdea_core.data.phantom.files import build_folder, read_corpus_tables, write_pictures, write_tables
from lgdea_core.data.phantom.geometry import Geometry, box_of_mask
from lgdea_core.data.phantom.lungs import MIN_AGREEMENT, LungFit, fit_lungs
from lgdea_core.data.phantom.report import lesion_phrases, write_report
from lgdea_core.data.phantom.study import PhantomStudy, paint_lesions
from lgdea_core.data.phantom.truth import sample_truth
from lgdea_core.paths import project_root
from lgdea_core.vocabulary import NO_FINDING, PHANTOM_FINDINGS

NAME = "painted lesions on real normal films (nih)"
"""Name of the corpus: every table made from it says what it is."""
FILM_SIDE = 256
VERSION = 1
"""Raise it when the same films and configuration give other studies than before."""
EXCLUSIONS_FILE = "exclusions.json"
PAINTED = PhantomConfig(
    findings=tuple(finding for finding in PHANTOM_FINDINGS if finding != "cardiomegaly"), contrast=(0.35, 0.75)
)
"""The world of lesions and reports. No cardiomegaly: a painted heart leaves the real one's outline inside it (we
looked). Fainter than the phantom's, for at its contrast small lesions look calcified."""

logger = logging.getLogger("lgdea")

_MIN_PIXELS, _MIN_CHANGE = 12, 0.03
"""A lesion that covers fewer pixels, or changes the strongest tenth of them by fewer grey levels (of 1), lies outside
the film or hides in what is white already: the study's truth is drawn again."""
_TRIES = 50


@dataclass(frozen=True, kw_only=True)
class NormalFilm:
    """A real film to paint into."""

    film: str
    """NIH's image"""
    patient_id: str
    split: str
    view: str
    image: Float32[np.ndarray, "height width"]
    lungs: LungFit


def load(
    root: Path,
    seed: int = 0,
    per_film: int = 20,
    splits: Literal["nih", "test"] = "nih",
    config: PhantomConfig = PAINTED,
    folder: Path | None = None,
    progress: bool = False,
) -> Corpus:
    """The painted corpus of a folder of NIH films, made where it is not there yet.

    Args:
        root: of the NIH films, as for `corpora.nih`.
        seed: of the truth that is painted, and of NIH's train-val choice.
        per_film: studies made from each film, each with lesions of its own; about one in four stays without. Normal
            films are few in a sample of NIH, so the default is high.
        splits: "nih" for its lists (by patient), so that it can be trained on; "test" puts every study into test, for
            models that were trained on something else.
        config: the world lesions and reports come from; its size, seed and nuisance are not looked at.
        folder: where to write; `data/painted-nih-<per_film>-seed<seed>` of the project where it is None.
        progress: show a bar.

    Raises:
        ValueError: `per_film` below 1, an unknown choice of splits, no usable film, or a folder of another painting.
        FileNotFoundError: the NIH folder is incomplete.
    """
    if per_film < 1 or splits not in ("nih", "test"):
        raise ValueError(
            f"painted_nih: per_film must be at least 1 and splits nih or test, got {per_film} and {splits!r}"
        )
    world = replace(config, seed=seed)
    folder = folder or project_root() / "data" / f"painted-nih-{per_film}-seed{seed}"
    source = nih.load(root, seed=seed)
    normal, exclusions = normal_films(source)
    stamp = {
        "version": VERSION,
        "kind": NAME,
        "per_film": per_film,
        "films": hashlib.sha256(json.dumps(normal["image_id"].tolist()).encode()).hexdigest(),
        "config": world.to_json(),
    }

    def write(target: Path) -> None:
        _write(source, normal, world, per_film, exclusions, target, progress)

    if build_folder(folder, stamp, write, "painted_nih"):
        logger.info("%s written to %s", NAME, folder)
    tables = read_corpus_tables(folder)
    if splits == "test":
        tables["studies"] = tables["studies"].assign(split="test")
    return Corpus(name=NAME, root=folder, exclusions=json.loads((folder / EXCLUSIONS_FILE).read_text()), **tables)


def normal_films(source: Corpus) -> tuple[pd.DataFrame, dict[str, int]]:
    """Rows of the images labelled normal, with patient_id and split, and how many films were left out by reason."""
    labels = source.labels.pivot_table("value", "study_id", "finding", aggfunc="max")
    labels = labels.reindex(columns=[NO_FINDING, rsna.FINDING]).reindex(source.images["study_id"])
    found, suspicious = labels[NO_FINDING] != 1, labels[rsna.FINDING] == 1
    odd_view = ~source.images["view"].isin(["AP", "PA"]).to_numpy()
    reasons = {
        "film with a finding": found.to_numpy(),
        "normal film boxed by RSNA": (~found & suspicious).to_numpy(),
        "normal film of another view": ~(found | suspicious).to_numpy() & odd_view,
    }
    usable = ~np.logical_or.reduce([*reasons.values()])
    patients = source.studies[["study_id", "patient_id", "split"]]
    normal = source.images[usable].merge(patients, on="study_id")
    if normal.empty:
        raise ValueError(f"painted_nih: no film under {source.root} is labelled normal; there is nothing to paint on")
    return normal, {reason: int(rows.sum()) for reason, rows in reasons.items() if rows.any()}


def paint_study(film: NormalFilm, world: PhantomConfig, number: int) -> PhantomStudy:
    """One study of a film: a truth drawn as the phantom's is, painted and reported; a pure function of its arguments.

    Raises:
        RuntimeError: no truth could be placed on this film.
    """
    geometry = Geometry.from_lung_boxes(film.lungs.right, film.lungs.left, *film.image.shape)
    rng = np.random.default_rng(int(stable_hash(world.seed, f"{film.film}/{number}")[:16], 16))
    for _ in range(_TRIES):
        truth = sample_truth(world, rng)
        painted, masks = paint_lesions(film.image, truth.lesions, geometry)
        if all(_shows(np.abs(painted - film.image)[mask]) for mask in masks):
            break
    else:
        raise RuntimeError(f"painted_nih: no lesions of {_TRIES} draws show on film {film.film}; are its lungs found?")
    report, evidence = write_report(world, truth, film.view, (), rng)
    return PhantomStudy(
        study_id=f"{film.film}_{number}",
        patient_id=film.patient_id,
        image=(np.clip(painted, 0, 1) * 255 + 0.5).astype(np.uint8),
        view=film.view,
        has_device=False,
        findings=truth.findings,
        lesions=truth.lesions,
        masks=masks,
        boxes_xyxy=np.array([box_of_mask(mask) for mask in masks], dtype=np.float64).reshape(-1, 4),
        phrases=lesion_phrases(truth, evidence),
        regions=geometry.region_boxes(),
        report=report,
        evidence=evidence,
    )


def _shows(change: Float32[np.ndarray, " pixels"]) -> bool:
    return len(change) >= _MIN_PIXELS and bool(np.quantile(change, 0.9) >= _MIN_CHANGE)


def read_films(
    source: Corpus, normal: pd.DataFrame, exclusions: dict[str, int], progress: bool
) -> Iterator[NormalFilm]:
    """The readable films in which lungs are found, one by one; the others are counted in `exclusions`."""
    for row in tqdm(normal.itertuples(), total=len(normal), unit="film", desc="painting", disable=not progress):
        try:
            image = _shrunken(read_image(source.root / row.path))
        except (ValueError, FileNotFoundError) as error:
            logger.warning("painted_nih: %s", error)
            exclusions["normal film that cannot be read"] = exclusions.get("normal film that cannot be read", 0) + 1
            continue
        lungs = fit_lungs(image)
        if lungs.agreement < MIN_AGREEMENT:
            exclusions["normal film without clear lungs"] = exclusions.get("normal film without clear lungs", 0) + 1
            continue
        yield NormalFilm(
            film=row.image_id, patient_id=row.patient_id, split=row.split, view=row.view, image=image, lungs=lungs
        )


def _write(
    source: Corpus,
    normal: pd.DataFrame,
    world: PhantomConfig,
    per_film: int,
    exclusions: dict[str, int],
    target: Path,
    progress: bool,
) -> None:
    films: list[tuple[str, str]] = []

    def studies() -> Iterator[PhantomStudy]:
        for film in read_films(source, normal, exclusions, progress):
            films.extend([(film.film, film.split)] * per_film)
            yield from (paint_study(film, world, number) for number in range(per_film))

    tables = write_pictures(studies(), world.findings, target, source="painted")
    if not films:
        raise ValueError(f"painted_nih: in none of {len(normal)} normal films were lungs found, so none can be painted")
    names, split = zip(*films, strict=True)
    tables["studies"] = tables["studies"].assign(split=split, film=names, provenance=NAME)
    write_tables(tables, target)
    (target / EXCLUSIONS_FILE).write_text(json.dumps(exclusions, indent=1) + "\n")


def _shrunken(image: Float32[np.ndarray, "height width"]) -> Float32[np.ndarray, "_ _"]:
    scale = FILM_SIDE / min(image.shape)
    if scale >= 1:
        return image
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
