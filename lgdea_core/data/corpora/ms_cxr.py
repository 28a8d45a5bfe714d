"""MS-CXR: 1,162 phrase-image pairs of MIMIC-CXR-JPG, boxed by radiologists; eight findings; for evaluation only.

    MS_CXR_Local_Alignment_v1.1.0.csv   dicom_id, category_name, label_text, path, x, y, w, h, image_width, image_height
                                        [, split]
    MS_CXR_Local_Alignment_v1.1.0.json  images, annotations and categories in COCO's manner
    files/p10/.../<dicom_id>.jpg        MIMIC-CXR-JPG's, here or in `mimic-cxr-jpg` next to this folder

Rows with the same image and `label_text` are one sample with several boxes. Boxes count in the original film, whose
size the table gives. Phrases are radiologists' words of one report sentence or written anew. Every study is of split
test; column `original_split` has the publisher's (v1.1.0), which is not MIMIC's.

Licence: PhysioNet Credentialed Health Data License 1.5.0. Cite Boecking et al., "Making the Most of Text Semantics to
Improve Biomedical Vision-Language Processing", ECCV 2022.
"""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lgdea_core.data.corpora.tables import Exclusions, box_row, film_row, make_table, parse_box, read_json, read_table
from lgdea_core.data.corpus import Corpus
from lgdea_core.vocabulary import MS_CXR_FINDINGS

logger = logging.getLogger("lgdea")

COLUMNS = (
    "dicom_id", "category_name", "label_text", "path", "x", "y", "w", "h", "image_width", "image_height",
)  # fmt: skip
PATH = r"^files/p\d\d/(?P<patient_id>p\d+)/(?P<study_id>s\d+)/(?P<film>[^/]+)\.jpg$"
FOLDER, MIMIC_FOLDER = "ms-cxr", "mimic-cxr-jpg"
"""names of this corpus's folder and of the films' one"""


def load(root: Path, images: Path | None = None) -> Corpus:
    """Load the newest table, csv before json, with the films it names.

    Args:
        root: holds the table.
        images: the folder that holds MIMIC-CXR-JPG's `files/`; None takes `root` or `mimic-cxr-jpg` next to it.

    Raises:
        FileNotFoundError: no table, or none of its films.
        ValueError: from `read_alignment`, naming file and line, or annotation of the json, counted from 0.
    """
    table = find_table(root)
    if table is None:
        raise FileNotFoundError(f"no MS_CXR_Local_Alignment_v*.csv or .json in {root}, see data/README.md")
    exclusions = Exclusions()
    rows, films_root = read_alignment(table), mimic_root(root, images)
    films = _films(rows, films_root, exclusions)
    if not films:
        raise FileNotFoundError(f"no film of {table.name} under {films_root / 'files'}; unpack MIMIC-CXR-JPG there")
    rows = rows[rows["dicom_id"].isin({film["image_id"] for film in films})]
    studies = rows.drop_duplicates("study_id")[["study_id", "patient_id", "split"]]
    corpus = Corpus(
        name="ms_cxr",
        root=films_root,
        studies=studies.rename(columns={"split": "original_split"}).assign(split="test", report=None),
        images=make_table("images", films),
        boxes=make_table("boxes", [box for row in rows.itertuples() if (box := _box(row, exclusions))]),
        exclusions=exclusions,
    )
    exclusions.log("ms_cxr")
    return corpus


def find_table(*folders: Path) -> Path | None:
    """The newest table in the first of these folders that has one, csv before json; None without any."""
    for folder in folders:
        found = [path for path in folder.glob("MS_CXR_Local_Alignment_v*") if path.suffix in (".csv", ".json")]
        if found:
            return max(found, key=lambda path: (path.stem, path.suffix == ".csv"))
    return None


def find_beside(root: Path) -> Path:
    """The table in MIMIC's folder, or in `ms-cxr` in it, next to it or next to its parent (PhysioNet's own tree).

    `ms-cxr` may hold the table or a folder for each version.

    Raises:
        FileNotFoundError: there is none.
    """
    path = find_table(root, *folders_beside(root, FOLDER))
    if path is None:
        raise FileNotFoundError(
            f"no MS_CXR_Local_Alignment_v*.csv or .json in {root} or in a folder {FOLDER} in or next to it: its "
            "patients must not train. Put the table of MS-CXR there (one file, under MIMIC-CXR's credentials: "
            "https://physionet.org/content/ms-cxr/), or keep them by load_corpus(..., ms_cxr_table=None) and never "
            "judge by MS-CXR what is trained on them"
        )
    return path


def folders_beside(root: Path, name: str) -> Iterator[Path]:
    """Where what belongs to MIMIC may lie: `name`, and its versions' folders, in `root` or next to it or its parent."""
    for place in (root, *root.absolute().parents[:2]):
        yield place / name
        yield from sorted((place / name).glob("*/"), reverse=True)


def mimic_root(root: Path, images: Path | None) -> Path:
    """The folder that holds MIMIC-CXR-JPG's `files/`: the given one, `root`, or `mimic-cxr-jpg` next to it."""
    if images is not None:
        return images
    return root if (root / "files").is_dir() else root.parent / MIMIC_FOLDER


def withhold_patients(
    films: pd.DataFrame, root: Path, table: Path | Literal["beside"] | None, exclusions: Exclusions
) -> pd.DataFrame:
    """MIMIC films without those of train and val whose patient has a box in MS-CXR; their studies are counted.

    Args:
        films: has columns patient_id, study_id and split.
        root: of the corpus the films are of.
        table: MS-CXR's; "beside" takes that of `find_beside`; None keeps all films, and warns.
        exclusions: counted in.

    Raises:
        FileNotFoundError: no table is beside.
    """
    if table is None:
        exclusions.count("ms_cxr_table=None, so MS-CXR's patients are trained on", 1)
        logger.warning("%s is read without MS-CXR's table: do not judge by MS-CXR what is trained on it", root)
        return films
    path = find_beside(root) if table == "beside" else Path(table)
    withheld = films["patient_id"].isin(read_patients(path)) & (films["split"] != "test")
    exclusions.count("study of an MS-CXR patient, kept out of training", films.loc[withheld, "study_id"].nunique())
    return films[~withheld]


def read_patients(table: Path) -> set[str]:
    """Patients with a box ("p10000032"), none of whom may be trained on before an evaluation on MS-CXR."""
    return set(read_alignment(table)["patient_id"])


def read_alignment(table: Path) -> pd.DataFrame:
    """Rows of a csv or json: `COLUMNS`, split (None before v1.1.0), patient_id, study_id, and `where` they stand.

    Raises:
        ValueError: there is no row, or one has an unknown category or path, another film's id or no phrase; an
            annotation of the json lacks a key. No cell is quoted: in a shifted row it is a report's.
    """
    rows = _from_json(table) if table.suffix == ".json" else read_table(table, COLUMNS)
    if rows.empty:
        raise ValueError(f"{table.name}: no rows; fetch the table again")
    if "line" in rows:
        rows = rows.assign(where=[f"{table.name}, line {line}" for line in rows["line"]])
    rows = rows.assign(split=rows.get("split"))
    rows = rows.assign(**rows["path"].str.extract(PATH), finding=rows["category_name"].str.lower())
    for wrong, column, expected in (
        (rows["patient_id"].isna(), "path", "files/p10/p10000032/s50414267/<dicom_id>.jpg"),
        (rows["dicom_id"] != rows["film"], "dicom_id", "that of the film in column path"),
        (~rows["finding"].isin(MS_CXR_FINDINGS), "category_name", f"one of {MS_CXR_FINDINGS}"),
        (rows["label_text"].str.strip() == "", "label_text", "a phrase, but it is blank"),
    ):
        if wrong.any():
            where = rows.loc[wrong, "where"].iloc[0]
            raise ValueError(f"{where}: {column} must be {expected}; if the cells are shifted, fetch the table again")
    return rows.assign(where=[f"{row.where}, film {row.film!r}" for row in rows.itertuples()])


def _from_json(table: Path) -> pd.DataFrame:
    content, rows, where = read_json(table), [], table.name
    try:
        images = {image["id"]: image for image in content["images"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        for number, annotation in enumerate(content["annotations"]):
            where = f"{table.name}, annotation {number}"
            rows.append({**_flat(annotation, images, names), "where": where})
    except KeyError as error:
        raise ValueError(f"{where}: key {error} is missing or refers to nothing; fetch the file again") from error
    except (TypeError, ValueError) as error:  # a list, number or null in place of something else
        raise ValueError(f"{where}: not in MS-CXR's layout ({error}); fetch the file again") from error
    return pd.DataFrame(rows)


def _flat(annotation: dict[str, Any], images: dict[int, Any], names: dict[int, str]) -> dict[str, Any]:
    """One annotation with the columns of the csv."""
    image = images[annotation["image_id"]]
    texts = {
        "category_name": names[annotation["category_id"]],
        "label_text": annotation["label_text"],
        "path": image["path"],
    }
    for key, text in texts.items():
        if not isinstance(text, str):
            raise TypeError(f"{key} must be text, not {type(text).__name__}")
    if len(annotation["bbox"]) != 4:
        raise ValueError(f"bbox must be four numbers, not {len(annotation['bbox'])}")
    return {
        "dicom_id": Path(image["path"]).stem,
        **texts,
        **dict(zip("xywh", annotation["bbox"], strict=True)),
        "image_width": image["width"],
        "image_height": image["height"],
        "split": annotation.get("split", image.get("split")),
    }


def _films(rows: pd.DataFrame, films_root: Path, exclusions: Exclusions) -> list[dict[str, Any]]:
    films = [
        film_row(row.dicom_id, row.study_id, films_root, films_root / row.path, "unknown", row.where, exclusions)
        for row in rows.drop_duplicates("dicom_id").itertuples()
    ]
    return [film for film in films if film is not None]


def _box(row: Any, exclusions: Exclusions) -> dict[str, Any] | None:
    try:
        frame = _frame(row)
        corners = parse_box((row.x, row.y, row.w, row.h), frame, as_xywh=True)
    except ValueError as error:
        exclusions.add("bad box", f"{row.where}: {error}", defect=True)
        return None
    phrase = " ".join(row.label_text.split())
    return box_row(row.dicom_id, row.study_id, phrase, row.finding, corners, frame, "ms_cxr")


def _frame(row: Any) -> tuple[float, float]:
    try:
        frame = (float(row.image_width), float(row.image_height))
    except (TypeError, ValueError):  # JSON may say null
        frame = (math.nan, math.nan)
    if not all(0 < side < math.inf for side in frame):
        raise ValueError("image_width and image_height must be positive numbers")
    return frame
