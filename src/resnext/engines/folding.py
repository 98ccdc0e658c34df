"""Fold batch norm and normalization into convolutions; join groups.

What every engine computes with is made here, in float64; no runtime has a part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from resnext import arch
from resnext.errors import ModelFileError
from resnext.layers import Conv

Tensors = Mapping[str, npt.NDArray[Any]]
Array = npt.NDArray[Any]

# Of photographs, roughly; rounding hardly depends on them (docs/LOG.md).
PIXEL_CORRELATION = 0.97  # of a pixel and the next
CHANNEL_CORRELATION = 0.9  # of the colours of one
PIXEL_DEVIATION = 60  # grey levels
_DAMPING = 1e-3


def fold(conv: Conv, tensors: Tensors) -> tuple[Array, Array]:
    """Fold a convolution and its batch norm into one weight and one bias.

    Args:
        conv: The layer.
        tensors: The `state_dict` that holds it.

    Returns:
        Weight (out, in per group, height, width) and bias (out,), both float64.

    Raises:
        ModelFileError: A tensor is missing or of another shape.
    """
    vector = (conv.out_channels,)
    weight = take(tensors, f"{conv.name}.weight", conv.weight_shape)
    gamma, beta, mean, variance = (
        take(tensors, f"{conv.norm}.{part}", vector)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    with np.errstate(all="ignore"):  # what is not finite is reported with its name, by build
        scale = gamma / np.sqrt(variance + arch.BN_EPS)
        return weight * scale[:, None, None, None], beta - mean * scale


def fold_stem(
    folded: tuple[Array, Array], scale: Array, shift: Array
) -> tuple[Array, Array, Array]:
    """Fold normalization into the first convolution so that it takes whole numbers.

    Pixels minus a whole number near their mean are exact in bfloat16 (8 bits), unlike
    normalized ones. What the whole number is off goes to one more channel, of ones: the
    zeros around the picture leave it out there, as they must.

    Args:
        folded: Weight and bias of the layer, of C channels, as `fold` gives them.
        scale: (C,) what a pixel is multiplied by in normalization.
        shift: (C,) what is added then.

    Returns:
        Weight (out, C + 1, height, width) and bias (out,) for the channels and the ones, and
        (C + 1,) whole numbers to take from these.
    """
    weight, bias = folded
    center = np.round(-shift / scale)
    offset = (weight * (shift + center * scale)[:, None, None]).sum(axis=1, keepdims=True)
    weight = np.concatenate([weight * scale[:, None, None], offset], axis=1)
    return weight, bias, np.append(center, 0)


def round_stem(weight: Array) -> Array:
    """Round the weight of `fold_stem` to bfloat16 so that photographs notice least.

    Weights are rounded one by one, and the rest make up for each error as far as neighbouring
    pixels are alike (GPTQ, arXiv:2210.17323, with moments assumed in place of counted ones).
    Starter, bfloat16 beside fp32, 5,000 pictures: relative error of the logits 0.0042; with
    every weight at its nearest 0.0054, with weights that lose nothing 0.0041 (a Xeon with AMX,
    OpenVINO 2026.4, 2026-11-22).

    Args:
        weight: (out, C + 1, height, width).

    Returns:
        The same shape, numbers of bfloat16 in float64.
    """
    outs, channels, *kernel = weight.shape
    rest = weight.reshape(outs, -1).astype(np.float64)
    moments = _pixel_moments(channels - 1, *kernel)
    upper = np.linalg.cholesky(np.linalg.inv(moments)).T
    rounded = np.empty_like(rest)
    with np.errstate(all="ignore"):  # what is not finite is reported with its name, by build
        for column in range(rest.shape[1]):
            rounded[:, column] = rest[:, column].astype(ml_dtypes.bfloat16)
            apart = (rest[:, column] - rounded[:, column]) / upper[column, column]
            rest[:, column:] -= apart[:, None] * upper[column, column:]
    return rounded.reshape(weight.shape)


def _pixel_moments(channels: int, height: int, width: int) -> Array:
    """Return second moments of a patch of a photograph and its ones, (C + 1) h w a side.

    In units of the deviation of a pixel; the ones are as much smaller as grey levels are.
    """
    places = np.stack(np.meshgrid(range(height), range(width), indexing="ij"), -1).reshape(-1, 2)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    alike = np.full((channels, channels), CHANNEL_CORRELATION)
    np.fill_diagonal(alike, 1)
    size = channels * height * width
    moments = np.full((size + height * width,) * 2, 0.0)
    moments[:size, :size] = np.kron(alike, PIXEL_CORRELATION**apart)
    moments[size:, size:] = PIXEL_DEVIATION**-2
    return moments + _DAMPING * np.eye(len(moments))


def take(tensors: Tensors, key: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return a tensor as float64.

    Raises:
        ModelFileError: It is missing or of another shape.
    """
    if key not in tensors:
        raise ModelFileError(f"the weights lack {key} {shape}")
    if tensors[key].shape != shape:
        raise ModelFileError(f"{key} has shape {tensors[key].shape}; expected {shape}")
    return tensors[key].astype(np.float64)


def narrow(name: str, value: Array) -> npt.NDArray[np.float32]:
    """Return a folded weight or bias as float32.

    Raises:
        ModelFileError: It is not finite.
    """
    with np.errstate(over="ignore"):
        stored: npt.NDArray[np.float32] = value.astype(np.float32)
    if not np.isfinite(stored).all():
        raise ModelFileError(
            f"{name} is not finite; expected weights, batch norm and bias without NaN or"
            " infinity, and a running_var of at least 0"
        )
    return stored


def join_groups(weight: Array, groups: int, *, width: int) -> tuple[Array, int]:
    """Join the groups of a convolution to wider ones, with zeros between them.

    Args:
        weight: (out, in per group, height, width).
        groups: Their number.
        width: Channels that a group should have; the last step that does not exceed it.

    Returns:
        The weight and the number of groups of the same function.
    """
    outs, ins, *kernel = weight.shape
    joined = max(
        (n for n in range(1, groups + 1) if groups % n == 0 and n * ins <= width), default=1
    )
    if joined == 1:
        return weight, groups
    blocks = weight.reshape(groups // joined, joined, outs // groups, ins, *kernel)
    wide = np.zeros((groups // joined, joined, outs // groups, joined, ins, *kernel), weight.dtype)
    for index in range(joined):
        wide[:, index, :, index] = blocks[:, index]
    return wide.reshape(outs, joined * ins, *kernel), groups // joined
