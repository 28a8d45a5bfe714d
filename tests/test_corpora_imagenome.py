"""Chest ImaGenome's scene graphs beside the MIMIC films they describe."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from layouts import film, write, write_ms_cxr
from planted import config

from lgdea_core.config import RunConfig
from lgdea_core.data.check import check_corpus
from lgdea_core.data.corpora import load_corpus
from lgdea_core.data.corpora.tables import CHEXPERT_LABELS
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.runs.inputs import fresh_model, load_inputs, prepare_training
from lgdea_core.training.loop import train
from lgdea_core.vocabulary import REGIONS

# film: patient, study, list
FILMS = {
    "aa-1": ("10000032", "50414267", "train"),
    "bb-1": ("10000764", "57375967", "train"),
    "cc-1": ("11000011", "50000001", "valid"),
    "dd-1": ("12000012", "50000002", "test"),
}


def region(name: str, *corners: int) -> dict[str, Any]:
    sides = dict(zip(("original_x1", "original_y1", "original_x2", "original_y2"), corners, strict=True))
    return {"object_id": f"aa-1_{name}", "x1": 1, "y1": 1, "x2": 9, "y2": 9, "bbox_name": name, **sides}


def graph(*objects: dict[str, Any]) -> str:
    return json.dumps({"image_id": "aa-1", "viewpoint": "PA", "objects": objects, "attributes": []}, indent=1)


@pytest.fixture
def imagenome(tmp_path: Path) -> Path:
    """Four films, all but the last with a scene graph; MIMIC's folder and MS-CXR's lie next to it."""
    root, mimic = tmp_path / "chest-imagenome", tmp_path / "mimic-cxr-jpg"
    write_ms_cxr(tmp_path / "ms-cxr")
    metadata = ["dicom_id,subject_id,study_id,ViewPosition,Rows,Columns"]
    lists = {name: [",subject_id,study_id,dicom_id,path,ViewPosition"] for name in ("train", "valid", "test")}
    for name, (patient, study, part) in FILMS.items():
        folder = f"files/p{patient[:2]}/p{patient}/s{study}"
        metadata.append(f"{name},{patient},{study},PA,2000,1000")
        lists[part].append(f"{len(lists[part])},{patient},{study},{name},{folder}/{name}.dcm,PA")
        film(mimic / folder / f"{name}.jpg")
        if name != "dd-1":
            objects = [
                region("right lung", 100, 200, 400, 900),
                region("left lung", -20, 200, 1050, 900),  # reaches outside on both sides
                region("spine", 5, 5, 5, 90),
                region("carina", 1100, 5, 1200, 90),
                region("right breast", 1, 1, 9, 9),  # none of the 29
            ]
            write(root / "silver_dataset/scene_graph" / f"{name}_SceneGraph.json", graph(*objects))
    write(mimic / "mimic-cxr-2.0.0-metadata.csv.gz", *metadata)
    for name, rows in lists.items():
        write(root / "silver_dataset/splits" / f"{name}.csv", *rows)
    write(
        root / "silver_dataset/splits/images_to_avoid.csv", "subject_id,study_id,dicom_id,path,ViewPosition", ",,xx,,"
    )
    return root


def test_region_boxes_count_in_the_published_film(imagenome: Path) -> None:
    corpus = load_corpus("chest_imagenome", imagenome)
    assert corpus.root == imagenome.parent / "mimic-cxr-jpg"
    regions = corpus.regions[corpus.regions["image_id"] == "aa-1"].set_index("region")
    assert regions.index.tolist() == ["right lung", "left lung"]
    corners = ["x_min", "y_min", "x_max", "y_max"]
    assert regions.loc["right lung", corners].tolist() == [100, 200, 400, 900]
    assert regions.loc["left lung", corners].tolist() == [0, 200, 1000, 900]
    assert regions.loc["left lung", ["frame_width", "frame_height"]].tolist() == [1000, 2000]  # the file here has 48 px
    assert set(corpus.regions["region"]) <= set(REGIONS)
    assert corpus.exclusions == {
        "film without a scene graph": 1,
        "region box without area on its film": 6,
    }


def test_splits_are_the_publishers(imagenome: Path) -> None:
    studies = load_corpus("chest_imagenome", imagenome).studies
    assert dict(zip(studies["study_id"], studies["split"], strict=True)) == {
        "s50414267": "train", "s57375967": "train", "s50000001": "val", "s50000002": "test",
    }  # fmt: skip
    assert studies["report"].isna().all()
    assert check_corpus("chest_imagenome", imagenome, progress=False).problems == []


def test_gold_and_ms_cxr_patients_stay_out_of_training(imagenome: Path) -> None:
    metadata = imagenome.parent / "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv.gz"
    films = gzip.decompress(metadata.read_bytes()).decode().splitlines()
    write(metadata, *films, "cc-2,11000011,50000009,PA,2000,1000")  # another film of cc-1's patient
    write(imagenome / "silver_dataset/splits/images_to_avoid.csv", "dicom_id", "cc-2", "dd-1")
    row = "bb-1,Edema,edema,files/p10/p10000764/s57375967/bb-1.jpg,1,2,3,4,1000,2000"
    write_ms_cxr(imagenome.parent / "ms-cxr", row)
    corpus = load_corpus("chest_imagenome", imagenome)
    assert corpus.images["image_id"].tolist() == ["aa-1", "dd-1"]
    assert corpus.exclusions["film of a gold patient, kept out of training"] == 1
    assert corpus.exclusions["study of an MS-CXR patient, kept out of training"] == 1


def test_a_folder_within_the_folder_is_found(imagenome: Path) -> None:
    folder = imagenome / "silver_dataset/scene_graph"
    folder.rename(imagenome / "moved")
    folder.mkdir()
    (imagenome / "moved").rename(folder / "scene_graph")
    assert len(load_corpus("chest_imagenome", imagenome).regions) == 6


def add_reports(mimic: Path) -> None:
    """MIMIC's own tables and reports beside the films, so that corpus `mimic_cxr` can read them."""
    splits = {"train": "train", "valid": "validate", "test": "test"}
    rows = [f"{name},{splits[part]}" for name, (_, _, part) in FILMS.items()]
    write(mimic / "mimic-cxr-2.0.0-split.csv.gz", "dicom_id,split", *rows)
    write(mimic / "mimic-cxr-2.0.0-chexpert.csv.gz", ",".join(("study_id", *CHEXPERT_LABELS)))
    for patient, study, _ in FILMS.values():
        report = f"FINDINGS: Opacity in the right lung of patient {patient[:2]}. The left lung is clear."
        write(mimic / f"files/p{patient[:2]}/p{patient}/s{study}.txt", " FINAL REPORT", f" {report}")


def test_mimic_reads_the_same_boxes_for_its_own_split(imagenome: Path) -> None:
    add_reports(mimic := imagenome.parent / "mimic-cxr-jpg")
    corpus, published = load_corpus("mimic_cxr", mimic), load_corpus("chest_imagenome", imagenome)
    assert len(corpus.regions) == 6
    assert corpus.regions.equals(published.regions)
    assert corpus.exclusions["film without a scene graph"] == 1
    (mimic / "files/p10/p10000764/s57375967/bb-1.jpg").unlink()
    assert set(load_corpus("mimic_cxr", mimic).regions["image_id"]) == {"aa-1", "cc-1"}
    assert check_corpus("mimic_cxr", mimic, progress=False).problems == [
        "mimic-cxr-2.0.0-metadata.csv, line 3, film 'bb-1': row without a film"
    ]
    imagenome.rename(mimic / "chest-imagenome")
    assert len(load_corpus("mimic_cxr", mimic).regions) == 4
    (mimic / "chest-imagenome").rename(imagenome.parent / "elsewhere")
    assert load_corpus("mimic_cxr", mimic).regions.empty
    (imagenome.parent / "chest-imagenome").mkdir()
    (imagenome.parent / "elsewhere").rename(imagenome.parent / "chest-imagenome/1.0.0")  # PhysioNet's own tree
    assert len(load_corpus("mimic_cxr", mimic).regions) == 4
    (imagenome.parent / "chest-imagenome/1.0.0/silver_dataset/scene_graph").rename(imagenome.parent / "gone")
    with pytest.raises(FileNotFoundError, match=r"chest-imagenome: no silver_dataset/scene_graph; unpack scene_graph"):
        load_corpus("mimic_cxr", mimic)


def test_asg_trains_on_mimic_with_these_boxes(imagenome: Path, tmp_path: Path) -> None:
    add_reports(imagenome.parent / "mimic-cxr-jpg")
    named = {"corpus": RunConfig.from_preset("paper", method="asg").data.corpus, "root": str(imagenome.parent)}
    run = config("asg", text_steps=0, pair_steps=2, relation_steps=0, paired_ratio=1.0, **named)
    inputs = load_inputs(run, progress=False)
    evidence = extract_evidence(inputs.corpus.studies, "lexicon", progress=False)[0]
    model, processor = fresh_model(run, inputs)
    data = prepare_training(run, inputs, evidence, processor)
    right = data.regions.boxes[:, REGIONS.index("right lung")]
    assert right.tolist() == [pytest.approx([0.1, 0.1, 0.4, 0.45])] * 2  # drawn in 1000 x 2000 pixels
    state, history = train(run, data, model, tmp_path / "run", progress=False)
    assert state.step == 2
    assert (history["arsa"] > 0).all()  # two regions and two sentences compete


def replace_in(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: write(path, "{", '"objects": ['), r"aa-1_SceneGraph\.json, line 3: not JSON"),
        (lambda path: write(path, "{}"), r"aa-1_SceneGraph\.json: no key 'objects'"),
        (
            lambda path: replace_in(path, "original_x1", "x0"),
            r"aa-1_SceneGraph\.json, object 0: no key 'original_x1'",
        ),
        (
            lambda path: write(path.parents[1] / "splits/valid.csv", "dicom_id", "cc-1"),
            r"valid\.csv: missing column\(s\) \['subject_id', 'study_id'\]",
        ),
        (
            lambda path: write(path.parents[1] / "splits/valid.csv", "dicom_id,subject_id,study_id", "zz-1,1,2"),
            r"^valid\.csv, line 2, film 'zz-1': the film is not in MIMIC's metadata \(1 such\); fetch",
        ),
    ],
)
def test_damage_is_named(imagenome: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(imagenome / "silver_dataset/scene_graph/aa-1_SceneGraph.json")
    with pytest.raises(ValueError, match=message):
        load_corpus("chest_imagenome", imagenome)
    assert check_corpus("chest_imagenome", imagenome, progress=False).problems


def test_a_film_that_is_not_there_is_named_by_its_list(imagenome: Path) -> None:
    (imagenome.parent / "mimic-cxr-jpg/files/p10/p10000764/s57375967/bb-1.jpg").unlink()
    problems = check_corpus("chest_imagenome", imagenome, progress=False).problems
    assert problems == ["train.csv, line 3, film 'bb-1': row without a film"]


def test_missing_films_are_named(imagenome: Path) -> None:
    (imagenome.parent / "mimic-cxr-jpg/files").rename(imagenome.parent / "gone")
    with pytest.raises(FileNotFoundError, match=r"no film of chest-imagenome's splits under .* unpack MIMIC-CXR-JPG"):
        load_corpus("chest_imagenome", imagenome)
