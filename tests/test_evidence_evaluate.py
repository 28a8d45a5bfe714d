"""Evaluation against labels: counting rules by hand, and the real Open-i reports where they are."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from lgdea_core.evidence.evaluate import (
    LABEL_OBSERVATIONS,
    evaluate_extractor,
    evaluate_openi,
    main,
    readable_text,
)
from lgdea_core.evidence.extract import make_extractor
from lgdea_core.evidence.schema import Finding
from lgdea_core.vocabulary import NIH_FINDINGS

BAR = 0.88
"""micro F1 the rule extractor must reach on real reports"""


class Recorder:
    """An extractor that keeps what it was shown and finds nothing."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def extract(self, reports: Sequence[str]) -> list[list[Finding]]:
        self.seen += reports
        return [[] for _ in reports]


def labels(*positive: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame([{label: float(label in row) for label in LABEL_OBSERVATIONS} for row in positive])


def test_every_label_has_a_row_in_the_table() -> None:
    assert set(LABEL_OBSERVATIONS) == set(NIH_FINDINGS.values())


def test_scores_by_hand() -> None:
    # effusion: 1 hit, 1 miss; edema: 1 false alarm; the uncertain nodule counts as not stated and is a miss
    reports = ["Effusion. Edema.", "Clear lungs.", "Possible nodule."]
    result = evaluate_extractor(
        make_extractor("lexicon"), reports, labels(("pleural effusion",), ("pleural effusion",), ("nodule",))
    )
    assert result["micro"] == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5})
    effusion = {"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "positives": 2}
    assert result["per_finding"]["pleural effusion"] == pytest.approx(effusion)
    assert result["per_finding"]["edema"]["precision"] == 0
    assert result["reports"] == 3


def test_macro_takes_findings_with_five_positives_only() -> None:
    reports = ["Effusion."] * 5 + ["Clear lungs."] * 4
    truth = labels(*[("pleural effusion",)] * 5, *[("edema",)] * 4)
    result = evaluate_extractor(make_extractor("lexicon"), reports, truth)
    assert result["macro_findings"] == 1
    assert result["macro"]["f1"] == 1
    assert result["micro"]["recall"] == pytest.approx(5 / 9)


def test_hiatal_hernias_do_not_count_and_others_do() -> None:
    reports = ["Large hiatal hernia.", "Diaphragmatic hernia."]
    result = evaluate_extractor(make_extractor("lexicon"), reports, labels((), ("hernia",)))
    assert result["per_finding"]["hernia"]["f1"] == 1


def test_the_extractor_sees_findings_and_impression_only() -> None:
    recorder = Recorder()
    report = "INDICATION: nodule.\nCOMPARISON: mass.\nFINDINGS: Clear.\nIMPRESSION: Normal."
    evaluate_extractor(recorder, [report], labels(()))
    assert recorder.seen == ["FINDINGS: Clear.\nIMPRESSION: Normal."]
    assert readable_text("MESH: nodule") == ""


def test_labels_must_fit_the_reports() -> None:
    with pytest.raises(ValueError, match=r"one row a report \(2\)"):
        evaluate_extractor(Recorder(), ["a", "b"], labels(()))
    with pytest.raises(ValueError, match="no column \\['edema'\\]"):
        evaluate_extractor(Recorder(), ["a"], labels(()).drop(columns="edema"))


def openi_root() -> Path:
    if "LGDEA_DATA" not in os.environ:
        pytest.skip("LGDEA_DATA is not set: the real Open-i reports are not here")
    root = Path(os.environ["LGDEA_DATA"]) / "openi"
    if not root.is_dir():
        pytest.skip("LGDEA_DATA has no folder openi")
    return root


@pytest.mark.slow
def test_real_reports_are_read_well_and_without_negation_they_are_not(tmp_path: Path) -> None:
    root = openi_root()
    main(["--root", str(root), "--json", str(tmp_path / "out" / "lexicon.json")])
    result = json.loads((tmp_path / "out" / "lexicon.json").read_text())
    assert result["micro"]["f1"] >= BAR
    assert result["rejected"] == {}
    assert result["reports"] > 1000
    control = evaluate_openi("keywords", root)
    assert control["micro"]["f1"] < 0.4
