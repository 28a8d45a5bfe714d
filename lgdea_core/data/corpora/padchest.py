"""PadChest: 160,000 films of 67,000 patients of a Spanish hospital, about 190 labels, a quarter by physicians.

    PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv (or .csv.gz): a row a film
        ImageID, ImageDir, StudyID, PatientID, Projection, ..., Report, MethodLabel, Labels, ...
    <ImageDir>/<ImageID>    the archives 0 to 54 unpacked, 16-bit PNG; also images/<ImageDir>/<ImageID>, as KAD's list
                            has them, or all in one folder: images/ or, of the small copy, images-224/

Films: Projection PA, AP or AP_horizontal, also of children. KAD tests on all 39,053 physician-labelled films (of which
24,536 are PA or AP), and so does CARZero, so numbers are near theirs, not theirs. Films that torchxrayvision
(`PC_Dataset`) found missing or broken in the download are left out: `BROKEN`. As in its reader and KAD's, pixels are
not inverted where PhotometricInterpretation_DICOM says MONOCHROME1.

Splits: none is published. As in KAD and CARZero, studies that a physician labelled are test; those that a recurrent
network labelled are train and val, without the patients of the former.

Labels: column Labels is the text of a Python list; names are compared in lower case, with single blanks, empty ones
dropped, and go by our name where it is another (`RENAMED`). In a study a finding that any of its frontal films names is
1, and all others that the physicians (or the network) name anywhere are 0. "normal" is our "no finding", and gives way
to any finding beside it. "unchanged" and "suboptimal study" are no findings; a film with no other label is left out, as
are films without labels and those whose report the curators exclude ("exclude"). KAD (`A3_CLIP/test_padchest.py`)
counts all four among its 193 findings, CARZero leaves out "normal". The network's labels are left out unless
`rnn_labels` asks for them.

Table labels has a row for each labelled study and finding, as everywhere: some 5 million, and 20 with the network's
labels. Its columns are categorical and float32, at most 11 bytes a row.

Reports are Spanish and stemmed ("siluet cardiomediastin"), of no use to an English extractor: no study has one.

Licence: PadChest Dataset Research Use Agreement. Cite Bustos et al., "PadChest: A large chest x-ray image dataset with
multi-label annotated reports", Medical Image Analysis 2020.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from lgdea_core.data.corpora.tables import (
    Cells,
    Exclusions,
    Layout,
    film_table,
    first_file,
    plain_name,
    refuse,
    same_within,
)
from lgdea_core.data.corpus import Corpus, empty_table
from lgdea_core.data.pairing import hold_out
from lgdea_core.vocabulary import NO_FINDING

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
FILMS = Layout(
    columns=("ImageID", "StudyID", "PatientID", "ImageDir", "Projection", "MethodLabel", "Labels"),
    key="StudyID",
    noun="study",
    cells=(
        *(Cells(column, "given", lambda rows, column=column: rows[column] != "") for column in ("ImageID", "StudyID")),
        Cells("ImageID", "the name of a PNG file", lambda rows: rows["ImageID"].str.endswith(".png")),
        plain_name("ImageID"),
        same_within("StudyID", "ImageID", "the same wherever a film is listed"),
        same_within("PatientID", "StudyID", "the same in all rows of a study"),
    ),
)
VIEWS = {"PA": "PA", "AP": "AP", "AP_horizontal": "AP"}
"""frontal projection -> view; AP_horizontal is a patient lying"""
PLACES = ("{folder}", "images/{folder}", "images", "images-224")
"""where a film may lie, the first that has it counts"""
SOURCES = {"physician": "physician", "rnn_model": "rnn"}
"""MethodLabel in lower case -> column source of table labels"""
RENAMED = {
    "normal": NO_FINDING,
    "cavitation": "lung cavity",
    "copd signs": "copd",
    "hiatal hernia": "hernia",
    "infiltrates": "infiltration",
    "pulmonary artery enlargement": "enlarged pa",
    "pulmonary edema": "edema",
    "pulmonary fibrosis": "fibrosis",
}
"""PadChest's name -> ours, where it is the same finding; no two become one, so "pulmonary mass" stays beside "mass\""""
EXCLUDED = "exclude"
SILENT = frozenset(("", "nan", "none", "unchanged", "suboptimal study"))
"""labels that say nothing of a finding"""
UNLABELLED = ("", "nan")
"""cells of Labels without a list"""
NAME = re.compile(r"""'([^'\\]*)'|"([^"\\]*)"|\bnan\b""")
LIST = re.compile(rf"\[\s*(?:(?:{NAME.pattern})\s*(?:,\s*(?:{NAME.pattern})\s*)*)?\]")
"""a name in a cell of Labels, in either quotes; a cell that holds a list of them"""
BROKEN = frozenset(
    f"2168401113669640{rest}.png"
    for rest in (
        "12283393834152009033102258826_00-059-087", "12339356563862009072111404053_00-043-192",
        "12373310883942009117084022290_00-064-025", "12373310883942009152114636712_00-102-045",
        "12373310883942009170084120009_00-097-074", "12487858717522009280135853083_00-075-001",
        "12558082906712009327122220177_00-102-064", "12819207061112010281134410801_00-129-131",
        "12819207061112010306085429121_04-020-102", "12819207061112010307142602253_04-014-084",
        "12819207061112010315104455352_04-024-184", "12959786098432011033083840143_00-176-115",
        "12989926673512011074122523403_00-163-058", "12989926673512011083134050913_00-168-009",
        "12989926673512011151082430686_00-157-045", "13076187734852011291090445391_00-196-188",
        "13590140476722013043111952381_02-065-198", "13590140476722013058110301622_02-056-111",
        "13686042548532013208193054515_02-026-007", "13829543166512013353113303615_02-092-190",
        "13962490064942014134093945580_01-178-104",
    )
)  # fmt: skip
"""films torchxrayvision lists as missing from the download, cut short or with a broken chunk"""


def load(root: Path, rnn_labels: bool = False, val_fraction: float = 0.025, seed: int = 0) -> Corpus:
    """Load frontal films, with the physicians' labels.

    Args:
        root: holds the table and the films.
        rnn_labels: label train and val, too, as the recurrent network read their reports.
        val_fraction: share of the patients that no physician's labels are of that becomes val.
        seed: of that choice.

    Raises:
        FileNotFoundError: the table is missing, or no film is there.
        ValueError: a row is not in the layout; named by file and line.
    """
    exclusions = Exclusions()
    rows = FILMS.read(first_file(root / TABLE, root / f"{TABLE}.gz"))[[*FILMS.columns, "where"]]
    rows = exclusions.drop_nobody(rows, "PatientID")
    by_physician = rows["MethodLabel"].str.lower() == "physician"
    rows = rows.assign(tested=rows["PatientID"].isin(set(rows.loc[by_physician, "PatientID"])))  # whatever the view
    rows = exclusions.drop(rows, ~rows["Projection"].isin(VIEWS), "film that is not frontal")
    rows = exclusions.drop(rows, rows.duplicated("ImageID"), "film listed again")
    rows = exclusions.drop(rows, rows["ImageID"].isin(BROKEN), "film known to be broken or missing")
    films = _labelled(rows, exclusions)
    films = films.assign(
        image_id=films["ImageID"].str.removesuffix(".png"),
        study_id=films["StudyID"],
        patient_id=films["PatientID"],
        view=films["Projection"].map(VIEWS),
        file=[
            first_file(*(root / place.format(folder=folder) / name for place in PLACES)).relative_to(root)
            for folder, name in zip(films["ImageDir"], films["ImageID"], strict=True)
        ],
    )
    missing = f"no film of {TABLE} under {root}, in {' or '.join(PLACES)}; unpack the archives there"
    films, images = film_table(films, root, exclusions, missing=missing)
    studies = films.drop_duplicates("study_id")
    labelled = films if rnn_labels else films[films["source"] == "physician"]
    return Corpus(
        name="padchest",
        root=root,
        studies=hold_out(
            studies[["study_id", "patient_id"]].assign(report=None), studies["tested"], val_fraction, seed
        ),
        images=images,
        labels=_labels(labelled, exclusions),
        exclusions=exclusions,
    )


def _labelled(rows: pd.DataFrame, exclusions: Exclusions) -> pd.DataFrame:
    """Films that are labelled, with findings (a set) and source; no network's label of a patient who is tested."""
    names = {cell: parse_labels(cell) for cell in rows["Labels"].unique()}
    listed = pd.Series([names[cell] for cell in rows["Labels"]], index=rows.index, dtype=object)
    expected = "the text of a list of names, such as ['normal'], or blank"
    refuse(rows, listed.isna(), "Labels", expected)
    findings = listed.map(lambda labels: {RENAMED.get(name, name) for name in labels - SILENT})
    rows = rows.assign(findings=findings, source=rows["MethodLabel"].str.lower().map(SOURCES))
    excluded = listed.map(lambda labels: EXCLUDED in labels).astype(bool)
    rows = exclusions.drop(rows, excluded, "film of a report to be excluded")
    blank = ~rows["findings"].astype(bool)
    rows = exclusions.drop(rows, blank, "film without a label that names a finding or none")
    refuse(rows, rows["source"].isna(), "MethodLabel", "Physician or RNN_model")
    silver = rows["tested"] & (rows["source"] == "rnn")
    return exclusions.drop(rows, silver, "film labelled by the network, of a patient who is tested")


def parse_labels(cell: str) -> frozenset[str] | None:
    """Names in a cell of Labels, in lower case and with single blanks; None where it holds no list of names."""
    if cell.lower() in UNLABELLED:
        return frozenset()
    if not LIST.fullmatch(cell):
        return None
    return frozenset(" ".join((one or other).lower().split()) for one, other in NAME.findall(cell))


def _labels(films: pd.DataFrame, exclusions: Exclusions) -> pd.DataFrame:
    """A row for each labelled study and each finding that its source names anywhere."""
    first = films.drop_duplicates("study_id").set_index("study_id")["findings"]
    differs = [one != first[study] for one, study in zip(films["findings"], films["study_id"], strict=True)]
    exclusions.count("film whose labels differ from those of the study's first, all count", sum(differs))
    named = films[["study_id", "findings", "source"]].explode("findings")
    studies, findings = pd.Index(named["study_id"].unique()), pd.Index(sorted(set(named["findings"])))
    parts = [_closed_world(own, studies, findings, exclusions) for _, own in named.groupby("source")]
    return pd.concat(parts, ignore_index=True) if parts else empty_table("labels")


def _closed_world(named: pd.DataFrame, studies: pd.Index, findings: pd.Index, exclusions: Exclusions) -> pd.DataFrame:
    """1 where a study of one source names a finding, 0 for the others.

    Args:
        named: a row for each study and finding it names.
        studies: categories of the ids.
        findings: categories of the names.
        exclusions: counts "normal" beside a finding.
    """
    rows, study_ids = pd.factorize(named["study_id"])
    columns, names = pd.factorize(named["findings"], sort=True)
    shown = np.zeros((len(study_ids), len(names)), dtype=np.float32)
    shown[rows, columns] = 1
    normal = np.asarray(names == NO_FINDING)
    contradicted = shown[:, ~normal].any(axis=1)
    exclusions.count("study with 'normal' beside a finding, which counts", int(shown[contradicted][:, normal].sum()))
    shown[np.ix_(contradicted, normal)] = 0
    source = list(SOURCES.values()).index(named["source"].iloc[0])
    codes = {
        "study_id": (np.repeat(studies.get_indexer(study_ids), len(names)), studies),
        "finding": (np.tile(findings.get_indexer(names), len(study_ids)), findings),
        "source": (np.full(shown.size, source), list(SOURCES.values())),
    }
    columns_of = {name: pd.Categorical.from_codes(*parts) for name, parts in codes.items()}
    return pd.DataFrame(columns_of | {"value": shown.ravel()})
