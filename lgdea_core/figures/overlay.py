"""The command of `lgdea_core.grounding`: one film, one phrase, its map and the overlay."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lgdea_core.command import Command, ending_mistakes
from lgdea_core.data.images import read_image
from lgdea_core.figures.grounding import figure_phrase_grounding
from lgdea_core.figures.save import save_figure
from lgdea_core.grounding import BOX, BOX_SAYS, ground, load
from lgdea_core.paths import git_commit, project_root, replacing

logger = logging.getLogger("lgdea")

LONGEST_PART = 100
"""Bytes of the film's and of the phrase's part of a file name; file systems take 255 of the whole."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write `<film>_<phrase>.npy` (the map, NaN where unseen) and `.png`, `.pdf` (the overlay)."""
    parser = Command(prog="python -m lgdea_core.grounding", description=main.__doc__)
    parser.add_argument("image", type=Path, help="a film: PNG, JPEG or DICOM")
    parser.add_argument("phrase", help='what to look for, such as "small left pleural effusion"')
    parser.add_argument(
        "--model", type=Path, default=BOX, help=f"folder written by save_pretrained (default: {BOX_SAYS})"
    )
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the map and the overlay (default: .)")
    parser.add_argument("--space", choices=("joint", "prototypes"), default="joint")
    parser.add_argument("--device", help="where the model runs, such as cpu or cuda:1 (default: the best there is)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # of each glyph of the PDF
    with ending_mistakes(parser):
        stem = options.output / map_name(options.image, options.phrase)
        if options.output.exists() and not options.output.is_dir():
            raise ValueError(f"--output {options.output} is a file; give a folder")
        image = read_image(options.image)
        model, processor = load(options.model, device=options.device)
        if options.model == BOX:
            logger.info("%s; --model takes another", BOX_SAYS)
        similarity_map = ground(model, processor, image, options.phrase, space=options.space)
        options.output.mkdir(parents=True, exist_ok=True)
        target = stem.with_name(f"{stem.name}.npy")
        with replacing(target) as part, part.open("wb") as file:
            np.save(file, similarity_map)
        name = BOX.name if options.model == BOX else str(options.model)
        origin = {"run": name, "commit": git_commit(project_root()), "seed": "none"}
        save_figure(figure_phrase_grounding(image, similarity_map, [], options.phrase), stem, origin)
    low, high = np.nanmin(similarity_map), np.nanmax(similarity_map)
    logger.info("%s, .png and .pdf: similarity from %.2f to %.2f", target, low, high)


def map_name(image: Path, phrase: str) -> str:
    """`<film>_<words of the phrase>`; what is too long for a file's name is cut and ends in a hash of the whole.

    A DICOM file is often called by its UID alone: its last dot ends no name.
    """
    film = image.name if image.suffix[1:].isdigit() else image.stem
    words = "_".join("".join(c if c.isalnum() else " " for c in phrase).split())
    return f"{_short(film, film)}_{_short(words, phrase)}"


def _short(name: str, whole: str) -> str:
    if len(name.encode()) <= LONGEST_PART and name:
        return name
    cut = name.encode()[: LONGEST_PART - 10].decode(errors="ignore")
    return f"{cut}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


if __name__ == "__main__":
    main()
