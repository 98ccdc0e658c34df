"""From a model on disk to an engine: names, laziness, what a compiled network depends on."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import random_batch

from resnext import weights
from resnext.engines import select
from resnext.errors import ConfigError, MissingExtraError
from resnext.testing import write_tiny_model
from resnext.weights import LocalModel


@pytest.fixture
def local(tmp_path: Path) -> LocalModel:
    return weights.locate(write_tiny_model(tmp_path / "tiny.safetensors"))


@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_auto_is_openvino(local: LocalModel, engine: str) -> None:
    with select.load(local, engine=engine, precision="fp32") as opened:
        assert (opened.name, opened.num_classes, opened.embedding_size) == ("openvino", 2, 1024)
        assert opened.run(random_batch(2, 32, seed=0)).logits.shape == (2, 2)


def test_both_engines_agree(local: LocalModel) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: 'resnext[ort]'")
    batch = random_batch(4, 32, seed=1)
    with (
        select.load(local, precision="fp32") as openvino,
        select.load(local, engine="onnxruntime") as ort,
    ):
        assert ort.name == "onnxruntime"
        np.testing.assert_allclose(ort.run(batch).logits, openvino.run(batch).logits, rtol=1e-4)


@pytest.mark.torch
def test_the_torch_engine_agrees(local: LocalModel) -> None:
    batch = random_batch(4, 32, seed=1)
    with (
        select.load(local, precision="fp32") as openvino,
        select.load(local, engine="torch", precision="fp32") as torch,
        select.load(local, engine="torch", precision="bf16") as half,
    ):
        assert (torch.name, torch.precision, half.precision) == ("torch", "fp32", "bf16")
        np.testing.assert_allclose(torch.run(batch).logits, openvino.run(batch).logits, rtol=1e-4)


@pytest.mark.parametrize(
    ("engine", "hint"),
    [
        ("openvin", "did you mean 'openvino'"),
        ("tensorrt", ""),
        ("Auto", "did you mean 'auto'"),
        ("pytorch", "did you mean 'torch'"),
        ("torch:tritn", "did you mean 'torch:triton'"),
    ],
)
def test_an_unknown_engine_names_the_nearest(local: LocalModel, engine: str, hint: str) -> None:
    with pytest.raises(
        ConfigError, match=f"expected one of (auto, openvino, onnxruntime, )?torch(.|\n)*{hint}"
    ):
        select.load(local, engine=engine)


@pytest.mark.parametrize(
    ("engine", "module", "extra"), [("onnxruntime", "ort", "ort"), ("torch", "eager", "torch")]
)
def test_an_engine_that_is_not_installed_names_its_extra(
    local: LocalModel, monkeypatch: pytest.MonkeyPatch, engine: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, engine, None)
    monkeypatch.delitem(sys.modules, f"resnext.engines.{module}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"pip install 'resnext\[{extra}\]'"):
        select.load(local, engine=engine)


def test_only_torch_has_a_choice_of_devices(local: LocalModel) -> None:
    for engine in ("auto", "openvino"):
        with pytest.raises(ConfigError, match=f"device is 'cuda:1', and engine '{engine}' has"):
            select.load(local, engine=engine, device="cuda:1")


@pytest.mark.torch
def test_a_device_that_is_not_there_is_refused(local: LocalModel) -> None:
    with pytest.raises(ConfigError, match="device is 'cuda:99', which torch does not have"):
        select.load(local, engine="torch", device="cuda:99")


@pytest.mark.torch
@pytest.mark.parametrize("device", ["mps", "xpu:0", "meta"])
def test_only_processors_and_gpus_of_cuda_are_devices(local: LocalModel, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device is '{device}'; expected cpu, cuda or one"):
        select.load(local, engine="torch", device=device)


@pytest.mark.torch
def test_a_gpu_is_where_torch_finds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert select.has_gpu() == there
    monkeypatch.setattr(select, "is_installed", lambda _name: False)
    assert not select.has_gpu()


def test_a_warm_start_does_not_read_the_tensors(
    local: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = random_batch(2, 32, seed=2)
    with select.load(local) as engine:
        expected = engine.run(batch).logits
    monkeypatch.setattr(select, "read_tensors", lambda _: pytest.fail("tensors were read"))
    with select.load(local) as engine:
        np.testing.assert_array_equal(engine.run(batch).logits, expected)
    assert list((weights.cache_home() / "compiled").iterdir())


def _other_mean(local: LocalModel) -> LocalModel:
    preprocess = replace(local.document.preprocess, mean=(0.5, 0.5, 0.5))
    return replace(local, document=replace(local.document, preprocess=preprocess))


def _other_size(local: LocalModel) -> LocalModel:
    preprocess = replace(local.document.preprocess, input_size=24, resize=24)
    return replace(local, document=replace(local.document, preprocess=preprocess))


@pytest.mark.parametrize(
    "change", [_other_mean, _other_size, lambda local: replace(local, sha256="0" * 64)]
)
def test_a_graph_is_told_by_its_weights_and_its_input(local: LocalModel, change: Any) -> None:
    assert select.describe(local).identity == select.describe(local).identity
    assert select.describe(change(local)).identity != select.describe(local).identity


def test_what_does_not_enter_the_graph_does_not_tell_it(local: LocalModel) -> None:
    document = replace(local.document, temperature=2.0, reject_threshold=0.5)
    other = replace(local, document=document, path=Path("elsewhere"))
    assert select.describe(other).identity == select.describe(local).identity
