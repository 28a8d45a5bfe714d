"""Scene graphs of Chest ImaGenome: boxes of anatomy on frontal MIMIC films.

    silver_dataset/scene_graph/<dicom_id>_SceneGraph.json   (scene_graph.zip, unpacked)

Boxes are a detector's ("silver"). Of 36 regions the 29 of `vocabulary.REGIONS` are read. Boxes count in the original
film, whose size MIMIC's metadata gives; published ones may reach outside it and are cut, some have no area and are left
out.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from lgdea_core.data.corpora.tables import Exclusions, parse_box, read_json
from lgdea_core.data.corpus import COLUMNS
from lgdea_core.vocabulary import REGIONS

FOLDER = "chest-imagenome"
"""name of the folder that holds `silver_dataset/`"""


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


def _graph_path(root: Path, image_id: str) -> Path:
    folder = root / "silver_dataset" / "scene_graph"
    nested = folder / "scene_graph"  # what some archivers make of the zip
    return (nested if nested.is_dir() else folder) / f"{image_id}_SceneGraph.json"


def _regions(films: pd.DataFrame, root: Path, exclusions: Exclusions) -> Iterator[tuple[Any, ...]]:
    for film in tqdm(films.itertuples(), total=len(films), unit="film", desc="scene graphs", delay=3):
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
    for number, each in enumerate(_key(read_json(path), "objects", path.name)):
        where = f"{path.name}, object {number}"
        if _key(each, "bbox_name", where) in REGIONS:
            boxes[each["bbox_name"]] = [_key(each, f"original_{side}", where) for side in ("x1", "y1", "x2", "y2")]
    return boxes


def _key(content: dict[str, Any], name: str, where: str) -> Any:
    if name not in content:
        raise ValueError(f"{where}: no key {name!r}; it is not a scene graph of Chest ImaGenome, fetch it again")
    return content[name]
