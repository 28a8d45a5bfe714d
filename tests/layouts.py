"""What the tests of corpora write: films, tables, DICOM files, and a tiny copy of every published layout."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from lgdea_core.data.corpora import FOLDERS
from lgdea_core.data.corpora import padchest as padchest_loader
from lgdea_core.data.corpora.siim import SIDE
from lgdea_core.data.corpora.tables import CHEXPERT_LABELS
from lgdea_core.data.corpus import Corpus


def grey(height: int = 48, width: int = 48, dtype: type = np.uint8) -> np.ndarray:
    """Grey levels that rise evenly from row to row."""
    return np.repeat(np.arange(height)[:, None] % 200 + 20, width, axis=1).astype(dtype)


def film(path: Path, height: int = 48, width: int = 48) -> None:
    """A film of these levels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey(height, width)).save(path)


def write(path: Path, *lines: str) -> None:
    """A text file of these lines, gzipped where its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


MS_CXR_HEADER = "dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height"


def write_ms_cxr(folder: Path, *rows: str, header: str = MS_CXR_HEADER, version: str = "1.0.0") -> Path:
    """A table of MS-CXR; without rows it names one patient, who is nowhere else."""
    path = folder / f"MS_CXR_Local_Alignment_v{version}.csv"
    write(path, header, *(rows or ["zz-1,Edema,edema,files/p19/p19999999/s59999999/zz-1.jpg,1,2,3,4,100,100"]))
    return path


def values(corpus: Corpus, study_id: str) -> dict[str, float]:
    """Labels of a study by finding."""
    rows = corpus.labels[corpus.labels["study_id"] == study_id]
    return dict(zip(rows["finding"], rows["value"], strict=True))


def make_dicom(pixels: np.ndarray, **elements: object) -> Dataset:
    """A minimal one-frame film; `elements` override what is set here."""
    dicom = Dataset()
    dicom.file_meta = FileMetaDataset()
    dicom.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dicom.file_meta.MediaStorageSOPClassUID = dicom.SOPClassUID = SecondaryCaptureImageStorage
    dicom.file_meta.MediaStorageSOPInstanceUID = dicom.SOPInstanceUID = pydicom.uid.generate_uid()
    dicom.Rows, dicom.Columns = pixels.shape[:2]
    dicom.SamplesPerPixel, dicom.PhotometricInterpretation = 1, "MONOCHROME2"
    dicom.BitsAllocated = 8 * pixels.dtype.itemsize
    dicom.BitsStored, dicom.PixelRepresentation = dicom.BitsAllocated, int(pixels.dtype.kind == "i")
    for name, value in elements.items():
        setattr(dicom, name, value)
    dicom.HighBit = dicom.BitsStored - 1
    dicom.PixelData = pixels.tobytes()
    return dicom


def write_dicom(path: Path, pixels: np.ndarray, **elements: object) -> Path:
    """`make_dicom` as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    make_dicom(pixels, **elements).save_as(path, enforce_file_format=True)
    return path


def lossless_jpeg(pixels: np.ndarray, bits: int) -> bytes:
    """JPEG process 14, selection value 1 (ITU T.81, H): each pixel as its difference from the one to its left.

    Nothing at hand writes this old medical format, so the tests do: all 17 Huffman codes have 5 bits.
    """
    height, width = pixels.shape
    values = pixels.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[:, 1:], predicted[1:, 0], predicted[0, 0] = values[:, :-1], values[:-1, 0], 1 << (bits - 1)
    stream = ""
    for difference in (((values - predicted + 32767) & 0xFFFF) - 32767).ravel().tolist():  # modulo 2^16
        category = abs(difference).bit_length()
        extra = difference if difference > 0 else difference + (1 << category) - 1
        stream += f"{category:05b}" + (f"{extra:0{category}b}" if 0 < category < 16 else "")
    stream += "1" * (-len(stream) % 8)
    data = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\x00")
    sizes = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    huffman = b"\xff\xc4\x00\x24\x00" + bytes([0, 0, 0, 0, 17] + [0] * 11) + bytes(range(17))
    frame = b"\xff\xc3\x00\x0b" + bytes([bits]) + sizes + b"\x01\x01\x11\x00"
    return b"\xff\xd8" + huffman + frame + b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00" + data + b"\xff\xd9"


NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def nih(data: Path) -> Path:
    """Five films of four patients: three to train on (one boxed), two of the test list."""
    root = data / FOLDERS["nih"]
    rows = [
        "00000001_000.png,Cardiomegaly|Effusion,0,1,58,M,PA,2682,2749,0.143,0.143",
        "00000001_001.png,No Finding,1,1,58,M,PA,2894,2729,0.143,0.143",
        "00000002_000.png,Infiltration,0,2,81,M,AP,2500,2048,0.171,0.171",
        "00000003_000.png,Pneumonia,0,3,81,F,PA,2582,2991,0.143,0.143",
        "00000004_000.png,No Finding,0,4,60,F,PA,2582,2991,0.143,0.143",
    ]
    write(root / "Data_Entry_2017_v2020.csv", NIH_HEADER, *rows)
    write(root / "train_val_list.txt", "00000001_000.png", "00000001_001.png", "00000002_000.png")
    write(root / "test_list.txt", "00000003_000.png", "00000004_000.png")
    write(
        root / "BBox_List_2017.csv",
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        "00000002_000.png,Infiltrate,100.5,200,300,400,,,",
        "00000003_000.png,Pneumonia,10,20,30,40,,,",
    )
    for row in rows:
        film(root / "images" / row.split(",")[0])
    return root


def add_rsna(root: Path) -> None:
    """The challenge's labels beside NIH's films."""
    write(root / "rsna" / "image_index.csv", "patientId,Image Index", "aa,00000003_000.png", "bb,00000004_000.png")
    write(
        root / "rsna" / "stage_2_train_labels.csv",
        "patientId,x,y,width,height,Target",
        "aa,100,100,200,300,1",
        "aa,600,100,200,300,1",
        "bb,,,,,0",
        "zz,1,1,50,50,1",
    )


def openi_report(number: int, **sections: str) -> list[str]:
    abstract = [f'<AbstractText Label="{name}">{text}</AbstractText>' for name, text in sections.items()]
    return [
        '<?xml version="1.0" encoding="utf-8"?>', "<eCitation>", f'<uId id="CXR{number}"/>', "<Abstract>", *abstract,
        "</Abstract>", "<MeSH><major>Opacity/lung/base/left</major><major>Cardiomegaly/mild</major>",
        "<automatic>not this</automatic></MeSH>",
        f'<parentImage id="CXR{number}_IM-0001-1001"/>', f'<parentImage id="CXR{number}_IM-0001-2001"/>',
        "</eCitation>",
    ]  # fmt: skip


def openi(data: Path) -> Path:
    """Four reports: whole, impression only, neither section, and one without labels."""
    root = data / FOLDERS["openi"]
    texts = {
        1: {"COMPARISON": "None.", "INDICATION": "Chest pain", "FINDINGS": "Heart is big.", "IMPRESSION": "A &amp; B."},
        2: {"COMPARISON": "", "INDICATION": "", "FINDINGS": "", "IMPRESSION": "Normal chest."},
        3: {"COMPARISON": "XXXX", "INDICATION": "Cough", "FINDINGS": "", "IMPRESSION": " "},
        10: {"FINDINGS": "Clear  lungs.", "IMPRESSION": ""},
    }
    for number, sections in texts.items():
        write(root / "ecgen-radiology" / f"{number}.xml", *openi_report(number, **sections))
    names = (
        "Atelectasis,Cardiomegaly,Effusion,Infiltration,Mass,Nodule,Pneumonia,Pneumothorax,Consolidation,Edema,"
        "Emphysema,Fibrosis,Pleural_Thickening,Hernia,normal"
    )
    rows = [f"CXR{number},0,{number % 2},0,0,0,0,0,0,0,0,0,0,0,0,{int(number == 2)}" for number in (1, 2, 3, 77)]
    write(root / "openi_gld_std14.csv", f"filename,{names}", *rows)
    return root


def openi_kaggle(data: Path) -> Path:
    """The first three of these reports as Kaggle's copy has them; the lateral film of the first is listed first."""
    root = data / FOLDERS["openi"]
    write(
        root / "indiana_reports.csv",
        "uid,MeSH,Problems,image,indication,comparison,findings,impression",
        "1,Opacity/lung/base/left;Cardiomegaly/mild,Opacity,Xray Chest PA,Chest pain,None.,Heart is big.,A & B.",
        "2,normal,normal,Xray Chest PA,,,,Normal chest.",
        "3,normal,normal,Xray Chest PA,Cough,XXXX,,",
    )
    films = {"1_IM-0001-2001": "Lateral", "1_IM-0001-1001": "Frontal", "2_IM-0001-1001": "Frontal"}
    rows = [f"{name.split('_')[0]},{name}.dcm.png,{projection}" for name, projection in films.items()]
    write(root / "indiana_projections.csv", "uid,filename,projection", *rows)
    for name in films:
        film(root / "images/images_normalized" / f"{name}.dcm.png")
    return root


COVID_COLUMNS = "patientid,finding,view,modality,folder,filename,license,clinical_notes"


def covid_chestxray(data: Path) -> Path:
    """Patient 1 has two films with one text; film c.png is filed under patients 2 and 9; e.png is a CT."""
    root = data / FOLDERS["covid_chestxray"]
    write(
        root / "metadata.csv",
        COVID_COLUMNS,
        "1,COVID-19,PA,X-ray,images,a.png,CC BY,Patchy opacities.",
        "1,COVID-19,AP,X-ray,images,b.png,CC BY,Patchy opacities.",
        "2,Pneumonia/Bacterial/Klebsiella,PA,X-ray,images,c.png,CC BY,Short.",
        "9,Pneumonia/Bacterial/Klebsiella,PA,X-ray,images,c.png,CC BY,A longer text.",
        "9,ARDS,AP Supine,X-ray,images,d.png,CC BY,",
        "4,COVID-19,Axial,CT,images,e.png,CC BY,A slice.",
        '5,No Finding,PA,X-ray,images,f.jpg,CC BY,"First line,\nsecond line."',
        "6,todo,PA,X-ray,images,g.png,CC BY,Unclear.",
    )
    for name in ("a.png", "b.png", "c.png", "d.png", "f.jpg", "g.png"):
        film(root / "images" / name)
    write(
        root / "annotations" / "boxes.csv",
        "filename,phrase,kind,x_min,y_min,x_max,y_max,mask,origin",
        "a.png,ground glass opacity,pathology,1,2,30,40,a__ggo.png,human",
        "a.png,Ground Glass Opacity,anatomy,,,,,a__ggo.png,human",
        "a.png,left lung,anatomy,1,2,30,40,a__lung.png,human",
        "a.png,tubing,device,1,2,30,40,,human",
        "b.png,consolidation,pathology,1,2,300,40,,human",
        "zzz.png,consolidation,pathology,1,2,3,4,,human",
    )
    for name in ("a__ggo.png", "a__lung.png"):
        film(root / "annotations" / "masks" / name)
    return root


RSNA_LABELS, RSNA_HEADER = "stage_2_train_labels.csv", "patientId,x,y,width,height,Target"
BOXED = ["aa,100,200,300,400,1", "aa,600,200,300,400,1", "bb,,,,,0", "cc,,,,,0", "dd,10.5,20,30,40,1"]


def rsna(data: Path) -> Path:
    """Four films, two of them boxed."""
    root = data / FOLDERS["rsna"]
    write(root / RSNA_LABELS, RSNA_HEADER, *BOXED)
    classes = ["aa,Lung Opacity", "aa,Lung Opacity", "bb,Normal", "cc,No Lung Opacity / Not Normal", "dd,Lung Opacity"]
    write(root / "stage_2_detailed_class_info.csv", "patientId,class", *classes)
    for name in ("aa", "bb", "cc", "dd"):
        write_dicom(root / f"stage_2_train_images/{name}.dcm", grey())
    return root


SIIM_ROWS = ["a.1,0 2 1022 3", "a.1,2047 1", "a.2, -1", "a.3,-1"]
"""a.1 has two masks: 5 pixels at the top of columns 0 and 1, one at the bottom of column 1"""


def siim(data: Path) -> Path:
    """Three films, one with two masks; a negative row with and one without the space."""
    root = data / FOLDERS["siim"]
    write(root / "train-rle.csv", "ImageId, EncodedPixels", *SIIM_ROWS)
    for number in (1, 2, 3):
        folder = root / f"dicom-images-train/study{number}/series{number}"
        write_dicom(folder / f"a.{number}.dcm", grey(SIDE, SIDE))
    return root


CHEXPERT_HEADER = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS])


def chexpert_row(path: str, view: str = "Frontal", **labels: str) -> str:
    """A row with some labels, given as `Pleural_Effusion="-1.0"`."""
    named = {name.replace("_", " "): value for name, value in labels.items()}
    assert set(named) <= set(CHEXPERT_LABELS)
    cells = [named.get(column, "") for column in CHEXPERT_LABELS]
    return ",".join([f"CheXpert-v1.0-small/{path}", "Male", "60", view, "AP" if view == "Frontal" else "", *cells])


_UNCERTAIN = {"Edema": "-1.0", "Cardiomegaly": "-1.0", "Pneumonia": "-1.0"}
CHEXPERT_TRAIN = [
    chexpert_row("train/patient00001/study1/view1_frontal.jpg", **_UNCERTAIN, Fracture="0.0"),
    chexpert_row("train/patient00001/study1/view2_lateral.jpg", "Lateral", Edema="-1.0"),
    chexpert_row("train/patient00001/study2/view1_frontal.jpg", No_Finding="1.0"),
    chexpert_row("train/patient00002/study1/view1_frontal.jpg", Edema="1.0"),
    chexpert_row("train/patient00003/study1/view1_frontal.jpg", Pleural_Effusion="1.0"),
]  # fmt: skip
CHEXPERT_VALID = [chexpert_row("valid/patient64541/study1/view1_frontal.jpg", Edema="1.0", Fracture="0.0")]


def write_chexpert(root: Path, train: list[str], valid: list[str] = CHEXPERT_VALID) -> None:
    write(root / "train.csv", CHEXPERT_HEADER, *train)
    write(root / "valid.csv", CHEXPERT_HEADER, *valid)


def chexpert(data: Path) -> Path:
    """Five films of train, one of them lateral, and one of valid."""
    root = data / FOLDERS["chexpert"]
    write_chexpert(root, CHEXPERT_TRAIN)
    for line in [*CHEXPERT_TRAIN, *CHEXPERT_VALID]:
        film(root / line.split(",")[0].split("/", 1)[1])
    return root


def chexpert_5x200(data: Path) -> Path:
    """Three films of the above, as GLoRIA's file has them."""
    root = chexpert(data)
    header = f"{CHEXPERT_HEADER},Report Impression"
    rows = [f"{CHEXPERT_TRAIN[3]},Edema.", f"{CHEXPERT_TRAIN[4]},", f"{CHEXPERT_VALID[0]},"]
    write(root / "chexpert_5x200.csv", header, *rows)
    return root


COVIDX_TRAIN = [
    "7 a.png normal rsna",
    "7 b.png normal rsna",
    "p 8 c.jpg COVID-19 sirm",  # a patient's name with a space
    "9 d.png pneumonia cohen",
    "9 e.png COVID-19 fig1",  # the same number in another source is another patient
    "11 f.png pneumonia rsna",
]
COVIDX_TEST = ["20 a.png COVID-19 ricord", "11 g.png normal rsna"]


def two_classes(lines: list[str]) -> list[str]:
    """The lines as later versions have them."""
    renamed = [line.replace("COVID-19", "positive") for line in lines]
    return [line.replace("normal", "negative").replace("pneumonia", "negative") for line in renamed]


def covidx_lists(
    root: Path, version: str = "_COVIDx9A", train: list[str] = COVIDX_TRAIN, test: list[str] = COVIDX_TEST
) -> None:
    """Lists of one version."""
    write(root / f"train{version}.txt", *train)
    write(root / f"test{version}.txt", *test)


def covidx(data: Path) -> Path:
    """Six training films, one of them of a test patient, and two of test."""
    root = data / FOLDERS["covidx"]
    covidx_lists(root)
    for line in COVIDX_TRAIN:
        film(root / "train" / line.split()[-3])
    for line in COVIDX_TEST:
        film(root / "test" / line.split()[-3])
    return root


VINDR_ROWS = [
    "im1,R1,Lung Opacity,10,20,30,40",
    "im1,R1,Pulmonary fibrosis,1,2,9,9",
    "im1,R2,Lung Opacity,12,22,32,42",
    "im1,R3,No finding,,,,",
    "im2,R1,No finding,,,,",
    "im2,R2,No finding,,,,",
    "im2,R3,Lung Opacity,5,5,9,9",
    "im2,R3,Lung Opacity,15,5,19,9",  # a second box is no second vote
]
VINDR_LABELS = {
    "train": [
        "image_id,rad_id,Lung Opacity,Pulmonary fibrosis,No finding",
        "im1,R1,1,1,0", "im1,R2,1,0,0", "im1,R3,0,0,1", "im2,R1,0,0,1", "im2,R2,0,0,1", "im2,R3,1,0,0",
    ],
    "test": ["image_id,Lung Opacity,Pulmonary fibrosis,No finding", "im3,0,1,0"],
}  # fmt: skip


def vindr_films(root: Path, **folders: tuple[str, ...]) -> None:
    """12-bit films of these folders."""
    for folder, names in folders.items():
        for name in names:
            write_dicom(root / folder / f"{name}.dicom", grey(48, 64, np.uint16), BitsStored=12)


def vindr(data: Path) -> Path:
    """PhysioNet's layout: two training films with three readers each, a test film with an agreed reading."""
    root = data / FOLDERS["vindr"]
    folder = root / "annotations"
    write(folder / "annotations_train.csv", "image_id,rad_id,class_name,x_min,y_min,x_max,y_max", *VINDR_ROWS)
    write(
        folder / "annotations_test.csv", "image_id,class_name,x_min,y_min,x_max,y_max", "im3,Pulmonary fibrosis,0,0,9,9"
    )
    for split, lines in VINDR_LABELS.items():
        write(folder / f"image_labels_{split}.csv", *lines)
    vindr_films(root, train=("im1", "im2"), test=("im3",))
    return root


KAGGLE_HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"


def vindr_kaggle(data: Path) -> Path:
    """The same training films as Kaggle has them."""
    root = data / FOLDERS["vindr"]
    rows = []
    for line in VINDR_ROWS:
        image, reader, name, *corners = line.split(",")
        rows.append(",".join([image, name, "14" if name == "No finding" else "7", reader, *corners]))
    write(root / "train.csv", KAGGLE_HEADER, *rows)
    vindr_films(root, train=("im1", "im2"))
    return root


MIMIC_FILMS = {
    "aa-1": ("10000032", "50414267", "PA", "train"),
    "aa-2": ("10000032", "50414267", "LATERAL", "train"),
    "aa-3": ("10000032", "53189527", "AP", "train"),
    "bb-1": ("10000764", "57375967", "AP", "train"),
    "cc-1": ("11000011", "50000001", "PA", "validate"),
    "dd-1": ("12000012", "50000002", "PA", "test"),
    "ee-1": ("19000019", "50000003", "LL", "train"),
}
"""film -> patient, study, view, split"""
MIMIC_REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with chest pain  // time: now

 FINDINGS: 

 The lungs are clear.
 Heart is normal.

 IMPRESSION: 

 No acute process.
"""
MS_CXR_ROWS = [
    'bb-1,Pleural Effusion,"small effusion,  left",files/p10/p10000764/s57375967/bb-1.jpg,100,200,50,60,1000,800',
    'bb-1,Pleural Effusion,"small effusion, left",files/p10/p10000764/s57375967/bb-1.jpg,300,200,50,60,1000,800',
    "dd-1,Lung Opacity,opacity,files/p12/p12000012/s50000002/dd-1.jpg,10,20,30,40,1000,800",
]


def mimic(data: Path) -> Path:
    """Seven films of five patients, two of them lateral; one report is missing, one has no section; none in MS-CXR."""
    root = data / FOLDERS["mimic_cxr"]
    metadata = ["dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate"]
    split = ["dicom_id,study_id,subject_id,split"]
    for name, (patient, study, view, part) in MIMIC_FILMS.items():
        metadata.append(f'{name},{patient},{study},"CHEST (PA, LAT)",{view},48,48,21800506')
        split.append(f"{name},{study},{patient},{part}")
        film(root / "files" / f"p{patient[:2]}" / f"p{patient}" / f"s{study}" / f"{name}.jpg")
    write(root / "mimic-cxr-2.0.0-metadata.csv.gz", *metadata)
    write(root / "mimic-cxr-2.0.0-split.csv.gz", *split)
    blank = "," * 13
    write(
        root / "mimic-cxr-2.0.0-chexpert.csv.gz",
        f"subject_id,study_id,{','.join(CHEXPERT_LABELS)}",
        f"10000032,50414267,1.0{blank}",
        f"10000764,57375967,,,-1.0,0.0{',' * 10}",
        f"12000012,50000002,,,,1.0{',' * 10}",
    )
    for patient, study in {(patient, study) for patient, study, _, _ in MIMIC_FILMS.values()} - {
        ("11000011", "50000001")
    }:
        (root / "files" / f"p{patient[:2]}" / f"p{patient}" / f"s{study}.txt").write_text(MIMIC_REPORT)
    write_ms_cxr(data / "ms-cxr")
    (root / "files/p12/p12000012/s50000002.txt").write_text("  WET READ: fine\n\n The lungs are clear.\n")
    return root


def ms_cxr(data: Path) -> Path:
    """Four boxes on three of MIMIC's films."""
    mimic(data)
    other = "cc-1,Edema,edema,files/p11/p11000011/s50000001/cc-1.jpg,1,2,3,4,1000,800"
    write_ms_cxr(data / FOLDERS["ms_cxr"], *MS_CXR_ROWS, other)
    return data / FOLDERS["ms_cxr"]


GRAPH_FILMS = {
    "aa-1": ("10000032", "50414267", "train"),
    "bb-1": ("10000764", "57375967", "train"),
    "cc-1": ("11000011", "50000001", "valid"),
    "dd-1": ("12000012", "50000002", "test"),
}
"""film -> patient, study, list"""


def region(name: str, *corners: int) -> dict[str, object]:
    """An object of a scene graph."""
    sides = dict(zip(("original_x1", "original_y1", "original_x2", "original_y2"), corners, strict=True))
    return {"object_id": f"aa-1_{name}", "x1": 1, "y1": 1, "x2": 9, "y2": 9, "bbox_name": name, **sides}


def chest_imagenome(data: Path) -> Path:
    """Four films, all but the last with a scene graph; MIMIC's folder and MS-CXR's lie next to it."""
    root, mimic = data / FOLDERS["chest_imagenome"], data / FOLDERS["mimic_cxr"]
    write_ms_cxr(data / "ms-cxr")
    metadata = ["dicom_id,subject_id,study_id,ViewPosition,Rows,Columns"]
    lists = {name: [",subject_id,study_id,dicom_id,path,ViewPosition"] for name in ("train", "valid", "test")}
    for name, (patient, study, part) in GRAPH_FILMS.items():
        folder = f"files/p{patient[:2]}/p{patient}/s{study}"
        metadata.append(f"{name},{patient},{study},PA,2000,1000")
        lists[part].append(f"{len(lists[part])},{patient},{study},{name},{folder}/{name}.dcm,PA")
        film(mimic / folder / f"{name}.jpg")
        if name != "dd-1":
            objects = [
                region("right lung", 100, 200, 400, 900),
                region("left lung", -20, 200, 1050, 900),  # reaches outside on both sides
                region("spine", 5, 5, 5, 90),
                region("carina", 1100, 5, 1200, 90),
                region("right breast", 1, 1, 9, 9),  # none of the 29
            ]
            write(
                root / "silver_dataset/scene_graph" / f"{name}_SceneGraph.json",
                json.dumps({"image_id": name, "objects": objects, "attributes": []}, indent=1),
            )
    write(mimic / "mimic-cxr-2.0.0-metadata.csv.gz", *metadata)
    for name, rows in lists.items():
        write(root / "silver_dataset/splits" / f"{name}.csv", *rows)
    write(
        root / "silver_dataset/splits/images_to_avoid.csv", "subject_id,study_id,dicom_id,path,ViewPosition", ",,xx,,"
    )
    return root


PADCHEST_HEADER = (
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
    "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Modality_DICOM", "Manufacturer_DICOM",
    "PhotometricInterpretation_DICOM", "PixelRepresentation_DICOM", "PixelAspectRatio_DICOM",
    "SpatialResolution_DICOM", "BitsStored_DICOM", "WindowCenter_DICOM", "WindowWidth_DICOM", "Rows_DICOM",
    "Columns_DICOM", "XRayTubeCurrent_DICOM", "Exposure_DICOM", "ExposureInuAs_DICOM", "ExposureTime",
    "RelativeXRayExposure_DICOM", "ReportID", "Report", "MethodLabel", "Labels", "Localizations",
    "LabelsLocalizationsBySentence", "labelCUIS", "LocalizationsCUIS",
)  # fmt: skip
PADCHEST_REPORT = "siluet cardiomediastin agrand ."


def padchest_row(image: str, study: str, patient: str, labels: str, **cells: str) -> dict[str, str]:
    """One film, a frontal one that a physician labelled unless `cells` say otherwise."""
    named = {"ImageID": f"{image}.png", "StudyID": study, "PatientID": patient, "Labels": labels}
    fixed = {
        "ImageDir": "0",
        "Projection": "PA",
        "MethodLabel": "Physician",
        "Report": PADCHEST_REPORT,
        "ReportID": "1",
    }
    return fixed | named | cells


def rnn_row(image: str, study: str, patient: str, labels: str, **cells: str) -> dict[str, str]:
    """One film that the network labelled."""
    return padchest_row(image, study, patient, labels, MethodLabel="RNN_model", **cells)


PADCHEST_ROWS = [
    padchest_row("a_pa", "a", "p1", "['cardiomegaly', ' COPD signs', '']"),
    padchest_row("a_l", "a", "p1", "['cardiomegaly', ' COPD signs', '']", Projection="L"),
    padchest_row("b_pa", "b", "p2", "['normal']", ImageDir="54", Projection="AP_horizontal"),
    padchest_row("c_pa", "c", "p3", "['unchanged', 'aortic  elongation', 'Cardiomegaly ']", Projection="AP"),
    rnn_row("d_pa", "d", "p1", "['normal']"),  # of a tested patient
    rnn_row("e_pa", "e", "p5", "['pulmonary edema']"),
    rnn_row("f_pa", "f", "p6", "['normal']"),
    rnn_row("g_pa", "g", "p7", "['scoliosis']"),
]


def write_padchest(path: Path, rows: list[dict[str, str]]) -> None:
    """The table with all published columns; cell labelCUIS has a line break where the labels are several."""
    text = io.StringIO()
    writer = csv.DictWriter(text, PADCHEST_HEADER, restval="", lineterminator="\n")
    writer.writeheader()
    for number, cells in enumerate(rows):
        cuis = "['C0018800'\n 'C0024117']" if "," in cells["Labels"] else "['C0205307']"
        writer.writerow({"": str(number), "labelCUIS": cuis} | cells)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def padchest_films(root: Path, rows: list[dict[str, str]], place: str = "{ImageDir}") -> None:
    """16-bit films."""
    for cells in rows:
        path = root / place.format_map(cells) / cells["ImageID"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.tile([2047, 2049], (40, 24)).astype(np.uint16)).save(path)


def padchest(data: Path) -> Path:
    """Eight films, one of them lateral; three are labelled by the network, one more of a tested patient."""
    root = data / FOLDERS["padchest"]
    padchest_films(root, PADCHEST_ROWS)
    write_padchest(root / padchest_loader.TABLE, PADCHEST_ROWS)
    return root


STUDIES = [
    "study_id,patient_id,split,report,image,view",
    's1,p1,train,"FINDINGS: Small effusion, left.",films/s1.png,PA',
    "s2,p1,train,none,films/s2.png,AP",
    "s3,p2,test,Clear lungs.,none,",
]


def folder(data: Path) -> Path:
    """A pair, an image-only and a report-only study."""
    root = data / FOLDERS["folder"]
    write(root / "studies.csv", *STUDIES)
    for name in ("s1", "s2"):
        film(root / "films" / f"{name}.png", 40, 60)
    return root


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "nih": nih,
    "openi": openi,
    "covid_chestxray": covid_chestxray,
    "mimic_cxr": mimic,
    "ms_cxr": ms_cxr,
    "chest_imagenome": chest_imagenome,
    "rsna": rsna,
    "siim": siim,
    "chexpert": chexpert,
    "chexpert_5x200": chexpert_5x200,
    "covidx": covidx,
    "vindr": vindr,
    "padchest": padchest,
    "folder": folder,
}
"""corpus -> writes it below a data root, and returns its folder"""
