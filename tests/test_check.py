"""The command that validates a download."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lgdea_core.data import check
from lgdea_core.data.check import check_corpus, main
from lgdea_core.data.corpus import Corpus


def film(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (48, 48)).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound corpus of two pairs with a box."""
    rows = ["study_id,patient_id,split,report,image", "s1,p1,train,Clear.,s1.png", "s2,p2,test,Clear.,s2.png"]
    (tmp_path / "studies.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "boxes.csv").write_text("study_id,finding,x_min,y_min,x_max,y_max\ns1,mass,1,1,9,9\n")
    for name in ("s1", "s2"):
        film(tmp_path / f"{name}.png")
    return tmp_path


def test_sound_folder_exits_0_with_its_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["folder", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"studies: 2", "boxes: 1", "reports: 2", "studies of val: 0", "no problem found"} <= set(lines)


def test_every_problem_is_listed_with_file_and_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "studies.csv").open("a") as file:
        file.write("s3,p3,trian,Clear.,s1.png\ns4,p4,train,Clear.,gone.png\n")
    with (folder / "boxes.csv").open("a") as file:
        file.write("s1,mass,1,1,900,9\ns1,mass,9,9,1,1\n")
    film(folder / "s2.png", seed=1)
    whole = (folder / "s2.png").read_bytes()
    (folder / "s2.png").write_bytes(whole[: len(whole) // 2])
    assert main(["folder", str(folder)]) == 1
    out = capsys.readouterr().out
    for problem in (
        "PROBLEM studies.csv, line 4, study 's3': split must be",
        "PROBLEM studies.csv, line 5, study 's4': no image 8 characters, letters and signs in",
        "PROBLEM boxes.csv, line 3, study 's1': box (1, 1, 900, 9) reaches outside",
        "PROBLEM boxes.csv, line 4, study 's1': box (9, 9, 1, 1) must have positive",
        "PROBLEM image 's2': ",
        "5 problem(s)",
    ):
        assert problem in out
    assert "Clear." not in out  # no report text


def test_headers_only_trusts_the_pixels(folder: Path) -> None:
    whole = (folder / "s2.png").read_bytes()
    (folder / "s2.png").write_bytes(whole[: len(whole) // 2])
    assert check_corpus("folder", folder, headers_only=True, progress=False).problems == []
    assert len(check_corpus("folder", folder, progress=False).problems) == 1


def test_defects_of_a_published_layout_are_problems_and_its_properties_are_not(tmp_path: Path) -> None:
    columns = "patientid,finding,view,modality,folder,filename,clinical_notes"
    rows = ["1,COVID-19,PA,X-ray,images,a.png,Text.", "2,COVID-19,PA,X-ray,images,b.png,Text.", "3,,Axial,CT,,c.png,"]
    (tmp_path / "metadata.csv").write_text("\n".join([columns, *rows]) + "\n")
    film(tmp_path / "images" / "a.png")
    report = check_corpus("covid_chestxray", tmp_path, progress=False)
    assert report.problems == ["metadata.csv, line 3, film 'b.png': row without a film"]
    assert report.exclusions == {"row without a film": 1, "no frontal radiograph": 1}


def test_masks_must_be_there_and_fit_their_image(folder: Path) -> None:
    header = "filename,phrase,kind,x_min,y_min,x_max,y_max,mask,origin"
    root = folder / "covid"
    film(root / "images" / "a.png")
    (root / "annotations" / "masks").mkdir(parents=True)
    (root / "metadata.csv").write_text(
        "patientid,finding,view,modality,folder,filename,clinical_notes\n1,COVID-19,PA,X-ray,images,a.png,Text.\n"
    )
    (root / "annotations" / "boxes.csv").write_text(
        f"{header}\na.png,lungs,anatomy,,,,,small.png,x\na.png,lungs,anatomy,,,,,gone.png,x\n"
    )
    Image.fromarray(np.ones((40, 40), dtype=np.uint8)).save(root / "annotations" / "masks" / "small.png")
    problems = check_corpus("covid_chestxray", root, progress=False).problems
    assert any(
        "boxes.csv, line 3, film 'a.png', mask 8 characters, letters and signs: mask without a file" in problem
        for problem in problems
    )
    assert any("mask of image 'a': 40 x 40 pixels, its image has (48, 48)" in problem for problem in problems)
    assert len(problems) == 2


def test_boxes_and_sizes_of_any_corpus_are_tested(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = pd.DataFrame({"study_id": ["s1"], "patient_id": ["p"], "split": ["train"], "report": [None]})
    images = pd.DataFrame(
        {"image_id": ["s1"], "study_id": ["s1"], "path": ["s1.png"], "view": ["PA"], "width": [99], "height": [48]}
    )
    box = {"image_id": "s1", "study_id": "s1", "phrase": "mass", "finding": "mass", "x_min": 5.0, "y_min": 5.0}
    box |= {"x_max": 200.0, "y_max": 9.0, "frame_width": 48.0, "frame_height": 48.0, "source": "toy"}
    corpus = Corpus(name="toy", root=folder, studies=studies, images=images, boxes=pd.DataFrame([box]))
    monkeypatch.setattr(check, "load_corpus", lambda name, root: corpus)
    problems = check_corpus("nih", folder, progress=False).problems
    assert "table boxes, row 0, image 's1'" in problems[0]
    assert "48 x 48 pixels, the table says 48 x 99" in problems[1]


def test_what_the_system_refuses_is_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, root: Path) -> Corpus:
        raise PermissionError(13, "Permission denied", str(root / "films"))

    monkeypatch.setattr(check, "load_corpus", refuse)
    problems = check_corpus("nih", folder, progress=False).problems
    assert problems == [f"[Errno 13] Permission denied: '{folder / 'films'}'"]


def test_missing_folder_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nih", str(tmp_path / "gone")]) == 1
    assert "PROBLEM corpus 'nih': no folder at" in capsys.readouterr().out


def test_command_line_has_help_and_refuses_unknown_corpora(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "Exit status 0" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["mnist", str(folder)])
