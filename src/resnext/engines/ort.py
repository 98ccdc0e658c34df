"""Run the graph on ONNX Runtime, the second engine: fp32 on any processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from resnext import cores
from resnext.engines import eightbits, graph
from resnext.engines.base import (
    BEST_BATCH_SIZE,
    EMBEDDING,
    FEATURES,
    IMAGE,
    LOGITS,
    AbstractEngine,
    GraphSource,
    Outputs,
    Precision,
    check_eight_bits,
)
from resnext.errors import ConfigError, EngineError

PRECISIONS = ("auto", "fp32", "int8")

_FAILURES = (errors.Fail, errors.RuntimeException, errors.InvalidGraph, errors.InvalidArgument)
_PROVIDERS = ["CPUExecutionProvider"]
# Channels a group has at least: blocks of 16 are what the kernels for AVX-512 compute, and two of
# those for AVX2. ResNeXt-50 32x4d takes 0.90 of the time in fp32, ResNeXt-101 32x8d 0.95; with
# 32 it is 0.92 and 0.99 (two cores of a Xeon, ONNX Runtime 1.31, 2026-11-22).
_GROUP_WIDTH = eightbits.GROUP_WIDTH
_FATAL = 4  # severity: what fails is raised, it need not be printed as well


class ORTEngine(AbstractEngine):
    """One network on this machine's processor.

    Args:
        source: Where the graph comes from.
        precision: "fp32", "int8" for a model that was quantized, or "auto": the second where
            there is such a graph.
        threads: Number of processor threads, or None for one per physical core.

    Raises:
        ConfigError: Another precision, no thread.
        EngineError: ONNX Runtime refuses the network.
    """

    name: ClassVar[str] = "onnxruntime"

    def __init__(
        self, source: GraphSource, *, precision: str = "auto", threads: int | None = None
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(
                f"precision is {precision!r}; engine ort has {', '.join(PRECISIONS)}",
                hint="take engine openvino for bf16" if precision == "bf16" else "",
            )
        if threads is not None and threads < 1:
            raise ConfigError(f"threads is {threads}; expected at least 1")
        check_eight_bits(precision, source)
        in_eight_bits = source.eight_bits and precision != "fp32"
        chosen: Precision = "int8" if in_eight_bits else "fp32"
        super().__init__(source.signature, precision=chosen, best_batch_size=BEST_BATCH_SIZE)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores.limit() or 0  # 0: ONNX Runtime's own choice
        options.log_severity_level = _FATAL
        with graph.serialized(source.build(chosen, group_width=_GROUP_WIDTH)) as model:
            try:
                self._session: Any = onnxruntime.InferenceSession(model, options, _PROVIDERS)
            except _FAILURES as error:
                raise EngineError(f"{self} refuses the network: {error}") from error

    def _infer(self, batch_nhwc: npt.NDArray[np.uint8]) -> Outputs:
        try:
            names = [LOGITS, EMBEDDING, FEATURES][: 3 if self.signature.feature_maps else 2]
            return Outputs(*self._session.run(names, {IMAGE: batch_nhwc}))
        except _FAILURES as error:
            if "allocate memory" in str(error) or "bad allocation" in str(error):
                raise MemoryError(str(error)) from error
            raise EngineError(f"{self} failed: {error}") from error

    def _release(self) -> None:
        self._session = None


def open_graph(model: bytes | Path) -> Callable[[dict[str, Any], list[str]], list[Any]]:
    """Open any ONNX graph, as bytes or as a file.

    Args:
        model: The graph.

    Returns:
        A function of inputs by name and names of outputs, which returns these.

    Raises:
        EngineError: ONNX Runtime refuses the graph.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    content = str(model) if isinstance(model, Path) else model
    try:
        session: Any = onnxruntime.InferenceSession(content, options, _PROVIDERS)
    except _FAILURES as error:
        raise EngineError(f"ONNX Runtime refuses the graph: {error}") from error
    return lambda inputs, names: list(session.run(names, inputs))
