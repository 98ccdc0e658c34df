"""A process that runs one network when told, and says how long it took.

    python -m resnext.deploy.contender '{"model": ..., "engine": ..., "precision": ...}'

A line of JSON comes out when it is ready, and one for each line that goes in. Each contender
has a process of its own, so that its memory and its start are its own, and one that waits
takes no processor time from the others.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from resnext import weights
from resnext.engines import select
from resnext.errors import ResNeXtError, import_extra

OWN = ("openvino", "onnxruntime", *select.TORCH)
USUAL = ("openvino", "onnxruntime", "torch")  # of them, where none is named
RIVALS = ("torchvision", "timm", "torch-compile", "plain-openvino", "plain-onnxruntime")
_BY_TORCH = ("fp32", "tf32", "bf16", "fp16")
PRECISIONS: dict[str, tuple[str, ...]] = {
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32", "int8"),
    **dict.fromkeys((*select.TORCH, "torchvision", "timm", "torch-compile"), _BY_TORCH),
    "plain-openvino": ("auto",),  # its own choice
    "plain-onnxruntime": ("auto",),
}

_MOST_LATENCIES = 10_000

Batch = npt.NDArray[np.uint8]
Run = Callable[[Batch], object]


def main(task: dict[str, Any]) -> None:
    """Open the network of a task, say so, and serve lines until there are no more."""
    try:
        size, run = open_network(task)
        run(_pixels(1, size))
    except ResNeXtError as error:
        _say({"error": error.message, "hint": error.hint})
        return
    _say({"ready": True, "gpu": gpu_of(task["engine"])})
    batches: dict[int, Batch] = {}
    for line in sys.stdin:
        order = json.loads(line)
        count = order["batch"]
        if count not in batches:
            batches[count] = _pixels(count, size)
            run(batches[count])  # prepares for this size
            run(batches[count])
        latencies = _repeat(run, batches[count], order["seconds"])
        taken = {"memory": memory(), "gpu_memory": gpu_memory(task["engine"])}
        _say({"latencies": latencies, **taken})


def open_network(task: dict[str, Any]) -> tuple[int, Run]:
    """Open what a task names.

    Args:
        task: "model", "engine" (of `OWN` or `RIVALS`), "precision" and perhaps "threads".

    Returns:
        The input size, and a function of (N, S, S, 3) pixels.

    Raises:
        ResNeXtError: It is not installed, or this machine does not have it.
    """
    local = weights.locate(task["model"])
    size = local.document.preprocess.input_size
    name, precision, threads = task["engine"], task["precision"], task.get("threads")
    if name in OWN:
        engine = select.load(local, engine=name, precision=precision, threads=threads)
        return size, engine.run
    if has_own_settings(name):
        return size, _open_plain(local, name.removeprefix("plain-"))
    rivals = import_extra("resnext.deploy.rivals", extra="train")
    run: Run = rivals.open_rival(local, name, precision=precision, threads=threads)
    return size, run


def has_own_settings(name: str) -> bool:
    """Tell whether a rival is a runtime as it comes, whose threads nobody sets."""
    return name.startswith("plain-")


def gpu_of(engine: str) -> str:
    """Return the name of the GPU that an engine or rival computes on; "" for the processor."""
    if "tf32" not in PRECISIONS[engine]:
        return ""
    return str(import_extra("resnext.engines.eager", extra="torch").gpu_name())


def gpu_memory(engine: str) -> float:
    """Return the most memory of a GPU that this process has taken so far, in MB."""
    if not gpu_of(engine):
        return 0.0
    return float(import_extra("resnext.engines.eager", extra="torch").gpu_memory() / 1e6)


def memory() -> float:
    """Return the most memory that this process has taken so far, in MB."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def _open_plain(local: weights.LocalModel, name: str) -> Run:
    """Open the exported graph as anybody would, with the runtime's own settings."""
    from resnext.deploy import portable

    model = portable.build(local.document, weights.read_tensors(local)).SerializeToString()
    if name == "onnxruntime":
        ort = import_extra("resnext.engines.ort", extra="ort")
        session = ort.open_graph(model)
        return lambda batch: session({"image": batch}, ["logits"])
    from resnext.engines.openvino import open_core, read_graph

    compiled = open_core().compile_model(read_graph(model), "CPU")
    return lambda batch: compiled({"image": batch})["logits"]


def _repeat(run: Run, batch: Batch, seconds: float) -> list[float]:
    """Run a batch for some time; return the seconds of each call."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end and len(latencies) < _MOST_LATENCIES:
        run(batch)
        latencies.append(time.perf_counter() - start)
    return latencies


def _pixels(count: int, size: int) -> Batch:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def _say(fact: dict[str, Any]) -> None:
    print(json.dumps(fact), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # runtimes take their time to come down, and nothing is left to write
