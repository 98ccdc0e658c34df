"""[torch] A run on disk: written atomically, hashed, the last few kept.

`step-00001234.ckpt` holds what torch.save made of plain values and tensors, followed by
the sha256 of that. Loading allows nothing else (`weights_only`).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from pathlib import Path
from typing import Any

import torch

from resnext.errors import ModelFileError
from resnext.files import atomic

_NAME = re.compile(r"step-(\d{8,})\.ckpt")
_MARK = b"\nresnext-checkpoint-sha256:"
_TAIL = len(_MARK) + 64


def path_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}.ckpt"


def save(folder: Path, step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Write a checkpoint, then remove all but the newest.

    Args:
        folder: Of the run's checkpoints; made if missing.
        step: Steps done.
        state: Plain values and tensors.
        keep: How many stay, at least 1.

    Raises:
        OutputError: It cannot be written; the earlier ones are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = path_of(folder, step)
    with atomic(path) as file:
        file.write(content)
        file.write(_MARK + hashlib.sha256(content).hexdigest().encode())
    for old in found(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def found(folder: Path) -> list[Path]:
    """List the checkpoints of a run, oldest first; whether they are whole is not looked at."""
    if not folder.is_dir():
        return []
    named = ((match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))
    return [path for match, path in sorted(named, key=lambda pair: int(pair[0][1]))]


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        ModelFileError: It is missing, not a regular file, empty, cut short or changed.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait for ever
            raise ModelFileError(f"{path}: not a regular file")
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    content, tail = data[:-_TAIL], data[-_TAIL:]
    if not tail.startswith(_MARK):
        raise ModelFileError(f"{path}: not a whole checkpoint ({len(data):,} bytes)")
    if tail[len(_MARK) :].decode(errors="replace") != hashlib.sha256(content).hexdigest():
        raise ModelFileError(f"{path}: its bytes are not those that were written (sha256)")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # what the unpickler runs into is of any kind
        raise ModelFileError(f"{path}: cannot be read: {error}") from error
    if not isinstance(state, dict):
        raise ModelFileError(f"{path}: holds a {type(state).__name__}; expected a checkpoint")
    return state


def load_latest(folder: Path) -> tuple[Path, dict[str, Any], list[str]] | None:
    """Read the newest checkpoint that is whole.

    Returns:
        Its path, its content, and why newer ones were passed over; None where there is none.
    """
    refused: list[str] = []
    for path in reversed(found(folder)):
        try:
            return path, load(path), refused
        except ModelFileError as error:
            refused.append(error.message)
    if refused:
        raise ModelFileError(
            f"{folder}: no checkpoint is whole: {'; '.join(refused)}",
            hint="start anew in another folder",
        )
    return None
