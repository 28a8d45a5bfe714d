"""A corpus of one's own: paediatric chest radiographs (Kermany et al., Cell 2018; CC BY 4.0).

    {train,val,test}/{NORMAL,PNEUMONIA}/person12_bacteria_46.jpeg, IM-0115-0001.jpeg

The published split shares patients, so all images are pooled and split by patient.
"""

from pathlib import Path

import pandas as pd

from lgdea_core.data.corpora.tables import Exclusions, film_table, label_table
from lgdea_core.data.corpus import Corpus
from lgdea_core.data.pairing import split_by_patient


def load(root: Path, seed: int = 0) -> Corpus:
    """Images and one label; there are no reports and no boxes."""
    exclusions = Exclusions()
    files = sorted(path.relative_to(root) for path in root.glob("*/*/*.jpeg"))
    names = [path.stem for path in files]
    films = pd.DataFrame({"image_id": names, "study_id": names, "file": map(str, files), "view": "frontal"})
    films = films.assign(where=films["file"], positive=[path.parts[1] == "PNEUMONIA" for path in files])
    films, images = film_table(films, root, exclusions, missing=f"no image in {root}/<split>/<class>/")
    patients = films["study_id"].str.extract(r"^(person\d+|.*IM-\d+)")[0]
    studies = pd.DataFrame({"study_id": films["study_id"], "patient_id": patients, "report": None})
    return Corpus(
        name="kermany",
        root=root,
        studies=split_by_patient(studies, (0.7, 0.1, 0.2), seed),
        images=images,
        labels=label_table(films["study_id"], "pneumonia", films["positive"].astype(float), "kermany"),
        exclusions=exclusions,
    )
