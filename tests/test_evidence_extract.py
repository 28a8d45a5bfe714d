"""Extraction over a table of studies: counts, rejection of what is not verbatim, and privacy."""

import logging
import traceback
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from lgdea_core.evidence import extract
from lgdea_core.evidence.extract import EXTRACTORS, EvidenceExtractor, extract_evidence, make_extractor, write_evidence
from lgdea_core.evidence.llm import LanguageModelExtractor
from lgdea_core.finding import EVIDENCE_COLUMNS, Finding

SECRET = "Zyzzogeton"
STUDIES = pd.DataFrame(
    {
        "study_id": ["s1", "s2", "s3", "s4", "s5"],
        "report": ["FINDINGS: Small left effusion. No edema.", None, "  ", "No comparison.", f"{SECRET}: nodule."],
    }
)


def scripted(monkeypatch: pytest.MonkeyPatch, answers: list[list[Finding]]) -> None:
    """Make every extractor answer this."""

    class Scripted:
        def extract(self, reports: Sequence[str]) -> list[list[Finding]]:
            return answers

    monkeypatch.setattr(extract, "make_extractor", lambda name: Scripted())


def finding(phrase: str, start: int) -> Finding:
    return Finding(observation="edema", status="present", phrase=phrase, start=start, end=start + len(phrase))


def test_evidence_of_a_table_and_its_counts_in_batches_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    table, stats = extract_evidence(STUDIES, progress=False)
    assert tuple(table.columns) == EVIDENCE_COLUMNS
    assert list(zip(table["report_id"], table["observation"], table["status"], strict=True)) == [
        ("s1", "pleural effusion", "present"), ("s1", "edema", "absent"), ("s5", "nodule", "present"),
    ]  # fmt: skip
    assert table.loc[0, ["region", "laterality", "severity", "phrase", "start", "end", "section"]].tolist() == [
        None, "left", "mild", "Small left effusion", 10, 29, "findings",
    ]  # fmt: skip
    assert (stats.reports, stats.without_report, stats.empty_reports, stats.findings) == (4, 1, 1, 3)
    assert (stats.without_evidence, stats.rejected) == (2, {})
    assert stats.reports_per_second == pytest.approx(4 / stats.seconds)
    monkeypatch.setattr(extract, "REPORTS_PER_CALL", 1)
    pd.testing.assert_frame_equal(extract_evidence(STUDIES, progress=False)[0], table)


def test_a_table_without_reports_gives_an_empty_table() -> None:
    table, stats = extract_evidence(STUDIES.iloc[1:2], progress=False)
    assert tuple(table.columns) == EVIDENCE_COLUMNS
    assert (len(table), stats.reports, stats.without_report) == (0, 0, 1)


def test_hallucinated_phrases_are_rejected_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [[finding("edema", 0), finding("edema", 1), finding("pneumonia", 0), finding("edema", 0)]])
    table, stats = extract_evidence(pd.DataFrame({"study_id": ["s"], "report": ["edema!"]}), progress=False)
    assert list(table["start"]) == [0]
    assert stats.rejected == {"wrong offsets": 1, "phrase not in report": 1, "repeated": 1}


@pytest.mark.parametrize("name", ["transformers", "transformers:", "openai:", "vllm:m", "Lexicon", ""])
def test_unknown_extractors_are_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(ValueError, match=r"available: lexicon.*, transformers:MODEL .*, openai:MODEL "):
        make_extractor(name)


def test_language_models_are_chosen_by_the_same_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    for name in ("openai:org/model:tag", "transformers:org/model"):
        model = make_extractor(name)
        assert isinstance(model, LanguageModelExtractor)
        assert isinstance(model, EvidenceExtractor)
        assert model.extract(["", "INDICATION: cough."]) == [[], []]  # nothing to ask: no server, no weights


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_evidence_is_written_whole_in_either_form(tmp_path: Path, suffix: str) -> None:
    table, _ = extract_evidence(STUDIES, progress=False)
    path = tmp_path / f"evidence{suffix}"
    write_evidence(table, path)
    read = pd.read_parquet(path) if suffix == ".parquet" else pd.read_json(path, lines=True)
    pd.testing.assert_frame_equal(read.fillna(""), table.fillna(""), check_dtype=False)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with pytest.raises(ValueError, match=r"ends in \.parquet or \.jsonl"):
        write_evidence(table, tmp_path / "evidence.csv")


def test_missing_columns_are_named() -> None:
    with pytest.raises(ValueError, match=r"lacks column\(s\) \['report'\]"):
        extract_evidence(STUDIES[["study_id"]], progress=False)


def test_no_word_of_a_report_reaches_log_output_or_errors(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.DEBUG):
        extract_evidence(STUDIES, progress=True)
        scripted(monkeypatch, [[]])
        with pytest.raises(ValueError, match="returned 1 answers for 4 reports") as error:
            extract_evidence(STUDIES, progress=True)
    captured = capsys.readouterr()
    said = [record.getMessage() for record in caplog.records]
    assert any("evidence" in line for line in said)
    everything = " ".join([*said, captured.out, captured.err, *traceback.format_exception(error.value)])
    assert SECRET not in everything
    assert "effusion" not in everything


def test_controls_know_less_than_the_rules_and_give_verbatim_phrases() -> None:
    report = "INDICATION: edema.\nFINDINGS: No effusion.\nIMPRESSION: Heart size is normal."
    read = {name: make_extractor(name).extract([report])[0] for name in EXTRACTORS}
    assert {name: [(one.observation, one.status) for one in found] for name, found in read.items()} == {
        "lexicon": [("pleural effusion", "absent"), ("cardiomegaly", "absent")],
        "keywords": [("pleural effusion", "present")],
        "keywords+negspacy": [("pleural effusion", "absent")],
    }
    assert all(report[one.start : one.end] == one.phrase for found in read.values() for one in found)
