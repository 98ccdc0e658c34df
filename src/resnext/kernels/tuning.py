"""[torch] Which configuration of a kernel is fastest here: measured once.

One JSON file in the cache folder, with a table for each GPU and each version of torch and
Triton. It saves time and nothing else: absent, damaged or unwritable, the few seconds of
measuring are spent again.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import triton
from triton.runtime.errors import OutOfResources, PTXASError

from resnext.errors import EngineError, OutputError
from resnext.files import atomic
from resnext.hub.cache import cache_home

NAME = "kernels.json"

Config = dict[str, int]  # the names of a kernel's compile-time parameters, and Triton's own

_LAUNCHES, _TRIALS = 10, 3  # launches in a graph, replays of it
_LOCK_SECONDS = 5.0

_known: dict[tuple[torch.device, str], Config] = {}  # of this process


def choose(
    key: str, configs: Sequence[Config], start: Callable[[Config], None], *, device: torch.device
) -> Config:
    """Return the fastest configuration, from the cache or by measuring.

    While a CUDA graph is being captured nothing can be measured: then it is what is known,
    or the first. So call everything once before capturing.

    Args:
        key: What the choice depends on, beside the GPU and the versions.
        configs: What to choose from, the likeliest first.
        start: Runs the kernel with a configuration; it may be called many times.
        device: The GPU.

    Raises:
        EngineError: None of the configurations runs on this GPU.
    """
    known = _known.get((device, key))
    if known is not None and known in configs:
        return known
    path, table = cache_home() / NAME, _table(device)
    found: Any = _read(path).get(table, {}).get(key)
    if found not in configs:
        if torch.cuda.is_current_stream_capturing():
            return configs[0]
        found = fastest(configs, functools.partial(seconds, start), key=key)
        with contextlib.suppress(OSError, OutputError):  # measured again next time
            _write(path, table, {key: found})
    _known[device, key] = choice = dict(found)
    return choice


def fastest(configs: Sequence[Config], measure: Callable[[Config], float], *, key: str) -> Config:
    """Return the configuration with the least time, of those that run.

    Raises:
        EngineError: None does.
    """
    times: list[tuple[float, int]] = []
    error: Exception | None = None
    for index, config in enumerate(configs):
        try:
            times.append((measure(config), index))
        except (OutOfResources, PTXASError) as reason:  # more than a smaller GPU has
            error = reason
    if not times:
        raise EngineError(f"no configuration of the kernel for {key} runs here: {error}")
    return configs[min(times)[1]]


def seconds(start: Callable[[Config], None], config: Config) -> float:
    """Measure one run of a kernel, without the time it takes to start it."""
    start(config)  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for _ in range(_LAUNCHES):
            start(config)
    graph.replay()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    best = float("inf")
    for _ in range(_TRIALS):
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end) / 1e3 / _LAUNCHES)
    return best


def _table(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device)
    return f"{name}, torch {torch.__version__}, triton {triton.__version__}"


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tables = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(tables, dict):
        return {}
    return {name: table for name, table in tables.items() if isinstance(table, dict)}


def _write(path: Path, table: str, entries: dict[str, Config]) -> None:
    from filelock import FileLock  # rarely needed

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=_LOCK_SECONDS):
        tables = _read(path)
        tables[table] = {**tables.get(table, {}), **entries}
        with atomic(path) as file:
            file.write(json.dumps(tables, indent=1).encode())
