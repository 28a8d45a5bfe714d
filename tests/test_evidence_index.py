"""Evidence as arrays: paraphrases share a statement, absent findings are no lesions, silence is no evidence."""

import pandas as pd
import pytest

from lgdea_core.evidence.index import NORMAL_PHRASE, index_evidence, index_reports
from lgdea_core.finding import EvidenceIndex
from lgdea_core.vocabulary import (
    CHEXPERT_FINDINGS,
    DIAGNOSTIC_FINDINGS,
    MS_CXR_FINDINGS,
    NIH_FINDINGS,
    NO_FINDING,
    PHANTOM_FINDINGS,
)


def row(report_id: str, phrase: str, observation: str, status: str = "present", side: str | None = None) -> dict:
    fields = {"report_id": report_id, "phrase": phrase, "observation": observation}
    return fields | {"status": status, "laterality": side, "region": None}


@pytest.fixture
def index() -> EvidenceIndex:
    evidence = pd.DataFrame(
        [
            row("b", "Small left effusion", "pleural effusion", side="left"),
            row("b", "edema", "edema", "uncertain"),
            row("a", "effusion on the  left", "pleural effusion", side="left"),
            row("a", "effusion on the left", "pleural effusion", side="left"),
            row("c", "edema", "edema", "absent"),
            row("elsewhere", "nodule", "nodule"),
        ]
    )
    return index_evidence(evidence, ("a", "b", "c", "d"))


def test_paraphrases_share_a_statement_and_case_and_spaces_do_not_count(index: EvidenceIndex) -> None:
    assert set(index.phrases) == {"small left effusion", "effusion on the left", NORMAL_PHRASE}
    assert ("pleural effusion", "left", "") in index.statements
    held = index.report_statements.toarray()
    assert (held[0] == held[1]).all()
    assert held.max() == 1
    column = index.phrases.index("effusion on the left")
    assert index.report_phrases.toarray()[:, column].tolist() == [2, 0, 0, 0]  # mentions, in the given order
    for phrase, observation in zip(index.phrases, index.observations, strict=True):
        assert observation == (NO_FINDING if phrase == NORMAL_PHRASE else "pleural effusion")


def test_denial_alone_is_normal_and_silence_is_no_evidence(index: EvidenceIndex) -> None:
    assert (index.implied_normal, index.without_evidence) == (1, 1)
    normal = index.phrases.index(NORMAL_PHRASE)
    assert index.report_phrases.toarray()[:, normal].tolist() == [0, 0, 1, 0]
    assert index.report_phrases.toarray()[3].sum() == 0


def test_a_hedged_report_is_not_called_normal() -> None:
    evidence = pd.DataFrame([row("a", "possible edema", "edema", "uncertain"), row("a", "nodule", "nodule", "absent")])
    index = index_evidence(evidence, ("a",))
    assert (index.implied_normal, index.without_evidence) == (0, 1)


# ---- what the evidence space is about


def test_the_diagnostic_findings_are_those_of_the_label_sets_without_devices() -> None:
    wanted = {*MS_CXR_FINDINGS, *CHEXPERT_FINDINGS, *NIH_FINDINGS.values()} - {"support devices"}
    assert set(DIAGNOSTIC_FINDINGS) == wanted
    assert len(DIAGNOSTIC_FINDINGS) == len(wanted)
    assert {*PHANTOM_FINDINGS, NO_FINDING} <= wanted
    index = index_evidence(pd.DataFrame([row("a", f"it {finding}", finding) for finding in sorted(wanted)]), ("a",))
    assert (index.observation_names, index.incidental) == (tuple(sorted(wanted)), 0)


def test_other_present_findings_stay_out_and_are_counted() -> None:
    evidence = pd.DataFrame(
        [
            row("a", "pacemaker", "pacemaker"),
            row("a", "left nodule", "nodule", side="left"),
            row("b", "central line", "line"),
            row("b", "no effusion", "pleural effusion", "absent"),
            row("c", "tube", "tube"),
            row("d", "no tube", "tube", "absent"),
            row("d", "possible scar", "scar", "uncertain"),
            row("elsewhere", "tube", "tube"),
        ]
    )
    index = index_evidence(evidence, ("a", "b", "c", "d"))
    assert index.incidental == 3  # of a, b and c; not what d denies or doubts, nor another corpus's report
    assert set(index.phrases) == {"left nodule", NORMAL_PHRASE}
    assert (index.implied_normal, index.without_evidence) == (1, 2)
    assert index.report_phrases.toarray()[1, index.phrases.index(NORMAL_PHRASE)] == 1  # b: a device is no disease
    assert index.report_phrases.toarray()[2:].sum() == 0


@pytest.fixture
def placed() -> EvidenceIndex:
    evidence = pd.DataFrame(
        [
            row("a", "left nodule", "nodule", side="left"),
            row("a", "right nodule", "nodule", side="right"),
            row("a", "nodule on the left", "nodule", side="left"),
            row("b", "edema", "edema"),
            row("b", "right nodule", "nodule", side="right"),
            row("c", "no edema", "edema", "absent"),
            row("d", "possible edema", "edema", "uncertain"),
        ]
    )
    return index_evidence(evidence, ("a", "b", "c", "d"))


def test_observations_gather_the_statements_of_all_places(placed: EvidenceIndex) -> None:
    assert placed.observation_names == ("edema", NO_FINDING, "nodule")
    assert placed.localised.tolist() == [1, 0, 1]  # only "no finding" has no place
    for statement, column in zip(placed.statements, placed.statement_observation, strict=True):
        assert placed.observation_names[column] == statement[0]
    assert placed.observations == [placed.statements[number][0] for number in placed.phrase_statement]
    assert len(placed.statements) == 4
    assert placed.report_observations.toarray().tolist() == [[0, 0, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_no_evidence_at_all_is_an_empty_index() -> None:
    evidence = pd.DataFrame([row("a", "tube", "tube")])
    index = index_evidence(evidence, ("a", "b"))
    assert (index.phrases, index.statements, index.observation_names) == ((), (), ())
    assert index.report_observations.shape == (2, 0)
    assert (index.incidental, index.without_evidence) == (1, 2)


# ---- the control without extraction


def test_every_report_is_one_phrase_and_one_statement_and_equal_words_share_it() -> None:
    index = index_reports(["Small nodule.", "No edema.", "small  nodule.\n"], ("a", "b", "c"))
    assert set(index.phrases) == {"small nodule.", "no edema."}
    held = index.report_phrases.toarray()
    assert held.sum(axis=1).tolist() == [1, 1, 1]
    assert (held[0] == held[2]).all()
    assert (held == index.report_statements.toarray()).all()
    assert (held == index.report_observations.toarray()).all()
    for report, text in ((0, "small nodule."), (1, "no edema.")):
        assert index.phrases[held[report].argmax()] == text
        assert index.statements[index.phrase_statement[held[report].argmax()]] == (text, "", "")
    assert (index.localised == 1).all()
    assert (index.incidental, index.implied_normal, index.without_evidence) == (0, 0, 0)
