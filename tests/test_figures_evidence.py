"""The figure of several extractors by content: each panel has its own highlights, on the same text."""

import io

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lgdea_core.figures import STATUS_COLOURS
from lgdea_core.figures.evidence import figure_extractors

REPORT = "FINDINGS: Small left effusion. No pneumothorax is seen on this upright film.\nIMPRESSION: Effusion."


def evidence(*rows: tuple[str, str]) -> pd.DataFrame:
    places = [(REPORT.index(phrase), REPORT.index(phrase) + len(phrase), status) for phrase, status in rows]
    return pd.DataFrame(places, columns=["start", "end", "status"])


READINGS = {
    "lexicon": evidence(("Small left effusion", "present"), ("pneumothorax", "absent")),
    "keywords": evidence(("effusion", "uncertain")),
}


def highlights(figure: Figure, panel: int) -> list[tuple[str, float]]:
    """Colour and width in characters of each highlight of a panel."""
    boxes = [patch for patch in figure.axes[panel].patches if isinstance(patch, Rectangle)]
    return [(to_hex(box.get_edgecolor()), round(box.get_width() - 0.4, 6)) for box in boxes]


def words(figure: Figure, panel: int) -> str:
    return " ".join(text.get_text() for text in figure.axes[panel].texts)


def test_every_extractor_has_its_panel_with_the_whole_text_and_its_own_highlights() -> None:
    figure = figure_extractors(REPORT, READINGS)
    assert words(figure, 0) == words(figure, 1) == " ".join(REPORT.split())
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["lexicon: 2 statements", "keywords: 1 statements"]
    present, absent, uncertain = (STATUS_COLOURS[status].lower() for status in ("present", "absent", "uncertain"))
    assert highlights(figure, 0) == [(present, 19), (absent, 12)]
    assert highlights(figure, 1) == [(uncertain, 8)]


def test_panels_stand_side_by_side_within_the_figure() -> None:
    figure = figure_extractors(REPORT, READINGS, caption="study s1")
    left, right = (axis.get_position() for axis in figure.axes)
    assert 0 < left.x0 < left.x1 < right.x0 < right.x1 < 1
    assert (left.y0, left.y1) == (right.y0, right.y1)
    assert "study s1" in [text.get_text() for text in figure.texts]


@pytest.mark.filterwarnings("error")
def test_an_empty_report_is_drawn_empty() -> None:
    figure = figure_extractors("", {"lexicon": evidence()})
    figure.savefig(io.BytesIO(), format="png")
    assert words(figure, 0) == ""


def test_no_extractor_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one extractor, got none"):
        figure_extractors(REPORT, {})
