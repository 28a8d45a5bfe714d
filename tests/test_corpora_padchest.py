"""PadChest, as tiny copies of the published layout."""

import csv
import gzip
import io
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layouts import values
from PIL import Image
from planted import PlantedWorld, config

from lgdea_core.data.check import check_corpus
from lgdea_core.data.corpora import assemble, load_corpus
from lgdea_core.data.corpora.padchest import BROKEN, RENAMED, TABLE, parse_labels
from lgdea_core.data.corpus import label_table
from lgdea_core.data.images import load_images, read_image
from lgdea_core.data.pairing import Pools
from lgdea_core.evaluation.harness import evaluate
from lgdea_core.evaluation.prompts import load_prompt_set
from lgdea_core.runs.inputs import Inputs
from lgdea_core.vocabulary import NO_FINDING

HEADER = (
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
    "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Modality_DICOM", "Manufacturer_DICOM",
    "PhotometricInterpretation_DICOM", "PixelRepresentation_DICOM", "PixelAspectRatio_DICOM",
    "SpatialResolution_DICOM", "BitsStored_DICOM", "WindowCenter_DICOM", "WindowWidth_DICOM", "Rows_DICOM",
    "Columns_DICOM", "XRayTubeCurrent_DICOM", "Exposure_DICOM", "ExposureInuAs_DICOM", "ExposureTime",
    "RelativeXRayExposure_DICOM", "ReportID", "Report", "MethodLabel", "Labels", "Localizations",
    "LabelsLocalizationsBySentence", "labelCUIS", "LocalizationsCUIS",
)  # fmt: skip
REPORT = "siluet cardiomediastin agrand ."


def row(image: str, study: str, patient: str, labels: str, **cells: str) -> dict[str, str]:
    """One film, a frontal one that a physician labelled unless `cells` say otherwise."""
    named = {"ImageID": f"{image}.png", "StudyID": study, "PatientID": patient, "Labels": labels}
    fixed = {"ImageDir": "0", "Projection": "PA", "MethodLabel": "Physician", "Report": REPORT, "ReportID": "1"}
    return fixed | named | cells


def rnn(image: str, study: str, patient: str, labels: str, **cells: str) -> dict[str, str]:
    return row(image, study, patient, labels, MethodLabel="RNN_model", **cells)


ROWS = [
    row("a_pa", "a", "p1", "['cardiomegaly', ' COPD signs', '']"),
    row("a_l", "a", "p1", "['cardiomegaly', ' COPD signs', '']", Projection="L"),
    row("b_pa", "b", "p2", "['normal']", ImageDir="54", Projection="AP_horizontal"),
    row("c_pa", "c", "p3", "['unchanged', 'aortic  elongation', 'Cardiomegaly ']", Projection="AP"),
    rnn("d_pa", "d", "p1", "['normal']"),  # of a tested patient
    rnn("e_pa", "e", "p5", "['pulmonary edema']"),
    rnn("f_pa", "f", "p6", "['normal']"),
    rnn("g_pa", "g", "p7", "['scoliosis']"),
]


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    """The table with all published columns; cell labelCUIS has a line break where the labels are several."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, restval="", lineterminator="\n")
    writer.writeheader()
    for number, cells in enumerate(rows):
        cuis = "['C0018800'\n 'C0024117']" if "," in cells["Labels"] else "['C0205307']"
        writer.writerow({"": str(number), "labelCUIS": cuis} | cells)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_films(root: Path, rows: list[dict[str, str]], place: str = "{ImageDir}") -> None:
    """16-bit films."""
    for cells in rows:
        path = root / place.format_map(cells) / cells["ImageID"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 48), 2048, dtype=np.uint16)).save(path)


@pytest.fixture
def padchest(tmp_path: Path) -> Path:
    write_table(tmp_path / TABLE, ROWS)
    write_films(tmp_path, ROWS)
    return tmp_path


def test_layout_becomes_tables(padchest: Path) -> None:
    corpus = load_corpus("padchest", padchest)
    films = corpus.images.set_index("image_id")
    assert films["view"].to_dict() == {
        "a_pa": "PA", "b_pa": "AP", "c_pa": "AP", "e_pa": "PA", "f_pa": "PA", "g_pa": "PA",
    }  # fmt: skip
    assert films.loc["b_pa", ["path", "width", "height"]].tolist() == ["54/b_pa.png", 48, 40]
    assert read_image(corpus.image_path("a_pa")).mean() == pytest.approx(2048 / 4095)
    assert corpus.studies["report"].isna().all()
    assert corpus.exclusions == {
        "film that is not frontal": 1,
        "film labelled by the network, of a patient who is tested": 1,
    }


def test_physicians_labels_are_test_and_their_patients_do_not_train(padchest: Path) -> None:
    studies = load_corpus("padchest", padchest).studies.set_index("study_id")
    assert studies.loc[["a", "b", "c"], "split"].tolist() == ["test"] * 3
    assert set(studies.index) == {"a", "b", "c", "e", "f", "g"}
    assert sorted(studies.loc[["e", "f", "g"], "split"]) == ["train", "train", "val"]


def test_the_split_survives_assembly(padchest: Path) -> None:
    (padchest.parent / "padchest").symlink_to(padchest)
    corpus = assemble("padchest", padchest.parent)
    pd.testing.assert_series_equal(corpus.studies["split"], load_corpus("padchest", padchest).studies["split"])


def test_a_patient_whose_tested_film_is_left_out_does_not_train_either(padchest: Path) -> None:
    rows = [*ROWS, row("h_l", "h", "p5", "['scoliosis']", Projection="L"), row("i_pa", "i", "p6", "")]
    write_table(padchest / TABLE, rows)
    studies = load_corpus("padchest", padchest).studies
    assert studies.loc[studies["split"] != "test", "study_id"].tolist() == ["g"]


def test_a_study_is_a_closed_world_of_its_splits_labels(padchest: Path) -> None:
    corpus = load_corpus("padchest", padchest)
    assert values(corpus, "a") == {"aortic elongation": 0, "cardiomegaly": 1, "copd": 1, NO_FINDING: 0}
    assert values(corpus, "b") == {"aortic elongation": 0, "cardiomegaly": 0, "copd": 0, NO_FINDING: 1}
    assert values(corpus, "c") == {"aortic elongation": 1, "cardiomegaly": 1, "copd": 0, NO_FINDING: 0}
    assert len(corpus.labels) == 12  # none of the network's


def test_the_networks_labels_come_on_demand(padchest: Path) -> None:
    corpus = load_corpus("padchest", padchest, rnn_labels=True)
    assert values(corpus, "e") == {"edema": 1, "scoliosis": 0, NO_FINDING: 0}
    assert corpus.labels.groupby("source", observed=True)["study_id"].nunique().to_dict() == {"physician": 3, "rnn": 3}
    test = label_table(corpus.split("test"))
    assert list(test.columns) == ["aortic elongation", "cardiomegaly", "copd", NO_FINDING]
    assert list(test.index) == ["a", "b", "c"]  # categories of other splits leave no trace


def test_the_label_table_is_small(padchest: Path) -> None:
    labels = load_corpus("padchest", padchest).labels
    assert {name: str(kind) for name, kind in labels.dtypes.items()} == {
        "study_id": "category", "finding": "category", "source": "category", "value": "float32",
    }  # fmt: skip
    many = pd.concat([labels] * 1000).memory_usage(index=False).sum() / len(labels) / 1000
    assert many < 12  # bytes a row


def test_labels_of_a_studys_films_add_up_and_normal_gives_way(padchest: Path) -> None:
    films = [row("a_ap", "a", "p1", "['goiter']", Projection="AP"), row("b_ap", "b", "p2", "['kyphosis']")]
    write_table(padchest / TABLE, [*ROWS, *films])
    write_films(padchest, films)
    corpus = load_corpus("padchest", padchest)
    assert {name for name, value in values(corpus, "a").items() if value} == {"cardiomegaly", "copd", "goiter"}
    assert {name for name, value in values(corpus, "b").items() if value} == {"kyphosis"}
    assert corpus.exclusions["film whose labels differ from those of the study's first, all count"] == 2
    assert corpus.exclusions["study with 'normal' beside a finding, which counts"] == 1


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ("['exclude', 'cardiomegaly']", "film of a report to be excluded"),
        ("[' Exclude']", "film of a report to be excluded"),
        ("", "film without a label that names a finding or none"),
        ("nan", "film without a label that names a finding or none"),
        ("[nan]", "film without a label that names a finding or none"),
        ("[]", "film without a label that names a finding or none"),
        ("['', ' ']", "film without a label that names a finding or none"),
        ("['unchanged', 'suboptimal study']", "film without a label that names a finding or none"),
    ],
)
def test_films_without_findings_to_tell_are_counted(padchest: Path, labels: str, reason: str) -> None:
    before = load_corpus("padchest", padchest)
    write_table(
        padchest / TABLE, [*ROWS, row("h_pa", "h", "p8", labels, MethodLabel="" if not labels else "Physician")]
    )
    after = load_corpus("padchest", padchest)
    pd.testing.assert_frame_equal(after.labels, before.labels)
    assert {name: n for name, n in after.exclusions.items() if name not in before.exclusions} == {reason: 1}


def test_cells_of_labels_are_lists_of_names_and_nothing_else() -> None:
    assert parse_labels("[]") == parse_labels("[ ]") == parse_labels("NaN") == frozenset()
    assert parse_labels("""["Barrett's sign", nan , 'a, "b"']""") == {"barrett's sign", 'a, "b"', ""}
    assert parse_labels("['Pleural  effusion ', 'NSG tube', '']") == {"pleural effusion", "nsg tube", ""}
    for cell in ("'mass'", "['mass'", "[1]", "{'mass'}", "['a' 'b']", "['a',]", "[,'a']", "['a'], ['b']", "mass"):
        assert parse_labels(cell) is None


@pytest.mark.parametrize("place", ["{ImageDir}", "images/{ImageDir}", "images", "images-224"])
def test_films_may_lie_as_published_readers_have_them(tmp_path: Path, place: str) -> None:
    write_table(tmp_path / f"{TABLE}.gz", ROWS)
    write_films(tmp_path, ROWS, place)
    assert len(load_corpus("padchest", tmp_path).images) == 6
    assert check_corpus("padchest", tmp_path, progress=False).problems == []


def test_films_known_to_be_broken_and_listed_twice_are_no_problem(padchest: Path) -> None:
    assert len(BROKEN) == 21
    broken = row(min(BROKEN).removesuffix(".png"), "h", "p8", "['mass']")
    write_table(padchest / TABLE, [*ROWS, broken, ROWS[0]])
    report = check_corpus("padchest", padchest, progress=False)
    assert report.problems == []
    assert report.exclusions["film known to be broken or missing"] == 1
    assert report.exclusions["film listed again"] == 1


def test_lines_are_right_below_cells_with_line_breaks_and_missing_films_are_problems(padchest: Path) -> None:
    (padchest / "0/c_pa.png").unlink()
    (padchest / "0/g_pa.png").write_bytes(b"no PNG")
    problems = check_corpus("padchest", padchest, progress=False).problems
    assert problems[0] == f"{TABLE}, line 7, study 'c': row without a film"  # rows 1 and 2 take two lines each
    assert problems[1].startswith(f"{TABLE}, line 12, study 'g': ")
    assert len(problems) == 2
    (padchest / TABLE).unlink()
    assert "no table at" in check_corpus("padchest", padchest, progress=False).problems[0]


def test_the_command_checks_a_folder(padchest: Path) -> None:
    command = [sys.executable, "-m", "lgdea_core.data.check", "padchest", str(padchest)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {"images: 6", "labels: 12", "reports: 0", "studies of test: 3", "no problem found"} <= set(lines)
    assert "cardiomediastin" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"Labels": REPORT}, r"line 7, study 'c': Labels must be the text of a list of names, such as \['normal'\]"),
        ({"Labels": "['mass', 3]"}, r"line 7, study 'c': Labels must be the text of a list"),
        ({"MethodLabel": REPORT}, r"line 7, study 'c': MethodLabel must be Physician or RNN_model"),
        ({"ImageID": "../c_pa.png"}, r"line 7, study 'c': ImageID must be the name of a PNG file"),
        ({"ImageID": ""}, r"line 7, study 'c': ImageID must be given"),
        ({"PatientID": ""}, r"line 7, study 'c': PatientID must be given"),
        ({"StudyID": ""}, r"line 7, study '': StudyID must be given"),
        ({"StudyID": "a"}, r"line 7, study 'a': PatientID must be the same in all rows of a study"),
        ({"ImageID": "a_pa.png"}, r"line 7, study 'c': StudyID must be the same wherever a film is listed"),
    ],
)
def test_broken_rows_are_named_and_not_quoted(padchest: Path, cells: Mapping[str, str], message: str) -> None:
    write_table(padchest / TABLE, [*ROWS[:3], ROWS[3] | cells, *ROWS[4:]])
    with pytest.raises(ValueError, match=rf"^PADCHEST_.*\.csv, {message}.*; fetch the table again$") as caught:
        load_corpus("padchest", padchest)
    assert "cardiomediastin" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda root: (root / TABLE).unlink(), FileNotFoundError, r"no table at .*160K_01\.02\.19\.csv; the layout"),
        (
            lambda root: [(root / name).rename(root / f"moved{name}") for name in ("0", "54")],
            FileNotFoundError,
            r"no film of PADCHEST_.*\.csv under .*; unpack the archives there",
        ),
        (
            lambda root: (root / TABLE).write_text(f"ImageID,Report\nx.png,{REPORT}\n"),
            ValueError,
            r"missing column\(s\) \['StudyID', 'PatientID', 'ImageDir', 'Projection', 'MethodLabel', 'Labels'\]",
        ),
        (
            lambda root: [(root / TABLE).rename(root / f"{TABLE}.gz")],
            ValueError,
            r"csv\.gz cannot be read as a table, fetch it again",
        ),
    ],
)
def test_damage_is_named(
    padchest: Path, damage: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    damage(padchest)
    with pytest.raises(error, match=message):
        load_corpus("padchest", padchest)


def test_no_two_findings_become_one() -> None:
    assert len(set(RENAMED.values())) == len(RENAMED)
    chosen = load_prompt_set()
    assert all(chosen.covers(name) for name in set(RENAMED.values()) - {NO_FINDING})


@pytest.mark.parametrize("prompts", ["carzero", "chexzero"])
def test_zero_shot_evaluation_has_a_tail(tmp_path: Path, prompts: str) -> None:
    rows = [
        row(f"s{i}", f"s{i}", f"p{i}", "['cardiomegaly']" if i % 2 else "['azygos lobe']" if i < 8 else "['normal']")
        for i in range(32)
    ]
    write_table(tmp_path / TABLE, rows)
    for cells, picture in zip(rows, PlantedWorld(32, seed=1).images.numpy(), strict=True):
        path = tmp_path / cells["ImageDir"] / cells["ImageID"]
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture.astype(np.uint16) * 16).save(path)
    corpus = load_corpus("padchest", tmp_path)
    pools = Pools(image_ids=(), report_ids=(), seed_pairs=pd.DataFrame(), hidden_pairs=pd.DataFrame())
    inputs = Inputs(corpus=corpus, store=load_images(corpus, 32, progress=False), pools=pools)
    model, processor = PlantedWorld(6, seed=0).model(config("clip"))
    table = evaluate(model, processor, inputs, prompts=prompts, resamples=20, progress=False)
    table = table.set_index(["metric", "finding"])
    assert 0 <= table.loc[("auc_tail", "macro"), "estimate"] <= 1
    assert table.loc[("auc_tail", "macro"), "positives"] == 4  # the azygos lobes
    assert table.loc[("auc", "cardiomegaly"), "positives"] == 16
