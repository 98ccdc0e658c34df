"""Fine-tune the last layer on 400 pictures of 2 classes: whole process, and the features.

    python benchmarks/finetune.py RESNEXT RESNEXT_PYTHON PICTURES [ROUNDS]

PICTURES is a folder of ImageNet-sized JPEGs; copies with a byte more make 400 of them, for
the cache knows pictures by their content. The weights are random, so nothing is said of
accuracy. `new pictures` finds the network compiled and no features; `again` finds both.
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

import folder
import make_weights
import paired

PICTURES, CLASSES = 400, ("a", "b")

EXTRACT = """
import json, sys, time
from pathlib import Path
import resnext
from resnext.training.features import FeatureStore, extract
from resnext.training.samples import Sample
samples = [Sample(str(path), str(path), (0,)) for path in sorted(Path(sys.argv[3]).rglob("*.jpg"))]
classifier = resnext.Classifier(sys.argv[1], precision=sys.argv[2])
store = FeatureStore(Path(sys.argv[4]), classifier.engine.embedding_size)
start = time.perf_counter()
done = extract(classifier, samples, store)
assert done.num_computed == len(samples) and not done.problems
print(json.dumps({"rate": len(samples) / (time.perf_counter() - start)}))
"""


def main(resnext: str, python: str, pictures: str, rounds: int = 5) -> None:
    """Time the command in three situations, and the features beside the engine alone."""
    results: dict[str, Any] = {"pictures": PICTURES, "classes": len(CLASSES)}
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        model, data = str(top / "resnext50_32x4d.safetensors"), top / "data"
        make_weights.main("resnext50_32x4d", model)
        _write_pictures(Path(pictures), data)
        for precision in ("fp32", "bf16"):
            os.environ["RESNEXT_HOME"] = str(top / "home")
            results[precision] = {
                "command": _time_command(resnext, model, data, precision, top, rounds),
                "features": _time_features(python, model, data, precision, top, rounds),
            }
    paired.report("finetune", results)


def _write_pictures(pictures: Path, data: Path) -> None:
    sources = sorted(path for path in pictures.iterdir() if path.is_file())
    for number in range(PICTURES):
        place = data / CLASSES[number % len(CLASSES)]
        place.mkdir(parents=True, exist_ok=True)
        content = sources[number % len(sources)].read_bytes()
        (place / f"{number}.jpg").write_bytes(content + bytes([number // len(sources)]))


def _time_command(
    resnext: str, model: str, data: Path, precision: str, top: Path, rounds: int
) -> dict[str, Any]:
    """Time the whole process: new pictures, the same again, one more class."""
    options = ["--head-only", "--force", "--precision", precision]
    first, second = str(top / "first.safetensors"), str(top / "second.safetensors")
    tune = [resnext, "finetune", str(data), "-m", model, "-o", first, *options]
    third = top / "third"
    shutil.copytree(data / CLASSES[0], third, dirs_exist_ok=True)
    for path in third.iterdir():
        path.write_bytes(path.read_bytes() + b"third")
    add = [resnext, "finetune", "-m", first, "-o", second, *options]
    add += ["--add-class", "third", str(third)]
    features = Path(os.environ["RESNEXT_HOME"]) / "features"
    times: dict[str, list[float]] = {"new pictures": [], "again": [], "add a class of 200": []}
    paired.seconds(tune)  # compiles
    paired.seconds(add)
    for _ in range(rounds):
        shutil.rmtree(features)
        times["new pictures"].append(paired.seconds(tune))
        times["again"].append(paired.seconds(tune))
        times["add a class of 200"].append(paired.seconds(add))
    return {
        name: {
            "median_s": round(statistics.median(row), 2),
            "min_s": round(min(row), 2),
            "max_s": round(max(row), 2),
        }
        for name, row in times.items()
    }


def _time_features(
    python: str, model: str, data: Path, precision: str, top: Path, rounds: int
) -> dict[str, Any]:
    """Compare the rate of `features.extract` with the engine's on pixels in memory."""
    alone, extracted = [], []
    for round_ in range(rounds):
        store = str(top / f"features-{precision}-{round_}")
        alone.append(_rate([python, "-c", folder.ENGINE_ALONE, model, precision, str(PICTURES)]))
        extracted.append(_rate([python, "-c", EXTRACT, model, precision, str(data), store]))
    share = statistics.median(b / a for a, b in zip(alone, extracted, strict=True))
    return {
        "engine alone, pictures/s": round(statistics.median(alone), 1),
        "features, pictures/s": round(statistics.median(extracted), 1),
        "share of the engine": round(share, 3),
    }


def _rate(command: list[str]) -> float:
    done = subprocess.run(command, capture_output=True, check=True)
    return float(json.loads(done.stdout)["rate"])


if __name__ == "__main__":
    main(*sys.argv[1:4], *(int(text) for text in sys.argv[4:5]))
