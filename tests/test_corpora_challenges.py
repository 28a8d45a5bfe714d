"""RSNA pneumonia and SIIM pneumothorax, as tiny copies of the published layouts."""

import json
import re
from pathlib import Path

import layouts
import numpy as np
import pandas as pd
import pytest
from layouts import RSNA_HEADER, RSNA_LABELS, SIIM_ROWS, values, write

from lgdea_core.data.check import check_corpus
from lgdea_core.data.corpora import assemble, load_corpus
from lgdea_core.data.corpora.siim import SIDE, decode_runs
from lgdea_core.data.images import read_mask
from lgdea_core.data.pairing import check_leaks


@pytest.fixture
def rsna(tmp_path: Path) -> Path:
    return layouts.rsna(tmp_path)


@pytest.fixture
def siim(tmp_path: Path) -> Path:
    return layouts.siim(tmp_path)


def test_rsna_layout_becomes_tables(rsna: Path) -> None:
    corpus = load_corpus("rsna", rsna)
    assert corpus.images["image_id"].tolist() == ["aa", "bb", "cc", "dd"]
    assert corpus.images["width"].tolist() == [48] * 4
    assert values(corpus, "aa") == {"lung opacity": 1, "no finding": 0}
    assert values(corpus, "bb") == {"lung opacity": 0, "no finding": 1}
    assert values(corpus, "cc") == {"lung opacity": 0, "no finding": 0}  # abnormal, but without an opacity
    corners = corpus.boxes[["image_id", "x_min", "y_min", "x_max", "y_max", "frame_width"]].to_numpy().tolist()
    assert corners[1] == ["aa", 600, 200, 900, 600, 1024]
    assert set(corpus.boxes["finding"]) == {"lung opacity"}
    assert corpus.exclusions == {"no mapping to NIH, so the split goes by film": 1}


def test_rsna_splits_seventy_fifteen_fifteen(rsna: Path) -> None:
    names = [f"film{number}" for number in range(40)]
    write(rsna / RSNA_LABELS, RSNA_HEADER, *(f"{name},,,,,0" for name in names))
    for name in names:
        (rsna / f"stage_2_train_images/{name}.dcm").hardlink_to(rsna / "stage_2_train_images/aa.dcm")
    assert load_corpus("rsna", rsna).studies["split"].value_counts().to_dict() == {"train": 28, "val": 6, "test": 6}


def test_rsna_films_of_one_nih_patient_share_a_split_and_a_leak_into_nih_is_found(rsna: Path) -> None:
    films = {"aa": "00000007_000.png", "bb": "00000007_003.png", "cc": "00000008_000.png", "dd": "00000009_000.png"}
    mapping = [{"subset_img_id": name, "img_id": file, "SOPInstanceUID": "1.2"} for name, file in films.items()]
    (rsna / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(mapping))
    studies = load_corpus("rsna", rsna).studies.set_index("study_id")
    assert studies["patient_id"].to_dict() == {"aa": "7", "bb": "7", "cc": "8", "dd": "9"}
    assert studies.loc["aa", "split"] == studies.loc["bb", "split"]
    with pytest.raises(ValueError, match=r"1 patient\(s\) are in training and in RSNA: '8'"):
        check_leaks(["8", "10"], studies["patient_id"], "RSNA")  # as corpus nih writes its patients


def test_rsna_films_outside_the_mapping_are_counted(rsna: Path) -> None:
    path = rsna / "pneumonia-challenge-dataset-mappings_2018.json"
    path.write_text(json.dumps([{"subset_img_id": "aa", "img_id": "00000007_000.png"}]))
    assert load_corpus("rsna", rsna).exclusions == {"film not in the mapping to NIH, so it counts as a patient": 3}


def test_rsna_keeps_its_split_though_all_it_shows_is_boxed(rsna: Path) -> None:
    pd.testing.assert_frame_equal(assemble("rsna", rsna.parent).studies, load_corpus("rsna", rsna).studies)


def test_rsna_films_of_mirrors_may_be_png(rsna: Path) -> None:
    (rsna / "stage_2_train_images/bb.dcm").unlink()
    layouts.film(rsna / "stage_2_train_images/bb.png")
    images = load_corpus("rsna", rsna).images.set_index("image_id")
    assert images.loc["bb", "path"] == "stage_2_train_images/bb.png"


def test_siim_layout_becomes_tables_with_one_mask_a_film(siim: Path) -> None:
    corpus = load_corpus("siim", siim)
    assert corpus.images["image_id"].tolist() == ["a.1", "a.2", "a.3"]
    assert [values(corpus, film)["pneumothorax"] for film in ("a.1", "a.2", "a.3")] == [1, 0, 0]
    assert [re.sub("[0-9a-f]{8}", "#", path) for path in corpus.masks["path"]] == ["masks-train-rle-#/a.1.png"]
    rows, columns = np.nonzero(read_mask(corpus.root / corpus.masks["path"].iloc[0]))
    assert list(zip(rows, columns, strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (1023, 1)]
    assert set(corpus.studies["split"]) == {"train", "val", "test"}  # by film: four rows are three films


def test_siim_masks_are_written_once_and_elsewhere_on_demand(siim: Path, tmp_path: Path) -> None:
    mask = siim / load_corpus("siim", siim).masks["path"].iloc[0]
    written = mask.stat().st_mtime_ns
    load_corpus("siim", siim)
    assert mask.stat().st_mtime_ns == written
    corpus = load_corpus("siim", siim / ".", mask_root=tmp_path / "elsewhere")
    assert Path(corpus.masks["path"].iloc[0]).is_absolute()
    assert read_mask(corpus.root / corpus.masks["path"].iloc[0]).sum() == 6


def test_siim_later_release_has_no_space_and_counts_first(siim: Path) -> None:
    write(siim / "stage_2_train.csv", "ImageId,EncodedPixels", "a.1,-1", "a.2,5 5", "a.3,-1")
    corpus = load_corpus("siim", siim)
    assert [re.sub("[0-9a-f]{8}", "#", path) for path in corpus.masks["path"]] == ["masks-stage_2_train-#/a.2.png"]


def test_siim_masks_of_another_table_are_not_taken(siim: Path) -> None:
    load_corpus("siim", siim)
    write(siim / "train-rle.csv", "ImageId, EncodedPixels", "a.1,0 1", *SIIM_ROWS[2:])
    corpus = load_corpus("siim", siim)
    assert read_mask(siim / corpus.masks["path"].iloc[0]).sum() == 1
    write(siim / "train-rle.csv", "ImageId, EncodedPixels", "a.1,0 nonsense", *SIIM_ROWS[2:])
    write(siim / corpus.masks["path"].iloc[0], "older")
    assert check_corpus("siim", siim, progress=False).problems == [
        "train-rle.csv, line 2, film 'a.1': run lengths must be integers"
    ]


def test_siim_is_checked_without_writing_to_it(siim: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = sorted(siim.rglob("*"))
    assert check_corpus("siim", siim, progress=False).problems == []
    assert sorted(siim.rglob("*")) == before
    occupied = tmp_path_factory.mktemp("masks") / "file"
    occupied.touch()
    with pytest.raises(OSError, match="file"):
        load_corpus("siim", siim, mask_root=occupied)


def slow_decode(runs: str) -> np.ndarray:
    """The challenge's own words: offset from the end of the previous run, down the columns."""
    pixels, numbers, position = [False] * (SIDE * SIDE), [int(number) for number in runs.split()], 0
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        position += offset
        for _ in range(length):
            pixels[position] = True
            position += 1
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    for place in np.flatnonzero(pixels):
        mask[place % SIDE, place // SIDE] = True
    return mask


@pytest.mark.parametrize("seed", range(3))
def test_runs_decode_as_a_slow_loop_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    runs = " ".join(str(number) for number in rng.integers(0, 4000, 2 * rng.integers(1, 200)))
    np.testing.assert_array_equal(decode_runs(runs), slow_decode(runs))


def test_runs_may_fill_the_film_and_not_more() -> None:
    assert decode_runs(f"0 {SIDE * SIDE}").all()
    assert not decode_runs(f"{SIDE * SIDE} 0").any()
