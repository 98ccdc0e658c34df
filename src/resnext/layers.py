"""The parts a network is made of, as values: sizes and names of tensors.

`arch.layers` puts them together; each builder knows how to make each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Shapes = dict[str, tuple[int, ...]]  # of tensors, by their key in a `state_dict`


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
    dilation: int = 1

    @property
    def padding(self) -> int:
        """Zeros added on each side, in pixels."""
        return self.kernel_size // 2 * self.dilation

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight, (out, in per group, height, width)."""
        side = self.kernel_size
        return (self.out_channels, self.in_channels // self.groups, side, side)

    def tensor_shapes(self) -> Shapes:
        """Return the keys and shapes of its tensors."""
        shapes: Shapes = {f"{self.name}.weight": self.weight_shape}
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{self.norm}.{part}"] = (self.out_channels,)
        return shapes


@dataclass(frozen=True, slots=True)
class Pool:
    """A 2-d pooling without tensors.

    "max" and "avg" take whole windows only; "avg_ceil" rounds its output size up and takes
    the mean of what a window at the border holds; "avg_same" (stride 1) counts what lies
    beyond the bottom and right border as zeros.
    """

    kind: Literal["max", "avg", "avg_ceil", "avg_same"]
    kernel_size: int
    stride: int
    padding: int = 0


@dataclass(frozen=True, slots=True)
class SqueezeExcite:
    """x * sigmoid(fc2(relu(fc1(mean(x))))), both 1x1 convolutions with bias."""

    name: str
    channels: int
    hidden: int

    def tensor_shapes(self) -> Shapes:
        """Return the keys and shapes of its tensors."""
        return {
            f"{self.name}.fc1.weight": (self.hidden, self.channels, 1, 1),
            f"{self.name}.fc1.bias": (self.hidden,),
            f"{self.name}.fc2.weight": (self.channels, self.hidden, 1, 1),
            f"{self.name}.fc2.bias": (self.channels,),
        }


@dataclass(frozen=True, slots=True)
class SelectiveKernel:
    """A sum of convolutions of several dilations, weighted by channel.

    The weights are a softmax over the paths of select(reduce(mean(sum of the paths))), where
    `select` is a 1x1 convolution without bias.
    """

    name: str
    paths: tuple[Conv, ...]
    reduce: Conv

    @property
    def channels(self) -> int:
        """Channels that it puts out."""
        return self.paths[0].out_channels

    @property
    def select_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight of `select`: for each path, its channels."""
        return (self.channels * len(self.paths), self.reduce.out_channels, 1, 1)

    def tensor_shapes(self) -> Shapes:
        """Return the keys and shapes of its tensors."""
        shapes = merge(part.tensor_shapes() for part in (*self.paths, self.reduce))
        return {**shapes, f"{self.name}.attn.fc_select.weight": self.select_shape}


Part = Conv | Pool | SqueezeExcite | SelectiveKernel


@dataclass(frozen=True, slots=True)
class Block:
    """A bottleneck: relu(body(x) + shortcut(x)); an empty shortcut is the identity."""

    name: str
    body: tuple[Part, ...]
    shortcut: tuple[Pool | Conv, ...]

    def tensor_shapes(self) -> Shapes:
        """Return the keys and shapes of its tensors."""
        parts = (*self.body, *self.shortcut)
        return merge(part.tensor_shapes() for part in parts if not isinstance(part, Pool))


@dataclass(frozen=True, slots=True)
class GlobalPool:
    """The mean over height and width: its output is the embedding."""


@dataclass(frozen=True, slots=True)
class Linear:
    """The classifier, with bias."""

    name: str
    in_features: int
    out_features: int

    def tensor_shapes(self) -> Shapes:
        """Return the keys and shapes of its tensors."""
        return {
            f"{self.name}.weight": (self.out_features, self.in_features),
            f"{self.name}.bias": (self.out_features,),
        }


Layer = Part | Block | GlobalPool | Linear


def merge(parts: Iterable[Mapping[str, tuple[int, ...]]]) -> Shapes:
    """Join the keys and shapes of several parts, in order."""
    return {key: shape for part in parts for key, shape in part.items()}
