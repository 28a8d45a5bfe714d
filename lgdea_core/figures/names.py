"""What a reader calls methods, measures and settings, and how each method looks: the same in every figure and table."""

from collections.abc import Iterable
from typing import Any

METHOD_NAMES = {
    "random": "random weights",
    "clip": "CLIP",
    "gloria": "GLoRIA",
    "mgca": "MGCA",
    "medclip": "MedCLIP",
    "biovil": "BioViL",
    "prior": "PRIOR",
    "medklip": "MedKLIP",
    "carzero": "CARZero",
    "asg": "ASG",
    "lgdea": "LGDEA",
    "lgdea+asg": "LGDEA + ASG",
}
WHOLE = "as it is"
"""A method without any change, in the column variant."""
GREY = "#595959"
LGDEA, CLIP, GLORIA, ASG = "#0072B2", "#D55E00", "#009E73", "#AA4499"
_LOOKS = {
    "LGDEA": (LGDEA, "o"),
    "CLIP": (CLIP, "s"),
    "GLoRIA": (GLORIA, "^"),
    "ASG": (ASG, "D"),
    "LGDEA + ASG": ("#332288", "P"),
    "MGCA": ("#997700", "v"),
    "MedCLIP": ("#882255", "<"),
    "BioViL": ("#117733", ">"),
    "PRIOR": ("#CC6677", "p"),
    "MedKLIP": ("#44879A", "h"),
    "CARZero": ("#7A4B00", "X"),
    "random weights": (GREY, "d"),
    "untrained": (GREY, "d"),
    "random relations": (GREY, "d"),
}
"""Name -> colour and marker; no other method, and nothing that is no method, has the same pair."""
_SPARE = [(colour, marker) for marker in "H8*" for colour in ("#882255", "#997700", "#332288", "#117733", "#44879A")]
"""For what has no look of its own, such as a user's method."""
LOOK_NAMES = {
    "image": ("the image", LGDEA, "o"),
    "blind": ("nothing to be seen", CLIP, "s"),
    "other": ("a part of the image", GLORIA, "^"),
    "prompt": ("other words", ASG, "D"),
}
"""Kind of a control of "does it look?" -> its name, colour and marker."""
_RUN_NAMES = {
    "graph": "propagated graph",
    "affinity": "cross-modal affinity",
    "graph*affinity": "graph × affinity",
    "random": "random relations",
    "prototypes": "through the prototypes",
    "regions shuffled": "ASG, shuffled regions",
    "untrained": "untrained",
}
WORLD_NAMES = {
    "phantom": "phantom",
    "easy": "easy phantom",
    "mismatched": "phantom, reports of another clinic",
    "painted": "synthetic lesions in real images",
    "painted_nih": "synthetic lesions in real images",
    "openi": "real pairs (Open-i)",
    "nih": "NIH images",
    "covid_chestxray+nih+openi": "real images of three sources",
}
SETTING_NAMES = {
    "alpha": "alpha (share from neighbours)",
    "neighbours": "k (neighbours of a node)",
    "affinity_sharpness": "sharpness",
    "pair_steps": "steps on pairs before",
}
TERM_NAMES = {
    "loss": "weighted sum of all terms",
    "ita": "image against report",
    "local": "phrase against patches",
    "local_unpaired": "phrase against patches, unpaired",
    "lesion": "lesion token against phrase",
    "text": "report against its phrases",
    "reconstruction": "phrase against prototypes (eq. 5)",
    "prototype_penalty": "norm of prototypes (eq. 5)",
    "usage": "minus usage entropy",
    "evidence_paired": "evidence of pairs (eq. 9)",
    "evidence_unpaired": "evidence of unpaired (eq. 15)",
    "relations": "soft relations (eq. 16)",
    "consistency": "student against teacher",
    "arsa": "region against sentence (ARSA)",
    "irl": "image tags (IRL)",
    "erl": "softened contrast (ERL)",
    "usage_entropy": "usage entropy (nats)",
    "assignment_sharpness": "largest membership of a phrase",
    "prototype_norm": "norm of a prototype",
    "image_hubness": "hubness of the image graph",
    "report_hubness": "hubness of the report graph",
    "max_column_mass": "largest column / mean",
    "graph_reached_images": "images reached by the graph",
    "reached_images": "images with a relation",
    "marginal_error": "error of the marginals",
    "effective_reports": "effective reports of an image",
    "agreement": "agreement of related reports",
    "ramp": "weight of unpaired terms",
    "relation_precision_at_1": "relations: precision@1",
    "relation_label_auc": "relations: label AUC",
    "learning_rate": "learning rate",
    "label_auc": "label AUC",
    "pair_lift": "lift of the true pair",
    "precision_at_10": "precision@10",
}
"""column of a history, or measure of relations -> its name in words"""
QUESTIONS = {
    "What do unpaired data add?": ("without unpaired images", "without unpaired reports"),
    "Which relations?": (
        "relations: graph",
        "relations: affinity",
        "relations: affinity, sharpness matched",
        "relations: oracle",
    ),
    "What would better relations add?": (
        "relations: hint 0.2",
        "relations: hint 0.28",
        "relations: hint 0.35",
    ),
    "What does the evidence space add?": (
        "without prototypes",
        "whole reports",
        "paper's terms",
        "paper's terms, pretrained text",
        "phrases and patches alone",
        "phrases and patches alone, known reports",
    ),
    "Does a pretrained text tower help?": ("pretrained text", "pretrained text, locked"),
    "Which losses?": (
        "without local losses",
        "without lesion contrast",
        "without text phase",
        "without consistency",
        "without same observation",
    ),
    "Controls, which must fail": (
        "shuffled pairs",
        "shuffled pairs, without unpaired images",
        "shuffled pairs, phrases and patches alone",
    ),
}
"""Question of the ablation -> the variants that answer it."""


def name_of(method: str, variant: str = "") -> str:
    """What a reader calls a row of a table: the method's own name, and its variant."""
    first, _, rest = method.partition(" ")
    name = METHOD_NAMES.get(method) or (f"{METHOD_NAMES[first]}, {rest}" if first in METHOD_NAMES else method)
    return f"{name}, {variant}" if variant and variant != WHOLE else name


def label_of(key: str, method: str = "lgdea") -> str:
    """What a reader calls one model of a run, one kind of relations, or one map.

    Args:
        key: one of `runs.variants.VARIANTS`, a method, or a name that says it itself.
        method: of the run.
    """
    model, _, control = key.partition("_shuffled")
    if model in ("model", "baseline"):
        shuffled = f", shuffled {control.strip('_') or 'pairs'}" if key != model else ""
        name = name_of(method if model == "model" else "clip")
        return name + (", baseline" if (model, method) == ("baseline", "clip") else "") + shuffled
    return _RUN_NAMES.get(key) or name_of(key)


def looks(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each label: its method's own, whatever else the figure shows; a control's marks are hollow.

    What is no method of ours has one of its own within the figure.
    """
    spare, found = iter(_SPARE * 9), {}
    for label in dict.fromkeys(labels):
        colour, marker = _LOOKS.get(label.partition(",")[0]) or next(spare)
        face = "white" if "shuffled" in label else colour
        found[label] = {"color": colour, "marker": marker, "markerfacecolor": face}
    return found


def line_of(label: str) -> str:
    """Dashes for a control, which must fail."""
    return "--" if "shuffled" in label else "-"
