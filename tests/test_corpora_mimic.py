"""MIMIC-CXR-JPG, its reports and MS-CXR, as tiny copies of the published layouts."""

import csv
import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import layouts
import numpy as np
import pytest
from layouts import MS_CXR_HEADER, MS_CXR_ROWS, values, write, write_ms_cxr

from lgdea_core.config import RunConfig
from lgdea_core.data.check import check_corpus
from lgdea_core.data.check import main as check_main
from lgdea_core.data.corpora import assemble, load_corpus
from lgdea_core.data.corpora.mimic_cxr import report_sections, section_kind
from lgdea_core.data.images import load_images
from lgdea_core.data.pairing import check_leaks, limit_pairs
from lgdea_core.runs.inputs import load_corpus_of
from lgdea_core.vocabulary import CHEXPERT_FINDINGS


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    return layouts.mimic(tmp_path)


def add_ms_cxr(root: Path, rows: list[str] = MS_CXR_ROWS, header: str = MS_CXR_HEADER, version: str = "1.0.0") -> Path:
    return write_ms_cxr(root, *rows, header=header, version=version)


def test_mimic_layout_becomes_tables(mimic: Path) -> None:
    corpus = load_corpus("mimic_cxr", mimic)
    studies = corpus.studies.set_index("study_id")
    assert studies["split"].to_dict() == {
        "s50414267": "train", "s53189527": "train", "s57375967": "train", "s50000001": "val", "s50000002": "test",
    }  # fmt: skip
    assert studies.loc["s50414267", "patient_id"] == studies.loc["s53189527", "patient_id"] == "p10000032"
    assert corpus.images["image_id"].tolist() == ["aa-1", "aa-3", "bb-1", "cc-1", "dd-1"]
    assert corpus.image_path("aa-1") == mimic / "files/p10/p10000032/s50414267/aa-1.jpg"
    text = "FINDINGS: The lungs are clear. Heart is normal.\nIMPRESSION: No acute process."
    assert studies.loc["s50414267", "report"] == text
    assert studies["report"].isna().to_dict()["s50000001"]
    assert corpus.exclusions == {
        "film of a view other than PA, AP": 2,
        "study without a report": 1,
        "report without findings and impression": 1,
    }
    assert corpus.exclusions.defects == []
    assert len(limit_pairs(corpus, 1.0, seed=0).seed_pairs) == 3


def test_mimic_views_are_an_option(mimic: Path) -> None:
    corpus = load_corpus("mimic_cxr", mimic, views=("LATERAL", "LL"))
    assert corpus.images["image_id"].tolist() == ["aa-2", "ee-1"]


def test_mimic_labels_are_chexperts_and_a_blank_is_no_zero(mimic: Path) -> None:
    corpus = load_corpus("mimic_cxr", mimic)
    assert values(corpus, "s50414267")["no finding"] == 1
    labels = values(corpus, "s57375967")
    assert (labels["cardiomegaly"], labels["lung opacity"]) == (-1, 0)
    assert np.isnan(labels["edema"])
    assert len(labels) == 14


def test_mimic_labels_of_a_radiologist_replace_mined_ones(mimic: Path) -> None:
    names = [("airspace opacity" if finding == "lung opacity" else finding) for finding in CHEXPERT_FINDINGS]
    write(
        mimic / "mimic-cxr-2.1.0-test-set-labeled.csv",
        f"study_id,{','.join(name.title() for name in names)}",
        f"50000002,{'0,' * 13}1",
    )
    corpus = load_corpus("mimic_cxr", mimic)
    labels = values(corpus, "s50000002")
    assert (labels["lung opacity"], labels["support devices"]) == (0, 1)
    assert set(corpus.labels.loc[corpus.labels["study_id"] == "s50000002", "source"]) == {"radiologist"}
    assert set(corpus.labels.loc[corpus.labels["study_id"] == "s50414267", "source"]) == {"chexpert"}


def test_mimic_tables_may_be_unzipped(mimic: Path) -> None:
    for path in mimic.glob("*.csv.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert len(load_corpus("mimic_cxr", mimic).images) == 5


def test_mimic_sectioned_table_goes_before_the_reports(mimic: Path) -> None:
    write(
        mimic / "mimic_cxr_sectioned.csv",
        "study,impression,findings,last_paragraph,comparison",
        's50414267,"No change.\nReally.",,,',
        "s50000002,,,Only a last paragraph.,",
    )
    corpus = load_corpus("mimic_cxr", mimic)
    studies = corpus.studies.set_index("study_id")
    assert studies.loc["s50414267", "report"] == "IMPRESSION: No change. Really."
    assert corpus.exclusions["report without findings and impression"] == 1
    assert corpus.exclusions["study without a report"] == 3


def test_ms_cxr_patients_are_kept_out_of_training_and_counted(mimic: Path) -> None:
    add_ms_cxr(mimic.parent / "ms-cxr")
    corpus = load_corpus("mimic_cxr", mimic)
    assert "p10000764" not in set(corpus.studies["patient_id"])
    assert corpus.studies.set_index("patient_id").loc["p12000012", "split"] == "test"  # an official test patient stays
    assert corpus.exclusions["study of an MS-CXR patient, kept out of training"] == 1


@pytest.mark.parametrize("place", ["mimic", "mimic/ms-cxr", "ms-cxr", "ms-cxr/1.1.0"])
def test_ms_cxr_is_found_wherever_downloads_put_it(mimic: Path, place: str) -> None:
    shutil.rmtree(mimic.parent / "ms-cxr")
    add_ms_cxr(mimic.parent / place.replace("mimic", mimic.name))
    assert "p10000764" not in set(load_corpus("mimic_cxr", mimic).studies["patient_id"])


def test_ms_cxr_is_found_in_physionets_own_tree(mimic: Path, tmp_path: Path) -> None:
    root = tmp_path / "files/mimic-cxr-jpg/2.1.0"
    root.parent.mkdir(parents=True)
    mimic.rename(root)
    add_ms_cxr(tmp_path / "files/ms-cxr/1.1.0", version="1.1.0")
    assert "p10000764" not in set(load_corpus("mimic_cxr", root).studies["patient_id"])


def test_mimic_without_ms_cxr_is_refused_unless_told(mimic: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(mimic.parent / "ms-cxr")
    with pytest.raises(FileNotFoundError, match=r"^no MS_CXR_.* in or next to it: its patients must not train\. Put"):
        load_corpus("mimic_cxr", mimic)
    assert "ms_cxr_table=None" in check_corpus("mimic_cxr", mimic, progress=False).problems[0]
    corpus = load_corpus("mimic_cxr", mimic, ms_cxr_table=None)
    assert "p10000764" in set(corpus.split("train").studies["patient_id"])
    assert corpus.exclusions["ms_cxr_table=None, so MS-CXR's patients are trained on"] == 1
    assert "do not judge by MS-CXR" in caplog.text


def test_a_planted_ms_cxr_patient_in_pretraining_is_found(mimic: Path, tmp_path: Path) -> None:
    add_ms_cxr(mimic.parent / "ms-cxr")
    trained = load_corpus("mimic_cxr", mimic, ms_cxr_table=None).split("train").studies["patient_id"]
    evaluated = load_corpus("ms_cxr", mimic.parent / "ms-cxr").studies["patient_id"]
    with pytest.raises(ValueError, match=r"^1 patient\(s\) are in training and in MS-CXR: 'p10000764'"):
        check_leaks(trained, evaluated, "MS-CXR")
    given = load_corpus("mimic_cxr", mimic, ms_cxr_table=mimic.parent / "ms-cxr/MS_CXR_Local_Alignment_v1.0.0.csv")
    check_leaks(given.split("train").studies["patient_id"], evaluated, "MS-CXR")


def test_mimic_can_be_a_runs_corpus_by_name(mimic: Path) -> None:
    add_ms_cxr(mimic.parent / "ms-cxr")
    data = replace(RunConfig.from_preset("paper").data, root=str(mimic.parent))
    corpus = load_corpus_of(data, seed=0)
    assert len(corpus.studies) == 4
    assert len(load_images(corpus, 32, progress=False).image_ids) == 4
    assert set(assemble("ms_cxr", mimic.parent).studies["split"]) == {"test"}


def test_of_several_sections_of_one_name_the_last_filled_one_counts() -> None:
    first = " REPORT\n FINDINGS: Old.\n\n IMPRESSION:  First.\n"
    text = f"{first} ADDENDUM\n FINDINGS:  New\n words.\n\n FINDINGS: \n IMPRESSION: Last."
    assert report_sections(text) == {"FINDINGS": "New\n words.", "IMPRESSION": "Last."}


def test_sections_by_their_many_names() -> None:
    assert section_kind("IMPRESSON") == section_kind("CONCLUSION") == section_kind("FINDINGS AND IMPRESSION")
    assert section_kind("FINDINGS/IMPRESSION") == "IMPRESSION"
    assert section_kind("CHEST, TWO VIEWS") == section_kind("FINDNGS") == section_kind("PORTABLE AP FILM") == "FINDINGS"
    for other in ("INDICATION", "COMPARISON", "HISTORY OF CHEST PAIN", "TECHNIQUE", "EXAMINATION", "WET READ"):
        assert section_kind(other) is None
    assert report_sections("no header at all") == {}
    assert report_sections("\n FINDINGS:\n IMPRESSION: Clear") == {"IMPRESSION": "Clear"}
    assert report_sections("\n CHEST, PA LATERAL:\n\n INDICATION:  Pain\n\n FINDINGS: Clear") == {"FINDINGS": "Clear"}


def test_ms_cxr_rows_of_one_phrase_are_one_sample(mimic: Path) -> None:
    root = mimic.parent / "ms-cxr"
    add_ms_cxr(root)
    corpus = load_corpus("ms_cxr", root)
    assert corpus.root == mimic
    assert len(corpus.boxes) == 3
    assert len(corpus.boxes.groupby(["image_id", "phrase"])) == 2
    box = corpus.boxes.iloc[0]
    assert (box["phrase"], box["finding"]) == ("small effusion, left", "pleural effusion")
    assert box[["x_min", "y_min", "x_max", "y_max"]].tolist() == [100, 200, 150, 260]
    assert box[["frame_width", "frame_height"]].tolist() == [1000, 800]
    assert set(corpus.studies["split"]) == {"test"}
    assert corpus.studies["original_split"].isna().all()
    assert corpus.image_path("bb-1").is_file()
    assert check_corpus("ms_cxr", root, progress=False).problems == []


def test_ms_cxr_of_v1_1_0_brings_a_split_and_goes_before_v1_0_0(mimic: Path) -> None:
    root = mimic.parent / "ms-cxr"
    add_ms_cxr(root)
    add_ms_cxr(root, [f"{row},val" for row in MS_CXR_ROWS[2:]], f"{MS_CXR_HEADER},split", "1.1.0")
    studies = load_corpus("ms_cxr", root).studies
    assert studies[["study_id", "split", "original_split"]].to_numpy().tolist() == [["s50000002", "test", "val"]]


def as_json(rows: list[str]) -> dict[str, list[dict[str, object]]]:
    """The same content as the publisher's json."""
    table = list(csv.DictReader([MS_CXR_HEADER, *rows]))
    paths = list(dict.fromkeys(row["path"] for row in table))
    names = sorted({row["category_name"] for row in table})
    annotations = [
        {
            "image_id": paths.index(row["path"]),
            "category_id": names.index(row["category_name"]),
            "bbox": [int(row[side]) for side in "xywh"],
            "label_text": row["label_text"],
        }
        for row in table
    ]
    return {
        "images": [{"id": n, "path": path, "width": 1000, "height": 800} for n, path in enumerate(paths)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }


def test_ms_cxr_json_and_csv_read_the_same(mimic: Path) -> None:
    root = mimic.parent / "ms-cxr"
    path = add_ms_cxr(root)
    first = load_corpus("ms_cxr", root)
    path.unlink()
    path.with_suffix(".json").write_text(json.dumps(as_json(MS_CXR_ROWS)))
    second = load_corpus("ms_cxr", root)
    assert first.boxes.equals(second.boxes)
    assert first.images.equals(second.images)


def test_the_words_of_a_shifted_ms_cxr_row_are_not_printed(mimic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = mimic.parent / "ms-cxr"
    path = "files/p12/p12000012/s50000002/dd-1.jpg"
    row = f"dd-1,Edema,Severe edema, worse than before,{path},10,20,30,40,1000,800"  # no quotes, and no split
    add_ms_cxr(root, [row], f"{MS_CXR_HEADER},split", "1.1.0")
    with pytest.raises(ValueError, match=r"v1\.1\.0\.csv, line 2, film 'dd-1': path must be files/p10/") as caught:
        load_corpus("ms_cxr", root)
    assert check_main(["ms_cxr", str(root)]) == 1
    assert not re.search("evere|worse", f"{caught.value} {capsys.readouterr().out}")
