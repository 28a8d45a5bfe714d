"""ASG's two tasks on held-out studies: which region a sentence speaks of, and which tags an image shows.

What a sentence names and which tags hold comes from the evidence of the study's own report, by the rules that training
uses: these measures say whether training reached held-out studies, not whether the rules are right.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lgdea_core.batch import RegionData
from lgdea_core.data.corpus import patients_of
from lgdea_core.encoders import ImageEmbeddings
from lgdea_core.evaluation.bootstrap import Bootstrap
from lgdea_core.evaluation.classification import classification_table
from lgdea_core.evaluation.harness import evaluation_part, metric_table
from lgdea_core.evaluation.one_pass import Task, run_task, together
from lgdea_core.evidence.sections import report_sentences
from lgdea_core.inference import Question, finite
from lgdea_core.methods.asg import pool_regions, sentence_embeds
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.runs.inputs import Inputs, region_data
from lgdea_core.runs.leaks import refuse_training_patients
from lgdea_core.vocabulary import ASG_TAGS


def evaluate_regions(
    model: LGDEAModel,
    processor: LGDEAProcessor,
    inputs: Inputs,
    evidence: pd.DataFrame,
    *,
    split: str = "test",
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Region-sentence retrieval and tag AUC of one split, with 95 % intervals over resampled patients.

    Every image is encoded once, in float32, as in `harness.evaluate`.

    `region_at_1`: share of sentences whose best region, out of all regions of the image that are in view, is one that
    the sentence names; `named_region_at_1`: out of those only that some sentence of the report names, which is what
    training contrasts. `..._chance` is the mean share of candidates that the sentence names. Tags: AUC of the decoder
    for every tag with at least `MIN_POSITIVES` positives, and their macro mean; no rows without a decoder.

    Args:
        model: of any method.
        processor: its own.
        inputs: corpus and crops.
        evidence: rows of `evidence.parquet`, those of the split's reports among them.
        split: of the corpus.
        resamples: bootstrap draws.
        seed: fixes the draws.

    Returns:
        Columns `METRIC_COLUMNS`; tasks "regions" and "tags".

    Raises:
        ValueError: the split has no image with a report, or a patient whom the model was trained on.
    """
    part = evaluation_part(inputs.corpus, split)
    refuse_training_patients(model, part)
    reports = part.studies.set_index("study_id")["report"].dropna()
    images = part.images[part.images["study_id"].isin(reports.index)].reset_index(drop=True)
    if images.empty:
        raise ValueError(f"corpus {part.name!r} has no image with a report in split {split!r} to find regions in")
    texts = {study_id: reports[study_id] for study_id in images["study_id"].unique()}
    data = region_data(part.regions, images, evidence, texts)
    bootstrap = Bootstrap(resamples=resamples, seed=seed)
    report_of = images["study_id"].map({study_id: row for row, study_id in enumerate(texts)}).to_numpy()
    patients = patients_of(part, images["study_id"])
    sentences = [report_sentences(text) for text in texts.values()]
    names = tuple(images["image_id"])
    tasks = [region_hits(model, processor, names, data, report_of, sentences)]
    if model.method.regions:
        tasks.append(tag_logits(model, names))
    found, *scores = run_task(model, inputs.crops, together(tasks))
    rows = []
    for metric in ("region_at_1", "region_at_1_chance", "named_region_at_1", "named_region_at_1_chance"):
        if len(found):
            interval = bootstrap.mean(found[metric], [patients[row] for row in found["image"]])
            names = {"task": "regions", "metric": metric, "finding": "all", "positives": interval.n}
            rows.append(names | asdict(interval))
    tables = [pd.DataFrame(rows)]
    for logits in scores:
        table = classification_table(logits, data.tags[report_of].astype(float), ASG_TAGS, patients, bootstrap)
        tables.append(table.assign(task="tags"))
    return metric_table(tables, part.name)


def region_hits(
    model: LGDEAModel,
    processor: LGDEAProcessor,
    images: Sequence[Hashable],
    data: RegionData,
    report_of: np.ndarray,
    sentences: list[list[str]],
) -> Task[pd.DataFrame]:
    """One row for each image and sentence that names a region in view.

    Args:
        model: whose patches are those it grounds phrases with.
        processor: its own.
        images: names.
        data: regions of the images, links of the reports.
        report_of: report of each image.
        sentences: of each report.

    Returns:
        Columns image (its row), region_at_1, named_region_at_1 and the chance of both.
    """
    device = next(model.parameters()).device
    row_of = {name: row for row, name in enumerate(images)}

    def hits(image: int, patches: Float[Tensor, "1 patches dim"]) -> pd.DataFrame:
        report, boxes = report_of[image], torch.from_numpy(data.boxes[image])
        seen = boxes.isfinite().all(dim=1).numpy()
        links = data.links[report][seen[data.links[report][:, 1]]]
        if not len(links):
            return pd.DataFrame()
        spoken, columns = np.unique(links[:, 0], return_inverse=True)
        named = np.zeros((len(boxes), len(spoken)), dtype=bool)
        named[links[:, 1], columns] = True
        tokens = processor.tokens([sentences[report][row] for row in spoken])
        texts = sentence_embeds(model, *(part.to(device) for part in tokens))
        kept = boxes[seen].to(device)
        pooled = pool_regions(patches, kept, torch.zeros(len(kept), dtype=torch.long, device=device))
        return retrieval_hits((pooled @ texts.T).cpu().numpy(), named[seen]).assign(image=image)

    def answer(names: Sequence[Hashable], block: ImageEmbeddings) -> Iterable[pd.DataFrame]:
        patches = model.method.patches(model, block)
        return [hits(row_of[name], patches[at : at + 1]) for at, name in enumerate(names)]

    [answers] = yield [Question(images, answer)]
    return pd.concat(answers, ignore_index=True)


def tag_logits(model: LGDEAModel, images: Sequence[Hashable]) -> Task[Float[np.ndarray, "images tags"]]:
    """What the tag decoder makes of each image."""
    [answers] = yield [Question(images, lambda _, block: model.tag_decoder(block.patch_features).cpu().numpy())]
    return np.stack(answers)


def retrieval_hits(
    similarity: Float[np.ndarray, "regions sentences"], named: Bool[np.ndarray, "regions sentences"]
) -> pd.DataFrame:
    """For each sentence of one image: whether its best region is one it names, and how likely that is by chance.

    Of equal regions the first counts.

    Args:
        similarity: of every region in view with every sentence.
        named: True where the sentence names the region; every sentence names one.
    """
    finite(similarity, "retrieval_hits", "similarities of regions and sentences")
    sentences = np.arange(named.shape[1])
    spoken_of = named.any(axis=1)
    among_named = np.where(spoken_of[:, None], similarity, -np.inf)
    return pd.DataFrame(
        {
            "region_at_1": named[similarity.argmax(axis=0), sentences].astype(float),
            "region_at_1_chance": named.mean(axis=0),
            "named_region_at_1": named[among_named.argmax(axis=0), sentences].astype(float),
            "named_region_at_1_chance": named[spoken_of].mean(axis=0),
        }
    )
