"""A folder of pictures, whole process: `resnext predict` against timm and the engine.

    python benchmarks/folder.py RESNEXT RESNEXT_PYTHON PEER_PYTHON PICTURES [ROUNDS]

PICTURES is a folder of ImageNet-sized JPEGs. The engine alone is timed in its own
process, on pixels in memory, at its best batch size, for as many pictures.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import make_weights
import paired

HERE = Path(__file__).parent
COPIES = 10

ENGINE_ALONE = """
import json, sys, time
import numpy as np
from resnext import weights
from resnext.engines import select
engine = select.load(weights.locate(sys.argv[1]), precision=sys.argv[2])
size = engine.best_batch_size
batch = np.random.default_rng(0).integers(0, 256, (size, 224, 224, 3), np.uint8)
for _ in range(3):
    engine.run(batch)
count, start = int(sys.argv[3]), time.perf_counter()
for _ in range(0, count, size):
    engine.run(batch)
print(json.dumps({"rate": -(-count // size) * size / (time.perf_counter() - start)}))
"""


def main(resnext: str, python: str, peer: str, pictures: str, rounds: int = 5) -> None:
    """Time the folder as it is and ten copies of it, in both precisions."""
    count = len(os.listdir(pictures))
    results: dict[str, Any] = {"pictures": count, "copies": COPIES}
    with tempfile.TemporaryDirectory() as folder:
        model, out = str(Path(folder) / "resnext50_32x4d.safetensors"), f"{folder}/out.csv"
        make_weights.main("resnext50_32x4d", model)
        many = Path(folder) / "many"
        for copy in range(COPIES):
            (many / str(copy)).mkdir(parents=True)
            for name in os.listdir(pictures):
                shutil.copy(Path(pictures) / name, many / str(copy) / name)
        timm = [peer, str(HERE / "peers" / "timm_folder.py"), model, pictures, out]
        for precision in ("fp32", "bf16"):
            predict = [resnext, "predict", "--model", model, "--precision", precision]
            predict += ["--format", "csv", "-o", out]
            results[precision] = _measure(
                [*predict, pictures], [*predict, str(many)], [python, "-c", ENGINE_ALONE, model,
                precision, str(count * 3)], count=count, rounds=rounds,
            )  # fmt: skip
            ours = [*predict, pictures]
            results[precision]["against timm"] = paired.compare(
                {"resnext predict": ours, "timm inference loop": timm}, rounds=rounds
            )
    paired.report("folder", results)


def _measure(
    once: list[str], many: list[str], alone: list[str], *, count: int, rounds: int
) -> dict[str, Any]:
    rows: dict[str, list[float]] = {"engine": [], "once": [], "many": []}
    paired.seconds(once)  # compiles and fills the caches
    for _ in range(rounds):
        done = subprocess.run(alone, capture_output=True, check=True)
        rows["engine"].append(json.loads(done.stdout)["rate"])
        rows["once"].append(count / paired.seconds(once))
        rows["many"].append(count * COPIES / paired.seconds(many))
    share = {
        key: round(
            statistics.median(a / b for a, b in zip(rows[key], rows["engine"], strict=True)), 3
        )
        for key in ("once", "many")
    }
    return {
        "engine alone, pictures/s": round(statistics.median(rows["engine"]), 1),
        "whole process, pictures/s": round(statistics.median(rows["once"]), 1),
        "whole process, share of the engine": share["once"],
        f"{COPIES} copies, pictures/s": round(statistics.median(rows["many"]), 1),
        f"{COPIES} copies, share of the engine": share["many"],
    }


if __name__ == "__main__":
    main(*sys.argv[1:5], *(int(text) for text in sys.argv[5:6]))
