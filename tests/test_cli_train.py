"""`resnext train` and `resnext recipes`, as people run them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from resnext import modelfile, testing
from resnext.cli import app, options, train
from resnext.training import recipes, records

SMALL = ("--model", "resnext29_1x1d", "--batch-size", "4", "--workers", "0") + tuple(
    word
    for key in ("train_size", "test_size", "test_resize")
    for word in ("--set", f"data.{key}=16")
)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return testing.write_pictures(tmp_path / "pictures", per_class=5, size=16)


def test_recipes_are_listed_with_cost_and_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == recipes.names()
    (paper,) = [line for line in lines if line.startswith("paper-imagenet")]
    for text in ("resnext50_32x4d", "ImageNet-1k", "100", "256", "77.80 %", "128 M", "1.6e18"):
        assert text in paper


def test_one_recipe_is_shown_with_all_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["recipes", "torchvision-v2"]) == 0
    out = capsys.readouterr().out
    for text in ("pytorch.org", "83.246 %", "repeated augmentation", "0.998908", "optim.lr"):
        assert text in out


def test_recipes_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["recipes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [recipe["name"] for recipe in found] == recipes.names()
    assert app.run(["recipes", "rsb-a1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["schedule"]["epochs"] == 600


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["recipes", "torchvison-v2"], 2, "did you mean 'torchvision-v2'"),
        (["train", "x", "-o", "run", "--recipe", "papr-imagenet"], 2, "'paper-imagenet'"),
        (["train", "x", "-o", "run", "--set", "optim.lrr=1"], 2, "did you mean 'optim.lr'"),
        (["train", "x", "-o", "run", "--lr", "fast"], 2, "optim.lr is 'fast'; expected a number"),
        (["train", "x", "-o", "run", "--batch-size", "0"], 2, "--batch-size"),
        (["train", "x"], 2, "--output"),
    ],
)
def test_what_is_misspelt_is_named(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(words) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "recipes"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([command, "--help"]) == 0
    assert f"Example:  resnext {command}" in capsys.readouterr().out


def test_the_options_of_train_are_these() -> None:
    assert [option.name for option in train.train.params] == [
        "data", "recipe", "folder", "settings", "model", "epochs", "batch_size", "lr", "teacher",
        "resume", "device", "workers", "seed", "precision", "deterministic", "ignore_errors",
        "as_json",
    ]  # fmt: skip


def test_without_torch_the_extra_is_named(
    pictures: Path, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "resnext.training.dist", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert app.run(["train", str(pictures), "-o", str(tmp_path / "run")]) == 5
    err = capsys.readouterr().err
    assert "`torch` is not installed" in err
    assert "pip install 'resnext[train]'" in err


@pytest.mark.torch
def test_a_model_comes_out(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("matplotlib")
    folder = tmp_path / "run"
    teacher = testing.write_tiny_model(
        tmp_path / "teacher.safetensors", class_names=("red", "green", "blue")
    )
    words = ["train", str(pictures), "-o", str(folder), *SMALL, "--epochs", "1", "--lr", "0.01"]
    words += ["--seed", "3", "--precision", "bf16", "--teacher", str(teacher), "--device", "cpu"]
    words += ["--set", "data.split_seed=7", "--set", "data.val_share=0.4"]
    assert app.run([*words, "--set", "schedule.warmup_epochs=0"]) == 0
    captured = capsys.readouterr()
    assert str(folder / "best.safetensors") in captured.out
    assert "epoch 1/1" in captured.err
    document, _ = modelfile.verify(folder / "best.safetensors")
    config = document.provenance["config"]
    assert config["optim"]["lr"] == 0.01
    assert config["seed"] == 3
    assert config["precision"] == "bf16"
    assert config["loss"]["teacher"] == str(teacher)
    assert config["loss"]["distill_weight"] == 0.5
    split = document.provenance["dataset"]["split"]
    assert (split["seed"], split["val_share"], split["val"]["pictures"]) == (7, 0.4, 6)
    for command in (["info", str(folder / "best.safetensors")], ["predict", str(pictures), "-m",
                    str(folder / "best.safetensors")]):  # fmt: skip
        assert app.run(command) == 0
    assert re.search(r"^in --json: .*config", capsys.readouterr().out, re.MULTILINE)
    assert app.run([*words, "--set", "schedule.warmup_epochs=0", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["model"] == str(folder / "best.safetensors")
    assert summary["left_out"] == []
    assert app.run([*words, "--resume", "never"]) == 2
    assert "has a run already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rank", "left_out", "ignore_errors", "code", "said"),
    [
        (None, 0, False, 0, ""),
        (None, 2, False, 3, ""),
        (None, 2, True, 0, ""),
        ("0", 1, False, 0, "warning: 1 picture left out; the exit code is 0 and not 3"),
        ("1", 1, False, 0, ""),
        ("0", 1, True, 0, ""),
    ],
)
def test_torchrun_gets_no_code_that_it_takes_for_a_crash(
    rank: str | None,
    left_out: int,
    ignore_errors: bool,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", rank and "2")):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert options.code_of_training(left_out, ignore_errors=ignore_errors) == code
    error = capsys.readouterr().err
    assert error.startswith(said) and bool(error) == bool(said)


MISTAKES = (["--no-such-option"], ["--set", "no=1"])


@pytest.mark.parametrize("command", ["train", "finetune"])
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("rank", [None, "0", "1"])
def test_one_process_of_a_machine_tells_of_a_mistake(
    command: str,
    mistake: list[str],
    rank: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"RANK": rank and f"1{rank}", "WORLD_SIZE": rank and "20", "LOCAL_RANK": rank}
    for name, value in names.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    waited: list[float] = []
    monkeypatch.setattr(options.time, "sleep", waited.append)
    words = [command, "x", "-o", "run", *(["--head-only"] if command == "finetune" else [])]
    assert app.run([*words, *mistake]) == 2
    assert capsys.readouterr().err, "where nothing ends it, it is its own mistake"
    assert bool(waited) == (rank == "1")

    def end(_seconds: float) -> None:
        raise app._Terminated  # as on SIGTERM

    monkeypatch.setattr(options.time, "sleep", end)
    assert app.run([*words, *mistake]) == (143 if rank == "1" else 2)
    assert bool(capsys.readouterr().err) == (rank != "1")


@pytest.mark.torch
@pytest.mark.slow
def test_a_mistake_under_torchrun_is_said_once(pictures: Path, tmp_path: Path) -> None:
    process = start(str(pictures), "-o", str(tmp_path / "run"), "--batch-size", "64", ranks=2)
    _, error = process.communicate(timeout=100)
    assert process.returncode == 1, "torchrun's own"
    assert error.count("error: optim.batch_size is 64; expected at most 12") == 1
    assert error.count("hint: try --batch-size 4 (3 steps an epoch)") == 1
    assert "exitcode  : 2" in error


@pytest.mark.torch
@pytest.mark.slow
def test_a_bad_picture_under_torchrun_is_said_without_a_wall(
    pictures: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    data = Path(shutil.copytree(pictures, tmp_path / "data"))
    next(data.rglob("*.png")).write_bytes(b"no picture")
    process = start(str(data), "-o", str(tmp_path / "run"), *SMALL, "--epochs", "1", ranks=2)
    out, error = process.communicate(timeout=100)
    assert process.returncode == 0, error
    assert "left out: " in error and "warning: 1 picture left out" in error
    assert "FAILED" not in error and "ChildFailedError" not in error
    assert "best.safetensors" in out


def start(*words: str, ranks: int = 1) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "resnext", "train", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.torch
@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "run"
    words = (str(pictures), "-o", str(folder), *SMALL)
    process = start(*words, "--epochs", "1000")
    deadline = time.monotonic() + 60
    while not records.read(folder / "metrics.jsonl") and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "a checkpoint was written; the same command goes on from there" in err
    assert "Traceback" not in err
    epochs = len(records.read(folder / "metrics.jsonl")) + 1
    process = start(*words, "--epochs", str(epochs))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "going on after step" in err
    lines = records.read(folder / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == list(range(1, epochs + 1))
    assert "best.safetensors" in out


@pytest.mark.torch
@pytest.mark.slow
def test_two_processes_train_one_model(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "run"
    words = (str(pictures), "-o", str(folder), *SMALL, "--device", "cpu", "--epochs", "2")
    process = start(*words, "--lr", "auto", "--set", "data.test_sizes=20", ranks=2)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert out.count("best.safetensors") == 1  # one of them speaks
    assert err.count("epoch 1/2") == 1
    assert err.count("test size") == 1
    document, _ = modelfile.read(folder / "best.safetensors")
    assert set(document.metrics["test_sizes"]) == {"16", "20"}
    assert records.read_json(folder / "lr.json")
