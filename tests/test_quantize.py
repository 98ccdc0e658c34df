"""`resnext quantize`: fewer bits, nearly the same answers, or no file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import preprocessing, random_tensors
from onnx import numpy_helper

from resnext import Classifier, arch, modelfile, testing, weights
from resnext.cli import app
from resnext.deploy import quantize
from resnext.engines import graph, select
from resnext.engines.base import AbstractEngine
from resnext.errors import ConfigError
from resnext.modelfile import ModelDocument
from resnext.quantization import Quantization
from resnext.weights import LocalModel

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return testing.write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


@pytest.fixture(scope="module")
def tiny(path: Path) -> LocalModel:
    """Give a model with generous ranges for every value that can be rounded."""
    local = weights.locate(path)
    return replace(local, document=with_ranges(local.document, weights.read_tensors(local)))


def with_ranges(document: ModelDocument, tensors: Any) -> ModelDocument:
    built = graph.build(document.architecture, document.preprocess, tensors)
    names = [node.name for node in built.graph.node if node.op_type == "Relu"]
    everything = Quantization(ranges={name: (0.0, 8.0) for name in names})
    return replace(document, quantization=everything)


def batch(local: LocalModel, count: int = 6) -> Any:
    size = local.document.preprocess.input_size
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def open_engine(local: LocalModel, precision: str, name: str = "openvino") -> AbstractEngine:
    return select.load(local, engine=name, precision=precision)


def test_weights_are_rounded_by_channel(tiny: LocalModel) -> None:
    document, tensors = tiny.document, weights.read_tensors(tiny)
    model = graph.build(
        document.architecture,
        document.preprocess,
        tensors,
        precision="int8",
        quantization=document.quantization,
    )
    onnx.checker.check_model(model, full_check=True)
    plain = graph.build(document.architecture, document.preprocess, tensors)
    exact = {one.name: numpy_helper.to_array(one) for one in plain.graph.initializer}
    found = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    names = [name.removesuffix(".levels") for name in found if name.endswith(".levels")]
    assert len(names) > 20
    for name in names:
        levels, step = found[f"{name}.levels"], found[f"{name}.step"][:, None, None, None]
        assert levels.dtype == np.int8 and np.abs(levels.astype(int)).max() == 127
        assert (np.abs(levels * step - exact[name]) <= step * 0.5001).all()


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_engines_compute_what_the_graph_says(name: str, tiny: LocalModel) -> None:
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
    image = batch(tiny)
    with open_engine(tiny, "fp32") as plain, open_engine(tiny, "int8", name) as rounded:
        assert rounded.precision == "int8"
        exact, found = plain.run(image).logits, rounded.run(image).logits
    apart = np.abs(found - exact).max() / np.abs(exact).max()
    assert 1e-6 < apart < 0.2


def test_a_bias_beside_weights_of_nothing_is_kept(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    spec = arch.parse("resnext26_32x4d", num_classes=2)
    tensors = dict(random_tensors(spec, seed=0))
    tensors["layer1.0.bn2.weight"] = tensors["layer1.0.bn2.weight"] * (np.arange(128) != 3)
    tensors["layer1.0.bn2.bias"] = tensors["layer1.0.bn2.bias"] + 20 * (np.arange(128) == 3)
    ranges = {"layer1.0.conv1.relu": (0.0, 8.0), "layer1.0.conv2.relu": (0.0, 25.0)}
    features = []
    for precision in ("fp32", "int8"):
        built = graph.build(
            spec,
            preprocessing(32),
            tensors,
            precision=precision,
            quantization=Quantization(ranges=ranges),
        )
        session: Any = onnxruntime.InferenceSession(built.SerializeToString())
        image = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
        features.append(session.run(["embedding"], {"image": image})[0])
    exact, found = features
    assert np.abs(found - exact).max() < 0.03 * np.abs(exact).max()


@pytest.mark.parametrize(("width", "expected"), [(1, 32), (32, 4)])
def test_small_groups_are_laid_side_by_side_in_8_bits_too(width: int, expected: int) -> None:
    spec = arch.parse("resnext26_32x4d", num_classes=2)
    built = graph.build(
        spec,
        preprocessing(32),
        random_tensors(spec, seed=0),
        precision="int8",
        quantization=Quantization(ranges={"layer1.0.conv1.relu": (0.0, 8.0)}),
        group_width=width,
    )
    node = next(node for node in built.graph.node if node.name == "layer1.0.conv2")
    assert next(one.i for one in node.attribute if one.name == "group") == expected
    levels = next(w for w in built.graph.initializer if w.name == "layer1.0.conv2.weight.levels")
    assert levels.dims[1] == 4 * 32 // expected
    onnx.checker.check_model(built, full_check=True)


def test_weights_that_are_stored_rounded_are_not_folded() -> None:
    spec = arch.parse("resnext26_32x4d", num_classes=2)
    tensors = {
        key: tensor
        for key, tensor in random_tensors(spec, seed=0).items()
        if not key.startswith(("layer1.0.conv2.", "layer1.0.bn2."))
    }
    stored = {
        "layer1.0.conv2.levels": np.full((128, 4, 3, 3), 3, np.int8),
        "layer1.0.conv2.step": np.ones(128, np.float32),
        "layer1.0.conv2.bias": np.full(128, 0.5, np.float32),
    }
    eight_bits = Quantization(ranges={"layer1.0.conv1.relu": (0.0, 8.0)}, weights=stored)
    built = graph.build(spec, preprocessing(32), tensors, precision="int8", quantization=eight_bits)
    bias = next(w for w in built.graph.initializer if w.name == "layer1.0.conv2.bias")
    assert (numpy_helper.to_array(bias) == 0.5).all()


def test_the_fastest_is_taken_where_there_are_ranges(tiny: LocalModel, path: Path) -> None:
    with open_engine(tiny, "auto") as engine:
        assert engine.precision == "int8"
    with pytest.raises(ConfigError, match="the model was not quantized"):
        open_engine(weights.locate(path), "int8")


def test_other_ranges_are_another_network_in_the_cache(tiny: LocalModel) -> None:
    quantization = tiny.document.quantization
    assert quantization is not None
    narrow = Quantization(ranges={name: (0.0, 0.01) for name in quantization.ranges})
    other = replace(tiny, document=replace(tiny.document, quantization=narrow))
    image = batch(tiny)
    with open_engine(tiny, "int8") as wide, open_engine(other, "int8") as clipped:
        assert np.abs(wide.run(image).logits - clipped.run(image).logits).max() > 1e-3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("pictures")
    return testing.write_pictures(top, classes=("red", "green"), per_class=15)


def test_a_file_is_written_that_says_what_it_cost(
    path: Path, pictures: Path, tmp_path: Path, capsys: Captured
) -> None:
    target = tmp_path / "small.safetensors"
    (pictures / "red" / "broken.png").write_bytes(b"no picture")
    arguments = ["quantize", str(path), "--calibrate", str(pictures), "-o", str(target)]
    arguments += ["--min-agreement", "90", "--json"]
    assert app.run(arguments) == 3
    captured = capsys.readouterr()
    found = json.loads(captured.out.splitlines()[-1])
    assert "broken.png" in captured.err and len(found["left_out"]) == 1
    document, tensors = modelfile.read(target)
    assert document.quantization is not None
    assert document.quantization.facts["agreement"] == pytest.approx(found["agreement"], abs=1e-5)
    assert len(document.quantization.ranges) == found["values"]
    before = modelfile.read(path)[1]
    assert list(before) == list(tensors)
    assert all(np.array_equal(before[key], tensors[key]) for key in before)
    with Classifier(target) as classifier:
        assert classifier.engine.precision == "int8"
    assert app.run(arguments) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.slow
def test_too_many_changed_answers_leave_no_file(
    path: Path, pictures: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = iter([(90.0, 50), (89.9, 50), (80.0, 50), (89.8, 50)])
    monkeypatch.setattr(quantize, "_top1", lambda *_: next(worse))
    target = tmp_path / "small.safetensors"
    arguments = ["quantize", str(path), "--calibrate", str(pictures), "-o", str(target)]
    arguments += ["--min-agreement", "0", "--measure", str(pictures), "--max-drop", "0.05"]
    assert app.run(arguments) == 4
    said = capsys.readouterr().err
    assert "loses too much in 8 bits: everything: " in said and "10.00 points lost" in said
    assert not target.exists()
    worse = iter([(90.0, 50), (89.0, 50), (89.96, 50)])
    assert app.run(arguments) in (0, 3)
    assert "all but the sums," in capsys.readouterr().out


def test_ten_pictures_are_needed(
    path: Path, pictures: Path, tmp_path: Path, capsys: Captured
) -> None:
    few, target = str(pictures / "red" / "0000.png"), str(tmp_path / "small.safetensors")
    assert app.run(["quantize", str(path), "--calibrate", few, "-o", target]) == 3
    assert "expected at least 10" in capsys.readouterr().err
