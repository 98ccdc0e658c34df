"""`resnext evaluate` and `resnext compare`, run as people run them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from resnext import modelfile, testing
from resnext.cli import app
from resnext.evaluation import compare as comparison
from resnext.evaluation import report, run
from resnext.evaluation.journal import Journal, count_kept

Captured = pytest.CaptureFixture[str]
FAST = ("--precision", "fp32", "--threads", "1")
needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None,
    reason="matplotlib is not installed: resnext[evaluate]",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("photos")
    return testing.write_pictures(top, classes=("Cat", "dog"), per_class=6)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(testing.write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors"))


def evaluate(*words: str | Path, tiny: str) -> int:
    return app.run(["evaluate", *map(str, words), "-m", tiny, *FAST])


def shown(text: str) -> dict[str, str]:
    lines = (line.split("  ", 1) for line in text.splitlines() if "  " in line)
    return {name.strip(): value.strip() for name, value in lines}


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_help_has_an_example(command: str, capsys: Captured) -> None:
    assert app.run([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Example:  resnext {command} " in out
    assert "--restrict" in out


def test_a_summary_without_any_file(
    photos: Path, tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    assert evaluate(photos, tiny=tiny) == 0
    captured = capsys.readouterr()
    facts = shown(captured.out)
    assert facts["data"] == "12 pictures in 2 classes"
    assert facts["matched"] == "1 by name but for case and punctuation, 1 by name"
    assert facts["top-1"].startswith("50.00 % (")
    assert facts["error"] == "50.00 / 0.00 (top-1 / top-5, %)"
    assert "report" not in facts
    assert captured.err == ""
    assert list(tmp_path.iterdir()) == []


def test_json_is_one_line(photos: Path, tiny: str, capsys: Captured) -> None:
    assert evaluate(photos, "--json", tiny=tiny) == 0
    [line] = capsys.readouterr().out.splitlines()
    figures = json.loads(line)
    assert figures["top1"]["pictures"] == 12
    assert figures["model"]["precision"] == "fp32"


def test_a_bad_picture_is_named_and_the_exit_code_is_3(
    photos: Path, tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    data = shutil.copytree(photos, tmp_path / "val")
    (data / "dog" / "0001.png").write_bytes(b"no picture")
    assert evaluate(tmp_path, tiny=tiny) == 3
    captured = capsys.readouterr()
    assert "note: the part `val` is evaluated" in captured.err
    assert "left out: dog/0001.png: is not a picture" in captured.err
    assert shown(captured.out)["data"] == "11 pictures in 2 classes; 1 cannot be read"
    assert evaluate(tmp_path, "--ignore-errors", tiny=tiny) == 0
    assert evaluate(tmp_path, "--ignore-errors", "--json", tiny=tiny) == 0
    assert app.run(["compare", tiny, tiny, str(tmp_path), *FAST, "--ignore-errors"]) == 0


@pytest.mark.slow
@needs_extra
def test_a_report_and_a_calibrated_model_and_nothing_replaced(
    photos: Path, tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    model = tmp_path / "sure.safetensors"
    words = (photos, "-o", tmp_path / "out", "--calibrate", model)
    assert evaluate(*words, tiny=tiny) == 0
    facts = shown(capsys.readouterr().out)
    assert facts["report"] == str(tmp_path / "out" / report.REPORT)
    assert facts["model"] == "tiny (openvino, fp32)"
    assert facts["written"].startswith(f"{model}: temperature ")
    assert modelfile.verify(model)[0].temperature != 1
    assert evaluate(*words, tiny=tiny) == 2
    assert "--force" in capsys.readouterr().err
    assert evaluate(*words[:3], tiny=str(model)) == 2
    assert "another run" in capsys.readouterr().err


def test_pictures_that_finetune_learned_from_are_noted(
    photos: Path, tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: resnext[finetune]")
    tuned, sure = (str(tmp_path / f"{name}.safetensors") for name in ("tuned", "sure"))
    learn = ["finetune", "--head-only", "-m", tiny, "--precision", "fp32", str(photos)]
    assert app.run([*learn, "-o", tuned]) == 0
    capsys.readouterr()
    assert evaluate(photos, tiny=tuned) == 0
    error = capsys.readouterr().err
    assert "note: the model has learned from 10 of these 12 pictures" in error
    assert "calibrated" not in error
    assert evaluate(photos, "--calibrate", sure, tiny=tuned) == 0
    assert f"note: {sure} is calibrated on pictures" in capsys.readouterr().err
    others = testing.write_pictures(tmp_path / "new", classes=("Cat", "dog"), per_class=2, seed=9)
    assert evaluate(others, tiny=sure) == 0
    assert capsys.readouterr().err == ""


def test_restricted_answers_do_not_calibrate(
    photos: Path, tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "sure.safetensors"
    assert evaluate(photos, "--restrict", "--calibrate", path, tiny=tiny) == 2
    assert "leave out --restrict or --calibrate" in capsys.readouterr().err
    assert not path.exists()


@needs_extra
@pytest.mark.parametrize(
    ("stop", "code"), [(KeyboardInterrupt, app.INTERRUPTED), (app._Terminated, app.TERMINATED)]
)
def test_a_stopped_run_says_what_is_kept(
    stop: type[BaseException], code: int, photos: Path, tiny: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Captured,
) -> None:  # fmt: skip
    append = Journal.append

    def stopped(self: Any, *rows: Any, **options: Any) -> None:
        if self.done:
            raise stop
        append(self, *rows, **options)

    monkeypatch.setattr(run, "_GROUP_SECONDS", 0.0)
    monkeypatch.setattr(Journal, "append", stopped)
    out = tmp_path / "report"
    assert evaluate(photos, "-o", out, tiny=tiny) == code
    first = count_kept(out / "journal")
    assert 0 < first < 12
    kept = f"stopped early; what was computed is in {out / 'journal'} of {first} pictures; the same"
    assert capsys.readouterr().err == f"{kept} command goes on from there\n"
    assert evaluate(photos, "-o", out, "--force", tiny=tiny) == code  # and again would begin anew
    assert capsys.readouterr().err == f"{kept} command without --force goes on from there\n"
    assert evaluate(photos, tiny=tiny) == code
    assert capsys.readouterr().err == "stopped early; nothing is kept without a folder for it: -o\n"


@needs_extra
def test_a_stopped_comparison_says_what_is_kept(
    photos: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "_judge", stopped)
    out = tmp_path / "both"
    assert app.run(["compare", tiny, tiny, str(photos), "-o", str(out)]) == app.INTERRUPTED
    assert capsys.readouterr().err == (
        f"stopped early; what was computed is in {out / 'journal-a'} of 12 pictures,"
        f" {out / 'journal-b'} of 12 pictures; the same command goes on from there\n"
    )


def test_without_the_extra_the_message_says_so_before_the_work(
    photos: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "resnext.evaluation.plots", raising=False)
    assert evaluate(photos, "-o", tmp_path / "out", tiny=tiny) == 5
    assert "pip install 'resnext[evaluate]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere"], 3, "nowhere"),
        (["photos", "--map", "none.csv"], 3, "none.csv"),
        (["photos", "--index", "x.index"], 2, "-o"),
        (["photos", "--calibrate", "x.pth"], 2, "x.pth"),
        (["bird"], 3, "'bird'"),
        ([], 2, "DATA"),
    ],
)
def test_mistakes_are_named(
    words: list[str], code: int, message: str, photos: Path, tiny: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Captured,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(photos)
    testing.write_pictures(tmp_path / "bird", classes=("bird", "dog"), per_class=1)
    assert evaluate(*words, tiny=tiny) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_nothing_is_written_into_the_data(
    command: str, photos: Path, tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: resnext[evaluate]")
    data = shutil.copytree(photos, tmp_path / "val")
    table = tmp_path / "t.csv"
    table.write_text("path,label\nval/dog/0001.png,dog\nval/Cat/0001.png,Cat\n")
    models = ["-m", tiny] if command == "evaluate" else [tiny, tiny]
    before = sorted(tmp_path.rglob("*"))
    for source, folder in (
        (data, data / "report"), (data, data / "Cat"), (tmp_path, tmp_path / "report"),
        (table, data / "Cat" / "report"),
    ):  # fmt: skip
        places = [str(source), "-o", str(folder)]
        given = [*places, *models] if command == "evaluate" else [*models, *places]
        assert app.run([command, *given, *FAST]) == 2
        error = capsys.readouterr().err
        assert "nothing is changed" in error and "choose another folder with -o" in error
    assert sorted(tmp_path.rglob("*")) == before
    places = [str(table), "-o", str(data / "report")]  # where no picture is, and nothing is sought
    given = [*places, *models] if command == "evaluate" else [*models, *places]
    assert app.run([command, *given, *FAST]) == 0


def test_data_that_cannot_be_used_at_all_are_no_pictures_to_ignore(
    tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    assert evaluate(tmp_path, "--ignore-errors", tiny=tiny) == 3
    assert "has no folders; expected one for each class" in capsys.readouterr().err
    assert app.run(["--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "3 input: some pictures failed (the rest are done), or none could be used" in out


def test_compare_says_which_is_better(
    photos: Path, tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    other = testing.write_tiny_model(tmp_path / "b.safetensors", seed=4)
    words = ["compare", tiny, str(other), str(photos), *FAST]
    assert app.run([*words, "-o", str(tmp_path / "out")]) == 0
    facts = shown(capsys.readouterr().out)
    assert facts["data"] == "12 pictures in 2 classes"
    assert "points" in facts["B - A, top-1"]
    assert facts["report"] == str(tmp_path / "out" / "compare.html")
    assert app.run([*words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["a"]["top1"]["pictures"] == 12
    assert figures["speed"]["pictures"] == 12
