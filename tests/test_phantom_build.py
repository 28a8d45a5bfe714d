"""The phantom on disk: complete or absent, the same each time, split by patient."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lgdea_core.data.corpus import Corpus
from lgdea_core.data.phantom import (
    PhantomConfig,
    build,
    build_phantom,
    files,
    generate_study,
    load_phantom,
    load_phantom_config,
    load_phantom_table,
)
from lgdea_core.vocabulary import REGIONS

CONFIG = PhantomConfig(studies=60, image_size=48, seed=3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build_phantom(CONFIG, tmp_path_factory.mktemp("data") / "phantom", progress=False)


def test_files_hold_what_was_generated(corpus: Corpus) -> None:
    assert corpus.name == "phantom"
    assert list(corpus.studies["study_id"][:2]) == ["p000000", "p000001"]
    for index in range(12):
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


def test_further_tables(corpus: Corpus) -> None:
    regions = load_phantom_table(corpus.root, "regions")
    assert len(regions) == 60 * len(REGIONS)
    evidence = load_phantom_table(corpus.root, "evidence_truth")
    reports = corpus.studies.set_index("study_id")["report"]
    assert all(reports[row.report_id][row.start : row.end] == row.phrase for row in evidence.itertuples())
    assert len(load_phantom_table(corpus.root, "lesions")) == len(corpus.boxes)
    with pytest.raises(ValueError, match=r"one of .*regions.*, got 'boxes'"):
        load_phantom_table(corpus.root, "boxes")


def test_a_folder_is_reused_and_another_config_refused(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(config: PhantomConfig, index: int) -> None:
        raise AssertionError("a complete folder must not be generated again")

    monkeypatch.setattr(build, "generate_study", never)
    again = build_phantom(CONFIG, corpus.root, progress=False)
    assert again.studies.equals(corpus.studies)
    assert load_phantom_config(corpus.root) == CONFIG
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

    monkeypatch.setattr(build, "generate_study", killed)
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


def test_splits_hold_whole_patients_in_the_shares_asked_for(corpus: Corpus) -> None:
    assert corpus.studies.groupby("patient_id")["split"].nunique().max() == 1
    config = replace(CONFIG, studies=4000)
    patients = [f"pt{index - index % 2:05d}" for index in range(4000)]
    splits = np.array(build.split_patients(patients, config))
    for name, share in zip(("train", "val", "test"), config.split_shares, strict=True):
        assert abs((splits == name).mean() - share) < 0.001
    assert set(corpus.studies["split"]) == {"train", "val", "test"}


def test_config_json_is_what_marks_a_complete_folder(corpus: Corpus) -> None:
    stamp = json.loads((corpus.root / "config.json").read_text())
    assert stamp["config"]["studies"] == 60
    assert PhantomConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in stamp["config"].items()}) == CONFIG
