"""Logits on the disk, group by group, so that a killed run goes on.

    run.json         what is computed by what; another run never continues it
    logits.bin       float32 rows, one for each picture that can be read, in order
    groups.jsonl     one line a group: its pictures, the CRC-32 of its rows, what failed
    lock, owner.txt  of the process that works here, while it does

A group counts when its line is there whole and its rows have that sum. Memory is bounded:
rows are read from the disk as they are needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

import filelock
import numpy as np
from numpy.typing import NDArray

from resnext.errors import ConfigError, ImageError
from resnext.files import atomic, output_error

RUN, LOGITS, GROUPS = "run.json", "logits.bin", "groups.jsonl"
LOCK, OWNER = "lock", "owner.txt"

_VERSION = 2  # raised with every change to these files
_ITEM = np.dtype("<f4")

Row = NDArray[np.float32] | ImageError


@contextlib.contextmanager
def hold(folder: Path, who: str) -> Iterator[None]:
    """Keep other runs out of a folder, as long as its logits are written or looked at.

    Released by the system when the process dies.

    Args:
        folder: The folder; made if missing.
        who: What the run does, told to others who want the folder.

    Raises:
        ConfigError: Another run is at work there.
        OutputError: The folder cannot be written.
    """
    guard = filelock.FileLock(folder / LOCK, timeout=0)
    owner, since = folder / OWNER, time.strftime("%Y-%m-%d %H:%M:%S")
    text = f"{who}, process {os.getpid()} on {platform.node()} since {since}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(NotImplementedError):  # a disk without locks serves as well
            guard.acquire()
    except filelock.Timeout as error:
        raise _at_work(folder, owner) from error
    except OSError as error:
        raise output_error(folder, error) from error
    try:
        with atomic(owner) as file:
            file.write(text.encode(errors="replace"))
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        guard.release()


def count_kept(folder: Path) -> int:
    """Return how many pictures the journal of a folder has, 0 where there is none."""
    try:
        groups = [_parse(line) for line in (folder / GROUPS).read_bytes().splitlines(True)]
    except OSError:
        return 0
    return sum(group["count"] for group in groups if group)


class Journal:
    """The logits of a run so far; whoever opens one holds the folder.

    Args:
        folder: Where they are; made if missing.
        identity: What is computed by what, as plain JSON values.
        num_classes: Length K of a row.
        force: Begin anew, whatever is there.

    Raises:
        ConfigError: The folder has another run.
        OutputError: The folder cannot be written.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], num_classes: int, *, force: bool = False
    ) -> None:
        self._folder = folder
        self._num_classes = num_classes
        self.bad: dict[int, str] = {}  # why a picture has no logits, by its position
        self.learned: set[int] = set()  # positions of pictures that the model has learned from
        self.done = 0
        described = {"version": _VERSION, "classes": num_classes, **identity}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            known = _read_run(folder)
            if known is not None and known != described and not force:
                raise _another_run(folder, known, described)
            if force or known != described:
                self._begin(described)
            self._groups = open(folder / GROUPS, "r+b")
            self._logits = open(folder / LOGITS, "r+b")
            self._resume()
        except OSError as error:
            if isinstance(error, ConfigError):
                raise
            raise output_error(folder, error) from error

    def append(self, rows: Sequence[Row], *, learned: Collection[int] = ()) -> None:
        """Add the next group, which is then on the disk.

        Args:
            rows: For each of its pictures (K,) logits, or why it has none.
            learned: Places in the group of those that the model is known to have learned from.

        Raises:
            OutputError: It cannot be written.
        """
        content = b"".join(
            row.astype(_ITEM).tobytes() for row in rows if not isinstance(row, ImageError)
        )
        bad = [[place, row.reason] for place, row in enumerate(rows) if isinstance(row, ImageError)]
        line = {
            "count": len(rows),
            "crc32": zlib.crc32(content),
            "bad": bad,
            "learned": sorted(learned),
        }
        try:
            _write(self._logits, content)
            _write(self._groups, json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise output_error(self._folder / LOGITS, error) from error
        self._count(line)

    def logits(self) -> NDArray[np.float32]:
        """Return the rows of the pictures so far that are not `bad`, read as they are needed."""
        shape = (self.done - len(self.bad), self._num_classes)
        if not shape[0]:
            return np.empty(shape, np.float32)
        return np.memmap(self._folder / LOGITS, _ITEM, mode="r", shape=shape)

    def close(self) -> None:
        """Close the files."""
        self._groups.close()
        self._logits.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _count(self, group: Mapping[str, Any]) -> None:
        self.bad.update((self.done + place, reason) for place, reason in group["bad"])
        self.learned.update(self.done + place for place in group["learned"])
        self.done += group["count"]

    def _begin(self, described: Mapping[str, Any]) -> None:
        for name in (GROUPS, LOGITS):
            with open(self._folder / name, "wb"):
                pass
        # Last: what is in the other files belongs to what this one says.
        with atomic(self._folder / RUN) as file:
            file.write(json.dumps(described, indent=1).encode() + b"\n")

    def _resume(self) -> None:
        """Count the whole groups, and cut off what a killed process left after them."""
        size = self._num_classes * _ITEM.itemsize
        lines = rows = 0  # bytes of whole groups
        for line in self._groups:
            group = _parse(line)
            if group is None:
                break
            length = (group["count"] - len(group["bad"])) * size
            content = self._logits.read(length)
            if len(content) != length or zlib.crc32(content) != group["crc32"]:
                break
            self._count(group)
            lines, rows = lines + len(line), rows + length
        for file, end in ((self._groups, lines), (self._logits, rows)):
            file.seek(end)
            file.truncate()


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return a group's line, or None where it is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        group = json.loads(line)
    except ValueError:
        return None
    keys = {"count", "crc32", "bad", "learned"}
    return group if isinstance(group, dict) and keys <= set(group) else None


def _read_run(folder: Path) -> Any:
    try:
        return json.loads((folder / RUN).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def _at_work(folder: Path, owner: Path) -> ConfigError:
    try:
        who = f": {owner.read_text('utf-8', errors='replace')}"
    except OSError:  # it has only begun, or has just ended
        who = ""
    return ConfigError(
        f"{folder}: another run is at work there{who}",
        hint="wait until it has ended, or choose another folder with -o",
    )


def _another_run(
    folder: Path, known: Mapping[str, Any], described: Mapping[str, Any]
) -> ConfigError:
    keys = sorted(key for key in {*known, *described} if known.get(key) != described.get(key))
    return ConfigError(
        f"{folder} has the logits of another run: other {', '.join(keys)}",
        hint="choose another folder, or begin anew with --force",
    )
