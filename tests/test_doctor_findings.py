"""The fix list: stable, readable by a program, and never inside the data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resnext.doctor import findings
from resnext.doctor.findings import PROBLEMS, Finding
from resnext.errors import ConfigError, OutputError


def test_names_that_programs_rely_on() -> None:
    assert list(PROBLEMS) == [
        "refused", "unreadable", "truncated", "leak", "label-conflict", "duplicate",
        "near-duplicate", "likely-mislabel", "wrong-extension", "blank", "tiny", "odd-shape",
        "class-imbalance", "orientation", "mode",
    ]  # fmt: skip
    assert [name for name, problem in PROBLEMS.items() if problem.is_note] == [
        "orientation", "mode",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a/b.png", "\udcff\n.png", "\u2028é💥.png"])
def test_a_line_gives_the_name_back(name: str, tmp_path: Path) -> None:
    finding = Finding(
        problem="duplicate", detail="x", action="keep-one-of", path=name, part="train",
        label="cat", other="c.png", score=0.123456,
    )  # fmt: skip
    path = findings.write(tmp_path / "fixes.jsonl", [finding, finding])
    lines = path.read_bytes().splitlines()
    assert len(lines) == 2
    assert json.loads(lines[0]) == {
        "path": name, "part": "train", "label": "cat", "problem": "duplicate", "detail": "x",
        "action": "keep-one-of", "other": "c.png", "score": 0.1235,
    }  # fmt: skip


def test_only_a_relabel_suggests_a_class() -> None:
    assert Finding(problem="x", detail="", action="relabel:a:b").suggested == "a:b"
    assert Finding(problem="x", detail="", action="rename:a.png").suggested == ""


def test_results_never_go_into_the_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "link").symlink_to(data)
    for folder in (data, data / "check", tmp_path / "link" / "check"):
        with pytest.raises(ConfigError, match="in which nothing is changed"):
            findings.check_output(folder, data)
    findings.check_output(tmp_path / "check", data)
    findings.check_output(tmp_path / "data-check", data)


def test_where_nothing_can_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file; expected a folder"):
        findings.check_output(tmp_path / "file", tmp_path / "data")
    with pytest.raises(OutputError, match="there is no folder"):
        findings.check_output(tmp_path / "no" / "where", tmp_path / "data")
