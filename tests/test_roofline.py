"""The processor's peak, against a product of matrices in NumPy."""

from __future__ import annotations

import pytest

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
