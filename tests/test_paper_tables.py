"""Tables of both papers: what is ours says so, and published numbers are the papers'."""

from pathlib import Path

import pandas as pd
import pytest

from lgdea_core.experiments import paper_tables
from lgdea_core.experiments.paper_tables import (
    COLUMNS,
    caption_of,
    experiment_rows,
    missing_rows,
    origin_of,
    read_published,
    write_paper_tables,
)
from lgdea_core.experiments.tables import FURTHER_MEASURES, GROUNDED, MEASURES, TABLES, TRAINING
from lgdea_core.experiments.worlds import WORLDS
from lgdea_core.figures.comparison import PUBLISHED
from lgdea_core.figures.tables import figure_paper_table

NAMES = {
    "grounding",
    "grounding_controls",
    "retrieval",
    "zero_shot",
    "pairing_ratios",
    "ablation",
    "classification",
    "segmentation",
    "asg_ablation",
}


def row(method: str, seed: int, auc: float, ratio: float = 0.1, variant: str = "") -> dict[str, object]:
    values = dict(zip(TRAINING, ("phantom", method, variant, ratio, seed, "demo"), strict=True))
    return values | {"auc": auc, "cnr": 1.0, "commit": "0123456789abcdef"}


def write_probes(tables: Path, rows: list[tuple[object, ...]]) -> None:
    columns = ["corpus", "method", "protocol", "label_ratio", "seed", "preset", "auc"]
    pd.DataFrame(rows, columns=columns).to_csv(tables / "asg_linear_probe.csv", index=False)


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose only rows are three of limited_pairing.csv, at 10 and 5 % of pairs."""
    monkeypatch.setattr("lgdea_core.experiments.tables.project_root", lambda: tmp_path)
    monkeypatch.setattr(paper_tables, "project_root", lambda: tmp_path)
    folder = tmp_path / "figures/tables"
    folder.mkdir(parents=True)
    rows = [row("lgdea", 1, 0.7), row("lgdea", 2, 0.8), row("lgdea", 1, 0.6, ratio=0.05)]
    pd.DataFrame(rows).to_csv(folder / "limited_pairing.csv", index=False)
    return folder


def test_every_measure_of_a_row_is_in_a_table_of_the_papers_under_its_name() -> None:
    tables = [*paper_tables.TASKS.values(), set(paper_tables.CONTROLLED) - set(paper_tables.TASKS["grounding"])]
    shown = [measure for measures in tables for measure in measures]
    assert sorted(shown) == sorted(MEASURES | FURTHER_MEASURES)
    assert set(paper_tables.NAMES | paper_tables.FURTHER_NAMES) == set(shown)


def test_published_numbers_are_complete_and_have_a_source() -> None:
    rows = read_published()
    counts = {"grounding": 12, "zero_shot": 18, "classification": 144, "segmentation": 72, "asg_ablation": 54}
    assert rows["table"].value_counts().to_dict() == counts
    assert not rows.duplicated(["table", "system", "backbone", "corpus", "setting", "measure"]).any()
    assert rows["source"].str.contains(r"https://arxiv\.org/abs/\d{4}\.\d{5}$").all()
    fractions = rows[~rows["measure"].str.startswith("CNR")]
    assert fractions["value"].between(0, 1).all()
    assert not rows["system"].str.contains("LGDEA").any(), "its numbers are not public to us"


@pytest.mark.parametrize(
    ("system", "corpus", "setting", "measure", "value"),
    [
        ("BioViL-T", "MS-CXR", "as in the BioViL-T paper (2023)", "CNR (absolute)", 1.33),
        ("ConVIRT", "MS-CXR", "as in the BioViL paper (2022)", "CNR (absolute)", 0.818),
        ("MedKLIP", "NIH ChestX-ray14", "as in the ASG paper", "F1 (oracle threshold)", 0.260),
        ("KAD", "COVIDx", "1 % of labels", "linear-probe accuracy", 0.735),
        ("MRM", "SIIM Pneumothorax", "10 % of labels", "Dice", 0.695),
        ("ASG: IRA + IRL", "RSNA Pneumonia", "100 % of labels", "Dice", 0.688),
    ],
)
def test_published_numbers_are_those_printed(
    system: str, corpus: str, setting: str, measure: str, value: float
) -> None:
    rows = read_published()
    chosen = (rows[["system", "corpus", "setting", "measure"]] == (system, corpus, setting, measure)).all(axis=1)
    assert rows.loc[chosen, "value"].tolist() == [value]


def test_every_row_names_its_origin_and_source(tables: Path) -> None:
    found = paper_tables.paper_tables()
    assert set(found) == NAMES
    for table in found.values():
        assert tuple(table.columns) == COLUMNS
        assert set(table["origin"]) <= {"ours, phantom", PUBLISHED}
        assert table["source"].notna().all()


@pytest.mark.slow
def test_the_command_writes_every_table_with_its_figure_and_says_what_is_missing(tables: Path) -> None:
    lines = write_paper_tables()
    for name, rows in paper_tables.paper_tables().items():
        written = pd.read_csv(tables / "paper" / f"{name}.csv")
        assert (tuple(written.columns), len(written)) == (COLUMNS, len(rows))
        assert (tables.parent / f"table_{name}.png").is_file() == (len(rows) > 0)
    assert "zero_shot: 1 rows of ours, 18 published -> figures/tables/paper/zero_shot.csv" in lines
    [line] = {line for line in lines if "no figures/tables/segmentation.csv" in line}  # of two tables
    assert TABLES["segmentation"].command in line
    assert lines[-1].startswith("LGDEA's own published numbers are not public to us")


def test_our_rows_are_mean_and_sample_deviation_over_seeds(tables: Path) -> None:
    found = paper_tables.paper_tables()
    zero_shot = found["zero_shot"].query("origin != @PUBLISHED")
    assert zero_shot[["system", "corpus", "setting", "measure", "value", "sd", "seeds"]].values.tolist() == [
        ["lgdea", "phantom", "10 % of pairs, preset demo", "zero-shot AUC", 0.75, 0.0707, 2]
    ]
    assert zero_shot["source"].tolist() == ["figures/tables/limited_pairing.csv, code of 0123456"]
    curve = found["pairing_ratios"].query("measure == 'zero-shot AUC'")
    assert curve["setting"].tolist() == ["5 % of pairs, preset demo", "10 % of pairs, preset demo"]
    assert curve["sd"].isna().tolist() == [True, False], "one seed has no deviation"


def test_a_source_names_the_code_that_measured_anew(tables: Path) -> None:
    rows = [row("lgdea", 1, 0.7) | {"measured_commit": "fedcba9876543210"}, row("lgdea", 2, 0.8)]
    pd.DataFrame(rows).to_csv(tables / "limited_pairing.csv", index=False)
    ours = paper_tables.paper_tables()["zero_shot"].query("origin != @PUBLISHED")
    assert set(ours["source"]) == {"figures/tables/limited_pairing.csv, code of 0123456, measured anew by fedcba9"}


def test_a_table_whose_rows_are_not_made_holds_the_published_ones_and_says_what_makes_ours(tables: Path) -> None:
    assert set(paper_tables.paper_tables()["segmentation"]["origin"]) == {PUBLISHED}
    assert missing_rows("pairing_ratios") == []
    assert missing_rows("ablation") == [
        "no figures/tables/ablation.csv; it comes from: python -m lgdea_core.experiments ablation"
    ]


def test_rows_of_real_films_join_the_tasks_with_what_their_reports_are(tables: Path) -> None:
    real = row("clip", 1, 0.55, ratio=0.25) | {"world": "nih", "auc_low": 0.5, "auc_high": 0.6}
    pd.DataFrame([real]).to_csv(tables / "real_films.csv", index=False)
    [ours] = paper_tables.paper_tables()["zero_shot"].query("corpus == 'nih'").to_dict("records")
    assert (ours["origin"], ours["reports"]) == ("ours, real films", "sentences written from labels")
    assert (ours["setting"], ours["value"]) == ("25 % of pairs, preset demo", 0.55)


def test_controls_of_grounding_stand_beside_their_measures_where_rows_have_them(tables: Path) -> None:
    path = tables / "limited_pairing.csv"
    assert paper_tables.paper_tables()["grounding_controls"].empty, "rows of older code"
    assert missing_rows("grounding_controls")[0].endswith("older code, without controls of grounding: lgdea (3)")
    values = {name: number / 10 for number, name in enumerate(paper_tables.CONTROLLED)}
    pd.concat([pd.read_csv(path), pd.DataFrame([row("clip", 1, 0.5) | values])]).to_csv(path, index=False)
    found = paper_tables.paper_tables()["grounding_controls"]
    assert set(found["system"]) == {"clip"}
    assert found["measure"].tolist()[:3] == ["CNR (signed)", "CNR (signed), films swapped", "CNR (signed), image-blind"]
    own = [values[name] - values[f"{name}_swapped"] for name in GROUNDED]
    assert found["value"].tolist() == pytest.approx([*values.values(), *own])
    assert found["measure"].tolist()[-3:] == list(paper_tables.OWN_NAMES.values())
    assert missing_rows("grounding_controls")[0].endswith("controls of grounding: lgdea (3)"), "clip has them"
    assert len(figure_paper_table(found, caption_of("grounding_controls")).axes) == len(GROUNDED)  # with their controls
    pd.DataFrame([row("clip", 1, 0.5, variant="shuffled pairs") | values]).to_csv(tables / "ablation.csv", index=False)
    assert set(paper_tables.paper_tables()["grounding_controls"]["system"]) == {"clip", "clip: shuffled pairs"}


def test_a_row_of_panels_is_as_tall_as_its_own_systems_need() -> None:
    one = {"backbone": "", "setting": "", "value": 0.5, "sd": 0.0, "origin": "ours, phantom"}
    sizes = {"many": 12, "few": 2}
    rows = [one | {"corpus": corpus, "measure": measure, "system": str(number)}
            for corpus, count in sizes.items() for measure in "abc" for number in range(count)]  # fmt: skip
    figure = figure_paper_table(pd.DataFrame(rows))
    figure.draw_without_rendering()
    many, few = (figure.axes[place].get_position().height for place in (0, 3))
    assert many > 2 * few, "one height for all before"


def test_what_the_film_adds_has_the_deviation_of_the_differences(tables: Path) -> None:
    values = dict.fromkeys(paper_tables.CONTROLLED, 0.0)
    rows = [row("clip", seed, 0.5) | values | {"cnr": own, "cnr_swapped": swapped}
            for seed, own, swapped in ((1, 1.0, 0.8), (2, 0.6, 0.4))]  # fmt: skip
    pd.DataFrame(rows).to_csv(tables / "limited_pairing.csv", index=False)
    found = paper_tables.paper_tables()["grounding_controls"].set_index("measure")
    assert found.loc[paper_tables.OWN_NAMES["cnr_own"], ["value", "sd"]].tolist() == pytest.approx([0.2, 0.0])
    assert found.loc["CNR (signed)", "sd"] > 0.2


def test_ablations_stand_beside_the_method_as_it_is_at_their_ratio(tables: Path) -> None:
    rows = [row("lgdea", seed, 0.5, variant="shuffled pairs") for seed in (1, 2)]
    pd.DataFrame(rows).to_csv(tables / "ablation.csv", index=False)
    ours = paper_tables.paper_tables()["ablation"].query("origin != @PUBLISHED and measure == 'zero-shot AUC'")
    assert ours[["system", "value"]].values.tolist() == [["lgdea: as it is", 0.75], ["lgdea: shuffled pairs", 0.5]]


def test_probe_rows_are_read_where_they_are(tables: Path) -> None:
    rows = [("nih", "asg", "frozen", 0.01, seed, "demo", auc) for seed, auc in ((1, 0.6), (2, 0.7))]
    rows.append(("nih", "asg", "fine-tuned", 0.01, 1, "demo", 0.9))  # another protocol than the published rows'
    rows.append(("nih", "asg", "frozen", 0.01, 1, "small", 0.8))  # another tower
    write_probes(tables, rows)
    ours = paper_tables.paper_tables()["classification"].query("origin != @PUBLISHED")
    assert set(ours["origin"]) == {"ours, real films"}
    assert set(ours["setting"]) == {"1 % of labels"}
    assert dict(zip(ours["backbone"], ours["value"], strict=True)) == {
        "small ResNet, preset demo": 0.65,
        "resnet-50, preset small": 0.8,
    }


def test_terms_of_asg_have_a_table_of_their_own(tables: Path) -> None:
    methods = ("random", "clip", "asg ita + irl", "asg", "asg shuffled regions")
    rows = [("phantom", method, "frozen", 0.1, 1, "demo", 0.6) for method in methods]
    write_probes(tables, rows)
    found = {name: table.query("origin != @PUBLISHED") for name, table in paper_tables.paper_tables().items()}
    assert set(found["classification"]["system"]) == {"random", "clip", "asg"}
    parts = ["ASG: IRA", "ASG: IRA + IRL", "ASG: IRA + ARSA + IRL + ERL", "ASG: all, shuffled regions"]
    assert found["asg_ablation"]["system"].tolist() == parts
    published = set(read_published().query("table == 'asg_ablation'")["system"])
    assert {"ASG: IRA", "ASG: IRA + IRL"} < published, "ours bear the names of the paper's"


def test_towers_that_a_table_lacks_are_named_with_what_makes_them(tables: Path) -> None:
    rows = [("phantom", method, "frozen", 0.1, 1, "demo", 0.6) for method in ("random", "clip", "asg", "lgdea")]
    write_probes(tables, rows)
    [line] = missing_rows("classification")
    assert line.startswith("figures/tables/asg_linear_probe.csv lacks lgdea+asg; first ")
    assert any("lacks asg ita + arsa, asg ita + irl, asg ita" in line for line in missing_rows("asg_ablation"))


def test_towers_join_the_tasks_but_for_trainings_that_stand_there_already(tables: Path) -> None:
    pairing = pd.read_csv(tables / "limited_pairing.csv")
    again = [pairing, pd.DataFrame([row("clip", 1, 0.5, ratio=1.0)])]
    pd.concat(again).to_csv(tables / "limited_pairing.csv", index=False)
    towers = [row("asg", 1, 0.7, ratio=1.0), row("asg", 1, 0.1, 1.0, "ita + irl")]
    towers += [row(method, 1, 0.9, ratio=1.0) for method in ("clip", "lgdea")]  # lgdea stands there at 5 and 10 % only
    pd.DataFrame(towers).to_csv(tables / "asg.csv", index=False)
    ours = paper_tables.paper_tables()["zero_shot"].query("origin != @PUBLISHED and setting.str.startswith('100 %')")
    assert ours[["system", "value"]].values.tolist() == [["clip", 0.5], ["asg", 0.7], ["lgdea", 0.9]]


def test_a_measure_no_row_has_is_left_out() -> None:
    table = pd.DataFrame([row("clip", 1, float("nan"))])
    assert experiment_rows(table, "limited_pairing", ("auc", "miou", "cnr"))["measure"].tolist() == ["CNR (signed)"]


def test_parts_are_named_by_what_their_rows_share() -> None:
    table = pd.DataFrame([row("clip", 1, 0.5), row("lgdea", 1, 0.5), row("clip", 1, 0.5, ratio=1.0)])
    parts = paper_tables.parted(table, "preset", "paired_ratio")
    assert {name: len(rows) for name, rows in parts.items()} == {"demo-0.1": 2, "demo-1.0": 1}
    assert paper_tables.parted(table.iloc[:0], "preset", "paired_ratio") == {}


def test_every_world_has_an_origin_and_an_unknown_one_is_refused() -> None:
    assert all(origin_of(world).startswith("ours, ") for world in WORLDS)
    assert origin_of("covid_chestxray+nih+openi") == "ours, real films"
    assert {origin_of("painted_nih"), origin_of("painted")} == {"ours, painted on real films"}
    assert (origin_of("openi"), origin_of("mismatched")) == ("ours, real films", "ours, phantom")
    with pytest.raises(ValueError, match="expected a world of experiments or a corpus, got 'mars'"):
        origin_of("mars")
