"""The words of phantom reports. Modifiers are shared between findings, so that none of them gives a finding away."""

from collections.abc import Mapping
from dataclasses import dataclass

Options = Mapping[str, tuple[str, ...]]

NOUNS = {
    "atelectasis": ("atelectasis", "linear atelectasis", "patchy atelectasis"),
    "cardiomegaly": ("cardiomegaly", "enlargement of the cardiac silhouette", "cardiac enlargement"),
    "consolidation": ("consolidation", "airspace consolidation", "patchy consolidation"),
    "edema": ("pulmonary edema", "edema", "interstitial edema"),
    "lung opacity": ("opacity", "hazy opacity", "patchy opacity"),
    "pleural effusion": ("pleural effusion", "effusion", "pleural fluid collection"),
    "pneumonia": ("pneumonia", "patchy pneumonia", "bronchopneumonia"),
    "pneumothorax": ("pneumothorax",),
    "nodule": ("nodule", "pulmonary nodule", "lung nodule"),
    "hernia": ("hiatal hernia", "hiatus hernia"),
}
"""Present findings; the first is the canonical and the plain one."""

COUNTABLE = ("consolidation", "lung opacity", "pleural effusion", "pneumothorax", "nodule", "hernia")
"""Findings that take an article or a plural."""

PLURALS = {
    "opacity": "opacities",
    "effusion": "effusions",
    "collection": "collections",
    "pneumothorax": "pneumothoraces",
    "nodule": "nodules",
    "consolidation": "consolidations",
}

SIZE = {
    "mild": ("small", "subtle"),
    "moderate": ("moderate", "moderate-sized"),
    "severe": ("large", "extensive"),
}
DEGREE = {
    "mild": ("mild", "minimal", "subtle"),
    "moderate": ("moderate",),
    "severe": ("severe", "extensive"),
}
GRADING = {
    "atelectasis": (DEGREE,),
    "cardiomegaly": (DEGREE,),
    "consolidation": (SIZE, DEGREE),
    "edema": (DEGREE,),
    "lung opacity": (SIZE, DEGREE),
    "pleural effusion": (SIZE, SIZE, DEGREE),
    "pneumonia": (DEGREE,),
    "pneumothorax": (SIZE, SIZE, DEGREE),
    "nodule": (SIZE,),
    "hernia": (SIZE, DEGREE),
}
PLAIN_GRADE = {"mild": "mild", "moderate": "moderate", "severe": "severe"}

ZONE_ADJECTIVES = {
    "apical": ("apical",),
    "upper": ("upper lobe", "upper lung"),
    "mid": ("mid lung",),
    "perihilar": ("perihilar",),
    "lower": ("basilar", "lower lobe", "lower lung"),
}
ZONE_PLACES = {
    "apical": ("at the {side} apex", "at the {side} lung apex"),
    "upper": ("in the {side} upper lobe", "in the {side} upper lung zone", "in the {side} upper lung"),
    "mid": ("in the {side} mid lung zone", "in the {side} mid lung"),
    "perihilar": ("in the {side} perihilar region",),
    "lower": ("in the {side} lower lobe", "in the {side} lower lung zone", "at the {side} lung base"),
}
ZONE_PLACES_BOTH = {
    "apical": ("at both lung apices",),
    "upper": ("in both upper lobes", "in both upper lung zones"),
    "mid": ("in both mid lung zones",),
    "perihilar": ("in both perihilar regions",),
    "lower": ("in both lower lobes", "at both lung bases", "in both lower lung zones"),
}
ZONE_REGIONS = {
    "apical": "apical zone",
    "upper": "upper lung zone",
    "mid": "mid lung zone",
    "perihilar": "hilar structures",
    "lower": "lower lung zone",
}

HEART_CLAUSES = (
    "the heart is {grade}enlarged",
    "heart size is {grade}enlarged",
    "the cardiac silhouette is {grade}enlarged",
    "the cardiomediastinal silhouette is {grade}enlarged",
)
ADVERBS = {
    "mild": ("mildly ", "slightly "),
    "moderate": ("moderately ",),
    "severe": ("severely ", "markedly "),
}

PRESENT_FORMS = (
    "There is {a}{np}.", "{Np} is seen.", "{Np} is present.", "{Np} is noted.", "{Np}.",
    "{Np}, new since the prior exam.", "Unchanged {np}.", "There is {a}{np}, similar to prior.",
    "Again seen is {a}{np}.",
)  # fmt: skip
UNCERTAIN_FORMS = (
    "Possible {np}.", "Questionable {np}.", "{Np} cannot be excluded.", "Findings may represent {a}{np}.",
    "There is a suggestion of {a}{np}.", "Probable {np}.", "Cannot rule out {a}{np}.",
)  # fmt: skip
RESOLVED_FORMS = (
    "Previously seen {np} has resolved.", "Interval resolution of the {np}.",
    "The previously noted {np} is no longer seen.",
)  # fmt: skip
ABSENT_FORMS = ("No {np}.", "No evidence of {np}.", "There is no {np}.", "No {np} is seen.", "Negative for {np}.")
ABSENT_LISTS = ("No {list}.", "There is no {list}.", "No evidence of {list}.")
ABSENT_NOUNS = {
    "atelectasis": ("atelectasis",),
    "cardiomegaly": ("cardiomegaly",),
    "consolidation": ("focal consolidation", "consolidation", "airspace consolidation"),
    "edema": ("pulmonary edema", "edema"),
    "lung opacity": ("focal opacity", "lung opacity", "focal airspace opacity"),
    "pleural effusion": ("pleural effusion", "effusion"),
    "pneumonia": ("pneumonia",),
    "pneumothorax": ("pneumothorax",),
    "nodule": ("pulmonary nodule", "suspicious nodule"),
    "hernia": ("hiatal hernia",),
}
NORMAL_HEART = (
    "Heart size is normal.", "The cardiac silhouette is within normal limits.", "The heart is not enlarged.",
    "The heart size is within normal limits.", "Cardiac silhouette is normal in size.",
)  # fmt: skip
NORMAL_STUDY = (
    "No acute cardiopulmonary abnormality", "No acute cardiopulmonary process", "Normal chest radiograph",
    "No acute intrathoracic process", "Unremarkable chest radiograph", "No acute disease",
)  # fmt: skip

FILLER = (
    "The mediastinal contours are unremarkable.", "Osseous structures are intact.", "The trachea is midline.",
    "No acute osseous abnormality.", "Hilar contours are normal.", "Visualized upper abdomen is unremarkable.",
    "Degenerative changes are seen in the thoracic spine.", "The aorta is tortuous.", "Soft tissues are unremarkable.",
    "No free air below the diaphragm.", "There are no acute bony findings.", "The aortic arch is calcified.",
    "Lung volumes are adequate.", "The patient is slightly rotated.", "Mediastinal structures are stable.",
    "The pulmonary vasculature is unremarkable.", "Bony thorax is grossly intact.", "Mild scoliosis of the spine.",
    "Surgical clips project over the upper abdomen.", "Overlying wires project over the chest.",
    "No displaced rib fracture.", "The costal margins are intact.",
)  # fmt: skip
"""Statements about none of the phantom's findings."""

ADVICE = (
    "Clinical correlation is recommended.", "Follow-up as clinically indicated.", "Attention on follow-up.",
    "Results were discussed with the care team.", "Comparison with prior studies is suggested.",
)  # fmt: skip
DEVICE_FORMS = {
    "endotracheal tube": (
        "Endotracheal tube terminates above the carina.", "The endotracheal tube is in standard position.",
    ),
    "enteric tube": ("Enteric tube courses below the diaphragm.", "A nasogastric tube terminates in the stomach."),
    "central line": (
        "Central venous catheter tip projects over the SVC.", "A PICC line terminates at the cavoatrial junction.",
    ),
    "pacemaker": ("A dual-lead pacemaker is in place.", "Pacemaker leads are in unchanged position."),
    "sternal wires": ("Median sternotomy wires are intact.", "Sternotomy wires are noted."),
    "ecg leads": ("ECG leads overlie the chest.", "Monitoring leads are present."),
    "chest tube": ("A chest tube is in place.", "Thoracostomy tube is unchanged in position."),
}  # fmt: skip
INDICATIONS = (
    "Shortness of breath", "Chest pain", "Cough and fever", "Evaluate for pneumonia", "Evaluate for pleural effusion",
    "Rule out pneumothorax", "Preoperative evaluation", "Follow-up of congestive failure", "Dyspnea, assess for edema",
    "Line placement", "Weakness",
)  # fmt: skip
TECHNIQUES = {
    "AP": ("Portable AP chest radiograph.", "Single AP view of the chest.", "AP semi-upright view of the chest."),
    "PA": ("Frontal PA view of the chest.", "PA chest radiograph.", "Single frontal view of the chest."),
}
COMPARISONS = (
    "None.",
    "Prior chest radiograph.",
    "Chest radiograph from the previous day.",
    "Study of last month.",
)


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The words in which a report states what is there; denials, hedges and filler are the same for all."""

    nouns: Options
    plurals: Mapping[str, str]
    """of the nouns' last words"""
    grading: Mapping[str, tuple[Options, ...]]
    """scales of severity words that fit each finding"""
    sides: Mapping[str, str]
    """laterality as an adjective"""
    zone_adjectives: Options
    zone_places: Options
    zone_places_both: Options
    heart_clauses: tuple[str, ...]
    adverbs: Options
    present_forms: tuple[str, ...]


TRAINING = Wording(
    nouns=NOUNS,
    plurals=PLURALS,
    grading=GRADING,
    sides={"left": "left", "right": "right", "bilateral": "bilateral"},
    zone_adjectives=ZONE_ADJECTIVES,
    zone_places=ZONE_PLACES,
    zone_places_both=ZONE_PLACES_BOTH,
    heart_clauses=HEART_CLAUSES,
    adverbs=ADVERBS,
    present_forms=PRESENT_FORMS,
)
"""What every phantom is written in; `unseen.py` has what none ever says."""
