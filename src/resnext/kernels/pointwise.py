"""[torch] The 1x1 convolution: a product, with bias, residual and ReLU.

Legend: M rows are the output's pixels (N*Ho*Wo), K the input's channels, N the output's.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from resnext.kernels import launch
from resnext.kernels.tuning import Config

# Rows, columns and depth of a tile, row tiles in a band, warps, stages; the likeliest first.
# Depths are for 2-byte elements. A stage holds (rows + columns) x depth x 2 bytes of shared
# memory: 48 KiB for the largest of these, of the 227 KiB that a program may have on Hopper.
_TILES = (
    (128, 128, 64, 8, 8, 3),
    (128, 256, 64, 8, 8, 3),
    (128, 128, 32, 8, 4, 4),
    (128, 64, 64, 8, 4, 4),
    (64, 128, 64, 8, 4, 4),
    (64, 64, 64, 8, 4, 4),
    (32, 64, 64, 8, 4, 5),
    (16, 32, 128, 8, 4, 4),
)


@triton.jit
def multiply(
    left: tl.tensor, right: tl.tensor, total: tl.tensor, PRECISION: tl.constexpr
) -> tl.tensor:
    """Return `total` + `left` @ the transpose of `right`."""
    if PRECISION == "widened":  # Triton's interpreter multiplies the bits of bfloat16
        return tl.dot(left.to(tl.float32), right.to(tl.float32).T, total)
    else:
        # The last argument is for Triton before 3.9, which expects float32 whatever `total` is.
        return tl.dot(left, right.T, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def begin(
    residual: tl.tensor,
    m: tl.tensor,
    n: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    RESIDUAL: tl.constexpr,
    QUANTIZED: tl.constexpr,
) -> tl.tensor:
    """Return what the sums of a tile start from: the residual, or zeros.

    Before the product its latency is hidden, and its addresses need no registers beside the
    sums: with it at the end, Triton 3.9 took 174 registers a thread where this takes 128.
    """
    if QUANTIZED:
        return tl.full((BLOCK_M, BLOCK_N), 0, tl.int32)
    elif RESIDUAL:
        at = m.to(tl.int64)[:, None] * columns + n[None, :]
        inside = (m < rows)[:, None] & (n < columns)[None, :]
        return tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    else:  # all three in one statement: Triton leaves out a branch, but nothing after one
        return tl.full((BLOCK_M, BLOCK_N), 0, tl.float32)


@triton.jit
def dequantize(
    total: tl.tensor,
    scale: tl.tensor,
    residual: tl.tensor,
    residual_scale: tl.tensor,
    m: tl.tensor,
    n: tl.tensor,
    rows: tl.tensor,
    end: tl.tensor,
    columns: tl.tensor,
    RESIDUAL: tl.constexpr,
) -> tl.tensor:
    """Turn the int32 sums of a tile into float32, in steps of the output; add the residual."""
    total = total.to(tl.float32) * tl.load(scale + n, mask=n < end, other=0.0)[None, :]
    if RESIDUAL:
        at = m.to(tl.int64)[:, None] * columns + n[None, :]
        inside = (m < rows)[:, None] & (n < end)[None, :]
        total += tl.load(residual + at, mask=inside, other=0).to(tl.float32) * residual_scale
    return total


@triton.jit
def finish(
    total: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    m: tl.tensor,
    n: tl.tensor,
    rows: tl.tensor,
    end: tl.tensor,
    columns: tl.tensor,
    RELU: tl.constexpr,
) -> None:
    """Add the bias to a tile, apply ReLU, write it.

    `m` and `n` are its rows and columns of the output, which has `columns` of them; `rows`
    and `end` are where padding begins.
    """
    total += tl.load(bias + n, mask=n < end, other=0.0)[None, :]
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # keeps NaN, as torch does
    if out.dtype.element_ty == tl.int8:
        total = tl.minimum(tl.maximum(tl.floor(total + 0.5), -127.0), 127.0)
    at = m.to(tl.int64)[:, None] * columns + n[None, :]
    inside = (m < rows)[:, None] & (n < end)[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _pointwise(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    scale: tl.tensor,
    residual: tl.tensor,
    residual_scale: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    depth: tl.tensor,
    columns: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    QUANTIZED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BAND: tl.constexpr,
    EVEN_K: tl.constexpr,
) -> None:
    """Compute a tile of BLOCK_M pixels x BLOCK_N channels of the output.

    Plan: the sum stays in registers (float32); tiles of x and of the weight pass through
    shared memory, the next ones being copied while the tensor cores work on these. Programs
    that run at the same time share a band of BAND row tiles and all column tiles, so a row
    of x comes from memory once and then from L2. Traffic: (M*K + N*K + M*N) elements, and
    another M*N with a residual.
    """
    # 1. Which tile: down the rows of a band first, then to the band's next column tile.
    row_tiles = (rows + BLOCK_M - 1) // BLOCK_M
    column_tiles = (columns + BLOCK_N - 1) // BLOCK_N
    program = tl.program_id(0)
    first = program // (BAND * column_tiles) * BAND
    tiles_in_band = tl.minimum(row_tiles - first, BAND)
    within = program % (BAND * column_tiles)
    m = (first + within % tiles_in_band) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = within // tiles_in_band * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)

    # 2. Where it reads. Beyond the edge it reads the first row and column: no mask in the
    # loop, and never stored. 64 bits, as large batches have more than 2^31 elements.
    pixel = tl.where(m < rows, m, 0)
    if STRIDE > 1:
        row, column = pixel // out_width, pixel % out_width
        picture = row // out_height
        row = picture * height + (row % out_height) * STRIDE
        pixel = row * width + column * STRIDE
    channel = tl.where(n < columns, n, 0)
    x_at = x + pixel.to(tl.int64)[:, None] * depth + k[None, :]
    weight_at = weight + channel.to(tl.int64)[:, None] * depth + k[None, :]

    # 3. The product, upon the residual.
    total = begin(residual, m, n, rows, columns, BLOCK_M, BLOCK_N, RESIDUAL, QUANTIZED)
    for start in range(0, depth, BLOCK_K):
        if EVEN_K:
            left, right = tl.load(x_at), tl.load(weight_at)
        else:
            left = tl.load(x_at, mask=k[None, :] < depth - start, other=0.0)
            right = tl.load(weight_at, mask=k[None, :] < depth - start, other=0.0)
        total = multiply(left, right, total, PRECISION)
        x_at += BLOCK_K
        weight_at += BLOCK_K

    # 4. Bias and ReLU on the registers, and the only write.
    if QUANTIZED:
        total = dequantize(
            total, scale, residual, residual_scale, m, n, rows, columns, columns, RESIDUAL
        )
    finish(total, bias, out, m, n, rows, columns, columns, RELU)


def pointwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    residual: Tensor | None = None,
    relu: bool = True,
    stride: int = 1,
    scale: Tensor | None = None,
    residual_scale: float = 1.0,
) -> Tensor:
    """Convolve with 1x1 filters; add the bias and a residual; apply ReLU.

    Args:
        x: (N, H, W, Cin), contiguous; bfloat16, float16, float32 or, with `scale`, int8.
        weight: (Cout, Cin), of the same type.
        bias: (Cout,), float32.
        residual: What to add before the ReLU, like the output; None for nothing.
        relu: Whether negative sums become 0.
        stride: 1 or 2.
        scale: (Cout,), float32, of int8 tensors: steps of the output in one step of the input
            times one of the channel's weights. The bias is in steps of the output as well.
        residual_scale: Steps of the output in one of the residual, where that is int8.

    Returns:
        (N, Ho, Wo, Cout), of the input's type; sums are float32, or int32 of int8. Products of
        float32 are rounded as `torch.set_float32_matmul_precision` says.

    Raises:
        ConfigError: A tensor has another shape, type or layout.
    """
    batch, height, width, depth = launch.check_input(x)
    launch.check_stride(stride)
    columns = weight.shape[0]
    launch.check("weight", weight, (columns, depth), x.dtype)
    launch.check("bias", bias, (columns,), torch.float32)
    launch.check_scale(scale, columns, x.dtype)
    out = launch.new_output(x, columns, stride)
    _, out_height, out_width, _ = out.shape
    if residual is not None:
        launch.check("residual", residual, tuple(out.shape), x.dtype)
    rows = batch * out_height * out_width
    if not out.numel():
        return out
    arguments: dict[str, Any] = {
        "x": x,
        "weight": weight,
        "bias": bias,
        "scale": bias if scale is None else scale,
        "residual": x if residual is None else residual,
        "residual_scale": float(residual_scale),
        "out": out,
        "rows": rows,
        "depth": depth,
        "columns": columns,
        "height": height,
        "width": width,
        "out_height": out_height,
        "out_width": out_width,
        "STRIDE": stride,
        "RELU": relu,
        "RESIDUAL": residual is not None,
        "QUANTIZED": scale is not None,
        "PRECISION": launch.precision(x.dtype),
    }
    launch.run(
        _pointwise,
        arguments,
        lambda config: _cover(rows, config["BLOCK_M"]) * _cover(columns, config["BLOCK_N"]),
        key=f"pointwise {launch.bucket(rows)}x{depth}x{columns} stride {stride}"
        f" {x.dtype}{' residual' * (residual is not None)}",
        configs=configs(rows, depth, columns, element_size=x.element_size()),
    )
    return out


def configs(rows: int, depth: int, columns: int, *, element_size: int) -> list[Config]:
    """List the configurations worth trying for a product of this size, likeliest first."""
    tiles = [tile for tile in _TILES if tile[0] < 2 * rows and tile[1] < 2 * columns]
    found: list[Config] = []
    for block_m, block_n, block_k, band, warps, stages in tiles or _TILES[-1:]:
        block_k = max(16, block_k * 2 // element_size)
        found.append(
            {
                "BLOCK_M": block_m,
                "BLOCK_N": block_n,
                "BLOCK_K": block_k,
                "BAND": band,
                "EVEN_K": int(depth % block_k == 0),
                "num_warps": warps,
                "num_stages": stages,
            }
        )
    return found


def _cover(count: int, block: int) -> int:
    return -(-count // block)
