"""Who a model was trained on, kept beside its weights as hashes, so that no evaluation judges it on these patients."""

import hashlib
import json
import logging
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd

from lgdea_core.data.corpora import CORPORA, RELATIVES
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import check_leaks
from lgdea_core.model import read_fields

logger = logging.getLogger("lgdea")

PATIENTS_FILE = "training_patients.json"
PUBLISHERS = {
    "ms_cxr": "mimic_cxr",
    "chest_imagenome": "mimic_cxr",
    "chexpert_5x200": "chexpert",
    "chexpert_8x200": "chexpert",
    "painted_nih": "nih",
}
"""corpus -> the one whose patients, and ids of patients, it has"""
PUBLISHED_ID = re.compile(
    r"p1\d{7}|patient\d{5}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}|1\.2\.[\d.]{20,}"
)
"""a patient of MIMIC, CheXpert, RSNA, VinDr or SIIM, whoever wrote the id down: nobody else numbers people like this"""
REMEDY = "judge this model on the split it was trained with, or train it again without them"


@dataclass(frozen=True, kw_only=True)
class TrainingPatients:
    """The patients of a training split, as hashes of publisher and id.

    Hashing keeps ids out of sight, not secret: whoever knows how a publisher numbers its patients can try all numbers.
    The file therefore belongs where the corpus may lie: `variants.save_trained` writes it into a run, `save_pretrained`
    and `push_to_hub` do not. The same patients give the same bytes.
    """

    salt: str
    sources: tuple[str, ...]
    """publishers of the ids"""
    hashes: tuple[str, ...]

    @classmethod
    def of(cls, corpus: Corpus) -> "TrainingPatients":
        """Everyone of split train, with or without a known pair."""
        keys = sorted(set(patient_keys(corpus.split("train"))))
        salt = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        return cls(salt=salt, sources=_sources(keys), hashes=tuple(sorted(_hashed(salt, key) for key in keys)))

    @classmethod
    def load(cls, folder: Path | str) -> "TrainingPatients | None":
        """What `save` wrote; None where a model has no such file."""
        path = Path(folder) / PATIENTS_FILE
        if not path.is_file():
            return None
        values = read_fields(path, {entry.name for entry in fields(cls)})
        return cls(salt=values["salt"], sources=tuple(values["sources"]), hashes=tuple(values["hashes"]))

    def save(self, folder: Path | str) -> None:
        """Write `training_patients.json`."""
        (Path(folder) / PATIENTS_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    def refuse(self, corpus: Corpus) -> None:
        """Refuse to judge the model on a corpus that holds a training patient, whatever its split is called.

        A patient of an own folder is also looked for under the id alone, as "p10000764" and "10000764" are both
        MIMIC's: folders may hold published films or be copies of each other. Where ids cannot tell, as with plain
        numbers of two hospitals or the films of SIIM that are NIH's, the log warns.

        Raises:
            ValueError: from `check_leaks`, naming up to five such patients and their number.
        """
        keys = set(patient_keys(corpus))
        known = set(self.hashes)
        trained = {key for key in keys if _hashed(self.salt, key) in known}
        sure, unsure = self._elsewhere(keys - trained)
        check_leaks(trained | sure, keys, f"the evaluation on {corpus.name!r}", REMEDY)
        if unsure:
            logger.warning(
                "corpus %s: %d of its patients have the ids of patients of %s, whom this model was trained on; nobody "
                "can tell whether they are the same",
                corpus.name, len(unsure), " and ".join(sorted(set(unsure.values()))),
            )  # fmt: skip
        for source in _sources(sorted(keys)):
            related = {other for relatives in RELATIVES if source in relatives for other in relatives - {source}}
            others = [other for other in self.sources if other in related]
            if others:
                logger.warning(
                    "corpus %s: films of %s may show patients of %s, whom this model was trained on; ids do not tell",
                    corpus.name, source, " and ".join(others),
                )  # fmt: skip

    def _elsewhere(self, keys: set[str]) -> tuple[set[str], dict[str, str]]:
        """Patients trained on under the same id in another source, one of the two an own folder.

        The first are certain, for their id is of a publisher's form; of the others the source is given.
        """
        known, sure, unsure = set(self.hashes), set(), {}
        for key in keys:
            source, _, patient = key.partition("/")
            for other in self.sources:
                if not _may_hold(source, other):
                    continue
                for spelling in {patient, f"p{patient}", patient.removeprefix("p")}:
                    if _hashed(self.salt, f"{other}/{spelling}") not in known:
                        continue
                    if PUBLISHED_ID.fullmatch(patient) or PUBLISHED_ID.fullmatch(spelling):
                        sure.add(key)
                    else:
                        unsure[key] = other
        return sure, {key: other for key, other in unsure.items() if key not in sure}


def refuse_training_patients(model: object, corpus: Corpus) -> None:
    """`TrainingPatients.refuse`, of a model that knows them; of any other the log says that nobody can tell.

    Raises:
        ValueError: the model was trained on a patient of the corpus.
    """
    patients, folder = getattr(model, "training_patients", None), getattr(model, "folder", None)
    if patients is None and folder is not None:
        patients = TrainingPatients.load(folder)
    if patients is None:
        logger.warning(
            "corpus %s: the model has no %s, so nobody can tell whether it was trained on these patients",
            corpus.name, PATIENTS_FILE,
        )  # fmt: skip
    else:
        patients.refuse(corpus)


def patient_keys(corpus: Corpus) -> pd.Series:
    """`publisher/id` of every study's patient, the same in whatever combination of corpora the study stands.

    Patients of a generated corpus exist in that world alone, those of corpus `folder` in that folder: its name takes
    the publisher's place. A film of RSNA that is not mapped to NIH's patients is RSNA's own.
    """
    studies = corpus.studies
    names = studies["corpus"] if "corpus" in studies else pd.Series(corpus.name, index=studies.index)
    folders = studies["corpus_folder"] if "corpus" in studies else pd.Series(corpus.root.name, index=studies.index)
    keys = [
        f"{_publisher(name, patient.removeprefix(f'{name}/'), folder)}/{patient.removeprefix(f'{name}/')}"
        for name, folder, patient in zip(names, folders, studies["patient_id"], strict=True)
    ]
    return pd.Series(keys, index=studies.index, dtype=object)


def _publisher(name: str, patient: str, folder: str) -> str:
    if name == "folder" or name.startswith("phantom"):
        return folder
    if name == "rsna":
        return "nih" if patient.isdigit() else "rsna"
    return PUBLISHERS.get(name, name)


def _sources(keys: list[str]) -> tuple[str, ...]:
    return tuple(sorted({key.partition("/")[0] for key in keys}))


def _may_hold(one: str, other: str) -> bool:
    """Whether one is an own folder that patients of the other may lie in; generated patients lie nowhere else."""
    generated = one.startswith("phantom") or other.startswith("phantom")
    return one != other and not generated and not {one, other} <= set(CORPORA) - {"folder"}


def _hashed(salt: str, key: str) -> str:
    """64 bits of SHA-256: two of a million patients share them with a chance of 3e-8."""
    return hashlib.sha256(f"{salt}:{key}".encode()).hexdigest()[:16]
