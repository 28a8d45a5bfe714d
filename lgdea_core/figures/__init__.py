"""Every figure: arrays in, a matplotlib Figure out. Files and what they draw:

style        sizes, colours, captions           training     loss terms and monitors
names        methods and measures in words      comparison   models of one run against each other
save         figures as files                   tables       the committed tables, means over seeds
evidence     reports with their evidence        asg          regions beside sentences
grounding    films, boxes, maps                 views        what figures look at, from run and model
prototypes   the evidence space                 widgets      explorers
graphs       graphs, propagation                overlay      the command of grounding
related      an image beside its reports
sketch       small worlds, every entry          gallery      what notebooks show; `live`: a loss that is falling
"""

from lgdea_core.figures.asg import figure_region_sentences
from lgdea_core.figures.comparison import (
    figure_finding_auc,
    figure_looks,
    figure_metric_comparison,
    figure_relation_quality,
)
from lgdea_core.figures.evidence import figure_evidence_counts, figure_extractors, figure_report_evidence
from lgdea_core.figures.graphs import figure_graph_degrees, figure_propagation_steps, figure_seed_reach
from lgdea_core.figures.grounding import (
    GroundingRow,
    figure_grounding_grid,
    figure_hero,
    figure_phantom_examples,
    figure_phrase_grounding,
)
from lgdea_core.figures.prototypes import figure_prototype_neighbours, figure_prototype_space, figure_prototype_usage
from lgdea_core.figures.related import Related, figure_related_reports
from lgdea_core.figures.save import keep_figure, save_figure
from lgdea_core.figures.sketch import figure_entries, figure_small_graphs
from lgdea_core.figures.tables import (
    figure_ablation,
    figure_abundance,
    figure_dose_response,
    figure_hard_set,
    figure_label_curve,
    figure_pairing_curve,
    figure_paper_table,
    figure_relation_curves,
)
from lgdea_core.figures.training import figure_history

__all__ = [
    "GroundingRow",
    "Related",
    "figure_ablation",
    "figure_abundance",
    "figure_dose_response",
    "figure_entries",
    "figure_evidence_counts",
    "figure_extractors",
    "figure_finding_auc",
    "figure_graph_degrees",
    "figure_grounding_grid",
    "figure_hard_set",
    "figure_hero",
    "figure_history",
    "figure_label_curve",
    "figure_looks",
    "figure_metric_comparison",
    "figure_pairing_curve",
    "figure_paper_table",
    "figure_phantom_examples",
    "figure_phrase_grounding",
    "figure_propagation_steps",
    "figure_prototype_neighbours",
    "figure_prototype_space",
    "figure_prototype_usage",
    "figure_region_sentences",
    "figure_related_reports",
    "figure_relation_curves",
    "figure_relation_quality",
    "figure_report_evidence",
    "figure_seed_reach",
    "figure_small_graphs",
    "keep_figure",
    "save_figure",
]
