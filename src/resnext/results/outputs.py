"""Way 5, the far end: a file that grows until it is complete, or a stream.

`files.atomic` is for files written in one go. A long run needs more: what was done
before an interruption is worth keeping, under `<name>.partial`.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from resnext.errors import OutputError
from resnext.files import output_error, sync_folder, temporary_name


class OutputFile:
    """A file that takes its name at `commit`; until then the old one stays.

    A device or pipe, such as `/dev/stdout`, cannot be replaced and is written directly.

    Args:
        path: The final name; its folder must exist. A link is followed, not replaced.

    Raises:
        OutputError: The file cannot be created.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._target = self.path
        self._temporary: Path | None = None
        with self.naming_errors():
            mode = _mode_of(self.path)
            if stat.S_ISREG(mode):  # a pipe behind /dev/stdout has no path of its own
                self._target = Path(os.path.realpath(path))
            if stat.S_ISDIR(mode):
                raise OutputError(f"{self.path} is a folder; expected the name of a file")
            if not self._target.parent.is_dir():
                folder = self.path.parent
                raise OutputError(f"there is no folder {folder}", hint=f"mkdir -p '{folder}'")
            if stat.S_ISREG(mode):
                # Short, so that it fits where the final name does.
                self._temporary = self._target.with_name(temporary_name())
            self.raw = _create(self._temporary or self._target, mode)

    def append(self, data: str | bytes | memoryview) -> None:
        """Add text, as UTF-8, or bytes: all of it or, on any exception, nothing.

        Raises:
            OutputError: It cannot be written, for instance because the disk is full.
        """
        with self.naming_errors():
            start = self.raw.tell() if self._temporary else None
            try:
                self.raw.write(data.encode() if isinstance(data, str) else data)
            except BaseException:
                if start is not None:
                    self.raw.seek(start)
                    self.raw.truncate()
                raise

    def commit(self) -> None:
        """Give the file its final name, safely on the disk.

        Raises:
            OutputError: The disk or the rename failed.
        """
        self._rename(self._target)

    def keep(self) -> Path | None:
        """Name what was written `<name>.partial`; None where that is impossible.

        Returns:
            The file: behind a link, where the link leads.
        """
        partial = self._target.with_name(f"{self._target.name}.partial")
        try:
            self._rename(partial)
        except OutputError:
            self.discard()
            return None
        if not self._temporary:
            return None
        return partial if self.path.is_symlink() else self.path.with_name(partial.name)

    def discard(self) -> None:
        """Remove what was written."""
        with suppress(OSError):
            self.raw.close()
        if self._temporary:
            self._temporary.unlink(missing_ok=True)

    @contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Turn an OSError of the block into an OutputError that names the file."""
        try:
            yield
        except OutputError:
            raise
        except OSError as error:
            raise output_error(self.path, error) from error

    def _rename(self, target: Path) -> None:
        with self.naming_errors():
            if not self.raw.closed:  # after a failed commit, `keep` finds it closed
                if self._temporary:
                    os.fsync(self.raw.fileno())
                self.raw.close()
            if self._temporary:
                os.replace(self._temporary, target)
                sync_folder(target.parent)


class OutputStream:
    """A text stream of the caller: flushed after every piece, never closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def append(self, text: str) -> None:
        """Write text and flush it.

        Raises:
            BrokenPipeError: The reader went away.
            OutputError: It cannot be written for another reason.
        """
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"the output cannot be written: {error.strerror}") from error

    def commit(self) -> None:
        """Do nothing: everything is flushed already."""

    def keep(self) -> None:
        """Do nothing: what was written cannot be taken back."""

    def discard(self) -> None:
        """Do nothing: what was written cannot be taken back."""


class _WholeFile(io.FileIO):
    """An unbuffered file whose `write` does not stop half way.

    Unbuffered, so that a full disk shows at the row it hits, not at some later flush.
    """

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            rest = rest[super().write(rest) :]
        return size


def _mode_of(path: Path) -> int:
    """Return type and permissions of a file, as if regular where it does not exist."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return stat.S_IFREG


def _create(path: Path, mode: int) -> _WholeFile:
    if not stat.S_ISREG(mode):
        return _WholeFile(path, "wb")
    raw = _WholeFile(path, "xb")
    if permissions := stat.S_IMODE(mode):
        os.chmod(path, permissions)
    return raw
