"""What is wrong with a download is named by file and line, for every corpus: one table of damages over all layouts."""

import csv
import gzip
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from layouts import (
    BOXED,
    CHEXPERT_HEADER,
    CHEXPERT_TRAIN,
    COVIDX_TRAIN,
    LAYOUTS,
    PADCHEST_REPORT,
    PADCHEST_ROWS,
    RSNA_HEADER,
    RSNA_LABELS,
    VINDR_LABELS,
    chexpert_row,
    covidx_lists,
    write,
    write_padchest,
)

from lgdea_core.data.check import check_corpus
from lgdea_core.data.corpora import FOLDERS, load_corpus
from lgdea_core.data.corpora.padchest import TABLE

TABLES = {
    "nih": "Data_Entry_2017_v2020.csv",
    "openi": "openi_gld_std14.csv",
    "covid_chestxray": "metadata.csv",
    "mimic_cxr": "mimic-cxr-2.0.0-metadata.csv.gz",
    "ms_cxr": "MS_CXR_Local_Alignment_v1.0.0.csv",
    "chest_imagenome": "silver_dataset/splits/valid.csv",
    "rsna": "stage_2_train_labels.csv",
    "siim": "train-rle.csv",
    "chexpert": "valid.csv",
    "chexpert_5x200": "chexpert_5x200.csv",
    "vindr": "annotations/image_labels_test.csv",
    "padchest": TABLE,
    "folder": "studies.csv",
}
"""a table of every corpus (COVIDx has lists)"""
FILMS = {
    "nih": ["images"],
    "covid_chestxray": ["images"],
    "mimic_cxr": ["files"],
    "ms_cxr": ["../mimic-cxr-jpg/files"],
    "chest_imagenome": ["../mimic-cxr-jpg/files"],
    "rsna": ["stage_2_train_images"],
    "siim": ["dicom-images-train"],
    "chexpert": ["train", "valid"],
    "chexpert_5x200": ["train", "valid"],
    "covidx": ["train", "test"],
    "vindr": ["train", "test"],
    "padchest": ["0", "54"],
}
"""folders of the films; Open-i may be without films, and in a folder of one's own any missing film is an error"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A data root with the layout of a corpus, written once."""
    written: dict[str, Path] = {}

    def data_root(corpus: str) -> Path:
        if corpus not in written:
            written[corpus] = tmp_path_factory.mktemp(corpus)
            LAYOUTS[corpus](written[corpus])
        return written[corpus]

    return data_root


@pytest.fixture
def fresh(published: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """The folder of a corpus in a copy that may be damaged."""

    def root(corpus: str) -> Path:
        shutil.copytree(published(corpus), tmp_path, dirs_exist_ok=True)
        return tmp_path / FOLDERS[corpus]

    return root


def text_of(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


def save(path: Path, data: bytes) -> None:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


TABLE_DAMAGES: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "missing": (Path.unlink, FileNotFoundError, r"^no (table at )?.*{name}|no MS_CXR_.* in "),
    "empty": (lambda path: save(path, b""), ValueError, r"^{name}: missing column\(s\) \["),
    "without header": (
        lambda path: save(path, b"Severe edema,worse\nthan,before\n"),
        ValueError,
        r"^{name}: missing column\(s\) \[.*\]; its first line must name the columns, of its 2 cells \[\] do$",
    ),
    "without a column": (
        lambda path: save(path, re.sub("^[^,]*,[^,]*,[^,\n]*", "a,b,c", text_of(path), count=1).encode()),
        ValueError,
        r"^{name}: missing column\(s\) \[",
    ),
    "cells shifted by a comma": (
        lambda path: save(path, text_of(path).encode() + b"x,Severe edema," + b"worse," * 60 + b"\n"),
        ValueError,
        r"^{name}, line \d+: more cells than the first line names \(\d+\); put a cell that holds a comma in double",
    ),
    "an open quote": (
        lambda path: save(path, text_of(path).encode() + b'x,"Severe edema\nworse\n'),
        ValueError,
        r"^{name}, line \d+: a double quote is never closed; fetch the file again$",
    ),
    "a column twice": (
        lambda path: save(path, re.sub(",([^,\n]*)", r",\1,\1", text_of(path), count=1).encode()),
        ValueError,
        r"^{name}, line 1: 2 columns are named .*; keep one of them$",
    ),
    "an open quote before a long text": (
        lambda path: save(path, text_of(path).encode() + b'x,"Severe edema\n' + b"worse " * 25_000),
        ValueError,
        r"^{name}, line \d+: field larger than field limit \(131072\); a double quote may never be closed",
    ),
    "in another encoding": (
        lambda path: save(path, text_of(path).encode() + "Severe ed\xeame".encode("latin-1")),
        ValueError,
        r"{name}: not UTF-8 \(invalid .* at byte \d+\); save it as UTF-8$",
    ),
}
"""damage, error and message; without a header, and in a shifted row, a table's cells may be a report's"""


EVERY_DAMAGE = ("folder", "mimic_cxr", "padchest", "covid_chestxray")
"""of a plain and a gzipped table, and of two whose cells are reports: all loaders read theirs by one function"""
DAMAGED = [
    (corpus, damage)
    for corpus in TABLES
    for damage in (TABLE_DAMAGES if corpus in EVERY_DAMAGE else ("missing", "without a column"))
    if (corpus, damage) != ("openi", "missing")  # its labels are optional
]


@pytest.mark.parametrize(("corpus", "damage"), DAMAGED)
def test_a_damaged_table_is_named_and_not_quoted(fresh: Callable[[str], Path], corpus: str, damage: str) -> None:
    change, error, message = TABLE_DAMAGES[damage]
    path = fresh(corpus) / TABLES[corpus]
    if corpus == "siim":
        message = message.replace("{name}", "(stage_2_train|train-rle).csv")
    change(path)
    with pytest.raises(error, match=message.replace("{name}", re.escape(path.name))) as caught:
        load_corpus(corpus, path.parents[TABLES[corpus].count("/")])
    assert not re.search("edema,|Severe|worse", str(caught.value))


PLANTED = "Zebrafinch"


def with_a_planted_word(path: Path, everywhere: bool) -> Iterator[bytes]:
    """A table whose last row is shifted by a report's word, or has it in one column, each in turn."""
    listing = path.suffix == ".txt"
    rows = (
        [line.split() for line in text_of(path).splitlines()] if listing else [*csv.reader(io.StringIO(text_of(path)))]
    )
    last = rows[-1]
    changed = [[PLANTED, *last[:-1]], [PLANTED] * len(last), [f"{PLANTED} " * 30, *last[:-1]]]
    if everywhere:
        changed = [[*last[:at], (PLANTED, PLANTED * 30)[at % 2], *last[at + 1 :]] for at in range(len(last))]
    for row in changed:
        text = io.StringIO()
        if listing:
            text.writelines(" ".join(each) + "\n" for each in (*rows[:-1], row))
        else:
            csv.writer(text).writerows([*rows[:-1], row])
        yield text.getvalue().encode()


@pytest.mark.parametrize("everywhere", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("corpus", LAYOUTS)
def test_no_message_quotes_a_word_of_a_report_wherever_it_stands(
    fresh: Callable[[str], Path], corpus: str, everywhere: bool
) -> None:
    root, said = fresh(corpus), 0
    tables = sorted(path for path in root.rglob("*") if path.name.endswith((".csv", ".csv.gz", ".txt")))
    for path in tables:
        if path.parent.name.startswith("p1"):  # MIMIC's reports
            continue
        whole = path.read_bytes()
        for data in with_a_planted_word(path, everywhere):
            save(path, data)
            text = "\n".join(check_corpus(corpus, root, headers_only=True, progress=False).lines())
            assert PLANTED.lower() not in text.lower()
            said += "PROBLEM" in text
        path.write_bytes(whole)
    assert said


def test_no_message_quotes_a_word_of_an_open_i_file(fresh: Callable[[str], Path]) -> None:
    root = fresh("openi")
    (root / "NLMCXR_png").mkdir()
    for damage in (
        change("ecgen-radiology/1.xml", "CXR1", PLANTED),
        change("ecgen-radiology/1.xml", f"{PLANTED}_IM", f"../{PLANTED}"),
        lines("annotation.json", json.dumps({PLANTED: [{"id": PLANTED, "image_path": [PLANTED], "report": PLANTED}]})),
    ):
        damage(root)
        report = check_corpus("openi", root, headers_only=True, progress=False)
        assert report.problems
        assert PLANTED.lower() not in "\n".join(report.lines()).lower()


@pytest.mark.parametrize("corpus", FILMS)
def test_without_any_film_the_place_to_unpack_them_is_named(fresh: Callable[[str], Path], corpus: str) -> None:
    root = fresh(corpus)
    for number, folder in enumerate(FILMS[corpus]):
        shutil.move(root / folder, root / f"moved-{number}")
    with pytest.raises(
        FileNotFoundError, match=r"^no (frontal )?film of .* under .*; unpack .*; the first path tried is /"
    ):
        load_corpus(corpus, root)


@pytest.mark.parametrize("corpus", FILMS)
def test_a_missing_and_a_broken_film_are_problems_with_file_and_line(fresh: Callable[[str], Path], corpus: str) -> None:
    root = fresh(corpus)
    sound = load_corpus(corpus, root)
    gone, broken = sound.images["path"].iloc[[0, 1]]
    (sound.root / gone).unlink()
    (sound.root / broken).write_bytes(b"a login page, no film")
    report = check_corpus(corpus, root, progress=False)
    name = r"(\w[\w.-]*\.(csv|csv\.gz|txt))"
    assert len(report.problems) == 2
    assert any(re.fullmatch(rf"{name}, line \d+, \w+ '.*': row without a film", each) for each in report.problems)
    broken = rf"{name}, line \d+, \w+ '.*': .* cannot be read as an image, fetch it again: .*: unreadable film"
    assert any(re.fullmatch(broken, each) for each in report.problems)
    assert report.exclusions["row without a film"] == report.exclusions["unreadable film"] == 1
    assert report.counts["images"] == len(sound.images) - 2


@pytest.mark.parametrize("corpus", LAYOUTS)
def test_an_undamaged_layout_passes_the_check(published: Callable[[str], Path], corpus: str) -> None:
    problems = check_corpus(corpus, published(corpus) / FOLDERS[corpus], progress=False).problems
    # Covid's layout holds a bad box on purpose
    assert problems == [] or (corpus == "covid_chestxray" and len(problems) == 1)


def rsna_rows(*rows: str) -> Callable[[Path], None]:
    return lambda root: write(root / RSNA_LABELS, RSNA_HEADER, *rows)


def rsna_classes(*rows: str) -> Callable[[Path], None]:
    return lambda root: write(root / "stage_2_detailed_class_info.csv", "patientId,class", *rows)


RSNA_MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"


def rsna_mapping(text: str) -> Callable[[Path], None]:
    return lambda root: write(root / RSNA_MAPPING, text)


def siim_row(row: str) -> Callable[[Path], None]:
    return lambda root: write(root / "train-rle.csv", "ImageId, EncodedPixels", "a.1,0 2", "a.2,-1", row)


def change(file: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        assert old in text_of(root / file)
        save(root / file, text_of(root / file).replace(old, new).encode())

    return damage


def padchest_cell(**cells: str) -> Callable[[Path], None]:
    return lambda root: write_padchest(root / TABLE, [*PADCHEST_ROWS[:3], PADCHEST_ROWS[3] | cells, *PADCHEST_ROWS[4:]])


def lines(file: str, *rows: str) -> Callable[[Path], None]:
    return lambda root: write(root / file, *rows)


MS_CXR, GRAPH = TABLES["ms_cxr"], "silver_dataset/scene_graph/aa-1_SceneGraph.json"
ROW_DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("nih", lambda root: (root / "test_list.txt").unlink(), r"^no list at .*test_list\.txt; the layout needs"),
    ("nih", lines("test_list.txt", "00000001_001.png", "00000003_000.png"), r"share 1 patients and 1 films; fetch"),
    ("nih", lambda root: (root / "test_list.txt").write_bytes(b"a.png\n\xff"), r"test_list\.txt: not UTF-8 \(invalid"),
    ("openi", change("openi_gld_std14.csv", "CXR2,0", "CXR2,2"),
     r"^openi.*csv, line 3, report 'CXR2': Atelectasis must be 0 or 1, got '2'"),
    ("openi", lines("ecgen-radiology/2.xml", "<eCitation>", "<uId"), r"^2\.xml, line \d: not XML"),
    ("openi", lines("ecgen-radiology/2.xml", "<eCitation/>"),
     r"^2\.xml: no uId with an id; it is not an Open-i report"),
    ("openi", lambda root: shutil.rmtree(root / "ecgen-radiology"), r"^no report at .*unpack NLMCXR_reports\.tgz"),
    ("rsna", rsna_rows("aa,,,,,2"),
     r"^stage_2_train_labels\.csv, line 2, patientId 'aa': Target must be 0 or 1, got '2'"),
    ("rsna", rsna_rows(*BOXED, "aa,,,,,0"), r"line 7, patientId 'aa': Target must be the same in all rows of a film"),
    ("rsna", rsna_rows(*BOXED, "bb,10,10,50,50,0"),
     r"line 7, patientId 'bb': Target must be 1 where the row has a box, got '0'"),
    ("rsna", rsna_classes("aa,Normal"),
     r"class_info\.csv, line 2, patientId 'aa': class must be 'Lung Opacity' exactly where"),
    ("rsna", rsna_classes("bb,Lung Opacity"),
     r"line 2, patientId 'bb': class must be 'Lung Opacity' exactly where"),
    ("rsna", rsna_classes("bb,Normal", "bb,No Lung Opacity / Not Normal"),
     r"line 3, patientId 'bb': class must be the same in all"),
    ("rsna", rsna_classes("aa,Opaque"),
     r"class_info\.csv, line 2, patientId 'aa': class must be one of .* got 6 characters, letters$"),
    ("rsna", rsna_mapping('[{"img_id": "1_0.png"}]'),
     r"mappings_2018\.json, entry 0: no key 'subset_img_id' of type str; fetch"),
    ("rsna", lambda root: (root / RSNA_MAPPING).write_bytes(b'[{"img_id": "\xff"}]'),
     r"mappings_2018\.json: not UTF-8 \(invalid"),
    ("rsna", rsna_mapping("{}"), r"mappings_2018\.json: expected a list of entries, got dict; fetch"),
    ("rsna", rsna_mapping("[" * 200_000), r"mappings_2018\.json: no JSON that can be read \(RecursionError\)"),
    ("rsna", rsna_mapping("[" + "9" * 5000 + "]"), r"mappings_2018\.json: no JSON that can be read \(ValueError\)"),
    ("rsna", rsna_mapping('[{"img_id": "1_0.png", "subset_img_id": "\\ud800"}]'),
     r"mappings_2018\.json: a text holds half a character"),
    ("rsna", rsna_rows("../aa,,,,,0"), r"line 2, patientId '\.\./aa': patientId must be one name, no path"),
    ("rsna", rsna_mapping('[{"subset_img_id": "aa", "img_id": "a_0.png"}]'),
     r"mappings_2018\.json, entry 0: img_id must be a film of NIH"),
    ("siim", siim_row("a.3,1048576 1"),
     r"^train-rle\.csv, line 4, film 'a\.3': run lengths end 1 pixels behind the 1024 x 1024 film"),
    ("siim", siim_row("a.3,5 5 5"),
     r"line 4, film 'a\.3': run lengths must be pairs of non-negative integers, got 3 numbers"),
    ("siim", siim_row("a.3,5 -5"), r"line 4, film 'a\.3': run lengths must be pairs of non-negative"),
    ("siim", siim_row("a.3,"), r"line 4, film 'a\.3': run lengths must be pairs"),
    ("siim", siim_row(f"a.3,{2**63} {2**63} {2**64} 1"), r"line 4, film 'a\.3': run lengths end \d+ pixels behind"),
    ("siim", siim_row(f"a.3,{2**62} {2**62} {2**62} {2**62}"), r"line 4, film 'a\.3': run lengths end \d+ pixels"),
    ("siim", siim_row(f"a.3,{'9' * 5000} 1"), r"line 4, film 'a\.3': run lengths must be integers"),
    ("siim", siim_row("../a.3,5 5"), r"line 4, film '\.\./a\.3': ImageId must be one name, no path"),
    ("siim", siim_row("C:\\a.3,5 5"), r"line 4, film .*: ImageId must be one name, no path"),
    ("siim", siim_row("..,5 5"), r"line 4, film '\.\.': ImageId must be one name, no path"),
    ("siim", siim_row("a.3,5 x"), r"line 4, film 'a\.3': run lengths must be integers"),
    ("siim", siim_row("a.1,-1"),
     r"line 4, film 'a\.1': EncodedPixels must be runs, as in another row of the film, got '-1'"),
    ("chexpert", lines("train.csv", CHEXPERT_HEADER, *CHEXPERT_TRAIN, chexpert_row("train/patient4/view1_frontal.jpg")),
     r"^train\.csv, line 7, film '.*': Path must be a path that ends in /patient00001/study1/view1_frontal\.jpg, got"),
    ("chexpert", lines("train.csv", CHEXPERT_HEADER, CHEXPERT_TRAIN[0].replace("-1.0", "2.0")),
     r"train\.csv, line 2, film '.*/patient00001/study1/.*': Cardiomegaly must be 1, 0, -1 or blank, got '2\.0'"),
    ("chexpert_5x200", lambda root: (root / "chexpert_5x200.csv").unlink(),
     r"^no .*chexpert_5x200\.csv; draw the set by `python -m lgdea_core"),
    ("chexpert_5x200", lines("chexpert_5x200.csv", CHEXPERT_HEADER, CHEXPERT_TRAIN[3], CHEXPERT_TRAIN[0]),
     r"^chexpert_5x200\.csv, line 3, film '.*patient00001/study1/.*': shown must be one class of"),
    ("covidx", lambda root: covidx_lists(root, train=[*COVIDX_TRAIN, "12 z.png norma rsna"]),
     r"^train_COVIDx9A\.txt, line 7: a line must be patient, file, class and source, the file one name"),
    ("covidx", lambda root: covidx_lists(root, train=["12 z.png normal"]), r"^train_COVIDx9A\.txt, line 1: a line"),
    ("covidx", lambda root: covidx_lists(root, train=[*COVIDX_TRAIN, "12 z.png positive rsna"]),
     r"classes must be of one kind, got \['COVID-19', 'normal', 'pneumonia', 'positive'\]"),
    ("covidx", lambda root: (root / "train_COVIDx9A.txt").write_bytes(b"S\xe3o a.png normal rsna\n"),
     r"train_COVIDx9A\.txt: not UTF-8"),
    ("covidx", lambda root: (root / "test_COVIDx9A.txt").unlink(), r"^no list at .*test_COVIDx9A\.txt"),
    ("vindr", lines("annotations/image_labels_train.csv", *VINDR_LABELS["train"][:2], "im1,R2,1,2,0"),
     r"^image_labels_train\.csv, line 3, image 'im1': Pulmonary fibrosis must be 0 or 1, got '2'"),
    ("vindr", lines("annotations/image_labels_test.csv", "image_id,Lung Opacty", "im3,0"),
     r"^image_labels_test\.csv, line 1: column\(s\) 11 characters, letters and spaces are none of"),
    ("vindr", change("annotations/annotations_train.csv", "im2,R3,Lung Opacity,5", "im2,R3,Lung Opacty,5"),
     r"^annotations_train\.csv, line 8, image 'im2': class_name must be one of VinDr's 28"),
    ("mimic_cxr", lines("mimic-cxr-2.0.0-split.csv.gz", "dicom_id,split", "aa-1,train", "aa-3,trian"),
     r"split\.csv\.gz, line 3, film 'aa-3': split must be one of \('test', 'train', 'validate'\), got 5 ch"),
    ("mimic_cxr", change("mimic-cxr-2.0.0-chexpert.csv.gz", "50414267,1.0", "50414267,2.0"),
     r"chexpert\.csv\.gz, line 2, study '50414267': No Finding must be 1, 0, -1 or blank, got '2\.0'"),
    ("mimic_cxr", change("mimic-cxr-2.0.0-chexpert.csv.gz", "12000012,50000002", "10000032,50414267"),
     r"chexpert\.csv\.gz, line 4, study '50414267': study_id must be listed once"),
    ("mimic_cxr", lambda root: (root / TABLES["mimic_cxr"]).write_bytes((root / TABLES["mimic_cxr"]).read_bytes()[:60]),
     r"metadata\.csv\.gz cannot be read as a table, fetch it again"),
    ("mimic_cxr", lines("mimic-cxr-2.0.0-split.csv.gz", "dicom_id,split", "aa-1,train", "aa-3,test"),
     r"^corpus 'mimic_cxr': patient 'p10000032' is in more than one split \(1 such patients\); split by patient$"),
    ("ms_cxr", change(MS_CXR, "dd-1,Lung Opacity", "dd-1,Opacity"),
     r"v1\.0\.0\.csv, line 4, film 'dd-1': category_name must be one of .*, got 7 characters, letters$"),
    ("ms_cxr", change(MS_CXR, "files/p12", "film/p12"),
     r"line 4, film 'dd-1': path must be files/p10/.*, got 'film/p12/.*'$"),
    ("ms_cxr", change(MS_CXR, "dd-1,Lung", "bb-1,Lung"),
     r"line 4, film 'bb-1': dicom_id must be that of the film in column path, got"),
    ("ms_cxr", change(MS_CXR, ",opacity,", ", ,"),
     r"line 4, film 'dd-1': label_text must be a phrase, got ''$"),
    ("ms_cxr", lambda root: (root / MS_CXR).write_text(text_of(root / MS_CXR).splitlines()[0]),
     r"v1\.0\.0\.csv: no rows; fetch the table again"),
    ("chest_imagenome", lines(GRAPH, "{", '"objects": ['), r"^aa-1_SceneGraph\.json, line 3: not JSON; fetch"),
    ("chest_imagenome", lines(GRAPH, "{}"),
     r"^aa-1_SceneGraph\.json, objects: expected a list of entries, got NoneType"),
    ("chest_imagenome", lines(GRAPH, "[]"),
     r"^aa-1_SceneGraph\.json, objects: expected a list of entries, got NoneType"),
    ("chest_imagenome", lines(GRAPH, '{"objects": [5]}'),
     r"^aa-1_SceneGraph\.json, objects, entry 0: no key 'bbox_name'"),
    ("chest_imagenome", change(GRAPH, "original_x1", "x0"),
     r"^aa-1_SceneGraph\.json, objects, entry 0: no key 'original_x1'"),
    ("chest_imagenome", lines("silver_dataset/splits/valid.csv", "dicom_id,subject_id,study_id", "zz-1,1,2"),
     r"^valid\.csv, line 2, film 'zz-1': the film is not in MIMIC's metadata \(1 such\); fetch"),
    ("padchest", padchest_cell(Labels=PADCHEST_REPORT),
     r"line 7, study 'c': Labels must be the text of a list of names, such as \['normal'\]"),
    ("padchest", padchest_cell(Labels="['mass', 3]"), r"line 7, study 'c': Labels must be the text of a list"),
    ("padchest", padchest_cell(MethodLabel=PADCHEST_REPORT),
     r"line 7, study 'c': MethodLabel must be Physician or RNN_model"),
    ("padchest", padchest_cell(ImageID="../c_pa.png"),
     r"line 7, study 'c': ImageID must be one name, no path, got '\.\./c_pa\.png'$"),
    ("padchest", padchest_cell(ImageID=""), r"line 7, study 'c': ImageID must be given"),
    ("covidx", lambda root: covidx_lists(root, train=["12 ../z.png normal rsna"]),
     r"^train_COVIDx9A\.txt, line 1: a line"),
    ("covidx", lambda root: covidx_lists(root, train=[], test=[]),
     r"^lists train_COVIDx9A\.txt, .*: no lines; fetch them"),
    ("openi", lines("annotation.json", "{}"),
     r"^annotation\.json: expected entries under train, val and test, found none"),
    ("openi", lines("annotation.json", "[]"), r"^annotation\.json: expected entries under train"),
    ("openi", lines("annotation.json", '{"train": [], "test": []}'),
     r"^annotation\.json: expected entries under train"),
    ("openi", lines("annotation.json", '{"train": {"id": 1}}'),
     r"^annotation\.json, split 'train': expected a list of"),
    ("openi", lines("annotation.json", '{"train": [{"id": "a", "image_path": [1], "report": ""}]}'),
     r"^annotation\.json, split 'train', entry 0: image_path must be a list of paths"),
    ("openi", lines("annotation.json", '{"train": [{"id": "a", "image_path": [], "report": null}]}'),
     r"^annotation\.json, split 'train', entry 0: no key 'report' of type str"),
    ("openi", lines("annotation.json", '{"train": [{"id": "_1", "image_path": [], "report": "x"}]}'),
     r"^corpus 'openi', study '_1': patient_id must name a patient"),
    ("openi", change("ecgen-radiology/2.xml", "utf-8", "klingon-8"), r"^2\.xml, line 1: .* encoding"),
    ("openi", change("ecgen-radiology/2.xml", "utf-8", "utf-7"), r"^2\.xml, line 1: .* encoding"),
    ("openi", change("ecgen-radiology/2.xml", "Normal chest", "&#xD800;"), r"^2\.xml, line 8: not XML"),
    ("padchest", padchest_cell(StudyID=""), r"line 7, study '': StudyID must be given"),
    ("padchest", padchest_cell(StudyID="a"), r"line 7, study 'a': PatientID must be the same in all rows of a study"),
    ("padchest", padchest_cell(ImageID="a_pa.png"),
     r"line 7, study 'c': StudyID must be the same wherever a film is listed"),
]  # fmt: skip


@pytest.mark.parametrize(("corpus", "damage", "message"), ROW_DAMAGES)
def test_a_bad_row_is_named_by_file_and_line(
    fresh: Callable[[str], Path], corpus: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(root := fresh(corpus))
    report = check_corpus(corpus, root, headers_only=True, progress=False)
    assert report.counts == {}  # the loader refused it
    [problem] = report.problems
    assert re.search(message, problem)
    assert PADCHEST_REPORT.split()[0] not in problem


def add(file: str, *rows: str) -> Callable[[Path], None]:
    return lambda root: save(root / file, text_of(root / file).encode() + ("\n".join(rows) + "\n").encode())


COUNTED: list[tuple[str, Callable[[Path], object], list[str]]] = [
    ("nih", add("BBox_List_2017.csv", "00000003_000.png,Mass,1000,1000,100,10", "00000003_000.png,Mass,1,1,0,10"), [
        r"BBox_List_2017\.csv, line 4, film '00000003_000\.png': box \(1000, 1000, 1100, 1010\) reaches .*: bad box",
        r"BBox_List_2017\.csv, line 5, film '00000003_000\.png': box \(1, 1, 1, 11\) must have positive .*: bad box",
    ]),
    ("nih", add("BBox_List_2017.csv", "00000003_000.png,Masses,1,1,9,9"), [
        r"BBox_List_2017\.csv, line 4, film '00000003_000\.png': box with an unknown finding",
    ]),
    ("nih", change("Data_Entry_2017_v2020.csv", "png,Infiltration,", "png,Infiltration|Opacity,"), [
        r"Data_Entry_2017_v2020\.csv, line 4, film '00000002_000\.png', label 7 characters, letters: unknown label",
    ]),
    ("nih", change("Data_Entry_2017_v2020.csv", "png,Pneumonia,", "png,No Finding|Mass,"), [
        r"Data_Entry_2017_v2020\.csv, line 5, film '00000003_000\.png': No Finding beside other labels, which count",
    ]),
    ("nih", lines("test_list.txt", "00000003_000.png"), [
        r"Data_Entry_2017_v2020\.csv, line 6, film '00000004_000\.png': film in neither list",
    ]),
    ("nih", lambda root: shutil.copy(root / "images/00000001_000.png", root / "images/9_000.png"), [
        r"Data_Entry_2017_v2020\.csv: film '9_000\.png': film without a row",
    ]),
    ("nih", lambda root: (root / "BBox_List_2017.csv").unlink(), [
        r"BBox_List_2017\.csv: no BBox_List_2017\.csv, so no boxes",
    ]),
    ("nih", change("Data_Entry_2017_v2020.csv", "0,2,81", "0,nan,81"), [
        r"Data_Entry_2017_v2020\.csv, line 4, film '00000002_000\.png': row that names no patient",
        r"Data_Entry_2017_v2020\.csv: film '00000002_000\.png': film without a row",
    ]),
    ("nih", add("Data_Entry_2017_v2020.csv", "00000001_000.png,Mass,0,1,58,M,PA,2682,2749,0.143,0.143"), [
        r"Data_Entry_2017_v2020\.csv, line 7, film '00000001_000\.png': film listed again",
    ]),
    ("mimic_cxr", change("mimic-cxr-2.0.0-metadata.csv.gz", "dd-1,12000012", "dd-1,"), [
        r"mimic-cxr-2\.0\.0-metadata\.csv\.gz, line 7, film 'dd-1': row that names no patient",
    ]),
    ("covidx", add("train_COVIDx9A.txt", "NaN h.png normal rsna"), [
        r"train_COVIDx9A\.txt, line 7, film 'h\.png': row that names no patient",
    ]),
    ("padchest", padchest_cell(PatientID=""), [rf"{TABLE}, line 7, study 'c': row that names no patient"]),
    ("padchest", padchest_cell(ImageDir="../.."), [rf"{TABLE}, line 7, study 'c': film outside the corpus's folder"]),
    ("chexpert", change("valid.csv", "/valid/", "/../"), [
        r"valid\.csv, line 2, film '.*': film outside the corpus's folder",
    ]),
    ("openi", add("openi_gld_std14.csv", "CXR2" + ",1" * 15), [
        r"openi_gld_std14\.csv, line 6, report 'CXR2': labels listed again",
    ]),
    ("openi", change("ecgen-radiology/2.xml", '"INDICATION"', '"IMPRESSION"'), [
        r"2\.xml, study 'CXR2': report with two sections of one name, left out",
    ]),
    ("rsna", add(RSNA_LABELS, "dd,1000,1,100,9,1", "dd,,,,,1"), [
        r"stage_2_train_labels\.csv, line 7, patientId 'dd': box \(1000, 1, 1100, 10\) reaches outside its .*: bad box",
        r"stage_2_train_labels\.csv, line 8, patientId 'dd': box coordinates must be four numbers, got .*: bad box",
    ]),
    ("vindr", add("annotations/annotations_train.csv", "im1,R3,Lung Opacity,10,20,99,40", "im2,R3,Lung Opacity,,,,"), [
        r"annotations_train\.csv, line 10, image 'im1': box \(10, 20, 99, 40\) reaches outside its 64 x 48 .*: bad box",
        r"annotations_train\.csv, line 11, image 'im2': box coordinates must be four numbers, got .*: bad box",
    ]),
    ("vindr", lines("annotations/image_labels_train.csv", *VINDR_LABELS["train"][:4]), [  # im2 is gone
        rf"annotations_train\.csv, line {line}, image 'im2': annotation of an image without labels"
        for line in range(6, 10)
    ]),
    ("ms_cxr", change(MS_CXR, "10,20,30,40", "10,20,3000,40"), [
        r"MS_CXR.*csv, line 4, film 'dd-1': box \(10, 20, 3010, 60\) reaches outside its 1000 x 800 frame: bad box",
    ]),
    ("ms_cxr", change(MS_CXR, "40,1000,800", "40,,800"), [
        r"MS_CXR.*csv, line 4, film 'dd-1': width and height of its frame must be .*, got '' and '800': bad box",
    ]),
    ("mimic_cxr", change("mimic-cxr-2.0.0-split.csv.gz", "dd-1", "zz-1"), [
        r"mimic-cxr-2\.0\.0-metadata\.csv\.gz, line 7, film 'dd-1': film in no split",
    ]),
    ("mimic_cxr", lambda root: (root / "files/p10/p10000032/s53189527.txt").write_bytes(b"\n FINDINGS: caf\xe9\n"), [
        r"report of study 's53189527': report that is not UTF-8",
    ]),
    ("covidx", add("train_COVIDx9A.txt", "7 b.png COVID-19 rsna", ""), [
        r"train_COVIDx9A\.txt, line 7, film 'b\.png': another class than in the film's first line, which counts",
    ]),
    ("openi", lambda root: write(root / "NLMCXR_png/CXR1_IM-0001-1001.png", "no image"), [
        r"1\.xml, film 'CXR1_IM-0001-1001': .* cannot be read as an image, .*: unreadable film",
        *(rf"{number}\.xml, film 'CXR{number}_IM-0001-{view}': film without a file"
          for number in (1, 2, 3, 10) for view in (1001, 2001) if (number, view) != (1, 1001)),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("corpus", "damage", "problems"), COUNTED)
def test_what_is_left_out_is_counted_and_listed(
    fresh: Callable[[str], Path], corpus: str, damage: Callable[[Path], object], problems: list[str]
) -> None:
    damage(root := fresh(corpus))
    found = check_corpus(corpus, root, headers_only=True, progress=False)
    assert len(found.problems) == len(problems)
    for problem, expected in zip(found.problems, problems, strict=True):
        assert re.fullmatch(expected, problem)
        assert found.exclusions[problem.rsplit(": ", 1)[1]]


def rows_of_json(root: Path, damage: Callable[[dict], object]) -> None:
    """MS-CXR's table as the publisher's json, damaged."""
    image = {"id": 7, "path": "files/p10/p10000764/s57375967/bb-1.jpg", "width": 1000, "height": 800}
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [100, 200, 50, 60], "label_text": "effusion"}
    content = {
        "images": [image],
        "annotations": [annotation, dict(annotation)],
        "categories": [{"id": 3, "name": "Pleural Effusion"}],
    }
    damage(content)
    (root / MS_CXR).unlink()
    (root / MS_CXR).with_suffix(".json").write_text(json.dumps(content))


def first_of(part: str, **cells: object) -> Callable[[dict], object]:
    return lambda content: content[part][0].update(cells)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content.update(annotations=[]), r"v1\.0\.0\.json: no rows; fetch the table again"),
        (lambda content: content.update(images=None), r"json, images: expected a list of entries, got NoneType"),
        (lambda content: content["annotations"].insert(1, 5), r"json, annotations, entry 1: no key 'image_id' of type"),
        (lambda content: content["annotations"][1].update(image_id=77), r"annotation 1: image_id and category_id must"),
        (first_of("annotations", label_text=None), r"annotations, entry 0: no key 'label_text' of type str"),
        (first_of("annotations", label_text=" "), r"annotation 0, film 'bb-1': label_text must be a phrase"),
        (first_of("annotations", bbox=[1, 2, 3]), r"annotation 0: image_id .* bbox four numbers; fetch"),
        (first_of("annotations", bbox=None), r"annotations, entry 0: no key 'bbox' of type list"),
        (first_of("images", path=None), r"json, images, entry 0: no key 'path' of type str"),
        (first_of("annotations", bbox=[1, 2, 3, None]), r"annotation 0, film 'bb-1': box \(1, 2, 4, nan\) .*: bad box"),
        (first_of("images", width=None), r"annotation 0, film 'bb-1': width and height of its frame .*: bad box"),
    ],
)  # fmt: skip
def test_a_broken_json_is_named_by_its_annotation(
    fresh: Callable[[str], Path], damage: Callable[[dict], object], message: str
) -> None:
    rows_of_json(root := fresh("ms_cxr"), damage)
    assert re.search(message, check_corpus("ms_cxr", root, headers_only=True, progress=False).problems[0])
