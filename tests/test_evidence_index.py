"""Evidence as arrays: paraphrases share a statement, absent findings are no lesions, silence is no evidence."""

import pandas as pd
import pytest

from lgdea_core.evidence.index import NORMAL_PHRASE, EvidenceIndex, index_evidence


def row(report_id: str, phrase: str, observation: str, status: str = "present", side: str | None = None) -> dict:
    return {
        "report_id": report_id,
        "phrase": phrase,
        "observation": observation,
        "status": status,
        "laterality": side,
        "region": None,
    }


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


def test_membership_counts_mentions_and_rows_follow_the_given_order(index: EvidenceIndex) -> None:
    column = index.phrases.index("effusion on the left")
    assert index.report_phrases.toarray()[:, column].tolist() == [2, 0, 0, 0]
    assert index.report_statements.max() == 1


def test_denial_alone_is_normal_and_silence_is_no_evidence(index: EvidenceIndex) -> None:
    assert (index.implied_normal, index.without_evidence) == (1, 1)
    normal = index.phrases.index(NORMAL_PHRASE)
    assert index.report_phrases.toarray()[:, normal].tolist() == [0, 0, 1, 0]
    assert index.report_phrases.toarray()[3].sum() == 0


def test_a_hedged_report_is_not_called_normal() -> None:
    evidence = pd.DataFrame([row("a", "possible edema", "edema", "uncertain"), row("a", "nodule", "nodule", "absent")])
    index = index_evidence(evidence, ("a",))
    assert (index.implied_normal, index.without_evidence) == (0, 1)


def test_every_phrase_knows_its_statement(index: EvidenceIndex) -> None:
    for phrase, observation in zip(index.phrases, index.observations, strict=True):
        assert observation == ("no finding" if phrase == NORMAL_PHRASE else "pleural effusion")
