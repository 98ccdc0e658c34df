"""Write files that appear whole or not at all.

Every file the package writes goes through `atomic`: a temporary file in the same folder,
flush, fsync, rename, fsync of the folder. The old file stays intact until the rename.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from resnext.errors import ConfigError, OutputError

_MODELS = {".safetensors", ".pth", ".pt", ".pt2", ".th", ".onnx", ".xml", ".bin"}
_PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_START = 256  # bytes
# Whoever hashes waits for the interpreter twice a chunk while another thread imports: few chunks.
_CHUNK = 4 << 20


class Digest(Protocol):
    """What takes bytes in, such as `hashlib.sha256()`."""

    def update(self, data: memoryview, /) -> object:
        """Take more bytes in."""


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str], *, size: int | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the name `path` when the block ends well.

    On any exception the temporary file is removed and `path` is left as it was.

    Args:
        path: The final name; its folder must exist.
        size: Bytes that will be written, where that is known: said when the disk is full.

    Raises:
        OutputError: The folder is missing, not writable or full.
    """
    target = Path(path)
    # Short, so that it fits where the final name does.
    temporary = target.with_name(temporary_name())
    try:
        # Not tempfile, whose files are private: a result is as readable as any new file.
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        _remove(temporary)
        if isinstance(error, OutputError):
            raise
        raise output_error(target, error, needed=size) from error
    except BaseException:
        _remove(temporary)
        raise


def temporary_name() -> str:
    """Return a name for a file that nobody else has; the cache removes those left behind."""
    return f".resnext-{os.urandom(8).hex()}.tmp"  # `secrets` takes 5 ms of a start to import


def hash_rest(file: BinaryIO, digest: Digest) -> None:
    """Take in what a file has from here to its end."""
    # Read, not mapped: a fault of the disk is then an error, not the end of the process.
    chunk = memoryview(bytearray(_CHUNK))
    while size := file.readinto(chunk):  # type: ignore[attr-defined]
        digest.update(chunk[:size])


def check_place(path: Path) -> None:
    """Look, before long work, whether a file can be written.

    Raises:
        OutputError: Its folder is missing or read-only, or it is a folder itself.
    """
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent}", hint=f"mkdir -p '{path.parent}'")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; expected the name of a file")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(
            f"{path}: cannot be written: the folder is read-only",
            hint="choose another place",
        )


def check_replaceable(
    path: Path, *, inputs: Iterable[str | os.PathLike[str]] = (), mark: bytes = b""
) -> None:
    """Look, before long work, whether a result may take this name.

    A result can be made again, and replaces what is there, but no model and nothing it is made
    from.

    Args:
        path: The name.
        inputs: Files that are read for it.
        mark: What the first bytes of a file have in them that may be replaced in any case.

    Raises:
        ConfigError: What is there is a model file, or an input, or a picture in a folder of
            inputs.
        OutputError: What is there cannot be read.
    """
    if not path.exists():
        return
    folders = path.resolve().parents if path.suffix.lower() in _PICTURES else ()
    for name in filter(os.path.exists, inputs):
        if path.samefile(name) or Path(name).resolve() in folders:
            raise ConfigError(f"{path} is both a file to read and the output")
    if path.suffix.lower() not in _MODELS or not path.is_file():
        return
    try:
        with open(path, "rb") as file:
            start = file.read(_START)
    except OSError as error:
        raise output_error(path, error) from error
    if not mark or mark not in start:
        raise ConfigError(
            f"{path} is there, and has the name of a model: no result replaces it",
            hint="choose another name",
        )


def output_error(path: Path, error: OSError, *, needed: int | None = None) -> OutputError:
    """Say why `path` cannot be written, with the space left where that is the reason."""
    reason = error.strerror or str(error)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"{path}: cannot be written: {reason}", hint="choose another place with -o"
        )
    import shutil  # 2 ms, and only for this

    free = shutil.disk_usage(path.parent).free
    need = f", {needed / 1e6:.1f} MB needed" if needed is not None else ""
    return OutputError(
        f"{path}: the disk is full ({free / 1e6:.1f} MB free{need})",
        hint="free some space or choose another disk; what was there before is unchanged",
    )


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the platform can."""
    if os.name != "posix":
        return  # Windows cannot open a folder to sync it.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
