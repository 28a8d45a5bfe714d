"""The loaders on real samples, where LGDEA_DATA names a folder of them; statements hold for the full downloads too."""

import json
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from layouts import grey, write_dicom

from lgdea_core.crops import boxes_to_frame
from lgdea_core.data.check import check_corpus
from lgdea_core.data.corpora import FOLDERS, assemble, load_corpus
from lgdea_core.data.corpora.siim import RUNS, SIDE, decode_runs
from lgdea_core.data.corpora.tables import read_table
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.images import load_images, read_image, read_mask
from lgdea_core.data.pairing import check_leaks, limit_pairs
from lgdea_core.vocabulary import NIH_FINDINGS, NO_FINDING

DATA = os.environ.get("LGDEA_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="LGDEA_DATA is not set: no folder of real corpora to test on")


@cache
def real(name: str) -> Corpus:
    root = Path(str(DATA)) / FOLDERS[name]
    if not root.is_dir():
        pytest.skip(f"LGDEA_DATA has no {FOLDERS[name]}")
    return load_corpus(name, root)


def test_nih_sample() -> None:
    corpus = real("nih")
    assert len(corpus.studies) == len(corpus.images) >= 600
    assert set(corpus.labels["finding"]) >= {*NIH_FINDINGS.values(), NO_FINDING}
    positive = corpus.labels[corpus.labels["value"] == 1].groupby("study_id")["finding"].apply(set)
    assert not any(NO_FINDING in findings and findings & set(NIH_FINDINGS.values()) for findings in positive)
    assert (corpus.boxes[["frame_width", "frame_height"]] == 1024).all(axis=None)
    scaled = boxes_to_frame(corpus.boxes, 384, 384)
    assert scaled.min() >= 0
    assert scaled.max() <= 384
    assert corpus.boxes.groupby("source")["image_id"].nunique()["nih"] >= 33


def test_nih_films_of_every_mode_are_readable() -> None:
    corpus = real("nih")
    picked = corpus.images.sort_values("width").iloc[[0, 1, -2, -1]]["image_id"]
    store = load_images(corpus.subset(picked), 64, progress=False)
    assert not store.excluded
    assert all(crop.std() > 10 for crop in store.pixels)  # a film, not a flat field


@pytest.mark.slow
def test_openi_sample() -> None:
    corpus = real("openi")
    reports = corpus.studies["report"].dropna()
    assert len(corpus.studies) - len(reports) == corpus.exclusions["report without findings and impression"]
    sectioned = bool(reports.str.contains("(?:^|\n)(?:FINDINGS|IMPRESSION): ", regex=True).all())
    coded = bool(reports.str.contains("AbstractText|MeSH|automatic", regex=True).any())
    assert sectioned  # plain truth values: a failing assert must not print reports
    assert not coded
    labelled = corpus.labels["study_id"].nunique()
    assert labelled + corpus.exclusions["report without labels"] == len(corpus.studies)


def test_covid_sample() -> None:
    corpus = real("covid_chestxray")
    films_of = corpus.images.groupby("study_id").size()
    assert films_of.sum() == len(corpus.images) >= 61
    assert set(corpus.boxes["finding"]) <= {"lung opacity", "consolidation"}
    for row in corpus.masks.itertuples():
        mask = read_mask(corpus.root / row.path)
        assert mask.shape == read_image(corpus.image_path(row.image_id)).shape
        assert mask.any()
    pathology = corpus.masks[corpus.masks["kind"] == "pathology"].set_index(["image_id", "finding"])
    for row in corpus.boxes.itertuples():
        rows, columns = np.nonzero(read_mask(corpus.root / pathology.loc[(row.image_id, row.finding), "path"]))
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        np.testing.assert_allclose(found, (row.x_min, row.y_min, row.x_max, row.y_max), rtol=0, atol=3)


def test_rsna_sample_on_the_nih_films_it_was_drawn_on(tmp_path: Path) -> None:
    nih = real("nih")
    source = nih.root / "rsna"
    if not source.is_dir():
        pytest.skip(f"{nih.root} has no rsna/")
    index = read_table(source / "image_index.csv", ("patientId", "Image Index"))
    file_of = dict(zip(index["patientId"], index["Image Index"], strict=True))
    mapping = [{"subset_img_id": patient, "img_id": file} for patient, file in file_of.items()]
    (tmp_path / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(mapping))
    (tmp_path / "stage_2_train_images").mkdir()
    for patient, file in file_of.items():
        (tmp_path / f"stage_2_train_images/{patient}.png").symlink_to(nih.image_path(Path(file).stem))
    for name in ("stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"):
        (tmp_path / name).symlink_to(source / name)
    corpus = load_corpus("rsna", tmp_path)
    expected = nih.boxes[nih.boxes["source"] == "rsna"]
    assert len(corpus.boxes) == len(expected) > 20
    assert corpus.boxes["x_max"].sum() == expected["x_max"].sum()
    assert set(corpus.studies["patient_id"]) <= set(nih.studies["patient_id"])
    positive = corpus.labels[(corpus.labels["finding"] == "lung opacity") & (corpus.labels["value"] == 1)]
    assert set(positive["study_id"]) == set(corpus.boxes["image_id"])
    assert set(corpus.exclusions) <= {"row without a film"}  # rows whose film is not in the sample


@pytest.mark.slow
def test_siim_sample_with_stand_ins_for_its_films(tmp_path: Path) -> None:
    table = Path(str(DATA)) / FOLDERS["siim"] / "train-rle.csv"
    if not table.is_file():
        pytest.skip(f"LGDEA_DATA has no {FOLDERS['siim']}/train-rle.csv")
    (tmp_path / "train-rle.csv").symlink_to(table)
    rows = RUNS.read(table)
    film = write_dicom(tmp_path / "film.dcm", grey(SIDE, SIDE))
    for image_id in rows["ImageId"].unique():
        path = tmp_path / f"dicom-images-train/study/series/{image_id}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(film)
    corpus = load_corpus("siim", tmp_path)
    assert len(corpus.images) == rows["ImageId"].nunique() <= len(rows)
    assert len(corpus.masks) == (corpus.labels["value"] == 1).sum() > 50
    share = [read_mask(corpus.root / path).mean() for path in corpus.masks["path"]]
    assert min(share) > 0
    assert max(share) < 0.4  # a pneumothorax, not a film: a wrong offset would run over the border
    runs = rows.loc[rows["EncodedPixels"] != "-1", "EncodedPixels"]
    lengths = [sum(map(int, each.split()[1::2])) for each in runs]
    assert sum(int(decode_runs(each).sum()) for each in runs) == sum(lengths)
    assert not corpus.exclusions


@pytest.mark.slow
def test_real_limited_pairing_task() -> None:
    for name in ("covid_chestxray", "nih", "openi"):
        real(name)
    corpus = assemble("covid_chestxray+nih+openi", Path(str(DATA)))
    pools = limit_pairs(corpus, 1.0, seed=0)
    assert {image_id.split("/")[0] for image_id in pools.seed_pairs["image_id"]} == {"covid_chestxray"}
    assert len(pools.image_ids) > len(pools.seed_pairs) > 20
    in_training = corpus.split("train").studies
    check_leaks(in_training["patient_id"], corpus.split("val", "test").studies["patient_id"])
    boxed = {image_id for image_id in corpus.boxes["image_id"] if image_id.startswith("nih/")}
    assert not boxed & set(pools.image_ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nih", "covid_chestxray"])
def test_real_samples_pass_the_check(name: str) -> None:
    assert check_corpus(name, real(name).root, progress=False).problems == []


@pytest.mark.slow
def test_the_check_of_openi_lists_the_films_that_are_not_there_and_nothing_else() -> None:
    """A sample with frontal films lacks all lateral ones, and 20 that the list of projections does not know either."""
    root = real("openi").root
    problems = check_corpus("openi", root, headers_only=True, progress=False).problems
    if not (root / "indiana_projections.csv").is_file():
        assert problems == []  # the publisher's own download is whole
        return
    table = read_table(root / "indiana_projections.csv", ("filename", "projection"))
    projection_of = {name.removesuffix(".dcm.png"): kind for name, kind in table[["filename", "projection"]].to_numpy()}
    # report 1 says its number twice: CXR1_1_IM-0001-3001
    named = [re.fullmatch(r"(\d+)\.xml, film 'CXR(?:\1_)?(\1_IM-.*)': film without a file", each) for each in problems]
    assert all(named)
    absent = {match[2] for match in named}
    assert absent & set(projection_of) == {name for name, kind in projection_of.items() if kind == "Lateral"}
    assert len(absent - set(projection_of)) == 20
    assert len(absent) == len(problems)
