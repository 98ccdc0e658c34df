"""Groups laid side by side are the same convolution."""

from __future__ import annotations

import numpy as np
import pytest

from resnext.engines import eightbits


@pytest.mark.parametrize(
    ("groups", "outs", "ins", "together"),
    [(32, 4, 4, 8), (32, 16, 16, 2), (8, 64, 64, 1), (1, 8, 16, 1), (6, 2, 8, 3), (5, 1, 7, 1)],
)
def test_wide_groups_have_the_small_ones_on_their_diagonal(
    groups: int, outs: int, ins: int, together: int
) -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(-127, 128, (groups * outs, ins, 3, 3), np.int8)
    wide, fewer = eightbits.widen(levels, groups)
    assert fewer == groups // together and wide.shape == (groups * outs, together * ins, 3, 3)
    value = rng.integers(0, 256, (groups * ins, 3, 3))

    def convolve(weight: np.ndarray, count: int) -> np.ndarray:
        by_group = weight.astype(int).reshape(count, -1, weight.shape[1] * 9)
        return np.einsum("goi,gi->go", by_group, value.reshape(count, -1)).reshape(-1)

    assert np.array_equal(convolve(wide, fewer), convolve(levels, groups))


def test_a_channel_of_zeros_has_a_step() -> None:
    weight = np.zeros((2, 3, 1, 1))
    weight[1, 2] = -5
    step = eightbits.steps(weight)
    assert (step > 0).all() and np.isfinite(1 / step[1])
    assert eightbits.nearest(weight, step).reshape(2, 3).tolist() == [[0, 0, 0], [0, 0, -127]]
