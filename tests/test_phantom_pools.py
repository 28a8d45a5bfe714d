"""Pools that do not match: other prevalence in images than in reports, no patient in both, no hidden pair."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import limit_pairs
from lgdea_core.data.phantom import (
    DEFAULT_PREVALENCE,
    SHIFTED_PREVALENCE,
    PhantomConfig,
    build_phantom,
    mismatched_pools,
)

CONFIG = PhantomConfig(studies=220, image_size=32, seed=5)
SHIFTED = replace(CONFIG, prevalence=SHIFTED_PREVALENCE)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "phantom"


@pytest.fixture(scope="module")
def corpus(root: Path) -> Corpus:
    return mismatched_pools(CONFIG, SHIFTED, root, paired_ratio=0.1, progress=False)


def prevalence(corpus: Corpus, source: str) -> pd.Series:
    studies = corpus.studies.loc[corpus.studies["corpus"] == source, "study_id"]
    labels = corpus.labels[corpus.labels["study_id"].isin(set(studies))]
    return labels.groupby("finding")["value"].mean()


def test_prevalences_are_as_asked(corpus: Corpus) -> None:
    images, reports = prevalence(corpus, "phantom_images"), prevalence(corpus, "phantom_reports")
    asked = pd.Series(SHIFTED_PREVALENCE) - pd.Series(DEFAULT_PREVALENCE)
    found = reports - images
    assert (found[asked > 0.1] > 0.03).all()
    assert (found[asked < -0.08] < 0).all()
    assert found.corr(asked) > 0.8
    same = mismatched_pools(CONFIG, CONFIG, corpus.root, paired_ratio=0.1, progress=False)
    control = prevalence(same, "phantom_reports") - prevalence(same, "phantom_images")
    assert control.abs().mean() < 0.5 * found.abs().mean()


def test_no_patient_and_no_body_is_on_both_sides(corpus: Corpus) -> None:
    numbers = {
        source: set(studies["patient_id"].str.split("/").str[1]) for source, studies in corpus.studies.groupby("corpus")
    }
    assert len(numbers) == 3
    assert not numbers["phantom"] & numbers["phantom_images"]
    assert not numbers["phantom_reports"] & (numbers["phantom"] | numbers["phantom_images"])
    reports = corpus.studies["report"].dropna()
    assert reports.duplicated().sum() == 0


def test_pools_hold_the_pairs_asked_for_and_hide_none(corpus: Corpus, root: Path) -> None:
    pools = limit_pairs(corpus, 1.0, seed=0)
    ordinary = limit_pairs(build_phantom(CONFIG, root, progress=False), 0.1, seed=0)
    assert pools.hidden_pairs.empty
    assert abs(len(pools.seed_pairs) - len(ordinary.seed_pairs)) <= 1
    assert len(pools.image_ids) == len(ordinary.image_ids)
    assert len(pools.report_ids) == len(ordinary.report_ids)
    assert {image_id.split("/")[0] for image_id in pools.seed_pairs["image_id"]} == {"phantom"}
    held_out = corpus.split("val", "test")
    assert set(held_out.studies["corpus"]) == {"phantom"}
    assert held_out.studies["report"].notna().all()
    assert set(held_out.images["study_id"]) == set(held_out.studies["study_id"])
    assert all((corpus.root / path).is_file() for path in corpus.images["path"].iloc[:5])


def test_pairs_of_a_smaller_ratio_are_among_those_of_a_larger_one(corpus: Corpus, root: Path) -> None:
    larger = mismatched_pools(CONFIG, SHIFTED, root, paired_ratio=0.3, progress=False)
    few, many = (set(limit_pairs(part, 1.0, seed=0).seed_pairs["report_id"]) for part in (corpus, larger))
    assert few < many


def test_reports_may_leave_a_fifth_of_the_findings_out(root: Path) -> None:
    said = []
    for unreported in (0.2, 0.0):
        world = replace(CONFIG, unreported_ratio=unreported, typo_rate=0.0)
        part = mismatched_pools(CONFIG, world, root, paired_ratio=0.1, progress=False)
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


def test_errors(root: Path) -> None:
    for ratio in (0.0, 1.0):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            mismatched_pools(CONFIG, SHIFTED, root, paired_ratio=ratio)
    with pytest.raises(ValueError, match="one seed and the same findings"):
        mismatched_pools(CONFIG, replace(SHIFTED, seed=6), root, paired_ratio=0.1)
