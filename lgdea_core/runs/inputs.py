"""What the notebooks do before the first interesting line: corpus, crops, pools, and training data of a run."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8

from lgdea_core.batch import RegionData, TrainingData
from lgdea_core.config import DataConfig, RunConfig, find_method
from lgdea_core.crops import CropPool
from lgdea_core.data.corpora import assemble
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.images import ImageStore, load_images
from lgdea_core.data.pairing import Pools, check_leaks, limit_pairs, shuffle_pairs
from lgdea_core.data.regions import crop_boxes
from lgdea_core.evidence.index import index_evidence
from lgdea_core.evidence.triplets import image_tags, sentence_regions, triplets
from lgdea_core.graph import EXACT_ENTRIES
from lgdea_core.model import LGDEAModel, LGDEAProcessor, build_model
from lgdea_core.paths import DATA_VARIABLE, project_root
from lgdea_core.relations import Relations
from lgdea_core.runs.leaks import TrainingPatients
from lgdea_core.training.loop import seeded
from lgdea_core.training.sampling import training_data

logger = logging.getLogger("lgdea")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A run's corpus without unreadable images, its crops, and training's view of it."""

    corpus: Corpus
    store: ImageStore
    pools: Pools

    def crops(self, image_ids: Sequence[str]) -> UInt8[torch.Tensor, "images height width"]:
        """Crops of some images, in that order."""
        return self.pool(image_ids)[:]

    def pool(self, image_ids: Sequence[str]) -> CropPool:
        """The same crops where they lie, to be read as they are needed."""
        rows = np.array([self.store.rows[image_id] for image_id in image_ids], dtype=np.int64)
        return CropPool(stored=self.store.pixels, rows=rows, digests=self.store.digests)

    def reports(self, report_ids: tuple[str, ...]) -> list[str]:
        """Texts of some studies' reports, in that order."""
        return self.corpus.studies.set_index("study_id").loc[list(report_ids), "report"].tolist()


def load_corpus_of(data: DataConfig, seed: int) -> Corpus:
    """The corpus a run names; the phantom is made under data/phantom on first use."""
    root = data.root or os.environ.get(DATA_VARIABLE)
    if data.corpus == "phantom":
        root = project_root() / "data"
    elif not root:
        raise ValueError(f"corpus {data.corpus!r} needs the folder that holds its data; set `data` or {DATA_VARIABLE}")
    return assemble(data.corpus, Path(root), studies=data.studies, image_size=data.image_size, seed=seed)


def load_inputs(config: RunConfig, *, progress: bool = True) -> Inputs:
    """Corpus, crops and pools of a run; see `inputs_of`."""
    return inputs_of(load_corpus_of(config.data, config.seed), config, progress=progress)


def inputs_of(corpus: Corpus, config: RunConfig, *, progress: bool = True) -> Inputs:
    """Crops and pools of a corpus; unreadable images are left out, logged and counted in its exclusions."""
    corpus, store = _readable(corpus, config, progress)
    patients = corpus.studies.groupby("split")["patient_id"].agg(set)
    check_leaks(patients.get("train", set()), patients.get("test", set()) | patients.get("val", set()))
    return Inputs(corpus=corpus, store=store, pools=limit_pairs(corpus, config.data.paired_ratio, config.seed))


def evaluation_inputs(corpus: Corpus, config: RunConfig, *, progress: bool = True) -> Inputs:
    """Crops of a corpus, and no pools: for a model that was trained elsewhere."""
    corpus, store = _readable(corpus, config, progress)
    none = pd.DataFrame(columns=["image_id", "report_id"])
    pools = Pools(image_ids=(), report_ids=(), seed_pairs=none, hidden_pairs=none)
    return Inputs(corpus=corpus, store=store, pools=pools)


def _readable(corpus: Corpus, config: RunConfig, progress: bool) -> tuple[Corpus, ImageStore]:
    store = load_images(corpus, config.data.image_size, project_root() / "data" / "cache", progress)
    if store.excluded:
        readable = corpus.images["image_id"].isin(store.image_ids)
        of_images = {name: getattr(corpus, name) for name in ("boxes", "masks", "regions")}
        kept = {name: table[table["image_id"].isin(store.image_ids)] for name, table in of_images.items()}
        exclusions = corpus.exclusions | {"unreadable image": len(store.excluded)}
        corpus = replace(corpus, images=corpus.images[readable], exclusions=exclusions, **kept)
    return corpus, store


def fresh_model(config: RunConfig, inputs: Inputs) -> tuple[LGDEAModel, LGDEAProcessor]:
    """A model with a run's initial weights, and its processor; the tokenizer learns from training reports only.

    The model knows the patients of the training split from here on.
    """
    with seeded(config.seed):
        model, processor = build_model(config, inputs.reports(inputs.pools.report_ids))
    model.training_patients = TrainingPatients.of(inputs.corpus)
    return model, processor


def prepare_training(
    config: RunConfig, inputs: Inputs, evidence: pd.DataFrame, processor: LGDEAProcessor, *, shuffled: bool = False
) -> TrainingData:
    """Tokenised training data.

    Args:
        config: of the run.
        inputs: corpus and pools.
        evidence: rows of `evidence.parquet`.
        processor: the model's.
        shuffled: join every known pair's image to a wrong report, the control that must fail.
    """
    pools = shuffle_pairs(inputs.pools, config.seed) if shuffled else inputs.pools
    index = index_evidence(evidence, pools.report_ids)
    logger.info(
        "evidence: %d phrases, %d statements; %d reports normal by denial, %d without evidence",
        len(index.phrases), len(index.statements), index.implied_normal, index.without_evidence,
    )  # fmt: skip
    crops, reports = inputs.pool(pools.image_ids), inputs.reports(pools.report_ids)
    data = training_data(crops, reports, pools, index, processor.tokenizer, processor.max_tokens)
    if not find_method(config.method).regions:
        return data
    images = inputs.corpus.images.set_index("image_id").loc[list(pools.image_ids)].reset_index()
    texts = dict(zip(pools.report_ids, reports, strict=True))
    return replace(data, regions=region_data(inputs.corpus.regions, images, evidence, texts))


def region_data(
    regions: pd.DataFrame, images: pd.DataFrame, evidence: pd.DataFrame, reports: dict[str, str]
) -> RegionData:
    """Regions, links and tags of some images and reports.

    Args:
        regions: as `Corpus.regions`.
        images: rows of `Corpus.images`, in the order wanted.
        evidence: rows of `evidence.parquet`; those of other reports are left out.
        reports: study id -> text, in the order wanted.
    """
    own = evidence[evidence["report_id"].isin(reports.keys())]
    return RegionData(
        boxes=crop_boxes(regions, images),
        links=sentence_regions(triplets(own), reports),
        tags=image_tags(own, tuple(reports)),
    )


def hidden_truth(inputs: Inputs, data: TrainingData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True pairs and true findings of the unpaired pools, for measuring relations and nothing else.

    A study without labels counts as one without findings: where many have none, only the pair measures mean much.

    Returns:
        Positions (image, report) of hidden pairs in the unpaired block; findings of its images; of its reports.
    """
    pools, labels = inputs.pools, inputs.corpus.labels
    table = labels.assign(value=labels["value"] == 1).pivot_table("value", "study_id", "finding", aggfunc="max")
    study_of = inputs.corpus.images.set_index("image_id")["study_id"]
    images = [pools.image_ids[row] for row in data.unpaired_images]
    reports = [pools.report_ids[row] for row in data.unpaired_reports]
    image_row = {image_id: row for row, image_id in enumerate(images)}
    report_row = {report_id: row for row, report_id in enumerate(reports)}
    hidden = pools.hidden_pairs
    pairs = np.stack([hidden["image_id"].map(image_row), hidden["report_id"].map(report_row)], axis=1)
    of_images = table.reindex(study_of.loc[images]).fillna(0).to_numpy(dtype=bool)
    of_reports = table.reindex(reports).fillna(0).to_numpy(dtype=bool)
    return pairs.astype(np.int64).reshape(-1, 2), of_images, of_reports


def top_relations(inputs: Inputs, data: TrainingData, relations: Relations) -> pd.DataFrame:
    """Rows of `top_relations.parquet`: the ten best reports of each unpaired image, in large pools of some of them.

    Args:
        inputs: corpus and pools.
        data: of these.
        relations: of the unpaired block.
    """
    image_ids, report_ids = np.array(inputs.pools.image_ids), np.array(inputs.pools.report_ids)
    parts = []
    for images, rows in relations.blocks(EXACT_ENTRIES):
        value, best = (part.cpu().numpy() for part in rows.topk(min(10, relations.reports), dim=1))
        parts.append(
            pd.DataFrame(
                {
                    "image_id": np.repeat(image_ids[data.unpaired_images[images]], value.shape[1]),
                    "report_id": report_ids[data.unpaired_reports[best.ravel()]],
                    "rank": np.tile(np.arange(1, value.shape[1] + 1), len(images)),
                    "relation": value.ravel(),
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    return table[table["relation"] > 0].reset_index(drop=True)
