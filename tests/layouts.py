"""What the tests of corpora write: films, tables, DICOM files."""

import gzip
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from lgdea_core.data.corpus import Corpus


def film(path: Path, side: int = 48) -> None:
    """A flat grey film."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), 100, dtype=np.uint8)).save(path)


def write(path: Path, *lines: str) -> None:
    """A text file, gzipped where its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


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
    dicom.Rows, dicom.Columns = pixels.shape
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
