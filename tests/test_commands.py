"""Every command ends its user's mistake with one line and exit status 2, before the work it would be lost on."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lgdea_core.command import check_target
from lgdea_core.evaluation import checkpoint
from lgdea_core.evaluation.extraction import evaluate
from lgdea_core.experiments import __main__ as experiments
from lgdea_core.figures import overlay
from lgdea_core.figures.overlay import map_name


def refused(capsys: pytest.CaptureFixture[str], main: Callable[..., object], arguments: Sequence[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message.count("\n") == 1
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (checkpoint.main, ["nowhere", "--json", "{}/missing/out.json"], "make it first"),
        (checkpoint.main, ["nowhere", "--json", "{}"], "is a folder; give the name of a file"),
        (checkpoint.main, ["nowhere", "--json", "{}/out.json", "--seed", "-1"], "seed must lie between"),
        (checkpoint.main, ["nowhere", "--json", "{}/out.json", "--preset", "dmeo"], "invalid choice: 'dmeo'"),
        (checkpoint.main, ["{}", "--json", "{}/out.json", "--preset", "ci"], "{}"),
        (evaluate.main, ["--root", "{}", "--json", "{}"], "is a folder; give the name of a file"),
        (evaluate.main, ["--root", "{}/missing", "--json", "{}/out.json"], "{}/missing"),
        (overlay.main, ["{}/film.png", "edema", "--model", "{}"], "film.png"),
    ],
)
def test_a_mistake_is_one_line(
    main: Callable[..., object],
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = [argument.replace("{}", str(tmp_path)) for argument in arguments]
    assert message.replace("{}", str(tmp_path)) in refused(capsys, main, arguments)


def test_the_experiments_refuse_in_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["experiments", "limited_pairing", "--workers", "0", "--plan"])
    assert "--workers must be at least 1" in refused(capsys, lambda _: experiments.main(), ())


def test_a_target_is_checked_without_being_made(tmp_path: Path) -> None:
    assert check_target(tmp_path / "out.json") == tmp_path / "out.json"
    assert not (tmp_path / "out.json").exists()


def test_names_of_maps_are_built_and_never_too_long(tmp_path: Path) -> None:
    long = "small left pleural effusion " * 20
    assert len(long) > 540
    assert map_name(Path("1.2.826.0.1.png"), "no edema") == "1.2.826.0.1_no_edema"
    assert map_name(Path("1.2.826.0.1"), "edema") == "1.2.826.0.1_edema"
    names = {
        map_name(Path(film), phrase)
        for film in ("1.2.826.0.1.png", f"{'x' * 200}.png", f"{'x' * 201}.png")
        for phrase in ("edema", "no edema", long, f"{long}too", "?", "!", "ü" * 300)
    }
    assert len(names) == 21
    for name in names:
        (tmp_path / f".{name}.png").touch()
