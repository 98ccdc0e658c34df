"""The torch engine: equal to the module it runs and to the other engines; its settings."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import (
    Tensors,
    random_batch,
    random_network,
    relative_error,
)

from resnext import Classifier, modelfile, testing
from resnext.engines import graph
from resnext.engines.base import AbstractEngine, GraphSource, Signature
from resnext.engines.openvino import OpenVINOEngine
from resnext.errors import ConfigError, EngineError, import_extra
from resnext.modelfile import ModelDocument

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_torch_thread")]
torch = pytest.importorskip("torch")
eager = import_extra("resnext.engines.eager", extra="torch")
zoo = import_extra("resnext.zoo", extra="torch")

CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"
SIZE = 64
NAMES = ["resnext26_4x2d", "seresnextaa26d_4x2d", "skresnext26_4x2d"]


def network(name: str = NAMES[0]) -> tuple[ModelDocument, Tensors]:
    return random_network(name, SIZE)


def test_the_number_of_threads_is_put_back_also_after_an_error() -> None:
    with pytest.raises(KeyError), eager.threads_kept():
        torch.set_num_threads(3)
        raise KeyError
    assert torch.get_num_threads() == 1


def others(name: str) -> Iterator[AbstractEngine]:
    """Open the other engines that are installed, with the same network."""
    document, tensors = network(name)
    source = GraphSource(
        signature=Signature(input_size=SIZE, in_chans=3, num_classes=7, embedding_size=2048),
        build=lambda _, **__: graph.build(document.architecture, document.preprocess, tensors),
    )
    yield OpenVINOEngine(source, precision="fp32")
    if importlib.util.find_spec("onnxruntime"):
        yield import_extra("resnext.engines.ort", extra="ort").ORTEngine(source)


@pytest.mark.parametrize("name", NAMES)
def test_all_engines_agree(name: str) -> None:
    with eager.EagerEngine(*network(name), device="cpu") as engine:
        found = engine.run(random_batch(3, SIZE, seed=1))
        assert (engine.name, engine.precision) == ("torch", "fp32")
    for other in others(name):
        with other:
            expected = other.run(random_batch(3, SIZE, seed=1))
        assert relative_error(found.logits, expected.logits) < 1e-4, other
        assert relative_error(found.embedding, expected.embedding) < 1e-4, other


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_module(tmp_path: Path, name: str) -> None:
    document, tensors = network(name)
    modelfile.write(tmp_path / "net.safetensors", document, tensors, dtype="float32")
    model = zoo.create_model(tmp_path / "net.safetensors", True)
    pixels = random_batch(3, SIZE, seed=2)
    scale, shift = (
        torch.tensor(values, dtype=torch.float32).reshape(1, 3, 1, 1)
        for values in eager.affine(document.preprocess)
    )
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() * scale + shift
    with torch.inference_mode():
        expected = model.to(memory_format=torch.channels_last)(images)
    with eager.EagerEngine(document, tensors, precision="fp32", device="cpu") as engine:
        outputs = engine.run(pixels)
    np.testing.assert_array_equal(outputs.logits, expected.numpy())
    assert outputs.embedding.shape == (3, engine.embedding_size)


def test_pictures_are_prepared_as_by_the_transform(tmp_path: Path) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    model, transform = zoo.create_model(path, True), zoo.create_transform(path)
    with torch.inference_mode():
        expected = model(transform(CAT)[None]).softmax(1)[0].numpy()
    with Classifier(path, engine="torch", precision="fp32") as classifier:
        found = {one.index: one.probability for one in classifier(CAT)}
        assert classifier.embed([CAT]).shape == (1, 1024)
    np.testing.assert_allclose([found[0], found[1]], expected, rtol=1e-5)


def test_bf16_is_near() -> None:
    pixels = random_batch(4, SIZE, seed=3)
    with (
        eager.EagerEngine(*network(), precision="bf16", device="cpu") as half,
        eager.EagerEngine(*network(), precision="fp32", device="cpu") as full,
    ):
        assert half.precision == "bf16"
        found, expected = half.run(pixels), full.run(pixels)
    assert found.logits.dtype == np.float32
    assert 1e-5 < relative_error(found.logits, expected.logits) < 0.05


def test_read_only_pixels_are_taken() -> None:
    pixels = random_batch(2, SIZE, seed=4)
    pixels.setflags(write=False)
    with eager.EagerEngine(*network(), device="cpu") as engine:
        assert engine.run(pixels).logits.shape == (2, 7)


def test_a_long_batch_is_split_and_an_empty_one_is_fine() -> None:
    pixels = random_batch(9, SIZE, seed=4)
    with eager.EagerEngine(*network(), device="cpu") as engine:
        together = engine.run(pixels)
        apart = np.concatenate([engine.run(pixels[:4]).logits, engine.run(pixels[4:]).logits])
        np.testing.assert_allclose(together.logits, apart, rtol=1e-4, atol=1e-5)
        assert engine.run(pixels[:0]).logits.shape == (0, 7)
        with pytest.raises(ConfigError, match=r"expected uint8 of shape \(N, 64, 64, 3\)"):
            engine.run(pixels.astype(np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "precision is 'int8'; expected one of auto, bf16, fp32"),
        ({"threads": 0}, "threads is 0; expected at least 1"),
        ({"device": "nonsense"}, "device is 'nonsense', which torch does not have"),
        ({"device": "cuda:99"}, "device is 'cuda:99', which torch does not have"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        eager.EagerEngine(*network(), **options)


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_a_precision_of_gpus_says_that_there_is_none(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = f"precision is '{precision}', and {{}}; expected one of auto, bf16, fp32\n\nhint: {{}}"
    monkeypatch.setattr(eager, "has_gpu", lambda: False)
    with pytest.raises(ConfigError, match=said.format("torch finds no GPU here", "docs/gpu.md")):
        eager.EagerEngine(*network(), precision=precision)
    monkeypatch.setattr(eager, "has_gpu", lambda: True)
    with pytest.raises(ConfigError, match=said.format("the device is 'cpu'", "let torch take")):
        eager.EagerEngine(*network(), precision=precision, device="cpu")


def test_threads_are_those_of_torch() -> None:
    with eager.EagerEngine(*network(), threads=2, device="cpu"):
        assert torch.get_num_threads() == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda_is_chosen_and_near() -> None:
    pixels = random_batch(4, SIZE, seed=5)
    with (
        eager.EagerEngine(*network()) as fast,
        eager.EagerEngine(*network(), precision="fp32", device="cpu") as exact,
    ):
        assert fast.precision == "bf16"
        assert relative_error(fast.run(pixels).logits, exact.run(pixels).logits) < 0.05


class _Failing(torch.nn.Module):
    """Stands where the network was, and fails above a number of pictures."""

    def __init__(self, model: Any, limit: int, error: Exception) -> None:
        super().__init__()
        self.model, self.limit, self.error = model, limit, error
        self.fc, self.forward_head = model.fc, model.forward_head

    def forward_features(self, images: Any) -> Any:
        if len(images) > self.limit:
            raise self.error
        return self.model.forward_features(images)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_a_batch_that_does_not_fit_is_halved(error: Exception) -> None:
    pixels = random_batch(4, SIZE, seed=6)
    with eager.EagerEngine(*network(), device="cpu") as engine:
        expected = engine.run(pixels).logits
        model = engine._model
        engine._model = _Failing(model, 1, error)
        np.testing.assert_allclose(engine.run(pixels).logits, expected, rtol=1e-4, atol=1e-5)
        engine._model = _Failing(model, 0, error)
        with pytest.raises(EngineError, match="not enough memory for one picture of 64 pixels"):
            engine.run(pixels)


def test_another_failure_is_one_of_the_engine() -> None:
    with eager.EagerEngine(*network(), device="cpu") as engine:
        engine._model = _Failing(engine._model, 0, RuntimeError("mat1 and mat2"))
        with pytest.raises(EngineError, match=r"engine torch \(fp32\) failed: mat1 and mat2"):
            engine.run(random_batch(1, SIZE, seed=7))


def test_cudnn_stays_on_and_is_exact() -> None:
    seen: list[tuple[bool, bool]] = []
    cudnn = torch.backends.cudnn
    with eager.EagerEngine(*network(), device="cpu") as engine:
        forward = engine._model.forward_features
        engine._model.forward_features = lambda images: (
            seen.append((cudnn.enabled, cudnn.allow_tf32)) or forward(images)
        )
        engine.run(random_batch(1, SIZE, seed=0))
    assert seen == [(True, False)]


def test_closed_is_closed() -> None:
    engine = eager.EagerEngine(*network(), device="cpu")
    engine.close()
    engine.close()
    assert not hasattr(engine, "_model")
    with pytest.raises(EngineError, match="is closed"):
        engine.run(random_batch(1, SIZE, seed=8))


def test_the_command_line_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from resnext.cli import app

    tiny = str(testing.write_tiny_model(tmp_path / "tiny.safetensors"))
    answers = {}
    for engine in ("torch", "openvino"):
        command = ["predict", str(CAT), "-m", tiny, "--engine", engine, "-f", "json"]
        assert app.run([*command, "--precision", "fp32"]) == 0
        [result] = json.loads(capsys.readouterr().out)
        answers[engine] = {one["label"]: one["probability"] for one in result["predictions"]}
    assert answers["torch"] == pytest.approx(answers["openvino"], abs=1e-4)
    assert app.run(["predict", str(CAT), "-m", tiny, "--engine", "torch", "--threads", "1"]) == 0
