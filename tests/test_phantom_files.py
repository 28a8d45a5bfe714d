"""Phantoms on disk: complete or absent, the same each time, split by patient; and pools of two worlds that differ."""

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import limit_pairs
from lgdea_core.data.phantom import (
    DEFAULT_PREVALENCE,
    SHIFTED_PREVALENCE,
    PhantomConfig,
    build_phantom,
    files,
    generate_study,
    load_phantom,
    load_phantom_table,
    mismatched_pools,
)
from lgdea_core.vocabulary import REGIONS

CONFIG = PhantomConfig(studies=150, image_size=32, seed=5)
SHIFTED = replace(CONFIG, prevalence=SHIFTED_PREVALENCE)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build_phantom(CONFIG, tmp_path_factory.mktemp("data") / "phantom", progress=False)


@pytest.fixture(scope="module")
def mismatched(corpus: Corpus) -> Corpus:
    return mismatched_pools(CONFIG, SHIFTED, corpus.root, paired_ratio=0.1, progress=False)


def test_files_hold_what_was_generated(corpus: Corpus) -> None:
    assert corpus.name == "phantom"
    assert list(corpus.studies["study_id"][:2]) == ["p000000", "p000001"]
    for index in range(8):
        study = generate_study(CONFIG, index)
        image = cv2.imread(str(corpus.image_path(f"{study.study_id}_0")), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(image, study.image)
        assert corpus.studies["report"][index] == study.report
        labels = corpus.labels[corpus.labels["study_id"] == study.study_id]
        assert set(labels.loc[labels["value"] == 1, "finding"]) == set(study.findings)
        assert len(labels) == len(CONFIG.findings)
        boxes = corpus.boxes[corpus.boxes["study_id"] == study.study_id]
        np.testing.assert_array_equal(boxes[["x_min", "y_min", "x_max", "y_max"]].to_numpy(), study.boxes_xyxy)
        assert tuple(boxes["phrase"]) == study.phrases
        regions = corpus.regions[corpus.regions["study_id"] == study.study_id].set_index("region")
        assert {
            name: tuple(box) for name, box in regions[["x_min", "y_min", "x_max", "y_max"]].T.items()
        } == study.regions
        assert (regions[["frame_height", "frame_width"]] == study.image.shape).all(axis=None)
        for row in corpus.masks[corpus.masks["study_id"] == study.study_id].itertuples():
            mask = cv2.imread(str(corpus.root / row.path), cv2.IMREAD_UNCHANGED) > 0
            assert np.array_equal(mask, study.mask_of(row.finding))


def test_further_tables_and_splits_of_whole_patients(corpus: Corpus) -> None:
    assert len(load_phantom_table(corpus.root, "regions")) == CONFIG.studies * len(REGIONS)
    evidence = load_phantom_table(corpus.root, "evidence_truth")
    reports = corpus.studies.set_index("study_id")["report"]
    assert all(reports[row.report_id][row.start : row.end] == row.phrase for row in evidence.itertuples())
    assert len(load_phantom_table(corpus.root, "lesions")) == len(corpus.boxes)
    with pytest.raises(ValueError, match=r"one of .*regions.*, got 'boxes'"):
        load_phantom_table(corpus.root, "boxes")
    assert corpus.studies.groupby("patient_id")["split"].nunique().max() == 1
    assert set(corpus.studies["split"]) == {"train", "val", "test"}
    patients = [f"pt{index - index % 2:05d}" for index in range(4000)]
    splits = np.array(files.split_patients(patients, CONFIG))
    for name, share in zip(("train", "val", "test"), CONFIG.split_shares, strict=True):
        assert abs((splits == name).mean() - share) < 0.001


def test_a_folder_is_reused_and_another_config_refused(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(config: PhantomConfig, index: int) -> None:
        raise AssertionError("a complete folder must not be generated again")

    monkeypatch.setattr(files, "generate_study", never)
    again = build_phantom(CONFIG, corpus.root, progress=False)
    assert again.studies.equals(corpus.studies)
    with pytest.raises(ValueError, match=r"differs in seed, prevalence; choose another folder"):
        build_phantom(replace(CONFIG, seed=4, prevalence={"nodule": 0.5}), corpus.root, progress=False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no phantom"):
        build_phantom(CONFIG, tmp_path, progress=False)


def test_a_broken_build_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def killed(config: PhantomConfig, index: int) -> object:
        if index == 3:
            raise KeyboardInterrupt
        return generate_study(config, index)

    monkeypatch.setattr(files, "generate_study", killed)
    with pytest.raises(KeyboardInterrupt):
        build_phantom(CONFIG, tmp_path / "phantom", progress=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="no complete phantom"):
        load_phantom(tmp_path / "phantom")


def build_at_the_same_time(root: Path, ready: Any, results: Any) -> None:
    """Build, but give the folder its name only when another process is about to do so as well."""
    install = files._install

    def together(*arguments: Any) -> bool:
        ready.wait(timeout=60)
        return install(*arguments)

    files._install = together
    try:
        results.put(sorted(build_phantom(replace(CONFIG, studies=3), root, progress=False).studies["study_id"]))
    except Exception as error:
        results.put(repr(error))


@pytest.mark.slow
def test_two_processes_may_build_the_same_folder_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(2), context.Queue()
    arguments = (tmp_path / "phantom", ready, results)
    processes = [context.Process(target=build_at_the_same_time, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    first, second = (results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert first == second == ["p000000", "p000001", "p000002"]
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]  # nothing temporary is left


def test_a_folder_filled_meanwhile_from_another_config_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install = files._install

    def slow(*arguments: Any) -> bool:
        monkeypatch.setattr(files, "_install", install)
        build_phantom(replace(CONFIG, studies=2), tmp_path / "phantom", progress=False)
        return install(*arguments)

    monkeypatch.setattr(files, "_install", slow)
    with pytest.raises(ValueError, match="differs in studies"):
        build_phantom(replace(CONFIG, studies=3), tmp_path / "phantom", progress=False)
    assert len(load_phantom(tmp_path / "phantom").studies) == 2


# ---- pools of two worlds


def prevalence(corpus: Corpus, source: str) -> pd.Series:
    studies = corpus.studies.loc[corpus.studies["corpus"] == source, "study_id"]
    labels = corpus.labels[corpus.labels["study_id"].isin(set(studies))]
    return labels.groupby("finding")["value"].mean()


def test_prevalences_are_as_asked(mismatched: Corpus) -> None:
    images, reports = prevalence(mismatched, "phantom_images"), prevalence(mismatched, "phantom_reports")
    asked = pd.Series(SHIFTED_PREVALENCE) - pd.Series(DEFAULT_PREVALENCE)
    found = reports - images
    assert (found[asked > 0.1] > 0.03).all()
    assert (found[asked < -0.08] < 0).all()
    assert found.corr(asked) > 0.8
    same = mismatched_pools(CONFIG, CONFIG, mismatched.root, paired_ratio=0.1, progress=False)
    control = prevalence(same, "phantom_reports") - prevalence(same, "phantom_images")
    assert control.abs().mean() < 0.5 * found.abs().mean()


def test_pools_hold_the_pairs_asked_for_and_hide_none(mismatched: Corpus, corpus: Corpus) -> None:
    studies = mismatched.studies
    numbers = {name: set(part["patient_id"].str.split("/").str[1]) for name, part in studies.groupby("corpus")}
    assert len(numbers) == 3
    assert not numbers["phantom"] & numbers["phantom_images"]  # no patient is on two sides
    assert not numbers["phantom_reports"] & (numbers["phantom"] | numbers["phantom_images"])
    assert studies["report"].dropna().duplicated().sum() == 0  # and no body
    pools = limit_pairs(mismatched, 1.0, seed=0)
    ordinary = limit_pairs(corpus, 0.1, seed=0)
    assert pools.hidden_pairs.empty
    assert abs(len(pools.seed_pairs) - len(ordinary.seed_pairs)) <= 1
    assert len(pools.image_ids) == len(ordinary.image_ids)
    assert len(pools.report_ids) == len(ordinary.report_ids)
    assert {image_id.split("/")[0] for image_id in pools.seed_pairs["image_id"]} == {"phantom"}
    held_out = mismatched.split("val", "test")
    assert set(held_out.studies["corpus"]) == {"phantom"}
    assert held_out.studies["report"].notna().all()
    assert set(held_out.images["study_id"]) == set(held_out.studies["study_id"])
    assert all((mismatched.root / path).is_file() for path in mismatched.images["path"].iloc[:5])
    larger = mismatched_pools(CONFIG, SHIFTED, mismatched.root, paired_ratio=0.3, progress=False)
    many = set(limit_pairs(larger, 1.0, seed=0).seed_pairs["report_id"])
    assert set(pools.seed_pairs["report_id"]) < many  # pairs of a smaller ratio are among those of a larger one


def test_reports_may_leave_a_fifth_of_the_findings_out(corpus: Corpus) -> None:
    said = []
    for unreported in (0.2, 0.0):
        world = replace(CONFIG, unreported_ratio=unreported, typo_rate=0.0)
        part = mismatched_pools(CONFIG, world, corpus.root, paired_ratio=0.1, progress=False)
        reports = part.studies[part.studies["corpus"] == "phantom_reports"].set_index("study_id")["report"]
        body = reports.str.split("FINDINGS:").str[1]
        shown = part.labels[(part.labels["value"] == 1) & part.labels["study_id"].isin(reports.index)]
        mentioned = [
            word in body[study_id].lower()
            for finding, word in (("pneumothorax", "pneumothora"), ("nodule", "nodule"), ("atelectasis", "atelectasis"))
            for study_id in shown.loc[shown["finding"] == finding, "study_id"]
        ]
        said.append(sum(mentioned) / len(mentioned))
    assert said[1] == 1
    assert 0.7 < said[0] < 0.9


def test_worlds_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for ratio in (0.0, 1.0):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            mismatched_pools(CONFIG, SHIFTED, tmp_path, paired_ratio=ratio)
    with pytest.raises(ValueError, match="one seed and the same findings"):
        mismatched_pools(CONFIG, replace(SHIFTED, seed=6), tmp_path, paired_ratio=0.1)
