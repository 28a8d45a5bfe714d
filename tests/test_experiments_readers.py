"""The experiment on extractors: which reports, which columns, and that a row comes from what is stored."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from servers import ModelServer

from lgdea_core.evaluation.extraction.evaluate import Reference, phantom_reference
from lgdea_core.evaluation.extraction.scores import LABEL_OBSERVATIONS, score_labels
from lgdea_core.experiments import readers
from lgdea_core.experiments.readers import f1_columns, sample_of


@pytest.fixture(scope="module")
def reference() -> Reference:
    return phantom_reference(60)


def test_samples_are_fixed_nested_and_apart(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MOST_TESTED", 30)
    test, development = (sample_of(reference, name, 10) for name in readers.SAMPLES)
    assert (
        sample_of(reference, "test", 10).report_ids
        == test.report_ids
        == sample_of(reference, "test", 30).report_ids[:10]
    )
    assert set(sample_of(reference, "test", 30).report_ids).isdisjoint(development.report_ids)
    assert list(test.report_ids) != sorted(test.report_ids)
    assert ((development.labels == 1).any(axis=1).to_numpy() == [True, False] * 5).all()
    for sample in (test, development):  # what belongs to a report goes with it
        for name, text in zip(sample.report_ids, sample.texts, strict=True):
            assert reference.texts[reference.report_ids.index(name)] == text
    with pytest.raises(ValueError, match="sample test: expected 1 to 30 reports, got 31"):
        sample_of(reference, "test", 31)


def test_f1_is_that_of_the_scores_and_lies_in_its_interval() -> None:
    rng = np.random.default_rng(0)
    true = pd.DataFrame(rng.random((200, len(LABEL_OBSERVATIONS))) < 0.1, columns=list(LABEL_OBSERVATIONS))
    stated = true ^ (rng.random(true.shape) < 0.02)
    columns, scores = f1_columns(stated, true.astype(float)), score_labels(stated, true.astype(float))
    for name in ("micro", "macro"):
        assert columns[f"{name}_f1"] == pytest.approx(scores[name]["f1"], abs=1e-4)
        assert columns[f"{name}_f1_low"] < columns[f"{name}_f1"] < columns[f"{name}_f1_high"]
    assert columns["micro_precision"] == pytest.approx(scores["micro"]["precision"], abs=1e-4)
    assert columns["macro_findings"] == scores["macro_findings"]
    certain = f1_columns(true, true.astype(float))
    assert certain["micro_f1_low"] == certain["micro_f1_high"] == 1


def test_wrong_labels_are_counted_the_most_frequent_first() -> None:
    true = pd.DataFrame(0.0, index=range(4), columns=list(LABEL_OBSERVATIONS))
    stated = true.astype(bool)
    true.loc[0, ["mass", "edema"]] = 1
    stated.loc[0, "edema"] = True
    stated.loc[1:2, "nodule"] = True
    stated.loc[3, "hernia"] = True
    assert readers.wrong_labels(stated, true) == {"stated_wrongly": "nodule: 2; hernia: 1", "missed": "mass: 1"}


def test_reports_on_which_readers_differ_most_are_named_without_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "SHOWN_DISAGREEMENTS", 2)
    differences = [
        {"mass": ("present", "unmentioned")},
        {},
        {"mass": ("absent", "present"), "edema": ("unmentioned", "uncertain")},
        {"nodule": ("present", "absent")},
    ]
    named = readers.worst_disagreements(["a", "b", "c", "d"], differences)
    assert named == "c: mass absent / present, edema - / uncertain; a: mass present / -"
    assert readers.worst_disagreements(["b"], [{}]) == ""


@pytest.mark.slow
def test_a_model_that_reads_like_the_rules_gets_their_row(
    reference: Reference, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LGDEA_DATA", str(tmp_path))
    monkeypatch.setenv("LGDEA_EVIDENCE_STORE", str(tmp_path / "answers.sqlite"))
    monkeypatch.setattr(readers, "labelled_reports", lambda root: reference)
    monkeypatch.setattr(readers, "RESAMPLES", 20)
    with ModelServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        plan = readers.readers(extractors=("openai:m", "openai:m+lexicon"), reports=5)
        assert all("set LGDEA_DATA" in job.needs for job in plan)
        rules, model, both = (job.run()[0] for job in plan)
    assert [row["extractor"] for row in (rules, model, both)] == ["lexicon", "openai:m", "openai:m+lexicon"]
    assert (rules["prompt"], model["prompt"]) == ("none", both["prompt"])
    assert len(model["prompt"]) == 8
    assert rules["micro_f1"] > 0.9
    assert both["kappa_with_rules"] == rules["kappa_with_rules"] == 1
    assert both["micro_f1"] == rules["micro_f1"]
    assert model["kappa_with_rules"] > 0.8  # a sentence by itself, without its neighbours
    assert (model["hallucinated"], model["rejected_answers"]) == (0, 0)
    assert model["answers"] == len(server.answered)
    assert model["completion_tokens_per_report"] == pytest.approx(10 * len(server.answered) / 5, abs=1e-3)
    assert "answers" not in rules
    assert "disagreements" not in rules
    assert both["disagreements"] == ""
