"""[torch] What kernels ask of a device and of tensors; how one is started."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from resnext.errors import ConfigError
from resnext.kernels import tuning
from resnext.kernels.tuning import Config

OLDEST = (8, 0)  # bf16 on tensor cores, and copies to shared memory that do not wait
FLOATS = (torch.bfloat16, torch.float16, torch.float32)
# Whether `TRITON_INTERPRET=1` was set when the kernels were made: all of them, or none.
INTERPRETED = bool(triton.knobs.runtime.interpret)


def obstacle(device: Any) -> str:
    """Say why the kernels cannot run on a device; "" if they can."""
    try:
        place = torch.device(device)
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    if INTERPRETED:
        return ""
    if place.type != "cuda":
        return f"the kernels run on NVIDIA GPUs; the device is {place}"
    if torch.version.hip is not None:
        return "the kernels run on NVIDIA GPUs; this torch is made for AMD's"
    if not torch.cuda.is_available() or (place.index or 0) >= torch.cuda.device_count():
        return f"torch finds no GPU {place}"
    capability = torch.cuda.get_device_capability(place)
    if capability < OLDEST:
        found, least = (".".join(map(str, version)) for version in (capability, OLDEST))
        return f"the GPU has compute capability {found}; the kernels need {least}"
    # Triton compiles a small launcher for each kernel, in C.
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler, and there is neither gcc nor clang"
    return ""


def run(
    kernel: Any,
    arguments: Mapping[str, Any],
    grid: Callable[[Config], int],
    *,
    key: str,
    configs: Sequence[Config],
) -> None:
    """Start a kernel with the configuration that was fastest for such a call.

    Args:
        kernel: What `triton.jit` made.
        arguments: What the kernel takes, by name, but for what the configuration holds; with
            PRECISION, what `precision` returned.
        grid: Number of programs with a configuration.
        key: What the choice depends on: the kernel, its shapes and types.
        configs: What to choose from, the likeliest first.
    """
    device = next(value.device for value in arguments.values() if isinstance(value, Tensor))

    def start(config: Config) -> None:
        # Without the last argument Triton 3.9 warns that its default will change.
        kernel[(grid(config),)](**arguments, **config, enable_fp_fusion=True)

    if INTERPRETED:  # nothing to measure
        start(configs[0])
        return
    with torch.cuda.device(device):
        # The types do not tell how products of float32 are rounded.
        key = f"{key} {arguments['PRECISION']}"
        start(tuning.choose(key, configs, start, device=device))


def check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuse a tensor that a kernel would misread.

    Raises:
        ConfigError: It has another shape or type, or is not contiguous.
    """
    if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_contiguous():
        layout = "" if tensor.is_contiguous() else ", not contiguous"
        raise ConfigError(
            f"{name} is {tuple(tensor.shape)} {tensor.dtype}{layout};"
            f" expected {shape} {dtype}, contiguous"
        )


def check_input(
    x: Tensor, dtypes: tuple[torch.dtype, ...] = (*FLOATS, torch.int8)
) -> tuple[int, int, int, int]:
    """Refuse an input that is no batch of pictures; return its shape.

    Raises:
        ConfigError: It is not (N, H, W, C), contiguous, of a type with kernels.
    """
    if x.ndim != 4 or not x.is_contiguous() or x.dtype not in dtypes:
        layout = "" if x.is_contiguous() else ", not contiguous"
        raise ConfigError(
            f"the input is {tuple(x.shape)} {x.dtype}{layout}; expected (N, H, W, C), contiguous,"
            f" one of {', '.join(map(str, dtypes))}"
        )
    batch, height, width, channels = x.shape
    return batch, height, width, channels


def check_scale(scale: Tensor | None, channels: int, dtype: torch.dtype) -> None:
    """Refuse int8 without scales, and scales without int8.

    Raises:
        ConfigError: There are no scales, or they have another shape or type, or no use.
    """
    if (scale is not None) != (dtype == torch.int8):
        given = "no scales" if scale is None else "scales"
        raise ConfigError(f"there are {given} for {dtype}; expected scales for int8 alone")
    if scale is not None:
        check("scale", scale, (channels,), torch.float32)


def output_size(side: int, stride: int) -> int:
    """Return the side of a 3x3 convolution's output with padding 1, or of a 1x1's."""
    return (side - 1) // stride + 1


def new_output(x: Tensor, channels: int, stride: int) -> Tensor:
    """Return memory for what a convolution of `x` gives, (N, Ho, Wo, channels)."""
    batch, height, width, _ = x.shape
    sides = (output_size(side, stride) for side in (height, width))
    return x.new_empty((batch, *sides, channels))


def check_stride(stride: int) -> None:
    """Refuse a stride other than 1 and 2.

    Raises:
        ConfigError: It is.
    """
    if stride not in (1, 2):
        raise ConfigError(f"stride is {stride}; expected 1 or 2")


def precision(dtype: torch.dtype) -> str:
    """Return how `pointwise.multiply` treats products of a type: float32 as torch is told to."""
    if dtype == torch.bfloat16 and INTERPRETED:
        return "widened"
    exact = torch.get_float32_matmul_precision() == "highest"
    return "ieee" if exact or dtype != torch.float32 else "tf32"


def bucket(count: int) -> int:
    """Round a number of rows up to a power of two: batches alike share a choice."""
    return 1 << max(count - 1, 0).bit_length()
