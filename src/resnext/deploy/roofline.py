"""How fast this processor could be: matrix products that fit its caches."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from resnext import cores
from resnext.engines.openvino import open_core, ov

PRECISIONS = ("fp32", "bf16", "int8")

# Two cores of a Xeon with AMX, bfloat16, thousand million multiply-adds a second: 1,205 so; 828
# at 4 products of 1536, whose weights do not fit 2 MB of cache; 789 at one, of which the change
# to bfloat16 is a part (2026-11-22).
_ROWS, _SIDE, _PRODUCTS = 1024, 512, 8
_SECONDS = 0.5
_HINTS = {"fp32": "f32", "bf16": "bf16"}  # an 8-bit product has twice the peak of bf16


def measure(asked: Iterable[tuple[str, int | None]]) -> dict[str, dict[str, float]]:
    """Measure what is asked for, each once.

    Args:
        asked: Precision and number of threads; a precision that has no peak is left out.

    Returns:
        Multiply-adds a second by precision, then by `name` of the threads.
    """
    peaks: dict[str, dict[str, float]] = {}
    for precision, threads in dict.fromkeys(asked):
        if precision in PRECISIONS:
            peak = peak_macs(precision, threads=threads)
            peaks.setdefault(precision, {})[name(threads)] = peak
    return peaks


def name(threads: int | None) -> str:
    """Return a number of threads as text; "auto" where it was left open."""
    return "auto" if threads is None else str(threads)


def peak_macs(precision: str, *, threads: int | None = None) -> float:
    """Measure the multiply-adds a second of matrix products, one after the other.

    Args:
        precision: "fp32", "bf16" or "int8".
        threads: Processor threads; None for as many as engines take that nobody told.

    Returns:
        The best that was seen in half a second; for "int8" twice that of bf16, as such
        processors are made.
    """
    if precision == "int8":
        return 2 * peak_macs("bf16", threads=threads)
    ops: Any = importlib.import_module("openvino.opset13")
    rng = np.random.default_rng(0)
    image = value = ops.parameter([_ROWS, _SIDE], np.float32)
    for _ in range(_PRODUCTS):
        weight = rng.normal(0, _SIDE**-0.5, (_SIDE, _SIDE)).astype(np.float32)
        value = ops.matmul(value, weight, False, True)
    model = ov.Model([value], [image])
    settings = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    threads = threads or cores.limit()
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    request = open_core().compile_model(model, "CPU", settings).create_infer_request()
    batch = [rng.normal(size=(_ROWS, _SIDE)).astype(np.float32)]
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while (start := time.perf_counter()) < end:
        request.infer(batch, share_inputs=True)
        best = min(best, time.perf_counter() - start)
    return _ROWS * _SIDE**2 * _PRODUCTS / best
