"""Lesions painted into real normal films: on a toy NIH folder of phantom chests, and on the real sample where it is."""

import csv
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from lgdea_core.data.corpora import OWN_SPLITS, load_corpus, painted_nih
from lgdea_core.data.corpora.painted_nih import FILM_SIDE, NAME, PAINTED
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.images import read_image, read_mask
from lgdea_core.data.pairing import limit_pairs
from lgdea_core.data.phantom import PhantomConfig, fit_lungs, load_phantom_table
from lgdea_core.data.phantom.nuisance import Nuisance
from lgdea_core.data.phantom.study import develop, plan_study
from lgdea_core.data.phantom.truth import Truth
from lgdea_core.experiments.plans import limited_pairing
from lgdea_core.experiments.worlds import build_world

DATA = os.environ.get("LGDEA_DATA")
SEED = 2
"""Of those that leave patient 1 in train."""
needs_data = pytest.mark.skipif(not DATA, reason="LGDEA_DATA is not set: no folder of real films to paint into")
ROWS = (
    ("00000001_000.png", "No Finding", "1", "PA"),
    ("00000001_001.png", "Effusion|Mass", "1", "PA"),
    ("00000002_000.png", "No Finding", "2", "AP"),
    ("00000003_000.png", "No Finding", "3", "PA"),
    ("00000004_000.png", "No Finding", "4", "PA"),
    ("00000004_001.png", "No Finding", "4", "PA"),
)
"""Film, labels, patient and view; the last but one has no lungs, the last is cut off."""


def normal_chest(index: int) -> np.ndarray:
    config = PhantomConfig(nuisance=0.5, seed=9)
    plan = replace(plan_study(config, index), truth=Truth(lesions=(), mentions=(), resolved=None))
    nuisance = Nuisance.sample(np.random.default_rng(index), 0.3)
    return develop(replace(plan, nuisance=replace(nuisance, marker=False)), 200).image


@pytest.fixture(scope="module")
def nih(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NIH's layout with normal phantom chests for films."""
    root = tmp_path_factory.mktemp("nih")
    (root / "images").mkdir()
    for index, (film, *_) in enumerate(ROWS):
        cv2.imwrite(str(root / "images" / film), normal_chest(index))
    broken = root / "images" / ROWS[-1][0]
    broken.write_bytes(broken.read_bytes()[:200])
    cv2.imwrite(str(root / "images" / ROWS[-2][0]), np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8))
    with (root / "Data_Entry_2017_v2020.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Image Index", "Finding Labels", "Patient ID", "View Position"])
        writer.writerows(ROWS)
    (root / "train_val_list.txt").write_text("\n".join(film for film, _, patient, _ in ROWS if patient in "14"))
    (root / "test_list.txt").write_text("\n".join(film for film, _, patient, _ in ROWS if patient in "23"))
    return root


@pytest.fixture(scope="module")
def corpus(nih: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return load_corpus("painted_nih", nih, seed=SEED, per_film=3, folder=tmp_path_factory.mktemp("data") / "painted")


def test_only_normal_films_with_lungs_are_painted_and_every_table_says_so(corpus: Corpus) -> None:
    assert "painted lesions on real normal films" in corpus.name == NAME
    assert set(corpus.studies["provenance"]) == {NAME}
    assert set(corpus.boxes["source"]) == {"painted"}
    assert "painted_nih" in OWN_SPLITS  # all its films have boxes: withholding them would leave nothing to train on
    assert set(corpus.studies["film"]) == {"00000001_000", "00000002_000", "00000003_000"}
    assert len(corpus.studies) == 9
    assert corpus.exclusions == {
        "film with a finding": 1,
        "normal film without clear lungs": 1,
        "normal film that cannot be read": 1,
    }
    assert set(corpus.images["view"]) == {"PA", "AP"}


def test_studies_stay_with_nih_patients_and_lists(corpus: Corpus, nih: Path) -> None:
    split_of = corpus.studies.groupby("patient_id")["split"].agg(set).to_dict()
    assert split_of == {"1": {"train"}, "2": {"test"}, "3": {"test"}}
    everything = load_corpus("painted_nih", nih, seed=SEED, per_film=3, folder=corpus.root, splits="test")
    assert set(everything.studies["split"]) == {"test"}
    assert everything.studies.drop(columns="split").equals(corpus.studies.drop(columns="split"))
    pools = limit_pairs(corpus, 0.4, seed=0)
    assert (len(pools.seed_pairs), len(pools.hidden_pairs)) == (1, 2)


def test_truth_lies_where_the_film_was_changed(corpus: Corpus, nih: Path) -> None:
    shares = []
    for study in corpus.studies.itertuples():
        film = read_image(nih / "images" / f"{study.film}.png")
        painted = read_image(corpus.image_path(f"{study.study_id}_0"))
        assert painted.shape == film.shape  # smaller than FILM_SIDE: kept as it is
        change = np.abs(painted - film)
        masks = corpus.masks[corpus.masks["study_id"] == study.study_id]
        if masks.empty:
            assert change.max() < 0.01
            continue
        union = np.logical_or.reduce([read_mask(corpus.root / path) for path in masks["path"]])
        shares.append(change[union].sum() / change.sum())
        for box in corpus.boxes[corpus.boxes["study_id"] == study.study_id].itertuples():
            inside = change[int(box.y_min) : int(box.y_max), int(box.x_min) : int(box.x_max)]
            assert inside.max() > 0.03
    assert len(shares) > 3
    assert np.mean(shares) > 0.75


def test_reports_and_labels_are_those_of_the_phantoms_world(corpus: Corpus) -> None:
    truth = corpus.labels[corpus.labels["value"] == 1].groupby("study_id")["finding"].agg(set)
    assert set(corpus.labels["finding"]) == set(PAINTED.findings)
    assert "cardiomegaly" not in PAINTED.findings
    drawn = corpus.boxes.groupby("study_id")["finding"].agg(set)
    assert truth.to_dict() == drawn.to_dict()
    evidence = load_phantom_table(corpus.root, "evidence_truth")
    reports = corpus.studies.set_index("study_id")["report"]
    for claim in evidence.itertuples():
        assert reports[claim.report_id][claim.start : claim.end] == claim.phrase


@pytest.mark.slow
def test_experiments_train_on_it_in_a_folder_of_its_own(
    nih: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nih-chestxray14").symlink_to(nih)
    monkeypatch.setenv("LGDEA_DATA", str(tmp_path))
    monkeypatch.setattr(painted_nih, "project_root", lambda: tmp_path)
    monkeypatch.setattr(painted_nih, "load", partial(painted_nih.load, per_film=1))
    cell = limited_pairing(world="painted", seeds=(SEED,), preset="ci")[0]
    world = build_world("painted", cell.config)
    assert world.name == NAME
    assert world.root == tmp_path / "data" / f"painted-nih-1-seed{SEED}"
    assert world.studies.groupby("patient_id")["split"].agg(set).to_dict() == {
        "1": {"train"}, "2": {"test"}, "3": {"test"},
    }  # fmt: skip


@pytest.mark.slow
def test_it_is_written_once_and_the_same_each_time(corpus: Corpus, nih: Path, tmp_path: Path) -> None:
    again = load_corpus("painted_nih", nih, seed=SEED, per_film=3, folder=tmp_path / "again")
    assert again.studies.equals(corpus.studies)
    for path in corpus.images["path"]:
        assert (again.root / path).read_bytes() == (corpus.root / path).read_bytes()
    (nih / "images" / "00000003_000.png").rename(tmp_path / "aside.png")
    try:
        with pytest.raises(ValueError, match="another configuration, which differs in films"):
            load_corpus("painted_nih", nih, seed=SEED, per_film=3, folder=corpus.root)
    finally:
        (tmp_path / "aside.png").rename(nih / "images" / "00000003_000.png")
    other = load_corpus("painted_nih", nih, seed=SEED + 1, per_film=1, folder=tmp_path / "other")
    assert set(other.studies["report"]) != set(corpus.studies["report"])


def test_errors(nih: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="per_film must be at least 1 and splits nih or test, got 0 and 'nih'"):
        load_corpus("painted_nih", nih, per_film=0, folder=tmp_path / "new")
    sick = tmp_path / "sick"
    (sick / "images").mkdir(parents=True)
    (sick / "images" / "a.png").write_bytes((nih / "images" / ROWS[0][0]).read_bytes())
    (sick / "Data_Entry_2017_v2020.csv").write_text(
        "Image Index,Finding Labels,Patient ID,View Position\na.png,Mass,1,PA\n"
    )
    (sick / "train_val_list.txt").write_text("a.png")
    (sick / "test_list.txt").write_text("")
    with pytest.raises(ValueError, match=r"no film under .* is labelled normal"):
        load_corpus("painted_nih", sick, folder=tmp_path / "new")


@needs_data
@pytest.mark.slow
def test_lungs_are_found_on_real_films_with_lung_masks() -> None:
    # Sick lungs, so a harder case than the normal films it is for; masks by lungVAE.
    root = Path(str(DATA)) / "covid-chestxray-dataset"
    if not root.is_dir():
        pytest.skip("LGDEA_DATA has no covid-chestxray-dataset")
    covid = load_corpus("covid_chestxray", root)
    masks = covid.masks[covid.masks["path"].str.contains("lungs_vae")].iloc[::6]
    overlaps = []
    for row in masks.itertuples():
        fit = fit_lungs(read_image(covid.image_path(row.image_id)))
        _, _, parts, _ = cv2.connectedComponentsWithStats(read_mask(root / row.path).astype(np.uint8))
        lungs = sorted(parts[1:].tolist(), key=lambda part: -part[4])[:2]
        for box, (x, y, width, height, _) in zip((fit.right, fit.left), sorted(lungs), strict=True):
            low, high = np.maximum(box[:2], (x, y)), np.minimum(box[2:], (x + width, y + height))
            shared = np.prod(np.maximum(high - low, 0))
            overlaps.append(shared / ((box[2] - box[0]) * (box[3] - box[1]) + width * height - shared))
    assert len(overlaps) >= 8
    assert np.median(overlaps) > 0.6


@needs_data
@pytest.mark.slow
def test_real_normal_films_can_be_painted(tmp_path: Path) -> None:
    root = Path(str(DATA)) / "nih-chestxray14"
    if not root.is_dir():
        pytest.skip("LGDEA_DATA has no nih-chestxray14")
    part = tmp_path / "nih"
    (part / "images").mkdir(parents=True)
    header, *rows = (root / "Data_Entry_2017_v2020.csv").read_text().splitlines()
    rows = [row for row in rows if ",No Finding," in row][::8]
    (part / "Data_Entry_2017_v2020.csv").write_text("\n".join([header, *rows]) + "\n")
    for name in ("train_val_list.txt", "test_list.txt", *(f"images/{row.split(',')[0]}" for row in rows)):
        (part / name).symlink_to(root / name)
    corpus = load_corpus("painted_nih", part, per_film=1, folder=tmp_path / "painted")
    normal = corpus.studies["film"].nunique()
    assert normal == len(corpus.studies) > 8
    assert corpus.exclusions.get("normal film without clear lungs", 0) < 0.1 * normal
    assert corpus.images[["width", "height"]].min(axis=None) == FILM_SIDE
    assert len(set(corpus.studies["split"])) > 1  # NIH's lists
    assert json.loads((corpus.root / "config.json").read_text())["kind"] == NAME
