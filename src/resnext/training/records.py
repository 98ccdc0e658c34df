"""The JSON files of a run: its config, its data, a line an epoch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnext.files import atomic, output_error
from resnext.training.samples import SampleSet

CONFIG, DATA, METRICS = "config.json", "data.json", "metrics.jsonl"

Record = dict[str, Any]


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document.

    Raises:
        OutputError: It cannot be written; what was there is as it was.
    """
    with atomic(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")


def read_json(path: Path) -> Any:
    """Read a JSON document, or return None where there is none that is whole."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def append(path: Path, record: Record) -> None:
    """Add a line, safe on the disk when this returns.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        with open(path, "ab") as file:
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise output_error(path, error) from error


def read(path: Path) -> list[Record]:
    """Read the lines; one that was cut short is left out."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def trim(path: Path, epochs: int) -> None:
    """Drop the lines of all but the first epochs: the others are done again, if only to the end.

    Raises:
        OutputError: The file cannot be written.
    """
    if not path.exists():
        return
    kept = [record for record in read(path) if record["epoch"] <= epochs]
    with atomic(path) as file:
        file.writelines(json.dumps(record).encode() + b"\n" for record in kept)


def describe_data(
    train: SampleSet, test: SampleSet | None, split: Mapping[str, Any]
) -> dict[str, Any]:
    """Say what a run learns from and is evaluated on.

    Args:
        train: Training pictures.
        test: Validation pictures, or None.
        split: How the two were divided.
    """
    names = train.labels.class_names
    tested: Sequence[int] = (0,) * len(names) if test is None else test.counts
    return {
        "fingerprint": train.fingerprint,
        "train_pictures": len(train),
        "val_pictures": 0 if test is None else len(test),
        "multi_label": train.multi_label,
        "split": dict(split),
        "classes": [
            {"name": name, "train": count, "val": other}
            for name, count, other in zip(names, train.counts, tested, strict=True)
        ],
    }
