"""Chest ImaGenome 1.0.0: boxes of anatomy on 242,072 frontal MIMIC films, and what their reports say of each region.

    silver_dataset/scene_graph/<dicom_id>_SceneGraph.json   (scene_graph.zip, unpacked)
    silver_dataset/splits/train.csv, valid.csv, test.csv    , subject_id, study_id, dicom_id, path, ViewPosition
    silver_dataset/splits/images_to_avoid.csv               films of the 500 patients of the gold set
    files/p10/.../<dicom_id>.jpg and mimic-cxr-2.0.0-metadata.csv.gz, here or in `mimic-cxr-jpg` next to this folder

Boxes are a detector's, attributes a text miner's ("silver"); a gold set of 1,000 films was corrected by hand and its
patients are kept out of train and val. Of 36 regions the 29 of `vocabulary.REGIONS` are read. Boxes count in the
original film, whose size MIMIC's metadata gives; published ones may reach outside it and are cut, some have no area and
are left out. The corpus holds films and regions; reports are `mimic_cxr`'s, under the same ids.

Licence: PhysioNet Credentialed Health Data License 1.5.0. Cite Wu et al., "Chest ImaGenome Dataset for Clinical
Reasoning", NeurIPS Datasets and Benchmarks 2021.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lgdea_core.data.corpora.mimic_cxr import film_path, read_metadata
from lgdea_core.data.corpora.ms_cxr import mimic_root, withhold_patients
from lgdea_core.data.corpora.tables import Exclusions, film_row, make_table, parse_box, read_json, read_table
from lgdea_core.data.corpus import COLUMNS, Corpus
from lgdea_core.vocabulary import REGIONS

logger = logging.getLogger("lgdea")

SPLITS = {"train": "train", "valid": "val", "test": "test"}
ATTRIBUTE_COLUMNS = ("image_id", "region", "phrase", "category", "observation", "value")


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
        regions=pd.DataFrame(_regions(films, root, exclusions), columns=list(COLUMNS["regions"])),
        exclusions=exclusions,
    )
    exclusions.log("chest_imagenome")
    return corpus


def read_attributes(root: Path, image_ids: Iterable[str]) -> pd.DataFrame:
    """What the reports say of the regions of these films: `ATTRIBUTE_COLUMNS`, a row for each phrase and attribute.

    `anatomicalfinding|no|pneumothorax` becomes category anatomicalfinding, observation pneumothorax, value 0. `nlp`
    attributes say whether the phrase as a whole is abnormal. A film without a scene graph has no rows.

    Raises:
        ValueError: a scene graph is not in the layout; the message names file, region and attribute.
    """
    rows = [row for image_id in image_ids for row in _attributes(_graph_path(root, image_id), image_id)]
    return pd.DataFrame(rows, columns=list(ATTRIBUTE_COLUMNS))


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


def _graph_path(root: Path, image_id: str) -> Path:
    folder = root / "silver_dataset" / "scene_graph"
    nested = folder / "scene_graph"  # what some archivers make of the zip
    return (nested if nested.is_dir() else folder) / f"{image_id}_SceneGraph.json"


def _regions(films: pd.DataFrame, root: Path, exclusions: Exclusions) -> Iterator[tuple[Any, ...]]:
    for film in films.itertuples():
        path = _graph_path(root, film.dicom_id)
        if not path.is_file():  # a few published films have none
            exclusions.add("film without a scene graph", path.name)
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
    boxes = {}
    for number, each in enumerate(_part(path, "objects")):
        where = f"{path.name}, object {number}"
        if _key(each, "bbox_name", where) in REGIONS:
            boxes[each["bbox_name"]] = [_key(each, f"original_{side}", where) for side in ("x1", "y1", "x2", "y2")]
    return boxes


def _attributes(path: Path, image_id: str) -> Iterator[tuple[Any, ...]]:
    for number, each in enumerate(_part(path, "attributes") if path.is_file() else []):
        where = f"{path.name}, attribute {number}"
        if _key(each, "bbox_name", where) not in REGIONS:
            continue
        phrases, attributes = _key(each, "phrases", where), _key(each, "attributes", where)
        if len(phrases) != len(attributes):
            raise ValueError(f"{where}: {len(phrases)} phrases, but attributes of {len(attributes)}; fetch it again")
        for phrase, stated in zip(phrases, attributes, strict=True):
            for attribute in stated:
                category, status, observation = _split_attribute(attribute, where)
                yield image_id, each["bbox_name"], phrase, category, observation, float(status == "yes")


def _split_attribute(attribute: str, where: str) -> list[str]:
    parts = attribute.split("|")
    if len(parts) != 3 or parts[1] not in ("yes", "no"):
        raise ValueError(f"{where}: an attribute must be category|yes or no|observation, got {attribute!r}")
    return parts


def _part(path: Path, name: str) -> list[dict[str, Any]]:
    return _key(read_json(path), name, path.name)


def _key(content: dict[str, Any], name: str, where: str) -> Any:
    if name not in content:
        raise ValueError(f"{where}: no key {name!r}; it is not a scene graph of Chest ImaGenome, fetch it again")
    return content[name]
