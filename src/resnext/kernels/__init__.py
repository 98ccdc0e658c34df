"""Own kernels for NVIDIA GPUs, and whether they run here.

`pointwise` are the 1x1 convolutions, `grouped` the 3x3 ones, `fused` both in one. Each
module needs torch and Triton, which comes with torch on Linux; this one needs neither.
"""

from __future__ import annotations

import importlib
import importlib.util


def available(device: object) -> str:
    """Say why the kernels cannot run on a device.

    Args:
        device: A torch device or its name, such as "cuda:1".

    Returns:
        The reason in one line, or "" if they run. With `TRITON_INTERPRET=1` they run on the
        processor, very slowly: for tests.
    """
    for package in ("torch", "triton"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    # Only now: it loads both.
    return str(importlib.import_module("resnext.kernels.launch").obstacle(device))
