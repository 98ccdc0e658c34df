"""A quantized model file beside NNCF's own quantization of the same weights, in OpenVINO.

    python benchmarks/int8.py MODEL8 PICTURES [ROUNDS]

MODEL8 comes from `resnext quantize`; PICTURES is a folder, of which NNCF sees 300. Needs `nncf`.
NNCF gets the exported graph and its defaults, as its users do; both run at one picture and at
eight in turn, and bf16 beside them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import nncf
import numpy as np
import paired

from resnext import images, preprocess, sources, weights
from resnext.deploy import portable
from resnext.engines import select
from resnext.engines.openvino import open_core, read_graph

CALIBRATION, CALLS = 300, 48
Run = Callable[[Any], object]


def main(model: str, pictures: str, rounds: int = 9) -> None:
    """Measure the three in turn at both batch sizes."""
    local = weights.locate(model)
    spec = local.document.preprocess
    chosen = list(sources.iter_sources([pictures]))[:CALIBRATION]
    pixels = [preprocess.apply(images.open_rgb(source), spec) for source in chosen]
    runs: dict[str, Run] = {
        "resnext int8": select.load(local, precision="int8").run,
        "resnext bf16": select.load(local, precision="bf16").run,
        "NNCF int8": _nncf(local, pixels),
    }
    results: dict[str, Any] = {"model": local.document.architecture.name, "rounds": rounds}
    for size in (1, 8):
        batch = np.stack([pixels[index % len(pixels)] for index in range(size)])
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                times[name].append(_rate(run, batch))
        ours = times["resnext int8"]
        for name, row in times.items():
            ratios = [mine / other for mine, other in zip(ours, row, strict=True)]
            results[f"{name}, batch {size}"] = {
                "images/s": paired.spread(row),
                "resnext int8 is faster by": paired.spread(ratios, digits=2),
            }
    paired.report(f"int8-{local.document.architecture.name}", results)


def _nncf(local: weights.LocalModel, pixels: list[Any]) -> Run:
    exported = portable.build(local.document, weights.read_tensors(local))
    model = read_graph(exported.SerializeToString())
    data = nncf.Dataset([{"image": picture[None]} for picture in pixels])
    quantized = nncf.quantize(model, data, subset_size=len(pixels))
    compiled = open_core().compile_model(quantized, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    return lambda batch: compiled({"image": batch})["logits"]


def _rate(run: Run, batch: Any) -> float:
    """Return images a second."""
    run(batch)
    calls = max(1, CALLS // len(batch))
    start = time.perf_counter()
    for _ in range(calls):
        run(batch)
    return calls * len(batch) / (time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
