"""What is measured once: kept, found again, measured anew where the file is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resnext.engines import measured


def parse(value: object) -> str:
    if value not in ("fast", "slow"):
        raise ValueError(value)
    return str(value)


def measure(path: Path | None, key: str = "a", value: str = "fast") -> tuple[str, bool]:
    """Return what is found, and whether it had to be measured."""
    made: list[str] = []

    def run() -> str:
        made.append(value)
        return value

    return measured.once(path, "way", key, run, parse), bool(made)


def test_it_is_measured_once_for_each_key(tmp_path: Path) -> None:
    path = tmp_path / "new" / "machine.json"
    assert measure(path) == ("fast", True)
    assert measure(path, value="slow") == ("fast", False)
    assert measure(path, key="b", value="slow") == ("slow", True)
    assert json.loads(path.read_text()) == {"way": {"a": "fast", "b": "slow"}}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"way": 3}', '{"way": {"a": "odd"}}'])
def test_a_damaged_file_is_measured_again_and_mended(tmp_path: Path, content: str) -> None:
    path = tmp_path / "machine.json"
    path.write_text(content)
    assert measure(path) == ("fast", True)
    assert measure(path) == ("fast", False)


def test_other_fields_and_keys_stay(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_text('{"bf16_speedup": {"x": 1.5}, "way": {"other": "slow"}}')
    measure(path)
    assert json.loads(path.read_text()) == {
        "bf16_speedup": {"x": 1.5},
        "way": {"other": "slow", "a": "fast"},
    }


def test_without_a_folder_it_is_measured_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (None, tmp_path / "file" / "machine.json"):
        assert measure(path) == ("fast", True)
        assert measure(path) == ("fast", True)


def test_a_failure_to_measure_is_the_callers(tmp_path: Path) -> None:
    def fail() -> str:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        measured.once(tmp_path / "machine.json", "way", "a", fail, parse)
    assert measure(tmp_path / "machine.json") == ("fast", True)
