"""What is faster on this machine: measured once, then remembered.

A fraction of a second each, written to the cache folder. Ratios of two networks that take
turns until the best time of neither falls any more: other programs only ever make it longer.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from resnext.errors import OutputError
from resnext.files import atomic

Settings = Mapping[str, str]
Record = dict[str, dict[str, Any]]  # what was measured, and for which machine
Found = TypeVar("Found")

FILE = "machine.json"
_QUIET_TURNS, _MOST_TURNS = 16, 200
NARROW, WIDE = 4, 32  # channels a group, of ResNeXt-50 32x4d and of a tile of AMX


def remember(
    cache: Path | None,
    name: str,
    key: str,
    measure: Callable[[], Found],
    parse: Callable[[Any], Found] = float,  # type: ignore[assignment]  # for what has a number
) -> Found:
    """Return what was measured on this machine before, or measure it and write it down.

    Args:
        cache: Folder of the record; None for no record.
        name: What is measured; part of a file's name.
        key: The machine, and what else decides.
        measure: Called at most once, unless the record cannot be written; returns a JSON value.
        parse: Makes of a value in the record what `measure` returns; raises ValueError or
            TypeError where it is no such value, and it is measured again.
    """
    if cache is None:
        return measure()
    path = cache / FILE
    with contextlib.suppress(LookupError, ValueError, TypeError):
        return parse(_read(path)[name][key])
    from filelock import FileLock  # rarely needed

    found: list[Found] = []
    # A folder that cannot be written is reported where it costs more: `CompiledCache`.
    with contextlib.suppress(OutputError, OSError):
        cache.mkdir(parents=True, exist_ok=True)
        # One process measures, alone: they would disturb each other and then disagree. Who
        # measures something else does not wait for it: on a GPU it may take minutes.
        with FileLock(f"{path}.{name}.lock"):
            with contextlib.suppress(LookupError, ValueError, TypeError):
                return parse(_read(path)[name][key])
            found.append(measure())
            with FileLock(f"{path}.lock"):
                record = _read(path)
                record.setdefault(name, {})[key] = found[0]
                with atomic(path) as file:
                    file.write(json.dumps(record, indent=1).encode())
    return found[0] if found else measure()


def bf16_speedup(core: Any, *, fp32: Settings, bf16: Settings) -> float:
    """Time two bottlenecks of the 14-pixel stage, fp32 over bf16.

    Takes 0.08 to 0.17 s on two Zen 5 cores and gives 1.6 there; a whole ResNeXt-50 has 1.9.
    """
    networks = [
        core.compile_model(_bottlenecks(256, 8, side=14), "CPU", settings)
        for settings in (fp32, bf16)
    ]
    return _ratio(networks, np.zeros((1, 512, 14, 14), np.float32))


def widening_speedup(core: Any, settings: Settings) -> float:
    """Time four grouped convolutions of the 56-pixel stage, with 4 channels a group over 32.

    Alone, for what is between them differs by a fifth from one compilation to the next. Takes
    0.2 s on two cores of a Xeon with AMX and gives 1.8 there, 1.8 to 2.2 when other programs
    keep both cores busy; with its vector units alone 0.55 to 0.58 (2026-11-22).
    """
    networks = [
        core.compile_model(_grouped(128, width, side=56), "CPU", settings)
        for width in (NARROW, WIDE)
    ]
    return _ratio(networks, np.zeros((1, 128, 56, 56), np.float32))


def _ratio(networks: list[Any], batch: np.ndarray[Any, Any]) -> float:
    """Return the best time of the first of two networks over that of the second."""
    requests = [network.create_infer_request() for network in networks]
    best, unchanged = [float("inf"), float("inf")], 0
    for _ in range(_MOST_TURNS):
        before = list(best)
        for index, request in enumerate(requests):
            start = time.perf_counter()
            request.infer([batch])
            best[index] = min(best[index], time.perf_counter() - start)
        fell = any(now < 0.99 * then for now, then in zip(best, before, strict=True))
        unchanged = 0 if fell else unchanged + 1
        if unchanged == _QUIET_TURNS:
            break
    return best[0] / best[1]


def _grouped(channels: int, width: int, *, side: int) -> Any:
    """Build four 3x3 convolutions of `width` channels a group."""
    runtime, ops = importlib.import_module("openvino"), importlib.import_module("openvino.opset13")
    rng = np.random.default_rng(0)
    image = value = ops.parameter([1, channels, side, side], np.float32)
    for _ in range(4):
        weight = rng.normal(0, 0.05, (channels // width, width, width, 3, 3)).astype(np.float32)
        value = ops.group_convolution(
            value, weight, strides=[1, 1], dilations=[1, 1], pads_begin=[1, 1], pads_end=[1, 1]
        )
        value = ops.relu(value)
    return runtime.Model([value], [image])


def _bottlenecks(channels: int, width: int, *, side: int) -> Any:
    """Build two bottlenecks of `width` channels a group."""
    runtime, ops = importlib.import_module("openvino"), importlib.import_module("openvino.opset13")
    rng = np.random.default_rng(0)
    image = value = ops.parameter([1, 2 * channels, side, side], np.float32)
    same: dict[str, Any] = {"strides": [1, 1], "dilations": [1, 1]}
    steps = ((channels, 2 * channels, 1), (channels, width, 3), (2 * channels, channels, 1))
    for _ in range(2):
        for outs, ins, kernel in steps:
            weight = rng.normal(0, 0.05, (outs, ins, kernel, kernel)).astype(np.float32)
            pads: dict[str, Any] = {"pads_begin": [kernel // 2] * 2, "pads_end": [kernel // 2] * 2}
            if kernel > 1:
                weight = weight.reshape(channels // width, width, width, kernel, kernel)
                value = ops.group_convolution(value, weight, **same, **pads)
            else:
                value = ops.convolution(value, weight, **same, **pads)
            value = ops.relu(value)
    return runtime.Model([value], [image])


def _read(path: Path) -> Record:
    """Read the record; what is absent or damaged is measured again."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(record, dict):
        return {}
    return {name: known for name, known in record.items() if isinstance(known, dict)}
