"""Every downstream task of a published corpus, from tiny copies of its layout to a row of its table."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layouts import write, write_dicom
from PIL import Image

from lgdea_core.config import RunConfig
from lgdea_core.data.corpora import FOLDERS
from lgdea_core.data.corpora.siim import SIDE
from lgdea_core.data.corpora.tables import CHEXPERT_LABELS
from lgdea_core.evaluation.downstream import PROBE_TASKS, SEGMENTATION_TASKS
from lgdea_core.experiments import downstream
from lgdea_core.experiments.downstream import Pretrained, Probe, Segmentation

BOX = (256, 256, 512, 512)
"""x, y, width and height of every lesion, in a frame of 1024 x 1024"""


def picture(side: int, bright: Sequence[str]) -> np.ndarray:
    """A grey film with a bright square: in the middle ("lesion"), or in a corner ("corner")."""
    film = np.full((side, side), 60, dtype=np.uint8)
    film[:, -1] = 70  # a film without any contrast would be refused
    if "lesion" in bright:
        film[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 220
    if "corner" in bright:
        film[: side // 4, : side // 4] = 220
    return film


def png(path: Path, *bright: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(64, bright)).save(path)


def nih(root: Path) -> None:
    """24 patients to train on and 24 of the test list, a film each; the challenge's boxes are joined."""
    names = [f"{number:08}_000.png" for number in range(1, 49)]
    sick = names[::2]
    header = "Image Index,Finding Labels,Patient ID,View Position"
    rows = [f"{name},{'Pneumonia' if name in sick else 'No Finding'},{int(name[:8])},PA" for name in names]
    write(root / "Data_Entry_2017_v2020.csv", header, *rows)
    write(root / "train_val_list.txt", *names[:24])
    write(root / "test_list.txt", *names[24:])
    write(
        root / "BBox_List_2017.csv",
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        f"{names[0]},Pneumonia,{','.join(map(str, BOX))},,,",
    )
    write(root / "rsna/image_index.csv", "patientId,Image Index", *(f"r{name[:8]},{name}" for name in names))
    rsna_labels(root / "rsna", [f"r{name[:8]}" for name in names], {f"r{name[:8]}" for name in sick})
    for name in names:
        png(root / "images" / name, *(["lesion"] if name in sick else []))


def rsna_labels(root: Path, names: list[str], sick: set[str]) -> None:
    box = ",".join(map(str, BOX))
    rows = [f"{name},{box},1" if name in sick else f"{name},,,,,0" for name in names]
    write(root / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", *rows)


def rsna(root: Path) -> None:
    """120 films, of which 18 are test; three of four are boxed."""
    names = [f"film{number}" for number in range(120)]
    sick = {name for number, name in enumerate(names) if number % 4}
    rsna_labels(root, names, sick)
    classes = [f"{name},{'Lung Opacity' if name in sick else 'Normal'}" for name in names]
    write(root / "stage_2_detailed_class_info.csv", "patientId,class", *classes)
    for name in names:
        lesion = ["lesion"] if name in sick else []
        write_dicom(root / f"stage_2_train_images/{name}.dcm", picture(64, lesion))


def chexpert(root: Path) -> None:
    """30 patients to train on and 24 of valid; uncertain edema trains as edema, blanks as none (MGCA)."""
    header = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS])
    for split, count, positive in (("train", 30, "-1.0"), ("valid", 24, "1.0")):
        rows = []
        for number in range(count):
            path = f"{split}/patient{number + 100 * (split == 'valid'):05}/study1/view1_frontal.jpg"
            value = "" if number % 2 else positive
            cells = [value if name == "Edema" else "" for name in CHEXPERT_LABELS]
            rows.append(",".join([f"CheXpert-v1.0-small/{path}", "Male", "60", "Frontal", "AP", *cells]))
            png(root / path, *([] if number % 2 else ["lesion"]))
        write(root / f"{split}.csv", header, *rows)


def covidx(root: Path) -> None:
    """Three classes in turn, 45 patients to train on and 24 of test."""
    bright = {"normal": [], "pneumonia": ["lesion"], "COVID-19": ["corner"]}
    for split, count in (("train", 45), ("test", 24)):
        lines = [(f"{split}{number}", list(bright)[number % 3]) for number in range(count)]
        write(root / f"{split}_COVIDx9A.txt", *(f"{name} {name}.png {kind} rsna" for name, kind in lines))
        for name, kind in lines:
            png(root / split / f"{name}.png", *bright[kind])


def siim(root: Path) -> None:
    """20 films at the published size, of which 3 are test; two of three have a mask."""
    x, y, width, height = BOX
    runs = f"{x * SIDE + y} {height}" + f" {SIDE - height} {height}" * (width - 1)
    names = [f"a.{number}" for number in range(20)]
    rows = [f"{name},{runs if number % 3 else '-1'}" for number, name in enumerate(names)]
    write(root / "train-rle.csv", "ImageId, EncodedPixels", *rows)
    for number, name in enumerate(names):
        lesion = ["lesion"] if number % 3 else []
        write_dicom(root / f"dicom-images-train/study/series/{name}.dcm", picture(SIDE, lesion))


LAYOUTS = {"nih": nih, "rsna": rsna, "chexpert": chexpert, "covidx": covidx, "siim": siim}


def row_of(kind: type[Probe], corpus: str) -> dict[str, object]:
    """The row of a random tiny tower at all labels."""
    tower = Pretrained(method="random", config=RunConfig.from_preset("ci", image_size=32), folder=None)
    [row] = kind(model=tower, corpus=corpus, parts=({"label_ratio": 1.0},)).run()
    return row


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes a corpus where the experiments look for it."""
    monkeypatch.setenv("LGDEA_DATA", str(tmp_path / "corpora"))
    monkeypatch.setattr(downstream, "project_root", lambda: tmp_path)
    return lambda corpus: LAYOUTS[corpus](tmp_path / "corpora" / FOLDERS[corpus])


@pytest.mark.slow
@pytest.mark.parametrize("corpus", sorted(set(PROBE_TASKS) - {"phantom", "openi"}))
def test_a_probe_learns_what_the_layout_says(corpus: str, published: Callable[[str], None]) -> None:
    published(corpus)
    row = row_of(Probe, corpus)
    assert row["n"] == {"nih": 24, "rsna": 18, "chexpert": 24, "covidx": 24}[corpus]
    assert row["findings"] == (3 if corpus == "covidx" else 1)
    measure = "accuracy" if corpus == "covidx" else "auc"
    assert row[measure] == 1.0  # the label is the bright square
    assert row["low"] == row["high"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("corpus", sorted(set(SEGMENTATION_TASKS) - {"phantom"}))
def test_a_decoder_learns_what_the_layout_says(
    corpus: str, published: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = SEGMENTATION_TASKS[corpus]
    quick = replace(task, schedule=replace(task.schedule, learning_rate=1e-2, max_epochs=15))
    monkeypatch.setitem(SEGMENTATION_TASKS, corpus, quick)
    published(corpus)
    row = row_of(Segmentation, corpus)
    healthy, films = {"nih": (12, 24), "rsna": (5, 18), "siim": (2, 3)}[corpus]
    assert row["n"] == films
    assert row["dice_empty"] == pytest.approx(healthy / films, abs=1e-4)
    assert row["dice_positive"] > 0.8  # the mask is the bright square
