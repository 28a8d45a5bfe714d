"""The installed package: what it declares, what it brings, and that the light core needs no extra."""

import fnmatch
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from test_repository import SOURCES, imports, requirements

from lgdea_core import __main__ as console

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMES = {"PIL": "pillow", "cv2": "opencv-python-headless", "sklearn": "scikit-learn", "faiss": "faiss-cpu",
         "pytorch_grad_cam": "grad-cam"}  # fmt: skip
"""Import names that differ from their package's."""


def declared(lines: list[str]) -> set[str]:
    return {re.split(r"[<>=\[ ]", line)[0].lower() for line in lines} - {"lgdea"}


CORE = declared(PROJECT["project"]["dependencies"])
EXTRAS = set().union(*map(declared, PROJECT["project"]["optional-dependencies"].values()))


def test_every_import_is_declared_once_and_every_declaration_is_pinned() -> None:
    sources = [source for path, source in SOURCES.items() if path.is_relative_to(ROOT / "lgdea_core")]
    third_party = set().union(*map(imports, sources)) - set(sys.stdlib_module_names) - {"lgdea_core"}
    assert {NAMES.get(name, name.replace("_", "-")).lower() for name in third_party} - CORE - EXTRAS == set()
    assert (CORE | EXTRAS) - requirements("requirements.txt") == set()
    assert not CORE & EXTRAS


def test_all_files_beside_the_code_are_package_data() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["lgdea_core"]
    files = [path.relative_to(ROOT / "lgdea_core") for path in (ROOT / "lgdea_core").rglob("*") if path.is_file()]
    beside = [path for path in files if path.suffix != ".py" and "__pycache__" not in path.parts]
    assert {"lexicon.json", "py.typed", "published.csv", "model.safetensors"} <= {path.name for path in beside}
    lost = [
        path for path in beside if not any(fnmatch.fnmatch(path.as_posix(), p.removeprefix("**/")) for p in patterns)
    ]
    assert lost == []


@pytest.mark.parametrize("name", console.COMMANDS)
def test_a_command_of_the_console_is_the_modules_own(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["lgdea", name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        console.main()
    assert not stopped.value.code
    assert capsys.readouterr().out.startswith(f"usage: lgdea {name} [-h]")


def test_the_console_lists_its_commands_and_ends_mistakes_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["lgdea"])
    console.main()
    shown = capsys.readouterr().out
    assert [name for name in console.COMMANDS if f"\n  {name} " not in shown] == []
    monkeypatch.setattr("sys.argv", ["lgdea", "--version"])
    console.main()
    assert capsys.readouterr().out == f"lgdea {metadata.version('lgdea')}\n"
    monkeypatch.setattr("sys.argv", ["lgdea", "grund"])
    with pytest.raises(SystemExit) as stopped:
        console.main()
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("lgdea: error: no command 'grund'; there are ground, extract")
    assert message.count("\n") == 1


LIGHT = """
import sys, time
for name in {blocked}:
    sys.modules[name] = None
began = time.process_time()
import lgdea_core
assert time.process_time() - began < 0.2
import numpy as np
from PIL import Image
from lgdea_core import LGDEAModel, RunConfig, load
from lgdea_core.model import build_model
for part in build_model(RunConfig.from_preset("ci", method="clip"), ["a small left effusion"]):
    part.save_pretrained("model")
Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save("film.png")
from lgdea_core.__main__ import main
for named in ([], ["--model", "model"]):
    sys.argv = ["lgdea", "ground", "film.png", "effusion", "--output", "out", "--device", "cpu", *named]
    main()
"""


@pytest.mark.slow
def test_the_core_loads_a_model_and_grounds_a_phrase_without_any_extra(tmp_path: Path) -> None:
    back = {package: name for name, package in NAMES.items()}
    blocked = sorted(back.get(name, name.replace("-", "_")) for name in EXTRAS)
    code = LIGHT.format(blocked=blocked)
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".npy", ".png", ".pdf"}
