"""A planted world small enough to train on in seconds: bright squares, and reports that say where they are."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerFast

from lgdea_core.batch import Batch, RegionData, TrainingData
from lgdea_core.config import RunConfig, find_method
from lgdea_core.crops import CropPool
from lgdea_core.data.corpus import Corpus, empty_table
from lgdea_core.data.images import ImageStore
from lgdea_core.data.pairing import Pools
from lgdea_core.evaluation import one_pass
from lgdea_core.evidence.index import index_evidence
from lgdea_core.method import Terms
from lgdea_core.model import LGDEAModel, LGDEAProcessor, build_model
from lgdea_core.runs.inputs import Inputs, region_data
from lgdea_core.training.loop import seeded, train
from lgdea_core.training.refresh import refresh_relations
from lgdea_core.training.sampling import sample_batch, training_data

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

    def __init__(self, studies: int, seed: int = 0, *, denials: bool = False) -> None:
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
        if denials:  # of every finding but the report's own
            rows = [
                {"report_id": f"s{study}", "phrase": f"no {name}", "observation": name, "status": "absent"}
                for study, kind in enumerate(kinds)
                for name in FINDINGS
                if name != FINDINGS[kind]
            ]
            self.evidence = pd.concat([self.evidence, pd.DataFrame(rows)], ignore_index=True)
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
        data = training_data(CropPool.of(self.images), reports, pools, index, tokenizer, 48)
        return replace(data, regions=region_data(self.regions, self.films, self.evidence, texts))

    def model(self, run: RunConfig) -> tuple[LGDEAModel, LGDEAProcessor]:
        """Fresh weights, fixed by the run's seed."""
        with seeded(run.seed):
            return build_model(run, self.reports)

    def train(
        self, run: RunConfig, known: int, folder: Path, *, shuffled: bool = False, **options: object
    ) -> tuple[LGDEAModel, LGDEAProcessor, pd.DataFrame]:
        """A model after its training with the first `known` pairs, its processor, and the history."""
        model, processor = self.model(run)
        data = self.training(known, processor.tokenizer, shuffled=shuffled)
        state, history = train(run, data, model, folder, progress=False, **options)
        return state.model, processor, history


def planted_inputs(
    world: PlantedWorld, splits: Sequence[str] | str = "test", names: Sequence[str] | None = None
) -> Inputs:
    """A world as a corpus with labels, boxes and lungs, each image of a patient of its own; without pools."""
    names = world.films["image_id"].tolist() if names is None else names
    truth = list(zip(names, *np.divmod(world.labels, len(SIDES)), strict=True))
    boxes = [
        (i, i, f"{SIDES[s]} {FINDINGS[k]}", FINDINGS[k], 18.0 - 16 * s, 8.0 * k, 30.0 - 16 * s, 8.0 * k + 8, 32, 32, "")
        for i, k, s in truth
    ]
    rows = {
        "images": [(i, i, f"{i}.png", "PA", 32, 32) for i in names],
        "labels": [(i, name, float(name == FINDINGS[k])) for i, k, _ in truth for name in FINDINGS],
        "boxes": boxes,
        "regions": [(i, i, f"{side} lung", *box, 32, 32) for i in names for side, box in LUNGS.items()],
    }
    tables = {name: pd.DataFrame(own, columns=list(empty_table(name).columns)) for name, own in rows.items()}
    studies = pd.DataFrame({"study_id": names, "patient_id": names, "split": splits, "report": world.reports})
    none = pd.DataFrame(columns=["image_id", "report_id"])
    return Inputs(
        corpus=Corpus(name="toy", root=Path(), studies=studies, **tables),
        store=ImageStore(pixels=world.images.numpy(), image_ids=tuple(names), excluded={}),
        pools=Pools(image_ids=(), report_ids=(), seed_pairs=none, hidden_pairs=none),
    )


CELLS = [(kind, side) for kind in range(len(FINDINGS)) for side in ("left", "right")]
ZONES = ("apical zone", "upper lung zone", "mid lung zone", "lower lung zone")
"""Zone of each finding's row, so that every cell of the picture is a region."""


class RegionWorld:
    """Films with two squares in two of eight regions, and a report with a sentence about each."""

    def __init__(self, studies: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        chosen = [sorted(rng.choice(len(CELLS), size=2, replace=False).tolist()) for _ in range(studies)]
        films, self.reports, rows, regions = [], {}, [], []
        for number, cells in enumerate(chosen):
            name = f"s{number}"
            pictures = [picture(CELLS[cell][0], int(CELLS[cell][1] == "right"), rng) for cell in cells]
            films.append(np.maximum(*pictures))
            places = [f"{CELLS[cell][1]} {ZONES[CELLS[cell][0]]}" for cell in cells]
            self.reports[name] = "FINDINGS: " + " ".join(f"Opacity of the {place}." for place in places)
            for place in places:
                start = self.reports[name].index(place)
                rows.append(
                    (name, "lung opacity", place, place.split()[0], "present", place, start, start + 5, "findings")
                )
            for kind, side in CELLS:
                left = 0 if side == "right" else 16
                regions.append((name, f"{side} {ZONES[kind]}", left, 8 * kind, left + 16, 8 * kind + 8, 32, 32))
        self.crops = torch.from_numpy(np.stack(films))
        columns = ["report_id", "observation", "region", "laterality", "status", "phrase", "start", "end", "section"]
        self.evidence = pd.DataFrame(rows, columns=columns)
        columns = ["image_id", "region", "x_min", "y_min", "x_max", "y_max", "frame_width", "frame_height"]
        self.regions = pd.DataFrame(regions, columns=columns)
        self.films = pd.DataFrame({"image_id": list(self.reports), "width": 32, "height": 32})

    def data(self, regions: pd.DataFrame) -> RegionData:
        return region_data(regions, self.films, self.evidence, self.reports)

    def training(self, processor: LGDEAProcessor, regions: pd.DataFrame) -> TrainingData:
        ids = tuple(self.reports)
        pairs = pd.DataFrame({"image_id": ids, "report_id": ids})
        pools = Pools(image_ids=ids, report_ids=ids, seed_pairs=pairs, hidden_pairs=pairs.iloc[:0])
        texts, index = list(self.reports.values()), index_evidence(self.evidence, ids)
        data = training_data(CropPool.of(self.crops), texts, pools, index, processor.tokenizer, 48)
        return replace(data, regions=self.data(regions))


def setting(
    method: str, phase: str = "pairs", *, denials: bool = False, **changes: object
) -> tuple[LGDEAModel, LGDEAProcessor, Batch]:
    """A fresh model and a batch of its method; made once, handed out as copies."""
    model, processor, batch = _setting(method, phase, denials, tuple(changes.items()))
    return copy.deepcopy(model), processor, batch


@cache
def _setting(
    method: str, phase: str, denials: bool, changes: tuple[tuple[str, object], ...]
) -> tuple[LGDEAModel, LGDEAProcessor, Batch]:
    world, run = PlantedWorld(40, denials=denials), config(method, **dict(changes))
    model, processor = world.model(run)
    data = world.training(24, processor.tokenizer)
    if phase != "relations":
        return model, processor, sample_batch(data, run, 3, phase)
    return model, processor, sample_batch(data, run, 12, phase, refresh_relations(model, data, run))


def terms_of(model: LGDEAModel, batch: Batch, method: str | None = None, **weights: float) -> Terms:
    """The terms of the model's method, or of another, with some weights changed; the model is its own teacher."""
    chosen = model.method if method is None else find_method(method)
    objective = model.objective if method is None else chosen.Config()
    return chosen.terms(model, batch, model, {"ita": 1.0} | vars(objective) | weights)


def tensors_of(part: object, name: str = "batch") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a batch, with those of its method's own part, by name."""
    if isinstance(part, torch.Tensor):
        yield name, part
    names = getattr(part, "_fields", [each.name for each in fields(part)] if isinstance(part, Batch) else [])
    values = {each: getattr(part, each) for each in names}
    for key, value in values.items():
        yield from tensors_of(value, f"{name}.{key}")


def score_rows(
    model: LGDEAModel, images: torch.Tensor, input_ids: torch.Tensor, token_mask: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """`one_pass.score_rows` of a pool of crops by itself."""
    task = one_pass.score_rows(model, range(len(images)), input_ids, token_mask)
    return one_pass.run_task(model, images.__getitem__, task)


def told_apart(model: LGDEAModel, processor: LGDEAProcessor, texts: list[str]) -> np.ndarray:
    """Of 64 unseen images: which of `texts`, one for each label, the method gives the highest score; and the truth."""
    unseen = PlantedWorld(64, seed=1)
    images, columns = score_rows(model, unseen.images, *processor.tokens(texts))
    return np.stack([(images @ columns.T).argmax(axis=1), unseen.labels])


STATEMENTS = [f"{side} {finding}" for finding in FINDINGS for side in SIDES]
"""What the label of a study says."""
