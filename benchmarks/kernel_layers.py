"""The kernel calls of a network: their shapes, products, bytes, and least time on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from resnext.arch import ArchSpec, layers
from resnext.kernels.fused import fits, grouped_pointwise
from resnext.kernels.grouped import Layout, grouped3x3, pack
from resnext.kernels.pointwise import pointwise
from resnext.layers import Block, Conv

# H200, measured there: bf16 products of large matrices, and copies.
PEAK_FLOPS, PEAK_BYTES = 790e12, 4.3e12


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of a kernel.

    Args:
        kind: "pointwise", "grouped3x3" or "grouped_pointwise".
        batch: Pictures.
        size: Side of the input, pixels.
        ins: Channels in.
        outs: Channels out.
        groups: Groups of the 3x3 convolution.
        stride: Of the convolution, or of the 3x3 one of two.
        relu: Whether a ReLU ends it.
        residual: Whether something is added.
        count: How often the network calls it.
    """

    kind: str
    batch: int
    size: int
    ins: int
    outs: int
    groups: int = 1
    stride: int = 1
    relu: bool = True
    residual: bool = False
    count: int = 1

    @property
    def out_size(self) -> int:
        """Side of the output, pixels."""
        return (self.size - 1) // self.stride + 1

    @property
    def macs(self) -> int:
        """Multiply-adds, those by the zeros of packing left out."""
        pixels = self.batch * self.out_size**2
        grouped = pixels * self.ins * (self.ins // self.groups) * 9
        dense = pixels * self.ins * self.outs
        return {"pointwise": dense, "grouped3x3": grouped}.get(self.kind, grouped + dense)

    @property
    def issued_macs(self) -> int:
        """Multiply-adds with those by zeros."""
        if self.kind == "pointwise":
            return self.macs
        layout = Layout(self.ins, self.groups)
        pixels = self.batch * self.out_size**2
        packed = pixels * layout.tiles * 9 * layout.tile * layout.window
        dense = pixels * self.ins * self.outs if self.kind == "grouped_pointwise" else 0
        return packed + dense

    def num_bytes(self, element_size: int) -> int:
        """Return the least traffic: each input, weight, residual and output once."""
        # A 1x1 of stride 2 reads every other pixel of every other row.
        side = self.out_size if self.kind == "pointwise" else self.size
        inputs = self.batch * side**2 * self.ins
        outputs = self.batch * self.out_size**2 * self.outs * (2 if self.residual else 1)
        weights = self.ins * self.outs
        if self.kind != "pointwise":
            layout = Layout(self.ins, self.groups)
            packed = layout.tiles * 9 * layout.tile * layout.window
            weights = packed + (weights if self.kind == "grouped_pointwise" else 0)
        return (inputs + outputs + weights) * element_size

    def least_seconds(self, element_size: int, *, flops: float, bandwidth: float) -> float:
        """Return the roofline: the longer of computing and moving."""
        return max(2 * self.issued_macs / flops, self.num_bytes(element_size) / bandwidth)


def calls(spec: ArchSpec, *, batch: int, dtype: torch.dtype = torch.bfloat16) -> list[Call]:
    """List the kernel calls of a network's blocks, alike ones once, with how many there are.

    Fused calls are among them where they fit; each stands for two others.

    Args:
        spec: The network, of the plain variant.
        batch: Pictures.
        dtype: Of the tensors.
    """
    found: dict[Call, int] = {}
    size = spec.input_size // (1 if spec.stem == "cifar" else 4)
    for block in (layer for layer in layers(spec) if isinstance(layer, Block)):
        made = _block_calls(block, batch, size, dtype)
        for one in made:
            found[one] = found.get(one, 0) + 1
        size = made[1].out_size
    return [replace(one, count=count) for one, count in found.items()]


def _block_calls(block: Block, batch: int, size: int, dtype: torch.dtype) -> list[Call]:
    first, middle, last = (part for part in block.body if isinstance(part, Conv))
    width, stride = middle.out_channels, middle.stride
    inner = (size - 1) // stride + 1
    common: dict[str, Any] = {"batch": batch}
    found = [
        Call(kind="pointwise", size=size, ins=first.in_channels, outs=width, **common),
        Call(
            kind="grouped3x3",
            size=size,
            ins=width,
            outs=width,
            groups=middle.groups,
            stride=stride,
            **common,
        ),
        Call(
            kind="pointwise", size=inner, ins=width, outs=last.out_channels, residual=True, **common
        ),
    ]
    outs = last.out_channels
    if fits(width, outs, groups=middle.groups, dtype=dtype):
        merged = {"kind": "grouped_pointwise", "outs": outs, "residual": True}
        found.append(replace(found[1], **merged))
    for shortcut in (part for part in block.shortcut if isinstance(part, Conv)):
        found.append(
            Call(
                kind="pointwise",
                size=size,
                ins=shortcut.in_channels,
                outs=shortcut.out_channels,
                stride=shortcut.stride,
                relu=False,
                **common,
            )
        )
    return found


def tensors(one: Call, *, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Make random tensors for a call, scaled so that nothing overflows."""

    def random(*shape: int, fan_in: int = 1, kind: torch.dtype = dtype) -> Tensor:
        if device == "meta":
            return torch.empty(shape, dtype=kind, device=device)
        if kind == torch.int8:
            return torch.randint(-127, 128, shape, dtype=kind, device=device)
        return (torch.randn(shape, device=device) / fan_in**0.5).to(kind)

    width, out = one.ins // one.groups, (one.batch, one.out_size, one.out_size, one.outs)
    found = {"x": random(one.batch, one.size, one.size, one.ins)}
    if one.kind != "pointwise":
        found["filters"] = random(one.ins, width, 3, 3, fan_in=9 * width)
        found["bias3"] = random(one.ins, kind=torch.float32)
    if one.kind != "grouped3x3":
        found["weight"] = random(one.outs, one.ins, fan_in=one.ins)
        found["bias"] = random(one.outs, kind=torch.float32)
    if one.residual:
        found["residual"] = random(*out)
    if dtype == torch.int8:
        found["scale"] = torch.full((one.outs,), 1e-3, device=device)
    return found


def call(one: Call, *, dtype: torch.dtype, device: str) -> Tensor:
    """Run a call once with random tensors."""
    return prepared(one, tensors(one, dtype=dtype, device=device))()


def prepared(one: Call, given: dict[str, Tensor]) -> Any:
    """Return what runs the call on these tensors, the filters packed."""
    x, residual, scale = given["x"], given.get("residual"), given.get("scale")
    if one.kind == "pointwise":
        return lambda: pointwise(
            x,
            given["weight"],
            given["bias"],
            residual=residual,
            relu=one.relu,
            stride=one.stride,
            scale=scale,
        )
    packed = pack(given["filters"], groups=one.groups)
    if one.kind == "grouped3x3":
        return lambda: grouped3x3(
            x,
            packed,
            given["bias3"],
            groups=one.groups,
            stride=one.stride,
            relu=one.relu,
            scale=scale,
        )
    return lambda: grouped_pointwise(
        x,
        packed,
        given["bias3"],
        given["weight"],
        given["bias"],
        groups=one.groups,
        stride=one.stride,
        residual=residual,
        relu=one.relu,
    )
