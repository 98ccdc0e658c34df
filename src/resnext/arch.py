"""What a ResNeXt is: name, structure, sizes and counts, by arithmetic.

`layers(spec)` is the only description of the network; the inference graph, the torch
module, the checks on checkpoints and every count derive from it. Standard library only.

Source: Xie et al., "Aggregated Residual Transformations for Deep Neural Networks",
arXiv:1611.05431, Tables 1 and 3 (ImageNet) and section 5.2 (CIFAR); the `d` stem and
shortcut: He et al., "Bag of Tricks", arXiv:1812.01187, Figure 2 (ResNet-C and -D).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from resnext.errors import ConfigError, ModelFileError, ModelNotFoundError, closest

BLOCKS = {26: (2, 2, 2, 2), 29: (3, 3, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
CIFAR_DEPTH = 29
STEM_CHANNELS = 64
EXPANSION = 4  # a stage puts out 4 x its plane count: 256, 512, 1024, 2048
BN_EPS = 1e-5

Variant = Literal["", "d"]
Stem = Literal["7x7", "deep", "cifar"]

_NAME = re.compile(r"resnext(26|29|50|101|152)(d?)_([1-9]\d{0,4})x([1-9]\d{0,4})d", re.ASCII)
_NAME_HELP = "resnext{26,50,101,152}[d]_{C}x{w}d or resnext29_{C}x{w}d, such as resnext50_32x4d"


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchSpec:
    """One network of the family.

    Args:
        depth: 26, 50, 101 or 152 (ImageNet), or 29 (the paper's CIFAR network).
        cardinality: Number of groups C of every 3x3 convolution, at least 1.
        base_width: Channels per group d in the first stage, at least 1; `1x64d` is ResNet.
        variant: "d" for the deep stem and average-pool shortcut, "" for the paper's.
        num_classes: Number of logits.
        in_chans: Number of input channels.

    Raises:
        ConfigError: A value is out of range.
    """

    depth: int
    cardinality: int
    base_width: int
    variant: Variant = ""
    num_classes: int = 1000
    in_chans: int = 3

    def __post_init__(self) -> None:
        if self.depth not in BLOCKS:
            raise ConfigError(f"depth is {self.depth}; expected one of {sorted(BLOCKS)}")
        if self.variant not in ("", "d") or (self.variant and self.depth == CIFAR_DEPTH):
            raise ConfigError(f"variant is {self.variant!r}; expected '' or, except at 29, 'd'")
        for field in ("cardinality", "base_width", "num_classes", "in_chans"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{field} is {value!r}; expected a whole number of at least 1")

    @property
    def name(self) -> str:
        """Architecture name, such as `resnext50_32x4d`."""
        return f"resnext{self.depth}{self.variant}_{self.cardinality}x{self.base_width}d"

    @property
    def stem(self) -> Stem:
        """What comes before the first stage."""
        if self.depth == CIFAR_DEPTH:
            return "cifar"
        return "deep" if self.variant == "d" else "7x7"

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of blocks in each stage."""
        return BLOCKS[self.depth]

    @property
    def embedding_size(self) -> int:
        """Length of the pooled features, 2048 (ImageNet) or 1024 (CIFAR)."""
        return (STEM_CHANNELS << (len(self.blocks) - 1)) * EXPANSION

    @property
    def input_size(self) -> int:
        """Side in pixels of the input the paper uses: 224, or 32 for CIFAR."""
        return 32 if self.stem == "cifar" else 224


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution without bias and its batch norm, with "same" padding, maybe a ReLU.

    `name` and `norm` are the prefixes of their tensors in a `state_dict`.
    """

    name: str
    norm: str
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    relu: bool = True

    @property
    def padding(self) -> int:
        """Zeros added on each side, in pixels."""
        return self.kernel_size // 2

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight, (out, in per group, height, width)."""
        side = self.kernel_size
        return (self.out_channels, self.in_channels // self.groups, side, side)


@dataclass(frozen=True, slots=True)
class Pool:
    """A 2-d pooling.

    The average form rounds its output size up and leaves padding out of the mean.
    """

    kind: Literal["max", "avg"]
    kernel_size: int
    stride: int
    padding: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """A bottleneck: relu(body(x) + shortcut(x)); an empty shortcut is the identity."""

    name: str
    body: tuple[Conv, ...]
    shortcut: tuple[Pool | Conv, ...]


@dataclass(frozen=True, slots=True)
class GlobalPool:
    """The mean over height and width: its output is the embedding."""


@dataclass(frozen=True, slots=True)
class Linear:
    """The classifier, with bias."""

    name: str
    in_features: int
    out_features: int


Layer = Conv | Pool | Block | GlobalPool | Linear


@dataclass(frozen=True, slots=True)
class StageSummary:
    """One row of `resnext info`: a part of the network at a given input size."""

    name: str
    num_blocks: int
    channels: int
    output_size: int
    num_params: int
    num_macs: int


def parse(name: str, *, num_classes: int | None = None) -> ArchSpec:
    """Read an architecture name.

    Args:
        name: Such as `resnext50_32x4d`, `resnext50d_32x4d` or `resnext29_8x64d`.
        num_classes: Number of logits; by default 1000, and 10 for the CIFAR network.

    Raises:
        ModelNotFoundError: The name is not one of the family.

    Example:
        >>> spec = parse("resnext50_32x4d")
        >>> spec.cardinality, spec.base_width, num_params(spec)
        (32, 4, 25028904)
    """
    match = _NAME.fullmatch(name)
    if match is None or (match[2] and int(match[1]) == CIFAR_DEPTH):
        near = closest(name, (f"resnext{depth}_32x4d" for depth in BLOCKS))
        hint = f"did you mean {' or '.join(near)}?" if near else ""
        raise ModelNotFoundError(f"{name!r} is no architecture; expected {_NAME_HELP}", hint=hint)
    depth, cardinality, base_width = int(match[1]), int(match[3]), int(match[4])
    if num_classes is None:
        num_classes = 10 if depth == CIFAR_DEPTH else 1000
    variant: Variant = "d" if match[2] else ""
    return ArchSpec(
        depth=depth,
        cardinality=cardinality,
        base_width=base_width,
        variant=variant,
        num_classes=num_classes,
    )


def layers(spec: ArchSpec) -> tuple[Layer, ...]:
    """List the network in the order of execution; every builder starts from this table."""
    table: list[Layer] = list(_stem(spec))
    channels = STEM_CHANNELS
    for stage, num_blocks in enumerate(spec.blocks):
        planes = STEM_CHANNELS * 2**stage
        for index in range(num_blocks):
            stride = 2 if stage > 0 and index == 0 else 1
            prefix = f"layer{stage + 1}.{index}"
            table.append(_block(spec, prefix, channels, planes, stride=stride))
            channels = planes * EXPANSION
    return (*table, GlobalPool(), Linear("fc", channels, spec.num_classes))


def _stem(spec: ArchSpec) -> tuple[Layer, ...]:
    out = STEM_CHANNELS
    if spec.stem == "cifar":
        return (Conv("conv1", "bn1", spec.in_chans, out, 3),)
    pool = Pool("max", 3, 2, 1)
    if spec.stem == "7x7":
        return (Conv("conv1", "bn1", spec.in_chans, out, 7, 2), pool)
    half = out // 2
    return (
        Conv("conv1.0", "conv1.1", spec.in_chans, half, 3, 2),
        Conv("conv1.3", "conv1.4", half, half, 3),
        Conv("conv1.6", "bn1", half, out, 3),
        pool,
    )


def _block(spec: ArchSpec, prefix: str, channels: int, planes: int, *, stride: int) -> Block:
    # Rounded down before it is multiplied, as every public implementation does: a group
    # of 40 channels at 64 planes has 80 at 128.
    width = planes * spec.base_width // STEM_CHANNELS * spec.cardinality
    out = planes * EXPANSION

    def conv(index: int, ins: int, outs: int, **options: int) -> Conv:
        name, norm = f"{prefix}.conv{index}", f"{prefix}.bn{index}"
        return Conv(name, norm, ins, outs, relu=index < 3, **options)

    body = (
        conv(1, channels, width, kernel_size=1),
        # The stride sits in the 3x3, as in the paper, not in the first 1x1.
        conv(2, width, width, kernel_size=3, stride=stride, groups=spec.cardinality),
        conv(3, width, out, kernel_size=1),
    )
    if stride == 1 and channels == out:
        return Block(prefix, body, ())
    return Block(prefix, body, _shortcut(spec, prefix, channels, out, stride))


def _shortcut(
    spec: ArchSpec, prefix: str, channels: int, out: int, stride: int
) -> tuple[Pool | Conv, ...]:
    if spec.variant != "d":
        name, norm = f"{prefix}.downsample.0", f"{prefix}.downsample.1"
        return (Conv(name, norm, channels, out, 1, stride, relu=False),)
    name, norm = f"{prefix}.downsample.1", f"{prefix}.downsample.2"
    project = Conv(name, norm, channels, out, 1, relu=False)
    return (Pool("avg", 2, stride), project) if stride > 1 else (project,)


def convs(spec: ArchSpec) -> Iterator[Conv]:
    """Yield every convolution, body before shortcut, in the order of a `state_dict`."""
    for layer in layers(spec):
        parts = (*layer.body, *layer.shortcut) if isinstance(layer, Block) else (layer,)
        yield from (part for part in parts if isinstance(part, Conv))


def tensor_shapes(spec: ArchSpec) -> dict[str, tuple[int, ...]]:
    """Return the keys and shapes of a `state_dict`, as torchvision orders and names them.

    `num_batches_tracked` is left out: it is no part of the function computed.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for conv in convs(spec):
        shapes[f"{conv.name}.weight"] = conv.weight_shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{conv.norm}.{part}"] = (conv.out_channels,)
    shapes["fc.weight"] = (spec.num_classes, spec.embedding_size)
    shapes["fc.bias"] = (spec.num_classes,)
    return shapes


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
        macs, size, channels = _count(layer, size)
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
    if isinstance(layer, Conv):
        return prod(layer.weight_shape) + 2 * layer.out_channels
    if isinstance(layer, Block):
        return sum(_layer_params(part) for part in (*layer.body, *layer.shortcut))
    if isinstance(layer, Linear):
        return (layer.in_features + 1) * layer.out_features
    return 0


def _count(layer: Layer, size: int) -> tuple[int, int, int]:
    """Return MACs, output side in pixels and output channels (0: as before)."""
    if isinstance(layer, Conv):
        out = (size + 2 * layer.padding - layer.kernel_size) // layer.stride + 1
        return prod(layer.weight_shape) * out * out, out, layer.out_channels
    if isinstance(layer, Pool):
        if layer.kind == "avg":
            return 0, -(-size // layer.stride), 0
        return 0, (size + 2 * layer.padding - layer.kernel_size) // layer.stride + 1, 0
    if isinstance(layer, Block):
        macs, out, channels = _count_chain(layer.body, size)
        return macs + _count_chain(layer.shortcut, size)[0], out, channels
    if isinstance(layer, Linear):
        return layer.in_features * layer.out_features, 1, layer.out_features
    return 0, 1, 0


def _count_chain(parts: tuple[Pool | Conv, ...], size: int) -> tuple[int, int, int]:
    total, channels = 0, 0
    for part in parts:
        macs, size, channels = _count(part, size)
        total += macs
    return total, size, channels


def infer(shapes: Mapping[str, tuple[int, ...]]) -> ArchSpec:
    """Find the architecture whose `state_dict` has these shapes.

    Args:
        shapes: Shape of each tensor, in torchvision's or timm's key layout.

    Returns:
        The architecture, with the number of classes and input channels of the tensors.

    Raises:
        ModelFileError: The tensors are not those of a ResNeXt, or not all of them.
    """
    blocks = _count_blocks(shapes)
    depth = next((depth for depth, counts in BLOCKS.items() if counts == blocks), None)
    stem_key = "conv1.0.weight" if "conv1.0.weight" in shapes else "conv1.weight"
    grouped, head, stem = (
        shapes.get(key, ()) for key in ("layer1.0.conv2.weight", "fc.weight", stem_key)
    )
    if depth is None or len(grouped) != 4 or len(head) != 2 or len(stem) != 4 or not grouped[1]:
        raise ModelFileError(
            "these tensors are not a ResNeXt: expected conv1, layer1 to layer4 of bottleneck"
            f" blocks and fc; found {blocks or 'no'} blocks per stage in {len(shapes)} tensors"
        )
    spec = ArchSpec(
        depth=depth,
        cardinality=grouped[0] // grouped[1],
        base_width=grouped[1],
        variant="d" if stem_key == "conv1.0.weight" else "",
        num_classes=head[0],
        in_chans=stem[1],
    )
    wrong = [key for key, shape in tensor_shapes(spec).items() if shapes.get(key) != shape]
    if wrong:
        raise ModelFileError(
            f"these tensors look like {spec.name}, but {len(wrong)} are missing or of another"
            f" shape: {', '.join(wrong[:5])}{', ...' if len(wrong) > 5 else ''}"
        )
    return spec


def _count_blocks(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    indices: dict[int, set[int]] = {}
    for key in shapes:
        match = re.match(r"layer(\d)\.(\d+)\.conv3\.weight$", key)
        if match:
            indices.setdefault(int(match[1]), set()).add(int(match[2]))
    return tuple(len(indices[stage]) for stage in sorted(indices))
