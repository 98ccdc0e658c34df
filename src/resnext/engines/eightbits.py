"""8-bit weights: levels, steps, and small groups laid side by side.

A convolution in many small groups keeps a matrix unit nearly idle: with 4 channels a group,
two of a hundred multipliers of AMX work. Several groups together are one wider group whose
weights outside the blocks on the diagonal are zeros: more products, and the same sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from resnext.quantization import MOST

Array = npt.NDArray[Any]

WIDTH = 32  # channels of a group, where its own are fewer


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
        weight: (out, ...) weights.
        step: (out,) steps.

    Returns:
        int8 levels.
    """
    by_channel = step.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / by_channel), -MOST, MOST).astype(np.int8)


def widen(levels: Array, groups: int) -> tuple[Array, int]:
    """Lay small groups of a convolution side by side.

    Args:
        levels: (out, in per group, height, width).
        groups: Number of groups.

    Returns:
        Levels of the same convolution in fewer groups, and their number.
    """
    outs, ins, *window = levels.shape
    together = max(1, min(groups, WIDTH // ins))
    while groups % together:
        together -= 1
    if together == 1:
        return levels, groups
    own = levels.reshape(groups // together, together, outs // groups, ins, *window)
    wide = np.zeros((groups // together, together, outs // groups, together, ins, *window), np.int8)
    for index in range(together):
        wide[:, index, :, index] = own[:, index]
    return wide.reshape(outs, together * ins, *window), groups // together
