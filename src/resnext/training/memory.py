"""Memory that does not suffice: told before, or named when it happens."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from resnext.errors import OutOfMemoryError, ResNeXtError
from resnext.training.config import TrainConfig

# cuDNN, cuBLAS and the processor's allocator have words of their own for it.
_WORDS = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
_MEMORY = Path("/proc/meminfo")
_LIMIT = Path("/sys/fs/cgroup")  # of a container


def is_short(error: RuntimeError) -> bool:
    """Tell whether an error, of torch, says that memory does not suffice."""
    return any(words in str(error) for words in _WORDS)


@contextlib.contextmanager
def naming_short_memory(config: TrainConfig) -> Iterator[None]:
    """Say what to do when the memory of the device does not suffice.

    Args:
        config: What was done meanwhile.

    Raises:
        OutOfMemoryError: It does not.
    """
    try:
        yield
    except ResNeXtError:
        raise
    except RuntimeError as error:
        if not is_short(error):
            raise
        parts = 2 * max(config.optim.grad_accum_steps, 1)
        raise OutOfMemoryError(
            f"memory does not suffice: {str(error).splitlines()[0]}",
            hint=f"try --set optim.grad_accum_steps={parts}, which computes a batch in smaller"
            " parts; the same command with it goes on from the last checkpoint",
        ) from error


def check_room(needed: float, what: str, *, hint: str) -> None:
    """Make sure that something fits into what is free of the machine's memory.

    Args:
        needed: Bytes, in each process that computes on this machine.
        what: Needs them.
        hint: What else to do.

    Raises:
        OutOfMemoryError: It does not fit.
    """
    needed *= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    room = free()
    if room is not None and needed > room:
        raise OutOfMemoryError(
            f"{what} would take {needed / 1e9:,.1f} GB of memory; {room / 1e9:,.1f} GB are free",
            hint=hint,
        )


def free() -> int | None:
    """Return the bytes of memory that a process can still take, or None where no one says."""
    found = [room for room in (_free_of_machine(), _free_of_container()) if room is not None]
    return min(found, default=None)


def _free_of_machine() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in _MEMORY.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return 1024 * int(value.split()[0])
    return None


def _free_of_container() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        limit = int((_LIMIT / "memory.max").read_text())  # "max" without a limit: a ValueError
        used = int((_LIMIT / "memory.current").read_text())
        pairs = (line.split() for line in (_LIMIT / "memory.stat").read_text().splitlines())
        # What was read from the disk is given up first.
        return limit - used + sum(int(value) for name, value in pairs if name == "inactive_file")
    return None
