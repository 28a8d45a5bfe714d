"""What each method takes from the training loop, the batch and the model."""

from typing import Literal, NamedTuple


class Method(NamedTuple):
    """What a method takes from the loop, the batch and the model; its terms are in `methods.METHOD_TERMS`."""

    text_phase: bool = False
    """has a text warm-up of its own; the others spend those steps on pairs"""
    relations: bool = False
    """trains the evidence space, and unpaired images and reports under the relations"""
    evidence: bool = False
    """reads the findings of reports, so training needs some"""
    regions: bool = False
    """trains on regions and tags of the images"""
    local: str = ""
    """weight, in `LossConfig`, of the term that trains the local head"""
    within_pairs: bool = False
    """see `LGDEAConfig.within_pairs`"""
    attended: bool = False
    """see `LGDEAConfig.attended`"""
    decoder: Literal["", "existence", "similarity"] = ""
    """see `LGDEAConfig.decoder`"""
    sentence_memory: bool = False
    """see `LGDEAConfig.sentence_memory`"""
    parts: tuple[str, ...] = ()
    """parts of a batch that it reads and others do without, see `batches.sample_batch`"""


METHODS = {
    "clip": Method(),
    "gloria": Method(local="local", attended=True, parts=("sentences",)),
    "mgca": Method(local="token", within_pairs=True),
    "medclip": Method(evidence=True, parts=("finding_labels",)),
    "biovil": Method(text_phase=True, local="local", attended=True, parts=("sentences", "sections")),
    "prior": Method(local="local", within_pairs=True, sentence_memory=True, parts=("sentences",)),
    "medklip": Method(text_phase=True, evidence=True, decoder="existence", parts=("existence",)),
    "carzero": Method(decoder="similarity"),
    "asg": Method(regions=True, within_pairs=True),
    "lgdea": Method(text_phase=True, relations=True, evidence=True, local="local"),
    "lgdea+asg": Method(text_phase=True, relations=True, evidence=True, regions=True, local="local"),
}
