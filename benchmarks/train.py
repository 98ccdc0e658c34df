"""Train ResNeXt-50 32x4d for two epochs: `resnext train` beside a plain torchvision loop.

    python benchmarks/train.py RESNEXT PEER_PYTHON PICTURES [ROUNDS]

PICTURES is a folder of small labelled JPEGs, a folder per class, such as the training part of
Tiny ImageNet; 1,024 of them are taken. The pictures a second are those of the second epoch,
data loading included, evaluation and start-up not.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import paired

PEER = Path(__file__).parent / "peers" / "torchvision_train.py"
PICTURES, CLASSES, SIZE, BATCH_SIZE, EPOCHS = 1024, 16, 64, 64, 2


def main(resnext: str, peer: str, pictures: str, rounds: int = 3) -> None:
    """Measure both in turn, in both precisions."""
    results: dict[str, Any] = {"pictures": PICTURES, "size": SIZE, "batch_size": BATCH_SIZE}
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        _take_pictures(Path(pictures), top / "data")
        for precision in ("fp32", "bf16"):
            own, plain = [], []
            for round_ in range(rounds):
                own.append(_own_rate(resnext, top, f"{precision}-{round_}", precision))
                plain.append(_plain_rate(peer, top, precision))
            ratios = [mine / other for mine, other in zip(own, plain, strict=True)]
            results[precision] = {
                "resnext, pictures/s": paired.spread(own),
                "torchvision loop, pictures/s": paired.spread(plain),
                "ratio": paired.spread(ratios, digits=2),
            }
    paired.report("train", results)


def _take_pictures(source: Path, data: Path) -> None:
    for folder in sorted(source.iterdir())[:CLASSES]:
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in found[: PICTURES // CLASSES]:
            (data / "train" / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, data / "train" / folder.name)
        (data / "val" / folder.name).mkdir(parents=True)
        shutil.copy(found[-1], data / "val" / folder.name)


def _own_rate(resnext: str, top: Path, name: str, precision: str) -> float:
    command = [resnext, "train", str(top / "data"), "-o", str(top / name)]
    command += ["--recipe", "torchvision-v1", "--model", "resnext50_32x4d"]
    command += ["--epochs", str(EPOCHS), "--batch-size", str(BATCH_SIZE), "--precision", precision]
    for key in ("data.train_size", "data.test_size", "data.test_resize"):
        command += ["--set", f"{key}={SIZE}"]
    paired.seconds(command)
    last = (top / name / "metrics.jsonl").read_text().splitlines()[-1]
    return float(json.loads(last)["images_per_s"])


def _plain_rate(peer: str, top: Path, precision: str) -> float:
    numbers = [str(SIZE), str(BATCH_SIZE), str(EPOCHS)]
    command = [peer, str(PEER), str(top / "data" / "train"), *numbers, precision]
    done = subprocess.run(command, capture_output=True, check=True)
    return float(json.loads(done.stdout)["rate"])


if __name__ == "__main__":
    main(*sys.argv[1:4], *(int(text) for text in sys.argv[4:5]))
