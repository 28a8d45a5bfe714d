"""A training's newest resumable state: a folder that is replaced whole, and never by another training's."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model

from lgdea_core.batch import TrainingData
from lgdea_core.config import RunConfig, config_differences
from lgdea_core.model import LGDEAModel
from lgdea_core.training.sampling import DRAW_VERSION

logger = logging.getLogger("lgdea")

CHECKPOINT = "checkpoint"
"""Name of the folder, in a training's own."""
FORMAT_VERSION = 2
"""Raise it when what a checkpoint holds, or how training goes on from it, changes."""


@dataclass
class TrainState:
    """All that changes during training."""

    model: LGDEAModel
    teacher: LGDEAModel
    optimizer: torch.optim.Optimizer
    step: int
    history: list[dict[str, Any]]


def training_origin(config: RunConfig, data: TrainingData) -> dict[str, Any]:
    """What decides a training, by name: configuration, data, and the versions of checkpoint and draws.

    Where the data lie, and the preset's name, do not matter. Of the data there are hashes. Not in it: the number of
    processes, and relations that are given from outside (`loop.train`'s `first_graph`, `fixed_graph`).
    """
    settings = asdict(config)
    del settings["data"]["root"], settings["preset"]
    index = data.evidence
    matrices = (index.report_phrases, index.report_statements, index.report_findings)
    parts: dict[str, Iterable[Any]] = {
        "images": [data.images.numpy()],
        "reports": [repr((data.sentences, index.report_ids)), data.impressions],
        "phrases": [repr((index.phrases, index.statements)), data.phrase_tokens.numpy(), data.phrase_mask.numpy()],
        "evidence": [array for matrix in matrices for array in (matrix.indptr, matrix.indices, matrix.data)],
        "pairs": [data.seed_pairs],
    }
    if data.regions is not None:
        parts["regions"] = [data.regions.boxes, data.regions.tags, *data.regions.links]
    versions = {"checkpoint": FORMAT_VERSION, "draws": DRAW_VERSION}
    return {"format": versions, "configuration": settings, "data": {name: _hash(part) for name, part in parts.items()}}


def _hash(parts: Iterable[str | np.ndarray]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        else:
            digest.update(repr((part.shape, part.dtype.str)).encode())
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))  # the bytes, not a copy of them
    return digest.hexdigest()[:16]


def save_checkpoint(state: TrainState, folder: Path, origin: dict[str, Any]) -> None:
    """Replace the checkpoint whole: a kill leaves the old one or the new one, never half of one."""
    part, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_model(state.model, str(part / "model.safetensors"))
    save_model(state.teacher, str(part / "teacher.safetensors"))
    torch.save({"step": state.step, "optimizer": state.optimizer.state_dict()}, part / "state.pt")
    (part / "history.json").write_text(json.dumps(state.history))
    (part / "origin.json").write_text(json.dumps(origin, indent=1) + "\n")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    shutil.rmtree(old, ignore_errors=True)


def resume(state: TrainState, folder: Path, origin: dict[str, Any]) -> None:
    """Take over a checkpoint's state, if there is one. Of a kill between two renames the old one is used.

    Raises:
        RuntimeError: the checkpoint is another training's: in what it differs, and how to start over.
    """
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        os.replace(old, folder)
    if not folder.exists():
        return
    there, differing = folder / "origin.json", ["it was written by an older version"]
    if there.is_file():
        differing = config_differences(json.loads(there.read_text()), json.loads(json.dumps(origin)))
    if differing:
        raise RuntimeError(
            f"{folder} holds another training: {'; '.join(differing)}. Nothing was changed. To start over, delete that "
            "folder, or give this run a name of its own (parameter `run`)"
        )
    rest = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    load_model(state.model, str(folder / "model.safetensors"))
    load_model(state.teacher, str(folder / "teacher.safetensors"))
    state.optimizer.load_state_dict(rest["optimizer"])
    state.step, state.history = rest["step"], json.loads((folder / "history.json").read_text())
    logger.info("resumed at step %d from %s", state.step, folder)
