"""The command of `lgdea_core.grounding`: one film, one phrase, its map and the overlay."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lgdea_core.data.images import read_image
from lgdea_core.figures.grounding import figure_phrase_grounding
from lgdea_core.figures.save import save_figure
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
    parser.add_argument("--device", help="where the model runs, such as cpu or cuda:1 (default: the best there is)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    image = read_image(options.image)
    model, processor = load(options.model, device=options.device)
    similarity_map = ground(model, processor, image, options.phrase, space=options.space)
    options.output.mkdir(parents=True, exist_ok=True)
    uid = options.image.suffix[1:].isdigit()  # a DICOM file is often called by its UID alone: its last dot ends no name
    film = options.image.name if uid else options.image.stem
    words = "_".join("".join(c if c.isalnum() else " " for c in options.phrase).split())
    stem = options.output / f"{film}_{words}"
    np.save(f"{stem}.npy", similarity_map)
    origin = {"run": str(options.model), "commit": git_commit(project_root()), "seed": "none"}
    save_figure(figure_phrase_grounding(image, similarity_map, [], options.phrase), stem, origin)
    low, high = np.nanmin(similarity_map), np.nanmax(similarity_map)
    logger.info("%s.npy, .png and .pdf: similarity from %.2f to %.2f", stem, low, high)


if __name__ == "__main__":
    main()
