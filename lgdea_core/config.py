"""Every number a run depends on: frozen dataclasses, presets, and the papers' constants with their source.

What only one method has stands in its own file of `methods/`, presets included.
"""

import importlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lgdea_core.paths import read_json

METHODS = {
    "clip": "lgdea_core.methods.clip",
    "gloria": "lgdea_core.methods.gloria",
    "mgca": "lgdea_core.methods.mgca",
    "medclip": "lgdea_core.methods.medclip",
    "biovil": "lgdea_core.methods.biovil",
    "prior": "lgdea_core.methods.prior",
    "medklip": "lgdea_core.methods.medklip",
    "carzero": "lgdea_core.methods.carzero",
    "asg": "lgdea_core.methods.asg",
    "lgdea": "lgdea_core.methods.lgdea",
    "lgdea+asg": "lgdea_core.methods.lgdea_asg",
}
"""name -> module whose `METHOD` it is, imported when it is first asked for; your own method is one more line"""


def find_method(name: str) -> Any:
    """The `method.Method` of a name.

    Raises:
        ValueError: `METHODS` has no such name.
    """
    check_choice("method", name, METHODS)
    return importlib.import_module(METHODS[name]).METHOD


PRESET_VARIABLE = "LGDEA_PRESET"
BUILT_IMAGE_TOWERS = (None, "resnet-50", "vit-small")
"""Names of image towers that are built on the spot and have no weights to load."""
TUNINGS = ("full", "locked image", "locked text", "locked", "lora")
"""What of published weights is trained: all; all but one tower or both, with the heads; or adapters of low rank."""
Number = int | float
MOVABLE = ("data.root",)
"""configuration fields that only say where something lies: they may change between two visits of a run"""


def check_range(name: str, value: Number, low: Number, high: Number, *, open_ends: bool = False) -> None:
    inside = low < value < high if open_ends else low <= value <= high
    if not inside:
        kind = "strictly between" if open_ends else "between"
        raise ValueError(f"{name} must lie {kind} {low} and {high}, got {value}")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which studies a run sees."""

    corpus: str = "phantom"
    """a corpus name, or `PAIRS+IMAGES+REPORTS`: pairs from one, unpaired images and reports from two others"""
    root: str | None = None
    """folder with one sub-folder per corpus (LGDEA_DATA); None for the phantom, which the run makes"""
    studies: int = 2000
    """studies of the phantom, all splits together; a real corpus brings its own number"""
    image_size: int = 64
    """side of the square crop a tower sees, in pixels"""
    paired_ratio: float = 0.1
    """share of training studies whose pair is known, in [0, 1]"""
    extractor: str = "lexicon"
    """name of the evidence extractor, see `evidence.extract.make_extractor`"""

    def __post_init__(self) -> None:
        check_range("paired_ratio", self.paired_ratio, 0, 1)
        check_range("studies", self.studies, 20, 10_000_000)
        check_range("image_size", self.image_size, 32, 4096)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The towers and heads that every method shares."""

    model_start: str | None = None
    """hub id or folder of a dual encoder of the CLIP family: its towers and projections start the model"""
    tuning: Literal["full", "locked image", "locked text", "locked", "lora"] = "full"
    """what of the published weights is trained, see `TUNINGS`; heads, and a tower built on the spot, always are"""
    image_tower: str | None = None
    """hub id or folder of a transformers image model; None builds a small ResNet on the spot"""
    text_tower: str | None = None
    """hub id or folder of a transformers text model; None builds a small BERT and trains its tokenizer"""
    text_layers: int = 0
    """first layers of a named text tower that are kept (MGCA, ASG: 6 of Bio_ClinicalBERT's 12); 0 keeps all"""
    neck_width: int = 256
    """widest fused patch feature, what the tag decoder and lesion queries read; a tower's own width bounds it"""
    dim: int = 128
    """width of the joint space (MGCA, ASG: 128)"""
    lesions: int = 8
    """lesion queries, hence lesion tokens per image (LGDEA eq. 3, reconstruction)"""
    prototypes: int = 32
    """K: about twice the number of finding x side classes"""
    text_temperature: float = 0.1
    """tau_text of eq. 4"""
    image_temperature: float = 0.1
    """tau_image of eq. 6"""
    prototype_norm: Literal["unit", "free"] = "unit"
    """"free" is eq. 5 as printed; "unit" assigns with mu / |mu| and keeps |mu| near 1 (deviation)"""
    max_tokens: int = 96
    """longest text a tower reads, in training and evaluation; longer ones are cut, and the log says how many"""

    def __post_init__(self) -> None:
        check_choice("prototype_norm", self.prototype_norm, ("unit", "free"))
        check_choice("tuning", self.tuning, TUNINGS)
        if self.model_start and (self.image_tower or self.text_tower or self.text_layers):
            raise ValueError("model_start brings both towers: leave out image_tower, text_tower and text_layers")
        image = bool(self.model_start) or self.image_tower not in BUILT_IMAGE_TOWERS
        text = bool(self.model_start or self.text_tower)
        published = {"full": True, "locked image": image, "locked text": text, "locked": image and text}
        if not published.get(self.tuning, image or text):
            raise ValueError(
                f"tuning {self.tuning!r} is about published weights: name model_start, or image_tower and text_tower"
            )
        for name in ("text_temperature", "image_temperature"):
            check_range(name, getattr(self, name), 0, 10, open_ends=True)
        check_range("text_layers", self.text_layers, 0, 1000)
        for name in ("neck_width", "dim", "lesions", "prototypes", "max_tokens"):
            check_range(name, getattr(self, name), 1, 1_000_000)


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """How seed relations spread over the affinity graphs (LGDEA eq. 10-14)."""

    neighbours: int = 10
    """k of the kNN graphs"""
    alpha: float = 0.8
    """share of a relation taken from neighbours, in (0, 1)"""
    self_loop: float = 1.0
    """s of eq. 13, in mean edge weights; with 0 only walks of equal length on both sides count"""
    tolerance: float = 1e-3
    """change of the unpaired block in one step, relative to that block, that counts as standing still"""
    max_steps: int = 60
    """propagation steps at most; not standing still by then is a warning in the log and in graph_stats.json"""
    mode: Literal["graph", "affinity", "graph*affinity"] = "graph*affinity"
    """relations from the propagated graph (the paper's form), from the cross-modal affinity (E), or their product"""
    graph_exponent: float = 0.5
    """x in P = graph^x * exp(affinity)"""
    affinity_sharpness: float = 2.0
    """log odds of an observation for each standard deviation of an image's response to it"""
    report_marginal: float = 0.8
    """E: how far relations with an affinity even out how often each report is chosen; 0 not at all, 1 wholly"""

    def __post_init__(self) -> None:
        check_range("alpha", self.alpha, 0, 1, open_ends=True)
        check_choice("mode", self.mode, ("graph", "affinity", "graph*affinity"))
        for name in ("self_loop", "graph_exponent", "affinity_sharpness"):
            check_range(name, getattr(self, name), 0, 1e6)
        check_range("tolerance", self.tolerance, 0, 1, open_ends=True)
        for name in ("neighbours", "max_steps"):
            check_range(name, getattr(self, name), 1, 1_000_000)
        check_range("report_marginal", self.report_marginal, 0, 1)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the terms of all methods share; their own weights are in `RunConfig.objective`."""

    ita: float = 1.0
    """weight of L_ita: InfoNCE on the pairs (eq. 17)"""
    temperature: float = 0.1
    """of the contrastive terms; where it is learned, its start"""
    learned_temperature: bool = True
    """whether the temperature is learned (CLIP), or stays what it is (MGCA, ASG)"""
    local_temperature: float = 0.1
    """temperature of the phrase-to-patch scores"""

    def __post_init__(self) -> None:
        check_range("ita", self.ita, 0, 1e6)
        for name in ("temperature", "local_temperature"):
            check_range(name, getattr(self, name), 0, 10, open_ends=True)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A method's own configuration: a weight for each of its terms, 0 leaves the term out, and its constants.

    Each method declares a subclass (`method.Method.Config`). Default weights: a study on the phantom, not the papers.
    """

    def __post_init__(self) -> None:
        for entry in fields(self):
            check_range(entry.name, getattr(self, entry.name), 0, 1e6)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The schedule (Algorithm 1, reconstruction) and the optimiser."""

    text_steps: int = 80
    """text-only warm-up steps of a method that has them; the others spend them on pairs, so all take as many"""
    pair_steps: int = 180
    """steps on known pairs alone"""
    relation_steps: int = 240
    """steps with unpaired images and reports under the relations"""
    ramp_steps: int = 80
    """steps over which the relation terms grow from 0 to their weight"""
    refresh_every: int = 40
    """r: steps between two refreshes of evidence distributions, graphs and relations"""
    batch_size: int = 64
    """images a step, for every method and phase"""
    encode_at_once: int = 0
    """images, and texts, that a process encodes at a time where a batch does not fit (GradCache); 0 takes all"""
    unpaired_share: float = 0.5
    """share of unpaired images in a batch once relations are used"""
    learning_rate: float = 2e-3
    text_learning_rate: float = 3e-3
    """learning rate of the text warm-up"""
    published_factor: float = 1.0
    """factor on both rates for published weights, which may want a far smaller one than fresh heads"""
    weight_decay: float = 0.05
    warmup_share: float = 0.15
    """share of the steps over which the learning rate rises; then it falls as a cosine"""
    clip_norm: float = 1.0
    """largest gradient norm; 0 leaves gradients as they are (ASG)"""
    teacher_decay: float = 0.98
    """E: decay of the EMA teacher that builds the graphs"""
    mixed_precision: Literal["no", "bf16"] = "bf16"
    """precision of the image tower; text towers and losses stay float32"""
    checkpoint_every: int = 80
    """steps between two resumable checkpoints"""
    log_every: int = 10
    """steps between two rows of history.csv"""

    def __post_init__(self) -> None:
        for name in ("text_steps", "pair_steps", "relation_steps", "ramp_steps"):
            check_range(name, getattr(self, name), 0, 100_000_000)
        for name in ("refresh_every", "checkpoint_every", "log_every"):
            check_range(name, getattr(self, name), 1, 100_000_000)
        check_range("batch_size", self.batch_size, 2, 1_000_000)
        check_range("encode_at_once", self.encode_at_once, 0, 1_000_000)
        check_range("unpaired_share", self.unpaired_share, 0, 1)
        check_range("warmup_share", self.warmup_share, 0, 1, open_ends=True)
        for name in ("learning_rate", "text_learning_rate"):
            check_range(name, getattr(self, name), 0, 1e6, open_ends=True)
        for name in ("weight_decay", "clip_norm", "published_factor"):
            check_range(name, getattr(self, name), 0, 1e6)
        check_range("teacher_decay", self.teacher_decay, 0, 1)
        check_choice("mixed_precision", self.mixed_precision, ("no", "bf16"))

    @property
    def total_steps(self) -> int:
        """Optimiser updates of a whole run, the same for every method."""
        return self.text_steps + self.pair_steps + self.relation_steps


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run: preset, method, seed and everything below them."""

    preset: str = "demo"
    method: str = "lgdea"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    graph: GraphConfig = field(default_factory=GraphConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    objective: Objective | None = None
    """the method's own weights and constants; None takes its defaults"""
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        check_choice("preset", self.preset, tuple(PRESETS))
        check_range("seed", self.seed, 0, 2**31)
        method = find_method(self.method)
        if self.objective is None:
            object.__setattr__(self, "objective", method.Config())
        if type(self.objective) is not method.Config:
            wanted, found = method.Config.__name__, type(self.objective).__name__
            raise ValueError(
                f"objective of method {self.method!r} must be {wanted}, got {found}; change it by `replace_fields`"
            )
        method.check(self)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term by its name, and the constants of the objective beside them."""
        return {"ita": self.loss.ita} | vars(self.objective)

    @classmethod
    def from_preset(cls, preset: str | None = None, **changes: Any) -> "RunConfig":
        """A preset with some values changed.

        Args:
            preset: one of `PRESETS`; None takes the environment's LGDEA_PRESET, or else "demo".
            **changes: fields of `RunConfig`, or of one of its parts by that field's own name (`paired_ratio=0.1`). None
                keeps the preset's value; for PAIRS+IMAGES+REPORTS all pairs are known unless a ratio is given, because
                the unpaired pools come from elsewhere. `model_start` takes the place of the preset's towers.

        Raises:
            ValueError: unknown preset, unknown field, or a value out of range.
        """
        preset = preset or os.environ.get(PRESET_VARIABLE) or "demo"
        check_choice("preset", preset, tuple(PRESETS))
        changes = {name: value for name, value in changes.items() if value is not None}
        if "+" in changes.get("corpus", ""):
            changes.setdefault("paired_ratio", 1.0)
        if "model_start" in changes:
            changes = {"image_tower": None, "text_tower": None, "text_layers": 0} | changes
        method = changes.get("method", cls.method)
        values = PRESETS[preset] | find_method(method).presets.get(preset, {})
        return replace_fields(cls(preset=preset, **values | {"method": method}), **changes)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> "RunConfig":
        """Read what `save` wrote; a field that is unknown here, as of another version, is a ValueError."""
        values = read_json(path)
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected an object of configuration fields, got {type(values).__name__}")
        parts = {entry.name: entry.default_factory for entry in fields(cls) if isinstance(values.get(entry.name), dict)}
        parts["objective"] = find_method(values.get("method", cls.method)).Config
        try:
            return cls(**{name: parts[name](**value) if name in parts else value for name, value in values.items()})
        except TypeError as error:
            raise ValueError(f"{path}: {error}; another version wrote it, start a new run") from error


def replace_fields(config: RunConfig, **changes: Any) -> RunConfig:
    """The same configuration with fields of it, or of its parts, changed by name; another method has its defaults."""
    if changes.get("method", config.method) != config.method:
        config = replace(config, method=changes.pop("method"), objective=None)
    own = {name: value for name, value in changes.items() if name in vars(config)}
    of_parts: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if name in own:
            continue
        owners = [part for part, held in vars(config).items() if is_dataclass(held) and name in vars(held)]
        if not owners:
            raise ValueError(f"no configuration field is called {name!r}")
        of_parts.setdefault(owners[0], {})[name] = value
    parts = {part: replace(own.get(part, getattr(config, part)), **values) for part, values in of_parts.items()}
    return replace(config, **own | parts)


def config_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """In what two configurations, as nested dictionaries, differ: "train.text_steps is 6 there, 80 here"."""
    there, here = flatten(there), flatten(here)
    return [
        f"{name} is {there.get(name, 'not set')!r} there, {here.get(name, 'not set')!r} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names, without the `MOVABLE` ones."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        elif f"{prefix}{name}" not in MOVABLE:
            flat[f"{prefix}{name}"] = value
    return flat


PRESETS: dict[str, dict[str, Any]] = {
    "ci": {
        "data": DataConfig(studies=300, image_size=64),
        "model": ModelConfig(dim=32, prototypes=16, lesions=4, max_tokens=64),
        "train": TrainConfig(
            text_steps=6, pair_steps=12, relation_steps=12, ramp_steps=4, refresh_every=6, batch_size=16, log_every=2
        ),
    },
    "demo": {"model": ModelConfig(dim=96, max_tokens=64)},
    "small": {
        "data": DataConfig(studies=26_000, image_size=224),
        "model": ModelConfig(image_tower="resnet-50", prototypes=64),
        "train": TrainConfig(
            text_steps=500, pair_steps=1500, relation_steps=3000, ramp_steps=800, refresh_every=300,
            batch_size=256, learning_rate=5e-4, checkpoint_every=500, log_every=25,
        ),
    },
    "paper": {
        "data": DataConfig(corpus="mimic_cxr", image_size=224),
        "model": ModelConfig(
            image_tower="microsoft/resnet-50", text_tower="emilyalsentzer/Bio_ClinicalBERT", prototypes=500,
            prototype_norm="free", max_tokens=112,
        ),
        "graph": GraphConfig(mode="graph"),
        "loss": LossConfig(temperature=0.07),
        "train": TrainConfig(
            text_steps=2000, pair_steps=20_000, relation_steps=60_000, ramp_steps=10_000, refresh_every=3000,
            batch_size=144, teacher_decay=0.0, learning_rate=4e-5, text_learning_rate=4e-5,
            checkpoint_every=2000, log_every=100,
        ),
    },
}  # fmt: skip
"""One dial. The LGDEA paper's own constants are not public to us: `paper` takes MGCA's. A method may replace parts of a
preset (`method.Method.presets`)."""
