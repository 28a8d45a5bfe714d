"""Sections: which text an extractor may read, and where it stands."""

import pytest

from lgdea_core.evidence.sections import readable_sections, sentence_spans, split_sections

REPORT = "INDICATION: Cough.\nFINDINGS: Small effusion.\nIMPRESSION: Effusion."


def bodies(report: str) -> list[tuple[str, str]]:
    return [(section.kind, report[section.start : section.end]) for section in readable_sections(report)]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (REPORT, [("findings", "Small effusion."), ("impression", "Effusion.")]),
        ("Lungs are clear.", [("findings", "Lungs are clear.")]),
        ("  \n Lungs are clear. \n", [("findings", "Lungs are clear.")]),
        ("IMPRESSION: Edema.", [("impression", "Edema.")]),
        ("CONCLUSION: Edema.", [("impression", "Edema.")]),
        ("Findings: clear.\nImpression: normal.", [("findings", "clear."), ("impression", "normal.")]),
        ("INDICATION: pneumonia?", []),
        ("FINDINGS:\nIMPRESSION: Edema.", [("impression", "Edema.")]),
        ("FINDINGS:   \nIMPRESSION:", []),
        ("", []),
        (" \n\t ", []),
        ("FINAL REPORT\n FINDINGS: Clear. IMPRESSION: Normal.", [("findings", "Clear."), ("impression", "Normal.")]),
        (
            "FINDINGS: LUNGS: clear.\nHEART: normal.\nCOMPARISON: None.",
            [("findings", "LUNGS: clear.\nHEART: normal.")],
        ),
    ],
)
def test_only_findings_and_impression_are_readable(report: str, expected: list[tuple[str, str]]) -> None:
    assert bodies(report) == expected


def test_the_last_section_of_a_kind_counts() -> None:
    report = "FINDINGS: Large effusion.\nIMPRESSION: Old.\nADDENDUM:\nFINDINGS: No effusion.\nIMPRESSION: New."
    assert bodies(report) == [("findings", "No effusion."), ("impression", "New.")]


def test_sections_keep_the_order_of_the_text() -> None:
    assert bodies("IMPRESSION: A.\nFINDINGS: B.") == [("impression", "A."), ("findings", "B.")]


def test_all_sections_are_listed_with_their_names() -> None:
    sections = split_sections(f"WET READ\n{REPORT}")
    assert [(section.name, section.kind) for section in sections] == [
        ("", "other"),
        ("INDICATION", "other"),
        ("FINDINGS", "findings"),
        ("IMPRESSION", "impression"),
    ]


def test_sentences_come_impression_first_with_their_places() -> None:
    report = "INDICATION: Cough.\nFINDINGS: No edema. Small  nodule!\n\nHeart is 1.5 cm\nIMPRESSION: Nodule."
    spans = sentence_spans(report)
    assert [report[start:end] for start, end in spans] == [
        "Nodule.", "No edema.", "Small  nodule!", "Heart is 1.5 cm",
    ]  # fmt: skip
    assert sentence_spans("") == []
