"""Where kernels are tested: compiled on a GPU if there is one, else in Triton's interpreter.

Test files import the kernels from here: what is interpreted is settled when they are made.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9):
    # It turns arrays of one element into numbers, which NumPy does no more.
    pytest.skip("the interpreter of Triton before 3.9 fails here", allow_module_level=True)
# Half a unit of the last place, or one: the interpreter cuts bfloat16 off.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def load(module: str) -> ModuleType:
    """Import a module with kernels, interpreted where there is no GPU."""
    before = os.environ.get("TRITON_INTERPRET")
    if DEVICE == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    try:
        found = importlib.import_module(module)
    finally:
        os.environ.pop("TRITON_INTERPRET", None)
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before
    interpreted = importlib.import_module("resnext.kernels.launch").INTERPRETED
    assert interpreted == (DEVICE == "cpu"), "another test imported the kernels without `load`"
    return found


def skip_without_memory(*, gigabytes: int) -> None:
    """Skip a test for a GPU where there is none, or none with so much memory free."""
    if DEVICE != "cuda":
        pytest.skip("there is no GPU")
    if torch.cuda.mem_get_info()[0] < gigabytes * 1e9:
        pytest.skip(f"the GPU has less than {gigabytes} GB free")


def random(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
    """Draw a tensor on the device; the caller seeds torch."""
    return (torch.randn(shape) * scale).to(dtype).to(DEVICE)


def expected(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    residual: torch.Tensor | None = None,
    relu: bool = True,
    stride: int = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Convolve (N, H, W, C) in float64, padded so that a 3x3 keeps the size."""
    x, weight, bias = (tensor.cpu().double() for tensor in (x, weight, bias))
    out = torch.nn.functional.conv2d(
        x.permute(0, 3, 1, 2),
        weight,
        bias,
        stride=stride,
        groups=groups,
        padding=weight.shape[-1] // 2,
    ).permute(0, 2, 3, 1)
    if residual is not None:
        out = out + residual.cpu().double()
    return out.relu() if relu else out


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Compare with float64, as exactly as the type of `found` allows."""
    tolerance = TOLERANCES[found.dtype]
    torch.testing.assert_close(
        found.cpu().double(), wanted, rtol=tolerance, atol=2e-5, check_stride=False
    )
