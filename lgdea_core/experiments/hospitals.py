"""Models that were trained on one hospital's pairs, asked as they are about its test patients and about another's.

Nothing is trained here: every model is one that `limited_pairing` or `ablation` has left.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lgdea_core.config import RunConfig, replace_fields
from lgdea_core.evaluation.harness import evaluate
from lgdea_core.experiments.cells import INTERVAL_RESAMPLES, Asked, Cell
from lgdea_core.experiments.plans import ABLATIONS, COMPARED, CONTROL, SEEDS, WITHOUT_IMAGES, ablation, limited_pairing
from lgdea_core.experiments.worlds import build_world
from lgdea_core.grounding import load
from lgdea_core.paths import git_commit, project_root
from lgdea_core.runs.inputs import Inputs, evaluation_inputs

WORLD = "openi"
"""Where the models were trained."""
HOSPITALS = (WORLD, "nih")
RATIOS = (0.1, 1.0)
VARIANTS = (CONTROL, WITHOUT_IMAGES)
KEPT = {
    "zero-shot": ("auc", "auc_global", "auc_abnormal"),
    "grounding": (
        *("cnr_signed", "cnr_signed_swapped", "cnr_signed_own", "cnr_signed_blind"),
        *("pointing", "pointing_swapped", "pointing_own", "pointing_blind"),
        *("miou_biovil_t", "miou_biovil_t_swapped", "miou_biovil_t_own", "miou_biovil_t_blind"),
    ),
    "retrieval": tuple(
        f"{measure}{beside}"
        for measure, besides in (("precision_at_5", ("", "_chance", "_commonest")), ("recall_at_10", ("", "_chance")))
        for beside in besides
    ),
}
"""task -> metrics of the harness that a row is made of"""


@dataclass(frozen=True, kw_only=True)
class AtHospital(Asked):
    """All of `KEPT`, per finding where there are findings, of one model at one hospital."""

    corpus: str
    """one of `HOSPITALS`"""

    @property
    def key(self) -> dict[str, Any]:
        return self.cell.key | {"corpus": self.corpus}

    @property
    def place(self) -> Hashable:
        return self.corpus, self.cell.config.data.image_size

    def prepare(self) -> None:
        hospital_inputs(self.corpus, self.cell.world, self.cell.config)

    def run(self) -> list[dict[str, Any]]:
        model, processor = load(self.cell.folder / "model", self.device)
        inputs = hospital_inputs(self.corpus, self.cell.world, self.cell.config)
        table = evaluate(model, processor, inputs, resamples=INTERVAL_RESAMPLES, progress=False)
        columns = ("task", "metric", "finding", "estimate", "low", "high", "n", "positives", "warning")
        commit = git_commit(project_root())
        return [
            self.key
            | {name: round(row[name], 4) if isinstance(row[name], float) else row[name] for name in columns}
            | {"commit": commit}
            for row in table.to_dict("records")
            if row["metric"] in KEPT[row["task"]] and row["estimate"] == row["estimate"]
        ]


def hospital_inputs(corpus: str, world: str, config: RunConfig) -> Inputs:
    """The test patients of the world's own split, or every patient of another hospital; no pools."""
    config = replace_fields(config, corpus=corpus)
    found = build_world(corpus, config)
    if corpus != world:  # no model has seen this hospital, so none of its patients is held back
        found = replace(found, studies=found.studies.assign(split="test"))
    return evaluation_inputs(found, config, progress=False)


def trained_cells(
    seeds: Sequence[int], ratios: Sequence[float], methods: Sequence[str], variants: Sequence[str], preset: str
) -> list[Cell]:
    """The trainings whose models are asked: methods as they are, then variants; with all pairs nothing is unpaired."""
    options = {"methods": methods, "world": WORLD, "preset": preset}
    cells = limited_pairing(seeds, ratios, **options)
    for ratio in ratios:
        own = [name for name in variants if ratio < 1 or not ABLATIONS[name].without_relations]
        cells += ablation(seeds, (ratio,), own, **options)
    return cells


def hospitals(
    seeds: Sequence[int] = SEEDS,
    ratios: Sequence[float] = RATIOS,
    methods: Sequence[str] = COMPARED,
    variants: Sequence[str] = VARIANTS,
    corpora: Sequence[str] = HOSPITALS,
    preset: str = "demo",
    device: str | None = None,
) -> list[AtHospital]:
    """Every model at every hospital."""
    cells = trained_cells(seeds, ratios, methods, variants, preset)
    return [AtHospital(cell=cell, corpus=corpus, device=device) for corpus in corpora for cell in cells]
