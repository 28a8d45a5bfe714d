"""The hard test set: every stratum holds what its name says, and nothing of it is ever seen in training."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from lgdea_core.data.corpus import Corpus
from lgdea_core.data.phantom import EASY, STRATA, PhantomConfig, build_hard_set, load_hard_set, load_probes
from lgdea_core.data.phantom import unseen as other
from lgdea_core.data.phantom.hard import MIN_DENIED, SUBTLE_CONTRAST, HardStudy, plan_hard_study, swap_sides
from lgdea_core.data.phantom.study import develop, plan_study
from lgdea_core.data.phantom.unseen import is_unseen, training_words, words_of
from lgdea_core.data.phantom.wording import COUNTABLE, PLURALS

CONFIG = PhantomConfig(image_size=48, seed=3)


plan = cache(plan_hard_study)


def planned(stratum: str, count: int, config: PhantomConfig = CONFIG) -> list[HardStudy]:
    return [plan(config, stratum, number) for number in range(count)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build_hard_set(CONFIG, tmp_path_factory.mktemp("data") / "hard", per_stratum=4, progress=False)


def test_it_is_a_corpus_of_test_studies_with_strata(corpus: Corpus) -> None:
    assert set(corpus.studies["split"]) == {"test"}
    assert corpus.studies["stratum"].value_counts().to_dict() == dict.fromkeys(STRATA, 4)
    assert len(corpus.labels) == len(corpus.studies) * len(CONFIG.findings)
    assert all(corpus.image_path(image_id).is_file() for image_id in corpus.images["image_id"])
    probes = load_probes(corpus.root)
    stated = set(map(tuple, probes.loc[probes["kind"] == "stated", ["study_id", "phrase"]].to_numpy()))
    assert stated == set(map(tuple, corpus.boxes[["study_id", "phrase"]].to_numpy()))


def test_it_is_built_once_and_another_one_refused(corpus: Corpus, tmp_path: Path) -> None:
    again = build_hard_set(replace(CONFIG, studies=5, typo_rate=0.5), corpus.root, per_stratum=4, progress=False)
    assert again.studies.equals(load_hard_set(corpus.root).studies)  # what a test study does not depend on may differ
    with pytest.raises(ValueError, match="differs in per_stratum"):
        build_hard_set(CONFIG, corpus.root, per_stratum=6, progress=False)
    with pytest.raises(ValueError, match="even and at least 2, got 3"):
        build_hard_set(CONFIG, tmp_path / "new", per_stratum=3)
    with pytest.raises(FileNotFoundError, match=r"probes\.csv is missing"):
        load_hard_set(tmp_path)
    with pytest.raises(ValueError, match="stratum must be one of"):
        plan_hard_study(CONFIG, "easy", 0)
    with pytest.raises(ValueError, match=r"none of the findings \('edema',\) fits stratum 'small and subtle'"):
        plan_hard_study(replace(CONFIG, findings=("edema",)), "small and subtle", 0)


def test_a_study_is_a_pure_function_of_seed_stratum_and_number() -> None:
    for stratum in STRATA:
        first, second = plan_hard_study(CONFIG, stratum, 3), plan_hard_study(replace(CONFIG, studies=9), stratum, 3)
        assert first == second
        assert plan_hard_study(replace(CONFIG, seed=4), stratum, 3).plan.report != first.plan.report
    small = plan_hard_study(CONFIG, "two of a kind", 1)
    assert small == plan_hard_study(replace(CONFIG, image_size=128), "two of a kind", 1)


@pytest.mark.slow
def test_no_patient_is_one_of_training(corpus: Corpus) -> None:
    # Neither by name nor in body: a body is drawn from the seed stream, and so is everything else.
    hard = [study.plan for stratum in STRATA for study in planned(stratum, 10)]
    for seed in (CONFIG.seed, 0):
        training = [plan_study(replace(CONFIG, seed=seed), index) for index in range(100)]
        assert not {plan.patient_id for plan in training} & set(corpus.studies["patient_id"])
        assert not {plan.habitus.key for plan in training} & {plan.habitus.key for plan in hard}
        assert not {plan.nuisance.key for plan in training} & {plan.nuisance.key for plan in hard}
        assert not {plan.report for plan in training} & {plan.report for plan in hard}


def test_training_can_never_use_the_unseen_words() -> None:
    # All a training report can say is made of training_words: so a phrase with another word is never written.
    for config in (replace(CONFIG, typo_rate=0.0), replace(EASY, typo_rate=0.0)):
        for index in range(100):
            assert set(words_of(plan_study(config, index).report)) <= training_words()
    templates = [text for group in unseen_groups() for text in other._texts(group)]
    assert len(templates) > 60
    for text in templates:
        assert is_unseen(re.sub(r"\{\w+\}", " ", text)), text


def test_no_typo_turns_a_training_word_into_an_unseen_one() -> None:
    swapped = {
        word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        for word in training_words()
        for place in range(len(word) - 1)
    }
    said = {word for group in unseen_groups() for text in other._texts(group) for word in words_of(text)}
    assert not (said - training_words()) & swapped


def unseen_groups() -> list[list[object]]:
    tables = (
        other._NOUNS, other._SCALE, other._ADVERBS, other._SIDES, other._ZONE_ADJECTIVES, other._ZONE_PLACES,
        other._ZONE_PLACES_BOTH,
    )  # fmt: skip
    return [*([*table.values()] for table in tables), [*other._HEART_CLAUSES], [*other._PRESENT_FORMS]]


@pytest.mark.parametrize("config", [CONFIG, replace(EASY, image_size=48)], ids=["default", "easy"])
def test_unseen_wording_has_an_unseen_word_in_every_phrase(config: PhantomConfig) -> None:
    studies = planned("unseen wording", 30, config)
    assert {study.variant for study in studies} == {"other names", "other forms"}
    for study in studies:
        assert study.probes
        for probe in study.probes:
            assert is_unseen(probe.phrase)
            assert probe.phrase in study.plan.report
        for claim in study.plan.evidence:
            assert study.plan.report[claim.start : claim.end] == claim.phrase
    for stratum in set(STRATA) - {"unseen wording"}:  # the others speak as training does
        assert not any(is_unseen(study.plan.report) for study in planned(stratum, 8, config))


def test_small_and_subtle_lesions_are_fainter_than_any_in_training_and_still_show() -> None:
    assert SUBTLE_CONTRAST[1] < CONFIG.contrast[0] < EASY.contrast[0]
    calm = replace(CONFIG, nuisance=0.0, image_size=64)
    strongest = []
    for study in planned("small and subtle", 12, calm):
        (lesion,) = study.plan.truth.lesions
        assert lesion.severity == "mild"
        assert SUBTLE_CONTRAST[0] <= lesion.contrast <= SUBTLE_CONTRAST[1]
        assert lesion.finding not in ("cardiomegaly", "edema")
        film = develop(study.plan, 64)
        without = develop(replace(study.plan, truth=replace(study.plan.truth, lesions=(), mentions=())), 64)
        difference = np.abs(film.image.astype(int) - without.image.astype(int))
        strongest.append(difference[film.masks[0]].max())
    assert min(strongest) > 6


def test_twins_differ_only_in_the_side_of_one_lesion() -> None:
    studies = planned("side swap", 20)
    for left, right in zip(studies[::2], studies[1::2], strict=True):
        assert left.pair_id == right.pair_id
        assert left.plan.patient_id == right.plan.patient_id
        assert (left.plan.habitus, left.plan.nuisance) == (right.plan.habitus, right.plan.nuisance)
        (first,), (second,) = left.plan.truth.lesions, right.plan.truth.lesions
        assert (first.side, second.side) == ("left", "right")
        assert replace(first, side="right") == second
        assert swap_sides(left.plan.report) == right.plan.report
        stated, wrong = left.probes
        assert (stated.kind, stated.side, wrong.kind, wrong.side) == ("stated", "left", "wrong side", "right")
        assert wrong.phrase == right.probes[0].phrase != stated.phrase
    film, twin = (develop(study.plan, 64) for study in studies[:2])
    changed = np.abs(film.image.astype(int) - twin.image.astype(int)) > 8
    seen = film.masks[0] | twin.masks[0]
    assert changed[seen].mean() > 5 * changed[~seen].mean()


def test_swapping_sides_is_its_own_inverse_and_leaves_other_words() -> None:
    text = "Left effusion, right nodule. Semi-upright view, brightly left-sided."
    assert swap_sides(text) == "Right effusion, left nodule. Semi-upright view, brightly right-sided."
    assert swap_sides(swap_sides(text)) == text


def test_negated_studies_deny_what_the_film_does_not_show() -> None:
    for study in planned("negated", 12):
        shown = set(study.plan.truth.findings)
        assert len(shown) == 1
        denied = [probe for probe in study.probes if probe.kind == "denied"]
        assert len({probe.finding for probe in denied}) >= MIN_DENIED
        assert not {probe.finding for probe in denied} & shown
        assert all(probe.phrase in study.plan.report for probe in denied)
        (contradicted,) = (probe for probe in study.probes if probe.kind == "contradicted")
        assert {contradicted.finding} == shown
        assert contradicted.phrase.startswith("No ")


def test_two_of_a_kind_are_two_boxes_under_one_phrase() -> None:
    for study in planned("two of a kind", 16):
        film = develop(study.plan, 96)
        assert len(film.boxes_xyxy) == 2
        assert len({lesion.finding for lesion in film.lesions}) == 1
        assert len(set(film.phrases)) == len(study.probes) == 1
        assert not (film.masks[0] & film.masks[1]).any()
        sides = {lesion.side for lesion in film.lesions}
        assert len(sides) == (1 if study.variant == "one side" else 2)
        assert len({lesion.zone for lesion in film.lesions}) == 2
        if film.lesions[0].finding in COUNTABLE:
            assert any(plural in film.phrases[0].lower() for plural in PLURALS.values())
