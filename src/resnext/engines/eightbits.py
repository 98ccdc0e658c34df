"""8-bit weights: 255 levels around zero, for each output channel its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from resnext.quantization import MOST

Array = npt.NDArray[Any]


def steps(weight: Array) -> Array:
    """Return the step between levels for each output channel: its largest weight is a level.

    Args:
        weight: (out, ...) weights.
    """
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)))
    found: Array = np.maximum(largest, np.finfo(np.float32).tiny) / MOST
    return found


def nearest(weight: Array, step: Array) -> Array:
    """Round weights to the nearest level.

    Args:
        weight: (out, ...) or (group, out, ...) weights.
        step: (out,) or (group, out) steps.

    Returns:
        int8 levels.
    """
    return np.clip(np.rint(weight / _by_channel(step, weight)), -MOST, MOST).astype(np.int8)


def values(levels: Array, step: Array) -> Array:
    """Return the weights of the levels that `nearest` returned."""
    found: Array = levels * _by_channel(step, levels)
    return found


def _by_channel(step: Array, weight: Array) -> Array:
    return step.reshape(*step.shape, *[1] * (weight.ndim - step.ndim))
