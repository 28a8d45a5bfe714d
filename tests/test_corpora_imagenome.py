"""Chest ImaGenome's scene graphs beside the MIMIC films they describe."""

import gzip
from pathlib import Path

import layouts
import pytest
from layouts import GRAPH_FILMS as FILMS
from layouts import write, write_ms_cxr
from planted import config

from lgdea_core.config import RunConfig
from lgdea_core.data.check import check_corpus
from lgdea_core.data.corpora import load_corpus
from lgdea_core.data.corpora.tables import CHEXPERT_LABELS
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.runs.inputs import fresh_model, load_inputs, prepare_training
from lgdea_core.training.loop import train
from lgdea_core.vocabulary import REGIONS


@pytest.fixture
def imagenome(tmp_path: Path) -> Path:
    return layouts.chest_imagenome(tmp_path)


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
        "mimic-cxr-2.0.0-metadata.csv.gz, line 3, film 'bb-1': row without a film"
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


@pytest.mark.slow
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
