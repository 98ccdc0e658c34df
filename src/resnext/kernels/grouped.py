"""[torch] The grouped 3x3 convolution: several groups in each tile.

A group has 4 to 32 channels, a tensor core works on 16 and more at once. So a tile takes as
many groups as fit side by side, and its weights are block-diagonal: the zeros cost products
that are cheap, where memory is the limit, and change no sum. Groups wider than a tile are
split by output channel instead. `Layout` is this arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from resnext.errors import ConfigError
from resnext.kernels import launch
from resnext.kernels.pointwise import begin, dequantize, finish, multiply
from resnext.kernels.tuning import Config

TAPS = 9
NARROW, WIDE = 32, 64  # channels of a tile: for groups of at most 32 channels, and of more

# Output pixels of a program, warps, stages; the likeliest first.
_TILES = (
    (128, 4, 3),
    (128, 8, 3),
    (128, 4, 5),
    (64, 4, 4),
    (256, 8, 3),
    (32, 4, 4),
    (16, 2, 4),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the channels of a grouped convolution lie in tiles.

    Args:
        channels: Channels in and out, C.
        groups: Number of groups.
    """

    channels: int
    groups: int

    @property
    def group_width(self) -> int:
        """Channels of a group."""
        return self.channels // self.groups

    @property
    def tile(self) -> int:
        """Output channels of a tile, a power of two; some are padding in odd widths."""
        width = self.group_width
        if width <= WIDE:
            return NARROW if width <= NARROW else WIDE
        return next((tile for tile in (128, 64) if width % tile == 0), NARROW)

    @property
    def parts(self) -> int:
        """Tiles that share a group; 1 where a tile has whole groups."""
        return -(-self.group_width // self.tile)

    @property
    def step(self) -> int:
        """Channels that a tile takes of the input, or its parts together: whole groups."""
        return max(self.tile // self.group_width, 1) * self.group_width

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        if self.parts > 1:
            return self.groups * self.parts
        return -(-self.channels // self.step)

    @property
    def block_k(self) -> int:
        """Input channels of one step."""
        return min(self.tile, WIDE)

    @property
    def window(self) -> int:
        """Input channels of a tile, a multiple of `block_k`; some may be padding."""
        return -(-self.group_width // self.block_k) * self.block_k if self.parts > 1 else self.tile

    @property
    def exact(self) -> bool:
        """Whether nothing is padding."""
        if self.parts > 1:
            return self.group_width % self.tile == 0 and self.window == self.group_width
        return self.channels == self.tiles * self.tile


def pack(weight: Tensor, *, groups: int) -> Tensor:
    """Lay out the filters of a grouped 3x3 convolution for `grouped3x3`.

    Args:
        weight: (C, C/groups, 3, 3), as in torch.
        groups: Number of groups.

    Returns:
        (tiles, 9, outputs, inputs): for each tile and tap a matrix, block-diagonal where it
        holds several groups.

    Raises:
        ConfigError: The shape is not that of a grouped 3x3 convolution.
    """
    channels = weight.shape[0]
    layout = make_layout(channels, groups)
    width, tile = layout.group_width, layout.tile
    if tuple(weight.shape) != (channels, width, 3, 3):
        raise ConfigError(
            f"the filters are {tuple(weight.shape)}; expected {(channels, width, 3, 3)}"
        )
    taps = weight.permute(0, 2, 3, 1).reshape(channels, TAPS, width)
    packed = weight.new_zeros((layout.tiles, TAPS, tile, layout.window))
    for first in range(0, channels, width):  # the first channel of a group
        for part in range(layout.parts):
            begin, end = first + part * tile, min(first + (part + 1) * tile, first + width)
            index, offset = first // width * layout.parts + part, 0
            if layout.parts == 1:
                index, offset = divmod(first, layout.step)
            block = packed[index, :, offset : offset + end - begin, offset : offset + width]
            block.copy_(taps[begin:end].transpose(0, 1))
    return packed


def make_layout(channels: int, groups: int) -> Layout:
    """Return the layout of so many channels and groups.

    Raises:
        ConfigError: They do not divide.
    """
    if groups < 1 or channels % groups:
        raise ConfigError(f"{channels} channels do not divide into {groups} groups")
    return Layout(channels, groups)


@triton.jit
def split_tile(
    index: tl.tensor,
    channels: tl.tensor,
    step: tl.tensor,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
) -> tl.tensor:
    """Return a tile's first output and input channel, and its number of each."""
    if PARTS > 1:
        inputs, part = index // PARTS * step, index % PARTS
        return inputs + part * TILE, inputs, tl.minimum(step - part * TILE, TILE), step
    first = index * step
    count = tl.minimum(channels - first, step)
    return first, first, count, count


@triton.jit
def locate(
    m: tl.tensor,
    pixels: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    shape: tl.tensor,
    STRIDE: tl.constexpr,
) -> tl.tensor:
    """Return the centre tap of the m-th output pixel: its offset in elements, row and column.

    Beyond the last pixel the row is one that no tap brings back into the picture.
    """
    height, width, channels = shape
    row, column = m // out_width, m % out_width * STRIDE
    picture, row = row // out_height, row % out_height * STRIDE
    # 64 bits, as large batches have more than 2^31 elements.
    centre = ((picture * height + row) * width + column).to(tl.int64) * channels
    return centre, tl.where(m < pixels, row, -2), column


@triton.jit
def add_tap(
    x: tl.tensor,
    filters: tl.tensor,
    total: tl.tensor,
    place: tl.tensor,
    shape: tl.tensor,
    tile: tl.tensor,
    step: tl.tensor,
    TILE: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EXACT: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tl.tensor:
    """Add one step of a tile's product, BLOCK_K channels of a tap, to `total`.

    `place` is from `locate`, `tile` from `split_tile`, `shape` the input's height, width and
    channels. Every tap reads the pixels again, so all but the first should find them in the
    first-level cache (`.ca`): nine readings are more than L2 gives.
    """
    centre, row, column = place
    height, width, channels = shape
    k = tl.arange(0, BLOCK_K)
    n = tl.arange(0, TILE)
    tap, start = step // (WINDOW // BLOCK_K), step % (WINDOW // BLOCK_K) * BLOCK_K
    down, right = tap // 3 - 1, tap % 3 - 1
    inside = (row + down >= 0) & (row + down < height)
    inside = (inside & (column + right >= 0) & (column + right < width))[:, None]
    if not EXACT:  # a neighbour's channel may be NaN, and NaN times 0 is
        inside = inside & (start + k < tile[3])[None, :]
    shift = (down * width + right) * channels + tile[1] + start
    pixels = tl.load(
        x + (centre + shift)[:, None] + k[None, :],
        mask=inside,
        other=0.0,
        cache_modifier=".ca",
    )
    weights = tl.load(filters + (tap * TILE + n[:, None]) * WINDOW + start + k[None, :])
    return multiply(pixels, weights, total, PRECISION)


@triton.jit
def _grouped(
    x: tl.tensor,
    packed: tl.tensor,
    bias: tl.tensor,
    scale: tl.tensor,
    out: tl.tensor,
    pixels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    channels: tl.tensor,
    step: tl.tensor,
    tiles: tl.tensor,
    STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    QUANTIZED: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK_M: tl.constexpr,
) -> None:
    """Compute BLOCK_M pixels x one tile of channels of the output.

    Plan: the sum stays in registers (float32); for each tap, the tile's channels of the
    shifted pixels and a TILE x TILE matrix of weights pass through shared memory. Programs
    of the same pixels and other channels run at the same time, so that whole rows of memory
    are read. Traffic: every input and output element once, and 9*TILE*C weights.
    """
    program = tl.program_id(0)
    index = program % tiles
    m = program // tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    tile = split_tile(index, channels, step, TILE, PARTS)
    shape = (height, width, channels)
    place = locate(m, pixels, out_height, out_width, shape, STRIDE)
    filters = packed + index.to(tl.int64) * (9 * TILE * WINDOW)
    n = tile[0] + tl.arange(0, TILE)
    total = begin(out, m, n, pixels, channels, BLOCK_M, TILE, False, QUANTIZED)
    for tap in range(9 * (WINDOW // BLOCK_K)):
        total = add_tap(
            x,
            filters,
            total,
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
    end = channels
    if not EXACT:  # else the same, but Triton would not know that 16 bytes can be written at once
        end = tile[0] + tile[2]
    if QUANTIZED:
        total = dequantize(total, scale, out, 0.0, m, n, pixels, end, channels, False)
    finish(total, bias, out, m, n, pixels, end, channels, RELU)


def grouped3x3(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    *,
    groups: int,
    stride: int = 1,
    relu: bool = True,
    scale: Tensor | None = None,
) -> Tensor:
    """Convolve groups of channels with 3x3 filters, padding 1; add the bias; apply ReLU.

    Args:
        x: (N, H, W, C), contiguous; bfloat16, float16, float32 or, with `scale`, int8.
        packed: What `pack` made of the filters, of the same type.
        bias: (C,), float32.
        groups: Number of groups.
        stride: 1 or 2.
        relu: Whether negative sums become 0.
        scale: (C,), float32, of int8 tensors: steps of the output in one step of the input
            times one of the channel's weights. The bias is in steps of the output as well.

    Returns:
        (N, Ho, Wo, C), of the input's type; sums are float32, or int32 of int8. Products of
        float32 are rounded as `torch.set_float32_matmul_precision` says.

    Raises:
        ConfigError: A tensor has another shape, type or layout.
    """
    batch, height, width, channels = launch.check_input(x)
    launch.check_stride(stride)
    layout = make_layout(channels, groups)
    check_packed(packed, layout, x.dtype)
    launch.check("bias", bias, (channels,), torch.float32)
    launch.check_scale(scale, channels, x.dtype)
    out = launch.new_output(x, channels, stride)
    _, out_height, out_width, _ = out.shape
    pixels = batch * out_height * out_width
    if not out.numel():
        return out
    arguments: dict[str, Any] = {
        "x": x,
        "packed": packed,
        "bias": bias,
        "scale": bias if scale is None else scale,
        "out": out,
        "pixels": pixels,
        "height": height,
        "width": width,
        "out_height": out_height,
        "out_width": out_width,
        "channels": channels,
        "step": layout.step,
        "tiles": layout.tiles,
        "STRIDE": stride,
        "RELU": relu,
        "QUANTIZED": scale is not None,
        "PRECISION": launch.precision(x.dtype),
        **constants(layout),
    }
    launch.run(
        _grouped,
        arguments,
        lambda config: -(-pixels // config["BLOCK_M"]) * layout.tiles,
        key=f"grouped3x3 {launch.bucket(pixels)}x{channels} groups {groups} stride {stride}"
        f" {x.dtype}",
        configs=configs(pixels),
    )
    return out


def check_packed(packed: Tensor, layout: Layout, dtype: torch.dtype) -> None:
    """Refuse filters that `pack` did not make for these channels.

    Raises:
        ConfigError: They have another shape or type.
    """
    launch.check("packed", packed, (layout.tiles, TAPS, layout.tile, layout.window), dtype)


def constants(layout: Layout) -> dict[str, int]:
    """Return a kernel's compile-time parameters that the layout determines."""
    return {
        "TILE": layout.tile,
        "PARTS": layout.parts,
        "WINDOW": layout.window,
        "BLOCK_K": layout.block_k,
        "EXACT": int(layout.exact),
    }


def configs(pixels: int) -> list[Config]:
    """List the configurations worth trying for so many output pixels, likeliest first."""
    tiles = [tile for tile in _TILES if tile[0] < 2 * pixels]
    return [
        {"BLOCK_M": block_m, "num_warps": warps, "num_stages": stages}
        for block_m, warps, stages in tiles or _TILES[-1:]
    ]
