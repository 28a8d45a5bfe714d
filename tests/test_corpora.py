"""Published layouts, as tiny copies made here."""

import json
import re
from pathlib import Path

import layouts
import pandas as pd
import pytest
from layouts import add_rsna, film, values, write

from lgdea_core.data.check import check_corpus
from lgdea_core.data.corpora import assemble, load_corpus
from lgdea_core.data.corpora.covid_chestxray import merge_patients
from lgdea_core.data.corpora.nih import label_sentences
from lgdea_core.data.corpora.tables import Layout, parse_box, read_table, refuse
from lgdea_core.data.corpus import quoted
from lgdea_core.data.pairing import limit_pairs


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    return layouts.nih(tmp_path)


@pytest.fixture
def openi(tmp_path: Path) -> Path:
    return layouts.openi(tmp_path)


@pytest.fixture
def covid(tmp_path: Path) -> Path:
    return layouts.covid_chestxray(tmp_path)


def test_nih_layout_becomes_tables(nih: Path) -> None:
    corpus = load_corpus("nih", nih)
    assert len(corpus.studies) == len(corpus.images) == 5
    assert not corpus.exclusions
    splits = dict(zip(corpus.studies["study_id"], corpus.studies["split"], strict=True))
    assert splits["00000003_000"] == splits["00000004_000"] == "test"
    assert {splits["00000001_000"], splits["00000002_000"]} == {"train", "val"}  # 2 patients, each split gets one
    assert splits["00000001_000"] == splits["00000001_001"]
    labels = values(corpus, "00000001_000")
    assert labels.pop("cardiomegaly") == labels.pop("pleural effusion") == 1
    assert set(labels.values()) == {0.0}
    assert len(labels) == 13  # 14 findings and "no finding", less two
    assert values(corpus, "00000001_001")["no finding"] == 1
    assert corpus.studies["report"].isna().all()
    assert corpus.image_path("00000001_000").is_file()
    assert corpus.images["width"].tolist() == [48] * 5


def test_nih_boxes_count_in_the_published_frame(nih: Path) -> None:
    boxes = load_corpus("nih", nih).boxes.set_index("image_id")
    infiltrate = boxes.loc["00000002_000"]
    assert infiltrate["finding"] == "infiltration"
    assert infiltrate[["x_min", "y_min", "x_max", "y_max"]].tolist() == [100.5, 200, 400.5, 600]
    assert infiltrate[["frame_width", "frame_height"]].tolist() == [1024, 1024]
    assert boxes.loc["00000003_000", "source"] == "nih"


def test_nih_table_of_2017_and_the_box_list_without_trailing_blanks_read_the_same(nih: Path) -> None:
    first = load_corpus("nih", nih)
    lines = (nih / "Data_Entry_2017_v2020.csv").read_text().splitlines()
    (nih / "Data_Entry_2017_v2020.csv").unlink()
    write(nih / "Data_Entry_2017.csv", *(line + "," for line in lines))  # its last column is empty
    boxes = (nih / "BBox_List_2017.csv").read_text().splitlines()
    write(nih / "BBox_List_2017.csv", boxes[0], *(line.rstrip(",") for line in boxes[1:]))
    second = load_corpus("nih", nih)
    pd.testing.assert_frame_equal(first.labels, second.labels)
    pd.testing.assert_frame_equal(first.boxes, second.boxes)


def test_nih_folders_of_the_mirrors_are_found(nih: Path) -> None:
    (nih / "images").rename(nih / "moved")
    (nih / "images_001").mkdir()
    (nih / "moved").rename(nih / "images_001" / "images")
    assert len(load_corpus("nih", nih).images) == 5


def test_rsna_boxes_are_lung_opacities_and_keep_apart_from_nih_ones(nih: Path) -> None:
    add_rsna(nih)
    corpus = load_corpus("nih", nih)
    boxes = corpus.boxes[corpus.boxes["source"] == "rsna"]
    assert boxes["image_id"].tolist() == ["00000003_000"] * 2
    assert set(boxes["finding"]) == {"lung opacity"}
    assert boxes[["x_min", "y_min", "x_max", "y_max"]].iloc[1].tolist() == [600, 100, 800, 400]
    assert values(corpus, "00000003_000")["lung opacity"] == 1
    assert values(corpus, "00000004_000")["lung opacity"] == 0
    assert "lung opacity" not in values(corpus, "00000001_000")  # the challenge never looked at it
    assert corpus.exclusions["row of stage_2_train_labels.csv whose film is not here"] == 1


def test_nih_labels_as_sentences_are_marked(nih: Path) -> None:
    corpus = load_corpus("nih", nih, label_reports=True)
    assert corpus.studies["report"].tolist()[:2] == [
        "There is cardiomegaly. There is pleural effusion.",
        "No acute cardiopulmonary abnormality.",
    ]
    assert set(corpus.studies["report_source"]) == {"labels"}
    assert label_sentences("Pleural_Thickening") == "There is pleural thickening."


def test_openi_reports_keep_their_sections_and_not_their_codes(openi: Path) -> None:
    corpus = load_corpus("openi", openi)
    studies = corpus.studies.set_index("study_id")
    assert studies.index.tolist() == ["CXR1", "CXR2", "CXR3", "CXR10"]
    assert studies.loc["CXR1", "report"] == (
        "INDICATION: Chest pain\nCOMPARISON: None.\nFINDINGS: Heart is big.\nIMPRESSION: A & B."
    )
    assert studies.loc["CXR2", "report"] == "IMPRESSION: Normal chest."
    assert studies.loc["CXR10", "report"] == "FINDINGS: Clear lungs."
    assert studies.loc["CXR1", "mesh"] == "Opacity/lung/base/left;Cardiomegaly/mild"
    assert corpus.images.empty
    assert corpus.boxes.empty


def test_openi_report_without_findings_and_impression_is_none_and_counted(openi: Path) -> None:
    corpus = load_corpus("openi", openi)
    assert corpus.studies.set_index("study_id")["report"].isna().to_dict()["CXR3"]
    assert corpus.exclusions == {
        "report without findings and impression": 1,
        "report without labels": 1,
        "labels of a report that is not here": 1,
    }
    assert corpus.exclusions.defects == []


def test_openi_labels_have_our_names(openi: Path) -> None:
    corpus = load_corpus("openi", openi)
    assert values(corpus, "CXR1")["cardiomegaly"] == 1
    assert values(corpus, "CXR2")["no finding"] == 1
    assert values(corpus, "CXR2")["cardiomegaly"] == 0
    assert values(corpus, "CXR10") == {}


def test_openi_films_join_where_they_are_present(openi: Path) -> None:
    film(openi / "NLMCXR_png" / "CXR1_IM-0001-1001.png")
    film(openi / "NLMCXR_png" / "CXR1_IM-0001-2001.png")
    corpus = load_corpus("openi", openi)
    assert corpus.images["study_id"].tolist() == ["CXR1", "CXR1"]
    assert corpus.image_path("CXR1_IM-0001-2001").is_file()
    assert corpus.exclusions["film without a file"] == 6


def test_openi_of_kaggle_reads_as_the_publishers_with_its_frontal_films_first(openi: Path, tmp_path: Path) -> None:
    expected = load_corpus("openi", openi).studies.set_index("study_id")
    root = layouts.openi_kaggle(tmp_path / "kaggle")
    corpus = load_corpus("openi", root)
    columns = ["patient_id", "report", "report_source"]
    pd.testing.assert_frame_equal(
        corpus.studies.set_index("study_id")[columns], expected.loc[["CXR1", "CXR2", "CXR3"], columns]
    )
    assert corpus.studies["mesh"].iloc[0] == expected.loc["CXR1", "mesh"]
    assert corpus.images[["image_id", "view"]].to_numpy().tolist() == [
        ["CXR1_IM-0001-1001", "frontal"], ["CXR1_IM-0001-2001", "lateral"], ["CXR2_IM-0001-1001", "frontal"],
    ]  # fmt: skip
    assert check_corpus("openi", root, progress=False).problems == []
    write(
        root / "indiana_projections.csv", "uid,filename,projection", "77,77_IM-1.dcm.png,Frontal", "1,../1.png,Frontal"
    )
    with pytest.raises(ValueError, match=r"projections\.csv, line 3, film '\.\./1\.png': filename must be one name"):
        load_corpus("openi", root)
    write(root / "indiana_projections.csv", "uid,filename,projection", "77,77_IM-1.dcm.png,Frontal")
    assert load_corpus("openi", root).exclusions["film of a report that is not here"] == 1


def test_projections_beside_the_publishers_files_tell_the_view(openi: Path) -> None:
    for name in ("CXR1_IM-0001-1001", "CXR1_IM-0001-2001"):
        film(openi / "NLMCXR_png" / f"{name}.png")
    rows = ["1,1_IM-0001-1001.dcm.png,Lateral", "1,1_IM-0001-2001.dcm.png,Frontal"]
    write(openi / "indiana_projections.csv", "uid,filename,projection", *rows)
    images = load_corpus("openi", openi).images
    assert images[["image_id", "view"]].to_numpy().tolist() == [
        ["CXR1_IM-0001-2001", "frontal"], ["CXR1_IM-0001-1001", "lateral"],
    ]  # fmt: skip


def test_r2gen_annotation_brings_its_split(tmp_path: Path) -> None:
    entry = {
        "id": "CXR2384_IM-0942",
        "image_path": ["CXR2384_IM-0942/0.png", "CXR2384_IM-0942/1.png"],
        "report": "Fine.",
    }
    other = {"id": "CXR9_IM-2", "image_path": ["CXR9_IM-2/0.png"], "report": " "}
    write(tmp_path / "annotation.json", json.dumps({"train": [entry], "val": [], "test": [other]}))
    for name in (*entry["image_path"], "CXR9_IM-2/0.png"):
        film(tmp_path / "images" / name)
    corpus = load_corpus("openi", tmp_path)
    assert corpus.studies[["patient_id", "split"]].to_numpy().tolist() == [["CXR2384", "train"], ["CXR9", "test"]]
    assert len(limit_pairs(corpus, 1.0, seed=0).seed_pairs) == 2
    assert corpus.exclusions == {"report without findings and impression": 1}


def test_covid_rows_of_one_film_and_patients_who_share_it_are_merged(covid: Path) -> None:
    corpus = load_corpus("covid_chestxray", covid)
    studies = corpus.studies.set_index("study_id")
    assert studies.index.tolist() == ["a", "c", "d", "f", "g"]
    assert studies.loc["c", "patient_id"] == studies.loc["d", "patient_id"] == "2"
    assert studies.loc["c", "split"] == studies.loc["d", "split"]
    assert studies.loc["c", "report"] == "A longer text."
    assert pd.isna(studies.loc["d", "report"])
    assert corpus.images.groupby("study_id").size().to_dict() == {"a": 2, "c": 1, "d": 1, "f": 1, "g": 1}
    assert corpus.exclusions["further row of the same film"] == 1
    assert corpus.exclusions["no frontal radiograph"] == 1


def test_patients_are_merged_through_each_other() -> None:
    assert merge_patients([{"1", "2"}, {"3"}, {"4", "5"}, {"5", "2"}]) == dict.fromkeys("1245", "1") | {"3": "3"}


def test_covid_diagnoses_become_labels_or_are_counted(covid: Path) -> None:
    corpus = load_corpus("covid_chestxray", covid)
    assert values(corpus, "a") == {"no finding": 0, "pneumonia": 1, "covid-19": 1}
    assert values(corpus, "c") == {"no finding": 0, "pneumonia": 1, "covid-19": 0}
    assert values(corpus, "d") == {"no finding": 0}  # ARDS alone need not be a pneumonia
    assert values(corpus, "f") == {"no finding": 1, "pneumonia": 0, "covid-19": 0}
    assert values(corpus, "g") == {}
    assert corpus.exclusions["diagnosis without a label of ours"] == 1


def test_covid_boxes_are_pathologies_only_and_masks_are_listed_once(covid: Path) -> None:
    corpus = load_corpus("covid_chestxray", covid)
    assert corpus.boxes[["image_id", "phrase", "finding", "x_max", "frame_width"]].to_numpy().tolist() == [
        ["a", "ground glass opacity", "lung opacity", 30.0, 48.0]
    ]
    assert corpus.masks[["finding", "kind"]].to_numpy().tolist() == [
        ["lung opacity", "pathology"],
        ["left lung", "anatomy"],
    ]
    assert (corpus.exclusions["box of anatomy"], corpus.exclusions["box of device"]) == (1, 1)
    assert corpus.exclusions["bad box"] == 1
    assert any("boxes.csv, line 6, film 'b.png'" in line for line in corpus.exclusions.defects)


def test_covid_line_numbers_survive_line_breaks_inside_a_cell(covid: Path) -> None:
    (covid / "images" / "g.png").unlink()
    corpus = load_corpus("covid_chestxray", covid)
    assert corpus.exclusions.defects[0] == "metadata.csv, line 10, film 'g.png': row without a film"


def test_covid_without_annotations(covid: Path) -> None:
    (covid / "annotations" / "boxes.csv").unlink()
    corpus = load_corpus("covid_chestxray", covid)
    assert corpus.boxes.empty
    assert corpus.masks.empty


def test_three_real_layouts_assemble_into_one_limited_pairing_task(nih: Path, openi: Path, covid: Path) -> None:
    corpus = assemble("covid_chestxray+nih+openi", nih.parent)
    assert corpus.name == "covid_chestxray+nih+openi"
    assert corpus.root == nih.parent.resolve()
    studies = corpus.studies.set_index("study_id")
    assert studies.loc["nih/00000002_000", "split"] == "test"  # boxed, so it serves evaluation
    assert studies.loc["nih/00000002_000", "original_split"] in ("train", "val")
    assert studies.loc[studies["corpus"] == "nih", "report"].isna().all()
    assert set(studies["report_source"].dropna()) == {"clinical notes", "report"}
    pools = limit_pairs(corpus, 1.0, seed=0)
    assert all(image_id.startswith("covid_chestxray/") for image_id in pools.seed_pairs["image_id"])
    assert all((corpus.root / path).is_file() for path in corpus.images["path"])
    assert "covid_chestxray: bad box" in corpus.exclusions


def test_nih_as_source_of_pairs_writes_its_labels_out(nih: Path) -> None:
    corpus = assemble("nih", nih.parent)
    assert set(corpus.studies["report_source"]) == {"labels"}
    assert set(corpus.boxes["study_id"]) <= set(corpus.split("test").studies["study_id"])
    kept = assemble("nih", nih.parent, withhold_boxed=False)
    assert kept.studies["split"].value_counts()["test"] == 2


def test_unknown_names_and_folders_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^unknown corpus 'mnist'; known: chest_imagenome, .*, vindr$"):
        load_corpus("mnist", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"corpus 'nih': no folder at .*gone"):
        load_corpus("nih", tmp_path / "gone")
    for spec in ("nih+openi", "nih+mnist+openi", ""):
        with pytest.raises(ValueError, match=r"one name or PAIRS\+IMAGES\+REPORTS"):
            assemble(spec, tmp_path)


def test_corpora_with_patients_in_common_are_not_combined(tmp_path: Path) -> None:
    for spec, shared in (
        ("mimic_cxr+chest_imagenome+openi", r"\['mimic_cxr', 'chest_imagenome'\]"),
        ("covid_chestxray+rsna+nih", r"\['rsna', 'nih'\]"),
        ("nih+nih+openi", r"\['nih', 'nih'\]"),
    ):
        with pytest.raises(ValueError, match=rf"corpora {shared} have patients in common"):
            assemble(spec, tmp_path)


def test_boxes_are_cut_by_a_pixel_and_refused_beyond() -> None:
    assert parse_box(["-0.6", "0", "10", "100.9"], (100.0, 100.0)) == (0, 0, 10, 100)
    assert parse_box(["5", "6", "7", "8"], (100.0, 100.0), as_xywh=True) == (5, 6, 12, 14)
    for cells in (["0", "0", "102", "5"], ["-3", "0", "5", "5"], ["0", "0", "5", "inf"]):
        with pytest.raises(ValueError, match="reaches outside its 100 x 100 frame"):
            parse_box(cells, (100.0, 100.0))
    with pytest.raises(ValueError, match=r"box \(100\.2, 5, 100\.9, 9\) lies outside its 100 x 100 frame"):
        parse_box(["100.2", "5", "100.9", "9"], (100.0, 100.0))
    for cells in (["5", "5", "5", "9"], ["nan", "0", "5", "5"], ["9", "0", "5", "5"]):
        with pytest.raises(ValueError, match="must have positive width and height"):
            parse_box(cells, (100.0, 100.0))
    with pytest.raises(ValueError, match="must be four numbers"):
        parse_box(["", "0", "5", "5"], (100.0, 100.0))


@pytest.mark.parametrize("names", [("id", "text"), ("id",)])
def test_lines_are_right_below_blank_ones_and_below_line_breaks(names: tuple[str, ...], tmp_path: Path) -> None:
    rows = ['a,"one\ntwo"', "", "", "b,x", ",", "   ", "c,y", ""]
    write(tmp_path / "t.csv", ",".join(names), *([row.split(",")[0] for row in rows] if len(names) == 1 else rows))
    table = read_table(tmp_path / "t.csv", names)
    assert table["id"].tolist() == ["a", "b", "c"]
    assert table["line"].tolist() == ([2, 6, 9] if len(names) == 2 else [2, 5, 8])
    assert table.index.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("s1", "'s1'"), ("00000003_000.png", "'00000003_000.png'"), ("", "''"), ("-1", "'-1'"), ("aa", "'aa'"),
        ("a0b1cdefabcdefab-1", "'a0b1cdefabcdefab-1'"), ("nih/p0", "'nih/p0'"), (None, "nothing"), (2.5, "2.5"),
        ("valid/patient00001/study1/view1_frontal.jpg", "'valid/patient00001/study1/view1_frontal.jpg'"),
        ("Severe edema, left base", "23 characters, letters, spaces and signs"),
        ("worse than the one before", "25 characters, letters and spaces"), ("HIV", "3 characters, letters"),
        ("mass7", "5 characters, letters and digits"), (["x"], "list"), ("\n", "1 characters, spaces"),
    ],
)  # fmt: skip
def test_a_cell_is_quoted_where_it_is_an_id_and_else_by_its_shape(cell: object, shown: str) -> None:
    assert quoted(cell) == shown


def test_errors_quote_an_id_and_no_word(tmp_path: Path) -> None:
    table = pd.DataFrame({"film": ["f1", "f2 left base"], "split": ["trian", "Worse than before."]})
    write(tmp_path / "t.csv", "film,split", *(",".join(row) for row in table.to_numpy()))
    table = Layout(columns=("film", "split"), key="film").read(tmp_path / "t.csv")
    for row, message in (
        (0, "t.csv, line 2, film 'f1': split must be train, got 5 characters, letters"),
        (
            1,
            "t.csv, line 3, film 12 characters, letters, digits and spaces: split must be train, got 18 characters, "
            "letters, spaces and signs",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            refuse(table, pd.Series(table.index == row), "split", "train")
    with pytest.raises(
        ValueError, match=r"must be four numbers, got '1', 9 characters, letters and spaces, nothing, '4'$"
    ):
        parse_box(["1", "left base", None, "4"], (9.0, 9.0))
    write(tmp_path / "r.csv", "study_id,report,image", "s1,Severe edema, worse than before,s1.png")
    with pytest.raises(ValueError, match=r"^r\.csv, line 2: more cells than the first line names \(3\); put") as caught:
        read_table(tmp_path / "r.csv", ("report",))
    assert "worse" not in str(caught.value)


def test_phantom_is_built_once_per_configuration_and_keeps_its_split(tmp_path: Path) -> None:
    first = assemble("phantom", tmp_path, studies=8, image_size=32, seed=1)
    again = assemble("phantom", tmp_path, studies=8, image_size=32, seed=1)
    pd.testing.assert_frame_equal(first.studies, again.studies)
    assert len(first.studies) == 8
    assert "original_split" not in first.studies
    assert len(assemble("phantom", tmp_path, studies=4, image_size=32, seed=1).studies) == 4
    assert len(load_corpus("phantom", first.root).images) == len(first.images)
    assert len(limit_pairs(first, 1.0, seed=0).seed_pairs) > 0
    assert check_corpus("phantom", first.root, progress=False).problems == []
