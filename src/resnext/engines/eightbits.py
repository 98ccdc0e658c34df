"""8-bit weights: 255 levels around zero, for each output channel its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from resnext.quantization import MOST

Array = npt.NDArray[Any]

# That a bias may be, in steps of the products. ONNX Runtime sums both in int32, and 2,048 times
# 9 products of 255 by 127 are less than half of the rest.
_MOST_BIAS = 2**30
# Channels a group should have at least where the processor is not known, or ONNX Runtime runs
# it. With 16 in place of 4 and more, that runs the starter 1.45 times as fast one by one and
# 1.68 times by 8, ResNeXt-50 1.30 and 1.44 times; OpenVINO 1.07 to 1.27 times with AMX, and
# 0.97 to 1.05 times without. With 32 it is 0.93 there (two cores of a Xeon, ONNX Runtime 1.31,
# OpenVINO 2026.4, 2026-11-22).
GROUP_WIDTH = 16


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


def widen(levels: Array, step: Array, bias: Array, *, value_step: float) -> tuple[Array, Array]:
    """Widen the steps of channels whose bias is huge beside their weights.

    A channel whose weights are as good as zero has steps so small that its bias, counted in
    steps of the products, fits no int32. ONNX Runtime 1.31 clips it: four such channels moved
    the features of a ResNeXt-50 with random weights by 87 %; of trained ones see
    microsoft/onnxruntime#25278. Beside that bias such weights add nothing.

    Args:
        levels: (out, ...) int8 levels.
        step: (out,) steps between them.
        bias: (out,) biases.
        value_step: Step between the levels of the values that the weights take.

    Returns:
        Levels and steps; those of other channels as they were.
    """
    least = np.abs(bias).astype(np.float64) / (_MOST_BIAS * value_step)
    wide = np.maximum(step, least)
    ratio = step / wide
    return np.rint(levels * _by_channel(ratio, levels)).astype(np.int8), wide


def values(levels: Array, step: Array) -> Array:
    """Return the weights of the levels that `nearest` returned."""
    found: Array = levels * _by_channel(step, levels)
    return found


def _by_channel(step: Array, weight: Array) -> Array:
    return step.reshape(*step.shape, *[1] * (weight.ndim - step.ndim))
