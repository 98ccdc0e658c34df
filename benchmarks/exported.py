"""Exported files in plain runtimes: do they answer as the package does, and how fast.

    python benchmarks/exported.py MODEL8 FOLDER [PICTURES]

MODEL8 comes from `resnext quantize`; of FOLDER, with pictures in folders of classes, PICTURES
(500) are taken, evenly. Files are made by `resnext export` and opened by ONNX Runtime and
OpenVINO alone; these take turns at one picture and at eight.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import paired

from resnext import images, preprocess, weights
from resnext.engines import select

ROUNDS, SECONDS = 5, 0.5
FILES = {
    "float32.onnx": [],
    "eight.onnx": ["--int8"],
    "picture.onnx": ["--int8", "--input", "picture"],
    "eight.xml": ["--int8"],
}
Run = Callable[[Any], Any]


def main(model: str, folder: str, count: int = 500) -> None:
    """Export, compare answers, then time what takes prepared pixels."""
    local = weights.locate(model)
    every = sorted(path for path in Path(folder).glob("*/*") if path.is_file())
    paths = [every[number * len(every) // count] for number in range(count)]
    spec = local.document.preprocess
    pixels = np.stack([preprocess.apply(images.open_rgb(path), spec) for path in paths])
    engines = {
        (name, precision): select.load(local, engine=name, precision=precision)
        for name in ("onnxruntime", "openvino")
        for precision in ("fp32", "int8")
    }
    answers = {key: engine.run(pixels).logits for key, engine in engines.items()}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for file, options in FILES.items():
            command = [sys.executable, "-m", "resnext", "export", model, *options]
            subprocess.run([*command, "-o", str(place / file)], check=True, capture_output=True)
        sizes = {path.name: path.stat().st_size for path in sorted(place.iterdir())}
        runs = {
            "float32.onnx": _onnx(place / "float32.onnx"),
            "eight.onnx": _onnx(place / "eight.onnx"),
            "float32.onnx in OpenVINO": _openvino(place / "float32.onnx"),
            "eight.onnx in OpenVINO": _openvino(place / "eight.onnx"),
            "eight.xml": _openvino(place / "eight.xml"),
        }
        found = {name: _batches(run, pixels) for name, run in runs.items()}
        whole = onnxruntime.InferenceSession(
            str(place / "picture.onnx"), providers=["CPUExecutionProvider"]
        )
        found["picture.onnx"] = np.concatenate(
            [
                whole.run(["logits"], {"picture": np.asarray(images.open_rgb(path))[None]})[0]
                for path in paths
            ]
        )
        rates = _time({**runs, **{" ".join(key): one.run for key, one in engines.items()}}, pixels)
    results = {
        "model": local.document.name,
        "sha256": local.sha256,
        "pictures": count,
        "bytes": sizes,
        "versions": {"onnxruntime": onnxruntime.__version__, "openvino": openvino.__version__},
        "agreement": {
            name: {" ".join(key): _agree(logits, answer) for key, answer in answers.items()}
            for name, logits in found.items()
        },
        "images/s": rates,
    }
    paired.report("exported", results)


def _onnx(path: Path) -> Run:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda batch: session.run(["logits"], {"image": batch})[0]


def _openvino(path: Path) -> Run:
    settings = {"PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda batch: request.infer({"image": batch})["logits"].copy()


def _batches(run: Run, pixels: Any, size: int = 50) -> Any:
    return np.concatenate([run(pixels[at : at + size]) for at in range(0, len(pixels), size)])


def _agree(logits: Any, expected: Any) -> dict[str, float]:
    """Compare answers, and the logits by the largest."""
    return {
        "same class, %": round(100 * float((logits.argmax(1) == expected.argmax(1)).mean()), 2),
        "logits off by": round(float(np.abs(logits - expected).max() / np.abs(expected).max()), 5),
    }


def _time(runs: dict[str, Run], pixels: Any) -> dict[str, dict[str, float]]:
    rates: dict[str, dict[str, list[float]]] = {name: {} for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            for size in (1, 8):
                batch, done = pixels[:size], 0
                run(batch)
                start = time.perf_counter()
                while time.perf_counter() - start < SECONDS:
                    run(batch)
                    done += size
                rate = done / (time.perf_counter() - start)
                rates[name].setdefault(f"batch {size}", []).append(rate)
    return {
        name: {size: round(statistics.median(own), 1) for size, own in rows.items()}
        for name, rows in rates.items()
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(text) for text in sys.argv[3:4]))
