"""What a file was made with: the versions that a result may depend on."""

from __future__ import annotations

import platform
from importlib import metadata


def software(*packages: str) -> str:
    """Name the versions of Python and of those packages that are installed.

    Example:
        >>> software("numpy", "no-such-package").count(",")
        1
    """
    versions = [f"python {platform.python_version()}"]
    for name in packages:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(versions)
