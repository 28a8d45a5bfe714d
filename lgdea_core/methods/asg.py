"""ASG (Li et al., MICCAI 2024; arXiv 2403.09294, by its released code): anatomical regions, sentences and image tags.

On the known pairs `ita` is its IRA; arsa contrasts regions with the sentences that name them, within an image; irl
recognises the image's tags; erl pulls the contrast of pairs towards soft relations by their tags.
"""

import logging
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from lgdea_core.batch import Batch, TrainingData, one_text, pad_tokens
from lgdea_core.config import DataConfig, LossConfig, ModelConfig, Objective, RunConfig, TrainConfig, check_range
from lgdea_core.crops import moved_boxes
from lgdea_core.encoders import ImageEmbeddings, mean_token
from lgdea_core.losses import region_sentence_loss, soft_relation_divergence, tag_recognition_loss
from lgdea_core.method import Drawn, Method, Terms, Weights, pair_term
from lgdea_core.model import LGDEAConfig, LGDEAModel, LGDEAProcessor
from lgdea_core.prototypes import pool_patches
from lgdea_core.vocabulary import ASG_TAGS

logger = logging.getLogger("lgdea")


@dataclass(frozen=True, kw_only=True)
class ASGConfig(Objective):
    """ASG's own weights and constants.

    ASG sums both directions of its contrasts (weights 1, 1, 5, 1) where we average them: its weights are halved here,
    and `ita` stays what it is for every method.
    """

    arsa: float = 1.0
    """regions against sentences within an image"""
    irl: float = 2.5
    """image-tag recognition; its 5, halved"""
    erl: float = 0.5
    """pairs against soft relations by their tags; its 1, halved"""
    erl_identity: float = 0.8
    """share of the pair itself in the soft relations"""
    erl_similarity: float = 0.2
    """share of the cosine of the tags"""
    erl_floor: float = 1e-6
    """what every soft relation has at least, so that its logarithm exists"""
    tag_layers: int = 4
    """layers of the image-tag decoder"""
    tag_heads: int = 4
    """its attention heads"""
    tag_widening: float = 4 / 3
    """width of its feed-forward layers over that of its tokens (1024 / 768)"""
    tag_dropout: float = 0.1
    """its dropout"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("erl_floor", self.erl_floor, 0, 1, open_ends=True)
        for name in ("tag_layers", "tag_heads"):
            check_range(name, getattr(self, name), 1, 1_000_000)
        check_range("tag_widening", self.tag_widening, 0, 100, open_ends=True)
        check_range("tag_dropout", self.tag_dropout, 0, 1)


PRESETS = {"paper": {
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
}}  # fmt: skip
"""ASG's released schedule: AdamW 4e-5, weight decay 0.05, 72 on each of 4 GPUs, 50 epochs of 217,000 pairs, warm-up
over 40 % of the steps. docs/deviations.md says what has no field here."""


class RegionPart(NamedTuple):
    """One step's regions and sentences: those of its pairs where the sentence names a region that is in view."""

    boxes: Float[Tensor, "regions 4"]
    """x_min, y_min, x_max, y_max in the augmented crop, as shares of its side"""
    region_image: Int[Tensor, "regions"]
    """row of the batch's images that each box lies in"""
    sentence_tokens: Int[Tensor, "texts tokens"]
    """the distinct sentences"""
    sentence_mask: Bool[Tensor, "texts tokens"]
    sentence_text: Int[Tensor, "sentences"]
    """row of `sentence_tokens`: reports may share a sentence"""
    sentence_image: Int[Tensor, "sentences"]
    """row of the batch's images whose report says it"""
    named: Float[Tensor, "regions sentences"]
    """1 where the sentence, of the same pair, names the region"""
    tags: Float[Tensor, "pairs tags"]
    tag_relations: Float[Tensor, "pairs pairs"]
    """soft relations of the pairs, see `tag_relations`"""


class ASG(Method):
    """Contrast of pairs, and what anatomy adds."""

    Config = ASGConfig
    presets = PRESETS
    regions = True

    def modules(self, config: LGDEAConfig, objective: Any, image_width: int, text_width: int) -> dict[str, nn.Module]:
        """The tag decoder where `irl` trains it, and a head for sentences beside that for reports where `arsa` does."""
        modules = {}
        if objective.irl:
            shape = objective.tag_layers, objective.tag_heads, objective.tag_widening, objective.tag_dropout
            modules["tag_decoder"] = TagDecoder(text_width, image_width, *shape)
        if objective.arsa:
            modules["sentence_head"] = nn.Linear(text_width, config.dim)
        return modules

    @torch.no_grad()
    def prepare(self, model: LGDEAModel, processor: LGDEAProcessor) -> None:
        """Set the tag decoder's queries: what the text tower makes of the tags' names before any training.

        All names have most of it in common (mean cosine 0.9 from a fresh tower), so each channel is standardised. Names
        that the tokenizer reads as the same unknown word stay the same query, which the log says.
        """
        if not model.objective.irl:
            return
        tokens, mask = processor.tokens(list(ASG_TAGS))
        alike = len(tokens) - len(tokens.unique(dim=0))
        if alike:
            logger.warning(
                "the tokenizer cannot tell %d of %d tag names from others; name a text tower", alike, len(tokens)
            )
        model.text_tower.eval()  # without dropout
        features = model.text_tower.features(tokens, mask)
        model.tag_decoder.tag_embeds.copy_((features - features.mean(dim=0)) / features.std(dim=0).clamp(min=1e-6))
        model.text_tower.train()

    def check_data(self, config: RunConfig, data: TrainingData) -> None:
        if data.regions is None:
            raise ValueError(f"method {config.method!r} needs `TrainingData.regions`; prepare the data for this method")
        if not config.weights["arsa"]:
            return
        if not np.isfinite(data.regions.boxes[data.seed_pairs[:, 0]]).any():
            raise ValueError(
                f"method {config.method!r} aligns regions, but no paired image has a region box; lay Chest ImaGenome "
                "beside MIMIC-CXR (data/README.md), give boxes of your own (`Corpus.regions`), or set arsa=0"
            )
        if not any(len(data.regions.links[report]) for report in data.seed_pairs[:, 1]):
            raise ValueError(
                f"method {config.method!r} aligns sentences with regions, but no paired report names one; look at "
                "evidence.parquet, or set arsa=0"
            )

    def draw(self, drawn: Drawn) -> RegionPart | None:
        """Regions, sentences and tags of the pairs; None without pairs."""
        return region_part(drawn) if len(drawn.pairs) else None

    def terms(self, model: LGDEAModel, batch: Batch, teacher: LGDEAModel, weights: Weights) -> Terms:
        pairs = batch.pairs
        images = model.encode_images(batch.pixel_values[:pairs])
        reports = model.encode_texts(batch.report_tokens[:pairs], batch.report_mask[:pairs])
        terms = pair_term(weights, images.image_embeds, reports, batch, model.logit_scale)
        return terms | anatomy_terms(model, images, reports, batch.own, weights)

    def trains_local(self, objective: Any) -> bool:
        return objective.arsa > 0

    def tells_whether(self, objective: Any) -> bool:
        return False

    def phrase_embeds(
        self, model: LGDEAModel, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts dim"]:
        """Phrases as regions meet sentences, for nothing else trains the local head."""
        if not model.objective.arsa:
            return model.encode_texts(input_ids, token_mask)
        return F.normalize(sentence_embeds(model, input_ids, token_mask), dim=-1)


METHOD = ASG()


def anatomy_terms(
    model: LGDEAModel, images: ImageEmbeddings, reports: Float[Tensor, "_ dim"], part: RegionPart, weights: Weights
) -> Terms:
    """What ASG adds to the contrast of pairs: regions with sentences, soft relations by tags, tags of the image.

    Sentences are encoded alone, as they are in evaluation; ASG pools the words of each from the encoded report.

    Args:
        model: with the modules of `ASG`.
        images: their first rows are the pairs'.
        reports: embeddings, likewise.
        part: of the pairs.
        weights: of the terms.
    """
    pairs, terms = len(part.tags), {}
    if weights["arsa"]:
        pooled = pool_regions(images.patch_embeds, part.boxes, part.region_image)
        sentences = sentence_embeds(model, part.sentence_tokens, part.sentence_mask)[part.sentence_text]
        same_image = part.region_image.unsqueeze(1) == part.sentence_image.unsqueeze(0)
        temperature = model.config.local_temperature
        terms["arsa"] = region_sentence_loss(pooled, sentences, part.named, same_image, temperature)
    if weights["erl"]:
        logits = model.logit_scale * images.image_embeds[:pairs] @ reports[:pairs].T
        terms["erl"] = soft_relation_divergence(logits, part.tag_relations)
    if weights["irl"]:
        terms["irl"] = tag_recognition_loss(model.tag_decoder(images.patch_features[:pairs]), part.tags)
    return terms


def sentence_embeds(
    model: LGDEAModel, input_ids: Int[Tensor, "texts tokens"], token_mask: Bool[Tensor, "texts tokens"]
) -> Float[Tensor, "texts dim"]:
    """Sentences as regions meet them: mean of the L2-normalised embeddings of their tokens (ARSA).

    By the sentence head, or by that of whole texts in a model without one. Not normalised again.
    """
    head = getattr(model, "sentence_head", model.text_tower.head)
    tokens = F.normalize(head(model.text_tower.token_features(input_ids, token_mask)).float(), dim=-1)
    return mean_token(tokens, token_mask)


def pool_regions(
    patch_embeds: Float[Tensor, "images patches dim"],
    boxes: Float[Tensor, "regions 4"],
    region_image: Int[Tensor, "regions"],
) -> Float[Tensor, "regions dim"]:
    """Mean patch embedding of each box: RoIAlign to 1 x 1 (ASG, ARSA), not normalised again.

    The cell in row i covers i to i + 1 of the grid, hence `aligned=True`: without it a box over the whole of a 4 x 4
    grid is read half a cell to the lower right.

    Args:
        patch_embeds: L2-normalised, row by row over a square grid.
        boxes: x_min, y_min, x_max, y_max as shares of the image's side.
        region_image: row of `patch_embeds` that each box lies in.
    """
    side = math.isqrt(patch_embeds.shape[1])
    grid = patch_embeds.transpose(1, 2).unflatten(2, (side, side))
    rois = torch.cat([region_image.unsqueeze(1), boxes * side], dim=1).to(grid.dtype)
    return roi_align(grid, rois, output_size=1, aligned=True).flatten(1)


class TagDecoder(nn.Module):
    """Which of `ASG_TAGS` an image shows (ASG, IRL): tag names as queries, patches as memory.

    Pre-norm transformer decoder layers, then one linear layer for all tags. `tag_embeds` are frozen: the text tower's
    features of the names before any training, set once by `ASG.prepare` (ASG encodes them anew in every step).
    """

    def __init__(self, text_width: int, width: int, layers: int, heads: int, widening: float, dropout: float) -> None:
        super().__init__()
        self.register_buffer("tag_embeds", torch.zeros(len(ASG_TAGS), text_width))
        self.query = nn.Linear(text_width, width)
        layer = nn.TransformerDecoderLayer(
            width, heads, round(width * widening), dropout, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, layers, norm=nn.LayerNorm(width))
        self.head = nn.Linear(width, 1)

    def forward(self, patch_features: Float[Tensor, "images patches channels"]) -> Float[Tensor, "images tags"]:
        """Logits of "the image shows the tag"."""
        queries = self.query(self.tag_embeds).expand(len(patch_features), -1, -1)
        return self.head(self.decoder(queries, pool_patches(patch_features))).squeeze(-1)


def region_part(drawn: Drawn) -> RegionPart:
    """Regions and sentences of a batch's pairs: the boxes move as the images did."""
    data, pairs = drawn.data, drawn.pairs
    boxes = moved_boxes(torch.from_numpy(data.regions.boxes[pairs[:, 0]]), drawn.motion[: len(pairs)])
    visible = boxes.isfinite().all(dim=2).numpy()
    regions: dict[tuple[int, int], int] = {}  # (pair, region) -> row
    said: dict[tuple[int, int], int] = {}  # (pair, sentence) -> row
    named = [
        (regions.setdefault((pair, region), len(regions)), said.setdefault((pair, sentence), len(said)))
        for pair, report in enumerate(pairs[:, 1])
        for sentence, region in data.regions.links[report].tolist()
        if visible[pair, region]
    ]
    relations = torch.zeros(len(regions), len(said))
    relations[tuple(torch.tensor(named, dtype=torch.long).view(-1, 2).T)] = 1.0
    places = torch.tensor(list(regions), dtype=torch.long).view(-1, 2)
    words = [tuple(data.sentences[pairs[pair, 1]][sentence]) for pair, sentence in said]
    distinct = {text: row for row, text in enumerate(dict.fromkeys(words))}
    tokens, mask = pad_tokens([one_text([text], data) for text in distinct], data.special_ids[2])
    tags = torch.from_numpy(data.regions.tags[pairs[:, 1]])
    return RegionPart(
        boxes=boxes[places[:, 0], places[:, 1]],
        region_image=places[:, 0],
        sentence_tokens=tokens,
        sentence_mask=mask,
        sentence_text=torch.tensor([distinct[text] for text in words], dtype=torch.long),
        sentence_image=torch.tensor([pair for pair, _ in said], dtype=torch.long),
        named=relations,
        tags=tags,
        tag_relations=tag_relations(tags, drawn.batch.same_report, drawn.config.objective),
    )


def tag_relations(
    tags: Float[Tensor, "pairs tags"], same_report: Float[Tensor, "pairs pairs"], objective: ASGConfig
) -> Float[Tensor, "pairs pairs"]:
    """Soft relations of pairs by their tags (ASG's code, ERL): `R = 0.8 I + 0.2 cos(tags_i, tags_j) + 1e-6`.

    Films of one study share their report, so `same_report` takes the place of `I`. A report without tags is like no
    other, not even like another without.

    Args:
        tags: 0 or 1.
        same_report: 1 where two pairs share a report.
        objective: holds `erl_identity`, `erl_similarity`, `erl_floor`: the three constants.
    """
    directions = F.normalize(tags, dim=1)
    similarity = directions @ directions.T
    return objective.erl_identity * same_report + objective.erl_similarity * similarity + objective.erl_floor
