"""What is rounded, and that all before the rounding leaves the answers as they were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from networks import preprocessing, random_tensors, relative_error
from onnx import helper
from onnx.reference import ReferenceEvaluator

from resnext import arch, modelfile, weights
from resnext.deploy import levels, quantize
from resnext.engines import graph, rounding, select
from resnext.layers import Conv
from resnext.modelfile import ModelDocument, Tensors
from resnext.predictions import Labels
from resnext.quantization import Quantization
from resnext.weights import LocalModel


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    return write(tmp_path_factory.mktemp("grouped"), depth=26)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """A network of half the channels: rounding takes the cube of them."""
    return write(tmp_path_factory.mktemp("narrow"), depth=29)


def write(folder: Path, *, depth: int) -> LocalModel:
    spec = arch.ArchSpec(depth=depth, cardinality=8, base_width=4, num_classes=10)
    document = ModelDocument(
        name="grouped",
        architecture=spec,
        labels=Labels(tuple("abcdefghij")),
        preprocess=preprocessing(32),
    )
    path = folder / "grouped.safetensors"
    modelfile.write(path, document, random_tensors(spec, seed=0))
    return weights.locate(path)


def batch(count: int, seed: int) -> np.ndarray:
    """Draw pictures of 32 pixels with squares of one color, of very different contrast."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (count, 4, 4, 3)) * rng.uniform(10, 127, (count, 1, 1, 1))
    return (128 + coarse).astype(np.uint8).repeat(8, 1).repeat(8, 2)


def find(local: LocalModel, count: int) -> Iterator[tuple[str, Quantization]]:
    return quantize.find(local.document, weights.read_tensors(local), batch(count, seed=0))


def logits(local: LocalModel, quantization: Quantization | None, folder: Path) -> np.ndarray:
    if quantization is not None:
        document = replace(local.document, quantization=quantization)
        path = folder / "rounded.safetensors"
        modelfile.write(path, document, weights.read_tensors(local))
        local = weights.locate(path)
    precision = "fp32" if quantization is None else "int8"
    with select.load(local, precision=precision) as engine:
        return engine.run(batch(80, seed=1)).logits


@pytest.mark.slow
def test_answers_stay(grouped: LocalModel, tmp_path: Path) -> None:
    exact = logits(grouped, None, tmp_path)
    apart = {}
    for words, quantization in find(grouped, 60):
        answers = logits(grouped, quantization, tmp_path)
        apart[words] = relative_error(answers, exact)
        assert (answers.argmax(axis=1) == exact.argmax(axis=1)).mean() > 0.9
    assert 1e-6 < apart["all but the sums"] < apart["everything"] < 0.15


def test_levels_are_better_than_the_nearest(
    narrow: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "all but the sums"
    solved = dict(islice(find(narrow, 20), 2))[words]

    def nearest(weight: np.ndarray, step: np.ndarray, _: np.ndarray) -> np.ndarray:
        return np.rint(weight / step[..., None]).astype(np.int8)

    # Of the same folded and scaled weights, with the same steps, the bias mended as well.
    monkeypatch.setattr(rounding, "round_weight", nearest)
    plain = dict(islice(find(narrow, 20), 2))[words]
    exact = logits(narrow, None, tmp_path)
    changed = [
        key
        for key, tensor in plain.weights.items()
        if key.endswith(".levels") and not np.array_equal(tensor, solved.weights[key])
    ]
    assert changed
    better, worse = (
        relative_error(logits(narrow, which, tmp_path), exact) for which in (solved, plain)
    )
    assert better < worse


@pytest.mark.parametrize(
    "conv",
    [
        Conv("c", "n", 6, 4, 1),
        Conv("c", "n", 6, 4, 3, stride=2, groups=2),
        Conv("c", "n", 8, 8, 3, groups=4, dilation=2),
        Conv("c", "n", 3, 4, 7, stride=2),
    ],
)
def test_samples_are_what_a_convolution_sees(conv: Conv) -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(size=(2, conv.in_channels, 5, 7)).astype(np.float32)
    weight = rng.normal(size=conv.weight_shape).astype(np.float32)
    bias = rng.normal(size=conv.out_channels).astype(np.float32)
    node = helper.make_node(
        "Conv",
        ["value", "weight", "bias"],
        ["out"],
        strides=[conv.stride] * 2,
        pads=[conv.padding] * 4,
        dilations=[conv.dilation] * 2,
        group=conv.groups,
    )
    given = {"value": value, "weight": weight, "bias": bias}
    (expected,) = ReferenceEvaluator(node).run(None, given)
    seen = levels._sample(value, conv, rng)  # at all of the positions, for there are few
    found = weight.reshape(conv.groups, -1, seen.shape[1]) @ seen
    found = found.reshape(conv.out_channels, -1) + bias[:, None]
    expected = expected.transpose(1, 0, 2, 3).reshape(conv.out_channels, -1)
    assert found.shape == expected.shape
    by_first = found[:, found[0].argsort()], expected[:, expected[0].argsort()]
    np.testing.assert_allclose(*by_first, rtol=1e-4, atol=1e-4)


def test_moments_in_parts_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    # A mean far from zero, that moves: in float32 the difference of two sums would be noise.
    seen = rng.normal(size=(2, 5, 900)) + 300 + np.linspace(0, 3, 900)
    total = levels._Total()
    for part in np.split(seen.astype(np.float32), [100, 350], axis=2):
        total.add(part)
    covariance, mean = total.moments()
    assert covariance.dtype == np.float32
    np.testing.assert_allclose(mean, seen.mean(axis=2), rtol=1e-6)
    for found, group in zip(covariance, seen, strict=True):
        np.testing.assert_allclose(found, np.cov(group, bias=True), rtol=1e-3, atol=1e-3)


def _plan(name: str) -> levels.Plan:
    architecture = arch.parse(name)
    tensors: Tensors = random_tensors(architecture, seed=0)
    model = graph.build(architecture, preprocessing(64), tensors)
    return levels.plan(list(model.graph.node), architecture)


def test_the_plan_of_a_resnext() -> None:
    what = _plan("resnext26_32x4d")
    assert "conv1" not in what.inputs and "layer1.0.conv1" not in what.inputs
    assert "layer1.0.downsample.0" not in what.inputs
    assert what.inputs["layer1.0.conv2"] == "layer1.0.conv1.relu"
    assert what.inputs["layer2.0.downsample.0"] == "layer1.1.relu"
    assert len(what.inputs) == 8 * 3 + 4 - 2
    sums = {f"layer{stage}.{block}.conv3" for stage in range(1, 5) for block in range(2)}
    assert what.sums == sums | {f"layer{stage}.0.downsample.0" for stage in range(1, 5)}
    producers = {one.producers for one in what.alike if len(one.producers) > 1}
    # One for each stage but the last, whose sum is the embedding.
    assert len(producers) == 3
    assert all("layer4.1.conv3" not in names for names in producers)


@pytest.mark.parametrize(
    ("name", "stem"), [("resnext29_8x16d", "conv1.relu"), ("resnext50d_32x4d", "maxpool")]
)
def test_what_the_stem_puts_out_is_left_alone(name: str, stem: str) -> None:
    what = _plan(name)
    assert not {"normalize.shift", stem} & set(what.inputs.values())
    assert not {"conv1", "conv1.0", "layer1.0.conv1", "layer1.0.downsample.0"} & set(what.inputs)
    assert what.inputs["layer1.0.conv2"] == "layer1.0.conv1.relu"


@pytest.mark.parametrize("name", ["seresnext26d_32x4d", "skresnext50_32x4d", "resnext50d_32x4d"])
def test_values_that_pass_a_gate_are_not_scaled(name: str) -> None:
    what = _plan(name)
    assert what.alike and what.sums
    for one in what.alike:
        assert set(one.consumers) <= set(what.inputs)
        assert not any(".se" in value or "mean" in value for value in one.values)
    assert not any("reduce" in conv for conv in what.inputs)
