"""Run the graph on OpenVINO, the default engine on processors.

A compiled network comes from the cache where it can: its file is mapped, not read, and
neither onnx nor the weights are touched. bfloat16 is used where the processor has it and a
measurement, made once per machine, says that it is faster; fp32 is exact where asked for.
"""

from __future__ import annotations

import importlib
import io
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from resnext import cores
from resnext.engines import measured
from resnext.engines.base import (
    BEST_BATCH_SIZE,
    EMBEDDING,
    FEATURES,
    GRAPH_VERSION,
    IMAGE,
    LOGITS,
    AbstractEngine,
    GraphSource,
    Outputs,
    Precision,
    check_eight_bits,
    hint_for,
)
from resnext.engines.compiled import CompiledCache, make_key
from resnext.errors import ConfigError, EngineError

PRECISIONS = ("auto", "bf16", "fp32", "int8")
MIN_BF16_SPEEDUP = 1.1  # below this the lost digits are not worth it
MIN_WIDENING_SPEEDUP = 1.1  # of grouped convolutions; 1.8 and 0.55 is what there is

_DEVICE = "CPU"
# Streams split the cores, which costs a single batch more than it brings to many.
_SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
_PRECISION_SETTINGS: dict[Precision, dict[str, str]] = {
    "fp32": {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"},
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16"},
    "int8": {},  # what is not rounded to 8 bits is computed as the processor likes best
}
# Channels a group where wide ones are faster: what a tile of AMX takes in.
_GROUP_WIDTHS: dict[Precision, int] = {"bf16": 32, "int8": 64}
_CONVERTER = "openvino.tools.ovc"


def _import_openvino() -> Any:
    """Import OpenVINO without its model converter, which stays available.

    `import openvino` imports the converter, which nothing here uses, as an optional part:
    90 ms, and 80 ms more for telemetry that reports each import to Google Analytics, writes
    to ~/intel and starts a process (2026.4). Nobody agreed to that, and a program that
    promises to stay off the network must not do it. So the converter is "not installed"
    while the package is imported, a case its `__init__` provides for, and
    `openvino.convert_model` is imported when somebody first asks for it.
    """
    if "openvino" in sys.modules or _CONVERTER in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[_CONVERTER] = None  # type: ignore[assignment]  # the documented way to say so
    try:
        runtime: Any = importlib.import_module("openvino")
    finally:
        del sys.modules[_CONVERTER]
    if not hasattr(runtime, "convert_model"):

        def import_converter(name: str) -> Any:
            if name != "convert_model":
                raise AttributeError(f"module 'openvino' has no attribute {name!r}")
            runtime.convert_model = importlib.import_module(_CONVERTER).convert_model
            return runtime.convert_model

        runtime.__getattr__ = import_converter  # PEP 562
    return runtime


ov = _import_openvino()


_core_lock = threading.Lock()
_cores: list[Any] = []  # none, or the one


class OpenVINOEngine(AbstractEngine):
    """One network on this machine's processor.

    Args:
        source: Where the graph comes from.
        precision: "fp32", "bf16", "int8" for a model that was quantized, or "auto": int8 where
            there is such a graph, else the faster one on this machine.
        threads: Number of processor threads, or None for one per physical core.
        cache: Folder for compiled networks and for what was measured; None for no cache.

    Raises:
        ConfigError: Unknown precision, bf16 on a processor without it, no thread.
        EngineError: OpenVINO refuses the network.
    """

    name: ClassVar[str] = "openvino"

    def __init__(
        self,
        source: GraphSource,
        *,
        precision: str = "auto",
        threads: int | None = None,
        cache: Path | None = None,
    ) -> None:
        check_eight_bits(precision, source)
        core = open_core()
        chosen = _choose_precision(core, precision, cache, eight_bits=source.eight_bits)
        super().__init__(source.signature, precision=chosen, best_batch_size=BEST_BATCH_SIZE)
        self._group_width = _choose_group_width(core, chosen, cache)
        settings = {**_SETTINGS, **_PRECISION_SETTINGS[chosen]}
        if threads is not None and threads < 1:
            raise ConfigError(f"threads is {threads}; expected at least 1")
        threads = threads or cores.limit()  # which the runtime does not look for
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        # In this order: the mapped file must outlive the network, which refers to its bytes,
        # also where both end with an engine that nobody closed.
        self._request: Any = None
        self._blob: npt.NDArray[np.uint8] | None = None
        self._request = self._compile(core, source, settings, cache).create_infer_request()

    def _compile(
        self, core: Any, source: GraphSource, settings: Mapping[str, str], cache: Path | None
    ) -> Any:
        if cache is None or not source.identity:
            return self._compile_graph(core, source, settings)
        store = CompiledCache(cache / "compiled")
        # Not the number of threads: it is given when a network is loaded.
        key = make_key(
            {
                "graph": source.identity,
                "graph_version": GRAPH_VERSION,
                "machine": _describe_machine(core),
                "settings": {**_SETTINGS, **_PRECISION_SETTINGS[self.precision]},
                "group_width": self._group_width,
            }
        )
        self._blob = store.load(key)
        if self._blob is not None:
            try:
                tensor = ov.Tensor(self._blob, shared_memory=True)
                return core.import_model(tensor, _DEVICE, settings)
            except RuntimeError:  # whole, but not to this runtime's liking
                self._blob = None
                store.discard(key)
        compiled = self._compile_graph(core, source, settings)
        exported = io.BytesIO()
        compiled.export_model(exported)
        store.store(key, exported.getbuffer())
        return compiled

    def _compile_graph(self, core: Any, source: GraphSource, settings: Mapping[str, str]) -> Any:
        # Here, not above: it brings onnx, 80 ms, which a start from a warm cache does not need.
        from resnext.engines import graph

        built = source.build(self.precision, group_width=self._group_width)
        with graph.serialized(built) as model:
            try:
                return core.compile_model(core.read_model(model), _DEVICE, settings)
            except RuntimeError as error:
                raise EngineError(f"{self} refuses the network: {_brief(error)}") from error

    def _infer(self, batch_nhwc: npt.NDArray[np.uint8]) -> Outputs:
        try:
            # One request for the network's whole life, and every call shares its input: after a
            # shared one, OpenVINO 2026.4 copies what another request does not share into the
            # array of before, which may be gone (docs/LOG.md).
            self._request.infer({IMAGE: batch_nhwc}, share_inputs=True)
            names = (LOGITS, EMBEDDING, FEATURES)[: 3 if self.signature.feature_maps else 2]
            # Copies: the request writes the next batch into the same memory.
            return Outputs(*(self._request.get_tensor(name).data.copy() for name in names))
        except RuntimeError as error:
            if "bad_alloc" in str(error) or "out of memory" in str(error).lower():
                raise MemoryError(_brief(error)) from error
            raise EngineError(f"{self} failed: {_brief(error)}") from error

    def _release(self) -> None:
        self._request = None
        self._blob = None


def read_graph(content: bytes | Path) -> Any:
    """Read an ONNX graph, or a file of OpenVINO's own, for changes or for `save_model`.

    Raises:
        EngineError: OpenVINO refuses it.
    """
    try:
        return open_core().read_model(content)
    except RuntimeError as error:
        raise EngineError(f"OpenVINO refuses the graph: {_brief(error)}") from error


def open_graph(
    path: Path, *, precision: Precision = "fp32"
) -> Callable[[dict[str, Any], list[str]], list[Any]]:
    """Open an ONNX file, or one of OpenVINO's own.

    Args:
        path: The file.
        precision: What is computed in; for a graph with 8 bits in it "int8".

    Returns:
        A function of inputs by name and names of outputs, which returns these.

    Raises:
        EngineError: OpenVINO refuses the graph.
    """
    settings = {**_SETTINGS, **_PRECISION_SETTINGS[precision]}
    request = open_core().compile_model(read_graph(path), _DEVICE, settings).create_infer_request()

    def run(inputs: dict[str, Any], names: list[str]) -> list[Any]:
        request.infer(inputs)
        return [request.get_tensor(name).data.copy() for name in names]

    return run


def open_core() -> Any:
    """Return the runtime: one for the whole process, and until its end.

    The runtime gives the thread that opens it a stack for signals, large enough for AMX, and
    puts the one before it back when it is taken down. Two that end in the order in which
    they began leave a thread with a stack that is gone, and the next signal is its end.
    """
    with _core_lock:
        if not _cores:
            _cores.append(ov.Core())
        return _cores[0]


def _describe_machine(core: Any) -> dict[str, Any]:
    return {
        "openvino": ov.get_version(),
        "processor": core.get_property(_DEVICE, "FULL_DEVICE_NAME"),
        "capabilities": sorted(core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")),
    }


def _choose_precision(
    core: Any, precision: str, cache: Path | None, *, eight_bits: bool = False
) -> Precision:
    if precision not in PRECISIONS:
        raise ConfigError(
            f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}",
            hint=hint_for(precision),
        )
    if precision == "fp32":
        return "fp32"
    if precision == "int8" or (eight_bits and precision == "auto"):
        return "int8"
    machine = _describe_machine(core)
    if "BF16" not in machine["capabilities"]:
        if precision == "auto":
            return "fp32"
        raise ConfigError(
            f"precision is 'bf16', which this processor ({machine['processor']}) does not have",
            hint="take precision auto or fp32",
        )
    if precision == "bf16":
        return "bf16"
    speedup = measured.remember(
        cache, "bf16_speedup", make_key(machine), lambda: _measure_bf16_speedup(core)
    )
    return "bf16" if speedup >= MIN_BF16_SPEEDUP else "fp32"


def _measure_bf16_speedup(core: Any) -> float:
    fp32, bf16 = ({**_SETTINGS, **_PRECISION_SETTINGS[each]} for each in ("fp32", "bf16"))
    return measured.bf16_speedup(core, fp32=fp32, bf16=bf16)


def _choose_group_width(core: Any, precision: Precision, cache: Path | None) -> int:
    """Return how many channels a group should have at least; 1 leaves them as they are.

    AMX multiplies tiles of 16 x 32 bfloat16 or 16 x 64 bytes, of which a group of 4 channels
    fills a 32nd. In groups of 32 or 64, most weights zero, ResNeXt-50 takes 0.93 of the time
    in bf16 and 0.81 in int8 (batches of 8, two cores of a Xeon, OpenVINO 2026.4, 2026-11-21).
    Vector units gain nothing: there it takes 1.08 and 1.14 times as long.
    """
    wide = _GROUP_WIDTHS.get(precision, 1)
    machine = _describe_machine(core)
    if wide == 1 or "BF16" not in machine["capabilities"]:
        return 1
    speedup = measured.remember(
        cache, "grouped_speedup", make_key(machine), lambda: _measure_widening_speedup(core)
    )
    return wide if speedup >= MIN_WIDENING_SPEEDUP else 1


def _measure_widening_speedup(core: Any) -> float:
    return measured.widening_speedup(core, {**_SETTINGS, **_PRECISION_SETTINGS["bf16"]})


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
