"""What a file was made with: the versions that a result may depend on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

# What the arithmetic of a processor depends on, as Linux spells it.
_FLAGS = ("avx", "fma", "amx", "f16c", "asimd", "sve", "bf16", "i8mm")

_GPUS = Path("/proc/driver/nvidia/gpus")


def software(*packages: str) -> str:
    """Name the versions of Python and of those packages that are installed.

    Example:
        >>> software("numpy", "no-such-package").count(",")
        1
    """
    found = versions(*packages)
    return ", ".join(f"{name} {version}" for name, version in found.items() if version)


def versions(*packages: str) -> dict[str, str | None]:
    """Return the versions of Python and of packages, None for what is not installed."""
    from importlib import metadata  # 20 ms, which a start from a warm cache has no use for

    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def machine() -> dict[str, Any]:
    """Describe the processor, and GPUs if there are any, as far as is known."""
    facts, others = _cpuinfo(), gpus()
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return {
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "flags": sorted(flag for flag in flags if any(part in flag for part in _FLAGS)),
        **({"gpus": ", ".join(others)} if others else {}),
    }


def gpus(folder: Path = _GPUS) -> list[str]:
    """Name the NVIDIA GPUs, as far as their driver says, without asking torch.

    Args:
        folder: Where Linux's driver does so.
    """
    found = []
    for path in sorted(folder.glob("*/information")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return found


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # other systems
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
