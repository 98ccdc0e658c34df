"""Graph, both engines and the module against torchvision and timm, random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
import pytest
from networks import one_thread, preprocessing, random_batch, random_tensors, relative_error

from resnext import arch
from resnext.arch import ArchSpec
from resnext.engines import graph
from resnext.engines.base import AbstractEngine, GraphSource, Signature
from resnext.errors import import_extra

pytestmark = pytest.mark.torch

TOLERANCE = 1e-4  # relative L2; what is found is below 2e-6
SMALL = [
    ("resnext26_32x1d", 64),
    ("resnext26d_32x1d", 65),  # an odd side: the average pool of the shortcut rounds up
    ("resnext26_1x16d", 64),
    ("resnext29_8x2d", 32),
    ("seresnext26t_2x4d", 65),
    ("skresnext26d_4x4d", 65),
    ("resnextaa26_2x4d", 64),
]
FULL = [
    ("resnext50_32x4d", 224),
    ("resnext50d_32x4d", 224),
    ("resnext50_1x64d", 96),
    ("resnext101_32x4d", 96),
    ("resnext101_32x8d", 96),
    ("resnext101_64x4d", 96),
    ("resnext101_32x16d", 64),
    ("resnext101_32x32d", 64),
    ("resnext29_8x64d", 32),
    ("seresnext26d_32x4d", 96),
    ("seresnext26t_32x4d", 96),
    ("seresnext50_32x4d", 96),
    ("seresnext101_32x4d", 96),
    ("seresnext101_32x8d", 64),
    ("seresnext101_64x4d", 64),
    ("seresnext101d_32x8d", 64),
    ("seresnextaa101d_32x8d", 96),
    ("seresnextaa201d_32x8d", 64),
    ("skresnext50_32x4d", 224),
]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network, a batch, and what the peer and our module compute of it."""

    spec: ArchSpec
    model: onnx.ModelProto
    batch: Any
    peer: tuple[Any, Any]
    module: tuple[Any, Any]


@pytest.fixture(
    scope="module",  # so that one large network at a time is held, for both engines
    params=[*SMALL, *(pytest.param(case, marks=pytest.mark.slow) for case in FULL)],
    ids=lambda case: f"{case[0]}-{case[1]}",
)
def case(request: pytest.FixtureRequest) -> Case:
    from oracles import load, oracle, run_oracle

    name, size = request.param
    spec = arch.parse(name)
    tensors = random_tensors(spec, seed=7)
    batch = random_batch(3, size, seed=8)
    network = import_extra("resnext.network", extra="torch")
    with one_thread():
        peer, module = (
            run_oracle(each, batch, preprocessing(size))
            for each in (oracle(spec, tensors), load(lambda: network.ResNeXt(spec), tensors))
        )
    model = graph.build(spec, preprocessing(size), tensors)
    return Case(spec=spec, model=model, batch=batch, peer=peer, module=module)


@pytest.fixture(params=["openvino", "ort"])
def engine(request: pytest.FixtureRequest, case: Case) -> Iterator[AbstractEngine]:
    signature = Signature(
        input_size=case.batch.shape[1],
        in_chans=3,
        num_classes=case.spec.num_classes,
        embedding_size=case.spec.embedding_size,
    )
    source = GraphSource(signature=signature, build=lambda _, **__: case.model)
    opened: AbstractEngine
    if request.param == "ort":
        opened = pytest.importorskip("resnext.engines.ort").ORTEngine(source)
    else:
        from resnext.engines.openvino import OpenVINOEngine

        opened = OpenVINOEngine(source, precision="fp32")
    with opened:
        yield opened


def test_an_engine_computes_what_the_reference_computes(engine: AbstractEngine, case: Case) -> None:
    outputs = engine.run(case.batch)
    errors = {
        f"{kind} of the {who}": relative_error(found, expected)
        for who, pair in (("peer", case.peer), ("module", case.module))
        for kind, found, expected in zip(
            ("logits", "embedding"), (outputs.logits, outputs.embedding), pair, strict=True
        )
    }
    print(f"parity {case.spec.name} {case.batch.shape[1]} {engine.name} {errors}")  # pytest -s
    assert all(error <= TOLERANCE for error in errors.values()), errors
