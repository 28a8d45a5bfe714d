"""The loaders on real samples, where LGDEA_DATA names a folder of them; statements hold for the full downloads too."""

import os
from pathlib import Path

import numpy as np
import pytest

from lgdea_core.data.check import check_corpus
from lgdea_core.data.corpora import FOLDERS, assemble, load_corpus
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.images import boxes_to_frame, load_images, read_image, read_mask
from lgdea_core.data.pairing import check_leaks, limit_pairs
from lgdea_core.vocabulary import NIH_FINDINGS, NO_FINDING

DATA = os.environ.get("LGDEA_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="LGDEA_DATA is not set: no folder of real corpora to test on")


def real(name: str, **options: object) -> Corpus:
    root = Path(str(DATA)) / FOLDERS[name]
    if not root.is_dir():
        pytest.skip(f"LGDEA_DATA has no {FOLDERS[name]}")
    return load_corpus(name, root, **options)


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
@pytest.mark.parametrize("name", ["nih", "openi", "covid_chestxray"])
def test_real_samples_pass_the_check(name: str) -> None:
    report = check_corpus(name, real(name).root, progress=False)
    assert report.problems == []
