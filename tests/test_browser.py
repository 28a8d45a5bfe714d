"""Notebooks in a real browser: JupyterLab opens their copies, runs all cells, and controls change the picture.

Needs Chromium (Debian: `apt-get install chromium`); without it these tests are skipped. Screenshots are kept in
`data/test-runs/browser/`.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))

import lab  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENS = ROOT / "data/test-runs/browser"
LONGEST = 400
"""seconds that a notebook may take on a busy machine"""
SETTINGS = '{"windowingMode": "none"}'
"""All cells stay in the page, so that a test finds those that are not in view."""
RING = """import numpy as np
from scipy import sparse
from lgdea_core.figures.widgets import SeedSpread, propagation_explorer

nodes = np.arange(8)
ring = sparse.csr_array((np.roll(np.eye(8), 1, 0) + np.roll(np.eye(8), -1, 0)) / 2)
places = np.stack([np.cos(nodes / 8 * 2 * np.pi), np.sin(nodes / 8 * 2 * np.pi)], axis=1).astype(np.float32)
seeds = np.array([[0, 0], [3, 5]])
propagation_explorer(SeedSpread(
    image_points=places, report_points=places, seed_pairs=seeds, image_propagator=ring, report_propagator=ring,
    alpha=0.8,
))"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server of `make lab` sees: a data folder with the copies, and a notebook of one explorer."""
    folder = tmp_path_factory.mktemp("opened") / "data"
    lab.refresh_copies(folder=folder / "lab")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)"}}
    nbformat.write(new_notebook(cells=[new_code_cell(RING)], metadata=kernel), folder / "lab/ring.ipynb")
    return folder


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[str]:
    """Address of a JupyterLab on the copies, with its token."""
    settings = data.parent / "settings/@jupyterlab/notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text(SETTINGS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    own = {"LGDEA_RUNS": str(data / "runs"), "LGDEA_PRESET": "ci", "JUPYTERLAB_SETTINGS_DIR": str(settings.parents[1])}
    paths = {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive", "IPYTHONDIR": str(data.parent / "ipython")}
    options = [f"--ServerApp.port={port}", f"--IdentityProvider.token={token}", "--no-browser", "--allow-root"]
    command = [sys.executable, "-m", "jupyterlab", *lab.server_options(data), *options]
    with (data.parent / "server.log").open("w") as log:
        process = subprocess.Popen(command, env={**os.environ, **own, **paths}, stdout=log, stderr=log)
        try:
            end, address = time.monotonic() + 240, f"http://127.0.0.1:{port}"
            while True:
                try:
                    urllib.request.urlopen(f"{address}/api", timeout=5)
                    break
                except (urllib.error.URLError, TimeoutError):
                    assert process.poll() is None, "JupyterLab does not start"
                    assert time.monotonic() < end, "JupyterLab does not answer"
                    time.sleep(0.5)
            yield f"{address}/lab/tree/lab/{{}}?reset&token={token}"
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture
def page(request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page whose last state is kept as a picture."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1400, "height": 1000})
        opened.set_default_timeout(180_000)
        yield opened
        SCREENS.mkdir(parents=True, exist_ok=True)
        opened.screenshot(path=SCREENS / f"{request.node.name}.png")
        browser.close()


def run_all(page: Page, address: str, copy: Path) -> list[nbformat.NotebookNode]:
    """Open a copy, run all its cells, save it, and return its cells of code."""
    page.goto(address.format(copy.name))
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
    end = time.monotonic() + LONGEST
    while True:
        page.keyboard.press("Control+s")
        time.sleep(1)
        cells = [cell for cell in nbformat.read(copy, as_version=4).cells if cell.cell_type == "code"]
        if all(cell.execution_count for cell in cells) or not no_errors(cells):
            return cells
        assert time.monotonic() < end, "not all cells were run and saved"


def no_errors(cells: list[nbformat.NotebookNode]) -> bool:
    return not any(output.output_type == "error" for cell in cells for output in cell.outputs)


def expect_a_new_picture(page: Page, act: Callable[[], None]) -> None:
    """Do something to an explorer's controls, and wait until its picture is another one."""
    picture = page.locator("img.widget-image").first
    before = picture.get_attribute("src")
    act()
    expect(picture).not_to_have_attribute("src", before or "", timeout=180_000)


def test_the_idea_runs_in_the_browser(page: Page, server: str, data: Path) -> None:
    cells = run_all(page, server, data / "lab/00_idea.ipynb")
    assert no_errors(cells)
    assert page.locator(".jp-Notebook img").count() > 2
    assert page.locator("mjx-container").count() > 5, "equations are typeset"


def test_a_slider_changes_the_picture_and_a_saved_notebook_reopens_with_it(page: Page, server: str, data: Path) -> None:
    assert no_errors(run_all(page, server, data / "lab/ring.ipynb"))
    slider = page.locator(".widget-slider [role='slider']").last
    expect_a_new_picture(page, lambda: slider.press("ArrowRight"))
    page.keyboard.press("Control+s")
    end = time.monotonic() + 120
    while "widgets" not in nbformat.read(data / "lab/ring.ipynb", as_version=4).metadata:
        assert time.monotonic() < end, "the widgets' state was not saved"
        time.sleep(0.5)
    shutil.copy(data / "lab/ring.ipynb", data / "lab/again.ipynb")  # no kernel has run this one
    page.goto(server.format("again.ipynb"))
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    picture = page.locator("img.widget-image").first
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 300


def test_a_phrase_changes_the_map(page: Page, server: str, data: Path) -> None:
    cells = run_all(page, server, data / "lab/05_attention_maps.ipynb")
    assert no_errors(cells)
    box = page.locator(".widget-text input").first
    box.fill("large right pneumothorax")
    expect_a_new_picture(page, lambda: box.press("Enter"))
