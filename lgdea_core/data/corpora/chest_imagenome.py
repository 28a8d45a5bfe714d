"""Chest ImaGenome 1.0.0: boxes of anatomy on 242,072 frontal MIMIC films, without their reports.

    silver_dataset/scene_graph/<dicom_id>_SceneGraph.json   (scene_graph.zip, unpacked)
    silver_dataset/splits/train.csv, valid.csv, test.csv    , subject_id, study_id, dicom_id, path, ViewPosition
    silver_dataset/splits/images_to_avoid.csv               films of the 500 patients of the gold set
    files/p10/.../<dicom_id>.jpg and mimic-cxr-2.0.0-metadata.csv.gz, here or in `mimic-cxr-jpg` next to this folder

A gold set of 1,000 films was corrected by hand and its patients are kept out of train and val. What is read of a scene
graph stands in `scene_graphs`. The corpus holds films and regions and, without reports, no pairs: `mimic_cxr` reads the
same boxes for the films of its own split, and that is the corpus to train on.

Licence: PhysioNet Credentialed Health Data License 1.5.0. Cite Wu et al., "Chest ImaGenome Dataset for Clinical
Reasoning", NeurIPS Datasets and Benchmarks 2021.
"""

from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lgdea_core.data.corpora.mimic_cxr import film_path, read_metadata
from lgdea_core.data.corpora.ms_cxr import mimic_root, withhold_patients
from lgdea_core.data.corpora.scene_graphs import read_regions
from lgdea_core.data.corpora.tables import Exclusions, film_row, make_table, read_table
from lgdea_core.data.corpus import Corpus

SPLITS = {"train": "train", "valid": "val", "test": "test"}


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
    films = _films(root, films_root, exclusions)
    films = withhold_patients(films, root, ms_cxr_table, exclusions)
    rows = [image for film in films.itertuples() if (image := _image(film, films_root, exclusions))]
    if not rows:
        raise FileNotFoundError(f"no film of {root.name}'s splits under {films_root / 'files'}; unpack MIMIC-CXR-JPG")
    films = films[films["dicom_id"].isin({row["image_id"] for row in rows})]
    studies = films.drop_duplicates("study_id")[["study_id", "patient_id", "split"]]
    corpus = Corpus(
        name="chest_imagenome",
        root=films_root,
        studies=studies.assign(report=None),
        images=make_table("images", rows),
        regions=read_regions(films, root, exclusions),
        exclusions=exclusions,
    )
    exclusions.log("chest_imagenome")
    return corpus


def _films(root: Path, films_root: Path, exclusions: Exclusions) -> pd.DataFrame:
    """Listed films with split and size; those of the gold set's patients only in test."""
    folder = root / "silver_dataset" / "splits"
    columns = ("dicom_id", "subject_id", "study_id")
    lists = [
        read_table(folder / f"{name}.csv", columns).assign(split=split, table=f"{name}.csv")
        for name, split in SPLITS.items()
    ]
    listed = pd.concat(lists)
    listed["where"] = [f"{row.table}, line {row.line}, film {row.dicom_id!r}" for row in listed.itertuples()]
    listed = listed[["dicom_id", "split", "where"]]
    gold = read_table(folder / "images_to_avoid.csv", ("dicom_id",))["dicom_id"]
    metadata = read_metadata(films_root)
    films = listed.merge(metadata, on="dicom_id", how="left")
    unknown = films.loc[films["patient_id"].isna(), "where"]
    if len(unknown):
        raise ValueError(
            f"{unknown.iloc[0]}: the film is not in MIMIC's metadata ({len(unknown)} such); fetch both again"
        )
    patients = metadata.loc[metadata["dicom_id"].isin(set(gold)), "patient_id"]  # all their films, listed there or not
    avoid = films["patient_id"].isin(set(patients)) & (films["split"] != "test")
    exclusions.count("film of a gold patient, kept out of training", int(avoid.sum()))
    return films[~avoid]


def _image(film: Any, films_root: Path, exclusions: Exclusions) -> dict[str, Any] | None:
    path = film_path(films_root, film.patient_id, film.study_id, film.dicom_id)
    return film_row(film.dicom_id, film.study_id, films_root, path, film.view, film.where, exclusions)
