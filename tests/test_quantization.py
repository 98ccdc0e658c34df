"""8 bits in the model file: what is written is read, what is damaged is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import preprocessing

from resnext import arch, modelfile, quantization, testing
from resnext.engines import graph
from resnext.errors import ModelFileError
from resnext.quantization import LEVELS, Quantization, convolutions, grid

SOME = Quantization(
    ranges={"conv1.relu": (0.0, 5.5), "layer1.0.conv3": (-1.5, 2.0)}, facts={"a": 1}
)


@given(st.floats(-1e6, 0, allow_subnormal=False), st.floats(1e-3, 1e6, allow_subnormal=False))
def test_zero_is_on_the_grid_and_the_ends_are_near_it(low: float, high: float) -> None:
    step, zero = grid(low, high)
    assert 0 <= zero < LEVELS
    assert abs((0 - zero) * step - low) <= step / 2 * (1 + 1e-6)
    assert abs((LEVELS - 1 - zero) * step - high) <= step / 2 * (1 + 1e-6)


def test_a_file_with_ranges_says_schema_two(tmp_path: Path) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    document, tensors = modelfile.read(path)
    assert document.quantization is None
    assert document.to_json()["schema_version"] == 1
    modelfile.write(path, replace(document, quantization=SOME), tensors)
    found, _ = modelfile.read(path)
    assert found.quantization == SOME
    metadata = json.loads(modelfile.read_metadata(path)["resnext"])
    assert metadata["schema_version"] == 2


@pytest.mark.parametrize(
    "damage",
    [
        {"ranges": {}},
        {"ranges": {"a": [0]}},
        {"ranges": {"a": ["0", 1]}},
        {"ranges": {"a": [1, 2]}},
        {"ranges": {"a": [0, 0]}},
        {"ranges": {"a": [0, 1e400]}},
        {"ranges": {"a": [True, 1]}},
        {"facts": None},
        {"more": 1},
    ],
)
def test_what_is_damaged_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match="quantization"):
        Quantization.from_json({**SOME.to_json(), **damage})
    with pytest.raises(ModelFileError, match="quantization"):
        Quantization.from_json([1])


def test_the_first_schema_has_no_ranges(tmp_path: Path) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    document, _ = modelfile.read(path)
    with pytest.raises(ModelFileError, match="unknown key 'quantization'"):
        modelfile.document_from_json({**document.to_json(), "quantization": SOME.to_json()})


SCALED = "conv1.scale"
CONV = "layer1.0.conv2"


WHOLE = Quantization(ranges={"layer1.0.conv1.relu": (0.0, 5.5)})


def rounded(document: Any) -> dict[str, Any]:
    conv = convolutions(document.architecture)[CONV]
    return {
        f"{CONV}.levels": np.full(conv.weight_shape, -127, np.int8),
        f"{CONV}.step": np.full(conv.out_channels, 0.01, np.float32),
        f"{CONV}.bias": np.zeros(conv.out_channels, np.float32),
        SCALED: np.ones(64, np.float32),
    }


def test_a_file_with_rounded_weights_says_schema_three(tmp_path: Path) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    document, tensors = modelfile.read(path)
    weights = rounded(document)
    modelfile.write(path, replace(document, quantization=replace(WHOLE, weights=weights)), tensors)
    found, state = modelfile.read(path)
    assert found.quantization == WHOLE and list(state) == list(tensors)
    assert dict(modelfile.read_metadata(path))["resnext"].count('"schema_version": 3') == 1
    assert found.quantization is not None
    assert sorted(found.quantization.weights) == sorted(weights)
    for key, tensor in found.quantization.weights.items():
        assert tensor.dtype == weights[key].dtype and np.array_equal(tensor, weights[key])
    with pytest.raises(KeyError):
        found.quantization.weights["conv1.weight"]
    # Whoever changes the document and writes it keeps them.
    modelfile.write(tmp_path / "copy.safetensors", replace(found, name="copy"), state)
    copy = modelfile.read(tmp_path / "copy.safetensors")[0].quantization
    assert copy is not None and len(copy.weights) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{CONV}.levels": np.zeros((1, 1, 3, 3), np.uint8)}, "levels is (uint8|U8)"),
        ({f"{CONV}.levels": np.zeros((2, 1, 3, 3), np.int8)}, r"levels is int8 \(2, 1, 3, 3\)"),
        ({f"{CONV}.levels": np.full((1, 1, 3, 3), -128, np.int8)}, "levels of -127 to 127"),
        ({f"{CONV}.step": np.zeros(1, np.float32)}, "numbers above 0"),
        ({f"{CONV}.step": np.ones((1, 1), np.float32)}, "step is float32"),
        ({f"{CONV}.step": np.ones(1)}, "step is (float64|F64)"),
        ({f"{CONV}.step": None}, f"{CONV} are not complete"),
        ({f"{CONV}.bias": np.full(1, np.nan, np.float32)}, "bias has other values"),
        ({f"{CONV}.scale": np.ones(1, np.float32)}, f"{CONV} are not complete"),
        ({SCALED: np.full(64, -1, np.float32)}, "numbers above 0"),
        ({"layer9.conv1.scale": np.ones(64, np.float32)}, "unexpected tensor layer9"),
        ({f"{CONV}.zero": np.ones(1, np.float32)}, "unexpected tensor layer1.0.conv2.zero"),
        ({"scale": np.ones(1, np.float32)}, "unexpected tensor scale"),
    ],
)
def test_rounded_weights_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    document, tensors = modelfile.read(path)
    weights = {**rounded(document), **changes}
    weights = {key: tensor for key, tensor in weights.items() if tensor is not None}
    bad = replace(document, quantization=replace(WHOLE, weights=weights))
    with pytest.raises(ModelFileError, match=message):
        modelfile.write(path, bad, tensors)
    # The same in a file that somebody else wrote, with its hash.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization, "check_layout", lambda *_, **__: None)
        patch.setattr(quantization, "check_values", lambda *_: None)
        modelfile.write(path, bad, tensors)
    with pytest.raises(ModelFileError, match=rf"tiny\.safetensors: .*{message}"):
        found = modelfile.read(path)[0].quantization
        assert found is not None
        dict(found.weights)


@pytest.mark.parametrize(
    ("ranges", "name"),
    [
        ({"layer1.0.conv3": (0.0, 1.0)}, CONV),
        ({**WHOLE.ranges, "layer1.0.conv2.relu": (0.0, 1.0)}, "layer1.0.conv3"),
    ],
)
def test_levels_and_no_range_are_refused_when_the_file_is_read(
    tmp_path: Path, ranges: dict[str, tuple[float, float]], name: str
) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    document, tensors = modelfile.read(path)
    bad = replace(document, quantization=Quantization(ranges=ranges, weights=rounded(document)))
    message = f"{name} has levels and its input no range, or the reverse"
    with pytest.raises(ModelFileError, match=message):
        modelfile.write(path, bad, tensors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization, "check_layout", lambda *_, **__: None)
        modelfile.write(path, bad, tensors)
    with pytest.raises(ModelFileError, match=rf"tiny\.safetensors: .*{message}"):
        modelfile.verify(path)


@pytest.mark.parametrize(
    "name",
    ["resnext26_32x4d", "seresnext26d_32x4d", "skresnext26_32x4d", "seresnextaa26d_32x8d"],
)
def test_inputs_are_those_of_the_graph(name: str) -> None:
    architecture = arch.parse(name, num_classes=2)
    tensors = {
        key: np.broadcast_to(np.float16(1), shape)
        for key, shape in arch.tensor_shapes(architecture).items()
    }
    built = graph.build(architecture, preprocessing(32), tensors)
    takes = {node.name: node.input[0] for node in built.graph.node if node.op_type == "Conv"}
    found = quantization.inputs(architecture)
    assert list(found) == list(convolutions(architecture))
    assert found == {key: takes[key] for key in found}


@pytest.mark.parametrize("version", [2, 4])
def test_the_version_says_whether_there_are_rounded_weights(tmp_path: Path, version: int) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    document, tensors = modelfile.read(path)
    whole = replace(document, quantization=replace(WHOLE, weights=rounded(document)))
    stated = {**whole.to_json(), "schema_version": version}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modelfile.ModelDocument, "to_json", lambda _: stated)
        modelfile.write(path, whole, tensors)
    with pytest.raises(ModelFileError, match=f"schema version {version}"):
        modelfile.read(path)


def quantized(path: Path) -> dict[str, Any]:
    """Write a tiny model with rounded weights, and return these."""
    testing.write_tiny_model(path)
    document, tensors = modelfile.read(path)
    weights = rounded(document)
    modelfile.write(path, replace(document, quantization=replace(WHOLE, weights=weights)), tensors)
    return weights


def test_rounded_weights_of_another_file_in_its_place_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    quantized(path)
    document, tensors = modelfile.read(path)
    assert document.quantization is not None
    modelfile.write(path, replace(modelfile.read(path)[0], name="other"), tensors)
    with pytest.raises(ModelFileError, match=r"tiny\.safetensors: the file was replaced"):
        document.quantization.weights[SCALED]


@pytest.mark.parametrize("content", [None, b"short"])
def test_rounded_weights_of_a_file_that_is_gone_are_refused(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "tiny.safetensors"
    quantized(path)
    document, tensors = modelfile.read(path)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"tiny\.safetensors: not a readable"):
        modelfile.write(tmp_path / "copy.safetensors", document, tensors)


def test_rounded_weights_are_read_once_and_not_to_look_for_a_name(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    weights = quantized(path)
    found = modelfile.read(path)[0].quantization
    assert found is not None
    path.rename(tmp_path / "away")
    assert SCALED in found.weights and "conv1.weight" not in found.weights
    (tmp_path / "away").rename(path)
    first = found.weights[SCALED]
    path.unlink()
    assert np.array_equal(first, weights[SCALED])
    assert all(np.array_equal(found.weights[key], weights[key]) for key in weights)
