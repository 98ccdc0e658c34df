"""[torch] The network with batch norm folded, as it runs on a GPU.

`fold` makes the weights, `Operations` says how the parts that take the time are computed,
and `FoldedNetwork` puts both together from the layer table. Every map is (N, H, W, C) and
contiguous: N pictures, H by W pixels, C channels; K classes, D features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnext import arch, layers
from resnext.arch import ArchSpec
from resnext.engines import folding
from resnext.errors import ModelFileError
from resnext.layers import Block, Conv, GlobalPool, Layer, Linear, Pool, SqueezeExcite
from resnext.modules import make_pool
from resnext.preprocess import PreprocessSpec, affine

Folded = dict[str, Tensor]  # on the processor, in float32

_CENTERS, _SCALE, _SHIFT = "normalize.centers", "normalize.scale", "normalize.shift"


def fold(
    spec: ArchSpec, preprocess: PreprocessSpec, tensors: Mapping[str, Any], *, exact: bool
) -> Folded:
    """Fold batch norms, and make of all weights what `FoldedNetwork` takes.

    Args:
        spec: The network.
        preprocess: Gives the mean and the standard deviation.
        tensors: Its `state_dict`.
        exact: Whether pixels are normalized in float32; otherwise as in `folding.fold_stem`.

    Raises:
        ModelFileError: A tensor is missing, of another shape, or makes weights that are not
            finite.
    """
    table = arch.layers(spec)
    scale, shift = affine(preprocess)
    found = {}
    for layer in _walk(table):
        if isinstance(layer, Conv):
            if layer is table[0] and not exact:
                weight, bias, found[_CENTERS] = folding.fold_stem(
                    folding.fold(layer, tensors), scale, shift
                )
            else:
                weight, bias = folding.fold(layer, tensors)
            found |= {f"{layer.name}.weight": weight, f"{layer.name}.bias": bias}
        elif isinstance(layer, layers.SelectiveKernel):
            key = f"{layer.name}.attn.fc_select.weight"
            found[key] = folding.take(tensors, key, layer.select_shape)
        elif isinstance(layer, SqueezeExcite | Linear):
            shapes = layer.tensor_shapes()
            found |= {key: folding.take(tensors, key, shape) for key, shape in shapes.items()}
    if exact:
        found |= {_SCALE: scale, _SHIFT: shift}
    return {key: torch.from_numpy(folding.narrow(key, value)) for key, value in found.items()}


def _walk(table: Iterable[Layer]) -> Iterator[Layer]:
    """List the parts of a table, those in blocks and selective kernels too."""
    for layer in table:
        if isinstance(layer, Block):
            yield from _walk((*layer.body, *layer.shortcut))
            continue
        yield layer
        if isinstance(layer, layers.SelectiveKernel):
            yield from (*layer.paths, layer.reduce)


class Operations:
    """How convolutions are computed: here by torch's own, one after the other.

    Others differ in methods, not in what comes out.
    """

    def bias_dtype(self, conv: Conv) -> torch.dtype | None:
        """Return the type that `convolve` wants a bias in; None for that of the weight."""
        return None

    def prepare(self, conv: Conv, weight: Tensor) -> Tensor:
        """Lay out a weight (C', C per group, height, width) as `convolve` wants it."""
        if is_pointwise(conv):
            return weight.flatten(1)
        return weight.contiguous(memory_format=torch.channels_last)

    def convolve(
        self, conv: Conv, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None
    ) -> Tensor:
        """Compute a convolution, then add what is to be added, then cut at 0.

        Args:
            conv: The layer; its `relu` says whether to cut without a residual.
            x: (N, H, W, C).
            weight: What `prepare` returned.
            bias: (C',).
            residual: (N, H', W', C') that is added, after which it is cut; None for none.

        Returns:
            (N, H', W', C').
        """
        if is_pointwise(conv):
            y = F.linear(strided(x, conv.stride), weight, bias)
        else:
            y = to_nhwc(F.conv2d(x.permute(0, 3, 1, 2), weight, bias, *geometry(conv)))
        if residual is not None:
            return y.add_(residual).relu_()
        return y.relu_() if conv.relu else y

    def joins(self, first: Conv, second: Conv, dtype: torch.dtype) -> bool:
        """Tell whether `convolve_both` takes these two, the end of a block."""
        return False

    def convolve_both(
        self, first: FoldedConv, second: FoldedConv, x: Tensor, residual: Tensor
    ) -> Tensor:
        """Compute second(first(x)), add the residual and cut at 0."""
        return second(first(x), residual)  # type: ignore[no-any-return]


def is_pointwise(conv: Conv) -> bool:
    """Tell whether a convolution is a matrix product."""
    return conv.kernel_size == 1 and conv.groups == 1


def strided(x: Tensor, stride: int) -> Tensor:
    """Take every so many-th pixel of (N, H, W, C)."""
    return x if stride == 1 else x[:, ::stride, ::stride].contiguous()


def geometry(conv: Conv) -> tuple[int, int, int, int]:
    """Return what `conv2d` takes after the bias: stride, padding, dilation, groups."""
    return conv.stride, conv.padding, conv.dilation, conv.groups


def to_nhwc(x: Tensor) -> Tensor:
    """View (N, C, H, W), which is channels last as a rule, as (N, H, W, C)."""
    return x.permute(0, 2, 3, 1).contiguous()


class FoldedConv(nn.Module):
    """A convolution with its batch norm in it, perhaps a ReLU."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: Conv, folded: Folded, operations: Operations, to: Any) -> None:
        super().__init__()
        self.conv, self.operations = conv, operations
        weight, bias = (_take(folded, f"{conv.name}.{part}", to) for part in ("weight", "bias"))
        if (dtype := operations.bias_dtype(conv)) is not None:
            bias = folded[f"{conv.name}.bias"].to(bias.device, dtype)
        self.register_buffer("weight", operations.prepare(conv, weight))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map (N, H, W, C) to (N, H', W', C')."""
        return self.operations.convolve(self.conv, x, self.weight, self.bias, residual)


class _Pooling(nn.Module):
    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = make_pool(pool)

    def forward(self, x: Tensor) -> Tensor:
        return to_nhwc(self.pool(x.permute(0, 3, 1, 2)))


class _Gate(nn.Module):
    """Squeeze-and-excitation."""

    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor

    def __init__(self, part: SqueezeExcite, folded: Folded, to: Any) -> None:
        super().__init__()
        for name in ("fc1", "fc2"):
            weight = _take(folded, f"{part.name}.{name}.weight", to).flatten(1)
            self.register_buffer(f"{name}_weight", weight)
            self.register_buffer(f"{name}_bias", _take(folded, f"{part.name}.{name}.bias", to))

    def forward(self, x: Tensor) -> Tensor:
        gate = F.linear(x.mean((1, 2)), self.fc1_weight, self.fc1_bias).relu_()
        gate = F.linear(gate, self.fc2_weight, self.fc2_bias)
        return x * torch.sigmoid(gate)[:, None, None]


class _Selection(nn.Module):
    """Selective kernels."""

    select: Tensor

    def __init__(
        self, part: layers.SelectiveKernel, folded: Folded, operations: Operations, to: Any
    ) -> None:
        super().__init__()
        self.paths = nn.ModuleList(FoldedConv(one, folded, operations, to) for one in part.paths)
        # One pixel a picture: nothing to gain from a kernel of its own.
        self.reduce = FoldedConv(part.reduce, folded, Operations(), to)
        weight = _take(folded, f"{part.name}.attn.fc_select.weight", to)
        self.register_buffer("select", weight.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        paths = torch.stack([path(x) for path in self.paths], dim=1)
        score = self.reduce(paths.sum(1).mean((1, 2), keepdim=True))[:, 0, 0]
        scores: Tensor = F.linear(score, self.select)
        shares = scores.view(len(x), len(self.paths), -1).softmax(1)
        return (paths * shares[:, :, None, None]).sum(1)


class _FoldedBlock(nn.Module):
    """A bottleneck: its last convolution takes the sum and the ReLU with it if it can."""

    def __init__(self, block: Block, folded: Folded, operations: Operations, to: Any) -> None:
        super().__init__()
        self.body, self.shortcut = (
            nn.ModuleList(_make(part, folded, operations, to) for part in parts)
            for parts in (block.body, block.shortcut)
        )
        *_, before, last = block.body
        self.joined = (
            isinstance(before, Conv)
            and isinstance(last, Conv)
            and operations.joins(before, last, to[1])
        )
        self.operations = operations

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        for part in self.shortcut:
            residual = part(residual)
        *parts, last = self.body
        if self.joined:
            *parts, before = parts
        for part in parts:
            x = part(x)
        if self.joined:
            ends = cast(FoldedConv, before), cast(FoldedConv, last)
            return self.operations.convolve_both(*ends, x, residual)
        if isinstance(last, FoldedConv):
            return last(x, residual)  # type: ignore[no-any-return]
        return (last(x) + residual).relu_()  # type: ignore[no-any-return]


def _make(part: Layer, folded: Folded, operations: Operations, to: Any) -> nn.Module:
    if isinstance(part, Conv):
        return FoldedConv(part, folded, operations, to)
    if isinstance(part, Pool):
        return _Pooling(part)
    if isinstance(part, SqueezeExcite):
        return _Gate(part, folded, to)
    if isinstance(part, layers.SelectiveKernel):
        return _Selection(part, folded, operations, to)
    assert isinstance(part, Block)
    return _FoldedBlock(part, folded, operations, to)


class FoldedNetwork(nn.Module):
    """A network from pixels to logits.

    Args:
        spec: The network.
        folded: What `fold` returned.
        operations: How convolutions are computed.
        device: Where to.
        dtype: What maps and weights are kept in.
        feature_maps: Let the last feature maps out as well.

    Raises:
        ModelFileError: A weight is too large for the type.
    """

    head_weight: Tensor
    head_bias: Tensor
    scale: Tensor
    shift: Tensor
    centers: Tensor
    one: Tensor

    def __init__(
        self,
        spec: ArchSpec,
        folded: Folded,
        operations: Operations,
        *,
        device: torch.device,
        dtype: torch.dtype,
        feature_maps: bool = False,
    ) -> None:
        super().__init__()
        self.dtype, self.feature_maps, self.exact = dtype, feature_maps, _SCALE in folded
        *body, head = (one for one in arch.layers(spec) if not isinstance(one, GlobalPool))
        to = (device, dtype)
        if not self.exact and dtype == torch.bfloat16:
            key = f"{cast(Conv, body[0]).name}.weight"
            rounded = folding.round_stem(folded[key].numpy()).astype(np.float32)
            folded = {**folded, key: torch.from_numpy(rounded)}
        self.body = nn.ModuleList(_make(one, folded, operations, to) for one in body)
        # The head in float32: 2 million products a picture, and the digits that are shown.
        name = cast(Linear, head).name
        self.register_buffer("head_weight", folded[f"{name}.weight"].to(device))
        self.register_buffer("head_bias", folded[f"{name}.bias"].to(device))
        for name in (_SCALE, _SHIFT) if self.exact else (_CENTERS,):
            value = folded[name].to(device, torch.float32 if self.exact else dtype)
            self.register_buffer(name.partition(".")[2], value)
        one = torch.ones((1, 1, 1, 1), dtype=torch.uint8, device=device)
        self.register_buffer("one", one)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Compute all that comes out.

        Args:
            pixels: (N, S, S, C) uint8.

        Returns:
            Logits (N, K), features (N, D) and perhaps their maps (N, D, h, w), in float32.
        """
        x = self._prepare(pixels)
        for part in self.body:
            x = part(x)
        embedding = x.mean((1, 2), dtype=torch.float32)
        logits = F.linear(embedding, self.head_weight, self.head_bias)
        if not self.feature_maps:
            return logits, embedding
        return logits, embedding, x.permute(0, 3, 1, 2).float().contiguous()

    def _prepare(self, pixels: Tensor) -> Tensor:
        if self.exact:
            return (pixels * self.scale + self.shift).to(self.dtype)
        one = self.one.expand(*pixels.shape[:3], 1)
        # Whole numbers all of them, so nothing is rounded in any type.
        return torch.cat([pixels, one], dim=3) - self.centers


def _take(folded: Folded, key: str, to: tuple[torch.device, torch.dtype]) -> Tensor:
    value = folded[key].to(*to)
    if not torch.isfinite(value).all():
        kind = str(to[1]).removeprefix("torch.")
        raise ModelFileError(
            f"{key} holds {float(folded[key].abs().max()):.3g}, which {kind} cannot",
            hint="take precision bf16 or fp32",
        )
    return value
