"""The command that evaluates published checkpoints: a tiny one through the three tasks."""

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from planted import PlantedWorld, config, planted_inputs
from published_folders import save_tiny

from lgdea_core.config import RunConfig
from lgdea_core.data.corpora import load_corpus
from lgdea_core.evaluation import checkpoint
from lgdea_core.evaluation.exam import CONTROLS
from lgdea_core.runs import inputs as stages


@pytest.mark.slow
def test_the_command_writes_the_table_of_all_three_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = str(save_tiny("siglip", tmp_path / "siglip"))
    monkeypatch.setattr(stages, "project_root", lambda: tmp_path)
    monkeypatch.setattr(checkpoint, "load_corpus_of", lambda data, seed: planted_corpus(tmp_path, data.image_size))
    options = ["--preset", "ci", "--prompts", "chexzero", "--device", "cpu", "--json", str(tmp_path / "out.json")]
    checkpoint.main([folder, *options, "--controls"])
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["model"], found["prompts"]) == (folder, "chexzero")
    assert {row["task"] for row in found["metrics"]} == {"zero-shot", "grounding", "retrieval"}
    pools = {row["metric"]: row["pool"] for row in found["metrics"]}
    assert (pools["auc"], pools["recall_at_5_text_to_image"], pools["precision_at_10"]) == (None, 84, 84)
    assert pools["recall_at_10"] < 84  # distinct texts
    estimates = [row["estimate"] for row in found["metrics"] if row["metric"] == "auc" and row["finding"] == "macro"]
    assert 0 < estimates[0] < 1
    metrics = {row["metric"] for row in found["metrics"] if row["task"] == "zero-shot"}
    # no thresholds of validation, all studies being test studies; each shows one finding, hence the argmax
    assert metrics == {"auc", "auc_global", "ap", "f1_oracle", "accuracy_oracle", "accuracy_argmax"}
    page = pd.read_csv(tmp_path / "controls.csv")
    assert set(page["control"]) == set(CONTROLS)
    assert page.loc[page["control"] == "lungs_blanked", "note"].str.contains("84 images: no outline of the lungs").all()
    assert "recall@10" in (tmp_path / "controls.txt").read_text()
    assert {path.suffix for path in tmp_path.glob("controls.*")} == {".csv", ".txt", ".png", ".pdf"}
    with pytest.raises(ValueError, match="no prompt set 'clip'"):
        checkpoint.evaluate_checkpoint("nowhere", RunConfig.from_preset("ci"), prompts="clip")
    with pytest.raises(SystemExit):
        checkpoint.main(["--help"])
    assert "hub id, or a folder" in capsys.readouterr().out


def test_a_model_of_ours_is_loaded_from_its_folder(tmp_path: Path) -> None:
    model, processor = PlantedWorld(6, seed=0).model(config("gloria"))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, read = checkpoint.load_any(str(tmp_path))
    assert loaded.config.method == "gloria"
    assert read.image_size == processor.image_size


def planted_corpus(root: Path, side: int) -> object:
    """A folder corpus of the planted world, all of it test studies."""
    assert side == 32  # the checkpoint's, not the preset's
    planted = planted_inputs(PlantedWorld(84, seed=2))
    (root / "images").mkdir(exist_ok=True)
    for name, image in zip(planted.store.image_ids, planted.store.pixels, strict=True):
        Image.fromarray(image).save(root / f"images/{name}.png")
    studies, labels, boxes = planted.corpus.studies, planted.corpus.labels, planted.corpus.boxes
    studies.assign(image="images/" + studies["study_id"] + ".png").to_csv(root / "studies.csv", index=False)
    labels.to_csv(root / "labels.csv", index=False)
    columns = ["study_id", "phrase", "finding", "x_min", "y_min", "x_max", "y_max"]
    boxes[columns].to_csv(root / "boxes.csv", index=False)
    return load_corpus("folder", root)
