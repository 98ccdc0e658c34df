"""The products of a network and the fewest bytes it moves: its roofline.

A kernel reads each input and each weight once and writes each output once; batch norm, ReLU
and the sum of a block cost nothing, as they end a convolution. Its time is that of its
products or of its bytes, whichever is longer, and kernels run one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

from resnext import arch
from resnext.arch import ArchSpec
from resnext.layers import (
    Block,
    Conv,
    GlobalPool,
    Layer,
    Linear,
    Part,
    Pool,
    SelectiveKernel,
    SqueezeExcite,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """One piece of work.

    Args:
        name: Of the layer or block.
        kind: "1x1", "3x3", "stem", "pool", "attention", "head" or "block".
        macs: Multiply-adds a picture.
        elements: Values of maps that are read and written, a picture.
        weights: Weights that are read, however many pictures.
    """

    name: str
    kind: str
    macs: int
    elements: int
    weights: int

    def seconds(self, batch_size: int, peak: float, bandwidth: float, width: int) -> float:
        """Return the least time for a batch.

        Args:
            batch_size: Pictures.
            peak: Multiply-adds a second.
            bandwidth: Bytes a second.
            width: Bytes of a value.
        """
        moved = width * (batch_size * self.elements + self.weights)
        return max(batch_size * self.macs / peak, moved / bandwidth)


def kernels(spec: ArchSpec, input_size: int, *, whole_blocks: bool = False) -> list[Kernel]:
    """List the work of a network.

    Args:
        spec: The network.
        input_size: Side of its input in pixels.
        whole_blocks: Count a block as one kernel, between whose layers nothing is written.
    """
    found: list[Kernel] = []
    size, channels = input_size, spec.in_chans
    for layer in arch.layers(spec):
        if isinstance(layer, Block) and not whole_blocks:
            found += _block(layer, size, channels)
        elif isinstance(layer, Block):
            found.append(_joined(layer, list(_block(layer, size, channels)), size, channels))
        else:
            found += _layer(layer, size, channels, "stem")
        _, size, outs = arch.count(layer, size)
        channels = outs or channels
    return found


def images_per_s(
    work: Iterable[Kernel], batch_size: int, *, peak: float, bandwidth: float, width: int
) -> float:
    """Return the most pictures a second at a batch size.

    Args:
        work: What `kernels` returned.
        batch_size: Pictures at once.
        peak: Multiply-adds a second.
        bandwidth: Bytes a second.
        width: Bytes of a value.
    """
    return batch_size / sum(one.seconds(batch_size, peak, bandwidth, width) for one in work)


def _joined(block: Block, parts: list[Kernel], size: int, channels: int) -> Kernel:
    _, side, outs = arch.count(block, size)
    return Kernel(
        name=block.name,
        kind="block",
        macs=sum(part.macs for part in parts),
        elements=channels * size**2 + outs * side**2,
        weights=sum(part.weights for part in parts),
    )


def _block(block: Block, size: int, channels: int) -> Iterator[Kernel]:
    yield from _chain(block.shortcut, size, channels)
    last = None
    for kernel in _chain(block.body, size, channels):
        if last is not None:
            yield last
        last = kernel
    assert last is not None
    _, side, outs = arch.count(block, size)
    # The last one also reads what is added.
    yield Kernel(
        name=last.name,
        kind=last.kind,
        macs=last.macs,
        elements=last.elements + outs * side**2,
        weights=last.weights,
    )


def _chain(parts: tuple[Part, ...], size: int, channels: int) -> Iterator[Kernel]:
    for part in parts:
        kind = "1x1" if isinstance(part, Conv) and part.kernel_size == 1 else "3x3"
        yield from _layer(part, size, channels, kind)
        _, size, outs = arch.count(part, size)
        channels = outs or channels


def _layer(layer: Layer, size: int, channels: int, kind: str) -> Iterator[Kernel]:
    macs, side, outs = arch.count(layer, size)
    read, written = channels * size**2, (outs or channels) * side**2
    if isinstance(layer, Conv):
        if layer.kernel_size == 1:  # with a stride, it reads every so many-th pixel
            read = channels * side**2
        yield Kernel(name=layer.name, kind=kind, macs=macs, elements=read + written,
                     weights=prod(layer.weight_shape))  # fmt: skip
    elif isinstance(layer, Pool):
        yield Kernel(name="pool", kind="pool", macs=0, elements=read + written, weights=0)
    elif isinstance(layer, SqueezeExcite):  # read for the mean, read and written to be scaled
        yield Kernel(name=layer.name, kind="attention", macs=macs, elements=2 * read + written,
                     weights=2 * layer.channels * layer.hidden)  # fmt: skip
    elif isinstance(layer, SelectiveKernel):
        for path in layer.paths:
            yield from _layer(path, size, channels, kind)
        paths, attention = len(layer.paths), (layer.reduce.weight_shape, layer.select_shape)
        weights = sum(map(prod, attention))
        yield Kernel(name=layer.name, kind="attention", macs=weights, weights=weights,
                     elements=(2 * paths + 1) * written)  # fmt: skip
    elif isinstance(layer, GlobalPool):
        yield Kernel(name="avgpool", kind="head", macs=0, elements=read + channels, weights=0)
    elif isinstance(layer, Linear):
        yield Kernel(name=layer.name, kind="head", macs=macs, weights=macs,
                     elements=layer.in_features + layer.out_features)  # fmt: skip
