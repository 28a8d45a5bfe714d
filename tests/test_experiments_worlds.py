"""Worlds of the experiments: what pools they give, where they lie, and what is said where they cannot be made."""

from pathlib import Path

import pytest

from lgdea_core.config import RunConfig, replace_fields
from lgdea_core.experiments import worlds
from lgdea_core.experiments.plans import limited_pairing
from lgdea_core.experiments.worlds import GENERATED, REAL, WORLDS, build_world, world_inputs
from lgdea_core.runs import inputs as stages


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (worlds, stages):
        monkeypatch.setattr(module, "project_root", lambda: tmp_path)


def small(world: str, ratio: float) -> RunConfig:
    config = limited_pairing(seeds=(3,), ratios=(ratio,), methods=("lgdea",), world=world, preset="ci")[0].config
    return replace_fields(config, studies=60, image_size=32)


def test_every_world_is_generated_or_real_and_says_what_it_is() -> None:
    assert set(GENERATED) | set(REAL) == set(WORLDS)
    assert not set(GENERATED) & set(REAL)
    assert "painted into real normal films" in WORLDS["painted"].films
    assert WORLDS["nih"].reports == "sentences written from labels"
    assert all((WORLDS[name].films == "real") == (name in REAL) for name in WORLDS)
    for name in WORLDS:
        assert {cell.config.data.corpus for cell in limited_pairing(world=name)} == {WORLDS[name].corpus}


def test_pools_that_do_not_match_take_their_pairs_from_the_ratio_and_hide_none(tmp_path: Path) -> None:
    few, many = (world_inputs("mismatched", small("mismatched", ratio)) for ratio in (0.1, 0.25))
    ordinary = world_inputs("phantom", small("phantom", 0.1))
    for inputs in (few, many):
        assert inputs.pools.hidden_pairs.empty
        assert len(inputs.pools.image_ids) == len(ordinary.pools.image_ids)
    assert abs(len(few.pools.seed_pairs) - len(ordinary.pools.seed_pairs)) <= 1
    assert len(many.pools.seed_pairs) > len(few.pools.seed_pairs)
    assert len(ordinary.pools.hidden_pairs)
    built = {folder.name for folder in (tmp_path / "data").iterdir()}
    assert built == {"phantom-60x32-seed3", "cache"}  # one phantom serves both worlds and all ratios


def test_where_all_pairs_are_known_pools_cannot_differ() -> None:
    assert 1 not in {cell.config.data.paired_ratio for cell in limited_pairing(world="mismatched")}
    with pytest.raises(ValueError, match=r"world 'mismatched' differs .* take ratios below 1"):
        limited_pairing(world="mismatched", ratios=(1.0,))


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LGDEA_DATA", raising=False)
    for name in ("painted", *REAL):
        with pytest.raises(ValueError, match="needs the folder that holds its data; set `data` or LGDEA_DATA"):
            build_world(name, limited_pairing(world=name, preset="ci")[0].config)
    with pytest.raises(ValueError, match="unknown world 'moon'; known: phantom, easy"):
        limited_pairing(world="moon")
