"""The rule extractor on the real Open-i reports, where LGDEA_DATA holds them; read once for all tests."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lgdea_core.data.corpora import load_corpus
from lgdea_core.data.corpus import Corpus
from lgdea_core.evaluation.extraction import evaluate
from lgdea_core.evaluation.extraction.evaluate import (
    Reading,
    Reference,
    disagreement_page,
    evaluate_reading,
    openi_reference,
    read_texts,
)
from lgdea_core.evaluation.extraction.scores import coded_attributes
from lgdea_core.evidence.extract import make_extractor
from lgdea_core.evidence.triplets import triplets
from lgdea_core.finding import EVIDENCE_COLUMNS
from lgdea_core.vocabulary import NO_FINDING, REGIONS

pytestmark = pytest.mark.slow

BAR = 0.92
"""micro F1 the rule extractor must reach"""
COMPARED = 400
"""first reports, on which the control is read too"""
ATTRIBUTES = ("anatomy", "side", "severity")


def openi_root() -> Path:
    root = Path(os.environ.get("LGDEA_DATA", "")) / "openi"
    if "LGDEA_DATA" not in os.environ or not root.is_dir():
        pytest.skip("LGDEA_DATA is not set or has no folder openi: the real reports are not here")
    return root


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus("openi", openi_root())


@pytest.fixture(scope="module")
def reference(corpus: Corpus) -> Reference:
    with pytest.MonkeyPatch.context() as patch:  # the 3,955 files are parsed once
        patch.setattr(evaluate, "load_corpus", lambda *_: corpus)
        return openi_reference(openi_root())


@pytest.fixture(scope="module")
def reading(reference: Reference) -> Reading:
    return read_texts(make_extractor("lexicon"), reference.texts)


def test_reports_are_read_well(reference: Reference, reading: Reading) -> None:
    result = evaluate_reading(reading, reference)
    assert result["reports"] > 1000
    assert result["rejected"] == {}
    assert result["micro"]["f1"] >= BAR
    assert min(result["attributes"][name]["f1"] for name in ATTRIBUTES) > 0.84


def test_without_negation_they_are_not_and_the_page_of_disagreements_holds_no_sentence(
    reference: Reference, reading: Reading
) -> None:
    few = reference.first(COMPARED)
    readings = {
        "lexicon": replace(reading, findings=reading.findings[:COMPARED]),
        "keywords": read_texts(make_extractor("keywords"), few.texts),
    }
    control = evaluate_reading(readings["keywords"], few)
    assert control["micro"]["f1"] < 0.4
    assert max(control["attributes"][name]["f1"] for name in ATTRIBUTES) < 0.2

    page = disagreement_page(few, readings, "lexicon", "keywords")
    sentences = {sentence.strip() for text in few.texts for sentence in text.split(".") if len(sentence) > 25}
    assert len(sentences) > COMPARED
    assert not any(sentence in page for sentence in sentences)


def test_every_qualifier_of_the_codes_is_in_a_table(corpus: Corpus) -> None:
    unknown: Counter[str] = Counter()
    judged = [coded_attributes(code, unknown) for code in corpus.studies["mesh"]]
    assert not unknown
    assert sum(map(len, judged)) > 2000


def test_most_findings_have_regions(reference: Reference, reading: Reading) -> None:
    rows = [
        (report_id, *(getattr(finding, column) for column in EVIDENCE_COLUMNS[1:]))
        for report_id, findings in zip(reference.report_ids, reading.findings, strict=True)
        for finding in findings
    ]
    found = triplets(pd.DataFrame(rows, columns=list(EVIDENCE_COLUMNS)))
    by_finding = found.drop_duplicates("finding")
    assert list(by_finding["finding"]) == list(range(len(rows)))  # every finding is there
    assert by_finding.loc[by_finding["observation"] != NO_FINDING, "region"].notna().mean() > 0.8
    assert set(found["region"].dropna()) <= set(REGIONS)
    assert found.duplicated(["finding", "region"]).sum() == 0
