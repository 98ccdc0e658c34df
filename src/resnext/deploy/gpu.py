"""[torch] What a GPU can do: products and bytes a second, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from resnext.engines.backends import arithmetic
from resnext.engines.base import Precision

_SIDE = 8192  # of the matrices: 1.1 TFLOP, some ms on the fastest
_COPIED = 1 << 30  # bytes, many times what caches hold
_TRIALS = 10
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def measure(precisions: Iterable[Precision], *, device: str = "cuda") -> dict[str, Any]:
    """Measure and describe a GPU, in about a second.

    Args:
        precisions: Whose peaks to measure.
        device: Which one.

    Returns:
        "name", "memory_gb", "compute_capability", "multiprocessors", versions of the "driver"'s
        "cuda" and "cudnn", "peaks" (multiply-adds a second of a large matrix product, by
        precision) and "bandwidth" (bytes a second of a large copy, read and written).
    """
    return {
        **describe(device),
        "peaks": {name: peak_macs(name, device=device) for name in precisions},
        "bandwidth": bandwidth(device=device),
    }


def describe(device: str = "cuda") -> dict[str, Any]:
    """Say what a GPU is."""
    facts = torch.cuda.get_device_properties(device)
    return {
        "name": facts.name,
        "memory_gb": round(facts.total_memory / 1e9, 1),
        "compute_capability": f"{facts.major}.{facts.minor}",
        "multiprocessors": facts.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def peak_macs(precision: Precision, *, device: str = "cuda", side: int = _SIDE) -> float:
    """Measure the multiply-adds a second of a large product of random matrices.

    Args:
        precision: "fp32", "tf32", "bf16" or "fp16".
        device: Which GPU.
        side: Of the matrices.
    """
    # Random: on zeros a GPU takes less power, and so runs faster than it will.
    draw = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn((side, side), generator=draw, device=device).to(
            _DTYPES.get(precision, torch.float32)
        )
        for _ in range(2)
    )
    with arithmetic(tf32=precision == "tf32"):
        return side**3 / _best(lambda: torch.mm(left, right), device)


def bandwidth(*, device: str = "cuda", count: int = _COPIED) -> float:
    """Measure the bytes a second that a large copy reads and writes.

    Args:
        device: Which GPU.
        count: Bytes to copy.
    """
    source = torch.randint(0, 256, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * count / _best(lambda: target.copy_(source), device)


def _best(work: Callable[[], object], device: str) -> float:
    best = float("inf")
    for _ in range(_TRIALS):
        _wait(device)
        begin = time.perf_counter()
        work()
        _wait(device)
        best = min(best, time.perf_counter() - begin)
    return best


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
