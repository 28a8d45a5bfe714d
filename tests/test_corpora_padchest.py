"""PadChest, as tiny copies of the published layout."""

from pathlib import Path

import layouts
import numpy as np
import pandas as pd
import pytest
from layouts import PADCHEST_ROWS as ROWS
from layouts import padchest_films as write_films
from layouts import padchest_row as row
from layouts import values
from layouts import write_padchest as write_table
from PIL import Image
from planted import PlantedWorld, config

from lgdea_core.data.check import check_corpus
from lgdea_core.data.corpora import assemble, load_corpus
from lgdea_core.data.corpora.padchest import BROKEN, RENAMED, TABLE, parse_labels
from lgdea_core.data.corpus import label_table
from lgdea_core.data.images import load_images, read_image
from lgdea_core.data.pairing import Pools
from lgdea_core.evaluation.harness import evaluate
from lgdea_core.evaluation.prompts import load_prompt_set
from lgdea_core.runs.inputs import Inputs
from lgdea_core.vocabulary import NO_FINDING


@pytest.fixture
def padchest(tmp_path: Path) -> Path:
    return layouts.padchest(tmp_path)


def test_layout_becomes_tables(padchest: Path) -> None:
    corpus = load_corpus("padchest", padchest)
    films = corpus.images.set_index("image_id")
    assert films["view"].to_dict() == {
        "a_pa": "PA", "b_pa": "AP", "c_pa": "AP", "e_pa": "PA", "f_pa": "PA", "g_pa": "PA",
    }  # fmt: skip
    assert films.loc["b_pa", ["path", "width", "height"]].tolist() == ["54/b_pa.png", 48, 40]
    assert read_image(corpus.image_path("a_pa")).mean() == pytest.approx(2048 / 4095)
    assert corpus.studies["report"].isna().all()
    assert corpus.exclusions == {
        "film that is not frontal": 1,
        "film labelled by the network, of a patient who is tested": 1,
    }


def test_physicians_labels_are_test_and_their_patients_do_not_train(padchest: Path) -> None:
    studies = load_corpus("padchest", padchest).studies.set_index("study_id")
    assert studies.loc[["a", "b", "c"], "split"].tolist() == ["test"] * 3
    assert set(studies.index) == {"a", "b", "c", "e", "f", "g"}
    assert sorted(studies.loc[["e", "f", "g"], "split"]) == ["train", "train", "val"]


def test_the_split_survives_assembly(padchest: Path) -> None:
    corpus = assemble("padchest", padchest.parent)
    pd.testing.assert_series_equal(corpus.studies["split"], load_corpus("padchest", padchest).studies["split"])


def test_a_patient_whose_tested_film_is_left_out_does_not_train_either(padchest: Path) -> None:
    rows = [*ROWS, row("h_l", "h", "p5", "['scoliosis']", Projection="L"), row("i_pa", "i", "p6", "")]
    write_table(padchest / TABLE, rows)
    studies = load_corpus("padchest", padchest).studies
    assert studies.loc[studies["split"] != "test", "study_id"].tolist() == ["g"]


def test_a_study_is_a_closed_world_of_its_splits_labels(padchest: Path) -> None:
    corpus = load_corpus("padchest", padchest)
    assert values(corpus, "a") == {"aortic elongation": 0, "cardiomegaly": 1, "copd": 1, NO_FINDING: 0}
    assert values(corpus, "b") == {"aortic elongation": 0, "cardiomegaly": 0, "copd": 0, NO_FINDING: 1}
    assert values(corpus, "c") == {"aortic elongation": 1, "cardiomegaly": 1, "copd": 0, NO_FINDING: 0}
    assert len(corpus.labels) == 12  # none of the network's


def test_the_networks_labels_come_on_demand(padchest: Path) -> None:
    corpus = load_corpus("padchest", padchest, rnn_labels=True)
    assert values(corpus, "e") == {"edema": 1, "scoliosis": 0, NO_FINDING: 0}
    assert corpus.labels.groupby("source", observed=True)["study_id"].nunique().to_dict() == {"physician": 3, "rnn": 3}
    test = label_table(corpus.split("test"))
    assert list(test.columns) == ["aortic elongation", "cardiomegaly", "copd", NO_FINDING]
    assert list(test.index) == ["a", "b", "c"]  # categories of other splits leave no trace


def test_the_label_table_is_small(padchest: Path) -> None:
    labels = load_corpus("padchest", padchest).labels
    assert {name: str(kind) for name, kind in labels.dtypes.items()} == {
        "study_id": "category", "finding": "category", "source": "category", "value": "float32",
    }  # fmt: skip
    many = pd.concat([labels] * 1000).memory_usage(index=False).sum() / len(labels) / 1000
    assert many < 12  # bytes a row


def test_labels_of_a_studys_films_add_up_and_normal_gives_way(padchest: Path) -> None:
    films = [row("a_ap", "a", "p1", "['goiter']", Projection="AP"), row("b_ap", "b", "p2", "['kyphosis']")]
    write_table(padchest / TABLE, [*ROWS, *films])
    write_films(padchest, films)
    corpus = load_corpus("padchest", padchest)
    assert {name for name, value in values(corpus, "a").items() if value} == {"cardiomegaly", "copd", "goiter"}
    assert {name for name, value in values(corpus, "b").items() if value} == {"kyphosis"}
    assert corpus.exclusions["film whose labels differ from those of the study's first, all count"] == 2
    assert corpus.exclusions["study with 'normal' beside a finding, which counts"] == 1


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ("['exclude', 'cardiomegaly']", "film of a report to be excluded"),
        ("[' Exclude']", "film of a report to be excluded"),
        ("", "film without a label that names a finding or none"),
        ("nan", "film without a label that names a finding or none"),
        ("[nan]", "film without a label that names a finding or none"),
        ("[]", "film without a label that names a finding or none"),
        ("['', ' ']", "film without a label that names a finding or none"),
        ("['unchanged', 'suboptimal study']", "film without a label that names a finding or none"),
    ],
)
def test_films_without_findings_to_tell_are_counted(padchest: Path, labels: str, reason: str) -> None:
    before = load_corpus("padchest", padchest)
    write_table(
        padchest / TABLE, [*ROWS, row("h_pa", "h", "p8", labels, MethodLabel="" if not labels else "Physician")]
    )
    after = load_corpus("padchest", padchest)
    pd.testing.assert_frame_equal(after.labels, before.labels)
    assert {name: n for name, n in after.exclusions.items() if name not in before.exclusions} == {reason: 1}


def test_cells_of_labels_are_lists_of_names_and_nothing_else() -> None:
    assert parse_labels("[]") == parse_labels("[ ]") == parse_labels("NaN") == frozenset()
    assert parse_labels("""["Barrett's sign", nan , 'a, "b"']""") == {"barrett's sign", 'a, "b"', ""}
    assert parse_labels("['Pleural  effusion ', 'NSG tube', '']") == {"pleural effusion", "nsg tube", ""}
    for cell in ("'mass'", "['mass'", "[1]", "{'mass'}", "['a' 'b']", "['a',]", "[,'a']", "['a'], ['b']", "mass"):
        assert parse_labels(cell) is None


@pytest.mark.parametrize("place", ["{ImageDir}", "images/{ImageDir}", "images", "images-224"])
def test_films_may_lie_as_published_readers_have_them(tmp_path: Path, place: str) -> None:
    write_table(tmp_path / f"{TABLE}.gz", ROWS)
    write_films(tmp_path, ROWS, place)
    assert len(load_corpus("padchest", tmp_path).images) == 6
    assert check_corpus("padchest", tmp_path, progress=False).problems == []


def test_films_known_to_be_broken_and_listed_twice_are_no_problem(padchest: Path) -> None:
    assert len(BROKEN) == 21
    broken = row(min(BROKEN).removesuffix(".png"), "h", "p8", "['mass']")
    write_table(padchest / TABLE, [*ROWS, broken, ROWS[0]])
    report = check_corpus("padchest", padchest, progress=False)
    assert report.problems == []
    assert report.exclusions["film known to be broken or missing"] == 1
    assert report.exclusions["film listed again"] == 1


def test_no_two_findings_become_one() -> None:
    assert len(set(RENAMED.values())) == len(RENAMED)
    chosen = load_prompt_set()
    assert all(chosen.covers(name) for name in set(RENAMED.values()) - {NO_FINDING})


@pytest.mark.parametrize("prompts", ["carzero", "chexzero"])
def test_zero_shot_evaluation_has_a_tail(tmp_path: Path, prompts: str) -> None:
    rows = [
        row(f"s{i}", f"s{i}", f"p{i}", "['cardiomegaly']" if i % 2 else "['azygos lobe']" if i < 8 else "['normal']")
        for i in range(32)
    ]
    write_table(tmp_path / TABLE, rows)
    for cells, picture in zip(rows, PlantedWorld(32, seed=1).images.numpy(), strict=True):
        path = tmp_path / cells["ImageDir"] / cells["ImageID"]
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture.astype(np.uint16) * 16).save(path)
    corpus = load_corpus("padchest", tmp_path)
    pools = Pools(image_ids=(), report_ids=(), seed_pairs=pd.DataFrame(), hidden_pairs=pd.DataFrame())
    inputs = Inputs(corpus=corpus, store=load_images(corpus, 32, progress=False), pools=pools)
    model, processor = PlantedWorld(6, seed=0).model(config("clip"))
    table = evaluate(model, processor, inputs, prompts=prompts, resamples=20, progress=False)
    table = table.set_index(["metric", "finding"])
    assert 0 <= table.loc[("auc_tail", "macro"), "estimate"] <= 1
    assert table.loc[("auc_tail", "macro"), "positives"] == 4  # the azygos lobes
    assert table.loc[("auc", "cardiomegaly"), "positives"] == 16
