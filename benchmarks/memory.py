"""Peak memory and time by number of pictures.

    python benchmarks/memory.py RESNEXT PICTURES [COUNT ...] [--only COMMAND,COMMAND]

PICTURES is a folder per class. Each command runs on COUNT (1,000 and 5,000) of them, evenly
spread over the classes, with an empty cache and then once more; the slope between the least and
the largest COUNT is what a further picture costs. The peak has in it what is mapped from the
disk, which the system can take back.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import paired

COUNTS = (1000, 5000)
CACHED = 250_000  # rows of 2048 features: as many as a cache of one network may have, about
COMMANDS = ("check --quick", "check", "embed", "index", "evaluate")

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


def run(command: list[str], home: Path) -> dict[str, Any]:
    """Run a command to its end; return its peak memory in MB, its times in seconds, and counts."""
    start = time.perf_counter()
    environment = {**os.environ, "RESNEXT_HOME": str(home), "RESNEXT_OFFLINE": "1"}
    with tempfile.TemporaryFile() as output:
        actions = [(os.POSIX_SPAWN_DUP2, output.fileno(), 1)]
        child = os.posix_spawnp(command[0], command, environment, file_actions=actions)
        _, status, usage = os.wait4(child, 0)
        output.seek(0)
        said = output.read()
    if os.waitstatus_to_exitcode(status) not in (0, 3):  # 3: `check` found something
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    found = {
        "megabytes": round(usage.ru_maxrss / 1024, 1),
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }
    if "check" in command:
        found["found"] = json.loads(said)["counts"]
    return found


def choose(pictures: list[Path], count: int, folder: Path) -> Path:
    """Link some pictures, evenly spread, into a folder that has a folder per class."""
    for number in range(count):
        source = pictures[number * len(pictures) // count]
        place = folder / source.parent.name
        place.mkdir(parents=True, exist_ok=True)
        (place / source.name).symlink_to(source.resolve())
    return folder


def measure(resnext: str, place: Path, name: str, folder: Path) -> dict[str, Any]:
    """Run a command on a folder with an empty cache, and again."""
    output = {"embed": "a.npy", "index": "a.index"}.get(name, "report")
    command = [resnext, *name.split(), str(place), "-o", str(folder / output), "--json"]
    found = {"first": run(command, folder / "home")}
    if name != "check --quick":  # it keeps nothing
        found["again"] = run(command, folder / "home")
    shutil.rmtree(folder)
    return found


def main() -> None:
    """Measure the commands, and a cache that is full."""
    parser = argparse.ArgumentParser()
    parser.add_argument("resnext")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("counts", type=int, nargs="*", default=COUNTS)
    parser.add_argument("--only", default=",".join(COMMANDS))
    options = parser.parse_args()
    whole = options.only == parser.get_default("only")
    pictures = sorted(options.pictures.rglob("*.*"))
    least, most = min(options.counts), max(options.counts)
    results: dict[str, Any] = {"classes": len({path.parent for path in pictures})}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = {count: choose(pictures, count, folder / f"{count}") for count in options.counts}
        for name in options.only.split(","):
            found: dict[str, Any] = {}
            for count, place in data.items():
                (folder / "work").mkdir()
                found[f"{count}"] = measure(options.resnext, place, name, folder / "work")
                print(name, count, json.dumps(found[f"{count}"]), file=sys.stderr, flush=True)
            if most > least:
                first, last = (found[f"{count}"]["first"]["megabytes"] for count in (least, most))
                found["kilobytes a picture"] = round((last - first) * 1024 / (most - least), 2)
            results[name] = found
        if whole:
            python, full = [sys.executable, "-c"], folder / "full"
            run([*python, _FILL, str(full), str(CACHED)], folder)
            results[f"open {CACHED} cached rows"] = run([*python, _OPEN, str(full)], folder)
            results["the same without any"] = run([*python, _OPEN, str(folder / "none")], folder)
    paired.report("memory" if whole else f"memory-{most}", results)


if __name__ == "__main__":
    main()
