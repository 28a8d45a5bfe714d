"""COVIDx and VinDr-CXR, as tiny copies of the published layouts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layouts import film, values, write, write_dicom

from lgdea_core.data.check import check_corpus
from lgdea_core.data.corpora import load_corpus

TRAIN = [
    "7 a.png normal rsna",
    "7 b.png normal rsna",
    "p 8 c.jpg COVID-19 sirm",  # a patient's name with a space
    "9 d.png pneumonia cohen",
    "9 e.png COVID-19 fig1",  # the same number in another source is another patient
    "11 f.png pneumonia rsna",
]
TEST = ["20 a.png COVID-19 ricord", "11 g.png normal rsna"]


def two_classes(lines: list[str]) -> list[str]:
    renamed = [line.replace("COVID-19", "positive") for line in lines]
    return [line.replace("normal", "negative").replace("pneumonia", "negative") for line in renamed]


def add_lists(root: Path, version: str = "_COVIDx9A", train: list[str] = TRAIN, test: list[str] = TEST) -> None:
    write(root / f"train{version}.txt", *train)
    write(root / f"test{version}.txt", *test)


@pytest.fixture
def covidx(tmp_path: Path) -> Path:
    """Six training films, one of them of a test patient, and two of test."""
    add_lists(tmp_path)
    for line in TRAIN:
        film(tmp_path / "train" / line.split()[-3])
    for line in TEST:
        film(tmp_path / "test" / line.split()[-3])
    return tmp_path


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
    assert check_corpus("covidx", covidx, progress=False).problems == []


def test_covidx_of_two_classes_may_bring_its_val(covidx: Path) -> None:
    for path in covidx.glob("*.txt"):
        path.unlink()
    add_lists(covidx, "", two_classes(TRAIN), two_classes(TEST))
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
    add_lists(covidx, "_COVIDx8B", train=TRAIN[:1], test=TEST[:1])
    assert len(load_corpus("covidx", covidx).studies) == 7  # 9A's
    assert "train_COVIDx9A.txt is read, not train_COVIDx8B.txt; name another version by `lists`" in caplog.text
    assert len(load_corpus("covidx", covidx, lists="8B").studies) == 2
    add_lists(covidx, "", two_classes(TRAIN), two_classes(TEST))
    corpus = load_corpus("covidx", covidx)
    assert set(corpus.studies["covidx_class"]) == {"positive", "negative"}
    assert corpus.exclusions["version whose lists are not read"] == 2
    assert check_corpus("covidx", covidx, progress=False).problems == []
    assert set(load_corpus("covidx", covidx, lists="9A").studies["covidx_class"]) == {"normal", "pneumonia", "COVID-19"}
    assert set(load_corpus("covidx", covidx, lists="").studies["covidx_class"]) == {"positive", "negative"}


def test_covidx_counts_repeated_lines_and_missing_films(covidx: Path) -> None:
    add_lists(covidx, train=[*TRAIN, TRAIN[0], "", "12 z.png normal rsna", "7 b.png COVID-19 rsna"])
    report = check_corpus("covidx", covidx, progress=False)
    assert report.exclusions["further line of the same film"] == 1
    assert report.problems == [
        "train_COVIDx9A.txt, line 10, film 'b.png': another class than in the film's first line, which counts",
        "train_COVIDx9A.txt, line 9, film 'z.png': row without a film",
    ]


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            lambda root: add_lists(root, train=[*TRAIN, "12 z.png norma rsna"]),
            ValueError,
            r"train_COVIDx9A\.txt, line 7: a line must be patient, file, class and source, the class one of",
        ),
        (lambda root: add_lists(root, train=["12 z.png normal"]), ValueError, r"train_COVIDx9A\.txt, line 1: a line"),
        (
            lambda root: add_lists(root, train=[*TRAIN, "12 z.png positive rsna"]),
            ValueError,
            r"classes must be of one kind, got \['COVID-19', 'normal', 'pneumonia', 'positive'\]",
        ),
        (
            lambda root: (root / "train_COVIDx9A.txt").write_bytes(b"S\xe3o a.png normal rsna\n"),
            ValueError,
            r"train_COVIDx9A\.txt: not UTF-8",
        ),
        (lambda root: (root / "test_COVIDx9A.txt").unlink(), FileNotFoundError, r"no list at .*test_COVIDx9A\.txt"),
        (
            lambda root: [(root / name).rename(root / f"moved_{name}") for name in ("train", "test")],
            FileNotFoundError,
            r"no film of the lists under",
        ),
    ],
)
def test_covidx_damage_is_named(
    covidx: Path, damage: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    damage(covidx)
    with pytest.raises(error, match=message):
        load_corpus("covidx", covidx)


ANNOTATIONS = [
    "im1,R1,Lung Opacity,10,20,30,40",
    "im1,R1,Pulmonary fibrosis,1,2,9,9",
    "im1,R2,Lung Opacity,12,22,32,42",
    "im1,R3,No finding,,,,",
    "im2,R1,No finding,,,,",
    "im2,R2,No finding,,,,",
    "im2,R3,Lung Opacity,5,5,9,9",
    "im2,R3,Lung Opacity,15,5,19,9",  # a second box is no second vote
]
LABELS = {
    "train": [
        "image_id,rad_id,Lung Opacity,Pulmonary fibrosis,No finding",
        "im1,R1,1,1,0", "im1,R2,1,0,0", "im1,R3,0,0,1", "im2,R1,0,0,1", "im2,R2,0,0,1", "im2,R3,1,0,0",
    ],
    "test": ["image_id,Lung Opacity,Pulmonary fibrosis,No finding", "im3,0,1,0"],
}  # fmt: skip


def vindr_films(root: Path, **folders: tuple[str, ...]) -> None:
    for folder, names in folders.items():
        for name in names:
            write_dicom(root / folder / f"{name}.dicom", np.zeros((48, 64), dtype=np.uint16), BitsStored=12)


@pytest.fixture
def vindr(tmp_path: Path) -> Path:
    """PhysioNet's layout: two training films with three readers each, a test film with an agreed reading."""
    folder = tmp_path / "annotations"
    write(folder / "annotations_train.csv", "image_id,rad_id,class_name,x_min,y_min,x_max,y_max", *ANNOTATIONS)
    write(
        folder / "annotations_test.csv", "image_id,class_name,x_min,y_min,x_max,y_max", "im3,Pulmonary fibrosis,0,0,9,9"
    )
    for split, lines in LABELS.items():
        write(folder / f"image_labels_{split}.csv", *lines)
    vindr_films(tmp_path, train=("im1", "im2"), test=("im3",))
    return tmp_path


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """The same training films as Kaggle has them."""
    rows = []
    for line in ANNOTATIONS:
        image, reader, name, *corners = line.split(",")
        rows.append(",".join([image, name, "14" if name == "No finding" else "7", reader, *corners]))
    write(tmp_path / "train.csv", "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max", *rows)
    vindr_films(tmp_path, train=("im1", "im2"))
    return tmp_path


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
        lines = [LABELS[split][0].replace("Pulmonary fibrosis", name), *LABELS[split][1:]]
        write(vindr / f"annotations/image_labels_{split}.csv", *lines)
    corpus = load_corpus("vindr", vindr)
    assert values(corpus, "im3")["other diseases"] == 1
    assert values(corpus, "im1")["other diseases"] == 0


def test_vindr_of_kaggle_gets_a_test_split(kaggle: Path) -> None:
    rows = [f"x{number},No finding,14,R1,,,," for number in range(20)]
    write(kaggle / "train.csv", "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max", *rows)
    vindr_films(kaggle, train=tuple(f"x{number}" for number in range(20)))
    assert load_corpus("vindr", kaggle).studies["split"].value_counts().to_dict() == {"train": 12, "val": 4, "test": 4}


def test_vindr_annotations_of_an_image_without_labels_are_counted(vindr: Path) -> None:
    write(vindr / "annotations/image_labels_train.csv", *LABELS["train"][:4])  # im2 is gone
    report = check_corpus("vindr", vindr, progress=False)
    assert report.exclusions["annotation of an image without labels"] == len(report.problems) == 4
    assert report.problems[0] == "annotations_train.csv, line 6, image 'im2': annotation of an image without labels"


def test_vindr_of_kaggle_knows_its_labels(kaggle: Path) -> None:
    table = kaggle / "train.csv"
    table.write_text(table.read_text().replace("im2,Lung Opacity", "im2,Lung Opacty"))
    with pytest.raises(ValueError, match=r"^train\.csv, line 8, image 'im2': class_name must be one of VinDr's 28"):
        load_corpus("vindr", kaggle)


def test_vindr_bad_boxes_and_missing_films_are_problems(vindr: Path) -> None:
    with (vindr / "annotations/annotations_train.csv").open("a") as file:
        file.write("im1,R3,Lung Opacity,10,20,99,40\nim2,R3,Lung Opacity,,,,\n")
    (vindr / "test/im3.dicom").unlink()
    problems = check_corpus("vindr", vindr, progress=False).problems
    assert problems[:2] == [
        "image_labels_test.csv, line 2, image 'im3': row without a film",
        "annotations_train.csv, line 10, image 'im1': box (10, 20, 99, 40) reaches outside its 64 x 48 frame: bad box",
    ]
    assert problems[2].startswith("annotations_train.csv, line 11, image 'im2': box coordinates must be four numbers")
    assert len(problems) == 3


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            lambda root: write(root / "annotations/image_labels_train.csv", *LABELS["train"][:2], "im1,R2,1,2,0"),
            ValueError,
            r"image_labels_train\.csv, line 3, image 'im1': Pulmonary fibrosis must be 0 or 1, got '2'",
        ),
        (
            lambda root: write(root / "annotations/image_labels_test.csv", "image_id,Lung Opacty", "im3,0"),
            ValueError,
            r"image_labels_test\.csv, line 1: column\(s\) \['Lung Opacty'\] are none of VinDr's 28 labels",
        ),
        (
            lambda root: write(root / "annotations/annotations_test.csv", "image_id,x_min", "im3,1"),
            ValueError,
            r"annotations_test\.csv: missing column\(s\) \['class_name', 'y_min', 'x_max', 'y_max'\]",
        ),
        (
            lambda root: (root / "annotations/image_labels_test.csv").unlink(),
            FileNotFoundError,
            r"no table at .*image_labels_test\.csv",
        ),
        (
            lambda root: [(root / name).rename(root / f"moved_{name}") for name in ("train", "test")],
            FileNotFoundError,
            r"no film of .* unpack",
        ),
    ],
)  # fmt: skip
def test_vindr_damage_is_named(
    vindr: Path, damage: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    damage(vindr)
    with pytest.raises(error, match=message):
        load_corpus("vindr", vindr)
