"""Both engines in fp32 against torchvision and timm, random weights, 1e-4 relative L2."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from networks import preprocessing, random_batch, random_tensors, relative_error

from resnext import arch
from resnext.engines import graph
from resnext.engines.base import AbstractEngine, GraphSource, Signature

pytestmark = pytest.mark.torch

TOLERANCE = 1e-4  # relative L2; what is found is below 1e-6
SMALL = [
    ("resnext26_32x4d", 64),
    ("resnext26d_32x4d", 65),  # an odd side: the average pool of the shortcut rounds up
    ("resnext26_1x64d", 64),
    ("resnext29_8x8d", 32),
]
FULL = [
    ("resnext50_32x4d", 224),
    ("resnext50d_32x4d", 224),
    ("resnext50_1x64d", 224),
    ("resnext101_32x8d", 224),
    ("resnext101_64x4d", 224),
    ("resnext29_8x64d", 32),
]
CASES = [
    *(pytest.param(*case, id="-".join(map(str, case))) for case in SMALL),
    *(pytest.param(*case, id="-".join(map(str, case)), marks=pytest.mark.slow) for case in FULL),
]


@cache
def _network(name: str, size: int) -> tuple[Any, Any, Any, Any]:
    """Return the graph, a batch, and the oracle's logits and features of it."""
    from oracles import oracle, run_oracle

    spec = arch.parse(name)
    tensors = random_tensors(spec, seed=7)
    batch = random_batch(3, size, seed=8)
    model = graph.build(spec, preprocessing(size), tensors)
    logits, embedding = run_oracle(oracle(spec, tensors), batch, preprocessing(size))
    return model, batch, logits, embedding


@pytest.fixture(params=["openvino", "ort"])
def engine(request: pytest.FixtureRequest, name: str, size: int) -> Iterator[AbstractEngine]:
    spec = arch.parse(name)
    signature = Signature(
        input_size=size,
        in_chans=3,
        num_classes=spec.num_classes,
        embedding_size=spec.embedding_size,
    )
    source = GraphSource(signature=signature, build=lambda _: _network(name, size)[0])
    opened: AbstractEngine
    if request.param == "ort":
        opened = pytest.importorskip("resnext.engines.ort").ORTEngine(source)
    else:
        from resnext.engines.openvino import OpenVINOEngine

        opened = OpenVINOEngine(source, precision="fp32")
    with opened:
        yield opened


@pytest.mark.parametrize(("name", "size"), CASES)
def test_an_engine_computes_what_the_reference_computes(
    engine: AbstractEngine, name: str, size: int
) -> None:
    _, batch, logits, embedding = _network(name, size)
    outputs = engine.run(batch)
    errors = {
        "logits": relative_error(outputs.logits, logits),
        "embedding": relative_error(outputs.embedding, embedding),
    }
    print(f"parity {name} {size} {engine.name} {errors}")  # shown by pytest -s
    assert all(error <= TOLERANCE for error in errors.values()), errors
