"""ASG's triplets <region, observation, existence> as a view of the evidence (arXiv 2403.09294).

ASG's own list of regions and rules is not published: the 29 regions are Chest ImaGenome's, the rules below are ours.
The first of these that names a region counts; column `rule` says which it was:

- `stated`: the finding's region field; where the finding is bilateral, both sides of it.
- `words`: places in the phrase, by the lexicon's places and `IMPLIED_PLACES`; several places give several regions.
- `default`: where that observation lies on a film, by `HOMES`.
- `unspecified`: none of these, or a region with two sides and a finding without one. The region is missing, no guess.

A region with two sides takes the finding's side; "bilateral" gives both. Without a side, a denial denies both sides,
"no finding" holds of both, and so do the `DIFFUSE` observations. `HOMES` also says where an observation can lie at all:
"normal heart size and lungs" says nothing of cardiomegaly in a lung, so other places are passed over.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from lgdea_core.evidence.clauses import Place
from lgdea_core.evidence.lexicon import asg_tag, default_lexicon
from lgdea_core.evidence.sections import sentence_spans
from lgdea_core.vocabulary import ASG_TAGS, NO_FINDING, REGIONS

EXISTENCE = {"present": 1, "absent": 0, "uncertain": -1}
"""Status -> existence. -1 is what ASG's label files hold for an uncertain tag; its model reads it as 0."""

TRIPLET_COLUMNS = (
    "report_id",
    "finding",
    "region",
    "observation",
    "existence",
    "rule",
    "phrase",
    "start",
    "end",
    "section",
)
"""`finding` is the row of the evidence table, counted from 0; the rest is named as there or explained above."""

SIDES = ("right", "left")

LUNG = ("lung", "upper lung zone", "mid lung zone", "lower lung zone", "apical zone", "hilar structures")
BONES = ("spine", "clavicle", "mediastinum", "upper mediastinum")
"""The sternum stands before the mediastinum; ribs and shoulders have no region."""
OUTSIDE_LUNGS = (
    *BONES, "trachea", "carina", "aortic arch", "svc", "cavoatrial junction", "right atrium", "cardiac silhouette",
    "hilar structures", "costophrenic angle", "hemidiaphragm", "abdomen",
)  # fmt: skip
PLEURA = (*LUNG, "costophrenic angle", "hemidiaphragm")
PROJECTED = (*PLEURA, "cardiac silhouette", "mediastinum", "upper mediastinum", "aortic arch")
"""What lies in a lung may be seen over the heart or the mediastinum."""

HOMES: dict[str, tuple[str, ...]] = {
    "cardiomegaly": ("cardiac silhouette",),
    "enlarged cardiomediastinum": ("mediastinum", "upper mediastinum"),
    "shift": ("mediastinum", "upper mediastinum", "trachea"),
    "hernia": ("mediastinum", "cardiac silhouette", "hemidiaphragm", "lower lung zone", "abdomen"),
    "pleural effusion": ("costophrenic angle", *PLEURA),
    "blunt": ("costophrenic angle", *PLEURA),
    "engorgement": ("hilar structures", *PLEURA),
    **dict.fromkeys(("pneumothorax", "pleural thickening", "pleural other"), PLEURA),
    **dict.fromkeys(("edema", "emphysema", "hyperinflate", "aerate", "marking", "fibrosis"), PLEURA),
    **dict.fromkeys(("atelectasis", "collapse", "consolidation", "pneumonia", "aspiration", "infiltration"), PROJECTED),
    **dict.fromkeys(("lung opacity", "nodule", "mass", "lung lesion", "scar"), PROJECTED),
    **dict.fromkeys(("fracture", "deformity"), BONES),
    **dict.fromkeys(("line", "tip"), OUTSIDE_LUNGS),
}
"""Observation -> regions it can lie in, without their sides; the first is its default, but for `NOT_OF_LUNGS`. Effusion
sinks to the costophrenic angle of an upright patient; free air may lie anywhere along the pleura, so a pneumothorax
takes the whole lung; congestion shows at the hila; a hiatal hernia stands in the mediastinum, behind the heart."""

NOT_OF_LUNGS = frozenset({"fracture", "deformity", "line", "tip"})
"""Observations that have homes but no default. "Mid clavicle", "upper extremity" and "base of the scapula" name no part
of a lung: they lie in one only where the phrase says lung or lobe."""

DIFFUSE = frozenset({"edema", "emphysema", "hyperinflate", "aerate", "marking", "engorgement"})
"""Observations of both sides unless the report says one."""

HOMELESS = frozenset(
    {
        NO_FINDING, "calcification", "device", "dilation", "distention", "drainage", "hardware", "lesion", "obscure",
        "pacemaker", "stent", "support devices", "tube", "wire",
    }
)  # fmt: skip
"""Observations that occur in too many places to have a default: they, and any in neither table, lie wherever the
report says."""

IMPLIED_PLACES: dict[str, str] = {
    **dict.fromkeys(("scoliosis", "scoliotic", "dextroscoliosis", "levoscoliosis", "kyphosis", "kyphotic"), "spine"),
    **dict.fromkeys(("compression fracture", "compression fractures", "compression deformity"), "spine"),
    **dict.fromkeys(("compression deformities", "wedge deformity", "wedge deformities"), "spine"),
    **dict.fromkeys(("endotracheal", "tracheostomy", "ett", "et tube"), "trachea"),
    **dict.fromkeys(
        ("nasogastric", "orogastric", "enteric", "feeding tube", "dobhoff", "ng tube", "og tube"), "abdomen"
    ),
    "cholecystectomy": "abdomen",
    **dict.fromkeys(("sternotomy", "sternal"), "mediastinum"),
    **dict.fromkeys(("aortic valve", "mitral valve", "tricuspid valve"), "cardiac silhouette"),
    **dict.fromkeys(("tortuous", "tortuosity", "ectatic", "ectasia"), "aortic arch"),
    **dict.fromkeys(("atherosclerosis", "atherosclerotic", "arteriosclerosis"), "aortic arch"),
}
"""Words that are no place in the lexicon, but name one: region synonyms beyond it. Where one holds a place of the
lexicon ("aortic valve") it counts instead."""

WHOLE_CHEST = frozenset({"chest", "thorax"})
"""Places of the lexicon that mean a lung only beside a side."""


def triplets(evidence: pd.DataFrame) -> pd.DataFrame:
    """Triplets of all findings, in the order of the evidence (rules: see the module).

    A finding in two places gives two rows, a finding without a region one row with a missing one. `start` and `end` are
    the phrase's offsets in the report, so its sentence can be found.

    Args:
        evidence: rows of `evidence.parquet`, of any extractor.

    Returns:
        Table of `TRIPLET_COLUMNS`.

    Raises:
        ValueError: a column is missing.
    """
    needed = ["report_id", "observation", "region", "laterality", "status", "phrase", "start", "end", "section"]
    missing = [column for column in needed if column not in evidence.columns]
    if missing:
        raise ValueError(f"triplets: table evidence lacks column(s) {missing}; it has {list(evidence.columns)}")
    known = evidence[needed].astype(object).where(evidence[needed].notna(), None)
    rows = [
        (row.report_id, number, region, row.observation, EXISTENCE[row.status], rule, row.phrase, row.start, row.end,
         row.section)
        for number, row in enumerate(known.itertuples(index=False))
        for region, rule in regions_of(row.observation, row.status, row.region, row.laterality, row.phrase)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(TRIPLET_COLUMNS))


def sentence_regions(table: pd.DataFrame, reports: Mapping[str, str]) -> tuple[Int[np.ndarray, "_ 2"], ...]:
    """For each report the distinct pairs (sentence, region) of its triplets, whatever their existence.

    A sentence is where the triplet's phrase begins, counted as `sentence_spans` lists them; a region is a row of
    `REGIONS`. Triplets without a region give no pair.

    Args:
        table: of `triplets`.
        reports: report id -> text, in the order wanted.
    """
    column_of = {region: column for column, region in enumerate(REGIONS)}
    placed = table[table["region"].notna() & table["report_id"].isin(reports.keys())]
    found: dict[str, list[tuple[int, int]]] = {report_id: [] for report_id in reports}
    for report_id, rows in placed.groupby("report_id", sort=False):
        spans = sentence_spans(reports[report_id])
        for start, region in zip(rows["start"], rows["region"], strict=True):
            inside = [number for number, (first, end) in enumerate(spans) if first <= start < end]
            found[report_id] += [(number, column_of[region]) for number in inside]
    return tuple(np.array(sorted(set(pairs)), dtype=np.int64).reshape(-1, 2) for pairs in found.values())


def image_tags(evidence: pd.DataFrame, report_ids: Sequence[str]) -> Float[np.ndarray, "reports tags"]:
    """1 where a report states one of `ASG_TAGS` as present.

    Denied and uncertain tags are 0, as in ASG's model (its label files hold -1 for uncertain ones).
    """
    present = evidence[evidence["status"] == "present"]
    row_of = {report_id: row for row, report_id in enumerate(report_ids)}
    column_of = {tag: column for column, tag in enumerate(ASG_TAGS)}
    tags = np.zeros((len(report_ids), len(ASG_TAGS)), dtype=np.float32)
    rows, columns = present["report_id"].map(row_of), present["observation"].map(asg_tag).map(column_of)
    known = (rows.notna() & columns.notna()).to_numpy()
    tags[rows[known].astype(int), columns[known].astype(int)] = 1.0
    return tags


@lru_cache(maxsize=2**16)
def regions_of(
    observation: str, status: str, region: str | None, laterality: str | None, phrase: str
) -> tuple[tuple[str | None, str], ...]:
    """Regions of one finding with the rule that gave them; at least one pair, whose region may be None."""
    home = HOMES.get(observation, ())
    default = () if observation in NOT_OF_LUNGS else home[:1]
    if observation in NOT_OF_LUNGS and re.search("lung|lobe", phrase.lower()):
        home += LUNG
    whole = status == "absent" or observation == NO_FINDING or observation in DIFFUSE
    side = laterality or ("bilateral" if whole else None)
    stated = [region_and_side(region)] if region else []
    places = {
        "stated": [(name, "bilateral" if laterality == "bilateral" else own) for name, own in stated],
        "words": [(name, own or side) for name, own in places_in(phrase)],
        "default": [(name, side) for name in default],
    }
    for rule, found in places.items():
        names = {one for name, of in found if not home or name in home for one in sided(name, of)}
        if names:
            return tuple((name, rule) for name in REGIONS if name in names)
    return ((None, "unspecified"),)


def sided(region: str, side: str | None) -> tuple[str, ...]:
    """Chest ImaGenome's names of a region: itself in the midline, one or two of a region with sides, () without one."""
    if region in REGIONS:
        return (region,)
    return tuple(f"{one} {region}" for one in SIDES if side in (one, "bilateral"))


def region_and_side(region: str) -> tuple[str, str | None]:
    """A region's name without its side, and the side; "right atrium" has no left one and stays whole."""
    side, _, name = region.partition(" ")
    return (name, side) if side in SIDES and f"left {name}" in REGIONS else (region, None)


@lru_cache(maxsize=2**16)
def places_in(phrase: str) -> tuple[tuple[str, str | None], ...]:
    """Places a phrase names, each without its side, and with it where the words tell.

    A place's side is its own ("lingula"), else the last side named before it, else both for a plural ("lung bases").
    "Lung" is left out beside a part of it, and a chest without a side is more than the lungs.
    """
    places: list[tuple[str, str | None]] = []
    side: str | None = None
    for match in _place_pattern().finditer(" ".join(phrase.lower().split())):
        meaning = _place_terms()[match.group()]
        if isinstance(meaning, str):
            side = meaning
        elif meaning.region and (side or match.group() not in WHOLE_CHEST):
            own = None if meaning.side == "bilateral" else meaning.side
            places.append((meaning.region, own or side or meaning.side))
    in_part = any(name in LUNG[1:] for name, _ in places)
    return tuple(dict.fromkeys(place for place in places if not (in_part and place[0] == "lung")))


@cache
def _place_terms() -> dict[str, Place | str]:
    """Term -> place, or the side it means."""
    terms = {term: value for term, (kind, value) in default_lexicon().terms.items() if kind == "location" and value}
    return terms | {
        term: Place(region=region, lateral=False, side=None, states={}) for term, region in IMPLIED_PLACES.items()
    }


@cache
def _place_pattern() -> re.Pattern[str]:
    longest_first = sorted((re.escape(term) for term in _place_terms() if term), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(longest_first)})(?!\w)")
