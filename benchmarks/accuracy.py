"""The starter on a labelled folder, through the command line, in each precision.

    python benchmarks/accuracy.py RESNEXT FOLDER [ENGINE ...]

FOLDER has one folder per synset id, as Tiny ImageNet's validation pictures unpack.
Prints top-1, top-5 and how often each run's top-1 equals that of the first.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import PurePath
from typing import Any

import paired


def predict(resnext: str, folder: str, engine: str, precision: str) -> dict[str, list[str]]:
    """Return the synset ids of the top 5 of each picture."""
    command = [resnext, "predict", folder, "--format", "jsonl", "--engine", engine]
    command += ["--precision", precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = (json.loads(line) for line in done.stdout.splitlines())
    return {row["source"]: [best["synset_id"] for best in row["predictions"]] for row in rows}


def main(resnext: str, folder: str, *engines: str) -> None:
    """Run every engine and precision; the first, OpenVINO fp32, is the reference."""
    runs = [("openvino", "fp32"), ("openvino", "bf16"), *((engine, "fp32") for engine in engines)]
    results: dict[str, Any] = {}
    reference: dict[str, list[str]] = {}
    for engine, precision in runs:
        answers = predict(resnext, folder, engine, precision)
        reference = reference or answers
        hits = [_rank(PurePath(source).parent.name, ids) for source, ids in answers.items()]
        results[f"{engine} {precision}"] = {
            "pictures": len(answers),
            "top1": round(100 * sum(rank == 0 for rank in hits) / len(hits), 2),
            "top5": round(100 * sum(rank < 5 for rank in hits) / len(hits), 2),
            "top-1 agreement": round(
                100 * sum(ids[0] == reference[key][0] for key, ids in answers.items()) / len(hits),
                2,
            ),
        }
    paired.report("accuracy", results)


def _rank(truth: str, ids: list[str]) -> int:
    return ids.index(truth) if truth in ids else len(ids)


if __name__ == "__main__":
    main(*sys.argv[1:])
