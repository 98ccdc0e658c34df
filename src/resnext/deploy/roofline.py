"""How fast this processor could be: the product of two large matrices."""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np

from resnext.engines.openvino import open_core, ov

PRECISIONS = ("fp32", "bf16", "int8")

_SIDE = 1536  # large enough for the peak, small enough for caches of 2 MB a core
_TRIALS = 8
_HINTS = {"fp32": "f32", "bf16": "bf16"}  # an 8-bit product has twice the peak of bf16


def peak_macs(precision: str, *, threads: int | None = None) -> float:
    """Measure the multiply-adds a second of a large matrix product, in half a second.

    Args:
        precision: "fp32", "bf16" or "int8".
        threads: Processor threads; None for all cores.

    Returns:
        The best of a few trials; for "int8" twice that of bf16, as such processors are made.
    """
    if precision == "int8":
        return 2 * peak_macs("bf16", threads=threads)
    ops: Any = importlib.import_module("openvino.opset13")
    rng = np.random.default_rng(0)
    image = ops.parameter([_SIDE, _SIDE], np.float32)
    weight = rng.normal(size=(_SIDE, _SIDE)).astype(np.float32)
    model = ov.Model([ops.matmul(image, weight, False, True)], [image])
    settings = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    request = open_core().compile_model(model, "CPU", settings).create_infer_request()
    batch = [rng.normal(size=(_SIDE, _SIDE)).astype(np.float32)]
    best = float("inf")
    for _ in range(_TRIALS):
        start = time.perf_counter()
        request.infer(batch, share_inputs=True)
        best = min(best, time.perf_counter() - start)
    return _SIDE**3 / best
