"""CheXpert 1.0 (full size or -small): 224,316 films of 65,240 patients, 14 labels, no reports.

    train.csv   223,414 rows: Path, Sex, Age, Frontal/Lateral, AP/PA, and a column for each label
    valid.csv   234 rows of 200 patients, labelled by three radiologists
    train/patient00001/study1/view1_frontal.jpg     (a Path begins with the release's folder, CheXpert-v1.0-small/, or
                                                    another; all may lie one folder deeper)

Labels of `train.csv` were mined from reports: 1 present, 0 denied, -1 uncertain, NaN (blank) not mentioned; `uncertain`
names what becomes of -1. A label belongs to a study, all films of which share it. As in GLoRIA and MGCA, `valid.csv` is
the test split and some of train's patients become val. Only frontal films are kept (191,027 of train).

Files `chexpert_*x200*.csv` in the folder are retrieval sets drawn from `train.csv` (see `chexpert_retrieval`): their
patients are left out of train and val.

Licence: Stanford University Dataset Research Use Agreement. Cite Irvin et al., "CheXpert: A Large Chest Radiograph
Dataset with Uncertainty Labels and Expert Comparison", AAAI 2019.
"""

from pathlib import Path

import pandas as pd

from lgdea_core.data.corpora.tables import (
    CHEXPERT_LABELS,
    Cells,
    Exclusions,
    Layout,
    film_table,
    first_file,
    melt_labels,
    stays_inside,
)
from lgdea_core.data.corpus import TEXT_QUERY, Corpus
from lgdea_core.data.pairing import hold_out

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
PATH = r"(?P<file>[^/]+/(?P<patient>patient\d+)/(?P<study>study\d+)/(?P<view>[^/]+)\.jpg)$"
IN_PLACE = Cells(
    "Path",
    "a path that ends in /patient00001/study1/view1_frontal.jpg",
    lambda rows: rows["Path"].str.extract(PATH)["patient"].notna(),
)


def load(root: Path, uncertain: str = "keep", val_fraction: float = 0.025, seed: int = 0) -> Corpus:
    """Load frontal films with their labels.

    Args:
        root: holds `train.csv`, `valid.csv`, `train/` and `valid/`, or the release's folder that does.
        uncertain: policy for the label -1, one of `UNCERTAIN`.
        val_fraction: share of train's patients that becomes val.
        seed: of that choice.

    Raises:
        FileNotFoundError: a table is missing, or no film is there.
        ValueError: unknown policy, or a path or label is not in the layout; named by file and line.
    """
    if uncertain not in UNCERTAIN:
        raise ValueError(f"uncertain must be one of {tuple(UNCERTAIN)}, got {uncertain!r}")
    exclusions, root = Exclusions(), release_folder(root)
    films = pd.concat([read_films(root / name) for name in ("train.csv", "valid.csv")], ignore_index=True)
    films = exclusions.drop(films, films["Frontal/Lateral"] != "Frontal", "lateral film")
    films = _without_sets(films, root, exclusions)
    missing = f"no film of train.csv or valid.csv under {root}; unpack the images there"
    films, images = film_table(located(films, root), root, exclusions, missing=missing)
    studies = films.drop_duplicates("study_id")
    return Corpus(
        name="chexpert",
        root=root,
        studies=hold_out(
            studies[["study_id", "patient_id"]].assign(report=None), studies["table"] == "valid.csv", val_fraction, seed
        ),
        images=images,
        labels=_labels(films, uncertain, exclusions),
        exclusions=exclusions,
    )


def release_folder(root: Path) -> Path:
    """`root`, or the one folder in it that holds `train.csv`."""
    inside = list(root.glob("*/train.csv"))
    return root if (root / "train.csv").is_file() or len(inside) != 1 else inside[0].parent


def read_films(path: Path, columns: tuple[str, ...] = FILM_COLUMNS) -> pd.DataFrame:
    """Rows of a table of films as text, with patient_id, study_id, image_id, view, the table's name, and `file`.

    `file` is the end of the path, from the folder of the patients on: releases and mirrors begin it differently. View
    is "unknown" where no column AP/PA says it.

    Args:
        path: of the table.
        columns: it must have beside Path.

    Raises:
        ValueError: a column is missing, or a Path is not in the layout; named by file and line.
    """
    rows = Layout(columns=("Path", *columns), key="Path", cells=(IN_PLACE,)).read(path)
    parts = rows["Path"].str.extract(PATH)
    study = parts["patient"] + "_" + parts["study"]
    ids = {"patient_id": parts["patient"], "study_id": study, "image_id": study + "_" + parts["view"]}
    return rows.assign(**ids, file=parts["file"], view=rows.get("AP/PA", "unknown"), table=path.name)


def located(films: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Films of `read_films` with the whole Path as `file` where only that is one."""
    file = [
        first_file(root / end, root / whole).relative_to(root).as_posix() if stays_inside(whole) else end
        for end, whole in zip(films["file"], films["Path"], strict=True)
    ]
    return films.assign(file=file)


def _without_sets(films: pd.DataFrame, root: Path, exclusions: Exclusions) -> pd.DataFrame:
    """Films without the training ones of patients with a film in a retrieval set."""
    files = [path for path in sorted(root.glob("chexpert_*x200*.csv")) if not path.stem.endswith(TEXT_QUERY)]
    evaluated = {patient for path in files for patient in read_films(path, ())["patient_id"]}
    withheld = films["patient_id"].isin(evaluated) & (films["table"] == "train.csv")
    studies = films.loc[withheld, "study_id"].nunique()
    exclusions.count("study of a patient of a retrieval set, kept out of training", studies)
    return films[~withheld]


def _labels(films: pd.DataFrame, uncertain: str, exclusions: Exclusions) -> pd.DataFrame:
    """One row per study and finding, of the study's first film."""
    stated = films.drop_duplicates(["study_id", *CHEXPERT_LABELS])
    differs = stated["study_id"].duplicated()
    exclusions.drop(stated, differs, "labels differ from those of the study's first film", defect=True)
    studies = films.drop_duplicates("study_id")
    parts = [
        melt_labels(studies[studies["table"] == table], CHEXPERT_LABELS, source)
        for table, source in (("train.csv", "chexpert"), ("valid.csv", "radiologist"))
    ]
    labels = pd.concat(parts, ignore_index=True)
    decided = labels["finding"].map(UNCERTAIN[uncertain])
    return labels.assign(value=labels["value"].mask((labels["value"] == -1) & decided.notna(), decided))
