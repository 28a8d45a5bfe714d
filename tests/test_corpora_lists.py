"""COVIDx and VinDr-CXR, as tiny copies of the published layouts."""

from pathlib import Path

import layouts
import pytest
from layouts import COVIDX_TEST as TEST
from layouts import COVIDX_TRAIN as TRAIN
from layouts import KAGGLE_HEADER, VINDR_LABELS, covidx_lists, film, two_classes, values, vindr_films, write

from lgdea_core.data.check import check_corpus
from lgdea_core.data.corpora import load_corpus


@pytest.fixture
def covidx(tmp_path: Path) -> Path:
    return layouts.covidx(tmp_path)


@pytest.fixture
def vindr(tmp_path: Path) -> Path:
    return layouts.vindr(tmp_path)


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    return layouts.vindr_kaggle(tmp_path)


def test_covidx_of_three_classes_becomes_tables(covidx: Path) -> None:
    corpus = load_corpus("covidx", covidx)
    studies = corpus.studies.set_index("study_id")
    assert studies["patient_id"].to_dict() == {
        "train_a.png": "rsna:7", "train_b.png": "rsna:7", "train_c.jpg": "sirm:p 8", "train_d.png": "cohen:9",
        "train_e.png": "fig1:9", "test_a.png": "ricord:20", "test_g.png": "rsna:11",
    }  # fmt: skip
    assert studies.loc[["test_a.png", "test_g.png"], "split"].tolist() == ["test", "test"]
    assert studies.loc["train_a.png", "split"] == studies.loc["train_b.png", "split"]
    assert set(studies["split"]) == {"train", "val", "test"}
    assert values(corpus, "train_a.png") == {"covid-19": 0, "pneumonia": 0, "no finding": 1}
    assert values(corpus, "train_d.png") == {"covid-19": 0, "pneumonia": 1, "no finding": 0}
    assert values(corpus, "train_c.jpg") == {"covid-19": 1, "no finding": 0}
    assert studies.loc["train_c.jpg", "covidx_class"] == "COVID-19"
    assert corpus.exclusions == {"film of a patient of test in another list": 1}


def test_covidx_of_two_classes_may_bring_its_val(covidx: Path) -> None:
    for path in covidx.glob("*.txt"):
        path.unlink()
    covidx_lists(covidx, "", two_classes(TRAIN), two_classes(TEST))
    write(covidx / "val.txt", "31 h.png positive x")
    film(covidx / "val/h.png")
    corpus = load_corpus("covidx", covidx)
    assert corpus.studies.loc[corpus.studies["split"] == "val", "study_id"].tolist() == ["val_h.png"]
    assert values(corpus, "train_c.jpg")["covid-19"] == values(corpus, "val_h.png")["covid-19"] == 1
    assert values(corpus, "train_d.png") == {"covid-19": 0}  # negative may be pneumonia


def test_covidx_films_that_differ_in_their_suffix_alone_are_two(covidx: Path) -> None:
    write(covidx / "train_COVIDx9A.txt", *TRAIN, "12 a.jpg normal rsna", "12 a.jpg normal rsna")
    film(covidx / "train/a.jpg")
    corpus = load_corpus("covidx", covidx)
    assert {"train_a.png", "train_a.jpg"} <= set(corpus.studies["study_id"])
    assert corpus.exclusions["further line of the same film"] == 1


def test_covidx_takes_no_val_of_its_own_beside_a_published_one(covidx: Path) -> None:
    write(covidx / "val_COVIDx9A.txt", "31 h.png normal x")  # whose film is not here
    corpus = load_corpus("covidx", covidx)
    assert set(corpus.studies["split"]) == {"train", "test"}
    assert corpus.exclusions["row without a film"] == 1


def test_covidx_of_several_versions_is_the_newest_unless_named(covidx: Path, caplog: pytest.LogCaptureFixture) -> None:
    covidx_lists(covidx, "_COVIDx8B", train=TRAIN[:1], test=TEST[:1])
    assert len(load_corpus("covidx", covidx).studies) == 7  # 9A's
    assert "train_COVIDx9A.txt is read, not train_COVIDx8B.txt; name another version by `lists`" in caplog.text
    assert len(load_corpus("covidx", covidx, lists="8B").studies) == 2
    covidx_lists(covidx, "", two_classes(TRAIN), two_classes(TEST))
    corpus = load_corpus("covidx", covidx)
    assert set(corpus.studies["covidx_class"]) == {"positive", "negative"}
    assert corpus.exclusions["version whose lists are not read"] == 2
    assert check_corpus("covidx", covidx, progress=False).problems == []
    assert set(load_corpus("covidx", covidx, lists="9A").studies["covidx_class"]) == {"normal", "pneumonia", "COVID-19"}
    assert set(load_corpus("covidx", covidx, lists="").studies["covidx_class"]) == {"positive", "negative"}


@pytest.mark.parametrize("layout", ["vindr", "kaggle"])
def test_vindr_labels_are_the_majority_of_the_readers(layout: str, request: pytest.FixtureRequest) -> None:
    corpus = load_corpus("vindr", request.getfixturevalue(layout))
    assert values(corpus, "im1") == {"lung opacity": 1, "fibrosis": 0, "no finding": 0}
    assert values(corpus, "im2") == {"lung opacity": 0, "fibrosis": 0, "no finding": 1}
    shares = corpus.labels.set_index(["study_id", "finding"])["share"]
    assert shares["im1", "lung opacity"] == pytest.approx(2 / 3)
    assert shares["im1", "fibrosis"] == shares["im2", "lung opacity"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("layout", ["vindr", "kaggle"])
def test_vindr_boxes_are_every_readers_own(layout: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(layout)
    corpus = load_corpus("vindr", root)
    boxes = corpus.boxes[corpus.boxes["image_id"] == "im1"]
    assert boxes["reader"].tolist() == ["R1", "R1", "R2"]
    assert boxes["finding"].tolist() == ["lung opacity", "fibrosis", "lung opacity"]
    assert boxes["phrase"].tolist()[1] == "pulmonary fibrosis"
    assert boxes[["x_min", "y_min", "x_max", "y_max", "frame_width", "frame_height"]].iloc[0].tolist() == [
        10, 20, 30, 40, 64, 48,
    ]  # fmt: skip
    assert check_corpus("vindr", root, progress=False).problems == []


@pytest.mark.parametrize("told", ["train_meta.csv", "train.csv", ""])
def test_vindr_of_kaggle_may_be_smaller_png(kaggle: Path, told: str) -> None:
    for path in (kaggle / "train").glob("*.dicom"):
        film(path.with_suffix(".png"), 24 * 2, 32 * 2 if not told else 48)
        path.unlink()
    if told == "train_meta.csv":
        write(kaggle / told, "image_id,dim0,dim1", "im1,480,640", "im2,480,640")
    elif told:
        head, *rows = (kaggle / told).read_text().splitlines()
        write(kaggle / told, f"{head},width,height", *(f"{row},640,480" for row in rows))
    report = check_corpus("vindr", kaggle, progress=False)
    assert report.problems == []
    copies = {} if told else {"film that is a copy: its boxes are taken in its own pixels": 2}
    assert report.exclusions == copies
    corpus = load_corpus("vindr", kaggle)
    assert corpus.image_path("im1") == kaggle / "train/im1.png"
    frame = corpus.boxes[["frame_width", "frame_height"]].astype(float).drop_duplicates().to_numpy().tolist()
    assert frame == [[640, 480] if told else [64, 48]]


def test_vindr_test_films_are_the_publishers_and_agreed(vindr: Path) -> None:
    corpus = load_corpus("vindr", vindr)
    studies = corpus.studies.set_index("study_id")
    assert studies.loc["im3", "split"] == "test"
    assert set(studies.loc[["im1", "im2"], "split"]) == {"train", "val"}
    assert values(corpus, "im3") == {"lung opacity": 0, "fibrosis": 1, "no finding": 0}
    assert corpus.boxes.set_index("image_id").loc["im3", "reader"] == "agreed"
    assert corpus.image_path("im3") == vindr / "test/im3.dicom"


def test_vindr_names_of_one_label_agree_over_the_tables(vindr: Path) -> None:
    for split, name in (("train", "Other diseases"), ("test", "Other disease")):  # as published
        lines = [VINDR_LABELS[split][0].replace("Pulmonary fibrosis", name), *VINDR_LABELS[split][1:]]
        write(vindr / f"annotations/image_labels_{split}.csv", *lines)
    corpus = load_corpus("vindr", vindr)
    assert values(corpus, "im3")["other diseases"] == 1
    assert values(corpus, "im1")["other diseases"] == 0


def test_vindr_of_kaggle_gets_a_test_split(kaggle: Path) -> None:
    rows = [f"x{number},No finding,14,R1,,,," for number in range(20)]
    write(kaggle / "train.csv", KAGGLE_HEADER, *rows)
    vindr_films(kaggle, train=tuple(f"x{number}" for number in range(20)))
    assert load_corpus("vindr", kaggle).studies["split"].value_counts().to_dict() == {"train": 12, "val": 4, "test": 4}
