"""A corpus: six tables and a root folder, whatever the publisher's layout was."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from lgdea_core.vocabulary import SPLITS

COLUMNS = {
    "studies": ("study_id", "patient_id", "split", "report"),
    "images": ("image_id", "study_id", "path", "view", "width", "height"),
    "labels": ("study_id", "finding", "value"),
    "boxes": (
        "image_id",
        "study_id",
        "phrase",
        "finding",
        "x_min",
        "y_min",
        "x_max",
        "y_max",
        "frame_width",
        "frame_height",
        "source",
    ),
    "masks": ("image_id", "study_id", "finding", "path"),
    "regions": (
        "image_id",
        "study_id",
        "region",
        "x_min",
        "y_min",
        "x_max",
        "y_max",
        "frame_width",
        "frame_height",
    ),
}
"""Columns every table has; a loader may add more.

`studies.report` is text or None, `split` one of train, val, test. `images.path` is relative to the root, `width` and
`height` are pixels of that file. `labels.value` is 1 (present), 0 (absent), -1 (uncertain) or NaN (not mentioned).
`boxes` count in pixels of the frame they were drawn in, whose size is `frame_width` x `frame_height`, so any resized
copy of the image works; several boxes of one (image, phrase) are one sample. `masks.path` is a PNG of the image's
frame, non-zero inside. `regions` are boxes of anatomy, counted as `boxes` are, at most one for each (image, region);
one without area lies outside the film. Finding and region names are those of `lgdea_core.vocabulary`. Where `studies`
has a column `role`, films show one class each, for retrieval by class: `QUERY`, `TEXT_QUERY` or else searched.
"""
NO_PATIENT = ("", "nan", "none", "null", "na", "n/a", "<na>")
"""what a table says in place of a patient it does not know"""
FILE_WORDS = {
    "case", "chexpert", "covid", "covidx", "dcm", "dicom", "film", "films", "files", "folder", "frontal", "image",
    "images", "jpeg", "jpg", "lateral", "mimic", "openi", "padchest", "patient", "phantom", "png", "rsna", "siim",
    "small", "study", "test", "train", "txt", "val", "valid", "view", "vindr", "xml",
}  # fmt: skip
"""words of published names and paths, which `quoted` shows"""
QUERY, TEXT_QUERY = "query", "text_query"
"""roles of studies that search a pool: by their film, or by their report, which has none"""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Studies with images, reports, labels, boxes, masks and regions; a study may be only an image or only a report."""

    name: str
    root: Path
    studies: pd.DataFrame
    images: pd.DataFrame
    labels: pd.DataFrame = field(default_factory=lambda: empty_table("labels"))
    boxes: pd.DataFrame = field(default_factory=lambda: empty_table("boxes"))
    masks: pd.DataFrame = field(default_factory=lambda: empty_table("masks"))
    regions: pd.DataFrame = field(default_factory=lambda: empty_table("regions"))
    exclusions: dict[str, int] = field(default_factory=dict)
    """what a loader left out and how often, by reason; goes into the run's provenance"""

    def __post_init__(self) -> None:
        for table, columns in COLUMNS.items():
            missing = [column for column in columns if column not in getattr(self, table)]
            if missing:
                raise ValueError(f"corpus {self.name!r}, table {table}: missing column(s) {missing}")
        self._check_ids()
        self._check_splits()

    def _check_ids(self) -> None:
        for table, key in (("studies", "study_id"), ("images", "image_id")):
            repeated = getattr(self, table).loc[lambda rows, key=key: rows[key].duplicated(), key]
            if len(repeated):
                raise ValueError(
                    f"corpus {self.name!r}, table {table}: {key} {quoted(repeated.iloc[0])} occurs twice "
                    f"({len(repeated)} repeated in all); each must be unique"
                )
        for table in ("images", "labels", "boxes", "masks", "regions"):
            unknown = set(getattr(self, table)["study_id"].unique()) - set(self.studies["study_id"])
            if unknown:
                raise ValueError(
                    f"corpus {self.name!r}, table {table}: study {quoted(min(unknown))} is not in table studies "
                    f"({len(unknown)} such)"
                )
        nobody = self.studies["patient_id"].map(lambda patient: str(patient).strip().lower() in NO_PATIENT).astype(bool)
        if nobody.any():
            raise ValueError(
                f"corpus {self.name!r}, study {quoted(self.studies.loc[nobody, 'study_id'].iloc[0])}: patient_id must "
                f"name a patient ({nobody.sum()} such studies); name one or drop the study"
            )

    def _check_splits(self) -> None:
        wrong = self.studies.loc[~self.studies["split"].isin(SPLITS)]
        if len(wrong):
            row = wrong.iloc[0]
            raise ValueError(
                f"corpus {self.name!r}, study {quoted(row['study_id'])}: split must be one of {SPLITS}, got "
                f"{quoted(row['split'])}"
            )
        splits_of_patient = self.studies.groupby("patient_id")["split"].nunique()
        shared = splits_of_patient.index[splits_of_patient > 1]
        if len(shared):
            raise ValueError(
                f"corpus {self.name!r}: patient {quoted(shared[0])} is in more than one split ({len(shared)} such "
                "patients); split by patient"
            )

    def subset(self, study_ids: Iterable[str]) -> "Corpus":
        """The same corpus with only these studies, in the order of the tables."""
        keep = set(study_ids)
        tables = {
            table: getattr(self, table).loc[lambda rows: rows["study_id"].isin(keep)].reset_index(drop=True)
            for table in COLUMNS
        }
        return replace(self, **tables)

    def split(self, *names: str) -> "Corpus":
        """The studies of one or several splits."""
        return self.subset(self.studies.loc[self.studies["split"].isin(names), "study_id"])

    def image_path(self, image_id: str) -> Path:
        """File of an image; `KeyError` where the corpus has no such image."""
        paths = self.images.loc[self.images["image_id"] == image_id, "path"]
        if paths.empty:
            raise KeyError(f"corpus {self.name!r} has no image {image_id!r}")
        return self.root / paths.iloc[0]


def quoted(cell: object) -> str:
    """A cell as a message may show it: an id as it is, all else as in "23 characters, letters and spaces".

    In a shifted row any cell may be a report's. An id has no blank and no word: no three letters in a row, beside a
    digit no four, but those of a checksum and of `FILE_WORDS`.
    """
    if not isinstance(cell, str):
        return "nothing" if cell is None else repr(cell) if isinstance(cell, int | float) else type(cell).__name__
    letters = r"[^\W\d_]{4,}" if re.search(r"\d", cell) else r"[^\W\d_]{3,}"
    words = {word.lower() for word in re.findall(letters, cell)}
    if re.fullmatch(r"[\w.:/\\+-]{0,120}", cell) and (words <= FILE_WORDS or re.fullmatch("[0-9a-f-]{16,}", cell)):
        return repr(cell)
    kinds = {"letters": r"[^\W\d_]", "digits": r"\d", "spaces": r"\s", "signs": r"[^\w\s]|_"}
    shape = [kind for kind, pattern in kinds.items() if re.search(pattern, cell)]
    return f"{len(cell):,} characters, {', '.join(shape[:-1])}{' and ' * (len(shape) > 1)}{shape[-1]}"


def empty_table(name: str) -> pd.DataFrame:
    """A table of `COLUMNS` without rows."""
    return pd.DataFrame({column: pd.Series(dtype=object) for column in COLUMNS[name]})


def label_table(part: Corpus) -> pd.DataFrame:
    """One row per labelled study, one column per finding; NaN where unknown."""
    return part.labels.pivot_table("value", "study_id", "finding", aggfunc="max", dropna=False, observed=True)


def patients_of(part: Corpus, study_ids: pd.Series) -> list[str]:
    """The patient of each study."""
    return part.studies.set_index("study_id").loc[study_ids, "patient_id"].tolist()
