"""The graph: valid ONNX, the golden logits, folding, refusals, large files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from networks import preprocessing, random_batch, random_tensors, relative_error
from onnx.reference import ReferenceEvaluator

from resnext import arch
from resnext.arch import ArchSpec
from resnext.engines import folding, graph
from resnext.engines.base import GRAPH_VERSION, Precision
from resnext.engines.openvino import ov
from resnext.errors import ModelFileError, OutputError
from resnext.preprocess import normalize

TINY = ArchSpec(depth=29, cardinality=2, base_width=2, num_classes=5)
GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("logits.json").read_text())
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
Array = npt.NDArray[Any]


def run(model: onnx.ModelProto | Path, batch: Array) -> tuple[Array, Array]:
    content = model if isinstance(model, Path) else model.SerializeToString()
    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(content),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"},
    )
    outputs = compiled([batch])
    return outputs["logits"], outputs["embedding"]


@pytest.fixture
def unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first convolution for bfloat16 keep all digits of its weights."""
    monkeypatch.setattr(graph, "round_stem", lambda weight: weight)


@pytest.fixture(scope="module")
def tiny() -> onnx.ModelProto:
    return graph.build(TINY, preprocessing(32), random_tensors(TINY, seed=1))


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", GOLDEN["networks"])
def test_logits_and_features_are_those_of_torchvision_and_timm(
    name: str, precision: Precision
) -> None:
    expected = GOLDEN["networks"][name]
    spec, size = arch.parse(name, num_classes=10), expected["input_size"]
    model = graph.build(
        spec,
        preprocessing(size),
        random_tensors(spec, seed=GOLDEN["seed"]),
        precision=precision,
    )
    onnx.checker.check_model(model, full_check=True)
    logits, embedding = run(model, random_batch(GOLDEN["count"], size, seed=GOLDEN["seed"]))
    assert relative_error(logits, np.array(expected["logits"])) < 1e-5
    assert relative_error(embedding[:, :8], np.array(expected["embedding_start"])) < 1e-5


@pytest.mark.parametrize("name", GOLDEN["networks"])
def test_weights_of_bfloat16_change_little(name: str) -> None:
    expected = GOLDEN["networks"][name]
    spec, size = arch.parse(name, num_classes=10), expected["input_size"]
    tensors = random_tensors(spec, seed=GOLDEN["seed"])
    model = graph.build(spec, preprocessing(size), tensors, precision="bf16")
    logits, _ = run(model, random_batch(GOLDEN["count"], size, seed=GOLDEN["seed"]))
    assert 1e-6 < relative_error(logits, np.array(expected["logits"])) < 2e-3


def test_the_signature_is_uint8_pictures_to_logits_and_embedding(tiny: onnx.ModelProto) -> None:
    (image,) = tiny.graph.input
    assert image.name == "image"
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dims = image.type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 32, 32, 3]
    shapes = {
        out.name: [dim.dim_param or dim.dim_value for dim in out.type.tensor_type.shape.dim]
        for out in tiny.graph.output
    }
    assert shapes == {"logits": ["N", 5], "embedding": ["N", 1024]}
    facts = {entry.key: entry.value for entry in tiny.metadata_props}
    assert facts == {"architecture": "resnext29_2x2d", "graph_version": str(GRAPH_VERSION)}
    assert {entry.version for entry in tiny.opset_import} == {17}


def test_every_batch_size_gives_the_same_rows(tiny: onnx.ModelProto) -> None:
    batch = random_batch(3, 32, seed=2)
    together = run(tiny, batch)[0]
    alone = np.concatenate([run(tiny, batch[i : i + 1])[0] for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_first_nodes_are_the_normalization_of_preprocess(precision: Precision) -> None:
    # A first convolution that copies its input shows what it was given, borders included.
    tensors = random_tensors(TINY, seed=3)
    identity = np.zeros((64, 3, 3, 3), np.float32)
    identity[np.arange(3), np.arange(3), 1, 1] = 1
    tensors["conv1.weight"] = identity
    tensors["bn1.weight"] = np.ones(64, np.float32)
    tensors["bn1.running_var"] = np.full(64, 1 - arch.BN_EPS, np.float32)
    tensors["bn1.running_mean"] = np.zeros(64, np.float32)
    tensors["bn1.bias"] = np.full(64, 10, np.float32)  # above what the ReLU would cut
    model = graph.build(TINY, preprocessing(32), tensors, precision=precision)
    model.graph.output.append(onnx.ValueInfoProto(name="conv1"))
    batch = random_batch(2, 32, seed=4)
    found = ReferenceEvaluator(model).run(["conv1"], {"image": batch})[0]
    expected = normalize(batch, preprocessing(32)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found[:, :3] - 10, expected, atol=2e-6)


@pytest.mark.usefixtures("unrounded")
def test_padding_is_zero_after_normalization_with_whole_numbers_too() -> None:
    tensors = random_tensors(TINY, seed=5)
    tensors["conv1.weight"] = np.ones((64, 3, 3, 3), np.float32)  # sums up the border
    batch = np.full((1, 32, 32, 3), 200, np.uint8)
    plain, whole = (
        run(graph.build(TINY, preprocessing(32), tensors, precision=precision), batch)[1]
        for precision in PRECISIONS
    )
    assert relative_error(whole, plain) < 1e-6


def test_whole_numbers_meet_weights_of_bfloat16() -> None:
    model = graph.build(TINY, preprocessing(32), random_tensors(TINY, seed=6), precision="bf16")
    weights = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
    found = weights["conv1.weight"]
    assert found.shape == (64, 4, 3, 3)
    np.testing.assert_array_equal(found, found.astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(weights["normalize.center.value"].ravel(), [124, 116, 104, 0])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_of_any_float_type_are_taken(dtype: npt.DTypeLike) -> None:
    tensors = random_tensors(TINY, seed=8)
    stored = {key: tensor.astype(dtype) for key, tensor in tensors.items()}
    widened = {key: tensor.astype(np.float32) for key, tensor in stored.items()}
    models = [graph.build(TINY, preprocessing(32), each) for each in (stored, widened)]
    batch = random_batch(1, 32, seed=9)
    np.testing.assert_allclose(run(models[0], batch)[0], run(models[1], batch)[0], atol=1e-6)


def _without(tensors: dict[str, Array]) -> None:
    del tensors["layer2.0.bn2.running_var"]


def _misshapen(tensors: dict[str, Array]) -> None:
    tensors["fc.weight"] = tensors["fc.weight"][:, :-1]


def _nan(tensors: dict[str, Array]) -> None:
    tensors["layer1.0.conv1.weight"][0, 0] = np.nan


def _negative_variance(tensors: dict[str, Array]) -> None:
    tensors["bn1.running_var"][0] = -1


def _infinite_head(tensors: dict[str, Array]) -> None:
    tensors["fc.bias"][0] = np.inf


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without, r"the weights lack layer2\.0\.bn2\.running_var"),
        (_misshapen, r"fc\.weight has shape \(5, 1023\); expected \(5, 1024\)"),
        (_nan, r"layer1\.0\.conv1\.weight is not finite"),
        (_negative_variance, r"conv1\.weight is not finite; .* running_var of at least 0"),
        (_infinite_head, r"fc\.bias is not finite"),
    ],
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_broken_tensors_are_refused_by_name(
    spoil: Callable[[dict[str, Array]], None], message: str, precision: Precision
) -> None:
    tensors: dict[str, Array] = dict(random_tensors(TINY, seed=10))
    spoil(tensors)
    with pytest.raises(ModelFileError, match=message):
        graph.build(TINY, preprocessing(32), tensors, precision=precision)


def test_channels_must_be_those_of_the_normalization() -> None:
    spec = ArchSpec(depth=29, cardinality=2, base_width=2, num_classes=5, in_chans=1)
    with pytest.raises(ModelFileError, match="takes 1 channel, its mean has 3"):
        graph.build(spec, preprocessing(32), random_tensors(spec, seed=11))


def test_a_small_model_is_one_file(tiny: onnx.ModelProto, tmp_path: Path) -> None:
    (path,) = graph.save(tiny, tmp_path / "tiny.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.onnx"]
    assert onnx.load(path) == tiny


def test_a_large_model_keeps_its_weights_beside_it(tiny: onnx.ModelProto, tmp_path: Path) -> None:
    before = tiny.SerializeToString()
    path, data = graph.save(tiny, tmp_path / "tiny.onnx", max_inline_bytes=1000)
    assert tiny.SerializeToString() == before, "saving must not empty the model"
    assert data.name == "tiny.onnx.data"
    assert path.stat().st_size < 100_000 < data.stat().st_size
    onnx.checker.check_model(path, full_check=True)
    batch = random_batch(2, 32, seed=12)
    for found, expected in zip(run(path, batch), run(tiny, batch), strict=True):
        np.testing.assert_array_equal(found, expected)
    places = [
        {entry.key: entry.value for entry in weight.external_data}
        for weight in onnx.load(path, load_external_data=False).graph.initializer
        if weight.external_data
    ]
    assert {place["location"] for place in places} == {"tiny.onnx.data"}
    assert all(int(place["offset"]) % 4096 == 0 for place in places)


def test_a_folder_that_is_missing_is_named(tiny: onnx.ModelProto, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="absent"):
        graph.save(tiny, tmp_path / "absent" / "tiny.onnx")


def test_a_change_of_the_graph_raises_its_version() -> None:
    # If this fails, raise base.GRAPH_VERSION and then write the new hash here: compiled
    # networks in users' caches are found by that number.
    structure = hashlib.sha256()
    names = "resnext26_2x4d resnext26d_2x4d resnext29_2x4d seresnextaa26t_2x4d skresnext26_2x4d"
    for name in names.split():
        spec = arch.parse(name)
        for precision in PRECISIONS:
            tensors = {
                key: np.full(shape, 0.5, np.float32)
                for key, shape in arch.tensor_shapes(spec).items()
            }
            model = graph.build(spec, preprocessing(64), tensors, precision=precision)
            for node in model.graph.node:
                attributes = sorted(
                    (entry.name, onnx.helper.get_attribute_value(entry)) for entry in node.attribute
                )
                parts = (node.op_type, list(node.input), list(node.output), attributes)
                structure.update(repr(parts).encode())
            for weight in model.graph.initializer:
                structure.update(repr((weight.name, list(weight.dims))).encode())
    stem = folding.round_stem(np.random.default_rng(0).normal(size=(8, 4, 7, 7)))
    structure.update(stem.astype(np.float32).tobytes())
    assert (GRAPH_VERSION, structure.hexdigest()[:16]) == (6, "99b417955d09b0a3")


@pytest.mark.parametrize("name", ["resnext26_32x4d", "skresnext26_32x4d"])
def test_the_whole_network_with_joined_groups_is_the_same(name: str) -> None:
    spec = arch.parse(name, num_classes=10)
    tensors, batch = random_tensors(spec, seed=3), random_batch(2, 64, seed=4)
    plain, joined = (
        graph.build(spec, preprocessing(64), tensors, group_width=width) for width in (1, 32)
    )
    groups = [
        attribute.i
        for node in joined.graph.node
        for attribute in node.attribute
        if attribute.name == "group"
    ]
    assert set(groups) == {1, 4, 8, 16, 32}, "the last stage has 32 channels a group anyway"
    for found, expected in zip(run(joined, batch), run(plain, batch), strict=True):
        assert relative_error(found, expected) < 1e-5
