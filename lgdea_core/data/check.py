"""Validate a download: `python -m lgdea_core.data.check <corpus> <root>`.

Prints counts, what the loader left out, and one line per problem (missing file, unreadable image, bad box) with file
and line. Exit status 0: no problem; 1: at least one.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm.auto import tqdm

from lgdea_core.command import Command, ending_mistakes
from lgdea_core.data.corpora import CORPORA, load_corpus
from lgdea_core.data.corpora.folder import read_folder
from lgdea_core.data.corpus import COLUMNS, Corpus, quoted
from lgdea_core.data.images import read_image, read_mask
from lgdea_core.vocabulary import SPLITS


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What a download holds and what is wrong with it."""

    counts: dict[str, int] = field(default_factory=dict)
    """rows of each table, patients, reports and studies of each split"""
    exclusions: dict[str, int] = field(default_factory=dict)
    """what the loader left out, by reason; not every reason is a problem"""
    problems: list[str] = field(default_factory=list)
    """one line each, with file and line where there is one"""

    def lines(self) -> Iterator[str]:
        """The report as text."""
        yield from (f"{name}: {count}" for name, count in self.counts.items())
        yield from (f"left out: {reason}: {count}" for reason, count in sorted(self.exclusions.items()))
        yield from (f"PROBLEM {problem}" for problem in self.problems)
        yield f"{len(self.problems)} problem(s)" if self.problems else "no problem found"


def check_corpus(
    name: str, root: Path, *, headers_only: bool = False, allow_outside: bool = False, progress: bool = True
) -> CheckReport:
    """Load a corpus, decode every image and mask, and test every box; the download is not written to.

    Args:
        name: one of `CORPORA`.
        root: the corpus's own folder.
        headers_only: trust an image whose header can be read.
        allow_outside: the table of a `folder` is your own and may name images anywhere.
        progress: show a bar.
    """
    with TemporaryDirectory() as scratch:
        try:
            if name == "folder":  # its loader stops at the first problem; here all of them count
                corpus, errors = read_folder(root, allow_outside)
                problems = [str(error) for error in errors]
            else:
                # what these two make goes to a folder that is removed
                written = {"siim": "mask_root", "painted_nih": "folder"}
                options = {written[name]: Path(scratch) / "made"} if name in written else {}
                corpus = load_corpus(name, root, **options)
                problems = list(getattr(corpus.exclusions, "defects", []))
        except (ValueError, OSError) as error:
            return CheckReport(problems=[str(error)])
        problems += _box_problems(corpus)
        if not headers_only:
            problems += _image_problems(corpus, progress)
            problems += _mask_problems(corpus)
    counts = {table: len(getattr(corpus, table)) for table in COLUMNS}
    counts["patients"] = corpus.studies["patient_id"].nunique()
    counts["reports"] = int(corpus.studies["report"].notna().sum())
    counts["boxed images"] = corpus.boxes["image_id"].nunique()
    counts |= {f"studies of {split}": int((corpus.studies["split"] == split).sum()) for split in SPLITS}
    return CheckReport(counts=counts, exclusions=dict(corpus.exclusions), problems=problems)


def _box_problems(corpus: Corpus) -> Iterator[str]:
    boxes = corpus.boxes
    bad = (boxes["x_min"] >= boxes["x_max"]) | (boxes["y_min"] >= boxes["y_max"])
    bad |= (boxes["x_min"] < 0) | (boxes["x_max"] > boxes["frame_width"])
    bad |= (boxes["y_min"] < 0) | (boxes["y_max"] > boxes["frame_height"])
    for number, row in boxes[bad.astype(bool)].iterrows():
        box = tuple(float(row[side]) for side in ("x_min", "y_min", "x_max", "y_max"))
        yield f"table boxes, row {number}, image {quoted(row['image_id'])}: box {box} has no area or leaves its frame"


def _image_problems(corpus: Corpus, progress: bool) -> Iterator[str]:
    def problem(row: Any) -> str | None:
        try:
            height, width = read_image(corpus.root / row.path).shape
        except (ValueError, OSError) as error:
            return f"image {quoted(row.image_id)}: {error}"
        if (height, width) != (row.height, row.width):
            return f"image {quoted(row.image_id)}: {height} x {width} pixels, the table says {row.height} x {row.width}"
        return None

    rows = list(corpus.images.itertuples())
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = tqdm(pool.map(problem, rows), total=len(rows), unit="image", desc="images", disable=not progress)
        yield from (result for result in results if result)


def _mask_problems(corpus: Corpus) -> Iterator[str]:
    size_of = {row.image_id: (row.height, row.width) for row in corpus.images.itertuples()}
    for row in corpus.masks.itertuples():
        try:
            shape = read_mask(corpus.root / row.path).shape
        except (ValueError, OSError) as error:
            yield f"mask of image {quoted(row.image_id)}: {error}"
            continue
        if shape != size_of[row.image_id]:
            sizes = f"{shape[0]} x {shape[1]} pixels, its image has {size_of[row.image_id]}"
            yield f"mask of image {quoted(row.image_id)}: {sizes}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = Command(prog="python -m lgdea_core.data.check", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("corpus", choices=sorted(CORPORA), help="which layout")
    parser.add_argument("root", type=Path, help="the corpus's own folder")
    parser.add_argument("--headers-only", action="store_true", help="do not decode the images")
    parser.add_argument(
        "--allow-outside", action="store_true", help="of folder: the table is your own and may name images anywhere"
    )
    options = parser.parse_args(arguments)
    if options.allow_outside and options.corpus != "folder":
        parser.error(f"--allow-outside is for corpus folder, not {options.corpus}")
    with ending_mistakes(parser):
        report = check_corpus(
            options.corpus, options.root, headers_only=options.headers_only, allow_outside=options.allow_outside
        )
    sys.stdout.writelines(f"{line}\n" for line in report.lines())
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
