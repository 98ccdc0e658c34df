"""Levels of weights: never further than half a step, whatever the channel holds."""

from __future__ import annotations

import numpy as np

from resnext.engines import eightbits


def test_a_channel_of_zeros_has_a_step() -> None:
    weight = np.zeros((2, 3, 1, 1))
    weight[1, 2] = -5
    step = eightbits.steps(weight)
    assert (step > 0).all() and np.isfinite(1 / step[1])
    assert eightbits.nearest(weight, step).reshape(2, 3).tolist() == [[0, 0, 0], [0, 0, -127]]


def test_the_nearest_level_is_at_most_half_a_step_away() -> None:
    weight = (
        np.random.default_rng(0).normal(size=(5, 4, 3, 3))
        * np.logspace(-3, 2, 5)[:, None, None, None]
    )
    step = eightbits.steps(weight)
    rounded = eightbits.nearest(weight, step) * step[:, None, None, None]
    assert (np.abs(weight - rounded) <= step[:, None, None, None] / 2 * (1 + 1e-9)).all()
    by_group = eightbits.nearest(weight[None], step[None])
    assert np.array_equal(by_group[0], eightbits.nearest(weight, step))
    assert np.abs(eightbits.nearest(weight, step)).reshape(5, -1).max(axis=1).tolist() == [127] * 5


def test_steps_are_widened_where_the_bias_would_fit_no_int32() -> None:
    levels = np.full((2, 3, 1, 1), 127, np.int8)
    step, bias = np.array([1e-9, 1e-3]), np.array([0.5, 0.5])
    wider, wide = eightbits.widen(levels, step, bias, value_step=0.01)
    assert abs(bias[0]) / (wide[0] * 0.01) <= 2**30
    assert wide[1] == step[1] and (wider[1] == 127).all()
    assert (np.abs(wider[0] * wide[0] - levels[0] * step[0]) <= wide[0] / 2).all()
