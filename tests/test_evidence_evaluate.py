"""Evaluation of an extractor: what it is shown, what the command writes, the page, the table and the references."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from servers import Parrot

from lgdea_core.evaluation.extraction import evaluate
from lgdea_core.evaluation.extraction.evaluate import (
    Reference,
    disagreement_page,
    evaluate_reading,
    evaluation_table,
    find_reference,
    main,
    openi_reference,
    phantom_reference,
    read_texts,
    readable_text,
)
from lgdea_core.evaluation.extraction.scores import LABEL_OBSERVATIONS, Attributes
from lgdea_core.evidence.extract import make_extractor
from lgdea_core.evidence.llm import LanguageModelExtractor
from lgdea_core.finding import Finding
from lgdea_core.vocabulary import NIH_FINDINGS

HEADER = "filename," + ",".join(NIH_FINDINGS) + ",normal"


def labels(*positive: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame([{label: float(label in row) for label in LABEL_OBSERVATIONS} for row in positive])


def reference(texts: Sequence[str], truth: pd.DataFrame) -> Reference:
    ids = tuple(f"r{number}" for number in range(len(texts)))
    attributes = tuple({} for _ in texts)
    return Reference(name="hand-made", report_ids=ids, texts=tuple(texts), labels=truth, attributes=attributes)


def evaluated(texts: Sequence[str], truth: pd.DataFrame, extractor: str = "lexicon") -> dict:
    known = reference(texts, truth)
    return evaluate_reading(read_texts(make_extractor(extractor), known.texts), known)


def openi_folder(root: Path) -> Path:
    """Three reports: one of all parts, one without labels, one without sections."""
    (root / "ecgen-radiology").mkdir(parents=True)
    bodies = {
        "CXR1": "<AbstractText Label='INDICATION'>secret nodule</AbstractText>"
        "<AbstractText Label='COMPARISON'>secret mass</AbstractText>"
        "<AbstractText Label='FINDINGS'>Small left effusion.</AbstractText>"
        "<AbstractText Label='IMPRESSION'>Effusion.</AbstractText>",
        "CXR2": "<AbstractText Label='FINDINGS'>Clear lungs.</AbstractText>",
        "CXR3": "<AbstractText Label='INDICATION'>cough</AbstractText>",
    }
    for name, body in bodies.items():
        mesh = "<MeSH><major>Pleural Effusion/left/small</major><major>Secret/coded nodule</major></MeSH>"
        text = f"<eCitation><uId id='{name}'/><Abstract>{body}</Abstract>{mesh}</eCitation>"
        (root / "ecgen-radiology" / f"{name[3:]}.xml").write_text(text)
    rows = [f"{name}," + ",".join("1" if label == "Effusion" else "0" for label in NIH_FINDINGS) for name in bodies]
    (root / "openi_gld_std14.csv").write_text("\n".join([HEADER, rows[0] + ",0", rows[2] + ",0"]) + "\n")
    return root


def test_attributes_are_scored_beside_the_labels() -> None:
    coded = {"effusion": Attributes(side=frozenset({"left"}), severity=frozenset({"severe"}))}
    known = replace(reference(["Small left effusion."], labels(("pleural effusion",))), attributes=(coded,))
    result = evaluate_reading(read_texts(make_extractor("lexicon"), known.texts), known)
    assert result["attributes"]["side"]["f1"] == 1
    assert result["attributes"]["severity"]["f1"] == 0


def test_the_extractor_sees_findings_and_impression_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Recorder:
        def extract(self, reports: Sequence[str]) -> list[list[Finding]]:
            seen.extend(reports)
            return [[] for _ in reports]

    monkeypatch.setattr(evaluate, "make_extractor", lambda name: Recorder())
    main(["--root", str(openi_folder(tmp_path)), "--json", str(tmp_path / "out.json")])
    assert seen == ["FINDINGS: Small left effusion.\nIMPRESSION: Effusion."]  # no MeSH code, no indication
    assert readable_text("INDICATION: nodule.\nCOMPARISON: mass.\nFINDINGS: Clear.") == "FINDINGS: Clear."
    assert readable_text("MESH: nodule") == ""


def test_the_command_writes_scores_agreement_and_the_page(tmp_path: Path) -> None:
    out, page = tmp_path / "deep" / "out.json", tmp_path / "page" / "worst.md"
    command = ["--extractor", "keywords", "--root", str(openi_folder(tmp_path / "openi")), "--json", str(out)]
    main(command)
    alone = json.loads(out.read_text())
    for scores in (alone["micro"], alone["macro"]):
        assert set(scores) == {"precision", "recall", "f1"}
    assert set(alone["per_finding"]) == set(LABEL_OBSERVATIONS)
    assert alone["micro"] == {"precision": 1, "recall": 1, "f1": 1}
    assert (alone["extractor"], alone["reports"], alone["left_out"]) == ("keywords", 1, 2)
    assert alone["reports_per_second"] > 0
    assert alone["attributes"]["side"] == {"precision": 0, "recall": 0, "f1": 0, "values": 1}
    assert [path.name for path in out.parent.iterdir()] == ["out.json"]
    main([*command, "--agreement", "lexicon", "--disagreements", str(page)])
    compared = json.loads(out.read_text())
    assert "agreement" not in alone
    assert compared["agreement"]["other"] == "lexicon"
    assert compared["agreement"]["per_observation"]["pleural effusion"]["present"] == 1
    assert "0 reports differ" in page.read_text()


def test_a_language_models_rejected_answers_are_counted(tmp_path: Path) -> None:
    model = LanguageModelExtractor(Parrot("no JSON"), store=tmp_path / "answers.sqlite")
    reading = read_texts(model, ["FINDINGS: Effusion.", "FINDINGS: No mass."])
    assert reading.findings == ([], [])
    assert sum(reading.rejected.values()) == 2


def test_an_openi_folder_without_labels_is_refused(tmp_path: Path) -> None:
    root = openi_folder(tmp_path)
    (root / "openi_gld_std14.csv").write_text(HEADER + "\n")
    with pytest.raises(ValueError, match=r"no labels; openi_gld_std14\.csv must lie beside"):
        openi_reference(root)


def test_the_page_lists_the_worst_reports_first_and_holds_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["Unspeakable effusion.", "Unspeakable edema and mass.", "Clear lungs.", "No mass.", "No mass, no edema."]
    known = reference(texts, labels((), ("nodule", "mass"), (), (), ()))
    readings = {name: read_texts(make_extractor(name), texts) for name in ("lexicon", "keywords")}
    page = disagreement_page(known, readings, "lexicon", "keywords")
    labelled, compared = page.split("## Against `keywords`")
    assert [line for line in labelled.splitlines() if line.startswith("| r")] == [
        "| report | label missed | stated without the label |",
        "| r1 | nodule | edema |",
        "| r0 |  | pleural effusion |",
    ]
    assert [line for line in compared.splitlines() if line.startswith("| r")][1:] == [
        "| r4 | edema: absent / present, mass: absent / present |",
        "| r2 | no finding: present / unmentioned |",
        "| r3 | mass: absent / present |",
    ]  # the two agree on r0 and r1
    assert "nspeakable" not in page
    assert disagreement_page(known, readings, "lexicon") == labelled
    monkeypatch.setattr(evaluate, "WORST_REPORTS", 1)
    page = disagreement_page(known, readings, "lexicon")
    assert "2 reports differ, the 1 worst" in page
    assert page.count("| r") - 1 == 1


def test_the_table_sets_extractors_side_by_side_and_leaves_labels_without_positives_out() -> None:
    texts, truth = ["Effusion.", "No effusion."], labels(("pleural effusion",), ())
    table = evaluation_table({name: evaluated(texts, truth, name) for name in ("lexicon", "keywords")})
    assert table.loc[("label", "pleural effusion"), ("lexicon", "precision")] == 1
    assert table.loc[("label", "pleural effusion"), ("keywords", "precision")] == 0.5
    assert table.loc[("14 labels", "micro"), ("keywords", "recall")] == 1
    assert [row for kind, row in table.index if kind == "label"] == ["pleural effusion"]
    assert [row for kind, row in table.index if kind == "attribute"] == ["anatomy", "side", "severity"]


def test_the_truth_must_fit_the_reports() -> None:
    with pytest.raises(ValueError, match="got 2 ids, 2 texts, 1 rows"):
        reference(["a", "b"], labels(()))
    with pytest.raises(ValueError, match="no column \\['edema'\\]"):
        reference(["a"], labels(()).drop(columns="edema"))


def test_the_phantoms_truth_has_the_same_form_and_the_rules_read_it() -> None:
    known = phantom_reference(80, seed=3)
    result = evaluate_reading(read_texts(make_extractor("lexicon"), known.texts), known)
    control = evaluate_reading(read_texts(make_extractor("keywords"), known.texts), known)
    assert known.name.startswith("phantom")
    assert min(result["micro"]["f1"], *(result["attributes"][name]["f1"] for name in ("side", "severity"))) > 0.97
    assert result["attributes"]["side"]["values"] > 50
    assert control["micro"]["f1"] < 0.7
    assert control["attributes"]["side"]["f1"] < 0.1


def test_openi_is_taken_where_the_data_folder_has_it(tmp_path: Path) -> None:
    openi_folder(tmp_path / "openi")
    assert find_reference(tmp_path, reports=9).name.startswith("Open-i")
    assert find_reference(tmp_path / "elsewhere", reports=9).name.startswith("phantom")
    assert len(find_reference(None, reports=9).texts) == 9
    # of a reference the first reports, and the others are left out
    known = phantom_reference(5).first(2)
    assert len(known.texts) == len(known.labels) == len(known.attributes) == len(known.report_ids) == 2
    assert known.left_out == 3
    assert known.first(9).left_out == 3
