"""The processor's peak, against a product of matrices in NumPy."""

from __future__ import annotations

import pytest

from resnext import cores
from resnext.deploy import roofline


def test_the_peak_is_plausible_and_8_bits_have_twice_that_of_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(roofline, "_SECONDS", 0.05)
    assert 1e8 < roofline.peak_macs("fp32", threads=1) < 1e14
    measured = iter([3e9])
    real = roofline.peak_macs
    monkeypatch.setattr(roofline, "peak_macs", lambda *_args, **_options: next(measured))
    assert real("int8") == 6e9


def test_each_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int | None]] = []

    def measured(precision: str, *, threads: int | None) -> float:
        asked.append((precision, threads))
        return float(len(asked))

    monkeypatch.setattr(roofline, "peak_macs", measured)
    given = [("fp32", 1), ("fp32", 2), ("fp32", 1), ("auto", None), ("bf16", None), ("fp16", 1)]
    assert roofline.measure(given) == {"fp32": {"1": 1.0, "2": 2.0}, "bf16": {"auto": 3.0}}
    assert asked == [("fp32", 1), ("fp32", 2), ("bf16", None)]


def test_the_peak_is_that_of_the_cores_an_engine_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container with a share of the machine, an engine takes no more than that."""
    given: list[dict[str, str]] = []

    class Core:
        def compile_model(self, _model: object, _device: str, settings: dict[str, str]) -> None:
            given.append(settings)
            raise NotImplementedError

    monkeypatch.setattr(roofline, "open_core", Core)
    for limit, threads in ((3, None), (3, 2), (None, None)):
        monkeypatch.setattr(cores, "limit", lambda limit=limit: limit)
        with pytest.raises(NotImplementedError):
            roofline.peak_macs("fp32", threads=threads)
    assert [settings.get("INFERENCE_NUM_THREADS") for settings in given] == ["3", "2", None]
