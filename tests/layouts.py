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
