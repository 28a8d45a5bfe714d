"""Where in a film a phrase is true: similarity maps in original pixels, and Grad-CAM.

`python -m lgdea_core.grounding FILM "phrase"` is the command of `figures.overlay`.
"""

import math
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.ndimage import gaussian_filter
from torch import Tensor

from lgdea_core.crops import crop_frame, crop_image, crop_to_original
from lgdea_core.encoders import ImageEmbeddings, token_grid
from lgdea_core.inference import (
    TEXTS_AT_ONCE,
    ImageTextModel,
    ImageTextProcessor,
    best_device,
    evaluating,
    finite,
    full_precision,
)
from lgdea_core.model import LGDEAModel, LGDEAProcessor
from lgdea_core.prototypes import assign

BOX = Path(__file__).parent / "box"
"""The model in the box, a part of the package: what is loaded where no model is named. Its card is README.md there."""
BOX_SAYS = "the model in the box, trained on generated images: it has seen no patient"
SMOOTHING = 1.5
"""Sigma of the Gaussian over the patch grid, in patches of BioViL's 14 x 14 grid."""


class MapProtocol(NamedTuple):
    """How a grid of patch similarities becomes a map of the film."""

    scaled: bool
    """sigma shrinks with the grid, so that it is the same part of the film; or is `SMOOTHING` patches of any grid"""
    interpolation: Literal["bilinear", "nearest"]


MAP_PROTOCOLS = {
    "smooth": MapProtocol(scaled=True, interpolation="bilinear"),
    "biovil": MapProtocol(scaled=False, interpolation="nearest"),
}
"""name -> rule. "biovil" is that of hi-ml's inference engine, by which BioViL and BioViL-T are measured; "smooth" (R),
the default, serves any grid. Under both the crop is what the model sees, and the map has the film's own pixels; MaCo
and AFLoc measure on 224 pixels of the padded film instead."""


def ground(
    model: LGDEAModel,
    processor: LGDEAProcessor,
    image: Float[np.ndarray, "height width"],
    phrase: str,
    *,
    space: Literal["joint", "prototypes"] = "joint",
) -> Float[np.ndarray, "height width"]:
    """Similarity map of one phrase over one film, in the film's own pixels.

    Joint space: cosine of the phrase and each patch. A method with a query decoder has none: its map is the decoder's
    attention `a`, as `(a - mean a) / (a + mean a)`, so that 0 is an average patch; MedKLIP's threshold, 0.008 on a grid
    of 196, is 0.22 here. Prototypes: Bhattacharyya coefficient of the phrase's and each patch's assignment, in [0, 1].
    The patch grid is smoothed and interpolated bilinearly.

    Args:
        model: any trained `LGDEAModel`.
        processor: its processor.
        image: grey levels in [0, 1].
        phrase: such as "small left pleural effusion".
        space: where phrase and patches meet.

    Returns:
        Values in [-1, 1], NaN where the model's square crop never looked.

    Raises:
        ValueError: the phrase is empty.
    """
    crop = torch.from_numpy(crop_image(image, processor.image_size)).unsqueeze(0)
    grid = patch_maps(model, processor, crop, [phrase], space=space)[0, 0]
    return crop_to_original(grid, crop_frame(*image.shape, processor.image_size))


@torch.no_grad()
def patch_maps(
    model: ImageTextModel,
    processor: ImageTextProcessor,
    crops: UInt8[Tensor, "images height width"],
    phrases: Sequence[str],
    *,
    space: Literal["joint", "prototypes"] = "joint",
    smoothing: float = SMOOTHING,
    scaled: bool = True,
) -> Float[np.ndarray, "images phrases grid grid"]:
    """Similarity of every phrase with every patch of every image, smoothed on the patch grid.

    Args:
        model: used in evaluation mode and full precision.
        processor: its own.
        crops: the images.
        phrases: none empty.
        space: see `ground`.
        smoothing: sigma of the Gaussian, in patches of a 14 x 14 grid.
        scaled: sigma shrinks or grows with the grid; else it counts the grid's own patches.

    Raises:
        ValueError: a phrase is empty.
    """
    texts = phrase_embeds(model, processor, phrases)
    with full_precision(model), evaluating(model):
        images = model.encode_crops(crops.to(texts.device))
    return patch_grids(model, images, texts, space=space, smoothing=smoothing, scaled=scaled)


@torch.no_grad()
def phrase_embeds(
    model: ImageTextModel, processor: ImageTextProcessor, phrases: Sequence[str]
) -> Float[Tensor, "phrases dim"]:
    """Phrases as patches meet them, on the model's device.

    Raises:
        ValueError: a phrase is empty.
    """
    if not all(phrase.strip() for phrase in phrases):
        raise ValueError("a phrase to ground must not be empty")
    device = next(model.parameters()).device
    blocks = []
    with evaluating(model):
        for start in range(0, len(phrases), TEXTS_AT_ONCE):
            tokens = processor.tokens(list(phrases[start : start + TEXTS_AT_ONCE]))
            blocks.append(model.method.phrase_embeds(model, *(part.to(device) for part in tokens)))
    return torch.cat(blocks)


@torch.no_grad()
def patch_grids(
    model: ImageTextModel,
    images: ImageEmbeddings,
    texts: Float[Tensor, "phrases dim"],
    *,
    space: Literal["joint", "prototypes"] = "joint",
    smoothing: float = SMOOTHING,
    scaled: bool = True,
) -> Float[np.ndarray, "images phrases grid grid"]:
    """`patch_maps` of images that are encoded already, and of `phrase_embeds`."""
    if space == "joint":
        maps = model.method.maps(model, images, texts)
    else:
        points, config = model.prototype_points, model.config
        maps = torch.einsum(
            "nk,ipk->inp",
            assign(texts, points, config.text_temperature).sqrt(),
            assign(model.method.patches(model, images), points, config.image_temperature).sqrt(),
        )
    side = math.isqrt(maps.shape[2])
    grids = finite(maps.unflatten(2, (side, side)).cpu().numpy(), "maps", "similarities of phrases and patches")
    sigma = smoothing * side / 14 if scaled else smoothing
    return gaussian_filter(grids, sigma=(0, 0, sigma, sigma)) if sigma else grids


class _PhraseTarget:
    """What Grad-CAM differentiates: the cosine of the image's embedding with one phrase."""

    def __init__(self, text_embed: Float[Tensor, "dim"]) -> None:
        self.text_embed = text_embed

    def __call__(self, image_embed: Float[Tensor, "dim"]) -> Float[Tensor, ""]:
        return image_embed @ self.text_embed


class _ImageEmbed(torch.nn.Module):
    def __init__(self, model: LGDEAModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Float[Tensor, "images 1 height width"]) -> Float[Tensor, "images dim"]:
        return self.model.encode_images(pixel_values).image_embeds


def gradcam(
    model: LGDEAModel, processor: LGDEAProcessor, image: Float[np.ndarray, "height width"], phrase: str
) -> Float[np.ndarray, "height width"]:
    """Grad-CAM of the image-phrase cosine at the tower's last map (package grad-cam), in original pixels.

    Values in [0, 1], scaled to the map's own maximum by that package: it says where, not how much.

    Raises:
        ValueError: the method has a query decoder, hence no cosine to differentiate.
    """
    if model.method.decodes:
        raise ValueError(
            "gradcam: this model's decoder takes the place of a cosine; use `ground`, which maps its attention"
        )
    from pytorch_grad_cam import GradCAM  # optional package

    crop = torch.from_numpy(crop_image(image, processor.image_size)).unsqueeze(0)
    device = next(model.parameters()).device
    with full_precision(model), evaluating(model):
        with torch.no_grad():
            text = model.encode_texts(*(part.to(device) for part in processor.tokens([phrase])))[0]
            finite(text.cpu().numpy(), "gradcam", "values of the phrase's embedding")
        tower = model.image_tower
        maps = {"reshape_transform": lambda output: output if output.ndim == 4 else token_grid(output)}
        pixels = processor.pixel_values(crop).to(device).requires_grad_()  # the weights of a frozen tower need none
        with GradCAM(model=_ImageEmbed(model), target_layers=[tower.seen], **maps) as cam:
            heat = cam(input_tensor=pixels, targets=[_PhraseTarget(text)])[0]
    heat = finite(heat, "gradcam", "values of the map")
    return crop_to_original(heat.astype(np.float32), crop_frame(*image.shape, processor.image_size))


def load(folder: Path | str = BOX, device: torch.device | str | None = None) -> tuple[LGDEAModel, LGDEAProcessor]:
    """Model, ready for evaluation, and processor of a folder of `runs.variants.save_trained`.

    Args:
        folder: written by `save_pretrained`; where none is given it is the model in the box, which saw no patient.
        device: where the model goes; None takes `inference.best_device`.

    Raises:
        FileNotFoundError: the folder is not there or holds no model.
        ValueError: its files are cut or do not fit each other, a size is beyond any model here, a weight is not finite,
            or there is no such device.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no model there; give a folder written by `save_pretrained`")
    model = LGDEAModel.from_pretrained(folder).eval()
    for name, weight in model.state_dict().items():
        if not weight.isfinite().all():
            raise ValueError(f"{folder}: weights {name} are not finite; the training went wrong, repeat it")
    processor = LGDEAProcessor.from_pretrained(folder)
    if processor.image_size != model.config.image_size:
        raise ValueError(
            f"{folder}: the processor makes images of {processor.image_size} pixels, the model reads "
            f"{model.config.image_size}; the files are not of one model"
        )
    try:
        model.to(best_device() if device is None else device)
    except RuntimeError as error:
        raise ValueError(f"device {device}: {error}") from error
    model.folder = folder
    return model, processor


if __name__ == "__main__":
    runpy.run_module("lgdea_core.figures.overlay", run_name="__main__")  # the command reads films and draws: a room
