"""A fresh machine: time and size of the base installation, to the first answer.

    python benchmarks/install.py

Runs the first command of the README in a copy of what is committed, with an empty cache.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import paired

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Clone, install, predict; the time includes all but the clone."""
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"^python3 -m venv .* predict .*$", readme, re.MULTILINE)
    assert found, "the README has no first command"
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "resnext"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        environment = {**os.environ, "RESNEXT_HOME": str(Path(folder) / "cache")}
        start = time.perf_counter()
        subprocess.run(
            found[0], shell=True, cwd=clone, env=environment, check=True, capture_output=True
        )
        seconds = time.perf_counter() - start
        sizes = {
            "environment": _megabytes(clone / ".venv"),
            "of which the package": _megabytes(next(clone.glob(".venv/lib/*/*/resnext"))),
            "of which openvino": _megabytes(next(clone.glob(".venv/lib/*/*/openvino"))),
            "cache after the first answer": _megabytes(Path(folder) / "cache"),
        }
    paired.report("install", {"command": found[0], "seconds": round(seconds, 1), "MB": sizes})


def _megabytes(folder: Path) -> float:
    # What it takes on the disk, as `du` counts it, in units of 1,048,576 bytes.
    blocks = sum(path.lstat().st_blocks for path in folder.rglob("*"))
    return round(blocks * 512 / 2**20, 1)


if __name__ == "__main__":
    main()
