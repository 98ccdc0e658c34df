"""Way 1: find the pictures in files, folders, globs, stdin and addresses.

A source that cannot be read is handed on like the others: whoever reads it gets the
error, and the rest is done. Nothing here waits on a pipe or follows a link in circles.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePath
from typing import BinaryIO

from resnext.errors import ConfigError

# Files with these names are handed on unopened; what is inside decides how they are read.
EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .gif .bmp .dib .webp .tif .tiff .ppm .pgm .pbm .pnm".split()
)
SIGNATURE_LENGTH = 32  # bytes at the start of a file that tell its format

_SIGNATURES = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "GIF": re.compile(rb"GIF8[79]a"),
    # The size of the header that follows tells it from a text that starts with "BM".
    "BMP": re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL),
    "WEBP": re.compile(rb"RIFF.{4}WEBPVP8[ LX]", re.DOTALL),
    "TIFF": re.compile(rb"II[*+]\0|MM\0[*+]"),
    "PPM": re.compile(rb"P[1-6][\s#]"),
}
_URL = re.compile(r"https?://", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """One picture to be, known by where it is.

    Args:
        name: Path or address, shown in results; `os.fsencode` gives the bytes of the path.
        problem: Why there is nothing to read, "" where reading can be tried.
    """

    name: str
    problem: str = ""

    @property
    def is_url(self) -> bool:
        """Whether it is an http or https address."""
        return _URL.match(self.name) is not None


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its picture.

    Args:
        format: As `sniff` names it.
        mode: Pillow's, such as "RGB", "CMYK" or "I;16".
        depth: Bits of a level: 1, 8, 16 or 32.
        alpha: Whether parts may be transparent.
        width: In pixels, as stored.
        height: In pixels, as stored.
        orientation: Exif's, of which 1 to 8 have a meaning; 0 where there is none.
    """

    format: str
    mode: str
    depth: int
    alpha: bool
    width: int
    height: int
    orientation: int


class NotAFileError(OSError):
    """What a path names is a folder, a pipe, a socket or a device."""


def iter_sources(
    inputs: Iterable[str | bytes | os.PathLike[str]],
    *,
    stdin: Iterable[str] | Iterable[bytes] | None = None,
) -> Iterator[Source]:
    """Find pictures, one by one: the first comes before the last has been looked for.

    A folder gives the pictures in it and in its subfolders, in the order of their names,
    without hidden ones; a glob (`*`, `?`, `[a-z]`, `**`) likewise. A name with a picture's
    extension is taken for one, another file if it starts like one.

    Args:
        inputs: Files, folders, globs, http(s) addresses; "-" for `stdin`.
        stdin: One input per line; by default the process's standard input.

    Yields:
        At least one source per input: a missing file, an empty folder or a glob without a
        match gives one that cannot be read.
    """
    if isinstance(inputs, str | bytes | os.PathLike):
        inputs = [inputs]
    for item in inputs:
        if item == "-":
            for line in sys.stdin.buffer if stdin is None else stdin:
                if "\0" in os.fsdecode(line):
                    raise ConfigError(
                        "standard input is no text; expected one path a line",
                        hint="give the picture itself as an argument",
                    )
                if name := os.fsdecode(line).rstrip("\r\n"):
                    yield from _expand(name)
        else:
            yield from _expand(os.fsdecode(item))


def locate(name: str) -> Source:
    """Return the source that one path or address names, without looking at it."""
    if _SCHEME.match(name) and not _URL.match(name) and not os.path.lexists(name):
        return Source(name, problem="is no path, and only http and https addresses are read")
    return Source(name)


def sniff(head: bytes) -> str | None:
    """Return the format that a file starting with these bytes has, or None.

    Args:
        head: The first `SIGNATURE_LENGTH` bytes, or all of a shorter file.

    Returns:
        "JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF" or "PPM".
    """
    return next((name for name, start in _SIGNATURES.items() if start.match(head)), None)


def open_file(path: str) -> BinaryIO:
    """Open a regular file for reading; anything else is refused without waiting for it.

    Raises:
        NotAFileError: It is a folder, a pipe, a socket or a device.
        OSError: It cannot be opened.
        ValueError: The path holds a null character.
    """
    _check_regular(os.stat(path).st_mode)  # opening a device may already do something
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = open(os.open(path, flags), "rb")
    try:
        _check_regular(os.fstat(file.fileno()).st_mode)  # it may have changed in between
    except OSError:
        file.close()
        raise
    return file


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((text for test, text in _KINDS if test(mode)), "no regular file")
        raise NotAFileError(f"is {kind}, not a file")


def _expand(name: str) -> Iterator[Source]:
    source = locate(name)
    if source.is_url or source.problem or os.path.isfile(name):
        yield source
    elif os.path.isdir(name):
        yield from _or_problem(_walk(name), name, "there are no pictures in this folder")
    elif glob.has_magic(name) and not os.path.lexists(name):
        yield from _or_problem(_glob(name), name, "no picture matches")
    else:
        yield source  # reading it says what is wrong


def _or_problem(found: Iterator[Source], name: str, problem: str) -> Iterator[Source]:
    first = next(found, Source(name, problem=problem))
    yield first
    yield from found


def _glob(name: str) -> Iterator[Source]:
    # Not glob.glob: with `**` it goes around in linked folders until names get too long.
    parts = PurePath(name).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    folder = os.path.join(*parts[:fixed]) if fixed else ""
    if os.path.isdir(folder or "."):
        yield from _walk(folder, parts[fixed:])


def _walk(top: str, pattern: tuple[str, ...] = ()) -> Iterator[Source]:
    """Yield the pictures below a folder whose path below it, or a part of that, matches."""
    visited: set[tuple[int, int]] = set()
    # No recursion: folders can be nested thousands deep.
    stack: list[tuple[tuple[str, ...], Iterator[os.DirEntry[str] | Source]]] = [
        ((), _list(top, visited))
    ]
    while stack:
        above, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        if isinstance(entry, Source):
            yield entry
            continue
        parts = (*above, entry.name)
        path = os.path.join(top, *parts)
        if _is_folder(entry):
            if _matches(parts, pattern, partly=True):
                stack.append((parts, _list(path, visited)))
        elif _matches(parts, pattern) and _is_picture(path, entry):
            yield Source(path)


def _list(folder: str, visited: set[tuple[int, int]]) -> Iterator[os.DirEntry[str] | Source]:
    """Return what is in a folder, sorted, unless it has been visited by another way."""
    try:
        status = os.stat(folder or ".")
        identity = (status.st_dev, status.st_ino)
        if identity in visited:
            return iter(())
        visited.add(identity)
        with os.scandir(folder or ".") as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        return iter([Source(folder, problem=f"cannot be listed: {error.strerror or error}")])
    return iter(sorted(shown, key=lambda entry: entry.name))


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...], *, partly: bool = False) -> bool:
    """Tell whether a path, or a folder above it, matches.

    Args:
        parts: The path, split.
        pattern: The pattern, split; "**" stands for any number of folders.
        partly: Whether it is enough that something below `parts` may match.
    """
    if not pattern:
        return True
    if not parts:
        return partly
    if pattern[0] == "**":
        return any(
            _matches(parts[skipped:], pattern[1:], partly=partly)
            for skipped in range(len(parts) + 1)
        )
    return fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:], partly=partly)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_picture(path: str, entry: os.DirEntry[str]) -> bool:
    if os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
        return True
    try:
        with open_file(path) as file:
            return sniff(file.read(SIGNATURE_LENGTH)) is not None
    except OSError:
        return False  # neither name nor content says that it is a picture
