"""[torch] The grouped 3x3 and the 1x1 convolution after it, in one kernel.

What lies between them is never written: for the first stages, where it is large, this saves
two of the five passes over memory (two of seven with a shortcut to add). One program must
hold all output channels of its pixels, so it is for narrow stages: `fits`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from resnext.kernels import launch
from resnext.kernels.grouped import (
    WIDE,
    Layout,
    add_tap,
    check_packed,
    constants,
    locate,
    make_layout,
    split_tile,
)
from resnext.kernels.pointwise import begin, finish, multiply
from resnext.kernels.tuning import Config

MOST_OUTPUTS = 512  # 64 pixels of them in float32 are half the registers of a multiprocessor

# Output pixels, warps, stages, by output channels: the sums take pixels x outputs / (32 x
# warps) registers a thread, of 255.
_TILES = {
    256: ((64, 4, 4), (128, 8, 3), (64, 8, 3), (64, 4, 3), (128, 8, 4), (32, 4, 4), (16, 4, 4)),
    512: ((64, 8, 3), (64, 8, 4), (32, 8, 4), (32, 4, 4), (16, 4, 4)),
}


def fits(channels: int, outputs: int, *, groups: int, dtype: torch.dtype) -> bool:
    """Say whether `grouped_pointwise` is meant for a pair of convolutions.

    Args:
        channels: Channels of the 3x3 convolution.
        outputs: Output channels of the 1x1 convolution.
        groups: Groups of the 3x3 convolution.
        dtype: Type of the tensors: float32 takes too much room, int8 has no such kernel.
    """
    narrow = dtype in (torch.bfloat16, torch.float16)
    if not narrow or outputs > MOST_OUTPUTS or groups < 1 or channels % groups:
        return False
    layout = Layout(channels, groups)
    return layout.group_width <= WIDE and layout.exact


@triton.jit
def add_piece(
    inner: tl.tensor,
    total: tl.tensor,
    bias3: tl.tensor,
    weight: tl.tensor,
    tile: tl.tensor,
    channels: tl.tensor,
    columns: tl.tensor,
    TILE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    EXACT: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tl.tensor:
    """End the 3x3 convolution of a tile of channels; add its share of the 1x1 to `total`."""
    first, _, count, _ = tile
    k = tl.arange(0, TILE)
    n = tl.arange(0, BLOCK_N)
    inner += tl.load(bias3 + first + k, mask=k < count, other=0.0)[None, :]
    between = tl.where(inner < 0, 0.0, inner).to(weight.dtype.element_ty)
    # The columns beyond the last are computed from the first, and never stored.
    row_at = weight + tl.where(n < columns, n, 0) * channels + first
    if EXACT:
        piece = tl.load(row_at[:, None] + k[None, :])
    else:
        piece = tl.load(row_at[:, None] + k[None, :], mask=(k < count)[None, :], other=0.0)
    return multiply(between, piece, total, PRECISION)


@triton.jit
def _grouped_pointwise(
    x: tl.tensor,
    packed: tl.tensor,
    bias3: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    residual: tl.tensor,
    out: tl.tensor,
    pixels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    channels: tl.tensor,
    step: tl.tensor,
    tiles: tl.tensor,
    columns: tl.tensor,
    STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Compute all output channels of BLOCK_M pixels.

    Plan: tile by tile of channels, the 3x3 convolution makes BLOCK_M x TILE values in
    registers; they are rounded as if they had been written, and multiplied at once by their
    TILE columns of the 1x1 weights, into BLOCK_M x BLOCK_N sums that stay in registers to
    the end. Shared memory holds the pixels and filters of a few taps and one piece of the
    1x1 weights. Traffic: every input and output element once, each residual, all weights.
    """
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    shape = (height, width, channels)
    place = locate(m, pixels, out_height, out_width, shape, STRIDE)
    total = begin(residual, m, n, pixels, columns, BLOCK_M, BLOCK_N, RESIDUAL, False)
    inner = tl.full((BLOCK_M, TILE), 0, tl.float32)
    # One loop for tiles and taps: the copies of the next tile begin before the end of this.
    taps: tl.constexpr = 9 * (WINDOW // BLOCK_K)
    for number in range(tiles * taps):
        index, tap = number // taps, number % taps
        tile = split_tile(index, channels, step, TILE, PARTS)
        inner = add_tap(
            x,
            packed + index * (9 * TILE * WINDOW),
            inner,
            place,
            shape,
            tile,
            tap,
            TILE,
            WINDOW,
            BLOCK_K,
            EXACT,
            PRECISION,
        )
        if tap == taps - 1:
            total = add_piece(
                inner,
                total,
                bias3,
                weight,
                tile,
                channels,
                columns,
                TILE,
                BLOCK_N,
                EXACT,
                PRECISION,
            )
            inner = tl.full((BLOCK_M, TILE), 0, tl.float32)
    finish(total, bias, out, m, n, pixels, columns, columns, RELU)


def grouped_pointwise(
    x: Tensor,
    packed: Tensor,
    bias3: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    *,
    groups: int,
    stride: int = 1,
    residual: Tensor | None = None,
    relu: bool = True,
) -> Tensor:
    """Convolve groups with 3x3 filters, then all channels with 1x1 filters.

    The same as `pointwise(grouped3x3(...), ...)`, but for the order of sums.

    Args:
        x: (N, H, W, C), contiguous; bfloat16, float16 or float32.
        packed: What `pack` made of the 3x3 filters, of the same type.
        bias3: (C,), float32; a ReLU follows.
        weight1: (Cout, C), of the same type as `x`.
        bias1: (Cout,), float32.
        groups: Number of groups of the 3x3 convolution.
        stride: Of the 3x3 convolution, 1 or 2.
        residual: What to add before the last ReLU, like the output; None for nothing.
        relu: Whether negative sums become 0.

    Returns:
        (N, Ho, Wo, Cout), of the input's type.

    Raises:
        ConfigError: A tensor has another shape, type or layout.
    """
    batch, height, width, channels = launch.check_input(x, launch.FLOATS)
    launch.check_stride(stride)
    layout = make_layout(channels, groups)
    columns = weight1.shape[0]
    check_packed(packed, layout, x.dtype)
    launch.check("bias3", bias3, (channels,), torch.float32)
    launch.check("weight1", weight1, (columns, channels), x.dtype)
    launch.check("bias1", bias1, (columns,), torch.float32)
    out = launch.new_output(x, columns, stride)
    _, out_height, out_width, _ = out.shape
    if residual is not None:
        launch.check("residual", residual, tuple(out.shape), x.dtype)
    pixels = batch * out_height * out_width
    if not out.numel():
        return out
    arguments: dict[str, Any] = {
        "x": x,
        "packed": packed,
        "bias3": bias3,
        "weight": weight1,
        "bias": bias1,
        "residual": x if residual is None else residual,
        "out": out,
        "pixels": pixels,
        "height": height,
        "width": width,
        "out_height": out_height,
        "out_width": out_width,
        "channels": channels,
        "step": layout.step,
        "tiles": layout.tiles,
        "columns": columns,
        "STRIDE": stride,
        "RELU": relu,
        "RESIDUAL": residual is not None,
        "PRECISION": launch.precision(x.dtype),
        **constants(layout),
    }
    launch.run(
        _grouped_pointwise,
        arguments,
        lambda config: -(-pixels // config["BLOCK_M"]),
        key=f"grouped_pointwise {launch.bucket(pixels)}x{channels}x{columns} groups {groups}"
        f" stride {stride} {x.dtype}{' residual' * (residual is not None)}",
        configs=configs(pixels, columns),
    )
    return out


def configs(pixels: int, columns: int) -> list[Config]:
    """List the configurations worth trying for so many output pixels, likeliest first."""
    block_n = max(16, launch.bucket(columns))
    tiles = _TILES[256 if block_n <= 256 else 512]
    return [
        {"BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": warps, "num_stages": stages}
        for block_m, warps, stages in [t for t in tiles if t[0] < 2 * pixels] or tiles[-1:]
    ]
