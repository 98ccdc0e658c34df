"""`resnext finetune`, run as people run it: summary, messages, exit codes, files."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: resnext[finetune]")

from resnext import modelfile, testing, weights
from resnext.cli import app
from resnext.cli import finetune as command
from resnext.engines import tuning
from resnext.training import recipes

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("photos")
    return testing.write_pictures(top, classes=("red", "green"), per_class=10)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    return str(testing.write_tiny_model(path))


def run(*arguments: str | Path, tiny: str) -> int:
    words = [str(word) for word in arguments]
    return app.run(["finetune", "--head-only", "-m", tiny, "--precision", "fp32", *words])


def test_a_folder_becomes_a_model_that_the_next_command_uses(
    photos: Path, tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "my pets.safetensors"
    assert run(photos, "-o", path, tiny=tiny) == 0
    captured = capsys.readouterr()
    lines = dict(line.split("  ", 1) for line in captured.out.splitlines())
    shown = {name.strip(): value.strip() for name, value in lines.items()}
    assert shown["classes"] == "2"
    assert shown["held-out top-1"] == "100.00 %, 4 of 4 pictures"
    assert shown["license"] == "apache-2.0"
    assert shown["next"] == f"resnext predict photo.jpg -m '{path}'"
    assert captured.err == ""
    picture = str(photos / "green" / "0001.png")
    assert app.run(["predict", picture, "-m", str(path), "-k", "1"]) == 0
    assert "green" in capsys.readouterr().out
    assert app.run(["info", str(path)]) == 0
    assert "head-only" in capsys.readouterr().out


def test_json_is_the_last_line(photos: Path, tiny: str, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "a.safetensors"
    options = ("--json", "--val-share", "0", "--seed", "3", "--class-weights", "balanced")
    assert run(photos, "-o", path, *options, tiny=tiny) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    document, sha256 = modelfile.verify(path)
    assert summary["file"] == str(path)
    assert summary["sha256"] == sha256
    assert summary["class_names"] == ["green", "red"]
    assert summary["metrics"] == document.metrics
    assert (summary["num_train"], summary["num_held_out"]) == (20, 0)
    assert summary["temperature"] == document.temperature
    assert document.provenance["seed"] == 3
    assert document.provenance["class_weights"] == "balanced"


def test_a_bad_picture_is_named_and_the_file_written(
    photos: Path, tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    data = shutil.copytree(photos, tmp_path / "data")
    (data / "red" / "bad.jpg").write_bytes(b"no picture")
    path = tmp_path / "a.safetensors"
    assert run(data, "-o", path, tiny=tiny) == 3
    captured = capsys.readouterr()
    assert "left out: red/bad.jpg: is not a picture" in captured.err
    assert "1 that cannot be read" in captured.out
    modelfile.verify(path)


def test_what_is_there_is_replaced_by_force_only(
    photos: Path, tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("precious")
    assert run(photos, "-o", path, tiny=tiny) == 2
    assert "--force" in capsys.readouterr().err
    assert path.read_text() == "precious"
    assert run(photos, "-o", path, "--force", tiny=tiny) == 0
    modelfile.verify(path)


def test_classes_are_added_with_and_without_data(
    photos: Path, tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    testing.write_pictures(tmp_path / "more", classes=("a", "b", "blue"), per_class=10)
    blue, first = tmp_path / "more" / "blue", tmp_path / "first.safetensors"
    second, third = tmp_path / "second.safetensors", tmp_path / "third.safetensors"
    assert run(photos, "-o", first, tiny=tiny) == 0
    assert run("-o", second, "--add-class", "blue", blue, tiny=str(first)) == 0
    assert run(photos, "-o", third, "--add-class", "blue", blue, tiny=tiny) == 0
    for path in (second, third):
        assert modelfile.verify(path)[0].labels.class_names == ("green", "red", "blue")
    capsys.readouterr()
    assert app.run(["cache"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "features" in line]
    assert app.run(["cache", "--remove", line.split()[1]]) == 0
    assert run("-o", second, "--force", "--add-class", "b", blue, tiny=str(first)) == 3
    assert "--add-class b" in capsys.readouterr().err


def test_a_class_is_added_though_another_engine_is_the_fastest_by_now(
    photos: Path, tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert run(photos, "-o", first, tiny=tiny) == 0
    fastest = tuning.Choice(
        engine="onnxruntime", precision="fp32", batch_size=1, images_per_s=1.0, gpu=False
    )
    tuning.remember(weights.locate(first), [fastest])
    testing.write_pictures(tmp_path, classes=("blue",), per_class=10)
    words = ["-m", str(first), "--add-class", "blue", str(tmp_path / "blue"), "-o", str(second)]
    assert app.run(["finetune", *words]) == 0, capsys.readouterr().err
    assert modelfile.verify(second)[0].provenance["engine"] == "openvino"


def test_options_that_are_not_given_are_those_the_file_was_made_with(
    photos: Path, tiny: str, tmp_path: Path
) -> None:
    testing.write_pictures(tmp_path, classes=("blue",), per_class=10)
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    made = ("--seed", "5", "--val-share", "0.4", "--class-weights", "balanced")
    assert run(photos, "-o", first, *made, tiny=tiny) == 0
    for given, expected in (
        ((), (5, "balanced", 6)),
        (("--seed", "0", "--val-share", "0.2", "--class-weights", "none"), (0, "none", 8)),
    ):
        added = ("--add-class", "blue", tmp_path / "blue", "--force")
        assert run("-o", second, *added, *given, tiny=str(first)) == 0
        document, _ = modelfile.verify(second)
        how = document.provenance["seed"], document.provenance["class_weights"]
        assert (*how, document.metrics["class_learned"][2]) == expected


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 3, "nowhere"),
        (["one"], 3, "there is one class"),
        ([], 2, "nothing to learn"),
        (["photos", "--val-share", "1"], 2, "--val-share"),
        (["photos", "--full"], 2, "--head-only and --full exclude each other"),
        (["photos", "--seed", "-1"], 2, "--seed"),
        (["photos", "--class-weights", "some"], 2, "--class-weights"),
        (["photos", "--lr", "auto"], 2, "--lr and --set change how all layers learn"),
        (["photos", "--set", "optim.lr=1"], 2, "--lr and --set change how all layers learn"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str],
    code: int,
    message: str,
    photos: Path,
    tiny: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(photos)
    shutil.copytree(photos / "red", tmp_path / "one" / "red")
    assert run(*arguments, "-o", "a.safetensors", tiny=tiny) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a.safetensors").exists()


def test_without_scikit_learn_the_extra_is_named(
    photos: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    for name in ("finetune", "head"):
        monkeypatch.delitem(sys.modules, f"resnext.training.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    assert run(photos, "-o", tmp_path / "a.safetensors", tiny=tiny) == 5
    assert "pip install 'resnext[finetune]'" in capsys.readouterr().err


def test_one_of_several_processes_says_so(
    photos: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(photos, "-o", tmp_path / "a.safetensors", tiny=tiny) == 2
    assert "is fitted by one process" in capsys.readouterr().err


def test_without_torch_only_the_head_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda _name: None)
    assert not command._has_cuda()


def test_full_goes_to_the_trainer(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    given: dict[str, Any] = {}

    def tune(data: str, output: Path, **options: Any) -> Any:
        if options["seed"] == 9:
            raise Stopped("stopped at step 3")
        given.update(options, data=data, output=output)
        bad = ("bad.jpg: is empty",) if options["seed"] == 5 else ()
        return SimpleNamespace(
            to_json=lambda: {"file": str(output)}, problems=bad, is_first=options["seed"] != 5
        )

    class Stopped(Exception):
        exit_code = 143

    module = SimpleNamespace(tune_all=tune, Stopped=Stopped)
    monkeypatch.setitem(sys.modules, "resnext.training.refine", module)
    path = tmp_path / "a.safetensors"
    arguments = ["finetune", str(photos), "-o", str(path), "--full", "--json", "--seed", "4"]
    assert app.run(arguments) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(path)}
    assert (given["data"], given["output"], given["seed"]) == (str(photos), path, 4)
    assert (given["settings"], given["find_lr"]) == ([], False)
    arguments.remove("--full")  # settings are for all layers only
    assert app.run([*arguments, "--lr", "0.2", "--set", "loss.teacher=big"]) == 0
    assert (given["settings"], given["find_lr"]) == (["optim.lr=0.2", "loss.teacher=big"], False)
    assert app.run([*arguments, "--lr", "auto"]) == 0
    assert (given["settings"], given["find_lr"]) == ([], True)
    arguments.append("--full")
    capsys.readouterr()
    assert app.run([*arguments, "--add-class", "a", "b"]) == 2
    assert "--full needs DATA" in capsys.readouterr().err
    assert app.run([*arguments, "--engine", "openvino"]) == 2
    assert "--engine is openvino" in capsys.readouterr().err
    assert app.run([*arguments, "--seed", "5"]) == 3
    captured = capsys.readouterr()
    assert captured.out + captured.err == "", "of several processes the first one speaks"
    assert app.run([*arguments, "--seed", "9"]) == 143
    assert "stopped at step 3; the same command goes on" in capsys.readouterr().err


def test_the_help_names_the_batch_of_the_recipe(capsys: Captured) -> None:
    batch_size = recipes.get("finetune").config.optim.reference_batch_size
    assert app.run(["finetune", "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert f"With --full: learning rate at batch {batch_size}, or auto" in words


def test_the_options_do_not_grow_unseen() -> None:
    assert [option.name for option in command.finetune.params] == [
        "data", "output", "model", "head_only", "full", "added", "val_share", "seed",
        "class_weights", "lr", "settings", "engine", "precision", "threads", "offline",
        "ignore_errors", "force", "as_json",
    ]  # fmt: skip
