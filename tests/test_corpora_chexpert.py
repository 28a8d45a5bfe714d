"""CheXpert and the retrieval sets drawn from it."""

import hashlib
import json
import re
from pathlib import Path

import layouts
import numpy as np
import pandas as pd
import pytest
from layouts import CHEXPERT_HEADER as HEADER
from layouts import CHEXPERT_TRAIN as TRAIN
from layouts import chexpert_row as row
from layouts import film, values, write, write_chexpert

from lgdea_core.data.check import check_corpus
from lgdea_core.data.corpora import assemble, load_corpus
from lgdea_core.data.corpora import chexpert_retrieval as retrieval
from lgdea_core.data.corpora.tables import CHEXPERT_LABELS
from lgdea_core.data.pairing import check_leaks


@pytest.fixture
def chexpert(tmp_path: Path) -> Path:
    return layouts.chexpert(tmp_path)


def test_chexpert_layout_becomes_tables(chexpert: Path) -> None:
    corpus = load_corpus("chexpert", chexpert)
    assert corpus.images["image_id"].tolist()[0] == "patient00001_study1_view1_frontal"
    assert corpus.images["view"].tolist() == ["AP"] * 5
    studies = corpus.studies.set_index("study_id")
    assert studies.loc["patient64541_study1", "split"] == "test"
    assert studies.loc["patient00001_study1", "split"] == studies.loc["patient00001_study2", "split"]
    assert set(studies["split"]) == {"train", "val", "test"}
    assert studies["report"].isna().all()
    assert corpus.exclusions == {"lateral film": 1}
    assert set(corpus.labels["source"]) == {"chexpert", "radiologist"}
    assert len(assemble("chexpert", chexpert.parent).studies) == 5


@pytest.mark.parametrize(
    ("policy", "edema", "cardiomegaly", "pneumonia"),
    [("keep", -1, -1, -1), ("u-ones", 1, 1, 1), ("u-zeros", 0, 0, 0), ("mgca", 1, 0, -1)],
)
def test_uncertain_labels_follow_the_named_policy_and_blanks_stay_blank(
    chexpert: Path, policy: str, edema: int, cardiomegaly: int, pneumonia: int
) -> None:
    labels = values(load_corpus("chexpert", chexpert, uncertain=policy), "patient00001_study1")
    assert (labels["edema"], labels["cardiomegaly"], labels["pneumonia"]) == (edema, cardiomegaly, pneumonia)
    assert labels["fracture"] == 0
    assert np.isnan(labels["consolidation"])
    assert len(labels) == 14


def test_an_unknown_policy_is_refused(chexpert: Path) -> None:
    with pytest.raises(ValueError, match=r"uncertain must be one of \('keep', 'u-ones', 'u-zeros', 'mgca'\)"):
        load_corpus("chexpert", chexpert, uncertain="ones")


@pytest.mark.parametrize(
    ("moved", "prefix"),
    [
        ("CheXpert-v1.0-small", "CheXpert-v1.0-small/"),  # the root is one level up, tables and films
        ("", "CheXpert-v1.0/"),
        ("", ""),
        ("", "/data/chexpert/CheXpert-v1.0-small/"),
        ("films only", "films only/"),
    ],
)
def test_the_release_may_lie_deeper_and_its_paths_begin_otherwise(chexpert: Path, moved: str, prefix: str) -> None:
    expected = load_corpus("chexpert", chexpert)
    for name in ("train.csv", "valid.csv"):
        path = chexpert / name
        path.write_text(path.read_text().replace("CheXpert-v1.0-small/", prefix))
    if moved:
        (chexpert / moved).mkdir()
        for name in ("train", "valid", *(("train.csv", "valid.csv") if "only" not in moved else ())):
            (chexpert / name).rename(chexpert / moved / name)
    corpus = load_corpus("chexpert", chexpert)
    pd.testing.assert_frame_equal(corpus.studies, expected.studies)
    assert all(corpus.image_path(image_id).is_file() for image_id in expected.images["image_id"])


def test_without_films_the_first_path_tried_is_named(chexpert: Path) -> None:
    (chexpert / "train").rename(chexpert / "moved")
    (chexpert / "valid").rename(chexpert / "moved too")
    tried = chexpert / "'train/patient00001/study1/view1_frontal.jpg'"
    with pytest.raises(FileNotFoundError, match=f"; the first path tried is {re.escape(str(tried))}$"):
        load_corpus("chexpert", chexpert)


def many_rows(alone: int) -> list[str]:
    """Rows of `alone` films of every class alone, and of as many that only seem to be of it."""
    columns = list(dict.fromkeys(column for classes in retrieval.CLASSES.values() for column in classes))
    rows, number = [], 0
    for column in columns:
        key, other = column.replace(" ", "_"), "Lung_Opacity" if column != "Lung Opacity" else "Edema"
        for _ in range(alone):
            for view, labels in (
                ("Frontal", {key: "1.0", "Pleural_Other": "0.0"}),
                ("Frontal", {key: "1.0", other: "-1.0"}),
                ("Frontal", {key: "-1.0"}),
                ("Lateral", {key: "1.0"}),
            ):
                number += 1
                rows.append(row(f"train/patient{number:05}/study1/view1_{view.lower()}.jpg", view, **labels))
    return rows


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `train.csv` that is just large enough for the larger set."""
    root = tmp_path_factory.mktemp("release")
    write_chexpert(root, many_rows(210))
    return root


@pytest.fixture(scope="module")
def drawn(release: Path) -> list[Path]:
    return retrieval.write_set(release, "5x200", seed=7)


def test_5x200_holds_films_of_one_finding_alone(drawn: list[Path]) -> None:
    assert drawn[0].name == "chexpert_5x200.csv"
    rows = pd.read_csv(drawn[0])
    assert list(rows.columns) == HEADER.split(",")
    classes = list(retrieval.CLASSES["5x200"])
    assert rows[classes].sum().tolist() == [200] * 5
    assert (rows[list(CHEXPERT_LABELS)].fillna(0).sum(axis=1) == 1).all()  # one 1, no -1
    assert set(rows["Frontal/Lateral"]) == {"Frontal"}
    assert rows["Path"].is_unique


def test_a_drawn_set_records_its_seed_and_checksums(drawn: list[Path], release: Path) -> None:
    record = json.loads(drawn[-1].read_text())
    assert (drawn[-1].name, record["set"], record["seed"]) == ("chexpert_5x200.json", "5x200", 7)
    assert set(record["sha256"]) == {"train.csv", "chexpert_5x200.csv"}
    for name, digest in record["sha256"].items():
        assert hashlib.sha256((release / name).read_bytes()).hexdigest() == digest


def test_5x200_draws_as_mgcas_code_does(release: Path, drawn: list[Path]) -> None:
    table = pd.read_csv(release / "train.csv").fillna(0)
    table = table[table["Frontal/Lateral"] == "Frontal"]
    others = [column for column in CHEXPERT_LABELS if column not in ("No Finding", "Edema")]
    expected = table[(table["Edema"] == 1) & (table[others] == 0).all(axis=1)].sample(n=200, random_state=0)
    rows = retrieval.draw_set(release, "5x200", seed=0)[""]
    assert rows.loc[rows["Edema"] == "1.0", "Path"].tolist() == expected["Path"].tolist()
    assert rows["Path"].tolist() != pd.read_csv(drawn[0])["Path"].tolist()  # of another seed


def test_8x200_queries_share_no_patient_with_candidates(release: Path) -> None:
    sets = retrieval.draw_set(release, "8x200", seed=3)
    assert {role: len(rows) for role, rows in sets.items()} == {"candidates": 1600, "query": 80}
    patients = [set(rows["Path"].str.split("/").str[2]) for rows in sets.values()]
    assert not patients[0] & patients[1]
    assert (sets["candidates"]["No Finding"] == "1.0").sum() == 200


def test_a_set_needs_enough_films_and_is_drawn_once(drawn: list[Path], release: Path, tmp_path: Path) -> None:
    write_chexpert(tmp_path, many_rows(205))
    with pytest.raises(ValueError, match=r"train\.csv: 5 films show Atelectasis alone, but the set needs 10"):
        retrieval.write_set(tmp_path, "8x200", seed=0)
    assert not list(tmp_path.glob("chexpert_8x200*"))
    assert all(path.is_file() for path in drawn)
    with pytest.raises(FileExistsError, match=r"chexpert_5x200\.csv is there already; delete it"):
        retrieval.write_set(release, "5x200", seed=1)


def small_set(root: Path, *lines: str, name: str = "chexpert_5x200.csv", header: str = HEADER) -> None:
    write(root / name, header, *lines)


def test_films_of_a_study_that_disagree_are_a_problem(chexpert: Path) -> None:
    other = row("train/patient00002/study1/view2_frontal.jpg", Edema="0.0")
    film(chexpert / "train/patient00002/study1/view2_frontal.jpg")
    write_chexpert(chexpert, [*TRAIN, other])
    [problem] = check_corpus("chexpert", chexpert, progress=False).problems
    assert problem.endswith("view2_frontal.jpg': labels differ from those of the study's first film")
    assert problem.startswith("train.csv, line 7, film '")


def test_patients_of_a_set_leave_training_and_a_planted_one_is_found(chexpert: Path) -> None:
    trained = load_corpus("chexpert", chexpert).split("train", "val").studies["patient_id"]
    small_set(chexpert, TRAIN[3])
    evaluated = load_corpus("chexpert_5x200", chexpert).studies["patient_id"]
    with pytest.raises(ValueError, match=r"1 patient\(s\) are in training and in CheXpert 5x200: 'patient00002'"):
        check_leaks(trained, evaluated, "CheXpert 5x200")
    corpus = load_corpus("chexpert", chexpert)
    check_leaks(corpus.split("train", "val").studies["patient_id"], evaluated, "CheXpert 5x200")
    assert corpus.exclusions["study of a patient of a retrieval set, kept out of training"] == 1


def test_sets_are_corpora_with_one_class_a_study(chexpert: Path) -> None:
    small_set(chexpert, f"{TRAIN[3]},Edema.", f"{TRAIN[4]},", header=f"{HEADER},Report Impression")  # GLoRIA's file
    corpus = assemble("chexpert_5x200", chexpert.parent)
    assert corpus.labels[["study_id", "finding", "value"]].to_numpy().tolist() == [
        ["patient00002_study1", "edema", 1.0],
        ["patient00003_study1", "pleural effusion", 1.0],
    ]
    assert corpus.studies["report"].isna().tolist() == [False, True]
    assert set(corpus.studies["split"]) == {"test"}
    small_set(chexpert, TRAIN[2], name="chexpert_8x200_query.csv")
    small_set(chexpert, TRAIN[3], name="chexpert_8x200_candidates.csv")
    studies = load_corpus("chexpert_8x200", chexpert).studies
    assert dict(zip(studies["study_id"], studies["role"], strict=True)) == {
        "patient00001_study2": "query", "patient00002_study1": "candidates",
    }  # fmt: skip
    assert check_corpus("chexpert_8x200", chexpert, progress=False).problems == []


def test_convirts_own_queries_name_their_class(chexpert: Path) -> None:
    small_set(chexpert, f"Edema,{TRAIN[3].split(',')[0]}", name="chexpert_8x200_query.csv", header="Variable,Path")
    small_set(chexpert, TRAIN[2], name="chexpert_8x200_candidates.csv")
    corpus = load_corpus("chexpert_8x200", chexpert)
    assert values(corpus, "patient00002_study1") == {"edema": 1}
    assert values(corpus, "patient00001_study2") == {"no finding": 1}
    trained = load_corpus("chexpert", chexpert).split("train", "val").studies["patient_id"]
    assert set(trained) == {"patient00003"}
    small_set(chexpert, f"Hernia,{TRAIN[3].split(',')[0]}", name="chexpert_8x200_query.csv", header="Variable,Path")
    with pytest.raises(ValueError, match=r"query\.csv, line 2, film '.*': shown must be one class of .*got 6 char"):
        load_corpus("chexpert_8x200", chexpert)


def test_the_command_writes_the_set(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert retrieval.main([str(release), "8x200"]) == 0
    written = [Path(line).name for line in capsys.readouterr().out.split()]
    assert written == ["chexpert_8x200_candidates.csv", "chexpert_8x200_query.csv", "chexpert_8x200.json"]
    assert len((release / written[1]).read_text().splitlines()) == 81
