"""A quantized model beside the model it was made from: what stays of the answers, what it gains.

    python benchmarks/eightbits.py MODEL MODEL8 FOLDER [ROUNDS]

MODEL8 comes from `resnext quantize MODEL`; FOLDER has one folder per synset id, as Tiny
ImageNet's validation pictures unpack. Answers are compared with those of MODEL in fp32; the
engines take turns at one picture and at eight.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import paired

from resnext import images, preprocess, weights
from resnext.engines import select
from resnext.engines.base import AbstractEngine

CALLS = 96


def main(model: str, eight_bits: str, folder: str, rounds: int = 15) -> None:
    """Measure agreement and top-1 on all pictures, then the speed."""
    local = weights.locate(model)
    paths = sorted(path for path in Path(folder).glob("*/*") if path.is_file())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        spec = local.document.preprocess
        pixels = np.stack(
            list(pool.map(lambda path: preprocess.apply(images.open_rgb(path), spec), paths))
        )
    number = {name: index for index, name in enumerate(local.document.labels.synset_ids or ())}
    truth = np.array([number[path.parent.name] for path in paths])
    quantized = weights.locate(eight_bits)
    rounded = quantized.document.quantization
    results: dict[str, Any] = {
        "model": local.document.name,
        "rounded values": 0 if rounded is None else len(rounded.ranges),
        "sha256 of the 8-bit file": quantized.sha256,
        "pictures": len(paths),
        "rounds": rounds,
    }
    engines = {
        "fp32": select.load(local, engine="openvino", precision="fp32"),
        "bf16": select.load(local, engine="openvino", precision="bf16"),
        "int8": select.load(quantized, engine="openvino", precision="int8"),
    }
    answers = {name: engine.run(pixels).logits.argmax(1) for name, engine in engines.items()}
    for name, found in answers.items():
        results[name] = {
            "top-1 agreement": round(100 * float((found == answers["fp32"]).mean()), 2),
            "top1": round(100 * float((found == truth).mean()), 2),
        }
    for size in (1, 8):
        results[f"batch {size}"] = _speeds(engines, pixels[:size], rounds)
    paired.report("eightbits", results)


def _speeds(engines: dict[str, AbstractEngine], batch: Any, rounds: int) -> dict[str, Any]:
    """Return pictures a second of each, and how many times those of bf16 that is, by round."""
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            engine.run(batch)
            calls = CALLS // len(batch)
            start = time.perf_counter()
            for _ in range(calls):
                engine.run(batch)
            rates[name].append(calls * len(batch) / (time.perf_counter() - start))
    return {
        name: {
            "images/s": paired.spread(row),
            "times bf16": paired.spread(
                [a / b for a, b in zip(row, rates["bf16"], strict=True)], digits=2
            ),
        }
        for name, row in rates.items()
    }


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
