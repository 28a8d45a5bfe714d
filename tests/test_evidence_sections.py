"""Sections: which text an extractor may read, and where it stands."""

import pytest

from lgdea_core.evidence.sections import readable_sections, sentence_spans, split_sections

REPORT = "INDICATION: Cough.\nFINDINGS: Small effusion.\nIMPRESSION: Effusion."


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (REPORT, [("findings", "Small effusion."), ("impression", "Effusion.")]),
        ("Lungs are clear.", [("findings", "Lungs are clear.")]),
        ("  \n Lungs are clear. \n", [("findings", "Lungs are clear.")]),
        ("CONCLUSION: Edema.", [("impression", "Edema.")]),
        ("Findings: clear.\nImpression: normal.", [("findings", "clear."), ("impression", "normal.")]),
        ("INDICATION: pneumonia?", []),
        ("FINDINGS:\nIMPRESSION: Edema.", [("impression", "Edema.")]),
        ("FINDINGS:   \nIMPRESSION:", []),
        (" \n\t ", []),
        ("FINAL REPORT\n FINDINGS: Clear. IMPRESSION: Normal.", [("findings", "Clear."), ("impression", "Normal.")]),
        ("FINDINGS: LUNGS: clear.\nHEART: ok.\nCOMPARISON: None.", [("findings", "LUNGS: clear.\nHEART: ok.")]),
        # of several of a kind the last one counts, and all keep the order of the text
        (f"{REPORT}\nADDENDUM:\nFINDINGS: None.", [("impression", "Effusion."), ("findings", "None.")]),
        ("IMPRESSION: A.\nFINDINGS: B.", [("impression", "A."), ("findings", "B.")]),
        # headers misspelt, in another case, without a colon, inside a line, glued
        ("INDICAITON: Cough.\nFINDNGS: A.\nIMPRESION: B.", [("findings", "A."), ("impression", "B.")]),
        ("clinical history: cough\n\nfindings: A", [("findings", "A")]),
        ("Indication\nCough\nFindings\nA", [("findings", "A")]),
        ("Exam: chest. Indication: cough. Findings: A. Impression: B.", [("findings", "A."), ("impression", "B.")]),
        ("CHEST, ONE VIEW HISTORY: cough. FINDINGS:A.IMPRESSION:B.", [("findings", "A."), ("impression", "B.")]),
        ("There is no change in the findings: A.", [("findings", "There is no change in the findings: A.")]),
        # an addendum is read beside the report
        (f"{REPORT}\nADDENDUM: A.", [("findings", "Small effusion."), ("impression", "Effusion."), ("findings", "A.")]),
        # without findings and impression the report itself is read, else its first reading
        ("WET READ: A.\nFINAL REPORT\nB.", [("findings", "B.")]),
        ("WET READ: A.", [("findings", "A.")]),
        ("FINAL REPORT\nPORTABLE CHEST: A.\nCOMPARISON: None.", [("findings", "A.")]),
        ("INDICATION: Cough.\n\nA.\n\nB.", [("findings", "A.\n\nB.")]),
        ("A.\nINDICATION: Cough.", [("findings", "A.")]),
    ],
)
def test_only_findings_and_impression_are_readable(report: str, expected: list[tuple[str, str]]) -> None:
    assert [(section.kind, report[section.start : section.end]) for section in readable_sections(report)] == expected


def test_all_sections_are_listed_with_their_names() -> None:
    assert [(section.name, section.kind) for section in split_sections(f"WET READ\n{REPORT}")] == [
        ("WET READ", "other"), ("INDICATION", "other"), ("FINDINGS", "findings"), ("IMPRESSION", "impression"),
    ]  # fmt: skip


def test_sentences_come_impression_first_with_their_places() -> None:
    report = "INDICATION: Cough.\nFINDINGS: No edema. Small  nodule!\n\nHeart is 1.5 cm\nIMPRESSION: Nodule."
    sentences = [report[start:end] for start, end in sentence_spans(report)]
    assert sentences == ["Nodule.", "No edema.", "Small  nodule!", "Heart is 1.5 cm"]
    assert sentence_spans("") == []
