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
    found = versions(*packages)
    return ", ".join(f"{name} {version}" for name, version in found.items() if version)


def versions(*packages: str) -> dict[str, str | None]:
    """Return the versions of Python and of packages, None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
