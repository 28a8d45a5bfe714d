"""The closed word lists that evidence, corpora, phantom and prompts share."""

STATUSES = ("present", "absent", "uncertain")
LATERALITIES = ("left", "right", "bilateral")
SEVERITIES = ("mild", "moderate", "severe")
SPLITS = ("train", "val", "test")

NO_FINDING = "no finding"
"""Observation of a report that says the chest is normal; evidence too, so it takes part in the graphs."""

MS_CXR_FINDINGS = (
    "atelectasis",
    "cardiomegaly",
    "consolidation",
    "edema",
    "lung opacity",
    "pleural effusion",
    "pneumonia",
    "pneumothorax",
)
"""The eight categories of MS-CXR (Boecking et al., ECCV 2022)."""

CHEXPERT_FINDINGS = (
    NO_FINDING,
    "enlarged cardiomediastinum",
    "cardiomegaly",
    "lung opacity",
    "lung lesion",
    "edema",
    "consolidation",
    "pneumonia",
    "atelectasis",
    "pneumothorax",
    "pleural effusion",
    "pleural other",
    "fracture",
    "support devices",
)
"""The 14 labels of CheXpert (Irvin et al., AAAI 2019)."""

CHEXPERT_FIVE = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural effusion")
"""The findings of CheXpert's competition, also those of 5x200."""

NIH_FINDINGS = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Effusion": "pleural effusion",
    "Emphysema": "emphysema",
    "Fibrosis": "fibrosis",
    "Hernia": "hernia",
    "Infiltration": "infiltration",
    "Mass": "mass",
    "Nodule": "nodule",
    "Pleural_Thickening": "pleural thickening",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "pneumothorax",
}
"""NIH ChestX-ray14's label -> our observation name. (Open-i's `openi_gld_std14.csv` uses the same labels.)"""

LABEL_SETS = {
    "chexpert5": CHEXPERT_FIVE,
    "chexpert14": CHEXPERT_FINDINGS,
    "nih13": tuple(finding for finding in NIH_FINDINGS.values() if finding != "fibrosis"),
    "nih14": tuple(NIH_FINDINGS.values()),
    "rsna": ("lung opacity",),
    "siim": ("pneumothorax",),
}
"""name -> findings over which published macro means are taken; "nih13" is MedKLIP's, which drops fibrosis."""

DIAGNOSTIC_FINDINGS = (*dict.fromkeys((*MS_CXR_FINDINGS, *CHEXPERT_FINDINGS[:-1], *NIH_FINDINGS.values())),)
"""What the evidence space is about: the findings of the field's label sets, support devices left out."""

PHANTOM_FINDINGS = (*MS_CXR_FINDINGS, "nodule", "hernia")
"""What the phantom can paint."""

REGIONS = (
    "right lung",
    "right upper lung zone",
    "right mid lung zone",
    "right lower lung zone",
    "right hilar structures",
    "right apical zone",
    "right costophrenic angle",
    "right hemidiaphragm",
    "left lung",
    "left upper lung zone",
    "left mid lung zone",
    "left lower lung zone",
    "left hilar structures",
    "left apical zone",
    "left costophrenic angle",
    "left hemidiaphragm",
    "trachea",
    "spine",
    "right clavicle",
    "left clavicle",
    "aortic arch",
    "mediastinum",
    "upper mediastinum",
    "svc",
    "cardiac silhouette",
    "cavoatrial junction",
    "right atrium",
    "carina",
    "abdomen",
)
"""The 29 anatomical regions of Chest ImaGenome (Wu et al., 2021), in the order of ttanida/rgrg."""

ASG_TAGS = (
    "pleural effusion", "opacity", "pneumothorax", "edema", "atelectasis", "tube", "consolidation",
    "enlarged cardiomediastinum", "tip", "pneumonia", "line", "cardiomegaly", "fracture", "calcification", "device",
    "engorgement", "nodule", "wire", "pacemaker", "pleural thicken", "marking", "scar", "hyperinflate", "blunt",
    "collapse", "emphysema", "aerate", "mass", "infiltration", "obscure", "deformity", "hernia", "drainage",
    "distention", "shift", "stent", "lesion", "hardware", "dilation", "aspiration",
)  # fmt: skip
"""The 40 image tags of ASG's released code (arXiv 2403.09294)."""
