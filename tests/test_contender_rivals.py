"""What `resnext benchmark` runs: the same weights everywhere give the same logits."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext import testing, weights
from resnext.deploy import contender
from resnext.errors import BrokenExtraError, ConfigError
from resnext.weights import LocalModel


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    path = testing.write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")
    return weights.locate(path)


@pytest.fixture(scope="module")
def starter() -> tuple[str, Any, Any]:
    """The model of the package, two pictures and what our engine says of them."""
    path = str(weights.locate("starter").path)
    size, own = contender.open_network({
        "model": path, "engine": "openvino", "precision": "fp32"
    })  # fmt: skip
    batch = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    ours: Any = own(batch)
    return path, batch, ours.logits


@pytest.mark.torch
@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_rivals_compute_the_same(name: str, starter: tuple[str, Any, Any]) -> None:
    pytest.importorskip(name)
    path, batch, ours = starter
    _, rival = contender.open_network({
        "model": path, "engine": name, "precision": "fp32"
    })  # fmt: skip
    theirs: Any = rival(batch)
    assert np.abs(theirs - ours).max() <= 1e-4 * np.abs(ours).max()


@pytest.mark.torch
def test_a_rival_that_does_not_import_says_why(
    tiny: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("timm", "torchvision"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('no nms')")
    for name in [one for one in sys.modules if one.partition(".")[0] in ("timm", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("timm", "torchvision"):
        task = {"model": str(tiny.path), "engine": name, "precision": "fp32"}
        with pytest.raises(BrokenExtraError, match="is installed, but cannot be imported: no nms"):
            contender.open_network(task)


@pytest.mark.torch
@pytest.mark.parametrize(("precision", "limit"), [("fp16", 0.01), ("bf16", 0.05)])
def test_rivals_have_fewer_digits_too(
    precision: str, limit: float, starter: tuple[str, Any, Any]
) -> None:
    pytest.importorskip("torchvision")
    path, batch, ours = starter
    _, rival = contender.open_network({
        "model": path, "engine": "torchvision", "precision": precision
    })  # fmt: skip
    theirs: Any = rival(batch[:1])
    assert theirs.dtype == np.float32
    assert 0 < np.abs(theirs - ours[:1]).max() <= limit * np.abs(ours[:1]).max()


@pytest.mark.torch
def test_only_gpus_have_tf32(tiny: LocalModel) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    task = {"model": str(tiny.path), "precision": "tf32"}
    for engine in ("torch", "torch:cudnn", "torch-compile"):
        with pytest.raises(ConfigError, match="precision is 'tf32'"):
            contender.open_network({**task, "engine": engine})


@pytest.mark.torch
def test_what_runs_on_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = pytest.importorskip("resnext.engines.eager")
    monkeypatch.setattr(eager, "gpu_name", lambda: "NVIDIA Test")
    monkeypatch.setattr(eager, "gpu_memory", lambda: 3_000_000)
    names = ("torch", "torch:compile", "timm", "torch-compile")
    assert {contender.gpu_of(name) for name in names} == {"NVIDIA Test"}
    assert contender.gpu_of("openvino") == contender.gpu_of("plain-onnxruntime") == ""
    assert (contender.gpu_memory("timm"), contender.gpu_memory("openvino")) == (3.0, 0.0)


def test_plain_runtimes_compute_the_same(tiny: LocalModel) -> None:
    task = {"model": str(tiny.path), "precision": "fp32"}
    size, own = contender.open_network({**task, "engine": "openvino"})
    _, plain = contender.open_network({**task, "engine": "plain-openvino"})
    batch = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    ours: Any = own(batch)
    theirs: Any = plain(batch)
    # Its own choice of precision may be bfloat16.
    assert np.abs(theirs - ours.logits).max() <= 0.05 * np.abs(ours.logits).max()


def test_a_process_says_when_it_is_ready_and_how_long_each_call_took(
    tiny: LocalModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    orders = io.StringIO('{"batch": 2, "seconds": 0.02}\n{"batch": 1, "seconds": 0.01}\n')
    monkeypatch.setattr(contender.sys, "stdin", orders)
    contender.main({"model": str(tiny.path), "engine": "openvino", "precision": "fp32"})
    ready, first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert ready == {"ready": True, "gpu": ""}
    assert 0.02 <= sum(first["latencies"]) < 30 and len(second["latencies"]) >= 1
    assert first["memory"] > 10 and first["gpu_memory"] == 0


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "hint"),
    [("torchvision", "pip install 'resnext[train]'"), ("timm", "pip install timm")],
)
def test_a_library_that_is_not_there_says_how_to_get_it(
    name: str,
    hint: str,
    tiny: LocalModel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module in [one for one in sys.modules if one.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [_Without(name), *sys.meta_path])
    contender.main({"model": str(tiny.path), "engine": name, "precision": "fp32"})
    said = json.loads(capsys.readouterr().out)
    assert "is not installed" in said["error"] and name in said["error"]
    assert said["hint"].startswith(hint)


class _Without:
    """A finder of modules that finds that one is not there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, fullname: str, *_: Any) -> None:
        if fullname.partition(".")[0] == self.name:
            raise ModuleNotFoundError(f"No module named {self.name!r}", name=self.name)


def test_a_process_that_cannot_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = {"model": str(tmp_path / "none.safetensors"), "engine": "openvino", "precision": "fp32"}
    contender.main(task)
    assert "none.safetensors" in json.loads(capsys.readouterr().out)["error"]
