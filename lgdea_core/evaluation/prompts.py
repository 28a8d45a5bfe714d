"""Prompt sets: what each system asks about a finding, and how its texts become a score. One JSON file a set.

Bare finding words occur in reports mostly inside negations ("no edema"), so a bare prompt reads as negative. The
positive prompts of `compositional`, the default, therefore always carry a severity, a side or a zone, as GLoRIA's do;
`chexzero` is the control without.
"""

import itertools
import json
from collections import Counter
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional as F

DEFAULT_PROMPTS = "compositional"
PROMPTS = 48
"""Most positive prompts that are composed for a finding."""

Channel = Literal["global", "local", "evidence", "decoder"]
Contrast = Literal["difference", "pair_softmax", "none"]
"""what a channel makes of the negative prompts: positive less negative; probability of the positive in a softmax of
both, without temperature; nothing, they are not asked"""
Ensemble = Literal["mean_score", "max_score", "mean_embedding", "mean_raw_embedding"]
"""mean or maximum of the prompts' scores; score of their mean embedding, L2-normalised, of embeddings that were (or,
raw, were not) normalised before"""
AVERAGED_EMBEDDINGS = ("mean_embedding", "mean_raw_embedding")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Templates(_Part):
    """Frames around a finding's name; each holds "{}" once."""

    positive: tuple[str, ...] = Field(min_length=1)
    negative: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _frames(self) -> "Templates":
        wrong = [text for text in (*self.positive, *self.negative) if text.count("{}") != 1]
        if wrong:
            raise ValueError(f"each template must hold {{}} once, got {wrong}")
        return self


class FindingSentences(_Part):
    """Prompts of one finding, written out."""

    positive: tuple[str, ...] = Field(min_length=1)
    negative: tuple[str, ...] = ()


class FindingAxes(_Part):
    """Prompts of one finding as all combinations of one word of each list, in the order of the lists (GLoRIA)."""

    axes: dict[str, tuple[str, ...]] = Field(min_length=1)


class FindingPrompts(_Part):
    """What the prompts of one finding are composed of (this project's own)."""

    synonyms: tuple[str, ...] = Field(min_length=1)
    """the first is what positive prompts call it"""
    severities: tuple[str, ...]
    sides: tuple[str, ...]
    zones: tuple[str, ...]
    negated: tuple[str, ...]
    """what a negative prompt denies; the synonyms unless the file says otherwise"""

    @model_validator(mode="before")
    @classmethod
    def _deny_the_synonyms(cls, parts: Any) -> Any:
        return {"negated": parts["synonyms"], **parts} if isinstance(parts, dict) and "synonyms" in parts else parts


class PromptTexts(NamedTuple):
    """The prompts of one finding."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    """empty where the set asks none"""


class PromptSet(_Part):
    """One file of `prompt_sets/`."""

    name: str
    source: str = Field(min_length=1)
    """publication, repository and file the prompts and the score are taken from"""
    licence: str = Field(min_length=1)
    """of the texts, as the repository states it"""
    note: str = ""
    """what the source leaves open, and what in the file is ours"""
    channels: dict[Channel, Contrast] = Field(min_length=1)
    """which scores of a model count, and what each makes of negative prompts; a model without one goes without"""
    ensemble: Ensemble
    join: Literal["sum", "prompt_mean"]
    """channels are summed at the end; or averaged prompt by prompt, before the ensemble"""
    normalise: Literal["images", "none"]
    """z-score each channel over the images, finding by finding, before the sum; or take it as it is"""
    templates: Templates | None = None
    any_finding: bool = False
    """a finding without an entry goes by its own name, in the templates"""
    names: dict[str, str] = {}
    """finding -> its name in the templates, where it is another"""
    findings: dict[str, FindingSentences | FindingAxes | FindingPrompts] = {}
    left_out: dict[str, str] = {}
    """finding -> why it has no prompts"""

    @model_validator(mode="after")
    def _consistent(self) -> "PromptSet":
        composed = any(isinstance(parts, FindingPrompts) for parts in self.findings.values())
        if (self.any_finding or self.names or composed) and not self.templates:
            raise ValueError("any_finding, names and composed findings need templates")
        if not (self.any_finding or self.findings):
            raise ValueError("covers nothing: give findings, or templates and any_finding")
        if both := set(self.left_out) & {*self.findings, *self.names}:
            raise ValueError(f"left_out and given at once: {sorted(both)}")
        summed = [channel for channel in self.channels if channel != "decoder"]
        if len(summed) > 1 and self.join == "sum" and self.normalise == "none":
            raise ValueError(f"channels {summed} have different scales: normalise over images, or join by prompt_mean")
        if self.join == "prompt_mean" and len({self.channels[channel] for channel in summed}) > 1:
            raise ValueError("channels averaged prompt by prompt must make the same of negative prompts")
        if set(self.channels.values()) != {"none"}:
            silent = [finding for finding in self._written if not self._negative(finding)]
            if silent:
                raise ValueError(f"a contrast needs negative prompts; none for {silent}")
        averaged = self.ensemble in AVERAGED_EMBEDDINGS and "decoder" in self.channels
        several = [finding for finding in self._written if averaged and max(map(len, self.texts(finding))) > 1]
        if several:
            raise ValueError(f"a decoder scores texts, not mean embeddings; several prompts for {several}")
        return self

    @property
    def _written(self) -> tuple[str, ...]:
        """Findings whose texts tell those of all others."""
        return (*self.findings, "anything") if self.any_finding else tuple(self.findings)

    def covers(self, finding: str) -> bool:
        """Whether there are prompts for a finding."""
        return finding not in self.left_out and (self.any_finding or finding in self.findings)

    def texts(self, finding: str) -> PromptTexts:
        """Prompts of a finding.

        Raises:
            ValueError: the set does not cover it; names what it covers and, where the file says, why.
        """
        if not self.covers(finding):
            covered = "any other finding" if self.any_finding else ", ".join(sorted(self.findings))
            reason = f" ({self.left_out[finding]})" if finding in self.left_out else ""
            raise ValueError(f"prompt set {self.name!r}: no prompts for finding {finding!r}{reason}; it has {covered}")
        return PromptTexts(self._positive(finding), self._negative(finding))

    def _positive(self, finding: str) -> tuple[str, ...]:
        parts = self.findings.get(finding)
        if isinstance(parts, FindingSentences):
            return parts.positive
        if isinstance(parts, FindingAxes):
            return tuple(" ".join(filter(None, words)) for words in itertools.product(*parts.axes.values()))
        if isinstance(parts, FindingPrompts):
            return _composed(parts, self.templates.positive)
        return _framed((self.names.get(finding, finding),), self.templates.positive)

    def _negative(self, finding: str) -> tuple[str, ...]:
        parts = self.findings.get(finding)
        if isinstance(parts, FindingSentences):
            return parts.negative
        if isinstance(parts, FindingAxes):
            return ()
        names = parts.negated if parts else (self.names.get(finding, finding),)
        return _framed(names, self.templates.negative)


def prompt_set_names() -> tuple[str, ...]:
    """Names of the files of `prompt_sets/`, in alphabetical order."""
    return tuple(sorted(path.name.removesuffix(".json") for path in _folder().iterdir() if path.name.endswith(".json")))


@cache
def load_prompt_set(name: str = DEFAULT_PROMPTS) -> PromptSet:
    """A prompt set by name, checked against the schema.

    Raises:
        ValueError: no such set; or, from pydantic, a file that does not fit `PromptSet`.
    """
    if name not in prompt_set_names():
        raise ValueError(f"no prompt set {name!r}; there are {', '.join(prompt_set_names())}")
    return PromptSet(name=name, **json.loads((_folder() / f"{name}.json").read_text(encoding="utf-8")))


def mean_embeddings(
    embeds: Float[Tensor, "prompts dim"], spans: list[slice]
) -> tuple[Float[Tensor, "means dim"], list[slice]]:
    """L2-normalised mean embedding of each span of prompts, and the spans of one (or, of an empty one, no) mean."""
    means = [F.normalize(embeds[span].mean(dim=0), dim=0) for span in spans if span.start < span.stop]
    ends = list(itertools.accumulate((int(span.start < span.stop) for span in spans), initial=0))
    return torch.stack(means), [slice(start, end) for start, end in itertools.pairwise(ends)]


@cache
def _composed(parts: FindingPrompts, templates: tuple[str, ...]) -> tuple[str, ...]:
    """At most `PROMPTS` phrases that state the finding by name, spread evenly over severities, sides and zones.

    The next prompt is always the one whose parts, and pairs of parts, were used least so far (the first in order where
    several are), so the result is the same on every machine.
    """
    axes = (("", *parts.severities), ("", *parts.sides), ("", *parts.zones), parts.synonyms[:1], templates)
    candidates = [choice for choice in itertools.product(*axes) if any(choice[:3])]
    used: Counter[tuple] = Counter()
    chosen = []
    while candidates and len(chosen) < PROMPTS:
        choice = min(candidates, key=lambda parts: sum(used[part] for part in _parts_and_pairs(parts)))
        candidates.remove(choice)
        used.update(_parts_and_pairs(choice))
        chosen.append(choice[-1].format(" ".join(filter(None, choice[:-1]))))
    return tuple(chosen)


def _parts_and_pairs(choice: tuple[str, ...]) -> list[tuple]:
    parts = list(enumerate(choice))
    return [*parts, *itertools.combinations(parts, 2)]


def _framed(names: tuple[str, ...], templates: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(template.format(name) for name, template in itertools.product(names, templates))


def _folder() -> Any:
    return resources.files("lgdea_core.evaluation") / "prompt_sets"
