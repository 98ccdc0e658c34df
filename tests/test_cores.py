"""Threads: what container, batch system and environment allow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resnext import cores


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a machine of eight processors without groups."""
    monkeypatch.setattr(cores, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_MOUNT", tmp_path / "fs")
    monkeypatch.setattr(cores, "_processors", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


def group(machine: Path, lines: str, folder: str, **files: str) -> None:
    (machine / "cgroup").write_text(lines)
    place = machine / "fs" / folder
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (place / name.replace("__", ".")).write_text(content)


def test_all_where_nothing_limits() -> None:
    assert (cores.available(), cores.limit()) == (8, None)


@pytest.mark.parametrize(
    ("content", "allowed"),
    [("200000 100000\n", 2), ("150000 100000\n", 2), ("10000 100000\n", 1), ("max 100000\n", 8)],
)
def test_the_share_of_a_container(content: str, allowed: int, machine: Path) -> None:
    group(machine, "0::/docker/abc\n", "docker/abc", cpu__max=content)
    assert cores.available() == allowed
    assert cores.limit() == (None if allowed == 8 else allowed)


def test_a_group_above_limits_as_well(machine: Path) -> None:
    group(machine, "0::/job/step\n", "job/step", cpu__max="max 100000")
    group(machine, "0::/job/step\n", "job", cpu__max="300000 100000")
    assert cores.available() == 3


def test_the_older_groups(machine: Path) -> None:
    files = {"cpu__cfs_quota_us": "400000\n", "cpu__cfs_period_us": "100000\n"}
    group(machine, "4:cpu,cpuacct:/job\n2:memory:/other\n", "cpu,cpuacct/job", **files)
    assert cores.available() == 4
    files["cpu__cfs_quota_us"] = "-1\n"
    group(machine, "4:cpu,cpuacct:/job\n", "cpu,cpuacct/job", **files)
    assert cores.available() == 8


@pytest.mark.parametrize(
    ("text", "allowed"), [("3", 3), ("2,4", 2), ("99", 8), ("0", 8), ("many", 8), ("", 8)]
)
def test_the_environment(text: str, allowed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert cores.available() == allowed


def test_damaged_files_limit_nothing(machine: Path) -> None:
    group(machine, "nonsense\n0::/a\n", "a", cpu__max="some words here")
    assert cores.limit() is None


def test_this_machine_has_at_least_one() -> None:
    assert 1 <= cores.available() <= max(os.cpu_count() or 1, 8)
