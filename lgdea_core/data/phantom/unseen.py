"""Words that no phantom's report ever uses: what the hard test set states findings in.

Every noun, and every way to say how much, where and that something is there, holds a word that `training_words` does
not have, so no phantom can have written it (tested; typos included).
"""

import re
from dataclasses import replace
from functools import cache

from lgdea_core.data.phantom import wording as words
from lgdea_core.data.phantom.wording import TRAINING

_NOUNS = {
    "atelectasis": ("volume loss", "subsegmental collapse", "collapsed tissue"),
    "cardiomegaly": ("dilated heart", "widened cardiac shadow", "cardiac dilatation"),
    "consolidation": ("alveolar infiltrate", "dense infiltrate", "solid infiltrate"),
    "edema": ("fluid overload", "vascular congestion", "engorged vasculature"),
    "lung opacity": ("shadow", "hazy shadow", "density"),
    "pleural effusion": ("hydrothorax", "pleural exudate", "pleural liquid"),
    "pneumonia": ("lung infection", "infectious infiltration", "pneumonitis"),
    "pneumothorax": ("air leak", "intrapleural air pocket", "trapped air pocket"),
    "nodule": ("coin lesion", "rounded lesion", "nodular lesion"),
    "hernia": ("herniated stomach", "gastric pouch", "gastric herniation"),
}
_PLURALS = {
    "infiltrate": "infiltrates",
    "shadow": "shadows",
    "density": "densities",
    "hydrothorax": "hydrothoraces",
    "exudate": "exudates",
    "liquid": "liquids",
    "leak": "leaks",
    "pocket": "pockets",
    "lesion": "lesions",
}
_SCALE = {
    "mild": ("tiny", "slight", "faint"),
    "moderate": ("intermediate", "considerable"),
    "severe": ("massive", "pronounced"),
}
_ADVERBS = {
    "mild": ("marginally ", "modestly "),
    "moderate": ("considerably ",),
    "severe": ("massively ", "grossly and massively "),
}
_SIDES = {"left": "left-sided", "right": "right-sided", "bilateral": "two-sided"}
_ZONE_ADJECTIVES = {
    "apical": ("topmost",),
    "upper": ("superior",),
    "mid": ("middle-third",),
    "perihilar": ("parahilar",),
    "lower": ("inferior", "infrahilar"),
}
_ZONE_PLACES = {
    "apical": ("occupying the {side} apex", "within the topmost {side} lung"),
    "upper": ("within the superior {side} lung",),
    "mid": ("within the middle third of the {side} lung",),
    "perihilar": ("around the {side} hilum",),
    "lower": ("within the inferior {side} lung", "overlying the {side} diaphragm dome"),
}
_ZONE_PLACES_BOTH = {
    "apical": ("occupying both apices",),
    "upper": ("within both superior lungs",),
    "mid": ("within the middle third of both lungs",),
    "perihilar": ("around both hila",),
    "lower": ("within both inferior lungs",),
}
_HEART_CLAUSES = (
    "the heart looks {grade}dilated",
    "the cardiac shadow looks {grade}widened",
    "the heart measures {grade}wide",
)
_PRESENT_FORMS = (
    "Imaging demonstrates {a}{np}.", "The film shows {a}{np}.", "{Np} is identified.", "{Np} is visible.",
    "We observe {a}{np}.", "{Np} is appreciated.",
)  # fmt: skip

_WRITER = (
    "indication technique comparison findings impression a an or is are has have possible possibly left right bilateral"
)
"""Words that `report.py` itself puts between those of `wording.py`."""

OTHER_NOUNS = replace(TRAINING, nouns=_NOUNS, plurals=_PLURALS, heart_clauses=_HEART_CLAUSES)
"""Findings under other names; all else as in training."""

OTHER_FORMS = replace(
    TRAINING,
    grading=dict.fromkeys(words.GRADING, (_SCALE,)),
    sides=_SIDES,
    zone_adjectives=_ZONE_ADJECTIVES,
    zone_places=_ZONE_PLACES,
    zone_places_both=_ZONE_PLACES_BOTH,
    heart_clauses=_HEART_CLAUSES,
    adverbs=_ADVERBS,
    present_forms=_PRESENT_FORMS,
)
"""Findings under their names, but otherwise graded, placed and put into sentences."""


def words_of(text: str) -> list[str]:
    """The words of a text, lower case; hyphens part them."""
    return re.findall("[a-z]+", text.lower())


@cache
def training_words() -> frozenset[str]:
    """Every word a report in training's wording can hold, typos aside: those of all constants of `wording.py`."""
    values = [value for name, value in vars(words).items() if name.isupper() and name != "TRAINING"]
    return frozenset(word for text in _texts([_WRITER, *values]) for word in words_of(re.sub(r"\{\w+\}", " ", text)))


def is_unseen(phrase: str) -> bool:
    """Whether a phrase holds a word that no training report has."""
    return not training_words().issuperset(words_of(phrase))


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = (*value, *value.values())  # a key may be a word, as in PLURALS
    return [text for part in value for text in _texts(part)]
