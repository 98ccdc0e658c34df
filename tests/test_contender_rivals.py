"""What `resnext benchmark` runs: the same weights everywhere give the same logits."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext import testing, weights
from resnext.deploy import contender
from resnext.weights import LocalModel


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    path = testing.write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")
    return weights.locate(path)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_rivals_compute_the_same(name: str) -> None:
    pytest.importorskip(name)
    path = str(weights.locate("starter").path)
    size, own = contender.open_network({
        "model": path, "engine": "openvino", "precision": "fp32"
    })  # fmt: skip
    _, rival = contender.open_network({
        "model": path, "engine": name, "precision": "fp32"
    })  # fmt: skip
    batch = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    ours: Any = own(batch)
    theirs: Any = rival(batch)
    assert np.abs(theirs - ours.logits).max() <= 1e-4 * np.abs(ours.logits).max()


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
    assert ready == {"ready": True}
    assert 0.02 <= sum(first["latencies"]) < 30 and len(second["latencies"]) >= 1
    assert first["memory"] > 10


def test_a_process_that_cannot_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = {"model": str(tmp_path / "none.safetensors"), "engine": "openvino", "precision": "fp32"}
    contender.main(task)
    assert "none.safetensors" in json.loads(capsys.readouterr().out)["error"]
