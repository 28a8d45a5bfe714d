"""A user's own folder: every mistake is an error with file, line and study."""

from pathlib import Path

import layouts
import numpy as np
import pytest
from layouts import STUDIES
from PIL import Image

from lgdea_core.data import check
from lgdea_core.data.corpora import load_corpus
from lgdea_core.data.pairing import limit_pairs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return layouts.folder(tmp_path)


def test_folder_becomes_tables(folder: Path) -> None:
    layouts.write(folder / "labels.csv", "study_id,finding,value", "s1,Pleural Effusion,1", "s1,mass,-1", "s3,mass,")
    layouts.write(
        folder / "boxes.csv", "study_id,finding,phrase,x_min,y_min,x_max,y_max", "s1,Mass,a small mass,1,2,30,40"
    )
    corpus = load_corpus("folder", folder)
    studies = corpus.studies.set_index("study_id")
    assert studies["report"].isna().to_dict() == {"s1": False, "s2": True, "s3": False}
    assert studies.loc["s1", "report"] == "FINDINGS: Small effusion, left."
    assert corpus.images[["study_id", "view", "width", "height"]].to_numpy().tolist() == [
        ["s1", "PA", 60, 40],
        ["s2", "AP", 60, 40],
    ]
    assert corpus.labels["finding"].tolist() == ["pleural effusion", "mass", "mass"]
    assert corpus.labels["value"].isna().tolist() == [False, False, True]
    box = corpus.boxes.iloc[0]
    assert (box["phrase"], box["finding"], box["frame_width"], box["frame_height"]) == ("a small mass", "mass", 60, 40)
    assert limit_pairs(corpus, 1.0, seed=0).seed_pairs.to_numpy().tolist() == [["s1", "s1"]]


def test_report_image_labels_and_boxes_are_optional(folder: Path) -> None:
    layouts.write(folder / "studies.csv", "study_id,patient_id,split,image", "s1,p1,train,films/s1.png")
    corpus = load_corpus("folder", folder)
    assert corpus.studies["report"].isna().all()
    assert corpus.boxes.empty
    layouts.write(folder / "studies.csv", "study_id,patient_id,split,report", "s1,p1,train,Clear.")
    assert load_corpus("folder", folder).images.empty


def test_boxes_may_count_in_a_frame_of_their_own(folder: Path) -> None:
    header = "study_id,finding,x_min,y_min,x_max,y_max,frame_width,frame_height"
    layouts.write(folder / "boxes.csv", header, "s1,mass,100,200,1000,800,1200,800")
    assert load_corpus("folder", folder).boxes[["x_max", "frame_width"]].to_numpy().tolist() == [[1000, 1200]]
    layouts.write(folder / "boxes.csv", header, "s1,mass,100,200,1000,800,1200,")
    with pytest.raises(
        ValueError, match=r"line 2, study 's1': width and height of its frame must be .*, got '1200' and ''"
    ):
        load_corpus("folder", folder)


ROW = "s4,p4,train,Clear.,films/s1.png,PA"


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        (
            ROW.replace("train", "trian"),
            ValueError,
            r"^studies\.csv, line 5, study 's4': split must be one of \['test', 'train', 'val'\], got 5 characters, l",
        ),
        (
            ROW.replace("s1.png", "gone.png"),
            FileNotFoundError,
            r"line 5, study 's4': no image 14 characters, letters and signs in /",
        ),
        (
            ROW.replace("Clear.", "  "),
            ValueError,
            r"line 5, study 's4': the report is empty; write none .* drop",
        ),
        (ROW.replace("films/s1.png", ""), ValueError, r"line 5, study 's4': the image is empty; write none"),
        ("s4,p4,train,none,none,", ValueError, r"line 5, study 's4': neither report nor image"),
        (ROW.replace("s4", "s1"), ValueError, r"line 5, study 's1': the study is already in line 2"),
        (ROW.replace("p4", "p2"), ValueError, r"line 5, study 's4': patient 'p2' is in split 'test' by line 4"),
        (ROW.replace("s4", ""), ValueError, r"line 5, study '': study_id is empty"),
        (ROW.replace("p4", ""), ValueError, r"line 5, study 's4': patient_id names no patient, got ''"),
        (ROW.replace("p4", "NaN"), ValueError, r"line 5, study 's4': patient_id names no patient, got 'NaN'"),
        (ROW.replace("films/s1", "../s1"), ValueError, r"line 5, study 's4': the image's path leaves /.*allow_outside"),
        (ROW.replace("films/s1", "/s1"), ValueError, r"line 5, study 's4': the image's path leaves /.*allow_outside"),
        (ROW.replace("films/s1", "C:\\s1"), ValueError, r"line 5, study 's4': the image's path leaves /"),
        (ROW.replace("films/s1", "x" * 300), FileNotFoundError, r"line 5, study 's4': no image 304 characters"),
        (ROW.replace("films/s1", "\0"), FileNotFoundError, r"line 5, study 's4': no image 5 characters"),
        (ROW.replace("s1.png", "text.png"), ValueError, r"line 5, study 's4': .*text\.png cannot be read as an image"),
        (ROW.replace("s1.png", "tiny.png"), ValueError, r"line 5, study 's4': .*at least 32 pixels, got 8 x 8"),
    ],
)
def test_a_bad_study_is_named_by_file_line_and_study(
    folder: Path, row: str, error: type[Exception], message: str
) -> None:
    (folder / "films" / "text.png").write_text("no image")
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(folder / "films" / "tiny.png")
    layouts.write(folder / "studies.csv", *STUDIES, row)
    with pytest.raises(error, match=message):
        load_corpus("folder", folder)


def test_films_may_lie_anywhere_if_the_tables_owner_says_so(folder: Path) -> None:
    layouts.film(folder.parent / "elsewhere/s1.png")
    outside = (folder.parent / "elsewhere/s1.png", Path("../elsewhere/s1.png"))
    for path in outside:
        layouts.write(folder / "studies.csv", "study_id,patient_id,split,image", f"s1,p1,train,{path}")
        corpus = load_corpus("folder", folder, allow_outside=True)
        assert corpus.image_path("s1").resolve() == outside[0].resolve()
        assert check.main(["folder", str(folder), "--allow-outside"]) == 0
        assert check.main(["folder", str(folder)]) == 1
    with pytest.raises(SystemExit, match="2"):
        check.main(["nih", str(folder), "--allow-outside"])


@pytest.mark.parametrize(
    ("table", "lines", "message"),
    [
        ("studies.csv", ["study_id,patient_id,split", "s1,p1,train"], r"missing column\(s\) report or image"),
        ("studies.csv", ["study_id,patient_id,split,report"], r"studies\.csv: no rows"),
        ("labels.csv", ["study_id,finding", "s1,mass"], r"labels\.csv: missing column\(s\) \['value'\]"),
        ("labels.csv", ["study_id,finding,value", "s1,mass,2"], r"labels\.csv, line 2, study 's1': value must be 1, 0"),
        ("labels.csv", ["study_id,finding,value", "s9,mass,1"], r"labels\.csv, line 2, study 's9': the study is not"),
        ("labels.csv", ["study_id,finding,value", "s1,Mass,1", "s1,mass,0"], r"labels\.csv, line 3, study 's1'"),
        ("labels.csv", ["study_id,finding,value", "s1,,1"], r"labels\.csv, line 2, study 's1': finding is empty"),
        (
            "boxes.csv",
            ["study_id,finding,x_min,y_min,x_max,y_max", "s1,mass,1,1,9,9", "s1,mass,1,1,90,9"],
            r"boxes\.csv, line 3, study 's1': box \(1, 1, 90, 9\) reaches outside its 60 x 40 frame",
        ),
        (
            "boxes.csv",
            ["study_id,finding,x_min,y_min,x_max,y_max", "s3,mass,1,1,9,9"],
            r"boxes\.csv, line 2, study 's3': the study has no image",
        ),
    ],
)  # fmt: skip
def test_a_bad_table_is_named(folder: Path, table: str, lines: list[str], message: str) -> None:
    layouts.write(folder / table, *lines)
    with pytest.raises(ValueError, match=message):
        load_corpus("folder", folder)
