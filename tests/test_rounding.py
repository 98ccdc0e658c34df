"""Rounded weights: never worse than to the nearest level, on inputs like those seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.engines import rounding
from resnext.quantization import MOST


def problem(seed: int, groups: int = 2, outs: int = 6, inputs: int = 90) -> tuple[np.ndarray, ...]:
    """Give weights, steps, covariance and mean of inputs each like its neighbors, and these."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 1, (groups, outs, inputs))
    step = np.abs(weight).max(axis=2) / MOST * 8  # coarse, so that rounding matters
    seen = np.cumsum(rng.normal(0, 1, (groups, inputs, 400)), axis=1) + 3
    mean = seen.mean(axis=2)
    apart = seen - mean[..., None]
    return weight, step, apart @ apart.transpose(0, 2, 1) / 400, mean, seen


@given(st.integers(0, 1000))
def test_no_channel_is_worse_than_with_its_nearest_levels(seed: int) -> None:
    weight, step, covariance, _, seen = problem(seed, outs=3, inputs=20)
    levels = rounding.round_weight(weight, step, covariance)

    def spread(rounded: np.ndarray) -> np.ndarray:
        return ((weight - rounded * step[..., None]) @ seen).var(axis=2)

    assert (spread(levels) <= spread(np.rint(weight / step[..., None])) * (1 + 1e-9)).all()


def test_inputs_that_are_alike_make_up_for_each_other() -> None:
    weight, step, covariance, *_ = problem(0)
    levels = rounding.round_weight(weight, step, covariance)
    assert levels.dtype == np.int8 and np.abs(levels.astype(int)).max() <= MOST
    wide = step[..., None]
    found = rounding.error(weight, levels * wide, covariance)
    nearest = rounding.error(weight, np.rint(weight / wide) * wide, covariance)
    assert found.sum() < 0.2 * nearest.sum()


def test_inputs_that_have_nothing_in_common_leave_the_nearest() -> None:
    weight, step, covariance, *_ = problem(1)
    alone = np.broadcast_to(np.eye(weight.shape[2]), covariance.shape)
    levels = rounding.round_weight(weight, step, alone)
    assert np.array_equal(levels, np.rint(weight / step[..., None]))


@pytest.mark.parametrize("covariance", [np.zeros((2, 90, 90)), np.ones((2, 90, 90))])
def test_moments_of_few_or_dead_inputs_are_enough(covariance: np.ndarray) -> None:
    weight, step, *_ = problem(2)
    levels = rounding.round_weight(weight, step, covariance)
    assert np.abs(levels * step[..., None] - weight).max() < 3 * step.max()


def test_the_mean_of_the_outputs_stays() -> None:
    weight, step, covariance, mean, _ = problem(3)
    rounded = rounding.round_weight(weight, step, covariance) * step[..., None]
    bias = np.ones(weight.shape[:2])
    mended = rounding.mend_bias(bias, weight, rounded, mean)
    before, after = (
        (matrix @ mean[..., None])[..., 0] + one
        for matrix, one in ((weight, bias), (rounded, mended))
    )
    assert np.allclose(before, after, rtol=1e-12, atol=1e-9)
