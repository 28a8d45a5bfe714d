"""A training's newest resumable state: a folder that is replaced whole, and never by another training's."""

import hashlib
import json
import logging
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model

from lgdea_core.batch import TrainingData
from lgdea_core.config import RunConfig, config_differences
from lgdea_core.model import LGDEAModel
from lgdea_core.paths import checksum, git_commit, project_root, read_json, recover, replacing
from lgdea_core.training.sampling import DRAW_VERSION

logger = logging.getLogger("lgdea")

CHECKPOINT = "checkpoint"
"""Name of the folder, in a training's own."""
CIRCUMSTANCES_FILE = "circumstances.json"
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

    Where the data lie, and the preset's name, do not matter. The data, and published weights in a folder, are in it as
    hashes. Not in it: the number of processes, and relations that are given from outside (`loop.train`'s `first_graph`,
    `fixed_graph`).
    """
    settings = asdict(config)
    del settings["data"]["root"], settings["preset"]
    index = data.evidence
    matrices = (index.report_phrases, index.report_statements, index.report_findings)
    parts: dict[str, Iterable[Any]] = {
        "images": [data.images.digest()],
        "reports": [repr((data.sentences, index.report_ids)), data.impressions],
        "phrases": [repr((index.phrases, index.statements)), data.phrase_tokens.numpy(), data.phrase_mask.numpy()],
        "evidence": [array for matrix in matrices for array in (matrix.indptr, matrix.indices, matrix.data)],
        "pairs": [data.seed_pairs],
    }
    if data.regions is not None:
        parts["regions"] = [data.regions.boxes, data.regions.tags, *data.regions.links]
    for name in ("model_start", "image_tower", "text_tower"):
        folder = getattr(config.model, name)
        if folder and Path(folder).is_dir():
            parts[name] = map(checksum, sorted(Path(folder).glob("*.safetensors")))
    versions = {"checkpoint": FORMAT_VERSION, "draws": DRAW_VERSION}
    return {"format": versions, "configuration": settings, "data": {name: _hash(part) for name, part in parts.items()}}


def _hash(parts: Iterable[str | np.ndarray]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        else:
            digest.update(repr((part.shape, part.dtype.str)).encode())
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))  # mostly without a copy
    return digest.hexdigest()[:16]


def training_circumstances(config: RunConfig, processes: int, device: torch.device, fixed: bool) -> dict[str, Any]:
    """What may change between two parts of a training, by name: its numbers are then not those of one in one go.

    Args:
        config: of the run.
        processes: how many train.
        device: of this one.
        fixed: the relations are given from outside (`loop.train`'s `fixed_graph`).
    """
    return {
        "processes": processes,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "fixed relations": fixed,
        "preset": config.preset,
        "data folder": config.data.root,
        "code": git_commit(project_root()),
        "packages": {name: metadata.version(name) for name in ("torch", "transformers", "numpy")},
    }


def save_checkpoint(state: TrainState, folder: Path, origin: dict[str, Any], circumstances: dict[str, Any]) -> None:
    """Replace the checkpoint whole: a kill or a full disk leaves the old one or the new one, never half of one.

    Args:
        state: of the training.
        folder: of the checkpoint.
        origin: of `training_origin`.
        circumstances: of `training_circumstances`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as part:
        part.mkdir()
        save_model(state.model, str(part / "model.safetensors"))
        save_model(state.teacher, str(part / "teacher.safetensors"))
        torch.save({"step": state.step, "optimizer": state.optimizer.state_dict()}, part / "state.pt")
        (part / "history.json").write_text(json.dumps(state.history))
        (part / "origin.json").write_text(json.dumps(origin, indent=1) + "\n")
        (part / CIRCUMSTANCES_FILE).write_text(json.dumps(circumstances, indent=1) + "\n")


def resume(state: TrainState, folder: Path, origin: dict[str, Any]) -> None:
    """Take over a checkpoint's state, if there is one. Of a kill between two renames the old one is used.

    Raises:
        RuntimeError: the checkpoint is another training's: in what it differs, and how to start over.
    """
    recover(folder)
    if not folder.exists():
        return
    there, differing = folder / "origin.json", ["it was written by an older version"]
    if there.is_file():
        differing = config_differences(read_json(there), json.loads(json.dumps(origin)))
    if differing:
        raise RuntimeError(
            f"{folder} holds another training: {'; '.join(differing)}. Nothing was changed. To start over, delete that "
            "folder, or give this run a name of its own (parameter `run`)"
        )
    rest = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    load_model(state.model, str(folder / "model.safetensors"))
    load_model(state.teacher, str(folder / "teacher.safetensors"))
    # Names as the one object that literals are: pickle writes a repeated object short, and files are to be the same.
    moments = rest["optimizer"]["state"]
    rest["optimizer"]["state"] = {row: {sys.intern(name): x for name, x in own.items()} for row, own in moments.items()}
    state.optimizer.load_state_dict(rest["optimizer"])
    state.step, state.history = rest["step"], read_json(folder / "history.json")
    logger.info("resumed at step %d from %s", state.step, folder)


def say_differences(folder: Path, circumstances: dict[str, Any]) -> None:
    """Warn in the log of every circumstance that is another than a checkpoint, if there is one, was taken under."""
    if not folder.exists():
        return
    differing, before = [f"{CIRCUMSTANCES_FILE} is missing"], folder / CIRCUMSTANCES_FILE
    if before.is_file():
        differing = config_differences(read_json(before), circumstances)
    if differing:
        logger.warning("%s goes on under other circumstances: %s", folder, "; ".join(differing))
