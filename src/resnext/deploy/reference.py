"""The network in float64 NumPy: what every engine is measured against.

Written from the layer table and nothing else: no ONNX, no runtime, no torch, batch norms
not folded. It is slow and exact: a float64 has 29 bits more than the float32 it judges.
N pictures, S pixels a side, C channels, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from resnext import arch
from resnext.arch import ArchSpec
from resnext.layers import (
    Block,
    Conv,
    GlobalPool,
    Layer,
    Linear,
    Pool,
    SelectiveKernel,
    SqueezeExcite,
)
from resnext.preprocess import PreprocessSpec

Array = npt.NDArray[np.float64]


class Reference:
    """A network with its weights, ready to compute.

    Args:
        architecture: The network.
        tensors: Its `state_dict` in torchvision's keys, of any float type.
        preprocess: Gives the mean and the standard deviation.
    """

    def __init__(
        self,
        architecture: ArchSpec,
        tensors: Mapping[str, npt.NDArray[Any]],
        preprocess: PreprocessSpec,
    ) -> None:
        self._table = arch.layers(architecture)
        self._tensors = tensors
        self._preprocess = preprocess

    def run(self, batch_nhwc: npt.NDArray[np.uint8]) -> tuple[Array, Array]:
        """Compute logits and features.

        Args:
            batch_nhwc: (N, S, S, C) pixels; N is at least 1.

        Returns:
            (N, K) logits and (N, D) features, float64.
        """
        mean, std = (np.array(part) for part in (self._preprocess.mean, self._preprocess.std))
        x: Array = ((batch_nhwc / 255 - mean) / std).transpose(0, 3, 1, 2)
        embedding = x
        for layer in self._table:
            if isinstance(layer, GlobalPool):
                x = embedding = x.mean(axis=(2, 3))
            else:
                x = self._apply(layer, x)
        return x, embedding

    def _apply(self, layer: Layer, x: Array) -> Array:
        """Map (N, C, H, W) to (N, C', H', W')."""
        if isinstance(layer, Conv):
            return self._conv(layer, x)
        if isinstance(layer, Pool):
            return pool(layer, x)
        if isinstance(layer, SqueezeExcite):
            return x * self._gate(layer, x)
        if isinstance(layer, SelectiveKernel):
            return self._selective_kernel(layer, x)
        if isinstance(layer, Block):
            return self._block(layer, x)
        assert isinstance(layer, Linear)
        return x @ self._get(f"{layer.name}.weight").T + self._get(f"{layer.name}.bias")

    def _block(self, block: Block, x: Array) -> Array:
        body = shortcut = x
        for part in block.body:
            body = self._apply(part, body)
        for step in block.shortcut:
            shortcut = self._apply(step, shortcut)
        return np.maximum(body + shortcut, 0)

    def _conv(self, conv: Conv, x: Array) -> Array:
        x = convolve(x, self._get(f"{conv.name}.weight"), conv)
        gamma, beta, mean, variance = (
            self._get(f"{conv.norm}.{part}")[:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        x -= mean
        x *= gamma / np.sqrt(variance + arch.BN_EPS)
        x += beta
        return np.maximum(x, 0, out=x) if conv.relu else x

    def _gate(self, part: SqueezeExcite, x: Array) -> Array:
        hidden = np.maximum(self._pointwise(f"{part.name}.fc1", x.mean(axis=(2, 3))), 0)
        score = self._pointwise(f"{part.name}.fc2", hidden)
        with np.errstate(over="ignore"):  # exp(-x) of a gate that is shut: 1 / inf is 0
            return 1 / (1 + np.exp(-score))[:, :, None, None]

    def _selective_kernel(self, part: SelectiveKernel, x: Array) -> Array:
        paths = np.stack([self._conv(path, x) for path in part.paths], axis=1)
        pooled = paths.sum(axis=1).mean(axis=(2, 3), keepdims=True)
        weight = self._get(f"{part.name}.attn.fc_select.weight")[:, :, 0, 0]
        scores = self._conv(part.reduce, pooled)[:, :, 0, 0] @ weight.T
        scores = scores.reshape(len(x), len(part.paths), -1)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        weighted: Array = (paths * shares[..., None, None]).sum(axis=1)
        return weighted

    def _pointwise(self, key: str, x: Array) -> Array:
        return x @ self._get(f"{key}.weight")[:, :, 0, 0].T + self._get(f"{key}.bias")

    def _get(self, key: str) -> Array:
        return self._tensors[key].astype(np.float64)


def convolve(x: Array, weight: Array, conv: Conv) -> Array:
    """Convolve pictures, as a sum over the pixels of the kernel.

    Args:
        x: (N, C, H, W).
        weight: (C', C per group, height, width).
        conv: Gives stride, padding, dilation and groups.

    Returns:
        (N, C', H', W').
    """
    (count, _, *lengths), (outs, ins, side, _), groups = x.shape, weight.shape, conv.groups
    sides = [length + 2 * conv.padding for length in lengths]
    padded = np.zeros((count, x.shape[1], *sides))
    inner = (slice(conv.padding, length + conv.padding) for length in lengths)
    padded[:, :, *inner] = x
    reach = conv.dilation * (side - 1)
    height, width = ((length - reach - 1) // conv.stride + 1 for length in sides)
    grouped = weight.reshape(groups, outs // groups, ins, side, side)
    total = np.zeros((count, groups, outs // groups, height * width))
    for row in range(side):
        for column in range(side):
            seen = padded[:, :, row * conv.dilation :, column * conv.dilation :]
            seen = seen[:, :, :: conv.stride, :: conv.stride][:, :, :height, :width]
            total += grouped[..., row, column] @ seen.reshape(count, groups, ins, height * width)
    return total.reshape(count, outs, height, width)


def pool(layer: Pool, x: Array) -> Array:
    """Take the largest or the mean of each window.

    Args:
        layer: Gives kind, size, stride and padding; "avg_same" occurs in no model file.
        x: (N, C, H, W).

    Returns:
        (N, C, H', W').
    """
    size, stride, padding = layer.kernel_size, layer.stride, layer.padding
    assert layer.kind != "avg_same", "only in networks with another output stride"
    extra = size - 1 if layer.kind == "avg_ceil" else 0  # for the window that hangs over
    edges = ((0, 0), (0, 0), (padding, padding + extra), (padding, padding + extra))
    # NaN is left out below: beyond the border is nothing, neither zero nor infinity.
    padded = np.pad(x, edges, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
    reduce = np.fmax.reduce if layer.kind == "max" else np.nanmean
    result: Array = reduce(windows[:, :, ::stride, ::stride], axis=(4, 5))
    return result
