"""Measurements of this processor: remembered, mended, never in the way."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from resnext.engines import measured, openvino


class Measure:
    """Counts how often it is asked."""

    def __init__(self, value: float = 1.5) -> None:
        self.value, self.count = value, 0

    def __call__(self) -> float:
        self.count += 1
        return self.value


def test_a_measurement_is_made_once_for_each_name_and_key(tmp_path: Path) -> None:
    measure = Measure()
    for name, key in (("a", "x"), ("a", "x"), ("a", "y"), ("b", "x"), ("a", "x")):
        assert measured.remember(tmp_path / "home", name, key, measure) == 1.5
    assert measure.count == 3
    record = json.loads((tmp_path / "home" / measured.FILE).read_text())
    assert record == {"a": {"x": 1.5, "y": 1.5}, "b": {"x": 1.5}}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"a": []}', '{"a": {"x": "fast"}}'])
def test_a_damaged_record_is_made_again(tmp_path: Path, content: str) -> None:
    (tmp_path / measured.FILE).write_text(content)
    measure = Measure()
    for _ in range(2):
        assert measured.remember(tmp_path, "a", "x", measure) == 1.5
    assert measure.count == 1


def test_what_was_known_before_is_kept(tmp_path: Path) -> None:
    (tmp_path / measured.FILE).write_text('{"bf16_speedup": {"other": 0.7}}')
    measured.remember(tmp_path, "bf16_speedup", "this", Measure())
    measured.remember(tmp_path, "widening_speedup", "this", Measure(0.9))
    assert json.loads((tmp_path / measured.FILE).read_text()) == {
        "bf16_speedup": {"other": 0.7, "this": 1.5},
        "widening_speedup": {"this": 0.9},
    }


def test_words_are_kept_too_and_odd_ones_measured_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def parse(value: object) -> str:
        if value not in ("fast", "slow"):
            raise ValueError(value)
        return str(value)

    def measure() -> str:
        asked.append("asked")
        return "fast"

    measured.remember(tmp_path, "a", "x", Measure())
    for value in (1.5, "odd", None):
        (tmp_path / measured.FILE).write_text(json.dumps({"a": {"x": 1.5}, "way": {"x": value}}))
        for _ in range(2):
            assert measured.remember(tmp_path, "way", "x", measure, parse) == "fast"
        assert len(asked) == 1
        asked.clear()
    record = json.loads((tmp_path / measured.FILE).read_text())
    assert record == {"a": {"x": 1.5}, "way": {"x": "fast"}}


def test_who_measures_something_else_does_not_wait(tmp_path: Path) -> None:
    def other() -> None:
        measured.remember(tmp_path, "b", "x", Measure(2.5))

    def slow() -> float:
        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        thread.join(timeout=5)
        assert not thread.is_alive()
        return 1.5

    measured.remember(tmp_path, "a", "x", slow)
    record = json.loads((tmp_path / measured.FILE).read_text())
    assert record == {"a": {"x": 1.5}, "b": {"x": 2.5}}


def test_a_failure_to_measure_is_the_callers(tmp_path: Path) -> None:
    def fail() -> float:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        measured.remember(tmp_path, "a", "x", fail)
    assert measured.remember(tmp_path, "a", "x", Measure()) == 1.5


def test_no_folder_and_one_that_cannot_be_written_cost_only_time(tmp_path: Path) -> None:
    measure = Measure()
    (tmp_path / "file").write_text("")
    assert measured.remember(None, "a", "x", measure) == 1.5
    assert measured.remember(tmp_path / "file", "a", "x", measure) == 1.5
    assert measure.count == 2


def test_the_ratio_is_of_the_first_network_over_the_second() -> None:
    core = openvino.open_core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    assert 0.2 < measured.bf16_speedup(core, fp32=settings, bf16=settings) < 5


class Stub:
    """A network, and its request, of which each run takes a time that is known."""

    def __init__(self, clock: list[float], times: list[float]) -> None:
        self.clock, self.times, self.runs = clock, times, 0

    def create_infer_request(self) -> Stub:
        return self

    def infer(self, _: object) -> None:
        self.clock[0] += self.times[min(self.runs, len(self.times) - 1)]
        self.runs += 1


def test_turns_go_on_until_no_best_time_falls_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(measured.time, "perf_counter", lambda: clock[0])
    steady, disturbed = Stub(clock, [2.0]), Stub(clock, [4.0, 9.0, *[8.0] * 9, 1.0, 5.0])
    assert measured._ratio([steady, disturbed], np.zeros(1)) == 2.0
    assert steady.runs == disturbed.runs == 12 + 16
    falling = Stub(clock, [0.98**turn for turn in range(500)])
    assert measured._ratio([steady, falling], np.zeros(1)) == pytest.approx(2.0 / 0.98**199)


def test_the_networks_that_are_timed_differ_in_their_groups_alone() -> None:
    found = []
    for width in (measured.NARROW, measured.WIDE):
        ops = measured._grouped(128, width, side=56).get_ordered_ops()
        assert [op.get_type_name() for op in ops].count("GroupConvolution") == 4
        found.append([tuple(op.output(0).shape) for op in ops if "Conv" in op.get_type_name()])
        shapes = {tuple(op.input_value(1).shape) for op in ops if "Group" in op.get_type_name()}
        assert shapes == {(128 // width, width, width, 3, 3)}
    assert found[0] == found[1]
