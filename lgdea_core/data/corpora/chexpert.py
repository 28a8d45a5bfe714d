"""CheXpert 1.0 (full size or -small): 224,316 films of 65,240 patients, 14 labels, no reports.

    train.csv   223,414 rows: Path, Sex, Age, Frontal/Lateral, AP/PA, and a column for each label
    valid.csv   234 rows of 200 patients, labelled by three radiologists
    train/patient00001/study1/view1_frontal.jpg     (a Path begins with the release's folder, CheXpert-v1.0-small/)

Labels of `train.csv` were mined from reports: 1 present, 0 denied, -1 uncertain, NaN (blank) not mentioned; `uncertain`
names what becomes of -1. A label belongs to a study, all films of which share it. As in GLoRIA and MGCA, `valid.csv` is
the test split and some of train's patients become val. Only frontal films are kept (191,027 of train).

Files `chexpert_*x200*.csv` in the folder are retrieval sets drawn from `train.csv` (see `chexpert_retrieval`): their
patients are left out of train and val.

Licence: Stanford University Dataset Research Use Agreement. Cite Irvin et al., "CheXpert: A Large Chest Radiograph
Dataset with Uncertainty Labels and Expert Comparison", AAAI 2019.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lgdea_core.data.corpora.tables import (
    CHEXPERT_LABELS,
    Exclusions,
    film_row,
    make_table,
    melt_labels,
    read_table,
    refuse_cells,
)
from lgdea_core.data.corpus import TEXT_QUERY, Corpus
from lgdea_core.data.pairing import split_by_patient

logger = logging.getLogger("lgdea")

UNCERTAIN: dict[str, dict[str, float]] = {
    "keep": {},
    "u-ones": dict.fromkeys(CHEXPERT_LABELS.values(), 1.0),
    "u-zeros": dict.fromkeys(CHEXPERT_LABELS.values(), 0.0),
    "mgca": {"atelectasis": 1.0, "edema": 1.0, "pleural effusion": 1.0, "cardiomegaly": 0.0, "consolidation": 0.0},
}
"""policy -> value of an uncertain label; findings that a policy does not name stay -1 (U-Ones, U-Zeros: Irvin et al.;
mgca: GLoRIA's and MGCA's mix on the five competition findings)"""
FILM_COLUMNS = ("Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS)
"""columns of `train.csv` and `valid.csv` beside Path, Sex and Age"""
PATH = r"/(?P<patient>patient\d+)/(?P<study>study\d+)/(?P<view>[^/]+)\.jpg$"


def load(root: Path, uncertain: str = "keep", val_fraction: float = 0.025, seed: int = 0) -> Corpus:
    """Load frontal films with their labels.

    Args:
        root: holds `train.csv`, `valid.csv`, `train/` and `valid/`.
        uncertain: policy for the label -1, one of `UNCERTAIN`.
        val_fraction: share of train's patients that becomes val.
        seed: of that choice.

    Raises:
        FileNotFoundError: a table is missing, or no film is there.
        ValueError: unknown policy, or a path or label is not in the layout; named by file and line.
    """
    if uncertain not in UNCERTAIN:
        raise ValueError(f"uncertain must be one of {tuple(UNCERTAIN)}, got {uncertain!r}")
    exclusions = Exclusions()
    train = _withhold(_frontal(read_films(root / "train.csv"), exclusions), root, exclusions)
    test = _frontal(read_films(root / "valid.csv"), exclusions)
    films = pd.concat([train, test], ignore_index=True)
    images = [image for film in films.itertuples() if (image := film_image(film, root, exclusions))]
    if not images:
        raise FileNotFoundError(f"no film of train.csv or valid.csv under {root}; unpack the images there")
    films = films[films["image_id"].isin({image["image_id"] for image in images})]
    corpus = Corpus(
        name="chexpert",
        root=root,
        studies=_studies(films, val_fraction, seed),
        images=make_table("images", images),
        labels=_labels(films, uncertain, exclusions),
        exclusions=exclusions,
    )
    exclusions.log("chexpert")
    return corpus


def read_films(path: Path, columns: Sequence[str] = FILM_COLUMNS) -> pd.DataFrame:
    """Rows of a table of films as text, with patient_id, study_id, image_id, view, the table's name, and `file`.

    `file` is the path without the release's folder, relative to the corpus's own; view is "unknown" where no column
    AP/PA says it.

    Args:
        path: of the table.
        columns: it must have beside Path.

    Raises:
        ValueError: a column is missing, or a Path is not in the layout; named by file and line.
    """
    rows = read_table(path, ("Path", *columns))
    parts = rows["Path"].str.extract(PATH)
    expected = "a path that ends in /patient00001/study1/view1_frontal.jpg"
    refuse_cells(rows, parts["patient"].isna(), "Path", expected, path.name, ("film", "Path"))
    study = parts["patient"] + "_" + parts["study"]
    file = rows["Path"].str.split("/", n=1).str[1]  # without the release's folder
    ids = {"patient_id": parts["patient"], "study_id": study, "image_id": study + "_" + parts["view"]}
    return rows.assign(**ids, file=file, view=rows.get("AP/PA", "unknown"), table=path.name)


def film_image(film: Any, root: Path, exclusions: Exclusions) -> dict[str, Any] | None:
    """Row of table images of a row of `read_films`; None where the film is missing, which is counted."""
    where = f"{film.table}, line {film.line}, film {film.image_id!r}"
    return film_row(film.image_id, film.study_id, root, root / film.file, film.view, where, exclusions)


def _frontal(films: pd.DataFrame, exclusions: Exclusions) -> pd.DataFrame:
    frontal = films["Frontal/Lateral"] == "Frontal"
    exclusions.count("lateral film", int((~frontal).sum()))
    return films[frontal]


def _withhold(films: pd.DataFrame, root: Path, exclusions: Exclusions) -> pd.DataFrame:
    """Films without those of patients with a film in a retrieval set."""
    files = [path for path in sorted(root.glob("chexpert_*x200*.csv")) if not path.stem.endswith(TEXT_QUERY)]
    sets = [read_films(path, ())["patient_id"] for path in files]
    if not sets:
        return films
    withheld = films["patient_id"].isin(set(pd.concat(sets)))
    exclusions.count(
        "study of a patient of a retrieval set, kept out of training", films.loc[withheld, "study_id"].nunique()
    )
    return films[~withheld]


def _studies(films: pd.DataFrame, val_fraction: float, seed: int) -> pd.DataFrame:
    studies = films.drop_duplicates("study_id")[["study_id", "patient_id", "table"]].assign(report=None)
    train = studies[studies["table"] == "train.csv"].drop(columns="table")
    test = studies[studies["table"] == "valid.csv"].drop(columns="table").assign(split="test")
    train = split_by_patient(train, (1 - val_fraction, val_fraction, 0.0), seed)
    return pd.concat([train, test], ignore_index=True)


def _labels(films: pd.DataFrame, uncertain: str, exclusions: Exclusions) -> pd.DataFrame:
    """One row per study and finding, of the study's first film."""
    stated = films.drop_duplicates(["study_id", *CHEXPERT_LABELS])
    for row in stated[stated["study_id"].duplicated()].itertuples():
        where = f"{row.table}, line {row.line}, study {row.study_id!r}"
        exclusions.add("labels differ from those of the study's first film", where, defect=True)
    studies = films.drop_duplicates("study_id")
    parts = [
        melt_labels(studies[studies["table"] == table], CHEXPERT_LABELS, table, source)
        for table, source in (("train.csv", "chexpert"), ("valid.csv", "radiologist"))
    ]
    labels = pd.concat(parts, ignore_index=True)
    decided = labels["finding"].map(UNCERTAIN[uncertain])
    return labels.assign(value=labels["value"].mask((labels["value"] == -1) & decided.notna(), decided))
