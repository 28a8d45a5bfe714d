"""LGDEA and ASG: vision-language pretraining on chest radiographs when few image-report pairs exist.

The core is the files of this folder; it imports torch, scipy, transformers and itself, never a room:

    vocabulary   closed word lists                     batch        what training may look at, and one step of it
    finding      one statement of a report             losses       every loss as a function of tensors
    paths        where runs and data lie               model        LGDEAModel, LGDEAProcessor
    config       every number a run depends on         method       what a method is
    crops        the square a tower sees               graph        kNN graphs, propagation (eq. 10 to 14)
    encoders     image and text towers, tokenizer      relations    relations of unpaired images and reports
    prototypes   lesion tokens, the evidence space     inference    embeddings of whole pools
    decoders     query decoder                         walks        draws from relations not written down
    published    towers of published dual encoders     grounding    phrase -> map
    __main__     the console command                   command      how commands end a user's mistake

The rooms around it (tests/test_layers.py says what each may import):

    methods/     one file a method: configuration, modules, part of the batch, terms, scores, map
    data/        corpora, phantom, images, pairing, check
    evidence/    reports -> findings: rules and language models, index, triplets
    training/    loop, schedule, sampling of batches, refresh of relations, monitors
    runs/        artifacts, inputs, variants, leaks; notebook, lesson: what notebooks begin with and take apart
    evaluation/  tasks, metrics, controls, published checkpoints, scores of extractors
    figures/     every figure, explorers, views
    experiments/ what writes figures/tables/
"""

import importlib
from typing import Any

_HOMES = {
    "RunConfig": "config",
    "METHODS": "config",
    "find_method": "config",
    "Finding": "finding",
    "LGDEAConfig": "model",
    "LGDEAModel": "model",
    "LGDEAProcessor": "model",
    "load": "grounding",
    "ground": "grounding",
    "gradcam": "grounding",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import what users ask for when they ask for it: `import lgdea_core` itself stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it exports {', '.join(_HOMES)}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
