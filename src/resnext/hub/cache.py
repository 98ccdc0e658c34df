"""The cache folder: which files are in it, and whether they are right.

    <cache_home>/weights/<catalogue name>/<file>            and hf-hub/<owner>--<repository>/
    <cache_home>/weights/.../<file>.json                    sha256, size, url, date
    <cache_home>/compiled/...                               graphs, the engines' business
    <cache_home>/features/..., datasets/...                 training's business
    <cache_home>/*.json                                     what was measured on this machine

Nothing here touches the network. A file is hashed whenever it is used: a bit that flipped
on the disk would load silently. A file copied in by hand is as good as a downloaded one.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from resnext.checkpoints.reader import Format, sha256_of
from resnext.errors import (
    ModelFileError,
    ModelNotFoundError,
    OutputError,
    WeightsCorruptError,
    closest,
)
from resnext.files import atomic

Kind = Literal["weights", "compiled", "features", "datasets", "measured"]

_HUB_FOLDER = "hf-hub"
_OTHERS: tuple[Kind, ...] = ("compiled", "features", "datasets")  # an entry for each child


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """One file that can be in the cache, and where else it is.

    Args:
        folder: Below `weights`, with forward slashes.
        filename: Its name there and at its source.
        format: How its bytes are read.
        sha256: Expected hash or the first digits of it, "" where unknown.
        hub_id: Hugging Face repository that has it, or None.
        revision: Branch, tag or commit of that repository.
        url: Address that has it, or None.
    """

    folder: str
    filename: str
    format: Format
    sha256: str = ""
    hub_id: str | None = None
    revision: str = "main"
    url: str | None = None

    @property
    def path(self) -> Path:
        """Where it is, or would be, in the cache."""
        return cache_home().joinpath("weights", *self.folder.split("/"), self.filename)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One thing in the cache; the size is in bytes, of all its files."""

    kind: Kind
    name: str
    path: Path
    size: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {**asdict(self), "path": str(self.path)}


def cache_home() -> Path:
    """Return `RESNEXT_HOME`, or the folder this platform has for caches."""
    if home := os.environ.get("RESNEXT_HOME"):
        return Path(home).expanduser()
    import platformdirs  # 3 ms, and only for this

    return platformdirs.user_cache_path("resnext")


def hub_folder(hub_id: str, revision: str) -> str:
    """Return the folder of a Hugging Face repository below `weights`."""
    name = hub_id if revision == "main" else f"{hub_id}@{revision}"
    return f"{_HUB_FOLDER}/{name.replace('/', '--')}"


def verify(file: RemoteFile) -> str | None:
    """Hash a file of the cache and compare with what it should be.

    Returns:
        Its sha256, or None where it is not there.

    Raises:
        WeightsCorruptError: It is there, and not what was promised.
    """
    path = file.path
    if not path.exists():
        return None
    try:
        found = sha256_of(path)
    except ModelFileError as error:
        raise WeightsCorruptError(error.message, hint=_mend(path)) from error
    stated = stated_hash(path)
    # The catalogue's hash goes first: whoever replaces a file by hand forgets what is beside.
    expected = file.sha256 or stated
    if not found.startswith(expected):
        raise WeightsCorruptError(
            f"{path}: not the promised file: its sha256 is {found[:16]}..., expected"
            f" {expected[:16]}...",
            hint=_mend(path),
        )
    if stated != found:  # copied here by hand: from now on a change shows
        record(file, found, url="")
    return found


def stated_hash(path: Path) -> str:
    """Return the sha256 that was noted beside a file, "" where none was."""
    try:
        noted = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return noted if isinstance(noted, str) else ""


def record(file: RemoteFile, sha256: str, *, url: str) -> None:
    """Note beside a file what it is and where it came from."""
    note = {
        "sha256": sha256,
        "size": file.path.stat().st_size,
        "url": url,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # The note saves doubt, not the file: a folder that is read-only does without.
    with contextlib.suppress(OutputError), atomic(f"{file.path}.json") as sidecar:
        sidecar.write(json.dumps(note, indent=1).encode())


def cached() -> tuple[Entry, ...]:
    """List what is in the cache, by kind and name."""
    home = cache_home()
    weights = [*_children(home / "weights"), *_children(home / "weights" / _HUB_FOLDER)]
    entries = [
        Entry(kind="weights", name=_name(path), path=path, size=size)
        for path in weights
        if path.name != _HUB_FOLDER and (size := _size(path))  # a lock alone is nothing
    ]
    entries += [
        Entry(kind=kind, name=path.name, path=path, size=_size(path))
        for kind in _OTHERS
        for path in _children(home / kind)
    ]
    entries += [
        Entry(kind="measured", name=path.name, path=path, size=_size(path))
        for path in _children(home)
        if path.suffix == ".json"
    ]
    return tuple(entries)


def remove(name: str) -> int:
    """Delete an entry, of whichever kind, or everything.

    Args:
        name: As `cached` lists it, or "all".

    Returns:
        Number of bytes that were freed.

    Raises:
        ModelNotFoundError: There is no such entry.
        OutputError: It cannot be deleted.
    """
    entries = cached()
    chosen = [entry for entry in entries if name in ("all", entry.name)]
    if not chosen and name != "all":
        near = closest(name, (entry.name for entry in entries))
        hint = f"did you mean {' or '.join(near)}?" if near else "`resnext cache` lists them"
        raise ModelNotFoundError(f"{name!r} is not in the cache {cache_home()}", hint=hint)
    for entry in chosen:
        try:
            import shutil  # 2 ms, and only for this

            shutil.rmtree(entry.path) if entry.path.is_dir() else entry.path.unlink()
        except OSError as error:
            raise OutputError(f"{entry.path}: cannot be deleted: {error.strerror}") from error
    return sum(entry.size for entry in chosen)


def _name(path: Path) -> str:
    if path.parent.name != _HUB_FOLDER:
        return path.name
    return f"{_HUB_FOLDER}:{path.name.replace('--', '/', 1)}"


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def _mend(path: Path) -> str:
    return f"delete {path}, or copy the right file there; online it is fetched again by itself"
