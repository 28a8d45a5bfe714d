"""Write the published layout of MIMIC-CXR-JPG with phantom films and reports: size without the data.

    OUT/mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv.gz, -split.csv.gz, -chexpert.csv.gz
    OUT/mimic-cxr-jpg/files/p10/p10000000/s50000000/<dicom_id>.jpg and files/p10/p10000000/s50000000.txt
    OUT/ms-cxr/MS_CXR_Local_Alignment_v1.1.0.csv
    OUT/chest-imagenome/silver_dataset/scene_graph/<dicom_id>_SceneGraph.json, splits/

OUT is what `DataConfig.root` and LGDEA_DATA name. One frontal film a study. A study depends on seed, film size and its
index: killed, the same command goes on where it stood, and a larger --studies adds to what is there. Nothing is held in
memory beyond one shard of studies.
"""

import argparse
import csv
import gzip
import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgdea_core.data.corpora import FOLDERS
from lgdea_core.data.corpora.tables import CHEXPERT_LABELS
from lgdea_core.data.phantom import PhantomConfig, PhantomStudy, generate_study
from lgdea_core.paths import replacing
from lgdea_core.vocabulary import MS_CXR_FINDINGS

SHARD = 250
"""Studies that are made, and noted as made, together."""
TEST, VALIDATE = 0.05, 0.02
"""Shares of patients; the published ones are smaller, for there are 65,379."""
BOXED_EVERY, GRAPH_EVERY = 40, 4
"""Every which study is in MS-CXR, if it has a lesion of its categories, and has a scene graph."""
FINDING_OF = {finding: column for column, finding in CHEXPERT_LABELS.items()} | {"nodule": "Lung Lesion"}
MINED = {"present": "1.0", "absent": "0.0", "uncertain": "-1.0"}
METADATA = (
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
)
SPLIT = ("dicom_id", "study_id", "subject_id", "split")
LABELS = ("subject_id", "study_id", *CHEXPERT_LABELS)
ALIGNMENT = (
    "dicom_id", "category_name", "label_text", "path", "x", "y", "w", "h", "image_width", "image_height", "split",
)  # fmt: skip
LISTED = ("", "subject_id", "study_id", "dicom_id", "path", "ViewPosition")
GRAPHS = Path("chest-imagenome") / "silver_dataset"
SPLITS = {"train": "train", "validate": "valid", "test": "test"}


def main() -> None:
    """Make what is missing, then all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("data/mimic-layout"))
    parser.add_argument("--film-size", type=int, default=224, help="side in pixels; published films have 2,500")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that paint")
    arguments = parser.parse_args()
    write_layout(arguments.out, arguments.studies, arguments.film_size, arguments.seed, arguments.workers)


def write_layout(out: Path, studies: int, film_size: int = 224, seed: int = 0, workers: int | None = 1) -> None:
    """Films and reports of all shards that are not there yet; then the tables, anew.

    Raises:
        ValueError: the folder was begun with another film size or seed.
    """
    config = PhantomConfig(studies=studies, image_size=film_size, seed=seed)
    stamp, notes = {"film_size": film_size, "seed": seed}, out / "made"
    notes.mkdir(parents=True, exist_ok=True)
    if (notes / "config.json").is_file() and json.loads((notes / "config.json").read_text()) != stamp:
        raise ValueError(f"{out} was begun with another film size or seed than {stamp}; choose another folder")
    (notes / "config.json").write_text(json.dumps(stamp) + "\n")
    shards = [(out, config, start, min(start + SHARD, studies)) for start in range(0, studies, SHARD)]
    due = [shard for shard in shards if not note_of(*shard).is_file()]
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) if workers != 1 else None
    with pool or nullcontext(), tqdm(total=studies, unit="study", desc="films") as bar:
        bar.update(studies - sum(stop - start for *_, start, stop in due))
        for made in (pool.map if pool else map)(write_shard, *zip(*due, strict=True)) if due else ():
            bar.update(made)
    write_tables(out, [note_of(*shard) for shard in shards])


def note_of(out: Path, config: PhantomConfig, start: int, stop: int) -> Path:
    """The file that holds a shard's rows; its presence says that the shard's films and reports are there."""
    return out / "made" / f"{start:08d}-{stop:08d}.json"


def write_shard(out: Path, config: PhantomConfig, start: int, stop: int) -> int:
    """Films, reports and scene graphs of some studies, and last the note of their rows."""
    cv2.setNumThreads(1)
    rows = [write_study(out, generate_study(config, index), index) for index in range(start, stop)]
    with replacing(note_of(out, config, start, stop)) as part:
        part.write_text(json.dumps(rows))
    return stop - start


def write_study(out: Path, study: PhantomStudy, index: int) -> dict[str, list[list[Any]]]:
    """One study's files; returns its rows by table."""
    patient = str(10_000_000 + int(study.patient_id.removeprefix("pt")) * 7919 % 10_000_000)
    name = str(50_000_000 + index * 7919 % 10_000_000)
    digest = hashlib.sha256(f"{study.study_id}".encode()).hexdigest()
    dicom_id = "-".join(digest[at : at + 8] for at in range(0, 40, 8))
    place = int(hashlib.sha256(patient.encode()).hexdigest()[:8], 16) / 16**8
    split = "test" if place < TEST else "validate" if place < TEST + VALIDATE else "train"
    folder = Path("files") / f"p{patient[:2]}" / f"p{patient}"
    film, (height, width) = folder / f"s{name}" / f"{dicom_id}.jpg", study.image.shape
    root = out / FOLDERS["mimic_cxr"]
    (root / film).parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(root / film), study.image):
        raise RuntimeError(f"could not write {root / film}; is the disk full?")
    text = "\n ".join(line.strip() for line in study.report.splitlines())
    (root / folder / f"s{name}.txt").write_text(f"{'FINAL REPORT':>45}\n EXAMINATION:  CHEST RADIOGRAPH\n \n {text}\n")
    mined = {
        FINDING_OF[each.observation]: MINED[each.status] for each in study.evidence if each.observation in FINDING_OF
    }
    rows = {
        "metadata": [[dicom_id, patient, name, "CHEST (PORTABLE AP)", study.view, height, width]],
        "split": [[dicom_id, name, patient, split]],
        "labels": [[patient, name, *(mined.get(column, "") for column in CHEXPERT_LABELS)]],
        "alignment": [],
        "listed": [],
    }
    if index % BOXED_EVERY == 0:
        for lesion, phrase, (x_min, y_min, x_max, y_max) in zip(
            study.lesions, study.phrases, study.boxes_xyxy.tolist(), strict=True
        ):
            if lesion.finding in MS_CXR_FINDINGS:
                box = [x_min, y_min, x_max - x_min, y_max - y_min]
                rows["alignment"].append(
                    [dicom_id, lesion.finding.title(), phrase, film.as_posix(), *box, width, height, "test"]
                )
    if index % GRAPH_EVERY == 0:
        corners = ("original_x1", "original_y1", "original_x2", "original_y2")
        objects = [
            {"object_id": f"{dicom_id}_{region}", "bbox_name": region} | dict(zip(corners, box, strict=True))
            for region, box in study.regions.items()
        ]
        path = out / GRAPHS / "scene_graph" / f"{dicom_id}_SceneGraph.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"image_id": dicom_id, "objects": objects, "attributes": []}))
        rows["listed"].append([SPLITS[split], patient, name, dicom_id, film.with_suffix(".dcm").as_posix(), study.view])
    return rows


def write_tables(out: Path, notes: list[Path]) -> None:
    """The published tables, a shard at a time."""
    root = out / FOLDERS["mimic_cxr"]
    tables = {
        "metadata": (root / "mimic-cxr-2.0.0-metadata.csv.gz", METADATA),
        "split": (root / "mimic-cxr-2.0.0-split.csv.gz", SPLIT),
        "labels": (root / "mimic-cxr-2.0.0-chexpert.csv.gz", LABELS),
        "alignment": (out / "ms-cxr" / "MS_CXR_Local_Alignment_v1.1.0.csv", ALIGNMENT),
    }
    for name, (path, columns) in tables.items():
        write_table(path, columns, (row for study in studies_of(notes) for row in study[name]))
    for part in SPLITS.values():
        listed = (row for study in studies_of(notes) for row in study["listed"] if row[0] == part)
        numbered = ([number, *row[1:]] for number, row in enumerate(listed))
        write_table(out / GRAPHS / "splits" / f"{part}.csv", LISTED, numbered)
    write_table(out / GRAPHS / "splits" / "images_to_avoid.csv", LISTED[1:], iter(()))


def studies_of(notes: list[Path]) -> Iterator[dict[str, list[list[Any]]]]:
    """The rows of every study, one shard in memory."""
    for note in notes:
        yield from json.loads(note.read_text())


def write_table(path: Path, columns: tuple[str, ...], rows: Iterator[list[Any]]) -> None:
    """A csv file, gzipped where its name says so, replaced whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, (gzip.open if path.suffix == ".gz" else open)(part, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
