"""Chest ImaGenome 1.0.0: boxes of anatomy on 242,072 frontal MIMIC films, without their reports.

    silver_dataset/scene_graph/<dicom_id>_SceneGraph.json   (scene_graph.zip, unpacked)
    silver_dataset/splits/train.csv, valid.csv, test.csv    , subject_id, study_id, dicom_id, path, ViewPosition
    silver_dataset/splits/images_to_avoid.csv               films of the 500 patients of the gold set
    files/p10/.../<dicom_id>.jpg and mimic-cxr-2.0.0-metadata.csv.gz, here or in `mimic-cxr-jpg` next to this folder

Boxes are a detector's ("silver"). Of 36 regions the 29 of `vocabulary.REGIONS` are read. Boxes count in the original
film, whose size MIMIC's metadata gives; published ones may reach outside it and are cut, some have no area and are left
out. A gold set of 1,000 films was corrected by hand and its patients are kept out of train and val. The corpus holds
films and regions and, without reports, no pairs: `mimic_cxr` reads the same boxes for the films of its own split, and
that is the corpus to train on.

Licence: PhysioNet Credentialed Health Data License 1.5.0. Cite Wu et al., "Chest ImaGenome Dataset for Clinical
Reasoning", NeurIPS Datasets and Benchmarks 2021.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from tqdm.auto import tqdm

from lgdea_core.data.corpora.mimic_cxr import read_metadata
from lgdea_core.data.corpora.ms_cxr import mimic_root, withhold_patients
from lgdea_core.data.corpora.tables import (
    Exclusions,
    Layout,
    film_table,
    json_rows,
    parse_box,
    read_json,
    read_table,
)
from lgdea_core.data.corpus import COLUMNS, Corpus
from lgdea_core.vocabulary import REGIONS

FOLDER = "chest-imagenome"
"""name of the folder that holds `silver_dataset/`"""
SPLITS = {"train": "train", "valid": "val", "test": "test"}
LIST = Layout(columns=("dicom_id", "subject_id", "study_id"), key="dicom_id")
SIDES = ("original_x1", "original_y1", "original_x2", "original_y2")


def load(root: Path, images: Path | None = None, ms_cxr_table: Path | Literal["beside"] | None = "beside") -> Corpus:
    """Load films, splits and region boxes.

    Args:
        root: holds `silver_dataset/`.
        images: the folder that holds MIMIC-CXR-JPG; None takes `root` or `mimic-cxr-jpg` next to it.
        ms_cxr_table: as for `mimic_cxr`.

    Raises:
        FileNotFoundError: a table is missing, MS-CXR's too, or no film is there.
        ValueError: a table lacks a column, a scene graph is not in the layout.
    """
    exclusions, films_root = Exclusions(), mimic_root(root, images)
    films = exclusions.drop_nobody(_films(root, films_root, exclusions), "subject_id")
    films = withhold_patients(films, root, ms_cxr_table, exclusions)
    missing = f"no film of {root.name}'s splits under {films_root / 'files'}; unpack MIMIC-CXR-JPG"
    films, table = film_table(films, films_root, exclusions, missing=missing)
    return Corpus(
        name="chest_imagenome",
        root=films_root,
        studies=films.drop_duplicates("study_id")[["study_id", "patient_id", "split"]].assign(report=None),
        images=table,
        regions=read_regions(films, root, exclusions),
        exclusions=exclusions,
    )


def _films(root: Path, films_root: Path, exclusions: Exclusions) -> pd.DataFrame:
    """Listed films with split and size; those of the gold set's patients only in test."""
    folder = root / "silver_dataset" / "splits"
    listed = pd.concat([LIST.read(folder / f"{name}.csv").assign(split=split) for name, split in SPLITS.items()])
    gold = read_table(folder / "images_to_avoid.csv", ("dicom_id",))["dicom_id"]
    metadata = read_metadata(films_root)
    films = listed[["dicom_id", "split", "where"]].merge(metadata.drop(columns="where"), on="dicom_id", how="left")
    unknown = films.loc[films["patient_id"].isna(), "where"]
    if len(unknown):
        raise ValueError(
            f"{unknown.iloc[0]}: the film is not in MIMIC's metadata ({len(unknown)} such); fetch both again"
        )
    patients = metadata.loc[metadata["dicom_id"].isin(set(gold)), "patient_id"]  # all their films, listed there or not
    avoid = films["patient_id"].isin(set(patients)) & (films["split"] != "test")
    return exclusions.drop(films, avoid, "film of a gold patient, kept out of training")


def read_regions(films: pd.DataFrame, root: Path, exclusions: Exclusions) -> pd.DataFrame:
    """Table regions of these films; one without a scene graph has no rows and is counted.

    Args:
        films: has columns dicom_id, study_id, width and height.
        root: holds `silver_dataset/`.
        exclusions: counted in.

    Raises:
        ValueError: a scene graph is not in the layout; the message names file and object.
    """
    return pd.DataFrame(_regions(films, root, exclusions), columns=list(COLUMNS["regions"]))


def _regions(films: pd.DataFrame, root: Path, exclusions: Exclusions) -> Iterator[tuple[Any, ...]]:
    folder = root / "silver_dataset" / "scene_graph"
    nested = folder / "scene_graph"  # what some archivers make of the zip
    folder = nested if nested.is_dir() else folder
    for film in tqdm(films.itertuples(), total=len(films), unit="film", desc="scene graphs", delay=3):
        path = folder / f"{film.dicom_id}_SceneGraph.json"
        if not os.path.isfile(path):  # a few published films have none
            exclusions.count("film without a scene graph", 1)
            continue
        frame = (float(film.width), float(film.height))
        for region, corners in _boxes(path).items():
            try:
                box = parse_box(corners, frame, tolerance=math.inf)
            except ValueError as error:
                exclusions.add("region box without area on its film", f"{path.name}, region {region!r}: {error}")
                continue
            yield film.dicom_id, film.study_id, region, *box, *frame


def _boxes(path: Path) -> dict[str, list[Any]]:
    """Corners of each region in original pixels; of a region named twice the last, as in ttanida/rgrg."""
    content = read_json(path)
    objects = content.get("objects") if isinstance(content, dict) else None
    boxes = {}
    for number, each in enumerate(json_rows(f"{path.name}, objects", objects, bbox_name=str)):
        if each["bbox_name"] in REGIONS:
            missing = [side for side in SIDES if side not in each]
            if missing:
                raise ValueError(f"{path.name}, objects, entry {number}: no key {missing[0]!r}; fetch the file again")
            boxes[each["bbox_name"]] = [each[side] for side in SIDES]
    return boxes
