"""[torch] A run on disk: written atomically, hashed, the last few kept.

`step-00001234.ckpt` holds what torch.save made of plain values and tensors, followed by
the sha256 of that. Loading allows nothing else (`weights_only`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from resnext.errors import ModelFileError
from resnext.files import atomic, output_error

_NAME = re.compile(r"step-(\d{8,})\.ckpt")
_MARK = b"\nresnext-checkpoint-sha256:"
_TAIL = len(_MARK) + 64

State = dict[str, Any]


def path_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}.ckpt"


def save(folder: Path, step: int, state: State, *, keep: int = 2) -> Path:
    """Write a checkpoint, then remove all but the newest.

    Those of later steps are removed too: they were refused, or are of an abandoned run.

    Args:
        folder: Of the run's checkpoints, which only one process writes; made if missing.
        step: Steps done.
        state: Plain values and tensors.
        keep: How many stay, at least 1.

    Raises:
        OutputError: It cannot be written; the earlier ones are as they were.
    """
    path = path_of(folder, step)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    for left in folder.glob(".resnext-*.tmp"):  # by a process that was killed
        _remove(left)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    _write(path, buffer.getbuffer())
    steps = {old: _step_of(old) for old in found(folder)}
    for old in [old for old in steps if steps[old] <= step][: -max(keep, 1)]:
        _remove(old)
    for old in [old for old in steps if steps[old] > step]:
        _remove(old)
    return path


def _write(path: Path, content: memoryview) -> None:
    with atomic(path, size=len(content) + _TAIL) as file:
        file.write(content)
        file.write(_MARK + hashlib.sha256(content).hexdigest().encode())


def found(folder: Path) -> list[Path]:
    """List the checkpoints of a run, oldest first; whether they are whole is not looked at.

    Raises:
        ModelFileError: The folder cannot be read.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ModelFileError(f"{folder}: cannot be read: {error.strerror or error}") from error
    return sorted((folder / name for name in names if _NAME.fullmatch(name)), key=_step_of)


def clear(folder: Path) -> None:
    """Remove all checkpoints of a run, so that it begins anew.

    Raises:
        OutputError: One cannot be removed.
    """
    for path in found(folder):
        try:
            path.unlink()
        except OSError as error:
            raise output_error(path, error) from error


def load(path: Path) -> State:
    """Read a checkpoint.

    Raises:
        ModelFileError: It is missing, not a regular file, empty, cut short or changed.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait for ever
            raise ModelFileError(f"{path}: not a regular file")
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    content, tail = data[:-_TAIL], bytes(data[-_TAIL:])
    if not tail.startswith(_MARK):
        raise ModelFileError(f"{path}: not a whole checkpoint ({len(data):,} bytes)")
    if tail[len(_MARK) :] != hashlib.sha256(content).hexdigest().encode():
        raise ModelFileError(f"{path}: its bytes are not those that were written (sha256)")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # what the unpickler runs into is of any kind
        raise ModelFileError(f"{path}: cannot be read: {error}") from error
    if not isinstance(state, dict):
        raise ModelFileError(f"{path}: holds a {type(state).__name__}; expected a checkpoint")
    return state


def load_latest(
    folder: Path, accept: Callable[[Path, State], None] = lambda path, state: None
) -> tuple[Path, list[str]] | None:
    """Read the newest checkpoint that is whole and accepted.

    Args:
        folder: Of the run's checkpoints.
        accept: Takes a checkpoint over, or raises ModelFileError to have an older one tried.

    Returns:
        Its path, and why newer ones were passed over; None where there is none at all.

    Raises:
        ModelFileError: There are some, and all are refused.
    """
    refused: list[str] = []
    for path in reversed(found(folder)):
        try:
            accept(path, load(path))
            return path, refused
        except ModelFileError as error:
            refused.append(error.message)
    if refused:
        raise ModelFileError(
            f"{folder}: no checkpoint can be used: {'; '.join(refused)}",
            hint="start anew in another folder",
        )
    return None


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # a folder of that name does no harm
        path.unlink()
