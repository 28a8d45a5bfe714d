"""A planted world small enough to train on in seconds: bright squares, and reports that say where they are."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerFast

from lgdea_core.batch import TrainingData
from lgdea_core.config import RunConfig
from lgdea_core.data.pairing import Pools
from lgdea_core.evidence.index import index_evidence
from lgdea_core.model import LGDEAModel, LGDEAProcessor, build_model
from lgdea_core.runs.inputs import region_data
from lgdea_core.training.loop import seeded
from lgdea_core.training.sampling import training_data

FINDINGS = ("nodule", "pneumonia", "mass", "edema")
SIDES = ("left", "right")
LUNGS = {"right": (0, 0, 16, 32), "left": (16, 0, 32, 32)}


def config(method: str = "lgdea", seed: int = 0, **changes: object) -> RunConfig:
    """A short run at 32 px."""
    values = {"image_size": 32, "batch_size": 16, "log_every": 1, "checkpoint_every": 4, "refresh_every": 4}
    values |= {"text_steps": 4, "pair_steps": 6, "relation_steps": 10, "ramp_steps": 4, "mixed_precision": "no"}
    return RunConfig.from_preset("ci", method=method, seed=seed, **(values | changes))


def picture(kind: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """A film with one square: its row says the finding, its column the side (the patient's right is on the left)."""
    image = rng.normal(90, 12, size=(32, 32))
    top, left = 1 + 8 * kind + rng.integers(2), (18 if side == 0 else 2) + rng.integers(8)
    image[top : top + 5, left : left + 5] += 110
    return image.clip(0, 255).astype(np.uint8)


class PlantedWorld:
    """Images, reports and evidence of studies with one finding each; study `i`'s truth is `labels[i]`."""

    def __init__(self, studies: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(len(FINDINGS) * len(SIDES), size=studies)
        kinds, sides = np.divmod(self.labels, len(SIDES))
        self.images = torch.from_numpy(np.stack([picture(k, s, rng) for k, s in zip(kinds, sides, strict=True)]))
        self.reports = [
            f"FINDINGS: There is a {SIDES[s]} {FINDINGS[k]}. The bones are intact."
            for k, s in zip(kinds, sides, strict=True)
        ]
        phrases = [f"{SIDES[s]} {FINDINGS[k]}" for k, s in zip(kinds, sides, strict=True)]
        self.evidence = pd.DataFrame(
            {
                "report_id": [f"s{i}" for i in range(studies)],
                "phrase": phrases,
                "observation": [FINDINGS[k] for k in kinds],
                "laterality": [SIDES[s] for s in sides],
                "region": None,
                "status": "present",
                "start": [report.index(phrase) for report, phrase in zip(self.reports, phrases, strict=True)],
                "end": [
                    report.index(phrase) + len(phrase) for report, phrase in zip(self.reports, phrases, strict=True)
                ],
                "section": "findings",
            }
        )
        names = [f"s{i}" for i in range(studies)]
        self.films = pd.DataFrame({"image_id": names, "width": 32, "height": 32})
        lungs = [(name, f"{side} lung", *box) for name in names for side, box in LUNGS.items()]
        self.regions = pd.DataFrame(lungs, columns=["image_id", "region", "x_min", "y_min", "x_max", "y_max"])
        self.regions[["frame_width", "frame_height"]] = 32

    def training(self, known: int, tokenizer: PreTrainedTokenizerFast, *, shuffled: bool = False) -> TrainingData:
        """Training data with the first `known` pairs; unpaired reports stand in reversed order."""
        studies = len(self.reports)
        order = [*range(known), *reversed(range(known, studies))]
        partner = np.roll(np.arange(known), 1) if shuffled else np.arange(known)
        pairs = pd.DataFrame({"image_id": [f"s{i}" for i in range(known)], "report_id": [f"s{i}" for i in partner]})
        ids = tuple(f"s{i}" for i in order)
        pools = Pools(
            image_ids=tuple(f"s{i}" for i in range(studies)),
            report_ids=ids,
            seed_pairs=pairs,
            hidden_pairs=pairs.iloc[:0],
        )
        reports = [self.reports[i] for i in order]
        index, texts = index_evidence(self.evidence, ids), dict(zip(ids, reports, strict=True))
        data = training_data(self.images, reports, pools, index, tokenizer, 48)
        return replace(data, regions=region_data(self.regions, self.films, self.evidence, texts))

    def model(self, run: RunConfig) -> tuple[LGDEAModel, LGDEAProcessor]:
        """Fresh weights, fixed by the run's seed."""
        with seeded(run.seed):
            return build_model(run, self.reports)
