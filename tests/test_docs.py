"""What the README and the book promise: current tables, commands, names and links, worked examples."""

import importlib.util
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from example_corpus import load as load_example_corpus
from example_extractor import RatioExtractor
from example_metric import energy
from PIL import Image

from lgdea_core.config import PRESETS
from lgdea_core.evaluation import grounding
from lgdea_core.evidence import extract
from lgdea_core.experiments import docs
from lgdea_core.experiments.__main__ import _parser

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))

import run  # noqa: E402  (notebooks/run.py)

README = ROOT / "README.md"
PAGES = docs.pages()
EVERY_PAGE = [*PAGES, ROOT / "docs/notebooks/about.md", ROOT / "data/README.md", ROOT / "figures/README.md"]
AIMS = {"0.84", "0.85", "0.92"}
"""Numbers that pages of results may state: what was aimed at, not what was measured."""


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def prose(page: Path) -> str:
    """A page without its generated tables, code, tables and HTML."""
    text = docs.BLOCK.sub("", page.read_text())
    text = re.sub(r"^(```|:::|\$\$).*?^\1.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(\||<).*$|<!--.*?-->", "", text, flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "`code`", text))
    return re.sub(r"^(#+ |[-*] |> |\d+\. )", "\n", text, flags=re.MULTILINE)


@cache
def commands() -> list[tuple[str, str]]:
    """Every command line of a page, in code of its own or within a sentence."""
    found = []
    for page in EVERY_PAGE:
        text = page.read_text()
        fenced = re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [line.split("   # ")[0] for block in fenced for line in re.sub(r"\\\n *", "", block).splitlines()]
        spans = [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
        found += [(name(page), line) for line in (*lines, *spans) if re.match(r"(python|make) [\w/.-]", line)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_table_says_what_the_committed_rows_say(page: Path) -> None:
    assert page.read_text() == docs.rendered(page), "python -m lgdea_core.experiments docs"


def test_a_table_follows_its_rows_and_an_unknown_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before\n<!-- table: committed tables -->\nold\n<!-- end -->\nafter 0.5")
    new = docs.rendered(page)
    assert new.startswith("Before\n<!-- table: committed tables -->\n| table | rows | command |\n| --- |")
    assert new.endswith("|\n<!-- end -->\nafter 0.5")
    rows = pd.DataFrame({"world": "phantom", "method": "clip", "variant": "", "paired_ratio": 0.1, "preset": "demo",
                         "seed": [1, 2], "auc": [0.6, 0.7]})  # fmt: skip
    monkeypatch.setattr("lgdea_core.experiments.tables.project_root", lambda: tmp_path)
    assert docs.SHOWN["few pairs"]().empty
    (tmp_path / "figures/tables").mkdir(parents=True)
    rows.to_csv(tmp_path / "figures/tables/limited_pairing.csv", index=False)
    shown = docs.SHOWN["few pairs"]()
    assert shown.to_dict("records") == [{"known pairs": "10 %", "method": "CLIP", "zero-shot AUC": "0.650 ± 0.071"}]
    page.write_text("<!-- table: nothing -->\n<!-- end -->")
    with pytest.raises(ValueError, match="no table 'nothing'"):
        docs.rendered(page)


def test_the_readme_is_short_and_says_what_the_package_is_not_for() -> None:
    assert len(README.read_text().splitlines()) <= 200
    assert "not for clinical use" in README.read_text().lower()


@pytest.mark.parametrize("page", [README, *(page for page in PAGES if page.parent.name == "results")], ids=name)
def test_no_result_is_typed(page: Path) -> None:
    numbers = set(re.findall(r"(?<![\d.:/])\d+\.\d+(?![\d.]*\d)", re.sub(r"arXiv:\S+|Python \S+", "", prose(page))))
    assert numbers - AIMS == set(), "put a table there, and its name into lgdea_core/experiments/docs.py"


def test_every_link_leads_to_a_file() -> None:
    for page in EVERY_PAGE:
        targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)|src=\"([^\"]+)\"", page.read_text())
        local = [first or second for first, second in targets if "://" not in (first or second)]
        assert [target for target in local if not (page.parent / target).exists()] == [], name(page)


def test_the_pages_name_code_that_exists() -> None:
    """`module.py:name`: the module is one of the package and defines the name."""
    places = [place for page in EVERY_PAGE for place in re.findall(r"`([\w/]+\.py):([\w.]+)`", page.read_text())]
    assert len(places) > 60
    for module, defined in places:
        source = (ROOT / "lgdea_core" / module).read_text()
        for part in defined.split("."):
            assert re.search(rf"\b(def|class) {part}\b", source), f"{module}:{defined}"


def test_the_method_has_all_equations_each_with_a_mark_and_its_code() -> None:
    text = (ROOT / "docs/method.md").read_text()
    assert re.findall(r"\(eq-(\d+)\)", text) == [str(number) for number in range(1, 19)]
    for number in range(1, 19):
        start = text.rindex("\n**", 0, text.index(f"(eq-{number})"))
        head = text[start : text.index("$$", start)]
        assert re.match(r"\n\*\*[\d and]+\((P|R|P, the name)\)", head), f"equation {number} has no mark"
        assert re.search(r"`[\w/]+\.py:[\w.]+`", head), f"equation {number} has no code"


def test_every_command_is_one_that_the_code_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    makefile = (ROOT / "Makefile").read_text()
    monkeypatch.setenv("LGDEA_DATA", "data")
    declared = {path: run.declared_parameters(path) for path in run.select_notebooks(ROOT / "notebooks")}
    assert len(commands()) > 40
    for page, command in commands():
        words = shlex.split(command)
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"{page}: {command}"
            assert all(f"$({word.partition('=')[0]})" in makefile for word in words[2:]), f"{page}: {command}"
        elif words[1] == "notebooks/run.py":
            run.plan(run.command_line().parse_args(words[2:]), declared)
        elif words[1] == "-m" and words[2] == "lgdea_core.experiments":
            if words[3:] != ["--help"] and words[3:]:
                _parser().parse_args(words[3:])
        else:
            assert words[1] == "-m" or (ROOT / words[1]).is_file(), f"{page}: {command}"
            source = command_source(words)
            options = [word for word in words if word.startswith("--")]
            assert all(f'"{option}"' in source for option in options), f"{page}: {command}"


def command_source(words: list[str]) -> str:
    """The source of a script, or of a module and the one that it hands its command line to."""
    if words[1] != "-m":
        return (ROOT / words[1]).read_text()
    found = importlib.util.find_spec(words[2])
    assert found is not None, words[2]
    source = Path(found.origin).read_text()
    handed = re.search(r'run_module\("([\w.]+)"', source)
    return Path(importlib.util.find_spec(handed[1]).origin).read_text() if handed else source


@pytest.mark.parametrize("example", sorted((ROOT / "tests").glob("example_*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_stands_on_a_page(example: Path) -> None:
    assert len(example.read_text().splitlines()) <= 40
    shown = "".join(page.read_text() for page in PAGES)
    assert f"```python\n{example.read_text()}```" in shown


def test_the_lines_of_the_readme_ground_a_phrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    [lines] = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    names: dict = {}
    exec(compile(lines, "README.md", "exec"), names)
    assert names["similarity"].shape == (40, 60)
    assert np.isnan(names["similarity"][:, 0]).all()  # outside the square crop
    assert np.isfinite(names["similarity"][:, 30]).all()


def test_the_example_of_a_corpus_loads_and_splits_by_patient(tmp_path: Path) -> None:
    files = [f"train/PNEUMONIA/person{n}_{kind}_{n}.jpeg" for n in range(8) for kind in ("bacteria", "virus")]
    files += [f"test/NORMAL/IM-{n:04}-0001.jpeg" for n in range(4)] + ["val/NORMAL/NORMAL2-IM-1440-0001.jpeg"]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 48), 90, dtype=np.uint8)).save(tmp_path / file)
    (tmp_path / "train/PNEUMONIA/broken.jpeg").write_bytes(b"no image")
    corpus = load_example_corpus(tmp_path)
    assert len(corpus.studies) == len(corpus.images) == len(files)
    assert corpus.labels["value"].sum() == 16
    assert dict(corpus.exclusions) == {"unreadable film": 1}
    assert corpus.studies.groupby("patient_id")["split"].nunique().max() == 1
    assert set(corpus.studies["split"]) == {"train", "val", "test"}
    assert corpus.studies["patient_id"].nunique() == 8 + 5


def test_the_example_of_a_metric_scores_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(grounding.METRICS, "energy", energy)
    mask = np.zeros((4, 4), dtype=bool)
    mask[:2, :2] = True
    flat, negative, unseen = np.ones((4, 4)), -np.ones((4, 4)), np.where(mask, 1.0, np.nan)
    scores = grounding.score_maps([flat, negative, unseen], [mask] * 3, ["energy", "pointing"])
    assert scores["energy"].tolist() == [0.25, 0.0, 1.0]


def test_the_example_of_an_extractor_is_read_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "make_extractor", lambda name: {"ratio": RatioExtractor()}[name])
    reports = [
        "HISTORY: CTR 0.70. FINDINGS: Cardiothoracic ratio is 0.62. Lungs are clear.",
        "FINDINGS: CTR: .48",
        "IMPRESSION: Normal.",
    ]
    studies = pd.DataFrame({"study_id": ["a", "b", "c"], "report": reports})
    rows, stats = extract.extract_evidence(studies, "ratio", progress=False)
    assert rows[["report_id", "status", "phrase"]].values.tolist() == [
        ["a", "present", "Cardiothoracic ratio is 0.62"],
        ["b", "absent", "CTR: .48"],
    ]
    assert stats.rejected == {}


@pytest.mark.slow
def test_the_example_for_many_gpus_trains_and_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process; that two train the same weights is a test of the training loop."""
    few = PRESETS["ci"]["train"].__class__(text_steps=0, pair_steps=2, relation_steps=0, batch_size=8, log_every=1)
    small = PRESETS["ci"]["data"].__class__(studies=40, image_size=32)
    monkeypatch.setitem(PRESETS, "ci", PRESETS["ci"] | {"train": few, "data": small})
    monkeypatch.setattr("lgdea_core.runs.inputs.project_root", lambda: tmp_path)
    monkeypatch.setenv("LGDEA_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(sys, "argv", ["train.py", "ci", "clip"])
    runpy.run_path(str(ROOT / "tests/example_torchrun.py"))
    assert (tmp_path / "runs/clip-ci-torchrun/model/model.safetensors").is_file()


@pytest.mark.slow
def test_the_book_builds_without_a_warning_with_all_notebooks_as_chapters(tmp_path: Path) -> None:
    """Links, equations, code and figures of every page; the notebooks here are the committed ones, without outputs."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("run"))
    for part in ("lgdea_core", "figures", "data", "tests", "README.md"):
        (tmp_path / part).symlink_to(ROOT / part)
    chapters = tmp_path / "docs/notebooks/run"
    chapters.mkdir()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(path, chapters)
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run([*build, tmp_path / "docs", tmp_path / "html"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    method = (tmp_path / "html/method.html").read_text()
    assert [f"({number})" in method for number in (1, 18)] == [True, True]
    assert method.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') > 18
    assert "https://cdn" not in method  # it is read offline
    assert "05 Attention maps" in (tmp_path / "html/index.html").read_text()


def test_the_book_sets_the_subscript_of_an_accented_symbol_beside_it_and_that_of_a_sum_below() -> None:
    mathml = runpy.run_path(str(ROOT / "docs" / "conf.py"))["mathml"]
    accented = re.sub(r"\s", "", mathml(r"\bar{Q}_R"))
    assert '<msub><moveraccent="true"><mi>Q</mi><mostretchy="false">ˉ</mo></mover><mi>R</mi></msub>' in accented
    summed = re.sub(r"\s", "", mathml(r"\sum_{l=1}^{L} x_l", as_block=True))
    assert "<munderover>" in summed
    assert "<msub><mi>x</mi><mi>l</mi></msub>" in summed
