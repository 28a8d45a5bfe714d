"""How notebooks show figures and tables: drawn and kept where there is something to draw, one of many, with dials."""

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any, NamedTuple

import ipywidgets
import numpy as np
import pandas as pd
import torch
from IPython.display import HTML, Markdown
from jaxtyping import Float
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from lgdea_core.batch import TrainingData
from lgdea_core.config import GraphConfig
from lgdea_core.crops import crop_image
from lgdea_core.data.images import read_image
from lgdea_core.figures.graphs import figure_propagation_steps
from lgdea_core.figures.grounding import NONNEGATIVE, GroundingRow, figure_hero, figure_phrase_grounding
from lgdea_core.figures.save import keep_figure
from lgdea_core.figures.views import GroundingSample, phrase_map
from lgdea_core.figures.widgets import LONGEST_WALK, SeedSpread, _explorer
from lgdea_core.graph import symmetric_normalize
from lgdea_core.grounding import patch_maps, phrase_embeds
from lgdea_core.inference import evaluating, full_precision
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.runs.artifacts import Run
from lgdea_core.runs.inputs import Inputs
from lgdea_core.training.refresh import EvidenceView, build_graphs

SOME = 30
"""images, and reports, without a seed that a picture of relations shows"""


def keep_drawn(
    run: Run, name: str, draw: Callable[..., Figure], data: Sized, *arguments: Any, patients: bool = False
) -> Figure | Markdown:
    """Draw some data and keep the figure, see `keep_figure`; where a corpus has none of it, say so.

    Args:
        run: says where.
        name: of the figure's file.
        draw: `draw(data, *arguments)` makes the figure.
        data: what may be empty.
        arguments: the rest of what `draw` takes.
        patients: see `keep_figure`.
    """
    if not len(data):
        return Markdown(f"*{name}: this corpus and these tables have nothing to draw here.*")
    return keep_figure(run, draw(data, *arguments), name, patients=patients)


def one_of(figures: Mapping[str, Figure]) -> ipywidgets.VBox | Markdown:
    """A menu over figures that would fill pages."""
    if not figures:
        return Markdown("*No committed rows: nothing to draw yet.*")
    names = ipywidgets.Dropdown(options=list(figures), description="figure")
    return _explorer(lambda name: figures[name], name=names)


def folded_table(table: pd.DataFrame, title: str) -> HTML:
    """A wide table behind its title: a click unfolds it."""
    return HTML(f"<details><summary>{title} ({len(table)} rows)</summary>{table.to_html(na_rep='')}</details>")


def any_sample(inputs: Inputs, samples: Sequence[GroundingSample]) -> GroundingSample:
    """The first sample; where a corpus has no boxes, a film of its test split with a phrase that may be true of it."""
    if samples:
        return samples[0]
    row = inputs.corpus.split("test").images.iloc[0]
    film = read_image(inputs.corpus.image_path(row["image_id"]))
    return GroundingSample(row["study_id"], "small left pleural effusion", film, [])


def map_rows(
    samples: Sequence[GroundingSample],
    models: Mapping[str, tuple[LGDEAModel, LGDEAProcessor]],
    overlays: Sequence[str],
) -> list[GroundingRow]:
    """Maps of each sample's phrase on its film, for `figure_grounding_grid`.

    Args:
        samples: films and phrases.
        models: by name.
        overlays: as in `views.phrase_map`; those of a model that is not there are left out.
    """
    overlays = [name for name in overlays if name in models or name in NONNEGATIVE]
    return [
        GroundingRow(
            image=one.shown,
            maps={overlay: phrase_map(models, one.film, one.phrase, overlay) for overlay in overlays},
            boxes_xywh=one.boxes_xywh,
            phrase=one.phrase,
        )
        for one in samples
    ]


class PatchView(NamedTuple):
    """A phrase and the patches of a film where they meet."""

    patch_embeds: Float[np.ndarray, "patches dim"]
    phrase_embed: Float[np.ndarray, "dim"]
    grid: Float[np.ndarray, "grid grid"]
    """what `grounding.patch_maps` makes of them, not smoothed"""


def patch_view(models: Mapping[str, tuple[LGDEAModel, LGDEAProcessor]], sample: GroundingSample) -> PatchView:
    """By "model", or by "baseline" where a decoder takes the place of cosines."""
    model, processor = models["baseline" if models["model"][0].method.decodes else "model"]
    crops = torch.from_numpy(crop_image(sample.film, processor.image_size)).unsqueeze(0)
    [phrase] = phrase_embeds(model, processor, [sample.phrase])
    with torch.no_grad(), full_precision(model), evaluating(model):
        [patches] = model.method.patches(model, model.encode_crops(crops.to(phrase.device)))
    grid = patch_maps(model, processor, crops, [sample.phrase], smoothing=0.0)[0, 0]
    return PatchView(patches.cpu().numpy(), phrase.cpu().numpy(), grid)


def draw_map(rows: Sequence[GroundingRow], caption: str) -> Figure:
    """The first map of the first row by itself."""
    [found, *_] = rows[0].maps.values()
    return figure_phrase_grounding(rows[0].image, found, rows[0].boxes_xywh, rows[0].phrase, caption)


def draw_hero(
    rows: Sequence[GroundingRow], studies: pd.DataFrame, evidence: pd.DataFrame, study_id: str, caption: str
) -> Figure:
    """`figure_hero` of one study, with the first map of each row."""
    report = studies.set_index("study_id").loc[study_id, "report"]
    return figure_hero(report, evidence[evidence["report_id"] == study_id], rows, next(iter(rows[0].maps)), caption)


def projected(fitted: np.ndarray, *parts: np.ndarray) -> tuple[list[np.ndarray], float]:
    """Parts in the plane of the first two principal components of some points, and its share of their variance."""
    plane = PCA(2).fit(fitted)
    return [plane.transform(part) for part in parts], float(plane.explained_variance_ratio_.sum())


def seed_spread(view: EvidenceView, data: TrainingData, config: GraphConfig) -> SeedSpread:
    """Both graphs with their seeds, to be walked step by step; points are principal components of the evidence."""
    points = [PCA(2).fit_transform(np.sqrt(part)) for part in (view.image_evidence, view.report_evidence)]
    affinities = build_graphs(view, config)
    walks = [symmetric_normalize(affinity, config.self_loop).astype(np.float64) for affinity in affinities]
    return SeedSpread(
        image_points=points[0], report_points=points[1], seed_pairs=data.seed_pairs,
        image_propagator=walks[0], report_propagator=walks[1], alpha=config.alpha,
    )  # fmt: skip


def draw_blocks(spread: SeedSpread, data: TrainingData, steps: list[int], caption: str = "") -> Figure:
    """Relations of some images and reports, those with a seed first, after some numbers of steps (eq. 14)."""
    seeds = data.seed_pairs[: SOME // 2]
    images = np.concatenate([np.unique(seeds[:, 0]), data.unpaired_images[:SOME]])
    reports = np.concatenate([np.unique(seeds[:, 1]), data.unpaired_reports[:SOME]])
    blocks = spread.block(images, reports, max(steps))
    told = f"{len(images)} images, {len(reports)} reports, alpha {spread.alpha:g}"
    return figure_propagation_steps([blocks[step] for step in steps], steps, "; ".join(filter(None, [told, caption])))


def quality_rows(quality: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """What `figure_relation_quality` draws of a `lesson.quality_table`: three measures, each with its chance."""
    base = next(iter(quality.values()), {}).get("base_rate")
    chances = {"label_auc": 0.5, "pair_lift": 1.0, "precision_at_10": base}
    rows = [
        {"relations": name, "measure": measure, "value": found[measure], "chance": chance}
        for measure, chance in chances.items()
        for name, found in quality.items()
        if found[measure] is not None
    ]
    return pd.DataFrame(rows)


def propagation_dials(view: EvidenceView, data: TrainingData, config: GraphConfig) -> ipywidgets.VBox:
    """Turn alpha, k and the number of steps: graphs and relations are computed anew."""

    def draw(alpha: float, neighbours: int, steps: int) -> Figure:
        changed = replace(config, alpha=alpha, neighbours=neighbours)
        return draw_blocks(seed_spread(view, data, changed), data, [0, steps], f"k {neighbours}")

    style = {"continuous_update": False}
    return _explorer(
        draw,
        alpha=ipywidgets.FloatSlider(value=config.alpha, min=0.05, max=0.95, step=0.05, description="alpha", **style),
        neighbours=ipywidgets.IntSlider(value=config.neighbours, min=1, max=30, description="k", **style),
        steps=ipywidgets.IntSlider(value=4, min=1, max=LONGEST_WALK, description="steps", **style),
    )
