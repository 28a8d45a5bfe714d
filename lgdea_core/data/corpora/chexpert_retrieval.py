"""CheXpert 5x200 and 8x200: films that show one finding and no other, for class-based retrieval.

    python -m lgdea_core.data.corpora.chexpert_retrieval <CheXpert folder> 5x200 --seed 0

draws a set from `train.csv` and writes its rows beside it: `chexpert_5x200.csv`, or `chexpert_8x200_query.csv` and
`chexpert_8x200_candidates.csv` (the names of released code, whose files are read as well), and a record of the draw,
`chexpert_5x200.json`: the seed, and the SHA-256 of `train.csv` and of each file written. From then on corpus `chexpert`
keeps its patients out of training.

A frontal film counts for a class whose label is 1 while the twelve other findings and devices ("No Finding" aside) are
0 or blank; 200 films a class. 5x200 (Huang et al., GLoRIA, ICCV 2021): atelectasis, cardiomegaly, consolidation, edema,
pleural effusion; drawn without a seed there and with seed 0 by MGCA, whose films seed 0 gives here. 8x200 (Zhang et
al., ConVIRT, MLHC 2022): eight classes with "no finding", and 10 queries a class besides the 200 candidates. Its own
films are published (https://github.com/yuhaozhang/convirt, `image-retrieval/candidate.csv` and `query.csv`) and read
under the names above; its queries were chosen by experts, while those drawn here follow the rule of the candidates and
share no patient with them. Its sentences (`text-retrieval/query.csv`, 5 a class, where its README says 10) are text
queries if they lie here as `chexpert_8x200_text_query.csv`. Numbers of two papers compare only if they share the file:
publish yours. `evaluation.retrieval` scores both sets.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lgdea_core.command import Command
from lgdea_core.data.corpora.chexpert import located, read_films, release_folder
from lgdea_core.data.corpora.tables import (
    CHEXPERT_LABELS,
    Cells,
    Exclusions,
    Layout,
    film_table,
    one_of,
    refuse,
)
from lgdea_core.data.corpus import QUERY, TEXT_QUERY, Corpus
from lgdea_core.paths import replacing, write_text

CLASSES = {
    "5x200": ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"),
    "8x200": (
        "Atelectasis", "Cardiomegaly", "Edema", "Fracture", "Pleural Effusion", "Pneumonia", "Pneumothorax",
        "No Finding",
    ),
}  # fmt: skip
"""set -> its classes, as columns of `train.csv`, in the order they are drawn in"""
ROLES = {"5x200": {"": 200}, "8x200": {"candidates": 200, QUERY: 10}}
"""set -> films of a class in each of its files; the later file's patients are none of the earlier one's"""
NORMAL = "No Finding"
NAMED = "Variable"
"""column in which ConVIRT's queries name their class; its file has no labels"""


def set_path(root: Path, name: str, role: str) -> Path:
    """File of a set."""
    return root / f"chexpert_{name}{role and '_'}{role}.csv"


def draw_set(root: Path, name: str, seed: int) -> dict[str, pd.DataFrame]:
    """Rows of `train.csv` for each file of a set, by role.

    Args:
        root: CheXpert's folder.
        name: "5x200" or "8x200".
        seed: of the draw.

    Raises:
        ValueError: a class has too few films.
    """
    films = read_films(root / "train.csv")
    published = films.columns[: films.columns.get_loc("line")]  # what the reader adds stands behind
    films = films[films["Frontal/Lateral"] == "Frontal"]
    drawn: dict[str, pd.DataFrame] = {}
    for role, count in ROLES[name].items():
        taken = {patient for rows in drawn.values() for patient in rows["patient_id"]}
        free = films[~films["patient_id"].isin(taken)]
        drawn[role] = pd.concat([_draw(free, column, count, seed) for column in CLASSES[name]])
    return {role: rows[published] for role, rows in drawn.items()}


def _draw(films: pd.DataFrame, column: str, count: int, seed: int) -> pd.DataFrame:
    others = [label for label in CHEXPERT_LABELS if label not in (column, NORMAL)]
    alone = (films[column] == "1.0") & films[others].isin(("", "0.0")).all(axis=1)
    if alone.sum() < count:
        raise ValueError(f"train.csv: {alone.sum()} films show {column} alone, but the set needs {count}")
    return films[alone].sample(n=count, random_state=seed)


def write_set(root: Path, name: str, seed: int) -> list[Path]:
    """Draw a set and write its files, and a record of seed and checksums; returns the paths of all.

    Raises:
        FileExistsError: one of them is there: a set is drawn once.
        ValueError: a class has too few films.
    """
    root = release_folder(root)
    paths = {role: set_path(root, name, role) for role in ROLES[name]}
    record = set_path(root, name, "").with_suffix(".json")
    for path in paths.values():
        if path.exists():
            raise FileExistsError(f"{path} is there already; delete it to draw the set anew")
    for role, rows in draw_set(root, name, seed).items():
        with replacing(paths[role]) as part:
            rows.to_csv(part, index=False)
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (root / "train.csv", *paths.values())}
    write_text(record, json.dumps({"set": name, "seed": seed, "sha256": sums}, indent=1) + "\n")
    return [*paths.values(), record]


def load_5x200(root: Path) -> Corpus:
    """The set as a corpus of split test whose one label a study is its class; see `write_set`."""
    return _load(root, "5x200")


def load_8x200(root: Path) -> Corpus:
    """The set as a corpus, as `load_5x200`; `studies.role` tells queries from candidates.

    A text query is a study without a film, whose report is the sentence.
    """
    return _load(root, "8x200")


def _load(root: Path, name: str) -> Corpus:
    """A set from its files.

    Raises:
        FileNotFoundError: a file of the set is missing, or no film is there.
        ValueError: a row has not exactly one class; named by file and line.
    """
    root = release_folder(root)
    for role in ROLES[name]:
        if not set_path(root, name, role).is_file():
            module = "lgdea_core.data.corpora.chexpert_retrieval"
            raise FileNotFoundError(
                f"no {set_path(root, name, role)}; draw the set by `python -m {module} {root} {name}`"
            )
    exclusions = Exclusions()
    films = pd.concat([_read(root, name, role) for role in ROLES[name]], ignore_index=True)
    missing = f"no film of {set_path(root, name, '').stem} under {root}; unpack the images there"
    films, images = film_table(located(films, root), root, exclusions, missing=missing)
    studies = [films.drop_duplicates("study_id")]
    if set_path(root, name, TEXT_QUERY).is_file():
        studies.append(_read_texts(root, name))
    rows = pd.concat(studies, ignore_index=True)
    return Corpus(
        name=f"chexpert_{name}",
        root=root,
        studies=rows[["study_id", "patient_id", "report", "role"]].assign(split="test"),
        images=images,
        labels=rows[["study_id", "finding"]].assign(value=1.0, source="chexpert"),
        exclusions=exclusions,
    )


def _read(root: Path, name: str, role: str) -> pd.DataFrame:
    path, classes = set_path(root, name, role), list(CLASSES[name])
    rows = read_films(path, ())
    if NAMED in rows:
        rows = rows.assign(shown=rows[NAMED])
    else:
        rows = read_films(path, CLASSES[name])
        shown = rows[classes].isin(("1", "1.0"))
        rows = rows.assign(shown=shown.idxmax(axis=1).where(shown.sum(axis=1) == 1, "several or none"))
    refuse(rows, ~rows["shown"].isin(classes), "shown", f"one class of {classes}")
    report = rows["Report Impression"].replace("", None) if "Report Impression" in rows else None
    return rows.assign(finding=rows["shown"].map(CHEXPERT_LABELS), role=role, report=report)


def _read_texts(root: Path, name: str) -> pd.DataFrame:
    """Text queries as studies."""
    classes = one_of(NAMED, CLASSES[name], f"one class of {list(CLASSES[name])}")
    sentences = Cells("Text", "a sentence", lambda rows: rows["Text"] != "")
    texts = Layout(columns=(NAMED, "Text"), key=NAMED, noun="query of", cells=(classes, sentences))
    rows = texts.read(set_path(root, name, TEXT_QUERY))
    names = [f"text-query-{number}" for number in range(1, len(rows) + 1)]
    return rows.assign(
        study_id=names, patient_id=names, role=TEXT_QUERY, report=rows["Text"], finding=rows[NAMED].map(CHEXPERT_LABELS)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = Command(prog="python -m lgdea_core.data.corpora.chexpert_retrieval", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("root", type=Path, help="CheXpert's folder, with train.csv")
    parser.add_argument("name", choices=sorted(CLASSES), help="which set")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    options = parser.parse_args(arguments)
    for path in write_set(options.root, options.name, options.seed):
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
