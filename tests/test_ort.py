"""ONNX Runtime behind the same seam: settings, memory, large models, closing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from networks import preprocessing, random_batch, random_tensors, relative_error

from resnext.arch import ArchSpec
from resnext.engines import graph
from resnext.engines.base import GraphSource, Precision, Signature
from resnext.engines.openvino import OpenVINOEngine
from resnext.errors import ConfigError, EngineError

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: 'resnext[ort]'")

from resnext.engines import ort
from resnext.engines.ort import ORTEngine

SPEC = ArchSpec(depth=29, cardinality=2, base_width=2, num_classes=5)
SIGNATURE = Signature(input_size=32, in_chans=3, num_classes=5, embedding_size=1024)
BATCH = random_batch(3, 32, seed=1)


def build(precision: Precision, /, *, group_width: int = 1) -> onnx.ModelProto:
    assert precision == "fp32"
    tensors = random_tensors(SPEC, seed=0)
    return graph.build(SPEC, preprocessing(32), tensors, group_width=group_width)


SOURCE = GraphSource(signature=SIGNATURE, build=build)


@pytest.fixture(scope="module")
def expected() -> npt.NDArray[np.float32]:
    with OpenVINOEngine(SOURCE, precision="fp32") as engine:
        return engine.run(BATCH).logits


@pytest.mark.parametrize("threads", [None, 1, 2])
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_it_computes_what_openvino_computes(
    threads: int | None, precision: str, expected: npt.NDArray[np.float32]
) -> None:
    with ORTEngine(SOURCE, precision=precision, threads=threads) as engine:
        outputs = engine.run(BATCH)
        assert str(engine) == "engine onnxruntime (fp32)"
    assert relative_error(outputs.logits, expected) < 1e-5
    assert outputs.embedding.shape == (3, 1024)


def test_groups_are_wide_enough_to_be_fast() -> None:
    widths = []

    def remember(precision: Precision, /, *, group_width: int = 1) -> onnx.ModelProto:
        widths.append((precision, group_width))
        return build("fp32")

    for eight_bits in (True, False):
        source = GraphSource(signature=SIGNATURE, build=remember, eight_bits=eight_bits)
        ORTEngine(source).close()
    assert widths == [("int8", 16), ("fp32", 16)]


def test_weights_too_large_for_one_message_go_through_files(
    monkeypatch: pytest.MonkeyPatch, expected: npt.NDArray[np.float32]
) -> None:
    monkeypatch.setattr(graph, "MAX_INLINE_BYTES", 1000)
    with ORTEngine(SOURCE) as engine:
        assert relative_error(engine.run(BATCH).logits, expected) < 1e-5


class FailingSession:
    """Fails as ONNX Runtime does above a number of pictures."""

    def __init__(self, session: Any, *, fits: int, message: str) -> None:
        self.session, self.fits, self.message = session, fits, message

    def run(self, names: list[str], inputs: dict[str, npt.NDArray[np.uint8]]) -> Any:
        if len(inputs["image"]) > self.fits:
            raise ort.errors.Fail(self.message)
        return self.session.run(names, inputs)


def test_out_of_memory_splits_the_batch(expected: npt.NDArray[np.float32]) -> None:
    with ORTEngine(SOURCE) as engine:
        message = "BFCArena::AllocateRawInternal Failed to allocate memory for buffer of size 9"
        engine._session = FailingSession(engine._session, fits=1, message=message)
        assert relative_error(engine.run(BATCH).logits, expected) < 1e-5


def test_another_failure_is_an_engine_error() -> None:
    with ORTEngine(SOURCE) as engine:
        engine._session = FailingSession(engine._session, fits=0, message="no such kernel")
        with pytest.raises(EngineError, match=r"onnxruntime \(fp32\) failed: no such kernel"):
            engine.run(BATCH)


def test_a_graph_that_it_refuses_is_an_engine_error() -> None:
    def broken(precision: Precision, /, *, group_width: int = 1) -> onnx.ModelProto:
        model = build(precision)
        model.graph.node[-1].op_type = "NoSuchOp"
        return model

    with pytest.raises(EngineError, match=r"onnxruntime \(fp32\) refuses the network.*NoSuchOp"):
        ORTEngine(GraphSource(signature=SIGNATURE, build=broken))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16"}, "engine ort has auto, fp32, int8\n\nhint: take engine openvino"),
        ({"precision": "int4"}, "precision is 'int4'; engine ort has auto, fp32, int8$"),
        ({"precision": "int8"}, "precision is 'int8', and the model was not quantized"),
        ({"threads": 0}, "threads is 0; expected at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ORTEngine(SOURCE, **options)


def test_a_closed_engine_says_so() -> None:
    engine = ORTEngine(SOURCE)
    engine.close()
    with pytest.raises(EngineError, match=r"onnxruntime \(fp32\) is closed"):
        engine.run(BATCH)
