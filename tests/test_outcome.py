"""The model file of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext import modelfile, testing
from resnext.errors import ModelFileError

torch: Any = pytest.importorskip("torch")
import runs  # noqa: E402

outcome: Any = pytest.importorskip("resnext.training.outcome")
state: Any = pytest.importorskip("resnext.training.state")

pytestmark = pytest.mark.torch


def write(path: Path, run: Any, model: Any) -> modelfile.ModelDocument:
    path.parent.mkdir(exist_ok=True)
    outcome.write_model(path, model, run, metrics={"top1": 50.0}, provenance={"why": "test"})
    return modelfile.read(path)[0]


def test_it_says_where_it_comes_from(tmp_path: Path) -> None:
    run = runs.make("seed=5", "recipe=default", "data.interpolation=bicubic")
    document = write(tmp_path / "birds" / "best.safetensors", run, state.start(run).model)
    assert document.name == "birds"
    assert document.license == "unknown"
    assert document.metrics == {"top1": 50.0}
    assert document.preprocess.interpolation == "bicubic"
    assert document.provenance["recipe"] == "default"
    assert document.provenance["pretrained"] == ""
    assert document.provenance["seed"] == 5
    assert document.provenance["why"] == "test"
    for name in ("python 3.", "resnext ", "torch ", "torchvision "):
        assert name in document.provenance["software"]


def test_fine_tuned_weights_keep_name_and_license_of_their_origin(tmp_path: Path) -> None:
    origin = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    run = runs.make(f"model.pretrained={origin}")
    model = state.start(run).model
    document = write(tmp_path / "run" / "last.safetensors", run, model)
    assert document.provenance["pretrained"] == "tiny"
    assert document.license == "apache-2.0"
    assert document.architecture.num_classes == 3  # the origin has two
    tensors = modelfile.read(tmp_path / "run" / "last.safetensors")[1]
    assert np.array_equal(tensors["fc.weight"], model.fc.weight.detach().numpy())


def test_a_network_that_went_wrong_is_not_written(tmp_path: Path) -> None:
    run = runs.make()
    model = state.start(run).model
    write(tmp_path / "best.safetensors", run, model)
    before = (tmp_path / "best.safetensors").read_bytes()
    with torch.no_grad():
        model.fc.bias[0] = float("nan")
    with pytest.raises(ModelFileError):
        write(tmp_path / "best.safetensors", run, model)
    assert (tmp_path / "best.safetensors").read_bytes() == before
