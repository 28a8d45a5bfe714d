"""Every number a run depends on: frozen dataclasses, presets, and the papers' constants with their source."""

import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lgdea_core.registry import METHODS

PRESET_VARIABLE = "LGDEA_PRESET"
Number = int | float


def _check_range(name: str, value: Number, low: Number, high: Number, *, open_ends: bool = False) -> None:
    inside = low < value < high if open_ends else low <= value <= high
    if not inside:
        kind = "strictly between" if open_ends else "between"
        raise ValueError(f"{name} must lie {kind} {low} and {high}, got {value}")


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
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
        _check_range("paired_ratio", self.paired_ratio, 0, 1)
        _check_range("studies", self.studies, 20, 10_000_000)
        _check_range("image_size", self.image_size, 32, 4096)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The towers and heads that every method shares."""

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
    tag_layers: int = 4
    """ASG: layers of the image-tag decoder"""
    tag_heads: int = 4
    """ASG: its attention heads"""
    tag_widening: float = 4 / 3
    """ASG: width of its feed-forward layers over that of its tokens (1024 / 768)"""
    tag_dropout: float = 0.1
    """ASG: its dropout"""
    decoder_layers: int = 2
    """layers of the query decoder, in methods that have one (MedKLIP, CARZero: 4 of 256 and 768 channels)"""
    max_tokens: int = 96
    """longest text a tower reads, in training and evaluation; longer ones are cut, and the log says how many"""

    def __post_init__(self) -> None:
        _check_choice("prototype_norm", self.prototype_norm, ("unit", "free"))
        for name in ("text_temperature", "image_temperature"):
            _check_range(name, getattr(self, name), 0, 10, open_ends=True)
        _check_range("text_layers", self.text_layers, 0, 1000)
        for name in ("neck_width", "dim", "lesions", "prototypes", "max_tokens"):
            _check_range(name, getattr(self, name), 1, 1_000_000)
        for name in ("tag_layers", "tag_heads", "decoder_layers"):
            _check_range(name, getattr(self, name), 1, 1_000_000)
        _check_range("tag_widening", self.tag_widening, 0, 100, open_ends=True)
        _check_range("tag_dropout", self.tag_dropout, 0, 1)


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
    keep: int = 2000
    """largest entries kept in a row of the propagated relations; the mass lost is measured"""
    mode: Literal["graph", "affinity", "graph*affinity"] = "graph*affinity"
    """relations from the propagated graph (the paper's form), from the cross-modal affinity (E), or their product"""
    graph_exponent: float = 0.5
    """x in P = graph^x * exp(affinity)"""
    affinity_sharpness: float = 2.0
    """log odds of an observation for each standard deviation of an image's response to it"""
    report_marginal: float = 0.8
    """E: how far relations with an affinity even out how often each report is chosen; 0 not at all, 1 wholly"""

    def __post_init__(self) -> None:
        _check_range("alpha", self.alpha, 0, 1, open_ends=True)
        _check_choice("mode", self.mode, ("graph", "affinity", "graph*affinity"))
        for name in ("self_loop", "graph_exponent", "affinity_sharpness"):
            _check_range(name, getattr(self, name), 0, 1e6)
        _check_range("tolerance", self.tolerance, 0, 1, open_ends=True)
        for name in ("neighbours", "max_steps", "keep"):
            _check_range(name, getattr(self, name), 1, 1_000_000)
        _check_range("report_marginal", self.report_marginal, 0, 1)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weight of every term of eq. 18; 0 leaves it without effect. Defaults: a study on the phantom, not the paper."""

    ita: float = 1.0
    """L_ita: InfoNCE on the pairs (eq. 17)"""
    reconstruction: float = 1.0
    """L_rec (eq. 5)"""
    prototype_penalty: float = 0.01
    """lambda_mu of eq. 5"""
    usage: float = 0.2
    """weight of the usage entropy that keeps all prototypes in use (R)"""
    evidence_paired: float = 1.0
    """L_evid_p (eq. 9)"""
    evidence_unpaired: float = 2.0
    """L_evid_u (eq. 15)"""
    evidence_alignment: float = 2.0
    """L_evi_align (eq. 16)"""
    local: float = 1.0
    """local term on pairs; `lgdea` (E): phrases with patches, `gloria`, `biovil`, `prior`: sentences with patches"""
    arsa: float = 1.0
    """ASG: regions against sentences within an image. ASG sums both directions of its contrasts (weights 1, 1, 5, 1)
    where we average them: its weights are halved here, and `ita` stays what it is for every method"""
    irl: float = 2.5
    """ASG: image-tag recognition; its 5, halved"""
    erl: float = 0.5
    """ASG: pairs against soft relations by their tags; its 1, halved"""
    erl_identity: float = 0.8
    """ASG: share of the pair itself in the soft relations"""
    erl_similarity: float = 0.2
    """ASG: share of the cosine of the tags"""
    erl_floor: float = 1e-6
    """ASG: what every soft relation has at least, so that its logarithm exists"""
    local_unpaired: float = 2.0
    """E: the same on unpaired images, targets from the relations"""
    same_observation: float = 0.3
    """E: target of a phrase for an image whose report states the same observation elsewhere (the exact one has 1)"""
    lesion: float = 0.5
    """E: contrast of pooled lesion tokens with pooled phrases of a pair"""
    text: float = 0.25
    """E: phrase against its word-dropped self, and report against its phrases, on all reports"""
    consistency: float = 1.0
    """E: unpaired image's phrase responses against the EMA teacher's"""
    token: float = 0.35
    """`mgca`: token-wise alignment; MGCA's 0.7 beside an instance term that sums what we average, hence half of it"""
    swap: float = 0.25
    """`mgca`: prototype alignment; half of MGCA's 0.5 for the same reason"""
    semantic: float = 1.0
    """`medclip`: its only term"""
    section: float = 1.0
    """`biovil`: contrast of the two sections of a report"""
    memory: float = 1.0
    """`prior`: L1 distance of a sentence from what the memory recalls; PRIOR's 10, which it adds in a second stage,
    draws all sentences of an untrained text tower onto one point"""
    siam: float = 1.0
    """`prior`: patches with what they attend to"""
    existence: float = 1.0
    """`medklip`: its only term on pairs"""
    cross: float = 1.0
    """`carzero`: its only term"""
    temperature: float = 0.1
    """of the contrastive terms; where it is learned, its start"""
    learned_temperature: bool = True
    """whether the temperature is learned (CLIP), or stays what it is (MGCA, ASG)"""
    local_temperature: float = 0.1
    """temperature of the phrase-to-patch scores"""
    presence_threshold: float = 0.6
    """E: phrase-to-patch score at which a phrase is as likely true of an image as not"""

    def __post_init__(self) -> None:
        for entry in fields(self):
            _check_range(entry.name, getattr(self, entry.name), 0, 1e6)
        for name in ("temperature", "local_temperature"):
            _check_range(name, getattr(self, name), 0, 10, open_ends=True)
        _check_range("erl_floor", self.erl_floor, 0, 1, open_ends=True)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The schedule (Algorithm 1, reconstruction) and the optimiser."""

    text_steps: int = 80
    """text-only warm-up steps of `lgdea`; methods without text terms spend them on pairs, so all take as many"""
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
    unpaired_share: float = 0.5
    """share of unpaired images in a batch once relations are used"""
    learning_rate: float = 2e-3
    text_learning_rate: float = 3e-3
    """learning rate of the text warm-up"""
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
            _check_range(name, getattr(self, name), 0, 100_000_000)
        for name in ("refresh_every", "checkpoint_every", "log_every"):
            _check_range(name, getattr(self, name), 1, 100_000_000)
        _check_range("batch_size", self.batch_size, 2, 1_000_000)
        _check_range("unpaired_share", self.unpaired_share, 0, 1)
        _check_range("warmup_share", self.warmup_share, 0, 1, open_ends=True)
        for name in ("learning_rate", "text_learning_rate"):
            _check_range(name, getattr(self, name), 0, 1e6, open_ends=True)
        for name in ("weight_decay", "clip_norm"):
            _check_range(name, getattr(self, name), 0, 1e6)
        _check_range("teacher_decay", self.teacher_decay, 0, 1)
        _check_choice("mixed_precision", self.mixed_precision, ("no", "bf16"))

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
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        _check_choice("preset", self.preset, tuple(PRESETS))
        _check_choice("method", self.method, METHODS)
        _check_range("seed", self.seed, 0, 2**31)
        if self.reads_relations and "affinity" in self.graph.mode and not self.loss.local:
            raise ValueError(f"mode {self.graph.mode!r} reads the local head, which local=0 does not train; use graph")

    @property
    def reads_relations(self) -> bool:
        """Whether evidence and relations train the method: `lgdea` or a combination with it."""
        return METHODS[self.method].relations

    @property
    def reads_regions(self) -> bool:
        """Whether regions and tags train the method: `asg` or a combination with it."""
        return METHODS[self.method].regions

    @classmethod
    def from_preset(cls, preset: str | None = None, **changes: Any) -> "RunConfig":
        """A preset with some values changed.

        Args:
            preset: one of `PRESETS`; None takes the environment's LGDEA_PRESET, or else "demo".
            **changes: fields of `RunConfig`, or of one of its parts by that field's own name (`paired_ratio=0.1`). None
                keeps the preset's value; for PAIRS+IMAGES+REPORTS all pairs are known unless a ratio is given, because
                the unpaired pools come from elsewhere.

        Raises:
            ValueError: unknown preset, unknown field, or a value out of range.
        """
        preset = preset or os.environ.get(PRESET_VARIABLE) or "demo"
        _check_choice("preset", preset, tuple(PRESETS))
        changes = {name: value for name, value in changes.items() if value is not None}
        if "+" in changes.get("corpus", ""):
            changes.setdefault("paired_ratio", 1.0)
        values = PRESETS[preset] | METHOD_PRESETS.get((preset, changes.get("method", "")), {})
        return replace_fields(cls(preset=preset, **values), **changes)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> "RunConfig":
        """Read what `save` wrote; a field that is unknown here, as of another version, is a ValueError."""
        values = json.loads(path.read_text())
        parts = {entry.name: entry.default_factory for entry in fields(cls) if isinstance(values.get(entry.name), dict)}
        try:
            return cls(**{name: parts[name](**value) if name in parts else value for name, value in values.items()})
        except TypeError as error:
            raise ValueError(f"{path}: {error}; another version wrote it, start a new run") from error


def replace_fields(config: RunConfig, **changes: Any) -> RunConfig:
    """The same configuration with fields of it, or of its parts, changed by name."""
    for name, value in changes.items():
        if name in vars(config):
            config = replace(config, **{name: value})
            continue
        owners = [part for part, own in vars(config).items() if is_dataclass(own) and name in vars(own)]
        if not owners:
            raise ValueError(f"no configuration field is called {name!r}")
        config = replace(config, **{owners[0]: replace(getattr(config, owners[0]), **{name: value})})
    return config


PRESETS: dict[str, dict[str, Any]] = {
    "ci": {
        "data": DataConfig(studies=300, image_size=64),
        "model": ModelConfig(dim=32, prototypes=16, lesions=4, max_tokens=64),
        "graph": GraphConfig(keep=50),
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
        "loss": LossConfig(local=0.0, local_unpaired=0.0, lesion=0.0, text=0.0, consistency=0.0, temperature=0.07),
        "train": TrainConfig(
            text_steps=2000, pair_steps=20_000, relation_steps=60_000, ramp_steps=10_000, refresh_every=3000,
            batch_size=144, teacher_decay=0.0, learning_rate=4e-5, text_learning_rate=4e-5,
            checkpoint_every=2000, log_every=100,
        ),
    },
}  # fmt: skip
"""One dial. The LGDEA paper's own constants are not public to us: `paper` takes MGCA's and ASG's."""

METHOD_PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("paper", "asg"): {
        "data": DataConfig(corpus="mimic_cxr", image_size=224, paired_ratio=1.0),
        "model": ModelConfig(
            image_tower="facebook/deit-base-patch16-224", text_tower="emilyalsentzer/Bio_ClinicalBERT", text_layers=6,
            neck_width=768, max_tokens=112,
        ),
        "loss": LossConfig(temperature=0.07, learned_temperature=False, local_temperature=0.07),
        "train": TrainConfig(
            text_steps=0, pair_steps=37_700, relation_steps=0, batch_size=288, learning_rate=4e-5, warmup_share=0.4,
            clip_norm=0.0, mixed_precision="no", checkpoint_every=1000, log_every=100,
        ),
    },
}  # fmt: skip
"""(preset, method) -> parts that differ. ASG's released schedule: AdamW 4e-5, weight decay 0.05, 72 on each of 4 GPUs,
50 epochs of 217,000 pairs, warm-up over 40 % of the steps. README's Deviations say what has no field here."""
