"""Deletion and insertion: areas of known curves, and that a good map beats a bad one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from resnext import testing
from resnext.engines.base import AbstractEngine, Outputs, Signature
from resnext.errors import ConfigError
from resnext.explore import faithfulness

SIZE = 32


class CornerEngine(AbstractEngine):
    """Looks at the top left quarter only: class 1 is how much contrast is left there."""

    name: ClassVar[str] = "corner"

    def __init__(self) -> None:
        signature = Signature(input_size=SIZE, in_chans=3, num_classes=2, embedding_size=1)
        super().__init__(signature, precision="fp32", best_batch_size=64)

    def _infer(self, batch_nhwc: npt.NDArray[np.uint8]) -> Outputs:
        contrast = batch_nhwc[:, :16, :16].std(axis=(1, 2, 3))[:, None] / 128
        logits = np.concatenate([0 * contrast, 8 * contrast - 4], axis=1).astype(np.float32)
        return Outputs(logits, contrast.astype(np.float32))


@pytest.fixture
def checks() -> npt.NDArray[np.uint8]:
    """Black and white pixels in turn: blurred, they are all grey."""
    board = np.indices((SIZE, SIZE)).sum(axis=0) % 2 * 255
    return np.repeat(board[..., None], 3, axis=2).astype(np.uint8)


def test_a_map_of_what_the_network_looks_at_beats_its_opposite(
    checks: npt.NDArray[np.uint8],
) -> None:
    right = np.float32([[1, 0], [0, 0]])
    good = faithfulness.measure(CornerEngine(), checks, right, 1)
    bad = faithfulness.measure(CornerEngine(), checks, -right, 1)
    assert good.deletion < 0.25 < 0.75 < bad.deletion
    assert good.insertion > 0.75 > 0.25 > bad.insertion


def test_the_curves_begin_and_end_with_the_whole_picture_and_the_blurred_one(
    checks: npt.NDArray[np.uint8],
) -> None:
    engine = CornerEngine()
    values = np.zeros((SIZE, SIZE), np.float32)
    values[:16, :16] = 1
    found = faithfulness.measure(engine, checks, values, 1, steps=4)
    ends = engine.run(np.stack([checks, faithfulness.blur(checks)])).logits
    whole, nothing = np.exp(ends[:, 1]) / np.exp(ends).sum(axis=1)
    assert len(found.deletion_curve) == len(found.insertion_curve) == 5
    for curve, first, last in (
        (found.deletion_curve, whole, nothing),
        (found.insertion_curve, nothing, whole),
    ):
        assert curve[0] == pytest.approx(first, abs=1e-6)
        assert curve[-1] == pytest.approx(last, abs=1e-6)
    # One quarter at a time, the first of which is all that counts.
    assert found.deletion_curve[1] == pytest.approx(nothing, abs=1e-3)
    assert found.deletion == pytest.approx((whole / 2 + 3 * nothing + nothing / 2) / 4, abs=2e-3)


def test_of_a_network_that_does_not_look_both_areas_are_its_probability() -> None:
    engine = testing.ConstantEngine([1.0, 1.0, 1.0, 1.0])
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    found = faithfulness.measure(engine, pixels, np.float32([[1, 2], [3, 4]]), 2)
    assert found.deletion == pytest.approx(0.25)
    assert found.insertion == pytest.approx(0.25)
    assert sum(engine.batch_sizes) == 2 * (faithfulness.STEPS + 1)


def test_the_temperature_counts_and_no_step_is_refused() -> None:
    engine = testing.ConstantEngine([0.0, 2.0])
    pixels, values = np.zeros((SIZE, SIZE, 3), np.uint8), np.ones((2, 2), np.float32)
    found = faithfulness.measure(engine, pixels, values, 1, temperature=2.0)
    assert found.deletion == pytest.approx(1 / (1 + np.exp(-1)))
    with pytest.raises(ConfigError, match="steps is 0"):
        faithfulness.measure(engine, pixels, values, 1, steps=0)
