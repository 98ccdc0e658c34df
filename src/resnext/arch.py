"""What a ResNeXt is: structure, sizes and counts, by arithmetic.

`layers(spec)` is the only description of the network; the inference graph, the torch
module, the checks on checkpoints and every count derive from it. Standard library only.

Source: Xie et al., "Aggregated Residual Transformations for Deep Neural Networks",
arXiv:1611.05431, Tables 1 and 3 (ImageNet) and section 5.2 (CIFAR); the `d` stem and
shortcut: He et al., "Bag of Tricks", arXiv:1812.01187, Figure 2 (ResNet-C and -D);
squeeze-and-excitation: arXiv:1709.01507; selective kernels: arXiv:1903.06586. What the
papers leave open, and the `t` stem and average-pool anti-aliasing, is as timm has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from resnext.archspec import BLOCKS, EXPANSION, PLANES, ArchSpec, Variant, parse
from resnext.errors import ConfigError, ModelFileError, listed
from resnext.layers import (
    Block,
    Conv,
    GlobalPool,
    Layer,
    Linear,
    Part,
    Pool,
    SelectiveKernel,
    Shapes,
    SqueezeExcite,
    merge,
)

__all__ = [
    "BLOCKS",
    "BN_EPS",
    "EXPANSION",
    "PLANES",
    "REDUCTION",
    "SK_DIVISOR",
    "ArchSpec",
    "OutputStride",
    "StageSummary",
    "Variant",
    "count",
    "differences",
    "infer",
    "layers",
    "num_macs",
    "num_params",
    "parse",
    "summarize",
    "tensor_shapes",
]

REDUCTION = 16  # channels to hidden channels, in both kinds of attention
SK_DIVISOR = 32  # the hidden channels of selective kernels are a multiple of it
BN_EPS = 1e-5

OutputStride = Literal[8, 16, 32]


@dataclass(frozen=True, slots=True)
class StageSummary:
    """One row of `resnext info`: a part of the network at a given input size."""

    name: str
    num_blocks: int
    channels: int
    output_size: int
    num_params: int
    num_macs: int


def layers(spec: ArchSpec, *, output_stride: OutputStride = 32) -> tuple[Layer, ...]:
    """List the network in the order of execution; every builder starts from this table.

    Args:
        spec: The network.
        output_stride: Input pixels per pixel of the last feature map; below 32 the last
            stages dilate their 3x3 convolutions instead of striding. Any value gives the
            same tensors.
    """
    table: list[Layer] = list(_stem(spec))
    channels = spec.stem_channels[-1]
    reached, dilation = (1 if spec.stem == "cifar" else 4), 1
    for stage, num_blocks in enumerate(spec.blocks):
        planes = PLANES * 2**stage
        stride, before = (2 if stage else 1), dilation
        if reached * stride > output_stride:
            dilation, stride = dilation * stride, 1
        reached *= stride
        for index in range(num_blocks):
            block = _BlockTable(
                spec=spec,
                name=f"layer{stage + 1}.{index}",
                channels=channels,
                planes=planes,
                stride=1 if index else stride,
                # The first block of a stage still sees the grid of the stage before.
                dilation=dilation if index else before,
                dilated=dilation > 1,
            )
            table.append(block.build())
            channels = planes * EXPANSION
    return (*table, GlobalPool(), Linear("fc", channels, spec.num_classes))


def _stem(spec: ArchSpec) -> tuple[Layer, ...]:
    outs = spec.stem_channels
    if spec.stem == "cifar":
        return (Conv("conv1", "bn1", spec.in_chans, outs[0], 3),)
    pool = Pool("avg", 2, 2) if spec.antialias else Pool("max", 3, 2, 1)
    if spec.stem == "7x7":
        return (Conv("conv1", "bn1", spec.in_chans, outs[0], 7, 2), pool)
    return (
        Conv("conv1.0", "conv1.1", spec.in_chans, outs[0], 3, 2),
        Conv("conv1.3", "conv1.4", outs[0], outs[1], 3),
        Conv("conv1.6", "bn1", outs[1], outs[2], 3),
        pool,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _BlockTable:
    """What differs from block to block."""

    spec: ArchSpec
    name: str
    channels: int
    planes: int
    stride: int
    dilation: int
    dilated: bool

    @property
    def width(self) -> int:
        # Rounded down before it is multiplied, as every public implementation does: a group
        # of 40 channels at 64 planes has 80 at 128.
        return self.planes * self.spec.base_width // PLANES * self.spec.cardinality

    @property
    def out(self) -> int:
        return self.planes * EXPANSION

    def build(self) -> Block:
        body: list[Part] = [self._conv(1, self.channels, self.width), *self._middle()]
        body.append(self._conv(3, self.width, self.out))
        if self.spec.attention == "se":
            body.append(SqueezeExcite(f"{self.name}.se", self.out, self.out // REDUCTION))
        same = self.stride == 1 and self.channels == self.out
        return Block(self.name, tuple(body), () if same else self._shortcut())

    def _conv(self, index: int, ins: int, outs: int) -> Conv:
        name, norm = f"{self.name}.conv{index}", f"{self.name}.bn{index}"
        if self.spec.attention == "sk":
            name, norm = f"{name}.conv", f"{name}.bn"
        return Conv(name, norm, ins, outs, 1, relu=index < 3)

    def _middle(self) -> tuple[Part, ...]:
        """Return the 3x3 part, which has the stride: as in the paper, not the first 1x1."""
        name, groups = f"{self.name}.conv2", self.spec.cardinality
        if self.spec.attention != "sk":
            antialias = self.spec.antialias and self.stride > 1
            stride = 1 if antialias else self.stride
            norm = f"{self.name}.bn2"
            conv = Conv(name, norm, self.width, self.width, 3, stride, groups, True, self.dilation)
            return (conv, Pool("avg", self.stride, self.stride)) if antialias else (conv,)
        paths = tuple(
            Conv(
                f"{name}.paths.{path}.conv",
                f"{name}.paths.{path}.bn",
                self.width,
                self.width,
                3,
                self.stride,
                groups,
                dilation=self.dilation * (path + 1),  # 3x3, and 5x5 in the form of a dilation
            )
            for path in range(2)
        )
        hidden = max(
            SK_DIVISOR, (self.width // REDUCTION + SK_DIVISOR // 2) // SK_DIVISOR * SK_DIVISOR
        )
        if hidden < 0.9 * self.width / REDUCTION:
            hidden += SK_DIVISOR
        attn = f"{name}.attn"
        reduce = Conv(f"{attn}.fc_reduce", f"{attn}.bn", self.width, hidden, 1)
        return (SelectiveKernel(name, paths, reduce),)

    def _shortcut(self) -> tuple[Pool | Conv, ...]:
        down, pools = f"{self.name}.downsample", self.spec.variant != ""
        if not pools:
            conv = Conv(
                f"{down}.0", f"{down}.1", self.channels, self.out, 1, self.stride, relu=False
            )
            return (conv,)
        conv = Conv(f"{down}.1", f"{down}.2", self.channels, self.out, 1, relu=False)
        if self.stride > 1:
            return (Pool("avg_ceil", 2, self.stride), conv)
        return (Pool("avg_same", 2, 1), conv) if self.dilated else (conv,)


def tensor_shapes(spec: ArchSpec) -> Shapes:
    """Return the keys and shapes of a `state_dict`, as torchvision orders and names them.

    `num_batches_tracked` is left out: it is no part of the function computed.
    """
    shapes = (
        layer.tensor_shapes() for layer in layers(spec) if not isinstance(layer, Pool | GlobalPool)
    )
    return merge(shapes)


def differences(spec: ArchSpec, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Say which tensors are missing, unexpected or of another shape; "" if none is."""
    expected = tensor_shapes(spec)
    problems = {
        "missing": [key for key in expected if key not in shapes],
        "unexpected": [key for key in shapes if key not in expected],
        "of another shape": [
            f"{key} {shapes[key]} instead of {shape}"
            for key, shape in expected.items()
            if key in shapes and shapes[key] != shape
        ],
    }
    return "; ".join(
        f"{len(keys)} {kind}: {listed(keys)}" for kind, keys in problems.items() if keys
    )


def num_params(spec: ArchSpec) -> int:
    """Count the trainable parameters (running statistics left out)."""
    return sum(row.num_params for row in summarize(spec))


def num_macs(spec: ArchSpec, input_size: int | None = None) -> int:
    """Count multiply-accumulates of convolutions and classifier for one picture.

    Args:
        spec: The network.
        input_size: Side of the square input in pixels; by default 224, or 32 for CIFAR.

    Returns:
        Multiply-accumulates, the "FLOPs" of the paper's Table 1 and of torchvision.
    """
    return sum(row.num_macs for row in summarize(spec, input_size))


def summarize(spec: ArchSpec, input_size: int | None = None) -> list[StageSummary]:
    """Count parameters and MACs of the stem, each stage and the classifier.

    Args:
        spec: The network.
        input_size: Side of the square input in pixels; by default 224, or 32 for CIFAR.

    Raises:
        ConfigError: The input size is below 1.
    """
    size = spec.input_size if input_size is None else input_size
    if size < 1:
        raise ConfigError(f"input_size is {size}; expected at least 1 pixel")
    rows: dict[str, StageSummary] = {}
    for layer in layers(spec):
        macs, size, channels = count(layer, size)
        name = layer.name.split(".")[0] if isinstance(layer, Block | Linear) else "stem"
        if isinstance(layer, GlobalPool):
            continue
        row = rows.get(name, StageSummary(name, 0, channels, size, 0, 0))
        rows[name] = replace(
            row,
            num_blocks=row.num_blocks + isinstance(layer, Block),
            channels=channels or row.channels,
            output_size=size,
            num_params=row.num_params + _layer_params(layer),
            num_macs=row.num_macs + macs,
        )
    return list(rows.values())


def _layer_params(layer: Layer) -> int:
    if isinstance(layer, Pool | GlobalPool):
        return 0
    return sum(prod(shape) for key, shape in layer.tensor_shapes().items() if "running" not in key)


def count(layer: Layer, size: int) -> tuple[int, int, int]:
    """Return MACs, output side in pixels and output channels (0: as before) of a layer."""
    if isinstance(layer, Conv):
        out = (
            size + 2 * layer.padding - layer.dilation * (layer.kernel_size - 1) - 1
        ) // layer.stride + 1
        return prod(layer.weight_shape) * out * out, out, layer.out_channels
    if isinstance(layer, Pool):
        if layer.kind in ("avg_ceil", "avg_same"):
            return 0, -(-size // layer.stride), 0
        return 0, (size + 2 * layer.padding - layer.kernel_size) // layer.stride + 1, 0
    if isinstance(layer, Block):
        macs, out, channels = _count_chain(layer.body, size)
        return macs + _count_chain(layer.shortcut, size)[0], out, channels
    if isinstance(layer, SqueezeExcite):
        return 2 * layer.channels * layer.hidden, size, 0
    if isinstance(layer, SelectiveKernel):
        paths = [count(path, size) for path in layer.paths]
        attention = prod(layer.reduce.weight_shape) + prod(layer.select_shape)
        return sum(macs for macs, _, _ in paths) + attention, paths[0][1], layer.channels
    if isinstance(layer, Linear):
        return layer.in_features * layer.out_features, 1, layer.out_features
    return 0, 1, 0


def _count_chain(parts: tuple[Part, ...], size: int) -> tuple[int, int, int]:
    total, channels = 0, 0
    for part in parts:
        macs, size, outs = count(part, size)
        total, channels = total + macs, outs or channels
    return total, size, channels


def infer(shapes: Mapping[str, tuple[int, ...]]) -> ArchSpec:
    """Find the architecture whose `state_dict` has these shapes.

    Args:
        shapes: Shape of each tensor, in torchvision's or timm's key layout.

    Returns:
        The architecture, with the number of classes and input channels of the tensors.
        Anti-aliasing has none, and so is never inferred.

    Raises:
        ModelFileError: The tensors are not those of a ResNeXt, or not all of them, or more.
    """
    blocks = _count_blocks(shapes)
    depth = next((depth for depth, counts in BLOCKS.items() if counts == blocks), None)
    deep, selective = "conv1.0.weight" in shapes, "layer1.0.conv2.paths.0.conv.weight" in shapes
    grouped, head, stem = (
        shapes.get(key, ())
        for key in (
            "layer1.0.conv2.paths.0.conv.weight" if selective else "layer1.0.conv2.weight",
            "fc.weight",
            "conv1.0.weight" if deep else "conv1.weight",
        )
    )
    if depth is None or len(grouped) != 4 or len(head) != 2 or len(stem) != 4 or not grouped[1]:
        raise ModelFileError(
            "these tensors are not a ResNeXt: expected conv1, layer1 to layer4 of bottleneck"
            f" blocks and fc; found {blocks or 'no'} blocks per stage in {len(shapes)} tensors"
        )
    tiered = deep and shapes.get("conv1.3.weight", (0, 0))[:2] == (stem[0] // 3 * 4, stem[0])
    excited = "layer1.0.se.fc1.weight" in shapes
    try:
        spec = ArchSpec(
            depth=depth,
            cardinality=grouped[0] // grouped[1],
            base_width=grouped[1],
            variant="t" if tiered else "d" if deep else "",
            attention="sk" if selective else "se" if excited else "",
            num_classes=head[0],
            in_chans=stem[1],
        )
    except ConfigError as error:
        raise ModelFileError(f"these tensors are not a ResNeXt: {error.message}") from error
    if found := differences(spec, shapes):
        raise ModelFileError(f"these tensors look like {spec.name}'s; {found}")
    return spec


def _count_blocks(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    indices: dict[int, set[int]] = {}
    for key in shapes:
        match = re.match(r"layer(\d)\.(\d+)\.conv3\.(?:conv\.)?weight$", key)
        if match:
            indices.setdefault(int(match[1]), set()).add(int(match[2]))
    return tuple(len(indices[stage]) for stage in sorted(indices))
