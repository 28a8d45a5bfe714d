"""The command of `lgdea_core.grounding`: one film, one phrase, its map and the overlay."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lgdea_core.data.images import read_image
from lgdea_core.figures import figure_phrase_grounding, save_figure
from lgdea_core.grounding import ground, load
from lgdea_core.paths import git_commit, project_root

logger = logging.getLogger("lgdea")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write `<film>_<phrase>.npy` (the map, NaN where unseen) and `.png`, `.pdf` (the overlay)."""
    parser = argparse.ArgumentParser(prog="python -m lgdea_core.grounding", description=main.__doc__)
    parser.add_argument("image", type=Path, help="a film: PNG, JPEG or DICOM")
    parser.add_argument("phrase", help='what to look for, such as "small left pleural effusion"')
    parser.add_argument("--model", type=Path, required=True, help="folder written by save_pretrained")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the map and the overlay (default: .)")
    parser.add_argument("--space", choices=("joint", "prototypes"), default="joint")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    image = read_image(options.image)
    model, processor = load(options.model)
    similarity_map = ground(model, processor, image, options.phrase, space=options.space)
    options.output.mkdir(parents=True, exist_ok=True)
    words = "_".join("".join(c if c.isalnum() else " " for c in options.phrase).split())
    stem = options.output / f"{options.image.stem}_{words}"
    np.save(stem.with_suffix(".npy"), similarity_map)
    origin = {"run": str(options.model), "commit": git_commit(project_root()), "seed": "none"}
    save_figure(figure_phrase_grounding(image, similarity_map, [], options.phrase), stem, origin)
    logger.info("%s.npy, .png and .pdf: similarity from %.2f to %.2f", stem, *_ends(similarity_map))


def _ends(similarity_map: Float[np.ndarray, "height width"]) -> tuple[float, float]:
    return float(np.nanmin(similarity_map)), float(np.nanmax(similarity_map))


if __name__ == "__main__":
    main()
