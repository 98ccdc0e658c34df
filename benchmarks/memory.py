"""Peak memory by number of pictures: `python benchmarks/memory.py RESNEXT PICTURES [LARGE]`.

PICTURES is a folder per class. Each command runs on 1,000 of its pictures and on LARGE, with
an empty cache and once more; the slope between them is what a further picture costs.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import paired

SMALL, LARGE = 1000, 5000
CACHED = 250_000  # rows of 2048 features: as many as a cache of one network may have, about

_FILL = """
import sys, numpy as np
from pathlib import Path
from resnext.training.features import FeatureStore
store, row = FeatureStore(Path(sys.argv[1]), 2048), np.ones(2048, np.float32)
for number in range(int(sys.argv[2])):
    store.add(number.to_bytes(32, "little"), row)
store.flush()
"""
_OPEN = """
import sys
from pathlib import Path
from resnext.training.features import FeatureStore
FeatureStore(Path(sys.argv[1]), 2048)
"""


def run(command: list[str], home: Path) -> dict[str, float]:
    """Run a command to its end; return its peak memory in MB and its time in seconds."""
    start = time.perf_counter()
    environment = {**os.environ, "RESNEXT_HOME": str(home), "RESNEXT_OFFLINE": "1"}
    with open(os.devnull, "wb") as nowhere:
        actions = [(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1)]
        child = os.posix_spawnp(command[0], command, environment, file_actions=actions)
        _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 3):  # 3: `check` found something
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    seconds = round(time.perf_counter() - start, 1)
    return {"megabytes": round(usage.ru_maxrss / 1024, 1), "seconds": seconds}


def choose(pictures: Path, count: int, folder: Path) -> Path:
    """Link some pictures, class by class, into a folder."""
    for source in sorted(pictures.rglob("*.*"))[:count]:
        place = folder / source.parent.name if source.parent != pictures else folder
        place.mkdir(parents=True, exist_ok=True)
        (place / source.name).symlink_to(source.resolve())
    return folder


def measure(resnext: str, pictures: Path, large: int, folder: Path) -> dict[str, Any]:
    """Run every command on both numbers of pictures."""
    results: dict[str, Any] = {}
    data = {count: choose(pictures, count, folder / f"{count}") for count in (SMALL, large)}
    for name, words in {
        "check --quick": ["check", "--quick"],
        "check": ["check"],
        "embed": ["embed", "-o", str(folder / "a.npy")],
        "index": ["index", "-o", str(folder / "a.index")],
    }.items():
        found = {}
        for count, place in data.items():
            output = ["-o", str(folder / "check")] if name.startswith("check") else []
            command = [resnext, words[0], str(place), *words[1:], *output]
            home = folder / f"home of {name} {count}"
            found[f"{count}"] = run(command, home)
            found[f"{count}, again"] = run(command, home)
        more = found[f"{large}"]["megabytes"] - found[f"{SMALL}"]["megabytes"]
        slope = round(more * 1024 / (large - SMALL), 2)
        results[name] = {**found, "kilobytes a picture": slope}
    return results


def main(resnext: str, pictures: str, large: str = str(LARGE)) -> None:
    """Measure the commands, and a cache that is full."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        results = measure(resnext, Path(pictures), int(large), folder)
        python = [sys.executable, "-c"]
        run([*python, _FILL, str(folder / "full"), str(CACHED)], folder)
        results[f"open {CACHED} cached rows"] = run([*python, _OPEN, str(folder / "full")], folder)
        results["the same without any"] = run([*python, _OPEN, str(folder / "none")], folder)
    paired.report("memory", results)


if __name__ == "__main__":
    main(*sys.argv[1:4])
