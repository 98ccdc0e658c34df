"""Time whole processes in turn, A B A B ..., and report medians and ratios.

Pairs that run side by side see the same machine, so their ratio holds when the speed of
a shared machine drifts; a single absolute time does not.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def seconds(command: list[str]) -> float:
    """Run a command to its end and return its wall time in seconds."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False)
    elapsed = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(
            f"{' '.join(command)} exited with {done.returncode}:\n{done.stderr.decode()}"
        )
    return elapsed


def compare(commands: dict[str, list[str]], *, rounds: int, warmup: int = 1) -> dict[str, Any]:
    """Run every command once a round, in turn.

    Args:
        commands: Name to command; the first is the one the others are divided by.
        rounds: Counted rounds.
        warmup: Rounds not counted.

    Returns:
        Seconds (median, minimum, maximum) per name, and the median of the ratios
        other / first taken round by round.
    """
    times: dict[str, list[float]] = {name: [] for name in commands}
    for round_ in range(warmup + rounds):
        for name, command in commands.items():
            elapsed = seconds(command)
            if round_ >= warmup:
                times[name].append(elapsed)
    base = next(iter(times.values()))
    return {
        name: {
            "median_s": round(statistics.median(row), 3),
            "min_s": round(min(row), 3),
            "max_s": round(max(row), 3),
            "ratio": round(statistics.median(b / a for a, b in zip(base, row, strict=True)), 2),
        }
        for name, row in times.items()
    }


def spread(values: list[float], *, digits: int = 1) -> dict[str, float]:
    """Return median, minimum and maximum of what the rounds gave."""
    parts = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in parts.items()}


def machine() -> dict[str, str]:
    """Say what this was measured on: date, commit, processor, versions."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
    }


def report(name: str, results: dict[str, Any]) -> None:
    """Print results as one JSON document and keep them in `benchmarks/results`."""
    document = {
        "benchmark": name,
        "command": " ".join(Path(word).name for word in sys.argv),
        **machine(),
        "results": results,
    }
    text = json.dumps(document, indent=2)
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{document['date']}-{name}.json").write_text(text + "\n")
    print(text)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()
