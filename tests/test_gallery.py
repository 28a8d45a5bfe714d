"""What notebooks show beside figures: small worlds, live losses, what is missing, and measurements put together."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from IPython.display import Markdown

from lgdea_core import figures
from lgdea_core.config import RunConfig
from lgdea_core.evaluation import summary
from lgdea_core.evaluation.harness import HEADLINES, METRIC_COLUMNS
from lgdea_core.figures import gallery, live
from lgdea_core.figures.style import Figure
from lgdea_core.runs.artifacts import Run


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_every_entry_but_zero_is_written_and_keeps_its_sign() -> None:
    figure = figures.figure_entries({"one": np.array([[0.5, 0.0], [-1.25, 0.04]])}, ["a", "b"], ["x", "y"])
    assert [text for text in texts(figure) if text] == [".50", "-1.25", ".04"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]


def test_a_small_graph_has_an_arc_for_each_edge_and_a_line_for_each_relation() -> None:
    image, report = np.zeros((3, 3)), np.zeros((2, 2))
    image[0, 1] = image[1, 0] = 1.0
    relations = np.array([[1.0, 0.5], [0.0, 0.0], [0.0, 0.0]])
    figure = figures.figure_small_graphs(image, report, {"seed": relations}, ["i0", "i1", "i2"], ["r0", "r1"])
    [axis] = figure.axes
    arcs = [line for line in axis.lines if len(line.get_xdata()) > 2]
    shown = [line.get_linewidth() for line in axis.lines if len(line.get_xdata()) == 2]
    assert len(arcs) == 1
    assert sorted(shown, reverse=True)[:2] == [4.0, 2.0]
    assert max(shown[2:]) == 0
    assert texts(figure) == ["i0", "i1", "i2", "r0", "r1"]


def test_rows_that_a_training_logs_are_drawn_by_name_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[pd.DataFrame] = []
    monkeypatch.setattr(live, "figure_history", lambda rows, columns: drawn.append(rows))
    monkeypatch.setattr(live, "display", lambda *_, **__: type("Handle", (), {"update": lambda self, figure: None})())
    logger = logging.getLogger("lgdea")
    before = logger.level
    with live.LiveHistory() as drawing:
        for name in ("model", "baseline"):
            drawing.begin(name)
            logger.info("%s", json.dumps({"step": 2, "loss": 1.5}))
        logger.info("evidence: 3 phrases")
        logger.info("%s", json.dumps({"step": 4, "other": 1.0}))
    assert drawn[-1].to_dict("list") == {"variant": ["model", "baseline"], "step": [2, 2], "loss": [1.5, 1.5]}
    assert len(drawn) == 2, "the first row at once, and the end"
    assert logger.level == before
    assert drawing not in logger.handlers


def test_what_has_nothing_to_draw_says_so_and_leaves_no_file(tmp_path: Path) -> None:
    run = Run(folder=tmp_path, config=RunConfig.from_preset("ci"))
    said = gallery.keep_drawn(run, "05_comparison", figures.figure_metric_comparison, pd.DataFrame(), "note")
    assert isinstance(said, Markdown)
    assert "05_comparison" in said.data
    assert not (tmp_path / "figures").exists()
    found = gallery.keep_drawn(run, "entries", figures.figure_entries, {"m": np.eye(2)}, ["a", "b"], ["x", "y"])
    assert isinstance(found, Figure)
    assert (tmp_path / "figures/entries.png").is_file()


def test_one_of_several_figures_is_shown_and_the_menu_changes_it() -> None:
    drawn = {name: figures.figure_entries({name: np.eye(2)}, ["a", "b"], ["x", "y"]) for name in ("one", "another")}
    shown = gallery.one_of(drawn)
    controls, _, picture = shown.children
    [menu] = controls.children[:1]
    before = picture.value
    menu.value = "another"
    assert before[:4] == picture.value[:4] == b"\x89PNG"
    assert picture.value != before
    assert isinstance(gallery.one_of({}), Markdown)


def metrics(**estimates: float) -> pd.DataFrame:
    rows = [
        {"variant": name, "task": "zero-shot", "metric": "auc", "finding": "macro", "estimate": value, "low": 0.0,
         "high": 1.0, "n": 5}
        for name, value in estimates.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_gain_is_of_measures_that_have_a_value() -> None:
    wide = summary.side_by_side(metrics(model=0.8, baseline=0.7), ["model", "baseline", "model_shuffled"])
    assert list(wide.columns) == list(HEADLINES.values())
    found = summary.gains(wide, "model", ["baseline"])
    assert found.columns.tolist() == ["zero-shot AUC"]
    assert found.loc["model minus baseline", "zero-shot AUC"] == pytest.approx(0.1)
    assert summary.gains(wide.loc[["model"]], "model", ["baseline"]).empty
    nothing = summary.side_by_side(metrics(model=1.0).iloc[:0], ["model", "baseline"])
    assert summary.gains(nothing, "model", ["baseline"]).shape == (1, 0)


def test_regions_are_compared_with_the_chance_of_their_measure() -> None:
    columns = ["variant", "task", "metric", "finding", "estimate", "low", "high", "n"]
    rows = [
        ("asg", "regions", "region_at_1", "all", 0.6, 0.5, 0.7, 9),
        ("asg", "regions", "region_at_1_chance", "all", 0.1, 0.1, 0.1, 9),
        ("asg", "tags", "auc", "macro", 0.8, 0.7, 0.9, 9),
        ("asg", "tags", "auc", "edema", 0.9, 0.7, 1.0, 9),
    ]
    found = summary.region_headlines(pd.DataFrame(rows, columns=columns))
    assert found[["method", "metric", "estimate", "chance"]].values.tolist() == [
        ["asg", "region@1", 0.6, 0.1],
        ["asg", "tag AUC", 0.8, 0.5],
    ]


def test_without_a_report_there_is_nothing_to_compare() -> None:
    nothing = pd.DataFrame(columns=["variant", *METRIC_COLUMNS])
    shown = summary.region_headlines(nothing)
    wide = shown.pivot_table("estimate", "method", "metric", sort=False).reindex(["asg", "untrained"])
    assert shown.empty
    assert summary.gains(wide, "asg", ["untrained"]).shape == (1, 0)


def test_own_runs_are_those_that_were_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGDEA_RUNS", str(tmp_path))
    assert summary.own_runs().empty
    for name in ("mine", "begun"):
        (tmp_path / name).mkdir()
        RunConfig.from_preset("ci", seed=4).save(tmp_path / name / "config.json")
    tables = {"model": metrics(model=0.8).drop(columns="variant")}
    (tmp_path / "mine/metrics.json").write_text(json.dumps(summary.plain_rows(tables)))
    [row] = summary.own_runs().to_dict("records")
    assert (row["run"], row["seed"], row["paired_ratio"], row["zero-shot AUC"]) == ("mine", 4, 0.1, 0.8)
