"""[torch] Ways to compute a folded network, and the fastest of them.

"cudnn" is torch's documented functions, "wide" these with narrow groups joined to wider
ones, "fused" others, which do a sum and a ReLU on the way,
"triton" this package's own kernels, "pairs" these with a 3x3 and a 1x1 convolution in one
where that fits, "compile" `torch.compile` of "cudnn". All compute the same; one that cannot
run, or differs, is never chosen.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from resnext.engines.base import BACKENDS, Precision
from resnext.engines.folded import (
    FoldedConv,
    FoldedNetwork,
    Operations,
    geometry,
    is_pointwise,
    strided,
    to_nhwc,
)
from resnext.engines.folding import join_groups
from resnext.errors import ConfigError
from resnext.layers import Conv

# Those that are ready in seconds; "compile" takes minutes, and is taken where it is asked for.
QUICK = tuple(name for name in BACKENDS if name != "compile")

# Largest relative difference of a logit from "cudnn" with which a backend may be chosen.
AGREEMENT: dict[Precision, float] = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 1e-2, "bf16": 0.05}

Call = Callable[[Tensor], tuple[Tensor, ...]]

GROUP_WIDTH = 32  # channels that "wide" joins groups to

_ARITHMETIC = threading.RLock()  # torch has one for the whole process

_TRIALS, _CALLS = 5, 3  # of a measurement: the best of so many times so many calls


class Wide(Operations):
    """Grouped convolutions with a few wide groups instead of many narrow ones.

    Most weights are then zero. Such layers wait for memory, not for products: with groups of
    up to 32 channels a GPU loses nothing by them, if its narrow path is slow.
    """

    def prepare(self, conv: Conv, weight: Tensor) -> Tensor:
        """Join the groups of a weight."""
        joined, _ = join_groups(weight.float().cpu().numpy(), conv.groups, width=GROUP_WIDTH)
        return super().prepare(conv, torch.from_numpy(joined).to(weight.device, weight.dtype))

    def convolve(
        self, conv: Conv, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None
    ) -> Tensor:
        """Compute as `Operations.convolve` does."""
        if conv.groups > 1:  # a stem may take more channels than its layer says
            conv = replace(conv, groups=conv.in_channels // weight.shape[1])
        return super().convolve(conv, x, weight, bias, residual)


class Epilogues(Operations):
    """Convolutions whose kernels add, and cut at 0, before they write: cuDNN's and cuBLAS's.

    None of the three functions is documented; if a release changes one, this backend drops
    out, and no other is touched.
    """

    def convolve(
        self, conv: Conv, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None
    ) -> Tensor:
        """Compute as `Operations.convolve` does."""
        if residual is None and not conv.relu:
            return super().convolve(conv, x, weight, bias)
        if residual is None and is_pointwise(conv):
            x = strided(x, conv.stride)
            rows = torch._addmm_activation(bias, x.flatten(0, 2), weight.t())
            return rows.view(*x.shape[:3], -1)
        filters = weight[:, :, None, None] if is_pointwise(conv) else weight
        stride, padding, dilation, groups = geometry(conv)
        shape: Any = ([stride] * 2, [padding] * 2, [dilation] * 2, groups)
        image = x.permute(0, 3, 1, 2)
        if residual is None:
            return to_nhwc(torch.cudnn_convolution_relu(image, filters, bias, *shape))
        added = residual.permute(0, 3, 1, 2)
        return to_nhwc(torch.cudnn_convolution_add_relu(image, filters, added, 1.0, bias, *shape))


class Kernels(Operations):
    """The convolutions of `resnext.kernels`; torch's own for what these do not take."""

    def __init__(self) -> None:
        load = importlib.import_module
        self._pointwise: Any = load("resnext.kernels.pointwise").pointwise
        self._grouped: Any = load("resnext.kernels.grouped")

    def bias_dtype(self, conv: Conv) -> torch.dtype | None:
        """Return float32, in which the kernels sum."""
        return torch.float32 if is_pointwise(conv) or is_grouped(conv) else None

    def prepare(self, conv: Conv, weight: Tensor) -> Tensor:
        """Lay out a weight for the kernel that will take it."""
        if is_grouped(conv):
            packed: Tensor = self._grouped.pack(weight, groups=conv.groups)
            return packed
        return super().prepare(conv, weight)

    def convolve(
        self, conv: Conv, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None
    ) -> Tensor:
        """Compute as `Operations.convolve` does."""
        relu = conv.relu or residual is not None
        y: Tensor
        if is_pointwise(conv):
            y = self._pointwise(x, weight, bias, residual=residual, relu=relu, stride=conv.stride)
            return y
        if is_grouped(conv) and residual is None:
            y = self._grouped.grouped3x3(
                x, weight, bias, groups=conv.groups, relu=relu, stride=conv.stride
            )
            return y
        return super().convolve(conv, x, weight, bias, residual)


class Pairs(Kernels):
    """The same, and what lies between the last two convolutions of a block is never written."""

    def __init__(self) -> None:
        super().__init__()
        self._fused: Any = importlib.import_module("resnext.kernels.fused")

    def joins(self, first: Conv, second: Conv, dtype: torch.dtype) -> bool:
        """Tell whether the kernel takes these two."""
        size = first.out_channels, second.out_channels
        return (
            is_grouped(first)
            and first.relu
            and is_pointwise(second)
            and second.stride == 1
            and bool(self._fused.fits(*size, groups=first.groups, dtype=dtype))
        )

    def convolve_both(
        self, first: FoldedConv, second: FoldedConv, x: Tensor, residual: Tensor
    ) -> Tensor:
        """Compute both in one kernel."""
        filters = first.weight, first.bias, second.weight, second.bias
        options = {"groups": first.conv.groups, "stride": first.conv.stride}
        y: Tensor = self._fused.grouped_pointwise(x, *filters, residual=residual, **options)
        return y


def is_grouped(conv: Conv) -> bool:
    """Tell whether a convolution is one that `resnext.kernels.grouped` computes."""
    return (
        conv.kernel_size == 3
        and conv.groups > 1
        and conv.dilation == 1
        and conv.in_channels == conv.out_channels
    )


def obstacle(name: str, device: torch.device) -> str:
    """Say why a backend cannot run on a device; "" if it can.

    Raises:
        ConfigError: There is no such backend.
    """
    if name not in BACKENDS:
        raise ConfigError(f"the backend is {name!r}; expected one of {', '.join(BACKENDS)}")
    if name == "fused" and device.type != "cuda":
        return "it needs a GPU and cuDNN"
    if name == "compile" and device.type == "cuda" and not importlib.util.find_spec("triton"):
        return "triton is not installed"
    if name in ("triton", "pairs"):
        try:
            return str(importlib.import_module("resnext.kernels").available(device))
        except ImportError as error:
            return f"there are no kernels: {error}"
    return ""


def operations(name: str) -> Operations:
    """Return how a backend computes convolutions."""
    kinds: dict[str, Callable[[], Operations]] = {
        "wide": Wide,
        "fused": Epilogues,
        "triton": Kernels,
        "pairs": Pairs,
    }
    return kinds.get(name, Operations)()


def callable_of(name: str, network: FoldedNetwork) -> Call:
    """Return what runs a network of a backend's operations."""
    if name != "compile":
        return network
    # Not with its own CUDA graphs: the engine captures what every backend does.
    gpu = network.one.device.type == "cuda"
    mode = "max-autotune-no-cudagraphs" if gpu else "default"
    compiled: Any = torch.compile(network, mode=mode, dynamic=False)

    def run(pixels: Tensor) -> tuple[Tensor, ...]:
        # A compiled network for each batch size and engine; the limit is meant for accidents.
        with torch._dynamo.config.patch(recompile_limit=256):
            return compiled(pixels)  # type: ignore[no-any-return]

    return run


def fastest(
    names: Iterable[str], open_program: Callable[[str], Callable[[], Any]], *, agreement: float
) -> str:
    """Measure backends beside each other.

    Args:
        names: Of backends; the first is the one that the others must agree with.
        open_program: Makes of a name what runs a batch and returns logits and more, on the
            device; it may raise anything.
        agreement: Largest relative difference of a logit.

    Returns:
        The name of the fastest that runs and agrees.

    Raises:
        RuntimeError: Not even the first runs.
        MemoryError: The first has not enough memory.
    """
    first, *others = names
    programs = {first: open_program(first)}
    expected = programs[first]()[0].clone()
    for name in others:
        try:
            program = open_program(name)
            if _agrees(program()[0], expected, agreement):
                programs[name] = program
        except Exception:  # whatever a compiler raises: it is not for this GPU, release or shape
            continue
    times = dict.fromkeys(programs, float("inf"))
    for _ in range(_TRIALS):  # in turn, so that other programs disturb all alike
        for name, program in programs.items():
            times[name] = min(times[name], _seconds(program))
    return min(times, key=lambda name: times[name])


@contextlib.contextmanager
def arithmetic(*, tf32: bool) -> Iterator[None]:
    """Let torch round products of float32 to 10 bits of mantissa, or not; then as before.

    One thread at a time: the settings are those of the whole process.
    """
    with _ARITHMETIC, _matmul_precision_kept():
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        # Benchmark: shapes are few, and each is captured once.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32):
            yield


@contextlib.contextmanager
def _matmul_precision_kept() -> Iterator[None]:
    mkldnn: Any = torch.backends.mkldnn  # its attributes are not declared
    places = torch.backends.cuda.matmul, mkldnn.matmul
    before = [place.fp32_precision for place in places]
    together = "highest"
    # torch refuses to say it where only one of the places was set.
    with contextlib.suppress(RuntimeError):
        together = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(together)
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def _agrees(found: Tensor, expected: Tensor, limit: float) -> bool:
    largest = (found - expected).abs().max() / expected.abs().max()
    return bool(largest <= limit)  # NaN is not


def _seconds(program: Callable[[], Any]) -> float:
    device = program()[0].device
    _wait(device)
    begin = time.perf_counter()
    for _ in range(_CALLS):
        program()
    _wait(device)
    return (time.perf_counter() - begin) / _CALLS


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
