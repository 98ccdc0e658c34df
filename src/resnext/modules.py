"""[torch] What blocks are made of: convolutions, pools, attention.

Source: arXiv:1709.01507 (squeeze-and-excitation), arXiv:1903.06586 (selective kernels),
arXiv:1603.09382 (stochastic depth); names of tensors are timm's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resnext import layers
from resnext.layers import Conv, Pool

Network = TypeVar("Network", bound=nn.Module)


def make_conv(conv: Conv) -> nn.Conv2d:
    """Build a convolution of the table without its batch norm."""
    return nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=False,
    )


def make_pool(pool: Pool) -> nn.Module:
    """Build a pooling of the table."""
    size, stride = pool.kernel_size, pool.stride
    if pool.kind == "max":
        return nn.MaxPool2d(size, stride, pool.padding)
    if pool.kind == "avg_same":
        return nn.Sequential(nn.ZeroPad2d((0, size - 1, 0, size - 1)), nn.AvgPool2d(size, stride))
    ceil = pool.kind == "avg_ceil"
    return nn.AvgPool2d(size, stride, pool.padding, ceil_mode=ceil, count_include_pad=False)


class ConvNorm(nn.Module):
    """A convolution and its batch norm, with a ReLU if the table says so."""

    def __init__(self, conv: Conv) -> None:
        super().__init__()
        self.conv, self.bn = make_conv(conv), nn.BatchNorm2d(conv.out_channels)
        self.relu = nn.ReLU(inplace=True) if conv.relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W')."""
        return self.relu(self.bn(self.conv(x)))  # type: ignore[no-any-return]


class SqueezeExcite(nn.Module):
    """x * sigmoid(fc2(relu(fc1(mean(x)))))."""

    def __init__(self, part: layers.SqueezeExcite) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(part.channels, part.hidden, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(part.hidden, part.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        gate = self.fc2(self.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)


class SelectiveKernel(nn.Module):
    """A sum of convolutions of several dilations, weighted by channel."""

    def __init__(self, part: layers.SelectiveKernel) -> None:
        super().__init__()
        self.paths = nn.ModuleList(ConvNorm(path) for path in part.paths)
        self.attn = _PathAttention(part)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W')."""
        paths = torch.stack([path(x) for path in self.paths], dim=1)
        weighted: Tensor = paths * self.attn(paths)
        return weighted.sum(dim=1)


class _PathAttention(nn.Module):
    def __init__(self, part: layers.SelectiveKernel) -> None:
        super().__init__()
        self.num_paths = len(part.paths)
        self.fc_reduce = make_conv(part.reduce)
        self.bn = nn.BatchNorm2d(part.reduce.out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.fc_select = nn.Conv2d(part.reduce.out_channels, part.select_shape[0], 1, bias=False)

    def forward(self, paths: Tensor) -> Tensor:
        """Map (N, P, C, H, W), P paths, to weights (N, P, C, 1, 1) that sum to 1 over P."""
        x = paths.sum(1).mean((2, 3), keepdim=True)
        x = self.fc_select(self.relu(self.bn(self.fc_reduce(x))))
        return x.unflatten(1, (self.num_paths, -1)).softmax(dim=1)  # type: ignore[no-any-return]


class DropPath(nn.Module):
    """Stochastic depth (arXiv:1603.09382): in training, a picture skips the body by chance."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape; what is kept is scaled up by 1 / (1 - chance)."""
        if not self.training:
            return x
        keep = 1 - self.chance
        mask = torch.empty([x.shape[0], 1, 1, 1], dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * (mask / keep)


class Stage(nn.Sequential):
    """The blocks between two resolutions, run one after the other."""

    grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W')."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            if self.grad_checkpointing and torch.is_grad_enabled():
                for block in self:
                    x = _run_twice(block, x)
                return x
        for block in self:
            x = block(x)
        return x


def _run_twice(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block, and again when its gradient is asked for."""
    if torch.compiler.is_compiling():  # which writes statistics once, and takes no contexts
        return checkpoint(block, x, use_reentrant=False)  # type: ignore[no-any-return]
    return checkpoint(  # type: ignore[no-any-return]
        block,
        x,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _remembering_nothing(block)),
    )


@contextlib.contextmanager
def _remembering_nothing(block: nn.Module) -> Iterator[None]:
    """Let batch norms keep their running statistics: they have seen this batch before."""
    norms = [norm for norm in block.modules() if isinstance(norm, nn.BatchNorm2d) and norm.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)


def filled(
    build: Callable[[], Network],
    tensors: Mapping[str, npt.NDArray[Any]],
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    """Build a network without drawing weights that are thrown away, and fill it.

    Args:
        build: Returns the network; called with nothing allocated.
        tensors: At least its tensors, by key; counters of training steps become 0.
        device: Where to, by default torch's default device; on "meta" nothing is filled.
        dtype: Type of its floating-point tensors, by default torch's default.
    """
    device = device or torch.get_default_device()
    with torch.device("meta"):
        network = build().to(dtype or torch.get_default_dtype())
    if device.type == "meta":
        return network
    network.to_empty(device=device)
    state = {}
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros_like(value)
            continue
        array = tensors[key]
        if array.dtype.name == "bfloat16":  # which torch does not take from numpy
            array = array.astype(np.float32)
        state[key] = torch.from_numpy(np.ascontiguousarray(array))
    network.load_state_dict(state)
    return network
