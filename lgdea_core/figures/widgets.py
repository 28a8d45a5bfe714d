"""Explorers for the notebooks: choose something and see its figure, the same one that a headless run shows once.

Every explorer is controls over one picture, redrawn by a `draw_*` function that the notebook also calls by itself. A
line between them says that it is busy, or why there is no new picture: then the last one stays.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import sparse

from lgdea_core.batch import TrainingData
from lgdea_core.data.images import read_image
from lgdea_core.evidence.extract import accept_findings, make_extractor
from lgdea_core.figures.evidence import figure_extractors, figure_report_evidence
from lgdea_core.figures.graphs import figure_seed_reach
from lgdea_core.figures.grounding import GroundingRow, figure_grounding_grid
from lgdea_core.figures.names import TERM_NAMES, label_of
from lgdea_core.figures.prototypes import figure_prototype_neighbours
from lgdea_core.figures.related import Related, figure_related_reports
from lgdea_core.figures.style import SCREEN_DPI, Figure, listed
from lgdea_core.figures.training import figure_history
from lgdea_core.figures.views import OVERLAYS, GroundingSample, phrase_map, unread_words
from lgdea_core.finding import EVIDENCE_COLUMNS
from lgdea_core.graph import seed_matrix
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.relations import Relations
from lgdea_core.runs.inputs import Inputs, hidden_truth

NEAREST_PHRASES = 8
NEAREST_LESIONS = 6
NEAREST_REPORTS = 3
MOST_IMAGES = 100
"""offered by a menu"""
LONGEST_WALK = 6
"""Steps a seed is followed for."""
SHARPNESS = 1.25
"""Pixels of a picture for each of the page, where screens have more."""
BUSY = "computing …"
FORM_COLUMNS = 88
"""characters a line of a pasted report"""
EXAMPLE_REPORT = (
    "FINDINGS: The heart is mildly enlarged. There is a small left pleural effusion with adjacent basilar atelectasis; "
    "pneumonia cannot be excluded. No pneumothorax.\nIMPRESSION: Mild cardiomegaly and small left effusion."
)
"""An invented report: what the form holds until another one is pasted."""


@dataclass(frozen=True, kw_only=True)
class EvidenceSpace:
    """Prototypes with all that may lie near them."""

    phrases: Sequence[str]
    phrase_embeds: Float[np.ndarray, "phrases dim"]
    prototype_points: Float[np.ndarray, "prototypes dim"]
    lesion_tokens: Float[np.ndarray, "images lesions dim"]
    attention: Float[np.ndarray, "images lesions grid grid"]
    crops: Float[np.ndarray, "images height width"]
    """grey levels in [0, 1]"""


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """Two graphs and the seeds that spread over them."""

    image_points: Float[np.ndarray, "images 2"]
    report_points: Float[np.ndarray, "reports 2"]
    seed_pairs: Int[np.ndarray, "pairs 2"]
    image_propagator: sparse.csr_array
    report_propagator: sparse.csr_array
    alpha: float

    def walk(self, seed: int, steps: int = LONGEST_WALK) -> list[tuple[np.ndarray, np.ndarray]]:
        """Share of one seed's relations on every image and every report after 0, 1, ... steps (eq. 14)."""
        image, report = self.seed_pairs[seed]
        on_images, on_reports = np.zeros(len(self.image_points)), np.zeros(len(self.report_points))
        on_images[image] = on_reports[report] = 1
        of_images, of_reports = [], []
        for _ in range(steps + 1):
            of_images.append(on_images * on_reports.sum())
            of_reports.append(on_reports * on_images.sum())
            on_images, on_reports = self.image_propagator @ on_images, self.report_propagator @ on_reports
        walks = zip(_after_steps(of_images, self.alpha), _after_steps(of_reports, self.alpha), strict=True)
        return [(images / images.sum(), reports / reports.sum()) for images, reports in walks]

    def block(
        self, images: Int[np.ndarray, "rows"], reports: Int[np.ndarray, "cols"], steps: int = LONGEST_WALK
    ) -> list[Float[np.ndarray, "rows cols"]]:
        """Relations of some images with some reports after 0, 1, ... steps, without the rest of `P` (eq. 14)."""
        seeds = seed_matrix(self.seed_pairs, len(self.image_points), len(self.report_points), np.float64)
        rows, cols = np.zeros((len(self.image_points), len(images))), np.zeros((len(self.report_points), len(reports)))
        rows[images, np.arange(len(images))] = cols[reports, np.arange(len(reports))] = 1
        walked = []
        for _ in range(steps + 1):
            walked.append(rows.T @ (seeds @ cols))
            rows, cols = self.image_propagator @ rows, self.report_propagator @ cols
        return _after_steps(walked, self.alpha)


def _after_steps(walked: Sequence[np.ndarray], alpha: float) -> list[np.ndarray]:
    """`P[t]` of every t from `G[u] = S_I^u Y S_R^u`: (1 - alpha) sum_{u<t} alpha^u G[u] + alpha^t G[t]."""
    settled, totals = np.zeros_like(walked[0]), []
    for step, walk in enumerate(walked):
        totals.append(settled + alpha**step * walk)
        settled = settled + (1 - alpha) * alpha**step * walk
    return totals


def draw_report(studies: pd.DataFrame, evidence: pd.DataFrame, study_id: str) -> Figure:
    """One study's report with its evidence (eq. 1)."""
    report = studies.loc[studies["study_id"] == study_id, "report"].iloc[0]
    found = evidence[evidence["report_id"] == study_id]
    return figure_report_evidence(report, found, caption=f"study {study_id}, {len(found)} statements")


def draw_extractors(studies: pd.DataFrame, readings: Mapping[str, pd.DataFrame], study_id: str) -> Figure:
    """One study's report as several extractors read it; `readings` holds the evidence table of each by name."""
    report = studies.loc[studies["study_id"] == study_id, "report"].iloc[0]
    found = {name: evidence[evidence["report_id"] == study_id] for name, evidence in readings.items()}
    return figure_extractors(report, found, caption=f"study {study_id}")


def draw_prototype(space: EvidenceSpace, prototype: int, title: str = "") -> Figure:
    """What lies nearest to one prototype: phrases, and of each image at most one lesion token."""
    point = space.prototype_points[prototype] / np.linalg.norm(space.prototype_points[prototype])
    similarity = space.phrase_embeds @ point
    near = np.argsort(-similarity, kind="stable")[:NEAREST_PHRASES]
    tokens = space.lesion_tokens @ point
    best = tokens.argmax(axis=1)
    images = np.argsort(-tokens.max(axis=1), kind="stable")[:NEAREST_LESIONS]
    return figure_prototype_neighbours(
        [space.phrases[row] for row in near],
        similarity[near],
        [space.crops[image] for image in images],
        [space.attention[image, best[image]] for image in images],
        tokens[images, best[images]],
        title=title or f"prototype {prototype}",
        caption=f"nearest of {len(similarity)} phrases and {tokens.size} lesion tokens",
    )


def draw_seed(spread: SeedSpread, seed: int, step: int) -> Figure:
    """What one seed has reached after some steps (eq. 14)."""
    image_mass, report_mass = spread.walk(seed)[step]
    image, report = spread.seed_pairs[seed].tolist()
    return figure_seed_reach(
        spread.image_points, spread.report_points, image_mass, report_mass, (image, report), step,
        caption=f"seed {seed} of {len(spread.seed_pairs)}",
    )  # fmt: skip


def draw_overlay(
    models: Mapping[str, tuple[LGDEAModel, LGDEAProcessor]], sample: GroundingSample, phrase: str, overlay: str
) -> Figure:
    """One film with one of `views.OVERLAYS`; boxes only where the phrase is the annotated one.

    Words that the model has never read stand in the caption.

    Raises:
        ValueError: the phrase is empty, or the model has never read a word of it.
    """
    words = re.findall(r"\w+", phrase)
    unread = unread_words(models["baseline" if overlay == "baseline" else "model"][1], phrase)
    if phrase != sample.phrase and len(unread) == len(words):
        reason = f"The model has never read {listed([f'{word!r}' for word in unread])}: a map would mean nothing."
        raise ValueError(reason if words else "The phrase is empty: write what to look for.")
    boxes = sample.boxes_xywh if phrase == sample.phrase else []
    maps = {overlay: phrase_map(models, sample.film, phrase, overlay)}
    row = GroundingRow(image=sample.shown, maps=maps, boxes_xywh=boxes, phrase=phrase)
    note = f"; never read by the model: {', '.join(unread)}" if unread else ""
    return figure_grounding_grid([row], f"study {sample.study_id}{note}", models["model"][0].config.method)


def draw_related(
    inputs: Inputs, data: TrainingData, evidence: pd.DataFrame, relations: Relations, image: int
) -> Figure:
    """The reports most related to one unpaired image, beside the truth where the corpus hides it.

    Args:
        inputs: of the run.
        data: what it trains on.
        evidence: rows of `evidence.parquet`.
        relations: of the unpaired images with the unpaired reports.
        image: row of the relations.

    Raises:
        ValueError: the image has no relation.
    """
    row = relations.rows(np.array([image]))[0].cpu().numpy()
    if row.max() <= 0:
        raise ValueError("No relation has reached this image: training has no target for it.")
    image_id = inputs.pools.image_ids[data.unpaired_images[image]]
    report_ids = [inputs.pools.report_ids[place] for place in data.unpaired_reports]
    pairs, of_images, of_reports = hidden_truth(inputs, data)
    texts = inputs.corpus.studies.set_index("study_id")["report"]

    def told(report: int, title: str) -> Related:
        found = evidence[evidence["report_id"] == report_ids[report]]
        return Related(texts[report_ids[report]], found, title)

    related = []
    for report in np.argsort(-row, kind="stable")[: min(NEAREST_REPORTS, np.count_nonzero(row))].tolist():
        title = f"relation {row[report] / row.sum():.2%} of the image's"
        if of_reports.any():
            same = (of_images[image] == of_reports[report]).all()
            title += "; the same findings" if same else "; other findings"
        related.append(told(report, title))
    own = [report for place, report in pairs.tolist() if place == image]
    truth = told(own[0], f"its own, hidden: {row[own[0]] / row.sum():.2%}") if own else None
    film = read_image(inputs.corpus.image_path(image_id))
    return figure_related_reports(film, related, truth, f"image {image_id}; {len(row)} unpaired reports")


def evidence_explorer(studies: pd.DataFrame, evidence: pd.DataFrame, study_ids: Sequence[str]) -> ipywidgets.VBox:
    """Choose a report and see its evidence."""
    chosen = ipywidgets.Dropdown(options=list(study_ids), description="report")
    return _explorer(lambda study_id: draw_report(studies, evidence, study_id), study_id=chosen)


def evidence_form(extractor: str = "lexicon", report: str = EXAMPLE_REPORT) -> ipywidgets.VBox:
    """Paste a report, press the button, and see its evidence as a picture and as a table.

    Rules keep nothing of it; a language model's answer goes to its store.

    Args:
        extractor: see `make_extractor`.
        report: text to begin with.
    """
    model = make_extractor(extractor)
    text = ipywidgets.Textarea(value=report, rows=6, layout=ipywidgets.Layout(width="100%"))
    button = ipywidgets.Button(description="extract evidence")
    picture, table, status = _picture(), ipywidgets.HTML(), ipywidgets.Label()

    def read() -> None:
        found = accept_findings(text.value, model.extract([text.value])[0], {})
        evidence = pd.DataFrame([finding.model_dump() for finding in found], columns=list(EVIDENCE_COLUMNS[1:]))
        _show(picture, figure_extractors(text.value, {extractor: evidence}, FORM_COLUMNS))
        shown = evidence.assign(phrase=evidence["phrase"].str.split().str.join(" ")).fillna("")
        table.value = shown.to_html(index=False, escape=True)  # what was pasted is text and nothing else

    button.on_click(lambda _: _answer(read, status))
    read()
    return ipywidgets.VBox([text, button, status, picture, table])


def prototype_explorer(space: EvidenceSpace, names: Sequence[str]) -> ipywidgets.VBox:
    """Choose a prototype, by name, and see the phrases and lesion tokens nearest to it."""
    options = [(f"{number}: {name}", number) for number, name in enumerate(names)]
    chosen = ipywidgets.Dropdown(options=options, description="prototype")
    return _explorer(
        lambda prototype: draw_prototype(space, prototype, f"prototype {prototype}: {names[prototype]}"),
        prototype=chosen,
    )


def propagation_explorer(spread: SeedSpread) -> ipywidgets.VBox:
    """Choose a propagation step and a seed, and see which images and reports the seed reaches."""
    options = list(range(len(spread.seed_pairs)))
    return _explorer(
        lambda seed, step: draw_seed(spread, seed, step),
        seed=ipywidgets.Dropdown(options=options, description="seed"),
        step=ipywidgets.IntSlider(value=1, min=0, max=LONGEST_WALK, description="step", continuous_update=False),
    )


def history_explorer(history: pd.DataFrame, terms: Sequence[str], method: str = "lgdea") -> ipywidgets.VBox:
    """Choose a term or monitor, and the variants to compare; `method` is the run's, which its variant "model" is."""
    variants = [(label_of(name, method), name) for name in dict.fromkeys(history["variant"])]
    return _explorer(
        lambda term, chosen: figure_history(history[history["variant"].isin(chosen)], [term], method=method),
        term=ipywidgets.Dropdown(options=[(TERM_NAMES.get(name, name), name) for name in terms], description="term"),
        chosen=ipywidgets.SelectMultiple(
            options=variants, value=[name for _, name in variants], description="variants"
        ),
    )


def relation_explorer(
    inputs: Inputs, data: TrainingData, evidence: pd.DataFrame, relations: Relations
) -> ipywidgets.VBox:
    """Choose an unpaired image and see the reports most related to it, with the truth where it is known."""
    first = np.arange(min(relations.images, MOST_IMAGES))
    reached = first[relations.rows(first).sum(dim=1).cpu().numpy() > 0].tolist()
    options = [(inputs.pools.image_ids[data.unpaired_images[row]], row) for row in reached]
    return _explorer(
        lambda image: draw_related(inputs, data, evidence, relations, image),
        image=ipywidgets.Dropdown(options=options, description="image"),
    )


def grounding_explorer(
    models: Mapping[str, tuple[LGDEAModel, LGDEAProcessor]], samples: Sequence[GroundingSample]
) -> ipywidgets.VBox:
    """Choose a study, a phrase (one of the list, or any other words) and an overlay."""
    phrases = list(dict.fromkeys(sample.phrase for sample in samples))
    options = [(f"{sample.study_id}: {sample.phrase}", number) for number, sample in enumerate(samples)]
    study = ipywidgets.Dropdown(options=options, description="study")
    phrase = ipywidgets.Combobox(
        value=phrases[0], options=phrases, description="phrase", ensure_option=False, continuous_update=False
    )
    method = models["model"][0].config.method
    names = [(label_of(name, method), name) for name in OVERLAYS if name in models or name != "baseline"]
    study.observe(lambda change: setattr(phrase, "value", samples[change.new].phrase), names="value")
    return _explorer(
        lambda study, phrase, overlay: draw_overlay(models, samples[study], phrase.strip(), overlay),
        study=study,
        phrase=phrase,
        overlay=ipywidgets.Dropdown(options=names, description="overlay"),
    )


def _explorer(draw: Callable[..., Figure], **controls: Any) -> ipywidgets.VBox:
    """Controls over a picture that is redrawn when one of them changes; `draw` gets their values by name."""
    picture, status = _picture(), ipywidgets.Label()

    def redraw() -> None:
        _show(picture, draw(**{name: control.value for name, control in controls.items()}))

    for control in controls.values():
        control.observe(lambda _: _answer(redraw, status), names="value")
    redraw()  # the first picture must be: a failure ends the notebook
    return ipywidgets.VBox([ipywidgets.HBox(list(controls.values())), status, picture])


def _answer(draw: Callable[[], None], status: ipywidgets.Label) -> None:
    """Draw, and say so meanwhile; where that fails say why, as text, and leave the last picture."""
    status.value = BUSY
    try:
        draw()
    except ValueError as error:
        status.value = str(error)
    except Exception as error:  # of any kind: a reader's next choice must still be answered
        status.value = f"{type(error).__name__}: {error}"
    else:
        status.value = ""


def _picture() -> ipywidgets.Image:
    return ipywidgets.Image(format="png", layout={"align_self": "flex-start", "max_width": "100%", "height": "auto"})


def _show(picture: ipywidgets.Image, figure: Figure) -> None:
    """A figure at its natural size."""
    content, shown = figure.picture(SHARPNESS * SCREEN_DPI)
    picture.layout.width = f"{shown['width']}px"
    picture.value = content
