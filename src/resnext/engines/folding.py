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
from resnext.engines import rounding
from resnext.errors import ModelFileError
from resnext.layers import Conv

Tensors = Mapping[str, npt.NDArray[Any]]
Array = npt.NDArray[Any]

# Of photographs, roughly; rounding hardly depends on them (docs/LOG.md).
_PIXEL_CORRELATION = 0.97  # of a pixel and the next
_CHANNEL_CORRELATION = 0.9  # of the colours of one
_PIXEL_DEVIATION = 60.0  # grey levels


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

    Their neighbouring pixels are alike, so weights can make up for the errors of others.
    Starter, bfloat16 beside fp32, 5,000 pictures: relative error of the logits 0.0042; with
    every weight at its nearest 0.0054, with weights that lose nothing 0.0041 (docs/LOG.md).
    Coloured noise of no neighbourhood notices more: 1.3 times the error of nearest weights.

    Args:
        weight: (out, C + 1, height, width).

    Returns:
        The same shape, numbers of bfloat16 in float64.
    """
    outs, channels, *kernel = weight.shape
    moments = _pixel_moments(channels - 1, *kernel)
    with np.errstate(all="ignore"):  # what is not finite is reported with its name, by build
        flat = rounding.round_in_turn(weight.reshape(1, outs, -1), moments[None], _to_bfloat16)
    return flat.reshape(weight.shape)


def _to_bfloat16(values: Array) -> Array:
    return values.astype(ml_dtypes.bfloat16).astype(np.float64)


def _pixel_moments(channels: int, height: int, width: int) -> Array:
    """Return second moments of a patch of a photograph and its ones, (C + 1) h w a side.

    In units of the deviation of a pixel; the ones are as much smaller as grey levels are.
    """
    places = np.stack(np.meshgrid(range(height), range(width), indexing="ij"), -1).reshape(-1, 2)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    alike = np.full((channels, channels), _CHANNEL_CORRELATION)
    np.fill_diagonal(alike, 1)
    size = channels * height * width
    moments = np.full((size + height * width,) * 2, 0.0)
    moments[:size, :size] = np.kron(alike, _PIXEL_CORRELATION**apart)
    moments[size:, size:] = _PIXEL_DEVIATION**-2
    return moments


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
