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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lgdea_core.data.corpora.tables import (
    Cells,
    Exclusions,
    Layout,
    box_table,
    film_table,
    json_rows,
    read_json,
)
from lgdea_core.data.corpus import Corpus, quoted
from lgdea_core.vocabulary import MS_CXR_FINDINGS

logger = logging.getLogger("lgdea")

PATH = r"^files/p\d\d/(?P<patient_id>p\d+)/(?P<study_id>s\d+)/(?P<film>[^/]+)\.jpg$"
ALIGNMENT = Layout(
    columns=(
        "dicom_id", "category_name", "label_text", "path", "x", "y", "w", "h", "image_width", "image_height",
    ),
    key="dicom_id",
    cells=(
        Cells(
            "path",
            "files/p10/p10000032/s50414267/<dicom_id>.jpg",
            lambda rows: rows["path"].str.extract(PATH)["film"].notna(),
        ),
        Cells(
            "dicom_id",
            "that of the film in column path",
            lambda rows: rows["path"].str.extract(PATH)["film"] == rows["dicom_id"],
        ),
        Cells(
            "category_name",
            f"one of {MS_CXR_FINDINGS}",
            lambda rows: rows["category_name"].str.lower().isin(MS_CXR_FINDINGS),
        ),
        Cells("label_text", "a phrase", lambda rows: rows["label_text"].str.strip() != ""),
    ),
)  # fmt: skip
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
    exclusions, films_root = Exclusions(), mimic_root(root, images)
    rows = read_alignment(table)
    rows = rows.assign(
        image_id=rows["dicom_id"],
        file=rows["path"],
        view="unknown",
        phrase=[" ".join(text.split()) for text in rows["label_text"]],
        frame_width=rows["image_width"],
        frame_height=rows["image_height"],
        source="ms_cxr",
    )
    missing = f"no film of {table.name} under {films_root / 'files'}; unpack MIMIC-CXR-JPG there"
    films, films_table = film_table(rows.drop_duplicates("image_id"), films_root, exclusions, missing=missing)
    studies = films.drop_duplicates("study_id")[["study_id", "patient_id", "split"]]
    return Corpus(
        name="ms_cxr",
        root=films_root,
        studies=studies.rename(columns={"split": "original_split"}).assign(split="test", report=None),
        images=films_table,
        boxes=box_table(rows[rows["image_id"].isin(set(films["image_id"]))], exclusions),
        exclusions=exclusions,
    )


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
    withheld = films["patient_id"].isin(set(read_alignment(path)["patient_id"])) & (films["split"] != "test")
    exclusions.count("study of an MS-CXR patient, kept out of training", films.loc[withheld, "study_id"].nunique())
    return films[~withheld]


def read_alignment(table: Path) -> pd.DataFrame:
    """Rows of a csv or json: columns of `ALIGNMENT`, split (None before v1.1.0), patient_id, study_id, finding, where.

    Raises:
        ValueError: there is no row, or one has an unknown category or path, another film's id or no phrase; an
            annotation of the json lacks a key.
    """
    rows = _from_json(table) if table.suffix == ".json" else ALIGNMENT.read(table)
    if rows.empty:
        raise ValueError(f"{table.name}: no rows; fetch the table again")
    ids = rows["path"].str.extract(PATH)[["patient_id", "study_id"]]
    return rows.assign(**ids, split=rows.get("split"), finding=rows["category_name"].str.lower())


def _from_json(table: Path) -> pd.DataFrame:
    content = read_json(table)
    content = content if isinstance(content, dict) else {}

    def part(of: str, **keys: type | tuple[type, ...]) -> list[dict[str, Any]]:
        return json_rows(f"{table.name}, {of}", content.get(of), **keys)

    images = {image["id"]: image for image in part("images", id=(int, str), path=str)}
    names = {category["id"]: category["name"] for category in part("categories", id=(int, str), name=str)}
    rows = []
    for number, each in enumerate(
        part("annotations", image_id=(int, str), category_id=(int, str), label_text=str, bbox=list)
    ):
        where = f"{table.name}, annotation {number}"
        if each["image_id"] not in images or each["category_id"] not in names or len(each["bbox"]) != 4:
            raise ValueError(
                f"{where}: image_id and category_id must be those of an image and a category, bbox four numbers; fetch "
                "the file again"
            )
        image = images[each["image_id"]]
        row = {
            "dicom_id": Path(image["path"]).stem,
            "category_name": names[each["category_id"]],
            "label_text": each["label_text"],
            "path": image["path"],
            **dict(zip("xywh", each["bbox"], strict=True)),
            "image_width": image.get("width"),
            "image_height": image.get("height"),
            "split": each.get("split", image.get("split")),
        }
        rows.append({**row, "where": f"{where}, film {quoted(row['dicom_id'])}"})
    table_rows = pd.DataFrame(rows)
    if rows:
        ALIGNMENT.check(table_rows)
    return table_rows
