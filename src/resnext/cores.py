"""How many processor threads this process may use at once.

The operating system counts the machine's; a container or a batch system allows fewer by a
share of time (cgroups), and people say so with OMP_NUM_THREADS. More threads than that only
wait for each other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def available() -> int:
    """Return the number of threads that can run at the same time, at least 1."""
    return min(_processors(), limit() or _processors())


def limit() -> int | None:
    """Return the number of threads that container and environment allow, or None for all."""
    bounds = [*_quotas(), *_environment()]
    smallest = min(bounds, default=_processors())
    return max(1, smallest) if smallest < _processors() else None


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _environment() -> Iterator[int]:
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if text.isdecimal() and int(text) > 0:
        yield int(text)


def _quotas() -> Iterator[int]:
    """Yield the whole processors that each group above this process allows."""
    for folder in _folders():
        share = _read_share(folder)
        if share is not None:
            # 1.5 processors: a second thread has half of its time.
            yield math.ceil(share)


def _folders() -> Iterator[Path]:
    """Yield the folders of this process's groups, from its own to the root."""
    try:
        lines = _GROUPS.read_text().splitlines()
    except OSError:  # other systems
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [_MOUNT, *(_MOUNT / name for name in (controllers, "cpu") if controllers)]
        for mount in dict.fromkeys(mounts):
            folder = mount / path.lstrip("/")
            yield folder
            yield from (each for each in folder.parents if each.is_relative_to(mount))


def _read_share(folder: Path) -> float | None:
    """Return how many processors' time a group may take, or None for any."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no group, or "max"
        return None
    return share if share > 0 else None  # -1: no limit
