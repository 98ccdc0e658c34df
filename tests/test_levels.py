"""What is rounded, and that all before the rounding leaves the answers as they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from networks import preprocessing, random_tensors, relative_error

from resnext import arch, modelfile, weights
from resnext.deploy import levels, quantize
from resnext.engines import graph, select
from resnext.modelfile import ModelDocument, Tensors
from resnext.predictions import Labels
from resnext.quantization import Quantization
from resnext.weights import LocalModel


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    spec = arch.ArchSpec(depth=26, cardinality=8, base_width=4, num_classes=10)
    document = ModelDocument(
        name="grouped",
        architecture=spec,
        labels=Labels(tuple("abcdefghij")),
        preprocess=preprocessing(32),
    )
    path = tmp_path_factory.mktemp("grouped") / "grouped.safetensors"
    modelfile.write(path, document, random_tensors(spec, seed=0))
    return weights.locate(path)


def batch(count: int, seed: int) -> np.ndarray:
    """Draw pictures of 32 pixels with squares of one color, of very different contrast."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (count, 4, 4, 3)) * rng.uniform(10, 127, (count, 1, 1, 1))
    return (128 + coarse).astype(np.uint8).repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def found(grouped: LocalModel) -> dict[str, Quantization]:
    tensors = weights.read_tensors(grouped)
    return dict(quantize.find(grouped.document, tensors, batch(60, seed=0)))


def logits(local: LocalModel, quantization: Quantization | None, folder: Path) -> np.ndarray:
    if quantization is not None:
        document = replace(local.document, quantization=quantization)
        path = folder / "rounded.safetensors"
        modelfile.write(path, document, weights.read_tensors(local))
        local = weights.locate(path)
    precision = "fp32" if quantization is None else "int8"
    with select.load(local, precision=precision) as engine:
        return engine.run(batch(80, seed=1)).logits


def test_answers_stay(grouped: LocalModel, found: dict[str, Quantization], tmp_path: Path) -> None:
    exact = logits(grouped, None, tmp_path)
    apart = {}
    for words, quantization in found.items():
        answers = logits(grouped, quantization, tmp_path)
        apart[words] = relative_error(answers, exact)
        assert (answers.argmax(axis=1) == exact.argmax(axis=1)).mean() > 0.9
    assert 1e-6 < apart["all but the sums"] < apart["everything"] < 0.15


def test_levels_are_better_than_the_nearest(
    grouped: LocalModel, found: dict[str, Quantization], tmp_path: Path
) -> None:
    exact = logits(grouped, None, tmp_path)
    best = found["all but the sums"]
    rng = np.random.default_rng(0)
    # Where one level in five is the next one, as after rounding without looking.
    other = {
        key: np.clip(tensor + rng.choice([0, 0, 0, 0, 1], tensor.shape), -127, 127).astype(np.int8)
        if key.endswith(".levels")
        else tensor
        for key, tensor in best.weights.items()
    }
    worse = logits(grouped, replace(best, weights=other), tmp_path)
    assert relative_error(logits(grouped, best, tmp_path), exact) < relative_error(worse, exact)


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


@pytest.mark.parametrize("name", ["seresnext26d_32x4d", "skresnext50_32x4d", "resnext50d_32x4d"])
def test_values_that_pass_a_gate_are_not_scaled(name: str) -> None:
    what = _plan(name)
    assert what.alike and what.sums
    for one in what.alike:
        assert set(one.consumers) <= set(what.inputs)
        assert not any(".se" in value or "mean" in value for value in one.values)
    assert not any("reduce" in conv for conv in what.inputs)
