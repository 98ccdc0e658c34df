"""`scan`: bad pictures are named, in order, and can be left out."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from resnext import images, testing
from resnext.errors import DatasetError
from resnext.predictions import Labels
from resnext.training.samples import Sample, SampleSet
from resnext.training.scan import Problem, cores, scan, without


@pytest.fixture
def pictures(tmp_path: Path) -> SampleSet:
    """Forty pictures of two classes."""
    testing.write_pictures(tmp_path, classes=("a", "b"), per_class=20, size=16)
    paths = sorted(tmp_path.rglob("*.png"))
    samples = [
        Sample(f"{path.parent.name}/{path.name}", str(path), (int(path.parent.name == "b"),))
        for path in paths
    ]
    return SampleSet(samples=samples, labels=Labels(("a", "b")))


def _spoil(pictures: SampleSet, number: int, content: bytes | None) -> None:
    path = Path(pictures.samples[number].source)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if content is None else content)


def test_good_pictures_have_no_problems(pictures: SampleSet) -> None:
    assert scan(pictures) == []


@pytest.mark.parametrize("threads", [1, 3, None])
def test_bad_pictures_are_named_in_order(pictures: SampleSet, threads: int | None) -> None:
    _spoil(pictures, 30, None)
    _spoil(pictures, 3, b"")
    _spoil(pictures, 17, b"<html>")
    Path(pictures.samples[5].source).unlink()
    found = scan(pictures, threads=threads)
    names = [pictures.samples[number].name for number in (3, 5, 17, 30)]
    assert [problem.name for problem in found] == names
    assert found[0].reason == "is empty"
    assert found[1].reason == "there is no such file"
    assert found[2].reason.startswith("is not a picture")
    assert str(found[0]) == "a/0003.png: is empty"


def test_progress_ends_with_all(pictures: SampleSet) -> None:
    seen: list[tuple[int, int]] = []
    scan(pictures, threads=1, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (40, 40)
    assert seen == sorted(seen) and len(seen) > 1


def test_pictures_are_decoded_at_once(pictures: SampleSet, monkeypatch: Any) -> None:
    barrier = threading.Barrier(2, timeout=10)

    def together(source: Any) -> None:
        barrier.wait()  # fails unless another thread decodes too

    monkeypatch.setattr(images, "open_rgb", together)
    assert scan(pictures, threads=2) == []


def test_processes_of_a_machine_share_its_cores(pictures: SampleSet, monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert cores() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert cores() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert cores() == 1
    seen: list[tuple[int, int]] = []
    scan(pictures, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (16, 40), "one thread looks at so many before progress is told"


def test_a_scan_can_be_stopped(pictures: SampleSet) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(pictures, progress=stop)


def test_problems_are_left_out(pictures: SampleSet) -> None:
    left = without(pictures, [Problem("a/0001.png", "x"), Problem("b/0002.png", "y")])
    assert left.counts == (19, 19)
    assert left.labels == pictures.labels
    assert "a/0001.png" not in {sample.name for sample in left.samples}
    assert without(pictures, []).fingerprint == pictures.fingerprint


def test_nothing_left_is_an_error(pictures: SampleSet) -> None:
    with pytest.raises(DatasetError, match="there is no picture"):
        without(pictures, [Problem(sample.name, "") for sample in pictures.samples])
