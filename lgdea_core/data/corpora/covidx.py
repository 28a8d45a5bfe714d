"""COVIDx: films of COVID-19 patients and others, gathered from public collections by lists of several versions.

    train_COVIDx9A.txt, test_COVIDx9A.txt, ...   three classes: normal, pneumonia, COVID-19 (9A: about 30,000 films)
    train.txt, test.txt[, val.txt]               two classes: positive, negative (CXR-3; CXR-4 with val: 84,818 films)
    train/, test/[, val/]                        the films

Of several versions' lists the newest are read: `train.txt` before 9B before 9A. The log and the exclusions say so.

A line is `patient filename class source`, separated by spaces; a patient's name may hold spaces itself. Labels:
"covid-19" is 1 or 0 for every class; "pneumonia" and "no finding" are stated for normal and pneumonia only (a positive
test says nothing of the film). Column `covidx_class` keeps the word. Patients are told apart by source and name; a
training film of a test patient is left out and counted. Films of RSNA, hence of NIH, and of covid-chestxray-dataset are
among them.

Licence: each source's own (CC BY-NC 4.0 and others, https://github.com/lindawangg/COVID-Net). Cite Wang et al.,
"COVID-Net: a tailored deep convolutional neural network design for detection of COVID-19 cases from chest X-ray
images", Scientific Reports 2020.
"""

import logging
from pathlib import Path

import pandas as pd

from lgdea_core.data.corpora.tables import Exclusions, film_table, is_name, make_table, read_text
from lgdea_core.data.corpus import Corpus, quoted
from lgdea_core.data.pairing import hold_out
from lgdea_core.vocabulary import NO_FINDING

logger = logging.getLogger("lgdea")

COVID = "covid-19"
LABELS = {
    "normal": {COVID: 0.0, "pneumonia": 0.0, NO_FINDING: 1.0},
    "pneumonia": {COVID: 0.0, "pneumonia": 1.0, NO_FINDING: 0.0},
    "COVID-19": {COVID: 1.0, NO_FINDING: 0.0},
    "positive": {COVID: 1.0, NO_FINDING: 0.0},
    "negative": {COVID: 0.0},
}
"""class -> labels it states"""
CLASS_SETS = ({"normal", "pneumonia", "COVID-19"}, {"positive", "negative"})


def load(root: Path, lists: str | None = None, val_fraction: float = 0.1, seed: int = 0) -> Corpus:
    """Load the films of one version's lists.

    Args:
        root: holds the lists and `train/`, `test/`.
        lists: the version, "9A" for `train_COVIDx9A.txt`, "" for `train.txt`; None takes the newest that is there.
        val_fraction: share of train's patients that becomes val, where no list says which (MGCA: a tenth).
        seed: of that choice.

    Raises:
        FileNotFoundError: no list of that version, or no film is there.
        ValueError: a line is not in the layout; named by file and line.
    """
    exclusions = Exclusions()
    rows = _rows(root, _newest(root, exclusions) if lists is None else lists and f"_COVIDx{lists}")
    if (rows["split"] == "val").any():
        val_fraction = 0.0  # the lists say which, even where none of these films is here
    rows = exclusions.drop_nobody(rows, "name")
    first = rows.groupby("image_id")["covidx_class"].transform("first")
    other = "another class than in the film's first line, which counts"
    films = exclusions.drop(rows, rows["covidx_class"] != first, other, defect=True)
    films = exclusions.drop(films, films["image_id"].duplicated(), "further line of the same film")
    for held_out, others in (("test", ("train", "val")), ("val", ("train",))):
        patients = set(films.loc[films["split"] == held_out, "patient_id"])
        leaking = films["split"].isin(others) & films["patient_id"].isin(patients)
        films = exclusions.drop(films, leaking, f"film of a patient of {held_out} in another list")
    missing = f"no film of the lists under {root}/train, {root}/test; unpack the images there"
    films, images = film_table(films, root, exclusions, missing=missing)
    studies = films[["study_id", "patient_id", "split", "covidx_class"]].assign(report=None)
    labels = [
        {"study_id": film, "finding": finding, "value": value, "source": "covidx"}
        for film, shown in zip(films["study_id"], films["covidx_class"], strict=True)
        for finding, value in LABELS[shown].items()
    ]
    return Corpus(
        name="covidx",
        root=root,
        studies=hold_out(studies, studies["split"] != "train", val_fraction, seed),
        images=images,
        labels=make_table("labels", labels),
        exclusions=exclusions,
    )


def _newest(root: Path, exclusions: Exclusions) -> str:
    """What stands between `train` and `.txt` in the newest version's list."""
    found = sorted(path.stem.removeprefix("train") for path in root.glob("train_COVIDx*.txt"))
    if (root / "train.txt").is_file() or not found:
        found.append("")
    if len(found) > 1:
        exclusions.count("version whose lists are not read", len(found) - 1)
        logger.warning(
            "corpus covidx: train%s.txt is read, not %s; name another version by `lists`",
            found[-1], " or ".join(f"train{each}.txt" for each in found[:-1]),
        )  # fmt: skip
    return found[-1]


def _rows(root: Path, suffix: str) -> pd.DataFrame:
    """Lines of all lists of a version, with their split; val's list may be missing."""
    rows = []
    for split in ("train", "test", "val"):
        path = root / f"{split}{suffix}.txt"
        for number, line in enumerate(
            read_text(path).splitlines() if split != "val" or path.is_file() else (), start=1
        ):
            parts = line.strip().rsplit(maxsplit=3)
            if not parts:
                continue
            where = f"{path.name}, line {number}"
            if len(parts) != 4 or parts[2] not in LABELS or not is_name(parts[1]):
                raise ValueError(
                    f"{where}: a line must be patient, file, class and source, the file one name, the class one of "
                    f"{tuple(LABELS)}; got {quoted(line)}"
                )
            patient, file, covidx_class, source = parts
            ids = {"image_id": f"{split}_{file}", "study_id": f"{split}_{file}", "patient_id": f"{source}:{patient}"}
            place = {"file": f"{split}/{file}", "view": "unknown", "where": f"{where}, film {quoted(file)}"}
            rows.append({**ids, **place, "name": patient, "split": split, "covidx_class": covidx_class})
    classes = {row["covidx_class"] for row in rows}
    if not any(classes <= allowed for allowed in CLASS_SETS):
        raise ValueError(
            f"lists train{suffix}.txt, test{suffix}.txt: classes must be of one kind, got {sorted(classes)}"
        )
    if not rows:
        raise ValueError(f"lists train{suffix}.txt, test{suffix}.txt: no lines; fetch them again")
    return pd.DataFrame(rows)
