"""What the notebooks do before the first interesting line: corpus, crops, pools, and training data of a run."""

import logging
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt8
from matplotlib.figure import Figure
from scipy import sparse

from lgdea_core.artifacts import Run, git_commit, project_root
from lgdea_core.config import DataConfig, RunConfig, replace_fields
from lgdea_core.data.batches import TrainingData, standardise, training_data
from lgdea_core.data.corpora import assemble
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.images import ImageStore, boxes_mask, boxes_to_frame, load_images, read_image
from lgdea_core.data.leaks import TrainingPatients
from lgdea_core.data.pairing import Pools, check_leaks, limit_pairs, shuffle_pairs
from lgdea_core.data.regions import RegionData, crop_boxes, shuffle_regions
from lgdea_core.evidence.index import index_evidence
from lgdea_core.evidence.sections import sentence_spans
from lgdea_core.evidence.triplets import image_tags, sentence_regions, triplets
from lgdea_core.figures import save_figure
from lgdea_core.grounding import gradcam, ground
from lgdea_core.inference import IMAGES_AT_ONCE, evaluating
from lgdea_core.model import LGDEAModel, LGDEAProcessor, build_model
from lgdea_core.monitors import truth_monitor
from lgdea_core.training import CHECKPOINT, TrainState, seed_everything, train
from lgdea_core.vocabulary import REGIONS

logger = logging.getLogger("lgdea")

DATA_VARIABLE = "LGDEA_DATA"
"""Environment variable that names the folder with one sub-folder per corpus."""
VARIANTS = ("model", "baseline", "model_shuffled", "baseline_shuffled")
"""What a run trains on one budget: its method and `clip`, and both again on shuffled pairs, which must fail."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A run's corpus without unreadable images, its crops, and training's view of it."""

    corpus: Corpus
    store: ImageStore
    pools: Pools

    def crops(self, image_ids: tuple[str, ...]) -> UInt8[torch.Tensor, "images height width"]:
        """Crops of some images, in that order."""
        return torch.from_numpy(self.store.pixels[[self.store.rows[image_id] for image_id in image_ids]])

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
    seed_everything(config.seed)
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
    crops, reports = inputs.crops(pools.image_ids), inputs.reports(pools.report_ids)
    data = training_data(crops, reports, pools, index, processor.tokenizer, processor.max_tokens)
    if not config.reads_regions:
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


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training and where it stands."""

    state: TrainState
    history: pd.DataFrame
    processor: LGDEAProcessor
    data: TrainingData
    config: RunConfig


def train_variant(
    run: Run,
    inputs: Inputs,
    evidence: pd.DataFrame,
    variant: Literal["model", "baseline", "model_shuffled", "baseline_shuffled"],
    *,
    until: Literal["text", "pairs", "end"] = "end",
    first_graph: sparse.csr_array | None = None,
    progress: bool = True,
) -> Trained:
    """Train one of a run's four models, or go on where it stopped.

    Args:
        run: configuration, and the folder that holds the checkpoints: `training/<variant>_warm` of phases before the
            end, `training/<variant>` of all; the second goes on from the first.
        inputs: corpus and pools.
        evidence: rows of `evidence.parquet`.
        variant: which of `VARIANTS`; where the corpus knows which findings the unpaired studies have, the history
            holds the quality of every variant's relations (`monitors.TRUTH`).
        until: phase after which to stop.
        first_graph: see `training.train`.
        progress: show a bar.
    """
    baseline, shuffled = variant.startswith("baseline"), variant.endswith("shuffled")
    config = replace_fields(run.config, method="clip") if baseline else run.config
    model, processor = fresh_model(config, inputs)
    data = prepare_training(config, inputs, evidence, processor, shuffled=shuffled)
    folder = run.folder / "training" / variant
    if until == "end":
        _continue_from(folder.with_name(f"{variant}_warm") / CHECKPOINT, folder / CHECKPOINT)
    else:
        folder = folder.with_name(f"{variant}_warm")  # its own, so that a rerun never sees a later stage's weights
    monitor = truth_monitor(*hidden_truth(inputs, data)) if config.reads_relations else None
    options = {"first_graph": first_graph, "after_refresh": monitor, "progress": progress}
    state, history = train(config, data, model, folder, until=until, **options)
    return Trained(state=state, history=history, processor=processor, data=data, config=config)


def short_asg_config(config: RunConfig, steps: int) -> RunConfig:
    """Configuration of a short training of `asg` beside a run: ASG's own of the run's preset, on all pairs.

    Args:
        config: of the run; its preset, corpus and seed count.
        steps: optimiser updates, at most the preset's.
    """
    data = {"corpus": config.data.corpus, "root": config.data.root, "paired_ratio": 1.0}
    own = RunConfig.from_preset(config.preset, method="asg", seed=config.seed, **data)
    steps = min(steps, own.train.total_steps)
    return replace_fields(own, text_steps=0, pair_steps=steps, relation_steps=0)


def train_asg(
    run: Run, inputs: Inputs, evidence: pd.DataFrame, *, shuffled_regions: bool = False, progress: bool = True
) -> Trained:
    """Train a run of method `asg`, or go on where it stopped.

    Args:
        run: of that method; `training/asg` in its folder holds the checkpoints.
        inputs: corpus and pools.
        evidence: rows of `evidence.parquet`.
        shuffled_regions: within each film the region boxes change names, the control that must fail.
        progress: show a bar.
    """
    if shuffled_regions:
        inputs = with_shuffled_regions(inputs, run.config.seed)
    model, processor = fresh_model(run.config, inputs)
    data = prepare_training(run.config, inputs, evidence, processor)
    folder = run.folder / "training" / ("asg_shuffled" if shuffled_regions else "asg")
    state, history = train(run.config, data, model, folder, progress=progress)
    return Trained(state=state, history=history, processor=processor, data=data, config=run.config)


def with_shuffled_regions(inputs: Inputs, seed: int) -> Inputs:
    """The inputs with region boxes that changed names within each film."""
    return replace(inputs, corpus=replace(inputs.corpus, regions=shuffle_regions(inputs.corpus.regions, seed)))


def _continue_from(warm: Path, checkpoint: Path) -> None:
    started = checkpoint.exists() or checkpoint.with_name(checkpoint.name + ".old").exists()
    if warm.exists() and not started:
        part = checkpoint.with_name("copied.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(warm, part)
        part.rename(checkpoint)


def save_trained(trained: Trained, folder: Path) -> None:
    """Write model, processor, model card, `run_config.json` and hashes of the training patients into a folder."""
    model = trained.state.model
    model.save_pretrained(folder)
    if model.training_patients is not None:
        model.training_patients.save(folder)
    trained.processor.save_pretrained(folder)
    trained.config.save(folder / "run_config.json")


def keep_figure(run: Run, figure: Figure, name: str, *, patients: bool = False) -> Figure:
    """Save a figure with its origin where the run's figures lie, and hand it back to be shown.

    Args:
        run: says where, and what goes into the metadata.
        figure: what to save.
        name: file name without suffix.
        patients: it shows a report or a film; those of a real corpus stay in the run's folder, which git ignores.
    """
    private = patients and run.config.data.corpus != "phantom"
    folder = run.folder / "figures" if private else run.figures
    origin = {"run": run.name, "commit": git_commit(project_root()), "seed": str(run.config.seed)}
    save_figure(figure, folder / name, origin)
    return figure


class LesionViews(NamedTuple):
    """What the lesion queries answer, and where each looked."""

    tokens: Float[np.ndarray, "images lesions dim"]
    attention: Float[np.ndarray, "images lesions grid grid"]


@torch.no_grad()
def lesion_views(model: LGDEAModel, crops: UInt8[torch.Tensor, "images height width"]) -> LesionViews:
    """Lesion tokens (eq. 3) of some crops with their attention over the patches, which sums to 1 per token."""
    device, parts = next(model.parameters()).device, []
    with evaluating(model):
        for block in crops.split(IMAGES_AT_ONCE):
            images = model.encode_images(standardise(block.unsqueeze(1).float() / 255).to(device))
            parts.append([part.float().cpu() for part in model.lesion_queries(images.patch_features)])
    tokens, attention = (torch.cat(part) for part in zip(*parts, strict=True))
    side = math.isqrt(attention.shape[2])
    return LesionViews(tokens.numpy(), attention.unflatten(2, (side, side)).numpy())


class GroundingSample(NamedTuple):
    """A film, a phrase that is true of it, and where."""

    study_id: str
    phrase: str
    film: Float[np.ndarray, "height width"]
    boxes_xywh: list[tuple[float, ...]]

    @property
    def mask(self) -> Bool[np.ndarray, "height width"]:
        """The boxes as one mask of the film."""
        corners = np.array([(x, y, x + width, y + height) for x, y, width, height in self.boxes_xywh])
        return boxes_mask(corners, *self.film.shape)


def grounding_samples(inputs: Inputs, study_ids: Iterable[str], limit: int) -> list[GroundingSample]:
    """Phrases with boxes of some studies, as many different findings as there are first; films in original pixels."""
    boxes = inputs.corpus.boxes
    boxes = boxes[boxes["study_id"].isin(set(study_ids))]
    chosen = boxes.drop_duplicates(["image_id", "phrase"])
    turn = chosen.groupby("finding", dropna=False).cumcount()
    chosen = chosen.loc[turn.sort_values(kind="stable").index[:limit]]
    samples = []
    for image_id, study_id, phrase in chosen[["image_id", "study_id", "phrase"]].itertuples(index=False):
        film = read_image(inputs.corpus.image_path(image_id))
        own = boxes[(boxes["image_id"] == image_id) & (boxes["phrase"] == phrase)]
        corners = boxes_to_frame(own, *film.shape).tolist()
        samples.append(GroundingSample(study_id, phrase, film, [(a, b, c - a, d - b) for a, b, c, d in corners]))
    return samples


class RegionView(NamedTuple):
    """A film with its regions, and its report's sentences with the regions they name."""

    film: Float[np.ndarray, "height width"]
    boxes_xywh: dict[str, tuple[float, ...]]
    sentences: list[tuple[str, list[str]]]


def region_view(corpus: Corpus, evidence: pd.DataFrame, study_id: str) -> RegionView:
    """What ASG aligns in one study, in pixels of its first film."""
    image_id = corpus.images.loc[corpus.images["study_id"] == study_id, "image_id"].iloc[0]
    film, regions = read_image(corpus.image_path(image_id)), corpus.regions
    regions = regions[regions["image_id"] == image_id]
    corners = boxes_to_frame(regions, *film.shape).tolist()
    boxes = {name: (a, b, c - a, d - b) for name, (a, b, c, d) in zip(regions["region"], corners, strict=True)}
    report = corpus.studies.set_index("study_id").loc[study_id, "report"]
    [links] = sentence_regions(triplets(evidence[evidence["report_id"] == study_id]), {study_id: report})
    sentences: list[tuple[str, list[str]]] = [(report[start:end], []) for start, end in sentence_spans(report)]
    for sentence, region in links.tolist():
        sentences[sentence][1].append(REGIONS[region])
    return RegionView(film, boxes, sentences)


OVERLAYS = ("model", "baseline", "prototypes", "Grad-CAM")
"""Maps of a phrase: cosine in the joint space of the run's method and of `clip`; of the method, the Bhattacharyya
coefficient of assignments, and Grad-CAM."""


def phrase_map(
    models: Mapping[str, tuple[LGDEAModel, LGDEAProcessor]],
    film: Float[np.ndarray, "height width"],
    phrase: str,
    overlay: str,
) -> Float[np.ndarray, "height width"]:
    """One of `OVERLAYS` in the film's pixels; `models` needs "model", and "baseline" for the overlay of that name."""
    if overlay == "Grad-CAM":
        return gradcam(*models["model"], film, phrase)
    if overlay == "prototypes":
        return ground(*models["model"], film, phrase, space="prototypes")
    return ground(*models[overlay], film, phrase)
