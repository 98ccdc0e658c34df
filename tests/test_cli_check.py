"""`resnext check`, run as people run it: table, JSON, files, exit codes."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext import testing
from resnext.cli import app

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    for number in range(10):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        pixels.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def test_a_clean_set_exits_0(data: Path, capsys: Captured) -> None:
    assert app.run(["check", "photos", "--quick"]) == 0
    captured = capsys.readouterr()
    assert re.match(r"10 pictures, 0 problems, [\d.]+ s; labels were not judged\n", captured.out)
    assert captured.out.splitlines()[1:] == [
        "photos-check/report.html", "photos-check/fixes.jsonl",
    ]  # fmt: skip
    assert captured.err == "note: labels were not judged: that needs a model\n"
    assert Path("photos-check/fixes.jsonl").read_text() == ""


def test_pictures_in_no_class_are_checked_as_well(data: Path, capsys: Captured) -> None:
    for path in sorted(data.rglob("*.png")):
        path.rename(data / path.name)
    assert app.run(["check", "photos", "--quick"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1] == "photos-check/report.html"
    assert "there are no classes" in captured.err


def test_problems_exit_3_and_are_written(data: Path, capsys: Captured) -> None:
    shutil.copy(data / "a" / "0.png", data / "a" / "copy.png")
    (data / "b" / "bad.jpg").write_bytes(b"no picture")
    assert app.run(["check", str(data), "--quick", "-o", "out", "--json"]) == 3
    summary = json.loads(capsys.readouterr().out)
    assert summary["counts"] == {"unreadable": 1, "duplicate": 1}
    assert (summary["problems"], summary["pictures"], summary["classes"]) == (2, 12, 2)
    assert summary["report"] == "out/report.html"
    lines = Path(summary["fixes"]).read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["b/bad.jpg", "a/copy.png"]
    assert app.run(["check", str(data), "--quick", "-o", "out"]) == 3
    assert "unreadable      1  Files that cannot be read" in capsys.readouterr().out
    ignored = ["--ignore", "unreadable", "--ignore", "duplicate"]
    assert app.run(["check", str(data), "--quick", *ignored]) == 0


def test_a_model_judges_labels_and_its_features_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: resnext[finetune]")
    monkeypatch.chdir(tmp_path)
    data = testing.write_pictures(tmp_path / "data", classes=("red", "green"), per_class=12)
    shutil.move(data / "red" / "0003.png", data / "green" / "wrong.png")
    tiny = str(testing.write_tiny_model(tmp_path / "tiny.safetensors"))
    command = ["check", "data", "-m", tiny, "--precision", "fp32", "--ignore", "near-duplicate"]
    assert app.run([*command, "--json"]) == 3
    summary = json.loads(capsys.readouterr().out)
    assert (summary["counts"], summary["labels_judged"]) == ({"likely-mislabel": 1}, True)
    [line] = Path("data-check/fixes.jsonl").read_text().splitlines()
    finding = json.loads(line)
    assert (finding["path"], finding["action"]) == ("green/wrong.png", "relabel:red")
    assert app.run(["cache"]) == 0
    assert "features" in capsys.readouterr().out


def test_without_scikit_learn_the_rest_is_checked(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    for name in ("doctor.mislabels", "training.head"):
        monkeypatch.delitem(sys.modules, f"resnext.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    tiny = str(testing.write_tiny_model(tmp_path / "tiny.safetensors"))
    assert app.run(["check", "photos", "-m", tiny, "--precision", "fp32"]) == 0
    captured = capsys.readouterr()
    assert "labels were not judged: `scikit-learn` is not installed; the extra `finetune`" in (
        captured.err
    )
    assert "pip install 'resnext[finetune]'" in captured.err
    # What one may read alone does not look like a clean set.
    assert captured.out.splitlines()[0].endswith(" s; labels were not judged")
    assert "Labels were not judged." in Path("photos-check/report.html").read_text("utf-8")
    assert app.run(["check", "photos", "-m", tiny, "--precision", "fp32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels_judged"] is False
    assert app.run(["check", "photos", "--quick", "--no-classes"]) == 0
    assert "judged" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 3, "there is no such file"),
        (["empty"], 3, "there are no pictures"),
        (["photos", "-o", "photos/check"], 2, "in which nothing is changed"),
        (["photos", "--ignore", "leaks"], 2, "did you mean leak?"),
        (["photos", "-m", "no-such-model"], 4, "no-such-model"),
        (["photos", "-o", "no/where"], 5, "there is no folder"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], code: int, message: str, data: Path, capsys: Captured
) -> None:
    Path("empty").mkdir()
    quick = [] if "-m" in arguments else ["--quick"]
    assert app.run(["check", *arguments, *quick]) == code
    assert message in capsys.readouterr().err
    assert not list(Path().glob("*-check"))


def test_results_never_go_among_the_pictures_of_a_table(data: Path, capsys: Captured) -> None:
    names = [path.relative_to(data) for path in sorted(data.rglob("*.png"))]
    rows = [f"{name},{name.parent}" for name in names]
    (data / "t.csv").write_text("\n".join(["path,label", *rows]))
    assert app.run(["check", "photos/t.csv", "--quick", "-o", "photos/a/check"]) == 2
    assert "among the pictures" in capsys.readouterr().err
    assert not (data / "check").exists()
    assert app.run(["check", "photos/t.csv", "--quick"]) == 0
    assert Path("t.csv-check").is_dir()


def test_help_names_the_exit_codes(capsys: Captured) -> None:
    assert app.run(["check", "--help"]) == 0
    out = capsys.readouterr().out
    assert "Example:  resnext check" in out
    assert "exit code is 0 if there is no problem, 3 if there are" in " ".join(out.split())
