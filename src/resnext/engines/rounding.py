"""Round weights so that the answers change least, not the weights.

GPTQ (arXiv:2210.17323): the weights of an output channel are rounded one by one, and the
rest make up for each error as well as the second moments of the inputs allow. What the mean
is still off goes to the bias. By itself nothing here knows of networks or files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from resnext.engines import eightbits

Array = npt.NDArray[Any]

_DAMPING = 0.01  # of the mean variance of an input: keeps the moments of few pictures invertible
_BLOCK = 64  # columns between two large products


def round_weight(weight: Array, step: Array, covariance: Array) -> Array:
    """Round the weights of a convolution to 8 bits.

    Args:
        weight: (G, O, I) weights of O output channels from I inputs, in each of G groups.
        step: (G, O) distances between levels.
        covariance: (G, I, I) covariance of the inputs.

    Returns:
        (G, O, I) int8 levels. The mean square error of no output channel is larger than
        with each weight at its nearest level.
    """

    def nearest(some: Array) -> Array:
        return eightbits.values(eightbits.nearest(some, step), step)

    return eightbits.nearest(round_in_turn(weight, covariance, nearest), step)


def round_in_turn(weight: Array, covariance: Array, nearest: Callable[[Array], Array]) -> Array:
    """Round weights to what a type or a grid has, one after the other.

    Args:
        weight: (G, O, I) weights of O output channels from I inputs, in each of G groups.
        covariance: (G, I, I) covariance of the inputs.
        nearest: Rounds values (G, O) or (G, O, I), each to the nearest that there is.

    Returns:
        The shape of `weight`, in float64. The mean square error of no output channel is
        larger than with each weight at its nearest value.
    """
    plain, better = nearest(weight), _one_by_one(weight, covariance, nearest)
    worse = error(weight, better, covariance) > error(weight, plain, covariance)
    return np.where(worse[..., None], plain, better)


def error(weight: Array, rounded: Array, covariance: Array) -> Array:
    """Return the (G, O) mean square errors of the outputs, but for that of their mean."""
    apart = weight - rounded
    found: Array = ((apart @ covariance) * apart).sum(axis=-1)
    return found


def mend_bias(bias: Array, weight: Array, rounded: Array, mean: Array) -> Array:
    """Return the bias that gives the outputs the mean they had.

    Args:
        bias: (G, O) biases.
        weight: (G, O, I) weights.
        rounded: The weights that replace them.
        mean: (G, I) means of the inputs.
    """
    mended: Array = bias + ((weight - rounded) @ mean[..., None])[..., 0]
    return mended


def _one_by_one(weight: Array, covariance: Array, nearest: Callable[[Array], Array]) -> Array:
    inputs = weight.shape[-1]
    variance = np.trace(covariance, axis1=1, axis2=2) / inputs
    damping = _DAMPING * variance + np.finfo(np.float32).tiny
    damped = covariance + damping[:, None, None] * np.eye(inputs)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    rest, rounded = weight.astype(np.float64), np.empty(weight.shape)
    for start in range(0, inputs, _BLOCK):
        stop = min(start + _BLOCK, inputs)
        errors = np.empty((*weight.shape[:2], stop - start))
        for column in range(start, stop):
            value = rounded[..., column] = nearest(rest[..., column])
            apart = (rest[..., column] - value) / upper[:, column, column, None]
            errors[..., column - start] = apart
            rest[..., column:stop] -= apart[..., None] * upper[:, None, column, column:stop]
        rest[..., stop:] -= errors @ upper[:, start:stop, stop:]
    return rounded
