"""Configuration: presets, one file a run, and refusal of what makes no sense."""

from pathlib import Path

import pytest

from lgdea_core.config import METHODS, PRESETS, GraphConfig, RunConfig, TrainConfig, replace_fields
from lgdea_core.methods.gloria import GLoRIAConfig
from lgdea_core.methods.mgca import MGCAConfig


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_and_survives_its_file(preset: str, tmp_path: Path) -> None:
    config = RunConfig.from_preset(preset)
    config.save(tmp_path / "config.json")
    assert RunConfig.load(tmp_path / "config.json") == config
    assert config.preset == preset


def test_preset_comes_from_the_environment_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGDEA_PRESET", "ci")
    assert RunConfig.from_preset().data.studies == 300
    monkeypatch.delenv("LGDEA_PRESET")
    assert RunConfig.from_preset().preset == "demo"


def test_changes_reach_the_part_that_has_the_field() -> None:
    config = RunConfig.from_preset("ci", paired_ratio=0.3, alpha=0.5, method="clip", dim=64)
    assert (config.data.paired_ratio, config.graph.alpha, config.method, config.model.dim) == (0.3, 0.5, "clip", 64)
    assert replace_fields(config, seed=4).seed == 4
    assert config.seed == 0


@pytest.mark.parametrize("method", METHODS)
def test_every_field_name_belongs_to_one_part(method: str) -> None:
    config = RunConfig(method=method)
    parts = (config.data, config.model, config.graph, config.loss, config.objective, config.train)
    names = [name for part in parts for name in vars(part)]
    assert len(names) == len(set(names))
    assert config.weights == {"ita": config.loss.ita} | vars(config.objective)


def test_another_method_has_its_own_defaults_and_its_own_fields() -> None:
    config = RunConfig.from_preset("ci", method="gloria", local=0.5)
    assert config.objective == GLoRIAConfig(local=0.5)
    assert replace_fields(config, method="mgca").objective == MGCAConfig()
    assert replace_fields(config, method="lgdea", local=0.25).weights["local"] == 0.25
    with pytest.raises(ValueError, match="no configuration field is called 'local'"):
        replace_fields(config, method="clip", local=0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "demoo"}, "preset must be one of ci, demo, small, paper, got 'demoo'"),
        ({"method": "clop"}, "method must be one of clip, gloria, .*, lgdea, lgdea.asg, got 'clop'"),
        ({"paird_ratio": 0.1}, "no configuration field is called 'paird_ratio'"),
        ({"paired_ratio": 1.5}, "paired_ratio must lie between 0 and 1, got 1.5"),
        ({"alpha": 1.0}, "alpha must lie strictly between 0 and 1, got 1.0"),
        ({"graph_exponent": -0.5}, "graph_exponent must lie between 0 and 1000000.0, got -0.5"),
        ({"affinity_sharpness": -2.0}, "affinity_sharpness must lie between 0 and 1000000.0, got -2.0"),
        ({"batch_size": 1}, "batch_size must lie between 2"),
        ({"local": -1.0}, "local must lie between 0"),
        ({"image_size": 8}, "image_size must lie between 32"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig.from_preset(**({"preset": "ci"} | changes))


def test_a_file_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    RunConfig().save(path)
    path.write_text(path.read_text().replace('"alpha"', '"alfa"'))
    with pytest.raises(ValueError, match=r"config\.json: .*'alfa'; another version wrote it, start a new run"):
        RunConfig.load(path)


def test_all_steps_count_into_the_budget() -> None:
    assert TrainConfig(text_steps=1, pair_steps=2, relation_steps=4).total_steps == 7


def test_parts_are_frozen() -> None:
    with pytest.raises(AttributeError):
        GraphConfig().alpha = 0.1
