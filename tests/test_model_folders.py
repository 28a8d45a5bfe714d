"""Model folders that are cut, hostile or of another version: a message that names the file; nothing is built."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from planted import PlantedWorld, config
from safetensors.torch import load_file, save_file

from lgdea_core.config import METHODS
from lgdea_core.figures import overlay
from lgdea_core.grounding import load
from lgdea_core.model import ADDED


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"), "asg")


def save(folder: Path, method: str) -> Path:
    for part in PlantedWorld(8).model(config(method)):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.mark.parametrize("method", METHODS)
def test_what_every_method_saves_is_read_again(method: str, tmp_path: Path) -> None:
    model, processor = load(save(tmp_path, method), device="cpu")
    assert processor.image_size == model.config.image_size


def change(path: Path, name: str, value: Any) -> None:
    values = json.loads(path.read_text())
    place = values
    *above, last = name.split(".")
    for part in above:
        place = place[part]
    place[last] = value
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("text.num_hidden_layers", 10**9, "text.num_hidden_layers is 1000000000, at most 256"),
        ("image.depths", [1, 1, 1, 10**8], "image.depths is 100000000, at most 256"),
        ("image.hidden_sizes", [8] * 1000, "image.hidden_sizes lists 1000 values"),
        ("text.hidden_size", 10**12, "text.hidden_size is 1000000000000, at most"),
        ("text.vocab_size", 10**10, "text.vocab_size is 10000000000, at most"),
        ("text.vocab_size", 1_999_999, "has shape"),
        ("image_size", 10**6, "image_size is 1000000, at most 4096"),
        ("dim", 1_000_000, "has shape"),
        ("lesions", -1, "config.json: no model can be built|has shape"),
        ("dim", "wide", "config.json: dim is 'wide'"),
        ("image", [], r"config.json: image is \[\]"),
        ("temperature", float("nan"), "temperature is nan"),
        ("auto_map", {"AutoModel": "evil.Model"}, r"fields too many: \['auto_map'\]"),
        ("image.evil", 1, "unknown fields of image: evil"),
        ("objective.evil", 1, "unknown fields of objective: evil"),
        ("text.model_type", "evil", "text is no configuration of a transformers model"),
        ("method", "evil", "method must be one of"),
    ],
)
def test_a_configuration_is_bounded_and_checked_before_anything_is_built(
    name: str, value: Any, message: str, folder: Path
) -> None:
    change(folder / "config.json", name, value)
    with pytest.raises(ValueError, match=message):
        load(folder, device="cpu")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "processor_config.json", "tokenizer.json"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9])
def test_a_cut_file_is_named(name: str, kept: float, folder: Path) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ValueError, match=str(folder)):
        load(folder, device="cpu")


def test_weights_of_another_shape_and_weights_that_are_no_numbers_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = load_file(path)
    save_file(whole | {"prototypes": whole["prototypes"][:-1].clone()}, path)
    with pytest.raises(ValueError, match=r"model\.safetensors: prototypes has shape"):
        load(folder, device="cpu")
    save_file({name: value for name, value in whole.items() if name != "prototypes"}, path)
    with pytest.raises(ValueError, match="prototypes has shape none"):
        load(folder, device="cpu")
    save_file(whole | {"prototypes": torch.full_like(whole["prototypes"], float("nan"))}, path)
    with pytest.raises(ValueError, match="weights prototypes are not finite"):
        load(folder, device="cpu")


def test_a_folder_of_the_first_version_is_read_as_it_was_meant(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({name: x for name, x in values.items() if name not in ADDED}))
    assert load(folder, device="cpu")[0].config.dual == {}


def test_a_processor_of_another_model_is_refused(folder: Path) -> None:
    change(folder / "processor_config.json", "image_size", 96)
    with pytest.raises(ValueError, match="the processor makes images of 96 pixels"):
        load(folder, device="cpu")
    change(folder / "processor_config.json", "max_tokens", 10**9)
    with pytest.raises(ValueError, match="max_tokens is 1000000000, at most"):
        load(folder, device="cpu")
    change(folder / "processor_config.json", "evil", 1)
    with pytest.raises(ValueError, match="evil"):
        load(folder, device="cpu")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        overlay.main(list(arguments))
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message.count("\n") == 1
    return message


def test_the_command_ends_a_users_mistake_with_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = tmp_path / "film.png"
    Image.fromarray(np.eye(40, dtype=np.uint8)).save(film)
    rest = ("--model", str(folder), "--output", str(tmp_path / "out"), "--device", "cpu")
    assert "no model there" in refused(capsys, str(film), "edema", "--model", str(tmp_path))
    assert "nowhere.png" in refused(capsys, str(tmp_path / "nowhere.png"), "edema", *rest)
    assert "must not be empty" in refused(capsys, str(film), " ", *rest)
    assert "cuda:99" in refused(capsys, str(film), "edema", *rest[:-1], "cuda:99")
    assert "film.png" in refused(capsys, str(film), "edema", *rest[:2], "--output", str(film))
    assert "required" in refused(capsys, str(film))
    (folder / "model.safetensors").write_bytes(b"cut")
    assert "model.safetensors" in refused(capsys, str(film), "edema", *rest)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_hostile_configuration_costs_no_memory(folder: Path) -> None:
    change(folder / "config.json", "text.hidden_size", 1_999_998)
    change(folder / "config.json", "text.num_attention_heads", 2)
    code = f"""
import resource
from lgdea_core.grounding import load
from lgdea_core.model import ADDED
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load({str(folder)!r}, device="cpu")
except ValueError as error:
    assert "has shape" in str(error), error
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 500_000, "kilobytes"
