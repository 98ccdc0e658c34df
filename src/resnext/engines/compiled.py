"""Cache of compiled networks: files found, checked, written, bounded.

One file per network, runtime, processor and setting: the runtime's bytes, then 24 bytes
that tell whether they are whole. A file that is not is removed and made again; a folder
that cannot be written costs a warning and a slower start, never an answer. Processes may
share the folder: files appear whole, and one that is removed stays readable to who has it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import time
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resnext.errors import OutputError
from resnext.files import atomic

MAX_BYTES = 2 << 30  # of all files together; the newest is kept even if it is larger

_SUFFIX = ".blob"
_MAGIC = b"resnext3"
_TRAILER = struct.Struct("<8sQQ")  # magic, bytes before it, their checksum
_ROW = 8192  # words of 8 bytes
_ABANDONED = 24 * 3600  # s; a temporary file this old has no writer any more

Blob = npt.NDArray[np.uint8]


def make_key(facts: Mapping[str, Any]) -> str:
    """Hash everything that a compiled network depends on to a file name."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class CompiledCache:
    """Compiled networks in one folder.

    Args:
        folder: Where they are; made when the first one is stored.
        max_bytes: What they may take together; the least recently used go first.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes

    def load(self, key: str) -> Blob | None:
        """Map a stored network into memory.

        Args:
            key: What `make_key` gave.

        Returns:
            Its bytes, which must outlive whatever refers to them, or None where there is
            none. A damaged one is removed.
        """
        path = self._path(key)
        if not path.is_file():
            return None
        body = _map_whole(path)
        if body is None:
            self.discard(key)
            return None
        with contextlib.suppress(OSError):  # a folder that can only be read still serves
            os.utime(path)
        return body

    def store(self, key: str, blob: bytes | memoryview) -> None:
        """Write a compiled network; where that cannot be done, warn and go on.

        Args:
            key: What `make_key` gave.
            blob: The bytes the runtime exported.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic(self._path(key)) as file:
                file.write(blob)
                file.write(_TRAILER.pack(_MAGIC, len(blob), _checksum(blob)))
            self._prune(keep=self._path(key))
        except (OutputError, OSError) as error:
            reason = error.message if isinstance(error, OutputError) else str(error)
            warnings.warn(
                f"the compiled network is not cached, every start compiles it again: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )

    def discard(self, key: str) -> None:
        """Remove a stored network, such as one that the runtime does not take."""
        _remove(self._path(key))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _prune(self, *, keep: Path) -> None:
        """Remove the least recently used files beyond the bound, and abandoned ones."""
        entries, now = [], time.time()
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process may be pruning too
                status = path.stat()
                if path.name.startswith(".") and now - status.st_mtime > _ABANDONED:
                    path.unlink()
                elif path.suffix == _SUFFIX and path != keep:
                    entries.append((status.st_mtime, status.st_size, path))
        room = self.max_bytes - keep.stat().st_size
        for _, size, path in sorted(entries, reverse=True):
            room -= size
            if room < 0:
                _remove(path)


def _map_whole(path: Path) -> Blob | None:
    """Map a file and check its trailer; None if it is not what was written."""
    try:
        # Copy on write: runtimes want a writable buffer, the file stays as it is.
        content: Blob = np.memmap(path, dtype=np.uint8, mode="c")
    except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
        return None
    if len(content) <= _TRAILER.size:
        return None
    body, trailer = content[: -_TRAILER.size], content[-_TRAILER.size :]
    expected = _TRAILER.pack(_MAGIC, len(body), _checksum(body.data))
    return body if trailer.tobytes() == expected else None


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _checksum(content: bytes | memoryview) -> int:
    # Against accidents, not attackers, who could as well change this package, and a start waits
    # for it: sums of 64 KiB, which any change of one word changes, and a CRC-32 of these, which
    # their order does. 9 GB/s; a CRC-32 of everything is 2.2, SHA-256 1.3 (a Xeon, 2026-11-22).
    words = np.frombuffer(content, np.uint64, len(content) // 8)
    rows = words[: len(words) // _ROW * _ROW].reshape(-1, _ROW)
    rest = content[rows.nbytes :]
    return zlib.crc32(np.add.reduce(rows, axis=1, dtype=np.uint64)) << 32 | zlib.crc32(rest)
