"""ASG's two tasks on held-out studies: which region a sentence speaks of, and which tags an image shows.

What a sentence names and which tags hold comes from the evidence of the study's own report, by the rules that training
uses: these measures say whether training reached held-out studies, not whether the rules are right.
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from lgdea_core.batch import RegionData
from lgdea_core.data.corpus import patients_of
from lgdea_core.evaluation.bootstrap import bootstrap_mean
from lgdea_core.evaluation.classification import auc_table
from lgdea_core.evaluation.harness import METRIC_COLUMNS, MIN_POSITIVES, evaluation_part
from lgdea_core.evidence.sections import report_sentences
from lgdea_core.inference import IMAGES_AT_ONCE, evaluating
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
    data, crops = region_data(part.regions, images, evidence, texts), inputs.crops(tuple(images["image_id"]))
    options = {"resamples": resamples, "seed": seed}
    report_of = images["study_id"].map({study_id: row for row, study_id in enumerate(texts)}).to_numpy()
    patients = patients_of(part, images["study_id"])
    sentences = [report_sentences(text) for text in texts.values()]
    found = region_hits(model, processor, crops, data, report_of, sentences)
    rows = []
    for metric in ("region_at_1", "region_at_1_chance", "named_region_at_1", "named_region_at_1_chance"):
        if len(found):
            interval = bootstrap_mean(found[metric], [patients[row] for row in found["image"]], **options)
            values = {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "n": interval.n}
            rows.append({"task": "regions", "metric": metric, "finding": "all", "positives": interval.n} | values)
    tables = [pd.DataFrame(rows)]
    if hasattr(model, "tag_decoder"):
        scores = tag_logits(model, crops)
        table = auc_table(scores, data.tags[report_of], ASG_TAGS, patients, min_positives=MIN_POSITIVES, **options)
        tables.append(table.rename(columns={"auc": "estimate"}).assign(task="tags", metric="auc"))
    return pd.concat(tables, ignore_index=True).assign(corpus=part.name).reindex(columns=list(METRIC_COLUMNS))


@torch.no_grad()
def region_hits(
    model: LGDEAModel,
    processor: LGDEAProcessor,
    crops: UInt8[Tensor, "images height width"],
    data: RegionData,
    report_of: np.ndarray,
    sentences: list[list[str]],
) -> pd.DataFrame:
    """One row for each image and sentence that names a region in view.

    Args:
        model: whose patches are those it grounds phrases with.
        processor: its own.
        crops: of the images.
        data: regions of the images, links of the reports.
        report_of: report of each image.
        sentences: of each report.

    Returns:
        Columns image (its row), region_at_1, named_region_at_1 and the chance of both.
    """
    device = next(model.parameters()).device
    rows = []
    with evaluating(model):
        for image, report in enumerate(report_of):
            boxes, links = torch.from_numpy(data.boxes[image]), data.links[report]
            seen = boxes.isfinite().all(dim=1).numpy()
            links = links[seen[links[:, 1]]]
            if not len(links):
                continue
            spoken, columns = np.unique(links[:, 0], return_inverse=True)
            named = np.zeros((len(boxes), len(spoken)), dtype=bool)
            named[links[:, 1], columns] = True
            ids, mask = (part.to(device) for part in processor.tokens([sentences[report][row] for row in spoken]))
            texts = sentence_embeds(model, ids, mask)
            patches = model.grounding_patches(model.encode_crops(crops[image : image + 1].to(device)))
            kept = boxes[seen].to(device)
            pooled = pool_regions(patches, kept, torch.zeros(len(kept), dtype=torch.long, device=device))
            hits = retrieval_hits((pooled @ texts.T).cpu().numpy(), named[seen])
            rows.append(hits.assign(image=image))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def retrieval_hits(
    similarity: Float[np.ndarray, "regions sentences"], named: Bool[np.ndarray, "regions sentences"]
) -> pd.DataFrame:
    """For each sentence of one image: whether its best region is one it names, and how likely that is by chance.

    Of equal regions the first counts.

    Args:
        similarity: of every region in view with every sentence.
        named: True where the sentence names the region; every sentence names one.
    """
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


@torch.no_grad()
def tag_logits(model: LGDEAModel, crops: UInt8[Tensor, "images height width"]) -> Float[np.ndarray, "images tags"]:
    """What the tag decoder makes of crops.

    Raises:
        ValueError: the model has no tag decoder.
    """
    if not hasattr(model, "tag_decoder"):
        raise ValueError("tag_logits: the model has no tag decoder; train method asg with irl above 0")
    device, parts = next(model.parameters()).device, []
    with evaluating(model):
        for block in crops.split(IMAGES_AT_ONCE):
            features = model.encode_crops(block.to(device)).patch_features
            parts.append(model.tag_decoder(features).cpu())
    return torch.cat(parts).numpy()
