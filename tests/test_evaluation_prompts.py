"""Prompt sets: published texts, composed ones, what each covers and refuses."""

import itertools

import numpy as np
import pytest
import torch

from lgdea_core.data.corpora import CORPORA, covid_chestxray, covidx, padchest, vindr
from lgdea_core.data.corpora.rsna import FINDING as RSNA_FINDING
from lgdea_core.data.corpora.siim import FINDING as SIIM_FINDING
from lgdea_core.evaluation.prompts import (
    PROMPTS,
    PromptSet,
    load_prompt_set,
    mean_embeddings,
    prompt_set_names,
)
from lgdea_core.vocabulary import CHEXPERT_FINDINGS, MS_CXR_FINDINGS, NIH_FINDINGS, NO_FINDING, PHANTOM_FINDINGS

COMPOSED = load_prompt_set()


def test_prompts_state_and_deny_every_finding() -> None:
    for finding, parts in COMPOSED.findings.items():
        positive, negative = COMPOSED.texts(finding)
        for prompt in positive:
            assert prompt.endswith(f" {parts.synonyms[0]}")  # the plain name, in no frame sentence, never a bare word
            modifiers = prompt.removesuffix(parts.synonyms[0]).strip()
            assert any(modifier in modifiers for modifier in (*parts.severities, *parts.sides, *parts.zones))
            assert not set(prompt.split()) & {"no", "without", "not", "there", "is", "seen"}
            assert "  " not in prompt
        assert all("no " in prompt for prompt in negative)
        assert {f"no {name}" for name in parts.negated} <= set(negative)
        assert {f"no evidence of {name}" for name in parts.negated} <= set(negative)


def test_prompts_are_all_there_are_up_to_the_limit_spread_over_severities_sides_and_zones() -> None:
    for finding, parts in COMPOSED.findings.items():
        prompts, axes = COMPOSED.texts(finding).positive, (parts.severities, parts.sides, parts.zones)
        combinations = np.prod([len(axis) + 1 for axis in axes]) - 1
        assert len(set(prompts)) == len(prompts) == min(PROMPTS, combinations), finding
        modifiers = [prompt.removesuffix(parts.synonyms[0]) for prompt in prompts]
        for options in axes:
            uses = [sum(option in words for words in modifiers) for option in options]
            assert all(uses), f"{finding}: {options} used {uses} times"
            assert max(uses, default=0) - min(uses, default=0) <= 1, f"{finding}: {options} used {uses} times"


@pytest.mark.parametrize("finding", ["pleural effusion", "atelectasis", "nodule", "fibrosis"])
def test_no_modifier_gives_another_away(finding: str) -> None:
    parts, prompts = COMPOSED.findings[finding], COMPOSED.texts(finding).positive
    for one, other in itertools.combinations((parts.severities, parts.sides, parts.zones), 2):
        for pair in itertools.product(one, other):
            assert any(all(word in prompt for word in pair) for prompt in prompts), f"{pair} never together"


# ---- what corpora ask


VINDR_LABELS = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation", "Edema",
    "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture",
    "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding",
)  # fmt: skip
PADCHEST_TAIL = {"aortic elongation", "azygos lobe", "kerley lines", "chilaiditi sign", "double j stent"}
NIH, COVID = set(NIH_FINDINGS.values()), "Pneumonia/Viral/COVID-19"
LABELS = {
    "phantom": {*PHANTOM_FINDINGS, NO_FINDING},
    "painted_nih": {*PHANTOM_FINDINGS, NO_FINDING},
    "nih": {*NIH, RSNA_FINDING},
    "openi": NIH,
    "rsna": {RSNA_FINDING, NO_FINDING},
    "siim": {SIIM_FINDING},
    "covidx": set().union(*covidx.LABELS.values()),
    "covid_chestxray": {*covid_chestxray._finding_values(COVID), *covid_chestxray.PATHOLOGIES.values()},
    "mimic_cxr": set(CHEXPERT_FINDINGS),
    "ms_cxr": set(MS_CXR_FINDINGS),
    "chest_imagenome": set(),  # films and regions only
    "chexpert": set(CHEXPERT_FINDINGS),
    "chexpert_5x200": set(CHEXPERT_FINDINGS),
    "chexpert_8x200": set(CHEXPERT_FINDINGS),
    "vindr": {vindr._finding(name) for name in VINDR_LABELS},
    "padchest": {*padchest.RENAMED.values(), *PADCHEST_TAIL},  # of about 190
    "folder": set(),  # the user's own
}
"""corpus -> findings its loader may yield"""


def test_every_loader_is_asked_about() -> None:
    assert set(LABELS) == set(CORPORA)


@pytest.mark.parametrize("corpus", LABELS)
def test_the_default_set_has_prompts_for_every_label_but_a_long_tail_or_says_why_not(corpus: str) -> None:
    chosen = load_prompt_set()
    without = {finding for finding in LABELS[corpus] - PADCHEST_TAIL if not chosen.covers(finding)}
    assert without <= {NO_FINDING, "other lesion", "other diseases"}
    assert all(len(chosen.left_out[finding]) > 20 for finding in without)
    assert all(chosen.texts(finding).positive for finding in LABELS[corpus] - PADCHEST_TAIL - without)


@pytest.mark.parametrize("name", ["chexzero", "carzero"])
def test_sets_of_templates_cover_long_tails(name: str) -> None:
    every = set().union(*LABELS.values()) - {NO_FINDING}
    assert every > PADCHEST_TAIL
    assert all(load_prompt_set(name).covers(finding) for finding in every)


@pytest.mark.parametrize(
    ("name", "positive", "negative"),
    [
        ("chexzero", ("lung opacity",), ("no lung opacity",)),
        ("carzero", ("There is Lung Opacity",), ()),
        ("biovil", *load_prompt_set("biovil").texts("pneumonia")),
    ],
)
def test_rsna_is_asked_for_opacity_or_by_biovil_for_pneumonia(
    name: str, positive: tuple[str, ...], negative: tuple[str, ...]
) -> None:
    assert load_prompt_set(name).texts(RSNA_FINDING) == (positive, negative)


def test_no_set_asks_for_normal_films_so_none_tells_the_three_classes_of_covidx_apart() -> None:
    for name in prompt_set_names():
        shown = {finding for finding, value in covidx.LABELS["normal"].items() if value == 1}
        assert shown
        assert not any(load_prompt_set(name).covers(finding) for finding in shown)


# ---- published sets


def test_the_sets_there_are_name_their_sources() -> None:
    assert prompt_set_names() == ("biovil", "carzero", "chexzero", "compositional", "gloria", "medklip")
    for name in prompt_set_names():
        found = load_prompt_set(name)
        assert found.name == name
        assert "github.com/" in found.source or name == "compositional"
        assert found.licence.startswith(("MIT", "no licence file found"))
        assert len(found.note) > 40


def test_gloria_composes_the_published_numbers_of_prompts() -> None:
    gloria = load_prompt_set("gloria")
    counts = {finding: len(gloria.texts(finding).positive) for finding in gloria.findings}
    assert counts == {
        "atelectasis": 210, "cardiomegaly": 15, "consolidation": 192, "edema": 18, "pleural effusion": 54,
    }  # fmt: skip
    assert gloria.texts("atelectasis").positive[0] == "subsegmental atelectasis at the mid lung zone"
    assert gloria.texts("atelectasis").positive[-1] == "minimal residual atelectasis at the right lower lobe"
    assert "small left subpulmonic pleural effusion" in gloria.texts("pleural effusion").positive  # its own order
    assert not any(text != " ".join(text.split()) for text in gloria.texts("edema").positive)


def test_templates_frame_the_name_a_set_gives_a_finding() -> None:
    assert load_prompt_set("chexzero").texts("edema") == (("edema",), ("no edema",))
    assert load_prompt_set("carzero").texts("edema") == (("There is Pulmonary Edema",), ())
    assert load_prompt_set("carzero").texts("tuberculosis").positive == ("There is tuberculosis",)
    biovil = load_prompt_set("biovil").texts("pneumonia")
    assert (len(biovil.positive), len(biovil.negative)) == (4, 4)
    assert all("pneumonia" in text for text in (*biovil.positive, *biovil.negative))
    assert load_prompt_set("medklip").texts("mass").positive[0].startswith("A lung mass is an abnormal growth")


def test_mean_embeddings_skip_what_is_not_asked() -> None:
    embeds = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -2.0]], dtype=torch.float64)
    means, spans = mean_embeddings(embeds, [slice(0, 2), slice(2, 2), slice(2, 3), slice(3, 3)])
    assert means.tolist() == [[pytest.approx(0.5**0.5)] * 2, [0, -1]]
    assert spans == [slice(0, 1), slice(1, 1), slice(1, 2), slice(2, 2)]


# ---- refused


def test_a_finding_without_prompts_is_refused_by_set_and_reason() -> None:
    with pytest.raises(ValueError, match=r"'compositional': no prompts for finding 'unicorn'; it has aortic "):
        COMPOSED.texts("unicorn")
    with pytest.raises(ValueError, match=r"'gloria': no prompts for finding 'mass'; it has atelectasis, "):
        load_prompt_set("gloria").texts("mass")
    with pytest.raises(ValueError, match=r"'medklip': no prompts for finding 'fibrosis' \(MedKLIP counts it among"):
        load_prompt_set("medklip").texts("fibrosis")
    with pytest.raises(ValueError, match=r"'no finding' \(its evaluation leaves .*\); it has any other finding"):
        load_prompt_set("carzero").texts("no finding")
    with pytest.raises(ValueError, match=r"no prompt set 'clip'; there are biovil, carzero, "):
        load_prompt_set("clip")


SMALL = {
    "source": "s", "licence": "l", "channels": {"global": "none"}, "ensemble": "mean_score", "join": "sum",
    "normalise": "none", "findings": {"mass": {"positive": ["a mass"]}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ensemble": "median"}, "ensemble"),
        ({"channels": {"global": "ratio"}}, "channels"),
        ({"channels": {"regional": "none"}}, "channels"),
        ({"normalise": "classes"}, "normalise"),
        ({"threshold": 0.5}, "threshold"),
        ({"source": ""}, "source"),
        ({"licence": ""}, "licence"),
        ({"findings": {"mass": {"positive": []}}}, "positive"),
        ({"findings": {}}, "covers nothing"),
        ({"channels": {"global": "difference"}}, r"a contrast needs negative prompts; none for \['mass'\]"),
        ({"channels": {"global": "none", "local": "none"}}, "different scales"),
        ({"any_finding": True}, "need templates"),
        ({"templates": {"positive": ["a finding"]}}, r"each template must hold \{\} once, got \['a finding'\]"),
        ({"left_out": {"mass": "why"}}, r"left_out and given at once: \['mass'\]"),
        (
            {
                "channels": {"decoder": "none"},
                "ensemble": "mean_embedding",
                "findings": {"mass": {"positive": ["a mass", "some mass"]}},
            },
            r"a decoder scores texts, not mean embeddings; several prompts for \['mass'\]",
        ),
        (
            {
                "channels": {"global": "difference", "local": "none"},
                "join": "prompt_mean",
                "findings": {"mass": {"positive": ["a mass"], "negative": ["no mass"]}},
            },
            "must make the same of negative prompts",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(changes: dict, message: str) -> None:
    assert PromptSet(name="small", **SMALL).texts("mass").positive == ("a mass",)
    with pytest.raises(ValueError, match=message):
        PromptSet(name="small", **SMALL | changes)
