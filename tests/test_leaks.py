"""A model knows its training patients, and no evaluation accepts them: leaks planted by seed, split and corpus."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layouts import film, write, write_dicom

from lgdea_core.config import RunConfig
from lgdea_core.data.corpora import load_corpus
from lgdea_core.data.corpus import Corpus, empty_table
from lgdea_core.data.pairing import combine, split_by_patient
from lgdea_core.experiments.downstream import Pretrained
from lgdea_core.grounding import load
from lgdea_core.model import build_model
from lgdea_core.runs.leaks import PATIENTS_FILE, TrainingPatients, patient_keys, refuse_training_patients


def make_corpus(name: str, patients: int = 20, *, seed: int = 0, root: str = "/data/toy") -> Corpus:
    """One study without a film for each patient, split 50/20/30 by the seed."""
    ids = [f"{number:03d}" for number in range(patients)]
    studies = pd.DataFrame({"study_id": ids, "patient_id": [f"who-{each}" for each in ids], "report": "clear"})
    return Corpus(
        name=name,
        root=Path(root),
        studies=split_by_patient(studies, (0.5, 0.2, 0.3), seed),
        images=empty_table("images"),
        labels=empty_table("labels"),
    )


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    """Patients 1, 2, 3, 5 and 6 to train on, patient 4 on the test list."""
    root = tmp_path / "nih-chestxray14"
    names = [f"0000000{patient}_000.png" for patient in (1, 2, 3, 5, 6, 4)]
    rows = [f"{name},No Finding,{int(name[:8])},PA" for name in names]
    write(root / "Data_Entry_2017_v2020.csv", "Image Index,Finding Labels,Patient ID,View Position", *rows)
    write(root / "train_val_list.txt", *names[:-1])
    write(root / "test_list.txt", names[-1])
    for name in names:
        film(root / "images" / name)
    return root


def write_rsna(root: Path, patients: dict[str, int]) -> Path:
    """Films of some of NIH's patients under RSNA's names, with the mapping."""
    rows = [f"{name},,,,,0" for name in patients]
    write(root / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", *rows)
    for name in patients:
        write_dicom(root / f"stage_2_train_images/{name}.dcm", np.full((48, 48), 9, dtype=np.uint8))
    mapping = [{"subset_img_id": name, "img_id": f"{who:08d}_000.png"} for name, who in patients.items()]
    (root / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(mapping))
    return root


def test_the_split_of_training_is_accepted_and_that_of_another_seed_refused() -> None:
    trained = TrainingPatients.of(make_corpus("folder", seed=0))
    trained.refuse(make_corpus("folder", seed=0).split("val", "test"))
    other = make_corpus("folder", seed=1).split("test")
    shared = set(other.studies["patient_id"]) & set(make_corpus("folder").split("train").studies["patient_id"])
    assert shared
    expected = rf"^{len(shared)} patient\(s\) are in training and in the evaluation on 'folder': 'toy/who-.*; judge"
    with pytest.raises(ValueError, match=expected):
        trained.refuse(other)


def test_a_split_written_anew_is_refused() -> None:
    corpus = make_corpus("nih")
    trained = TrainingPatients.of(corpus)
    studies = corpus.studies.assign(split=corpus.studies["split"].replace({"train": "test", "test": "train"}))
    with pytest.raises(ValueError, match=r"^10 patient\(s\) .* train it again without them$"):
        trained.refuse(replace(corpus, studies=studies).split("test"))


def test_the_file_holds_no_id_and_its_bytes_depend_on_the_patients_alone(tmp_path: Path) -> None:
    corpus = make_corpus("nih")
    trained = TrainingPatients.of(corpus)
    trained.save(tmp_path)
    text = (tmp_path / PATIENTS_FILE).read_text()
    assert "who-" not in text
    assert not re.search(r"\b0\d\d\b", text)
    assert TrainingPatients.load(tmp_path) == trained
    backwards = replace(corpus, studies=corpus.studies.iloc[::-1])
    assert TrainingPatients.of(backwards) == trained
    other = TrainingPatients.of(make_corpus("nih", seed=1))
    assert not set(trained.hashes) & set(other.hashes)  # another salt, so two models cannot be compared


def test_a_combination_of_corpora_knows_the_patients_of_each() -> None:
    parts = {name: make_corpus(name, root=f"/data/{name}-0") for name in ("phantom", "nih")}
    combined = combine(pairs=parts["phantom"], reports=parts["nih"])
    assert set(patient_keys(combined)) == {*patient_keys(parts["phantom"]), *patient_keys(parts["nih"])}
    trained = TrainingPatients.of(combined)
    assert trained.sources == ("nih", "phantom-0")
    trained.refuse(combine(pairs=make_corpus("phantom", root="/data/phantom-1"), reports=parts["nih"].split("test")))
    trained.refuse(parts["nih"].split("test"))
    with pytest.raises(ValueError, match=r"^10 patient\(s\) are in training and in the evaluation on 'nih'"):
        trained.refuse(parts["nih"])


def test_patients_of_two_own_folders_are_not_taken_for_each_other() -> None:
    trained = TrainingPatients.of(make_corpus("folder", root="/data/north"))
    trained.refuse(make_corpus("folder", root="/data/south"))
    with pytest.raises(ValueError, match="'north/who-"):
        trained.refuse(make_corpus("folder", root="/data/north"))


def of_patients(name: str, *patients: str, root: str = "/data/my-mimic") -> Corpus:
    """These patients, all in split train."""
    corpus = make_corpus(name, len(patients), root=root)
    return replace(corpus, studies=corpus.studies.assign(patient_id=list(patients), split="train"))


@pytest.mark.parametrize("root", ["/data/my-mimic", "/data/folder"])  # the second is where `folder` lies by default
@pytest.mark.parametrize(
    ("trained", "evaluated"),
    [
        (("folder", "p10000764"), ("ms_cxr", "p10000764")),
        (("folder", "10000764"), ("ms_cxr", "p10000764")),  # as MIMIC's tables write it
        (("mimic_cxr", "p10000764"), ("folder", "10000764")),
        (("chexpert", "patient00002"), ("folder", "patient00002")),
    ],
)
def test_published_patients_in_an_own_folder_are_found_by_their_ids(
    trained: tuple[str, str], evaluated: tuple[str, str], root: str
) -> None:
    patients = TrainingPatients.of(of_patients(trained[0], trained[1], "p19999999", root=root))
    expected = rf"^1 patient\(s\) are in training and in the evaluation on '{evaluated[0]}': '.*/p?\w*{evaluated[1]}';"
    with pytest.raises(ValueError, match=expected):
        patients.refuse(of_patients(evaluated[0], evaluated[1], "p18888888", root=root))
    patients.refuse(of_patients(evaluated[0], "p18888888", root=root))


def test_a_copy_of_an_own_folder_is_refused_or_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    trained = TrainingPatients.of(of_patients("folder", "p10000764", "7"))
    with pytest.raises(ValueError, match=r"^1 patient\(s\) .* 'copy/p10000764'"):
        trained.refuse(of_patients("folder", "p10000764", "7", root="/data/copy"))
    assert "nobody" not in caplog.text
    for evaluated in (of_patients("folder", "7", "8", root="/data/copy"), of_patients("nih", "7", "8")):
        caplog.clear()
        trained.refuse(evaluated)
        assert "1 of its patients have the ids of patients of my-mimic, whom this model was trained on" in caplog.text
    caplog.clear()
    trained.refuse(of_patients("folder", "8", root="/data/copy"))
    TrainingPatients.of(of_patients("nih", "7")).refuse(of_patients("openi", "7"))  # publishers share no numbers
    assert not caplog.text


def test_generated_patients_exist_in_their_own_world_only() -> None:
    trained = TrainingPatients.of(make_corpus("phantom", root="/data/phantom-20x64-seed0"))
    trained.refuse(make_corpus("phantom", root="/data/phantom-20x64-seed1000"))
    with pytest.raises(ValueError, match="phantom-20x64-seed0/who-"):
        trained.refuse(make_corpus("phantom", seed=3, root="/elsewhere/phantom-20x64-seed0"))


def test_a_model_of_nih_is_not_judged_on_rsna_films_of_its_patients(nih: Path, tmp_path: Path) -> None:
    trained = TrainingPatients.of(load_corpus("nih", nih))
    seen = load_corpus("nih", nih).split("train").studies["patient_id"].tolist()
    leaking = write_rsna(tmp_path / "leaking", {"aa": int(seen[0]), "bb": int(seen[1]), "cc": 4})
    with pytest.raises(ValueError, match=r"^2 patient\(s\) are in training and in the evaluation on 'rsna': 'nih/"):
        trained.refuse(load_corpus("rsna", leaking))
    trained.refuse(load_corpus("rsna", write_rsna(tmp_path / "clean", {"aa": 4, "bb": 9})))


def test_films_whose_ids_do_not_tell_are_warned_of(nih: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = TrainingPatients.of(load_corpus("nih", nih))
    folder = write_rsna(tmp_path / "rsna", {"aa": 1})
    (folder / "pneumonia-challenge-dataset-mappings_2018.json").unlink()
    with caplog.at_level(logging.WARNING, logger="lgdea"):
        trained.refuse(load_corpus("rsna", folder))
    assert "films of rsna may show patients of nih" in caplog.text
    caplog.clear()
    trained.refuse(make_corpus("openi"))
    TrainingPatients.of(make_corpus("mimic_cxr")).refuse(make_corpus("ms_cxr").split("test"))
    assert not caplog.text
    with pytest.raises(ValueError, match="'mimic_cxr/who-"):  # MS-CXR films are MIMIC's, under the same ids
        TrainingPatients.of(make_corpus("mimic_cxr")).refuse(make_corpus("ms_cxr"))


def test_a_tower_is_not_probed_on_its_training_patients(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, corpus = RunConfig.from_preset("ci", method="clip"), make_corpus("nih")
    model, processor = build_model(config, ["There is a small left pleural effusion."])
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="lgdea"):
        refuse_training_patients(load(tmp_path)[0], corpus)
    assert f"the model has no {PATIENTS_FILE}, so nobody can tell" in caplog.text
    TrainingPatients.of(corpus).save(tmp_path)
    pretrained = Pretrained(method="clip", config=config, folder=tmp_path)
    assert pretrained.tower(corpus).training is False
    with pytest.raises(ValueError, match="in training and in the evaluation on 'nih'"):
        pretrained.tower(make_corpus("nih", seed=1))
