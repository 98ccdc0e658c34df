"""The JSON files of a run, and what of them is left after a kill."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from resnext.errors import OutputError
from resnext.predictions import Labels
from resnext.training import records
from resnext.training.samples import Sample, SampleSet


def sample_set(*labels: int) -> SampleSet:
    samples = [Sample(str(number), b"", (label,)) for number, label in enumerate(labels)]
    return SampleSet(samples=samples, labels=Labels(("cat", "dog")))


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert records.read(path) == []
    for step in (1, 2, 3):
        records.append(path, {"step": step, "loss": 0.5})
    assert [line["step"] for line in records.read(path)] == [1, 2, 3]


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    records.append(path, {"step": 1, "epoch": 1})
    with open(path, "ab") as file:
        file.write(b'{"step": 2, "lo')
    assert records.read(path) == [{"step": 1, "epoch": 1}]
    records.trim(path, 5)
    records.append(path, {"step": 2})
    assert [line["step"] for line in records.read(path)] == [1, 2]


def test_epochs_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    records.trim(path, 0)
    assert not path.exists()
    for step in (10, 20, 30):
        records.append(path, {"step": step, "epoch": step // 10})
    records.trim(path, 2)
    assert [line["step"] for line in records.read(path)] == [10, 20]
    records.trim(path, 0)
    assert records.read(path) == []


def test_json_that_is_not_whole_is_none(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    assert records.read_json(path) is None
    path.write_text('{"a": ')
    assert records.read_json(path) is None
    records.write_json(path, {"a": [1, 2]})
    assert records.read_json(path) == {"a": [1, 2]}


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "metrics.jsonl"
    records.append(path, {"step": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"metrics.jsonl: the disk is full"):
        records.append(path, {"step": 2})
    with pytest.raises(OutputError, match=r"config.json: the disk is full"):
        records.write_json(tmp_path / "config.json", {})


@pytest.mark.parametrize("test", [None, sample_set(0, 0, 1)])
def test_data_is_described_by_class(test: Any) -> None:
    found = records.describe_data(sample_set(0, 1, 1, 1), test, {"kind": "given"})
    assert found["train_pictures"] == 4
    assert found["val_pictures"] == (0 if test is None else 3)
    assert found["split"] == {"kind": "given"}
    assert found["classes"] == [
        {"name": "cat", "train": 1, "val": 0 if test is None else 2},
        {"name": "dog", "train": 3, "val": 0 if test is None else 1},
    ]
